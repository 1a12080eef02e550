//! When a recorded row is due: its own time, moved to now and divided by the speed.
//!
//! The first row is due at once. Later rows keep their distance to it, so rounding never adds up and a
//! late caller catches up. Three things would make that wait or rush for ever, and move the start of the
//! reckoning instead, each counted: a silence longer than [`LONGEST_WAIT_NS`], a jump back of more than
//! that (the next file of a list), and a caller that is later than that (a suspended machine).
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// Longest silence that is played, and longest delay that is made up for, in nanoseconds of real time.
pub const LONGEST_WAIT_NS: i64 = 60_000_000_000;
/// Slowest speed.
pub const SPEED_MIN: f64 = 0.001;
/// Fastest speed short of [`Speed::Max`].
pub const SPEED_MAX: f64 = 1_000_000.0;

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Without waiting.
    Max,
    /// So many times as fast as it was recorded, [`SPEED_MIN`] to [`SPEED_MAX`].
    Times(f64),
}

/// A text that is no speed. Its writer is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no speed; write `max`, or a number from {SPEED_MIN} to {SPEED_MAX}: 1 is as recorded, 10 or 10x ten times as fast"
)]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, SpeedError> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.strip_suffix('x').unwrap_or(text).parse() {
            Ok(times) if (SPEED_MIN..=SPEED_MAX).contains(&times) => Ok(Self::Times(times)),
            _ => Err(SpeedError(text.escape_debug().take(32).collect())),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Times(times) => times.fmt(f),
        }
    }
}

/// What the reckoning started from.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    row_ts: i64,
    due: i64,
}

/// Says when each row is due.
#[derive(Clone, Debug)]
pub struct Pace {
    speed: Speed,
    anchor: Option<Anchor>,
    last_due: i64,
    moves: u64,
}

impl Pace {
    /// A pace for one recording.
    #[must_use]
    pub const fn new(speed: Speed) -> Self {
        Self { speed, anchor: None, last_due: i64::MIN, moves: 0 }
    }

    /// When a row recorded at `row_ts` is to be published; in the past when it is late. Never before the
    /// row asked for last, so rows out of order are due at once. Both times in nanoseconds.
    pub fn due(&mut self, row_ts: i64, now: i64) -> i64 {
        let Speed::Times(times) = self.speed else { return now };
        let Some(anchor) = self.anchor else {
            self.anchor = Some(Anchor { row_ts, due: now });
            self.last_due = now;
            return now;
        };
        let due = play_time(anchor, row_ts, times);
        let wait = i128::from(due) - i128::from(self.last_due);
        let longest = i128::from(LONGEST_WAIT_NS);
        let due = if wait.abs() > longest {
            // A silence is played as the longest one, a jump back without waiting.
            let wait = if wait > 0 { LONGEST_WAIT_NS } else { 0 };
            self.restart(row_ts, self.last_due.saturating_add(wait))
        } else {
            due.max(self.last_due)
        };
        let late = i128::from(now) - i128::from(due);
        self.last_due = if late > longest { self.restart(row_ts, now) } else { due };
        self.last_due
    }

    /// How often the reckoning was started anew: silences cut short, jumps back, and long delays.
    #[must_use]
    pub const fn moves(&self) -> u64 {
        self.moves
    }

    fn restart(&mut self, row_ts: i64, due: i64) -> i64 {
        self.anchor = Some(Anchor { row_ts, due });
        self.moves += 1;
        due
    }
}

/// When a row would be played if nothing were moved, at either end of time at worst.
fn play_time(anchor: Anchor, row_ts: i64, times: f64) -> i64 {
    let distance = i128::from(row_ts) - i128::from(anchor.row_ts);
    // As recorded is exact; else a float is, to some nanoseconds a year.
    let played = if times == 1.0 { distance } else { (distance as f64 / times) as i128 };
    let due = i128::from(anchor.due).saturating_add(played);
    i64::try_from(due).unwrap_or(if due < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400 * SECOND;
    const RECORDED: i64 = 1_577_916_000_065_000_000;
    const NOW: i64 = 1_800_000_000_000_000_000;

    #[test]
    fn speeds_are_read_and_shown() {
        for (text, speed) in [
            ("1", Speed::Times(1.0)),
            ("10", Speed::Times(10.0)),
            ("10x", Speed::Times(10.0)),
            ("0.5", Speed::Times(0.5)),
            ("1e3", Speed::Times(1_000.0)),
            ("max", Speed::Max),
        ] {
            assert_eq!(text.parse(), Ok(speed));
            assert_eq!(speed.to_string().parse(), Ok(speed));
        }
        for text in ["", "0", "-1", "nan", "inf", "1e400", "MAX!", "10xx", "x", "1,5", "1e9", "0.0001"] {
            let error = text.parse::<Speed>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("write `max`"), "{error}");
        }
        let long = "\n".repeat(1_000).parse::<Speed>().unwrap_err().to_string();
        assert!(long.len() < 200 && !long.contains('\n'), "{long}");
    }

    #[test]
    fn rows_keep_their_distance_divided_by_the_speed() {
        for (speed, after) in [("1", 10 * SECOND), ("10", SECOND), ("0.5", 20 * SECOND)] {
            let mut pace = Pace::new(speed.parse().unwrap());
            assert_eq!(pace.due(RECORDED, NOW), NOW, "the first row is due at once");
            assert_eq!(pace.due(RECORDED + 10 * SECOND, NOW + 5), NOW + after);
            assert_eq!(pace.due(RECORDED + 10 * SECOND, NOW + 6), NOW + after);
            assert_eq!(pace.moves(), 0);
        }
    }

    #[test]
    fn max_never_waits() {
        let mut pace = Pace::new(Speed::Max);
        for now in [NOW, NOW + 1, NOW + DAY] {
            assert_eq!(pace.due(RECORDED + now, now), now);
        }
    }

    #[test]
    fn a_late_caller_catches_up() {
        let mut pace = Pace::new(Speed::Times(1.0));
        pace.due(RECORDED, NOW);
        assert_eq!(pace.due(RECORDED + SECOND, NOW + 30 * SECOND), NOW + SECOND);
        assert_eq!(pace.due(RECORDED + 31 * SECOND, NOW + 30 * SECOND), NOW + 31 * SECOND);
        // But not after a machine was suspended for an hour.
        let awake = NOW + 3_600 * SECOND;
        assert_eq!(pace.due(RECORDED + 32 * SECOND, awake), awake);
        assert_eq!(pace.due(RECORDED + 33 * SECOND, awake), awake + SECOND);
        assert_eq!(pace.moves(), 1);
    }

    #[test]
    fn the_years_between_two_files_are_not_waited_for() {
        let mut pace = Pace::new(Speed::Times(2.0));
        pace.due(RECORDED - 2_000 * DAY, NOW);
        assert_eq!(pace.due(RECORDED, NOW), NOW + LONGEST_WAIT_NS);
        assert_eq!(pace.due(RECORDED + 2 * SECOND, NOW), NOW + LONGEST_WAIT_NS + SECOND);
        assert_eq!(pace.moves(), 1);
        // A silence of just the longest wait is played.
        let due = pace.due(RECORDED + 2 * SECOND + 2 * LONGEST_WAIT_NS, NOW);
        assert_eq!((due, pace.moves()), (NOW + 2 * LONGEST_WAIT_NS + SECOND, 1));
    }

    #[test]
    fn an_older_file_after_a_newer_one_keeps_its_own_distances() {
        let mut pace = Pace::new(Speed::Times(1.0));
        pace.due(RECORDED, NOW);
        assert_eq!(pace.due(RECORDED - DAY, NOW), NOW);
        assert_eq!(pace.due(RECORDED - DAY + SECOND, NOW), NOW + SECOND);
        assert_eq!(pace.moves(), 1);
    }

    #[test]
    fn rows_a_little_out_of_order_are_due_at_once() {
        let mut pace = Pace::new(Speed::Times(1.0));
        pace.due(RECORDED, NOW);
        assert_eq!(pace.due(RECORDED + 5 * SECOND, NOW), NOW + 5 * SECOND);
        assert_eq!(pace.due(RECORDED + 3 * SECOND, NOW), NOW + 5 * SECOND);
        assert_eq!(pace.due(RECORDED + 6 * SECOND, NOW), NOW + 6 * SECOND);
        assert_eq!(pace.moves(), 0);
    }

    proptest! {
        #[test]
        fn no_row_waits_longer_than_the_longest_wait_or_goes_back(
            rows in proptest::collection::vec((any::<i64>(), any::<i64>()), 1..50),
            times in SPEED_MIN..=SPEED_MAX,
        ) {
            let mut pace = Pace::new(Speed::Times(times));
            let mut before: Option<i64> = None;
            for (row_ts, now) in rows {
                let due = pace.due(row_ts, now);
                if let Some(before) = before {
                    prop_assert!(due >= before);
                    prop_assert!(due <= before.saturating_add(LONGEST_WAIT_NS).max(now));
                }
                before = Some(due);
            }
        }
    }
}
