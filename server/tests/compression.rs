//! Large messages are compressed once, for those who asked for it; what anybody reads stays the same.

mod common;

use std::time::Duration;

use common::{PATIENCE, Raw, TestServer, sample, tick};
use tickcast_client::{Client, ClientEvent, ClientOptions, CoreOptions, SubscribeOptions};
use tickcast_protocol::codec::{LZ4, LZ4_BIT, NONE};
use tickcast_protocol::field::{Entry, Scalar};
use tickcast_protocol::message::{Hello, Holding, Message, Role, Start};
use tickcast_protocol::{Header, codec, frame};

/// Silence for as long as others are being read is not what this is about.
const QUIET: &[(&str, &str)] = &[("heartbeat.interval", "60s"), ("limits.idle_timeout", "10m")];
const FILTERS: [&str; 3] = ["market_data.*", "analytics_update.*", "portfolio_snapshot.*"];
const ROUNDS: u32 = 20;
/// Figures of an analysis, positions of a portfolio.
const PARTS: u32 = 40;

/// An analysis of some 1,400 bytes.
fn analysis(round: u32) -> Message {
    let Message::AnalyticsUpdate(mut analysis) = sample("analytics_update") else { panic!("analytics") };
    let figure = |number| Entry {
        key: format!("figure_{number}"),
        value: Scalar::Float(f64::from(round * 1_000 + number) + 0.25),
    };
    analysis.results.0 = (0..PARTS).map(figure).collect();
    Message::AnalyticsUpdate(analysis)
}

/// A portfolio of some 2,500 bytes.
fn portfolio(round: u32) -> Message {
    let Message::PortfolioSnapshot(mut portfolio) = sample("portfolio_snapshot") else { panic!("portfolio") };
    let position = portfolio.positions[0].clone();
    let held = |number| Holding {
        symbol: format!("SYMBOL-{number}"),
        quantity: format!("{round}.{number}").parse().expect("a decimal"),
        ..position.clone()
    };
    portfolio.positions = (0..PARTS).map(held).collect();
    Message::PortfolioSnapshot(portfolio)
}

/// What is published, in order: a small message and two large ones a round.
fn messages() -> Vec<Message> {
    (1..=ROUNDS)
        .flat_map(|round| [tick("BTC-USD", &format!("{round}.50")), analysis(round), portfolio(round)])
        .collect()
}

fn subscribed(mut client: Raw, start: Start) -> Raw {
    for (request, filter) in (1..).zip(FILTERS) {
        client.subscribe(request, filter, start);
        while !matches!(client.message(), Message::Acknowledge(answer) if answer.request == request) {}
    }
    client
}

/// Reads that many events; each is compressed exactly when it is large and `codec` says so.
fn read(client: &mut Raw, count: usize, codec: u8) -> Vec<Message> {
    let one = |_| {
        let (header, message): (Header, Message) = client.data();
        let is_large = !matches!(message, Message::MarketData(_));
        assert_eq!(header.codec(), if is_large { codec } else { NONE }, "{header:?}");
        assert_eq!(header.payload_len < header.raw_len, header.codec() == LZ4, "{header:?}");
        message
    };
    (0..count).map(one).collect()
}

fn figure(server: &TestServer, name: &str) -> f64 {
    server.metric(&format!("tickcast_shard_{name}_total"))
}

/// By the client library, which offers LZ4 unless told otherwise.
fn read_by_the_library(server: &TestServer, lz4: bool, expected: &[Message]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut options = ClientOptions::new(server.url());
        options.core = CoreOptions { lz4, ..options.core };
        let (client, mut events) = Client::connect(options).await.expect("connects");
        assert_eq!(client.server().expect("welcomed").lz4, lz4);
        for filter in FILTERS {
            client.watch(filter, SubscribeOptions::default()).expect("a filter");
        }
        let (mut acknowledged, mut got) = (0, Vec::new());
        while got.len() < expected.len() {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time");
            match event.expect("the client lives") {
                ClientEvent::Acknowledged { .. } => {
                    acknowledged += 1;
                    if acknowledged == FILTERS.len() {
                        expected.iter().for_each(|message| server.publish(message));
                    }
                }
                ClientEvent::Data(data) => got.push(data.message().expect("a sound payload")),
                event @ (ClientEvent::Gap(_) | ClientEvent::Violation(_)) => panic!("{event:?}"),
                _ => {}
            }
        }
        assert!(got == expected, "what came is not what was published");
        let stats = client.stats();
        let large = expected.len() as u64 * 2 / 3;
        assert_eq!(stats.compressed, if lz4 { large } else { 0 });
        assert_eq!(stats.compressed_saved_bytes > 0, lz4);
        client.close(Duration::from_secs(5)).await;
    });
}

#[test]
fn a_large_message_is_compressed_once_and_everyone_reads_the_same() {
    let server = TestServer::start(QUIET);
    let binary = |codecs| {
        let client = Raw::binary_that_reads(codecs, server.address(), Role::SUBSCRIBER);
        subscribed(client, Start::LIVE)
    };
    let mut packed = [LZ4_BIT, LZ4_BIT, 0xFF].map(binary);
    let mut plain = binary(0);
    let mut dashboard = Raw::d1(server.address());
    dashboard.send_text(r#"{"message_type":"subscribe","subscription_type":"analytics"}"#);
    assert_eq!(dashboard.next().json()["data"]["status"], "subscribed");

    let messages = messages();
    messages.iter().for_each(|message| server.publish(message));
    for client in &mut packed {
        assert!(read(client, messages.len(), LZ4) == messages, "compressed, then as it was");
    }
    assert!(read(&mut plain, messages.len(), NONE) == messages);
    for round in 1..=ROUNDS {
        let event = dashboard.next().json();
        for number in 0..PARTS {
            let value = event["data"]["results"][format!("figure_{number}")].as_f64();
            assert_eq!(value, Some(f64::from(round * 1_000 + number) + 0.25), "{event}");
        }
    }

    // Two a round, however many read them and on however many shards; the ticks are too small.
    let large = f64::from(2 * ROUNDS);
    assert_eq!((figure(&server, "compressed"), figure(&server, "incompressible")), (large, 0.0));
    assert!(figure(&server, "compressed_saved_bytes") > large * 500.0);
    assert_eq!(figure(&server, "deliveries_binary"), (4 * messages.len()) as f64);

    // The last values are still compressed from before.
    let late = Raw::binary_that_reads(LZ4_BIT, server.address(), Role::SUBSCRIBER);
    let mut late = subscribed_to_one(late, "portfolio_snapshot.*", Start::SNAPSHOT);
    assert!(read(&mut late, 1, LZ4) == [portfolio(ROUNDS)]);
    assert_eq!(figure(&server, "compressed"), large);
}

/// Subscribes without waiting for the answer, which [`Raw::data`] skips.
fn subscribed_to_one(mut client: Raw, filter: &str, start: Start) -> Raw {
    client.subscribe(1, filter, start);
    client
}

#[test]
fn the_client_library_reads_compressed_and_plain_alike() {
    let server = TestServer::start(QUIET);
    read_by_the_library(&server, true, &messages());
    assert_eq!(figure(&server, "compressed"), f64::from(2 * ROUNDS));
    read_by_the_library(&server, false, &messages());
    assert_eq!(figure(&server, "compressed"), f64::from(2 * ROUNDS));
}

#[test]
fn what_is_offered_and_what_is_set_decide_together() {
    let off = [QUIET, &[("compression.lz4", "false")]].concat();
    let high = [QUIET, &[("compression.lz4_min_bytes", "64KiB")]].concat();
    for (settings, offered, used, codec) in [
        (QUIET, 0xFF, LZ4_BIT, LZ4),
        (QUIET, 0xFE, 0, NONE),
        (&off[..], LZ4_BIT, 0, NONE),
        (&high[..], LZ4_BIT, LZ4_BIT, NONE),
    ] {
        let server = TestServer::start(settings);
        let mut client = Raw::connect(server.address(), "/ws", Some("tickcast.v2")).expect("upgrades");
        let (role, name) = (Role::SUBSCRIBER, "test".to_owned());
        client.say(&Message::Hello(Hello { role, client: name.clone(), name, codecs: offered }));
        let Message::Welcome(welcome) = client.message() else { panic!("welcome") };
        assert_eq!(welcome.codecs, used, "{settings:?}");
        let mut client = subscribed(client, Start::LIVE);
        server.publish(&analysis(1));
        assert!(read(&mut client, 1, codec) == [analysis(1)]);
        assert_eq!(figure(&server, "compressed"), f64::from(codec == LZ4), "{settings:?}");
    }
}

#[test]
fn a_publisher_that_compresses_is_told_not_to() {
    let server = TestServer::start(QUIET);
    let mut publisher = Raw::binary(server.address(), Role::BOTH);
    publisher.subscribe(1, "analytics_update.*", Start::LIVE);
    assert!(matches!(publisher.message(), Message::Acknowledge(_)));
    let (payload, header) = frame::payload(&analysis(1));
    let mut block = Vec::new();
    assert!(codec::compress(&payload, &mut block));
    let packed = Header { payload_len: block.len() as u32, ..header.with_codec(LZ4) };
    let packed = [&packed.to_bytes()[..], &block].concat();
    publisher.send(common::BINARY, &packed);
    let Message::Error(error) = publisher.message() else { panic!("an error") };
    assert_eq!((error.field.as_str(), error.request), ("flags.codec", 0));
    assert!(error.message.contains("send the payload uncompressed"), "{}", error.message);
    // The connection lives, and nothing was published.
    publisher.say(&analysis(2));
    let (header, message) = publisher.data();
    assert_eq!(header.sequence, 1);
    assert!(message == analysis(2));
}
