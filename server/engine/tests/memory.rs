//! What a peer costs in memory: hardly anything while it keeps up, and a bounded amount when it does not
//! read. Counted by the allocator. What one thread lets go of another may free (the ring's garbage), so the
//! tests of this file take turns.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tickcast_engine::{
    Condition, Delivery, Engine, EngineConfig, Event, Format, Incoming, Notify, PeerId, PeerIo, Render,
    Shard, Start, Subscribe, Written, binary_message,
};
use tickcast_protocol::registry::{self, Attributes, Facts, Part};
use tickcast_protocol::{BootId, Class, Epoch, Message, Predicate, Topic, TopicFilter};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: every call goes to the system's allocator unchanged; only sizes are added up beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by our caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn take_turns() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

struct Words;

impl Render for Words {
    fn event(&self, _: &Event, _: Format) -> Option<Bytes> {
        None
    }

    fn control(&self, message: &Message, _: Option<&Topic>, _: Format) -> Option<Bytes> {
        Some(binary_message(message))
    }
}

/// Sockets that take everything, or from some moment on nothing.
struct Net {
    is_full: bool,
}

impl PeerIo for Net {
    fn write(&mut self, _: PeerId, bufs: &[IoSlice<'_>]) -> Written {
        if self.is_full {
            return Written::WouldBlock;
        }
        Written::Bytes(bufs.iter().map(|buf| buf.len()).sum())
    }
}

fn engine() -> (Engine, Shard) {
    let config = EngineConfig { ring_slots: 1_024, history_events: 2, ..EngineConfig::default() };
    let notify: Arc<dyn Notify> = Arc::new(|| {});
    let (engine, mut shards) = Engine::new(config, Epoch(1), BootId(1), Arc::new(Words), vec![notify]);
    (engine, shards.remove(0))
}

/// Publishes one event of this size on each of the topics `S0`, `S1`, ….
fn publish(engine: &Engine, topics: usize, size: usize) {
    for number in 0..topics {
        let topic = Topic::parse(&format!("market_data.S{number}")).unwrap();
        let facts = Facts {
            class: Class::Latest,
            conflation_key: 1,
            attributes: Attributes::default(),
            part: Part::Whole,
        };
        let incoming = Incoming {
            info: registry::by_name("market_data").unwrap(),
            topic: &topic,
            facts,
            schema_version: 1,
            root_len: 8,
            payload: &vec![7; size],
        };
        engine.publish_quietly(incoming, 1).unwrap();
    }
}

fn run(shard: &mut Shard, net: &mut Net) {
    loop {
        let turn = shard.turn(0);
        shard.flush(net);
        if !turn.remaining {
            return;
        }
    }
}

fn subscribe(shard: &mut Shard, predicate: Option<&str>) {
    let peer = shard.attach(Format::Binary);
    let hasher = foldhash::fast::RandomState::default();
    let condition = predicate.map(|text| Condition::new(Predicate::parse(text).unwrap(), &hasher));
    let filter = TopicFilter::parse("market_data.*").unwrap();
    let delivery = Delivery { condition, ..Delivery::default() };
    let request = Subscribe { filter, start: Start::Live, delivery };
    shard.subscribe(peer, request, |_| None).unwrap();
}

#[test]
fn idle_peer_costs_half_a_kilobyte() {
    let _turn = take_turns();
    const PEERS: usize = 10_000;
    let (engine, mut shard) = engine();
    let mut net = Net { is_full: false };
    publish(&engine, 3, 100);
    run(&mut shard, &mut net);
    let before = held();
    for _ in 0..PEERS {
        subscribe(&mut shard, None);
        run(&mut shard, &mut net);
    }
    let alike = (held() - before) / PEERS;
    let before = held();
    for number in 0..PEERS {
        subscribe(&mut shard, Some(&format!("user=u{number}")));
        run(&mut shard, &mut net);
    }
    let each_its_own = (held() - before) / PEERS;
    println!("bytes per idle peer: {alike} alike, {each_its_own} each with a condition of its own");
    assert!(alike <= 500, "{alike} bytes each");
    assert!(each_its_own <= 4_096, "{each_its_own} bytes each");
}

/// Bytes that each of a hundred peers that never read costs, beside what is there without them: histories,
/// records, and once for all of them the events that wait.
fn cost_of_not_reading(topics: usize, size: usize) -> usize {
    const PEERS: usize = 100;
    let (engine, mut shard) = engine();
    let mut net = Net { is_full: false };
    for _ in 0..PEERS {
        subscribe(&mut shard, None);
    }
    for _ in 0..2_000_usize.div_ceil(topics) {
        publish(&engine, topics, size);
        run(&mut shard, &mut net);
    }
    let before = held();
    net.is_full = true;
    for _ in 0..10_000_usize.div_ceil(topics) {
        publish(&engine, topics, size);
        run(&mut shard, &mut net);
    }
    let each = (held() - before) / PEERS;
    println!("bytes per peer that never reads: {each} at {topics} topics of {size} bytes");
    each
}

#[test]
fn peer_that_never_reads_costs_at_most_64_kib() {
    let _turn = take_turns();
    for topics in [1, 50] {
        assert!(cost_of_not_reading(topics, 1_024) <= 64 * 1024);
    }
}

/// Of small events more wait, each with a place in the outbox; of many keys each is looked up, and has a
/// range to be told.
#[test]
fn peer_that_never_reads_small_events_of_many_keys_costs_at_most_the_bound_of_its_outbox() {
    let _turn = take_turns();
    let bound = EngineConfig::default().outbox_bytes;
    for topics in [1, 50, 500] {
        assert!(cost_of_not_reading(topics, 100) <= bound);
    }
}
