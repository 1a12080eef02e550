//! The ring by itself, on one thread: store, read what is there, look when nothing is.
//!
//! What it does not show: a slot's cache line on its way from the writer's core to a reader's.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tickcast_engine::ring::{BATCH_EVENTS_MAX, CAPACITY_DEFAULT, Ring};

/// Events that a reader finds waiting.
const WAITING: usize = 1_024;

/// A pointer like the engine's, to an event that is made once, so that the ring's own cost remains.
fn event() -> Arc<[u8; 128]> {
    Arc::new([7; 128])
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(1));
    let (mut writer, ring) = Ring::with_capacity(CAPACITY_DEFAULT).expect("a power of two");
    let event = event();
    // A full ring: each publish retires a node.
    for _ in 0..CAPACITY_DEFAULT {
        writer.publish(Arc::clone(&event));
    }
    group.bench_function("publish", |b| b.iter(|| writer.publish(black_box(Arc::clone(&event)))));

    let mut reader = ring.reader();
    group.bench_function("empty_poll", |b| {
        b.iter(|| black_box(&mut reader).read_batch(BATCH_EVENTS_MAX, |_, _| {}));
    });
    group.finish();
}

fn read(c: &mut Criterion) {
    let (mut writer, ring) = Ring::with_capacity(CAPACITY_DEFAULT).expect("a power of two");
    let start = ring.reader();
    for _ in 0..WAITING {
        writer.publish(event());
    }
    let mut group = c.benchmark_group("ring/read_hit");
    group.throughput(Throughput::Elements(WAITING as u64));
    for batch in [1, 16, BATCH_EVENTS_MAX] {
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter_batched_ref(
                || start.clone(),
                |reader| {
                    // As a shard does: one clone per event, so that the epoch protects only the look.
                    while reader.read_batch(batch, |_, event| drop(black_box(Arc::clone(event)))).remaining {}
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, publish, read);
criterion_main!(benches);
