//! Views of order books: a thread that keeps every book and publishes its best levels.
//!
//! ```text
//!   order_book.* ──► ring ──► tap ──► Views (books) ──► ingest ──► ring ──► shards: partial_book.N.*
//!                             └──────── thread "books" ────────┘
//! ```
//!
//! It is off the way of everything else: publishers of other types pay a comparison for it, the shards nothing
//! but the events it publishes, and neither waits for it. Where it is too slow for its books, a turn has more
//! messages of each and makes one view of them; where the ring laps it, books are broken until their next
//! snapshot, and their views say so. It is started only where views are asked for.
#![forbid(unsafe_code)]

mod views;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Builder, JoinHandle, Thread};
use std::time::Duration;

use tickcast_engine::stats::Counter;
use tickcast_engine::{Heard, Notify, Tap};
use tickcast_protocol::StreamId;
use tickcast_protocol::message::{Message, OrderBook, StreamState};

use crate::config::Books;
use crate::ingest::{Accepted, Ingest, Published, Source, Wishes};
use crate::metrics::Metrics;
use crate::states::SourceHandle;

pub use views::{Made, Outcome, Views};

/// Places of the ring that one turn looks at, as a shard does.
const TURN_PLACES: usize = 4_096;
/// Longest sleep: as long as nothing is missing, it has to say so from time to time.
const NAP: Duration = Duration::from_millis(50);

/// What the thread counts.
#[derive(Debug, Default)]
pub struct BookStats {
    /// Books that are kept.
    pub kept: Counter,
    /// Messages that are in a book.
    pub applied: Counter,
    /// Views published.
    pub views: Counter,
    /// Messages that could not be applied, and holes in the streams of sound books.
    pub broken: Counter,
    /// Places of the ring that were overwritten before they were read, whatever they held.
    pub lapped: Counter,
}

/// The thread, as long as it is wanted.
pub struct BookKeeping {
    stats: Arc<BookStats>,
    stop: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// Wakes the thread.
#[derive(Default)]
struct Bell(OnceLock<Thread>);

impl Notify for Bell {
    fn notify(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

impl BookKeeping {
    /// Starts the thread; nothing, and none, where no view is wanted.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(settings: &Books, ingest: &Arc<Ingest>, metrics: &Arc<Metrics>) -> io::Result<Option<Self>> {
        if settings.views.is_empty() {
            return Ok(None);
        }
        let bell = Arc::new(Bell::default());
        let tap = ingest.engine().tap(&OrderBook::INFO, bell.clone());
        let tap = tap.ok_or_else(|| io::Error::other("the books are kept already"))?;
        let (stats, stop) = (Arc::new(BookStats::default()), Arc::new(AtomicBool::new(false)));
        let keeper = Keeper {
            tap,
            views: Views::new(&settings.views, settings.count),
            desk: Desk {
                ingest: ingest.clone(),
                live: ingest.states().source(false),
                recorded: ingest.states().source(true),
                streams: HashMap::new(),
                stats: stats.clone(),
            },
            metrics: metrics.clone(),
            stats: stats.clone(),
        };
        let stopped = stop.clone();
        let handle = Builder::new().name("books".into()).spawn(move || {
            // Nobody rings before: what is published until then is found in the first turn.
            let _ = bell.0.set(thread::current());
            keeper.run(&stopped);
        })?;
        Ok(Some(Self { stats, stop, thread: handle.thread().clone(), handle: Some(handle) }))
    }

    /// What it counts.
    #[must_use]
    pub fn stats(&self) -> &Arc<BookStats> {
        &self.stats
    }

    /// Ends the thread, once it has made views of what was published until now.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

impl Drop for BookKeeping {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What runs on the thread.
struct Keeper {
    tap: Tap,
    views: Views,
    desk: Desk,
    metrics: Arc<Metrics>,
    stats: Arc<BookStats>,
}

/// Where views are published.
struct Desk {
    ingest: Arc<Ingest>,
    /// Vouches for views of books that are.
    live: SourceHandle,
    /// For views of recorded books.
    recorded: SourceHandle,
    /// The streams of the views of each book.
    streams: HashMap<StreamId, Vec<StreamId>>,
    stats: Arc<BookStats>,
}

impl Keeper {
    fn run(mut self, stop: &AtomicBool) {
        loop {
            // Before the turn: what was published before the order to stop is in it.
            let is_last = stop.load(Ordering::Acquire);
            if self.turn() {
                continue;
            }
            if is_last {
                return;
            }
            self.desk.live.vouch(self.desk.ingest.now());
            if self.tap.prepare_to_sleep() {
                thread::park_timeout(NAP);
                self.tap.stay_awake();
            }
        }
    }

    /// Takes what there is and tells what it makes; true when there is more.
    fn turn(&mut self) -> bool {
        let Self { tap, views, desk, metrics, stats } = self;
        let taken = tap.take(TURN_PLACES, |heard| match heard {
            Heard::Event(event) => {
                let Message::OrderBook(message) = event.view().to_owned() else { return };
                match views.event(event.stream(), event.sequence().0, message) {
                    Outcome::Applied => stats.applied.add(1),
                    Outcome::Broken => stats.broken.add(1),
                    Outcome::Full => metrics.limit_hit("books.count"),
                    Outcome::Ignored => {}
                }
            }
            Heard::Missing { stream, .. } => stats.broken.add(u64::from(views.missing(stream))),
            Heard::Status { stream, status } => views.status(stream, &status),
        });
        views.settle(|made| desk.tell(made));
        stats.kept.set(views.kept() as u64);
        stats.lapped.add(taken.lapped);
        taken.remaining
    }
}

impl Desk {
    fn tell(&mut self, made: Made) {
        match made {
            Made::View { book, view, is_replay } => {
                let message = Message::PartialBook(view);
                let unheard = || -> crate::ingest::Later { Box::new(drop) };
                let published =
                    self.ingest.publish_message(Source::Views, &message, Wishes::default(), unheard);
                // A refusal is counted: there is no room for the stream, or the server is about to end.
                let Ok(Published::Now(Accepted { stream: Some(stream), .. })) = published else { return };
                self.stats.views.add(1);
                let source = if is_replay { &mut self.recorded } else { &mut self.live };
                source.published(stream);
                let streams = self.streams.entry(book).or_default();
                if !streams.contains(&stream) {
                    streams.push(stream);
                }
            }
            Made::Stands { book, state, reason, since } => {
                for stream in self.streams.get(&book).into_iter().flatten() {
                    self.ingest.states().say_now(*stream, state, reason, since);
                    if state == StreamState::REPLAY {
                        self.recorded.published(*stream);
                    }
                }
            }
        }
    }
}
