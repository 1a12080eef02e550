//! What goes into the journal and what comes out: plain values, no behaviour.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Longest frame that is kept, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Longest id of a message, in bytes. The shortest is one byte.
pub const ID_BYTES_MAX: usize = 64;
/// Longest name of a publisher, recipient, topic or collapse key, in bytes. The shortest is one byte.
pub const NAME_BYTES_MAX: usize = 256;
/// Most recipients of one message.
pub const AUDIENCE_MAX: usize = 10_000;

/// A durable identity: a user and its named consumer, not a socket.
pub type RecipientId = Arc<str>;

/// A message as it is handed to the journal.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who publishes. Ids are unique per publisher.
    pub publisher: Arc<str>,
    /// The publisher's id of the message, 1 to [`ID_BYTES_MAX`] bytes.
    pub id: Vec<u8>,
    /// Hash of what was published. The same id with another hash is a conflict.
    pub hash: [u8; 32],
    /// Whose sequence the message gets.
    pub topic: Arc<str>,
    /// The message as it is to be kept, at most [`FRAME_BYTES_MAX`] bytes.
    pub frame: Bytes,
    /// Now, in ns UTC.
    pub accepted_at: i64,
    /// When it loses its meaning, in ns UTC.
    pub expires_at: Option<i64>,
    /// A newer message of the same topic and key takes the place of an older one that still waits.
    pub collapse_key: Option<Arc<str>>,
    /// Who must have it. May be empty: a record that nobody has to acknowledge.
    pub audience: Vec<RecipientId>,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On disk, and pending for `queued` recipients.
    Accepted {
        /// Place in the journal; grows with every record, over all topics.
        position: u64,
        /// Number on the topic, from 1, without holes.
        sequence: u64,
        /// For how many recipients it waits.
        queued: u32,
        /// For whom it does not, and why.
        refused: Vec<Refusal>,
    },
    /// The same id and hash were accepted before.
    Duplicate {
        /// Where the first one is.
        position: u64,
        /// Its number on its topic.
        sequence: u64,
    },
    /// The same id was accepted before with another hash.
    Conflict {
        /// Where the first one is.
        position: u64,
    },
    /// Not kept and never delivered.
    Refused {
        /// Why.
        reason: Reason,
        /// The recipients who refused it, when that is the reason.
        recipients: Vec<Refusal>,
    },
    /// The disk did not take it. Nothing was promised; a retry with the same id is safe. As after any
    /// failed commit, the record may still turn out to be there, and is then delivered once.
    NotDurable {
        /// What the disk said.
        reason: String,
    },
}

/// Why a publish was refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Every recipient's queue is full.
    QueueFull,
    /// No recipient of the audience is registered.
    NobodyKnown,
    /// It had expired when it came.
    Expired,
    /// A field is empty or too long: its name.
    Invalid(&'static str),
    /// The journal's own queue of commands is full: try again.
    Busy,
    /// The journal is closed.
    Closed,
}

/// A recipient for whom a message does not wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who.
    pub recipient: RecipientId,
    /// Why.
    pub why: RefusalReason,
}

/// Why a message does not wait for one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Too much waits already.
    QueueFull {
        /// How many messages.
        depth: u32,
        /// Age of the oldest, in ns.
        oldest_age: i64,
    },
    /// Nobody registered by this name.
    Unknown,
}

/// A record that is on disk, as told to the sink, in order of positions and before the publisher's reply.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The record.
    pub record: Record,
    /// For whom it waits.
    pub queued: Vec<RecipientId>,
    /// What it took the place of: these no longer wait.
    pub superseded: Vec<(RecipientId, u64)>,
    /// True when its publisher was told [`Outcome::NotDurable`] because the commit seemed to have failed.
    pub late: bool,
}

/// A record as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Place in the journal.
    pub position: u64,
    /// Number on the topic.
    pub sequence: u64,
    /// Its topic.
    pub topic: Arc<str>,
    /// Who published it.
    pub publisher: Arc<str>,
    /// The publisher's id.
    pub id: Vec<u8>,
    /// Hash of what was published.
    pub hash: [u8; 32],
    /// When it was accepted, in ns UTC.
    pub accepted_at: i64,
    /// When it loses its meaning, in ns UTC.
    pub expires_at: Option<i64>,
    /// The message.
    pub frame: Bytes,
}

/// Where a record stands with one recipient. All but the first are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairState {
    /// Waits, in flight or not.
    Pending,
    /// The recipient said it has it.
    Acked,
    /// Its time passed.
    Expired,
    /// The recipient lost its right or its existence.
    Revoked,
    /// A newer record with the same collapse key waits instead.
    Superseded,
}

impl PairState {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        use PairState::{Acked, Expired, Pending, Revoked, Superseded};
        [Pending, Acked, Expired, Revoked, Superseded].get(usize::from(code)).copied()
    }
}

/// A pair that does not wait any more, and why: on disk when it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Who published the record.
    pub publisher: Arc<str>,
    /// The publisher's id.
    pub id: Vec<u8>,
    /// Where the record is.
    pub position: u64,
    /// For whom it waited.
    pub recipient: RecipientId,
    /// What became of it; never [`PairState::Pending`].
    pub state: PairState,
    /// The newest time any order had brought, in ns UTC.
    pub at: i64,
}

/// How many recipients of a record are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Where the record is, or was.
    pub position: u64,
    /// Its number on its topic.
    pub sequence: u64,
    /// Recipients for whom it waits.
    pub pending: u32,
    /// Recipients who have it.
    pub acked: u32,
    /// Recipients for whom it came too late.
    pub expired: u32,
    /// Recipients who may not have it any more.
    pub revoked: u32,
    /// Recipients for whom a newer one waits.
    pub superseded: u32,
    /// The record was settled for everyone, and removed after the retention.
    pub removed: bool,
}

/// What waits for a recipient.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The last position that was given, to whomever.
    pub head: u64,
    /// Positions that wait, in order, with their expiries in ns UTC.
    pub positions: Vec<(u64, Option<i64>)>,
}

/// Why a question or an order was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The queue of commands is full: try again.
    Busy,
    /// The journal is closed.
    Closed,
    /// Larger than is kept.
    TooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// The disk failed; the journal tries to reopen its file.
    Failed(String),
    /// A record does not have the checksum it was written with.
    Damaged {
        /// Which record, or 0 when it cannot be told.
        position: u64,
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => out.write_str("the journal has too much to do; try again"),
            Self::Closed => out.write_str("the journal is closed"),
            Self::TooLarge { limit } => write!(out, "more than {limit} bytes are not kept"),
            Self::Failed(reason) => write!(out, "the journal's disk failed: {reason}"),
            Self::Damaged { position } => {
                write!(out, "record {position} of the journal does not match its checksum")
            }
        }
    }
}

impl std::error::Error for Unavailable {}
