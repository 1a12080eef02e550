//! What the members of one delivery group get in one turn: laid out once, written to each with one call.
//!
//! While the shard drains, a run is only a list of references with lengths. At the flush it becomes one
//! contiguous buffer, made for the first member that can take it whole. Members that are behind get the
//! references instead. A run lives from its first event to the flush, so no reader pins it.
//!
//! In front of an event may lie what the whole group is told before it: what its filters left out, and
//! what its rate replaced. Notices and event are one frame of the run, which a short write may cut
//! anywhere.
#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::ledger::Loss;
use crate::store::{EventRef, Store};

/// Bytes at which a run is full: the shard ends its turn, writes the run out and goes on. A run is at most
/// one frame longer. Costs about twice this once per shard, as the buffer is shared by all groups.
pub(crate) const RUN_BYTES_MAX: usize = 256 * 1024;

/// References in all runs of a turn, about 24 B each, at which the shard ends its turn, writes and goes on:
/// many events that each go to many groups would otherwise cost their product. One event more at most.
pub(crate) const TURN_FRAMES_MAX: usize = 128 * 1024;
/// Entries for which an empty run keeps room, about 24 B each.
const KEPT_MAX: usize = 32;

/// Events for one group, in order.
#[derive(Debug, Default)]
pub(crate) struct Run {
    frames: Vec<RunFrame>,
    losses: Vec<(Loss, Bytes)>,
}

/// One event of a run, with what is told before it.
#[derive(Debug)]
pub(crate) struct RunFrame {
    pub(crate) event: EventRef,
    /// Bytes of the event alone.
    pub(crate) size: u32,
    /// Where the losses told before it end among the run's.
    losses_end: u32,
    /// Where its bytes end in the run's buffer.
    pub(crate) end: usize,
}

impl Run {
    /// Adds an event of `size` bytes, behind the losses told since the last one.
    pub(crate) fn push(&mut self, event: EventRef, size: usize) {
        let begun = self.frames.last().map_or(0, |frame| frame.losses_end as usize);
        let told: usize = self.losses[begun..].iter().map(|(_, bytes)| bytes.len()).sum();
        let end = self.len() + told + size;
        self.frames.push(RunFrame { event, size: size as u32, losses_end: self.losses.len() as u32, end });
    }

    /// Says what is told before the event that is added next; an event must follow.
    pub(crate) fn tell(&mut self, loss: Loss, bytes: Bytes) {
        self.losses.push((loss, bytes));
    }

    /// Bytes of the run.
    pub(crate) fn len(&self) -> usize {
        self.frames.last().map_or(0, |frame| frame.end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= RUN_BYTES_MAX
    }

    pub(crate) fn frames(&self) -> &[RunFrame] {
        &self.frames
    }

    /// What is told before the event of the frame at `at`.
    pub(crate) fn losses(&self, at: usize) -> impl Iterator<Item = &Loss> {
        self.told(at).iter().map(|(loss, _)| loss)
    }

    /// How many frames lie wholly within the first `bytes`.
    pub(crate) fn frames_within(&self, bytes: usize) -> usize {
        self.frames.partition_point(|frame| frame.end <= bytes)
    }

    /// Appends the run's bytes to `buffer`. Its events were rendered when they were added.
    pub(crate) fn lay_out(
        &self,
        buffer: &mut Vec<u8>,
        store: &Store,
        mut framed: impl FnMut(&mut Vec<u8>, &crate::event::Event),
    ) {
        let start = buffer.len();
        for (at, frame) in self.frames.iter().enumerate() {
            for (_, bytes) in self.told(at) {
                buffer.extend_from_slice(bytes);
            }
            framed(buffer, store.get(&frame.event));
            debug_assert_eq!(buffer.len() - start, frame.end, "an event's bytes do not change");
        }
    }

    /// Gives the references back. The lists keep a little room for the next turn: that of the busiest turn
    /// there ever was would add up over many groups.
    pub(crate) fn release(&mut self, store: &mut Store) {
        self.losses.clear();
        for frame in self.frames.drain(..) {
            store.release(frame.event);
        }
        self.losses.shrink_to(KEPT_MAX);
        self.frames.shrink_to(KEPT_MAX);
    }

    fn told(&self, at: usize) -> &[(Loss, Bytes)] {
        let begun = if at == 0 { 0 } else { self.frames[at - 1].losses_end as usize };
        &self.losses[begun..self.frames[at].losses_end as usize]
    }
}

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
    fn what_is_told_before_an_event_is_part_of_its_frame() {
        let (mut store, mut run, mut buffer) = (Store::default(), Run::default(), Vec::new());
        run.push(store.insert(event(1, 1, 1, Class::Latest, b"")), 42);
        run.tell(Loss::skipped(2, 4, 0), Bytes::from_static(b"234"));
        run.tell(Loss::skipped(5, 5, 1), Bytes::from_static(b"5"));
        run.push(store.insert(event(1, 6, 1, Class::Latest, b"")), 42);
        run.lay_out(&mut buffer, &store, |out, event| out.extend_from_slice(event.binary()));
        assert_eq!(run.frames().iter().map(|frame| frame.end).collect::<Vec<_>>(), [42, 88]);
        assert_eq!(&buffer[42..46], b"2345");
        assert_eq!((run.losses(0).count(), run.losses(1).map(Loss::events).sum::<u64>()), (0, 4));
        run.release(&mut store);
        assert_eq!((store.len(), run.len()), (0, 0));
    }

    #[test]
    fn run_is_full_at_its_bound() {
        let mut store = Store::default();
        let mut run = Run::default();
        run.push(store.insert(event(1, 1, 1, Class::Latest, b"")), RUN_BYTES_MAX - 1);
        assert!(!run.is_full());
        run.push(store.insert(event(1, 2, 1, Class::Latest, b"")), 1);
        assert!(run.is_full());
        run.release(&mut store);
    }
}
