//! What once went wrong, and must not again.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{BINARY, Raw, TestServer, masked, sample, tick};
use tickcast::clock::{Clock, unix_nanos};
use tickcast::config::Host;
use tickcast::server;
use tickcast_protocol::message::{Message, NoticeKind, Ping, Role, Start, Subscribe};
use tickcast_protocol::{frame, registry};

#[test]
fn a_stop_delivers_everything_that_was_accepted_before_it() {
    const TICKS: usize = 4_000;
    let server = TestServer::start(&[("outbox.events", "100000"), ("outbox.bytes", "64MiB")]);
    let mut client = Raw::binary(server.address(), Role::SUBSCRIBER);
    client.subscribe(1, "market_data.*", Start::LIVE);
    assert!(matches!(client.message(), Message::Acknowledge(_)));
    for number in 0..TICKS {
        server.publish(&tick("X", &format!("{}.5", number + 1)));
    }
    let reader = std::thread::spawn(move || {
        let received = (0..TICKS).map(|_| client.data().0.sequence).collect::<Vec<_>>();
        let notice = loop {
            if let Message::Notice(notice) = client.message() {
                break notice;
            }
        };
        (received, notice.kind, client.close_code())
    });
    server.running.stop();
    let (received, kind, code) = reader.join().expect("the reader got all of it");
    assert_eq!(received, (1..=TICKS as u64).collect::<Vec<_>>());
    assert_eq!((kind, code), (NoticeKind::DRAINING, Some(1012)));
}

#[test]
fn a_publisher_that_always_has_more_to_send_is_not_taken_for_a_dribbler() {
    let server = TestServer::start(&[("limits.message_timeout", "150ms")]);
    let mut publisher = Raw::binary(server.address(), Role::PUBLISHER);
    let bytes = masked(0x80 | BINARY, &frame::encode(&tick("X", "1.5")));
    let (first, second) = bytes.split_at(bytes.len() / 2);
    publisher.send_bytes(first);
    let began = Instant::now();
    let mut sent = 0;
    // Each write ends one message and begins the next, so the socket never rests between two.
    while began.elapsed() < Duration::from_millis(600) {
        publisher.send_bytes(&[second, first].concat());
        sent += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    publisher.send_bytes(second);
    publisher.say(&Message::Ping(Ping { client_time: tickcast_protocol::field::Timestamp(0), sequence: 7 }));
    assert!(matches!(publisher.message(), Message::Pong(pong) if pong.sequence == 7), "still open");
    server.wait_until("every tick was taken", |server| {
        server.metric("tickcast_messages_received_total{type=\"market_data\"}") == f64::from(sent + 1)
    });
    assert_eq!(server.limit_hits("limits.message_timeout"), 0.0);
}

#[test]
fn what_came_while_the_server_was_kept_from_looking_is_not_late() {
    let (holds, is_held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (hold, held) = (holds.clone(), is_held.clone());
    // As a machine that is paused does: the thread of all connections stands still.
    let clock = Clock::new(move || {
        while hold.load(Ordering::SeqCst)
            && std::thread::current().name().is_some_and(|name| name.starts_with("shard"))
        {
            held.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        unix_nanos()
    });
    let host = Host { cores: 1, descriptors: 10_000 };
    let settings =
        [("heartbeat.interval", "500ms"), ("limits.message_timeout", "1s"), ("limits.idle_timeout", "1s")];
    let running = server::start_with_clock(common::config(&settings), host, Vec::new(), clock);
    let server = TestServer { running: running.expect("the server starts") };
    let mut publisher = Raw::binary(server.address(), Role::PUBLISHER);
    let bytes = masked(0x80 | BINARY, &frame::encode(&tick("X", "1.5")));
    let (first, second) = bytes.split_at(bytes.len() / 2);
    publisher.send_bytes(&[&bytes, first].concat());
    let received = "tickcast_messages_received_total{type=\"market_data\"}";
    server.wait_until("the first is taken", |server| server.metric(received) == 1.0);
    holds.store(true, Ordering::SeqCst);
    server.publish(&tick("X", "2"));
    server.wait_until("it stands still", |_| is_held.load(Ordering::SeqCst));
    publisher.send_bytes(second);
    std::thread::sleep(Duration::from_millis(1_200));
    holds.store(false, Ordering::SeqCst);
    publisher.say(&Message::Ping(Ping { client_time: tickcast_protocol::field::Timestamp(0), sequence: 7 }));
    assert!(matches!(publisher.message(), Message::Pong(pong) if pong.sequence == 7), "still open");
    let late = |key| server.limit_hits(key);
    assert_eq!((late("limits.message_timeout"), late("limits.idle_timeout")), (0.0, 0.0));
}

#[test]
fn a_quote_of_any_spread_reaches_dashboards() {
    let server = TestServer::start(&[]);
    let mut dashboard = Raw::d1(server.address());
    dashboard.send_text(r#"{"message_type":"subscribe","subscription_type":"market_data"}"#);
    assert_eq!(dashboard.next().json()["data"]["status"], "subscribed");
    let quote = r#"{"type":"market_data","data":{"symbol":"WIDE","bid":1e-64,"ask":1e64}}"#;
    let (status, reply) = server.post("/api/v1/publish", "application/json", quote);
    assert_eq!(status, 200, "{reply}");
    assert!(reply.contains("accepted"), "{reply}");
    let told = dashboard.next();
    assert!(String::from_utf8_lossy(&told.payload).contains("WIDE"), "{told:?}");
}

#[test]
fn requests_sent_together_are_all_answered_however_many_streams_they_match() {
    const STREAMS: usize = 2_000;
    let server = TestServer::start(&[]);
    for number in 0..STREAMS {
        server.publish(&tick(&format!("SYMBOL-{number}"), "1.5"));
    }
    let mut client = Raw::binary(server.address(), Role::SUBSCRIBER);
    let subscribe = |request, filter: &str| {
        let subscribe = Subscribe {
            request,
            filter: filter.into(),
            start: Start::LIVE,
            policy: tickcast_protocol::message::Policy::DEFAULT,
            predicate: String::new(),
            max_hz: 0.0,
        };
        masked(0x80 | BINARY, &frame::encode(&Message::Subscribe(subscribe)))
    };
    let ping = Message::Ping(Ping { client_time: tickcast_protocol::field::Timestamp(0), sequence: 9 });
    let ping = masked(0x80 | BINARY, &frame::encode(&ping));
    client.send_bytes(&[subscribe(1, "**"), subscribe(2, "market_data.*"), ping].concat());
    let (mut acknowledged, mut bound) = (0, 0);
    loop {
        match client.message() {
            Message::Acknowledge(_) => acknowledged += 1,
            Message::Bind(bind) => bound += bind.bindings.len(),
            Message::Pong(pong) => {
                assert_eq!(pong.sequence, 9);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acknowledged, 2);
    assert!(bound >= 2 * STREAMS, "{bound}");
}

#[test]
fn nothing_is_accepted_that_could_not_be_delivered_any_more() {
    let server = TestServer::start(&[]);
    server.running.ingest().close();
    let (status, reply) = server.post(
        "/api/v1/publish",
        "application/json",
        r#"{"type":"market_data","data":{"symbol":"X","bid":1}}"#,
    );
    assert_eq!(status, 200);
    assert!(reply.contains("UNAVAILABLE"), "{reply}");
    assert_eq!(server.metric("tickcast_messages_received_total{type=\"market_data\"}"), 0.0);
}

#[test]
fn every_type_can_be_published_at_its_smallest() {
    let server = TestServer::start(&[]);
    for info in registry::types().iter().filter(|info| info.is_data()) {
        server.publish(&Message::sample(info, false));
        server.publish(&sample(info.name));
    }
}
