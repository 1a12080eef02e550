//! Why a text is no predicate: where, what was found, and what may stand there.
#![forbid(unsafe_code)]

use super::{PREDICATE_BYTES_MAX, PREDICATE_DEPTH_MAX, PREDICATE_TERMS_MAX};
use crate::decimal::DecimalError;
use crate::error::ErrorCode;
use crate::message::Severity;
use crate::registry::Attribute;

/// Why a text is no predicate, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {position}: {reason}")]
pub struct PredicateError {
    /// Byte of the text at which reading stopped.
    pub position: usize,
    /// What is wrong there.
    pub reason: PredicateReason,
}

/// What is wrong with a text. What it repeats of the text is cut short.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredicateReason {
    /// Nothing there.
    #[error("a predicate is empty; write a condition such as severity>=high")]
    Empty,
    /// Longer than [`PREDICATE_BYTES_MAX`].
    #[error(
        "a predicate of {length} bytes exceeds the limit of {PREDICATE_BYTES_MAX}; make several subscriptions"
    )]
    TooLong {
        /// Bytes of the text.
        length: usize,
    },
    /// Longer than [`PREDICATE_BYTES_MAX`] in its one spelling.
    #[error(
        "written out it has {length} bytes and exceeds the limit of {PREDICATE_BYTES_MAX}; make several \
         subscriptions"
    )]
    WrittenOut {
        /// Bytes of the predicate as it would be printed.
        length: usize,
    },
    /// More than [`PREDICATE_TERMS_MAX`].
    #[error("more than {PREDICATE_TERMS_MAX} values; make several subscriptions")]
    Terms,
    /// Deeper than [`PREDICATE_DEPTH_MAX`].
    #[error("more than {PREDICATE_DEPTH_MAX} parentheses and `not` inside each other; write it flatter")]
    Depth,
    /// Something else than may stand here.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// What is there.
        found: String,
        /// What may be there.
        expected: &'static str,
    },
    /// A word where an attribute's name must be.
    #[error(
        "unknown attribute `{name}`, known are {}{}",
        Attribute::ALL.map(Attribute::name).join(", "),
        suggestion.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    )]
    UnknownAttribute {
        /// What was written.
        name: String,
        /// The nearest name, if one is near.
        suggestion: Option<&'static str>,
    },
    /// A comparison that this attribute does not have.
    #[error("found {found}, but `{}` is compared with {}", attribute.name(), operators(*attribute))]
    Operator {
        /// What is compared.
        attribute: Attribute,
        /// What was written.
        found: String,
    },
    /// Not the name of a severity.
    #[error("`{name}` is no severity, they are {}", Severity::NAMES.names.join(", "))]
    Severity {
        /// What was written.
        name: String,
    },
    /// Not a number.
    #[error("`{number}` is no price: {error}")]
    Price {
        /// What was written.
        number: String,
        /// What is wrong with it.
        error: DecimalError,
    },
    /// A range without anything in it.
    #[error("nothing is between {low} and {high}; the smaller comes first")]
    Range {
        /// First bound.
        low: String,
        /// Second bound.
        high: String,
    },
    /// A quoted value that is not closed or has an escape that JSON does not have.
    #[error("a quoted value is a JSON string: \"…\" with \\\" and \\\\ for quote and backslash")]
    Quotes,
}

impl PredicateError {
    /// The code a peer is told.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidFilter
    }

    /// The field at fault in what a peer says.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        "predicate"
    }
}

const fn operators(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Price => "=, !=, <, <=, >, >=, between … and …",
        Attribute::Severity => "=, !=, <, <=, >, >=, in (…), not in (…)",
        _ => "=, !=, in (…), not in (…)",
    }
}
