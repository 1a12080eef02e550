//! One stream's past on one shard: the last value of every key, and recent events without holes.
//!
//! Of a stream whose events build on each other there is no such value: its snapshot is the last event that
//! began anew, and all that followed it, while those are among the recent events.
//!
//! What was skipped or lost lies among the recent events as a range, so a resume can say what it cannot
//! replay. Shards share the bytes of events; a history costs 40 B per entry of its own.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use tickcast_protocol::registry::Part;

use crate::event::Event;
use crate::ledger::{Cause, Loss};
use crate::records::{STREAM_KEYS_MAX, Silence};
use crate::stats::Bound;
use crate::store::{EventRef, Store};

/// How much each stream remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    last: HashMap<u64, EventRef, RandomState>,
    silence: Silence,
    recent: VecDeque<Recent>,
    /// Bytes of the recent events.
    bytes: usize,
    /// The bound for which it forgot last.
    forgot_for: Option<Bound>,
    /// Publish time of the newest event that it forgot.
    forgot_until: u64,
}

/// One entry of the recent past; consecutive ones are consecutive in sequence.
#[derive(Debug)]
pub(crate) enum Recent {
    Event(EventRef),
    Gap(Loss),
}

/// What a newcomer begins with.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// In order of their sequences.
    pub(crate) events: Vec<EventRef>,
    /// The bound for which there is nothing of a stream whose events build on each other.
    pub(crate) short: Option<Bound>,
}

/// A part of the past.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) entries: Vec<Recent>,
    /// The bound for which it does not reach back as far as was asked.
    pub(crate) short: Option<Bound>,
}

impl History {
    /// Remembers an event; takes the reference over.
    pub(crate) fn push(&mut self, event: EventRef, limits: HistoryLimits, store: &mut Store) {
        let (key, sequence, size) = {
            let event = store.get(&event);
            (event.conflation_key(), event.sequence().0, event.binary().len())
        };
        let last = store.share(&event);
        if let Some(replaced) = self.last.insert(key, last) {
            store.release(replaced);
        }
        let newest = |event: &EventRef| store.get(event).sequence().0;
        self.silence.note(sequence, key, |key| self.last.get(&key).map(newest));
        if self.last.len() > STREAM_KEYS_MAX {
            let all = self.last.iter().map(|(key, event)| (newest(event), *key));
            let key = self.silence.longest(all);
            store.release(self.last.remove(&key).expect("just found"));
        }
        self.bytes += size;
        self.recent.push_back(Recent::Event(event));
        self.trim(limits, store);
    }

    /// Remembers that sequences are missing.
    pub(crate) fn gap(&mut self, loss: Loss, limits: HistoryLimits, store: &mut Store) {
        if let Some(Recent::Gap(last)) = self.recent.back_mut()
            && last.cause == loss.cause
        {
            last.through = loss.through;
            return;
        }
        self.recent.push_back(Recent::Gap(loss));
        self.trim(limits, store);
    }

    /// The last value of every key, oldest first, as far as it passes. Where events build on each other, the
    /// last one that began anew and all that followed it, paid from `budget` as in [`History::since`]; nothing
    /// when one of them is missing, does not pass, or cannot be paid.
    pub(crate) fn snapshot(
        &self,
        passes: impl Fn(&Event) -> bool,
        budget: &mut usize,
        store: &mut Store,
    ) -> Snapshot {
        let builds = |event: &EventRef| store.get(event).part() != Part::Whole;
        if self.last.values().next().is_some_and(builds) {
            return self.chain(passes, budget, store);
        }
        let mut events: Vec<&EventRef> =
            self.last.values().filter(|event| passes(store.get(event))).collect();
        events.sort_unstable_by_key(|event| store.get(event).sequence());
        let events = events.into_iter().map(|event| store.share(event)).collect();
        Snapshot { events, short: None }
    }

    fn chain(&self, passes: impl Fn(&Event) -> bool, budget: &mut usize, store: &mut Store) -> Snapshot {
        let mut chain = Vec::new();
        let mut left = *budget;
        for entry in self.recent.iter().rev() {
            let Recent::Event(reference) = entry else { return Snapshot::default() };
            let event = store.get(reference);
            if !passes(event) {
                return Snapshot::default();
            }
            let Some(rest) = left.checked_sub(event.binary().len()) else {
                return Snapshot { short: Some(Bound::Bytes), ..Snapshot::default() };
            };
            left = rest;
            chain.push(reference);
            if event.part() == Part::Base {
                *budget = left;
                let events = chain.into_iter().rev().map(|event| store.share(event)).collect();
                return Snapshot { events, short: None };
            }
        }
        Snapshot { short: self.forgot_for, ..Snapshot::default() }
    }

    /// What followed `position` up to `head`, in order: events, and ranges that are not to be had. Events
    /// are paid from `budget`, in bytes of their binary frames, the newest first; what it does not cover
    /// is not to be had either. Events that do not pass become ranges that say so, and cost nothing.
    pub(crate) fn since(
        &self,
        position: u64,
        head: u64,
        passes: impl Fn(&Event) -> bool,
        budget: &mut usize,
        store: &mut Store,
    ) -> Past {
        let mut past = Vec::new();
        let mut short = None;
        let mut oldest = head + 1;
        for entry in self.recent.iter().rev() {
            match entry {
                Recent::Event(event) => {
                    let sequence = store.get(event).sequence().0;
                    if sequence <= position {
                        break;
                    }
                    if !passes(store.get(event)) {
                        match past.last_mut() {
                            Some(Recent::Gap(later)) if later.cause == Cause::Filter => {
                                *later = Loss::skipped(sequence, later.through, 0);
                            }
                            _ => past.push(Recent::Gap(Loss::skipped(sequence, sequence, 0))),
                        }
                        oldest = sequence;
                        continue;
                    }
                    let Some(left) = budget.checked_sub(store.get(event).binary().len()) else {
                        short = Some(Bound::Bytes);
                        break;
                    };
                    *budget = left;
                    oldest = sequence;
                    past.push(Recent::Event(store.share(event)));
                }
                Recent::Gap(loss) => {
                    if loss.through <= position {
                        break;
                    }
                    oldest = loss.from.max(position + 1);
                    past.push(Recent::Gap(Loss { from: oldest, ..*loss }));
                }
            }
        }
        if oldest > position + 1 {
            past.push(Recent::Gap(Loss::gap(position + 1, oldest - 1, Cause::HistoryGone)));
            short = short.or(self.forgot_for);
        }
        past.reverse();
        Past { entries: past, short }
    }

    /// The position behind which the events lie that were published at `time` or later, and whether it has
    /// forgotten some of them.
    pub(crate) fn before(&self, time: u64, head: u64, store: &Store) -> (u64, bool) {
        let mut position = head;
        for entry in self.recent.iter().rev() {
            match entry {
                Recent::Event(event) if store.get(event).publish_time() < time => break,
                Recent::Event(event) => position = store.get(event).sequence().0 - 1,
                // Nobody knows when that was: rather told once too often.
                Recent::Gap(loss) => position = loss.from - 1,
            }
        }
        (position, self.forgot_until >= time && self.forgot_until > 0)
    }

    /// The oldest event it can still replay: sequence and publish time.
    pub(crate) fn oldest_event(&self, store: &Store) -> Option<(u64, u64)> {
        self.recent.iter().find_map(|entry| match entry {
            Recent::Event(event) => {
                let event = store.get(event);
                Some((event.sequence().0, event.publish_time()))
            }
            Recent::Gap(_) => None,
        })
    }

    /// The oldest sequence it can still replay from, if there is one.
    pub(crate) fn oldest(&self, store: &Store) -> Option<u64> {
        self.oldest_event(store).map(|(sequence, _)| sequence)
    }

    fn trim(&mut self, limits: HistoryLimits, store: &mut Store) {
        while self.recent.len() > limits.events || self.bytes > limits.bytes {
            let by_bytes = self.bytes > limits.bytes;
            self.forgot_for = Some(if by_bytes { Bound::Bytes } else { Bound::Events });
            match self.recent.pop_front() {
                Some(Recent::Event(event)) => {
                    self.bytes -= store.get(&event).binary().len();
                    self.forgot_until = store.get(&event).publish_time();
                    store.release(event);
                }
                Some(Recent::Gap(_)) => {
                    // It may be as young as what follows it.
                    self.forgot_until = match self.recent.front() {
                        Some(Recent::Event(event)) => store.get(event).publish_time(),
                        Some(Recent::Gap(_)) => self.forgot_until,
                        None => u64::MAX,
                    };
                }
                None => break,
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn release(&mut self, store: &mut Store) {
        self.trim(HistoryLimits { events: 0, bytes: 0 }, store);
        self.silence = Silence::default();
        for (_, event) in self.last.drain() {
            store.release(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::{event, event_of};
    use tickcast_protocol::Class;

    const LIMITS: HistoryLimits = HistoryLimits { events: 4, bytes: 10_000 };

    fn sequences(store: &mut Store, events: Vec<EventRef>) -> Vec<u64> {
        let sequence = |event| {
            let sequence = store.get(&event).sequence().0;
            store.release(event);
            sequence
        };
        events.into_iter().map(sequence).collect()
    }

    /// Events as `(sequence, sequence)`, gaps as their range.
    fn since(history: &History, position: u64, store: &mut Store) -> Vec<(u64, u64)> {
        since_within(history, position, usize::MAX, store)
    }

    fn since_within(
        history: &History,
        position: u64,
        mut budget: usize,
        store: &mut Store,
    ) -> Vec<(u64, u64)> {
        let past = history.since(position, 6, |_| true, &mut budget, store).entries;
        let range = |entry| match entry {
            Recent::Event(event) => {
                let sequence = store.get(&event).sequence().0;
                store.release(event);
                (sequence, sequence)
            }
            Recent::Gap(loss) => (loss.from, loss.through),
        };
        past.into_iter().map(range).collect()
    }

    fn push(history: &mut History, store: &mut Store, sequence: u64, key: u64) {
        let event = store.insert(event(1, sequence, key, Class::Latest, &[0; 100]));
        history.push(event, LIMITS, store);
    }

    #[test]
    fn snapshot_is_the_last_value_per_key_in_sequence_order() {
        let (mut history, mut store) = (History::default(), Store::default());
        for (sequence, key) in [(1, 7), (2, 8), (3, 9), (4, 7), (5, 7), (6, 7), (7, 7)] {
            push(&mut history, &mut store, sequence, key);
        }
        // Last values are as many as there are keys, whatever they weigh.
        let snapshot = history.snapshot(|_| true, &mut 0, &mut store);
        assert_eq!(sequences(&mut store, snapshot.events), [2, 3, 7]);
        history.release(&mut store);
        assert_eq!(store.len(), 0);
    }

    /// A base at each of `bases`, deltas elsewhere.
    fn build(through: u64, bases: &[u64], store: &mut Store) -> History {
        let mut history = History::default();
        for sequence in 1..=through {
            let part = if bases.contains(&sequence) { Part::Base } else { Part::Delta };
            let event = store.insert(event_of(part, sequence, u64::from(part == Part::Base)));
            history.push(event, LIMITS, store);
        }
        history
    }

    #[test]
    fn snapshot_of_what_builds_on_each_other_is_the_last_base_and_all_behind_it() {
        let mut store = Store::default();
        for (through, bases, expected, short) in [
            (3, &[1][..], &[1, 2, 3][..], None),
            (6, &[1, 4], &[4, 5, 6], None),
            (4, &[1, 4], &[4], None),
            // Four events are kept.
            (5, &[1], &[], Some(Bound::Events)),
            (3, &[], &[], None),
        ] {
            let mut history = build(through, bases, &mut store);
            let mut budget = 10_000;
            let snapshot = history.snapshot(|_| true, &mut budget, &mut store);
            assert_eq!(snapshot.short, short);
            let weight: usize = snapshot.events.iter().map(|event| store.get(event).binary().len()).sum();
            assert_eq!(budget, 10_000 - weight);
            assert_eq!(sequences(&mut store, snapshot.events), expected);
            history.release(&mut store);
            assert_eq!(store.len(), 0);
        }
    }

    #[test]
    fn what_builds_on_each_other_comes_whole_or_not_at_all() {
        let mut store = Store::default();
        let mut history = build(3, &[1], &mut store);
        let without_the_second = |event: &Event| event.sequence().0 != 2;
        assert!(history.snapshot(without_the_second, &mut 10_000, &mut store).events.is_empty());
        let Some(Recent::Event(newest)) = history.recent.back() else { panic!("an event") };
        let mut budget = 3 * store.get(newest).binary().len() - 1;
        let unpaid = history.snapshot(|_| true, &mut budget, &mut store);
        assert_eq!((unpaid.events.len(), unpaid.short), (0, Some(Bound::Bytes)));
        budget += 1;
        let paid = history.snapshot(|_| true, &mut budget, &mut store);
        assert_eq!((sequences(&mut store, paid.events), budget), (vec![1, 2, 3], 0));
        history.release(&mut store);

        let mut history = build(2, &[1], &mut store);
        history.gap(Loss::gap(3, 4, Cause::Upstream), LIMITS, &mut store);
        assert!(history.snapshot(|_| true, &mut 10_000, &mut store).events.is_empty());
        let base = store.insert(event_of(Part::Base, 5, 1));
        history.push(base, LIMITS, &mut store);
        let snapshot = history.snapshot(|_| true, &mut 10_000, &mut store);
        assert_eq!(sequences(&mut store, snapshot.events), [5], "what begins anew needs nothing before it");
        history.release(&mut store);
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn resume_replays_what_is_there_and_names_what_is_not() {
        let (mut history, mut store) = (History::default(), Store::default());
        for sequence in 1..=6 {
            push(&mut history, &mut store, sequence, 1);
        }
        assert_eq!(since(&history, 4, &mut store), [(5, 5), (6, 6)]);
        assert_eq!(since(&history, 6, &mut store), []);
        assert_eq!(since(&history, 0, &mut store), [(1, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
        assert_eq!(history.oldest(&store), Some(3));
        history.release(&mut store);
    }

    #[test]
    fn budget_is_spent_on_the_newest() {
        let (mut history, mut store) = (History::default(), Store::default());
        for sequence in 1..=6 {
            push(&mut history, &mut store, sequence, 1);
        }
        let Some(Recent::Event(newest)) = history.recent.back() else { panic!("an event") };
        let size = store.get(newest).binary().len();
        let mut within = |position, budget| since_within(&history, position, budget, &mut store);
        assert_eq!(within(2, 2 * size), [(3, 4), (5, 5), (6, 6)]);
        assert_eq!(within(4, 2 * size), [(5, 5), (6, 6)]);
        assert_eq!(within(2, 2 * size - 1), [(3, 5), (6, 6)]);
        assert_eq!(within(2, 0), [(3, 6)]);
        let past = history.since(2, 6, |_| true, &mut 0, &mut store);
        assert_eq!(past.short, Some(Bound::Bytes));
        history.release(&mut store);
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn what_does_not_pass_is_a_range_and_costs_nothing() {
        let (mut history, mut store) = (History::default(), Store::default());
        for sequence in 1..=6 {
            push(&mut history, &mut store, sequence, 1);
        }
        let passes = |event: &Event| event.sequence().0 == 5;
        let Some(Recent::Event(newest)) = history.recent.back() else { panic!("an event") };
        let size = store.get(newest).binary().len();
        let past = history.since(2, 6, passes, &mut { size }, &mut store);
        let told: Vec<(u64, u64, u64)> = past
            .entries
            .into_iter()
            .map(|entry| match entry {
                Recent::Event(event) => {
                    let sequence = store.get(&event).sequence().0;
                    store.release(event);
                    (sequence, sequence, 0)
                }
                Recent::Gap(loss) => (loss.from, loss.through, loss.filtered),
            })
            .collect();
        assert_eq!(told, [(3, 4, 2), (5, 5, 0), (6, 6, 1)]);
        assert!(history.snapshot(passes, &mut 0, &mut store).events.is_empty());
        history.release(&mut store);
    }

    #[test]
    fn gaps_are_part_of_the_past() {
        let (mut history, mut store) = (History::default(), Store::default());
        push(&mut history, &mut store, 1, 1);
        history.gap(Loss::gap(2, 4, Cause::Upstream), LIMITS, &mut store);
        history.gap(Loss::gap(5, 5, Cause::Upstream), LIMITS, &mut store);
        push(&mut history, &mut store, 6, 1);
        assert_eq!(since(&history, 0, &mut store), [(1, 1), (2, 5), (6, 6)]);
        assert_eq!(since(&history, 3, &mut store), [(4, 5), (6, 6)]);
        history.release(&mut store);
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn a_time_has_its_place_and_what_was_forgotten_is_known() {
        // Events are published at 1,000 ns and their sequence.
        let (mut history, mut store) = (History::default(), Store::default());
        assert_eq!(history.before(0, 0, &store), (0, false));
        for sequence in 1..=6 {
            push(&mut history, &mut store, sequence, 1);
        }
        assert_eq!(history.oldest_event(&store), Some((3, 1_003)));
        let before = |time| history.before(time, 6, &store);
        assert_eq!(before(1_005), (4, false));
        assert_eq!(before(1_003), (2, false));
        assert_eq!(before(1_002), (2, true), "the second is forgotten");
        assert_eq!(before(9_999), (6, false));
        history.release(&mut store);
    }

    #[test]
    fn a_gap_before_a_time_is_told_rather_than_not() {
        let (mut history, mut store) = (History::default(), Store::default());
        push(&mut history, &mut store, 1, 1);
        history.gap(Loss::gap(2, 4, Cause::Upstream), LIMITS, &mut store);
        push(&mut history, &mut store, 5, 1);
        assert_eq!(history.before(1_005, 5, &store), (1, false));
        assert_eq!(history.before(1_001, 5, &store), (0, false));
        history.gap(Loss::gap(6, 8, Cause::Upstream), LIMITS, &mut store);
        assert_eq!(history.before(2_000, 8, &store), (5, false));
        history.release(&mut store);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (mut history, mut store) = (History::default(), Store::default());
        let limits = HistoryLimits { events: 100, bytes: 300 };
        for sequence in 1..=5 {
            let event = store.insert(event(1, sequence, 1, Class::Latest, &[0; 100]));
            history.push(event, limits, &mut store);
        }
        assert_eq!(history.oldest(&store), Some(4));
        history.release(&mut store);
        assert_eq!(store.len(), 0);
    }
}
