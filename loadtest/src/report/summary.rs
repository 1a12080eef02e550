//! The one-screen summary of a run, for a terminal.
//!
//! Invariants: the parameters are repeated; both kinds of latency stand beside each other; with repetitions each
//! figure is `median [min max]`; what was not measured is left out or said to be so, never shown as zero.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::compare::{Pairing, pairings};
use super::figure::{Figure, Measured};
use super::plan;
use super::plots::STAMP;
use super::quantity::{Quantity, clean};
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
    let pairings = pairings(run);
    for measured in Measured::all(run) {
        text.push('\n');
        target(&mut text, &measured, !pairings.is_empty());
    }
    for pairing in pairings {
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

/// What the table of a pair leaves to the report, to stay on one screen.
const REPORT_ONLY: [&str; 12] = [
    "p90",
    "max",
    "service_p90",
    "service_p999",
    "service_max",
    "last_max",
    "alert_last_p999",
    "alert_last_max",
    "alert_lag_p99",
    "bytes_per_delivery",
    "context_switches",
    "connect_p50",
];

/// The table of a pair: ours, theirs, and the ratio of repetitions of the same number.
pub fn pair(pairing: &Pairing<'_>) -> String {
    let (target, baseline) = (clean(pairing.target), clean(pairing.baseline));
    let mut rows = vec![vec!["pair".into(), target, baseline, "ratio".into()]];
    for row in pairing.rows.iter().filter(|row| !REPORT_ONLY.contains(&row.figure.name)) {
        rows.push(vec![
            format!("  {}", row.figure.title),
            row.of_target.write(row.figure.quantity),
            row.of_baseline.write(row.figure.quantity),
            row.ratio.map_or_else(|| "-".into(), |ratio| ratio_text(&ratio)),
        ]);
    }
    let mut text = table(&rows);
    if pairing.limited {
        let _ = writeln!(text, "  {STAMP}: the ratios are not to be trusted");
    }
    text
}

/// A ratio in two places, with its range where repetitions differ.
pub(super) fn ratio_text(ratio: &Spread) -> String {
    if ratio.min == ratio.max {
        return format!("{:.2}", ratio.median);
    }
    format!("{:.2} [{:.2} {:.2}]", ratio.median, ratio.min, ratio.max)
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

/// A figure, the words before it, the words after it.
type Part = (&'static str, &'static str, &'static str);

const THROUGHPUT: &[Part] = &[
    ("published_per_s", "published ", ""),
    ("deliveries_per_s", "delivered ", ""),
    ("wire_bytes_per_s", "on the wire ", " (counted)"),
    ("messages_per_send", "", " messages a send"),
    ("bytes_per_send", "", " a send"),
    ("bytes_per_delivery", "", " a delivery"),
];
const LOSSES: &[Part] = &[("lost", "lost ", ""), ("gaps", "gaps ", ""), ("conflated", "conflated ", "")];
const ALERTS: &[Part] =
    &[("alerts", "", " published"), ("alert_lost", "lost ", ""), ("alert_lag_p99", "schedule lag p99 ", "")];
/// Shown whenever accounts were checked: zero is the news.
const ACCOUNTS: &[Part] = &[("unaccounted", "unaccounted ", ""), ("misordered", "misordered ", "")];
/// Shown only when they happened.
const RARE: &[Part] = &[
    ("filtered", "filtered ", ""),
    ("duplicated", "duplicated or out of order ", ""),
    ("alert_duplicated", "alerts duplicated or out of order ", ""),
    ("refused", "publishes refused ", ""),
    ("disconnected", "connections ended ", ""),
];
const CONNECTS: &[Part] = &[
    ("upgrades_per_s", "upgrades ", ""),
    ("upgrades_failed", "failed ", ""),
    ("connect_p50", "p50 ", ""),
    ("connect_p99", "p99 ", ""),
];
const SLOW: &[Part] = &[
    ("slow_memory", "", " for each slow reader"),
    ("slow_p99_ratio", "p99 of the others ", " times that without them"),
    ("slow_disconnected", "disconnected ", ""),
];
const SERVER: &[Part] = &[
    ("server_cpu", "cpu ", ""),
    ("cpu_per_delivery", "", " per delivery"),
    ("idle_cpu", "", " per idle connection and second"),
    ("rss", "rss ", ""),
    ("rss_peak", "peak ", ""),
    ("memory_per_connection", "", " per connection"),
];
const GENERATOR: &[Part] = &[
    ("schedule_lag_p99", "schedule lag p99 ", ""),
    ("schedule_lag_max", "max ", ""),
    ("generator_cpu", "cpu ", ""),
];

/// What one target did. In a pair its times and costs stand in the table of the pair alone.
fn target(text: &mut String, measured: &Measured<'_>, in_pair: bool) {
    let repetitions = measured.repetitions.len();
    let each = if repetitions > 1 { ", median [min max], or one value where all were equal" } else { "" };
    let said =
        format!("{} ({}{each})", clean(measured.target), plan::things(repetitions as u64, "repetition"));
    lines(text, "target", &[said]);
    if !in_pair {
        text.push_str(&latencies(measured));
    }
    lines(text, "throughput", &parts(measured, THROUGHPUT));
    let mut losses = parts(measured, LOSSES);
    let happened = |(name, _, _): &&Part| {
        Figure::named(name).and_then(|figure| figure.spread(measured)).is_some_and(|spread| spread.max > 0.0)
    };
    let rare: Vec<Part> = RARE.iter().filter(happened).copied().collect();
    losses.extend(parts(measured, &rare));
    lines(text, "losses", &losses);
    lines(text, "alerts", &parts(measured, ALERTS));
    lines(text, "accounts", &parts(measured, ACCOUNTS));
    if !in_pair {
        lines(text, "connects", &parts(measured, CONNECTS));
        lines(text, "slow", &parts(measured, SLOW));
        let mut server = parts(measured, SERVER);
        if server.is_empty() {
            server.push("not measured: it does not run beside the generator".into());
        }
        lines(text, "server", &server);
    }
    let mut generator = parts(measured, GENERATOR);
    generator.push(match measured.limited() {
        None => "-> generator was NOT the limit".into(),
        Some((limited, reason)) if repetitions > 1 => {
            format!("-> {STAMP} in {limited} of {repetitions} repetitions: {}", clean(reason))
        }
        Some((_, reason)) => format!("-> {STAMP}: {}", clean(reason)),
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
    let blocks: [(&str, Kind, Kind); 4] = [
        ("latency", |r| r.as_felt.as_ref(), |r| r.service_only.as_ref()),
        ("to the last subscriber", |r| r.last_subscriber.as_ref(), |r| r.last_subscriber_service.as_ref()),
        ("alerts", |r| r.alerts.as_ref()?.as_felt.as_ref(), |r| r.alerts.as_ref()?.service_only.as_ref()),
        (
            "alerts to the last",
            |r| r.alerts.as_ref()?.last_subscriber.as_ref(),
            |r| r.alerts.as_ref()?.last_subscriber_service.as_ref(),
        ),
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
            let cell = |kind| of(kind, at).map_or_else(|| "-".into(), |spread| spread.write(Quantity::Time));
            rows.push(vec![format!("  {name}"), cell(felt), cell(service)]);
        }
    }
    table(&rows)
}

/// The figures that are known, three to a line.
fn parts(measured: &Measured<'_>, parts: &[Part]) -> Vec<String> {
    let known = parts.iter().filter_map(|(name, before, after)| {
        let figure = Figure::named(name)?;
        Some(format!("{before}{}{after}", figure.spread(measured)?.write(figure.quantity)))
    });
    known.collect::<Vec<_>>().chunks(3).map(|line| line.join("   ")).collect()
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
            "tickcast (3 repetitions, median [min max]",
            "as felt",
            "service only",
            "to the last subscriber",
            "on the wire 264 MB/s (counted)",
            "15.0 messages a send",
            "lost 0   gaps 0   conflated 12\n",
            "schedule lag p99 60.0 µs",
            "-> generator was NOT the limit",
            "458 ns [449 466] per delivery",
            "1.90 KiB per connection",
            "p99 of the others 1.03 times that without them",
            "The soft limit of descriptors",
        ] {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
    }

    #[test]
    fn alerts_and_accounts_stand_beside_the_messages() {
        let text = text(&sample::alerts());
        for part in [
            "alerts                               as felt          service only",
            "alerts to the last",
            "alerts      3,000 published   lost 0   schedule lag p99 20.0 µs",
            "accounts    unaccounted 0   misordered 0",
            "an alert every 10.0 ms",
            "accounts checked",
        ] {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
        let without = super::text(&sample::run());
        assert!(!without.contains("alert") && !without.contains("accounts"), "{without}");
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
        assert!(row.contains("   1.25"), "{row}");
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
    fn every_name_in_a_list_is_a_figure() {
        assert!(REPORT_ONLY.iter().all(|name| Figure::named(name).is_some()));
        let parts = [THROUGHPUT, LOSSES, RARE, ALERTS, ACCOUNTS, CONNECTS, SLOW, SERVER, GENERATOR].concat();
        assert!(parts.iter().all(|(name, _, _)| Figure::named(name).is_some()));
    }

    #[test]
    fn a_name_moves_no_cursor() {
        let mut run = sample::run();
        run.name = "\u{1b}[2J".into();
        run.notes.push("a\nb\u{7}".into());
        assert!(!text(&run).contains(['\u{1b}', '\u{7}']));
    }
}
