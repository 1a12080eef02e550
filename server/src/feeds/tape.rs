//! What a replay plays: tables of recorded market data, merged by time, or recordings, one after the other.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use tickcast_protocol::Message;
use tickcast_protocol::recording::Recorded;

use super::csv::{Merged, OpenError, RowError};
use super::recording::{Ending, Past, PastError, PastEvent, PastGap, Recording, is_recorded};

/// Files that are played.
#[derive(Debug)]
pub enum Tape {
    /// Comma-separated tables.
    Tables(Merged<File>),
    /// Recordings.
    Recordings(Recordings),
}

/// Recordings, one after the other.
#[derive(Debug)]
pub struct Recordings {
    current: Recording<File>,
    next: VecDeque<PathBuf>,
    heard: Heard,
}

/// What is to be said of recordings when they are over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Last values from before a subscription, which are not played: they were not news when they were recorded.
    pub snapshots: u64,
    /// Gaps of which nobody knew how much was missing.
    pub unknown_gaps: u64,
    /// Files whose tail is torn, with what is missing of them.
    pub torn: Vec<String>,
}

/// One step of a replay.
#[derive(Clone, Debug)]
pub struct Step {
    /// When it happened, in ns since the Unix epoch; `None` for together with what came before it.
    pub time: Option<i64>,
    /// Where it stands.
    pub place: Place,
    /// What is published.
    pub what: Played,
}

/// Where a step stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line, from 1.
    Line(u64),
    /// The byte behind it.
    Byte(u64),
}

/// What is published.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub enum Played {
    /// A row of a table.
    Row(Message),
    /// An event, with its payload as it was received.
    Event(PastEvent),
    /// A gap, of at least one event.
    Gap(PastGap),
}

/// Files that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// A table that cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A row of a table.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A recording.
    #[error(transparent)]
    Past(#[from] PastError),
    /// A table among recordings, or the other way round.
    #[error("{0} is a recording and {1} is not; play them one after the other")]
    Mixed(String, String),
    /// There is nothing to play.
    #[error("no file is named")]
    Empty,
}

impl Tape {
    /// Opens the files: recordings are known by how they begin.
    ///
    /// # Errors
    /// The first file that cannot be read, or that is not of the kind of the others.
    pub fn open(files: &[PathBuf]) -> Result<Self, TapeError> {
        // A file that cannot be read is named by whoever opens it.
        let (recordings, tables): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| is_recorded(file).unwrap_or(false));
        match (recordings.first(), tables.first()) {
            (Some(recording), Some(table)) => {
                Err(TapeError::Mixed(recording.display().to_string(), table.display().to_string()))
            }
            (Some(_), None) => {
                let mut next: VecDeque<PathBuf> = files.iter().cloned().collect();
                let current = Recording::open(next.pop_front().ok_or(TapeError::Empty)?)?;
                Ok(Self::Recordings(Recordings { current, next, heard: Heard::default() }))
            }
            (None, Some(_)) => Ok(Self::Tables(Merged::open(files)?)),
            (None, None) => Err(TapeError::Empty),
        }
    }
}

impl Recordings {
    /// What is to be said of what was played so far.
    #[must_use]
    pub const fn heard(&self) -> &Heard {
        &self.heard
    }

    fn advance(&mut self) -> Result<Option<Step>, TapeError> {
        loop {
            let Some(past) = self.current.next() else {
                if let Some(Ending::Torn { at, left_out }) = self.current.ending() {
                    let name = self.current.name();
                    self.heard.torn.push(match left_out {
                        0 => format!("{name} was not ended: it was recorded up to byte {at}"),
                        _ => format!("{name} is torn at byte {at}: {left_out} bytes are left out"),
                    });
                }
                match self.next.pop_front() {
                    Some(file) => self.current = Recording::open(file)?,
                    None => return Ok(None),
                }
                continue;
            };
            let place = Place::Byte(self.current.position());
            match past? {
                Past::Event(event) if event.origin == Recorded::Snapshot => self.heard.snapshots += 1,
                Past::Event(event) => {
                    let (time, what) = (Some(event.time()), Played::Event(event));
                    return Ok(Some(Step { time, place, what }));
                }
                Past::Gap(gap) if gap.count == 0 => self.heard.unknown_gaps += 1,
                Past::Gap(gap) => return Ok(Some(Step { time: None, place, what: Played::Gap(gap) })),
            }
        }
    }
}

impl Iterator for Tape {
    type Item = Result<Step, TapeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Tables(rows) => {
                let step = |row: super::Row| Step {
                    time: Some(row.ts),
                    place: Place::Line(row.line),
                    what: Played::Row(row.message),
                };
                rows.next().map(|row| row.map(step).map_err(TapeError::from))
            }
            Self::Recordings(recordings) => recordings.advance().transpose(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Byte(byte) => write!(f, "before byte {byte}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;
    use tickcast_protocol::recording::{Entry, Head, Record};
    use tickcast_protocol::{BootId, Class, Epoch, Frame, Header, Topic, frame, registry};

    use super::*;
    use crate::feeds::{Pace, Speed};

    const SECOND: u64 = 1_000_000_000;
    const NOW: i64 = 1_800_000_000_000_000_000;

    /// A recording of events at these seconds, with a gap behind the first, and without an end.
    fn recorded(folder: &TempDir, name: &str, seconds: &[u64]) -> PathBuf {
        let mut bytes = Head { started_at: 1 }.to_bytes().to_vec();
        let mut append = |entry: Entry<'_>| Record { at: 99 * SECOND, entry }.append(&mut bytes);
        append(Entry::Run { boot_id: BootId(1), epoch: Epoch(1) });
        let topic = Topic::parse("market_data.A").unwrap();
        append(Entry::Stream { number: 3, class: Class::Latest, topic });
        let (payload, header) =
            frame::payload(&Message::sample(registry::by_name("market_data").unwrap(), true));
        for (at, second) in seconds.iter().enumerate() {
            let header = Header { publish_time: second * SECOND, sequence: at as u64 + 1, ..header };
            let frame = Frame { header, payload: &payload };
            append(Entry::Event { stream: 3, origin: Recorded::Live, frame });
            if at == 0 {
                append(Entry::Gap {
                    stream: 3,
                    from: 0,
                    through: 0,
                    gapped: 2,
                    conflated: 0,
                    reason: "lapped",
                });
            }
        }
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_recording_keeps_the_time_of_its_events_and_its_gaps_their_place() {
        let folder = TempDir::new().unwrap();
        let files =
            [recorded(&folder, "a.tcr", &[1_000, 1_010, 1_030]), recorded(&folder, "b.tcr", &[500, 504])];
        for (speed, due) in [
            (Speed::Times(1.0), [0, 10, 30, 30, 34]),
            (Speed::Times(10.0), [0, 1, 3, 3, 3]),
            (Speed::Max, [0, 0, 0, 0, 0]),
        ] {
            let mut tape = Tape::open(&files).unwrap();
            let (mut pace, mut found, mut gaps) = (Pace::new(speed), Vec::new(), Vec::new());
            for step in &mut tape {
                let step = step.unwrap();
                match step.time {
                    Some(time) => found.push((pace.due(time, NOW) - NOW) / SECOND as i64),
                    None => gaps.push(found.len()),
                }
            }
            assert_eq!(found, due, "{speed}");
            assert_eq!(gaps, [1, 4], "a gap comes with what was before it");
            let Tape::Recordings(recordings) = &tape else { panic!("recordings") };
            assert_eq!(recordings.heard().torn.len(), 2);
        }
    }

    #[test]
    fn files_of_two_kinds_and_files_that_are_not_there_are_named() {
        let folder = TempDir::new().unwrap();
        let (recording, table) = (recorded(&folder, "a.tcr", &[1]), folder.path().join("b.csv"));
        fs::write(&table, "ts_event_ns,symbol,price,size\n1,A,1,1\n").unwrap();
        for files in [[recording.clone(), table.clone()], [table.clone(), recording]] {
            let error = Tape::open(&files).unwrap_err().to_string();
            assert!(error.contains("a.tcr is a recording and") && error.contains("b.csv is not"), "{error}");
        }
        let error = Tape::open(&[table, "/no/such.tcr".into()]).unwrap_err().to_string();
        assert!(error.contains("/no/such.tcr"), "{error}");
        assert!(matches!(Tape::open(&[]), Err(TapeError::Empty)));
    }
}
