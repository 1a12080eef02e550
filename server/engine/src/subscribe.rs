//! Subscriptions of a shard's peers: snapshot, resume and live are one step on one thread.
//!
//! Whatever a subscription starts with is taken from the shard's history at the very place in the order
//! of events where its live part begins, so nothing lies between the two and nothing comes twice.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Begin, Bracket, End, History, Kept, Policy};
use tickcast_protocol::{Class, Epoch, Message, Sequence, StreamId, SubscriptionId, Topic, TopicFilter};

use crate::bind::BIND_BYTES_MAX;
use crate::condition::Condition;
use crate::event::Event;
use crate::history::Recent;
use crate::index::{FilterId, InterestId, Rate, Scope};
use crate::ledger::Cause;
use crate::outbox::Outbox;
use crate::peer::{PeerId, Subscription};
use crate::shard::Shard;
use crate::store::{EventRef, Store};

/// Most bytes of snapshots and replays that may wait for one peer when it asks for another, and most bytes
/// of events in one replay; what a replay has no room for is told as gone, the newest events come. Also most
/// bytes of events that build on each other in one snapshot; a stream that has no room there has none.
pub const BRACKET_BYTES_MAX: usize = 1024 * 1024;
/// Most streams in one frame about how far back history goes; about 5 KiB.
const KEPT_MAX: usize = 256;

/// What a peer asks for.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The streams it wants, now and later.
    pub filter: TopicFilter,
    /// What comes before the live events.
    pub start: Start,
    /// How it wants them.
    pub delivery: Delivery,
}

/// How a subscription wants its events; may be changed in place.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// What a full outbox does. Critical streams are never lossy, whatever it says.
    pub policy: Policy,
    /// Which events of its streams it wants, of every class; `None` for all.
    pub condition: Option<Condition>,
    /// The shortest time between two events of one key, in ns; zero for no bound. What comes earlier waits,
    /// and is replaced by what comes after. Only of the class latest, and of ordered streams where the
    /// policy says conflate.
    pub interval: u64,
}

impl Delivery {
    fn rate(&self) -> Option<Rate> {
        let ordered = self.policy == Policy::CONFLATE;
        (self.interval > 0).then_some(Rate { interval: self.interval, ordered })
    }
}

/// Where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the next event.
    #[default]
    Live,
    /// With the last value of every key of every stream; where events build on each other, with the last that
    /// began anew and all behind it.
    Snapshot,
    /// With what was published at this time or later, in ns since the Unix epoch, as far as it is kept.
    Since(u64),
    /// With what a peer has missed that has all before this publish time: of streams of the class latest, the last
    /// values; of all others, what was published since, as with [`Start::Since`].
    Missed(u64),
    /// After the positions given.
    Resume {
        /// The epoch they belong to.
        epoch: Epoch,
        /// The last sequence received per stream. A matching stream that is not named is taken from its
        /// beginning, for it was born when the peer was away.
        positions: Vec<(Topic, Class, Sequence)>,
    },
}

/// What became of a request about a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The subscription, numbered for this peer.
    pub subscription: SubscriptionId,
    /// The epoch its sequences belong to.
    pub epoch: Epoch,
    /// Streams it matches now.
    pub streams: u32,
    /// The peer had this subscription before.
    pub already: bool,
}

/// Why a request about a subscription was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscribeError {
    /// The peer has left, or is about to be closed.
    UnknownPeer,
    /// The peer has no such subscription.
    UnknownSubscription,
    /// Too much waits for the peer: control messages, binds, or an earlier snapshot or replay. It may ask
    /// again when it has read them.
    Busy,
    /// The positions are not of this epoch, or ahead of their streams.
    ResumeFailed {
        /// The epoch of this server.
        epoch: Epoch,
        /// The stream at fault, unless it is the epoch, and the oldest sequence there is to replay from
        /// (zero: none).
        stream: Option<(Topic, Class)>,
        /// See `stream`.
        oldest: Sequence,
    },
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPeer => f.write_str("the peer has left"),
            Self::UnknownSubscription => f.write_str("no such subscription on this connection"),
            Self::Busy => f.write_str("too much waits to be read; read it and ask again"),
            Self::ResumeFailed { epoch, stream: None, .. } => {
                write!(f, "the positions are not of epoch {epoch}")
            }
            Self::ResumeFailed { stream: Some((topic, class)), oldest, .. } => {
                write!(f, "the position on {topic} ({}) is ahead; oldest is {oldest}", class.name())
            }
        }
    }
}

impl std::error::Error for SubscribeError {}

/// A stream that a new subscription matches.
struct Matched {
    stream: StreamId,
    /// The sequence before the first one that counts: the stream's head, if the peer gets it already.
    position: u64,
    /// Some of what was asked for by time is kept no more.
    forgot: bool,
}

/// True when a replay begins with what is kept no more.
fn is_gone(entries: &[Recent]) -> bool {
    matches!(entries.first(), Some(Recent::Gap(loss)) if loss.cause == Cause::HistoryGone)
}

impl Shard {
    /// Subscribes a peer. What it gets, in this order: the acknowledgement, the binds of all matching
    /// streams with the sequence each counts from, how those are that are not live, the snapshot or replay
    /// between begin and end, and then live events. Subscribing twice with the same filter and condition is success: policy and
    /// interval are the new ones, the id the old one.
    ///
    /// A resume from a position that this shard has not reached, but another has, first distributes what is
    /// in the ring. Streams that the peer gets already are in the snapshot but not in a replay. Snapshot and
    /// replay hold what passes the condition; a replay says what did not.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing was queued.
    pub fn subscribe(
        &mut self,
        peer: PeerId,
        request: Subscribe,
        acknowledge: impl FnOnce(&Subscribed) -> Option<Bytes>,
    ) -> Result<Subscribed, SubscribeError> {
        let index = self.live(peer)?;
        if let Some(queue) = &self.peers.member(index).queue {
            let outbox = &queue.outbox;
            let brackets_full = request.start != Start::Live && outbox.bracket_bytes() > BRACKET_BYTES_MAX;
            if outbox.control_is_full(0) || outbox.bind_bytes() > BIND_BYTES_MAX || brackets_full {
                return Err(SubscribeError::Busy);
            }
        }
        if let Start::Resume { epoch, positions } = &request.start {
            self.check_positions(*epoch, positions)?;
        }
        if let Some(group) = self.peers.member(index).group {
            self.spill_run(group);
        }
        // What was queued just now may have been too much for the peer.
        self.live(peer)?;

        let Subscribe { filter, start, delivery } = request;
        let condition = delivery.condition.clone();
        let scope = Scope { filter, without_critical: self.peers.member(index).without_critical };
        let interest = self.index.want(&scope, condition.as_ref(), delivery.rate());
        let filter = self.index.wanted(interest).filter;
        let mut matched = self.matched(index, filter, &start);
        let (subscription, already) = self.add_subscription(index, interest, delivery.policy);
        let subscribed =
            Subscribed { subscription, epoch: self.epoch, streams: matched.len() as u32, already };
        if let Some(bytes) = acknowledge(&subscribed) {
            self.peers.member(index).queue().outbox.push_control(bytes);
        }
        let binds: Vec<(StreamId, Sequence)> =
            matched.iter().map(|matched| (matched.stream, Sequence(matched.position + 1))).collect();
        self.push_binds(index, subscription, &binds);
        let passes =
            |event: &Event| condition.as_ref().is_none_or(|condition| condition.passes(event.attributes()));
        let predates = match start {
            Start::Since(time) | Start::Missed(time) => time < self.begun,
            Start::Live | Start::Snapshot | Start::Resume { .. } => false,
        };
        if !matches!(start, Start::Live | Start::Snapshot) {
            // The strictest classes first, as long as the budget lasts.
            let class = |id| self.index.stream(id).map(|stream| stream.class);
            matched.sort_by_key(|matched| Reverse(class(matched.stream)));
        }
        match start {
            Start::Live => {}
            Start::Snapshot => self.push_snapshot(index, subscription, &matched, passes),
            Start::Resume { .. } | Start::Since(_) => {
                self.push_replay(index, subscription, &matched, predates, passes);
            }
            Start::Missed(_) => {
                let is_latest = |matched: &Matched| {
                    self.index.stream(matched.stream).is_some_and(|stream| stream.class == Class::Latest)
                };
                let (others, latest) = matched.split_at(matched.partition_point(|one| !is_latest(one)));
                self.push_replay(index, subscription, others, predates, passes);
                self.push_snapshot(index, subscription, latest, passes);
            }
        }
        self.owe_states(index, matched.iter().map(|matched| matched.stream));
        self.mark_dirty(index);
        Ok(subscribed)
    }

    /// Queues the last values of some streams.
    fn push_snapshot(
        &mut self,
        index: u32,
        subscription: SubscriptionId,
        matched: &[Matched],
        passes: impl Fn(&Event) -> bool,
    ) {
        let (mut budget, mut past) = (BRACKET_BYTES_MAX, Vec::new());
        for matched in matched {
            let stream = self.index.stream(matched.stream).expect("a matched stream is known");
            let snapshot = stream.history.snapshot(&passes, &mut budget, &mut self.store);
            if let Some(bound) = snapshot.short {
                self.stats.history_short(bound);
            }
            past.extend(snapshot.events.into_iter().map(|event| (matched.stream, Recent::Event(event))));
        }
        self.push_bracket(index, subscription, Bracket::SNAPSHOT, past);
    }

    /// Queues what lies behind the positions of some streams, and how far back it goes.
    fn push_replay(
        &mut self,
        index: u32,
        subscription: SubscriptionId,
        matched: &[Matched],
        predates: bool,
        passes: impl Fn(&Event) -> bool,
    ) {
        let (mut budget, mut past) = (BRACKET_BYTES_MAX, Vec::new());
        let mut gone = Vec::new();
        for matched in matched {
            let stream = self.index.stream(matched.stream).expect("a matched stream is known");
            let (position, head) = (matched.position, stream.head);
            let since = stream.history.since(position, head, &passes, &mut budget, &mut self.store);
            if let Some(bound) = since.short {
                self.stats.history_short(bound);
            }
            if matched.forgot || is_gone(&since.entries) {
                gone.push(matched.stream);
            }
            past.extend(since.entries.into_iter().map(|entry| (matched.stream, entry)));
        }
        self.push_history(index, subscription, predates, &gone);
        self.push_bracket(index, subscription, Bracket::REPLAY, past);
    }

    /// Ends a subscription. What still waited for it alone is dropped, and is nobody's loss. A snapshot or
    /// replay of it that was begun ends with the acknowledgement, without an end of its own.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing has changed.
    pub fn unsubscribe(
        &mut self,
        peer: PeerId,
        id: SubscriptionId,
        acknowledge: impl FnOnce(&Subscribed) -> Option<Bytes>,
    ) -> Result<Subscribed, SubscribeError> {
        let (index, at) = self.find_subscription(peer, id)?;
        let found = self.peers.member(index);
        if found.queue.as_ref().is_some_and(|queue| queue.outbox.control_is_full(0)) {
            return Err(SubscribeError::Busy);
        }
        let group = found.group.expect("a subscriber is in a group");
        self.spill_run(group);
        self.live(peer)?;
        let (interest, filter) = self.interest_at(index, at);
        let streams = self.index.streams_of(filter).len() as u32;
        let mut interests = self.interests_of(index);
        interests.remove(at);
        self.regroup(index, interests, filter, |peer| drop(peer.subscriptions.remove(at)));
        self.index.release(interest);
        self.note_subscriptions(-1);

        let Self { peers, index: streams_index, store, .. } = self;
        let found = peers.member(index);
        let waiting = found.waiting();
        if let Some(mut queue) = found.queue.take() {
            let unwanted = |stream| !found.gets(stream, streams_index);
            queue.outbox.purge(id, unwanted, store);
            queue.ledger.retain(|stream| !unwanted(stream));
            found.queue = Some(queue);
        }
        self.queued = self.queued + found.waiting() - waiting;

        let subscribed = Subscribed { subscription: id, epoch: self.epoch, streams, already: true };
        if let Some(bytes) = acknowledge(&subscribed) {
            found.queue().outbox.push_control(bytes);
        }
        self.mark_dirty(index);
        Ok(subscribed)
    }

    /// Changes how a subscription wants its events, in place: its id, its positions and its account stay.
    /// What waits already is not touched.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing has changed.
    pub fn configure(
        &mut self,
        peer: PeerId,
        id: SubscriptionId,
        delivery: &Delivery,
    ) -> Result<Subscribed, SubscribeError> {
        let (index, at) = self.find_subscription(peer, id)?;
        let group = self.peers.member(index).group.expect("a subscriber is in a group");
        self.spill_run(group);
        self.live(peer)?;
        let (_, filter) = self.interest_at(index, at);
        let scope = self.index.scope(filter).clone();
        let interest = self.index.want(&scope, delivery.condition.as_ref(), delivery.rate());
        self.reconfigure(index, at, interest, delivery.policy);
        let streams = self.index.streams_of(filter).len() as u32;
        Ok(Subscribed { subscription: id, epoch: self.epoch, streams, already: true })
    }

    fn find_subscription(
        &mut self,
        peer: PeerId,
        id: SubscriptionId,
    ) -> Result<(u32, usize), SubscribeError> {
        let index = self.live(peer)?;
        let subscriptions = &self.peers.member(index).subscriptions;
        let at = subscriptions.iter().position(|subscription| subscription.id == id);
        at.map(|at| (index, at)).ok_or(SubscribeError::UnknownSubscription)
    }

    fn interest_at(&mut self, index: u32, at: usize) -> (InterestId, FilterId) {
        let subscription = &self.peers.member(index).subscriptions[at];
        (subscription.interest, subscription.filter)
    }

    fn interests_of(&mut self, index: u32) -> Vec<InterestId> {
        self.peers.member(index).subscriptions.iter().map(|known| known.interest).collect()
    }

    fn note_subscriptions(&self, change: i64) {
        self.stats.subscriptions.set(self.stats.subscriptions.get().wrapping_add_signed(change));
        self.stats.conditions.set(self.index.conditions.len() as u64);
    }

    fn live(&mut self, peer: PeerId) -> Result<u32, SubscribeError> {
        let index = self.peers.find(peer).ok_or(SubscribeError::UnknownPeer)?;
        if self.peers.member(index).is_over() { Err(SubscribeError::UnknownPeer) } else { Ok(index) }
    }

    /// Brings the shard up to date and refuses positions that cannot be true.
    fn check_positions(
        &mut self,
        epoch: Epoch,
        positions: &[(Topic, Class, Sequence)],
    ) -> Result<(), SubscribeError> {
        if epoch != self.epoch {
            return Err(SubscribeError::ResumeFailed {
                epoch: self.epoch,
                stream: None,
                oldest: Sequence(0),
            });
        }
        // A shard that is lapped on the way goes on behind its target, and what it missed of a stream shows
        // with that stream's next event, which may lie further back still.
        loop {
            match self.some_wait(positions) {
                Err(never_published) => return Err(self.refuse_position(never_published)),
                Ok(true) => self.catch_up(),
                Ok(false) => return Ok(()),
            }
        }
    }

    fn refuse_position(&self, (topic, class, _): &(Topic, Class, Sequence)) -> SubscribeError {
        let stream = self.index.find(topic, *class).and_then(|id| self.index.stream(id));
        let oldest = stream.and_then(|stream| stream.history.oldest(&self.store)).unwrap_or(0);
        SubscribeError::ResumeFailed {
            epoch: self.epoch,
            stream: Some((topic.clone(), *class)),
            oldest: Sequence(oldest),
        }
    }

    /// True when positions are ahead of this shard, and what they name waits in the ring. Only then is it
    /// worth catching up, which puts the backlog into everybody's outbox; not when one of them names what
    /// was never published, for the resume is refused either way.
    fn some_wait<'a>(
        &self,
        positions: &'a [(Topic, Class, Sequence)],
    ) -> Result<bool, &'a (Topic, Class, Sequence)> {
        let mut waits = false;
        let mut unknown: HashMap<(&Topic, Class), &(Topic, Class, Sequence), RandomState> =
            HashMap::default();
        for position in positions.iter().filter(|(.., sequence)| sequence.0 > 0) {
            let (topic, class, sequence) = position;
            let Some(id) = self.index.find(topic, *class) else {
                unknown.insert((topic, *class), position);
                continue;
            };
            if sequence.0 > self.index.stream(id).map_or(0, |stream| stream.head) {
                waits = true;
                if self.records.get(id).is_none_or(|record| record.head().0 < sequence.0) {
                    return Err(position);
                }
            }
        }
        if !unknown.is_empty() {
            waits = true;
            // Streams that this shard does not know have no id here: found in one pass, by name.
            for record in self.records.all() {
                let place = unknown.get(&(&record.topic, record.class)).copied();
                if let Some((topic, class, sequence)) = place
                    && record.head().0 >= sequence.0
                {
                    unknown.remove(&(topic, *class));
                }
            }
        }
        unknown.into_values().next().map_or(Ok(waits), Err)
    }

    /// Enters a subscription and moves the peer to its new group. Says whether it was there already: one
    /// with the same filter and condition is the same.
    fn add_subscription(
        &mut self,
        index: u32,
        interest: InterestId,
        policy: Policy,
    ) -> (SubscriptionId, bool) {
        let wanted = *self.index.wanted(interest);
        let same = |known: &Subscription| {
            let has = self.index.wanted(known.interest);
            (has.filter, has.condition) == (wanted.filter, wanted.condition)
        };
        let known = self.peers.get(index).expect("attached").subscriptions.iter().position(same);
        if let Some(at) = known {
            self.reconfigure(index, at, interest, policy);
            return (self.peers.member(index).subscriptions[at].id, true);
        }
        let after = self.waiting_on(index, wanted.filter);
        let peer = self.peers.member(index);
        peer.subscriptions_made += 1;
        let id = SubscriptionId(peer.subscriptions_made);
        let mut interests = self.interests_of(index);
        interests.push(interest);
        let new = Subscription { after, ..Subscription::new(id, policy, interest, wanted.filter) };
        self.regroup(index, interests, wanted.filter, |peer| {
            if peer.subscriptions.is_empty() {
                // Most peers have one.
                peer.subscriptions.reserve_exact(1);
            }
            peer.subscriptions.push(new);
        });
        self.note_subscriptions(1);
        (id, false)
    }

    /// Gives the subscription at `at` another interest in the same topics, and another policy.
    fn reconfigure(&mut self, index: u32, at: usize, interest: InterestId, policy: Policy) {
        let (old, filter) = self.interest_at(index, at);
        if old == interest {
            let peer = self.peers.member(index);
            peer.subscriptions[at].policy = policy;
            peer.forget_routes();
        } else {
            let mut interests = self.interests_of(index);
            interests[at] = interest;
            self.regroup(index, interests, filter, |peer| {
                peer.subscriptions[at].policy = policy;
                peer.subscriptions[at].interest = interest;
            });
        }
        self.index.release(old);
        self.note_subscriptions(0);
    }

    /// Streams of `filter` of which something waits for the peer already, with their heads: a new subscription
    /// counts from there, though what waits may be lost later.
    fn waiting_on(&mut self, index: u32, filter: FilterId) -> Box<[(StreamId, u64)]> {
        let Self { peers, index: streams, .. } = self;
        let queue = peers.member(index).queue.as_ref().filter(|queue| queue.outbox.has_data());
        let waiting = queue.into_iter().flat_map(|queue| queue.outbox.streams());
        let known = waiting.filter_map(|stream| {
            let known = streams.stream(stream)?;
            known.filters.contains(&filter).then_some((stream, known.head))
        });
        let mut after: Vec<(StreamId, u64)> = known.collect();
        after.sort_unstable();
        after.dedup();
        after.into_boxed_slice()
    }

    /// The streams a filter matches, and from where they count for a peer that is about to subscribe.
    fn matched(&self, index: u32, filter: FilterId, start: &Start) -> Vec<Matched> {
        let peer = self.peers.get(index).expect("attached");
        let mut streams = self.index.streams_of(filter).to_vec();
        streams.sort_unstable();
        let matched = streams.into_iter().map(|id| {
            let stream = self.index.stream(id).expect("a matched stream is known");
            let (position, forgot) = match start {
                Start::Resume { positions, .. } if !peer.gets(id, &self.index) => {
                    let named = |(topic, class, _): &&(Topic, Class, Sequence)| {
                        *topic == stream.topic && *class == stream.class
                    };
                    let named = positions.iter().find(named);
                    (named.map_or(0, |(_, _, sequence)| sequence.0), false)
                }
                Start::Missed(_) if stream.class == Class::Latest => (stream.head, false),
                Start::Since(time) | Start::Missed(time) if !peer.gets(id, &self.index) => {
                    stream.history.before(*time, stream.head, &self.store)
                }
                _ => (stream.head, false),
            };
            Matched { stream: id, position, forgot }
        });
        matched.collect()
    }

    /// Queues how far back the streams' histories go, if that is not as far as was asked for, with the topic of the
    /// first for formats that know no ids: of `gone`, and of all when the time asked for lies before the epoch.
    fn push_history(&mut self, index: u32, subscription: SubscriptionId, predates: bool, gone: &[StreamId]) {
        let format = self.peers.member(index).format;
        let kept = |id: &StreamId| {
            let stream = self.index.stream(*id).expect("a matched stream is known");
            let oldest = stream.history.oldest_event(&self.store);
            let (oldest, time) = oldest.unwrap_or((stream.head + 1, 0));
            Kept { stream: id.0, oldest, oldest_time: Timestamp(time as i64) }
        };
        let mut parts: Vec<Vec<Kept>> =
            gone.chunks(KEPT_MAX).map(|part| part.iter().map(kept).collect()).collect();
        if parts.is_empty() && predates {
            parts.push(Vec::new());
        }
        let begun = Timestamp(self.begun as i64);
        for short in parts {
            let first = short.first().and_then(|kept| self.index.stream(StreamId(kept.stream)));
            let topic = first.map(|stream| stream.topic.clone());
            let message = Message::History(History { subscription: subscription.0, begun, short });
            if let Some(bytes) = self.render.control(&message, topic.as_ref(), format) {
                self.peers.member(index).queue().outbox.push_word(subscription, None, bytes);
            }
        }
    }

    /// Queues begin, what it brackets, and end, in one piece. The references are the outbox's then.
    fn push_bracket(
        &mut self,
        index: u32,
        subscription: SubscriptionId,
        bracket: Bracket,
        past: Vec<(StreamId, Recent)>,
    ) {
        let Self { peers, store, index: streams, render, stats, queued, .. } = self;
        let peer = peers.member(index);
        let format = peer.format;
        let framed_len = |event: &EventRef, store: &Store| {
            let event = store.get(event);
            // Compressed or not: a reference keeps the whole event.
            event.framed(format, &**render, stats).map(|bytes| bytes.len().max(event.binary().len()))
        };
        let carried = |entry: &&(StreamId, Recent)| match &entry.1 {
            Recent::Event(event) => framed_len(event, store).is_some(),
            Recent::Gap(_) => false,
        };
        let events = past.iter().filter(carried).count() as u32;
        let word = |outbox: &mut Outbox, message: Message, stream: Option<StreamId>| {
            let topic = stream.and_then(|stream| streams.stream(stream)).map(|stream| &stream.topic);
            if let Some(bytes) = render.control(&message, topic, format) {
                outbox.push_word(subscription, stream, bytes);
            }
        };
        let waiting = peer.waiting();
        let outbox = &mut peer.queue.get_or_insert_default().outbox;
        word(outbox, Message::Begin(Begin { subscription: subscription.0, bracket, events }), None);
        let mut losses = Vec::new();
        for (stream, entry) in past {
            match entry {
                Recent::Event(event) => match framed_len(&event, store) {
                    Some(size) => {
                        let replay = bracket == Bracket::REPLAY;
                        outbox.push_bracket(subscription, event, replay, size, store);
                    }
                    None => store.release(event),
                },
                Recent::Gap(loss) => {
                    let notice = loss.notice(subscription, stream);
                    word(outbox, Message::Notice(notice), Some(stream));
                    losses.push((stream, loss));
                }
            }
        }
        word(outbox, Message::End(End { subscription: subscription.0, bracket }), None);
        *queued = *queued + peer.waiting() - waiting;
        for (stream, loss) in losses {
            self.count_loss(index, stream, &loss);
            // Of what lies before the live events, no sum of the group's knows.
            let subscriptions = &mut self.peers.member(index).subscriptions;
            let its = subscriptions.iter_mut().find(|known| known.id == subscription);
            its.expect("just subscribed").own.filtered += loss.filtered;
        }
    }
}
