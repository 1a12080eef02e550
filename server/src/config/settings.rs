//! The settings as written: which key was set to what, where, in which words.
//!
//! Nothing is judged here except whether a key exists. Layers are added in the order of their
//! precedence, so a later one replaces what an earlier one wrote.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::keys::{KEYS, Key, SECTIONS};
use super::kind::Kind;

/// Variables of the program that are no keys. Those without `__` are never taken for keys anyway:
/// orchestrators set such names on their own, `TICKCAST_PORT` for a service called tickcast.
const RESERVED_ENV: &str = "TICKCAST_TOKEN";

/// Longer keys and values are cut in messages.
const SHOWN_CHARS_MAX: usize = 80;

/// A value as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<Raw>),
    /// What no key takes: a float, a date, a table, an integer beyond 64 bits.
    Other(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "\"{}\"", shown(text)),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::to_string).collect();
                f.write_str(&shown(&format!("[{}]", items.join(", "))))
            }
            Self::Other(what) => f.write_str(&shown(what)),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// The settings as written, before anything is checked. A key that is absent was not written.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub(super) written: BTreeMap<&'static str, Written>,
    pub(super) errors: Vec<ConfigError>,
    /// Set when a file could not be understood: then nobody knows what it would have said, and what
    /// depends on several keys is not judged.
    pub(super) incomplete: bool,
}

impl Settings {
    /// Adds a settings file. `name` is what messages call it.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        let name: Arc<str> = name.replace(char::is_control, "\u{fffd}").into();
        let line_starts: Vec<_> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let origin = |offset: usize| Origin::File {
            name: Arc::clone(&name),
            line: line_starts.partition_point(|start| *start <= offset) + 1,
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            self.add_document(root.get_ref(), &origin);
        }
        for error in errors {
            self.incomplete = true;
            self.errors.push(ConfigError::Syntax {
                origin: origin(error.span().map_or(0, |span| span.start)),
                reason: shown(error.message()),
            });
        }
        self
    }

    /// Notes that the settings file cannot be read.
    #[must_use]
    pub fn unreadable(mut self, path: PathBuf, error: &io::Error) -> Self {
        self.incomplete = true;
        self.errors.push(ConfigError::Unreadable { path, reason: error.to_string() });
        self
    }

    /// Adds environment variables; those that are no `TICKCAST_SECTION__KEY` are ignored.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let is_ours = name.strip_prefix("TICKCAST_").is_some_and(|rest| rest.contains("__"));
            if !is_ours || name.starts_with(RESERVED_ENV) {
                continue;
            }
            let origin = Origin::Env(shown(&name));
            match KEYS.iter().find(|key| key.env() == name) {
                Some(key) => self.set(key, plain(key.kind, &value.to_string_lossy()), origin),
                None => {
                    let suggestion = suggest(&name.replacen("TICKCAST_", "", 1).replace("__", "."));
                    self.errors.push(ConfigError::UnknownKey {
                        key: shown(&name),
                        origin,
                        suggestion: suggestion.map(Key::env),
                    });
                }
            }
        }
        self
    }

    /// Adds flags, as key and value; of a key given twice the last counts.
    #[must_use]
    pub fn flags(mut self, flags: impl IntoIterator<Item = (String, String)>) -> Self {
        for (name, value) in flags {
            match Key::find(&name) {
                Some(key) => self.set(key, plain(key.kind, &value), Origin::Flag),
                None => self.add_unknown(&name, Origin::Flag),
            }
        }
        self
    }

    fn add_document(&mut self, root: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) {
        for (section, value) in root {
            let section_origin = origin(section.span().start);
            let section = section.get_ref().as_ref();
            let is_known = SECTIONS.iter().any(|(known, _)| *known == section);
            match value.get_ref() {
                DeValue::Table(keys) if is_known || !keys.is_empty() => {
                    for (leaf, value) in keys {
                        let name = format!("{}.{}", quoted(section), quoted(leaf.get_ref()));
                        let origin = origin(leaf.span().start);
                        match Key::find(&name) {
                            Some(key) => self.set(key, raw(value), origin),
                            None => self.add_unknown(&name, origin),
                        }
                    }
                }
                _ if is_known => self.errors.push(ConfigError::UnknownKey {
                    key: section.to_owned(),
                    origin: section_origin,
                    suggestion: Some(format!("[{section}]")),
                }),
                _ => self.add_unknown(&quoted(section), section_origin),
            }
        }
    }

    fn set(&mut self, key: &Key, raw: Raw, origin: Origin) {
        self.written.insert(key.name, Written { raw, origin });
    }

    fn add_unknown(&mut self, name: &str, origin: Origin) {
        self.errors.push(ConfigError::UnknownKey {
            key: shown(name),
            origin,
            suggestion: suggest(name).map(|key| key.name.to_owned()),
        });
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str().replace('_', "");
            i64::from_str_radix(&digits, integer.radix())
                .map_or_else(|_| Raw::Other(integer.to_string()), Raw::Integer)
        }
        DeValue::Float(float) => Raw::Other(float.as_str().to_owned()),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Datetime(date) => Raw::Other(date.to_string()),
        DeValue::Array(items) => Raw::List(items.iter().map(raw).collect()),
        DeValue::Table(_) => Raw::Other("a table".to_owned()),
    }
}

/// A value that has no syntax of its own, as in the environment: its key says what it may be.
fn plain(kind: Kind, text: &str) -> Raw {
    let as_text = || Raw::Text(text.to_owned());
    match kind {
        Kind::Flag => text.parse().map_or_else(|_| as_text(), Raw::Flag),
        Kind::Count { .. } | Kind::PowerOfTwo { .. } => {
            text.replace('_', "").parse().map_or_else(|_| as_text(), Raw::Integer)
        }
        Kind::Counts { .. } => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let number = |item: &str| item.parse().map_or_else(|_| Raw::Text(item.to_owned()), Raw::Integer);
            Raw::List(items.map(number).collect())
        }
        Kind::Origins | Kind::Intervals { .. } => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Raw::List(items.map(|item| Raw::Text(item.to_owned())).collect())
        }
        Kind::Address | Kind::Duration { .. } | Kind::Size { .. } | Kind::Choice { .. } | Kind::Path => {
            as_text()
        }
    }
}

/// The key that was meant, if one is near: as a whole, or its last part in another section.
fn suggest(name: &str) -> Option<&'static Key> {
    if name.len() > SHOWN_CHARS_MAX {
        return None;
    }
    let name = name.to_lowercase();
    let leaf = name.rsplit('.').next().unwrap_or(&name);
    let distance = |key: &Key| {
        let whole = strsim::osa_distance(&name, key.name);
        let elsewhere = strsim::osa_distance(leaf, key.leaf()) + 1;
        // Of two that are as near, the one whose section is nearer too.
        (whole.min(elsewhere), whole)
    };
    let nearest = KEYS.iter().min_by_key(|key| distance(key))?;
    (distance(nearest).0 <= 1 + leaf.chars().count() / 4).then_some(nearest)
}

/// A part of a key as TOML would have it, so that a dot within quotes is seen to be one.
fn quoted(part: &str) -> String {
    let is_bare = !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_bare { part.to_owned() } else { format!("\"{part}\"") }
}

/// Text of the user's in a message: on one line, and not longer than a line.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars
        .by_ref()
        .take(SHOWN_CHARS_MAX)
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}
