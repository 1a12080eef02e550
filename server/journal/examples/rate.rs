//! How many messages a second the journal takes, and how long each publisher waits.
//!
//! `cargo run --release -p tickcast-journal --example rate -- [directory] [seconds] [quick]`
//!
//! Each publisher sends its next message when the last one is accepted. The bare line is what the disk can do:
//! a write of 4 KiB and an fsync, one after the other.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tickcast_journal::{Draft, Journal, Outcome, Settings};

fn bare(directory: &Path, time: Duration) {
    let path = directory.join("bare");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).expect("a file");
    file.set_len(1 << 20).expect("a length");
    let (mut waits, start) = (Histogram::<u64>::new(3).expect("valid"), Instant::now());
    let mut at = 0;
    while start.elapsed() < time {
        let begun = Instant::now();
        file.write_all_at(&[at as u8; 4_096], at % 256 * 4_096).expect("written");
        file.sync_data().expect("synced");
        waits.record(begun.elapsed().as_micros() as u64).expect("grows");
        at += 1;
    }
    print("bare fsync", waits.len() as f64 / start.elapsed().as_secs_f64(), &waits);
    std::fs::remove_file(path).expect("removed");
}

fn print(what: &str, rate: f64, waits: &Histogram<u64>) {
    let (p50, p99, max) = (waits.value_at_quantile(0.5), waits.value_at_quantile(0.99), waits.max());
    println!("{what:<16} {rate:>9.0}/s   p50 {p50:>6} µs   p99 {p99:>6} µs   max {max:>6} µs");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parent = arguments.first().cloned().unwrap_or_else(|| ".".to_owned());
    let seconds = arguments.get(1).map_or(5, |seconds| seconds.parse().expect("seconds"));
    let quick_repair = arguments.get(2).is_some_and(|word| word == "quick");
    let time = Duration::from_secs(seconds);
    let directory = tempfile::tempdir_in(parent).expect("a directory");
    bare(directory.path(), time);
    for publishers in [1, 16, 256] {
        let path = directory.path().join(publishers.to_string());
        let settings = Settings { quick_repair, spill_max: u32::MAX, ..Settings::new(path) };
        let (journal, _) = Journal::open(settings, Box::new(|_| {})).expect("opens");
        let (registered, done) = channel();
        journal.register("desk".into(), Box::new(move |answer| registered.send(answer).expect("awaited")));
        done.recv().expect("answered").expect("registered");
        // One thread plays all publishers, so that the load costs little beside what is measured.
        let (sender, answers) = channel();
        let start = Instant::now();
        let send = |publisher: u64, id: u64| {
            let sender = sender.clone();
            let draft = Draft {
                publisher: "load".into(),
                id: (publisher << 32 | id).to_be_bytes().to_vec(),
                hash: [id as u8; 32],
                topic: "risk_alert.load".into(),
                frame: Bytes::from(vec![7; 300]),
                accepted_at: start.elapsed().as_nanos() as i64,
                expires_at: None,
                collapse_key: None,
                audience: vec!["desk".into()],
            };
            let begun = Instant::now();
            let reply = Box::new(move |outcome| {
                assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
                sender.send((publisher, id, begun.elapsed())).expect("awaited");
            });
            journal.publish(draft, reply);
        };
        (0..publishers).for_each(|publisher| send(publisher, 0));
        let mut waits = Histogram::<u64>::new(3).expect("valid");
        while start.elapsed() < time {
            let (publisher, id, wait) = answers.recv().expect("answered");
            waits.record(wait.as_micros() as u64).expect("grows");
            send(publisher, id + 1);
        }
        let rate = waits.len() as f64 / start.elapsed().as_secs_f64();
        print(&format!("{publishers} publishers"), rate, &waits);
        let commits = journal.health().commits;
        println!("{:<16} {:>9.1} messages a commit", "", waits.len() as f64 / commits as f64);
        journal.close();
    }
}
