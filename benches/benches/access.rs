//! Checked access: what the server does to a payload before it trusts it, step by step and as a whole.
//!
//! `access` checks structure (offsets, tags, UTF-8), `check` contents and bounds, `facts` hashes what
//! routing needs, `write_key` makes the topic's key. `facts` comes with the standard hash, which the
//! server's ingest uses, and with the engine's.
#![forbid(unsafe_code)]

use std::hash::RandomState;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, analytics, portfolio, tick, trade};
use tickcast_protocol::message::View;

fn access(c: &mut Criterion) {
    for message in [trade("BTCUSDT"), tick(), portfolio(), analytics()] {
        let checked = Checked::new(&message);
        let view = checked.view();
        let (std_hash, fold_hash) = (RandomState::new(), foldhash::fast::RandomState::default());
        let mut key = String::with_capacity(128);

        let mut group = c.benchmark_group(format!("access/{}", view.info().name));
        group.throughput(Throughput::Elements(1));
        group.bench_function("access", |b| b.iter(|| access_one(black_box(&checked)).info()));
        group.bench_function("check", |b| b.iter(|| black_box(view).check()));
        group.bench_function("facts", |b| b.iter(|| black_box(view).facts(&std_hash)));
        group.bench_function("facts_foldhash", |b| b.iter(|| black_box(view).facts(&fold_hash)));
        group.bench_function("write_key", |b| b.iter(|| black_box(view).write_key(&mut key)));
        group.bench_function("whole", |b| {
            b.iter(|| {
                let view = access_one(black_box(&checked));
                view.check().expect("a fixture passes");
                view.write_key(&mut key).expect("a fixture has a key");
                black_box(&key);
                view.facts(&std_hash)
            });
        });
        group.finish();
    }
}

fn access_one(checked: &Checked) -> View<'_> {
    let header = &checked.header;
    View::access(header.type_id, &checked.payload, header.root_len).expect("a fixture passes")
}

criterion_group!(benches, access);
criterion_main!(benches);
