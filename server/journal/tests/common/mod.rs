//! What the tests share: a journal on a simulated disk, drafts, and answers without callbacks.
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

pub mod disk;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tickcast_journal::store::{Opener, Store, StoreError};
use tickcast_journal::{Answer, Committed, Draft, Journal, Outcome, Record, Settings, Sink, Status};

/// Everything is small, so that every edge is reached.
pub fn settings() -> Settings {
    Settings {
        ack_delay: Duration::ZERO,
        reopen_pause: (Duration::from_millis(1), Duration::from_millis(2)),
        cache_bytes: 1 << 20,
        reserve_bytes: 0,
        ..Settings::new("unused")
    }
}

pub fn draft(publisher: &str, id: u64, topic: &str, audience: &[&str]) -> Draft {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&id.to_le_bytes());
    Draft {
        publisher: publisher.into(),
        id: id.to_be_bytes().to_vec(),
        hash,
        topic: topic.into(),
        frame: Bytes::from(format!("{publisher} says {id} on {topic}")),
        accepted_at: 1_000 + id as i64,
        expires_at: None,
        collapse_key: None,
        audience: audience.iter().map(|name| Arc::from(*name)).collect(),
    }
}

/// A sink that remembers what it was told.
pub fn sink() -> (Arc<Mutex<Vec<Committed>>>, Sink) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&told);
    (told, Box::new(move |committed: &Committed| keeps.lock().expect("unpoisoned").push(committed.clone())))
}

/// A sink for those who do not look.
pub fn deaf() -> Sink {
    Box::new(|_| {})
}

/// Asks by callback and waits for the answer.
pub fn wait<T: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> T {
    let (sender, receiver) = channel();
    ask(Box::new(move |answer| sender.send(answer).expect("somebody waits")));
    receiver.recv().expect("every question is answered")
}

pub fn publish(journal: &Journal, draft: Draft) -> Outcome {
    wait(|reply| journal.publish(draft, reply))
}

pub fn position(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Accepted { position, .. } => *position,
        other => panic!("not accepted: {other:?}"),
    }
}

pub fn register(journal: &Journal, name: &str) -> Answer<()> {
    wait(|reply| journal.register(name.into(), reply))
}

pub fn pending(journal: &Journal, name: &str) -> Answer<Vec<Record>> {
    wait(|reply| journal.pending(name.into(), 0, usize::MAX, reply))
}

pub fn positions(journal: &Journal, name: &str) -> Vec<u64> {
    pending(journal, name).expect("answered").iter().map(|record| record.position).collect()
}

pub fn status(journal: &Journal, publisher: &str, id: u64) -> Answer<Option<Status>> {
    wait(|reply| journal.status(publisher.into(), id.to_be_bytes().to_vec(), reply))
}

/// Waits until the journal has got through everything that was ordered before.
pub fn settle(journal: &Journal) {
    let _ = wait(|reply| journal.recipients(reply));
}

/// Panics inside redb are caught by the store; what they print is no news.
pub fn hush_redb() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|place| place.file().contains("/redb-")) {
                loud(panic);
            }
        }));
    });
}

/// An opener made of a closure.
pub struct OpenBy<F>(pub F);

impl<F: FnMut(bool) -> Result<Box<dyn Store>, StoreError> + Send> Opener for OpenBy<F> {
    fn open(&mut self, after_sync_failure: bool) -> Result<Box<dyn Store>, StoreError> {
        (self.0)(after_sync_failure)
    }
}
