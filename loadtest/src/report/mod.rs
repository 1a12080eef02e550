//! What a run found, for people: text, pages, plots, comparisons, conditions.
//!
//! ```text
//!   results ──► figure (names, units) ──┬──► summary, conclusion     text
//!      │                                ├──► condition              exit code
//!      │                                ├──► compare                two runs, two targets
//!      └──────► plots ──► plot (SVG) ───┴──► html, png              one source for both
//! ```
//!
//! Invariants: nothing here measures or reads a file; every renderer takes any [`Run`](crate::results::Run) that
//! deserialises, however odd, and bounds what it draws; text from a run is escaped in pages and freed of control
//! characters in a terminal; a run in which the generator was the limit says so wherever its figures are shown.
#![forbid(unsafe_code)]

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

/// Exit code of a run for which a condition of `--fail-if` holds, or cannot be judged.
pub const EXIT_CONDITION: u8 = 3;
