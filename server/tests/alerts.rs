//! Critical messages with a journal: on disk before they are accepted, and sent to each identity until it has
//! acknowledged them, over disconnects and restarts.

mod common;

use std::path::Path;

use common::{Arrived, Raw, TestServer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tickcast_client::{Client, ClientEvent, ClientOptions, Identity, SubscribeOptions};
use tickcast_protocol::frame::{Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    Ack, Deliver, DeliveryOutcome, Durability, Identified, Identify, Message, Role, Span, Start,
};
use tickcast_protocol::{ErrorCode, registry};

fn serve(directory: &Path) -> TestServer {
    serve_with(directory, &[])
}

fn serve_with(directory: &Path, settings: &[(&str, &str)]) -> TestServer {
    let directory = directory.to_str().expect("a path of plain text");
    let journal = [("alerts.min_durability", "disk"), ("journal.directory", directory)];
    TestServer::start(&[&journal[..], settings].concat())
}

/// Publishes an alert of a desk by HTTP, and gives the reply.
fn alert(server: &TestServer, desk: &str, more: Value) -> Value {
    let mut message = json!({
        "type": "risk_alert",
        "topic": format!("risk_alert.{desk}"),
        "data": {
            "risk_type": "other", "severity": "high", "message": format!("for {desk}"),
            "current_value": "12.5", "threshold": "10",
        },
    });
    for (name, value) in more.as_object().expect("members") {
        message[name] = value.clone();
    }
    let (status, body) = server.post("/api/v1/publish", "application/json", &message.to_string());
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// A subscriber that says who it is.
fn identify(server: &TestServer, name: &str, token: &str) -> (Raw, Identified) {
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.say(&Message::Identify(Identify { request: 1, identity: name.into(), token: token.into() }));
    let Message::Identified(identified) = raw.message() else { panic!("identified") };
    (raw, identified)
}

/// One that also subscribes to every risk alert.
fn desk(server: &TestServer, name: &str) -> (Raw, String) {
    let (mut raw, identified) = identify(server, name, "");
    raw.subscribe(2, "risk_alert.**", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    (raw, identified.token)
}

/// The next critical message: its word and itself, in one WebSocket message.
fn letter(raw: &mut Raw) -> (Deliver, Message) {
    loop {
        let Arrived { payload, .. } = raw.next();
        let frames: Vec<_> =
            Frames::new(&payload, PAYLOAD_BYTES_MAX).map(|frame| frame.expect("sound")).collect();
        if let [word, data] = frames.as_slice()
            && let Message::Deliver(word) = word.view().expect("sound").to_owned()
        {
            assert_eq!(data.header.sequence, word.sequence);
            assert!(data.header.type_id >= registry::DATA_FIRST && data.header.publish_time > 0);
            return (word, data.view().expect("sound").to_owned());
        }
    }
}

fn ack(raw: &mut Raw, through: u64) {
    raw.say(&Message::Ack(Ack { through, spans: Vec::new() }));
}

/// Makes sure that what was said before was handled.
fn settle(raw: &mut Raw) {
    raw.say(&Message::Ping(tickcast_protocol::message::Ping {
        client_time: Default::default(),
        sequence: 9,
    }));
    while !matches!(raw.message(), Message::Pong(_)) {}
}

#[test]
fn an_alert_waits_on_disk_over_disconnect_and_restart_until_it_is_acknowledged() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, token) = desk(&server, "desk-7");
    let reply = alert(&server, "desk-7", json!({"id": "a-1", "publisher": "risk"}));
    assert_eq!(
        (&reply["status"], &reply["durability"], &reply["queued"], &reply["sequence"]),
        (&json!("accepted"), &json!("disk"), &json!(1), &json!(1)),
        "{reply}"
    );
    let (word, message) = letter(&mut raw);
    assert_eq!((word.attempt, word.sequence, &*word.id, &*word.publisher), (1, 1, "a-1", "risk"));
    assert_eq!(word.topic, "risk_alert.desk-7");
    assert_eq!(word.position, reply["position"].as_u64().expect("a position"));
    let Message::RiskAlert(_) = &message else { panic!("{message:?}") };
    drop(raw);

    // The same server: it comes again, to a connection that has not even subscribed.
    let (mut raw, identified) = identify(&server, "desk-7", &token);
    assert_eq!((identified.token, identified.durability), (token.clone(), Durability::DISK));
    let (again, same) = letter(&mut raw);
    assert_eq!((again.position, again.attempt, same), (word.position, 2, message.clone()));
    drop(raw);
    server.running.stop();

    // Another one, on the same directory.
    let server = serve(directory.path());
    let (mut raw, _) = identify(&server, "desk-7", &token);
    let (after, same) = letter(&mut raw);
    assert_eq!((after.position, same), (word.position, message));
    assert!(after.attempt > 1, "it may have been seen before");
    ack(&mut raw, after.position);
    settle(&mut raw);
    // Its topic goes on where it was.
    let reply = alert(&server, "desk-7", json!({"id": "a-2"}));
    assert_eq!((&reply["sequence"], &reply["queued"]), (&json!(2), &json!(1)), "{reply}");
    let (next, _) = letter(&mut raw);
    assert_eq!((next.sequence, next.attempt), (2, 1));
    ack(&mut raw, next.position);
    settle(&mut raw);
    drop(raw);
    server.running.stop();

    let server = serve(directory.path());
    let (mut raw, _) = identify(&server, "desk-7", &token);
    let third = alert(&server, "desk-7", json!({}));
    assert_eq!(letter(&mut raw).0.position, third["position"], "what was acknowledged does not come again");
}

#[test]
fn an_id_is_one_message_of_its_publisher_and_another_hash_is_a_conflict() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, _) = desk(&server, "desk-7");
    let first = alert(&server, "a", json!({"id": "x", "publisher": "risk"}));
    let again = alert(&server, "a", json!({"id": "x", "publisher": "risk"}));
    assert_eq!(again["status"], "duplicate", "{again}");
    assert_eq!((&again["position"], &again["sequence"]), (&first["position"], &first["sequence"]));
    let other = alert(&server, "b", json!({"id": "x", "publisher": "risk"}));
    assert_eq!(
        (&other["status"], &other["code"], &other["field"]),
        (&json!("conflict"), &json!("CONFLICT"), &json!("id"))
    );
    let theirs = alert(&server, "b", json!({"id": "x", "publisher": "desk"}));
    assert_eq!(theirs["status"], "accepted", "another publisher's ids are its own");
    // Delivered once each, and the refused one never.
    assert_eq!(letter(&mut raw).0.position, first["position"]);
    assert_eq!(letter(&mut raw).0.position, theirs["position"]);
    server.running.stop();
    // It is remembered by the disk.
    let server = serve(directory.path());
    assert_eq!(alert(&server, "a", json!({"id": "x", "publisher": "risk"}))["status"], "duplicate");
}

#[test]
fn at_most_a_window_is_sent_ahead_and_the_rest_follows_in_order() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, _) = desk(&server, "desk-7");
    let total = 300;
    let positions: Vec<u64> =
        (0..total).map(|_| alert(&server, "a", json!({}))["position"].as_u64().expect("accepted")).collect();
    let mut seen = Vec::new();
    while seen.len() < total {
        let window = 32.min(total - seen.len());
        let sent: Vec<_> = (0..window).map(|_| letter(&mut raw).0).collect();
        assert!(sent.iter().all(|word| word.attempt == 1), "nothing is sent twice");
        seen.extend(sent.iter().map(|word| word.position));
        // Nothing more comes before it is acknowledged: a pong comes first.
        settle(&mut raw);
        // In parts, and out of order.
        let (first, last) = (sent[0].position, sent[window - 1].position);
        let spans = vec![Span { from: first + 1, through: last }];
        raw.say(&Message::Ack(Ack { through: 0, spans }));
        ack(&mut raw, first);
    }
    assert_eq!(seen, positions, "all of them, in order");
}

#[test]
fn a_peer_without_identity_gets_alerts_as_they_happen() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let mut anonymous = Raw::binary(server.address(), Role::SUBSCRIBER);
    anonymous.subscribe(1, "risk_alert.**", Start::LIVE);
    assert!(matches!(anonymous.message(), Message::Acknowledge(_)));
    let (mut known, _) = desk(&server, "desk-7");
    let reply = alert(&server, "a", json!({}));
    let (header, _) = anonymous.data();
    assert_eq!(header.sequence, reply["sequence"]);
    assert_eq!(letter(&mut known).0.position, reply["position"]);
}

#[test]
fn an_identity_belongs_to_who_can_prove_it_and_to_its_newest_connection() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut first, token) = desk(&server, "desk-7");
    for wrong in ["", "0123", &token.to_uppercase()] {
        let mut thief = Raw::binary(server.address(), Role::SUBSCRIBER);
        thief.say(&Message::Identify(Identify {
            request: 5,
            identity: "desk-7".into(),
            token: wrong.into(),
        }));
        let Message::Error(error) = thief.message() else { panic!("refused") };
        assert_eq!((error.request, error.code, &*error.field), (5, ErrorCode::Forbidden.number(), "token"));
        assert!(!error.message.contains(&token));
        // Refused, it may be somebody else.
        thief.say(&Message::Ack(Ack { through: 1, spans: Vec::new() }));
        let Message::Error(error) = thief.message() else { panic!("refused") };
        assert_eq!(error.code, ErrorCode::InvalidState.number());
    }
    alert(&server, "a", json!({}));
    let (word, _) = letter(&mut first);
    let (mut second, _) = identify(&server, "desk-7", &token);
    assert_eq!(first.close_code(), Some(4509), "the older connection is told that it was replaced");
    let (again, _) = letter(&mut second);
    assert_eq!((again.position, again.attempt), (word.position, 2));
}

#[test]
fn acknowledging_what_was_not_sent_is_an_error_and_settles_nothing() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, token) = desk(&server, "desk-7");
    let position = alert(&server, "a", json!({}))["position"].as_u64().expect("accepted");
    assert_eq!(letter(&mut raw).0.position, position);
    ack(&mut raw, position + 1_000);
    let Message::Error(error) = raw.message() else { panic!("refused") };
    assert_eq!((error.code, &*error.field), (ErrorCode::InvalidField.number(), "through"), "{error:?}");
    drop(raw);
    let (mut raw, _) = identify(&server, "desk-7", &token);
    assert_eq!(letter(&mut raw).0.position, position, "it still waits");
}

#[test]
fn a_newer_alert_of_its_collapse_key_takes_the_place_of_one_that_waits() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (raw, token) = desk(&server, "desk-7");
    drop(raw);
    for id in ["one", "two", "three"] {
        assert_eq!(alert(&server, "a", json!({"id": id, "collapse_key": "k"}))["queued"], 1);
    }
    let (mut raw, _) = identify(&server, "desk-7", &token);
    assert_eq!(letter(&mut raw).0.id, "three");
    settle(&mut raw);
}

#[test]
fn a_publisher_can_ask_what_became_of_an_alert() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, _) = desk(&server, "desk-7");
    let (_other, _) = desk(&server, "desk-8");
    alert(&server, "a", json!({"id": "a/1 ä", "publisher": "risk"}));
    let ask = |path: &str| {
        let (status, body) = server.get(path);
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let path = "/api/v1/alerts/a%2F1%20%C3%A4?publisher=risk";
    let (status, found) = ask(path);
    assert_eq!((status, &found["id"], &found["sequence"]), (200, &json!("a/1 ä"), &json!(1)), "{found}");
    assert_eq!((&found["recipients"]["pending"], &found["recipients"]["acked"]), (&json!(2), &json!(0)));
    let (word, _) = letter(&mut raw);
    ack(&mut raw, word.position);
    server.wait_until("the acknowledgement is on disk", |_| {
        let (_, found) = ask(path);
        (&found["recipients"]["pending"], &found["recipients"]["acked"]) == (&json!(1), &json!(1))
    });
    for unknown in ["/api/v1/alerts/a%2F1%20%C3%A4", "/api/v1/alerts/x?publisher=risk", "/api/v1/alerts/"] {
        assert_eq!(ask(unknown).0, 404, "{unknown}");
    }
    assert_eq!(ask("/api/v1/alerts/%FF").0, 400);
    assert_eq!(server.metric("tickcast_journal_accepted_total"), 1.0);
    assert_eq!((server.metric("tickcast_journal_up"), server.metric("tickcast_identities")), (1.0, 2.0));
}

#[test]
fn a_publisher_follows_what_becomes_of_its_alerts() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, _) = desk(&server, "desk-7");
    let (away, _) = desk(&server, "desk-8");
    drop(away);
    let mut publisher = Raw::binary(server.address(), Role::SUBSCRIBER);
    publisher.subscribe(1, "delivery_report.risk", Start::LIVE);
    assert!(matches!(publisher.message(), Message::Acknowledge(_)));
    alert(&server, "a", json!({"id": "a-1", "publisher": "risk", "collapse_key": "k"}));
    let (word, _) = letter(&mut raw);
    ack(&mut raw, word.position);
    let mut next = || match publisher.data().1 {
        Message::DeliveryReport(report) => (report.id, report.recipient, report.outcome),
        other => panic!("{other:?}"),
    };
    assert_eq!(next(), ("a-1".to_owned(), "desk-7".to_owned(), DeliveryOutcome::ACKED));
    alert(&server, "a", json!({"id": "a-2", "publisher": "risk", "collapse_key": "k"}));
    assert_eq!(next(), ("a-1".to_owned(), "desk-8".to_owned(), DeliveryOutcome::SUPERSEDED));
}

#[test]
fn an_alert_overtakes_everything_that_is_queued() {
    let directory = TempDir::new().expect("a directory");
    let room = [("outbox.events", "1000000"), ("outbox.bytes", "64MiB"), ("server.shards", "1")];
    let server = serve_with(directory.path(), &room);
    let mut raw = Raw::binary_with_little_room(server.address());
    raw.say(&Message::Identify(Identify { request: 1, identity: "desk-7".into(), token: String::new() }));
    assert!(matches!(raw.message(), Message::Identified(_)));
    for (request, filter) in [(2, "risk_alert.**"), (3, "market_data.**")] {
        raw.subscribe(request, filter, Start::LIVE);
        assert!(matches!(raw.message(), Message::Acknowledge(_)));
    }
    // More than the kernel takes: the rest is queued.
    let mut published = 0_u64;
    while server.metric("tickcast_shard_queued") < 10_000.0 {
        for _ in 0..1_000 {
            published += 1;
            server.publish(&common::tick(&format!("S{}", published % 7), "1.5"));
        }
    }
    assert_eq!(alert(&server, "a", json!({}))["queued"], 1);
    server.wait_until("the connection has the alert", |server| server.metric("tickcast_shard_queued") > 0.0);
    let queued = server.metric("tickcast_shard_queued") as u64;
    socket2::SockRef::from(&raw.tcp).set_recv_buffer_size(1 << 20).expect("a receive buffer");
    let (mut before, mut after, mut alerted) = (0_u64, 0_u64, false);
    while before + after < published {
        let arrived = raw.next();
        for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
            let frame = frame.expect("a sound frame");
            match registry::by_id(frame.header.type_id).map(|info| info.name) {
                Some("risk_alert") => alerted = true,
                Some("market_data") if alerted => after += 1,
                Some("market_data") => before += 1,
                _ => {}
            }
        }
    }
    // What the kernel had was written before; of what was queued at most the frame that was cut.
    assert!(alerted && after + 1 >= queued, "{before} ticks before it, {after} after, {queued} were queued");
}

#[test]
fn an_operator_sees_for_whom_alerts_wait_and_forgets_who_does_not_come_back() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (mut raw, token) = desk(&server, "desk/7");
    let (away, _) = desk(&server, "gone");
    drop(away);
    alert(&server, "a", json!({}));
    assert_eq!(
        server.get("/api/v1/identities").1,
        r#"[{"identity":"desk/7","waiting":1},{"identity":"gone","waiting":1}]"#
    );
    let forget = |name: &str| {
        let request = format!(
            "DELETE /api/v1/identities/{name} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            server.address()
        );
        common::http(server.address(), &request).0
    };
    assert_eq!((forget("gone"), forget("gone"), forget("nobody")), (200, 404, 404));
    assert_eq!(alert(&server, "a", json!({}))["queued"], 1, "only one is left");
    let (first, _) = letter(&mut raw);
    assert_eq!(first.attempt, 1);
    assert_eq!(forget("desk%2F7"), 200);
    assert_eq!(raw.close_code(), Some(4509), "its connection is closed");
    // The name is free, and nothing waits under it.
    let (mut raw, identified) = identify(&server, "desk/7", "");
    assert_ne!(identified.token, token);
    raw.subscribe(2, "risk_alert.**", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    let last = alert(&server, "a", json!({}));
    assert_eq!(letter(&mut raw).0.position, last["position"]);
}

#[test]
fn an_alert_expires_for_who_is_away_and_is_not_sent_late() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let (raw, token) = desk(&server, "desk-7");
    drop(raw);
    let soon = jiff_text(server.running.ingest().now() as i64 + 200_000_000);
    assert_eq!(alert(&server, "a", json!({"id": "soon", "expires_at": soon}))["status"], "accepted");
    let past = alert(&server, "a", json!({"id": "past", "expires_at": "2020-01-01T00:00:00Z"}));
    assert_eq!((&past["status"], &past["field"]), (&json!("refused"), &json!("expires_at")), "{past}");
    server.wait_until("it has expired", |server| {
        let (_, body) = server.get("/api/v1/alerts/soon");
        serde_json::from_str::<Value>(&body).expect("JSON")["recipients"]["expired"] == 1
    });
    let (mut raw, _) = identify(&server, "desk-7", &token);
    let last = alert(&server, "a", json!({"id": "last"}));
    assert_eq!(letter(&mut raw).0.position, last["position"], "what has expired does not come");
}

/// A time as publishers write it.
fn jiff_text(unix_ns: i64) -> String {
    tickcast_protocol::field::Timestamp(unix_ns).to_string()
}

#[test]
fn the_client_library_gets_each_alert_once_and_acknowledges_over_reconnects() {
    let directory = TempDir::new().expect("a directory");
    let server = serve(directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut options = ClientOptions::new(server.url());
        options.core.identity = Some(Identity { name: "desk-7".into(), token: String::new() });
        let (client, mut events) = Client::connect(options).await.expect("connects");
        client.watch("risk_alert.**", SubscribeOptions::default()).expect("a filter");
        let mut handled = Vec::new();
        let mut published = 0;
        let mut identified = 0;
        while handled.len() < 50 {
            let event = tokio::time::timeout(common::PATIENCE, events.next()).await.expect("something comes");
            let event = event.expect("the client lives");
            match event {
                ClientEvent::Identified { token, .. } => {
                    assert_eq!(token.len(), 32);
                    identified += 1;
                }
                ClientEvent::Acknowledged { .. } => {
                    while published < 50 {
                        published += 1;
                        alert(&server, "a", json!({"id": format!("id-{published}")}));
                    }
                }
                ClientEvent::Critical(critical) => {
                    handled.push((critical.id.clone(), critical.sequence));
                    // Every tenth time the connection is lost before that is acknowledged, the last time too.
                    if handled.len() % 10 == 0 {
                        client.reconnect();
                    } else {
                        client.acknowledge([critical.position]);
                    }
                    if handled.len() % 10 == 0 {
                        client.acknowledge([critical.position]);
                    }
                }
                _ => {}
            }
        }
        assert!(identified > 1, "it came back with its token");
        let expected: Vec<_> = (1..=50).map(|number| (format!("id-{number}"), number)).collect();
        assert_eq!(handled, expected, "each once, in order");
        client.close(common::PATIENCE).await;
    });
    server.wait_until("the last acknowledgement, which the close had to connect for, is on disk", |server| {
        server.get("/api/v1/identities").1 == r#"[{"identity":"desk-7","waiting":0}]"#
    });
}

#[test]
fn no_two_servers_share_a_journal_and_the_error_says_what_to_do() {
    let directory = TempDir::new().expect("a directory");
    let _server = serve(directory.path());
    let path = directory.path().to_str().expect("plain text");
    let settings = [("alerts.min_durability", "disk"), ("journal.directory", path)];
    let host = tickcast::config::Host { cores: 1, descriptors: 1_000 };
    let error = match tickcast::server::start(common::config(&settings), host, Vec::new()) {
        Ok(_) => panic!("two servers run on one journal"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(path), "{error}");
}

#[test]
fn without_a_journal_nothing_is_promised() {
    let server = TestServer::start(&[]);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.say(&Message::Identify(Identify { request: 1, identity: "desk-7".into(), token: String::new() }));
    let Message::Error(error) = raw.message() else { panic!("refused") };
    assert_eq!(error.code, ErrorCode::NotDurable.number());
    let reply = alert(&server, "a", json!({"durability": "disk"}));
    assert_eq!((&reply["status"], &reply["code"]), (&json!("not_durable"), &json!("NOT_DURABLE")), "{reply}");
    assert_eq!(alert(&server, "a", json!({}))["durability"], "memory");
}
