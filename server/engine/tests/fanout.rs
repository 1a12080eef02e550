//! The engine from outside: publish, subscribe, turn, flush, and what peers get, byte for byte.
#![cfg(not(tickcast_loom))]

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tickcast_engine::{
    BIND_BYTES_MAX, CONTROL_BYTES_MAX, Delivery, Engine, EngineConfig, Event, Flushed, Format, Incoming,
    Notify, PeerId, PeerIo, PublishError, Render, SendError, Shard, Start, Subscribe, SubscribeError,
    Subscribed, Written, binary_message,
};
use tickcast_protocol::frame::{Frame, Frames};
use tickcast_protocol::message::{Policy, Pong};
use tickcast_protocol::registry::{self, Attributes, DATA_FIRST, Facts, Part};
use tickcast_protocol::{
    BootId, Class, CloseCode, Epoch, Message, Sequence, SubscriptionId, Topic, TopicFilter,
};

const EPOCH: Epoch = Epoch(5);

struct Words;

impl Render for Words {
    fn event(&self, event: &Event, format: Format) -> Option<Bytes> {
        assert!(!format.is_binary());
        Some(Bytes::from(format!("[{} {}]", event.topic(), event.sequence())))
    }

    fn control(&self, message: &Message, topic: Option<&Topic>, format: Format) -> Option<Bytes> {
        match (format, message) {
            (format, message) if format.is_binary() => Some(binary_message(message)),
            (_, Message::Notice(notice)) => Some(Bytes::from(format!("[{} lost {}]", topic?, notice.gapped))),
            _ => None,
        }
    }
}

/// Sockets that keep what they took, and take as much as they are told to.
#[derive(Default)]
struct Net {
    taken: HashMap<PeerId, Vec<u8>>,
    room: HashMap<PeerId, usize>,
    dead: Vec<PeerId>,
    writes: usize,
}

impl PeerIo for Net {
    fn write(&mut self, peer: PeerId, bufs: &[IoSlice<'_>]) -> Written {
        self.writes += 1;
        if self.dead.contains(&peer) {
            return Written::Gone;
        }
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        let room = self.room.entry(peer).or_insert(usize::MAX);
        let taken = bytes.len().min(*room);
        *room = room.saturating_sub(taken);
        self.taken.entry(peer).or_default().extend_from_slice(&bytes[..taken]);
        if taken == 0 { Written::WouldBlock } else { Written::Bytes(taken) }
    }
}

impl Net {
    fn close_socket(&mut self, peer: PeerId) {
        self.room.insert(peer, 0);
    }

    fn open_socket(&mut self, peer: PeerId) {
        self.room.insert(peer, usize::MAX);
    }

    /// What a peer got since the last look, in words. Panics at half frames.
    fn heard(&mut self, peer: PeerId) -> String {
        let bytes = self.taken.remove(&peer).unwrap_or_default();
        let mut words = Vec::new();
        let mut rest = &bytes[..];
        while let [0x82, length, ..] = *rest {
            let (at, length) = match length {
                127 => (10, u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize),
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                length => (2, usize::from(length)),
            };
            for frame in Frames::new(&rest[at..at + length], 1 << 20) {
                let frame = frame.unwrap();
                words.push(match frame.header {
                    header if header.type_id >= DATA_FIRST => {
                        format!("e{}:{}", header.stream, header.sequence)
                    }
                    _ => word(frame.view().unwrap().to_owned()),
                });
            }
            rest = &rest[at + length..];
        }
        assert!(rest.is_empty(), "half a frame, or text");
        words.join(" ")
    }

    fn text(&mut self, peer: PeerId) -> String {
        String::from_utf8(self.taken.remove(&peer).unwrap_or_default()).unwrap()
    }
}

fn word(message: Message) -> String {
    match message {
        Message::Bind(bind) => {
            let one = |binding: &tickcast_protocol::message::Binding| {
                format!("{}={}@{}", binding.stream, binding.topic, binding.next_sequence)
            };
            let bindings: Vec<String> = bind.bindings.iter().map(one).collect();
            format!("bind{}({})", bind.subscription, bindings.join(","))
        }
        Message::Begin(begin) => format!("begin{}({})", begin.subscription, begin.events),
        Message::End(end) => format!("end{}", end.subscription),
        Message::Notice(notice) => format!(
            "n{}:{}:{}-{}c{}g{}({})",
            notice.subscription,
            notice.stream,
            notice.from,
            notice.through,
            notice.conflated,
            notice.gapped,
            notice.reason.name()
        ),
        Message::Heartbeat(heartbeat) => {
            let heads: Vec<String> =
                heartbeat.heads.iter().map(|head| format!("{}:{}", head.stream, head.sequence)).collect();
            format!("heads({})", heads.join(","))
        }
        Message::Pong(pong) => format!("pong{}", pong.sequence),
        other => other.info().name.to_owned(),
    }
}

struct Bench {
    engine: Engine,
    shard: Shard,
    net: Net,
}

impl Bench {
    fn new(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut config = EngineConfig::default();
        change(&mut config);
        let notify: Arc<dyn Notify> = Arc::new(|| {});
        let (engine, mut shards) = Engine::new(config, EPOCH, BootId(1), Arc::new(Words), vec![notify]);
        Self { engine, shard: shards.remove(0), net: Net::default() }
    }

    fn publish_key(&self, topic: &str, class: Class, key: u64) -> Result<u64, PublishError> {
        publish_to(&self.engine, topic, class, key)
    }

    fn publish(&self, topic: &str, count: usize) {
        for _ in 0..count {
            self.publish_key(topic, Class::Latest, 7).unwrap();
        }
    }

    fn run(&mut self) {
        loop {
            let turn = self.shard.turn(0);
            self.shard.flush(&mut self.net);
            if !turn.remaining {
                break;
            }
        }
    }

    fn ask(&mut self, peer: PeerId, filter: &str, start: Start) -> Result<Subscribed, SubscribeError> {
        let request =
            Subscribe { filter: TopicFilter::parse(filter).unwrap(), start, delivery: Delivery::default() };
        let result = self.shard.subscribe(peer, request, |_| Some(pong(0)));
        self.shard.flush(&mut self.net);
        result
    }

    fn subscribed(&mut self, filter: &str) -> PeerId {
        let peer = self.shard.attach(Format::Binary);
        self.ask(peer, filter, Start::Live).unwrap();
        peer
    }
}

fn publish_to(engine: &Engine, topic: &str, class: Class, key: u64) -> Result<u64, PublishError> {
    let topic = Topic::parse(topic).unwrap();
    let facts = Facts { class, conflation_key: key, attributes: Attributes::default(), part: Part::Whole };
    let info = registry::by_name(topic.type_name()).unwrap();
    let incoming =
        Incoming { info, topic: &topic, facts, schema_version: 1, root_len: 8, payload: b"payload" };
    engine.publish(incoming, 1).map(|receipt| receipt.sequence.0)
}

/// Stands for any message of the server's: acknowledgements, replies.
fn pong(sequence: u64) -> Bytes {
    binary_message(&Message::Pong(Pong {
        client_time: Default::default(),
        server_time: Default::default(),
        sequence,
    }))
}

fn resume(positions: &[(&str, u64)]) -> Start {
    let positions = positions
        .iter()
        .map(|(topic, sequence)| (Topic::parse(topic).unwrap(), Class::Latest, Sequence(*sequence)))
        .collect();
    Start::Resume { epoch: EPOCH, positions }
}

#[test]
fn shards_and_handles_move_between_threads() {
    fn movable<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    movable::<Shard>();
    shared::<Engine>();
}

#[test]
fn subscriber_hears_acknowledgement_bind_and_events_in_order() {
    let mut bench = Bench::new(|_| {});
    bench.publish("market_data.A", 3);
    bench.run();
    let peer = bench.subscribed("market_data.A");
    bench.publish("market_data.A", 2);
    bench.publish("market_data.B", 1);
    bench.run();
    assert_eq!(bench.net.heard(peer), "pong0 bind1(1=market_data.A@4) e1:4 e1:5");
}

#[test]
fn newborn_stream_is_bound_before_its_first_event() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("market_data.*");
    let other = bench.subscribed("market_data.*");
    bench.ask(other, "market_data.B", Start::Live).unwrap();
    bench.publish("market_data.A", 1);
    bench.publish("market_data.B", 1);
    bench.run();
    assert_eq!(bench.net.heard(peer), "pong0 bind1(1=market_data.A@1) bind1(2=market_data.B@1) e1:1 e2:1");
    let heard = bench.net.heard(other);
    assert!(heard.ends_with("bind1(2=market_data.B@1) bind2(2=market_data.B@1) e1:1 e2:1"), "{heard}");
}

#[test]
fn members_of_a_group_get_a_turn_with_one_write_each() {
    let mut bench = Bench::new(|_| {});
    let peers: Vec<PeerId> = (0..50).map(|_| bench.subscribed("market_data.A")).collect();
    bench.publish("market_data.A", 1);
    bench.run();
    bench.net.writes = 0;
    bench.publish("market_data.A", 20);
    bench.run();
    assert_eq!(bench.net.writes, 50);
    assert_eq!(bench.shard.stats().groups.get(), 1);
    assert_eq!(bench.shard.stats().deliveries.get(), 50 * 21);
    let heard = bench.net.heard(peers[0]);
    assert!(peers[1..].iter().all(|peer| bench.net.heard(*peer) == heard));
}

#[test]
fn partial_run_is_continued_at_every_byte() {
    let mut whole = None;
    for cut in 0..400 {
        let mut bench = Bench::new(|_| {});
        let (peer, witness) = (bench.subscribed("market_data.A"), bench.subscribed("market_data.A"));
        bench.publish("market_data.A", 1);
        bench.run();
        assert!(bench.net.heard(peer).ends_with("e1:1"));
        bench.net.heard(witness);
        bench.net.room.insert(peer, cut);
        bench.publish("market_data.A", 5);
        bench.run();
        bench.publish("market_data.A", 1);
        bench.run();
        let status = bench.shard.peer_status(peer).unwrap();
        bench.net.open_socket(peer);
        assert_eq!(bench.shard.flush_peer(peer, &mut bench.net), Flushed::Idle);
        let heard = bench.net.heard(peer);
        assert_eq!(heard, "e1:2 e1:3 e1:4 e1:5 e1:6 e1:7", "cut at {cut}, {status:?}");
        assert_eq!(bench.net.heard(witness), heard);
        assert_eq!(*whole.get_or_insert(heard.clone()), heard);
    }
}

#[test]
fn slow_reader_gets_the_newest_and_is_told_the_rest() {
    let mut bench = Bench::new(|config| config.outbox_events = 3);
    let peer = bench.subscribed("market_data.A");
    bench.publish("market_data.A", 1);
    bench.run();
    bench.net.heard(peer);
    bench.net.close_socket(peer);
    bench.publish("market_data.A", 9);
    bench.run();
    let status = bench.shard.peer_status(peer).unwrap();
    assert_eq!((status.queued_events, status.conflated, status.untold), (3, 6, 6));
    assert!(status.blocked);
    bench.net.open_socket(peer);
    assert_eq!(bench.shard.flush_peer(peer, &mut bench.net), Flushed::Idle);
    assert_eq!(bench.net.heard(peer), "n1:1:2-7c6g0(outbox_full) e1:8 e1:9 e1:10");
    bench.shard.heartbeat(peer, 1).unwrap();
    bench.shard.flush(&mut bench.net);
    assert_eq!(bench.net.heard(peer), "heads(1:10) n1:0:0-0c6g0(none)");
}

#[test]
fn two_matching_subscriptions_deliver_once() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("market_data.A");
    bench.ask(peer, "market_data.**", Start::Live).unwrap();
    bench.publish("market_data.A", 2);
    bench.run();
    let heard = bench.net.heard(peer);
    assert!(heard.ends_with("bind1(1=market_data.A@1) bind2(1=market_data.A@1) e1:1 e1:2"), "{heard}");
    bench.shard.unsubscribe(peer, SubscriptionId(1), |_| None).unwrap();
    bench.publish("market_data.A", 1);
    bench.run();
    assert_eq!(bench.net.heard(peer), "e1:3");
    bench.shard.unsubscribe(peer, SubscriptionId(2), |_| Some(pong(9))).unwrap();
    bench.publish("market_data.A", 1);
    bench.run();
    assert_eq!(bench.net.heard(peer), "pong9");
}

#[test]
fn subscribing_twice_returns_the_same_id() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.shard.attach(Format::Binary);
    let first = bench.ask(peer, "bar.**", Start::Live).unwrap();
    let second = bench.ask(peer, "bar.**", Start::Live).unwrap();
    assert_eq!((first.subscription, first.already), (SubscriptionId(1), false));
    assert_eq!((second.subscription, second.already, second.epoch), (SubscriptionId(1), true, EPOCH));
    assert_eq!(bench.shard.stats().subscriptions.get(), 1);
}

#[test]
fn snapshot_holds_the_last_value_of_every_key() {
    let mut bench = Bench::new(|_| {});
    for key in [1, 2, 1, 3, 2] {
        bench.publish_key("market_data.A", Class::Latest, key).unwrap();
    }
    bench.run();
    let peer = bench.shard.attach(Format::Binary);
    bench.ask(peer, "market_data.A", Start::Snapshot).unwrap();
    bench.publish("market_data.A", 1);
    bench.run();
    assert_eq!(bench.net.heard(peer), "pong0 bind1(1=market_data.A@6) begin1(3) e1:3 e1:4 e1:5 end1 e1:6");
}

#[test]
fn resume_goes_on_after_the_position_and_names_what_is_gone() {
    let mut bench = Bench::new(|config| config.history_events = 3);
    bench.publish("market_data.A", 6);
    bench.publish("market_data.B", 2);
    // Not distributed yet: the resume catches up by itself.
    let peer = bench.shard.attach(Format::Binary);
    bench.ask(peer, "market_data.*", resume(&[("market_data.A", 1)])).unwrap();
    bench.publish("market_data.A", 1);
    bench.run();
    assert_eq!(
        bench.net.heard(peer),
        "pong0 bind1(1=market_data.A@2,2=market_data.B@1) history begin1(5) \
         n1:1:2-3c0g2(history_gone) e1:4 e1:5 e1:6 e2:1 e2:2 end1 e1:7"
    );
}

#[test]
fn replay_is_bounded_and_keeps_the_newest_of_the_strictest_class() {
    let mut bench = Bench::new(|config| config.history_bytes = 1 << 20);
    let payload = vec![0; 60_000];
    let publish = |bench: &Bench, topic: &str| {
        let topic = Topic::parse(topic).unwrap();
        let info = registry::by_name(topic.type_name()).unwrap();
        let facts = Facts {
            class: info.class,
            conflation_key: 1,
            attributes: Attributes::default(),
            part: Part::Whole,
        };
        let incoming =
            Incoming { info, topic: &topic, facts, schema_version: 1, root_len: 8, payload: &payload };
        bench.engine.publish(incoming, 1).unwrap();
    };
    (0..15).for_each(|_| publish(&bench, "market_data.A"));
    (0..15).for_each(|_| publish(&bench, "alert.A"));
    bench.run();
    let peer = bench.shard.attach(Format::Binary);
    bench.ask(peer, "**", resume(&[])).unwrap();
    bench.shard.flush_peer(peer, &mut bench.net);
    let heard = bench.net.heard(peer);
    assert_eq!(
        heard,
        "pong0 bind1(1=market_data.A@1,2=alert.A@1) history begin1(17) \
         e2:1 e2:2 e2:3 e2:4 e2:5 e2:6 e2:7 e2:8 e2:9 e2:10 e2:11 e2:12 e2:13 e2:14 e2:15 \
         n1:1:1-13c0g13(history_gone) e1:14 e1:15 end1"
    );
    let status = bench.shard.peer_status(peer).unwrap();
    assert_eq!((status.delivered, status.gapped, status.queued_bytes), (17, 13, 0));
    assert_eq!(bench.shard.stats().history_bytes_short.get(), 1);
}

#[test]
fn resume_of_one_peer_costs_the_others_nothing() {
    let mut bench = Bench::new(|config| config.outbox_events = 8);
    bench.publish("market_data.A", 1);
    bench.run();
    let reader = bench.subscribed("market_data.B");
    // A backlog larger than an outbox waits in the ring while somebody else comes back.
    bench.publish("market_data.B", 40);
    let back = bench.shard.attach(Format::Binary);
    bench.ask(back, "market_data.A", resume(&[("market_data.A", 1)])).unwrap();
    bench.run();
    let heard = bench.net.heard(reader);
    assert!(heard.ends_with("e2:39 e2:40") && !heard.contains("n1:"), "nothing was lost: {heard}");
}

#[test]
fn resume_that_cannot_be_true_does_not_distribute_what_waits() {
    let mut bench = Bench::new(|_| {});
    let reader = bench.subscribed("**");
    bench.publish("market_data.A", 3);
    let back = bench.shard.attach(Format::Binary);
    for ahead in
        [&[("market_data.A", 4)][..], &[("market_data.B", 1)], &[("market_data.A", 1), ("bar.1m.A", 9)]]
    {
        let refused = bench.ask(back, "**", resume(ahead));
        assert!(matches!(refused, Err(SubscribeError::ResumeFailed { .. })), "{refused:?}");
    }
    assert_eq!(bench.shard.stats().events.get(), 0);
    bench.ask(back, "**", resume(&[("market_data.A", 2)])).unwrap();
    assert!(bench.net.heard(back).ends_with("bind1(1=market_data.A@3) begin1(1) e1:3 end1"));
    bench.run();
    assert!(bench.net.heard(reader).ends_with("e1:1 e1:2 e1:3"));
}

#[test]
fn a_position_is_reached_though_publishers_lap_the_shard_on_its_way_there() {
    let lapping = Arc::new(Lapping::default());
    let config = EngineConfig { ring_slots: 16, turn_events: 4, ..EngineConfig::default() };
    let notify: Arc<dyn Notify> = Arc::new(|| {});
    let (engine, mut shards) =
        Engine::new(config, EPOCH, BootId(1), Arc::clone(&lapping) as Arc<dyn Render>, vec![notify]);
    let mut bench = Bench { engine, shard: shards.remove(0), net: Net::default() };
    let reader = bench.shard.attach(Format::D1Snake);
    bench.ask(reader, "market_data.A", Start::Live).unwrap();
    bench.publish("market_data.A", 8);
    bench.publish("market_data.B", 1);
    lapping.engine.set(bench.engine.clone()).unwrap();

    let back = bench.shard.attach(Format::Binary);
    bench.ask(back, "market_data.B", resume(&[("market_data.B", 1)])).unwrap();

    assert_eq!(bench.shard.stats().laps.get(), 1);
    let rest = "begin1(8) e2:2 e2:3 e2:4 e2:5 e2:6 e2:7 e2:8 e2:9 end1";
    assert_eq!(bench.net.heard(back), format!("pong0 bind1(2=market_data.B@2) {rest}"));
}

/// Publishers that are so fast that the shard is lapped while it renders its first event.
#[derive(Default)]
struct Lapping {
    engine: OnceLock<Engine>,
    has_lapped: AtomicBool,
}

impl Render for Lapping {
    fn event(&self, event: &Event, format: Format) -> Option<Bytes> {
        if let Some(engine) = self.engine.get()
            && !self.has_lapped.swap(true, Ordering::Relaxed)
        {
            for (topic, count) in [("market_data.A", 20), ("market_data.B", 8)] {
                for _ in 0..count {
                    publish_to(engine, topic, Class::Latest, 7).unwrap();
                }
            }
        }
        Words.event(event, format)
    }

    fn control(&self, message: &Message, topic: Option<&Topic>, format: Format) -> Option<Bytes> {
        Words.control(message, topic, format)
    }
}

#[test]
fn a_repaired_shard_still_writes_many_events_at_once() {
    let mut bench = Bench::new(|config| config.ring_slots = 64);
    let peer = bench.subscribed("**");
    for stream in 0..200 {
        bench.publish(&format!("market_data.S{stream}"), 1);
    }
    let before = bench.shard.stats().writes.get();
    bench.run();
    let writes = bench.shard.stats().writes.get() - before;
    assert!(bench.shard.stats().laps.get() > 0, "the ring holds fewer");
    assert!(writes < 20, "{writes} writes for 200 streams");
    assert!(bench.net.heard(peer).contains("e"), "and they came");
}

#[test]
fn resume_that_cannot_be_true_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(|_| {});
    bench.publish("market_data.A", 2);
    bench.run();
    let peer = bench.shard.attach(Format::Binary);
    let other = Start::Resume { epoch: Epoch(9), positions: vec![] };
    let refused = SubscribeError::ResumeFailed { epoch: EPOCH, stream: None, oldest: Sequence(0) };
    assert_eq!(bench.ask(peer, "market_data.A", other), Err(refused));
    let ahead = bench.ask(peer, "market_data.A", resume(&[("market_data.A", 3)])).unwrap_err();
    let stream = Some((Topic::parse("market_data.A").unwrap(), Class::Latest));
    assert_eq!(ahead, SubscribeError::ResumeFailed { epoch: EPOCH, stream, oldest: Sequence(1) });
    assert_eq!((bench.net.heard(peer), bench.shard.stats().subscriptions.get()), (String::new(), 0));
}

#[test]
fn upstream_skip_is_told_in_its_place() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("market_data.A");
    bench.publish("market_data.A", 2);
    let topic = Topic::parse("market_data.A").unwrap();
    let receipt = bench.engine.skip(&topic, Class::Latest, 3, 9).unwrap();
    assert_eq!(receipt.sequence, Sequence(5));
    assert_eq!(bench.engine.skip(&topic, Class::Latest, 0, 9), Err(PublishError::SkipCount));
    bench.publish("market_data.A", 1);
    bench.run();
    let heard = bench.net.heard(peer);
    assert!(heard.ends_with("e1:1 e1:2 n1:1:3-5c0g3(upstream) e1:6"), "{heard}");
}

#[test]
fn what_an_earlier_run_published_is_nobodys_loss() {
    let mut bench = Bench::new(|_| {});
    let topic = Topic::parse("market_data.A").unwrap();
    assert_eq!(bench.engine.found(&topic, Class::Latest, 7).unwrap().sequence, Sequence(7));
    bench.run();
    let peer = bench.shard.attach(Format::Binary);
    bench.ask(peer, "market_data.A", Start::Since(1)).unwrap();
    bench.publish("market_data.A", 1);
    bench.run();
    let heard = bench.net.heard(peer);
    assert!(heard.ends_with("@8) begin1(0) end1 e1:8"), "{heard}");
    assert_eq!(bench.engine.noted(), [], "and nothing that its source did");
}

#[test]
fn what_was_missed_is_all_but_of_the_latest_the_last() {
    let mut bench = Bench::new(|_| {});
    bench.publish("market_data.A", 3);
    bench.publish_key("alert.A", Class::Critical, 1).unwrap();
    bench.run();
    let received = bench.shard.distributed();
    bench.publish("market_data.A", 2);
    for key in [1, 1] {
        bench.publish_key("alert.A", Class::Critical, key).unwrap();
    }
    bench.run();
    assert!(bench.shard.distributed() > received);
    let peer = bench.shard.attach(Format::Binary);
    bench.ask(peer, "**", Start::Missed(received + 1)).unwrap();
    let heard = bench.net.heard(peer);
    assert!(heard.ends_with("begin1(2) e2:2 e2:3 end1 begin1(1) e1:5 end1"), "{heard}");
}

#[test]
fn lapped_shard_says_so_and_repairs_last_values() {
    let mut bench = Bench::new(|config| config.ring_slots = 4);
    let peer = bench.subscribed("**");
    bench.publish("market_data.A", 1);
    bench.run();
    bench.net.heard(peer);
    bench.publish("market_data.Q", 2);
    bench.publish("market_data.A", 9);
    let turn = bench.shard.turn(0);
    assert!(turn.lapped > 0 && turn.remaining);
    bench.run();
    // Q was born and silent since: found in the shared records. A goes on in the ring.
    assert_eq!(
        bench.net.heard(peer),
        "bind1(2=market_data.Q@1) n1:2:1-1c0g1(lapped) e2:2 n1:1:2-8c0g7(lapped) e1:9 e1:10"
    );
    let late = bench.shard.attach(Format::Binary);
    bench.ask(late, "market_data.Q", Start::Snapshot).unwrap();
    assert!(bench.net.heard(late).ends_with("begin1(1) e2:2 end1"));
}

#[test]
fn peer_too_slow_for_critical_events_is_closed() {
    let mut bench = Bench::new(|config| config.critical_events = 2);
    let peer = bench.subscribed("alert.A");
    bench.net.close_socket(peer);
    for _ in 0..4 {
        bench.publish_key("alert.A", Class::Critical, 1).unwrap();
    }
    bench.run();
    assert_eq!(bench.shard.next_closing(), Some((peer, CloseCode::SlowConsumer)));
    assert_eq!(bench.shard.next_closing(), None);
    bench.shard.send(peer, pong(1)).unwrap();
    let close = Flushed::Close(CloseCode::SlowConsumer);
    assert_eq!(bench.shard.flush_peer(peer, &mut bench.net), close, "who does not read is not waited for");
    bench.net.open_socket(peer);
    assert_eq!(bench.shard.flush_peer(peer, &mut bench.net), Flushed::Close(CloseCode::SlowConsumer));
    assert!(bench.net.heard(peer).ends_with("pong1"), "a close frame can still be sent");
    assert_eq!(bench.shard.stats().closed_slow.get(), 1);
}

#[test]
fn farewell_follows_the_frame_that_was_begun() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("market_data.A");
    bench.publish("market_data.A", 1);
    bench.run();
    bench.net.heard(peer);
    bench.net.room.insert(peer, 60);
    bench.publish("market_data.A", 3);
    bench.run();
    bench.net.open_socket(peer);
    bench.shard.hang_up(peer, CloseCode::ServiceRestart, pong(8));
    assert!(!bench.shard.is_idle(peer));
    bench.shard.flush(&mut bench.net);
    assert!(bench.shard.is_idle(peer));
    assert_eq!(bench.net.heard(peer), "e1:2 e1:3 pong8");
    assert_eq!(bench.shard.next_closing(), Some((peer, CloseCode::ServiceRestart)));
    bench.shard.detach(peer);
    assert!(bench.shard.is_idle(peer));
}

fn policy(policy: Policy) -> Delivery {
    Delivery { policy, ..Delivery::default() }
}

#[test]
fn policy_can_be_changed_in_place() {
    let mut bench = Bench::new(|config| config.outbox_events = 1);
    let peer = bench.subscribed("market_data.A");
    bench.shard.configure(peer, SubscriptionId(1), &policy(Policy::DISCONNECT)).unwrap();
    let unknown = bench.shard.configure(peer, SubscriptionId(2), &policy(Policy::CONFLATE));
    assert_eq!(unknown, Err(SubscribeError::UnknownSubscription));
    bench.net.close_socket(peer);
    bench.publish("market_data.A", 3);
    bench.run();
    assert_eq!(bench.shard.next_closing(), Some((peer, CloseCode::SlowConsumer)));
}

#[test]
fn stale_peer_is_refused_everywhere() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("**");
    bench.shard.detach(peer);
    let next = bench.shard.attach(Format::Binary);
    assert_eq!(next.index(), peer.index());
    assert_eq!(bench.shard.send(peer, pong(1)), Err(SendError::UnknownPeer));
    assert_eq!(bench.ask(peer, "**", Start::Live), Err(SubscribeError::UnknownPeer));
    assert_eq!(bench.shard.heartbeat(peer, 1), Err(SendError::UnknownPeer));
    assert_eq!(bench.shard.flush_peer(peer, &mut bench.net), Flushed::Gone);
    assert_eq!(bench.shard.peer_status(peer), None);
    bench.shard.detach(peer);
    assert!(bench.shard.peer_status(next).is_some());
}

#[test]
fn dead_socket_is_reported_and_harms_nobody() {
    let mut bench = Bench::new(|_| {});
    let (dead, alive) = (bench.subscribed("**"), bench.subscribed("**"));
    bench.net.dead.push(dead);
    bench.publish("market_data.A", 2);
    bench.run();
    bench.publish("market_data.A", 1);
    bench.run();
    assert_eq!(bench.shard.flush_peer(dead, &mut bench.net), Flushed::Gone);
    assert!(bench.net.heard(alive).ends_with("e1:1 e1:2 e1:3"));
    bench.shard.detach(dead);
}

#[test]
fn control_messages_have_a_bounded_place() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("**");
    bench.net.close_socket(peer);
    let mut sent = 0;
    while bench.shard.send(peer, pong(sent)).is_ok() {
        sent += 1;
        bench.shard.flush(&mut bench.net);
    }
    assert_eq!(sent, tickcast_engine::CONTROL_MESSAGES_MAX as u64);
    assert_eq!(bench.shard.heartbeat(peer, 1), Err(SendError::Full));
    assert_eq!(bench.ask(peer, "bar.**", Start::Live), Err(SubscribeError::Busy));
    assert!(bench.shard.stats().control_refused.get() >= 2);
}

#[test]
fn births_close_only_a_peer_that_does_not_read() {
    let mut bench = Bench::new(|config| config.turn_events = 16_384);
    let (reader, stuck) = (bench.subscribed("**"), bench.subscribed("**"));
    let give_birth = |bench: &Bench, from: usize| {
        for key in from..from + 14_000 {
            let topic = Topic::parse(&format!("market_data.{key:0>60}")).unwrap();
            bench.engine.skip(&topic, Class::Latest, 1, 1).unwrap();
        }
    };
    // More than a megabyte of binds, in one turn; of skips, so that no run ends it sooner.
    give_birth(&bench, 0);
    let _ = bench.shard.turn(0);
    assert!(bench.shard.peer_status(reader).unwrap().queued_bytes > BIND_BYTES_MAX);
    bench.net.close_socket(stuck);
    bench.shard.flush(&mut bench.net);
    bench.shard.flush_peer(reader, &mut bench.net);
    assert_eq!(bench.shard.next_closing(), None);
    assert!(bench.shard.heartbeat(stuck, 1).is_ok(), "binds do not take the place of control messages");
    give_birth(&bench, 14_000);
    bench.run();
    bench.shard.flush_peer(reader, &mut bench.net);
    assert_eq!(bench.shard.next_closing(), Some((stuck, CloseCode::SlowConsumer)));
    assert_eq!(bench.shard.next_closing(), None);
    assert_eq!(bench.shard.peer_status(reader).unwrap().gapped, 28_000);
}

#[test]
fn long_list_of_heads_is_spread_over_frames() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("**");
    for key in 0..300 {
        bench.publish(&format!("market_data.S{key}"), 1);
    }
    bench.run();
    bench.net.heard(peer);
    bench.shard.heartbeat(peer, 1).unwrap();
    bench.shard.flush(&mut bench.net);
    let heard = bench.net.heard(peer);
    let heads: Vec<usize> = heard.split(' ').map(|frame| frame.split(',').count()).collect();
    assert_eq!(heads, [256, 44]);
}

#[test]
fn beat_of_very_many_streams_tells_of_each_in_turn() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("**");
    for key in 0..2_500 {
        let topic = Topic::parse(&format!("market_data.S{key}")).unwrap();
        bench.engine.skip(&topic, Class::Latest, 1, 1).unwrap();
    }
    bench.run();
    bench.shard.flush_peer(peer, &mut bench.net);
    bench.net.taken.clear();
    let mut beat = || -> Vec<u32> {
        bench.shard.heartbeat(peer, 1).unwrap();
        let waiting = bench.shard.peer_status(peer).unwrap().queued_bytes;
        assert!(waiting < CONTROL_BYTES_MAX / 2, "{waiting} bytes in a beat");
        bench.shard.flush(&mut bench.net);
        let heard = bench.net.heard(peer);
        let heads = heard.split(' ').filter_map(|frame| frame.strip_prefix("heads(")?.strip_suffix(')'));
        heads
            .flat_map(|heads| heads.split(','))
            .map(|head| head.split_once(':').unwrap().0.parse().unwrap())
            .collect()
    };
    let first = beat();
    assert_eq!((first.len(), first[0], first[1_023]), (1_024, 1, 1_024));
    let (second, third) = (beat(), beat());
    assert_eq!((second[0], second[1_023]), (1_025, 2_048));
    assert_eq!((third[0], third[451], third[452], third[1_023]), (2_049, 2_500, 1, 572));
}

#[test]
fn json_peers_share_one_rendering_and_their_own_words() {
    let mut bench = Bench::new(|config| config.outbox_events = 1);
    let peers: Vec<PeerId> = (0..3).map(|_| bench.shard.attach(Format::D1Snake)).collect();
    for peer in &peers {
        let request = Subscribe {
            filter: TopicFilter::parse("public_trade.A").unwrap(),
            start: Start::Live,
            delivery: Delivery::default(),
        };
        bench.shard.subscribe(*peer, request, |_| Some(Bytes::from_static(b"[ok]"))).unwrap();
    }
    bench.shard.flush(&mut bench.net);
    bench.net.close_socket(peers[0]);
    for _ in 0..3 {
        bench.publish_key("public_trade.A", Class::Ordered, 1).unwrap();
    }
    bench.run();
    bench.net.open_socket(peers[0]);
    bench.shard.flush_peer(peers[0], &mut bench.net);
    assert_eq!(bench.net.text(peers[0]), "[ok][public_trade.A lost 2][public_trade.A 3]");
    assert_eq!(bench.net.text(peers[1]), "[ok][public_trade.A 1][public_trade.A 2][public_trade.A 3]");
    assert_eq!(bench.shard.stats().renders.get(), 3);
}

#[test]
fn large_event_is_compressed_once_for_all_who_read_lz4() {
    let mut bench = Bench::new(|config| config.lz4_min_bytes = 512);
    let formats = [Format::BinaryLz4, Format::Binary, Format::BinaryLz4, Format::D1Snake, Format::BinaryLz4];
    let peers = formats.map(|format| bench.shard.attach(format));
    for peer in peers {
        bench.ask(peer, "analytics_update.A", Start::Live).unwrap();
    }
    bench.net.taken.clear();
    let topic = Topic::parse("analytics_update.A").unwrap();
    let facts = Facts {
        class: Class::Latest,
        conflation_key: 1,
        attributes: Attributes::default(),
        part: Part::Whole,
    };
    let info = registry::by_name("analytics_update").unwrap();
    // Small, large, and large enough but without anything that comes again.
    let noise: Vec<u8> = (0..600u32).map(|n| (n * n * 31 / 7 + n / 3) as u8).collect();
    let payloads = [vec![5; 511], b"book ".repeat(400), noise];
    for payload in &payloads {
        let incoming = Incoming { info, topic: &topic, facts, schema_version: 1, root_len: 8, payload };
        bench.engine.publish(incoming, 1).unwrap();
    }
    bench.run();

    let plain = bench.net.taken[&peers[1]].clone();
    let small = bench.net.taken[&peers[0]].clone();
    for peer in [peers[2], peers[4]] {
        assert_eq!(bench.net.taken[&peer], small, "the same bytes for every peer of the group");
    }
    let counts = bench.shard.stats().snapshot();
    assert_eq!((counts.compressed, counts.incompressible, counts.renders), (1, 1, 3));
    assert_eq!(counts.compressed_saved_bytes, (plain.len() - small.len()) as u64);
    assert!(counts.compressed_saved_bytes > 1_900, "{counts:?}");
    assert_eq!((counts.deliveries, counts.deliveries_binary), (15, 12));

    for bytes in [plain, small] {
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            let (head, length) = if rest[1] < 126 { (2, usize::from(rest[1])) } else { (4, length) };
            let (frame, behind) = Frame::split_first(&rest[head..head + length], 1 << 20).unwrap();
            assert!(behind.is_empty(), "one frame a message");
            if frame.header.type_id >= DATA_FIRST {
                let (header, payload) = frame.decompress(&mut BytesMut::new()).unwrap();
                events.push((header.sequence, payload.to_vec()));
            }
            rest = &rest[head + length..];
        }
        assert_eq!(events, (1..).zip(payloads.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn slow_reader_of_lz4_is_charged_for_the_whole_event() {
    let mut bench = Bench::new(|config| (config.outbox_bytes, config.lz4_min_bytes) = (5_000, 512));
    let formats = [Format::BinaryLz4, Format::Binary];
    let peers = formats.map(|format| bench.shard.attach(format));
    for peer in peers {
        bench.ask(peer, "public_trade.A", Start::Live).unwrap();
        bench.net.close_socket(peer);
    }
    let topic = Topic::parse("public_trade.A").unwrap();
    let facts = Facts {
        class: Class::Ordered,
        conflation_key: 1,
        attributes: Attributes::default(),
        part: Part::Whole,
    };
    let info = registry::by_name("public_trade").unwrap();
    let payload = [7; 2_000];
    for _ in 0..10 {
        let incoming =
            Incoming { info, topic: &topic, facts, schema_version: 1, root_len: 8, payload: &payload };
        bench.engine.publish(incoming, 1).unwrap();
        bench.run();
    }
    for peer in peers {
        let status = bench.shard.peer_status(peer).unwrap();
        assert_eq!((status.queued_events, status.gapped), (2, 8), "{status:?}");
    }
    assert_eq!(bench.shard.stats().compressed.get(), 10);
}

#[test]
fn subscribing_between_turn_and_flush_gets_only_what_follows() {
    let mut bench = Bench::new(|_| {});
    let first = bench.subscribed("market_data.A");
    bench.publish("market_data.A", 2);
    let _ = bench.shard.turn(0);
    let second = bench.subscribed("market_data.A");
    bench.publish("market_data.A", 1);
    bench.run();
    assert!(bench.net.heard(first).ends_with("e1:1 e1:2 e1:3"));
    assert_eq!(bench.net.heard(second), "pong0 bind1(1=market_data.A@3) e1:3");
}

#[test]
fn stream_limit_refuses_new_streams_only() {
    let bench = Bench::new(|config| config.streams_max = 1);
    assert_eq!(bench.publish_key("market_data.A", Class::Latest, 1), Ok(1));
    let refused = bench.publish_key("market_data.B", Class::Latest, 1);
    assert_eq!(refused, Err(PublishError::StreamLimit { max: 1 }));
    assert_eq!(bench.publish_key("market_data.A", Class::Latest, 1), Ok(2));
    assert_eq!(bench.engine.stream_count(), 1);
    assert_eq!((bench.engine.streams()[0].head, bench.engine.lag()), (Sequence(2), 2));
}

#[test]
fn sleeping_shard_is_woken_by_a_publish() {
    let woken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&woken);
    let notify: Arc<dyn Notify> = Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let config = EngineConfig::default();
    let (engine, mut shards) = Engine::new(config, EPOCH, BootId(1), Arc::new(Words), vec![notify]);
    let mut bench = Bench { engine, shard: shards.remove(0), net: Net::default() };
    assert!(bench.shard.prepare_to_sleep());
    bench.publish("market_data.A", 2);
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    assert!(bench.shard.has_work() && !bench.shard.prepare_to_sleep());
    bench.run();
    assert!(bench.shard.prepare_to_sleep());
    bench.shard.stay_awake();
}

#[test]
fn run_past_its_bound_is_written_out_within_the_batch() {
    let mut bench = Bench::new(|_| {});
    let peer = bench.subscribed("market_data.A");
    let topic = Topic::parse("market_data.A").unwrap();
    let facts = Facts {
        class: Class::Latest,
        conflation_key: 1,
        attributes: Attributes::default(),
        part: Part::Whole,
    };
    let info = registry::by_name("market_data").unwrap();
    let payload = vec![0; 100_000];
    for _ in 0..7 {
        let incoming =
            Incoming { info, topic: &topic, facts, schema_version: 1, root_len: 8, payload: &payload };
        bench.engine.publish(incoming, 1).unwrap();
    }
    let turn = bench.shard.turn(0);
    assert_eq!((turn.drained, turn.remaining), (3, true), "the one that fills it is the last");
    bench.shard.flush(&mut bench.net);
    bench.run();
    assert_eq!(bench.shard.peer_status(peer).unwrap().delivered, 7);
    assert_eq!(bench.shard.stats().queued_total.get(), 0);
}
