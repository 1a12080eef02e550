//! `POST /api/v1/publish`: what goes in comes out at every subscriber as it was, and what is refused is
//! refused by name, without holding up the rest.

mod common;

use std::collections::BTreeMap;

use common::{Raw, TestServer, http};
use serde_json::{Value, json};
use tickcast_compat::native::{Stamp, native_encode};
use tickcast_protocol::frame::{self, FLAG_CRITICAL, Frame, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Class, Message, Role, Start};
use tickcast_protocol::{Header, registry};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const PATH: &str = "/api/v1/publish";
/// No heartbeat while a test lasts: the first one comes after a twentieth of the interval.
const QUIET: &[(&str, &str)] = &[("limits.idle_timeout", "1h"), ("heartbeat.interval", "30m")];

/// Posts and expects the request to be understood.
fn post(server: &TestServer, content_type: &str, body: &str) -> Value {
    let (status, answer) = server.post(PATH, content_type, body);
    assert_eq!(status, 200, "{body}: {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

fn publish(server: &TestServer, body: &str) -> Value {
    post(server, JSON, body)
}

/// Posts and expects a problem (RFC 9457) of this status.
fn problem(server: &TestServer, content_type: &str, body: &str, expected: u16) -> Value {
    let (status, head, answer) = full(server, "POST", &[("content-type", content_type)], body);
    assert_eq!(status, expected, "{answer}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let problem: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(
        (&problem["status"], &problem["type"]),
        (&json!(expected), &json!("about:blank")),
        "{problem}"
    );
    assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["code"].is_string());
    problem
}

/// A request with these headers: status, head in lower case, body.
fn full(server: &TestServer, method: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
    let mut request = format!("{method} {PATH} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += &format!("host: {}\r\n", server.address());
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n{body}", body.len());
    let (status, head, body) = common::http_full(server.address(), &request);
    (status, head.to_lowercase(), body)
}

fn accepted(index: usize, topic: &str, sequence: u64) -> Value {
    json!({"index": index, "status": "accepted", "topic": topic, "sequence": sequence, "durability": "memory"})
}

#[test]
fn one_message_gets_one_answer() {
    let server = TestServer::start(QUIET);
    let body = r#"{"type":"market_data","data":{"symbol":"BTCUSDT","price":39432.99}}"#;
    assert_eq!(publish(&server, body), accepted(0, "market_data.BTCUSDT", 1));
    assert_eq!(publish(&server, body), accepted(0, "market_data.BTCUSDT", 2));
    let with_id = r#"{"type":"market_data","id":"a-1","ts":"2026-01-31T12:00:00Z","topic":"market_data.BTCUSDT","data":{"price":1}}"#;
    let reply = publish(&server, with_id);
    assert_eq!((&reply["id"], &reply["sequence"]), (&json!("a-1"), &json!(3)), "{reply}");
    assert_eq!(server.metric("tickcast_messages_received_total{type=\"market_data\"}"), 3.0);
    assert_eq!(server.metric("tickcast_messages_source_total{source=\"http\"}"), 3.0);
}

#[test]
fn an_array_gets_an_answer_for_each_and_one_bad_message_stops_no_good_one() {
    let server = TestServer::start(QUIET);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.subscribe(1, "market_data.*", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    let body = r#"[
        {"type":"market_data","data":{"symbol":"BTCUSDT","price":1}},
        {"type":"market_data","data":{"symbol":"BTCUSDT","price":"abc"}},
        {"type":"markt_data","data":{"symbol":"BTCUSDT","price":1}},
        17,
        {"type":"market_data","data":{"symbol":"BTC USDT","price":1}},
        {"type":"market_data","data":{"symbol":"BTCUSDT","price":2}}
    ]"#;
    let replies = publish(&server, body);
    assert_eq!(replies[0], accepted(0, "market_data.BTCUSDT", 1));
    let refusals = [
        ("INVALID_FIELD", "data.price"),
        ("UNKNOWN_TYPE", "type"),
        ("INVALID_FIELD", ""),
        ("INVALID_FIELD", "data.symbol"),
    ];
    for (index, (code, field)) in (1..).zip(refusals) {
        let reply = &replies[index];
        assert_eq!(
            (&reply["index"], &reply["status"], &reply["code"]),
            (&json!(index), &json!("refused"), &json!(code)),
            "{reply}"
        );
        assert_eq!(reply.get("field").map_or("", |field| field.as_str().unwrap()), field, "{reply}");
        assert!(
            reply["message"]
                .as_str()
                .is_some_and(|message| message.contains(field.rsplit('.').next().unwrap()))
        );
        assert!(reply.get("sequence").is_none() && reply.get("topic").is_none(), "{reply}");
    }
    assert_eq!(replies[5], accepted(5, "market_data.BTCUSDT", 2));
    assert_eq!(replies.as_array().map(Vec::len), Some(6));
    for expected in ["1", "2"] {
        let (_, Message::MarketData(tick)) = raw.data() else { panic!("a tick") };
        assert_eq!(tick.price.unwrap().to_string(), expected);
    }
    assert_eq!(server.metric("tickcast_messages_refused_total{code=\"INVALID_FIELD\"}"), 3.0);
    assert_eq!(server.metric("tickcast_messages_refused_total{code=\"UNKNOWN_TYPE\"}"), 1.0);
    assert_eq!(publish(&server, "[]"), json!([]));
}

#[test]
fn lines_are_read_one_by_one_and_a_broken_one_is_refused_alone() {
    let server = TestServer::start(QUIET);
    for content_type in
        [LINES, "application/ndjson", "application/jsonl", "Application/X-NDJSON; charset=utf-8"]
    {
        let body = "{\"type\":\"signal\",\"data\":{\"symbol\":\"A\",\"decision\":\"buy\"}}\n\
                    \n\
                    {\"type\":\"market_data\",\"data\":{\"symbol\":\"A\",\"price\":1}}\r\n\
                    {\"type\":\"market_data\",\"data\":\n\
                    {\"type\":\"market_data\",\"data\":{\"symbol\":\"A\",\"bid\":1}}";
        let replies = post(&server, content_type, body);
        let statuses: Vec<_> =
            replies.as_array().expect("an array").iter().map(|reply| &reply["status"]).collect();
        assert_eq!(statuses.len(), 4, "{replies}");
        assert_eq!(
            (statuses[1], statuses[2], statuses[3]),
            (&json!("accepted"), &json!("refused"), &json!("accepted"))
        );
        assert_eq!(
            (&replies[2]["index"], &replies[2]["code"]),
            (&json!(2), &json!("BAD_REQUEST")),
            "{replies}"
        );
    }
    assert_eq!(post(&server, LINES, ""), json!([]));
}

#[test]
fn the_topic_follows_from_the_key_fields_and_the_key_fields_from_the_topic() {
    let server = TestServer::start(QUIET);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.subscribe(1, "bar.**", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    let ohlc = r#""open":1,"high":2,"low":1,"close":2,"volume":3"#;
    let by_fields = format!(r#"{{"type":"bar","data":{{"timeframe":"1m","symbol":"spot.BTC",{ohlc}}}}}"#);
    assert_eq!(publish(&server, &by_fields), accepted(0, "bar.1m.spot.BTC", 1));
    let by_topic = format!(r#"{{"type":"bar","topic":"bar.1m.spot.BTC","data":{{{ohlc}}}}}"#);
    assert_eq!(publish(&server, &by_topic), accepted(0, "bar.1m.spot.BTC", 2));
    let by_both = format!(r#"{{"type":"bar","topic":"bar.1m.spot.BTC","data":{{"timeframe":"1m",{ohlc}}}}}"#);
    assert_eq!(publish(&server, &by_both), accepted(0, "bar.1m.spot.BTC", 3));
    let mut bars = Vec::new();
    for _ in 0..3 {
        let (_, Message::Bar(bar)) = raw.data() else { panic!("a bar") };
        bars.push((bar.timeframe, bar.symbol, bar.close.to_string()));
    }
    assert!(bars.iter().all(|bar| *bar == ("1m".into(), "spot.BTC".into(), "2".into())), "{bars:?}");
}

#[test]
fn every_refusal_names_the_field_and_what_it_may_hold() {
    let server = TestServer::start(QUIET);
    let long_id =
        format!(r#"{{"type":"market_data","id":"{}","data":{{"symbol":"A","price":1}}}}"#, "i".repeat(65));
    let cases = [
        (
            r#"{"type":"market_data","topic":"market_data.B","data":{"symbol":"A","price":1}}"#,
            "INVALID_FIELD",
            "data.symbol",
            "the topic says `B`",
        ),
        (
            r#"{"type":"bar","topic":"bar.BTC","data":{"timeframe":"1m"}}"#,
            "INVALID_FIELD",
            "topic",
            "timeframe.symbol",
        ),
        (
            r#"{"type":"market_data","topic":"signal.A","data":{"price":1}}"#,
            "INVALID_FIELD",
            "type",
            "`signal`",
        ),
        (
            r#"{"type":"market_data","topic":"market_data.*","data":{"price":1}}"#,
            "INVALID_FIELD",
            "topic",
            "key",
        ),
        (r#"{"type":"market_data","topic":7,"data":{"price":1}}"#, "INVALID_FIELD", "topic", "a string"),
        (r#"{"type":"markt_data","data":{}}"#, "UNKNOWN_TYPE", "type", "did you mean `market_data`?"),
        (r#"{"type":"hello","data":{"role":"publisher"}}"#, "UNKNOWN_TYPE", "type", "unknown type `hello`"),
        (r#"{"type":"zzzzzzzzzzzz","data":{}}"#, "UNKNOWN_TYPE", "type", "unknown type `zzzzzzzzzzzz`"),
        (r#"{"data":{"symbol":"A","price":1}}"#, "INVALID_FIELD", "type", "required"),
        (r#"{"type":"market_data"}"#, "INVALID_FIELD", "data", "required"),
        (r#"{"type":"market_data","data":[]}"#, "INVALID_FIELD", "data", "an object"),
        (r#"{"type":"market_data","data":{"symbol":"A"}}"#, "INVALID_FIELD", "data.price", "price, bid, ask"),
        (r#"{"type":"market_data","data":{"price":1}}"#, "INVALID_FIELD", "data.symbol", "required"),
        (r#"{"type":"market_data","data":{"symbol":"","price":1}}"#, "INVALID_FIELD", "data.symbol", "a key"),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":12345678901234567890}}"#,
            "INVALID_FIELD",
            "data.price",
            "18",
        ),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":1e400}}"#,
            "INVALID_FIELD",
            "data.price",
            "exponent",
        ),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":true}}"#,
            "INVALID_FIELD",
            "data.price",
            "decimal",
        ),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":1,"ts":"yesterday"}}"#,
            "INVALID_FIELD",
            "data.ts",
            "RFC 3339",
        ),
        (
            r#"{"type":"market_data","ts":"yesterday","data":{"symbol":"A","price":1}}"#,
            "INVALID_FIELD",
            "ts",
            "RFC 3339",
        ),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":1,"instrument_id":-1}}"#,
            "INVALID_FIELD",
            "data.instrument_id",
            "4294967295",
        ),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":1,"pirce":2}}"#,
            "INVALID_FIELD",
            "data.pirce",
            "not a field",
        ),
        (
            r#"{"type":"market_data","data":{"symbol":"A","price":1},"extra":2}"#,
            "INVALID_FIELD",
            "extra",
            "type, topic, id, ts, data",
        ),
        (
            r#"{"type":"public_trade","data":{"symbol":"A","price":1,"size":1,"side":"hold"}}"#,
            "INVALID_FIELD",
            "data.side",
            "buy, sell",
        ),
        (
            r#"{"type":"market_data","id":"","data":{"symbol":"A","price":1}}"#,
            "INVALID_FIELD",
            "id",
            "1 to 64",
        ),
        (long_id.as_str(), "INVALID_FIELD", "id", "1 to 64"),
    ];
    for (body, code, field, words) in cases {
        let before = server.metric(&format!("tickcast_messages_refused_total{{code=\"{code}\"}}"));
        let reply = publish(&server, body);
        assert_eq!((&reply["index"], &reply["status"]), (&json!(0), &json!("refused")), "{body}: {reply}");
        assert_eq!((&reply["code"], &reply["field"]), (&json!(code), &json!(field)), "{body}: {reply}");
        assert!(reply["message"].as_str().is_some_and(|message| message.contains(words)), "{body}: {reply}");
        let after = server.metric(&format!("tickcast_messages_refused_total{{code=\"{code}\"}}"));
        assert_eq!(after, before + 1.0, "{body}: counted once");
    }
    assert_eq!(server.running.ingest().engine().stream_count(), 0, "nothing of them was published");
}

#[test]
fn every_data_type_survives_the_way_from_json_to_a_binary_subscriber() {
    let server = TestServer::start(QUIET);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.subscribe(1, "**", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    let mut sequences: BTreeMap<(String, u8), u64> = BTreeMap::new();
    let mut checked = 0;
    for info in registry::types().iter().filter(|info| info.is_data()) {
        for full in [true, false] {
            let message = Message::sample(info, full);
            let (body, class) = native(&message);
            let reply = publish(&server, &body);
            assert_eq!(reply["status"], "accepted", "{body}: {reply}");
            let (header, seen) = published(&mut raw, &message);
            assert_eq!(seen, message, "{body}");
            let topic = reply["topic"].as_str().expect("a topic").to_owned();
            assert!(topic.starts_with(&format!("{}.", info.name)), "{topic}");
            let sequence = sequences.entry((topic, class as u8)).or_default();
            *sequence += 1;
            assert_eq!((reply["sequence"].as_u64(), header.sequence), (Some(*sequence), *sequence), "{body}");
            assert_eq!(header.flags & FLAG_CRITICAL != 0, class == Class::Critical, "{body}");
            assert_eq!((header.type_id, header.schema_version), (info.id, info.version));
            checked += 1;
        }
    }
    assert_eq!(checked, 2 * registry::types().iter().filter(|info| info.is_data()).count());
}

/// The next event, what the server says about the health of types left out.
fn published(raw: &mut Raw, expected: &Message) -> (Header, Message) {
    loop {
        let (header, seen) = raw.data();
        match (&seen, expected) {
            (Message::StreamHealth(own), Message::StreamHealth(sample)) if own.stream == sample.stream => {}
            (Message::StreamHealth(_), _) => continue,
            _ => {}
        }
        return (header, seen);
    }
}

/// A message as a publisher would write it, from what the server would write, and its class.
fn native(message: &Message) -> (String, Class) {
    let bytes = frame::encode(message);
    let (whole, _) = Frame::split_first(&bytes, PAYLOAD_BYTES_MAX).expect("our own frame");
    let view = whole.view().expect("a sound sample");
    let class = view.facts(&std::hash::RandomState::new()).class;
    let stamp = Stamp { topic: "", sequence: 1, publish_time: 1, class };
    let mut line = Vec::new();
    native_encode(&stamp, view, &mut line);
    let line = String::from_utf8(line).expect("text");
    let (_, data) = line.split_once("\"data\":").expect("data");
    (format!(r#"{{"type":"{}","data":{data}"#, view.info().name), class)
}

#[test]
fn exact_digits_stay_exact_and_a_missing_time_is_filled_in() {
    let server = TestServer::start(QUIET);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.subscribe(1, "market_data.A", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    for (written, mantissa, exponent) in [
        ("1.121200", 1_121_200, -6),
        ("2e-06", 2, -6),
        ("0.1", 1, -1),
        ("999999999999999999", 999_999_999_999_999_999, 0),
        ("\"39432.10\"", 3_943_210, -2),
        ("-0.50", -50, -2),
    ] {
        let body = format!(
            r#"{{"type":"market_data","ts":"2026-01-31T12:00:00","data":{{"symbol":"A","price":{written}}}}}"#
        );
        assert_eq!(publish(&server, &body)["status"], "accepted");
        let (_, Message::MarketData(tick)) = raw.data() else { panic!("a tick") };
        let price = tick.price.expect("a price");
        assert_eq!((price.mantissa(), price.exponent()), (mantissa, exponent), "{written}");
        assert_eq!(tick.ts.to_string(), "2026-01-31T12:00:00Z");
    }
    let before = jiff::Timestamp::now().as_nanosecond();
    publish(&server, r#"{"type":"market_data","data":{"symbol":"A","price":1}}"#);
    let (header, Message::MarketData(tick)) = raw.data() else { panic!("a tick") };
    let after = jiff::Timestamp::now().as_nanosecond();
    assert!((before..=after).contains(&i128::from(tick.ts.0)), "the time of arrival");
    assert!((before..=after).contains(&i128::from(header.publish_time)));
}

#[test]
fn a_body_that_is_not_json_is_a_problem_and_publishes_nothing() {
    let server = TestServer::start(QUIET);
    let good = r#"{"type":"market_data","data":{"symbol":"A","price":1}}"#;
    for body in ["", "hello", "{", "[1,", &format!("{good}{good}"), &format!("[{good},]"), r#"{"a":1,"a":2}"#]
    {
        assert_eq!(problem(&server, JSON, body, 400)["code"], "BAD_REQUEST", "{body}");
    }
    let deep = format!("[{}{}]", "[".repeat(100), "]".repeat(100));
    assert!(
        problem(&server, JSON, &deep, 400)["detail"].as_str().is_some_and(|detail| detail.contains("deeper"))
    );
    assert_eq!(server.limit_hits("limits.json_depth"), 1.0);
    assert_eq!(server.running.ingest().engine().stream_count(), 0);
    assert_eq!(server.metric("tickcast_http_responses_total{status=\"400\"}"), 8.0);
}

#[test]
fn text_that_is_not_utf8_is_a_problem() {
    let server = TestServer::start(QUIET);
    use std::io::{Read, Write};
    let mut tcp = std::net::TcpStream::connect(server.address()).expect("connects");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {JSON}\r\ncontent-length: 3\r\n\r\n",
        server.address()
    );
    tcp.write_all(&[head.as_bytes(), &[b'"', 0xFF, b'"']].concat()).expect("writes");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("not UTF-8"), "{answer}");
}

#[test]
fn the_content_type_and_the_method_are_asked_for() {
    let server = TestServer::start(QUIET);
    let good = r#"{"type":"market_data","data":{"symbol":"A","price":1}}"#;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"] {
        let told = problem(&server, content_type, good, 415);
        assert_eq!(
            (&told["code"], &told["field"]),
            (&json!("UNSUPPORTED_FORMAT"), &json!("content-type")),
            "{told}"
        );
    }
    let (status, _, answer) = full(&server, "POST", &[], good);
    assert_eq!(status, 415, "{answer}");
    assert_eq!(post(&server, "application/json; charset=utf-8", good)["status"], "accepted");
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let (status, head, _) = full(&server, method, &[("content-type", JSON)], good);
        assert_eq!(status, 405, "{method}");
        assert!(head.contains("allow: post"), "{method}: {head}");
    }
    assert_eq!(server.metric("tickcast_messages_received_total{type=\"market_data\"}"), 1.0);
}

#[test]
fn pages_from_elsewhere_may_not_publish() {
    let server =
        TestServer::start(&[QUIET, &[("server.allowed_origins", "https://desk.example.com")]].concat());
    let good = r#"{"type":"market_data","data":{"symbol":"A","price":1}}"#;
    let own = server.address().to_string();
    let cases: &[(&str, &str, u16)] = &[
        ("http://localhost:3000", &own, 200),
        ("http://127.0.0.1", &own, 200),
        ("http://[::1]:5173", "localhost", 200),
        ("https://desk.example.com", &own, 200),
        ("https://desk.example.com", "desk.example.com", 200),
        ("http://desk.example.com", &own, 403),
        ("https://evil.example", &own, 403),
        ("https://desk.example.com.evil.example", &own, 403),
        ("null", &own, 403),
        ("file://", &own, 403),
        // A name that was pointed at us after its page was loaded.
        ("http://evil.example:8000", "evil.example:8000", 403),
        ("http://localhost", "evil.example", 403),
    ];
    for (origin, host, expected) in cases {
        let headers = [("origin", *origin), ("host", *host), ("content-type", JSON)];
        let (status, _, answer) = full(&server, "POST", &headers, good);
        assert_eq!(status, *expected, "{origin} at {host}: {answer}");
    }
    assert_eq!(server.metric("tickcast_handshake_failures_total{reason=\"origin\"}"), 7.0);
    // A program sends no Origin and is not concerned.
    assert_eq!(publish(&server, good)["sequence"], 6);
}

#[test]
fn publishing_can_be_closed_to_all() {
    let server = TestServer::start(&[QUIET, &[("publish.loopback_open", "false")]].concat());
    let told = problem(&server, JSON, r#"{"type":"market_data","data":{"symbol":"A","price":1}}"#, 403);
    assert_eq!(told["code"], "FORBIDDEN");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("publish.loopback_open")), "{told}");
}

#[test]
fn limits_are_named_counted_and_kept() {
    let settings = [
        ("limits.publish_request_bytes", "8KiB"),
        ("limits.publish_request_messages", "3"),
        ("limits.publisher_bytes", "1KiB"),
        ("limits.inbound_bytes", "1KiB"),
        ("limits.streams", "2"),
    ];
    let server = TestServer::start(&[QUIET, &settings].concat());
    let of = |symbol: &str| format!(r#"{{"type":"market_data","data":{{"symbol":"{symbol}","price":1}}}}"#);
    let four = vec![of("A"); 4];
    for (content_type, body) in [(JSON, format!("[{}]", four.join(","))), (LINES, four.join("\n"))] {
        let told = problem(&server, content_type, &body, 413);
        assert!(
            told["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("limits.publish_request_messages = 3"))
        );
    }
    assert_eq!(server.limit_hits("limits.publish_request_messages"), 2.0);
    let told = problem(&server, JSON, &" ".repeat(9 * 1024), 413);
    assert_eq!(told["code"], "MESSAGE_TOO_LARGE");
    assert_eq!(server.limit_hits("limits.publish_request_bytes"), 1.0);
    let large =
        format!(r#"{{"type":"extension","data":{{"name":"n","key":"k","json":"{}"}}}}"#, "x".repeat(1100));
    for (content_type, hits) in [(JSON, 1.0), (LINES, 2.0)] {
        let reply = post(&server, content_type, &large);
        let reply = reply.get(0).unwrap_or(&reply);
        assert_eq!(
            (&reply["status"], &reply["code"]),
            (&json!("refused"), &json!("MESSAGE_TOO_LARGE")),
            "{reply}"
        );
        assert_eq!(server.limit_hits("limits.publisher_bytes"), hits);
    }
    assert_eq!(server.running.ingest().engine().stream_count(), 0);
    let replies = publish(&server, &format!("[{},{},{}]", of("A"), of("B"), of("C")));
    assert_eq!((&replies[0]["status"], &replies[1]["status"]), (&json!("accepted"), &json!("accepted")));
    assert_eq!(
        (&replies[2]["code"], &replies[2]["field"]),
        (&json!("STREAM_LIMIT"), &json!("topic")),
        "{replies}"
    );
    assert_eq!(publish(&server, &of("B"))["sequence"], 2, "streams that exist go on");
    // The server's own word about the health of A and B may have been one too many as well.
    assert!(server.limit_hits("limits.streams") >= 1.0);
}

#[test]
fn a_body_that_ends_early_is_no_publish() {
    let server = TestServer::start(&[QUIET, &[("limits.message_timeout", "200ms")]].concat());
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n{{\"type\"",
        server.address()
    );
    let (status, answer) = http(server.address(), &request);
    assert_eq!(status, 408, "{answer}");
    assert_eq!(server.limit_hits("limits.message_timeout"), 1.0);
}
