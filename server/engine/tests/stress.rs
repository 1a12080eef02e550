//! Ring and shards on real threads: publishers, sleeping shards, readers of every temper; nothing is
//! torn, reordered, untold, slept through or kept.
//!
//! ```text
//!   publishers ─► Engine ─► shard thread: turn, flush, sleep ─► clients, which decode every byte
//!        └─ stop at a checkpoint: who sleeps now must have distributed all; then accounts are settled
//! ```
//!
//! A round is one engine with bounds drawn from its seed. A payload follows from stream, publisher and
//! number; on streams with one publisher the number is the sequence, so a client knows what every sequence
//! must hold, received or not. The simulator (`src/sim.rs`) knows more but runs on one thread; here the
//! order of things is the machine's, so a seed repeats the load, not the run.
//!
//! ```text
//! TICKCAST_STRESS_SECONDS=600 cargo test --release -p tickcast-engine --test stress -- --nocapture
//! TICKCAST_STRESS_SEED=4711 cargo test --release -p tickcast-engine --test stress       one round
//! ```
#![cfg(not(tickcast_loom))]

#[path = "stress/client.rs"]
mod client;

use std::collections::HashMap;
use std::io::IoSlice;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Client, Left, Random, Stream, attributes, condition, payload};
use tickcast_engine::{
    Delivery, Engine, EngineConfig, Event, Finding, Flushed, Format, Incoming, Notify, PeerId, PeerIo,
    Render, Shard, ShardCounts, Start, StateCounts, Status, Subscribe, Written, binary_message,
};
use tickcast_protocol::frame::websocket_head;
use tickcast_protocol::message::Policy;
use tickcast_protocol::registry::{self, Facts, Part};
use tickcast_protocol::{BootId, CloseCode, Epoch, Message, StreamId, Topic, TopicFilter};

/// Rounds unless the environment says otherwise: two to four seconds of two cores in the dev profile.
const ROUNDS: u64 = 6;
/// Times in a round that the publishers stop and every account must balance.
const CHECKPOINTS: usize = 3;
/// Events of one publisher between two checkpoints.
const EVENTS: usize = 4_000;
const PUBLISHERS: usize = 3;
/// Streams of each publisher, and as many that all of them share.
const STREAMS: usize = 10;
const PEERS_MAX: usize = 12;
/// Of two neighbouring numbers of a stream, the keys differ.
const KEYS: u64 = 3;
/// Only a shard that sleeps through its work, or a machine that stands still, takes as long.
const DEADLINE: Duration = Duration::from_secs(60);
const EPOCH: Epoch = Epoch(9);
const TYPES: [&str; 5] = ["market_data", "public_trade", "market_data", "bar.1m", "alert"];
const FILTERS: [&str; 7] = [
    "**",
    "market_data.**",
    "market_data.p0.*",
    "public_trade.**",
    "bar.**",
    "alert.**",
    "market_data.all.*",
];
const POLICIES: [Policy; 5] =
    [Policy::DEFAULT, Policy::DEFAULT, Policy::CONFLATE, Policy::DROP_OLDEST, Policy::DISCONNECT];
const FORMATS: [Format; 5] =
    [Format::Binary, Format::Binary, Format::BinaryLz4, Format::BinaryLz4, Format::D1Snake];

/// What all threads of a round share.
struct World {
    engine: Engine,
    streams: Vec<Stream>,
    rest: Rest,
    /// Peers that left, to be resumed on any shard.
    left: Mutex<Vec<Left>>,
    resumed: AtomicU64,
    slept: AtomicU64,
    /// Subscriptions have rates. Some rounds have no timers, so that nothing but a notification ends a sleep.
    has_rates: bool,
}

/// Where shards that are about to sleep, or have died, are heard.
#[derive(Default)]
struct Rest {
    failed: Mutex<bool>,
    heard: Condvar,
}

impl World {
    /// Waits until every shard has distributed all that was published, of its own accord.
    fn wait_for_rest(&self) {
        let failed = self.rest.failed.lock().unwrap();
        let busy = |failed: &mut bool| !*failed && self.engine.lag() > 0;
        let (failed, timed_out) = {
            let (failed, waited) = self.rest.heard.wait_timeout_while(failed, DEADLINE, busy).unwrap();
            (*failed, waited.timed_out())
        };
        assert!(!failed, "a shard failed; its own message is above");
        assert!(!timed_out, "a wake-up was lost: {} events lie there unread", self.engine.lag());
    }

    /// Publishes the next event of a stream, or its skip.
    fn publish(&self, stream: usize, publisher: usize, quietly: bool) {
        let Stream { topic, owner, numbers } = &self.streams[stream];
        let number = numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let info = registry::by_name(topic.type_name()).unwrap();
        let receipt = if owner.is_some() && client::is_skip(number) {
            self.engine.skip(topic, info.class, 1, number)
        } else {
            let facts = Facts {
                class: info.class,
                conflation_key: number % KEYS,
                attributes: attributes(number),
                part: Part::Whole,
            };
            let payload = payload(stream, publisher, number);
            let incoming = Incoming { info, topic, facts, schema_version: 1, root_len: 8, payload: &payload };
            if quietly {
                self.engine.publish_quietly(incoming, number)
            } else {
                self.engine.publish(incoming, number)
            }
        };
        let sequence = receipt.unwrap().sequence.0;
        assert!(owner.is_none() || sequence == number, "{topic}: {sequence}, not {number}");
    }

    /// Somebody finds that streams are in some state, while others publish to them.
    fn find_states(&self, random: &mut Random) {
        let stream = StreamId(random.between(1, self.streams.len()) as u32);
        let state = random.pick(&StateCounts::STATES);
        let mut found = Vec::new();
        self.engine.look_at(&[stream], |stream, _, _, pulse| {
            let status = Status { state, last_sequence: pulse.head, ..Status::live() };
            found.push(Finding { stream, head: pulse.head, status });
        });
        self.engine.tell(&found);
    }

    /// One publisher's part until the next checkpoint: bursts, of which some are longer than the ring.
    fn publish_many(&self, publisher: usize, random: &mut Random) {
        let mut left = EVENTS;
        while left > 0 {
            let burst = if random.one_in(8) { 400 } else { random.between(1, 40) }.min(left);
            left -= burst;
            let quietly = random.one_in(2);
            for _ in 0..burst {
                let owner = if random.one_in(4) { PUBLISHERS } else { publisher };
                self.publish(owner * STREAMS + random.below(STREAMS), publisher, quietly);
            }
            if quietly {
                self.engine.wake();
            }
            if random.one_in(3) {
                self.find_states(random);
            }
            match random.below(4) {
                0 => self.wait_for_rest(),
                1 => thread::yield_now(),
                _ => {}
            }
        }
    }
}

/// A shard's notifier, and its mailbox.
#[derive(Default)]
struct Bell {
    state: Mutex<(bool, Option<Command>)>,
    rung: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// Open all sockets, let everything drain, and settle.
    Settle,
    /// Let all peers go.
    Part,
    Stop,
}

impl Notify for Bell {
    fn notify(&self) {
        self.state.lock().unwrap().0 = true;
        self.rung.notify_one();
    }
}

impl Bell {
    fn order(&self, command: Command) {
        self.state.lock().unwrap().1 = Some(command);
        self.rung.notify_one();
    }

    fn command(&self) -> Option<Command> {
        self.state.lock().unwrap().1.take()
    }

    /// Blocks; true when a notification ended it.
    fn wait(&self, within: Option<Duration>) -> bool {
        let quiet = |(rung, command): &mut (bool, Option<Command>)| !*rung && command.is_none();
        let state = self.state.lock().unwrap();
        let mut state = match within {
            Some(within) => self.rung.wait_timeout_while(state, within, quiet).unwrap().0,
            None => self.rung.wait_while(state, quiet).unwrap(),
        };
        std::mem::take(&mut state.0)
    }
}

/// Binary as in the server; of JSON the place of an event and its topic. Keeps the bytes of some events, to
/// see at the end that nobody else does.
#[derive(Default)]
struct Words {
    kept: Mutex<Vec<Bytes>>,
}

impl Render for Words {
    fn event(&self, event: &Event, _: Format) -> Option<Bytes> {
        if event.sequence().0.is_multiple_of(8) {
            self.kept.lock().unwrap().push(event.binary().clone());
        }
        let text = format!("{} {} {}", event.stream(), event.sequence(), event.topic());
        let (head, head_len) = websocket_head(1, text.len());
        Some(Bytes::from([&head[..head_len], text.as_bytes()].concat()))
    }

    fn control(&self, message: &Message, _: Option<&Topic>, format: Format) -> Option<Bytes> {
        format.is_binary().then(|| binary_message(message))
    }
}

/// The sockets of one shard's peers.
struct Net {
    world: Arc<World>,
    clients: HashMap<PeerId, Client>,
    random: Random,
    /// All take everything.
    open: bool,
    gone: Vec<PeerId>,
}

impl PeerIo for Net {
    fn write(&mut self, peer: PeerId, bufs: &[IoSlice<'_>]) -> Written {
        let client = self.clients.get_mut(&peer).expect("written to a peer that is there");
        let length = bufs.iter().map(|buf| buf.len()).sum();
        match client.room(length, self.open, &mut self.random) {
            Some(0) => Written::WouldBlock,
            Some(room) => {
                client.take(bufs, room, &self.world.streams);
                Written::Bytes(room)
            }
            None => {
                self.gone.push(peer);
                Written::Gone
            }
        }
    }
}

/// One shard as the server runs it, with peers that come and go.
struct Runner {
    shard: Shard,
    net: Net,
    world: Arc<World>,
    bell: Arc<Bell>,
    began: Instant,
    clock: u64,
}

/// Tells those who wait for the shards that one is no more.
struct Alarm(Arc<World>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.rest.failed.lock().unwrap() = true;
            self.0.rest.heard.notify_all();
        }
    }
}

impl Runner {
    fn run(mut self, done: &Sender<ShardCounts>) {
        let _alarm = Alarm(Arc::clone(&self.world));
        let mut may_join = true;
        loop {
            match self.bell.command() {
                Some(Command::Settle) => self.settle(),
                Some(Command::Part) => {
                    may_join = false;
                    self.part();
                }
                Some(Command::Stop) => return,
                None => {
                    let more = self.turn();
                    if may_join {
                        self.meddle();
                    }
                    if !more && self.shard.prepare_to_sleep() {
                        self.sleep();
                    }
                    continue;
                }
            }
            self.shard.stay_awake();
            done.send(self.shard.stats().snapshot()).unwrap();
        }
    }

    fn turn(&mut self) -> bool {
        if self.shard.keeps_time() {
            self.clock = self.clock.max(self.began.elapsed().as_nanos() as u64);
        }
        let turn = self.shard.turn(self.clock);
        self.shard.flush(&mut self.net);
        self.bury();
        turn.remaining
    }

    fn sleep(&mut self) {
        self.world.slept.fetch_add(1, Ordering::Relaxed);
        drop(self.world.rest.failed.lock().unwrap());
        self.world.rest.heard.notify_all();
        let due = self.shard.next_due();
        let within = due.map(|due| (self.began + Duration::from_nanos(due)).duration_since(Instant::now()));
        if !self.bell.wait(within) {
            self.shard.stay_awake();
        }
    }

    /// Something that peers do between two turns.
    fn meddle(&mut self) {
        let Some(peer) = self.any_peer() else { return self.join() };
        match self.net.random.below(16) {
            0 if self.net.clients.len() < PEERS_MAX => self.join(),
            1 if self.net.random.one_in(3) => self.leave(peer),
            2 => self.net.clients.get_mut(&peer).unwrap().change(&mut self.net.random),
            3 => drop(self.shard.heartbeat(peer, 1)),
            4..=9 => {
                self.shard.flush_peer(peer, &mut self.net);
            }
            _ => {}
        }
        self.bury();
    }

    fn any_peer(&mut self) -> Option<PeerId> {
        let peers: Vec<PeerId> = self.net.clients.keys().copied().collect();
        (!peers.is_empty()).then(|| self.net.random.pick(&peers))
    }

    fn join(&mut self) {
        let Net { random, clients, .. } = &mut self.net;
        let format = random.pick(&FORMATS);
        let mut filter = TopicFilter::parse(random.pick(&FILTERS)).unwrap();
        let mut wanted = condition(random);
        let (mut start, mut positions) = (random.pick(&[Start::Live, Start::Snapshot]), Vec::new());
        let left = self.world.left.lock().unwrap().pop();
        if !format.is_binary() {
            start = Start::Live;
        } else if let Some(left) = left.filter(|_| random.one_in(2)) {
            Left { filter, condition: wanted, positions } = left;
            start = Start::Resume { epoch: EPOCH, positions: positions.clone() };
            self.world.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let interval = if self.world.has_rates { random.pick(&[0, 0, 100_000, 2_000_000]) } else { 0 };
        let delivery = Delivery { policy: random.pick(&POLICIES), condition: wanted.clone(), interval };
        let peer = self.shard.attach(format);
        clients.insert(peer, Client::new(format, filter.clone(), wanted, positions, random));
        self.shard.subscribe(peer, Subscribe { filter, start, delivery }, |_| None).unwrap();
    }

    fn leave(&mut self, peer: PeerId) {
        self.shard.detach(peer);
        assert_eq!(self.shard.peer_status(peer), None);
        let client = self.net.clients.remove(&peer).unwrap();
        if let Some(left) = client.left() {
            self.world.left.lock().unwrap().push(left);
        }
    }

    /// Lets the dead go, and those that were too slow.
    fn bury(&mut self) {
        while let Some((peer, code)) = self.shard.next_closing() {
            assert_eq!(code, CloseCode::SlowConsumer);
            self.shard.hang_up(peer, code, Bytes::from_static(b"\x88\0"));
            self.shard.flush_peer(peer, &mut self.net);
            self.leave(peer);
        }
        while let Some(peer) = self.net.gone.pop() {
            if self.net.clients.contains_key(&peer) {
                assert_eq!(self.shard.flush_peer(peer, &mut self.net), Flushed::Gone);
                self.leave(peer);
            }
        }
    }

    /// Nobody publishes: everything drains, and every account must balance.
    fn settle(&mut self) {
        self.net.open = true;
        while self.shard.has_work() || self.shard.next_due().is_some() {
            self.clock = self.clock.max(self.shard.next_due().unwrap_or(0));
            self.turn();
        }
        let peers: Vec<PeerId> = self.net.clients.keys().copied().collect();
        for peer in &peers {
            self.shard.flush_peer(*peer, &mut self.net);
        }
        self.bury();
        for peer in peers {
            if self.net.clients.contains_key(&peer) {
                // Behind everything else: what filters left out last.
                self.shard.heartbeat(peer, 1).unwrap();
                assert_eq!(self.shard.flush_peer(peer, &mut self.net), Flushed::Idle);
            }
        }
        let heads = self.world.engine.streams();
        for (peer, client) in &self.net.clients {
            client.settle(&self.shard.peer_status(*peer).unwrap(), &heads);
            let streams: Vec<StreamId> = client.bound().collect();
            self.world.engine.look_at(&streams, |stream, topic, _, pulse| {
                assert_eq!(client.state(stream.0), pulse.status.state, "{topic}");
            });
        }
        self.net.open = false;
    }

    fn part(&mut self) {
        for peer in self.net.clients.keys().copied().collect::<Vec<_>>() {
            self.leave(peer);
        }
        let counts = self.shard.stats().snapshot();
        let held = [counts.peers, counts.subscriptions, counts.groups, counts.conditions, counts.queued];
        assert_eq!(held, [0; 5], "left behind by peers that are gone");
        assert!(!self.shard.keeps_time());
    }
}

/// A shard's thread from outside.
struct Handle {
    bell: Arc<Bell>,
    done: Receiver<ShardCounts>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Gives an order and waits until it was carried out.
    fn order(&self, command: Command) -> Option<ShardCounts> {
        self.bell.order(command);
        match self.done.recv_timeout(DEADLINE) {
            Ok(counts) => Some(counts),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("a shard did not {command:?} in {DEADLINE:?}"),
        }
    }
}

/// What a round reached.
#[derive(Clone, Copy, Default)]
struct Reached {
    counts: ShardCounts,
    resumed: u64,
    slept: u64,
    witnesses: usize,
}

fn round(seed: u64) -> Reached {
    let mut random = Random(seed);
    let shards = random.between(2, 3);
    let config = EngineConfig {
        ring_slots: 1 << random.between(5, 10),
        history_events: random.between(1, 16),
        history_bytes: random.between(500, 5_000),
        outbox_events: random.between(5, 200),
        outbox_bytes: random.between(1_000, 50_000),
        critical_events: random.between(50, 400),
        shards,
        turn_events: random.between(10, 300),
        lz4_min_bytes: 200,
        ..EngineConfig::default()
    };
    let ring_slots = config.ring_slots;
    let fillers = config.history_events.max(ring_slots / (STREAMS * PUBLISHERS)) as u64 + 2 * KEYS;
    let bells: Vec<Arc<Bell>> = (0..shards).map(|_| Arc::default()).collect();
    let notifies = bells.iter().map(|bell| Arc::clone(bell) as Arc<dyn Notify>).collect();
    let words = Arc::new(Words::default());
    let (engine, shards) = Engine::new(config, EPOCH, BootId(1), Arc::clone(&words) as _, notifies);
    let streams = (0..(PUBLISHERS + 1) * STREAMS).map(|stream| {
        let owner = Some(stream / STREAMS).filter(|owner| *owner < PUBLISHERS);
        let of = owner.map_or("all".to_owned(), |owner| format!("p{owner}"));
        let topic = Topic::parse(&format!("{}.{of}.{stream}", TYPES[stream % TYPES.len()])).unwrap();
        Stream { topic, owner, numbers: AtomicU64::new(0) }
    });
    let world = Arc::new(World {
        engine,
        streams: streams.collect(),
        rest: Rest::default(),
        left: Mutex::default(),
        resumed: AtomicU64::new(0),
        slept: AtomicU64::new(0),
        has_rates: random.one_in(2),
    });
    let handles: Vec<Handle> = shards
        .into_iter()
        .zip(&bells)
        .map(|(shard, bell)| {
            let (sender, done) = channel();
            let (world, bell) = (Arc::clone(&world), Arc::clone(bell));
            let random = Random(random.next());
            let (clients, gone) = (HashMap::new(), Vec::new());
            let net = Net { world: Arc::clone(&world), clients, random, open: false, gone };
            let runner =
                Runner { shard, net, world, bell: Arc::clone(&bell), began: Instant::now(), clock: 0 };
            Handle { bell, done, thread: thread::spawn(move || runner.run(&sender)) }
        })
        .collect();
    // A shard that fails has said why; joining says it again as the test's own failure.
    let order = |handles: Vec<Handle>, command| {
        let answers: Vec<Option<ShardCounts>> = handles.iter().map(|handle| handle.order(command)).collect();
        if command == Command::Stop || answers.iter().any(Option::is_none) {
            for (handle, _) in handles.into_iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
                handle.thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
            return (Vec::new(), ShardCounts::default());
        }
        let counts = answers.into_iter().flatten().fold(ShardCounts::default(), ShardCounts::plus);
        (handles, counts)
    };

    let mut publishers: Vec<Random> = (0..PUBLISHERS).map(|_| Random(random.next())).collect();
    let mut handles = handles;
    for _ in 0..CHECKPOINTS {
        let threads: Vec<JoinHandle<Random>> = publishers
            .drain(..)
            .enumerate()
            .map(|(publisher, mut random)| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    world.publish_many(publisher, &mut random);
                    random
                })
            })
            .collect();
        // Joined as threads, so that what they retired from the ring is anybody's to free.
        for thread in threads {
            publishers.push(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        world.wait_for_rest();
        for summary in world.engine.streams() {
            let stream = world.streams.iter().find(|stream| stream.topic == summary.topic).unwrap();
            assert_eq!(summary.head.0, stream.numbers.load(Ordering::Relaxed), "{}", summary.topic);
        }
        (handles, _) = order(handles, Command::Settle);
    }

    let (handles, counts) = order(handles, Command::Part);
    // Rings, histories and last values let the past go for what follows; nobody else may hold it.
    for filler in 0..fillers as usize * world.streams.len() {
        let stream = filler % world.streams.len();
        world.publish(stream, world.streams[stream].owner.unwrap_or(0), false);
        if filler % (ring_slots / 2) == 0 {
            world.wait_for_rest();
        }
    }
    world.wait_for_rest();
    let mut kept = std::mem::take(&mut *words.kept.lock().unwrap());
    // Two shards may both have rendered one, of which each kept the bytes.
    kept.sort_unstable_by_key(|bytes| bytes.as_ptr());
    kept.dedup_by_key(|bytes| bytes.as_ptr());
    let witnesses = kept.len();
    let began = Instant::now();
    while !kept.is_empty() && began.elapsed() < DEADLINE {
        crossbeam_epoch::pin().flush();
        kept.retain(|bytes| !bytes.is_unique());
    }
    assert!(kept.is_empty(), "{} of {witnesses} events are still held by somebody", kept.len());
    order(handles, Command::Stop);
    let [resumed, slept] = [&world.resumed, &world.slept].map(|count| count.load(Ordering::Relaxed));
    Reached { counts, resumed, slept, witnesses }
}

#[test]
fn threads_tear_nothing_lose_nothing_and_keep_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (only, seconds) = (number("TICKCAST_STRESS_SEED"), number("TICKCAST_STRESS_SECONDS"));
    let began = Instant::now();
    let (mut sum, mut rounds) = (Reached::default(), 0);
    for seed in only.unwrap_or(0).. {
        let is_over = match seconds {
            Some(seconds) => began.elapsed() >= Duration::from_secs(seconds),
            None => rounds == only.map_or(ROUNDS, |_| 1),
        };
        if is_over {
            break;
        }
        // Before it runs: a failure on another thread, too, is found under its seed.
        println!("round of seed {seed}, {:.1?} after the start", began.elapsed());
        let reached = round(seed);
        rounds += 1;
        sum.counts = sum.counts.plus(reached.counts);
        sum.resumed += reached.resumed;
        sum.slept += reached.slept;
        sum.witnesses += reached.witnesses;
    }
    let Reached { counts, resumed, slept, witnesses } = sum;
    println!("{rounds} rounds: {resumed} resumed, {slept} sleeps, {witnesses} witnesses let go, {counts:?}");
    if rounds >= ROUNDS {
        let reached = [
            counts.laps,
            counts.repaired,
            counts.conflated,
            counts.gapped,
            counts.writes_short,
            counts.closed_slow,
            counts.compressed,
            counts.rated,
            counts.renders,
            resumed,
            slept,
            witnesses as u64,
        ];
        assert!(reached.iter().all(|count| *count > 0), "it misses what it is for: {reached:?}");
    }
}
