//! One publisher, one shard, a thousand peers, no sockets: what a delivery costs before the kernel.
//!
//! ```text
//!   publish × events ─► turn ─► flush ─► 1,000 writes into nothing
//!   └───────────── whole ──────────────┘
//!                       └──── shard ───┘
//! ```
//!
//! All peers subscribe to one pattern over 64 streams. An element is a delivery: events × peers. Ring and
//! histories are full before anything is measured.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, Sink, attach, drain, engine, fill, publish, trades};
use tickcast_engine::{Engine, Format, Shard};

/// Peers of the shard.
const PEERS: usize = 1_000;
/// Events in one turn: one when it is quiet, more when the shard was busy with the turn before.
const EVENTS_PER_TURN: [usize; 3] = [1, 16, 64];
/// Events of the turn that is checked before anything is measured.
const EVENTS_CHECKED: usize = 16;

struct Bench {
    engine: Engine,
    shard: Shard,
    trades: Vec<Checked>,
    sent: u64,
    sink: Sink,
}

impl Bench {
    /// `format_of` says what each peer reads.
    fn new(format_of: impl Fn(usize) -> Format) -> Self {
        let (engine, mut shards) = engine(1);
        let mut bench =
            Self { engine, shard: shards.remove(0), trades: trades(), sent: 0, sink: Sink::default() };
        fill(&bench.engine, Some(&mut bench.shard), &bench.trades, &mut bench.sent);
        attach(&mut bench.shard, "public_trade.*", (0..PEERS).map(format_of));

        // It measures what it says: each peer gets each event, all of them in one write.
        bench.sink = Sink::default();
        let before = bench.shard.stats().deliveries.get();
        bench.whole(EVENTS_CHECKED);
        let delivered = bench.shard.stats().deliveries.get() - before;
        assert_eq!(delivered, (EVENTS_CHECKED * PEERS) as u64);
        assert_eq!(bench.sink.writes, PEERS as u64);
        assert!(bench.sink.bytes >= (EVENTS_CHECKED * PEERS * bench.trades[0].frame_len()) as u64);
        bench
    }

    fn publish(&mut self, events: usize) {
        publish(&self.engine, black_box(&self.trades), &mut self.sent, events);
    }

    fn distribute(&mut self) {
        drain(&mut self.shard, &mut self.sink);
        black_box(&self.sink);
    }

    fn whole(&mut self, events: usize) {
        self.publish(events);
        self.distribute();
    }

    /// The time of `turns` turns without that of their publishes.
    fn distribute_timed(&mut self, events: usize, turns: u64) -> Duration {
        let mut elapsed = Duration::ZERO;
        for _ in 0..turns {
            self.publish(events);
            let start = Instant::now();
            self.distribute();
            elapsed += start.elapsed();
        }
        elapsed
    }
}

fn one_to_1k_fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_to_1k_fanout");
    let binary = |_| Format::Binary;
    let half_d1 = |peer| if peer % 2 == 0 { Format::Binary } else { Format::D1Snake };

    for events in EVENTS_PER_TURN {
        group.throughput(Throughput::Elements((events * PEERS) as u64));
        let mut bench = Bench::new(binary);
        group.bench_function(BenchmarkId::new("binary/whole", events), |b| b.iter(|| bench.whole(events)));
        group.bench_function(BenchmarkId::new("binary/shard", events), |b| {
            b.iter_custom(|turns| bench.distribute_timed(events, turns));
        });
        let mut bench = Bench::new(half_d1);
        group.bench_function(BenchmarkId::new("half_d1/whole", events), |b| b.iter(|| bench.whole(events)));
    }
    group.finish();
}

criterion_group!(benches, one_to_1k_fanout);
criterion_main!(benches);
