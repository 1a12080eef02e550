//! How streams are, by the word of the server; and what a publisher says of its own.
//!
//! Behind the binds of a subscription the server names the streams that are not live, and then each change. So
//! on a new connection a stream counts as it was until it is named, or until something shows that it will not
//! be: an event as it happens, or a heartbeat, which come later.

use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{
    History, IntervalOrigin, SourceStatus, StateReason, StreamState, StreamStates, StreamStatus, Vouch,
};
use tickcast_protocol::{Class, Topic, frame};

use super::Core;
use super::event::{ClientEvent, Kept, StreamChange, SubscriptionKey};
use super::publish::PublishError;
use super::streams::Known;

impl Core {
    /// How the streams of a subscription are, as the server said last.
    pub fn stream_states(&self, key: SubscriptionKey) -> impl Iterator<Item = (&Topic, Class, StreamState)> {
        self.streams.tracks(key).map(|(stream, _)| (&stream.topic, stream.class, stream.state))
    }

    /// Says how the source of our streams is: of those of `topics`, or of all that this connection was the
    /// last to publish to when there are none. `interval_ms` is the longest time between two of their events
    /// while all is well, or zero to leave it as it is.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn vouch(
        &mut self,
        status: SourceStatus,
        topics: &[&str],
        interval_ms: u32,
        now: u64,
    ) -> Result<(), PublishError> {
        self.may_publish()?;
        self.room()?;
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let vouch = Vouch { request: 0, status, topics, interval_ms };
        self.outgoing.publish(frame::encode(&vouch.into()), 0, now);
        Ok(())
    }

    /// Said ahead of the publishes that wait, which may be of an earlier connection.
    pub(super) fn say_replay(&mut self) {
        let status = SourceStatus::REPLAY;
        self.send(&Vouch { request: 0, status, topics: Vec::new(), interval_ms: 0 }.into());
    }

    pub(super) fn on_states(&mut self, told: StreamStates) {
        for status in told.states {
            let Known::Stream(index) = self.streams.known(status.stream) else {
                self.stats.ignored += 1;
                continue;
            };
            self.tell_stream(index, status);
        }
    }

    /// The stream would have been named by now.
    pub(super) fn settle_state(&mut self, index: usize) {
        let stream = &mut self.streams.list[index];
        let connection = self.stats.connections;
        if std::mem::replace(&mut stream.state_of, connection) == connection
            || stream.state == StreamState::LIVE
        {
            return;
        }
        self.tell_stream(
            index,
            StreamStatus {
                stream: 0,
                state: StreamState::LIVE,
                reason: StateReason::NONE,
                origin: IntervalOrigin::NONE,
                interval_ms: 0,
                since: Timestamp(0),
                last_sequence: 0,
            },
        );
    }

    fn tell_stream(&mut self, index: usize, status: StreamStatus) {
        let connection = self.stats.connections;
        let stream = &mut self.streams.list[index];
        stream.state_of = connection;
        let from = std::mem::replace(&mut stream.state, status.state);
        if from == status.state {
            return;
        }
        for track in stream.tracks.iter().filter(|track| track.bound_on == connection) {
            self.events.push_back(ClientEvent::Stream(StreamChange {
                subscription: track.subscription,
                topic: stream.topic.clone(),
                class: stream.class,
                from,
                status: status.clone(),
            }));
        }
    }

    pub(super) fn on_history(&mut self, history: History) {
        let time = |time: Timestamp| u64::try_from(time.0).unwrap_or(0);
        let mut short = Vec::new();
        for kept in history.short {
            let Known::Stream(index) = self.streams.known(kept.stream) else { continue };
            let stream = &self.streams.list[index];
            short.push(Kept {
                topic: stream.topic.clone(),
                class: stream.class,
                oldest: kept.oldest,
                oldest_time: time(kept.oldest_time),
            });
        }
        let begun = time(history.begun);
        let keys = self.by_server_id.get(&history.subscription).cloned().unwrap_or_default();
        if keys.is_empty() {
            self.events.push_back(ClientEvent::HistoryShort { subscription: None, begun, short });
            return;
        }
        for key in keys {
            let short = short.clone();
            self.events.push_back(ClientEvent::HistoryShort { subscription: Some(key), begun, short });
        }
    }
}
