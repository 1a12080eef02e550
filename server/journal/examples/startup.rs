//! How long a start takes after an unclean end, at 1 GiB of records.
//!
//! `cargo run --release -p tickcast-journal --example startup -- [directory] [GiB] [quick] [record bytes]`
//!
//! Fills a journal, then copies its file while it is open, which is what a kill leaves, and one after it was closed.
//! Each copy is opened with a page cache that holds it, and again after `sync` and a drop of the page cache when
//! that is permitted.

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

use bytes::Bytes;
use tickcast_journal::{Draft, Journal, Outcome, Settings};

fn settings(directory: &Path, quick_repair: bool, verify_at_start: bool) -> Settings {
    // The reserve is made at the first start only.
    let reserve_bytes = 0;
    let base = Settings::new(directory);
    Settings { quick_repair, verify_at_start, reserve_bytes, spill_max: u32::MAX, ids_min: u64::MAX, ..base }
}

fn fill(directory: &Path, gib: f64, bytes: usize, quick_repair: bool, unclean: &Path) {
    let (journal, _) =
        Journal::open(settings(directory, quick_repair, false), Box::new(|_| {})).expect("opens");
    let (sender, answers) = channel::<()>();
    let registered = sender.clone();
    let reply = Box::new(move |answer: Result<_, _>| {
        answer.expect("registered");
        registered.send(()).expect("awaited");
    });
    journal.register("desk".into(), reply);
    answers.recv().expect("answered");
    let count = (gib * 1_073_741_824.0 / bytes as f64) as u64;
    let start = Instant::now();
    let mut open = 0;
    for id in 0..count {
        let sender = sender.clone();
        let draft = Draft {
            publisher: "load".into(),
            id: id.to_be_bytes().to_vec(),
            hash: [id as u8; 32],
            topic: format!("risk_alert.{}", id % 100).into(),
            frame: Bytes::from(vec![id as u8; bytes]),
            accepted_at: 0,
            expires_at: None,
            collapse_key: None,
            audience: vec!["desk".into()],
        };
        let reply = Box::new(move |outcome| {
            assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
            sender.send(()).expect("awaited");
        });
        journal.publish(draft, reply);
        open += 1;
        while open >= 4_096 {
            answers.recv().expect("answered");
            open -= 1;
        }
    }
    (0..open).for_each(|_| answers.recv().expect("answered"));
    println!("{count} records of {bytes} bytes in {:.1} s", start.elapsed().as_secs_f64());
    fs::create_dir_all(unclean).expect("made");
    fs::copy(directory.join("journal.redb"), unclean.join("journal.redb")).expect("copied");
    journal.close();
    let len = fs::metadata(directory.join("journal.redb")).expect("there").len();
    println!("the file has {:.2} GiB", len as f64 / 1_073_741_824.0);
}

fn drop_page_cache() -> bool {
    let synced = std::process::Command::new("sync").status().is_ok_and(|status| status.success());
    synced && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

fn open(what: &str, directory: &Path, quick_repair: bool, verify: bool) {
    let start = Instant::now();
    let (journal, recovered) =
        Journal::open(settings(directory, quick_repair, verify), Box::new(|_| {})).expect("opens");
    let opened = start.elapsed();
    let (sender, answer) = channel();
    let reply = Box::new(move |records: Result<Vec<_>, _>| {
        sender.send(records.expect("answered").len()).expect("awaited");
    });
    journal.pending("desk".into(), 0, 32, reply);
    let first = answer.recv().expect("answered");
    println!(
        "{what:<40} opened in {:.2} s, first {first} of {} in {:.2} s",
        opened.as_secs_f64(),
        recovered.position,
        start.elapsed().as_secs_f64()
    );
    journal.close();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parent = arguments.first().cloned().unwrap_or_else(|| ".".to_owned());
    let gib = arguments.get(1).map_or(1.0, |gib| gib.parse().expect("GiB"));
    let quick = arguments.get(2).is_some_and(|word| word == "quick");
    let bytes = arguments.get(3).map_or(1_024, |bytes| bytes.parse().expect("bytes"));
    let directory = tempfile::tempdir_in(parent).expect("a directory");
    let (clean, unclean) = (directory.path().join("clean"), directory.path().join("unclean"));
    fill(&clean, gib, bytes, quick, &unclean);
    let again = directory.path().join("again");
    fs::create_dir_all(&again).expect("made");
    fs::copy(unclean.join("journal.redb"), again.join("journal.redb")).expect("copied");
    open("unclean, in the page cache", &unclean, quick, false);
    if drop_page_cache() {
        open("unclean, page cache dropped", &again, quick, false);
    } else {
        println!("the page cache may not be dropped here: no cold figures");
    }
    open("clean", &clean, quick, false);
    open("clean, every page verified", &clean, quick, true);
    if drop_page_cache() {
        open("clean, verified, page cache dropped", &clean, quick, true);
    }
}
