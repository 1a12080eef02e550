//! When silence is a fault: ages, the median interval, and the verdict.
//!
//! Connected is not the same as fresh. Three rules, in this order: what the user asked for; else events
//! the server has and we do not, for longer than the stream's own rhythm allows; else, when no heartbeat
//! speaks of the stream, the rhythm alone. A stream whose newest event we have is idle, however long.

use std::time::Duration;

/// Intervals remembered a stream, for the median.
const INTERVALS: usize = 16;
/// Fewer intervals than this say nothing about a rhythm.
const INTERVALS_MIN: usize = 5;
/// Shortest bound that a rhythm leads to, in ns.
pub(crate) const BOUND_MIN_NS: u64 = 2_000_000_000;
/// A bound is this many median intervals.
const MEDIANS: u64 = 5;

/// `duration` in ns; what does not fit is for ever.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Silence the server may keep, in ns: two and a half heartbeats.
pub(crate) const fn heartbeat_bound(heartbeat_ns: u64) -> u64 {
    heartbeat_ns.saturating_mul(5) / 2
}

/// What decides about a stream's staleness.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// The user's bound, in ns.
    pub(crate) stale_after: Option<u64>,
    /// Interval of heartbeats, in ns; `None` when there are none.
    pub(crate) heartbeat: Option<u64>,
    /// When the owner began to read again: silence before that was its own doing.
    pub(crate) reading_since: u64,
}

/// The decision, with when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fresh { look_at: u64 },
    Stale { age: u64 },
}

/// What is known about the rhythm and silence of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Freshness {
    pub(crate) stale: bool,
    /// When data came last, on any connection; zero when never.
    pub(crate) heard_at: u64,
    /// When data came last on this connection, or the stream was bound: where silence counts from.
    last_at: u64,
    /// True when `last_at` is the time of data.
    heard: bool,
    head_told_at: Option<u64>,
    /// Time between the last two heads: of very many streams a server tells some each beat, in turn.
    head_every: u64,
    behind_since: Option<u64>,
    /// The last intervals, in µs.
    intervals: [u32; INTERVALS],
    known: u8,
    cursor: u8,
}

impl Freshness {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            stale: false,
            heard_at: 0,
            last_at: now,
            heard: false,
            head_told_at: None,
            head_every: 0,
            behind_since: None,
            intervals: [0; INTERVALS],
            known: 0,
            cursor: 0,
        }
    }

    /// Data came.
    pub(crate) fn touch(&mut self, now: u64) {
        if self.heard {
            let micros = now.saturating_sub(self.last_at) / 1_000;
            self.intervals[usize::from(self.cursor)] = u32::try_from(micros).unwrap_or(u32::MAX);
            self.cursor = (self.cursor + 1) % INTERVALS as u8;
            self.known = (self.known + 1).min(INTERVALS as u8);
        }
        self.heard = true;
        self.heard_at = now;
        self.last_at = now;
        self.behind_since = None;
    }

    /// The server said where the stream is; `behind` when that is further than we are.
    pub(crate) fn see_head(&mut self, behind: bool, now: u64) {
        if let Some(before) = self.head_told_at.replace(now) {
            self.head_every = now.saturating_sub(before);
        }
        self.behind_since = behind.then(|| self.behind_since.unwrap_or(now));
    }

    /// A notice settled what was missing.
    pub(crate) fn caught_up(&mut self) {
        self.behind_since = None;
    }

    /// For how long nothing has come.
    pub(crate) const fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_at)
    }

    /// A new connection: old silences are over, the rhythm stays known.
    pub(crate) fn restart(&mut self, now: u64) {
        let Self { heard_at, intervals, known, cursor, .. } = *self;
        *self = Self { heard_at, intervals, known, cursor, ..Self::new(now) };
    }

    fn median(&self) -> Option<u64> {
        let known = usize::from(self.known);
        if known < INTERVALS_MIN {
            return None;
        }
        let mut sorted = self.intervals;
        sorted[..known].sort_unstable();
        Some(u64::from(sorted[known / 2]) * 1_000)
    }

    /// Is this stream stale?
    pub(crate) fn verdict(&self, rule: Rule, now: u64) -> Verdict {
        let due = |since: u64, bound: u64| {
            let look_at = since.max(rule.reading_since).saturating_add(bound);
            if now >= look_at { Verdict::Stale { age: self.age(now) } } else { Verdict::Fresh { look_at } }
        };
        if let Some(bound) = rule.stale_after {
            return due(self.last_at, bound);
        }
        let silence = rule.heartbeat.map(heartbeat_bound);
        let median = self.median();
        if let Some(since) = self.behind_since {
            let bound = median.map_or(silence.unwrap_or(0), |median| median.saturating_mul(MEDIANS));
            return due(since, bound.max(BOUND_MIN_NS));
        }
        if let (Some(told_at), Some(silence)) = (self.head_told_at, silence) {
            let silence = silence.max(heartbeat_bound(self.head_every));
            let look_at = told_at.max(rule.reading_since).saturating_add(silence);
            if now < look_at {
                return Verdict::Fresh { look_at };
            }
        }
        match median {
            Some(median) => due(self.last_at, median.saturating_mul(MEDIANS).max(BOUND_MIN_NS)),
            None => Verdict::Fresh { look_at: u64::MAX },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const RULE: Rule = Rule { stale_after: None, heartbeat: Some(1_000 * MS), reading_since: 0 };

    fn ticking(interval: u64, count: u64) -> Freshness {
        let mut fresh = Freshness::new(0);
        for tick in 0..count {
            fresh.touch(tick * interval);
        }
        fresh
    }

    #[test]
    fn the_users_bound_counts_from_the_last_data_only() {
        let mut fresh = Freshness::new(0);
        let rule = Rule { stale_after: Some(500 * MS), ..RULE };
        fresh.see_head(false, 400 * MS);
        assert_eq!(fresh.verdict(rule, 499 * MS), Verdict::Fresh { look_at: 500 * MS });
        assert_eq!(fresh.verdict(rule, 500 * MS), Verdict::Stale { age: 500 * MS });
        fresh.touch(600 * MS);
        assert_eq!(fresh.verdict(rule, 600 * MS), Verdict::Fresh { look_at: 1_100 * MS });
        let never = Rule { stale_after: Some(nanos(Duration::MAX)), ..RULE };
        assert_eq!(fresh.verdict(never, u64::MAX - 1), Verdict::Fresh { look_at: u64::MAX });
    }

    #[test]
    fn a_stream_whose_newest_event_we_have_is_idle() {
        let mut fresh = ticking(10 * MS, 20);
        fresh.see_head(false, 60_000 * MS);
        assert_eq!(fresh.verdict(RULE, 60_001 * MS), Verdict::Fresh { look_at: 62_500 * MS });
    }

    #[test]
    fn a_head_that_stays_ahead_of_us_is_stale() {
        let mut fresh = ticking(1_000 * MS, 20);
        fresh.see_head(true, 20_000 * MS);
        fresh.see_head(true, 21_000 * MS);
        assert_eq!(fresh.verdict(RULE, 21_000 * MS), Verdict::Fresh { look_at: 25_000 * MS });
        assert_eq!(fresh.verdict(RULE, 25_000 * MS), Verdict::Stale { age: 6_000 * MS });
        fresh.touch(25_500 * MS);
        assert!(matches!(fresh.verdict(RULE, 25_501 * MS), Verdict::Fresh { .. }));
    }

    #[test]
    fn without_a_head_the_rhythm_decides() {
        let fresh = ticking(1_000 * MS, 20);
        assert_eq!(fresh.verdict(RULE, 20_000 * MS), Verdict::Fresh { look_at: 24_000 * MS });
        assert_eq!(fresh.verdict(RULE, 24_000 * MS), Verdict::Stale { age: 5_000 * MS });
        let fast = ticking(MS, 20);
        assert_eq!(fast.verdict(RULE, 20 * MS), Verdict::Fresh { look_at: 2_019 * MS });
        let unknown = ticking(MS, 3);
        assert_eq!(unknown.verdict(RULE, 1_000_000 * MS), Verdict::Fresh { look_at: u64::MAX });
    }

    #[test]
    fn a_head_told_every_few_beats_keeps_an_idle_stream_idle() {
        let mut fresh = ticking(100 * MS, 10);
        for beat in 1..=5 {
            fresh.see_head(false, beat * 4_000 * MS);
        }
        assert_eq!(fresh.verdict(RULE, 23_999 * MS), Verdict::Fresh { look_at: 30_000 * MS });
        assert!(matches!(fresh.verdict(RULE, 30_000 * MS), Verdict::Stale { .. }), "heads come no more");
    }
}
