//! Subscriptions that outlive connections: subscribe, resume, bind, and their states.

use std::time::Duration;

use tickcast_protocol::field::{LIST_LEN_MAX, Timestamp};
use tickcast_protocol::message::{
    Acknowledge, Bind, Binding, ClassName, Configure, Policy, Position, Resume, Since, Start, Subscribe,
    SubscriptionStatus, Unsubscribe,
};
use tickcast_protocol::{Class, Epoch, ErrorCode, Predicate, Topic, TopicFilter};

use super::account::{Account, Replayed, Told, Track};
use super::event::{
    ClientEvent, Gap, GapReason, Origin, ServerError, SubscriptionKey, SubscriptionState, Violation,
};
use super::{Core, Request, SUBSCRIBE_RETRY_NS, State};

/// Bytes of a resume without its positions, of a position without its topic, both rounded up.
const RESUME_BYTES: usize = 256;
const POSITION_BYTES: usize = 24;

/// What a subscriber wants.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribeOptions {
    /// Where to start.
    pub start: Start,
    /// Begin with what was published at this time or later, in ns since the Unix epoch, as far as it is kept,
    /// whatever `start` says. What is not is told as [`ClientEvent::HistoryShort`].
    pub since: Option<u64>,
    /// What a full outbox on the server does.
    pub policy: Policy,
    /// Which events of the streams; `None` for all. What it leaves out is counted as filtered.
    pub predicate: Option<Predicate>,
    /// Most events a second of each key, 0.01 to 1,000; zero for no bound. What a newer event replaces
    /// meanwhile is counted as conflated.
    pub max_hz: f64,
    /// Call a stream stale when it brought nothing for so long, whether or not there was anything to
    /// bring. `None` leaves it to the stream's rhythm and the server's heartbeats, which tell silence
    /// from idleness; [`Duration::MAX`] switches it off.
    pub stale_after: Option<Duration>,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        let (start, policy) = (Start::LIVE, Policy::DEFAULT);
        Self { start, since: None, policy, predicate: None, max_hz: 0.0, stale_after: None }
    }
}

impl SubscribeOptions {
    /// The part that can be changed in place.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        Delivery { policy: self.policy, predicate: self.predicate.clone(), max_hz: self.max_hz }
    }
}

/// How a subscription wants its events: what can be changed in place, see [`SubscribeOptions`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delivery {
    /// What a full outbox on the server does.
    pub policy: Policy,
    /// Which events of the streams; `None` for all.
    pub predicate: Option<Predicate>,
    /// Most events a second of each key; zero for no bound.
    pub max_hz: f64,
}

/// A predicate as the wire has it.
fn written(predicate: &Option<Predicate>) -> String {
    predicate.as_ref().map_or_else(String::new, Predicate::to_string)
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) filter: TopicFilter,
    pub(super) options: SubscribeOptions,
    pub(super) state: SubscriptionState,
    /// The server's number on this connection, once acknowledged.
    pub(super) server_id: Option<u32>,
    /// True while the answer to this connection's request was a resume.
    pub(super) resumed: bool,
    /// False when the server could not resume it: the next attempt starts anew.
    pub(super) may_resume: bool,
    /// A replay runs.
    pub(super) recovering: bool,
    /// Stale as a whole, by the user's bound and without a stream.
    pub(super) stale: bool,
    pub(super) acknowledged_at: u64,
    /// The epoch in which it was acknowledged last, on this connection or another.
    pub(super) live_in: Option<Epoch>,
    pub(super) retry_at: Option<u64>,
    /// Its snapshot was asked for again, and the answer is not here yet.
    pub(super) asks_again: bool,
    /// What the sums of the server do not hold: of earlier connections, or found lost by the client.
    pub(super) uncounted: Told,
    /// True when the server's sums can be compared with ours.
    pub(super) comparable: bool,
    /// The server counts it, since an acknowledgement of this connection.
    pub(super) counted: bool,
    pub(super) tracks: usize,
    pub(super) stale_tracks: usize,
}

impl Core {
    /// Wants every stream that `filter` names, now and later, on this connection and all that follow.
    pub fn subscribe(&mut self, filter: TopicFilter, options: SubscribeOptions) -> SubscriptionKey {
        self.last_key += 1;
        let key = SubscriptionKey(self.last_key);
        let subscription = Subscription {
            filter,
            options,
            state: SubscriptionState::Subscribing,
            server_id: None,
            resumed: false,
            may_resume: true,
            recovering: false,
            stale: false,
            acknowledged_at: 0,
            live_in: None,
            retry_at: None,
            asks_again: false,
            uncounted: Told::default(),
            comparable: false,
            counted: false,
            tracks: 0,
            stale_tracks: 0,
        };
        self.subscriptions.insert(key, subscription);
        if matches!(self.state, State::Open(_)) && self.has_identity() {
            self.ask(key);
        }
        key
    }

    /// Wants it no more. Its account is added to [`Core::totals`].
    pub fn unsubscribe(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.remove(&key) else { return };
        let from = subscription.state;
        self.retire(key);
        if let Some(server_id) = subscription.server_id {
            self.drop_server_id(server_id, key);
        }
        let to = SubscriptionState::Unsubscribed;
        self.events.push_back(ClientEvent::Subscription { subscription: key, from, to });
    }

    /// Changes how the events are wanted, now and on later connections. Position and account stay.
    pub fn configure(&mut self, key: SubscriptionKey, delivery: Delivery) {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        let Delivery { policy, predicate, max_hz } = delivery;
        let text = written(&predicate);
        let options = &mut subscription.options;
        (options.policy, options.predicate, options.max_hz) = (policy, predicate, max_hz);
        if let Some(subscription) = subscription.server_id {
            let request = self.next_request(Request::Configure(key));
            self.send(&Configure { request, subscription, policy, predicate: text, max_hz }.into());
        }
    }

    /// Asks for the snapshot of a live subscription again; it comes between [`ClientEvent::Begin`] and
    /// [`ClientEvent::End`], position and account stay. Returns false when there is nothing to ask, because
    /// the server has not acknowledged the subscription on this connection; true also when an answer is on
    /// its way already.
    pub fn snapshot_again(&mut self, key: SubscriptionKey) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return false };
        if subscription.server_id.is_none() {
            return false;
        }
        if std::mem::replace(&mut subscription.asks_again, true) {
            return true;
        }
        let filter = subscription.filter.as_str().to_owned();
        let SubscribeOptions { policy, predicate, max_hz, .. } = &subscription.options;
        let (policy, predicate, max_hz, start) = (*policy, written(predicate), *max_hz, Start::SNAPSHOT);
        let request = self.next_request(Request::Snapshot(key));
        self.send(&Subscribe { request, filter, start, policy, predicate, max_hz }.into());
        true
    }

    /// The state of a subscription.
    #[must_use]
    pub fn subscription_state(&self, key: SubscriptionKey) -> SubscriptionState {
        self.subscriptions.get(&key).map_or(SubscriptionState::Unsubscribed, |wanted| wanted.state)
    }

    /// The filter of a subscription, as written.
    #[must_use]
    pub fn filter(&self, key: SubscriptionKey) -> Option<&TopicFilter> {
        self.subscriptions.get(&key).map(|wanted| &wanted.filter)
    }

    /// The account of every stream of a subscription, since it was last bound in this epoch.
    pub fn accounts(&self, key: SubscriptionKey) -> impl Iterator<Item = (&Topic, Class, Account)> {
        self.streams.tracks(key).map(|(stream, track)| (&stream.topic, stream.class, track.account()))
    }

    /// The account of a subscription on one topic, all its classes together.
    #[must_use]
    pub fn account(&self, key: SubscriptionKey, topic: &str) -> Account {
        let mut sum = Account::default();
        self.accounts(key).filter(|(name, ..)| name.as_str() == topic).for_each(|(_, _, one)| sum += one);
        sum
    }

    /// All accounts together, those of the past included.
    #[must_use]
    pub fn totals(&self) -> Account {
        let mut sum = self.retired;
        self.streams.list.iter().flat_map(|stream| &stream.tracks).for_each(|track| sum += track.account());
        sum
    }

    // -----------------------------------------------------------------------------------------
    // Asking

    /// A connection is welcomed: asks for everything that is wanted.
    pub(super) fn ask_for_all(&mut self) {
        let keys: Vec<_> = self.subscriptions.keys().copied().collect();
        keys.into_iter().for_each(|key| self.ask(key));
    }

    fn ask(&mut self, key: SubscriptionKey) {
        let positions = self.positions(key);
        let resumed = positions.is_some();
        let request = self.next_request(Request::Subscribe { key, resumed });
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        subscription.retry_at = None;
        // A stream without its position comes again from its beginning, and is counted there again.
        let all = |positions: &Vec<Position>| positions.len() == subscription.tracks;
        subscription.comparable = positions.as_ref().is_none_or(all);
        let filter = subscription.filter.as_str().to_owned();
        let SubscribeOptions { start, since, policy, predicate, max_hz, .. } = &subscription.options;
        let (start, policy, predicate, max_hz) = (*start, *policy, written(predicate), *max_hz);
        let since = since.filter(|_| subscription.live_in.is_none());
        // Who was live before and cannot go on where it stopped at least gets the last values.
        let start = if subscription.live_in.is_some() { Start::SNAPSHOT } else { start };
        let message = match positions {
            Some(positions) => {
                let epoch = self.server.as_ref().map_or(0, |server| server.epoch.0);
                Resume { request, filter, epoch, positions, policy, predicate, max_hz }.into()
            }
            None => match since {
                Some(time) => {
                    let time = Timestamp(i64::try_from(time).unwrap_or(i64::MAX));
                    Since { request, filter, time, policy, predicate, max_hz }.into()
                }
                None => Subscribe { request, filter, start, policy, predicate, max_hz }.into(),
            },
        };
        self.send(&message);
    }

    /// Where the subscription stands: as many positions as fit a frame, the strictest classes first. Streams
    /// whose position does not fit are replayed from their beginning; what was received is dropped again.
    fn positions(&self, key: SubscriptionKey) -> Option<Vec<Position>> {
        let subscription = self.subscriptions.get(&key)?;
        // Without a stream so far, every stream of this epoch was born while we were away, and an empty list
        // asks for them from their beginning. Of another epoch we know nothing.
        let knows_epoch = subscription.live_in == self.server.as_ref().map(|server| server.epoch);
        if !subscription.may_resume || (subscription.tracks == 0 && !knows_epoch) {
            return None;
        }
        let mut tracks: Vec<_> = self.streams.tracks(key).collect();
        tracks.sort_by_key(|(stream, _)| std::cmp::Reverse(stream.class));
        let frame_bytes_max = self.server.as_ref().map_or(4_096, |server| server.frame_bytes_max as usize);
        let predicate = written(&subscription.options.predicate).len();
        let mut room = frame_bytes_max.saturating_sub(RESUME_BYTES + predicate);
        let mut positions = Vec::new();
        for (stream, track) in tracks.into_iter().take(LIST_LEN_MAX) {
            let size = POSITION_BYTES + stream.topic.as_str().len();
            let Some(left) = room.checked_sub(size) else { break };
            room = left;
            positions.push(Position {
                topic: stream.topic.as_str().to_owned(),
                class: ClassName(stream.class as u8),
                sequence: track.next() - 1,
            });
        }
        Some(positions)
    }

    pub(super) fn subscribe_retry_at(&self) -> Option<u64> {
        self.subscriptions.values().filter_map(|wanted| wanted.retry_at).min()
    }

    pub(super) fn retry_subscribes(&mut self, now: u64) {
        let due = |wanted: &Subscription| wanted.retry_at.is_some_and(|at| at <= now);
        let keys: Vec<_> =
            self.subscriptions.iter().filter(|(_, wanted)| due(wanted)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.ask(key));
    }

    // -----------------------------------------------------------------------------------------
    // Answers

    pub(super) fn on_acknowledge(&mut self, message: &Acknowledge, now: u64) {
        let request = self.requests.remove(&message.request);
        if message.status == SubscriptionStatus::UNSUBSCRIBED {
            // Its snapshot or replay ends here, without an end of its own.
            if let State::Open(open) = &mut self.state {
                open.bracket = open.bracket.filter(|(of, _)| *of != message.subscription);
            }
            return;
        }
        if let Some(Request::Snapshot(key)) = request {
            if let Some(subscription) = self.subscriptions.get_mut(&key) {
                subscription.asks_again = false;
            }
            // Given up meanwhile: the server has made it anew.
            if !self.by_server_id.contains_key(&message.subscription) {
                self.send_unsubscribe(message.subscription);
            }
            return;
        }
        let Some(Request::Subscribe { key, resumed }) = request else { return };
        if self.server.as_ref().is_some_and(|server| server.epoch.0 != message.epoch) {
            self.change_epoch(Epoch(message.epoch), now);
        }
        let Some(subscription) = self.subscriptions.get_mut(&key) else {
            // Given up before the answer came.
            if !self.by_server_id.contains_key(&message.subscription) {
                self.send_unsubscribe(message.subscription);
            }
            return;
        };
        subscription.server_id = Some(message.subscription);
        subscription.resumed = resumed;
        subscription.may_resume = true;
        subscription.acknowledged_at = now;
        subscription.live_in = Some(Epoch(message.epoch));
        if !std::mem::replace(&mut subscription.counted, true) {
            subscription.uncounted = self.streams.told(key);
        }
        let sharers = self.by_server_id.entry(message.subscription).or_default();
        if !sharers.contains(&key) {
            sharers.push(key);
        }
        self.events.push_back(ClientEvent::Acknowledged {
            subscription: key,
            streams: message.streams,
            epoch: Epoch(message.epoch),
            resumed,
        });
        self.look_at = self.look_at.min(now);
        self.update_state(key);
    }

    /// A subscribe or resume was refused.
    pub(super) fn on_subscribe_refused(
        &mut self,
        key: SubscriptionKey,
        resumed: bool,
        error: ServerError,
        now: u64,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        if resumed && (!error.retryable || error.error_code() == Some(ErrorCode::ResumeFailed)) {
            // Whatever is wrong with the positions, a subscribe has none.
            subscription.may_resume = false;
            self.ask(key);
            return;
        }
        if error.retryable {
            let pause = u64::from(error.retry_after_ms).saturating_mul(1_000_000).max(SUBSCRIBE_RETRY_NS);
            subscription.retry_at = Some(now.saturating_add(pause));
            self.events.push_back(ClientEvent::ServerError(error));
            return;
        }
        self.events.push_back(ClientEvent::ServerError(error));
        self.unsubscribe(key);
    }

    pub(super) fn on_bind(&mut self, message: &Bind, now: u64) {
        let keys = self.by_server_id.get(&message.subscription).cloned().unwrap_or_default();
        for binding in &message.bindings {
            let topic = Topic::parse(&binding.topic).ok();
            let (Some(topic), Some(class)) = (topic, Class::from_number(binding.class.0)) else {
                self.streams.skip(binding.stream);
                let topic = binding.topic.clone();
                let foreign = Violation::Foreign { stream: binding.stream, topic };
                self.events.push_back(ClientEvent::Violation(foreign));
                continue;
            };
            let Some(index) = self.streams.bind(binding.stream, topic, class) else {
                self.streams.skip(binding.stream);
                let violation = Violation::TooManyStreams(self.options.streams_max);
                self.events.push_back(ClientEvent::Violation(violation));
                continue;
            };
            for key in &keys {
                self.bind_one(*key, index, message.subscription, binding, now);
            }
        }
        self.look_at = self.look_at.min(now);
        keys.into_iter().for_each(|key| self.update_state(key));
    }

    fn bind_one(&mut self, key: SubscriptionKey, index: usize, server_id: u32, binding: &Binding, now: u64) {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        let stream = &mut self.streams.list[index];
        let next = binding.next_sequence.max(1);
        let connection = self.stats.connections;
        let mut lost = None;
        // A stream flows once a connection. When it flows already, for another subscription, this one goes
        // on from there, although the server counts it from its head.
        let flows =
            stream.tracks.iter().filter(|track| track.bound_on == connection && track.subscription != key);
        let flow = flows.map(Track::next).min().map_or(next, |flow| flow.min(next));
        let position = stream.tracks.iter().position(|track| track.subscription == key);
        match position.map(|at| &mut stream.tracks[at]) {
            // Announced again on the same connection: nothing happened in between.
            Some(track) if track.bound_on == connection => {}
            Some(track) if next < track.next() && !subscription.resumed => {
                // The same epoch, yet sequences went back: a history that began anew and does not say so.
                let mut account = track.account();
                account.gapped = account.gapped.saturating_add(account.pending());
                self.retired += account;
                lost = Some((0, 0, GapReason::EpochChanged, track.fresh.heard_at));
                let fresh = track.fresh.clone();
                *track = Track::new(key, server_id, next, now);
                track.fresh = fresh;
            }
            Some(track) => {
                lost = track
                    .skip_to(flow)
                    .map(|(from, count)| (from, count, GapReason::HistoryGone, track.fresh.heard_at));
            }
            None => {
                // Born while we were away: what it brought before this bind is lost, too.
                let first = if subscription.resumed { 1 } else { next };
                let mut track = Track::new(key, server_id, first, now);
                lost = track.skip_to(flow).map(|(from, count)| (from, count, GapReason::HistoryGone, 0));
                stream.tracks.push(track);
                subscription.tracks += 1;
            }
        }
        let Some(track) = stream.tracks.iter_mut().find(|track| track.subscription == key) else { return };
        if track.bound_on != connection {
            track.bound_on = connection;
            track.server_id = server_id;
            if track.fresh.stale {
                subscription.stale_tracks -= 1;
            }
            track.fresh.restart(now);
            // A bind says where the stream is, as a heartbeat does: until the next one it counts as idle.
            track.fresh.see_head(false, now);
        }
        let (topic, class) = (stream.topic.clone(), stream.class);
        self.events.push_back(ClientEvent::Bound {
            subscription: key,
            topic: topic.clone(),
            class,
            next_sequence: binding.next_sequence,
        });
        if let Some((from, gapped, reason, since)) = lost {
            // Our own finding; the server knows nothing of it.
            subscription.uncounted.gapped = subscription.uncounted.gapped.saturating_add(gapped);
            let through = if from == 0 { 0 } else { from + gapped - 1 };
            let gap = Gap {
                subscription: key,
                topic,
                class,
                from,
                through,
                gapped,
                conflated: 0,
                reason,
                healed: false,
                since,
                at: now,
            };
            self.events.push_back(ClientEvent::Gap(gap));
        }
        if std::mem::take(&mut subscription.stale) {
            let age_ns = now.saturating_sub(subscription.acknowledged_at);
            self.events.push_back(ClientEvent::Fresh { subscription: key, topic: None, age_ns });
        }
    }

    /// A snapshot or replay begins.
    pub(super) fn on_begin(&mut self, server_id: u32, origin: Origin, events: u32) {
        let State::Open(open) = &mut self.state else { return };
        open.bracket = Some((server_id, origin));
        for key in self.by_server_id.get(&server_id).cloned().unwrap_or_default() {
            self.events.push_back(ClientEvent::Begin { subscription: key, origin, events });
            if origin == Origin::Replay {
                if let Some(subscription) = self.subscriptions.get_mut(&key) {
                    subscription.recovering = true;
                }
                self.update_state(key);
            }
        }
    }

    /// The snapshot or replay is over: what a replay brought is told as healed, stream by stream.
    pub(super) fn on_end(&mut self, server_id: u32, origin: Origin, now: u64) {
        let State::Open(open) = &mut self.state else { return };
        open.bracket = None;
        if origin == Origin::Replay {
            // What was asked for by time was never missed.
            let resumed = |key| self.subscriptions.get(key).is_some_and(|known| known.resumed);
            let keys = self.by_server_id.get(&server_id);
            let heals = keys.is_none_or(|keys| keys.iter().any(resumed));
            self.tell_healed(heals, now);
        }
        for key in self.by_server_id.get(&server_id).cloned().unwrap_or_default() {
            self.events.push_back(ClientEvent::End { subscription: key, origin });
            if let Some(subscription) = self.subscriptions.get_mut(&key) {
                subscription.recovering = false;
            }
            self.update_state(key);
        }
    }

    fn tell_healed(&mut self, heals: bool, now: u64) {
        for stream in &mut self.streams.list {
            for track in &mut stream.tracks {
                let Some(Replayed { from, through, since }) = track.replayed.take() else { continue };
                if !heals {
                    continue;
                }
                self.events.push_back(ClientEvent::Gap(Gap {
                    subscription: track.subscription,
                    topic: stream.topic.clone(),
                    class: stream.class,
                    from,
                    through,
                    gapped: 0,
                    conflated: 0,
                    reason: GapReason::Reconnect,
                    healed: true,
                    since,
                    at: now,
                }));
            }
        }
    }

    // -----------------------------------------------------------------------------------------
    // Ends

    /// The server's history began anew: nothing can be resumed, and every stream is told so.
    pub(super) fn change_epoch(&mut self, epoch: Epoch, now: u64) {
        if let Some(server) = &mut self.server {
            server.epoch = epoch;
        }
        for stream in &mut self.streams.list {
            for track in std::mem::take(&mut stream.tracks) {
                let mut account = track.account();
                let gapped = account.pending();
                account.gapped = account.gapped.saturating_add(gapped);
                self.retired += account;
                self.events.push_back(ClientEvent::Gap(Gap {
                    subscription: track.subscription,
                    topic: stream.topic.clone(),
                    class: stream.class,
                    from: track.next(),
                    through: 0,
                    gapped,
                    conflated: 0,
                    reason: GapReason::EpochChanged,
                    healed: false,
                    since: track.fresh.heard_at,
                    at: now,
                }));
            }
        }
        self.streams.abandoned = true;
        for subscription in self.subscriptions.values_mut() {
            subscription.tracks = 0;
            subscription.stale_tracks = 0;
        }
    }

    /// The connection is gone: server numbers mean nothing any more, subscriptions wait for the next one.
    pub(super) fn forget_connection(&mut self, resume_failed: bool, retry: bool) {
        self.by_server_id.clear();
        self.requests.retain(|_, request| *request == Request::Publish);
        for track in self.streams.list.iter_mut().flat_map(|stream| &mut stream.tracks) {
            track.disconnect();
            track.fresh.stale = false;
        }
        let to = if retry { SubscriptionState::Subscribing } else { SubscriptionState::Unsubscribed };
        for (key, subscription) in &mut self.subscriptions {
            subscription.server_id = None;
            subscription.counted = false;
            subscription.retry_at = None;
            subscription.asks_again = false;
            subscription.recovering = false;
            subscription.stale = false;
            subscription.stale_tracks = 0;
            subscription.may_resume &= !resume_failed;
            let from = std::mem::replace(&mut subscription.state, to);
            if from != to {
                self.events.push_back(ClientEvent::Subscription { subscription: *key, from, to });
            }
        }
        self.look_at = u64::MAX;
    }

    /// Moves the accounts of a subscription to the totals. What is pending is of no interest any more.
    fn retire(&mut self, key: SubscriptionKey) {
        for stream in &mut self.streams.list {
            for track in stream.tracks.iter().filter(|track| track.subscription == key) {
                let account = track.account();
                self.retired += Account { published: account.settled(), ..account };
            }
            stream.tracks.retain(|track| track.subscription != key);
        }
        self.streams.abandoned = true;
    }

    fn drop_server_id(&mut self, server_id: u32, key: SubscriptionKey) {
        let Some(sharers) = self.by_server_id.get_mut(&server_id) else { return };
        sharers.retain(|sharer| *sharer != key);
        if sharers.is_empty() {
            self.by_server_id.remove(&server_id);
            self.send_unsubscribe(server_id);
        }
    }

    fn send_unsubscribe(&mut self, subscription: u32) {
        let request = self.next_request(Request::Unsubscribe);
        self.send(&Unsubscribe { request, subscription }.into());
    }
}
