//! How streams are, in-band: who goes mute is reported in time, who is quiet and vouched for is not, and a
//! newcomer knows what everybody knows. Time is the test's own; nothing here waits for the clock on the wall.

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{BINARY, Raw, TestServer, sample, tick};
use serde_json::Value;
use tickcast::clock::Clock;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    BookKind, Bracket, IntervalOrigin, Message, OrderBook, Policy, Publish, Role, Since, Skip, SourceStatus,
    Start, StateReason, StreamState, StreamStatus, Vouch,
};
use tickcast_protocol::{Decimal, frame};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const START: u64 = 1_790_000_000 * SECOND;
/// No heartbeat while a test lasts.
const QUIET: [(&str, &str); 2] = [("limits.idle_timeout", "1h"), ("heartbeat.interval", "30m")];

/// A server whose clock stands still until it is moved.
struct Timed {
    server: TestServer,
    now: Arc<AtomicU64>,
}

impl Timed {
    fn start(settings: &[(&str, &str)]) -> Self {
        let now = Arc::new(AtomicU64::new(START));
        let read = now.clone();
        let clock = Clock::new(move || read.load(Ordering::SeqCst));
        let settings: Vec<_> = QUIET.iter().chain(settings).copied().collect();
        Self { server: TestServer::with_clock(&settings, clock), now }
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn pass(&self, time: u64) {
        self.now.fetch_add(time, Ordering::SeqCst);
    }

    fn changes(&self, state: &str) -> f64 {
        self.server.metric(&format!("tickcast_stream_state_changes_total{{state=\"{state}\"}}"))
    }

    fn in_state(&self, state: &str) -> f64 {
        self.server.metric(&format!("tickcast_stream_states{{state=\"{state}\"}}"))
    }

    fn publisher(&self) -> Peer {
        Peer::connect(self, Role::PUBLISHER)
    }

    fn subscriber(&self, filter: &str, start: Start) -> Peer {
        let mut peer = Peer::connect(self, Role::SUBSCRIBER);
        peer.raw.subscribe(1, filter, start);
        peer.until(|message| matches!(message, Message::Acknowledge(_)));
        peer
    }
}

/// A binary client that sees every frame, in order.
struct Peer {
    raw: Raw,
    frames: VecDeque<(u64, Message)>,
}

impl Peer {
    fn connect(timed: &Timed, role: Role) -> Self {
        Self { raw: Raw::binary(timed.server.address(), role), frames: VecDeque::new() }
    }

    /// The next frame, with its sequence.
    fn next(&mut self) -> (u64, Message) {
        while self.frames.is_empty() {
            let arrived = self.raw.next();
            assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
            for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
                let frame = frame.expect("a sound frame");
                let message = frame.view().expect("a sound payload").to_owned();
                self.frames.push_back((frame.header.sequence, message));
            }
        }
        self.frames.pop_front().expect("not empty")
    }

    fn until(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
        loop {
            let (_, message) = self.next();
            if wanted(&message) {
                return message;
            }
        }
    }

    /// The next word about streams; events in between are left out.
    fn states(&mut self) -> Vec<StreamStatus> {
        match self.until(|message| matches!(message, Message::StreamStates(_))) {
            Message::StreamStates(told) => told.states,
            _ => unreachable!(),
        }
    }

    fn state(&mut self) -> StreamStatus {
        let mut states = self.states();
        assert_eq!(states.len(), 1, "{states:?}");
        states.remove(0)
    }

    /// Publishes, and waits until it is accepted.
    fn publish(&mut self, message: &Message) {
        let publish = Publish {
            request: 9,
            topic: String::new(),
            id: String::new(),
            durability: DEFAULT,
            expires_at: Timestamp(0),
            collapse_key: String::new(),
        };
        let mut bytes = frame::encode(&publish.into());
        bytes.extend_from_slice(&frame::encode(message));
        self.raw.send(BINARY, &bytes);
        let answer = self.until(|message| matches!(message, Message::Published(_)));
        let Message::Published(answer) = answer else { unreachable!() };
        assert_eq!(answer.status.name(), "accepted", "{answer:?}");
    }

    fn vouch(&mut self, status: SourceStatus, topics: &[&str], interval_ms: u32) {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.raw.say(&Vouch { request: 5, status, topics, interval_ms }.into());
        // A round trip: what was said is heard.
        let ping = tickcast_protocol::message::Ping { client_time: Timestamp(0), sequence: 1 };
        self.raw.say(&ping.into());
        self.until(|message| matches!(message, Message::Pong(_)));
    }
}

const DEFAULT: tickcast_protocol::message::Durability = tickcast_protocol::message::Durability::MEMORY;

#[test]
fn who_goes_mute_is_reported_in_time_and_who_is_vouched_for_is_not() {
    let timed = Timed::start(&[("streams.intervals", "market_data.*=2s")]);
    let (mut mute, mut quiet) = (timed.publisher(), timed.publisher());
    mute.publish(&tick("MUTE", "1"));
    quiet.publish(&tick("QUIET", "1"));
    let mut reader = timed.subscriber("market_data.*", Start::LIVE);
    // Both connections live, and answer.
    timed.pass(1_900 * MS);
    mute.raw.send(common::PING, b"");
    quiet.vouch(SourceStatus::ALIVE, &[], 0);
    timed.pass(300 * MS);
    let mut told = reader.states();
    while told.len() < 2 {
        told.extend(reader.states());
    }
    told.sort_by_key(|status| status.stream);
    let [mute_is, quiet_is] = &told[..] else { panic!("{told:?}") };
    assert_eq!((mute_is.state, mute_is.reason), (StreamState::SUSPECT, StateReason::QUIET));
    assert_eq!((mute_is.interval_ms, mute_is.origin), (2_000, IntervalOrigin::SET));
    assert_eq!((mute_is.since.0 as u64, mute_is.last_sequence), (START + 2 * SECOND, 1));
    assert_eq!((quiet_is.state, quiet_is.reason), (StreamState::IDLE, StateReason::VOUCHED));
    // Another ten seconds: the one gets stale, the other stays what it is.
    timed.pass(1_600 * MS);
    quiet.vouch(SourceStatus::ALIVE, &[], 0);
    timed.server.wait_until("the mute one is looked at", |_| timed.changes("suspect") == 1.0);
    for _ in 0..6 {
        timed.pass(1_500 * MS);
        quiet.vouch(SourceStatus::ALIVE, &[], 0);
    }
    let stale = reader.state();
    assert_eq!((stale.state, stale.stream), (StreamState::STALE, mute_is.stream));
    assert_eq!(stale.since.0 as u64, START + 12 * SECOND);
    // The next event ends it, for both.
    mute.publish(&tick("MUTE", "2"));
    let live = reader.state();
    assert_eq!(
        (live.state, live.reason, live.stream),
        (StreamState::LIVE, StateReason::EVENT, mute_is.stream)
    );
    assert_eq!((live.last_sequence, live.since.0 as u64), (2, timed.now()));
    quiet.publish(&tick("QUIET", "2"));
    assert_eq!(reader.state().stream, quiet_is.stream);
    let counted: Vec<f64> =
        ["live", "idle", "suspect", "stale"].iter().map(|state| timed.changes(state)).collect();
    assert_eq!(counted, [2.0, 1.0, 1.0, 1.0]);
    assert_eq!((timed.in_state("idle"), timed.in_state("suspect"), timed.in_state("stale")), (0.0, 0.0, 0.0));
}

#[test]
fn streams_of_a_publisher_that_leaves_are_suspect_until_their_next_event() {
    let timed = Timed::start(&[]);
    let mut publisher = timed.publisher();
    publisher.publish(&tick("A", "1"));
    publisher.publish(&sample("risk_alert"));
    let mut reader = timed.subscriber("**", Start::LIVE);
    drop(publisher);
    // One frame for all of its streams.
    let told = reader.states();
    assert_eq!(told.len(), 2, "{told:?}");
    for status in &told {
        assert_eq!((status.state, status.reason), (StreamState::SUSPECT, StateReason::SOURCE_GONE));
        assert_eq!((status.last_sequence, status.interval_ms), (1, 0));
    }
    let mut publisher = timed.publisher();
    publisher.publish(&tick("A", "2"));
    let live = reader.state();
    assert_eq!((live.state, live.last_sequence), (StreamState::LIVE, 2));
    assert_eq!(timed.in_state("suspect"), 1.0);
}

#[test]
fn a_newcomer_is_told_of_the_streams_that_are_not_live_and_of_no_other() {
    let timed = Timed::start(&[("streams.intervals", "market_data.A=1s")]);
    timed.server.publish(&tick("A", "1"));
    timed.server.publish(&tick("B", "1"));
    timed.pass(1_050 * MS);
    timed.server.wait_until("it is suspect", |_| timed.in_state("suspect") == 1.0);
    for start in [Start::LIVE, Start::SNAPSHOT] {
        let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
        peer.raw.subscribe(1, "market_data.*", start);
        let mut seen = Vec::new();
        let mut bound = 0;
        let told = loop {
            let (_, message) = peer.next();
            match message {
                Message::StreamStates(told) => break told.states,
                Message::Bind(bind) => {
                    let of_a = bind.bindings.iter().find(|binding| binding.topic == "market_data.A");
                    bound = of_a.map_or(bound, |binding| binding.stream);
                    seen.push("bind");
                }
                other => seen.push(other.info().name),
            }
        };
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].stream, told[0].state), (bound, StreamState::SUSPECT));
        assert_eq!(seen, ["acknowledge", "bind"]);
    }
    // All is well: nothing is said.
    timed.server.publish(&tick("A", "2"));
    let mut peer = timed.subscriber("market_data.A", Start::SNAPSHOT);
    peer.until(|message| matches!(message, Message::End(_)));
    timed.server.publish(&tick("A", "3"));
    assert!(matches!(peer.next(), (3, Message::MarketData(_))));
}

#[test]
fn an_interval_is_learned_where_none_is_set() {
    let timed = Timed::start(&[]);
    let mut reader = timed.subscriber("market_data.*", Start::LIVE);
    for _ in 0..12 {
        timed.server.publish(&tick("A", "1"));
        reader.until(|message| matches!(message, Message::MarketData(_)));
        timed.pass(SECOND);
    }
    timed.pass(4_800 * MS);
    let told = reader.state();
    assert_eq!((told.state, told.origin), (StreamState::SUSPECT, IntervalOrigin::LEARNED));
    assert!((5_000..=5_700).contains(&told.interval_ms), "{told:?}");
}

#[test]
fn what_a_publisher_says_of_its_streams_is_told_and_mistakes_are_named() {
    let timed = Timed::start(&[]);
    let mut publisher = timed.publisher();
    publisher.publish(&tick("A", "1"));
    publisher.publish(&tick("B", "1"));
    let mut reader = timed.subscriber("market_data.*", Start::LIVE);
    publisher.vouch(SourceStatus::CLOSED, &["market_data.A"], 0);
    let told = reader.state();
    assert_eq!((told.state, told.reason), (StreamState::CLOSED, StateReason::SAID));
    // It sets an interval as well.
    publisher.vouch(SourceStatus::ALIVE, &[], 500);
    timed.pass(550 * MS);
    let told = reader.state();
    assert_eq!((told.state, told.interval_ms), (StreamState::SUSPECT, 500));
    for (vouch, field) in [
        ((SourceStatus::ALIVE, "market_data.C", 0), "topics.0"),
        ((SourceStatus::ALIVE, "no topic", 0), "topics.0"),
        ((SourceStatus(9), "market_data.A", 0), "status"),
        ((SourceStatus::ALIVE, "market_data.A", 7), "interval_ms"),
    ] {
        let (status, topic, interval_ms) = vouch;
        publisher.raw.say(&Vouch { request: 5, status, topics: vec![topic.into()], interval_ms }.into());
        let error = publisher.until(|message| matches!(message, Message::Error(_)));
        let Message::Error(error) = error else { unreachable!() };
        assert_eq!((error.request, error.field.as_str()), (5, field));
    }
    reader.raw.say(&Vouch { request: 6, status: SourceStatus::ALIVE, topics: vec![], interval_ms: 0 }.into());
    let error = reader.until(|message| matches!(message, Message::Error(_)));
    assert!(matches!(error, Message::Error(error) if error.request == 6 && error.field == "role"));
}

#[test]
fn a_gap_at_the_source_makes_a_stream_suspect_until_its_next_event() {
    let timed = Timed::start(&[]);
    let mut publisher = timed.publisher();
    publisher.publish(&sample("public_trade"));
    let mut reader = timed.subscriber("public_trade.*", Start::LIVE);
    let Message::PublicTrade(trade) = sample("public_trade") else { panic!("a trade") };
    let topic = format!("public_trade.{}", trade.symbol);
    publisher.raw.say(&Skip { topic, count: 4 }.into());
    reader.until(|message| matches!(message, Message::Notice(_)));
    let told = reader.state();
    assert_eq!(
        (told.state, told.reason, told.last_sequence),
        (StreamState::SUSPECT, StateReason::UPSTREAM, 5)
    );
    publisher.publish(&sample("public_trade"));
    assert_eq!(reader.state().state, StreamState::LIVE);
}

#[test]
fn a_dashboard_is_warned_of_a_suspect_stream_and_told_when_it_is_live() {
    let timed = Timed::start(&[("streams.intervals", "market_data.*=1s"), ("json.case", "snake")]);
    timed.server.publish(&tick("A", "1"));
    let mut reader = Raw::d1(timed.server.address());
    reader.send_text(
        r#"{"message_type":"subscribe","subscription_type":"market_data","symbol":"A","request_id":"r"}"#,
    );
    let next = |reader: &mut Raw| loop {
        let message: Value = reader.next().json();
        if message["message_type"] == "error" {
            break message;
        }
    };
    timed.pass(1_050 * MS);
    let told = next(&mut reader);
    for key in ["message_type", "version", "timestamp", "data"] {
        assert!(!told[key].is_null(), "what such a client wants in every message: {told}");
    }
    let data = &told["data"];
    assert_eq!((&data["error_code"], &data["severity"]), (&"STALE_UPSTREAM".into(), &"warning".into()));
    assert_eq!((&data["topic"], &data["state"]), (&"market_data.A".into(), &"suspect".into()));
    assert_eq!((&data["reason"], &data["last_sequence"]), (&"quiet".into(), &1.into()));
    timed.pass(5 * SECOND);
    assert_eq!(next(&mut reader)["data"]["state"], "stale");
    // A newcomer hears of it as well.
    let mut newcomer = Raw::d1(timed.server.address());
    newcomer.send_text(
        r#"{"message_type":"subscribe","subscription_type":"market_data","symbol":"A","request_id":"r"}"#,
    );
    assert_eq!(next(&mut newcomer)["data"]["state"], "stale");
    timed.server.publish(&tick("A", "2"));
    for reader in [&mut reader, &mut newcomer] {
        let told = next(reader);
        assert_eq!(
            (&told["data"]["error_code"], &told["data"]["state"]),
            (&"STREAM_LIVE".into(), &"live".into())
        );
    }
}

// -------------------------------------------------------------------------------------------------
// Starts

fn price(message: &Message) -> Option<String> {
    match message {
        Message::MarketData(tick) => tick.price.as_ref().map(Decimal::to_string),
        _ => None,
    }
}

fn since(peer: &mut Peer, filter: &str, time: u64) {
    peer.raw.say(
        &Since {
            request: 1,
            filter: filter.into(),
            time: Timestamp(time as i64),
            policy: Policy::DEFAULT,
            predicate: String::new(),
            max_hz: 0.0,
        }
        .into(),
    );
}

/// The names of what comes up to the end of the replay, prices for ticks.
fn replayed(peer: &mut Peer) -> (Vec<String>, Vec<Message>) {
    let (mut names, mut messages) = (Vec::new(), Vec::new());
    loop {
        let (_, message) = peer.next();
        names.push(price(&message).unwrap_or_else(|| message.info().name.to_owned()));
        let is_end = matches!(message, Message::End(_));
        messages.push(message);
        if is_end {
            return (names, messages);
        }
    }
}

#[test]
fn a_start_in_the_past_brings_what_was_published_since_and_then_goes_on() {
    let timed = Timed::start(&[]);
    for number in 1..=5 {
        timed.server.publish(&tick("A", &number.to_string()));
        timed.pass(SECOND);
    }
    let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
    since(&mut peer, "market_data.*", START + 3 * SECOND);
    let (names, messages) = replayed(&mut peer);
    assert_eq!(names, ["acknowledge", "bind", "begin", "4", "5", "end"]);
    assert!(matches!(&messages[1], Message::Bind(bind) if bind.bindings[0].next_sequence == 4));
    assert!(
        matches!(&messages[2], Message::Begin(begin) if begin.events == 2 && begin.bracket == Bracket::REPLAY)
    );
    timed.server.publish(&tick("A", "6"));
    let (sequence, live) = peer.next();
    assert_eq!((sequence, price(&live).as_deref()), (6, Some("6")));
}

#[test]
fn a_start_that_finds_nothing_says_so_between_begin_and_end() {
    let timed = Timed::start(&[]);
    timed.server.publish(&tick("A", "1"));
    timed.pass(SECOND);
    for filter in ["market_data.*", "alert.*"] {
        let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
        since(&mut peer, filter, timed.now());
        let (names, messages) = replayed(&mut peer);
        assert_eq!(names.iter().filter(|name| *name != "bind").count(), 3, "{names:?}");
        let begun = messages.iter().find_map(|message| match message {
            Message::Begin(begin) => Some((begin.bracket, begin.events)),
            _ => None,
        });
        assert_eq!(begun, Some((Bracket::REPLAY, 0)));
    }
    // So do a snapshot and a resume.
    let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
    peer.raw.subscribe(1, "alert.*", Start::SNAPSHOT);
    assert_eq!(replayed(&mut peer).0, ["acknowledge", "begin", "end"]);
}

#[test]
fn history_that_does_not_go_so_far_back_is_told_with_the_oldest_there_is() {
    let timed = Timed::start(&[("history.events", "3")]);
    for number in 1..=5 {
        timed.server.publish(&tick("A", &number.to_string()));
        timed.pass(SECOND);
    }
    let short = |time: u64| {
        let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
        since(&mut peer, "market_data.*", time);
        let (names, messages) = replayed(&mut peer);
        let history = messages.into_iter().find_map(|message| match message {
            Message::History(history) => Some(history),
            _ => None,
        });
        (names, history)
    };
    let (names, history) = short(START + SECOND);
    assert_eq!(names, ["acknowledge", "bind", "history", "begin", "3", "4", "5", "end"]);
    let history = history.unwrap();
    assert_eq!((history.subscription, history.begun.0 as u64), (1, START));
    assert_eq!((history.short[0].oldest, history.short[0].oldest_time.0 as u64), (3, START + 2 * SECOND));
    // All of what was asked for is there.
    assert_eq!(short(START + 2 * SECOND).1, None);
    // Before the server's own beginning nothing is known at all, of streams that forgot nothing too.
    timed.server.publish(&sample("public_trade"));
    let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
    since(&mut peer, "public_trade.*", START - 1);
    let (names, messages) = replayed(&mut peer);
    assert_eq!(names[2], "history");
    assert!(matches!(&messages[2], Message::History(history) if history.short.is_empty()));
}

#[test]
fn a_resume_that_cannot_be_met_is_answered_with_what_can_be_had() {
    let timed = Timed::start(&[("history.events", "2")]);
    for number in 1..=5 {
        timed.server.publish(&tick("A", &number.to_string()));
    }
    let resume = |epoch: u64| {
        let position = tickcast_protocol::message::Position {
            topic: "market_data.A".into(),
            class: tickcast_protocol::message::ClassName::LATEST,
            sequence: 1,
        };
        Message::Resume(tickcast_protocol::message::Resume {
            request: 1,
            filter: "market_data.*".into(),
            epoch,
            positions: vec![position],
            policy: Policy::DEFAULT,
            predicate: String::new(),
            max_hz: 0.0,
        })
    };
    // Of another epoch: how far this one goes back, and the refusal.
    let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
    peer.raw.say(&resume(1));
    let (_, first) = peer.next();
    assert!(matches!(first, Message::History(history) if history.begun.0 as u64 == START));
    let (_, second) = peer.next();
    assert!(matches!(second, Message::Error(error) if error.request == 1));
    // Before what is kept: the oldest there is, the loss, and the rest.
    let mut peer = Peer::connect(&timed, Role::SUBSCRIBER);
    peer.raw.say(&resume(START));
    let (names, messages) = replayed(&mut peer);
    assert_eq!(names, ["acknowledge", "bind", "history", "begin", "notice", "4", "5", "end"]);
    assert!(matches!(&messages[2], Message::History(history) if history.short[0].oldest == 4));
    assert!(matches!(&messages[4], Message::Notice(notice) if (notice.from, notice.through) == (2, 3)));
}

/// A server with a view of a book, and somebody who has seen it.
fn with_view(interval: &str) -> (Timed, Peer) {
    let timed = Timed::start(&[("books.views", "3"), ("streams.intervals", interval)]);
    let mut peer = timed.subscriber("partial_book.**", Start::LIVE);
    let Message::OrderBook(sample) = sample("order_book") else { panic!("a book") };
    let (bids, asks, checksum, depth) = (Vec::new(), Vec::new(), None, None);
    let book = OrderBook { kind: BookKind::SNAPSHOT, bids, asks, checksum, depth, ..sample };
    timed.server.publish(&Message::OrderBook(book));
    peer.until(|message| matches!(message, Message::PartialBook(_)));
    (timed, peer)
}

#[test]
fn a_view_of_a_book_that_is_quiet_is_vouched_for_by_who_makes_it() {
    let (timed, mut peer) = with_view("partial_book.**=1s");
    timed.pass(3 * SECOND / 2);
    // Time has jumped, and whoever vouches looks at the clock from time to time only.
    let mut status = peer.state();
    while status.state == StreamState::SUSPECT {
        status = peer.state();
    }
    assert_eq!((status.state, status.reason), (StreamState::IDLE, StateReason::VOUCHED));
}

#[test]
fn a_view_is_suspect_when_its_book_is_quiet_and_nobody_vouches_for_that() {
    let (timed, mut peer) = with_view("order_book.**=1s");
    timed.pass(3 * SECOND / 2);
    let status = peer.state();
    assert_eq!((status.state, status.reason), (StreamState::SUSPECT, StateReason::UPSTREAM));
    assert_eq!(status.since.0, (START + SECOND) as i64, "since its book is");
    let mut status = status;
    while status.state != StreamState::STALE {
        timed.pass(10 * SECOND);
        status = peer.state();
    }
    assert_eq!(status.reason, StateReason::UPSTREAM);
}
