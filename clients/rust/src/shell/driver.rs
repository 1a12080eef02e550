//! The task that owns a client's socket: wake, act, write.
//!
//! One task, because everything it waits for may be dropped and waited for again without loss: buffered
//! reads, plain writes, a timer, a notification. Handles reach the core through a lock that is held for
//! single calls and never across an await; channels and sockets are touched by this task alone.
//!
//! When a channel to the user is full the task stops reading the socket. The server then sees a slow
//! consumer and applies the policy of each subscription, which is where such decisions belong.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dial::{DialError, Dialled, dial};
use super::frames::{Inbound, Incoming, append_close, append_message, append_pong};
use super::url::Url;
use super::{ConnectError, SubscribeError};
use crate::core::{
    ABNORMAL, ClientEvent, ClientState, Close, Core, Link, Outcome, SubscriptionKey, SubscriptionState,
};

/// Bytes that are taken from the core ahead of the socket. What is not taken still expires and is counted.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// How long a closed connection may take to say goodbye.
const LINGER: Duration = Duration::from_secs(1);

/// Unix time that never goes back: read once, then counted on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_ns: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), start_ns: u64::try_from(since_epoch.as_nanos()).unwrap_or(0) }
    }

    pub(crate) fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.start_ns.saturating_add(elapsed)
    }

    fn instant(&self, at: u64) -> Instant {
        // Far ahead is as good as never, and does not overflow.
        let ahead = Duration::from_nanos(at.saturating_sub(self.start_ns));
        self.start + ahead.min(self.start.elapsed() + Duration::from_secs(86_400))
    }
}

/// What handles and task share.
#[derive(Debug)]
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    pub(crate) clock: Clock,
    pub(crate) wake: Notify,
    /// True when nothing waits to be sent. Gone with the task.
    pub(crate) idle: watch::Receiver<bool>,
}

impl Shared {
    pub(crate) fn new(
        core: Core,
        opened: oneshot::Sender<Result<(), ConnectError>>,
    ) -> (Arc<Self>, watch::Sender<bool>) {
        let (idle, seen) = watch::channel(true);
        let inner = Inner {
            core,
            routes: HashMap::new(),
            watched: HashSet::new(),
            acknowledged: HashMap::new(),
            replies: HashMap::new(),
            opened: Some(opened),
            events_dropped: 0,
            unwritten: 0,
        };
        let shared = Self { inner: Mutex::new(inner), clock: Clock::new(), wake: Notify::new(), idle: seen };
        (Arc::new(shared), idle)
    }

    /// Everything behind the lock. A panic of another handle's thread does not end this one: the core
    /// keeps no invariant across calls that a panic between them could break.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Behind the lock: the core, and who waits for what.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) core: Core,
    /// Subscriptions with a channel of their own.
    pub(crate) routes: HashMap<SubscriptionKey, mpsc::Sender<ClientEvent>>,
    /// Subscriptions that are told on the client's channel.
    pub(crate) watched: HashSet<SubscriptionKey>,
    pub(crate) acknowledged: HashMap<SubscriptionKey, oneshot::Sender<Result<(), SubscribeError>>>,
    pub(crate) replies: HashMap<u64, oneshot::Sender<Outcome>>,
    opened: Option<oneshot::Sender<Result<(), ConnectError>>>,
    pub(crate) events_dropped: u64,
    /// Bytes taken from the core and not yet by the socket.
    pub(crate) unwritten: usize,
}

impl Inner {
    /// True when nothing waits to be sent: no publish, and no acknowledgement.
    pub(crate) fn is_idle(&self) -> bool {
        self.unwritten == 0 && self.core.queued() == 0 && self.core.acknowledgements_due() == 0
    }

    /// Tells who waits for the first attempt. When it failed, they want no other.
    fn answer_opened(&mut self, outcome: Result<(), ConnectError>, now: u64) {
        let failed = outcome.is_err();
        if self.opened.take().is_some_and(|opened| opened.send(outcome).is_ok()) && failed {
            self.core.close(now);
        }
    }

    /// Answers who waits for this event. True when that was all it was for.
    fn observe(&mut self, event: &ClientEvent, now: u64) -> bool {
        match event {
            ClientEvent::State(change) => {
                let outcome = match (&change.close, change.to) {
                    (_, ClientState::Connected) => Ok(()),
                    (Some(close), _) => Err(ConnectError::Closed(close.clone())),
                    _ => return false,
                };
                self.answer_opened(outcome, now);
            }
            ClientEvent::Acknowledged { subscription, .. } => {
                self.acknowledged.remove(subscription).map(|waiter| waiter.send(Ok(())));
            }
            ClientEvent::ServerError(error) if !error.retryable => {
                let waiter = error.subscription.and_then(|key| self.acknowledged.remove(&key));
                waiter.map(|waiter| waiter.send(Err(SubscribeError::Refused(error.clone()))));
            }
            ClientEvent::Subscription { subscription, to: SubscriptionState::Unsubscribed, .. } => {
                self.acknowledged.remove(subscription).map(|waiter| waiter.send(Err(SubscribeError::Closed)));
            }
            ClientEvent::Published { request, outcome } => {
                return self
                    .replies
                    .remove(request)
                    .is_some_and(|waiter| waiter.send(outcome.clone()).is_ok());
            }
            _ => {}
        }
        false
    }
}

/// What the driver is made from.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) url: Url,
    pub(crate) connect_timeout: Duration,
    pub(crate) read_buffer_bytes: usize,
    pub(crate) message_bytes_max: usize,
}

/// An open connection.
#[derive(Debug)]
struct Socket {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    inbound: Inbound,
    out: Vec<u8>,
    written: usize,
}

/// Everything that can wake the task.
enum Wake {
    Asked,
    Space,
    Dialled(Result<Dialled, DialError>),
    Read(io::Result<usize>),
    Wrote(io::Result<usize>),
    Due,
}

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, DialError>> + Send>>;

pub(crate) struct Driver {
    shared: Arc<Shared>,
    idle: watch::Sender<bool>,
    events: mpsc::Sender<ClientEvent>,
    settings: Settings,
    socket: Option<Socket>,
    dialling: Option<Dialling>,
    /// An event its channel had no room for: until it has, nothing is read.
    held: Option<(mpsc::Sender<ClientEvent>, ClientEvent)>,
    goodbye: Option<JoinHandle<()>>,
    /// When the timer is set to.
    armed: Option<u64>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        idle: watch::Sender<bool>,
        events: mpsc::Sender<ClientEvent>,
        settings: Settings,
    ) -> Self {
        let (socket, dialling, held, goodbye, armed) = (None, None, None, None, None);
        Self { shared, idle, events, settings, socket, dialling, held, goodbye, armed }
    }

    /// Runs until the client is disconnected for good and everything is told.
    pub(crate) async fn run(mut self) {
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        while let Some(due) = self.turn() {
            // A deadline that moved away is found out when the timer fires: resetting it for every message
            // would cost more than the message.
            if let Some(due) = due
                && self.armed.is_none_or(|armed| due < armed)
            {
                timer.as_mut().reset(self.shared.clock.instant(due));
                self.armed = Some(due);
            }
            let reads = self.held.is_none();
            let (read, write) = match &mut self.socket {
                Some(Socket { read, write, inbound, out, written }) => (
                    Some((read, &mut inbound.buffer)),
                    (*written < out.len()).then(|| (write, &out[*written..])),
                ),
                None => (None, None),
            };
            let wake = tokio::select! {
                () = self.shared.wake.notified() => Wake::Asked,
                () = room(self.held.as_ref()) => Wake::Space,
                outcome = opened(&mut self.dialling) => Wake::Dialled(outcome),
                outcome = read_some(read, self.settings.read_buffer_bytes), if reads => Wake::Read(outcome),
                outcome = write_some(write) => Wake::Wrote(outcome),
                () = &mut timer, if self.armed.is_some() => Wake::Due,
            };
            self.apply(wake);
        }
        drop(self.events);
        if let Some(goodbye) = self.goodbye {
            let _ = goodbye.await;
        }
    }

    fn apply(&mut self, wake: Wake) {
        match wake {
            Wake::Asked | Wake::Space => {}
            Wake::Due => self.armed = None,
            Wake::Dialled(outcome) => {
                self.dialling = None;
                let now = self.shared.clock.now();
                let mut inner = self.shared.lock();
                match outcome {
                    Ok(Dialled { socket, leftover }) => {
                        let (read, write) = socket.into_split();
                        let inbound = Inbound::new(leftover, self.settings.message_bytes_max);
                        self.socket = Some(Socket { read, write, inbound, out: Vec::new(), written: 0 });
                        inner.core.connected(now);
                    }
                    Err(error) => {
                        let close = error.close();
                        inner.core.closed(close, now);
                        inner.answer_opened(Err(error.into()), now);
                    }
                }
            }
            Wake::Read(Ok(0)) => self.lost("the server ended the connection".to_owned()),
            Wake::Read(Err(error)) | Wake::Wrote(Err(error)) => self.lost(error.to_string()),
            Wake::Read(Ok(_)) => {}
            Wake::Wrote(Ok(count)) => {
                let Some(socket) = &mut self.socket else { return };
                socket.written += count;
                if socket.written == socket.out.len() {
                    socket.out.clear();
                    socket.written = 0;
                }
            }
        }
    }

    fn lost(&mut self, reason: String) {
        self.socket = None;
        let now = self.shared.clock.now();
        self.shared.lock().core.closed(Close::new(ABNORMAL, reason), now);
    }

    /// Moves everything that can move now. Returns when to look again, or `None` at the end.
    fn turn(&mut self) -> Option<Option<u64>> {
        let shared = self.shared.clone();
        let now = shared.clock.now();
        let mut inner = shared.lock();
        inner.core.tick(now);
        loop {
            self.follow_links(&mut inner);
            self.tell(&mut inner, now);
            if self.held.is_some() || !self.take_in(&mut inner, now) {
                break;
            }
        }
        inner.core.reading(self.held.is_none(), now);
        if let Some(socket) = &mut self.socket {
            while socket.out.len() - socket.written < OUT_BYTES_MAX {
                let Some(message) = inner.core.poll_transmit(now) else { break };
                append_message(message, &mut socket.out);
            }
        }
        // Taking publishes may have told of some that expired.
        self.tell(&mut inner, now);
        inner.unwritten = self.socket.as_ref().map_or(0, |socket| socket.out.len() - socket.written);
        let idle = inner.is_idle();
        self.idle.send_if_modified(|was| std::mem::replace(was, idle) != idle);
        if inner.core.state() == ClientState::Disconnected && self.held.is_none() {
            // Channels end here, so that everyone who waits learns it.
            inner.routes.clear();
            inner.acknowledged.clear();
            inner.replies.clear();
            return None;
        }
        Some(inner.core.poll_timeout())
    }

    fn follow_links(&mut self, inner: &mut Inner) {
        while let Some(link) = inner.core.poll_link() {
            match link {
                Link::Dial => {
                    self.dialling =
                        Some(Box::pin(dial(self.settings.url.clone(), self.settings.connect_timeout)));
                }
                Link::HangUp(close) => {
                    self.dialling = None;
                    self.say_goodbye(&close);
                }
            }
        }
    }

    /// Events go to whom they belong, until a channel has no room.
    fn tell(&mut self, inner: &mut Inner, now: u64) {
        if let Some((channel, event)) = self.held.take()
            && let Err(mpsc::error::TrySendError::Full(event)) = channel.try_send(event)
        {
            self.held = Some((channel, event));
            return;
        }
        while let Some(event) = inner.core.poll_event() {
            if inner.observe(&event, now) {
                continue;
            }
            let key = event.subscription();
            let (channel, must_arrive) = match key {
                Some(key) => match inner.routes.get(&key) {
                    Some(channel) => (channel, true),
                    None if inner.watched.contains(&key) => (&self.events, true),
                    // Of a subscription that was dropped.
                    None => continue,
                },
                // Without subscriptions there, nobody may be reading; that must not stop the others.
                None => (&self.events, !inner.watched.is_empty()),
            };
            match channel.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(event)) if must_arrive => {
                    self.held = Some((channel.clone(), event));
                    return;
                }
                Err(mpsc::error::TrySendError::Full(_)) => inner.events_dropped += 1,
            }
        }
    }

    /// Hands one thing that was read to the core; false when there is none.
    fn take_in(&mut self, inner: &mut Inner, now: u64) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        match socket.inbound.next() {
            Ok(Some(Incoming::Message(message))) => inner.core.received(message, now),
            // A server that pings faster than it reads gets fewer answers.
            Ok(Some(Incoming::Ping(payload))) if socket.out.len() < OUT_BYTES_MAX => {
                append_pong(&payload, &mut socket.out);
            }
            Ok(Some(Incoming::Ping(_) | Incoming::Pong)) => {}
            Ok(Some(Incoming::Close(close))) | Err(close) => {
                self.say_goodbye(&close);
                inner.core.closed(close, now);
            }
            Ok(None) => return false,
        }
        true
    }

    /// Sends what is left and a close, then waits a moment for the server's: a socket that is dropped with
    /// unread bytes is reset, and takes with it what the server had not read yet.
    fn say_goodbye(&mut self, close: &Close) {
        let Some(Socket { mut read, mut write, mut out, written, .. }) = self.socket.take() else { return };
        append_close(close, &mut out);
        self.goodbye = Some(tokio::spawn(async move {
            let _ = tokio::time::timeout(LINGER, async {
                write.write_all(&out[written..]).await?;
                write.shutdown().await?;
                let mut rest = [0; 4096];
                while read.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            })
            .await;
        }));
    }
}

/// Done when the channel of a held event has room or is closed.
async fn room(held: Option<&(mpsc::Sender<ClientEvent>, ClientEvent)>) {
    match held {
        // The room stays: nobody else sends on it.
        Some((channel, _)) => drop(channel.reserve().await),
        None => std::future::pending().await,
    }
}

async fn opened(dialling: &mut Option<Dialling>) -> Result<Dialled, DialError> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}

/// A read that loses nothing when dropped: what was read is in the buffer.
async fn read_some(socket: Option<(&mut OwnedReadHalf, &mut BytesMut)>, room: usize) -> io::Result<usize> {
    match socket {
        Some((read, buffer)) => {
            if buffer.capacity() - buffer.len() < room / 4 {
                buffer.reserve(room);
            }
            read.read_buf(buffer).await
        }
        None => std::future::pending().await,
    }
}

async fn write_some(socket: Option<(&mut OwnedWriteHalf, &[u8])>) -> io::Result<usize> {
    match socket {
        Some((write, bytes)) => write.write(bytes).await,
        None => std::future::pending().await,
    }
}
