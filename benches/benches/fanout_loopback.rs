//! One publisher, one shard, a thousand TCP connections over loopback: what a delivery costs with the
//! kernel's send, beside a bare loop that sends as many bytes with one send each.
//!
//! ```text
//!   engine   publish × events ─► turn ─► flush ─► 1,000 sends ─► loopback ─► one thread reads all
//!   bare                  as many bytes in a buffer  ─► 1,000 sends ─► the same sockets
//! ```
//!
//! The figure is the ratio of the two in one run. An element is a delivery: events × connections. Each turn
//! begins when the reader has everything of the one before, so that no buffer fills; that wait is not
//! measured. The reader takes the other core, and is asleep when a turn begins, in both.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{Resource, getrlimit, setrlimit};
use tickcast_benches::{Checked, STREAMS, attach, engine, fill, publish, trade};
use tickcast_engine::{Engine, Format, PeerId, PeerIo, Shard, Written};

/// Connections of the shard.
const PEERS: usize = 1_000;
/// Both ends of each connection, and what a process has open besides.
const DESCRIPTORS_MIN: u64 = 2 * PEERS as u64 + 100;
/// Events in one turn.
const EVENTS_PER_TURN: [usize; 3] = [1, 16, 64];
/// Bytes of a frame without its WebSocket head.
const FRAME_BYTES: usize = 128;
/// Most bytes read at once from one connection: a turn of 64 events has less.
const READ_BYTES: usize = 64 * 1024;

/// The sending ends, by place of the peer.
struct Sockets(Vec<TcpStream>);

impl Sockets {
    fn send(&self, at: usize, bufs: &[IoSlice<'_>]) -> usize {
        let mut socket = &self.0[at];
        let sent = match bufs {
            [buf] => socket.write(buf),
            bufs => socket.write_vectored(bufs),
        };
        let length = bufs.iter().map(|buf| buf.len()).sum();
        assert_eq!(sent.expect("an open socket with room"), length, "a buffer filled: not what is measured");
        length
    }
}

impl PeerIo for Sockets {
    fn write(&mut self, peer: PeerId, bufs: &[IoSlice<'_>]) -> Written {
        Written::Bytes(self.send(peer.index(), bufs))
    }
}

/// The receiving ends: a thread that takes everything and counts it. Ends when all connections have.
struct Reader {
    /// Bytes received, by connection.
    taken: Arc<Vec<AtomicU64>>,
    /// The sum of those.
    total: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn start(mut sockets: Vec<TcpStream>) -> Self {
        let taken: Arc<Vec<AtomicU64>> = Arc::new(sockets.iter().map(|_| AtomicU64::new(0)).collect());
        let total = Arc::new(AtomicU64::new(0));
        let (counts, sum) = (Arc::clone(&taken), Arc::clone(&total));
        let thread = thread::spawn(move || {
            let poll = epoll::create(CreateFlags::CLOEXEC).expect("one more descriptor");
            for (at, socket) in sockets.iter().enumerate() {
                epoll::add(&poll, socket, EventData::new_u64(at as u64), EventFlags::IN).expect("a socket");
            }
            let (mut events, mut buffer) = (Vec::with_capacity(PEERS), vec![0; READ_BYTES]);
            let mut open = sockets.len();
            while open > 0 {
                match epoll::wait(&poll, spare_capacity(&mut events), None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => panic!("epoll: {error}"),
                }
                for event in events.drain(..) {
                    let at = event.data.u64() as usize;
                    match sockets[at].read(&mut buffer) {
                        Ok(0) => {
                            epoll::delete(&poll, &sockets[at]).expect("it was added");
                            open -= 1;
                        }
                        Ok(bytes) => {
                            counts[at].fetch_add(bytes as u64, Ordering::Relaxed);
                            // Release: who waits for the sum sees the parts.
                            sum.fetch_add(bytes as u64, Ordering::Release);
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => panic!("a connection broke: {error}"),
                    }
                }
            }
        });
        Self { taken, total, thread }
    }
}

struct Bench {
    engine: Engine,
    shard: Shard,
    trades: Vec<Checked>,
    published: u64,
    sockets: Sockets,
    reader: Reader,
    /// Bytes sent to all connections, by either side.
    sent: u64,
}

impl Bench {
    fn new() -> Self {
        raise_descriptor_limit();
        let trades: Vec<Checked> =
            (0..STREAMS).map(|number| Checked::new(&trade(&format!("SYM{number:03}USDT")))).collect();
        assert!(trades.iter().all(|trade| trade.frame_len() == FRAME_BYTES));
        let (engine, mut shards) = engine(1);
        let (mut shard, mut published) = (shards.remove(0), 0);
        fill(&engine, Some(&mut shard), &trades, &mut published);
        attach(&mut shard, "public_trade.*", std::iter::repeat_n(Format::Binary, PEERS));
        let (senders, receivers) = connect();
        let (sockets, reader) = (Sockets(senders), Reader::start(receivers));
        Self { engine, shard, trades, published, sockets, reader, sent: 0 }
    }

    /// It measures what it says: each connection gets each byte of a turn, from either side, in one send.
    /// Returns the length of a turn for one connection.
    fn check(&mut self, events: usize) -> usize {
        let taken = |bench: &Self| -> Vec<u64> {
            bench.reader.taken.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect()
        };
        let length = events * (4 + FRAME_BYTES);
        let writes = self.shard.stats().writes.get();
        let before = taken(self);
        self.turn(events);
        self.wait();
        self.bare(&vec![0; length]);
        self.wait();
        assert_eq!(self.shard.stats().writes.get() - writes, PEERS as u64);
        let after = taken(self);
        assert!(before.iter().zip(after).all(|(before, after)| after - before == 2 * length as u64));
        length
    }

    fn turn(&mut self, events: usize) {
        let before = self.shard.stats().sent_bytes.get();
        publish(&self.engine, &self.trades, &mut self.published, events);
        loop {
            let turn = self.shard.turn(0);
            self.shard.flush(&mut self.sockets);
            if !turn.remaining {
                break;
            }
        }
        self.sent += self.shard.stats().sent_bytes.get() - before;
    }

    fn bare(&mut self, bytes: &[u8]) {
        for at in 0..PEERS {
            self.sent += self.sockets.send(at, &[IoSlice::new(bytes)]) as u64;
        }
    }

    /// Until everything has arrived.
    fn wait(&self) {
        while self.reader.total.load(Ordering::Acquire) < self.sent {
            assert!(!self.reader.thread.is_finished(), "the reader failed; its own message is above");
            thread::yield_now();
        }
    }

    /// The time of `times` turns, without the waits between them.
    fn timed(&mut self, times: u64, mut once: impl FnMut(&mut Self)) -> Duration {
        let mut elapsed = Duration::ZERO;
        for _ in 0..times {
            self.wait();
            let start = Instant::now();
            once(self);
            elapsed += start.elapsed();
        }
        self.wait();
        elapsed
    }
}

/// Pairs of connected sockets that do not block, without Nagle's delay.
fn connect() -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let pair = |_| {
        let receiver = TcpStream::connect(address).expect("loopback");
        let (sender, _) = listener.accept().expect("just connected");
        sender.set_nodelay(true).expect("an open socket");
        for socket in [&sender, &receiver] {
            socket.set_nonblocking(true).expect("an open socket");
        }
        (sender, receiver)
    };
    (0..PEERS).map(pair).unzip()
}

fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|soft| soft < DESCRIPTORS_MIN) {
        limit.current = limit.maximum.map_or(Some(DESCRIPTORS_MIN), |hard| Some(hard.min(DESCRIPTORS_MIN)));
        setrlimit(Resource::Nofile, limit).expect("up to the hard limit is allowed");
    }
    let enough = limit.current.is_none_or(|soft| soft >= DESCRIPTORS_MIN);
    assert!(enough, "needs {DESCRIPTORS_MIN} descriptors: raise the hard limit (ulimit -Hn)");
}

fn one_to_1k_fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_to_1k_fanout/loopback");
    let mut bench = Bench::new();
    for events in EVENTS_PER_TURN {
        let bytes = vec![0; bench.check(events)];
        group.throughput(Throughput::Elements((events * PEERS) as u64));
        group.bench_function(BenchmarkId::new("engine", events), |b| {
            b.iter_custom(|turns| bench.timed(turns, |bench| bench.turn(events)));
        });
        group.bench_function(BenchmarkId::new("bare", events), |b| {
            b.iter_custom(|turns| bench.timed(turns, |bench| bench.bare(&bytes)));
        });
    }
    group.finish();
    let Bench { sockets, reader, .. } = bench;
    drop(sockets);
    reader.thread.join().expect("it ends when all connections have");
}

criterion_group!(benches, one_to_1k_fanout);
criterion_main!(benches);
