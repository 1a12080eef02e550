//! Whatever a peer sends, it is told what is wrong by name, its connection lives where the protocol
//! allows, nobody else misses anything, a counter moves, and nothing ever panics.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{BINARY, CLOSE, Raw, TEXT, TestServer, masked, sample, tick};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{self, Frames, HEADER_LEN, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    self, ClassName, Configure, Durability, Hello, Message, Ping, Policy, Position, Publish, PublishStatus,
    Resume, Role, Skip, Start, Subscribe, Unsubscribe,
};
use tickcast_protocol::{ErrorCode, registry};

/// Limits that would end a connection before the table has had its say.
const PATIENT: &[(&str, &str)] = &[
    ("limits.strikes", "1000"),
    ("limits.inbound_messages_per_second", "100000"),
    ("limits.inbound_messages_burst", "100000"),
    ("limits.subscriptions", "4"),
];

/// No heartbeat while a test lasts: the first one comes after a twentieth of the interval.
const QUIET: &[(&str, &str)] = &[("limits.idle_timeout", "1h"), ("heartbeat.interval", "30m")];

/// The request id of everything that has one.
const REQUEST: u64 = 0x0102_0304_0506_0708;

static SERVER_PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics of the server's threads: a runtime would swallow those of a connection's task.
fn watch_for_panics() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name == "front" || name.starts_with("shard-")) {
                SERVER_PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(panic);
        }));
    });
}

/// A server, and two clients on it that do nothing wrong and must not notice that others do.
struct Watched {
    binary: Raw,
    d1: Raw,
    ticks: u64,
    /// Last, so that it is stopped when the clients are gone and waits for nobody.
    server: TestServer,
}

impl Watched {
    fn start(settings: &[(&str, &str)]) -> Self {
        watch_for_panics();
        let server = TestServer::start(&[settings, QUIET].concat());
        let mut binary = Raw::binary(server.address(), Role::SUBSCRIBER);
        binary.subscribe(1, "market_data.BYSTANDER", Start::LIVE);
        assert!(matches!(binary.message(), Message::Acknowledge(_)));
        let mut d1 = Raw::d1(server.address());
        d1.send_text(
            r#"{"message_type":"subscribe","subscription_type":"market_data","symbol":"BYSTANDER"}"#,
        );
        assert_eq!(d1.next().json()["data"]["status"], "subscribed");
        Self { binary, d1, ticks: 0, server }
    }

    /// Publishes a tick and reads it at both bystanders: the next one, and nothing in between.
    fn tick(&mut self, after: &str) {
        self.ticks += 1;
        let price = self.ticks.to_string();
        self.server.publish(&tick("BYSTANDER", &price));
        let (header, message) = self.binary.data();
        assert_eq!(header.sequence, self.ticks, "the binary bystander, after {after}");
        let Message::MarketData(seen) = message else { panic!("{message:?} after {after}") };
        assert_eq!((seen.symbol.as_str(), seen.price.unwrap().to_string()), ("BYSTANDER", price.clone()));
        let seen = self.d1.next().json();
        assert_eq!(seen["message_type"], "market_data", "{seen} after {after}");
        assert_eq!(seen["data"]["price"].to_string(), price, "the JSON bystander, after {after}");
        assert_eq!(SERVER_PANICS.load(Ordering::Relaxed), 0, "the server panicked at {after}");
    }

    fn errors(&self, code: ErrorCode) -> f64 {
        self.server.metric(&format!("tickcast_errors_total{{code=\"{}\"}}", code.name()))
    }

    fn refused(&self, code: ErrorCode) -> f64 {
        self.server.metric(&format!("tickcast_messages_refused_total{{code=\"{}\"}}", code.name()))
    }
}

/// A binary connection that has said hello in this role, or nothing yet.
fn connect(watched: &Watched, role: Option<Role>) -> Raw {
    let address = watched.server.address();
    match role {
        Some(role) => Raw::binary(address, role),
        None => Raw::connect(address, "/ws", Some("tickcast.v2")).expect("upgrades"),
    }
}

/// True when the connection still answers, and has nothing else to say.
fn assert_alive(raw: &mut Raw, role: Option<Role>, after: &str) {
    if role.is_none() {
        raw.say(&hello(Role::SUBSCRIBER, "late", "late"));
        let welcome = raw.message();
        assert!(matches!(welcome, Message::Welcome(_)), "{welcome:?} after {after}");
        return;
    }
    raw.say(&ping());
    let pong = raw.message();
    assert!(matches!(pong, Message::Pong(ref pong) if pong.sequence == 77), "{pong:?} after {after}");
}

fn ping() -> Message {
    Message::Ping(Ping { client_time: Timestamp(5), sequence: 77 })
}

fn hello(role: Role, name: &str, client: &str) -> Message {
    Message::Hello(Hello { role, name: name.into(), client: client.into(), codecs: 0 })
}

fn subscribe(filter: &str, start: Start, policy: Policy) -> Message {
    Message::Subscribe(Subscribe {
        request: REQUEST,
        filter: filter.into(),
        start,
        policy,
        predicate: String::new(),
        max_hz: 0.0,
    })
}

fn resume(epoch: u64, topic: &str, class: ClassName, sequence: u64) -> Message {
    let positions = vec![Position { topic: topic.into(), class, sequence }];
    let (filter, policy) = ("market_data.*".into(), Policy::DEFAULT);
    Message::Resume(Resume {
        request: REQUEST,
        filter,
        epoch,
        positions,
        policy,
        predicate: String::new(),
        max_hz: 0.0,
    })
}

fn publish(topic: &str, id: &str, durability: Durability) -> Vec<u8> {
    frame::encode(&Message::Publish(Publish {
        request: REQUEST,
        topic: topic.into(),
        id: id.into(),
        durability,
        expires_at: Timestamp(0),
        collapse_key: String::new(),
    }))
}

/// A sound publish, and the same with the bytes at one place replaced.
fn trade() -> Vec<u8> {
    frame::encode(&sample("public_trade"))
}

fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Where a field of a whole frame lies.
fn place(message: &Message, field: &str) -> usize {
    let record = message.info().record;
    let index = record.position(field).expect("a field of the type");
    frame::encode(message).len() - record.size() + record.fields[index].offset
}

/// The sample of a type with the bytes of one field replaced.
fn broken(name: &str, field: &str, bytes: &[u8]) -> Vec<u8> {
    let message = sample(name);
    patched(frame::encode(&message), place(&message, field), bytes)
}

fn decimal(mantissa: i64, exponent: i8) -> Vec<u8> {
    // An optional: a tag, then the value.
    [&[1][..], &mantissa.to_le_bytes(), &exponent.to_le_bytes()].concat()
}

fn join(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.concat()
}

/// What is sent on a binary connection, and what comes back.
struct Row {
    name: &'static str,
    role: Option<Role>,
    opcode: u8,
    bytes: Vec<u8>,
    code: ErrorCode,
    field: &'static str,
    request: u64,
    /// The answer is a `published` that says no.
    published: bool,
}

impl Row {
    fn request(self, request: u64) -> Self {
        Self { request, ..self }
    }

    fn published(self) -> Self {
        Self { published: true, request: REQUEST, ..self }
    }
}

fn row(
    name: &'static str,
    role: impl Into<Option<Role>>,
    bytes: Vec<u8>,
    code: ErrorCode,
    field: &'static str,
) -> Row {
    Row { name, role: role.into(), opcode: BINARY, bytes, code, field, request: 0, published: false }
}

/// A row about a message that is sound as a frame and has a request.
fn ask(
    name: &'static str,
    role: impl Into<Option<Role>>,
    message: &Message,
    code: ErrorCode,
    field: &'static str,
) -> Row {
    row(name, role, frame::encode(message), code, field).request(REQUEST)
}

fn frame_rows() -> Vec<Row> {
    use ErrorCode::{
        BadRequest, InvalidField, MessageTooLarge, SchemaMismatch, UnknownType, UnsupportedFormat,
    };
    let both = Role::BOTH;
    let payload_len = (trade().len() - HEADER_LEN) as u32;
    let lengths =
        |payload: u32, raw: u32| patched(trade(), 32, &[payload.to_le_bytes(), raw.to_le_bytes()].concat());
    let tick_of = |symbol: &str| frame::encode(&tick(symbol, "1"));
    let ping_frame = || frame::encode(&ping());
    let mut nothing = sample("market_data");
    if let Message::MarketData(tick) = &mut nothing {
        (tick.price, tick.bid, tick.ask) = (None, None, None);
    }
    let long_text = {
        let Message::Signal(mut signal) = sample("signal") else { panic!("signal") };
        signal.strategy_id = Some("s".repeat(16_385));
        frame::encode(&Message::Signal(signal))
    };
    let dotted_timeframe = {
        let Message::Bar(mut bar) = sample("bar") else { panic!("bar") };
        bar.timeframe = "1.5m".into();
        frame::encode(&Message::Bar(bar))
    };
    vec![
        row("an empty message", both, vec![], BadRequest, "payload_len"),
        row("one byte", both, vec![0x54], BadRequest, "payload_len"),
        row("half a header", both, trade()[..20].to_vec(), BadRequest, "payload_len"),
        row("another magic", both, patched(trade(), 0, b"tc"), BadRequest, "magic"),
        row("JSON in a binary message", both, [b' '; 64].to_vec(), BadRequest, "magic"),
        row("protocol 1", both, patched(trade(), 2, &[1]), SchemaMismatch, "protocol"),
        row("protocol 3", both, patched(trade(), 2, &[3]), SchemaMismatch, "protocol"),
        row("a header of 32 bytes", both, patched(trade(), 3, &[4]), BadRequest, "header_len"),
        row("a header of 2040 bytes", both, patched(trade(), 3, &[255]), BadRequest, "payload_len"),
        row("control type 0", both, patched(trade(), 4, &[0, 0]), UnknownType, "type_id"),
        row("control type 99", both, patched(trade(), 4, &[99, 0]), UnknownType, "type_id"),
        row("data type 999", both, patched(trade(), 4, &999u16.to_le_bytes()), UnknownType, "type_id"),
        row("type 65535", both, patched(trade(), 4, &[255, 255]), UnknownType, "type_id"),
        row("codec 1", both, patched(trade(), 9, &[1]), UnsupportedFormat, "flags.codec"),
        row(
            "codec 1 in a control frame",
            both,
            patched(ping_frame(), 9, &[1]),
            UnsupportedFormat,
            "flags.codec",
        ),
        row("codec 2", both, patched(trade(), 9, &[2]), UnsupportedFormat, "flags.codec"),
        row("codec 15", both, patched(trade(), 9, &[15]), UnsupportedFormat, "flags.codec"),
        row("no root", both, patched(trade(), 10, &[0, 0]), BadRequest, "root_len"),
        row("a root of 65535 bytes", both, patched(trade(), 10, &[255, 255]), BadRequest, "root_len"),
        row("the last byte missing", both, trade()[..trade().len() - 1].to_vec(), BadRequest, "payload_len"),
        row(
            "a byte too many announced",
            both,
            lengths(payload_len + 1, payload_len + 1),
            BadRequest,
            "payload_len",
        ),
        row("raw_len one more", both, lengths(payload_len, payload_len + 1), BadRequest, "raw_len"),
        row("raw_len zero", both, lengths(payload_len, 0), BadRequest, "raw_len"),
        row("payload_len of 4 GiB", both, lengths(u32::MAX, u32::MAX), MessageTooLarge, "payload_len"),
        row("raw_len of 4 GiB", both, lengths(payload_len, u32::MAX), MessageTooLarge, "payload_len"),
        row("a byte behind the frame", both, join(&[trade(), vec![0]]), BadRequest, "payload_len"),
        row("stream 7 from a publisher", both, patched(trade(), 12, &[7, 0, 0, 0]), InvalidField, "stream"),
        row("sequence 1 from a publisher", both, patched(trade(), 16, &[1]), InvalidField, "sequence"),
        row(
            "a publish time from a publisher",
            both,
            patched(trade(), 24, &[1]),
            InvalidField,
            "publish_time",
        ),
        row(
            "text that begins behind the payload",
            both,
            broken("public_trade", "symbol", &[0x89, 0, 0, 0, 255, 255, 255, 127]),
            BadRequest,
            "payload",
        ),
        row(
            "text that begins before the payload",
            both,
            broken("public_trade", "symbol", &[0x89, 0, 0, 0, 0, 0, 0, 0x80]),
            BadRequest,
            "payload",
        ),
        row(
            "text of 1 GiB",
            both,
            broken("public_trade", "symbol", &[0xBF, 255, 255, 255]),
            BadRequest,
            "payload",
        ),
        row(
            "text that is not UTF-8",
            both,
            broken("public_trade", "symbol", &[0x41, 0xC3, 0x28, 255, 255, 255, 255, 255]),
            BadRequest,
            "payload",
        ),
        row(
            "an optional that is neither there nor not",
            both,
            broken("public_trade", "side", &[2]),
            BadRequest,
            "payload",
        ),
        row("a bool that is 2", both, broken("bar", "closed", &[2]), BadRequest, "payload"),
        row(
            "a map of 4 billion entries",
            both,
            broken("event", "details", &[1, 0, 0, 0, 0, 255, 255, 255, 255]),
            BadRequest,
            "payload",
        ),
        row(
            "a decimal of 19 digits",
            both,
            broken("market_data", "price", &decimal(1_000_000_000_000_000_000, 0)),
            InvalidField,
            "price",
        ),
        row(
            "the least decimal",
            both,
            broken("market_data", "bid", &decimal(i64::MIN, 0)),
            InvalidField,
            "bid",
        ),
        row("exponent 65", both, broken("market_data", "ask", &decimal(1, 65)), InvalidField, "ask"),
        row("exponent -128", both, broken("market_data", "price", &decimal(1, -128)), InvalidField, "price"),
        row(
            "not a number",
            both,
            broken("market_data", "change_ratio", &[&[1][..], &f64::NAN.to_le_bytes()].concat()),
            InvalidField,
            "change_ratio",
        ),
        row(
            "an infinite ratio",
            both,
            broken("market_data", "change_ratio", &[&[1][..], &f64::INFINITY.to_le_bytes()].concat()),
            InvalidField,
            "change_ratio",
        ),
        row("market_data without price, bid and ask", both, frame::encode(&nothing), InvalidField, "price"),
        row("a text of 16,385 bytes", both, long_text, InvalidField, "strategy_id"),
        row("a key with a space", both, tick_of("BTC USD"), InvalidField, "symbol"),
        row("a key that is a wildcard", both, tick_of("*"), InvalidField, "symbol"),
        row("a key that is two wildcards", both, tick_of("**"), InvalidField, "symbol"),
        row("an empty key", both, tick_of(""), InvalidField, "symbol"),
        row("a key with an empty segment", both, tick_of("BTC..USD"), InvalidField, "symbol"),
        row("a key with a line feed", both, tick_of("BTC\r\nUSD"), InvalidField, "symbol"),
        row("a key with a zero byte", both, tick_of("BTC\0"), InvalidField, "symbol"),
        row("a key outside ASCII", both, tick_of("BTC\u{20AC}"), InvalidField, "symbol"),
        row("a key of 113 bytes", both, tick_of(&"A".repeat(113)), InvalidField, "symbol"),
        row("a first key field with a dot", both, dotted_timeframe, InvalidField, "timeframe"),
    ]
}

fn publish_rows() -> Vec<Row> {
    use ErrorCode::{
        BadRequest, Forbidden, InvalidField, InvalidState, NotDurable, UnknownType, UnsupportedFormat,
    };
    let (publisher, subscriber) = (Role::PUBLISHER, Role::SUBSCRIBER);
    let plain = || publish("", "", Durability::MEMORY);
    let ping_frame = || frame::encode(&ping());
    let skip = |topic: &str, count| Message::Skip(Skip { topic: topic.into(), count });
    let topic_of = |topic: &str| join(&[publish(topic, "", Durability::MEMORY), trade()]);
    let broken_trade = || broken("public_trade", "side", &[2]);
    vec![
        row(
            "a topic that is not the key's",
            publisher,
            topic_of("public_trade.OTHER"),
            InvalidField,
            "topic",
        )
        .published(),
        row("a topic of another type", publisher, topic_of("market_data.symbol-70"), InvalidField, "topic")
            .published(),
        row("a topic that is none", publisher, topic_of("a b"), InvalidField, "topic").published(),
        row(
            "compressed data",
            publisher,
            join(&[plain(), patched(trade(), 9, &[1])]),
            UnsupportedFormat,
            "flags.codec",
        )
        .published(),
        row(
            "durability disk without a journal",
            publisher,
            join(&[publish("", "", Durability::DISK), trade()]),
            NotDurable,
            "durability",
        )
        .published(),
        row(
            "durability 77",
            publisher,
            join(&[publish("", "", Durability(77)), trade()]),
            InvalidField,
            "durability",
        )
        .request(REQUEST),
        row(
            "a publish id of 65 bytes",
            publisher,
            join(&[publish("", &"i".repeat(65), Durability::MEMORY), trade()]),
            InvalidField,
            "id",
        )
        .request(REQUEST),
        row(
            "publish with a broken payload",
            publisher,
            join(&[plain(), broken_trade()]),
            BadRequest,
            "payload",
        )
        .published(),
        row(
            "publish with an unknown type",
            publisher,
            join(&[plain(), patched(trade(), 4, &999u16.to_le_bytes())]),
            UnknownType,
            "type_id",
        )
        .published(),
        row(
            "publish with a stream",
            publisher,
            join(&[plain(), patched(trade(), 12, &[7])]),
            InvalidField,
            "stream",
        )
        .published(),
        row("publish without data", publisher, plain(), BadRequest, "").request(REQUEST),
        row("publish before a ping", publisher, join(&[plain(), ping_frame()]), BadRequest, "")
            .request(REQUEST),
        row("publish before a publish", publisher, join(&[plain(), plain(), trade()]), BadRequest, "")
            .request(REQUEST),
        row("data from a subscriber", subscriber, trade(), Forbidden, "role"),
        row("publish from a subscriber", subscriber, join(&[plain(), trade()]), Forbidden, "role")
            .request(REQUEST),
        row(
            "skip from a subscriber",
            subscriber,
            frame::encode(&skip("market_data.X", 1)),
            Forbidden,
            "role",
        ),
        row("data before hello", None, trade(), InvalidState, ""),
        row("publish before hello", None, plain(), InvalidState, "").request(REQUEST),
        row("a skip of nothing", publisher, frame::encode(&skip("market_data.X", 0)), InvalidField, "count"),
        row(
            "a skip of 2^32",
            publisher,
            frame::encode(&skip("market_data.X", 1 << 32)),
            InvalidField,
            "count",
        ),
        row(
            "a skip of everything",
            publisher,
            frame::encode(&skip("market_data.X", u64::MAX)),
            InvalidField,
            "count",
        ),
        row(
            "a skip of a pattern",
            publisher,
            frame::encode(&skip("market_data.*", 1)),
            InvalidField,
            "topic",
        ),
        row(
            "a skip of an unknown type",
            publisher,
            frame::encode(&skip("nothing.X", 1)),
            InvalidField,
            "topic",
        ),
        row("a skip of no topic", publisher, frame::encode(&skip("", 1)), InvalidField, "topic"),
    ]
}

fn request_rows(epoch: u64) -> Vec<Row> {
    use ErrorCode::{
        BadRequest, Forbidden, InvalidField, InvalidFilter, InvalidState, NotSubscribed, ResumeFailed,
        SubscriptionLimit,
    };
    let subscriber = Role::SUBSCRIBER;
    let filter = |text: &str| subscribe(text, Start::LIVE, Policy::DEFAULT);
    let configure = |policy| {
        Message::Configure(Configure {
            request: REQUEST,
            subscription: 9,
            policy,
            predicate: String::new(),
            max_hz: 0.0,
        })
    };
    let unsubscribe = Message::Unsubscribe(Unsubscribe { request: REQUEST, subscription: 9 });
    let long = "x".repeat(65);
    let latest = ClassName::LATEST;
    let resume_with = |policy| match resume(epoch, "market_data.X", latest, 0) {
        Message::Resume(resume) => Message::Resume(Resume { policy, ..resume }),
        other => other,
    };
    let hostile_positions = {
        let message = resume(epoch, "market_data.X", latest, 0);
        patched(frame::encode(&message), place(&message, "positions") + 4, &[255; 4])
    };
    let five =
        (1..=5).map(|number| frame::encode(&filter(&format!("market_data.S{number}")))).collect::<Vec<_>>();
    let mut rows = vec![
        ask("subscribe before hello", None, &filter("**"), InvalidState, ""),
        ask("resume before hello", None, &resume(epoch, "market_data.X", latest, 0), InvalidState, ""),
        row("a ping before hello", None, frame::encode(&ping()), InvalidState, ""),
        row("hello with role 0", None, frame::encode(&hello(Role(0), "n", "c")), InvalidField, "role"),
        row("hello with role 9", None, frame::encode(&hello(Role(9), "n", "c")), InvalidField, "role"),
        row(
            "hello with a name of 65 bytes",
            None,
            frame::encode(&hello(subscriber, &long, "c")),
            InvalidField,
            "name",
        ),
        row(
            "hello with a client of 65 bytes",
            None,
            frame::encode(&hello(subscriber, "n", &long)),
            InvalidField,
            "client",
        ),
        row("hello with a broken name", None, broken_hello(), BadRequest, "payload"),
        row("a second hello", subscriber, frame::encode(&hello(subscriber, "n", "c")), InvalidState, ""),
        ask("subscribe as publisher", Role::PUBLISHER, &filter("**"), Forbidden, "role"),
        ask(
            "resume as publisher",
            Role::PUBLISHER,
            &resume(epoch, "market_data.X", latest, 0),
            Forbidden,
            "role",
        ),
        ask("an empty filter", subscriber, &filter(""), InvalidFilter, "filter"),
        ask("a filter that is only a type", subscriber, &filter("market_data"), InvalidFilter, "filter"),
        ask("a filter of an unknown type", subscriber, &filter("markt_data.*"), InvalidFilter, "filter"),
        ask("a filter of a control type", subscriber, &filter("hello.*"), InvalidFilter, "filter"),
        ask("a filter with a wildcard for the type", subscriber, &filter("*.BTC"), InvalidFilter, "filter"),
        ask("a filter with half a wildcard", subscriber, &filter("market_data.B*"), InvalidFilter, "filter"),
        ask(
            "a filter with the rest in the middle",
            subscriber,
            &filter("bar.**.BTC"),
            InvalidFilter,
            "filter",
        ),
        ask("a filter with a space", subscriber, &filter("market_data.a b"), InvalidFilter, "filter"),
        ask(
            "a filter with a token of another broker",
            subscriber,
            &filter("market_data.>"),
            InvalidFilter,
            "filter",
        ),
        ask(
            "a filter of 4,000 stars",
            subscriber,
            &filter(&format!("market_data{}", ".*".repeat(1500))),
            InvalidFilter,
            "filter",
        ),
        ask(
            "an unknown policy",
            subscriber,
            &subscribe("**", Start::LIVE, Policy(9)),
            InvalidField,
            "policy",
        ),
        ask(
            "an unknown start",
            subscriber,
            &subscribe("**", Start(9), Policy::DEFAULT),
            InvalidField,
            "start",
        ),
        ask("resume with an unknown policy", subscriber, &resume_with(Policy(9)), InvalidField, "policy"),
        ask("configure with an unknown policy", subscriber, &configure(Policy(200)), InvalidField, "policy"),
        ask("configure of nothing", subscriber, &configure(Policy::CONFLATE), NotSubscribed, "subscription"),
        ask("unsubscribe of nothing", subscriber, &unsubscribe, NotSubscribed, "subscription"),
        ask(
            "a resume of another epoch",
            subscriber,
            &resume(epoch + 1, "market_data.X", latest, 0),
            ResumeFailed,
            "",
        ),
        ask(
            "a resume from the future",
            subscriber,
            &resume(epoch, "market_data.BYSTANDER", latest, 1 << 40),
            ResumeFailed,
            "",
        ),
        ask(
            "a resume of no topic",
            subscriber,
            &resume(epoch, "market_data", latest, 0),
            InvalidField,
            "positions.0.topic",
        ),
        ask(
            "a resume of class 9",
            subscriber,
            &resume(epoch, "market_data.X", ClassName(9), 0),
            InvalidField,
            "positions.0.class",
        ),
        row("a resume of 4 billion positions", subscriber, hostile_positions, BadRequest, "payload"),
        row("a subscription too many", subscriber, join(&five), SubscriptionLimit, "filter").request(REQUEST),
        row(
            "a good frame before a bad one",
            subscriber,
            join(&[
                frame::encode(&Message::Pong(message::Pong {
                    client_time: Timestamp(0),
                    server_time: Timestamp(0),
                    sequence: 0,
                })),
                vec![1],
            ]),
            BadRequest,
            "payload_len",
        ),
        Row {
            opcode: TEXT,
            ..row("text on a binary connection", subscriber, b"{}".to_vec(), BadRequest, "")
        },
        Row { opcode: TEXT, ..row("text before hello", None, b"hello".to_vec(), BadRequest, "") },
    ];
    let of_servers = registry::types().iter().filter(|info| {
        matches!(
            info.name,
            "welcome"
                | "acknowledge"
                | "bind"
                | "published"
                | "notice"
                | "error"
                | "begin"
                | "end"
                | "heartbeat"
        )
    });
    rows.extend(of_servers.map(|info| {
        let bytes = frame::encode(&Message::sample(info, true));
        row(info.name, Role::BOTH, bytes, BadRequest, "type_id")
    }));
    rows
}

fn broken_hello() -> Vec<u8> {
    let message = hello(Role::SUBSCRIBER, "name", "client");
    patched(frame::encode(&message), place(&message, "name"), &[0x80, 0, 0, 0, 0, 0, 0, 0])
}

/// Sends a row and checks the answer, the counter, and that the connection lives.
fn check_row(watched: &Watched, row: &Row) {
    let counter = |watched: &Watched| {
        if row.published { watched.refused(row.code) } else { watched.errors(row.code) }
    };
    let before = counter(watched);
    println!("{}", row.name);
    let mut raw = connect(watched, row.role);
    raw.send(row.opcode, &row.bytes);
    let answer = loop {
        match raw.message() {
            // What was right in the same message is answered too.
            Message::Acknowledge(_) | Message::Bind(_) => {}
            // What can be had, before the error that says that the resume cannot.
            Message::History(_) if row.code == ErrorCode::ResumeFailed => {}
            answer => break answer,
        }
    };
    let (request, code, field, words) = match answer {
        Message::Error(error) if !row.published => (error.request, error.code, error.field, error.message),
        Message::Published(reply) if row.published => {
            let no = if row.code == ErrorCode::NotDurable {
                PublishStatus::NOT_DURABLE
            } else {
                PublishStatus::REFUSED
            };
            assert_eq!((reply.status, reply.sequence), (no, 0), "{}", row.name);
            (reply.request, reply.code, reply.field, reply.message)
        }
        other => panic!("{}: {other:?}", row.name),
    };
    let code = ErrorCode::from_number(code).expect("a code of the table");
    assert_eq!((code, field.as_str(), request), (row.code, row.field, row.request), "{}: {words}", row.name);
    assert!(!words.is_empty() && words.len() < 600, "{}: {words:?}", row.name);
    match row.name {
        // Here a second publish follows, with its data: it is served.
        "publish before a publish" => assert!(matches!(raw.message(), Message::Published(_))),
        "publish before a ping" => assert!(matches!(raw.message(), Message::Pong(_))),
        _ => {}
    }
    assert_alive(&mut raw, row.role, row.name);
    assert!(counter(watched) > before, "{}: no counter moved", row.name);
}

/// What is said in D1, and what comes back.
struct D1Row {
    name: &'static str,
    text: String,
    code: &'static str,
    counted: ErrorCode,
    /// What the error's text must name.
    names: &'static str,
    /// A failed acknowledgement comes before the error.
    failed: bool,
}

fn d1_rows() -> Vec<D1Row> {
    use ErrorCode::{
        BadRequest, InvalidFilter, SchemaMismatch, UnknownStream, UnknownType, UnsupportedFormat,
    };
    let bad = |name, text: &str, code, names| D1Row {
        name,
        text: text.into(),
        code,
        counted: BadRequest,
        names,
        failed: false,
    };
    let json = |name, text: &str, names| bad(name, text, "INVALID_JSON", names);
    let message = |name, text: &str, names| bad(name, text, "INVALID_MESSAGE", names);
    let counted = |row: D1Row, counted| D1Row { counted, ..row };
    let refused = |name, fields: &str, code, counted, names| D1Row {
        counted,
        failed: true,
        ..bad(
            name,
            &format!(r#"{{"message_type":"subscribe","request_id":"r","data":{{{fields}}}}}"#),
            code,
            names,
        )
    };
    let sub = |fields: &str| format!(r#"{{"message_type":"subscribe","data":{{{fields}}}}}"#);
    let camel = |fields: &str| format!(r#"{{"messageType":"subscribe","data":{{{fields}}}}}"#);
    let deep = format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(20), "]".repeat(20));
    let long = "r".repeat(129);
    vec![
        json("no JSON", "hello", "not JSON"),
        json("nothing", "", "not JSON"),
        json("half an object", r#"{"type":"ping""#, "not JSON"),
        json("two values", r#"{"type":"ping"} {}"#, "not JSON"),
        json("a byte order mark", "\u{FEFF}{\"type\":\"ping\"}", "not JSON"),
        json("NaN", r#"{"type":"ping","sequence":NaN}"#, "not JSON"),
        json("a comma too many", r#"{"type":"ping",}"#, "not JSON"),
        json("single quotes", "{'type':'ping'}", "not JSON"),
        json("a control character", "{\"type\":\"pi\u{1}ng\"}", "not JSON"),
        json("too deep", &deep, "nested deeper than 8"),
        json("very deep", &"[".repeat(4000), "not JSON"),
        json("a key twice", r#"{"type":"ping","type":"ping"}"#, "duplicate key `type`"),
        json("a key twice, once escaped", r#"{"type":"ping","\u0074ype":"ping"}"#, "duplicate key `type`"),
        json("a lone surrogate", r#"{"type":"ping","request_id":"\ud800"}"#, "not JSON"),
        message("an array", r#"[{"type":"ping"}]"#, "must be an object"),
        message("a number", "42", "must be an object"),
        message("null", "null", "must be an object"),
        message("no type", "{}", "message_type"),
        message("a type of null", r#"{"message_type":null}"#, "message_type"),
        message("a type that is a number", r#"{"message_type":7}"#, "message_type"),
        message("a camel type that is a list", r#"{"messageType":[]}"#, "messageType"),
        message("a type in both spellings", r#"{"message_type":"ping","messageType":"ping"}"#, "messageType"),
        message("data that is text", r#"{"message_type":"ping","data":"x"}"#, "data"),
        counted(bad("an unknown type", r#"{"type":"dance"}"#, "UNKNOWN_MESSAGE_TYPE", "dance"), UnknownType),
        counted(
            bad(
                "a long unknown type",
                &format!(r#"{{"type":"{}"}}"#, "d".repeat(3000)),
                "UNKNOWN_MESSAGE_TYPE",
                "ddd",
            ),
            UnknownType,
        ),
        counted(
            bad("what servers say", r#"{"message_type":"pong","data":{}}"#, "NO_HANDLER", "pong"),
            UnknownType,
        ),
        counted(
            bad("an event", r#"{"message_type":"market_data","data":{}}"#, "NO_HANDLER", "market_data"),
            UnknownType,
        ),
        counted(
            bad("version 9.0", r#"{"message_type":"ping","version":"9.0"}"#, "VERSION_UNSUPPORTED", "1.0"),
            SchemaMismatch,
        ),
        counted(
            bad(
                "version 2 as a number",
                r#"{"message_type":"ping","version":2}"#,
                "VERSION_UNSUPPORTED",
                "`2`",
            ),
            SchemaMismatch,
        ),
        counted(
            bad("an empty version", r#"{"message_type":"ping","version":""}"#, "VERSION_UNSUPPORTED", "1.0"),
            SchemaMismatch,
        ),
        message("a version that is true", r#"{"message_type":"ping","version":true}"#, "version"),
        message("subscribe to nothing, flat", r#"{"message_type":"subscribe"}"#, "subscription_type"),
        message("subscribe to nothing", &sub(""), "data.subscription_type"),
        message("subscribe to nothing, camel", &camel(""), "data.subscriptionType"),
        message("subscribe to a number", &sub(r#""subscription_type":5"#), "data.subscription_type"),
        message(
            "an instrument that is text",
            &camel(r#""subscriptionType":"alerts","instrumentId":"five""#),
            "data.instrumentId",
        ),
        message(
            "a negative instrument",
            &sub(r#""subscription_type":"alerts","instrument_id":-1"#),
            "data.instrument_id",
        ),
        message(
            "half an instrument",
            &sub(r#""subscription_type":"alerts","instrument_id":1.5"#),
            "data.instrument_id",
        ),
        message(
            "an instrument of 1e400",
            &sub(r#""subscription_type":"alerts","instrument_id":1e400"#),
            "data.instrument_id",
        ),
        message(
            "an instrument past 64 bits",
            &sub(r#""subscription_type":"alerts","instrument_id":18446744073709551616"#),
            "data.instrument_id",
        ),
        message("a sequence of 1e999", r#"{"type":"ping","data":{"sequence":1e999}}"#, "data.sequence"),
        message(
            "a sequence past 64 bits",
            r#"{"type":"ping","data":{"sequence":9223372036854775808}}"#,
            "data.sequence",
        ),
        message(
            "a client time that is a list",
            r#"{"messageType":"ping","data":{"clientTime":[1]}}"#,
            "data.clientTime",
        ),
        message(
            "parameters that are a list",
            &sub(r#""subscription_type":"alerts","parameters":[]"#),
            "data.parameters",
        ),
        message(
            "a request id of 129 bytes",
            &sub(&format!(r#""subscription_type":"alerts","request_id":"{long}""#)),
            "data.request_id",
        ),
        message(
            "a request id that is an object",
            &sub(r#""subscription_type":"alerts","request_id":{}"#),
            "data.request_id",
        ),
        message(
            "a symbol of 129 bytes",
            &sub(&format!(r#""subscription_type":"alerts","symbol":"{long}""#)),
            "data.symbol",
        ),
        refused(
            "an unknown subscription",
            r#""subscription_type":"nonsense""#,
            "UNKNOWN_STREAM",
            UnknownStream,
            "nonsense",
        ),
        refused(
            "a misspelt subscription",
            r#""subscription_type":"markt_data""#,
            "UNKNOWN_STREAM",
            UnknownStream,
            "did you mean `market_data`",
        ),
        refused(
            "a subscription D1 cannot carry",
            r#""subscription_type":"portfolio_snapshot""#,
            "UNSUPPORTED_FORMAT",
            UnsupportedFormat,
            "portfolio_snapshot",
        ),
        refused(
            "one D1 cannot carry, by number",
            r#""subscription_type":"signal","instrument_id":5"#,
            "UNSUPPORTED_FORMAT",
            UnsupportedFormat,
            "signal",
        ),
        refused(
            "a symbol with a space",
            r#""subscription_type":"market_data","symbol":"a b""#,
            "INVALID_FILTER",
            InvalidFilter,
            "a b",
        ),
        refused(
            "a symbol that is a wildcard",
            r#""subscription_type":"market_data","symbol":"*""#,
            "INVALID_FILTER",
            InvalidFilter,
            "symbol",
        ),
        refused(
            "an empty symbol",
            r#""subscription_type":"market_data","symbol":"""#,
            "INVALID_FILTER",
            InvalidFilter,
            "symbol",
        ),
        refused(
            "a symbol with a zero byte",
            r#""subscription_type":"market_data","symbol":"A\u0000B""#,
            "INVALID_FILTER",
            InvalidFilter,
            "symbol",
        ),
        refused(
            "a symbol with a path",
            r#""subscription_type":"market_data","symbol":"A..B""#,
            "INVALID_FILTER",
            InvalidFilter,
            "symbol",
        ),
    ]
}

fn check_d1_row(watched: &Watched, row: &D1Row) {
    let before = watched.errors(row.counted);
    println!("{}", row.name);
    let mut raw = Raw::d1(watched.server.address());
    raw.send_text(&row.text);
    let mut answer = raw.next().json();
    if row.failed {
        assert_eq!(answer["message_type"], "subscription_ack", "{}: {answer}", row.name);
        assert_eq!(answer["data"]["status"], "failed", "{}: {answer}", row.name);
        assert_eq!(answer["data"]["request_id"], "r", "{}: {answer}", row.name);
        answer = raw.next().json();
    }
    let kind = answer.get("message_type").or(answer.get("messageType")).expect("a type");
    assert_eq!(kind, "error", "{}: {answer}", row.name);
    for key in ["version", "timestamp", "data"] {
        assert!(answer.get(key).is_some(), "{}: {answer}", row.name);
    }
    let data = &answer["data"];
    assert_eq!(data["error_code"], row.code, "{}: {answer}", row.name);
    let words = data["error_message"].as_str().expect("words");
    assert!(words.contains(row.names) && words.len() < 2_100, "{}: {words}", row.name);
    assert_eq!(data["severity"], "error", "{}", row.name);
    assert_d1_alive(&mut raw, row.name);
    assert!(watched.errors(row.counted) > before, "{}: no counter moved", row.name);
}

fn assert_d1_alive(raw: &mut Raw, after: &str) {
    raw.send_text(r#"{"message_type":"ping","data":{"sequence":77}}"#);
    let pong = raw.next().json();
    assert_eq!(
        (&pong["message_type"], &pong["data"]["sequence"]),
        (&"pong".into(), &77.into()),
        "{pong} after {after}"
    );
}

#[test]
fn every_mistake_is_named_and_nobody_else_notices() {
    let mut watched = Watched::start(PATIENT);
    let epoch = watched.server.running.ingest().engine().epoch().0;
    let binary = [frame_rows(), publish_rows(), request_rows(epoch)].concat_rows();
    let d1 = d1_rows();
    assert!(binary.len() >= 60 && d1.len() >= 40, "{} and {} rows", binary.len(), d1.len());
    for row in &binary {
        check_row(&watched, row);
        watched.tick(row.name);
    }
    for row in &d1 {
        check_d1_row(&watched, row);
        watched.tick(row.name);
    }
    assert_eq!(watched.ticks as usize, binary.len() + d1.len());
    assert!(watched.server.limit_hits("limits.json_depth") > 0.0);
    assert!(watched.server.limit_hits("limits.subscriptions") > 0.0);
    assert_eq!(watched.server.limit_hits("limits.strikes"), 0.0);
}

trait ConcatRows {
    fn concat_rows(self) -> Vec<Row>;
}

impl<const N: usize> ConcatRows for [Vec<Row>; N] {
    fn concat_rows(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn a_binary_message_on_a_json_connection_is_refused_and_the_connection_lives() {
    let mut watched = Watched::start(PATIENT);
    let mut raw = Raw::d1(watched.server.address());
    raw.send(BINARY, &trade());
    let answer = raw.next().json();
    assert_eq!(answer["data"]["error_code"], "INVALID_MESSAGE", "{answer}");
    assert!(answer["data"]["error_message"].as_str().unwrap().contains("tickcast.v2"), "{answer}");
    assert_d1_alive(&mut raw, "a binary message");
    assert_eq!(watched.errors(ErrorCode::BadRequest), 1.0);
    watched.tick("a binary message on a JSON connection");
}

#[test]
fn a_json_unsubscribe_of_nothing_fails_without_an_error() {
    let mut watched = Watched::start(&[("limits.strikes", "2")]);
    let mut raw = Raw::d1(watched.server.address());
    // More often than malformed messages would be forgiven.
    for _ in 0..5 {
        raw.send_text(
            r#"{"messageType":"unsubscribe","data":{"subscriptionType":"technical","instrumentId":null,"requestId":"u"}}"#,
        );
        let answer = raw.next().json();
        assert_eq!(answer["data"]["status"], "failed", "{answer}");
        assert_eq!(answer["data"]["request_id"], "u", "{answer}");
    }
    assert_d1_alive(&mut raw, "unsubscribes of nothing");
    watched.tick("unsubscribes of nothing");
}

#[test]
fn a_request_id_is_told_with_the_error_where_it_can_be_read() {
    let watched = Watched::start(PATIENT);
    let mut raw = Raw::d1(watched.server.address());
    for (text, expected) in [
        (r#"{"message_type":"subscribe","request_id":"a","data":{}}"#, Some("a")),
        (r#"{"messageType":"subscribe","data":{"requestId":"b","instrumentId":[]}}"#, Some("b")),
        (r#"{"message_type":"dance","data":{"request_id":"c"}}"#, Some("c")),
        (r#"{"message_type":"ping","version":"9","request_id":7}"#, Some("7")),
        (r#"{"message_type":"subscribe"}"#, None),
    ] {
        raw.send_text(text);
        let answer = raw.next().json();
        assert_eq!(answer["data"].get("request_id").and_then(|id| id.as_str()), expected, "{text}: {answer}");
    }
}

#[test]
fn the_last_strike_closes_the_connection_and_only_that_one() {
    let mut watched = Watched::start(&[("limits.strikes", "3")]);
    let mut binary = Raw::binary(watched.server.address(), Role::BOTH);
    let mut d1 = Raw::d1(watched.server.address());
    for strike in 1..=3 {
        binary.send(BINARY, b"x");
        assert!(matches!(binary.message(), Message::Error(_)));
        d1.send_text("x");
        assert_eq!(d1.next().json()["data"]["error_code"], "INVALID_JSON", "strike {strike}");
    }
    assert_eq!((binary.close_code(), d1.close_code()), (Some(4500), Some(4500)));
    assert_eq!(watched.server.limit_hits("limits.strikes"), 2.0);
    assert_eq!(watched.server.metric("tickcast_connections_closed_total{code=\"4500\"}"), 2.0);
    watched.tick("the last strikes");
}

#[test]
fn a_refused_publish_takes_its_data_with_it() {
    let watched = Watched::start(PATIENT);
    let mut raw = Raw::binary(watched.server.address(), Role::BOTH);
    raw.subscribe(1, "public_trade.*", Start::LIVE);
    assert!(matches!(raw.message(), Message::Acknowledge(_)));
    raw.send(BINARY, &join(&[publish("", &"i".repeat(65), Durability::MEMORY), trade()]));
    assert!(matches!(raw.message(), Message::Error(error) if error.field == "id"));
    assert_alive(&mut raw, Some(Role::BOTH), "a refused publish: its data is not answered either");
    raw.send(BINARY, &join(&[publish("", "", Durability::MEMORY), trade()]));
    // Were the first one out, this would be its second.
    let Message::Published(reply) = raw.message() else { panic!("a reply") };
    assert_eq!((reply.status, reply.sequence), (PublishStatus::ACCEPTED, 1));
}

#[test]
fn frames_behind_a_refused_one_are_read_while_the_lengths_are_sound() {
    let mut watched = Watched::start(PATIENT);
    let mut raw = Raw::binary(watched.server.address(), Role::BOTH);
    let good = join(&[publish("", "", Durability::MEMORY), trade()]);
    raw.send(BINARY, &join(&[broken("public_trade", "side", &[2]), good.clone()]));
    assert!(matches!(raw.message(), Message::Error(error) if error.field == "payload"));
    assert!(matches!(raw.message(), Message::Published(reply) if reply.sequence == 1));
    // Behind a length that is a lie nothing can be found.
    raw.send(BINARY, &join(&[patched(trade(), 36, &[0; 4]), good]));
    assert!(matches!(raw.message(), Message::Error(error) if error.field == "raw_len"));
    assert_alive(&mut raw, Some(Role::BOTH), "a lying length");
    watched.tick("a lying length");
}

/// Every frame of the protocol's own collection of broken ones, as a publisher would send it.
#[test]
fn every_corrupt_golden_frame_gets_the_code_of_its_rule() {
    let mut watched = Watched::start(PATIENT);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/golden/corrupt");
    let list = fs::read_to_string(folder.join("LIST.txt")).expect("the list of corrupt frames");
    let mut raw = Raw::binary(watched.server.address(), Role::BOTH);
    let mut checked = 0;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (file, rest) = line.split_once(": ").expect("file: rule code field (words)");
        let [rule, code, field] = rest.splitn(4, ' ').take(3).collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        // A server reads nothing compressed, so it does not come to see that a block is broken.
        let (code, field) =
            if rule == "12.24" { ("UNSUPPORTED_FORMAT", "flags.codec") } else { (code, field) };
        let mut bytes = fs::read(folder.join(file)).expect("a listed frame");
        // They are stamped as a subscriber gets them; a publisher leaves that to the server.
        bytes[12..32].fill(0);
        let before = watched.errors(code_named(code));
        raw.send(BINARY, &bytes);
        let Message::Error(error) = raw.message() else { panic!("{file} is not an error") };
        let found = ErrorCode::from_number(error.code).expect("a code of the table");
        assert_eq!(
            (found.name(), error.field.as_str(), error.request),
            (code, field, 0),
            "{file}: {}",
            error.message
        );
        assert_alive(&mut raw, Some(Role::BOTH), file);
        assert!(watched.errors(found) > before, "{file}: no counter moved");
        watched.tick(file);
        checked += 1;
    }
    assert!(checked >= 70, "{checked} frames");
}

fn code_named(name: &str) -> ErrorCode {
    *ErrorCode::ALL.iter().find(|code| code.name() == name).expect("a code of the table")
}

/// Rules of the WebSocket itself: these end the connection, with the code of the rule.
#[test]
fn broken_websocket_rules_close_with_their_code_and_nobody_else_notices() {
    let mut watched = Watched::start(PATIENT);
    let close = |code: u16| masked(0x80 | CLOSE, &code.to_be_bytes());
    let fragments = {
        let mut bytes = masked(0x02, b"");
        (0..200).for_each(|_| bytes.extend(masked(0x00, b"")));
        bytes
    };
    let mixed = [masked(0x01, b"a"), masked(0x81, b"b")].concat();
    let split_text = [masked(0x01, &[0xE2, 0x82]), masked(0x80, &[0x41])].concat();
    let too_much = [masked(0x02, &[0; 60_000]), masked(0x80, &[0; 60_000])].concat();
    let announced = |first: u8, length: &[u8]| [&[first][..], length].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x82, 0x01, b'a'], 1002),
        ("unmasked ping", vec![0x89, 0x00], 1002),
        ("reserved bit 1", masked(0xC2, b"a"), 1002),
        ("reserved bit 2", masked(0xA2, b"a"), 1002),
        ("reserved bit 3", masked(0x92, b"a"), 1002),
        ("opcode 3", masked(0x83, b"a"), 1002),
        ("opcode 7", masked(0x87, b"a"), 1002),
        ("opcode 11", masked(0x8B, b"a"), 1002),
        ("opcode 15", masked(0x8F, b"a"), 1002),
        ("a continuation of nothing", masked(0x80, b"a"), 1002),
        ("two messages at once", mixed, 1002),
        ("a fragmented ping", masked(0x09, b"a"), 1002),
        ("a ping of 126 bytes", masked(0x89, &[0; 126]), 1002),
        ("a pong of 126 bytes", masked(0x8A, &[0; 126]), 1002),
        ("a close of 126 bytes", masked(0x88, &[0; 126]), 1002),
        ("a close of one byte", masked(0x88, &[3]), 1002),
        ("close 0", close(0), 1002),
        ("close 999", close(999), 1002),
        ("close 1004", close(1004), 1002),
        ("close 1005", close(1005), 1002),
        ("close 1006", close(1006), 1002),
        ("close 1015", close(1015), 1002),
        ("close 5000", close(5000), 1002),
        ("a close reason that is not UTF-8", masked(0x88, &[3, 232, 0xFF]), 1007),
        ("text that is not UTF-8", masked(0x81, &[0xC3, 0x28]), 1007),
        ("text with a surrogate", masked(0x81, &[0xED, 0xA0, 0x80]), 1007),
        ("text that breaks in its second fragment", split_text, 1007),
        ("a message of 64 KiB and a byte", announced(0x82, &[0xFF, 0, 0, 0, 0, 0, 1, 0, 1]), 1009),
        ("a message of 2^63 bytes", announced(0x82, &[0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1009),
        ("a message of 2^64 bytes", announced(0x82, &[0xFF; 9]), 1009),
        ("fragments too large in sum", too_much, 1009),
        ("too many fragments", fragments, 1008),
    ];
    for (name, bytes, code) in cases {
        let series = format!("tickcast_connections_closed_total{{code=\"{code}\"}}");
        let before = watched.server.metric(&series);
        let mut raw = Raw::binary(watched.server.address(), Role::BOTH);
        raw.send_bytes(&bytes);
        assert_eq!(raw.close_code(), Some(code), "{name}");
        assert!(watched.server.metric(&series) > before, "{name}: no counter moved");
        watched.tick(name);
    }
    // A subscriber may send less, and a JSON client no more than that.
    let mut raw = Raw::binary(watched.server.address(), Role::SUBSCRIBER);
    raw.send_bytes(&announced(0x82, &[0xFE, 0x10, 0x01]));
    assert_eq!(raw.close_code(), Some(1009));
    let mut raw = Raw::d1(watched.server.address());
    raw.send_text(&format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(5000)));
    assert_eq!(raw.close_code(), Some(1009));
    assert_eq!(watched.server.limit_hits("limits.inbound_bytes"), 2.0);
    assert!(watched.server.limit_hits("limits.publisher_bytes") >= 4.0);
    assert_eq!(watched.server.limit_hits("limits.fragments"), 1.0);
    watched.tick("messages too large");
}

/// Random messages, some from sound ones by a few changes. Set TICKCAST_SEED to see a run again.
#[test]
fn three_hundred_random_messages_do_the_server_no_harm() {
    let seed = std::env::var("TICKCAST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("TICKCAST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut watched = Watched::start(PATIENT);
    let address = watched.server.address();
    let mut binary = Raw::binary(address, Role::BOTH);
    let mut d1 = Raw::d1(address);
    for round in 0..300 {
        let bytes = garbage(&mut rng, round);
        match round % 5 {
            0..3 => {
                binary.send(BINARY, &bytes);
                if !answers(&mut binary, BINARY, &frame::encode(&ping())) {
                    binary = Raw::binary(address, Role::BOTH);
                }
            }
            3 => {
                d1.send(TEXT, String::from_utf8_lossy(&bytes).as_bytes());
                if !answers(&mut d1, TEXT, br#"{"type":"ping"}"#) {
                    d1 = Raw::d1(address);
                }
            }
            // Straight to the socket: what WebSocket makes of it ends that connection at worst.
            _ => {
                let mut raw = Raw::connect(address, "/ws", Some("tickcast.v2")).expect("upgrades");
                raw.send_bytes(&bytes);
            }
        }
        if round % 10 == 9 {
            watched.tick(&format!("round {round} of seed {seed}"));
        }
    }
    assert_eq!(watched.server.get("/healthz").0, 200, "seed {seed}");
    watched.tick("all of it");
}

fn garbage(rng: &mut fastrand::Rng, round: usize) -> Vec<u8> {
    let json = [
        r#"{"message_type":"subscribe","version":"1.0","data":{"subscription_type":"alerts","instrument_id":5,"request_id":"q"}}"#,
        r#"{"messageType":"unsubscribe","data":{"subscriptionType":"market_data","symbol":"X","parameters":{"a":[1,2]}}}"#,
        r#"{"type":"ping","data":{"client_time":"2026-01-31T12:00:00Z","sequence":1769860800000}}"#,
    ];
    let mut bytes = if round % 5 == 3 {
        json[rng.usize(..json.len())].as_bytes().to_vec()
    } else if rng.u8(..4) == 0 {
        let length = rng.usize(..300);
        return std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
    } else {
        let info = &registry::types()[rng.usize(..registry::types().len())];
        frame::encode(&Message::sample(info, rng.bool()))
    };
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        match rng.u8(..4) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, rng.u8(..)),
        }
    }
    bytes
}

/// Pings and reads up to the pong; false when the server closed instead.
fn answers(raw: &mut Raw, opcode: u8, ping: &[u8]) -> bool {
    raw.send(opcode, ping);
    while let Some(arrived) = raw.try_next() {
        let is_pong = match arrived.opcode {
            CLOSE => return false,
            TEXT => arrived
                .json()
                .as_object()
                .is_some_and(|members| members.values().any(|value| value == "pong")),
            _ => Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX)
                .any(|frame| frame.is_ok_and(|frame| frame.header.type_id == 10)),
        };
        if is_pong {
            return true;
        }
    }
    false
}
