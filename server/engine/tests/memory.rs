//! What a peer costs in memory: hardly anything while it keeps up, and a bounded amount when it does not
//! read. Counted by the allocator, for this thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use tickcast_engine::{
    Condition, Delivery, Engine, EngineConfig, Event, Format, Incoming, Notify, PeerId, PeerIo, Render,
    Shard, Start, Subscribe, Written, binary_message,
};
use tickcast_protocol::registry::{self, Attributes, Facts};
use tickcast_protocol::{BootId, Class, Epoch, Message, Predicate, Topic, TopicFilter};

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

fn note(change: impl Fn(usize) -> usize) {
    // A thread that ends may free when its counter is gone.
    let _ = HELD.try_with(|held| held.set(change(held.get())));
}

// SAFETY: every call goes to the system's allocator unchanged; only sizes are added up beside it, in a cell
// of the calling thread that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(|held| held.wrapping_add(layout.size()));
        // SAFETY: as promised by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(|held| held.wrapping_sub(layout.size()));
        // SAFETY: as promised by our caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> usize {
    HELD.with(Cell::get)
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
    let config = EngineConfig { ring_slots: 1_024, ..EngineConfig::default() };
    let notify: Arc<dyn Notify> = Arc::new(|| {});
    let (engine, mut shards) = Engine::new(config, Epoch(1), BootId(1), Arc::new(Words), vec![notify]);
    (engine, shards.remove(0))
}

/// Publishes one event of this size on each of the topics `S0`, `S1`, ….
fn publish(engine: &Engine, topics: usize, size: usize) {
    for number in 0..topics {
        let topic = Topic::parse(&format!("market_data.S{number}")).unwrap();
        let facts = Facts { class: Class::Latest, conflation_key: 1, attributes: Attributes::default() };
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

#[test]
fn peer_that_never_reads_costs_at_most_64_kib() {
    const PEERS: usize = 100;
    for (topics, size) in [(1, 1_024), (50, 1_024), (1, 100), (50, 100), (500, 100)] {
        let (engine, mut shard) = engine();
        let mut net = Net { is_full: false };
        // What is there without them: histories, records, and once the events that wait.
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
        assert!(each <= 64 * 1024, "{each} bytes each at {topics} topics of {size} bytes");
    }
}
