//! Every limit, tripped over real sockets: what the peer sees, by name; that the limit's counter moves and
//! no other's does; and that a bystander on the same server notices nothing.
//!
//! The table below has a line for each key of the settings that is a limit. What a peer saw must also be
//! what the key's `at_limit` says.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use common::{Arrived, BINARY, CLOSE, PATIENCE, Raw, TestServer, http, masked, tick};
use tempfile::TempDir;
use tickcast::config::{KEYS, Key};
use tickcast::status::Status;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{self, Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    Ack, BookKind, Bracket, ClassName, Durability, Identify, Message, Notice, NoticeKind, Ping, Policy,
    Position, Publish, PublishStatus, Reason, Resume, Role, Start,
};
use tickcast_protocol::{CloseCode, ErrorCode, registry};

/// Key of the settings, settings of the server that make it easy to hit, and what hits it.
macro_rules! table {
    ($( $key:literal [$($setting:literal = $value:literal),+] $trip:ident; )+) => {
        /// The keys that have a case.
        const TABLE: &[&str] = &[$($key),+];

        mod limit {
            $(
                #[test]
                fn $trip() {
                    let mut bench = super::Bench::start($key, &[$(($setting, $value)),+]);
                    super::$trip(&mut bench);
                    bench.finish();
                }
            )+
        }
    };
}

table! {
    "server.drain_timeout" ["server.drain_timeout" = "50ms", "outbox.bytes" = "64MiB"]
        stalled_client_is_closed_when_the_drain_is_over;
    "limits.connections" ["limits.connections" = "2"]
        connection_past_the_last_place_is_answered_before_it_says_anything;
    "limits.handshakes" ["limits.handshakes" = "1"]
        handshake_past_the_last_place_is_answered_before_it_says_anything;
    "limits.handshake_timeout" ["limits.handshake_timeout" = "300ms"]
        request_that_never_ends_is_closed_without_an_answer;
    "limits.hello_timeout" ["limits.hello_timeout" = "300ms"]
        peer_that_never_says_hello_is_closed;
    "limits.header_bytes" ["limits.header_bytes" = "8KiB"]
        request_with_long_headers_is_refused;
    "limits.headers" ["limits.headers" = "16"]
        request_with_many_headers_is_refused;
    "limits.inbound_bytes" ["limits.inbound_bytes" = "1KiB"]
        large_message_of_a_subscriber_is_refused_on_its_header;
    "limits.publisher_bytes" ["limits.publisher_bytes" = "4KiB"]
        large_message_of_a_publisher_is_refused_on_its_header_or_by_itself;
    "limits.fragments" ["limits.fragments" = "4"]
        message_in_many_fragments_is_refused;
    "limits.message_timeout" ["limits.message_timeout" = "100ms"]
        message_that_never_ends_is_given_up;
    "limits.subscriptions" ["limits.subscriptions" = "2"]
        subscription_past_the_limit_is_refused_and_the_connection_stays;
    "limits.streams" ["limits.streams" = "8"]
        publish_to_a_stream_past_the_limit_is_refused_and_the_others_go_on;
    "limits.inbound_messages_per_second"
        ["limits.inbound_messages_per_second" = "1", "limits.inbound_messages_burst" = "3"]
        hasty_subscriber_is_told_once_and_then_closed;
    "limits.inbound_messages_burst"
        ["limits.inbound_messages_per_second" = "3", "limits.inbound_messages_burst" = "3"]
        hasty_dashboard_is_told_once_and_then_closed;
    "limits.publish_request_bytes" ["limits.publish_request_bytes" = "64KiB"]
        publish_request_with_a_large_body_is_refused;
    "limits.publish_request_messages" ["limits.publish_request_messages" = "2"]
        publish_request_with_many_messages_is_refused_whole;
    "limits.idle_timeout" ["limits.idle_timeout" = "1s", "heartbeat.interval" = "100ms"]
        peer_that_answers_no_pings_is_closed;
    "limits.strikes" ["limits.strikes" = "3"]
        peer_that_sends_rubbish_is_told_each_time_and_then_closed;
    "limits.json_depth" ["limits.json_depth" = "4"]
        deeply_nested_json_is_refused;
    "ring.slots" ["server.shards" = "1", "ring.slots" = "64", "outbox.events" = "1048576", "outbox.bytes" = "64MiB"]
        subscribers_of_a_lapped_shard_are_told;
    "history.events" ["history.events" = "2"]
        resume_from_before_the_oldest_event_is_told_what_is_gone;
    "history.bytes" ["history.bytes" = "4KiB", "limits.publisher_bytes" = "4KiB"]
        resume_from_before_the_oldest_bytes_is_told_what_is_gone;
    "outbox.events" ["outbox.events" = "16", "outbox.bytes" = "64MiB"]
        reader_that_is_many_events_behind_gets_what_its_classes_promise;
    "outbox.bytes" ["outbox.events" = "1048576", "outbox.bytes" = "64KiB"]
        reader_that_is_many_bytes_behind_gets_what_its_classes_promise;
    "json.sticky_bytes" ["json.sticky_bytes" = "1KiB"]
        dashboard_away_longest_is_forgotten_for_one_that_is_here;
    "books.count" ["books.views" = "1", "books.count" = "1"]
        book_past_the_last_place_has_no_views_and_is_delivered_as_ever;
    "alerts.identities" ["alerts.min_durability" = "disk", "alerts.identities" = "1"]
        identity_past_the_last_is_refused_and_the_connection_stays;
    "alerts.waiting" ["alerts.min_durability" = "disk", "alerts.waiting" = "100"]
        alert_for_whom_too_much_waits_is_refused_and_the_rest_still_waits;
}

#[test]
fn every_limit_has_a_case_and_every_case_a_limit() {
    let limits: Vec<&str> = KEYS.iter().filter(|key| key.at_limit.is_some()).map(|key| key.name).collect();
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    assert_eq!(
        sorted(limits),
        sorted(TABLE.to_vec()),
        "keys with `at_limit` on the left, cases on the right"
    );
}

// ---------------------------------------------------------------------------------------------
// The bench

/// What the case of `limits.streams` sets.
const STREAMS: usize = 8;
/// Topic of the bystander.
const BYSTANDER: &str = "BYSTANDER";

/// A server whose limit is about to be hit, and somebody else on it.
struct Bench {
    key: &'static Key,
    /// `None` once it was stopped.
    server: Option<TestServer>,
    status: Arc<Status>,
    bystander: Receiver<Arrived>,
    _journal: TempDir,
}

impl Bench {
    fn start(key: &str, settings: &[(&str, &str)]) -> Self {
        let journal = TempDir::new().expect("a directory");
        let directory = [("journal.directory", journal.path().to_str().expect("plain text"))];
        let server = TestServer::start(&[settings, &directory].concat());
        let status = server.running.status().clone();
        let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
        raw.answers_pings = true;
        raw.subscribe(1, &format!("market_data.{BYSTANDER}"), Start::LIVE);
        assert!(matches!(raw.message(), Message::Acknowledge(_)));
        let (sender, bystander) = channel();
        thread::spawn(move || {
            while let Some(arrived) = raw.try_next() {
                let is_over = arrived.opcode == CLOSE;
                if sender.send(arrived).is_err() || is_over {
                    return;
                }
            }
        });
        let key = Key::find(key).expect("a key of the settings");
        let bench = Self { key, server: Some(server), status, bystander, _journal: journal };
        // Its stream is born before the limit is hit.
        bench.assert_bystander_gets("1.5");
        assert!(hits(&bench.status).iter().all(|(_, hits)| *hits == 0), "nothing was hit yet");
        bench
    }

    fn server(&self) -> &TestServer {
        self.server.as_ref().expect("not stopped yet")
    }

    fn hits(&self) -> u64 {
        hits(&self.status).into_iter().find(|(key, _)| key == self.key.name).map_or(0, |(_, hits)| hits)
    }

    fn binary(&self) -> Raw {
        Raw::binary(self.server().address(), Role::SUBSCRIBER)
    }

    /// A connection without a word said, and what it is answered before it says one.
    fn answer_to_silence(&self) -> String {
        let mut tcp = TcpStream::connect(self.server().address()).expect("connects");
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        let _ = tcp.read_to_string(&mut answer);
        answer
    }

    /// The limit's counter moved, no other limit's did, and the bystander is still served.
    fn finish(self) {
        self.wait_for_hit();
        let others: Vec<_> =
            hits(&self.status).into_iter().filter(|(key, hits)| key != self.key.name && *hits > 0).collect();
        assert!(others.is_empty(), "{}: others were hit: {others:?}", self.key.name);
        if self.server.is_some() {
            self.assert_bystander_gets("2.5");
        }
    }

    fn wait_for_hit(&self) {
        let began = Instant::now();
        while self.hits() == 0 {
            assert!(began.elapsed() < PATIENCE, "{} did not move", self.key.counter().expect("a limit"));
            thread::yield_now();
        }
    }

    fn assert_bystander_gets(&self, price: &str) {
        self.server().publish(&tick(BYSTANDER, price));
        loop {
            let arrived = self.bystander.recv_timeout(PATIENCE).expect("the bystander is still there");
            assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
            let ticks = messages(&arrived).into_iter().filter_map(|message| match message {
                Message::MarketData(tick) => tick.price,
                _ => None,
            });
            if ticks.into_iter().any(|found| found == price.parse().expect("a decimal")) {
                return;
            }
        }
    }

    // What a peer saw is compared with what `at_limit` says it sees.

    fn assert_documented(&self, word: &str) {
        let at_limit = self.key.at_limit.expect("a limit");
        assert!(at_limit.contains(word), "`at_limit` of {} does not say `{word}`: {at_limit}", self.key.name);
    }

    fn assert_closed(&self, raw: &mut Raw, code: CloseCode) {
        assert_eq!(raw.close_code(), Some(code.number()), "{} {code}", self.key.name);
        self.assert_documented(&format!("{} {}", code.number(), code.name()));
    }

    fn assert_error(&self, raw: &mut Raw, code: ErrorCode) {
        match raw.message() {
            Message::Error(error) => assert_eq!(ErrorCode::from_number(error.code), Some(code), "{error:?}"),
            other => panic!("not an error: {other:?}"),
        }
        self.assert_documented(code.name());
    }

    fn assert_status(&self, answer: &(u16, String), status: u16) {
        assert_eq!(answer.0, status, "{}", answer.1);
        self.assert_documented(&format!("HTTP {status}"));
    }
}

/// How often each limit was hit.
fn hits(status: &Status) -> Vec<(String, u64)> {
    let text = status.scrape();
    let hits = text
        .lines()
        .filter_map(|line| line.strip_prefix("tickcast_limit_hits_total{limit=\"")?.split_once("\"} "));
    let hits: Vec<_> = hits.map(|(key, count)| (key.to_owned(), count.parse().expect("a count"))).collect();
    assert_eq!(hits.len(), TABLE.len(), "every limit has its series from the start: {hits:?}");
    hits
}

fn messages(arrived: &Arrived) -> Vec<Message> {
    let frames = Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX);
    frames.map(|frame| frame.expect("a sound frame").view().expect("a sound payload").to_owned()).collect()
}

fn ping(sequence: u64) -> Message {
    Message::Ping(Ping { client_time: Timestamp(0), sequence })
}

/// The connection answers.
fn assert_open(raw: &mut Raw) {
    raw.say(&ping(77));
    assert!(matches!(raw.message(), Message::Pong(pong) if pong.sequence == 77));
}

/// The head of a masked binary frame of this length, whose payload never comes.
fn head_of(length: u16) -> [u8; 8] {
    let [high, low] = length.to_be_bytes();
    [0x82, 0x80 | 126, high, low, 1, 2, 3, 4]
}

/// A tick in native JSON with this much in it.
fn native(symbol: &str, venue_bytes: usize) -> String {
    let venue = "v".repeat(venue_bytes);
    format!(
        r#"{{"type":"market_data","data":{{"symbol":"{symbol}","ts":"2026-01-31T12:00:00Z","bid":1,"venue":"{venue}"}}}}"#
    )
}

/// A message of a class, with a text of this many bytes in it.
fn message_of(class: &str, bytes: usize) -> Message {
    let text = "x".repeat(bytes);
    match (class, common::sample(class)) {
        ("market_data", Message::MarketData(mut latest)) => {
            latest.symbol = "SLOW".into();
            latest.venue = Some(text);
            Message::MarketData(latest)
        }
        ("public_trade", Message::PublicTrade(mut ordered)) => {
            ordered.symbol = "SLOW".into();
            ordered.venue = Some(text);
            Message::PublicTrade(ordered)
        }
        ("risk_alert", Message::RiskAlert(mut critical)) => {
            critical.scope = "SLOW".into();
            critical.message = text;
            Message::RiskAlert(critical)
        }
        (other, _) => panic!("no message of {other}"),
    }
}

/// A subscriber of one topic that has stopped reading.
fn stalled(bench: &Bench, filter: &str) -> Raw {
    let mut raw = Raw::binary_with_little_room(bench.server().address());
    raw.subscribe(1, filter, Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    raw
}

/// It reads again, and quickly.
fn resume_reading(raw: &Raw) {
    socket2::SockRef::from(&raw.tcp).set_recv_buffer_size(1 << 20).expect("a receive buffer");
}

fn is_loss(notice: &Notice, reason: Reason) -> bool {
    notice.kind == NoticeKind::LOSS && notice.reason == reason
}

// ---------------------------------------------------------------------------------------------
// The cases, in the order of the table

fn stalled_client_is_closed_when_the_drain_is_over(bench: &mut Bench) {
    let mut raw = stalled(bench, "public_trade.SLOW");
    let message = message_of("public_trade", 12_000);
    bench.server().wait_until("something waits for the stalled client", |server| {
        server.publish(&message);
        server.metric("tickcast_shard_queued") > 0.0
    });
    let server = bench.server.take().expect("not stopped yet");
    let stopping = thread::spawn(move || {
        let began = Instant::now();
        server.running.stop();
        began.elapsed()
    });
    bench.wait_for_hit();
    resume_reading(&raw);
    bench.assert_closed(&mut raw, CloseCode::ServiceRestart);
    drop(raw);

    // The bystander, who reads, is told and let go.
    let mut draining = false;
    let code = loop {
        let arrived = bench.bystander.recv_timeout(PATIENCE).expect("the bystander is told");
        if arrived.opcode == CLOSE {
            break arrived.close_code();
        }
        let is_draining = |message: &Message| matches!(message, Message::Notice(notice) if notice.kind == NoticeKind::DRAINING);
        draining |= messages(&arrived).iter().any(is_draining);
    };
    assert_eq!((draining, code), (true, CloseCode::ServiceRestart.number()));
    let took = stopping.join().expect("the server stops");
    assert!(took.as_secs() < 10, "{took:?}");
}

fn connection_past_the_last_place_is_answered_before_it_says_anything(bench: &mut Bench) {
    let second = bench.binary();
    let answer = bench.answer_to_silence();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(
        answer.contains(ErrorCode::ConnectionLimit.name()) && answer.contains(bench.key.name),
        "{answer}"
    );
    bench.assert_documented("HTTP 503 with Retry-After");
    drop(second);
    bench.server().wait_until("the place is free again", |server| server.get("/healthz").0 == 200);
}

fn handshake_past_the_last_place_is_answered_before_it_says_anything(bench: &mut Bench) {
    // Keeps its place for as long as it may ask again; the bystander's is given back soon after its upgrade.
    let mut holder = None;
    bench.server().wait_until("there is a place", |server| {
        let mut tcp = TcpStream::connect(server.address()).expect("connects");
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", server.address());
        tcp.write_all(request.as_bytes()).expect("writes");
        let mut answer = [0; 12];
        let has_place = tcp.read_exact(&mut answer).is_ok() && answer.ends_with(b" 200");
        holder = has_place.then_some(tcp);
        has_place
    });
    let answer = bench.answer_to_silence();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(answer.contains(bench.key.name), "{answer}");
    bench.assert_documented("HTTP 503 with Retry-After");
}

fn request_that_never_ends_is_closed_without_an_answer(bench: &mut Bench) {
    // Not a hit: the end of a connection that was kept for a next request.
    let answer = http(bench.server().address(), "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(answer, (200, "ok\n".to_owned()));
    let answer = http(bench.server().address(), "GET /healthz HTTP/1.1\r\nho");
    assert_eq!(answer, (0, String::new()));
    bench.assert_documented("closed without an answer");
    bench.wait_for_hit();
    assert_eq!(bench.hits(), 1);
}

fn peer_that_never_says_hello_is_closed(bench: &mut Bench) {
    let mut raw = Raw::connect(bench.server().address(), "/ws", Some("tickcast.v2")).expect("upgrades");
    bench.assert_closed(&mut raw, CloseCode::HelloTimeout);
}

/// Says who it is, and gives the answer.
fn identify(raw: &mut Raw, identity: &str, token: &str) -> Message {
    raw.say(&Message::Identify(Identify { request: 1, identity: identity.into(), token: token.into() }));
    raw.message()
}

fn dashboard_away_longest_is_forgotten_for_one_that_is_here(bench: &mut Bench) {
    let address = bench.server().address();
    let open = |name: &str| {
        let mut raw =
            Raw::connect(address, &format!("/ws/realtime?client_id={name}"), None).expect("upgrades");
        (raw.next().json()["data"]["subscriptions"].as_array().expect("a list").len(), raw)
    };
    let subscribed = |name: &str| {
        let (_, mut raw) = open(name);
        raw.send_text(r#"{"type":"subscribe","data":{"subscription_type":"market_data"}}"#);
        assert_eq!(raw.next().json()["data"]["status"], "subscribed");
        raw
    };
    for name in ["first", "second", "third"] {
        let open = bench.server().metric("tickcast_connections");
        drop(subscribed(name));
        bench.server().wait_until("it has left", |server| server.metric("tickcast_connections") == open);
    }
    let _here = subscribed("fourth");
    assert_eq!(open("first").0, 0, "forgotten");
    bench.assert_documented("comes back without subscriptions");
    assert_eq!(open("fourth").0, 1, "who is here is not");
}

fn book_past_the_last_place_has_no_views_and_is_delivered_as_ever(bench: &mut Bench) {
    let mut books = bench.binary();
    books.subscribe(2, "order_book.*", Start::LIVE);
    let mut views = bench.binary();
    views.subscribe(3, "partial_book.**", Start::LIVE);
    for raw in [&mut books, &mut views] {
        assert!(matches!(raw.message(), Message::Acknowledge(_)));
    }
    let book = |symbol: &str| {
        let Message::OrderBook(mut book) = common::sample("order_book") else { panic!("a book") };
        (book.symbol, book.kind, book.checksum) = (symbol.into(), BookKind::SNAPSHOT, None);
        (book.bids, book.asks, book.depth) = (Vec::new(), Vec::new(), None);
        Message::OrderBook(book)
    };
    for symbol in ["FIRST", "SECOND"] {
        bench.server().publish(&book(symbol));
        assert!(matches!(books.data().1, Message::OrderBook(book) if book.symbol == symbol));
    }
    bench.wait_for_hit();
    bench.assert_documented("no views are made");
    assert!(matches!(views.data().1, Message::PartialBook(view) if view.symbol == "FIRST"));
    let topics: Vec<String> = bench
        .server()
        .running
        .ingest()
        .engine()
        .streams()
        .into_iter()
        .map(|stream| stream.topic.to_string())
        .filter(|topic| topic.starts_with("partial_book."))
        .collect();
    assert_eq!(topics, ["partial_book.1.FIRST"]);
}

fn identity_past_the_last_is_refused_and_the_connection_stays(bench: &mut Bench) {
    let mut first = bench.binary();
    let Message::Identified(identified) = identify(&mut first, "one", "") else { panic!("identified") };
    let mut second = bench.binary();
    let Message::Error(error) = identify(&mut second, "two", "") else { panic!("refused") };
    assert_eq!(ErrorCode::from_number(error.code), Some(ErrorCode::Unavailable), "{error:?}");
    bench.assert_documented("UNAVAILABLE");
    second.subscribe(2, "market_data.*", Start::LIVE);
    assert!(matches!(second.message(), Message::Acknowledge(_)), "without an identity");
    // Who is known comes back.
    assert!(matches!(identify(&mut bench.binary(), "one", &identified.token), Message::Identified(_)));
}

fn alert_for_whom_too_much_waits_is_refused_and_the_rest_still_waits(bench: &mut Bench) {
    let mut raw = bench.binary();
    let Message::Identified(identified) = identify(&mut raw, "desk", "") else { panic!("identified") };
    raw.subscribe(2, "risk_alert.**", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    drop(raw);
    let Message::RiskAlert(alert) = common::sample("risk_alert") else { panic!("risk_alert") };
    let mut publisher = Raw::binary(bench.server().address(), Role::PUBLISHER);
    let mut publish = |request| {
        let publish = Publish {
            request,
            topic: String::new(),
            id: String::new(),
            durability: Durability::DISK,
            expires_at: Timestamp(0),
            collapse_key: String::new(),
        };
        let mut bytes = frame::encode(&Message::Publish(publish));
        frame::append(&Message::RiskAlert(alert.clone()), &mut bytes);
        publisher.send(BINARY, &bytes);
        let Message::Published(reply) = publisher.message() else { panic!("a reply") };
        reply
    };
    for request in 0..100 {
        let reply = publish(request);
        assert_eq!((reply.status, reply.queued), (PublishStatus::ACCEPTED, 1), "{reply:?}");
    }
    let refused = publish(100);
    assert_eq!((refused.status, refused.code), (PublishStatus::REFUSED, ErrorCode::QueueFull.number()));
    bench.assert_documented(ErrorCode::QueueFull.name());

    let mut raw = bench.binary();
    assert!(matches!(identify(&mut raw, "desk", &identified.token), Message::Identified(_)));
    let mut sequences = Vec::new();
    while sequences.len() < 100 {
        if let Message::Deliver(word) = raw.message() {
            sequences.push(word.sequence);
            raw.say(&Message::Ack(Ack { through: word.position, spans: Vec::new() }));
        }
    }
    assert_eq!(sequences, (1..=100).collect::<Vec<u64>>(), "all that were accepted, and only they");
}

fn request_with_long_headers_is_refused(bench: &mut Bench) {
    let padding = "p".repeat(10 * 1024);
    let request = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\npadding: {padding}\r\n\r\n"
    );
    bench.assert_status(&http(bench.server().address(), &request), 431);
}

fn request_with_many_headers_is_refused(bench: &mut Bench) {
    let many: String = (0..15).map(|at| format!("h{at}: v\r\n")).collect();
    let request = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{many}\r\n");
    bench.assert_status(&http(bench.server().address(), &request), 431);
}

fn large_message_of_a_subscriber_is_refused_on_its_header(bench: &mut Bench) {
    let mut raw = bench.binary();
    raw.send_bytes(&head_of(1_025));
    bench.assert_closed(&mut raw, CloseCode::MessageTooBig);
}

fn large_message_of_a_publisher_is_refused_on_its_header_or_by_itself(bench: &mut Bench) {
    let mut raw = Raw::binary(bench.server().address(), Role::PUBLISHER);
    raw.send_bytes(&head_of(4_097));
    bench.assert_closed(&mut raw, CloseCode::MessageTooBig);

    let (small, large) = (native("SMALL", 10), native("LARGE", 5_000));
    for (kind, body) in [
        ("application/x-ndjson", format!("{large}\n{small}\n")),
        ("application/json", format!("[{large},{small}]")),
    ] {
        let before = bench.hits();
        let (status, replies) = bench.server().post("/api/v1/publish", kind, &body);
        let replies: serde_json::Value = serde_json::from_str(&replies).expect("replies");
        assert_eq!(
            (status, &replies[0]["status"], &replies[1]["status"]),
            (200, &"refused".into(), &"accepted".into())
        );
        assert_eq!(replies[0]["code"], ErrorCode::MessageTooLarge.name(), "{replies}");
        bench.assert_documented(ErrorCode::MessageTooLarge.name());
        assert_eq!(bench.hits(), before + 1);
    }
}

fn message_in_many_fragments_is_refused(bench: &mut Bench) {
    let mut raw = bench.binary();
    raw.send_bytes(&masked(0x02, b""));
    for _ in 0..4 {
        raw.send_bytes(&masked(0x00, b""));
    }
    bench.assert_closed(&mut raw, CloseCode::PolicyViolation);
}

fn message_that_never_ends_is_given_up(bench: &mut Bench) {
    let mut raw = bench.binary();
    raw.send_bytes(&masked(0x02, b"begun"));
    bench.assert_closed(&mut raw, CloseCode::PolicyViolation);
    // The same half a frame into a message.
    let mut raw = bench.binary();
    raw.send_bytes(&head_of(100));
    bench.assert_closed(&mut raw, CloseCode::PolicyViolation);

    let address = bench.server().address();
    let request = format!(
        "POST /api/v1/publish HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    bench.assert_status(&http(address, &request), 408);
}

fn subscription_past_the_limit_is_refused_and_the_connection_stays(bench: &mut Bench) {
    let mut raw = bench.binary();
    for request in 1..=2 {
        raw.subscribe(request, &format!("market_data.S{request}"), Start::LIVE);
        assert!(matches!(raw.message(), Message::Acknowledge(_)));
    }
    raw.subscribe(3, "market_data.S3", Start::LIVE);
    bench.assert_error(&mut raw, ErrorCode::SubscriptionLimit);
    assert_open(&mut raw);

    // In D1 market data are two: quotes and the tape.
    let mut d1 = Raw::d1(bench.server().address());
    let subscribe = |symbol: &str| {
        format!(
            r#"{{"message_type":"subscribe","data":{{"subscription_type":"market_data","symbol":"{symbol}"}}}}"#
        )
    };
    d1.send_text(&subscribe("A"));
    assert_eq!(d1.next().json()["data"]["status"], "subscribed");
    d1.send_text(&subscribe("B"));
    let refused = d1.next().json();
    assert_eq!(
        (&refused["message_type"], &refused["data"]["status"]),
        (&"subscription_ack".into(), &"failed".into())
    );
    assert_eq!(d1.next().json()["data"]["error_code"], ErrorCode::SubscriptionLimit.name());
    d1.send_text(r#"{"message_type":"ping","data":{}}"#);
    assert_eq!(d1.next().json()["message_type"], "pong");
}

fn publish_to_a_stream_past_the_limit_is_refused_and_the_others_go_on(bench: &mut Bench) {
    // The server's own announcements take streams as well, so it is not said which one is too many.
    let body: Vec<String> = (0..STREAMS).map(|at| native(&format!("S{at}"), 1)).collect();
    let body = format!("[{},{}]", body.join(","), native(BYSTANDER, 1));
    let (_, replies) = bench.server().post("/api/v1/publish", "application/json", &body);
    let replies: serde_json::Value = serde_json::from_str(&replies).expect("replies");
    assert_eq!(replies[STREAMS - 1]["code"], ErrorCode::StreamLimit.name(), "{replies}");
    assert_eq!(replies[STREAMS]["status"], "accepted", "{replies}");
    bench.assert_documented(ErrorCode::StreamLimit.name());

    let mut raw = Raw::binary(bench.server().address(), Role::PUBLISHER);
    let publish = Publish {
        request: 5,
        topic: String::new(),
        id: String::new(),
        durability: Durability::MEMORY,
        expires_at: Timestamp(0),
        collapse_key: String::new(),
    };
    let mut bytes = frame::encode(&Message::Publish(publish));
    frame::append(&tick("ANOTHER", "1"), &mut bytes);
    raw.send(BINARY, &bytes);
    let Message::Published(reply) = raw.message() else { panic!("a reply") };
    assert_eq!((reply.status, reply.code), (PublishStatus::REFUSED, ErrorCode::StreamLimit.number()));
}

fn hasty_subscriber_is_told_once_and_then_closed(bench: &mut Bench) {
    let mut raw = bench.binary();
    let burst: Vec<u8> = (0..50).flat_map(|sequence| masked(0x82, &frame::encode(&ping(sequence)))).collect();
    raw.send_bytes(&burst);
    let mut errors = Vec::new();
    let code = loop {
        let arrived = raw.next();
        if arrived.opcode == CLOSE {
            break arrived.close_code();
        }
        errors.extend(messages(&arrived).into_iter().filter_map(|message| match message {
            Message::Error(error) => Some(error.code),
            _ => None,
        }));
    };
    assert_eq!((errors, code), (vec![ErrorCode::RateLimited.number()], CloseCode::RateLimited.number()));
    bench.assert_documented("error RATE_LIMITED once, then close 4006 rate_limited");
}

fn hasty_dashboard_is_told_once_and_then_closed(bench: &mut Bench) {
    let mut raw = Raw::d1(bench.server().address());
    let burst = masked(0x81, br#"{"message_type":"ping","data":{}}"#).repeat(50);
    raw.send_bytes(&burst);
    let mut errors = Vec::new();
    let code = loop {
        let arrived = raw.next();
        if arrived.opcode == CLOSE {
            break arrived.close_code();
        }
        let message = arrived.json();
        if message["message_type"] == "error" {
            errors.push(message["data"]["error_code"].clone());
        }
    };
    assert_eq!((errors, code), (vec![ErrorCode::RateLimited.name().into()], CloseCode::RateLimited.number()));
    bench.assert_documented("error RATE_LIMITED once, then close 4006 rate_limited");
}

fn publish_request_with_a_large_body_is_refused(bench: &mut Bench) {
    let body = format!("{}\n", native("LARGE", 100)).repeat(400);
    assert!(body.len() > 64 * 1024);
    bench.assert_status(&bench.server().post("/api/v1/publish", "application/x-ndjson", &body), 413);
}

fn publish_request_with_many_messages_is_refused_whole(bench: &mut Bench) {
    let series = "tickcast_messages_received_total{type=\"market_data\"}";
    let received = bench.server().metric(series);
    let [a, b, c] = ["A", "B", "C"].map(|symbol| native(symbol, 1));
    let array = format!("[{a},{b},{c}]");
    bench.assert_status(&bench.server().post("/api/v1/publish", "application/json", &array), 413);
    let lines = format!("{a}\n{b}\n\n{c}");
    bench.assert_status(&bench.server().post("/api/v1/publish", "application/x-ndjson", &lines), 413);
    assert_eq!(bench.server().metric(series), received, "nothing of it was published");
    assert_eq!(bench.hits(), 2);
}

fn peer_that_answers_no_pings_is_closed(bench: &mut Bench) {
    let mut raw = bench.binary();
    bench.assert_closed(&mut raw, CloseCode::HeartbeatTimeout);
}

fn peer_that_sends_rubbish_is_told_each_time_and_then_closed(bench: &mut Bench) {
    let mut raw = bench.binary();
    for _ in 0..3 {
        raw.send(BINARY, b"rubbish");
        let Message::Error(error) = raw.message() else { panic!("an error") };
        assert_eq!(ErrorCode::from_number(error.code), Some(ErrorCode::BadRequest), "{error:?}");
    }
    bench.assert_closed(&mut raw, CloseCode::BadRequest);
}

fn deeply_nested_json_is_refused(bench: &mut Bench) {
    let nested = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let mut d1 = Raw::d1(bench.server().address());
    d1.send_text(&nested(5));
    let error = d1.next().json();
    assert_eq!(error["data"]["error_code"], "INVALID_JSON", "{error}");
    bench.assert_documented("INVALID_JSON");
    d1.send_text(r#"{"message_type":"ping","data":{}}"#);
    assert_eq!(d1.next().json()["message_type"], "pong", "it is one strike, not the end");
    assert_eq!(bench.hits(), 1);

    // A publish request has two levels of its own around the message's.
    let (status, problem) = bench.server().post("/api/v1/publish", "application/json", &nested(7));
    assert_eq!(status, 400, "{problem}");
    assert!(problem.contains(ErrorCode::BadRequest.name()), "{problem}");
    bench.assert_documented(ErrorCode::BadRequest.name());
    assert_eq!(bench.hits(), 2);
}

fn subscribers_of_a_lapped_shard_are_told(bench: &mut Bench) {
    let mut raw = bench.binary();
    raw.subscribe(1, "public_trade.LAP", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    let Message::PublicTrade(mut trade) = common::sample("public_trade") else { panic!("public_trade") };
    trade.symbol = "LAP".into();
    let message = Message::PublicTrade(trade);
    // Faster than a shard, sooner or later.
    bench.server().wait_until("a shard is lapped", |server| {
        (0..2_000).for_each(|_| server.publish(&message));
        server.metric("tickcast_shard_laps_total") > 0.0
    });
    let told = read_until(
        &mut raw,
        |message| matches!(message, Message::Notice(notice) if is_loss(notice, Reason::LAPPED)),
    );
    let Some(Message::Notice(notice)) = told.last() else { panic!("a notice") };
    assert!(notice.gapped > 0 && notice.gapped == notice.through + 1 - notice.from, "{notice:?}");
    bench.assert_documented(Reason::LAPPED.name());
}

fn resume_from_before_the_oldest_event_is_told_what_is_gone(bench: &mut Bench) {
    resume_too_late(bench, &message_of("public_trade", 10));
}

fn resume_from_before_the_oldest_bytes_is_told_what_is_gone(bench: &mut Bench) {
    resume_too_late(bench, &message_of("public_trade", 1_800));
}

/// Of five events the first was seen, and the history has the last two.
fn resume_too_late(bench: &Bench, message: &Message) {
    (0..5).for_each(|_| bench.server().publish(message));
    let resume = Resume {
        request: 9,
        filter: "public_trade.SLOW".into(),
        epoch: bench.server().running.ingest().engine().epoch().0,
        positions: vec![Position {
            topic: "public_trade.SLOW".into(),
            class: ClassName::ORDERED,
            sequence: 1,
        }],
        policy: Policy::DEFAULT,
        predicate: String::new(),
        max_hz: 0.0,
    };
    let mut raw = bench.binary();
    raw.say(&Message::Resume(resume));
    let all = read_until(&mut raw, |message| matches!(message, Message::End(_)));
    let [ack, bind, history, begin, notice, fourth, fifth, end] = all.as_slice() else { panic!("{all:?}") };
    assert!(
        matches!(history, Message::History(history) if history.short[0].oldest == 4),
        "the oldest there is: {history:?}"
    );
    assert!(matches!(ack, Message::Acknowledge(ack) if ack.request == 9), "{ack:?}");
    assert!(matches!(bind, Message::Bind(bind) if bind.bindings[0].next_sequence == 2), "{bind:?}");
    assert!(
        matches!(begin, Message::Begin(begin) if begin.bracket == Bracket::REPLAY && begin.events == 2),
        "{begin:?}"
    );
    let Message::Notice(notice) = notice else { panic!("{notice:?}") };
    assert!(is_loss(notice, Reason::HISTORY_GONE), "{notice:?}");
    assert_eq!((notice.from, notice.through, notice.gapped), (2, 3, 2));
    assert_eq!((fourth, fifth), (message, message));
    assert!(matches!(end, Message::End(_)));
    bench.assert_documented(Reason::HISTORY_GONE.name());
}

fn reader_that_is_many_events_behind_gets_what_its_classes_promise(bench: &mut Bench) {
    fall_behind(bench);
}

fn reader_that_is_many_bytes_behind_gets_what_its_classes_promise(bench: &mut Bench) {
    fall_behind(bench);
}

/// Three readers stall, each of one class.
fn fall_behind(bench: &Bench) {
    let [mut latest, mut ordered, mut critical] =
        ["market_data.SLOW", "public_trade.SLOW", "risk_alert.SLOW"].map(|filter| stalled(bench, filter));
    let messages = ["market_data", "public_trade", "risk_alert"].map(|class| message_of(class, 12_000));
    bench.server().wait_until("each class shows what it does", |server| {
        messages.iter().for_each(|message| server.publish(message));
        ["conflated_total", "gapped_total", "closed_slow_total"]
            .iter()
            .all(|name| server.metric(&format!("tickcast_shard_{name}")) > 0.0)
    });
    [&latest, &ordered, &critical].into_iter().for_each(resume_reading);

    let is_told = |message: &Message| matches!(message, Message::Notice(notice) if is_loss(notice, Reason::OUTBOX_FULL));
    for (raw, word, conflates) in
        [(&mut latest, "latest is conflated", true), (&mut ordered, "ordered skips with a gap notice", false)]
    {
        let told = read_until(raw, is_told);
        let Some(Message::Notice(notice)) = told.last() else { panic!("a notice") };
        let range = notice.through + 1 - notice.from;
        let counts = if conflates { (range, 0) } else { (0, range) };
        assert_eq!((notice.conflated, notice.gapped), counts, "{notice:?}");
        bench.assert_documented(word);
    }
    // Nothing critical was skipped until the end.
    let mut next = 1;
    let code = loop {
        let arrived = critical.next();
        if arrived.opcode == CLOSE {
            break arrived.close_code();
        }
        for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
            let header = frame.expect("a sound frame").header;
            if header.type_id >= registry::DATA_FIRST {
                assert_eq!(header.sequence, next);
                next += 1;
            }
        }
    };
    assert_eq!(code, CloseCode::SlowConsumer.number());
    assert!(next > 1);
    bench.assert_documented("4003 slow_consumer");
}

/// Messages up to the first that is `last`, data included.
fn read_until(raw: &mut Raw, last: impl Fn(&Message) -> bool) -> Vec<Message> {
    let began = Instant::now();
    let mut all = Vec::new();
    loop {
        assert!(began.elapsed() < PATIENCE, "it did not come");
        let arrived = raw.next();
        assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
        for message in messages(&arrived) {
            let found = last(&message);
            all.push(message);
            if found {
                return all;
            }
        }
    }
}
