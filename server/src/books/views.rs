//! What is made of order books: their best levels, when they are other than before, and whether those can be
//! trusted. Sans-io: what came in goes in, what is to be told comes out, once a turn.
//!
//! ```text
//!   event, missing, status ──► Kept (one a book) ──► settle: View or Stands, the newest of the turn
//! ```
//!
//! - A view is told only of a sound book, and only if it differs from the one told before.
//! - Of a book that is broken nothing is told but that, once, until a snapshot has made it sound.
//! - A turn tells one view of a book and depth, however many messages it had: views are last values.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tickcast_engine::Status;
use tickcast_protocol::StreamId;
use tickcast_protocol::book::{Book, Top};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Level, OrderBook, PartialBook, StateReason, StreamState};

/// Something to be told of the views of a book.
#[derive(Debug, PartialEq)]
pub enum Made {
    /// A view that is other than before.
    View {
        /// The stream of the book.
        book: StreamId,
        /// What there is to see.
        view: PartialBook,
        /// The book is recorded.
        is_replay: bool,
    },
    /// The views of a book, of every depth, are not to be taken for the present ones; or they are of a replay.
    Stands {
        /// The stream of the book.
        book: StreamId,
        /// How they are.
        state: StreamState,
        /// Why.
        reason: StateReason,
        /// Since when, in ns since the Unix epoch, if that is known better than by their last event.
        since: Option<u64>,
    },
}

/// What [`Views::event`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the book.
    Applied,
    /// It cannot be in it: the book was or is broken.
    Broken,
    /// The first event of a book for which there is no place.
    Full,
    /// A further event of such a book.
    Ignored,
}

/// The books that are kept, and the views of them.
#[derive(Debug)]
pub struct Views {
    /// Ascending, each once.
    depths: Vec<usize>,
    books_max: usize,
    /// Nothing for a book that came when there was no place.
    books: HashMap<StreamId, Option<Box<Kept>>>,
    kept: usize,
    /// Books of which something has changed in this turn, each once.
    touched: Vec<StreamId>,
}

/// One book, and what was told of it.
#[derive(Debug)]
struct Kept {
    book: Book,
    /// The last message that is in the book, without its levels.
    sequence: u64,
    last: OrderBook,
    /// The best place that is perhaps other than what was told.
    changed: usize,
    is_touched: bool,
    /// What was told of the deepest view, while it stands.
    shown: Option<Box<Shown>>,
    /// What was told instead of it since.
    said: Option<StreamState>,
    /// Views were told of it at some time.
    is_born: bool,
    /// What the state of its own stream means for its views: nothing while that can be trusted.
    trouble: Option<Status>,
    is_replay: bool,
}

/// The best levels of both sides.
#[derive(Debug, Default)]
struct Shown {
    bids: Vec<Level>,
    asks: Vec<Level>,
}

impl Views {
    /// Views of these depths, 1 to 100 levels each, of at most so many books.
    ///
    /// # Panics
    /// When there is no depth.
    #[must_use]
    pub fn new(depths: &[u64], books_max: usize) -> Self {
        let mut depths: Vec<usize> = depths.iter().map(|depth| *depth as usize).collect();
        depths.sort_unstable();
        depths.dedup();
        assert!(!depths.is_empty(), "nobody wants views of no depth");
        Self { depths, books_max, books: HashMap::new(), kept: 0, touched: Vec::new() }
    }

    /// Books that are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// A message of a book, of which nothing is missing since the one before, or [`missing`](Self::missing)
    /// has said so.
    pub fn event(&mut self, stream: StreamId, sequence: u64, message: OrderBook) -> Outcome {
        let kept = match self.books.entry(stream) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                if self.kept == self.books_max {
                    entry.insert(None);
                    return Outcome::Full;
                }
                self.kept += 1;
                entry.insert(Some(Box::new(Kept::new(&message))))
            }
        };
        let Some(kept) = kept else { return Outcome::Ignored };
        // The event has ended what was found of its stream; what was found of the replay it is from, it has not.
        kept.trouble = None;
        let outcome = kept.book.apply(&message);
        if let Ok(changed) = outcome {
            kept.changed = kept.changed.min(changed);
            kept.sequence = sequence;
            kept.last = OrderBook { bids: Vec::new(), asks: Vec::new(), ..message };
        }
        touch(&mut self.touched, stream, kept);
        if outcome.is_ok() { Outcome::Applied } else { Outcome::Broken }
    }

    /// Events of a book are missing; true when it was sound before.
    pub fn missing(&mut self, stream: StreamId) -> bool {
        let Some(Some(kept)) = self.books.get_mut(&stream) else { return false };
        let was_sound = kept.book.is_sound();
        kept.book.clear();
        touch(&mut self.touched, stream, kept);
        was_sound
    }

    /// How the stream of a book is.
    pub fn status(&mut self, stream: StreamId, status: &Status) {
        let Some(Some(kept)) = self.books.get_mut(&stream) else { return };
        kept.is_replay = match status.state {
            StreamState::REPLAY => true,
            StreamState::LIVE => false,
            _ => kept.is_replay,
        };
        kept.trouble = status.is_trouble().then_some(*status);
        touch(&mut self.touched, stream, kept);
    }

    /// Says what the turn has made.
    pub fn settle(&mut self, mut each: impl FnMut(Made)) {
        for stream in self.touched.drain(..) {
            let Some(Some(kept)) = self.books.get_mut(&stream) else { continue };
            kept.is_touched = false;
            kept.settle(stream, &self.depths, &mut each);
        }
    }
}

fn touch(touched: &mut Vec<StreamId>, stream: StreamId, kept: &mut Kept) {
    if !std::mem::replace(&mut kept.is_touched, true) {
        touched.push(stream);
    }
}

impl Kept {
    fn new(first: &OrderBook) -> Self {
        Self {
            book: Book::new(),
            sequence: 0,
            last: OrderBook { bids: Vec::new(), asks: Vec::new(), ..first.clone() },
            changed: 0,
            is_touched: false,
            shown: None,
            said: None,
            is_born: false,
            trouble: None,
            is_replay: false,
        }
    }

    fn settle(&mut self, book: StreamId, depths: &[usize], each: &mut impl FnMut(Made)) {
        let stands = match self.trouble {
            _ if !self.book.is_sound() => Some((StreamState::STALE, StateReason::UPSTREAM, None)),
            // Whether a view is quiet is judged by the views: this is about what they are made from.
            Some(Status { state, reason: StateReason::QUIET, since, .. }) => {
                Some((state, StateReason::UPSTREAM, Some(since)))
            }
            Some(Status { state, reason, since, .. }) => Some((state, reason, Some(since))),
            None => None,
        };
        if let Some((state, reason, since)) = stands {
            // What is told of the views next is told of all depths, for that is what ends this.
            self.shown = None;
            if self.is_born && self.said != Some(state) {
                self.said = Some(state);
                each(Made::Stands { book, state, reason, since });
            }
            return;
        }
        let is_replay = self.is_replay;
        if self.is_born && is_replay && !matches!(self.said, Some(StreamState::REPLAY)) {
            let (state, reason) = (StreamState::REPLAY, StateReason::SAID);
            self.said = Some(state);
            each(Made::Stands { book, state, reason, since: None });
        } else if !is_replay && self.said == Some(StreamState::REPLAY) {
            self.shown = None;
        }
        let deepest = depths.last().copied().unwrap_or(0);
        let changed = self.differs(deepest);
        for depth in depths.iter().filter(|depth| **depth > changed) {
            let top = self.book.top(*depth);
            let view = self.view(*depth, top);
            each(Made::View { book, view, is_replay });
        }
        if changed < deepest {
            let top = self.book.top(deepest);
            let shown = self.shown.get_or_insert_default();
            shown.bids.clear();
            shown.bids.extend_from_slice(top.bids);
            shown.asks.clear();
            shown.asks.extend_from_slice(top.asks);
            self.is_born = true;
            self.said = is_replay.then_some(StreamState::REPLAY);
        }
    }

    /// The best place at which the best `deepest` levels are other than what was told.
    fn differs(&mut self, deepest: usize) -> usize {
        let changed = std::mem::replace(&mut self.changed, usize::MAX);
        let Some(shown) = &self.shown else { return 0 };
        if changed >= deepest {
            return usize::MAX;
        }
        let top = self.book.top(deepest);
        let side = |before: &[Level], now: &[Level]| {
            let same = before.iter().zip(now).skip(changed).take_while(|(before, now)| before == now).count();
            let at = changed + same;
            if at >= before.len() && at >= now.len() { usize::MAX } else { at }
        };
        side(&shown.bids, top.bids).min(side(&shown.asks, top.asks))
    }

    fn view(&self, depth: usize, top: Top<'_>) -> PartialBook {
        let OrderBook { symbol, ts, venue, instrument_id, .. } = &self.last;
        PartialBook {
            symbol: symbol.clone(),
            ts: Timestamp(ts.0),
            depth: depth as u32,
            bids: top.bids.to_vec(),
            asks: top.asks.to_vec(),
            book_sequence: self.sequence,
            checksum: Some(top.checksum()),
            venue: venue.clone(),
            instrument_id: *instrument_id,
        }
    }
}

#[cfg(test)]
mod tests;
