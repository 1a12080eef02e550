//! The demo's order books: a few levels a side around the quote of an instrument, as snapshots and deltas.
//!
//! Levels lie on a grid as wide as the widest spread, so that a quote which moves takes a level or two with
//! it and not all of them.
#![forbid(unsafe_code)]

use fastrand::Rng;
use tickcast_protocol::Message;
use tickcast_protocol::book::Book as Levels;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{BookKind, Level, OrderBook, Side};

use super::book::Book;

/// Levels of a side.
pub(super) const LEVELS: i64 = 10;
/// A snapshot comes with every so many messages of a book: much more often than a subscriber could need, for
/// a demo that one looks at for a minute.
pub(super) const SNAPSHOT_EVERY: u64 = 50;

/// The order book of one instrument, as it was told.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    levels: Levels,
    told: u64,
    rng: Rng,
}

impl Ladder {
    pub(super) fn new(seed: u64) -> Self {
        Self { levels: Levels::new(), told: 0, rng: Rng::with_seed(seed) }
    }

    /// What has changed since the last message, or all of it.
    pub(super) fn next(&mut self, book: &Book, ts: i64) -> Message {
        let is_snapshot = self.told.is_multiple_of(SNAPSHOT_EVERY);
        self.told += 1;
        let kind = if is_snapshot { BookKind::SNAPSHOT } else { BookKind::DELTA };
        let [bids, asks] = [Side::BUY, Side::SELL].map(|side| self.side(book, side, is_snapshot));
        let instrument = &book.instrument;
        let message = OrderBook {
            symbol: instrument.name.clone(),
            ts: Timestamp(ts),
            kind,
            bids,
            asks,
            checksum: None,
            depth: is_snapshot.then_some(LEVELS as u32),
            venue: Some(instrument.venue.to_owned()),
            instrument_id: Some(instrument.id),
        };
        self.levels.seal(message).expect("bids end below the middle, and asks begin above it").into()
    }

    fn side(&mut self, book: &Book, side: Side, is_snapshot: bool) -> Vec<Level> {
        let grid = book.instrument.grid();
        let (price, step) = match side {
            // An order to sell meets the best bid.
            Side::BUY => (book.touch(Side::SELL).div_euclid(grid) * grid, -grid),
            _ => ((book.touch(Side::BUY) + grid - 1).div_euclid(grid) * grid, grid),
        };
        let (tick, lot, size_max) = (book.instrument.tick, book.instrument.lot, book.instrument.size_max);
        let top = self.levels.top(usize::MAX);
        let known = if side == Side::BUY { top.bids } else { top.asks };
        let changed = self.rng.i64(0..LEVELS);
        let mut levels = Vec::new();
        let mut kept = Vec::new();
        for place in 0..LEVELS {
            let price = tick.times(price + place * step);
            let old = known.iter().find(|level| level.price.compare(price).is_eq());
            kept.push(price);
            match old {
                Some(level) if place != changed => levels.extend(is_snapshot.then(|| level.clone())),
                _ => levels.push(Level { price, quantity: lot.times(self.rng.i64(1..=size_max)) }),
            }
        }
        if !is_snapshot {
            let gone =
                known.iter().filter(|level| !kept.iter().any(|price| price.compare(level.price).is_eq()));
            levels.extend(gone.map(|level| Level { price: level.price, quantity: lot.times(0) }));
        }
        levels
    }
}
