//! `server.sends`: one system call for many sends, or one each. Clients cannot tell the difference.

mod common;

use std::collections::BTreeMap;
use std::thread;

use common::{BINARY, Raw, TestServer, tick};
use tickcast_protocol::frame::{Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Message, Role, Start};
use tickcast_protocol::registry;

const SYMBOLS: usize = 4;
/// Of each symbol.
const TICKS: u64 = 4_000;

/// Reads until every tick of every symbol came, in order, nothing twice and nothing left out.
fn read_all(raw: &mut Raw) {
    let mut symbols: BTreeMap<u32, (u64, String)> = BTreeMap::new();
    let mut missing = SYMBOLS as u64 * TICKS;
    while missing > 0 {
        let arrived = raw.next();
        assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
        for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
            let frame = frame.expect("a sound frame");
            if frame.header.type_id < registry::DATA_FIRST {
                continue;
            }
            let Message::MarketData(tick) = frame.view().expect("a sound payload").to_owned() else {
                panic!("only ticks are published")
            };
            let (last, symbol) =
                symbols.entry(frame.header.stream).or_insert_with(|| (0, tick.symbol.clone()));
            *last += 1;
            assert_eq!(
                (frame.header.sequence, &tick.symbol),
                (*last, &*symbol),
                "in order, and of one symbol"
            );
            assert_eq!(tick.price, Some(last.to_string().parse().expect("a decimal")), "its own bytes");
            missing -= 1;
        }
    }
    assert_eq!(symbols.len(), SYMBOLS);
}

fn many_readers_and_some_that_stall(sends: &str) {
    // Room for everything: what is looked for are bytes that are lost, doubled or given to another.
    let server = TestServer::start(&[
        ("server.sends", sends),
        ("server.shards", "1"),
        ("outbox.events", "100000"),
        ("outbox.bytes", "64MiB"),
    ]);
    let mut readers: Vec<_> = (0..8).map(|_| Raw::binary(server.address(), Role::SUBSCRIBER)).collect();
    let mut stalled: Vec<_> = (0..4).map(|_| Raw::binary_with_little_room(server.address())).collect();
    for reader in readers.iter_mut().chain(&mut stalled) {
        reader.subscribe(1, "market_data.**", Start::LIVE);
        assert!(matches!(reader.message(), Message::Acknowledge(_)));
    }
    // Leaves with bytes unread in the middle of it all: its reset must not concern anybody else.
    let leaver = {
        let mut leaver = Raw::binary_with_little_room(server.address());
        leaver.subscribe(1, "market_data.**", Start::LIVE);
        assert!(matches!(leaver.message(), Message::Acknowledge(_)));
        leaver
    };
    let readers: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            thread::spawn(move || {
                read_all(&mut reader);
                reader
            })
        })
        .collect();
    let mut leaver = Some(leaver);
    for at in 1..=TICKS {
        for symbol in 0..SYMBOLS {
            server.publish(&tick(&format!("S{symbol}"), &at.to_string()));
        }
        if at == TICKS / 2 {
            drop(leaver.take());
        }
    }
    for reader in readers {
        reader.join().expect("a reader got everything");
    }
    let queued = server.metric("tickcast_shard_queued");
    assert!(queued > 0.0, "who stalls has something waiting");
    for mut late in stalled {
        socket2::SockRef::from(&late.tcp).set_recv_buffer_size(1 << 20).expect("a receive buffer");
        read_all(&mut late);
    }
}

#[test]
fn one_system_call_for_many_sends_brings_every_tick_to_everyone() {
    many_readers_and_some_that_stall("io_uring");
}

#[test]
fn a_system_call_each_brings_every_tick_to_everyone() {
    many_readers_and_some_that_stall("single");
}
