//! Events as lines for a terminal. Pure functions; whatever a publisher wrote, a line stays one line and
//! moves no cursor.

use std::fmt::Write;

use tickcast_protocol::field::{Kind, Value};
use tickcast_protocol::message::View;
use tickcast_protocol::registry::TypeInfo;

use crate::core::{Critical, Data};

/// Fields that a type without a layout of its own shows.
const FIELDS_MAX: usize = 6;
/// Letters of a text that are shown.
const TEXT_CHARS_MAX: usize = 48;
/// Columns of the topic, the sequence and a number; longer ones push the rest to the right.
const TOPIC_COLUMNS: usize = 21;
const SEQUENCE_COLUMNS: usize = 5;
const NUMBER_COLUMNS: usize = 8;
/// Columns of a level, and of how many there are.
const LEVEL_COLUMNS: usize = 17;
const LEVELS_COLUMNS: usize = 3;

/// One event on one line: time of publish (UTC), topic, sequence, what it says, and its age at receipt.
///
/// ```text
/// 15:04:05.118203  market_data.BTC-USD   seq 10241  bid 67012.50  ask 67013.00  last 67012.75  +0.4ms
/// ```
#[must_use]
pub fn one_line(data: &Data) -> String {
    let mut line = time_of_day(data.publish_time());
    let topic = data.topic.as_str();
    let _ = write!(line, "  {topic:<TOPIC_COLUMNS$} seq {:>SEQUENCE_COLUMNS$}", data.sequence());
    match data.view() {
        Ok(view @ View::MarketData(_)) => market_data(&view, &mut line),
        Ok(view @ View::PartialBook(_)) => partial_book(&view, &mut line),
        Ok(view) => first_fields(&view, &mut line),
        Err(error) => {
            let _ = write!(line, "  type {}, {} bytes: {error}", data.type_id(), data.payload.len());
        }
    }
    let _ = write!(line, "  {}", age(data.age_ns()));
    line
}

/// One critical message on one line: as [`one_line`], and behind it which try it was, if not the first.
#[must_use]
pub fn critical_line(critical: &Critical) -> String {
    let accepted_at = u64::try_from(critical.accepted_at).unwrap_or(0);
    let mut line = time_of_day(accepted_at);
    let topic = critical.topic.as_str();
    let _ = write!(line, "  {topic:<TOPIC_COLUMNS$} seq {:>SEQUENCE_COLUMNS$}", critical.sequence);
    match critical.view() {
        Ok(view) => first_fields(&view, &mut line),
        Err(error) => {
            let _ = write!(line, "  {} bytes: {error}", critical.payload.len());
        }
    }
    let _ =
        write!(line, "  {}", age(i64::try_from(critical.received_at).unwrap_or(0) - critical.accepted_at));
    if critical.attempt > 1 {
        let _ = write!(line, "  attempt {}", critical.attempt);
    }
    line
}

/// `hh:mm:ss.ffffff` of a Unix time in ns, UTC.
#[must_use]
pub fn time_of_day(unix_ns: u64) -> String {
    let (seconds, micros) = (unix_ns / 1_000_000_000 % 86_400, unix_ns % 1_000_000_000 / 1_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// An age with a sign and a unit. Never negative: clocks that disagree show as no age at all.
#[must_use]
pub fn age(ns: i64) -> String {
    let ms = ns.max(0) as f64 / 1e6;
    match ms {
        ..10_000.0 => format!("+{ms:.1}ms"),
        ..600_000.0 => format!("+{:.1}s", ms / 1e3),
        _ => format!("+{:.0}min", ms / 6e4),
    }
}

fn market_data(view: &View<'_>, line: &mut String) {
    for (name, label) in [("bid", "bid"), ("ask", "ask"), ("price", "last"), ("volume", "volume")] {
        if let Value::Decimal(value) = view.field(name) {
            let _ = write!(line, "  {label} {:>NUMBER_COLUMNS$}", value.to_string());
        }
    }
}

/// The best level of each side, and how many there are behind it.
fn partial_book(view: &View<'_>, line: &mut String) {
    for (name, label) in [("bids", "bid"), ("asks", "ask")] {
        let Value::List(levels) = view.field(name) else { continue };
        let best = if levels.is_empty() { Value::Absent } else { levels.get(0) };
        let (price, quantity) = match best {
            Value::Record(level) => (level.get(0), level.get(1)),
            _ => (Value::Absent, Value::Absent),
        };
        let mut text = String::new();
        append(&price, &mut text);
        text.push_str(" x ");
        append(&quantity, &mut text);
        let _ = write!(line, "  {label} {text:>LEVEL_COLUMNS$} of {:>LEVELS_COLUMNS$}", levels.len());
    }
}

/// The first fields that say something the topic and the time columns do not.
fn first_fields(view: &View<'_>, line: &mut String) {
    let info = view.info();
    let mut shown = 0;
    for (index, field) in info.record.fields.iter().enumerate() {
        let value = view.record().get(index);
        if is_said_already(info, field.name, &field.kind) || matches!(value, Value::Absent) {
            continue;
        }
        line.push_str("  ");
        line.push_str(field.name);
        line.push(' ');
        append(&value, line);
        shown += 1;
        if shown == FIELDS_MAX {
            return;
        }
    }
}

fn is_said_already(info: &TypeInfo, name: &str, kind: &Kind) -> bool {
    info.key.contains(&name) || matches!(kind, Kind::Time)
}

fn append(value: &Value<'_>, line: &mut String) {
    let _ = match value {
        Value::Absent => write!(line, "-"),
        Value::Bool(value) => write!(line, "{value}"),
        Value::Unsigned(value) => write!(line, "{value}"),
        Value::Signed(value) => write!(line, "{value}"),
        Value::Float(value) => write!(line, "{value}"),
        Value::Decimal(value) => write!(line, "{value}"),
        Value::Time(value) => write!(line, "{}", time_of_day(u64::try_from(*value).unwrap_or(0))),
        Value::Name(set, number) => match set.name_of(*number) {
            Some(name) => write!(line, "{name}"),
            None => write!(line, "{number}"),
        },
        Value::Text(text) => {
            append_text(text, line);
            Ok(())
        }
        Value::Json(text) => {
            append_cut(text, line);
            Ok(())
        }
        Value::Bytes(bytes) => write!(line, "{} bytes", bytes.len()),
        Value::List(list) => write!(line, "[{}]", list.len()),
        Value::Record(record) => write!(line, "{}{{…}}", record.info().name),
        Value::Map(entries) => {
            line.push('{');
            for (index, entry) in entries.iter().take(3).enumerate() {
                line.push_str(if index > 0 { ", " } else { "" });
                append_cut(&entry.key, line);
                line.push(' ');
                append(&entry.value.view(), line);
            }
            write!(line, "{}}}", if entries.len() > 3 { ", …" } else { "" })
        }
    };
}

/// A text, quoted when it could be taken for two.
fn append_text(text: &str, line: &mut String) {
    let quoted = text.is_empty() || text.chars().any(char::is_whitespace);
    if quoted {
        line.push('"');
    }
    append_cut(text, line);
    if quoted {
        line.push('"');
    }
}

/// A text's start, without anything that could move the cursor.
fn append_cut(text: &str, line: &mut String) {
    let mut letters = text.chars();
    for letter in letters.by_ref().take(TEXT_CHARS_MAX) {
        // Controls, and the marks that turn the direction of what follows.
        let harmful =
            letter.is_control() || matches!(letter, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        line.push(if harmful { '\u{FFFD}' } else { letter });
    }
    if letters.next().is_some() {
        line.push('…');
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tickcast_protocol::field::Timestamp;
    use tickcast_protocol::frame;
    use tickcast_protocol::message::{Level, MarketData, PartialBook, RiskAlert, RiskType, Severity};
    use tickcast_protocol::{Class, Message, Topic, registry};

    use super::*;
    use crate::core::{Origin, SubscriptionKey};

    fn data(message: &Message, topic: &str, sequence: u64) -> Data {
        let (payload, mut header) = frame::payload(message);
        header.sequence = sequence;
        header.publish_time = 1_790_000_000_000_000_000 + 118_203_000;
        Data {
            subscription: SubscriptionKey(1),
            topic: Topic::parse(topic).unwrap(),
            class: Class::Latest,
            origin: Origin::Live,
            header,
            payload: Bytes::from(payload),
            received_at: header.publish_time + 400_000,
        }
    }

    fn tick() -> MarketData {
        let Message::MarketData(sample) = Message::sample(registry::by_name("market_data").unwrap(), false)
        else {
            unreachable!()
        };
        let decimal = |text: &str| Some(text.parse().unwrap());
        MarketData {
            price: decimal("67012.75"),
            bid: decimal("67012.50"),
            ask: decimal("67013.00"),
            ..sample
        }
    }

    #[test]
    fn a_tick_is_time_topic_sequence_prices_and_age() {
        assert_eq!(
            one_line(&data(&tick().into(), "market_data.BTC-USD", 10_241)),
            "14:13:20.118203  market_data.BTC-USD   seq 10241  bid 67012.50  ask 67013.00  last 67012.75  +0.4ms"
        );
        let decimal = |text: &str| Some(text.parse().unwrap());
        let eth = MarketData { price: None, bid: decimal("3411.10"), ask: decimal("3411.25"), ..tick() };
        assert_eq!(
            one_line(&data(&eth.into(), "market_data.ETH-USD", 8_110)),
            "14:13:20.118203  market_data.ETH-USD   seq  8110  bid  3411.10  ask  3411.25  +0.4ms"
        );
    }

    #[test]
    fn the_best_levels_of_a_book_are_told_apart_from_how_many_there_are() {
        let Message::PartialBook(sample) = Message::sample(registry::by_name("partial_book").unwrap(), false)
        else {
            panic!("a sample is of the type that was asked for")
        };
        let level = |price: &str, quantity: &str| Level {
            price: price.parse().unwrap(),
            quantity: quantity.parse().unwrap(),
        };
        let bids = vec![level("67012.50", "1.20"), level("67012", "3")];
        let view = PartialBook { bids, asks: Vec::new(), ..sample };
        assert_eq!(
            one_line(&data(&view.into(), "partial_book.10.BTC-USD", 7)),
            "14:13:20.118203  partial_book.10.BTC-USD seq     7  bid   67012.50 x 1.20 of   2  \
             ask             - x - of   0  +0.4ms"
        );
    }

    #[test]
    fn other_types_show_their_first_fields() {
        let alert = RiskAlert {
            scope: "desk-7".into(),
            risk_type: RiskType::LOSS_LIMIT,
            severity: Severity::HIGH,
            message: "margin below 5 %".into(),
            current_value: "4.8".parse().unwrap(),
            threshold: "5".parse().unwrap(),
            ts: Timestamp(0),
            metric: None,
            limit_value: None,
            recommended_action: None,
            auto_action_taken: None,
            portfolio_id: None,
            session_id: None,
        };
        let line = one_line(&data(&alert.into(), "risk_alert.desk-7", 3));
        assert_eq!(
            line,
            "14:13:20.118203  risk_alert.desk-7     seq     3  risk_type loss_limit  severity high  \
             message \"margin below 5 %\"  current_value 4.8  threshold 5  +0.4ms"
        );
    }

    #[test]
    fn every_type_is_one_line_that_moves_no_cursor() {
        for info in registry::types().iter().filter(|info| info.is_data()) {
            for full in [false, true] {
                let topic = format!("{}.x", info.name);
                let line = one_line(&data(&Message::sample(info, full), &topic, 1));
                assert!(line.contains(&topic) && !line.chars().any(char::is_control), "{line}");
            }
        }
        let mut line = String::new();
        append_text("evil\u{1b}[2J\r\n\u{202E}txt", &mut line);
        assert_eq!(line, "\"evil\u{FFFD}[2J\u{FFFD}\u{FFFD}\u{FFFD}txt\"");
        line.clear();
        append_text(&"é".repeat(60), &mut line);
        assert_eq!(line.chars().count(), TEXT_CHARS_MAX + 1);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let mut broken = data(&tick().into(), "market_data.BTC-USD", 1);
        broken.payload = Bytes::from_static(b"???");
        assert!(one_line(&broken).contains("type 100, 3 bytes: "));
        broken.header.type_id = 999;
        assert!(one_line(&broken).contains("unknown message type id 999"));
    }

    #[test]
    fn ages_have_a_unit_and_are_never_negative() {
        for (ns, text) in [
            (-5_000_000, "+0.0ms"),
            (440_000, "+0.4ms"),
            (9_999_000_000, "+9999.0ms"),
            (12_340_000_000, "+12.3s"),
            (3_600_000_000_000, "+60min"),
            (i64::MAX, "+153722867min"),
        ] {
            assert_eq!(age(ns), text);
        }
    }
}
