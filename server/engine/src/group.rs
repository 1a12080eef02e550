//! A delivery group: the peers that want the same in the same format, and what they share.
//!
//! The run of a turn, what is told before its events, what waits for their rate, and the sums that their
//! accounts rest on: all of it once for the group, nothing of it per member.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tickcast_protocol::StreamId;

use crate::event::Format;
use crate::index::{FilterId, InterestId};
use crate::run::Run;
use crate::window::Window;

/// What makes peers members of one group: they get the same bytes of the same events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub(crate) format: Format,
    /// Ascending.
    pub(crate) interests: Vec<InterestId>,
}

/// Peers that get the same bytes.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: Arc<GroupKey>,
    /// Where each of its interests lists it.
    pub(crate) places: Vec<u32>,
    /// Indexes of peers; each knows its place.
    pub(crate) members: Vec<u32>,
    /// What this turn has for them.
    pub(crate) run: Run,
    /// What only filters and rates need.
    pub(crate) side: Option<Box<Side>>,
    /// The event it was touched for last, as the index numbers them, and how.
    touched: u64,
    touch: Touch,
}

/// How an event concerns a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Touch {
    /// One of its interests takes every event of the stream, at once.
    pub(crate) plain: bool,
    /// The shortest interval of those that the event passes, in ns; zero for none.
    pub(crate) interval: u64,
}

/// What is kept for a group with filters or rates.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// Streams of which something was sent, told, or is held. Of all others nothing has passed since the
    /// group began.
    pub(crate) windows: HashMap<StreamId, Window, RandomState>,
    /// Per topic filter of its interests.
    pub(crate) sums: Vec<Sums>,
    /// Events of all streams that a rate replaced, told or about to be.
    pub(crate) conflated: u64,
    /// Events held, and their bytes.
    pub(crate) held_events: usize,
    pub(crate) held_bytes: usize,
}

/// Events on the streams of one filter, since the group began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) filter: FilterId,
    /// Those that passed.
    pub(crate) passed: u64,
    /// Of those, the ones that were replaced for the rate's sake, as far as told.
    pub(crate) conflated: u64,
}

impl Group {
    pub(crate) fn new(key: Arc<GroupKey>, member: u32, side: Option<Box<Side>>) -> Self {
        let touch = Touch { plain: false, interval: 0 };
        let (places, members, run) = (Vec::new(), vec![member], Run::default());
        Self { key, places, members, run, side, touched: 0, touch }
    }

    /// Notes that the event numbered `event` passes one of its interests. True the first time.
    pub(crate) fn touch(&mut self, event: u64, plain: bool, interval: u64) -> bool {
        if self.touched == event {
            self.touch.plain |= plain;
            self.touch.interval = self.touch.interval.min(interval);
            return false;
        }
        self.touched = event;
        self.touch = Touch { plain, interval };
        true
    }

    /// How the event it was touched for last concerns it.
    pub(crate) fn touched(&self) -> Touch {
        self.touch
    }

    /// The last sequence of `stream` that was sent to all members or told them, if they get not all of it.
    pub(crate) fn through(&self, stream: StreamId) -> u64 {
        let window = self.side.as_ref().and_then(|side| side.windows.get(&stream));
        window.map_or(0, |window| window.through)
    }

    /// True while an event of `stream` waits for its time.
    pub(crate) fn is_holding(&self, stream: StreamId) -> bool {
        let window = self.side.as_ref().and_then(|side| side.windows.get(&stream));
        window.is_some_and(Window::is_holding)
    }
}

impl Side {
    pub(crate) fn new(filters: &[FilterId]) -> Self {
        let sums = filters.iter().map(|filter| Sums { filter: *filter, ..Sums::default() }).collect();
        Self { sums, ..Self::default() }
    }

    /// The sums on the streams of `filter`, one of its own.
    pub(crate) fn sums(&self, filter: FilterId) -> Sums {
        self.sums.iter().find(|sums| sums.filter == filter).copied().unwrap_or_default()
    }

    /// The sums of every filter of its own among `filters`.
    pub(crate) fn sums_among(&mut self, filters: &[FilterId]) -> impl Iterator<Item = &mut Sums> {
        self.sums.iter_mut().filter(|sums| filters.contains(&sums.filter))
    }
}
