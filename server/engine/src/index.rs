//! From an event to the delivery groups that want it.
//!
//! ```text
//!            ┌ open ──────────────────► interests ──► groups ──► members
//!   stream ──► filters                     │
//!            └ keyed: attribute, hash ─────┘ condition: asked once per event
//! ```
//!
//! An *interest* is what one subscription wants: a topic filter, perhaps a condition, perhaps a rate. Filters,
//! conditions and interests are interned. A *group* is a set of interests and a format, so the peers that
//! want the same share everything but their sockets.
//!
//! What an event costs does not depend on what does not match it: filters are matched when a stream is
//! born or a filter is new, never per event; an interest whose condition demands one of some values of an
//! attribute is found by the event's value; only the others of a matching filter are asked one by one. A
//! group is touched once per event, however many of its interests pass: that is what "delivered once"
//! rests on.
//!
//! Joining and leaving cost what the peer itself has, not how many others there are: every list that
//! something may leave knows its places.
//!
//! What the index does not know: subscriptions, policies, bytes.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tickcast_protocol::registry::EQUALITY_ATTRIBUTES;
use tickcast_protocol::{Class, StreamId, Topic, TopicFilter};

use crate::condition::{Condition, ConditionId, Conditions};
use crate::event::{Event, Format};
use crate::group::{Group, GroupKey, Side};
use crate::history::History;
use crate::slots::Slots;
use crate::status::Status;

/// An interned topic filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FilterId(pub(crate) u32);

/// An interned interest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InterestId(pub(crate) u32);

/// A delivery group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(pub(crate) u32);

/// What a shard knows of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) topic: Topic,
    pub(crate) class: Class,
    /// The newest sequence this shard has distributed or told as missing.
    pub(crate) head: u64,
    /// The turn in which one of its events last went to a run.
    pub(crate) ran_in: u64,
    pub(crate) history: History,
    /// How it is, when it is not live.
    pub(crate) status: Option<Box<Status>>,
    /// Filters that match it.
    pub(crate) filters: Vec<FilterId>,
}

/// How often an event of one key may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rate {
    /// Time between two, in ns; not zero.
    pub(crate) interval: u64,
    /// Also where events are delivered in order, which the subscription has given up.
    pub(crate) ordered: bool,
}

/// The streams of one subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) filter: TopicFilter,
    /// Streams of the class critical are left out.
    pub(crate) without_critical: bool,
}

/// What one subscription wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) filter: FilterId,
    pub(crate) condition: Option<ConditionId>,
    pub(crate) rate: Option<Rate>,
}

#[derive(Debug)]
pub(crate) struct Interest {
    pub(crate) wanted: Wanted,
    /// Groups that have it. A group knows its place here.
    groups: Vec<GroupId>,
    /// Its place in its filter's list.
    place: u32,
    /// Its place among the open ones, or under each of its keys, in their order.
    places: Vec<u32>,
    /// The keys it is found by; empty when it is open.
    keys: Vec<Key>,
    /// Those who asked for it and have not released it.
    users: u32,
}

/// An equality attribute and the hash of its value.
type Key = (u8, u64);

#[derive(Debug)]
struct Filter {
    scope: Scope,
    streams: Vec<StreamId>,
    /// Events distributed on its streams.
    seen: u64,
    interests: Vec<InterestId>,
    /// Those that are looked at for every event.
    open: Vec<InterestId>,
    keyed: Option<Box<Keyed>>,
    /// Its place among the patterns with its prefix.
    place: u32,
}

/// Interests found by an event's attributes.
#[derive(Debug, Default)]
struct Keyed {
    /// How many keys there are of each attribute: no look-up for those without.
    keys: [u32; EQUALITY_ATTRIBUTES],
    table: HashMap<Key, Vec<InterestId>, RandomState>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By stream id; some may not be known to this shard yet.
    streams: Vec<Option<Stream>>,
    /// Ordered, so that a pattern's streams are found by its prefix.
    topics: BTreeMap<Topic, Vec<StreamId>>,
    filters: Slots<Filter>,
    by_filter: HashMap<Scope, FilterId, RandomState>,
    /// Filters that are no exact topics, by what stands before their first wildcard: those that may match
    /// a newborn stream are found by the prefixes of its topic.
    patterns: HashMap<Box<str>, Vec<FilterId>, RandomState>,
    pub(crate) conditions: Conditions,
    interests: Slots<Interest>,
    by_wanted: HashMap<Wanted, InterestId, RandomState>,
    groups: Slots<Group>,
    by_key: HashMap<Arc<GroupKey>, GroupId, RandomState>,
    /// Number of the event that was looked up last.
    event: u64,
    /// Interests with a rate.
    rated: usize,
}

impl Scope {
    fn matches(&self, topic: &Topic, class: Class) -> bool {
        self.takes(class) && self.filter.matches(topic)
    }

    fn takes(&self, class: Class) -> bool {
        !(self.without_critical && class == Class::Critical)
    }
}

impl Wanted {
    /// Every event of its streams, at once.
    pub(crate) fn is_plain(&self) -> bool {
        self.condition.is_none() && self.rate.is_none()
    }
}

impl Rate {
    /// The interval for events of `class`; zero when they do not wait.
    pub(crate) fn interval_of(self, class: Class) -> u64 {
        match class {
            Class::Latest => self.interval,
            Class::Ordered if self.ordered => self.interval,
            Class::Ordered | Class::Critical => 0,
        }
    }
}

impl Index {
    pub(crate) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(id.0 as usize)?.as_mut()
    }

    /// The stream (topic, class), if this shard knows it.
    pub(crate) fn find(&self, topic: &Topic, class: Class) -> Option<StreamId> {
        let ids = self.topics.get(topic)?;
        ids.iter().copied().find(|id| self.stream(*id).is_some_and(|stream| stream.class == class))
    }

    /// Finds the groups that want an event, each once, and notes in each how: see [`Group::touch`].
    pub(crate) fn look_up(&mut self, event: &Event, touched: &mut Vec<GroupId>) {
        let Self { streams, filters, conditions, interests, groups, event: number, .. } = self;
        *number += 1;
        let Some(Some(stream)) = streams.get(event.stream().0 as usize) else { return };
        let (class, attributes) = (stream.class, event.attributes());
        let mut visit = |id: InterestId| {
            let interest = interests.get(id.0);
            if let Some(condition) = interest.wanted.condition
                && !conditions.passes(condition, *number, attributes)
            {
                return;
            }
            let plain = interest.wanted.is_plain();
            let interval = interest.wanted.rate.map_or(0, |rate| rate.interval_of(class));
            for id in &interest.groups {
                if groups.get_mut(id.0).touch(*number, plain, interval) {
                    touched.push(*id);
                }
            }
        };
        for id in &stream.filters {
            let filter = filters.get_mut(id.0);
            filter.seen += 1;
            filter.open.iter().for_each(|id| visit(*id));
            let Some(keyed) = &filter.keyed else { continue };
            for (attribute, hash) in attributes.equality.iter().enumerate() {
                if *hash == 0 || keyed.keys[attribute] == 0 {
                    continue;
                }
                if let Some(found) = keyed.table.get(&(attribute as u8, *hash)) {
                    found.iter().for_each(|id| visit(*id));
                }
            }
        }
    }

    /// Every group that gets `stream`, whatever its conditions say of one event; each once.
    pub(crate) fn groups_of(&self, stream: StreamId) -> Vec<GroupId> {
        let mut found = Vec::new();
        let Some(stream) = self.stream(stream) else { return found };
        for filter in &stream.filters {
            for interest in &self.filters.get(filter.0).interests {
                found.extend_from_slice(&self.interests.get(interest.0).groups);
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// True when every event of `stream` goes to the group at once.
    pub(crate) fn is_plain(&self, group: GroupId, stream: StreamId) -> bool {
        self.is_plain_to(&self.group(group).key.interests, stream)
    }

    /// The same for a group with these interests.
    pub(crate) fn is_plain_to(&self, interests: &[InterestId], stream: StreamId) -> bool {
        let Some(stream) = self.stream(stream) else { return false };
        let mut interests = interests.iter().map(|id| self.wanted(*id));
        interests.any(|wanted| wanted.is_plain() && stream.filters.contains(&wanted.filter))
    }

    /// True when the group gets events of `stream`.
    pub(crate) fn gets(&self, group: GroupId, stream: StreamId) -> bool {
        let Some(stream) = self.stream(stream) else { return false };
        let mut interests = self.group(group).key.interests.iter().map(|id| self.wanted(*id));
        interests.any(|wanted| stream.filters.contains(&wanted.filter))
    }

    /// Adds a stream and matches it against the filters that may match.
    pub(crate) fn birth(&mut self, id: StreamId, topic: Topic, class: Class, history: History) {
        let place = id.0 as usize;
        if self.streams.len() <= place {
            self.streams.resize_with(place + 1, || None);
        }
        debug_assert!(self.streams[place].is_none(), "a stream is born once");
        let mut filters: Vec<FilterId> = Vec::new();
        for without_critical in [false, true] {
            let exact = Scope { filter: TopicFilter::from(topic.clone()), without_critical };
            filters.extend(self.by_filter.get(&exact).filter(|_| exact.takes(class)));
        }
        let name = topic.as_str();
        let ends = name.match_indices('.').map(|(at, _)| at + 1);
        for end in std::iter::once(0).chain(ends) {
            let patterns = self.patterns.get(&name[..end]).into_iter().flatten();
            filters.extend(patterns.filter(|id| self.filters.get(id.0).scope.matches(&topic, class)));
        }
        for filter in &filters {
            self.filters.get_mut(filter.0).streams.push(id);
        }
        self.topics.entry(topic.clone()).or_default().push(id);
        self.streams[place] =
            Some(Stream { topic, class, head: 0, ran_in: 0, history, status: None, filters });
    }

    /// Adds a member to the group with these interests, made if need be, and says which it is and the
    /// member's place in it. `interests` must be ascending, and in use.
    pub(crate) fn join(&mut self, member: u32, format: Format, interests: Vec<InterestId>) -> (GroupId, u32) {
        let key = GroupKey { format, interests };
        if let Some(id) = self.by_key.get(&key) {
            let members = &mut self.groups.get_mut(id.0).members;
            members.push(member);
            return (*id, members.len() as u32 - 1);
        }
        let key = Arc::new(key);
        let side = self.side_for(&key.interests);
        let id = GroupId(self.groups.insert(Group::new(key.clone(), member, side)));
        let mut places = Vec::with_capacity(key.interests.len());
        for interest in &key.interests {
            let groups = &mut self.interests.get_mut(interest.0).groups;
            places.push(groups.len() as u32);
            groups.push(id);
        }
        self.groups.get_mut(id.0).places = places;
        self.by_key.insert(key, id);
        (id, 0)
    }

    /// Takes the member at `place` out of its group, and says which other one has that place now. The last
    /// one takes the group with it. The run must be empty by then, and nothing held.
    pub(crate) fn leave(&mut self, place: u32, id: GroupId) -> (Option<u32>, Option<Group>) {
        let group = self.groups.get_mut(id.0);
        group.members.swap_remove(place as usize);
        if !group.members.is_empty() {
            return (group.members.get(place as usize).copied(), None);
        }
        debug_assert!(group.run.is_empty(), "a group is dissolved between turns");
        let group = self.groups.remove(id.0);
        self.by_key.remove(&group.key);
        for (interest, place) in group.key.interests.iter().zip(&group.places) {
            let groups = &mut self.interests.get_mut(interest.0).groups;
            groups.swap_remove(*place as usize);
            if let Some(moved) = groups.get(*place as usize) {
                let moved = self.groups.get_mut(moved.0);
                let at = moved.key.interests.binary_search(interest).expect("a group has its interests");
                moved.places[at] = *place;
            }
        }
        (None, Some(group))
    }

    /// The group with these interests, if it has members. `interests` must be ascending.
    pub(crate) fn find_group(&self, format: Format, interests: &[InterestId]) -> Option<GroupId> {
        let key = GroupKey { format, interests: interests.to_vec() };
        self.by_key.get(&key).copied()
    }

    /// The interest in this, kept until it is released as often.
    pub(crate) fn want(
        &mut self,
        scope: &Scope,
        condition: Option<&Condition>,
        rate: Option<Rate>,
    ) -> InterestId {
        let filter_id = self.intern(scope);
        let condition_id = condition.map(|condition| self.conditions.intern(condition));
        let wanted = Wanted { filter: filter_id, condition: condition_id, rate };
        if let Some(id) = self.by_wanted.get(&wanted) {
            self.interests.get_mut(id.0).users += 1;
            if let Some(condition) = condition_id {
                // The interest holds it once already.
                self.conditions.release(condition);
            }
            return *id;
        }
        self.rated += usize::from(rate.is_some());
        let keys = match condition.and_then(Condition::required) {
            Some((attribute, hashes)) => hashes.iter().map(|hash| (attribute as u8, *hash)).collect(),
            None => Vec::new(),
        };
        let of = self.filters.get_mut(filter_id.0);
        let interest = Interest {
            wanted,
            groups: Vec::new(),
            place: of.interests.len() as u32,
            places: Vec::with_capacity(keys.len().max(1)),
            keys,
            users: 1,
        };
        let id = InterestId(self.interests.insert(interest));
        of.interests.push(id);
        let interest = self.interests.get_mut(id.0);
        if interest.keys.is_empty() {
            interest.places.push(of.open.len() as u32);
            of.open.push(id);
        } else {
            let keyed = of.keyed.get_or_insert_default();
            for key in &interest.keys {
                let found = keyed.table.entry(*key).or_insert_with(|| {
                    keyed.keys[usize::from(key.0)] += 1;
                    Vec::with_capacity(1)
                });
                interest.places.push(found.len() as u32);
                found.push(id);
            }
        }
        self.by_wanted.insert(wanted, id);
        id
    }

    /// Gives an interest back. The last one takes it away, with its filter and condition if nobody else has
    /// them. No group has it any more by then.
    pub(crate) fn release(&mut self, id: InterestId) {
        let interest = self.interests.get_mut(id.0);
        interest.users -= 1;
        if interest.users > 0 {
            return;
        }
        debug_assert!(interest.groups.is_empty(), "an interest of a group is in use");
        let interest = self.interests.remove(id.0);
        self.by_wanted.remove(&interest.wanted);
        self.rated -= usize::from(interest.wanted.rate.is_some());
        let Self { filters, interests, .. } = self;
        let filter = filters.get_mut(interest.wanted.filter.0);
        filter.interests.swap_remove(interest.place as usize);
        if let Some(moved) = filter.interests.get(interest.place as usize) {
            interests.get_mut(moved.0).place = interest.place;
        }
        if interest.keys.is_empty() {
            let place = interest.places[0];
            filter.open.swap_remove(place as usize);
            if let Some(moved) = filter.open.get(place as usize) {
                interests.get_mut(moved.0).places[0] = place;
            }
        } else {
            let keyed = filter.keyed.as_mut().expect("it has keys");
            for (key, place) in interest.keys.iter().zip(&interest.places) {
                let found = keyed.table.get_mut(key).expect("it is found by its keys");
                found.swap_remove(*place as usize);
                if let Some(moved) = found.get(*place as usize) {
                    let moved = interests.get_mut(moved.0);
                    let at = moved.keys.iter().position(|other| other == key).expect("found by it");
                    moved.places[at] = *place;
                }
                if found.is_empty() {
                    keyed.table.remove(key);
                    keyed.keys[usize::from(key.0)] -= 1;
                }
            }
            if keyed.table.is_empty() {
                filter.keyed = None;
            }
        }
        if filter.interests.is_empty() {
            self.forget_filter(interest.wanted.filter);
        }
        if let Some(condition) = interest.wanted.condition {
            self.conditions.release(condition);
        }
    }

    pub(crate) fn wanted(&self, id: InterestId) -> &Wanted {
        &self.interests.get(id.0).wanted
    }

    /// The topics and classes behind an id.
    pub(crate) fn scope(&self, id: FilterId) -> &Scope {
        &self.filters.get(id.0).scope
    }

    /// Events distributed so far on the streams of a filter.
    pub(crate) fn seen(&self, id: FilterId) -> u64 {
        self.filters.get(id.0).seen
    }

    /// Streams that a filter matches now, in order of birth or id.
    pub(crate) fn streams_of(&self, filter: FilterId) -> &[StreamId] {
        &self.filters.get(filter.0).streams
    }

    /// Streams that a group gets, ascending.
    pub(crate) fn streams_of_group(&self, id: GroupId) -> Vec<StreamId> {
        let interests = &self.groups.get(id.0).key.interests;
        let filters = interests.iter().map(|interest| self.wanted(*interest).filter);
        let mut streams: Vec<StreamId> =
            filters.flat_map(|filter| self.streams_of(filter)).copied().collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    pub(crate) fn group(&self, id: GroupId) -> &Group {
        self.groups.get(id.0)
    }

    pub(crate) fn group_mut(&mut self, id: GroupId) -> &mut Group {
        self.groups.get_mut(id.0)
    }

    /// The group, unless it was dissolved; its id may be another's by then.
    pub(crate) fn find_group_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.find_mut(id.0)
    }

    /// The group and the stream, both to be changed.
    pub(crate) fn group_and_stream(&mut self, group: GroupId, stream: StreamId) -> (&mut Group, &mut Stream) {
        let stream = self.streams[stream.0 as usize].as_mut().expect("a group's streams are known");
        (self.groups.get_mut(group.0), stream)
    }

    /// Distinct interests with a rate.
    pub(crate) fn rated(&self) -> usize {
        self.rated
    }

    pub(crate) fn groups_len(&self) -> usize {
        self.by_key.len()
    }

    /// What is kept for a group beside its run: nothing when all it wants is plain.
    fn side_for(&self, interests: &[InterestId]) -> Option<Box<Side>> {
        let wanted = || interests.iter().map(|id| self.wanted(*id));
        if wanted().all(Wanted::is_plain) {
            return None;
        }
        let mut filters: Vec<FilterId> = wanted().map(|wanted| wanted.filter).collect();
        filters.sort_unstable();
        filters.dedup();
        Some(Box::new(Side::new(&filters)))
    }

    /// The id of a filter, matched against the streams it may match if it is new.
    fn intern(&mut self, scope: &Scope) -> FilterId {
        if let Some(id) = self.by_filter.get(scope) {
            return *id;
        }
        let filter = &scope.filter;
        let mut streams: Vec<StreamId> = Vec::new();
        match filter.as_topic() {
            Some(topic) => streams.extend(self.topics.get(&topic).into_iter().flatten()),
            None => {
                let prefix = prefix_of(filter);
                let from = (Bound::Included(prefix), Bound::Unbounded);
                let near = self.topics.range::<str, _>(from);
                let near = near.take_while(|(topic, _)| topic.as_str().starts_with(prefix));
                streams.extend(near.filter(|(topic, _)| filter.matches(topic)).flat_map(|(_, ids)| ids));
            }
        }
        streams.retain(|id| scope.takes(self.stream(*id).expect("it has a topic").class));
        let id = FilterId(self.filters.insert(Filter {
            scope: scope.clone(),
            streams: Vec::new(),
            seen: 0,
            interests: Vec::new(),
            open: Vec::new(),
            keyed: None,
            place: 0,
        }));
        for stream in &streams {
            self.stream_mut(*stream).expect("just seen").filters.push(id);
        }
        self.by_filter.insert(scope.clone(), id);
        let mut place = 0;
        if filter.as_topic().is_none() {
            let patterns = self.patterns.entry(prefix_of(filter).into()).or_default();
            place = patterns.len() as u32;
            patterns.push(id);
        }
        let interned = self.filters.get_mut(id.0);
        (interned.streams, interned.place) = (streams, place);
        id
    }

    fn forget_filter(&mut self, id: FilterId) {
        let filter = self.filters.remove(id.0);
        for stream in filter.streams {
            // Few: a topic of n segments is matched by at most 2^n patterns, whoever subscribes.
            let stream = self.stream_mut(stream).expect("a filter's streams are known");
            stream.filters.retain(|other| *other != id);
        }
        self.by_filter.remove(&filter.scope);
        if filter.scope.filter.as_topic().is_none() {
            let prefix = prefix_of(&filter.scope.filter);
            let patterns = self.patterns.get_mut(prefix).expect("a pattern is under its prefix");
            patterns.swap_remove(filter.place as usize);
            if let Some(moved) = patterns.get(filter.place as usize) {
                self.filters.get_mut(moved.0).place = filter.place;
            } else if patterns.is_empty() {
                self.patterns.remove(prefix);
            }
        }
    }
}

/// The segments before a pattern's first wildcard, with the dot behind them.
fn prefix_of(filter: &TopicFilter) -> &str {
    let text = filter.as_str();
    &text[..text.find('*').unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event_with;
    use tickcast_protocol::Predicate;
    use tickcast_protocol::registry::{Attribute, Attributes, hash_text};

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    fn hasher() -> RandomState {
        // The same for predicates and events.
        static HASHER: std::sync::LazyLock<RandomState> = std::sync::LazyLock::new(RandomState::default);
        HASHER.clone()
    }

    fn condition(text: &str) -> Option<Condition> {
        (!text.is_empty()).then(|| Condition::new(Predicate::parse(text).unwrap(), &hasher()))
    }

    /// Joins with `filter` or `filter if predicate`.
    fn join(index: &mut Index, member: u32, wanted: &[&str]) -> (GroupId, u32) {
        let mut ids: Vec<InterestId> = wanted
            .iter()
            .map(|text| {
                let (filter, predicate) = text.split_once(" if ").unwrap_or((text, ""));
                let filter = TopicFilter::parse(filter).unwrap();
                index.want(&Scope { filter, without_critical: false }, condition(predicate).as_ref(), None)
            })
            .collect();
        ids.sort_unstable();
        index.join(member, Format::Binary, ids)
    }

    fn leave(index: &mut Index, place: u32, group: GroupId) -> Option<u32> {
        let interests = index.group(group).key.interests.clone();
        let (moved, _) = index.leave(place, group);
        interests.into_iter().for_each(|id| index.release(id));
        moved
    }

    fn birth(index: &mut Index, id: u32, text: &str) {
        index.birth(StreamId(id), topic(text), Class::Latest, History::default());
    }

    fn groups(index: &Index, id: u32) -> Vec<GroupId> {
        index.groups_of(StreamId(id))
    }

    fn attributes(texts: &[(Attribute, &str)]) -> Attributes {
        let mut attributes = Attributes::default();
        for (attribute, text) in texts {
            attributes.equality[*attribute as usize] = hash_text(&hasher(), text);
        }
        attributes
    }

    /// The groups an event on stream `id` touches, ascending.
    fn touched(index: &mut Index, id: u32, texts: &[(Attribute, &str)]) -> Vec<GroupId> {
        let mut found = Vec::new();
        index.look_up(&event_with(id, attributes(texts)), &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn streams_find_groups_born_before_and_after() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        let (exact, _) = join(&mut index, 0, &["market_data.A"]);
        let (pattern, _) = join(&mut index, 1, &["market_data.*"]);
        let (all, _) = join(&mut index, 2, &["**"]);
        birth(&mut index, 2, "market_data.B");
        birth(&mut index, 4, "bar.1m.A");
        assert_eq!(groups(&index, 1), [exact, pattern, all]);
        assert_eq!(groups(&index, 2), [pattern, all]);
        assert_eq!(groups(&index, 4), [all]);
        assert!(index.stream(StreamId(3)).is_none());
        assert_eq!(index.find(&topic("bar.1m.A"), Class::Latest), Some(StreamId(4)));
        assert_eq!(index.find(&topic("bar.1m.A"), Class::Critical), None);
    }

    #[test]
    fn patterns_and_streams_find_each_other_whichever_came_first() {
        let topics = ["bar.1m.A", "bar.1m.A.B", "bar.1mx.A", "bar.5m.A", "market_data.1m.A"];
        let filters = ["bar.1m.*", "bar.1m.**", "bar.*.A", "bar.**", "**", "bar.1m.A", "market_data.*.A"];
        let (mut before, mut after) = (Index::default(), Index::default());
        for (member, filter) in filters.iter().enumerate() {
            join(&mut before, member as u32, &[filter]);
        }
        for (id, text) in topics.iter().enumerate() {
            birth(&mut before, id as u32 + 1, text);
            birth(&mut after, id as u32 + 1, text);
        }
        for (member, filter) in filters.iter().enumerate() {
            join(&mut after, member as u32, &[filter]);
        }
        for (id, text) in topics.iter().enumerate() {
            let wanted: Vec<u32> = (0..filters.len() as u32)
                .filter(|at| TopicFilter::parse(filters[*at as usize]).unwrap().matches(&topic(text)))
                .collect();
            let mut members: Vec<u32> = groups(&before, id as u32 + 1).iter().map(|group| group.0).collect();
            members.sort_unstable();
            assert_eq!(members, wanted, "{text}");
            assert_eq!(groups(&after, id as u32 + 1), groups(&before, id as u32 + 1), "{text}");
        }
    }

    #[test]
    fn group_with_two_matching_filters_is_touched_once() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        let (group, _) = join(&mut index, 0, &["market_data.*", "market_data.A if symbol=A"]);
        birth(&mut index, 2, "market_data.B");
        assert_eq!(touched(&mut index, 1, &[(Attribute::Symbol, "A")]), [group]);
        assert!(index.group(group).touched().plain, "the widest of its interests decides");
        assert_eq!(touched(&mut index, 2, &[]), [group]);
        assert_eq!(index.streams_of_group(group), [StreamId(1), StreamId(2)]);
    }

    #[test]
    fn peers_that_want_the_same_are_one_group() {
        let mut index = Index::default();
        let (first, _) = join(&mut index, 0, &["market_data.A", "bar.** if symbol=A and venue=X"]);
        let (second, place) = join(&mut index, 1, &["bar.** if venue=X and symbol=A", "market_data.A"]);
        assert_eq!((first, 1), (second, place));
        let interests = index.group(first).key.interests.clone();
        let (json, _) = index.join(2, Format::D1Snake, interests);
        assert_ne!(first, json);
        let (other, _) = join(&mut index, 3, &["market_data.A", "bar.**"]);
        assert!(index.group(first).side.is_some() && index.group(other).side.is_none());
        assert_eq!((index.groups_len(), index.conditions.len()), (3, 1));
    }

    #[test]
    fn only_those_who_asked_for_the_value_are_looked_at() {
        let mut index = Index::default();
        birth(&mut index, 1, "trade_executed.1");
        let user = |number: u32| format!("trade_executed.** if user=u{number}");
        let users: Vec<GroupId> =
            (0..100).map(|number| join(&mut index, number, &[&user(number)]).0).collect();
        let (both, _) = join(&mut index, 100, &["trade_executed.** if user in (u1, u2)"]);
        assert_eq!(touched(&mut index, 1, &[(Attribute::User, "u7")]), [users[7]]);
        assert_eq!(index.conditions.asked, 1);
        assert_eq!(touched(&mut index, 1, &[(Attribute::User, "u1")]), [users[1], both]);
        assert_eq!(touched(&mut index, 1, &[(Attribute::User, "u2")]), [users[2], both]);
        assert_eq!(touched(&mut index, 1, &[]), []);
        assert_eq!(index.conditions.asked, 5);
        let (negative, _) = join(&mut index, 101, &["trade_executed.** if user!=u1"]);
        assert_eq!(touched(&mut index, 1, &[(Attribute::User, "u7")]), [users[7], negative]);
        assert_eq!(groups(&index, 1).len(), 102, "a gap concerns them all");
    }

    #[test]
    fn condition_is_asked_once_an_event_however_many_have_it() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        for (member, filter) in ["market_data.A", "market_data.*", "market_data.**", "**"].iter().enumerate()
        {
            join(&mut index, member as u32, &[&format!("{filter} if symbol!=B")]);
        }
        assert_eq!(touched(&mut index, 1, &[(Attribute::Symbol, "A")]).len(), 4);
        assert_eq!(touched(&mut index, 1, &[(Attribute::Symbol, "B")]).len(), 0);
        assert_eq!((index.conditions.len(), index.conditions.asked), (1, 2));
    }

    #[test]
    fn last_member_takes_everything_with_it() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        let wanted = [
            "market_data.*",
            "market_data.* if symbol=A",
            "market_data.* if symbol in (A, B)",
            "market_data.* if symbol!=A",
        ];
        let joined: Vec<GroupId> = wanted
            .iter()
            .enumerate()
            .flat_map(|(at, wanted)| {
                let first = join(&mut index, 2 * at as u32, &[wanted]);
                let second = join(&mut index, 2 * at as u32 + 1, &[wanted]);
                assert_eq!((first.0, second.1), (second.0, 1));
                [first.0, second.0]
            })
            .collect();
        let (other, _) = join(&mut index, 100, &["market_data.* if symbol=A", "bar.**"]);
        assert_eq!(leave(&mut index, 0, joined[0]), Some(1), "the second has its place now");
        assert_eq!(leave(&mut index, 0, joined[0]), None);
        assert_eq!(groups(&index, 1), [joined[2], joined[4], joined[6], other]);
        for group in [joined[4], joined[2]] {
            leave(&mut index, 1, group);
            leave(&mut index, 0, group);
        }
        assert_eq!(touched(&mut index, 1, &[(Attribute::Symbol, "A")]), [other]);
        assert_eq!(touched(&mut index, 1, &[(Attribute::Symbol, "C")]), [joined[6]]);
        leave(&mut index, 0, other);
        leave(&mut index, 0, joined[6]);
        leave(&mut index, 0, joined[6]);
        assert_eq!(groups(&index, 1), []);
        let stream = index.stream(StreamId(1)).unwrap();
        assert!(stream.filters.is_empty() && index.patterns.is_empty() && index.by_filter.is_empty());
        assert!(index.by_wanted.is_empty() && index.by_key.is_empty());
        assert_eq!(index.conditions.len(), 0);
    }
}
