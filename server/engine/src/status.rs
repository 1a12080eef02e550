//! How a stream is, and the rhythm by which one can tell.
//!
//! A stream is live until somebody finds otherwise; the next event ends most findings by itself, under the
//! ingest lock, so no finding outlives what it was based on. What there is to find is not known here: that
//! takes a clock and somebody who knows the sources.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use tickcast_protocol::StreamId;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{IntervalOrigin, StateReason, StreamState, StreamStatus};

/// Events of a stream that lie closer than this, in ns, are one beat: nobody calls a stream quiet for so
/// short a pause, and a burst must not hide the pause before it.
pub const BEAT_NS: u64 = 100_000_000;
/// Shortest interval that is learned, in ns.
pub const LEARNED_MIN_NS: u64 = 2_000_000_000;
/// A learned interval is the median of the pauses between beats, times this.
const LEARNED_FACTOR: u64 = 5;
/// Pauses that are remembered.
const PAUSES: usize = 8;
/// Fewest pauses that an interval is learned from.
const PAUSES_MIN: usize = 7;
/// Pauses are kept in units of about a millisecond.
const UNIT_SHIFT: u32 = 20;

/// How a stream is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: StreamState,
    /// Why.
    pub reason: StateReason,
    /// Where the interval comes from.
    pub origin: IntervalOrigin,
    /// Longest time between two events while all is well, in ms; zero when none is expected.
    pub interval_ms: u32,
    /// Since when, in ns since the Unix epoch.
    pub since: u64,
    /// The stream's newest sequence when that was found.
    pub last_sequence: u64,
}

impl Status {
    /// What a stream is as long as nothing else was found.
    #[must_use]
    pub fn live() -> Self {
        Self {
            state: StreamState::LIVE,
            reason: StateReason::NONE,
            origin: IntervalOrigin::NONE,
            interval_ms: 0,
            since: 0,
            last_sequence: 0,
        }
    }

    /// True where a reader should not take the last value for the present one.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(self.state, StreamState::SUSPECT | StreamState::STALE | StreamState::CLOSED)
    }

    /// The same as a record of the wire.
    #[must_use]
    pub fn record(&self, stream: StreamId) -> StreamStatus {
        StreamStatus {
            stream: stream.0,
            state: self.state,
            reason: self.reason,
            origin: self.origin,
            interval_ms: self.interval_ms,
            since: Timestamp(i64::try_from(self.since).unwrap_or(i64::MAX)),
            last_sequence: self.last_sequence,
        }
    }
}

/// A status found for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The stream.
    pub stream: StreamId,
    /// Its newest sequence when it was judged. Where an event has come since, the finding is void.
    pub head: u64,
    /// What was found; time and last sequence included.
    pub status: Status,
}

/// What is known of a stream without asking a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Its newest sequence.
    pub head: u64,
    /// When its newest event was published, in ns since the Unix epoch; zero before the first.
    pub last_event: u64,
    /// The newest sequence that its source skipped; the head when nothing has come since.
    pub skipped: u64,
    /// The interval learned from its pauses, in ns, once there are enough.
    pub learned: Option<u64>,
    /// How it is.
    pub status: Status,
}

/// The last pauses between a stream's beats: 17 bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rhythm {
    /// When the last beat began.
    mark: u64,
    /// Logarithms of the pauses, with eight steps an octave; zero for none.
    pauses: [u8; PAUSES],
    next: u8,
}

impl Rhythm {
    /// An event was published at `now`, in ns.
    pub(crate) fn note(&mut self, now: u64) {
        let pause = now.saturating_sub(self.mark);
        if pause < BEAT_NS {
            return;
        }
        if self.mark > 0 {
            self.pauses[usize::from(self.next)] = to_step(pause);
            self.next = (self.next + 1) % PAUSES as u8;
        }
        self.mark = now;
    }

    /// The interval in ns within which the next event can be expected, at most an eighth too long.
    pub(crate) fn learned(&self) -> Option<u64> {
        let mut known = self.pauses;
        known.sort_unstable();
        let known = &known[known.partition_point(|step| *step == 0)..];
        if known.len() < PAUSES_MIN {
            return None;
        }
        Some(from_step(known[known.len() / 2]).saturating_mul(LEARNED_FACTOR).max(LEARNED_MIN_NS))
    }
}

/// The step of the scale that a pause of at least [`BEAT_NS`] lies on.
fn to_step(pause: u64) -> u8 {
    let units = (pause >> UNIT_SHIFT).max(64);
    let octave = units.ilog2();
    let eighth = (units >> (octave - 3)) & 7;
    u8::try_from((u64::from(octave) - 6) * 8 + eighth + 1).unwrap_or(u8::MAX)
}

/// The longest pause of a step.
fn from_step(step: u8) -> u64 {
    let at = u32::from(step) - 1;
    (u64::from(at % 8) + 9) << (at / 8 + 3 + UNIT_SHIFT)
}

/// How many streams are in each state, and how often one came to be in it. Changed under the ingest lock,
/// so there is one writer at a time.
#[derive(Debug, Default)]
pub struct StateCounts {
    now: [AtomicU64; StateCounts::STATES.len()],
    changes: [AtomicU64; StateCounts::STATES.len()],
}

impl StateCounts {
    /// Every state, in the order of their numbers.
    pub const STATES: [StreamState; 6] = [
        StreamState::LIVE,
        StreamState::IDLE,
        StreamState::SUSPECT,
        StreamState::STALE,
        StreamState::REPLAY,
        StreamState::CLOSED,
    ];

    /// Streams in `state` now; not to be asked for live ones, which are all others.
    #[must_use]
    pub fn now(&self, state: StreamState) -> u64 {
        self.now[place(state)].load(Ordering::Relaxed)
    }

    /// Times that a stream came to be in `state`, its birth not counted.
    #[must_use]
    pub fn changes(&self, state: StreamState) -> u64 {
        self.changes[place(state)].load(Ordering::Relaxed)
    }

    pub(crate) fn change(&self, from: StreamState, to: StreamState) {
        let add = |cell: &AtomicU64, by: u64| {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        if from != StreamState::LIVE {
            add(&self.now[place(from)], u64::MAX);
        }
        if to != StreamState::LIVE {
            add(&self.now[place(to)], 1);
        }
        add(&self.changes[place(to)], 1);
    }
}

fn place(state: StreamState) -> usize {
    usize::from(state.0.max(1) - 1).min(StateCounts::STATES.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_pause_comes_back_at_most_an_eighth_longer() {
        let mut pause = BEAT_NS;
        while pause < 30 * 24 * 3_600 * 1_000 * MS {
            let back = from_step(to_step(pause));
            assert!(back >= pause && back <= pause + pause / 8 + (2 << UNIT_SHIFT), "{pause} {back}");
            pause += pause / 100;
        }
    }

    #[test]
    fn an_interval_is_learned_from_eight_beats() {
        let mut rhythm = Rhythm::default();
        for beat in 1..=8 {
            assert_eq!(rhythm.learned(), None);
            rhythm.note(beat * 1_000 * MS);
        }
        let learned = rhythm.learned().unwrap();
        assert!((5_000 * MS..=5_700 * MS).contains(&learned), "{learned}");
    }

    #[test]
    fn a_fast_stream_gets_the_shortest_interval() {
        let mut rhythm = Rhythm::default();
        for tick in 1..=2_000 {
            rhythm.note(1_000 * MS + tick * MS);
        }
        assert_eq!(rhythm.learned(), Some(LEARNED_MIN_NS));
    }

    #[test]
    fn bursts_do_not_hide_the_pauses_between_them() {
        let mut rhythm = Rhythm::default();
        for burst in 1..=10 {
            for tick in 0..50 {
                rhythm.note(burst * 10_000 * MS + tick * MS);
            }
        }
        let learned = rhythm.learned().unwrap();
        assert!((50_000 * MS..=57_000 * MS).contains(&learned), "{learned}");
    }

    #[test]
    fn counts_follow_changes() {
        let counts = StateCounts::default();
        counts.change(StreamState::LIVE, StreamState::SUSPECT);
        counts.change(StreamState::SUSPECT, StreamState::STALE);
        counts.change(StreamState::LIVE, StreamState::SUSPECT);
        counts.change(StreamState::STALE, StreamState::LIVE);
        assert_eq!((counts.now(StreamState::SUSPECT), counts.now(StreamState::STALE)), (1, 0));
        assert_eq!((counts.changes(StreamState::SUSPECT), counts.changes(StreamState::LIVE)), (2, 1));
    }
}
