//! What the journal promises its callers, one promise a test.

mod common;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::disk::{Disk, OnDisk};
use common::*;
use tickcast_journal::{
    Committed, Delivery, Journal, Outcome, Reason, Refusal, RefusalReason, Settings, Status, Unavailable,
    Waiting,
};

fn open(settings: Settings, disk: &Disk) -> Journal {
    Journal::open_with(settings, Box::new(OnDisk::new(disk)), deaf()).expect("opens").0
}

fn reopen(journal: Journal, settings: Settings, disk: &Disk) -> Journal {
    journal.close();
    open(settings, disk)
}

#[test]
fn sequences_are_of_a_topic_and_positions_of_the_journal() {
    let disk = Disk::default();
    let journal = open(settings(), &disk);
    register(&journal, "ann").expect("registered");
    let accepted = |position, sequence| Outcome::Accepted { position, sequence, queued: 1, refused: vec![] };
    assert_eq!(publish(&journal, draft("risk", 1, "a", &["ann"])), accepted(1, 1));
    assert_eq!(publish(&journal, draft("risk", 2, "b", &["ann"])), accepted(2, 1));
    assert_eq!(publish(&journal, draft("risk", 3, "a", &["ann", "ann"])), accepted(3, 2));
    journal.close();
    let (journal, recovered) =
        Journal::open_with(settings(), Box::new(OnDisk::new(&disk)), deaf()).expect("opens");
    assert_eq!(recovered.position, 3);
    assert_eq!(recovered.topics, [("a".into(), 2), ("b".into(), 1)]);
    assert_eq!(recovered.recipients, [("ann".into(), 3)]);
    assert_eq!(publish(&journal, draft("risk", 4, "b", &["ann"])), accepted(4, 2));
    let records = pending(&journal, "ann").expect("answered");
    assert_eq!(records.len(), 4);
    assert_eq!(records[2].frame, Bytes::from("risk says 3 on a"));
    assert_eq!((records[2].sequence, records[2].hash), (2, draft("risk", 3, "a", &[]).hash));
}

#[test]
fn an_id_is_accepted_once_also_within_a_batch_and_after_a_restart() {
    let disk = Disk::default();
    let journal = open(settings(), &disk);
    let first = draft("risk", 7, "a", &[]);
    let mut other = first.clone();
    other.hash[31] = 1;
    let (sender, answers) = std::sync::mpsc::channel();
    for draft in [first.clone(), first.clone(), other.clone()] {
        let sender = sender.clone();
        journal.publish(draft, Box::new(move |outcome| sender.send(outcome).expect("awaited")));
    }
    let accepted = Outcome::Accepted { position: 1, sequence: 1, queued: 0, refused: vec![] };
    let duplicate = Outcome::Duplicate { position: 1, sequence: 1 };
    let conflict = Outcome::Conflict { position: 1 };
    let answers: Vec<_> = answers.iter().take(3).collect();
    assert_eq!(answers, [accepted, duplicate.clone(), conflict.clone()]);
    let journal = reopen(journal, settings(), &disk);
    assert_eq!(publish(&journal, first), duplicate);
    assert_eq!(publish(&journal, other), conflict);
    let another = publish(&journal, draft("ops", 7, "a", &[]));
    assert_eq!(position(&another), 2, "the id is the publisher's own");
}

#[test]
fn the_sink_is_told_after_the_commit_before_the_reply_and_in_order() {
    let disk = Disk::recording();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (told, watched) = (Arc::clone(&order), disk.clone());
    let sink = Box::new(move |committed: &Committed| {
        let position = committed.record.position;
        told.lock().expect("unpoisoned").push((position, "told", watched.cut().bytes().len()));
    });
    let (journal, _) = Journal::open_with(settings(), Box::new(OnDisk::new(&disk)), sink).expect("opens");
    for id in 1..=50 {
        let answered = Arc::clone(&order);
        let reply = Box::new(move |outcome: Outcome| {
            answered.lock().expect("unpoisoned").push((position(&outcome), "answered", 0));
        });
        journal.publish(draft("risk", id, "a", &[]), reply);
    }
    journal.close();
    let order = order.lock().expect("unpoisoned");
    let names: Vec<_> = order.iter().map(|(position, what, _)| (*position, *what)).collect();
    let expected: Vec<_> =
        (1..=50).flat_map(|position| [(position, "told"), (position, "answered")]).collect();
    assert_eq!(names, expected);
    assert!(order.iter().all(|(_, what, durable)| *what == "answered" || *durable > 0));
}

#[test]
fn acks_end_a_pair_and_are_durable_and_idempotent() {
    let disk = Disk::default();
    let journal = open(settings(), &disk);
    for name in ["ann", "bob"] {
        register(&journal, name).expect("registered");
    }
    for id in 1..=3 {
        publish(&journal, draft("risk", id, "a", &["ann", "bob"]));
    }
    journal.ack("ann".into(), vec![1, 3], 50);
    journal.ack("ann".into(), vec![1, 99], 60);
    journal.ack("nobody".into(), vec![1], 60);
    assert_eq!(positions(&journal, "ann"), [2]);
    assert_eq!(journal.health().acks_strange, 3, "said twice, past the head, by nobody");
    let journal = reopen(journal, settings(), &disk);
    assert_eq!(positions(&journal, "ann"), [2]);
    assert_eq!(positions(&journal, "bob"), [1, 2, 3]);
    let expected = Status { position: 1, sequence: 1, pending: 1, acked: 1, ..Status::default() };
    assert_eq!(status(&journal, "risk", 1), Ok(Some(expected)));
    assert_eq!(status(&journal, "risk", 9), Ok(None));
}

#[test]
fn what_waits_is_told_with_the_head_and_read_by_position() {
    let journal = open(settings(), &Disk::default());
    register(&journal, "ann").expect("registered");
    for id in 1..=4 {
        let mut draft = draft("risk", id, "a", if id == 4 { &[] } else { &["ann"] });
        draft.expires_at = (id == 3).then_some(9_000);
        publish(&journal, draft);
    }
    journal.ack("ann".into(), vec![1], 0);
    let waiting = wait(|reply| journal.waiting("ann".into(), reply)).expect("answered");
    assert_eq!(waiting, Waiting { head: 4, positions: vec![(2, None), (3, Some(9_000))] });
    let records = wait(|reply| journal.records(vec![4, 9, 2], reply)).expect("answered");
    assert_eq!(records.iter().map(|record| record.position).collect::<Vec<_>>(), [4, 2]);
    let mut delivery = Delivery::restore(waiting.head, waiting.positions);
    let owner = delivery.attach();
    assert_eq!(delivery.next(0, owner).map(|send| send.position), Some(2));
    let nobody = wait(|reply| journal.waiting("zoe".into(), reply)).expect("answered");
    assert_eq!(nobody, Waiting { head: 4, positions: vec![] });
}

#[test]
fn a_full_recipient_refuses_and_the_others_take() {
    let settings = Settings { hot_max: 2, spill_max: 3, spill_age_max: 1_000, ..settings() };
    let disk = Disk::default();
    let journal = open(settings, &disk);
    for name in ["ann", "bob"] {
        register(&journal, name).expect("registered");
    }
    for id in 1..=3 {
        publish(&journal, draft("risk", id, "a", &["ann"]));
    }
    let refusal =
        Refusal { recipient: "ann".into(), why: RefusalReason::QueueFull { depth: 3, oldest_age: 3 } };
    let outcome = publish(&journal, draft("risk", 4, "a", &["ann", "bob"]));
    let refused = vec![refusal.clone()];
    assert_eq!(outcome, Outcome::Accepted { position: 4, sequence: 4, queued: 1, refused });
    let outcome = publish(&journal, draft("risk", 5, "a", &["ann"]));
    let Refusal { recipient, .. } = refusal;
    let why = RefusalReason::QueueFull { depth: 3, oldest_age: 4 };
    let recipients = vec![Refusal { recipient, why }];
    assert_eq!(outcome, Outcome::Refused { reason: Reason::QueueFull, recipients });
    assert_eq!(status(&journal, "risk", 5), Ok(None), "nothing was appended");
    journal.ack("ann".into(), vec![1], 0);
    assert_eq!(position(&publish(&journal, draft("risk", 5, "a", &["ann"]))), 5, "no hole");
    let nobody = publish(&journal, draft("risk", 6, "a", &["zoe"]));
    let recipients = vec![Refusal { recipient: "zoe".into(), why: RefusalReason::Unknown }];
    assert_eq!(nobody, Outcome::Refused { reason: Reason::NobodyKnown, recipients });
}

#[test]
fn what_is_spilled_waits_only_so_long_and_what_is_hot_for_ever() {
    let settings = Settings { hot_max: 2, spill_max: 9, spill_age_max: 1_000, ..settings() };
    let journal = open(settings, &Disk::default());
    register(&journal, "ann").expect("registered");
    publish(&journal, draft("risk", 1, "a", &["ann"]));
    let mut late = draft("risk", 2, "a", &["ann"]);
    late.accepted_at = 1_000_000;
    assert_eq!(position(&publish(&journal, late)), 2, "within the hot bound age does not matter");
    let mut spilled = draft("risk", 3, "a", &["ann"]);
    spilled.accepted_at = 1_000_001;
    let outcome = publish(&journal, spilled.clone());
    assert!(matches!(outcome, Outcome::Refused { reason: Reason::QueueFull, .. }), "{outcome:?}");
    journal.ack("ann".into(), vec![1], 0);
    publish(&journal, spilled);
    let mut again = draft("risk", 4, "a", &["ann"]);
    again.accepted_at = 1_000_900;
    assert_eq!(position(&publish(&journal, again)), 4, "the oldest is young enough");
}

#[test]
fn what_expired_makes_room_before_anyone_is_refused() {
    let settings = Settings { hot_max: 1, spill_max: 1, ..settings() };
    let journal = open(settings, &Disk::default());
    register(&journal, "ann").expect("registered");
    let mut first = draft("risk", 1, "a", &["ann"]);
    first.expires_at = Some(1_005);
    publish(&journal, first);
    let mut second = draft("risk", 2, "a", &["ann"]);
    second.accepted_at = 1_005;
    assert_eq!(position(&publish(&journal, second.clone())), 2);
    assert_eq!(status(&journal, "risk", 1).expect("answered").expect("known").expired, 1);
    second.id = vec![3];
    second.expires_at = Some(1_005);
    let outcome = publish(&journal, second);
    assert_eq!(outcome, Outcome::Refused { reason: Reason::Expired, recipients: vec![] });
}

#[test]
fn a_newer_one_of_a_collapse_key_supersedes_for_those_who_take_it() {
    let (told, sink) = sink();
    let disk = Disk::default();
    let (journal, _) = Journal::open_with(
        Settings { hot_max: 1, spill_max: 1, ..settings() },
        Box::new(OnDisk::new(&disk)),
        sink,
    )
    .expect("opens");
    for name in ["ann", "bob"] {
        register(&journal, name).expect("registered");
    }
    let keyed = |id, topic, audience: &[&str]| {
        let mut draft = draft("risk", id, topic, audience);
        draft.collapse_key = Some("limit".into());
        draft
    };
    publish(&journal, keyed(1, "a", &["ann", "bob"]));
    // Full, but the new one takes the old one's place.
    let outcome = publish(&journal, keyed(2, "a", &["ann"]));
    assert_eq!(outcome, Outcome::Accepted { position: 2, sequence: 2, queued: 1, refused: vec![] });
    assert_eq!(positions(&journal, "ann"), [2]);
    assert_eq!(positions(&journal, "bob"), [1], "who does not get the new one keeps the old one");
    assert_eq!(told.lock().expect("unpoisoned")[1].superseded, [("ann".into(), 1)]);
    let expected = Status { position: 1, sequence: 1, pending: 1, superseded: 1, ..Status::default() };
    assert_eq!(status(&journal, "risk", 1), Ok(Some(expected)));
    let other = publish(&journal, keyed(3, "b", &["ann"]));
    assert!(matches!(other, Outcome::Refused { reason: Reason::QueueFull, .. }), "another topic's key");
    journal.ack("ann".into(), vec![2], 0);
    publish(&journal, keyed(4, "a", &["ann"]));
    assert_eq!(status(&journal, "risk", 2).expect("answered").expect("known").acked, 1);
    assert_eq!(positions(&journal, "ann"), [3]);
}

#[test]
fn revoked_and_forgotten_recipients_end_in_evidence() {
    let disk = Disk::default();
    let journal = open(settings(), &disk);
    register(&journal, "ann").expect("registered");
    // More than one step takes.
    for id in 1..=2_500 {
        journal.publish(draft("risk", id, "a", &["ann"]), Box::new(|_| {}));
    }
    wait(|reply| journal.revoke("ann".into(), 9_000, reply)).expect("revoked");
    assert_eq!(positions(&journal, "ann"), [0; 0]);
    assert_eq!(status(&journal, "risk", 2_500).expect("answered").expect("known").revoked, 1);
    assert_eq!(position(&publish(&journal, draft("risk", 2_501, "a", &["ann"]))), 2_501);
    wait(|reply| journal.forget("ann".into(), 9_001, reply)).expect("forgotten");
    wait(|reply| journal.forget("zoe".into(), 9_001, reply)).expect("nothing to forget");
    assert_eq!(wait(|reply| journal.recipients(reply)), Ok(vec![]));
    assert_eq!(status(&journal, "risk", 2_501).expect("answered").expect("known").revoked, 1);
    register(&journal, "ann").expect("registered");
    assert_eq!(positions(&journal, "ann"), [0; 0], "a new one of the same name");
    let journal = reopen(journal, settings(), &disk);
    assert_eq!(wait(|reply| journal.recipients(reply)), Ok(vec![("ann".into(), 0)]));
}

#[test]
fn a_revocation_ends_what_came_before_it_and_nothing_after() {
    // The sink holds the writer, so that the revocation and what comes after it are one batch.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = std::sync::mpsc::channel::<()>();
    let sink = Box::new(move |_: &Committed| {
        let _ = entered.send(());
        let _ = held.recv();
    });
    let disk = Disk::default();
    let (journal, _) = Journal::open_with(settings(), Box::new(OnDisk::new(&disk)), sink).expect("opens");
    register(&journal, "ann").expect("registered");
    journal.publish(draft("risk", 1, "a", &["ann"]), Box::new(|_| {}));
    inside.recv().expect("the writer is in the sink");
    let (sender, revoked) = std::sync::mpsc::channel();
    journal.revoke("ann".into(), 9_000, Box::new(move |answer| sender.send(answer).expect("awaited")));
    journal.publish(draft("risk", 2, "a", &["ann"]), Box::new(|_| {}));
    drop(release);
    revoked.recv().expect("answered").expect("revoked");
    assert_eq!(positions(&journal, "ann"), [2]);
    assert_eq!(status(&journal, "risk", 1).expect("answered").expect("known").revoked, 1);
}

#[test]
fn settled_records_and_old_ids_are_removed_in_their_time() {
    let settings = Settings { retention: 1_000, ids_min: 100, id_age_min: 10_000, ..settings() };
    let disk = Disk::default();
    let journal = open(settings, &disk);
    register(&journal, "ann").expect("registered");
    for id in 1..=300 {
        journal.publish(draft("risk", id, "a", &["ann"]), Box::new(|_| {}));
    }
    journal.ack("ann".into(), (2..=300).collect(), 5_000);
    journal.expire(6_000);
    settle(&journal);
    assert!(!status(&journal, "risk", 2).expect("answered").expect("known").removed, "in its retention");
    journal.expire(6_001);
    // Each step removes some; the steps go on by themselves.
    while !status(&journal, "risk", 300).expect("answered").expect("known").removed {}
    let removed = status(&journal, "risk", 300).expect("answered").expect("known");
    assert_eq!(removed.acked, 0, "the evidence went with the record");
    assert!(!status(&journal, "risk", 1).expect("answered").expect("known").removed, "it waits");
    let duplicate = Outcome::Duplicate { position: 5, sequence: 5 };
    assert_eq!(publish(&journal, draft("risk", 5, "a", &["ann"])), duplicate, "the id is young");
    journal.expire(20_000);
    while status(&journal, "risk", 200).expect("answered").is_some() {}
    assert!(status(&journal, "risk", 201).expect("answered").is_some(), "one of the last hundred");
    assert!(status(&journal, "risk", 1).expect("answered").is_some(), "known as long as it waits");
    journal.ack("ann".into(), vec![1], 21_000);
    journal.expire(30_000);
    while status(&journal, "risk", 1).expect("answered").is_some() {}
    assert_eq!(position(&publish(&journal, draft("risk", 1, "a", &["ann"]))), 301, "positions never return");
}

#[test]
fn what_can_never_be_kept_is_refused_by_field() {
    let journal = open(settings(), &Disk::default());
    let refused = |change: &dyn Fn(&mut tickcast_journal::Draft)| {
        let mut draft = draft("risk", 1, "a", &[]);
        change(&mut draft);
        match publish(&journal, draft) {
            Outcome::Refused { reason: Reason::Invalid(field), .. } => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|draft| draft.publisher = "".into()), "publisher");
    assert_eq!(refused(&|draft| draft.id = vec![]), "id");
    assert_eq!(refused(&|draft| draft.id = vec![0; 65]), "id");
    assert_eq!(refused(&|draft| draft.topic = "x".repeat(257).into()), "topic");
    assert_eq!(refused(&|draft| draft.frame = Bytes::from(vec![0; 65_537])), "frame");
    assert_eq!(refused(&|draft| draft.collapse_key = Some("".into())), "collapse_key");
    assert_eq!(refused(&|draft| draft.audience = vec!["".into()]), "audience");
    let mut largest = draft("risk", 1, "a", &[]);
    largest.frame = Bytes::from(vec![7; 65_536]);
    assert_eq!(position(&publish(&journal, largest)), 1);
}

#[test]
fn a_full_queue_refuses_and_a_closed_journal_says_so() {
    let settings = Settings { queue_commands_max: 4, queue_bytes_max: 40, ..settings() };
    // The sink holds the writer until it is let go.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = std::sync::mpsc::channel::<()>();
    let sink = Box::new(move |_: &Committed| {
        let _ = entered.send(());
        let _ = held.recv();
    });
    let disk = Disk::default();
    let (journal, _) = Journal::open_with(settings, Box::new(OnDisk::new(&disk)), sink).expect("opens");
    journal.publish(draft("risk", 0, "a", &[]), Box::new(|_| {}));
    inside.recv().expect("the writer is in the sink");
    journal.publish(draft("risk", 1, "a", &[]), Box::new(|_| {}));
    journal.publish(draft("risk", 2, "a", &[]), Box::new(|_| {}));
    let busy = Outcome::Refused { reason: Reason::Busy, recipients: vec![] };
    assert_eq!(publish(&journal, draft("risk", 3, "a", &[])), busy, "too many bytes");
    journal.ack("ann".into(), vec![1], 0);
    journal.ack("ann".into(), vec![2], 0);
    assert_eq!(register(&journal, "ann"), Err(Unavailable::Busy), "too many orders");
    journal.ack("ann".into(), vec![3, 4], 0);
    assert_eq!(journal.health().acks_forgotten, 2);
    assert_eq!(journal.health().refused_busy, 1);
    drop(release);
    journal.close();
    assert_eq!(register(&journal, "ann"), Err(Unavailable::Closed));
    let closed = Outcome::Refused { reason: Reason::Closed, recipients: vec![] };
    assert_eq!(publish(&journal, draft("risk", 3, "a", &[])), closed);
    assert_eq!(journal.health().accepted, 3, "what was queued before the end is kept");
}
