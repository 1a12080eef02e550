//! The peers of one shard, each under an id that is refused once the peer has left.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;
use tickcast_protocol::message::Policy;
use tickcast_protocol::{CloseCode, StreamId, SubscriptionId};

use crate::event::Format;
use crate::index::{FilterId, GroupId, Index, InterestId};
use crate::ledger::{Ledger, Loss};
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
    /// Events of its streams that passed no filter of its own, summed over its subscriptions.
    pub filtered: u64,
    /// Of those three, events it was not told about yet; the notice waits for its turn.
    pub untold: u64,
    /// Its subscriptions.
    pub subscriptions: usize,
    /// The socket was full at the last write; [`crate::Shard::flush_peer`] goes on.
    pub blocked: bool,
    /// Why it is to be closed, if it is.
    pub closing: Option<CloseCode>,
}

/// One subscription. About 130 B, and nothing beside it while the peer keeps up.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) policy: Policy,
    /// Not yet in a group.
    pub(crate) is_new: bool,
    pub(crate) interest: InterestId,
    /// The interest's topic filter.
    pub(crate) filter: FilterId,
    /// What it did not get, as far as it is counted for this peer alone.
    pub(crate) own: Counts,
    /// Where the group's sums stood when it began to be counted by them.
    pub(crate) since: Marks,
    /// As the last counts notice said.
    pub(crate) told: Counts,
    /// Streams that came already for another subscription, of which something waited then, ascending, with the
    /// sequence after which this one counts.
    pub(crate) after: Box<[(StreamId, u64)]>,
}

/// Events that a subscription did not get, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) conflated: u64,
    pub(crate) gapped: u64,
    pub(crate) filtered: u64,
}

/// Sums that others keep, at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Events on the filter's streams.
    pub(crate) seen: u64,
    /// Of those, the ones that passed the group.
    pub(crate) passed: u64,
    /// Of those, the ones that the group's rate replaced.
    pub(crate) conflated: u64,
}

/// A peer, small while it keeps up: what waits for it is in a box of its own, which an idle peer lacks.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The socket was full; nothing is tried until the caller says it is writable.
    pub(crate) blocked: bool,
    /// The socket is dead; nothing is queued any more.
    pub(crate) gone: bool,
    /// On the list of peers to flush.
    pub(crate) dirty: bool,
    pub(crate) format: Format,
    /// Its subscriptions leave out streams of the class critical.
    pub(crate) without_critical: bool,
    pub(crate) closing: Option<CloseCode>,
    pub(crate) queue: Option<Box<Queue>>,
    pub(crate) delivered: u64,
    pub(crate) group: Option<GroupId>,
    /// Its place in the group.
    pub(crate) place: u32,
    pub(crate) subscriptions_made: u32,
    /// The last stream whose head a heartbeat told, when there are too many for one.
    pub(crate) beat_through: StreamId,
    /// Ascending by id: the first one that matches a stream speaks for it.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Losses, each once; `filtered` is kept by subscription only.
    pub(crate) counts: Counts,
    /// The group's conflated events that were not this peer's.
    pub(crate) conflated_before: u64,
}

/// What waits for one peer, and what is only needed while something does.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) outbox: Outbox,
    pub(crate) ledger: Ledger,
    /// Which subscription speaks for a stream; filled when first asked, emptied when they change.
    routes: HashMap<StreamId, Route, RandomState>,
    /// Streams of which the group held something when the peer joined, and the sequence after which it
    /// counts there.
    pub(crate) skips: Vec<(StreamId, u64)>,
    /// Streams whose state it is to be told, as it is then: it could not take what was told to others.
    pub(crate) owed: BTreeSet<StreamId>,
    /// It changed its group while something waited: what the new group is told may reach back to that.
    pub(crate) loose: bool,
}

/// What decides about a stream's events for one peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Route {
    pub(crate) subscription: SubscriptionId,
    pub(crate) policy: Policy,
}

impl Subscription {
    pub(crate) fn new(id: SubscriptionId, policy: Policy, interest: InterestId, filter: FilterId) -> Self {
        let (own, since, told) = (Counts::default(), Marks::default(), Counts::default());
        Self { id, policy, is_new: true, interest, filter, own, since, told, after: Box::default() }
    }

    /// What it did not get so far. `group` is the peer's.
    pub(crate) fn counts(&self, index: &Index, group: GroupId) -> Counts {
        let Some(now) = self.marks(index, group) else { return self.own };
        let (seen, passed) = (now.seen - self.since.seen, now.passed - self.since.passed);
        Counts {
            conflated: self.own.conflated + now.conflated - self.since.conflated,
            gapped: self.own.gapped,
            filtered: self.own.filtered + seen - passed,
        }
    }

    /// The sums now; `None` when the group keeps none, for it passes everything.
    pub(crate) fn marks(&self, index: &Index, group: GroupId) -> Option<Marks> {
        let sums = index.group(group).side.as_ref()?.sums(self.filter);
        Some(Marks { seen: index.seen(self.filter), passed: sums.passed, conflated: sums.conflated })
    }
}

impl Peer {
    fn new(format: Format) -> Self {
        Self {
            blocked: false,
            gone: false,
            dirty: false,
            format,
            without_critical: false,
            closing: None,
            queue: None,
            delivered: 0,
            group: None,
            place: 0,
            subscriptions_made: 0,
            beat_through: StreamId::default(),
            subscriptions: Vec::new(),
            counts: Counts::default(),
            conflated_before: 0,
        }
    }

    /// True when nothing stands between a run and its socket.
    pub(crate) fn is_clear(&self) -> bool {
        self.queue.is_none() && !self.blocked && !self.is_over()
    }

    /// True when data is of no use to it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.gone || self.closing.is_some()
    }

    /// True when a write could do something.
    pub(crate) fn has_output(&self) -> bool {
        !self.gone && self.queue.as_ref().is_some_and(|queue| queue.has_output())
    }

    /// True while events wait for it, or losses are untold; control messages do not count.
    pub(crate) fn has_data(&self) -> bool {
        let has_data = |queue: &Queue| queue.outbox.has_data() || !queue.ledger.is_empty();
        self.queue.as_deref().is_some_and(has_data)
    }

    pub(crate) fn queue(&mut self) -> &mut Queue {
        self.queue.get_or_insert_default()
    }

    /// Gives memory back once nothing waits.
    pub(crate) fn tidy(&mut self) {
        if let Some(queue) = &mut self.queue
            && !queue.has_output()
        {
            queue.loose = false;
            if queue.skips.is_empty() {
                self.queue = None;
            }
        }
    }

    /// Events that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.queue.as_ref().map_or(0, |queue| queue.outbox.events() as u64)
    }

    /// The subscription that speaks for `stream`; found once and remembered while something waits.
    pub(crate) fn route(&mut self, stream: StreamId, index: &Index) -> Route {
        if let [only] = &*self.subscriptions {
            return Route { subscription: only.id, policy: only.policy };
        }
        if let Some(route) = self.queue.as_ref().and_then(|queue| queue.routes.get(&stream)) {
            return *route;
        }
        let route = self.find_route(stream, index);
        if let Some(queue) = &mut self.queue {
            queue.routes.insert(stream, route);
        }
        route
    }

    /// The same without remembering; the default when none matches.
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
        if let Some(queue) = &mut self.queue {
            queue.routes.clear();
        }
    }

    /// Counts a loss that is this peer's alone, for every subscription it concerns.
    pub(crate) fn count(&mut self, stream: StreamId, loss: &Loss, index: &Index) {
        let (conflated, gapped) = (loss.conflated, loss.gapped());
        self.counts.conflated += conflated;
        self.counts.gapped += gapped;
        let filters = index.stream(stream).map_or(&[][..], |stream| &stream.filters);
        for subscription in &mut self.subscriptions {
            let after = subscription.after.binary_search_by_key(&stream, |(of, _)| *of);
            let is_its_own = after.map_or(true, |at| loss.from > subscription.after[at].1);
            if is_its_own && filters.contains(&subscription.filter) {
                subscription.own.conflated += conflated;
                subscription.own.gapped += gapped;
            }
        }
    }

    /// Takes events back that its group's sums counted as conflated, for it counts from behind them.
    pub(crate) fn disown(&mut self, stream: StreamId, conflated: u64, index: &Index) {
        self.conflated_before += conflated;
        let filters = index.stream(stream).map_or(&[][..], |stream| &stream.filters);
        let its = self.subscriptions.iter_mut().filter(|known| filters.contains(&known.filter));
        its.for_each(|subscription| subscription.since.conflated += conflated);
    }

    pub(crate) fn status(&self, index: &Index) -> PeerStatus {
        let (mut filtered, mut conflated) = (0, self.counts.conflated);
        if let Some(group) = self.group {
            filtered = self.subscriptions.iter().map(|known| known.counts(index, group).filtered).sum();
            let side = index.group(group).side.as_ref();
            conflated += side.map_or(0, |side| side.conflated - self.conflated_before);
        }
        PeerStatus {
            queued_events: self.queue.as_ref().map_or(0, |queue| queue.outbox.events()),
            queued_bytes: self.queue.as_ref().map_or(0, |queue| queue.outbox.bytes()),
            delivered: self.delivered,
            conflated,
            gapped: self.counts.gapped,
            filtered,
            untold: self.queue.as_ref().map_or(0, |queue| queue.ledger.events()),
            subscriptions: self.subscriptions.len(),
            blocked: self.blocked,
            closing: self.closing,
        }
    }
}

impl Queue {
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty() || !self.ledger.is_empty() || !self.owed.is_empty()
    }

    /// The part of what a group is told of `stream` that is new to this peer, if there is one.
    pub(crate) fn news(&self, stream: StreamId, loss: Loss) -> Option<Loss> {
        let mut known = self.ledger.last(stream);
        if self.loose {
            known = known.max(self.outbox.last_on(stream));
        }
        if let Some((_, position)) = self.skips.iter().find(|(of, _)| *of == stream) {
            known = known.max(*position);
        }
        loss.behind(known)
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
