//! What waits for one peer, bounded; and what happens when the bound is reached.
//!
//! ```text
//!   remainder   the rest of a frame that the socket took in part
//!   control     acknowledgements, binds, heartbeats: a reserved place
//!   critical    never dropped; past its bound the peer is closed
//!   data        the rest; past its bound the policy conflates, drops, or closes
//! ```
//!
//! They are written in this order, whole frames only, so frames never interleave. A stream keeps to one
//! lane, so its order is kept. The exception is a snapshot or replay: it is queued in the data lane, is
//! never dropped, and until it is written critical events queue up behind it instead of overtaking it.
//!
//! What is dropped goes to the ledger, and from there, as a notice, to the peer before the next frame of
//! its stream. Dropped entries of the data lane leave a mark in their place; marks are swept out when
//! they are half of it.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;
use tickcast_protocol::message::Policy;
use tickcast_protocol::{Class, StreamId, SubscriptionId};

use crate::event::Event;
use crate::ledger::{Ledger, Loss};
use crate::stats::Bound;
use crate::store::{EventRef, Store};

/// Most control messages that may wait for one peer before [`crate::Shard::send`] refuses.
pub const CONTROL_MESSAGES_MAX: usize = 256;
/// Most bytes of control messages that may wait for one peer before [`crate::Shard::send`] refuses. One that is
/// larger may wait alone.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Most bytes put together for one write from an outbox; the buffer is the shard's.
pub(crate) const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Marks of dropped entries are swept out when there are more than this and more than half the lane.
const MARKS_MAX: usize = 64;
/// No position.
const NONE: u64 = u64::MAX;

/// Bounds of the lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) critical_events: usize,
    pub(crate) critical_bytes: usize,
}

/// The peer cannot be served any longer without losing what must not be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    remainder: Vec<u8>,
    /// How much of the remainder was written.
    remainder_at: usize,
    /// The accounted event whose rest the remainder is, with its sequence.
    remainder_of: Option<(StreamId, u64)>,
    /// In front of the event lies what is told before it, which may be cut as well.
    remainder_tells: bool,
    control: VecDeque<Control>,
    control_bytes: usize,
    /// Binds among the control messages, and their bytes; not in `control_bytes`, for a bind cannot be left
    /// out and must not take the place of what can be refused.
    binds: usize,
    bind_bytes: usize,
    critical: VecDeque<Entry>,
    data: VecDeque<Entry>,
    /// Position of the data lane's front; the one behind it is one more.
    base: u64,
    /// Events of the data lane that may be dropped, and their bytes.
    lossy_events: usize,
    lossy_bytes: usize,
    /// Critical events in either lane, and their bytes.
    critical_events: usize,
    critical_bytes: usize,
    /// Entries of the data lane that may not be dropped; while there are any, nothing overtakes.
    kept: usize,
    bracket_bytes: usize,
    /// Entries of the data lane that are no events.
    words: usize,
    /// Entries of the data lane that were dropped.
    marks: usize,
    /// Oldest and newest position of each key; kept from the first overflow until the lane is empty.
    keys: Option<Keys>,
    /// Entries of the data lane that may be conflated.
    conflatable: usize,
    /// Of those, the ones that have a newer entry of their key; counted while keys are kept.
    superseded: usize,
    /// Before this position no entry is delivered in order and may be dropped.
    first_ordered: u64,
}

/// By stream and conflation key: positions of the oldest and the newest entry.
type Keys = HashMap<(StreamId, u64), (u64, u64), RandomState>;

#[derive(Debug)]
enum Control {
    Message(Bytes),
    Bind(Bytes),
}

#[derive(Debug)]
struct Entry {
    what: What,
    stream: StreamId,
    sequence: u64,
    key: u64,
    size: u32,
    /// Position of the next entry with the same key, if keys are kept.
    next: u64,
}

#[derive(Debug)]
enum What {
    /// Was dropped.
    Mark,
    /// May be dropped; may be conflated if so marked.
    Lossy(EventRef, bool),
    Critical(EventRef),
    /// An event of a snapshot (not accounted) or replay (accounted).
    Bracket(EventRef, SubscriptionId, bool),
    /// Begin, end, or a notice between them about the entry's stream.
    /// Boxed, for it is rare and would make every entry half as large again.
    Word(Box<(Bytes, SubscriptionId)>),
}

/// Part of a write, in the order of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    end: usize,
    of: Of,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Remainder,
    Control,
    Critical,
    Data,
    Notice(StreamId, u64),
}

/// What a write completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) deliveries: u64,
    pub(crate) critical: u64,
}

/// What lanes are made of, for [`Outbox::gather`]: how to turn events and losses into bytes.
pub(crate) trait Source {
    fn event(&self, event: &EventRef, out: &mut Vec<u8>);
    fn notice(&self, stream: StreamId, loss: &Loss, out: &mut Vec<u8>);
}

impl Outbox {
    /// Queues a control message, without looking at the bound.
    pub(crate) fn push_control(&mut self, bytes: Bytes) {
        self.control_bytes += bytes.len();
        self.control.push_back(Control::Message(bytes));
    }

    /// Queues a bind among the control messages, so that it is written before the events of its streams.
    pub(crate) fn push_bind(&mut self, bytes: Bytes) {
        self.binds += 1;
        self.bind_bytes += bytes.len();
        self.control.push_back(Control::Bind(bytes));
    }

    /// Queues begin, end, or a notice about `stream` among the data.
    pub(crate) fn push_word(&mut self, subscription: SubscriptionId, stream: Option<StreamId>, bytes: Bytes) {
        self.bracket_bytes += bytes.len();
        self.kept += 1;
        self.words += 1;
        let (size, stream) = (bytes.len() as u32, stream.unwrap_or_default());
        let what = What::Word(Box::new((bytes, subscription)));
        self.data.push_back(Entry { what, stream, sequence: 0, key: 0, size, next: NONE });
    }

    /// Queues an event of a snapshot or replay.
    pub(crate) fn push_bracket(
        &mut self,
        subscription: SubscriptionId,
        event: EventRef,
        replay: bool,
        size: usize,
        store: &Store,
    ) {
        self.bracket_bytes += size;
        self.kept += 1;
        let entry = Entry::new(store.get(&event), size);
        self.data.push_back(Entry { what: What::Bracket(event, subscription, replay), ..entry });
    }

    /// Queues a live event of `size` bytes; takes the reference over. When the lane is full, `policy`
    /// decides what the ledger gets. The caller closes a peer that is too slow.
    pub(crate) fn push(
        &mut self,
        event: EventRef,
        size: usize,
        policy: Policy,
        limits: &OutboxLimits,
        store: &mut Store,
        losses: &mut Losses<'_>,
    ) -> Result<(), TooSlow> {
        let entry = Entry::new(store.get(&event), size);
        let class = store.get(&event).class();
        if class == Class::Critical {
            return self.push_critical(entry, event, limits, store);
        }
        let conflates =
            policy == Policy::CONFLATE || (class == Class::Latest && policy != Policy::DROP_OLDEST);
        while self.bound_reached(class, size, limits).is_some() {
            if policy == Policy::DISCONNECT {
                store.release(event);
                return Err(TooSlow);
            }
            self.make_room(&entry, conflates, store, losses);
        }
        self.lossy_events += 1;
        self.lossy_bytes += size;
        self.conflatable += usize::from(conflates);
        let position = self.end();
        self.data.push_back(Entry { what: What::Lossy(event, conflates), ..entry });
        if conflates {
            self.link(position);
        }
        Ok(())
    }

    /// The bound that leaves no room for one more event of `size` bytes, if one does. An event that is
    /// larger than the lane may wait alone.
    pub(crate) fn bound_reached(&self, class: Class, size: usize, limits: &OutboxLimits) -> Option<Bound> {
        let (events, bytes, events_max, bytes_max) = if class == Class::Critical {
            (self.critical_events, self.critical_bytes, limits.critical_events, limits.critical_bytes)
        } else {
            (self.lossy_events, self.lossy_bytes, limits.events, limits.bytes)
        };
        match events {
            0 => None,
            _ if events >= events_max => Some(Bound::Events),
            _ => (bytes + size > bytes_max).then_some(Bound::Bytes),
        }
    }

    /// Drops what is queued for streams that are not wanted any more, and the brackets of `ended`.
    /// Nothing is told: the subscription is over. Of a replay, what another subscription's account
    /// rests on is kept, and comes as live.
    pub(crate) fn purge(
        &mut self,
        ended: SubscriptionId,
        unwanted: impl Fn(StreamId) -> bool,
        store: &mut Store,
    ) {
        let mut kept = VecDeque::with_capacity(self.critical.len());
        for entry in self.critical.drain(..) {
            match entry.what {
                What::Critical(event) if unwanted(entry.stream) => {
                    self.critical_events -= 1;
                    self.critical_bytes -= entry.size as usize;
                    store.release(event);
                }
                what => kept.push_back(Entry { what, ..entry }),
            }
        }
        self.critical = kept;
        for at in 0..self.data.len() {
            let entry = &self.data[at];
            let drop = match &entry.what {
                What::Lossy(..) | What::Critical(_) | What::Bracket(_, _, true) => unwanted(entry.stream),
                What::Bracket(_, of, false) => *of == ended,
                What::Word(word) if entry.stream == StreamId::default() => word.1 == ended,
                What::Word(..) => unwanted(entry.stream),
                What::Mark => false,
            };
            if drop {
                let what = self.take(at);
                self.marks += 1;
                if let Some(event) = what.into_event() {
                    store.release(event);
                }
            }
        }
        self.sweep();
    }

    /// Gives everything up but control messages and the rest of a frame that was begun.
    pub(crate) fn clear_events(&mut self, store: &mut Store) {
        let entries = self.critical.drain(..).chain(self.data.drain(..));
        for event in entries.filter_map(|entry| entry.what.into_event()) {
            store.release(event);
        }
        *self = Self {
            remainder: std::mem::take(&mut self.remainder),
            remainder_at: self.remainder_at,
            control: std::mem::take(&mut self.control),
            control_bytes: self.control_bytes,
            binds: self.binds,
            bind_bytes: self.bind_bytes,
            ..Self::default()
        };
    }

    /// Keeps the rest of a frame that a socket took in part. Only without another remainder.
    pub(crate) fn keep_rest(&mut self, rest: &[u8], of: Option<(StreamId, u64)>, tells: bool) {
        debug_assert!(self.remainder.is_empty(), "a remainder is written before anything else");
        self.remainder.extend_from_slice(rest);
        self.remainder_at = 0;
        self.remainder_of = of;
        self.remainder_tells = tells;
    }

    /// Puts the next bytes to write together in `out`, at least one frame and about
    /// [`WRITE_BYTES_MAX`], and says whether that is all there is. Losses are told before the next frame
    /// of their stream, and all that are left after the last frame.
    pub(crate) fn gather(
        &self,
        ledger: &Ledger,
        source: &impl Source,
        out: &mut Vec<u8>,
        marks: &mut Vec<Mark>,
    ) -> bool {
        out.clear();
        marks.clear();
        let mark = |of, out: &Vec<u8>, marks: &mut Vec<Mark>| {
            marks.push(Mark { end: out.len(), of });
            out.len() < WRITE_BYTES_MAX
        };
        if !self.remainder.is_empty() {
            out.extend_from_slice(&self.remainder[self.remainder_at..]);
            if !mark(Of::Remainder, out, marks) {
                return false;
            }
        }
        for Control::Message(bytes) | Control::Bind(bytes) in &self.control {
            out.extend_from_slice(bytes);
            if !mark(Of::Control, out, marks) {
                return false;
            }
        }
        // Ranges that this write already tells lie before the event that follows them.
        let mut told: Vec<(StreamId, u64)> = Vec::new();
        for (entry, of) in self.critical.iter().map(|entry| (entry, Of::Critical)).chain(self.data_entries())
        {
            if !ledger.is_empty() && !matches!(entry.what, What::Word(..) | What::Bracket(..)) {
                let through = told.iter().rev().find(|(stream, _)| *stream == entry.stream);
                let through = through.map_or(0, |(_, through)| *through);
                for loss in ledger.due(entry.stream, entry.sequence) {
                    if loss.through > through {
                        source.notice(entry.stream, loss, out);
                        marks.push(Mark { end: out.len(), of: Of::Notice(entry.stream, loss.through) });
                        told.push((entry.stream, loss.through));
                    }
                }
            }
            match &entry.what {
                What::Mark => {}
                What::Lossy(event, _) | What::Critical(event) | What::Bracket(event, ..) => {
                    source.event(event, out);
                }
                What::Word(word) => out.extend_from_slice(&word.0),
            }
            if !mark(of, out, marks) {
                return false;
            }
        }
        for (stream, loss) in ledger.all() {
            if told.iter().all(|(other, through)| *other != stream || *through < loss.through) {
                source.notice(stream, loss, out);
                if !mark(Of::Notice(stream, loss.through), out, marks) {
                    return false;
                }
            }
        }
        true
    }

    /// Strikes out what a write of the gathered bytes completed or began: `written` of `out`.
    pub(crate) fn commit(
        &mut self,
        written: usize,
        out: &[u8],
        marks: &[Mark],
        ledger: &mut Ledger,
        store: &mut Store,
    ) -> Committed {
        let mut committed = Committed::default();
        let mut start = 0;
        for mark in marks {
            // An entry without bytes (a format without words for it) is done when its turn comes.
            if mark.end > written && start >= written {
                break;
            }
            let rest = &out[written.clamp(start, mark.end)..mark.end];
            let mut of_event = None;
            match mark.of {
                Of::Remainder => {
                    self.remainder_at += (mark.end - start) - rest.len();
                    if rest.is_empty() {
                        self.remainder.clear();
                        self.remainder_at = 0;
                        self.remainder_of = None;
                    }
                    start = mark.end;
                    continue;
                }
                Of::Control => match self.control.pop_front().expect("as gathered") {
                    Control::Message(bytes) => self.control_bytes -= bytes.len(),
                    Control::Bind(bytes) => {
                        self.binds -= 1;
                        self.bind_bytes -= bytes.len();
                    }
                },
                Of::Notice(stream, through) => ledger.told(stream, through),
                Of::Critical => {
                    let entry = self.critical.pop_front().expect("as gathered");
                    self.critical_events -= 1;
                    self.critical_bytes -= entry.size as usize;
                    store.release(entry.what.into_event().expect("critical entries are events"));
                    committed.deliveries += 1;
                    committed.critical += 1;
                    of_event = Some((entry.stream, entry.sequence));
                }
                Of::Data => {
                    of_event = self.pop_data(store, &mut committed);
                }
            }
            if !rest.is_empty() {
                self.keep_rest(rest, of_event, false);
            }
            start = mark.end;
        }
        committed
    }

    /// True when nothing waits, control messages included. Losses may still be untold.
    pub(crate) fn is_empty(&self) -> bool {
        let lanes = self.control.is_empty() && self.critical.is_empty() && self.data.is_empty();
        lanes && self.remainder.is_empty()
    }

    /// True while events or snapshots wait, or the rest of a frame.
    pub(crate) fn has_data(&self) -> bool {
        !(self.critical.is_empty() && self.data.is_empty() && self.remainder.is_empty())
    }

    /// Streams of which accounted events wait, some named more than once.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> {
        let entries = self.critical.iter().chain(&self.data);
        entries.filter(|entry| entry.what.is_accounted()).map(|entry| entry.stream)
    }

    /// The last sequence of `stream` that waits and is accounted, or zero. Looks at everything that does.
    pub(crate) fn last_on(&self, stream: StreamId) -> u64 {
        let last = |lane: &VecDeque<Entry>| {
            let mut its =
                lane.iter().rev().filter(|entry| entry.stream == stream && entry.what.is_accounted());
            its.next().map_or(0, |entry| entry.sequence)
        };
        let begun = self.remainder_of.filter(|(of, _)| *of == stream).map_or(0, |(_, sequence)| sequence);
        // A critical stream may be in both, when a snapshot came in between.
        last(&self.critical).max(last(&self.data)).max(begun)
    }

    /// True when no further control message has its reserved place. Binds do not count.
    pub(crate) fn control_is_full(&self, more: usize) -> bool {
        let messages = self.control.len() - self.binds;
        // One that is larger may wait alone.
        let bytes = self.control_bytes;
        messages >= CONTROL_MESSAGES_MAX || bytes > 0 && bytes + more > CONTROL_BYTES_MAX
    }

    /// True while control messages wait. Binds do not count: many may, and what is said comes behind them anyway.
    pub(crate) fn has_control(&self) -> bool {
        self.control.len() > self.binds
    }

    /// True while control messages leave room for how streams are: the other half is for what the peer asks
    /// for, and for signs of life.
    pub(crate) fn has_room_for_states(&self) -> bool {
        self.control.len() - self.binds < CONTROL_MESSAGES_MAX / 2
            && self.control_bytes < CONTROL_BYTES_MAX / 2
    }

    /// Bytes of binds that wait.
    pub(crate) fn bind_bytes(&self) -> usize {
        self.bind_bytes
    }

    /// Bytes of snapshots and replays that wait.
    pub(crate) fn bracket_bytes(&self) -> usize {
        self.bracket_bytes
    }

    /// Events that wait, live or in brackets.
    pub(crate) fn events(&self) -> usize {
        self.critical.len() + self.data.len() - self.marks - self.words
    }

    /// Bytes that wait, each reference charged with its whole frame.
    pub(crate) fn bytes(&self) -> usize {
        let lanes = self.critical_bytes + self.lossy_bytes + self.bracket_bytes;
        lanes + self.control_bytes + self.bind_bytes + self.remainder.len() - self.remainder_at
    }

    fn push_critical(
        &mut self,
        entry: Entry,
        event: EventRef,
        limits: &OutboxLimits,
        store: &mut Store,
    ) -> Result<(), TooSlow> {
        let size = entry.size as usize;
        if self.bound_reached(Class::Critical, size, limits).is_some() {
            store.release(event);
            return Err(TooSlow);
        }
        self.critical_events += 1;
        self.critical_bytes += size;
        let entry = Entry { what: What::Critical(event), ..entry };
        if self.kept > 0 {
            self.kept += 1;
            self.data.push_back(entry);
        } else {
            self.critical.push_back(entry);
        }
        Ok(())
    }

    /// Makes room for `new` by what is missed least: an older event of its own key, then any that a newer
    /// one of its key supersedes, then the oldest that is delivered in order, and only then the last one
    /// there is of some key.
    fn make_room(&mut self, new: &Entry, conflates: bool, store: &mut Store, losses: &mut Losses<'_>) {
        if self.keys.is_none() && (conflates || self.conflatable > 0) {
            self.index_keys();
        }
        let own_key =
            self.keys.as_ref().filter(|_| conflates).and_then(|keys| keys.get(&(new.stream, new.key)));
        if let Some((oldest, _)) = own_key {
            let at = (*oldest - self.base) as usize;
            return self.drop_at(at, true, store, losses);
        }
        if self.superseded > 0 {
            // The first in the lane is the oldest of its key: an older one would be superseded as well.
            let is_superseded =
                |entry: &Entry| matches!(entry.what, What::Lossy(_, true)) && entry.next != NONE;
            if let Some(at) = self.data.iter().position(is_superseded) {
                return self.drop_at(at, true, store, losses);
            }
        }
        self.first_ordered = self.first_ordered.max(self.base);
        while self.first_ordered < self.end() {
            let at = (self.first_ordered - self.base) as usize;
            if matches!(self.data[at].what, What::Lossy(_, false)) {
                return self.drop_at(at, false, store, losses);
            }
            self.first_ordered += 1;
        }
        let oldest = self.data.iter().position(|entry| matches!(entry.what, What::Lossy(..)));
        self.drop_at(oldest.expect("the lane is full of events"), false, store, losses);
    }

    fn drop_at(&mut self, at: usize, conflated: bool, store: &mut Store, losses: &mut Losses<'_>) {
        let what = self.take(at);
        self.marks += 1;
        let Entry { stream, sequence, .. } = self.data[at];
        store.release(what.into_event().expect("only events are dropped"));
        losses.enter(stream, Loss::one(sequence, conflated));
        self.sweep();
    }

    /// Takes what the entry holds out of it and out of all sums.
    fn take(&mut self, at: usize) -> What {
        let entry = &mut self.data[at];
        let what = std::mem::replace(&mut entry.what, What::Mark);
        let (size, id, next) = (entry.size as usize, (entry.stream, entry.key), entry.next);
        match what {
            What::Lossy(_, conflatable) => {
                self.lossy_events -= 1;
                self.lossy_bytes -= size;
                self.conflatable -= usize::from(conflatable);
                if conflatable && let Some(keys) = &mut self.keys {
                    self.superseded -= usize::from(next != NONE);
                    // Only the oldest of a key is ever taken out while keys are kept, but for a purge,
                    // which takes all of a stream, oldest first.
                    match keys.get_mut(&id) {
                        Some((oldest, _)) if next != NONE => *oldest = next,
                        _ => drop(keys.remove(&id)),
                    }
                }
            }
            What::Critical(_) => {
                self.critical_events -= 1;
                self.critical_bytes -= size;
                self.kept -= 1;
            }
            What::Bracket(..) | What::Word(..) => {
                self.bracket_bytes -= size;
                self.kept -= 1;
                self.words -= usize::from(matches!(what, What::Word(..)));
            }
            What::Mark => self.marks -= 1,
        }
        what
    }

    /// Takes the front of the data lane off; says its stream and sequence if it was an accounted event.
    fn pop_data(&mut self, store: &mut Store, committed: &mut Committed) -> Option<(StreamId, u64)> {
        let what = self.take(0);
        let entry = self.data.pop_front().expect("as gathered");
        self.base += 1;
        if self.data.is_empty() {
            self.keys = None;
        }
        committed.critical += u64::from(matches!(what, What::Critical(_)));
        let accounted = what.is_accounted();
        if let Some(event) = what.into_event() {
            committed.deliveries += 1;
            store.release(event);
        }
        accounted.then_some((entry.stream, entry.sequence))
    }

    /// Enters the entry at `position`, the newest, under its key, if keys are kept.
    fn link(&mut self, position: u64) {
        let Some(keys) = &mut self.keys else { return };
        let entry = &self.data[(position - self.base) as usize];
        match keys.entry((entry.stream, entry.key)) {
            std::collections::hash_map::Entry::Vacant(vacant) => drop(vacant.insert((position, position))),
            std::collections::hash_map::Entry::Occupied(mut occupied) => {
                let newest = std::mem::replace(&mut occupied.get_mut().1, position);
                self.data[(newest - self.base) as usize].next = position;
                self.superseded += 1;
            }
        }
    }

    fn index_keys(&mut self) {
        self.keys = Some(Keys::default());
        self.superseded = 0;
        for at in 0..self.data.len() {
            self.data[at].next = NONE;
            if matches!(self.data[at].what, What::Lossy(_, true)) {
                self.link(self.base + at as u64);
            }
        }
    }

    /// Sweeps marks out when they are many; linear, but as many entries were dropped since the last one.
    fn sweep(&mut self) {
        if self.marks <= MARKS_MAX || self.marks * 2 <= self.data.len() {
            return;
        }
        self.data.retain(|entry| !matches!(entry.what, What::Mark));
        self.marks = 0;
        self.first_ordered = self.base;
        if self.keys.is_some() {
            self.index_keys();
        }
    }

    fn data_entries(&self) -> impl Iterator<Item = (&Entry, Of)> {
        self.data.iter().map(|entry| (entry, Of::Data))
    }

    fn end(&self) -> u64 {
        self.base + self.data.len() as u64
    }

    /// Accounted events of one stream that wait, the one begun included.
    #[cfg(test)]
    pub(crate) fn queued_on(&self, stream: StreamId) -> u64 {
        self.sequences_on(stream).len() as u64 + u64::from(self.begun_on(stream))
    }

    /// Sequences of the accounted events of one stream that wait whole.
    #[cfg(test)]
    pub(crate) fn sequences_on(&self, stream: StreamId) -> Vec<u64> {
        let accounted = |entry: &&Entry| entry.stream == stream && entry.what.is_accounted();
        self.critical.iter().chain(&self.data).filter(accounted).map(|entry| entry.sequence).collect()
    }

    /// True when the remainder is of an event of this stream.
    #[cfg(test)]
    pub(crate) fn begun_on(&self, stream: StreamId) -> bool {
        self.remainder_of.is_some_and(|(of, _)| of == stream)
    }

    /// True when nothing but events waits, so that the peer knows all it was told.
    #[cfg(all(test, not(tickcast_loom)))]
    pub(crate) fn is_told(&self) -> bool {
        let rest_is_told =
            self.remainder.is_empty() || (self.remainder_of.is_some() && !self.remainder_tells);
        self.control.is_empty() && self.bracket_bytes == 0 && rest_is_told
    }

    /// Drops one queued event and tells nobody: the fault that the simulator must find.
    #[cfg(all(test, not(tickcast_loom)))]
    pub(crate) fn swallow(&mut self, store: &mut Store) -> bool {
        let Some(at) = self.data.iter().position(|entry| matches!(entry.what, What::Lossy(..))) else {
            return false;
        };
        let what = self.take(at);
        self.marks += 1;
        store.release(what.into_event().expect("an event"));
        true
    }
}

impl Entry {
    fn new(event: &Event, size: usize) -> Self {
        Self {
            what: What::Mark,
            stream: event.stream(),
            sequence: event.sequence().0,
            key: event.conflation_key(),
            size: size as u32,
            next: NONE,
        }
    }
}

impl What {
    /// True for events that count, which those of a snapshot do not.
    fn is_accounted(&self) -> bool {
        matches!(self, Self::Lossy(..) | Self::Critical(_) | Self::Bracket(_, _, true))
    }

    fn into_event(self) -> Option<EventRef> {
        match self {
            Self::Lossy(event, _) | Self::Critical(event) | Self::Bracket(event, ..) => Some(event),
            Self::Mark | Self::Word(..) => None,
        }
    }
}

/// Where losses go: to the ledger, and one by one to whoever counts them.
pub(crate) struct Losses<'a> {
    pub(crate) ledger: &'a mut Ledger,
    /// Losses of this push, for the counters of their subscriptions.
    pub(crate) tally: &'a mut Vec<(StreamId, Loss)>,
}

impl Losses<'_> {
    pub(crate) fn enter(&mut self, stream: StreamId, loss: Loss) {
        self.ledger.enter(stream, loss);
        self.tally.push((stream, loss));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event;

    const ROOMY: OutboxLimits =
        OutboxLimits { events: 1_000, bytes: 1 << 20, critical_events: 1_000, critical_bytes: 1 << 20 };

    /// An outbox with what it needs around it.
    #[derive(Default)]
    struct Bench {
        outbox: Outbox,
        ledger: Ledger,
        store: Store,
        tally: Vec<(StreamId, Loss)>,
    }

    /// Events as `e<stream>:<sequence>;`, notices as `n<stream>:<from>-<through>c<conflated>;`.
    impl Source for Store {
        fn event(&self, event: &EventRef, out: &mut Vec<u8>) {
            let event = self.get(event);
            out.extend_from_slice(format!("e{}:{};", event.stream(), event.sequence()).as_bytes());
        }

        fn notice(&self, stream: StreamId, loss: &Loss, out: &mut Vec<u8>) {
            let notice = format!("n{stream}:{}-{}c{};", loss.from, loss.through, loss.conflated);
            out.extend_from_slice(notice.as_bytes());
        }
    }

    impl Bench {
        fn push(&mut self, limits: &OutboxLimits, policy: Policy, what: (Class, u32, u64, u64)) -> bool {
            let (class, stream, sequence, key) = what;
            let event = self.store.insert(event(stream, sequence, key, class, b""));
            let Self { outbox, ledger, store, tally } = self;
            outbox.push(event, 10, policy, limits, store, &mut Losses { ledger, tally }).is_ok()
        }

        fn write(&mut self, most: usize) -> String {
            let (mut out, mut marks) = (Vec::new(), Vec::new());
            self.outbox.gather(&self.ledger, &self.store, &mut out, &mut marks);
            let written = out.len().min(most);
            self.outbox.commit(written, &out, &marks, &mut self.ledger, &mut self.store);
            String::from_utf8(out[..written].to_vec()).unwrap()
        }

        fn drain(&mut self) -> String {
            let text = self.write(usize::MAX);
            assert!(self.outbox.is_empty() && self.ledger.is_empty());
            assert_eq!((self.store.len(), self.outbox.bytes(), self.outbox.events()), (0, 0, 0));
            text
        }
    }

    fn few(events: usize) -> OutboxLimits {
        OutboxLimits { events, ..ROOMY }
    }

    #[test]
    fn within_the_bound_all_are_kept_in_order() {
        let mut bench = Bench::default();
        for sequence in 1..=5 {
            assert!(bench.push(&few(5), Policy::DEFAULT, (Class::Latest, 1, sequence, 7)));
        }
        assert_eq!(bench.drain(), "e1:1;e1:2;e1:3;e1:4;e1:5;");
    }

    #[test]
    fn full_of_one_key_the_oldest_are_conflated() {
        let mut bench = Bench::default();
        for sequence in 1..=9 {
            bench.push(&few(3), Policy::DEFAULT, (Class::Latest, 1, sequence, 7));
        }
        assert_eq!(bench.drain(), "n1:1-6c6;e1:7;e1:8;e1:9;");
    }

    #[test]
    fn newest_of_every_key_survives() {
        let mut bench = Bench::default();
        for (sequence, key) in [(1, 8), (2, 7), (3, 7), (4, 7), (5, 7), (6, 9)] {
            bench.push(&few(3), Policy::DEFAULT, (Class::Latest, 1, sequence, key));
        }
        // 4 and 5 each took the place of the oldest of key 7; 6 found no 9, and took that of the 7 that a
        // newer one supersedes. The only 8 there is stays.
        assert_eq!(bench.drain(), "e1:1;n1:2-4c3;e1:5;e1:6;");
    }

    #[test]
    fn an_event_in_order_gives_way_before_the_last_value_of_a_key() {
        let mut bench = Bench::default();
        bench.push(&few(3), Policy::DEFAULT, (Class::Latest, 1, 1, 8));
        for sequence in 1..=4 {
            bench.push(&few(3), Policy::DEFAULT, (Class::Ordered, 2, sequence, 5));
        }
        // A quiet quote is not lost to a busy tape.
        assert_eq!(bench.drain(), "e1:1;n2:1-2c0;e2:3;e2:4;");
    }

    #[test]
    fn losses_between_survivors_are_told_between_them() {
        let mut bench = Bench::default();
        for (sequence, key) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 2)] {
            bench.push(&few(4), Policy::DEFAULT, (Class::Latest, 1, sequence, key));
        }
        assert_eq!(bench.drain(), "e1:1;n1:2-2c1;e1:3;e1:4;e1:5;");
    }

    #[test]
    fn ordered_events_drop_the_oldest_as_a_gap() {
        let mut bench = Bench::default();
        for sequence in 1..=5 {
            bench.push(&few(2), Policy::DEFAULT, (Class::Ordered, 1, sequence, 7));
        }
        assert_eq!(bench.drain(), "n1:1-3c0;e1:4;e1:5;");
        for sequence in 6..=9 {
            bench.push(&few(2), Policy::CONFLATE, (Class::Ordered, 1, sequence, 7));
        }
        assert_eq!(bench.drain(), "n1:6-7c2;e1:8;e1:9;");
        for sequence in 10..=12 {
            bench.push(&few(2), Policy::DROP_OLDEST, (Class::Latest, 1, sequence, 7));
        }
        assert_eq!(bench.drain(), "n1:10-10c0;e1:11;e1:12;");
    }

    #[test]
    fn bytes_are_a_bound_of_their_own() {
        let limits = OutboxLimits { bytes: 35, ..ROOMY };
        let mut bench = Bench::default();
        for sequence in 1..=5 {
            bench.push(&limits, Policy::DEFAULT, (Class::Ordered, 1, sequence, 7));
        }
        assert_eq!(bench.outbox.bytes(), 30);
        assert_eq!(bench.drain(), "n1:1-2c0;e1:3;e1:4;e1:5;");
        let limits = OutboxLimits { bytes: 5, ..ROOMY };
        bench.push(&limits, Policy::DEFAULT, (Class::Ordered, 1, 6, 7));
        assert_eq!(bench.drain(), "e1:6;", "one event may be larger than the bound");
    }

    #[test]
    fn disconnect_gives_up_instead_of_losing() {
        let mut bench = Bench::default();
        assert!(bench.push(&few(1), Policy::DISCONNECT, (Class::Latest, 1, 1, 7)));
        assert!(!bench.push(&few(1), Policy::DISCONNECT, (Class::Latest, 1, 2, 7)));
        assert!(bench.ledger.is_empty());
    }

    #[test]
    fn critical_events_go_first_and_are_never_dropped() {
        let limits = OutboxLimits { critical_events: 2, ..few(1) };
        let mut bench = Bench::default();
        bench.push(&limits, Policy::DEFAULT, (Class::Latest, 1, 1, 7));
        for policy in [Policy::CONFLATE, Policy::DROP_OLDEST] {
            let sequence = 1 + bench.outbox.critical_events as u64;
            assert!(bench.push(&limits, policy, (Class::Critical, 2, sequence, 7)));
        }
        assert!(!bench.push(&limits, Policy::CONFLATE, (Class::Critical, 2, 3, 7)), "past the bound");
        assert_eq!(bench.drain(), "e2:1;e2:2;e1:1;");
    }

    #[test]
    fn nothing_overtakes_a_snapshot() {
        let mut bench = Bench::default();
        let id = SubscriptionId(1);
        bench.outbox.push_word(id, None, Bytes::from_static(b"begin;"));
        let event = bench.store.insert(event(2, 4, 7, Class::Critical, b""));
        bench.outbox.push_bracket(id, event, false, 10, &bench.store);
        bench.outbox.push_word(id, None, Bytes::from_static(b"end;"));
        bench.push(&ROOMY, Policy::DEFAULT, (Class::Critical, 2, 5, 7));
        bench.outbox.push_control(Bytes::from_static(b"pong;"));
        assert_eq!(bench.outbox.queued_on(StreamId(2)), 1, "a snapshot is not accounted");
        assert_eq!(bench.drain(), "pong;begin;e2:4;end;e2:5;");
        bench.push(&ROOMY, Policy::DEFAULT, (Class::Latest, 1, 1, 7));
        bench.push(&ROOMY, Policy::DEFAULT, (Class::Critical, 2, 6, 7));
        assert_eq!(bench.drain(), "e2:6;e1:1;", "and then they do again");
    }

    #[test]
    fn partial_writes_at_every_byte_make_the_same_bytes() {
        let fill = |bench: &mut Bench| {
            bench.outbox.push_control(Bytes::from_static(b"ack;"));
            bench.push(&ROOMY, Policy::DEFAULT, (Class::Critical, 3, 1, 7));
            for sequence in 1..=6 {
                bench.push(&few(3), Policy::DEFAULT, (Class::Latest, 1, sequence, sequence % 2));
            }
            bench.ledger.enter(StreamId(9), Loss::gap(1, 4, crate::ledger::Cause::Lapped));
        };
        let mut bench = Bench::default();
        fill(&mut bench);
        let whole = bench.drain();
        assert_eq!(whole, "ack;e3:1;n1:1-2c2;e1:3;n1:4-4c1;e1:5;e1:6;n9:1-4c0;");
        for cut in 0..=whole.len() {
            let mut bench = Bench::default();
            fill(&mut bench);
            let first = bench.write(cut);
            assert_eq!(first + &bench.drain(), whole, "cut at {cut}");
        }
        for step in 1..6 {
            let mut bench = Bench::default();
            fill(&mut bench);
            let mut all = String::new();
            while all.len() < whole.len() {
                all += &bench.write(step);
            }
            assert_eq!(all, whole, "{step} at a time");
        }
    }

    #[test]
    fn begun_frame_is_finished_before_anything_else() {
        let mut bench = Bench::default();
        bench.push(&ROOMY, Policy::DEFAULT, (Class::Latest, 1, 1, 7));
        assert_eq!(bench.write(2), "e1");
        assert_eq!(bench.outbox.queued_on(StreamId(1)), 1, "half an event is still queued");
        bench.outbox.push_control(Bytes::from_static(b"pong;"));
        bench.push(&ROOMY, Policy::DEFAULT, (Class::Critical, 2, 1, 7));
        assert_eq!(bench.drain(), ":1;pong;e2:1;");
    }

    #[test]
    fn marks_are_swept_out() {
        let mut bench = Bench::default();
        let limits = few(8);
        // One that may not be conflated in front keeps the marks from being popped.
        bench.push(&limits, Policy::DROP_OLDEST, (Class::Ordered, 2, 1, 7));
        for sequence in 1..=5_000 {
            bench.push(&limits, Policy::DEFAULT, (Class::Latest, 1, sequence, sequence % 3));
            assert!(bench.outbox.data.len() <= 2 * MARKS_MAX + 16, "{}", bench.outbox.data.len());
        }
        assert!(bench.ledger.all().count() <= 8, "no more ranges than survivors");
        assert_eq!(bench.ledger.events(), 4_993);
        let written = bench.drain();
        assert!(written.starts_with("e2:1;n1:1-") && written.ends_with("e1:5000;"), "{written}");
    }

    #[test]
    fn purge_forgets_streams_and_brackets_of_an_ended_subscription() {
        let mut bench = Bench::default();
        for (class, stream, sequence) in
            [(Class::Latest, 1, 1), (Class::Latest, 2, 1), (Class::Critical, 3, 1), (Class::Critical, 4, 1)]
        {
            bench.push(&ROOMY, Policy::DEFAULT, (class, stream, sequence, 7));
        }
        bench.outbox.push_word(SubscriptionId(5), None, Bytes::from_static(b"begin5;"));
        bench.outbox.push_word(SubscriptionId(6), None, Bytes::from_static(b"begin6;"));
        bench.outbox.purge(SubscriptionId(5), |stream| stream.0 % 2 == 1, &mut bench.store);
        assert_eq!(bench.drain(), "e4:1;e2:1;begin6;");
    }
}
