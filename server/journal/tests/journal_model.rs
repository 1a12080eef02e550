//! The whole journal against a model of maps, over random scripts with restarts and power cuts.

mod common;

use std::collections::BTreeMap;

use common::disk::{Disk, OnDisk};
use common::*;
use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};
use tickcast_journal::{Journal, Outcome, PairState, Reason, RefusalReason, Settings, Status};

const NAMES: [&str; 3] = ["ann", "bob", "cid"];
const TOPICS: [&str; 2] = ["alerts", "orders"];

#[derive(Clone, Debug)]
enum Step {
    Publish { id: u64, other_hash: bool, topic: usize, to: usize, expires_in: Option<i64>, keyed: bool },
    Register(usize),
    Ack { who: usize, nth: usize, twice: bool },
    Expire,
    Revoke(usize),
    Forget(usize),
    Wait(i64),
    Reopen,
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..NAMES.len();
    prop_oneof![
        12 => (0..40_u64, prop::bool::weighted(0.1), 0..TOPICS.len(), 0..8_usize,
               prop::option::weighted(0.4, 0..60_i64), prop::bool::weighted(0.4))
            .prop_map(|(id, other_hash, topic, to, expires_in, keyed)| {
                Step::Publish { id, other_hash, topic, to, expires_in, keyed }
            }),
        2 => who().prop_map(Step::Register),
        5 => (who(), 0..4_usize, any::<bool>()).prop_map(|(who, nth, twice)| Step::Ack { who, nth, twice }),
        3 => Just(Step::Expire),
        1 => who().prop_map(Step::Revoke),
        1 => who().prop_map(Step::Forget),
        4 => (0..50_i64).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
        1 => Just(Step::Cut),
    ]
}

fn limits() -> Settings {
    Settings {
        hot_max: 2,
        spill_max: 4,
        spill_age_max: 70,
        retention: 90,
        ids_min: 6,
        id_age_min: 120,
        ..settings()
    }
}

struct Kept {
    topic: usize,
    sequence: u64,
    hash: [u8; 32],
    accepted_at: i64,
    expires_at: i64,
    keyed: bool,
    id: u64,
    pairs: BTreeMap<usize, (PairState, i64)>,
    removed: bool,
}

#[derive(Default)]
struct Model {
    now: i64,
    kept: BTreeMap<u64, Kept>,
    /// Id to position, and whether it still counts among those that are kept for their number.
    ids: BTreeMap<u64, (u64, bool)>,
    sequences: [u64; 2],
    position: u64,
    /// Which of a name's lives is registered; what waits for an earlier one was revoked.
    registered: [bool; 3],
}

impl Model {
    fn waiting(&self, who: usize) -> Vec<u64> {
        let waits = |kept: &Kept| kept.pairs.get(&who).is_some_and(|pair| pair.0 == PairState::Pending);
        self.kept.iter().filter(|(_, kept)| waits(kept)).map(|(position, _)| *position).collect()
    }

    fn fullness(&self, who: usize) -> Option<RefusalReason> {
        let waiting = self.waiting(who);
        let limits = limits();
        let depth = waiting.len() as u32;
        let oldest_age = waiting.first().map_or(0, |oldest| self.now - self.kept[oldest].accepted_at);
        let full =
            depth >= limits.hot_max && (depth >= limits.spill_max || oldest_age >= limits.spill_age_max);
        full.then_some(RefusalReason::QueueFull { depth, oldest_age })
    }

    fn settle(&mut self, position: u64, who: usize, to: PairState) {
        let now = self.now;
        if let Some(pair) = self.kept.get_mut(&position).and_then(|kept| kept.pairs.get_mut(&who))
            && pair.0 == PairState::Pending
        {
            *pair = (to, now);
        }
    }

    fn expire(&mut self) {
        let now = self.now;
        for kept in self.kept.values_mut().filter(|kept| kept.expires_at <= now) {
            for pair in kept.pairs.values_mut().filter(|pair| pair.0 == PairState::Pending) {
                *pair = (PairState::Expired, now);
            }
        }
    }

    fn prune(&mut self) {
        let (now, limits) = (self.now, limits());
        for (position, kept) in &mut self.kept {
            let settled = kept.pairs.values().all(|pair| pair.0 != PairState::Pending);
            let since = kept.pairs.values().map(|pair| pair.1).max().unwrap_or(kept.accepted_at);
            if settled && !kept.removed && since < now - limits.retention {
                kept.removed = true;
                kept.pairs.clear();
                if !self.ids.get(&kept.id).is_some_and(|(at, counts)| at == position && *counts) {
                    self.ids.remove(&kept.id);
                }
            }
        }
        loop {
            let mut counted: Vec<_> = self.ids.iter().filter(|(_, (_, counts))| *counts).collect();
            counted.sort_by_key(|(_, (position, _))| *position);
            if counted.len() as u64 <= limits.ids_min {
                return;
            }
            let (id, (position, _)) = (*counted[0].0, *counted[0].1);
            let kept = &self.kept[&position];
            if kept.accepted_at > now - limits.id_age_min {
                return;
            }
            if kept.removed {
                self.ids.remove(&id);
            } else {
                self.ids.insert(id, (position, false));
            }
        }
    }

    fn publish(
        &mut self,
        id: u64,
        hash: [u8; 32],
        topic: usize,
        to: &[usize],
        expires_at: i64,
        keyed: bool,
    ) -> Outcome {
        if let Some((position, _)) = self.ids.get(&id) {
            let kept = &self.kept[position];
            let (position, sequence) = (*position, kept.sequence);
            let same = kept.hash == hash;
            return if same {
                Outcome::Duplicate { position, sequence }
            } else {
                Outcome::Conflict { position }
            };
        }
        if expires_at <= self.now {
            return Outcome::Refused { reason: Reason::Expired, recipients: vec![] };
        }
        let (mut takers, mut refused) = (vec![], vec![]);
        let mut expired = false;
        for &who in to {
            let recipient = NAMES[who].into();
            if !self.registered[who] {
                refused.push(tickcast_journal::Refusal { recipient, why: RefusalReason::Unknown });
                continue;
            }
            let older = |model: &Self| {
                let waiting = model.waiting(who).into_iter();
                waiting.rev().find(|position| {
                    keyed && model.kept[position].keyed && model.kept[position].topic == topic
                })
            };
            let full = if older(self).is_some() { None } else { self.fullness(who) };
            let full = match full {
                Some(_) if !expired => {
                    self.expire();
                    expired = true;
                    self.fullness(who)
                }
                full => full,
            };
            match full {
                Some(why) => refused.push(tickcast_journal::Refusal { recipient, why }),
                None => takers.push((who, older(self))),
            }
        }
        if takers.is_empty() && !to.is_empty() {
            let full = refused.iter().any(|one| one.why != RefusalReason::Unknown);
            let reason = if full { Reason::QueueFull } else { Reason::NobodyKnown };
            return Outcome::Refused { reason, recipients: refused };
        }
        self.position += 1;
        self.sequences[topic] += 1;
        let (position, sequence) = (self.position, self.sequences[topic]);
        let queued = takers.len() as u32;
        let mut pairs = BTreeMap::new();
        for (who, older) in takers {
            if let Some(older) = older {
                self.settle(older, who, PairState::Superseded);
            }
            pairs.insert(who, (PairState::Pending, self.now));
        }
        let accepted_at = self.now;
        let kept = Kept { topic, sequence, hash, accepted_at, expires_at, keyed, id, pairs, removed: false };
        self.kept.insert(position, kept);
        self.ids.insert(id, (position, true));
        Outcome::Accepted { position, sequence, queued, refused }
    }

    fn status(&self, id: u64) -> Option<Status> {
        let (position, _) = self.ids.get(&id)?;
        let kept = &self.kept[position];
        let count = |state| kept.pairs.values().filter(|pair| pair.0 == state).count() as u32;
        Some(Status {
            position: *position,
            sequence: kept.sequence,
            pending: count(PairState::Pending),
            acked: count(PairState::Acked),
            expired: count(PairState::Expired),
            revoked: count(PairState::Revoked),
            superseded: count(PairState::Superseded),
            removed: kept.removed,
        })
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut disk = Disk::default();
    let open =
        |disk: &Disk| Journal::open_with(limits(), Box::new(OnDisk::new(disk)), deaf()).expect("opens");
    let mut journal = open(&disk).0;
    let mut model = Model { now: 1_000, ..Model::default() };
    for step in steps {
        match step.clone() {
            Step::Publish { id, other_hash, topic, to, expires_in, keyed } => {
                let to: Vec<usize> = (0..NAMES.len()).filter(|who| to & (1 << who) != 0).collect();
                let names: Vec<&str> = to.iter().map(|who| NAMES[*who]).collect();
                let mut draft = draft("risk", id, TOPICS[topic], &names);
                draft.hash[9] = u8::from(other_hash);
                draft.accepted_at = model.now;
                draft.expires_at = expires_in.map(|wait| model.now + wait);
                draft.collapse_key = keyed.then(|| "key".into());
                let expires_at = draft.expires_at.unwrap_or(i64::MAX);
                let expected = model.publish(id, draft.hash, topic, &to, expires_at, keyed);
                prop_assert_eq!(publish(&journal, draft), expected);
            }
            Step::Register(who) => {
                register(&journal, NAMES[who]).expect("registered");
                model.registered[who] = true;
            }
            Step::Ack { who, nth, twice } => {
                let waiting = model.waiting(who);
                let Some(position) = waiting.get(nth).copied() else { continue };
                let said = if twice { vec![position, position] } else { vec![position] };
                journal.ack(NAMES[who].into(), said, model.now);
                model.settle(position, who, PairState::Acked);
            }
            Step::Expire => {
                journal.expire(model.now);
                model.expire();
                model.prune();
            }
            Step::Revoke(who) | Step::Forget(who) => {
                let name = NAMES[who].into();
                if matches!(step, Step::Revoke(_)) {
                    wait(|reply| journal.revoke(name, model.now, reply)).expect("revoked");
                } else {
                    wait(|reply| journal.forget(name, model.now, reply)).expect("forgotten");
                }
                for position in model.waiting(who) {
                    if model.registered[who] {
                        model.settle(position, who, PairState::Revoked);
                    }
                }
                model.registered[who] &= matches!(step, Step::Revoke(_));
            }
            Step::Wait(time) => model.now += time,
            Step::Reopen | Step::Cut => {
                settle(&journal);
                if matches!(step, Step::Cut) {
                    let cut = disk.cut();
                    journal.close();
                    disk = cut;
                } else {
                    journal.close();
                }
                let (opened, recovered) = open(&disk);
                journal = opened;
                prop_assert_eq!(recovered.position, model.position);
                for (topic, last) in recovered.topics {
                    let at = TOPICS.iter().position(|name| **name == *topic).expect("one of ours");
                    prop_assert_eq!(last, model.sequences[at]);
                }
            }
        }
        for (who, name) in NAMES.iter().enumerate() {
            let expected = if model.registered[who] { model.waiting(who) } else { vec![] };
            prop_assert_eq!(positions(&journal, name), expected);
        }
    }
    for id in 0..40 {
        prop_assert_eq!(status(&journal, "risk", id).expect("answered"), model.status(id), "id {}", id);
    }
    for (who, name) in NAMES.iter().enumerate().filter(|(who, _)| model.registered[*who]) {
        for record in pending(&journal, name).expect("answered") {
            let kept = &model.kept[&record.position];
            prop_assert_eq!(record.hash, kept.hash);
            prop_assert_eq!(record.sequence, kept.sequence);
            prop_assert!(kept.pairs.contains_key(&who));
        }
    }
    Ok(())
}

/// Scripts that failed once are run first from then on.
fn persistence() -> Option<Box<dyn FailurePersistence>> {
    Some(Box::new(FileFailurePersistence::WithSource("regressions")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: persistence(), ..ProptestConfig::default() })]

    #[test]
    fn the_journal_does_what_the_model_does(steps in prop::collection::vec(step(), 1..80)) {
        run(&steps)?;
    }
}
