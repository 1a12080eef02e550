//! One peer: reads, decides through its session, keeps time, and resumes after a full socket.
//!
//! The shard writes; this task only reads and waits. A read goes through a scratch buffer of the thread,
//! so an idle connection holds none.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastwebsockets::OpCode;
use tickcast_engine::{Condition, Delivery, Flushed, Format, PeerId, Subscribe, SubscribeError, Subscribed};
use tickcast_protocol::frame::Frame;
use tickcast_protocol::message::{Message, Notice, NoticeKind, Reason, SourceStatus};
use tickcast_protocol::{CloseCode, ErrorCode, Predicate, SubscriptionId, Topic, TopicFilter};
use tokio::net::TcpStream;
use tokio::task;
use tokio::time::{Instant, sleep_until, timeout};

use super::codec;
use super::link::{Link, Wake};
use super::shards::Cell;
use super::upgrade::Speaks;
use super::websocket::{self, CloseReason, Inbound, Received};
use crate::alerts::Alerts;
use crate::auth::{Denied, Principal};
use crate::config::JsonCase;
use crate::ingest::{Later, Published, Refusal, Source, Wishes};
use crate::session::{Acknowledge, BinarySession, D1Session, Desk, Postbox, Session};
use crate::states::SourceHandle;

/// Bytes read at once, after which others have their turn: some 500 publishes of 128 bytes. What is read
/// together is delivered together, and messages that share a send cost a fraction of one each, so a busy
/// publisher is better read in large pieces.
const READ_BYTES: usize = 64 * 1024;
/// How long a peer has to take the close frame and answer it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time until a peer's identity is looked after again while something is in flight, in ns.
const DUE_MAX_NS: u64 = 60_000_000_000;
/// How often a subscription to an instrument that nobody has published yet is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Spread of the moments at which clients are asked to come back after a drain.
const RECONNECT_SPREAD_MS: u32 = 2_000;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Control messages a subscriber may still send; refilled over time.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    warned: bool,
}

/// Why a connection's loop ended.
#[derive(Debug)]
pub enum End {
    /// We close, and say why.
    Ours(CloseReason),
    /// The peer closed, with its code if it gave one.
    Theirs(Option<u16>),
    /// The socket is dead.
    Lost,
}

/// One peer.
pub struct Connection {
    cell: Rc<Cell>,
    link: Rc<Link>,
    peer: PeerId,
    session: Session,
    inbound: Inbound,
    bucket: Bucket,
    is_publisher: bool,
    /// What a publisher publishes as.
    source: Option<Box<SourceHandle>>,
    opened: Instant,
    last_read: Instant,
    next_heartbeat: Instant,
    /// When what waits is tried again; of no meaning while nothing does.
    next_retry: Instant,
    message_began: Option<Instant>,
}

impl Connection {
    /// A peer that has just been upgraded to what it `speaks`, and may have named itself.
    #[must_use]
    pub fn new(cell: Rc<Cell>, tcp: TcpStream, speaks: Speaks, client_id: Option<&str>, number: u64) -> Self {
        let config = &cell.shared.config;
        let terms = cell.terms.clone();
        let (session, format) = match speaks {
            Speaks::Binary => {
                let epoch = cell.shared.ingest.engine().epoch();
                (Session::Binary(BinarySession::new(terms, number, epoch)), Format::Binary)
            }
            Speaks::D1 => {
                let next = cell.shard.borrow().distributed() + 1;
                let stay = client_id.and_then(|name| cell.shared.sticky.enter(name, next));
                let directory = cell.shared.directory.clone();
                let session = D1Session::new(terms, number, config.json.case, directory, stay);
                let format =
                    if config.json.case == JsonCase::Camel { Format::D1Camel } else { Format::D1Snake };
                (Session::D1(Box::new(session)), format)
            }
        };
        let inbound =
            Inbound::new(config.limits.inbound_bytes, "limits.inbound_bytes", config.limits.fragments);
        let now = Instant::now();
        // The first beat comes at a random part of the interval, so that a herd spreads out.
        let first_beat = config.heartbeat.interval.mul_f64(fastrand::f64().max(0.05));
        let bucket =
            Bucket { tokens: config.limits.inbound_messages_burst as f64, filled: now, warned: false };
        let link = Rc::new(Link::new(tcp));
        let peer = cell.shard.borrow_mut().attach(format);
        cell.sockets.borrow_mut().insert(peer, link.clone());
        Self {
            link,
            peer,
            session,
            inbound,
            bucket,
            is_publisher: false,
            source: None,
            opened: now,
            last_read: now,
            next_heartbeat: cell.beat_after(now + first_beat),
            next_retry: now,
            message_began: None,
            cell,
        }
    }

    /// Greets, and takes the bytes that came along with the handshake.
    ///
    /// # Errors
    /// Why the connection must end before it has begun.
    pub fn open(&mut self, mut leftover: Vec<u8>) -> Result<(), End> {
        self.with_desk(|session, desk| session.open(desk));
        self.feed(&mut leftover)?;
        self.flush()?;
        self.message_began = self.inbound.is_midway().then(Instant::now);
        Ok(())
    }

    /// Serves the connection until it ends. What is rarely needed is boxed when it is: this future is most
    /// of what an idle connection costs.
    pub async fn serve(&mut self) -> End {
        let timer = sleep_until(self.deadline());
        tokio::pin!(timer);
        loop {
            if let Some(by) = self.cell.leave_by.get() {
                return Box::pin(self.leave(by)).await;
            }
            let Ok(wake) = self.link.wake(timer.as_mut()).await else { return End::Lost };
            let outcome = match wake {
                Wake::Nudge => self.take_posts().and_then(|()| self.flush_if_open()),
                Wake::Room => {
                    self.link.blocked.set(false);
                    self.flush().and_then(|()| self.send())
                }
                Wake::Time => {
                    let outcome = self.on_time();
                    timer.as_mut().reset(self.deadline());
                    outcome
                }
                Wake::Peer => self.read(),
            };
            if let Err(end) = outcome {
                return end;
            }
            let began_or_ended = self.message_began.is_some() != self.inbound.is_midway();
            if began_or_ended {
                self.message_began = self.inbound.is_midway().then(Instant::now);
            }
            if began_or_ended || self.session.is_waiting() || self.session.due().is_some() {
                timer.as_mut().reset(self.deadline());
            }
            if wake == Wake::Peer {
                // A socket that always has more would keep the thread: nothing above has to wait.
                task::yield_now().await;
            }
        }
    }

    /// The next moment at which time alone asks for something.
    fn deadline(&self) -> Instant {
        let limits = &self.cell.shared.config.limits;
        let mut deadline = self.next_heartbeat.min(self.last_read + limits.idle_timeout);
        if !self.session.is_open() {
            deadline = deadline.min(self.opened + limits.hello_timeout);
        }
        if let Some(began) = self.message_began {
            deadline = deadline.min(began + limits.message_timeout);
        }
        if self.session.is_waiting() {
            // A moment of its own: a peer that talks all the time must not put it off for ever.
            deadline = deadline.min(self.next_retry);
        }
        // A full socket is waited for by itself. And a clock that was set back must not be.
        if let Some(due) = self.session.due().filter(|_| !self.link.blocked.get()) {
            let now = self.cell.shared.clock.now() as i64;
            let wait = u64::try_from(due.saturating_sub(now)).unwrap_or(0).min(DUE_MAX_NS);
            deadline = deadline.min(Instant::now() + Duration::from_nanos(wait));
        }
        deadline
    }

    /// Hands what other threads sent to the session.
    fn take_posts(&mut self) -> Result<(), End> {
        for post in self.link.take_posts() {
            self.try_with_desk(|session, desk| session.post(post, desk))?;
        }
        Ok(())
    }

    /// Sends what waits for the peer's identity, as far as there is room.
    fn send(&mut self) -> Result<(), End> {
        if self.link.blocked.get() || !self.session.has_identity() {
            return Ok(());
        }
        self.try_with_desk(|session, desk| session.send(desk))?;
        self.flush()
    }

    fn on_time(&mut self) -> Result<(), End> {
        let shared = self.cell.shared.clone();
        let limits = &shared.config.limits;
        if self.is_late() {
            // What has come while this thread was kept from looking is read first, and is in time.
            self.read()?;
        }
        let now = Instant::now();
        if !self.session.is_open() && now >= self.opened + limits.hello_timeout {
            let text = "no hello within limits.hello_timeout";
            return Err(End::Ours(CloseReason::limit(CloseCode::HelloTimeout, text, "limits.hello_timeout")));
        }
        if self.message_began.is_some_and(|began| now >= began + limits.message_timeout) {
            let text = "a message did not end within limits.message_timeout";
            return Err(End::Ours(CloseReason::limit(
                CloseCode::PolicyViolation,
                text,
                "limits.message_timeout",
            )));
        }
        if now >= self.last_read + limits.idle_timeout {
            let text = "nothing was heard within limits.idle_timeout";
            return Err(End::Ours(CloseReason::limit(
                CloseCode::HeartbeatTimeout,
                text,
                "limits.idle_timeout",
            )));
        }
        if self.session.is_waiting() {
            self.next_retry = now + RETRY_INTERVAL;
            self.with_desk(|session, desk| session.retry(desk));
            self.flush()?;
        }
        if self.session.due().is_some_and(|due| due <= shared.clock.now() as i64) {
            self.send()?;
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = self.cell.beat_after(now + shared.config.heartbeat.interval);
            let is_idle = self.cell.shard.borrow().is_idle(self.peer);
            self.with_desk(|session, desk| session.heartbeat(desk));
            // What lists many subscriptions leaves no room for the ping.
            self.flush()?;
            let mut shard = self.cell.shard.borrow_mut();
            let number = self.session.ping(is_idle, shard.distributed()).map(u32::to_be_bytes);
            let ping = websocket::message(OpCode::Ping, number.as_ref().map_or(&[], |number| &number[..]));
            let sent = shard.send(self.peer, ping).and_then(|()| {
                if self.session.is_open() { shard.heartbeat(self.peer, shared.clock.now()) } else { Ok(()) }
            });
            drop(shard);
            if sent.is_err() {
                return Err(End::Ours(UNREAD));
            }
            return self.flush();
        }
        Ok(())
    }

    /// True when the peer has waited longer with something than it may.
    fn is_late(&self) -> bool {
        let (now, limits) = (Instant::now(), &self.cell.shared.config.limits);
        now >= self.last_read + limits.idle_timeout
            || self.message_began.is_some_and(|began| now >= began + limits.message_timeout)
            || !self.session.is_open() && now >= self.opened + limits.hello_timeout
    }

    /// Reads once: as much as fits the scratch buffer.
    fn read(&mut self) -> Result<(), End> {
        SCRATCH.with_borrow_mut(|scratch| match self.link.read(scratch) {
            Ok(0) => Err(End::Lost),
            Ok(count) => {
                self.last_read = Instant::now();
                self.feed(&mut scratch[..count])?;
                self.flush()?;
                self.send()
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(End::Lost),
        })
    }

    fn feed(&mut self, bytes: &mut [u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Self { inbound, session, cell, peer, bucket, is_publisher, source, .. } = self;
        let (mut theirs, mut ended) = (None, false);
        let fed = inbound.feed(bytes, |inbound, received| {
            ended |= !matches!(received, Received::Ping(_) | Received::Pong(_));
            if theirs.is_some() {
                // What follows a close is not read (RFC 6455, 5.5.1).
                return Ok(());
            }
            let was_publisher = *is_publisher;
            let mut desk =
                PeerDesk { cell, peer: *peer, is_publisher, source, overflow: false, acknowledged: 0 };
            if !was_publisher && !matches!(received, Received::Close(_)) {
                bucket.take(session, &mut desk)?;
            }
            match received {
                Received::Text(text) => session.text(text, &mut desk)?,
                Received::Binary(bytes) => session.binary(bytes, &mut desk)?,
                Received::Ping(payload) => desk.say(websocket::message(OpCode::Pong, payload)),
                Received::Pong(payload) => session.pong(payload),
                Received::Close(code) => theirs = Some(code),
            }
            let (overflow, acknowledged) = (desk.overflow, desk.acknowledged);
            // Who acknowledges what it was sent, message by message, is not too busy.
            bucket.tokens += acknowledged.min(1) as f64;
            if *is_publisher && !was_publisher {
                inbound.set_bytes_max(cell.shared.config.limits.publisher_bytes, "limits.publisher_bytes");
            }
            if overflow { Err(UNREAD) } else { Ok(()) }
        });
        if ended {
            // What is midway now began in these bytes.
            self.message_began = None;
        }
        match (fed, theirs) {
            (_, Some(code)) => Err(End::Theirs(code)),
            (Err(reason), None) => Err(End::Ours(reason)),
            (Ok(()), None) => Ok(()),
        }
    }

    fn with_desk(&mut self, act: impl FnOnce(&mut Session, &mut dyn Desk)) {
        let Self { session, cell, peer, is_publisher, source, .. } = self;
        act(
            session,
            &mut PeerDesk { cell, peer: *peer, is_publisher, source, overflow: false, acknowledged: 0 },
        );
    }

    fn try_with_desk(
        &mut self,
        act: impl FnOnce(&mut Session, &mut dyn Desk) -> Result<(), CloseReason>,
    ) -> Result<(), End> {
        let Self { session, cell, peer, is_publisher, source, .. } = self;
        let mut desk = PeerDesk { cell, peer: *peer, is_publisher, source, overflow: false, acknowledged: 0 };
        act(session, &mut desk).map_err(End::Ours)?;
        if desk.overflow { Err(End::Ours(UNREAD)) } else { Ok(()) }
    }

    /// Writes what waits, unless the socket is known to be full.
    fn flush(&mut self) -> Result<(), End> {
        // Who is to be closed is not waited for.
        if self.link.blocked.get() && !self.cell.shard.borrow().is_closing(self.peer) {
            return Ok(());
        }
        let flushed =
            self.cell.shard.borrow_mut().flush_peer(self.peer, &mut *self.cell.sockets.borrow_mut());
        match flushed {
            Flushed::Idle | Flushed::Blocked => Ok(()),
            Flushed::Gone => Err(End::Lost),
            Flushed::Close(code) => Err(End::Ours(match code {
                // The shard counted which limit it was.
                CloseCode::SlowConsumer => CloseReason::new(code, "messages were not read in time"),
                code => CloseReason::new(code, "closed by policy"),
            })),
        }
    }

    /// After a change seen by the shard's writes.
    fn flush_if_open(&mut self) -> Result<(), End> {
        if self.link.gone.get() { Err(End::Lost) } else { self.flush() }
    }

    /// Says goodbye: notice, what is queued, then 1012.
    async fn leave(&mut self, deadline: Instant) -> End {
        // Answers that were given before the order to leave.
        if let Err(end) = self.take_posts() {
            return end;
        }
        let notice = Message::Notice(Notice {
            kind: NoticeKind::DRAINING,
            subscription: 0,
            stream: 0,
            from: 0,
            through: 0,
            conflated: 0,
            gapped: 0,
            filtered: 0,
            reason: Reason::DRAIN,
            // Each client gets a moment of its own, so that they do not come back as one wave.
            reconnect_in_ms: fastrand::u32(0..RECONNECT_SPREAD_MS),
        });
        let format = self.cell.shard.borrow().format_of(self.peer).unwrap_or(Format::Binary);
        if let Some(bytes) = codec::control(&notice, None, format, self.cell.shared.clock.now()) {
            let _ = self.cell.shard.borrow_mut().send(self.peer, bytes);
        }
        let restart =
            End::Ours(CloseReason::new(CloseCode::ServiceRestart, "the server restarts; come back"));
        loop {
            if self.flush_if_open().is_err() {
                return End::Lost;
            }
            if self.cell.shard.borrow().is_idle(self.peer) {
                return restart;
            }
            let link = self.link.clone();
            tokio::select! {
                writable = link.tcp.writable() => {
                    if writable.is_err() {
                        return End::Lost;
                    }
                    self.link.blocked.set(false);
                }
                () = sleep_until(deadline) => {
                    self.cell.shared.metrics.limit_hit("server.drain_timeout");
                    return restart;
                }
            }
        }
    }

    /// The closing handshake. The socket ends with the connection.
    pub async fn finish(&mut self, end: End) {
        let shared = self.cell.shared.clone();
        let closed = &shared.metrics.counters.closed;
        let farewell = match end {
            End::Lost => {
                closed.add("none");
                None
            }
            End::Theirs(code) => {
                self.session.leave(code);
                closed.add(code_label(code.unwrap_or(1005)));
                let payload = code.map(u16::to_be_bytes);
                let echo = payload.as_ref().map_or(&[][..], |code| code.as_slice());
                Some((CloseCode::Normal, websocket::message(OpCode::Close, echo)))
            }
            End::Ours(mut reason) => {
                reason.code = self.session.close_code(reason.code);
                closed.add(code_label(reason.code.number()));
                if let Some(limit) = reason.limit {
                    shared.metrics.limit_hit(limit);
                }
                Some((reason.code, reason.frame()))
            }
        };
        if let Some((code, farewell)) = farewell {
            let _ = timeout(CLOSE_TIMEOUT, self.say_goodbye(code, farewell)).await;
        }
    }

    /// Sends the close frame after the frame that is half written, then reads until the peer hangs up:
    /// closing with unread input would reset the connection and destroy the close frame.
    async fn say_goodbye(&mut self, code: CloseCode, farewell: Bytes) {
        self.cell.shard.borrow_mut().hang_up(self.peer, code, farewell);
        self.link.blocked.set(false);
        loop {
            let flushed =
                self.cell.shard.borrow_mut().flush_peer(self.peer, &mut *self.cell.sockets.borrow_mut());
            if flushed == Flushed::Gone {
                return;
            }
            if self.cell.shard.borrow().is_idle(self.peer) {
                break;
            }
            if self.link.tcp.writable().await.is_err() {
                return;
            }
        }
        let _ = socket2::SockRef::from(&self.link.tcp).shutdown(Shutdown::Write);
        loop {
            if self.link.tcp.readable().await.is_err() {
                return;
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.link.read(scratch));
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            task::yield_now().await;
        }
    }
}

/// However a connection ends, by a panic of its task too, it leaves nothing behind.
impl Drop for Connection {
    fn drop(&mut self) {
        if let (Ok(mut sockets), Ok(mut shard)) =
            (self.cell.sockets.try_borrow_mut(), self.cell.shard.try_borrow_mut())
        {
            sockets.remove(self.peer);
            shard.detach(self.peer);
        }
    }
}

const UNREAD: CloseReason =
    CloseReason::new(CloseCode::PolicyViolation, "answers to this connection's messages are not read");

impl Bucket {
    /// Takes one token. Without one the peer is told once, and closed the next time.
    fn take(&mut self, session: &Session, desk: &mut PeerDesk<'_>) -> Result<(), CloseReason> {
        let limits = &desk.cell.shared.config.limits;
        let now = Instant::now();
        let refill = (now - self.filled).as_secs_f64() * limits.inbound_messages_per_second as f64;
        self.filled = now;
        self.tokens = (self.tokens + refill).min(limits.inbound_messages_burst as f64);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // The sustained rate and the burst are two limits of one bucket.
        let key = if limits.inbound_messages_burst <= limits.inbound_messages_per_second {
            "limits.inbound_messages_burst"
        } else {
            "limits.inbound_messages_per_second"
        };
        if self.warned {
            let text = "more messages a second than a subscriber may send";
            return Err(CloseReason::limit(CloseCode::RateLimited, text, key));
        }
        self.warned = true;
        desk.count_limit(key);
        let text = format!(
            "more than limits.inbound_messages_per_second = {} messages a second: slow down, the next one too many closes the connection",
            limits.inbound_messages_per_second
        );
        session.error(ErrorCode::RateLimited, &text, 1_000, desk);
        Ok(())
    }
}

/// A close code as a label from a closed set.
fn code_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        4002 => "4002",
        4003 => "4003",
        4006 => "4006",
        4008 => "4008",
        4500 => "4500",
        4509 => "4509",
        _ => "other",
    }
}

/// What a session reaches through its connection.
struct PeerDesk<'a> {
    cell: &'a Rc<Cell>,
    peer: PeerId,
    is_publisher: &'a mut bool,
    source: &'a mut Option<Box<SourceHandle>>,
    overflow: bool,
    /// Messages that the peer acknowledged just now.
    acknowledged: usize,
}

impl PeerDesk<'_> {
    /// Writes what waits, so that one request's answers do not take the place of the next one's.
    fn write_out(&self) {
        let mut sockets = self.cell.sockets.borrow_mut();
        if !sockets.is_blocked(self.peer) {
            self.cell.shard.borrow_mut().flush_peer(self.peer, &mut *sockets);
        }
    }
}

impl Desk for PeerDesk<'_> {
    fn subscribe(
        &mut self,
        request: Subscribe,
        acknowledge: Acknowledge<'_>,
    ) -> Result<Subscribed, SubscribeError> {
        self.write_out();
        self.cell.shard.borrow_mut().subscribe(self.peer, request, acknowledge)
    }

    fn unsubscribe(&mut self, subscription: SubscriptionId, acknowledge: Acknowledge<'_>) -> bool {
        self.cell.shard.borrow_mut().unsubscribe(self.peer, subscription, acknowledge).is_ok()
    }

    fn configure(
        &mut self,
        subscription: SubscriptionId,
        delivery: &Delivery,
        acknowledge: Acknowledge<'_>,
    ) -> bool {
        let configured = self.cell.shard.borrow_mut().configure(self.peer, subscription, delivery);
        let Ok(updated) = configured else { return false };
        if let Some(bytes) = acknowledge(&updated) {
            self.say(bytes);
        }
        true
    }

    fn condition(&self, predicate: Predicate) -> Condition {
        self.cell.shared.ingest.condition(predicate)
    }

    fn set_format(&mut self, format: Format) {
        self.cell.shard.borrow_mut().set_format(self.peer, format);
    }

    fn publish(
        &mut self,
        frame: &Frame<'_>,
        wishes: Wishes<'_>,
        request: Option<u64>,
    ) -> Result<Published, Refusal> {
        let later = || -> Later {
            let (postbox, claim) = (self.postbox(), self.source.as_ref().and_then(|source| source.claim()));
            Box::new(move |outcome| {
                if let (Ok(accepted), Some(claim)) = (&outcome, claim) {
                    claim.published(&accepted.topic);
                }
                // Nobody asked to hear of a success.
                if request.is_some() || outcome.is_err() {
                    postbox.published(request, outcome);
                }
            })
        };
        let published = self.cell.shared.ingest.publish_frame(Source::Socket, frame, wishes, later);
        if let (Ok(Published::Now(accepted)), Some(source)) = (&published, &mut *self.source) {
            accepted.stream.into_iter().for_each(|stream| source.published(stream));
        }
        published
    }

    fn alerts(&self) -> Option<Arc<Alerts>> {
        self.cell.shared.ingest.alerts().cloned()
    }

    fn postbox(&self) -> Postbox {
        self.cell.postbox(self.peer)
    }

    fn leave_out_critical(&mut self) {
        self.cell.shard.borrow_mut().leave_out_critical(self.peer);
    }

    fn has_room(&mut self) -> bool {
        if self.cell.shard.borrow().has_control(self.peer) {
            self.write_out();
        }
        !self.cell.shard.borrow().has_control(self.peer)
    }

    fn has_acknowledged(&mut self, messages: usize) {
        self.acknowledged += messages;
    }

    fn vouch(&mut self, status: SourceStatus, topics: &[Topic], interval_ms: u32) -> Result<(), Refusal> {
        let now = self.now();
        match &mut *self.source {
            Some(source) => source.say(status, topics, interval_ms, now),
            None => Ok(()),
        }
    }

    fn begun(&self) -> u64 {
        self.cell.shard.borrow().begun()
    }

    fn distributed(&self) -> u64 {
        self.cell.shard.borrow().distributed()
    }

    fn skip(&mut self, topic: &str, count: u64) -> Result<(), Refusal> {
        self.cell.shared.ingest.skip(topic, count).map(drop)
    }

    fn may_publish(&self) -> Result<(), Denied> {
        self.cell.shared.ingest.authorizer().may_connect_as_publisher(&Principal::Anonymous)
    }

    fn may_subscribe(&self, filter: &TopicFilter) -> Result<(), Denied> {
        self.cell.shared.ingest.authorizer().may_subscribe(&Principal::Anonymous, filter)
    }

    fn accept_publisher(&mut self) {
        *self.is_publisher = true;
        let states = self.cell.shared.ingest.states();
        self.source.get_or_insert_with(|| Box::new(states.source(false)));
    }

    fn say(&mut self, message: Bytes) {
        if self.cell.shard.borrow_mut().send(self.peer, message.clone()).is_ok() {
            return;
        }
        // Much was asked for at once: what is answered already may leave first.
        self.write_out();
        self.overflow |= self.cell.shard.borrow_mut().send(self.peer, message).is_err();
    }

    fn count_error(&self, code: ErrorCode) {
        self.cell.shared.metrics.counters.errors.add(code.name());
    }

    fn count_limit(&self, key: &'static str) {
        self.cell.shared.metrics.limit_hit(key);
    }

    fn now(&self) -> u64 {
        self.cell.shared.clock.now()
    }
}
