//! The one-screen summary of a run, for a terminal.
//!
//! Invariants: the parameters are repeated; both kinds of latency stand beside each other; with repetitions each
//! figure is `median [min max]`; what was not measured is left out or said to be so, never shown as zero.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::compare::{Pairing, pairings};
use super::figure::{Figure, Measured, write_spread};
use super::plan;
use super::plots::STAMP;
use super::quantity::{Quantity, clean, digits};
use crate::results::{Latency, Repetition, Run, Spread};

/// Width of the first column, which names what a line is about.
const NAMES: usize = 12;

/// The whole summary, ending in a line feed.
pub fn text(run: &Run) -> String {
    let mut text = String::new();
    let name = clean(&run.name);
    let called =
        if name.is_empty() || run.name == run.profile.name { String::new() } else { format!("  {name}") };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}{called}  {}", clean(&run.profile.name), clean(&run.profile.about));
    let mut plan = plan::parameters(&run.profile);
    if !run.profile.overrides.is_empty() {
        plan.push(format!("changed: {}", clean(&run.profile.overrides.join(" "))));
    }
    lines(&mut text, "plan", &plan);
    if run.repetitions.is_empty() {
        lines(&mut text, "result", &["nothing was measured".into()]);
    }
    for measured in Measured::all(run) {
        text.push('\n');
        target(&mut text, &measured);
    }
    for pairing in pairings(run) {
        text.push('\n');
        text.push_str(&pair(&pairing));
    }
    let notes: Vec<String> = run.notes.iter().map(|note| clean(note)).collect();
    if !notes.is_empty() {
        text.push('\n');
        lines(&mut text, "notes", &notes);
    }
    text
}

/// The table of a pair: ours, theirs, and the ratio of repetitions of the same number.
pub fn pair(pairing: &Pairing<'_>) -> String {
    let (target, baseline) = (clean(pairing.target), clean(pairing.baseline));
    let mut rows = vec![vec!["pair".into(), target, baseline, "ratio".into()]];
    for row in &pairing.rows {
        rows.push(vec![
            format!("  {}", row.figure.title),
            write_spread(row.figure, &row.of_target, pairing.repetitions),
            write_spread(row.figure, &row.of_baseline, pairing.repetitions),
            row.ratio.map_or_else(|| "unpaired".into(), |ratio| ratio_text(&ratio, pairing.repetitions)),
        ]);
    }
    let mut text = table(&rows);
    if pairing.limited {
        let _ = writeln!(text, "  {STAMP}: the ratios are not to be trusted");
    }
    text
}

pub(super) fn ratio_text(ratio: &Spread, repetitions: usize) -> String {
    let write = |value: f64| format!("{value:.2}");
    if repetitions < 2 {
        return write(ratio.median);
    }
    format!("{} [{} {}]", write(ratio.median), write(ratio.min), write(ratio.max))
}

/// Columns as wide as their widest cell; the first to the left, the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = widths[at];
            let _ = if at == 0 { write!(line, "{cell:<width$}") } else { write!(line, "   {cell:>width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn lines(text: &mut String, name: &str, lines: &[String]) {
    for (at, line) in lines.iter().enumerate() {
        let name = if at == 0 { name } else { "" };
        let _ = writeln!(text, "{name:<NAMES$}{line}");
    }
}

fn target(text: &mut String, measured: &Measured<'_>) {
    let repetitions = measured.repetitions.len();
    let each = if repetitions > 1 { ", each figure as median [min max]" } else { "" };
    let said =
        format!("{} ({}{each})", clean(measured.target), plan::things(repetitions as u64, "repetition"));
    lines(text, "target", &[said]);
    text.push_str(&latencies(measured));
    lines(
        text,
        "throughput",
        &joined(
            measured,
            3,
            &[
                ("published_per_s", "messages published"),
                ("deliveries_per_s", "deliveries"),
                ("wire_bytes_per_s", "on the wire (counted)"),
                ("messages_per_send", "messages a send"),
                ("bytes_per_send", "a send"),
                ("bytes_per_delivery", "a delivery"),
            ],
        ),
    );
    lines(
        text,
        "losses",
        &named(
            measured,
            4,
            &[
                ("lost", "lost"),
                ("gaps", "gaps"),
                ("conflated", "conflated"),
                ("filtered", "filtered"),
                ("duplicated", "duplicated"),
                ("refused", "refused"),
                ("disconnected", "disconnected"),
            ],
        ),
    );
    lines(
        text,
        "connects",
        &joined(
            measured,
            4,
            &[
                ("upgrades_per_s", "upgrades"),
                ("upgrades_failed", "failed"),
                ("connect_p50", "p50"),
                ("connect_p99", "p99"),
            ],
        ),
    );
    lines(
        text,
        "slow",
        &joined(
            measured,
            3,
            &[
                ("slow_memory", "a slow reader"),
                ("slow_p99_ratio", "times the p99 without slow readers"),
                ("slow_disconnected", "disconnected"),
            ],
        ),
    );
    let mut server = named(
        measured,
        3,
        &[
            ("server_cpu", "cpu"),
            ("cpu_per_delivery", "per delivery"),
            ("idle_cpu", "per idle connection and second"),
            ("rss", "rss"),
            ("rss_peak", "peak"),
            ("memory_per_connection", "per connection"),
        ],
    );
    if server.is_empty() {
        server.push("not measured: it does not run beside the generator".into());
    }
    lines(text, "server", &server);
    let mut generator = named(
        measured,
        3,
        &[("schedule_lag_p99", "schedule lag p99"), ("schedule_lag_max", "max"), ("generator_cpu", "cpu")],
    );
    generator.push(match measured.limited() {
        None => "-> generator was NOT the limit".into(),
        Some((limited, reason)) => {
            let of = if repetitions > 1 {
                format!(" in {limited} of {repetitions} repetitions")
            } else {
                String::new()
            };
            format!("-> {STAMP}{of}: {}", clean(reason))
        }
    });
    lines(text, "generator", &generator);
}

/// The two kinds of latency, side by side.
fn latencies(measured: &Measured<'_>) -> String {
    type Kind = fn(&Repetition) -> Option<&Latency>;
    type Percentile = (&'static str, fn(&Latency) -> u64);
    let percentiles: [Percentile; 5] = [
        ("p50", |l| l.p50_ns),
        ("p90", |l| l.p90_ns),
        ("p99", |l| l.p99_ns),
        ("p99.9", |l| l.p999_ns),
        ("max", |l| l.max_ns),
    ];
    let blocks: [(&str, Kind, Kind); 2] = [
        ("latency", |r| r.as_felt.as_ref(), |r| r.service_only.as_ref()),
        ("to the last subscriber", |r| r.last_subscriber.as_ref(), |r| r.last_subscriber_service.as_ref()),
    ];
    let mut rows = Vec::new();
    for (block, felt, service) in blocks {
        let of = |kind: Kind, at: fn(&Latency) -> u64| {
            let known =
                measured.repetitions.iter().filter_map(|r| kind(r)).filter(|latency| latency.count > 0);
            Spread::of(&known.map(|latency| at(latency) as f64).collect::<Vec<_>>())
        };
        if of(felt, |l| l.max_ns).is_none() && of(service, |l| l.max_ns).is_none() {
            continue;
        }
        rows.push(vec![block.into(), "as felt".into(), "service only".into()]);
        for (name, at) in percentiles {
            let cell = |kind| {
                of(kind, at)
                    .map_or_else(|| "-".into(), |spread| time_spread(&spread, measured.repetitions.len()))
            };
            rows.push(vec![format!("  {name}"), cell(felt), cell(service)]);
        }
    }
    table(&rows)
}

fn time_spread(spread: &Spread, repetitions: usize) -> String {
    let write = |ns: f64| Quantity::Time.write(ns);
    if repetitions < 2 {
        return write(spread.median);
    }
    format!("{} [{} {}]", write(spread.median), write(spread.min), write(spread.max))
}

/// `value words`, a few to a line.
fn joined(measured: &Measured<'_>, a_line: usize, figures: &[(&str, &str)]) -> Vec<String> {
    in_lines(
        a_line,
        figures.iter().filter_map(|(name, words)| Some(format!("{} {words}", value(measured, name)?))),
    )
}

/// `words value`, a few to a line.
fn named(measured: &Measured<'_>, a_line: usize, figures: &[(&str, &str)]) -> Vec<String> {
    in_lines(
        a_line,
        figures.iter().filter_map(|(name, words)| Some(format!("{words} {}", value(measured, name)?))),
    )
}

fn in_lines(a_line: usize, parts: impl Iterator<Item = String>) -> Vec<String> {
    parts.collect::<Vec<_>>().chunks(a_line).map(|line| line.join("   ")).collect()
}

fn value(measured: &Measured<'_>, name: &str) -> Option<String> {
    let figure = Figure::named(name)?;
    let spread = figure.spread(measured)?;
    // A count that is the same every time needs no range.
    if spread.min == spread.max {
        return Some(figure.write(spread.median));
    }
    Some(if figure.quantity == Quantity::Plain && measured.repetitions.len() < 2 {
        digits(spread.median)
    } else {
        write_spread(figure, &spread, measured.repetitions.len())
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn every_figure_has_its_median_and_its_range() {
        let text = text(&sample::run());
        for part in [
            "plan        1,000 subscribers",
            "changed: rate=2000",
            "tickcast (3 repetitions, each figure as median [min max])",
            "as felt",
            "service only",
            "to the last subscriber",
            "on the wire (counted)",
            "15.0 messages a send",
            "lost 0   gaps 0   conflated 12",
            "schedule lag p99 60.0 µs",
            "-> generator was NOT the limit",
            "per delivery 458 ns [449 ns 466 ns]",
            "per connection 1.90 KiB",
            "1.03 times the p99 without slow readers",
            "The soft limit of descriptors",
        ] {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
    }

    #[test]
    fn a_single_repetition_has_no_ranges() {
        let mut run = sample::run();
        run.repetitions.truncate(1);
        let text = text(&run);
        assert!(!text.contains('['), "{text}");
        assert!(text.contains("(1 repetition)"), "{text}");
    }

    #[test]
    fn the_stamp_and_its_reason_are_shown() {
        let text = text(&sample::limited());
        assert!(
            text.contains("-> GENERATOR-LIMITED in 3 of 3 repetitions: its schedule lag was 0.4 ms"),
            "{text}"
        );
        assert!(!text.contains("NOT the limit"));
    }

    #[test]
    fn a_pair_has_ours_theirs_and_the_ratio() {
        let text = text(&sample::pair());
        let row = text.lines().find(|line| line.contains("p99 as felt")).unwrap();
        assert!(row.contains("1.25 [1.25 1.25]"), "{row}");
        assert!(text.contains("ceiling-coalesced") && text.contains("ratio"));
    }

    #[test]
    fn what_was_not_measured_is_no_zero() {
        let mut run = sample::run();
        for repetition in &mut run.repetitions {
            (repetition.server, repetition.sends, repetition.as_felt) = (None, None, None);
        }
        let shown = text(&run);
        assert!(shown.contains("not measured: it does not run beside"), "{shown}");
        assert!(!shown.contains("a send   "), "{shown}");
        assert!(shown.lines().any(|line| line.starts_with("  p99 ") && line.contains(" -  ")), "{shown}");
        assert!(text(&Run::default()).contains("nothing was measured"));
    }

    #[test]
    fn a_name_moves_no_cursor() {
        let mut run = sample::run();
        run.name = "\u{1b}[2J".into();
        run.notes.push("a\nb\u{7}".into());
        assert!(!text(&run).contains(['\u{1b}', '\u{7}']));
    }
}
