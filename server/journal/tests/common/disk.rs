//! A disk in memory that remembers every operation, fails when told to, and can be cut off at any moment.
//!
//! After a failed fsync it behaves as Linux file systems do: what was written stays readable, counts as
//! clean, and is not on the disk, whatever later fsyncs say, unless it is written again.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use tickcast_journal::redb_store::{RedbOptions, RedbStore};
use tickcast_journal::store::{Opener, Store, StoreError, StoreErrorKind};

/// One operation, as the disk got it.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen(u64),
    /// A file that was made elsewhere and synced gets its name here: all of it or nothing.
    Install(Arc<[u8]>),
    /// All before it is on the disk.
    Sync,
}

/// Which operation is to fail, counted from now, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: OpKind,
    pub after: u64,
    pub error: io::ErrorKind,
    /// How often it fails from then on.
    pub times: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    Write,
    SetLen,
    Sync,
    Read,
}

#[derive(Debug, Default)]
struct Inner {
    /// What a read sees: the page cache.
    seen: Vec<u8>,
    /// What survives a power cut.
    durable: Vec<u8>,
    /// Since the last good fsync.
    unsynced: Vec<Op>,
    /// Everything, when it is recorded.
    log: Option<Vec<Op>>,
    fault: Option<Fault>,
    failed: u64,
}

/// A disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

pub fn apply(op: &Op, to: &mut Vec<u8>) {
    match op {
        Op::Write { offset, data } => {
            let (from, to_end) = (*offset as usize, *offset as usize + data.len());
            if to.len() < to_end {
                to.resize(to_end, 0);
            }
            to[from..to_end].copy_from_slice(data);
        }
        Op::SetLen(len) => to.resize(*len as usize, 0),
        Op::Install(bytes) => *to = bytes.to_vec(),
        Op::Sync => {}
    }
}

impl Disk {
    pub fn recording() -> Self {
        let disk = Self::default();
        disk.lock().log = Some(Vec::new());
        disk
    }

    pub fn of(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        {
            let mut inner = disk.lock();
            inner.seen = bytes.clone();
            inner.durable = bytes;
        }
        disk
    }

    /// The process was killed and the machine was not: reads see what was written, synced or not.
    pub fn killed(durable: Vec<u8>, unsynced: &[Op]) -> Self {
        let disk = Self::of(durable);
        {
            let mut inner = disk.lock();
            unsynced.iter().for_each(|op| apply(op, &mut inner.seen));
            inner.unsynced = unsynced.to_vec();
        }
        disk
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many operations there were so far.
    pub fn moment(&self) -> usize {
        self.lock().log.as_ref().map_or(0, Vec::len)
    }

    pub fn log(&self) -> Vec<Op> {
        self.lock().log.clone().unwrap_or_default()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.lock().seen.clone()
    }

    /// The power is cut: what was not synced is gone.
    pub fn cut(&self) -> Self {
        Self::of(self.lock().durable.clone())
    }

    pub fn fail(&self, fault: Option<Fault>) {
        let mut inner = self.lock();
        inner.fault = fault;
        inner.failed = 0;
    }

    /// How often the present fault has struck.
    pub fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// The file is written anew, by a copy that is synced: what reads saw is on the disk.
    fn renew(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.strikes(OpKind::Write)?;
        inner.strikes(OpKind::Sync)?;
        inner.durable = inner.seen.clone();
        inner.unsynced.clear();
        Ok(())
    }
}

impl Disk {
    /// A new file is made elsewhere, and moved here.
    fn make(&self) -> Result<(), StoreError> {
        let elsewhere = Self::default();
        let fault = self.lock().fault;
        elsewhere.lock().fault = fault;
        let made = RedbStore::make(Box::new(DiskBackend(elsewhere.clone())));
        let mut inner = self.lock();
        let other = elsewhere.lock();
        inner.fault = other.fault;
        inner.failed += other.failed;
        made?;
        inner.note(Op::Install(other.durable.clone().into()));
        drop(inner);
        DiskBackend(self.clone()).sync_data().map_err(StoreError::io)
    }
}

impl Inner {
    fn strikes(&mut self, kind: OpKind) -> io::Result<()> {
        let Some(fault) = &mut self.fault else { return Ok(()) };
        if fault.kind != kind {
            return Ok(());
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if fault.times == 0 {
            return Ok(());
        }
        fault.times -= 1;
        self.failed += 1;
        Err(io::Error::new(fault.error, "injected"))
    }

    fn note(&mut self, op: Op) {
        apply(&op, &mut self.seen);
        if let Some(log) = &mut self.log {
            log.push(op.clone());
        }
        self.unsynced.push(op);
    }
}

#[derive(Debug)]
pub struct DiskBackend(pub Disk);

impl StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.strikes(OpKind::Read)?;
        let (from, to) = (offset as usize, offset as usize + out.len());
        let found = inner.seen.get(from..to).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.strikes(OpKind::SetLen)?;
        inner.note(Op::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        if let Err(error) = inner.strikes(OpKind::Sync) {
            // Clean from now on, and nowhere.
            inner.unsynced.clear();
            return Err(error);
        }
        let unsynced = std::mem::take(&mut inner.unsynced);
        for op in &unsynced {
            apply(op, &mut inner.durable);
        }
        if let Some(log) = &mut inner.log {
            log.push(Op::Sync);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.strikes(OpKind::Write)?;
        inner.note(Op::Write { offset, data: data.into() });
        Ok(())
    }
}

/// Opens a journal's store on a disk.
#[derive(Clone, Debug)]
pub struct OnDisk {
    pub disk: Disk,
    pub quick_repair: bool,
    pub verify: bool,
    /// Whether a failed fsync is answered with a new file, as it must be.
    pub renews: bool,
    pub cache_bytes: usize,
}

impl OnDisk {
    pub fn new(disk: &Disk) -> Self {
        Self { disk: disk.clone(), quick_repair: false, verify: false, renews: true, cache_bytes: 1 << 20 }
    }
}

impl Opener for OnDisk {
    fn open(&mut self, after_sync_failure: bool) -> Result<Box<dyn Store>, StoreError> {
        if after_sync_failure && self.renews {
            self.disk.renew().map_err(|error| {
                let full = error.kind() == io::ErrorKind::StorageFull;
                let kind = if full { StoreErrorKind::Full } else { StoreErrorKind::Io };
                StoreError { kind, text: error.to_string() }
            })?;
        }
        if self.disk.bytes().is_empty() {
            self.disk.make()?;
        }
        let options = RedbOptions {
            cache_bytes: self.cache_bytes,
            quick_repair: self.quick_repair,
            verify: self.verify,
        };
        Ok(Box::new(RedbStore::open(Box::new(DiskBackend(self.disk.clone())), options)?))
    }
}
