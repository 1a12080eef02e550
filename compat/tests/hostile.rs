//! Bad input, row by row: what is refused, with which code, and which field is named.

mod common;

use common::{Book, NOW};
use tickcast_compat::native::native_decode;
use tickcast_compat::parse::JsonReason;
use tickcast_compat::{Limits, d1, parse};

/// Code and field of the refusal of a native message.
fn native(text: &str) -> Option<(String, String)> {
    match parse(text, &Limits::default()) {
        Err(error) => Some((error.code().name().to_owned(), String::new())),
        Ok(input) => native_decode(&input, NOW).err().map(|error| {
            assert!(error.message.contains(error.field.as_str()), "the message names the field: {error:?}");
            (error.code.name().to_owned(), error.field)
        }),
    }
}

#[test]
fn native_messages_are_refused_by_field() {
    let tick = |data: &str| format!(r#"{{"type":"market_data","data":{data}}}"#);
    let priced = |price: &str| format!(r#"{{"type":"market_data","data":{{"symbol":"B","price":{price}}}}}"#);
    let alert = |change: &str| {
        let text = r#"{"type":"alert","data":{"symbol":"B","alert_id":1,"rule_id":2,"rule_name":"r","condition":"c","target_value":1,"current_value":2,"severity":"low","message":"m","rule_condition":"x"}}"#;
        let (name, value) = change.split_once(':').unwrap();
        let start = text.find(&format!("\"{name}\":")).unwrap();
        let value_start = start + name.len() + 3;
        let value_end = value_start + text[value_start..].find([',', '}']).unwrap();
        format!("{}{value}{}", &text[..value_start], &text[value_end..])
    };
    let extension = |data: &str| format!(r#"{{"type":"extension","data":{data}}}"#);
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let bar = r#"{"type":"bar","topic":"bar.1m","data":{"open":1,"high":1,"low":1,"close":1,"volume":1}}"#;
    let rows: Vec<(String, &str, &str)> = vec![
        // Not JSON, or more of it than there may be.
        ("".into(), "BAD_REQUEST", ""),
        ("{}x".into(), "BAD_REQUEST", ""),
        ("{\"type\":\"market_data\"".into(), "BAD_REQUEST", ""),
        ("\u{feff}{}".into(), "BAD_REQUEST", ""),
        ("{}\0".into(), "BAD_REQUEST", ""),
        ("NaN".into(), "BAD_REQUEST", ""),
        (priced("NaN"), "BAD_REQUEST", ""),
        (priced("-Infinity"), "BAD_REQUEST", ""),
        (priced("01"), "BAD_REQUEST", ""),
        (priced("+1"), "BAD_REQUEST", ""),
        (priced("1."), "BAD_REQUEST", ""),
        (priced(".5"), "BAD_REQUEST", ""),
        (priced("0x10"), "BAD_REQUEST", ""),
        (priced("1,\"price\":2"), "BAD_REQUEST", ""),
        (priced("1,\"pric\\u0065\":2"), "BAD_REQUEST", ""),
        (tick(r#"{"symbol":"\ud800","price":1}"#), "BAD_REQUEST", ""),
        (tick(r#"{"symbol":"\udc00\ud800","price":1}"#), "BAD_REQUEST", ""),
        (tick("{\"symbol\":\"a\0\",\"price\":1}"), "BAD_REQUEST", ""),
        (tick("{\"symbol\":\"a\nb\",\"price\":1}"), "BAD_REQUEST", ""),
        (extension(&format!(r#"{{"name":"n","key":"k","json":{}}}"#, deep(7))), "BAD_REQUEST", ""),
        (deep(20_000), "BAD_REQUEST", ""),
        (format!("\"{}\"", "x".repeat(64 * 1024)), "MESSAGE_TOO_LARGE", ""),
        // The message around the data.
        ("null".into(), "INVALID_FIELD", ""),
        ("1e400".into(), "INVALID_FIELD", ""),
        ("\"market_data\"".into(), "INVALID_FIELD", ""),
        ("[]".into(), "INVALID_FIELD", ""),
        ("{}".into(), "INVALID_FIELD", "type"),
        (r#"{"type":null,"data":{}}"#.into(), "INVALID_FIELD", "type"),
        (r#"{"type":100,"data":{}}"#.into(), "INVALID_FIELD", "type"),
        (r#"{"type":"","data":{}}"#.into(), "UNKNOWN_TYPE", "type"),
        (r#"{"type":"Market_Data","data":{}}"#.into(), "UNKNOWN_TYPE", "type"),
        (r#"{"type":"welcome","data":{}}"#.into(), "UNKNOWN_TYPE", "type"),
        (r#"{"type":"market_data"}"#.into(), "INVALID_FIELD", "data"),
        (tick("null"), "INVALID_FIELD", "data"),
        (tick("[]"), "INVALID_FIELD", "data"),
        (tick("\"x\""), "INVALID_FIELD", "data"),
        (r#"{"type":"market_data","sequence":1,"data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "sequence"),
        (r#"{"Type":"market_data","data":{}}"#.into(), "INVALID_FIELD", "Type"),
        (r#"{"type":"market_data","id":true,"data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "id"),
        (r#"{"type":"market_data","ts":"noon","data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "ts"),
        (r#"{"type":"market_data","ts":1.5,"data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "ts"),
        (r#"{"type":"market_data","ts":99999999999999999999,"data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "ts"),
        (r#"{"type":"market_data","topic":7,"data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"","data":{"price":1}}"#.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"market_data","data":{"price":1}}"#.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"market_data.","data":{"price":1}}"#.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"market_data.*","data":{"price":1}}"#.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"ticks.B","data":{"price":1}}"#.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"alert.B","data":{"price":1}}"#.into(), "INVALID_FIELD", "type"),
        (bar.into(), "INVALID_FIELD", "topic"),
        (r#"{"type":"market_data","topic":"market_data.A","data":{"symbol":"B","price":1}}"#.into(), "INVALID_FIELD", "data.symbol"),
        (
            r#"{"type":"bar","topic":"bar.1m.B","data":{"timeframe":"5m","open":1,"high":1,"low":1,"close":1,"volume":1}}"#.into(),
            "INVALID_FIELD",
            "data.timeframe",
        ),
        (
            r#"{"type":"bar","data":{"timeframe":"a.b","symbol":"B","open":1,"high":1,"low":1,"close":1,"volume":1}}"#.into(),
            "INVALID_FIELD",
            "data.timeframe",
        ),
        // Fields of the data.
        (tick("{}"), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":null,"price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":"","price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":"a b","price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":"a..b","price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":"*","price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":"é","price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(&format!(r#"{{"symbol":"{}","price":1}}"#, "x".repeat(113))), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":true,"price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":["B"],"price":1}"#), "INVALID_FIELD", "data.symbol"),
        (tick(r#"{"symbol":"B"}"#), "INVALID_FIELD", "data.price"),
        (tick(r#"{"symbol":"B","price":null,"bid":null}"#), "INVALID_FIELD", "data.price"),
        (tick(r#"{"symbol":"B","price":1,"prise":1}"#), "INVALID_FIELD", "data.prise"),
        (tick(r#"{"symbol":"B","price":1,"Symbol":"B"}"#), "INVALID_FIELD", "data.Symbol"),
        (priced("1e400"), "INVALID_FIELD", "data.price"),
        (priced("1e-65"), "INVALID_FIELD", "data.price"),
        (priced("1e99999999999999999999"), "INVALID_FIELD", "data.price"),
        (priced("1000000000000000000"), "INVALID_FIELD", "data.price"),
        (priced("0.1234567890123456789"), "INVALID_FIELD", "data.price"),
        (priced("\"NaN\""), "INVALID_FIELD", "data.price"),
        (priced("\"1 \""), "INVALID_FIELD", "data.price"),
        (priced("\"\""), "INVALID_FIELD", "data.price"),
        (priced("true"), "INVALID_FIELD", "data.price"),
        (priced("[1]"), "INVALID_FIELD", "data.price"),
        (priced("{}"), "INVALID_FIELD", "data.price"),
        (priced("1,\"change_ratio\":1e400"), "INVALID_FIELD", "data.change_ratio"),
        (priced("1,\"change_ratio\":\"0.1\""), "INVALID_FIELD", "data.change_ratio"),
        (priced("1,\"instrument_id\":-1"), "INVALID_FIELD", "data.instrument_id"),
        (priced("1,\"instrument_id\":4294967296"), "INVALID_FIELD", "data.instrument_id"),
        (priced("1,\"instrument_id\":1.5"), "INVALID_FIELD", "data.instrument_id"),
        (priced("1,\"instrument_id\":\"5\""), "INVALID_FIELD", "data.instrument_id"),
        (priced("1,\"ts\":\"2026-13-01T00:00:00Z\""), "INVALID_FIELD", "data.ts"),
        (priced("1,\"ts\":\"9999-01-01T00:00:00Z\""), "INVALID_FIELD", "data.ts"),
        (priced("1,\"ts\":true"), "INVALID_FIELD", "data.ts"),
        (priced(&format!("1,\"venue\":\"{}\"", "x".repeat(16 * 1024 + 1))), "INVALID_FIELD", "data.venue"),
        (alert("alert_id:18446744073709551616"), "INVALID_FIELD", "data.alert_id"),
        (alert("alert_id:-1"), "INVALID_FIELD", "data.alert_id"),
        (alert("severity:\"loud\""), "INVALID_FIELD", "data.severity"),
        (alert("severity:9"), "INVALID_FIELD", "data.severity"),
        (alert("severity:true"), "INVALID_FIELD", "data.severity"),
        (alert("rule_condition:null"), "INVALID_FIELD", "data.rule_condition"),
        (r#"{"type":"event","data":{"event_type":"e","event_id":"i","source":"s","tags":"x"}}"#.into(), "INVALID_FIELD", "data.tags"),
        (r#"{"type":"event","data":{"event_type":"e","event_id":"i","source":"s","tags":["a",{}]}}"#.into(), "INVALID_FIELD", "data.tags.1"),
        (r#"{"type":"event","data":{"event_type":"e","event_id":"i","source":"s","details":[]}}"#.into(), "INVALID_FIELD", "data.details"),
        (r#"{"type":"event","data":{"event_type":"e","event_id":"i","source":"s","details":{"x":1e400}}}"#.into(), "INVALID_FIELD", "data.details.x"),
        (
            r#"{"type":"portfolio_snapshot","data":{"portfolio_id":"p","total_pnl":0,"position_count":1,"positions":[{"symbol":"B"}]}}"#.into(),
            "INVALID_FIELD",
            "data.positions.0.quantity",
        ),
        (r#"{"type":"engine_status","data":{"engine_id":"e","state":"running","uptime_s":1,"transition":1}}"#.into(), "INVALID_FIELD", "data.transition"),
        (extension(r#"{"name":"n","key":"k"}"#), "INVALID_FIELD", "data.json"),
        (extension(r#"{"name":"n","key":"k","bytes":"0"}"#), "INVALID_FIELD", "data.bytes"),
        (extension(r#"{"name":"n","key":"k","bytes":"zz"}"#), "INVALID_FIELD", "data.bytes"),
    ];
    for (text, code, field) in &rows {
        let shown: String = text.chars().take(120).collect();
        assert_eq!(native(text), Some(((*code).to_owned(), (*field).to_owned())), "{shown}");
    }
    assert!(rows.len() >= 80);
}

#[test]
fn d1_clients_are_refused_by_field() {
    let sub = |data: &str| format!(r#"{{"messageType":"subscribe","data":{data}}}"#);
    let flat = |more: &str| format!(r#"{{"message_type":"subscribe"{more}}}"#);
    let ping = |data: &str| format!(r#"{{"messageType":"ping","data":{data}}}"#);
    let long = "x".repeat(129);
    let rows: Vec<(String, &str, &str)> = vec![
        ("".into(), d1::INVALID_JSON, ""),
        ("ping".into(), d1::INVALID_JSON, ""),
        ("{".into(), d1::INVALID_JSON, ""),
        (r#"{"messageType":"ping"}}"#.into(), d1::INVALID_JSON, ""),
        (r#"{"messageType":"ping","messageType":"ping"}"#.into(), d1::INVALID_JSON, ""),
        (r#"{"messageType":"\ud83d"}"#.into(), d1::INVALID_JSON, ""),
        ("\u{feff}{\"messageType\":\"ping\"}".into(), d1::INVALID_JSON, ""),
        ("[".repeat(9) + &"]".repeat(9), d1::INVALID_JSON, ""),
        (format!("\"{}\"", "x".repeat(64 * 1024)), d1::MESSAGE_TOO_LARGE, ""),
        ("1".into(), d1::INVALID_MESSAGE, ""),
        ("[]".into(), d1::INVALID_MESSAGE, ""),
        ("null".into(), d1::INVALID_MESSAGE, ""),
        ("{}".into(), d1::INVALID_MESSAGE, "message_type"),
        (r#"{"messageType":null}"#.into(), d1::INVALID_MESSAGE, "message_type"),
        (r#"{"messageType":7}"#.into(), d1::INVALID_MESSAGE, "messageType"),
        (r#"{"message_type":["ping"]}"#.into(), d1::INVALID_MESSAGE, "message_type"),
        (r#"{"type":true}"#.into(), d1::INVALID_MESSAGE, "type"),
        (r#"{"messageType":"ping","message_type":"ping"}"#.into(), d1::INVALID_MESSAGE, "message_type"),
        (r#"{"messageType":"ping","data":[]}"#.into(), d1::INVALID_MESSAGE, "data"),
        (r#"{"messageType":"ping","data":"x"}"#.into(), d1::INVALID_MESSAGE, "data"),
        (r#"{"messageType":"ping","version":true}"#.into(), d1::INVALID_MESSAGE, "version"),
        (r#"{"messageType":"ping","version":"2.0"}"#.into(), d1::VERSION_UNSUPPORTED, "version"),
        (r#"{"messageType":""}"#.into(), d1::UNKNOWN_MESSAGE_TYPE, "messageType"),
        (r#"{"message_type":"Subscribe"}"#.into(), d1::UNKNOWN_MESSAGE_TYPE, "message_type"),
        (r#"{"type":"heartbeat"}"#.into(), d1::UNKNOWN_MESSAGE_TYPE, "type"),
        (r#"{"messageType":"pong","data":{}}"#.into(), d1::NO_HANDLER, "messageType"),
        (r#"{"messageType":"alert","data":{}}"#.into(), d1::NO_HANDLER, "messageType"),
        (sub("{}"), d1::INVALID_MESSAGE, "data.subscriptionType"),
        (sub(r#"{"subscriptionType":null}"#), d1::INVALID_MESSAGE, "data.subscriptionType"),
        (sub(r#"{"subscriptionType":5}"#), d1::INVALID_MESSAGE, "data.subscriptionType"),
        (sub(r#"{"subscription_type":{}}"#), d1::INVALID_MESSAGE, "data.subscription_type"),
        (sub(&format!(r#"{{"subscriptionType":"{long}"}}"#)), d1::INVALID_MESSAGE, "data.subscriptionType"),
        (flat(""), d1::INVALID_MESSAGE, "subscription_type"),
        (flat(r#","subscription_type":[]"#), d1::INVALID_MESSAGE, "subscription_type"),
        (flat(r#","subscription_type":"alerts","instrument_id":"5""#), d1::INVALID_MESSAGE, "instrument_id"),
        (
            sub(r#"{"subscriptionType":"alerts","instrumentId":"5"}"#),
            d1::INVALID_MESSAGE,
            "data.instrumentId",
        ),
        (sub(r#"{"subscriptionType":"alerts","instrumentId":-1}"#), d1::INVALID_MESSAGE, "data.instrumentId"),
        (
            sub(r#"{"subscriptionType":"alerts","instrumentId":1.5}"#),
            d1::INVALID_MESSAGE,
            "data.instrumentId",
        ),
        (
            sub(r#"{"subscriptionType":"alerts","instrumentId":1e400}"#),
            d1::INVALID_MESSAGE,
            "data.instrumentId",
        ),
        (
            sub(r#"{"subscriptionType":"alerts","instrumentId":99999999999999999999}"#),
            d1::INVALID_MESSAGE,
            "data.instrumentId",
        ),
        (
            sub(r#"{"subscriptionType":"alerts","instrumentId":[1]}"#),
            d1::INVALID_MESSAGE,
            "data.instrumentId",
        ),
        (sub(r#"{"subscriptionType":"alerts","symbol":5}"#), d1::INVALID_MESSAGE, "data.symbol"),
        (
            sub(&format!(r#"{{"subscriptionType":"alerts","symbol":"{long}"}}"#)),
            d1::INVALID_MESSAGE,
            "data.symbol",
        ),
        (sub(r#"{"subscriptionType":"alerts","parameters":[]}"#), d1::INVALID_MESSAGE, "data.parameters"),
        (sub(r#"{"subscriptionType":"alerts","requestId":true}"#), d1::INVALID_MESSAGE, "data.requestId"),
        (
            sub(&format!(r#"{{"subscriptionType":"alerts","requestId":"{long}"}}"#)),
            d1::INVALID_MESSAGE,
            "data.requestId",
        ),
        (ping(r#"{"clientTime":5}"#), d1::INVALID_MESSAGE, "data.clientTime"),
        (ping(r#"{"clientTime":"2026","client_time":"2026"}"#), d1::INVALID_MESSAGE, "data.client_time"),
        (ping(r#"{"sequence":"1"}"#), d1::INVALID_MESSAGE, "data.sequence"),
        (ping(r#"{"sequence":1.5}"#), d1::INVALID_MESSAGE, "data.sequence"),
        (ping(r#"{"sequence":9223372036854775808}"#), d1::INVALID_MESSAGE, "data.sequence"),
    ];
    for (text, code, field) in &rows {
        let shown: String = text.chars().take(120).collect();
        let error = d1::decode(text, &Limits::default()).expect_err(&shown);
        assert_eq!((error.code, error.field.as_str()), (*code, *field), "{shown}: {error}");
    }
    let request = sub(r#"{"subscriptionType":7,"requestId":"r-7"}"#);
    let error = d1::decode(&request, &Limits::default()).unwrap_err();
    assert_eq!(error.report().request_id.as_deref(), Some("r-7"), "an error names its request");
}

#[test]
fn d1_publishers_are_refused_by_field() {
    let tick = |data: &str| format!(r#"{{"messageType":"market_data","data":{{"symbol":"B",{data}}}}}"#);
    let snake = |data: &str| format!(r#"{{"message_type":"market_data","data":{{"symbol":"B",{data}}}}}"#);
    let prediction = |interval: &str| {
        format!(
            r#"{{"messageType":"price_prediction","data":{{"symbol":"B","predictedPrice":1,"confidenceInterval":{interval},"predictionHorizonMinutes":5,"modelName":"m"}}}}"#
        )
    };
    let rows: Vec<(String, &str, &str)> = vec![
        ("{".into(), d1::INVALID_JSON, ""),
        (r#"{"messageType":"tick_update","data":{}}"#.into(), d1::UNKNOWN_MESSAGE_TYPE, "messageType"),
        (r#"{"messageType":"subscribe","data":{}}"#.into(), d1::NO_HANDLER, "messageType"),
        (r#"{"messageType":"market_data"}"#.into(), d1::INVALID_MESSAGE, "data"),
        (r#"{"messageType":"market_data","symbol":"B","price":1}"#.into(), d1::INVALID_MESSAGE, "data"),
        (r#"{"messageType":"market_data","version":"3","data":{}}"#.into(), d1::VERSION_UNSUPPORTED, "version"),
        (r#"{"messageType":"market_data","data":{"price":1}}"#.into(), d1::INVALID_MESSAGE, "data.symbol"),
        (r#"{"messageType":"market_data","data":{"instrumentId":6,"price":1}}"#.into(), d1::INVALID_MESSAGE, "data.symbol"),
        (r#"{"messageType":"market_data","data":{"symbol":"a b","price":1}}"#.into(), d1::INVALID_MESSAGE, "data.symbol"),
        (r#"{"messageType":"market_data","timestamp":"soon","data":{"symbol":"B","price":1}}"#.into(), d1::INVALID_MESSAGE, "timestamp"),
        (tick(r#""volume":1"#), d1::INVALID_MESSAGE, "data.price"),
        (tick(r#""price":1e400"#), d1::INVALID_MESSAGE, "data.price"),
        (tick(r#""price":0.1234567890123456789"#), d1::INVALID_MESSAGE, "data.price"),
        (tick(r#""price":true"#), d1::INVALID_MESSAGE, "data.price"),
        (tick(r#""price":1,"instrumentId":4294967296"#), d1::INVALID_MESSAGE, "data.instrumentId"),
        (tick(r#""price":1,"timestamp":"soon""#), d1::INVALID_MESSAGE, "data.timestamp"),
        (tick(r#""price":1,"changePercent":"1""#), d1::INVALID_MESSAGE, "data.changePercent"),
        (tick(r#""price":1,"changePercent":1e400"#), d1::INVALID_MESSAGE, "data.changePercent"),
        (tick(r#""price":1,"openPrice":[]"#), d1::INVALID_MESSAGE, "data.openPrice"),
        (snake(r#""price":1,"open_price":[]"#), d1::INVALID_MESSAGE, "data.open_price"),
        (tick(r#""price":1,"open_price":[]"#), d1::INVALID_MESSAGE, "data.open_price"),
        (tick(r#""price":1,"bidSize":1,"bid_size":1"#), d1::INVALID_MESSAGE, "data.bid_size"),
        (prediction("1"), d1::INVALID_MESSAGE, "data.confidenceInterval"),
        (prediction("{}"), d1::INVALID_MESSAGE, "data.confidenceInterval.lower"),
        (prediction("null"), d1::INVALID_MESSAGE, "data.confidenceInterval.lower"),
        (prediction(r#"{"lower":1,"upper":"x"}"#), d1::INVALID_MESSAGE, "data.confidenceInterval.upper"),
        (
            r#"{"message_type":"risk_metrics","data":{"symbol":"B","var_1d":"x","var_5d":1,"volatility":1}}"#.into(),
            d1::INVALID_MESSAGE,
            "data.var_1d",
        ),
        (
            r#"{"messageType":"risk_metrics","data":{"symbol":"B","var_5d":1,"volatility":1}}"#.into(),
            d1::INVALID_MESSAGE,
            "data.var1d",
        ),
        (
            r#"{"message_type":"analytics_update","data":{"symbol":"B","analysis_type":"t","results":[1]}}"#.into(),
            d1::INVALID_MESSAGE,
            "data.results",
        ),
        (
            r#"{"messageType":"analytics_update","data":{"symbol":"B","analysisType":"t","results":{"a_b":1e999}}}"#.into(),
            d1::INVALID_MESSAGE,
            "data.results.a_b",
        ),
        (
            r#"{"messageType":"analytics_update","data":{"symbol":"B","analysisType":"t","results":{},"calculationTime":1.5}}"#.into(),
            d1::INVALID_MESSAGE,
            "data.calculationTime",
        ),
        (
            r#"{"messageType":"alert","data":{"symbol":"B","alertId":1,"ruleId":2,"ruleName":"r","condition":"c","targetValue":1,"currentValue":2,"severity":"low","message":"m"}}"#.into(),
            d1::INVALID_MESSAGE,
            "data.ruleCondition",
        ),
    ];
    for (text, code, field) in &rows {
        let error = d1::decode_published(text, &Limits::default(), &Book, NOW).expect_err(text);
        assert_eq!((error.code, error.field.as_str()), (*code, *field), "{text}: {error}");
    }
}

#[test]
fn limits_hold_before_anything_is_built() {
    let many = format!("[{}0]", "0,".repeat(9_000));
    let error = parse(&many, &Limits::default()).unwrap_err();
    assert_eq!(error.reason, JsonReason::Values { limit: 8 * 1024 });
    let wide = format!("{{{}\"z\":0}}", (0..2_000).map(|n| format!("\"{n}\":0,")).collect::<String>());
    assert!(parse(&wide, &Limits::default()).is_ok());
}

#[test]
fn errors_do_not_repeat_all_that_a_peer_wrote() {
    let key = "k".repeat(16_000);
    let text = format!(
        r#"{{"message_type":"analytics_update","data":{{"symbol":"B","analysis_type":"t","results":{{"{key}":1e999}}}}}}"#
    );
    let error = d1::decode_published(&text, &Limits::default(), &Book, NOW).unwrap_err();
    assert!(error.field.len() + error.message.len() <= 1_024, "{}", error.message.len());
    let text = format!(
        r#"{{"type":"analytics_update","data":{{"symbol":"B","analysis_type":"t","results":{{"{key}":1e999}}}}}}"#
    );
    let error = native_decode(&parse(&text, &Limits::default()).unwrap(), NOW).unwrap_err();
    assert!(error.field.starts_with("data.results.kkk"), "{}", error.field);
    assert!(error.field.len() + error.message.len() <= 1_024, "{}", error.message.len());
}
