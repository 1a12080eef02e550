//! How streams are: live, idle, suspect, stale, replayed or closed, and telling so to whoever subscribed.
//!
//! ```text
//!   publishers ── took, said, gone ──► words ─┐
//!   engine ── events, skips ──────────────────┴─► StateMonitor ── findings ──► engine ──► shards
//!                                                 on a thread of its own
//! ```
//!
//! What is judged is data: events, and what a source says about them. That a connection is open, or answers
//! pings, says nothing about its streams.
#![forbid(unsafe_code)]

mod monitor;
mod owners;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder, JoinHandle, Thread};
use std::time::Duration;

use tickcast_engine::{Engine, Finding, Status};
use tickcast_protocol::message::{SourceStatus, StateReason, StreamState};
use tickcast_protocol::{Class, ErrorCode, StreamId, Topic};

use crate::clock::Clock;
use crate::ingest::Refusal;

pub use monitor::{LOOKS_MAX, Rules, StateMonitor, Word};
pub use owners::{Owners, SourceId};

/// Most streams that publishers may have said something of before the monitor hears it, which is within a
/// tenth of a second; past it one is told to say it again. One message may name more.
pub const WORDS_MAX: usize = 65_536;
/// Findings told at once.
const TOLD_AT_ONCE: usize = tickcast_engine::engine::FINDINGS_MAX;
/// How far shards may be behind, in slots of the ring, before telling much waits for them a while: states
/// should not be what laps a shard. One that is lapped all the same finds them in the records.
const LAG_MAX: u64 = 4_096;
/// How often it waits, a millisecond each, before it tells anyway.
const WAITS_MAX: usize = 50;

/// What publishers say of their streams, on its way to the monitor.
pub struct States {
    engine: Engine,
    owners: Arc<Owners>,
    words: Mutex<Words>,
    sources: AtomicU32,
}

/// What waits to be heard.
#[derive(Default)]
struct Words {
    list: Vec<Word>,
    /// Streams that publishers said something of.
    said: usize,
}

/// Something that publishes, as long as it is there. Dropping it says that it is gone.
pub struct SourceHandle {
    states: Arc<States>,
    id: SourceId,
    vouched: Arc<AtomicU64>,
    /// Streams it was the last to publish to; some may be another's by now, or be there twice.
    streams: Vec<StreamId>,
    /// How many there may be before those are dropped.
    tidy_at: usize,
    /// Streams of messages that other threads heard the outcome of.
    late: Arc<Mutex<Vec<StreamId>>>,
}

/// Notes, on whatever thread hears of it, what became of a critical message of a source.
pub struct Claim {
    states: Arc<States>,
    id: SourceId,
    late: Arc<Mutex<Vec<StreamId>>>,
}

/// The thread that watches.
pub struct Watching {
    stop: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

impl States {
    /// What is said of the streams of `engine`, of which there are at most `streams_max`.
    #[must_use]
    pub fn new(engine: Engine, streams_max: usize) -> Self {
        let owners = Arc::new(Owners::new(streams_max));
        Self { engine, owners, words: Mutex::default(), sources: AtomicU32::new(0) }
    }

    /// A monitor of these streams.
    #[must_use]
    pub fn monitor(&self, rules: Rules) -> StateMonitor {
        StateMonitor::new(self.engine.clone(), self.owners.clone(), rules)
    }

    /// A publisher that can vouch; of a replay all streams are said to be replayed.
    #[must_use]
    pub fn source(self: &Arc<Self>, is_replay: bool) -> SourceHandle {
        let number = self.sources.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let (id, vouched) = (SourceId::new(number, is_replay), Arc::new(AtomicU64::new(0)));
        self.push(Word::Came { source: id, vouched: vouched.clone() });
        let (streams, late) = (Vec::new(), Arc::default());
        SourceHandle { states: self.clone(), id, vouched, streams, tidy_at: 64, late }
    }

    /// Somebody who cannot vouch has published to `stream`.
    pub fn published_by_nobody(&self, stream: StreamId) {
        self.take(stream, SourceId::NONE);
    }

    /// The operator says that the streams of a topic have ended. Says how many there are.
    pub fn close(&self, topic: &Topic, at: u64) -> usize {
        let streams = self.streams_of(topic);
        let count = streams.len();
        self.push(Word::Said { status: SourceStatus::CLOSED, streams, interval_ms: 0, at });
        count
    }

    /// Everything that was said since this was asked last.
    #[must_use]
    pub fn take_words(&self) -> Vec<Word> {
        let words = std::mem::take(&mut *self.words.lock().unwrap_or_else(PoisonError::into_inner));
        words.list
    }

    /// Notes whose a stream is; true when it was another's.
    fn take(&self, stream: StreamId, source: SourceId) -> bool {
        let Some(before) = self.owners.take(stream, source) else { return false };
        // Of a replay after another one as well: it may have been said meanwhile that the stream has ended.
        if before.is_replay() || source.is_replay() {
            if source.is_replay() {
                self.say_replay(stream);
            }
            // Again from the monitor, in case that another event came in between.
            self.push(Word::Took { source, stream });
        }
        true
    }

    /// Tells at once that a stream is a replay: nobody should take much of it for news.
    fn say_replay(&self, stream: StreamId) {
        self.say_now(stream, StreamState::REPLAY, StateReason::SAID, None);
    }

    /// Tells at once how a stream is, by somebody who knows without watching it; since its last event, unless
    /// another time is given, in ns since the Unix epoch. The next event ends it as ever.
    pub fn say_now(&self, stream: StreamId, state: StreamState, reason: StateReason, since: Option<u64>) {
        let mut found = None;
        self.engine.look_at(&[stream], |stream, _, _, pulse| {
            let (since, last_sequence) = (since.unwrap_or(pulse.last_event), pulse.head);
            let status = Status { state, reason, since, last_sequence, ..Status::live() };
            found = Some(Finding { stream, head: pulse.head, status });
        });
        if let Some(finding) = found {
            self.engine.tell(&[finding]);
        }
    }

    fn streams_of(&self, topic: &Topic) -> Vec<StreamId> {
        Class::ALL.into_iter().filter_map(|class| self.engine.stream_of(topic, class)).collect()
    }

    /// Bounded by what happens in one period of the monitor; what a publisher may say at will is bounded
    /// before it comes here.
    fn push(&self, word: Word) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).list.push(word);
    }

    /// Starts to watch, by `clock`.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn watch(self: &Arc<Self>, rules: Rules, clock: Clock) -> io::Result<Watching> {
        let stop = Arc::new(AtomicBool::new(false));
        let (states, stopped) = (self.clone(), stop.clone());
        let mut monitor = self.monitor(rules);
        let handle = Builder::new().name("states".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let now = clock.now();
                let found = monitor.changes(states.take_words(), now);
                states.tell(&found, &stopped);
                if !monitor.has_more(now) {
                    thread::park_timeout(Duration::from_nanos(monitor.period_ns()));
                }
            }
        })?;
        Ok(Watching { stop, thread: handle.thread().clone(), handle: Some(handle) })
    }

    fn tell(&self, found: &[Finding], stopped: &AtomicBool) {
        for part in found.chunks(TOLD_AT_ONCE) {
            let mut waits = 0;
            while waits < WAITS_MAX && self.engine.lag() > LAG_MAX && !stopped.load(Ordering::Acquire) {
                thread::park_timeout(Duration::from_millis(1));
                waits += 1;
            }
            self.engine.tell(part);
        }
    }
}

impl SourceHandle {
    /// What it publishes is recorded, and what it published so far was: from now on, and as long as it is there.
    pub fn become_replay(&mut self) {
        if self.id.is_replay() {
            return;
        }
        self.gather();
        let before = self.id;
        self.id = before.as_replay();
        self.states.push(Word::Came { source: self.id, vouched: self.vouched.clone() });
        for stream in &self.streams {
            if self.states.owners.of(*stream) == before {
                self.states.take(*stream, self.id);
            }
        }
        self.states.push(Word::Gone { source: before, streams: Vec::new() });
    }

    /// By what a critical message is noted that is on its stream only when it is on disk. Only of a replay: what
    /// others say of such streams they say of the topic.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        let claim = || Claim { states: self.states.clone(), id: self.id, late: self.late.clone() };
        self.id.is_replay().then(claim)
    }

    fn gather(&mut self) {
        self.streams.append(&mut self.late.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// It has published to `stream`.
    pub fn published(&mut self, stream: StreamId) {
        if !self.states.take(stream, self.id) {
            return;
        }
        self.streams.push(stream);
        if self.streams.len() >= self.tidy_at {
            // Two publishers of one stream take it from each other with each event.
            self.streams.sort_unstable();
            self.streams.dedup();
            self.streams.retain(|stream| self.states.owners.of(*stream) == self.id);
            self.tidy_at = (2 * self.streams.len()).max(64);
        }
    }

    /// Vouches for all of its streams: up to `now`, in ns since the Unix epoch, nothing is missing.
    pub fn vouch(&self, now: u64) {
        self.vouched.fetch_max(now, Ordering::Relaxed);
    }

    /// Says something of the streams of `topics`, or of all of its own when there are none; that it is a replay,
    /// of all of its own in any case.
    ///
    /// # Errors
    /// When nothing was published to one of the topics, or too much waits to be heard.
    pub fn say(
        &mut self,
        status: SourceStatus,
        topics: &[Topic],
        interval_ms: u32,
        now: u64,
    ) -> Result<(), Refusal> {
        if status == SourceStatus::REPLAY {
            self.become_replay();
            return Ok(());
        }
        if status == SourceStatus::ALIVE && topics.is_empty() {
            self.vouch(now);
            if interval_ms == 0 {
                return Ok(());
            }
        }
        let mut streams = Vec::new();
        for (at, topic) in topics.iter().enumerate() {
            let found = self.states.streams_of(topic);
            if found.is_empty() {
                let message = format!("nothing was published to `{topic}` yet");
                return Err(Refusal::new(ErrorCode::InvalidField, format!("topics.{at}"), message));
            }
            streams.extend(found);
        }
        if topics.is_empty() {
            self.gather();
            streams.clone_from(&self.streams);
            streams.retain(|stream| self.states.owners.of(*stream) == self.id);
        }
        let mut words = self.states.words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.said >= WORDS_MAX {
            let message = "too much waits to be heard: say it again in a moment";
            return Err(Refusal::new(ErrorCode::Unavailable, "", message));
        }
        words.said += 1 + streams.len();
        if status == SourceStatus::CLOSED && self.id.is_replay() {
            // The next event would make them live: they are taken anew with it, and said to be a replay.
            for stream in streams.iter().filter(|stream| self.states.owners.of(**stream) == self.id) {
                self.states.owners.take(*stream, SourceId::NONE);
            }
        }
        words.list.push(Word::Said { status, streams, interval_ms, at: now });
        Ok(())
    }
}

impl Claim {
    /// A message of this topic is on its stream of class critical.
    pub fn published(&self, topic: &Topic) {
        let Some(stream) = self.states.engine.stream_of(topic, Class::Critical) else { return };
        if self.states.take(stream, self.id) {
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    }
}

impl Drop for SourceHandle {
    fn drop(&mut self) {
        self.gather();
        let streams = std::mem::take(&mut self.streams);
        self.states.push(Word::Gone { source: self.id, streams });
    }
}

impl Watching {
    /// Ends the watch.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for SourceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceHandle")
            .field("id", &self.id)
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}
