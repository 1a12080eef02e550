//! Fills a small disk, and shows that acks and questions go on while messages are refused, and that messages are
//! accepted again when there is room.
//!
//! `mount -t tmpfs -o size=64M tmpfs /mnt/small && cargo run -p tickcast-journal --example full_disk -- /mnt/small`

use std::path::Path;
use std::sync::mpsc::channel;

use bytes::Bytes;
use tickcast_journal::{Draft, Journal, Outcome, Reply, Settings};

fn wait<T: Send + 'static>(ask: impl FnOnce(Reply<T>)) -> T {
    let (sender, answer) = channel();
    ask(Box::new(move |answered| sender.send(answered).expect("awaited")));
    answer.recv().expect("answered")
}

fn main() {
    let parent = std::env::args().nth(1).expect("a directory on a small disk");
    let directory = tempfile::tempdir_in(&parent).expect("a directory");
    let settings = Settings { reserve_bytes: 4 << 20, ..Settings::new(directory.path().join("journal")) };
    let ballast = Path::new(&parent).join("ballast");
    // Something else takes half of the room that is to come back.
    std::fs::write(&ballast, vec![1; 24 << 20]).expect("a disk of at least 64 MiB");
    let (journal, _) = Journal::open(settings.clone(), Box::new(|_| {})).expect("opens");
    wait(|reply| journal.register("desk".into(), reply)).expect("registered");
    let publish = |id: u64| {
        let draft = Draft {
            publisher: "load".into(),
            id: id.to_be_bytes().to_vec(),
            hash: [id as u8; 32],
            topic: "risk_alert.load".into(),
            frame: Bytes::from(vec![id as u8; 16_384]),
            accepted_at: id as i64,
            expires_at: None,
            collapse_key: None,
            audience: vec!["desk".into()],
        };
        wait(|reply| journal.publish(draft, reply))
    };
    let mut accepted = 0;
    let reason = loop {
        match publish(accepted + 1) {
            Outcome::Accepted { .. } => accepted += 1,
            Outcome::NotDurable { reason } => break reason,
            other => panic!("{other:?}"),
        }
        assert!(accepted < 100_000, "the disk is not small");
    };
    println!("{accepted} accepted, then: {reason}");
    while journal.health().trouble.is_none_or(|trouble| !trouble.full) {
        std::thread::yield_now();
    }
    let depth = || wait(|reply| journal.waiting("desk".into(), reply)).expect("read").positions.len() as u64;
    // The message that was refused may be there or not: nothing was promised.
    let waiting = depth();
    assert!(waiting == accepted || waiting == accepted + 1, "{waiting}");
    journal.ack("desk".into(), (1..=accepted / 2).collect(), 0);
    println!("{} acked on the full disk, {} wait: {:?}", accepted / 2, depth(), journal.health());
    assert_eq!(depth(), waiting - accepted / 2);
    assert!(matches!(publish(accepted + 2), Outcome::NotDurable { .. }), "no room for messages");
    std::fs::remove_file(ballast).expect("removed");
    while !journal.health().is_ok() {
        std::thread::yield_now();
    }
    assert!(matches!(publish(accepted + 2), Outcome::Accepted { .. }));
    journal.close();
    let (journal, recovered) = Journal::open(settings, Box::new(|_| {})).expect("opens");
    println!("room again: accepted; after a restart {recovered:?}");
    journal.close();
}
