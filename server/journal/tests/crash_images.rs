//! What is on the disk after a power cut, at every moment of a run: every prefix of the operations, with what
//! was not synced kept, lost, kept in part, or torn in 512 or 4,096 byte sectors. A real start is made on each
//! image, and what it finds is compared with what callers had been told by then.
//!
//! `TICKCAST_CRASH_IMAGES` asks for another number of images (10,000 when it is not set).

mod common;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::disk::{Disk, DiskBackend, OnDisk, Op, apply};
use common::*;
use redb::StorageBackend;
use tickcast_journal::redb_store::{RedbOptions, RedbStore};
use tickcast_journal::store::{Opener, Store, StoreError};
use tickcast_journal::{Journal, Outcome, Record};

const NAMES: [&str; 3] = ["all", "ann", "bob"];
const TOPICS: [&str; 3] = ["risk_alert.a", "risk_alert.b", "order.c"];

/// What was said to the journal and by it, with the number of disk operations at that moment.
#[derive(Default)]
struct History {
    registered: usize,
    /// By position.
    records: BTreeMap<u64, Said>,
    /// Acks by recipient and position: when they were given, and by when they were committed.
    acks: BTreeMap<(usize, u64), (usize, usize)>,
}

struct Said {
    draft: tickcast_journal::Draft,
    sequence: u64,
    submitted: usize,
    accepted: usize,
}

/// One run of a journal on a disk that records. `lie`: which fsyncs are only said to have happened.
fn record(seed: u64, rounds: u64, quick_repair: bool, lie: Option<u64>) -> (Vec<Op>, History) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = Disk::recording();
    let opener: Box<dyn Opener> = match lie {
        None => Box::new(OnDisk { quick_repair, ..OnDisk::new(&disk) }),
        Some(every) => {
            let disk = disk.clone();
            Box::new(OpenBy(move |_| open_lying(&disk, every)))
        }
    };
    let (journal, _) = Journal::open_with(settings(), opener, deaf()).expect("opens");
    for name in NAMES {
        register(&journal, name).expect("registered");
    }
    let mut history = History { registered: disk.moment(), ..History::default() };
    let mut id = 0;
    for _ in 0..rounds {
        // A batch of several, and their answers.
        let answers = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..random.u64(1..=4) {
            id += 1;
            let mut audience = vec![NAMES[0]];
            audience.extend(NAMES[1..].iter().filter(|_| random.bool()));
            let mut draft = draft("risk", id, TOPICS[random.usize(0..3)], &audience);
            if random.u8(0..8) == 0 {
                let len = random.usize(3_000..20_000);
                draft.frame = Bytes::from(vec![id as u8; len]);
            }
            let (submitted, answers, disk) = (disk.moment(), Arc::clone(&answers), disk.clone());
            let told = draft.clone();
            let reply = Box::new(move |outcome: Outcome| {
                let answer = (told, submitted, disk.moment(), outcome);
                answers.lock().expect("unpoisoned").push(answer);
            });
            journal.publish(draft, reply);
        }
        settle(&journal);
        for (draft, submitted, accepted, outcome) in answers.lock().expect("unpoisoned").drain(..) {
            let Outcome::Accepted { position, sequence, .. } = outcome else { panic!("{outcome:?}") };
            history.records.insert(position, Said { draft, sequence, submitted, accepted });
        }
        if random.u8(0..3) == 0 {
            let who = random.usize(1..3);
            let waiting = positions(&journal, NAMES[who]);
            let said: Vec<u64> = waiting.into_iter().filter(|_| random.bool()).collect();
            let given = disk.moment();
            journal.ack(NAMES[who].into(), said.clone(), 5_000_000);
            settle(&journal);
            let committed = disk.moment();
            history.acks.extend(said.into_iter().map(|position| ((who, position), (given, committed))));
        }
    }
    journal.close();
    (disk.log(), history)
}

/// A disk that says yes to every `every`-th fsync and does nothing.
#[derive(Debug)]
struct LyingBackend(DiskBackend, std::sync::atomic::AtomicU64, u64);

impl StorageBackend for LyingBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        let count = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        if count.is_multiple_of(self.2) { Ok(()) } else { self.0.sync_data() }
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn open_lying(disk: &Disk, every: u64) -> Result<Box<dyn Store>, StoreError> {
    let options = RedbOptions { cache_bytes: 1 << 20, quick_repair: false, verify: false };
    let backend = LyingBackend(DiskBackend(disk.clone()), std::sync::atomic::AtomicU64::new(0), every);
    Ok(Box::new(RedbStore::open(Box::new(backend), options)?))
}

/// What is left of operations that were not synced.
fn remains(unsynced: &[Op], variant: u64, random: &mut fastrand::Rng, to: &mut Vec<u8>) {
    let sector = if random.bool() { 512 } else { 4_096 };
    for (at, op) in unsynced.iter().enumerate() {
        match variant {
            1 => {}
            // All but one.
            2 if at as u64 == random.u64(0..unsynced.len() as u64) => {}
            2 => apply(op, to),
            // Any of them, whole.
            3..=5 => {
                if random.bool() {
                    apply(op, to);
                }
            }
            // Any sectors of them.
            _ => match op {
                Op::Write { offset, data } => {
                    for (sector_at, bytes) in data.chunks(sector).enumerate() {
                        if random.u8(0..4) > 0 {
                            let offset = offset + (sector_at * sector) as u64;
                            apply(&Op::Write { offset, data: bytes.into() }, to);
                        }
                    }
                }
                // A name in a directory is there or not, and the file was synced before.
                op if random.bool() => apply(op, to),
                _ => {}
            },
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    images: u64,
    accepted: u64,
    recovered: u64,
    lost: u64,
    phantom: u64,
    misordered: u64,
    /// Acks that were committed and are forgotten, or were never given and are there.
    acks_wrong: u64,
    /// Starts that failed.
    unopened: u64,
    /// Starts whose findings did not survive the next power cut.
    lost_again: u64,
}

impl Counts {
    fn faults(&self) -> u64 {
        self.lost + self.phantom + self.misordered + self.acks_wrong + self.unopened + self.lost_again
    }
}

/// Starts a journal on an image taken after `moment` operations and compares.
fn check(disk: &Disk, moment: usize, history: &History, verify: bool, killed: bool, counts: &mut Counts) {
    counts.images += 1;
    // Not each time the way it was written with: a setting may change between two starts.
    let opener = OnDisk { verify, quick_repair: moment.is_multiple_of(2), ..OnDisk::new(disk) };
    let opened = catch_unwind(AssertUnwindSafe(|| Journal::open_with(settings(), Box::new(opener), deaf())));
    let Ok(Ok((journal, recovered))) = opened else {
        counts.unopened += 1;
        return;
    };
    let by_name = NAMES.map(|name| pending(&journal, name));
    let again = disk.cut();
    journal.close();
    let [Ok(all), Ok(ann), Ok(bob)] = by_name else {
        counts.unopened += 1;
        return;
    };
    // What a start has told of survives the next power cut: a duplicate may be answered at once.
    if counts.images.is_multiple_of(4) || killed {
        let opened = Journal::open_with(settings(), Box::new(OnDisk::new(&again)), deaf());
        let same = opened.is_ok_and(|(journal, again)| {
            let same = pending(&journal, NAMES[0]).is_ok_and(|found| found == all);
            journal.close();
            same && again == recovered
        });
        counts.lost_again += u64::from(!same);
    }
    let must: Vec<_> = history.records.iter().filter(|(_, said)| said.accepted <= moment).collect();
    counts.accepted += must.len() as u64;
    counts.recovered += all.len() as u64;
    let found: BTreeMap<u64, &Record> = all.iter().map(|record| (record.position, record)).collect();
    counts.lost += must.iter().filter(|(position, _)| !found.contains_key(position)).count() as u64;
    for record in &all {
        let same = history.records.get(&record.position).is_some_and(|said| {
            said.submitted <= moment
                && said.sequence == record.sequence
                && said.draft.hash == record.hash
                && said.draft.frame == record.frame
                && said.draft.topic == record.topic
        });
        counts.phantom += u64::from(!same);
    }
    // Positions and sequences from 1 without holes, and the heads just behind them.
    let holes = all.iter().zip(1..).filter(|(record, position)| record.position != *position).count();
    counts.misordered += holes as u64 + u64::from(recovered.position != all.len() as u64);
    for (topic, last) in &recovered.topics {
        let of_topic = all.iter().filter(|record| record.topic == *topic);
        let sequences: Vec<u64> = of_topic.map(|record| record.sequence).collect();
        counts.misordered += u64::from(sequences != (1..=*last).collect::<Vec<_>>());
    }
    if moment >= history.registered {
        counts.lost += NAMES.len() as u64 - recovered.recipients.len() as u64;
    }
    for (who, waiting) in [(1, ann), (2, bob)] {
        let waiting: Vec<u64> = waiting.iter().map(|record| record.position).collect();
        for (position, said) in history.records.range(..=recovered.position) {
            let wanted = said.draft.audience.iter().any(|name| **name == *NAMES[who]);
            let waits = waiting.contains(position);
            let wrong = match history.acks.get(&(who, *position)) {
                _ if !wanted => waits,
                None => !waits,
                Some((given, _)) if *given > moment => !waits,
                Some((_, committed)) if *committed <= moment => waits,
                Some(_) => false,
            };
            counts.acks_wrong += u64::from(wrong);
        }
    }
}

fn enumerate(log: &[Op], history: &History, variants: u64, seed: u64, counts: &mut Counts) {
    hush_redb();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut durable = Vec::new();
    let mut synced = 0;
    for moment in 0..=log.len() {
        if moment > 0 && matches!(log[moment - 1], Op::Sync) {
            log[synced..moment].iter().for_each(|op| apply(op, &mut durable));
            synced = moment;
        }
        let unsynced = &log[synced..moment];
        // Nothing to lose: one image is all there is.
        let variants = if unsynced.is_empty() { 1 } else { variants };
        for variant in 0..variants {
            // What a kill leaves is what no power cut lost, and is not on the disk yet.
            let killed = variant == 0;
            let disk = if killed {
                Disk::killed(durable.clone(), unsynced)
            } else {
                let mut image = durable.clone();
                remains(unsynced, variant, &mut random, &mut image);
                Disk::of(image)
            };
            check(&disk, moment, history, variant % 4 == 3, killed, counts);
        }
    }
}

fn wanted() -> u64 {
    let asked = std::env::var("TICKCAST_CRASH_IMAGES").ok();
    asked.map_or(10_000, |asked| asked.parse().expect("TICKCAST_CRASH_IMAGES is a number"))
}

#[test]
fn nothing_accepted_is_lost_in_any_image() {
    let mut counts = Counts::default();
    let mut seed = 1;
    while counts.images < wanted() {
        // Both ways to commit.
        let (log, history) = record(seed, 12, seed % 2 == 0, None);
        enumerate(&log, &history, 14, seed, &mut counts);
        seed += 1;
    }
    let Counts { images, accepted, recovered, lost, phantom, misordered, .. } = counts;
    println!(
        "images={images}, accepted={accepted}, recovered={recovered}, lost={lost}, phantom={phantom}, \
         misordered={misordered}"
    );
    assert_eq!(counts.faults(), 0, "{counts:?}");
    assert!(accepted > images, "the images are worth looking at");
}

#[test]
fn the_checker_finds_a_journal_that_replies_before_the_fsync() {
    for every in [1, 2, 7] {
        let mut counts = Counts::default();
        let (log, history) = record(3, 12, false, Some(every));
        enumerate(&log, &history, 8, 3, &mut counts);
        println!("every {every}: {counts:?}");
        assert!(counts.lost > 0, "every {every}: {counts:?}");
    }
}

#[test]
fn the_checker_finds_phantoms_wrong_order_and_invented_acks() {
    let (log, mut history) = record(5, 6, false, None);
    // A record that nobody submitted yet, one under another's number, and an ack that was never given.
    let last = *history.records.keys().last().expect("some");
    history.records.get_mut(&last).expect("there").submitted = usize::MAX;
    history.records.get_mut(&1).expect("there").sequence += 1;
    for (given, committed) in history.acks.values_mut() {
        (*given, *committed) = (usize::MAX, usize::MAX);
    }
    let mut counts = Counts::default();
    enumerate(&log, &history, 1, 5, &mut counts);
    assert!(counts.phantom > 1 && counts.acks_wrong > 0, "{counts:?}");
}
