//! Announcing streams: no frame carries a stream id that its peer was not told before.
//!
//! Binds go to the control lane, which is written before everything else, so they may overtake events of
//! other streams but never follow one of their own.
#![forbid(unsafe_code)]

use bytes::Bytes;
use tickcast_protocol::message::{Bind, Binding, ClassName};
use tickcast_protocol::{Class, CloseCode, Message, Sequence, StreamId, SubscriptionId, Topic};

use crate::history::History;
use crate::index::FilterId;
use crate::peer::Peer;
use crate::shard::Shard;

/// Most bindings in one bind frame; about 80 KiB at the longest topics.
pub const BINDINGS_MAX: usize = 512;
/// Most bytes of binds that may wait for a peer whose socket is full when yet another stream is born; past
/// it the peer is closed, since a bind cannot be left out. A peer that reads may have more for a moment:
/// thousands of streams can be born between two flushes, which is no fault of its own. Past it, too, a
/// further subscribe is refused for now.
pub const BIND_BYTES_MAX: usize = 1024 * 1024;

impl Shard {
    /// Makes a stream known and binds it to everyone who subscribed to it before it was born.
    pub(crate) fn ensure_stream(&mut self, id: StreamId, topic: &Topic, class: Class) {
        if self.index.stream(id).is_some() {
            return;
        }
        self.index.birth(id, topic.clone(), class, History::default());
        let filters = self.index.stream(id).expect("just born").filters.clone();
        // Peers that subscribed alike have numbered alike: most binds of a group are the same bytes.
        let mut rendered: Vec<(SubscriptionId, Option<Bytes>)> = Vec::new();
        for group in self.index.groups_of(id) {
            rendered.clear();
            for at in 0..self.index.group(group).members.len() {
                let index = self.index.group(group).members[at];
                self.bind_newborn(index, id, &filters, &mut rendered);
            }
        }
    }

    fn bind_newborn(
        &mut self,
        index: u32,
        id: StreamId,
        filters: &[FilterId],
        rendered: &mut Vec<(SubscriptionId, Option<Bytes>)>,
    ) {
        if self.peers.member(index).is_over() {
            return;
        }
        for at in 0..self.peers.member(index).subscriptions.len() {
            let subscription = &self.peers.member(index).subscriptions[at];
            if !filters.contains(&subscription.filter) {
                continue;
            }
            let subscription = subscription.id;
            let known = rendered.iter().find(|(of, _)| *of == subscription);
            let bytes = match known {
                Some((_, bytes)) => bytes.clone(),
                None => {
                    let bytes = self.render_bind(self.peers.get(index), subscription, &[(id, Sequence(1))]);
                    rendered.push((subscription, bytes.clone()));
                    bytes
                }
            };
            if let Some(bytes) = bytes {
                self.peers.member(index).queue().outbox.push_bind(bytes);
            }
        }
        let peer = self.peers.member(index);
        let bind_bytes = peer.queue.as_ref().map_or(0, |queue| queue.outbox.bind_bytes());
        if peer.blocked && bind_bytes > BIND_BYTES_MAX {
            self.close(index, CloseCode::SlowConsumer);
        }
        self.mark_dirty(index);
    }

    /// Queues binds of `streams`, in as many frames as it takes.
    pub(crate) fn push_binds(
        &mut self,
        index: u32,
        subscription: SubscriptionId,
        streams: &[(StreamId, Sequence)],
    ) {
        for part in streams.chunks(BINDINGS_MAX) {
            if let Some(bytes) = self.render_bind(self.peers.get(index), subscription, part) {
                self.peers.member(index).queue().outbox.push_bind(bytes);
            }
        }
        self.mark_dirty(index);
    }

    fn render_bind(
        &self,
        peer: Option<&Peer>,
        subscription: SubscriptionId,
        streams: &[(StreamId, Sequence)],
    ) -> Option<Bytes> {
        let known = |id: &StreamId| self.index.stream(*id).expect("a bound stream is known");
        let bindings = streams
            .iter()
            .map(|(id, next)| Binding {
                stream: id.0,
                topic: known(id).topic.as_str().to_owned(),
                class: ClassName(known(id).class as u8),
                next_sequence: next.0,
            })
            .collect();
        let topic = match streams {
            [(only, _)] => Some(&known(only).topic),
            _ => None,
        };
        let message = Message::Bind(Bind { subscription: subscription.0, bindings });
        self.render.control(&message, topic, peer?.format)
    }
}
