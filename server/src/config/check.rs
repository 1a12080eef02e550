//! From what was written to what holds: each key alone, then keys beside each other.

use std::collections::BTreeMap;
use std::time::Duration;

use tickcast_protocol::TopicFilter;

use super::error::{ConfigError, ConfigErrors, Origin};
use super::keys::{Config, KEYS, Key};
use super::kind::{Interval, Kind, Value};
use super::settings::{Raw, Settings};
use super::units::{display_duration, parse_duration, parse_size};

/// What a key is set to, and where.
#[derive(Debug, Clone)]
pub(super) struct Effective {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

impl Settings {
    /// Checks every key and fills in the defaults.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first. What depends on several keys is judged when these
    /// are right and no file was unreadable.
    pub fn check(self) -> Result<Config, ConfigErrors> {
        let mut errors = self.errors.clone();
        let mut effective = BTreeMap::new();
        for key in KEYS {
            match self.effective(key) {
                Ok(value) => {
                    effective.insert(key.name, value);
                }
                Err(error) => errors.push(error),
            }
        }
        if !self.incomplete {
            errors.extend(check_pairs(&effective));
        }
        errors.extend(check_bind(&effective));
        if errors.is_empty() { Ok(Config::assemble(effective)) } else { Err(ConfigErrors::new(errors)) }
    }

    fn effective(&self, key: &Key) -> Result<Effective, ConfigError> {
        let Some(written) = self.written.get(key.name) else {
            return Ok(Effective { value: key.default_value(), origin: Origin::Default });
        };
        match key.kind.check(&written.raw) {
            Ok(value) => Ok(Effective { value, origin: written.origin.clone() }),
            Err(problem) => Err(ConfigError::InvalidValue {
                key: key.name,
                value: written.raw.to_string(),
                origin: written.origin.clone(),
                problem,
            }),
        }
    }
}

impl Key {
    /// The default goes the same way as what a user writes.
    fn default_value(&self) -> Value {
        let document = format!("{} = {}", self.name, self.default);
        let settings = Settings::default().file("default", &document);
        let written = &settings.written[self.name];
        self.kind.check(&written.raw).expect("the default of a key is one of its values")
    }
}

impl Kind {
    /// The value, or what is wrong with it and what to write instead.
    fn check(&self, raw: &Raw) -> Result<Value, String> {
        let wrong = |problem: &str| Err(format!("{problem}: write {self}"));
        match (self, raw) {
            (Self::Address, Raw::Text(text)) => match text.parse() {
                Ok(address) => Ok(Value::Address(address)),
                Err(_) => wrong("is not an address and a port"),
            },
            (Self::Flag, Raw::Flag(flag)) => Ok(Value::Flag(*flag)),
            (Self::Count { min, max } | Self::PowerOfTwo { min, max }, Raw::Integer(integer)) => {
                match u64::try_from(*integer) {
                    Ok(number) if number > *max => wrong("is too large"),
                    Ok(number) if number >= *min => {
                        if matches!(self, Self::PowerOfTwo { .. }) && !number.is_power_of_two() {
                            return wrong("is not a power of two");
                        }
                        Ok(Value::Count(number))
                    }
                    _ => wrong("is too small"),
                }
            }
            (Self::Counts { items_max, .. }, Raw::List(items)) if items.len() > *items_max => {
                wrong("has too many numbers")
            }
            (Self::Counts { min, max, .. }, Raw::List(items)) => {
                let count = |item: &Raw| match item {
                    Raw::Integer(integer) => {
                        u64::try_from(*integer).ok().filter(|it| (*min..=*max).contains(it))
                    }
                    _ => None,
                };
                let bad = items.iter().find(|item| count(item).is_none());
                match bad {
                    Some(bad) => wrong(&format!("has {bad}")),
                    None => Ok(Value::Counts(items.iter().filter_map(count).collect())),
                }
            }
            (Self::Duration { min, max }, Raw::Text(_) | Raw::Integer(_)) => {
                let duration = parse_duration(&with_unit(raw)).map_err(|error| error.to_string())?;
                match duration {
                    _ if duration < *min => wrong("is too short"),
                    _ if duration > *max => wrong("is too long"),
                    _ => Ok(Value::Duration(duration)),
                }
            }
            (Self::Size { min, max }, Raw::Text(_) | Raw::Integer(_)) => {
                let bytes = parse_size(&with_unit(raw)).map_err(|error| error.to_string())?;
                match bytes {
                    _ if bytes < *min => wrong("is too small"),
                    _ if bytes > *max => wrong("is too large"),
                    _ => Ok(Value::Size(bytes)),
                }
            }
            (Self::Choice { names, later }, Raw::Text(text)) => {
                if let Some(name) = names.iter().find(|name| *name == text) {
                    return Ok(Value::Name(name));
                }
                match later {
                    Some((later, why)) if later.contains(&text.as_str()) => {
                        wrong(&format!("is not available in this version, {why}"))
                    }
                    _ => wrong("is not a name this key knows"),
                }
            }
            (Self::Origins, Raw::List(items)) => {
                items.iter().map(origin_of).collect::<Result<_, _>>().map(Value::Origins)
            }
            (Self::Path, Raw::Text(path)) if path.is_empty() || path.contains('\0') => wrong("is no path"),
            (Self::Path, Raw::Text(path)) => Ok(Value::Path(path.clone())),
            (Self::Intervals { min, max }, Raw::List(items)) => {
                let intervals = items.iter().map(|item| interval_of(item, *min, *max));
                intervals.collect::<Result<_, _>>().map(Value::Intervals)
            }
            _ => wrong("is not of the type this key takes"),
        }
    }
}

/// The text that is to be a number and its unit: a bare integer fails there, by name of the units.
fn with_unit(raw: &Raw) -> String {
    match raw {
        Raw::Text(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A web origin exactly as a browser sends it, so that comparing bytes is enough.
fn origin_of(item: &Raw) -> Result<String, String> {
    let is_origin = |text: &str| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        host.is_some_and(|host| {
            !host.is_empty()
                && host.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]_".contains(&byte)
                })
        })
    };
    match item {
        Raw::Text(text) if is_origin(text) => Ok(text.clone()),
        Raw::Text(text) if text.contains('*') => {
            Err(format!("has {item}, but there are no wildcards: name each origin"))
        }
        _ => Err(format!(
            "has {item}, which is no origin: write scheme, host and port in lower case without a path, \
             such as \"https://desk.example.com\""
        )),
    }
}

/// A topic filter and a duration within bounds.
fn interval_of(item: &Raw, min: Duration, max: Duration) -> Result<Interval, String> {
    let parts = match item {
        Raw::Text(text) => text.split_once('='),
        _ => None,
    };
    let Some((filter, every)) = parts else {
        return Err(format!(
            "has {item}, which is no pattern with a duration: write them as \"market_data.*=2s\""
        ));
    };
    let filter = TopicFilter::parse(filter.trim()).map_err(|error| format!("has {item}: {error}"))?;
    let every = parse_duration(every.trim()).map_err(|error| format!("has {item}: {error}"))?;
    if (min..=max).contains(&every) {
        return Ok(Interval { filter, every });
    }
    let (min, max) = (display_duration(min), display_duration(max));
    Err(format!("has {item}, whose duration is not from \"{min}\" to \"{max}\""))
}

/// Keys that must not contradict each other. A pair of which one is wrong by itself is left alone.
fn check_pairs(effective: &BTreeMap<&'static str, Effective>) -> Vec<ConfigError> {
    // The largest message must pass every place it goes through.
    let not_above = [
        ("limits.inbound_bytes", "limits.publisher_bytes"),
        ("limits.publisher_bytes", "limits.publish_request_bytes"),
        ("limits.publisher_bytes", "outbox.bytes"),
        ("limits.publisher_bytes", "history.bytes"),
    ];
    let sizes = not_above.iter().filter_map(|&(small, large)| {
        let (Value::Size(least), Value::Size(most)) =
            (&effective.get(small)?.value, &effective.get(large)?.value)
        else {
            return None;
        };
        (least > most).then(|| contradiction(effective, small, large, "must not be above"))
    });
    let heartbeat = || {
        let idle = duration_of(effective, "limits.idle_timeout")?;
        let interval = duration_of(effective, "heartbeat.interval")?;
        // One lost ping is not yet a lost peer.
        (idle < interval * 2).then(|| {
            contradiction(effective, "limits.idle_timeout", "heartbeat.interval", "must be at least twice")
        })
    };
    sizes.chain(heartbeat()).collect()
}

fn duration_of(effective: &BTreeMap<&'static str, Effective>, name: &str) -> Option<Duration> {
    match effective.get(name)?.value {
        Value::Duration(duration) => Some(duration),
        _ => None,
    }
}

fn contradiction(
    effective: &BTreeMap<&'static str, Effective>,
    key: &'static str,
    other: &'static str,
    relation: &str,
) -> ConfigError {
    let (this, that) = (&effective[key], &effective[other]);
    ConfigError::InvalidValue {
        key,
        value: this.value.to_string(),
        origin: this.origin.clone(),
        problem: format!("{relation} {other} = {} ({}): change one of them", that.value, that.origin),
    }
}

/// There is no authentication yet, so only this machine may reach the server.
fn check_bind(effective: &BTreeMap<&'static str, Effective>) -> Option<ConfigError> {
    let listen = effective.get("server.listen")?;
    match listen.value {
        Value::Address(address) if !address.ip().to_canonical().is_loopback() => {
            Some(ConfigError::RefusedBind { listen: address, origin: listen.origin.clone() })
        }
        _ => None,
    }
}
