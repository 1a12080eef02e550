//! What may be written for a key, and what a key holds once that was checked.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tickcast_protocol::TopicFilter;

use super::units::{display_duration, display_size};

/// What may be written for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IP address and a port.
    Address,
    /// True or false.
    Flag,
    /// A plain number.
    Count {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A list of plain numbers.
    Counts {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// The most numbers.
        items_max: usize,
    },
    /// A plain number that must be a power of two.
    PowerOfTwo {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A time with its unit.
    Duration {
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
    },
    /// A number of bytes with its unit.
    Size {
        /// The least, in bytes.
        min: u64,
        /// The most, in bytes.
        max: u64,
    },
    /// One of a closed set of names.
    Choice {
        /// The names there are.
        names: &'static [&'static str],
        /// Names that are reserved for a later version, with the reason they are refused today.
        later: Option<(&'static [&'static str], &'static str)>,
    },
    /// A list of web origins.
    Origins,
    /// A path on this machine.
    Path,
    /// A list of topic filters, each with a time.
    Intervals {
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
    },
}

/// The longest time between two events of the streams that a filter matches, while all is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// Which streams.
    pub filter: TopicFilter,
    /// How often at least.
    pub every: Duration,
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.filter.as_str(), display_duration(self.every))
    }
}

/// What one may write, as a phrase that follows "write".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => {
                f.write_str(r#"an IP address and a port, such as "127.0.0.1:8000" or "[::1]:8000""#)
            }
            Self::Flag => f.write_str("true or false"),
            Self::Count { min, max } => write!(f, "an integer from {min} to {max}"),
            Self::Counts { min, max, items_max } => {
                write!(f, "a list of at most {items_max} integers from {min} to {max}, such as [10, 25]")
            }
            Self::PowerOfTwo { min, max } => write!(f, "a power of two from {min} to {max}"),
            Self::Duration { min, max } => {
                let (min, max) = (display_duration(*min), display_duration(*max));
                write!(f, r#"a duration from "{min}" to "{max}""#)
            }
            Self::Size { min, max } => {
                let (min, max) = (display_size(*min), display_size(*max));
                write!(f, r#"a size from "{min}" to "{max}""#)
            }
            Self::Choice { names, .. } => {
                for (index, name) in names.iter().enumerate() {
                    let joint = match index {
                        0 => "",
                        _ if index + 1 == names.len() => " or ",
                        _ => ", ",
                    };
                    write!(f, r#"{joint}"{name}""#)?;
                }
                Ok(())
            }
            Self::Path => f.write_str(r#"a path, such as "/var/lib/tickcast""#),
            Self::Origins => f.write_str(r#"a list of origins, such as ["https://desk.example.com"]"#),
            Self::Intervals { min, max } => {
                let (min, max) = (display_duration(*min), display_duration(*max));
                write!(
                    f,
                    r#"a list of patterns with a duration from "{min}" to "{max}", such as ["market_data.*=2s"]"#
                )
            }
        }
    }
}

/// A value that was checked against its [`Kind`]. Displayed as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Address(SocketAddr),
    Flag(bool),
    Count(u64),
    Counts(Vec<u64>),
    Duration(Duration),
    Size(u64),
    Name(&'static str),
    Origins(Vec<String>),
    Path(String),
    Intervals(Vec<Interval>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "\"{address}\""),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Counts(counts) => write!(f, "{counts:?}"),
            Self::Duration(duration) => write!(f, "\"{}\"", display_duration(*duration)),
            Self::Size(bytes) => write!(f, "\"{}\"", display_size(*bytes)),
            Self::Name(name) => write!(f, "\"{name}\""),
            Self::Path(path) => write!(f, "{}", toml::Value::from(path.as_str())),
            // Checked origins are plain ASCII, so Rust's list of strings is TOML's.
            Self::Origins(origins) => write!(f, "{origins:?}"),
            // So are topic filters.
            Self::Intervals(intervals) => {
                let texts: Vec<String> = intervals.iter().map(Interval::to_string).collect();
                write!(f, "{texts:?}")
            }
        }
    }
}

/// A type a section's field may have. The table pairs each with a kind; a pair that does not fit is
/// our mistake, and the test that loads the defaults finds it.
pub(super) trait Field: Sized {
    fn take(value: &Value) -> Option<Self>;
}

macro_rules! fields {
    ($($Type:ty: $pattern:pat => $made:expr;)+) => {
        $(impl Field for $Type {
            fn take(value: &Value) -> Option<Self> {
                match value { $pattern => $made, _ => None }
            }
        })+
    };
}

fields! {
    SocketAddr: Value::Address(address) => Some(*address);
    bool: Value::Flag(flag) => Some(*flag);
    u64: Value::Count(number) => Some(*number);
    usize: Value::Count(number) | Value::Size(number) => usize::try_from(*number).ok();
    Duration: Value::Duration(duration) => Some(*duration);
    String: Value::Path(path) => Some(path.clone());
    Vec<u64>: Value::Counts(counts) => Some(counts.clone());
    Vec<String>: Value::Origins(origins) => Some(origins.clone());
    Vec<Interval>: Value::Intervals(intervals) => Some(intervals.clone());
}
