//! The store on redb: one file, all tables opened at the start of a transaction.
//!
//! Every row carries a checksum of its table, key and value, which is compared whenever it is read: redb
//! compares the checksums of its pages only when it repairs a file or is told to verify it.
//!
//! The bytes go through a `Watched` backend, which remembers the first failure and whether it was an
//! fsync. redb refuses every access after a failure, so no fsync is ever tried twice on one descriptor.
//!
//! redb trusts a file that it closed itself and may panic on one that was changed since; a panic in here
//! is an error of the store, never of the thread.
#![forbid(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition,
};

use crate::fail;
use crate::store::{Each, Read, Reading, Row, Store, StoreError, StoreErrorKind, Table, Write, Writing};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

/// How the file is opened.
#[derive(Clone, Copy, Debug)]
pub struct RedbOptions {
    /// Memory for pages, in bytes.
    pub cache_bytes: usize,
    /// Save the allocator's state with every commit.
    pub quick_repair: bool,
    /// Verify every page when the file is opened.
    pub verify: bool,
}

/// A store in one redb file.
#[derive(Debug)]
pub struct RedbStore {
    database: Option<Database>,
    faults: Arc<Faults>,
    quick_repair: bool,
}

impl RedbStore {
    /// Opens the file behind `backend`, or makes a new one in it when it is empty; repairs it after a crash.
    ///
    /// # Errors
    /// When the disk fails or the file is damaged.
    pub fn open(backend: Box<dyn StorageBackend>, options: RedbOptions) -> Result<Self, StoreError> {
        let faults = Arc::new(Faults::default());
        let watched = Watched { inner: backend, faults: Arc::clone(&faults) };
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Database::builder()
                .set_cache_size(options.cache_bytes)
                .set_check_integrity_on_open(options.verify)
                .create_with_backend(watched)
                .map_err(|error| faults.explain(error))
        }));
        let database = opened.unwrap_or_else(|_| Err(faults.explain(PANICKED)))?;
        Ok(Self { database: Some(database), faults, quick_repair: options.quick_repair })
    }

    /// Makes a new, empty file behind `backend`, closed and synced. A file that was not made to its end cannot be
    /// opened, so it gets its name only after this.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make(backend: Box<dyn StorageBackend>) -> Result<(), StoreError> {
        let options = RedbOptions { cache_bytes: 1 << 20, quick_repair: false, verify: false };
        let mut store = Self::open(backend, options)?;
        let database = store.database.take().expect("just opened");
        database.close().map_err(|error| store.faults.explain(error))
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("open until dropped")
    }

    fn write_inside(&self, work: Writing<'_>) -> Result<(), StoreError> {
        let explain = |error: &dyn std::fmt::Display| self.faults.explain(error);
        let mut transaction = self.database().begin_write().map_err(|error| explain(&error))?;
        transaction.set_quick_repair(self.quick_repair);
        {
            let mut tables = Vec::with_capacity(Table::ALL.len());
            for table in Table::ALL {
                tables.push(transaction.open_table(definition(table)).map_err(|error| explain(&error))?);
            }
            work(&mut Tables { tables, faults: &self.faults })?;
        }
        fail::hit(fail::BATCH_BEFORE_COMMIT);
        transaction.commit().map_err(|error| explain(&error))
    }

    fn read_inside(&self, work: Reading<'_>) -> Result<(), StoreError> {
        let explain = |error: &dyn std::fmt::Display| self.faults.explain(error);
        let transaction = self.database().begin_read().map_err(|error| explain(&error))?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            match transaction.open_table(definition(table)) {
                Ok(table) => tables.push(Some(table)),
                // A new file has no tables yet.
                Err(redb::TableError::TableDoesNotExist(_)) => tables.push(None),
                Err(error) => return Err(explain(&error)),
            }
        }
        work(&Snapshot { tables, faults: &self.faults })
    }
}

const PANICKED: &str = "the file is not one that redb wrote, or was changed since";

impl Store for RedbStore {
    fn write(&mut self, work: Writing<'_>) -> Result<(), StoreError> {
        catch_unwind(AssertUnwindSafe(|| self.write_inside(work)))
            .unwrap_or_else(|_| Err(self.faults.explain(PANICKED)))
    }

    fn read(&self, work: Reading<'_>) -> Result<(), StoreError> {
        catch_unwind(AssertUnwindSafe(|| self.read_inside(work)))
            .unwrap_or_else(|_| Err(self.faults.explain(PANICKED)))
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // Closing a damaged file may panic as well; the process must outlive it.
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }
}

const CHECKSUM_BYTES: usize = 4;

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table as u8]);
    hasher.update(&(key.len() as u32).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_be_bytes()
}

fn seal(table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
    [value, &checksum(table, key, value)].concat()
}

fn unseal<'a>(table: Table, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let value = sealed.split_last_chunk().filter(|(value, sum)| **sum == checksum(table, key, value));
    value.map(|(value, _)| value).ok_or_else(|| StoreError::damaged_row(table, key))
}

/// The tables of a write transaction, in order of `Table`.
struct Tables<'a> {
    tables: Vec<redb::Table<'a, &'static [u8], &'static [u8]>>,
    faults: &'a Faults,
}

/// The tables of a read transaction, in order of `Table`.
struct Snapshot<'a> {
    tables: Vec<Option<redb::ReadOnlyTable<&'static [u8], &'static [u8]>>>,
    faults: &'a Faults,
}

type Bytes = &'static [u8];

fn get(
    of: Table,
    table: &impl ReadableTable<Bytes, Bytes>,
    key: &[u8],
    faults: &Faults,
) -> Result<Option<Vec<u8>>, StoreError> {
    let found = table.get(key).map_err(|error| faults.explain(error))?;
    found.map(|value| unseal(of, key, value.value()).map(<[u8]>::to_vec)).transpose()
}

fn scan(
    of: Table,
    table: &impl ReadableTable<Bytes, Bytes>,
    range: (&[u8], &[u8]),
    limit: usize,
    faults: &Faults,
) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    for row in table.range(range.0..range.1).map_err(|error| faults.explain(error))?.take(limit) {
        let (key, value) = row.map_err(|error| faults.explain(error))?;
        let value = unseal(of, key.value(), value.value())?.to_vec();
        rows.push((key.value().to_vec(), value));
    }
    Ok(rows)
}

fn each(
    of: Table,
    table: &impl ReadableTable<Bytes, Bytes>,
    each: Each<'_>,
    faults: &Faults,
) -> Result<(), StoreError> {
    for row in table.iter().map_err(|error| faults.explain(error))? {
        let (key, value) = row.map_err(|error| faults.explain(error))?;
        each(key.value(), unseal(of, key.value(), value.value())?)?;
    }
    Ok(())
}

impl Read for Tables<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(table, &self.tables[table as usize], key, self.faults)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        scan(table, &self.tables[table as usize], (from, to), limit, self.faults)
    }

    fn each(&self, table: Table, visit: Each<'_>) -> Result<(), StoreError> {
        each(table, &self.tables[table as usize], visit, self.faults)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.tables[table as usize].len().map_err(|error| self.faults.explain(error))
    }
}

impl Write for Tables<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let put = self.tables[table as usize].insert(key, &seal(table, key, value)[..]);
        put.map(|_| ()).map_err(|error| self.faults.explain(error))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        let removed = self.tables[table as usize].remove(key);
        removed.map(|value| value.is_some()).map_err(|error| self.faults.explain(error))
    }
}

impl Read for Snapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tables[table as usize].as_ref().map_or(Ok(None), |rows| get(table, rows, key, self.faults))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.tables[table as usize].as_ref();
        rows.map_or(Ok(Vec::new()), |rows| scan(table, rows, (from, to), limit, self.faults))
    }

    fn each(&self, table: Table, visit: Each<'_>) -> Result<(), StoreError> {
        self.tables[table as usize].as_ref().map_or(Ok(()), |rows| each(table, rows, visit, self.faults))
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        let table = self.tables[table as usize].as_ref();
        table.map_or(Ok(0), |table| table.len().map_err(|error| self.faults.explain(error)))
    }
}

/// The first failure of a backend. redb reports only the first as such, and the later ones as "previous".
#[derive(Debug, Default)]
struct Faults {
    first: Mutex<Option<StoreError>>,
}

impl Faults {
    fn note<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let full = error.kind() == io::ErrorKind::StorageFull;
            let kind = match (what, full) {
                ("fsync", full) => StoreErrorKind::Sync { full },
                (_, true) => StoreErrorKind::Full,
                (_, false) => StoreErrorKind::Io,
            };
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            // A failed fsync weighs more than what came before it.
            if first.is_none() || what == "fsync" {
                *first = Some(StoreError { kind, text: format!("{what} failed: {error}") });
            }
        }
        result
    }

    /// The failure of the disk behind an error of redb, or the error itself when the disk did not fail.
    fn explain(&self, error: impl std::fmt::Display) -> StoreError {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).clone();
        first.unwrap_or_else(|| StoreError::damaged(error))
    }
}

/// A backend whose failures are remembered, and where a test may kill the process.
#[derive(Debug)]
struct Watched {
    inner: Box<dyn StorageBackend>,
    faults: Arc<Faults>,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.faults.note("reading the length", self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.faults.note("a read", self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fail::hit(fail::FILE_SET_LEN);
        self.faults.note("changing the length", self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        fail::hit(fail::FILE_BEFORE_SYNC);
        let synced = self.faults.note("fsync", self.inner.sync_data());
        fail::hit(fail::FILE_AFTER_SYNC);
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fail::hit(fail::FILE_WRITE);
        self.faults.note("a write", self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_row_is_found_and_so_is_a_row_in_the_wrong_place() {
        let sealed = seal(Table::Records, b"key", b"stop everything");
        assert_eq!(unseal(Table::Records, b"key", &sealed).expect("whole"), b"stop everything");
        assert!(unseal(Table::Pairs, b"key", &sealed).is_err(), "another table's");
        assert!(unseal(Table::Records, b"kex", &sealed).is_err(), "another row's");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(Table::Records, b"key", &flipped).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(unseal(Table::Records, b"key", &sealed[..len]).is_err(), "cut to {len}");
        }
    }
}
