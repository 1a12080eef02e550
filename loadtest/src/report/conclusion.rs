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
        said.extend(costs(measured));
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
    let told: Vec<String> = [
        (sum(|r| r.gaps_told), "told as gaps"),
        (sum(|r| r.conflated_told), "told as conflated"),
        (sum(|r| r.filtered_told), "told as filtered"),
        (sum(|r| r.duplicated), "duplicated or out of order"),
        (sum(|r| r.disconnected), "connections ended by the server"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{} {what}", count(number)))
    .collect();
    if !told.is_empty() {
        sentence = format!("{sentence}, {}", told.join(", "));
    }
    Some(sentence + ".")
}

fn times(measured: &Measured<'_>) -> Option<String> {
    let write = |name: &str| {
        let figure = Figure::named(name)?;
        Some(figure.write(figure.value(measured)?))
    };
    let mut sentence = format!(
        "Half of the deliveries arrived within {} of the time they were planned for, 99 in 100 within {}, the slowest after {}",
        write("p50")?,
        write("p99")?,
        write("max")?
    );
    let p99 = Figure::named("p99")?.spread(measured)?;
    let repetitions = measured.repetitions.len();
    if repetitions > 1 && p99.median > 0.0 {
        let figure = Figure::named("p99")?;
        sentence = format!(
            "{sentence} (medians of {repetitions} repetitions, in which p99 went from {} to {})",
            figure.write(p99.min),
            figure.write(p99.max)
        );
    }
    let (felt, service) =
        (Figure::named("p99")?.value(measured)?, Figure::named("service_p99")?.value(measured));
    let waited = service.filter(|service| felt > service * 1.2).map(|service| {
        format!(
            " Of the p99 as felt, {} is time that messages waited to be sent at all.",
            Figure::named("p99").map(|figure| figure.write(felt - service)).unwrap_or_default()
        )
    });
    Some(format!("{sentence}.{}", waited.unwrap_or_default()))
}

fn costs(measured: &Measured<'_>) -> Option<String> {
    let write = |name: &str| {
        let figure = Figure::named(name)?;
        Some(figure.write(figure.value(measured)?))
    };
    let mut sentence = format!("The server used {} of one core", write("server_cpu")?);
    for (name, words) in [
        ("cpu_per_delivery", "for a delivery"),
        ("rss_peak", "of memory at its peak"),
        ("memory_per_connection", "a connection"),
    ] {
        if let Some(value) = write(name) {
            sentence = format!("{sentence}, {value} {words}");
        }
    }
    if measured.limited().is_none() {
        sentence.push_str("; the generator was not the limit");
    }
    Some(sentence + ".")
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
            "36 told as conflated",
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
