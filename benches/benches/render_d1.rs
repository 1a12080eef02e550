//! JSON, made once per event and format: D1 in both cases, and native JSON.
//!
//! `access` is not in it: a view is read, and the text appended to a buffer that is used again.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, StableIds, analytics, quote, tick, trade};
use tickcast_compat::d1::{self, Case};
use tickcast_compat::native::native_encode;

fn render(c: &mut Criterion) {
    let messages = [
        ("market_data", tick()),
        ("market_data_quote_mid", quote()),
        ("public_trade", trade("BTCUSDT")),
        ("analytics_update", analytics()),
    ];
    for (name, message) in messages {
        let checked = Checked::new(&message);
        let (view, stamp) = (checked.view(), checked.stamp());
        let mut out = Vec::with_capacity(2_048);
        assert!(d1::event(&stamp, view, &StableIds, Case::Snake, &mut out), "D1 carries {name}");

        let mut group = c.benchmark_group(format!("render_d1/{name}"));
        group.throughput(Throughput::Elements(1));
        for (case_name, case) in [("snake", Case::Snake), ("camel", Case::Camel)] {
            group.bench_function(case_name, |b| {
                b.iter(|| {
                    out.clear();
                    d1::event(black_box(&stamp), black_box(view), &StableIds, case, &mut out)
                });
            });
        }
        group.bench_function("native", |b| {
            b.iter(|| {
                out.clear();
                native_encode(black_box(&stamp), black_box(view), &mut out);
            });
        });
        black_box(&out);
        group.finish();
    }
}

criterion_group!(benches, render);
criterion_main!(benches);
