//! D1: the v1.0 JSON of dashboards that exist today. Thirteen message types in one envelope,
//! `{message_type, version, timestamp, data}`, spelled in snake or camel case.
//!
//! Out, all four envelope keys are always there: the real client refuses a message without them. In, either
//! spelling is understood for every field by itself (C-02), `version` and `timestamp` may be missing (C-40),
//! what is unknown is passed over, and what is wrong is named in the sender's own spelling. Keys inside
//! free-form maps are data and never renamed (C-04). Times are RFC 3339 in UTC with one `Z` and
//! milliseconds (C-10); a time without a zone is UTC.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tickcast_protocol::error::FieldError;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::{Message, Topic};

pub use crate::case::Case;
use crate::parse::{JsonError, bounded};

mod decode;
mod encode;
mod price;
mod published;
mod schema;
mod subscription;

pub use decode::{decode, decode_server};
pub use encode::{
    client_message, connection_status, error, event, history, notice, pong, stream_state, subscription_ack,
};
pub use published::decode_published;
pub use schema::carries;
pub use subscription::{SUBSCRIPTION_TYPES, subscription_key, topics_of};

/// The version in every envelope we send.
pub const VERSION: &str = "1.0";
/// Longest request id that is taken and echoed, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest name, symbol or time a client may send, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The text is not JSON, or more than the limits allow.
pub const INVALID_JSON: &str = "INVALID_JSON";
/// A field is missing or holds what it must not.
pub const INVALID_MESSAGE: &str = "INVALID_MESSAGE";
/// No message has this type.
pub const UNKNOWN_MESSAGE_TYPE: &str = "UNKNOWN_MESSAGE_TYPE";
/// A type of the dialect that the receiver does not take from this sender.
pub const NO_HANDLER: &str = "NO_HANDLER";
/// A version whose major is not ours.
pub const VERSION_UNSUPPORTED: &str = "VERSION_UNSUPPORTED";
/// A subscription to something that does not exist.
pub const UNKNOWN_STREAM: &str = "UNKNOWN_STREAM";
/// A subscription to something that exists and that this dialect cannot carry.
pub const UNSUPPORTED_FORMAT: &str = "UNSUPPORTED_FORMAT";
/// A symbol that cannot be part of a topic.
pub const INVALID_FILTER: &str = "INVALID_FILTER";
/// The text is longer than accepted.
pub const MESSAGE_TOO_LARGE: &str = "MESSAGE_TOO_LARGE";
/// Events are missing; see [`notice`].
pub const DATA_GAP: &str = "DATA_GAP";
/// A stream is suspect, stale or closed; see [`stream_state`].
pub const STALE_UPSTREAM: &str = "STALE_UPSTREAM";
/// A stream is live again; see [`stream_state`].
pub const STREAM_LIVE: &str = "STREAM_LIVE";
/// The server is about to restart; see [`notice`].
pub const SERVER_DRAINING: &str = "SERVER_DRAINING";
/// Code of the error that says that the connection is about to be closed, because it is not read.
pub const SLOW_CONSUMER: &str = "SLOW_CONSUMER";

/// What a client may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Asks for a type of message, of one instrument or of all. See [`topics_of`].
    Subscribe {
        /// What is asked for, as written.
        subscription_type: String,
        /// The instrument by number.
        instrument_id: Option<u64>,
        /// The instrument by name.
        symbol: Option<String>,
        /// Free-form JSON, as written.
        parameters: Option<String>,
        /// Echoed in the answer.
        request_id: Option<String>,
    },
    /// Ends a subscription. Real clients send this for types they never subscribed to (C-16): answer
    /// `failed`, and do not hold it against them.
    Unsubscribe {
        /// As in the subscribe.
        subscription_type: String,
        /// As in the subscribe.
        instrument_id: Option<u64>,
        /// As in the subscribe.
        symbol: Option<String>,
        /// Free-form JSON, as written.
        parameters: Option<String>,
        /// Echoed in the answer.
        request_id: Option<String>,
    },
    /// Asks for a pong. See [`Pong::to`].
    Ping {
        /// The client's clock, as written.
        client_time: Option<String>,
        /// Echoed in the pong; real clients send milliseconds since 1970.
        sequence: Option<i64>,
        /// Echoed when the ping is refused.
        request_id: Option<String>,
    },
}

/// What the server says to one client, apart from events.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage {
    /// Greeting and heartbeat.
    ConnectionStatus(ConnectionStatus),
    /// Answer to subscribe and unsubscribe.
    SubscriptionAck(SubscriptionAck),
    /// Answer to ping.
    Pong(Pong),
    /// Something went wrong, or is worth a warning.
    Error(ErrorReport),
}

/// Greeting and heartbeat. Always about the client it is sent to (C-09): the real client takes its own id
/// from here, and does nothing before it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The client.
    pub client_id: String,
    /// When it connected, in ns UTC.
    pub connected_at: i64,
    /// What it is subscribed to, as [`subscription_key`] names it.
    pub subscriptions: Vec<String>,
    /// When it was heard last, in ns UTC.
    pub last_heartbeat: i64,
    /// How well the connection does.
    pub quality: Quality,
    /// Messages sent to it so far.
    pub message_count: u64,
}

/// Answer to subscribe and unsubscribe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionAck {
    /// As in the request.
    pub subscription_type: String,
    /// As in the request.
    pub instrument_id: Option<u64>,
    /// What became of it.
    pub status: AckStatus,
    /// For people.
    pub message: Option<String>,
    /// As in the request.
    pub request_id: Option<String>,
}

/// Answer to ping.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pong {
    /// As in the ping, to the letter.
    pub client_time: Option<String>,
    /// The server's clock, in ns UTC.
    pub server_time: i64,
    /// As in the ping.
    pub sequence: Option<i64>,
    /// How long the ping took; `null` when the clocks disagree or the client did not say (C-11).
    pub latency_ms: Option<f64>,
}

impl Pong {
    /// The answer to a ping received at `now` (ns UTC).
    #[must_use]
    pub fn to(client_time: Option<&str>, sequence: Option<i64>, now: i64) -> Self {
        let sent = client_time.and_then(Timestamp::parse);
        let elapsed = sent.and_then(|sent| now.checked_sub(sent.0)).filter(|elapsed| *elapsed >= 0);
        Self {
            client_time: client_time.map(str::to_owned),
            server_time: now,
            sequence,
            // Whole microseconds: the clocks are not better than that.
            latency_ms: elapsed.map(|elapsed| (elapsed / 1_000) as f64 / 1_000.0),
        }
    }
}

/// Something went wrong, or is worth a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorReport {
    /// Stable code, such as [`INVALID_MESSAGE`].
    pub code: String,
    /// For people.
    pub message: String,
    /// The request at fault.
    pub request_id: Option<String>,
    /// How bad.
    pub severity: ErrorSeverity,
    /// Seconds to wait before trying again.
    pub retry_after: Option<u64>,
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

names! {
    /// How well a connection does.
    Quality {
        /// Nothing to complain about.
        #[default]
        Good "good",
        /// Behind, but catching up.
        Degraded "degraded",
        /// Falling behind.
        Poor "poor",
    }
}
names! {
    /// What became of a subscribe or unsubscribe.
    AckStatus {
        /// Events follow.
        #[default]
        Subscribed "subscribed",
        /// No more events follow.
        Unsubscribed "unsubscribed",
        /// Nothing changed; the message says why.
        Failed "failed",
    }
}
names! {
    /// How bad an error is.
    ErrorSeverity {
        /// Nothing is broken.
        Warning "warning",
        /// A request failed.
        #[default]
        Error "error",
        /// The connection will not work.
        Critical "critical",
    }
}

/// A message that cannot be understood or served. The connection lives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct D1Error {
    /// Stable code, such as [`INVALID_MESSAGE`].
    pub code: &'static str,
    /// What is wrong, for people; names the field.
    pub message: String,
    /// The request's id, when one could be read.
    pub request_id: Option<String>,
    /// Field at fault in the sender's spelling, such as `data.instrumentId`, or empty.
    pub field: String,
}

impl D1Error {
    pub(crate) fn new(code: &'static str, field: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        let (field, message) = (bounded(field.as_ref()), bounded(message.as_ref()));
        Self { code, message, request_id: None, field }
    }

    /// A field that holds what it must not.
    pub(crate) fn invalid(error: &FieldError) -> Self {
        Self::new(INVALID_MESSAGE, &error.path, error.to_string())
    }

    /// What the client is told.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        ErrorReport {
            code: self.code.to_owned(),
            message: self.message.clone(),
            request_id: self.request_id.clone(),
            ..ErrorReport::default()
        }
    }
}

impl From<JsonError> for D1Error {
    fn from(error: JsonError) -> Self {
        let code = match error.code() {
            tickcast_protocol::ErrorCode::MessageTooLarge => MESSAGE_TOO_LARGE,
            _ => INVALID_JSON,
        };
        Self::new(code, "", error.to_string())
    }
}

/// An event as a legacy publisher sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// What is published.
    pub message: Message,
    /// Its topic, made from its key fields.
    pub topic: Topic,
    /// The spelling of its envelope.
    pub case: Option<Case>,
}

/// Numbers of instruments, which D1 clients use in place of symbols.
pub trait Instruments {
    /// The number of a symbol; [`stable_id`] when nothing better is known.
    fn id_of(&self, symbol: &str) -> u32;
    /// The symbol of a number, when it is known.
    fn symbol_of(&self, id: u64) -> Option<Arc<str>>;
}

/// A number derived from the symbol alone, the same in every run: FNV-1a of 32 bits over its UTF-8 bytes,
/// the highest bit cleared, and 1 in place of 0. Two symbols may share one; configure ids where that hurts.
#[must_use]
pub const fn stable_id(symbol: &str) -> u32 {
    let bytes = symbol.as_bytes();
    let (mut hash, mut index) = (0x811C_9DC5_u32, 0);
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    let id = hash & 0x7FFF_FFFF;
    if id == 0 { 1 } else { id }
}
