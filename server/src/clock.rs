//! Where time comes from. Everything else takes it as an argument.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch, now; zero on a machine whose clock is before it.
#[must_use]
pub fn unix_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}
