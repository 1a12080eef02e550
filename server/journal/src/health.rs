//! How the journal is, for `/readyz` and the metrics.
#![forbid(unsafe_code)]

/// What can be told of the journal without asking the disk. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing is accepted, if so.
    pub trouble: Option<Trouble>,
    /// Commits that are on disk.
    pub commits: u64,
    /// Messages accepted.
    pub accepted: u64,
    /// Messages whose id was known, with the same hash or another.
    pub known: u64,
    /// Messages refused for their content, their age or their recipients.
    pub refused: u64,
    /// Messages refused because the queue was full.
    pub refused_busy: u64,
    /// Messages that the disk did not take.
    pub not_durable: u64,
    /// Messages that were on the disk though its commit had failed, and were delivered late.
    pub late: u64,
    /// Acks for what did not wait: said twice, too late, or by nobody known.
    pub acks_strange: u64,
    /// Acks forgotten because a queue was full: their messages are delivered again.
    pub acks_forgotten: u64,
    /// Failures of the disk.
    pub failures: u64,
    /// Answers not given because a record was damaged.
    pub damaged: u64,
}

/// A journal that accepts nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What the disk said.
    pub reason: String,
    /// Since when, in ns UTC: the newest time any order had brought when it happened. 0: at the start.
    pub since: i64,
    /// How often it was tried in vain to open the file again.
    pub retries: u64,
    /// The file is open, what waits can be read and acked, and only room for new messages is missing.
    pub full: bool,
}

impl Health {
    /// True when messages are accepted.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.trouble.is_none()
    }
}
