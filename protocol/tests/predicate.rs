//! Predicates against a plain evaluator: random conditions, written in random ways, over random events.
//!
//! The evaluator here knows texts where the real one knows hashes, and walks the condition as it was
//! written where the real one has turned it about.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::hash_map::RandomState;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tickcast_protocol::message::Severity;
use tickcast_protocol::predicate::{
    PREDICATE_BYTES_MAX, PREDICATE_DEPTH_MAX, PREDICATE_TERMS_MAX, PredicateReason,
};
use tickcast_protocol::registry::{Attribute, Attributes, hash_severity, hash_text};
use tickcast_protocol::{Decimal, Predicate};

/// Names and values that are easily confused: with each other, with words of the language, or by quotes.
const VALUES: [&str; 8] = ["A", "a", "in", "AND", "42", "a b", "say \"hi\" \\ é\n", ""];
const PRICES: [&str; 8] = ["0", "-1", "1", "1.0", "1.1", "1.10", "1e3", "1000.00"];
const EXTREMES: [&str; 4] = ["1e64", "1e-64", "999999999999999999e64", "-999999999999999999e-64"];
const ORDERS: [&str; 6] = ["=", "!=", "<", "<=", ">", ">="];

/// A condition as somebody would write it.
#[derive(Clone, Debug)]
enum Written {
    Text(Attribute, bool, Vec<String>),
    Severity(&'static str, Severity),
    Severities(bool, Vec<Severity>),
    Price(&'static str, String),
    Between(String, String),
    Not(Box<Written>),
    And(Vec<Written>),
    Or(Vec<Written>),
}

#[derive(Clone, Debug, Default)]
struct Event {
    texts: [Option<String>; 6],
    severity: Option<Severity>,
    price: Option<String>,
}

impl Event {
    fn attributes(&self, hasher: &RandomState) -> Attributes {
        let mut attributes = Attributes { severity: self.severity, ..Attributes::default() };
        for (slot, text) in attributes.equality.iter_mut().zip(&self.texts) {
            *slot = text.as_ref().map_or(0, |text| hash_text(hasher, text));
        }
        attributes.equality[Attribute::Severity as usize] =
            self.severity.map_or(0, |severity| hash_severity(hasher, severity));
        attributes.price = self.price.as_ref().map(|price| price.parse().unwrap());
        attributes
    }
}

fn stands(order: &str, found: Ordering) -> bool {
    match order {
        "=" => found == Ordering::Equal,
        "!=" => found != Ordering::Equal,
        "<" => found == Ordering::Less,
        "<=" => found != Ordering::Greater,
        ">" => found == Ordering::Greater,
        _ => found != Ordering::Less,
    }
}

impl Written {
    fn holds(&self, event: &Event) -> bool {
        let price = |order: &str, bound: &str| {
            let found = event.price.as_ref().map(|price| price.parse::<Decimal>().unwrap());
            found.is_some_and(|price| stands(order, price.compare(bound.parse().unwrap())))
        };
        match self {
            Self::Text(attribute, excluded, values) => event.texts[*attribute as usize]
                .as_ref()
                .is_some_and(|text| values.contains(text) != *excluded),
            Self::Severity(order, level) => {
                event.severity.is_some_and(|severity| stands(order, severity.cmp(level)))
            }
            Self::Severities(excluded, levels) => {
                event.severity.is_some_and(|severity| levels.contains(&severity) != *excluded)
            }
            Self::Price(order, bound) => price(order, bound),
            Self::Between(low, high) => price(">=", low) && price("<=", high),
            Self::Not(condition) => !condition.holds(event),
            Self::And(operands) => operands.iter().all(|operand| operand.holds(event)),
            Self::Or(operands) => operands.iter().any(|operand| operand.holds(event)),
        }
    }

    /// The condition as text. `style` picks among the ways to write the same.
    fn write(&self, style: usize, out: &mut String) {
        let space = ["", " ", "\n\t "][style % 3];
        let word = |word: &str| if style.is_multiple_of(2) { word.to_owned() } else { word.to_uppercase() };
        let value = |value: &String| {
            let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte);
            if value.bytes().all(bare) && !value.is_empty() && !style.is_multiple_of(5) {
                return value.clone();
            }
            serde_json::to_string(value).unwrap()
        };
        let list = |values: Vec<String>| format!("({})", values.join(&format!("{space},{space}")));
        let membership = |excluded: bool| word(if excluded { "not in" } else { "in" });
        match self {
            Self::Text(attribute, excluded, values) if values.len() == 1 && !style.is_multiple_of(7) => {
                let order = if *excluded { "!=" } else { "=" };
                *out += &format!("{}{space}{order}{space}{}", word(attribute.name()), value(&values[0]));
            }
            Self::Text(attribute, excluded, values) => {
                let values = list(values.iter().map(value).collect());
                *out += &format!("{} {}{space}{values}", attribute.name(), membership(*excluded));
            }
            Self::Severity(order, level) => {
                *out += &format!("severity{space}{order}{space}{}", word(level.name()));
            }
            Self::Severities(excluded, levels) => {
                let levels = list(levels.iter().map(|level| level.name().to_owned()).collect());
                *out += &format!("severity {}{space}{levels}", membership(*excluded));
            }
            Self::Price(order, bound) => *out += &format!("price{space}{order}{space}{bound}"),
            Self::Between(low, high) => {
                *out += &format!("price {} {low} {} {high}", word("between"), word("and"));
            }
            Self::Not(condition) => {
                *out += &format!("{}{space}(", word("not"));
                condition.write(style + 1, out);
                *out += ")";
            }
            Self::And(operands) | Self::Or(operands) => {
                let joint = if matches!(self, Self::And(_)) { word("and") } else { word("or") };
                for (number, operand) in operands.iter().enumerate() {
                    if number > 0 {
                        *out += &format!(" {joint} ");
                    }
                    // Conjunctions bind closer, so they need no parentheses of their own.
                    let bound = matches!((self, operand), (Self::Or(_), Self::And(_)));
                    if matches!(operand, Self::And(_) | Self::Or(_)) && !bound {
                        *out += "(";
                        operand.write(style + 1, out);
                        *out += ")";
                    } else {
                        operand.write(style, out);
                    }
                }
            }
        }
    }

    fn text(&self, style: usize) -> String {
        let mut out = String::new();
        self.write(style, &mut out);
        out
    }
}

fn texts() -> impl Strategy<Value = Attribute> {
    select(&Attribute::EQUALITY[..6])
}

fn value() -> impl Strategy<Value = String> {
    select(&VALUES[..]).prop_map(str::to_owned)
}

fn price() -> impl Strategy<Value = String> {
    select([&PRICES[..], &EXTREMES].concat()).prop_map(str::to_owned)
}

fn level() -> impl Strategy<Value = Severity> {
    (0u8..6).prop_map(Severity)
}

fn written() -> impl Strategy<Value = Written> {
    let test = prop_oneof![
        4 => (texts(), any::<bool>(), vec(value(), 1..4))
            .prop_map(|(attribute, excluded, values)| Written::Text(attribute, excluded, values)),
        1 => (select(&ORDERS[..]), level()).prop_map(|(order, level)| Written::Severity(order, level)),
        1 => (any::<bool>(), vec(level(), 1..4)).prop_map(|(excluded, levels)| Written::Severities(excluded, levels)),
        1 => (select(&ORDERS[..]), price()).prop_map(|(order, bound)| Written::Price(order, bound)),
        1 => (price(), price()).prop_map(|(a, b)| {
            let ordered = a.parse::<Decimal>().unwrap().compare(b.parse().unwrap()).is_le();
            if ordered { Written::Between(a, b) } else { Written::Between(b, a) }
        }),
    ];
    test.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|condition| Written::Not(Box::new(condition))),
            vec(inner.clone(), 1..5).prop_map(Written::And),
            vec(inner, 1..5).prop_map(Written::Or),
        ]
    })
}

fn event() -> impl Strategy<Value = Event> {
    let text = || proptest::option::of(value());
    (
        [text(), text(), text(), text(), text(), text()],
        // Also levels that this version has no name for.
        proptest::option::of(prop_oneof![0u8..8, Just(255)]),
        proptest::option::of(price()),
    )
        .prop_map(|(texts, severity, price)| Event { texts, severity: severity.map(Severity), price })
}

/// Texts made of pieces that mean something, which get further than random characters do.
fn pieces() -> impl Strategy<Value = String> {
    let piece = select(
        &[
            "symbol", "severity", "price", "user", "foo", "=", "!=", "<", "<=", ">", ">=", "!", "in", "not",
            "NOT", "and", "or", "between", "(", ")", ",", "\"a\"", "\"", "\\", "high", "1.5", "-1e9", "é",
            "\0", "==", "&&", "'", "*",
        ][..],
    );
    vec(piece, 0..400).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn a_compiled_predicate_passes_what_the_written_one_says(
        written in written(), style in 0usize..210, events in vec(event(), 1..32),
    ) {
        let text = written.text(style);
        let predicate = Predicate::parse(&text);
        prop_assume!(predicate.is_ok() || text.len() > PREDICATE_BYTES_MAX / 2);
        let Ok(predicate) = predicate else { return Ok(()) };
        let hasher = RandomState::new();
        let compiled = predicate.compile(&hasher);
        for event in &events {
            let attributes = event.attributes(&hasher);
            let passes = compiled.matches(&attributes);
            prop_assert_eq!(passes, written.holds(event), "{} on {:?}", text, event);
            if let Some((attribute, hashes)) = compiled.required() {
                let has = hashes.contains(&attributes.equality[attribute as usize]);
                prop_assert!(has || !passes, "{} requires {:?} of {:?}", text, attribute, event);
            }
        }
    }

    #[test]
    fn a_printed_predicate_reads_as_the_same(written in written(), style in 0usize..210) {
        let Ok(predicate) = Predicate::parse(&written.text(style)) else { return Ok(()) };
        let printed = predicate.to_string();
        prop_assert_eq!(Predicate::parse(&printed), Ok(predicate), "{}", printed);
    }

    #[test]
    fn one_condition_is_one_predicate_however_it_is_written(written in written(), a in 0usize..210, b in 0usize..210) {
        let (Ok(a), Ok(b)) = (Predicate::parse(&written.text(a)), Predicate::parse(&written.text(b))) else {
            return Ok(());
        };
        prop_assert_eq!(a, b);
    }

    #[test]
    fn a_random_condition_is_understood(written in written(), style in 0usize..210) {
        let text = written.text(style);
        prop_assume!(text.len() < PREDICATE_BYTES_MAX / 2);
        prop_assert!(Predicate::parse(&text).is_ok(), "{}: {:?}", text, Predicate::parse(&text));
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}", pieces in pieces()) {
        for text in [text, pieces] {
            if let Err(error) = Predicate::parse(&text) {
                prop_assert!(error.position <= text.len());
                prop_assert!(error.to_string().len() < 1_024, "{}", error);
            }
        }
    }
}

fn reason(text: &str) -> PredicateReason {
    Predicate::parse(text).unwrap_err().reason
}

#[test]
fn limits_are_inclusive_and_named() {
    let list = |count: usize| {
        let values: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        format!("symbol in ({})", values.join(","))
    };
    assert!(Predicate::parse(&list(PREDICATE_TERMS_MAX)).is_ok());
    assert_eq!(reason(&list(PREDICATE_TERMS_MAX + 1)), PredicateReason::Terms);
    let chain = |count: usize| vec!["price>1"; count].join(" or ");
    assert!(Predicate::parse(&chain(180)).is_ok());

    for open in ["(", "not ", "not("] {
        let levels = |depth: usize| {
            let text = format!("{}user=a", open.repeat(depth));
            let close = ")".repeat(open.matches('(').count() * depth);
            text + &close
        };
        let most = PREDICATE_DEPTH_MAX / if open == "not(" { 2 } else { 1 };
        assert!(Predicate::parse(&levels(most)).is_ok(), "{open}");
        assert_eq!(reason(&levels(most + 1)), PredicateReason::Depth, "{open}");
        assert!(matches!(reason(&levels(100_000)), PredicateReason::TooLong { .. }));
    }

    let long = |bytes: usize| format!("user={}", "a".repeat(bytes - "user=".len()));
    assert!(Predicate::parse(&long(PREDICATE_BYTES_MAX)).is_ok());
    assert_eq!(reason(&long(PREDICATE_BYTES_MAX + 1)), PredicateReason::TooLong { length: 2_049 });
    // A list that just fits grows by a space for each comma.
    let values: Vec<String> = (0..250).map(|number| format!("{number:07}")).collect();
    assert!(matches!(reason(&format!("user in({})", values.join(","))), PredicateReason::WrittenOut { .. }));

    let limits = [
        (list(257), "more than 256 values"),
        ("(".repeat(17), "more than 16 parentheses and `not`"),
        (long(3_000), "3000 bytes exceeds the limit of 2048"),
    ];
    for (text, words) in limits {
        let error = Predicate::parse(&text).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn work_grows_with_the_text_and_no_faster() {
    // As nested, as negated and as wide as it can be at once; a parser that reads a level twice would need
    // 2^16 times as long.
    let deep = format!("{}user=a{}", "not (user=b or venue=c and ".repeat(8), ")".repeat(8));
    let text = vec![deep; 7].join(" and ");
    assert!(text.len() <= PREDICATE_BYTES_MAX);
    let predicate = Predicate::parse(&text).unwrap();
    assert_eq!(Predicate::parse(&predicate.to_string()), Ok(predicate));
}
