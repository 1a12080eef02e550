//! What can be wrong with settings, said so that the next attempt works.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value comes from. Later variants win over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of the settings file.
    File {
        /// The file, as it was named.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name} line {line}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One thing that is wrong with the settings. The user who wrote them is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The settings file cannot be read at all.
    #[error("the settings file {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The settings file is no TOML. Its keys are not looked at then.
    #[error("{origin} is not valid TOML: {reason}")]
    Syntax {
        /// The line.
        origin: Origin,
        /// What the parser says.
        reason: String,
    },
    /// A key or section nobody knows.
    #[error("unknown key '{key}' ({origin}). {}", advice(suggestion.as_deref()))]
    UnknownKey {
        /// The key, as it was written.
        key: String,
        /// Where it was written.
        origin: Origin,
        /// What may have been meant, in the same spelling.
        suggestion: Option<String>,
    },
    /// A value that its key does not take, alone or beside another key's.
    #[error("{key} = {value} ({origin}) {problem}.")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The value, as it was written.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What is wrong, with the limit and the fix.
        problem: String,
    },
    /// Listening where other machines can reach a server that asks nobody who they are.
    #[error(
        "server.listen = \"{listen}\" ({origin}) can be reached from other machines, and there is no \
         authentication yet. Write server.listen = \"{}\" and let other machines in through an SSH \
         tunnel or a reverse proxy on this machine that authenticates them.",
        loopback(listen)
    )]
    RefusedBind {
        /// The address asked for.
        listen: SocketAddr,
        /// Where it was written.
        origin: Origin,
    },
}

impl ConfigError {
    /// Where the fault was written, unless it is a whole file's.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Unreadable { .. } => None,
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::InvalidValue { origin, .. }
            | Self::RefusedBind { origin, .. } => Some(origin),
        }
    }
}

/// Everything that is wrong with the settings, never empty. Displayed as one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Sorted by where they were written, so that a file's read from top to bottom.
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "a refusal has a reason");
        errors.sort_by(|a, b| a.origin().cmp(&b.origin()));
        Self(errors)
    }

    /// The errors, in the order of the files and lines that hold them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// The exit code of the program: 78 when the bind was refused and nothing else is wrong, else 2.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let refused_bind_only = self.0.iter().all(|error| matches!(error, ConfigError::RefusedBind { .. }));
        if refused_bind_only { 78 } else { 2 }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}error: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

fn advice(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(name) => format!("Did you mean '{name}'?"),
        None => "Run 'tickcast config init' to see every key.".to_owned(),
    }
}

/// The loopback address of the same family and port.
fn loopback(listen: &SocketAddr) -> SocketAddr {
    let ip = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
