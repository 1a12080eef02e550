//! The demo's trading desk: one order after the other, each followed through to the portfolio.
//!
//! An order goes pending, open, partly filled, filled; each fill is a trade, each trade changes the
//! position, and the end of an order is a snapshot of the portfolio and an analysis of the execution.
//! Every fifth order is cancelled half way, every seventh rejected. The books balance: a position is the
//! sum of its trades, and the snapshot's total is the sum of its positions.
#![forbid(unsafe_code)]

use fastrand::Rng;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{
    ExecutionAnalytics, ExecutionStatus, Holding, OrderStatus, OrderUpdate, PortfolioSnapshot, PositionSide,
    PositionUpdate, Side, TradeExecuted,
};
use tickcast_protocol::{Decimal, Message};

use super::book::{Book, decimal};
use super::{PORTFOLIO, SESSION, USER};

/// Most instruments the desk trades, so most positions a snapshot has.
const POSITIONS_MAX: usize = 8;
/// Positions the desk starts with.
const POSITIONS_AT_START: usize = 3;

/// What the desk holds of one instrument.
#[derive(Clone, Debug)]
struct Position {
    /// The instrument's place in the market.
    at: usize,
    /// Negative when short.
    lots: i64,
    /// What the lots cost, in ticks times lots; negative when short.
    cost: i128,
    /// Realised, in cents.
    realized: i64,
}

impl Position {
    fn fill(&mut self, lots: i64, price: i64, book: &Book) {
        let mut opening = lots;
        if self.lots.signum() * lots.signum() < 0 {
            let closing = lots.signum() * lots.abs().min(self.lots.abs());
            let cost = self.cost * i128::from(closing.abs()) / i128::from(self.lots.abs());
            let gained = -i128::from(closing) * i128::from(price) - cost;
            self.realized += book.instrument.lot.cents(book.instrument.tick, gained);
            self.cost -= cost;
            self.lots += closing;
            opening -= closing;
        }
        self.lots += opening;
        self.cost += i128::from(opening) * i128::from(price);
    }

    /// In ticks, rounded towards zero.
    fn average(&self) -> i64 {
        let average = if self.lots == 0 { 0 } else { self.cost / i128::from(self.lots) };
        i64::try_from(average).expect("an average price is a price")
    }

    fn cents(&self, book: &Book, value: i128) -> i64 {
        book.instrument.lot.cents(book.instrument.tick, value)
    }

    fn value(&self, book: &Book) -> i128 {
        i128::from(self.lots) * i128::from(book.last())
    }

    /// In cents.
    fn unrealized(&self, book: &Book) -> i64 {
        self.cents(book, self.value(book) - self.cost)
    }
}

/// An order on its way.
#[derive(Clone, Debug)]
struct Order {
    number: u64,
    /// Place in [`Desk::positions`].
    position: usize,
    side: Side,
    lots: i64,
    /// Limit, in ticks.
    limit: i64,
    started: i64,
    filled: i64,
    /// What was paid for the filled lots, in ticks times lots.
    paid: i128,
    /// The fill that is being told: lots and price in ticks.
    fill: (i64, i64),
}

/// What an order says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Open,
    PartOrder,
    PartTrade,
    PartPosition,
    LastOrder,
    LastTrade,
    LastPosition,
    Snapshot,
    Analytics,
}

/// The desk's orders and positions.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    positions: Vec<Position>,
    order: Order,
    stage: Stage,
    orders: u64,
    trades: u64,
    marked: usize,
}

impl Desk {
    /// A desk that holds a little of the first few instruments.
    pub(super) fn new(books: &[Book], ts: i64, rng: &mut Rng) -> Self {
        let traded = books.iter().enumerate().filter(|(_, book)| book.instrument.is_for_desk());
        let positions = traded.take(POSITIONS_MAX).enumerate().map(|(place, (at, book))| {
            let mut position = Position { at, lots: 0, cost: 0, realized: 0 };
            if place < POSITIONS_AT_START {
                position.fill(book.instrument.size_max, book.last(), book);
            }
            position
        });
        let positions: Vec<Position> = positions.collect();
        assert!(!positions.is_empty(), "the first instrument is one for the desk");
        let order = Order {
            number: 0,
            position: 0,
            side: Side::BUY,
            lots: 0,
            limit: 0,
            started: ts,
            filled: 0,
            paid: 0,
            fill: (0, 0),
        };
        let mut desk = Self { positions, order, stage: Stage::Pending, orders: 0, trades: 0, marked: 0 };
        desk.draw_order(books, ts, rng);
        desk
    }

    /// The next message of the order on its way, or the first of a new one.
    pub(super) fn next(&mut self, books: &[Book], ts: i64, rng: &mut Rng) -> Message {
        let book = &books[self.positions[self.order.position].at];
        let (message, next) = match self.stage {
            Stage::Pending => (self.order_update(book, OrderStatus::PENDING, ts), Stage::Open),
            Stage::Open if self.order.number.is_multiple_of(7) => {
                (self.order_update(book, OrderStatus::REJECTED, ts), Stage::Pending)
            }
            Stage::Open => (self.order_update(book, OrderStatus::OPEN, ts), Stage::PartOrder),
            Stage::PartOrder => {
                self.fill((self.order.lots / 3).max(1), book);
                (self.order_update(book, OrderStatus::PARTIAL, ts), Stage::PartTrade)
            }
            Stage::PartTrade => (self.book_trade(book, ts), Stage::PartPosition),
            Stage::PartPosition => (self.position(self.order.position, books, ts), Stage::LastOrder),
            Stage::LastOrder if self.order.number.is_multiple_of(5) => {
                (self.order_update(book, OrderStatus::CANCELLED, ts), Stage::Snapshot)
            }
            Stage::LastOrder => {
                self.fill(self.order.lots - self.order.filled, book);
                (self.order_update(book, OrderStatus::FILLED, ts), Stage::LastTrade)
            }
            Stage::LastTrade => (self.book_trade(book, ts), Stage::LastPosition),
            Stage::LastPosition => (self.position(self.order.position, books, ts), Stage::Snapshot),
            Stage::Snapshot => (self.snapshot(books, ts), Stage::Analytics),
            Stage::Analytics => (self.analytics(book, ts), Stage::Pending),
        };
        self.stage = next;
        if next == Stage::Pending {
            self.draw_order(books, ts, rng);
        }
        message
    }

    /// One position at the market's price, a different one each time.
    pub(super) fn mark(&mut self, books: &[Book], ts: i64) -> Message {
        let count = self.positions.len();
        let mut others = (1..=count).map(|step| (self.marked + step) % count);
        self.marked = others.find(|place| self.positions[*place].lots != 0).unwrap_or(0);
        self.position(self.marked, books, ts)
    }

    /// The portfolio as it is.
    pub(super) fn snapshot(&self, books: &[Book], ts: i64) -> Message {
        let held = self.positions.iter().filter(|position| position.lots != 0);
        let holdings = held.map(|position| {
            let book = &books[position.at];
            let unrealized = position.unrealized(book);
            Holding {
                symbol: book.instrument.name.clone(),
                quantity: book.instrument.lot.times(position.lots),
                average_price: book.instrument.tick.times(position.average()),
                market_price: book.price(),
                unrealized_pnl: dollars(unrealized),
                unrealized_pnl_ratio: unrealized as f64
                    / position.cents(book, position.cost).abs().max(1) as f64,
            }
        });
        let positions: Vec<Holding> = holdings.collect();
        Message::PortfolioSnapshot(PortfolioSnapshot {
            portfolio_id: PORTFOLIO.to_owned(),
            position_count: positions.len() as u32,
            positions,
            total_pnl: dollars(self.unrealized(books)),
            ts: Timestamp(ts),
            currency: Some("USD".to_owned()),
        })
    }

    /// Profit or loss of the whole desk, in cents.
    pub(super) fn pnl(&self, books: &[Book]) -> i64 {
        self.unrealized(books) + self.positions.iter().map(|position| position.realized).sum::<i64>()
    }

    /// Value of all positions regardless of their side, in cents.
    pub(super) fn exposure(&self, books: &[Book]) -> i64 {
        let value =
            |position: &Position| position.cents(&books[position.at], position.value(&books[position.at]));
        self.positions.iter().map(|position| value(position).abs()).sum()
    }

    /// Trades so far.
    pub(super) fn trades(&self) -> u64 {
        self.trades
    }

    /// Orders so far, the one on its way included.
    pub(super) fn orders(&self) -> u64 {
        self.orders
    }

    fn unrealized(&self, books: &[Book]) -> i64 {
        self.positions.iter().map(|position| position.unrealized(&books[position.at])).sum()
    }

    fn draw_order(&mut self, books: &[Book], ts: i64, rng: &mut Rng) {
        self.orders += 1;
        let position = rng.usize(0..self.positions.len());
        let Position { at, lots: held, .. } = self.positions[position];
        let book = &books[at];
        let most = book.instrument.size_max;
        // A desk that holds much sells more often than it buys.
        let side = if rng.i64(-2 * most..2 * most) >= held { Side::BUY } else { Side::SELL };
        self.order = Order {
            number: self.orders,
            position,
            side,
            lots: rng.i64(2..=most.max(3)),
            limit: book.touch(side),
            started: ts,
            filled: 0,
            paid: 0,
            fill: (0, 0),
        };
    }

    /// Fills part of the order at its limit or better.
    fn fill(&mut self, lots: i64, book: &Book) {
        let Order { side, limit, .. } = self.order;
        let touch = book.touch(side);
        let price = if side == Side::BUY { touch.min(limit) } else { touch.max(limit) };
        self.order.fill = (lots, price);
        self.order.filled += lots;
        self.order.paid += i128::from(lots) * i128::from(price);
    }

    /// The fill becomes a trade, and part of the position.
    fn book_trade(&mut self, book: &Book, ts: i64) -> Message {
        let (lots, price) = self.order.fill;
        let signed = if self.order.side == Side::BUY { lots } else { -lots };
        self.positions[self.order.position].fill(signed, price, book);
        self.trades += 1;
        self.trade(book, ts)
    }

    /// Average price of the order's fills, in ticks.
    fn average_fill(&self) -> Option<i64> {
        let lots = i128::from(self.order.filled);
        (lots > 0).then(|| i64::try_from(self.order.paid / lots).expect("an average price is a price"))
    }

    fn order_id(&self) -> String {
        format!("o-{}", self.order.number)
    }

    fn order_update(&self, book: &Book, status: OrderStatus, ts: i64) -> Message {
        let Order { lots, filled, limit, side, .. } = self.order;
        let (tick, lot) = (book.instrument.tick, book.instrument.lot);
        let reason = |wanted: OrderStatus, text: &str| (status == wanted).then(|| text.to_owned());
        Message::OrderUpdate(OrderUpdate {
            user_id: USER.to_owned(),
            order_id: self.order_id(),
            symbol: book.instrument.name.clone(),
            status,
            side,
            quantity: lot.times(lots),
            filled_quantity: lot.times(filled),
            remaining_quantity: lot.times(lots - filled),
            ts: Timestamp(ts),
            order_type: Some("limit".to_owned()),
            price: Some(tick.times(limit)),
            avg_fill_price: self.average_fill().map(|price| tick.times(price)),
            time_in_force: Some("day".to_owned()),
            cancel_reason: reason(OrderStatus::CANCELLED, "cancelled by the user"),
            reject_reason: reason(OrderStatus::REJECTED, "the desk's exposure limit would be broken"),
            portfolio_id: Some(PORTFOLIO.to_owned()),
            venue: Some(book.instrument.venue.to_owned()),
        })
    }

    fn trade(&self, book: &Book, ts: i64) -> Message {
        let Order { lots, filled, limit, side, fill, .. } = self.order;
        let (tick, lot) = (book.instrument.tick, book.instrument.lot);
        let value = lot.cents(tick, i128::from(fill.0) * i128::from(fill.1));
        let done = filled == lots;
        Message::TradeExecuted(TradeExecuted {
            user_id: USER.to_owned(),
            trade_id: format!("t-{}", self.trades),
            symbol: book.instrument.name.clone(),
            side,
            quantity: lot.times(fill.0),
            price: tick.times(fill.1),
            status: if done { ExecutionStatus::FILL } else { ExecutionStatus::PARTIAL_FILL },
            ts: Timestamp(ts),
            order_id: Some(self.order_id()),
            execution_id: Some(format!("x-{}", self.trades)),
            portfolio_id: Some(PORTFOLIO.to_owned()),
            session_id: Some(SESSION.to_owned()),
            filled_quantity: Some(lot.times(filled)),
            remaining_quantity: Some(lot.times(lots - filled)),
            avg_fill_price: self.average_fill().map(|price| tick.times(price)),
            // One basis point, and a tenth of that for the venue.
            commission: Some(dollars(value / 10_000)),
            fees: Some(dollars(value / 100_000)),
            currency: Some("USD".to_owned()),
            venue: Some(book.instrument.venue.to_owned()),
            slippage_bps: Some((fill.1 - limit) as f64 / limit as f64 * 10_000.0),
        })
    }

    fn position(&self, place: usize, books: &[Book], ts: i64) -> Message {
        let position = &self.positions[place];
        let book = &books[position.at];
        let (tick, lot) = (book.instrument.tick, book.instrument.lot);
        let unrealized = position.unrealized(book);
        Message::PositionUpdate(PositionUpdate {
            portfolio_id: PORTFOLIO.to_owned(),
            symbol: book.instrument.name.clone(),
            side: match position.lots {
                0 => PositionSide::FLAT,
                1.. => PositionSide::LONG,
                _ => PositionSide::SHORT,
            },
            quantity: lot.times(position.lots),
            average_price: tick.times(position.average()),
            unrealized_pnl: dollars(unrealized),
            ts: Timestamp(ts),
            market_price: Some(book.price()),
            realized_pnl: Some(dollars(position.realized)),
            cost_basis: Some(dollars(position.cents(book, position.cost))),
            market_value: Some(dollars(position.cents(book, position.value(book)))),
            day_pnl: Some(dollars(unrealized + position.realized)),
            currency: Some("USD".to_owned()),
        })
    }

    fn analytics(&self, book: &Book, ts: i64) -> Message {
        let tick = book.instrument.tick;
        let Order { limit, started, lots, filled, .. } = self.order;
        let price = self.average_fill().unwrap_or(limit);
        Message::ExecutionAnalytics(ExecutionAnalytics {
            symbol: book.instrument.name.clone(),
            execution_id: format!("x-{}", self.trades),
            fill_price: tick.times(price),
            benchmark_price: tick.times(limit),
            slippage: tick.times(price - limit),
            ts: Timestamp(ts),
            slippage_bps: Some((price - limit) as f64 / limit as f64 * 10_000.0),
            execution_time_ms: u32::try_from((ts - started) / 1_000_000).ok(),
            fill_ratio: Some(filled as f64 / lots as f64),
            market_impact: Some(book.volatility() * 10_000.0),
            portfolio_id: Some(PORTFOLIO.to_owned()),
        })
    }
}

/// Cents as dollars.
pub(super) fn dollars(cents: i64) -> Decimal {
    decimal(cents, -2)
}

#[cfg(test)]
mod tests {
    use super::super::book::instrument;
    use super::*;

    #[test]
    fn a_position_is_the_sum_of_its_fills() {
        let mut rng = Rng::with_seed(1);
        let book = Book::new(instrument(0), 0, &mut rng);
        let mut position = Position { at: 0, lots: 0, cost: 0, realized: 0 };
        position.fill(10_000, 100, &book);
        position.fill(10_000, 200, &book);
        assert_eq!((position.lots, position.average()), (20_000, 150));
        // Selling half of it at 250 gains 100 ticks on each of 10,000 lots, that is 1 unit at $1.00.
        position.fill(-10_000, 250, &book);
        assert_eq!((position.lots, position.average(), position.realized), (10_000, 150, 100));
        // Past zero the rest is a new, short position.
        position.fill(-30_000, 150, &book);
        assert_eq!((position.lots, position.average(), position.realized), (-20_000, 150, 100));
        position.fill(20_000, 100, &book);
        assert_eq!((position.lots, position.cost, position.realized), (0, 0, 200));
    }
}
