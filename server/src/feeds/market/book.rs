//! One instrument of the demo market: its prices as whole ticks, its trades, its bar of the minute.
//!
//! Prices and sizes are integers of the instrument's tick and lot, so every decimal is exact and every
//! comparison is too. Always `0 < bid < last < ask`, `low <= open, last <= high`, and a bar is exactly
//! the trades of its minute.
#![forbid(unsafe_code)]

use fastrand::Rng;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Bar as BarMessage, MarketData, PublicTrade, Side};
use tickcast_protocol::{Decimal, Message};

/// Nanoseconds of a minute, the length of the demo's bars.
pub(super) const MINUTE_NS: i64 = 60_000_000_000;
/// Nanoseconds of a day, after which open, high and low start anew.
const DAY_NS: i64 = 24 * 60 * MINUTE_NS;

/// The step a price or size moves in: `mantissa * 10^exponent`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    mantissa: i64,
    exponent: i8,
}

impl Unit {
    /// So many steps, exactly.
    pub(super) fn times(self, steps: i64) -> Decimal {
        decimal(steps * self.mantissa, self.exponent)
    }

    /// So many steps of `self`, each worth so many of `price`, in cents; half a cent counts as one.
    pub(super) fn cents(self, price: Self, product: i128) -> i64 {
        let value = product * i128::from(self.mantissa) * i128::from(price.mantissa);
        let shift = i32::from(self.exponent) + i32::from(price.exponent) + 2;
        let scale = 10i128.pow(shift.unsigned_abs());
        let cents = if shift >= 0 { value * scale } else { (value + value.signum() * (scale / 2)) / scale };
        i64::try_from(cents).expect("the demo's sums are far below 10^16 dollars")
    }
}

/// A decimal of the demo; its numbers are small by construction.
pub(super) fn decimal(mantissa: i64, exponent: i8) -> Decimal {
    Decimal::new(mantissa, exponent).expect("the demo's numbers have fewer than 18 digits")
}

/// What does not change about an instrument.
#[derive(Clone, Debug)]
pub(super) struct Instrument {
    pub(super) name: String,
    pub(super) venue: &'static str,
    pub(super) asset_class: &'static str,
    /// Its number in legacy systems, from 1.
    pub(super) id: u32,
    pub(super) tick: Unit,
    pub(super) lot: Unit,
    /// Price of the day before, in ticks; the walk is drawn back to it.
    anchor: i64,
    /// Most ticks between the last price and either side of the quote.
    spread_max: i64,
    /// Most lots of a trade.
    pub(super) size_max: i64,
}

impl Instrument {
    /// How far the levels of its order book are apart, in ticks.
    pub(super) fn grid(&self) -> i64 {
        self.spread_max
    }

    /// True for what the demo's desk trades: quoted in dollars, and without a contract multiplier.
    pub(super) fn is_for_desk(&self) -> bool {
        self.asset_class != "future" && self.name != "USDJPY"
    }
}

/// name, venue, asset class, tick, price in ticks, lot, spread in ticks, lots
type Row = (&'static str, &'static str, &'static str, (i64, i8), i64, (i64, i8), i64, i64);

#[rustfmt::skip]
const CATALOGUE: [Row; 24] = [
    ("BTC-USD",  "COINBASE", "crypto", (1, -2),  6_701_250, (1, -4),    60, 12_000),
    ("ETH-USD",  "COINBASE", "crypto", (1, -2),    341_120, (1, -3),    20, 20_000),
    ("EURUSD",   "EBS",      "fx",     (1, -5),    108_425, (1_000, 0),  6,  3_000),
    ("AAPL",     "NASDAQ",   "equity", (1, -2),     18_995, (1, 0),      3,    900),
    ("SOL-USD",  "COINBASE", "crypto", (1, -2),     17_235, (1, -2),     8, 30_000),
    ("USDJPY",   "EBS",      "fx",     (1, -3),    151_385, (1_000, 0),  6,  3_000),
    ("MSFT",     "NASDAQ",   "equity", (1, -2),     41_530, (1, 0),      4,    600),
    ("NVDA",     "NASDAQ",   "equity", (1, -2),     87_840, (1, 0),      9,    500),
    ("SPY",      "ARCA",     "etf",    (1, -2),     51_285, (1, 0),      3,  1_500),
    ("ES1",      "CME",      "future", (25, -2),    21_073, (1, 0),      3,     80),
    ("GBPUSD",   "EBS",      "fx",     (1, -5),    127_110, (1_000, 0),  8,  2_000),
    ("TSLA",     "NASDAQ",   "equity", (1, -2),     17_530, (1, 0),      4,    900),
    ("XRP-USD",  "KRAKEN",   "crypto", (1, -5),     52_340, (1, 0),     10, 25_000),
    ("AMZN",     "NASDAQ",   "equity", (1, -2),     17_820, (1, 0),      3,    700),
    ("QQQ",      "NASDAQ",   "etf",    (1, -2),     43_820, (1, 0),      3,  1_200),
    ("NQ1",      "CME",      "future", (25, -2),    73_302, (1, 0),      5,     40),
    ("AUDUSD",   "EBS",      "fx",     (1, -5),     65_890, (1_000, 0),  7,  2_000),
    ("GOOGL",    "NASDAQ",   "equity", (1, -2),     15_190, (1, 0),      3,    700),
    ("META",     "NASDAQ",   "equity", (1, -2),     49_760, (1, 0),      6,    500),
    ("CL1",      "NYMEX",    "future", (1, -2),      8_231, (1, 0),      3,     60),
    ("GC1",      "COMEX",    "future", (1, -1),     21_784, (1, 0),      4,     40),
    ("ADA-USD",  "KRAKEN",   "crypto", (1, -4),      6_120, (1, -1),     3, 90_000),
    ("DOGE-USD", "KRAKEN",   "crypto", (1, -5),     16_230, (1, 0),      6, 60_000),
    ("GLD",      "ARCA",     "etf",    (1, -2),     20_310, (1, 0),      3,    800),
];

/// The instrument at `index`: one of the catalogue, past it made-up stocks.
pub(super) fn instrument(index: usize) -> Instrument {
    let id = u32::try_from(index + 1).expect("a market has far fewer symbols");
    let unit = |(mantissa, exponent)| Unit { mantissa, exponent };
    if let Some(&(name, venue, asset_class, tick, anchor, lot, spread_max, size_max)) = CATALOGUE.get(index) {
        let name = name.to_owned();
        let (tick, lot) = (unit(tick), unit(lot));
        return Instrument { name, venue, asset_class, id, tick, lot, anchor, spread_max, size_max };
    }
    Instrument {
        name: format!("DEMO{id:05}"),
        venue: "DEMOX",
        asset_class: "equity",
        id,
        tick: unit((1, -2)),
        lot: unit((1, 0)),
        anchor: 2_000 + (index as i64 * 7_919) % 40_000,
        spread_max: 3,
        size_max: 500,
    }
}

/// The trades of one minute, in ticks and lots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    start: i64,
    open: i64,
    high: i64,
    low: i64,
    close: i64,
    volume: i64,
}

impl Bar {
    /// A minute without trades yet: all prices are the last one known.
    fn new(start: i64, last: i64) -> Self {
        Self { start, open: last, high: last, low: last, close: last, volume: 0 }
    }

    fn trade(&mut self, price: i64, size: i64) {
        if self.volume == 0 {
            (self.open, self.high, self.low) = (price, price, price);
        }
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.close = price;
        self.volume += size;
    }
}

/// An instrument and where its market stands.
#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) instrument: Instrument,
    last: i64,
    last_size: i64,
    bid: i64,
    ask: i64,
    bid_size: i64,
    ask_size: i64,
    day: i64,
    open: i64,
    high: i64,
    low: i64,
    prev_close: i64,
    trades: u64,
    bar: Bar,
    /// The minute before, until it is told.
    closed: Option<Bar>,
    /// Averages of the last price over about 10 and 40 trades, in ticks.
    fast: f64,
    slow: f64,
    /// Averages of gains and losses over about 14 trades, in ticks.
    gain: f64,
    loss: f64,
}

impl Book {
    /// Opens near the price of the day before.
    pub(super) fn new(instrument: Instrument, ts: i64, rng: &mut Rng) -> Self {
        let anchor = instrument.anchor;
        let last = anchor + rng.i64(-anchor / 200..=anchor / 200);
        let mut book = Self {
            last,
            last_size: 1,
            bid: last - 1,
            ask: last + 1,
            bid_size: 1,
            ask_size: 1,
            day: ts.div_euclid(DAY_NS),
            open: last,
            high: last,
            low: last,
            prev_close: anchor,
            trades: 0,
            bar: Bar::new(ts.div_euclid(MINUTE_NS) * MINUTE_NS, last),
            closed: None,
            fast: last as f64,
            slow: last as f64,
            gain: 1.0,
            loss: 1.0,
            instrument,
        };
        book.requote(rng);
        book
    }

    /// One side takes what the other offers; now and then it takes several levels at once.
    pub(super) fn trade(&mut self, ts: i64, rng: &mut Rng) -> Message {
        let anchor = self.instrument.anchor;
        // Drawn back to the anchor: at 2 % from it, trades away from it are one in ten.
        let away = ((self.last - anchor) as f64 / anchor as f64 / 0.05).clamp(-0.4, 0.4);
        let buys = match self.last {
            last if last < anchor / 2 => true,
            last if last > anchor / 2 * 3 => false,
            _ => rng.f64() < 0.5 - away,
        };
        let sweep = if rng.u8(..40) == 0 { rng.i64(1..=4 * self.instrument.spread_max) } else { 0 };
        // Half a market's width below the anchor there are still thousands of ticks to zero.
        let price = if buys { self.ask + sweep } else { self.bid - sweep };
        let size = 1 + rng.i64(0..self.instrument.size_max).min(rng.i64(0..self.instrument.size_max));
        let moved = (price - self.last) as f64;
        self.last = price;
        self.last_size = size;
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.bar.trade(price, size);
        self.trades += 1;
        self.fast += (price as f64 - self.fast) / 10.0;
        self.slow += (price as f64 - self.slow) / 40.0;
        self.gain += (moved.max(0.0) - self.gain) / 14.0;
        self.loss += ((-moved).max(0.0) - self.loss) / 14.0;
        self.requote(rng);
        let Instrument { name, venue, id, tick, lot, .. } = &self.instrument;
        Message::PublicTrade(PublicTrade {
            symbol: name.clone(),
            ts: Timestamp(ts),
            price: tick.times(price),
            size: lot.times(size),
            side: Some(if buys { Side::BUY } else { Side::SELL }),
            trade_id: Some(format!("{id}-{}", self.trades)),
            venue: Some((*venue).to_owned()),
            instrument_id: Some(*id),
        })
    }

    /// The quote moves, the last price stays.
    pub(super) fn quote(&mut self, ts: i64, rng: &mut Rng) -> Message {
        self.requote(rng);
        let Instrument { name, venue, asset_class, id, tick, lot, .. } = &self.instrument;
        Message::MarketData(MarketData {
            symbol: name.clone(),
            ts: Timestamp(ts),
            price: Some(tick.times(self.last)),
            volume: Some(lot.times(self.last_size)),
            bid: Some(tick.times(self.bid)),
            ask: Some(tick.times(self.ask)),
            bid_size: Some(lot.times(self.bid_size)),
            ask_size: Some(lot.times(self.ask_size)),
            open: Some(tick.times(self.open)),
            high: Some(tick.times(self.high)),
            low: Some(tick.times(self.low)),
            prev_close: Some(tick.times(self.prev_close)),
            change: Some(tick.times(self.last - self.prev_close)),
            change_ratio: Some((self.last - self.prev_close) as f64 / self.prev_close as f64),
            venue: Some((*venue).to_owned()),
            asset_class: Some((*asset_class).to_owned()),
            instrument_id: Some(*id),
        })
    }

    /// Sets the bar aside when its minute is over, and starts a new day with the UTC date. True when the
    /// bar before was never told and is given up.
    pub(super) fn close_minute(&mut self, ts: i64) -> bool {
        let start = ts.div_euclid(MINUTE_NS) * MINUTE_NS;
        let untold = self.closed.replace(std::mem::replace(&mut self.bar, Bar::new(start, self.last)));
        if self.day != ts.div_euclid(DAY_NS) {
            self.day = ts.div_euclid(DAY_NS);
            self.prev_close = self.last;
            (self.open, self.high, self.low) = (self.last, self.last, self.last);
        }
        untold.is_some()
    }

    /// The minute that is over, once.
    pub(super) fn closed_bar(&mut self) -> Option<Message> {
        self.closed.take().map(|bar| self.bar_message(bar, true))
    }

    /// The minute so far.
    pub(super) fn open_bar(&self) -> Message {
        self.bar_message(self.bar, false)
    }

    /// The last price, in ticks.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    /// The last price.
    pub(super) fn price(&self) -> Decimal {
        self.instrument.tick.times(self.last)
    }

    /// What an order of this side would pay or get now, in ticks.
    pub(super) fn touch(&self, side: Side) -> i64 {
        if side == Side::BUY { self.ask } else { self.bid }
    }

    /// The last trade's size.
    pub(super) fn volume(&self) -> Decimal {
        self.instrument.lot.times(self.last_size)
    }

    /// How far the fast average is above the slow one, relative to the price.
    pub(super) fn momentum(&self) -> f64 {
        (self.fast - self.slow) / self.last as f64
    }

    /// Relative strength, 0 to 100.
    pub(super) fn rsi(&self) -> f64 {
        let both = self.gain + self.loss;
        if both > 0.0 { 100.0 * self.gain / both } else { 50.0 }
    }

    /// Fast and slow average, and the typical step, in quote currency.
    pub(super) fn averages(&self) -> (f64, f64, f64) {
        let tick = self.instrument.tick.times(1).to_f64();
        (self.fast * tick, self.slow * tick, (self.gain + self.loss) * tick)
    }

    /// Typical step of a trade, relative to the price.
    pub(super) fn volatility(&self) -> f64 {
        (self.gain + self.loss) / self.last as f64
    }

    fn requote(&mut self, rng: &mut Rng) {
        let Instrument { spread_max, size_max, .. } = self.instrument;
        self.bid = self.last - rng.i64(1..=spread_max);
        self.ask = self.last + rng.i64(1..=spread_max);
        self.bid_size = rng.i64(1..=size_max);
        self.ask_size = rng.i64(1..=size_max);
    }

    fn bar_message(&self, bar: Bar, closed: bool) -> Message {
        let Instrument { name, venue, tick, lot, .. } = &self.instrument;
        Message::Bar(BarMessage {
            symbol: name.clone(),
            timeframe: "1m".to_owned(),
            ts: Timestamp(bar.start),
            open: tick.times(bar.open),
            high: tick.times(bar.high),
            low: tick.times(bar.low),
            close: tick.times(bar.close),
            volume: lot.times(bar.volume),
            closed,
            venue: Some((*venue).to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_stay_near_the_day_before_whatever_happens() {
        for index in 0..30 {
            let mut rng = Rng::with_seed(index as u64);
            let mut book = Book::new(instrument(index), 0, &mut rng);
            for ts in 0..20_000 {
                book.trade(ts, &mut rng);
                let anchor = book.instrument.anchor;
                assert!(book.bid > 0 && book.bid < book.last && book.last < book.ask);
                assert!(
                    (anchor / 3..anchor * 2).contains(&book.last),
                    "{} {}",
                    book.instrument.name,
                    book.last
                );
            }
        }
    }

    #[test]
    fn sums_are_rounded_to_the_cent() {
        let (lot, tick) = (Unit { mantissa: 1, exponent: -4 }, Unit { mantissa: 1, exponent: -2 });
        assert_eq!(lot.cents(tick, 5_000 * 6_701_250), 3_350_625);
        assert_eq!(lot.cents(tick, -15_000), -2);
        let thousand = Unit { mantissa: 1_000, exponent: 0 };
        assert_eq!(thousand.cents(Unit { mantissa: 1, exponent: -5 }, 108_425), 108_425);
        assert_eq!(thousand.cents(Unit { mantissa: 25, exponent: -2 }, 1), 25_000);
    }
}
