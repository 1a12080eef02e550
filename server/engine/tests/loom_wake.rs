//! Sleeping and waking under every interleaving that loom can find; how to run it is in `src/ring.rs`.
//!
//! A lost wake-up is a shard that waits although there is work, which loom reports as a deadlock.
//! Tried by hand, each of these mistakes makes `no_wakeup_is_lost` end in one: no second look at the
//! cursor after the shard's swap, a load before the publisher's swap, a Relaxed swap by the publisher,
//! and a store in place of the swap in `WakeFlag::stay_awake`.
#![cfg(tickcast_loom)]

use std::sync::Arc as StdArc;
use std::sync::atomic::AtomicUsize;

use loom::model::Builder;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use tickcast_engine::ring::{BATCH_EVENTS_MAX, Ring};
use tickcast_engine::wake::{Notify, WakeFlag};

/// What a shard blocks on: keeps one notification until it is taken, as an eventfd does.
struct Bell {
    kept: Mutex<bool>,
    ringing: Condvar,
    /// How often it was rung. Of std, so that counting orders nothing in the model.
    rung: AtomicUsize,
}

impl Bell {
    fn new() -> Self {
        Bell { kept: Mutex::new(false), ringing: Condvar::new(), rung: AtomicUsize::new(0) }
    }

    fn wait(&self) {
        let mut kept = self.kept.lock().unwrap();
        while !*kept {
            kept = self.ringing.wait(kept).unwrap();
        }
        *kept = false;
    }

    fn rung(&self) -> usize {
        self.rung.load(Ordering::Relaxed)
    }
}

impl Notify for Bell {
    fn notify(&self) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        *self.kept.lock().unwrap() = true;
        self.ringing.notify_one();
    }
}

/// A shard with its ring reduced to the cursor.
struct Shard {
    flag: WakeFlag<Bell>,
    cursor: AtomicU64,
}

impl Shard {
    fn new() -> Arc<Self> {
        Arc::new(Shard { flag: WakeFlag::new(Bell::new()), cursor: AtomicU64::new(0) })
    }

    /// What a publisher does; true if it had to notify.
    fn publish(&self, position: u64) -> bool {
        self.cursor.store(position + 1, Ordering::Release);
        self.flag.wake()
    }

    /// Reads until `events` were seen, sleeping whenever it may; says how often it prepared to sleep.
    /// `block` is what it does when it may sleep.
    fn run(&self, events: u64, mut block: impl FnMut(&WakeFlag<Bell>)) -> usize {
        let mut prepared = 0;
        loop {
            let seen = self.cursor.load(Ordering::Acquire);
            if seen == events {
                return prepared;
            }
            prepared += 1;
            if self.flag.prepare_to_sleep(|| self.cursor.load(Ordering::Acquire) > seen) {
                block(&self.flag);
            }
        }
    }
}

/// Registers this thread with the epoch before the model looks: see `tests/loom_ring.rs`.
fn join_epoch() {
    loom::stop_exploring();
    drop(crossbeam_epoch::pin());
    loom::explore();
}

/// Runs a model and prints how many executions it took. At least one of them must have returned true,
/// so that a model whose question never came up fails.
fn explore(name: &str, preemption_bound: Option<usize>, model: impl Fn() -> bool + Send + Sync + 'static) {
    let executions = StdArc::new(AtomicUsize::new(0));
    let interesting = StdArc::new(AtomicUsize::new(0));
    let counters = (StdArc::clone(&executions), StdArc::clone(&interesting));
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemption_bound);
    builder.max_branches = 10_000;
    builder.check(move || {
        counters.0.fetch_add(1, Ordering::Relaxed);
        if model() {
            counters.1.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (executions, interesting) = (executions.load(Ordering::Relaxed), interesting.load(Ordering::Relaxed));
    println!("loom {name}: {executions} executions, {interesting} of them to the point");
    assert!(interesting > 0, "the model never came to its point");
}

#[test]
fn no_wakeup_is_lost() {
    explore("no_wakeup_is_lost", None, || {
        let shard = Shard::new();
        let publisher = Arc::clone(&shard);
        let publishing = thread::spawn(move || {
            publisher.publish(0);
            publisher.publish(1);
        });
        let mut blocked = 0;
        shard.run(2, |flag| {
            blocked += 1;
            flag.notifier().wait();
        });
        publishing.join().unwrap();
        blocked > 0
    });
}

#[test]
fn no_wakeup_is_lost_over_a_ring() {
    explore("no_wakeup_is_lost_over_a_ring", Some(4), || {
        join_epoch();
        let (mut writer, ring) = Ring::with_capacity(1).unwrap();
        let mut reader = ring.reader();
        let flag = Arc::new(WakeFlag::new(Bell::new()));
        let waker = Arc::clone(&flag);
        let publishing = thread::spawn(move || {
            join_epoch();
            for event in 0..2_u64 {
                writer.publish(event);
                waker.wake();
            }
        });
        let mut blocked = 0;
        while reader.position() < 2 {
            let batch = reader.read_batch(BATCH_EVENTS_MAX, |position, event| {
                assert_eq!(*event, position);
            });
            let idle = !batch.remaining && reader.position() < 2;
            if idle && flag.prepare_to_sleep(|| reader.lag() > 0) {
                blocked += 1;
                flag.notifier().wait();
            }
        }
        publishing.join().unwrap();
        blocked > 0
    });
}

#[test]
fn shard_changes_its_mind_and_misses_nothing() {
    explore("shard_changes_its_mind_and_misses_nothing", None, || {
        let shard = Shard::new();
        let publisher = Arc::clone(&shard);
        let publishing = thread::spawn(move || publisher.publish(0));
        let mut socket_has_news = true;
        shard.run(1, |flag| {
            if std::mem::take(&mut socket_has_news) {
                flag.stay_awake();
            } else {
                flag.notifier().wait();
            }
        });
        let notified = publishing.join().unwrap();
        !socket_has_news && !notified
    });
}

#[test]
fn two_wakeups_coalesce() {
    explore("two_wakeups_coalesce", Some(4), || {
        let shard = Shard::new();
        let wakers = [0, 1].map(|_| {
            let shard = Arc::clone(&shard);
            thread::spawn(move || {
                shard.cursor.fetch_add(1, Ordering::Release);
                shard.flag.wake()
            })
        });
        let mut blocked = 0;
        let prepared = shard.run(2, |flag| {
            blocked += 1;
            flag.notifier().wait();
        });
        let woke = wakers.map(|waker| waker.join().unwrap());
        let notified = woke.iter().filter(|&&woke| woke).count();
        assert_eq!(notified, shard.flag.notifier().rung(), "one notification for each that says so");
        assert!(notified <= prepared, "a shard is notified once for each time it prepared to sleep");
        assert!(blocked <= notified, "a block is ended by a notification only");
        blocked == 1 && notified == 1
    });
}
