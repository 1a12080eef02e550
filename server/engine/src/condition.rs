//! Conditions on events beyond their topic: each distinct one is kept once, and asked once per event.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use tickcast_protocol::Predicate;
use tickcast_protocol::predicate::Compiled;
use tickcast_protocol::registry::{Attribute, Attributes};

use crate::slots::Slots;

/// A predicate, ready to be asked. Made where the hasher is that hashes the attributes of events.
#[derive(Clone, Debug)]
pub struct Condition {
    predicate: Predicate,
    compiled: Compiled,
}

impl Condition {
    /// Compiles `predicate`. `hasher` must be the one that [`Incoming`](crate::Incoming) facts are made with.
    #[must_use]
    pub fn new(predicate: Predicate, hasher: &impl BuildHasher) -> Self {
        let compiled = predicate.compile(hasher);
        Self { predicate, compiled }
    }

    /// True when an event with these attributes passes.
    #[must_use]
    pub fn passes(&self, attributes: &Attributes) -> bool {
        self.compiled.matches(attributes)
    }

    /// Equality attribute and hashes without one of which no event passes, if there are such.
    pub(crate) fn required(&self) -> Option<(Attribute, &[u64])> {
        self.compiled.required()
    }
}

/// An interned condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConditionId(u32);

/// The conditions of one shard, as long as anyone has them.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    known: Slots<Known>,
    by_predicate: HashMap<Predicate, ConditionId, RandomState>,
    /// How often one was asked, for the test of the promise above.
    #[cfg(test)]
    pub(crate) asked: u64,
}

#[derive(Debug)]
struct Known {
    condition: Condition,
    users: u32,
    /// The event it was asked about last, as the index numbers them, and the answer.
    asked_at: u64,
    answer: bool,
}

impl Conditions {
    /// Its id, kept until it is released as often as it was interned.
    pub(crate) fn intern(&mut self, condition: &Condition) -> ConditionId {
        if let Some(id) = self.by_predicate.get(&condition.predicate) {
            self.known.get_mut(id.0).users += 1;
            return *id;
        }
        let known = Known { condition: condition.clone(), users: 1, asked_at: 0, answer: false };
        let id = ConditionId(self.known.insert(known));
        self.by_predicate.insert(condition.predicate.clone(), id);
        id
    }

    pub(crate) fn release(&mut self, id: ConditionId) {
        let known = self.known.get_mut(id.0);
        known.users -= 1;
        if known.users == 0 {
            let known = self.known.remove(id.0);
            self.by_predicate.remove(&known.condition.predicate);
        }
    }

    /// The answer for the event numbered `event`, which is not zero.
    pub(crate) fn passes(&mut self, id: ConditionId, event: u64, attributes: &Attributes) -> bool {
        let known = self.known.get_mut(id.0);
        if known.asked_at != event {
            known.asked_at = event;
            known.answer = known.condition.passes(attributes);
            #[cfg(test)]
            {
                self.asked += 1;
            }
        }
        known.answer
    }

    pub(crate) fn len(&self) -> usize {
        self.by_predicate.len()
    }
}
