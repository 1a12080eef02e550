//! Opening a journal: alone, of the right version, and of what was written.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::disk::{Disk, OnDisk};
use common::*;
use tickcast_journal::directory::Directory;
use tickcast_journal::store::{Opener, StoreErrorKind, Table};
use tickcast_journal::{Journal, Record, Settings, Unavailable};

fn real(directory: &tempfile::TempDir) -> Settings {
    Settings { directory: directory.path().join("deep/journal"), reserve_bytes: 1 << 16, ..settings() }
}

#[test]
fn a_second_server_on_a_directory_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = Journal::open(real(&directory), deaf()).expect("opens");
    let error = Journal::open(real(&directory), deaf()).expect_err("in use");
    assert_eq!(error.kind, StoreErrorKind::Locked);
    assert!(error.text.contains("deep/journal is in use by another server: stop that one"), "{error}");
    publish(&journal, draft("risk", 1, "a", &[]));
    journal.close();
    let (_, recovered) = Journal::open(real(&directory), deaf()).expect("free again");
    assert_eq!(recovered.position, 1);
}

#[test]
fn files_are_the_owners_alone_and_the_reserve_is_really_there() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = Journal::open(real(&directory), deaf()).expect("opens");
    journal.close();
    let path = real(&directory).directory;
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in ["journal.redb", "journal.lock", "journal.reserve"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
    let reserve = fs::metadata(path.join("journal.reserve")).expect("there");
    assert_eq!(reserve.len(), 1 << 16);
    assert!(reserve.blocks() * 512 >= 1 << 16, "not a hole");
    assert!(!path.join("journal.probe").exists());
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let (journal, _) = Journal::open(real(&directory), deaf()).expect("opens");
    journal.close();
    let mut file = Directory::lock(&real(&directory)).expect("free");
    let mut store = file.open(false).expect("opens");
    store.write(&mut |tables| tables.put(Table::Meta, b"format", &2_u64.to_be_bytes())).expect("written");
    drop((store, file));
    let error = Journal::open(real(&directory), deaf()).expect_err("newer");
    assert_eq!(error.kind, StoreErrorKind::Newer);
    assert!(error.text.contains("written in format 2 and this server reads format 1"), "{error}");
    let mut file = Directory::lock(&real(&directory)).expect("free");
    let store = file.open(false).expect("opens");
    let read = store.read(&mut |tables| {
        assert_eq!(tables.get(Table::Meta, b"format")?, Some(2_u64.to_be_bytes().to_vec()), "as it was");
        Ok(())
    });
    read.expect("read");
}

#[test]
fn what_is_no_journal_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = real(&directory).directory;
    fs::create_dir_all(&path).expect("made");
    fs::write(path.join("journal.redb"), vec![7; 100_000]).expect("written");
    let error = Journal::open(real(&directory), deaf()).expect_err("no journal");
    assert!(matches!(error.kind, StoreErrorKind::Damaged { .. }), "{error:?}");
}

/// What a reader gets of a journal, everything that can be asked.
type Contents = (Vec<Record>, Vec<Record>, Vec<String>);

fn contents(journal: &Journal) -> Result<Contents, Unavailable> {
    let recipients = wait(|reply| journal.recipients(reply))?;
    let mut seen = vec![format!("{recipients:?}")];
    for id in 1..=60 {
        seen.push(format!("{:?}", status(journal, "risk", id)?));
    }
    seen.push(format!("{:?}", wait(|reply| journal.waiting("ann".into(), reply))?));
    seen.push(format!("{:?}", wait(|reply| journal.waiting("bob".into(), reply))?));
    Ok((pending(journal, "ann")?, pending(journal, "bob")?, seen))
}

fn written() -> (Vec<u8>, Contents) {
    let disk = Disk::default();
    let (journal, _) = Journal::open_with(settings(), Box::new(OnDisk::new(&disk)), deaf()).expect("opens");
    for name in ["ann", "bob"] {
        register(&journal, name).expect("registered");
    }
    for id in 1..=60 {
        publish(&journal, draft("risk", id, ["a", "b"][id as usize % 2], &["ann", "bob"]));
    }
    journal.ack("bob".into(), (1..=50).collect(), 7);
    let contents = contents(&journal).expect("answered");
    journal.close();
    (disk.bytes(), contents)
}

/// Flips every `step`-th bit, one at a time; how many starts were refused, how many answers were, how many
/// flips changed nothing, and how many gave a wrong answer without a word.
fn flip(step: usize, verify: bool) -> [usize; 4] {
    let (bytes, expected) = written();
    let mut counts = [0; 4];
    hush_redb();
    for bit in (0..bytes.len() * 8).step_by(step) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let opener = OnDisk { verify, ..OnDisk::new(&Disk::of(flipped)) };
        let opened =
            catch_unwind(AssertUnwindSafe(|| Journal::open_with(settings(), Box::new(opener), deaf())));
        let Ok(Ok((journal, _))) = opened else {
            counts[0] += 1;
            continue;
        };
        match contents(&journal) {
            Err(_) => counts[1] += 1,
            Ok(found) if found == expected => counts[2] += 1,
            Ok(_) => counts[3] += 1,
        }
        journal.close();
    }
    counts
}

#[test]
fn a_flipped_bit_is_never_a_wrong_answer_when_pages_are_verified() {
    let [refused, unanswered, harmless, wrong] = flip(997, true);
    println!("verified: refused={refused}, unanswered={unanswered}, harmless={harmless}, wrong={wrong}");
    assert_eq!(wrong, 0);
    assert!(refused + unanswered > 0);
}

#[test]
fn a_flipped_bit_of_a_record_is_found_also_when_pages_are_not_verified() {
    let [refused, unanswered, harmless, wrong] = flip(997, false);
    println!("not verified: refused={refused}, unanswered={unanswered}, harmless={harmless}, wrong={wrong}");
    // What is left are rows of the indices: the limit that ADR 6 states.
    assert!(unanswered > 0);
}
