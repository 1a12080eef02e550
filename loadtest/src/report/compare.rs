//! Two sets of repetitions beside each other: two runs, or two targets of a pair run.
//!
//! Invariants: a difference is called one only when the ranges of both sides are apart and each has at least
//! [`REPETITIONS_MIN`] repetitions; anything else is within the noise, or could not be told. Whatever makes two runs
//! unlike (plan, machine, generator) is said beside the table, never silently accepted.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::figure::{Better, FIGURES, Figure, Measured, Section, is_ceiling};
use super::plots::STAMP;
use super::quantity::clean;
use super::summary::table;
use crate::results::{Run, Spread};

/// Fewest repetitions of each side for a verdict: with two of each, ranges are apart by chance once in three.
pub const REPETITIONS_MIN: usize = 3;

/// What [`compare`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The run compared with.
    pub before: Side,
    /// The run that is judged.
    pub after: Side,
    /// One for each figure that both know, without what never happened on either side.
    pub rows: Vec<Row>,
    /// Sentences on what makes the comparison less than fair.
    pub cautions: Vec<String>,
}

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// What its user called it.
    pub name: String,
    /// The target its figures are of.
    pub target: String,
    /// How many there are.
    pub repetitions: usize,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which.
    pub figure: &'static Figure,
    /// Over the repetitions of the run compared with.
    pub before: Spread,
    /// Over the repetitions of the run that is judged.
    pub after: Spread,
    /// Median after, divided by median before; absent when that is zero.
    pub ratio: Option<f64>,
    /// What may be said of it.
    pub verdict: Verdict,
}

/// What may be said of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The ranges are apart, and the second is the better one.
    Better,
    /// The ranges are apart, and the second is the worse one.
    Worse,
    /// The ranges are apart, and neither is better: it describes the run.
    Differs,
    /// The ranges overlap.
    WithinNoise,
    /// All values are equal.
    Same,
    /// A side has fewer than [`REPETITIONS_MIN`] repetitions that know the figure.
    TooFew,
}

/// A target and the one it is compared with, in one pair run.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairing<'a> {
    /// The target the run is about.
    pub target: &'a str,
    /// The target it is compared with.
    pub baseline: &'a str,
    /// How many the target has.
    pub repetitions: usize,
    /// Whether the generator was the limit in any of them.
    pub limited: bool,
    /// One for each figure that both know and that can be better or worse, the generator's own left out.
    pub rows: Vec<PairRow>,
}

/// One figure of a pairing.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// Which.
    pub figure: &'static Figure,
    /// Over the repetitions of the target.
    pub of_target: Spread,
    /// Over the repetitions of the baseline.
    pub of_baseline: Spread,
    /// Each repetition divided by the baseline's of the same number; absent when none has a partner, or when
    /// the baseline's median is zero.
    pub ratio: Option<Spread>,
}

/// The second run held against the first.
pub fn compare(before: &Run, after: &Run) -> Comparison {
    let (a, b) = (Measured::main(before), Measured::main(after));
    let side = |run: &Run, measured: &Option<Measured<'_>>| Side {
        name: clean(if run.name.is_empty() { &run.profile.name } else { &run.name }),
        target: measured.as_ref().map_or_else(String::new, |measured| clean(measured.target)),
        repetitions: measured.as_ref().map_or(0, |measured| measured.repetitions.len()),
    };
    let rows = match (&a, &b) {
        (Some(a), Some(b)) => FIGURES.iter().filter_map(|figure| row(figure, a, b)).collect(),
        _ => Vec::new(),
    };
    let (before_side, after_side) = (side(before, &a), side(after, &b));
    let cautions = cautions(before, after, &before_side, &after_side);
    Comparison { before: before_side, after: after_side, rows, cautions }
}

/// Each target of a pair run with its baseline: every ceiling where there is one, else the first target.
pub fn pairings(run: &Run) -> Vec<Pairing<'_>> {
    let all = Measured::all(run);
    let ceilings = all.iter().filter(|measured| is_ceiling(measured.target)).count();
    let baseline = |at: usize, measured: &Measured<'_>| {
        if ceilings == 0 { at == 0 } else { is_ceiling(measured.target) }
    };
    let mut pairings = Vec::new();
    for (at, target) in all.iter().enumerate() {
        // Ceilings are compared with each other only when there is nothing else to compare.
        let lone = ceilings == all.len() && at > 0;
        if baseline(at, target) && !lone {
            continue;
        }
        for (other_at, other) in all.iter().enumerate() {
            if other_at == at || (lone && other_at != 0) || !baseline(other_at, other) {
                continue;
            }
            pairings.push(pairing(target, other));
        }
    }
    pairings
}

fn pairing<'a>(target: &Measured<'a>, baseline: &Measured<'a>) -> Pairing<'a> {
    let judged = FIGURES.iter().filter(|figure| {
        !matches!(figure.better, Better::Neither | Better::Fewer) && figure.section != Section::Generator
    });
    let rows = judged
        .filter_map(|figure| {
            let ratios: Vec<f64> = target
                .repetitions
                .iter()
                .filter_map(|r| {
                    let partner = baseline.repetitions.iter().find(|other| other.number == r.number)?;
                    Some(figure.of(r)? / figure.of(partner)?)
                })
                .collect();
            let (of_target, of_baseline) = (figure.spread(target)?, figure.spread(baseline)?);
            let ratio = Spread::of(&ratios).filter(|_| of_baseline.median != 0.0);
            Some(PairRow { figure, of_target, of_baseline, ratio })
        })
        .collect();
    Pairing {
        target: target.target,
        baseline: baseline.target,
        repetitions: target.repetitions.len(),
        limited: target.limited().is_some() || baseline.limited().is_some(),
        rows,
    }
}

fn row(figure: &'static Figure, a: &Measured<'_>, b: &Measured<'_>) -> Option<Row> {
    let (before, after) = (figure.spread(a)?, figure.spread(b)?);
    // Of what never happened on either side only the losses are worth a line.
    if before.max == 0.0 && after.max == 0.0 && figure.name != "lost" {
        return None;
    }
    let fewest = figure.values(a).len().min(figure.values(b).len());
    let verdict = verdict(figure.better, &before, &after, fewest);
    let ratio =
        (before.median != 0.0).then(|| after.median / before.median).filter(|ratio| ratio.is_finite());
    Some(Row { figure, before, after, ratio, verdict })
}

fn verdict(better: Better, before: &Spread, after: &Spread, fewest: usize) -> Verdict {
    let values = [before.min, before.max, after.min, after.max];
    if values.iter().all(|value| *value == values[0]) {
        return Verdict::Same;
    }
    if fewest < REPETITIONS_MIN {
        return Verdict::TooFew;
    }
    let larger = if after.min > before.max {
        true
    } else if after.max < before.min {
        false
    } else {
        return Verdict::WithinNoise;
    };
    let good = match better {
        Better::Faster { larger } => larger,
        Better::Less | Better::Fewer => false,
        Better::Neither => return Verdict::Differs,
    };
    if larger == good { Verdict::Better } else { Verdict::Worse }
}

/// What makes the two less than alike.
fn cautions(before: &Run, after: &Run, a: &Side, b: &Side) -> Vec<String> {
    let mut said = Vec::new();
    for (run, side) in [(before, a), (after, b)] {
        let limited =
            Measured::main(run).and_then(|measured| measured.limited().map(|(_, reason)| clean(reason)));
        if let Some(reason) = limited {
            said.push(format!(
                "{STAMP}: {} speaks of the generator, not of the server ({reason}).",
                side.name
            ));
        }
        if side.repetitions == 0 {
            said.push(format!("{} has no repetitions.", side.name));
        }
    }
    if a.target != b.target {
        said.push(format!("The targets differ: {} and {}.", a.target, b.target));
    }
    let plan = differences(&before.profile, &after.profile);
    if !plan.is_empty() {
        said.push(format!("The plans differ: {}.", plan.join("; ")));
    }
    let machine = differences(&before.machine, &after.machine);
    if !machine.is_empty() {
        said.push(format!("The machines differ: {}.", machine.join("; ")));
    }
    if a.repetitions < REPETITIONS_MIN || b.repetitions < REPETITIONS_MIN {
        said.push(format!(
            "A verdict needs at least {REPETITIONS_MIN} repetitions of each run, these have {} and {}: measure with --repeat 5.",
            a.repetitions, b.repetitions
        ));
    } else {
        said.push(format!(
            "Ranges of {} and {} repetitions of the same thing are apart by chance once in {} figures.",
            a.repetitions,
            b.repetitions,
            once_in(a.repetitions, b.repetitions)
        ));
    }
    said
}

/// Fields that differ, as `name: one, other`. Names and load of a machine differ without meaning anything.
fn differences<T: serde::Serialize>(before: &T, after: &T) -> Vec<String> {
    let (Ok(serde_json::Value::Object(before)), Ok(serde_json::Value::Object(after))) =
        (serde_json::to_value(before), serde_json::to_value(after))
    else {
        return Vec::new();
    };
    before
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "load_average" | "about" | "overrides" | "memory_bytes"))
        .filter_map(|(name, value)| {
            let other = after.get(name).filter(|other| *other != value)?;
            Some(format!("{name} {} and {}", clean(&value.to_string()), clean(&other.to_string())))
        })
        .collect()
}

/// In how many figures two sets of values from one distribution have ranges that are apart: half of C(n + m, n).
fn once_in(n: usize, m: usize) -> String {
    let (n, m) = (n as f64, m as f64);
    let mut ways = 1.0;
    let mut at = 1.0;
    while at <= n.min(m) && ways < 1e6 {
        ways *= (n.max(m) + at) / at;
        at += 1.0;
    }
    if ways / 2.0 >= 1e5 {
        "more than 100,000".into()
    } else {
        super::quantity::grouped((ways / 2.0).floor())
    }
}

impl Row {
    /// The verdict in a word or three.
    pub fn words(&self) -> &'static str {
        match (self.verdict, self.figure.better) {
            (Verdict::Better, Better::Faster { .. }) => "faster",
            (Verdict::Worse, Better::Faster { .. }) => "slower",
            (Verdict::Better, Better::Fewer) => "fewer",
            (Verdict::Better, _) => "less",
            (Verdict::Worse, _) => "more",
            (Verdict::Differs, _) => "differs",
            (Verdict::WithinNoise, _) => "within the noise",
            (Verdict::Same, _) => "the same",
            (Verdict::TooFew, _) => "too few repetitions",
        }
    }
}

impl Comparison {
    /// The table and the cautions, for a terminal.
    pub fn text(&self) -> String {
        let column = |side: &Side| format!("{} ({})", side.name, side.repetitions);
        let mut rows = vec![vec![
            "figure".into(),
            column(&self.before),
            column(&self.after),
            "ratio".into(),
            "verdict".into(),
        ]];
        rows.extend(self.rows.iter().map(|row| {
            vec![
                row.figure.title.into(),
                row.before.write(row.figure.quantity),
                row.after.write(row.figure.quantity),
                row.ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
                row.words().into(),
            ]
        }));
        let mut text = table(&rows);
        if !self.cautions.is_empty() {
            text.push('\n');
        }
        for caution in &self.cautions {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "note: {caution}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn row_of<'a>(comparison: &'a Comparison, name: &str) -> &'a Row {
        comparison.rows.iter().find(|row| row.figure.name == name).unwrap()
    }

    fn slower(factor: f64) -> Run {
        let mut run = sample::run();
        run.name = "after".into();
        run.repetitions = (1..=3).map(|number| sample::repetition("tickcast", number, factor)).collect();
        run
    }

    #[test]
    fn ranges_that_are_apart_are_a_verdict() {
        let comparison = compare(&sample::run(), &slower(1.5));
        let p99 = row_of(&comparison, "p99");
        assert_eq!((p99.verdict, p99.words()), (Verdict::Worse, "slower"));
        assert!((p99.ratio.unwrap() - 1.5).abs() < 0.01);
        assert_eq!(row_of(&comparison, "deliveries_per_s").words(), "slower");
        assert_eq!(row_of(&comparison, "cpu_per_delivery").words(), "more");
        assert_eq!(row_of(&comparison, "lost").words(), "the same");
        let back = compare(&slower(1.5), &sample::run());
        assert_eq!(row_of(&back, "p99").words(), "faster");
        assert_eq!(row_of(&back, "deliveries_per_s").words(), "faster");
        assert_eq!(row_of(&back, "cpu_per_delivery").words(), "less");
    }

    #[test]
    fn alerts_are_compared_where_both_runs_have_them() {
        let mut slow = sample::alerts();
        for repetition in &mut slow.repetitions {
            let felt = repetition.alerts.as_mut().unwrap().as_felt.as_mut().unwrap();
            felt.p99_ns *= 2;
        }
        let comparison = compare(&sample::alerts(), &slow);
        assert_eq!(row_of(&comparison, "alert_p99").words(), "slower");
        assert_eq!(row_of(&comparison, "alert_p50").words(), "within the noise");
        let comparison = compare(&sample::run(), &slow);
        assert!(comparison.rows.iter().all(|row| !row.figure.name.starts_with("alert")));
        assert!(comparison.cautions.iter().any(|caution| caution.contains("alert_every_ns")));
    }

    #[test]
    fn ranges_that_overlap_are_noise() {
        let comparison = compare(&sample::run(), &slower(1.01));
        assert_eq!(row_of(&comparison, "p99").words(), "within the noise");
        let text = comparison.text();
        assert!(text.contains("within the noise") && text.contains("once in 10 figures"), "{text}");
    }

    #[test]
    fn too_few_repetitions_give_no_verdict() {
        let mut few = slower(3.0);
        few.repetitions.truncate(2);
        let comparison = compare(&sample::run(), &few);
        assert_eq!(row_of(&comparison, "p99").verdict, Verdict::TooFew);
        assert!(comparison.cautions.iter().any(|caution| caution.contains("at least 3 repetitions")));
    }

    #[test]
    fn what_makes_runs_unlike_is_said() {
        let mut other = sample::limited();
        other.profile.subscribers = 7;
        other.machine.kernel = "5.0\u{1b}".into();
        let said = compare(&sample::run(), &other).cautions.join("\n");
        for part in ["GENERATOR-LIMITED", "subscribers 1000 and 7", "kernel \"6.18.5\" and \"5.0"] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
        assert!(!said.contains('\u{1b}'));
        assert!(
            compare(&Run::default(), &Run::default()).cautions.iter().any(|c| c.contains("no repetitions"))
        );
    }

    #[test]
    fn every_target_is_paired_with_every_ceiling() {
        let mut run = sample::pair();
        let of = |run: &Run| {
            pairings(run).iter().map(|p| (p.target.to_owned(), p.baseline.to_owned())).collect::<Vec<_>>()
        };
        let pair = |target: &str, baseline: &str| (target.to_owned(), baseline.to_owned());
        assert_eq!(of(&run), [pair("tickcast", "ceiling-coalesced")]);
        run.repetitions.push(sample::repetition("ceiling-single", 1, 2.0));
        assert_eq!(of(&run), [pair("tickcast", "ceiling-coalesced"), pair("tickcast", "ceiling-single")]);
        run.repetitions.retain(|r| r.target != "tickcast");
        assert_eq!(of(&run), [pair("ceiling-single", "ceiling-coalesced")]);
        run.repetitions.retain(|r| r.target != "ceiling-single");
        assert!(of(&run).is_empty());
    }

    #[test]
    fn pairs_divide_repetitions_of_the_same_number() {
        let mut run = sample::pair();
        run.repetitions.retain(|r| !(r.target.starts_with("ceiling") && r.number == 2));
        let pairing = &pairings(&run)[0];
        let p99 = pairing.rows.iter().find(|row| row.figure.name == "p99").unwrap();
        assert!((p99.ratio.unwrap().median - 1.25).abs() < 0.001);
        assert!(pairing.rows.iter().all(|row| row.figure.name != "lost"));
    }

    #[test]
    fn nothing_has_no_ratio_to_it() {
        let mut run = sample::pair();
        for repetition in run.repetitions.iter_mut().filter(|r| r.number < 3 && is_ceiling(&r.target)) {
            repetition.server.as_mut().unwrap().kib_per_connection = Some(0.0);
        }
        // A ratio of the third repetition alone would say nothing of the others, and JSON has no infinity.
        let pairing = &pairings(&run)[0];
        let memory = pairing.rows.iter().find(|row| row.figure.name == "memory_per_connection").unwrap();
        assert_eq!((memory.of_baseline.median, memory.ratio), (0.0, None));
    }

    #[test]
    fn chance_is_counted_right() {
        assert_eq!([once_in(3, 3), once_in(5, 5), once_in(3, 5)], ["10", "126", "28"]);
        assert_eq!(once_in(1_000_000, 1_000_000), "more than 100,000");
    }
}
