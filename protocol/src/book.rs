//! An order book: what a snapshot and the deltas behind it add up to, and a checksum that tells whether
//! they did (SPEC section 16).
//!
//! A book is either sound or empty: whatever cannot be applied empties it, and it then takes nothing but a
//! snapshot. So nobody is ever shown a book that is known to be wrong. It knows one instrument's levels and
//! nothing of streams, sequences or sockets; who keeps one for a stream sees to it that no event is missing.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use crate::decimal::Decimal;
use crate::field::{LIST_LEN_MAX, Timestamp};
use crate::message::{BookKind, Level, OrderBook};

/// Most levels of a side: as many as a snapshot can hold. A level costs 32 bytes in memory.
pub const BOOK_LEVELS_MAX: usize = LIST_LEN_MAX;
/// Levels of each side that the checksum covers.
pub const CHECKSUM_LEVELS: usize = 10;

/// The levels of one order book, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Book {
    bids: Vec<Level>,
    asks: Vec<Level>,
    /// Most levels of a side.
    depth: usize,
    /// False until there was a snapshot, and after everything that could not be applied.
    is_sound: bool,
}

/// The best levels of a book.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Top<'a> {
    /// What buyers offer, highest price first.
    pub bids: &'a [Level],
    /// What sellers ask, lowest price first.
    pub asks: &'a [Level],
}

/// Why a message cannot be applied. The book is empty then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// A delta, and there is nothing it could change.
    #[error("a delta before the first snapshot")]
    NoSnapshot,
    /// Neither snapshot nor delta.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// A depth of zero, or of more than [`BOOK_LEVELS_MAX`].
    #[error("depth {0} is not 1 to {BOOK_LEVELS_MAX}")]
    Depth(u32),
    /// A quantity below zero, or of zero in a snapshot.
    #[error("quantity {quantity} at {price}")]
    Quantity {
        /// Where.
        price: Decimal,
        /// What it says.
        quantity: Decimal,
    },
    /// A snapshot whose levels are not best first, each price once.
    #[error("price {0} of a snapshot is not behind the one before it")]
    Order(Decimal),
    /// Somebody would pay more than somebody else asks.
    #[error("crossed: bid {bid}, ask {ask}")]
    Crossed {
        /// The best bid.
        bid: Decimal,
        /// The best ask.
        ask: Decimal,
    },
    /// The checksum of the message is not that of the book.
    #[error("checksum {found:08x}, the publisher's is {said:08x}")]
    Checksum {
        /// What the message says.
        said: u32,
        /// What the book has.
        found: u32,
    },
}

impl Top<'_> {
    /// The checksum that [`Book::checksum`] has of a book whose best levels these are.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let mut sum = Crc::new();
        for side in [self.bids, self.asks] {
            let levels = best(side, CHECKSUM_LEVELS);
            sum.add(&[levels.len() as u8]);
            for value in levels.iter().flat_map(|level| [level.price, level.quantity]) {
                let value = value.trimmed();
                sum.add(&value.mantissa().to_le_bytes());
                sum.add(&value.exponent().to_le_bytes());
            }
        }
        sum.finish()
    }
}

impl Default for Book {
    fn default() -> Self {
        Self { bids: Vec::new(), asks: Vec::new(), depth: BOOK_LEVELS_MAX, is_sound: false }
    }
}

impl Book {
    /// A book that waits for its snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a snapshot or delta, and compares the checksum if there is one. Returns the best place,
    /// counted from 0, at which a side may be other than before: a view of so many levels or fewer has not
    /// changed.
    ///
    /// # Errors
    /// [`BookError`]; the book is empty then, and waits for a snapshot.
    pub fn apply(&mut self, message: &OrderBook) -> Result<usize, BookError> {
        let outcome = self.try_apply(message);
        if outcome.is_err() {
            self.clear();
        }
        outcome
    }

    /// For publishers: applies a message of their own and gives it the checksum that their subscribers
    /// must find.
    ///
    /// # Errors
    /// As for [`Book::apply`]; the message is not one to publish.
    pub fn seal(&mut self, mut message: OrderBook) -> Result<OrderBook, BookError> {
        message.checksum = None;
        self.apply(&message)?;
        message.checksum = Some(self.checksum());
        Ok(message)
    }

    /// For publishers: a snapshot of the book as it is, with its checksum.
    #[must_use]
    pub fn snapshot(&self, symbol: &str, ts: Timestamp) -> OrderBook {
        OrderBook {
            symbol: symbol.to_owned(),
            ts,
            kind: BookKind::SNAPSHOT,
            bids: self.bids.clone(),
            asks: self.asks.clone(),
            checksum: Some(self.checksum()),
            depth: (self.depth < BOOK_LEVELS_MAX).then_some(self.depth as u32),
            venue: None,
            instrument_id: None,
        }
    }

    /// Empties the book: it waits for a snapshot.
    pub fn clear(&mut self) {
        self.bids.clear();
        self.asks.clear();
        self.is_sound = false;
    }

    /// True when the book is what its publisher said, false while it waits for a snapshot.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.is_sound
    }

    /// The best levels of each side, at most so many. [`usize::MAX`] for all.
    #[must_use]
    pub fn top(&self, levels: usize) -> Top<'_> {
        Top { bids: best(&self.bids, levels), asks: best(&self.asks, levels) }
    }

    /// Most levels of a side that the publisher keeps.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// CRC-32 over the best [`CHECKSUM_LEVELS`] of each side. The same for prices and quantities of the
    /// same value, however many zeros they end with.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.top(CHECKSUM_LEVELS).checksum()
    }

    fn try_apply(&mut self, message: &OrderBook) -> Result<usize, BookError> {
        let changed = match message.kind {
            BookKind::SNAPSHOT => {
                let depth = message.depth.unwrap_or(BOOK_LEVELS_MAX as u32);
                if depth == 0 || depth as usize > BOOK_LEVELS_MAX {
                    return Err(BookError::Depth(depth));
                }
                self.depth = depth as usize;
                replace(&mut self.bids, &message.bids, Ordering::Greater)?;
                replace(&mut self.asks, &message.asks, Ordering::Less)?;
                self.is_sound = true;
                0
            }
            BookKind::DELTA if !self.is_sound => return Err(BookError::NoSnapshot),
            BookKind::DELTA => {
                let bids = change(&mut self.bids, &message.bids, Ordering::Greater)?;
                let asks = change(&mut self.asks, &message.asks, Ordering::Less)?;
                bids.min(asks)
            }
            BookKind(other) => return Err(BookError::Kind(other)),
        };
        self.bids.truncate(self.depth);
        self.asks.truncate(self.depth);
        if let (Some(bid), Some(ask)) = (self.bids.first(), self.asks.first())
            && bid.price.compare(ask.price).is_ge()
        {
            return Err(BookError::Crossed { bid: bid.price, ask: ask.price });
        }
        if let Some(said) = message.checksum {
            let found = self.checksum();
            if said != found {
                return Err(BookError::Checksum { said, found });
            }
        }
        Ok(changed)
    }
}

fn best(side: &[Level], levels: usize) -> &[Level] {
    &side[..side.len().min(levels)]
}

/// Takes a side of a snapshot over. `better` is how a price compares with those behind it.
fn replace(side: &mut Vec<Level>, levels: &[Level], better: Ordering) -> Result<(), BookError> {
    for level in levels {
        check(level)?;
        if level.quantity.mantissa() == 0 {
            return Err(BookError::Quantity { price: level.price, quantity: level.quantity });
        }
    }
    if let Some(pair) = levels.windows(2).find(|pair| pair[0].price.compare(pair[1].price) != better) {
        return Err(BookError::Order(pair[1].price));
    }
    side.clear();
    side.extend_from_slice(levels);
    Ok(())
}

/// Applies a side of a delta in order; returns the best place it touched.
fn change(side: &mut Vec<Level>, levels: &[Level], better: Ordering) -> Result<usize, BookError> {
    let mut changed = usize::MAX;
    for level in levels {
        check(level)?;
        // Worse is behind: a price that is better than the one asked about comes before it.
        let place = side.binary_search_by(|known| match known.price.compare(level.price) {
            Ordering::Equal => Ordering::Equal,
            order if order == better => Ordering::Less,
            _ => Ordering::Greater,
        });
        match place {
            Ok(at) if level.quantity.mantissa() == 0 => drop(side.remove(at)),
            Ok(at) => side[at] = level.clone(),
            // Whoever keeps more levels than we do removes some that we never had.
            Err(_) if level.quantity.mantissa() == 0 => continue,
            Err(at) => side.insert(at, level.clone()),
        }
        let (Ok(at) | Err(at)) = place;
        changed = changed.min(at);
    }
    Ok(changed)
}

fn check(level: &Level) -> Result<(), BookError> {
    if level.quantity.mantissa() < 0 {
        return Err(BookError::Quantity { price: level.price, quantity: level.quantity });
    }
    Ok(())
}

/// CRC-32 as in zlib, PNG and Ethernet: polynomial 0xEDB88320 reflected, begun and ended with all bits.
struct Crc(u32);

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { (rest >> 1) ^ 0xEDB8_8320 } else { rest >> 1 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
};

impl Crc {
    const fn new() -> Self {
        Self(u32::MAX)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 >> 8) ^ CRC_TABLE[usize::from(self.0 as u8 ^ byte)];
        }
    }

    const fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &[(&str, &str)]) -> Vec<Level> {
        let level = |(price, quantity): &(&str, &str)| Level {
            price: price.parse().unwrap(),
            quantity: quantity.parse().unwrap(),
        };
        text.iter().map(level).collect()
    }

    fn message(kind: BookKind, bids: &[(&str, &str)], asks: &[(&str, &str)]) -> OrderBook {
        OrderBook {
            symbol: "A".into(),
            ts: Timestamp(0),
            kind,
            bids: levels(bids),
            asks: levels(asks),
            checksum: None,
            depth: None,
            venue: None,
            instrument_id: None,
        }
    }

    fn snapshot(bids: &[(&str, &str)], asks: &[(&str, &str)]) -> OrderBook {
        message(BookKind::SNAPSHOT, bids, asks)
    }

    fn delta(bids: &[(&str, &str)], asks: &[(&str, &str)]) -> OrderBook {
        message(BookKind::DELTA, bids, asks)
    }

    fn book() -> Book {
        let mut book = Book::new();
        let whole = snapshot(&[("10", "1"), ("9.5", "2"), ("9", "3")], &[("10.5", "1"), ("11", "2")]);
        assert_eq!(book.apply(&whole), Ok(0));
        book
    }

    #[test]
    fn the_crc_is_that_of_zlib() {
        let mut sum = Crc::new();
        sum.add(b"1234");
        sum.add(b"56789");
        assert_eq!(sum.finish(), 0xCBF4_3926);
    }

    #[test]
    fn deltas_set_insert_and_remove() {
        let mut book = book();
        assert_eq!(book.apply(&delta(&[("9.50", "7")], &[])), Ok(1));
        assert_eq!(book.apply(&delta(&[("9.7", "4"), ("9", "0")], &[("12", "1")])), Ok(1));
        assert_eq!(book.apply(&delta(&[], &[("10.5", "0.00")])), Ok(0));
        assert_eq!(book.apply(&delta(&[("1", "0")], &[])), Ok(usize::MAX), "it was never there");
        let top = book.top(usize::MAX);
        assert_eq!(top.bids, levels(&[("10", "1"), ("9.7", "4"), ("9.50", "7")]));
        assert_eq!(top.asks, levels(&[("11", "2"), ("12", "1")]));
        assert_eq!(book.top(1), Top { bids: &top.bids[..1], asks: &top.asks[..1] });
    }

    #[test]
    fn what_cannot_be_applied_empties_the_book_until_a_snapshot() {
        let mut tall = snapshot(&[], &[]);
        tall.depth = Some(1_025);
        let mut wrong_sum = delta(&[("9", "1")], &[]);
        wrong_sum.checksum = Some(7);
        let found = {
            let mut book = book();
            book.apply(&delta(&[("9", "1")], &[])).unwrap();
            book.checksum()
        };
        let one = |text: &str| text.parse::<Decimal>().unwrap();
        for (message, error) in [
            (delta(&[("10.5", "1")], &[]), BookError::Crossed { bid: one("10.5"), ask: one("10.5") }),
            (delta(&[("9", "-1")], &[]), BookError::Quantity { price: one("9"), quantity: one("-1") }),
            (snapshot(&[], &[("9", "0.0")]), BookError::Quantity { price: one("9"), quantity: one("0.0") }),
            (snapshot(&[("9", "1"), ("9.0", "1")], &[]), BookError::Order(one("9.0"))),
            (snapshot(&[], &[("9", "1"), ("8", "1")]), BookError::Order(one("8"))),
            (message(BookKind(9), &[], &[]), BookError::Kind(9)),
            (tall, BookError::Depth(1_025)),
            (wrong_sum, BookError::Checksum { said: 7, found }),
        ] {
            let mut book = book();
            assert_eq!(book.apply(&message), Err(error));
            assert!(!book.is_sound());
            assert_eq!(book.top(9), Top { bids: &[], asks: &[] });
            assert_eq!(book.apply(&delta(&[], &[])), Err(BookError::NoSnapshot));
            assert_eq!(book.apply(&snapshot(&[("-1", "1")], &[("0", "1")])), Ok(0));
            assert!(book.is_sound());
        }
    }

    #[test]
    fn what_falls_out_of_the_depth_is_forgotten() {
        let mut book = Book::new();
        let mut whole = snapshot(&[("10", "1"), ("9", "2"), ("8", "3")], &[]);
        whole.depth = Some(2);
        book.apply(&whole).unwrap();
        assert_eq!((book.top(9).bids.len(), book.depth()), (2, 2));
        book.apply(&delta(&[("11", "1")], &[])).unwrap();
        book.apply(&delta(&[("11", "0")], &[])).unwrap();
        assert_eq!(book.top(9).bids, levels(&[("10", "1")]), "the publisher says 9 again, if it is there");
        // The next snapshot says anew how many.
        book.apply(&snapshot(&[], &[])).unwrap();
        assert_eq!(book.depth(), BOOK_LEVELS_MAX);
    }

    #[test]
    fn a_sealed_message_and_a_snapshot_are_taken_by_another_book() {
        let (mut ours, mut theirs) = (book(), book());
        let sealed = ours.seal(delta(&[("9.9", "1.50")], &[("10.5", "0")])).unwrap();
        assert!(sealed.checksum.is_some());
        theirs.apply(&sealed).unwrap();
        assert_eq!(ours, theirs);
        let mut newcomer = Book::new();
        newcomer.apply(&ours.snapshot("A", Timestamp(1))).unwrap();
        assert_eq!(newcomer, ours);
        assert!(ours.seal(delta(&[("99", "1")], &[])).is_err());
    }

    #[test]
    fn the_checksum_is_of_values_not_of_spellings_and_of_the_best_ten() {
        let sum = |bids: &[(&str, &str)], asks: &[(&str, &str)]| {
            let mut book = Book::new();
            book.apply(&snapshot(bids, asks)).unwrap();
            book.checksum()
        };
        assert_eq!(sum(&[("10", "1.50")], &[]), sum(&[("1e1", "1.5")], &[]));
        assert_ne!(sum(&[("10", "1")], &[]), sum(&[("10", "2")], &[]));
        assert_ne!(sum(&[("10", "1")], &[]), sum(&[], &[("10", "1")]));
        let prices: Vec<String> = (0..11).map(|number| (100 - number).to_string()).collect();
        let eleven: Vec<(&str, &str)> = prices.iter().map(|price| (price.as_str(), "1")).collect();
        assert_eq!(sum(&eleven, &[]), sum(&eleven[..10], &[]));
        assert_ne!(sum(&eleven[..10], &[]), sum(&eleven[..9], &[]));
        // The numbers of SPEC 16.
        assert_eq!(sum(&[], &[]), 0x41D9_12FF);
    }
}
