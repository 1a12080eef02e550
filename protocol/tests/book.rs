//! Order books against a naive one, and the walk that readers in other languages follow.
//!
//! `golden/book/walk.json` is a sequence of messages, each with the checksum of the book once it is
//! applied, and the levels at its end (SPEC section 16).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tickcast_protocol::book::{Book, BookError, CHECKSUM_LEVELS};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{BookKind, Level, OrderBook, View};
use tickcast_protocol::{Decimal, Message, frame};

/// Prices are whole ticks of this many decimal places, unless they are spelled with more.
const PLACES: i8 = -2;

/// A book as one would write it without a thought for speed: quantities in units of 10^-8.
#[derive(Clone, Debug, Default)]
struct Naive {
    bids: BTreeMap<i64, i64>,
    asks: BTreeMap<i64, i64>,
}

impl Naive {
    fn set(side: &mut BTreeMap<i64, i64>, price: i64, quantity: i64) {
        if quantity == 0 {
            side.remove(&price);
        } else {
            side.insert(price, quantity);
        }
    }

    /// Best first.
    fn sides(&self, depth: usize) -> [Vec<(i64, i64)>; 2] {
        let pair = |(price, quantity): (&i64, &i64)| (*price, *quantity);
        [
            self.bids.iter().rev().map(pair).take(depth).collect(),
            self.asks.iter().map(pair).take(depth).collect(),
        ]
    }

    fn cut(&mut self, depth: usize) {
        let [bids, asks] = self.sides(depth);
        self.bids = bids.into_iter().collect();
        self.asks = asks.into_iter().collect();
    }

    fn is_crossed(&self) -> bool {
        match (self.bids.last_key_value(), self.asks.first_key_value()) {
            (Some((bid, _)), Some((ask, _))) => bid >= ask,
            _ => false,
        }
    }

    /// Bit by bit, over bytes that are all there at once.
    fn checksum(&self) -> u32 {
        let mut bytes = Vec::new();
        for side in self.sides(CHECKSUM_LEVELS) {
            bytes.push(side.len() as u8);
            for (price, quantity) in side {
                for (mut mantissa, mut exponent) in [(price, PLACES), (quantity, -8)] {
                    if mantissa == 0 {
                        exponent = 0;
                    }
                    while mantissa != 0 && mantissa % 10 == 0 {
                        mantissa /= 10;
                        exponent += 1;
                    }
                    bytes.extend_from_slice(&mantissa.to_le_bytes());
                    bytes.push(exponent as u8);
                }
            }
        }
        let mut sum = u32::MAX;
        for byte in bytes {
            sum ^= u32::from(byte);
            for _ in 0..8 {
                sum = if sum & 1 == 1 { (sum >> 1) ^ 0xEDB8_8320 } else { sum >> 1 };
            }
        }
        !sum
    }
}

/// A level with `zeros` more digits than needed, which must make no difference.
fn level(price: i64, quantity: i64, zeros: u32) -> Level {
    let spelled = |mantissa: i64, exponent: i8| {
        Decimal::new(mantissa * 10i64.pow(zeros), exponent - zeros as i8).expect("few digits")
    };
    Level { price: spelled(price, PLACES), quantity: spelled(quantity, -8) }
}

fn values(levels: &[Level]) -> Vec<(i64, i64)> {
    let at = |value: Decimal, exponent: i8| {
        let shift = i32::from(value.trimmed().exponent()) - i32::from(exponent);
        value.trimmed().mantissa() * 10i64.pow(u32::try_from(shift).expect("a multiple of the unit"))
    };
    levels.iter().map(|level| (at(level.price, PLACES), at(level.quantity, -8))).collect()
}

fn message(kind: BookKind, bids: Vec<Level>, asks: Vec<Level>) -> OrderBook {
    OrderBook {
        symbol: "BTC-USD".into(),
        ts: Timestamp(1_790_000_000_000_000_000),
        kind,
        bids,
        asks,
        checksum: None,
        depth: None,
        venue: None,
        instrument_id: None,
    }
}

/// One change: is it a bid, price, quantity, zeros.
type Change = (bool, i64, i64, u32);

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    // Bids lie below 100 and asks above, but for the few that cross.
    let change = (any::<bool>(), 0i64..60, prop_oneof![1 => Just(0), 2 => 1i64..1_000_000], 0u32..3)
        .prop_map(|(is_bid, away, quantity, zeros)| {
            let price = if is_bid { 10_000 - away } else { 10_001 + away };
            (is_bid, price, quantity, zeros)
        });
    let crossing = (Just(true), 10_001i64..10_020, 1i64..9, 0u32..3);
    let any = prop_oneof![400 => change, 1 => crossing];
    prop::collection::vec(prop::collection::vec(any, 0..6), 1..60)
}

proptest! {
    #[test]
    fn a_book_is_what_the_naive_one_is(batches in changes(), depth in 1usize..40) {
        let mut book = Book::new();
        let mut naive = Naive::default();
        let mut first = message(BookKind::SNAPSHOT, vec![], vec![]);
        first.depth = Some(depth as u32);
        book.apply(&first).unwrap();
        for batch in batches {
            let before = naive.clone();
            let (mut bids, mut asks) = (vec![], vec![]);
            for (is_bid, price, quantity, zeros) in batch {
                let (side, list) =
                    if is_bid { (&mut naive.bids, &mut bids) } else { (&mut naive.asks, &mut asks) };
                Naive::set(side, price, quantity);
                list.push(level(price, quantity, zeros));
            }
            naive.cut(depth);
            let mut delta = message(BookKind::DELTA, bids, asks);
            delta.checksum = Some(naive.checksum());
            let outcome = book.apply(&delta);
            if naive.is_crossed() {
                let is_crossed = matches!(outcome, Err(BookError::Crossed { .. }));
                prop_assert!(is_crossed, "{:?}", outcome);
                prop_assert!(!book.is_sound());
                return Ok(());
            }
            let place = outcome.unwrap();
            prop_assert_eq!(before.sides(place), naive.sides(place), "nothing changed above that place");
            let top = book.top(usize::MAX);
            prop_assert_eq!([values(top.bids), values(top.asks)], naive.sides(usize::MAX));
            let mut newcomer = Book::new();
            newcomer.apply(&book.snapshot("BTC-USD", Timestamp(0))).unwrap();
            prop_assert_eq!(&newcomer, &book);
        }
    }

    #[test]
    fn a_lost_delta_is_noticed_where_it_touched_the_best_levels(
        batches in changes(), lost in any::<prop::sample::Index>(),
    ) {
        let (mut whole, mut holed) = (Book::new(), Book::new());
        let first = message(BookKind::SNAPSHOT, vec![], vec![]);
        whole.apply(&first).unwrap();
        holed.apply(&first).unwrap();
        let lost = lost.index(batches.len());
        for (number, batch) in batches.into_iter().enumerate() {
            let (mut bids, mut asks) = (vec![], vec![]);
            for (is_bid, price, quantity, zeros) in batch {
                let list = if is_bid { &mut bids } else { &mut asks };
                list.push(level(price, quantity, zeros));
            }
            let Ok(sealed) = whole.seal(message(BookKind::DELTA, bids, asks)) else { return Ok(()) };
            if number == lost {
                continue;
            }
            match holed.apply(&sealed) {
                Ok(_) => {
                    let values = |book: &Book| {
                        let top = book.top(CHECKSUM_LEVELS);
                        [values(top.bids), values(top.asks)]
                    };
                    prop_assert_eq!(values(&whole), values(&holed), "what is shown is right where it is covered");
                }
                Err(error) => {
                    let is_noticed =
                        matches!(error, BookError::Checksum { .. } | BookError::Crossed { .. });
                    prop_assert!(is_noticed, "{:?}", error);
                    return Ok(());
                }
            }
        }
    }

    #[test]
    fn any_message_is_answered(
        kinds in prop::collection::vec(0u8..4, 1..20),
        mantissa in -999_999_999_999_999_999i64..=999_999_999_999_999_999, exponent in -64i8..=64,
        quantity in -1i64..3, depth in prop::option::of(0u32..1_100), checksum in prop::option::of(any::<u32>()),
    ) {
        let mut book = Book::new();
        for (number, kind) in kinds.into_iter().enumerate() {
            let price = Decimal::new(mantissa / (number as i64 + 1), exponent).unwrap();
            let level = Level { price, quantity: Decimal::from(quantity as i32) };
            let (bids, asks) = if number % 2 == 0 { (vec![level], vec![]) } else { (vec![], vec![level]) };
            let mut any = message(BookKind(kind), bids, asks);
            (any.depth, any.checksum) = (depth, checksum);
            let outcome = book.apply(&any);
            prop_assert_eq!(outcome.is_ok(), book.is_sound());
        }
    }
}

/// A walk over a book of nine levels a side, with levels that come, change, and fall out of its depth.
fn walk() -> (Vec<OrderBook>, Book) {
    let mut state = 7u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let mut book = Book::new();
    let mut messages = Vec::new();
    for number in 0..60 {
        let next = if number % 30 == 0 {
            let side =
                |sign: i64| (1..=12).map(move |away| level(6_701_250 + sign * away, away * 150_000_000, 0));
            let mut whole = message(BookKind::SNAPSHOT, side(-1).collect(), side(1).collect());
            whole.depth = (number == 0).then_some(12);
            whole
        } else {
            let mut change = |sign: i64| {
                let away = i64::from(random(16) + 1);
                let quantity = if random(3) == 0 { 0 } else { i64::from(random(1_000)) * 1_000_000 };
                level(6_701_250 + sign * away, quantity, (away % 3) as u32)
            };
            message(BookKind::DELTA, vec![change(-1)], vec![change(1), change(1)])
        };
        messages.push(book.seal(next).expect("a walk that does not cross"));
    }
    (messages, book)
}

fn json_levels(levels: &[Level]) -> String {
    let level = |level: &Level| format!("{{\"price\":{},\"quantity\":{}}}", level.price, level.quantity);
    format!("[{}]", levels.iter().map(level).collect::<Vec<_>>().join(","))
}

#[test]
fn the_walk_is_the_one_that_other_readers_follow() {
    let (messages, book) = walk();
    let mut text = String::from("{\n\"messages\": [\n");
    for (number, message) in messages.iter().enumerate() {
        let depth = message.depth.map_or(String::new(), |depth| format!(",\"depth\":{depth}"));
        let _ = writeln!(
            text,
            "{{\"symbol\":\"{}\",\"kind\":\"{}\",\"bids\":{},\"asks\":{},\"checksum\":{}{depth}}}{}",
            message.symbol,
            message.kind.name(),
            json_levels(&message.bids),
            json_levels(&message.asks),
            message.checksum.expect("sealed"),
            if number + 1 < messages.len() { "," } else { "" },
        );
    }
    let top = book.top(usize::MAX);
    let _ =
        writeln!(text, "],\n\"bids\": {},\n\"asks\": {}\n}}", json_levels(top.bids), json_levels(top.asks));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/book/walk.json");
    if std::env::var_os("TICKCAST_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        fs::write(&path, &text).expect("it can be written");
    }
    let found =
        fs::read_to_string(&path).expect("TICKCAST_BLESS=1 cargo test -p tickcast-protocol --test book");
    assert_eq!(found, text);
}

#[test]
fn the_largest_snapshot_fits_what_a_publisher_may_send() {
    let side = |sign: i64| (1..=1_024).map(move |away| level(9_000_000_000 + sign * away, 1, 0));
    let whole = message(BookKind::SNAPSHOT, side(-1).collect(), side(1).collect());
    Book::new().apply(&whole).unwrap();
    let (payload, header) = frame::payload(&Message::from(whole));
    assert!(payload.len() < 64 * 1024, "{}", payload.len());
    View::access(header.type_id, &payload, header.root_len).unwrap().check().unwrap();
}
