//! Who published last to each stream.
//!
//! One relaxed load for each publish in the usual case, where the stream is the publisher's already. Memory
//! is 4 bytes a stream, in blocks of 4,096 streams made when first needed.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tickcast_protocol::StreamId;

const BLOCK: usize = 4_096;
const REPLAY_BIT: u32 = 1 << 31;

/// Something that publishes: a connection, or a feed. Zero is whoever cannot vouch, such as HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

impl SourceId {
    /// Nobody in particular.
    pub const NONE: Self = Self(0);

    /// The source with this number; the highest bit says that its events are of the past.
    #[must_use]
    pub const fn new(number: u32, is_replay: bool) -> Self {
        let number = number & !REPLAY_BIT;
        Self(if is_replay { number | REPLAY_BIT } else { number })
    }

    /// The same source, whose events are of the past.
    #[must_use]
    pub const fn as_replay(self) -> Self {
        Self(self.0 | REPLAY_BIT)
    }

    /// True for a source whose events are of the past.
    #[must_use]
    pub const fn is_replay(self) -> bool {
        self.0 & REPLAY_BIT != 0
    }
}

/// The last publisher of every stream.
#[derive(Debug)]
pub struct Owners(Box<[OnceLock<Box<[AtomicU32]>>]>);

impl Owners {
    /// Room for `streams_max` streams.
    #[must_use]
    pub fn new(streams_max: usize) -> Self {
        Self((0..=streams_max / BLOCK).map(|_| OnceLock::new()).collect())
    }

    /// Notes that `source` has published to `stream`; says whose it was, when it was another's.
    pub fn take(&self, stream: StreamId, source: SourceId) -> Option<SourceId> {
        let block = self.0.get(stream.0 as usize / BLOCK)?;
        let block = block.get_or_init(|| (0..BLOCK).map(|_| AtomicU32::new(0)).collect());
        let owner = &block[stream.0 as usize % BLOCK];
        // Relaxed: a fact of its own. Of two publishers at once either may count as the last.
        if owner.load(Ordering::Relaxed) == source.0 {
            return None;
        }
        Some(SourceId(owner.swap(source.0, Ordering::Relaxed)))
    }

    /// Whose a stream is.
    #[must_use]
    pub fn of(&self, stream: StreamId) -> SourceId {
        let block = self.0.get(stream.0 as usize / BLOCK).and_then(OnceLock::get);
        SourceId(block.map_or(0, |block| block[stream.0 as usize % BLOCK].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_publisher_owns_a_stream() {
        let owners = Owners::new(10_000);
        let (one, two) = (SourceId::new(1, false), SourceId::new(2, true));
        assert_eq!(owners.take(StreamId(9_999), one), Some(SourceId::NONE));
        assert_eq!(owners.take(StreamId(9_999), one), None);
        assert_eq!(owners.take(StreamId(9_999), two), Some(one));
        assert_eq!((owners.of(StreamId(9_999)), owners.of(StreamId(1))), (two, SourceId::NONE));
        assert!(two.is_replay() && !one.is_replay());
    }

    #[test]
    fn a_stream_past_the_bound_is_nobodys() {
        let owners = Owners::new(10);
        assert_eq!(owners.take(StreamId(5_000), SourceId::new(1, false)), None);
        assert_eq!(owners.of(StreamId(5_000)), SourceId::NONE);
    }
}
