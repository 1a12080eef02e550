//! How a peer changes its group, and what it takes along.
//!
//! A group's members stand where the group stands: they were sent or told everything up to its windows.
//! Whoever leaves takes along, in its own outbox and ledger, what the group still holds. Whoever joins is
//! told what its old group had not told it yet, where the new one is further; where the new one is behind,
//! the reader knows better and takes that off (`ledger.rs`).
#![forbid(unsafe_code)]

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tickcast_protocol::StreamId;

use crate::index::{FilterId, GroupId, InterestId};
use crate::ledger::Loss;
use crate::peer::Peer;
use crate::run::Run;
use crate::shard::Shard;

/// How far a peer was sent or told the streams of which its old group held something.
type Settled = HashMap<StreamId, u64, RandomState>;

impl Shard {
    /// Changes a peer's subscriptions by `edit`, after which it has `interests`, and moves it to their group.
    /// `changed` is the topic filter of the subscription it is about. The run of its old group must be
    /// spilled.
    pub(crate) fn regroup(
        &mut self,
        index: u32,
        mut interests: Vec<InterestId>,
        changed: FilterId,
        edit: impl FnOnce(&mut Peer),
    ) {
        interests.sort_unstable();
        interests.dedup();
        let peer = self.peers.member(index);
        let (format, old) = (peer.format, peer.group);
        if let Some(group) = old.filter(|old| self.index.group(*old).key.interests == interests) {
            edit(self.peers.member(index));
            let Self { peers, index: streams, .. } = self;
            let peer = peers.member(index);
            peer.forget_routes();
            // The others go on by the marks they have.
            if let Some(new) = peer.subscriptions.last_mut().filter(|last| last.is_new) {
                new.is_new = false;
                new.since = new.marks(streams, group).unwrap_or_default();
            }
            return;
        }
        let settled = old.map_or_else(Settled::default, |old| self.settle(index, old));
        edit(self.peers.member(index));
        let new = self.index.find_group(format, &interests);
        if let Some(new) = new {
            // Its members have events in a run that this one must not get.
            self.spill_run(new);
        }
        let peer = self.peers.member(index);
        peer.forget_routes();
        if peer.has_data() {
            peer.queue().loose = true;
        }
        if let Some(old) = old {
            self.tell_rest(index, old, new, &interests, changed, &settled);
            self.leave_group(index, old);
        }
        if !interests.is_empty() {
            let (group, place) = self.index.join(index, format, interests);
            let peer = self.peers.member(index);
            (peer.group, peer.place) = (Some(group), place);
            self.take_up(index, group);
        } else if let Some(queue) = &mut self.peers.member(index).queue {
            queue.skips.clear();
        }
        self.mark_dirty(index);
        self.stats.groups.set(self.index.groups_len() as u64);
    }

    /// Takes a peer out of its group, which it may end. The run must be spilled.
    pub(crate) fn leave_group(&mut self, index: u32, group: GroupId) {
        let peer = self.peers.member(index);
        let place = peer.place;
        peer.group = None;
        let (moved, ended) = self.index.leave(place, group);
        if let Some(moved) = moved {
            self.peers.member(moved).place = place;
        }
        let Some(mut side) = ended.and_then(|ended| ended.side) else { return };
        let held = side.windows.values_mut().filter_map(|window| window.held.as_mut());
        for (event, ..) in held.flat_map(|held| held.take()).filter_map(|item| item.event) {
            self.store.release(event);
        }
    }

    /// Gives a peer what its group holds, and makes its sums its own.
    fn settle(&mut self, index: u32, group: GroupId) -> Settled {
        let mut settled = Settled::default();
        let Self { peers, index: streams, .. } = self;
        let Some(side) = &streams.group(group).side else { return settled };
        let peer = peers.member(index);
        peer.counts.conflated += side.conflated - peer.conflated_before;
        peer.conflated_before = side.conflated;
        for subscription in &mut peer.subscriptions {
            subscription.own = subscription.counts(streams, group);
            subscription.since = subscription.marks(streams, group).expect("it has a side");
        }
        if side.held_events == 0 {
            return settled;
        }
        let mut run = Run::default();
        let mut own = Vec::new();
        let holding = side.windows.iter().filter(|(_, window)| window.is_holding());
        for (stream, window) in holding {
            let mut through = window.through;
            for (at, item) in window.items().iter().enumerate() {
                if let Some(loss) = window.loss_before(at) {
                    own.push(loss);
                }
                let Some((event, _, size)) = &item.event else { continue };
                own.drain(..).for_each(|loss| run.tell(loss, bytes::Bytes::new()));
                run.push(self.store.share(event), *size as usize);
                through = item.through;
            }
            // A cut behind the last event: nothing was replaced before it.
            own.clear();
            settled.insert(*stream, through);
        }
        self.queue_own(index, &run);
        run.release(&mut self.store);
        settled
    }

    /// Tells a peer what did not pass its old group and will not be told by the new one.
    fn tell_rest(
        &mut self,
        index: u32,
        old: GroupId,
        new: Option<GroupId>,
        interests: &[InterestId],
        changed: FilterId,
        settled: &Settled,
    ) {
        let streams = &self.index;
        let from = streams.group(old);
        if from.side.is_none() {
            return;
        }
        let stood = |stream: StreamId| settled.get(&stream).copied().unwrap_or_else(|| from.through(stream));
        let lacked = |stream: StreamId| streams.gets(old, stream) && !streams.is_plain(old, stream);
        let mut rest: Vec<(StreamId, u64, u64)> = Vec::new();
        // The new group is further than the old one was.
        let windows = new.and_then(|new| streams.group(new).side.as_ref()).map(|side| &side.windows);
        for (stream, window) in windows.into_iter().flatten() {
            if lacked(*stream) {
                rest.push((*stream, stood(*stream) + 1, window.through));
            }
        }
        // The new group gets everything of it, and will tell nothing.
        for stream in streams.streams_of(changed) {
            if lacked(*stream) && streams.is_plain_to(interests, *stream) {
                let head = streams.stream(*stream).map_or(0, |stream| stream.head);
                rest.push((*stream, stood(*stream) + 1, head));
            }
        }
        for (stream, from, through) in rest.into_iter().filter(|(_, from, through)| from <= through) {
            self.enter(index, stream, Loss::skipped(from, through, 0));
        }
    }

    /// Begins a peer's part in its new group: from the sums as they are, and behind what is held.
    fn take_up(&mut self, index: u32, group: GroupId) {
        let Self { peers, index: streams, .. } = self;
        let peer = peers.member(index);
        if let Some(queue) = &mut peer.queue {
            queue.skips.clear();
        }
        for subscription in &mut peer.subscriptions {
            subscription.is_new = false;
            subscription.since = subscription.marks(streams, group).unwrap_or_default();
        }
        let Some(side) = &streams.group(group).side else {
            peer.conflated_before = 0;
            return;
        };
        peer.conflated_before = side.conflated;
        if side.held_events == 0 {
            return;
        }
        let holding = side.windows.iter().filter(|(_, window)| window.is_holding());
        let heads: Vec<(StreamId, u64)> = holding
            .map(|(stream, _)| (*stream, streams.stream(*stream).map_or(0, |stream| stream.head)))
            .collect();
        let side = streams.group_mut(group).side.as_mut().expect("just seen");
        for (stream, head) in &heads {
            let window = side.windows.get_mut(stream).expect("just seen");
            window.held.as_mut().expect("it holds something").cut(*head);
        }
        peer.queue().skips = heads;
    }
}
