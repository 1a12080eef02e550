//! The first line: which columns there are, and what the rows of a file are for it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tickcast_protocol::Decimal;

use super::{NAMED_COLUMNS_MAX, OpenError, bounded};

/// Where the columns are.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    /// How many there are.
    pub(super) width: usize,
    pub(super) ts: usize,
    pub(super) symbol: usize,
    pub(super) venue: Option<usize>,
    pub(super) kind: Kind,
    /// Their names, escaped and bounded, for errors.
    pub(super) names: Vec<String>,
}

/// What the rows are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Trades {
        price: usize,
        size: usize,
        trade_id: Option<usize>,
        side: Option<usize>,
    },
    Quotes {
        bid: usize,
        ask: usize,
        bid_size: Option<usize>,
        ask_size: Option<usize>,
        price: Option<usize>,
        size: Option<usize>,
    },
}

impl Default for Kind {
    fn default() -> Self {
        Self::Trades { price: 0, size: 0, trade_id: None, side: None }
    }
}

impl Columns {
    /// Finds the columns, and lists those that are not used.
    pub(super) fn find(file: &Arc<str>, header: &[String]) -> Result<(Self, Vec<String>), OpenError> {
        let mut used = vec![false; header.len()];
        let mut find = |column: &'static str| {
            let mut places = (0..header.len()).filter(|place| header[*place].eq_ignore_ascii_case(column));
            let place = places.next();
            if places.next().is_some() {
                return Err(OpenError::Twice { file: Arc::clone(file), column });
            }
            if let Some(place) = place {
                used[place] = true;
            }
            Ok(place)
        };
        let (ts, symbol, venue) = (find("ts_event_ns")?, find("symbol")?, find("venue")?);
        let (bid, ask) = (find("bid")?, find("ask")?);
        let (price, size) = (find("price")?, find("size")?);
        let names: Vec<String> = header.iter().map(|name| bounded(name)).collect();
        let named = || names.iter().take(NAMED_COLUMNS_MAX).cloned().collect();
        // A file with half of a quote and no trade is meant to be one of quotes.
        let quotes =
            (bid.is_some() && ask.is_some()) || ((bid.is_some() || ask.is_some()) && price.is_none());
        let neither = !quotes && price.is_none() && size.is_none();
        let kind = match (bid, ask, price, size) {
            (Some(bid), Some(ask), price, size) => {
                let (bid_size, ask_size) = (find("bid_size")?, find("ask_size")?);
                Some(Kind::Quotes { bid, ask, bid_size, ask_size, price, size })
            }
            (_, _, Some(price), Some(size)) if !quotes => {
                let (trade_id, side) = (find("trade_id")?, find("aggressor_side")?);
                Some(Kind::Trades { price, size, trade_id, side })
            }
            _ => None,
        };
        let (Some(ts), Some(symbol), Some(kind)) = (ts, symbol, kind) else {
            let wanted = [
                ("ts_event_ns", ts.is_none()),
                ("symbol", symbol.is_none()),
                ("bid", quotes && bid.is_none()),
                ("ask", quotes && ask.is_none()),
                ("price and size, or bid and ask", neither),
                ("price", !quotes && !neither && price.is_none()),
                ("size", !quotes && !neither && size.is_none()),
            ];
            let missing = wanted.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name);
            return Err(OpenError::Columns {
                file: Arc::clone(file),
                missing: missing.collect(),
                found: named(),
                hint: hint(header),
            });
        };
        let unused = names.iter().zip(&used).filter(|(_, used)| !**used).map(|(name, _)| name.clone());
        let ignored = unused.take(NAMED_COLUMNS_MAX).collect();
        Ok((Self { width: header.len(), ts, symbol, venue, kind, names }, ignored))
    }
}

/// What may be wrong with a first line whose columns are not found.
fn hint(header: &[String]) -> &'static str {
    match header {
        [only] if only.contains(';') => " (values are separated by commas, this looks like semicolons)",
        [only] if only.contains('\t') => " (values are separated by commas, this looks like tabs)",
        all if all.iter().any(|name| name.parse::<Decimal>().is_ok()) => {
            " (this looks like a row; the first line must name the columns)"
        }
        _ => "",
    }
}
