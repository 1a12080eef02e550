//! Dashboards that never subscribe again: who named itself in the address has its subscriptions back with the
//! connection, and what it missed. Time is the test's own.

mod common;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Raw, TestServer, sample, tick};
use serde_json::{Value, json};
use tempfile::TempDir;
use tickcast::clock::Clock;
use tickcast::ingest::{Source, Wishes};
use tickcast_protocol::frame::{FLAG_CRITICAL, Frame, payload};
use tickcast_protocol::message::{Alert, MarketData, Message};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const START: u64 = 1_790_000_000 * SECOND;
const NAMED: &str = "/ws/realtime?client_id=desk-7";
const BEATS: (&str, &str) = ("heartbeat.interval", "20ms");

thread_local! {
    /// How long ago this thread read the clock when it publishes: a critical message has the time at which it
    /// came, and is on the ring when its disk is done.
    static SINCE_THEN: Cell<u64> = const { Cell::new(0) };
}

/// A server whose clock stands still until it is moved.
struct Timed {
    server: TestServer,
    now: Arc<AtomicU64>,
}

impl Timed {
    fn start(settings: &[(&str, &str)]) -> Self {
        let now = Arc::new(AtomicU64::new(START));
        let read = now.clone();
        let clock = Clock::new(move || read.load(Ordering::SeqCst) - SINCE_THEN.get());
        Self { server: TestServer::with_clock(settings, clock), now }
    }

    fn pass(&self, time: u64) {
        self.now.fetch_add(time, Ordering::SeqCst);
    }

    fn set_back(&self, time: u64) {
        self.now.fetch_sub(time, Ordering::SeqCst);
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn alert(&self, alert_id: u64) {
        let Message::Alert(alert) = sample("alert") else { panic!("alert") };
        self.publish(&Message::Alert(Alert { alert_id, ..alert }));
    }

    /// Publishes something, and waits until the shards have distributed it: who comes then finds it in the past.
    fn publish(&self, message: &Message) {
        self.server.publish(message);
        self.server.wait_until("it is distributed", |server| server.running.ingest().engine().lag() == 0);
    }
}

/// A page, and what it has seen.
struct Page {
    raw: Raw,
    /// The keys of its subscriptions, as the greeting has them.
    greeted_with: Vec<String>,
    seen: Vec<String>,
}

impl Page {
    fn open(address: SocketAddr, path: &str) -> Self {
        let mut raw = Raw::connect(address, path, None).expect("upgrades");
        raw.answers_pings = true;
        let greeting = raw.next().json();
        assert_eq!(greeting["message_type"], "connection_status", "{greeting}");
        let keys = greeting["data"]["subscriptions"].as_array().expect("a list").iter();
        let greeted_with = keys.map(|key| key.as_str().expect("text").to_owned()).collect();
        Self { raw, greeted_with, seen: Vec::new() }
    }

    fn next(&mut self) -> Value {
        let message = self.raw.next().json();
        let data = &message["data"];
        match message["message_type"].as_str() {
            Some("market_data") => {
                self.seen.push(format!("{} {}", data["symbol"].as_str().unwrap(), data["price"]))
            }
            Some("alert") => self.seen.push(format!("alert {}", data["alert_id"])),
            Some("error") => self.seen.push(format!("{} {}", data["error_code"], data["error_message"])),
            _ => {}
        }
        message
    }

    /// Reads until an answer to something that it asks for last.
    fn ask(&mut self, request: &Value, answer: &str) -> Value {
        self.raw.send_text(&request.to_string());
        loop {
            let message = self.next();
            if message["message_type"] == answer {
                return message["data"].clone();
            }
        }
    }

    fn subscribe(&mut self, subscription_type: &str) {
        let data = json!({"subscription_type": subscription_type});
        let ack = self.ask(&json!({"type": "subscribe", "data": data}), "subscription_ack");
        assert_eq!(ack["status"], "subscribed", "{ack}");
    }

    fn unsubscribe(&mut self, subscription_type: &str) {
        let data = json!({"subscription_type": subscription_type});
        let ack = self.ask(&json!({"type": "unsubscribe", "data": data}), "subscription_ack");
        assert_eq!(ack["status"], "unsubscribed", "{ack}");
    }

    /// Everything that was sent before has been seen.
    fn sync(&mut self) -> &[String] {
        self.ask(&json!({"type": "ping", "data": {"sequence": 1}}), "pong");
        &self.seen
    }

    /// Answers a ping that goes out from now on, and sees to it that the answer has arrived.
    fn answer_a_ping(&mut self) {
        for _ in 0..2 {
            while self.next()["message_type"] != "connection_status" {}
        }
        // The first of them may read the ping behind the status; the second comes behind its answer.
        self.sync();
        self.sync();
    }

    /// As a cable is pulled: nothing is said.
    fn cut(self, server: &TestServer) {
        let open = server.metric("tickcast_connections");
        drop(self.raw);
        server.wait_until("the server knows", |server| server.metric("tickcast_connections") < open);
    }

    fn leaves_with(mut self, code: u16) {
        self.raw.send(common::CLOSE, &code.to_be_bytes());
        assert_eq!(self.raw.close_code(), Some(code));
    }
}

#[test]
fn a_page_that_never_subscribes_again_goes_on_after_a_cut() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    assert!(page.greeted_with.is_empty());
    page.subscribe("market_data");
    page.subscribe("alerts");
    timed.publish(&tick("BTC-USD", "1"));
    timed.alert(1);
    assert_eq!(page.sync(), ["BTC-USD 1", "alert 1"]);
    timed.pass(10 * SECOND);
    page.answer_a_ping();
    page.cut(&timed.server);

    timed.pass(SECOND);
    for price in ["2", "3"] {
        timed.publish(&tick("BTC-USD", price));
    }
    timed.alert(2);
    timed.pass(4 * MINUTE);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.greeted_with, ["alerts", "market_data"]);
    timed.publish(&tick("BTC-USD", "4"));
    // Of prices the last one, of alerts all that came since the ping, and none from before it.
    let mut seen = page.sync().to_vec();
    seen.sort_unstable();
    assert_eq!(seen, ["BTC-USD 3", "BTC-USD 4", "alert 2"]);
}

#[test]
fn what_was_sent_and_perhaps_not_received_comes_again() {
    let timed = Timed::start(&[("heartbeat.interval", "30m"), ("limits.idle_timeout", "1h")]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.pass(20 * SECOND);
    timed.alert(3);
    page.sync();
    page.cut(&timed.server);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.sync(), ["alert 3"]);
}

#[test]
fn a_page_that_subscribes_again_gets_nothing_twice() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    page.subscribe("market_data");
    timed.pass(10 * SECOND);
    page.answer_a_ping();
    page.cut(&timed.server);
    timed.alert(2);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    page.subscribe("market_data");
    timed.alert(4);
    timed.publish(&tick("BTC-USD", "1"));
    let mut seen = page.sync().to_vec();
    seen.sort_unstable();
    assert_eq!(seen, ["BTC-USD 1", "alert 2", "alert 4"]);
}

#[test]
fn what_history_has_no_more_is_told() {
    let timed = Timed::start(&[BEATS, ("history.events", "4")]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.pass(10 * SECOND);
    page.answer_a_ping();
    page.cut(&timed.server);
    for id in 1..=6 {
        timed.alert(id);
    }
    let mut page = Page::open(timed.address(), NAMED);
    let seen = page.sync();
    let told = r#""DATA_GAP" "what was published on alert.symbol-70 before 3 is not kept any more""#;
    assert_eq!(seen[0], told);
    assert_eq!(seen[1..], ["alert 3", "alert 4", "alert 5", "alert 6"]);
}

#[test]
fn more_of_the_past_than_fits_at_once_comes_as_there_is_room() {
    let timed = Timed::start(&[BEATS, ("history.bytes", "2MiB"), ("outbox.bytes", "8MiB")]);
    let symbols = ["A", "B", "C", "D", "E"];
    let mut page = Page::open(timed.address(), NAMED);
    for symbol in symbols {
        let data = json!({"subscription_type": "alerts", "symbol": symbol});
        page.ask(&json!({"type": "subscribe", "data": data}), "subscription_ack");
    }
    page.cut(&timed.server);
    let Message::Alert(alert) = sample("alert") else { panic!("alert") };
    for (at, symbol) in symbols.iter().enumerate() {
        for id in 0..60 {
            timed.publish(&Message::Alert(Alert {
                alert_id: at as u64 * 100 + id,
                symbol: (*symbol).to_owned(),
                message: "x".repeat(16_000),
                ..alert.clone()
            }));
        }
    }
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.greeted_with.len(), symbols.len(), "all are there or on their way");
    while page.seen.len() < symbols.len() * 60 {
        page.next();
    }
    let expected =
        (0..symbols.len() as u64).flat_map(|at| (0..60).map(move |id| format!("alert {}", at * 100 + id)));
    assert_eq!(page.seen, expected.collect::<Vec<_>>());
}

#[test]
fn what_was_given_up_does_not_come_back() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    page.subscribe("market_data");
    page.unsubscribe("market_data");
    page.cut(&timed.server);
    assert_eq!(Page::open(timed.address(), NAMED).greeted_with, ["alerts"]);
}

#[test]
fn a_page_that_says_goodbye_is_forgotten_and_one_that_fails_is_not() {
    let timed = Timed::start(&[BEATS]);
    for (code, is_kept) in [(1000, false), (1001, false), (1011, true), (4000, true)] {
        let path = format!("/ws/realtime?client_id=page-{code}");
        let mut page = Page::open(timed.address(), &path);
        page.subscribe("alerts");
        page.leaves_with(code);
        timed.server.wait_until("it is gone", |server| server.metric("tickcast_connections") == 0.0);
        let page = Page::open(timed.address(), &path);
        assert_eq!(!page.greeted_with.is_empty(), is_kept, "{code}");
        page.cut(&timed.server);
    }
}

#[test]
fn who_stays_away_too_long_or_has_no_name_begins_anew() {
    let timed = Timed::start(&[BEATS, ("json.sticky_for", "60s")]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    let mut nameless = Page::open(timed.address(), "/ws/realtime");
    nameless.subscribe("alerts");
    page.cut(&timed.server);
    nameless.cut(&timed.server);
    timed.pass(60 * SECOND);
    let page = Page::open(timed.address(), NAMED);
    assert_eq!(page.greeted_with, ["alerts"], "in time");
    page.cut(&timed.server);
    timed.pass(61 * SECOND);
    assert!(Page::open(timed.address(), NAMED).greeted_with.is_empty());
    assert!(Page::open(timed.address(), "/ws/realtime").greeted_with.is_empty());
    let none = Timed::start(&[BEATS, ("json.sticky_for", "0s")]);
    let mut page = Page::open(none.address(), NAMED);
    page.subscribe("alerts");
    page.cut(&none.server);
    assert!(Page::open(none.address(), NAMED).greeted_with.is_empty());
}

#[test]
fn a_page_is_back_before_the_server_knows_that_it_was_gone() {
    let timed = Timed::start(&[BEATS]);
    let mut dead = Page::open(timed.address(), NAMED);
    dead.subscribe("alerts");
    dead.subscribe("market_data");
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.greeted_with, ["alerts", "market_data"]);
    timed.alert(5);
    assert_eq!(page.sync(), ["alert 5"]);
    dead.cut(&timed.server);
    // The page is here: however long, it is not away.
    timed.pass(10 * MINUTE);
    page.cut(&timed.server);
    assert_eq!(Page::open(timed.address(), NAMED).greeted_with, ["alerts", "market_data"]);
}

#[test]
fn subscriptions_come_back_in_the_spelling_they_were_made_in() {
    let timed = Timed::start(&[BEATS, ("json.case", "auto")]);
    let mut raw = Raw::connect(timed.address(), NAMED, None).expect("upgrades");
    raw.next();
    raw.send_text(r#"{"messageType":"subscribe","version":"1.0","timestamp":"2026-01-31T12:00:00.000Z","data":{"subscriptionType":"market_data","instrumentId":5,"requestId":"r"}}"#);
    while raw.next().json()["messageType"] != "subscription_ack" {}
    let page = Page { raw, greeted_with: Vec::new(), seen: Vec::new() };
    page.cut(&timed.server);
    let mut raw = Raw::connect(timed.address(), NAMED, None).expect("upgrades");
    let greeting = raw.next().json();
    assert_eq!(greeting["data"]["clientId"], "desk-7", "{greeting}");
    assert_eq!(greeting["data"]["subscriptions"], json!(["market_data_5"]));
    // Its number was never seen; now it is, and the subscription begins.
    let Message::MarketData(price) = tick("BTC-USD", "7") else { panic!("market_data") };
    timed.publish(&Message::MarketData(MarketData { instrument_id: Some(5), ..price }));
    let data = loop {
        let message = raw.next().json();
        if message["messageType"] == "market_data" {
            break message["data"].clone();
        }
    };
    assert_eq!(data["instrumentId"], 5);
}

#[test]
fn subscriptions_outlive_the_server_with_a_journal() {
    let folder = TempDir::new().unwrap();
    let journal = folder.path().display().to_string();
    let settings = [BEATS, ("alerts.min_durability", "disk"), ("journal.directory", journal.as_str())];
    let timed = Timed::start(&settings);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    page.subscribe("market_data");
    let mut gone = Page::open(timed.address(), "/ws/realtime?client_id=gone");
    gone.subscribe("alerts");
    gone.leaves_with(1000);
    timed.server.running.stop();

    let timed = Timed::start(&settings);
    // Before it is back.
    timed.alert(6);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.greeted_with, ["alerts", "market_data"]);
    timed.publish(&tick("BTC-USD", "1"));
    while page.seen.len() < 3 {
        page.next();
    }
    let told = r#""DATA_GAP" "what was published before the server began is not kept""#;
    assert_eq!(page.seen[0], told, "once");
    page.seen[1..].sort_unstable();
    assert_eq!(page.seen[1..], ["BTC-USD 1", "alert 6"]);
    assert!(Page::open(timed.address(), "/ws/realtime?client_id=gone").greeted_with.is_empty());
    // They are no identities: nothing waits for them.
    assert_eq!(timed.server.get("/api/v1/identities"), (200, "[]".to_owned()));
}

#[test]
fn as_many_subscriptions_as_there_may_be_outlive_the_server() {
    let folder = TempDir::new().unwrap();
    let journal = folder.path().display().to_string();
    let settings = [
        ("heartbeat.interval", "1s"),
        ("limits.inbound_messages_per_second", "100000"),
        ("limits.inbound_messages_burst", "100000"),
        ("alerts.min_durability", "disk"),
        ("journal.directory", journal.as_str()),
    ];
    let timed = Timed::start(&settings);
    let mut page = Page::open(timed.address(), NAMED);
    for number in 0..1_024 {
        let symbol = format!("BTC-USD-PERP-{number:07}");
        let data = json!({"subscription_type": "technical_indicators", "symbol": symbol});
        page.ask(&json!({"type": "subscribe", "data": data}), "subscription_ack");
    }
    timed.server.wait_until("they are on disk", |server| server.metric("tickcast_sticky_unsaved") == 0.0);
    page.cut(&timed.server);
    timed.server.running.stop();
    let timed = Timed::start(&settings);
    assert_eq!(Page::open(timed.address(), NAMED).greeted_with.len(), 1_024);
}

#[test]
fn a_page_with_many_subscriptions_lives_through_heartbeats() {
    let settings = [
        BEATS,
        ("limits.inbound_messages_per_second", "100000"),
        ("limits.inbound_messages_burst", "100000"),
    ];
    let timed = Timed::start(&settings);
    let mut page = Page::open(timed.address(), NAMED);
    for number in 0..1_024 {
        let symbol = format!("{number:060}");
        let data = json!({"subscription_type": "technical_indicators", "symbol": symbol});
        page.ask(&json!({"type": "subscribe", "data": data}), "subscription_ack");
    }
    page.answer_a_ping();
}

#[test]
fn a_name_that_is_none_is_refused_by_field() {
    let timed = Timed::start(&[BEATS]);
    for query in ["client_id=", "client_id=a&client_id=b", "client_id=a%20b", "client_id=%FF"] {
        let (status, answer) =
            Raw::connect(timed.address(), &format!("/ws?{query}"), None).err().expect("refused");
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer.contains(r#""field":"client_id""#) && answer.contains("1 to 64 characters"),
            "{answer}"
        );
    }
}

#[test]
fn an_alert_that_took_long_to_the_disk_is_not_left_out() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.pass(10 * SECOND);
    page.answer_a_ping();
    page.cut(&timed.server);
    // It came before the ping, and was on the ring behind it.
    SINCE_THEN.set(5 * SECOND);
    timed.alert(2);
    SINCE_THEN.set(0);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.sync(), ["alert 2"]);
}

#[test]
fn a_clock_that_is_set_back_leaves_nothing_out() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.pass(10 * SECOND);
    page.answer_a_ping();
    timed.set_back(5 * SECOND);
    page.cut(&timed.server);
    timed.alert(2);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.sync(), ["alert 2"]);
}

#[test]
fn what_was_received_long_ago_does_not_come_again_when_the_clock_was_set_back() {
    let timed = Timed::start(&[BEATS]);
    timed.pass(MINUTE);
    timed.alert(1);
    timed.set_back(30 * SECOND);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.alert(2);
    assert_eq!(page.sync(), ["alert 2"]);
    page.answer_a_ping();
    page.cut(&timed.server);
    timed.alert(3);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.sync(), ["alert 3"]);
}

#[test]
fn a_pong_that_nobody_asked_for_proves_nothing() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.raw.answers_pings = false;
    page.subscribe("alerts");
    timed.alert(1);
    page.sync();
    timed.pass(10 * SECOND);
    // Until a ping is out. Some clients send pongs of their own as a sign of life.
    for _ in 0..2 {
        while page.next()["message_type"] != "connection_status" {}
    }
    page.raw.send(common::PONG, b"");
    page.raw.send(common::PONG, b"alive");
    page.sync();
    page.cut(&timed.server);
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.sync(), ["alert 1"]);
}

#[test]
fn two_pages_of_one_name_miss_nothing_of_what_the_other_received() {
    let timed = Timed::start(&[BEATS]);
    let mut one = Page::open(timed.address(), NAMED);
    one.subscribe("alerts");
    let mut other = Page::open(timed.address(), NAMED);
    timed.pass(10 * SECOND);
    one.answer_a_ping();
    other.answer_a_ping();
    other.cut(&timed.server);
    timed.alert(2);
    assert_eq!(one.sync(), ["alert 2"]);
    timed.pass(10 * SECOND);
    one.answer_a_ping();
    let mut other = Page::open(timed.address(), NAMED);
    assert_eq!(other.sync(), ["alert 2"], "the first page has had it, this one not");
}

#[test]
fn who_says_goodbye_and_comes_back_at_once_begins_anew() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    page.raw.send(common::CLOSE, &1001_u16.to_be_bytes());
    assert_eq!(page.raw.close_code(), Some(1001));
    // The page is loaded anew while the old socket still waits for its end.
    assert!(Page::open(timed.address(), NAMED).greeted_with.is_empty());
}

#[test]
fn all_that_made_a_number_known_comes_not_only_the_last() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    let data = json!({"subscription_type": "alerts", "instrument_id": 5});
    page.ask(&json!({"type": "subscribe", "data": data}), "subscription_ack");
    let Message::MarketData(price) = tick("BTC-USD", "7") else { panic!("market_data") };
    let Message::Alert(alert) = sample("alert") else { panic!("alert") };
    timed.publish(&Message::MarketData(MarketData { instrument_id: Some(5), ..price }));
    for alert_id in 1..=3 {
        let (symbol, instrument_id) = ("BTC-USD".to_owned(), Some(5));
        timed.publish(&Message::Alert(Alert { alert_id, symbol, instrument_id, ..alert.clone() }));
    }
    // A heartbeat comes every 20 ms, and what waits is tried again after 250.
    for _ in 0..100 {
        while page.next()["message_type"] != "connection_status" {}
    }
    assert_eq!(page.seen, ["alert 1", "alert 2", "alert 3"]);
}

#[test]
fn what_was_raised_to_critical_comes_again_whole() {
    let timed = Timed::start(&[BEATS]);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("market_data");
    page.cut(&timed.server);
    for price in ["1", "2"] {
        let (payload, header) = payload(&tick("BTC-USD", price));
        let header = tickcast_protocol::Header { flags: header.flags | FLAG_CRITICAL, ..header };
        let frame = Frame { header, payload: &payload };
        let later = || -> tickcast::ingest::Later { Box::new(drop) };
        let published =
            timed.server.running.ingest().publish_frame(Source::Socket, &frame, Wishes::default(), later);
        published.expect("accepted");
    }
    let mut page = Page::open(timed.address(), NAMED);
    assert_eq!(page.sync(), ["BTC-USD 1", "BTC-USD 2"]);
}

#[test]
fn topics_of_an_earlier_run_are_no_gap_of_this_one() {
    let folder = TempDir::new().unwrap();
    let journal = folder.path().display().to_string();
    let settings = [BEATS, ("alerts.min_durability", "disk"), ("journal.directory", journal.as_str())];
    let timed = Timed::start(&settings);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.alert(1);
    while page.seen.is_empty() {
        page.next();
    }
    timed.server.running.stop();

    let timed = Timed::start(&settings);
    let mut page = Page::open(timed.address(), NAMED);
    let told = r#""DATA_GAP" "what was published before the server began is not kept""#;
    assert_eq!(page.sync(), [told], "the first return tells it, once");
    timed.pass(10 * SECOND);
    page.answer_a_ping();
    page.cut(&timed.server);
    let mut page = Page::open(timed.address(), NAMED);
    assert!(page.sync().is_empty(), "it has missed nothing: {:?}", page.seen);
}

#[test]
fn who_said_goodbye_is_forgotten_on_disk_as_well_even_when_back_at_once() {
    let folder = TempDir::new().unwrap();
    let journal = folder.path().display().to_string();
    let settings = [BEATS, ("alerts.min_durability", "disk"), ("journal.directory", journal.as_str())];
    let timed = Timed::start(&settings);
    let mut page = Page::open(timed.address(), NAMED);
    page.subscribe("alerts");
    timed.server.wait_until("it is on disk", |server| {
        server.metric("tickcast_sticky_clients") == 1.0 && server.metric("tickcast_sticky_unsaved") == 0.0
    });
    let commits = |server: &TestServer| server.metric("tickcast_journal_commits_total");
    let before = commits(&timed.server);
    page.leaves_with(1000);
    // Back before the journal was told, and with nothing on its mind: the note that is there must go all the same.
    let page = Page::open(timed.address(), NAMED);
    assert!(page.greeted_with.is_empty());
    timed.server.wait_until("the journal is told", |server| commits(server) > before);
    page.cut(&timed.server);
    timed.server.running.stop();
    let timed = Timed::start(&settings);
    assert!(Page::open(timed.address(), NAMED).greeted_with.is_empty());
}
