//! Predicates: what a subscribe costs (parse, compile) and what an event costs (matches), by number of terms.
//!
//! `matches` is once for each distinct predicate that the index cannot answer, whatever the number of its
//! subscribers. `list` is one attribute and many values, `any` and `all` are many comparisons, of which
//! every one has to be made.
#![forbid(unsafe_code)]

use std::hash::RandomState;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, trade};
use tickcast_protocol::Predicate;

const TERMS: [usize; 4] = [1, 4, 16, 64];

/// A condition of so many terms.
type Write = fn(usize) -> String;

/// No event of the bench is in the list.
fn list(terms: usize) -> String {
    let symbols: Vec<String> = (0..terms).map(|number| format!("SYM{number}")).collect();
    format!("symbol in ({})", symbols.join(", "))
}

/// Different prices on both sides, so that nothing merges.
fn chain(terms: usize, comparison: &str, joint: &str) -> String {
    let bounds: Vec<String> =
        (1..=terms).map(|number| format!("price{comparison}{number}000000.5")).collect();
    bounds.join(joint)
}

fn predicate(c: &mut Criterion) {
    let hasher = RandomState::new();
    let event = Checked::new(&trade("BTCUSDT"));
    let attributes = event.view().facts(&hasher).attributes;
    let shapes: [(&str, Write); 3] = [
        ("list", list),
        ("any", |terms| chain(terms, ">", " or ")),
        ("all", |terms| chain(terms, "<", " and ")),
    ];
    for (shape, write) in shapes {
        let mut group = c.benchmark_group(format!("predicate/{shape}"));
        group.throughput(Throughput::Elements(1));
        for terms in TERMS {
            let text = write(terms);
            let parsed = Predicate::parse(&text).expect("within all bounds");
            let compiled = parsed.compile(&hasher);
            // What every comparison is made for: none decides before the last.
            assert_eq!(compiled.matches(&attributes), shape == "all");
            group.bench_function(BenchmarkId::new("parse", terms), |b| {
                b.iter(|| Predicate::parse(black_box(&text)));
            });
            group.bench_function(BenchmarkId::new("compile", terms), |b| {
                b.iter(|| black_box(&parsed).compile(&hasher));
            });
            group.bench_function(BenchmarkId::new("matches", terms), |b| {
                b.iter(|| black_box(&compiled).matches(black_box(&attributes)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, predicate);
criterion_main!(benches);
