//! The shard threads: each runs one engine shard and the connections it owns, on one local runtime.
//!
//! ```text
//!   front thread ── Adopted ──> inbox ─┐
//!   publishers ──── wake ──> Notify ───┤   shard task: turn, flush, sleep
//!                                      └─> connection tasks: read, keep time, resume after a full socket
//! ```
//!
//! All of a shard's tasks share it through a `RefCell` that is never borrowed across an await.
#![forbid(unsafe_code)]

use std::cell::{Cell as StdCell, RefCell};
use std::io::{self, IoSlice};
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tickcast_engine::{Notify, PeerId, PeerIo, Shard, WriteRequest, Written};
use tickcast_protocol::codec::LZ4_BIT;
use tokio::net::TcpStream;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{Notify as TokioNotify, mpsc};
use tokio::task;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::link::Link;
use super::listener::Place;
use super::upgrade::Speaks;
use super::uring::{Ring, Send};
use crate::clock::Clock;
use crate::config::{Config, Sends};
use crate::ingest::Ingest;
use crate::instruments::Directory;
use crate::metrics::{Histogram, Metrics};
use crate::session::sticky::Sticky;
use crate::session::{Post, Postbox, Terms};

/// Time between two moments at which connections beat: some 30 of 10,000 at each, a fraction of a
/// millisecond of work.
const BEAT_SLOT: Duration = Duration::from_millis(100);

/// A socket that left HTTP, with what belongs to it.
pub struct Adopted {
    /// The socket, non-blocking.
    pub stream: StdTcpStream,
    /// Bytes that were read past the handshake.
    pub leftover: Vec<u8>,
    /// What it speaks.
    pub speaks: Speaks,
    /// What it calls itself in its address, where that counts.
    pub client_id: Option<Box<str>>,
    /// Its number.
    pub connection: u64,
    /// Its place among `limits.connections`.
    pub place: Option<Place>,
}

/// What a shard thread is told.
enum Command {
    Adopt(Box<Adopted>),
    /// For the session of a peer, if it is still there.
    Post(PeerId, Box<Post>),
    Drain {
        within: Duration,
    },
}

/// Ends a shard's sleep; keeps one notification until it is taken.
#[derive(Debug, Default)]
pub struct Bell(TokioNotify);

impl Notify for Bell {
    fn notify(&self) {
        self.0.notify_one();
    }
}

/// Times a shard measures, once a turn.
#[derive(Debug, Default)]
pub struct Latency {
    /// From the publish of a turn's oldest event to the end of the turn's writes: the longest wait.
    pub oldest: Histogram,
    /// From the publish of a turn's newest event to the end of the turn's writes: the shortest wait.
    pub newest: Histogram,
}

struct Handle {
    inbox: mpsc::UnboundedSender<Command>,
    connections: Arc<AtomicUsize>,
    latency: Arc<Latency>,
}

/// The shard threads, as seen from outside.
pub struct Shards {
    handles: Vec<Handle>,
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

/// What the connections of every shard share.
pub struct Shared {
    /// The settings.
    pub config: Arc<Config>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The door for publishes.
    pub ingest: Arc<Ingest>,
    /// Numbers of instruments.
    pub directory: Arc<Directory>,
    /// What JSON clients were subscribed to that come back.
    pub sticky: Arc<Sticky>,
    /// Wall-clock time.
    pub clock: Clock,
    /// How the kernel is handed writes: as set, or what [`available`] made of it.
    pub sends: Sends,
}

/// One shard and its sockets, shared by the tasks of its thread.
pub struct Cell {
    /// The engine's part.
    pub shard: RefCell<Shard>,
    /// The sockets.
    pub sockets: RefCell<Sockets>,
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// What every session of the shard is told.
    pub terms: Rc<Terms>,
    /// Once the order to leave is given: when everyone is to be gone.
    pub leave_by: StdCell<Option<Instant>>,
    /// Connections whose tasks have not ended.
    alive: StdCell<usize>,
    bell: Arc<Bell>,
    /// Where posts go. Weak: the shard ends when everybody else has let go of it.
    inbox: mpsc::WeakUnboundedSender<Command>,
    /// Where the time of turns begins.
    pub began: Instant,
}

impl Cell {
    /// By which other threads tell the session of `peer` something.
    #[must_use]
    pub fn postbox(&self, peer: PeerId) -> Postbox {
        let inbox = self.inbox.clone();
        Postbox::new(move |post| {
            if let Some(inbox) = inbox.upgrade() {
                // A shard that has ended has no sessions.
                let _ = inbox.send(Command::Post(peer, Box::new(post)));
            }
        })
    }

    /// The first moment, not before `earliest`, at which connections beat. They do so together, in slots of
    /// [`BEAT_SLOT`] or a sixteenth of the interval, whichever is less: a thread that wakes for each of 10,000
    /// quiet connections by itself spends most of that on waking.
    #[must_use]
    pub fn beat_after(&self, earliest: Instant) -> Instant {
        let slot = BEAT_SLOT.min(self.shared.config.heartbeat.interval / 16).as_nanos().max(1);
        let since = earliest.saturating_duration_since(self.began).as_nanos();
        let next = u64::try_from(since.div_ceil(slot) * slot).unwrap_or(u64::MAX);
        self.began + Duration::from_nanos(next)
    }
}

/// Fewest writes that are handed to the kernel together; fewer cost less one by one.
const TOGETHER_MIN: usize = 4;

/// The sockets of one shard, by peer.
#[derive(Default)]
pub struct Sockets {
    links: Vec<Option<Rc<Link>>>,
    /// What hands many writes to the kernel together, where it can.
    ring: Option<Ring>,
}

impl Sockets {
    /// No sockets yet; they will be written to from this thread.
    #[must_use]
    pub fn new(sends: Sends) -> Self {
        let ring = match sends {
            Sends::Single => None,
            Sends::Auto | Sends::IoUring => Ring::new().inspect_err(ring_lost).ok(),
        };
        Self { links: Vec::new(), ring }
    }

    /// Remembers the socket of `peer`.
    pub fn insert(&mut self, peer: PeerId, link: Rc<Link>) {
        if self.links.len() <= peer.index() {
            self.links.resize_with(peer.index() + 1, || None);
        }
        self.links[peer.index()] = Some(link);
    }

    /// True when the socket of `peer` is known to be full.
    #[must_use]
    pub fn is_blocked(&self, peer: PeerId) -> bool {
        matches!(self.links.get(peer.index()), Some(Some(link)) if link.blocked.get())
    }

    /// Gives something to the session of `peer`, and wakes its task.
    fn post(&self, peer: PeerId, post: Post) {
        if let Some(Some(link)) = self.links.get(peer.index()) {
            link.post(post);
        }
    }

    /// Wakes the task of `peer`.
    fn nudge(&self, peer: PeerId) {
        if let Some(Some(link)) = self.links.get(peer.index()) {
            link.nudge();
        }
    }

    /// Wakes every task.
    fn nudge_all(&self) {
        self.links.iter().flatten().for_each(|link| link.nudge());
    }

    /// Forgets the socket of `peer`.
    pub fn remove(&mut self, peer: PeerId) {
        if let Some(slot) = self.links.get_mut(peer.index()) {
            *slot = None;
        }
    }
}

impl PeerIo for Sockets {
    fn write(&mut self, peer: PeerId, bufs: &[IoSlice<'_>]) -> Written {
        let Some(Some(link)) = self.links.get(peer.index()) else { return Written::Gone };
        let written = match bufs {
            // send(2) costs the kernel less than writev(2), and one buffer is the usual case.
            [buf] => link.tcp.try_write(buf),
            bufs => link.tcp.try_write_vectored(bufs),
        };
        link.settle(written, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn write_each(&mut self, requests: &[WriteRequest], buffer: &[u8], written: &mut Vec<Written>) {
        let already = written.len();
        if requests.len() >= TOGETHER_MIN
            && let Some(ring) = &mut self.ring
        {
            let links = &self.links;
            let link = |request: &WriteRequest| links.get(request.peer.index()).and_then(Option::as_deref);
            // A peer has a socket for as long as the engine knows it; were that ever untrue, the writes one
            // by one below would say so, and none of its bytes would go to another.
            let mut known =
                requests.iter().map_while(|request| Some((link(request)?, request.bytes(buffer))));
            let sends = known.clone().map(|(link, bytes)| Send { socket: link.tcp.as_fd(), bytes });
            let end = ring.send_each(sends, |result| {
                if let Some((link, bytes)) = known.next() {
                    written.push(link.settle_past_runtime(result, bytes.len()));
                }
            });
            if let Err(error) = end {
                ring_lost(&error);
                self.ring = None;
            }
        }
        for request in &requests[written.len() - already..] {
            let one = self.write(request.peer, &[IoSlice::new(request.bytes(buffer))]);
            written.push(one);
        }
    }
}

/// What `server.sends` means on this machine: never [`Sends::Auto`].
///
/// # Errors
/// When io_uring was asked for by name and the kernel does not give it.
pub fn available(sends: Sends) -> io::Result<Sends> {
    // On a thread of its own: the kernel takes a ring down by interrupting the thread that made it, and the
    // caller's may be in the middle of something that does not expect that.
    let ring = std::thread::spawn(|| Ring::new().map(drop)).join();
    let ring = ring.unwrap_or_else(|_| Err(io::Error::other("the attempt panicked")));
    match (sends, ring) {
        (Sends::Single, _) => Ok(Sends::Single),
        (Sends::Auto | Sends::IoUring, Ok(())) => Ok(Sends::IoUring),
        (Sends::Auto, Err(error)) => {
            tracing::info!(%error, "no io_uring here: each send is a system call of its own");
            Ok(Sends::Single)
        }
        (Sends::IoUring, Err(error)) => {
            let text = format!(
                "server.sends is \"io_uring\", which this kernel does not give ({error}): write \"auto\", or allow it (Linux 6.0, kernel.io_uring_disabled = 0, the container's seccomp profile)"
            );
            Err(io::Error::new(error.kind(), text))
        }
    }
}

fn ring_lost(error: &io::Error) {
    tracing::warn!(%error, "io_uring is no longer available: each send is a system call of its own");
}

impl Shards {
    /// Starts a thread for each of `shards`; `bells` are what wakes them, in the same order.
    ///
    /// # Errors
    /// When the system cannot start a thread or its runtime.
    pub fn start(shards: Vec<Shard>, bells: &[Arc<Bell>], shared: &Arc<Shared>) -> io::Result<Self> {
        let mut handles = Vec::new();
        let mut threads = Vec::new();
        for (index, (shard, bell)) in shards.into_iter().zip(bells).enumerate() {
            let (inbox, commands) = mpsc::unbounded_channel();
            let connections = Arc::new(AtomicUsize::new(0));
            let latency = Arc::new(Latency::default());
            let (bell, shared, own) = (bell.clone(), shared.clone(), inbox.downgrade());
            let (counted, timed) = (connections.clone(), latency.clone());
            let thread = Builder::new().name(format!("shard-{index}")).spawn(move || {
                let _guard = AbortOnPanic;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => run(&runtime, shard, &bell, (commands, own), shared, &counted, &timed),
                    Err(error) => tracing::error!(%error, index, "a shard has no runtime"),
                }
            })?;
            handles.push(Handle { inbox, connections, latency });
            threads.push(thread);
        }
        Ok(Self { handles, threads: threads.into() })
    }

    /// Gives a connection to the shard that has the fewest.
    pub fn adopt(&self, adopted: Adopted) {
        let alive = self.handles.iter().filter(|handle| !handle.inbox.is_closed());
        let least = alive.min_by_key(|handle| handle.connections.load(Ordering::Relaxed));
        if let Some(handle) = least {
            handle.connections.fetch_add(1, Ordering::Relaxed);
            if handle.inbox.send(Command::Adopt(Box::new(adopted))).is_err() {
                handle.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.handles.iter().map(|handle| handle.connections.load(Ordering::Relaxed)).sum()
    }

    /// The shards' times, merged.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let sum = Latency::default();
        for handle in &self.handles {
            sum.oldest.merge(&handle.latency.oldest);
            sum.newest.merge(&handle.latency.newest);
        }
        sum
    }

    /// Asks every connection to leave within `within`, then ends the threads. Blocks until they have.
    pub fn drain(&self, within: Duration) {
        for handle in &self.handles {
            let _ = handle.inbox.send(Command::Drain { within });
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// A shard that panics takes its connections with it and would go on being given new ones. Ending the
/// process is what a supervisor can see and mend.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a shard panicked; the process ends");
            std::process::abort();
        }
    }
}

fn run(
    runtime: &LocalRuntime,
    shard: Shard,
    bell: &Arc<Bell>,
    (commands, inbox): (mpsc::UnboundedReceiver<Command>, mpsc::WeakUnboundedSender<Command>),
    shared: Arc<Shared>,
    connections: &Arc<AtomicUsize>,
    latency: &Latency,
) {
    let sends = shared.sends;
    let limits = &shared.config.limits;
    let terms = Rc::new(Terms {
        boot_id: shared.ingest.engine().boot().0,
        heartbeat_ms: u32::try_from(shared.config.heartbeat.interval.as_millis()).unwrap_or(u32::MAX),
        subscriptions_max: limits.subscriptions,
        inbound_bytes: limits.inbound_bytes,
        publisher_bytes: limits.publisher_bytes,
        strikes_max: limits.strikes,
        json_depth: limits.json_depth,
        codecs: if shared.config.compression.lz4 { LZ4_BIT } else { 0 },
    });
    let cell = Rc::new(Cell {
        shard: RefCell::new(shard),
        sockets: RefCell::new(Sockets::new(sends)),
        shared,
        terms,
        leave_by: StdCell::new(None),
        alive: StdCell::new(0),
        bell: bell.clone(),
        inbox,
        began: Instant::now(),
    });
    runtime.block_on(drive(cell, commands, connections, latency));
}

async fn drive(
    cell: Rc<Cell>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    connections: &Arc<AtomicUsize>,
    latency: &Latency,
) {
    // The end of the time to leave, from when it was ordered until it is passed on.
    let mut drain_by = None;
    loop {
        while let Ok(command) = commands.try_recv() {
            obey(command, &cell, &mut drain_by, connections);
        }
        if cell.leave_by.get().is_some() && cell.alive.get() == 0 {
            return;
        }
        let more = turn(&cell, latency);
        // What was accepted is distributed before anybody is told to go.
        if let Some(by) = drain_by.filter(|by| !more || Instant::now() >= *by) {
            cell.leave_by.set(Some(by));
            cell.sockets.borrow().nudge_all();
            drain_by = None;
            // With nobody to go, this was the last turn.
            continue;
        }
        if more || !cell.shard.borrow().prepare_to_sleep() {
            // Let the connections read between turns, however much there is to deliver.
            task::yield_now().await;
            continue;
        }
        let due = cell.shard.borrow().next_due();
        let command = tokio::select! {
            () = cell.bell.0.notified() => continue,
            () = until(cell.began, due), if due.is_some() => {
                cell.shard.borrow().stay_awake();
                continue;
            }
            command = commands.recv() => command,
        };
        cell.shard.borrow().stay_awake();
        match command {
            Some(command) => obey(command, &cell, &mut drain_by, connections),
            // Whoever started us is gone without a drain: a test's server that was dropped.
            None => return,
        }
    }
}

fn obey(command: Command, cell: &Rc<Cell>, drain_by: &mut Option<Instant>, connections: &Arc<AtomicUsize>) {
    match command {
        Command::Drain { within } => *drain_by = Some(Instant::now() + within),
        Command::Post(peer, post) => {
            // Its place may be another's by now.
            if cell.shard.borrow().format_of(peer).is_some() {
                cell.sockets.borrow().post(peer, *post);
            }
        }
        Command::Adopt(adopted) => {
            let Adopted { stream, leftover, speaks, client_id, connection: number, place } = *adopted;
            cell.alive.set(cell.alive.get() + 1);
            let served = Served { cell: cell.clone(), connections: connections.clone(), _place: place };
            let tcp = match TcpStream::from_std(stream) {
                Ok(tcp) => tcp,
                Err(error) => return tracing::warn!(%error, "a socket could not be adopted"),
            };
            let mut connection = Connection::new(cell.clone(), tcp, speaks, client_id.as_deref(), number);
            let opened = connection.open(leftover);
            task::spawn_local(async move {
                // Dropped with the task, even if that panics, and behind the connection.
                let (_served, mut connection) = (served, connection);
                let end = match opened {
                    Ok(()) => connection.serve().await,
                    Err(end) => end,
                };
                Box::pin(connection.finish(end)).await;
            });
        }
    }
}

/// One of a shard's connections, until its task has ended or panicked.
struct Served {
    cell: Rc<Cell>,
    connections: Arc<AtomicUsize>,
    _place: Option<Place>,
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Our fault, and that connection's alone: the runtime drops a task within its panic.
            self.cell.shared.metrics.counters.closed.add("1011");
            tracing::error!("a connection's task panicked");
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
        self.cell.alive.set(self.cell.alive.get() - 1);
        if self.cell.leave_by.get().is_some() && self.cell.alive.get() == 0 {
            self.cell.bell.notify();
        }
    }
}

/// Sleeps until something is due that waits for its rate.
async fn until(began: Instant, due: Option<u64>) {
    sleep_until(began + Duration::from_nanos(due.unwrap_or(0))).await;
}

fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// One turn and its writes; true when the ring may have more.
fn turn(cell: &Cell, latency: &Latency) -> bool {
    let mut shard = cell.shard.borrow_mut();
    // One clock read a turn, and only while a subscription has a rate.
    let now = if shard.keeps_time() { elapsed(cell.began) } else { 0 };
    let turn = shard.turn(now);
    let mut sockets = cell.sockets.borrow_mut();
    shard.flush(&mut *sockets);
    while let Some((peer, _)) = shard.next_closing() {
        // Its task finds the reason when it flushes.
        sockets.nudge(peer);
    }
    if let Some((oldest, newest)) = turn.published {
        // One clock read a turn, not one a delivery.
        let now = cell.shared.clock.now();
        latency.oldest.record(now.saturating_sub(oldest));
        latency.newest.record(now.saturating_sub(newest));
    }
    turn.remaining
}
