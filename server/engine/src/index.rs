//! From a stream to the delivery groups that want it: one lookup per event.
//!
//! ```text
//!   stream ──► groups ──► members          per event, per turn
//!     ▲           │
//!     └ filters ◄─┘                        when a stream is born, a subscription made or ended
//! ```
//!
//! Filters are interned and matched once: against all streams when a filter is new, against all filters
//! when a stream is. Exact filters are found by hash. A group is a set of filters (and a format), so it is
//! listed once under a stream, however many of its filters match: that is what "delivered once" rests on.
//!
//! What the index does not know: subscriptions, policies, bytes.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tickcast_protocol::{Class, StreamId, Topic, TopicFilter};

use crate::event::Format;
use crate::history::History;
use crate::run::{GroupKey, PredicateId, Run};

/// An interned topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FilterId(pub(crate) u32);

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
    /// Filters that match it.
    pub(crate) filters: Vec<FilterId>,
    /// Groups with at least one of those filters.
    pub(crate) groups: Vec<GroupId>,
}

/// Peers that get the same bytes.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    /// Indexes of peers.
    pub(crate) members: Vec<u32>,
    /// What this turn has for them.
    pub(crate) run: Run,
}

#[derive(Debug)]
struct Filter {
    filter: TopicFilter,
    streams: Vec<StreamId>,
    groups: Vec<GroupId>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By stream id; some may not be known to this shard yet.
    streams: Vec<Option<Stream>>,
    topics: HashMap<Topic, Vec<StreamId>, RandomState>,
    filters: Slots<Filter>,
    by_filter: HashMap<TopicFilter, FilterId, RandomState>,
    /// Filters that are no exact topics: tried one by one when a stream is born.
    patterns: Vec<FilterId>,
    groups: Slots<Group>,
    by_key: HashMap<GroupKey, GroupId, RandomState>,
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

    /// Adds a stream and matches it against every filter.
    pub(crate) fn birth(&mut self, id: StreamId, topic: Topic, class: Class, history: History) {
        let place = id.0 as usize;
        if self.streams.len() <= place {
            self.streams.resize_with(place + 1, || None);
        }
        debug_assert!(self.streams[place].is_none(), "a stream is born once");
        let mut filters = Vec::new();
        filters.extend(self.by_filter.get(&TopicFilter::from(topic.clone())));
        for pattern in &self.patterns {
            if self.filters.get(pattern.0).filter.matches(&topic) {
                filters.push(*pattern);
            }
        }
        let mut groups = Vec::new();
        for filter in &filters {
            let filter = self.filters.get_mut(filter.0);
            filter.streams.push(id);
            groups.extend_from_slice(&filter.groups);
        }
        groups.sort_unstable();
        groups.dedup();
        self.topics.entry(topic.clone()).or_default().push(id);
        self.streams[place] = Some(Stream { topic, class, head: 0, ran_in: 0, history, filters, groups });
    }

    /// Adds a member to the group with these filters, made if need be, and says which it is. The filters
    /// must be interned. `filters` must be ascending.
    pub(crate) fn join(&mut self, member: u32, format: Format, filters: Vec<FilterId>) -> GroupId {
        let key = GroupKey { format, filters, predicate: PredicateId::default() };
        if let Some(id) = self.by_key.get(&key) {
            self.groups.get_mut(id.0).members.push(member);
            return *id;
        }
        let group = Group { key: key.clone(), members: vec![member], run: Run::default() };
        let id = GroupId(self.groups.insert(group));
        for filter in &key.filters {
            let filter = self.filters.get_mut(filter.0);
            filter.groups.push(id);
            for stream in &filter.streams {
                let stream = self.streams[stream.0 as usize].as_mut().expect("a filter's streams are known");
                // The id is new: if the stream has it, an earlier filter put it there, last.
                if stream.groups.last() != Some(&id) {
                    stream.groups.push(id);
                }
            }
        }
        self.by_key.insert(key, id);
        id
    }

    /// Takes a member out of its group. The last one takes the group with it, and filters that no other
    /// group has. The run must be empty by then.
    pub(crate) fn leave(&mut self, member: u32, id: GroupId) {
        let group = self.groups.get_mut(id.0);
        let at = group.members.iter().position(|other| *other == member).expect("a member of the group");
        group.members.swap_remove(at);
        if !group.members.is_empty() {
            return;
        }
        debug_assert!(group.run.is_empty(), "a group is dissolved between turns");
        let group = self.groups.remove(id.0);
        self.by_key.remove(&group.key);
        for filter_id in &group.key.filters {
            let filter = self.filters.get_mut(filter_id.0);
            filter.groups.retain(|other| *other != id);
            for stream in &filter.streams {
                let stream = self.streams[stream.0 as usize].as_mut().expect("a filter's streams are known");
                stream.groups.retain(|other| *other != id);
            }
            if self.filters.get(filter_id.0).groups.is_empty() {
                self.forget_filter(*filter_id);
            }
        }
    }

    /// The id of a filter, matched against every stream if it is new. It lives until the last group
    /// that has it is left, so a [`join`](Self::join) must follow.
    pub(crate) fn intern(&mut self, filter: &TopicFilter) -> FilterId {
        if let Some(id) = self.by_filter.get(filter) {
            return *id;
        }
        let streams: Vec<StreamId> = match filter.as_topic() {
            Some(topic) => self.topics.get(&topic).cloned().unwrap_or_default(),
            None => {
                let all = self.streams.iter().enumerate();
                all.filter(|(_, stream)| stream.as_ref().is_some_and(|known| filter.matches(&known.topic)))
                    .map(|(id, _)| StreamId(id as u32))
                    .collect()
            }
        };
        let id = FilterId(self.filters.insert(Filter {
            filter: filter.clone(),
            streams: Vec::new(),
            groups: Vec::new(),
        }));
        for stream in &streams {
            self.stream_mut(*stream).expect("just seen").filters.push(id);
        }
        self.filters.get_mut(id.0).streams = streams;
        self.by_filter.insert(filter.clone(), id);
        if filter.as_topic().is_none() {
            self.patterns.push(id);
        }
        id
    }

    /// The group with these filters, if it has members. `filters` must be ascending.
    pub(crate) fn find_group(&self, format: Format, filters: &[FilterId]) -> Option<GroupId> {
        let key = GroupKey { format, filters: filters.to_vec(), predicate: PredicateId::default() };
        self.by_key.get(&key).copied()
    }

    /// Streams that a filter matches now, in order of birth or id.
    pub(crate) fn streams_of(&self, filter: FilterId) -> &[StreamId] {
        &self.filters.get(filter.0).streams
    }

    /// Streams that a group gets, ascending.
    pub(crate) fn streams_of_group(&self, id: GroupId) -> Vec<StreamId> {
        let filters = &self.groups.get(id.0).key.filters;
        let mut streams: Vec<StreamId> =
            filters.iter().flat_map(|filter| self.streams_of(*filter)).copied().collect();
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

    pub(crate) fn groups_len(&self) -> usize {
        self.by_key.len()
    }

    fn forget_filter(&mut self, id: FilterId) {
        let filter = self.filters.remove(id.0);
        for stream in filter.streams {
            let stream = self.stream_mut(stream).expect("a filter's streams are known");
            stream.filters.retain(|other| *other != id);
        }
        self.by_filter.remove(&filter.filter);
        self.patterns.retain(|other| *other != id);
    }
}

/// Places that are used again.
#[derive(Debug)]
struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(value);
                index
            }
            None => {
                self.slots.push(Some(value));
                self.slots.len() as u32 - 1
            }
        }
    }

    fn remove(&mut self, index: u32) -> T {
        self.free.push(index);
        self.slots[index as usize].take().expect("removed once")
    }

    fn get(&self, index: u32) -> &T {
        self.slots[index as usize].as_ref().expect("not removed")
    }

    fn get_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].as_mut().expect("not removed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    fn join(index: &mut Index, member: u32, filters: &[&str]) -> GroupId {
        let mut ids: Vec<FilterId> =
            filters.iter().map(|text| index.intern(&TopicFilter::parse(text).unwrap())).collect();
        ids.sort_unstable();
        index.join(member, Format::Binary, ids)
    }

    fn birth(index: &mut Index, id: u32, text: &str) {
        index.birth(StreamId(id), topic(text), Class::Latest, History::default());
    }

    fn groups(index: &Index, id: u32) -> &[GroupId] {
        &index.stream(StreamId(id)).unwrap().groups
    }

    #[test]
    fn streams_find_groups_born_before_and_after() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        let exact = join(&mut index, 0, &["market_data.A"]);
        let pattern = join(&mut index, 1, &["market_data.*"]);
        let all = join(&mut index, 2, &["**"]);
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
    fn group_with_two_matching_filters_is_listed_once() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        let group = join(&mut index, 0, &["market_data.*", "market_data.A"]);
        birth(&mut index, 2, "market_data.B");
        assert_eq!(groups(&index, 1), [group]);
        assert_eq!(groups(&index, 2), [group]);
        assert_eq!(index.streams_of_group(group), [StreamId(1), StreamId(2)]);
    }

    #[test]
    fn peers_with_the_same_filters_and_format_are_one_group() {
        let mut index = Index::default();
        let first = join(&mut index, 0, &["market_data.A", "bar.**"]);
        let second = join(&mut index, 1, &["bar.**", "market_data.A"]);
        assert_eq!(first, second);
        let filters = index.group(first).key.filters.clone();
        let json = index.join(2, Format::D1Snake, filters);
        assert_ne!(first, json);
        assert_eq!(index.groups_len(), 2);
    }

    #[test]
    fn last_member_takes_group_and_filters_with_it() {
        let mut index = Index::default();
        birth(&mut index, 1, "market_data.A");
        let group = join(&mut index, 0, &["market_data.*"]);
        join(&mut index, 1, &["market_data.*"]);
        let other = join(&mut index, 2, &["market_data.*", "bar.**"]);
        index.leave(0, group);
        assert_eq!(groups(&index, 1), [group, other]);
        index.leave(1, group);
        assert_eq!(groups(&index, 1), [other]);
        index.leave(2, other);
        assert_eq!(groups(&index, 1), []);
        let stream = index.stream(StreamId(1)).unwrap();
        assert!(stream.filters.is_empty() && index.patterns.is_empty() && index.by_filter.is_empty());
    }
}
