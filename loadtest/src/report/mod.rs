//! What a run found, for people: text, pages, plots, comparisons, conditions.
//!
//! ```text
//!   results ──► figure (names, units) ──┬──► summary, conclusion     text
//!      │                                ├──► condition, account     exit code
//!      │                                ├──► compare                two runs, two targets
//!      └──────► plots ──► plot (SVG) ───┴──► html, png              one source for both
//! ```
//!
//! Invariants: nothing here measures or reads a file; every renderer takes any [`Run`](crate::results::Run) that
//! deserialises, however odd, and bounds what it draws; text from a run is escaped in pages and freed of control
//! characters in a terminal; a run in which the generator was the limit says so wherever its figures are shown.
#![forbid(unsafe_code)]

pub mod account;
pub mod compare;
mod conclusion;
pub mod condition;
pub mod figure;
pub mod html;
mod plan;
mod plot;
mod plots;
pub mod png;
pub mod quantity;
pub mod summary;

#[cfg(test)]
mod sample;

/// Exit code of a run for which a condition of `--fail-if` holds, or cannot be judged, or in which `--check` found an account that is off.
pub const EXIT_CONDITION: u8 = 3;

#[cfg(test)]
mod tests {
    use resvg::usvg::roxmltree;

    use super::condition::Condition;
    use super::{compare, html, png, sample, summary};
    use crate::results::{Latency, Repetition, Run, Second};

    fn every_renderer_copes_with(run: &Run) {
        let pages = html::page(run) + &html::comparison_page(run, &sample::run());
        for plot in pages.split("<svg ").skip(1) {
            let svg = format!("<svg {}</svg>", plot.split_once("</svg>").expect("an end").0);
            assert!(!svg.contains("NaN") && !svg.contains("inf "), "{svg}");
            roxmltree::Document::parse(&svg).expect("well-formed XML");
        }
        assert!(!summary::text(run).is_empty());
        assert!(!compare::compare(run, &sample::run()).text().is_empty());
        assert!(!Condition::parse("p99>2ms").expect("a condition").judge(run).sentence.is_empty());
        png::latency(run).expect("a picture");
        png::throughput(run).expect("a picture");
    }

    #[test]
    fn the_most_that_numbers_can_hold_is_shown() {
        let mut run = sample::pair();
        for (at, repetition) in run.repetitions.iter_mut().enumerate() {
            (repetition.expected, repetition.delivered, repetition.lost) = (u64::MAX, u64::MAX, u64::MAX);
            (repetition.wire_bytes, repetition.elapsed_ns) = (u64::MAX, 1);
            repetition.deliveries_per_s = if at % 2 == 0 { f64::MAX } else { f64::MIN };
            repetition.seconds.truncate(3);
            for second in &mut repetition.seconds {
                (second.delivered, second.lost) = (u64::MAX, u64::MAX);
                (second.p50_ns, second.p99_ns) = (1, u64::MAX);
                (second.server_cpu_ns, second.server_rss_bytes) = (Some(u64::MAX), Some(u64::MAX));
            }
            let extreme = Latency {
                count: u64::MAX,
                max_ns: u64::MAX,
                buckets: vec![(u64::MAX, u64::MAX), (0, u64::MAX), (0, 0)],
                ..Latency::default()
            };
            (repetition.as_felt, repetition.service_only) = (Some(extreme.clone()), Some(extreme));
        }
        every_renderer_copes_with(&run);
    }

    #[test]
    fn a_run_of_nothing_but_zeros_is_shown() {
        let mut run = sample::run();
        run.repetitions = vec![Repetition::default(); 3];
        for repetition in &mut run.repetitions {
            repetition.as_felt = Some(Latency { count: 1, buckets: vec![(0, 1)], ..Latency::default() });
            repetition.seconds = vec![Second::default(); 2];
        }
        every_renderer_copes_with(&run);
        every_renderer_copes_with(&Run::default());
    }
}
