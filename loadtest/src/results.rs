//! What a run found, as it is written to JSON and read back by reports and comparisons.
//!
//! Invariants: every figure was counted or measured in the run that carries it, never computed from a
//! parameter; what could not be known is absent (`None`), never zero; times are nanoseconds unless the name
//! says otherwise. Fields may be added, with a default; a field that changes its meaning changes [`SCHEMA`].

use serde::{Deserialize, Serialize};

/// Version of this shape. A reader refuses a newer one by name.
pub const SCHEMA: u32 = 1;

/// One invocation: the parameters, the machine, and every repetition that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// What the user called this run (`--name`); the profile's name otherwise.
    pub name: String,
    /// The profile as it was run, every parameter resolved.
    pub profile: ProfileFacts,
    /// The full command line, one argument an element.
    pub command: Vec<String>,
    /// Start of the first repetition, RFC 3339.
    pub started_at: String,
    /// Where it ran.
    pub machine: Machine,
    /// What ran.
    pub versions: Versions,
    /// In the order they were measured. In a pair run the targets alternate.
    pub repetitions: Vec<Repetition>,
    /// Medians and ratios of a pair run; empty when only one target was measured.
    #[serde(default)]
    pub comparisons: Vec<Comparison>,
    /// Sentences a reader must know (limits that were raised, a governor that could not be read).
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The plan: what the generator was told to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileFacts {
    /// `sat1k`, `fan1k`, ... or `custom`.
    pub name: String,
    /// One sentence on what the profile measures.
    pub about: String,
    /// How messages are paced.
    pub pacing: Pacing,
    /// Connections that subscribe and read.
    pub subscribers: u64,
    /// Connections that subscribe and never read.
    pub slow_readers: u64,
    /// Connections that publish.
    pub publishers: u64,
    /// Topics published to.
    pub topics: u64,
    /// Topics each subscriber asks for.
    pub topics_per_subscriber: u64,
    /// Size of a published frame in bytes, header included.
    pub frame_bytes: u64,
    /// Message type on the wire, such as `public_trade`.
    pub message_type: String,
    /// How many subscribers speak each format.
    pub formats: Vec<FormatShare>,
    /// Time measured in each repetition.
    pub measure_ns: u64,
    /// Time before that whose messages are not counted.
    pub warm_up_ns: u64,
    /// Delivery class asked for at subscribe, when it is not the type's own.
    #[serde(default)]
    pub class: Option<String>,
    /// Distance of two alerts, where alerts are published beside the messages.
    #[serde(default)]
    pub alert_every_ns: Option<u64>,
    /// Whether the account of every subscriber was checked, which costs the generator time.
    #[serde(default)]
    pub accounts: bool,
    /// Every flag that differed from the profile's table, as `name=value`.
    #[serde(default)]
    pub overrides: Vec<String>,
}

/// How messages are paced.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Pacing {
    /// Nothing is published.
    #[default]
    None,
    /// Open loop: planned at even distances, whatever the server does.
    Rate {
        /// Messages a second over all topics.
        per_second: f64,
    },
    /// Open loop: `messages` back to back, every `every_ns`.
    Bursts {
        /// Messages in one burst.
        messages: u64,
        /// Distance between the planned starts of two bursts.
        every_ns: u64,
    },
    /// Closed loop: at most so many messages that the slowest subscriber has not received.
    Window {
        /// Messages in flight.
        in_flight: u64,
    },
    /// Connections opened one after another, at most so many at once.
    Connects {
        /// Handshakes in flight.
        in_flight: u64,
    },
}

/// Subscribers of one format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FormatShare {
    /// `binary`, `d1-snake`, `d1-camel`, ...
    pub format: String,
    /// How many subscribers speak it.
    pub subscribers: u64,
}

/// Facts of the machine, read from /proc and /sys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub cpu_model: String,
    /// Processors online.
    pub cores: u64,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor, where the machine tells it.
    pub governor: Option<String>,
    /// Soft limit of open descriptors in force during the run.
    pub descriptors_max: u64,
    /// Physical memory.
    pub memory_bytes: u64,
    /// Name of the host.
    #[serde(default)]
    pub host: String,
    /// Load average over one minute when the run started: a noisy machine shows here.
    #[serde(default)]
    pub load_average: Option<f64>,
    /// Core the generator was pinned to.
    #[serde(default)]
    pub generator_core: Option<u64>,
    /// Core the server was pinned to, when this run started it.
    #[serde(default)]
    pub server_core: Option<u64>,
}

/// What ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of the generator.
    pub loadtest: String,
    /// Commit the generator's working directory was at, with `-dirty` when it had changes.
    pub commit: Option<String>,
    /// What the server calls itself, when it says.
    pub server: Option<String>,
}

/// One target, measured once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Repetition {
    /// `tickcast`, `ceiling-single`, `ceiling-coalesced`, or the address of any other server.
    pub target: String,
    /// Counted from 1 for each target.
    pub number: u64,
    /// Start, RFC 3339.
    pub started_at: String,
    /// Time that was measured.
    pub elapsed_ns: u64,

    /// Messages a second the plan asked for; absent in closed loops.
    pub offered_per_s: Option<f64>,
    /// Messages a second that were really sent.
    pub achieved_per_s: f64,
    /// Messages published.
    pub published: u64,
    /// Deliveries that published messages should make.
    pub expected: u64,
    /// Deliveries received.
    pub delivered: u64,
    /// Deliveries that never came and that no notice told of.
    pub lost: u64,
    /// Deliveries received more than once or out of order.
    #[serde(default)]
    pub duplicated: u64,
    /// Messages that the server told a subscriber it had lost (gap notices).
    pub gaps_told: u64,
    /// Messages that the server told a subscriber it had merged.
    pub conflated_told: u64,
    /// Messages that the server told a subscriber its filter held back.
    pub filtered_told: u64,
    /// Deliveries a second, over the measured time.
    pub deliveries_per_s: f64,
    /// Bytes read by all subscribers during the measured time, WebSocket heads included.
    pub wire_bytes: u64,
    /// The same for each format.
    #[serde(default)]
    pub by_format: Vec<FormatResult>,
    /// Publishes the server refused.
    #[serde(default)]
    pub publishes_refused: u64,
    /// Connections the server ended during the measurement.
    #[serde(default)]
    pub disconnected: u64,

    /// Latency of each delivery from the time its message was planned for: what a user feels.
    pub as_felt: Option<Latency>,
    /// Latency of each delivery from the time its message was really sent.
    pub service_only: Option<Latency>,
    /// From the planned time of a message to its arrival at the last of its subscribers.
    pub last_subscriber: Option<Latency>,
    /// From the actual send of a message to its arrival at the last of its subscribers.
    #[serde(default)]
    pub last_subscriber_service: Option<Latency>,
    /// One entry a second of the measured time.
    pub seconds: Vec<Second>,

    /// What the generator knows of itself.
    pub generator: Generator,
    /// What /proc says of the server; absent when it runs on another machine.
    pub server: Option<ServerUse>,
    /// What the server counted of its own sends, when it says.
    pub sends: Option<Sends>,
    /// Connects, in profiles that measure them; the connect phase of the others.
    pub connects: Option<Connects>,
    /// Slow readers, in profiles that have them.
    pub slow: Option<SlowReaders>,
    /// Alerts beside the messages, in profiles that have them. They count in none of the figures above but
    /// [`Repetition::wire_bytes`] and what is divided by deliveries.
    #[serde(default)]
    pub alerts: Option<Alerts>,
    /// The accounts of all subscribers, when they were checked.
    #[serde(default)]
    pub account: Option<Account>,
}

impl Repetition {
    /// Deliveries received, alerts included.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.delivered.saturating_add(self.alerts.as_ref().map_or(0, |alerts| alerts.delivered))
    }
}

/// Critical messages that were published beside the others, open loop, to every subscriber that reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alerts {
    /// Alerts published.
    pub published: u64,
    /// Deliveries due.
    pub expected: u64,
    /// Deliveries received.
    pub delivered: u64,
    /// Deliveries that never came. No notice excuses them: an alert is never conflated and never gapped.
    pub lost: u64,
    /// Deliveries received more than once or out of order.
    pub duplicated: u64,
    /// Latency of each delivery from the time its alert was planned for.
    pub as_felt: Option<Latency>,
    /// Latency of each delivery from the time its alert was really sent.
    pub service_only: Option<Latency>,
    /// From the planned time of an alert to its arrival at the last subscriber.
    pub last_subscriber: Option<Latency>,
    /// From the actual send of an alert to its arrival at the last subscriber.
    pub last_subscriber_service: Option<Latency>,
    /// How late alerts were sent after their planned time, 99th percentile.
    pub schedule_lag_p99_ns: u64,
    /// The largest such lateness.
    pub schedule_lag_max_ns: u64,
}

/// The accounts of all subscribers, summed: from the first message of the warm-up to the end of the run, alerts
/// included. When it is whole, `received + conflated + gapped + filtered = published`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Events published, once for each subscriber of theirs.
    pub published: u64,
    /// Events received in their turn.
    pub received: u64,
    /// Events that notices told as conflated.
    pub conflated: u64,
    /// Events that notices told as gapped.
    pub gapped: u64,
    /// Events that notices or heartbeats told as filtered.
    pub filtered: u64,
    /// Events by which accounts are off: neither received nor told of, or told of and never published.
    pub unaccounted: u64,
    /// Frames and notices that came again, out of order, for a stream that was not announced, or with counts
    /// that do not fit their range.
    pub misordered: u64,
}

impl Account {
    /// Whether every event is accounted for, and came in its turn.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let parts = [self.conflated, self.gapped, self.filtered];
        let sum = parts.into_iter().fold(self.received, u64::saturating_add);
        self.unaccounted == 0 && self.misordered == 0 && sum == self.published
    }

    /// Adds the accounts of another run.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.published, other.published),
            (&mut self.received, other.received),
            (&mut self.conflated, other.conflated),
            (&mut self.gapped, other.gapped),
            (&mut self.filtered, other.filtered),
            (&mut self.unaccounted, other.unaccounted),
            (&mut self.misordered, other.misordered),
        ];
        for (count, more) in pairs {
            *count = count.saturating_add(more);
        }
    }
}

/// Deliveries of one format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FormatResult {
    /// `binary`, `d1-snake`, ...
    pub format: String,
    /// Deliveries received.
    pub delivered: u64,
    /// Bytes read by its subscribers.
    pub wire_bytes: u64,
    /// Mean bytes of a delivery, WebSocket head included.
    pub bytes_per_delivery: f64,
    /// Latency from the planned time.
    pub as_felt: Option<Latency>,
}

/// A distribution of times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Values recorded.
    pub count: u64,
    /// Smallest.
    pub min_ns: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Half were at most this.
    pub p50_ns: u64,
    /// Nine in ten were at most this.
    pub p90_ns: u64,
    /// 99 in 100 were at most this.
    pub p99_ns: u64,
    /// 999 in 1,000 were at most this.
    pub p999_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Every bucket of the HDR histogram that holds a value, ascending: the highest value of the bucket in
    /// nanoseconds, and how many values fell in it.
    pub buckets: Vec<(u64, u64)>,
}

/// One second of the measured time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the measurement began.
    pub at_s: u64,
    /// Deliveries received in it.
    pub delivered: u64,
    /// Messages published in it.
    #[serde(default)]
    pub published: u64,
    /// Median latency from the planned time; 0 when nothing arrived.
    pub p50_ns: u64,
    /// 99th percentile from the planned time; 0 when nothing arrived.
    pub p99_ns: u64,
    /// Missing deliveries discovered in it.
    pub lost: u64,
    /// CPU time the server used in it.
    #[serde(default)]
    pub server_cpu_ns: Option<u64>,
    /// Resident memory of the server at its end.
    #[serde(default)]
    pub server_rss_bytes: Option<u64>,
}

/// What the generator knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// How late messages were sent after their planned time, 99th percentile; 0 in closed loops.
    pub schedule_lag_p99_ns: u64,
    /// The largest such lateness.
    pub schedule_lag_max_ns: u64,
    /// CPU the generator's thread used, as a share of the measured time (1.0 = a whole core).
    pub cpu_share: f64,
    /// Whether the figures speak of the generator rather than of the server.
    pub generator_limited: bool,
    /// Why, in a sentence; empty when it was not.
    pub reason: String,
    /// read() calls made on subscriber sockets.
    #[serde(default)]
    pub reads: u64,
}

/// What /proc says of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerUse {
    /// Process measured.
    pub pid: u32,
    /// CPU seconds, user and system, during the measured time.
    pub cpu_s: f64,
    /// Of that, in the kernel.
    pub cpu_system_s: f64,
    /// Share of one core over the measured time.
    #[serde(default)]
    pub cpu_share: f64,
    /// CPU time divided by deliveries.
    pub cpu_per_delivery_ns: Option<f64>,
    /// Resident memory before the first connection.
    pub rss_before_bytes: u64,
    /// Resident memory with all connections, before the first message.
    #[serde(default)]
    pub rss_connected_bytes: u64,
    /// Resident memory after the measurement.
    pub rss_after_bytes: u64,
    /// Largest seen.
    pub rss_peak_bytes: u64,
    /// Anonymous resident memory after the measurement.
    #[serde(default)]
    pub rss_anon_bytes: u64,
    /// Proportional set size after the measurement, where readable.
    #[serde(default)]
    pub pss_bytes: Option<u64>,
    /// Growth of anonymous memory from before the first connection to all connections at rest, divided by
    /// connections.
    pub kib_per_connection: Option<f64>,
    /// CPU time of one idle connection for one second; only in `idle`.
    #[serde(default)]
    pub idle_cpu_per_connection_ns: Option<f64>,
    /// Voluntary and forced context switches during the measured time.
    #[serde(default)]
    pub context_switches: Option<u64>,
}

/// What the server counted of its own sends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sends {
    /// Calls that handed bytes to the kernel.
    pub sends: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Messages in a send, on average.
    pub messages_per_send: f64,
    /// Bytes in a send, on average.
    pub bytes_per_send: f64,
}

/// Connects and disconnects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connects {
    /// Upgrades that succeeded.
    pub upgrades: u64,
    /// Upgrades that failed or were refused.
    pub failed: u64,
    /// Upgrades a second.
    pub upgrades_per_s: f64,
    /// From connect() to the 101 answer (and to the acknowledged subscription, in `churn`).
    pub time: Option<Latency>,
}

/// Subscribers that never read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowReaders {
    /// How many there were.
    pub count: u64,
    /// Bytes the server holds for each of them, by growth of its memory or by its own account.
    pub bytes_each: Option<f64>,
    /// How that figure was obtained: `rss` or `server`.
    #[serde(default)]
    pub source: String,
    /// How many the server had disconnected by the end.
    pub disconnected: u64,
    /// p99 (as felt) of the readers in the same run without slow ones.
    #[serde(default)]
    pub p99_without_ns: Option<u64>,
    /// p99 with slow readers divided by p99 without.
    #[serde(default)]
    pub p99_ratio: Option<f64>,
}

/// One metric of two targets over all repetitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `deliveries_per_s`, `cpu_per_delivery_ns`, `p50_ns`, `p99_ns`, `last_subscriber_p50_ns`, ...
    pub metric: String,
    /// `/s`, `ns`, `KiB`, ...
    pub unit: String,
    /// The target measured.
    pub target: String,
    /// The target it is compared with.
    pub baseline: String,
    /// Over the repetitions of the target.
    pub of_target: Spread,
    /// Over the repetitions of the baseline.
    pub of_baseline: Spread,
    /// Median of the target divided by median of the baseline.
    pub ratio_of_medians: f64,
    /// Ratio of each repetition to the baseline's repetition of the same number.
    pub paired: Spread,
}

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Middle value (mean of the two middle ones when even).
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min: first, max: last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_survives_json() {
        let run = Run {
            schema: SCHEMA,
            repetitions: vec![Repetition { target: "tickcast".into(), ..Repetition::default() }],
            ..Run::default()
        };
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&text).unwrap(), run);
    }

    #[test]
    fn a_run_from_before_there_were_alerts_and_accounts_is_read() {
        let mut run =
            serde_json::to_value(Run { repetitions: vec![Repetition::default()], ..Run::default() }).unwrap();
        let repetition = run["repetitions"][0].as_object_mut().unwrap();
        assert!(repetition.remove("alerts").is_some() && repetition.remove("account").is_some());
        let profile = run["profile"].as_object_mut().unwrap();
        assert!(profile.remove("alert_every_ns").is_some() && profile.remove("accounts").is_some());
        let read: Run = serde_json::from_value(run).unwrap();
        assert_eq!(read.repetitions, [Repetition::default()]);
    }

    #[test]
    fn an_account_is_whole_only_when_its_parts_are_its_sum() {
        let whole = Account {
            published: 10,
            received: 6,
            conflated: 1,
            gapped: 2,
            filtered: 1,
            ..Account::default()
        };
        assert!(whole.is_whole());
        for broken in [
            Account { received: 5, ..whole },
            Account { unaccounted: 1, ..whole },
            Account { misordered: 1, ..whole },
        ] {
            assert!(!broken.is_whole(), "{broken:?}");
            let mut sum = whole;
            sum.add(&broken);
            assert!(!sum.is_whole(), "{sum:?}");
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }
}
