//! What waits for one identity: handed out to its present connection, and fetched from the journal in parts.
//!
//! ```text
//!   sink ── offer ──► ┌──────────────────┐ ── next ──► connection
//!                     │ up to 100 records │
//!   disk ── found ──► └──────────────────┘ ◄── ack ───
//! ```
//!
//! Only a mailbox that has caught up with the journal takes offers. One that is new, absent or past its bound
//! does not; it asks the journal for the next part whenever it has handed out what it holds, and has caught
//! up when a part is empty. Offers and parts come from the journal's one thread, so none is missed between the
//! two.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use tickcast_journal::{Ack, AckError, Delivery, Generation, Record};

/// Records a mailbox holds at most, and asks for at once.
pub const HELD_MAX: usize = 100;

/// Tells a connection that there is something to do.
pub type Nudge = Box<dyn Fn() + Send>;

/// Something to send.
#[derive(Clone, Debug)]
pub struct Letter {
    /// What.
    pub record: Arc<Record>,
    /// How often it was handed out, this time included.
    pub attempt: u32,
}

/// See the module.
#[derive(Default)]
pub struct Mailbox {
    delivery: Delivery,
    /// Those that wait and are at hand. Of what was handed out to an earlier connection only the position is
    /// known, until it is fetched.
    records: BTreeMap<u64, Arc<Record>>,
    owner: Option<Nudge>,
    /// Everything that waits is at hand.
    caught_up: bool,
    /// A part was asked for and did not come yet.
    fetching: bool,
    /// The last position that was at hand for the present connection.
    through: u64,
    /// A part could not be had: the next one is not asked for before, in ns UTC.
    not_before: i64,
    /// What was accepted up to here may have been handed out by an earlier run.
    old_through: u64,
}

impl Mailbox {
    /// Of an identity that an earlier run of the server knew, where the journal stood at `old_through`.
    #[must_use]
    pub fn restored(old_through: u64) -> Self {
        let mut mailbox = Self { old_through, ..Self::default() };
        mailbox.delivery.advance(old_through);
        mailbox
    }

    /// A connection of the identity, the only one from now on. The one before is nudged and finds out.
    pub fn attach(&mut self, nudge: Nudge) -> Generation {
        if let Some(other) = self.owner.replace(nudge) {
            other();
        }
        self.forget();
        self.delivery.attach()
    }

    /// A connection has gone.
    pub fn detach(&mut self, generation: Generation) {
        if self.delivery.owns(generation) {
            self.delivery.detach(generation);
            self.owner = None;
            self.forget();
        }
    }

    /// True for the identity's present connection.
    #[must_use]
    pub fn owns(&self, generation: Generation) -> bool {
        self.delivery.owns(generation)
    }

    /// Lets go of the records. Which of them were handed out, and how often, stays known.
    fn forget(&mut self) {
        self.records.clear();
        (self.caught_up, self.fetching, self.through, self.not_before) = (false, false, 0, 0);
    }

    /// A record that was just committed and waits for the identity.
    pub fn offer(&mut self, record: &Arc<Record>) {
        if self.caught_up && self.records.len() < HELD_MAX {
            self.records.insert(record.position, Arc::clone(record));
            self.delivery.offer(record.position, record.expires_at);
            self.through = record.position;
        } else {
            self.caught_up = false;
        }
        self.nudge();
    }

    /// A record does not wait any more: a newer one of its collapse key does.
    pub fn settle(&mut self, position: u64) {
        self.delivery.settle(position);
        self.records.remove(&position);
    }

    /// Nothing waits any more: the identity was revoked.
    pub fn revoke(&mut self) {
        self.delivery.revoke();
        self.records.clear();
        self.nudge();
    }

    /// From where to ask the journal for the next part, when there is need of one. Says so once.
    pub fn wants(&mut self, now: i64) -> Option<u64> {
        let is_short = self.owner.is_some() && !self.caught_up && !self.fetching && now >= self.not_before;
        let wants = is_short && !self.delivery.peek(now).is_some_and(|next| self.records.contains_key(&next));
        self.fetching |= wants;
        wants.then_some(self.through + 1)
    }

    /// A part that was asked for: what waits from `from` on, up to [`HELD_MAX`] records, empty when there are
    /// no more. `None` when it could not be had: it is asked for again after `retry_at`, in ns UTC.
    pub fn fetched(&mut self, from: u64, part: Option<Vec<Record>>, retry_at: i64) {
        if !self.fetching || from != self.through + 1 {
            // For a connection that has gone.
            return;
        }
        self.fetching = false;
        if part.is_none() {
            self.not_before = retry_at;
        }
        if let Some(records) = part {
            self.not_before = 0;
            self.caught_up = records.is_empty();
            let through = records.last().map_or(u64::MAX, |last| last.position);
            let mut gone = self.delivery.waiting(from..=through);
            for record in records {
                gone.remove(&record.position);
                let is_old = record.position <= self.old_through;
                self.delivery.found(record.position, record.expires_at, is_old);
                self.through = record.position;
                self.records.insert(record.position, Arc::new(record));
            }
            // Settled while nobody was here: expired, revoked or superseded.
            gone.into_iter().for_each(|position| self.settle(position));
        }
        self.nudge();
    }

    /// What to send next to the connection, while its window has room.
    pub fn next(&mut self, now: i64, generation: Generation) -> Option<Letter> {
        self.tick(now);
        let record = Arc::clone(self.records.get(&self.delivery.peek(now)?)?);
        let send = self.delivery.next(now, generation)?;
        debug_assert_eq!(send.position, record.position, "the oldest that waits goes first");
        Some(Letter { record, attempt: send.attempt })
    }

    /// What the connection has: the positions to tell the journal.
    ///
    /// # Errors
    /// [`AckError`]; nothing has changed.
    pub fn ack(&mut self, generation: Generation, ack: &Ack) -> Result<Vec<u64>, AckError> {
        let acked = self.delivery.ack(generation, ack)?;
        for position in &acked {
            self.records.remove(position);
        }
        Ok(acked)
    }

    /// Ends what has expired, and takes back what was not acknowledged in time.
    pub fn tick(&mut self, now: i64) {
        for position in self.delivery.tick(now) {
            self.records.remove(&position);
        }
    }

    /// When time alone asks for something, in ns UTC.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        let retry = (self.owner.is_some() && !self.caught_up && !self.fetching).then_some(self.not_before);
        self.delivery.due().into_iter().chain(retry.filter(|at| *at > 0)).min()
    }

    fn nudge(&self) {
        if let Some(nudge) = &self.owner {
            nudge();
        }
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("waiting", &self.delivery.depth())
            .field("in_flight", &self.delivery.in_flight())
            .field("held", &self.records.len())
            .finish_non_exhaustive()
    }
}
