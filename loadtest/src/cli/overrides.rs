//! Flags that change a profile, and what they leave behind in the results.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::Args;
use clap::ValueEnum as _;

use crate::format::Format;
use crate::plan::{PROFILES, Pace, Plan};
use crate::template::Kind;

/// Parameters of the load
#[derive(Args, Debug, Clone, Default)]
pub struct PlanFlags {
    /// What is measured; every other flag changes one of its parameters
    #[arg(short, long, default_value = "custom", value_parser = PROFILES, value_name = "PROFILE")]
    pub profile: String,
    /// Subscribers that read
    #[arg(long, value_name = "COUNT")]
    pub subs: Option<usize>,
    /// Messages a second in all, open loop, such as 500 or 20k
    #[arg(long, value_parser = number, value_name = "RATE")]
    pub rate: Option<f64>,
    /// Messages back to back, every --every
    #[arg(long, value_name = "COUNT", conflicts_with = "rate")]
    pub burst: Option<u64>,
    /// Time between two bursts
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub every: Option<Duration>,
    /// Closed loop: messages that the slowest subscriber may not have received yet
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["rate", "burst"])]
    pub in_flight: Option<u64>,
    /// Time that is measured, such as 5s or 1m
    #[arg(long = "for", value_parser = duration, value_name = "TIME")]
    pub measure: Option<Duration>,
    /// Time before that, not counted
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub warm_up: Option<Duration>,
    /// Bytes of a frame, header included
    #[arg(long, value_name = "BYTES")]
    pub size: Option<usize>,
    /// What is published
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: Option<Kind>,
    /// What subscribers speak: a format for all, or NAME=COUNT, repeated
    #[arg(long, value_parser = share, value_name = "FORMAT[=COUNT]")]
    pub format: Vec<(Format, Option<usize>)>,
    /// Topics published to, in turns
    #[arg(long, value_name = "COUNT")]
    pub topics: Option<usize>,
    /// Topics of each subscriber
    #[arg(long, value_name = "COUNT")]
    pub topics_each: Option<usize>,
    /// Connections that publish
    #[arg(long, value_name = "COUNT")]
    pub pubs: Option<usize>,
    /// Further subscribers that never read
    #[arg(long, value_name = "COUNT")]
    pub slow: Option<usize>,
    /// Handshakes at once in `connect`, connects a second in `churn`
    #[arg(long, value_name = "COUNT")]
    pub connects: Option<usize>,
    /// Keep the generator's core busy: it never sleeps while messages are due or in flight, so that a server on
    /// the same machine does not spend its time on waking it
    #[arg(long)]
    pub poll: bool,
    /// Beside the messages, publish an alert to every subscriber that reads, every so often
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub alert_every: Option<Duration>,
    /// Check the account of every subscriber that reads: each event came once and in order, or a notice told
    /// what became of it. Exit with 3 when one is off
    #[arg(long)]
    pub check: bool,
}

impl PlanFlags {
    /// The plan, and every parameter that is not the profile's own.
    ///
    /// # Errors
    /// The flag at fault.
    pub fn plan(&self) -> Result<(Plan, Vec<String>), String> {
        let mut plan = Plan::named(&self.profile).ok_or("there is no such profile")?;
        let mut changed = Vec::new();
        let mut note = |name: &str, value: String| changed.push(format!("{name}={value}"));
        if let Some(subs) = self.subs {
            note("subs", subs.to_string());
            let had = plan.readers().max(1);
            let mut left = subs;
            let last = plan.formats.len() - 1;
            for (at, (_, count)) in plan.formats.iter_mut().enumerate() {
                *count = if at == last { left } else { (subs * *count / had).min(left) };
                left -= *count;
            }
        }
        if !self.format.is_empty() {
            let readers = plan.readers();
            let counted: usize = self.format.iter().filter_map(|(_, count)| *count).sum();
            let free = self.format.iter().filter(|(_, count)| count.is_none()).count();
            let each = readers.saturating_sub(counted) / free.max(1);
            plan.formats =
                self.format.iter().map(|(format, count)| (*format, count.unwrap_or(each))).collect();
            let shown = plan.formats.iter().map(|(format, count)| format!("{}:{count}", format.info().name));
            note("format", shown.collect::<Vec<_>>().join(","));
        }
        if let Some(rate) = self.rate {
            note("rate", rate.to_string());
            plan.pace = Pace::Rate(rate);
        }
        if self.burst.is_some() || self.every.is_some() {
            let (messages, every) = match plan.pace {
                Pace::Bursts(messages, every) => (messages, every),
                _ => (100, Duration::from_millis(500)),
            };
            plan.pace = Pace::Bursts(self.burst.unwrap_or(messages), self.every.unwrap_or(every));
            note("burst", format!("{:?}", plan.pace));
        }
        if let Some(window) = self.in_flight {
            note("in-flight", window.to_string());
            plan.pace = Pace::Window(window);
        }
        let mut set = |name: &str, flag: Option<usize>, field: &mut usize| {
            if let Some(value) = flag {
                note(name, value.to_string());
                *field = value;
            }
        };
        set("size", self.size, &mut plan.frame_bytes);
        set("topics", self.topics, &mut plan.topics);
        set("topics-each", self.topics_each, &mut plan.per_subscriber);
        set("pubs", self.pubs, &mut plan.publishers);
        set("slow", self.slow, &mut plan.slow);
        set("connects", self.connects, &mut plan.connects);
        let mut set = |name: &str, flag: Option<Duration>, field: &mut Duration| {
            if let Some(value) = flag {
                note(name, format!("{value:?}"));
                *field = value;
            }
        };
        set("for", self.measure, &mut plan.measure);
        set("warm-up", self.warm_up, &mut plan.warm_up);
        if self.poll {
            note("poll", "true".to_owned());
            plan.poll = true;
        }
        if let Some(every) = self.alert_every {
            note("alert-every", format!("{every:?}"));
            plan.alert_every = Some(every);
        }
        if self.check {
            note("check", "true".to_owned());
            plan.accounts = true;
        }
        if let Some(kind) = self.kind {
            note("type", kind.name().to_owned());
            plan.kind = kind;
        }
        plan.check()?;
        Ok((plan, changed))
    }
}

/// A number, with k for thousands and M for millions.
fn number(text: &str) -> Result<f64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let value = digits.parse::<f64>().map_err(|_| "a number such as 500, 20k or 1.5M".to_owned())?;
    if value.is_finite() { Ok(value * factor) } else { Err("a finite number".to_owned()) }
}

/// A time with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err("a time with its unit, such as 500ms, 5s or 1m".to_owned()),
    };
    let value = digits.parse::<f64>().map_err(|_| "a time such as 500ms, 5s or 1m".to_owned())?;
    Duration::try_from_secs_f64(value * seconds).map_err(|error| error.to_string())
}

/// A format, and how many speak it.
fn share(text: &str) -> Result<(Format, Option<usize>), String> {
    let (name, count) = match text.split_once(['=', ':']) {
        Some((name, count)) => {
            (name, Some(count.parse().map_err(|_| "a count such as d1-snake=500".to_owned())?))
        }
        None => (text, None),
    };
    Format::from_str(name, true).map(|format| (format, count)).map_err(|_| {
        let names: Vec<&str> = Format::ALL.iter().map(|format| format.info().name).collect();
        format!("there is no format `{name}`; formats are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags_named(profile: &str) -> PlanFlags {
        PlanFlags { profile: profile.to_owned(), ..PlanFlags::default() }
    }

    #[test]
    fn a_profile_without_flags_is_the_profile() {
        for profile in PROFILES {
            assert_eq!(flags_named(profile).plan(), Ok((Plan::named(profile).unwrap(), vec![])));
        }
    }

    #[test]
    fn what_a_flag_changes_is_said() {
        let flags = PlanFlags {
            subs: Some(10),
            rate: Some(number("2k").unwrap()),
            measure: Some(duration("1.5s").unwrap()),
            size: Some(256),
            ..flags_named("mixed")
        };
        let (plan, changed) = flags.plan().unwrap();
        assert_eq!(plan.formats, [(Format::Binary, 5), (Format::D1Snake, 5)]);
        assert_eq!(plan.pace, Pace::Rate(2_000.0));
        assert_eq!((plan.frame_bytes, plan.measure), (256, Duration::from_millis(1_500)));
        assert_eq!(changed, ["subs=10", "rate=2000", "size=256", "for=1.5s"]);
    }

    #[test]
    fn formats_share_the_subscribers_that_are_left() {
        let flags = PlanFlags {
            format: vec![share("binary=700").unwrap(), share("d1-camel").unwrap()],
            ..flags_named("fan1k")
        };
        let (plan, _) = flags.plan().unwrap();
        assert_eq!(plan.formats, [(Format::Binary, 700), (Format::D1Camel, 300)]);
    }

    #[test]
    fn mistakes_are_answered_with_what_is_meant() {
        assert!(share("xml").unwrap_err().contains("d1-snake"));
        assert!(duration("5").is_err() && duration("-1s").is_err() && number("many").is_err());
        let flags = PlanFlags { topics: Some(7), topics_each: Some(2), ..flags_named("custom") };
        assert!(flags.plan().unwrap_err().contains("multiple"));
        for (flags, words) in [
            (PlanFlags { check: true, ..flags_named("mixed") }, "binary"),
            (PlanFlags { check: true, ..flags_named("idle") }, "publishes"),
            (PlanFlags { format: vec![share("d1-snake").unwrap()], ..flags_named("alerts") }, "binary"),
            (PlanFlags { alert_every: Some(Duration::ZERO), ..flags_named("custom") }, "100us"),
            (
                PlanFlags { alert_every: Some(Duration::from_millis(1)), ..flags_named("idle") },
                "beside messages",
            ),
        ] {
            let refused = flags.plan().unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
