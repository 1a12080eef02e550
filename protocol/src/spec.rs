//! SPEC's tables, rendered from the one message table so that they cannot differ from it.
//!
//! SPEC.md is written by hand around blocks marked `<!-- generated: NAME -->`; [`block`] renders one by
//! name and [`example`] takes a frame apart byte by byte. Only what the table does not hold is written
//! here: what a client does about a code. The codes are matched, so a new one does not compile without.

use std::fmt::Write as _;

use crate::decimal::{DIGITS_MAX, EXPONENT_MAX};
use crate::error::{CloseCode, DecodeError, ErrorCode};
use crate::field::{
    FieldInfo, JSON_DEPTH_MAX, Kind, LIST_LEN_MAX, NameSet, RecordInfo, TEXT_BYTES_MAX, Value,
};
use crate::frame::{Frame, HEADER_LEN, PAYLOAD_BYTES_MAX};
use crate::predicate::{PREDICATE_BYTES_MAX, PREDICATE_DEPTH_MAX, PREDICATE_TERMS_MAX};
use crate::registry::{self, Bound, Raise, TypeInfo, When};
use crate::topic::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};

/// The block of SPEC called `name`, or `None` when there is no such block.
#[must_use]
pub fn block(name: &str) -> Option<String> {
    Some(match name {
        "types" => types(),
        "control" => registry::types().iter().filter(|info| !info.is_data()).map(section).collect(),
        "data" => registry::types().iter().filter(|info| info.is_data()).map(section).collect(),
        "records" => records().into_iter().map(record_section).collect(),
        "names" => names().into_iter().map(names_section).collect(),
        "error-codes" => error_codes(),
        "close-codes" => close_codes(),
        "limits" => limits(),
        _ => return None,
    })
}

// ---------------------------------------------------------------------------------------------
// Types

fn types() -> String {
    let mut out =
        String::from("| id | type | version | class | root bytes | section |\n|--:|---|--:|---|--:|---|\n");
    for info in registry::types() {
        let class = if info.is_data() { info.class.name() } else { "control" };
        let (id, name, version) = (info.id, info.name, info.version);
        let root = info.record.size();
        let _ = writeln!(out, "| {id} | `{name}` | {version} | {class} | {root} | {}.{id} |", chapter(info));
    }
    out
}

/// Control messages are described in SPEC 6, data messages in SPEC 7; the section's number ends in the id.
fn chapter(info: &TypeInfo) -> u8 {
    if info.is_data() { 7 } else { 6 }
}

fn section(info: &TypeInfo) -> String {
    let mut out = format!("### {}.{} {}\n\n{}\n\n", chapter(info), info.id, info.name, info.doc.trim());
    let root = info.record.size();
    if !info.is_data() {
        let _ = writeln!(out, "Type {}, version {}, root of {root} bytes.", info.id, info.version);
    } else {
        let _ = writeln!(
            out,
            "Type {}, version {}, root of {root} bytes. Class {}{}. Topic `{}.{}`.",
            info.id,
            info.version,
            info.class.name(),
            info.raise.iter().map(|rule| raised(info, rule)).collect::<String>(),
            info.name,
            info.key.iter().map(|field| format!("{{{field}}}")).collect::<Vec<_>>().join("."),
        );
        let _ = writeln!(out, "Conflation key: {}.", code_list(info.conflate, " and "));
        if !info.attributes.is_empty() {
            let attributes = info.attributes.iter().map(|(attribute, field)| {
                let attribute = attribute.name();
                if attribute == *field { format!("`{field}`") } else { format!("`{attribute}` (`{field}`)") }
            });
            let _ = writeln!(out, "Filter attributes: {}.", attributes.collect::<Vec<_>>().join(", "));
        }
        for base in info.base {
            let when = condition(info, base.field, &base.when);
            let _ = writeln!(
                out,
                "Events build on each other; one whose `{}` is {when} begins anew (section 6.B).",
                base.field
            );
        }
        if !info.any_of.is_empty() {
            let _ = writeln!(out, "At least one of {} must be there.", code_list(info.any_of, ", "));
        }
        for bound in info.bounds {
            let _ = match bound {
                Bound::Within { field, min, max } => writeln!(out, "`{field}` is {min} to {max}."),
                Bound::AtMost { list, field } => {
                    writeln!(out, "`{list}` has no more elements than `{field}` says.")
                }
            };
        }
    }
    out.push('\n');
    out.push_str(&field_table(info.record));
    out.push('\n');
    out
}

fn raised(info: &TypeInfo, rule: &Raise) -> String {
    let condition = condition(info, rule.field, &rule.when);
    format!(", raised to {} when `{}` is {condition}", rule.to.name(), rule.field)
}

fn condition(info: &TypeInfo, field: &str, when: &When) -> String {
    let name = |number: u8| {
        let index = info.record.position(field);
        index
            .and_then(|index| name_set(&info.record.fields[index].kind))
            .and_then(|set| set.name_of(number))
            .map_or_else(|| number.to_string(), |name| format!("`{name}` ({number})"))
    };
    match *when {
        When::Set => "true".to_owned(),
        When::Is(number) => name(number),
        When::AtLeast(number) => format!("{} or higher", name(number)),
    }
}

fn code_list(names: &[&str], joint: &str) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(joint)
}

fn field_table(record: &RecordInfo) -> String {
    let mut out =
        String::from("| offset | size | field | kind | unit | what it is |\n|--:|--:|---|---|---|---|\n");
    for field in record.fields {
        let FieldInfo { offset, name, unit, doc, kind } = field;
        let (size, kind, doc) = (kind.size(), kind.describe(), doc.trim());
        let _ = writeln!(out, "| {offset} | {size} | `{name}` | {kind} | {unit} | {doc} |");
    }
    out
}

// ---------------------------------------------------------------------------------------------
// What types are made of

/// Every kind in use, inner ones included, in order of first use.
fn for_each_kind(mut visit: impl FnMut(&'static Kind)) {
    fn walk(kind: &'static Kind, visit: &mut impl FnMut(&'static Kind)) {
        visit(kind);
        match kind {
            Kind::Optional(inner) | Kind::List(inner) => walk(inner, visit),
            Kind::Record(info) => info.fields.iter().for_each(|field| walk(&field.kind, visit)),
            _ => {}
        }
    }
    for field in registry::types().iter().flat_map(|info| info.record.fields) {
        walk(&field.kind, &mut visit);
    }
}

fn records() -> Vec<&'static RecordInfo> {
    let mut found: Vec<&'static RecordInfo> = Vec::new();
    for_each_kind(|kind| match kind {
        Kind::Record(info) if !found.iter().any(|known| known.name == info.name) => found.push(info),
        _ => {}
    });
    found
}

fn record_section(record: &RecordInfo) -> String {
    format!("### 8 {}\n\n{} bytes.\n\n{}\n", record.name, record.size(), field_table(record))
}

fn names() -> Vec<&'static NameSet> {
    let mut found: Vec<&'static NameSet> = Vec::new();
    for_each_kind(|kind| match kind {
        Kind::Name(set) if !found.iter().any(|known| known.name == set.name) => found.push(set),
        _ => {}
    });
    found
}

fn names_section(set: &NameSet) -> String {
    let members = set.members.iter().map(|(number, name)| format!("{number} `{name}`"));
    format!("### 9 {}\n\n{}\n\n", set.name, members.collect::<Vec<_>>().join(", "))
}

fn name_set(kind: &Kind) -> Option<&'static NameSet> {
    match kind {
        Kind::Name(set) => Some(set),
        Kind::Optional(inner) => name_set(inner),
        _ => None,
    }
}

// ---------------------------------------------------------------------------------------------
// Codes and limits

fn error_codes() -> String {
    let mut out = String::from("| code | name | meaning | what a client does |\n|--:|---|---|---|\n");
    for code in ErrorCode::ALL {
        let (meaning, remedy) = error_meaning(*code);
        let _ = writeln!(out, "| {} | `{}` | {meaning} | {remedy} |", code.number(), code.name());
    }
    out
}

fn error_meaning(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::BadRequest => {
            ("The message cannot be understood.", "Corrects the sender; does not repeat it.")
        }
        ErrorCode::UnknownType => {
            ("No message has this type.", "Corrects the name; the message names the nearest.")
        }
        ErrorCode::UnknownStream => ("No stream has this name.", "Corrects the name."),
        ErrorCode::InvalidFilter => ("A topic filter or predicate is not valid.", "Corrects the filter."),
        ErrorCode::InvalidField => {
            ("A field holds what it must not; `field` names it.", "Corrects the field; does not repeat it.")
        }
        ErrorCode::Unauthenticated => ("Credentials are needed.", "Connects again with credentials."),
        ErrorCode::Forbidden => ("Not allowed for this principal.", "Tells its user."),
        ErrorCode::NotSubscribed => ("No such subscription on this connection.", "Forgets the subscription."),
        ErrorCode::SubscriptionLimit => {
            ("Too many subscriptions on this connection.", "Uses a pattern, or another connection.")
        }
        ErrorCode::ConnectionLimit => {
            ("Too many connections.", "Waits; closes connections it does not need.")
        }
        ErrorCode::RateLimited => {
            ("Too many messages in too short a time.", "Waits `retry_after_ms`, then repeats.")
        }
        ErrorCode::MessageTooLarge => (
            "Larger than `welcome.frame_bytes_max` or a limit of SPEC 12.",
            "Splits or shortens the message.",
        ),
        ErrorCode::UnsupportedFormat => (
            "The peer's format cannot carry this type, or the codec is unknown.",
            "Uses another format, or codec 0.",
        ),
        ErrorCode::SchemaMismatch => ("Another protocol or schema version.", "Is upgraded."),
        ErrorCode::ResumeFailed => {
            ("A resume cannot be met; the message says what can be had.", "Subscribes with start `snapshot`.")
        }
        ErrorCode::SlowConsumer => {
            ("The subscriber reads too slowly.", "Subscribes to less, or chooses a policy that conflates.")
        }
        ErrorCode::StaleUpstream => ("The source has gone quiet.", "Shows its values as stale."),
        ErrorCode::Unavailable => ("Cannot be done at present.", "Waits `retry_after_ms`, then repeats."),
        ErrorCode::Internal => ("The server's fault.", "Repeats once, then tells its user."),
        ErrorCode::NotDurable => {
            ("The durability asked for cannot be had; nothing was promised.", "Repeats with the same id.")
        }
        ErrorCode::StreamLimit => ("A bound on streams is reached.", "Uses topics that exist."),
        ErrorCode::InvalidState => {
            ("Not allowed in the present state, such as a subscribe before hello.", "Corrects its order.")
        }
        ErrorCode::Conflict => {
            ("Another message was published under the same id.", "Gives each message an id of its own.")
        }
        ErrorCode::QueueFull => (
            "Too much waits for every recipient of a critical message; it was not kept.",
            "Repeats later with the same id, or reaches its recipients in another way.",
        ),
    }
}

fn close_codes() -> String {
    let mut out =
        String::from("| code | name | meaning | comes back | what a client does |\n|--:|---|---|---|---|\n");
    for code in CloseCode::ALL {
        let (meaning, remedy) = close_meaning(*code);
        let back = if CloseCode::retries(code.number()) { "yes" } else { "no" };
        let _ = writeln!(out, "| {} | `{}` | {meaning} | {back} | {remedy} |", code.number(), code.name());
    }
    out
}

fn close_meaning(code: CloseCode) -> (&'static str, &'static str) {
    match code {
        CloseCode::Normal => ("The peer is done.", "Nothing."),
        CloseCode::GoingAway => ("The peer or server is going away.", "Resumes."),
        CloseCode::ProtocolError => ("A WebSocket protocol violation.", "Resumes; reports the bug."),
        CloseCode::UnsupportedData => (
            "A kind of data that is not spoken here, such as text in `tickcast.v2`.",
            "Resumes; reports the bug.",
        ),
        CloseCode::InvalidText => ("Text that is not UTF-8.", "Resumes; reports the bug."),
        CloseCode::PolicyViolation => ("A policy was broken.", "Resumes; reports the bug."),
        CloseCode::MessageTooBig => ("A message larger than accepted.", "Resumes; sends smaller messages."),
        CloseCode::InternalError => ("The server's fault.", "Resumes."),
        CloseCode::ServiceRestart => {
            ("The server restarts or drains.", "Resumes after `reconnect_in_ms` of the notice before it.")
        }
        CloseCode::TryAgainLater => ("Overloaded.", "Resumes, starting at the longest backoff."),
        CloseCode::HeartbeatTimeout => ("No answer to pings in time.", "Resumes."),
        CloseCode::SlowConsumer => {
            ("The outbox of critical messages is full.", "Resumes, and reads faster or subscribes to less.")
        }
        CloseCode::ResumeFailed => ("The resume cannot be met.", "Subscribes with start `snapshot`."),
        CloseCode::RateLimited => ("Too many messages in too short a time.", "Resumes, and sends less."),
        CloseCode::HelloTimeout => ("No hello in time.", "Resumes, and says hello at once."),
        CloseCode::BadRequest => ("Too many malformed messages.", "Stops; reports the bug."),
        CloseCode::Unauthenticated => ("Bad credentials.", "Stops; asks its user for credentials."),
        CloseCode::Forbidden => ("Not allowed.", "Stops; tells its user."),
        CloseCode::Replaced => {
            ("Another connection identified itself as this one.", "Stops; two of them would take turns.")
        }
        CloseCode::SchemaMismatch => ("A protocol version that is not spoken here.", "Stops; is upgraded."),
        CloseCode::ConnectionLimit => ("Too many connections.", "Stops; tells its user."),
    }
}

fn limits() -> String {
    let mut out = String::from("| what | most | unit |\n|---|--:|---|\n");
    for (what, most, unit) in [
        ("payload of a frame, before and after the codec", PAYLOAD_BYTES_MAX, "bytes"),
        ("text and JSON", TEXT_BYTES_MAX, "bytes of UTF-8"),
        ("list, map, and list of numbers in a map", LIST_LEN_MAX, "elements"),
        ("nesting of JSON", JSON_DEPTH_MAX, "arrays and objects"),
        ("mantissa of a decimal", DIGITS_MAX as usize, "digits"),
        ("exponent of a decimal, either side of zero", EXPONENT_MAX as usize, "powers of ten"),
        ("key of a topic", KEY_BYTES_MAX, "bytes"),
        ("topic or filter", TOPIC_BYTES_MAX, "bytes"),
        ("predicate, as written and as printed", PREDICATE_BYTES_MAX, "bytes"),
        ("terms of a predicate", PREDICATE_TERMS_MAX, "values"),
        ("nesting of a predicate", PREDICATE_DEPTH_MAX, "parentheses and `not`"),
    ] {
        let _ = writeln!(out, "| {what} | {most} | {unit} |");
    }
    out
}

// ---------------------------------------------------------------------------------------------
// A frame, byte by byte

/// Takes a frame apart into one table row for each header field, piece of out-of-line data and root field.
///
/// # Errors
/// When the frame is not sound.
pub fn example(bytes: &[u8]) -> Result<String, DecodeError> {
    let (frame, _) = Frame::split_first(bytes, PAYLOAD_BYTES_MAX)?;
    let view = frame.view()?;
    let header = frame.header;
    let info = view.info();
    let root = frame.payload.len() - usize::from(header.root_len);
    let mut rows = vec![(0, 2, "magic".to_owned(), "`TC`".to_owned())];
    for (at, size, name, value) in [
        (2, 1, "protocol", u64::from(bytes[2])),
        (3, 1, "header_len", u64::from(bytes[3])),
        (4, 2, "type_id", header.type_id.into()),
        (6, 2, "schema_version", header.schema_version.into()),
        (8, 2, "flags", header.flags.into()),
        (10, 2, "root_len", header.root_len.into()),
        (12, 4, "stream", header.stream.into()),
        (16, 8, "sequence", header.sequence),
        (24, 8, "publish_time", header.publish_time),
        (32, 4, "payload_len", header.payload_len.into()),
        (36, 4, "raw_len", header.raw_len.into()),
    ] {
        rows.push((at, size, name.to_owned(), value.to_string()));
    }
    for (index, field) in info.record.fields.iter().enumerate() {
        let at = root + field.offset;
        let value = view.record().get(index);
        // The descriptor of a text lies behind the tag when the field is optional.
        let skipped = usize::from(matches!(field.kind, Kind::Optional(_)));
        if let (Value::Text(text), Some(start)) = (value, text_start(frame.payload, at + skipped)) {
            rows.push((
                HEADER_LEN + start,
                text.len(),
                format!("text of {}", field.name),
                format!("`{text}`"),
            ));
        }
        let words = words(value, frame.payload, at + skipped);
        rows.push((
            HEADER_LEN + at,
            field.kind.size(),
            format!("{}: {}", field.name, field.kind.describe()),
            words,
        ));
    }
    rows.sort();
    let mut out = String::from("| at | bytes | what | value |\n|--:|---|---|---|\n");
    for (at, size, what, value) in rows {
        let hex: Vec<String> = bytes[at..at + size].iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(out, "| {at} | `{}` | {what} | {value} |", hex.join(" "));
    }
    Ok(out)
}

/// Where the bytes of the text described at `at` begin, or `None` when they are inline (SPEC 4.2).
fn text_start(payload: &[u8], at: usize) -> Option<usize> {
    if payload[at] & 0xC0 != 0x80 {
        return None;
    }
    let offset = i32::from_le_bytes(payload[at + 4..at + 8].try_into().ok()?);
    at.checked_add_signed(offset as isize)
}

fn words(value: Value<'_>, payload: &[u8], at: usize) -> String {
    match value {
        Value::Absent => "absent".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Decimal(value) => {
            format!("mantissa {}, exponent {}: {value}", value.mantissa(), value.exponent())
        }
        Value::Time(ns) => format!("{ns}: {}", crate::field::Timestamp(ns)),
        Value::Name(set, number) => format!("{number}: `{}`", set.name_of(number).unwrap_or("unknown")),
        Value::Text(text) => match text_start(payload, at) {
            Some(start) => {
                let offset = start as i64 - at as i64;
                format!("out of line: {} bytes, {at} {offset:+} = {start} of the payload", text.len())
            }
            None => format!("inline: `{text}`"),
        },
        Value::Json(text) => format!("`{text}`"),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::List(list) => format!("{} elements", list.len()),
        Value::Map(entries) => format!("{} entries", entries.len()),
        Value::Record(record) => format!("a {}", record.info().name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_breaks_its_table() {
        for name in ["types", "control", "data", "records", "names", "error-codes", "close-codes", "limits"] {
            let text = block(name).unwrap();
            let mut columns = 0;
            for line in text.lines() {
                let found = line.matches('|').count();
                assert!(found == 0 || columns == 0 || found == columns, "{name}: {line}");
                columns = found;
            }
        }
        assert_eq!(block("nothing"), None);
    }
}
