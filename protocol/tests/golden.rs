//! Golden files: every type's bytes, full and minimal.
//!
//! The bytes are the wire: a difference is a break of the protocol unless a field was appended. Readers
//! in other languages decode the same files (`spec_reader.py` is the first of them).

mod support;

use std::fs;

use bytes::BytesMut;
use support::{golden, stamped, verify};
use tickcast_protocol::field::{Blob, Entry};
use tickcast_protocol::frame::{Frame, HEADER_LEN, Header, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::Holding;
use tickcast_protocol::{Message, codec, registry};

#[test]
fn every_type_has_its_bytes() {
    let mut files = Vec::new();
    for info in registry::types() {
        for (kind, full) in [("full", true), ("min", false)] {
            let message = Message::sample(info, full);
            let bytes = stamped(&message);
            let (frame, rest) = Frame::split_first(&bytes, PAYLOAD_BYTES_MAX).expect("a whole frame");
            assert!(rest.is_empty());
            let view = frame.view().expect("a sound payload");
            assert_eq!(view.to_owned(), message, "{}", info.name);
            if info.is_data() {
                view.write_key(&mut String::new()).expect("samples have keys");
            }
            files.push((format!("{}.{kind}.bin", info.name), bytes));
        }
    }
    verify(&golden(), &files);
}

/// Messages that are worth compressing: two as they come every day, and one with long runs of bytes that
/// never came before, of one byte, and of what came far before.
fn large() -> Vec<(&'static str, Message)> {
    let sample = |name| Message::sample(registry::by_name(name).expect("a type of the registry"), true);
    let mut state = 7u32;
    let noise: Vec<u8> = (0..700)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let Message::Extension(mut runs) = sample("extension") else { panic!("extension") };
    runs.bytes = Some(Blob([&noise[..], &[0xAB; 1_500], &noise].concat()));
    let Message::PortfolioSnapshot(mut portfolio) = sample("portfolio_snapshot") else { panic!("portfolio") };
    let position = portfolio.positions[0].clone();
    portfolio.positions =
        (0..20).map(|number| Holding { symbol: format!("symbol-{number}"), ..position.clone() }).collect();
    let Message::AnalyticsUpdate(mut analytics) = sample("analytics_update") else { panic!("analytics") };
    let entries = analytics.results.0.clone();
    analytics.results.0 = (0..40)
        .map(|number| Entry { key: format!("figure_{number}"), ..entries[number % entries.len()].clone() })
        .collect();
    vec![
        ("portfolio", Message::PortfolioSnapshot(portfolio)),
        ("analytics", Message::AnalyticsUpdate(analytics)),
        ("long_runs", Message::Extension(runs)),
    ]
}

/// A block that decompresses to the payload is right whatever else it could have been: unlike the frames
/// above, these files need not be what the compressor of today would make.
#[test]
fn compressed_frames_are_the_plain_ones() {
    let directory = golden().join("lz4");
    let mut plain_files = Vec::new();
    for (name, message) in large() {
        let plain = stamped(&message);
        let packed = directory.join(format!("{name}.bin"));
        if std::env::var_os("TICKCAST_BLESS").is_some() && !packed.exists() {
            let (header, _) = Header::parse(&plain).expect("our own frame");
            let mut block = Vec::new();
            assert!(codec::compress(&plain[HEADER_LEN..], &mut block), "{name} does not shrink");
            let header = Header { payload_len: block.len() as u32, ..header.with_codec(codec::LZ4) };
            fs::create_dir_all(&directory).expect("the directory can be made");
            fs::write(&packed, [&header.to_bytes()[..], &block].concat()).expect("it can be written");
        }
        let bytes = fs::read(&packed).unwrap_or_else(|_| {
            panic!("{name}.bin is missing: TICKCAST_BLESS=1 cargo test -p tickcast-protocol --test golden")
        });
        let (frame, rest) = Frame::split_first(&bytes, PAYLOAD_BYTES_MAX).expect("a whole frame");
        assert!(rest.is_empty() && frame.is_compressed() && bytes.len() < plain.len(), "{name}");
        let (header, payload) = frame.decompress(&mut BytesMut::new()).expect("a sound block");
        assert_eq!([&header.to_bytes()[..], &payload].concat(), plain, "{name}");
        plain_files.push((format!("{name}.plain.bin"), plain));
    }
    for (name, bytes) in &plain_files {
        let path = directory.join(name);
        if std::env::var_os("TICKCAST_BLESS").is_some() {
            fs::write(&path, bytes).expect("golden files can be written");
        }
        assert!(fs::read(&path).is_ok_and(|found| found == *bytes), "{name} is not what it should be");
    }
    let there = fs::read_dir(&directory).expect("the directory can be read").count();
    assert_eq!(there, 2 * plain_files.len(), "a file belongs to no message: remove it");
}
