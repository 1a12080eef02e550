//! Native JSON, in and out: what is filled in, what is kept to the digit, what is written.

mod common;

use common::{NOW, native, stamp, text, with_view};
use tickcast_compat::native::{NativeError, NativeMessage, native_decode, native_encode};
use tickcast_compat::{Limits, Stamp, parse};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::{Class, ErrorCode, Message, registry};

fn read(text: &str) -> Result<NativeMessage, NativeError> {
    native_decode(&parse(text, &Limits::default()).expect("JSON"), NOW)
}

fn line(message: &Message, stamp: &Stamp<'_>) -> String {
    with_view(message, |view| {
        let mut out = Vec::new();
        native_encode(stamp, view, &mut out);
        text(out)
    })
}

#[test]
fn a_line_says_who_what_and_when() {
    let tick = native(
        "market_data",
        r#"{"symbol":"BTCUSDT","ts":"2026-01-31T12:00:00.000000001Z","price":39433.30,"bid":2e-06,"change_ratio":0.1}"#,
    );
    let stamp = Stamp {
        topic: tick.topic.as_str(),
        sequence: u64::MAX,
        publish_time: NOW as u64,
        class: Class::Latest,
    };
    assert_eq!(
        line(&tick.message, &stamp),
        r#"{"type":"market_data","topic":"market_data.BTCUSDT","sequence":18446744073709551615,"time":"2026-09-21T14:13:20.000123456Z","class":"latest","data":{"symbol":"BTCUSDT","ts":"2026-01-31T12:00:00.000000001Z","price":39433.30,"bid":0.000002,"change_ratio":0.1}}"#
    );
    let Message::Alert(mut alert) = Message::sample(registry::by_name("alert").unwrap(), false) else {
        panic!("an alert")
    };
    alert.severity.0 = 77;
    let out = line(&alert.into(), &Stamp { class: Class::Critical, ..stamp });
    assert!(out.contains(r#""class":"critical""#) && out.contains(r#""severity":77,"#), "{out}");
}

#[test]
fn control_messages_have_no_topic() {
    let pong = Message::sample(registry::by_id(10).unwrap(), true);
    assert!(line(&pong, &stamp("", &pong)).starts_with(r#"{"type":"pong","sequence":1,"#));
}

#[test]
fn every_data_type_reads_what_was_written() {
    for info in registry::types().iter().filter(|info| info.is_data()) {
        for full in [false, true] {
            let message = Message::sample(info, full);
            let out = line(&message, &stamp("", &message));
            let data = out.split_once(r#""data":"#).unwrap().1.strip_suffix('}').unwrap();
            assert_eq!(native(info.name, data).message, message, "{out}");
        }
    }
}

#[test]
fn a_key_field_that_is_a_number_is_in_the_topic_as_its_digits() {
    let view = |topic: &str, data: &str| {
        let text =
            format!(r#"{{"type":"partial_book","topic":{topic},"data":{{"book_sequence":1,{data}}}}}"#);
        read(&text).map(|read| read.topic.to_string()).map_err(|error| error.field)
    };
    let topic = Ok("partial_book.10.BTC".to_owned());
    assert_eq!(view("null", r#""depth":10,"symbol":"BTC""#), topic);
    assert_eq!(view(r#""partial_book.10.BTC""#, r#""symbol":"BTC""#), topic);
    for (topic, data, field) in [
        ("null", r#""depth":10.0,"symbol":"BTC""#, "data.depth"),
        ("null", r#""depth":1e1,"symbol":"BTC""#, "data.depth"),
        (r#""partial_book.010.BTC""#, r#""symbol":"BTC""#, "data.depth"),
        (r#""partial_book.x.BTC""#, r#""symbol":"BTC""#, "data.depth"),
        (r#""partial_book.10.BTC""#, r#""depth":11,"symbol":"BTC""#, "data.depth"),
    ] {
        assert_eq!(view(topic, data), Err(field.to_owned()), "{topic} {data}");
    }
}

#[test]
fn a_topic_fills_the_key_fields_and_they_make_the_topic() {
    for (text, topic) in [
        (r#"{"type":"market_data","data":{"symbol":"BTC","price":1}}"#, "market_data.BTC"),
        (r#"{"type":"market_data","topic":"market_data.BTC","data":{"price":1}}"#, "market_data.BTC"),
        (
            r#"{"type":"market_data","topic":"market_data.BTC","data":{"symbol":null,"price":1}}"#,
            "market_data.BTC",
        ),
        (r#"{"type":"market_data","topic":"market_data.BRK.B","data":{"price":1}}"#, "market_data.BRK.B"),
        (
            r#"{"type":"market_data","topic":"market_data.BRK.B","data":{"symbol":"BRK.B","price":1}}"#,
            "market_data.BRK.B",
        ),
        (
            r#"{"type":"bar","topic":"bar.1m.BRK.B","data":{"open":1,"high":1,"low":1,"close":1,"volume":1}}"#,
            "bar.1m.BRK.B",
        ),
        (
            r#"{"type":"bar","topic":"bar.1m.BTC","data":{"timeframe":"1m","open":1,"high":1,"low":1,"close":1,"volume":1}}"#,
            "bar.1m.BTC",
        ),
        (
            r#"{"type":"performance_update","data":{"portfolio_id":42,"pnl":1,"returns":0}}"#,
            "performance_update.42",
        ),
        (r#"{"type":"extension","topic":"extension.vol.BTC","data":{"json":{"a":1}}}"#, "extension.vol.BTC"),
    ] {
        let read = read(text).expect(text);
        assert_eq!(read.topic.as_str(), topic, "{text}");
        with_view(&read.message, |view| {
            let mut key = String::new();
            view.write_key(&mut key).unwrap();
            assert_eq!(key, read.topic.key(), "the server makes the same topic from the bytes");
        });
    }
}

#[test]
fn a_missing_time_is_the_message_s_or_now() {
    let time = |text: &str| match read(text).expect(text).message {
        Message::MarketData(tick) => tick.ts,
        Message::RiskMetrics(risk) => risk.calculated_at,
        Message::StreamHealth(health) => health.started_at,
        _ => panic!("another type"),
    };
    let at = |text: &str| Timestamp::parse(text).unwrap();
    let tick = |top: &str, inner: &str| {
        format!(r#"{{"type":"market_data"{top},"data":{{"symbol":"B","price":1{inner}}}}}"#)
    };
    let top = r#","ts":"2026-01-31T12:00:00Z""#;
    assert_eq!(time(&tick("", "")), Timestamp(NOW));
    assert_eq!(time(&tick(r#","ts":null"#, r#","ts":null"#)), Timestamp(NOW));
    assert_eq!(time(&tick(top, "")), at("2026-01-31T12:00:00Z"));
    assert_eq!(time(&tick(r#","ts":1769860800000000001"#, "")), Timestamp(1_769_860_800_000_000_001));
    assert_eq!(
        time(&tick(top, r#","ts":"2025-01-01T00:00:00Z""#)),
        at("2025-01-01T00:00:00Z"),
        "its own wins"
    );
    let risk = format!(
        r#"{{"type":"risk_metrics"{top},"data":{{"symbol":"B","var_1d":1,"var_5d":1,"volatility":1}}}}"#
    );
    assert_eq!(time(&risk), at("2026-01-31T12:00:00Z"));
    // `started_at` is not the time of the message and is never made up.
    let health = r#"{"type":"stream_health","ts":"2026-01-31T12:00:00Z","data":{"stream":"s","is_healthy":true,"error_count":0,"recovery_attempts":0}}"#;
    assert_eq!(read(health).unwrap_err().field, "data.started_at");
}

#[test]
fn ids_are_taken_as_text() {
    let id = |id: &str| {
        read(&format!(r#"{{"type":"market_data","id":{id},"data":{{"symbol":"B","price":1}}}}"#))
            .map(|read| read.id)
    };
    assert_eq!(id(r#""a-1""#), Ok(Some("a-1".to_owned())));
    assert_eq!(id("17"), Ok(Some("17".to_owned())));
    assert_eq!(id("null"), Ok(None));
    assert_eq!(id(&format!("\"{}\"", "x".repeat(64))), Ok(Some("x".repeat(64))));
    for bad in [r#""""#.to_owned(), format!("\"{}\"", "x".repeat(65)), "true".to_owned(), "{}".to_owned()] {
        let error = id(&bad).unwrap_err();
        assert_eq!((error.code, error.field.as_str()), (ErrorCode::InvalidField, "id"), "{bad}");
    }
}

#[test]
fn unknown_types_are_told_the_nearest_name() {
    let error = read(r#"{"type":"market_dta","data":{}}"#).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::UnknownType, "type"));
    assert_eq!(error.message, "unknown type `market_dta`; did you mean `market_data`?");
    // What peers say to each other is not published.
    assert_eq!(read(r#"{"type":"pong","data":{}}"#).unwrap_err().code, ErrorCode::UnknownType);
}

#[test]
fn decimals_keep_mantissa_and_exponent() {
    for (written, mantissa, exponent) in [
        ("1.121200", 1_121_200, -6),
        ("\"1.121200\"", 1_121_200, -6),
        ("2e-06", 2, -6),
        ("0.00031099999999999997", 31_099_999_999_999_997, -20),
        ("1E3", 1, 3),
        ("-0.50", -50, -2),
        ("999999999999999999", 999_999_999_999_999_999, 0),
    ] {
        let read = native("market_data", &format!(r#"{{"symbol":"B","price":{written}}}"#));
        let Message::MarketData(tick) = read.message else { panic!("a tick") };
        let price = tick.price.unwrap();
        assert_eq!((price.mantissa(), price.exponent()), (mantissa, exponent), "{written}");
    }
}
