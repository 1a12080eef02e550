//! A reader that was written from SPEC alone, in another language, follows a live server and checks the
//! account of every stream as it goes.

mod common;

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use common::{PATIENCE, Raw, TestServer, tick};
use serde_json::Value;
use tickcast_protocol::message::{Message, Role};

/// Events the reader is asked for.
const EVENTS: usize = 200;
/// The reader gives up on a server that is silent for three beats: two seconds allow for a busy machine.
const LIVELY: &[(&str, &str)] = &[("heartbeat.interval", "700ms")];
const SYMBOLS: [&str; 3] = ["BTCUSDT", "ETHUSDT", "desk-7.SOL"];

/// The reader while it runs; killed when the test ends before it does.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the reader printed: events on stdout, the account in words on stderr.
struct Followed {
    events: Vec<Value>,
    account: String,
}

impl Reader {
    fn follow(address: SocketAddr, filter: &str, predicate: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/spec_reader.py");
        let child = Command::new("python3")
            .arg(script)
            .args(["follow", &format!("ws://{address}/ws"), filter, &EVENTS.to_string(), predicate])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap_or_else(|error| {
            panic!("python3 cannot be started ({error}): install Python 3.9 or newer as `python3`, the reader needs nothing else")
        }))
    }

    /// Everything that comes through one of its pipes, read as it comes: a full pipe would stop it.
    fn drain(pipe: impl Read + Send + 'static) -> JoinHandle<String> {
        thread::spawn(move || std::io::read_to_string(pipe).expect("text"))
    }
}

/// Starts a reader, lets `publish` go on round by round until the reader has seen enough, and returns
/// what it saw.
fn follow(server: &TestServer, publish: impl FnMut(&TestServer, u64)) -> Followed {
    follow_if(server, "", publish)
}

/// The same, of what passes `predicate`.
fn follow_if(server: &TestServer, predicate: &str, mut publish: impl FnMut(&TestServer, u64)) -> Followed {
    let mut reader = Reader::follow(server.address(), "market_data.**", predicate);
    let events = Reader::drain(reader.0.stdout.take().expect("piped"));
    let account = Reader::drain(reader.0.stderr.take().expect("piped"));
    let began = Instant::now();
    let mut round = 0;
    let status = loop {
        if let Some(status) = reader.0.try_wait().expect("waits") {
            break status;
        }
        if round > 0 || server.metric("tickcast_shard_subscriptions") == 1.0 {
            round += 1;
            publish(server, round);
        }
        assert!(began.elapsed() < PATIENCE, "the reader does not end after {round} rounds");
        thread::yield_now();
    };
    let (events, account) = (events.join().expect("no panic"), account.join().expect("no panic"));
    assert!(status.success(), "{status}: {account}");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), EVENTS, "{account}");
    Followed { events, account }
}

/// Publishes one tick of each symbol; its price is the round.
fn ticks(server: &TestServer, round: u64) {
    for symbol in SYMBOLS {
        server.publish(&tick(symbol, &format!("{round}.10")));
    }
}

/// Sequences of one symbol, in the order they came.
fn sequences(read: &Followed, symbol: &str) -> Vec<u64> {
    let of = read.events.iter().filter(|event| event["data"]["symbol"] == symbol);
    of.map(|event| event["sequence"].as_u64().expect("a sequence")).collect()
}

#[test]
fn a_reader_from_the_page_follows_a_calm_server_without_a_gap() {
    let server = TestServer::start(LIVELY);
    // No more than it asked for: nothing can be conflated.
    let read = follow(&server, |server, round| {
        if round <= EVENTS as u64 / 3 + 1 {
            ticks(server, round);
        }
    });
    assert!(read.account.contains("200 received and 0 told on 3 streams"), "{}", read.account);
    for symbol in SYMBOLS {
        let sequences = sequences(&read, symbol);
        assert!(sequences.iter().copied().eq(1..=sequences.len() as u64), "{symbol}: {sequences:?}");
    }
    // Exact digits, in another language.
    for event in &read.events {
        let round = event["sequence"].as_u64().expect("a sequence");
        assert_eq!(event["data"]["price"].to_string(), format!("{round}.1"), "{event}");
        assert_eq!(
            event["topic"],
            format!("market_data.{}", event["data"]["symbol"].as_str().expect("text"))
        );
    }
}

#[test]
fn a_reader_from_the_page_accounts_for_what_the_source_skipped() {
    let server = TestServer::start(LIVELY);
    let mut watch = Raw::binary(server.address(), Role::SUBSCRIBER);
    let read = follow(&server, |server, round| {
        if round > EVENTS as u64 / 3 + 1 {
            return;
        }
        if round == 20 {
            server.running.ingest().skip("market_data.BTCUSDT", 1_000_000).expect("a sound skip");
        }
        if round == 40 {
            // Between two beats of this client lies one of the reader's, with its heads and sums.
            for _ in 0..2 {
                while !matches!(watch.message(), Message::Heartbeat(_)) {}
            }
        }
        ticks(server, round);
    });
    assert!(read.account.contains("200 received and 1000000 told on 3 streams"), "{}", read.account);
    let btc = sequences(&read, "BTCUSDT");
    assert!(btc[..19].iter().copied().eq(1..=19), "{btc:?}");
    assert_eq!(btc[19], 1_000_020, "the hole has used up its sequences: {btc:?}");
    let eth = sequences(&read, "ETHUSDT");
    assert!(eth.iter().copied().eq(1..=eth.len() as u64), "the others have no hole: {eth:?}");
}

#[test]
fn a_reader_from_the_page_accounts_for_a_flood_it_cannot_keep_up_with() {
    let small = [("outbox.events", "16"), ("ring.slots", "64"), ("history.events", "1")];
    let server = TestServer::start(&[LIVELY, &small].concat());
    let read = follow(&server, ticks);
    for symbol in SYMBOLS {
        let sequences = sequences(&read, symbol);
        assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{symbol}: {sequences:?}");
    }
}

#[test]
fn a_reader_from_the_page_accounts_for_what_a_filter_leaves_out() {
    let server = TestServer::start(LIVELY);
    let mut watch = Raw::binary(server.address(), Role::SUBSCRIBER);
    let read = follow_if(&server, "symbol in (BTCUSDT, ETHUSDT) and price>20", |server, round| {
        if round == 60 {
            // With nothing under way, the reader compares the server's sums with its own.
            let began = server.running.ingest().now() as i64;
            let mut beats = 0;
            while beats < 3 {
                // Some may have waited since before.
                let message = watch.message();
                let Message::Heartbeat(heartbeat) = message else { continue };
                beats += u32::from(heartbeat.server_time.0 > began);
            }
        }
        if round <= EVENTS as u64 / 2 + 25 {
            ticks(server, round);
        }
    });
    for symbol in &SYMBOLS[..2] {
        let sequences = sequences(&read, symbol);
        assert!(sequences.iter().copied().eq(20..20 + sequences.len() as u64), "{symbol}: {sequences:?}");
    }
    assert!(sequences(&read, SYMBOLS[2]).is_empty());
    // 19 of each of the first two, and at least what the beats told of the third.
    let numbers = read.account.split(|c: char| !c.is_ascii_digit()).filter_map(|text| text.parse().ok());
    let [received, told, streams, filtered, compared] = numbers.collect::<Vec<u64>>()[..] else {
        panic!("{}", read.account)
    };
    assert_eq!((received, streams), (200, 3), "{}", read.account);
    assert!(told == filtered && filtered >= 38 + 59 && compared > 0, "{}", read.account);
}
