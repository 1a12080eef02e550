//! Hostile JSON text to [`Input`]: bounded in bytes, depth and number of values; numbers stay text, so that
//! `1.10` reaches the decimal parser untouched; a key that appears twice is refused.
//!
//! The syntax is serde_json's. Each level is read as raw values and then entered, so the depth is known
//! before anything recurses, and every value's text is at hand. Text is scanned once per level it lies under.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tickcast_protocol::error::ErrorCode;
use tickcast_protocol::field::Input;

/// Most characters of a peer's text that an error repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// Most characters of an error's path or message: both may repeat keys that a peer chose.
const ERROR_CHARS_MAX: usize = 512;

/// Bounds of one text. A value costs about 80 bytes of memory while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest text in bytes.
    pub bytes: usize,
    /// Most arrays and objects inside each other, the outermost included.
    pub depth: usize,
    /// Most values of all levels together: members of objects and elements of arrays.
    pub values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 * 1024, depth: 8, values: 8 * 1024 }
    }
}

/// Why a text was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {position}")]
pub struct JsonError {
    /// Byte of the text at which reading stopped.
    pub position: usize,
    /// What is wrong.
    pub reason: JsonReason,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonReason {
    /// Longer than [`Limits::bytes`].
    #[error("text of {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes of the text.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or more than one value.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// Deeper than [`Limits::depth`].
    #[error("nested deeper than {limit}")]
    Depth {
        /// Levels allowed.
        limit: usize,
    },
    /// More values than [`Limits::values`].
    #[error("more than {limit} values")]
    Values {
        /// Values allowed.
        limit: usize,
    },
    /// An object has two members of one name.
    #[error("duplicate key `{key}`")]
    Duplicate {
        /// The name.
        key: String,
    },
}

impl JsonError {
    /// The code a peer is told.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self.reason {
            JsonReason::TooLong { .. } => ErrorCode::MessageTooLarge,
            _ => ErrorCode::BadRequest,
        }
    }
}

/// Reads exactly one JSON value.
///
/// # Errors
/// [`JsonError`], with the first fault found. Syntax is checked before limits and duplicates.
pub fn parse<'a>(text: &'a str, limits: &Limits) -> Result<Input<'a>, JsonError> {
    let mut reader = Reader { text, limits, values: 0 };
    let raw = reader.raw::<&RawValue>(text)?;
    reader.value(raw.get(), 0)
}

/// The texts of a JSON array's elements, not looked into: each can be [`parse`]d, and refused, by itself.
///
/// # Errors
/// [`JsonError`], when the text is not one array of at most [`Limits::values`] well-formed elements.
pub fn elements<'a>(text: &'a str, limits: &Limits) -> Result<Vec<&'a str>, JsonError> {
    let mut reader = Reader { text, limits, values: 0 };
    let elements = reader.raw::<Vec<&RawValue>>(text)?;
    reader.count(elements.len(), text)?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// The first characters of a peer's text, short enough to repeat to it.
pub(crate) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// A path or message of an error, cut where it would only repeat what a peer wrote.
pub(crate) fn bounded(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).collect()
}

struct Reader<'a, 'l> {
    text: &'a str,
    limits: &'l Limits,
    values: usize,
}

impl<'a> Reader<'a, '_> {
    /// Reads the value that is `part` of the text; `depth` is how many levels it lies under.
    fn value(&mut self, part: &'a str, depth: usize) -> Result<Input<'a>, JsonError> {
        let enter = |open: bool| {
            if open && depth >= self.limits.depth {
                return Err(self.error(part, JsonReason::Depth { limit: self.limits.depth }));
            }
            Ok(())
        };
        match part.as_bytes().first() {
            Some(b'{') => {
                enter(true)?;
                let Members(raw) = self.raw(part)?;
                self.count(raw.len(), part)?;
                if let Some(key) = duplicate(&raw) {
                    return Err(self.error(part, JsonReason::Duplicate { key: quoted(key) }));
                }
                let mut members = Vec::with_capacity(raw.len());
                for (key, value) in raw {
                    members.push((key, self.value(value.get(), depth + 1)?));
                }
                Ok(Input::Object(part, members))
            }
            Some(b'[') => {
                enter(true)?;
                let raw = self.raw::<Vec<&RawValue>>(part)?;
                self.count(raw.len(), part)?;
                let mut items = Vec::with_capacity(raw.len());
                for item in raw {
                    items.push(self.value(item.get(), depth + 1)?);
                }
                Ok(Input::Array(part, items))
            }
            Some(b'"') => self.raw::<Text<'a>>(part).map(|text| Input::Text(text.0)),
            Some(b't') => Ok(Input::Bool(true)),
            Some(b'f') => Ok(Input::Bool(false)),
            Some(b'n') => Ok(Input::Null),
            _ => Ok(Input::Number(part)),
        }
    }

    fn raw<T: Deserialize<'a>>(&self, part: &'a str) -> Result<T, JsonError> {
        let (length, limit) = (self.text.len(), self.limits.bytes);
        if length > limit {
            return Err(JsonError { position: limit, reason: JsonReason::TooLong { length, limit } });
        }
        serde_json::from_str(part).map_err(|error| {
            let message = error.to_string();
            let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
            let line_start: usize =
                part.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
            // The column counts bytes up to and with the one at fault; at the end there is none.
            let column = error.column().saturating_sub(usize::from(!error.is_eof()));
            JsonError {
                position: self.offset(part) + line_start + column,
                reason: JsonReason::Syntax(message.to_owned()),
            }
        })
    }

    fn count(&mut self, values: usize, part: &str) -> Result<(), JsonError> {
        self.values += values;
        if self.values > self.limits.values {
            return Err(self.error(part, JsonReason::Values { limit: self.limits.values }));
        }
        Ok(())
    }

    fn error(&self, part: &str, reason: JsonReason) -> JsonError {
        JsonError { position: self.offset(part), reason }
    }

    /// Where `part`, which is borrowed from the text, starts in it.
    fn offset(&self, part: &str) -> usize {
        part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr())
    }
}

/// A string, borrowed when it holds no escape.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An object's members in order, duplicates included.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A name that appears twice. Sorting costs no more than it must, whatever names a peer chooses.
fn duplicate<'m, V>(members: &'m [(Cow<'_, str>, V)]) -> Option<&'m str> {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Input<'_>, JsonError> {
        parse(text, &Limits::default())
    }

    #[test]
    fn numbers_stay_text_and_containers_keep_theirs() {
        let Input::Object(raw, members) =
            read(r#" {"a":[1.10, -2e-06 ],"b\u0041":"x\n","c":null} "#).unwrap()
        else {
            panic!("an object")
        };
        assert_eq!(raw, r#"{"a":[1.10, -2e-06 ],"b\u0041":"x\n","c":null}"#);
        assert_eq!(
            members[0].1,
            Input::Array("[1.10, -2e-06 ]", vec![Input::Number("1.10"), Input::Number("-2e-06")])
        );
        assert_eq!(members[1], ("bA".into(), Input::Text("x\n".into())));
        assert_eq!(members[2].1, Input::Null);
        assert_eq!(read("1e400"), Ok(Input::Number("1e400")), "a number is judged by the field it is for");
    }

    #[test]
    fn faults_are_named_with_their_place() {
        let deep = format!("{}1{}", "[".repeat(9), "]".repeat(9));
        let very_deep = "[".repeat(60_000);
        let cases: &[(&str, usize, &str)] = &[
            ("", 0, "EOF"),
            ("   ", 3, "EOF"),
            ("{", 1, "EOF"),
            ("{\"a\":1}x", 7, "trailing characters"),
            ("{\"a\":1}{}", 7, "trailing characters"),
            ("[1,]", 3, "expected value"),
            ("{\"a\":1,}", 7, "key must be a string"),
            ("{a:1}", 1, "key must be a string"),
            ("{'a':1}", 1, "key must be a string"),
            ("{1:1}", 1, "key must be a string"),
            ("{\"a\"}", 4, "expected `:`"),
            ("NaN", 0, "expected value"),
            ("[Infinity]", 1, "expected value"),
            ("-Infinity", 1, "invalid number"),
            ("01", 1, "invalid number"),
            ("+1", 0, "expected value"),
            (".5", 0, "expected value"),
            ("1.", 1, "invalid number"),
            ("1e", 1, "invalid number"),
            ("0x10", 1, "trailing characters"),
            ("tru", 3, "EOF"),
            ("True", 0, "expected value"),
            ("undefined", 0, "expected value"),
            ("\u{feff}{}", 0, "expected value"),
            ("\0", 0, "expected value"),
            ("{}\0", 2, "trailing characters"),
            ("\"a\0b\"", 1, "control character"),
            ("\"a\nb\"", 1, "control character"),
            (r#""\x41""#, 2, "invalid escape"),
            (r#""\ud800""#, 7, "hex escape"),
            (r#""\udc00""#, 6, "surrogate"),
            (r#"["\ud800\u0041"]"#, 13, "surrogate"),
            (r#"{"\ud800":1}"#, 8, "hex escape"),
            ("// c\n1", 0, "expected value"),
            ("{\"a\":1 \"b\":2}", 7, "expected `,`"),
            ("{\"price\":1,\"x\":2,\"price\":3}", 0, "duplicate key `price`"),
            (r#"{"d":{"a":1,"\u0061":2}}"#, 5, "duplicate key `a`"),
            (&deep, 8, "nested deeper than 8"),
            (&very_deep, 60_000, "EOF"),
        ];
        for (text, position, reason) in cases {
            let error = read(text).expect_err(text);
            let shown: String = text.chars().take(40).collect();
            assert!(error.reason.to_string().contains(reason), "{shown:?}: {error}");
            assert_eq!(error.position, *position, "{shown:?}: {error}");
        }
    }

    #[test]
    fn limits_are_inclusive() {
        let limits = Limits { bytes: 9, depth: 2, values: 3 };
        assert!(parse("[[1],  2]", &limits).is_ok());
        assert_eq!(
            parse("[[1],   2]", &limits).unwrap_err().reason,
            JsonReason::TooLong { length: 10, limit: 9 }
        );
        assert_eq!(
            parse("[[[]]]", &limits).unwrap_err(),
            JsonError { position: 2, reason: JsonReason::Depth { limit: 2 } }
        );
        assert_eq!(parse("[1,2,3,4]", &limits).unwrap_err().reason, JsonReason::Values { limit: 3 });
        assert_eq!(parse("[[1,2],3]", &limits).unwrap_err().reason, JsonReason::Values { limit: 3 });
        assert_eq!(parse("[[1,2],3]", &limits).unwrap_err().code(), ErrorCode::BadRequest);
        assert_eq!(parse("0123456789", &limits).unwrap_err().code(), ErrorCode::MessageTooLarge);
    }

    #[test]
    fn a_batch_is_split_without_looking_into_it() {
        let limits = Limits { values: 2, ..Limits::default() };
        assert_eq!(elements(r#" [{"a":1,"a":2} , [[[]]]]"#, &limits), Ok(vec![r#"{"a":1,"a":2}"#, "[[[]]]"]));
        assert_eq!(elements("[]", &limits), Ok(vec![]));
        assert!(elements("[1,2,3]", &limits).is_err());
        assert!(elements("{}", &limits).is_err());
        assert!(elements("[1,{]", &limits).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,200}") {
            let _ = read(&text);
            let _ = elements(&text, &Limits::default());
        }

        #[test]
        fn what_looks_like_json_is_accepted_as_serde_json_does(text in "[\\[\\]{}:,\"a1.e\\-u\\\\ ]{0,24}") {
            let ours = read(&text);
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            match ours {
                Ok(_) => prop_assert!(theirs.is_ok() || text.contains('e'), "{text}"),
                Err(error) => prop_assert!(
                    theirs.is_err() || matches!(error.reason, JsonReason::Duplicate { .. } | JsonReason::Depth { .. }),
                    "{text}: {error}"
                ),
            }
        }
    }
}
