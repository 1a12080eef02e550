//! The `filters` object of dashboards' subscriptions as a [`Predicate`].
//!
//! ```json
//! {"symbols":["AAPL"],"portfolio_ids":[],"strategy_ids":[],"user_id":"u1","venue":"XNAS",
//!  "severity":"high","min_price":1.10,"max_price":2}
//! ```
//!
//! All members are optional and all that are there must hold; a list is one of its values, prices include
//! their bounds. `severity` means this level and no other, as the clients of this object test it: `high`
//! leaves `critical` out. A dashboard sends what its user left open as `null`, as empty text or as an empty
//! list, so each of these is no condition.
#![forbid(unsafe_code)]

use tickcast_protocol::field::{Field, Input};
use tickcast_protocol::message::Severity;
use tickcast_protocol::predicate::{PREDICATE_TERMS_MAX, PredicateError};
use tickcast_protocol::{Decimal, ErrorCode, Predicate};

use crate::parse::{bounded, quoted};

/// What is done with events that do not have an attribute that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// They pass, as in the clients that were written with this object.
    Passes,
    /// They do not, as in predicates.
    Fails,
}

/// A member that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    /// Path of the member, such as `filters.symbols.3`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl FilterError {
    /// The code a peer is told.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidFilter
    }
}

/// What a member's value is, and what is asked of it.
#[derive(Clone, Copy)]
enum Member {
    AnyOf,
    Text,
    Severity,
    AtLeast,
    AtMost,
}

/// The members, and the attributes they ask about.
const MEMBERS: [(&str, &str, Member); 8] = [
    ("symbols", "symbol", Member::AnyOf),
    ("portfolio_ids", "portfolio", Member::AnyOf),
    ("strategy_ids", "strategy", Member::AnyOf),
    ("user_id", "user", Member::Text),
    ("venue", "venue", Member::Text),
    ("severity", "severity", Member::Severity),
    ("min_price", "price", Member::AtLeast),
    ("max_price", "price", Member::AtMost),
];

/// Names of severities in the systems whose dashboards send this object, beside our own.
const SEVERITY_ALIASES: [(&str, Severity); 2] = [("warning", Severity::MEDIUM), ("error", Severity::HIGH)];

/// The condition that `filters` states, or `None` when it states none.
///
/// # Errors
/// The member at fault: one that is not known, or whose value is of another kind or too much.
pub fn predicate(filters: &Input<'_>, absent: Absent) -> Result<Option<Predicate>, FilterError> {
    let members = match filters {
        Input::Null => return Ok(None),
        Input::Object(_, members) => members,
        _ => return Err(wrong("", "must be an object")),
    };
    let mut conditions = Vec::new();
    for (name, value) in members {
        let Some((name, attribute, member)) = MEMBERS.into_iter().find(|(known, ..)| known == name) else {
            let known = MEMBERS.map(|(name, ..)| name).join(", ");
            return Err(wrong(&quoted(name), format!("is not one of {known}")));
        };
        let Some((holds, fails, operand)) = operands(name, member, value)? else { continue };
        conditions.push(match absent {
            Absent::Fails => format!("{attribute} {holds} {operand}"),
            // Every comparison is false without the attribute, and `not` turns that about.
            Absent::Passes => format!("not {attribute} {fails} {operand}"),
        });
    }
    if conditions.is_empty() {
        return Ok(None);
    }
    let parsed = Predicate::parse(&conditions.join(" and "));
    // The text is ours, so a place in it would tell the sender nothing.
    parsed.map(Some).map_err(|PredicateError { reason, .. }| wrong("", format!("{reason}")))
}

/// Operator, opposite operator and operand; `None` when the value states no condition.
fn operands(
    name: &str,
    member: Member,
    value: &Input<'_>,
) -> Result<Option<(&'static str, &'static str, String)>, FilterError> {
    Ok(match (member, value) {
        (_, Input::Null) => None,
        (Member::AnyOf, Input::Array(_, items)) => {
            if items.len() > PREDICATE_TERMS_MAX {
                let message = format!("has {} elements, the limit is {PREDICATE_TERMS_MAX}", items.len());
                return Err(wrong(name, message));
            }
            let values = items.iter().enumerate();
            let values = values.map(|(index, item)| text(&format!("{name}.{index}"), item));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            (!values.is_empty()).then(|| ("in", "not in", format!("({})", values.join(", "))))
        }
        (Member::AnyOf, _) => return Err(wrong(name, "must be a list of texts")),
        (_, Input::Text(text)) if text.is_empty() => None,
        (Member::Text, value) => Some(("=", "!=", text(name, value)?)),
        (Member::Severity, value) => Some(("=", "!=", severity(name, value)?.to_owned())),
        (Member::AtLeast, value) => Some((">=", "<", price(name, value)?.to_owned())),
        (Member::AtMost, value) => Some(("<=", ">", price(name, value)?.to_owned())),
    })
}

/// A value in quotes. Ids that are numbers are known by their digits, as in messages.
fn text(name: &str, value: &Input<'_>) -> Result<String, FilterError> {
    let text = String::build(Some(value)).map_err(|error| wrong(name, error.reason))?;
    serde_json::to_string(&text).map_err(|error| wrong(name, error))
}

fn severity(name: &str, value: &Input<'_>) -> Result<&'static str, FilterError> {
    let found = match value {
        Input::Text(text) => {
            let alias = SEVERITY_ALIASES.into_iter().find(|(alias, _)| alias == text);
            alias.map(|(_, severity)| severity).or_else(|| Severity::NAMES.number_of(text).map(Severity))
        }
        _ => None,
    };
    found.map(Severity::name).ok_or_else(|| {
        let aliases = SEVERITY_ALIASES.map(|(alias, _)| alias).join(", ");
        wrong(name, format!("must be one of {}, {aliases}", Severity::NAMES.names.join(", ")))
    })
}

/// The number as it was written.
fn price<'i>(name: &str, value: &'i Input<'_>) -> Result<&'i str, FilterError> {
    let written: &str = match value {
        Input::Number(text) => text,
        Input::Text(text) => text,
        _ => return Err(wrong(name, "must be a number")),
    };
    match written.parse::<Decimal>() {
        Ok(_) => Ok(written),
        Err(error) => Err(wrong(name, error)),
    }
}

/// An error of the member called `name`, or of the object.
fn wrong(name: &str, message: impl std::fmt::Display) -> FilterError {
    let field = if name.is_empty() { "filters".to_owned() } else { format!("filters.{name}") };
    let field = bounded(&field);
    FilterError { message: bounded(&format!("field `{field}`: {message}")), field }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, parse};

    fn read(text: &str, absent: Absent) -> Result<Option<Predicate>, FilterError> {
        predicate(&parse(text, &Limits::default()).unwrap(), absent)
    }

    fn is(text: &str, strict: &str, lenient: &str) {
        for (absent, expected) in [(Absent::Fails, strict), (Absent::Passes, lenient)] {
            assert_eq!(read(text, absent), Ok(Some(Predicate::parse(expected).unwrap())), "{text}");
        }
    }

    #[test]
    fn each_member_is_a_comparison() {
        is(r#"{"symbols":["AAPL","GOOGL"]}"#, "symbol in (AAPL, GOOGL)", "not symbol not in (AAPL, GOOGL)");
        is(r#"{"portfolio_ids":["portfolio1"]}"#, "portfolio=portfolio1", "not portfolio!=portfolio1");
        is(r#"{"strategy_ids":["s 1",7]}"#, r#"strategy in ("s 1", 7)"#, r#"not strategy not in ("s 1", 7)"#);
        is(r#"{"user_id":"u1"}"#, "user=u1", "not user!=u1");
        is(r#"{"user_id":42}"#, "user=42", "not user!=42");
        is(r#"{"venue":"a \"b\" or\n"}"#, r#"venue="a \"b\" or\n""#, r#"not venue!="a \"b\" or\n""#);
        is(r#"{"severity":"high"}"#, "severity=high", "not severity!=high");
        is(r#"{"severity":"warning"}"#, "severity=medium", "not severity!=medium");
        is(
            r#"{"min_price":1.10,"max_price":"2e+3"}"#,
            "price between 1.1 and 2000",
            "not price<1.1 and not price>2000",
        );
        is(
            r#"{"min_price":0.100000000000000006}"#,
            "price>=0.100000000000000006",
            "not price<0.100000000000000006",
        );
    }

    #[test]
    fn members_must_all_hold() {
        is(
            r#"{"venue":"XNAS","symbols":["AAPL"],"min_price":0}"#,
            "symbol=AAPL and venue=XNAS and price>=0",
            "not symbol!=AAPL and not venue!=XNAS and not price<0",
        );
    }

    #[test]
    fn what_was_left_open_is_no_condition() {
        for text in
            ["null", "{}", r#"{"symbols":[],"venue":"","min_price":null,"severity":"","max_price":""}"#]
        {
            assert_eq!(read(text, Absent::Fails), Ok(None), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_by_field() {
        let many = format!(r#"{{"symbols":[{}]}}"#, vec!["1"; 257].join(","));
        let long = format!(r#"{{"venue":"{}"}}"#, "v".repeat(2_048));
        let cases = [
            ("[]", "filters", "must be an object"),
            (r#"{"asset_class":"fx"}"#, "filters.asset_class", "is not one of symbols, portfolio_ids"),
            (r#"{"symbols":"AAPL"}"#, "filters.symbols", "a list of texts"),
            (r#"{"symbols":["AAPL",{}]}"#, "filters.symbols.1", "must be"),
            (r#"{"symbols":[null]}"#, "filters.symbols.0", "is required"),
            (&many, "filters.symbols", "has 257 elements, the limit is 256"),
            (r#"{"user_id":true}"#, "filters.user_id", "must be"),
            (&long, "filters", "exceeds the limit of 2048"),
            (
                r#"{"severity":"bad"}"#,
                "filters.severity",
                "info, low, medium, high, critical, emergency, warning, error",
            ),
            (r#"{"severity":3}"#, "filters.severity", "must be one of"),
            (r#"{"min_price":"cheap"}"#, "filters.min_price", "not a decimal number"),
            (r#"{"max_price":[1]}"#, "filters.max_price", "must be a number"),
            (r#"{"max_price":1234567890123456789}"#, "filters.max_price", "18 significant digits"),
        ];
        for (text, field, words) in cases {
            let error = read(text, Absent::Passes).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.message.contains(words), "{error}");
            assert_eq!(error.code(), ErrorCode::InvalidFilter);
        }
    }
}
