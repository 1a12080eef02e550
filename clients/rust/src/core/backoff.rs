//! How long to stay away after a connection ended: full jitter, so that a thousand clients of one server
//! do not come back as one.

use std::time::Duration;

use super::fresh::nanos;

/// Settings of the pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper end of the first random pause. The retry before it is immediate, once.
    pub first: Duration,
    /// Upper end of every pause.
    pub longest: Duration,
    /// A connection that lived this long makes the next failure a first one again.
    pub stable_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(20),
            stable_after: Duration::from_secs(10),
        }
    }
}

/// Where a client stands in its retries.
#[derive(Debug)]
pub(crate) struct Retries {
    settings: Backoff,
    /// Failures since the last stable connection.
    failures: u32,
    random: fastrand::Rng,
}

impl Retries {
    pub(crate) fn new(settings: Backoff, seed: u64) -> Self {
        Self { settings, failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Number of the attempt that runs or comes next, from 1.
    pub(crate) const fn attempt(&self) -> u32 {
        self.failures.saturating_add(1)
    }

    /// A welcomed connection ended after `lived` ns.
    pub(crate) fn lived(&mut self, lived: u64) {
        if lived >= nanos(self.settings.stable_after) {
            self.failures = 0;
        }
    }

    /// An attempt or connection failed: how long to wait, in ns. An overloaded server is left alone for a
    /// part of the longest pause at once.
    pub(crate) fn pause(&mut self, overloaded: bool) -> u64 {
        let doublings = if overloaded { 32 } else { self.failures.saturating_sub(1).min(32) };
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 && !overloaded {
            return 0;
        }
        let ceiling = nanos(self.settings.first).saturating_mul(1 << doublings);
        self.random.u64(0..=ceiling.min(nanos(self.settings.longest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn pauses_are_immediate_once_then_jittered_under_a_doubling_ceiling() {
        let mut longest = [0u64; 10];
        for seed in 0..500 {
            let mut retries = Retries::new(Backoff::default(), seed);
            for (attempt, longest) in longest.iter_mut().enumerate() {
                let pause = retries.pause(false);
                let ceiling = match attempt {
                    0 => 0,
                    _ => ((SECOND / 2) << (attempt - 1)).min(20 * SECOND),
                };
                assert!(pause <= ceiling, "{seed} {attempt}: {pause}");
                *longest = pause.max(*longest);
            }
        }
        // The whole range is used, not its upper half.
        assert!(longest[1] > SECOND * 2 / 5 && longest[9] > 18 * SECOND, "{longest:?}");
    }

    #[test]
    fn only_a_stable_connection_resets() {
        let mut retries = Retries::new(Backoff::default(), 7);
        retries.pause(false);
        retries.pause(false);
        retries.lived(10 * SECOND - 1);
        assert_eq!(retries.attempt(), 3);
        retries.lived(10 * SECOND);
        assert_eq!((retries.attempt(), retries.pause(false)), (1, 0));
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let pauses = |seed| {
            let mut retries = Retries::new(Backoff::default(), seed);
            (0..20).map(|_| retries.pause(false)).collect::<Vec<_>>()
        };
        assert_eq!(pauses(3), pauses(3));
        assert_ne!(pauses(3), pauses(4));
    }

    #[test]
    fn an_overloaded_server_is_left_alone_for_longest() {
        let longest = (0..200).map(|seed| {
            let mut retries = Retries::new(Backoff::default(), seed);
            retries.pause(true)
        });
        assert!(longest.max() > Some(18 * SECOND));
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut retries = Retries::new(Backoff { longest: Duration::MAX, ..Backoff::default() }, 1);
        for _ in 0..200 {
            retries.pause(false);
        }
    }
}
