//! The loops around the feeds: each on a thread of its own, publishing in process.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use tickcast_engine::Engine;
use tickcast_protocol::message::{MarketData, SourceStatus};
use tickcast_protocol::{Message, StreamId, Topic};

use super::{
    Action, Disturbance, Heard, Market, MarketConfig, Pace, PastEvent, Played, Publish, Speed, Tape,
};
use crate::clock;
use crate::health::{Group, HealthMonitor};
use crate::ingest::{Accepted, Ingest, Later, Published, Refusal, Source, Wishes};
use crate::metrics::Metrics;
use crate::states::SourceHandle;

/// Longest sleep between looks at the order to stop.
const NAP: Duration = Duration::from_millis(50);
/// The demo's place among the feeds whose health is watched.
const DEMO: Group = Group::Feed(0);
/// The demo draws its disturbances anew each minute.
const MINUTE_NS: i64 = 60_000_000_000;
/// How far the slowest shard may be behind before a replay waits for it.
pub const LAG_MAX: u64 = 1_024;
/// Events in outboxes before a replay waits for the readers, as long as they read.
const QUEUED_MAX: u64 = 256;
/// How long readers may stand still until a replay goes on without them: it is not held up by a stalled
/// one, whose losses are conflated and told as ever.
const STANDSTILL: Duration = Duration::from_millis(20);
/// Rows after a standstill before the readers are looked at again.
const ROWS_WITHOUT_LOOKING: u64 = 512;

/// A feed to start with the server.
#[derive(Clone, Debug)]
pub enum FeedSpec {
    /// The made-up market.
    Demo(MarketConfig),
    /// Recorded files: tables, merged by time, or recordings, one after the other.
    Replay {
        /// The files.
        files: Vec<PathBuf>,
        /// How fast.
        speed: Speed,
        /// Subscriptions to wait for before the first row.
        wait_for: u64,
    },
}

/// A feed that runs.
pub struct Feed {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl FeedSpec {
    /// Starts the feed's thread.
    ///
    /// # Errors
    /// When the system cannot start one.
    pub fn start(
        self,
        ingest: &Arc<Ingest>,
        metrics: &Arc<Metrics>,
        health: &Arc<HealthMonitor>,
    ) -> io::Result<Feed> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let name = match &self {
            Self::Demo(_) => "feed-demo",
            Self::Replay { .. } => "feed-replay",
        };
        let source = ingest.states().source(matches!(self, Self::Replay { .. }));
        let mut desk = FeedDesk { ingest: ingest.clone(), metrics: metrics.clone(), name, source };
        let (stopped, finished, health) = (stop.clone(), done.clone(), health.clone());
        let thread = Builder::new().name(name.into()).spawn(move || {
            match self {
                Self::Demo(config) => demo(config, &mut desk, &health, &stopped),
                Self::Replay { files, speed, wait_for } => {
                    replay(files, speed, wait_for, &mut desk, &stopped)
                }
            }
            finished.store(true, Ordering::Release);
        })?;
        Ok(Feed { stop, done, thread })
    }
}

impl Feed {
    /// True when there is nothing more to come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Ends the feed and waits for its thread.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

/// Where the feeds of this process publish.
struct FeedDesk {
    ingest: Arc<Ingest>,
    metrics: Arc<Metrics>,
    name: &'static str,
    source: SourceHandle,
}

fn failed(metrics: &Metrics, feed: &'static str, error: &str) {
    // One line a second at most, however many messages fail.
    static LAST: AtomicU64 = AtomicU64::new(0);
    metrics.counters.feed_errors.add(feed);
    let now = clock::unix_nanos() / 1_000_000_000;
    if LAST.swap(now, Ordering::Relaxed) != now {
        tracing::warn!(feed, error, "a feed's message was refused");
    }
}

impl FeedDesk {
    /// What is told of a message that is kept on disk first.
    fn later(&self) -> Later {
        let (metrics, name, claim) = (self.metrics.clone(), self.name, self.source.claim());
        Box::new(move |outcome| match (outcome, claim) {
            (Ok(accepted), Some(claim)) => claim.published(&accepted.topic),
            (Ok(_), None) => {}
            (Err(refusal), _) => failed(&metrics, name, &refusal.message),
        })
    }

    fn note(&mut self, published: Result<Published, Refusal>) -> Result<(), String> {
        let published = published.map_err(|refusal| {
            failed(&self.metrics, self.name, &refusal.message);
            refusal.message
        })?;
        if let Published::Now(Accepted { stream: Some(stream), .. }) = published {
            self.source.published(stream);
        }
        Ok(())
    }
}

impl Publish for FeedDesk {
    fn publish(&mut self, message: &Message) -> Result<(), String> {
        let wishes = Wishes { publisher: self.name, ..Wishes::default() };
        let published = self.ingest.publish_message(Source::Feed, message, wishes, || self.later());
        self.note(published)
    }

    fn publish_event(&mut self, event: &PastEvent) -> Result<(), String> {
        // Made anew from the books of the recording.
        if self.ingest.makes(&event.topic) {
            return Ok(());
        }
        let wishes = Wishes { publisher: self.name, topic: event.topic.as_str(), ..Wishes::default() };
        let published = self.ingest.publish_frame(Source::Feed, &event.frame(), wishes, || self.later());
        self.note(published)
    }

    fn skip(&mut self, topic: &Topic, count: u64) -> Result<(), String> {
        if self.ingest.makes(topic) {
            return Ok(());
        }
        self.ingest.skip(topic.as_str(), count).map(drop).map_err(|refusal| refusal.message)
    }

    fn lag(&self) -> u64 {
        self.ingest.engine().lag()
    }
}

fn demo(config: MarketConfig, desk: &mut FeedDesk, health: &HealthMonitor, stop: &AtomicBool) {
    let start = now();
    let mut market = Market::new(config, start);
    // Where the quotes of the mute symbol come from, of which nobody can say what is missing.
    let mut unheard = desk.ingest.states().source(false);
    while !stop.load(Ordering::Acquire) {
        let step = market.step(now());
        if step.left_out > 0 {
            tracing::warn!(
                left_out = step.left_out,
                "the demo market fell behind the clock and left messages out"
            );
        }
        for action in step.actions {
            // A refusal was counted and logged; the market goes on.
            let _ = match action {
                Action::Publish(message) => desk.publish(&message),
                Action::Skip { topic, count } => desk.skip(&topic, count),
            };
        }
        health.record_update(DEMO, clock::unix_nanos());
        if let Some(stream) = mute_stream(&market, start, now(), desk.ingest.engine()) {
            unheard.published(stream);
        }
        desk.source.vouch(desk.ingest.now());
        sleep_until(market.next_due());
    }
}

/// The quotes of the symbol that is mute at present.
fn mute_stream(market: &Market, start: i64, now: i64, engine: &Engine) -> Option<StreamId> {
    let minute = u64::try_from(now.saturating_sub(start) / MINUTE_NS).unwrap_or(0);
    let Disturbance { mute, mute_from, mute_until, .. } = market.disturbance(minute);
    let name = market.symbols().nth(mute.filter(|_| (mute_from..mute_until).contains(&now))?)?;
    let topic = Topic::of(&MarketData::INFO, name).ok()?;
    engine.stream_of(&topic, MarketData::INFO.class)
}

fn replay(files: Vec<PathBuf>, speed: Speed, wait_for: u64, desk: &mut FeedDesk, stop: &AtomicBool) {
    let stopped = || stop.load(Ordering::Acquire);
    let mut tape = match Tape::open(&files) {
        Ok(tape) => tape,
        Err(error) => return tracing::error!(%error, "the replay cannot start"),
    };
    while !stopped() && subscriptions(&desk.ingest) < wait_for {
        thread::park_timeout(NAP);
    }
    let mut pace = Pace::new(speed);
    let (mut published, mut gaps, mut untold, mut look_again_at) = (0u64, 0u64, 0u64, 0u64);
    for step in &mut tape {
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                tracing::error!(%error, published, "the replay ends here");
                return;
            }
        };
        if let Some(time) = step.time {
            let due = pace.due(time, now());
            while !stopped() && (now() < due || desk.lag() > LAG_MAX) {
                sleep_until(due);
            }
        }
        if published >= look_again_at && !readers_follow(&desk.ingest, stop) {
            look_again_at = published + ROWS_WITHOUT_LOOKING;
        }
        if stopped() {
            return;
        }
        match step.what {
            Played::Row(message) => published += u64::from(desk.publish(&message).is_ok()),
            Played::Event(event) => published += u64::from(desk.publish_event(&event).is_ok()),
            Played::Gap(gap) => {
                let is_told =
                    gap.can_be_told() && gap.portions().all(|count| desk.skip(&gap.topic, count).is_ok());
                gaps += u64::from(is_told);
                untold += u64::from(!is_told);
            }
        }
    }
    match &tape {
        Tape::Tables(rows) => {
            let out_of_order = rows.readers().iter().map(|reader| reader.out_of_order()).sum::<u64>();
            for reader in rows.readers().iter().filter(|reader| !reader.ignored_columns().is_empty()) {
                let columns = reader.ignored_columns();
                tracing::warn!(file = reader.name(), ?columns, "columns that were not read");
            }
            tracing::info!(published, out_of_order, moves = pace.moves(), "the replay is complete");
        }
        Tape::Recordings(recordings) => {
            let Heard { snapshots, unknown_gaps, torn } = recordings.heard();
            torn.iter().for_each(|what| tracing::warn!("{what}"));
            untold += unknown_gaps;
            tracing::info!(
                published,
                gaps,
                untold,
                snapshots,
                moves = pace.moves(),
                "the replay is complete"
            );
        }
    }
    // Nothing more will come of these.
    if let Err(refusal) = desk.source.say(SourceStatus::CLOSED, &[], 0, desk.ingest.now()) {
        tracing::warn!(error = refusal.message, "the end of the replay could not be told");
    }
}

/// Waits while readers have much to read and do; false when they stand still.
fn readers_follow(ingest: &Ingest, stop: &AtomicBool) -> bool {
    let figures = || {
        let counts = ingest.engine().shard_stats().iter().map(|stats| stats.snapshot());
        counts.fold((0, 0), |(queued, delivered), of| (queued + of.queued, delivered + of.deliveries))
    };
    let (mut queued, mut delivered) = figures();
    let mut moved_at = Instant::now();
    while queued > QUEUED_MAX && !stop.load(Ordering::Acquire) {
        if moved_at.elapsed() > STANDSTILL {
            return false;
        }
        thread::park_timeout(Duration::from_micros(200));
        let before = delivered;
        (queued, delivered) = figures();
        if delivered != before {
            moved_at = Instant::now();
        }
    }
    true
}

fn subscriptions(ingest: &Ingest) -> u64 {
    ingest.engine().shard_stats().iter().map(|stats| stats.snapshot().subscriptions).sum()
}

fn now() -> i64 {
    clock::unix_nanos() as i64
}

/// Sleeps until `due`, for a while at most; for a moment when it is already past, to let others run.
fn sleep_until(due: i64) {
    let wait = u64::try_from(due.saturating_sub(now())).unwrap_or(0);
    thread::park_timeout(Duration::from_nanos(wait.max(100_000)).min(NAP));
}
