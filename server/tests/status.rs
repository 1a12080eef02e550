//! What an operator, a dashboard and Prometheus are told, and that it follows what happens.

mod common;

use std::collections::BTreeMap;
use std::time::Instant;

use common::{PATIENCE, Raw, TestServer, http_full, sample, tick};
use serde_json::{Value, json};
use tickcast_protocol::message::{Message, Role, Start, StreamHealth};

/// No heartbeat while a test lasts: the first one comes after a twentieth of the interval.
const QUIET: &[(&str, &str)] = &[("limits.idle_timeout", "1h"), ("heartbeat.interval", "30m")];

/// A GET: status, head in lower case, body.
fn get(server: &TestServer, path: &str) -> (u16, String, String) {
    request(server, "GET", path)
}

fn request(server: &TestServer, method: &str, path: &str) -> (u16, String, String) {
    let address = server.address();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let (status, head, body) = http_full(address, &request);
    (status, head.to_lowercase(), body)
}

fn get_json(server: &TestServer, path: &str) -> Value {
    let (status, head, body) = get(server, path);
    assert_eq!(status, 200, "{path}: {body}");
    assert!(head.contains("content-type: application/json"), "{path}: {head}");
    serde_json::from_str(&body).expect("JSON")
}

fn status(server: &TestServer) -> Value {
    get_json(server, "/websocket/status")
}

/// Asks for the status until it says yes.
fn wait_for(server: &TestServer, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = status(server);
        if reached(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}: {status}");
    }
}

#[test]
fn the_status_has_every_key_of_the_first_trading_bots() {
    let server = TestServer::start(&[]);
    let before = status(&server);
    assert_eq!(before["enabled"], true);
    assert_eq!(before["ping_interval"], 30, "seconds, as before");
    assert_eq!(before["stream_health"], json!({}), "nothing was heard of yet");
    for key in ["active_connections", "max_connections", "price_update_interval", "portfolio_update_interval"]
    {
        assert!(before[key].is_u64(), "{key}: {before}");
    }
    assert_eq!(before["active_connections"], 0);
    assert!(before["max_connections"].as_u64() > Some(1000), "{before}");

    let _binary = Raw::binary(server.address(), Role::SUBSCRIBER);
    let mut d1 = Raw::d1(server.address());
    d1.send_text(r#"{"message_type":"subscribe","subscription_type":"alerts"}"#);
    assert_eq!(d1.next().json()["data"]["status"], "subscribed");
    server.publish(&tick("BTCUSDT", "1"));
    server.publish(&sample("alert"));
    let after = wait_for(&server, "the alert was delivered", |status| status["deliveries"] == 1);
    assert_eq!((&after["active_connections"], &after["subscriptions"]), (&json!(2), &json!(1)), "{after}");
    // The server's own word about their health may be out already.
    assert!(
        after["streams"].as_u64() >= Some(2) && after["messages_received"].as_u64() >= Some(2),
        "{after}"
    );
    let health = after["stream_health"].as_object().expect("a map");
    assert!(health.contains_key("alert") && health.contains_key("market_data"), "{after}");
    for (name, health) in health {
        let mut keys: Vec<_> = health.as_object().expect("an object").keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["error_count", "is_healthy", "last_update", "recovery_attempts", "started_at"],
            "{name}"
        );
        assert_eq!((&health["is_healthy"], &health["error_count"]), (&json!(true), &json!(0)), "{name}");
        for key in ["last_update", "started_at"] {
            let time = health[key].as_str().expect("a time");
            assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{name} {key}: {time}");
        }
    }
    // What is ours, besides.
    for key in ["uptime_seconds", "conflated", "gapped", "queued", "shard_lag", "shards"] {
        assert!(after[key].is_u64(), "{key}: {after}");
    }
    assert_eq!((&after["shards"], &after["min_durability"]), (&json!(2), &json!("memory")), "{after}");
    drop(d1);
    wait_for(&server, "the client that left is gone", |status| status["active_connections"] == 1);
}

#[test]
fn a_connection_limit_is_reported_as_it_is_configured() {
    let server = TestServer::start(&[("limits.connections", "123")]);
    assert_eq!(status(&server)["max_connections"], 123);
}

/// C-33: a source of prices that falls silent is unwell, a market without signals is not.
#[test]
fn a_silent_price_is_unwell_after_a_while_and_a_silent_event_is_not() {
    let server = TestServer::start(&[QUIET, &[("health.stale_after", "100ms")]].concat());
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.subscribe(1, "stream_health.*", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    server.publish(&tick("BTCUSDT", "1"));
    server.publish(&sample("signal"));
    let stale = wait_for(&server, "the price is stale", |status| {
        status["stream_health"]["market_data"]["is_healthy"] == false
    });
    assert_eq!(stale["stream_health"]["signal"]["is_healthy"], true, "{stale}");
    // Whoever asked is told of the change, not of the signal's peace.
    let told = health_of(&mut raw, "market_data", false);
    assert!(told.last_update.is_some() && told.error_count == 0, "{told:?}");
    assert_eq!(server.metric("tickcast_stream_stale{type=\"market_data\"}"), 1.0);
    assert_eq!(server.metric("tickcast_stream_stale{type=\"signal\"}"), 0.0);

    // It comes back; go on until the monitor has looked and said so.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                server.publish(&tick("BTCUSDT", "2"));
                std::thread::yield_now();
            }
        });
        let told = health_of(&mut raw, "market_data", true);
        assert_eq!(told.recovery_attempts, 1, "{told:?}");
        drop(stop);
    });
    assert_eq!(status(&server)["stream_health"]["market_data"]["recovery_attempts"], 1);
}

/// The next message about this type's health that says so.
fn health_of(raw: &mut Raw, name: &str, is_healthy: bool) -> StreamHealth {
    let began = Instant::now();
    loop {
        let (_, message) = raw.data();
        let Message::StreamHealth(health) = message else { panic!("{message:?}") };
        assert!(health.stream != "signal" || health.is_healthy, "a quiet market is no fault: {health:?}");
        if health.stream == name && health.is_healthy == is_healthy {
            return health;
        }
        assert!(began.elapsed() < PATIENCE, "never told: {name} {is_healthy}");
    }
}

#[test]
fn the_plain_endpoints_say_what_they_should() {
    let server = TestServer::start(&[]);
    let (status, head, body) = get(&server, "/healthz");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    assert!(head.contains("content-type: text/plain") && head.contains("cache-control: no-store"), "{head}");

    let ready = get_json(&server, "/readyz");
    assert_eq!(ready["ready"], true, "{ready}");
    let checks = ready["checks"].as_array().expect("checks");
    assert!(checks.iter().all(|check| check["ok"] == true && check["detail"].is_string()), "{ready}");
    let names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(names, ["accepting", "shards", "journal"]);
    assert!(
        checks[2]["detail"].as_str().is_some_and(|detail| detail.contains("memory")),
        "said in words: {ready}"
    );

    let version = get_json(&server, "/version");
    assert_eq!(
        (&version["name"], &version["version"]),
        (&json!("tickcast"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!((&version["protocol"]["binary"], &version["protocol"]["json"]), (&json!(2), &json!("1.0")));

    let (status, _, body) = get(&server, "/");
    assert_eq!(status, 200);
    for path in
        ["/ws", "/ws/realtime", "/api/v1/publish", "/websocket/status", "/healthz", "/metrics", "/version"]
    {
        assert!(body.contains(path), "{path}: {body}");
    }

    let (status, head, body) = request(&server, "HEAD", "/healthz");
    assert_eq!((status, body.as_str()), (200, ""), "{head}");
    for path in ["/nothing", "/ws/", "/websocket", "/metrics/", "/../etc/passwd", "/%00"] {
        let (status, head, body) = get(&server, path);
        assert_eq!(status, 404, "{path}: {body}");
        assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((&problem["code"], &problem["status"]), (&json!("NOT_FOUND"), &json!(404)), "{problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("/websocket/status")),
            "{problem}"
        );
        assert!(!body.contains("passwd"), "what was asked for is not repeated");
    }
    for path in ["/healthz", "/metrics", "/nothing"] {
        let (status, head, _) = request(&server, "POST", path);
        assert_eq!(status, 405, "{path}");
        assert!(head.contains("allow: get, head"), "{path}: {head}");
    }
    let (status, head, _) = get(&server, "/ws");
    assert_eq!(status, 426, "{head}");
    assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-version: 13"), "{head}");
}

/// Every series of a scrape with its value, after checking that each has its help and type.
fn scrape(server: &TestServer) -> BTreeMap<String, f64> {
    let (status, head, text) = get(server, "/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let (mut kinds, mut helped) = (BTreeMap::new(), Vec::new());
    let mut series = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a text");
            assert!(!help.trim().is_empty(), "{line}");
            helped.push(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has two types");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let value: f64 = value.parse().expect("a number");
            let bare = name.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end));
            let family = family.filter(|family| kinds.get(*family).is_some_and(|kind| kind == "histogram"));
            let family = family.unwrap_or(bare);
            let kind = kinds.get(family).unwrap_or_else(|| panic!("{name} has no type"));
            assert!(helped.iter().any(|helped| helped == family), "{name} has no help");
            assert!(family.starts_with("tickcast_"), "{name}");
            assert!((kind == "counter") == family.ends_with("_total"), "{name} is a {kind}");
            assert!(series.insert(name.to_owned(), value).is_none(), "{name} is there twice");
        }
    }
    series
}

#[test]
fn a_scrape_explains_every_series_and_counters_move() {
    let server = TestServer::start(QUIET);
    let before = scrape(&server);
    let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
    raw.subscribe(1, "market_data.*", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    let mut d1 = Raw::d1(server.address());
    d1.send_text("x");
    assert_eq!(d1.next().json()["data"]["error_code"], "INVALID_JSON");
    let (status, _) = server.post("/api/v1/publish", "application/json", "[17]");
    assert_eq!(status, 200);
    for _ in 0..3 {
        server.publish(&tick("BTCUSDT", "1"));
        raw.data();
    }
    server.wait_until("the shard has counted", |server| {
        server.metric("tickcast_shard_deliveries_total") == 3.0
    });
    let after = scrape(&server);
    let moved =
        |name: &str| after.get(name).copied().unwrap_or(0.0) - before.get(name).copied().unwrap_or(0.0);
    for (name, by) in [
        ("tickcast_messages_received_total{type=\"market_data\"}", 3.0),
        ("tickcast_messages_refused_total{code=\"INVALID_FIELD\"}", 1.0),
        ("tickcast_shard_deliveries_total", 3.0),
        ("tickcast_shard_deliveries_binary_total", 3.0),
        ("tickcast_shard_subscriptions", 1.0),
        ("tickcast_connections", 2.0),
        ("tickcast_connections_opened_total{format=\"binary\"}", 1.0),
        ("tickcast_connections_opened_total{format=\"d1\"}", 1.0),
        ("tickcast_errors_total{code=\"BAD_REQUEST\"}", 1.0),
    ] {
        assert_eq!(moved(name), by, "{name}");
    }
    // The server's own word about the health of the type may be among these.
    assert!(moved("tickcast_messages_source_total{source=\"own\"}") >= 3.0);
    assert!(moved("tickcast_streams") >= 1.0);
    assert!(moved("tickcast_publish_to_last_write_seconds_count") >= 1.0);
    assert!(moved("tickcast_http_responses_total{status=\"200\"}") >= 2.0);
    assert!(after.contains_key("tickcast_shard_lag"));
    assert!(after.iter().any(|(name, value)| name.starts_with("tickcast_build_info{") && *value == 1.0));
    // No series may grow with what peers name.
    assert!(!after.keys().any(|name| name.contains("BTCUSDT")), "a topic is no label");
    // A counter only ever grows.
    for (name, value) in
        before.iter().filter(|(name, _)| name.split('{').next().is_some_and(|name| name.ends_with("_total")))
    {
        assert!(after.get(name).is_some_and(|later| later >= value), "{name}");
    }
    drop(raw);
    server.wait_until("the end is counted", |server| {
        server.metric("tickcast_connections_closed_total{code=\"none\"}") == 1.0
    });
}

#[test]
fn metrics_can_be_switched_off() {
    let server = TestServer::start(&[("metrics.enabled", "false")]);
    assert_eq!(get(&server, "/metrics").0, 404);
}
