//! D1 events as legacy publishers send them, to protocol messages.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use tickcast_protocol::error::{FieldError, FieldReason};
use tickcast_protocol::field::{Field, Input, Timestamp};

use super::decode::{Envelope, unknown_type};
use super::schema::{self, INTERVAL, Row, Rule, Shape};
use super::{D1Error, Instruments, Published};
use crate::draft::Draft;
use crate::parse::{Limits, parse};

const PUBLISHED: &[&str] =
    &["market_data", "alert", "analytics_update", "technical_indicators", "price_prediction", "risk_metrics"];

/// Reads an event. A symbol that is missing is the directory's for the instrument id; a time that is missing
/// is the envelope's `timestamp`, or else `now` (ns UTC). Fields that D1 does not know are passed over, as
/// its original server does.
///
/// # Errors
/// [`D1Error`], with the first field at fault in the sender's spelling.
pub fn decode_published(
    text: &str,
    limits: &Limits,
    directory: &dyn Instruments,
    now: i64,
) -> Result<Published, D1Error> {
    let input = parse(text, limits)?;
    let envelope = Envelope::open(&input)?;
    read(&envelope, directory, now).map_err(|error| envelope.blame(error))
}

fn read(envelope: &Envelope<'_>, directory: &dyn Instruments, now: i64) -> Result<Published, D1Error> {
    let shape = schema::shape_named(&envelope.kind).ok_or_else(|| unknown_type(envelope, PUBLISHED))?;
    if !envelope.has_data() {
        return Err(envelope.wrong("data", FieldReason::Missing));
    }
    let mut members: Vec<(Cow<'_, str>, Input<'_>)> = Vec::with_capacity(shape.rows.len() + 1);
    let ratio = ratio(envelope, shape)?;
    for Row(wire, field, rule) in shape.rows {
        let Some(found) = envelope.find_in_data(wire)? else {
            if let Rule::Default(text) = rule {
                members.push((Cow::Borrowed(field), Input::Text(Cow::Borrowed(text))));
            }
            continue;
        };
        match rule {
            Rule::Percent => {
                let ratio = ratio.as_deref().unwrap_or_default();
                members.push((Cow::Borrowed(field), Input::Number(ratio)));
            }
            Rule::Interval => {
                let Input::Object(_, ends) = found.input else {
                    return Err(envelope.wrong(&found.path(), FieldReason::Kind { expected: "an object" }));
                };
                for end in INTERVAL {
                    if let Some((_, value)) = ends.iter().find(|(key, _)| key == end) {
                        members.push((Cow::Borrowed(end), value.clone()));
                    }
                }
            }
            _ => members.push((Cow::Borrowed(field), found.input.clone())),
        }
    }
    let mut draft = Draft::from_members(shape.info, members);
    if draft.get("symbol").is_none()
        && let Some(id) = draft.get("instrument_id")
        && let Ok(id) = u64::build(Some(id))
        && let Some(symbol) = directory.symbol_of(id)
    {
        draft.fill("symbol", || Input::Text(Cow::Owned(symbol.as_ref().to_owned())));
    }
    let timestamp = envelope.find_beside("timestamp")?;
    if let Some(found) = &timestamp {
        Timestamp::build(Some(found.input))
            .map_err(|error| D1Error::invalid(&error.within(&found.path())))?;
    }
    draft.fill_time(timestamp.map(|found| found.input), now);
    let (message, topic) = draft.build().map_err(|error| in_their_words(envelope, shape, error))?;
    Ok(Published { message, topic, case: envelope.case })
}

/// The percentage of the message, divided by 100, as text.
fn ratio(envelope: &Envelope<'_>, shape: &Shape) -> Result<Option<String>, D1Error> {
    let Some(Row(wire, ..)) = shape.rows.iter().find(|Row(.., rule)| *rule == Rule::Percent) else {
        return Ok(None);
    };
    let Some(found) = envelope.find_in_data(wire)? else { return Ok(None) };
    let percent =
        f64::build(Some(found.input)).map_err(|error| D1Error::invalid(&error.within(&found.path())))?;
    Ok(Some((percent / 100.0).to_string()))
}

/// Names the field at fault as the sender does.
fn in_their_words(envelope: &Envelope<'_>, shape: &Shape, error: FieldError) -> D1Error {
    let (first, rest) = match error.path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (error.path.as_str(), None),
    };
    let (row, end) =
        if shape.rows.iter().any(|Row(.., rule)| *rule == Rule::Interval) && INTERVAL.contains(&first) {
            (shape.rows.iter().find(|Row(.., rule)| *rule == Rule::Interval), Some(first))
        } else {
            (shape.rows.iter().find(|Row(_, field, _)| *field == first), None)
        };
    let wire = row.map_or(first, |Row(wire, ..)| wire);
    let written = envelope.find_in_data(wire).ok().flatten().map(|found| found.path());
    let mut path = written.unwrap_or_else(|| envelope.path_of(wire));
    for part in [end, rest].into_iter().flatten() {
        path.push('.');
        path.push_str(part);
    }
    D1Error::invalid(&FieldError::new(path, error.reason))
}
