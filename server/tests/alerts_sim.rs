//! A simulated world around the real journal, the real sessions and the real client core: a network that cuts and
//! delays, a disk that fails, power cuts, kills, clients that are away. Afterwards everything is healed, and what was
//! accepted must have reached every identity's application exactly once, in order, and nothing else.
//!
//! What happens is drawn from a seed, which is printed when a run fails; `TICKCAST_SIM_SEEDS` is how many are run
//! (60 when it is not set), `TICKCAST_SIM_SEED` runs one. The journal has a thread of its own, so a power cut may
//! hit it at a slightly other moment when a seed is run again.

#[path = "../journal/tests/common/disk.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for the journal's own tests")]
mod disk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::RandomState;
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use disk::{Disk, Fault, OnDisk, OpKind};
use tickcast::alerts::{Alerts, Keep, Kept, Limits};
use tickcast::auth::Denied;
use tickcast::ingest::{Published, Refusal, Wishes};
use tickcast::metrics::Metrics;
use tickcast::net::websocket::CloseReason;
use tickcast::session::{Acknowledge, BinarySession, Desk, Post, Postbox, Terms};
use tickcast_client::{Backoff, ClientEvent, Close, Core, CoreOptions, Identity, Link, SubscribeOptions};
use tickcast_engine::{
    Condition, Delivery, Engine, EngineConfig, Event, Format, Notify, Render, Shard, Subscribe,
    SubscribeError, Subscribed,
};
use tickcast_journal::{Health, Settings};
use tickcast_protocol::frame::{self, Frame};
use tickcast_protocol::message::{Message, SourceStatus, View};
use tickcast_protocol::{
    BootId, Class, Epoch, ErrorCode, Predicate, SubscriptionId, Topic, TopicFilter, registry,
};

const IDENTITIES: usize = 3;
const SECOND: u64 = 1_000_000_000;
/// Steps of the storm.
const STEPS: usize = 400;

struct NoRender;

impl Render for NoRender {
    fn event(&self, _: &Event, _: Format) -> Option<Bytes> {
        None
    }

    fn control(&self, _: &Message, _: Option<&Topic>, _: Format) -> Option<Bytes> {
        None
    }
}

struct NoBell;

impl Notify for NoBell {
    fn notify(&self) {}
}

/// The server, as long as it lives.
struct Server {
    alerts: Arc<Alerts>,
    /// Never turned: what is delivered live is not looked at here.
    _shards: Vec<Shard>,
}

/// The boot it came from, the message's id, and what was said of it.
type Answer = (u64, String, Result<Kept, Refusal>);
type Posts = Arc<Mutex<VecDeque<(u64, Post)>>>;

/// One connection, both ends' bytes included.
struct Connection {
    number: u64,
    session: BinarySession,
    to_client: VecDeque<Bytes>,
    to_server: VecDeque<Vec<u8>>,
}

struct Client {
    core: Core,
    connection: Option<Connection>,
    /// Away until this step.
    away_until: usize,
    /// Told and not acknowledged.
    unhandled: VecDeque<u64>,
    /// Positions and ids, in the order in which the application got them.
    handled: Vec<(u64, String)>,
}

/// What the publisher knows of one message.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    OnItsWay,
    Unknown,
    Accepted { position: u64 },
}

struct World {
    random: fastrand::Rng,
    now: u64,
    disk: Disk,
    server: Option<Server>,
    boots: u64,
    connections: u64,
    posts: Posts,
    clients: Vec<Client>,
    fates: BTreeMap<String, Fate>,
    /// Answers as they came, with the boot they came from.
    answers: Arc<Mutex<Vec<Answer>>>,
    /// The disk as it was at the start of the server, where a disk that lies goes back to when power is cut.
    lie: Option<Disk>,
    lies: bool,
    /// What happened, for who has to find out.
    tally: BTreeMap<&'static str, u64>,
}

/// What a session reaches.
struct FakeDesk<'a> {
    alerts: Arc<Alerts>,
    posts: &'a Posts,
    number: u64,
    now: u64,
    out: &'a mut VecDeque<Bytes>,
}

impl Desk for FakeDesk<'_> {
    fn subscribe(
        &mut self,
        _: Subscribe,
        acknowledge: Acknowledge<'_>,
    ) -> Result<Subscribed, SubscribeError> {
        let subscribed =
            Subscribed { subscription: SubscriptionId(1), epoch: Epoch(1), streams: 0, already: false };
        self.out.extend(acknowledge(&subscribed));
        Ok(subscribed)
    }

    fn unsubscribe(&mut self, _: SubscriptionId, _: Acknowledge<'_>) -> bool {
        false
    }

    fn configure(&mut self, _: SubscriptionId, _: &Delivery, _: Acknowledge<'_>) -> bool {
        false
    }

    fn condition(&self, predicate: Predicate) -> Condition {
        Condition::new(predicate, &RandomState::new())
    }

    fn set_format(&mut self, _: Format) {}

    fn publish(&mut self, _: &Frame<'_>, _: Wishes<'_>, _: Option<u64>) -> Result<Published, Refusal> {
        panic!("subscribers do not publish")
    }

    fn alerts(&self) -> Option<Arc<Alerts>> {
        Some(Arc::clone(&self.alerts))
    }

    fn postbox(&self) -> Postbox {
        let (posts, number) = (Arc::clone(self.posts), self.number);
        Postbox::new(move |post| posts.lock().expect("unpoisoned").push_back((number, post)))
    }

    fn leave_out_critical(&mut self) {}

    fn has_room(&mut self) -> bool {
        // A socket that takes four messages until they are read.
        self.out.len() < 4
    }

    fn has_acknowledged(&mut self, _: usize) {}

    fn vouch(&mut self, _: SourceStatus, _: &[Topic], _: u32) -> Result<(), Refusal> {
        Ok(())
    }

    fn skip(&mut self, _: &str, _: u64) -> Result<(), Refusal> {
        panic!("subscribers do not skip")
    }

    fn begun(&self) -> u64 {
        0
    }

    fn distributed(&self) -> u64 {
        0
    }

    fn may_publish(&self) -> Result<(), Denied> {
        Ok(())
    }

    fn may_subscribe(&self, _: &TopicFilter) -> Result<(), Denied> {
        Ok(())
    }

    fn accept_publisher(&mut self) {}

    fn say(&mut self, message: Bytes) {
        self.out.push_back(message);
    }

    fn count_error(&self, _: ErrorCode) {}

    fn count_limit(&self, _: &'static str) {}

    fn now(&self) -> u64 {
        self.now
    }
}

/// The payload of a WebSocket message as a server sends it.
fn unframed(message: &Bytes) -> Bytes {
    let head = match message[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    message.slice(head..)
}

fn terms() -> Rc<Terms> {
    Rc::new(Terms {
        boot_id: 1,
        heartbeat_ms: 0,
        subscriptions_max: 16,
        inbound_bytes: 4_096,
        publisher_bytes: 65_536,
        strikes_max: 20,
        json_depth: 8,
        codecs: 0,
    })
}

impl World {
    fn new(seed: u64) -> Self {
        let clients = (0..IDENTITIES).map(|number| {
            let mut core = Core::new(CoreOptions {
                identity: Some(Identity {
                    name: format!("desk-{number}"),
                    token: format!("secret-{number}"),
                }),
                backoff: Backoff {
                    first: Duration::from_millis(50),
                    longest: Duration::from_millis(500),
                    stable_after: Duration::from_secs(10),
                },
                seed: seed + number as u64,
                ..CoreOptions::default()
            });
            core.subscribe(
                TopicFilter::parse("risk_alert.**").expect("a filter"),
                SubscribeOptions::default(),
            );
            core.connect(0);
            let (unhandled, handled) = (VecDeque::new(), Vec::new());
            Client { core, connection: None, away_until: 0, unhandled, handled }
        });
        Self {
            random: fastrand::Rng::with_seed(seed),
            now: 1_000 * SECOND,
            disk: Disk::default(),
            server: None,
            boots: 0,
            connections: 0,
            posts: Posts::default(),
            clients: clients.collect(),
            fates: BTreeMap::new(),
            answers: Arc::default(),
            lie: None,
            lies: false,
            tally: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.lie = self.lies.then(|| Disk::of(self.disk.bytes()));
        let notifies = vec![Arc::new(NoBell) as Arc<dyn Notify>];
        let config = EngineConfig { ring_slots: 64, ..EngineConfig::default() };
        let (epoch, boot) = (Epoch(self.boots), BootId(self.boots));
        let (engine, shards) = Engine::new(config, epoch, boot, Arc::new(NoRender), notifies);
        let settings = Settings {
            ack_delay: Duration::ZERO,
            reopen_pause: (Duration::from_millis(1), Duration::from_millis(2)),
            cache_bytes: 1 << 20,
            reserve_bytes: 0,
            ..Settings::new("unused")
        };
        let opener = Box::new(OnDisk { quick_repair: true, ..OnDisk::new(&self.disk) });
        let (limits, metrics) = (Limits { identities: 100 }, Arc::new(Metrics::default()));
        let opened = Alerts::open_with(settings, opener, limits, metrics, &engine, &RandomState::new());
        match opened {
            Ok(alerts) => self.server = Some(Server { alerts: Arc::new(alerts), _shards: shards }),
            // The disk fails at the start: it is tried again later, as a supervisor does.
            Err(_) => self.count("starts that failed"),
        }
    }

    /// The machine loses power, or only the process is killed.
    fn crash(&mut self, power: bool) {
        let Some(server) = self.server.take() else { return };
        // What the publisher was told by now counts, and nothing after it.
        self.hear_answers();
        self.disk = match self.lie.take() {
            Some(before) if power => before,
            _ if power => self.disk.cut(),
            _ => Disk::of(self.disk.bytes()),
        };
        self.boots += 1;
        self.posts.lock().expect("unpoisoned").clear();
        for at in 0..self.clients.len() {
            self.cut(at);
        }
        for fate in self.fates.values_mut().filter(|fate| **fate == Fate::OnItsWay) {
            *fate = Fate::Unknown;
        }
        // On a disk that nobody looks at any more.
        server.alerts.close();
        self.count(if power { "power cuts" } else { "kills" });
    }

    fn cut(&mut self, at: usize) {
        if self.clients[at].connection.take().is_some() {
            self.clients[at].core.closed(Close::new(1006_u16, "cut"), self.now);
        }
    }

    /// Waits until the journal has got through everything that was ordered before.
    fn settle(&self) {
        let Some(server) = &self.server else { return };
        let (sender, answered) = channel();
        server.alerts.waiting(Box::new(move |_| {
            let _ = sender.send(());
        }));
        let _ = answered.recv();
    }

    fn hear_answers(&mut self) {
        let heard = std::mem::take(&mut *self.answers.lock().expect("unpoisoned"));
        for (boot, id, answer) in heard {
            if boot != self.boots {
                continue;
            }
            let fate = self.fates.get_mut(&id).expect("it was published");
            *fate = match answer {
                Ok(kept) => Fate::Accepted { position: kept.position },
                Err(refusal) => {
                    let may_come = [ErrorCode::NotDurable, ErrorCode::Unavailable];
                    assert!(may_come.contains(&refusal.code), "{id}: {refusal:?}");
                    Fate::Unknown
                }
            };
        }
    }

    fn publish(&mut self, id: &str) {
        let Some(server) = &self.server else { return };
        let Message::RiskAlert(mut alert) =
            Message::sample(registry::by_name("risk_alert").expect("known"), false)
        else {
            panic!("risk_alert")
        };
        alert.scope = "desk".to_owned();
        alert.message = id.to_owned();
        let (payload, header) = frame::payload(&Message::RiskAlert(alert));
        let view = View::access(header.type_id, &payload, header.root_len).expect("ours");
        let mut facts = view.facts(&RandomState::new());
        facts.class = Class::Critical;
        let topic = Topic::parse("risk_alert.desk").expect("a topic");
        let keep = Keep {
            publisher: "risk",
            id,
            topic: &topic,
            header: &header,
            payload: &payload,
            facts: &facts,
            expires_at: 0,
            collapse_key: "",
            said: &[],
            now: self.now,
        };
        let (answers, boot, own) = (Arc::clone(&self.answers), self.boots, id.to_owned());
        let answer = move |outcome| answers.lock().expect("unpoisoned").push((boot, own, outcome));
        server.alerts.publish(&keep, Box::new(answer));
        self.fates.insert(id.to_owned(), Fate::OnItsWay);
    }

    /// Lets a session act, and ends its connection if it says so.
    fn with_session(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut BinarySession, &mut dyn Desk) -> Result<(), CloseReason>,
    ) {
        let Some(server) = &self.server else { return };
        let Some(connection) = &mut self.clients[at].connection else { return };
        let mut desk = FakeDesk {
            alerts: Arc::clone(&server.alerts),
            posts: &self.posts,
            number: connection.number,
            now: self.now,
            out: &mut connection.to_client,
        };
        if act(&mut connection.session, &mut desk).is_err() {
            // Replaced by a newer connection, which cannot be: each client has one.
            panic!("a session ended its connection");
        }
    }

    /// What the journal's thread had to say to sessions.
    fn deliver_posts(&mut self) {
        loop {
            let post = self.posts.lock().expect("unpoisoned").pop_front();
            let Some((number, post)) = post else { return };
            let of = |client: &Client| client.connection.as_ref().is_some_and(|known| known.number == number);
            if let Some(at) = self.clients.iter().position(of) {
                self.with_session(at, |session, desk| session.post(post, desk));
            }
        }
    }

    /// Everything that needs no luck: clients dial, and bytes that are due go on.
    fn run_client(&mut self, at: usize, step: usize) {
        let now = self.now;
        let up = self.server.is_some();
        let client = &mut self.clients[at];
        client.core.tick(now);
        while let Some(link) = client.core.poll_link() {
            match link {
                Link::Dial if up && client.away_until <= step => {
                    self.connections += 1;
                    let number = self.connections;
                    let session = BinarySession::new(terms(), number, Epoch(1));
                    let (to_client, to_server) = (VecDeque::new(), VecDeque::new());
                    client.connection = Some(Connection { number, session, to_client, to_server });
                    client.core.connected(now);
                }
                Link::Dial => client.core.closed(Close::new(1006_u16, "nobody there"), now),
                Link::HangUp(_) => client.connection = None,
            }
        }
        if let Some(connection) = &mut client.connection {
            while let Some(bytes) = client.core.poll_transmit(now) {
                connection.to_server.push_back(bytes);
            }
        }
        while let Some(event) = client.core.poll_event() {
            match event {
                ClientEvent::Critical(critical) => {
                    let Ok(Message::RiskAlert(alert)) = critical.message() else { panic!("{critical:?}") };
                    assert_eq!(alert.message, critical.id, "the content of its id");
                    client.handled.push((critical.position, critical.id.clone()));
                    client.unhandled.push_back(critical.position);
                }
                ClientEvent::Violation(violation) => panic!("{violation:?}"),
                _ => {}
            }
        }
    }

    fn bytes_to_server(&mut self, at: usize) {
        let next =
            self.clients[at].connection.as_mut().and_then(|connection| connection.to_server.pop_front());
        if let Some(bytes) = next {
            self.with_session(at, |session, desk| session.message(&bytes, desk));
        }
    }

    fn bytes_to_client(&mut self, at: usize) {
        let now = self.now;
        let client = &mut self.clients[at];
        let next = client.connection.as_mut().and_then(|connection| connection.to_client.pop_front());
        if let Some(bytes) = next {
            client.core.received(unframed(&bytes), now);
            self.with_session(at, |session, desk| session.send(desk));
        }
    }

    fn acknowledge(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if let Some(position) = client.unhandled.pop_front() {
            client.core.acknowledge([position]);
        }
    }

    fn step(&mut self, step: usize) {
        let at = self.random.usize(..IDENTITIES);
        match self.random.u32(..100) {
            0..=14 => {
                let id = format!("id-{}", self.fates.len());
                self.publish(&id);
            }
            15..=19 => {
                let lost = self.fates.iter().find(|(_, fate)| **fate == Fate::Unknown);
                if let Some(id) = lost.map(|(id, _)| id.clone()) {
                    self.publish(&id);
                    self.count("published again");
                }
            }
            20..=49 => self.bytes_to_client(at),
            50..=69 => self.bytes_to_server(at),
            70..=79 => self.acknowledge(at),
            80..=84 => {
                // Up to past the time for an acknowledgement.
                self.now += self.random.u64(1..12 * SECOND);
                self.with_session(at, |session, desk| session.send(desk));
            }
            85..=89 => {
                self.cut(at);
                self.count("connections cut");
            }
            90..=91 => self.clients[at].away_until = step + self.random.usize(..100),
            92..=93 => {
                let kind =
                    [OpKind::Write, OpKind::Sync, OpKind::SetLen, OpKind::Read][self.random.usize(..4)];
                let (after, times) = (self.random.u64(..20), self.random.u64(1..4));
                let error = std::io::ErrorKind::StorageFull;
                self.disk.fail(Some(Fault { kind, after, error, times }));
                self.count("faults of the disk");
            }
            94 => self.crash(true),
            95 => self.crash(false),
            _ => self.settle(),
        }
        if self.server.is_none() && self.random.u32(..10) == 0 {
            self.boot();
        }
        self.go_on(step);
    }

    fn go_on(&mut self, step: usize) {
        self.now += SECOND / 100;
        self.deliver_posts();
        self.hear_answers();
        (0..IDENTITIES).for_each(|at| self.run_client(at, step));
    }

    /// Everything works again: all that is due must come to an end.
    fn heal(&mut self) {
        self.disk.fail(None);
        for step in 0.. {
            assert!(step < 20_000, "it does not come to rest: {:?}", self.tally);
            if self.server.is_none() {
                self.boot();
            }
            let lost = self.fates.iter().find(|(_, fate)| **fate == Fate::Unknown).map(|(id, _)| id.clone());
            if let Some(id) = lost {
                self.publish(&id);
            }
            self.settle();
            for at in 0..IDENTITIES {
                self.clients[at].away_until = 0;
                self.bytes_to_server(at);
                self.bytes_to_client(at);
                self.acknowledge(at);
                self.now += SECOND / 20;
                self.with_session(at, |session, desk| session.send(desk));
            }
            self.go_on(usize::MAX);
            let all = self.fates.values().all(|fate| matches!(fate, Fate::Accepted { .. }));
            let got =
                |client: &Client| client.handled.len() >= self.fates.len() && client.unhandled.is_empty();
            if all && self.clients.iter().all(got) {
                break;
            }
        }
    }

    fn judge(&mut self) {
        let accepted: BTreeMap<u64, &str> = self
            .fates
            .iter()
            .map(|(id, fate)| match fate {
                Fate::Accepted { position } => (*position, id.as_str()),
                other => panic!("{id}: {other:?}"),
            })
            .collect();
        assert_eq!(accepted.len(), self.fates.len(), "I2: no position is given twice");
        for (at, client) in self.clients.iter().enumerate() {
            let positions: Vec<u64> = client.handled.iter().map(|(position, _)| *position).collect();
            assert!(positions.windows(2).all(|two| two[0] < two[1]), "I6, I5: desk-{at}: {positions:?}");
            let got: BTreeSet<_> = client.handled.iter().map(|(at, id)| (*at, id.as_str())).collect();
            let wanted: BTreeSet<_> = accepted.iter().map(|(at, id)| (*at, *id)).collect();
            assert_eq!(got, wanted, "desk-{at}: all that was accepted, and nothing else");
        }
    }

    /// Acknowledgements are on disk in the end, and none was invented (I9): counts of every message.
    fn judge_journal(&mut self) {
        for _ in 0..2_000 {
            for at in 0..IDENTITIES {
                self.bytes_to_server(at);
                self.bytes_to_client(at);
            }
            self.settle();
            self.go_on(usize::MAX);
            let (sender, answer) = channel();
            let server = self.server.as_ref().expect("up");
            server.alerts.waiting(Box::new(move |waiting| drop(sender.send(waiting))));
            let waiting = answer.recv().expect("answered").expect("a disk that works");
            if waiting.iter().all(|(_, count)| *count == 0) {
                let Health { trouble, damaged, .. } = server.alerts.health();
                assert_eq!((trouble, damaged), (None, 0));
                return;
            }
        }
        panic!("something still waits although everything was acknowledged");
    }
}

fn run(seed: u64, lies: bool) -> (usize, BTreeMap<&'static str, u64>) {
    let mut world = World::new(seed);
    world.boot();
    world.lies = lies;
    // All identities are known, and have subscribed, before anything is published.
    for step in 0.. {
        assert!(step < 1_000, "nobody could subscribe");
        for at in 0..IDENTITIES {
            world.bytes_to_server(at);
            world.bytes_to_client(at);
        }
        world.settle();
        world.go_on(usize::MAX);
        let is_live = |client: &Client| {
            client.core.subscription_state(tickcast_client::SubscriptionKey(1))
                == tickcast_client::SubscriptionState::Live
        };
        if world.clients.iter().all(is_live) {
            break;
        }
    }
    for step in 0..STEPS {
        world.step(step);
    }
    world.heal();
    world.judge();
    world.judge_journal();
    if let Some(server) = world.server.take() {
        server.alerts.close();
    }
    (world.fates.len(), world.tally)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn what_was_accepted_reaches_everyone_once_through_cuts_crashes_and_disks_that_fail() {
    let seeds = match setting("TICKCAST_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + setting("TICKCAST_SIM_SEEDS").unwrap_or(60),
    };
    let (mut accepted, mut tally) = (0, BTreeMap::<&str, u64>::new());
    for seed in seeds.clone() {
        let found = std::panic::catch_unwind(|| run(seed, false));
        let (messages, happened) =
            found.unwrap_or_else(|_| panic!("TICKCAST_SIM_SEED={seed} shows it again"));
        accepted += messages;
        for (what, count) in happened {
            *tally.entry(what).or_default() += count;
        }
    }
    println!(
        "seeds {seeds:?}: {accepted} messages accepted and received once by each of {IDENTITIES}; {tally:?}"
    );
    if seeds.end - seeds.start >= 60 {
        for what in ["power cuts", "kills", "connections cut", "faults of the disk", "published again"] {
            assert!(tally.get(what).is_some_and(|count| *count > 0), "{what} happened: {tally:?}");
        }
    }
}

#[test]
fn a_disk_that_keeps_nothing_is_found_out() {
    // Only what it finds is wanted, not the words it finds it with.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (1..=10).filter(|seed| std::panic::catch_unwind(|| run(*seed, true)).is_err()).count();
    std::panic::set_hook(loud);
    assert!(found >= 5, "a disk that goes back to where it was is noticed in {found} of 10 runs");
}
