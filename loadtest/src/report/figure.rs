//! The closed list of figures that summaries, reports, comparisons and conditions speak of.
//!
//! Invariants: a figure has one name, one unit and one meaning everywhere; a figure that a repetition does
//! not know is absent, never zero. A figure that counts trouble (losses, refusals) holds for a run when it
//! holds for any repetition, so it is summed; every other figure of a run is the median of its repetitions.
#![forbid(unsafe_code)]

use super::quantity::Quantity;
use crate::results::{Alerts as AlertResults, Latency, Repetition, Run, Spread};

/// Which way a figure is good, and the words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// A shorter time, or more work in the same time.
    Faster {
        /// Whether the larger value is the faster one.
        larger: bool,
    },
    /// Less of something that is paid for: CPU, memory.
    Less,
    /// Fewer of something that should not happen.
    Fewer,
    /// Neither: it describes the run.
    Neither,
}

/// Where a figure stands in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Times of deliveries.
    Latency,
    /// Times and losses of alerts.
    Alerts,
    /// What was carried.
    Throughput,
    /// What was not carried, or told as skipped.
    Losses,
    /// What the server used.
    Server,
    /// What the generator used.
    Generator,
    /// Handshakes.
    Connects,
    /// Readers that never read.
    Slow,
}

impl Section {
    /// In the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::Latency,
        Self::Alerts,
        Self::Throughput,
        Self::Losses,
        Self::Server,
        Self::Generator,
        Self::Connects,
        Self::Slow,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Latency => "Latency",
            Self::Alerts => "Alerts",
            Self::Throughput => "Throughput",
            Self::Losses => "Losses",
            Self::Server => "Server",
            Self::Generator => "Generator",
            Self::Connects => "Connects",
            Self::Slow => "Slow readers",
        }
    }
}

/// One figure of a repetition.
#[derive(Debug)]
pub struct Figure {
    /// As written in `--fail-if`.
    pub name: &'static str,
    /// As written in tables.
    pub title: &'static str,
    /// Its kind, and so its unit.
    pub quantity: Quantity,
    /// Which way it is good.
    pub better: Better,
    /// Where it stands in tables.
    pub section: Section,
    of: fn(&Repetition) -> Option<f64>,
}

impl PartialEq for Figure {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// All figures of one target in one run.
#[derive(Debug, Clone)]
pub struct Measured<'a> {
    /// The target's name.
    pub target: &'a str,
    /// Its repetitions, in order.
    pub repetitions: Vec<&'a Repetition>,
}

impl Figure {
    /// The figure called `name`.
    pub fn named(name: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.name == name)
    }

    /// Its value in one repetition, in the base unit.
    pub fn of(&self, repetition: &Repetition) -> Option<f64> {
        (self.of)(repetition).filter(|value| value.is_finite())
    }

    /// Median, smallest and largest over the repetitions that know it.
    pub fn spread(&self, measured: &Measured<'_>) -> Option<Spread> {
        Spread::of(&self.values(measured))
    }

    /// Its value for a run: the sum of trouble, the median of everything else.
    pub fn value(&self, measured: &Measured<'_>) -> Option<f64> {
        let values = self.values(measured);
        if self.summed() {
            return (!values.is_empty()).then(|| values.iter().sum());
        }
        Spread::of(&values).map(|spread| spread.median)
    }

    /// Whether a single repetition that has it spoils the run.
    pub fn summed(&self) -> bool {
        self.better == Better::Fewer
    }

    /// A value of it, in words.
    pub fn write(&self, value: f64) -> String {
        self.quantity.write(value)
    }

    pub(super) fn values(&self, measured: &Measured<'_>) -> Vec<f64> {
        measured.repetitions.iter().filter_map(|repetition| self.of(repetition)).collect()
    }
}

impl<'a> Measured<'a> {
    /// One for each target of the run, in order of first appearance.
    pub fn all(run: &'a Run) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for repetition in &run.repetitions {
            match all.iter_mut().find(|measured| measured.target == repetition.target) {
                Some(measured) => measured.repetitions.push(repetition),
                None => all.push(Self { target: &repetition.target, repetitions: vec![repetition] }),
            }
        }
        all
    }

    /// The target the run is about: the first that is not a ceiling, else the first.
    pub fn main(run: &'a Run) -> Option<Self> {
        let mut all = Self::all(run);
        let at = all.iter().position(|measured| !is_ceiling(measured.target)).unwrap_or(0);
        (at < all.len()).then(|| all.swap_remove(at))
    }

    /// How many repetitions spoke of the generator rather than of the server, and the first reason.
    pub fn limited(&self) -> Option<(usize, &'a str)> {
        let mut limited = self.repetitions.iter().filter(|r| r.generator.generator_limited);
        let first = limited.next()?;
        Some((limited.count() + 1, &first.generator.reason))
    }
}

/// Whether `target` is the bare server that others are compared with.
pub(super) fn is_ceiling(target: &str) -> bool {
    target.starts_with("ceiling")
}

const FASTER: Better = Better::Faster { larger: false };
const MORE: Better = Better::Faster { larger: true };

const fn figure(
    name: &'static str,
    title: &'static str,
    section: Section,
    quantity: Quantity,
    better: Better,
    of: fn(&Repetition) -> Option<f64>,
) -> Figure {
    Figure { name, title, quantity, better, section, of }
}

fn time(latency: Option<&Latency>, of: fn(&Latency) -> u64) -> Option<f64> {
    latency.filter(|l| l.count > 0).map(|l| of(l) as f64)
}

fn alert(
    r: &Repetition,
    kind: fn(&AlertResults) -> Option<&Latency>,
    of: fn(&Latency) -> u64,
) -> Option<f64> {
    time(r.alerts.as_ref().and_then(kind), of)
}

fn alert_count(r: &Repetition, of: fn(&AlertResults) -> u64) -> Option<f64> {
    r.alerts.as_ref().map(|alerts| of(alerts) as f64)
}

fn per_second(count: u64, r: &Repetition) -> Option<f64> {
    (r.elapsed_ns > 0).then(|| count as f64 * 1e9 / r.elapsed_ns as f64)
}

const FELT: fn(&AlertResults) -> Option<&Latency> = |alerts| alerts.as_felt.as_ref();
const LAST: fn(&AlertResults) -> Option<&Latency> = |alerts| alerts.last_subscriber.as_ref();

/// Every figure, in the order of the tables.
pub static FIGURES: &[Figure] = {
    use Better::{Fewer, Less, Neither};
    use Quantity::{ByteRate, Bytes, Count, Plain, Rate, Share, Time};
    use Section::{Alerts, Connects, Generator, Losses, Server, Slow, Throughput};
    &[
        figure("p50", "p50 as felt", Section::Latency, Time, FASTER, |r| {
            time(r.as_felt.as_ref(), |l| l.p50_ns)
        }),
        figure("p90", "p90 as felt", Section::Latency, Time, FASTER, |r| {
            time(r.as_felt.as_ref(), |l| l.p90_ns)
        }),
        figure("p99", "p99 as felt", Section::Latency, Time, FASTER, |r| {
            time(r.as_felt.as_ref(), |l| l.p99_ns)
        }),
        figure("p999", "p99.9 as felt", Section::Latency, Time, FASTER, |r| {
            time(r.as_felt.as_ref(), |l| l.p999_ns)
        }),
        figure("max", "max as felt", Section::Latency, Time, FASTER, |r| {
            time(r.as_felt.as_ref(), |l| l.max_ns)
        }),
        figure("service_p50", "p50 service only", Section::Latency, Time, FASTER, |r| {
            time(r.service_only.as_ref(), |l| l.p50_ns)
        }),
        figure("service_p90", "p90 service only", Section::Latency, Time, FASTER, |r| {
            time(r.service_only.as_ref(), |l| l.p90_ns)
        }),
        figure("service_p99", "p99 service only", Section::Latency, Time, FASTER, |r| {
            time(r.service_only.as_ref(), |l| l.p99_ns)
        }),
        figure("service_p999", "p99.9 service only", Section::Latency, Time, FASTER, |r| {
            time(r.service_only.as_ref(), |l| l.p999_ns)
        }),
        figure("service_max", "max service only", Section::Latency, Time, FASTER, |r| {
            time(r.service_only.as_ref(), |l| l.max_ns)
        }),
        figure("last_p50", "p50 to the last subscriber", Section::Latency, Time, FASTER, |r| {
            time(r.last_subscriber.as_ref(), |l| l.p50_ns)
        }),
        figure("last_p99", "p99 to the last subscriber", Section::Latency, Time, FASTER, |r| {
            time(r.last_subscriber.as_ref(), |l| l.p99_ns)
        }),
        figure("last_max", "max to the last subscriber", Section::Latency, Time, FASTER, |r| {
            time(r.last_subscriber.as_ref(), |l| l.max_ns)
        }),
        figure("alert_p50", "alerts, p50 as felt", Alerts, Time, FASTER, |r| alert(r, FELT, |l| l.p50_ns)),
        figure("alert_p99", "alerts, p99 as felt", Alerts, Time, FASTER, |r| alert(r, FELT, |l| l.p99_ns)),
        figure("alert_p999", "alerts, p99.9 as felt", Alerts, Time, FASTER, |r| {
            alert(r, FELT, |l| l.p999_ns)
        }),
        figure("alert_max", "alerts, max as felt", Alerts, Time, FASTER, |r| alert(r, FELT, |l| l.max_ns)),
        figure("alert_last_p50", "alerts, p50 to the last subscriber", Alerts, Time, FASTER, |r| {
            alert(r, LAST, |l| l.p50_ns)
        }),
        figure("alert_last_p99", "alerts, p99 to the last subscriber", Alerts, Time, FASTER, |r| {
            alert(r, LAST, |l| l.p99_ns)
        }),
        figure("alert_last_p999", "alerts, p99.9 to the last subscriber", Alerts, Time, FASTER, |r| {
            alert(r, LAST, |l| l.p999_ns)
        }),
        figure("alert_last_max", "alerts, max to the last subscriber", Alerts, Time, FASTER, |r| {
            alert(r, LAST, |l| l.max_ns)
        }),
        figure("alerts", "alerts published", Alerts, Count, Neither, |r| alert_count(r, |a| a.published)),
        figure("alert_lost", "alerts lost", Alerts, Count, Fewer, |r| alert_count(r, |a| a.lost)),
        figure("alert_duplicated", "alerts duplicated or out of order", Alerts, Count, Fewer, |r| {
            alert_count(r, |a| a.duplicated)
        }),
        figure("alert_lag_p99", "alerts, schedule lag p99", Alerts, Time, Less, |r| {
            alert_count(r, |a| a.schedule_lag_p99_ns)
        }),
        figure("deliveries_per_s", "deliveries a second", Throughput, Rate, MORE, |r| {
            (r.expected > 0).then_some(r.deliveries_per_s)
        }),
        figure("published_per_s", "messages published a second", Throughput, Rate, Neither, |r| {
            (r.published > 0).then_some(r.achieved_per_s)
        }),
        figure("deliveries", "deliveries", Throughput, Count, Neither, |r| {
            (r.expected > 0).then_some(r.delivered as f64)
        }),
        figure("wire_bytes_per_s", "bytes on the wire, counted", Throughput, ByteRate, Neither, |r| {
            (r.wire_bytes > 0).then(|| per_second(r.wire_bytes, r))?
        }),
        figure("bytes_per_delivery", "bytes in a delivery", Throughput, Bytes, Less, |r| {
            (r.delivered > 0 && r.wire_bytes > 0).then(|| r.wire_bytes as f64 / r.deliveries() as f64)
        }),
        figure("messages_per_send", "messages in a send", Throughput, Plain, Neither, |r| {
            r.sends.as_ref().filter(|s| s.sends > 0).map(|s| s.messages_per_send)
        }),
        figure("bytes_per_send", "bytes in a send", Throughput, Bytes, Neither, |r| {
            r.sends.as_ref().filter(|s| s.sends > 0).map(|s| s.bytes_per_send)
        }),
        figure("lost", "lost without notice", Losses, Count, Fewer, |r| Some(r.lost as f64)),
        figure("duplicated", "duplicated or out of order", Losses, Count, Fewer, |r| {
            Some(r.duplicated as f64)
        }),
        figure("gaps", "told as gaps", Losses, Count, Fewer, |r| Some(r.gaps_told as f64)),
        figure("conflated", "told as conflated", Losses, Count, Neither, |r| Some(r.conflated_told as f64)),
        figure("filtered", "told as filtered", Losses, Count, Neither, |r| Some(r.filtered_told as f64)),
        figure("unaccounted", "events by which accounts are off", Losses, Count, Fewer, |r| {
            r.account.as_ref().map(|account| account.unaccounted as f64)
        }),
        figure("misordered", "frames and notices out of their turn", Losses, Count, Fewer, |r| {
            r.account.as_ref().map(|account| account.misordered as f64)
        }),
        figure("refused", "publishes refused", Losses, Count, Fewer, |r| Some(r.publishes_refused as f64)),
        figure("disconnected", "connections ended", Losses, Count, Fewer, |r| Some(r.disconnected as f64)),
        figure("server_cpu", "CPU of the server", Server, Share, Less, |r| {
            r.server.as_ref().filter(|_| r.elapsed_ns > 0).map(|s| s.cpu_s * 1e9 / r.elapsed_ns as f64)
        }),
        figure("cpu_per_delivery", "CPU per delivery", Server, Time, Less, |r| {
            r.server.as_ref().and_then(|s| s.cpu_per_delivery_ns)
        }),
        figure("rss", "resident memory after the run", Server, Bytes, Less, |r| {
            r.server.as_ref().map(|s| s.rss_after_bytes as f64)
        }),
        figure("rss_peak", "resident memory, peak", Server, Bytes, Less, |r| {
            r.server.as_ref().map(|s| s.rss_peak_bytes as f64)
        }),
        figure("memory_per_connection", "memory of a connection", Server, Bytes, Less, |r| {
            r.server.as_ref().and_then(|s| s.kib_per_connection).map(|kib| kib * 1024.0)
        }),
        figure("idle_cpu", "CPU of an idle connection, each second", Server, Time, Less, |r| {
            r.server.as_ref().and_then(|s| s.idle_cpu_per_connection_ns)
        }),
        figure("context_switches", "context switches", Server, Count, Less, |r| {
            r.server.as_ref().and_then(|s| s.context_switches).map(|n| n as f64)
        }),
        figure("schedule_lag_p99", "schedule lag p99", Generator, Time, Less, |r| {
            r.offered_per_s.map(|_| r.generator.schedule_lag_p99_ns as f64)
        }),
        figure("schedule_lag_max", "schedule lag max", Generator, Time, Less, |r| {
            r.offered_per_s.map(|_| r.generator.schedule_lag_max_ns as f64)
        }),
        figure("generator_cpu", "CPU of the generator", Generator, Share, Neither, |r| {
            Some(r.generator.cpu_share)
        }),
        figure("generator_limited", "repetitions limited by the generator", Generator, Count, Fewer, |r| {
            Some(f64::from(u8::from(r.generator.generator_limited)))
        }),
        figure("upgrades_per_s", "upgrades a second", Connects, Rate, MORE, |r| {
            r.connects.as_ref().map(|c| c.upgrades_per_s)
        }),
        figure("upgrades_failed", "upgrades failed", Connects, Count, Fewer, |r| {
            r.connects.as_ref().map(|c| c.failed as f64)
        }),
        figure("connect_p50", "connect p50", Connects, Time, FASTER, |r| {
            time(r.connects.as_ref().and_then(|c| c.time.as_ref()), |l| l.p50_ns)
        }),
        figure("connect_p99", "connect p99", Connects, Time, FASTER, |r| {
            time(r.connects.as_ref().and_then(|c| c.time.as_ref()), |l| l.p99_ns)
        }),
        figure("slow_memory", "memory of a slow reader", Slow, Bytes, Less, |r| {
            r.slow.as_ref().and_then(|s| s.bytes_each)
        }),
        figure("slow_p99_ratio", "p99 of the others, with / without slow readers", Slow, Plain, Less, |r| {
            r.slow.as_ref().and_then(|s| s.p99_ratio)
        }),
        figure("slow_disconnected", "slow readers disconnected", Slow, Count, Neither, |r| {
            r.slow.as_ref().map(|s| s.disconnected as f64)
        }),
    ]
};

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn names_are_unique_and_safe_to_type() {
        for (at, figure) in FIGURES.iter().enumerate() {
            assert!(figure.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(!FIGURES[..at].contains(figure), "{} is listed twice", figure.name);
        }
    }

    #[test]
    fn trouble_in_one_repetition_is_trouble_of_the_run() {
        let mut run = sample::run();
        run.repetitions[1].lost = 3;
        let measured = Measured::main(&run).unwrap();
        let lost = Figure::named("lost").unwrap();
        assert_eq!(lost.value(&measured), Some(3.0));
        assert_eq!(lost.spread(&measured).unwrap().median, 0.0);
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let unknown = Repetition::default();
        for name in [
            "p50",
            "deliveries_per_s",
            "server_cpu",
            "schedule_lag_p99",
            "wire_bytes_per_s",
            "alert_p99",
            "alert_lost",
            "unaccounted",
            "misordered",
        ] {
            assert_eq!(Figure::named(name).unwrap().of(&unknown), None, "{name}");
        }
    }

    #[test]
    fn a_pair_run_is_about_the_target_that_is_no_ceiling() {
        let run = sample::pair();
        assert_eq!(Measured::all(&run).len(), 2);
        assert_eq!(Measured::main(&run).unwrap().target, "tickcast");
        assert!(Measured::main(&Run::default()).is_none());
    }
}
