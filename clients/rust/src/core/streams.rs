//! Every stream the client has met: by the server's id for frames, by name for life.
//!
//! Ids are the server's and die with its boot id; what was counted belongs to (topic, class) and stays.

use std::collections::HashMap;

use tickcast_protocol::message::StreamState;
use tickcast_protocol::{Class, Topic};

use super::account::{Account, Told, Track};
use super::event::SubscriptionKey;

/// One stream and who follows it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) topic: Topic,
    pub(crate) class: Class,
    pub(crate) tracks: Vec<Track>,
    /// How it is, as the server said last.
    pub(crate) state: StreamState,
    /// The connection on which that was said, or on which no more of it can be expected.
    pub(crate) state_of: u64,
}

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A stream in [`Streams::list`].
    Stream(usize),
    /// A stream that is skipped on purpose: of a newer server, or past the bound.
    Skipped,
    /// Never announced.
    Unbound,
}

#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) list: Vec<Stream>,
    by_id: HashMap<u32, Option<usize>>,
    by_name: HashMap<(Topic, Class), usize>,
    max: usize,
    /// Some stream may have lost its last follower since the last look.
    pub(crate) abandoned: bool,
}

impl Streams {
    pub(crate) fn new(max: usize) -> Self {
        Self { list: Vec::new(), by_id: HashMap::new(), by_name: HashMap::new(), max, abandoned: false }
    }

    pub(crate) fn known(&self, id: u32) -> Known {
        match self.by_id.get(&id) {
            Some(Some(index)) => Known::Stream(*index),
            Some(None) => Known::Skipped,
            None => Known::Unbound,
        }
    }

    /// Gives `id` to the stream of this name. `None` when there are too many.
    pub(crate) fn bind(&mut self, id: u32, topic: Topic, class: Class) -> Option<usize> {
        let name = (topic, class);
        if self.by_id.len() >= self.ids_max() {
            return None;
        }
        if let Some(index) = self.by_name.get(&name) {
            self.by_id.insert(id, Some(*index));
            return Some(*index);
        }
        if self.list.len() >= self.max && std::mem::take(&mut self.abandoned) {
            self.compact();
        }
        if self.list.len() >= self.max {
            return None;
        }
        let index = self.list.len();
        self.list.push(Stream {
            topic: name.0.clone(),
            class,
            tracks: Vec::new(),
            state: StreamState::LIVE,
            state_of: 0,
        });
        self.by_name.insert(name, index);
        self.by_id.insert(id, Some(index));
        Some(index)
    }

    /// Frames of `id` are skipped from now on.
    pub(crate) fn skip(&mut self, id: u32) {
        if self.by_id.len() < self.ids_max() / 2 {
            self.by_id.insert(id, None);
        }
    }

    /// A stream has one id a run, so more than twice as many ids as streams is a server gone wrong. Half
    /// of them may be of streams that are skipped.
    fn ids_max(&self) -> usize {
        self.max.saturating_mul(4)
    }

    /// A new run of the server: its ids mean nothing any more.
    pub(crate) fn forget_ids(&mut self) {
        self.by_id.clear();
    }

    /// Drops streams that nobody follows.
    fn compact(&mut self) {
        let mut moved = vec![None; self.list.len()];
        let mut kept = Vec::new();
        for (index, stream) in std::mem::take(&mut self.list).into_iter().enumerate() {
            if !stream.tracks.is_empty() {
                moved[index] = Some(kept.len());
                kept.push(stream);
            }
        }
        self.list = kept;
        self.by_name.retain(|_, index| match moved[*index] {
            Some(new) => {
                *index = new;
                true
            }
            None => false,
        });
        self.by_id.retain(|_, index| match index {
            Some(old) => {
                *index = moved[*old];
                index.is_some()
            }
            None => true,
        });
    }

    /// What was told of all streams of a subscription.
    pub(crate) fn told(&self, key: SubscriptionKey) -> Told {
        let mut sum = Told::default();
        self.tracks(key).for_each(|(_, track)| {
            let Account { conflated, gapped, filtered, .. } = track.account();
            sum.add(Told { conflated, gapped, filtered });
        });
        sum
    }

    /// True when no stream of a subscription comes for another one as well.
    pub(crate) fn is_alone(&self, key: SubscriptionKey, connection: u64) -> bool {
        let shared = |track: &Track| track.subscription != key && track.bound_on == connection;
        self.tracks(key).all(|(stream, _)| !stream.tracks.iter().any(shared))
    }

    /// Every track of a subscription, with its stream.
    pub(crate) fn tracks(&self, key: SubscriptionKey) -> impl Iterator<Item = (&Stream, &Track)> {
        self.list.iter().flat_map(move |stream| {
            stream
                .tracks
                .iter()
                .filter(move |track| track.subscription == key)
                .map(move |track| (stream, track))
        })
    }
}
