//! Record and replay, over sockets and by the program: what comes back is what was recorded, its gaps are told,
//! and nobody takes it for news.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{BINARY, Raw, TestServer, sample, tick};
use tempfile::TempDir;
use tickcast::feeds::recording::{Ending, Past, Recording};
use tickcast::feeds::run::FeedSpec;
use tickcast::feeds::{PastEvent, Speed};
use tickcast_protocol::frame::{self, FLAG_CRITICAL, Frame, Frames, Header, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    BookKind, Level, Message, Notice, NoticeKind, OrderBook, Reason, Role, SourceStatus, Start, StreamState,
    Vouch,
};
use tickcast_protocol::recording::{Entry, Head, Record, Recorded};
use tickcast_protocol::{BootId, Class, Epoch, Topic};

fn tickcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tickcast"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and what was said.
fn outcome(output: Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).expect("text"))
}

fn run(arguments: &[&str]) -> (i32, String) {
    outcome(tickcast(arguments).output().expect("runs"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

/// `tickcast record`, which has begun.
struct Recorder(Child);

impl Recorder {
    fn start(url: &str, out: &Path, arguments: &[&str]) -> Self {
        let mut child = tickcast(&["record", "--url", url, "--out", text(out)])
            .args(arguments)
            .spawn()
            .expect("the program starts");
        let mut talk = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.starts_with("recording to") {
            line.clear();
            assert!(talk.read_line(&mut line).expect("text") > 0, "it says when it has begun");
        }
        // What it says from here on is short, and fits the pipe.
        child.stderr = Some(talk.into_inner());
        Self(child)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    fn end(self) -> (i32, String) {
        outcome(self.0.wait_with_output().expect("ends"))
    }
}

/// What a recording holds.
#[derive(Debug, Default)]
struct Held {
    events: Vec<PastEvent>,
    /// Topic, count and reason.
    gaps: Vec<(String, u64, String)>,
    ending: Option<Ending>,
}

fn read(path: &Path) -> Held {
    let mut recording = Recording::open(path).expect("a recording");
    let mut held = Held::default();
    for past in &mut recording {
        match past.expect("a sound record") {
            Past::Event(event) => held.events.push(event),
            Past::Gap(gap) => held.gaps.push((gap.topic.to_string(), gap.count, gap.reason)),
        }
    }
    held.ending = recording.ending();
    held
}

/// Sequence, the header without what a server fills in, and payload.
type Facts<'a> = (u64, Header, &'a [u8]);

/// Of every stream, its events in order.
fn streams(held: &Held) -> BTreeMap<(String, u8), Vec<Facts<'_>>> {
    let mut streams: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in &held.events {
        let facts = Header { stream: 0, sequence: 0, publish_time: 0, ..event.header };
        let of = (event.topic.to_string(), event.class as u8);
        streams.entry(of).or_default().push((event.header.sequence, facts, &event.payload[..]));
    }
    streams
}

/// Topic of the sample of an alert.
const ALERT: &str = "risk_alert.scope-36";

/// A made recording.
struct Made(Vec<u8>, u64, u64);

impl Made {
    const TOPICS: [(&str, Class); 6] = [
        ("market_data.A", Class::Latest),
        ("public_trade.A", Class::Ordered),
        (ALERT, Class::Critical),
        ("market_data.A", Class::Critical),
        ("order_book.A", Class::Ordered),
        ("partial_book.10.A", Class::Latest),
    ];

    fn new() -> Self {
        let mut made = Self(Head { started_at: 1 }.to_bytes().to_vec(), 0, 0);
        made.append(Entry::Run { boot_id: BootId(1), epoch: Epoch(1) });
        for (number, (topic, class)) in (0..).zip(Self::TOPICS) {
            made.append(Entry::Stream { number, class, topic: Topic::parse(topic).unwrap() });
        }
        made
    }

    fn append(&mut self, entry: Entry<'_>) {
        Record { at: 7, entry }.append(&mut self.0);
    }

    fn event(mut self, stream: u32, message: &Message, flags: u16, origin: Recorded) -> Self {
        let (payload, header) = frame::payload(message);
        self.1 += 1;
        let header = Header { stream: 9, sequence: self.1, publish_time: 1_000 + self.1, flags, ..header };
        self.append(Entry::Event { stream, origin, frame: Frame { header, payload: &payload } });
        self
    }

    fn live(self, stream: u32, message: &Message) -> Self {
        self.event(stream, message, 0, Recorded::Live)
    }

    fn gap(mut self, stream: u32, gapped: u64, conflated: u64) -> Self {
        self.2 += 1;
        self.append(Entry::Gap { stream, from: 0, through: 0, gapped, conflated, reason: "lapped" });
        self
    }

    fn save(mut self, folder: &TempDir) -> PathBuf {
        let (events, gaps) = (self.1, self.2);
        self.append(Entry::End { events, gaps });
        let path = folder.path().join("made.tcr");
        fs::write(&path, self.0).unwrap();
        path
    }
}

/// A binary subscriber of everything that sees every frame, in order.
struct Reader {
    raw: Raw,
    frames: VecDeque<(Header, Message)>,
    topics: BTreeMap<u32, String>,
}

impl Reader {
    fn follow(server: &TestServer, filter: &str) -> Self {
        let mut raw = Raw::binary(server.address(), Role::SUBSCRIBER);
        raw.subscribe(1, filter, Start::LIVE);
        let mut reader = Self { raw, frames: VecDeque::new(), topics: BTreeMap::new() };
        reader.until(|_, message| matches!(message, Message::Acknowledge(_)));
        reader
    }

    fn next(&mut self) -> (Header, Message) {
        while self.frames.is_empty() {
            let arrived = self.raw.next();
            assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
            for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
                let frame = frame.expect("a sound frame");
                self.frames.push_back((frame.header, frame.view().expect("a sound payload").to_owned()));
            }
        }
        let (header, message) = self.frames.pop_front().expect("not empty");
        if let Message::Bind(bind) = &message {
            for binding in &bind.bindings {
                self.topics.insert(binding.stream, binding.topic.clone());
            }
        }
        (header, message)
    }

    fn until(&mut self, wanted: impl Fn(&Self, &Message) -> bool) -> (Header, Message) {
        loop {
            let (header, message) = self.next();
            if wanted(self, &message) {
                return (header, message);
            }
        }
    }

    /// Everything up to the moment at which so many events came and so many streams are closed, in whatever order:
    /// states may overtake events. What the server says of itself is left out.
    fn until_closed(&mut self, events: usize, streams: usize) -> Heard {
        let mut heard = Heard::default();
        let mut closed = 0;
        while closed < streams || heard.events.len() < events {
            let (header, message) = self.next();
            match message {
                Message::StreamStates(told) => {
                    for status in told.states {
                        let states = heard.states.entry(self.topics[&status.stream].clone()).or_default();
                        states.push(status.state);
                        closed += usize::from(status.state == StreamState::CLOSED);
                    }
                }
                Message::Notice(notice) => heard.gaps.push(notice),
                Message::StreamHealth(_) => {}
                message if header.sequence > 0 => heard.events.push((header, message)),
                _ => {}
            }
        }
        heard
    }
}

#[derive(Debug, Default)]
struct Heard {
    events: Vec<(Header, Message)>,
    gaps: Vec<Notice>,
    states: BTreeMap<String, Vec<StreamState>>,
}

/// Tables of quotes and trades of several symbols, with so many rows in all.
fn tables(folder: &TempDir, rows: usize) -> Vec<PathBuf> {
    let mut quotes = "ts_event_ns,symbol,bid,ask\n".to_owned();
    let mut trades = "ts_event_ns,symbol,price,size\n".to_owned();
    for row in 0..rows as u64 {
        let (time, symbol) = (1_610_064_000_000_000_000 + row * 1_000, ["A", "B", "C"][row as usize % 3]);
        if row % 2 == 0 {
            quotes += &format!("{time},{symbol},{row}.10,{row}.20\n");
        } else {
            trades += &format!("{time},{symbol},{row}.15,1e-3\n");
        }
    }
    [("quotes.csv", quotes), ("trades.csv", trades)]
        .map(|(name, text)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        })
        .to_vec()
}

#[test]
fn a_recording_that_is_replayed_and_recorded_again_is_the_same() {
    const ROWS: usize = 900;
    let rows = ROWS.to_string();
    // Patterns that overlap: each event once all the same.
    let arguments = ["market_data.*", "public_trade.**", "market_data.A", "-n", &rows];
    let folder = TempDir::new().unwrap();
    let (first, second) = (folder.path().join("first.tcr"), folder.path().join("second.tcr"));
    let files = tables(&folder, ROWS);
    let feed = FeedSpec::Replay { files, speed: Speed::Max, wait_for: 3 };
    let server = TestServer::with_feeds(&[], vec![feed]);
    let (code, talk) = Recorder::start(&server.url(), &first, &arguments).end();
    assert_eq!(code, 0, "{talk}");
    assert!(talk.contains("900 messages of 6 streams, 0 gaps"), "{talk}");

    let other = TestServer::start(&[]);
    let recorder = Recorder::start(&other.url(), &second, &arguments);
    let (code, talk) = run(&["replay", text(&first), "--to", &other.url(), "--speed", "max"]);
    assert_eq!(code, 0, "{talk}");
    assert!(talk.contains("900 rows published") && talk.contains("0 not sent, 0 refused"), "{talk}");
    assert_eq!(recorder.end().0, 0);
    let (first, second) = (read(&first), read(&second));
    assert_eq!((first.ending, second.ending), (Some(Ending::Whole), Some(Ending::Whole)));
    assert_eq!((first.events.len(), first.gaps.len() + second.gaps.len()), (ROWS, 0));
    assert_eq!(
        streams(&first),
        streams(&second),
        "the same bytes, in the same order, under the same numbers"
    );
    assert!(first.events.iter().all(|event| event.origin == Recorded::Live));
}

#[test]
fn a_replay_says_so_in_band_with_its_first_events_and_tells_the_gaps() {
    let folder = TempDir::new().unwrap();
    let path = Made::new()
        .live(0, &tick("A", "1.50"))
        .gap(0, 3, 2)
        .event(0, &tick("A", "0"), 0, Recorded::Snapshot)
        .live(0, &tick("A", "2"))
        .live(2, &sample("risk_alert"))
        .event(3, &tick("A", "3"), FLAG_CRITICAL, Recorded::Replay)
        .gap(3, 1, 0)
        .gap(1, 0, 0)
        .save(&folder);
    let server = TestServer::start(&[]);
    let mut reader = Reader::follow(&server, "**");
    let (code, talk) = run(&["replay", text(&path), "--to", &server.url(), "--speed", "10x"]);
    assert_eq!(code, 0, "{talk}");
    for said in [
        "4 rows published",
        "1 gaps told, 2 could not be told",
        "market_data.A: a gap of 1 in class critical cannot be told",
        "1 last values were no news",
    ] {
        assert!(talk.contains(said), "{said}: {talk}");
    }
    let heard = reader.until_closed(4, 3);
    let found: Vec<_> = heard
        .events
        .iter()
        .map(|(header, message)| (header.sequence, header.flags & FLAG_CRITICAL, message.clone()))
        .collect();
    let expected = [
        (1, 0, tick("A", "1.50")),
        (7, 0, tick("A", "2")),
        (1, FLAG_CRITICAL, sample("risk_alert")),
        (1, FLAG_CRITICAL, tick("A", "3")),
    ];
    for event in &expected {
        assert!(found.contains(event), "{event:?} is not in {found:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
    let [gap] = &heard.gaps[..] else { panic!("{:?}", heard.gaps) };
    assert_eq!((gap.kind, gap.reason), (NoticeKind::UPSTREAM_GAP, Reason::UPSTREAM));
    assert_eq!((gap.from, gap.through, gap.gapped), (2, 6, 5));
    // Two streams of ticks, one of each class.
    let (replay, closed) = (StreamState::REPLAY, StreamState::CLOSED);
    let states = &heard.states["market_data.A"];
    assert_eq!(states.iter().filter(|state| **state == replay).count(), 2, "{states:?}");
    assert!(states.iter().all(|state| [replay, closed].contains(state)), "{states:?}");
    assert_eq!(heard.states[ALERT], [replay, closed]);
    // Who comes later is told as well, and a replay that begins anew is one again.
    let mut late = Reader::follow(&server, "risk_alert.*");
    let (_, told) = late.until(|_, message| matches!(message, Message::StreamStates(_)));
    assert!(matches!(told, Message::StreamStates(told) if told.states[0].state == closed));
    assert_eq!(run(&["replay", text(&path), "--to", &server.url(), "--speed", "max"]).0, 0);
    let states = &late.until_closed(1, 1).states[ALERT];
    assert_eq!(states[states.len() - 2..], [replay, closed], "{states:?}");
}

#[test]
fn critical_messages_that_are_kept_on_disk_are_said_to_be_replayed_too() {
    let folder = TempDir::new().unwrap();
    let journal = TempDir::new().unwrap();
    let path = Made::new().live(2, &sample("risk_alert")).gap(2, 4, 0).save(&folder);
    let settings = [("alerts.min_durability", "disk"), ("journal.directory", text(journal.path()))];
    let server = TestServer::start(&settings);
    let mut reader = Reader::follow(&server, "risk_alert.*");
    let (code, talk) = run(&["replay", text(&path), "--to", &server.url(), "--speed", "max"]);
    // The gap was refused, and that is said.
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("1 refused"), "{talk}");
    let is_replay = |message: &Message| matches!(message, Message::StreamStates(told) if told.states[0].state == StreamState::REPLAY);
    // In whatever order they come.
    let (mut alert, mut said) = (None, false);
    while alert.is_none() || !said {
        let (header, message) = reader.next();
        said |= is_replay(&message);
        alert = alert.or(matches!(message, Message::RiskAlert(_)).then_some(header));
    }
    let alert = alert.expect("an alert");
    assert_eq!((alert.sequence, alert.flags & FLAG_CRITICAL), (1, FLAG_CRITICAL));
    drop(server);
    // In process as well.
    let feed = FeedSpec::Replay { files: vec![path], speed: Speed::Max, wait_for: 1 };
    let server = TestServer::with_feeds(&settings, vec![feed]);
    Reader::follow(&server, "risk_alert.*").until(|_, message| is_replay(message));
}

#[test]
fn a_server_plays_a_recording_itself() {
    let folder = TempDir::new().unwrap();
    let path = Made::new().live(0, &tick("A", "1")).gap(0, 4, 0).live(0, &tick("A", "2")).save(&folder);
    let files = vec![path.clone(), path];
    let feed = FeedSpec::Replay { files, speed: Speed::Times(1_000.0), wait_for: 1 };
    let server = TestServer::with_feeds(&[], vec![feed]);
    let heard = Reader::follow(&server, "market_data.*").until_closed(4, 1);
    let sequences: Vec<u64> = heard.events.iter().map(|(header, _)| header.sequence).collect();
    assert_eq!(sequences, [1, 6, 7, 12], "both files, one after the other");
    assert_eq!(heard.gaps.iter().map(|gap| gap.gapped).sum::<u64>(), 8);
    assert_eq!(heard.states["market_data.A"], [StreamState::REPLAY, StreamState::CLOSED]);
    assert_eq!(server.metric("tickcast_feed_errors_total{feed=\"feed-replay\"}"), 0.0);
}

#[test]
fn a_server_makes_the_views_of_a_replayed_book_itself_and_replays_them_where_it_makes_none() {
    let folder = TempDir::new().unwrap();
    let (Message::OrderBook(mut book), Message::PartialBook(mut view)) =
        (sample("order_book"), sample("partial_book"))
    else {
        panic!("what they are called")
    };
    (book.symbol, view.symbol) = ("A".into(), "A".into());
    let level = |price: &str| Level { price: price.parse().unwrap(), quantity: 1.into() };
    (book.kind, book.checksum, book.depth) = (BookKind::SNAPSHOT, None, None);
    (book.bids, book.asks) = (vec![level("10")], vec![level("11")]);
    let delta = OrderBook { kind: BookKind::DELTA, bids: vec![level("10.5")], asks: vec![], ..book.clone() };
    (view.depth, view.book_sequence) = (10, 999);
    let path = Made::new()
        .live(4, &Message::OrderBook(book))
        .live(5, &Message::PartialBook(view.clone()))
        .live(4, &Message::OrderBook(delta))
        .save(&folder);
    let heard = |settings: &[(&str, &str)]| {
        let feed = FeedSpec::Replay { files: vec![path.clone()], speed: Speed::Max, wait_for: 1 };
        let server = TestServer::with_feeds(settings, vec![feed]);
        let heard = Reader::follow(&server, "partial_book.*.*").until_closed(1, 1);
        assert_eq!(server.metric("tickcast_feed_errors_total{feed=\"feed-replay\"}"), 0.0);
        assert_eq!(heard.states["partial_book.10.A"], [StreamState::REPLAY, StreamState::CLOSED]);
        heard.events.into_iter().map(|(_, message)| message).collect::<Vec<_>>()
    };
    assert_eq!(heard(&[]), [Message::PartialBook(view)]);
    let made = heard(&[("books.views", "10")]);
    let Some(Message::PartialBook(last)) = made.last() else { panic!("{made:?}") };
    assert_eq!((last.book_sequence, last.bids.len(), last.asks.len()), (2, 2, 1));
    assert!(made.iter().all(|made| !matches!(made, Message::PartialBook(view) if view.book_sequence == 999)));

    // From outside it is the same: what the server makes itself is no failure of a replay.
    let server = TestServer::start(&[("books.views", "10")]);
    let (code, talk) = run(&["replay", text(&path), "--to", &server.url(), "--speed", "max"]);
    assert_eq!(code, 0, "{talk}");
    assert!(talk.contains("1 views of order books left out") && talk.contains("0 refused"), "{talk}");
}

#[test]
fn a_publisher_that_replays_does_so_as_a_whole() {
    let server = TestServer::start(&[]);
    let mut publisher = Raw::binary(server.address(), Role::PUBLISHER);
    let vouch = |topics: &[&str]| {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Message::Vouch(Vouch { request: 4, status: SourceStatus::REPLAY, topics, interval_ms: 0 })
    };
    publisher.say(&vouch(&["market_data.A"]));
    let Message::Error(error) = publisher.message() else { panic!("an error") };
    assert_eq!((error.request, error.field.as_str()), (4, "topics"));
    let mut reader = Reader::follow(&server, "market_data.*");
    publisher.say(&tick("A", "1"));
    publisher.say(&vouch(&[]));
    let (_, told) = reader.until(|_, message| matches!(message, Message::StreamStates(_)));
    assert!(matches!(told, Message::StreamStates(told) if told.states[0].state == StreamState::REPLAY));
}

#[test]
fn gaps_that_were_told_are_recorded_in_their_place_and_ctrl_c_ends_a_recording() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gaps.tcr");
    let server = TestServer::start(&[]);
    let recorder = Recorder::start(&server.url(), &path, &["market_data.*", "market_data.A"]);
    server.publish(&tick("A", "1"));
    server.running.ingest().skip("market_data.A", 5).expect("a gap");
    server.publish(&tick("A", "2"));
    // It is in the file before the recording is ended.
    server.wait_until("all is written", |_| read(&path).events.len() == 2);
    recorder.signal("-INT");
    let (code, talk) = recorder.end();
    assert_eq!(code, 0, "{talk}");
    assert!(talk.contains("2 messages of 1 streams, 1 gaps (5 lost, 0 conflated)"), "{talk}");
    let held = read(&path);
    let sequences: Vec<u64> = held.events.iter().map(|event| event.header.sequence).collect();
    assert_eq!((sequences, held.ending), (vec![1, 7], Some(Ending::Whole)));
    assert_eq!(held.gaps, [("market_data.A".to_owned(), 5, "upstream".to_owned())]);
}

#[test]
fn a_recording_that_was_cut_short_is_played_up_to_there_and_a_broken_one_is_refused_there() {
    let folder = TempDir::new().unwrap();
    let path = Made::new().live(0, &tick("A", "1")).live(0, &tick("A", "2")).save(&folder);
    let whole = fs::read(&path).unwrap();
    let server = TestServer::start(&[]);
    let replay = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        run(&["replay", text(&path), "--to", &server.url(), "--speed", "max"])
    };
    let (code, talk) = replay(&whole[..whole.len() - 40]);
    assert_eq!(code, 0, "{talk}");
    assert!(talk.contains("is torn at byte") && talk.contains("1 rows published"), "{talk}");
    let mut broken = whole.clone();
    let at = broken.len() - 60;
    broken[at] ^= 0x10;
    let (code, talk) = replay(&broken);
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("made.tcr byte") && talk.contains("checksum"), "{talk}");
    let (code, talk) = replay(&whole[..20]);
    assert_eq!(code, 1, "{talk}");
    let table = tables(&folder, 2).remove(0);
    fs::write(&path, &whole).unwrap();
    let (code, talk) = run(&["replay", text(&path), text(&table), "--to", &server.url()]);
    assert_eq!(code, 1);
    assert!(talk.contains("made.tcr is a recording and") && talk.contains("quotes.csv is not"), "{talk}");
}

#[test]
fn a_recording_says_what_it_cannot_write_and_overwrites_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("there.tcr");
    fs::write(&path, "precious").unwrap();
    let server = TestServer::start(&[]);
    let record = |out: &str| run(&["record", "**", "--out", out, "--for", "1s", "--url", &server.url()]);
    let (code, talk) = record(text(&path));
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("there.tcr") && talk.contains("exists"), "{talk}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let (code, talk) = record("/no/such/folder/a.tcr");
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("/no/such/folder/a.tcr"), "{talk}");
    let (code, talk) = record("/dev/full");
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("/dev/full") && talk.contains("No space left"), "{talk}");
    let (code, talk) = run(&["record", "no topic", "--out", "a.tcr", "--url", &server.url()]);
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("`no topic`"), "{talk}");
    assert!(!Path::new("a.tcr").exists());
    let (code, talk) = run(&["record", "**", "--out", "a.tcr", "--url", "ws://127.0.0.1:1/ws"]);
    assert_eq!(code, 4, "{talk}");
}

#[test]
fn what_was_written_before_a_file_could_grow_no_more_is_sound() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("large.tcr");
    let server = TestServer::start(&[]);
    // The system lets no file of the program grow past some kilobytes.
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"";
    let program = env!("CARGO_BIN_EXE_tickcast");
    let child = Command::new("sh")
        .args(["-c", limited, program, "record", "**", "--out", text(&path), "--url", &server.url()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    server.wait_until("it has subscribed", |server| server.metric("tickcast_shard_subscriptions") == 1.0);
    for price in 0..400 {
        server.publish(&tick("A", &price.to_string()));
    }
    let (code, talk) = outcome(child.wait_with_output().expect("ends"));
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("cannot write") && talk.contains("large.tcr"), "{talk}");
    let held = read(&path);
    let sequences: Vec<u64> = held
        .events
        .iter()
        .filter(|event| event.header.type_id == 100)
        .map(|event| event.header.sequence)
        .collect();
    assert!((1..400).contains(&sequences.len()), "{}", sequences.len());
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    // Cut back to the last whole record.
    assert!(matches!(held.ending, Some(Ending::Torn { left_out: 0, .. })), "{:?}", held.ending);
}
