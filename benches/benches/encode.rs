//! Encode and stamp: from a message to its payload, and from a checked payload to a slot of the ring.
//!
//! `publish` is what the engine does under its lock and just before it: copy the payload behind its heads,
//! number it, stamp it, note it as last value, store it. Checking the payload comes before (`access`), the
//! shard's turn after (`fanout`).
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, Sink, analytics, engine, fill, portfolio, tick, trade, trades};
use tickcast_engine::Engine;
use tickcast_protocol::frame;

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let messages = [trade("BTCUSDT"), tick(), portfolio(), analytics()];
    for message in &messages {
        group.bench_function(message.info().name, |b| b.iter(|| frame::payload(black_box(message))));
    }
    group.finish();
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    group.throughput(Throughput::Elements(1));
    let trades = trades();

    {
        let (engine, _) = engine(0);
        let mut sent = 0;
        fill(&engine, None, &trades, &mut sent);
        group.bench_function("no_shards", |b| b.iter(|| publish_next(&engine, &trades, &mut sent)));
    }

    // The shard never sleeps, so no wake-up is in the figure: that one is a system call, made once per
    // batch. On a machine with few cores the shard's thread takes time from the publisher's.
    let (engine, mut shards) = engine(1);
    let mut shard = shards.remove(0);
    let mut sent = 0;
    fill(&engine, Some(&mut shard), &trades, &mut sent);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sink = Sink::default();
            while !done.load(Ordering::Relaxed) {
                if shard.turn(0).drained == 0 {
                    thread::yield_now();
                }
                shard.flush(&mut sink);
            }
        });
        group.bench_function("one_shard_draining", |b| {
            b.iter(|| publish_next(&engine, &trades, &mut sent));
        });
        done.store(true, Ordering::Relaxed);
    });
    let counts = engine.shard_stats()[0].snapshot();
    if counts.laps > 0 {
        eprintln!(
            "note: the shard did not keep up: lapped {} times, {} of {sent} events",
            counts.laps, counts.lapped
        );
    }
    group.finish();
}

fn publish_next(engine: &Engine, trades: &[Checked], sent: &mut u64) {
    *sent += 1;
    let event = &trades[*sent as usize % trades.len()];
    let receipt = engine.publish(black_box(event.incoming()), *sent);
    black_box(receipt).expect("within all bounds");
}

criterion_group!(benches, encode, publish);
criterion_main!(benches);
