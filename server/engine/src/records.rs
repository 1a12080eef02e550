//! What is known of every stream outside of the shards: its head and last values. Read by a shard that
//! was lapped, and by the status page; never on the way of an event.
//!
//! The ingest section updates a record *before* it moves the ring's cursor. So whoever sees the cursor at
//! a position finds in the records everything published before that position.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::fast::RandomState;
use tickcast_protocol::message::{StateReason, StreamState};
use tickcast_protocol::{Class, Sequence, StreamId, Topic};

use crate::event::Event;
use crate::status::{Finding, Pulse, Rhythm, Status};

/// Most conflation keys remembered per stream; past it the key that was silent longest is forgotten, and
/// missing from snapshots. Costs at most this many events per stream, once for all shards.
pub(crate) const STREAM_KEYS_MAX: usize = 1_024;

/// Finds the key that was silent longest without looking at all of them. Costs nothing until a stream has
/// [`STREAM_KEYS_MAX`] keys, then at most 32 KiB.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// `(sequence, key)` of events in order, from the first eviction on. An entry is stale once its key has
    /// a newer event.
    order: VecDeque<(u64, u64)>,
}

/// All streams, in order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Written when a stream is born, under the ingest lock; read at status and repair.
    all: RwLock<Vec<Arc<Record>>>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) stream: StreamId,
    pub(crate) topic: Topic,
    pub(crate) class: Class,
    /// Taken by the ingest section for each event, where nobody else wants it except during a repair.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    head: u64,
    /// The ring position of the newest event or skip.
    position: u64,
    last: HashMap<u64, Arc<Event>, RandomState>,
    silence: Silence,
    /// When the newest event was published.
    last_event: u64,
    /// The newest sequence that was skipped.
    skipped: u64,
    rhythm: Rhythm,
    /// What was found of the stream; nothing while it is live.
    status: Option<Box<Status>>,
    /// The ring position at which that was told, or its end.
    told_at: u64,
    /// It is on the list of those to be looked at.
    noted: bool,
}

/// A stream as the status page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSummary {
    /// Its id.
    pub id: StreamId,
    /// Its topic.
    pub topic: Topic,
    /// Its class.
    pub class: Class,
    /// Its newest sequence.
    pub head: Sequence,
}

impl Silence {
    /// Notes that `key` has the new event `sequence`; `newest` is the newest sequence of a key.
    pub(crate) fn note(&mut self, sequence: u64, key: u64, newest: impl Fn(u64) -> Option<u64>) {
        if self.order.is_empty() {
            return;
        }
        self.order.push_back((sequence, key));
        let is_stale = |(sequence, key): &(u64, u64)| newest(*key) != Some(*sequence);
        while self.order.front().is_some_and(is_stale) {
            self.order.pop_front();
        }
        // A silent key in front keeps stale ones behind it. At least half go, so it is rare enough.
        if self.order.len() > 2 * STREAM_KEYS_MAX {
            self.order.retain(|entry| !is_stale(entry));
        }
    }

    /// The key to forget. The first time it needs the newest event of `all` keys.
    pub(crate) fn longest(&mut self, all: impl Iterator<Item = (u64, u64)>) -> u64 {
        if self.order.is_empty() {
            let mut order: Vec<_> = all.collect();
            order.sort_unstable();
            self.order = order.into();
        }
        // Not stale: `note` comes before this, with every event.
        self.order.pop_front().expect("there are keys").1
    }
}

impl Records {
    /// Adds the record of the stream with the next id.
    pub(crate) fn birth(&self, stream: StreamId, topic: Topic, class: Class) -> Arc<Record> {
        let record = Arc::new(Record { stream, topic, class, state: Mutex::default() });
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert_eq!(all.len() + 1, stream.0 as usize, "ids are given out in order");
        all.push(Arc::clone(&record));
        record
    }

    /// The records as they are now. A copy, so that births need not wait for a long repair.
    pub(crate) fn all(&self) -> Vec<Arc<Record>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn get(&self, stream: StreamId) -> Option<Arc<Record>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get((stream.0 as usize).checked_sub(1)?).cloned()
    }

    /// The records of `streams`, with the list held for as long as it takes to find them.
    pub(crate) fn some(&self, streams: &[StreamId]) -> Vec<Arc<Record>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let found = streams.iter().filter_map(|stream| all.get((stream.0 as usize).checked_sub(1)?));
        found.cloned().collect()
    }

    /// The records of the streams born after the first `count`.
    pub(crate) fn from(&self, count: usize) -> Vec<Arc<Record>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(count..).unwrap_or_default().to_vec()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Record {
    /// Notes what is about to be published at ring position `position`. Returns the status that an event
    /// ends, which is told right behind it: all but that of a replay, whose events are no news.
    pub(crate) fn update(&self, position: u64, through: u64, event: Option<&Arc<Event>>) -> Option<Status> {
        let mut state = self.state();
        state.head = through;
        state.position = position;
        let Some(event) = event else {
            state.skipped = through;
            return None;
        };
        state.last_event = event.publish_time();
        state.rhythm.note(event.publish_time());
        let ended = state.status.take_if(|status| status.state != StreamState::REPLAY);
        if ended.is_some() {
            state.told_at = position + 1;
        }
        let State { last, silence, .. } = &mut *state;
        last.insert(event.conflation_key(), Arc::clone(event));
        silence.note(event.sequence().0, event.conflation_key(), |key| {
            last.get(&key).map(|event| event.sequence().0)
        });
        if last.len() > STREAM_KEYS_MAX {
            let key = silence.longest(last.iter().map(|(key, event)| (event.sequence().0, *key)));
            last.remove(&key);
        }
        ended.map(|status| *status)
    }

    /// The stream goes on behind what an earlier run published; the slot at `position` says so.
    pub(crate) fn found(&self, position: u64, through: u64) {
        let mut state = self.state();
        (state.head, state.position) = (through, position);
    }

    /// Puts the stream on a list, unless it is there since it was looked at last.
    pub(crate) fn put_on(&self, list: &mut Vec<StreamId>) {
        if !std::mem::replace(&mut self.state().noted, true) {
            list.push(self.stream);
        }
    }

    /// How the stream is, if that was told before ring position `position`.
    pub(crate) fn status_before(&self, position: u64) -> Option<Status> {
        let state = self.state();
        if state.told_at >= position {
            return None;
        }
        let (since, last_sequence) = (state.last_event, state.head);
        let live = Status { reason: StateReason::EVENT, since, last_sequence, ..Status::live() };
        // Events end all of them but one, and that one is still so at the head.
        Some(state.status.as_deref().map_or(live, |status| Status { last_sequence, ..*status }))
    }

    /// What there is to be judged by; whoever looks has taken it off the list.
    pub(crate) fn pulse(&self) -> Pulse {
        let mut state = self.state();
        state.noted = false;
        Pulse {
            head: state.head,
            last_event: state.last_event,
            skipped: state.skipped,
            learned: state.rhythm.learned(),
            status: state.status.as_deref().copied().unwrap_or_else(Status::live),
        }
    }

    /// Takes a finding that will be told at `position`, if it still holds and is news; returns what the state
    /// was before.
    pub(crate) fn take(&self, finding: &Finding, position: u64) -> Option<StreamState> {
        let mut state = self.state();
        if state.head != finding.head {
            return None;
        }
        let before = state.status.as_ref().map_or(StreamState::LIVE, |status| status.state);
        if before == finding.status.state {
            return None;
        }
        state.told_at = position;
        let is_live = finding.status.state == StreamState::LIVE;
        state.status = (!is_live).then(|| Box::new(finding.status));
        Some(before)
    }

    /// Its newest sequence, and the ring position it was published at.
    pub(crate) fn head(&self) -> (u64, u64) {
        let state = self.state();
        (state.head, state.position)
    }

    /// The last values with sequences in `from..=through`, in order.
    pub(crate) fn last_between(&self, from: u64, through: u64) -> Vec<Arc<Event>> {
        let mut events: Vec<Arc<Event>> = {
            let state = self.state();
            let lost = state.last.values().filter(|event| (from..=through).contains(&event.sequence().0));
            lost.cloned().collect()
        };
        events.sort_unstable_by_key(|event| event.sequence());
        events
    }

    pub(crate) fn summary(&self) -> StreamSummary {
        StreamSummary {
            id: self.stream,
            topic: self.topic.clone(),
            class: self.class,
            head: Sequence(self.head().0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event;

    #[test]
    fn record_keeps_the_newest_event_of_each_key() {
        let records = Records::default();
        let record = records.birth(StreamId(1), Topic::parse("alert.A").unwrap(), Class::Critical);
        for (sequence, key) in [(1, 10), (2, 20), (3, 10)] {
            record.update(100 + sequence, sequence, Some(&event(1, sequence, key, Class::Critical, b"")));
        }
        record.update(104, 9, None);
        assert_eq!(record.head(), (9, 104));
        let sequences = |from, through| -> Vec<u64> {
            record.last_between(from, through).iter().map(|event| event.sequence().0).collect()
        };
        assert_eq!(sequences(1, 9), [2, 3]);
        assert_eq!(sequences(3, 9), [3]);
        assert_eq!(records.get(StreamId(1)).unwrap().summary().head, Sequence(9));
        assert!(records.get(StreamId(0)).is_none() && records.get(StreamId(2)).is_none());
    }

    #[test]
    fn keys_are_bounded() {
        let records = Records::default();
        let record = records.birth(StreamId(1), Topic::parse("alert.A").unwrap(), Class::Critical);
        let count = STREAM_KEYS_MAX as u64 + 5;
        for sequence in 1..=count {
            record.update(sequence, sequence, Some(&event(1, sequence, sequence, Class::Critical, b"")));
        }
        let kept = record.last_between(1, count);
        assert_eq!((kept.len(), kept[0].sequence().0), (STREAM_KEYS_MAX, 6));
    }

    #[test]
    fn the_key_that_was_silent_longest_is_forgotten() {
        let records = Records::default();
        let record = records.birth(StreamId(1), Topic::parse("alert.A").unwrap(), Class::Critical);
        let mut newest: HashMap<u64, u64> = HashMap::new();
        let mut random = 1u64;
        for sequence in 1..=20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Mostly a few busy keys, so that stale entries pile up behind silent ones.
            let keys = if sequence % 3 == 0 { 3 * STREAM_KEYS_MAX as u64 } else { 5 };
            let key = (random >> 33) % keys;
            record.update(sequence, sequence, Some(&event(1, sequence, key, Class::Critical, b"")));
            newest.insert(key, sequence);
            if newest.len() > STREAM_KEYS_MAX {
                let oldest = *newest.iter().min_by_key(|(_, sequence)| **sequence).unwrap().0;
                newest.remove(&oldest);
            }
        }
        let mut expected: Vec<u64> = newest.into_values().collect();
        expected.sort_unstable();
        let kept = record.last_between(1, 20_000);
        let kept: Vec<u64> = kept.iter().map(|event| event.sequence().0).collect();
        assert_eq!(kept, expected);
        assert!(record.state().silence.order.len() <= 2 * STREAM_KEYS_MAX + 1);
    }
}
