//! Everything peers can say to each other: the one message table.
//!
//! A row gives type id, schema version, name, struct, delivery class, topic key, conflation key, filter
//! attributes, class rules and fields. Structs, rkyv layout, layout checks, registry, SPEC's offset
//! tables, golden files and generated readers all come from here.
//!
//! Evolution: append fields at the end of a message only, and raise its version. Nested records are
//! frozen: their size is part of every list that holds them. Numbers and ids are never reused.

use std::cmp::Ordering;

use crate::decimal::Decimal;
use crate::field::{Blob, Json, Map, Timestamp};
use crate::registry::{Base, Bound, Raise, When};
use crate::table::{messages, names, record};

/// How a message is delivered; later variants are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Only the newest per conflation key matters; older ones may be conflated for a slow reader.
    Latest = 1,
    /// In order, bounded; past the bound a gap is told.
    Ordered = 2,
    /// Never dropped: its own lane, written first.
    Critical = 3,
}

impl Class {
    /// Every class, mildest first.
    pub const ALL: [Self; 3] = [Self::Latest, Self::Ordered, Self::Critical];

    /// The class with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Latest),
            2 => Some(Self::Ordered),
            3 => Some(Self::Critical),
            _ => None,
        }
    }

    /// The name in JSON, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Ordered => "ordered",
            Self::Critical => "critical",
        }
    }
}

impl PartialOrd for Class {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Class {
    fn cmp(&self, other: &Self) -> Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

// ---------------------------------------------------------------------------------------------
// Sets of names

names! {
    /// What a peer does on this connection.
    "role" Role / ArchivedRole { SUBSCRIBER = 1 "subscriber", PUBLISHER = 2 "publisher", BOTH = 3 "both", }
}
names! {
    /// Where a subscription starts.
    "start" Start / ArchivedStart { LIVE = 0 "live", SNAPSHOT = 1 "snapshot", }
}
names! {
    /// What a full outbox does to a subscription. `default` is the policy of each message's class.
    "policy" Policy / ArchivedPolicy {
        DEFAULT = 0 "default", CONFLATE = 1 "conflate", DROP_OLDEST = 2 "drop_oldest", DISCONNECT = 3 "disconnect",
    }
}
names! {
    /// What became of a request about a subscription.
    "subscription_status" SubscriptionStatus / ArchivedSubscriptionStatus {
        SUBSCRIBED = 1 "subscribed", UNSUBSCRIBED = 2 "unsubscribed", UPDATED = 3 "updated",
    }
}
names! {
    /// What became of a published message.
    "publish_status" PublishStatus / ArchivedPublishStatus {
        ACCEPTED = 1 "accepted", DUPLICATE = 2 "duplicate", CONFLICT = 3 "conflict", REFUSED = 4 "refused",
        NOT_DURABLE = 5 "not_durable",
    }
}
names! {
    /// What an accepted message survives: nothing, the process, a power cut of the node, a node.
    "durability" Durability / ArchivedDurability {
        MEMORY = 0 "memory", OS = 1 "os", DISK = 2 "disk", QUORUM = 3 "quorum",
    }
}
names! {
    /// What a notice tells.
    "notice_kind" NoticeKind / ArchivedNoticeKind {
        LOSS = 1 "loss", UPSTREAM_GAP = 2 "upstream_gap", DRAINING = 3 "draining", COUNTS = 4 "counts",
        CLOSING = 5 "closing",
    }
}
names! {
    /// Why events did not reach a subscriber.
    "reason" Reason / ArchivedReason {
        NONE = 0 "none", OUTBOX_FULL = 1 "outbox_full", LAPPED = 2 "lapped", UPSTREAM = 3 "upstream",
        HISTORY_GONE = 4 "history_gone", RATE = 5 "rate", DRAIN = 6 "drain", FILTER = 7 "filter",
    }
}
names! {
    /// How a stream is: whether what is known of it can be trusted to be all there is.
    "stream_state" StreamState / ArchivedStreamState {
        LIVE = 1 "live", IDLE = 2 "idle", SUSPECT = 3 "suspect", STALE = 4 "stale", REPLAY = 5 "replay",
        CLOSED = 6 "closed",
    }
}
names! {
    /// Why a stream is in its state.
    "state_reason" StateReason / ArchivedStateReason {
        NONE = 0 "none", EVENT = 1 "event", QUIET = 2 "quiet", VOUCHED = 3 "vouched", SOURCE_GONE = 4 "source_gone",
        UPSTREAM = 5 "upstream", SAID = 6 "said",
    }
}
names! {
    /// Where a stream's expected interval comes from.
    "interval_origin" IntervalOrigin / ArchivedIntervalOrigin { NONE = 0 "none", SET = 1 "set", LEARNED = 2 "learned", }
}
names! {
    /// What a publisher says of the source of its streams.
    "source_status" SourceStatus / ArchivedSourceStatus {
        ALIVE = 1 "alive", LOST = 2 "lost", CLOSED = 3 "closed", REPLAY = 4 "replay",
    }
}
names! {
    /// What a begin and end frame bracket.
    "bracket" Bracket / ArchivedBracket { SNAPSHOT = 1 "snapshot", REPLAY = 2 "replay", }
}
names! {
    /// A delivery class by number; see [`Class`].
    "class" ClassName / ArchivedClassName { LATEST = 1 "latest", ORDERED = 2 "ordered", CRITICAL = 3 "critical", }
}
names! {
    /// One ordered scale for every dialect's levels.
    "severity" Severity / ArchivedSeverity {
        INFO = 0 "info", LOW = 1 "low", MEDIUM = 2 "medium", HIGH = 3 "high", CRITICAL = 4 "critical",
        EMERGENCY = 5 "emergency",
    }
}
names! {
    /// Side of a trade or order.
    "side" Side / ArchivedSide { BUY = 1 "buy", SELL = 2 "sell", }
}
names! {
    /// Side of a position.
    "position_side" PositionSide / ArchivedPositionSide { LONG = 1 "long", SHORT = 2 "short", FLAT = 3 "flat", }
}
names! {
    /// What a signal or algorithm says to do.
    "decision" Decision / ArchivedDecision {
        BUY = 1 "buy", SELL = 2 "sell", HOLD = 3 "hold", CLOSE_POSITION = 4 "close_position",
    }
}
names! {
    /// State of an order.
    "order_status" OrderStatus / ArchivedOrderStatus {
        PENDING = 1 "pending", OPEN = 2 "open", FILLED = 3 "filled", PARTIAL = 4 "partial",
        CANCELLED = 5 "cancelled", REJECTED = 6 "rejected",
    }
}
names! {
    /// State of an execution.
    "execution_status" ExecutionStatus / ArchivedExecutionStatus {
        EXECUTION = 1 "execution", FILL = 2 "fill", PARTIAL_FILL = 3 "partial_fill",
    }
}
names! {
    /// Whether a message about an order book is all of it, or what changed.
    "book_kind" BookKind / ArchivedBookKind { SNAPSHOT = 1 "snapshot", DELTA = 2 "delta", }
}
names! {
    /// Kind of an option.
    "option_type" OptionType / ArchivedOptionType { CALL = 1 "call", PUT = 2 "put", }
}
names! {
    /// Direction of a flow.
    "direction" Direction / ArchivedDirection { BULLISH = 1 "bullish", BEARISH = 2 "bearish", NEUTRAL = 3 "neutral", }
}
names! {
    /// Direction of a metric.
    "trend" Trend / ArchivedTrend { INCREASING = 1 "increasing", DECREASING = 2 "decreasing", STABLE = 3 "stable", }
}
names! {
    /// What a risk alert is about.
    "risk_type" RiskType / ArchivedRiskType {
        LOSS_LIMIT = 1 "loss_limit", TIME_LIMIT = 2 "time_limit", VOLATILITY = 3 "volatility",
        CORRELATION = 4 "correlation", OTHER = 5 "other",
    }
}
names! {
    /// State of a trading session.
    "session_state" SessionState / ArchivedSessionState {
        STARTED = 1 "started", ACTIVE = 2 "active", PAUSED = 3 "paused", COMPLETED = 4 "completed",
        EXPIRED = 5 "expired", EMERGENCY_STOPPED = 6 "emergency_stopped",
    }
}
names! {
    /// What became of a critical message for one recipient.
    "delivery_outcome" DeliveryOutcome / ArchivedDeliveryOutcome {
        ACKED = 1 "acked", EXPIRED = 2 "expired", REVOKED = 3 "revoked", SUPERSEDED = 4 "superseded",
    }
}
names! {
    /// State of a component.
    "health" Health / ArchivedHealth { HEALTHY = 1 "healthy", DEGRADED = 2 "degraded", ERROR = 3 "error", }
}
names! {
    /// State of an engine.
    "engine_state" EngineState / ArchivedEngineState {
        STARTING = 1 "starting", RUNNING = 2 "running", STOPPING = 3 "stopping", STOPPED = 4 "stopped", ERROR = 5 "error",
    }
}

// ---------------------------------------------------------------------------------------------
// Nested records: frozen

record! {
    /// Where a subscriber stands on one stream.
    "position" Position / ArchivedPosition {
        /// Topic of the stream.
        topic: String, "topic";
        /// Class of the stream.
        class: ClassName, "class";
        /// The last sequence received.
        sequence: u64, "events";
    }
}
record! {
    /// A stream's id, announced before its first frame.
    "binding" Binding / ArchivedBinding {
        /// The id that frames carry, never reused within a boot id.
        stream: u32, "stream id";
        /// Topic of the stream.
        topic: String, "topic";
        /// Class of the stream.
        class: ClassName, "class";
        /// Sequence of the first event this subscription counts from.
        next_sequence: u64, "events";
    }
}
record! {
    /// The newest sequence of a stream, so that silence can be told from loss.
    "head" Head / ArchivedHead {
        /// The stream.
        stream: u32, "stream id";
        /// Its newest sequence.
        sequence: u64, "events";
        /// Up to here, all that the peer has neither received nor been told of was left out by its filters; zero when nothing is said.
        through: u64, "events";
    }
}
record! {
    /// A stretch of positions of critical messages, both ends included.
    "span" Span / ArchivedSpan {
        /// The first.
        from: u64, "position";
        /// The last.
        through: u64, "position";
    }
}
record! {
    /// A recipient for whom a critical message was not kept, because too much waits for it.
    "full_recipient" FullRecipient / ArchivedFullRecipient {
        /// The durable identity.
        identity: String, "identity";
        /// Critical messages that wait for it.
        waiting: u32, "count";
        /// Age of the oldest of them.
        oldest_age_ms: u64, "ms";
    }
}
record! {
    /// How one stream is.
    "stream_status" StreamStatus / ArchivedStreamStatus {
        /// The stream.
        stream: u32, "stream id";
        /// How it is.
        state: StreamState, "name";
        /// Why.
        reason: StateReason, "name";
        /// Where the interval comes from.
        origin: IntervalOrigin, "name";
        /// Longest time between two events while all is well, or zero when none is expected.
        interval_ms: u32, "ms";
        /// Since when it is so.
        since: Timestamp, "ns UTC";
        /// Its newest sequence when that was found.
        last_sequence: u64, "events";
    }
}
record! {
    /// How far back the history of one stream goes.
    "kept" Kept / ArchivedKept {
        /// The stream.
        stream: u32, "stream id";
        /// The oldest sequence that is kept of it; one more than its newest when none is.
        oldest: u64, "events";
        /// Publish time of that event, or zero when it is not known.
        oldest_time: Timestamp, "ns UTC";
    }
}
record! {
    /// One position of a portfolio.
    "holding" Holding / ArchivedHolding {
        /// Instrument held.
        symbol: String, "symbol";
        /// Amount held, negative when short.
        quantity: Decimal, "units of the instrument";
        /// Average entry price.
        average_price: Decimal, "quote currency";
        /// Market price now.
        market_price: Decimal, "quote currency";
        /// Profit or loss not realised.
        unrealized_pnl: Decimal, "account currency";
        /// The same, relative to the cost.
        unrealized_pnl_ratio: f64, "ratio";
    }
}

record! {
    /// One price of an order book.
    "level" Level / ArchivedLevel {
        /// The price.
        price: Decimal, "quote currency";
        /// What is offered at it; zero in a delta removes the level.
        quantity: Decimal, "units of the instrument";
    }
}

// ---------------------------------------------------------------------------------------------
// The table

messages! {
    /// First message of a binary client, within five seconds of the upgrade.
    1 version 1 "hello" Hello / ArchivedHello Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// What the peer does.
        role: Role, "name";
        /// What the peer calls itself, for logs and status; at most 64 bytes.
        name: String, "text";
        /// Program and version of the client; at most 64 bytes.
        client: String, "text";
        /// Codecs the peer can read, besides none: bit 0 is LZ4 (section 3). Bits the server does not know are ignored.
        codecs: u8, "bits";
    }

    /// Answer to hello: who the server is and what it allows.
    2 version 1 "welcome" Welcome / ArchivedWelcome Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Identity of this run; on a new one all stream ids are forgotten.
        boot_id: u64, "id";
        /// Identity of the history that sequences refer to.
        epoch: u64, "id";
        /// This connection.
        connection: u64, "id";
        /// Program and version of the server.
        server: String, "text";
        /// Interval of heartbeats.
        heartbeat_ms: u32, "ms";
        /// Largest frame the server accepts from this peer.
        frame_bytes_max: u32, "bytes";
        /// Most subscriptions of this connection.
        subscriptions_max: u32, "count";
        /// Server time.
        server_time: Timestamp, "ns UTC";
        /// Codecs that the server may use in data frames to this peer: of those it offered.
        codecs: u8, "bits";
    }

    /// Asks for every stream that a topic filter names, now and later.
    3 version 1 "subscribe" Subscribe / ArchivedSubscribe Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the peer, echoed in the answer.
        request: u64, "id";
        /// Topic or pattern.
        filter: String, "topic filter";
        /// Where to start.
        start: Start, "name";
        /// What a full outbox does.
        policy: Policy, "name";
        /// Which events of the streams, or empty for all.
        predicate: String, "predicate";
        /// Most events a second of each key, 0.01 to 1000, or zero for no bound.
        max_hz: f64, "Hz";
    }

    /// Answer to subscribe, resume, configure and unsubscribe. Binds follow.
    4 version 1 "acknowledge" Acknowledge / ArchivedAcknowledge Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The request answered.
        request: u64, "id";
        /// The subscription, numbered for this connection.
        subscription: u32, "id";
        /// What became of it.
        status: SubscriptionStatus, "name";
        /// The epoch its sequences belong to.
        epoch: u64, "id";
        /// Streams it matches now.
        streams: u32, "count";
    }

    /// Announces stream ids before the first frame that carries them.
    5 version 1 "bind" Bind / ArchivedBind Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The subscription they belong to.
        subscription: u32, "id";
        /// The streams.
        bindings: Vec<Binding>, "list";
    }

    /// Ends a subscription.
    6 version 1 "unsubscribe" Unsubscribe / ArchivedUnsubscribe Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the peer, echoed in the answer.
        request: u64, "id";
        /// The subscription.
        subscription: u32, "id";
    }

    /// Says more about the data frame that follows it in the same WebSocket message, and asks for a reply.
    7 version 1 "publish" Publish / ArchivedPublish Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the publisher, echoed in the reply.
        request: u64, "id";
        /// Topic expected, or empty when it follows from the key fields.
        topic: String, "topic";
        /// The publisher's id of the message, or empty; at most 64 bytes. A critical message that is published again under its id is accepted once.
        id: String, "text";
        /// The least durability that will do.
        durability: Durability, "name";
        /// When a critical message is of no use any more and waits for nobody; zero for never.
        expires_at: Timestamp, "ns UTC";
        /// A critical message takes the place of an older one of its topic and this key that still waits; empty for none; at most 64 bytes.
        collapse_key: String, "text";
    }

    /// Reply to a publish.
    8 version 1 "published" Published / ArchivedPublished Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The request answered.
        request: u64, "id";
        /// What became of the message.
        status: PublishStatus, "name";
        /// Its topic, when known.
        topic: String, "topic";
        /// Its sequence, or zero.
        sequence: u64, "events";
        /// What it survives.
        durability: Durability, "name";
        /// Error code, or zero.
        code: u16, "error code";
        /// Field at fault, or empty.
        field: String, "path";
        /// What is wrong, or empty.
        message: String, "text";
        /// Place of a critical message among all that were kept, or zero when none was.
        position: u64, "position";
        /// Recipients for whom a critical message waits until they acknowledge it.
        queued: u32, "count";
        /// Recipients for whom it was not kept: too much waits for them.
        full: Vec<FullRecipient>, "list";
    }

    /// Asks for a pong.
    9 version 1 "ping" Ping / ArchivedPing Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The sender's clock.
        client_time: Timestamp, "ns UTC";
        /// Chosen by the sender, echoed.
        sequence: u64, "count";
    }

    /// Answer to a ping.
    10 version 1 "pong" Pong / ArchivedPong Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// As in the ping.
        client_time: Timestamp, "ns UTC";
        /// The answerer's clock.
        server_time: Timestamp, "ns UTC";
        /// As in the ping.
        sequence: u64, "count";
    }

    /// What happened to one subscriber and not to the others; sent before its next data frame.
    11 version 1 "notice" Notice / ArchivedNotice Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// What it tells.
        kind: NoticeKind, "name";
        /// The subscription concerned, or zero.
        subscription: u32, "id";
        /// The stream concerned, or zero.
        stream: u32, "stream id";
        /// First sequence concerned, or zero.
        from: u64, "events";
        /// Last sequence concerned: everything up to here is accounted for.
        through: u64, "events";
        /// Events replaced by a newer one of the same key, in this range.
        conflated: u64, "events";
        /// Events lost, in this range.
        gapped: u64, "events";
        /// Events that did not match the filter, in this range.
        filtered: u64, "events";
        /// Why.
        reason: Reason, "name";
        /// When draining: how long to wait before coming back.
        reconnect_in_ms: u32, "ms";
    }

    /// A request or frame was refused; the connection lives.
    12 version 1 "error" Error / ArchivedError Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The request at fault, or zero.
        request: u64, "id";
        /// What kind of error.
        code: u16, "error code";
        /// What is wrong, and how to put it right.
        message: String, "text";
        /// Field at fault, or empty.
        field: String, "path";
        /// True when the same request may succeed later.
        retryable: bool, "flag";
        /// When to try again, or zero.
        retry_after_ms: u32, "ms";
    }

    /// A subscribe that continues after the positions given.
    13 version 1 "resume" Resume / ArchivedResume Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the peer, echoed in the answer.
        request: u64, "id";
        /// Topic or pattern.
        filter: String, "topic filter";
        /// The epoch the positions belong to.
        epoch: u64, "id";
        /// Where the subscriber stands.
        positions: Vec<Position>, "list";
        /// What a full outbox does.
        policy: Policy, "name";
        /// Which events of the streams, or empty for all.
        predicate: String, "predicate";
        /// Most events a second of each key, 0.01 to 1000, or zero for no bound.
        max_hz: f64, "Hz";
    }

    /// What follows up to the end frame is a snapshot or replay of one subscription.
    14 version 1 "begin" Begin / ArchivedBegin Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The subscription.
        subscription: u32, "id";
        /// What follows.
        bracket: Bracket, "name";
        /// Events in it.
        events: u32, "count";
    }

    /// End of a snapshot or replay; live events follow.
    15 version 1 "end" End / ArchivedEnd Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The subscription.
        subscription: u32, "id";
        /// What ended.
        bracket: Bracket, "name";
    }

    /// Sent each heartbeat interval: the newest sequence of every stream the peer is bound to.
    16 version 1 "heartbeat" Heartbeat / ArchivedHeartbeat Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Server time.
        server_time: Timestamp, "ns UTC";
        /// Newest sequences; a long list is spread over several heartbeats' frames.
        heads: Vec<Head>, "list";
    }

    /// Changes policy, predicate and rate of a subscription in place; all three are the new ones.
    17 version 1 "configure" Configure / ArchivedConfigure Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the peer, echoed in the answer.
        request: u64, "id";
        /// The subscription.
        subscription: u32, "id";
        /// What a full outbox does.
        policy: Policy, "name";
        /// Which events of the streams, or empty for all.
        predicate: String, "predicate";
        /// Most events a second of each key, 0.01 to 1000, or zero for no bound.
        max_hz: f64, "Hz";
    }

    /// A publisher tells that its own source skipped events.
    18 version 1 "skip" Skip / ArchivedSkip Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Topic of the stream.
        topic: String, "topic";
        /// How many events are missing.
        count: u64, "events";
    }

    /// How streams are, on each change, and after the binds of a subscription for those that are not live.
    30 version 1 "stream_states" StreamStates / ArchivedStreamStates Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The streams; one that is not named is as it was, and live at first.
        states: Vec<StreamStatus>, "list";
    }

    /// A publisher vouches for its streams, ends them, or says that it lost their source.
    31 version 1 "vouch" Vouch / ArchivedVouch Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the publisher, repeated in an error.
        request: u64, "id";
        /// What it says of the source.
        status: SourceStatus, "name";
        /// Topics of the streams concerned, or empty for all that this connection was the last to publish to.
        topics: Vec<String>, "list";
        /// Longest time between two events of those topics while all is well, or zero to leave it as it is.
        interval_ms: u32, "ms";
    }

    /// A subscribe that begins in the past, with what is kept of the events published at a time or later.
    32 version 1 "since" Since / ArchivedSince Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the peer, echoed in the answer.
        request: u64, "id";
        /// Topic or pattern.
        filter: String, "topic filter";
        /// The publish time to begin with.
        time: Timestamp, "ns UTC";
        /// What a full outbox does.
        policy: Policy, "name";
        /// Which events of the streams, or empty for all.
        predicate: String, "predicate";
        /// Most events a second of each key, 0.01 to 1000, or zero for no bound.
        max_hz: f64, "Hz";
    }

    /// A start asked for more than is kept: how far back history goes.
    33 version 1 "history" History / ArchivedHistory Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The subscription, or zero when it was refused.
        subscription: u32, "id";
        /// When the history of this epoch began: of what was published before, nothing is kept.
        begun: Timestamp, "ns UTC";
        /// Streams that are not kept as far back as was asked for.
        short: Vec<Kept>, "list";
    }

    /// Says who the peer is, across connections: critical messages of its subscriptions wait for it until it acknowledges them.
    40 version 1 "identify" Identify / ArchivedIdentify Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Chosen by the peer, echoed in the answer.
        request: u64, "id";
        /// The durable identity, 1 to 64 bytes of `[A-Za-z0-9._:/@-]`.
        identity: String, "identity";
        /// What proves it, up to 64 bytes: the first connection that names the identity says what that is. Empty for the server to make one.
        token: String, "text";
    }

    /// Answer to identify. What waits for the identity follows; an older connection of it is closed with 4509.
    41 version 1 "identified" Identified / ArchivedIdentified Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// The request answered.
        request: u64, "id";
        /// The durable identity.
        identity: String, "identity";
        /// What proves the identity next time; to be kept as a secret.
        token: String, "text";
        /// What critical messages survive.
        durability: Durability, "name";
        /// Critical messages that are sent ahead of acknowledgements.
        window: u32, "count";
        /// Time after which one that was not acknowledged is sent again.
        ack_timeout_ms: u32, "ms";
    }

    /// Says more about the critical data frame that follows it in the same WebSocket message, which is to be acknowledged.
    42 version 1 "deliver" Deliver / ArchivedDeliver Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Its place among all that were kept: what an acknowledgement names. Grows with each new message; never used twice.
        position: u64, "position";
        /// How often it was sent to this identity, this time included. From the second on it may have been seen before.
        attempt: u32, "count";
        /// Its topic.
        topic: String, "topic";
        /// Its number on the topic.
        sequence: u64, "events";
        /// Who published it.
        publisher: String, "text";
        /// The publisher's id of it, or empty.
        id: String, "text";
        /// When it was accepted.
        accepted_at: Timestamp, "ns UTC";
        /// When it is of no use any more, or zero.
        expires_at: Timestamp, "ns UTC";
    }

    /// Says that the peer has handled critical messages: they do not come again.
    43 version 1 "ack" Ack / ArchivedAck Critical
    key [] conflate [] attributes [] raise [] any_of [] {
        /// Everything that was sent to the identity up to here, or zero.
        through: u64, "position";
        /// Besides, these.
        spans: Vec<Span>, "list";
    }

    /// An instrument's latest price, quote and day, each as far as its source knows it.
    100 version 1 "market_data" MarketData / ArchivedMarketData Latest
    key [symbol] conflate [symbol] attributes [Symbol = symbol Venue = venue Price = price] raise []
    any_of [price bid ask] {
        /// The instrument, as its publisher names it.
        symbol: String, "symbol";
        /// Time of the event at its source.
        ts: Timestamp, "ns UTC";
        /// Last price.
        price: Option<Decimal>, "quote currency";
        /// Volume that belongs to the price.
        volume: Option<Decimal>, "units of the instrument";
        /// Best bid.
        bid: Option<Decimal>, "quote currency";
        /// Best ask.
        ask: Option<Decimal>, "quote currency";
        /// Amount at the best bid.
        bid_size: Option<Decimal>, "units of the instrument";
        /// Amount at the best ask.
        ask_size: Option<Decimal>, "units of the instrument";
        /// First price of the day.
        open: Option<Decimal>, "quote currency";
        /// Highest price of the day.
        high: Option<Decimal>, "quote currency";
        /// Lowest price of the day.
        low: Option<Decimal>, "quote currency";
        /// Last price of the day before.
        prev_close: Option<Decimal>, "quote currency";
        /// Change since the day before.
        change: Option<Decimal>, "quote currency";
        /// The same as a ratio: 0.0083 is 0.83 percent.
        change_ratio: Option<f64>, "ratio";
        /// Trading venue.
        venue: Option<String>, "venue";
        /// Asset class.
        asset_class: Option<String>, "text";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// Open, high, low, close of a stretch of time.
    101 version 1 "bar" Bar / ArchivedBar Latest
    key [timeframe symbol] conflate [timeframe symbol] attributes [Symbol = symbol Venue = venue Price = close]
    raise [Raise { to: Class::Ordered, field: "closed", when: When::Set }] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Length of the bar, such as 1m or 1d.
        timeframe: String, "text";
        /// Start of the bar.
        ts: Timestamp, "ns UTC";
        /// First price.
        open: Decimal, "quote currency";
        /// Highest price.
        high: Decimal, "quote currency";
        /// Lowest price.
        low: Decimal, "quote currency";
        /// Last price.
        close: Decimal, "quote currency";
        /// Volume.
        volume: Decimal, "units of the instrument";
        /// Set when the bar will not change any more.
        closed: bool, "flag";
        /// Trading venue.
        venue: Option<String>, "venue";
    }

    /// The public tape: one trade between others.
    102 version 1 "public_trade" PublicTrade / ArchivedPublicTrade Ordered
    key [symbol] conflate [symbol] attributes [Symbol = symbol Venue = venue Price = price] raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Time of the trade at its venue.
        ts: Timestamp, "ns UTC";
        /// Price.
        price: Decimal, "quote currency";
        /// Amount.
        size: Decimal, "units of the instrument";
        /// Side of the aggressor.
        side: Option<Side>, "name";
        /// The venue's id of the trade.
        trade_id: Option<String>, "text";
        /// Trading venue.
        venue: Option<String>, "venue";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// An options trade worth a look.
    103 version 1 "options_flow" OptionsFlow / ArchivedOptionsFlow Ordered
    key [symbol] conflate [symbol] attributes [Symbol = symbol Price = premium] raise [] any_of [] {
        /// Underlying.
        symbol: String, "symbol";
        /// Time of the trade.
        ts: Timestamp, "ns UTC";
        /// Strike.
        strike: Decimal, "quote currency";
        /// Expiry date, as YYYY-MM-DD.
        expiry: String, "date";
        /// Call or put.
        option_type: OptionType, "name";
        /// Contracts.
        volume: Decimal, "contracts";
        /// Premium paid.
        premium: Decimal, "currency";
        /// Currency of the premium.
        currency: Option<String>, "ISO 4217";
        /// Direction read from it.
        direction: Direction, "name";
        /// Unusual in size.
        unusual: bool, "flag";
        /// A sweep.
        sweep: bool, "flag";
        /// A block.
        block: bool, "flag";
    }

    /// A rule fired on an instrument.
    104 version 1 "alert" Alert / ArchivedAlert Critical
    key [symbol] conflate [symbol rule_id] attributes [Symbol = symbol Severity = severity] raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Number of the alert.
        alert_id: u64, "id";
        /// Number of the rule.
        rule_id: u64, "id";
        /// Name of the rule.
        rule_name: String, "text";
        /// Condition in words.
        condition: String, "text";
        /// Value the rule waits for.
        target_value: Decimal, "the rule's";
        /// Value that fired it.
        current_value: Decimal, "the rule's";
        /// How bad.
        severity: Severity, "name";
        /// For people.
        message: String, "text";
        /// The rule's condition as configured.
        rule_condition: String, "text";
        /// Time of the alert.
        ts: Timestamp, "ns UTC";
        /// How long the rule took.
        evaluation_time_ms: Option<u32>, "ms";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// Results of an analysis of an instrument.
    105 version 1 "analytics_update" AnalyticsUpdate / ArchivedAnalyticsUpdate Latest
    key [symbol] conflate [symbol analysis_type] attributes [Symbol = symbol] raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Kind of analysis.
        analysis_type: String, "text";
        /// Free-form results.
        results: Map, "map";
        /// When it was calculated.
        calculated_at: Timestamp, "ns UTC";
        /// When the next one is due.
        next_update: Option<Timestamp>, "ns UTC";
        /// Confidence, 0 to 1.
        confidence_score: Option<f64>, "ratio";
        /// Quality of the data, 0 to 1.
        data_quality_score: Option<f64>, "ratio";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// Indicators of an instrument.
    106 version 1 "technical_indicators" TechnicalIndicators / ArchivedTechnicalIndicators Latest
    key [symbol] conflate [symbol timeframe] attributes [Symbol = symbol] raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Length of the bars they are made from.
        timeframe: String, "text";
        /// Free-form indicators.
        indicators: Map, "map";
        /// When they were calculated.
        calculated_at: Timestamp, "ns UTC";
        /// Quality of each, 0 to 1.
        indicator_quality: Option<Map>, "map";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// A model's price for later.
    107 version 1 "price_prediction" PricePrediction / ArchivedPricePrediction Latest
    key [symbol] conflate [symbol model_name horizon_minutes] attributes [Symbol = symbol Price = predicted_price]
    raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Name of the model.
        model_name: String, "text";
        /// How far ahead.
        horizon_minutes: u32, "minutes";
        /// Predicted price.
        predicted_price: Decimal, "quote currency";
        /// Lower end of the confidence interval.
        lower: Decimal, "quote currency";
        /// Upper end of the confidence interval.
        upper: Decimal, "quote currency";
        /// When it was calculated.
        calculated_at: Timestamp, "ns UTC";
        /// Past accuracy, 0 to 1.
        accuracy: Option<f64>, "ratio";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// Risk figures of an instrument.
    108 version 1 "risk_metrics" RiskMetrics / ArchivedRiskMetrics Latest
    key [symbol] conflate [symbol] attributes [Symbol = symbol] raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Value at risk over one day.
        var_1d: f64, "ratio";
        /// Value at risk over five days.
        var_5d: f64, "ratio";
        /// Volatility.
        volatility: f64, "ratio";
        /// When they were calculated.
        calculated_at: Timestamp, "ns UTC";
        /// Beta.
        beta: Option<f64>, "ratio";
        /// Sharpe ratio.
        sharpe_ratio: Option<f64>, "ratio";
        /// Largest drawdown.
        max_drawdown: Option<f64>, "ratio";
        /// The instrument's number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// One risk figure of a portfolio.
    109 version 1 "portfolio_risk_metric" PortfolioRiskMetric / ArchivedPortfolioRiskMetric Latest
    key [portfolio_id] conflate [portfolio_id metric_type] attributes [Portfolio = portfolio_id] raise [] any_of [] {
        /// The portfolio.
        portfolio_id: String, "id";
        /// Name of the metric.
        metric_type: String, "text";
        /// Its value.
        value: f64, "the metric's";
        /// When it was calculated.
        ts: Timestamp, "ns UTC";
        /// Percentile of the value.
        percentile: Option<f64>, "ratio";
        /// Historical average.
        historical_avg: Option<f64>, "the metric's";
        /// Where it is going.
        trend: Option<Trend>, "name";
        /// Confidence level.
        confidence_level: Option<f64>, "ratio";
        /// How it was calculated.
        calculation_method: Option<String>, "text";
        /// Over what period.
        lookback_period: Option<String>, "text";
    }

    /// A strategy says what to do.
    110 version 1 "signal" Signal / ArchivedSignal Ordered
    key [symbol] conflate [symbol strategy_id] attributes [Symbol = symbol Strategy = strategy_id Price = price]
    raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// What to do.
        decision: Decision, "name";
        /// Price it refers to.
        price: Decimal, "quote currency";
        /// Confidence, 0 to 1.
        confidence: f64, "ratio";
        /// Time of the signal.
        ts: Timestamp, "ns UTC";
        /// How much.
        quantity: Option<Decimal>, "units of the instrument";
        /// The strategy.
        strategy_id: Option<String>, "id";
    }

    /// An algorithm decided, and why.
    111 version 1 "algorithm_decision" AlgorithmDecision / ArchivedAlgorithmDecision Ordered
    key [session_id] conflate [session_id algorithm_id]
    attributes [Symbol = symbol Strategy = algorithm_id Session = session_id Price = price]
    raise [Raise { to: Class::Critical, field: "decision", when: When::Is(4) }] any_of [] {
        /// The trading session.
        session_id: String, "id";
        /// The algorithm.
        algorithm_id: String, "id";
        /// What it decided.
        decision: Decision, "name";
        /// Why.
        reasoning: String, "text";
        /// Confidence, 0 to 1.
        confidence: f64, "ratio";
        /// The instrument.
        symbol: String, "symbol";
        /// Price it saw.
        price: Decimal, "quote currency";
        /// Volume it saw.
        volume: Decimal, "units of the instrument";
        /// Time of the decision.
        ts: Timestamp, "ns UTC";
    }

    /// A user's own trade.
    112 version 1 "trade_executed" TradeExecuted / ArchivedTradeExecuted Critical
    key [user_id] conflate [trade_id]
    attributes [Symbol = symbol Venue = venue Portfolio = portfolio_id User = user_id Session = session_id Price = price]
    raise [] any_of [] {
        /// The user.
        user_id: String, "id";
        /// The trade.
        trade_id: String, "id";
        /// The instrument.
        symbol: String, "symbol";
        /// Side.
        side: Side, "name";
        /// Amount.
        quantity: Decimal, "units of the instrument";
        /// Price.
        price: Decimal, "quote currency";
        /// What kind of execution.
        status: ExecutionStatus, "name";
        /// Time of the trade.
        ts: Timestamp, "ns UTC";
        /// The order.
        order_id: Option<String>, "id";
        /// The execution.
        execution_id: Option<String>, "id";
        /// The portfolio.
        portfolio_id: Option<String>, "id";
        /// The trading session.
        session_id: Option<String>, "id";
        /// Filled so far.
        filled_quantity: Option<Decimal>, "units of the instrument";
        /// Still open.
        remaining_quantity: Option<Decimal>, "units of the instrument";
        /// Average price of the fills.
        avg_fill_price: Option<Decimal>, "quote currency";
        /// Commission.
        commission: Option<Decimal>, "currency";
        /// Fees.
        fees: Option<Decimal>, "currency";
        /// Currency of commission and fees.
        currency: Option<String>, "ISO 4217";
        /// Trading venue.
        venue: Option<String>, "venue";
        /// Slippage.
        slippage_bps: Option<f64>, "basis points";
    }

    /// An order changed.
    113 version 1 "order_update" OrderUpdate / ArchivedOrderUpdate Critical
    key [user_id] conflate [order_id] attributes [Symbol = symbol Venue = venue Portfolio = portfolio_id User = user_id Price = price]
    raise [] any_of [] {
        /// The user.
        user_id: String, "id";
        /// The order.
        order_id: String, "id";
        /// The instrument.
        symbol: String, "symbol";
        /// State.
        status: OrderStatus, "name";
        /// Side.
        side: Side, "name";
        /// Amount ordered.
        quantity: Decimal, "units of the instrument";
        /// Filled so far.
        filled_quantity: Decimal, "units of the instrument";
        /// Still open.
        remaining_quantity: Decimal, "units of the instrument";
        /// Time of the change.
        ts: Timestamp, "ns UTC";
        /// Kind of order.
        order_type: Option<String>, "text";
        /// Limit price.
        price: Option<Decimal>, "quote currency";
        /// Average price of the fills.
        avg_fill_price: Option<Decimal>, "quote currency";
        /// Time in force.
        time_in_force: Option<String>, "text";
        /// Why it was cancelled.
        cancel_reason: Option<String>, "text";
        /// Why it was rejected.
        reject_reason: Option<String>, "text";
        /// The portfolio.
        portfolio_id: Option<String>, "id";
        /// Trading venue.
        venue: Option<String>, "venue";
    }

    /// A position changed.
    114 version 1 "position_update" PositionUpdate / ArchivedPositionUpdate Latest
    key [portfolio_id] conflate [portfolio_id symbol] attributes [Symbol = symbol Portfolio = portfolio_id]
    raise [Raise { to: Class::Ordered, field: "side", when: When::Is(3) }] any_of [] {
        /// The portfolio.
        portfolio_id: String, "id";
        /// The instrument.
        symbol: String, "symbol";
        /// Long, short or flat.
        side: PositionSide, "name";
        /// Amount held.
        quantity: Decimal, "units of the instrument";
        /// Average entry price.
        average_price: Decimal, "quote currency";
        /// Profit or loss not realised.
        unrealized_pnl: Decimal, "account currency";
        /// Time of the change.
        ts: Timestamp, "ns UTC";
        /// Market price now.
        market_price: Option<Decimal>, "quote currency";
        /// Profit or loss realised.
        realized_pnl: Option<Decimal>, "account currency";
        /// Cost.
        cost_basis: Option<Decimal>, "account currency";
        /// Value now.
        market_value: Option<Decimal>, "account currency";
        /// Profit or loss of the day.
        day_pnl: Option<Decimal>, "account currency";
        /// Currency of the account.
        currency: Option<String>, "ISO 4217";
    }

    /// A whole portfolio.
    115 version 1 "portfolio_snapshot" PortfolioSnapshot / ArchivedPortfolioSnapshot Latest
    key [portfolio_id] conflate [portfolio_id] attributes [Portfolio = portfolio_id] raise [] any_of [] {
        /// The portfolio.
        portfolio_id: String, "id";
        /// Its positions.
        positions: Vec<Holding>, "list";
        /// Profit or loss of all.
        total_pnl: Decimal, "account currency";
        /// How many positions.
        position_count: u32, "count";
        /// Time of the snapshot.
        ts: Timestamp, "ns UTC";
        /// Currency of the account.
        currency: Option<String>, "ISO 4217";
    }

    /// How a portfolio or one of its strategies performs.
    116 version 1 "performance_update" PerformanceUpdate / ArchivedPerformanceUpdate Latest
    key [portfolio_id] conflate [portfolio_id strategy_id] attributes [Portfolio = portfolio_id Strategy = strategy_id]
    raise [] any_of [] {
        /// The portfolio.
        portfolio_id: String, "id";
        /// Profit or loss.
        pnl: Decimal, "account currency";
        /// Return.
        returns: f64, "ratio";
        /// Time of the figures.
        ts: Timestamp, "ns UTC";
        /// The strategy.
        strategy_id: Option<String>, "id";
        /// Sharpe ratio.
        sharpe_ratio: Option<f64>, "ratio";
        /// Largest drawdown.
        max_drawdown: Option<f64>, "ratio";
        /// Share of winning trades.
        win_rate: Option<f64>, "ratio";
        /// Gross profit over gross loss.
        profit_factor: Option<f64>, "ratio";
        /// Trades.
        total_trades: Option<u64>, "count";
        /// Winning trades.
        winning_trades: Option<u64>, "count";
        /// Losing trades.
        losing_trades: Option<u64>, "count";
        /// Currency of the account.
        currency: Option<String>, "ISO 4217";
    }

    /// How a strategy performs.
    117 version 1 "strategy_performance" StrategyPerformance / ArchivedStrategyPerformance Latest
    key [strategy_id] conflate [strategy_id] attributes [Strategy = strategy_id] raise [] any_of [] {
        /// The strategy.
        strategy_id: String, "id";
        /// Its name.
        strategy_name: String, "text";
        /// Return since its start.
        total_return: f64, "ratio";
        /// Sharpe ratio.
        sharpe_ratio: f64, "ratio";
        /// Largest drawdown.
        max_drawdown: f64, "ratio";
        /// Trades.
        trade_count: u64, "count";
        /// Time of the figures.
        ts: Timestamp, "ns UTC";
        /// Share of winning trades.
        win_rate: Option<f64>, "ratio";
        /// Gross profit over gross loss.
        profit_factor: Option<f64>, "ratio";
        /// Calmar ratio.
        calmar_ratio: Option<f64>, "ratio";
        /// Sortino ratio.
        sortino_ratio: Option<f64>, "ratio";
        /// Alpha.
        alpha: Option<f64>, "ratio";
        /// Beta.
        beta: Option<f64>, "ratio";
    }

    /// How well an order was executed.
    118 version 1 "execution_analytics" ExecutionAnalytics / ArchivedExecutionAnalytics Ordered
    key [symbol] conflate [execution_id] attributes [Symbol = symbol Portfolio = portfolio_id Price = fill_price]
    raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// The execution.
        execution_id: String, "id";
        /// Price of the fill.
        fill_price: Decimal, "quote currency";
        /// Price to compare with.
        benchmark_price: Decimal, "quote currency";
        /// Difference of the two.
        slippage: Decimal, "quote currency";
        /// Time of the execution.
        ts: Timestamp, "ns UTC";
        /// Slippage.
        slippage_bps: Option<f64>, "basis points";
        /// How long it took.
        execution_time_ms: Option<u32>, "ms";
        /// Share of the order filled.
        fill_ratio: Option<f64>, "ratio";
        /// Market impact.
        market_impact: Option<f64>, "basis points";
        /// The portfolio.
        portfolio_id: Option<String>, "id";
    }

    /// A risk limit is near or broken.
    119 version 1 "risk_alert" RiskAlert / ArchivedRiskAlert Critical
    key [scope] conflate [scope risk_type]
    attributes [Portfolio = portfolio_id Session = session_id Severity = severity] raise [] any_of [] {
        /// What it concerns: a portfolio, session or desk.
        scope: String, "id";
        /// Kind of risk.
        risk_type: RiskType, "name";
        /// How bad.
        severity: Severity, "name";
        /// For people.
        message: String, "text";
        /// Value now.
        current_value: Decimal, "the metric's";
        /// Threshold.
        threshold: Decimal, "the metric's";
        /// Time of the alert.
        ts: Timestamp, "ns UTC";
        /// Name of the metric.
        metric: Option<String>, "text";
        /// Hard limit.
        limit_value: Option<Decimal>, "the metric's";
        /// What to do.
        recommended_action: Option<String>, "text";
        /// What was done already.
        auto_action_taken: Option<String>, "text";
        /// The portfolio.
        portfolio_id: Option<String>, "id";
        /// The trading session.
        session_id: Option<String>, "id";
    }

    /// A limit is broken.
    120 version 1 "breach_alert" BreachAlert / ArchivedBreachAlert Critical
    key [portfolio_id] conflate [portfolio_id limit_type] attributes [Portfolio = portfolio_id Severity = severity]
    raise [] any_of [] {
        /// The portfolio.
        portfolio_id: String, "id";
        /// Kind of breach.
        breach_type: String, "text";
        /// How bad.
        severity: Severity, "name";
        /// Which limit.
        limit_type: String, "text";
        /// Value now.
        current_value: Decimal, "the limit's";
        /// The limit.
        limit_value: Decimal, "the limit's";
        /// Time of the breach.
        ts: Timestamp, "ns UTC";
        /// How far past the limit.
        breach_ratio: Option<f64>, "ratio";
        /// For how long.
        breach_duration_s: Option<f64>, "s";
        /// What was done already.
        auto_action: Option<String>, "text";
    }

    /// State and figures of a trading session.
    121 version 1 "session_status" SessionStatus / ArchivedSessionStatus Latest
    key [session_id] conflate [session_id] attributes [User = user_id Session = session_id]
    raise [Raise { to: Class::Critical, field: "transition", when: When::Set }] any_of [] {
        /// The trading session.
        session_id: String, "id";
        /// Whose it is.
        user_id: String, "id";
        /// State.
        status: SessionState, "name";
        /// Set when the state changed; otherwise only figures did.
        transition: bool, "flag";
        /// Profit or loss now.
        current_pnl: Decimal, "account currency";
        /// Trades.
        total_trades: u64, "count";
        /// Share of the loss limit used.
        loss_limit_utilization: f64, "ratio";
        /// Since its start.
        time_elapsed_s: f64, "s";
        /// Score of the performance.
        performance_score: f64, "the platform's";
        /// Time of the figures.
        ts: Timestamp, "ns UTC";
        /// Currency of the account.
        currency: Option<String>, "ISO 4217";
    }

    /// Something for people to read.
    122 version 1 "notification" Notification / ArchivedNotification Ordered
    key [audience] conflate [audience category] attributes [User = user_id Severity = severity]
    raise [Raise { to: Class::Critical, field: "severity", when: When::AtLeast(3) }] any_of [] {
        /// A user's id, or `all`.
        audience: String, "id";
        /// Title.
        title: String, "text";
        /// Text.
        message: String, "text";
        /// How important.
        severity: Severity, "name";
        /// Time.
        ts: Timestamp, "ns UTC";
        /// The sender's id of it.
        notification_id: Option<String>, "id";
        /// Kind: milestone, maintenance, system.
        category: Option<String>, "text";
        /// The user, when it is for one.
        user_id: Option<String>, "id";
    }

    /// A component of the trading system is in trouble.
    123 version 1 "system_alert" SystemAlert / ArchivedSystemAlert Ordered
    key [component] conflate [component alert_type] attributes [Severity = severity]
    raise [Raise { to: Class::Critical, field: "severity", when: When::AtLeast(4) }] any_of [] {
        /// The component.
        component: String, "id";
        /// Kind of trouble.
        alert_type: String, "text";
        /// How bad.
        severity: Severity, "name";
        /// For people.
        description: String, "text";
        /// Time.
        ts: Timestamp, "ns UTC";
        /// Name of the metric.
        metric: Option<String>, "text";
        /// Value now.
        current_value: Option<f64>, "the metric's";
        /// Threshold.
        threshold: Option<f64>, "the metric's";
    }

    /// How a component of the trading system feels.
    124 version 1 "system_health" SystemHealth / ArchivedSystemHealth Latest
    key [component] conflate [component] attributes [] raise [] any_of [] {
        /// The component.
        component: String, "id";
        /// State.
        status: Health, "name";
        /// Time of the figures.
        ts: Timestamp, "ns UTC";
        /// Processor in use.
        cpu_usage: Option<f64>, "ratio";
        /// Memory in use.
        memory_usage: Option<f64>, "ratio";
        /// Disk in use.
        disk_usage: Option<f64>, "ratio";
        /// Connections.
        active_connections: Option<u64>, "count";
        /// Errors among requests.
        error_rate: Option<f64>, "ratio";
        /// Messages handled.
        throughput: Option<f64>, "1/s";
        /// Since its start.
        uptime_s: Option<f64>, "s";
        /// Version.
        version: Option<String>, "text";
    }

    /// How a trading engine runs.
    125 version 1 "engine_status" EngineStatus / ArchivedEngineStatus Latest
    key [engine_id] conflate [engine_id] attributes []
    raise [Raise { to: Class::Ordered, field: "transition", when: When::Set }] any_of [] {
        /// The engine.
        engine_id: String, "id";
        /// State.
        state: EngineState, "name";
        /// Set when the state changed.
        transition: bool, "flag";
        /// Since its start.
        uptime_s: f64, "s";
        /// Time of the figures.
        ts: Timestamp, "ns UTC";
        /// Processor in use.
        cpu_usage: Option<f64>, "ratio";
        /// Memory in use.
        memory_usage: Option<f64>, "ratio";
        /// Strategies running.
        active_strategies: Option<u32>, "count";
        /// Orders processed.
        orders_processed: Option<u64>, "count";
        /// Trades executed.
        trades_executed: Option<u64>, "count";
        /// Errors.
        error_count: Option<u64>, "count";
    }

    /// Something happened that has no type of its own but is worth knowing.
    126 version 1 "event" Event / ArchivedEvent Ordered
    key [event_type] conflate [event_id] attributes [User = user_id Session = session_id] raise [] any_of [] {
        /// Kind of event.
        event_type: String, "id";
        /// The event.
        event_id: String, "id";
        /// Where it comes from.
        source: String, "text";
        /// Time.
        ts: Timestamp, "ns UTC";
        /// Title.
        title: Option<String>, "text";
        /// For people.
        description: Option<String>, "text";
        /// Labels.
        tags: Vec<String>, "list";
        /// Free-form details.
        details: Option<Map>, "map";
        /// The user.
        user_id: Option<String>, "id";
        /// The trading session.
        session_id: Option<String>, "id";
    }

    /// Health of one stream, pushed when it changes.
    127 version 1 "stream_health" StreamHealth / ArchivedStreamHealth Latest
    key [stream] conflate [stream] attributes [] raise [] any_of [] {
        /// The stream, or group of streams.
        stream: String, "id";
        /// True while it is well.
        is_healthy: bool, "flag";
        /// Consecutive errors.
        error_count: u64, "count";
        /// Times it was tried to bring it back.
        recovery_attempts: u64, "count";
        /// When it started.
        started_at: Timestamp, "ns UTC";
        /// When it was updated last.
        last_update: Option<Timestamp>, "ns UTC";
    }

    /// What people say about an instrument.
    128 version 1 "sentiment" Sentiment / ArchivedSentiment Latest
    key [symbol] conflate [symbol] attributes [Symbol = symbol] raise [] any_of [] {
        /// The instrument.
        symbol: String, "symbol";
        /// Score, -1 to 1.
        overall_score: f64, "ratio";
        /// The score in a word.
        overall_level: String, "text";
        /// Confidence, 0 to 1.
        confidence: f64, "ratio";
        /// Mentions counted.
        total_mentions: u64, "count";
        /// Time of the figures.
        ts: Timestamp, "ns UTC";
        /// Score of each provider.
        providers: Option<Map>, "map";
    }

    /// An order book: all of it, or what changed in it. How books are kept and summed up is in section 16.
    129 version 1 "order_book" OrderBook / ArchivedOrderBook Ordered
    key [symbol] conflate [symbol kind] attributes [Symbol = symbol Venue = venue] raise [] any_of []
    base [Base { field: "kind", when: When::Is(BookKind::SNAPSHOT.0) }] {
        /// The instrument. Books of several venues have names of their own, such as `BTC-USD@kraken`.
        symbol: String, "symbol";
        /// Time of the book.
        ts: Timestamp, "ns UTC";
        /// All of the book, or what changed.
        kind: BookKind, "name";
        /// What buyers offer: in a snapshot all levels, in a delta those that changed.
        bids: Vec<Level>, "list";
        /// What sellers ask, in the same way.
        asks: Vec<Level>, "list";
        /// Checksum over the best levels of the book once this message is applied.
        checksum: Option<u32>, "CRC-32";
        /// In a snapshot: most levels of a side from now on, 1 to 1024, or absent for 1024.
        depth: Option<u32>, "levels";
        /// The venue.
        venue: Option<String>, "text";
        /// Its number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// What became of a critical message for one recipient; told to whoever follows its publisher. At least once: it may come again after a crash.
    131 version 1 "delivery_report" DeliveryReport / ArchivedDeliveryReport Ordered
    key [publisher] conflate [publisher] attributes [] raise [] any_of [] {
        /// Who published the message.
        publisher: String, "id";
        /// The publisher's id of it.
        id: String, "text";
        /// Its place among all that were kept.
        position: u64, "position";
        /// The durable identity.
        recipient: String, "identity";
        /// What became of it.
        outcome: DeliveryOutcome, "name";
        /// When that was.
        ts: Timestamp, "ns UTC";
    }

    /// The best levels of an order book, whole in each message: made by the server from the deltas of
    /// `order_book`, for whoever wants no more than to look at them (section 16).
    132 version 1 "partial_book" PartialBook / ArchivedPartialBook Latest
    key [depth symbol] conflate [symbol] attributes [Symbol = symbol Venue = venue] raise [] any_of []
    bounds [
        Bound::Within { field: "depth", min: 1, max: 100 },
        Bound::AtMost { list: "bids", field: "depth" },
        Bound::AtMost { list: "asks", field: "depth" }
    ] {
        /// The instrument, as the book calls it.
        symbol: String, "symbol";
        /// Time of the book.
        ts: Timestamp, "ns UTC";
        /// Most levels of a side; there are fewer where the book has fewer.
        depth: u32, "levels";
        /// What buyers offer, highest price first.
        bids: Vec<Level>, "list";
        /// What sellers ask, lowest price first.
        asks: Vec<Level>, "list";
        /// Sequence, on the stream of the book, of the last message that is in it.
        book_sequence: u64, "sequence";
        /// Checksum as of an order book, over these levels.
        checksum: Option<u32>, "CRC-32";
        /// The venue.
        venue: Option<String>, "text";
        /// Its number in legacy systems.
        instrument_id: Option<u32>, "id";
    }

    /// A message of a type that this table does not know: its own name, opaque content.
    1000 version 1 "extension" Extension / ArchivedExtension Ordered
    key [name key] conflate [name key]
    attributes [Symbol = symbol User = user_id Session = session_id Portfolio = portfolio_id]
    raise [Raise { to: Class::Critical, field: "critical", when: When::Set }] any_of [json bytes] {
        /// Name of the type, without dots.
        name: String, "id";
        /// What the publisher calls the thing.
        key: String, "id";
        /// Time.
        ts: Timestamp, "ns UTC";
        /// Set when it must not be lost.
        critical: bool, "flag";
        /// Content as JSON.
        json: Option<Json>, "json";
        /// Content as bytes.
        bytes: Option<Blob>, "bytes";
        /// The instrument.
        symbol: Option<String>, "symbol";
        /// The user.
        user_id: Option<String>, "id";
        /// The trading session.
        session_id: Option<String>, "id";
        /// The portfolio.
        portfolio_id: Option<String>, "id";
    }
}
