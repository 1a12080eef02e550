//! Dashboards that exist today, to the byte: what they say, what they are answered, in both spellings.
//! The names of the contradictions (c07 and so on) are those of the notes on the dialects.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{PATIENCE, Raw, TestServer, sample, tick};
use serde_json::{Value, json};
use tickcast_compat::d1::stable_id;
use tickcast_protocol::Decimal;
use tickcast_protocol::message::{MarketData, Message, Severity};

const CAMEL: &[(&str, &str)] = &[("json.case", "camel"), QUIET[0], QUIET[1]];
const SNAKE: &[(&str, &str)] = &[("json.case", "snake"), QUIET[0], QUIET[1]];
const AUTO: &[(&str, &str)] = &[("json.case", "auto"), QUIET[0], QUIET[1]];
/// No heartbeat while a test lasts: the first one comes after a twentieth of the interval.
const QUIET: [(&str, &str); 2] = [("limits.idle_timeout", "1h"), ("heartbeat.interval", "30m")];

/// Connects and returns the greeting with the connection.
fn connect(server: &TestServer) -> (Raw, String) {
    let mut raw = Raw::connect(server.address(), "/ws/realtime", None).expect("upgrades");
    let greeting = text(&mut raw);
    (raw, greeting)
}

/// The next message as it stands on the wire.
fn text(raw: &mut Raw) -> String {
    let arrived = raw.next();
    arrived.json();
    String::from_utf8(arrived.payload).expect("text")
}

/// The same with every time and client id, which no test can know, replaced by a word.
fn plain(text: &str) -> String {
    let mut parts: Vec<&str> = text.split('"').collect();
    for part in &mut parts {
        if is_time(part) {
            *part = "TIME";
        } else if part.starts_with("client-") {
            *part = "CLIENT";
        }
    }
    parts.join("\"")
}

/// RFC 3339 in UTC with milliseconds and one `Z`.
fn is_time(text: &str) -> bool {
    let shape = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
    text.bytes().map(shape).eq(b"0000-00-00T00:00:00.000Z".iter().copied())
}

/// A price and a quote with the digits as exchanges send them.
fn quote(symbol: &str, price: &str, instrument_id: Option<u32>) -> Message {
    let Message::MarketData(full) = tick(symbol, price) else { panic!("market_data") };
    let number = |text: &str| Some(text.parse::<Decimal>().expect("a decimal"));
    Message::MarketData(MarketData {
        volume: number("0.50"),
        bid: number("39432.10"),
        ask: number("39433.700"),
        bid_size: number("2e-06"),
        ask_size: None,
        open: None,
        high: None,
        low: None,
        prev_close: None,
        change: None,
        change_ratio: Some(0.0125),
        venue: None,
        asset_class: None,
        instrument_id,
        ..full
    })
}

/// Asks and returns the acknowledgement's data.
fn ask(raw: &mut Raw, request: &str) -> Value {
    raw.send_text(request);
    let answer = raw.next().json();
    let kind = answer.get("message_type").or(answer.get("messageType"));
    assert_eq!(kind, Some(&json!("subscription_ack")), "{request}: {answer}");
    answer["data"].clone()
}

/// A ping whose pong comes next: nothing else was under way.
fn assert_quiet(raw: &mut Raw) {
    raw.send_text(r#"{"type":"ping","data":{"sequence":4711}}"#);
    let answer = raw.next().json();
    assert_eq!(answer["data"]["sequence"], 4711, "{answer}");
}

#[test]
fn the_camel_client_has_its_conversation() {
    let server = TestServer::start(CAMEL);
    let (mut raw, greeting) = connect(&server);
    assert_eq!(
        plain(&greeting),
        r#"{"messageType":"connection_status","version":"1.0","timestamp":"TIME","data":{"clientId":"CLIENT","connectedAt":"TIME","subscriptions":[],"lastHeartbeat":"TIME","connectionQuality":"good","messageCount":0}}"#
    );
    server.publish(&quote("BTC-USD", "39432.90", Some(5)));
    raw.send_text(r#"{"messageType":"subscribe","version":"1.0","timestamp":"2026-01-31T12:00:00.000Z","data":{"subscriptionType":"market_data","instrumentId":5,"requestId":"sub_market_data_5_1769860800000"}}"#);
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"messageType":"subscription_ack","version":"1.0","timestamp":"TIME","data":{"subscriptionType":"market_data","instrumentId":5,"status":"subscribed","requestId":"sub_market_data_5_1769860800000"}}"#
    );
    server.publish(&quote("BTC-USD", "39432.90", Some(5)));
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"messageType":"market_data","version":"1.0","timestamp":"TIME","data":{"instrumentId":5,"symbol":"BTC-USD","price":39432.90,"volume":0.50,"timestamp":"TIME","changePercent":1.25,"bid":39432.10,"ask":39433.700,"bidSize":0.000002}}"#
    );
    let now = jiff::Timestamp::now().to_string();
    raw.send_text(&format!(
        r#"{{"messageType":"ping","version":"1.0","timestamp":"{now}","data":{{"clientTime":"{now}","sequence":1769860800000}}}}"#
    ));
    let pong = text(&mut raw);
    let latency =
        pong.split("\"latencyMs\":").nth(1).and_then(|rest| rest.strip_suffix("}}")).expect("a latency");
    assert!((0.0..20_000.0).contains(&latency.parse::<f64>().expect("a number")), "{pong}");
    assert_eq!(
        plain(&pong.replace(latency, "0").replace(&now, "NOW")),
        r#"{"messageType":"pong","version":"1.0","timestamp":"TIME","data":{"clientTime":"NOW","serverTime":"TIME","sequence":1769860800000,"latencyMs":0}}"#
    );
    raw.send_text(r#"{"messageType":"unsubscribe","version":"1.0","timestamp":"2026-01-31T12:00:00.000Z","data":{"subscriptionType":"market_data","instrumentId":5,"requestId":"u"}}"#);
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"messageType":"subscription_ack","version":"1.0","timestamp":"TIME","data":{"subscriptionType":"market_data","instrumentId":5,"status":"unsubscribed","requestId":"u"}}"#
    );
    server.publish(&quote("BTC-USD", "1", Some(5)));
    assert_quiet(&mut raw);
    raw.send_text(r#"{"messageType":"subscribe","data":{"subscriptionType":"nonsense","requestId":"n"}}"#);
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"messageType":"subscription_ack","version":"1.0","timestamp":"TIME","data":{"subscriptionType":"nonsense","status":"failed","message":"nothing is called `nonsense`","requestId":"n"}}"#
    );
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"messageType":"error","version":"1.0","timestamp":"TIME","data":{"errorCode":"UNKNOWN_STREAM","errorMessage":"nothing is called `nonsense`","requestId":"n","timestamp":"TIME","severity":"error"}}"#
    );
}

#[test]
fn the_flat_snake_client_has_its_conversation() {
    let server = TestServer::start(SNAKE);
    let (mut raw, greeting) = connect(&server);
    assert_eq!(
        plain(&greeting),
        r#"{"message_type":"connection_status","version":"1.0","timestamp":"TIME","data":{"client_id":"CLIENT","connected_at":"TIME","subscriptions":[],"last_heartbeat":"TIME","connection_quality":"good","message_count":0}}"#
    );
    // The flat form, without a version, a timestamp or a request id.
    raw.send_text(r#"{"message_type":"subscribe","subscription_type":"market_data"}"#);
    let ack = text(&mut raw);
    let request_id =
        ack.split("\"req_").nth(1).and_then(|rest| rest.split('"').next()).expect("a made-up request id");
    let age = jiff::Timestamp::now().as_second() - request_id.parse::<i64>().expect("seconds since 1970");
    assert!((0..30).contains(&age), "{ack}");
    assert_eq!(
        plain(&ack.replace(request_id, "S")),
        r#"{"message_type":"subscription_ack","version":"1.0","timestamp":"TIME","data":{"subscription_type":"market_data","status":"subscribed","request_id":"req_S"}}"#
    );
    server.publish(&quote("BTC-USD", "39432.90", None));
    let id = stable_id("BTC-USD");
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"message_type":"market_data","version":"1.0","timestamp":"TIME","data":{"instrument_id":ID,"symbol":"BTC-USD","price":39432.90,"volume":0.50,"timestamp":"TIME","change_percent":1.25,"bid":39432.10,"ask":39433.700,"bid_size":0.000002}}"#
            .replace("ID", &id.to_string())
    );
    raw.send_text(r#"{"message_type":"ping"}"#);
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"message_type":"pong","version":"1.0","timestamp":"TIME","data":{"server_time":"TIME","latency_ms":null}}"#
    );
    raw.send_text(r#"{"message_type":"unsubscribe","subscription_type":"market_data","request_id":"u-1"}"#);
    assert_eq!(
        plain(&text(&mut raw)),
        r#"{"message_type":"subscription_ack","version":"1.0","timestamp":"TIME","data":{"subscription_type":"market_data","status":"unsubscribed","request_id":"u-1"}}"#
    );
    server.publish(&quote("BTC-USD", "1", None));
    assert_quiet(&mut raw);
}

#[test]
fn clients_of_both_spellings_share_a_server_that_follows_each() {
    let server = TestServer::start(AUTO);
    let (mut camel, greeting) = connect(&server);
    assert!(greeting.starts_with(r#"{"message_type":"connection_status""#), "{greeting}");
    let (mut snake, _) = connect(&server);
    let ack = ask(
        &mut camel,
        r#"{"messageType":"subscribe","data":{"subscriptionType":"market_data","requestId":"c"}}"#,
    );
    assert_eq!(ack, json!({"subscriptionType": "market_data", "status": "subscribed", "requestId": "c"}));
    let ack = ask(
        &mut snake,
        r#"{"message_type":"subscribe","data":{"subscription_type":"market_data","request_id":"s"}}"#,
    );
    assert_eq!(ack, json!({"subscription_type": "market_data", "status": "subscribed", "request_id": "s"}));
    server.publish(&quote("BTC-USD", "1.10", Some(9)));
    let (camel_text, snake_text) = (text(&mut camel), text(&mut snake));
    assert!(camel_text.contains(r#""instrumentId":9,"symbol":"BTC-USD","price":1.10,"#), "{camel_text}");
    assert!(snake_text.contains(r#""instrument_id":9,"symbol":"BTC-USD","price":1.10,"#), "{snake_text}");
    // The spelling is that of the first message, whatever comes later.
    camel.send_text(r#"{"message_type":"ping"}"#);
    assert!(text(&mut camel).starts_with(r#"{"messageType":"pong""#));
}

#[test]
fn a_client_whose_spelling_is_set_is_understood_in_the_other() {
    for (settings, key) in [(CAMEL, "messageType"), (SNAKE, "message_type")] {
        let server = TestServer::start(settings);
        let (mut raw, _) = connect(&server);
        for (request, id) in [
            (r#"{"messageType":"subscribe","data":{"subscriptionType":"alerts","requestId":"1"}}"#, "1"),
            (
                r#"{"message_type":"subscribe","data":{"subscription_type":"analytics","request_id":"2"}}"#,
                "2",
            ),
            (r#"{"message_type":"subscribe","subscription_type":"risk_metrics","request_id":"3"}"#, "3"),
            // One field so, the next one so: each is understood by itself (C-02).
            (r#"{"messageType":"subscribe","data":{"subscription_type":"market_data","requestId":4}}"#, "4"),
        ] {
            raw.send_text(request);
            let answer = raw.next().json();
            assert_eq!(answer[key], "subscription_ack", "{answer}");
            let data = &answer["data"];
            assert_eq!(data["status"], "subscribed", "{answer}");
            assert_eq!(data.get("request_id").or(data.get("requestId")), Some(&json!(id)), "{answer}");
        }
    }
}

/// What a client subscribes to, the sample that is published, and the keys its message has in snake case.
const EVENTS: [(&str, &str, &str, &[&str]); 6] = [
    (
        "market_data",
        "market_data",
        "market_data",
        &[
            "instrument_id",
            "symbol",
            "price",
            "volume",
            "timestamp",
            "change_percent",
            "bid",
            "ask",
            "bid_size",
            "ask_size",
            "open_price",
            "high_price",
            "low_price",
        ],
    ),
    (
        "alerts",
        "alert",
        "alert",
        &[
            "alert_id",
            "rule_id",
            "instrument_id",
            "symbol",
            "rule_name",
            "condition",
            "target_value",
            "current_value",
            "severity",
            "message",
            "evaluation_time_ms",
            "rule_condition",
        ],
    ),
    (
        "analytics",
        "analytics_update",
        "analytics_update",
        &[
            "instrument_id",
            "symbol",
            "analysis_type",
            "results",
            "calculation_time",
            "next_update",
            "confidence_score",
            "data_quality_score",
        ],
    ),
    (
        "technical_indicators",
        "technical_indicators",
        "technical_indicators",
        &["instrument_id", "symbol", "indicators", "calculated_at", "timeframe", "indicator_quality"],
    ),
    (
        "price_prediction",
        "price_prediction",
        "price_prediction",
        &[
            "instrument_id",
            "symbol",
            "predicted_price",
            "confidence_interval",
            "prediction_horizon_minutes",
            "model_name",
            "prediction_accuracy",
            "calculated_at",
        ],
    ),
    (
        "risk_metrics",
        "risk_metrics",
        "risk_metrics",
        &[
            "instrument_id",
            "symbol",
            "var_1d",
            "var_5d",
            "volatility",
            "beta",
            "sharpe_ratio",
            "max_drawdown",
            "calculated_at",
        ],
    ),
];

/// The camel spelling, digits included: `var_1d` is `var1d` (C-03).
fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn all_six_event_types_arrive_with_every_key_of_their_schema() {
    for (settings, is_camel) in [(SNAKE, false), (CAMEL, true)] {
        let server = TestServer::start(settings);
        let (mut raw, _) = connect(&server);
        for (subscription, name, message_type, keys) in EVENTS {
            ask(&mut raw, &format!(r#"{{"message_type":"subscribe","subscription_type":"{subscription}"}}"#));
            server.publish(&sample(name));
            let event = raw.next().json();
            let spell = |key: &str| if is_camel { camel(key) } else { key.to_owned() };
            let mut envelope: Vec<_> = event.as_object().expect("an object").keys().cloned().collect();
            envelope.sort();
            let mut expected = ["data", "timestamp", "version"].map(str::to_owned).to_vec();
            expected.push(spell("message_type"));
            expected.sort();
            assert_eq!(envelope, expected, "{event}");
            assert_eq!(event[&spell("message_type")], message_type, "{event}");
            let mut found: Vec<_> = event["data"].as_object().expect("an object").keys().cloned().collect();
            found.sort();
            let mut keys: Vec<_> = keys.iter().map(|key| spell(key)).collect();
            keys.sort();
            assert_eq!(found, keys, "{event}");
        }
        // The tape has no type of its own: a trade is a price and a volume.
        server.publish(&sample("public_trade"));
        let trade = raw.next().json();
        assert_eq!(
            trade.get("message_type").or(trade.get("messageType")),
            Some(&json!("market_data")),
            "{trade}"
        );
        assert!(trade["data"]["volume"].is_number() && trade["data"]["price"].is_number(), "{trade}");
        assert_quiet(&mut raw);
    }
}

#[test]
fn c04_keys_inside_free_form_maps_are_never_renamed() {
    let server = TestServer::start(CAMEL);
    let (mut raw, _) = connect(&server);
    ask(&mut raw, r#"{"messageType":"subscribe","data":{"subscriptionType":"analytics"}}"#);
    let body = r#"{"type":"analytics_update","data":{"symbol":"BTC-USD","analysis_type":"bands","results":{"bollinger_upper":1.10,"nested_map":{"lower_band":[1,{"a_b":null}]}}}}"#;
    let (status, reply) = server.post("/api/v1/publish", "application/json", body);
    assert_eq!((status, reply.contains("accepted")), (200, true), "{reply}");
    let event = text(&mut raw);
    assert!(
        event.contains(r#""results":{"bollinger_upper":1.1,"nested_map":{"lower_band":[1,{"a_b":null}]}}"#),
        "{event}"
    );
    assert!(event.contains(r#""analysisType":"bands""#), "{event}");
}

#[test]
fn c07_a_subscription_without_an_instrument_covers_them_all() {
    let server = TestServer::start(SNAKE);
    let (mut all, _) = connect(&server);
    let (mut one, _) = connect(&server);
    for name in ["market_data", "alerts"] {
        ask(&mut all, &format!(r#"{{"message_type":"subscribe","subscription_type":"{name}"}}"#));
    }
    // The message is called alert, the subscription alerts: both names are understood.
    let ack = ask(&mut all, r#"{"message_type":"subscribe","subscription_type":"alert"}"#);
    assert_eq!(ack["status"], "subscribed");
    server.publish(&quote("BTC-USD", "1", Some(5)));
    server.publish(&quote("ETH-USD", "2", Some(6)));
    server.publish(&sample("alert"));
    let ack =
        ask(&mut one, r#"{"message_type":"subscribe","subscription_type":"market_data","instrument_id":6}"#);
    assert_eq!((&ack["status"], ack.get("message")), (&json!("subscribed"), None));
    server.publish(&quote("BTC-USD", "3", Some(5)));
    server.publish(&quote("ETH-USD", "4", Some(6)));
    let prices = |raw: &mut Raw, count: usize| -> Vec<String> {
        let mut prices = Vec::new();
        while prices.len() < count {
            let event = raw.next().json();
            match event["message_type"].as_str() {
                Some("alert") => prices.push("alert".to_owned()),
                _ => prices.push(event["data"]["price"].to_string()),
            }
        }
        prices
    };
    let mut seen = prices(&mut all, 5);
    // Alerts go first: they have a lane of their own.
    seen.retain(|price| price != "alert");
    assert_eq!(seen, ["1", "2", "3", "4"]);
    assert_eq!(prices(&mut one, 1), ["4"]);
    assert_quiet(&mut all);
    assert_quiet(&mut one);
    // Two names of one thing: it ends with the second.
    ask(&mut all, r#"{"message_type":"unsubscribe","subscription_type":"alerts"}"#);
    server.publish(&sample("alert"));
    assert_eq!(all.next().json()["message_type"], "alert");
    ask(&mut all, r#"{"message_type":"unsubscribe","subscription_type":"alert"}"#);
    server.publish(&sample("alert"));
    assert_quiet(&mut all);
}

#[test]
fn c09_a_heartbeat_is_about_the_client_it_is_sent_to() {
    let server = TestServer::start(&[("json.case", "auto"), ("heartbeat.interval", "100ms")]);
    let (mut camel, first) = connect(&server);
    let (mut snake, second) = connect(&server);
    let id_of = |greeting: &str| {
        let greeting: Value = serde_json::from_str(greeting).expect("JSON");
        (greeting["data"]["client_id"].clone(), greeting["data"]["connected_at"].clone())
    };
    let ((camel_id, camel_since), (snake_id, snake_since)) = (id_of(&first), id_of(&second));
    assert_ne!(camel_id, snake_id);
    camel.send_text(
        r#"{"messageType":"subscribe","data":{"subscriptionType":"market_data","instrumentId":5}}"#,
    );
    snake.send_text(r#"{"message_type":"subscribe","subscription_type":"alerts"}"#);
    snake.send_text(r#"{"message_type":"subscribe","subscription_type":"analytics"}"#);
    let mut last_heard = Vec::new();
    for _ in 0..3 {
        let beat = beat(&mut camel, "messageType", |data| data["subscriptions"] == json!(["market_data_5"]));
        assert_eq!((&beat["clientId"], &beat["connectedAt"]), (&camel_id, &camel_since), "{beat}");
        last_heard.push(beat["lastHeartbeat"].as_str().expect("a time").to_owned());
        let beat = self::beat(&mut snake, "message_type", |data| {
            data["subscriptions"] == json!(["alerts", "analytics"])
        });
        assert_eq!((&beat["client_id"], &beat["connected_at"]), (&snake_id, &snake_since), "{beat}");
    }
    assert!(last_heard.windows(2).all(|pair| pair[0] == pair[1]), "nothing was heard: {last_heard:?}");
    camel.send_text(r#"{"messageType":"ping"}"#);
    let before = last_heard[0].clone();
    beat(&mut camel, "messageType", |data| data["lastHeartbeat"].as_str() > Some(&before));
    ask_past_beats(&mut snake, r#"{"message_type":"unsubscribe","subscription_type":"alerts"}"#);
    beat(&mut snake, "message_type", |data| data["subscriptions"] == json!(["analytics"]));
}

/// The data of the next heartbeat of which `fits` is true.
fn beat(raw: &mut Raw, key: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let message = raw.next().json();
        if message[key] == "connection_status" && fits(&message["data"]) {
            return message["data"].clone();
        }
        assert!(began.elapsed() < PATIENCE, "no heartbeat fits: {message}");
    }
}

fn ask_past_beats(raw: &mut Raw, request: &str) {
    raw.send_text(request);
    while raw.next().json()["message_type"] != "subscription_ack" {}
}

#[test]
fn c10_times_are_utc_with_one_z_and_read_with_or_without_a_zone() {
    let server = TestServer::start(SNAKE);
    let (mut raw, greeting) = connect(&server);
    assert_eq!(plain(&greeting).matches("TIME").count(), 3, "{greeting}");
    let now = jiff::Timestamp::now();
    let zoneless = now.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let broken = format!("{zoneless}+00:00Z");
    for client_time in [now.to_string(), zoneless.clone(), format!("{zoneless}+00:00")] {
        raw.send_text(&format!(r#"{{"type":"ping","data":{{"client_time":"{client_time}"}}}}"#));
        let pong = raw.next().json();
        let latency = pong["data"]["latency_ms"].as_f64().unwrap_or_else(|| panic!("{client_time}: {pong}"));
        assert!((0.0..20_000.0).contains(&latency), "{client_time}: {pong}");
        assert_eq!(pong["data"]["client_time"], client_time.as_str(), "echoed to the letter");
        assert!(is_time(pong["data"]["server_time"].as_str().expect("text")), "{pong}");
    }
    // A time that is none is echoed, and says nothing.
    raw.send_text(&format!(r#"{{"type":"ping","data":{{"client_time":"{broken}"}}}}"#));
    let pong = raw.next().json();
    assert_eq!((&pong["data"]["client_time"], &pong["data"]["latency_ms"]), (&json!(broken), &Value::Null));
}

#[test]
fn c11_the_latency_of_a_ping_is_null_when_the_clocks_disagree() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    raw.send_text(r#"{"type":"ping","data":{"client_time":"2199-01-01T00:00:00Z","sequence":-1}}"#);
    let pong = raw.next().json();
    assert_eq!(
        (&pong["data"]["latency_ms"], &pong["data"]["sequence"]),
        (&Value::Null, &json!(-1)),
        "{pong}"
    );
}

#[test]
fn c16_unsubscribes_of_what_was_never_subscribed_are_forgiven_without_end() {
    let server = TestServer::start(&[SNAKE, &[("limits.strikes", "3")]].concat());
    let (mut raw, _) = connect(&server);
    for round in 0..30 {
        for name in ["technical", "price", "risk", "market"] {
            let ack = ask(
                &mut raw,
                &format!(
                    r#"{{"message_type":"unsubscribe","data":{{"subscription_type":"{name}","instrument_id":null}}}}"#
                ),
            );
            assert_eq!(ack["status"], "failed", "round {round}: {ack}");
        }
    }
    assert_quiet(&mut raw);
    assert_eq!(server.limit_hits("limits.strikes"), 0.0);
}

#[test]
fn c40_a_version_is_not_needed_and_any_minor_will_do() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    for version in ["", r#","version":"1.0""#, r#","version":"1.9""#, r#","version":1"#, r#","version":null"#]
    {
        raw.send_text(&format!(r#"{{"message_type":"ping"{version}}}"#));
        assert_eq!(raw.next().json()["message_type"], "pong", "{version}");
    }
}

/// The real hook subscribes to five streams of an instrument and then, by mistake, ends one of them for
/// good and four that never were. Unsubscribes are honoured: the others go on.
#[test]
fn c42_the_hook_that_unsubscribes_by_mistake_keeps_what_it_did_not_name() {
    let server = TestServer::start(CAMEL);
    let (mut raw, _) = connect(&server);
    server.publish(&quote("BTC-USD", "1", Some(5)));
    let streams = ["analytics", "technical_indicators", "price_prediction", "risk_metrics", "market_data"];
    for name in streams {
        let ack = ask(
            &mut raw,
            &format!(
                r#"{{"messageType":"subscribe","data":{{"subscriptionType":"{name}","instrumentId":5}}}}"#
            ),
        );
        assert_eq!((&ack["status"], &ack["instrumentId"]), (&json!("subscribed"), &json!(5)), "{ack}");
    }
    // It cuts its own keys at the first underscore: `analytics_5` is well, the others are not.
    let ends =
        [("analytics", "5"), ("technical", "null"), ("price", "null"), ("risk", "null"), ("market", "null")];
    for (name, id) in ends {
        let ack = ask(
            &mut raw,
            &format!(
                r#"{{"messageType":"unsubscribe","data":{{"subscriptionType":"{name}","instrumentId":{id}}}}}"#
            ),
        );
        assert_eq!(ack["status"], if id == "5" { "unsubscribed" } else { "failed" }, "{name}: {ack}");
    }
    let Message::AnalyticsUpdate(mut analysis) = sample("analytics_update") else {
        panic!("analytics_update")
    };
    analysis.symbol = "BTC-USD".into();
    server.publish(&analysis.into());
    server.publish(&quote("BTC-USD", "2", Some(5)));
    let event = raw.next().json();
    assert_eq!(
        (&event["messageType"], &event["data"]["price"]),
        (&json!("market_data"), &json!(2)),
        "{event}"
    );
}

#[test]
fn an_instrument_is_found_by_the_number_of_its_messages_and_by_the_derived_one() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    server.publish(&quote("LEARNED", "1", Some(4242)));
    server.publish(&quote("DERIVED", "1", None));
    let derived = stable_id("DERIVED");
    for id in [4242, derived] {
        let ack = ask(
            &mut raw,
            &format!(
                r#"{{"message_type":"subscribe","subscription_type":"market_data","instrument_id":{id}}}"#
            ),
        );
        assert_eq!((&ack["status"], ack.get("message")), (&json!("subscribed"), None), "{ack}");
    }
    // The second time without its number: it is known.
    server.publish(&quote("LEARNED", "2", None));
    server.publish(&quote("OTHER", "3", None));
    server.publish(&quote("DERIVED", "4", None));
    for (symbol, id, price) in [("LEARNED", 4242, 2), ("DERIVED", derived, 4)] {
        let event = raw.next().json();
        let data = &event["data"];
        assert_eq!(
            (&data["symbol"], &data["instrument_id"], &data["price"]),
            (&json!(symbol), &json!(id), &json!(price))
        );
    }
    assert_quiet(&mut raw);
}

#[test]
fn a_subscription_to_a_number_nobody_published_begins_with_the_message_that_brings_it() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    let (stated, derived) = (777, stable_id("LATER"));
    for (name, id) in [("market_data", stated), ("alerts", stated), ("market_data", derived)] {
        let ack = ask(
            &mut raw,
            &format!(r#"{{"message_type":"subscribe","subscription_type":"{name}","instrument_id":{id}}}"#),
        );
        assert_eq!(ack["status"], "subscribed", "{ack}");
        assert!(ack["message"].as_str().expect("a reason").contains("nobody has published yet"), "{ack}");
    }
    server.publish(&quote("OTHER", "1", Some(778)));
    server.publish(&quote("LATER", "2", None));
    let event = raw.next().json();
    assert_eq!(
        (&event["data"]["price"], &event["data"]["instrument_id"]),
        (&json!(2), &json!(derived)),
        "{event}"
    );
    // Nothing is more painful to miss than the first alert.
    let Message::Alert(mut alert) = sample("alert") else { panic!("alert") };
    (alert.symbol, alert.instrument_id, alert.severity) = ("NOW".into(), Some(stated), Severity::EMERGENCY);
    server.publish(&alert.into());
    let event = raw.next().json();
    assert_eq!(
        (&event["message_type"], &event["data"]["instrument_id"]),
        (&json!("alert"), &json!(stated)),
        "{event}"
    );
    assert_eq!(event["data"]["severity"], "high", "{event}");
    server.publish(&quote("NOW", "3", Some(stated)));
    let event = raw.next().json();
    assert_eq!((&event["data"]["price"], &event["data"]["symbol"]), (&json!(3), &json!("NOW")), "{event}");
    assert_quiet(&mut raw);
}

#[test]
fn a_waiting_subscription_begins_even_while_its_client_talks_all_the_time() {
    let busy =
        [("limits.inbound_messages_per_second", "100000"), ("limits.inbound_messages_burst", "100000")];
    let server = TestServer::start(&[SNAKE, &busy].concat());
    let (mut raw, _) = connect(&server);
    ask(&mut raw, r#"{"message_type":"subscribe","subscription_type":"market_data","instrument_id":777}"#);
    server.publish(&quote("NOW", "3", Some(777)));
    let began = Instant::now();
    loop {
        raw.send_text(r#"{"type":"ping"}"#);
        let answer = raw.next().json();
        if answer["message_type"] == "market_data" {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the pings put it off");
    }
}

#[test]
fn a_waiting_subscription_can_be_ended() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    ask(&mut raw, r#"{"message_type":"subscribe","subscription_type":"market_data","instrument_id":777}"#);
    let ack = ask(
        &mut raw,
        r#"{"message_type":"unsubscribe","subscription_type":"market_data","instrument_id":777}"#,
    );
    assert_eq!(ack["status"], "unsubscribed");
    server.publish(&quote("NOW", "3", Some(777)));
    ask(&mut raw, r#"{"message_type":"subscribe","subscription_type":"market_data","symbol":"LATER"}"#);
    server.publish(&quote("LATER", "4", None));
    assert_eq!(raw.next().json()["data"]["price"], 4);
}

#[test]
fn subscribing_twice_is_success_and_one_subscription() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    for _ in 0..2 {
        let ack =
            ask(&mut raw, r#"{"message_type":"subscribe","subscription_type":"market_data","symbol":"X"}"#);
        assert_eq!(ack["status"], "subscribed");
    }
    // Both cover X, and it comes once.
    ask(&mut raw, r#"{"message_type":"subscribe","subscription_type":"market_data"}"#);
    server.publish(&quote("X", "1", None));
    assert_eq!(raw.next().json()["data"]["symbol"], "X");
    assert_quiet(&mut raw);
}

#[test]
fn what_the_source_skipped_is_told_as_a_warning_before_the_next_event() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    ask(&mut raw, r#"{"message_type":"subscribe","subscription_type":"market_data","symbol":"X"}"#);
    server.publish(&quote("X", "1", None));
    server.running.ingest().skip("market_data.X", 3).expect("a sound skip");
    server.publish(&quote("X", "2", None));
    assert_eq!(raw.next().json()["data"]["price"], 1);
    let told = raw.next().json();
    assert_eq!(told["message_type"], "error", "{told}");
    let data = &told["data"];
    assert_eq!((&data["error_code"], &data["severity"]), (&json!("DATA_GAP"), &json!("warning")), "{told}");
    assert_eq!(
        (&data["topic"], &data["from"], &data["through"]),
        (&json!("market_data.X"), &json!(2), &json!(4))
    );
    assert_eq!(
        (&data["gapped"], &data["conflated"], &data["reason"]),
        (&json!(3), &json!(0), &json!("upstream"))
    );
    assert_eq!(raw.next().json()["data"]["price"], 2);
}

#[test]
fn c13_a_drain_is_announced_and_never_closes_with_1000() {
    let server = TestServer::start(SNAKE);
    let (mut raw, _) = connect(&server);
    let stopping = std::thread::spawn(move || server.running.stop());
    let notice = raw.next().json();
    assert_eq!(notice["data"]["error_code"], "SERVER_DRAINING", "{notice}");
    assert!(notice["data"]["retry_after"].as_u64().is_some_and(|seconds| seconds <= 31), "{notice}");
    assert_eq!(raw.close_code(), Some(1012));
    drop(raw);
    stopping.join().expect("the server stops");
}

/// The head of the answer to a handshake, and whatever of the body came with it.
fn handshake(address: SocketAddr, path: &str, offer: Option<&str>) -> String {
    let mut tcp = TcpStream::connect(address).expect("connects");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let offer = offer.map_or(String::new(), |offer| format!("sec-websocket-protocol: {offer}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
    );
    tcp.write_all(request.as_bytes()).expect("writes");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        let count = tcp.read(&mut chunk).expect("an answer");
        assert!(count > 0, "the server hung up");
        answer.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[test]
fn the_path_and_the_subprotocol_say_what_is_spoken() {
    let server = TestServer::start(SNAKE);
    let cases = [
        ("/ws", None, None),
        ("/ws/realtime", None, None),
        ("/ws", Some("tickcast.v1.json"), Some("tickcast.v1.json")),
        ("/ws", Some("tickcast.v1.json.d1"), Some("tickcast.v1.json.d1")),
        ("/ws/realtime", Some("graphql-ws, tickcast.v1.json.d1"), Some("tickcast.v1.json.d1")),
    ];
    for (path, offer, chosen) in cases {
        let head = handshake(server.address(), path, offer);
        let told = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!((head.starts_with("http/1.1 101"), told), (true, chosen), "{path} {offer:?}: {head}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        let mut raw = Raw::connect(server.address(), path, offer).expect("upgrades");
        assert_eq!(raw.next().json()["message_type"], "connection_status", "{path} {offer:?}");
    }
    for path in ["/ws", "/ws/realtime"] {
        for offer in ["soap", "tickcast.v9", "graphql-ws, mqtt"] {
            let Err((status, answer)) = Raw::connect(server.address(), path, Some(offer)) else {
                panic!("{path} took {offer}")
            };
            assert_eq!(status, 400, "{path} {offer}: {answer}");
            assert!(
                answer.contains("application/problem+json") && answer.contains("tickcast.v2"),
                "{answer}"
            );
        }
    }
    assert_eq!(server.metric("tickcast_handshake_failures_total{reason=\"subprotocol\"}"), 6.0);
}
