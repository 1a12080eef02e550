//! Who is stale: the verdicts of [`fresh`](super::fresh) applied to every stream, and the states they lead to.

use tickcast_protocol::Topic;

use super::event::{ClientEvent, SubscriptionKey, SubscriptionState};
use super::fresh::{Rule, Verdict, heartbeat_bound, nanos};
use super::{Core, State};

impl Core {
    /// Staleness of everything that is followed. Cheap when called early: it looks only when due.
    pub(super) fn look_for_silence(&mut self, now: u64) {
        let State::Open(open) = &mut self.state else { return };
        let silent_at = open.heartbeat.map(|beat| open.heard_at.saturating_add(heartbeat_bound(beat)));
        if !open.silent && silent_at.is_some_and(|at| at <= now) {
            open.silent = true;
            self.tell_silence(now);
        }
        if self.look_at <= now {
            self.look_at_streams(now);
        }
    }

    /// Data or a notice ended the silence of one stream of a subscription.
    pub(super) fn stream_freshened(&mut self, key: SubscriptionKey, topic: Topic, age_ns: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&key) {
            subscription.stale_tracks = subscription.stale_tracks.saturating_sub(1);
        }
        self.events.push_back(ClientEvent::Fresh { subscription: key, topic: Some(topic), age_ns });
        self.update_state(key);
    }

    pub(super) fn update_state(&mut self, key: SubscriptionKey) {
        let silent = match &self.state {
            State::Open(open) => open.silent,
            _ => return,
        };
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        let all_stale = subscription.tracks > 0 && subscription.stale_tracks >= subscription.tracks;
        let to = match subscription.server_id {
            None => SubscriptionState::Subscribing,
            Some(_) if silent || subscription.stale || all_stale => SubscriptionState::Stale,
            Some(_) if subscription.recovering => SubscriptionState::Recovering,
            Some(_) => SubscriptionState::Live,
        };
        let from = std::mem::replace(&mut subscription.state, to);
        if from != to {
            self.events.push_back(ClientEvent::Subscription { subscription: key, from, to });
        }
    }

    /// The server keeps silent: every acknowledged subscription is stale as a whole.
    pub(super) fn tell_silence(&mut self, now: u64) {
        self.tell_silence_change(now, |subscription, age_ns| ClientEvent::Stale {
            subscription,
            topic: None,
            age_ns,
        });
    }

    /// The server is heard again after a silence.
    pub(super) fn end_silence(&mut self, now: u64) {
        self.tell_silence_change(now, |subscription, age_ns| ClientEvent::Fresh {
            subscription,
            topic: None,
            age_ns,
        });
    }

    fn tell_silence_change(&mut self, now: u64, event: fn(SubscriptionKey, u64) -> ClientEvent) {
        let State::Open(open) = &self.state else { return };
        let age = now.saturating_sub(open.heard_at);
        let acknowledged = self.subscriptions.iter().filter(|(_, wanted)| wanted.server_id.is_some());
        let keys: Vec<_> = acknowledged.map(|(key, _)| *key).collect();
        for key in keys {
            self.events.push_back(event(key, age));
            self.update_state(key);
        }
    }

    /// Applies the staleness rule to every stream, and says when to look again.
    pub(super) fn look_at_streams(&mut self, now: u64) {
        let State::Open(open) = &self.state else { return };
        let (heartbeat, reading_since) = (open.heartbeat, self.reading_since);
        let mut look_at = u64::MAX;
        let mut changed = Vec::new();
        for stream in &mut self.streams.list {
            for track in &mut stream.tracks {
                let Some(subscription) = self.subscriptions.get_mut(&track.subscription) else { continue };
                if subscription.server_id.is_none() {
                    continue;
                }
                let stale_after = subscription.options.stale_after.map(nanos);
                let (key, topic) = (track.subscription, || Some(stream.topic.clone()));
                match track.fresh.verdict(Rule { stale_after, heartbeat, reading_since }, now) {
                    Verdict::Stale { age } if !track.fresh.stale => {
                        track.fresh.stale = true;
                        subscription.stale_tracks += 1;
                        self.events.push_back(ClientEvent::Stale {
                            subscription: key,
                            topic: topic(),
                            age_ns: age,
                        });
                        changed.push(key);
                    }
                    Verdict::Stale { .. } => {}
                    Verdict::Fresh { look_at: at } => {
                        look_at = look_at.min(at);
                        if std::mem::take(&mut track.fresh.stale) {
                            subscription.stale_tracks = subscription.stale_tracks.saturating_sub(1);
                            let age_ns = track.fresh.age(now);
                            self.events.push_back(ClientEvent::Fresh {
                                subscription: key,
                                topic: topic(),
                                age_ns,
                            });
                            changed.push(key);
                        }
                    }
                }
            }
        }
        for (key, subscription) in &mut self.subscriptions {
            // Without any stream there is no age but that of the acknowledgement.
            let (Some(bound), Some(_), 0) =
                (subscription.options.stale_after.map(nanos), subscription.server_id, subscription.tracks)
            else {
                continue;
            };
            let at = subscription.acknowledged_at.max(reading_since).saturating_add(bound);
            if at > now {
                look_at = look_at.min(at);
            } else if !subscription.stale {
                subscription.stale = true;
                let age_ns = now.saturating_sub(subscription.acknowledged_at);
                self.events.push_back(ClientEvent::Stale { subscription: *key, topic: None, age_ns });
                changed.push(*key);
            }
        }
        self.look_at = look_at;
        changed.into_iter().for_each(|key| self.update_state(key));
    }
}
