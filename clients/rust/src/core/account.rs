//! The accounting of one subscription on one stream: what was published and where each event went.
//!
//! The promise, from the sequence the bind named: `received + conflated + gapped + filtered` is what was
//! published, at rest. A [`Track`] counts; every jump of sequences must be covered by what notices told,
//! and what is not covered is a loss that nobody explained.

use super::event::SubscriptionKey;
use super::fresh::Freshness;

/// Where the events of a stream, or of many, went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Events published since the subscription began, as far as the client knows the head.
    pub published: u64,
    /// Events received.
    pub received: u64,
    /// Events replaced by a newer one of the same key.
    pub conflated: u64,
    /// Events lost, told or not.
    pub gapped: u64,
    /// Events that did not match the filter.
    pub filtered: u64,
}

impl Account {
    /// Events whose fate is known.
    #[must_use]
    pub const fn settled(&self) -> u64 {
        self.received.saturating_add(self.conflated).saturating_add(self.gapped).saturating_add(self.filtered)
    }

    /// Events published that have neither arrived nor been told of: on their way, or queued.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.published.saturating_sub(self.settled())
    }

    /// True when every published event is accounted for: what must hold at rest.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.published == self.settled()
    }
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.published = self.published.saturating_add(other.published);
        self.received = self.received.saturating_add(other.received);
        self.conflated = self.conflated.saturating_add(other.conflated);
        self.gapped = self.gapped.saturating_add(other.gapped);
        self.filtered = self.filtered.saturating_add(other.filtered);
    }
}

/// What a notice told of a range of sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) conflated: u64,
    pub(crate) gapped: u64,
    pub(crate) filtered: u64,
}

impl Told {
    fn sum(&self) -> u64 {
        self.conflated.saturating_add(self.gapped).saturating_add(self.filtered)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.conflated = self.conflated.saturating_add(other.conflated);
        self.gapped = self.gapped.saturating_add(other.gapped);
        self.filtered = self.filtered.saturating_add(other.filtered);
    }

    /// Takes up to `count` off, the mildest first.
    fn take(&mut self, count: u64) -> Self {
        let filtered = self.filtered.min(count);
        let conflated = self.conflated.min(count - filtered);
        let gapped = self.gapped.min(count - filtered - conflated);
        self.filtered -= filtered;
        self.conflated -= conflated;
        self.gapped -= gapped;
        Self { conflated, gapped, filtered }
    }
}

/// How a data frame relates to what is already known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It counts; this many events before it are missing and nobody said why.
    New { unexplained: u64 },
    /// It was received or accounted for before.
    Repeat,
}

/// First and last sequence of a replay, and when data had come last before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replayed {
    pub(crate) from: u64,
    pub(crate) through: u64,
    pub(crate) since: u64,
}

/// One subscription on one stream. Invariants: `first >= 1`, `first <= next`, `head >= next - 1`.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    pub(crate) subscription: SubscriptionKey,
    /// The server's number of the subscription on this connection.
    pub(crate) server_id: u32,
    /// Counting of connections at the last bind.
    pub(crate) bound_on: u64,
    pub(crate) fresh: Freshness,
    /// What the replay that runs has brought.
    pub(crate) replayed: Option<Replayed>,
    first: u64,
    /// Everything below is settled.
    next: u64,
    head: u64,
    received: u64,
    told: Told,
    /// Told of sequences at or above `next` without saying of which: settled as the jumps come.
    credit: Told,
    credit_through: u64,
}

impl Track {
    pub(crate) fn new(subscription: SubscriptionKey, server_id: u32, first: u64, now: u64) -> Self {
        let first = first.max(1);
        Self {
            subscription,
            server_id,
            bound_on: 0,
            fresh: Freshness::new(now),
            replayed: None,
            first,
            next: first,
            head: first - 1,
            received: 0,
            told: Told::default(),
            credit: Told::default(),
            credit_through: 0,
        }
    }

    /// A data frame arrived.
    pub(crate) fn arrive(&mut self, sequence: u64) -> Arrival {
        if sequence < self.next {
            return Arrival::Repeat;
        }
        let missing = sequence - self.next;
        let explained = self.credit.take(missing);
        let unexplained = missing - explained.sum();
        self.told.add(explained);
        self.told.gapped = self.told.gapped.saturating_add(unexplained);
        self.received += 1;
        self.next = sequence.saturating_add(1);
        self.head = self.head.max(sequence);
        // What was told cannot be more than what may still be missing: what came was never lost.
        self.credit = self.credit.take(self.credit_through.saturating_add(1).saturating_sub(self.next));
        Arrival::New { unexplained }
    }

    /// A notice told of a range. Returns what is new in it, with the first sequence it is about.
    pub(crate) fn told(&mut self, from: u64, through: u64, mut told: Told) -> Option<(u64, Told)> {
        if through < self.next {
            return None;
        }
        self.head = self.head.max(through);
        // Told to many at once: what this one knows already lies in front, and was filtered.
        told.filtered = told.filtered.saturating_sub(self.next.saturating_sub(from));
        let from = from.max(self.next);
        if from > through {
            return None;
        }
        // More than fits was settled before (a bind told of it), or is a mistake of the server.
        let room = (through - from + 1).min((through - self.next + 1).saturating_sub(self.credit.sum()));
        let told = told.take(room);
        if told.sum() == 0 {
            return None;
        }
        if from == self.next && self.credit.sum() == 0 && told.sum() == through - from + 1 {
            self.told.add(told);
            self.next = through.saturating_add(1);
        } else {
            self.credit.add(told);
            self.credit_through = self.credit_through.max(through);
        }
        Some((from, told))
    }

    /// All up to `through` that neither came nor was told of was left out by filters.
    pub(crate) fn settle(&mut self, through: u64) {
        let filtered = through.saturating_add(1).saturating_sub(self.next);
        self.told(self.next, through, Told { filtered, ..Told::default() });
    }

    /// The server counts from `next_sequence` on: what lies before is lost. Returns the first sequence
    /// lost and how many.
    pub(crate) fn skip_to(&mut self, next_sequence: u64) -> Option<(u64, u64)> {
        self.credit = Told::default();
        if next_sequence <= self.next {
            return None;
        }
        let (from, lost) = (self.next, next_sequence - self.next);
        self.told.gapped = self.told.gapped.saturating_add(lost);
        self.next = next_sequence;
        self.head = self.head.max(next_sequence - 1);
        Some((from, lost))
    }

    /// The newest sequence of the stream, as the server says.
    pub(crate) fn see_head(&mut self, head: u64) {
        self.head = self.head.max(head);
    }

    /// The connection is gone. What was told but not yet passed will be replayed or told again.
    pub(crate) fn disconnect(&mut self) {
        self.credit = Told::default();
        self.replayed = None;
    }

    /// First sequence not settled: where a resume continues.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// True when the server has more than we got or were told of.
    pub(crate) fn is_behind(&self) -> bool {
        self.account().pending() > 0
    }

    pub(crate) fn account(&self) -> Account {
        Account {
            published: self.head - (self.first - 1),
            received: self.received,
            conflated: self.told.conflated.saturating_add(self.credit.conflated),
            gapped: self.told.gapped.saturating_add(self.credit.gapped),
            filtered: self.told.filtered.saturating_add(self.credit.filtered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOST: Told = Told { conflated: 0, gapped: 1, filtered: 0 };

    fn track(first: u64) -> Track {
        Track::new(SubscriptionKey(1), 1, first, 0)
    }

    fn conflated(count: u64) -> Told {
        Told { conflated: count, ..Told::default() }
    }

    #[test]
    fn a_told_jump_is_no_loss() {
        let mut track = track(5);
        assert_eq!(track.arrive(5), Arrival::New { unexplained: 0 });
        assert_eq!(track.told(6, 9, conflated(4)), Some((6, conflated(4))));
        assert_eq!(track.arrive(10), Arrival::New { unexplained: 0 });
        let account = track.account();
        assert_eq!((account.published, account.received, account.conflated), (6, 2, 4));
        assert!(account.balances());
    }

    #[test]
    fn a_jump_nobody_told_of_is_counted_as_lost() {
        let mut track = track(1);
        assert_eq!(track.arrive(4), Arrival::New { unexplained: 3 });
        assert_eq!(track.arrive(4), Arrival::Repeat);
        assert_eq!(track.account(), Account { published: 4, received: 1, gapped: 3, ..Account::default() });
    }

    #[test]
    fn a_notice_may_cover_a_range_in_which_some_events_still_come() {
        let mut track = track(5);
        assert_eq!(track.told(5, 8, conflated(2)), Some((5, conflated(2))));
        assert_eq!(track.account().pending(), 2);
        assert_eq!(track.arrive(6), Arrival::New { unexplained: 0 });
        assert_eq!(track.arrive(8), Arrival::New { unexplained: 0 });
        assert!(track.account().balances());
    }

    #[test]
    fn what_is_told_twice_is_counted_once() {
        let mut track = track(1);
        assert_eq!(track.skip_to(11), Some((1, 10)));
        assert_eq!(track.told(1, 10, Told { gapped: 10, ..Told::default() }), None);
        assert_eq!(
            track.told(6, 12, Told { gapped: 7, ..Told::default() }),
            Some((11, Told { gapped: 2, ..LOST }))
        );
        assert_eq!(track.account().gapped, 12);
        assert!(track.account().balances());
    }

    #[test]
    fn telling_more_than_was_missing_does_not_hide_a_later_loss() {
        let mut track = track(1);
        track.told(3, 4, conflated(2));
        for sequence in 1..=4 {
            assert_eq!(track.arrive(sequence), Arrival::New { unexplained: 0 });
        }
        assert!(track.account().balances());
        assert_eq!(track.arrive(7), Arrival::New { unexplained: 2 });
    }

    #[test]
    fn a_head_ahead_of_us_is_pending_until_it_comes() {
        let mut track = track(1);
        track.arrive(1);
        track.see_head(3);
        assert_eq!(track.account().pending(), 2);
        track.told(2, 3, Told { filtered: 2, ..Told::default() });
        assert!(track.account().balances() && !track.is_behind());
    }

    #[test]
    fn what_many_are_told_is_clipped_to_what_this_one_lacks() {
        let mut track = track(5);
        let told = |conflated, filtered| Told { conflated, filtered, gapped: 0 };
        assert_eq!(track.told(1, 7, told(0, 7)), Some((5, told(0, 3))));
        assert_eq!(track.told(1, 7, told(0, 7)), None);
        assert_eq!(track.told(1, 9, told(1, 8)), Some((8, told(1, 1))));
        assert_eq!(track.arrive(10), Arrival::New { unexplained: 0 });
        track.settle(12);
        track.settle(11);
        let account = track.account();
        assert_eq!((account.received, account.conflated, account.filtered), (1, 1, 6));
        assert!(account.balances());
        assert_eq!(track.arrive(14), Arrival::New { unexplained: 1 });
    }

    proptest! {
        /// A server that tells the truth: each event is delivered, conflated, lost or filtered, and each
        /// run of the undelivered is told before the next delivery, or at the tail.
        #[test]
        fn an_honest_server_always_balances(first in 1u64..100, fates in proptest::collection::vec(0u8..4, 0..200)) {
            let mut track = track(first);
            let mut run = Told::default();
            let mut from = first;
            let tell = |track: &mut Track, run: &mut Told, from: u64, through: u64| {
                if run.sum() > 0 {
                    assert_eq!(track.told(from, through, *run), Some((from, *run)));
                }
                *run = Told::default();
            };
            for (sequence, fate) in (first..).zip(&fates) {
                match fate {
                    0 => {
                        tell(&mut track, &mut run, from, sequence - 1);
                        prop_assert_eq!(track.arrive(sequence), Arrival::New { unexplained: 0 });
                        from = sequence + 1;
                    }
                    1 => run.conflated += 1,
                    2 => run.gapped += 1,
                    _ => run.filtered += 1,
                }
            }
            tell(&mut track, &mut run, from, first + fates.len() as u64 - 1);
            let account = track.account();
            prop_assert_eq!(account.published, fates.len() as u64);
            prop_assert!(account.balances(), "{account:?}");
        }

        /// A server that says anything at all: numbers stay numbers and nothing is settled twice.
        #[test]
        fn no_server_makes_it_panic_or_settle_more_than_was_published(
            first in any::<u64>(),
            steps in proptest::collection::vec((0u8..4, any::<[u64; 5]>(), any::<bool>()), 0..50),
        ) {
            let mut track = track(first);
            for (kind, numbers, small) in steps {
                let [a, b, c, d, e] = numbers.map(|number| if small { number % 50 } else { number });
                match kind {
                    0 => drop(track.arrive(a)),
                    1 => drop(track.told(a, b, Told { conflated: c, gapped: d, filtered: e })),
                    2 => track.see_head(a),
                    _ => drop(track.skip_to(a)),
                }
                let account = track.account();
                prop_assert!(account.settled() <= account.published, "{account:?}");
            }
        }
    }
}
