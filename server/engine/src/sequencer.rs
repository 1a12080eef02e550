//! Who is next: interns streams and numbers their events. Used inside the ingest section only.
//!
//! Sequences of a stream start at 1 and have no holes; publish times only grow, over all streams, so that a
//! clock set back does not reorder what a client sorts by time, and that a time is a place in the order of
//! events: what comes later has a later one.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tickcast_protocol::{Class, Sequence, StreamId, Topic};

/// Gives out stream ids, sequences and times.
#[derive(Debug)]
pub(crate) struct Sequencer {
    /// Streams of a topic, by class; most topics have one.
    ids: HashMap<Topic, [Option<StreamId>; Class::ALL.len()], RandomState>,
    /// The newest sequence of stream id `i + 1`.
    heads: Vec<u64>,
    streams_max: usize,
    last_time: u64,
}

/// Numbers for one publish: `from..=through` (more than one only for a skip).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) stream: StreamId,
    /// The stream was interned by this call.
    pub(crate) born: bool,
    pub(crate) from: Sequence,
    pub(crate) through: Sequence,
    pub(crate) publish_time: u64,
}

/// Why there is no number; nothing has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No further stream may be interned.
    StreamLimit,
    /// The stream has not so many sequences left.
    SequenceLimit,
}

impl Sequencer {
    /// Gives out no times before `begun`.
    pub(crate) fn new(streams_max: usize, begun: u64) -> Self {
        // Ids are 32 bits, and zero means none.
        let streams_max = streams_max.min(u32::MAX as usize - 1);
        Self { ids: HashMap::default(), heads: Vec::new(), streams_max, last_time: begun.saturating_sub(1) }
    }

    /// The stream (topic, class), if it was interned.
    pub(crate) fn find(&self, topic: &Topic, class: Class) -> Option<StreamId> {
        self.ids.get(topic).and_then(|ids| ids[class as usize - 1])
    }

    /// Takes the next `count` sequences of the stream (topic, class), interning it if it is new.
    pub(crate) fn assign(
        &mut self,
        topic: &Topic,
        class: Class,
        count: u64,
        now: u64,
    ) -> Result<Stamp, Refused> {
        let slot = class as usize - 1;
        let known = self.ids.get(topic).and_then(|ids| ids[slot]);
        let before = known.map_or(0, |stream| self.heads[stream.0 as usize - 1]);
        let through = before.checked_add(count).ok_or(Refused::SequenceLimit)?;
        let stream = match known {
            Some(stream) => stream,
            None if self.heads.len() >= self.streams_max => return Err(Refused::StreamLimit),
            None => {
                self.heads.push(0);
                let stream = StreamId(self.heads.len() as u32);
                self.ids.entry(topic.clone()).or_default()[slot] = Some(stream);
                stream
            }
        };
        self.heads[stream.0 as usize - 1] = through;
        self.last_time = now.max(self.last_time.saturating_add(1));
        Ok(Stamp {
            stream,
            born: known.is_none(),
            from: Sequence(before + 1),
            through: Sequence(through),
            publish_time: self.last_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(key: &str) -> Topic {
        Topic::parse(&format!("market_data.{key}")).unwrap()
    }

    #[test]
    fn sequences_have_no_holes_and_streams_keep_apart() {
        let mut sequencer = Sequencer::new(10, 0);
        let (a, b) = (topic("A"), topic("B"));
        let mut assign = |topic: &Topic, class, count| {
            let stamp = sequencer.assign(topic, class, count, 0).unwrap();
            (stamp.stream.0, stamp.born, stamp.from.0, stamp.through.0)
        };
        assert_eq!(assign(&a, Class::Latest, 1), (1, true, 1, 1));
        assert_eq!(assign(&a, Class::Critical, 1), (2, true, 1, 1));
        assert_eq!(assign(&b, Class::Latest, 1), (3, true, 1, 1));
        assert_eq!(assign(&a, Class::Latest, 5), (1, false, 2, 6));
        assert_eq!(assign(&a, Class::Latest, 1), (1, false, 7, 7));
    }

    #[test]
    fn time_only_grows() {
        let mut sequencer = Sequencer::new(10, 5);
        let times: Vec<u64> = [2, 9, 3, 9, 20]
            .iter()
            .map(|now| sequencer.assign(&topic("A"), Class::Latest, 1, *now).unwrap().publish_time)
            .collect();
        assert_eq!(times, [5, 9, 10, 11, 20]);
    }

    #[test]
    fn known_streams_go_on_at_the_limit() {
        let mut sequencer = Sequencer::new(1, 0);
        assert!(sequencer.assign(&topic("A"), Class::Latest, 1, 0).is_ok());
        assert_eq!(sequencer.assign(&topic("B"), Class::Latest, 1, 0), Err(Refused::StreamLimit));
        assert_eq!(sequencer.assign(&topic("A"), Class::Ordered, 1, 0), Err(Refused::StreamLimit));
        assert!(sequencer.assign(&topic("A"), Class::Latest, 1, 0).is_ok());
    }

    #[test]
    fn sequences_that_run_out_change_nothing() {
        let mut sequencer = Sequencer::new(1, 0);
        assert!(sequencer.assign(&topic("A"), Class::Latest, u64::MAX - 1, 0).is_ok());
        assert_eq!(sequencer.assign(&topic("A"), Class::Latest, 2, 9), Err(Refused::SequenceLimit));
        let last = sequencer.assign(&topic("A"), Class::Latest, 1, 5).unwrap();
        assert_eq!((last.from.0, last.through.0, last.publish_time), (u64::MAX, u64::MAX, 5));
        assert_eq!(sequencer.assign(&topic("A"), Class::Latest, 1, 9), Err(Refused::SequenceLimit));
    }
}
