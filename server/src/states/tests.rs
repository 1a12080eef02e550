//! What the monitor finds, by a clock of the test's own.

use std::collections::HashMap;

use bytes::Bytes;
use tickcast_engine::{EngineConfig, Event, Format, Incoming, Render, Status};
use tickcast_protocol::message::{IntervalOrigin, StateReason, StreamState};
use tickcast_protocol::registry::{self, Attributes, Facts, Part};
use tickcast_protocol::{BootId, Epoch, Message, TopicFilter};

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const START: u64 = 1_000_000 * SECOND;

struct Mute;

impl Render for Mute {
    fn event(&self, _: &Event, _: Format) -> Option<Bytes> {
        None
    }

    fn control(&self, _: &Message, _: Option<&Topic>, _: Format) -> Option<Bytes> {
        None
    }
}

struct World {
    engine: Engine,
    states: Arc<States>,
    monitor: StateMonitor,
    now: u64,
    topics: Vec<Topic>,
}

fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

fn rules(intervals: &[(&str, u64)], learn: bool) -> Rules {
    let intervals =
        intervals.iter().map(|(filter, ms)| (TopicFilter::parse(filter).unwrap(), ms * MS)).collect();
    Rules { intervals, stale_after_ns: 300 * SECOND, learn }
}

impl World {
    fn new(rules: Rules) -> Self {
        let config = EngineConfig { shards: 0, streams_max: 2_000_000, ..EngineConfig::default() };
        let (engine, _) = Engine::new(config, Epoch(1), BootId(1), Arc::new(Mute), Vec::new());
        let states = Arc::new(States::new(engine.clone(), 2_000_000));
        let monitor = states.monitor(rules);
        Self { engine, states, monitor, now: START, topics: Vec::new() }
    }

    fn publish_to(&self, topic: &Topic) -> StreamId {
        let info = registry::by_name(topic.type_name()).unwrap();
        let facts = Facts {
            class: info.class,
            conflation_key: 1,
            attributes: Attributes::default(),
            part: Part::Whole,
        };
        let incoming = Incoming { info, topic, facts, schema_version: 1, root_len: 0, payload: b"" };
        self.engine.publish(incoming, self.now).unwrap().stream
    }

    fn publish(&self, text: &str) -> StreamId {
        self.publish_to(&topic(text))
    }

    fn sweep(&mut self) -> Vec<Finding> {
        let found = self.monitor.changes(self.states.take_words(), self.now);
        found.into_iter().filter(|finding| self.engine.tell(&[*finding]) == 1).collect()
    }

    /// Lets time pass in the monitor's own steps, and says what was found when.
    fn pass(&mut self, time: u64) -> Vec<(u64, Finding)> {
        let (began, end) = (self.now, self.now + time);
        let mut found = Vec::new();
        while self.now < end {
            self.now = (self.now + self.monitor.period_ns()).min(end);
            let at = self.now - began;
            found.extend(self.sweep().into_iter().map(|finding| (at, finding)));
        }
        found
    }

    fn status(&self, stream: StreamId) -> Status {
        let mut status = None;
        self.engine.look_at(&[stream], |_, _, _, pulse| status = Some(pulse.status));
        status.unwrap()
    }

    fn state(&self, stream: StreamId) -> StreamState {
        self.status(stream).state
    }
}

fn states(found: &[(u64, Finding)]) -> Vec<StreamState> {
    found.iter().map(|(_, finding)| finding.status.state).collect()
}

#[test]
fn a_mute_stream_is_suspect_within_its_interval_and_a_tenth() {
    for interval in [100, 250, 1_000, 2_000, 60_000] {
        let mut world = World::new(rules(&[("market_data.*", interval)], false));
        let mut source = world.states.source(false);
        let stream = world.publish("market_data.A");
        source.published(stream);
        world.sweep();
        // Its connection lives, and nobody says anything.
        let found = world.pass(interval * MS * 2);
        assert_eq!(states(&found), [StreamState::SUSPECT], "{interval}");
        let (at, Finding { status, .. }) = found[0];
        assert!((interval * MS..=interval * MS * 11 / 10).contains(&at), "{interval}: {at}");
        assert_eq!((status.reason, status.origin), (StateReason::QUIET, IntervalOrigin::SET));
        assert_eq!((status.since, status.last_sequence), (START + interval * MS, 1));
        assert_eq!(u64::from(status.interval_ms), interval);
    }
}

#[test]
fn a_quiet_stream_whose_source_vouches_is_idle_and_never_suspect() {
    let mut world = World::new(rules(&[("market_data.*", 1_000)], false));
    let mut source = world.states.source(false);
    let stream = world.publish("market_data.A");
    source.published(stream);
    let mut found = Vec::new();
    for _ in 0..50 {
        source.vouch(world.now);
        found.extend(world.pass(900 * MS));
    }
    assert_eq!(states(&found), [StreamState::IDLE]);
    assert_eq!((found[0].1.status.reason, found[0].1.status.since), (StateReason::VOUCHED, START + SECOND));
    // Its word holds for an interval, and not for longer.
    let found = world.pass(300 * MS);
    assert_eq!(states(&found), [StreamState::SUSPECT]);
    // It was slow to say so.
    source.vouch(world.now);
    assert_eq!(states(&world.pass(SECOND)), [StreamState::IDLE]);
    world.publish("market_data.A");
    assert_eq!(world.state(stream), StreamState::LIVE);
}

#[test]
fn what_is_said_of_a_stream_is_heard_before_it_is_judged_first() {
    let mut world = World::new(rules(&[("market_data.*", 1_000)], false));
    let mut source = world.states.source(false);
    let stream = world.publish("market_data.A");
    source.published(stream);
    world.now += 900 * MS;
    source.vouch(world.now);
    // The monitor comes late, and has seen neither.
    world.now += 200 * MS;
    assert_eq!(world.sweep()[0].status.state, StreamState::IDLE);
}

#[test]
fn who_vouches_by_name_vouches_for_no_other() {
    let mut world = World::new(rules(&[("market_data.*", 1_000)], false));
    let mut source = world.states.source(false);
    let (heard, unheard) = (world.publish("market_data.A"), world.publish("market_data.B"));
    source.published(heard);
    source.published(unheard);
    world.pass(500 * MS);
    source.say(SourceStatus::ALIVE, &[topic("market_data.A")], 0, world.now).unwrap();
    world.pass(800 * MS);
    assert_eq!((world.state(heard), world.state(unheard)), (StreamState::IDLE, StreamState::SUSPECT));
    let refused = source.say(SourceStatus::ALIVE, &[topic("market_data.C")], 0, world.now).unwrap_err();
    assert_eq!((refused.code, refused.field.as_str()), (ErrorCode::InvalidField, "topics.0"));
}

#[test]
fn a_suspect_stream_is_stale_after_five_further_intervals() {
    let mut world = World::new(rules(&[("market_data.*", 1_000)], false));
    let stream = world.publish("market_data.A");
    let found = world.pass(20 * SECOND);
    assert_eq!(states(&found), [StreamState::SUSPECT, StreamState::STALE]);
    assert!((6 * SECOND..=6 * SECOND + 100 * MS).contains(&found[1].0), "{}", found[1].0);
    assert_eq!(found[1].1.status.since, START + 6 * SECOND);
    world.publish("market_data.A");
    let status = world.status(stream);
    assert_eq!(status.state, StreamState::LIVE);
    assert_eq!(states(&world.pass(1_100 * MS)), [StreamState::SUSPECT], "and it is watched as before");
}

#[test]
fn streams_of_a_source_that_is_gone_are_suspect_until_their_next_event() {
    let mut world = World::new(rules(&[], true));
    let mut source = world.states.source(false);
    let mut other = world.states.source(false);
    // An alert has no interval: that its source is gone is all there is to know.
    let (alert, taken) = (world.publish("alert.A"), world.publish("market_data.B"));
    source.published(alert);
    source.published(taken);
    other.published(taken);
    world.sweep();
    drop(source);
    let found = world.sweep();
    assert_eq!(found.len(), 1, "what another publishes by now is not concerned");
    assert_eq!((found[0].stream, found[0].status.reason), (alert, StateReason::SOURCE_GONE));
    assert_eq!(states(&world.pass(301 * SECOND)), [StreamState::STALE]);
    world.publish("alert.A");
    assert_eq!(world.state(alert), StreamState::LIVE);
    assert_eq!(world.pass(1_000 * SECOND), []);
}

#[test]
fn an_event_in_between_makes_a_finding_void() {
    let mut world = World::new(rules(&[("market_data.*", 1_000)], false));
    let stream = world.publish("market_data.A");
    world.sweep();
    world.now += 1_050 * MS;
    let found = world.monitor.changes(Vec::new(), world.now);
    assert_eq!(found.len(), 1);
    world.publish("market_data.A");
    assert_eq!(world.engine.tell(&found), 0);
    assert_eq!(world.state(stream), StreamState::LIVE);
    assert_eq!(states(&world.pass(1_100 * MS)), [StreamState::SUSPECT], "it is found again when it is true");
}

#[test]
fn an_interval_is_learned_of_what_is_periodic_and_of_nothing_else() {
    let mut world = World::new(rules(&[], true));
    let names = ["market_data.A", "public_trade.A", "alert.A", "stream_health.x"];
    let streams: Vec<StreamId> = names.iter().map(|name| world.publish(name)).collect();
    for _ in 0..20 {
        assert_eq!(world.pass(SECOND), []);
        for name in names {
            world.publish(name);
        }
    }
    // Five times a second, and at most an eighth more.
    let found = world.pass(60 * SECOND);
    assert!(found.iter().all(|(_, finding)| finding.stream == streams[0]), "{found:?}");
    let (at, Finding { status, .. }) = found[0];
    assert_eq!((status.state, status.origin), (StreamState::SUSPECT, IntervalOrigin::LEARNED));
    assert!((5 * SECOND..=57 * SECOND / 10).contains(&at), "{at}");
}

#[test]
fn seven_events_teach_nothing_and_learning_can_be_switched_off() {
    for (learn, events) in [(true, 7), (false, 50)] {
        let mut world = World::new(rules(&[], learn));
        for _ in 0..events {
            world.publish("market_data.A");
            world.pass(SECOND);
        }
        assert_eq!(world.pass(1_000 * SECOND), []);
    }
}

#[test]
fn a_publisher_sets_intervals_where_the_settings_do_not() {
    let mut world = World::new(rules(&[("market_data.A", 10_000)], true));
    let mut source = world.states.source(false);
    let streams = ["market_data.A", "market_data.B"].map(|name| world.publish(name));
    streams.iter().for_each(|stream| source.published(*stream));
    world.sweep();
    source.say(SourceStatus::ALIVE, &[], 500, world.now).unwrap();
    let found = world.pass(700 * MS);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].1.stream, found[0].1.status.origin), (streams[1], IntervalOrigin::SET));
}

#[test]
fn what_a_source_says_of_its_streams_holds_until_the_next_event() {
    let mut world = World::new(rules(&[], false));
    let mut source = world.states.source(false);
    let stream = world.publish("public_trade.A");
    source.published(stream);
    world.sweep();
    for (said, state) in
        [(SourceStatus::LOST, StreamState::SUSPECT), (SourceStatus::CLOSED, StreamState::CLOSED)]
    {
        source.say(said, &[], 0, world.now).unwrap();
        let found = world.sweep();
        assert_eq!((found[0].status.state, found[0].status.reason), (state, StateReason::SAID));
        world.publish("public_trade.A");
        assert_eq!(world.state(stream), StreamState::LIVE);
    }
    // What is closed is not called gone as well.
    source.say(SourceStatus::CLOSED, &[], 0, world.now).unwrap();
    drop(source);
    assert_eq!(states(&world.pass(500 * SECOND)), [StreamState::CLOSED]);
    assert_eq!(world.states.close(&topic("public_trade.A"), world.now), 1);
    assert_eq!(world.sweep(), []);
}

#[test]
fn an_upstream_gap_makes_a_stream_suspect_unless_events_go_on() {
    let mut world = World::new(rules(&[], false));
    let (quiet, busy) = (world.publish("public_trade.A"), world.publish("public_trade.B"));
    world.sweep();
    for name in ["public_trade.A", "public_trade.B"] {
        world.engine.skip(&topic(name), Class::Ordered, 3, world.now).unwrap();
    }
    world.publish("public_trade.B");
    let found = world.sweep();
    assert_eq!((found.len(), found[0].stream), (1, quiet));
    assert_eq!((found[0].status.reason, found[0].status.last_sequence), (StateReason::UPSTREAM, 4));
    assert_eq!(world.state(busy), StreamState::LIVE);
}

#[test]
fn a_replay_is_one_until_somebody_else_publishes() {
    let mut world = World::new(rules(&[("**", 1_000)], true));
    let mut replay = world.states.source(true);
    let stream = world.publish("market_data.A");
    replay.published(stream);
    assert_eq!(world.state(stream), StreamState::REPLAY, "with its first event");
    assert_eq!(world.sweep(), []);
    for _ in 0..5 {
        assert_eq!(world.pass(5 * SECOND), [], "however slow it is");
        replay.published(world.publish("market_data.A"));
    }
    assert_eq!(world.state(stream), StreamState::REPLAY);
    let mut source = world.states.source(false);
    source.published(world.publish("market_data.A"));
    assert_eq!(world.sweep()[0].status.state, StreamState::LIVE);
    replay.published(world.publish("market_data.A"));
    replay.say(SourceStatus::CLOSED, &[], 0, world.now).unwrap();
    drop(replay);
    let found = world.sweep();
    assert_eq!(found.last().unwrap().status.state, StreamState::CLOSED);
}

/// Every change has its cause: judged by a model that knows each event, word and departure.
#[test]
fn states_never_change_without_a_cause() {
    const INTERVAL: u64 = 1_000 * MS;
    const NAMES: [&str; 4] = ["market_data.A", "market_data.B", "public_trade.A", "risk_metrics.A"];
    let mut reached: HashMap<StreamState, u64> = HashMap::new();
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(rules(&[("**", INTERVAL / MS)], false));
        world.topics = NAMES.iter().map(|name| topic(name)).collect();
        let mut sources = [Some(world.states.source(false)), Some(world.states.source(false))];
        // By stream: last event, last word, whether its source has gone since its last event.
        let mut known: HashMap<StreamId, (u64, u64, bool)> = HashMap::new();
        let mut owner: HashMap<StreamId, usize> = HashMap::new();
        let mut told: HashMap<StreamId, StreamState> = HashMap::new();
        for _ in 0..400 {
            world.now += random.u64(0..300) * MS;
            let at = random.usize(0..sources.len());
            match random.u8(0..20) {
                0..=7 => {
                    let stream = world.publish_to(&world.topics[random.usize(0..NAMES.len())].clone());
                    let source = sources[at].get_or_insert_with(|| world.states.source(false));
                    source.published(stream);
                    owner.insert(stream, at);
                    // A word of an earlier source of the same name is not this one's.
                    known.insert(stream, (world.now, world.now, false));
                    assert!(!matches!(world.state(stream), StreamState::SUSPECT | StreamState::STALE));
                    told.insert(stream, StreamState::LIVE);
                }
                8..=10 => {
                    if let Some(source) = &sources[at] {
                        source.vouch(world.now);
                        for (stream, (_, word, gone)) in &mut known {
                            if owner[stream] == at && !*gone {
                                *word = world.now;
                            }
                        }
                    }
                }
                11 if sources[at].take().is_some() => {
                    for (stream, (_, _, gone)) in &mut known {
                        *gone |= owner[stream] == at;
                    }
                }
                _ => {}
            }
            for finding in world.sweep() {
                let (event, word, gone) = known[&finding.stream];
                let before = told.insert(finding.stream, finding.status.state).unwrap();
                assert_ne!(before, finding.status.state, "seed {seed}: told twice");
                let Status { state, reason, .. } = finding.status;
                *reached.entry(state).or_default() += 1;
                let is_quiet = world.now >= event + INTERVAL;
                // A source vouches before its first event as well; the model does not know that word.
                match (state, reason) {
                    (StreamState::SUSPECT, StateReason::QUIET) => {
                        assert!(is_quiet && world.now >= word + INTERVAL, "seed {seed}: {finding:?}");
                    }
                    (StreamState::SUSPECT, StateReason::SOURCE_GONE) => assert!(gone, "seed {seed}"),
                    (StreamState::STALE, _) => {
                        assert_eq!(before, StreamState::SUSPECT);
                        assert!(world.now >= event + INTERVAL + 5 * INTERVAL || gone, "seed {seed}");
                    }
                    (StreamState::IDLE, StateReason::VOUCHED) => {
                        assert!(is_quiet && world.now < word + INTERVAL, "seed {seed}: {finding:?}");
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            // And nothing is left out: who is unheard for long enough is not called live.
            for (stream, (event, word, _)) in &known {
                let late = (*event).max(*word) + INTERVAL + INTERVAL / 10;
                if world.now >= late {
                    let state = world.state(*stream);
                    assert!(
                        !matches!(state, StreamState::LIVE | StreamState::IDLE),
                        "seed {seed}: {state:?}"
                    );
                }
            }
        }
    }
    for state in [StreamState::IDLE, StreamState::SUSPECT, StreamState::STALE] {
        assert!(reached.get(&state).is_some_and(|count| *count > 100), "{reached:?}");
    }
}

#[test]
fn only_streams_with_an_interval_are_looked_at() {
    let mut world = World::new(rules(&[("market_data.**", 1_000)], false));
    let topics: Vec<Topic> = (0..20_000)
        .map(|number| topic(&format!("{}.S{number}", if number < 100 { "market_data" } else { "alert" })))
        .collect();
    for topic in &topics {
        world.publish_to(topic);
    }
    world.sweep();
    assert_eq!(world.monitor.listed(), 100);
    for _ in 0..10 {
        world.pass(900 * MS);
        for topic in &topics[..100] {
            world.publish_to(topic);
        }
    }
    assert_eq!(world.monitor.listed(), 100, "and no list grows");
}
