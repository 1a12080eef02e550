//! Errors of the disk at every n-th operation: nothing accepted is lost, nothing is delivered twice, and the
//! journal comes back by itself.

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use common::disk::{Disk, Fault, OnDisk, OpKind};
use common::*;
use tickcast_journal::store::{Opener, Store, StoreError, StoreErrorKind};
use tickcast_journal::{Committed, Journal, Outcome, Unavailable};

/// How a run with a fault ended.
struct Ended {
    disk: Disk,
    struck: u64,
    /// Answers other than not durable, by id.
    answers: BTreeMap<u64, Outcome>,
    told: Vec<Committed>,
    acked: Vec<u64>,
}

/// Waits for what must come, and gives up when it does not: a count of turns, not a time.
struct Patience(u64);

impl Patience {
    fn new() -> Self {
        Self(1_000_000)
    }

    fn lose(&mut self) {
        self.0 -= 1;
        assert!(self.0 > 0, "the journal does not come back");
        std::thread::yield_now();
    }
}

/// Publishes 24 messages, each until it is accepted, and acks every third, with a fault on the way.
fn run(fault: Fault, renews: bool, quick_repair: bool) -> Option<Ended> {
    let disk = Disk::default();
    let (told, sink) = sink();
    // Without a cache, so that there are reads to fail.
    let cache_bytes = if fault.kind == OpKind::Read { 0 } else { 1 << 20 };
    let opener = OnDisk { renews, cache_bytes, quick_repair, ..OnDisk::new(&disk) };
    disk.fail(Some(fault));
    let opened = Journal::open_with(settings(), Box::new(opener), sink);
    let Ok((journal, _)) = opened else {
        assert!(disk.failed() > 0, "a start fails only for a reason");
        return None;
    };
    let mut patience = Patience::new();
    while register(&journal, "ann").is_err() {
        patience.lose();
    }
    let mut answers = BTreeMap::new();
    let mut acked = Vec::new();
    for id in 1..=24 {
        let outcome = loop {
            match publish(&journal, draft("risk", id, "a", &["ann"])) {
                Outcome::NotDurable { .. } => patience.lose(),
                outcome => break outcome,
            }
        };
        if id % 3 == 0 {
            let position = match outcome {
                Outcome::Accepted { position, .. } | Outcome::Duplicate { position, .. } => position,
                ref other => panic!("{other:?}"),
            };
            journal.ack("ann".into(), vec![position], 9_000);
            acked.push(position);
        }
        answers.insert(id, outcome);
    }
    while wait(|reply| journal.recipients(reply)).is_err() || pending(&journal, "ann").is_err() {
        patience.lose();
    }
    let struck = disk.failed();
    disk.fail(None);
    settle(&journal);
    let health = journal.health();
    assert!(health.is_ok(), "{health:?}");
    assert!(struck > 0 || health.failures == 0, "{health:?}");
    // A read that fails while the file is opened again is a retry, not another failure.
    assert!(struck == 0 || health.failures > 0 || fault.kind == OpKind::Read, "{health:?}");
    let cut = disk.cut();
    journal.close();
    let told = told.lock().expect("unpoisoned").clone();
    Some(Ended { disk: cut, struck, answers, told, acked })
}

/// Whether a run kept its promises, in words if not.
fn judge(ended: &Ended) -> Result<(), String> {
    let (journal, recovered) =
        Journal::open_with(settings(), Box::new(OnDisk::new(&ended.disk)), deaf()).map_err(|e| e.text)?;
    let found = pending(&journal, "ann").map_err(|error| error.to_string())?;
    journal.close();
    if recovered.position != 24 {
        return Err(format!("24 messages are at {} positions", recovered.position));
    }
    for (id, outcome) in &ended.answers {
        let (Outcome::Accepted { position, .. } | Outcome::Duplicate { position, .. }) = outcome else {
            return Err(format!("{id} ended as {outcome:?}"));
        };
        let waits = found
            .iter()
            .any(|record| record.position == *position && record.hash == draft("risk", *id, "a", &[]).hash);
        if waits == ended.acked.contains(position) {
            return Err(format!("{id} at {position} waits: {waits}"));
        }
        let told = ended.told.iter().filter(|told| told.record.id == id.to_be_bytes()).count();
        if told != 1 {
            return Err(format!("{id} was delivered {told} times"));
        }
    }
    let positions: Vec<u64> = ended.told.iter().map(|told| told.record.position).collect();
    if positions != (1..=24).collect::<Vec<_>>() {
        return Err(format!("delivered in the order {positions:?}"));
    }
    Ok(())
}

/// Every `step`-th place where a fault can strike, until the run is over before it does.
fn everywhere(kind: OpKind, error: ErrorKind, times: u64, step: usize) -> (u64, u64) {
    let (mut runs, mut late) = (0, 0);
    for after in (0..).step_by(step) {
        // As it is by default, and the other way to commit as well.
        let quick_repair = times < 3;
        let Some(ended) = run(Fault { kind, after, error, times }, true, quick_repair) else { continue };
        if let Err(fault) = judge(&ended) {
            panic!("{kind:?} {error:?} x{times} after {after}: {fault}");
        }
        if ended.struck == 0 {
            break;
        }
        runs += 1;
        late += ended.told.iter().filter(|told| told.late).count() as u64;
    }
    println!("{kind:?} {error:?} x{times}: {runs} places, {late} records delivered late");
    (runs, late)
}

#[test]
fn a_failed_write_loses_nothing_wherever_it_is() {
    for (error, times) in [(ErrorKind::StorageFull, 1), (ErrorKind::Other, 1), (ErrorKind::Other, 3)] {
        let (runs, _) = everywhere(OpKind::Write, error, times, 1);
        assert!(runs > 50, "{runs}");
    }
}

#[test]
fn a_failed_fsync_loses_nothing_wherever_it_is() {
    let mut delivered_late = 0;
    for (error, times) in [(ErrorKind::StorageFull, 1), (ErrorKind::Other, 1), (ErrorKind::Other, 3)] {
        let (runs, late) = everywhere(OpKind::Sync, error, times, 1);
        assert!(runs > 20, "{runs}");
        delivered_late += late;
    }
    assert!(delivered_late > 0, "a batch whose fsync failed turns up in the file that is opened again");
}

#[test]
fn a_failed_change_of_length_or_read_loses_nothing_wherever_it_is() {
    everywhere(OpKind::SetLen, ErrorKind::StorageFull, 1, 1);
    everywhere(OpKind::SetLen, ErrorKind::Other, 2, 1);
    let (runs, _) = everywhere(OpKind::Read, ErrorKind::Other, 1, 7);
    assert!(runs > 20, "{runs}");
}

#[test]
fn a_journal_that_trusts_the_page_cache_after_a_failed_fsync_is_found_out() {
    let mut faults = 0;
    for after in 0..40 {
        let fault = Fault { kind: OpKind::Sync, after, error: ErrorKind::Other, times: 1 };
        // One fsync a commit: with two, the one that failed is made up for by the next commit in this run.
        let ended = run(fault, false, false);
        faults += u64::from(ended.is_some_and(|ended| judge(&ended).is_err()));
    }
    assert!(faults > 0, "without a new file something accepted is lost");
}

/// A store whose commit after the one at `at` happens and says that it did not, and whose next opening shows
/// something else.
struct Odd {
    inner: Box<dyn Store>,
    commits: Arc<Mutex<u64>>,
    at: u64,
}

impl Store for Odd {
    fn write(&mut self, work: tickcast_journal::store::Writing<'_>) -> Result<(), StoreError> {
        let mut commits = self.commits.lock().expect("unpoisoned");
        *commits += 1;
        if *commits == self.at {
            return Err(StoreError { kind: StoreErrorKind::Io, text: "odd".to_owned() });
        }
        self.inner.write(work)
    }

    fn read(&self, work: tickcast_journal::store::Reading<'_>) -> Result<(), StoreError> {
        self.inner.read(work)
    }
}

#[test]
fn a_file_that_is_not_as_remembered_is_not_written_to() {
    // Another disk is there when the file is opened again: an older state of the same journal.
    let (disk, commits) = (Disk::default(), Arc::new(Mutex::new(0)));
    let older = Arc::new(Mutex::new(None::<Disk>));
    let (present, swap) = (disk.clone(), Arc::clone(&older));
    let opener = OpenBy(move |after_sync| {
        let disk = swap.lock().expect("unpoisoned").clone().unwrap_or_else(|| present.clone());
        let inner = OnDisk::new(&disk).open(after_sync)?;
        Ok(Box::new(Odd { inner, commits: Arc::clone(&commits), at: 5 }) as Box<dyn Store>)
    });
    let (journal, _) = Journal::open_with(settings(), Box::new(opener), deaf()).expect("opens");
    register(&journal, "ann").expect("registered");
    publish(&journal, draft("risk", 1, "a", &["ann"]));
    *older.lock().expect("unpoisoned") = Some(disk.cut());
    publish(&journal, draft("risk", 2, "a", &["ann"]));
    let outcome = publish(&journal, draft("risk", 3, "a", &["ann"]));
    assert!(matches!(outcome, Outcome::NotDurable { .. }), "{outcome:?}");
    let mut patience = Patience::new();
    while journal.health().trouble.is_none_or(|trouble| trouble.retries < 3) {
        patience.lose();
    }
    let trouble = journal.health().trouble.expect("in trouble");
    assert!(trouble.reason.contains("neither before nor after"), "{}", trouble.reason);
    assert!(matches!(pending(&journal, "ann"), Err(Unavailable::Failed(_))));
    *older.lock().expect("unpoisoned") = None;
    while !journal.health().is_ok() {
        patience.lose();
    }
    assert_eq!(position(&publish(&journal, draft("risk", 3, "a", &["ann"]))), 3);
    assert_eq!(positions(&journal, "ann"), [1, 2, 3]);
}

/// An opener with a reserve that can be given up and got back.
struct Reserved {
    inner: OnDisk,
    room: Arc<Mutex<(bool, bool)>>,
}

impl Opener for Reserved {
    fn open(&mut self, after_sync_failure: bool) -> Result<Box<dyn Store>, StoreError> {
        self.inner.open(after_sync_failure)
    }

    fn release_reserve(&mut self) -> bool {
        let mut room = self.room.lock().expect("unpoisoned");
        std::mem::take(&mut room.0)
    }

    fn has_reserve(&mut self) -> bool {
        let mut room = self.room.lock().expect("unpoisoned");
        room.0 |= room.1;
        room.0
    }
}

#[test]
fn a_full_disk_takes_acks_and_answers_questions_and_refuses_messages_until_there_is_room() {
    let disk = Disk::default();
    let room = Arc::new(Mutex::new((true, false)));
    let opener = Reserved { inner: OnDisk::new(&disk), room: Arc::clone(&room) };
    let (journal, _) = Journal::open_with(settings(), Box::new(opener), deaf()).expect("opens");
    register(&journal, "ann").expect("registered");
    for id in 1..=3 {
        publish(&journal, draft("risk", id, "a", &["ann"]));
    }
    let full = Fault { kind: OpKind::Write, after: 2, error: ErrorKind::StorageFull, times: 1 };
    disk.fail(Some(full));
    let outcome = publish(&journal, draft("risk", 4, "a", &["ann"]));
    assert!(matches!(outcome, Outcome::NotDurable { .. }), "{outcome:?}");
    let mut patience = Patience::new();
    while !journal.health().trouble.expect("full").full {
        patience.lose();
    }
    journal.ack("ann".into(), vec![2], 0);
    assert_eq!(positions(&journal, "ann"), [1, 3], "acks fit");
    let outcome = publish(&journal, draft("risk", 4, "a", &["ann"]));
    assert!(matches!(outcome, Outcome::NotDurable { .. }), "{outcome:?}");
    room.lock().expect("unpoisoned").1 = true;
    while !journal.health().is_ok() {
        patience.lose();
    }
    assert_eq!(position(&publish(&journal, draft("risk", 4, "a", &["ann"]))), 4);
}
