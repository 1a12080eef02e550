//! The generator: one thread that publishes by plan and receives everything, around one epoll.
//!
//! Open loop: a message is due when the plan says so, and is timed from then, so a stall of the server shows
//! in every percentile instead of slowing the load down. What the generator itself is late by is measured
//! (schedule lag) and never hidden. Receiving takes one read of the clock a read() and no allocation a
//! message. Between two reads it looks whether a message is due.
#![forbid(unsafe_code)]

mod alerts;
mod connect;
mod peer;
mod receive;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::time::Timespec;

use crate::account::Accounts;
use crate::clock::Clock;
use crate::format;
use crate::ledger::{Ledger, histogram};
use crate::plan::{Pace, Plan};
use crate::results::Account;
use crate::template::Template;
use crate::walk::Marks;
use crate::websocket;
pub use alerts::Alerts;
use peer::{Peer, Role, State};
use receive::Told;

/// Bytes read at once. What a saturated subscriber gets in a turn fits.
const READ_BYTES: usize = 256 * 1024;
/// Largest message that may straddle two reads.
const REST_BYTES_MAX: usize = READ_BYTES / 2;
/// Bytes handed to a publisher's socket in one call.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Nearer than this to a due message the generator polls instead of sleeping: waking from sleep takes longer.
const SPIN_NS: u64 = 50_000;
/// Handshakes in flight while subscribers connect.
const CONNECTS_IN_FLIGHT: usize = 256;
/// Connections from one loopback address: ports end near 28,000.
const CONNECTIONS_PER_ADDRESS: usize = 20_000;
/// Subscribers that come and go, at once.
const PASSERS_MAX: usize = 1_024;
/// Loopback addresses that connections which come and go are spread over.
const ADDRESSES: usize = 32;

/// What is written by one publishing connection.
#[derive(Debug, Default)]
struct Publisher {
    out: Vec<u8>,
    out_at: usize,
    /// Its socket was full; the kernel tells when it is not.
    blocked: bool,
    /// Numbers of the messages in `out`, oldest first.
    numbers: Vec<u64>,
    /// When its socket last had room again.
    free_since: u64,
}

/// A stretch of time in which messages are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    start: u64,
    end: u64,
    nth: u64,
    /// Number of the next alert, from 0.
    alert: u64,
    lag_counts: bool,
}

/// Who connects now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrivals {
    Nobody,
    /// Peers from here to there, as fast as handshakes are answered.
    Range {
        next: usize,
        end: usize,
    },
    /// Knockers without end.
    Knocking,
    /// Passers at an even rate.
    Passing {
        start: u64,
        nth: u64,
    },
}

/// Connects, as far as they are counted.
#[derive(Debug)]
pub struct Arrived {
    /// Succeeded.
    pub count: u64,
    /// Refused, or broken off.
    pub failed: u64,
    /// From connect() to the last answer awaited.
    pub time: Histogram<u64>,
}

/// The generator.
pub struct Generator<'a> {
    plan: &'a Plan,
    clock: Clock,
    target: SocketAddr,
    requests: Vec<Vec<u8>>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    peers: Vec<Peer>,
    marks: Marks,
    templates: Vec<Template>,
    sequences: Vec<u32>,
    expected: Vec<u32>,
    next: Vec<u32>,
    first_publisher: usize,
    /// The last one is that of the alerts, where there are any.
    publishers: Vec<Publisher>,
    schedule: Option<Schedule>,
    arrivals: Arrivals,
    connecting: usize,
    /// Counts connections, to spread them over addresses.
    begun: usize,
    idle_passers: Vec<u32>,
    told: Told,
    /// The account of deliveries.
    pub ledger: Ledger,
    /// Alerts beside the load.
    pub alerts: Option<Alerts>,
    accounts: Option<Accounts<'a>>,
    /// The account of connects.
    pub arrived: Arrived,
    /// What the server calls itself.
    pub server_name: Option<String>,
    /// The first thing that went wrong, in words.
    pub trouble: Option<String>,
    /// Publishes the server refused.
    pub refused: u64,
    /// Connections that ended by themselves.
    pub disconnected: u64,
    /// read() calls on subscribers.
    pub reads: u64,
    /// Time spent polling in vain for a message that was nearly due: CPU that was not needed.
    pub polled_ns: u64,
    /// Bytes read, by format.
    pub wire_bytes: Vec<u64>,
}

impl<'a> Generator<'a> {
    /// A generator for `plan` against the server at `target`.
    ///
    /// # Errors
    /// A frame size that cannot be had; what the kernel refuses.
    pub fn new(plan: &'a Plan, target: SocketAddr, clock: Clock) -> anyhow::Result<Self> {
        let template = |topic| {
            Template::new(plan.kind, &Plan::symbol(topic), plan.frame_bytes).map_err(anyhow::Error::msg)
        };
        let templates: Vec<Template> = (0..plan.topics).map(template).collect::<Result<_, _>>()?;
        let mut peers = Vec::new();
        for (number, (_, count)) in plan.formats.iter().enumerate() {
            peers.extend((0..*count).map(|_| Peer::new(Role::Reader(number as u8))));
        }
        let readers = peers.len();
        peers.extend((0..plan.slow).map(|_| Peer::new(Role::Slow(0))));
        let first_publisher = peers.len();
        let alerts = plan.alert_every.map(|every| Alerts::new(every, readers, plan.formats.len()));
        let alerts = alerts.transpose().map_err(anyhow::Error::msg)?;
        let publishers = plan.publishers + usize::from(alerts.is_some());
        peers.extend((0..publishers).map(|_| Peer::new(Role::Publisher)));
        let mut expected = vec![0; plan.topics];
        for number in 0..readers {
            plan.topics_of(number).for_each(|topic| expected[topic] += 1);
        }
        let host = target.to_string();
        let request = |format: format::Format| {
            let info = format.info();
            websocket::request(&host, info.path, Some(info.subprotocol))
        };
        let open_loop = plan.offered().is_some();
        Ok(Self {
            plan,
            clock,
            target,
            // The last one is that of the publishers.
            requests: plan
                .formats
                .iter()
                .map(|(format, _)| *format)
                .chain([format::Format::Binary])
                .map(request)
                .collect(),
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(256),
            scratch: vec![0; READ_BYTES],
            peers,
            marks: Marks {
                message: templates[0].mark(),
                alert: alerts.as_ref().map(|alerts| alerts.template.mark()),
            },
            sequences: vec![0; plan.topics],
            expected,
            next: vec![1; readers * plan.per_subscriber],
            first_publisher,
            publishers: (0..publishers).map(|_| Publisher::default()).collect(),
            schedule: None,
            arrivals: Arrivals::Nobody,
            connecting: 0,
            begun: 0,
            idle_passers: Vec::new(),
            told: Told::default(),
            ledger: Ledger::new(plan.remembered(), plan.formats.len(), open_loop),
            alerts,
            accounts: plan.accounts.then(|| Accounts::new(plan)),
            arrived: Arrived { count: 0, failed: 0, time: histogram() },
            server_name: None,
            trouble: None,
            refused: 0,
            disconnected: 0,
            reads: 0,
            polled_ns: 0,
            wire_bytes: vec![0; plan.formats.len()],
            templates,
        })
    }

    // ---------------------------------------------------------------------------------------------
    // What a run asks for

    /// Connects everybody of the plan; returns when all are live, or none was for ten seconds.
    ///
    /// # Errors
    /// Why somebody could not connect.
    pub fn connect_all(&mut self, mut progress: impl FnMut(usize)) -> anyhow::Result<()> {
        self.arrivals = Arrivals::Range { next: 0, end: self.peers.len() };
        let wanted = self.peers.len() as u64;
        let (mut seen, mut moved) = (0, self.clock.now());
        while self.arrived.count < wanted {
            self.turn(self.clock.now() + 100_000_000);
            if self.arrived.failed > 0 {
                let why = self.trouble.as_deref().unwrap_or("the connection was closed");
                anyhow::bail!("connection {} of {wanted} failed: {why}", self.arrived.count + 1);
            }
            let now = self.clock.now();
            if self.arrived.count > seen {
                (seen, moved) = (self.arrived.count, now);
                progress(seen as usize);
            } else if now - moved > 10_000_000_000 {
                anyhow::bail!("{seen} of {wanted} connections are live, and none more came in 10 s");
            }
        }
        self.arrivals = Arrivals::Nobody;
        Ok(())
    }

    /// Publishes by plan for `duration` from now on; [`Generator::turn`] does the work.
    pub fn schedule(&mut self, duration: u64, lag_counts: bool) -> u64 {
        let start = self.clock.now();
        self.schedule = Some(Schedule { start, end: start + duration, nth: 0, alert: 0, lag_counts });
        start
    }

    /// Whether all that is scheduled was published.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.schedule.is_none() && self.publishers.iter().all(|publisher| publisher.out.is_empty())
    }

    /// Messages and alerts that have not arrived at all of their subscribers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.ledger.in_flight() + self.alerts.as_ref().map_or(0, |alerts| alerts.ledger.in_flight())
    }

    /// The accounts of all subscribers, closed: all that was published by now should have come or been told of.
    #[must_use]
    pub fn settled(&self) -> Option<Account> {
        let accounts = self.accounts.as_ref()?;
        let mut published: Vec<u64> = self.sequences.iter().map(|sequence| u64::from(*sequence)).collect();
        published.extend(self.alerts.as_ref().map(Alerts::published));
        Some(accounts.settle(&published))
    }

    /// Knockers or passers begin to come; `connects` of the plan says how many.
    pub fn begin_arrivals(&mut self, knocking: bool) {
        self.arrived = Arrived { count: 0, failed: 0, time: histogram() };
        let (role, pool) =
            if knocking { (Role::Knocker, self.plan.connects) } else { (Role::Passer, PASSERS_MAX) };
        for _ in 0..pool {
            self.idle_passers.push(self.peers.len() as u32);
            self.peers.push(Peer::new(role));
        }
        self.arrivals =
            if knocking { Arrivals::Knocking } else { Arrivals::Passing { start: self.clock.now(), nth: 0 } };
    }

    /// Nobody comes any more.
    pub fn end_arrivals(&mut self) {
        self.arrivals = Arrivals::Nobody;
    }

    /// Handshakes in flight.
    #[must_use]
    pub const fn connecting(&self) -> usize {
        self.connecting
    }

    /// Gaps, conflated, filtered, duplicated and strange deliveries so far.
    #[must_use]
    pub const fn told(&self) -> (u64, u64, u64, u64, u64) {
        let told = &self.told;
        (told.gaps, told.conflated, told.filtered, told.duplicated, told.strange)
    }

    /// Slow readers that the server has disconnected: found out by reading, at last, what waits for them.
    pub fn slow_readers_gone(&mut self) -> u64 {
        let mut gone = 0;
        for peer in &self.peers {
            let (Role::Slow(_), Some(socket)) = (peer.role, &peer.socket) else { continue };
            // A server that goes on sending is alive, and its megabytes need not all be read.
            for _ in 0..64 {
                match recv(socket, &mut self.scratch[..], RecvFlags::empty()) {
                    Ok((_, 0)) => {
                        gone += 1;
                        break;
                    }
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => {
                        gone += 1;
                        break;
                    }
                }
            }
        }
        gone
    }

    // ---------------------------------------------------------------------------------------------
    // The loop

    /// Publishes what is due, waits at most until `until`, and handles what came.
    pub fn turn(&mut self, until: u64) {
        let now = self.clock.now();
        self.publish(now);
        self.welcome_arrivals(now);
        let now = self.clock.now();
        let due = self.next_due().unwrap_or(u64::MAX);
        let polls = self.plan.poll && (self.schedule.is_some() || self.in_flight() > 0);
        let wait = match due.min(until.saturating_add(SPIN_NS)).saturating_sub(now) {
            ..=SPIN_NS => 0,
            _ if polls => 0,
            long => long - SPIN_NS,
        };
        let timeout =
            Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as _ };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        // An interrupted wait is a short one.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout));
        if wait == 0 && events.is_empty() {
            self.polled_ns += self.clock.now() - now;
        }
        for event in &events {
            self.event(event.data.u64() as usize, event.flags);
        }
        self.events = events;
    }

    /// When the next message or arrival is due.
    fn next_due(&self) -> Option<u64> {
        let message = self.schedule.and_then(|schedule| Some(schedule.start + self.plan.due(schedule.nth)?));
        let arrival = match self.arrivals {
            Arrivals::Passing { start, nth } => Some(start + self.passer_due(nth)),
            _ => None,
        };
        // A blocked publisher is woken by its socket.
        let message = message.filter(|_| !self.is_blocked());
        let is_free = |_: &u64| self.publishers.last().is_some_and(|publisher| publisher.out.is_empty());
        [message, self.next_alert_due().filter(is_free), arrival].into_iter().flatten().min()
    }

    fn passer_due(&self, nth: u64) -> u64 {
        nth * 1_000_000_000 / self.plan.connects.max(1) as u64
    }

    fn event(&mut self, number: usize, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            match self.peers[number].state {
                State::Connecting => self.upgrade(number),
                State::Live => self.flush(number),
                _ => {}
            }
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        if matches!(self.peers[number].role, Role::Slow(_)) && self.peers[number].state == State::Live {
            // It never reads: the end of its connection is looked for when the run is over.
            if let Some(socket) = &self.peers[number].socket {
                let _ = epoll::delete(&self.epoll, socket);
            }
            return;
        }
        let now = self.read(number);
        match self.schedule {
            Some(_) if self.next_due().is_some_and(|due| due <= now) => self.publish(now),
            Some(_) if matches!(self.plan.pace, Pace::Window(_)) => self.publish(now),
            _ => {}
        }
    }

    // ---------------------------------------------------------------------------------------------
    // Publishing

    fn publish(&mut self, mut now: u64) {
        while self.schedule.is_some() {
            // Alerts go first: none of them waits for the messages that are due with it.
            let alerts = self.publish_alerts(now);
            let messages = match self.schedule {
                Some(schedule) if !self.is_blocked() => self.prepare(schedule, now),
                _ => false,
            };
            if messages {
                for number in 0..self.plan.publishers {
                    self.flush(self.first_publisher + number);
                }
            }
            if !alerts && !messages {
                return;
            }
            now = self.clock.now();
        }
    }

    /// Whether messages wait for the socket of a publisher.
    fn is_blocked(&self) -> bool {
        self.publishers[..self.plan.publishers].iter().any(|publisher| !publisher.out.is_empty())
    }

    /// Lays out the messages that are due now; false when none is.
    fn prepare(&mut self, mut schedule: Schedule, now: u64) -> bool {
        let (mut bytes, before) = (0, schedule.nth);
        let mut is_over = false;
        while bytes < WRITE_BYTES_MAX {
            let planned = match (self.plan.due(schedule.nth), self.plan.pace) {
                (Some(after), _) => schedule.start + after,
                (None, Pace::Window(window)) if self.ledger.in_flight() < window => now,
                (None, Pace::Window(_)) if now < schedule.end => break,
                _ => schedule.end,
            };
            is_over = planned >= schedule.end;
            if is_over || planned > now {
                break;
            }
            let topic = (schedule.nth % self.plan.topics as u64) as usize;
            let number = topic % self.plan.publishers;
            let publisher = &mut self.publishers[number];
            if schedule.lag_counts {
                self.ledger.lag(now - planned.max(publisher.free_since).min(now));
            }
            self.sequences[topic] += 1;
            let (sequence, expected) = (self.sequences[topic], self.expected[topic]);
            let message = self.ledger.publish(topic as u32, sequence, expected, planned, now);
            let template = &self.templates[topic];
            template.append(message, self.clock.unix(planned), &mut publisher.out);
            publisher.numbers.push(message);
            bytes += template.wire_len();
            schedule.nth += 1;
        }
        self.schedule = Some(schedule);
        if is_over && self.next_alert_due().is_none() {
            self.schedule = None;
        }
        schedule.nth > before
    }

    /// Writes what waits for a publisher's socket.
    fn flush(&mut self, number: usize) {
        let Some(publisher) = number.checked_sub(self.first_publisher) else { return };
        let is_last = publisher + 1 == self.publishers.len();
        let Some(publisher) = self.publishers.get_mut(publisher) else { return };
        let Some(socket) = &self.peers[number].socket else { return };
        if publisher.out.is_empty() {
            return;
        }
        let sent = match send(socket, &publisher.out[publisher.out_at..], SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => {
                self.trouble.get_or_insert_with(|| format!("a publisher's connection broke: {error}"));
                *publisher = Publisher::default();
                self.schedule = None;
                return;
            }
        };
        let data = EventData::new_u64(number as u64);
        if publisher.blocked {
            // All messages of a publisher have one length.
            let each = publisher.out.len() / publisher.numbers.len().max(1);
            let now = self.clock.now();
            let ledger = match &mut self.alerts {
                Some(alerts) if is_last => &mut alerts.ledger,
                _ => &mut self.ledger,
            };
            for message in &publisher.numbers[publisher.out_at / each..] {
                ledger.sent_late(*message, now);
            }
        }
        publisher.out_at += sent;
        if publisher.out_at == publisher.out.len() {
            publisher.out.clear();
            publisher.numbers.clear();
            publisher.out_at = 0;
            if std::mem::take(&mut publisher.blocked) {
                publisher.free_since = self.clock.now();
                let _ = epoll::modify(&self.epoll, socket, data, EventFlags::IN);
            }
        } else if !std::mem::replace(&mut publisher.blocked, true) {
            let _ = epoll::modify(&self.epoll, socket, data, EventFlags::IN | EventFlags::OUT);
        }
    }
}
