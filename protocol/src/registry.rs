//! What the server must know about each type, from the one table in [`crate::message`].

use std::hash::{BuildHasher, Hash, Hasher};

use crate::decimal::Decimal;
use crate::error::{FieldError, FieldReason};
use crate::field::{RecordInfo, Value};
use crate::message::{Class, Severity, TYPES, View};
use crate::topic::is_key;

/// First type id of data; below it are control messages.
pub const DATA_FIRST: u16 = 100;
/// First type id of extensions.
pub const EXTENSION_FIRST: u16 = 1_000;

/// One row of the message table.
#[derive(Debug, PartialEq)]
pub struct TypeInfo {
    /// Number on the wire; never reused.
    pub id: u16,
    /// Schema version; grows when fields are appended.
    pub version: u16,
    /// Name, and first segment of its topics.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// How it is delivered unless raised.
    pub class: Class,
    /// Its fields.
    pub record: &'static RecordInfo,
    /// The fields whose values, joined by dots, are the topic's key. Text, or whole numbers, which are written in
    /// decimal.
    pub key: &'static [&'static str],
    /// The fields that name the thing of which only the newest matters.
    pub conflate: &'static [&'static str],
    /// Which fields filters can ask about, and as what.
    pub attributes: &'static [(Attribute, &'static str)],
    /// When a message is delivered with a stricter class; the strictest rule that holds wins.
    pub raise: &'static [Raise],
    /// At least one of these must be there.
    pub any_of: &'static [&'static str],
    /// Of a type whose events build on each other: which of them begin anew. At most one rule; none for types
    /// whose every event says all there is to say about its key.
    pub base: &'static [Base],
    /// Bounds of fields beyond those of their kind.
    pub bounds: &'static [Bound],
}

impl TypeInfo {
    /// True for what publishers publish, false for what peers say to each other.
    #[must_use]
    pub const fn is_data(&self) -> bool {
        self.id >= DATA_FIRST
    }
}

/// A rule of the table that raises a message's class.
#[derive(Debug, PartialEq)]
pub struct Raise {
    /// The class it is raised to.
    pub to: Class,
    /// The field the rule looks at.
    pub field: &'static str,
    /// What the field must be.
    pub when: When,
}

/// A rule of the table that tells events which begin anew from those that build on them.
#[derive(Debug, PartialEq)]
pub struct Base {
    /// The field the rule looks at.
    pub field: &'static str,
    /// What the field must be.
    pub when: When,
}

/// A rule of the table that bounds a field.
#[derive(Debug, PartialEq)]
pub enum Bound {
    /// A whole number lies within bounds.
    Within {
        /// The number.
        field: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A list has no more elements than a number says.
    AtMost {
        /// The list.
        list: &'static str,
        /// The number.
        field: &'static str,
    },
}

/// What an event needs to be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// Nothing but itself.
    #[default]
    Whole,
    /// Nothing, and others build on it.
    Base,
    /// The last base of its stream, and everything after that.
    Delta,
}

/// A condition on one field.
#[derive(Debug, PartialEq)]
pub enum When {
    /// A flag that is set.
    Set,
    /// A name with this number.
    Is(u8),
    /// A name with this number or a higher one.
    AtLeast(u8),
}

/// What predicates can ask about. The equality attributes come first; their numbers index [`Attributes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// The instrument.
    Symbol,
    /// The trading venue.
    Venue,
    /// The portfolio.
    Portfolio,
    /// The strategy or algorithm.
    Strategy,
    /// The user.
    User,
    /// The trading session.
    Session,
    /// The severity.
    Severity,
    /// The price: compared, not looked up.
    Price,
}

/// How many attributes are looked up by equality.
pub const EQUALITY_ATTRIBUTES: usize = 7;

impl Attribute {
    /// The equality attributes, in the order of their numbers.
    pub const EQUALITY: [Self; EQUALITY_ATTRIBUTES] = [
        Self::Symbol,
        Self::Venue,
        Self::Portfolio,
        Self::Strategy,
        Self::User,
        Self::Session,
        Self::Severity,
    ];

    /// Every attribute, in order.
    pub const ALL: [Self; EQUALITY_ATTRIBUTES + 1] = [
        Self::Symbol,
        Self::Venue,
        Self::Portfolio,
        Self::Strategy,
        Self::User,
        Self::Session,
        Self::Severity,
        Self::Price,
    ];

    /// The name in predicates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symbol => "symbol",
            Self::Venue => "venue",
            Self::Portfolio => "portfolio",
            Self::Strategy => "strategy",
            Self::User => "user",
            Self::Session => "session",
            Self::Severity => "severity",
            Self::Price => "price",
        }
    }
}

/// What predicates see of one message: hashes for equality, level and price for comparison.
///
/// An attribute of text is known by its hash alone. The hasher is keyed per process and made to withstand
/// chosen input, so two texts that share a hash are as good as impossible and cannot be prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attributes {
    /// Hash of each equality attribute, by [`hash_text`] and [`hash_severity`]; zero when the message does
    /// not have it.
    pub equality: [u64; EQUALITY_ATTRIBUTES],
    /// The severity, if there is one. It may be a level that this version has no name for.
    pub severity: Option<Severity>,
    /// The price, if there is one.
    pub price: Option<Decimal>,
}

/// What routing needs of one message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// Class after the rules of the table.
    pub class: Class,
    /// Hash of type and conflation fields.
    pub conflation_key: u64,
    /// For filters.
    pub attributes: Attributes,
    /// Whether it builds on others.
    pub part: Part,
}

/// Every type, in order of id.
#[must_use]
pub fn types() -> &'static [TypeInfo] {
    TYPES
}

/// The type with this id.
#[must_use]
pub fn by_id(id: u16) -> Option<&'static TypeInfo> {
    TYPES.binary_search_by_key(&id, |info| info.id).ok().map(|index| &TYPES[index])
}

/// The data type with this name. Control messages have no topics and are not found.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static TypeInfo> {
    TYPES.iter().find(|info| info.is_data() && info.name == name)
}

/// The nearest name of a data type, when few letters differ.
#[must_use]
pub fn nearest_name(name: &str) -> Option<&'static str> {
    nearest(name, TYPES.iter().filter(|info| info.is_data()).map(|info| info.name))
}

/// The candidate nearest to `name`, when few letters differ.
pub(crate) fn nearest(name: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let (distance, nearest) = candidates
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 + name.len() / 4).then_some(nearest)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl When {
    fn holds(&self, value: Value<'_>) -> bool {
        match (value, self) {
            (Value::Bool(set), Self::Set) => set,
            (Value::Name(_, number), Self::Is(wanted)) => number == *wanted,
            (Value::Name(_, number), Self::AtLeast(least)) => number >= *least,
            _ => false,
        }
    }
}

impl<'a> View<'a> {
    /// The value of the field called `name`, or [`Value::Absent`] when the type has none.
    #[must_use]
    pub fn field(self, name: &str) -> Value<'a> {
        match self.info().record.position(name) {
            Some(index) => self.record().get(index),
            None => Value::Absent,
        }
    }

    /// Writes the topic's key, made from the key fields, over `key`.
    ///
    /// # Errors
    /// The key field that cannot be part of a topic.
    pub fn write_key(self, key: &mut String) -> Result<(), FieldError> {
        key.clear();
        let info = self.info();
        for name in info.key {
            let digits;
            let text = match self.field(name) {
                Value::Text(text) => text,
                Value::Unsigned(number) => {
                    digits = number.to_string();
                    &digits
                }
                _ => return Err(FieldError::new(*name, FieldReason::Key)),
            };
            // Only the last field may have dots of its own, or the key could not be taken apart again.
            let is_last = info.key.last() == Some(name);
            if !is_key(text) || (!is_last && text.contains('.')) {
                return Err(FieldError::new(*name, FieldReason::Key));
            }
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(text);
        }
        if is_key(key) { Ok(()) } else { Err(FieldError::new(self.info().key.join("."), FieldReason::Key)) }
    }

    /// What routing needs. `hasher` is the process's, so that nobody can prepare collisions.
    #[must_use]
    pub fn facts(self, hasher: &impl BuildHasher) -> Facts {
        let info = self.info();
        let mut class = info.class;
        for rule in info.raise {
            if rule.to > class && rule.when.holds(self.field(rule.field)) {
                class = rule.to;
            }
        }
        let mut state = hasher.build_hasher();
        info.id.hash(&mut state);
        for name in info.conflate {
            hash_value(self.field(name), &mut state);
        }
        let mut attributes = Attributes::default();
        for (attribute, name) in info.attributes {
            match (attribute, self.field(name)) {
                (Attribute::Price, Value::Decimal(price)) => attributes.price = Some(price),
                (Attribute::Severity, Value::Name(_, number)) => {
                    let severity = Severity(number);
                    attributes.severity = Some(severity);
                    attributes.equality[Attribute::Severity as usize] = hash_severity(hasher, severity);
                }
                (Attribute::Price | Attribute::Severity, _) => {}
                (attribute, Value::Text(text)) => {
                    attributes.equality[*attribute as usize] = hash_text(hasher, text);
                }
                // Not there. That no attribute is of another kind is a test of the table.
                _ => {}
            }
        }
        let part = match info.base.first() {
            None => Part::Whole,
            Some(base) if base.when.holds(self.field(base.field)) => Part::Base,
            Some(_) => Part::Delta,
        };
        Facts { class, conflation_key: state.finish(), attributes, part }
    }
}

/// The hash under which [`Attributes`] knows a text. Never zero, which says "not there".
#[must_use]
pub fn hash_text(hasher: &impl BuildHasher, text: &str) -> u64 {
    hasher.hash_one(text).max(1)
}

/// The hash under which [`Attributes`] knows a severity. Never zero.
#[must_use]
pub fn hash_severity(hasher: &impl BuildHasher, severity: Severity) -> u64 {
    hasher.hash_one(severity.0).max(1)
}

fn hash_value(value: Value<'_>, state: &mut impl Hasher) {
    match value {
        Value::Text(text) => text.hash(state),
        Value::Unsigned(number) => number.hash(state),
        Value::Name(_, number) => number.hash(state),
        _ => 0u8.hash(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Kind;

    #[test]
    fn ids_are_sorted_unique_and_in_their_ranges() {
        assert!(TYPES.windows(2).all(|pair| pair[0].id < pair[1].id));
        for info in TYPES {
            assert_eq!(by_id(info.id), Some(info));
            assert_eq!(by_name(info.name).is_some(), info.is_data(), "{}", info.name);
        }
    }

    #[test]
    fn every_name_in_a_row_is_a_field_of_it() {
        for info in TYPES {
            let named = info.key.iter().chain(info.conflate).chain(info.any_of).copied();
            let named = named.chain(info.attributes.iter().map(|(_, name)| *name));
            let named = named.chain(info.base.iter().map(|base| base.field));
            assert!(info.base.len() <= 1, "{}", info.name);
            let bounded = info.bounds.iter().flat_map(|bound| match *bound {
                Bound::Within { field, .. } => [field, field],
                Bound::AtMost { list, field } => [list, field],
            });
            let named = named.chain(bounded);
            for name in named.chain(info.raise.iter().map(|rule| rule.field)) {
                assert!(info.record.position(name).is_some(), "{}.{name}", info.name);
            }
            assert_eq!(info.is_data(), !info.key.is_empty(), "{} must have a key", info.name);
            assert!(info.raise.iter().all(|rule| rule.to > info.class), "{}: a rule only raises", info.name);
        }
    }

    #[test]
    fn every_attribute_is_of_the_kind_that_predicates_compare() {
        let plain = |kind: &'static Kind| match kind {
            Kind::Optional(inner) => inner,
            kind => kind,
        };
        for info in TYPES {
            for (attribute, name) in info.attributes {
                let field = &info.record.fields[info.record.position(name).unwrap()];
                let fits = match attribute {
                    Attribute::Price => matches!(plain(&field.kind), Kind::Decimal),
                    Attribute::Severity => *plain(&field.kind) == Kind::Name(&Severity::NAMES),
                    _ => matches!(plain(&field.kind), Kind::Text),
                };
                assert!(fits, "{}.{name} as {attribute:?}", info.name);
            }
        }
    }

    #[test]
    fn attributes_are_numbered_in_order() {
        for (number, attribute) in Attribute::ALL.into_iter().enumerate() {
            assert_eq!(attribute as usize, number);
        }
        assert_eq!(Attribute::ALL[..EQUALITY_ATTRIBUTES], Attribute::EQUALITY);
    }

    #[test]
    fn near_misses_are_suggested() {
        assert_eq!(nearest_name("market_dta"), Some("market_data"));
        assert_eq!(nearest_name("risk_alerts"), Some("risk_alert"));
        assert_eq!(nearest_name("zzzzzzzz"), None);
    }
}
