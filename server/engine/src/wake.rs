//! When a shard may sleep, and who must wake it: one word per shard, which both sides swap.
//!
//! ```text
//!   shard                                   publisher
//!   ─────                                   ─────────
//!   sleeping.swap(true)   ─┐             ┌─ ring: cursor moves to p + 1
//!   cursor past my place? ─┘ in this     └─ sleeping.swap(false)
//!     yes: sleeping.swap(false), go on        was true:  notify
//!     no:  block until notified               was false: done, the shard is awake
//! ```
//!
//! **No wake-up is lost.** The swaps of one word have one order. If the publisher's swap is the earlier
//! one, the shard's swap reads from it (through swaps only, so the chain of releases holds), and the
//! look at the cursor that follows sees the event. If it is the later one, it finds `true` and
//! notifies. There is no third case.
//!
//! Three shortcuts look right and are not; each was tried on the models in `tests/loom_wake.rs`, and
//! each made `no_wakeup_is_lost` end in a deadlock:
//!
//! - Sleeping without the second look at the cursor, after the swap.
//! - A cheap load before the publisher's swap. The publisher's store to the cursor and its load of the
//!   word may be seen in either order, so both sides can miss each other; only a sequentially
//!   consistent fence on both sides would forbid it, and that costs what the swap costs.
//! - A plain store instead of a swap when the shard changes its mind. It cuts the chain: the shard's
//!   next swap reads its own store, and no longer sees what the publisher did before.
//!
//! The publisher calls [`WakeFlag::wake`] once per batch, after its last publish, and never per
//! delivery. What it returns is for the caller's counters.
#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;

use crate::sync::atomic::{AtomicBool, Ordering};

/// Wakes a blocked shard. The server's is an eventfd or a runtime's notification.
///
/// A notification must be kept until it is taken: one that comes after the shard has decided to block
/// but before it does must end that block at once.
pub trait Notify: Send + Sync {
    /// Wakes the shard. Called by publishers, at most once for each time the shard prepared to sleep.
    fn notify(&self);
}

impl<F: Fn() + Send + Sync> Notify for F {
    fn notify(&self) {
        self();
    }
}

/// The sleeping word of one shard, and how to wake it; shared between the shard and its publishers.
#[derive(Debug)]
pub struct WakeFlag<N> {
    /// True from the shard's decision to sleep until someone takes it back.
    ///
    /// Set by the shard, cleared by whoever wakes it first, or by the shard itself; always by swap
    /// with AcqRel. Each swap pairs with the one before it: the shard's acquires what the publisher
    /// released before its own, which is the cursor. Padded, because every publish touches it.
    sleeping: CachePadded<AtomicBool>,
    notify: N,
}

impl<N: Notify> WakeFlag<N> {
    /// The flag of a shard that is awake.
    pub fn new(notify: N) -> Self {
        WakeFlag { sleeping: CachePadded::new(AtomicBool::new(false)), notify }
    }

    /// What wakes the shard, for the shard to block on.
    pub fn notifier(&self) -> &N {
        &self.notify
    }

    /// Called by the shard when it has nothing left to do: says whether it may block.
    ///
    /// `has_work` looks at the cursor again, now that publishers can see the shard as sleeping. If it
    /// finds something, the shard stays awake. A publisher may have seen the shard asleep in between:
    /// then its notification is on the way, and the next block ends at once, with nothing to do.
    #[must_use = "a shard that blocks although there is work waits for the next event"]
    pub fn prepare_to_sleep(&self, has_work: impl FnOnce() -> bool) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        if has_work() {
            self.stay_awake();
            return false;
        }
        true
    }

    /// Called by the shard when something other than a notification ended its block, such as a socket
    /// or a timer. Without it the protocol still holds, and the next publish notifies for nothing.
    pub fn stay_awake(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Called by a publisher after the cursor has moved: notifies the shard if it sleeps, and says
    /// whether it did. Of several callers one notifies.
    pub fn wake(&self) -> bool {
        let slept = self.sleeping.swap(false, Ordering::AcqRel);
        if slept {
            self.notify.notify();
        }
        slept
    }
}

#[cfg(all(test, not(tickcast_loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn shard_with_work_stays_awake() {
        let flag = WakeFlag::new(|| panic!("an awake shard is not notified"));
        assert!(!flag.prepare_to_sleep(|| true));
        assert!(!flag.wake());
    }

    #[test]
    fn sleeping_shard_is_notified_once() {
        let notified = AtomicUsize::new(0);
        let flag = WakeFlag::new(|| {
            notified.fetch_add(1, Ordering::Relaxed);
        });
        assert!(!flag.wake(), "nobody sleeps yet");
        assert!(flag.prepare_to_sleep(|| false));
        assert!(flag.wake());
        assert!(!flag.wake(), "the first one woke it");
        assert_eq!(notified.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn shard_woken_by_a_socket_is_not_notified() {
        let flag = WakeFlag::new(|| panic!("an awake shard is not notified"));
        assert!(flag.prepare_to_sleep(|| false));
        flag.stay_awake();
        assert!(!flag.wake());
    }

    #[test]
    fn publisher_sees_the_shard_asleep_during_its_second_look() {
        let notified = AtomicUsize::new(0);
        let flag = WakeFlag::new(|| {
            notified.fetch_add(1, Ordering::Relaxed);
        });
        let may_sleep = flag.prepare_to_sleep(|| {
            assert!(flag.wake());
            true
        });
        assert!(!may_sleep);
        assert_eq!(notified.load(Ordering::Relaxed), 1, "the notification is kept for later");
    }
}
