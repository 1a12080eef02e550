//! The handle of the journal: orders go in, answers come back by callback, nothing blocks but open and close.
//!
//! ```text
//!  any thread                     the writer's thread
//!  ──────────                     ┌───────────────────────────────────────────────┐
//!  Journal::publish ─► queue ────►│ gather ─► one transaction ─► fsync ─► sink     │
//!          ack                    │                                      reply ────┼──► callback
//!          pending                │ questions: after the commit of their batch     │
//!                                 └───────────────────────────────────────────────┘
//! ```
//!
//! Callbacks and the sink run on the writer's thread: they hand over and return, or the next commit waits.
//! After the writer's thread has gone, every order is answered as closed.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::apply;
use crate::command::{Command, Question};
use crate::directory::Directory;
use crate::health::Health;
use crate::settings::Settings;
use crate::store::{Opener, StoreError};
use crate::types::{
    Committed, Draft, Outcome, Reason, RecipientId, Record, Settled, Status, Unavailable, Waiting,
};
use crate::writer::Writer;

/// Most bytes that are kept with a recipient.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;

/// Called for every committed record, in order of positions, before its publisher is answered.
pub type Sink = Box<dyn FnMut(&Committed) + Send>;
/// Called for every pair that is settled, once that is on disk.
pub type Reporter = Box<dyn FnMut(&Settled) + Send>;
/// Called once with an answer.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;
/// An answer that may not be had.
pub type Answer<T> = Result<T, Unavailable>;

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last position that was given.
    pub position: u64,
    /// The last sequence of every topic, by name.
    pub topics: Vec<(Arc<str>, u64)>,
    /// Everyone who is registered, and how many messages wait for each, by name.
    pub recipients: Vec<(RecipientId, u32)>,
    /// What was kept with recipients, by name.
    pub notes: Vec<(RecipientId, Vec<u8>)>,
}

/// What the handles and the writer share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Written by the writer, read by whoever asks.
    pub(crate) health: Mutex<Health>,
    /// Bytes of frames in the queue. Handles add before they send, the writer takes off when it receives;
    /// a bound on memory, so no other data hangs on its order.
    pub(crate) queued_bytes: AtomicUsize,
}

impl Shared {
    pub(crate) fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer that panicked would leave a process that refuses every message and looks alive. Its end is what a
/// supervisor can see.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A journal that is open. Clones are handles to the same one.
#[derive(Clone)]
pub struct Journal {
    sender: SyncSender<Command>,
    shared: Arc<Shared>,
    queue_bytes_max: usize,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Journal").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal of a directory and starts its writer. Blocks for the repair of the file after a
    /// crash.
    ///
    /// # Errors
    /// When another server has it, a newer one wrote it, it is damaged, or the disk fails: in words for the
    /// operator.
    pub fn open(settings: Settings, sink: Sink) -> Result<(Self, Recovered), StoreError> {
        let directory = Directory::lock(&settings)?;
        Self::open_with(settings, Box::new(directory), sink)
    }

    /// As [`Journal::open`], with a store of another kind.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_with(
        settings: Settings,
        opener: Box<dyn Opener>,
        sink: Sink,
    ) -> Result<(Self, Recovered), StoreError> {
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = sync_channel(settings.queue_commands_max);
        let queue_bytes_max = settings.queue_bytes_max;
        let (writer, recovered) = Writer::open(settings, opener, sink, receiver, Arc::clone(&shared))?;
        let thread = Builder::new().name("journal".to_owned()).spawn(move || {
            let _guard = AbortOnPanic;
            writer.run();
        });
        let thread = thread.map_err(|error| StoreError::io(format!("no thread for the journal: {error}")))?;
        let writer = Arc::new(Mutex::new(Some(thread)));
        Ok((Self { sender, shared, queue_bytes_max, writer }, recovered))
    }

    /// Keeps a message and answers when it is on disk. Refused at once when a field is too long or the
    /// queue is full.
    pub fn publish(&self, draft: Draft, reply: Reply<Outcome>) {
        let refuse = |reason, reply: Reply<Outcome>| {
            reply(Outcome::Refused { reason, recipients: Vec::new() });
        };
        if let Err(reason) = apply::check(&draft) {
            return refuse(reason, reply);
        }
        let bytes = draft.frame.len();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued.saturating_add(bytes) > self.queue_bytes_max {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.health().refused_busy += 1;
            return refuse(Reason::Busy, reply);
        }
        let (command, reason) = match self.sender.try_send(Command::Publish { draft, reply }) {
            Ok(()) => return,
            Err(TrySendError::Full(command)) => (command, Reason::Busy),
            Err(TrySendError::Disconnected(command)) => (command, Reason::Closed),
        };
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.health().refused_busy += u64::from(reason == Reason::Busy);
        if let Command::Publish { reply, .. } = command {
            refuse(reason, reply);
        }
    }

    /// Says that a recipient has these positions. Written with the next commit, or after
    /// [`Settings::ack_delay`]; forgotten if the process ends before, so that they are delivered again.
    /// Whether the recipient may say so is checked before, by `delivery`.
    pub fn ack(&self, recipient: RecipientId, positions: Vec<u64>, now: i64) {
        let count = positions.len() as u64;
        if self.sender.try_send(Command::Ack { recipient, positions, now }).is_err() {
            self.shared.health().acks_forgotten += count;
        }
    }

    /// Ends what is due, and removes what is old. To be called every second or so; a call that finds the
    /// queue full does nothing.
    pub fn expire(&self, now: i64) {
        // The next call makes up for one that was not heard.
        let _ = self.sender.try_send(Command::Expire { now });
    }

    /// Has what becomes of messages told from now on. A pair whose message's id is not remembered any more, or
    /// whose recipient was forgotten, is not told; one that was settled twice over a crash may be told twice.
    pub fn report_to(&self, reporter: Reporter) {
        // A queue that is full before anybody has the handle does not exist.
        let _ = self.sender.try_send(Command::ReportTo(reporter));
    }

    /// Makes a recipient known. Only what is published later can wait for it.
    pub fn register(&self, recipient: RecipientId, reply: Reply<Answer<()>>) {
        self.order(Command::Register { recipient, reply });
    }

    /// Makes a recipient known, and keeps something of the caller's with it, at most [`NOTE_BYTES_MAX`]: the
    /// newest is found in [`Recovered::notes`].
    pub fn note(&self, recipient: RecipientId, note: Vec<u8>, reply: Reply<Answer<()>>) {
        if note.len() > NOTE_BYTES_MAX {
            return reply(Err(Unavailable::TooLarge { limit: NOTE_BYTES_MAX }));
        }
        let bytes = note.len();
        let queued = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queued.saturating_add(bytes) > self.queue_bytes_max {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return reply(Err(Unavailable::Busy));
        }
        if !self.order(Command::Note { recipient, note, reply }) {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Ends all that waits for a recipient who may not have it. It stays known.
    pub fn revoke(&self, recipient: RecipientId, now: i64, reply: Reply<Answer<()>>) {
        self.order(Command::Revoke { recipient, now, forget: false, reply });
    }

    /// Ends all that waits for a recipient, and its being known.
    pub fn forget(&self, recipient: RecipientId, now: i64, reply: Reply<Answer<()>>) {
        self.order(Command::Revoke { recipient, now, forget: true, reply });
    }

    /// What waits for a recipient from a position on, in order, at most `limit` records and about 4 MiB.
    /// Sees every order that was given before. An unknown recipient has nothing.
    pub fn pending(
        &self,
        recipient: RecipientId,
        from: u64,
        limit: usize,
        reply: Reply<Answer<Vec<Record>>>,
    ) {
        self.order(Command::Ask(Question::Pending { recipient, from, limit, reply }));
    }

    /// All positions that wait for a recipient, with their expiries, and the head of the journal: what
    /// [`Delivery::restore`](crate::Delivery::restore) wants. A record that the sink is told of after this
    /// answer is not among them, one before it is: both come on the same thread.
    pub fn waiting(&self, recipient: RecipientId, reply: Reply<Answer<Waiting>>) {
        self.order(Command::Ask(Question::Waiting { recipient, reply }));
    }

    /// Records by their positions, those that are still there, up to about 4 MiB.
    pub fn records(&self, positions: Vec<u64>, reply: Reply<Answer<Vec<Record>>>) {
        self.order(Command::Ask(Question::Records { positions, reply }));
    }

    /// What became of a message; nothing when its id is not known, or no more.
    pub fn status(&self, publisher: Arc<str>, id: Vec<u8>, reply: Reply<Answer<Option<Status>>>) {
        self.order(Command::Ask(Question::Status { publisher, id, reply }));
    }

    /// Everyone who is registered, and how many messages wait for each, by name.
    pub fn recipients(&self, reply: Reply<Answer<Vec<(RecipientId, u32)>>>) {
        self.order(Command::Ask(Question::Recipients { reply }));
    }

    /// How the journal is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health().clone()
    }

    /// Commits what is queued and ends the writer; blocks until it has. Later orders are answered as closed.
    pub fn close(&self) {
        // Waits for room, so that all that was queued before is committed.
        let _ = self.sender.send(Command::Close);
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked has said so by itself.
            let _ = thread.join();
        }
    }

    /// Queues an order, or declines it; true when it was queued.
    fn order(&self, command: Command) -> bool {
        match self.sender.try_send(command) {
            Ok(()) => return true,
            Err(TrySendError::Full(command)) => command.decline(Unavailable::Busy, Reason::Busy),
            Err(TrySendError::Disconnected(command)) => command.decline(Unavailable::Closed, Reason::Closed),
        }
        false
    }
}
