//! What the benches share: messages like those of a trading day, an engine in its steady state, and a
//! socket that takes everything.
//!
//! ```text
//! cargo bench -p tickcast-benches                    all, about ten minutes
//! cargo bench -p tickcast-benches --bench fanout     one file
//! cargo bench -p tickcast-benches -- --test          each once, to see that it runs
//! ```
//!
//! No bench asserts a time. What a bench does assert, before it measures, is that it measures what its
//! name says: that every peer got every event, that every message passes its checks. Figures, and what
//! they are worth, are in `RESULTS.md`.
#![forbid(unsafe_code)]

use std::hash::RandomState;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use tickcast_compat::Stamp;
use tickcast_compat::d1::{self, Case, Instruments, stable_id};
use tickcast_engine::{
    Delivery, Engine, EngineConfig, Event, Format, Incoming, Notify, PeerId, PeerIo, Render, Shard, Start,
    Subscribe, Written, binary_message,
};
use tickcast_protocol::field::{Entry, Map, Scalar, Timestamp};
use tickcast_protocol::frame::{self, HEADER_LEN, Header, WS_HEAD_MAX, websocket_head};
use tickcast_protocol::message::{
    AnalyticsUpdate, Holding, MarketData, PortfolioSnapshot, PublicTrade, Side, View,
};
use tickcast_protocol::registry::{Facts, TypeInfo};
use tickcast_protocol::{BootId, Decimal, Epoch, Message, Topic, TopicFilter};

/// The server's allocator, in every bench that uses this crate. A publish allocates the event, and the
/// ring frees it later, often on another thread: with another allocator the figures would be of another
/// program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Streams that the events of [`trades`] belong to: enough that lookups are not all of one hot entry.
pub const STREAMS: usize = 64;
/// Positions in [`portfolio`].
pub const HOLDINGS: usize = 20;

/// When everything happened: 2026-01-02T14:30:00.123Z.
const NOW: i64 = 1_767_364_200_123_000_000;
/// Opcode of a WebSocket text message.
const OPCODE_TEXT: u8 = 1;

/// A tick as an exchange's ticker sends it: price, volume, quote, day. No field is a round number.
#[must_use]
pub fn tick() -> Message {
    MarketData {
        symbol: "BTCUSDT".into(),
        ts: Timestamp(NOW),
        price: Some(decimal("94321.15")),
        volume: Some(decimal("0.04127")),
        bid: Some(decimal("94321.14")),
        ask: Some(decimal("94321.15")),
        bid_size: Some(decimal("1.28411")),
        ask_size: Some(decimal("0.50233")),
        open: Some(decimal("93870.02")),
        high: Some(decimal("94990.00")),
        low: Some(decimal("93011.77")),
        prev_close: None,
        change: None,
        change_ratio: Some(0.0048),
        venue: Some("binance".into()),
        asset_class: None,
        instrument_id: None,
    }
    .into()
}

/// A quote: no price, so D1 shows the middle of bid and ask.
#[must_use]
pub fn quote() -> Message {
    MarketData {
        symbol: "BTCUSDT".into(),
        ts: Timestamp(NOW),
        price: None,
        volume: None,
        bid: Some(decimal("94321.14")),
        ask: Some(decimal("94321.15")),
        bid_size: Some(decimal("1.28411")),
        ask_size: Some(decimal("0.50233")),
        open: None,
        high: None,
        low: None,
        prev_close: None,
        change: None,
        change_ratio: None,
        venue: Some("binance".into()),
        asset_class: None,
        instrument_id: None,
    }
    .into()
}

/// One trade of the tape. With a symbol of nine letters its frame has 127 bytes.
#[must_use]
pub fn trade(symbol: &str) -> Message {
    PublicTrade {
        symbol: symbol.into(),
        ts: Timestamp(NOW),
        price: decimal("94321.15"),
        size: decimal("0.04127"),
        side: Some(Side::BUY),
        trade_id: Some("1289734502118733417".into()),
        venue: Some("binance".into()),
        instrument_id: None,
    }
    .into()
}

/// A portfolio with [`HOLDINGS`] positions.
#[must_use]
pub fn portfolio() -> Message {
    let holding = |number: usize| Holding {
        symbol: format!("SYM{number:02}USDT"),
        quantity: decimal("12.5"),
        average_price: decimal("101.2375"),
        market_price: decimal("103.91"),
        unrealized_pnl: decimal("33.40625"),
        unrealized_pnl_ratio: 0.0264,
    };
    PortfolioSnapshot {
        portfolio_id: "desk-7".into(),
        positions: (0..HOLDINGS).map(holding).collect(),
        total_pnl: decimal("668.125"),
        position_count: HOLDINGS as u32,
        ts: Timestamp(NOW),
        currency: Some("USD".into()),
    }
    .into()
}

/// An analysis with a free-form map of twelve entries, of every kind but lists.
#[must_use]
pub fn analytics() -> Message {
    let entry = |key: &str, value| Entry { key: key.into(), value };
    AnalyticsUpdate {
        symbol: "BTCUSDT".into(),
        analysis_type: "technical".into(),
        results: Map(vec![
            entry("trend", Scalar::Text("bullish".into())),
            entry("rsi_14", Scalar::Float(61.8034)),
            entry("macd", Scalar::Float(12.0371)),
            entry("macd_signal", Scalar::Float(11.5)),
            entry("bollinger_upper", Scalar::Float(95120.44)),
            entry("bollinger_lower", Scalar::Float(93011.9)),
            entry("sma_50", Scalar::Float(93_876.125)),
            entry("bars", Scalar::Integer(1_440)),
            entry("overbought", Scalar::Bool(false)),
            entry("regime", Scalar::Null),
            entry("recommendation", Scalar::Text("hold \"core\" position".into())),
            entry("levels", Scalar::Json(r#"{"support":[93000,92500.5],"resistance":[95000]}"#.into())),
        ]),
        calculated_at: Timestamp(NOW),
        next_update: Some(Timestamp(NOW + 60_000_000_000)),
        confidence_score: Some(0.83),
        data_quality_score: Some(0.97),
        instrument_id: None,
    }
    .into()
}

fn decimal(text: &str) -> Decimal {
    text.parse().expect("a decimal of ours")
}

/// A message on its way in: encoded, checked, with its topic and facts, as the server's ingest has it when
/// it calls the engine.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The header as the publisher sent it.
    pub header: Header,
    /// The rkyv payload.
    pub payload: Vec<u8>,
    info: &'static TypeInfo,
    topic: Topic,
    facts: Facts,
}

impl Checked {
    /// Encodes a message and does what the server does to trust it.
    ///
    /// # Panics
    /// When the message would be refused: a fixture must not be.
    #[must_use]
    pub fn new(message: &Message) -> Self {
        let (payload, header) = frame::payload(message);
        let view = View::access(header.type_id, &payload, header.root_len).expect("our own encoding");
        view.check().expect("a message that would be accepted");
        let mut key = String::new();
        view.write_key(&mut key).expect("a message with a key");
        let (info, facts) = (view.info(), view.facts(&RandomState::new()));
        let topic = Topic::of(info, &key).expect("a key just written");
        Self { header, payload, info, topic, facts }
    }

    /// What the engine is given.
    #[must_use]
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming {
            info: self.info,
            topic: &self.topic,
            facts: self.facts,
            schema_version: self.header.schema_version,
            root_len: self.header.root_len,
            payload: &self.payload,
        }
    }

    /// The message in place. Checks the structure again, as every reader does.
    ///
    /// # Panics
    /// Never: the payload was checked.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::access(self.header.type_id, &self.payload, self.header.root_len).expect("checked before")
    }

    /// What a JSON rendering is told by the engine.
    #[must_use]
    pub fn stamp(&self) -> Stamp<'_> {
        let (topic, class) = (self.topic.as_str(), self.facts.class);
        Stamp { topic, sequence: 1_000_042, publish_time: NOW as u64 + 850_000, class }
    }

    /// Bytes of the event as a binary subscriber gets it, without the WebSocket head.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }
}

/// One trade on each of [`STREAMS`] streams.
#[must_use]
pub fn trades() -> Vec<Checked> {
    (0..STREAMS).map(|number| Checked::new(&trade(&format!("SYM{number:02}USDT")))).collect()
}

/// Numbers instruments by their symbols alone, as the server does for those nobody configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct StableIds;

impl Instruments for StableIds {
    fn id_of(&self, symbol: &str) -> u32 {
        stable_id(symbol)
    }

    fn symbol_of(&self, _: u64) -> Option<Arc<str>> {
        None
    }
}

/// Renders D1 in the way of the server's codec, which is out of reach here: benches do not link the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codec;

impl Render for Codec {
    fn event(&self, event: &Event, format: Format) -> Option<Bytes> {
        let stamp = Stamp {
            topic: event.topic().as_str(),
            sequence: event.sequence().0,
            publish_time: event.publish_time(),
            class: event.class(),
        };
        let case = if format == Format::D1Camel { Case::Camel } else { Case::Snake };
        // The head is written in front when the length is known, so that nothing is copied twice.
        let mut out = Vec::with_capacity(512);
        out.resize(WS_HEAD_MAX, 0);
        if !d1::event(&stamp, event.view(), &StableIds, case, &mut out) {
            return None;
        }
        let (head, head_len) = websocket_head(OPCODE_TEXT, out.len() - WS_HEAD_MAX);
        let start = WS_HEAD_MAX - head_len;
        out[start..WS_HEAD_MAX].copy_from_slice(&head[..head_len]);
        Some(Bytes::from(out).slice(start..))
    }

    fn control(&self, message: &Message, _: Option<&Topic>, format: Format) -> Option<Bytes> {
        format.is_binary().then(|| binary_message(message))
    }
}

/// Sockets that take everything at once and keep nothing. What a delivery costs beyond this is the
/// kernel's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sink {
    /// Writes so far.
    pub writes: u64,
    /// Bytes taken so far.
    pub bytes: u64,
}

impl PeerIo for Sink {
    fn write(&mut self, _: PeerId, bufs: &[IoSlice<'_>]) -> Written {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        self.writes += 1;
        self.bytes += bytes as u64;
        Written::Bytes(bytes)
    }
}

/// An engine with default bounds and `shards` shards, whose shards are never asleep.
///
/// # Panics
/// Never: the bounds are the engine's own.
#[must_use]
pub fn engine(shards: usize) -> (Engine, Vec<Shard>) {
    let awake: Arc<dyn Notify> = Arc::new(|| {});
    let config = EngineConfig { shards, ..EngineConfig::default() };
    Engine::new(config, Epoch(1), BootId(1), Arc::new(Codec), vec![awake; shards])
}

/// Publishes `count` events, going round `from`. `sent` is how many were published before.
///
/// # Panics
/// When the engine refuses one.
pub fn publish(engine: &Engine, from: &[Checked], sent: &mut u64, count: usize) {
    for _ in 0..count {
        let event = &from[*sent as usize % from.len()];
        *sent += 1;
        engine.publish_quietly(event.incoming(), *sent).expect("within all bounds");
    }
    engine.wake();
}

/// Distributes and writes until nothing is left.
pub fn drain(shard: &mut Shard, sink: &mut Sink) {
    loop {
        let turn = shard.turn(0);
        shard.flush(sink);
        if !turn.remaining {
            return;
        }
    }
}

/// Publishes until the ring and every history are full, so that from here on each event replaces one, as
/// it does on any day but the first minute.
pub fn fill(engine: &Engine, shard: Option<&mut Shard>, from: &[Checked], sent: &mut u64) {
    let bounds = EngineConfig::default();
    let events = bounds.ring_slots.max(bounds.history_events * from.len());
    let (mut shard, mut sink) = (shard, Sink::default());
    for _ in 0..events.div_ceil(bounds.turn_events) {
        publish(engine, from, sent, bounds.turn_events);
        if let Some(shard) = shard.as_deref_mut() {
            drain(shard, &mut sink);
        }
    }
}

/// Attaches peers, one per format given, each subscribed to `filter`, and writes their first words.
///
/// # Panics
/// When the filter is none, or a subscription is refused.
pub fn attach(shard: &mut Shard, filter: &str, formats: impl IntoIterator<Item = Format>) {
    let filter = TopicFilter::parse(filter).expect("a filter of ours");
    for format in formats {
        let peer = shard.attach(format);
        let request = Subscribe { filter: filter.clone(), start: Start::Live, delivery: Delivery::default() };
        shard.subscribe(peer, request, |_| None).expect("a fresh peer may subscribe");
    }
    drain(shard, &mut Sink::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_what_its_name_says() {
        for message in [tick(), quote(), trade("BTCUSDT"), portfolio(), analytics()] {
            let checked = Checked::new(&message);
            assert_eq!(checked.view().to_owned(), message);
        }
        assert!(trades().iter().all(|trade| trade.frame_len() == 127));
        let mut streams: Vec<_> = trades().iter().map(|trade| trade.topic.as_str().to_owned()).collect();
        streams.dedup();
        assert_eq!(streams.len(), STREAMS);
        // The sizes that RESULTS.md names.
        let sizes = [tick(), portfolio(), analytics()].map(|message| Checked::new(&message).frame_len());
        assert_eq!(sizes, [198, 1_306, 450]);
    }

    #[test]
    fn every_peer_gets_every_event() {
        let (engine, mut shards) = engine(1);
        let (shard, mut sent, mut sink) = (&mut shards[0], 0, Sink::default());
        let trades = trades();
        publish(&engine, &trades, &mut sent, STREAMS);
        drain(shard, &mut sink);
        attach(shard, "public_trade.*", Format::ALL);
        let before = shard.stats().snapshot();
        publish(&engine, &trades, &mut sent, 10);
        drain(shard, &mut sink);
        let after = shard.stats().snapshot();
        assert_eq!(after.deliveries - before.deliveries, 40);
        assert_eq!(after.renders - before.renders, 20);
    }
}
