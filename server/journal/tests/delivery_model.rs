//! The delivery state machine against a model that is a plain list of pairs, over random scripts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};
use tickcast_journal::delivery::{ACK_TIMEOUT, ACK_TIMEOUT_MAX, WINDOW};
use tickcast_journal::{Ack, AckError, Delivery, Generation};

const SECOND: i64 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Offer {
        skip: u64,
        expires_in: Option<i64>,
    },
    Attach,
    /// Of one of the connections so far, present or past.
    Detach(usize),
    Next(usize),
    AckThrough(usize, u64),
    AckRange(usize, u64, u64),
    Wait(i64),
    Tick,
    Settle(u64),
    Restart,
    Revoke,
}

fn step() -> impl Strategy<Value = Step> {
    let past = || 0..4_usize;
    prop_oneof![
        8 => (0..3_u64, prop::option::weighted(0.3, 1..200 * SECOND))
            .prop_map(|(skip, expires_in)| Step::Offer { skip, expires_in }),
        2 => Just(Step::Attach),
        1 => past().prop_map(Step::Detach),
        20 => past().prop_map(Step::Next),
        4 => (past(), 0..60_u64).prop_map(|(of, through)| Step::AckThrough(of, through)),
        6 => (past(), 0..60_u64, 0..6_u64).prop_map(|(of, from, more)| Step::AckRange(of, from, more)),
        4 => (0..80 * SECOND).prop_map(Step::Wait),
        4 => Just(Step::Tick),
        1 => (0..60_u64).prop_map(Step::Settle),
        1 => Just(Step::Restart),
        1 => Just(Step::Revoke),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Now {
    Pending,
    InFlight { late_at: i64 },
    Acked,
    Expired,
    Ended,
}

#[derive(Clone, Debug)]
struct Pair {
    now: Now,
    attempt: u32,
    tries: u32,
    expires_at: i64,
}

/// Every pair there ever was, and the rules as the specification words them.
#[derive(Default)]
struct Model {
    pairs: BTreeMap<u64, Pair>,
    head: u64,
    /// The present connection.
    owner: Option<usize>,
}

impl Model {
    fn in_flight(&self) -> usize {
        self.pairs.values().filter(|pair| matches!(pair.now, Now::InFlight { .. })).count()
    }

    fn waits(pair: &Pair) -> bool {
        matches!(pair.now, Now::Pending | Now::InFlight { .. })
    }

    fn recall(&mut self) {
        for pair in self.pairs.values_mut() {
            pair.tries = 0;
            if matches!(pair.now, Now::InFlight { .. }) {
                pair.now = Now::Pending;
            }
        }
    }

    fn next(&mut self, now: i64) -> Option<(u64, u32)> {
        if self.in_flight() >= WINDOW {
            return None;
        }
        let ready = |pair: &Pair| pair.now == Now::Pending && pair.expires_at > now;
        let (position, pair) = self.pairs.iter_mut().find(|(_, pair)| ready(pair))?;
        let timeout = (ACK_TIMEOUT << pair.tries.min(8)).min(ACK_TIMEOUT_MAX);
        pair.now = Now::InFlight { late_at: now + timeout };
        pair.attempt += 1;
        pair.tries += 1;
        Some((*position, pair.attempt))
    }

    fn ack(&mut self, from: u64, to: u64) -> Result<Vec<u64>, AckError> {
        if to > self.head {
            return Err(AckError::PastHead(to));
        }
        let waiting = self.pairs.range_mut(from..=to).filter(|(_, pair)| Self::waits(pair));
        let waiting: Vec<_> = waiting.collect();
        if let Some((position, _)) = waiting.iter().find(|(_, pair)| pair.attempt == 0) {
            return Err(AckError::NotHandedOut(**position));
        }
        let mut acked = Vec::new();
        for (position, pair) in waiting {
            pair.now = Now::Acked;
            acked.push(*position);
        }
        Ok(acked)
    }

    fn tick(&mut self, now: i64) -> Vec<u64> {
        let mut expired = Vec::new();
        for (position, pair) in &mut self.pairs {
            if Self::waits(pair) && pair.expires_at <= now {
                pair.now = Now::Expired;
                expired.push((pair.expires_at, *position));
            } else if matches!(pair.now, Now::InFlight { late_at } if late_at <= now) {
                pair.now = Now::Pending;
            }
        }
        expired.sort_unstable();
        expired.into_iter().map(|(_, position)| position).collect()
    }

    fn due(&self) -> Option<i64> {
        let waiting = self.pairs.values().filter(|pair| Self::waits(pair));
        let dues = waiting.flat_map(|pair| {
            let late = if let Now::InFlight { late_at } = pair.now { Some(late_at) } else { None };
            late.into_iter().chain((pair.expires_at != i64::MAX).then_some(pair.expires_at))
        });
        dues.min()
    }
}

fn run(steps: &[Step]) -> Result<u32, TestCaseError> {
    let mut delivery = Delivery::default();
    let mut model = Model::default();
    let mut connections: Vec<Generation> = Vec::new();
    let mut now = 0;
    let mut first_deliveries = Vec::new();
    let mut redeliveries = 0;
    for step in steps {
        // The last connections, newest first.
        let pick = |of: usize| connections.len().checked_sub(1 + of);
        match step.clone() {
            Step::Offer { skip, expires_in } => {
                let position = model.head + 1 + skip;
                let expires_at = expires_in.map(|wait| now + wait);
                delivery.offer(position, expires_at);
                // A second telling changes nothing.
                delivery.offer(position, None);
                let expires_at = expires_at.unwrap_or(i64::MAX);
                model.pairs.insert(position, Pair { now: Now::Pending, attempt: 0, tries: 0, expires_at });
                model.head = position;
            }
            Step::Attach => {
                let generation = delivery.attach();
                prop_assert!(connections.last().is_none_or(|last| *last < generation));
                connections.push(generation);
                model.recall();
                model.owner = Some(connections.len() - 1);
            }
            Step::Detach(of) => {
                let Some(of) = pick(of) else { continue };
                delivery.detach(connections[of]);
                if model.owner == Some(of) {
                    model.recall();
                    model.owner = None;
                }
            }
            Step::Next(of) => {
                let Some(of) = pick(of) else { continue };
                let sent = delivery.next(now, connections[of]).map(|send| (send.position, send.attempt));
                let expected = if model.owner == Some(of) { model.next(now) } else { None };
                prop_assert_eq!(sent, expected);
                match sent {
                    Some((position, 1)) => first_deliveries.push(position),
                    Some(_) => redeliveries += 1,
                    None => {}
                }
            }
            Step::AckThrough(of, through) => {
                let Some(of) = pick(of) else { continue };
                let acked = delivery.ack(connections[of], &Ack::Through(through));
                let expected =
                    if model.owner == Some(of) { model.ack(0, through) } else { Err(AckError::Fenced) };
                prop_assert_eq!(acked, expected);
            }
            Step::AckRange(of, from, more) => {
                let Some(of) = pick(of) else { continue };
                let acked = delivery.ack(connections[of], &Ack::Ranges(vec![from..=from + more]));
                let expected = if model.owner == Some(of) {
                    model.ack(from, from + more)
                } else {
                    Err(AckError::Fenced)
                };
                prop_assert_eq!(acked, expected);
            }
            Step::Wait(time) => now += time,
            Step::Tick => prop_assert_eq!(delivery.tick(now), model.tick(now)),
            Step::Settle(position) => {
                let waits = model.pairs.get_mut(&position).filter(|pair| Model::waits(pair));
                let expected = waits.is_some();
                if let Some(pair) = waits {
                    pair.now = Now::Ended;
                }
                prop_assert_eq!(delivery.settle(position), expected);
            }
            Step::Restart => {
                let waiting = model.pairs.iter().filter(|(_, pair)| Model::waits(pair));
                let waiting = waiting.map(|(position, pair)| {
                    (*position, (pair.expires_at != i64::MAX).then_some(pair.expires_at))
                });
                delivery = Delivery::restore(model.head, waiting);
                connections.clear();
                model.owner = None;
                model.recall();
                for pair in model.pairs.values_mut() {
                    pair.attempt = 1;
                }
            }
            Step::Revoke => {
                delivery.revoke();
                for pair in model.pairs.values_mut().filter(|pair| Model::waits(pair)) {
                    pair.now = Now::Ended;
                }
            }
        }
        prop_assert_eq!(delivery.in_flight(), model.in_flight());
        prop_assert_eq!(delivery.depth(), model.pairs.values().filter(|pair| Model::waits(pair)).count());
        prop_assert_eq!(delivery.due(), model.due());
        prop_assert!(first_deliveries.is_sorted(), "I6: {:?}", first_deliveries);
    }
    Ok(redeliveries)
}

/// Scripts that failed once are run first from then on.
fn persistence() -> Option<Box<dyn FailurePersistence>> {
    Some(Box::new(FileFailurePersistence::WithSource("regressions")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: persistence(), ..ProptestConfig::default() })]

    #[test]
    fn delivery_does_what_the_model_does(steps in prop::collection::vec(step(), 1..200)) {
        run(&steps)?;
    }
}

#[test]
fn the_scripts_reach_redelivery() {
    let mut steps = vec![Step::Offer { skip: 0, expires_in: None }, Step::Attach, Step::Next(0)];
    steps.extend([Step::Attach, Step::Next(0), Step::Wait(11 * SECOND), Step::Tick, Step::Next(0)]);
    assert_eq!(run(&steps).expect("as the model"), 2);
}
