//! Every counter of a shard, explained once. The shard writes, whoever scrapes reads.
//!
//! A counter has one writer, its shard, so it is raised by a load and a store, without a locked
//! instruction; the readers see a number that was true a moment ago. Each shard's counters lie in cache
//! lines of their own.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Which of the two bounds of an outbox or a history was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Events,
    Bytes,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises the counter. Only the owning shard may call it: two writers would lose counts.
    pub fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    /// Sets a gauge; the owning shard's alone, too.
    pub fn set(&self, value: u64) {
        // Relaxed: the number orders nothing else.
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One shard's counters and gauges.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardStats { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        /// The numbers of a [`ShardStats`] at one time.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ShardCounts { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl ShardStats {
            /// Name and meaning of every number, in the order of [`ShardCounts::values`].
            pub const NAMES: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc,)+).trim_ascii()),)+];

            /// All numbers, each read once; not one instant for all of them.
            #[must_use]
            pub fn snapshot(&self) -> ShardCounts {
                ShardCounts { $($name: self.$name.get(),)+ }
            }
        }

        impl ShardCounts {
            /// The numbers of two shards together.
            #[must_use]
            pub fn plus(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)+ }
            }

            /// The numbers in the order of [`ShardStats::NAMES`].
            #[must_use]
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$name,)+]
            }
        }
    };
}

counters! {
    /// Events taken from the ring.
    events,
    /// Data frames whose bytes were handed to a socket, at least their first one.
    deliveries,
    /// Deliveries to binary peers; the others were JSON.
    deliveries_binary,
    /// Deliveries of critical events, as far as they went through an outbox.
    deliveries_critical,
    /// Bytes that sockets accepted, control messages included.
    sent_bytes,
    /// Calls of a socket's write.
    writes,
    /// Writes that the socket took in part or not at all.
    writes_short,
    /// Events queued for a slow peer because it could not take them at once.
    queued_total,
    /// Events replaced in an outbox by a newer one of the same key.
    conflated,
    /// Events that waited for a rate, once a delivery group.
    held,
    /// Of those, the ones that a newer one of the same key replaced.
    held_replaced,
    /// Times that a delivery group's waiting events were sent before their time, for want of room.
    held_early,
    /// Events told to delivery groups as replaced for a rate.
    rated,
    /// Events a peer was told it lost, for any reason but an upstream gap.
    gapped,
    /// Events the ring overwrote before this shard read them.
    lapped,
    /// Times the shard was lapped.
    laps,
    /// Lost events that were found again in the shared records and delivered late.
    repaired,
    /// Events rendered in a format other than binary.
    renders,
    /// Renderings and compressions thrown away, because another shard was first.
    lost_races,
    /// Events compressed, once for all shards and peers that read LZ4.
    compressed,
    /// Bytes by which those events got smaller, counted once an event, not once a delivery.
    compressed_saved_bytes,
    /// Events large enough to compress that did not shrink, and went out as they are.
    incompressible,
    /// Events that could not be carried by a group's format.
    uncarried,
    /// Events that found an outbox with as many events as it may hold.
    outbox_events_full,
    /// Events that found no room in the bytes that an outbox may hold.
    outbox_bytes_full,
    /// Streams that a resume found too short, because of the events that a history may hold.
    history_events_short,
    /// Streams that a resume found too short, because of the bytes that a history may hold.
    history_bytes_short,
    /// Peers marked to be closed because they read too slowly.
    closed_slow,
    /// Control messages refused because their place was full.
    control_refused,
    /// Gauge: events waiting in outboxes.
    queued,
    /// Gauge: connected peers.
    peers,
    /// Gauge: subscriptions.
    subscriptions,
    /// Gauge: delivery groups.
    groups,
    /// Gauge: distinct conditions of filters.
    conditions,
    /// Gauge: position in the ring up to which events were distributed.
    position,
}

impl ShardStats {
    /// Counts an event that found its outbox full.
    pub(crate) fn outbox_full(&self, bound: Bound) {
        match bound {
            Bound::Events => self.outbox_events_full.add(1),
            Bound::Bytes => self.outbox_bytes_full.add(1),
        }
    }

    /// Counts a stream whose history does not reach back as far as a resume or snapshot needs.
    pub(crate) fn history_short(&self, bound: Bound) {
        match bound {
            Bound::Events => self.history_events_short.add(1),
            Bound::Bytes => self.history_bytes_short.add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_names_every_number() {
        let stats = ShardStats::default();
        stats.events.add(2);
        stats.events.add(3);
        stats.position.set(9);
        let counts = stats.snapshot();
        assert_eq!((counts.events, counts.position), (5, 9));
        assert_eq!(counts.values().len(), ShardStats::NAMES.len());
        assert_eq!(ShardStats::NAMES[0], ("events", "Events taken from the ring."));
    }
}
