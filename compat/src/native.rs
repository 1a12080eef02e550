//! Native JSON: the message table as it is, for publishing, tools, and the twins of golden files.
//!
//! In: `{"type","topic"?,"id"?,"ts"?,"data":{…}}`, and for critical messages `"publisher"?`, `"durability"?`,
//! `"expires_at"?` and `"collapse_key"?`; strict: a member nobody knows is refused by name.
//! Out: `{"type","topic","sequence","time","class","data":{…}}` on one line. Decimals are exact numbers in
//! plain notation, times RFC 3339, names text (numbers when unknown), bytes hexadecimal, JSON escapes
//! verbatim; what is absent is left out.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::Display;

use tickcast_protocol::error::{ErrorCode, FieldError, FieldReason};
use tickcast_protocol::field::{Field, Input, Timestamp, Value};
use tickcast_protocol::message::{Durability, View};
use tickcast_protocol::{Class, Header, Message, Topic, registry};

use crate::case::Case;
use crate::draft::{Draft, is_null, is_number};
use crate::parse::{bounded, quoted};
use crate::write::{self, Object};

/// Longest id a publisher may give a message, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Members of a native message.
const MEMBERS: &[&str] =
    &["type", "topic", "id", "ts", "data", "publisher", "durability", "expires_at", "collapse_key"];

/// A message as published.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeMessage {
    /// What is published.
    pub message: Message,
    /// Its topic, made from its key fields.
    pub topic: Topic,
    /// The publisher's id of it.
    pub id: Option<String>,
    /// Who publishes it, as far as ids are concerned.
    pub publisher: Option<String>,
    /// The least durability that will do.
    pub durability: Durability,
    /// When a critical message is of no use any more, in ns UTC.
    pub expires_at: Option<i64>,
    /// What a critical message replaces of its topic.
    pub collapse_key: Option<String>,
}

/// Why a message cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NativeError {
    /// What kind of error.
    pub code: ErrorCode,
    /// Field at fault, such as `data.price`, or empty.
    pub field: String,
    /// What is wrong, for people; names the field.
    pub message: String,
}

/// What the server says about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// Its topic, or empty for a control message.
    pub topic: &'a str,
    /// Its number on its stream.
    pub sequence: u64,
    /// When the server accepted it, in ns since the Unix epoch.
    pub publish_time: u64,
    /// How it is delivered.
    pub class: Class,
}

/// Reads a native message. A key field that is missing follows from the topic (the key is split at its
/// first dots, the last field takes the rest); a topic that is missing follows from the key fields. A
/// required `ts` or `calculated_at` that is missing is the top-level `ts`, or else `now` (ns UTC).
///
/// # Errors
/// [`NativeError`] with the first field at fault.
pub fn native_decode(input: &Input<'_>, now: i64) -> Result<NativeMessage, NativeError> {
    let Input::Object(_, members) = input else {
        return Err(invalid("", "a message must be an object"));
    };
    if let Some((name, _)) = members.iter().find(|(name, _)| !MEMBERS.contains(&name.as_ref())) {
        let name = quoted(name);
        let message = format!("field `{name}`: is not one of {}", MEMBERS.join(", "));
        return Err(invalid(&name, message));
    }
    let member = |name: &str| {
        members
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, value)| value)
            .filter(|value| !is_null(value))
    };
    let info = type_of(member("type"))?;
    let id = member("id").map(|value| id_of("id", value)).transpose()?;
    let publisher = member("publisher").map(|value| id_of("publisher", value)).transpose()?;
    let collapse_key = member("collapse_key").map(|value| id_of("collapse_key", value)).transpose()?;
    let durability = member("durability").map_or(Ok(Durability::MEMORY), |value| {
        Durability::build(Some(value)).map_err(|error| at("durability", error))
    })?;
    let expires_at = member("expires_at").map(|value| {
        Timestamp::build(Some(value)).map(|time| time.0).map_err(|error| at("expires_at", error))
    });
    let expires_at = expires_at.transpose()?;
    let ts = member("ts");
    if let Some(ts) = ts {
        Timestamp::build(Some(ts)).map_err(|error| at("ts", error))?;
    }
    let stated = member("topic").map(|value| topic_of(value, info)).transpose()?;

    let data = match member("data") {
        Some(data @ Input::Object(..)) => data,
        Some(_) => return Err(at("data", FieldError::new("", FieldReason::Kind { expected: "an object" }))),
        None => return Err(at("data", FieldError::new("", FieldReason::Missing))),
    };
    let mut draft = Draft::of(info, data);
    draft.fill_time(ts, now);
    let parts = stated.as_ref().map(|topic| key_parts(topic, info)).transpose()?;
    for (name, part) in info.key.iter().zip(parts.iter().flatten()) {
        draft.fill(name, || match is_number(info, name) {
            true => Input::Number(part),
            false => Input::Text(Cow::Owned((*part).to_owned())),
        });
    }
    let (message, topic) = draft.build().map_err(|error| at("data", error))?;
    for (name, part) in info.key.iter().zip(parts.iter().flatten()) {
        match draft.key_text(name) {
            Some(found) if found != *part => {
                let (found, expected) = (found.to_owned(), (*part).to_owned());
                return Err(at("data", FieldError::new(*name, FieldReason::Mismatch { found, expected })));
            }
            _ => {}
        }
    }
    Ok(NativeMessage { message, topic, id, publisher, durability, expires_at, collapse_key })
}

fn type_of(value: Option<&Input<'_>>) -> Result<&'static registry::TypeInfo, NativeError> {
    let name = match value {
        Some(Input::Text(name)) => name,
        Some(_) => return Err(at("type", FieldError::new("", FieldReason::Kind { expected: "a string" }))),
        None => return Err(at("type", FieldError::new("", FieldReason::Missing))),
    };
    registry::by_name(name).ok_or_else(|| {
        let name = quoted(name);
        let near = registry::nearest_name(&name).map(|near| format!("; did you mean `{near}`?"));
        NativeError {
            code: ErrorCode::UnknownType,
            field: "type".to_owned(),
            message: format!("unknown type `{name}`{}", near.unwrap_or_default()),
        }
    })
}

fn id_of(name: &str, value: &Input<'_>) -> Result<String, NativeError> {
    let id = String::build(Some(value)).map_err(|error| at(name, error))?;
    if (1..=ID_BYTES_MAX).contains(&id.len()) {
        return Ok(id);
    }
    Err(invalid(name, format!("field `{name}`: has {} bytes, 1 to {ID_BYTES_MAX} are allowed", id.len())))
}

fn topic_of(value: &Input<'_>, info: &registry::TypeInfo) -> Result<Topic, NativeError> {
    let Input::Text(text) = value else {
        return Err(at("topic", FieldError::new("", FieldReason::Kind { expected: "a string" })));
    };
    let topic = Topic::parse(text).map_err(|error| invalid("topic", format!("field `topic`: {error}")))?;
    if topic.type_name() == info.name {
        return Ok(topic);
    }
    let (found, expected) = (info.name, topic.type_name());
    Err(invalid("type", format!("field `type`: is `{found}` but the topic says `{expected}`")))
}

/// The topic's key, one part for each key field.
fn key_parts<'t>(topic: &'t Topic, info: &registry::TypeInfo) -> Result<Vec<&'t str>, NativeError> {
    let parts: Vec<&str> = topic.key().splitn(info.key.len(), '.').collect();
    if parts.len() == info.key.len() {
        return Ok(parts);
    }
    let shape = info.key.join(".");
    Err(invalid("topic", format!("field `topic`: the key of `{}` is `{shape}`", info.name)))
}

fn invalid(field: &str, message: impl Display) -> NativeError {
    let (field, message) = (bounded(field), bounded(&message.to_string()));
    NativeError { code: ErrorCode::InvalidField, field, message }
}

/// A field's error, `parent` being where the field's record lies.
fn at(parent: &str, error: FieldError) -> NativeError {
    let error = error.within(parent);
    invalid(&error.path, &error)
}

/// Appends an event as one line of JSON, without the line's end.
pub fn native_encode(stamp: &Stamp<'_>, view: View<'_>, out: &mut Vec<u8>) {
    let mut line = Object::open(out, Case::Snake);
    line.text("type", view.info().name);
    if !stamp.topic.is_empty() {
        line.text("topic", stamp.topic);
    }
    line.number("sequence", stamp.sequence);
    write::value(time(stamp.publish_time), line.member("time"));
    line.text("class", stamp.class.name());
    write::record(view.record(), line.member("data"));
    line.close();
}

/// Appends what a golden `.json` file holds: the header's fields, the type's name, and the data as in
/// native JSON; one line with its end. `publish_time` is RFC 3339 like every other time.
pub fn twin_encode(header: &Header, view: View<'_>, out: &mut Vec<u8>) {
    let mut line = Object::open(out, Case::Snake);
    let mut fields = line.object("header");
    fields.number("type_id", header.type_id);
    fields.number("schema_version", header.schema_version);
    fields.number("flags", header.flags);
    fields.number("root_len", header.root_len);
    fields.number("stream", header.stream);
    fields.number("sequence", header.sequence);
    write::value(time(header.publish_time), fields.member("publish_time"));
    fields.number("payload_len", header.payload_len);
    fields.number("raw_len", header.raw_len);
    fields.close();
    line.text("type", view.info().name);
    write::record(view.record(), line.member("data"));
    line.close();
    out.push(b'\n');
}

/// A header's time. What lies beyond the year 2262 is shown as the last time that can be.
fn time(nanoseconds: u64) -> Value<'static> {
    Value::Time(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
}
