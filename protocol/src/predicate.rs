//! Predicates: conditions on an event's attributes, such as `severity>=high and symbol in (AAPL, MSFT)`.
//!
//! A topic filter chooses streams; a predicate chooses among their events. It is parsed and checked once
//! ([`Predicate`]), then compiled for the process that evaluates it ([`Compiled`]). The language is in
//! SPEC, section 15.
//!
//! - **Two-valued and strict**: a comparison is a statement about a value, so on an event without the
//!   attribute every comparison is false, `!=` and `not in` included. `not` turns false into true:
//!   `symbol!=A` passes events that have another symbol, `not symbol=A` also those that have none.
//! - **One meaning, one spelling**, as far as it is cheap: [`Predicate`]s that differ in the order or
//!   repetition of operands and values, in nesting, in where `not` stands, in how a number is written, or
//!   in how alternatives of one attribute are put together, are equal. Equal predicates intern to one.
//! - **Bounded**: in bytes, terms and depth, as written and written out again, so that what one peer
//!   accepts the next does too. The work per event is at most one comparison for each term.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::decimal::{DIGITS_MAX, Decimal};
use crate::message::Severity;
use crate::registry::Attribute;

mod compiled;
mod error;
mod parse;

pub use compiled::Compiled;
pub use error::{PredicateError, PredicateReason};

/// Longest predicate in bytes, as written and as printed.
pub const PREDICATE_BYTES_MAX: usize = 2_048;
/// Most terms: each text or price that an attribute is compared with is one, and each comparison of the
/// severity. A term costs at most one comparison an event, and about 100 bytes.
pub const PREDICATE_TERMS_MAX: usize = 256;
/// Most parentheses and `not`s inside each other.
pub const PREDICATE_DEPTH_MAX: usize = 16;

/// A checked condition in its one spelling. Cheap to clone.
///
/// Printing it gives a text that parses to the same predicate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Predicate {
    root: Arc<Node>,
}

impl Predicate {
    /// Parses a condition. The empty text is none; where a peer may leave the condition out, it is not
    /// asked for here.
    ///
    /// # Errors
    /// [`PredicateError`]: the byte, what was found there, and what may stand there.
    pub fn parse(text: &str) -> Result<Self, PredicateError> {
        let root = Arc::new(parse::parse(text)?);
        let predicate = Self { root };
        let length = predicate.to_string().len();
        if length > PREDICATE_BYTES_MAX {
            return Err(PredicateError {
                position: text.len(),
                reason: PredicateReason::WrittenOut { length },
            });
        }
        Ok(predicate)
    }

    /// Makes it ready to be evaluated. `hasher` must be the one that hashes the events' attributes.
    #[must_use]
    pub fn compile(&self, hasher: &impl BuildHasher) -> Compiled {
        Compiled::new(&self.root, hasher)
    }
}

impl std::str::FromStr for Predicate {
    type Err = PredicateError;

    fn from_str(text: &str) -> Result<Self, PredicateError> {
        Self::parse(text)
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root)
    }
}

/// A condition in normal form: `not` stands at tests only; the operands of `All` and `Any` are two or
/// more, sorted, different, and never of the kind they lie in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Node {
    Test(Test),
    All(Vec<Node>),
    Any(Vec<Node>),
}

/// A comparison of one attribute, or with `negated` the opposite: that it does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Test {
    negated: bool,
    comparison: Comparison,
}

/// A statement about the value of one attribute; false when there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Comparison {
    /// The text is one of these or, `excluded`, none of these. Sorted, different, at least one.
    Text { attribute: Attribute, excluded: bool, values: Vec<String> },
    /// The severity is one of these.
    Severity(Levels),
    /// The price stands so to this one.
    Price(Order, Bound),
}

/// How an attribute stands to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Order {
    Equal,
    Other,
    AtLeast,
    Above,
    AtMost,
    Below,
}

impl Order {
    const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Other => "!=",
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
        }
    }

    const fn holds(self, found: Ordering) -> bool {
        match self {
            Self::Equal => found.is_eq(),
            Self::Other => found.is_ne(),
            Self::Below => found.is_lt(),
            Self::AtMost => found.is_le(),
            Self::Above => found.is_gt(),
            Self::AtLeast => found.is_ge(),
        }
    }
}

/// A price in its shortest form, so that `1.10` and `1.1` are one. Ordered by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bound(Decimal);

impl Bound {
    fn new(price: Decimal) -> Self {
        Self(price.trimmed())
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.compare(other.0)
    }
}

/// A set of severities: a bit for each level with a name, and one for all that a newer version may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Levels(u16);

impl Levels {
    const NAMED: u8 = Severity::NAMES.members.len() as u8;
    const ALL: Self = Self((2 << Self::NAMED) - 1);

    const fn only(level: Severity) -> Self {
        // Levels without a name are above all others.
        Self(1 << if level.0 < Self::NAMED { level.0 } else { Self::NAMED })
    }

    const fn with(order: Order, level: Severity) -> Self {
        let Self(only) = Self::only(level);
        let below = only - 1;
        match order {
            Order::Equal => Self(only),
            Order::Other => Self(only).complement(),
            Order::Below => Self(below),
            Order::AtMost => Self(below | only),
            Order::Above => Self(below | only).complement(),
            Order::AtLeast => Self(below).complement(),
        }
    }

    const fn complement(self) -> Self {
        Self(Self::ALL.0 & !self.0)
    }

    const fn holds(self, level: Severity) -> bool {
        self.0 & Self::only(level).0 != 0
    }

    /// Whether it holds levels without a name, of which nobody can make a list.
    const fn is_open(self) -> bool {
        self.0 >> Self::NAMED != 0
    }

    fn named(self) -> impl Iterator<Item = Severity> {
        (0..Self::NAMED).map(Severity).filter(move |level| self.holds(*level))
    }
}

impl Node {
    /// What holds when all of these do. At least one.
    fn all(operands: Vec<Self>) -> Self {
        Self::combine(operands, true)
    }

    /// What holds when any of these does. At least one.
    fn any(operands: Vec<Self>) -> Self {
        Self::combine(operands, false)
    }

    fn combine(operands: Vec<Self>, all: bool) -> Self {
        let mut flat = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Self::All(inner) if all => flat.extend(inner),
                Self::Any(inner) if !all => flat.extend(inner),
                operand => flat.push(operand),
            }
        }
        // Sorting brings tests of one attribute together.
        flat.sort_unstable();
        let mut merged: Vec<Self> = Vec::with_capacity(flat.len());
        for operand in flat {
            match (merged.last_mut(), operand) {
                (Some(Self::Test(into)), Self::Test(test)) => {
                    if let Some(test) = into.merge(test, all) {
                        merged.push(Self::Test(test));
                    }
                }
                (_, operand) => merged.push(operand),
            }
        }
        for operand in &mut merged {
            if let Self::Test(Test { comparison: Comparison::Text { values, .. }, .. }) = operand {
                values.sort_unstable();
                values.dedup();
            }
        }
        // What was merged may be equal to another, or may stand elsewhere now.
        merged.sort_unstable();
        merged.dedup();
        match merged.pop() {
            Some(only) if merged.is_empty() => only,
            last => {
                merged.extend(last);
                if all { Self::All(merged) } else { Self::Any(merged) }
            }
        }
    }
}

impl Test {
    /// Takes in what one test can say in place of two, and hands back what it cannot. Values may be left
    /// unsorted.
    fn merge(&mut self, other: Self, all: bool) -> Option<Self> {
        if self.negated != other.negated {
            return Some(other);
        }
        // A test is a set of values. Two of them become their union or their intersection; a list can grow
        // but not shrink here, since an empty one could not be written.
        let union = all == self.negated;
        match (&mut self.comparison, other.comparison) {
            (Comparison::Severity(into), Comparison::Severity(levels)) => {
                into.0 = if union { into.0 | levels.0 } else { into.0 & levels.0 };
                None
            }
            (
                Comparison::Text { attribute: into, excluded: shut, values: known },
                Comparison::Text { attribute, excluded, values },
            ) if (*into, *shut) == (attribute, excluded) && union != excluded => {
                known.extend(values);
                None
            }
            (_, comparison) => Some(Self { comparison, ..other }),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operands, word) = match self {
            Self::Test(test) => return write!(f, "{test}"),
            Self::All(operands) => (operands, " and "),
            Self::Any(operands) => (operands, " or "),
        };
        for (number, operand) in operands.iter().enumerate() {
            if number > 0 {
                f.write_str(word)?;
            }
            match operand {
                Self::Any(_) => write!(f, "({operand})")?,
                operand => write!(f, "{operand}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("not ")?;
        }
        match &self.comparison {
            Comparison::Text { attribute, excluded, values } => {
                f.write_str(attribute.name())?;
                if let [value] = &values[..] {
                    f.write_str(if *excluded { "!=" } else { "=" })?;
                    return write_value(value, f);
                }
                f.write_str(if *excluded { " not in (" } else { " in (" })?;
                for (number, value) in values.iter().enumerate() {
                    f.write_str(if number > 0 { ", " } else { "" })?;
                    write_value(value, f)?;
                }
                f.write_str(")")
            }
            Comparison::Severity(levels) => write!(f, "{levels}"),
            Comparison::Price(order, Bound(price)) => {
                write!(f, "{}{}", Attribute::Price.name(), order.symbol())?;
                write_price(*price, f)
            }
        }
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Attribute::Severity.name();
        for order in [Order::Equal, Order::Other, Order::AtLeast, Order::AtMost, Order::Below, Order::Above] {
            for level in Self::ALL.named() {
                if Self::with(order, level) == *self {
                    return write!(f, "{name}{}{}", order.symbol(), level.name());
                }
            }
        }
        let (word, listed) = if self.is_open() { (" not in (", self.complement()) } else { (" in (", *self) };
        let names: Vec<&str> = listed.named().map(Severity::name).collect();
        write!(f, "{name}{word}{})", names.join(", "))
    }
}

/// True for what may stand in a value without quotes.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte)
}

fn write_value(value: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !value.is_empty() && value.bytes().all(is_bare) {
        return f.write_str(value);
    }
    f.write_str(&serde_json::to_string(value).map_err(|_| fmt::Error)?)
}

/// Plain notation where its zeros are few enough for the number to be read again.
fn write_price(price: Decimal, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let digits = price.mantissa().unsigned_abs().max(1).ilog10() + 1;
    let zeros = u32::from(price.exponent().unsigned_abs());
    let plain = if price.exponent() < 0 { zeros <= DIGITS_MAX } else { digits + zeros <= DIGITS_MAX };
    if plain { write!(f, "{price}") } else { write!(f, "{}e{}", price.mantissa(), price.exponent()) }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::registry::{Attributes, hash_severity, hash_text};

    fn predicate(text: &str) -> Predicate {
        Predicate::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_means_the_same_is_printed_the_same() {
        for (written, printed) in [
            (" USER = 42 ", "user=42"),
            ("user=\"42\"", "user=42"),
            ("user=\"4 2\"", "user=\"4 2\""),
            ("user=\"\\u0034\\n\"", "user=\"4\\n\""),
            ("symbol in (B, A, B)", "symbol in (A, B)"),
            ("symbol=B or symbol=A", "symbol in (A, B)"),
            ("not (symbol=B or symbol=A)", "not symbol in (A, B)"),
            ("symbol!=B and symbol!=A", "symbol not in (A, B)"),
            ("symbol!=B or symbol!=A", "symbol!=A or symbol!=B"),
            ("not not symbol=IN", "symbol=IN"),
            ("venue=a and (symbol=b and (user=c))", "symbol=b and venue=a and user=c"),
            ("user=c or symbol=b and venue=a", "user=c or symbol=b and venue=a"),
            ("(user=c or symbol=b) and venue=a", "venue=a and (symbol=b or user=c)"),
            ("not (user=c and price>5)", "not user=c or not price>5"),
            ("severity>medium", "severity>=high"),
            ("severity in (info, low)", "severity<=low"),
            ("severity<info", "severity<info"),
            ("severity>emergency", "severity>emergency"),
            ("severity>=low and severity<=high", "severity in (low, medium, high)"),
            ("severity not in (low, high)", "severity not in (low, high)"),
            ("price between 1.10 and 2e1", "price>=1.1 and price<=20"),
            ("price=1e18", "price=1e18"),
            ("price=-1e-30", "price=-1e-30"),
            ("price=0.00", "price=0"),
        ] {
            assert_eq!(predicate(written).to_string(), printed, "{written}");
            assert_eq!(predicate(written), predicate(printed), "{written}");
        }
    }

    #[test]
    fn a_comparison_with_what_is_not_there_is_false() {
        let hasher = RandomState::new();
        let nothing = Attributes::default();
        for text in [
            "symbol=A",
            "symbol!=A",
            "symbol in (A, B)",
            "symbol not in (A, B)",
            "severity=high",
            "severity!=high",
            "severity>=info",
            "severity not in (high)",
            "price=1",
            "price!=1",
            "price<1",
        ] {
            assert!(!predicate(text).compile(&hasher).matches(&nothing), "{text}");
            assert!(predicate(&format!("not {text}")).compile(&hasher).matches(&nothing), "not {text}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place_and_the_fix() {
        let deep = "(".repeat(17);
        for (text, position, words) in [
            ("", 0, "write a condition such as severity>=high"),
            (" \n", 2, "empty"),
            (
                "symbl=A",
                0,
                "known are symbol, venue, portfolio, strategy, user, session, severity, price; did you mean `symbol`?",
            ),
            ("user_id=4", 0, "did you mean `user`?"),
            ("colour=red", 0, "session, severity, price"),
            ("symbol>A", 6, "found `>`, but `symbol` is compared with =, !=, in (…), not in (…)"),
            ("price in (1)", 6, "`price` is compared with =, !=, <, <=, >, >=, between … and …"),
            ("severity between low and high", 9, "`severity` is compared with"),
            (
                "severity>=hi",
                10,
                "`hi` is no severity, they are info, low, medium, high, critical, emergency",
            ),
            ("severity>=3", 10, "`3` is no severity"),
            ("price>cheap", 6, "`cheap` is no price: not a decimal number"),
            ("price>\"1\"", 6, "found the text \"1\", expected a number"),
            ("price>1234567890123456789", 6, "18 significant digits"),
            ("price between 2 and 1", 6, "nothing is between 2 and 1; the smaller comes first"),
            ("price between 1 or 2", 16, "found `or`, expected `and` and the upper bound"),
            ("symbol==A", 7, "found `=`, expected a value"),
            ("symbol=", 7, "found the end, expected a value"),
            ("symbol='A'", 7, "text in \"quotes\""),
            ("symbol=\"A", 7, "a quoted value is a JSON string"),
            ("symbol=\"\\x\"", 7, "a quoted value is a JSON string"),
            ("symbol in A", 10, "expected `(` and a list of values"),
            ("symbol in ()", 11, "found `)`, expected a value"),
            ("symbol in (A B)", 13, "expected `,` or `)`"),
            ("symbol=A && user=b", 9, "found `&`, expected `and`, `or` or the end"),
            ("(symbol=A", 9, "expected `and`, `or` or `)`"),
            ("symbol=A)", 8, "found `)`, expected `and`, `or` or the end"),
            ("symbol=A and", 12, "expected a condition such as severity>=high, `not` or `(`"),
            ("!symbol=A", 0, "found `!`, expected a condition"),
            (&deep, 16, "more than 16 parentheses"),
        ] {
            let error = Predicate::parse(text).expect_err(text);
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert_eq!(error.position, position, "{text}: {error}");
        }
    }

    #[test]
    fn what_an_event_must_have_is_known() {
        let hasher = RandomState::new();
        let texts = |values: &[&str]| {
            let mut hashes: Vec<u64> = values.iter().map(|value| hash_text(&hasher, value)).collect();
            hashes.sort_unstable();
            hashes
        };
        for (text, attribute, values) in [
            ("symbol=A", Attribute::Symbol, &["A"][..]),
            ("symbol in (A, B) and price>5", Attribute::Symbol, &["A", "B"]),
            ("symbol in (A, B) and user=c", Attribute::User, &["c"]),
            ("symbol=A and severity=high", Attribute::Symbol, &["A"]),
            ("symbol in (A, B) and severity=high", Attribute::Symbol, &["A", "B"]),
            ("symbol=A and price>1 or symbol=B and user=c", Attribute::Symbol, &["A", "B"]),
            ("not (symbol!=A or not user=c)", Attribute::User, &["c"]),
        ] {
            let compiled = predicate(text).compile(&hasher);
            assert_eq!(compiled.required(), Some((attribute, &*texts(values))), "{text}");
        }
        let severe = predicate("severity<=low and price>1").compile(&hasher);
        let mut low = [Severity::INFO, Severity::LOW].map(|level| hash_severity(&hasher, level));
        low.sort_unstable();
        assert_eq!(severe.required(), Some((Attribute::Severity, &low[..])));
        for text in [
            "symbol!=A",
            "not symbol=A",
            "symbol=A or user=c",
            "severity>=high",
            "price=1",
            "symbol=A or price>1",
        ] {
            assert_eq!(predicate(text).compile(&hasher).required(), None, "{text}");
        }
    }

    #[test]
    fn levels_without_a_name_are_above_all_others() {
        let hasher = RandomState::new();
        for (text, passes) in
            [("severity>=high", true), ("severity!=low", true), ("severity<=emergency", false)]
        {
            for level in [6, 7, 255] {
                let attributes = Attributes { severity: Some(Severity(level)), ..Attributes::default() };
                assert_eq!(predicate(text).compile(&hasher).matches(&attributes), passes, "{text} {level}");
            }
        }
    }
}
