//! One connection of the generator, and how it comes about: connect, upgrade, greet, live.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, send, socket_with, sockopt,
};
use socket2::SockRef;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Subscribes and reads; the format's number in the plan.
    Reader(u8),
    /// Subscribes and never reads.
    Slow(u8),
    /// Publishes.
    Publisher,
    /// Subscribes, and goes as soon as that is acknowledged.
    Passer,
    /// Goes as soon as it is upgraded.
    Knocker,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The request waits for the socket.
    Connecting,
    /// The request was sent.
    Upgrading,
    /// Greeted; so many answers are awaited.
    Greeting(u32),
    /// As it should be.
    Live,
    /// Gone.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: Option<OwnedFd>,
    pub(super) role: Role,
    pub(super) state: State,
    /// The start of a message whose end was not read yet.
    pub(super) rest: Vec<u8>,
    /// Where the number stood in the last JSON message.
    pub(super) hint: u32,
    /// When it began to connect.
    pub(super) began: u64,
}

/// A receive buffer that a slow reader fills within a second.
const SLOW_RECEIVE_BYTES: usize = 16 * 1024;
/// Segments as on a network: with those of loopback, 64 KiB each, the kernel alone would hold megabytes for a
/// slow reader, and the server would never meet one within the run.
const SLOW_SEGMENT_BYTES: u32 = 1_400;

impl Peer {
    pub(super) const fn new(role: Role) -> Self {
        Self { socket: None, role, state: State::Closed, rest: Vec::new(), hint: 0, began: 0 }
    }

    /// Begins to connect, from loopback address `127.0.0.source` when the target is on loopback.
    pub(super) fn connect(&mut self, target: SocketAddr, source: u8, now: u64) -> Result<(), Errno> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if source > 1 && target.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)))?;
        }
        if matches!(self.role, Role::Slow(_)) {
            sockopt::set_socket_recv_buffer_size(&socket, SLOW_RECEIVE_BYTES)?;
            SockRef::from(&socket).set_tcp_mss(SLOW_SEGMENT_BYTES).map_err(|_| Errno::INVAL)?;
        }
        if self.role == Role::Publisher {
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        match connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.rest.clear();
        self.socket = Some(socket);
        self.state = State::Connecting;
        self.began = now;
        Ok(())
    }

    /// Sends `bytes` whole, or says that the socket has no room for them yet.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<bool, Errno> {
        let Some(socket) = &self.socket else { return Ok(false) };
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == bytes.len() => Ok(true),
            // So little always fits into an empty socket: a server that takes less is out of order.
            Ok(_) => Err(Errno::NOBUFS),
            Err(Errno::AGAIN | Errno::NOTCONN | Errno::INPROGRESS) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Closes with a reset, so that no port is kept waiting.
    pub(super) fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO));
        }
        self.state = State::Closed;
    }
}
