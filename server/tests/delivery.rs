//! Every row that goes in comes out at every client, digit for digit; and who cannot read everything is
//! told exactly what it missed.
//!
//! The rows are read from the files a second time by this test, with a parser of its own, and compared as
//! pairs of mantissa and exponent.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use common::{Arrived, BINARY, PATIENCE, Raw, TEXT, TestServer, tick};
use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tickcast::feeds::Speed;
use tickcast::feeds::run::FeedSpec;
use tickcast_client::{Client, ClientEvent, ClientOptions, SubscribeOptions};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Message, NoticeKind, Role, Side, Start};
use tickcast_protocol::{Decimal, registry};

const RUNS: usize = 10;
/// Symbol of the ticks that are published when a replay is over: what comes after one is not of the files.
const END: &str = "END-OF-FILES";
const FILTERS: [&str; 2] = ["public_trade.**", "market_data.**"];

// ---------------------------------------------------------------------------------------------
// Rows, as this test reads them

/// A number as written: `2e-06` is (2, -6), `1.10` is (110, -2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    mantissa: i128,
    exponent: i32,
}

impl Number {
    fn read(text: &str) -> Self {
        let (digits, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        Self {
            mantissa: format!("{whole}{fraction}").parse().expect("digits"),
            exponent: power.parse::<i32>().expect("a power") - fraction.len() as i32,
        }
    }

    fn optional(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::read(text))
    }

    /// As JSON shows it: in plain notation, where a power of ten above zero becomes zeros.
    fn in_plain_notation(self) -> Self {
        let zeros = u32::try_from(self.exponent).unwrap_or(0);
        Self { mantissa: self.mantissa * 10i128.pow(zeros), exponent: self.exponent.min(0) }
    }

    /// The same value with the fewest digits.
    fn reduced(mut self) -> Self {
        while self.mantissa != 0 && self.mantissa % 10 == 0 {
            self = Self { mantissa: self.mantissa / 10, exponent: self.exponent + 1 };
        }
        if self.mantissa == 0 { Self { mantissa: 0, exponent: 0 } } else { self }
    }

    /// Exactly between two numbers, reduced.
    fn middle(self, other: Self) -> Self {
        let exponent = self.exponent.min(other.exponent);
        let at = |number: Self| number.mantissa * 10i128.pow((number.exponent - exponent).unsigned_abs());
        Self { mantissa: (at(self) + at(other)) * 5, exponent: exponent - 1 }.reduced()
    }
}

impl From<Decimal> for Number {
    fn from(decimal: Decimal) -> Self {
        Self { mantissa: decimal.mantissa().into(), exponent: decimal.exponent().into() }
    }
}

/// One row, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Row {
    Trade {
        ts: i64,
        venue: String,
        id: String,
        price: Number,
        size: Number,
        side: String,
    },
    Quote {
        ts: i64,
        venue: String,
        bid: Option<Number>,
        bid_size: Option<Number>,
        ask: Option<Number>,
        ask_size: Option<Number>,
    },
}

/// A row as D1 shows it, where times are in milliseconds, a trade is a price and a volume, and a quote's
/// price is its middle.
#[derive(Clone, Debug, PartialEq, Eq)]
struct D1Row {
    ts_ms: i64,
    price: Number,
    volume: Number,
    quote: Option<[Option<Number>; 4]>,
}

impl Row {
    fn ts(&self) -> i64 {
        let (Self::Trade { ts, .. } | Self::Quote { ts, .. }) = self;
        *ts
    }

    fn in_d1(&self) -> D1Row {
        let plain = |number: &Option<Number>| number.map(Number::in_plain_notation);
        match self {
            Self::Trade { ts, price, size, .. } => D1Row {
                ts_ms: ts.div_euclid(1_000_000),
                price: price.in_plain_notation(),
                volume: size.in_plain_notation(),
                quote: None,
            },
            Self::Quote { ts, bid, bid_size, ask, ask_size, .. } => D1Row {
                ts_ms: ts.div_euclid(1_000_000),
                price: match (bid, ask) {
                    (Some(bid), Some(ask)) => bid.middle(*ask),
                    (Some(side), None) | (None, Some(side)) => side.reduced(),
                    (None, None) => panic!("a quote has a side"),
                },
                volume: Number { mantissa: 0, exponent: 0 },
                quote: Some([plain(bid), plain(bid_size), plain(ask), plain(ask_size)]),
            },
        }
    }
}

/// Rows by topic, in order.
type Streams<R> = BTreeMap<String, Vec<R>>;

fn read(files: &[PathBuf]) -> Streams<Row> {
    let mut streams = Streams::new();
    for file in files {
        let text = fs::read_to_string(file).expect("readable");
        let (header, rows) = text.split_once('\n').expect("a header");
        for row in rows.lines() {
            let values: Vec<&str> = row.trim_end().split(',').collect();
            let ts = values[0].parse().expect("nanoseconds");
            let venue = values[2].to_owned();
            let (kind, row) = match (header.trim_end(), &values[3..]) {
                ("ts_event_ns,symbol,venue,trade_id,price,size,aggressor_side", [id, price, size, side]) => {
                    let (id, side) = ((*id).to_owned(), (*side).to_owned());
                    let (price, size) = (Number::read(price), Number::read(size));
                    ("public_trade", Row::Trade { ts, venue, id, price, size, side })
                }
                ("ts_event_ns,symbol,venue,bid,bid_size,ask,ask_size", [bid, bid_size, ask, ask_size]) => {
                    let [bid, bid_size, ask, ask_size] =
                        [bid, bid_size, ask, ask_size].map(|text| Number::optional(text));
                    ("market_data", Row::Quote { ts, venue, bid, bid_size, ask, ask_size })
                }
                other => panic!("no such file: {other:?}"),
            };
            streams.entry(format!("{kind}.{}", values[1])).or_default().push(row);
        }
    }
    // Of one stream in several files, the older row comes first; of equal times, the file named first.
    streams.values_mut().for_each(|rows| rows.sort_by_key(Row::ts));
    streams
}

fn count<R>(streams: &Streams<R>) -> usize {
    streams.values().map(Vec::len).sum()
}

/// Fails at the first row that differs.
fn assert_same<R: PartialEq + std::fmt::Debug>(who: &str, expected: &Streams<R>, found: &Streams<R>) {
    let topics = |streams: &Streams<R>| streams.keys().cloned().collect::<Vec<_>>();
    assert_eq!(topics(expected), topics(found), "{who}: topics");
    for (topic, rows) in expected {
        for (at, (expected, found)) in rows.iter().zip(&found[topic]).enumerate() {
            assert_eq!(expected, found, "{who}: row {at} of {topic}");
        }
        assert_eq!(rows.len(), found[topic].len(), "{who}: rows of {topic}");
    }
}

// ---------------------------------------------------------------------------------------------
// Files that the project makes itself

const SYMBOLS: [&str; 6] =
    ["BTCUSDT", "EURUSD", "SHIB-USDT", "XAU/USD", "BRK.B", "a-symbol-longer-than-most:2026-12-18"];
const PRICES: [&str; 12] = [
    "39432.99",
    "1.121200",
    "2e-06",
    "0.00031099999999999997",
    "999999999999999999",
    "0.000000000000000001",
    "-37.63",
    "0.00",
    "1E3",
    "7",
    "123456789.123456789",
    "100.10",
];
const SIZES: [&str; 8] =
    ["0.000263", "2e-06", "2.0", "1000000", "0", "5e+04", "3.1099999999999997e-4", "0.10"];

/// Two files, whose rows lie between each other in time.
fn make_files(folder: &Path, rows: usize) -> Vec<PathBuf> {
    let mut trades = String::from("ts_event_ns,symbol,venue,trade_id,price,size,aggressor_side\n");
    let mut quotes = String::from("ts_event_ns,symbol,venue,bid,bid_size,ask,ask_size\n");
    for row in 0..rows {
        let ts = 1_610_064_000_278_000_000 + row as i64 * 1_000_003;
        let symbol = SYMBOLS[row % SYMBOLS.len()];
        let pick = |list: &[&str], at: usize| list[at % list.len()].to_owned();
        // Every second price is told from its neighbours by its digits.
        let price = |at: usize| {
            if at.is_multiple_of(2) {
                format!("{}.{:04}", at % 977, at % 9_973)
            } else {
                pick(&PRICES, at / 2)
            }
        };
        if row % 2 == 0 {
            let side = ["buy", "sell", ""][row % 3];
            let _ = writeln!(
                trades,
                "{ts},{symbol},BINANCE,{},{},{},{side}",
                553_287_559 + row,
                price(row / 2),
                pick(&SIZES, row / 3)
            );
        } else {
            // A quote may lack either side, and any size.
            let (mut bid, mut ask) = (price(row / 2), price(row / 2 + 1));
            match row % 50 {
                1 => bid.clear(),
                3 => ask.clear(),
                _ => {}
            }
            let size = |at: usize| if at.is_multiple_of(3) { String::new() } else { pick(&SIZES, at) };
            let _ =
                writeln!(quotes, "{ts},{symbol},HISTDATA,{bid},{},{ask},{}", size(row / 2), size(row / 5));
        }
    }
    let files = [("trades.csv", trades), ("quotes.csv", quotes)];
    files
        .map(|(name, text)| {
            let path = folder.join(name);
            fs::write(&path, text).expect("writable");
            path
        })
        .to_vec()
}

// ---------------------------------------------------------------------------------------------
// Clients

/// Everything a client got up to the end, on a thread of its own so that it never stands still.
fn collect(mut raw: Raw) -> JoinHandle<Vec<Arrived>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        read_to_end(&mut raw, &mut all);
        all
    })
}

/// Reads up to the next tick of [`END`].
fn read_to_end(raw: &mut Raw, all: &mut Vec<Arrived>) {
    let deadline = Instant::now() + PATIENCE * 3;
    loop {
        assert!(Instant::now() < deadline, "the end did not come");
        let arrived = raw.next();
        let is_end = arrived.payload.windows(END.len()).any(|bytes| bytes == END.as_bytes());
        // A bind names the stream of the end before it comes.
        let is_data = arrived.opcode == TEXT || last_type_id(&arrived) >= registry::DATA_FIRST;
        all.push(arrived);
        if is_end && is_data {
            return;
        }
    }
}

fn last_type_id(arrived: &Arrived) -> u16 {
    assert_eq!(arrived.opcode, BINARY, "{arrived:?} {}", String::from_utf8_lossy(&arrived.payload));
    let last = Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX).last().expect("a frame");
    last.expect("a sound frame").header.type_id
}

fn subscribe_d1(raw: &mut Raw) {
    raw.send_text(
        r#"{"message_type":"subscribe","data":{"subscription_type":"market_data","request_id":"r1"}}"#,
    );
}

fn subscribe_binary(raw: &mut Raw) {
    for (request, filter) in (1..).zip(FILTERS) {
        raw.subscribe(request, filter, Start::LIVE);
    }
}

/// One stream as a binary client saw it. Every sequence is accounted for once, in order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    first: u64,
    next: u64,
    received: u64,
    conflated: u64,
    gapped: u64,
    filtered: u64,
}

impl Account {
    fn published(&self) -> u64 {
        self.next - self.first
    }
}

/// What a binary client got: the rows, and the account of each stream. Checks on the way that streams are
/// bound before their first frame, that nothing comes twice or out of order, and that what was skipped is
/// told before what follows it.
fn understand_binary(arrived: &[Arrived]) -> (Streams<Row>, BTreeMap<String, Account>) {
    let mut topics = BTreeMap::new();
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    let mut rows = Streams::new();
    for arrived in arrived {
        assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
        for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
            let frame = frame.expect("a sound frame");
            let message = frame.view().expect("a sound payload").to_owned();
            if frame.header.type_id >= registry::DATA_FIRST {
                let topic: &String = topics.get(&frame.header.stream).expect("bound before its first frame");
                let account = accounts.get_mut(topic).expect("bound");
                assert_eq!(
                    frame.header.sequence, account.next,
                    "{topic}: in order, nothing twice, nothing left out"
                );
                account.next += 1;
                account.received += 1;
                if let Some(row) = row_of(message, topic) {
                    rows.entry(topic.clone()).or_insert_with(Vec::new).push(row);
                }
                continue;
            }
            match message {
                Message::Bind(bind) => {
                    for binding in bind.bindings {
                        let known = topics.insert(binding.stream, binding.topic.clone());
                        assert!(
                            known.is_none_or(|known| known == binding.topic),
                            "an id is never used again"
                        );
                        let first = binding.next_sequence;
                        accounts.insert(binding.topic, Account { first, next: first, ..Account::default() });
                    }
                }
                Message::Notice(notice) if notice.kind == NoticeKind::LOSS => {
                    let topic = &topics[&notice.stream];
                    let account = accounts.get_mut(topic).expect("bound");
                    assert_eq!(
                        notice.from, account.next,
                        "{topic}: a notice goes on where the stream stands"
                    );
                    let told = notice.conflated + notice.gapped + notice.filtered;
                    assert_eq!(
                        notice.through + 1 - notice.from,
                        told,
                        "{topic}: the counts are of the range"
                    );
                    account.next = notice.through + 1;
                    account.conflated += notice.conflated;
                    account.gapped += notice.gapped;
                    account.filtered += notice.filtered;
                }
                Message::StreamStates(told) => {
                    for status in told.states {
                        assert!(topics.contains_key(&status.stream), "a state of a stream that is bound");
                    }
                }
                Message::Acknowledge(_) | Message::Heartbeat(_) | Message::Notice(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }
    (rows, accounts)
}

fn row_of(message: Message, topic: &str) -> Option<Row> {
    let number = |decimal: Option<Decimal>| decimal.map(Number::from);
    let (symbol, row) = match message {
        Message::PublicTrade(trade) => {
            let side = match trade.side {
                Some(Side::BUY) => "buy",
                Some(Side::SELL) => "sell",
                _ => "",
            };
            let row = Row::Trade {
                ts: trade.ts.0,
                venue: trade.venue.unwrap_or_default(),
                id: trade.trade_id.unwrap_or_default(),
                price: trade.price.into(),
                size: trade.size.into(),
                side: side.to_owned(),
            };
            (trade.symbol, row)
        }
        Message::MarketData(quote) if quote.symbol != END => {
            assert_eq!((quote.price, quote.volume), (None, None), "the files have no last price");
            let row = Row::Quote {
                ts: quote.ts.0,
                venue: quote.venue.unwrap_or_default(),
                bid: number(quote.bid),
                bid_size: number(quote.bid_size),
                ask: number(quote.ask),
                ask_size: number(quote.ask_size),
            };
            (quote.symbol, row)
        }
        _ => return None,
    };
    assert!(topic.ends_with(&format!(".{symbol}")), "{topic} {symbol}");
    Some(row)
}

#[derive(Deserialize)]
struct Envelope<'a> {
    message_type: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The numbers as their text, which no float has touched.
#[derive(Deserialize)]
struct D1Data<'a> {
    symbol: String,
    timestamp: String,
    #[serde(borrow)]
    price: &'a RawValue,
    #[serde(borrow)]
    volume: &'a RawValue,
    #[serde(borrow)]
    bid: Option<&'a RawValue>,
    #[serde(borrow)]
    bid_size: Option<&'a RawValue>,
    #[serde(borrow)]
    ask: Option<&'a RawValue>,
    #[serde(borrow)]
    ask_size: Option<&'a RawValue>,
}

fn understand_d1(arrived: &[Arrived]) -> Streams<D1Row> {
    let mut rows = Streams::new();
    for arrived in arrived {
        assert_eq!(arrived.opcode, TEXT, "{arrived:?}");
        let text = std::str::from_utf8(&arrived.payload).expect("text");
        let envelope: Envelope<'_> = serde_json::from_str(text).expect("an envelope");
        match envelope.message_type {
            "market_data" => {}
            "connection_status" => continue,
            // The publisher has left.
            "error" if text.contains("\"STALE_UPSTREAM\"") => continue,
            "subscription_ack" => {
                assert!(text.contains("\"subscribed\""), "{text}");
                continue;
            }
            _ => panic!("not expected: {text}"),
        }
        let data: D1Data<'_> = serde_json::from_str(envelope.data.get()).expect("market data");
        if data.symbol == END {
            continue;
        }
        let number = |value: &RawValue| Number::read(value.get());
        let quote = [data.bid, data.bid_size, data.ask, data.ask_size].map(|value| value.map(number));
        let is_quote = quote != [None; 4];
        let row = D1Row {
            ts_ms: Timestamp::parse(&data.timestamp).expect("a time").0 / 1_000_000,
            price: if is_quote { number(data.price).reduced() } else { number(data.price) },
            volume: number(data.volume),
            quote: is_quote.then_some(quote),
        };
        let kind = if is_quote { "market_data" } else { "public_trade" };
        rows.entry(format!("{kind}.{}", data.symbol)).or_insert_with(Vec::new).push(row);
    }
    rows
}

fn in_d1(expected: &Streams<Row>) -> Streams<D1Row> {
    expected.iter().map(|(topic, rows)| (topic.clone(), rows.iter().map(Row::in_d1).collect())).collect()
}

// ---------------------------------------------------------------------------------------------
// Replays

fn replaying(settings: &[(&str, &str)], files: &[PathBuf], wait_for: u64) -> TestServer {
    let feed = FeedSpec::Replay { files: files.to_vec(), speed: Speed::Max, wait_for };
    TestServer::with_feeds(settings, vec![feed])
}

fn shard_metric(server: &TestServer, name: &str) -> u64 {
    server.metric(&format!("tickcast_shard_{name}")) as u64
}

/// The server's own opinion: everything was taken once, and nothing was lost.
fn assert_nothing_lost(server: &TestServer, rows: usize) {
    let received =
        |name: &str| server.metric(&format!("tickcast_messages_received_total{{type=\"{name}\"}}")) as usize;
    assert_eq!(received("public_trade") + received("market_data"), rows + 1, "the rows and the end");
    for name in ["conflated_total", "gapped_total", "lapped_total", "closed_slow_total", "queued"] {
        assert_eq!(shard_metric(server, name), 0, "{name}");
    }
    assert_eq!(server.metric("tickcast_feed_errors_total{feed=\"feed-replay\"}"), 0.0);
}

/// One replay to one binary and one D1 client: rows in are rows out at each.
fn replay_to_two(files: &[PathBuf], expected: &Streams<Row>) {
    let server = replaying(&[], files, 4);
    let mut binary = Raw::binary(server.address(), Role::SUBSCRIBER);
    subscribe_binary(&mut binary);
    let mut d1 = Raw::d1(server.address());
    subscribe_d1(&mut d1);
    let (binary, d1) = (collect(binary), collect(d1));
    server.wait_until("the replay is over", |server| server.running.feeds_are_done());
    server.publish(&tick(END, "1"));

    let (found, accounts) = understand_binary(&binary.join().expect("the binary client ends"));
    assert_same("binary", expected, &found);
    assert!(accounts.values().all(|account| account.received == account.published()), "{accounts:?}");
    assert_same("D1", &in_d1(expected), &understand_d1(&d1.join().expect("the D1 client ends")));
    assert_nothing_lost(&server, count(expected));
}

fn replay_ten_times(what: &str, files: &[PathBuf]) {
    let expected = read(files);
    for run in 1..=RUNS {
        let began = Instant::now();
        replay_to_two(files, &expected);
        println!("{what}, run {run}: {} rows to two clients in {:.2?}", count(&expected), began.elapsed());
    }
}

/// One replay with a third client that reads nothing before the end.
fn replay_with_a_stalled_one(what: &str, files: &[PathBuf]) {
    let expected = read(files);
    // More than the events that a replay lets wait before it looks after its readers.
    let outbox = [("outbox.events", "320"), ("outbox.bytes", "64KiB")];
    // No heartbeat: what wakes the stalled connection must be its socket.
    let quiet = [("heartbeat.interval", "10m"), ("limits.idle_timeout", "30m")];
    let settings = [outbox, quiet].concat();
    let server = replaying(&settings, files, 5);
    let mut stalled = Raw::binary_with_little_room(server.address());
    stalled.subscribe(1, "**", Start::LIVE);
    let mut binary = Raw::binary(server.address(), Role::SUBSCRIBER);
    subscribe_binary(&mut binary);
    let mut d1 = Raw::d1(server.address());
    subscribe_d1(&mut d1);
    let (binary, d1) = (collect(binary), collect(d1));
    server.wait_until("the replay is over", |server| server.running.feeds_are_done());
    server.publish(&tick(END, "1"));

    let (found, _) = understand_binary(&binary.join().expect("the binary client ends"));
    assert_same("binary", &expected, &found);
    assert_same("D1", &in_d1(&expected), &understand_d1(&d1.join().expect("the D1 client ends")));

    // With little room it would read for ever what the kernels hold. What is left to tell is told before
    // the second end at the latest.
    socket2::SockRef::from(&stalled.tcp).set_recv_buffer_size(1 << 20).expect("a receive buffer");
    let mut all = Vec::new();
    read_to_end(&mut stalled, &mut all);
    server.publish(&tick(END, "2"));
    read_to_end(&mut stalled, &mut all);
    let (found, accounts) = understand_binary(&all);
    let mut total = Account::default();
    for (topic, account) in &accounts {
        println!("{what}, stalled client, {topic}: {account:?}");
        let published = if topic.ends_with(END) {
            2
        } else {
            expected.get(topic).map_or(account.published(), |rows| rows.len() as u64)
        };
        let Account { received, conflated, gapped, filtered, .. } = *account;
        assert_eq!(account.first, 1, "{topic}: it subscribed before the first row");
        assert_eq!(received + conflated + gapped + filtered, published, "{topic}: the account balances");
        total.next += published;
        total.received += received;
        total.conflated += conflated;
        total.gapped += gapped;
        total.filtered += filtered;
    }
    println!("{what}, stalled client, sum: {total:?}");
    assert!(expected.keys().all(|topic| accounts.contains_key(topic)), "every stream was announced");
    assert_eq!(total.conflated, shard_metric(&server, "conflated_total"), "the server counted the same");
    assert_eq!(total.gapped, shard_metric(&server, "gapped_total"), "the server counted the same");
    // What came is in the files, in their order.
    for (topic, rows) in &found {
        let mut of_file = expected[topic].iter();
        assert!(
            rows.iter().all(|row| of_file.any(|other| other == row)),
            "{topic}: rows of the file, in order"
        );
    }
    assert!(
        total.conflated > 0 && total.gapped > 0,
        "it stalled long enough to lose of both classes: {total:?}"
    );
}

/// One replay by the program itself, as a publisher from outside.
fn replay_from_outside(what: &str, files: &[PathBuf]) {
    let expected = read(files);
    let server = TestServer::start(&[]);
    let mut binary = Raw::binary(server.address(), Role::SUBSCRIBER);
    subscribe_binary(&mut binary);
    let mut d1 = Raw::d1(server.address());
    subscribe_d1(&mut d1);
    let (binary, d1) = (collect(binary), collect(d1));
    let client = follow_by_the_client_library(&server);
    server.wait_until("all have subscribed", |server| shard_metric(server, "subscriptions") == 6);

    let began = Instant::now();
    let mut program = Command::new(env!("CARGO_BIN_EXE_tickcast"))
        .arg("replay")
        .args(files)
        .args(["--to", &server.url(), "--speed", "max"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let status = loop {
        if let Some(status) = program.try_wait().expect("the program can be asked") {
            break status;
        }
        if began.elapsed() > PATIENCE * 2 {
            program.kill().expect("the program can be ended");
            panic!("the program did not end");
        }
        thread::yield_now();
    };
    assert!(status.success(), "{status}");
    println!("{what}: {} rows published from outside in {:.2?}", count(&expected), began.elapsed());
    server.wait_until("all rows have been read", |server| {
        let read = |name: &str| {
            server.metric(&format!("tickcast_messages_received_total{{type=\"{name}\"}}")) as usize
        };
        read("public_trade") + read("market_data") == count(&expected)
    });
    server.publish(&tick(END, "1"));

    let (found, _) = understand_binary(&binary.join().expect("the binary client ends"));
    assert_same("binary", &expected, &found);
    assert_same("D1", &in_d1(&expected), &understand_d1(&d1.join().expect("the D1 client ends")));
    let (received, gaps, total) = client.join().expect("the client library ends");
    assert_eq!((received, gaps), (count(&expected) + 1, 0), "what the client library handed on");
    assert!(total.balances() && total.received == received as u64, "{total:?}");
    assert_nothing_lost(&server, count(&expected));
}

/// Follows everything through the client library up to the end: events, gaps, and its account.
fn follow_by_the_client_library(server: &TestServer) -> JoinHandle<(usize, usize, tickcast_client::Account)> {
    let options = ClientOptions::new(server.url());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let follow = async {
            let (client, mut events) = Client::connect(options).await.expect("connects");
            for filter in FILTERS {
                client.watch(filter, SubscribeOptions::default()).expect("a filter");
            }
            let (mut received, mut gaps) = (0, 0);
            loop {
                match events.next().await.expect("the server is still there") {
                    ClientEvent::Data(data) => {
                        received += 1;
                        if data.topic.as_str().ends_with(END) {
                            return (received, gaps, client.totals());
                        }
                    }
                    ClientEvent::Gap(_) => gaps += 1,
                    _ => {}
                }
            }
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, follow).await.expect("the end comes") })
    })
}

// ---------------------------------------------------------------------------------------------
// The promises

#[test]
fn ten_replays_at_full_speed_bring_every_row_to_a_binary_and_a_json_client() {
    let folder = TempDir::new().expect("a folder");
    replay_ten_times("made files", &make_files(folder.path(), 6_000));
}

#[test]
fn account_of_a_client_that_stalled_balances_and_the_others_lose_nothing() {
    let folder = TempDir::new().expect("a folder");
    let files = make_files(folder.path(), 60_000);
    replay_with_a_stalled_one("made files", &files);
}

#[test]
fn replay_by_a_publisher_from_outside_brings_every_row() {
    let folder = TempDir::new().expect("a folder");
    replay_from_outside("made files", &make_files(folder.path(), 6_000));
}

#[test]
fn recorded_data_comes_out_as_it_went_in() {
    let Some(folder) = std::env::var_os("TICKCAST_TEST_DATA").map(PathBuf::from) else {
        println!("TICKCAST_TEST_DATA is not set: recorded data not replayed");
        return;
    };
    let names = ["btcusdt-trades.csv", "btcusdt-quotes.csv", "eurusd-quotes.csv", "usdjpy-quotes.csv"];
    let files = names.map(|name| folder.join(name)).to_vec();
    replay_ten_times("recorded data", &files);
    replay_from_outside("recorded data", &files);
    // Several times over, for the kernels hold all there is.
    replay_with_a_stalled_one("recorded data", &vec![files.clone(); 4].concat());
}

#[test]
fn numbers_are_read_and_halved_exactly_by_the_test_itself() {
    let number = |mantissa, exponent| Number { mantissa, exponent };
    for (text, expected) in [
        ("2e-06", number(2, -6)),
        ("0.000002", number(2, -6)),
        ("1.121200", number(1_121_200, -6)),
        ("-37.63", number(-3_763, -2)),
        ("-0.5", number(-5, -1)),
        ("5e+04", number(5, 4)),
        ("3.1099999999999997e-4", number(31_099_999_999_999_997, -20)),
    ] {
        assert_eq!(Number::read(text), expected, "{text}");
    }
    assert_eq!(Number::read("39432.99").middle(Number::read("39433.62")), number(39_433_305, -3));
    assert_eq!(Number::read("1").middle(Number::read("-1.0")), number(0, 0));
    assert_eq!(Number::read("5e+04").in_plain_notation(), number(50_000, 0));
}
