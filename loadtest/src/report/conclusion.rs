//! What a run shows, in plain sentences.
//!
//! Invariants: a sentence claims only what a figure of the run shows; what makes the figures doubtful
//! (generator, load, too few repetitions) is said before anything that is good.
#![forbid(unsafe_code)]

use super::compare::pairings;
use super::figure::{Figure, Measured};
use super::plan::{count, things};
use super::plots::STAMP;
use super::quantity::{clean, digits};
use crate::results::Run;

/// The conclusion, a sentence or two an element.
pub(super) fn sentences(run: &Run) -> Vec<String> {
    let mut said = doubts(run);
    let all = Measured::all(run);
    if all.is_empty() {
        said.push("Nothing was measured.".into());
    }
    for measured in &all {
        said.extend(carried(measured));
        said.extend(times(measured));
        said.extend(alerts(measured));
        said.extend(accounts(measured));
        said.extend(costs(measured));
    }
    if !all.is_empty() && all.iter().all(|measured| measured.limited().is_none()) {
        said.push("The generator was not the limit.".into());
    }
    for pairing in pairings(run) {
        let ratios: Vec<String> = ["deliveries_per_s", "cpu_per_delivery", "p50", "p99", "last_p50"]
            .iter()
            .filter_map(|name| {
                let row = pairing.rows.iter().find(|row| row.figure.name == *name)?;
                Some(format!("{} {}", row.figure.title, digits(row.ratio?.median)))
            })
            .collect();
        if !ratios.is_empty() {
            said.push(format!(
                "Divided by {} in the same run, {} has (medians of paired ratios): {}.",
                clean(pairing.baseline),
                clean(pairing.target),
                ratios.join(", ")
            ));
        }
    }
    said
}

/// What makes the figures less than certain.
fn doubts(run: &Run) -> Vec<String> {
    let mut said = Vec::new();
    for measured in Measured::all(run) {
        if let Some((limited, reason)) = measured.limited() {
            said.push(format!(
                "{STAMP} in {limited} of {} of {}: these figures speak of the generator, not of the server ({}).",
                things(measured.repetitions.len() as u64, "repetition"),
                clean(measured.target),
                clean(reason)
            ));
        }
    }
    if let Some(load) = run.machine.load_average.filter(|load| *load > 0.5 * run.machine.cores as f64) {
        said.push(format!(
            "The load average was {load:.1} on {} when the run began: other work shared the machine, and its noise is in the figures.",
            things(run.machine.cores, "core")
        ));
    }
    said
}

fn carried(measured: &Measured<'_>) -> Option<String> {
    let target = clean(measured.target);
    let sum = |of: fn(&crate::results::Repetition) -> u64| -> u64 {
        measured.repetitions.iter().map(|r| of(r)).fold(0, u64::saturating_add)
    };
    let (expected, delivered, lost) = (sum(|r| r.expected), sum(|r| r.delivered), sum(|r| r.lost));
    if expected == 0 {
        return None;
    }
    let losses = if lost == 0 {
        "none was lost without notice".to_owned()
    } else {
        format!("{} were lost without notice", count(lost))
    };
    let mut sentence =
        format!("{target} brought {} of {} deliveries; {losses}", count(delivered), count(expected));
    for (number, what) in [
        (sum(|r| r.gaps_told), "told as gaps"),
        (sum(|r| r.conflated_told), "told as conflated"),
        (sum(|r| r.filtered_told), "told as filtered"),
        (sum(|r| r.duplicated), "duplicated or out of order"),
    ] {
        if number > 0 {
            let were = if number == 1 { "was" } else { "were" };
            sentence = format!("{sentence}, {} {were} {what}", count(number));
        }
    }
    let ended = sum(|r| r.disconnected);
    if ended > 0 {
        sentence = format!("{sentence}; the server ended {}", things(ended, "connection"));
    }
    Some(sentence + ".")
}

fn times(measured: &Measured<'_>) -> Option<String> {
    let p99 = Figure::named("p99")?;
    let spread = p99.spread(measured)?;
    // In a closed loop a message is planned for the moment it can be sent.
    let open = measured.repetitions.iter().any(|r| r.offered_per_s.is_some());
    let mut sentence = format!(
        "Half of the deliveries arrived within {} of the time they were {}, 99 in 100 within {}, the slowest after {}",
        written(measured, "p50")?,
        if open { "planned for" } else { "sent" },
        p99.write(spread.median),
        written(measured, "max")?
    );
    let repetitions = measured.repetitions.len();
    if repetitions > 1 {
        sentence = format!(
            "{sentence} (medians of {repetitions} repetitions, in which p99 went from {} to {})",
            p99.write(spread.min),
            p99.write(spread.max)
        );
    }
    let service = Figure::named("service_p99")?.value(measured);
    if let Some(service) = service.filter(|service| spread.median > service * 1.2) {
        sentence = format!(
            "{sentence}. The p99 as felt is {} above the one of the service alone: messages waited to be sent",
            p99.write(spread.median - service)
        );
    }
    Some(sentence + ".")
}

fn alerts(measured: &Measured<'_>) -> Option<String> {
    let lost = Figure::named("alert_lost")?.value(measured)? as u64;
    let lost = if lost == 0 { "none was lost".to_owned() } else { format!("{} were lost", count(lost)) };
    Some(format!(
        "Beside them, half of the alerts arrived within {} of the time they were planned for, 99 in 100 within {}, the slowest after {}; {lost}.",
        written(measured, "alert_p50")?,
        written(measured, "alert_p99")?,
        written(measured, "alert_max")?
    ))
}

fn accounts(measured: &Measured<'_>) -> Option<String> {
    let of = |name| Some(Figure::named(name)?.value(measured)? as u64);
    let (unaccounted, misordered) = (of("unaccounted")?, of("misordered")?);
    Some(if (unaccounted, misordered) == (0, 0) {
        "Every event came to each subscriber once and in order, or a notice told what became of it.".into()
    } else {
        format!(
            "Accounts are off by {}; {} came out of their turn.",
            things(unaccounted, "event"),
            things(misordered, "frame or notice")
        )
    })
}

fn costs(measured: &Measured<'_>) -> Option<String> {
    let mut sentence = format!("The server used {} of one core", written(measured, "server_cpu")?);
    for (name, words) in [
        ("cpu_per_delivery", "for a delivery"),
        ("rss_peak", "of memory at its peak"),
        ("memory_per_connection", "a connection"),
    ] {
        if let Some(value) = written(measured, name) {
            sentence = format!("{sentence}, {value} {words}");
        }
    }
    Some(sentence + ".")
}

fn written(measured: &Measured<'_>, name: &str) -> Option<String> {
    let figure = Figure::named(name)?;
    Some(figure.write(figure.value(measured)?))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn doubts_come_first() {
        let mut run = sample::limited();
        run.machine.load_average = Some(3.0);
        let said = sentences(&run);
        assert!(said[0].starts_with("GENERATOR-LIMITED in 3 of 3 repetitions of tickcast"), "{}", said[0]);
        assert!(said[1].contains("load average was 3.0"));
        assert!(!said.join(" ").contains("not the limit"));
    }

    #[test]
    fn losses_times_and_costs_are_told() {
        let mut run = sample::run();
        run.repetitions[0].lost = 7;
        let said = sentences(&run).join(" ");
        for part in [
            "180,000,000 of 180,000,000 deliveries",
            "7 were lost",
            "36 were told as conflated",
            "99 in 100 within",
            "3 repetitions",
            "of one core",
            "for a delivery",
            "generator was not the limit",
        ] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
    }

    #[test]
    fn alerts_and_accounts_are_told() {
        let mut run = sample::alerts();
        let said = sentences(&run).join(" ");
        assert!(
            said.contains("half of the alerts arrived within") && said.contains("none was lost."),
            "{said}"
        );
        assert!(said.contains("Every event came to each subscriber once"), "{said}");
        run.repetitions[0].account.as_mut().unwrap().unaccounted = 2;
        assert!(sentences(&run).join(" ").contains("off by 2 events"));
    }

    #[test]
    fn a_pair_is_told_as_ratios() {
        let run = sample::pair();
        let said = sentences(&run).join(" ");
        assert!(said.contains("Divided by ceiling-coalesced in the same run"), "{said}");
        assert!(said.contains("p99 as felt 1.25"), "{said}");
    }

    #[test]
    fn an_empty_run_says_so() {
        assert_eq!(sentences(&Run::default()), ["Nothing was measured."]);
    }
}
