//! What the status endpoints say: `/websocket/status`, `/readyz`, `/version`, and the scrape.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tickcast_engine::StateCounts;
use tickcast_engine::stats::{Counter, ShardStats};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::StreamState;
use tickcast_protocol::registry;

use crate::books::BookStats;
use crate::config::Config;
use crate::health::HealthMonitor;
use crate::ingest::Ingest;
use crate::metrics::{Figure, Metrics};
use crate::net::shards::Shards;
use crate::session::sticky::Sticky;

/// Limits that are kept on the shards, and the figure of theirs that says how often each was hit.
const SHARD_LIMITS: &[(&str, &str)] = &[
    ("ring.slots", "laps"),
    ("history.events", "history_events_short"),
    ("history.bytes", "history_bytes_short"),
    ("outbox.events", "outbox_events_full"),
    ("outbox.bytes", "outbox_bytes_full"),
];

/// Reads everything there is to tell.
pub struct Status {
    /// The settings.
    pub config: Arc<Config>,
    /// Most connections, by settings and descriptors.
    pub connections_max: usize,
    /// When the server started, in ns UTC.
    pub started: u64,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The door for publishes.
    pub ingest: Arc<Ingest>,
    /// The connections.
    pub shards: Arc<Shards>,
    /// Which streams are well.
    pub health: Arc<HealthMonitor>,
    /// Clients that come back.
    pub sticky: Arc<Sticky>,
    /// What the thread that keeps books counts, where there is one.
    pub books: Option<Arc<BookStats>>,
}

/// `GET /websocket/status`: the shape of the first trading bots' status, then what is ours.
#[derive(Serialize)]
struct WebsocketStatus {
    enabled: bool,
    active_connections: usize,
    max_connections: usize,
    /// Seconds.
    ping_interval: u64,
    /// Seconds between updates; zero because every update is pushed as it comes.
    price_update_interval: u64,
    /// As above.
    portfolio_update_interval: u64,
    stream_health: BTreeMap<&'static str, StreamHealth>,
    uptime_seconds: u64,
    streams: usize,
    subscriptions: u64,
    messages_received: u64,
    deliveries: u64,
    conflated: u64,
    gapped: u64,
    queued: u64,
    shard_lag: u64,
    shards: usize,
    min_durability: &'static str,
}

/// Health of the streams of one type.
#[derive(Serialize)]
struct StreamHealth {
    last_update: Option<String>,
    error_count: u64,
    recovery_attempts: u64,
    is_healthy: bool,
    started_at: String,
}

impl Status {
    /// `/websocket/status` as JSON.
    #[must_use]
    pub fn websocket_status(&self) -> String {
        let now = self.ingest.now();
        let sums: BTreeMap<_, _> = self.shard_sums().into_iter().collect();
        let sum = |name: &str| sums.get(name).copied().unwrap_or(0);
        let time = |nanos: u64| Timestamp(nanos as i64).to_string();
        let stream_health = self.health.snapshot(now).into_iter().map(|health| {
            let entry = StreamHealth {
                last_update: health.last_update.map(time),
                error_count: health.error_count,
                recovery_attempts: health.recovery_attempts,
                is_healthy: health.is_healthy,
                started_at: time(health.started_at),
            };
            (health.name, entry)
        });
        to_json(&WebsocketStatus {
            enabled: true,
            active_connections: self.shards.connections(),
            max_connections: self.connections_max,
            ping_interval: self.config.heartbeat.interval.as_secs(),
            price_update_interval: 0,
            portfolio_update_interval: 0,
            stream_health: stream_health.collect(),
            uptime_seconds: now.saturating_sub(self.started) / 1_000_000_000,
            streams: self.ingest.engine().stream_count(),
            subscriptions: sum("subscriptions"),
            messages_received: self.metrics.counters.received.total(),
            deliveries: sum("deliveries"),
            conflated: sum("conflated"),
            gapped: sum("gapped"),
            queued: sum("queued"),
            shard_lag: self.ingest.engine().lag(),
            shards: self.ingest.engine().shard_stats().len(),
            min_durability: self.config.alerts.min_durability.name(),
        })
    }

    /// `/readyz` as JSON; not ready only while draining.
    #[must_use]
    pub fn readiness(&self, draining: bool) -> String {
        let check = |name: &str, ok: bool, detail: String| serde_json::json!({"name": name, "ok": ok, "detail": detail});
        let (journal_is_well, detail) = self.journal();
        let lag = format!("the slowest shard is {} events behind", self.ingest.engine().lag());
        serde_json::json!({
            "ready": !draining,
            "checks": [
                check("accepting", !draining, if draining { "draining".into() } else { "open".into() }),
                check("shards", true, lag),
                check("journal", journal_is_well, detail),
            ],
        })
        .to_string()
    }

    /// How critical messages are kept, and whether that goes well.
    fn journal(&self) -> (bool, String) {
        let Some(alerts) = self.ingest.alerts() else {
            let text = "critical messages are kept with durability memory: they do not survive the end of the process";
            return (true, text.to_owned());
        };
        match alerts.health().trouble {
            None => (true, "critical messages are kept with durability disk".to_owned()),
            Some(trouble) => {
                let text = "critical publishes are refused as not_durable, all else goes on";
                (
                    false,
                    format!("the journal failed ({}): {text}; it is opened again by itself", trouble.reason),
                )
            }
        }
    }

    /// `/version` as JSON.
    #[must_use]
    pub fn version(&self) -> String {
        serde_json::json!({
            "name": "tickcast",
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": {
                "binary": tickcast_protocol::frame::PROTOCOL_MAJOR,
                "json": "1.0",
                "subprotocols": ["tickcast.v2", "tickcast.v1.json", "tickcast.v1.json.d1"],
            },
            "types": tickcast_protocol::registry::types().len(),
        })
        .to_string()
    }

    /// The text of a scrape.
    #[must_use]
    pub fn scrape(&self) -> String {
        let mut figures = Vec::new();
        for (name, help) in ShardStats::NAMES {
            let value = self.shard_stats(name);
            figures.push(Figure { name: metric_name(name, help), help, label: None, value });
        }
        // Limits that the shards keep count in figures of theirs.
        for (limit, figure) in SHARD_LIMITS {
            figures.push(Figure {
                name: "tickcast_limit_hits_total",
                help: "Limits hit, by the key of the settings that sets them.",
                label: Some(("limit", limit)),
                value: self.shard_stats(figure),
            });
        }
        let gauge = |name, help, value| Figure { name, help, label: None, value };
        figures.push(gauge(
            "tickcast_connections",
            "Connections open now.",
            self.shards.connections() as u64,
        ));
        figures.push(gauge(
            "tickcast_streams",
            "Streams known: topics with their class.",
            self.ingest.engine().stream_count() as u64,
        ));
        figures.push(gauge(
            "tickcast_shard_lag",
            "Events the slowest shard is behind the ring's cursor.",
            self.ingest.engine().lag(),
        ));
        let sticky = self.sticky.count();
        figures.push(gauge(
            "tickcast_sticky_clients",
            "Clients with a client_id whose subscriptions are kept, connected or away.",
            sticky.clients as u64,
        ));
        if self.ingest.alerts().is_some() {
            figures.push(gauge(
                "tickcast_sticky_unsaved",
                "Of those, the ones whose newest subscriptions are not on disk yet.",
                sticky.unsaved as u64,
            ));
        }
        figures.extend(self.journal_figures());
        figures.extend(self.book_figures());
        let states = self.ingest.engine().states();
        let others: u64 = StateCounts::STATES[1..].iter().map(|state| states.now(*state)).sum();
        for state in StateCounts::STATES {
            let live = || (self.ingest.engine().stream_count() as u64).saturating_sub(others);
            figures.push(Figure {
                name: "tickcast_stream_states",
                help: "Streams in each state.",
                label: Some(("state", state.name())),
                value: if state == StreamState::LIVE { live() } else { states.now(state) },
            });
            figures.push(Figure {
                name: "tickcast_stream_state_changes_total",
                help: "Times that a stream came to be in a state, its birth not counted.",
                label: Some(("state", state.name())),
                value: states.changes(state),
            });
        }
        for health in self.health.snapshot(self.ingest.now()) {
            // Groups are types, so the label comes from the registry.
            let Some(info) = registry::by_name(health.name) else { continue };
            figures.push(Figure {
                name: "tickcast_stream_stale",
                help: "1 while the streams of a type are unhealthy: too many errors, or silent for too long.",
                label: Some(("type", info.name)),
                value: u64::from(!health.is_healthy),
            });
        }
        let latency = self.shards.latency();
        self.metrics.render(
            &figures,
            &[
                (
                    "tickcast_publish_to_last_write_seconds",
                    "From the publish of a turn's oldest event to the end of the turn's writes.",
                    &latency.oldest,
                ),
                (
                    "tickcast_publish_to_write_seconds",
                    "From the publish of a turn's newest event to the end of the turn's writes.",
                    &latency.newest,
                ),
            ],
        )
    }

    fn journal_figures(&self) -> Vec<Figure> {
        let Some(alerts) = self.ingest.alerts() else { return Vec::new() };
        let health = alerts.health();
        let figure = |name, help, value| Figure { name, help, label: None, value };
        vec![
            figure(
                "tickcast_journal_up",
                "1 while critical messages are accepted, 0 while the disk does not take them.",
                u64::from(health.is_ok()),
            ),
            figure(
                "tickcast_identities",
                "Durable identities that critical messages may wait for.",
                alerts.identity_count() as u64,
            ),
            figure(
                "tickcast_journal_commits_total",
                "Commits of the journal, one fsync each.",
                health.commits,
            ),
            figure(
                "tickcast_journal_accepted_total",
                "Critical messages accepted, on disk.",
                health.accepted,
            ),
            figure(
                "tickcast_journal_known_total",
                "Critical messages whose id was known: duplicates and conflicts.",
                health.known,
            ),
            figure(
                "tickcast_journal_refused_total",
                "Critical messages refused: too much waits, expired, or the journal was too busy.",
                health.refused + health.refused_busy,
            ),
            figure(
                "tickcast_journal_not_durable_total",
                "Critical messages refused because the disk did not take them.",
                health.not_durable,
            ),
            figure("tickcast_journal_failures_total", "Failures of the journal's disk.", health.failures),
            figure(
                "tickcast_journal_acks_forgotten_total",
                "Acknowledgements forgotten under load or failure: their messages come again.",
                health.acks_forgotten,
            ),
            figure(
                "tickcast_journal_damaged_total",
                "Reads of the journal that found a damaged record.",
                health.damaged,
            ),
        ]
    }

    /// Figures of the thread that keeps books, where there is one.
    fn book_figures(&self) -> Vec<Figure> {
        let Some(stats) = &self.books else { return Vec::new() };
        let figure = |name, help, counter: &Counter| Figure { name, help, label: None, value: counter.get() };
        vec![
            figure("tickcast_books", "Order books that are kept for views.", &stats.kept),
            figure(
                "tickcast_books_applied_total",
                "Messages of order books that were applied.",
                &stats.applied,
            ),
            figure("tickcast_books_views_total", "Views of order books published.", &stats.views),
            figure(
                "tickcast_books_broken_total",
                "Messages of order books that could not be applied, and holes in the streams of sound ones.",
                &stats.broken,
            ),
            figure(
                "tickcast_books_lapped_total",
                "Places of the ring, of any type, that were overwritten before the books' thread read them.",
                &stats.lapped,
            ),
        ]
    }

    fn shard_stats(&self, name: &str) -> u64 {
        self.shard_sums().into_iter().find(|(found, _)| *found == name).map_or(0, |(_, sum)| sum)
    }

    /// Every figure of the shards, summed.
    fn shard_sums(&self) -> Vec<(&'static str, u64)> {
        let mut sums: Vec<_> = ShardStats::NAMES.iter().map(|(name, _)| (*name, 0u64)).collect();
        for stats in self.ingest.engine().shard_stats() {
            for (sum, value) in sums.iter_mut().zip(stats.snapshot().values()) {
                sum.1 += value;
            }
        }
        sums
    }
}

/// The scrape's name of a shard figure: leaked once a name, from a table of constants.
fn metric_name(name: &'static str, help: &str) -> &'static str {
    use std::sync::{LazyLock, Mutex, PoisonError};
    static NAMES: LazyLock<Mutex<BTreeMap<&'static str, &'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.entry(name).or_insert_with(|| {
        // The engine's table says which figures go up and down; the others are counters.
        let is_counter = !help.starts_with("Gauge:");
        let suffix = if is_counter && !name.ends_with("_total") { "_total" } else { "" };
        Box::leak(format!("tickcast_shard_{name}{suffix}").into_boxed_str())
    })
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
