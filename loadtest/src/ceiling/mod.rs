//! The bare server: after the handshake only a loop that hands framed bytes to the kernel.
//!
//! It is the limit that a real server is compared with, so it does nothing a fan-out could do without: one
//! thread, one epoll, no filters, no history, no accounting but its counters. A published frame is stamped
//! with stream, sequence and time, framed once, and sent, in one of two modes ([`Mode`]). A subscriber whose
//! socket is full keeps the rest of a cut message and up to [`PENDING_BYTES_MAX`] behind it; what comes after
//! is dropped and counted, and nobody is told.
//!
//! It speaks as much of the protocol as the generator does: hello, subscribe by exact topic, publish; JSON
//! peers get text of a given size. It must not be used as a server: it checks next to nothing.
#![forbid(unsafe_code)]

mod batch;
mod peer;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use clap::ValueEnum;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, thread_cpu};
use crate::template::Mark;
use batch::Batch;
use peer::Peer;

/// Bytes that wait for a subscriber whose socket is full.
pub const PENDING_BYTES_MAX: usize = 256 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Connections accepted before others have their turn.
const ACCEPTS_PER_TURN: usize = 64;

const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;

/// How messages are handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One send for each message and subscriber
    Single,
    /// All that is pending for a subscriber in one buffer and one send
    Coalesced,
}

impl Mode {
    /// What a target in this mode is called in results.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::Single => "ceiling-single",
            Self::Coalesced => "ceiling-coalesced",
        }
    }
}

/// How the bare server runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How it sends.
    pub mode: Mode,
    /// Bytes of a message for JSON peers, WebSocket head included.
    pub json_bytes: usize,
    /// Whether to say once a second of traffic what it did.
    pub talk: bool,
}

/// What it counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Calls that handed bytes to the kernel.
    pub sends: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Messages published.
    pub published: u64,
    /// Messages dropped because a subscriber was behind.
    pub dropped: u64,
    /// Handshakes answered.
    pub upgrades: u64,
}

#[derive(Debug, Default)]
struct Topic {
    sequence: u64,
    subscribers: Vec<u32>,
    json_subscribers: usize,
}

/// The bare server.
pub struct Ceiling {
    options: Options,
    clock: Clock,
    listener: TcpListener,
    epoll: OwnedFd,
    peers: Vec<Option<Peer>>,
    free: Vec<u32>,
    topics: Vec<Topic>,
    by_name: HashMap<Box<str>, u32>,
    batch: Batch,
    /// Subscribers with something to send at the end of the turn.
    dirty: Vec<u32>,
    scratch: Vec<u8>,
    counts: Counts,
    said: Said,
    turn_began: u64,
    marks: Vec<Mark>,
    key: String,
    name: String,
}

/// What was last said of the counters.
#[derive(Default)]
struct Said {
    counts: Counts,
    at: u64,
    cpu: u64,
}

impl Ceiling {
    /// Binds; nothing is accepted before [`Ceiling::run`].
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn bind(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        // std asks for a backlog of 128; a thousand clients come at once.
        rustix::net::listen(&listener, 4_096)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            clock: Clock::start(),
            batch: Batch::new(options.json_bytes),
            options,
            listener,
            epoll,
            peers: Vec::new(),
            free: Vec::new(),
            topics: Vec::new(),
            by_name: HashMap::new(),
            dirty: Vec::new(),
            scratch: vec![0; READ_BYTES],
            counts: Counts::default(),
            said: Said::default(),
            turn_began: 0,
            marks: peer::marks(),
            key: String::new(),
            name: String::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` can be read, and returns what it counted.
    ///
    /// # Errors
    /// What the kernel refuses; a peer's failure is not one.
    pub fn run(mut self, stop: Option<&dyn AsFd>) -> io::Result<Counts> {
        if let Some(stop) = stop {
            epoll::add(&self.epoll, stop.as_fd(), EventData::new_u64(STOP), EventFlags::IN)?;
        }
        let mut events: Vec<epoll::Event> = Vec::with_capacity(1_024);
        loop {
            events.clear();
            let timeout = self.said_timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.turn_began = self.clock.now();
            for event in &events {
                let flags = event.flags;
                match event.data.u64() {
                    LISTENER => self.accept(),
                    STOP => return Ok(self.counts),
                    number => self.peer_event(number as u32, flags),
                }
            }
            self.say();
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Ok(socket) = accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) else {
                return;
            };
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let number = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                (self.peers.len() - 1) as u32
            });
            let data = EventData::new_u64(u64::from(number));
            if epoll::add(&self.epoll, &socket, data, EventFlags::IN).is_ok() {
                self.peers[number as usize] = Some(Peer::new(socket));
            } else {
                self.free.push(number);
            }
        }
    }

    fn peer_event(&mut self, number: u32, flags: EventFlags) {
        // A peer that went in this turn may still have events.
        if self.peers.get(number as usize).is_none_or(Option::is_none) {
            return;
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(number);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) && !self.read(number) {
            self.close(number);
        }
        self.fan_out();
    }

    /// Reads once and handles what came; false when the peer is gone.
    fn read(&mut self, number: u32) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        let alive = self.read_into(number, &mut scratch);
        self.scratch = scratch;
        alive
    }

    fn read_into(&mut self, number: u32, scratch: &mut [u8]) -> bool {
        let Some(peer) = self.peers[number as usize].as_mut() else { return false };
        let carried = peer.rest.len();
        scratch[..carried].copy_from_slice(&peer.rest);
        let read = match recv(&peer.socket, &mut scratch[carried..], RecvFlags::empty()) {
            Ok((_, 0)) => return false,
            Ok((_, read)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        peer.rest.clear();
        let bytes = &mut scratch[..carried + read];
        let Some(used) = self.handle(number, bytes) else { return false };
        let rest = &bytes[used..];
        // What does not fit beside the next read is no message of ours.
        if rest.len() > READ_BYTES / 2 {
            return false;
        }
        if let Some(peer) = self.peers[number as usize].as_mut() {
            peer.rest.extend_from_slice(rest);
        }
        true
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(topic) = self.by_name.get(name) {
            return *topic;
        }
        let topic = self.topics.len() as u32;
        self.topics.push(Topic::default());
        self.by_name.insert(name.into(), topic);
        topic
    }

    /// Sends what was published in this turn.
    fn fan_out(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        match (self.options.mode, batch.only_topic()) {
            (Mode::Single, _) => {
                for item in batch.items() {
                    for at in 0..self.topics[item.topic as usize].subscribers.len() {
                        let subscriber = self.topics[item.topic as usize].subscribers[at];
                        self.deliver(subscriber, &batch, item.range.clone(), 1);
                    }
                }
            }
            // What all subscribers share lies in one buffer already.
            (Mode::Coalesced, Some(topic)) => {
                let count = batch.items().len();
                for at in 0..self.topics[topic as usize].subscribers.len() {
                    let subscriber = self.topics[topic as usize].subscribers[at];
                    self.deliver(subscriber, &batch, 0..count, count as u64);
                }
            }
            (Mode::Coalesced, None) => {
                for item in batch.items() {
                    for at in 0..self.topics[item.topic as usize].subscribers.len() {
                        let subscriber = self.topics[item.topic as usize].subscribers[at];
                        self.append(subscriber, &batch, item.range.clone());
                    }
                }
                let mut dirty = std::mem::take(&mut self.dirty);
                for number in dirty.drain(..) {
                    self.flush(number);
                }
                self.dirty = dirty;
            }
        }
        self.batch = batch;
        self.batch.clear();
    }

    /// Sends items `range` to a subscriber that has nothing pending, in one call; else appends them.
    fn deliver(&mut self, number: u32, batch: &Batch, range: std::ops::Range<usize>, messages: u64) {
        let Some(peer) = self.peers[number as usize].as_mut() else { return };
        if !peer.out.is_empty() {
            return peer.keep(batch.bytes(peer.is_json, range), messages, &mut self.counts);
        }
        let bytes = batch.bytes(peer.is_json, range);
        let sent = match send(&peer.socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            // The read side will find out.
            Err(_) => return,
        };
        self.counts.sends += 1;
        self.counts.messages += messages;
        self.counts.bytes += sent as u64;
        if sent < bytes.len() {
            peer.out.extend_from_slice(&bytes[sent..]);
            self.want_writable(number);
        }
    }

    fn append(&mut self, number: u32, batch: &Batch, range: std::ops::Range<usize>) {
        let Some(peer) = self.peers[number as usize].as_mut() else { return };
        if peer.blocked {
            return peer.keep(batch.bytes(peer.is_json, range), 1, &mut self.counts);
        }
        if peer.out.is_empty() {
            self.dirty.push(number);
        }
        peer.out.extend_from_slice(batch.bytes(peer.is_json, range));
        peer.out_messages += 1;
    }

    /// Sends what is pending, in one call.
    fn flush(&mut self, number: u32) {
        let Some(peer) = self.peers[number as usize].as_mut() else { return };
        let sent = match send(&peer.socket, &peer.out[peer.out_at..], SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => return,
        };
        self.counts.sends += 1;
        self.counts.messages += std::mem::take(&mut peer.out_messages);
        self.counts.bytes += sent as u64;
        peer.out_at += sent;
        if peer.out_at < peer.out.len() {
            self.want_writable(number);
        } else {
            peer.out.clear();
            peer.out_at = 0;
            if std::mem::take(&mut peer.blocked) {
                let data = EventData::new_u64(u64::from(number));
                let _ = epoll::modify(&self.epoll, &peer.socket, data, EventFlags::IN);
            }
        }
    }

    fn want_writable(&mut self, number: u32) {
        let Some(peer) = self.peers[number as usize].as_mut() else { return };
        if !peer.blocked {
            peer.blocked = true;
            let data = EventData::new_u64(u64::from(number));
            let _ = epoll::modify(&self.epoll, &peer.socket, data, EventFlags::IN | EventFlags::OUT);
        }
    }

    fn close(&mut self, number: u32) {
        let Some(peer) = self.peers[number as usize].take() else { return };
        for topic in &peer.topics {
            let topic = &mut self.topics[*topic as usize];
            if let Some(at) = topic.subscribers.iter().position(|subscriber| *subscriber == number) {
                topic.subscribers.swap_remove(at);
                topic.json_subscribers -= usize::from(peer.is_json);
            }
        }
        self.free.push(number);
    }

    /// While there is traffic nobody was told of: how long to sleep at most.
    fn said_timeout(&self) -> Option<Timespec> {
        let unsaid = self.options.talk && self.counts != self.said.counts;
        unsaid.then(|| Duration::from_secs(1).try_into().unwrap_or_default())
    }

    fn say(&mut self) {
        if !self.options.talk || self.counts == self.said.counts {
            return;
        }
        let now = self.turn_began;
        let elapsed = now - self.said.at;
        if elapsed < 1_000_000_000 {
            return;
        }
        let cpu = thread_cpu();
        let (was, is) = (self.said.counts, self.counts);
        let each = |sum: u64, of: u64| sum as f64 / of.max(1) as f64;
        let (sends, messages) = (is.sends - was.sends, is.messages - was.messages);
        eprintln!(
            "{} {:.0} deliveries/s, {:.1} messages a send, {:.0} bytes a send, {:.0} ns of CPU a delivery, \
             {:.0} % of a core, {} dropped, {} upgrades",
            self.options.mode.target(),
            messages as f64 * 1e9 / elapsed as f64,
            each(messages, sends),
            each(is.bytes - was.bytes, sends),
            each(cpu - self.said.cpu, messages),
            each(cpu - self.said.cpu, elapsed) * 100.0,
            is.dropped - was.dropped,
            is.upgrades - was.upgrades,
        );
        self.said = Said { counts: is, at: now, cpu };
    }
}
