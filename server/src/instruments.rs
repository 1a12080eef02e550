//! The instrument directory: legacy numbers to symbols and back.
//!
//! Configured numbers will come first; then those learned from messages that carry both; else a stable
//! number is derived from the symbol, so that a dashboard sees the same one after a restart.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tickcast_compat::d1::{Instruments, stable_id};
use tickcast_protocol::field::Value;
use tickcast_protocol::message::View;

/// Most symbols remembered. Past it, numbers are derived and nothing new is learned.
pub const INSTRUMENTS_MAX: usize = 100_000;

/// Shared by the publishers, who teach it, and the JSON renderers, who ask.
#[derive(Debug, Default)]
pub struct Directory {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    ids: HashMap<Arc<str>, u32>,
    symbols: HashMap<u32, Arc<str>>,
}

impl Directory {
    /// Learns a symbol, and its number when the message carries one. Cheap when it is known already.
    pub fn learn(&self, view: View<'_>) {
        let Value::Text(symbol) = view.field("symbol") else { return };
        let stated = match view.field("instrument_id") {
            Value::Unsigned(id) => u32::try_from(id).ok(),
            _ => None,
        };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let id = known.ids.get(symbol);
        let is_known = id.is_some_and(|id| stated.is_none_or(|stated| stated == *id));
        // Looked at under the read lock, so that a full directory costs publishers nothing.
        let is_full = id.is_none() && known.ids.len() >= INSTRUMENTS_MAX;
        if is_known || is_full {
            return;
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let id = stated.unwrap_or_else(|| stable_id(symbol));
        let symbol: Arc<str> = symbol.into();
        if let Some(former) = known.ids.insert(symbol.clone(), id)
            && known.symbols.get(&former) == Some(&symbol)
        {
            // Unless the number is somebody else's by now.
            known.symbols.remove(&former);
        }
        known.symbols.insert(id, symbol);
    }
}

impl Instruments for Directory {
    fn id_of(&self, symbol: &str) -> u32 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.ids.get(symbol).copied().unwrap_or_else(|| stable_id(symbol))
    }

    fn symbol_of(&self, id: u64) -> Option<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.symbols.get(&u32::try_from(id).ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickcast_protocol::{Message, frame, registry};

    fn learn(directory: &Directory, symbol: &str, id: Option<u32>) {
        let Message::MarketData(mut tick) = Message::sample(registry::by_name("market_data").unwrap(), true)
        else {
            panic!("market_data")
        };
        tick.symbol = symbol.to_owned();
        tick.instrument_id = id;
        let (payload, header) = frame::payload(&tick.into());
        directory.learn(View::access(header.type_id, &payload, header.root_len).unwrap());
    }

    #[test]
    fn learned_numbers_win_over_derived_ones() {
        let directory = Directory::default();
        learn(&directory, "BTC-USD", None);
        assert_eq!(directory.id_of("BTC-USD"), stable_id("BTC-USD"));
        learn(&directory, "BTC-USD", Some(5));
        assert_eq!(directory.id_of("BTC-USD"), 5);
        assert_eq!(directory.symbol_of(5).as_deref(), Some("BTC-USD"));
        assert_eq!(directory.symbol_of(u64::from(stable_id("BTC-USD"))), None);
        learn(&directory, "BTC-USD", None);
        assert_eq!(directory.id_of("BTC-USD"), 5, "a message without a number does not unlearn it");
        assert_eq!(directory.id_of("never seen"), stable_id("never seen"));
        // Two symbols claimed a number, and one gave it up again.
        learn(&directory, "A", Some(9));
        learn(&directory, "B", Some(9));
        learn(&directory, "A", Some(7));
        assert_eq!(directory.symbol_of(9).as_deref(), Some("B"));
    }
}
