//! The peers of one shard, each under an id that is refused once the peer has left.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tickcast_protocol::message::Policy;
use tickcast_protocol::{CloseCode, StreamId, SubscriptionId};

use crate::event::Format;
use crate::index::{FilterId, GroupId, Index};
use crate::ledger::Ledger;
use crate::outbox::Outbox;

/// A peer of one shard. The place is used again, the id is not: a stale one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    index: u32,
    generation: u32,
}

impl PeerId {
    /// The peer's place, below the number of peers there ever were at once: for tables beside the
    /// shard's own. Used again after the peer has left.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// Place and generation in one number.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }
}

/// How one peer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Events that wait, those of snapshots and replays included.
    pub queued_events: usize,
    /// Bytes that wait, each reference charged with its whole frame.
    pub queued_bytes: usize,
    /// Data frames handed to its socket.
    pub delivered: u64,
    /// Events replaced by a newer one of their key.
    pub conflated: u64,
    /// Events lost, upstream gaps included.
    pub gapped: u64,
    /// Of those two, events it was not told about yet; the notice waits for its turn.
    pub untold: u64,
    /// Its subscriptions.
    pub subscriptions: usize,
    /// The socket was full at the last write; [`crate::Shard::flush_peer`] goes on.
    pub blocked: bool,
    /// Why it is to be closed, if it is.
    pub closing: Option<CloseCode>,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) filter: FilterId,
    pub(crate) policy: Policy,
    /// Losses so far, and as the last counts notice said.
    pub(crate) counts: Counts,
    pub(crate) counts_told: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) conflated: u64,
    pub(crate) gapped: u64,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) format: Format,
    pub(crate) group: Option<GroupId>,
    /// Ascending by id: the first one that matches a stream speaks for it.
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) subscriptions_made: u32,
    pub(crate) outbox: Outbox,
    pub(crate) ledger: Ledger,
    /// The last stream whose head a heartbeat told, when there are too many for one.
    pub(crate) beat_through: StreamId,
    /// Which subscription speaks for a stream; filled when first asked, emptied when they change.
    routes: HashMap<StreamId, Route, RandomState>,
    /// The socket was full; nothing is tried until the caller says it is writable.
    pub(crate) blocked: bool,
    /// The socket is dead; nothing is queued any more.
    pub(crate) gone: bool,
    /// On the list of peers to flush.
    pub(crate) dirty: bool,
    pub(crate) closing: Option<CloseCode>,
    pub(crate) delivered: u64,
    pub(crate) counts: Counts,
}

/// What decides about a stream's events for one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Route {
    pub(crate) subscription: SubscriptionId,
    pub(crate) policy: Policy,
}

impl Peer {
    fn new(format: Format) -> Self {
        Self {
            format,
            group: None,
            subscriptions: Vec::new(),
            subscriptions_made: 0,
            outbox: Outbox::default(),
            ledger: Ledger::default(),
            beat_through: StreamId::default(),
            routes: HashMap::default(),
            blocked: false,
            gone: false,
            dirty: false,
            closing: None,
            delivered: 0,
            counts: Counts::default(),
        }
    }

    /// True when data is of no use to it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.gone || self.closing.is_some()
    }

    /// True when a write could do something.
    pub(crate) fn has_output(&self) -> bool {
        !self.gone && (!self.outbox.is_empty() || !self.ledger.is_empty())
    }

    /// The subscription that speaks for `stream`; found once and remembered.
    pub(crate) fn route(&mut self, stream: StreamId, index: &Index) -> Route {
        if let Some(route) = self.routes.get(&stream) {
            return *route;
        }
        let route = self.find_route(stream, index);
        self.routes.insert(stream, route);
        route
    }

    /// The same without remembering.
    pub(crate) fn find_route(&self, stream: StreamId, index: &Index) -> Route {
        let filters = index.stream(stream).map_or(&[][..], |stream| &stream.filters);
        let first = self.subscriptions.iter().find(|subscription| filters.contains(&subscription.filter));
        first.map_or(Route::default(), |found| Route { subscription: found.id, policy: found.policy })
    }

    /// True when one of its subscriptions matches `stream`.
    pub(crate) fn gets(&self, stream: StreamId, index: &Index) -> bool {
        self.find_route(stream, index).subscription != SubscriptionId::default()
    }

    pub(crate) fn forget_routes(&mut self) {
        self.routes.clear();
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            queued_events: self.outbox.events(),
            queued_bytes: self.outbox.bytes(),
            delivered: self.delivered,
            conflated: self.counts.conflated,
            gapped: self.counts.gapped,
            untold: self.ledger.events(),
            subscriptions: self.subscriptions.len(),
            blocked: self.blocked,
            closing: self.closing,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Peers {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    peer: Option<Peer>,
}

impl Peers {
    pub(crate) fn insert(&mut self, format: Format) -> PeerId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, peer: None });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.peer = Some(Peer::new(format));
        PeerId { index, generation: place.generation }
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<Peer> {
        let place = self.places.get_mut(index as usize)?;
        let peer = place.peer.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(peer)
    }

    /// The place of a peer that is still there.
    pub(crate) fn find(&self, id: PeerId) -> Option<u32> {
        let place = self.places.get(id.index())?;
        (place.generation == id.generation && place.peer.is_some()).then_some(id.index)
    }

    pub(crate) fn id(&self, index: u32) -> PeerId {
        PeerId { index, generation: self.places[index as usize].generation }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Peer> {
        self.places.get(index as usize)?.peer.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Peer> {
        self.places.get_mut(index as usize)?.peer.as_mut()
    }

    /// A member of a group, which is always there: detaching leaves the group first.
    pub(crate) fn member(&mut self, index: u32) -> &mut Peer {
        self.get_mut(index).expect("members are attached")
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_id_is_refused_when_its_place_is_used_again() {
        let mut peers = Peers::default();
        let first = peers.insert(Format::Binary);
        assert_eq!(peers.find(first), Some(0));
        assert!(peers.remove(0).is_some() && peers.remove(0).is_none());
        assert_eq!(peers.find(first), None);
        let second = peers.insert(Format::Binary);
        assert_eq!((second.index(), peers.find(first), peers.find(second)), (0, None, Some(0)));
        assert_ne!(first.to_u64(), second.to_u64());
        assert_eq!(peers.len(), 1);
    }
}
