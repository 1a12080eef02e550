//! What the writer does when the disk fails: nothing is accepted, the file is closed and opened again with
//! new descriptors, and what it holds is compared with what is remembered before anything else (I12).
//!
//! ```text
//!            a commit or read fails            opened, and as remembered
//!   Working ───────────────────────▶ Failed ─────────────────────────────▶ Working
//!      ▲                               │ │  ▲
//!      │ the reserve is there again    │ └──┘ not: 100 ms, doubling to 5 s
//!      └────────────── Full ◀──────────┘
//!                 the disk was full: acks and reads, no messages
//! ```
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::fail;
use crate::health::Trouble;
use crate::keys;
use crate::settings::Settings;
use crate::state::{Changes, State};
use crate::store::{Opener, Store, StoreError, StoreErrorKind, Table};
use crate::types::{Committed, Unavailable};
use crate::writer::{self, Writer};

/// What a failure left to be found out.
#[derive(Debug)]
pub(crate) struct Repair {
    /// When to try again.
    due: Option<Instant>,
    pause: Duration,
    pauses: (Duration, Duration),
    reason: String,
    after_sync_failure: bool,
    /// The batch that failed: its changes, if it came so far, and its records.
    undecided: (Option<Changes>, Vec<Committed>),
    /// Why no messages are taken though the file is open: there is no room.
    pub(crate) full: Option<String>,
}

impl Repair {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            due: None,
            pause: settings.reopen_pause.0,
            pauses: settings.reopen_pause,
            reason: String::new(),
            after_sync_failure: false,
            undecided: (None, Vec::new()),
            full: None,
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    pub(crate) fn unavailable(&self) -> Unavailable {
        Unavailable::Failed(self.reason.clone())
    }

    fn try_later(&mut self) {
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(self.pauses.1);
    }

    fn is_well(&mut self) {
        self.due = None;
        self.pause = self.pauses.0;
    }

    fn blame(&mut self, error: &StoreError) {
        self.reason.clone_from(&error.text);
        self.after_sync_failure |= matches!(error.kind, StoreErrorKind::Sync { .. });
    }
}

fn is_full(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::Sync { full: true })
}

/// Opens a store, writes the format into a new one, and reads the state.
fn open(opener: &mut dyn Opener, after_sync_failure: bool) -> Result<(Box<dyn Store>, State), StoreError> {
    let mut store = opener.open(after_sync_failure)?;
    fail::hit(fail::OPEN_FILE);
    let mut format = None;
    let mut state = State::default();
    store.read(&mut |tables| {
        format = tables.get(Table::Meta, keys::META_FORMAT)?;
        state = State::read(tables)?;
        Ok(())
    })?;
    if format.is_none() {
        fail::hit(fail::OPEN_FORMAT);
        write_format(store.as_mut())?;
    }
    fail::hit(fail::OPEN_STATE);
    Ok((store, state))
}

/// A commit that changes nothing but a new file: what was read before it is on the disk after it.
fn write_format(store: &mut dyn Store) -> Result<(), StoreError> {
    store.write(&mut |tables| tables.put(Table::Meta, keys::META_FORMAT, &keys::FORMAT.to_be_bytes()))
}

/// The first opening. A disk that is full gets its reserve back, so that a start is possible.
pub(crate) fn open_first(opener: &mut dyn Opener) -> Result<(Box<dyn Store>, State), StoreError> {
    match open(opener, false) {
        Err(error) if is_full(&error) && opener.release_reserve() => {
            open(opener, matches!(error.kind, StoreErrorKind::Sync { .. }))
        }
        opened => opened,
    }
}

impl Writer {
    /// The disk failed: closes the file for good. `changes` and `records` are of the batch that was being
    /// committed, of which nobody can say yet whether it is on disk.
    pub(crate) fn failed(&mut self, error: &StoreError, changes: Option<Changes>, records: Vec<Committed>) {
        self.store = None;
        self.repair.blame(error);
        self.repair.undecided = (changes, records.into_iter().map(writer::late).collect());
        self.repair.try_later();
        let (reason, since) = (error.text.clone(), self.now);
        {
            let mut health = self.shared.health();
            health.failures += 1;
            health.trouble = Some(Trouble { reason, since, retries: 0, full: false });
        }
        if is_full(error) {
            self.give_up_reserve();
        }
    }

    /// What is due: opening the file again, or looking for room.
    pub(crate) fn mend(&mut self) {
        if self.store.is_some() {
            return self.look_for_room();
        }
        fail::hit(fail::REOPEN);
        if let Err(error) = self.reopen() {
            self.repair.blame(&error);
            if is_full(&error) {
                self.give_up_reserve();
            }
            self.repair.try_later();
            if let Some(trouble) = &mut self.shared.health().trouble {
                trouble.retries += 1;
                trouble.reason = error.text;
            }
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let (mut store, found) = open(self.opener.as_mut(), self.repair.after_sync_failure)?;
        let (changes, records) = &self.repair.undecided;
        if found != self.state {
            let mut after = self.state.clone();
            if let Some(changes) = changes.clone() {
                after.apply(changes);
            }
            if found != after {
                let text = format!(
                    "the file that was opened again is at position {} and neither before nor after the batch \
                     that failed, which is {} or {}",
                    found.position, self.state.position, after.position
                );
                return Err(StoreError::damaged(text));
            }
            // I1: on the disk beyond doubt before anyone hears of it, also when the failure was not an fsync.
            write_format(store.as_mut())?;
            self.state = after;
            for record in records {
                (self.sink)(record);
            }
            self.shared.health().late += records.len() as u64;
        }
        self.repair.undecided = (None, Vec::new());
        self.repair.after_sync_failure = false;
        self.store = Some(store);
        self.repair.is_well();
        self.look_for_room();
        Ok(())
    }

    fn give_up_reserve(&mut self) {
        if self.opener.release_reserve() {
            self.repair.full = Some(self.repair.reason.clone());
        }
    }

    /// Takes messages again once the reserve could be put aside; until then only acks.
    pub(crate) fn look_for_room(&mut self) {
        let room = self.opener.has_reserve();
        let mut health = self.shared.health();
        if room {
            self.repair.full = None;
            self.repair.is_well();
            health.trouble = None;
            return;
        }
        let reason = self.repair.full.clone().unwrap_or_else(|| "the disk is full".to_owned());
        let since = health.trouble.as_ref().map_or(self.now, |trouble| trouble.since);
        let retries = health.trouble.as_ref().map_or(0, |trouble| trouble.retries + 1);
        health.trouble = Some(Trouble { reason: reason.clone(), since, retries, full: true });
        drop(health);
        self.repair.full = Some(reason);
        self.repair.try_later();
    }
}
