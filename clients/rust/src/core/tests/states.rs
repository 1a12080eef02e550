//! How streams are, by the word of the server; and starts in the past.

use tickcast_protocol::Frame;
use tickcast_protocol::message::{
    History, IntervalOrigin, Kept as WireKept, SourceStatus, StateReason, StreamState, StreamStates,
    StreamStatus,
};

use super::*;

fn status(stream: u32, state: StreamState) -> StreamStatus {
    StreamStatus {
        stream,
        state,
        reason: StateReason::QUIET,
        origin: IntervalOrigin::LEARNED,
        interval_ms: 2_000,
        since: Timestamp(1),
        last_sequence: 3,
    }
}

fn told(states: &[(u32, StreamState)]) -> Message {
    StreamStates { states: states.iter().map(|(stream, state)| status(*stream, *state)).collect() }.into()
}

/// The changes that were told: key of the topic, from, to.
fn changes(script: &mut Script) -> Vec<(String, StreamState, StreamState)> {
    let changes = script.events().into_iter().filter_map(|event| match event {
        ClientEvent::Stream(change) => {
            Some((change.topic.key().to_owned(), change.from, change.status.state))
        }
        _ => None,
    });
    changes.collect()
}

#[test]
fn a_state_is_told_once_and_kept_by_stream() {
    let (mut script, key) = Script::live();
    script.bind(1, vec![binding(6, "market_data.ETH", 1)]);
    script.say(&[told(&[(5, StreamState::SUSPECT), (77, StreamState::STALE)])]);
    script.say(&[told(&[(5, StreamState::SUSPECT)])]);
    assert_eq!(changes(&mut script), [("BTC".into(), StreamState::LIVE, StreamState::SUSPECT)]);
    let states: Vec<_> =
        script.core.stream_states(key).map(|(topic, _, state)| (topic.key().to_owned(), state)).collect();
    assert_eq!(states, [("BTC".into(), StreamState::SUSPECT), ("ETH".into(), StreamState::LIVE)]);
    assert_eq!(script.core.stats().ignored, 1, "of a stream that was never announced");
    // An event alone changes nothing: the server says so.
    script.data(5, 1..=1);
    assert_eq!(changes(&mut script), []);
    script.say(&[told(&[(5, StreamState::LIVE)])]);
    assert_eq!(changes(&mut script), [("BTC".into(), StreamState::SUSPECT, StreamState::LIVE)]);
}

/// Comes back, and is bound to the same stream.
fn comes_back(script: &mut Script) {
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let request = script.request();
    script.acknowledge(request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 1)]);
}

#[test]
fn after_a_reconnect_a_stream_is_as_it_was_until_it_is_named_or_would_have_been() {
    let (mut script, _) = Script::live();
    script.say(&[told(&[(5, StreamState::STALE)])]);
    script.events();
    // Still stale: nothing is news.
    comes_back(&mut script);
    script.say(&[told(&[(5, StreamState::STALE)])]);
    script.beat(&[(5, 0)]);
    assert_eq!(changes(&mut script), []);
    // Live in the meantime: the server names it no more, and a heartbeat or an event shows it.
    for by_event in [false, true] {
        comes_back(&mut script);
        assert_eq!(changes(&mut script), []);
        if by_event {
            script.data(5, 1..=1)
        } else {
            script.beat(&[(5, 0)])
        }
        assert_eq!(changes(&mut script), [("BTC".into(), StreamState::STALE, StreamState::LIVE)]);
        script.say(&[told(&[(5, StreamState::STALE)])]);
        script.events();
    }
}

#[test]
fn a_start_in_the_past_asks_once_and_what_it_brings_heals_nothing() {
    let mut script = Script::open();
    let options = SubscribeOptions { since: Some(42), ..SubscribeOptions::default() };
    let key = script.core.subscribe(filter("market_data.*"), options);
    let heard = script.heard();
    let [Message::Since(asked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(asked.time, Timestamp(42));
    script.acknowledge(asked.request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 7)]);
    let kept = WireKept { stream: 5, oldest: 7, oldest_time: Timestamp(50) };
    script.say(&[
        History { subscription: 1, begun: Timestamp(9), short: vec![kept] }.into(),
        Begin { subscription: 1, bracket: Bracket::REPLAY, events: 2 }.into(),
    ]);
    script.data(5, 7..=8);
    script.say(&[End { subscription: 1, bracket: Bracket::REPLAY }.into()]);
    script.data(5, 9..=9);
    let events = script.events();
    let short = events.iter().find_map(|event| match event {
        ClientEvent::HistoryShort { subscription, begun, short } => Some((*subscription, *begun, short)),
        _ => None,
    });
    let (subscription, begun, short) = short.expect("it is told");
    assert_eq!((subscription, begun), (Some(key), 9));
    assert_eq!((short[0].topic.as_str(), short[0].oldest, short[0].oldest_time), (TOPIC, 7, 50));
    assert!(
        !events.iter().any(|event| matches!(event, ClientEvent::Gap(_))),
        "nothing was missed: {events:?}"
    );
    let account = script.core.account(key, TOPIC);
    assert_eq!((account.received, account.published, account.balances()), (3, 3, true));
    // It goes on where it stands, and does not ask for the past again.
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let heard = script.heard();
    assert!(
        matches!(&heard[..], [Message::Resume(resume)] if resume.positions[0].sequence == 9),
        "{heard:?}"
    );
}

#[test]
fn a_publisher_vouches_in_order_with_what_it_publishes() {
    let mut script = Script::open();
    script.core.publish(&tick(), script.now).unwrap();
    script.core.vouch(SourceStatus::ALIVE, &[TOPIC], 500, script.now).unwrap();
    let heard = script.heard();
    let [Message::MarketData(_), Message::Vouch(vouch)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((vouch.status, vouch.topics.as_slice()), (SourceStatus::ALIVE, &[TOPIC.to_owned()][..]));
    assert_eq!(vouch.interval_ms, 500);
    let subscriber = CoreOptions { role: Role::SUBSCRIBER, ..options() };
    let refused = Core::new(subscriber).vouch(SourceStatus::ALIVE, &[], 0, 0);
    assert_eq!(refused, Err(PublishError::NotPublisher));
}

#[test]
fn a_replay_says_so_on_each_connection_before_it_publishes() {
    let mut core =
        Core::new(CoreOptions { is_replay: true, role: Role::BOTH, publish_ttl: None, ..options() });
    core.connect(0);
    let mut script = Script { core, now: 0 };
    for boot_id in [1, 2] {
        // What waits for the connection does not get ahead of it.
        let (payload, header) = frame::payload(&tick());
        let header = frame::Header { stream: 4, sequence: 5, publish_time: 6, ..header };
        let frame = Frame { header, payload: &payload };
        script.core.publish_frame(&frame, script.now).unwrap();
        script.until_dial();
        script.accept(boot_id, 1);
        let heard = script.heard();
        let [.., Message::Vouch(vouch), Message::MarketData(_)] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((vouch.status, vouch.topics.len()), (SourceStatus::REPLAY, 0));
        script.close(1006);
    }
}

#[test]
fn a_frame_is_published_as_it_came_but_for_what_the_server_fills_in() {
    let mut script = Script::open();
    let (payload, header) = frame::payload(&tick());
    let header =
        frame::Header { stream: 4, sequence: 5, publish_time: 6, schema_version: 9, flags: 1, ..header };
    script.core.publish_frame(&Frame { header, payload: &payload }, script.now).unwrap();
    let sent = script.core.poll_transmit(script.now).expect("a message");
    let (frame, rest) = Frame::split_first(&sent, frame::PAYLOAD_BYTES_MAX).unwrap();
    let expected = frame::Header { stream: 0, sequence: 0, publish_time: 0, ..header };
    assert_eq!((frame.header, frame.payload, rest.len()), (expected, &payload[..], 0));
    let control = frame::Header { type_id: 9, ..header };
    let refused = script.core.publish_frame(&Frame { header: control, payload: &payload }, script.now);
    assert_eq!(refused, Err(PublishError::NotData("ping")));
    let packed = Frame { header: header.with_codec(1), payload: &payload };
    assert!(matches!(script.core.publish_frame(&packed, script.now), Err(PublishError::Invalid(_))));
    let large = vec![0; 1 << 20];
    let refused = script.core.publish_frame(&Frame { header, payload: &large }, script.now);
    assert!(matches!(refused, Err(PublishError::TooLarge { .. })));
}
