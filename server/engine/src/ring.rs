//! The broadcast ring: one writer stores every event once, and every shard reads every event.
//!
//! ```text
//!             slots: capacity cells, position p lives in cell p & mask
//!           ┌──────┬──────┬──────┬──────┐
//!  Writer ─►│  p=4 │  p=5 │  p=2 │  p=3 │◄─ Reader (next = 3): 3, 4, 5, then empty
//!           └──────┴──────┴──────┴──────┘◄─ Reader (next = 1): finds 5, so it was lapped
//!                     cursor = 6            (the position that is written next)
//! ```
//!
//! What holds, and why:
//!
//! - **Every position below the cursor is stored.** There is one [`Writer`], it stores the slot first
//!   and moves the cursor second, so no reader ever meets a cell that is claimed but empty.
//! - **The writer never waits.** It looks at no reader. Whoever is a full ring behind is *lapped*.
//! - **A lap is exact.** A node carries its position, so a reader knows from the cell alone that it
//!   came too late. It is told the range `[from, to)` that it skips, once, and nothing outside of it is
//!   missing: over any stretch of batches, `read + skipped = positions advanced`.
//! - **A reader writes nothing that another thread reads**, except the epoch's own word for its thread,
//!   once per batch. Sixteen shards on one slot share its cache line.
//! - **An event outlives whoever looks at it.** An overwritten node is freed only after every thread
//!   that was reading at that moment has left its batch (crossbeam-epoch). The epoch protects the look
//!   and no more: what a reader wants to keep it clones, which is why `T` is an `Arc` in the engine.
//!
//! Memory: a slot is one padded cache line pair (128 B on x86-64, so 2 MiB at the default capacity) and
//! one node for each slot ever filled. Overwritten nodes wait in batches of 64 per writing thread until
//! the epoch has moved twice; a reader that is descheduled inside a batch stops the epoch, and garbage
//! grows at the publish rate until it is back. That is why a batch is bounded by [`BATCH_EVENTS_MAX`].
//! Nodes are freed by whichever thread collects, a reader's included.
//!
//! What the ring does not know: topics, sequences, subscribers, and when to sleep ([`crate::wake`]).
//!
//! # Checking
//!
//! The atomics are model-checked by loom, the epoch's included, in `tests/loom_ring.rs`:
//!
//! ```text
//! RUSTFLAGS="--cfg tickcast_loom --cfg crossbeam_loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test -p tickcast-engine --release --test loom_ring --test loom_wake -- --nocapture
//! ```
//!
//! Reclamation is that of crossbeam-epoch itself, not a stand-in. Two limits are known: a thread's
//! registration with the epoch is not explored (it is crossbeam's own affair), and some models have
//! a preemption bound, named in each.

use std::fmt;

use crossbeam_epoch::{self as epoch, Atomic, Owned};
use crossbeam_utils::CachePadded;

use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Slots of a ring unless the settings say otherwise; 2 MiB of cells, and at one million events a
/// second a shard may be away for 16 ms before it is lapped.
pub const CAPACITY_DEFAULT: usize = 16_384;

/// The most slots a ring may have: 128 MiB of cells, before the events they hold.
pub const CAPACITY_MAX: usize = 1 << 20;

/// The most events one batch reads, whatever its caller asks for. The epoch is pinned for the length
/// of a batch and nothing is freed meanwhile, so this bounds the garbage a working reader can cause.
pub const BATCH_EVENTS_MAX: usize = 256;

/// A handle to the ring from which readers are made; cheap to clone.
///
/// A value is seen by many threads at once and dropped by any of them, later than the ring itself. So
/// the only constructor asks for `T: Send + Sync + 'static`, and no method can be reached without it.
///
/// `Send` alone is not enough, since two readers hold `&T` of the same value:
///
/// ```compile_fail,E0277
/// # use tickcast_engine::ring::Ring;
/// let ring = Ring::<std::cell::Cell<u64>>::with_capacity(2);
/// ```
///
/// `Sync` alone is not enough, since a reader's thread may be the one that frees the value:
///
/// ```compile_fail,E0277
/// # use tickcast_engine::ring::Ring;
/// let ring = Ring::<std::sync::MutexGuard<'static, u64>>::with_capacity(2);
/// ```
///
/// A value may not borrow, since it is freed at a time nobody knows:
///
/// ```compile_fail,E0597
/// # use tickcast_engine::ring::Ring;
/// let word = String::from("short-lived");
/// let (mut writer, ring) = Ring::with_capacity(2).unwrap();
/// writer.publish(word.as_str());
/// # drop(word);
/// ```
pub struct Ring<T> {
    shared: Arc<Shared<T>>,
}

/// The one hand that writes; it cannot be cloned, and [`publish`](Writer::publish) needs it whole.
///
/// ```compile_fail,E0599
/// # use tickcast_engine::ring::Ring;
/// let (writer, ring) = Ring::<u64>::with_capacity(2).unwrap();
/// let second = writer.clone();
/// ```
pub struct Writer<T> {
    shared: Arc<Shared<T>>,
    /// The position written next; the shared cursor is this number's published copy.
    next: u64,
}

/// One reader's place in the ring. A clone starts at the same place and goes its own way.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    /// The position read next; nobody else knows it.
    next: u64,
}

/// What one call of [`Reader::read_batch`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a batch may report a lap, and lost events must be accounted for"]
pub struct Batch {
    /// Events handed to the callback.
    pub read: usize,
    /// The range that was overwritten before it could be read. It lies after the events of this batch
    /// and ends it.
    pub lapped: Option<Lap>,
    /// Whether the batch stopped before the end of the ring as it was known then. If not, the reader
    /// may try to sleep ([`crate::wake::WakeFlag::prepare_to_sleep`] looks again).
    pub remaining: bool,
}

/// The positions `from..to`, which a reader skipped because the writer was a full ring ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lap {
    /// The first position that is lost: the next one the reader wanted.
    pub from: u64,
    /// The position at which the reader goes on; not lost.
    pub to: u64,
}

/// A capacity that is zero, not a power of two, or above [`CAPACITY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityError {
    /// The capacity that was asked for, in slots.
    pub capacity: usize,
}

impl<T: Send + Sync + 'static> Ring<T> {
    /// Makes an empty ring of `capacity` slots and its only writer. All slots are allocated here, so a
    /// publish later allocates nothing but its node.
    pub fn with_capacity(capacity: usize) -> Result<(Writer<T>, Ring<T>), CapacityError> {
        if !capacity.is_power_of_two() || capacity > CAPACITY_MAX {
            return Err(CapacityError { capacity });
        }
        let shared = Arc::new(Shared {
            cursor: CachePadded::new(AtomicU64::new(0)),
            slots: (0..capacity).map(|_| CachePadded::new(Atomic::null())).collect(),
        });
        let writer = Writer { shared: Arc::clone(&shared), next: 0 };
        Ok((writer, Ring { shared }))
    }
}

impl<T> Ring<T> {
    /// A new reader, which sees everything published from now on.
    pub fn reader(&self) -> Reader<T> {
        Reader { shared: Arc::clone(&self.shared), next: self.cursor() }
    }

    /// The position written next, which is the number of events published so far.
    pub fn cursor(&self) -> u64 {
        self.shared.load_cursor()
    }

    /// How many events the ring holds.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }
}

impl<T> Clone for Ring<T> {
    fn clone(&self) -> Self {
        Ring { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send + Sync + 'static> Writer<T> {
    /// Stores `value` at the next position, which is returned, and overwrites the event a full ring
    /// before it. Never waits for a reader.
    ///
    /// The overwritten node is handed to the epoch last, after the cursor has moved: when that leads
    /// to a collection, readers already have the event.
    pub fn publish(&mut self, value: T) -> u64 {
        let position = self.next;
        let slot = self.shared.slot(position);
        // SAFETY: nobody may free what is loaded here before `defer_destroy` below. Only a writer
        // retires nodes, there is one writer per ring (it is not `Clone`, and `&mut self` keeps it
        // from running twice), so the node in the slot stays alive without a pin.
        // Would be caught by: `tests/loom_ring.rs`, every model (the values detect a second drop).
        let old = slot.load(Ordering::Relaxed, unsafe { epoch::unprotected() });
        slot.store(Owned::new(Node { position, value }), Ordering::Release);
        self.next = position + 1;
        self.shared.cursor.store(self.next, Ordering::Release);

        if !old.is_null() {
            let guard = epoch::pin();
            // SAFETY: the node must be unreachable for every thread that pins from now on, and be
            // retired once. It was unlinked by the store above, before this thread's pin, and no
            // other place holds the pointer; the slot now holds the new node, so it cannot be loaded
            // here again. A reader that can still see it is pinned and holds the epoch back.
            // Would be caught by: `event_outlives_its_slot_while_it_is_read` (loom), which frees as
            // eagerly as the epoch allows, and `every_value_is_dropped_once`.
            unsafe { guard.defer_destroy(old) };
        }
        position
    }
}

impl<T> Writer<T> {
    /// The position written next, which is the number of events published so far.
    pub fn cursor(&self) -> u64 {
        self.next
    }
}

impl<T> Reader<T> {
    /// Hands up to `max` events (and never more than [`BATCH_EVENTS_MAX`]) to `read`, oldest first,
    /// each with its position.
    ///
    /// A reader that finds its next event overwritten jumps to half a ring behind the cursor, so that
    /// it is not lapped again at once, and the batch ends with a [`Lap`] that names what it skipped.
    /// At capacity 1 half a ring is nothing, and the reader goes on with the next event to come.
    ///
    /// Nothing overwritten is freed while `read` runs: it should take references and return. If it
    /// panics, the event it was given counts as read.
    pub fn read_batch(&mut self, max: usize, mut read: impl FnMut(u64, &T)) -> Batch {
        let shared = &*self.shared;
        let cursor = shared.load_cursor();
        let from = self.next;
        let to = cursor.min(from + max.min(BATCH_EVENTS_MAX) as u64);
        if from == to {
            return Batch { read: 0, lapped: None, remaining: from < cursor };
        }

        let guard = epoch::pin();
        while self.next < to {
            // Acquire pairs with the writer's Release store of the slot: it makes the node's content
            // visible even when the slot has been overwritten since the cursor was read.
            let node = shared.slot(self.next).load(Ordering::Acquire, &guard);
            // SAFETY: the pointer must be null or a live, initialised node that nobody changes while
            // the reference lives. Only `publish` stores pointers, each to a finished node that is
            // never written again; the node is freed through the epoch alone (or by `Shared::drop`,
            // which needs the last `Arc`, and `self` holds one), and `guard` was pinned before the
            // load and outlives the reference.
            // Would be caught by: `event_outlives_its_slot_while_it_is_read` (loom), and the stress
            // test below.
            let node = unsafe { node.as_ref() }.expect("a slot below the cursor is filled");
            if node.position != self.next {
                drop(guard);
                return self.jump(from);
            }
            self.next += 1;
            read(node.position, &node.value);
        }
        Batch { read: (to - from) as usize, lapped: None, remaining: to < cursor }
    }

    /// The position read next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// How many events the reader is behind; above the ring's capacity, it is lapped and will learn so
    /// with its next batch.
    pub fn lag(&self) -> u64 {
        self.shared.load_cursor() - self.next
    }

    /// Ends a batch that began at `batch_from` with a jump over what was overwritten.
    fn jump(&mut self, batch_from: u64) -> Batch {
        // The overwriting node is at least a full ring ahead, and the writer moved the cursor up to
        // that node's position before it stored the node. The load of the slot acquired that store,
        // so this one sees at least `next + capacity`, and the jump goes forward.
        let cursor = self.shared.load_cursor();
        let lap = Lap { from: self.next, to: cursor - self.shared.slots.len() as u64 / 2 };
        debug_assert!(lap.from < lap.to, "a lap goes forward");
        self.next = lap.to;
        Batch { read: (lap.from - batch_from) as usize, lapped: Some(lap), remaining: lap.to < cursor }
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Reader { shared: Arc::clone(&self.shared), next: self.next }
    }
}

impl Lap {
    /// How many events were lost.
    pub fn events(self) -> u64 {
        self.to - self.from
    }
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("capacity", &self.capacity()).field("cursor", &self.cursor()).finish()
    }
}

impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("next", &self.next).finish_non_exhaustive()
    }
}

impl fmt::Display for CapacityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.capacity;
        write!(f, "ring capacity must be a power of two from 1 to {CAPACITY_MAX}, not {asked}")
    }
}

impl std::error::Error for CapacityError {}

/// What writer and readers share. `Send` and `Sync` follow from the fields: `Atomic<Node<T>>` has them
/// only if `T: Send + Sync`, so no handle needs an `unsafe impl`.
struct Shared<T> {
    /// The position written next.
    ///
    /// Written by the writer only, with Release, after the slot. Read by everyone with Acquire in
    /// [`Shared::load_cursor`], which pairs with that store: whoever sees `cursor > p` sees slot `p`
    /// filled. It also orders nothing else; the sleeping word of [`crate::wake`] has its own pairing.
    /// Padded, because readers poll it while the writer moves it.
    cursor: CachePadded<AtomicU64>,
    /// The cells, a power of two of them.
    ///
    /// Each is written by the writer only, with Release, after the node is complete. Read by readers
    /// with Acquire under a pin in [`Reader::read_batch`], which pairs with that store, and by the
    /// writer itself with Relaxed, to retire what it wrote. Padded, so that a reader close behind the
    /// writer does not take the line that is written next.
    slots: Box<[CachePadded<Atomic<Node<T>>>]>,
}

/// A value and the position it was published at: what tells a reader that it was lapped.
struct Node<T> {
    position: u64,
    value: T,
}

impl<T> Shared<T> {
    fn slot(&self, position: u64) -> &Atomic<Node<T>> {
        // Truncation is harmless: the mask is below `CAPACITY_MAX`.
        &self.slots[position as usize & (self.slots.len() - 1)]
    }

    fn load_cursor(&self) -> u64 {
        self.cursor.load(Ordering::Acquire)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            let slot = std::mem::take(&mut **slot);
            // SAFETY: the node must be owned by the slot alone. `&mut self` in the drop of the last
            // `Arc` means that no writer or reader is left, so nobody holds a reference; retired
            // nodes are in no slot, since `publish` replaces them before it retires them.
            // Would be caught by: `every_value_is_dropped_once`, and every loom model.
            drop(unsafe { slot.try_into_owned() });
        }
    }
}

#[cfg(all(test, not(tickcast_loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Reads one batch into a list, and checks that positions and values belong together.
    fn take(reader: &mut Reader<u64>, max: usize) -> (Vec<u64>, Batch) {
        let mut events = Vec::new();
        let batch = reader.read_batch(max, |position, &value| {
            assert_eq!(position, value);
            events.push(value);
        });
        assert_eq!(batch.read, events.len());
        (events, batch)
    }

    fn ring_with(capacity: usize, published: u64) -> (Writer<u64>, Ring<u64>, Reader<u64>) {
        let (mut writer, ring) = Ring::with_capacity(capacity).unwrap();
        let reader = ring.reader();
        for value in 0..published {
            assert_eq!(writer.publish(value), value);
        }
        (writer, ring, reader)
    }

    #[test]
    fn handles_move_between_threads() {
        fn send<T: Send>() {}
        fn share<T: Sync>() {}
        send::<Writer<u64>>();
        send::<Reader<u64>>();
        send::<Ring<u64>>();
        share::<Ring<u64>>();
    }

    #[test]
    fn capacity_is_a_power_of_two_within_bounds() {
        for capacity in [0, 3, 1_000, CAPACITY_MAX * 2] {
            let error = Ring::<u64>::with_capacity(capacity).unwrap_err();
            assert_eq!(error, CapacityError { capacity });
            assert!(error.to_string().contains(&capacity.to_string()));
        }
        for capacity in [1, 2, CAPACITY_DEFAULT] {
            assert_eq!(Ring::<u64>::with_capacity(capacity).unwrap().1.capacity(), capacity);
        }
    }

    #[test]
    fn empty_ring_gives_nothing() {
        let (_writer, ring, mut reader) = ring_with(4, 0);
        let batch = Batch { read: 0, lapped: None, remaining: false };
        assert_eq!(take(&mut reader, 10), (vec![], batch));
        assert_eq!((ring.cursor(), reader.lag()), (0, 0));
    }

    #[test]
    fn every_reader_reads_every_event_in_order() {
        let (writer, ring, mut first) = ring_with(4, 3);
        let mut second = first.clone();
        let batch = Batch { read: 3, lapped: None, remaining: false };
        assert_eq!(take(&mut first, 10), (vec![0, 1, 2], batch));
        assert_eq!(second.lag(), 3);
        assert_eq!(take(&mut second, 10), (vec![0, 1, 2], batch));
        assert_eq!((writer.cursor(), ring.cursor(), second.position()), (3, 3, 3));
    }

    #[test]
    fn late_reader_sees_what_comes_after_it() {
        let (mut writer, ring, _) = ring_with(4, 3);
        let mut late = ring.reader();
        assert_eq!(late.lag(), 0);
        writer.publish(3);
        assert_eq!(take(&mut late, 10).0, [3]);
    }

    #[test]
    fn batch_stops_at_its_bound_and_says_so() {
        let (_writer, _, mut reader) = ring_with(4, 4);
        let (events, batch) = take(&mut reader, 3);
        assert_eq!((events, batch.remaining), (vec![0, 1, 2], true));
        assert_eq!(take(&mut reader, 0).1, Batch { read: 0, lapped: None, remaining: true });
        assert!(!take(&mut reader, 1).1.remaining);

        let (_writer, _, mut reader) = ring_with(1_024, 300);
        assert_eq!(take(&mut reader, usize::MAX).1.read, BATCH_EVENTS_MAX);
        assert_eq!(take(&mut reader, usize::MAX).1.read, 300 - BATCH_EVENTS_MAX);
    }

    #[test]
    fn full_ring_is_not_a_lap() {
        let (_writer, _, mut reader) = ring_with(4, 4);
        assert_eq!(take(&mut reader, 10).0, [0, 1, 2, 3]);
    }

    #[test]
    fn lapped_reader_learns_what_it_missed() {
        let (_writer, _, mut reader) = ring_with(4, 5);
        let lap = Lap { from: 0, to: 3 };
        assert_eq!(lap.events(), 3);
        assert_eq!(take(&mut reader, 10), (vec![], Batch { read: 0, lapped: Some(lap), remaining: true }));
        assert_eq!(take(&mut reader, 10), (vec![3, 4], Batch { read: 2, lapped: None, remaining: false }));
    }

    #[test]
    fn lap_ends_a_batch_after_what_was_read() {
        let (mut writer, ring) = Ring::with_capacity(4).unwrap();
        let mut reader = ring.reader();
        (0..4_u64).for_each(|value| {
            writer.publish(value);
        });
        let mut read = Vec::new();
        let batch = reader.read_batch(10, |position, &value| {
            assert_eq!(position, value);
            if read.is_empty() {
                // Overwrites 0, which is being read, and 1, which is next.
                writer.publish(4);
                writer.publish(5);
            }
            assert_eq!(value, position, "an overwritten event is still whole");
            read.push(value);
        });
        assert_eq!(read, [0]);
        let lap = Some(Lap { from: 1, to: 4 });
        assert_eq!(batch, Batch { read: 1, lapped: lap, remaining: true });
        assert_eq!(take(&mut reader, 10).0, [4, 5]);
    }

    #[test]
    fn lap_at_capacity_1_goes_on_with_the_next_event() {
        let (mut writer, _, mut reader) = ring_with(1, 2);
        let lap = Some(Lap { from: 0, to: 2 });
        assert_eq!(take(&mut reader, 10).1, Batch { read: 0, lapped: lap, remaining: false });
        writer.publish(2);
        assert_eq!(take(&mut reader, 10).0, [2]);
    }

    #[test]
    fn event_that_panics_its_reader_counts_as_read() {
        let (_writer, _, mut reader) = ring_with(4, 2);
        let read = std::panic::AssertUnwindSafe(|| reader.read_batch(10, |_, _| panic!("on purpose")));
        assert!(std::panic::catch_unwind(read).is_err());
        assert_eq!(take(&mut reader, 10).0, [1]);
    }

    /// Counts its drops in a counter of its test.
    struct Counted(&'static AtomicUsize);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_value_is_dropped_once() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        let (mut writer, ring) = Ring::with_capacity(8).unwrap();
        let mut reader = ring.reader();
        for _ in 0..1_000 {
            writer.publish(Counted(&DROPPED));
        }
        assert_eq!(reader.read_batch(10, |_, _| ()).lapped, Some(Lap { from: 0, to: 996 }));
        drop((writer, ring));
        assert!(DROPPED.load(Ordering::Relaxed) <= 992, "a reader keeps the slots alive");
        drop(reader);
        assert!(DROPPED.load(Ordering::Relaxed) >= 8, "the last handle frees the slots at once");
        // Other tests pin the same epoch, so what was overwritten may take a moment.
        let patience = Instant::now() + Duration::from_secs(10);
        while DROPPED.load(Ordering::Relaxed) < 1_000 && Instant::now() < patience {
            epoch::pin().flush();
            thread::yield_now();
        }
        assert_eq!(DROPPED.load(Ordering::Relaxed), 1_000);
    }

    #[test]
    fn threads_account_for_every_event() {
        const CHECKSUM: u64 = 0x9e37_79b9_7f4a_7c15;
        const EVENTS_MAX: u64 = if cfg!(miri) { 400 } else { 2_000_000 };
        static DONE: AtomicBool = AtomicBool::new(false);

        /// A value whose halves disagree once it is torn or freed.
        struct Checked(u64, Box<u64>);

        fn account(mut reader: Reader<Checked>) -> (u64, u64) {
            let (mut read, mut lost) = (0, 0);
            loop {
                // Before the batch, so that nothing can be published after an empty last one.
                let done = DONE.load(Ordering::Acquire);
                let from = reader.position();
                let mut next = from;
                let batch = reader.read_batch(BATCH_EVENTS_MAX, |position, Checked(value, check)| {
                    assert_eq!((position, *value), (next, position));
                    assert_eq!(**check, position ^ CHECKSUM);
                    next += 1;
                });
                read += batch.read as u64;
                lost += batch.lapped.map_or(0, Lap::events);
                assert_eq!(read + lost, reader.position());
                if done && !batch.remaining {
                    return (read, lost);
                }
            }
        }

        let (mut writer, ring) = Ring::with_capacity(64).unwrap();
        let readers = [ring.reader(), ring.reader()].map(|reader| thread::spawn(|| account(reader)));
        let end = Instant::now() + Duration::from_secs(1);
        while writer.cursor() < EVENTS_MAX && Instant::now() < end {
            let position = writer.cursor();
            writer.publish(Checked(position, Box::new(position ^ CHECKSUM)));
            if position % 512 == 0 {
                thread::yield_now();
            }
        }
        DONE.store(true, Ordering::Release);
        for reader in readers {
            let (read, lost) = reader.join().unwrap();
            assert_eq!(read + lost, writer.cursor());
            assert!(read > 0, "a reader at work reads something");
        }
    }
}
