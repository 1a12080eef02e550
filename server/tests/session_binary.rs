//! A binary client whose life goes well: every answer, in the order SPEC 6 promises, and an account of
//! every stream that adds up.

mod common;

use std::collections::VecDeque;
use std::time::Instant;

use common::{BINARY, PATIENCE, Raw, TestServer, sample, tick};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{self, Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    Acknowledge, Begin, Bind, Bracket, ClassName, Configure, Durability, End, Hello, Message, Notice,
    NoticeKind, Ping, Policy, Position, Publish, PublishStatus, Published, Reason, Resume, Role, Skip, Start,
    SubscriptionStatus, Unsubscribe, Welcome,
};
use tickcast_protocol::{Header, registry};

/// No heartbeat while a test lasts: the first one comes after a twentieth of the interval.
const QUIET: &[(&str, &str)] = &[("limits.idle_timeout", "1h"), ("heartbeat.interval", "30m")];

/// A client that sees every frame, in the order it came.
struct Peer {
    raw: Raw,
    frames: VecDeque<(Header, Message)>,
    welcome: Welcome,
}

impl Peer {
    fn connect(server: &TestServer, role: Role) -> Self {
        let raw = Raw::connect(server.address(), "/ws", Some("tickcast.v2")).expect("upgrades");
        let mut peer = Self { raw, frames: VecDeque::new(), welcome: EMPTY_WELCOME };
        peer.say(&Message::Hello(Hello { role, name: "desk-7".into(), client: "tests/1".into(), codecs: 0 }));
        let Message::Welcome(welcome) = peer.next() else { panic!("welcome comes first") };
        Self { welcome, ..peer }
    }

    fn say(&mut self, message: &Message) {
        self.raw.say(message);
    }

    /// The next frame. Control frames have nothing in the header that is an event's.
    fn frame(&mut self) -> (Header, Message) {
        while self.frames.is_empty() {
            let arrived = self.raw.next();
            assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
            for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
                let frame = frame.expect("a sound frame");
                let message = frame.view().expect("a sound payload").to_owned();
                if !message.info().is_data() {
                    let Header { stream, sequence, publish_time, .. } = frame.header;
                    assert_eq!((stream, sequence, publish_time), (0, 0, 0), "{message:?}");
                }
                self.frames.push_back((frame.header, message));
            }
        }
        self.frames.pop_front().expect("not empty")
    }

    fn next(&mut self) -> Message {
        self.frame().1
    }

    /// The next frame, which must be a tick: stream, sequence, price.
    fn tick(&mut self) -> (u32, u64, String) {
        let (header, message) = self.frame();
        let Message::MarketData(tick) = message else { panic!("{message:?}") };
        (header.stream, header.sequence, tick.price.expect("a price").to_string())
    }

    fn acknowledged(&mut self) -> Acknowledge {
        match self.next() {
            Message::Acknowledge(acknowledge) => acknowledge,
            other => panic!("{other:?}"),
        }
    }

    fn bound(&mut self) -> Bind {
        match self.next() {
            Message::Bind(bind) => bind,
            other => panic!("{other:?}"),
        }
    }

    /// Subscribes, and expects the acknowledgement next.
    fn subscribe(&mut self, filter: &str, start: Start) -> Acknowledge {
        self.raw.subscribe(41, filter, start);
        let acknowledge = self.acknowledged();
        assert_eq!((acknowledge.request, acknowledge.status), (41, SubscriptionStatus::SUBSCRIBED));
        assert_eq!(acknowledge.epoch, self.welcome.epoch);
        acknowledge
    }

    /// A ping whose pong comes next: nothing else was under way.
    fn assert_quiet(&mut self) {
        let (client_time, sequence) = (Timestamp(1_234_567_890), 99);
        self.say(&Message::Ping(Ping { client_time, sequence }));
        let Message::Pong(pong) = self.next() else { panic!("a pong comes next") };
        assert_eq!((pong.client_time, pong.sequence), (client_time, sequence));
        assert_near_now(pong.server_time);
    }
}

const EMPTY_WELCOME: Welcome = Welcome {
    boot_id: 0,
    epoch: 0,
    connection: 0,
    server: String::new(),
    heartbeat_ms: 0,
    frame_bytes_max: 0,
    subscriptions_max: 0,
    server_time: Timestamp(0),
    codecs: 0,
};

fn assert_near_now(time: Timestamp) {
    let now = jiff::Timestamp::now().as_nanosecond();
    assert!((now - i128::from(time.0)).abs() < 60_000_000_000, "{time}");
}

fn publish(request: u64, topic: &str, id: &str, durability: Durability) -> Vec<u8> {
    frame::encode(&Message::Publish(Publish {
        request,
        topic: topic.into(),
        id: id.into(),
        durability,
        expires_at: Timestamp(0),
        collapse_key: String::new(),
    }))
}

fn accepted(request: u64, topic: &str, sequence: u64) -> Message {
    Message::Published(Published {
        request,
        status: PublishStatus::ACCEPTED,
        topic: topic.into(),
        sequence,
        durability: Durability::MEMORY,
        code: 0,
        field: String::new(),
        message: String::new(),
        position: 0,
        queued: 0,
        full: Vec::new(),
    })
}

fn begin(subscription: u32, bracket: Bracket, events: u32) -> Message {
    Message::Begin(Begin { subscription, bracket, events })
}

fn end(subscription: u32, bracket: Bracket) -> Message {
    Message::End(End { subscription, bracket })
}

#[test]
fn welcome_says_who_the_server_is_and_what_it_allows() {
    let server = TestServer::start(&[("heartbeat.interval", "12s"), ("limits.subscriptions", "77")]);
    let first = Peer::connect(&server, Role::SUBSCRIBER).welcome;
    let second = Peer::connect(&server, Role::PUBLISHER).welcome;
    let both = Peer::connect(&server, Role::BOTH).welcome;
    assert_eq!((first.heartbeat_ms, first.subscriptions_max), (12_000, 77));
    assert_eq!((first.frame_bytes_max, second.frame_bytes_max, both.frame_bytes_max), (4096, 65_536, 65_536));
    assert_eq!(first.server, format!("tickcast/{}", env!("CARGO_PKG_VERSION")));
    assert_near_now(first.server_time);
    assert!(first.boot_id != 0 && first.epoch != 0);
    assert_eq!((first.boot_id, first.epoch), (second.boot_id, second.epoch), "one run, one history");
    assert_eq!((first.connection, second.connection, both.connection), (1, 2, 3));
    let other = TestServer::start(QUIET);
    assert_ne!(Peer::connect(&other, Role::SUBSCRIBER).welcome.boot_id, first.boot_id);
}

#[test]
fn an_acknowledgement_comes_first_then_the_binds_then_the_events() {
    let server = TestServer::start(QUIET);
    for (symbol, count) in [("A", 3), ("B", 1)] {
        (0..count).for_each(|_| server.publish(&tick(symbol, "1")));
    }
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    server.wait_until("the shards have read all", |server| server.metric("tickcast_shard_lag") == 0.0);
    let acknowledge = peer.subscribe("market_data.*", Start::LIVE);
    assert_eq!((acknowledge.subscription, acknowledge.streams), (1, 2));
    let bind = peer.bound();
    assert_eq!(bind.subscription, 1);
    let mut bound: Vec<_> = bind
        .bindings
        .iter()
        .map(|binding| (binding.topic.as_str(), binding.class, binding.next_sequence))
        .collect();
    bound.sort_by_key(|(topic, ..)| *topic);
    assert_eq!(bound, [("market_data.A", ClassName::LATEST, 4), ("market_data.B", ClassName::LATEST, 2)]);
    let stream =
        |topic: &str| bind.bindings.iter().find(|binding| binding.topic == topic).expect("bound").stream;
    let before = jiff::Timestamp::now().as_nanosecond();
    server.publish(&tick("B", "2.50"));
    server.publish(&tick("A", "1.10"));
    assert_eq!(peer.tick(), (stream("market_data.B"), 2, "2.50".to_owned()));
    let (header, message) = peer.frame();
    assert_eq!(message, tick("A", "1.10"), "the payload as it was published");
    assert_eq!((header.stream, header.sequence, header.flags), (stream("market_data.A"), 4, 0));
    assert!(i128::from(header.publish_time) >= before);
    peer.assert_quiet();
}

#[test]
fn a_stream_born_later_is_bound_before_its_first_frame() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let acknowledge = peer.subscribe("market_data.*", Start::LIVE);
    assert_eq!(acknowledge.streams, 0);
    peer.assert_quiet();
    let mut seen = Vec::new();
    for symbol in ["A", "B", "C"] {
        server.publish(&tick(symbol, "1"));
        let bind = peer.bound();
        assert_eq!((bind.subscription, bind.bindings.len()), (acknowledge.subscription, 1));
        let binding = &bind.bindings[0];
        assert_eq!((binding.topic.clone(), binding.next_sequence), (format!("market_data.{symbol}"), 1));
        assert_eq!(peer.tick(), (binding.stream, 1, "1".to_owned()));
        seen.push(binding.stream);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "each has an id of its own");
    // One topic in two classes is two streams, each with its own sequence.
    let Message::Bar(mut bar) = sample("bar") else { panic!("bar") };
    peer.subscribe("bar.**", Start::LIVE);
    for (closed, class) in [(false, ClassName::LATEST), (true, ClassName::ORDERED)] {
        bar.closed = closed;
        server.publish(&Message::Bar(bar.clone()));
        let bind = peer.bound();
        assert_eq!((bind.bindings[0].class, bind.bindings[0].next_sequence), (class, 1));
        let (header, _) = peer.frame();
        assert_eq!((header.stream, header.sequence), (bind.bindings[0].stream, 1));
    }
}

#[test]
fn a_topic_can_be_subscribed_before_it_exists() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    peer.subscribe("market_data.LATER", Start::SNAPSHOT);
    assert_eq!((peer.next(), peer.next()), (begin(1, Bracket::SNAPSHOT, 0), end(1, Bracket::SNAPSHOT)));
    server.publish(&tick("OTHER", "1"));
    server.publish(&tick("LATER", "2"));
    let bind = peer.bound();
    assert_eq!(bind.bindings[0].topic, "market_data.LATER");
    assert_eq!(peer.tick().2, "2");
    peer.assert_quiet();
}

#[test]
fn a_snapshot_has_the_last_value_of_each_key_between_its_brackets() {
    let server = TestServer::start(QUIET);
    for (symbol, price) in [("A", "1"), ("A", "2"), ("B", "3"), ("A", "4")] {
        server.publish(&tick(symbol, price));
    }
    server.wait_until("the shards have read all", |server| server.metric("tickcast_shard_lag") == 0.0);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let acknowledge = peer.subscribe("market_data.*", Start::SNAPSHOT);
    let bind = peer.bound();
    assert_eq!(peer.next(), begin(acknowledge.subscription, Bracket::SNAPSHOT, 2));
    let mut past = vec![peer.tick(), peer.tick()];
    past.sort_by_key(|(.., price)| price.clone());
    let places: Vec<_> = past.iter().map(|(_, sequence, price)| (*sequence, price.as_str())).collect();
    assert_eq!(places, [(1, "3"), (3, "4")]);
    for (stream, sequence, _) in &past {
        let binding = bind.bindings.iter().find(|binding| binding.stream == *stream).expect("bound");
        assert_eq!(binding.next_sequence, sequence + 1, "live goes on behind the snapshot");
    }
    assert_eq!(peer.next(), end(acknowledge.subscription, Bracket::SNAPSHOT));
    server.publish(&tick("B", "5"));
    let (_, sequence, price) = peer.tick();
    assert_eq!((sequence, price.as_str()), (2, "5"));
    peer.assert_quiet();
}

#[test]
fn an_unsubscribe_stops_what_it_names_and_nothing_else() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let first = peer.subscribe("market_data.A", Start::LIVE).subscription;
    let second = peer.subscribe("market_data.B", Start::LIVE).subscription;
    assert_ne!(first, second);
    peer.say(&Message::Unsubscribe(Unsubscribe { request: 7, subscription: first }));
    let acknowledge = peer.acknowledged();
    assert_eq!((acknowledge.request, acknowledge.subscription), (7, first));
    assert_eq!(acknowledge.status, SubscriptionStatus::UNSUBSCRIBED);
    server.publish(&tick("A", "1"));
    server.publish(&tick("B", "2"));
    assert_eq!(peer.bound().subscription, second);
    assert_eq!(peer.tick().2, "2");
    peer.assert_quiet();
    server.wait_until("one is left", |server| server.metric("tickcast_shard_subscriptions") == 1.0);
    // The number of what has ended is not given again.
    assert!(peer.subscribe("market_data.A", Start::LIVE).subscription > second);
}

#[test]
fn a_policy_is_changed_in_place() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let subscription = peer.subscribe("market_data.A", Start::LIVE).subscription;
    for policy in [Policy::CONFLATE, Policy::DROP_OLDEST, Policy::DISCONNECT, Policy::DEFAULT] {
        peer.say(&Message::Configure(Configure {
            request: 8,
            subscription,
            policy,
            predicate: String::new(),
            max_hz: 0.0,
        }));
        let acknowledge = peer.acknowledged();
        assert_eq!((acknowledge.request, acknowledge.subscription), (8, subscription));
        assert_eq!(
            (acknowledge.status, acknowledge.epoch),
            (SubscriptionStatus::UPDATED, peer.welcome.epoch)
        );
    }
    server.publish(&tick("A", "1"));
    peer.bound();
    assert_eq!(peer.tick().1, 1);
}

#[test]
fn subscribing_twice_is_one_subscription_with_the_first_id() {
    let server = TestServer::start(&[QUIET, &[("limits.subscriptions", "1")]].concat());
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let first = peer.subscribe("market_data.A", Start::LIVE).subscription;
    // At the limit, too: it takes no room.
    for _ in 0..3 {
        assert_eq!(peer.subscribe("market_data.A", Start::LIVE).subscription, first);
    }
    server.publish(&tick("A", "1"));
    peer.bound();
    peer.tick();
    peer.assert_quiet();
}

#[test]
fn two_subscriptions_to_one_stream_deliver_it_once() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let exact = peer.subscribe("market_data.A", Start::LIVE).subscription;
    let all = peer.subscribe("market_data.*", Start::LIVE).subscription;
    server.publish(&tick("A", "1"));
    let mut bound = [peer.bound(), peer.bound()];
    bound.sort_by_key(|bind| bind.subscription);
    assert_eq!([bound[0].subscription, bound[1].subscription], [exact, all]);
    assert_eq!(bound[0].bindings, bound[1].bindings, "the same stream, from the same place");
    assert_eq!(peer.tick().2, "1");
    peer.assert_quiet();
    // When one ends, the other goes on where it was.
    peer.say(&Message::Unsubscribe(Unsubscribe { request: 7, subscription: exact }));
    peer.acknowledged();
    server.publish(&tick("A", "2"));
    let (_, sequence, price) = peer.tick();
    assert_eq!((sequence, price.as_str()), (2, "2"));
    peer.assert_quiet();
}

#[test]
fn a_resume_replays_exactly_what_was_missed() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    peer.subscribe("market_data.*", Start::LIVE);
    for price in ["1", "2"] {
        server.publish(&tick("A", price));
    }
    let stream = peer.bound().bindings[0].stream;
    assert_eq!((peer.tick().1, peer.tick().1), (1, 2));
    let epoch = peer.welcome.epoch;
    drop(peer);
    // A goes on, with a hole of its source's, and B is born, while nobody looks.
    server.publish(&tick("A", "3"));
    server.running.ingest().skip("market_data.A", 2).expect("a sound skip");
    server.publish(&tick("A", "4"));
    server.publish(&tick("B", "5"));

    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let positions = vec![Position { topic: "market_data.A".into(), class: ClassName::LATEST, sequence: 2 }];
    let (filter, policy) = ("market_data.*".into(), Policy::DEFAULT);
    peer.say(&Message::Resume(Resume {
        request: 5,
        filter,
        epoch,
        positions,
        policy,
        predicate: String::new(),
        max_hz: 0.0,
    }));
    let acknowledge = peer.acknowledged();
    assert_eq!((acknowledge.request, acknowledge.streams), (5, 2));
    let mut bindings = peer.bound().bindings;
    bindings.sort_by(|a, b| a.topic.cmp(&b.topic));
    let next: Vec<_> = bindings.iter().map(|binding| binding.next_sequence).collect();
    assert_eq!((bindings[0].stream, next), (stream, vec![3, 1]), "where it stood, and from the beginning");
    assert_eq!(peer.next(), begin(acknowledge.subscription, Bracket::REPLAY, 3));
    assert_eq!(peer.tick(), (stream, 3, "3".to_owned()));
    let Message::Notice(gap) = peer.next() else { panic!("the hole is part of the replay") };
    assert_eq!((gap.kind, gap.from, gap.through, gap.gapped), (NoticeKind::UPSTREAM_GAP, 4, 5, 2));
    assert_eq!(peer.tick(), (stream, 6, "4".to_owned()));
    assert_eq!(peer.tick(), (bindings[1].stream, 1, "5".to_owned()));
    assert_eq!(peer.next(), end(acknowledge.subscription, Bracket::REPLAY));
    server.publish(&tick("A", "6"));
    assert_eq!(peer.tick(), (stream, 7, "6".to_owned()));
    peer.assert_quiet();
}

#[test]
fn a_resume_tells_what_is_no_longer_kept() {
    let server = TestServer::start(&[QUIET, &[("history.events", "4")]].concat());
    for price in 1..=10 {
        server.publish(&tick("A", &price.to_string()));
    }
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    let positions = vec![Position { topic: "market_data.A".into(), class: ClassName::LATEST, sequence: 2 }];
    let (filter, policy, epoch) = ("market_data.A".into(), Policy::DEFAULT, peer.welcome.epoch);
    peer.say(&Message::Resume(Resume {
        request: 5,
        filter,
        epoch,
        positions,
        policy,
        predicate: String::new(),
        max_hz: 0.0,
    }));
    let subscription = peer.acknowledged().subscription;
    assert_eq!(peer.bound().bindings[0].next_sequence, 3);
    let Message::History(history) = peer.next() else { panic!("how far back history goes") };
    assert_eq!((history.subscription, history.short.len(), history.short[0].oldest), (subscription, 1, 7));
    assert_eq!(peer.next(), begin(subscription, Bracket::REPLAY, 4));
    let Message::Notice(lost) = peer.next() else { panic!("the loss comes before the first event") };
    assert_eq!((lost.kind, lost.reason), (NoticeKind::LOSS, Reason::HISTORY_GONE));
    assert_eq!((lost.from, lost.through, lost.gapped, lost.conflated), (3, 6, 4, 0));
    for sequence in 7..=10 {
        assert_eq!(peer.tick().1, sequence);
    }
    assert_eq!(peer.next(), end(subscription, Bracket::REPLAY));
    peer.assert_quiet();
}

#[test]
fn a_publish_gets_its_reply_and_data_alone_gets_none() {
    let server = TestServer::start(QUIET);
    let mut publisher = Peer::connect(&server, Role::PUBLISHER);
    let mut subscriber = Peer::connect(&server, Role::SUBSCRIBER);
    subscriber.subscribe("market_data.A", Start::LIVE);
    let data = |price: &str| frame::encode(&tick("A", price));
    publisher.raw.send(BINARY, &[publish(11, "", "", Durability::MEMORY), data("1")].concat());
    assert_eq!(publisher.next(), accepted(11, "market_data.A", 1));
    // Without a word, then several at once, in the order they were published.
    publisher.raw.send(BINARY, &data("2"));
    let many = [
        publish(12, "market_data.A", "id-12", Durability::MEMORY),
        data("3"),
        data("4"),
        publish(13, "", "", Durability::MEMORY),
        data("5"),
    ];
    publisher.raw.send(BINARY, &many.concat());
    assert_eq!(publisher.next(), accepted(12, "market_data.A", 3));
    assert_eq!(publisher.next(), accepted(13, "market_data.A", 5));
    publisher.assert_quiet();
    subscriber.bound();
    for (sequence, price) in (1..).zip(["1", "2", "3", "4", "5"]) {
        let (_, seen, value) = subscriber.tick();
        assert_eq!((seen, value.as_str()), (sequence, price));
    }
    subscriber.assert_quiet();
    assert_eq!(server.metric("tickcast_messages_source_total{source=\"socket\"}"), 5.0);
}

#[test]
fn a_peer_that_is_both_hears_itself() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::BOTH);
    peer.subscribe("alert.*", Start::LIVE);
    peer.raw
        .send(BINARY, &[publish(1, "", "", Durability::MEMORY), frame::encode(&sample("alert"))].concat());
    let mut seen = [false; 3];
    for _ in 0..3 {
        match peer.frame() {
            (_, Message::Published(reply)) => seen[0] = reply.sequence == 1,
            (_, Message::Bind(bind)) => seen[1] = bind.bindings[0].class == ClassName::CRITICAL,
            (header, Message::Alert(_)) => seen[2] = seen[1] && header.flags & frame::FLAG_CRITICAL != 0,
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn a_publisher_can_raise_a_message_to_critical() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::BOTH);
    peer.subscribe("market_data.A", Start::LIVE);
    let mut raised = frame::encode(&tick("A", "1"));
    raised[8] |= frame::FLAG_CRITICAL as u8;
    peer.raw.send(BINARY, &raised);
    let bind = peer.bound();
    assert_eq!(bind.bindings[0].class, ClassName::CRITICAL);
    let (header, _) = peer.frame();
    assert_eq!(header.flags & frame::FLAG_CRITICAL, frame::FLAG_CRITICAL);
}

#[test]
fn what_the_source_skipped_is_told_in_order_and_uses_up_its_sequences() {
    let server = TestServer::start(QUIET);
    let mut publisher = Peer::connect(&server, Role::PUBLISHER);
    let mut subscriber = Peer::connect(&server, Role::SUBSCRIBER);
    let subscription = subscriber.subscribe("market_data.A", Start::LIVE).subscription;
    let skip = |count| Message::Skip(Skip { topic: "market_data.A".into(), count });
    let notice = |stream, from, through| {
        Message::Notice(Notice {
            kind: NoticeKind::UPSTREAM_GAP,
            subscription,
            stream,
            from,
            through,
            conflated: 0,
            gapped: through - from + 1,
            filtered: 0,
            reason: Reason::UPSTREAM,
            reconnect_in_ms: 0,
        })
    };
    publisher.say(&tick("A", "1"));
    publisher.say(&skip(3));
    publisher.say(&tick("A", "2"));
    publisher.assert_quiet();
    let stream = subscriber.bound().bindings[0].stream;
    assert_eq!(subscriber.tick(), (stream, 1, "1".to_owned()));
    assert_eq!(subscriber.next(), notice(stream, 2, 4));
    assert_eq!(subscriber.tick(), (stream, 5, "2".to_owned()));
    subscriber.assert_quiet();
    // The most that can be skipped at once, and two in a row.
    publisher.say(&skip(u64::from(u32::MAX)));
    publisher.say(&skip(1));
    publisher
        .raw
        .send(BINARY, &[publish(9, "", "", Durability::MEMORY), frame::encode(&tick("A", "3"))].concat());
    let last = 5 + u64::from(u32::MAX) + 2;
    assert_eq!(publisher.next(), accepted(9, "market_data.A", last));
    let mut next = 6;
    while next < last {
        let Message::Notice(told) = subscriber.next() else { panic!("a notice comes before the event") };
        assert_eq!(Message::Notice(told.clone()), notice(stream, next, told.through));
        next = told.through + 1;
    }
    assert_eq!(subscriber.tick(), (stream, last, "3".to_owned()));
    subscriber.assert_quiet();
}

#[test]
fn a_skip_before_the_first_event_is_told_too() {
    let server = TestServer::start(QUIET);
    let mut publisher = Peer::connect(&server, Role::PUBLISHER);
    let mut subscriber = Peer::connect(&server, Role::SUBSCRIBER);
    subscriber.subscribe("public_trade.*", Start::LIVE);
    publisher.say(&Message::Skip(Skip { topic: "public_trade.symbol-70".into(), count: 2 }));
    publisher.say(&sample("public_trade"));
    let binding = subscriber.bound().bindings[0].clone();
    assert_eq!((binding.next_sequence, binding.class), (1, ClassName::ORDERED));
    let Message::Notice(told) = subscriber.next() else { panic!("a notice comes first") };
    assert_eq!((told.stream, told.from, told.through, told.gapped), (binding.stream, 1, 2, 2));
    let (header, _) = subscriber.frame();
    assert_eq!((header.stream, header.sequence), (binding.stream, 3));
}

#[test]
fn a_heartbeat_names_the_newest_sequence_of_every_bound_stream() {
    let server = TestServer::start(&[("heartbeat.interval", "50ms")]);
    let mut peer = Peer::connect(&server, Role::SUBSCRIBER);
    assert_eq!(peer.welcome.heartbeat_ms, 50);
    peer.raw.subscribe(1, "market_data.*", Start::LIVE);
    // Events count from here on; before, the subscription might not have begun.
    while !matches!(peer.next(), Message::Acknowledge(_)) {}
    for (symbol, count) in [("A", 3), ("B", 1)] {
        (0..count).for_each(|_| server.publish(&tick(symbol, "1")));
    }
    server.running.ingest().skip("market_data.B", 4).expect("a sound skip");
    let (mut streams, mut told, mut events) = (Vec::new(), Vec::new(), 0);
    let began = Instant::now();
    let mut last = Timestamp(0);
    while told != [3, 5] || events != 4 {
        match peer.next() {
            Message::Bind(bind) => {
                streams.extend(bind.bindings.into_iter().map(|binding| (binding.topic, binding.stream)));
                streams.sort();
            }
            Message::Heartbeat(beat) => {
                assert!(beat.server_time.0 > last.0, "time goes on");
                last = beat.server_time;
                let head = |stream: u32| {
                    beat.heads.iter().find(|head| head.stream == stream).map(|head| head.sequence)
                };
                assert!(
                    beat.heads.iter().all(|head| streams.iter().any(|(_, stream)| *stream == head.stream))
                );
                told = streams.iter().filter_map(|(_, stream)| head(*stream)).collect();
            }
            Message::MarketData(_) => events += 1,
            Message::Acknowledge(_) => {}
            Message::Notice(notice) if notice.kind == NoticeKind::COUNTS => {
                assert_eq!((notice.stream, notice.from, notice.through, notice.gapped), (0, 0, 0, 4));
            }
            Message::Notice(notice) => {
                assert_eq!((notice.kind, notice.gapped), (NoticeKind::UPSTREAM_GAP, 4))
            }
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < PATIENCE, "{streams:?} {told:?} {events}");
    }
}

#[test]
fn every_data_type_arrives_as_it_was_published() {
    let server = TestServer::start(QUIET);
    let mut peer = Peer::connect(&server, Role::BOTH);
    peer.subscribe("**", Start::LIVE);
    for info in registry::types().iter().filter(|info| info.is_data()) {
        for full in [true, false] {
            let message = Message::sample(info, full);
            peer.say(&message);
            loop {
                match peer.next() {
                    seen if seen == message => break,
                    // The server has a word of its own about each type's health.
                    Message::Bind(_) | Message::StreamHealth(_) => {}
                    other => panic!("{}: {other:?}", info.name),
                }
            }
        }
    }
}
