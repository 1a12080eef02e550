//! What the journal needs of a store: tables of sorted bytes, and transactions over all of them.
//!
//! A transaction is a closure, so that no handle outlives it: it is committed when the closure returns Ok
//! and the commit succeeds, and has not happened otherwise, save that a failed commit of a real disk is
//! only known to have failed when the file is opened again.
#![forbid(unsafe_code)]

use std::fmt;

/// The tables; `keys.rs` has their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "explained together in keys.rs")]
pub enum Table {
    Meta,
    Records,
    Ids,
    IdOrder,
    Pairs,
    Pending,
    Open,
    Expiry,
    Closed,
    Collapse,
    Topics,
    Recipients,
    Depths,
    Notes,
}

impl Table {
    /// All of them, in order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Meta,
        Self::Records,
        Self::Ids,
        Self::IdOrder,
        Self::Pairs,
        Self::Pending,
        Self::Open,
        Self::Expiry,
        Self::Closed,
        Self::Collapse,
        Self::Topics,
        Self::Recipients,
        Self::Depths,
        Self::Notes,
    ];

    /// The name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Records => "records",
            Self::Ids => "ids",
            Self::IdOrder => "id_order",
            Self::Pairs => "pairs",
            Self::Pending => "pending",
            Self::Open => "open",
            Self::Expiry => "expiry",
            Self::Closed => "closed",
            Self::Collapse => "collapse",
            Self::Topics => "topics",
            Self::Recipients => "recipients",
            Self::Depths => "depths",
            Self::Notes => "notes",
        }
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Is given a key and its value.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>;

/// Reads within one transaction.
pub trait Read {
    /// The value of a key.
    ///
    /// # Errors
    /// When the disk or the file fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows with `from <= key < to` in order, at most `limit`.
    ///
    /// # Errors
    /// When the disk or the file fails.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Every row of a table, in order.
    ///
    /// # Errors
    /// When the disk or the file fails, or `each` does.
    fn each(&self, table: Table, each: Each<'_>) -> Result<(), StoreError>;

    /// How many rows a table has, without reading them.
    ///
    /// # Errors
    /// When the disk or the file fails.
    fn len(&self, table: Table) -> Result<u64, StoreError>;
}

/// Reads and writes within one transaction.
pub trait Write: Read {
    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the disk or the file fails.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes a key; true when it was there.
    ///
    /// # Errors
    /// When the disk or the file fails.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError>;
}

/// What is done in a read transaction.
pub type Reading<'a> = &'a mut dyn FnMut(&dyn Read) -> Result<(), StoreError>;
/// What is done in a write transaction.
pub type Writing<'a> = &'a mut dyn FnMut(&mut dyn Write) -> Result<(), StoreError>;

/// An open store. After an error of `write` it is dropped and opened again, never used further.
pub trait Store: Send {
    /// One transaction, on disk when this returns Ok.
    ///
    /// # Errors
    /// When the disk fails, or `work` does.
    fn write(&mut self, work: Writing<'_>) -> Result<(), StoreError>;

    /// Reads what the last commit left.
    ///
    /// # Errors
    /// When the disk fails, or `work` does.
    fn read(&self, work: Reading<'_>) -> Result<(), StoreError>;
}

/// Opens the store, at start and after each failure.
pub trait Opener: Send {
    /// Opens the store with new descriptors. After an fsync failed, what the page cache shows may not be on
    /// the disk though it is marked clean, so the bytes are written anew first (`after_sync_failure`).
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&mut self, after_sync_failure: bool) -> Result<Box<dyn Store>, StoreError>;

    /// Gives the reserve back to a full disk. False when there is none left.
    fn release_reserve(&mut self) -> bool {
        false
    }

    /// True when the reserve is there, made anew if need be: the disk is not full.
    fn has_reserve(&mut self) -> bool {
        true
    }
}

/// What went wrong in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// Which sort.
    pub kind: StoreErrorKind,
    /// In words.
    pub text: String,
}

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The disk has no room.
    Full,
    /// An fsync failed: what was written before it may be lost without a further word.
    Sync {
        /// For want of room.
        full: bool,
    },
    /// Any other failure of the disk.
    Io,
    /// The file does not hold what was written.
    Damaged {
        /// The record, or 0 when it is not one.
        position: u64,
    },
    /// Another server has it open.
    Locked,
    /// Written by a newer version.
    Newer,
}

impl StoreError {
    /// An error of the disk.
    #[must_use]
    pub fn io(text: impl fmt::Display) -> Self {
        Self { kind: StoreErrorKind::Io, text: text.to_string() }
    }

    /// The file is not as it was written.
    #[must_use]
    pub fn damaged(text: impl fmt::Display) -> Self {
        Self { kind: StoreErrorKind::Damaged { position: 0 }, text: text.to_string() }
    }

    pub(crate) fn damaged_row(table: Table, key: &[u8]) -> Self {
        let position = key.try_into().map(u64::from_be_bytes);
        match (table, position) {
            (Table::Records, Ok(position)) => Self::damaged_record(position),
            _ => Self::damaged(format!("a row of {} does not match its checksum", table.name())),
        }
    }

    pub(crate) fn damaged_record(position: u64) -> Self {
        let text = format!("record {position} does not match its checksum");
        Self { kind: StoreErrorKind::Damaged { position }, text }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for StoreError {}
