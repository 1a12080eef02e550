//! The demo market: every message of a trading system, made up, the same for the same seed.
//!
//! Sans-io: [`Market::next_due`] says when something happens, [`Market::step`] says what. Time is cut
//! into slots of equal length, one message each, so the rate is exact and a late caller gets what it
//! missed, stamped with the time it was due. One step makes at most [`STEP_ACTIONS_MAX`] messages; of a
//! delay longer than [`BACKLOG_NS_MAX`] the rest is left out, and [`Step::left_out`] says how many.
//!
//! Most slots are a tick of one symbol: four quotes (`market_data`) to a trade (`public_trade`). Every tenth
//! is about the order book of one of the first three symbols (`ladder`). A slot
//! in turn is one of the other types (`scenes`), and when a UTC minute is over every second slot is a
//! closed bar until all are told. With the defaults every type is seen within three seconds; below about
//! twenty messages a second it takes longer than ten.
//!
//! Each minute has two disturbances, so that what clients show for them is seen without breaking
//! anything: one symbol goes mute for eight seconds (nobody says so; its quotes get suspect), and one quote
//! stream loses a few events on its way here (which [`Action::Skip`] says). [`Market::disturbance`]
//! tells when and which.
#![forbid(unsafe_code)]

mod book;
mod desk;
mod ladder;
mod scenes;

use fastrand::Rng;
use tickcast_protocol::message::MarketData;
use tickcast_protocol::{Message, Topic};

use book::{Book, MINUTE_NS, instrument};
use desk::Desk;
use ladder::Ladder;
use scenes::{CYCLE, Scenes, World};

/// Most messages of one step; the next step goes on at once.
pub const STEP_ACTIONS_MAX: usize = 4_096;
/// Longest delay that is made up for, in nanoseconds.
pub const BACKLOG_NS_MAX: i64 = SECOND_NS;
/// Most symbols: each costs about 600 bytes, and a closed bar a minute.
pub const SYMBOLS_MAX: usize = 10_000;
/// Most messages a second.
pub const MESSAGES_PER_SECOND_MAX: u32 = 1_000_000;

const SECOND_NS: i64 = 1_000_000_000;
/// How long the turn of all other types takes, where the rate allows it.
const CYCLE_NS: u64 = 3_000_000_000;
/// At most one slot in so many is another type than a tick.
const TICKS_PER_SCENE_MIN: u64 = 5;
/// One tick in so many is a trade.
const TICKS_PER_TRADE: u64 = 5;
/// Symbols that have an order book, the first ones; and one slot in so many is about one of those.
const LADDERS: usize = 3;
const SLOTS_PER_LADDER: u64 = 10;
/// Times after this (the year 2261) are taken for it: something later can still be said in 64 bits.
const LATEST_NS: i64 = i64::MAX - 400 * 24 * 60 * MINUTE_NS;
/// How long a symbol is mute.
const MUTE_NS: i64 = 8 * SECOND_NS;

/// Whose orders and trades the demo shows.
pub(super) const USER: &str = "42";
const SESSION: &str = "demo-1";
const PORTFOLIO: &str = "demo";
const DESK: &str = "desk-7";
const ENGINE: &str = "engine-1";
const UPSTREAM: &str = "demo-upstream";

/// What the demo market is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarketConfig {
    /// Symbols that are traded: 1 to [`SYMBOLS_MAX`], moved into that range.
    pub symbols: usize,
    /// The same seed gives the same market.
    pub seed: u64,
    /// Messages a second, of all types together: 1 to [`MESSAGES_PER_SECOND_MAX`], moved into that range.
    pub messages_per_second: u32,
}

impl Default for MarketConfig {
    fn default() -> Self {
        Self { symbols: 24, seed: 7, messages_per_second: 500 }
    }
}

/// What the market wants done.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are messages, and none lives longer than a step")]
pub enum Action {
    /// Publish this.
    Publish(Message),
    /// Say that the source lost events of this topic.
    Skip {
        /// The topic.
        topic: Topic,
        /// Events lost.
        count: u64,
    },
}

/// What became due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// Messages that were due and will never be made, because the caller was later than
    /// [`BACKLOG_NS_MAX`], or because the rate is too low to tell every symbol's bar within a minute.
    pub left_out: u64,
}

/// The disturbances of one minute of the market, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// Place of the symbol that has no ticks, if there is more than one symbol.
    pub mute: Option<usize>,
    /// When it falls silent.
    pub mute_from: i64,
    /// When it speaks again.
    pub mute_until: i64,
    /// Place of the symbol whose quotes have a gap.
    pub gap: usize,
    /// When the gap is said.
    pub gap_at: i64,
    /// How many events are lost.
    pub gap_count: u64,
}

/// The demo market.
#[derive(Clone, Debug)]
pub struct Market {
    rng: Rng,
    seed: u64,
    rate: u32,
    start: i64,
    /// Slots done or left out.
    slot: u64,
    books: Vec<Book>,
    desk: Desk,
    scenes: Scenes,
    /// Order books of the first symbols.
    ladders: Vec<Ladder>,
    /// Slot of the next scene, and how many slots lie between two.
    scene_at: u64,
    scene_every: u64,
    /// The UTC minute that the open bars belong to.
    minute: i64,
    /// Place of the next closed bar to tell; past the end when all are told.
    closing: usize,
    /// Disturbances of the market's own minute, and whether its gap was said.
    disturbance: Disturbance,
    gap_said: bool,
    left_out: u64,
}

impl Market {
    /// A market that opens at `start_ns`, in nanoseconds since the Unix epoch (not before it).
    #[must_use]
    pub fn new(config: MarketConfig, start_ns: i64) -> Self {
        let start_ns = start_ns.clamp(0, LATEST_NS);
        let symbols = config.symbols.clamp(1, SYMBOLS_MAX);
        let rate = config.messages_per_second.clamp(1, MESSAGES_PER_SECOND_MAX);
        let mut rng = Rng::with_seed(config.seed);
        let books: Vec<Book> =
            (0..symbols).map(|index| Book::new(instrument(index), start_ns, &mut rng)).collect();
        let desk = Desk::new(&books, start_ns, &mut rng);
        let per_cycle = u64::from(rate) * CYCLE_NS / SECOND_NS as u64;
        Self {
            rng,
            seed: config.seed,
            rate,
            start: start_ns,
            slot: 0,
            desk,
            scenes: Scenes::new(start_ns),
            ladders: (0..symbols.min(LADDERS)).map(|at| Ladder::new(config.seed ^ at as u64)).collect(),
            scene_at: 0,
            scene_every: (per_cycle / CYCLE.len() as u64).max(TICKS_PER_SCENE_MIN),
            minute: start_ns.div_euclid(MINUTE_NS),
            closing: symbols,
            disturbance: disturbance(config.seed, start_ns, symbols, 0),
            gap_said: false,
            left_out: 0,
            books,
        }
    }

    /// Makes what is due at `now_ns` or before. Nothing when that is before [`next_due`](Self::next_due).
    /// When more than [`STEP_ACTIONS_MAX`] messages are due, `next_due` stays in the past.
    pub fn step(&mut self, now_ns: i64) -> Step {
        let now_ns = now_ns.min(LATEST_NS);
        let oldest = now_ns.saturating_sub(BACKLOG_NS_MAX);
        if self.next_due() < oldest {
            let first = self.slot_at(oldest);
            self.left_out += first - self.slot;
            self.slot = first;
        }
        let mut actions = Vec::new();
        for _ in 0..STEP_ACTIONS_MAX {
            let due = self.next_due();
            if due > now_ns {
                break;
            }
            self.turn_minutes(due, &mut actions);
            let message = self.play(due);
            actions.push(Action::Publish(message));
            self.slot += 1;
        }
        Step { actions, left_out: std::mem::take(&mut self.left_out) }
    }

    /// When the next message is due.
    #[must_use]
    pub fn next_due(&self) -> i64 {
        let offset = i128::from(self.slot) * i128::from(SECOND_NS) / i128::from(self.rate);
        self.start.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
    }

    /// The disturbances of the market's minute `minute`, from 0.
    #[must_use]
    pub fn disturbance(&self, minute: u64) -> Disturbance {
        disturbance(self.seed, self.start, self.books.len(), minute)
    }

    /// The symbols, in order of their places.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = &str> {
        self.books.iter().map(|book| book.instrument.name.as_str())
    }

    /// The first slot that is due at `ts` or later.
    fn slot_at(&self, ts: i64) -> u64 {
        let offset = i128::from(ts) - i128::from(self.start);
        let scaled = offset * i128::from(self.rate);
        let slot = scaled.div_euclid(i128::from(SECOND_NS))
            + i128::from(scaled.rem_euclid(i128::from(SECOND_NS)) != 0);
        u64::try_from(slot).unwrap_or(0).max(self.slot)
    }

    /// What changes with the clock alone: bars close, disturbances are drawn, the gap is said.
    fn turn_minutes(&mut self, ts: i64, actions: &mut Vec<Action>) {
        if ts.div_euclid(MINUTE_NS) != self.minute {
            self.minute = ts.div_euclid(MINUTE_NS);
            self.closing = 0;
            for book in &mut self.books {
                self.left_out += u64::from(book.close_minute(ts));
            }
        }
        if ts >= self.disturbance_end() {
            let minute = (ts - self.start).div_euclid(MINUTE_NS);
            self.disturbance = self.disturbance(u64::try_from(minute).unwrap_or(0));
            self.gap_said = false;
        }
        if !self.gap_said && ts >= self.disturbance.gap_at {
            self.gap_said = true;
            self.scenes.upstream_gap(ts);
            let name = &self.books[self.disturbance.gap].instrument.name;
            let topic = Topic::of(&MarketData::INFO, name).expect("the demo's names are keys");
            actions.push(Action::Skip { topic, count: self.disturbance.gap_count });
        }
    }

    fn disturbance_end(&self) -> i64 {
        let minutes = (self.disturbance.mute_from - self.start).div_euclid(MINUTE_NS) + 1;
        self.start.saturating_add(minutes.saturating_mul(MINUTE_NS))
    }

    /// The message of one slot.
    fn play(&mut self, ts: i64) -> Message {
        if self.slot >= self.scene_at {
            self.scene_at = self.slot + self.scene_every;
            let at = self.pick(ts);
            let (books, rng, desk, rate) = (&self.books, &mut self.rng, &mut self.desk, self.rate);
            return self.scenes.next(World { books, book: &books[at], rng, desk, ts, rate });
        }
        if self.slot.is_multiple_of(2) && self.closing < self.books.len() {
            let closed = self.books[self.closing].closed_bar();
            self.closing += 1;
            if let Some(bar) = closed {
                return bar;
            }
        }
        if self.slot % SLOTS_PER_LADDER == SLOTS_PER_LADDER - 1 {
            let at = (self.slot / SLOTS_PER_LADDER) as usize % self.ladders.len();
            if !self.is_mute(at, ts) {
                return self.ladders[at].next(&self.books[at], ts);
            }
        }
        let at = self.pick(ts);
        let book = &mut self.books[at];
        if self.rng.u64(0..TICKS_PER_TRADE) == 0 {
            book.trade(ts, &mut self.rng)
        } else {
            book.quote(ts, &mut self.rng)
        }
    }

    /// A symbol that is not mute; the first ones more often.
    fn pick(&mut self, ts: i64) -> usize {
        let count = self.books.len();
        let mut at = self.rng.usize(0..count);
        if self.rng.bool() {
            at = at.min(self.rng.usize(0..count));
        }
        if self.is_mute(at, ts) { (at + 1) % count } else { at }
    }

    fn is_mute(&self, at: usize, ts: i64) -> bool {
        let Disturbance { mute, mute_from, mute_until, .. } = self.disturbance;
        mute == Some(at) && (mute_from..mute_until).contains(&ts)
    }
}

/// Mute between second 12 and 28, gap between second 35 and 50 of each minute of the market.
fn disturbance(seed: u64, start: i64, symbols: usize, minute: u64) -> Disturbance {
    // A generator of its own, so that a minute can be asked for without playing the ones before it.
    let mut rng = Rng::with_seed(seed ^ (minute + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let begin = start.saturating_add(i64::try_from(minute).unwrap_or(i64::MAX).saturating_mul(MINUTE_NS));
    let mute = rng.usize(0..symbols);
    let mute_from = begin.saturating_add(rng.i64(12..=20) * SECOND_NS);
    // Another symbol than the mute one, when there is one.
    let gap = (mute + rng.usize(1..symbols.max(2))) % symbols;
    Disturbance {
        mute: (symbols > 1).then_some(mute),
        mute_from,
        mute_until: mute_from.saturating_add(MUTE_NS),
        gap,
        gap_at: begin.saturating_add(rng.i64(35..=50) * SECOND_NS),
        gap_count: rng.u64(3..=9),
    }
}

#[cfg(test)]
mod tests;
