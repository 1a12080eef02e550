//! The other end of the stress test: what is in every event, and a client that believes nothing.
//!
//! Per stream it knows the next sequence it must hear of, as an event or in a notice.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::io::IoSlice;
use std::sync::atomic::AtomicU64;

use bytes::BytesMut;
use tickcast_engine::{Condition, Format, PeerStatus, StreamSummary};
use tickcast_protocol::frame::Frames;
use tickcast_protocol::message::{Binding, Bracket, Notice, NoticeKind, Reason, StreamState};
use tickcast_protocol::registry::{Attribute, Attributes, DATA_FIRST, hash_text};
use tickcast_protocol::{Class, Decimal, Message, Predicate, Sequence, StreamId, Topic, TopicFilter};

use super::PUBLISHERS;

type Hash = BuildHasherDefault<DefaultHasher>;
pub(super) type Positions = Vec<(Topic, Class, Sequence)>;

/// SplitMix64: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn between(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// A stream as its publishers know it.
pub(super) struct Stream {
    pub(super) topic: Topic,
    /// The only publisher, if there is one: then a number is a sequence.
    pub(super) owner: Option<usize>,
    /// Numbers given out.
    pub(super) numbers: AtomicU64,
}

/// Sequences of streams with an owner that their source skips.
pub(super) fn is_skip(number: u64) -> bool {
    number.is_multiple_of(211)
}

/// The payload that is to be published under a number: who and what, then bytes that follow from it. Some
/// are large, and of those some can be compressed.
pub(super) fn payload(stream: usize, publisher: usize, number: u64) -> Vec<u8> {
    let mut random = Random(number << 16 | (stream as u64) << 8 | publisher as u64);
    let words = if random.one_in(16) { 80 } else { random.below(12) };
    let mut payload = Vec::with_capacity(24 + words * 8);
    for word in [stream as u64, publisher as u64, number] {
        payload.extend_from_slice(&word.to_le_bytes());
    }
    let first = random.next();
    let repeats = random.one_in(2);
    for _ in 0..words {
        let word = if repeats { first } else { random.next() };
        payload.extend_from_slice(&word.to_le_bytes());
    }
    payload
}

/// What filters can ask about the event of that number.
pub(super) fn attributes(number: u64) -> Attributes {
    let mut attributes = Attributes::default();
    let symbol = ["A", "B", "C"][(number % 3) as usize];
    attributes.equality[Attribute::Symbol as usize] = hash_text(&Hash::default(), symbol);
    attributes.price = Some(Decimal::new((number % 100) as i64, 0).unwrap());
    attributes
}

pub(super) fn condition(random: &mut Random) -> Option<Condition> {
    let predicate = random.pick(&["", "", "symbol=A", "price>50", "symbol in (A, B) and price<=80"]);
    (!predicate.is_empty()).then(|| Condition::new(Predicate::parse(predicate).unwrap(), &Hash::default()))
}

/// A client that left, and where it stood.
pub(super) struct Left {
    pub(super) filter: TopicFilter,
    pub(super) condition: Option<Condition>,
    pub(super) positions: Positions,
}

/// What its socket takes at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    All,
    Part,
    Nothing,
    Dead,
}

/// Events that it did not get, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    conflated: u64,
    gapped: u64,
    filtered: u64,
}

/// Its side of a stream.
#[derive(Clone, Debug)]
struct Account {
    stream: usize,
    topic: Topic,
    class: Class,
    is_owned: bool,
    /// The sequence it counts from.
    first: u64,
    /// The last sequence it has heard of.
    cursor: u64,
    received: u64,
    lost: Counts,
    /// The last number received of each publisher.
    newest: [u64; PUBLISHERS],
}

pub(super) struct Client {
    format: Format,
    mood: Mood,
    filter: TopicFilter,
    condition: Option<Condition>,
    /// Positions of its resume that no bind has named yet.
    positions: Positions,
    bytes: Vec<u8>,
    accounts: BTreeMap<u32, Account>,
    /// Of the snapshot or replay it is in, whether it is a snapshot, and how many events are to come.
    bracket: Option<(bool, u32)>,
    /// Data frames, those of snapshots included.
    events: u64,
    /// The last sequences it saw as JSON.
    texts: HashMap<u64, u64>,
    /// How streams are, as it was told last, and the newest sequence then.
    states: HashMap<u32, (StreamState, u64)>,
}

impl Client {
    pub(super) fn new(
        format: Format,
        filter: TopicFilter,
        condition: Option<Condition>,
        positions: Positions,
        random: &mut Random,
    ) -> Self {
        let mut client = Self {
            format,
            mood: Mood::All,
            filter,
            condition,
            positions,
            bytes: Vec::new(),
            accounts: BTreeMap::new(),
            bracket: None,
            events: 0,
            texts: HashMap::new(),
            states: HashMap::new(),
        };
        client.change(random);
        client
    }

    /// Streams it is bound to; none for JSON.
    pub(super) fn bound(&self) -> impl Iterator<Item = StreamId> {
        self.accounts.keys().map(|stream| StreamId(*stream))
    }

    /// How a stream is, by all it was told.
    pub(super) fn state(&self, stream: u32) -> StreamState {
        self.states.get(&stream).map_or(StreamState::LIVE, |(state, _)| *state)
    }

    pub(super) fn change(&mut self, random: &mut Random) {
        self.mood = match random.below(40) {
            0 => Mood::Dead,
            1..=9 => Mood::Nothing,
            10..=21 => Mood::Part,
            _ => Mood::All,
        };
    }

    /// How many of `length` bytes the socket takes now; `None` when it is dead.
    pub(super) fn room(&self, length: usize, open: bool, random: &mut Random) -> Option<usize> {
        match self.mood {
            _ if open => Some(length),
            Mood::Part if random.one_in(2) => Some(random.below(length)),
            Mood::All | Mood::Part => Some(length),
            Mood::Nothing => Some(0),
            Mood::Dead => None,
        }
    }

    /// Takes `room` bytes, and reads the whole messages that it has now.
    pub(super) fn take(&mut self, bufs: &[IoSlice<'_>], room: usize, streams: &[Stream]) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let before = bytes.len();
        for buf in bufs {
            let left = room - (bytes.len() - before);
            bytes.extend_from_slice(&buf[..left.min(buf.len())]);
        }
        let mut at = 0;
        while let Some(length) = message_len(&bytes[at..]) {
            self.read(&bytes[at..at + length], streams);
            at += length;
        }
        bytes.drain(..at);
        self.bytes = bytes;
    }

    /// Where it stands, to be resumed; a JSON client cannot say.
    pub(super) fn left(self) -> Option<Left> {
        let Self { filter, condition, accounts, .. } = self;
        let position = |account: Account| (account.topic, account.class, Sequence(account.cursor));
        let positions = accounts.into_values().map(position).collect();
        self.format.is_binary().then_some(Left { filter, condition, positions })
    }

    /// All was distributed and read: it has heard of every sequence, and the server's sums are its own.
    pub(super) fn settle(&self, status: &PeerStatus, heads: &[StreamSummary]) {
        assert_eq!((status.queued_events, status.queued_bytes, status.untold), (0, 0, 0));
        assert!(self.bytes.is_empty() && self.bracket.is_none(), "half a message, or half a bracket");
        assert_eq!(self.events, status.delivered);
        if !self.format.is_binary() {
            return;
        }
        let mut sums = Counts::default();
        for StreamSummary { id, topic, head, .. } in heads {
            let account = self.accounts.get(&id.0);
            assert_eq!(account.is_some(), self.filter.matches(topic), "bound to {topic}");
            let Some(account) = account else { continue };
            let Counts { conflated, gapped, filtered } = account.lost;
            assert_eq!(
                account.received + conflated + gapped + filtered,
                head.0 + 1 - account.first,
                "{topic}: {account:?}"
            );
            sums.add(&account.lost);
        }
        let Counts { conflated, gapped, filtered } = sums;
        assert_eq!((conflated, gapped, filtered), (status.conflated, status.gapped, status.filtered));
    }

    fn read(&mut self, message: &[u8], streams: &[Stream]) {
        let head = match message[1] {
            127 => 10,
            126 => 4,
            _ => 2,
        };
        match message[0] {
            0x82 if self.format.is_binary() => {
                for frame in Frames::new(&message[head..], 1 << 20) {
                    let frame = frame.expect("torn frame");
                    if frame.header.type_id >= DATA_FIRST {
                        assert!(!frame.is_compressed() || self.format == Format::BinaryLz4);
                        let (header, payload) =
                            frame.decompress(&mut BytesMut::new()).expect("a sound block");
                        self.event(header.stream, header.sequence, &payload);
                    } else {
                        self.control(frame.view().expect("a sound message").to_owned(), streams);
                    }
                }
            }
            0x81 if !self.format.is_binary() => {
                let text = std::str::from_utf8(&message[head..]).expect("torn text");
                let words: Vec<&str> = text.split(' ').collect();
                let (stream, sequence) = (words[0].parse().unwrap(), words[1].parse().unwrap());
                assert!(self.filter.matches(&Topic::parse(words[2]).expect("torn text")));
                let last = self.texts.insert(stream, sequence).unwrap_or(0);
                assert!(sequence > last, "stream {stream}: {sequence} after {last}");
                self.events += 1;
            }
            // The farewell.
            0x88 => assert_eq!(message.len(), 2),
            other => panic!("torn: no message begins with {other:#x}"),
        }
    }

    fn event(&mut self, id: u32, sequence: u64, bytes: &[u8]) {
        self.events += 1;
        let account = self.accounts.get_mut(&id).expect("no event of a stream that is not bound");
        let word = |at: usize| u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("a word"));
        let (stream, publisher, number) = (word(0) as usize, word(1) as usize, word(2));
        assert_eq!(stream, account.stream, "{} got another stream's event", account.topic);
        assert!(bytes == payload(stream, publisher, number), "{}: {sequence} is torn", account.topic);
        assert!(!account.is_owned || number == sequence, "{}: {sequence} has {number}", account.topic);
        let condition = self.condition.as_ref();
        assert!(condition.is_none_or(|condition| condition.passes(&attributes(number))));
        if let Some((is_snapshot, events)) = &mut self.bracket {
            *events = events.checked_sub(1).expect("no more events than begin said");
            if *is_snapshot {
                return;
            }
        }
        assert_eq!(sequence, account.cursor + 1, "{account:?}");
        let newest = &mut account.newest[publisher];
        assert!(number > *newest, "publisher {publisher}: {number} after {newest}");
        *newest = number;
        account.cursor = sequence;
        account.received += 1;
    }

    fn control(&mut self, message: Message, streams: &[Stream]) {
        match message {
            Message::Bind(bind) => bind.bindings.iter().for_each(|binding| self.bind(binding, streams)),
            Message::Begin(begin) => {
                let bracket = (begin.bracket == Bracket::SNAPSHOT, begin.events);
                assert!(self.bracket.replace(bracket).is_none(), "a bracket within another");
            }
            Message::End(_) => {
                let (_, events) = self.bracket.take().expect("begun");
                assert_eq!(events, 0, "fewer events than begin said");
            }
            Message::Notice(notice) if notice.kind == NoticeKind::COUNTS => {
                let mut own = Counts::default();
                self.accounts.values().for_each(|account| own.add(&account.lost));
                let Notice { conflated, gapped, filtered, .. } = notice;
                assert_eq!(own, Counts { conflated, gapped, filtered }, "the server's sums differ");
            }
            Message::Notice(notice) if notice.kind == NoticeKind::CLOSING => {
                assert_eq!(notice.reason, Reason::OUTBOX_FULL);
            }
            Message::Notice(notice) => self.loss(&notice),
            Message::Heartbeat(heartbeat) => {
                for head in heartbeat.heads {
                    let account = self.accounts.get_mut(&head.stream).expect("a bound stream");
                    assert!(head.sequence >= account.cursor);
                    if head.through > account.cursor {
                        let filtered = head.through - account.cursor;
                        account.lose(
                            head.through,
                            Counts { filtered, ..Counts::default() },
                            self.condition.as_ref(),
                        );
                    }
                }
            }
            Message::StreamStates(told) => {
                for status in told.states {
                    assert!(self.accounts.contains_key(&status.stream), "of a stream that is bound");
                    let new = (status.state, status.last_sequence);
                    let before = self.states.insert(status.stream, new).map_or(0, |(_, before)| before);
                    assert!(status.last_sequence >= before, "{status:?} after {before}");
                }
            }
            // What it concerns is told as lost as well.
            Message::History(history) => {
                for kept in &history.short {
                    assert!(self.accounts.contains_key(&kept.stream), "of a stream that is bound");
                }
            }
            other => panic!("unexpected {}", other.info().name),
        }
    }

    fn bind(&mut self, binding: &Binding, streams: &[Stream]) {
        let topic = Topic::parse(&binding.topic).unwrap();
        assert!(self.filter.matches(&topic));
        let class = Class::from_number(binding.class.0).unwrap();
        let (first, cursor) = (binding.next_sequence, binding.next_sequence - 1);
        let stream = streams.iter().position(|stream| stream.topic == topic).expect("a known topic");
        let named = self.positions.iter().position(|(of, in_class, _)| *of == topic && *in_class == class);
        if let Some(at) = named {
            assert_eq!(self.positions.swap_remove(at).2.0, cursor, "a resume goes on where it stopped");
        }
        let (is_owned, lost) = (streams[stream].owner.is_some(), Counts::default());
        let newest = [0; PUBLISHERS];
        let account = Account { stream, topic, class, is_owned, first, cursor, received: 0, lost, newest };
        assert!(self.accounts.insert(binding.stream, account).is_none(), "bound twice");
    }

    fn loss(&mut self, notice: &Notice) {
        let account = self.accounts.get_mut(&notice.stream).expect("a notice of a bound stream");
        let Notice { from, through, conflated, gapped, filtered, .. } = *notice;
        assert_eq!(conflated + gapped + filtered, through + 1 - from, "{notice:?}");
        assert!(from <= account.cursor + 1, "{notice:?} {account:?}");
        // Told to a group of which some count from further on; what they know did not pass.
        let known = (account.cursor + 1 - from).min(through + 1 - from);
        assert!(known <= filtered, "{notice:?} {account:?}");
        assert!(account.class != Class::Critical || notice.reason != Reason::OUTBOX_FULL, "{notice:?}");
        if through > account.cursor {
            let lost = Counts { conflated, gapped, filtered: filtered - known };
            account.lose(through, lost, self.condition.as_ref());
        }
    }
}

impl Account {
    /// Enters a loss. What a sequence of an owned stream held is known, and so whether it passed.
    fn lose(&mut self, through: u64, lost: Counts, condition: Option<&Condition>) {
        if self.is_owned {
            let events = (self.cursor + 1..=through).filter(|number| !is_skip(*number));
            let passes = |number: &u64| condition.is_none_or(|known| known.passes(&attributes(*number)));
            let (passed, failed): (Vec<u64>, Vec<u64>) = events.partition(passes);
            let (passed, failed) = (passed.len() as u64, failed.len() as u64);
            assert!(lost.conflated <= passed && lost.filtered <= failed, "{lost:?} {self:?}");
            assert!(
                lost.gapped > 0 || (lost.conflated, lost.filtered) == (passed, failed),
                "{lost:?} {self:?}"
            );
        } else {
            assert!(condition.is_some() || lost.filtered == 0, "{lost:?} {self:?}");
        }
        self.cursor = through;
        self.lost.add(&lost);
    }
}

impl Counts {
    fn add(&mut self, more: &Self) {
        self.conflated += more.conflated;
        self.gapped += more.gapped;
        self.filtered += more.filtered;
    }
}

/// Length of the WebSocket message at the front, when all of it is there.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let length = match *bytes.get(1)? {
        127 => 10 + u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
        126 => 4 + usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        short => 2 + usize::from(short),
    };
    (bytes.len() >= length).then_some(length)
}
