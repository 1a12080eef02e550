//! Every key of the settings, explained once.
//!
//! [`KEYS`] and the typed sections of [`Config`] are made from the one table below: names,
//! environment names, defaults, bounds, costs, what happens at the limit, the text of `config init`
//! and the suggestions for a misspelt key. To add a key, add it here; nothing else lists them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::check::Effective;
use super::kind::{Field, Interval, Kind, Value};

// Durations in the table are in milliseconds, sizes in bytes.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// One key of the settings.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The section it is in, such as `server`.
    pub section: &'static str,
    /// The whole name, such as `server.listen`.
    pub name: &'static str,
    /// What it means, in lines as they stand in the table; the unit of a count is named here.
    pub doc: &'static [&'static str],
    /// The default, as it would be written in TOML.
    pub default: &'static str,
    /// What may be written.
    pub kind: Kind,
    /// What a larger value costs, for keys that cost something.
    pub cost: Option<&'static str>,
    /// What a peer sees when the limit is hit (close code, HTTP status or error code), for keys that
    /// are limits.
    pub at_limit: Option<&'static str>,
}

impl Key {
    /// The key with this name, if there is one.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The name without its section, such as `listen`.
    #[must_use]
    pub fn leaf(&self) -> &'static str {
        &self.name[self.section.len() + 1..]
    }

    /// The environment variable that sets it, such as `TICKCAST_SERVER__LISTEN`.
    #[must_use]
    pub fn env(&self) -> String {
        format!("TICKCAST_{}", self.name.replace('.', "__").to_uppercase())
    }

    /// The counter that moves when the limit is hit, with its label; `None` for what is no limit.
    #[must_use]
    pub fn counter(&self) -> Option<String> {
        self.at_limit.map(|_| format!("tickcast_limit_hits_total{{limit=\"{}\"}}", self.name))
    }
}

macro_rules! choices {
    ($(
        $(#[$about:meta])+
        $Choice:ident { $($(#[$doc:meta])+ $Variant:ident = $name:literal,)+ }
    )+) => {
        $(
            $(#[$about])+
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            pub enum $Choice { $($(#[$doc])+ $Variant,)+ }

            impl $Choice {
                /// Every name, as written in the settings.
                pub const NAMES: &'static [&'static str] = &[$($name),+];

                /// The name, as written in the settings.
                #[must_use]
                pub const fn name(self) -> &'static str {
                    match self { $(Self::$Variant => $name,)+ }
                }
            }

            impl Field for $Choice {
                fn take(value: &Value) -> Option<Self> {
                    match value { $(Value::Name($name) => Some(Self::$Variant),)+ _ => None }
                }
            }
        )+
    };
}

choices! {
    /// The JSON dialect that plain `/ws` speaks.
    WsDialect {
        /// The dialect of the first dashboards.
        D1 = "d1",
    }
    /// How the kernel is handed what goes to many connections at once.
    Sends {
        /// By io_uring where the kernel allows it, else singly.
        Auto = "auto",
        /// A system call each.
        Single = "single",
        /// Up to 512 in a system call.
        IoUring = "io_uring",
    }
    /// How dialect D1 spells field names: native JSON is always in snake case.
    JsonCase {
        /// `best_bid`.
        Snake = "snake",
        /// `bestBid`.
        Camel = "camel",
        /// As the peer writes its own messages.
        Auto = "auto",
    }
    /// The least durability a critical publish must have to be accepted.
    MinDurability {
        /// In this process's memory: lost when the process ends.
        Memory = "memory",
        /// On disk: survives a power cut of the machine.
        Disk = "disk",
    }
    /// The least severe records that are logged.
    LogLevel {
        /// Errors only.
        Error = "error",
        /// Errors and warnings.
        Warn = "warn",
        /// Also what happens in normal operation.
        Info = "info",
        /// Also what helps to find a fault.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    /// How a log record is written.
    LogFormat {
        /// One line for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
    }
}

macro_rules! keys {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $Section:ident {$(
            $(#[doc = $doc:literal])+
            $(#[cost($cost:literal)])?
            $(#[at_limit($at_limit:literal)])?
            $key:ident: $Type:ty = $default:tt, $kind:expr;
        )+}
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $Section {$(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nDefault: `", stringify!($default), "`, of `", stringify!($kind), "`.")]
                $(#[doc = concat!("\n\nCost: ", $cost)])?
                $(#[doc = concat!("\n\nAt the limit: ", $at_limit)])?
                pub $key: $Type,
            )+}
        )+

        /// The settings, checked and typed: what the program runs on.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[doc = $about])+ pub $section: $Section,)+
            /// The same values by name, each with where it came from.
            pub(super) effective: BTreeMap<&'static str, Effective>,
        }

        impl Config {
            /// Fills the sections; `effective` holds a checked value for every key.
            pub(super) fn assemble(effective: BTreeMap<&'static str, Effective>) -> Self {
                Self {
                    $($section: $Section {
                        $($key: take(&effective, concat!(stringify!($section), ".", stringify!($key))),)+
                    },)+
                    effective,
                }
            }
        }

        /// Every section with what it is about, in the order of the table.
        pub(super) const SECTIONS: &[(&str, &[&str])] = &[$((stringify!($section), &[$($about),+]),)+];

        /// Every key, in the order of the table.
        pub const KEYS: &[Key] = &[$($(Key {
            section: stringify!($section),
            name: concat!(stringify!($section), ".", stringify!($key)),
            doc: &[$($doc),+],
            default: stringify!($default),
            kind: $kind,
            cost: first(&[$($cost)?]),
            at_limit: first(&[$($at_limit)?]),
        },)+)+];
    };
}

keys! {
    /// Where the server listens, how many threads it uses and how it stops.
    server: Server {
        /// The address and port to listen on; port 0 takes a free one. Only a loopback address is
        /// accepted, since there is no authentication yet.
        listen: SocketAddr = "127.0.0.1:8000", Kind::Address;
        /// Threads that deliver messages; 0 is one a core, 64 at most.
        #[cost("one OS thread each, with its own scratch memory and last values.")]
        shards: usize = 0, count(0, SHARDS_MAX);
        /// Time that connections have, once the server was asked to stop, to take what waits for them.
        /// The whole stop takes 10 s at most.
        #[cost("a restart takes this much longer when a peer is slow.")]
        #[at_limit("what is still queued is discarded and the connection closed with 1012 service_restart.")]
        drain_timeout: Duration = "8s", duration(0, 8 * SECOND + 500);
        /// How the kernel is handed what goes to many connections at once: "io_uring" up to 512 sends in a
        /// system call, which needs Linux 6.0 and costs about a tenth less CPU; "single" a system call each;
        /// "auto" the first where the kernel allows it. Containers often forbid io_uring.
        sends: Sends = "auto", choice(Sends::NAMES);
        /// Web origins, besides loopback and the server's own host, whose pages may connect and publish.
        allowed_origins: Vec<String> = [], Kind::Origins;
    }

    /// Bounds on what one peer, or all of them together, may use. None can be switched off.
    limits: Limits {
        /// Connections open at once, handshakes included; the descriptor limit of the process less 64
        /// bounds them too.
        #[cost("one descriptor each, and in the worst case `outbox.bytes` and `limits.publisher_bytes`.")]
        #[at_limit("HTTP 503 with Retry-After, before anything is read.")]
        connections: usize = 10_000, count(1, 1_000_000);
        /// Handshakes and HTTP requests in flight at once.
        #[cost("`limits.header_bytes` each, and `limits.publish_request_bytes` for a publish.")]
        #[at_limit("HTTP 503 with Retry-After.")]
        handshakes: usize = 1024, count(1, 65_536);
        /// Time from accept until the last header byte of a request, however slowly the bytes come; a
        /// connection kept for a next request ends after the same time, which is no limit hit.
        #[cost("a peer that dribbles holds a handshake this long.")]
        #[at_limit("the connection is closed without an answer.")]
        handshake_timeout: Duration = "5s", duration(10, MINUTE);
        /// Time from the upgrade until a binary peer has said hello.
        #[cost("a silent peer holds a connection this long.")]
        #[at_limit("close 4008 hello_timeout.")]
        hello_timeout: Duration = "5s", duration(10, MINUTE);
        /// Bytes of a request's line and headers together.
        #[cost("this much for each handshake in flight.")]
        #[at_limit("HTTP 431.")]
        header_bytes: usize = "16KiB", size(8 * KIB, 64 * KIB);
        /// Headers of a request.
        #[cost("parsing time of a handshake.")]
        #[at_limit("HTTP 431.")]
        headers: usize = 64, count(16, 256);
        /// Bytes of a message from a peer that has not been accepted as a publisher.
        #[cost("this much for each connection that sends a message in parts.")]
        #[at_limit("close 1009 message_too_big, on the frame's header, before its payload is read.")]
        inbound_bytes: usize = "4KiB", size(KIB, MIB);
        /// Bytes of a message from a publisher, and of each message of a publish request.
        #[cost("this much for each slot of the ring and each publisher that sends a message in parts.")]
        #[at_limit("close 1009 message_too_big; in a publish request the message is refused with MESSAGE_TOO_LARGE.")]
        publisher_bytes: usize = "64KiB", size(KIB, MIB);
        /// Fragments of a message, empty ones included.
        #[cost("work for each fragment, however small.")]
        #[at_limit("close 1008 policy_violation.")]
        fragments: usize = 64, count(1, 1024);
        /// Time from the first byte of a message until its last, and for the body of a publish request.
        #[cost("a peer that dribbles holds a partial message this long.")]
        #[at_limit("close 1008 policy_violation; HTTP 408 for a publish request.")]
        message_timeout: Duration = "10s", duration(10, 5 * MINUTE);
        /// Subscriptions of a connection.
        #[cost("an entry in the index of its shard each.")]
        #[at_limit("error SUBSCRIPTION_LIMIT; the connection stays.")]
        subscriptions: usize = 1024, count(1, 65_536);
        /// Streams, which are topics with their class, that the server will number in its life.
        #[cost("the topic's name and a record each, and up to `history.bytes` once published to.")]
        #[at_limit("the publish is refused with STREAM_LIMIT; streams that exist go on.")]
        streams: usize = 1_000_000, count(1, 16_000_000);
        /// Control messages a second from a subscriber, pings included, over time; publishers are exempt.
        #[cost("work on the shard for each.")]
        #[at_limit("error RATE_LIMITED once, then close 4006 rate_limited.")]
        inbound_messages_per_second: usize = 50, count(1, 100_000);
        /// Control messages a subscriber may send at once when it has been quiet.
        #[cost("work on the shard for each, in one turn.")]
        #[at_limit("error RATE_LIMITED once, then close 4006 rate_limited.")]
        inbound_messages_burst: usize = 200, count(1, 100_000);
        /// Bytes of the body of a publish request.
        #[cost("this much for each publish request in flight.")]
        #[at_limit("HTTP 413.")]
        publish_request_bytes: usize = "1MiB", size(KIB, 64 * MIB);
        /// Messages of a publish request.
        #[cost("an answer for each message, and the time the request keeps others waiting.")]
        #[at_limit("HTTP 413; nothing of the request is published.")]
        publish_request_messages: usize = 10_000, count(1, 1_000_000);
        /// Time without any byte from a peer, the answers to our pings included, until it counts as gone.
        /// At least twice `heartbeat.interval`.
        #[cost("a peer that vanished holds its connection and outbox this long.")]
        #[at_limit("close 4002 heartbeat_timeout.")]
        idle_timeout: Duration = "65s", duration(20, HOUR);
        /// Malformed messages of a connection until it is closed; each is answered with an error before.
        #[cost("work and an error for each.")]
        #[at_limit("close 4500 bad_request.")]
        strikes: usize = 20, count(1, 1000);
        /// Levels of arrays and objects in a JSON message.
        #[cost("stack of the parser.")]
        #[at_limit("error INVALID_JSON, which is a strike; BAD_REQUEST for a publish request.")]
        json_depth: usize = 8, count(4, 64);
    }

    /// Signs of life on quiet connections.
    heartbeat: Heartbeat {
        /// Time between two pings to a connection; the first one comes at a random part of it.
        #[cost("a send for each connection and interval, and as many answers.")]
        interval: Duration = "30s", duration(10, 30 * MINUTE);
    }

    /// The store every shard reads each event from.
    ring: Ring {
        /// Events it holds, as a power of two: how far a shard may fall behind.
        #[cost("the size of an event each, `limits.publisher_bytes` in the worst case.")]
        #[at_limit("a shard that is lapped tells its subscribers of a gap and repairs the last values.")]
        slots: usize = 16_384, Kind::PowerOfTwo { min: 64, max: 1_048_576 };
    }

    /// Recent events of each stream, for snapshots and resume.
    history: History {
        /// Events kept of a stream.
        #[cost("a reference in each shard for each event.")]
        #[at_limit("the oldest goes; a resume from before it is told of a gap with reason history_gone.")]
        events: usize = 256, count(1, 65_536);
        /// Bytes kept of a stream.
        #[cost("this much for each stream that is published to.")]
        #[at_limit("the oldest goes; a resume from before it is told of a gap with reason history_gone.")]
        bytes: usize = "256KiB", size(4 * KIB, 64 * MIB);
    }

    /// What waits for one subscriber that reads more slowly than its events come.
    outbox: Outbox {
        /// Events waiting.
        #[cost("a reference each.")]
        #[at_limit("class latest is conflated, ordered skips with a gap notice, critical is closed with 4003 slow_consumer.")]
        events: usize = 1024, count(16, 1_048_576);
        /// Bytes of the events waiting, each charged in full though it is shared.
        #[cost("this much for each slow connection.")]
        #[at_limit("class latest is conflated, ordered skips with a gap notice, critical is closed with 4003 slow_consumer.")]
        bytes: usize = "256KiB", size(16 * KIB, 64 * MIB);
    }

    /// Large messages to binary clients that can read LZ4, compressed once a message for all of them.
    compression: Compression {
        /// Whether LZ4 is used at all.
        #[cost("for each large message that such a client reads, some microseconds on one shard and a second, smaller copy.")]
        lz4: bool = true, Kind::Flag;
        /// Bytes of a payload from which on it is compressed; one that does not get smaller by a sixteenth
        /// is sent as it is.
        #[cost("traffic: messages below it are sent in full. A smaller value costs shards and clients more work.")]
        lz4_min_bytes: usize = "512B", size(64, 64 * KIB);
    }

    /// When a source of events counts as unwell.
    health: Health {
        /// Time without an event until the streams of a type are announced as stale, and until a suspect stream
        /// is, unless five of its intervals are less.
        stale_after: Duration = "300s", duration(100, 24 * HOUR);
        /// Errors in a row until a source is announced as unhealthy.
        errors: usize = 10, count(1, 100_000);
    }

    /// When a stream counts as quiet: its subscribers are told, unless its source says that nothing is missing.
    streams: Streams {
        /// Longest time between two events of the streams that a pattern names, while all is well; the first
        /// pattern that matches counts. A publisher may set it for streams that no pattern names.
        #[cost("a look at each such stream and interval.")]
        intervals: Vec<Interval> = [], Kind::Intervals {
            min: Duration::from_millis(100), max: Duration::from_millis(24 * HOUR)
        };
        /// Whether the interval of other streams is learned: five times the median pause, at least 2s, after
        /// eight events that lie 100ms apart. Only of class latest: a quiet alert is not a stale one.
        #[cost("a look at each such stream and interval.")]
        learn: bool = true, Kind::Flag;
    }

    /// Views of order books: the best levels of each, made here and published on `partial_book.DEPTH.SYMBOL`.
    books: Books {
        /// Depths of the views, in levels a side; none are made without one.
        #[cost("a thread that keeps every order book; for each depth a stream a book, and a message when it changes.")]
        views: Vec<u64> = [], Kind::Counts { min: 1, max: 100, items_max: 8 };
        /// Books that are kept for them.
        #[cost("up to 136KiB each, most of it for the levels.")]
        #[at_limit("no views are made of the book; the book itself is delivered as ever.")]
        count: usize = 1000, count(1, 100_000);
    }

    /// How JSON is spoken.
    json: Json {
        /// The dialect of plain `/ws` without a subprotocol.
        ws_dialect: WsDialect = "d1", Kind::Choice {
            names: WsDialect::NAMES,
            later: Some((&["d0", "d2", "d3", "d4", "auto"], "which speaks only d1 there")),
        };
        /// How dialect D1 spells field names: native JSON is always in snake case.
        case: JsonCase = "snake", choice(JsonCase::NAMES);
        /// How long the subscriptions of a client that named itself in its address, `?client_id=NAME`, are kept
        /// when its connection is lost; 0s keeps none. It has them back with its next connection.
        #[cost("what is kept of clients that are away.")]
        sticky_for: Duration = "5m", duration(0, 24 * HOUR);
        /// All that is kept of such clients, connected or not, in bytes.
        #[cost("memory, about 250 bytes a client and 200 a subscription; as much on disk with a journal.")]
        #[at_limit("the client that has been away longest is forgotten: it comes back without subscriptions.")]
        sticky_bytes: usize = "16MiB", size(KIB, 1024 * MIB);
    }

    /// Critical messages: alerts, orders, executions, risk.
    alerts: Alerts {
        /// The least durability a critical publish must have to be accepted. "disk" keeps a journal in
        /// `journal.directory`, where messages wait for whoever identified itself until they are acknowledged;
        /// "memory" keeps none, and what was accepted does not survive the end of the process.
        min_durability: MinDurability = "disk", Kind::Choice {
            names: MinDurability::NAMES,
            later: Some((
                &["os", "quorum"],
                "which writes a critical message to its own disk with every commit, and to no other node",
            )),
        };
        /// Identities that messages may wait for.
        #[cost("a few hundred bytes each, and up to 132 messages while one is connected and slow.")]
        #[at_limit("error UNAVAILABLE; the peer may subscribe without an identity.")]
        identities: usize = 10_000, count(1, 10_000);
        /// Messages that may wait for an identity that is away or does not acknowledge.
        #[cost("their bytes on disk, once for all identities.")]
        #[at_limit("a publish is not kept for that identity, and its reply says so; refused with QUEUE_FULL when it is none's.")]
        waiting: usize = 10_000, count(100, 1_000_000);
        /// How old the oldest of them may get; past that no more than 100 wait.
        waiting_age: Duration = "168h", duration(SECOND, 24 * 365 * HOUR);
        /// Whether what became of each is published on `delivery_report.PUBLISHER`.
        #[cost("a small message for each critical one and identity; delivered to whoever subscribes to it.")]
        reports: bool = true, Kind::Flag;
    }

    /// The journal of critical messages, while `alerts.min_durability` is "disk".
    journal: Journal {
        /// Its directory, made if it is not there. No two servers may share it.
        directory: String = "tickcast-data", Kind::Path;
        /// How long a message is kept that waits for nobody, so that its publisher can ask what became of it.
        #[cost("its bytes on disk.")]
        retention: Duration = "24h", duration(SECOND, 24 * 365 * HOUR);
        /// How long a publisher's ids are remembered at least, to know a message that comes again. A million are
        /// remembered in any case.
        #[cost("about 250 bytes of disk each.")]
        remember_ids: Duration = "24h", duration(SECOND, 24 * 365 * HOUR);
    }

    /// Who may publish.
    publish: Publish {
        /// Whether anyone on this machine may publish; a browser's Origin and Host must be loopback,
        /// the same host, or in `server.allowed_origins`.
        loopback_open: bool = true, Kind::Flag;
    }

    /// The made-up market of `serve --demo`.
    demo: Demo {
        /// Symbols that are traded.
        symbols: usize = 24, count(1, 10_000);
        /// The same seed gives the same market.
        seed: u64 = 7, count(0, i64::MAX.unsigned_abs());
        /// Messages a second, over all symbols.
        #[cost("the load of the machine follows it.")]
        rate: usize = 500, count(1, 1_000_000);
    }

    /// Counters for Prometheus.
    metrics: Metrics {
        /// Whether `/metrics` is served.
        #[cost("a summing of the counters for each scrape; nothing for each message.")]
        enabled: bool = true, Kind::Flag;
    }

    /// What is logged, on stderr.
    log: Log {
        /// The least severe records that are written.
        #[cost("more records; none for each message at any level.")]
        level: LogLevel = "info", choice(LogLevel::NAMES);
        /// How a record is written; "auto" is text on a terminal and JSON elsewhere.
        format: LogFormat = "auto", choice(LogFormat::NAMES);
    }
}

/// The most shards there may be.
pub(super) const SHARDS_MAX: u64 = 64;

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const fn choice(names: &'static [&'static str]) -> Kind {
    Kind::Choice { names, later: None }
}

const fn duration(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms) }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const fn first(one_or_none: &'static [&'static str]) -> Option<&'static str> {
    match one_or_none {
        [text, ..] => Some(text),
        [] => None,
    }
}

fn take<T: Field>(effective: &BTreeMap<&'static str, Effective>, name: &str) -> T {
    T::take(&effective[name].value).expect("a key's kind in the table makes what its field holds")
}
