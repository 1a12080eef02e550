//! Settings: what was written, and what holds.
//!
//! Two stages. [`Settings`] is what was written: TOML, environment and flags, each value in its own
//! words and with its [`Origin`]. [`Config`] is what the program runs on: checked, typed, and costed
//! by [`Config::budget`]. Whoever holds a `Config` need not check anything again.
//!
//! ```text
//! default < file < environment < flag ──> Settings ──check──> Config ──> Budget
//!                                            │                  │
//!                         unknown keys ──────┴── ConfigErrors ──┴── wrong values, refused bind
//! ```
//!
//! All errors are reported together. Only [`Config::load`] touches the outside, to read the file; the
//! environment is handed in.

#![forbid(unsafe_code)]

mod budget;
mod check;
mod error;
mod keys;
mod kind;
mod settings;
mod text;
mod units;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use budget::{Budget, BudgetLine, DESCRIPTOR_RESERVE, Host, SHARD_SCRATCH_BYTES};
pub use error::{ConfigError, ConfigErrors, Origin};
pub use keys::{
    Alerts, Books, Config, Demo, Health, Heartbeat, History, Json, JsonCase, KEYS, Key, Limits, Log,
    LogFormat, LogLevel, Metrics, MinDurability, Outbox, Publish, Ring, Sends, Server, Streams, WsDialect,
};
pub use kind::{Interval, Kind};
pub use settings::Settings;
pub use text::template;
pub use units::{UnitError, display_duration, display_size, parse_duration, parse_size};

/// A settings file that is larger was not meant as one.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything settings come from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources<Env> {
    /// The settings file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment, such as [`std::env::vars_os`].
    pub env: Env,
    /// Flags, as key and value such as `("server.listen", "127.0.0.1:9000")`.
    pub flags: Vec<(String, String)>,
}

impl Config {
    /// Reads the file and checks everything.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first.
    pub fn load<Env>(sources: Sources<Env>) -> Result<Self, ConfigErrors>
    where
        Env: IntoIterator<Item = (OsString, OsString)>,
    {
        let mut settings = Settings::default();
        if let Some(path) = sources.file {
            settings = match read(&path) {
                Ok(text) => settings.file(&path.display().to_string(), &text),
                Err(error) => settings.unreadable(path, &error),
            };
        }
        settings.env(sources.env).flags(sources.flags).check()
    }

    /// Where the value of a key such as `server.listen` comes from; `None` for a key nobody knows.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.effective.get(key).map(|effective| &effective.origin)
    }
}

/// The built-in defaults.
impl Default for Config {
    fn default() -> Self {
        Settings::default().check().expect("the defaults do not contradict each other")
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
