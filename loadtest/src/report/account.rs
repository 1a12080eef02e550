//! `--check`: whether every account of a run is whole, in one sentence.
//!
//! Invariant: an account that was not kept is not whole. As conditions do, it judges the target the run is about:
//! the bare loop tells nobody what it drops, and promises nothing.
#![forbid(unsafe_code)]

use super::condition::Outcome;
use super::figure::Measured;
use super::plan::count;
use crate::results::{Account, Run};

/// Judges the accounts of all repetitions together.
#[must_use]
pub fn judge(run: &Run) -> Outcome {
    let repetitions = Measured::main(run).map(|measured| measured.repetitions).unwrap_or_default();
    let mut sum = Account::default();
    let mut wrong = repetitions.is_empty() || repetitions.iter().any(|r| r.account.is_none());
    for account in repetitions.iter().filter_map(|repetition| repetition.account.as_ref()) {
        wrong |= !account.is_whole();
        sum.add(account);
    }
    let parts = format!(
        "{} received + {} conflated + {} gapped + {} filtered, of {} published",
        count(sum.received),
        count(sum.conflated),
        count(sum.gapped),
        count(sum.filtered),
        count(sum.published)
    );
    let sentence = if wrong {
        format!(
            "an account is off: {} unaccounted, {} misordered; {parts}",
            count(sum.unaccounted),
            count(sum.misordered)
        )
    } else {
        format!("every account is whole: {parts}")
    };
    Outcome { fails: wrong, sentence }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn one_event_that_nobody_told_of_fails_the_run() {
        let mut run = sample::alerts();
        let outcome = judge(&run);
        assert!(!outcome.fails && outcome.sentence.starts_with("every account is whole"), "{outcome:?}");
        let account = run.repetitions[1].account.as_mut().unwrap();
        (account.received, account.unaccounted) = (account.received - 1, 1);
        let outcome = judge(&run);
        assert!(outcome.fails && outcome.sentence.contains("1 unaccounted, 0 misordered"), "{outcome:?}");
    }

    #[test]
    fn what_was_not_checked_is_not_whole() {
        assert!(judge(&sample::run()).fails);
        assert!(judge(&Run::default()).fails);
    }
}
