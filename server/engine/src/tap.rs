//! A tap: one more reader of the ring, which hears the events of one type and nothing else.
//!
//! It is for somebody in the process who makes something of every event of a type. A shard would keep an
//! index and a history of all streams for that; a tap keeps 16 bytes for each stream of its type. It is no
//! shard in other ways either: it has no peers, is in no shard's counters, and is not rung for events of
//! other types, so those pay a comparison for it. While it sleeps, the ring may go round under it: what was
//! overwritten then was not for it, and it finds that in the records.
//!
//! ```text
//!   publisher of the type ─► ring, then `newest`, then ring the bell
//!   tap ─► sleeping, then: is `newest` past my place? then stay awake
//! ```
//!
//! The order is that of [`crate::wake`], with `newest` in the cursor's place: the publisher stores it before
//! its swap, the tap loads it after its own. That is what `no_wakeup_is_lost` explores (`tests/loom_wake.rs`).
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use tickcast_protocol::registry::TypeInfo;
use tickcast_protocol::{Class, StreamId, Topic};

use crate::engine::Waker;
use crate::event::{Event, Item};
use crate::records::{Record, Records};
use crate::ring::Reader;
use crate::status::Status;
use crate::wake::WakeFlag;

/// What a tap hears, in order for each stream.
#[derive(Clone, Debug)]
pub enum Heard {
    /// An event.
    Event(Arc<Event>),
    /// Events that will not come: the source skipped them, or the tap was lapped.
    Missing {
        /// Of this stream.
        stream: StreamId,
        /// The last of them.
        through: u64,
    },
    /// How a stream is.
    Status {
        /// Which stream.
        stream: StreamId,
        /// How it is, as far as was told; perhaps what it was before.
        status: Status,
    },
}

/// What one look at the ring gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Events of the type that were handed over.
    pub events: usize,
    /// Places of the ring, whatever their type, that were overwritten before they could be read.
    pub lapped: u64,
    /// There is more to look at.
    pub remaining: bool,
}

/// The publishers' end of a tap.
pub(crate) struct TapEnd {
    info: &'static TypeInfo,
    /// The ring's cursor behind the newest item that may be for the tap.
    ///
    /// Written under the ingest lock, before the swap of `flag`; read by the tap after its own swap.
    newest: AtomicU64,
    flag: Arc<WakeFlag<Waker>>,
}

/// Hears every event of one type, in the type's own class, from the moment it was made.
pub struct Tap {
    end: Arc<TapEnd>,
    reader: Reader<Item>,
    records: Arc<Records>,
    /// The newest sequence heard of each stream of the type.
    heads: HashMap<StreamId, u64, RandomState>,
    /// Streams of any type that a repair has looked at.
    looked_at: usize,
    /// Read in one batch; emptied before the next.
    batch: Vec<Item>,
}

impl TapEnd {
    pub(crate) fn new(info: &'static TypeInfo, flag: Arc<WakeFlag<Waker>>) -> Self {
        Self { info, newest: AtomicU64::new(0), flag }
    }

    pub(crate) fn hears(&self, type_id: u16, class: Class) -> bool {
        type_id == self.info.id && class == self.info.class
    }

    pub(crate) fn is_of(&self, topic: &Topic, class: Class) -> bool {
        class == self.info.class && topic.type_name() == self.info.name
    }

    /// Notes, under the ingest lock, that there is something to hear before `cursor`.
    pub(crate) fn note(&self, cursor: u64) {
        self.newest.store(cursor, Ordering::Release);
    }

    /// Wakes the tap; to be called after [`note`](Self::note), outside of the lock.
    pub(crate) fn wake(&self) {
        self.flag.wake();
    }
}

impl Tap {
    pub(crate) fn new(end: Arc<TapEnd>, reader: Reader<Item>, records: Arc<Records>) -> Self {
        let looked_at = records.len();
        Self { end, reader, records, heads: HashMap::default(), looked_at, batch: Vec::new() }
    }

    /// Looks at up to `max` places of the ring and hands over what there is of its type.
    pub fn take(&mut self, max: usize, mut each: impl FnMut(Heard)) -> Taken {
        let mut taken = Taken::default();
        let mut left = max;
        loop {
            let Self { end, reader, batch, .. } = self;
            let read = reader.read_batch(left, |_, item| {
                let is_ours = match item {
                    Item::Event(event) => end.hears(event.type_id(), event.class()),
                    Item::Skip(skip) => end.is_of(&skip.topic, skip.class),
                    Item::States(_) => true,
                };
                if is_ours {
                    batch.push(item.clone());
                }
            });
            left -= read.read;
            let mut batch = std::mem::take(&mut self.batch);
            batch.drain(..).for_each(|item| taken.events += self.hear(item, &mut each));
            self.batch = batch;
            if let Some(lap) = read.lapped {
                taken.lapped += lap.events();
                taken.events += self.repair(lap.to, &mut each);
            }
            taken.remaining = read.remaining;
            if !read.remaining || left == 0 {
                return taken;
            }
        }
    }

    /// Says whether its thread may block until its notifier is called: nothing of its type is in the ring
    /// that was not taken.
    #[must_use = "a thread that blocks although there is work waits for the next event"]
    pub fn prepare_to_sleep(&self) -> bool {
        let position = self.reader.position();
        self.end.flag.prepare_to_sleep(|| self.end.newest.load(Ordering::Acquire) > position)
    }

    /// To be called when something else ended the sleep.
    pub fn stay_awake(&self) {
        self.end.flag.stay_awake();
    }

    /// Hands one thing over, behind what is missing before it; returns how many events that were.
    fn hear(&mut self, item: Item, each: &mut impl FnMut(Heard)) -> usize {
        match item {
            Item::Event(event) => {
                let (stream, sequence) = (event.stream(), event.sequence().0);
                let found = self.catch_up(stream, sequence - 1, each);
                self.heads.insert(stream, sequence);
                each(Heard::Event(event));
                found + 1
            }
            Item::Skip(skip) => {
                let found = self.catch_up(skip.stream, skip.from - 1, each);
                self.heads.insert(skip.stream, skip.through);
                each(Heard::Missing { stream: skip.stream, through: skip.through });
                found
            }
            Item::States(notes) => {
                for note in notes.iter().filter(|note| self.heads.contains_key(&note.stream)) {
                    each(Heard::Status { stream: note.stream, status: note.status });
                }
                0
            }
        }
    }

    /// Hands over what can still be had of a stream up to `through`: last values, and the holes around them.
    fn catch_up(&mut self, stream: StreamId, through: u64, each: &mut impl FnMut(Heard)) -> usize {
        let head = self.heads.get(&stream).copied().unwrap_or(0);
        if through <= head {
            return 0;
        }
        let record = self.records.get(stream);
        let events = record.map(|record| record.last_between(head + 1, through)).unwrap_or_default();
        let count = events.len();
        let mut next = head + 1;
        for event in events {
            let sequence = event.sequence().0;
            if sequence > next {
                each(Heard::Missing { stream, through: sequence - 1 });
            }
            each(Heard::Event(event));
            next = sequence + 1;
        }
        if next <= through {
            each(Heard::Missing { stream, through });
        }
        self.heads.insert(stream, through);
        count
    }

    /// After a lap: streams whose newest event lies before `position` show no jump, for nothing of them
    /// follows in the ring. All others will.
    fn repair(&mut self, position: u64, each: &mut impl FnMut(Heard)) -> usize {
        let mut born = self.records.from(self.looked_at);
        self.looked_at += born.len();
        born.retain(|record| {
            self.end.is_of(&record.topic, record.class) && !self.heads.contains_key(&record.stream)
        });
        let known: Vec<StreamId> = self.heads.keys().copied().collect();
        let known: Vec<Arc<Record>> = self.records.some(&known);
        let mut found = 0;
        for record in known.iter().chain(&born) {
            let (head, newest) = record.head();
            if newest < position && head > 0 {
                found += self.catch_up(record.stream, head, each);
            }
            if let Some(status) = record.status_before(position)
                && self.heads.contains_key(&record.stream)
            {
                each(Heard::Status { stream: record.stream, status });
            }
        }
        found
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("type", &self.end.info.name)
            .field("reader", &self.reader)
            .field("streams", &self.heads.len())
            .finish_non_exhaustive()
    }
}
