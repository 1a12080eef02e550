//! `--fail-if 'p99>2ms'`: a figure, an operator and a value with its unit, checked against a finished run.
//!
//! Invariants: parsing accepts only figures of [`FIGURES`] and units of their kind, so that a
//! condition that parses can be judged. A condition whose figure the run does not know fails: a check that
//! could not be made is not a check that passed. Figures of several repetitions are judged by their median,
//! figures that count trouble (`lost`, `gaps`, ...) by their sum.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use super::figure::{FIGURES, Figure, Measured};
use super::quantity::{Quantity, clean};
use crate::results::{Run, Spread};

/// Longest condition accepted, in bytes.
pub const CONDITION_BYTES_MAX: usize = 128;

/// When a run is to count as failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    figure: &'static Figure,
    /// The target whose figure divides ours, repetition by repetition: `deliveries_per_s/ceiling<0.85`.
    baseline: Option<String>,
    operator: Operator,
    /// In the figure's base unit; a plain number when there is a baseline.
    value: f64,
    /// As written.
    text: String,
}

/// How a figure is held against a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `==`
    Is,
    /// `!=`
    IsNot,
}

/// What became of a condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether the run is to count as failed: the condition held, or could not be judged.
    pub fails: bool,
    /// One sentence: the condition, the value found, and what follows.
    pub sentence: String,
}

/// Why a condition could not be understood; each message names what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConditionError {
    /// Too long to be meant.
    #[error("a condition has at most {CONDITION_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// No operator.
    #[error(
        "`{0}` has no operator: write FIGURE OPERATOR VALUE, such as p99>2ms, with one of > >= < <= == !="
    )]
    NoOperator(String),
    /// A figure that does not exist.
    #[error("there is no figure `{name}`{hint}; figures are {}", figure_names())]
    UnknownFigure {
        /// As written.
        name: String,
        /// The nearest real name, in words, or nothing.
        hint: String,
    },
    /// A value that is no number.
    #[error("`{0}` is no value: write a number such as 2, 0.5 or 1_000, and its unit right behind it")]
    NoNumber(String),
    /// A unit that does not fit the figure.
    #[error("{figure} takes a value with one of these units: {allowed}; `{unit}` is not among them")]
    Unit {
        /// The figure.
        figure: &'static str,
        /// As written.
        unit: String,
        /// The units that fit.
        allowed: String,
    },
    /// A ratio without a name behind the slash.
    #[error("`{0}` names no target behind the slash: write such as deliveries_per_s/ceiling<0.85")]
    NoBaseline(String),
}

impl Condition {
    /// From its text, such as `p99>2ms`, `lost>0`, `deliveries_per_s/ceiling<0.85`.
    pub fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.len() > CONDITION_BYTES_MAX {
            return Err(ConditionError::TooLong(text.len()));
        }
        let text = clean(text.trim());
        let (subject, operator, value) =
            Operator::split(&text).ok_or_else(|| ConditionError::NoOperator(text.clone()))?;
        let (name, baseline) = match subject.split_once('/') {
            Some((name, baseline)) => (name.trim(), Some(baseline.trim().to_owned())),
            None => (subject, None),
        };
        let figure = figure_named(name)?;
        if baseline.as_deref() == Some("") {
            return Err(ConditionError::NoBaseline(text));
        }
        let quantity = if baseline.is_some() { Quantity::Plain } else { figure.quantity };
        let value = parse_value(figure, quantity, value)?;
        Ok(Self { figure, baseline, operator, value, text })
    }

    /// Whether it holds for the target the run is about; `None` when the run does not know the figure.
    pub fn holds(&self, run: &Run) -> Option<bool> {
        self.found(run).ok().map(|found| self.operator.compare(found, self.value))
    }

    /// Judges the run, in a sentence that a log can carry.
    pub fn judge(&self, run: &Run) -> Outcome {
        let found = match self.found(run) {
            Ok(found) => found,
            Err(why) => {
                let sentence = format!("{} cannot be judged, which counts as failed: {why}", self.text);
                return Outcome { fails: true, sentence };
            }
        };
        let fails = self.operator.compare(found, self.value);
        let found = match self.baseline {
            Some(_) => Quantity::Plain.write(found),
            None => self.figure.write(found),
        };
        let over = if self.baseline.is_none() && self.figure.summed() { "sum" } else { "median" };
        let sentence = if fails {
            format!("{} holds: the {over} of the repetitions is {found}", self.text)
        } else {
            format!("{} does not hold: the {over} of the repetitions is {found}", self.text)
        };
        Outcome { fails, sentence }
    }

    fn found(&self, run: &Run) -> Result<f64, String> {
        let ours = Measured::main(run).ok_or("the run has no repetitions")?;
        let Some(baseline) = &self.baseline else {
            return self
                .figure
                .value(&ours)
                .ok_or_else(|| format!("{} was not measured for {}", self.figure.name, clean(ours.target)));
        };
        let theirs = self.baseline_in(run, baseline)?;
        let ratios: Vec<f64> = ours
            .repetitions
            .iter()
            .filter_map(|r| {
                let other = theirs.repetitions.iter().find(|other| other.number == r.number)?;
                Some(self.figure.of(r)? / self.figure.of(other)?)
            })
            .collect();
        Spread::of(&ratios).map(|spread| spread.median).ok_or_else(|| {
            format!("{} was not measured for both {} and {baseline}", self.figure.name, clean(ours.target))
        })
    }

    /// The one target whose name is `name`, or begins with it.
    fn baseline_in<'a>(&self, run: &'a Run, name: &str) -> Result<Measured<'a>, String> {
        let mut all = Measured::all(run);
        if let Some(at) = all.iter().position(|measured| measured.target == name) {
            return Ok(all.swap_remove(at));
        }
        let names: Vec<String> = all.iter().map(|measured| clean(measured.target)).collect();
        all.retain(|measured| measured.target.starts_with(name));
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(format!("no target is called {name}; the run has {}", names.join(", "))),
            _ => Err(format!("{name} could be several targets; the run has {}", names.join(", "))),
        }
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        Self::parse(text)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Operator {
    /// What is left of the first operator, the operator, and what is right of it.
    fn split(text: &str) -> Option<(&str, Self, &str)> {
        let at = text.find(['>', '<', '=', '!'])?;
        let (subject, rest) = text.split_at(at);
        // The two-character operators first: `>=` also begins with `>`.
        let operators = [
            (">=", Self::AtLeast),
            ("<=", Self::AtMost),
            ("==", Self::Is),
            ("!=", Self::IsNot),
            (">", Self::Above),
            ("<", Self::Below),
        ];
        let (sign, operator) = operators.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
        Some((subject.trim(), operator, rest[sign.len()..].trim()))
    }

    fn compare(self, found: f64, value: f64) -> bool {
        match self {
            Self::Above => found > value,
            Self::AtLeast => found >= value,
            Self::Below => found < value,
            Self::AtMost => found <= value,
            Self::Is => found == value,
            Self::IsNot => found != value,
        }
    }
}

fn figure_named(name: &str) -> Result<&'static Figure, ConditionError> {
    // What people write for the percentile whose name would need a point.
    let canonical = name.replace("99.9", "999");
    Figure::named(&canonical).ok_or_else(|| {
        let near = FIGURES
            .iter()
            .map(|figure| (strsim::jaro_winkler(name, figure.name), figure.name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness > 0.8);
        let hint = near.map(|(_, near)| format!(" (did you mean `{near}`?)")).unwrap_or_default();
        ConditionError::UnknownFigure { name: name.to_owned(), hint }
    })
}

fn figure_names() -> String {
    FIGURES.iter().map(|figure| figure.name).collect::<Vec<_>>().join(", ")
}

fn parse_value(figure: &'static Figure, quantity: Quantity, text: &str) -> Result<f64, ConditionError> {
    let no_number = || ConditionError::NoNumber(text.to_owned());
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(no_number());
    }
    let number: f64 = number.replace('_', "").parse().map_err(|_| no_number())?;
    let unit = unit.trim();
    // Nothing is nothing in every unit.
    if number == 0.0 && unit.is_empty() {
        return Ok(0.0);
    }
    let (_, factor) = quantity.units().iter().find(|(name, _)| *name == unit).ok_or_else(|| {
        let unit = if unit.is_empty() { "no unit".to_owned() } else { unit.to_owned() };
        ConditionError::Unit { figure: figure.name, unit, allowed: quantity.units_in_words() }
    })?;
    let value = number * factor;
    if value.is_finite() { Ok(value) } else { Err(no_number()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;

    fn error(text: &str) -> String {
        Condition::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn values_are_read_with_their_units() {
        for (text, value) in [
            ("p99>2ms", 2e6),
            ("p99.9 >= 1.5 s", 1.5e9),
            ("cpu_per_delivery>4us", 4e3),
            ("cpu_per_delivery>4µs", 4e3),
            ("lost>0", 0.0),
            ("deliveries<1M", 1e6),
            ("deliveries_per_s<1_500k/s", 1.5e6),
            ("server_cpu>=95%", 0.95),
            ("memory_per_connection>2KiB", 2048.0),
            ("wire_bytes_per_s<10MB/s", 1e7),
            ("deliveries_per_s/ceiling<0.85", 0.85),
            ("p50!=0", 0.0),
        ] {
            let condition = Condition::parse(text).unwrap();
            assert!((condition.value - value).abs() <= value * 1e-12, "{text}: {}", condition.value);
            assert_eq!(condition.to_string(), text);
        }
        assert_eq!(Condition::parse("p99.9>1s").unwrap().figure.name, "p999");
    }

    #[test]
    fn errors_name_what_is_allowed() {
        assert!(error("p99").contains("> >= < <= == !="));
        assert!(error("p98>1ms").contains("did you mean `p9"), "{}", error("p98>1ms"));
        assert!(error("zzz>1").contains("figures are p50, p90"));
        assert!(error("p99>2").contains("ns, us, µs, ms, s"));
        assert!(error("p99>2KiB").contains("`KiB` is not among them"));
        assert!(error("lost>2ms").contains("none, k, M, G"));
        assert!(error("p99>fast").contains("is no value"));
        assert!(error("p99>-1ms").contains("is no value"));
        assert!(error("p99=1ms").contains("no operator"));
        assert!(error("p99/<1").contains("behind the slash"));
        assert!(error(&"p".repeat(200)).contains("at most 128 bytes"));
    }

    #[test]
    fn the_median_decides_and_trouble_adds_up() {
        let mut run = sample::run();
        let medians = [1_000_000, 3_000_000, 2_000_000];
        for (repetition, p99) in run.repetitions.iter_mut().zip(medians) {
            repetition.as_felt.as_mut().unwrap().p99_ns = p99;
        }
        let holds = |text: &str, run: &Run| Condition::parse(text).unwrap().holds(run);
        assert_eq!(holds("p99>2ms", &run), Some(false));
        assert_eq!(holds("p99>=2ms", &run), Some(true));
        assert_eq!(holds("p99<2.1ms", &run), Some(true));
        assert_eq!(holds("p99==2ms", &run), Some(true));
        assert_eq!(holds("lost>0", &run), Some(false));
        assert_eq!(holds("alert_p99>2ms", &run), None, "a run without alerts");
        let alerts = sample::alerts();
        assert_eq!(holds("alert_p99.9<1us", &alerts), Some(false));
        assert_eq!(holds("alert_lost>0", &alerts), Some(false));
        run.repetitions[2].lost = 1;
        assert_eq!(holds("lost>0", &run), Some(true));
        assert!(Condition::parse("lost>0").unwrap().judge(&run).sentence.contains("sum"));
    }

    #[test]
    fn what_cannot_be_judged_fails() {
        let mut run = sample::run();
        for repetition in &mut run.repetitions {
            repetition.server = None;
        }
        let condition = Condition::parse("cpu_per_delivery>4us").unwrap();
        assert_eq!(condition.holds(&run), None);
        let outcome = condition.judge(&run);
        assert!(outcome.fails && outcome.sentence.contains("was not measured"), "{outcome:?}");
        assert!(condition.judge(&Run::default()).fails);
    }

    #[test]
    fn a_ratio_pairs_repetitions_of_the_same_number() {
        let run = sample::pair();
        let condition = Condition::parse("deliveries_per_s/ceiling<0.95").unwrap();
        assert_eq!(condition.holds(&run), Some(true));
        assert_eq!(Condition::parse("deliveries_per_s/ceiling<0.5").unwrap().holds(&run), Some(false));
        let outcome = Condition::parse("p99/uws>1.1").unwrap().judge(&run);
        assert!(outcome.fails && outcome.sentence.contains("ceiling-coalesced"), "{outcome:?}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,140}") {
            let _ = Condition::parse(&text);
        }

        #[test]
        fn whatever_is_written_in_an_allowed_unit_is_read_back(
            at in 0..FIGURES.len(),
            unit in 0..16_usize,
            operator in prop::sample::select(vec![">", ">=", "<", "<=", "==", "!="]),
            number in 0..1_000_000_u32,
        ) {
            let figure = &FIGURES[at];
            let units = figure.quantity.units();
            let (unit, factor) = units[unit % units.len()];
            let condition = Condition::parse(&format!("{}{operator}{number}{unit}", figure.name)).unwrap();
            prop_assert_eq!(condition.figure, figure);
            prop_assert_eq!(condition.value, f64::from(number) * factor);
        }

        #[test]
        fn an_operator_and_its_opposite_never_agree(found in -1e9..1e9_f64, value in -1e9..1e9_f64) {
            for (one, other) in [
                (Operator::Above, Operator::AtMost),
                (Operator::Below, Operator::AtLeast),
                (Operator::Is, Operator::IsNot),
            ] {
                prop_assert_ne!(one.compare(found, value), other.compare(found, value));
            }
        }
    }
}
