//! What the members of one delivery group get in one turn: laid out once, written to each with one call.
//!
//! While the shard drains, a run is only a list of references with lengths. At the flush it becomes one
//! contiguous buffer, made for the first member that can take it whole. Members that are behind get the
//! references instead. A run lives from its first event to the flush, so no reader pins it.
#![forbid(unsafe_code)]

use crate::event::Format;
use crate::store::{EventRef, Store};

/// Most bytes of a run, unless one event is larger; at the bound the shard ends its turn, writes the run
/// out and goes on. Costs this much once per shard, as the buffer is shared by all groups.
pub(crate) const RUN_BYTES_MAX: usize = 256 * 1024;

/// Events for one group, in order.
#[derive(Debug, Default)]
pub(crate) struct Run {
    frames: Vec<RunFrame>,
}

/// One event of a run.
#[derive(Debug)]
pub(crate) struct RunFrame {
    pub(crate) event: EventRef,
    /// Where its bytes end in the run's buffer.
    pub(crate) end: usize,
}

impl Run {
    pub(crate) fn push(&mut self, event: EventRef, length: usize) {
        let end = self.len() + length;
        self.frames.push(RunFrame { event, end });
    }

    /// Bytes of the run.
    pub(crate) fn len(&self) -> usize {
        self.frames.last().map_or(0, |frame| frame.end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True when `length` more bytes do not fit.
    pub(crate) fn is_full(&self, length: usize) -> bool {
        !self.is_empty() && self.len() + length > RUN_BYTES_MAX
    }

    pub(crate) fn frames(&self) -> &[RunFrame] {
        &self.frames
    }

    /// How many frames lie wholly within the first `bytes`.
    pub(crate) fn frames_within(&self, bytes: usize) -> usize {
        self.frames.partition_point(|frame| frame.end <= bytes)
    }

    /// Lays the run out in `buffer`. Its events were rendered when they were added.
    pub(crate) fn lay_out(
        &self,
        buffer: &mut Vec<u8>,
        store: &Store,
        mut framed: impl FnMut(&mut Vec<u8>, &crate::event::Event),
    ) {
        buffer.clear();
        for frame in &self.frames {
            framed(buffer, store.get(&frame.event));
            debug_assert_eq!(buffer.len(), frame.end, "an event's bytes do not change");
        }
    }

    /// Gives the references back; the list keeps its room for the next turn.
    pub(crate) fn release(&mut self, store: &mut Store) {
        for frame in self.frames.drain(..) {
            store.release(frame.event);
        }
    }
}

/// What makes peers members of one group: they get the same bytes of the same events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub(crate) format: Format,
    /// Ascending.
    pub(crate) filters: Vec<crate::index::FilterId>,
    pub(crate) predicate: PredicateId,
}

/// A condition on events beyond their topic, evaluated once per group. There is one so far: all pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PredicateId(pub(crate) u32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event;
    use tickcast_protocol::Class;

    #[test]
    fn run_records_where_its_events_end() {
        let (mut store, mut run, mut buffer) = (Store::default(), Run::default(), Vec::new());
        for sequence in 1..=3 {
            let event = event(1, sequence, 1, Class::Latest, &vec![0; sequence as usize]);
            let length = event.binary().len();
            let event = store.insert(event);
            run.push(event, length);
        }
        run.lay_out(&mut buffer, &store, |out, event| out.extend_from_slice(event.binary()));
        // Head 2, header 40, payload 1, 2, 3.
        assert_eq!(run.frames().iter().map(|frame| frame.end).collect::<Vec<_>>(), [43, 87, 132]);
        assert_eq!(buffer.len(), 132);
        assert_eq!([0, 42, 43, 86, 87, 132].map(|bytes| run.frames_within(bytes)), [0, 0, 1, 1, 2, 3]);
        run.release(&mut store);
        assert_eq!((store.len(), run.len()), (0, 0));
    }

    #[test]
    fn run_is_full_at_its_bound_but_takes_one_large_event() {
        let mut store = Store::default();
        let mut run = Run::default();
        assert!(!run.is_full(RUN_BYTES_MAX + 1));
        run.push(store.insert(event(1, 1, 1, Class::Latest, b"")), RUN_BYTES_MAX - 10);
        assert!(!run.is_full(10));
        assert!(run.is_full(11));
        run.release(&mut store);
    }
}
