//! LZ4 of one payload: what a shard pays once for a large message, what each client that asked for it pays,
//! and how many bytes that saves.
//!
//! Three shapes of about 0.5, 1, 2 and 8 KiB, in which names come again and figures do not: the saving of
//! a payload whose figures repeat would flatter. The sizes before and after are printed once.
#![forbid(unsafe_code)]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tickcast_benches::{Checked, analytics, portfolio};
use tickcast_protocol::codec::{self, LZ4};
use tickcast_protocol::field::{Entry, Json, Scalar};
use tickcast_protocol::message::{Extension, Holding, Message};
use tickcast_protocol::{Decimal, Header};

const SIZES: [usize; 4] = [512, 1_024, 2_048, 8_192];

/// Figures like those of a market: close to each other, and no two the same.
struct Walk(u64);

impl Walk {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 40
    }

    fn decimal(&mut self, digits: i8) -> Decimal {
        Decimal::new(9_000_000 + self.next() as i64 % 100_000, -digits).expect("few digits")
    }
}

fn an_analysis(entries: usize) -> Message {
    let Message::AnalyticsUpdate(mut message) = analytics() else { unreachable!("a fixture") };
    let mut walk = Walk(1);
    let figure = |number| Entry {
        key: format!("indicator_{number}"),
        value: Scalar::Float(walk.next() as f64 / 1_000.0),
    };
    message.results.0 = (0..entries).map(figure).collect();
    message.into()
}

fn a_portfolio(positions: usize) -> Message {
    let Message::PortfolioSnapshot(mut message) = portfolio() else { unreachable!("a fixture") };
    let mut walk = Walk(2);
    let held = |number| Holding {
        symbol: format!("SYM{number:03}USDT"),
        quantity: walk.decimal(4),
        average_price: walk.decimal(2),
        market_price: walk.decimal(2),
        unrealized_pnl: walk.decimal(5),
        unrealized_pnl_ratio: walk.next() as f64 / 1e9,
    };
    message.positions = (0..positions).map(held).collect();
    message.position_count = positions as u32;
    message.into()
}

/// An order book, which travels as JSON within an extension.
fn a_book(levels: usize) -> Message {
    let mut walk = Walk(3);
    let mut side = || {
        let level = |_| format!("[{},{}]", walk.decimal(2), walk.decimal(5));
        (0..levels).map(level).collect::<Vec<_>>().join(",")
    };
    let json = format!(r#"{{"bids":[{}],"asks":[{}]}}"#, side(), side());
    Extension {
        name: "order_book".into(),
        key: "BTCUSDT".into(),
        ts: Default::default(),
        critical: false,
        json: Some(Json(json)),
        bytes: None,
        symbol: Some("BTCUSDT".into()),
        user_id: None,
        session_id: None,
        portfolio_id: None,
    }
    .into()
}

/// The smallest message of a shape whose payload has at least `size` bytes.
fn of_size(shape: &str, size: usize) -> Checked {
    let make = match shape {
        "analytics" => an_analysis,
        "portfolio" => a_portfolio,
        _ => a_book,
    };
    (1..).map(|parts| Checked::new(&make(parts))).find(|found| found.payload.len() >= size).expect("grows")
}

fn compression(c: &mut Criterion) {
    let mut group = c.benchmark_group("compression");
    for shape in ["analytics", "portfolio", "book"] {
        for size in SIZES {
            let message = of_size(shape, size);
            let raw = &message.payload;
            let mut block = Vec::with_capacity(2 * raw.len());
            assert!(codec::compress(raw, &mut block), "{shape} of {size} bytes does not shrink");
            let packed = block.clone();
            let header = Header { payload_len: packed.len() as u32, ..message.header.with_codec(LZ4) };
            let mut buffer = BytesMut::with_capacity(16 * 1024);
            let (whole, payload) = codec::decompress(&header, &packed, &mut buffer).expect("our own block");
            assert!(whole == message.header && payload == *raw, "{shape} of {size} bytes comes back");
            drop(payload);
            eprintln!(
                "{shape}: {} bytes are {}, {} percent less",
                raw.len(),
                packed.len(),
                (raw.len() - packed.len()) * 100 / raw.len()
            );

            group.throughput(Throughput::Bytes(raw.len() as u64));
            group.bench_function(format!("compress/{shape}/{size}"), |b| {
                b.iter(|| {
                    block.clear();
                    codec::compress(black_box(raw), &mut block)
                });
            });
            group.bench_function(format!("decompress/{shape}/{size}"), |b| {
                b.iter(|| codec::decompress(black_box(&header), black_box(&packed), &mut buffer));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, compression);
criterion_main!(benches);
