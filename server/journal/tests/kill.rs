//! The process is killed at every failpoint, also while it recovers from having been killed, and what callers
//! had been told by then is compared with what is there afterwards.
//!
//! No harness: the program runs itself as its own victim. A victim says on standard output what it submits and
//! what is accepted, one line each, before it goes on.
//!
//! `TICKCAST_KILLS` is how often each failpoint is used (12 when it is not set), each time at a later hit.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::*;
use tickcast_journal::directory::Directory;
use tickcast_journal::store::{Opener, Reading, Store, StoreError, StoreErrorKind, Writing};
use tickcast_journal::{Journal, Outcome, Settings, fail};

fn settings_of(directory: &Path) -> Settings {
    Settings {
        directory: directory.to_owned(),
        reserve_bytes: 0,
        retention: 40,
        ids_min: 0,
        id_age_min: 40,
        ..settings()
    }
}

/// The real directory, and a disk that fails now and then, so that reopening is reached.
struct Failing(Directory, Arc<Mutex<u64>>);

struct FailingStore(Box<dyn Store>, Arc<Mutex<u64>>);

impl Opener for Failing {
    fn open(&mut self, after_sync_failure: bool) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(FailingStore(self.0.open(after_sync_failure)?, Arc::clone(&self.1))))
    }
}

impl Store for FailingStore {
    fn write(&mut self, work: Writing<'_>) -> Result<(), StoreError> {
        let mut commits = self.1.lock().expect("unpoisoned");
        *commits += 1;
        if *commits % 9 == 5 {
            let kind = StoreErrorKind::Sync { full: false };
            return Err(StoreError { kind, text: "made to fail".to_owned() });
        }
        self.0.write(work)
    }

    fn read(&self, work: Reading<'_>) -> Result<(), StoreError> {
        self.0.read(work)
    }
}

fn say(line: String) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// Publishes, acks, expires, revokes and forgets, from the id after `from` on.
fn victim(directory: &Path, from: u64) {
    let settings = settings_of(directory);
    let opener = Failing(Directory::lock(&settings).expect("alone"), Arc::default());
    let (journal, _) = Journal::open_with(settings, Box::new(opener), deaf()).expect("opens");
    for name in ["keeps", "acks", "revoked"] {
        while register(&journal, name).is_err() {}
    }
    for id in from + 1..=from + 40 {
        let mut message = draft("risk", id, "a", &["keeps", "acks", "revoked"]);
        message.accepted_at = id as i64;
        say(format!("submitted {id}"));
        let outcome = loop {
            match publish(&journal, message.clone()) {
                Outcome::NotDurable { .. } => std::thread::yield_now(),
                outcome => break outcome,
            }
        };
        let position = match outcome {
            Outcome::Accepted { position, .. } | Outcome::Duplicate { position, .. } => position,
            other => panic!("{other:?}"),
        };
        say(format!("accepted {id} {position}"));
        if id % 3 == 0 {
            say(format!("acking {position}"));
            journal.ack("acks".into(), vec![position], id as i64);
        }
        if id % 10 == 0 {
            let _ = wait(|reply| journal.revoke("revoked".into(), id as i64, reply));
            journal.expire(id as i64);
        }
    }
    journal.close();
    say("done".to_owned());
}

#[derive(Default)]
struct Heard {
    submitted: BTreeSet<u64>,
    /// Position by id.
    accepted: BTreeMap<u64, u64>,
    acking: BTreeSet<u64>,
}

/// Runs a victim; true when it was killed.
fn run(directory: &Path, heard: &mut Heard, failpoint: Option<(&str, u64)>) -> bool {
    let from = heard.submitted.last().copied().unwrap_or(0);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("victim").arg(directory).arg(from.to_string()).stdout(Stdio::piped());
    match failpoint {
        Some((name, count)) => command.env("TICKCAST_FAILPOINT", format!("{name}:{count}")),
        None => command.env_remove("TICKCAST_FAILPOINT"),
    };
    let output = command.output().expect("runs");
    let mut done = false;
    for line in String::from_utf8(output.stdout).expect("text").lines() {
        let mut words = line.split(' ');
        let kind = words.next();
        let mut number = || words.next().expect("a number").parse::<u64>().expect("a number");
        match kind {
            Some("submitted") => _ = heard.submitted.insert(number()),
            Some("accepted") => _ = heard.accepted.insert(number(), number()),
            Some("acking") => _ = heard.acking.insert(number()),
            _ => done = true,
        }
    }
    let killed = !output.status.success();
    assert!(killed != done, "a victim ends or is killed: {}", String::from_utf8_lossy(&output.stderr));
    if killed {
        use std::os::unix::process::ExitStatusExt;
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(9), "killed, not failed: {told}");
    }
    killed
}

fn verify(directory: &Path, heard: &Heard) {
    let (journal, recovered) = Journal::open(settings_of(directory), deaf()).expect("opens");
    let kept = pending(&journal, "keeps").expect("answered");
    let acks = positions(&journal, "acks");
    journal.close();
    assert_eq!(recovered.position, kept.len() as u64);
    let found: BTreeMap<u64, u64> = kept
        .iter()
        .map(|record| (u64::from_be_bytes(record.id[..].try_into().expect("an id")), record.position))
        .collect();
    assert_eq!(found.len(), kept.len(), "each once");
    for (id, position) in &heard.accepted {
        assert_eq!(found.get(id), Some(position), "{id} was accepted");
    }
    for (id, position) in &found {
        assert!(heard.submitted.contains(id), "{id} is a phantom");
        assert!(acks.contains(position) || heard.acking.contains(position), "an ack was invented");
    }
    assert!(kept.iter().zip(1..).all(|(record, number)| record.sequence == number), "no holes");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, directory, from] = &arguments[..]
        && word == "victim"
    {
        return victim(Path::new(directory), from.parse().expect("a number"));
    }
    let times = std::env::var("TICKCAST_KILLS").ok();
    let times: u64 = times.map_or(12, |times| times.parse().expect("TICKCAST_KILLS is a number"));
    let (mut kills, mut recoveries, mut accepted) = (0, 0, 0);
    for name in fail::ALL {
        let directory = tempfile::tempdir().expect("a directory");
        let mut heard = Heard::default();
        let mut reached = 0;
        for time in 1..=times {
            // Later hits each time, and the places of a start that happen once.
            let count = if name.starts_with("open") { 1 + (time - 1) % 2 } else { 1 + time * time % 37 };
            if run(directory.path(), &mut heard, Some((name, count))) {
                reached += 1;
                // A recovery is killed as well.
                let places = ["open_file", "open_state", "file_write", "file_before_sync", "file_set_len"];
                let place = places[time as usize % places.len()];
                recoveries += u64::from(run(directory.path(), &mut heard, Some((place, 1 + time % 3))));
            }
            verify(directory.path(), &heard);
        }
        assert!(reached > 0, "{name} is never reached");
        kills += reached;
        accepted += heard.accepted.len();
    }
    println!(
        "failpoints={}, kills={kills}, recoveries killed={recoveries}, accepted={accepted}, lost=0, phantom=0, misordered=0",
        fail::ALL.len()
    );
}
