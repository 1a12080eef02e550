//! Telling how streams are: each change in its place among the stream's events, to whoever subscribed.
//!
//! A change goes to the control lane of every peer that reads, as one frame for all streams of a group. Who
//! does not read, or has half a lane of control messages already, is owed: four bytes a stream, for which it
//! is told how the stream is by then. So nothing a peer leaves unread keeps it from being told, and no source
//! that comes and goes can fill its lane.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use bytes::Bytes;
use tickcast_protocol::message::{StateReason, StreamState, StreamStates, StreamStatus};
use tickcast_protocol::{Message, StreamId, Topic};

use crate::engine::FINDINGS_MAX;
use crate::event::Note;
use crate::index::GroupId;
use crate::shard::Shard;
use crate::status::Status;

/// Most streams in one frame; about 7 KiB.
const STATES_MAX: usize = FINDINGS_MAX;

impl Shard {
    /// How a stream is, as far as this shard has told; nothing while it is live.
    pub(crate) fn status(&self, stream: StreamId) -> Option<Status> {
        self.index.stream(stream).and_then(|stream| stream.status.as_deref().copied())
    }

    /// Tells how streams are. False when events of theirs must be on their way first; that a stream is live
    /// is told before the event that says so as well.
    pub(crate) fn tell_states(&mut self, notes: &[Note]) -> bool {
        let turns = self.turns;
        let runs = |note: &Note| {
            note.status.state != StreamState::LIVE
                && self.index.stream(note.stream).is_some_and(|stream| stream.ran_in == turns)
        };
        if notes.iter().any(runs) && !self.dirty_groups.is_empty() {
            return false;
        }
        // JSON peers are told of trouble and of its end, and of nothing they could not show.
        let mut by_group: BTreeMap<GroupId, Vec<(Note, bool)>> = BTreeMap::new();
        for note in notes {
            if self.index.stream(note.stream).is_none() {
                let Some(record) = self.records.get(note.stream) else { continue };
                self.ensure_stream(note.stream, &record.topic, record.class);
            }
            let stream = self.index.stream_mut(note.stream).expect("ensured");
            let before = stream.status.take();
            let was_trouble = before.as_ref().is_some_and(|before| before.is_trouble());
            let was = before.map_or(StreamState::LIVE, |before| before.state);
            if note.status.state != StreamState::LIVE {
                stream.status = Some(Box::new(note.status));
            }
            if was != note.status.state {
                let for_json = was_trouble || note.status.is_trouble();
                for group in self.index.groups_of(note.stream) {
                    by_group.entry(group).or_default().push((*note, for_json));
                }
            }
        }
        for (group, notes) in by_group {
            self.tell_group(group, &notes);
        }
        true
    }

    fn tell_group(&mut self, group: GroupId, notes: &[(Note, bool)]) {
        let format = self.index.group(group).key.format;
        let mut frames: Vec<(Bytes, Vec<StreamId>)> = Vec::new();
        if format.is_binary() {
            let states = notes.iter().map(|(note, _)| note.status.record(note.stream)).collect();
            if let Some(bytes) = self.render.control(&message(states), None, format) {
                frames.push((bytes, notes.iter().map(|(note, _)| note.stream).collect()));
            }
        } else {
            for (note, _) in notes.iter().filter(|(_, for_json)| *for_json) {
                let topic = self.topic(note.stream);
                let states = vec![note.status.record(note.stream)];
                if let Some(bytes) = self.render.control(&message(states), topic, format) {
                    frames.push((bytes, vec![note.stream]));
                }
            }
        }
        for at in 0..self.index.group(group).members.len() {
            let index = self.index.group(group).members[at];
            let peer = self.peers.member(index);
            if peer.is_over() || frames.is_empty() {
                continue;
            }
            let blocked = peer.blocked;
            let queue = peer.queue();
            for (bytes, streams) in &frames {
                if blocked || !queue.outbox.has_room_for_states() {
                    queue.owed.extend(streams);
                } else {
                    for stream in streams {
                        queue.owed.remove(stream);
                    }
                    queue.outbox.push_control(bytes.clone());
                }
            }
            self.mark_dirty(index);
        }
    }

    /// Queues what a peer is owed, as far as there is room.
    pub(crate) fn pay_states(&mut self, index: u32) {
        loop {
            let peer = self.peers.member(index);
            let format = peer.format;
            let most = if format.is_binary() { STATES_MAX } else { 1 };
            let Some(queue) = &mut peer.queue else { return };
            if queue.owed.is_empty() || !queue.outbox.has_room_for_states() {
                return;
            }
            let mut streams = Vec::new();
            while streams.len() < most
                && let Some(stream) = queue.owed.pop_first()
            {
                streams.push(stream);
            }
            // It may have unsubscribed in the meantime.
            let peer = self.peers.get(index).expect("attached");
            streams.retain(|stream| peer.gets(*stream, &self.index));
            let states: Vec<_> = streams.iter().map(|stream| self.record(*stream)).collect();
            let topic = streams.first().filter(|_| most == 1).and_then(|stream| self.topic(*stream));
            let bytes = (!states.is_empty()).then(|| self.render.control(&message(states), topic, format));
            if let Some(bytes) = bytes.flatten() {
                self.peers.member(index).queue().outbox.push_control(bytes);
            }
        }
    }

    /// A new subscription is owed how its streams are, as far as they are not live: told behind its binds. Not
    /// among the data, where it would be overtaken by what becomes of them.
    pub(crate) fn owe_states(&mut self, index: u32, streams: impl Iterator<Item = StreamId>) {
        let is_binary = self.peers.member(index).format.is_binary();
        let found: Vec<StreamId> = streams
            .filter(|stream| self.status(*stream).is_some_and(|status| is_binary || status.is_trouble()))
            .collect();
        if !found.is_empty() {
            self.peers.member(index).queue().owed.extend(found);
        }
    }

    fn topic(&self, stream: StreamId) -> Option<&Topic> {
        self.index.stream(stream).map(|stream| &stream.topic)
    }

    fn record(&self, stream: StreamId) -> StreamStatus {
        let known = self.index.stream(stream);
        let live = || {
            let last_sequence = known.map_or(0, |known| known.head);
            Status { reason: StateReason::EVENT, last_sequence, ..Status::live() }
        };
        self.status(stream).unwrap_or_else(live).record(stream)
    }
}

fn message(states: Vec<StreamStatus>) -> Message {
    Message::StreamStates(StreamStates { states })
}
