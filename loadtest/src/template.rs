//! The messages of a load: real frames, prepared once a topic, in which only a number and a time change.
//!
//! Every message carries its number in a field that all formats show, so that a receiver finds it without
//! decoding: in binary at a fixed distance from the root record, in JSON behind a fixed marker. Where that is
//! follows from encoding a message with a number that occurs nowhere else, not from a table of offsets.
#![forbid(unsafe_code)]

use clap::ValueEnum;
use tickcast_protocol::field::{Entry, Map, Scalar, Timestamp};
use tickcast_protocol::frame::{self, HEADER_LEN};
use tickcast_protocol::message::{
    AnalyticsUpdate, MarketData, Message, PublicTrade, RiskAlert, RiskType, Severity, Side,
};
use tickcast_protocol::{Decimal, Frame};

use crate::websocket;

/// Largest frame that is published: what a server takes from a publisher, less the WebSocket head.
pub const FRAME_BYTES_MAX: usize = 15 * 1024;

/// Bytes of an alert's frame, header included.
pub const ALERT_FRAME_BYTES: usize = 256;

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Kind {
    /// The tape: class ordered, padded in its trade id
    PublicTrade,
    /// A quote: class latest, padded in its asset class
    MarketData,
    /// Free-form results: class latest, padded in one of them
    AnalyticsUpdate,
    /// An alert, which is published beside the others: class critical, padded in its message
    #[value(skip)]
    RiskAlert,
}

/// A number that no other field of a template holds, of as many digits as a decimal may have.
const SENTINEL: i64 = 812_736_455_463_728_190;
/// The same for the time.
const SENTINEL_TIME: i64 = 7_234_567_890_123_456_789;

impl Kind {
    /// What a load may consist of; alerts come beside it.
    pub const ALL: [Self; 3] = [Self::PublicTrade, Self::MarketData, Self::AnalyticsUpdate];

    /// Its name on the wire, with which its topics begin.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PublicTrade => "public_trade",
            Self::MarketData => "market_data",
            Self::AnalyticsUpdate => "analytics_update",
            Self::RiskAlert => "risk_alert",
        }
    }

    /// What stands before the message's number in JSON, whatever the spelling of names.
    #[must_use]
    pub const fn marker(self) -> &'static [u8] {
        match self {
            Self::PublicTrade | Self::MarketData => b"\"volume\":",
            Self::AnalyticsUpdate => b"\"number\":",
            Self::RiskAlert => b"\"current_value\":",
        }
    }

    /// What dashboards of the first dialect subscribe to.
    #[must_use]
    pub const fn d1_name(self) -> &'static str {
        match self {
            Self::PublicTrade | Self::MarketData => "market_data",
            Self::AnalyticsUpdate => "analytics_update",
            Self::RiskAlert => "risk_alert",
        }
    }

    fn message(self, symbol: &str, number: i64, time: i64, padding: usize) -> Message {
        let decimal = |mantissa, exponent| Decimal::new(mantissa, exponent).expect("at most 18 digits");
        let pad = (padding > 0).then(|| "x".repeat(padding));
        let symbol = symbol.to_owned();
        let ts = Timestamp(time);
        match self {
            Self::PublicTrade => Message::PublicTrade(PublicTrade {
                symbol,
                ts,
                price: decimal(6_701_250, -2),
                size: decimal(number, 0),
                side: Some(Side::BUY),
                trade_id: pad,
                venue: Some("LOADTEST".to_owned()),
                instrument_id: Some(1),
            }),
            Self::MarketData => Message::MarketData(MarketData {
                symbol,
                ts,
                price: Some(decimal(6_701_250, -2)),
                volume: Some(decimal(number, 0)),
                bid: Some(decimal(6_701_200, -2)),
                ask: Some(decimal(6_701_300, -2)),
                bid_size: None,
                ask_size: None,
                open: None,
                high: None,
                low: None,
                prev_close: None,
                change: None,
                change_ratio: None,
                venue: Some("LOADTEST".to_owned()),
                asset_class: pad,
                instrument_id: Some(1),
            }),
            Self::AnalyticsUpdate => Message::AnalyticsUpdate(AnalyticsUpdate {
                symbol,
                analysis_type: "load".to_owned(),
                results: Map(vec![
                    Entry { key: "number".to_owned(), value: Scalar::Integer(number) },
                    Entry { key: "padding".to_owned(), value: Scalar::Text(pad.unwrap_or_default()) },
                ]),
                calculated_at: ts,
                next_update: None,
                confidence_score: None,
                data_quality_score: None,
                instrument_id: Some(1),
            }),
            Self::RiskAlert => Message::RiskAlert(RiskAlert {
                scope: symbol,
                risk_type: RiskType::LOSS_LIMIT,
                severity: Severity::CRITICAL,
                message: pad.unwrap_or_default(),
                current_value: decimal(number, 0),
                threshold: decimal(6_701_250, -2),
                ts,
                metric: None,
                limit_value: None,
                recommended_action: None,
                auto_action_taken: None,
                portfolio_id: Some("LOADTEST".to_owned()),
                session_id: None,
            }),
        }
    }
}

/// Where a receiver finds the number of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Type id in the frame's header.
    pub type_id: u16,
    /// Bytes from the number to the end of the frame.
    pub from_end: usize,
    /// What stands before it in JSON.
    pub json: &'static [u8],
}

impl Mark {
    /// The number of the whole frame `frame`, whose type is [`Mark::type_id`].
    #[inline]
    #[must_use]
    pub fn number(&self, frame: &[u8]) -> Option<u64> {
        let at = frame.len().checked_sub(self.from_end)?;
        frame.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// The prepared message of one topic, as a publisher sends it.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    number_at: usize,
    time_at: usize,
    frame_len: usize,
    mark: Mark,
}

impl Template {
    /// A message about `symbol` whose frame has `frame_bytes` bytes, or the nearest size that can be had.
    ///
    /// # Errors
    /// What sizes there are.
    pub fn new(kind: Kind, symbol: &str, frame_bytes: usize) -> Result<Self, String> {
        let encode = |padding| frame::encode(&kind.message(symbol, SENTINEL, SENTINEL_TIME, padding));
        let least = encode(0).len();
        if frame_bytes < least || frame_bytes > FRAME_BYTES_MAX {
            return Err(format!(
                "a {} frame has {least} to {FRAME_BYTES_MAX} bytes, not {frame_bytes}; choose another --size",
                kind.name()
            ));
        }
        // Text of up to 8 bytes lies in the record, so a few sizes cannot be had: the next larger one is taken.
        let room = frame_bytes - least;
        let frame = encode(if room == 0 { 0 } else { room.max(9) });
        let place = |sentinel: i64| {
            let needle = sentinel.to_le_bytes();
            let found = frame.windows(8).rposition(|window| window == needle);
            found.ok_or_else(|| format!("the encoding of {} hides its numbers", kind.name()))
        };
        let (number_at, time_at) = (place(SENTINEL)?, place(SENTINEL_TIME)?);
        let (first, _) = Frame::split_first(&frame, FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
        first.view().map_err(|error| error.to_string())?;
        let mark =
            Mark { type_id: first.header.type_id, from_end: frame.len() - number_at, json: kind.marker() };
        let mut bytes = Vec::with_capacity(frame.len() + 14);
        websocket::client_message(websocket::BINARY, &frame, &mut bytes);
        let head = bytes.len() - frame.len();
        Ok(Self { bytes, number_at: head + number_at, time_at: head + time_at, frame_len: frame.len(), mark })
    }

    /// Appends message `number`, dated `time` in Unix ns.
    pub fn append(&self, number: u64, time: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        out[start + self.number_at..][..8].copy_from_slice(&number.to_le_bytes());
        out[start + self.time_at..][..8].copy_from_slice(&time.to_le_bytes());
    }

    /// Bytes of a message on the publisher's connection.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the frame, header included.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// Where a receiver finds the number.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        self.mark
    }
}

const _: () = assert!(HEADER_LEN == 40, "templates and walkers count on it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_size_asked_for_and_carries_number_and_time() {
        for kind in Kind::ALL.into_iter().chain([Kind::RiskAlert]) {
            for size in [256, 1_024, 4_096] {
                let template = Template::new(kind, "LOAD0007", size).unwrap();
                assert_eq!(template.frame_len(), size, "{kind:?}");
                let mut out = Vec::new();
                template.append(77, 1_790_000_000_000_000_000, &mut out);
                let head = websocket::head(&out).unwrap();
                let bytes = &out[head.len..];
                assert_eq!(template.mark().number(bytes), Some(77));
                let (frame, _) = Frame::split_first(bytes, FRAME_BYTES_MAX).unwrap();
                let message = frame.view().unwrap().to_owned();
                let shown = format!("{message:?}");
                assert!(shown.contains("LOAD0007") && shown.contains("77"), "{shown}");
                assert!(shown.contains("1790000000000000000"), "{shown}");
            }
        }
    }

    #[test]
    fn a_trade_of_128_bytes_can_be_had() {
        assert_eq!(Template::new(Kind::PublicTrade, "LOAD0007", 128).unwrap().frame_len(), 128);
    }

    #[test]
    fn a_size_out_of_reach_is_refused_with_the_range() {
        let error = Template::new(Kind::MarketData, "LOAD0007", 64).unwrap_err();
        assert!(error.contains("198 to"), "{error}");
    }
}
