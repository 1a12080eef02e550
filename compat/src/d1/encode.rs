//! What the server says in D1: JSON text, without the WebSocket frame around it.
#![forbid(unsafe_code)]

use tickcast_protocol::field::Value;
use tickcast_protocol::message::{
    History, Notice, NoticeKind, Reason, StateReason, StreamState, StreamStatus, View,
};

use super::schema::{self, INTERVAL, Row, Rule};
use super::{
    Case, ClientMessage, ConnectionStatus, DATA_GAP, ErrorReport, ErrorSeverity, Instruments, Pong,
    SERVER_DRAINING, SLOW_CONSUMER, STALE_UPSTREAM, STREAM_LIVE, SubscriptionAck, VERSION, price,
};
use crate::native::Stamp;
use crate::write::{self, Object};

/// Appends an event, or appends nothing and says `false` when D1 cannot carry its type.
///
/// What D1 requires and an event may lack: the price of a quote is the exact middle of bid and ask, or the
/// one side there is; a volume that nobody stated is `0`; the instrument's number is the message's own, or
/// else the directory's. Amounts may be fractions although the schema says int.
pub fn event(
    stamp: &Stamp<'_>,
    view: View<'_>,
    directory: &dyn Instruments,
    case: Case,
    out: &mut Vec<u8>,
) -> bool {
    let Some(shape) = schema::shape_of(view.info().id) else { return false };
    let published = i64::try_from(stamp.publish_time).unwrap_or(i64::MAX);
    envelope(shape.message_type, case, published, out, |data| {
        for Row(wire, field, rule) in shape.rows {
            member(wire, view.field(field), *rule, view, directory, data);
        }
    });
    true
}

fn member(
    wire: &str,
    value: Value<'_>,
    rule: Rule,
    view: View<'_>,
    directory: &dyn Instruments,
    data: &mut Object<'_>,
) {
    match (rule, value) {
        (Rule::Instrument, Value::Absent) => {
            if let Value::Text(symbol) = view.field("symbol") {
                data.number(wire, directory.id_of(symbol));
            }
        }
        (Rule::OrZero, Value::Absent) => data.number(wire, 0),
        (Rule::Price, Value::Absent) => match (view.field("bid"), view.field("ask")) {
            (Value::Decimal(bid), Value::Decimal(ask)) => price::middle(bid, ask, data.member(wire)),
            (Value::Decimal(side), _) | (_, Value::Decimal(side)) => data.number(wire, side),
            // Unreachable: a message without any of the three was refused.
            _ => data.number(wire, 0),
        },
        (_, Value::Absent) => {}
        (Rule::Time, Value::Time(nanoseconds)) => data.time_ms(wire, nanoseconds),
        (Rule::Percent, Value::Float(ratio)) => write::float(ratio * 100.0, data.member(wire)),
        (Rule::Severity, Value::Name(_, number)) => data.text(wire, schema::severity(number)),
        (Rule::Interval, _) => {
            let mut interval = data.object(wire);
            for end in INTERVAL {
                write::value(view.field(end), interval.member(end));
            }
            interval.close();
        }
        (_, value) => write::value(value, data.member(wire)),
    }
}

/// The greeting, and the heartbeat of one client.
#[must_use]
pub fn connection_status(status: &ConnectionStatus, case: Case, now: i64) -> Vec<u8> {
    control("connection_status", case, now, |data| {
        data.text("client_id", &status.client_id);
        data.time_ms("connected_at", status.connected_at);
        let list = data.member("subscriptions");
        list.push(b'[');
        for (index, subscription) in status.subscriptions.iter().enumerate() {
            if index > 0 {
                list.push(b',');
            }
            write::text(subscription, list);
        }
        list.push(b']');
        data.time_ms("last_heartbeat", status.last_heartbeat);
        data.text("connection_quality", status.quality.name());
        data.number("message_count", status.message_count);
    })
}

/// The answer to subscribe and unsubscribe.
#[must_use]
pub fn subscription_ack(ack: &SubscriptionAck, case: Case, now: i64) -> Vec<u8> {
    control("subscription_ack", case, now, |data| {
        data.text("subscription_type", &ack.subscription_type);
        data.optional_number("instrument_id", ack.instrument_id);
        data.text("status", ack.status.name());
        data.optional_text("message", ack.message.as_deref());
        data.optional_text("request_id", ack.request_id.as_deref());
    })
}

/// The answer to a ping.
#[must_use]
pub fn pong(pong: &Pong, case: Case, now: i64) -> Vec<u8> {
    control("pong", case, now, |data| {
        data.optional_text("client_time", pong.client_time.as_deref());
        data.time_ms("server_time", pong.server_time);
        data.optional_number("sequence", pong.sequence);
        write::float(pong.latency_ms.unwrap_or(f64::NAN), data.member("latency_ms"));
    })
}

/// An error or warning.
#[must_use]
pub fn error(report: &ErrorReport, case: Case, now: i64) -> Vec<u8> {
    error_with(report, case, now, |_| {})
}

fn error_with(report: &ErrorReport, case: Case, now: i64, more: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    control("error", case, now, |data| {
        data.text("error_code", &report.code);
        data.text("error_message", &report.message);
        data.optional_text("request_id", report.request_id.as_deref());
        data.time_ms("timestamp", now);
        data.text("severity", report.severity.name());
        data.optional_number("retry_after", report.retry_after);
        more(data);
    })
}

/// What happened to one subscriber, as an error of severity warning: losses as [`DATA_GAP`] with range,
/// counts and reason, draining as [`SERVER_DRAINING`] with the seconds to wait, a close for reading too
/// slowly as [`SLOW_CONSUMER`]. `None` for what D1 has no
/// words for: counts at rest.
#[must_use]
pub fn notice(notice: &Notice, topic: &str, case: Case, now: i64) -> Option<Vec<u8>> {
    let report = |code: &str, message: String, retry_after| ErrorReport {
        code: code.to_owned(),
        message,
        request_id: None,
        severity: ErrorSeverity::Warning,
        retry_after,
    };
    match notice.kind {
        // What a subscriber asked not to get is no loss to it.
        NoticeKind::LOSS | NoticeKind::UPSTREAM_GAP if notice.gapped == 0 && notice.conflated == 0 => None,
        NoticeKind::LOSS | NoticeKind::UPSTREAM_GAP => {
            let lost = notice.gapped.saturating_add(notice.conflated);
            let message = format!("{lost} events of {topic} up to {} were skipped", notice.through);
            Some(error_with(&report(DATA_GAP, message, None), case, now, |data| {
                data.text("topic", topic);
                data.number("from", notice.from);
                data.number("through", notice.through);
                data.number("conflated", notice.conflated);
                data.number("gapped", notice.gapped);
                data.text("reason", notice.reason.name());
            }))
        }
        NoticeKind::CLOSING => {
            let message =
                "messages were not read in time; the connection is closed, come back and read faster";
            Some(error(&report(SLOW_CONSUMER, message.to_owned(), None), case, now))
        }
        NoticeKind::DRAINING => {
            let seconds = u64::from(notice.reconnect_in_ms.div_ceil(1_000));
            let message = format!("the server restarts; come back in {seconds} s");
            Some(error(&report(SERVER_DRAINING, message, Some(seconds)), case, now))
        }
        _ => None,
    }
}

/// That the past a client should have does not reach back far enough, as a [`DATA_GAP`] of severity warning:
/// `topic` is the first of the streams it is about. What is kept of it begins with the sequence `oldest`.
#[must_use]
pub fn history(history: &History, topic: &str, case: Case, now: i64) -> Vec<u8> {
    let message = match history.short.as_slice() {
        [] => "what was published before the server began is not kept".to_owned(),
        [kept] => format!("what was published on {topic} before {} is not kept any more", kept.oldest),
        [kept, others @ ..] => format!(
            "what was published on {topic} before {} is not kept any more, nor all of {} other topics",
            kept.oldest,
            others.len()
        ),
    };
    let report = ErrorReport {
        code: DATA_GAP.to_owned(),
        message,
        request_id: None,
        severity: ErrorSeverity::Warning,
        retry_after: None,
    };
    error_with(&report, case, now, |data| {
        if let Some(kept) = history.short.first() {
            data.text("topic", topic);
            data.number("oldest", kept.oldest);
            data.number("topics", history.short.len());
        }
        data.text("reason", Reason::HISTORY_GONE.name());
    })
}

/// How a stream is, as an error of severity warning: trouble as [`STALE_UPSTREAM`], its end as
/// [`STREAM_LIVE`], each with topic, state, reason and since when. `None` for what a dashboard of the first
/// dialect could not show: a stream that is idle, or replayed.
#[must_use]
pub fn stream_state(status: &StreamStatus, topic: &str, case: Case, now: i64) -> Option<Vec<u8>> {
    let why = match status.reason {
        StateReason::SOURCE_GONE => "its source is gone",
        StateReason::UPSTREAM => "its source skipped events",
        StateReason::SAID => "its source says so",
        _ => "nothing came in time",
    };
    let (code, what) = match status.state {
        StreamState::LIVE => (STREAM_LIVE, "live again".to_owned()),
        StreamState::SUSPECT | StreamState::STALE | StreamState::CLOSED => {
            (STALE_UPSTREAM, format!("{}: {why}", status.state.name()))
        }
        _ => return None,
    };
    let report = ErrorReport {
        code: code.to_owned(),
        message: format!("{topic} is {what}"),
        request_id: None,
        severity: ErrorSeverity::Warning,
        retry_after: None,
    };
    Some(error_with(&report, case, now, |data| {
        data.text("topic", topic);
        data.text("state", status.state.name());
        data.text("reason", status.reason.name());
        data.time_ms("since", status.since.0);
        data.number("last_sequence", status.last_sequence);
        data.number("interval_ms", status.interval_ms);
    }))
}

/// What a client says, as the real client spells it: fields in `data`.
#[must_use]
pub fn client_message(message: &ClientMessage, case: Case, now: i64) -> Vec<u8> {
    match message {
        ClientMessage::Ping { client_time, sequence, request_id } => control("ping", case, now, |data| {
            data.optional_text("client_time", client_time.as_deref());
            data.optional_number("sequence", *sequence);
            data.optional_text("request_id", request_id.as_deref());
        }),
        ClientMessage::Subscribe { subscription_type, instrument_id, symbol, parameters, request_id }
        | ClientMessage::Unsubscribe { subscription_type, instrument_id, symbol, parameters, request_id } => {
            let subscribes = matches!(message, ClientMessage::Subscribe { .. });
            control(if subscribes { "subscribe" } else { "unsubscribe" }, case, now, |data| {
                data.text("subscription_type", subscription_type);
                data.optional_number("instrument_id", *instrument_id);
                data.optional_text("symbol", symbol.as_deref());
                if let Some(parameters) = parameters {
                    data.member("parameters").extend_from_slice(parameters.as_bytes());
                }
                data.optional_text("request_id", request_id.as_deref());
            })
        }
    }
}

fn control(message_type: &str, case: Case, now: i64, data: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    envelope(message_type, case, now, &mut out, data);
    out
}

/// All four keys, on every message: the real client refuses one without them, and then reconnects.
fn envelope(
    message_type: &str,
    case: Case,
    time: i64,
    out: &mut Vec<u8>,
    write_data: impl FnOnce(&mut Object<'_>),
) {
    let mut envelope = Object::open(out, case);
    envelope.text("message_type", message_type);
    envelope.text("version", VERSION);
    envelope.time_ms("timestamp", time);
    let mut data = envelope.object("data");
    write_data(&mut data);
    data.close();
    envelope.close();
}
