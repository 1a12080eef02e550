//! What a replay plays: tables of recorded market data, merged by time, or recordings, one after the other.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::vec;

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
    next: vec::IntoIter<PathBuf>,
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
                let mut next = files.to_vec().into_iter();
                let current = Recording::open(next.next().ok_or(TapeError::Empty)?)?;
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
                match self.next.next() {
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
