use std::collections::BTreeMap;

use tickcast_protocol::Decimal;
use tickcast_protocol::message::BookKind;

use super::*;

const STREAM: StreamId = StreamId(7);

/// A book as one would write it down: price to quantity, nothing clever.
#[derive(Clone, Default)]
struct Naive {
    bids: BTreeMap<i64, i64>,
    asks: BTreeMap<i64, i64>,
    depth: usize,
}

impl Naive {
    fn top(&self, levels: usize) -> [Vec<Level>; 2] {
        let level = |(price, quantity): (&i64, &i64)| level(*price, *quantity);
        let most = levels.min(self.depth);
        [
            self.bids.iter().rev().take(most).map(level).collect(),
            self.asks.iter().take(most).map(level).collect(),
        ]
    }

    /// What falls out of the depth is forgotten.
    fn cut(&mut self) {
        while self.bids.len() > self.depth {
            self.bids.pop_first();
        }
        while self.asks.len() > self.depth {
            self.asks.pop_last();
        }
    }
}

fn level(price: i64, quantity: i64) -> Level {
    Level { price: Decimal::new(price, -1).unwrap(), quantity: Decimal::new(quantity, 0).unwrap() }
}

fn message(kind: BookKind, bids: Vec<Level>, asks: Vec<Level>) -> OrderBook {
    OrderBook {
        symbol: "A".into(),
        ts: Timestamp(0),
        kind,
        bids,
        asks,
        checksum: None,
        depth: None,
        venue: None,
        instrument_id: None,
    }
}

fn snapshot(bids: &[(i64, i64)], asks: &[(i64, i64)]) -> OrderBook {
    let side =
        |levels: &[(i64, i64)]| levels.iter().map(|(price, quantity)| level(*price, *quantity)).collect();
    message(BookKind::SNAPSHOT, side(bids), side(asks))
}

fn delta(bids: &[(i64, i64)], asks: &[(i64, i64)]) -> OrderBook {
    OrderBook { kind: BookKind::DELTA, ..snapshot(bids, asks) }
}

fn settle(views: &mut Views) -> Vec<Made> {
    let mut made = Vec::new();
    views.settle(|one| made.push(one));
    made
}

/// Depth and both sides of each view; panics at anything else.
fn shown(made: Vec<Made>) -> Vec<(u32, [Vec<Level>; 2])> {
    let view = |made| match made {
        Made::View { view, .. } => (view.depth, [view.bids, view.asks]),
        other => panic!("{other:?} is no view"),
    };
    made.into_iter().map(view).collect()
}

fn depths(made: Vec<Made>) -> Vec<u32> {
    shown(made).into_iter().map(|(depth, _)| depth).collect()
}

fn states(made: &[Made]) -> Vec<StreamState> {
    let state = |made: &Made| match made {
        Made::Stands { state, .. } => Some(*state),
        Made::View { .. } => None,
    };
    made.iter().filter_map(state).collect()
}

fn status(state: StreamState, reason: StateReason) -> Status {
    Status { state, reason, since: 5, ..Status::live() }
}

/// Changes a few levels of a book whose bids lie below 1,000 and whose asks above, and says what it changed.
fn walk(naive: &mut Naive, random: &mut fastrand::Rng) -> OrderBook {
    if random.u8(..20) == 0 {
        // Another book: sometimes of other depth, sometimes empty, sometimes the same again.
        match random.u8(..3) {
            0 => *naive = Naive { depth: 1 + random.usize(..30), ..Naive::default() },
            1 => naive.depth = 1_024,
            _ => {}
        }
        naive.cut();
        let [bids, asks] = naive.top(usize::MAX);
        let depth = Some(naive.depth as u32);
        return OrderBook { depth, ..message(BookKind::SNAPSHOT, bids, asks) };
    }
    let mut side = |levels: &mut BTreeMap<i64, i64>, sign: i64| -> Vec<Level> {
        let count = random.usize(..4);
        let changes = (0..count).map(|_| {
            let price = 1_000 + sign * random.i64(1..60);
            let quantity = random.i64(-3..4).max(0);
            match quantity {
                0 => drop(levels.remove(&price)),
                _ => drop(levels.insert(price, quantity)),
            }
            level(price, quantity)
        });
        changes.collect()
    };
    let (bids, asks) = (side(&mut naive.bids, -1), side(&mut naive.asks, 1));
    naive.cut();
    message(BookKind::DELTA, bids, asks)
}

#[test]
fn every_view_is_the_top_of_the_naive_book_and_none_is_told_twice() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut views = Views::new(&[10, 1, 25], 1);
        let mut naive = Naive { depth: 1_024, ..Naive::default() };
        let mut told: BTreeMap<u32, [Vec<Level>; 2]> = BTreeMap::new();
        let (mut sequence, mut is_sound, mut is_stale) = (0, false, false);
        for _ in 0..300 {
            for _ in 0..random.usize(..6) {
                sequence += 1;
                match random.u8(..60) {
                    0 => {
                        // It is another book after what was missed, and nobody knows which.
                        walk(&mut naive, &mut random);
                        views.missing(STREAM);
                        is_sound = false;
                    }
                    1 => {
                        let wrong = OrderBook { checksum: Some(1), ..delta(&[], &[]) };
                        assert_eq!(views.event(STREAM, sequence, wrong), Outcome::Broken, "seed {seed}");
                        is_sound = false;
                    }
                    _ => {
                        let message = walk(&mut naive, &mut random);
                        is_sound |= message.kind == BookKind::SNAPSHOT;
                        let outcome = views.event(STREAM, sequence, message);
                        assert_eq!(outcome == Outcome::Applied, is_sound, "seed {seed}");
                    }
                }
            }
            let made = settle(&mut views);
            if !is_sound {
                // Once, and only where there is something that does not hold any more.
                let expected = if is_stale || told.is_empty() { 0 } else { 1 };
                assert_eq!((states(&made).len(), made.len()), (expected, expected), "seed {seed}");
                is_stale |= expected == 1;
                continue;
            }
            if is_stale {
                assert_eq!(made.len(), 3, "seed {seed}: each depth comes back");
                told.clear();
                is_stale = false;
            }
            for made in made {
                let Made::View { view, .. } = made else { panic!("seed {seed}: {made:?}") };
                let now = [view.bids, view.asks];
                let top = Top { bids: &now[0], asks: &now[1] };
                assert_eq!(view.checksum, Some(top.checksum()));
                let before = told.insert(view.depth, now);
                assert_ne!(before.as_ref(), told.get(&view.depth), "seed {seed}: told twice");
            }
            if sequence > 0 {
                for depth in [1, 10, 25] {
                    assert_eq!(told[&depth], naive.top(depth as usize), "seed {seed}, sequence {sequence}");
                }
            }
        }
    }
}

#[test]
fn a_turn_tells_the_newest_view_of_the_depths_that_changed() {
    let mut views = Views::new(&[1, 3], 9);
    let first = snapshot(&[(10, 1), (9, 1), (8, 1), (7, 1)], &[(11, 1)]);
    let with_more = OrderBook { venue: Some("X".into()), instrument_id: Some(4), ..first };
    views.event(STREAM, 1, with_more);
    let made = settle(&mut views);
    let Some(Made::View { view, is_replay: false, book: STREAM }) = made.last() else { panic!("{made:?}") };
    assert_eq!((view.depth, view.book_sequence, view.venue.as_deref()), (3, 1, Some("X")));
    assert_eq!((view.bids.len(), view.asks.len(), view.instrument_id), (3, 1, Some(4)));
    assert_eq!(depths(made), [1, 3]);
    for (number, (message, expected)) in [
        (delta(&[(9, 2)], &[]), &[3][..]),
        (delta(&[(7, 2)], &[]), &[]),
        (delta(&[(10, 1)], &[]), &[]),
        (delta(&[(10, 2)], &[]), &[1, 3]),
        (delta(&[], &[(12, 1)]), &[3]),
        (delta(&[], &[(12, 0)]), &[3]),
        // The same book again, whole.
        (snapshot(&[(10, 2), (9, 2), (8, 1), (7, 5)], &[(11, 1)]), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        views.event(STREAM, 2 + number as u64, message);
        assert_eq!(depths(settle(&mut views)), expected, "message {number}");
    }
    views.event(STREAM, 9, delta(&[(10, 5)], &[]));
    views.event(STREAM, 10, delta(&[(10, 6)], &[]));
    let made = settle(&mut views);
    assert_eq!(made.len(), 2, "one a depth, for both");
    assert!(made.iter().all(|made| matches!(made, Made::View { view, .. } if view.book_sequence == 10)));
    views.event(STREAM, 11, delta(&[(10, 7)], &[]));
    views.event(STREAM, 12, delta(&[(10, 6)], &[]));
    assert_eq!(settle(&mut views), [], "what is as before is not told");
}

#[test]
fn a_broken_book_tells_nothing_until_a_snapshot_and_then_all_depths() {
    let mut views = Views::new(&[1, 3], 9);
    views.event(STREAM, 1, delta(&[(9, 1)], &[]));
    assert_eq!(settle(&mut views), [], "there are no views that could be stale");
    views.event(STREAM, 2, snapshot(&[(10, 1)], &[]));
    assert_eq!(depths(settle(&mut views)), [1, 3]);
    assert!(views.missing(STREAM));
    assert!(!views.missing(STREAM), "it is broken already");
    let made = settle(&mut views);
    assert_eq!(states(&made), [StreamState::STALE]);
    assert!(matches!(made[..], [Made::Stands { reason: StateReason::UPSTREAM, .. }]));
    views.event(STREAM, 5, delta(&[(10, 2)], &[]));
    assert_eq!(settle(&mut views), []);
    // Broken and mended within a turn: nobody need know.
    views.event(STREAM, 6, snapshot(&[(10, 1)], &[]));
    assert_eq!(depths(settle(&mut views)), [1, 3], "what was stale comes back, as it was or not");
    views.missing(STREAM);
    views.event(STREAM, 9, snapshot(&[(10, 1)], &[]));
    assert_eq!(settle(&mut views), []);
}

#[test]
fn views_follow_the_state_of_their_book() {
    let mut views = Views::new(&[2], 9);
    views.event(STREAM, 1, snapshot(&[(10, 1)], &[]));
    assert_eq!(settle(&mut views).len(), 1);
    // A book that is quiet, as its source says, has the views it had.
    views.status(STREAM, &status(StreamState::IDLE, StateReason::VOUCHED));
    assert_eq!(settle(&mut views), []);
    views.status(STREAM, &status(StreamState::SUSPECT, StateReason::QUIET));
    let (state, reason, since) = (StreamState::SUSPECT, StateReason::UPSTREAM, Some(5));
    assert_eq!(settle(&mut views), [Made::Stands { book: STREAM, state, reason, since }]);
    views.status(STREAM, &status(StreamState::SUSPECT, StateReason::QUIET));
    assert_eq!(settle(&mut views), [], "once");
    // Its source vouches after all.
    views.status(STREAM, &status(StreamState::IDLE, StateReason::VOUCHED));
    assert_eq!(settle(&mut views).len(), 1, "an event is what makes them live again");
    views.status(STREAM, &status(StreamState::CLOSED, StateReason::SAID));
    assert_eq!(states(&settle(&mut views)), [StreamState::CLOSED]);
    // An event ends it, though it changes nothing in view.
    views.event(STREAM, 2, delta(&[(3, 0)], &[]));
    assert_eq!(settle(&mut views).len(), 1);
}

#[test]
fn views_of_a_recorded_book_are_recorded() {
    let replayed = |made: &[Made]| -> Vec<bool> {
        let replayed = |made: &Made| match made {
            Made::View { is_replay, .. } => Some(*is_replay),
            Made::Stands { .. } => None,
        };
        made.iter().filter_map(replayed).collect()
    };
    let mut views = Views::new(&[2], 9);
    views.event(STREAM, 1, snapshot(&[(10, 1)], &[]));
    settle(&mut views);
    views.status(STREAM, &status(StreamState::REPLAY, StateReason::SAID));
    assert_eq!(states(&settle(&mut views)), [StreamState::REPLAY]);
    views.event(STREAM, 2, delta(&[(10, 2)], &[]));
    let made = settle(&mut views);
    assert_eq!((replayed(&made), states(&made)), (vec![true], vec![]));
    // Broken and back: it is a replay still, and that is said before the event that would make it live.
    views.missing(STREAM);
    assert_eq!(states(&settle(&mut views)), [StreamState::STALE]);
    views.event(STREAM, 9, snapshot(&[(10, 1)], &[]));
    let made = settle(&mut views);
    assert!(matches!(made[..], [Made::Stands { state: StreamState::REPLAY, .. }, Made::View { .. }]));
    views.status(STREAM, &status(StreamState::LIVE, StateReason::EVENT));
    assert_eq!(replayed(&settle(&mut views)), [false]);
}

#[test]
fn books_past_the_bound_are_left_alone() {
    let mut views = Views::new(&[2], 1);
    assert_eq!(views.event(StreamId(1), 1, snapshot(&[], &[])), Outcome::Applied);
    assert_eq!(views.event(StreamId(2), 1, snapshot(&[], &[])), Outcome::Full);
    assert_eq!(views.event(StreamId(2), 2, snapshot(&[], &[])), Outcome::Ignored);
    assert!(!views.missing(StreamId(2)) && !views.missing(StreamId(3)));
    views.status(StreamId(2), &status(StreamState::CLOSED, StateReason::SAID));
    assert_eq!((settle(&mut views).len(), views.kept()), (1, 1));
    assert_eq!(views.event(StreamId(1), 2, delta(&[(1, 1)], &[])), Outcome::Applied);
}
