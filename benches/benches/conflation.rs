//! The newest of each key: held once for everyone of a rate, or kept in the outbox of who does not read.
//!
//! ```text
//!   publish × 64 ─► turn ─► window, once for 1,000 peers          `rate`
//!   publish × 64 ─► turn ─► outbox of one that is full           `outbox`
//! ```
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::io::IoSlice;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, Sink, engine, publish, tick};
use tickcast_engine::{Delivery, Format, PeerId, PeerIo, Start, Subscribe, Written};
use tickcast_protocol::TopicFilter;

/// Peers of one rate.
const PEERS: usize = 1_000;
/// Events in one turn.
const EVENTS: usize = 64;

/// A socket that takes nothing.
struct Full;

impl PeerIo for Full {
    fn write(&mut self, _: PeerId, _: &[IoSlice<'_>]) -> Written {
        Written::WouldBlock
    }
}

fn subscribe(shard: &mut tickcast_engine::Shard, delivery: &Delivery) -> PeerId {
    let peer = shard.attach(Format::Binary);
    let filter = TopicFilter::parse("market_data.*").expect("a filter of ours");
    let request = Subscribe { filter, start: Start::Live, delivery: delivery.clone() };
    shard.subscribe(peer, request, |_| None).expect("a fresh peer may subscribe");
    peer
}

fn conflation(c: &mut Criterion) {
    let mut group = c.benchmark_group("conflation");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let ticks = [Checked::new(&tick())];

    // One event in 64 turns is due: the others replace what is held, whoever it is held for.
    let (publisher, mut shards) = engine(1);
    let mut shard = shards.remove(0);
    let rated = Delivery { interval: 64, ..Delivery::default() };
    for _ in 0..PEERS {
        subscribe(&mut shard, &rated);
    }
    let (mut sent, mut sink, mut now) = (0, Sink::default(), 0);
    let mut turn = |sink: &mut Sink| {
        now += 1;
        publish(&publisher, black_box(&ticks), &mut sent, EVENTS);
        let _ = shard.turn(now);
        shard.flush(sink);
    };
    (0..128).for_each(|_| turn(&mut sink));
    let before = sink.writes;
    (0..128).for_each(|_| turn(&mut sink));
    assert_eq!(sink.writes - before, 2 * PEERS as u64, "two were due in 128 turns");
    group.bench_function("rate/1000_peers", |b| b.iter(|| turn(&mut sink)));

    let (publisher, mut shards) = engine(1);
    let mut shard = shards.remove(0);
    let peer = subscribe(&mut shard, &Delivery::default());
    let mut sent = 0;
    let mut turn = || {
        publish(&publisher, black_box(&ticks), &mut sent, EVENTS);
        let _ = shard.turn(0);
        shard.flush(&mut Full);
    };
    (0..64).for_each(|_| turn());
    group.bench_function("outbox/1_peer", |b| b.iter(&mut turn));
    assert!(shard.peer_status(peer).expect("attached").conflated > 0, "its outbox is full");
    group.finish();
}

criterion_group!(benches, conflation);
criterion_main!(benches);
