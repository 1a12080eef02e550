//! Who asks for less gets less, and is told exactly how much less: filters, rates and policies over
//! sockets, each changeable in place, with accounts that balance and sums that agree.

mod common;

use common::{BINARY, CLOSE, PATIENCE, Raw, TestServer, tick};
use std::time::Instant;
use tickcast_client::{
    Account, ClientEvent, Core, CoreOptions, Delivery, GapReason, SubscribeOptions, SubscriptionKey,
};
use tickcast_protocol::frame::{Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Configure, Message, NoticeKind, Policy, Reason, Role, Start, Subscribe};
use tickcast_protocol::{ErrorCode, Predicate, TopicFilter};

/// Heartbeats come often: they tell what filters left out last, and the sums.
const LIVELY: &[(&str, &str)] =
    &[("server.shards", "1"), ("heartbeat.interval", "50ms"), ("limits.idle_timeout", "1h")];

/// The client's core on a blocking socket.
struct Follower {
    raw: Raw,
    core: Core,
    began: Instant,
    /// Symbol and price of every tick, in order.
    ticks: Vec<(String, String)>,
    gaps: Vec<GapReason>,
    pongs: usize,
}

impl Follower {
    fn connect(server: &TestServer) -> Self {
        let mut raw = Raw::connect(server.address(), "/ws", Some("tickcast.v2")).expect("upgrades");
        raw.answers_pings = true;
        let mut core = Core::new(CoreOptions::default());
        core.connect(0);
        core.connected(0);
        let began = Instant::now();
        let mut follower = Self { raw, core, began, ticks: Vec::new(), gaps: Vec::new(), pongs: 0 };
        follower.pump(|follower| follower.core.stats().connections == 1);
        follower
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Sends and reads until `reached` says yes.
    fn pump(&mut self, mut reached: impl FnMut(&Self) -> bool) {
        loop {
            let now = self.now();
            while let Some(bytes) = self.core.poll_transmit(now) {
                self.raw.send(BINARY, &bytes);
            }
            while let Some(event) = self.core.poll_event() {
                match event {
                    ClientEvent::Data(data) => {
                        let Ok(Message::MarketData(tick)) = data.view().map(|view| view.to_owned()) else {
                            panic!("a tick")
                        };
                        self.ticks.push((tick.symbol, tick.price.expect("a price").to_string()));
                    }
                    ClientEvent::Gap(gap) => self.gaps.push(gap.reason),
                    ClientEvent::Pong { .. } => self.pongs += 1,
                    ClientEvent::Violation(violation) => panic!("{violation}"),
                    ClientEvent::ServerError(error) => panic!("{error}"),
                    _ => {}
                }
            }
            if reached(self) {
                return;
            }
            assert!(self.began.elapsed() < PATIENCE, "waited in vain: {:?}", self.core.totals());
            let arrived = self.raw.next();
            let now = self.now();
            self.core.received(arrived.payload, now);
        }
    }

    fn subscribe(&mut self, filter: &str, options: SubscribeOptions) -> SubscriptionKey {
        let key = self.core.subscribe(TopicFilter::parse(filter).unwrap(), options);
        self.answered();
        key
    }

    /// Waits for the answer to what was asked so far: that to a ping comes behind it.
    fn answered(&mut self) {
        let pongs = self.pongs;
        self.pump(|_| true);
        let now = self.now();
        self.core.ping(now);
        self.pump(|follower| follower.pongs > pongs);
    }

    /// Reads until this many events are accounted for, and checks that every account balances.
    fn settled(&mut self, key: SubscriptionKey, events: u64) -> Account {
        self.pump(|follower| follower.sum(key).settled() == events);
        assert!(self.core.accounts(key).all(|(.., account)| account.balances()));
        if self.sum(key).filtered + self.sum(key).conflated > 0 {
            // Sums are told once nothing waits, with the next beat.
            self.pump(|follower| follower.core.stats().compared > 0);
        }
        assert_eq!((self.core.stats().unexplained, self.core.stats().miscounted), (0, 0));
        self.sum(key)
    }

    fn sum(&self, key: SubscriptionKey) -> Account {
        let mut sum = Account::default();
        self.core.accounts(key).for_each(|(.., account)| sum += account);
        sum
    }

    fn prices(&self, symbol: &str) -> Vec<&str> {
        self.ticks.iter().filter(|(of, _)| of == symbol).map(|(_, price)| price.as_str()).collect()
    }
}

fn filtered_by(predicate: &str) -> SubscribeOptions {
    SubscribeOptions { predicate: Some(Predicate::parse(predicate).unwrap()), ..SubscribeOptions::default() }
}

#[test]
fn only_what_passes_comes_and_the_rest_is_counted() {
    let server = TestServer::start(LIVELY);
    let mut dear = Follower::connect(&server);
    let mut of_a = Follower::connect(&server);
    let mut all = Follower::connect(&server);
    let dear_key = dear.subscribe("market_data.*", filtered_by("price>100"));
    let a_key = of_a.subscribe("market_data.*", filtered_by("symbol in (A, X)"));
    let all_key = all.subscribe("market_data.*", SubscribeOptions::default());
    for price in 1..=200 {
        server.publish(&tick("A", &price.to_string()));
        server.publish(&tick("B", &(201 - price).to_string()));
    }
    let account = dear.settled(dear_key, 400);
    assert_eq!((account.published, account.received, account.filtered), (400, 200, 200));
    let wanted: Vec<String> = (101..=200).map(|price| price.to_string()).collect();
    assert_eq!(dear.prices("A"), wanted);
    assert!(dear.prices("B").iter().rev().eq(&wanted));
    let account = of_a.settled(a_key, 400);
    assert_eq!((account.received, account.filtered), (200, 200));
    assert_eq!((of_a.prices("A").len(), of_a.prices("B").len()), (200, 0));
    let account = all.settled(all_key, 400);
    assert_eq!((account.received, account.filtered), (400, 0));
    assert!(dear.gaps.is_empty() && of_a.gaps.is_empty(), "what was not asked for is no loss");
}

#[test]
fn snapshot_and_replay_pass_through_the_filter() {
    let server = TestServer::start(LIVELY);
    for price in [50, 150, 60] {
        server.publish(&tick("A", &price.to_string()));
        server.publish(&tick("B", &(price + 100).to_string()));
    }
    let mut follower = Follower::connect(&server);
    let options = SubscribeOptions { start: Start::SNAPSHOT, ..filtered_by("price>100") };
    let key = follower.subscribe("market_data.*", options);
    follower.pump(|follower| !follower.ticks.is_empty());
    assert_eq!((follower.prices("A").len(), follower.prices("B")), (0, vec!["160"]));

    // Away, and back: what passed meanwhile comes, the rest is counted.
    server.publish(&tick("A", "101"));
    follower.settled(key, 1);
    follower.core.reconnect(0);
    while follower.core.poll_link().is_some() {}
    for price in [1, 102, 2, 103, 3] {
        server.publish(&tick("A", &price.to_string()));
    }
    follower.raw = Raw::connect(server.address(), "/ws", Some("tickcast.v2")).expect("upgrades");
    let now = follower.now();
    follower.core.connected(now);
    follower.ticks.clear();
    let account = follower.settled(key, 6);
    assert_eq!(follower.prices("A"), ["102", "103"]);
    assert_eq!((account.published, account.received, account.filtered), (6, 3, 3));
}

#[test]
fn filter_and_rate_are_changed_in_place_and_the_account_goes_on() {
    let server = TestServer::start(LIVELY);
    let mut follower = Follower::connect(&server);
    let key = follower.subscribe("market_data.*", filtered_by("symbol=A"));
    let publish = |from: u32| {
        for price in from..from + 10 {
            server.publish(&tick("A", &price.to_string()));
            server.publish(&tick("B", &price.to_string()));
        }
    };
    publish(1);
    follower.settled(key, 20);
    let only_b = Delivery { predicate: Some(Predicate::parse("symbol=B").unwrap()), ..Delivery::default() };
    follower.core.configure(key, only_b);
    follower.answered();
    publish(11);
    follower.settled(key, 40);
    follower.core.configure(key, Delivery::default());
    follower.answered();
    publish(21);
    let account = follower.settled(key, 60);
    assert_eq!((account.published, account.received, account.filtered), (60, 40, 20));
    assert_eq!((follower.prices("A").len(), follower.prices("B").len()), (20, 20));
    assert_eq!((follower.prices("A")[10], follower.prices("B")[0]), ("21", "11"));
    // Slowed down to one in a hundred seconds: the first comes, of the rest the newest waits.
    follower.core.configure(key, Delivery { max_hz: 0.01, ..Delivery::default() });
    follower.answered();
    publish(31);
    follower.pump(|follower| follower.ticks.len() == 42);
    // And let go: what waits comes at once, and what it replaced is told.
    follower.core.configure(key, Delivery::default());
    let account = follower.settled(key, 80);
    assert_eq!((account.received, account.conflated), (44, 16));
    assert_eq!(follower.prices("A")[20..], ["31", "40"]);
    assert_eq!(follower.gaps, [GapReason::Rate; 2]);
}

#[test]
fn everyone_of_one_rate_gets_the_newest_and_no_more_than_asked_for() {
    let server = TestServer::start(LIVELY);
    let options = || SubscribeOptions { max_hz: 20.0, ..SubscribeOptions::default() };
    let mut followers: Vec<Follower> = (0..3).map(|_| Follower::connect(&server)).collect();
    let keys: Vec<_> =
        followers.iter_mut().map(|follower| follower.subscribe("market_data.*", options())).collect();
    assert_eq!(server.metric("tickcast_shard_groups"), 1.0, "they share one group, and what waits in it");
    let began = Instant::now();
    for price in 1..=300 {
        server.publish(&tick("A", &price.to_string()));
    }
    for (follower, key) in followers.iter_mut().zip(keys) {
        let account = follower.settled(key, 300);
        let most = 2 + began.elapsed().as_millis() as u64 / 50;
        assert!(account.received <= most, "{account:?} in {:?}", began.elapsed());
        assert_eq!(account.received + account.conflated, 300);
        assert_eq!(follower.prices("A").last(), Some(&"300"), "the newest is never lost");
    }
}

#[test]
fn critical_events_never_wait_for_a_rate() {
    let server = TestServer::start(LIVELY);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.say(&Message::Subscribe(Subscribe {
        request: 1,
        filter: "alert.*".into(),
        start: Start::LIVE,
        policy: Policy::CONFLATE,
        predicate: "severity>=info".into(),
        max_hz: 0.01,
    }));
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    for _ in 0..20 {
        server.publish(&common::sample("alert"));
    }
    let sequences: Vec<u64> = frames(&mut raw, |_| false, 20).iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, (1..=20).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    let server = TestServer::start(LIVELY);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    let subscribe = |predicate: &str, max_hz: f64| {
        Message::Subscribe(Subscribe {
            request: 7,
            filter: "market_data.*".into(),
            start: Start::LIVE,
            policy: Policy::DEFAULT,
            predicate: predicate.into(),
            max_hz,
        })
    };
    let refused = |raw: &mut Raw, message: &Message, code: ErrorCode, field: &str, says: &str| {
        raw.say(message);
        let Message::Error(error) = raw.message() else { panic!("refused") };
        assert_eq!((error.request, error.code, error.field.as_str()), (7, code.number(), field), "{error:?}");
        assert!(error.message.contains(says), "{}", error.message);
    };
    let filter = ErrorCode::InvalidFilter;
    refused(&mut raw, &subscribe("price>", 0.0), filter, "predicate", "byte 6");
    refused(&mut raw, &subscribe("colour=red", 0.0), filter, "predicate", "colour");
    refused(&mut raw, &subscribe(&"x".repeat(2_100), 0.0), filter, "predicate", "2048");
    let field = ErrorCode::InvalidField;
    for max_hz in [0.009, 1_000.1, -1.0] {
        refused(&mut raw, &subscribe("", max_hz), field, "max_hz", "0.01 to 1000");
    }
    // A change that is refused changes nothing.
    raw.say(&subscribe("symbol=A", 0.0));
    let Message::Acknowledge(acknowledge) = raw.message() else { panic!("acknowledged") };
    let subscription = acknowledge.subscription;
    let configure = |predicate: &str, max_hz: f64| {
        let (predicate, policy) = (predicate.into(), Policy::DEFAULT);
        Message::Configure(Configure { request: 7, subscription, policy, predicate, max_hz })
    };
    refused(&mut raw, &configure("price>", 0.0), filter, "predicate", "byte 6");
    refused(&mut raw, &configure("", 1e9), field, "max_hz", "0.01 to 1000");
    server.publish(&tick("B", "1"));
    server.publish(&tick("A", "2"));
    let (_, message) = raw.data();
    assert!(matches!(message, Message::MarketData(tick) if tick.symbol == "A"));
    // The same again is the same; another predicate is another subscription.
    raw.say(&subscribe("symbol in (A)", 5.0));
    raw.say(&subscribe("symbol=B", 0.0));
    let mut ids = Vec::new();
    while ids.len() < 2 {
        if let Message::Acknowledge(acknowledge) = raw.message() {
            ids.push(acknowledge.subscription);
        }
    }
    assert!(ids[0] == subscription && ids[1] != subscription, "{ids:?}");
}

#[test]
fn who_is_closed_for_not_reading_is_told_why_first() {
    let server = TestServer::start(&[
        ("server.shards", "1"),
        ("outbox.events", "16"),
        ("heartbeat.interval", "30m"),
        ("limits.idle_timeout", "1h"),
    ]);
    let mut slow = Raw::binary_with_little_room(server.address());
    slow.say(&Message::Subscribe(Subscribe {
        request: 1,
        filter: "market_data.*".into(),
        start: Start::LIVE,
        policy: Policy::DISCONNECT,
        predicate: String::new(),
        max_hz: 0.0,
    }));
    assert!(matches!(slow.message(), Message::Acknowledge(_)));
    let closed = "tickcast_shard_closed_slow_total{shard=\"0\"}";
    server.wait_until("it is given up", |server| {
        (0..100).for_each(|_| server.publish(&tick("A", "1")));
        server.metric(closed) + server.metric("tickcast_shard_closed_slow_total") > 0.0
    });
    let mut last = None;
    let code = loop {
        let arrived = slow.next();
        if arrived.opcode == CLOSE {
            break arrived.close_code();
        }
        for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
            last = Some(frame.unwrap().view().unwrap().to_owned());
        }
    };
    assert_eq!(code, 4003);
    let Some(Message::Notice(notice)) = last else { panic!("{last:?}") };
    assert_eq!((notice.kind, notice.reason), (NoticeKind::CLOSING, Reason::OUTBOX_FULL));
}

/// Reads data frames as sequence and message until there are `count`, or `enough` says so.
fn frames(raw: &mut Raw, enough: impl Fn(&Message) -> bool, count: usize) -> Vec<(u64, Message)> {
    let mut all = Vec::new();
    while all.len() < count {
        let arrived = raw.next();
        for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
            let frame = frame.unwrap();
            let message = frame.view().unwrap().to_owned();
            if message.info().is_data() {
                let done = enough(&message);
                all.push((frame.header.sequence, message));
                if done {
                    return all;
                }
            }
        }
    }
    all
}
