//! A thousand connections at once, half of them dashboards, on the same streams.

mod common;

use std::collections::BTreeMap;

use common::{Raw, TestServer, tick};
use tickcast_protocol::message::{Message, Role, Start};

const EACH: usize = 500;
const TICKS: usize = 50;

#[test]
fn a_thousand_connections_get_every_tick_in_order() {
    // Silence for as long as others are being read is not what this is about.
    let server = TestServer::start(&[("heartbeat.interval", "60s"), ("limits.idle_timeout", "10m")]);
    let mut binary: Vec<_> = (0..EACH).map(|_| Raw::binary(server.address(), Role::SUBSCRIBER)).collect();
    for client in &mut binary {
        client.subscribe(1, "market_data.*", Start::LIVE);
        assert!(matches!(client.message(), Message::Acknowledge(_)));
    }
    let mut dashboards: Vec<_> = (0..EACH).map(|_| Raw::d1(server.address())).collect();
    for client in &mut dashboards {
        client.send_text(r#"{"message_type":"subscribe","subscription_type":"market_data"}"#);
        assert_eq!(client.next().json()["data"]["status"], "subscribed");
    }
    assert!(server.get("/websocket/status").1.contains("\"active_connections\":1000"));
    for number in 1..=TICKS {
        server.publish(&tick("BTC-USD", &format!("{number}.50")));
    }
    for client in &mut binary {
        let sequences: Vec<_> = (0..TICKS).map(|_| client.data().0.sequence).collect();
        assert_eq!(sequences, (1..=TICKS as u64).collect::<Vec<_>>());
    }
    for client in &mut dashboards {
        for number in 1..=TICKS {
            assert_eq!(client.next().json()["data"]["price"].to_string(), format!("{number}.5"));
        }
    }
    // One rendering an event however many dashboards read it; a second one only if two shards raced.
    let renders =
        server.metric("tickcast_shard_renders_total") - server.metric("tickcast_shard_lost_races_total");
    assert_eq!(renders, TICKS as f64);
    let lost: BTreeMap<_, _> = ["conflated", "gapped", "queued"]
        .map(|name| (name, server.metric(&format!("tickcast_shard_{name}_total"))))
        .into();
    assert!(lost.values().all(|count| *count == 0.0), "{lost:?}");
}
