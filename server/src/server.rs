//! Assembles the parts: engine, shards, front thread, feeds; starts them and brings them down.
//!
//! ```text
//!   main ──> start ─┬─ shard-0 … shard-n   connections, fan-out        (net::shards)
//!                   ├─ front               accept, HTTP, upgrades      (net::listener, net::http)
//!                   ├─ books               views of order books        (books), if any is wanted
//!                   └─ feed-…              demo market, replay         (feeds::run)
//! ```
#![forbid(unsafe_code)]

use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tickcast_engine::{Engine, EngineConfig, Notify};
use tickcast_protocol::{BootId, Epoch};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;

use crate::alerts::{self, Alerts};
use crate::auth::LoopbackAuthorizer;
use crate::books::BookKeeping;
use crate::clock::Clock;
use crate::config::{Config, Host, MinDurability};
use crate::feeds::run::{Feed, FeedSpec};
use crate::health::{Cadence, HealthMonitor, Limits as HealthLimits};
use crate::ingest::{Ingest, IngestParts};
use crate::instruments::Directory;
use crate::metrics::Metrics;
use crate::net::codec::Codec;
use crate::net::http::Front;
use crate::net::listener;
use crate::net::origin::OriginPolicy;
use crate::net::shards::{Bell, Shards, Shared, available};
use crate::session::sticky::Sticky;
use crate::states::{Rules, States, Watching};
use crate::status::Status;

/// How often critical messages that are of no use any more are ended, and clients that stay away are forgotten.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait, at a start, for the shards to take in the topics of the journal.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the health of streams is looked at, to announce changes.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Bound of the engine's lane for critical messages, as a multiple of the outbox's.
const CRITICAL_LANE_FACTOR: usize = 4;

/// A running server. Dropping it drains it.
pub struct Running {
    address: SocketAddr,
    ingest: Arc<Ingest>,
    sticky: Arc<Sticky>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    shards: Arc<Shards>,
    draining: Arc<AtomicBool>,
    drain_timeout: Duration,
    stop_front: watch::Sender<bool>,
    front: Option<JoinHandle<()>>,
    feeds: Vec<Feed>,
    watching: Watching,
    books: Option<BookKeeping>,
}

/// Starts everything by the system's clock; returns once the address is bound and served.
///
/// # Errors
/// When the address cannot be bound or a thread cannot be started.
pub fn start(config: Config, host: Host, feeds: Vec<FeedSpec>) -> io::Result<Running> {
    start_with_clock(config, host, feeds, Clock::default())
}

/// Starts everything by a clock of the caller's.
///
/// # Errors
/// As for [`start`].
pub fn start_with_clock(
    config: Config,
    host: Host,
    feeds: Vec<FeedSpec>,
    clock: Clock,
) -> io::Result<Running> {
    let config = Arc::new(config);
    let listener = listener::bind(config.server.listen)?;
    let address = listener.local_addr()?;
    let metrics = Arc::new(Metrics::default());
    let directory = Arc::new(Directory::default());
    let started = clock.now();
    let health_limits = HealthLimits {
        errors: config.health.errors as u64,
        stale_after_ns: u64::try_from(config.health.stale_after.as_nanos()).unwrap_or(u64::MAX),
    };
    // The demo is a source of its own: its types may be quiet while it lives.
    let health = Arc::new(HealthMonitor::new(health_limits, &[("demo", Cadence::Periodic)]));

    let bells: Vec<_> = (0..config.shards(host)).map(|_| Arc::new(Bell::default())).collect();
    let notifies = bells.iter().map(|bell| Arc::clone(bell) as Arc<dyn Notify>).collect();
    let engine_config = EngineConfig {
        shards: bells.len(),
        ring_slots: config.ring.slots,
        streams_max: config.limits.streams,
        history_events: config.history.events,
        history_bytes: config.history.bytes,
        outbox_events: config.outbox.events,
        outbox_bytes: config.outbox.bytes,
        critical_events: config.outbox.events * CRITICAL_LANE_FACTOR,
        critical_bytes: config.outbox.bytes * CRITICAL_LANE_FACTOR,
        lz4_min_bytes: config.compression.lz4_min_bytes,
        begun: started,
        ..EngineConfig::default()
    };
    // Both identities change with each run: history does not outlive the process yet.
    let (epoch, boot) = (Epoch(started), BootId(fastrand::u64(1..)));
    let codec = Arc::new(Codec::new(directory.clone(), clock.clone()));
    let (engine, engine_shards) = Engine::new(engine_config, epoch, boot, codec, notifies);
    // Keyed per process: nobody can prepare attributes that collide.
    let hasher = RandomState::new();
    let alerts = open_alerts(&config, &metrics, &engine, &hasher)?;
    let states = Arc::new(States::new(engine.clone(), config.limits.streams));
    let watching = states.watch(state_rules(&config), clock.clone())?;
    let ingest = Arc::new(Ingest::new(
        engine,
        IngestParts {
            directory: directory.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
            authorizer: Arc::new(LoopbackAuthorizer { open: config.publish.loopback_open }),
            alerts: alerts.clone(),
            hasher,
            clock: clock.clone(),
            states,
            views: config.books.views.clone(),
            payload_bytes_max: config.limits.publisher_bytes,
        },
    ));
    if let Some(alerts) = alerts.filter(|_| config.alerts.reports) {
        // Weak: the door has the journal, and not the other way round.
        let door = Arc::downgrade(&ingest);
        alerts.report_to(Box::new(move |settled| {
            if let (Some(door), Some(report)) = (door.upgrade(), alerts::delivery_report(settled)) {
                door.announce(&report);
            }
        }));
    }
    let grace = u64::try_from(config.json.sticky_for.as_nanos()).unwrap_or(u64::MAX);
    let sticky = Arc::new(Sticky::new(grace, config.json.sticky_bytes, metrics.clone(), clock.clone()));
    if let Some(alerts) = ingest.alerts() {
        sticky.restore(alerts);
    }
    // Before anybody publishes: it hears every book from its first message.
    let books = BookKeeping::start(&config.books, &ingest, &metrics)?;
    let sends = available(config.server.sends)?;
    tracing::info!(shards = bells.len(), sends = sends.name(), "delivering");
    let shared = Arc::new(Shared {
        config: config.clone(),
        metrics: metrics.clone(),
        ingest: ingest.clone(),
        directory,
        sticky: sticky.clone(),
        clock,
        sends,
    });
    let shards = Arc::new(Shards::start(engine_shards, &bells, &shared)?);
    // Nobody comes before every shard knows how far the journal's topics are: to whoever did, those would be a gap.
    let began = Instant::now();
    while ingest.engine().lag() > 0 && began.elapsed() < CATCH_UP_TIMEOUT {
        std::thread::sleep(Duration::from_millis(1));
    }
    let connections_max = config.connections_max(host);
    let status = Arc::new(Status {
        config: config.clone(),
        connections_max,
        started,
        metrics: metrics.clone(),
        ingest: ingest.clone(),
        shards: shards.clone(),
        health: health.clone(),
        sticky: sticky.clone(),
        books: books.as_ref().map(|books| books.stats().clone()),
    });
    let draining = Arc::new(AtomicBool::new(false));
    let (stop_front, stop) = watch::channel(false);
    let front = FrontParts {
        listener,
        address,
        config: config.clone(),
        metrics: metrics.clone(),
        ingest: ingest.clone(),
        sticky: sticky.clone(),
        shards: shards.clone(),
        status: status.clone(),
        health: health.clone(),
        draining: draining.clone(),
        connections_max,
    };
    let front = Builder::new().name("front".into()).spawn(move || front.run(stop))?;
    let feeds =
        feeds.into_iter().map(|feed| feed.start(&ingest, &metrics, &health)).collect::<io::Result<_>>()?;
    Ok(Running {
        address,
        ingest,
        sticky,
        metrics,
        status,
        shards,
        draining,
        drain_timeout: config.server.drain_timeout,
        stop_front,
        front: Some(front),
        feeds,
        watching,
        books,
    })
}

/// What is expected of streams, by the settings.
fn state_rules(config: &Config) -> Rules {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let intervals = config.streams.intervals.iter();
    Rules {
        intervals: intervals.map(|interval| (interval.filter.clone(), nanos(interval.every))).collect(),
        stale_after_ns: nanos(config.health.stale_after),
        learn: config.streams.learn,
    }
}

impl Running {
    /// The address that is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The door for publishes from within the process.
    #[must_use]
    pub fn ingest(&self) -> &Arc<Ingest> {
        &self.ingest
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What the status endpoints say.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// True when every feed that has an end has reached it.
    #[must_use]
    pub fn feeds_are_done(&self) -> bool {
        self.feeds.iter().all(Feed::is_done)
    }

    /// Drains: not ready, no new upgrades, no publishes, the ring and the queues flushed, notice, 1012.
    /// Status is served until the end. Returns when all is down.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some(front) = self.front.take() else { return };
        self.draining.store(true, Ordering::Release);
        for feed in self.feeds.drain(..) {
            feed.stop();
        }
        self.watching.stop();
        if let Some(books) = &mut self.books {
            books.stop();
        }
        // From here on nothing is accepted; what was is delivered before anybody is told to go.
        self.ingest.close();
        if let Some(alerts) = self.ingest.alerts() {
            self.sticky.finish(alerts);
            // What was accepted is on disk, and on the ring.
            alerts.close();
        }
        self.shards.drain(self.drain_timeout);
        self.stop_front.send_replace(true);
        let _ = front.join();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Opens the journal of critical messages, unless they are to be kept in memory alone.
fn open_alerts(
    config: &Config,
    metrics: &Arc<Metrics>,
    engine: &Engine,
    hasher: &RandomState,
) -> io::Result<Option<Arc<Alerts>>> {
    if config.alerts.min_durability == MinDurability::Memory {
        return Ok(None);
    }
    let ns = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let mut settings = tickcast_journal::Settings::new(&config.journal.directory);
    settings.spill_max = u32::try_from(config.alerts.waiting).unwrap_or(u32::MAX);
    settings.spill_age_max = ns(config.alerts.waiting_age);
    settings.retention = ns(config.journal.retention);
    settings.id_age_min = ns(config.journal.remember_ids);
    let limits = alerts::Limits { identities: config.alerts.identities };
    let began = Instant::now();
    let alerts = Alerts::open(settings, limits, metrics.clone(), engine, hasher).map_err(|error| {
        io::Error::other(format!("{error}; to run without a journal, set alerts.min_durability = \"memory\""))
    })?;
    let (took, identities) = (began.elapsed(), alerts.identity_count());
    tracing::info!(
        directory = config.journal.directory,
        ?took,
        identities,
        "critical messages are kept on disk"
    );
    Ok(Some(Arc::new(alerts)))
}

/// What the front thread is made from; [`Front`] itself stays on its thread.
struct FrontParts {
    listener: std::net::TcpListener,
    address: SocketAddr,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    ingest: Arc<Ingest>,
    sticky: Arc<Sticky>,
    shards: Arc<Shards>,
    status: Arc<Status>,
    health: Arc<HealthMonitor>,
    draining: Arc<AtomicBool>,
    connections_max: usize,
}

impl FrontParts {
    fn run(self, mut stop: watch::Receiver<bool>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "the front thread has no runtime"),
        };
        let (ingest, health) = (self.ingest.clone(), self.health);
        let origins =
            OriginPolicy { allowed: self.config.server.allowed_origins.clone(), listen: self.address };
        let front = Rc::new(Front {
            config: self.config,
            metrics: self.metrics,
            ingest: self.ingest,
            shards: self.shards,
            status: self.status,
            origins,
            connections: Arc::new(AtomicUsize::new(0)),
            connections_max: self.connections_max,
            handshakes: Arc::new(AtomicUsize::new(0)),
            turned_away: Arc::new(AtomicUsize::new(0)),
            draining: self.draining,
            connection_ids: AtomicU64::new(0),
            questions: Front::questions(),
        });
        runtime.block_on(async {
            let listener = match tokio::net::TcpListener::from_std(self.listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "the listener cannot be used"),
            };
            let accepting = tokio::task::spawn_local(listener::accept(listener, front, stop.clone()));
            let (door, sticky) = (ingest.clone(), self.sticky);
            let expiring = tokio::task::spawn_local(async move {
                let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
                loop {
                    ticks.tick().await;
                    let alerts = door.alerts();
                    if let Some(alerts) = alerts {
                        alerts.tick(door.now());
                    }
                    sticky.tick(alerts.map(|alerts| &**alerts));
                }
            });
            let announcing = tokio::task::spawn_local(announce_health(ingest, health));
            let _ = stop.wait_for(|stop| *stop).await;
            accepting.abort();
            announcing.abort();
            expiring.abort();
        });
    }
}

/// Publishes a `stream_health` message whenever a stream's health changes.
async fn announce_health(ingest: Arc<Ingest>, health: Arc<HealthMonitor>) {
    let mut ticks = tokio::time::interval(HEALTH_INTERVAL);
    loop {
        ticks.tick().await;
        let changes: Vec<_> = health.changes(ingest.now()).collect();
        for change in changes {
            if let Some(cause) = change.cause {
                tracing::warn!(stream = change.name, ?cause, "a stream is unwell");
            }
            ingest.announce(&change.message());
        }
    }
}
