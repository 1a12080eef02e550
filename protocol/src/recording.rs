//! Recordings: what one subscriber received, as a file. Sans-io: bytes in, records out.
//!
//! A file is a head of 24 bytes and records behind it, one after the other. Numbers are little-endian.
//!
//! | offset | size | head | what it is |
//! |--:|--:|---|---|
//! | 0 | 8 | `magic` | `89 54 43 52 0D 0A 1A 0A`: a copy that changes line ends shows at once |
//! | 8 | 2 | `version` | 1; another one is another format |
//! | 10 | 2 | `head_len` | bytes of the head; it may grow, and a reader skips what it does not know |
//! | 12 | 4 | `crc` | CRC32 of the head without these four bytes |
//! | 16 | 8 | `started_at` | when the recording began, in ns since the Unix epoch |
//!
//! | offset | size | record | what it is |
//! |--:|--:|---|---|
//! | 0 | 4 | `len` | bytes of the body, 9 to [`BODY_BYTES_MAX`] |
//! | 4 | 4 | `crc` | CRC32 of `len` and the body |
//! | 8 | 1 | `kind` | the body begins here; see below |
//! | 9 | 8 | `at` | when it was received, in ns since the Unix epoch |
//! | 17 | | | the rest of the body, by kind |
//!
//! | kind | record | the rest |
//! |--:|---|---|
//! | 1 | `run` | u64 boot id, u64 epoch: the server that what follows came from |
//! | 2 | `stream` | u32 number, u8 class, topic as UTF-8: the file's own number for a stream |
//! | 3 | `event` | u32 number, u8 origin (0 live, 1 snapshot, 2 replay), a whole frame as in SPEC 3, decompressed |
//! | 4 | `gap` | u32 number, u64 from, u64 through, u64 gapped, u64 conflated, reason as UTF-8 |
//! | 5 | `end` | u64 events, u64 gaps: the recording was ended, and holds so many of each |
//!
//! A stream is announced before its first event or gap, and again after a `run` of another epoch. Kinds that
//! a reader does not know are skipped.
//!
//! Whoever is killed, or out of room, leaves a file without an `end` and perhaps with half a record: a torn
//! tail. What lies before it is sound, record by record. A record whose checksum is wrong is no torn tail but
//! a broken file, for nothing tells where the next one begins.

use crc32fast::Hasher;

use crate::error::DecodeError;
use crate::frame::{Frame, HEADER_LEN, PAYLOAD_BYTES_MAX};
use crate::message::Class;
use crate::sequence::{BootId, Epoch};
use crate::topic::Topic;

/// First bytes of every recording.
pub const MAGIC: [u8; 8] = [0x89, b'T', b'C', b'R', b'\r', b'\n', 0x1A, b'\n'];
/// The version of this module.
pub const VERSION: u16 = 1;
/// Bytes of the head.
pub const HEAD_LEN: usize = 24;
/// Bytes before a record's body.
pub const PREFIX_LEN: usize = 8;
/// Largest body, in bytes: an event with the largest payload.
pub const BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 256;

/// Kind and time, which every body has.
const BODY_BYTES_MIN: usize = 9;
/// Number of the stream and origin.
const EVENT_BYTES: usize = 5;

/// How a file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// When the recording began, in ns since the Unix epoch.
    pub started_at: u64,
}

/// Whether an event was news when it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Recorded {
    /// As it happened.
    Live = 0,
    /// A last value from before; no part of the stream that was recorded.
    Snapshot = 1,
    /// Missed, and sent again.
    Replay = 2,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// When it was received, in ns since the Unix epoch.
    pub at: u64,
    /// What.
    pub entry: Entry<'a>,
}

/// What a record says.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// What follows comes from this server.
    Run {
        /// The run of the server.
        boot_id: BootId,
        /// The history that sequences refer to.
        epoch: Epoch,
    },
    /// The file's own number for a stream.
    Stream {
        /// Chosen by whoever records.
        number: u32,
        /// The stream's class.
        class: Class,
        /// The stream's topic.
        topic: Topic,
    },
    /// An event.
    Event {
        /// Its stream, by the file's number.
        stream: u32,
        /// News, last value, or late.
        origin: Recorded,
        /// Its frame, as received, decompressed.
        frame: Frame<'a>,
    },
    /// Events that did not come.
    Gap {
        /// Their stream, by the file's number.
        stream: u32,
        /// First sequence, or zero when it is not known.
        from: u64,
        /// Last sequence, or zero when it is not known.
        through: u64,
        /// How many were lost.
        gapped: u64,
        /// How many were replaced by a newer one.
        conflated: u64,
        /// Why, by name.
        reason: &'a str,
    },
    /// The recording was ended.
    End {
        /// Events in the file.
        events: u64,
        /// Gaps in the file.
        gaps: u64,
    },
    /// A kind of a newer program.
    Unknown(u8),
}

/// Bytes that are no recording, or no more of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// The file begins otherwise.
    #[error("this is no recording: it does not begin as one")]
    NotARecording,
    /// A newer program wrote it.
    #[error("this is a recording of version {0}; version {VERSION} is read here")]
    Version(u16),
    /// The bytes end before the head or record does. With the whole file at hand, this is its torn tail.
    #[error("{available} bytes are there, {needed} are needed")]
    Torn {
        /// Bytes of the head or record, as far as they are known.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The bytes are not what was written.
    #[error("the checksum is wrong: the file was changed, or its disk lost something")]
    Checksum,
    /// A head or record that no program writes.
    #[error("{0}")]
    Malformed(&'static str),
    /// The frame of an event.
    #[error("the frame of an event: {0}")]
    Frame(#[from] DecodeError),
}

/// True when a file that begins so is a recording. Eight bytes are enough.
#[must_use]
pub fn is_recording(first: &[u8]) -> bool {
    first.starts_with(&MAGIC)
}

impl Head {
    /// The head's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(HEAD_LEN as u16).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.started_at.to_le_bytes());
        let crc = crc(&bytes[..12], &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the head and says how long it is.
    ///
    /// # Errors
    /// [`RecordingError`]; [`Torn`](RecordingError::Torn) asks for more bytes.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), RecordingError> {
        let torn = |needed| Err(RecordingError::Torn { needed, available: bytes.len() });
        if !bytes.iter().zip(&MAGIC).all(|(is, should_be)| is == should_be) {
            return Err(RecordingError::NotARecording);
        }
        if bytes.len() < HEAD_LEN {
            return torn(HEAD_LEN);
        }
        let mut fields = Fields(&bytes[8..]);
        let (version, len, sum) = (fields.u16()?, usize::from(fields.u16()?), fields.u32()?);
        if version != VERSION {
            return Err(RecordingError::Version(version));
        }
        if len < HEAD_LEN {
            return Err(RecordingError::Malformed("its head is too short"));
        }
        if bytes.len() < len {
            return torn(len);
        }
        if crc(&bytes[..12], &bytes[16..len]) != sum {
            return Err(RecordingError::Checksum);
        }
        Ok((Self { started_at: fields.u64()? }, len))
    }
}

impl Recorded {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Live),
            1 => Some(Self::Snapshot),
            2 => Some(Self::Replay),
            _ => None,
        }
    }
}

impl Entry<'_> {
    const fn kind(&self) -> u8 {
        match self {
            Self::Run { .. } => 1,
            Self::Stream { .. } => 2,
            Self::Event { .. } => 3,
            Self::Gap { .. } => 4,
            Self::End { .. } => 5,
            Self::Unknown(kind) => *kind,
        }
    }
}

impl<'a> Record<'a> {
    /// Appends the record's bytes.
    pub fn append(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX_LEN]);
        out.push(self.entry.kind());
        out.extend_from_slice(&self.at.to_le_bytes());
        match &self.entry {
            Entry::Run { boot_id, epoch } => {
                out.extend_from_slice(&boot_id.0.to_le_bytes());
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            Entry::Stream { number, class, topic } => {
                out.extend_from_slice(&number.to_le_bytes());
                out.push(*class as u8);
                out.extend_from_slice(topic.as_str().as_bytes());
            }
            Entry::Event { stream, origin, frame } => {
                out.reserve(EVENT_BYTES + HEADER_LEN + frame.payload.len());
                out.extend_from_slice(&stream.to_le_bytes());
                out.push(*origin as u8);
                out.extend_from_slice(&frame.header.to_bytes());
                out.extend_from_slice(frame.payload);
            }
            Entry::Gap { stream, from, through, gapped, conflated, reason } => {
                out.extend_from_slice(&stream.to_le_bytes());
                for number in [from, through, gapped, conflated] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(reason.as_bytes());
            }
            Entry::End { events, gaps } => {
                out.extend_from_slice(&events.to_le_bytes());
                out.extend_from_slice(&gaps.to_le_bytes());
            }
            Entry::Unknown(_) => {}
        }
        let body = start + PREFIX_LEN;
        let len = ((out.len() - body) as u32).to_le_bytes();
        let sum = crc(&len, &out[body..]);
        out[start..start + 4].copy_from_slice(&len);
        out[start + 4..body].copy_from_slice(&sum.to_le_bytes());
    }

    /// Takes the first record off `bytes` and returns it with what follows. Nothing of a record whose checksum
    /// is wrong is looked at.
    ///
    /// # Errors
    /// [`RecordingError`]; [`Torn`](RecordingError::Torn) asks for more bytes, also when there are none.
    pub fn split_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), RecordingError> {
        let torn = |needed| RecordingError::Torn { needed, available: bytes.len() };
        let Some((prefix, rest)) = bytes.split_at_checked(PREFIX_LEN) else { return Err(torn(PREFIX_LEN)) };
        let mut fields = Fields(prefix);
        let (len, sum) = (fields.u32()? as usize, fields.u32()?);
        if !(BODY_BYTES_MIN..=BODY_BYTES_MAX).contains(&len) {
            return Err(RecordingError::Malformed("the length of a record is none"));
        }
        let Some((body, rest)) = rest.split_at_checked(len) else { return Err(torn(PREFIX_LEN + len)) };
        if crc(&prefix[..4], body) != sum {
            return Err(RecordingError::Checksum);
        }
        let mut fields = Fields(body);
        let (kind, at) = (fields.u8()?, fields.u64()?);
        let entry = match kind {
            1 => Entry::Run { boot_id: BootId(fields.u64()?), epoch: Epoch(fields.u64()?) },
            2 => {
                let (number, class) = (fields.u32()?, Class::from_number(fields.u8()?));
                let class = class.ok_or(RecordingError::Malformed("the class of a stream is unknown"))?;
                let topic = Topic::parse(fields.text()?)
                    .map_err(|_| RecordingError::Malformed("the topic of a stream is none"))?;
                Entry::Stream { number, class, topic }
            }
            3 => {
                let (stream, origin) = (fields.u32()?, Recorded::from_number(fields.u8()?));
                let origin = origin.ok_or(RecordingError::Malformed("the origin of an event is unknown"))?;
                let (frame, behind) = Frame::split_first(fields.0, PAYLOAD_BYTES_MAX)?;
                if frame.is_compressed() || !behind.is_empty() {
                    return Err(RecordingError::Malformed("an event is not one decompressed frame"));
                }
                Entry::Event { stream, origin, frame }
            }
            4 => Entry::Gap {
                stream: fields.u32()?,
                from: fields.u64()?,
                through: fields.u64()?,
                gapped: fields.u64()?,
                conflated: fields.u64()?,
                reason: fields.text()?,
            },
            5 => Entry::End { events: fields.u64()?, gaps: fields.u64()? },
            other => Entry::Unknown(other),
        };
        Ok((Self { at, entry }, rest))
    }
}

fn crc(first: &[u8], second: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(first);
    hasher.update(second);
    hasher.finalize()
}

/// What is left to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordingError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(RecordingError::Malformed("a record is too short for its kind"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, RecordingError> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, RecordingError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, RecordingError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordingError> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, RecordingError> {
        str::from_utf8(std::mem::take(&mut self.0))
            .map_err(|_| RecordingError::Malformed("a text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Header;

    /// A record with a payload of its own.
    #[derive(Clone, Debug)]
    enum Made {
        Run(u64, u64),
        Stream(u32, u8, String),
        Event(u32, u8, u64, Vec<u8>),
        Gap(u32, [u64; 4], String),
        End(u64, u64),
        Newer(u8),
    }

    impl Made {
        fn append(&self, at: u64, out: &mut Vec<u8>) {
            let entry = match self {
                Self::Run(boot_id, epoch) => Entry::Run { boot_id: BootId(*boot_id), epoch: Epoch(*epoch) },
                Self::Stream(number, class, key) => Entry::Stream {
                    number: *number,
                    class: Class::from_number(*class).unwrap(),
                    topic: Topic::parse(&format!("market_data.{key}")).unwrap(),
                },
                Self::Event(stream, origin, sequence, payload) => {
                    let len = payload.len() as u32;
                    let header = Header {
                        type_id: 100,
                        sequence: *sequence,
                        payload_len: len,
                        raw_len: len,
                        ..Header::default()
                    };
                    let origin = Recorded::from_number(*origin).unwrap();
                    Entry::Event { stream: *stream, origin, frame: Frame { header, payload } }
                }
                Self::Gap(stream, [from, through, gapped, conflated], reason) => Entry::Gap {
                    stream: *stream,
                    from: *from,
                    through: *through,
                    gapped: *gapped,
                    conflated: *conflated,
                    reason,
                },
                Self::End(events, gaps) => Entry::End { events: *events, gaps: *gaps },
                Self::Newer(kind) => Entry::Unknown(*kind),
            };
            Record { at, entry }.append(out);
        }
    }

    fn made() -> impl Strategy<Value = Made> {
        prop_oneof![
            any::<(u64, u64)>().prop_map(|(boot_id, epoch)| Made::Run(boot_id, epoch)),
            (any::<u32>(), 1u8..=3, "[A-Za-z0-9._-]{1,20}".prop_filter("a key", |key| is_key(key)))
                .prop_map(|(number, class, key)| Made::Stream(number, class, key)),
            (any::<u32>(), 0u8..=2, any::<u64>(), proptest::collection::vec(any::<u8>(), 0..60)).prop_map(
                |(stream, origin, sequence, payload)| Made::Event(stream, origin, sequence, payload)
            ),
            (any::<u32>(), any::<[u64; 4]>(), "[a-z_]{0,12}")
                .prop_map(|(stream, counts, reason)| Made::Gap(stream, counts, reason)),
            any::<(u64, u64)>().prop_map(|(events, gaps)| Made::End(events, gaps)),
            (6u8..).prop_map(Made::Newer),
        ]
    }

    fn is_key(key: &str) -> bool {
        Topic::parse(&format!("market_data.{key}")).is_ok()
    }

    /// A file of these records, and where each of them ends.
    fn file(records: &[Made]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Head { started_at: 7 }.to_bytes().to_vec();
        let mut ends = vec![bytes.len()];
        for (at, record) in (0..).zip(records) {
            record.append(at, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    /// What can be read: each record as text, and why there is no more.
    fn read(bytes: &[u8]) -> (Vec<String>, RecordingError) {
        let (mut rest, mut records) = match Head::parse(bytes) {
            Ok((head, len)) => (&bytes[len..], vec![format!("{head:?}")]),
            Err(error) => return (Vec::new(), error),
        };
        loop {
            match Record::split_first(rest) {
                Ok((record, behind)) => {
                    records.push(format!("{record:?}"));
                    rest = behind;
                }
                Err(error) => return (records, error),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_written_again_alike(records in proptest::collection::vec(made(), 0..12)) {
            let (bytes, _) = file(&records);
            let (mut rest, mut again) = (&bytes[HEAD_LEN..], bytes[..HEAD_LEN].to_vec());
            prop_assert_eq!(Head::parse(&bytes), Ok((Head { started_at: 7 }, HEAD_LEN)));
            let mut count = 0;
            while !rest.is_empty() {
                let (record, behind) = Record::split_first(rest).unwrap();
                prop_assert_eq!(record.at, count);
                record.append(&mut again);
                rest = behind;
                count += 1;
            }
            prop_assert_eq!(count as usize, records.len());
            prop_assert_eq!(again, bytes);
        }

        #[test]
        fn a_file_torn_at_any_byte_gives_its_whole_records_and_says_that_it_is_torn(
            records in proptest::collection::vec(made(), 1..6),
        ) {
            let (bytes, ends) = file(&records);
            let (all, _) = read(&bytes);
            for torn_at in 0..=bytes.len() {
                let (found, error) = read(&bytes[..torn_at]);
                let whole = ends.iter().filter(|end| **end <= torn_at).count();
                prop_assert_eq!(&found[..], &all[..whole]);
                let is_torn = matches!(error, RecordingError::Torn { needed, available } if needed > available);
                prop_assert!(is_torn, "at {}: {}", torn_at, error);
            }
        }

        #[test]
        fn a_flipped_bit_is_found_and_what_lies_before_it_is_kept(
            records in proptest::collection::vec(made(), 1..5),
        ) {
            let (bytes, ends) = file(&records);
            let (all, _) = read(&bytes);
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let (found, error) = read(&bad);
                let before = ends.iter().filter(|end| **end <= bit / 8).count();
                prop_assert_eq!(&found[..], &all[..before], "bit {}", bit);
                let is_end = matches!(error, RecordingError::Torn { needed: PREFIX_LEN, available: 0 });
                prop_assert!(!is_end, "bit {}", bit);
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
            let _ = Head::parse(&bytes);
            let _ = Record::split_first(&bytes);
            // With a sound checksum, so that they are looked at.
            let mut body = vec![kind];
            body.extend_from_slice(&bytes);
            let len = (body.len() as u32).to_le_bytes();
            let mut record = len.to_vec();
            record.extend_from_slice(&crc(&len, &body).to_le_bytes());
            record.extend_from_slice(&body);
            let _ = Record::split_first(&record);
        }
    }

    #[test]
    fn a_longer_head_of_a_newer_program_is_skipped_and_another_version_refused() {
        let mut bytes = Head { started_at: 9 }.to_bytes().to_vec();
        bytes.extend_from_slice(b"more");
        bytes[10] = bytes.len() as u8;
        let sum = crc(&bytes[..12], &bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Head::parse(&bytes), Ok((Head { started_at: 9 }, HEAD_LEN + 4)));
        bytes[8] = 2;
        assert_eq!(Head::parse(&bytes), Err(RecordingError::Version(2)));
        assert_eq!(Head::parse(b"ts_event_ns,symbol,price,size\n"), Err(RecordingError::NotARecording));
        assert!(is_recording(&MAGIC) && !is_recording(&MAGIC[..7]));
    }

    #[test]
    fn the_largest_event_fits() {
        let payload = vec![0; PAYLOAD_BYTES_MAX];
        let len = payload.len() as u32;
        let header = Header { type_id: 100, payload_len: len, raw_len: len, ..Header::default() };
        let entry =
            Entry::Event { stream: 1, origin: Recorded::Live, frame: Frame { header, payload: &payload } };
        let mut bytes = Vec::new();
        Record { at: 1, entry }.append(&mut bytes);
        assert!(Record::split_first(&bytes).is_ok());
    }
}
