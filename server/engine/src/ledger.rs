//! What one peer must still be told it did not get: ranges of sequences per stream.
//!
//! An entry exists only while there is something to tell. Ranges of one stream lie in order and do not
//! overlap; between two of them lies an event that is still queued, or the cause differs. So there are
//! never more than one range per queued event, one per stream, and [`CAUSES_MAX`] for changes of cause.
//!
//! A range that a filter left out is told to a whole group at once and may begin before the place from
//! which one of its members counts. What lies before that place is always part of what was filtered, so
//! the reader takes it off `filtered`, also after the range was joined with others.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use tickcast_protocol::message::{Notice, NoticeKind, Reason};
use tickcast_protocol::{StreamId, SubscriptionId};

/// Most ranges of one stream that may touch with different causes; past it they become one, with the
/// later cause.
const CAUSES_MAX: usize = 64;

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    OutboxFull,
    Lapped,
    Upstream,
    HistoryGone,
    /// None of the peer's filters let it pass.
    Filter,
    /// Its subscription asked for fewer.
    Rate,
}

/// A range of sequences that did not reach the peer: all of `from..=through`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) from: u64,
    pub(crate) through: u64,
    /// How many of them were replaced by a newer event of their key.
    pub(crate) conflated: u64,
    /// How many of them no filter of the peer's let pass. The rest are gaps.
    pub(crate) filtered: u64,
    pub(crate) cause: Cause,
}

/// One peer's losses that it was not told yet.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    streams: HashMap<StreamId, VecDeque<Loss>, RandomState>,
}

impl Cause {
    fn kind(self) -> NoticeKind {
        if self == Self::Upstream { NoticeKind::UPSTREAM_GAP } else { NoticeKind::LOSS }
    }

    fn reason(self) -> Reason {
        match self {
            Self::OutboxFull => Reason::OUTBOX_FULL,
            Self::Lapped => Reason::LAPPED,
            Self::Upstream => Reason::UPSTREAM,
            Self::HistoryGone => Reason::HISTORY_GONE,
            Self::Filter => Reason::FILTER,
            Self::Rate => Reason::RATE,
        }
    }
}

impl Loss {
    pub(crate) fn gap(from: u64, through: u64, cause: Cause) -> Self {
        Self { from, through, conflated: 0, filtered: 0, cause }
    }

    /// A range of which `conflated` events were replaced and the others did not pass.
    pub(crate) fn skipped(from: u64, through: u64, conflated: u64) -> Self {
        let cause = if conflated > 0 { Cause::Rate } else { Cause::Filter };
        Self { from, through, conflated, filtered: through + 1 - from - conflated, cause }
    }

    /// The part behind `position`, if there is one. What is taken off did not pass.
    pub(crate) fn behind(self, position: u64) -> Option<Self> {
        if self.through <= position {
            return None;
        }
        let known = (position + 1).saturating_sub(self.from);
        debug_assert!(known <= self.filtered, "only what was filtered may be told to who knows it: {self:?}");
        Some(Self { from: self.from + known, filtered: self.filtered.saturating_sub(known), ..self })
    }

    pub(crate) fn one(sequence: u64, conflated: bool) -> Self {
        let conflated = u64::from(conflated);
        Self { from: sequence, through: sequence, conflated, filtered: 0, cause: Cause::OutboxFull }
    }

    pub(crate) fn events(&self) -> u64 {
        self.through - self.from + 1
    }

    pub(crate) fn gapped(&self) -> u64 {
        self.events() - self.conflated - self.filtered
    }

    pub(crate) fn notice(&self, subscription: SubscriptionId, stream: StreamId) -> Notice {
        Notice {
            kind: self.cause.kind(),
            subscription: subscription.0,
            stream: stream.0,
            from: self.from,
            through: self.through,
            conflated: self.conflated,
            gapped: self.gapped(),
            filtered: self.filtered,
            reason: self.cause.reason(),
            reconnect_in_ms: 0,
        }
    }

    /// Takes `later` in, which follows directly.
    fn join(&mut self, later: &Self) {
        debug_assert_eq!(self.through + 1, later.from);
        self.through = later.through;
        self.conflated += later.conflated;
        self.filtered += later.filtered;
        self.cause = later.cause;
    }
}

impl Ledger {
    /// Enters a loss. Ranges that touch become one if their cause is the same.
    pub(crate) fn enter(&mut self, stream: StreamId, loss: Loss) {
        // Most streams have one range.
        let losses = self.streams.entry(stream).or_insert_with(|| VecDeque::with_capacity(1));
        // Most losses follow the newest one; evictions of a queue's front come in between.
        let mut at = losses.len();
        while at > 0 && losses[at - 1].from > loss.from {
            at -= 1;
        }
        debug_assert!(at == 0 || losses[at - 1].through < loss.from, "told twice: {losses:?} {loss:?}");
        debug_assert!(
            at == losses.len() || loss.through < losses[at].from,
            "told twice: {losses:?} {loss:?}"
        );
        let crowded = losses.len() >= CAUSES_MAX;
        let touches = |a: &Loss, b: &Loss| a.through + 1 == b.from && (a.cause == b.cause || crowded);
        if at > 0 && touches(&losses[at - 1], &loss) {
            losses[at - 1].join(&loss);
            at -= 1;
        } else {
            losses.insert(at, loss);
        }
        if at + 1 < losses.len() && touches(&losses[at], &losses[at + 1]) {
            let later = losses.remove(at + 1).expect("in range");
            losses[at].join(&later);
        }
    }

    /// The last sequence of `stream` there is something to tell about, or zero.
    pub(crate) fn last(&self, stream: StreamId) -> u64 {
        let losses = self.streams.get(&stream);
        losses.and_then(VecDeque::back).map_or(0, |loss| loss.through)
    }

    /// What must be told before the event `sequence` of `stream`.
    pub(crate) fn due(&self, stream: StreamId, sequence: u64) -> impl Iterator<Item = &Loss> {
        let losses = self.streams.get(&stream).into_iter().flatten();
        losses.take_while(move |loss| loss.through < sequence)
    }

    /// Everything there is to tell, streams in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (StreamId, &Loss)> {
        self.streams.iter().flat_map(|(stream, losses)| losses.iter().map(|loss| (*stream, loss)))
    }

    /// Strikes out what was told: the ranges of `stream` up to `through`.
    pub(crate) fn told(&mut self, stream: StreamId, through: u64) {
        let Some(losses) = self.streams.get_mut(&stream) else { return };
        while losses.front().is_some_and(|loss| loss.through <= through) {
            losses.pop_front();
        }
        if losses.is_empty() {
            self.streams.remove(&stream);
        }
    }

    /// Drops what there is to tell about streams that are not subscribed any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(StreamId) -> bool) {
        self.streams.retain(|stream, _| wanted(*stream));
    }

    /// Losses of one stream that were not told.
    #[cfg(all(test, not(tickcast_loom)))]
    pub(crate) fn on(&self, stream: StreamId) -> impl Iterator<Item = &Loss> {
        self.streams.get(&stream).into_iter().flatten()
    }

    pub(crate) fn clear(&mut self) {
        self.streams = HashMap::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Events that were lost and not told.
    pub(crate) fn events(&self) -> u64 {
        self.all().map(|(_, loss)| loss.events()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId(1);

    fn ranges(ledger: &Ledger) -> Vec<(u64, u64, u64, u64)> {
        let mut ranges: Vec<_> =
            ledger.all().map(|(_, loss)| (loss.from, loss.through, loss.conflated, loss.gapped())).collect();
        ranges.sort_unstable();
        ranges
    }

    #[test]
    fn touching_losses_merge_in_any_order() {
        let sequences = [3u64, 7, 4, 9, 8, 5, 1];
        for rotation in 0..sequences.len() {
            let mut ledger = Ledger::default();
            for at in 0..sequences.len() {
                let sequence = sequences[(at + rotation) % sequences.len()];
                ledger.enter(STREAM, Loss::one(sequence, sequence.is_multiple_of(2)));
            }
            assert_eq!(ranges(&ledger), [(1, 1, 0, 1), (3, 5, 1, 2), (7, 9, 1, 2)], "{rotation}");
        }
    }

    #[test]
    fn causes_stay_apart_until_there_are_too_many() {
        let mut ledger = Ledger::default();
        ledger.enter(STREAM, Loss::gap(1, 4, Cause::Lapped));
        ledger.enter(STREAM, Loss::gap(5, 5, Cause::Upstream));
        ledger.enter(STREAM, Loss::gap(6, 6, Cause::Upstream));
        assert_eq!(ranges(&ledger), [(1, 4, 0, 4), (5, 6, 0, 2)]);
        for sequence in 7..1_000_u64 {
            let cause = if sequence.is_multiple_of(2) { Cause::Upstream } else { Cause::OutboxFull };
            ledger.enter(STREAM, Loss::gap(sequence, sequence, cause));
        }
        assert!(ranges(&ledger).len() <= CAUSES_MAX);
        assert_eq!(ledger.events(), 999);
    }

    #[test]
    fn due_is_what_lies_before_the_event() {
        let mut ledger = Ledger::default();
        ledger.enter(STREAM, Loss::one(1, true));
        ledger.enter(STREAM, Loss::one(3, true));
        ledger.enter(StreamId(2), Loss::one(1, true));
        assert_eq!(ledger.due(STREAM, 2).count(), 1);
        assert_eq!(ledger.due(STREAM, 4).count(), 2);
        ledger.told(STREAM, 1);
        assert_eq!(ranges(&ledger), [(1, 1, 1, 0), (3, 3, 1, 0)]);
        ledger.told(STREAM, 3);
        ledger.retain(|stream| stream != StreamId(2));
        assert!(ledger.is_empty());
    }

    #[test]
    fn what_a_reader_knows_comes_off_what_was_filtered() {
        let loss = Loss::skipped(3, 10, 2);
        assert_eq!((loss.filtered, loss.conflated, loss.gapped()), (6, 2, 0));
        let rest = loss.behind(5).unwrap();
        assert_eq!((rest.from, rest.filtered, rest.conflated, rest.gapped()), (6, 3, 2, 0));
        assert_eq!(loss.behind(2), Some(loss));
        assert_eq!(loss.behind(10), None);
    }

    #[test]
    fn notice_says_range_counts_and_reason() {
        let mut loss = Loss::one(5, true);
        loss.join(&Loss::one(6, false));
        let notice = loss.notice(SubscriptionId(3), STREAM);
        assert_eq!((notice.subscription, notice.stream, notice.from, notice.through), (3, 1, 5, 6));
        assert_eq!((notice.conflated, notice.gapped, notice.reason), (1, 1, Reason::OUTBOX_FULL));
        let notice = Loss::gap(1, 2, Cause::Upstream).notice(SubscriptionId(3), STREAM);
        assert_eq!((notice.kind, notice.gapped), (NoticeKind::UPSTREAM_GAP, 2));
    }
}
