//! The plots of a run: which lines there are, and what they say in words.
//!
//! Invariants: each repetition is drawn thin and their median thick; the median is taken point by point, over
//! the repetitions that reach that point. With one source the two kinds of a plot have a colour each, with
//! several each source has a colour and the second kind is dashed; a second kind is always dashed. A plot of a
//! run in which the generator was the limit says so across its face.
#![forbid(unsafe_code)]

use super::figure::{Figure, Measured};
use super::plot::{Axis, Plot, Point, Scale, Series};
use super::quantity::{Quantity, clean};
use crate::results::{Alerts, Latency, Repetition, Second, Spread};

/// Positions on the percentile axis for each nine.
const STEPS_PER_NINE: usize = 40;
/// More nines than any run can fill.
const NINES_MAX: f64 = 9.0;
/// Bins of the histogram.
const BINS: usize = 72;
/// Longest run that is drawn second by second.
const SECONDS_MAX: u64 = 100_000;

/// By how much a measurement may end early and its last second still be whole.
const TOLERANCE_NS: u64 = 20_000_000;

/// What is written across a plot, and at the head of every text, when the generator was the limit.
pub(super) const STAMP: &str = "GENERATOR-LIMITED";

/// Repetitions of one target, and what to call them.
#[derive(Debug, Clone)]
pub(super) struct Source<'a> {
    pub(super) label: String,
    pub(super) measured: Measured<'a>,
}

impl<'a> Source<'a> {
    pub(super) fn new(measured: Measured<'a>) -> Self {
        Self { label: clean(measured.target), measured }
    }

    fn repetitions(&self) -> &[&'a Repetition] {
        &self.measured.repetitions
    }
}

/// Latency over percentiles, on an axis of nines.
pub(super) fn percentiles(sources: &[Source<'_>]) -> Plot {
    let curves = |source: &Source<'_>, of: fn(&Repetition) -> Option<&Latency>| -> Vec<Vec<Point>> {
        source.repetitions().iter().filter_map(|r| of(r)).map(|latency| Curve::of(latency).points()).collect()
    };
    let series = two_kinds(
        sources,
        ["as felt", "service only"],
        |source| curves(source, |r| r.as_felt.as_ref()),
        |source| curves(source, |r| r.service_only.as_ref()),
    );
    Plot {
        id: "percentiles",
        title: "Latency by percentile".into(),
        about: in_words(sources, &["p50", "p99", "p999", "max"]),
        x: Axis {
            label: "share of deliveries that were at least as fast",
            scale: Scale::Nines,
            quantity: Quantity::Plain,
        },
        y: Axis { label: "latency", scale: Scale::Fit, quantity: Quantity::Time },
        series,
        stamp: stamp(sources),
    }
}

/// Latency of alerts over percentiles; `None` when there were none.
pub(super) fn alerts(sources: &[Source<'_>]) -> Option<Plot> {
    type Kind = fn(&Alerts) -> Option<&Latency>;
    let curves = |source: &Source<'_>, of: Kind| -> Vec<Vec<Point>> {
        let known = source.repetitions().iter().filter_map(|r| of(r.alerts.as_ref()?));
        known.map(|latency| Curve::of(latency).points()).collect()
    };
    let series = two_kinds(
        sources,
        ["as felt", "to the last subscriber"],
        |source| curves(source, |alerts| alerts.as_felt.as_ref()),
        |source| curves(source, |alerts| alerts.last_subscriber.as_ref()),
    );
    drawn(&series).then(|| Plot {
        id: "alerts",
        title: "Alerts: latency by percentile".into(),
        about: in_words(sources, &["alert_p50", "alert_p99", "alert_p999", "alert_max"]),
        x: Axis {
            label: "share of deliveries that were at least as fast",
            scale: Scale::Nines,
            quantity: Quantity::Plain,
        },
        y: Axis { label: "latency", scale: Scale::Fit, quantity: Quantity::Time },
        series,
        stamp: stamp(sources),
    })
}

/// Median and 99th percentile, second by second.
pub(super) fn latency_over_time(sources: &[Source<'_>]) -> Plot {
    let arrived = |second: &Second, ns: u64| (second.delivered > 0 && ns > 0).then_some(ns as f64);
    let series = two_kinds(
        sources,
        ["p99 as felt", "p50 as felt"],
        |source| over_time(source, |_, second| arrived(second, second.p99_ns)),
        |source| over_time(source, |_, second| arrived(second, second.p50_ns)),
    );
    Plot {
        id: "latency-over-time",
        title: "Latency over time".into(),
        about: in_words(sources, &["p50", "p99"]),
        x: seconds(),
        y: Axis { label: "latency", scale: Scale::Fit, quantity: Quantity::Time },
        series,
        stamp: stamp(sources),
    }
}

/// Deliveries, second by second.
pub(super) fn throughput(sources: &[Source<'_>]) -> Plot {
    // What trickles in after the end of the measurement is no second of it.
    let whole = |repetition: &Repetition, second: &Second| {
        let end_ns = second.at_s.saturating_add(1).saturating_mul(1_000_000_000);
        (end_ns <= repetition.elapsed_ns.saturating_add(TOLERANCE_NS)).then_some(second.delivered as f64)
    };
    Plot {
        id: "throughput",
        title: "Deliveries a second".into(),
        about: in_words(sources, &["deliveries_per_s"]),
        x: seconds(),
        y: Axis { label: "deliveries a second", scale: Scale::Linear, quantity: Quantity::Rate },
        series: one_kind(sources, |source| over_time(source, whole)),
        stamp: stamp(sources),
    }
}

/// Deliveries found missing, second by second; `None` when nothing was lost.
pub(super) fn losses(sources: &[Source<'_>]) -> Option<Plot> {
    let lost = |source: &Source<'_>| {
        source.repetitions().iter().flat_map(|r| &r.seconds).any(|second| second.lost > 0)
    };
    sources.iter().any(lost).then(|| Plot {
        id: "losses",
        title: "Deliveries lost without notice, all repetitions together".into(),
        about: in_words(sources, &["lost", "gaps", "conflated"]),
        x: seconds(),
        y: Axis { label: "lost in each second", scale: Scale::Linear, quantity: Quantity::Count },
        series: one_kind(sources, |source| {
            vec![summed(over_time(source, |_, second| Some(second.lost as f64)))]
        }),
        stamp: stamp(sources),
    })
}

/// CPU of the server, second by second; `None` when it was not measured.
pub(super) fn server_cpu(sources: &[Source<'_>]) -> Option<Plot> {
    let series = one_kind(sources, |source| {
        over_time(source, |_, second| second.server_cpu_ns.map(|ns| ns as f64 / 1e9))
    });
    drawn(&series).then(|| Plot {
        id: "server-cpu",
        title: "CPU of the server".into(),
        about: in_words(sources, &["server_cpu", "cpu_per_delivery"]),
        x: seconds(),
        y: Axis { label: "share of one core", scale: Scale::Linear, quantity: Quantity::Share },
        series,
        stamp: stamp(sources),
    })
}

/// Resident memory of the server, second by second; `None` when it was not measured.
pub(super) fn server_memory(sources: &[Source<'_>]) -> Option<Plot> {
    let series = one_kind(sources, |source| {
        over_time(source, |_, second| second.server_rss_bytes.map(|bytes| bytes as f64))
    });
    drawn(&series).then(|| Plot {
        id: "server-memory",
        title: "Memory of the server".into(),
        about: in_words(sources, &["rss", "rss_peak", "memory_per_connection"]),
        x: seconds(),
        y: Axis { label: "resident memory", scale: Scale::Linear, quantity: Quantity::Bytes },
        series,
        stamp: stamp(sources),
    })
}

/// How deliveries spread over latencies, all repetitions together.
pub(super) fn histogram(sources: &[Source<'_>]) -> Plot {
    let range = sources
        .iter()
        .flat_map(|source| source.repetitions().iter())
        .flat_map(|r| [&r.as_felt, &r.service_only])
        .flatten()
        .flat_map(|latency| &latency.buckets)
        .filter(|(_, count)| *count > 0)
        .fold((f64::INFINITY, 0.0_f64), |(low, high), (ns, _)| (low.min(*ns as f64), high.max(*ns as f64)));
    let bins = |source: &Source<'_>, of: fn(&Repetition) -> Option<&Latency>| {
        binned(source.repetitions().iter().filter_map(|r| of(r)), range)
    };
    let mut series = two_kinds(
        sources,
        ["as felt", "service only"],
        |source| vec![bins(source, |r| r.as_felt.as_ref())],
        |source| vec![bins(source, |r| r.service_only.as_ref())],
    );
    for series in &mut series {
        series.thin.clear();
        series.filled = !series.dashed;
    }
    Plot {
        id: "histogram",
        title: "Histogram of latencies".into(),
        about: in_words(sources, &["p50", "p90", "p99"]),
        x: Axis { label: "latency", scale: Scale::Log, quantity: Quantity::Time },
        y: Axis { label: "share of deliveries in each bin", scale: Scale::Linear, quantity: Quantity::Share },
        series,
        stamp: stamp(sources),
    }
}

fn seconds() -> Axis {
    Axis { label: "seconds since the measurement began", scale: Scale::Exact, quantity: Quantity::Plain }
}

fn drawn(series: &[Series]) -> bool {
    series.iter().any(|series| !series.thick.is_empty())
}

/// The stamp, when a repetition of any source was limited by the generator.
pub(super) fn stamp(sources: &[Source<'_>]) -> Option<String> {
    sources.iter().any(|source| source.measured.limited().is_some()).then(|| STAMP.to_owned())
}

/// The medians of a few figures of each source, as the text beside the colours.
pub(super) fn in_words(sources: &[Source<'_>], names: &[&str]) -> String {
    let each = sources.iter().map(|source| {
        let figures: Vec<String> = names
            .iter()
            .filter_map(|name| {
                let figure = Figure::named(name)?;
                Some(format!("{} {}", figure.title, figure.write(figure.value(&source.measured)?)))
            })
            .collect();
        let figures = if figures.is_empty() { "not measured".to_owned() } else { figures.join(", ") };
        format!("{}: {figures}.", source.label)
    });
    each.collect::<Vec<_>>().join(" ")
}

type Lines = Vec<Vec<Point>>;

fn one_kind(sources: &[Source<'_>], lines: impl Fn(&Source<'_>) -> Lines) -> Vec<Series> {
    let series = |(at, source): (usize, &Source<'_>)| series(source.label.clone(), at, false, lines(source));
    sources.iter().enumerate().map(series).collect()
}

fn two_kinds(
    sources: &[Source<'_>],
    kinds: [&str; 2],
    first: impl Fn(&Source<'_>) -> Lines,
    second: impl Fn(&Source<'_>) -> Lines,
) -> Vec<Series> {
    let mut all = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        let [solid, dashed] = if sources.len() == 1 {
            kinds.map(str::to_owned)
        } else {
            kinds.map(|kind| format!("{}, {kind}", source.label))
        };
        let colours = if sources.len() == 1 { (0, 1) } else { (at, at) };
        all.push(series(solid, colours.0, false, first(source)));
        all.push(series(dashed, colours.1, true, second(source)));
    }
    all.retain(|series| !series.thick.is_empty());
    all
}

/// A lone repetition is its own median and is drawn once.
fn series(name: String, colour: usize, dashed: bool, mut lines: Lines) -> Series {
    let thick = median(&lines);
    if lines.len() < 2 {
        lines.clear();
    }
    Series { name, colour, dashed, filled: false, thin: lines, thick }
}

/// Point by point; lines must have the same abscissas as far as they go.
fn median(lines: &[Vec<Point>]) -> Vec<Point> {
    let longest = lines.iter().max_by_key(|line| line.len());
    let Some(longest) = longest else { return Vec::new() };
    let mut values = Vec::with_capacity(lines.len());
    longest
        .iter()
        .enumerate()
        .map(|(at, (x, _))| {
            values.clear();
            values.extend(lines.iter().filter_map(|line| line.get(at)).map(|point| point.1));
            (*x, Spread::of(&values).map_or(f64::NAN, |spread| spread.median))
        })
        .collect()
}

/// All lines in one: a median would hide what only one repetition lost.
fn summed(lines: Lines) -> Vec<Point> {
    let mut sum: Vec<Point> = Vec::new();
    for line in lines {
        for (at, (x, y)) in line.into_iter().enumerate() {
            match sum.get_mut(at) {
                Some(point) if y.is_finite() => point.1 = if point.1.is_finite() { point.1 + y } else { y },
                Some(_) => {}
                None => sum.push((x, y)),
            }
        }
    }
    sum
}

/// A value for each second; a second without one breaks the line.
fn over_time(source: &Source<'_>, of: impl Fn(&Repetition, &Second) -> Option<f64>) -> Lines {
    let line = |repetition: &&Repetition| {
        // Placed by its number, so that a second nobody wrote down shifts none of the others.
        let last =
            repetition.seconds.iter().map(|second| second.at_s).filter(|at| *at < SECONDS_MAX).max()?;
        let mut line: Vec<Point> = (0..=last).map(|at| (at as f64, f64::NAN)).collect();
        for second in repetition.seconds.iter().filter(|second| second.at_s <= last) {
            if let (Some(point), Some(value)) = (line.get_mut(second.at_s as usize), of(repetition, second)) {
                point.1 = value;
            }
        }
        let known = line.iter().rposition(|point| point.1.is_finite())?;
        line.truncate(known + 1);
        Some(line)
    };
    source.repetitions().iter().filter_map(line).collect()
}

/// A distribution as a function of the percentile.
struct Curve {
    /// Value, and how many values are at most that.
    through: Vec<(u64, u128)>,
}

impl Curve {
    fn of(latency: &Latency) -> Self {
        let mut buckets = latency.buckets.clone();
        buckets.sort_unstable();
        let mut sum = 0_u128;
        let through = buckets
            .into_iter()
            .map(|(ns, count)| {
                sum += u128::from(count);
                (ns, sum)
            })
            .collect();
        Self { through }
    }

    /// Latency at each step of the nines axis, as far as the number of values carries.
    fn points(&self) -> Vec<Point> {
        let total = self.through.last().map_or(0, |last| last.1);
        if total == 0 {
            return Vec::new();
        }
        let nines = (total as f64).log10().clamp(1.0, NINES_MAX);
        let steps = (nines * STEPS_PER_NINE as f64).floor() as usize;
        (0..=steps)
            .map(|step| {
                let nines = step as f64 / STEPS_PER_NINE as f64;
                (nines, self.at(1.0 - 10_f64.powf(-nines), total))
            })
            .collect()
    }

    fn at(&self, quantile: f64, total: u128) -> f64 {
        let rank = ((quantile * total as f64).ceil() as u128).clamp(1, total);
        let at = self.through.partition_point(|(_, through)| *through < rank);
        self.through.get(at).map_or(f64::NAN, |(ns, _)| *ns as f64)
    }
}

/// The outline of bins of equal ratio: share of all values in each.
fn binned<'a>(latencies: impl Iterator<Item = &'a Latency>, (low, high): (f64, f64)) -> Vec<Point> {
    if high <= 0.0 {
        return Vec::new();
    }
    let low = low.max(1.0);
    // A single value still gets bins to stand among.
    let high = high.max(low * 1.2);
    let ratio = (high / low).ln() / BINS as f64;
    let (mut bins, mut total) = ([0.0; BINS], 0.0);
    for (ns, count) in latencies.flat_map(|latency| &latency.buckets) {
        let bin = ((*ns as f64 / low).ln() / ratio).clamp(0.0, BINS as f64 - 1.0) as usize;
        bins[bin] += *count as f64;
        total += *count as f64;
    }
    if total <= 0.0 {
        return Vec::new();
    }
    let edge = |at: usize| low * (ratio * at as f64).exp();
    let mut outline = vec![(edge(0), 0.0)];
    for (at, count) in bins.iter().enumerate() {
        outline.push((edge(at), count / total));
        outline.push((edge(at + 1), count / total));
    }
    outline.push((edge(BINS), 0.0));
    outline
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn sources(run: &crate::results::Run) -> Vec<Source<'_>> {
        Measured::all(run).into_iter().map(Source::new).collect()
    }

    #[test]
    fn a_curve_passes_through_the_percentiles() {
        let latency = Latency { buckets: vec![(10, 50), (20, 49), (30, 1)], ..Latency::default() };
        let curve = Curve::of(&latency);
        let at = |quantile| curve.at(quantile, 100);
        assert_eq!([at(0.0), at(0.5), at(0.51), at(0.99), at(0.995)], [10.0, 10.0, 20.0, 20.0, 30.0]);
        assert_eq!(curve.points().last().unwrap().0, 2.0);
        assert!(Curve::of(&Latency::default()).points().is_empty());
    }

    #[test]
    fn the_median_of_repetitions_is_taken_point_by_point() {
        let lines = [
            vec![(0.0, 1.0), (1.0, 5.0), (2.0, 7.0)],
            vec![(0.0, 3.0), (1.0, 6.0)],
            vec![(0.0, 2.0), (1.0, 1.0)],
        ];
        assert_eq!(median(&lines), [(0.0, 2.0), (1.0, 5.0), (2.0, 7.0)]);
    }

    #[test]
    fn one_source_has_two_colours_and_two_sources_have_one_each() {
        let run = sample::run();
        let alone = percentiles(&sources(&run));
        assert_eq!(
            alone.series.iter().map(|s| (s.colour, s.dashed)).collect::<Vec<_>>(),
            [(0, false), (1, true)]
        );
        assert_eq!(alone.series[0].thin.len(), 3);
        let run = sample::pair();
        let pair = percentiles(&sources(&run));
        assert_eq!(pair.series.iter().map(|s| s.colour).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert!(pair.series[3].name.contains("ceiling-coalesced") && pair.series[3].dashed);
    }

    #[test]
    fn a_second_that_nobody_wrote_down_shifts_none_of_the_others() {
        let mut run = sample::run();
        for repetition in &mut run.repetitions {
            repetition.seconds.remove(3);
            repetition.seconds[10].at_s = u64::MAX;
        }
        let plot = throughput(&sources(&run));
        let line = &plot.series[0].thick;
        assert!(line[3].1.is_nan() && line[11].1.is_nan() && line[12].1 > 0.0);
        assert_eq!(line.last().unwrap().0, 29.0);
    }

    #[test]
    fn what_comes_after_the_end_is_no_second_of_the_measurement() {
        let mut run = sample::run();
        for repetition in &mut run.repetitions {
            repetition.elapsed_ns = 28_500_000_000;
        }
        assert_eq!(throughput(&sources(&run)).series[0].thick.last().unwrap().0, 27.0);
        assert_eq!(latency_over_time(&sources(&run)).series[0].thick.last().unwrap().0, 29.0);
    }

    #[test]
    fn shares_of_the_histogram_add_up_to_one() {
        let run = sample::run();
        let plot = histogram(&sources(&run));
        let sum: f64 = plot.series[0].thick[1..].chunks_exact(2).map(|bin| bin[0].1).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn what_was_not_measured_has_no_plot_and_what_was_lost_has_one() {
        let mut run = sample::run();
        assert!(losses(&sources(&run)).is_none() && server_cpu(&sources(&run)).is_some());
        run.repetitions[0].seconds[4].lost = 2;
        run.repetitions[2].seconds[4].lost = 3;
        assert_eq!(losses(&sources(&run)).unwrap().series[0].thick[4], (4.0, 5.0));
        for second in run.repetitions.iter_mut().flat_map(|r| &mut r.seconds) {
            (second.server_cpu_ns, second.server_rss_bytes) = (None, None);
        }
        assert!(server_cpu(&sources(&run)).is_none() && server_memory(&sources(&run)).is_none());
    }

    #[test]
    fn a_limited_generator_is_stamped_on_every_plot() {
        let run = sample::limited();
        let sources = sources(&run);
        for plot in [
            Some(percentiles(&sources)),
            Some(latency_over_time(&sources)),
            Some(throughput(&sources)),
            Some(histogram(&sources)),
            server_cpu(&sources),
            server_memory(&sources),
        ] {
            assert!(plot.unwrap().svg(false).into_string().contains(STAMP));
        }
    }
}
