//! The parameters of a run in words, and facts of the machine as name and value.
#![forbid(unsafe_code)]

use super::quantity::{Quantity, clean, digits};
use crate::results::{Pacing, ProfileFacts, Run};

/// The command as it could be typed again: arguments with other than plain characters are quoted.
pub(super) fn command(run: &Run) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    let quoted = run.command.iter().map(|argument| {
        let argument = clean(argument);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Who takes part, and what is sent.
pub(super) fn parameters(profile: &ProfileFacts) -> Vec<String> {
    let formats =
        profile.formats.iter().map(|share| format!("{} {}", count(share.subscribers), clean(&share.format)));
    let formats = formats.collect::<Vec<_>>().join(", ");
    let mut who = vec![if formats.is_empty() {
        things(profile.subscribers, "subscriber")
    } else {
        format!("{} ({formats})", things(profile.subscribers, "subscriber"))
    }];
    if profile.slow_readers > 0 {
        who.push(things(profile.slow_readers, "slow reader"));
    }
    who.push(things(profile.publishers, "publisher"));
    who.push(format!("{}, {} each", things(profile.topics, "topic"), count(profile.topics_per_subscriber)));

    let mut what = Vec::new();
    if profile.pacing != Pacing::None {
        what.push(format!("{} of {} B", clean(&profile.message_type), count(profile.frame_bytes)));
    }
    if let Some(class) = &profile.class {
        what.push(format!("class {}", clean(class)));
    }
    what.push(pacing(&profile.pacing));
    if let Some(every) = profile.alert_every_ns {
        what.push(format!("an alert every {}", Quantity::Time.write(every as f64)));
    }
    if profile.accounts {
        what.push("accounts checked".into());
    }
    let measured = Quantity::Time.write(profile.measure_ns as f64);
    what.push(if profile.warm_up_ns == 0 {
        format!("{measured} measured, no warm-up")
    } else {
        format!("{measured} measured after {} of warm-up", Quantity::Time.write(profile.warm_up_ns as f64))
    });
    vec![who.join(", "), what.join(", ")]
}

/// Facts of machine and versions, as name and value.
pub(super) fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let machine = &run.machine;
    let core =
        |core: Option<u64>| core.map_or_else(|| "not pinned".to_owned(), |core| format!("core {core}"));
    let unknown = || "unknown".to_owned();
    let mut facts = vec![
        ("processor", clean(&machine.cpu_model)),
        ("cores online", count(machine.cores)),
        ("memory", Quantity::Bytes.write(machine.memory_bytes as f64)),
        ("kernel", clean(&machine.kernel)),
        ("governor", machine.governor.as_deref().map_or_else(unknown, clean)),
        ("load average at start", machine.load_average.map_or_else(unknown, |load| format!("{load:.2}"))),
        ("descriptor limit", count(machine.descriptors_max)),
        ("generator on", core(machine.generator_core)),
        ("server on", core(machine.server_core)),
        ("loadtest", clean(&run.versions.loadtest)),
        ("commit", run.versions.commit.as_deref().map_or_else(unknown, clean)),
        ("server", run.versions.server.as_deref().map_or_else(unknown, clean)),
        ("started", clean(&run.started_at)),
    ];
    if !machine.host.is_empty() {
        facts.insert(0, ("host", clean(&machine.host)));
    }
    facts
}

/// How messages are paced.
pub(super) fn pacing(pacing: &Pacing) -> String {
    match pacing {
        Pacing::None => "nothing published".into(),
        Pacing::Rate { per_second } => format!("{} messages a second (open loop)", digits(*per_second)),
        Pacing::Bursts { messages, every_ns } => format!(
            "bursts of {} every {} (open loop)",
            things(*messages, "message"),
            Quantity::Time.write(*every_ns as f64)
        ),
        Pacing::Window { in_flight } => format!("{} in flight (closed loop)", things(*in_flight, "message")),
        Pacing::Connects { in_flight } => {
            format!("{} in flight (closed loop)", things(*in_flight, "handshake"))
        }
    }
}

/// A count with its noun.
pub(super) fn things(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

pub(super) fn count(number: u64) -> String {
    Quantity::Count.write(number as f64)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_command_can_be_typed_again() {
        let mut run = sample::run();
        run.command = ["loadtest", "--name", "it's", "--fail-if", "p99>2ms", ""].map(String::from).to_vec();
        assert_eq!(command(&run), r"loadtest --name 'it'\''s' --fail-if 'p99>2ms' ''");
    }

    #[test]
    fn every_parameter_is_repeated() {
        let lines = parameters(&sample::run().profile).join("\n");
        for part in [
            "1,000 subscribers (500 binary, 500 d1-snake)",
            "10 slow readers",
            "1 publisher",
            "64 topics, 64 each",
            "public_trade of 128 B",
            "2,000 messages a second (open loop)",
            "30.0 s measured after 3.00 s",
        ] {
            assert!(lines.contains(part), "{part} is missing in {lines}");
        }
    }
}
