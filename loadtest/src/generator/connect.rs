//! How connections come, what they hear, and how they go.
#![forbid(unsafe_code)]

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::peer::{Role, State};
use super::receive::{Heard, Receive};
use super::{ADDRESSES, Arrivals, CONNECTIONS_PER_ADDRESS, CONNECTS_IN_FLIGHT, Generator, REST_BYTES_MAX};
use crate::plan::Plan;
use crate::template::Kind;
use crate::{format, walk, websocket};

impl Generator<'_> {
    /// Lets come who is due.
    pub(super) fn welcome_arrivals(&mut self, now: u64) {
        match self.arrivals {
            Arrivals::Nobody => {}
            Arrivals::Range { mut next, end } => {
                while next < end && self.connecting < CONNECTS_IN_FLIGHT {
                    self.begin(next);
                    next += 1;
                }
                self.arrivals = Arrivals::Range { next, end };
            }
            Arrivals::Knocking => {
                while let Some(number) = self.idle_passers.pop() {
                    if !self.begin(number as usize) {
                        break;
                    }
                }
            }
            Arrivals::Passing { start, mut nth } => {
                while start + self.passer_due(nth) <= now {
                    nth += 1;
                    match self.idle_passers.pop() {
                        Some(number) => drop(self.begin(number as usize)),
                        None => self.arrived.failed += 1,
                    }
                }
                self.arrivals = Arrivals::Passing { start, nth };
            }
        }
    }

    /// Begins to connect; false when that failed at once.
    fn begin(&mut self, number: usize) -> bool {
        self.begun += 1;
        let passes = matches!(self.peers[number].role, Role::Passer | Role::Knocker);
        let source = if passes { 2 + self.begun % ADDRESSES } else { 1 + number / CONNECTIONS_PER_ADDRESS };
        let now = self.clock.now();
        let request = self.request_of(number);
        let peer = &mut self.peers[number];
        let began = peer.connect(self.target, source as u8, now);
        self.connecting += 1;
        // Over loopback the connection is there at once; elsewhere the socket tells when it is.
        let sent = began.and_then(|()| peer.send(&self.requests[request]));
        let wanted = match sent {
            Ok(true) => {
                peer.state = State::Upgrading;
                EventFlags::IN
            }
            Ok(false) => EventFlags::OUT,
            Err(error) => {
                self.lose(number, &format!("cannot connect: {error}"));
                return false;
            }
        };
        let data = EventData::new_u64(number as u64);
        let added = peer.socket.as_ref().map(|socket| epoll::add(&self.epoll, socket, data, wanted));
        if let Some(Err(error)) = added {
            self.lose(number, &format!("cannot wait for it: {error}"));
            return false;
        }
        true
    }

    fn request_of(&self, number: usize) -> usize {
        match self.peers[number].role {
            Role::Reader(format) | Role::Slow(format) => usize::from(format),
            Role::Publisher => self.requests.len() - 1,
            Role::Passer | Role::Knocker => 0,
        }
    }

    /// The connection is there: the request goes out.
    pub(super) fn upgrade(&mut self, number: usize) {
        let request = self.request_of(number);
        let peer = &mut self.peers[number];
        match peer.send(&self.requests[request]) {
            Ok(true) => {
                peer.state = State::Upgrading;
                self.want(number, EventFlags::IN);
            }
            Ok(false) => {}
            Err(error) => self.lose(number, &format!("cannot connect: {error}")),
        }
    }

    fn want(&self, number: usize, flags: EventFlags) {
        if let Some(socket) = &self.peers[number].socket {
            let _ = epoll::modify(&self.epoll, socket, EventData::new_u64(number as u64), flags);
        }
    }

    /// Reads once and handles what came; returns when that was.
    pub(super) fn read(&mut self, number: usize) -> u64 {
        let mut scratch = std::mem::take(&mut self.scratch);
        let now = self.read_into(number, &mut scratch);
        self.scratch = scratch;
        now
    }

    fn read_into(&mut self, number: usize, scratch: &mut [u8]) -> u64 {
        let peer = &mut self.peers[number];
        let Some(socket) = &peer.socket else { return self.clock.now() };
        let carried = peer.rest.len();
        scratch[..carried].copy_from_slice(&peer.rest);
        let result = recv(socket, &mut scratch[carried..], RecvFlags::empty());
        // The one look at the clock for all that this read brings.
        let now = self.clock.now();
        let read = match result {
            Ok((_, 0)) => {
                self.lose(number, "the server closed the connection");
                return now;
            }
            Ok((_, read)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return now,
            Err(error) => {
                self.lose(number, &format!("the connection broke: {error}"));
                return now;
            }
        };
        peer.rest.clear();
        let mut bytes = &scratch[..carried + read];
        if matches!(peer.state, State::Connecting | State::Upgrading) {
            match self.answered(number, bytes, now) {
                Some(end) => bytes = &bytes[end..],
                None => return now,
            }
        }
        let format = match self.peers[number].role {
            Role::Reader(format) => {
                self.reads += 1;
                self.wire_bytes[usize::from(format)] += read as u64;
                usize::from(format)
            }
            _ => 0,
        };
        self.walk(number, format, bytes, now);
        now
    }

    fn walk(&mut self, number: usize, format: usize, bytes: &[u8], now: u64) {
        let slots = self.plan.per_subscriber;
        let peer = &mut self.peers[number];
        let mut receive = Receive {
            plan: self.plan,
            ledger: &mut self.ledger,
            told: &mut self.told,
            subscriber: number,
            next: self.next.get_mut(number * slots..(number + 1) * slots).unwrap_or_default(),
            format,
            now,
            alerts: self.alerts.as_mut(),
            // Only the accounts of those that stay and read are kept.
            accounts: self.accounts.as_mut().filter(|_| matches!(peer.role, Role::Reader(_))),
            heard: Heard::default(),
        };
        let walked = walk::messages(bytes, &self.marks, &mut peer.hint, &mut receive);
        let heard = receive.heard;
        match walked {
            Ok(used) if bytes.len() - used <= REST_BYTES_MAX => {
                peer.rest.extend_from_slice(&bytes[used..]);
                if !heard.is_empty() {
                    self.hear(number, heard, now);
                }
            }
            Ok(_) => self.lose(number, "the server sent a message that is too large"),
            Err(fault) => self.lose(number, &format!("the server sent {}", fault.0)),
        }
    }

    /// The answer to the upgrade, once it is whole: where it ends.
    fn answered(&mut self, number: usize, bytes: &[u8], now: u64) -> Option<usize> {
        let Some(end) = websocket::http_end(bytes) else {
            if bytes.len() > websocket::HTTP_BYTES_MAX {
                self.lose(number, "the server answered with too long a head");
            } else {
                self.peers[number].rest.extend_from_slice(bytes);
            }
            return None;
        };
        if !bytes.starts_with(b"HTTP/1.1 101") {
            let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            self.lose(number, &format!("the upgrade was refused: {line}"));
            return None;
        }
        let role = self.peers[number].role;
        if role == Role::Knocker {
            self.settle(number, now);
            return None;
        }
        let mut out = Vec::new();
        let answers = match role {
            Role::Publisher => {
                format::hello(tickcast_protocol::message::Role::PUBLISHER, &mut out);
                1
            }
            Role::Reader(_) | Role::Slow(_) | Role::Passer | Role::Knocker => {
                let symbols: Vec<String> = self.plan.topics_of(number).map(Plan::symbol).collect();
                let (format, _) = self.plan.formats[self.request_of(number)];
                let (kind, alerted) =
                    (self.plan.kind, matches!(role, Role::Reader(_)) && self.alerts.is_some());
                let alerts = alerted.then(|| Plan::symbol(0));
                let topics = symbols.iter().map(|symbol| (kind, symbol.as_str()));
                format.greet(
                    topics.chain(alerts.iter().map(|scope| (Kind::RiskAlert, scope.as_str()))),
                    &mut out,
                );
                (symbols.len() + alerts.iter().len()) as u32
            }
        };
        self.peers[number].state = State::Greeting(answers);
        match self.peers[number].send(&out) {
            Ok(true) => Some(end),
            Ok(false) => {
                self.lose(number, "the socket has no room for a greeting");
                None
            }
            Err(error) => {
                self.lose(number, &format!("the connection broke: {error}"));
                None
            }
        }
    }

    fn hear(&mut self, number: usize, heard: Heard, now: u64) {
        let role = self.peers[number].role;
        if let Some(body) = heard.ping {
            let mut pong = Vec::new();
            websocket::client_message(websocket::PONG, &body, &mut pong);
            let _ = self.peers[number].send(&pong);
        }
        let welcomed = u32::from(role == Role::Publisher && heard.welcome.is_some());
        if let Some(name) = heard.welcome {
            self.server_name.get_or_insert(name);
        }
        let answers = heard.acknowledged + welcomed;
        if let State::Greeting(awaited) = self.peers[number].state {
            if let Some(error) = heard.error {
                return self.lose(number, &error);
            }
            self.peers[number].state = State::Greeting(awaited.saturating_sub(answers));
            if awaited <= answers {
                self.settle(number, now);
            }
        } else if let Some(error) = heard.error {
            self.refused += u64::from(role == Role::Publisher);
            self.trouble.get_or_insert(error);
        }
        if heard.closing {
            self.lose(number, "the server closed the connection");
        }
    }

    /// A connection has all the answers it waited for.
    fn settle(&mut self, number: usize, now: u64) {
        let peer = &mut self.peers[number];
        self.connecting -= 1;
        self.arrived.count += 1;
        self.arrived.time.saturating_record(now - peer.began);
        peer.state = State::Live;
        match peer.role {
            Role::Slow(_) => self.want(number, EventFlags::empty()),
            Role::Passer | Role::Knocker => {
                peer.close();
                self.idle_passers.push(number as u32);
            }
            Role::Reader(_) | Role::Publisher => {}
        }
    }

    /// A connection is gone.
    fn lose(&mut self, number: usize, why: &str) {
        let peer = &mut self.peers[number];
        match peer.state {
            State::Live => {
                self.disconnected += 1;
                if peer.role == Role::Publisher {
                    self.schedule = None;
                }
            }
            _ => {
                self.connecting -= 1;
                self.arrived.failed += 1;
            }
        }
        peer.close();
        if matches!(peer.role, Role::Passer | Role::Knocker) {
            self.idle_passers.push(number as u32);
        }
        self.trouble.get_or_insert_with(|| why.to_owned());
    }
}
