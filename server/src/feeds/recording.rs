//! Recordings, record by record, in the order in which they were received. The format is described in
//! [`tickcast_protocol::recording`].
//!
//! A reader holds one record, of at most a mebibyte, and a read-ahead of 64 KiB. What lies before a torn tail
//! is played; that the tail is torn is said by [`Recording::ending`]. A broken file ends with an error.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use tickcast_protocol::recording::{Entry, Head, Record, Recorded, RecordingError, is_recording};
use tickcast_protocol::{Class, Epoch, Frame, Header, Topic, registry};

const READ_AHEAD_BYTES: usize = 64 * 1024;

/// What a recording brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    /// An event.
    Event(PastEvent),
    /// Events that the recording does not hold.
    Gap(PastGap),
}

/// An event as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// The stream's topic.
    pub topic: Topic,
    /// The stream's class.
    pub class: Class,
    /// News, last value, or late.
    pub origin: Recorded,
    /// The frame's header, decompressed: stream and sequence are those of the server that was recorded.
    pub header: Header,
    /// The frame's payload.
    pub payload: Vec<u8>,
}

impl PastEvent {
    /// The frame as a publisher sends it: numbers and time are given anew.
    #[must_use]
    pub fn frame(&self) -> Frame<'_> {
        let header = Header { stream: 0, sequence: 0, publish_time: 0, ..self.header };
        Frame { header, payload: &self.payload }
    }

    /// When the server accepted it, in ns since the Unix epoch.
    #[must_use]
    pub fn time(&self) -> i64 {
        i64::try_from(self.header.publish_time).unwrap_or(i64::MAX)
    }
}

/// Events of one stream that whoever recorded did not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastGap {
    /// The stream's topic.
    pub topic: Topic,
    /// The stream's class.
    pub class: Class,
    /// How many, lost and conflated; zero when nobody knew.
    pub count: u64,
    /// Why, by name.
    pub reason: String,
}

impl PastGap {
    /// False for a gap that a publisher cannot tell: it tells gaps by topic, in the class of the topic's type.
    #[must_use]
    pub fn can_be_told(&self) -> bool {
        registry::by_name(self.topic.type_name()).is_some_and(|info| info.class == self.class)
    }

    /// How many, in portions that a publisher may tell at once.
    pub fn portions(&self) -> impl Iterator<Item = u64> + use<> {
        let (most, count) = (u64::from(u32::MAX), self.count);
        (0..count.div_ceil(most)).map(move |portion| most.min(count - portion * most))
    }
}

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Whoever recorded ended it.
    Whole,
    /// Whoever recorded was cut short.
    Torn {
        /// Where, in bytes from the file's start: all before it was read.
        at: u64,
        /// Bytes behind it, of a record that is not whole.
        left_out: u64,
    },
}

/// A recording that cannot be read, or read on. Its file is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} byte {at}: {problem}")]
pub struct PastError {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Where, in bytes from the file's start.
    pub at: u64,
    /// What is wrong.
    pub problem: String,
}

/// Reads one recording.
#[derive(Debug)]
pub struct Recording<R> {
    name: Arc<str>,
    input: R,
    head: Head,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were read.
    used: usize,
    /// Where the buffer begins, in bytes from the file's start.
    offset: u64,
    streams: HashMap<u32, (Topic, Class)>,
    epoch: Option<Epoch>,
    events: u64,
    gaps: u64,
    ending: Option<Ending>,
    failed: bool,
}

impl Recording<File> {
    /// Opens a file and reads its head.
    ///
    /// # Errors
    /// When it cannot be read, or is no recording of this version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PastError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| PastError {
            file: name.as_str().into(),
            at: 0,
            problem: format!("cannot be read: {error}"),
        })?;
        Self::from_reader(&name, file)
    }
}

impl<R: Read> Recording<R> {
    /// Reads the head of `input`, which errors will call `name`.
    ///
    /// # Errors
    /// As for [`open`](Recording::open).
    pub fn from_reader(name: &str, input: R) -> Result<Self, PastError> {
        let mut recording = Self {
            name: name.into(),
            input,
            head: Head { started_at: 0 },
            buffer: Vec::new(),
            used: 0,
            offset: 0,
            streams: HashMap::new(),
            epoch: None,
            events: 0,
            gaps: 0,
            ending: None,
            failed: false,
        };
        loop {
            match Head::parse(&recording.buffer) {
                Ok((head, len)) => {
                    (recording.head, recording.used) = (head, len);
                    return Ok(recording);
                }
                Err(RecordingError::Torn { needed, available }) => {
                    // Bytes that came are looked at, also when there are too few.
                    if !recording.fill(needed)? && recording.buffer.len() == available {
                        let problem = "this is no recording: it ends within its head".to_owned();
                        return Err(recording.error(problem));
                    }
                }
                Err(error) => return Err(recording.error(error.to_string())),
            }
        }
    }

    /// Reads up to at least `needed` bytes behind what was used; false when there are not so many.
    fn fill(&mut self, needed: usize) -> Result<bool, PastError> {
        self.buffer.drain(..self.used);
        self.offset += self.used as u64;
        self.used = 0;
        while self.buffer.len() < needed {
            let wanted = READ_AHEAD_BYTES.max(needed - self.buffer.len()) as u64;
            match self.input.by_ref().take(wanted).read_to_end(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(format!("cannot be read on: {error}"))),
            }
        }
        Ok(true)
    }

    /// The next record that brings something back; `None` at the end.
    fn advance(&mut self) -> Result<Option<Past>, PastError> {
        loop {
            let unread = &self.buffer[self.used..];
            let (record, rest) = match Record::split_first(unread) {
                Ok(split) => split,
                Err(RecordingError::Torn { needed, .. }) => {
                    if self.fill(needed)? {
                        continue;
                    }
                    let left_out = self.buffer.len() as u64;
                    self.ending = Some(Ending::Torn { at: self.offset, left_out });
                    return Ok(None);
                }
                Err(error) => return Err(self.error(error.to_string())),
            };
            let len = unread.len() - rest.len();
            let past = match record.entry {
                Entry::Run { epoch, .. } => {
                    if self.epoch.replace(epoch) != Some(epoch) {
                        self.streams.clear();
                    }
                    None
                }
                Entry::Stream { number, class, topic } => {
                    self.streams.insert(number, (topic, class));
                    None
                }
                Entry::Event { stream, origin, frame } => {
                    let Some((topic, class)) = self.streams.get(&stream).cloned() else {
                        return Err(
                            self.error(format!("an event of stream {stream}, which was not announced"))
                        );
                    };
                    self.events += 1;
                    let Frame { header, payload } = frame;
                    Some(Past::Event(PastEvent { topic, class, origin, header, payload: payload.to_vec() }))
                }
                Entry::Gap { stream, gapped, conflated, reason, .. } => {
                    let Some((topic, class)) = self.streams.get(&stream).cloned() else {
                        return Err(self.error(format!("a gap of stream {stream}, which was not announced")));
                    };
                    self.gaps += 1;
                    let count = gapped.saturating_add(conflated);
                    Some(Past::Gap(PastGap { topic, class, count, reason: reason.to_owned() }))
                }
                Entry::End { events, gaps } => {
                    if (events, gaps) != (self.events, self.gaps) {
                        return Err(self.error(format!(
                            "{events} events and {gaps} gaps were recorded, {} and {} are here",
                            self.events, self.gaps
                        )));
                    }
                    self.used += len;
                    self.ending = Some(Ending::Whole);
                    return Ok(None);
                }
                Entry::Unknown(_) => None,
            };
            self.used += len;
            if past.is_some() {
                return Ok(past);
            }
        }
    }
}

impl<R> Recording<R> {
    /// The file, as it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the recording began, in ns since the Unix epoch.
    #[must_use]
    pub const fn started_at(&self) -> u64 {
        self.head.started_at
    }

    /// How it ended; `None` before its end, and when it is broken.
    #[must_use]
    pub const fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Where the next record begins, in bytes from the file's start.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.offset + self.used as u64
    }

    fn error(&self, problem: String) -> PastError {
        PastError { file: self.name.clone(), at: self.position(), problem }
    }
}

impl<R: Read> Iterator for Recording<R> {
    type Item = Result<Past, PastError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.ending.is_some() {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// True when the file begins as a recording.
///
/// # Errors
/// When it cannot be opened or read.
pub fn is_recorded(path: &Path) -> io::Result<bool> {
    let mut first = Vec::new();
    File::open(path)?.take(8).read_to_end(&mut first)?;
    Ok(is_recording(&first))
}

#[cfg(test)]
mod tests {
    use tickcast_protocol::{BootId, Message, frame};

    use super::*;

    fn topic() -> Topic {
        Topic::parse("market_data.A").unwrap()
    }

    fn event(stream: u32, sequence: u64) -> (Header, Vec<u8>) {
        let (payload, header) =
            frame::payload(&Message::sample(registry::by_name("market_data").unwrap(), true));
        (Header { stream, sequence, publish_time: 1_000 + sequence, ..header }, payload)
    }

    /// A run, a stream, two events, a gap between them, and the end with these counts.
    fn file(events: u64, gaps: u64) -> Vec<u8> {
        let mut bytes = Head { started_at: 5 }.to_bytes().to_vec();
        let mut append = |entry: Entry<'_>| Record { at: 6, entry }.append(&mut bytes);
        append(Entry::Run { boot_id: BootId(1), epoch: Epoch(2) });
        append(Entry::Stream { number: 0, class: Class::Latest, topic: topic() });
        let (header, payload) = event(7, 1);
        append(Entry::Event {
            stream: 0,
            origin: Recorded::Live,
            frame: Frame { header, payload: &payload },
        });
        append(Entry::Gap { stream: 0, from: 2, through: 6, gapped: 3, conflated: 2, reason: "lapped" });
        append(Entry::Unknown(200));
        let (header, payload) = event(7, 7);
        append(Entry::Event {
            stream: 0,
            origin: Recorded::Live,
            frame: Frame { header, payload: &payload },
        });
        append(Entry::End { events, gaps });
        bytes
    }

    /// Gives a byte at a time, as a slow pipe does.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0.len()).min(1);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_recording_brings_back_its_events_and_gaps_in_order() {
        let bytes = file(2, 1);
        let mut recording = Recording::from_reader("a.tcr", Dribble(&bytes)).unwrap();
        assert_eq!((recording.started_at(), recording.ending()), (5, None));
        let past: Vec<Past> = recording.by_ref().map(Result::unwrap).collect();
        let [Past::Event(first), Past::Gap(gap), Past::Event(last)] = &past[..] else { panic!("{past:?}") };
        assert_eq!((first.header.sequence, last.header.sequence, first.time()), (1, 7, 1_001));
        assert_eq!(first.payload, event(7, 1).1);
        let frame = first.frame();
        assert_eq!((frame.header.stream, frame.header.sequence, frame.header.publish_time), (0, 0, 0));
        assert_eq!((gap.count, gap.reason.as_str(), gap.class), (5, "lapped", Class::Latest));
        assert!(gap.can_be_told() && !PastGap { class: Class::Critical, ..gap.clone() }.can_be_told());
        assert_eq!(gap.portions().collect::<Vec<_>>(), [5]);
        let huge = PastGap { count: 1 << 33, ..gap.clone() };
        assert_eq!((huge.portions().count(), huge.portions().sum::<u64>()), (3, 1 << 33));
        assert_eq!((recording.ending(), recording.position()), (Some(Ending::Whole), bytes.len() as u64));
    }

    #[test]
    fn a_torn_tail_is_cut_and_told_at_every_byte() {
        let bytes = file(2, 1);
        let whole: Vec<Past> = Recording::from_reader("a", &bytes[..]).unwrap().map(Result::unwrap).collect();
        for torn_at in 0..bytes.len() {
            let torn = &bytes[..torn_at];
            let mut recording = match Recording::from_reader("a", torn) {
                Ok(recording) => recording,
                Err(error) => {
                    assert!(
                        torn_at < 24 && error.problem.contains("ends within its head"),
                        "{torn_at}: {error}"
                    );
                    continue;
                }
            };
            let past: Vec<Past> = recording.by_ref().map(Result::unwrap).collect();
            assert_eq!(past, whole[..past.len()]);
            let Some(Ending::Torn { at, left_out }) = recording.ending() else { panic!("{torn_at}") };
            assert_eq!(at + left_out, torn_at as u64);
        }
    }

    #[test]
    fn a_broken_file_ends_with_an_error_that_says_where() {
        let mut bytes = file(2, 1);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let mut recording = Recording::from_reader("a.tcr", &bytes[..]).unwrap();
        let results: Vec<_> = recording.by_ref().collect();
        let error = results.last().unwrap().as_ref().unwrap_err();
        assert!(
            error.to_string().starts_with("a.tcr byte ") && error.problem.contains("checksum"),
            "{error}"
        );
        assert_eq!((results.len(), recording.ending()), (4, None));
        // Whole records that are missing are noticed by their count.
        let error = Recording::from_reader("a", &file(3, 1)[..]).unwrap().last().unwrap().unwrap_err();
        assert!(error.problem.contains("3 events and 1 gaps were recorded, 2 and 1 are here"), "{error}");
        let error = Recording::from_reader("a.csv", &b"ts_event_ns,symbol\n"[..]).unwrap_err();
        assert!(error.problem.contains("no recording"), "{error}");
    }
}
