//! The journal's directory: who may use it, its file, and the bytes kept aside for a full disk.
//!
//! `journal.lock` is locked as long as the process lives, whatever happens to the file; `journal.redb` is
//! the store; `journal.reserve` is there to be removed. Owner only, synced with its parent when made.
#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::StorageBackend;

use crate::fail;
use crate::redb_store::{RedbOptions, RedbStore};
use crate::settings::Settings;
use crate::store::{Opener, Store, StoreError, StoreErrorKind};

const CHUNK: usize = 1 << 20;

/// A directory that this process has locked.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    options: RedbOptions,
    reserve_bytes: u64,
    /// Held for its lock.
    _lock: File,
}

impl Directory {
    /// Makes the directory if it must, and locks it against other servers.
    ///
    /// # Errors
    /// When it cannot be made or another server has it; the text names the directory and what to do.
    pub fn lock(settings: &Settings) -> Result<Self, StoreError> {
        let path = settings.directory.clone();
        make(&path).map_err(|error| {
            StoreError::io(format!("the journal's directory {} cannot be made: {error}", path.display()))
        })?;
        let lock = private().create(true).truncate(false).open(path.join("journal.lock"));
        let lock = lock.map_err(|error| {
            StoreError::io(format!("the journal's directory {} cannot be used: {error}", path.display()))
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!(
                    "the journal's directory {} is in use by another server: stop that one, or give this one \
                     a directory of its own",
                    path.display()
                );
                return Err(StoreError { kind: StoreErrorKind::Locked, text });
            }
            Err(TryLockError::Error(error)) => {
                let text = format!("the journal's directory {} cannot be locked: {error}", path.display());
                return Err(StoreError::io(text));
            }
        }
        // What a crash left half made.
        for left in ["journal.redb.new", "journal.probe"] {
            let _ = fs::remove_file(path.join(left));
        }
        fail::hit(fail::OPEN_DIRECTORY);
        let options = RedbOptions {
            cache_bytes: settings.cache_bytes,
            quick_repair: settings.quick_repair,
            verify: settings.verify_at_start,
        };
        Ok(Self { path, options, reserve_bytes: settings.reserve_bytes, _lock: lock })
    }

    fn file(&self) -> PathBuf {
        self.path.join("journal.redb")
    }

    /// What is to become the file.
    fn next(&self) -> PathBuf {
        self.path.join("journal.redb.new")
    }

    fn reserve(&self) -> PathBuf {
        self.path.join("journal.reserve")
    }

    fn failed(&self, error: io::Error) -> StoreError {
        let full = error.kind() == io::ErrorKind::StorageFull;
        let kind = if full { StoreErrorKind::Full } else { StoreErrorKind::Io };
        StoreError { kind, text: format!("{} cannot be opened: {error}", self.file().display()) }
    }

    /// A new file comes into being whole: it is made under another name.
    fn make_file(&self) -> Result<(), StoreError> {
        let next = self.next();
        let file = private().create(true).truncate(true).open(&next).map_err(|error| self.failed(error))?;
        RedbStore::make(Box::new(DiskFile { file }))?;
        fail::hit(fail::OPEN_MADE);
        let named = File::open(&next).and_then(|file| file.sync_all());
        let named = named.and_then(|()| fs::rename(next, self.file())).and_then(|()| sync(&self.path));
        named.map_err(|error| self.failed(error))
    }

    /// Copies the file by its bytes, so that what the page cache shows is written to the disk again.
    fn renew(&self) -> io::Result<()> {
        let next = self.next();
        let mut from = File::open(self.file())?;
        let mut to = private().create(true).truncate(true).open(&next)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match from.read(&mut chunk)? {
                0 => break,
                len => to.write_all(&chunk[..len])?,
            }
        }
        to.sync_all()?;
        fail::hit(fail::REOPEN_COPY);
        fs::rename(&next, self.file())?;
        sync(&self.path)
    }
}

impl Opener for Directory {
    fn open(&mut self, after_sync_failure: bool) -> Result<Box<dyn Store>, StoreError> {
        let failed = |error| self.failed(error);
        if after_sync_failure && self.file().exists() {
            self.renew().map_err(failed)?;
        }
        if !self.file().exists() {
            self.make_file()?;
        }
        let file = private().open(self.file()).map_err(failed)?;
        Ok(Box::new(RedbStore::open(Box::new(DiskFile { file }), self.options)?))
    }

    fn release_reserve(&mut self) -> bool {
        self.reserve_bytes > 0 && fs::remove_file(self.reserve()).is_ok()
    }

    fn has_reserve(&mut self) -> bool {
        let whole = |len: u64| len >= self.reserve_bytes;
        if self.reserve_bytes == 0 || fs::metadata(self.reserve()).is_ok_and(|found| whole(found.len())) {
            return true;
        }
        // Room for one reserve is what a full disk has when it was just given up; for two, there is more.
        let probe = self.path.join("journal.probe");
        let made = fill(&self.reserve(), self.reserve_bytes).and_then(|()| fill(&probe, self.reserve_bytes));
        let _ = fs::remove_file(probe);
        if made.is_err() {
            // Half a reserve is room that acks could have.
            let _ = fs::remove_file(self.reserve());
        }
        made.is_ok()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // The entry of a new directory is in its parent, which may be new as well.
    let whole = path.canonicalize()?;
    whole.ancestors().skip(1).try_for_each(|parent| match sync(parent) {
        // A parent that we may not read is not one that we made.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    })
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Written, not only sized: a hole keeps no room.
fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = private().create(true).truncate(true).open(path)?;
    let chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let len = left.min(CHUNK as u64);
        file.write_all(&chunk[..len as usize])?;
        left -= len;
    }
    file.sync_all()
}

/// A plain file. Its lock is the directory's.
#[derive(Debug)]
struct DiskFile {
    file: File,
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
