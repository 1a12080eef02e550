//! A tap from outside: what it hears, what it is rung for, and that it loses nothing unsaid.
#![cfg(not(tickcast_loom))]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};

use bytes::Bytes;
use tickcast_engine::{Engine, EngineConfig, Event, Finding, Format, Heard, Incoming, Render, Status, Tap};
use tickcast_protocol::message::{OrderBook, StateReason, StreamState};
use tickcast_protocol::registry::{self, Attributes, Facts, Part};
use tickcast_protocol::{BootId, Class, Epoch, Message, StreamId, Topic};

struct Silent;

impl Render for Silent {
    fn event(&self, _: &Event, _: Format) -> Option<Bytes> {
        None
    }

    fn control(&self, _: &Message, _: Option<&Topic>, _: Format) -> Option<Bytes> {
        None
    }
}

fn engine(ring_slots: usize) -> Engine {
    let config = EngineConfig { ring_slots, ..EngineConfig::default() };
    Engine::new(config, Epoch(1), BootId(1), Arc::new(Silent), vec![Arc::new(|| {})]).0
}

fn tap_of(engine: &Engine, rings: &Arc<AtomicUsize>) -> Tap {
    let rings = rings.clone();
    let notify = move || {
        rings.fetch_add(1, Ordering::Relaxed);
    };
    engine.tap(&OrderBook::INFO, Arc::new(notify)).expect("the first one")
}

fn publish_in(engine: &Engine, topic: &str, class: Class, key: u64) {
    let topic = Topic::parse(topic).unwrap();
    let facts = Facts { class, conflation_key: key, attributes: Attributes::default(), part: Part::Whole };
    let info = registry::by_name(topic.type_name()).unwrap();
    let incoming =
        Incoming { info, topic: &topic, facts, schema_version: 1, root_len: 8, payload: b"payload" };
    engine.publish(incoming, 1).unwrap();
}

fn publish(engine: &Engine, topic: &str) {
    publish_in(engine, topic, Class::Ordered, 7);
}

/// What it heard, in words.
fn heard(tap: &mut Tap) -> String {
    let mut words = Vec::new();
    loop {
        let taken = tap.take(64, |heard| {
            words.push(match heard {
                Heard::Event(event) => format!("e{}:{}", event.stream(), event.sequence()),
                Heard::Missing { stream, through } => format!("m{stream}:{through}"),
                Heard::Status { stream, status } => format!("{}{stream}", status.state.name()),
            });
        });
        if !taken.remaining {
            return words.join(" ");
        }
    }
}

#[test]
fn a_tap_hears_its_type_and_nothing_else() {
    let engine = engine(1_024);
    let mut tap = tap_of(&engine, &Arc::default());
    assert!(engine.tap(&OrderBook::INFO, Arc::new(|| {})).is_none(), "there is one");
    publish(&engine, "order_book.A");
    publish(&engine, "market_data.A");
    publish_in(&engine, "order_book.A", Class::Critical, 7);
    publish(&engine, "order_book.B");
    publish(&engine, "order_book.A");
    assert_eq!(heard(&mut tap), "e1:1 e4:1 e1:2");
    let topic = Topic::parse("order_book.A").unwrap();
    engine.skip(&topic, Class::Ordered, 3, 1).unwrap();
    engine.skip(&Topic::parse("market_data.A").unwrap(), Class::Latest, 3, 1).unwrap();
    publish(&engine, "order_book.A");
    assert_eq!(heard(&mut tap), "m1:5 e1:6");
    for stream in [StreamId(2), StreamId(1)] {
        let status = Status { state: StreamState::SUSPECT, reason: StateReason::QUIET, ..Status::live() };
        let head = if stream.0 == 1 { 6 } else { 1 };
        assert_eq!(engine.tell(&[Finding { stream, head, status }]), 1);
    }
    publish(&engine, "order_book.A");
    assert_eq!(heard(&mut tap), "suspect1 e1:7 live1");
    assert_eq!(engine.shard_stats().len(), 1, "it is no shard");
}

#[test]
fn a_sleeping_tap_is_rung_for_its_own_type_alone_and_outlives_a_ring_of_others() {
    let engine = engine(64);
    let rings = Arc::new(AtomicUsize::new(0));
    let mut tap = tap_of(&engine, &rings);
    publish(&engine, "order_book.A");
    assert_eq!(heard(&mut tap), "e1:1");
    assert!(tap.prepare_to_sleep());
    (0..200).for_each(|_| publish(&engine, "market_data.A"));
    assert_eq!(rings.load(Ordering::Relaxed), 0, "it is left alone");
    publish(&engine, "order_book.A");
    publish(&engine, "order_book.B");
    assert_eq!(rings.load(Ordering::Relaxed), 1, "and awake from then on");
    assert!(!tap.prepare_to_sleep(), "there is something to hear");
    let said = heard(&mut tap);
    assert!(said.ends_with("e1:2 e3:1") && !said.contains('m'), "nothing is missing: {said}");
    (0..10).for_each(|_| publish(&engine, "market_data.A"));
    assert!(tap.prepare_to_sleep(), "what is in the ring is not for it");
    tap.stay_awake();
}

#[test]
fn a_lapped_tap_is_told_what_is_missing_and_given_what_is_left() {
    let engine = engine(64);
    let mut tap = tap_of(&engine, &Arc::default());
    for topic in ["order_book.A", "order_book.A", "order_book.B", "order_book.C"] {
        publish(&engine, topic);
    }
    assert_eq!(heard(&mut tap), "e1:1 e1:2 e2:1 e3:1");
    // A goes on, B ends within what is overwritten, D is born there, C has nothing to tell.
    publish_in(&engine, "order_book.A", Class::Ordered, 8);
    publish_in(&engine, "order_book.A", Class::Ordered, 9);
    publish_in(&engine, "order_book.A", Class::Ordered, 9);
    publish(&engine, "order_book.B");
    publish(&engine, "order_book.B");
    publish(&engine, "order_book.D");
    let status = Status { state: StreamState::CLOSED, reason: StateReason::SAID, ..Status::live() };
    assert_eq!(engine.tell(&[Finding { stream: StreamId(3), head: 1, status }]), 1);
    (0..200).for_each(|_| publish(&engine, "market_data.A"));
    publish(&engine, "order_book.A");
    let said = heard(&mut tap);
    let of = |stream: &str| {
        let words = said.split(' ').filter(|word| word[1..].starts_with(stream) && !word.starts_with("live"));
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("1:"), "e1:3 m1:4 e1:5 e1:6", "{said}");
    assert_eq!(of("2:"), "m2:2 e2:3", "{said}");
    assert_eq!(of("4:"), "e4:1", "{said}");
    assert_eq!(of("3:"), "", "{said}");
    assert!(said.contains("closed3"), "{said}");
}

/// Keeps a wake-up until it is taken, as `unpark` does.
#[derive(Default)]
struct Bell(OnceLock<Thread>);

#[test]
fn every_event_is_heard_or_said_to_be_missing_while_others_publish() {
    const EVENTS: u64 = 30_000;
    let engine = engine(256);
    let bell = Arc::new(Bell::default());
    let rung = bell.clone();
    let notify = move || {
        if let Some(thread) = rung.0.get() {
            thread.unpark();
        }
    };
    let mut tap = engine.tap(&OrderBook::INFO, Arc::new(notify)).unwrap();
    let reader = thread::spawn(move || {
        bell.0.set(thread::current()).unwrap();
        let mut heads: HashMap<StreamId, u64> = HashMap::new();
        let mut events = 0;
        loop {
            let taken = tap.take(100, |heard| {
                let (stream, through, is_event) = match heard {
                    Heard::Event(event) => (event.stream(), event.sequence().0, true),
                    Heard::Missing { stream, through } => (stream, through, false),
                    Heard::Status { .. } => return,
                };
                let head = heads.entry(stream).or_default();
                assert!(through > *head && (!is_event || through == *head + 1), "{through} after {head}");
                *head = through;
                events += u64::from(is_event);
            });
            if heads.len() == 2 && heads.values().all(|head| *head == EVENTS) {
                return events;
            }
            if !taken.remaining && tap.prepare_to_sleep() {
                // No time: a wake-up that were lost would hang here.
                thread::park();
                tap.stay_awake();
            }
        }
    });
    let publishers: Vec<_> = ["order_book.A", "order_book.B", "market_data.A"]
        .into_iter()
        .map(|topic| {
            let engine = engine.clone();
            thread::spawn(move || (0..EVENTS).for_each(|_| publish(&engine, topic)))
        })
        .collect();
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    let events = reader.join().unwrap();
    assert!((1..=2 * EVENTS).contains(&events), "{events}");
}
