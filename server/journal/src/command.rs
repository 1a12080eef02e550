//! What the writer can be told, as it stands in the queue.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::journal::{Answer, Reply};
use crate::types::{Draft, Outcome, Reason, RecipientId, Record, Status, Unavailable, Waiting};

pub(crate) enum Command {
    Publish { draft: Draft, reply: Reply<Outcome> },
    Ack { recipient: RecipientId, positions: Vec<u64>, now: i64 },
    Expire { now: i64 },
    Note { recipient: RecipientId, note: Vec<u8>, reply: Reply<Answer<()>> },
    Register { recipient: RecipientId, reply: Reply<Answer<()>> },
    Revoke { recipient: RecipientId, now: i64, forget: bool, reply: Reply<Answer<()>> },
    Ask(Question),
    Close,
}

/// Changes nothing.
pub(crate) enum Question {
    Pending { recipient: RecipientId, from: u64, limit: usize, reply: Reply<Answer<Vec<Record>>> },
    Waiting { recipient: RecipientId, reply: Reply<Answer<Waiting>> },
    Records { positions: Vec<u64>, reply: Reply<Answer<Vec<Record>>> },
    Status { publisher: Arc<str>, id: Vec<u8>, reply: Reply<Answer<Option<Status>>> },
    Recipients { reply: Reply<Answer<Vec<(RecipientId, u32)>>> },
}

impl Command {
    /// Bytes of its frame.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Publish { draft, .. } => draft.frame.len(),
            _ => 0,
        }
    }

    /// True when it may wait a little for others.
    pub(crate) fn is_patient(&self) -> bool {
        matches!(self, Self::Ack { .. })
    }

    /// Answers that it was not carried out, to whoever waits for an answer.
    pub(crate) fn decline(self, why: Unavailable, reason: Reason) {
        match self {
            Self::Publish { reply, .. } => reply(Outcome::Refused { reason, recipients: Vec::new() }),
            Self::Note { reply, .. } | Self::Register { reply, .. } | Self::Revoke { reply, .. } => {
                reply(Err(why))
            }
            Self::Ask(question) => question.decline(why),
            Self::Ack { .. } | Self::Expire { .. } | Self::Close => {}
        }
    }
}

impl Question {
    pub(crate) fn decline(self, why: Unavailable) {
        match self {
            Self::Pending { reply, .. } | Self::Records { reply, .. } => reply(Err(why)),
            Self::Waiting { reply, .. } => reply(Err(why)),
            Self::Status { reply, .. } => reply(Err(why)),
            Self::Recipients { reply } => reply(Err(why)),
        }
    }
}
