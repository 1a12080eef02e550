//! The kinds of value a field can hold: how each is laid out, checked, viewed and built.
//!
//! Layout follows from the kind alone, because rkyv is configured little-endian, unaligned and with
//! 32-bit offsets: a record is its fields one after the other (SPEC 5). The table in
//! [`crate::message`] states the kinds; the compiler checks that rkyv agrees with them.

use std::borrow::Cow;

use rkyv::rend::unaligned::{f64_ule, i64_ule, u16_ule, u32_ule, u64_ule};
use rkyv::{Archive, Deserialize, Serialize};

use crate::decimal::{ArchivedDecimal, Decimal, DecimalError};
use crate::error::{FieldError, FieldReason};

/// Longest text in bytes, JSON escapes included; the frame limit is a second bound.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Most elements a list may have.
pub const LIST_LEN_MAX: usize = 1_024;
/// Deepest nesting of a JSON escape.
pub const JSON_DEPTH_MAX: usize = 32;

/// What a field holds and how it lies in the payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, one byte.
    U8,
    /// Unsigned, two bytes.
    U16,
    /// Unsigned, four bytes.
    U32,
    /// Unsigned, eight bytes.
    U64,
    /// Signed, eight bytes.
    I64,
    /// IEEE 754 double, finite.
    F64,
    /// Mantissa `i64`, then exponent `i8`.
    Decimal,
    /// `i64` nanoseconds since the Unix epoch, UTC.
    Time,
    /// UTF-8, inline up to eight bytes.
    Text,
    /// Laid out as text; holds one JSON value on one line, spliced verbatim into JSON.
    Json,
    /// A list of bytes; lower-case hexadecimal in JSON.
    Bytes,
    /// One byte naming one of a set that may grow; unknown numbers are passed on.
    Name(&'static NameSet),
    /// A byte 0 or 1, then the value (zeros when absent).
    Optional(&'static Kind),
    /// `i32` offset from the field itself, `u32` length; elements lie one after the other.
    List(&'static Kind),
    /// Fields in order.
    Record(&'static RecordInfo),
    /// A list of key and scalar.
    Map,
}

impl Kind {
    /// Bytes the kind takes in its record (out-of-line data not counted).
    #[must_use]
    pub const fn size(&self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::Name(_) => 1,
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Time => 8,
            Self::Text | Self::Json | Self::Bytes | Self::List(_) | Self::Map => 8,
            Self::Decimal => 9,
            Self::Optional(inner) => 1 + inner.size(),
            Self::Record(info) => info.size(),
        }
    }

    /// The kind in words, as SPEC and error messages call it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Bool => "bool".into(),
            Self::U8 => "u8".into(),
            Self::U16 => "u16".into(),
            Self::U32 => "u32".into(),
            Self::U64 => "u64".into(),
            Self::I64 => "i64".into(),
            Self::F64 => "f64".into(),
            Self::Decimal => "decimal".into(),
            Self::Time => "time".into(),
            Self::Text => "text".into(),
            Self::Json => "json".into(),
            Self::Bytes => "bytes".into(),
            Self::Name(set) => format!("name({})", set.name),
            Self::Optional(inner) => format!("optional {}", inner.describe()),
            Self::List(inner) => format!("list of {}", inner.describe()),
            Self::Record(info) => format!("record({})", info.name),
            Self::Map => "map".into(),
        }
    }
}

/// A set of names carried as one byte. Numbers are never reused; readers keep unknown ones.
#[derive(Debug, PartialEq)]
pub struct NameSet {
    /// The set's own name.
    pub name: &'static str,
    /// Number and name of each member.
    pub members: &'static [(u8, &'static str)],
    /// The names alone, for error messages.
    pub names: &'static [&'static str],
}

impl NameSet {
    /// The name of `number`, if it is known here.
    #[must_use]
    pub fn name_of(&self, number: u8) -> Option<&'static str> {
        self.members.iter().find(|(member, _)| *member == number).map(|(_, name)| *name)
    }

    /// The number of `name`.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<u8> {
        self.members.iter().find(|(_, member)| *member == name).map(|(number, _)| *number)
    }
}

/// A record's fields in order.
#[derive(Debug, PartialEq)]
pub struct RecordInfo {
    /// The record's name.
    pub name: &'static str,
    /// Its fields, in layout order.
    pub fields: &'static [FieldInfo],
}

impl RecordInfo {
    /// Bytes of the record: the sum of its fields.
    #[must_use]
    pub const fn size(&self) -> usize {
        let (mut sum, mut index) = (0, 0);
        while index < self.fields.len() {
            sum += self.fields[index].kind.size();
            index += 1;
        }
        sum
    }

    /// Position of the field called `name`.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

/// One field of a record.
#[derive(Debug, PartialEq)]
pub struct FieldInfo {
    /// Its name, in snake case.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Where it starts, in bytes from the start of its record, as the compiler laid it out.
    pub offset: usize,
    /// Unit or meaning in a few words.
    pub unit: &'static str,
    /// What it is.
    pub doc: &'static str,
}

/// Fails the build when rkyv's layout is not the one SPEC states: fields one after the other.
pub(crate) const fn assert_layout(info: &RecordInfo, size: usize, align: usize) {
    assert!(align == 1, "wire records must be readable at any address");
    let (mut expected, mut index) = (0, 0);
    while index < info.fields.len() {
        assert!(info.fields[index].offset == expected, "a field is not where SPEC puts it");
        expected += info.fields[index].kind.size();
        index += 1;
    }
    assert!(size == expected, "a record is larger than the sum of its fields");
}

/// A field's value, read in place.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// An optional field that is not there.
    Absent,
    /// [`Kind::Bool`]
    Bool(bool),
    /// [`Kind::U8`] to [`Kind::U64`]
    Unsigned(u64),
    /// [`Kind::I64`]
    Signed(i64),
    /// [`Kind::F64`]
    Float(f64),
    /// [`Kind::Decimal`]
    Decimal(Decimal),
    /// [`Kind::Time`]
    Time(i64),
    /// [`Kind::Text`]
    Text(&'a str),
    /// [`Kind::Json`]
    Json(&'a str),
    /// [`Kind::Bytes`]
    Bytes(&'a [u8]),
    /// [`Kind::Name`]
    Name(&'static NameSet, u8),
    /// [`Kind::List`]
    List(&'a dyn ListView),
    /// [`Kind::Record`]
    Record(&'a dyn RecordView),
    /// [`Kind::Map`]
    Map(&'a [ArchivedEntry]),
}

/// A record read in place.
pub trait RecordView {
    /// Its fields.
    fn info(&self) -> &'static RecordInfo;
    /// The value of the field at `index` in [`RecordInfo::fields`].
    ///
    /// # Panics
    /// When there is no such field.
    fn get(&self, index: usize) -> Value<'_>;
}

/// A list read in place.
pub trait ListView {
    /// How many elements.
    fn len(&self) -> usize;
    /// True when there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The element at `index`.
    ///
    /// # Panics
    /// When there is no such element.
    fn get(&self, index: usize) -> Value<'_>;
}

/// What a message is built from: a parsed JSON value whose numbers are still text.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(&'a str),
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An array and the text it was parsed from.
    Array(&'a str, Vec<Input<'a>>),
    /// An object, members in order, and the text it was parsed from.
    Object(&'a str, Vec<(Cow<'a, str>, Input<'a>)>),
}

/// A Rust type that can be a field.
pub trait Field: Archive<Archived: ArchivedField> + Sized {
    /// What it holds.
    const KIND: Kind;
    /// Builds it from `input`; `None` means the member is not there.
    ///
    /// # Errors
    /// The reason, and the path below this field.
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError>;
    /// An example for golden files: `full` fills optional parts.
    fn sample(name: &str, full: bool) -> Self;
}

/// A field as it lies in the payload.
pub trait ArchivedField {
    /// Reads it in place.
    fn view(&self) -> Value<'_>;
    /// What rkyv's check of the structure cannot see: bounds and contents.
    ///
    /// # Errors
    /// The reason, and the path below this field (empty when it is the field itself).
    fn check(&self) -> Result<(), FieldError>;
}

fn at_root(reason: FieldReason) -> FieldError {
    FieldError::new("", reason)
}

fn present<'a, 'b>(input: Option<&'a Input<'b>>) -> Result<&'a Input<'b>, FieldError> {
    match input {
        None | Some(Input::Null) => Err(at_root(FieldReason::Missing)),
        Some(input) => Ok(input),
    }
}

fn kind_error<T>(expected: &'static str) -> Result<T, FieldError> {
    Err(at_root(FieldReason::Kind { expected }))
}

/// A number in `1..=90` from a name, so that golden samples differ from field to field.
fn sample_number(name: &str) -> u8 {
    name.bytes().fold(7u32, |sum, byte| (sum * 31 + u32::from(byte)) % 90) as u8 + 1
}

// ---------------------------------------------------------------------------------------------
// Numbers and flags

macro_rules! integer_fields {
    ($($type:ty, $archived:ty, $kind:ident, $value:ident as $wide:ty, $words:literal;)*) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::$kind;
            fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
                match present(input)? {
                    Input::Number(text) => match text.parse() {
                        Ok(value) => Ok(value),
                        // `5.0` and `5e0` are the same number to a JSON sender.
                        Err(_) => text
                            .parse::<Decimal>()
                            .ok()
                            .and_then(|value| whole(value).and_then(|value| value.try_into().ok()))
                            .ok_or(at_root(FieldReason::Range { expected: $words })),
                    },
                    _ => kind_error($words),
                }
            }
            fn sample(name: &str, _: bool) -> Self {
                sample_number(name) as $type
            }
        }

        impl ArchivedField for $archived {
            fn view(&self) -> Value<'_> {
                Value::$value(<$wide>::from(<$type>::from(*self)))
            }
            fn check(&self) -> Result<(), FieldError> {
                Ok(())
            }
        }
    )*};
}

integer_fields! {
    u8, u8, U8, Unsigned as u64, "a whole number from 0 to 255";
    u16, u16_ule, U16, Unsigned as u64, "a whole number from 0 to 65535";
    u32, u32_ule, U32, Unsigned as u64, "a whole number from 0 to 4294967295";
    u64, u64_ule, U64, Unsigned as u64, "a whole number from 0 to 18446744073709551615";
    i64, i64_ule, I64, Signed as i64, "a whole number of 64 bits";
}

/// The integer a decimal stands for, if it is one.
fn whole(value: Decimal) -> Option<i64> {
    let scale = 10i64.checked_pow(value.exponent().unsigned_abs().into())?;
    if value.exponent() >= 0 {
        return value.mantissa().checked_mul(scale);
    }
    (value.mantissa() % scale == 0).then(|| value.mantissa() / scale)
}

impl Field for bool {
    const KIND: Kind = Kind::Bool;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        match input {
            // A flag that is not there is not set.
            None | Some(Input::Null) => Ok(false),
            Some(Input::Bool(value)) => Ok(*value),
            Some(_) => kind_error("true or false"),
        }
    }
    fn sample(_: &str, full: bool) -> Self {
        full
    }
}

impl ArchivedField for bool {
    fn view(&self) -> Value<'_> {
        Value::Bool(*self)
    }
    fn check(&self) -> Result<(), FieldError> {
        Ok(())
    }
}

impl Field for f64 {
    const KIND: Kind = Kind::F64;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        match present(input)? {
            Input::Number(text) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(value),
                _ => Err(at_root(FieldReason::Range { expected: "a finite number" })),
            },
            _ => kind_error("a number"),
        }
    }
    fn sample(name: &str, _: bool) -> Self {
        f64::from(sample_number(name)) / 8.0 + 0.1
    }
}

impl ArchivedField for f64_ule {
    fn view(&self) -> Value<'_> {
        Value::Float(self.to_native())
    }
    fn check(&self) -> Result<(), FieldError> {
        if self.to_native().is_finite() {
            return Ok(());
        }
        Err(at_root(FieldReason::Range { expected: "a finite number" }))
    }
}

impl Field for Decimal {
    const KIND: Kind = Kind::Decimal;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        let text = match present(input)? {
            Input::Number(text) => text,
            Input::Text(text) => text.as_ref(),
            _ => return kind_error("a decimal number, as a JSON number or a string"),
        };
        text.parse().map_err(|error: DecimalError| at_root(error.into()))
    }
    fn sample(name: &str, full: bool) -> Self {
        let number = i64::from(sample_number(name));
        let (mantissa, exponent) = if full { (number * 1_000 + 120, -3) } else { (-number, -20) };
        Self::new(mantissa, exponent).unwrap_or_default()
    }
}

impl ArchivedField for ArchivedDecimal {
    fn view(&self) -> Value<'_> {
        // `check` has run on everything that reaches a reader; a broken one shows as zero.
        Value::Decimal(Decimal::from_archived(self).unwrap_or_default())
    }
    fn check(&self) -> Result<(), FieldError> {
        Decimal::from_archived(self).map(drop).map_err(|error| at_root(error.into()))
    }
}

/// Nanoseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads RFC 3339; a time without a zone is UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parsed = text.parse::<jiff::Timestamp>().ok().or_else(|| {
            let naive: jiff::civil::DateTime = text.parse().ok()?;
            naive.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
        })?;
        i64::try_from(parsed.as_nanosecond()).ok().map(Self)
    }
}

/// RFC 3339 in UTC with a single `Z` and as many digits as there are.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_nanosecond(self.0.into()) {
            Ok(time) => time.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}

impl Field for Timestamp {
    const KIND: Kind = Kind::Time;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        match present(input)? {
            Input::Text(text) => Self::parse(text).ok_or(at_root(FieldReason::Time)),
            Input::Number(text) => text.parse().map(Self).map_err(|_| at_root(FieldReason::Time)),
            _ => Err(at_root(FieldReason::Time)),
        }
    }
    fn sample(name: &str, full: bool) -> Self {
        let number = i64::from(sample_number(name));
        Self(1_790_000_000_000_000_000 + number * 1_000_000_000 + if full { 123_456_789 } else { 0 })
    }
}

impl ArchivedField for ArchivedTimestamp {
    fn view(&self) -> Value<'_> {
        Value::Time(self.0.to_native())
    }
    fn check(&self) -> Result<(), FieldError> {
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------
// Text and bytes

fn check_text(text: &str) -> Result<(), FieldError> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let (length, limit) = (text.len(), TEXT_BYTES_MAX);
    Err(at_root(FieldReason::TooLong { length, limit, unit: "bytes" }))
}

fn check_len(length: usize) -> Result<(), FieldError> {
    if length <= LIST_LEN_MAX {
        return Ok(());
    }
    Err(at_root(FieldReason::TooLong { length, limit: LIST_LEN_MAX, unit: "elements" }))
}

impl Field for String {
    const KIND: Kind = Kind::Text;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        match present(input)? {
            Input::Text(text) => check_text(text).map(|()| text.clone().into_owned()),
            // Identifiers such as `user_id: 42` are numbers in some legacy payloads.
            Input::Number(text) => check_text(text).map(|()| (*text).to_owned()),
            _ => kind_error("a string"),
        }
    }
    fn sample(name: &str, full: bool) -> Self {
        if full { format!("{name}-{}", sample_number(name)) } else { format!("k{}", sample_number(name)) }
    }
}

impl ArchivedField for rkyv::string::ArchivedString {
    fn view(&self) -> Value<'_> {
        Value::Text(self.as_str())
    }
    fn check(&self) -> Result<(), FieldError> {
        check_text(self.as_str())
    }
}

/// One JSON value as text on one line, spliced verbatim into JSON output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Json(pub String);

/// True for one well-formed JSON value on one line, nested no deeper than [`JSON_DEPTH_MAX`].
fn is_json_line(text: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            b'\n' | b'\r' => return false,
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn check_json(text: &str) -> Result<(), FieldError> {
    check_text(text)?;
    if is_json_line(text) {
        return Ok(());
    }
    kind_error("one JSON value on one line, at most 32 levels deep")
}

fn json_line(input: &Input<'_>) -> String {
    match input {
        // Outside strings a line break is white space; inside them JSON forbids it.
        Input::Array(raw, _) | Input::Object(raw, _) => raw.replace(['\n', '\r'], " "),
        Input::Number(text) => (*text).to_owned(),
        Input::Bool(value) => value.to_string(),
        Input::Text(text) => serde_json::to_string(text).unwrap_or_default(),
        Input::Null => "null".to_owned(),
    }
}

impl Field for Json {
    const KIND: Kind = Kind::Json;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        let text = json_line(present(input)?);
        check_json(&text).map(|()| Self(text))
    }
    fn sample(name: &str, _: bool) -> Self {
        Self(format!(r#"{{"{name}":[1,{{"deep":"\u20ac"}}]}}"#))
    }
}

impl ArchivedField for ArchivedJson {
    fn view(&self) -> Value<'_> {
        Value::Json(self.0.as_str())
    }
    fn check(&self) -> Result<(), FieldError> {
        check_json(self.0.as_str())
    }
}

/// Bytes whose meaning is the publisher's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Blob(pub Vec<u8>);

impl Field for Blob {
    const KIND: Kind = Kind::Bytes;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        let Input::Text(text) = present(input)? else { return kind_error("a hexadecimal string") };
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        pairs.collect::<Option<Vec<u8>>>().map(Self).map_or_else(|| kind_error("a hexadecimal string"), Ok)
    }
    fn sample(name: &str, _: bool) -> Self {
        Self(vec![0, sample_number(name), 255])
    }
}

impl ArchivedField for ArchivedBlob {
    fn view(&self) -> Value<'_> {
        Value::Bytes(self.0.as_slice())
    }
    fn check(&self) -> Result<(), FieldError> {
        Ok(())
    }
}

// ---------------------------------------------------------------------------------------------
// Compositions

impl<T: Field> Field for Option<T>
where
    T::Archived: 'static,
{
    const KIND: Kind = Kind::Optional(&T::KIND);
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        match input {
            None | Some(Input::Null) => Ok(None),
            some => T::build(some).map(Some),
        }
    }
    fn sample(name: &str, full: bool) -> Self {
        full.then(|| T::sample(name, full))
    }
}

impl<A: ArchivedField> ArchivedField for rkyv::option::ArchivedOption<A> {
    fn view(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Absent, A::view)
    }
    fn check(&self) -> Result<(), FieldError> {
        self.as_ref().map_or(Ok(()), A::check)
    }
}

impl<T: Field> Field for Vec<T>
where
    T::Archived: 'static,
{
    const KIND: Kind = Kind::List(&T::KIND);
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        let items = match input {
            None | Some(Input::Null) => return Ok(Self::new()),
            Some(Input::Array(_, items)) => items,
            Some(_) => return kind_error("an array"),
        };
        check_len(items.len())?;
        let build = |(index, item): (usize, _)| {
            T::build(Some(item)).map_err(|error| error.within(&index.to_string()))
        };
        items.iter().enumerate().map(build).collect()
    }
    fn sample(name: &str, full: bool) -> Self {
        if full { vec![T::sample(name, true), T::sample(name, false)] } else { Self::new() }
    }
}

impl<A: ArchivedField + 'static> ArchivedField for rkyv::vec::ArchivedVec<A> {
    fn view(&self) -> Value<'_> {
        Value::List(self)
    }
    fn check(&self) -> Result<(), FieldError> {
        check_len(self.len())?;
        for (index, element) in self.iter().enumerate() {
            element.check().map_err(|error| error.within(&index.to_string()))?;
        }
        Ok(())
    }
}

impl<A: ArchivedField> ListView for rkyv::vec::ArchivedVec<A> {
    fn len(&self) -> usize {
        Self::len(self)
    }
    fn get(&self, index: usize) -> Value<'_> {
        self.as_slice()[index].view()
    }
}

/// One member of a free-form map.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub struct Entry {
    /// Its key, as the publisher wrote it.
    pub key: String,
    /// Its value.
    pub value: Scalar,
}

/// A free-form value. Never recursive: what nests is a [`Scalar::Json`] text.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum Scalar {
    /// `null`; tag 0.
    Null,
    /// Tag 1.
    Bool(bool),
    /// A whole number of 64 bits; tag 2.
    Integer(i64),
    /// Any other number; tag 3.
    Float(f64),
    /// Tag 4.
    Text(String),
    /// A list of numbers; tag 5.
    Floats(Vec<f64>),
    /// Anything that nests, as JSON text; tag 6.
    Json(String),
}

/// Size of an archived [`Scalar`]: a tag and the largest variant.
pub const SCALAR_SIZE: usize = 9;
/// Size of an archived [`Entry`]: a text and a scalar.
pub const ENTRY_SIZE: usize = 8 + SCALAR_SIZE;

const _: () = assert!(size_of::<ArchivedScalar>() == SCALAR_SIZE && align_of::<ArchivedScalar>() == 1);
const _: () = assert!(size_of::<ArchivedEntry>() == ENTRY_SIZE && align_of::<ArchivedEntry>() == 1);

impl ArchivedScalar {
    fn check(&self) -> Result<(), FieldError> {
        match self {
            Self::Null | Self::Bool(_) | Self::Integer(_) => Ok(()),
            Self::Float(value) => value.check(),
            Self::Text(text) => check_text(text),
            Self::Floats(values) => values.check(),
            Self::Json(text) => check_json(text),
        }
    }

    /// Reads it in place.
    #[must_use]
    pub fn view(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Absent,
            Self::Bool(value) => Value::Bool(*value),
            Self::Integer(value) => Value::Signed(value.to_native()),
            Self::Float(value) => Value::Float(value.to_native()),
            Self::Text(text) => Value::Text(text),
            Self::Floats(values) => Value::List(values),
            Self::Json(text) => Value::Json(text),
        }
    }
}

impl Scalar {
    fn build(input: &Input<'_>) -> Result<Self, FieldError> {
        Ok(match input {
            Input::Null => Self::Null,
            Input::Bool(value) => Self::Bool(*value),
            Input::Number(text) => match text.parse() {
                Ok(whole) => Self::Integer(whole),
                Err(_) => Self::Float(f64::build(Some(input))?),
            },
            Input::Text(text) => Self::Text(String::build(Some(&Input::Text(text.clone())))?),
            Input::Array(_, items) if is_float_list(items) => Self::Floats(Vec::build(Some(input))?),
            nested => {
                let text = json_line(nested);
                check_json(&text)?;
                Self::Json(text)
            }
        })
    }
}

/// True for a list that is numbers throughout and shows again as it was written.
fn is_float_list(items: &[Input<'_>]) -> bool {
    !items.is_empty()
        && items.iter().all(|item| match item {
            Input::Number(text) => text.contains(['.', 'e', 'E']),
            _ => false,
        })
}

/// A free-form map: keys and scalars in the publisher's order.
#[derive(Clone, Debug, Default, PartialEq, Archive, Serialize, Deserialize)]
pub struct Map(pub Vec<Entry>);

impl Field for Map {
    const KIND: Kind = Kind::Map;
    fn build(input: Option<&Input<'_>>) -> Result<Self, FieldError> {
        let Input::Object(_, members) = present(input)? else { return kind_error("an object") };
        check_len(members.len())?;
        let build = |(key, value): &(Cow<'_, str>, Input<'_>)| {
            check_text(key)?;
            let value = Scalar::build(value).map_err(|error| error.within(key))?;
            Ok(Entry { key: key.clone().into_owned(), value })
        };
        members.iter().map(build).collect::<Result<_, _>>().map(Self)
    }
    fn sample(name: &str, full: bool) -> Self {
        if !full {
            return Self::default();
        }
        let entry = |key: &str, value| Entry { key: key.to_owned(), value };
        Self(vec![
            entry("trend", Scalar::Text(format!("{name} · up"))),
            entry("rsi", Scalar::Float(65.25)),
            entry("count", Scalar::Integer(-3)),
            entry("ready", Scalar::Bool(true)),
            entry("none", Scalar::Null),
            entry("bollinger_upper", Scalar::Floats(vec![1.5, 2.25])),
            entry("nested", Scalar::Json(r#"{"levels":[1,2.50],"x_y":"\u00e9"}"#.to_owned())),
        ])
    }
}

impl ArchivedField for ArchivedMap {
    fn view(&self) -> Value<'_> {
        Value::Map(self.0.as_slice())
    }
    fn check(&self) -> Result<(), FieldError> {
        check_len(self.0.len())?;
        let mut keys = std::collections::HashSet::with_capacity(self.0.len());
        for entry in self.0.iter() {
            check_text(&entry.key)?;
            if !keys.insert(entry.key.as_str()) {
                return Err(FieldError::new(entry.key.as_str(), FieldReason::Duplicate));
            }
            entry.value.check().map_err(|error| error.within(&entry.key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes_are_one_value_on_one_line() {
        for good in ["1", "null", "{}", r#"{"a":[1,2,{"b":"c\"]{"}]}"#, "[1.0 , 2]"] {
            assert!(is_json_line(good), "{good}");
        }
        let deep = "[".repeat(33) + &"]".repeat(33);
        for bad in ["", "{", "1 2", "{\n}", "NaN", "[1,]", "'a'", deep.as_str()] {
            assert!(!is_json_line(bad), "{bad}");
        }
    }

    #[test]
    fn times_without_a_zone_are_utc() {
        let expected = Some(Timestamp(1_610_064_000_278_000_000));
        for text in ["2021-01-08T00:00:00.278Z", "2021-01-08T00:00:00.278", "2021-01-08T01:00:00.278+01:00"] {
            assert_eq!(Timestamp::parse(text), expected, "{text}");
        }
        assert_eq!(Timestamp::parse("yesterday"), None);
        assert_eq!(Timestamp(1_610_064_000_278_000_000).to_string(), "2021-01-08T00:00:00.278Z");
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_point() {
        assert_eq!(u32::build(Some(&Input::Number("5.0"))), Ok(5));
        assert_eq!(u32::build(Some(&Input::Number("5e1"))), Ok(50));
        assert!(u32::build(Some(&Input::Number("5.5"))).is_err());
        assert!(u32::build(Some(&Input::Number("-1"))).is_err());
        assert!(u8::build(Some(&Input::Number("256"))).is_err());
    }
}
