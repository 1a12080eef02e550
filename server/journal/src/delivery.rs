//! What is handed out to one recipient, and when again. Sans-io: time is an argument, the caller sends.
//!
//! ```text
//!            next                         ack
//!   pending ──────▶ in flight(attempt) ──────▶ acked
//!      ▲                │
//!      └────────────────┘ no ack in time, or the connection is gone or fenced
//!
//!   pending or in flight ──▶ expired (tick) | revoked or superseded (settle)
//! ```
//!
//! One recipient is one durable identity, which may come back on any connection. The newest connection
//! owns it: its `attach` fences the others, whose generation is then past (I11). What is settled is not
//! remembered here: an ack that is said twice finds nothing and is fine. The evidence is in the journal.
//!
//! Memory: about 60 bytes for each position that waits, so 600 kB at a spill of 10,000.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Most positions that one connection may have in flight.
pub const WINDOW: usize = 32;
/// How long the first ack is waited for, in ns. Each further attempt on a connection waits twice as long.
pub const ACK_TIMEOUT: i64 = 10_000_000_000;
/// Longest wait for an ack, in ns.
pub const ACK_TIMEOUT_MAX: i64 = 60_000_000_000;

/// Which connection of a recipient: later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

/// Something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// The record.
    pub position: u64,
    /// How often it has been handed out, this time included. Above 1 the recipient may have it already.
    pub attempt: u32,
}

/// What a recipient says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Everything up to a position.
    Through(u64),
    /// These, by ranges.
    Ranges(Vec<RangeInclusive<u64>>),
}

/// Why an ack does not count. Nothing of it has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckError {
    /// From a connection that another one has replaced, or that has gone.
    Fenced,
    /// For a position that was never given to any record.
    PastHead(u64),
    /// For a position that waits and was never handed out.
    NotHandedOut(u64),
}

#[derive(Debug)]
struct Entry {
    expires_at: i64,
    /// How often it was handed out, over all connections.
    attempt: u32,
    /// How often on the present connection.
    tries: u32,
    /// When its ack is late; nothing when it is pending.
    late_at: Option<i64>,
}

/// The deliveries of one recipient.
#[derive(Debug, Default)]
pub struct Delivery {
    entries: BTreeMap<u64, Entry>,
    /// Positions to be handed out.
    pending: BTreeSet<u64>,
    /// Positions in flight, by when their ack is late.
    late: BTreeSet<(i64, u64)>,
    /// Positions by when they expire.
    expiry: BTreeSet<(i64, u64)>,
    /// The newest position known to exist in the journal.
    head: u64,
    /// The newest position ever handed out for the first time.
    handed: u64,
    generation: u64,
    attached: bool,
    /// The latest time heard of: what has expired stays so when the clock is set back.
    now: i64,
}

impl Delivery {
    /// Of a recipient for whom these wait since an earlier run of the server, with their expiries. They may
    /// have been handed out by it, so their first attempt here counts as the second.
    #[must_use]
    pub fn restore(head: u64, waiting: impl IntoIterator<Item = (u64, Option<i64>)>) -> Self {
        let mut delivery = Self { head, ..Self::default() };
        for (position, expires_at) in waiting {
            assert!(position <= head, "I2: what waits is not past the head");
            delivery.insert(position, expires_at, 1);
        }
        delivery.handed = head;
        delivery
    }

    /// A new record for this recipient, in order of positions. One that is known already is left alone.
    pub fn offer(&mut self, position: u64, expires_at: Option<i64>) {
        if position > self.head {
            self.head = position;
            self.insert(position, expires_at, 0);
        }
    }

    /// A record that was found waiting on disk. It may have been handed out before when it `is_old`, which an
    /// earlier run did, or when a later one was handed out. One that is known already is left alone.
    pub fn found(&mut self, position: u64, expires_at: Option<i64>, is_old: bool) {
        self.head = self.head.max(position);
        if !self.entries.contains_key(&position) {
            self.insert(position, expires_at, u32::from(is_old || position <= self.handed));
        }
    }

    /// What [`Delivery::next`] would hand out, were there room in the window.
    #[must_use]
    pub fn peek(&self, now: i64) -> Option<u64> {
        let now = self.now.max(now);
        self.pending.iter().copied().find(|position| self.entries[position].expires_at > now)
    }

    /// The positions of a range that wait, in flight or not.
    #[must_use]
    pub fn waiting(&self, range: RangeInclusive<u64>) -> BTreeSet<u64> {
        self.entries.range(range).map(|(position, _)| *position).collect()
    }

    /// The journal has got to a position, whoever it was for: acks may name it.
    pub fn advance(&mut self, head: u64) {
        self.head = self.head.max(head);
    }

    fn insert(&mut self, position: u64, expires_at: Option<i64>, attempt: u32) {
        let expires_at = expires_at.unwrap_or(i64::MAX);
        self.entries.insert(position, Entry { expires_at, attempt, tries: 0, late_at: None });
        self.pending.insert(position);
        if expires_at != i64::MAX {
            self.expiry.insert((expires_at, position));
        }
        self.check();
    }

    /// A connection of this recipient: the owner from now on. What another had in flight is pending again.
    pub fn attach(&mut self) -> Generation {
        self.recall();
        self.generation += 1;
        self.attached = true;
        self.check();
        Generation(self.generation)
    }

    /// A connection has gone. Nothing happens when it was not the owner any more.
    pub fn detach(&mut self, generation: Generation) {
        if self.owns(generation) {
            self.recall();
            self.attached = false;
            self.check();
        }
    }

    /// True for the connection that owns the deliveries.
    #[must_use]
    pub fn owns(&self, generation: Generation) -> bool {
        self.attached && generation.0 == self.generation
    }

    fn recall(&mut self) {
        for (_, position) in std::mem::take(&mut self.late) {
            self.pending.insert(position);
        }
        for entry in self.entries.values_mut() {
            entry.late_at = None;
            entry.tries = 0;
        }
    }

    /// What to send next on a connection: the oldest that is pending, while the window has room.
    pub fn next(&mut self, now: i64, generation: Generation) -> Option<Send> {
        if !self.owns(generation) || self.late.len() >= WINDOW {
            return None;
        }
        self.now = self.now.max(now);
        // What has expired and was not swept yet is not handed out any more.
        let now_or_later = self.now;
        let entries = &mut self.entries;
        let position = *self.pending.iter().find(|position| entries[position].expires_at > now_or_later)?;
        self.pending.remove(&position);
        let entry = entries.get_mut(&position).expect("what is pending has an entry");
        assert!(entry.attempt > 0 || position > self.handed, "I6: first deliveries are in order");
        self.handed = self.handed.max(position);
        let timeout = ACK_TIMEOUT.saturating_mul(1 << entry.tries.min(8)).min(ACK_TIMEOUT_MAX);
        let late_at = now.saturating_add(timeout);
        entry.attempt = entry.attempt.saturating_add(1);
        entry.tries += 1;
        entry.late_at = Some(late_at);
        self.late.insert((late_at, position));
        let attempt = entry.attempt;
        self.check();
        Some(Send { position, attempt })
    }

    /// What a recipient has from now on: the positions to tell the journal. Positions that are settled
    /// already, or were never for this recipient, are passed over.
    ///
    /// # Errors
    /// When the ack is not from the owner, past the head, or for what was not handed out; then nothing is
    /// done.
    pub fn ack(&mut self, generation: Generation, ack: &Ack) -> Result<Vec<u64>, AckError> {
        if !self.owns(generation) {
            return Err(AckError::Fenced);
        }
        let through;
        let ranges = match ack {
            Ack::Through(position) => {
                through = [0..=*position];
                &through[..]
            }
            Ack::Ranges(ranges) => &ranges[..],
        };
        let mut acked = Vec::new();
        for range in ranges {
            if range.is_empty() {
                continue;
            }
            if *range.end() > self.head {
                return Err(AckError::PastHead(*range.end()));
            }
            for (position, entry) in self.entries.range(range.clone()) {
                if entry.attempt == 0 {
                    return Err(AckError::NotHandedOut(*position));
                }
                acked.push(*position);
            }
        }
        acked.sort_unstable();
        acked.dedup();
        for position in &acked {
            self.settle(*position);
        }
        self.check();
        Ok(acked)
    }

    /// A position does not wait any more: acked elsewhere, revoked, or superseded. False when it did not.
    pub fn settle(&mut self, position: u64) -> bool {
        let Some(entry) = self.entries.remove(&position) else { return false };
        self.pending.remove(&position);
        if let Some(late_at) = entry.late_at {
            self.late.remove(&(late_at, position));
        }
        self.expiry.remove(&(entry.expires_at, position));
        true
    }

    /// Drops all that waits: the recipient has lost its right to it.
    pub fn revoke(&mut self) {
        let (head, handed) = (self.head, self.handed);
        let Self { generation, attached, now, .. } = *self;
        *self = Self { head, handed, generation, attached, now, ..Self::default() };
    }

    /// The next time something happens by itself: a late ack or an expiry.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        let late = self.late.first().map(|(at, _)| *at);
        let expiry = self.expiry.first().map(|(at, _)| *at);
        late.into_iter().chain(expiry).min()
    }

    /// Makes late ones pending again; ends what has expired and names it. The journal finds out by itself.
    pub fn tick(&mut self, now: i64) -> Vec<u64> {
        self.now = self.now.max(now);
        let mut expired = Vec::new();
        while let Some(&(at, position)) = self.expiry.first()
            && at <= now
        {
            self.settle(position);
            expired.push(position);
        }
        // What is further away than any wait was set before the clock was set back.
        while let Some(&(at, position)) = self.late.first()
            && (at <= now || at.saturating_sub(now) > ACK_TIMEOUT_MAX)
        {
            self.late.remove(&(at, position));
            self.pending.insert(position);
            self.entries.get_mut(&position).expect("what is in flight has an entry").late_at = None;
        }
        self.check();
        expired
    }

    /// How many wait, in flight or not.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.entries.len()
    }

    /// How many are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.late.len()
    }

    /// I4, I10, I11: everything is in one place, the window is kept, and nothing is in flight to nobody.
    fn check(&self) {
        debug_assert_eq!(self.pending.len() + self.late.len(), self.entries.len(), "I4: one state each");
        assert!(self.late.len() <= WINDOW, "I10: the window is bounded");
        assert!(self.attached || self.late.is_empty(), "I11: in flight only to the owner");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn late_acks_double_the_wait_up_to_a_minute_and_start_anew_on_a_new_connection() {
        let mut delivery = Delivery::default();
        delivery.offer(1, None);
        let first = delivery.attach();
        let mut now = 0;
        for (attempt, wait) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60)] {
            assert_eq!(delivery.next(now, first), Some(Send { position: 1, attempt }));
            assert_eq!(delivery.due(), Some(now + wait * SECOND));
            now += wait * SECOND;
            assert_eq!(delivery.tick(now - 1), []);
            assert_eq!(delivery.next(now - 1, first), None, "still in flight");
            delivery.tick(now);
        }
        let second = delivery.attach();
        assert_eq!(delivery.next(now, first), None, "fenced");
        assert_eq!(delivery.next(now, second), Some(Send { position: 1, attempt: 6 }));
        assert_eq!(delivery.due(), Some(now + 10 * SECOND));
        assert_eq!(delivery.ack(first, &Ack::Through(1)), Err(AckError::Fenced));
        assert_eq!(delivery.ack(second, &Ack::Through(1)), Ok(vec![1]));
        assert_eq!(delivery.ack(second, &Ack::Through(1)), Ok(vec![]), "said twice");
    }

    #[test]
    fn the_window_holds_and_acks_count_only_for_what_was_handed_out() {
        let mut delivery = Delivery::default();
        (1..=40).for_each(|position| delivery.offer(position * 2, None));
        let owner = delivery.attach();
        let sent: Vec<u64> =
            std::iter::from_fn(|| delivery.next(0, owner)).map(|send| send.position).collect();
        assert_eq!(sent, (1..=32).map(|position| position * 2).collect::<Vec<_>>());
        assert_eq!(delivery.ack(owner, &Ack::Through(66)), Err(AckError::NotHandedOut(66)));
        assert_eq!(delivery.ack(owner, &Ack::Through(81)), Err(AckError::PastHead(81)));
        assert_eq!(delivery.depth(), 40, "a wrong ack does nothing");
        assert_eq!(delivery.ack(owner, &Ack::Ranges(vec![3..=5, 10..=10, 10..=11])), Ok(vec![4, 10]));
        assert_eq!(delivery.next(0, owner), Some(Send { position: 66, attempt: 1 }));
        assert_eq!(delivery.ack(owner, &Ack::Through(7)), Ok(vec![2, 6]), "7 was somebody else's");
    }

    #[test]
    fn what_an_earlier_run_may_have_handed_out_is_flagged_and_may_be_acked_at_once() {
        let mut delivery = Delivery::restore(9, [(3, None), (5, Some(20))]);
        let owner = delivery.attach();
        assert_eq!(delivery.next(0, owner), Some(Send { position: 3, attempt: 2 }));
        assert_eq!(delivery.ack(owner, &Ack::Ranges(vec![5..=5])), Ok(vec![5]));
        delivery.offer(12, Some(30));
        assert_eq!(delivery.next(30, owner), None, "expired and not swept");
        assert_eq!(delivery.tick(30), [12]);
    }
}
