//! One socket as the shard and its connection's task share it: what its writes found out, and what can
//! wake the task.
//!
//! Waiting goes through the socket's own pair of wakers (one task reads, so there is one of each) and one
//! waker here: no list of waiters and no notifier, which idle connections would pay for in memory.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustix::net::{RecvFlags, recv};
use tickcast_engine::Written;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::session::Post;

/// A socket and what the shard's writes found out about it.
pub struct Link {
    /// The socket.
    pub tcp: TcpStream,
    /// Set when a write found it full; cleared when it is writable again.
    pub blocked: Cell<bool>,
    /// Set when a write found it dead.
    pub gone: Cell<bool>,
    nudged: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// For the session, from other threads. Boxed: most peers never get any.
    #[allow(clippy::box_collection, reason = "a pointer is all that an idle connection pays")]
    posts: Cell<Option<Box<Vec<Post>>>>,
}

/// What can wake a connection's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The shard found out something, or has an order.
    Nudge,
    /// The socket has room again.
    Room,
    /// The timer is due.
    Time,
    /// There is something to read, or the end.
    Peer,
}

impl Link {
    /// A socket of which nothing is known yet.
    #[must_use]
    pub fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            blocked: Cell::new(false),
            gone: Cell::new(false),
            nudged: Cell::new(false),
            waker: Cell::new(None),
            posts: Cell::new(None),
        }
    }

    /// Keeps something for the session, and wakes the connection's task.
    pub fn post(&self, post: Post) {
        let mut posts = self.posts.take().unwrap_or_default();
        posts.push(post);
        self.posts.set(Some(posts));
        self.nudge();
    }

    /// What came for the session since the last time, in order.
    pub fn take_posts(&self) -> Vec<Post> {
        self.posts.take().map_or_else(Vec::new, |posts| *posts)
    }

    /// Notes that the socket is full, and lets the connection's task wait until it is not.
    pub fn block(&self) {
        self.blocked.set(true);
        self.nudge();
    }

    /// Notes what a write of `bytes` bytes found out about the socket.
    pub fn settle(&self, written: io::Result<usize>, bytes: usize) -> Written {
        match written {
            Ok(0) => Written::Gone,
            Ok(count) => {
                // A socket that took a part is full as well: the shard waits for its task either way.
                if count < bytes {
                    self.block();
                }
                Written::Bytes(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.block();
                Written::WouldBlock
            }
            Err(_) => {
                self.gone.set(true);
                self.nudge();
                Written::Gone
            }
        }
    }

    /// The same for a write that went past the runtime, which has to be told when the socket is full: it
    /// would take it for writable until it found out by itself.
    pub fn settle_past_runtime(&self, written: io::Result<usize>, bytes: usize) -> Written {
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.tcp.try_io(Interest::WRITABLE, full);
        }
        self.settle(written, bytes)
    }

    /// Wakes the connection's task; if it does not wait just now, its next wait ends at once.
    pub fn nudge(&self) {
        self.nudged.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits for the next thing to do. What a peer sends comes last: the rest is rare and short.
    ///
    /// # Errors
    /// When the runtime no longer serves the socket.
    pub async fn wake(&self, mut timer: Pin<&mut Sleep>) -> io::Result<Wake> {
        poll_fn(|context| self.poll_wake(timer.as_mut(), context)).await
    }

    fn poll_wake(&self, timer: Pin<&mut Sleep>, context: &mut Context<'_>) -> Poll<io::Result<Wake>> {
        if self.nudged.take() {
            return Poll::Ready(Ok(Wake::Nudge));
        }
        // Only then, or an open socket would wake us for ever.
        if self.blocked.get()
            && let Poll::Ready(room) = self.tcp.poll_write_ready(context)
        {
            return Poll::Ready(room.map(|()| Wake::Room));
        }
        if timer.poll(context).is_ready() {
            return Poll::Ready(Ok(Wake::Time));
        }
        if let Poll::Ready(bytes) = self.tcp.poll_read_ready(context) {
            return Poll::Ready(bytes.map(|()| Wake::Peer));
        }
        let kept = self.waker.take().filter(|waker| waker.will_wake(context.waker()));
        self.waker.set(Some(kept.unwrap_or_else(|| context.waker().clone())));
        Poll::Pending
    }

    /// Reads once, without waiting.
    ///
    /// # Errors
    /// As the socket's; `WouldBlock` when there is nothing.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut short = None;
        let read = self.tcp.try_io(Interest::READABLE, || {
            let count = rustix::io::retry_on_intr(|| recv(&self.tcp, &mut *buffer, RecvFlags::empty()))?.0;
            if count > 0 && count < buffer.len() {
                // All there was. Saying so takes the readiness back, and saves a second call that would
                // find nothing; what comes from now on raises it again (epoll(7), edge-triggered).
                short = Some(count);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        short.map_or(read, Ok)
    }
}
