//! The shared handle: takes an event once and puts it where every shard reads it.
//!
//! ```text
//!   publish:  validate, copy, allocate     (outside, any thread)
//!             ┌ lock ──────────────────┐
//!             │ number and time        │   Sequencer
//!             │ stamp the header       │   Draft -> Event
//!             │ head and last value    │   Records
//!             │ slot, then cursor      │   Ring
//!             └────────────────────────┘
//!             wake the sleeping shards
//! ```
//!
//! The section is short, allocates one ring node (and a record when a stream is born), and waits for no
//! reader. One writer at a time is what gives the ring its single writer.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tickcast_protocol::frame::PAYLOAD_BYTES_MAX;
use tickcast_protocol::message::{StateReason, StreamState};
use tickcast_protocol::registry::TypeInfo;
use tickcast_protocol::{BootId, Class, Epoch, Sequence, StreamId, Topic};

use crate::event::{Draft, Incoming, Item, Note, Render, Skip};
use crate::records::{Record, Records, StreamSummary};
use crate::ring::{self, Ring};
use crate::sequencer::{Refused, Sequencer, Stamp};
use crate::shard::Shard;
use crate::stats::ShardStats;
use crate::status::{Finding, Pulse, StateCounts, Status};
use crate::tap::{Tap, TapEnd};
use crate::wake::{Notify, WakeFlag};

/// Most findings that are told at once: one slot of the ring.
pub const FINDINGS_MAX: usize = 256;
/// Most events one skip may announce.
pub const SKIP_EVENTS_MAX: u64 = u32::MAX as u64;

/// Bounds of the engine. Worst-case memory is their sum: the ring's events once; per shard and stream the
/// history; per slow peer the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Slots of the ring, a power of two. Each costs 128 B and the event it holds. A shard that is this
    /// many events behind is lapped.
    pub ring_slots: usize,
    /// Most streams. Past it a publish to a new one fails with [`PublishError::StreamLimit`].
    pub streams_max: usize,
    /// Recent events kept per stream and shard, for resume. Shards share the bytes.
    pub history_events: usize,
    /// Bytes of recent events kept per stream.
    pub history_bytes: usize,
    /// Most events that wait for one slow peer; past it its policy decides.
    pub outbox_events: usize,
    /// Most bytes of events that wait for one slow peer. One event that is larger may wait alone.
    pub outbox_bytes: usize,
    /// Most critical events that wait for one peer; past it the peer is closed with 4003.
    pub critical_events: usize,
    /// Most bytes of critical events that wait for one peer; past it the peer is closed with 4003.
    pub critical_bytes: usize,
    /// Number of shards.
    pub shards: usize,
    /// Most events a shard distributes per turn. What a turn distributes together is written together, so
    /// that a shard which falls behind gets faster until it keeps up: with 10,000 peers of which each gets
    /// something else, a round of writes takes about 0.1 s, and a smaller bound than what is published in
    /// that time would let it fall behind for ever.
    pub turn_events: usize,
    /// Smallest payload, in bytes, that is compressed for peers that read [`Format::BinaryLz4`]; compressed
    /// once, by the first shard that needs it. `usize::MAX` compresses nothing.
    ///
    /// [`Format::BinaryLz4`]: crate::Format::BinaryLz4
    pub lz4_min_bytes: usize,
    /// When the history of this epoch began, in ns since the Unix epoch: nothing older is to be had.
    pub begun: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            ring_slots: ring::CAPACITY_DEFAULT,
            streams_max: 100_000,
            history_events: 256,
            history_bytes: 256 * 1024,
            outbox_events: 1_024,
            outbox_bytes: 256 * 1024,
            critical_events: 4_096,
            critical_bytes: 4 * 1024 * 1024,
            shards: 1,
            turn_events: 4_096,
            lz4_min_bytes: 512,
            begun: 0,
        }
    }
}

/// What a publish got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The stream it went to.
    pub stream: StreamId,
    /// Its number on the stream; of a skip, the last one that was skipped.
    pub sequence: Sequence,
    /// The time it carries, in ns since the Unix epoch.
    pub publish_time: u64,
}

/// Why an event was not published. Nothing was numbered, so no hole is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The stream would be a new one, and there are as many as there may be.
    StreamLimit {
        /// The bound, in streams.
        max: usize,
    },
    /// The payload is larger than a frame may be.
    TooLarge {
        /// Bytes of the payload.
        size: usize,
    },
    /// A skip of no events, or of more than [`SKIP_EVENTS_MAX`].
    SkipCount,
    /// The stream has not so many sequences left.
    SequenceLimit,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StreamLimit { max } => write!(f, "there are {max} streams, which is the limit"),
            Self::TooLarge { size } => {
                write!(f, "payload of {size} bytes exceeds the limit of {PAYLOAD_BYTES_MAX}")
            }
            Self::SequenceLimit => f.write_str("the stream's sequences have run out"),
            Self::SkipCount => write!(f, "a skip is of 1 to {SKIP_EVENTS_MAX} events"),
        }
    }
}

impl std::error::Error for PublishError {}

/// The engine as publishers and the status page see it. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    epoch: Epoch,
    boot: BootId,
    streams_max: usize,
    lz4_min_bytes: usize,
    ingest: Mutex<Ingest>,
    records: Arc<Records>,
    states: StateCounts,
    ring: Ring<Item>,
    flags: Vec<Arc<WakeFlag<Waker>>>,
    stats: Vec<Arc<ShardStats>>,
    /// Set once, and seldom: there is no tap unless somebody asked for one.
    tap: OnceLock<Arc<TapEnd>>,
}

/// What only the one who holds the lock touches.
struct Ingest {
    sequencer: Sequencer,
    writer: ring::Writer<Item>,
    /// The record of stream id `i + 1`.
    records: Vec<Arc<Record>>,
    /// Streams of which more has changed than that events come, until somebody looks.
    noted: Vec<StreamId>,
}

/// A notifier behind a pointer, so that shards of one engine may sleep in different ways.
pub struct Waker(Arc<dyn Notify>);

impl Notify for Waker {
    fn notify(&self) {
        self.0.notify();
    }
}

impl Engine {
    /// An engine and its shards, each to be run by one thread. `notifies` has one notifier per shard.
    ///
    /// # Panics
    /// When `ring_slots` is no power of two or too large, another bound is zero, or the number of
    /// notifiers differs from that of shards: settings are checked before they come here.
    #[must_use]
    pub fn new(
        config: EngineConfig,
        epoch: Epoch,
        boot: BootId,
        render: Arc<dyn Render>,
        notifies: Vec<Arc<dyn Notify>>,
    ) -> (Self, Vec<Shard>) {
        assert_eq!(notifies.len(), config.shards, "one notifier per shard");
        let bounds = [
            config.streams_max,
            config.outbox_events,
            config.outbox_bytes,
            config.critical_events,
            config.critical_bytes,
            config.turn_events,
        ];
        assert!(bounds.iter().all(|bound| *bound > 0), "every bound is positive: {config:?}");
        let (writer, ring) = Ring::with_capacity(config.ring_slots).expect("ring_slots was checked");
        let records = Arc::new(Records::default());
        let flags: Vec<_> =
            notifies.into_iter().map(|notify| Arc::new(WakeFlag::new(Waker(notify)))).collect();
        let stats: Vec<_> = flags.iter().map(|_| Arc::new(ShardStats::default())).collect();
        let shards = (0..config.shards)
            .map(|index| {
                Shard::new(
                    &config,
                    epoch,
                    ring.reader(),
                    Arc::clone(&records),
                    Arc::clone(&render),
                    Arc::clone(&flags[index]),
                    Arc::clone(&stats[index]),
                )
            })
            .collect();
        let sequencer = Sequencer::new(config.streams_max, config.begun);
        let ingest = Mutex::new(Ingest { sequencer, writer, records: Vec::new(), noted: Vec::new() });
        let EngineConfig { streams_max, lz4_min_bytes, .. } = config;
        let states = StateCounts::default();
        let tap = OnceLock::new();
        let shared = Shared {
            epoch,
            boot,
            streams_max,
            lz4_min_bytes,
            ingest,
            records,
            states,
            ring,
            flags,
            stats,
            tap,
        };
        (Self { shared: Arc::new(shared) }, shards)
    }

    /// A tap that hears every event of one type from now on, in the class of the type. An engine has one;
    /// whoever asks again gets none.
    #[must_use]
    pub fn tap(&self, info: &'static TypeInfo, notify: Arc<dyn Notify>) -> Option<Tap> {
        let shared = &self.shared;
        let end = Arc::new(TapEnd::new(info, Arc::new(WakeFlag::new(Waker(notify)))));
        // Publishers see it before its place in the ring is chosen, so that nothing is published unheard.
        shared.tap.set(Arc::clone(&end)).ok()?;
        Some(Tap::new(end, shared.ring.reader(), Arc::clone(&shared.records)))
    }

    /// Numbers an event and puts it on the ring. `now` is in ns since the Unix epoch; a time that is not later
    /// than the last one given out is raised to the next.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published.
    pub fn publish(&self, incoming: Incoming<'_>, now: u64) -> Result<Receipt, PublishError> {
        let receipt = self.publish_quietly(incoming, now)?;
        self.wake();
        Ok(receipt)
    }

    /// As [`publish`](Self::publish), but sleeping shards stay asleep: for the events of one batch, all
    /// but the last. Whoever uses it must call [`wake`](Self::wake) afterwards.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published.
    pub fn publish_quietly(&self, incoming: Incoming<'_>, now: u64) -> Result<Receipt, PublishError> {
        if incoming.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(PublishError::TooLarge { size: incoming.payload.len() });
        }
        let draft = Draft::new(&incoming, self.shared.lz4_min_bytes);
        let mut ingest = self.shared.ingest.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp(&mut ingest, incoming.topic, incoming.facts.class, 1, now)?;
        let event = draft.stamp(stamp.stream, stamp.through, stamp.publish_time);
        let position = ingest.writer.cursor();
        let ended = ingest.record(stamp.stream).update(position, stamp.through.0, Some(&event));
        ingest.writer.publish(Item::Event(event));
        if let Some(ended) = ended {
            ingest.revive(&stamp, &ended, &self.shared.states);
        }
        let tap = self.shared.tap.get().filter(|tap| tap.hears(incoming.info.id, incoming.facts.class));
        if let Some(tap) = tap {
            tap.note(ingest.writer.cursor());
            drop(ingest);
            tap.wake();
        }
        Ok(Receipt::of(&stamp))
    }

    /// Tells all subscribers of a stream that its source skipped `count` events: they are given numbers,
    /// and a notice in their place.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was told.
    pub fn skip(&self, topic: &Topic, class: Class, count: u64, now: u64) -> Result<Receipt, PublishError> {
        if !(1..=SKIP_EVENTS_MAX).contains(&count) {
            return Err(PublishError::SkipCount);
        }
        let tap = self.shared.tap.get().filter(|tap| tap.is_of(topic, class));
        let stamp = {
            let mut ingest = self.shared.ingest.lock().unwrap_or_else(PoisonError::into_inner);
            let stamp = self.stamp(&mut ingest, topic, class, count, now)?;
            let position = ingest.writer.cursor();
            let _ = ingest.record(stamp.stream).update(position, stamp.through.0, None);
            ingest.writer.publish(Item::Skip(Skip {
                stream: stamp.stream,
                topic: topic.clone(),
                class,
                from: stamp.from.0,
                through: stamp.through.0,
                publish_time: stamp.publish_time,
                earlier: false,
            }));
            let Ingest { records, noted, .. } = &mut *ingest;
            records[stamp.stream.0 as usize - 1].put_on(noted);
            if let Some(tap) = tap {
                tap.note(ingest.writer.cursor());
            }
            stamp
        };
        if let Some(tap) = tap {
            tap.wake();
        }
        self.wake();
        Ok(Receipt::of(&stamp))
    }

    /// Lets a stream that nobody has heard of in this run go on behind the `count` events that an earlier one
    /// published: they are numbered, and nobody's loss.
    ///
    /// # Errors
    /// [`PublishError`]; nothing has changed.
    pub fn found(&self, topic: &Topic, class: Class, count: u64) -> Result<Receipt, PublishError> {
        let stamp = {
            let mut ingest = self.shared.ingest.lock().unwrap_or_else(PoisonError::into_inner);
            let stamp = self.stamp(&mut ingest, topic, class, count, 0)?;
            let position = ingest.writer.cursor();
            ingest.record(stamp.stream).found(position, stamp.through.0);
            ingest.writer.publish(Item::Skip(Skip {
                stream: stamp.stream,
                topic: topic.clone(),
                class,
                from: stamp.from.0,
                through: stamp.through.0,
                publish_time: stamp.publish_time,
                earlier: true,
            }));
            stamp
        };
        self.wake();
        Ok(Receipt::of(&stamp))
    }

    /// Tells what was found of streams, at most [`FINDINGS_MAX`] at once: it enters the streams' order of
    /// events, and whoever subscribed to them hears of it. Returns how many were news: a finding is void
    /// where its stream has had an event since, or is in that state already.
    ///
    /// # Panics
    /// When there are more.
    pub fn tell(&self, findings: &[Finding]) -> usize {
        assert!(findings.len() <= FINDINGS_MAX, "{} findings at once", findings.len());
        let mut ingest = self.shared.ingest.lock().unwrap_or_else(PoisonError::into_inner);
        let position = ingest.writer.cursor();
        let mut notes = Vec::new();
        for finding in findings {
            let Some(record) = ingest.records.get((finding.stream.0 as usize).wrapping_sub(1)) else {
                continue;
            };
            if let Some(before) = record.take(finding, position) {
                self.shared.states.change(before, finding.status.state);
                notes.push(Note { stream: finding.stream, status: finding.status });
            }
        }
        let told = notes.len();
        if told > 0 {
            ingest.writer.publish(Item::States(notes.into()));
            let tap = self.shared.tap.get();
            if let Some(tap) = tap {
                tap.note(ingest.writer.cursor());
            }
            drop(ingest);
            if let Some(tap) = tap {
                tap.wake();
            }
            self.wake();
        }
        told
    }

    /// Streams whose state was ended by an event, or whose source skipped something, since this was asked
    /// last; each once.
    #[must_use]
    pub fn noted(&self) -> Vec<StreamId> {
        std::mem::take(&mut self.shared.ingest.lock().unwrap_or_else(PoisonError::into_inner).noted)
    }

    /// Looks at some streams, without disturbing whoever publishes to others.
    pub fn look_at(&self, streams: &[StreamId], mut each: impl FnMut(StreamId, &Topic, Class, Pulse)) {
        for part in streams.chunks(FINDINGS_MAX) {
            for record in self.shared.records.some(part) {
                each(record.stream, &record.topic, record.class, record.pulse());
            }
        }
    }

    /// The stream of a topic in a class, if it was published to.
    #[must_use]
    pub fn stream_of(&self, topic: &Topic, class: Class) -> Option<StreamId> {
        self.shared.ingest.lock().unwrap_or_else(PoisonError::into_inner).sequencer.find(topic, class)
    }

    /// How many streams are in which state.
    #[must_use]
    pub fn states(&self) -> &StateCounts {
        &self.shared.states
    }

    /// Wakes the shards that sleep.
    pub fn wake(&self) {
        for flag in &self.shared.flags {
            flag.wake();
        }
    }

    /// Every stream, in order of id. Copies; for the status page.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamSummary> {
        self.shared.records.all().iter().map(|record| record.summary()).collect()
    }

    /// How many streams there are.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.shared.records.len()
    }

    /// How many events the slowest shard is behind.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let cursor = self.shared.ring.cursor();
        let behind = self.shared.stats.iter().map(|stats| cursor.saturating_sub(stats.position.get()));
        behind.max().unwrap_or(0)
    }

    /// The counters of each shard.
    #[must_use]
    pub fn shard_stats(&self) -> &[Arc<ShardStats>] {
        &self.shared.stats
    }

    /// The life of the history that sequences belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// The run that stream ids belong to.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.shared.boot
    }

    fn stamp(
        &self,
        ingest: &mut Ingest,
        topic: &Topic,
        class: Class,
        count: u64,
        now: u64,
    ) -> Result<Stamp, PublishError> {
        let stamp = ingest.sequencer.assign(topic, class, count, now).map_err(|refused| match refused {
            Refused::StreamLimit => PublishError::StreamLimit { max: self.shared.streams_max },
            Refused::SequenceLimit => PublishError::SequenceLimit,
        })?;
        if stamp.born {
            ingest.records.push(self.shared.records.birth(stamp.stream, topic.clone(), class));
        }
        Ok(stamp)
    }
}

impl Ingest {
    fn record(&self, stream: StreamId) -> &Record {
        &self.records[stream.0 as usize - 1]
    }

    /// Tells that an event has ended a state. It comes behind the event, so that who was lapped in between
    /// finds both in the records.
    fn revive(&mut self, stamp: &Stamp, ended: &Status, states: &StateCounts) {
        states.change(ended.state, StreamState::LIVE);
        let status = Status {
            state: StreamState::LIVE,
            reason: StateReason::EVENT,
            since: stamp.publish_time,
            last_sequence: stamp.through.0,
            ..*ended
        };
        self.writer.publish(Item::States([Note { stream: stamp.stream, status }].into()));
        self.records[stamp.stream.0 as usize - 1].put_on(&mut self.noted);
    }
}

impl Receipt {
    fn of(stamp: &Stamp) -> Self {
        Self { stream: stamp.stream, sequence: stamp.through, publish_time: stamp.publish_time }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("epoch", &self.shared.epoch)
            .field("streams", &self.stream_count())
            .field("ring", &self.shared.ring)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}
