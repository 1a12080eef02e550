//! What a run does: the table of profiles, and the moments at which messages are due.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::format::Format;
use crate::results::{FormatShare, Pacing, ProfileFacts};
use crate::template::Kind;

/// Shape of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Connect, subscribe, publish, measure deliveries.
    FanOut,
    /// Connect, subscribe, and do nothing.
    Idle,
    /// Open connections and drop them after the handshake.
    Connect,
    /// Fan out while other subscribers come and go.
    Churn,
}

/// When messages are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many a second, evenly, whatever the server does.
    Rate(f64),
    /// So many back to back, every so often.
    Bursts(u64, Duration),
    /// As many as keep this many in flight, counted by the slowest subscriber.
    Window(u64),
    /// None.
    Still,
}

/// A run, every parameter resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Name of the profile.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// Its shape.
    pub shape: Shape,
    /// When messages are due.
    pub pace: Pace,
    /// Subscribers that read, by format.
    pub formats: Vec<(Format, usize)>,
    /// Subscribers that never read.
    pub slow: usize,
    /// Publishing connections.
    pub publishers: usize,
    /// Topics published to, one after the other.
    pub topics: usize,
    /// Topics of each subscriber.
    pub per_subscriber: usize,
    /// Bytes of a frame, header included.
    pub frame_bytes: usize,
    /// What is published.
    pub kind: Kind,
    /// Time measured.
    pub measure: Duration,
    /// Time before that.
    pub warm_up: Duration,
    /// Handshakes in flight in `connect`; connects a second in `churn`.
    pub connects: usize,
    /// The generator never sleeps while messages are due or in flight, so that a server on the same machine
    /// does not spend its time on waking it.
    pub poll: bool,
    /// Distance of two alerts to every subscriber that reads, published beside the messages, open loop.
    pub alert_every: Option<Duration>,
    /// The account of every subscriber that reads is checked.
    pub accounts: bool,
}

const DEFAULT: Plan = Plan {
    name: "custom",
    about: "an open loop with the parameters given",
    shape: Shape::FanOut,
    pace: Pace::Rate(100.0),
    formats: Vec::new(),
    slow: 0,
    publishers: 1,
    topics: 1,
    per_subscriber: 1,
    frame_bytes: 128,
    kind: Kind::PublicTrade,
    measure: Duration::from_secs(5),
    warm_up: Duration::from_secs(1),
    connects: 64,
    poll: false,
    alert_every: None,
    accounts: false,
};

/// Names of all profiles, in the order of the help.
pub const PROFILES: [&str; 15] = [
    "custom",
    "lone1k",
    "fan1k",
    "fan10k",
    "sat1k",
    "alerts",
    "burst",
    "sparse",
    "sparse10k",
    "slow",
    "mixed",
    "idle",
    "connect",
    "churn",
    "low",
];

impl Plan {
    /// The profile called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = *PROFILES.iter().find(|known| **known == name)?;
        let binary = |count| vec![(Format::Binary, count)];
        let plan = Self { name, ..DEFAULT };
        Some(match name {
            "custom" => Self { formats: binary(100), ..plan },
            "lone1k" => Self {
                about: "1,000 subscribers of one topic; the next message when the last has arrived everywhere",
                pace: Pace::Window(1),
                formats: binary(1_000),
                ..plan
            },
            "fan1k" => Self {
                about: "1,000 subscribers of one topic, 100 messages a second",
                formats: binary(1_000),
                ..plan
            },
            "fan10k" => Self {
                about: "10,000 subscribers of one topic, 10 messages a second",
                pace: Pace::Rate(10.0),
                formats: binary(10_000),
                ..plan
            },
            "sat1k" => Self {
                about: "1,000 subscribers of one topic, 64 messages in flight, counted by the slowest subscriber",
                pace: Pace::Window(64),
                formats: binary(1_000),
                ..plan
            },
            "alerts" => Self {
                about: "the load of sat1k, and beside it an alert to each of the 1,000 every 10 ms",
                pace: Pace::Window(64),
                formats: binary(1_000),
                alert_every: Some(Duration::from_millis(10)),
                ..plan
            },
            "burst" => Self {
                about: "1,000 subscribers of one topic, 100 messages back to back every 500 ms",
                pace: Pace::Bursts(100, Duration::from_millis(500)),
                formats: binary(1_000),
                ..plan
            },
            "sparse" => Self {
                about: "1,000 clients with 10 of 1,000 topics each, 20,000 messages a second in all",
                pace: Pace::Rate(20_000.0),
                formats: binary(1_000),
                topics: 1_000,
                per_subscriber: 10,
                ..plan
            },
            "sparse10k" => Self {
                about: "10,000 clients with 10 of 10,000 topics each, 20,000 messages a second in all",
                pace: Pace::Rate(20_000.0),
                formats: binary(10_000),
                topics: 10_000,
                per_subscriber: 10,
                ..plan
            },
            "slow" => Self {
                about: "1,000 subscribers of which 100 never read, 1 KiB at 500 messages a second",
                pace: Pace::Rate(500.0),
                formats: binary(900),
                slow: 100,
                frame_bytes: 1_024,
                kind: Kind::AnalyticsUpdate,
                ..plan
            },
            "mixed" => Self {
                about: "500 binary and 500 JSON subscribers of one topic, 100 messages a second",
                formats: vec![(Format::Binary, 500), (Format::D1Snake, 500)],
                ..plan
            },
            "idle" => Self {
                about: "10,000 connections with one quiet topic each: memory and CPU of a connection",
                shape: Shape::Idle,
                pace: Pace::Still,
                formats: binary(10_000),
                publishers: 0,
                ..plan
            },
            "connect" => Self {
                about: "connections opened and dropped after the handshake, 64 at once, from 32 addresses",
                shape: Shape::Connect,
                pace: Pace::Still,
                formats: binary(0),
                publishers: 0,
                ..plan
            },
            "churn" => Self {
                about: "1,000 subscribers at 100 messages a second while 500 others a second come, subscribe and go",
                shape: Shape::Churn,
                formats: binary(1_000),
                connects: 500,
                ..plan
            },
            _ => Self {
                about: "100 subscribers of one topic, 1,000 messages a second: the promise of a millisecond",
                pace: Pace::Rate(1_000.0),
                formats: binary(100),
                ..plan
            },
        })
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// The parameter at fault and what it may be.
    pub fn check(&self) -> Result<(), String> {
        if self.topics == 0 || self.topics > 10_000 {
            return Err("--topics must be 1 to 10,000".to_owned());
        }
        if self.per_subscriber == 0 || !self.topics.is_multiple_of(self.per_subscriber) {
            return Err(format!(
                "--topics {} must be a multiple of --topics-each {}",
                self.topics, self.per_subscriber
            ));
        }
        if self.shape != Shape::Connect && self.readers() == 0 {
            return Err("--subs must be at least 1".to_owned());
        }
        if self.readers() + self.slow > 60_000 {
            return Err("--subs and --slow together may be 60,000".to_owned());
        }
        if self.formats.iter().any(|(format, _)| format.is_json()) {
            if self.accounts {
                return Err("--check reads sequences from frames: every --format must be binary".to_owned());
            }
            if self.alert_every.is_some() {
                return Err("alerts are told apart by their frames: every --format must be binary".to_owned());
            }
        }
        if self.accounts && self.pace == Pace::Still {
            return Err("--check needs a profile that publishes".to_owned());
        }
        if let Some(every) = self.alert_every {
            if self.pace == Pace::Still {
                return Err("alerts are published beside messages: choose a profile that has some".to_owned());
            }
            if every < Duration::from_micros(100) || every > Duration::from_secs(60) {
                return Err("--alert-every must be 100us to 60s".to_owned());
            }
        }
        match self.pace {
            Pace::Rate(rate) if !(0.001..=10_000_000.0).contains(&rate) => {
                Err("--rate must be 0.001 to 10,000,000 a second".to_owned())
            }
            Pace::Window(0) => Err("--in-flight must be at least 1".to_owned()),
            Pace::Window(window) if window > 65_536 => Err("--in-flight must be at most 65,536".to_owned()),
            Pace::Bursts(messages, every) if messages == 0 || messages > 65_536 || every.is_zero() => {
                Err("--burst must be 1 to 65,536 messages, with a time between bursts".to_owned())
            }
            _ if self.pace != Pace::Still && self.publishers == 0 => {
                Err("--pubs must be at least 1".to_owned())
            }
            _ if self.measure < Duration::from_millis(100) || self.measure > Duration::from_secs(3_600) => {
                Err("--for must be 100ms to 1h".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Subscribers that read.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.formats.iter().map(|(_, count)| count).sum()
    }

    /// Connections that a server must be able to hold.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.readers() + self.slow + self.publishers + usize::from(self.alert_every.is_some()) + self.connects
    }

    /// Name of a topic's key. All have the same length.
    #[must_use]
    pub fn symbol(topic: usize) -> String {
        format!("LOAD{topic:04}")
    }

    /// The topics of subscriber `number`, spread so that every topic has as many subscribers as any other.
    pub fn topics_of(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        let (topics, step) = (self.topics, self.topics / self.per_subscriber);
        let first = number % topics;
        (0..self.per_subscriber).map(move |nth| (first + nth * step) % topics)
    }

    /// Which of its topics `topic` is to subscriber `number`.
    #[inline]
    #[must_use]
    pub const fn slot_of(&self, number: usize, topic: usize) -> usize {
        if self.per_subscriber == 1 {
            return 0;
        }
        (topic + self.topics - number % self.topics) % self.topics / (self.topics / self.per_subscriber)
    }

    /// When message `nth` (from 0) is due after the start, if the plan knows.
    #[must_use]
    pub fn due(&self, nth: u64) -> Option<u64> {
        match self.pace {
            Pace::Rate(rate) => Some((nth as f64 * 1e9 / rate) as u64),
            Pace::Bursts(messages, every) => Some(nth / messages * every.as_nanos() as u64),
            Pace::Window(_) | Pace::Still => None,
        }
    }

    /// Messages a second asked for; none in a closed loop.
    #[must_use]
    pub fn offered(&self) -> Option<f64> {
        match self.pace {
            Pace::Rate(rate) => Some(rate),
            Pace::Bursts(messages, every) => Some(messages as f64 / every.as_secs_f64()),
            Pace::Window(_) | Pace::Still => None,
        }
    }

    /// Messages that the ledger has to remember: ten seconds of them, within reason.
    #[must_use]
    pub fn remembered(&self) -> usize {
        let wanted = match self.pace {
            Pace::Window(window) => window as f64 * 4.0,
            _ => self.offered().unwrap_or(0.0) * 10.0,
        };
        (wanted as usize).clamp(1_024, 1 << 20)
    }

    /// As results have it.
    #[must_use]
    pub fn facts(&self, overrides: Vec<String>) -> ProfileFacts {
        ProfileFacts {
            name: self.name.to_owned(),
            about: self.about.to_owned(),
            pacing: match (self.shape, self.pace) {
                (Shape::Connect, _) => Pacing::Connects { in_flight: self.connects as u64 },
                (_, Pace::Rate(per_second)) => Pacing::Rate { per_second },
                (_, Pace::Bursts(messages, every)) => {
                    Pacing::Bursts { messages, every_ns: every.as_nanos() as u64 }
                }
                (_, Pace::Window(in_flight)) => Pacing::Window { in_flight },
                (_, Pace::Still) => Pacing::None,
            },
            subscribers: self.readers() as u64,
            slow_readers: self.slow as u64,
            publishers: self.publishers as u64,
            topics: self.topics as u64,
            topics_per_subscriber: self.per_subscriber as u64,
            frame_bytes: self.frame_bytes as u64,
            message_type: self.kind.name().to_owned(),
            formats: self
                .formats
                .iter()
                .map(|(format, count)| FormatShare {
                    format: format.info().name.to_owned(),
                    subscribers: *count as u64,
                })
                .collect(),
            measure_ns: self.measure.as_nanos() as u64,
            warm_up_ns: self.warm_up.as_nanos() as u64,
            class: None,
            alert_every_ns: self.alert_every.map(|every| every.as_nanos() as u64),
            accounts: self.accounts,
            overrides,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_in_the_table_and_makes_sense() {
        for name in PROFILES {
            let plan = Plan::named(name).unwrap();
            assert_eq!(plan.name, name);
            assert_eq!(plan.check(), Ok(()), "{name}");
            assert!(plan.measure + plan.warm_up <= Duration::from_secs(10), "{name} is short by default");
            assert!(plan.connections() < 20_000, "{name} fits the descriptors of a process");
        }
        assert_eq!(Plan::named("nonsense"), None);
    }

    #[test]
    fn the_profiles_of_the_table_are_what_it_says() {
        let of = |name| Plan::named(name).unwrap();
        assert_eq!((of("sat1k").readers(), of("sat1k").pace), (1_000, Pace::Window(64)));
        assert_eq!(of("lone1k").pace, Pace::Window(1));
        assert_eq!(of("burst").pace, Pace::Bursts(100, Duration::from_millis(500)));
        assert_eq!((of("sparse").topics, of("sparse").per_subscriber), (1_000, 10));
        assert_eq!((of("slow").readers(), of("slow").slow, of("slow").frame_bytes), (900, 100, 1_024));
        assert_eq!((of("low").readers(), of("low").offered()), (100, Some(1_000.0)));
        assert_eq!(of("idle").readers(), 10_000);
        let alerts = Plan { name: "sat1k", about: of("sat1k").about, alert_every: None, ..of("alerts") };
        assert_eq!(alerts, of("sat1k"), "alerts come beside the load of sat1k");
        assert_eq!(of("alerts").alert_every, Some(Duration::from_millis(10)));
    }

    #[test]
    fn every_topic_has_as_many_subscribers_and_slots_are_their_order() {
        let plan = Plan { topics: 50, per_subscriber: 10, ..Plan::named("sparse").unwrap() };
        let mut subscribers = vec![0; plan.topics];
        for number in 0..100 {
            for (slot, topic) in plan.topics_of(number).enumerate() {
                subscribers[topic] += 1;
                assert_eq!(plan.slot_of(number, topic), slot);
            }
        }
        assert_eq!(subscribers, [20; 50]);
    }

    #[test]
    fn messages_are_due_as_the_pace_says() {
        let rate = Plan { pace: Pace::Rate(1_000.0), ..Plan::named("custom").unwrap() };
        assert_eq!((rate.due(0), rate.due(5)), (Some(0), Some(5_000_000)));
        let burst = Plan::named("burst").unwrap();
        assert_eq!((burst.due(99), burst.due(100)), (Some(0), Some(500_000_000)));
        assert_eq!(Plan::named("sat1k").unwrap().due(0), None);
    }
}
