//! What a peer may say now. Sans-io: messages in, requests to a [`Desk`] out; no socket, no clock.
//!
//! One session a connection. [`binary`] speaks frames after a hello; [`d1`] speaks the first JSON
//! dialect, which needs none.
#![forbid(unsafe_code)]

pub mod binary;
pub mod d1;
mod durable;
pub mod sticky;

use std::sync::Arc;

use bytes::Bytes;
use tickcast_engine::{Condition, Delivery, Format, Subscribe, SubscribeError, Subscribed};
use tickcast_protocol::frame::Frame;
use tickcast_protocol::message::SourceStatus;
use tickcast_protocol::{CloseCode, ErrorCode, Predicate, SubscriptionId, Topic, TopicFilter};

use crate::alerts::{Alerts, Ticket};
use crate::auth::Denied;
use crate::ingest::{Accepted, Published, Refusal, Wishes};
use crate::net::websocket::CloseReason;

pub use binary::BinarySession;
pub use d1::D1Session;

/// Longest name a peer may give itself or a message, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Builds the answer to a request, once its outcome is known and before anything that follows from it.
pub type Acknowledge<'a> = &'a mut dyn FnMut(&Subscribed) -> Option<Bytes>;

/// What a session may ask of the rest of the program.
pub trait Desk {
    /// Subscribes this peer.
    fn subscribe(
        &mut self,
        request: Subscribe,
        acknowledge: Acknowledge<'_>,
    ) -> Result<Subscribed, SubscribeError>;
    /// Ends a subscription; false when there is none with this id.
    fn unsubscribe(&mut self, subscription: SubscriptionId, acknowledge: Acknowledge<'_>) -> bool;
    /// Changes how a subscription wants its events; false when there is none with this id.
    fn configure(
        &mut self,
        subscription: SubscriptionId,
        delivery: &Delivery,
        acknowledge: Acknowledge<'_>,
    ) -> bool;
    /// Makes a predicate ready to be asked.
    fn condition(&self, predicate: Predicate) -> Condition;
    /// Changes the form events take for this peer. Only while it has no subscription.
    fn set_format(&mut self, format: Format);
    /// Publishes a frame. `request` is the one that is answered, if it must be: what is not known at once comes
    /// as [`Post::Published`].
    fn publish(
        &mut self,
        frame: &Frame<'_>,
        wishes: Wishes<'_>,
        request: Option<u64>,
    ) -> Result<Published, Refusal>;
    /// What keeps critical messages, if anything does.
    fn alerts(&self) -> Option<Arc<Alerts>>;
    /// By which other threads tell this peer's session something.
    fn postbox(&self) -> Postbox;
    /// Leaves critical messages out of every subscription to come.
    fn leave_out_critical(&mut self);
    /// True while a further message would not wait behind others.
    fn has_room(&mut self) -> bool;
    /// The peer acknowledged so many messages: that much it may say besides.
    fn has_acknowledged(&mut self, messages: usize);
    /// Hears what a publisher says of its streams.
    fn vouch(&mut self, status: SourceStatus, topics: &[Topic], interval_ms: u32) -> Result<(), Refusal>;
    /// When the history of this epoch began, in ns since the Unix epoch.
    fn begun(&self) -> u64;
    /// Everything that was published up to this time was distributed to this peer's outbox, or told as lost; what is
    /// published from now on has a later one. In ns since the Unix epoch.
    fn distributed(&self) -> u64;
    /// Announces an upstream gap.
    fn skip(&mut self, topic: &str, count: u64) -> Result<(), Refusal>;
    /// Whether this peer may be a publisher.
    fn may_publish(&self) -> Result<(), Denied>;
    /// Whether this peer may have what the filter names.
    fn may_subscribe(&self, filter: &TopicFilter) -> Result<(), Denied>;
    /// The peer is a publisher from now on: larger messages, no rate limit.
    fn accept_publisher(&mut self);
    /// Sends a whole WebSocket message to the peer, before anything queued for it.
    fn say(&mut self, message: Bytes);
    /// Counts an error the peer was told.
    fn count_error(&self, code: ErrorCode);
    /// Counts a limit the peer hit.
    fn count_limit(&self, key: &'static str);
    /// Nanoseconds since the Unix epoch.
    fn now(&self) -> u64;
}

/// What other threads tell a session.
#[derive(Debug)]
pub enum Post {
    /// There is something to send, or another connection has the peer's identity.
    Nudge,
    /// What became of a publish. Without a request the publisher wanted no answer, and is told of a refusal.
    Published {
        /// The publisher's request.
        request: Option<u64>,
        /// What became of it.
        outcome: Result<Accepted, Refusal>,
    },
    /// What became of an identify.
    Identified {
        /// The request.
        request: u64,
        /// What became of it.
        outcome: Result<Ticket, Refusal>,
    },
    /// A subscription is on disk, or is not.
    Wished {
        /// The request.
        request: u64,
        /// What became of it.
        outcome: Result<(), Refusal>,
    },
}

/// Takes what other threads have to tell; never blocks.
#[derive(Clone)]
pub struct Postbox(Arc<dyn Fn(Post) + Send + Sync>);

impl Postbox {
    /// By what a post is delivered.
    #[must_use]
    pub fn new(deliver: impl Fn(Post) + Send + Sync + 'static) -> Self {
        Self(Arc::new(deliver))
    }

    fn nudge(&self) {
        (self.0)(Post::Nudge);
    }

    fn identified(&self, request: u64, outcome: Result<Ticket, Refusal>) {
        (self.0)(Post::Identified { request, outcome });
    }

    fn wished(&self, request: u64, outcome: Result<(), Refusal>) {
        (self.0)(Post::Wished { request, outcome });
    }

    /// Tells what became of a publish.
    pub fn published(&self, request: Option<u64>, outcome: Result<Accepted, Refusal>) {
        (self.0)(Post::Published { request, outcome });
    }
}

/// What every session is told when it begins; the same for all of a shard.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The run of the server.
    pub boot_id: u64,
    /// Interval of heartbeats, in milliseconds.
    pub heartbeat_ms: u32,
    /// Most subscriptions.
    pub subscriptions_max: usize,
    /// Largest message of a subscriber, in bytes.
    pub inbound_bytes: usize,
    /// Largest message of a publisher, in bytes.
    pub publisher_bytes: usize,
    /// Malformed messages until the connection is closed.
    pub strikes_max: usize,
    /// Levels of a JSON message.
    pub json_depth: usize,
    /// Codecs the server compresses with, as in `hello.codecs`.
    pub codecs: u8,
}

/// Malformed messages so far.
#[derive(Debug, Default)]
struct Strikes(usize);

impl Strikes {
    /// One more; the connection ends when there are too many.
    fn strike(&mut self, terms: &Terms) -> Result<(), CloseReason> {
        self.0 += 1;
        if self.0 < terms.strikes_max {
            return Ok(());
        }
        Err(CloseReason::limit(CloseCode::BadRequest, "too many malformed messages", "limits.strikes"))
    }
}

/// The session of one connection.
#[derive(Debug)]
pub enum Session {
    /// Frames.
    Binary(BinarySession),
    /// Dialect D1. Boxed, so that binary peers do not pay for its size.
    D1(Box<D1Session>),
}

impl Session {
    /// What is said first, before the peer has said anything.
    pub fn open(&mut self, desk: &mut dyn Desk) {
        match self {
            Self::Binary(_) => {}
            Self::D1(session) => session.open(desk),
        }
    }

    /// A binary message.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn binary(&mut self, bytes: &[u8], desk: &mut dyn Desk) -> Result<(), CloseReason> {
        match self {
            Self::Binary(session) => session.message(bytes, desk),
            Self::D1(session) => session.wrong_kind(desk),
        }
    }

    /// A text message.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn text(&mut self, text: &str, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        match self {
            Self::Binary(session) => session.wrong_kind(desk),
            Self::D1(session) => session.message(text, desk),
        }
    }

    /// Tells the peer of an error that is not about one of its messages' contents.
    pub fn error(&self, code: ErrorCode, message: &str, retry_after_ms: u32, desk: &mut dyn Desk) {
        match self {
            Self::Binary(session) => session.error(0, code, "", message, retry_after_ms, desk),
            Self::D1(session) => session.error(code, message, retry_after_ms, desk),
        }
    }

    /// The dialect's sign of life, at each heartbeat interval; the binary one is the engine's.
    pub fn heartbeat(&mut self, desk: &mut dyn Desk) {
        match self {
            Self::Binary(_) => {}
            Self::D1(session) => session.heartbeat(desk),
        }
    }

    /// Something from another thread.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn post(&mut self, post: Post, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        match self {
            Self::Binary(session) => session.post(post, desk),
            // JSON peers publish by HTTP, and have no identity.
            Self::D1(_) => Ok(()),
        }
    }

    /// Sends what waits for the peer's identity, as far as there is room.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn send(&mut self, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        match self {
            Self::Binary(session) => session.send(desk),
            Self::D1(_) => Ok(()),
        }
    }

    /// True for a peer for whose identity critical messages wait.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        matches!(self, Self::Binary(session) if session.has_identity())
    }

    /// A ping goes out, with this number. `is_idle` when nothing waits to be written of what was published up to
    /// `distributed`, in ns since the Unix epoch.
    pub fn ping(&mut self, is_idle: bool, distributed: u64) -> Option<u32> {
        match self {
            Self::Binary(_) => None,
            Self::D1(session) => Some(session.ping(is_idle, distributed)),
        }
    }

    /// A pong came; asked for when its payload is a ping's number.
    pub fn pong(&mut self, payload: &[u8]) {
        if let Self::D1(session) = self {
            session.pong(payload);
        }
    }

    /// The peer closes the connection, and says why or not.
    pub fn leave(&mut self, code: Option<u16>) {
        if let Self::D1(session) = self {
            session.leave(code);
        }
    }

    /// When time alone asks for a [`Session::send`], in ns UTC.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        match self {
            Self::Binary(session) => session.due(),
            Self::D1(_) => None,
        }
    }

    /// True while something of the peer's waits to be tried again.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        match self {
            Self::Binary(_) => false,
            Self::D1(session) => session.is_waiting(),
        }
    }

    /// Tries again what waits.
    pub fn retry(&mut self, desk: &mut dyn Desk) {
        if let Self::D1(session) = self {
            session.retry(desk);
        }
    }

    /// True once the peer has introduced itself, as far as its format asks for that.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Binary(session) => session.is_open(),
            Self::D1(_) => true,
        }
    }

    /// The code this format closes with where the engine or a limit says `code`. Binary clients know all of
    /// them; so do D1 clients as far as they look: they come back after anything but 1000, which we never
    /// send them (C-13).
    #[must_use]
    pub fn close_code(&self, code: CloseCode) -> CloseCode {
        match self {
            Self::Binary(_) => code,
            Self::D1(_) if code == CloseCode::Normal => CloseCode::GoingAway,
            Self::D1(_) => code,
        }
    }

    /// The format's name in status and metrics.
    #[must_use]
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Binary(_) => "binary",
            Self::D1(_) => "d1",
        }
    }
}
