//! Every counter, explained once, and how a scrape reads them.
//!
//! Nothing here is touched for a delivery: shards count in their own single-writer cells
//! ([`tickcast_engine::stats`]), publishing counts in one cell a type, and everything else is a cold
//! path. A scrape copies all of them into a recorder of the `metrics` crate and renders it. Labels come
//! from closed sets: never a topic, a user or an address.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tickcast_protocol::registry;

use crate::config::KEYS;

/// Counts by one label from a closed set.
#[derive(Debug, Default)]
pub struct Labelled(Mutex<BTreeMap<&'static str, u64>>);

impl Labelled {
    /// One more of `label`.
    pub fn add(&self, label: &'static str) {
        self.add_many(label, 1);
    }

    /// `count` more of `label`.
    pub fn add_many(&self, label: &'static str, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(label).or_default() += count;
    }

    /// How many of `label` there were.
    #[must_use]
    pub fn get(&self, label: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(label).copied().unwrap_or(0)
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(k, v)| (*k, *v)).collect()
    }
}

/// Counts by message type: one cell each, no lock.
#[derive(Debug)]
pub struct ByType(Vec<AtomicU64>);

impl Default for ByType {
    fn default() -> Self {
        Self(registry::types().iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl ByType {
    /// One more of the type with this id.
    pub fn add(&self, type_id: u16) {
        if let Ok(at) = registry::types().binary_search_by_key(&type_id, |info| info.id) {
            self.0[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = registry::types().iter().zip(&self.0).filter(|(info, _)| info.is_data());
        counts.map(|(info, cell)| (info.name, cell.load(Ordering::Relaxed))).collect()
    }
}

/// Where messages come from, in the order of their numbers (`ingest::Source`).
pub const SOURCES: [&str; 5] = ["socket", "http", "feed", "own", "views"];

/// Counts by where a message came from: one cell each, no lock.
#[derive(Debug, Default)]
pub struct BySource([AtomicU64; SOURCES.len()]);

impl BySource {
    /// One more from the source with this number.
    pub fn add(&self, source: usize) {
        if let Some(cell) = self.0.get(source) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        SOURCES.into_iter().zip(self.0.iter().map(|cell| cell.load(Ordering::Relaxed))).collect()
    }
}

macro_rules! counters {
    ($( $(#[doc = $doc:literal])+ $field:ident: $kind:ident, $name:literal by $label:literal; )*) => {
        /// What the program counts outside the shards.
        #[derive(Debug, Default)]
        pub struct Counters { $( $(#[doc = $doc])+ pub $field: $kind, )* }

        impl Counters {
            fn describe() {
                $( describe_counter!($name, concat!($($doc),+).trim()); )*
            }

            fn record(&self) {
                $( for (label, count) in self.$field.all() {
                    counter!($name, $label => label).absolute(count);
                } )*
            }
        }
    };
}

counters! {
    /// Connections upgraded to WebSocket.
    opened: Labelled, "tickcast_connections_opened_total" by "format";
    /// Connections ended, by the close code sent or received; `none` when there was neither.
    closed: Labelled, "tickcast_connections_closed_total" by "code";
    /// Upgrades refused.
    handshake_failures: Labelled, "tickcast_handshake_failures_total" by "reason";
    /// Limits hit, by the key of the settings that sets them.
    limit_hits: Labelled, "tickcast_limit_hits_total" by "limit";
    /// Requests and frames refused with an error while the connection lived.
    errors: Labelled, "tickcast_errors_total" by "code";
    /// Messages accepted from publishers.
    received: ByType, "tickcast_messages_received_total" by "type";
    /// Where accepted messages came from.
    sources: BySource, "tickcast_messages_source_total" by "source";
    /// Messages refused to publishers.
    refused: Labelled, "tickcast_messages_refused_total" by "code";
    /// HTTP responses.
    http: Labelled, "tickcast_http_responses_total" by "status";
    /// Errors of feeds.
    feed_errors: Labelled, "tickcast_feed_errors_total" by "feed";
}

/// One figure of the shards, summed when asked.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name, `_total` at the end for a counter.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// The label that splits it, and its value, when it is split.
    pub label: Option<(&'static str, &'static str)>,
    /// The sum.
    pub value: u64,
}

/// The counters and the recorder they are scraped through.
pub struct Metrics {
    /// The counters.
    pub counters: Counters,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, Counters::describe);
        let counters = Counters::default();
        // Every limit has its series from the start, so that an alert rule never meets an absent one.
        for key in KEYS.iter().filter(|key| key.at_limit.is_some()) {
            counters.limit_hits.add_many(key.name, 0);
        }
        Self { counters, recorder, handle }
    }
}

impl Metrics {
    /// Counts a limit that was hit.
    pub fn limit_hit(&self, key: &'static str) {
        self.counters.limit_hits.add(key);
    }

    /// The text of a scrape.
    #[must_use]
    pub fn render(
        &self,
        figures: &[Figure],
        histograms: &[(&'static str, &'static str, &Histogram)],
    ) -> String {
        with_local_recorder(&self.recorder, || {
            describe_gauge!("tickcast_build_info", "The build that runs: always 1.");
            gauge!("tickcast_build_info", "version" => env!("CARGO_PKG_VERSION"), "protocol" => "2").set(1.0);
            self.counters.record();
            for figure in figures {
                let labels: Vec<_> =
                    figure.label.iter().map(|(key, value)| metrics::Label::new(*key, *value)).collect();
                if figure.name.ends_with("_total") {
                    describe_counter!(figure.name, figure.help);
                    counter!(figure.name, labels).absolute(figure.value);
                } else {
                    describe_gauge!(figure.name, figure.help);
                    gauge!(figure.name, labels).set(figure.value as f64);
                }
            }
        });
        let mut text = self.handle.render();
        for (name, help, histogram) in histograms {
            histogram.render(name, help, &mut text);
        }
        text
    }
}

/// Smallest upper bound of a histogram's buckets: 10 µs. The others double, up to 1.3 s.
const BUCKET_FIRST_NS: u64 = 10_000;
/// Buckets with a bound; one more holds what is above the last.
const BUCKETS: usize = 18;

/// Times in doubling buckets. One shard writes, scrapes read.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Counts one time. Called by one thread only: a load and a store, no read-modify-write.
    pub fn record(&self, nanos: u64) {
        let bucket = (nanos / BUCKET_FIRST_NS).checked_ilog2().map_or(0, |log| log as usize + 1).min(BUCKETS);
        let cell = &self.buckets[bucket];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.sum_ns.store(self.sum_ns.load(Ordering::Relaxed).saturating_add(nanos), Ordering::Relaxed);
    }

    /// Adds another's counts to this one.
    pub fn merge(&self, other: &Self) {
        for (mine, theirs) in self.buckets.iter().zip(&other.buckets) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(other.sum_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn render(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut count = 0;
        for (at, cell) in self.buckets.iter().enumerate() {
            count += cell.load(Ordering::Relaxed);
            let bound = if at == BUCKETS {
                "+Inf".to_owned()
            } else {
                format!("{}", (BUCKET_FIRST_NS << at) as f64 / 1e9)
            };
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let sum = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_every_limit_and_every_type() {
        let metrics = Metrics::default();
        metrics.counters.received.add(100);
        metrics.limit_hit("limits.subscriptions");
        let text = metrics.render(&[], &[]);
        assert!(text.contains("tickcast_limit_hits_total{limit=\"limits.subscriptions\"} 1"), "{text}");
        assert!(text.contains("tickcast_limit_hits_total{limit=\"limits.fragments\"} 0"));
        assert!(text.contains("tickcast_messages_received_total{type=\"market_data\"} 1"));
        assert!(text.contains("tickcast_messages_received_total{type=\"extension\"} 0"));
        assert!(!text.contains("type=\"hello\""), "control messages are not published");
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_hold_their_bounds() {
        let histogram = Histogram::default();
        for nanos in [0, 9_999, 10_000, 19_999, 20_000, u64::MAX / 2] {
            histogram.record(nanos);
        }
        let mut text = String::new();
        histogram.render("t", "help", &mut text);
        assert!(text.contains("t_bucket{le=\"0.00001\"} 2\n"), "{text}");
        assert!(text.contains("t_bucket{le=\"0.00002\"} 4\n"), "{text}");
        assert!(text.contains("t_bucket{le=\"0.00004\"} 5\n"), "{text}");
        assert!(text.contains("t_bucket{le=\"+Inf\"} 6\n"), "{text}");
        assert!(text.contains("t_count 6\n"));
    }
}
