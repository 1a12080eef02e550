//! What a publish costs when very many subscriptions do not match it: nothing, or one look-up.
//!
//! ```text
//!   publish ─► turn ─► flush ─► one peer of 1 + N
//! ```
//!
//! One peer gets the event. The other N are subscribed to exact topics, to patterns, or to their own user on
//! the very stream that is published on, and get nothing. The figures for 10 and for 100,000 must be the
//! same.
#![forbid(unsafe_code)]

use std::hash::RandomState;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, Sink, attach, drain, engine, publish, trade};
use tickcast_engine::{Condition, Delivery, Engine, Format, Shard, Start, Subscribe};
use tickcast_protocol::{Predicate, TopicFilter};

const OTHERS: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// Symbol of the stream that is published on.
const SYMBOL: &str = "BTCUSDT-1";

struct Bench {
    engine: Engine,
    shard: Shard,
    trades: Vec<Checked>,
    sent: u64,
    sink: Sink,
}

impl Bench {
    /// `other` says what each of the others wants: topics, and perhaps a predicate.
    fn new(others: usize, other: impl Fn(usize) -> (String, Option<String>)) -> Self {
        let (engine, mut shards) = engine(1);
        let mut shard = shards.remove(0);
        let trades = vec![Checked::new(&trade(SYMBOL))];
        let hasher = RandomState::new();
        for number in 0..others {
            let (filter, predicate) = other(number);
            let parsed = predicate.map(|text| Predicate::parse(&text).expect("a predicate of ours"));
            let condition = parsed.map(|predicate| Condition::new(predicate, &hasher));
            let delivery = Delivery { condition, ..Delivery::default() };
            let filter = TopicFilter::parse(&filter).expect("a filter of ours");
            let peer = shard.attach(Format::Binary);
            let request = Subscribe { filter, start: Start::Live, delivery };
            shard.subscribe(peer, request, |_| None).expect("a fresh peer may subscribe");
        }
        attach(&mut shard, &format!("public_trade.{SYMBOL}"), [Format::Binary]);
        let mut bench = Self { engine, shard, trades, sent: 0, sink: Sink::default() };
        // The first binds the stream, to whoever may get it.
        bench.whole();
        bench.sink = Sink::default();
        bench.whole();
        assert_eq!(bench.sink.writes, 1, "one peer gets it");
        bench
    }

    fn whole(&mut self) {
        publish(&self.engine, black_box(&self.trades), &mut self.sent, 1);
        drain(&mut self.shard, &mut self.sink);
        black_box(&self.sink);
    }
}

fn one_of_many_matches(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_of_many_matches");
    group.throughput(Throughput::Elements(1));
    for others in OTHERS {
        let mut bench = Bench::new(others, |number| (format!("public_trade.OTHER-{number}"), None));
        group.bench_function(BenchmarkId::new("exact", others), |b| b.iter(|| bench.whole()));
        let mut bench = Bench::new(others, |number| (format!("public_trade.OTHER-{number}.*"), None));
        group.bench_function(BenchmarkId::new("pattern", others), |b| b.iter(|| bench.whole()));
        let mut bench =
            Bench::new(others, |number| ("public_trade.**".into(), Some(format!("user=\"u{number}\""))));
        group.bench_function(BenchmarkId::new("equality", others), |b| b.iter(|| bench.whole()));
    }
    group.finish();
}

/// A peer that comes and goes while very many others stay.
fn come_and_go(c: &mut Criterion) {
    let mut group = c.benchmark_group("come_and_go");
    let hasher = RandomState::new();
    for others in [10, 10_000] {
        let mut bench =
            Bench::new(others, |number| ("public_trade.**".into(), Some(format!("user=\"u{number}\""))));
        let condition = Condition::new(Predicate::parse("user=newcomer").expect("one of ours"), &hasher);
        let filter = TopicFilter::parse("public_trade.**").expect("a filter of ours");
        group.bench_function(BenchmarkId::new("equality", others), |b| {
            b.iter(|| {
                let peer = bench.shard.attach(Format::Binary);
                let delivery = Delivery { condition: Some(condition.clone()), ..Delivery::default() };
                let request = Subscribe { filter: filter.clone(), start: Start::Live, delivery };
                bench.shard.subscribe(peer, request, |_| None).expect("a fresh peer may subscribe");
                bench.shard.detach(peer);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, one_of_many_matches, come_and_go);
criterion_main!(benches);
