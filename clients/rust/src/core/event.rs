//! What the client core tells its owner: values, gaps, staleness, states, replies.

use std::fmt;

use bytes::Bytes;
use tickcast_protocol::frame::{Frame, Header};
use tickcast_protocol::message::{Durability, FullRecipient, Reason, StreamState, StreamStatus, View};
use tickcast_protocol::registry::{self, TypeInfo};
use tickcast_protocol::{BootId, Class, DecodeError, Epoch, ErrorCode, Message, Topic};

use super::durable::Critical;

/// A subscription, numbered for the life of the client. The server's own number changes with every
/// connection and never leaves the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey(pub u32);

impl fmt::Display for SubscriptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything the core can tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The client's state changed.
    State(StateChange),
    /// A subscription's state changed.
    Subscription {
        /// Which one.
        subscription: SubscriptionKey,
        /// What it was.
        from: SubscriptionState,
        /// What it is.
        to: SubscriptionState,
    },
    /// The server took a subscription, for the first time or after a reconnect.
    Acknowledged {
        /// Which one.
        subscription: SubscriptionKey,
        /// Streams it matches now.
        streams: u32,
        /// The epoch its sequences belong to.
        epoch: Epoch,
        /// True when it continues from positions instead of starting anew.
        resumed: bool,
    },
    /// A stream of a subscription was announced.
    Bound {
        /// Which subscription.
        subscription: SubscriptionKey,
        /// The stream's topic.
        topic: Topic,
        /// The stream's class.
        class: Class,
        /// Sequence of the first event that counts.
        next_sequence: u64,
    },
    /// An event arrived.
    Data(Data),
    /// Events did not arrive, or did so late.
    Gap(Gap),
    /// Nothing arrives although something should. Ends with [`ClientEvent::Fresh`] or with the
    /// connection.
    Stale {
        /// Which subscription.
        subscription: SubscriptionKey,
        /// The topic, or `None` when the whole subscription is stale.
        topic: Option<Topic>,
        /// For how long nothing has arrived, in ns.
        age_ns: u64,
    },
    /// What was stale is not any more.
    Fresh {
        /// Which subscription.
        subscription: SubscriptionKey,
        /// The topic, or `None` when it was the whole subscription.
        topic: Option<Topic>,
        /// For how long nothing had arrived, in ns.
        age_ns: u64,
    },
    /// The server says how a stream is, which is not as it was.
    Stream(StreamChange),
    /// What was asked for is not all kept: how far back history goes.
    HistoryShort {
        /// Which subscription; none when a resume was refused.
        subscription: Option<SubscriptionKey>,
        /// When the history of this epoch began, in ns since the Unix epoch: nothing older is kept.
        begun: u64,
        /// Streams that are not kept as far back as was asked for.
        short: Vec<Kept>,
    },
    /// A snapshot or replay of a subscription follows.
    Begin {
        /// Which subscription.
        subscription: SubscriptionKey,
        /// [`Origin::Snapshot`] or [`Origin::Replay`].
        origin: Origin,
        /// Events in it, as the server announced.
        events: u32,
    },
    /// The snapshot or replay is over.
    End {
        /// Which subscription.
        subscription: SubscriptionKey,
        /// [`Origin::Snapshot`] or [`Origin::Replay`].
        origin: Origin,
    },
    /// The server knows the client's identity: what waits for it follows.
    Identified {
        /// The durable identity.
        identity: String,
        /// What proves it next time: keep it as a secret, and give it in [`super::Identity::token`].
        token: String,
        /// What critical messages survive.
        durability: Durability,
    },
    /// A critical message for the client's identity, which comes again until it is acknowledged.
    Critical(Box<Critical>),
    /// What became of a publish that asked for a reply.
    Published {
        /// The request, as returned by `publish_acked`.
        request: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Answer to a ping.
    Pong {
        /// Time there and back, in ns.
        rtt_ns: u64,
        /// The server's clock less ours, in ns; right to within half the round trip.
        offset_ns: i64,
    },
    /// The server refused a request or a frame; the connection lives.
    ServerError(ServerError),
    /// The server asks to come back later: it is about to close.
    Draining {
        /// How long to stay away, in ms.
        reconnect_in_ms: u32,
    },
    /// The server is about to close the connection, and says why; the close follows.
    Closing {
        /// Why.
        reason: GapReason,
    },
    /// The server broke the protocol.
    Violation(Violation),
}

impl ClientEvent {
    /// The subscription the event belongs to, if it belongs to one.
    #[must_use]
    pub fn subscription(&self) -> Option<SubscriptionKey> {
        match self {
            Self::Subscription { subscription, .. }
            | Self::Acknowledged { subscription, .. }
            | Self::Bound { subscription, .. }
            | Self::Stale { subscription, .. }
            | Self::Fresh { subscription, .. }
            | Self::Begin { subscription, .. }
            | Self::End { subscription, .. } => Some(*subscription),
            Self::Data(data) => Some(data.subscription),
            Self::Gap(gap) => Some(gap.subscription),
            Self::Stream(change) => Some(change.subscription),
            Self::HistoryShort { subscription, .. } => *subscription,
            Self::ServerError(error) => error.subscription,
            Self::State(_)
            | Self::Published { .. }
            | Self::Identified { .. }
            | Self::Critical(_)
            | Self::Pong { .. }
            | Self::Draining { .. }
            | Self::Closing { .. }
            | Self::Violation(_) => None,
        }
    }
}

/// Whether an event is news, a last value, or was missed and sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// As it happens.
    Live,
    /// A last value from before the subscription; not counted.
    Snapshot,
    /// Missed while the client was away; counted.
    Replay,
}

/// One event of one subscription. The payload shares the buffer it was read or decompressed into: keep a
/// [`Data`] for long only after [`Data::detach`].
#[derive(Clone, Debug)]
pub struct Data {
    /// The subscription it was delivered to. An event that two subscriptions match is told twice.
    pub subscription: SubscriptionKey,
    /// The stream's topic.
    pub topic: Topic,
    /// The stream's class.
    pub class: Class,
    /// News, last value, or replay.
    pub origin: Origin,
    /// The frame's header; of a payload that came compressed, as it was before that.
    pub header: Header,
    /// The frame's payload, decompressed and not yet checked.
    pub payload: Bytes,
    /// When it was received, on the clock of the caller.
    pub received_at: u64,
}

impl Data {
    /// Number of the type.
    #[must_use]
    pub const fn type_id(&self) -> u16 {
        self.header.type_id
    }

    /// The type's row, or `None` for a type of a newer server.
    #[must_use]
    pub fn info(&self) -> Option<&'static TypeInfo> {
        registry::by_id(self.header.type_id)
    }

    /// The event's number on its stream.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// When the server accepted it, in ns since the Unix epoch.
    #[must_use]
    pub const fn publish_time(&self) -> u64 {
        self.header.publish_time
    }

    /// Time from publish to receipt, in ns, when the caller's clock is Unix time. Negative when the two
    /// clocks disagree by more than the journey took.
    #[must_use]
    pub fn age_ns(&self) -> i64 {
        let age = i128::from(self.received_at) - i128::from(self.header.publish_time);
        age.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// The message in place, checked.
    ///
    /// # Errors
    /// [`DecodeError`], when the payload is malformed or the type unknown.
    pub fn view(&self) -> Result<View<'_>, DecodeError> {
        Frame { header: self.header, payload: &self.payload }.view()
    }

    /// The message as an owned copy.
    ///
    /// # Errors
    /// As for [`Data::view`].
    pub fn message(&self) -> Result<Message, DecodeError> {
        self.view().map(View::to_owned)
    }

    /// The same event with a payload of its own, so that the read buffer can be reused.
    #[must_use]
    pub fn detach(mut self) -> Self {
        self.payload = Bytes::copy_from_slice(&self.payload);
        self
    }
}

/// How a stream is now, by the word of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamChange {
    /// Which subscription.
    pub subscription: SubscriptionKey,
    /// The stream's topic.
    pub topic: Topic,
    /// The stream's class.
    pub class: Class,
    /// How it was.
    pub from: StreamState,
    /// How it is, why and since when.
    pub status: StreamStatus,
}

impl fmt::Display for StreamChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StreamStatus { state, reason, origin, interval_ms, last_sequence, .. } = &self.status;
        write!(f, "{} is {} ({})", self.topic, state.name(), reason.name())?;
        if *interval_ms > 0 {
            write!(f, ", expected every {:.1} s ({})", f64::from(*interval_ms) / 1e3, origin.name())?;
        }
        write!(f, ", last seq {last_sequence}")
    }
}

/// How far back a stream is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The stream's topic.
    pub topic: Topic,
    /// The stream's class.
    pub class: Class,
    /// The oldest sequence that is kept; one more than the newest when none is.
    pub oldest: u64,
    /// When that was published, in ns since the Unix epoch; zero when it is not known.
    pub oldest_time: u64,
}

/// Events of one stream that one subscription did not get, or got late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which subscription.
    pub subscription: SubscriptionKey,
    /// The stream's topic.
    pub topic: Topic,
    /// The stream's class.
    pub class: Class,
    /// First sequence concerned; zero when it cannot be known.
    pub from: u64,
    /// Last sequence concerned; zero when it cannot be known.
    pub through: u64,
    /// Events lost.
    pub gapped: u64,
    /// Events replaced by a newer one of the same key.
    pub conflated: u64,
    /// Why.
    pub reason: GapReason,
    /// True when the events came after all, as a replay.
    pub healed: bool,
    /// When the stream was last heard before, on the clock of the caller; zero when never.
    pub since: u64,
    /// When this became known, on the clock of the caller.
    pub at: u64,
}

impl Gap {
    /// True when events are lost, not only conflated or late.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        !self.healed && (self.gapped > 0 || matches!(self.reason, GapReason::EpochChanged))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.topic)?;
        match (self.from, self.through) {
            (0, _) | (_, 0) => {}
            (from, through) if from == through => write!(f, " seq {from}")?,
            (from, through) => write!(f, " seq {from} to {through}")?,
        }
        match (self.healed, self.gapped, self.conflated) {
            (true, ..) => write!(f, ": missed, then replayed")?,
            (false, 0, 0) => write!(f, ": unknown loss")?,
            (false, gapped, 0) => write!(f, ": {gapped} lost")?,
            (false, 0, conflated) => write!(f, ": {conflated} conflated")?,
            (false, gapped, conflated) => write!(f, ": {gapped} lost, {conflated} conflated")?,
        }
        write!(f, " ({})", self.reason)
    }
}

/// Why events did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// The subscription's outbox on the server was full: this client read too slowly.
    OutboxFull,
    /// A part of the server was lapped.
    Lapped,
    /// The publisher's own source skipped events.
    Upstream,
    /// The server's history no longer had them when the client came back.
    HistoryGone,
    /// The subscription asked for a lower rate.
    Rate,
    /// The server drained.
    Drain,
    /// Together with events that passed no filter, which are no loss.
    Filter,
    /// The connection was away in between.
    Reconnect,
    /// The server's history began anew: sequences before and after cannot be compared.
    EpochChanged,
    /// Sequences jumped and nobody said why: the server broke its promise.
    Unexplained,
    /// A reason of a newer server, or none given.
    Other(u8),
}

impl GapReason {
    pub(crate) const fn of(reason: Reason) -> Self {
        match reason {
            Reason::OUTBOX_FULL => Self::OutboxFull,
            Reason::LAPPED => Self::Lapped,
            Reason::UPSTREAM => Self::Upstream,
            Reason::HISTORY_GONE => Self::HistoryGone,
            Reason::RATE => Self::Rate,
            Reason::DRAIN => Self::Drain,
            Reason::FILTER => Self::Filter,
            Reason(other) => Self::Other(other),
        }
    }

    /// The name in logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OutboxFull => "outbox_full",
            Self::Lapped => "lapped",
            Self::Upstream => "upstream",
            Self::HistoryGone => "history_gone",
            Self::Rate => "rate",
            Self::Drain => "drain",
            Self::Filter => "filter",
            Self::Reconnect => "reconnect",
            Self::EpochChanged => "epoch_changed",
            Self::Unexplained => "unexplained",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// State of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Not trying: initial, closed by the user, or after a close code that says stop.
    Disconnected,
    /// Trying.
    Connecting {
        /// Number of this attempt since the last stable connection, from 1.
        attempt: u32,
    },
    /// Welcomed by the server.
    Connected,
    /// The server asked us to move; events still arrive.
    Draining,
}

impl ClientState {
    /// The name in logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connecting { .. } => "connecting",
            Self::Connected => "connected",
            Self::Draining => "draining",
        }
    }
}

/// State of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionState {
    /// Not wanted any more, or refused for good.
    Unsubscribed,
    /// Waiting for the connection or the server's answer.
    Subscribing,
    /// Acknowledged, and heard of within its limit. A stream where nothing happens is live.
    Live,
    /// Acknowledged, but nothing arrives.
    Stale,
    /// A gap is being replayed.
    Recovering,
}

impl SubscriptionState {
    /// The name in logs and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsubscribed => "unsubscribed",
            Self::Subscribing => "subscribing",
            Self::Live => "live",
            Self::Stale => "stale",
            Self::Recovering => "recovering",
        }
    }
}

/// The client went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// What it was.
    pub from: ClientState,
    /// What it is.
    pub to: ClientState,
    /// Why the connection ended, if it did.
    pub close: Option<Close>,
    /// True when the core will try again by itself.
    pub will_retry: bool,
    /// When it will, on the clock of the caller.
    pub next_attempt_at: Option<u64>,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// WebSocket close code; 1006 when the socket ended without one.
    pub code: u16,
    /// In words.
    pub reason: String,
}

impl Close {
    /// A close with a code and words.
    #[must_use]
    pub fn new(code: impl Into<u16>, reason: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into() }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            return write!(f, "closed with {}", self.code);
        }
        write!(f, "closed with {}: {}", self.code, self.reason)
    }
}

/// What became of a publish that asked for a reply.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Accepted.
    Accepted {
        /// Its topic.
        topic: String,
        /// Its sequence.
        sequence: u64,
        /// What it survives.
        durability: Durability,
        /// True when the server already had a message with this id.
        duplicate: bool,
        /// Its place among all critical messages, or zero when it is none.
        position: u64,
        /// Identities that a critical message waits for.
        queued: u32,
        /// Identities for which it was not kept, because too much waits for them.
        full: Vec<FullRecipient>,
    },
    /// Refused.
    Refused(ServerError),
    /// It waited longer than its time to live and was never sent.
    Expired,
    /// The client was closed before it was sent.
    Closed,
    /// It was sent, but no reply came before the connection ended or the time was up: it may have been
    /// accepted. Publishing again with the same id is safe.
    Unknown,
}

/// The server refused something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// The subscription concerned, if it was a request about one.
    pub subscription: Option<SubscriptionKey>,
    /// Number of the error code.
    pub code: u16,
    /// In words.
    pub message: String,
    /// Field at fault, or empty.
    pub field: String,
    /// True when the same request may succeed later.
    pub retryable: bool,
    /// When to try again, in ms, or zero.
    pub retry_after_ms: u32,
}

impl ServerError {
    /// The code, when this version knows it.
    #[must_use]
    pub const fn error_code(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.code)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error_code() {
            Some(code) => write!(f, "{code}")?,
            None => write!(f, "code {}", self.code)?,
        }
        if !self.field.is_empty() {
            write!(f, " at `{}`", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ServerError {}

/// How a server broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame cannot be read; the connection is given up.
    #[error("malformed frame: {0}")]
    Malformed(#[from] DecodeError),
    /// A data frame of a stream that was never announced. Told once a connection, counted always.
    #[error("data of stream {0}, which was not announced")]
    Unbound(u32),
    /// A stream with a topic or class this version does not know. Its frames are skipped and counted.
    #[error("stream {stream} is `{topic}`, which this version does not know")]
    Foreign {
        /// The stream.
        stream: u32,
        /// Its topic, as sent.
        topic: String,
    },
    /// The server's sums of what a subscription missed, when nothing waited, are not ours: one of the two is
    /// wrong. Conflated, gapped, filtered.
    #[error("the server says {told:?} events were conflated, gapped and filtered, we counted {counted:?}")]
    Sums {
        /// The subscription.
        subscription: SubscriptionKey,
        /// What the server says.
        told: [u64; 3],
        /// What we counted.
        counted: [u64; 3],
    },
    /// More streams than this client keeps track of. Their frames are skipped and counted.
    #[error("more than {0} streams are bound; `streams_max` bounds them")]
    TooManyStreams(usize),
}

/// What the server said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Identity of the run.
    pub boot_id: BootId,
    /// Identity of the history.
    pub epoch: Epoch,
    /// This connection.
    pub connection: u64,
    /// Program and version.
    pub server: String,
    /// Interval of heartbeats, in ms; zero when there are none.
    pub heartbeat_ms: u32,
    /// Largest frame it accepts, in bytes.
    pub frame_bytes_max: u32,
    /// Most subscriptions of a connection.
    pub subscriptions_max: u32,
    /// Whether it compresses large messages to us.
    pub lz4: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_small_enough_for_deep_channels() {
        assert!(size_of::<ClientEvent>() <= 160, "{}", size_of::<ClientEvent>());
    }
}
