//! Keeps the order books of one subscription: applies what comes, verifies each, and says when to ask again.
//!
//! Sans-io. Feed it every event of a subscription that began with a snapshot, then take what it tells:
//!
//! ```text
//!   on_event ──▶ ┌───────┐ ──▶ poll_event    a book is there, has changed, is gone
//!                │ Books │ ──▶ poll_resync   call Core::snapshot_again now
//!                └───────┘ ──▶ poll_timeout  when to call poll_resync again
//! ```
//!
//! A book is shown only while it is known to be what its publisher has: every event of its stream since a
//! snapshot was applied, and every checksum was right. One missing event, whatever the reason and whether or
//! not somebody told of it, and it is shown no more until a snapshot, and what followed it, have come. While a
//! snapshot or replay runs nothing is told of the books in it, for what they show lies in the past.
//!
//! Costs at most 64 KiB a book and side of 1,024 levels; there are as many books as streams.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use tickcast_protocol::book::{Book, BookError, Top};
use tickcast_protocol::message::{BookKind, OrderBook};
use tickcast_protocol::{Class, DecodeError, Message, Topic};

use crate::core::{ClientEvent, Data, Gap, GapReason, Origin, SubscriptionState};

/// Pauses between two requests for a snapshot: the first, doubled each time up to the second, in ns.
const RESYNC_NS: u64 = 1_000_000_000;
const RESYNC_NS_MAX: u64 = 30_000_000_000;

/// What happened to the books.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BookEvent {
    /// A book is shown: for the first time, or again.
    Fresh {
        /// Its topic.
        topic: Topic,
    },
    /// The view of a book has changed.
    Changed {
        /// Its topic.
        topic: Topic,
    },
    /// A book is not known to be right any more, and not shown.
    Broken {
        /// Its topic.
        topic: Topic,
        /// Why.
        reason: Broken,
    },
    /// Anything else the subscription told, gaps included.
    Other(Box<ClientEvent>),
}

/// Why a book is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Broken {
    /// These events of its stream did not come. Both are zero when nobody can say which.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        through: u64,
        /// Why, if the server said so.
        reason: Option<GapReason>,
    },
    /// A message could not be applied, or left another book than the publisher's.
    Wrong(BookError),
    /// A message could not be read.
    Unreadable(DecodeError),
    /// The connection is gone. The book comes back when what was missed has come.
    Disconnected,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { from: 0, .. } => f.write_str("events are missing"),
            Self::Missing { from, through, .. } if from == through => write!(f, "seq {from} is missing"),
            Self::Missing { from, through, .. } => write!(f, "seq {from} to {through} are missing"),
            Self::Wrong(error) => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
            Self::Disconnected => f.write_str("the connection is gone"),
        }
    }
}

/// The books of one subscription.
#[derive(Debug)]
pub struct Books {
    books: HashMap<Topic, Kept>,
    /// Those that are not sound.
    broken: usize,
    /// Levels a side that are looked at.
    depth: usize,
    /// A snapshot or replay runs, or is awaited: what books show lies in the past.
    is_held: bool,
    /// Nothing comes at present.
    is_away: bool,
    /// When a snapshot may be asked for, and the pause behind that.
    ask_at: u64,
    pause: u64,
    told: VecDeque<BookEvent>,
}

/// One book. It follows one stream of its topic: that of its last snapshot.
#[derive(Debug)]
struct Kept {
    book: Book,
    class: Class,
    /// Of the last message that was applied.
    sequence: u64,
    is_shown: bool,
    /// The view has changed since that was told.
    has_changed: bool,
}

impl Books {
    /// No books so far. `depth` is how many levels of a side are looked at: what changes below is not told.
    /// [`usize::MAX`] for all.
    #[must_use]
    pub fn new(depth: usize) -> Self {
        Self {
            books: HashMap::new(),
            broken: 0,
            depth,
            is_held: false,
            is_away: false,
            ask_at: 0,
            pause: RESYNC_NS,
            told: VecDeque::new(),
        }
    }

    /// Takes the next event of the subscription.
    pub fn on_event(&mut self, event: ClientEvent, now: u64) {
        match &event {
            ClientEvent::Data(data) if data.type_id() == OrderBook::INFO.id => {
                return self.on_data(data, now);
            }
            ClientEvent::Gap(gap) => self.on_gap(gap),
            ClientEvent::Subscription {
                to: SubscriptionState::Subscribing | SubscriptionState::Unsubscribed,
                ..
            } => self.on_away(),
            ClientEvent::Acknowledged { resumed, .. } => self.on_acknowledged(*resumed),
            ClientEvent::Begin { .. } => self.is_held = true,
            ClientEvent::End { origin, .. } => self.on_end(*origin, now),
            _ => {}
        }
        self.told.push_back(BookEvent::Other(Box::new(event)));
    }

    /// What there is to know. Take it before the next event is fed, and views are as after it.
    pub fn poll_event(&mut self) -> Option<BookEvent> {
        self.told.pop_front()
    }

    /// True when a snapshot of the subscription is to be asked for ([`crate::core::Core::snapshot_again`]).
    /// The first time at once, then after pauses that grow up to half a minute while books stay broken.
    pub fn poll_resync(&mut self, now: u64) -> bool {
        if !self.wants_resync() || now < self.ask_at {
            return false;
        }
        self.ask_at = now.saturating_add(self.pause);
        self.pause = (self.pause * 2).min(RESYNC_NS_MAX);
        true
    }

    /// When to call [`Books::poll_resync`] again; `None` when that depends on events alone.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.wants_resync().then_some(self.ask_at)
    }

    /// The best levels of a book, as many as are looked at; `None` while it is not known to be right.
    #[must_use]
    pub fn view(&self, topic: &str) -> Option<Top<'_>> {
        self.book(topic).map(|book| book.top(self.depth))
    }

    /// A whole book; `None` while it is not known to be right.
    #[must_use]
    pub fn book(&self, topic: &str) -> Option<&Book> {
        self.books.get(topic).filter(|kept| kept.is_shown).map(|kept| &kept.book)
    }

    /// The sequence of the last message that a book has in it, if it is shown.
    #[must_use]
    pub fn sequence(&self, topic: &str) -> Option<u64> {
        self.books.get(topic).filter(|kept| kept.is_shown).map(|kept| kept.sequence)
    }

    /// Every topic of which something came, and whether its book is shown.
    pub fn topics(&self) -> impl Iterator<Item = (&Topic, bool)> {
        self.books.iter().map(|(topic, kept)| (topic, kept.is_shown))
    }

    fn wants_resync(&self) -> bool {
        self.broken > 0 && !self.is_away && !self.is_held
    }

    fn on_data(&mut self, data: &Data, now: u64) {
        let message = match data.message() {
            Ok(Message::OrderBook(message)) => message,
            Ok(_) => return,
            Err(error) => return self.break_one(&data.topic, Broken::Unreadable(error), true),
        };
        let sequence = data.sequence();
        let is_snapshot = message.kind == BookKind::SNAPSHOT;
        if !self.books.contains_key(&data.topic) {
            let (book, class) = (Book::new(), data.class);
            let kept = Kept { book, class, sequence: 0, is_shown: false, has_changed: false };
            self.books.insert(data.topic.clone(), kept);
            self.broken += 1;
        }
        let kept = self.books.get_mut(&data.topic).expect("just seen");
        if kept.class != data.class {
            if !is_snapshot {
                return;
            }
            (kept.class, kept.sequence) = (data.class, 0);
        }
        let was_sound = kept.book.is_sound();
        if was_sound {
            if sequence <= kept.sequence {
                // On its way before a snapshot that goes beyond it, or part of one.
                return;
            }
            let expected = kept.sequence + 1;
            if !is_snapshot && sequence != expected {
                let missing = Broken::Missing { from: expected, through: sequence - 1, reason: None };
                return self.break_one(&data.topic, missing, false);
            }
        } else if !is_snapshot {
            return;
        }
        match kept.book.apply(&message) {
            Ok(place) => {
                kept.sequence = sequence;
                kept.has_changed |= place < self.depth;
                if !self.is_held {
                    show(&data.topic, kept, &mut self.told);
                }
                if !was_sound {
                    self.broken -= 1;
                    self.settle(now);
                }
            }
            Err(error) => self.break_one(&data.topic, Broken::Wrong(error), true),
        }
    }

    fn on_gap(&mut self, gap: &Gap) {
        if gap.healed {
            return;
        }
        let Some(kept) = self.books.get(&gap.topic) else { return };
        // A range that a snapshot goes beyond is nothing to it. Of other epochs or without numbers, nobody knows.
        let is_behind = gap.from > 0 && gap.through > 0 && gap.through <= kept.sequence;
        if kept.class != gap.class || is_behind {
            return;
        }
        let known = gap.from > 0 && gap.through > 0;
        let (from, through) = if known { (gap.from, gap.through) } else { (0, 0) };
        let missing = Broken::Missing { from, through, reason: Some(gap.reason) };
        self.break_one(&gap.topic, missing, false);
    }

    /// The books stay as they are, to go on with when what was missed comes, but are not shown.
    fn on_away(&mut self) {
        self.is_away = true;
        self.is_held = true;
        for (topic, kept) in &mut self.books {
            if std::mem::take(&mut kept.is_shown) {
                let (topic, reason) = (topic.clone(), Broken::Disconnected);
                self.told.push_back(BookEvent::Broken { topic, reason });
            }
        }
    }

    fn on_acknowledged(&mut self, resumed: bool) {
        if !self.is_away {
            return;
        }
        self.is_away = false;
        // What a resume missed comes as a replay. Otherwise nothing is known of what lies between.
        if !resumed {
            self.is_held = false;
            self.books.values_mut().for_each(|kept| kept.book.clear());
            self.broken = self.books.len();
        }
    }

    fn on_end(&mut self, origin: Origin, now: u64) {
        self.is_held = false;
        for (topic, kept) in &mut self.books {
            if kept.book.is_sound() {
                show(topic, kept, &mut self.told);
            }
        }
        if origin == Origin::Replay {
            // What a replay did not bring back is asked for at once.
            self.ask_at = self.ask_at.min(now);
        }
    }

    /// A book is sound again: once all are, pauses begin anew.
    fn settle(&mut self, now: u64) {
        if self.broken == 0 {
            self.pause = RESYNC_NS;
            self.ask_at = self.ask_at.min(now.saturating_add(RESYNC_NS));
        }
    }

    /// Gives a book up. `always` tells of it also when it was not sound before.
    fn break_one(&mut self, topic: &Topic, reason: Broken, always: bool) {
        let Some(kept) = self.books.get_mut(topic) else { return };
        // Who applied a wrong message has emptied it already.
        let was_shown = std::mem::take(&mut kept.is_shown);
        kept.book.clear();
        self.broken = self.books.values().filter(|kept| !kept.book.is_sound()).count();
        if was_shown || always {
            self.told.push_back(BookEvent::Broken { topic: topic.clone(), reason });
        }
    }
}

/// Tells of a sound book what is new about it.
fn show(topic: &Topic, kept: &mut Kept, told: &mut VecDeque<BookEvent>) {
    let topic = || topic.clone();
    if !std::mem::replace(&mut kept.is_shown, true) {
        told.push_back(BookEvent::Fresh { topic: topic() });
    } else if kept.has_changed {
        told.push_back(BookEvent::Changed { topic: topic() });
    }
    kept.has_changed = false;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tickcast_protocol::field::Timestamp;
    use tickcast_protocol::message::Level;
    use tickcast_protocol::{Decimal, frame};

    use super::*;
    use crate::core::SubscriptionKey;

    const TOPIC: &str = "order_book.A";
    const KEY: SubscriptionKey = SubscriptionKey(1);

    /// What a publisher has said, and the book behind each message.
    struct Walk {
        said: Vec<OrderBook>,
        books: Vec<Book>,
        state: u64,
    }

    impl Walk {
        fn new(seed: u64) -> Self {
            Self { said: vec![], books: vec![], state: seed }
        }

        fn random(&mut self, below: u64) -> u64 {
            self.state =
                self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.state >> 33) % below
        }

        /// The next message; its sequence is its place, counted from 1.
        fn step(&mut self, snapshot: bool) {
            let mut book = self.books.last().cloned().unwrap_or_default();
            let message = if snapshot || self.said.is_empty() {
                book.snapshot("A", Timestamp(0))
            } else {
                let mut level = |sign: i32| {
                    let away = self.random(12) as i32 + 1;
                    let quantity = self.random(4) as i32;
                    Level { price: Decimal::from(100 + sign * away), quantity: Decimal::from(quantity) }
                };
                let (bids, asks) = (vec![level(-1)], vec![level(1), level(1)]);
                OrderBook { kind: BookKind::DELTA, bids, asks, ..book.snapshot("A", Timestamp(0)) }
            };
            let sealed = book.seal(message).unwrap();
            self.said.push(sealed);
            self.books.push(book);
        }

        fn data(&self, sequence: u64, origin: Origin) -> ClientEvent {
            data(&self.said[sequence as usize - 1], sequence, origin)
        }

        /// The snapshot a server has at `sequence`, between its brackets, by the sequences in it.
        fn chain(&self, sequence: u64) -> std::ops::RangeInclusive<u64> {
            let is_base = |at: &u64| self.said[*at as usize - 1].kind == BookKind::SNAPSHOT;
            (1..=sequence).rev().find(is_base).unwrap()..=sequence
        }

        fn answer(&self, sequence: u64, books: &mut Books) {
            books.on_event(begin(Origin::Snapshot), 0);
            self.chain(sequence).for_each(|at| books.on_event(self.data(at, Origin::Snapshot), 0));
            books.on_event(end(Origin::Snapshot), 0);
        }
    }

    fn topic() -> Topic {
        Topic::parse(TOPIC).unwrap()
    }

    fn data(message: &OrderBook, sequence: u64, origin: Origin) -> ClientEvent {
        let (payload, mut header) = frame::payload(&Message::from(message.clone()));
        header.sequence = sequence;
        ClientEvent::Data(Data {
            subscription: KEY,
            topic: topic(),
            class: Class::Ordered,
            origin,
            header,
            payload: Bytes::from(payload),
            received_at: 0,
        })
    }

    fn gap(from: u64, through: u64, reason: GapReason) -> ClientEvent {
        ClientEvent::Gap(Gap {
            subscription: KEY,
            topic: topic(),
            class: Class::Ordered,
            from,
            through,
            gapped: 1,
            conflated: 0,
            reason,
            healed: false,
            since: 0,
            at: 0,
        })
    }

    fn begin(origin: Origin) -> ClientEvent {
        ClientEvent::Begin { subscription: KEY, origin, events: 0 }
    }

    fn end(origin: Origin) -> ClientEvent {
        ClientEvent::End { subscription: KEY, origin }
    }

    fn away() -> ClientEvent {
        let (from, to) = (SubscriptionState::Live, SubscriptionState::Subscribing);
        ClientEvent::Subscription { subscription: KEY, from, to }
    }

    fn acknowledged(resumed: bool) -> ClientEvent {
        let epoch = tickcast_protocol::Epoch(1);
        ClientEvent::Acknowledged { subscription: KEY, streams: 1, epoch, resumed }
    }

    /// What was told of books, in words.
    fn told(books: &mut Books) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(event) = books.poll_event() {
            match event {
                BookEvent::Fresh { .. } => told.push("fresh".to_owned()),
                BookEvent::Changed { .. } => told.push("changed".to_owned()),
                BookEvent::Broken { reason, .. } => told.push(reason.to_string()),
                BookEvent::Other(_) => {}
            }
        }
        told
    }

    /// A walk of so many messages that begins with a snapshot, and books that have them all.
    fn followed(through: u64) -> (Walk, Books) {
        let (mut walk, mut books) = (Walk::new(7), Books::new(usize::MAX));
        (0..through).for_each(|_| walk.step(false));
        walk.answer(through, &mut books);
        assert_eq!(told(&mut books), ["fresh"]);
        assert!(!books.poll_resync(0));
        (walk, books)
    }

    #[test]
    fn a_delta_that_did_not_come_hides_the_book_until_a_snapshot_and_what_follows_it() {
        for is_told in [true, false] {
            let (mut walk, mut books) = followed(5);
            (0..5).for_each(|_| walk.step(false));
            books.on_event(walk.data(6, Origin::Live), 0);
            assert_eq!((told(&mut books), books.sequence(TOPIC)), (vec!["changed".to_owned()], Some(6)));
            if is_told {
                books.on_event(gap(7, 8, GapReason::OutboxFull), 0);
            }
            books.on_event(walk.data(9, Origin::Live), 0);
            assert_eq!(told(&mut books), ["seq 7 to 8 are missing"]);
            assert!(books.book(TOPIC).is_none() && books.view(TOPIC).is_none());
            assert!(books.poll_resync(0));
            assert!(!books.poll_resync(0), "asked already");
            // Nothing is told of what lies in the past.
            books.on_event(begin(Origin::Snapshot), 0);
            walk.chain(10).for_each(|at| books.on_event(walk.data(at, Origin::Snapshot), 0));
            assert!(told(&mut books).is_empty() && books.book(TOPIC).is_none());
            books.on_event(end(Origin::Snapshot), 0);
            assert_eq!(told(&mut books), ["fresh"]);
            assert_eq!(books.book(TOPIC), Some(&walk.books[9]));
            // On its way before the snapshot, and a notice about it.
            books.on_event(walk.data(10, Origin::Live), 0);
            books.on_event(gap(9, 9, GapReason::OutboxFull), 0);
            assert!(told(&mut books).is_empty() && books.book(TOPIC) == Some(&walk.books[9]));
        }
    }

    #[test]
    fn a_wrong_delta_hides_the_book_and_a_live_snapshot_brings_it_back() {
        let (mut walk, mut books) = followed(3);
        walk.step(false);
        let mut wrong = walk.said[3].clone();
        wrong.checksum = wrong.checksum.map(|sum| sum ^ 1);
        books.on_event(data(&wrong, 4, Origin::Live), 0);
        let said = told(&mut books);
        assert!(said.len() == 1 && said[0].starts_with("checksum "), "{said:?}");
        assert!(books.book(TOPIC).is_none());
        walk.step(false);
        walk.step(true);
        books.on_event(walk.data(5, Origin::Live), 0);
        assert!(told(&mut books).is_empty(), "a delta is nothing to a book that is not there");
        books.on_event(walk.data(6, Origin::Live), 0);
        assert_eq!(told(&mut books), ["fresh"]);
        assert_eq!(books.book(TOPIC), Some(&walk.books[5]));
        assert_eq!(books.poll_timeout(), None);
    }

    #[test]
    fn what_cannot_be_read_hides_the_book() {
        let (_, mut books) = followed(3);
        let ClientEvent::Data(mut broken) = data(&Book::new().snapshot("A", Timestamp(0)), 4, Origin::Live)
        else {
            unreachable!()
        };
        broken.payload = Bytes::from_static(b"???");
        books.on_event(ClientEvent::Data(broken), 0);
        assert!(matches!(books.poll_event(), Some(BookEvent::Broken { reason: Broken::Unreadable(_), .. })));
        assert!(books.book(TOPIC).is_none());
    }

    #[test]
    fn pauses_between_requests_grow_and_begin_anew_when_all_is_well() {
        let (mut walk, mut books) = followed(2);
        walk.step(true);
        books.on_event(gap(3, 3, GapReason::Lapped), 0);
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(books.poll_resync(now));
            // The server has nothing to bring it back with.
            books.on_event(begin(Origin::Snapshot), now);
            assert_eq!(books.poll_timeout(), None, "an answer is on its way");
            books.on_event(end(Origin::Snapshot), now);
            let next = books.poll_timeout().unwrap();
            assert!(!books.poll_resync(next - 1));
            pauses.push((next - now) / RESYNC_NS);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        now += 1;
        assert!(books.poll_resync(now));
        books.on_event(walk.data(3, Origin::Live), now);
        assert_eq!(books.sequence(TOPIC), Some(3));
        books.on_event(gap(4, 4, GapReason::Lapped), now);
        assert_eq!(books.poll_timeout(), Some(now + RESYNC_NS));
    }

    #[test]
    fn a_resume_goes_on_where_the_book_stood() {
        let (mut walk, mut books) = followed(3);
        (0..3).for_each(|_| walk.step(false));
        books.on_event(away(), 0);
        assert_eq!(told(&mut books), ["the connection is gone"]);
        assert!(books.book(TOPIC).is_none());
        assert_eq!(books.poll_timeout(), None, "there is nobody to ask");
        books.on_event(acknowledged(true), 0);
        books.on_event(begin(Origin::Replay), 0);
        (4..=6).for_each(|at| books.on_event(walk.data(at, Origin::Replay), 0));
        assert!(told(&mut books).is_empty());
        books.on_event(end(Origin::Replay), 0);
        assert_eq!(told(&mut books), ["fresh"]);
        assert_eq!(books.book(TOPIC), Some(&walk.books[5]));
    }

    #[test]
    fn a_resume_that_brings_less_is_followed_by_a_request() {
        let (mut walk, mut books) = followed(3);
        (0..3).for_each(|_| walk.step(false));
        books.on_event(away(), 0);
        books.on_event(acknowledged(true), 0);
        books.on_event(begin(Origin::Replay), 0);
        books.on_event(gap(4, 4, GapReason::HistoryGone), 0);
        (5..=6).for_each(|at| books.on_event(walk.data(at, Origin::Replay), 0));
        books.on_event(end(Origin::Replay), 0);
        assert!(books.book(TOPIC).is_none() && books.poll_resync(0));
        walk.answer(6, &mut books);
        assert_eq!(books.book(TOPIC), Some(&walk.books[5]));
    }

    #[test]
    fn a_new_epoch_begins_with_its_own_snapshot() {
        let (_, mut books) = followed(30);
        let (mut walk, _) = followed(2);
        books.on_event(away(), 0);
        books.on_event(gap(31, 0, GapReason::EpochChanged), 0);
        books.on_event(acknowledged(false), 0);
        told(&mut books);
        walk.answer(2, &mut books);
        assert_eq!(told(&mut books), ["fresh"]);
        walk.step(false);
        books.on_event(walk.data(3, Origin::Live), 0);
        assert_eq!(books.book(TOPIC), Some(&walk.books[2]));
    }

    #[test]
    fn what_changes_below_the_view_is_not_told() {
        let mut books = Books::new(1);
        let level = |price: i32, quantity: i32| Level { price: price.into(), quantity: quantity.into() };
        let mut book = Book::new();
        let whole = Book::new().snapshot("A", Timestamp(0));
        let bids = vec![level(10, 1), level(9, 1)];
        let whole = book.seal(OrderBook { bids, ..whole }).unwrap();
        books.on_event(data(&whole, 1, Origin::Live), 0);
        for (sequence, bids, expected) in
            [(2, vec![level(9, 2)], &[][..]), (3, vec![level(10, 3)], &["changed"][..])]
        {
            told(&mut books);
            let delta = OrderBook { kind: BookKind::DELTA, bids, ..whole.clone() };
            books.on_event(data(&book.seal(delta).unwrap(), sequence, Origin::Live), 0);
            assert_eq!(told(&mut books), expected);
        }
        assert_eq!(books.view(TOPIC).unwrap().bids, [level(10, 3)]);
        assert_eq!(books.book(TOPIC), Some(&book));
    }

    /// What a server may do to one event.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Comes,
        /// And it is said.
        Lost,
        /// And nobody says so.
        Swallowed,
        Corrupted,
        /// The connection ends behind it, and what follows is replayed up to the next one.
        Cut,
    }

    proptest! {
        #[test]
        fn what_is_shown_is_always_what_the_publisher_had(
            seed: u64,
            fates in prop::collection::vec(prop_oneof![
                20 => Just(Fate::Comes), 1 => Just(Fate::Lost), 1 => Just(Fate::Swallowed),
                1 => Just(Fate::Corrupted), 1 => Just(Fate::Cut),
            ], 1..150),
            every in 3u64..40,
            // So many events later the server answers.
            delay in 0u64..5,
        ) {
            let (mut walk, mut books) = (Walk::new(seed), Books::new(usize::MAX));
            let check = |books: &Books, walk: &Walk, after: &str| {
                if let Some(sequence) = books.sequence(TOPIC) {
                    let right = &walk.books[sequence as usize - 1];
                    prop_assert_eq!(books.book(TOPIC), Some(right), "{}", after);
                }
                Ok(())
            };
            walk.step(true);
            walk.answer(1, &mut books);
            let mut answer_at = u64::MAX;
            let mut replay_from = None;
            for (at, fate) in fates.iter().enumerate() {
                let sequence = at as u64 + 2;
                let now = sequence * 2 * RESYNC_NS_MAX;
                walk.step(sequence.is_multiple_of(every));
                if let Some(from) = replay_from.take() {
                    books.on_event(acknowledged(true), now);
                    books.on_event(begin(Origin::Replay), now);
                    (from..sequence).for_each(|at| books.on_event(walk.data(at, Origin::Replay), now));
                    books.on_event(end(Origin::Replay), now);
                }
                match fate {
                    Fate::Comes => books.on_event(walk.data(sequence, Origin::Live), now),
                    Fate::Lost => books.on_event(gap(sequence, sequence, GapReason::OutboxFull), now),
                    Fate::Swallowed => {}
                    Fate::Corrupted => {
                        let mut wrong = walk.said[at + 1].clone();
                        // A sum that is wrong is noticed whatever else is.
                        wrong.checksum = wrong.checksum.map(|sum| sum.wrapping_add(1));
                        wrong.bids.truncate(at % 2);
                        books.on_event(data(&wrong, sequence, Origin::Live), now);
                    }
                    Fate::Cut => {
                        books.on_event(away(), now);
                        (replay_from, answer_at) = (Some(sequence), u64::MAX);
                    }
                }
                check(&books, &walk, "an event")?;
                if books.poll_resync(now) {
                    answer_at = sequence + delay;
                }
                if sequence >= answer_at {
                    answer_at = u64::MAX;
                    walk.answer(sequence, &mut books);
                    prop_assert_eq!(books.sequence(TOPIC), Some(sequence), "brought back");
                    check(&books, &walk, "an answer")?;
                }
                // Every event that hides or shows the book is told.
                let is_shown = books.book(TOPIC).is_some();
                while let Some(event) = books.poll_event() {
                    if books.told.iter().all(|event| matches!(event, BookEvent::Other(_))) {
                        match event {
                            BookEvent::Fresh { .. } | BookEvent::Changed { .. } => prop_assert!(is_shown),
                            BookEvent::Broken { .. } => prop_assert!(!is_shown),
                            BookEvent::Other(_) => {}
                        }
                    }
                }
            }
        }
    }
}
