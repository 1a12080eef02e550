//! The server is killed again and again, at random and at every failpoint of its journal, while publishers publish
//! alerts and recipients acknowledge them. Afterwards what everybody wrote down for themselves is compared: what
//! was accepted reached every recipient's application exactly once, in order, and nothing else did.
//!
//! Three kinds of processes that share nothing but sockets. No harness: the program runs itself as publishers and
//! recipients, and is the executioner. Each process appends what it was told to a file of its own, which nobody
//! reads before the end.
//!
//! `TICKCAST_KILLS` is how often (200 when it is not set); `TICKCAST_SEED` repeats the choice of places and pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tickcast_client::{
    Backoff, Client, ClientEvent, ClientOptions, Identity, Outcome, PublishOptions, SubscribeOptions,
};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Durability, Message, Role};
use tickcast_protocol::{ErrorCode, registry};

const PUBLISHERS: usize = 2;
/// Messages that a publisher has on their way at once.
const AT_ONCE: usize = 8;
const RECIPIENTS: usize = 3;
const TOPICS: usize = 2;
/// How long the last deliveries may take once the server is left alone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Places that are reached while a server serves and starts; the others need a disk that fails.
const PLACES: &[&str] = &[
    "batch_begin",
    "batch_applied_one",
    "batch_before_commit",
    "file_write",
    "file_before_sync",
    "file_after_sync",
    "file_set_len",
    "committed",
    "before_reply",
    "after_reply",
    "open_directory",
    "open_made",
    "open_file",
    "open_format",
    "open_state",
    "prune",
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["publisher", url, number, folder] => run(publish(url, number, Path::new(folder))),
        ["recipient", url, number, folder] => run(receive(url, number, Path::new(folder))),
        // What cargo test passes on is of no use here.
        _ => execute(),
    }
}

fn run(role: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(role);
}

fn options(url: &str, seed: &str) -> ClientOptions {
    let mut options = ClientOptions::new(url);
    options.core.backoff = Backoff {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(100),
        stable_after: Duration::from_secs(10),
    };
    options.core.seed = seed.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
    options
}

/// A file that one process appends to.
fn diary(folder: &Path, name: &str) -> File {
    OpenOptions::new().create(true).append(true).open(folder.join(name)).expect("a diary")
}

// ---------------------------------------------------------------------------------------------
// A publisher: every message until it is accepted, each under its id

async fn publish(url: &str, number: &str, folder: &Path) {
    let mut options = options(url, number);
    options.core.role = Role::PUBLISHER;
    options.core.name = format!("publisher-{number}");
    options.core.reply_timeout = Duration::from_secs(5);
    let (client, _events) = Client::start(options).expect("a sound address");
    let lanes = (0..AT_ONCE).map(|lane| publish_lane(&client, number, lane, folder));
    let mut lanes: Vec<_> = lanes.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        lanes.retain_mut(|lane| lane.as_mut().poll(context).is_pending());
        if lanes.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    File::create(folder.join(format!("publisher-{number}.done"))).expect("a file");
}

async fn publish_lane(client: &Client, number: &str, lane: usize, folder: &Path) {
    let mut diary = diary(folder, &format!("publisher-{number}-{lane}.txt"));
    let mut count = 0;
    while !folder.join("enough").exists() {
        count += 1;
        let id = format!("{number}-{lane}-{count}");
        writeln!(diary, "submitted {id}").expect("written");
        let mut tries = 0;
        loop {
            tries += 1;
            let options =
                PublishOptions { id: id.clone(), durability: Durability::DISK, ..PublishOptions::default() };
            let outcome = match client.publish_acked(&alert(lane % TOPICS, &id), options).await {
                Ok(outcome) => outcome,
                Err(error) => panic!("{id}: {error}"),
            };
            match outcome {
                Outcome::Accepted { position, sequence, duplicate, queued, .. } => {
                    let how = if duplicate { "duplicate" } else { "accepted" };
                    assert!(duplicate || queued as usize == RECIPIENTS, "{id} waits for {queued}");
                    writeln!(diary, "{how} {id} {position} {sequence} {tries}").expect("written");
                    break;
                }
                Outcome::Refused(error) => {
                    let may_come = [ErrorCode::Unavailable, ErrorCode::NotDurable].map(ErrorCode::number);
                    assert!(may_come.contains(&error.code), "{id}: {error}");
                    writeln!(diary, "refused {id}").expect("written");
                }
                // Sent or not, nobody knows: the same id makes it safe to say again.
                _ => writeln!(diary, "unknown {id}").expect("written"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn alert(topic: usize, id: &str) -> Message {
    let Message::RiskAlert(mut alert) =
        Message::sample(registry::by_name("risk_alert").expect("known"), false)
    else {
        panic!("risk_alert")
    };
    alert.scope = format!("desk-{topic}");
    alert.message = id.to_owned();
    // The same at every try, or it would be another message under the same id.
    alert.ts = Timestamp(1);
    Message::RiskAlert(alert)
}

// ---------------------------------------------------------------------------------------------
// A recipient: writes down what it was given, then acknowledges it

async fn receive(url: &str, number: &str, folder: &Path) {
    let mut diary = diary(folder, &format!("recipient-{number}.txt"));
    let mut options = options(url, number);
    options.core.identity =
        Some(Identity { name: format!("desk-{number}"), token: format!("secret-{number}") });
    let (client, mut events) = Client::start(options).expect("a sound address");
    client.watch("risk_alert.**", SubscribeOptions::default()).expect("a sound filter");
    while let Some(event) = events.next().await {
        match event {
            ClientEvent::Acknowledged { .. } => {
                File::create(folder.join(format!("recipient-{number}.ready"))).expect("a file");
            }
            ClientEvent::Critical(critical) => {
                let message = match critical.message() {
                    Ok(Message::RiskAlert(alert)) => alert.message,
                    other => panic!("{other:?}"),
                };
                assert_eq!(message, critical.id, "the content is the one of its id");
                let (position, sequence, attempt) = (critical.position, critical.sequence, critical.attempt);
                let (topic, repeats) = (&critical.topic, client.stats().repeats);
                writeln!(diary, "{position} {topic} {sequence} {attempt} {} {repeats}", critical.id)
                    .expect("written");
                client.acknowledge([position]);
            }
            _ => {}
        }
    }
}

// ---------------------------------------------------------------------------------------------
// The executioner

/// A process that ends with this one.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    folder: TempDir,
    port: u16,
}

impl Stage {
    fn role(&self, role: &str, number: usize) -> Ours {
        let own = std::env::current_exe().expect("this program");
        let url = format!("ws://127.0.0.1:{}/ws", self.port);
        let child = Command::new(own)
            .args([role, &url, &number.to_string()])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .spawn();
        Ours(child.expect("starts"))
    }

    fn server(&self, failpoint: Option<(&str, u64)>) -> Ours {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tickcast"));
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--set", "server.shards=1", "--set", "log.level=error"])
            // So that removal is reached as well.
            .args(["--set", "journal.retention=1s", "--set", "journal.remember_ids=1h"])
            .env("TICKCAST_JOURNAL__DIRECTORY", self.folder.path().join("journal"))
            .env_remove("TICKCAST_FAILPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some((place, count)) = failpoint {
            command.env("TICKCAST_FAILPOINT", format!("{place}:{count}"));
        }
        Ours(command.spawn().expect("starts"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wait_for(&self, name: &str) {
        let began = Instant::now();
        while !self.path(name).exists() {
            assert!(began.elapsed() < PATIENCE, "waited in vain for {name}");
            sleep(Duration::from_millis(5));
        }
    }

    fn lines(&self, name: &str) -> Vec<Vec<String>> {
        let Ok(file) = File::open(self.path(name)) else { return Vec::new() };
        let lines = BufReader::new(file).lines().map(|line| line.expect("text"));
        lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn execute() {
    let cycles = setting("TICKCAST_KILLS", 200);
    let seed = setting("TICKCAST_SEED", fastrand::u64(1..1 << 32));
    println!("seed {seed}: TICKCAST_SEED={seed} TICKCAST_KILLS={cycles} repeats the choices");
    let mut random = fastrand::Rng::with_seed(seed);
    let began = Instant::now();
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let stage = Stage { folder: TempDir::new().expect("a directory"), port };

    // Everybody who is to get everything is known first.
    let server = stage.server(None);
    let recipients: Vec<_> = (0..RECIPIENTS).map(|number| stage.role("recipient", number)).collect();
    (0..RECIPIENTS).for_each(|number| stage.wait_for(&format!("recipient-{number}.ready")));
    let publishers: Vec<_> = (0..PUBLISHERS).map(|number| stage.role("publisher", number)).collect();
    sleep(Duration::from_millis(200));
    drop(server);

    let mut at_places = BTreeMap::<&str, u64>::new();
    for cycle in 0..cycles {
        // Two of three at a failpoint, the rest at random: also while it starts.
        let place = (cycle % 3 > 0).then(|| PLACES[random.usize(..PLACES.len())]);
        let count = if place.is_some_and(|place| place.starts_with("open_")) { 1 } else { random.u64(1..60) };
        let mut server = stage.server(place.map(|place| (place, count)));
        let until = Instant::now() + Duration::from_millis(random.u64(20..450));
        let mut died = false;
        while Instant::now() < until && !died {
            died = server.0.try_wait().expect("can be asked").is_some();
            sleep(Duration::from_millis(2));
        }
        if died {
            *at_places.entry(place.unwrap_or("by itself")).or_default() += 1;
        }
        // kill -9, for those that are still there.
        drop(server);
    }
    assert!(!at_places.contains_key("by itself"), "a server ended without being killed");

    // The storm is over: everything must arrive.
    let server = stage.server(None);
    File::create(stage.path("enough")).expect("a file");
    (0..PUBLISHERS).for_each(|number| stage.wait_for(&format!("publisher-{number}.done")));
    drop(publishers);
    let verdict = Verdict::of(&stage);
    let delivered_to = |number: usize| stage.lines(&format!("recipient-{number}.txt")).len();
    let calm = Instant::now();
    while (0..RECIPIENTS).any(|number| delivered_to(number) < verdict.accepted.len()) {
        if calm.elapsed() > PATIENCE {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    // Time for anything that should not come.
    sleep(Duration::from_millis(500));
    drop(recipients);
    drop(server);
    let placed: u64 = at_places.values().sum();
    println!(
        "{placed} of {cycles} kills at failpoints: {at_places:?}; {:.0} s",
        began.elapsed().as_secs_f64()
    );
    verdict.compare(&stage, cycles);
}

/// What publishers were told.
struct Verdict {
    submitted: BTreeSet<String>,
    /// Position and sequence, by id.
    accepted: BTreeMap<String, (u64, u64)>,
    /// Times that a message was published again and was known.
    known_again: u64,
}

impl Verdict {
    fn of(stage: &Stage) -> Self {
        let mut verdict = Self { submitted: BTreeSet::new(), accepted: BTreeMap::new(), known_again: 0 };
        for number in 0..PUBLISHERS {
            for lane in 0..AT_ONCE {
                for line in stage.lines(&format!("publisher-{number}-{lane}.txt")) {
                    let id = line[1].clone();
                    match line[0].as_str() {
                        "submitted" => assert!(verdict.submitted.insert(id), "an id is submitted once"),
                        how @ ("accepted" | "duplicate") => {
                            verdict.known_again += u64::from(how == "duplicate");
                            let number = |at: usize| line[at].parse::<u64>().expect("a number");
                            let twice = verdict.accepted.insert(id, (number(2), number(3)));
                            assert!(twice.is_none(), "a publisher stops when it is accepted");
                        }
                        _ => {}
                    }
                }
            }
        }
        assert_eq!(verdict.submitted.len(), verdict.accepted.len(), "every message was accepted in the end");
        verdict
    }

    fn compare(&self, stage: &Stage, cycles: u64) {
        let (mut delivered, mut suppressed, mut lost, mut phantom, mut misordered) = (0, 0, 0, 0, 0);
        let positions: BTreeSet<u64> = self.accepted.values().map(|(position, _)| *position).collect();
        assert_eq!(positions.len(), self.accepted.len(), "no position is given twice");
        for number in 0..RECIPIENTS {
            let (mut seen, mut last, mut repeats) = (BTreeSet::new(), 0, 0);
            let mut sequences = BTreeMap::<String, u64>::new();
            for line in stage.lines(&format!("recipient-{number}.txt")) {
                let value = |at: usize| line[at].parse::<u64>().expect("a number");
                let (position, topic, sequence, id) = (value(0), &line[1], value(2), &line[4]);
                delivered += 1;
                repeats = value(5);
                if self.accepted.get(id) != Some(&(position, sequence)) || !seen.insert(position) {
                    println!("desk-{number}: {line:?} was never accepted so, or was delivered twice");
                    phantom += 1;
                }
                let next = sequences.entry(topic.clone()).or_default();
                if position <= last || sequence != *next + 1 {
                    println!("desk-{number}: {line:?} comes after position {last}, sequence {next}");
                    misordered += 1;
                }
                (last, *next) = (position, sequence);
            }
            suppressed += repeats;
            for missing in positions.difference(&seen) {
                println!("desk-{number}: position {missing} was accepted and never delivered");
                lost += 1;
            }
        }
        let accepted = self.accepted.len();
        println!(
            "cycles={cycles}, accepted={accepted}, delivered={delivered}, duplicates suppressed={suppressed} \
             (published again and known: {}), lost={lost}, phantom={phantom}, misordered={misordered}",
            self.known_again
        );
        assert!(accepted > 0 && delivered == accepted * RECIPIENTS, "something was published and delivered");
        assert_eq!((lost, phantom, misordered), (0, 0, 0));
        let _ = fs::remove_file(stage.path("enough"));
    }
}
