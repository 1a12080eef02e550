//! Limits of the journal, each with its unit and its cost.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

/// One day in ns.
pub const DAY: i64 = 24 * 60 * 60 * 1_000_000_000;

/// How the journal is set up. [`Settings::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the journal's files are. Made if it does not exist; no two servers may share it.
    pub directory: PathBuf,
    /// Most commands of one commit.
    pub batch_commands_max: usize,
    /// Most bytes of frames of one commit; one frame may go past it.
    pub batch_bytes_max: usize,
    /// Most commands that wait for the writer; what comes then is refused as busy.
    pub queue_commands_max: usize,
    /// Most bytes of frames that wait for the writer; what comes then is refused as busy.
    pub queue_bytes_max: usize,
    /// How long acks wait for a commit that has something else to do.
    pub ack_delay: Duration,
    /// Messages that may wait for one recipient whatever their age.
    pub hot_max: u32,
    /// Most messages that may wait for one recipient. What is beyond [`Settings::hot_max`] is a spill that
    /// only a recipient who comes back in time is given.
    pub spill_max: u32,
    /// Once the oldest of a recipient waits this long, in ns, no more than [`Settings::hot_max`] may wait.
    pub spill_age_max: i64,
    /// How long ids are remembered at least, in ns.
    pub id_age_min: i64,
    /// How many ids are remembered at least. Each costs about 250 bytes of disk.
    pub ids_min: u64,
    /// How long a record is kept when everyone has settled it, in ns.
    pub retention: i64,
    /// Acks that are remembered while the disk has failed; more are forgotten, and delivered again.
    pub carried_acks_max: usize,
    /// First and longest pause before a failed file is opened again. Each failure doubles it.
    pub reopen_pause: (Duration, Duration),
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
    /// Bytes kept aside on the disk, so that acks can be written when it is full. 0: none.
    pub reserve_bytes: u64,
    /// Write the allocator's state with every commit: a start after a crash need not read the whole file
    /// to find its free pages, and each commit costs a second fsync (ADR 6 has the figures).
    pub quick_repair: bool,
    /// Verify the checksum of every page at every start: some ten seconds for a GiB.
    pub verify_at_start: bool,
}

impl Settings {
    /// The defaults.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            batch_commands_max: 1_024,
            batch_bytes_max: 4 << 20,
            queue_commands_max: 16_384,
            queue_bytes_max: 64 << 20,
            ack_delay: Duration::from_millis(50),
            hot_max: 100,
            spill_max: 10_000,
            spill_age_max: 7 * DAY,
            id_age_min: DAY,
            ids_min: 1_000_000,
            retention: DAY,
            carried_acks_max: 65_536,
            reopen_pause: (Duration::from_millis(100), Duration::from_secs(5)),
            cache_bytes: 64 << 20,
            reserve_bytes: 16 << 20,
            quick_repair: true,
            verify_at_start: false,
        }
    }
}
