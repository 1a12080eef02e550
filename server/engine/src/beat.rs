//! Heartbeats: where every stream stands, and what a peer's subscriptions did not get so far.
//!
//! A beat overtakes what waits for the peer. So it settles what filters left out, and tells the sums, only
//! when nothing waits: then whatever the peer has not received or been told of up to the head, did not
//! pass.
#![forbid(unsafe_code)]

use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Head, Heartbeat, Notice, NoticeKind, Reason};
use tickcast_protocol::{Message, StreamId};

use crate::index::{GroupId, Index};
use crate::peer::PeerId;
use crate::shard::{SendError, Shard};

/// Most heads in one heartbeat frame.
pub(crate) const HEADS_MAX: usize = 256;
/// Most heads in one beat; about 20 KiB, so that a beat leaves most of the control lane to others. A peer
/// bound to more streams hears of each in turn.
const BEAT_HEADS_MAX: usize = 4 * HEADS_MAX;

impl Shard {
    /// Tells a peer the newest sequence of the streams it is bound to (of very many, the next part), and
    /// what its subscriptions have missed so far where that has changed.
    ///
    /// # Errors
    /// [`SendError::Full`] when control messages wait that the peer does not read; nothing is queued.
    pub fn heartbeat(&mut self, peer: PeerId, now: u64) -> Result<(), SendError> {
        let index = self.peers.find(peer).ok_or(SendError::UnknownPeer)?;
        let Self { peers, index: streams, render, .. } = self;
        let peer = peers.member(index);
        if peer.queue.as_ref().is_some_and(|queue| queue.outbox.control_is_full(0)) {
            self.stats.control_refused.add(1);
            return Err(SendError::Full);
        }
        let server_time = Timestamp(now as i64);
        let mut bound = match peer.group {
            Some(group) if peer.format.is_binary() => streams.streams_of_group(group),
            _ => Vec::new(),
        };
        let in_part = bound.len() > BEAT_HEADS_MAX;
        if in_part {
            // Streams are born behind the cursor or before it; either way their turn comes.
            let next = bound.partition_point(|stream| *stream <= peer.beat_through) % bound.len();
            bound.rotate_left(next);
            bound.truncate(BEAT_HEADS_MAX);
            peer.beat_through = *bound.last().expect("not empty");
        }
        let run_is_empty = peer.group.is_none_or(|group| streams.group(group).run.is_empty());
        let at_rest = !peer.has_data() && run_is_empty;
        let filters = peer.group.filter(|group| streams.group(*group).side.is_some());
        let head = |stream: &StreamId| {
            let sequence = streams.stream(*stream).map_or(0, |stream| stream.head);
            let settled = filters.is_some_and(|group| at_rest && settles(streams, group, *stream));
            Head { stream: stream.0, sequence, through: if settled { sequence } else { 0 } }
        };
        let outbox = &mut peer.queue.get_or_insert_default().outbox;
        let mut parts = bound.chunks(HEADS_MAX);
        loop {
            // Even without a head: the beat itself says that the server lives.
            let heads: Vec<Head> = parts.next().unwrap_or_default().iter().map(head).collect();
            let message = Message::Heartbeat(Heartbeat { server_time, heads });
            if let Some(bytes) = render.control(&message, None, peer.format) {
                outbox.push_control(bytes);
            }
            if parts.len() == 0 {
                break;
            }
        }
        for subscription in peer.subscriptions.iter_mut().filter(|_| at_rest) {
            let Some(group) = peer.group else { break };
            // What the beat could not settle would be in the sums, and the peer could not know of it.
            if filters.is_some() && in_part {
                break;
            }
            let counts = subscription.counts(streams, group);
            if counts == subscription.told {
                continue;
            }
            if outbox.control_is_full(0) {
                break; // The next beat tells the rest.
            }
            let holds = filters.is_some_and(|group| {
                streams
                    .streams_of(subscription.filter)
                    .iter()
                    .any(|stream| streams.group(group).is_holding(*stream))
            });
            if holds {
                continue;
            }
            subscription.told = counts;
            let message = Message::Notice(Notice {
                kind: NoticeKind::COUNTS,
                subscription: subscription.id.0,
                stream: 0,
                from: 0,
                through: 0,
                conflated: counts.conflated,
                gapped: counts.gapped,
                filtered: counts.filtered,
                reason: Reason::NONE,
                reconnect_in_ms: 0,
            });
            if let Some(bytes) = render.control(&message, None, peer.format) {
                outbox.push_control(bytes);
            }
        }
        peer.tidy();
        self.mark_dirty(index);
        Ok(())
    }
}

/// True when all of `stream` that the group did not get was left out by its filters.
fn settles(index: &Index, group: GroupId, stream: StreamId) -> bool {
    !index.group(group).is_holding(stream) && !index.is_plain(group, stream)
}
