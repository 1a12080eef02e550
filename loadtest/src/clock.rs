//! One clock for a run: nanoseconds since it began, with the Unix time of that moment.
#![forbid(unsafe_code)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Monotonic nanoseconds since it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    began_unix: u64,
}

impl Clock {
    /// Starts at zero, now.
    #[must_use]
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Self { began: Instant::now(), began_unix: unix }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// The Unix time of `at`, in nanoseconds.
    #[must_use]
    pub const fn unix(&self, at: u64) -> u64 {
        self.began_unix + at
    }
}

/// CPU time that the calling thread has used, in nanoseconds.
#[must_use]
pub fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
