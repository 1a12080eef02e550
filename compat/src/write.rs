//! JSON text, appended to a buffer: members, and one value of the protocol at a time.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;

use tickcast_protocol::field::{RecordView, Timestamp, Value};

use crate::case::Case;

/// An object being written. Members appear in the order of the calls; [`Object::close`] ends it.
pub(crate) struct Object<'o> {
    out: &'o mut Vec<u8>,
    case: Case,
    empty: bool,
}

impl<'o> Object<'o> {
    pub(crate) fn open(out: &'o mut Vec<u8>, case: Case) -> Self {
        out.push(b'{');
        Self { out, case, empty: true }
    }

    /// Writes a member's name, which must be ASCII snake case, and gives the place for its value.
    pub(crate) fn member(&mut self, snake: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.case.write(snake, self.out);
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(crate) fn text(&mut self, snake: &str, value: &str) {
        text(value, self.member(snake));
    }

    pub(crate) fn optional_text(&mut self, snake: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(snake, value);
        }
    }

    /// For values whose display is a JSON number.
    pub(crate) fn number(&mut self, snake: &str, value: impl Display) {
        plain(value, self.member(snake));
    }

    pub(crate) fn optional_number(&mut self, snake: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.number(snake, value);
        }
    }

    /// A time with millisecond precision.
    pub(crate) fn time_ms(&mut self, snake: &str, nanoseconds: i64) {
        time_ms(nanoseconds, self.member(snake));
    }

    pub(crate) fn object(&mut self, snake: &str) -> Object<'_> {
        let case = self.case;
        Object::open(self.member(snake), case)
    }

    pub(crate) fn close(self) {
        self.out.push(b'}');
    }
}

/// A value as native JSON. Absent optional fields of records are left out; elsewhere absent is `null`.
pub(crate) fn value(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Absent => out.extend_from_slice(b"null"),
        Value::Bool(value) => plain(value, out),
        Value::Unsigned(value) => plain(value, out),
        Value::Signed(value) => plain(value, out),
        Value::Float(value) => float(value, out),
        Value::Decimal(value) => plain(value, out),
        Value::Time(value) => time(value, out),
        Value::Text(value) => text(value, out),
        Value::Json(value) => out.extend_from_slice(value.as_bytes()),
        Value::Bytes(value) => hexadecimal(value, out),
        Value::Name(names, number) => match names.name_of(number) {
            Some(name) => text(name, out),
            None => plain(number, out),
        },
        Value::List(list) => {
            out.push(b'[');
            for index in 0..list.len() {
                if index > 0 {
                    out.push(b',');
                }
                self::value(list.get(index), out);
            }
            out.push(b']');
        }
        Value::Record(record) => self::record(record, out),
        Value::Map(entries) => {
            out.push(b'{');
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                text(&entry.key, out);
                out.push(b':');
                self::value(entry.value.view(), out);
            }
            out.push(b'}');
        }
    }
}

/// A record as an object, absent fields left out.
pub(crate) fn record(record: &dyn RecordView, out: &mut Vec<u8>) {
    let mut object = Object::open(out, Case::Snake);
    for (index, field) in record.info().fields.iter().enumerate() {
        match record.get(index) {
            Value::Absent => {}
            present => value(present, object.member(field.name)),
        }
    }
    object.close();
}

pub(crate) fn text(text: &str, out: &mut Vec<u8>) {
    // Cannot fail: the writer grows and a `str` is always valid JSON once escaped.
    let _ = serde_json::to_writer(out, text);
}

/// The shortest text that reads back as the same float. What is not finite has no JSON and is `null`.
pub(crate) fn float(value: f64, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, &value);
}

pub(crate) fn plain(value: impl Display, out: &mut Vec<u8>) {
    let _ = write!(out, "{value}");
}

fn time(nanoseconds: i64, out: &mut Vec<u8>) {
    let _ = write!(out, "\"{}\"", Timestamp(nanoseconds));
}

/// RFC 3339 in UTC with one `Z` and three digits, never more, never fewer (C-10). Rounds down.
pub(crate) fn time_ms(nanoseconds: i64, out: &mut Vec<u8>) {
    let floor = nanoseconds.div_euclid(1_000_000);
    match jiff::Timestamp::from_millisecond(floor) {
        Ok(time) => _ = write!(out, "\"{time:.3}\""),
        // Unreachable: every `i64` of nanoseconds is a time that jiff can hold.
        Err(_) => plain(floor, out),
    }
}

fn hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_have_three_digits_and_one_zone() {
        for (nanoseconds, expected) in [
            (0, "\"1970-01-01T00:00:00.000Z\""),
            (1_790_000_000_123_456_789, "\"2026-09-21T14:13:20.123Z\""),
            (1_790_000_000_999_999_999, "\"2026-09-21T14:13:20.999Z\""),
            (-1, "\"1969-12-31T23:59:59.999Z\""),
            (i64::MAX, "\"2262-04-11T23:47:16.854Z\""),
            (i64::MIN, "\"1677-09-21T00:12:43.145Z\""),
        ] {
            assert_eq!(written(|out| time_ms(nanoseconds, out)), expected);
        }
    }

    #[test]
    fn floats_are_shortest_and_never_infinite() {
        for (value, expected) in
            [(0.1, "0.1"), (1.0, "1.0"), (1e300, "1e+300"), (f64::NAN, "null"), (f64::INFINITY, "null")]
        {
            assert_eq!(written(|out| float(value, out)), expected);
        }
    }

    #[test]
    fn bytes_are_lower_case_hexadecimal() {
        assert_eq!(written(|out| hexadecimal(&[0, 0xAB, 255], out)), "\"00abff\"");
    }
}
