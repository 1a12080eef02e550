//! The ring under every interleaving that loom can find; how to run it is in `src/ring.rs`.
//!
//! Each model is as small as its question allows. Values are [`Witness`]es: loom knows when one is
//! written, read and freed, and ends the model if any two of these are not ordered. Every reader
//! accounts for every position ([`Account`]), so each model also checks that laps are exact.
//!
//! The bound given to [`explore`] is how often loom may take the processor from a thread that could go
//! on; without one a model is exhaustive within what loom explores. `LOOM_MAX_PREEMPTIONS` overrides
//! it. Loom treats `SeqCst` accesses as `AcqRel` (fences are modelled), and the epoch makes its
//! compiler fences fences under loom; the ring uses neither.
//!
//! Tried by hand at bound 3, each of these mistakes is found: a Relaxed store or load of the slot, a
//! Relaxed store of the cursor, a cursor that moves before its slot is stored, a node freed at once
//! instead of through the epoch, a read without the check of the node's position, a lap reported one
//! position short. Not found is a Relaxed load of the cursor: the pin that follows it is a fence, and
//! does the same. The ring keeps its Acquire, so as not to lean on how the epoch pins.
#![cfg(tickcast_loom)]

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_epoch as epoch;
use loom::cell::Cell;
use loom::model::Builder;
use loom::thread::{self, JoinHandle};
use tickcast_engine::ring::{BATCH_EVENTS_MAX, Reader, Ring, Writer};

/// What a freed witness holds.
const FREED: u64 = u64::MAX;

/// A value that carries its position as a checksum, in memory that loom watches.
struct Witness(Cell<u64>);

// SAFETY: the cell is set only by `drop`, which has `&mut self`; if that and a read were not ordered,
// loom would end the model, which is what these tests are for.
unsafe impl Sync for Witness {}

impl Witness {
    fn of(position: u64) -> Self {
        Witness(Cell::new(position))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        assert_ne!(self.0.replace(FREED), FREED, "a value is freed once");
    }
}

/// One reader, and what became of every position since it joined.
struct Account {
    reader: Reader<Witness>,
    joined: u64,
    read: u64,
    lost: u64,
}

impl Account {
    fn open(reader: Reader<Witness>) -> Self {
        Account { joined: reader.position(), reader, read: 0, lost: 0 }
    }

    /// Reads one batch, which must go on where the last one ended and see only whole values.
    fn read(&mut self, max: usize) -> bool {
        let mut next = self.reader.position();
        let batch = self.reader.read_batch(max, |position, witness| {
            assert_eq!(position, next, "events come in order, none left out");
            assert_eq!(witness.0.get(), position, "the value belongs to its position");
            next += 1;
        });
        self.read += batch.read as u64;
        if let Some(lap) = batch.lapped {
            assert_eq!(lap.from, next, "a lap begins where reading ended");
            assert!(lap.from < lap.to, "a lap goes forward");
            self.lost += lap.events();
            next = lap.to;
        }
        assert_eq!(self.reader.position(), next, "nothing moved but what was reported");
        batch.remaining
    }

    /// Reads to the end of a ring whose writer has finished, and balances the account.
    fn close(mut self, published: u64) -> (u64, u64) {
        while self.read(BATCH_EVENTS_MAX) {}
        assert_eq!(self.reader.lag(), 0);
        assert_eq!(self.joined + self.read + self.lost, published, "read + lost = published");
        (self.read, self.lost)
    }
}

fn publish(writer: &mut Writer<Witness>, events: u64) {
    for _ in 0..events {
        let position = writer.cursor();
        assert_eq!(writer.publish(Witness::of(position)), position);
    }
}

/// Registers this thread with the epoch before the model looks: that is the epoch's own business, and
/// exploring it would leave no time for the ring.
fn join_epoch() {
    loom::stop_exploring();
    drop(epoch::pin());
    loom::explore();
}

/// Starts a thread of a model.
fn spawn<R: 'static>(work: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
    thread::spawn(|| {
        join_epoch();
        work()
    })
}

/// Pushes the garbage of this thread as far as the epoch allows: a bag is sealed, and is freed when
/// the epoch has moved twice.
fn collect_eagerly() {
    for _ in 0..3 {
        epoch::pin().flush();
    }
}

/// Runs a model and prints how many executions it took. At least `interesting` of them must have
/// returned true, so that a model whose question never came up fails.
fn explore(name: &str, preemption_bound: Option<usize>, model: impl Fn() -> bool + Send + Sync + 'static) {
    let executions = StdArc::new(AtomicUsize::new(0));
    let interesting = StdArc::new(AtomicUsize::new(0));
    let counters = (StdArc::clone(&executions), StdArc::clone(&interesting));
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemption_bound);
    builder.max_branches = 10_000;
    builder.check(move || {
        counters.0.fetch_add(1, Ordering::Relaxed);
        join_epoch();
        if model() {
            counters.1.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (executions, interesting) = (executions.load(Ordering::Relaxed), interesting.load(Ordering::Relaxed));
    println!("loom {name}: {executions} executions, {interesting} of them to the point");
    assert!(interesting > 0, "the model never came to its point");
}

/// One writer, and one reader that reads `batches` times beside it; true if the reader was lapped.
fn writer_against_reader(capacity: usize, published: u64, batches: usize) -> bool {
    let (mut writer, ring) = Ring::with_capacity(capacity).unwrap();
    let mut account = Account::open(ring.reader());
    let writing = spawn(move || publish(&mut writer, published));
    for _ in 0..batches {
        account.read(BATCH_EVENTS_MAX);
    }
    writing.join().unwrap();
    account.close(published).1 > 0
}

#[test]
fn one_reader_is_lapped_at_capacity_1() {
    explore("one_reader_is_lapped_at_capacity_1", None, || writer_against_reader(1, 3, 2));
}

#[test]
fn one_reader_is_lapped_at_capacity_2() {
    explore("one_reader_is_lapped_at_capacity_2", Some(6), || writer_against_reader(2, 4, 2));
}

#[test]
fn two_readers_account_apart() {
    explore("two_readers_account_apart", Some(2), || {
        let (mut writer, ring) = Ring::with_capacity(2).unwrap();
        let mut far = Account::open(ring.reader());
        let mut near = Account::open(ring.reader());
        let reading = spawn(move || {
            far.read(BATCH_EVENTS_MAX);
            far
        });
        let writing = spawn(move || publish(&mut writer, 3));
        near.read(BATCH_EVENTS_MAX);
        writing.join().unwrap();
        let far = reading.join().unwrap();
        near.close(3) != far.close(3)
    });
}

#[test]
fn reader_joins_while_the_ring_wraps() {
    explore("reader_joins_while_the_ring_wraps", None, || {
        let (mut writer, ring) = Ring::with_capacity(2).unwrap();
        publish(&mut writer, 1);
        let writing = spawn(move || publish(&mut writer, 3));
        let mut account = Account::open(ring.reader());
        let joined = account.joined;
        account.read(BATCH_EVENTS_MAX);
        writing.join().unwrap();
        let (_, lost) = account.close(4);
        joined > 1 || lost > 0
    });
}

#[test]
fn reader_leaves_in_the_middle_of_the_ring() {
    explore("reader_leaves_in_the_middle_of_the_ring", None, || {
        let (mut writer, ring) = Ring::with_capacity(2).unwrap();
        let reader = ring.reader();
        publish(&mut writer, 2);
        drop(ring);
        let reading = spawn(move || {
            let mut account = Account::open(reader);
            account.read(1);
            (account.read, account.lost)
        });
        publish(&mut writer, 2);
        // Whichever of the two threads is last frees the slots.
        drop(writer);
        let (read, lost) = reading.join().unwrap();
        assert!(read == 1 || lost > 0, "one event, or the reason why not");
        read == 1
    });
}

#[test]
fn writer_overtakes_a_reader_inside_its_batch() {
    explore("writer_overtakes_a_reader_inside_its_batch", None, || {
        let (mut writer, ring) = Ring::with_capacity(2).unwrap();
        let mut account = Account::open(ring.reader());
        publish(&mut writer, 2);
        let writing = spawn(move || publish(&mut writer, 2));
        account.read(BATCH_EVENTS_MAX);
        let (read, lost) = (account.read, account.lost);
        writing.join().unwrap();
        account.close(4);
        read == 1 && lost > 0
    });
}

#[test]
fn event_outlives_its_slot_while_it_is_read() {
    explore("event_outlives_its_slot_while_it_is_read", Some(6), || {
        let (mut writer, ring) = Ring::with_capacity(1).unwrap();
        let mut account = Account::open(ring.reader());
        publish(&mut writer, 1);
        let writing = spawn(move || {
            publish(&mut writer, 1);
            collect_eagerly();
        });
        account.read(BATCH_EVENTS_MAX);
        let read = account.read;
        writing.join().unwrap();
        account.close(2);
        read == 1
    });
}
