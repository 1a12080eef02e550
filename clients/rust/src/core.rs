//! The client without sockets, threads or clocks: handle in, poll out, time as an argument.
//!
//! ```text
//!   connected, received, closed, tick  ──▶ ┌──────┐ ──▶ poll_link      dial, hang up
//!   subscribe, publish, ping, …        ──▶ │ Core │ ──▶ poll_transmit  WebSocket messages to send
//!                                          └──────┘ ──▶ poll_event     values, gaps, states
//!                                                   ──▶ poll_timeout   when to call tick
//! ```
//!
//! The owner calls one of the inputs, then polls every output until it is empty. Time is ns on any clock
//! that never goes back; ages of events are right when it is Unix time.
//!
//! What it promises: subscriptions outlive connections, and continue where they were when the server's
//! history allows; every sequence of every stream is received, told of, or reported as a gap that nobody
//! explained ([`Account`]); silence is told from idleness; nothing it keeps is unbounded.
//!
//! What it does not know: sockets, WebSocket framing, DNS, TLS, threads.

mod account;
mod backoff;
mod durable;
mod event;
mod fresh;
mod outgoing;
mod publish;
mod receive;
mod silence;
mod states;
mod streams;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use tickcast_protocol::codec::LZ4_BIT;
use tickcast_protocol::message::{Hello, Ping, Role};
use tickcast_protocol::{CloseCode, Message, frame};

pub use account::Account;
pub use backoff::Backoff;
pub use durable::{Critical, Identity};
pub use event::{
    ClientEvent, ClientState, Close, Data, Gap, GapReason, Kept, Origin, Outcome, ServerError, ServerInfo,
    StateChange, StreamChange, SubscriptionKey, SubscriptionState, Violation,
};
pub use publish::{PublishError, PublishOptions};
pub use subscribe::{Delivery, SubscribeOptions};

use backoff::Retries;
use durable::Durable;
use fresh::nanos;
use outgoing::Outgoing;
use streams::Streams;
use subscribe::Subscription;

/// Close code of a socket that ended without one.
pub const ABNORMAL: u16 = 1006;
/// A connection from which nothing came for this many heartbeats is given up.
const SILENT_HEARTBEATS_MAX: u64 = 4;
/// Bounds on the heartbeat a server may ask for, in ms.
const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 50..=3_600_000;
/// Room for decompressed payloads that is made at a time: a dozen of the usual size.
const DECOMPRESSED_BYTES: usize = 16 * 1024;
/// A server that answers no subscribe, or refuses one for now, is asked again after this, in ns.
const SUBSCRIBE_RETRY_NS: u64 = 1_000_000_000;

/// Settings of the core. Every bound is a worst case of memory.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// What this client does on its connection.
    pub role: Role,
    /// What it calls itself in the server's logs and status; at most 64 bytes.
    pub name: String,
    /// Program and version; at most 64 bytes.
    pub client: String,
    /// Seed of the jitter. Two clients with the same seed come back at the same time.
    pub seed: u64,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// How long the server may take to answer hello.
    pub welcome_timeout: Duration,
    /// How long a publish may wait for its reply before its outcome is [`Outcome::Unknown`].
    pub reply_timeout: Duration,
    /// Most publishes that wait to be sent; past it a publish is refused as [`PublishError::Full`].
    pub publish_queue_max: usize,
    /// How long a publish may wait to be sent; past it it is dropped and counted. `None` is for ever.
    pub publish_ttl: Option<Duration>,
    /// Most publishes that wait for a reply; past it a publish is refused as [`PublishError::Full`].
    pub replies_max: usize,
    /// Most streams that are kept track of: about 250 bytes each. Frames of others are skipped and counted.
    pub streams_max: usize,
    /// Whether the server may compress large messages to us (LZ4). Costs some microseconds for each of
    /// them, where they are decompressed.
    pub lz4: bool,
    /// Who the client is across connections: critical messages of its subscriptions then wait for it until
    /// [`Core::acknowledge`]. `None` gets them as they happen, like all others.
    pub identity: Option<Identity>,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            role: Role::SUBSCRIBER,
            name: String::new(),
            client: concat!("tickcast-client/", env!("CARGO_PKG_VERSION"), " (rust)").to_owned(),
            seed: 0,
            backoff: Backoff::default(),
            welcome_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(10),
            publish_queue_max: 8_192,
            publish_ttl: Some(Duration::from_secs(2)),
            replies_max: 8_192,
            streams_max: 65_536,
            lz4: true,
            identity: None,
        }
    }
}

/// What the owner of the socket is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Connect, then call [`Core::connected`] or [`Core::closed`].
    Dial,
    /// Close the socket. The core has moved on already: do not call [`Core::closed`] for it.
    HangUp(Close),
}

/// What the core has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times the server welcomed us.
    pub connections: u64,
    /// Connections that ended, or could not be made.
    pub closes: u64,
    /// WebSocket messages received.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Data frames received, snapshots and replays included.
    pub data_frames: u64,
    /// Data frames that came compressed.
    pub compressed: u64,
    /// Bytes that those had once decompressed, less those that came.
    pub compressed_saved_bytes: u64,
    /// Data frames dropped because their sequence was received or accounted for before.
    pub repeats: u64,
    /// Events missing that no notice explained. Not zero means that a server broke its promise.
    pub unexplained: u64,
    /// Times the server's sums of what a subscription missed were compared with ours.
    pub compared: u64,
    /// Of those, the ones that differed. Not zero means that one of the two is wrong.
    pub miscounted: u64,
    /// Data frames of streams that were never announced.
    pub unbound: u64,
    /// Data frames skipped: streams of a newer server, or past `streams_max`.
    pub skipped: u64,
    /// Critical messages that were sent to the client's identity, repeats included.
    pub critical: u64,
    /// Control frames this version does not know or expect.
    pub ignored: u64,
    /// Frames that could not be read.
    pub malformed: u64,
    /// Events that publishers said their sources skipped.
    pub upstream_gaps: u64,
    /// Publishes handed to the socket.
    pub published: u64,
    /// Publishes that expired before they were sent.
    pub expired: u64,
    /// Publishes refused because a queue was full.
    pub queue_full: u64,
    /// Requests and frames the server refused.
    pub refused: u64,
}

/// Where the connection stands.
#[derive(Debug)]
enum State {
    /// Not trying.
    Idle,
    /// Pausing between attempts.
    Waiting { until: u64 },
    /// The owner is connecting.
    Dialling,
    /// Hello is on its way.
    Greeting { deadline: u64 },
    /// Welcomed.
    Open(Open),
}

/// A welcomed connection.
#[derive(Debug)]
struct Open {
    since: u64,
    /// When anything came last, or the owner began to read again.
    heard_at: u64,
    /// Interval of heartbeats, in ns.
    heartbeat: Option<u64>,
    /// Set while the server keeps silent for too long.
    silent: bool,
    /// When the server asked us to come back, if it did.
    come_back_at: Option<u64>,
    /// Told once a connection.
    told_unbound: bool,
    /// The snapshot or replay that runs: the server's number of its subscription.
    bracket: Option<(u32, Origin)>,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Subscribe {
        key: SubscriptionKey,
        resumed: bool,
    },
    /// The snapshot again, of a subscription that lives.
    Snapshot(SubscriptionKey),
    Unsubscribe,
    Configure(SubscriptionKey),
    Publish,
    Identify,
}

/// The client core. See the module's documentation.
#[derive(Debug)]
pub struct Core {
    options: CoreOptions,
    state: State,
    told_state: ClientState,
    retries: Retries,
    /// Who the server said it was at the last welcome.
    server: Option<ServerInfo>,
    /// Do not come back before, when the server said so.
    not_before: u64,
    subscriptions: BTreeMap<SubscriptionKey, Subscription>,
    /// Server numbers of this connection. Two subscriptions share one when the server says they are one.
    by_server_id: HashMap<u32, Vec<SubscriptionKey>>,
    streams: Streams,
    outgoing: Outgoing,
    requests: HashMap<u64, Request>,
    /// Deadlines of publishes that wait for replies, in order; some are answered already.
    reply_deadlines: VecDeque<(u64, u64)>,
    replies_due: usize,
    last_request: u64,
    last_key: u32,
    ping: Option<(u64, u64)>,
    /// False while the owner does not read the socket: silence is then our own doing.
    reading: bool,
    reading_since: u64,
    /// When staleness must be looked at next.
    look_at: u64,
    links: VecDeque<Link>,
    events: VecDeque<ClientEvent>,
    stats: Stats,
    /// Room that payloads are decompressed into: used again once they are gone.
    decompressed: BytesMut,
    /// Accounts of streams that are not followed any more.
    retired: Account,
    durable: Durable,
}

impl Core {
    /// A core that does nothing until [`Core::connect`].
    #[must_use]
    pub fn new(options: CoreOptions) -> Self {
        Self {
            state: State::Idle,
            told_state: ClientState::Disconnected,
            retries: Retries::new(options.backoff, options.seed),
            server: None,
            not_before: 0,
            subscriptions: BTreeMap::new(),
            by_server_id: HashMap::new(),
            streams: Streams::new(options.streams_max),
            outgoing: Outgoing::new(options.publish_queue_max, options.publish_ttl.map(nanos)),
            requests: HashMap::new(),
            reply_deadlines: VecDeque::new(),
            replies_due: 0,
            last_request: 0,
            last_key: 0,
            ping: None,
            reading: true,
            reading_since: 0,
            look_at: u64::MAX,
            links: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            decompressed: BytesMut::with_capacity(DECOMPRESSED_BYTES),
            retired: Account::default(),
            durable: Durable::default(),
            options,
        }
    }

    // -----------------------------------------------------------------------------------------
    // Inputs

    /// Starts trying. Does nothing when it tries already or is connected.
    pub fn connect(&mut self, _now: u64) {
        if matches!(self.state, State::Idle) {
            self.dial();
        }
    }

    /// Ends the connection and stops trying.
    pub fn close(&mut self, now: u64) {
        let close = Close::new(CloseCode::Normal.number(), "closed by the client");
        match self.state {
            State::Idle => return,
            State::Waiting { .. } => {}
            State::Dialling | State::Greeting { .. } | State::Open(_) => {
                self.links.push_back(Link::HangUp(close.clone()));
            }
        }
        self.lost(close, false, now);
    }

    /// Leaves the connection, if there is one, and makes a new one at once: for an application that
    /// chooses the moment itself, such as after [`ClientEvent::Draining`].
    pub fn reconnect(&mut self, now: u64) {
        match &mut self.state {
            State::Idle | State::Waiting { .. } => self.dial(),
            State::Dialling | State::Greeting { .. } => {}
            State::Open(open) => {
                open.come_back_at = Some(now);
                self.hang_up(Close::new(CloseCode::GoingAway.number(), "reconnecting by request"), now);
                // Without the pause that a server gets which ends connections too often.
                if matches!(self.state, State::Waiting { .. }) {
                    self.dial();
                }
            }
        }
    }

    /// The WebSocket is open.
    pub fn connected(&mut self, now: u64) {
        if !matches!(self.state, State::Dialling) {
            return;
        }
        self.state = State::Greeting { deadline: now.saturating_add(nanos(self.options.welcome_timeout)) };
        let hello = Hello {
            role: self.options.role,
            name: bounded(&self.options.name),
            client: bounded(&self.options.client),
            codecs: if self.options.lz4 { LZ4_BIT } else { 0 },
        };
        self.send(&hello.into());
    }

    /// The connection ended, or could not be made (then with [`ABNORMAL`] or a code that says stop).
    pub fn closed(&mut self, close: Close, now: u64) {
        if matches!(self.state, State::Dialling | State::Greeting { .. } | State::Open(_)) {
            let retry = CloseCode::retries(close.code);
            self.lost(close, retry, now);
        }
    }

    /// Says whether the owner reads the socket at present. While it does not, because its own reader is
    /// slow, the server's silence proves nothing and nobody is called stale.
    pub fn reading(&mut self, reading: bool, now: u64) {
        if reading && !self.reading {
            if let State::Open(open) = &mut self.state {
                open.heard_at = now;
            }
            self.reading_since = now;
            self.look_at = self.look_at.min(now);
        }
        self.reading = reading;
    }

    /// Asks the server for its clock. Dropped when a ping is on its way already, or there is no connection.
    pub fn ping(&mut self, now: u64) {
        if matches!(self.state, State::Open(_)) && self.ping.is_none() {
            self.last_request += 1;
            self.ping = Some((self.last_request, now));
            let client_time = tickcast_protocol::field::Timestamp(i64::try_from(now).unwrap_or(i64::MAX));
            self.send(&Ping { client_time, sequence: self.last_request }.into());
        }
    }

    /// Time has passed. Call it at [`Core::poll_timeout`]; more often does no harm.
    pub fn tick(&mut self, now: u64) {
        self.expire(now);
        match &self.state {
            State::Waiting { until } if *until <= now => self.dial(),
            State::Greeting { deadline } if *deadline <= now => {
                self.hang_up(Close::new(CloseCode::HelloTimeout.number(), "no welcome in time"), now);
            }
            State::Open(open) if self.reading => {
                let dead_at = open
                    .heartbeat
                    .map(|beat| open.heard_at.saturating_add(beat.saturating_mul(SILENT_HEARTBEATS_MAX)));
                if dead_at.is_some_and(|dead_at| dead_at <= now) {
                    self.hang_up(Close::new(CloseCode::HeartbeatTimeout.number(), "server is silent"), now);
                } else {
                    self.look_for_silence(now);
                }
            }
            _ => {}
        }
        if matches!(self.state, State::Open(_)) {
            self.retry_subscribes(now);
        }
    }

    // -----------------------------------------------------------------------------------------
    // Outputs

    /// What to do with the socket.
    pub fn poll_link(&mut self) -> Option<Link> {
        self.links.pop_front()
    }

    /// The next WebSocket message to send, in binary. What is taken counts as sent; take no more than the
    /// socket can carry, since what waits here is bounded, expires and is still in order.
    pub fn poll_transmit(&mut self, now: u64) -> Option<Vec<u8>> {
        match self.state {
            State::Greeting { .. } => self.outgoing.next_control(),
            State::Open(_) => {
                let control = self.next_ack().or_else(|| self.outgoing.next_control());
                control.or_else(|| self.next_publishes(now))
            }
            _ => None,
        }
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When to call [`Core::tick`]. May lie in the past. Often earlier than needed, never later.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let of_state = match &self.state {
            State::Idle | State::Dialling => None,
            State::Waiting { until } => Some(*until),
            State::Greeting { deadline } => Some(*deadline),
            State::Open(_) if !self.reading => None,
            State::Open(open) => {
                let beats = if open.silent { SILENT_HEARTBEATS_MAX * 2 } else { 5 };
                let silence =
                    open.heartbeat.map(|beat| open.heard_at.saturating_add(beat.saturating_mul(beats) / 2));
                let stale = (self.look_at != u64::MAX).then_some(self.look_at);
                [silence, stale, self.subscribe_retry_at()].into_iter().flatten().min()
            }
        };
        let reply = self.reply_deadlines.front().map(|(deadline, _)| *deadline);
        [of_state, self.outgoing.expires_at(), reply].into_iter().flatten().min()
    }

    // -----------------------------------------------------------------------------------------
    // Questions

    /// The client's state.
    #[must_use]
    pub const fn state(&self) -> ClientState {
        self.told_state
    }

    /// Who the server said it was at the last welcome.
    #[must_use]
    pub const fn server(&self) -> Option<&ServerInfo> {
        self.server.as_ref()
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Publishes that wait to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Publishes that wait for a reply.
    #[must_use]
    pub const fn unanswered(&self) -> usize {
        self.replies_due
    }

    // -----------------------------------------------------------------------------------------
    // The life of a connection

    fn dial(&mut self) {
        self.state = State::Dialling;
        self.links.push_back(Link::Dial);
        self.tell_state(ClientState::Connecting { attempt: self.retries.attempt() }, None, true, None);
    }

    /// We give the connection up, and come back.
    fn hang_up(&mut self, close: Close, now: u64) {
        self.links.push_back(Link::HangUp(close.clone()));
        self.lost(close, true, now);
    }

    /// We give the connection up for good.
    fn give_up(&mut self, close: Close, now: u64) {
        self.links.push_back(Link::HangUp(close.clone()));
        self.lost(close, false, now);
    }

    fn lost(&mut self, close: Close, retry: bool, now: u64) {
        self.stats.closes += 1;
        self.forget_identity();
        let was = std::mem::replace(&mut self.state, State::Idle);
        let mut come_back_at = None;
        if let State::Open(open) = was {
            self.retries.lived(now.saturating_sub(open.since));
            come_back_at = open.come_back_at;
        }
        self.ping = None;
        self.outgoing.clear_control();
        self.forget_connection(close.code == CloseCode::ResumeFailed.number(), retry);
        self.give_up_replies();
        if !retry {
            while let Some(request) = self.outgoing.discard() {
                self.answer_unsent(request, Outcome::Closed);
            }
            self.tell_state(ClientState::Disconnected, Some(close), false, None);
            return;
        }
        // A server that drains spreads its clients itself; coming back as told is no failure.
        let until = match come_back_at {
            // The first time at once; one that drains on every connection is not to be asked without pause.
            Some(at) => at.max(now.saturating_add(self.retries.pause(false))),
            None => {
                let overloaded = close.code == CloseCode::TryAgainLater.number();
                now.saturating_add(self.retries.pause(overloaded)).max(std::mem::take(&mut self.not_before))
            }
        };
        self.state = State::Waiting { until };
        let to = ClientState::Connecting { attempt: self.retries.attempt() };
        self.tell_state(to, Some(close), true, Some(until));
        if until <= now {
            self.state = State::Dialling;
            self.links.push_back(Link::Dial);
        }
    }

    fn tell_state(&mut self, to: ClientState, close: Option<Close>, will_retry: bool, next: Option<u64>) {
        let from = std::mem::replace(&mut self.told_state, to);
        if from != to || close.is_some() {
            let change = StateChange { from, to, close, will_retry, next_attempt_at: next };
            self.events.push_back(ClientEvent::State(change));
        }
    }

    fn send(&mut self, message: &Message) {
        self.outgoing.control(frame::encode(message));
    }

    fn next_request(&mut self, request: Request) -> u64 {
        self.last_request += 1;
        self.requests.insert(self.last_request, request);
        self.last_request
    }
}

/// A name as the server takes it: at most 64 bytes.
fn bounded(text: &str) -> String {
    let end = (0..=text.len().min(64)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}
