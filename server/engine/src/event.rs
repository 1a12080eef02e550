//! An event as it is delivered: its bytes, made once and shared by every socket.
//!
//! The binary form is complete when the event is published: WebSocket head, Tickcast header, payload.
//! Every other [`Format`] has a cell that the first shard to need it fills; a shard that loses the race
//! throws its copy away and counts it, so nobody waits for anybody. Compressed frames are made here, from
//! the binary form; JSON comes from outside ([`Render`]).
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tickcast_protocol::codec;
use tickcast_protocol::frame::{self, HEADER_LEN, Header, WS_HEAD_MAX};
use tickcast_protocol::message::View;
use tickcast_protocol::registry::{Attributes, Part, TypeInfo};
use tickcast_protocol::{Class, Message, Sequence, StreamId, Topic};

use crate::stats::ShardStats;
use crate::status::Status;

/// Opcode of a binary WebSocket message.
pub const OPCODE_BINARY: u8 = 2;

/// Which bytes a peer reads. Closed, so that every event has one cell per form and no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Tickcast frames, protocol v2: made at publish.
    Binary,
    /// The same frames, the large ones with their payload as an LZ4 block. What is small, or does not
    /// shrink, is the binary form itself: there is no second copy of it.
    BinaryLz4,
    /// JSON of dialect D1, names in snake case.
    D1Snake,
    /// JSON of dialect D1, names in camel case.
    D1Camel,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Binary, Self::BinaryLz4, Self::D1Snake, Self::D1Camel];
    /// How many formats are made when first needed: all but the plain binary one.
    pub const LAZY: usize = Self::ALL.len() - 1;

    /// True for the formats of peers that speak frames: they have binds, brackets and heartbeats.
    #[must_use]
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::Binary | Self::BinaryLz4)
    }

    /// The event's cell that holds this format, or `None` for plain binary.
    #[must_use]
    pub const fn cell(self) -> Option<usize> {
        match self {
            Self::Binary => None,
            Self::BinaryLz4 => Some(0),
            Self::D1Snake => Some(1),
            Self::D1Camel => Some(2),
        }
    }
}

/// Makes the bytes that only the server's codec knows how to make. Called on shard threads, where it
/// must not block.
pub trait Render: Send + Sync {
    /// One event as a whole WebSocket message (head included), or `None` when the format cannot carry
    /// it. Never asked for a binary format.
    fn event(&self, event: &Event, format: Format) -> Option<Bytes>;

    /// What the engine tells one subscriber (bind, begin, end, notice, heartbeat), as a whole WebSocket
    /// message; `None` when the format has no word for it. `topic` is that of the message's stream, when
    /// it concerns one stream. [`binary_message`] answers for the binary formats.
    fn control(&self, message: &Message, topic: Option<&Topic>, format: Format) -> Option<Bytes>;
}

/// A control message as one binary WebSocket message, head included.
#[must_use]
pub fn binary_message(message: &Message) -> Bytes {
    let (payload, header) = frame::payload(message);
    let (head, head_len) = frame::websocket_head(OPCODE_BINARY, HEADER_LEN + payload.len());
    let mut out = Vec::with_capacity(head_len + HEADER_LEN + payload.len());
    out.extend_from_slice(&head[..head_len]);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&payload);
    Bytes::from(out)
}

/// One event on its way to every shard.
pub struct Event {
    stream: StreamId,
    topic: Topic,
    class: Class,
    type_id: u16,
    schema_version: u16,
    root_len: u16,
    /// Where the payload starts in `binary`.
    payload_at: u16,
    /// Its payload is large enough to be worth compressing.
    is_large: bool,
    sequence: Sequence,
    publish_time: u64,
    conflation_key: u64,
    attributes: Attributes,
    part: Part,
    binary: Bytes,
    cells: [OnceLock<Option<Bytes>>; Format::LAZY],
}

/// What came in to be published: a payload that was already validated, and what routing needs of it.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The row of the message table.
    pub info: &'static TypeInfo,
    /// Where it goes.
    pub topic: &'a Topic,
    /// Class, conflation key and attributes ([`View::facts`]).
    pub facts: tickcast_protocol::registry::Facts,
    /// As the publisher's header said.
    pub schema_version: u16,
    /// As the publisher's header said.
    pub root_len: u16,
    /// The rkyv payload, forwarded as it came.
    pub payload: &'a [u8],
}

/// An event without a number: everything that can be made outside of the ingest section.
pub(crate) struct Draft {
    event: Arc<Event>,
    buffer: Vec<u8>,
}

impl Draft {
    /// Copies the payload behind its heads. Two allocations: the buffer and the event. Payloads of
    /// `lz4_min` bytes or more are compressed for those who read that.
    pub(crate) fn new(incoming: &Incoming<'_>, lz4_min: usize) -> Self {
        let length = incoming.payload.len();
        let (head, head_len) = frame::websocket_head(OPCODE_BINARY, HEADER_LEN + length);
        let class = incoming.facts.class;
        let header = Header {
            type_id: incoming.info.id,
            schema_version: incoming.schema_version,
            flags: if class == Class::Critical { frame::FLAG_CRITICAL } else { 0 },
            root_len: incoming.root_len,
            payload_len: length as u32,
            raw_len: length as u32,
            ..Header::default()
        };
        // Exactly as large as it gets, so that it becomes `Bytes` without another allocation.
        let mut buffer = Vec::with_capacity(head_len + HEADER_LEN + length);
        buffer.extend_from_slice(&head[..head_len]);
        buffer.extend_from_slice(&header.to_bytes());
        buffer.extend_from_slice(incoming.payload);
        let event = Arc::new(Event {
            stream: StreamId(0),
            topic: incoming.topic.clone(),
            class,
            type_id: incoming.info.id,
            schema_version: incoming.schema_version,
            root_len: incoming.root_len,
            payload_at: (head_len + HEADER_LEN) as u16,
            is_large: length >= lz4_min,
            sequence: Sequence(0),
            publish_time: 0,
            conflation_key: incoming.facts.conflation_key,
            attributes: incoming.facts.attributes,
            part: incoming.facts.part,
            binary: Bytes::new(),
            cells: Default::default(),
        });
        Self { event, buffer }
    }

    /// Writes stream, sequence and time where the header has them. Allocates nothing.
    pub(crate) fn stamp(self, stream: StreamId, sequence: Sequence, publish_time: u64) -> Arc<Event> {
        let Self { mut event, mut buffer } = self;
        let inner = Arc::get_mut(&mut event).expect("a draft is not shared");
        let header = usize::from(inner.payload_at) - HEADER_LEN;
        buffer[header + 12..header + 16].copy_from_slice(&stream.0.to_le_bytes());
        buffer[header + 16..header + 24].copy_from_slice(&sequence.0.to_le_bytes());
        buffer[header + 24..header + 32].copy_from_slice(&publish_time.to_le_bytes());
        inner.stream = stream;
        inner.sequence = sequence;
        inner.publish_time = publish_time;
        inner.binary = Bytes::from(buffer);
        event
    }
}

impl Event {
    /// The stream it belongs to.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Topic of the stream.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Class of the stream.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// The message's type.
    #[must_use]
    pub fn type_id(&self) -> u16 {
        self.type_id
    }

    /// Version of the type's schema, as published.
    #[must_use]
    pub fn schema_version(&self) -> u16 {
        self.schema_version
    }

    /// Bytes of the root record, at the end of the payload.
    #[must_use]
    pub fn root_len(&self) -> u16 {
        self.root_len
    }

    /// Its number on the stream.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// When it was accepted, in ns since the Unix epoch.
    #[must_use]
    pub fn publish_time(&self) -> u64 {
        self.publish_time
    }

    /// Hash of type and conflation fields.
    #[must_use]
    pub fn conflation_key(&self) -> u64 {
        self.conflation_key
    }

    /// What filters can ask about.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Whether it builds on other events of its stream.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// WebSocket head, Tickcast header and payload.
    #[must_use]
    pub fn binary(&self) -> &Bytes {
        &self.binary
    }

    /// The rkyv payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.binary[usize::from(self.payload_at)..]
    }

    /// The message, read in place. The structure is checked again, because checked access is the only
    /// access there is.
    ///
    /// # Panics
    /// When the payload was not validated before it was published: our mistake, not the publisher's.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::access(self.type_id, self.payload(), self.root_len).expect("payloads are validated at publish")
    }

    /// The whole WebSocket message in `format`; `None` when the format cannot carry the event. The first
    /// call per lazy format renders or compresses, for every shard.
    pub fn framed(&self, format: Format, render: &dyn Render, stats: &ShardStats) -> Option<&Bytes> {
        let Some(cell) = format.cell() else { return Some(&self.binary) };
        let cell = &self.cells[cell];
        if format == Format::BinaryLz4 {
            return Some(if self.is_large { self.lz4(cell, stats) } else { &self.binary });
        }
        if cell.get().is_none() {
            stats.renders.add(1);
            // Rendering happens outside of `set`, which then only moves a pointer.
            if cell.set(render.event(self, format)).is_err() {
                stats.lost_races.add(1);
            }
        }
        cell.get().and_then(Option::as_ref)
    }

    /// The compressed frame, made by the first call; the binary one when it does not shrink, of which the
    /// cell then keeps nothing but that it was tried.
    fn lz4<'a>(&'a self, cell: &'a OnceLock<Option<Bytes>>, stats: &ShardStats) -> &'a Bytes {
        if cell.get().is_none() {
            let made = self.compress();
            let length = made.as_ref().map(Bytes::len);
            match (cell.set(made), length) {
                (Err(_), _) => stats.lost_races.add(1),
                (Ok(()), None) => stats.incompressible.add(1),
                (Ok(()), Some(length)) => {
                    stats.compressed.add(1);
                    stats.compressed_saved_bytes.add((self.binary.len() - length) as u64);
                }
            }
        }
        cell.get().and_then(Option::as_ref).unwrap_or(&self.binary)
    }

    /// The frame with its payload as an LZ4 block, if that is smaller.
    fn compress(&self) -> Option<Bytes> {
        const PAYLOAD_AT: usize = WS_HEAD_MAX + HEADER_LEN;
        // The heads are written in front of the block when its length is known.
        let mut buffer = vec![0; PAYLOAD_AT];
        if !codec::compress(self.payload(), &mut buffer) {
            return None;
        }
        let length = buffer.len() - PAYLOAD_AT;
        let plain = &self.binary[usize::from(self.payload_at) - HEADER_LEN..];
        let (header, _) = Header::parse(plain).expect("stamped by us");
        let header = Header { payload_len: length as u32, ..header.with_codec(codec::LZ4) };
        let (head, head_len) = frame::websocket_head(OPCODE_BINARY, HEADER_LEN + length);
        let start = WS_HEAD_MAX - head_len;
        buffer[start..WS_HEAD_MAX].copy_from_slice(&head[..head_len]);
        buffer[WS_HEAD_MAX..PAYLOAD_AT].copy_from_slice(&header.to_bytes());
        // Copied, because the buffer has room for a block larger than the payload.
        Some(Bytes::copy_from_slice(&buffer[start..]))
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {} #{})", self.topic, self.class.name(), self.sequence)
    }
}

/// What the ring carries: an event, the news that sequences were jumped over, or how streams are.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Event(Arc<Event>),
    Skip(Skip),
    /// Some streams are not any more as they were.
    States(Arc<[Note]>),
}

/// What was found of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) stream: StreamId,
    pub(crate) status: Status,
}

/// Sequences that no event has, because the source skipped them; told in order with the events.
#[derive(Clone, Debug)]
pub(crate) struct Skip {
    pub(crate) stream: StreamId,
    pub(crate) topic: Topic,
    pub(crate) class: Class,
    pub(crate) from: u64,
    pub(crate) through: u64,
    /// The time in the order of events, in ns since the Unix epoch.
    pub(crate) publish_time: u64,
    /// An earlier run published them: nobody who is here has missed them.
    pub(crate) earlier: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tickcast_protocol::frame::Frame;
    use tickcast_protocol::registry::{self, Facts};

    /// An event whose payload is only a filler: most of the engine never looks at it.
    pub(crate) fn event(stream: u32, sequence: u64, key: u64, class: Class, payload: &[u8]) -> Arc<Event> {
        let topic = Topic::parse(&format!("market_data.S{stream}")).unwrap();
        Draft::new(&incoming(&topic, class, key, payload), 64).stamp(
            StreamId(stream),
            Sequence(sequence),
            1_000 + sequence,
        )
    }

    /// An event of a stream whose events build on each other.
    pub(crate) fn event_of(part: Part, sequence: u64, key: u64) -> Arc<Event> {
        let topic = Topic::parse("order_book.A").unwrap();
        let mut incoming = incoming(&topic, Class::Ordered, key, &[0; 100]);
        incoming.facts.part = part;
        Draft::new(&incoming, usize::MAX).stamp(StreamId(1), Sequence(sequence), 1_000 + sequence)
    }

    /// An event of which only stream and attributes matter.
    pub(crate) fn event_with(stream: u32, attributes: Attributes) -> Arc<Event> {
        let topic = Topic::parse("market_data.A").unwrap();
        let mut incoming = incoming(&topic, Class::Latest, 1, b"");
        incoming.facts.attributes = attributes;
        Draft::new(&incoming, usize::MAX).stamp(StreamId(stream), Sequence(1), 1_001)
    }

    pub(crate) fn incoming<'a>(topic: &'a Topic, class: Class, key: u64, payload: &'a [u8]) -> Incoming<'a> {
        Incoming {
            info: registry::by_name(topic.type_name()).unwrap(),
            topic,
            facts: Facts { class, conflation_key: key, attributes: Attributes::default(), part: Part::Whole },
            schema_version: 1,
            root_len: 8,
            payload,
        }
    }

    /// Renders an event as its debug text, and knows no control messages.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Render for Counting {
        fn event(&self, event: &Event, format: Format) -> Option<Bytes> {
            self.0.fetch_add(1, Ordering::Relaxed);
            (format == Format::D1Snake).then(|| Bytes::from(format!("{event:?}")))
        }

        fn control(&self, _: &Message, _: Option<&Topic>, _: Format) -> Option<Bytes> {
            None
        }
    }

    #[test]
    fn stamped_header_reads_back_at_every_head_length() {
        for length in [0, 1, 85, 86, 65_495, 65_496, 70_000] {
            let payload = vec![7; length];
            let event = event(3, 9, 1, Class::Critical, &payload);
            let head = match length + HEADER_LEN {
                0..=125 => 2,
                126..=65_535 => 4,
                _ => 10,
            };
            let (frame, rest) = Frame::split_first(&event.binary()[head..], 1 << 20).unwrap();
            assert!(rest.is_empty());
            assert_eq!(frame.payload, payload);
            assert_eq!(event.payload(), payload);
            assert_eq!(
                (frame.header.stream, frame.header.sequence, frame.header.publish_time),
                (3, 9, 1_009)
            );
            assert_eq!(frame.header.flags, frame::FLAG_CRITICAL);
        }
    }

    #[test]
    fn event_is_rendered_once_per_format() {
        let (event, render, stats) =
            (event(1, 1, 1, Class::Latest, b"x"), Counting::default(), ShardStats::default());
        for _ in 0..3 {
            assert_eq!(event.framed(Format::Binary, &render, &stats), Some(event.binary()));
            assert!(event.framed(Format::D1Snake, &render, &stats).is_some());
            assert_eq!(event.framed(Format::D1Camel, &render, &stats), None, "the format cannot carry it");
        }
        assert_eq!(render.0.load(Ordering::Relaxed), 2);
        assert_eq!((stats.renders.get(), stats.lost_races.get()), (2, 0));
    }

    #[test]
    fn event_is_compressed_once_and_reads_back() {
        for length in [64, 100, 600, 65_400, 70_000] {
            let payload: Vec<u8> = (0..length).map(|at| (at / 8 % 50) as u8).collect();
            let event = event(3, 9, 1, Class::Critical, &payload);
            let (render, stats) = (Counting::default(), ShardStats::default());
            let bytes = event.framed(Format::BinaryLz4, &render, &stats).unwrap().clone();
            let again = event.framed(Format::BinaryLz4, &render, &stats).unwrap();
            assert_eq!(bytes.as_ptr(), again.as_ptr());
            let head = 2 + match bytes[1] {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            let (frame, rest) = Frame::split_first(&bytes[head..], 1 << 20).unwrap();
            assert!(rest.is_empty() && frame.is_compressed());
            let (header, made) = frame.decompress(&mut Default::default()).unwrap();
            assert_eq!(made, payload);
            let (plain, _) = Header::parse(&event.binary()[usize::from(event.payload_at) - 40..]).unwrap();
            assert_eq!(header, plain);
            let saved = (event.binary().len() - bytes.len()) as u64;
            assert_eq!((stats.compressed.get(), stats.compressed_saved_bytes.get()), (1, saved));
            assert_eq!((stats.renders.get(), stats.incompressible.get()), (0, 0));
        }
    }

    #[test]
    fn what_is_small_or_does_not_shrink_has_no_second_copy() {
        let noise: Vec<u8> = (0..64u8).collect();
        let (render, stats) = (Counting::default(), ShardStats::default());
        for (payload, tried) in [(&[7; 63][..], 0), (&noise, 1), (&noise, 2)] {
            let event = event(1, 1, 1, Class::Latest, payload);
            for _ in 0..3 {
                let bytes = event.framed(Format::BinaryLz4, &render, &stats).unwrap();
                assert_eq!(bytes.as_ptr(), event.binary().as_ptr());
            }
            assert_eq!((stats.compressed.get(), stats.incompressible.get()), (0, tried));
        }
    }

    #[test]
    fn lost_race_is_dropped_and_counted() {
        struct Racing(Arc<Event>);
        impl Render for Racing {
            fn event(&self, event: &Event, format: Format) -> Option<Bytes> {
                // Another shard fills the cell while this one renders.
                let _ = self.0.framed(format, &Counting::default(), &ShardStats::default());
                Some(Bytes::from(format!("late {event:?}")))
            }
            fn control(&self, _: &Message, _: Option<&Topic>, _: Format) -> Option<Bytes> {
                None
            }
        }
        let (event, stats) = (event(1, 1, 1, Class::Latest, b"x"), ShardStats::default());
        let bytes = event.framed(Format::D1Snake, &Racing(Arc::clone(&event)), &stats).unwrap();
        assert!(bytes.starts_with(b"Event("));
        assert_eq!(stats.lost_races.get(), 1);
    }
}
