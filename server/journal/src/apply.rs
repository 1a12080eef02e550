//! What each command does to the tables, within the transaction of its batch. No thread, no reply, no clock.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::keys::{self, Fields, Known, NEVER, PendingRow};
use crate::record;
use crate::settings::Settings;
use crate::state::Staged;
use crate::store::{StoreError, Table, Write};
use crate::types::{
    AUDIENCE_MAX, Committed, Draft, FRAME_BYTES_MAX, ID_BYTES_MAX, NAME_BYTES_MAX, Outcome, PairState,
    Reason, RecipientId, Record, Refusal, RefusalReason,
};

/// Pairs that one step of an expiry or revocation settles.
pub(crate) const SETTLED_PER_STEP: usize = 2_048;
/// Old ids, and old records, that are removed by one batch.
pub(crate) const PRUNED_PER_BATCH: usize = 256;

/// What a publish came to; with the record when there is a new one.
pub(crate) type Published = (Outcome, Option<Committed>);

/// Refuses what could never be kept, before it takes up room in the queue.
pub(crate) fn check(draft: &Draft) -> Result<(), Reason> {
    let name = |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    let field = if !name(&draft.publisher) {
        "publisher"
    } else if draft.id.is_empty() || draft.id.len() > ID_BYTES_MAX {
        "id"
    } else if !name(&draft.topic) {
        "topic"
    } else if draft.frame.len() > FRAME_BYTES_MAX {
        "frame"
    } else if draft.collapse_key.as_deref().is_some_and(|key| !name(key)) {
        "collapse_key"
    } else if draft.audience.len() > AUDIENCE_MAX || !draft.audience.iter().all(|one| name(one)) {
        "audience"
    } else {
        return Ok(());
    };
    Err(Reason::Invalid(field))
}

/// One batch at work.
pub(crate) struct Batch<'a, 'b> {
    pub(crate) tables: &'a mut dyn Write,
    pub(crate) staged: &'a mut Staged<'b>,
    pub(crate) settings: &'a Settings,
}

impl Batch<'_, '_> {
    pub(crate) fn publish(&mut self, draft: &Draft) -> Result<Published, StoreError> {
        let id = keys::id(&draft.publisher, &draft.id);
        if let Some(known) = self.tables.get(Table::Ids, &id)? {
            let Known { position, sequence, hash, .. } = Known::decode(&known)?;
            let same = hash == draft.hash;
            let outcome =
                if same { Outcome::Duplicate { position, sequence } } else { Outcome::Conflict { position } };
            return Ok((outcome, None));
        }
        if draft.expires_at.is_some_and(|expires_at| expires_at <= draft.accepted_at) {
            return Ok((Outcome::Refused { reason: Reason::Expired, recipients: Vec::new() }, None));
        }
        let collapse =
            draft.collapse_key.as_deref().map_or(Vec::new(), |key| keys::collapse(&draft.topic, key));
        let (takers, refused) = self.takers(draft, &collapse)?;
        if takers.is_empty() && !draft.audience.is_empty() {
            let full = refused.iter().any(|one| matches!(one.why, RefusalReason::QueueFull { .. }));
            let reason = if full { Reason::QueueFull } else { Reason::NobodyKnown };
            return Ok((Outcome::Refused { reason, recipients: refused }, None));
        }
        let before = self.staged.sequence(&draft.topic);
        let (position, sequence) = self.staged.advance(&draft.topic);
        assert!(sequence == before + 1, "I2: sequences have no holes");
        let record = Record {
            position,
            sequence,
            topic: Arc::clone(&draft.topic),
            publisher: Arc::clone(&draft.publisher),
            id: draft.id.clone(),
            hash: draft.hash,
            accepted_at: draft.accepted_at,
            expires_at: draft.expires_at,
            frame: draft.frame.clone(),
        };
        self.insert(&record, &id)?;
        let mut queued = Vec::with_capacity(takers.len());
        let mut superseded = Vec::new();
        for taker in takers {
            if let Some(older) = taker.supersedes {
                self.settle(taker.number, older, PairState::Superseded, draft.accepted_at)?;
                superseded.push((Arc::clone(&taker.name), older));
            }
            self.queue(&record, taker.number, &collapse)?;
            queued.push(taker.name);
        }
        let count = queued.len() as u32;
        self.count(&record, count)?;
        let outcome = Outcome::Accepted { position, sequence, queued: count, refused };
        Ok((outcome, Some(Committed { record, queued, superseded, late: false })))
    }

    /// Who of the audience takes the message, and who refuses it.
    fn takers(&mut self, draft: &Draft, collapse: &[u8]) -> Result<(Vec<Taker>, Vec<Refusal>), StoreError> {
        let (mut takers, mut refused) = (Vec::new(), Vec::new());
        let mut audience = draft.audience.clone();
        audience.sort_unstable();
        audience.dedup();
        let mut expired = false;
        for name in audience {
            let Some(number) = self.staged.number(&name) else {
                refused.push(Refusal { recipient: name, why: RefusalReason::Unknown });
                continue;
            };
            let supersedes = match collapse {
                [] => None,
                key => self.tables.get(Table::Collapse, &keys::with_number(number, key))?,
            };
            let supersedes = supersedes.map(|position| Fields(&position).u64()).transpose()?;
            // One that takes the place of another needs no room.
            let mut full = match supersedes {
                Some(_) => None,
                None => self.fullness(number, draft.accepted_at)?,
            };
            if full.is_some() && !expired {
                // What expired goes before anyone is refused; once a message is enough.
                self.expire(draft.accepted_at)?;
                expired = true;
                full = self.fullness(number, draft.accepted_at)?;
            }
            match full {
                Some(why) => refused.push(Refusal { recipient: name, why }),
                None => takers.push(Taker { name, number, supersedes }),
            }
        }
        if expired {
            // Making room for one may have settled what another was to supersede.
            for taker in &mut takers {
                if let Some(older) = taker.supersedes {
                    let waits = self.tables.get(Table::Pending, &keys::pending(taker.number, older))?;
                    taker.supersedes = waits.map(|_| older);
                }
            }
        }
        Ok((takers, refused))
    }

    /// Why nothing more may wait for a recipient, if so.
    fn fullness(&self, number: u32, now: i64) -> Result<Option<RefusalReason>, StoreError> {
        let depth = self.staged.depth(number);
        if depth < self.settings.hot_max {
            return Ok(None);
        }
        let (from, to) = (keys::pending(number, 0), keys::pending(number, u64::MAX));
        let oldest = self.tables.scan(Table::Pending, &from, &to, 1)?;
        let oldest = oldest.first().map(|(_, value)| PendingRow::decode(value)).transpose()?;
        let oldest_age = oldest.map_or(0, |oldest| now.saturating_sub(oldest.accepted_at));
        let full = depth >= self.settings.spill_max || oldest_age >= self.settings.spill_age_max;
        Ok(full.then_some(RefusalReason::QueueFull { depth, oldest_age }))
    }

    fn insert(&mut self, record: &Record, id: &[u8]) -> Result<(), StoreError> {
        let position = keys::position(record.position);
        let known = Known {
            position: record.position,
            sequence: record.sequence,
            accepted_at: record.accepted_at,
            hash: record.hash,
        };
        self.tables.put(Table::Records, &position, &record::encode(record))?;
        self.tables.put(Table::Ids, id, &known.encode())?;
        self.tables.put(Table::IdOrder, &position, id)
    }

    fn queue(&mut self, record: &Record, number: u32, collapse: &[u8]) -> Result<(), StoreError> {
        let waiting = PendingRow {
            expires_at: record.expires_at.unwrap_or(NEVER),
            accepted_at: record.accepted_at,
            collapse: collapse.to_vec(),
        };
        let state = keys::pair_value(PairState::Pending, record.accepted_at);
        self.tables.put(Table::Pairs, &keys::pair(record.position, number), &state)?;
        self.tables.put(Table::Pending, &keys::pending(number, record.position), &waiting.encode())?;
        if !collapse.is_empty() {
            let key = keys::with_number(number, collapse);
            self.tables.put(Table::Collapse, &key, &keys::position(record.position))?;
        }
        self.staged.deepen(number);
        Ok(())
    }

    fn count(&mut self, record: &Record, queued: u32) -> Result<(), StoreError> {
        if queued == 0 {
            return self.tables.put(Table::Closed, &keys::timed(record.accepted_at, record.position), &[]);
        }
        self.tables.put(Table::Open, &keys::position(record.position), &queued.to_be_bytes())?;
        match record.expires_at {
            Some(at) => self.tables.put(Table::Expiry, &keys::timed(at, record.position), &[]),
            None => Ok(()),
        }
    }

    /// Ends a pair, for ever. False when it does not wait: it was settled before, or never was.
    fn settle(&mut self, number: u32, position: u64, to: PairState, now: i64) -> Result<bool, StoreError> {
        let key = keys::pending(number, position);
        let Some(waiting) = self.tables.get(Table::Pending, &key)? else { return Ok(false) };
        let waiting = PendingRow::decode(&waiting)?;
        let pair = keys::pair(position, number);
        let was = self.tables.get(Table::Pairs, &pair)?.map(|value| keys::pair_state(&value)).transpose()?;
        if was != Some(PairState::Pending) {
            return Err(StoreError::damaged(format!("I4: record {position} waits for one who settled it")));
        }
        self.tables.remove(Table::Pending, &key)?;
        self.tables.put(Table::Pairs, &pair, &keys::pair_value(to, now))?;
        if !waiting.collapse.is_empty() {
            let key = keys::with_number(number, &waiting.collapse);
            let newest = self.tables.get(Table::Collapse, &key)?;
            if newest.as_deref() == Some(&keys::position(position)) {
                self.tables.remove(Table::Collapse, &key)?;
            }
        }
        let open = self.tables.get(Table::Open, &keys::position(position))?;
        let open = open.map(|count| Fields(&count).u32()).transpose()?.unwrap_or(0);
        match open {
            0 => return Err(StoreError::damaged(format!("I4: record {position} waits and is not counted"))),
            1 => {
                self.tables.remove(Table::Open, &keys::position(position))?;
                if waiting.expires_at != NEVER {
                    self.tables.remove(Table::Expiry, &keys::timed(waiting.expires_at, position))?;
                }
                self.tables.put(Table::Closed, &keys::timed(now, position), &[])?;
            }
            more => self.tables.put(Table::Open, &keys::position(position), &(more - 1).to_be_bytes())?,
        }
        self.staged.lighten(number);
        self.staged.settled(position, number, to);
        Ok(true)
    }

    /// Says that a recipient has these; how many of them did not wait for it.
    pub(crate) fn ack(&mut self, name: &str, positions: &[u64], now: i64) -> Result<u64, StoreError> {
        let Some(number) = self.staged.number(name) else { return Ok(positions.len() as u64) };
        let mut strangers = 0;
        for position in positions {
            strangers += u64::from(!self.settle(number, *position, PairState::Acked, now)?);
        }
        Ok(strangers)
    }

    /// Ends what is due, up to a bound. True when more is.
    pub(crate) fn expire(&mut self, now: i64) -> Result<bool, StoreError> {
        let mut left = SETTLED_PER_STEP;
        let (from, to) = (keys::timed(i64::MIN, 0), keys::timed(now, u64::MAX));
        let due = self.tables.scan(Table::Expiry, &from, &to, SETTLED_PER_STEP)?;
        for (key, _) in due {
            let mut key = Fields(&key);
            let (_, position) = (key.time()?, key.u64()?);
            let (from, to) = (keys::pair(position, 0), keys::pair(position + 1, 0));
            for (pair, value) in self.tables.scan(Table::Pairs, &from, &to, usize::MAX)? {
                if keys::pair_state(&value)? != PairState::Pending {
                    continue;
                }
                if left == 0 {
                    return Ok(true);
                }
                left -= 1;
                let number = Fields(&pair[8..]).u32()?;
                self.settle(number, position, PairState::Expired, now)?;
            }
        }
        Ok(false)
    }

    /// Ends what waits for a number up to a position, up to a bound. True when more does.
    pub(crate) fn revoke(&mut self, number: u32, through: u64, now: i64) -> Result<bool, StoreError> {
        let (from, to) = (keys::pending(number, 0), keys::pending(number, through.saturating_add(1)));
        let waiting = self.tables.scan(Table::Pending, &from, &to, SETTLED_PER_STEP)?;
        for (key, _) in &waiting {
            let position = Fields(&key[4..]).u64()?;
            self.settle(number, position, PairState::Revoked, now)?;
        }
        Ok(waiting.len() == SETTLED_PER_STEP)
    }

    /// Removes records that were settled long ago and ids that may be forgotten, up to a bound. True when
    /// more may go.
    pub(crate) fn prune(&mut self, now: i64) -> Result<bool, StoreError> {
        let before = keys::timed(now.saturating_sub(self.settings.retention), 0);
        let old = self.tables.scan(Table::Closed, &keys::timed(i64::MIN, 0), &before, PRUNED_PER_BATCH)?;
        for (key, _) in &old {
            let position = Fields(&key[8..]).u64()?;
            let (from, to) = (keys::pair(position, 0), keys::pair(position + 1, 0));
            for (pair, value) in self.tables.scan(Table::Pairs, &from, &to, usize::MAX)? {
                if keys::pair_state(&value)? == PairState::Pending {
                    return Err(StoreError::damaged(format!("I4: record {position} is closed and waits")));
                }
                self.tables.remove(Table::Pairs, &pair)?;
            }
            self.remove_record(position)?;
            self.tables.remove(Table::Closed, key)?;
        }
        Ok(self.prune_ids(now)? || old.len() == PRUNED_PER_BATCH)
    }

    /// With its id, if that was old enough to go and waited for its record.
    fn remove_record(&mut self, position: u64) -> Result<(), StoreError> {
        let key = keys::position(position);
        if self.tables.get(Table::IdOrder, &key)?.is_none()
            && let Some(value) = self.tables.get(Table::Records, &key)?
        {
            let record = record::decode(position, &value)?;
            self.tables.remove(Table::Ids, &keys::id(&record.publisher, &record.id))?;
        }
        self.tables.remove(Table::Records, &key)?;
        Ok(())
    }

    fn prune_ids(&mut self, now: i64) -> Result<bool, StoreError> {
        let spare = self.tables.len(Table::IdOrder)?.saturating_sub(self.settings.ids_min);
        let most = usize::try_from(spare).unwrap_or(usize::MAX).min(PRUNED_PER_BATCH);
        let oldest = self.tables.scan(Table::IdOrder, &[], &[0xff; 9], most)?;
        for (position, id) in &oldest {
            let Some(known) = self.tables.get(Table::Ids, id)? else {
                return Err(StoreError::damaged("I3: an id is in order and not known"));
            };
            if Known::decode(&known)?.accepted_at > now.saturating_sub(self.settings.id_age_min) {
                return Ok(false);
            }
            // An id is remembered as long as its record, so that its status can be asked; out of order, it
            // goes with the record.
            if self.tables.get(Table::Records, position)?.is_none() {
                self.tables.remove(Table::Ids, id)?;
            }
            self.tables.remove(Table::IdOrder, position)?;
        }
        Ok(most == PRUNED_PER_BATCH)
    }
}

struct Taker {
    name: RecipientId,
    number: u32,
    supersedes: Option<u64>,
}
