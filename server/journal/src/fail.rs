//! Places where a test may kill the process. Nothing is compiled for them without the feature `failpoints`.
//!
//! `TICKCAST_FAILPOINT=name:count` ends the process as SIGKILL does when the place called `name` is reached
//! for the `count`-th time. What is on disk then is what a start must cope with.
#![forbid(unsafe_code)]

/// Nothing of the batch is written.
pub const BATCH_BEGIN: &str = "batch_begin";
/// One command of the batch is applied, others are not.
pub const BATCH_APPLIED_ONE: &str = "batch_applied_one";
/// All is applied; nothing is committed.
pub const BATCH_BEFORE_COMMIT: &str = "batch_before_commit";
/// The file's own writes have begun: at each write to it.
pub const FILE_WRITE: &str = "file_write";
/// Before each fsync of the file.
pub const FILE_BEFORE_SYNC: &str = "file_before_sync";
/// After each fsync of the file.
pub const FILE_AFTER_SYNC: &str = "file_after_sync";
/// Before the file's length changes.
pub const FILE_SET_LEN: &str = "file_set_len";
/// Committed; nobody knows yet.
pub const COMMITTED: &str = "committed";
/// The sink has been told, the publisher has not.
pub const BEFORE_REPLY: &str = "before_reply";
/// The publisher has been told.
pub const AFTER_REPLY: &str = "after_reply";
/// Recovery: the directory is there, the file is not open.
pub const OPEN_DIRECTORY: &str = "open_directory";
/// Recovery: a new file is made and has not its name yet.
pub const OPEN_MADE: &str = "open_made";
/// Recovery: the file is open, and repaired if it had to be.
pub const OPEN_FILE: &str = "open_file";
/// Recovery: the format is about to be written into a new file.
pub const OPEN_FORMAT: &str = "open_format";
/// Recovery: all is read.
pub const OPEN_STATE: &str = "open_state";
/// The failed file is about to be opened again.
pub const REOPEN: &str = "reopen";
/// A copy of the file is made and not yet in place.
pub const REOPEN_COPY: &str = "reopen_copy";
/// Old records or ids are about to be removed.
pub const PRUNE: &str = "prune";
/// A step of a revocation is about to be made.
pub const REVOKE: &str = "revoke";

/// Every place, for tests that go through them all.
pub const ALL: &[&str] = &[
    BATCH_BEGIN,
    BATCH_APPLIED_ONE,
    BATCH_BEFORE_COMMIT,
    FILE_WRITE,
    FILE_BEFORE_SYNC,
    FILE_AFTER_SYNC,
    FILE_SET_LEN,
    COMMITTED,
    BEFORE_REPLY,
    AFTER_REPLY,
    OPEN_DIRECTORY,
    OPEN_MADE,
    OPEN_FILE,
    OPEN_FORMAT,
    OPEN_STATE,
    REOPEN,
    REOPEN_COPY,
    PRUNE,
    REVOKE,
];

/// Ends the process here if it was asked to.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn hit(_name: &'static str) {}

/// Ends the process here if it was asked to.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    // Counts hits of the wanted place only; any thread adds, nobody waits for it.
    static HITS: AtomicU64 = AtomicU64::new(0);

    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("TICKCAST_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':').expect("TICKCAST_FAILPOINT is name:count");
        assert!(ALL.contains(&name), "TICKCAST_FAILPOINT names no failpoint: {name}");
        Some((name.to_owned(), count.parse().expect("TICKCAST_FAILPOINT has a count")))
    });
    let Some((place, count)) = wanted else { return };
    if place == name && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *count {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // SIGKILL is not always delivered before the call returns.
        loop {
            std::thread::park();
        }
    }
}
