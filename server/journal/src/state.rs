//! What the writer knows by heart: heads of topics, names of recipients, and how much waits for each.
//!
//! A batch works on a `Staged` view and leaves its `Changes`, which become the state only when the commit
//! has succeeded. After a failure the file is opened again, and what it holds must be exactly the state
//! before the batch or exactly the one after it (I12).
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use crate::keys::{self, Fields};
use crate::store::{Read, StoreError, StoreErrorKind, Table, Write};
use crate::types::PairState;

/// The state as of the last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The last position given.
    pub(crate) position: u64,
    /// The number of the next recipient.
    pub(crate) next_number: u32,
    /// Last sequences.
    pub(crate) topics: HashMap<Arc<str>, u64>,
    /// Numbers of the registered.
    pub(crate) numbers: HashMap<Arc<str>, u32>,
    /// How many records wait for each number; no entry for none.
    pub(crate) depths: HashMap<u32, u32>,
}

/// What a batch changes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) position: Option<u64>,
    next_number: Option<u32>,
    topics: HashMap<Arc<str>, u64>,
    numbers: HashMap<Arc<str>, Option<u32>>,
    depths: HashMap<u32, u32>,
    /// Pairs that were settled, in order: position, number, and what became of it.
    pub(crate) settled: Vec<(u64, u32, PairState)>,
}

impl State {
    /// Reads everything, and checks that the tables agree with one another.
    pub(crate) fn read(from: &dyn Read) -> Result<Self, StoreError> {
        let meta = |key: &[u8]| -> Result<Option<u64>, StoreError> {
            from.get(Table::Meta, key)?.map(|value| Fields(&value).u64()).transpose()
        };
        match meta(keys::META_FORMAT)? {
            None => return Ok(Self::default()),
            Some(keys::FORMAT) => {}
            Some(newer) => {
                let text = format!(
                    "the journal was written in format {newer} and this server reads format {}: start the \
                     newer server, or give this one another directory",
                    keys::FORMAT
                );
                return Err(StoreError { kind: StoreErrorKind::Newer, text });
            }
        }
        let mut state = Self {
            position: meta(keys::META_POSITION)?.unwrap_or(0),
            next_number: meta(keys::META_NUMBER)?.unwrap_or(0) as u32,
            ..Self::default()
        };
        from.each(Table::Topics, &mut |topic, sequence| {
            state.topics.insert(keys::text(topic)?.into(), Fields(sequence).u64()?);
            Ok(())
        })?;
        from.each(Table::Recipients, &mut |name, number| {
            state.numbers.insert(keys::text(name)?.into(), Fields(number).u32()?);
            Ok(())
        })?;
        let mut waiting = 0;
        from.each(Table::Depths, &mut |number, depth| {
            let depth = Fields(depth).u32()?;
            state.depths.insert(Fields(number).u32()?, depth);
            waiting += u64::from(depth);
            Ok(())
        })?;
        // What can be checked without reading all that waits, which may take seconds.
        let rows = from.len(Table::Pending)?;
        if waiting != rows {
            let text =
                format!("the journal's tables disagree: {waiting} deliveries wait, and {rows} are kept");
            return Err(StoreError::damaged(text));
        }
        Ok(state)
    }

    pub(crate) fn apply(&mut self, changes: Changes) {
        self.position = changes.position.unwrap_or(self.position);
        self.next_number = changes.next_number.unwrap_or(self.next_number);
        self.topics.extend(changes.topics);
        for (name, number) in changes.numbers {
            match number {
                Some(number) => self.numbers.insert(name, number),
                None => self.numbers.remove(&name),
            };
        }
        for (number, depth) in changes.depths {
            match depth {
                0 => self.depths.remove(&number),
                depth => self.depths.insert(number, depth),
            };
        }
    }

    /// Numbers for which something waits though nobody has them: a revocation that a crash cut short.
    pub(crate) fn orphans(&self) -> Vec<u32> {
        let named: std::collections::HashSet<u32> = self.numbers.values().copied().collect();
        let mut orphans: Vec<u32> =
            self.depths.keys().copied().filter(|number| !named.contains(number)).collect();
        orphans.sort_unstable();
        orphans
    }
}

/// The state as a batch sees it.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    base: &'a State,
    changes: Changes,
}

impl<'a> Staged<'a> {
    pub(crate) fn new(base: &'a State) -> Self {
        Self { base, changes: Changes::default() }
    }

    pub(crate) fn position(&self) -> u64 {
        self.changes.position.unwrap_or(self.base.position)
    }

    pub(crate) fn sequence(&self, topic: &str) -> u64 {
        let changed = self.changes.topics.get(topic);
        changed.or_else(|| self.base.topics.get(topic)).copied().unwrap_or(0)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let changed = self.changes.numbers.get(name).copied();
        changed.unwrap_or_else(|| self.base.numbers.get(name).copied())
    }

    pub(crate) fn depth(&self, number: u32) -> u32 {
        let changed = self.changes.depths.get(&number);
        changed.or_else(|| self.base.depths.get(&number)).copied().unwrap_or(0)
    }

    /// The next position, and the next sequence of a topic.
    pub(crate) fn advance(&mut self, topic: &Arc<str>) -> (u64, u64) {
        let (position, sequence) = (self.position() + 1, self.sequence(topic) + 1);
        self.changes.position = Some(position);
        self.changes.topics.insert(Arc::clone(topic), sequence);
        (position, sequence)
    }

    pub(crate) fn settled(&mut self, position: u64, number: u32, to: PairState) {
        self.changes.settled.push((position, number, to));
    }

    pub(crate) fn deepen(&mut self, number: u32) {
        let depth = self.depth(number) + 1;
        self.changes.depths.insert(number, depth);
    }

    pub(crate) fn lighten(&mut self, number: u32) {
        let depth = self.depth(number);
        assert!(depth > 0, "I4: nothing is settled that did not wait");
        self.changes.depths.insert(number, depth - 1);
    }

    /// Gives a name a number that was never used, so that what waited for a forgotten one stays its own.
    pub(crate) fn register(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.number(name) {
            return number;
        }
        let number = self.changes.next_number.unwrap_or(self.base.next_number);
        self.changes.next_number = Some(number + 1);
        self.changes.numbers.insert(Arc::clone(name), Some(number));
        number
    }

    pub(crate) fn forget(&mut self, name: &Arc<str>) {
        self.changes.numbers.insert(Arc::clone(name), None);
    }

    /// Writes what is not in the tables yet, once per batch.
    pub(crate) fn finish(self, to: &mut dyn Write) -> Result<Changes, StoreError> {
        let changes = self.changes;
        if let Some(position) = changes.position {
            to.put(Table::Meta, keys::META_POSITION, &position.to_be_bytes())?;
        }
        if let Some(number) = changes.next_number {
            to.put(Table::Meta, keys::META_NUMBER, &u64::from(number).to_be_bytes())?;
        }
        for (topic, sequence) in &changes.topics {
            to.put(Table::Topics, topic.as_bytes(), &sequence.to_be_bytes())?;
        }
        for (name, number) in &changes.numbers {
            match number {
                Some(number) => to.put(Table::Recipients, name.as_bytes(), &number.to_be_bytes())?,
                None => _ = to.remove(Table::Recipients, name.as_bytes())?,
            }
        }
        for (number, depth) in &changes.depths {
            let number = number.to_be_bytes();
            match depth {
                0 => _ = to.remove(Table::Depths, &number)?,
                depth => to.put(Table::Depths, &number, &depth.to_be_bytes())?,
            }
        }
        Ok(changes)
    }
}
