//! The account of every subscriber, checked from the outside (`--check`): each event of a stream came once and
//! in order, or a notice told what became of it (SPEC 6.C).
//!
//! It counts by what frames say of themselves, stream and sequence in their headers, and knows nothing of the
//! numbers in messages by which the ledger times them; so the two are independent of each other. Per stream of a
//! connection it keeps one number, the next sequence. That everybody begins at the same sequence of a stream
//! follows from the order of a run: all have subscribed before anything is published. It takes for granted that
//! nobody else publishes to the topics of the load meanwhile. A subscriber whose connection ends is short of all
//! that came after: here nobody resumes.
//!
//! ```text
//!   bind    ──► next = bind.next_sequence, the same for all subscribers of the stream
//!   frame   ──► sequence = next?   ahead of it: a hole, unaccounted   behind it: misordered
//!   notice  ──► from = next, and as many events as it tells?          else misordered, and not believed
//!   the end ──► next = first + published?                             else the difference is unaccounted
//! ```
//!
//! Nothing here allocates for a frame or a notice.
#![forbid(unsafe_code)]

use crate::plan::Plan;
use crate::results::Account;
use crate::template::Kind;

/// Stream ids below this can be checked; servers count them from 1. Four bytes each, as far as they are used.
const STREAMS_MAX: usize = 1 << 20;
/// A stream id that no bind has named.
const UNBOUND: u32 = u32::MAX;
/// A stream that is none of the load's, such as one of another class: what comes on it is not counted.
const FOREIGN: u32 = u32::MAX - 1;

/// A notice of kind `loss` or `upstream_gap`, as far as accounts need it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// The stream.
    pub stream: u32,
    /// First sequence it speaks of.
    pub from: u64,
    /// Last one.
    pub through: u64,
    /// Events replaced by newer ones.
    pub conflated: u64,
    /// Events lost.
    pub gapped: u64,
    /// Events that filters left out.
    pub filtered: u64,
}

/// The accounts of all subscribers that read.
#[derive(Debug)]
pub struct Accounts<'a> {
    plan: &'a Plan,
    /// Streams of a subscriber.
    slots: usize,
    /// Next sequence of each stream of each subscriber; 0 before its bind.
    next: Box<[u64]>,
    /// Topic of each stream id, or [`UNBOUND`] or [`FOREIGN`].
    topics: Vec<u32>,
    /// Stream and first sequence of each topic; 0 before the first bind. The last topic is that of the alerts.
    streams: Box<[(u32, u64)]>,
    counts: Account,
}

impl<'a> Accounts<'a> {
    /// Accounts for the subscribers of `plan` that read: eight bytes for each stream of each of them.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Self {
        let slots = plan.per_subscriber + usize::from(plan.alert_every.is_some());
        Self {
            plan,
            slots,
            next: vec![0; slots * plan.readers()].into_boxed_slice(),
            topics: Vec::new(),
            streams: vec![(0, 0); plan.topics + 1].into_boxed_slice(),
            counts: Account::default(),
        }
    }

    /// A stream was announced to a subscriber.
    pub fn bind(&mut self, subscriber: usize, stream: u32, topic: &str, next_sequence: u64) {
        let at = stream as usize;
        if at >= STREAMS_MAX || next_sequence == 0 {
            self.counts.misordered += 1;
            return;
        }
        if self.topics.len() <= at {
            self.topics.resize(at + 1, UNBOUND);
        }
        let number = self.topic(topic).filter(|number| {
            let (known, first) = &mut self.streams[*number as usize];
            if *known == 0 {
                (*known, *first) = (stream, next_sequence);
            }
            *known == stream
        });
        self.topics[at] = number.unwrap_or(FOREIGN);
        let Some(number) = number else { return };
        let first = self.streams[number as usize].1;
        let Some(slot) = self.slot(subscriber, number as usize) else {
            self.counts.misordered += 1;
            return;
        };
        let next = &mut self.next[slot];
        // A stream is announced again to whoever has it for another subscription.
        if *next == 0 {
            *next = next_sequence;
            self.counts.unaccounted += first.abs_diff(next_sequence);
        }
    }

    /// A data frame came.
    #[inline]
    pub fn frame(&mut self, subscriber: usize, stream: u32, sequence: u64) {
        let Some(slot) = self.line(subscriber, stream) else { return };
        let next = &mut self.next[slot];
        if sequence < *next || sequence == u64::MAX {
            self.counts.misordered += 1;
            return;
        }
        self.counts.unaccounted = self.counts.unaccounted.saturating_add(sequence - *next);
        self.counts.received += 1;
        *next = sequence + 1;
    }

    /// A notice came.
    pub fn notice(&mut self, subscriber: usize, told: Told) {
        let Some(slot) = self.line(subscriber, told.stream) else { return };
        let next = self.next[slot];
        if told.through < next {
            return;
        }
        let sum = told.conflated.checked_add(told.gapped).and_then(|sum| sum.checked_add(told.filtered));
        let length = told.through.checked_sub(told.from).and_then(|distance| distance.checked_add(1));
        // What filters left out is told to many at once, and may begin before what this one was told last.
        let filtered = told.filtered.checked_sub(next.saturating_sub(told.from));
        let (Some(filtered), Some(after)) = (filtered, told.through.checked_add(1)) else {
            self.counts.misordered += 1;
            return;
        };
        if sum.is_none() || sum != length || told.from == 0 {
            self.counts.misordered += 1;
            return;
        }
        let counts = &mut self.counts;
        let add = |count: &mut u64, more: u64| *count = count.saturating_add(more);
        add(&mut counts.unaccounted, told.from.saturating_sub(next));
        add(&mut counts.conflated, told.conflated);
        add(&mut counts.gapped, told.gapped);
        add(&mut counts.filtered, filtered);
        self.next[slot] = after;
    }

    /// A heartbeat says that all up to `through` was left out by filters; zero says nothing.
    pub fn head(&mut self, subscriber: usize, stream: u32, through: u64) {
        if through == 0 {
            return;
        }
        let Some(slot) = self.line(subscriber, stream) else { return };
        let next = &mut self.next[slot];
        if through >= *next && through < u64::MAX {
            self.counts.filtered = self.counts.filtered.saturating_add(through + 1 - *next);
            *next = through + 1;
        }
    }

    /// Closes the accounts: `published` says how many events each topic of the load had, the alerts last.
    #[must_use]
    pub fn settle(&self, published: &[u64]) -> Account {
        let mut counts = self.counts;
        for subscriber in 0..self.plan.readers() {
            let alerts = self.plan.alert_every.map(|_| self.plan.topics);
            for topic in self.plan.topics_of(subscriber).chain(alerts) {
                let events = published.get(topic).copied().unwrap_or(0);
                counts.published += events;
                let next = self.slot(subscriber, topic).map_or(0, |slot| self.next[slot]);
                // Whoever never heard of the stream is short of all of it.
                let short = match next {
                    0 => events,
                    _ => (self.streams[topic].1.saturating_add(events)).abs_diff(next),
                };
                counts.unaccounted = counts.unaccounted.saturating_add(short);
            }
        }
        counts
    }

    /// The place of a stream of a subscriber; a stream that was not announced to it is a fault.
    #[inline]
    fn line(&mut self, subscriber: usize, stream: u32) -> Option<usize> {
        match self.topics.get(stream as usize).copied().unwrap_or(UNBOUND) {
            FOREIGN => return None,
            UNBOUND => {}
            topic => {
                let slot = self.slot(subscriber, topic as usize);
                if let Some(slot) = slot.filter(|slot| self.next[*slot] != 0) {
                    return Some(slot);
                }
            }
        }
        self.counts.misordered += 1;
        None
    }

    /// Where the stream of a topic is kept for a subscriber, if it subscribed to it.
    #[inline]
    fn slot(&self, subscriber: usize, topic: usize) -> Option<usize> {
        let (topics, each) = (self.plan.topics, self.plan.per_subscriber);
        let slot = if topic == topics {
            each
        } else if topics == 1 {
            0
        } else {
            let from_first = (topic + topics - subscriber % topics) % topics;
            let step = topics / each;
            if !from_first.is_multiple_of(step) {
                return None;
            }
            from_first / step
        };
        (slot < self.slots).then_some(subscriber * self.slots + slot).filter(|slot| *slot < self.next.len())
    }

    /// The number of a topic of the load.
    fn topic(&self, name: &str) -> Option<u32> {
        let (kind, symbol) = name.split_once('.')?;
        if kind == Kind::RiskAlert.name() {
            let is_ours = self.plan.alert_every.is_some() && symbol == Plan::symbol(0);
            return is_ours.then_some(self.plan.topics as u32);
        }
        let number: u32 = symbol.strip_prefix("LOAD")?.parse().ok()?;
        (kind == self.plan.kind.name() && (number as usize) < self.plan.topics).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::format::Format;

    const STREAM: u32 = 7;

    fn plan() -> Plan {
        Plan { formats: vec![(Format::Binary, 1)], ..Plan::named("sat1k").unwrap() }
    }

    /// One subscriber of one stream, bound at 1.
    fn bound(plan: &Plan) -> Accounts<'_> {
        let mut accounts = Accounts::new(plan);
        accounts.bind(0, STREAM, "public_trade.LOAD0000", 1);
        accounts
    }

    fn loss(from: u64, through: u64, [conflated, gapped, filtered]: [u64; 3]) -> Told {
        Told { stream: STREAM, from, through, conflated, gapped, filtered }
    }

    #[test]
    fn frames_in_order_and_honest_notices_are_a_whole_account() {
        let plan = plan();
        let mut accounts = bound(&plan);
        accounts.frame(0, STREAM, 1);
        accounts.notice(0, loss(2, 4, [2, 1, 0]));
        accounts.frame(0, STREAM, 5);
        // Filtered events are told to many at once: from lies before what this one knows already.
        accounts.notice(0, loss(4, 8, [0, 0, 5]));
        accounts.head(0, STREAM, 9);
        // It says nothing new.
        accounts.notice(0, loss(2, 4, [2, 1, 0]));
        accounts.head(0, STREAM, 3);
        accounts.frame(0, STREAM, 10);
        let account = accounts.settle(&[10, 0]);
        assert_eq!(
            account,
            Account {
                published: 10,
                received: 3,
                conflated: 2,
                gapped: 1,
                filtered: 4,
                unaccounted: 0,
                misordered: 0
            }
        );
        assert!(account.is_whole());
    }

    #[test]
    fn a_hole_a_repeat_and_a_reorder_are_caught() {
        // Sequences as they come, and what is found: unaccounted, misordered.
        for (what, sequences, found) in [
            ("a hole", vec![1, 2, 4], (1, 0)),
            ("a repeat", vec![1, 2, 2, 3, 4], (0, 1)),
            ("a reorder", vec![1, 3, 2, 4], (1, 1)),
            ("the first is missing", vec![2, 3, 4], (1, 0)),
            ("the last is missing", vec![1, 2, 3], (1, 0)),
            ("one that nobody published", vec![1, 2, 3, 4, 5], (1, 0)),
            ("nothing came", vec![], (4, 0)),
        ] {
            let plan = plan();
            let mut accounts = bound(&plan);
            sequences.into_iter().for_each(|sequence| accounts.frame(0, STREAM, sequence));
            let account = accounts.settle(&[4, 0]);
            assert_eq!((account.unaccounted, account.misordered), found, "{what}");
            assert!(!account.is_whole(), "{what}");
        }
    }

    #[test]
    fn a_notice_that_lies_is_not_believed() {
        for (what, notice, found) in [
            ("it tells of fewer than its range", loss(2, 4, [1, 1, 0]), (3, 1)),
            ("it tells of more than its range", loss(2, 4, [4, 0, 0]), (3, 1)),
            ("it tells of what came", loss(1, 4, [4, 0, 0]), (3, 1)),
            ("its range is upside down", loss(4, 3, [0, 0, 0]), (3, 1)),
            ("it wraps around", loss(2, u64::MAX, [u64::MAX, 2, 0]), (3, 1)),
            ("it begins behind a hole", loss(3, 4, [2, 0, 0]), (1, 0)),
            ("its stream was never announced", Told { stream: 8, ..loss(2, 4, [3, 0, 0]) }, (3, 1)),
        ] {
            let plan = plan();
            let mut accounts = bound(&plan);
            accounts.frame(0, STREAM, 1);
            accounts.notice(0, notice);
            accounts.frame(0, STREAM, 5);
            let account = accounts.settle(&[5, 0]);
            assert_eq!((account.unaccounted, account.misordered), found, "{what}");
        }
    }

    #[test]
    fn a_notice_of_what_was_never_published_is_caught_at_the_end() {
        let plan = plan();
        let mut accounts = bound(&plan);
        accounts.notice(0, loss(1, 9, [9, 0, 0]));
        assert_eq!(accounts.settle(&[5, 0]).unaccounted, 4);
    }

    #[test]
    fn each_stream_of_each_subscriber_has_its_own_account() {
        let every = Some(Duration::from_millis(10));
        let formats = vec![(Format::Binary, 4)];
        let plan = Plan { topics: 4, per_subscriber: 2, alert_every: every, formats, ..plan() };
        let mut accounts = Accounts::new(&plan);
        // Streams were there before: their sequences go on.
        for subscriber in 0..4 {
            for topic in plan.topics_of(subscriber) {
                accounts.bind(subscriber, topic as u32 + 1, &format!("public_trade.LOAD000{topic}"), 101);
            }
            accounts.bind(subscriber, 9, "risk_alert.LOAD0000", 1);
        }
        for subscriber in 0..4 {
            for topic in plan.topics_of(subscriber) {
                (101..104).for_each(|sequence| accounts.frame(subscriber, topic as u32 + 1, sequence));
            }
            (1..3).for_each(|sequence| accounts.frame(subscriber, 9, sequence));
        }
        let account = accounts.settle(&[3, 3, 3, 3, 2]);
        assert!(account.is_whole(), "{account:?}");
        assert_eq!(account.received, 4 * (3 + 3 + 2));
        // Subscriber 1 has topics 1 and 3: an event of topic 2 is none of its.
        accounts.frame(1, 3, 104);
        assert_eq!(accounts.settle(&[3, 3, 3, 3, 2]).misordered, 1);
    }

    #[test]
    fn whoever_is_bound_late_or_never_is_short_of_what_it_missed() {
        let plan = Plan { formats: vec![(Format::Binary, 3)], ..plan() };
        let mut accounts = bound(&plan);
        accounts.bind(1, STREAM, "public_trade.LOAD0000", 3);
        (1..=4).for_each(|sequence| accounts.frame(0, STREAM, sequence));
        (3..=4).for_each(|sequence| accounts.frame(1, STREAM, sequence));
        let account = accounts.settle(&[4, 0]);
        assert_eq!((account.unaccounted, account.misordered), (2 + 4, 0));
        // A frame on a connection that was not told of its stream is a fault though others were.
        accounts.frame(2, STREAM, 1);
        assert_eq!(accounts.settle(&[4, 0]).misordered, 1);
    }

    #[test]
    fn what_is_none_of_the_load_is_not_counted() {
        let plan = plan();
        let mut accounts = bound(&plan);
        accounts.bind(0, 8, "public_trade.OTHER", 5);
        accounts.bind(0, 9, "public_trade.LOAD0000", 5);
        accounts.frame(0, 8, 77);
        accounts.frame(0, 9, 77);
        assert!(accounts.settle(&[0, 0]).is_whole());
        accounts.bind(0, u32::MAX, "public_trade.LOAD0000", 1);
        assert_eq!(accounts.settle(&[0, 0]).misordered, 1);
    }
}
