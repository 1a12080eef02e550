//! The writer: gathers orders, makes one transaction of them, tells the sink, and answers.
//!
//! It has no clock: times come with the orders, and only pauses are measured here. `repair.rs` has what it
//! does when the disk fails.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use crate::apply::{Batch, Published};
use crate::command::{Command, Question};
use crate::fail;
use crate::journal::{Answer, Recovered, Reply, Reporter, Shared, Sink};
use crate::keys;
use crate::query;
use crate::repair::{self, Repair};
use crate::settings::Settings;
use crate::state::{Changes, Staged, State};
use crate::store::{Opener, Store, StoreError, StoreErrorKind, Table};
use crate::types::{Committed, Outcome, PairState, Reason, RecipientId, Settled, Unavailable, Waiting};

/// About how many bytes of records one answer has.
const ANSWER_BYTES_MAX: usize = 4 << 20;

pub(crate) struct Writer {
    pub(crate) settings: Settings,
    pub(crate) opener: Box<dyn Opener>,
    /// Nothing while the disk has failed.
    pub(crate) store: Option<Box<dyn Store>>,
    pub(crate) state: State,
    pub(crate) repair: Repair,
    pub(crate) sink: Sink,
    reporter: Option<Reporter>,
    pub(crate) shared: Arc<Shared>,
    /// Acks that a failed commit left behind.
    pub(crate) carried: VecDeque<Ack>,
    chores: VecDeque<Chore>,
    receiver: Receiver<Command>,
    /// The newest time that an order brought.
    pub(crate) now: i64,
    closing: bool,
}

/// An ack as it waits for a commit.
pub(crate) struct Ack {
    pub(crate) recipient: RecipientId,
    pub(crate) positions: Vec<u64>,
    pub(crate) now: i64,
}

/// Work that is done in steps, one per batch, so that no publisher waits for the whole of it.
enum Chore {
    Expire { now: i64 },
    Revoke { number: u32, through: u64, now: i64, reply: Option<Reply<Answer<()>>> },
}

/// What a transaction came to; nothing of it counts before the commit.
#[derive(Default)]
struct Work {
    published: Vec<Published>,
    changes: Option<Changes>,
    chores: Vec<(u32, u64)>,
    chore_goes_on: bool,
    acks_strange: u64,
    /// Expired or old things were left for the next step.
    more: bool,
}

impl Writer {
    pub(crate) fn open(
        settings: Settings,
        mut opener: Box<dyn Opener>,
        sink: Sink,
        receiver: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Result<(Self, Recovered), StoreError> {
        let (store, state) = repair::open_first(opener.as_mut())?;
        let mut topics: Vec<_> = state.topics.iter().map(|(name, last)| (Arc::clone(name), *last)).collect();
        topics.sort_unstable();
        let mut notes = Vec::new();
        store.read(&mut |tables| {
            tables.each(Table::Notes, &mut |name, note| {
                notes.push((keys::text(name)?.into(), note.to_vec()));
                Ok(())
            })
        })?;
        let recipients = recipients(&state);
        let recovered = Recovered { position: state.position, topics, recipients, notes };
        let through = state.position;
        let chore = |number| Chore::Revoke { number, through, now: 0, reply: None };
        let chores = state.orphans().into_iter().map(chore).collect();
        let mut writer = Self {
            repair: Repair::new(&settings),
            settings,
            opener,
            store: Some(store),
            state,
            sink,
            reporter: None,
            shared,
            carried: VecDeque::new(),
            chores,
            receiver,
            now: 0,
            closing: false,
        };
        writer.look_for_room();
        Ok((writer, recovered))
    }

    pub(crate) fn run(mut self) {
        while !self.closing {
            let batch = self.gather();
            if self.store.is_some() {
                self.commit(batch);
            } else {
                self.refuse(batch);
            }
            if self.repair.is_due() {
                self.mend();
            }
        }
        // What came behind the order to close, and what was to be done in steps.
        while let Ok(command) = self.receiver.try_recv() {
            command.decline(Unavailable::Closed, Reason::Closed);
        }
        for chore in self.chores {
            if let Chore::Revoke { reply: Some(reply), .. } = chore {
                reply(Err(Unavailable::Closed));
            }
        }
    }

    /// Takes what is queued, up to the bounds of a batch. Waits for the first order, and for company when
    /// there are only acks.
    fn gather(&mut self) -> Vec<Command> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let idle = self.chores.is_empty() || self.store.is_none();
        let mut until = if idle { self.repair.due() } else { Some(Instant::now()) };
        let mut patient = true;
        while batch.len() < self.settings.batch_commands_max && bytes < self.settings.batch_bytes_max {
            let received = match until {
                _ if !patient => {
                    self.receiver.try_recv().map_err(|error| error == TryRecvError::Disconnected)
                }
                None => self.receiver.recv().map_err(|_| true),
                Some(until) => {
                    let pause = until.saturating_duration_since(Instant::now());
                    let received = self.receiver.recv_timeout(pause);
                    received.map_err(|error| error == RecvTimeoutError::Disconnected)
                }
            };
            match received {
                Ok(Command::Close) | Err(true) => {
                    self.closing = true;
                    break;
                }
                Err(false) => break,
                Ok(command) => {
                    self.shared.queued_bytes.fetch_sub(command.bytes(), Ordering::Relaxed);
                    bytes += command.bytes();
                    if batch.is_empty() && command.is_patient() {
                        let latest = Instant::now() + self.settings.ack_delay;
                        until = Some(until.map_or(latest, |until| until.min(latest)));
                    }
                    patient &= command.is_patient();
                    batch.push(command);
                }
            }
        }
        for command in &batch {
            let time = match command {
                Command::Publish { draft, .. } => draft.accepted_at,
                Command::Ack { now, .. } | Command::Expire { now } | Command::Revoke { now, .. } => *now,
                Command::Note { .. }
                | Command::Register { .. }
                | Command::Ask(_)
                | Command::ReportTo(_)
                | Command::Close => continue,
            };
            self.now = self.now.max(time);
        }
        batch
    }

    fn commit(&mut self, batch: Vec<Command>) {
        let asks = |command: &Command| matches!(command, Command::Ask(_));
        if batch.iter().all(asks) && self.carried.is_empty() && self.chores.is_empty() {
            return self.answer(batch, Vec::new(), Vec::new());
        }
        fail::hit(fail::BATCH_BEGIN);
        let mut work = Work::default();
        let (settings, state, now) = (&self.settings, &self.state, self.now);
        let (carried, chore) = (&self.carried, self.chores.front());
        // A full disk takes acks, not messages.
        let full = self.repair.full.as_deref();
        let store = self.store.as_mut().expect("open");
        let written = store.write(&mut |tables| {
            work = Work::default();
            let mut staged = Staged::new(state);
            {
                let mut batch_at_work = Batch { tables, staged: &mut staged, settings };
                for Ack { recipient, positions, now } in carried {
                    work.acks_strange += batch_at_work.ack(recipient, positions, *now)?;
                }
                for command in &batch {
                    carry_out(command, &mut batch_at_work, &mut work, full)?;
                    fail::hit(fail::BATCH_APPLIED_ONE);
                }
                work.chore_goes_on = match chore {
                    None => false,
                    Some(Chore::Expire { now }) => {
                        let expires = batch_at_work.expire(*now)?;
                        batch_at_work.prune(*now)? || expires
                    }
                    Some(Chore::Revoke { number, through, now: at, .. }) => {
                        fail::hit(fail::REVOKE);
                        batch_at_work.revoke(*number, *through, now.max(*at))?
                    }
                };
            }
            work.changes = Some(staged.finish(tables)?);
            Ok(())
        });
        match written {
            Ok(()) => self.committed(batch, work),
            Err(error) => {
                let late = work.published.into_iter().filter_map(|(_, committed)| committed).collect();
                self.failed(&error, work.changes, late);
                self.refuse(batch);
            }
        }
    }

    /// The batch is on disk: what it did is so, and may be told.
    fn committed(&mut self, batch: Vec<Command>, work: Work) {
        fail::hit(fail::COMMITTED);
        let before = self.state.position;
        let mut changes = work.changes.expect("a transaction that succeeded leaves its changes");
        let settled = std::mem::take(&mut changes.settled);
        self.state.apply(changes);
        assert!(self.state.position >= before, "I2: positions only grow");
        self.carried.clear();
        {
            let mut health = self.shared.health();
            health.commits += 1;
            health.acks_strange += work.acks_strange;
            for (outcome, _) in &work.published {
                match outcome {
                    Outcome::Accepted { .. } => health.accepted += 1,
                    Outcome::Duplicate { .. } | Outcome::Conflict { .. } => health.known += 1,
                    Outcome::Refused { .. } => health.refused += 1,
                    Outcome::NotDurable { .. } => health.not_durable += 1,
                }
            }
        }
        if !work.chore_goes_on
            && let Some(Chore::Revoke { reply: Some(reply), .. }) = self.chores.pop_front()
        {
            reply(Ok(()));
        }
        if work.more {
            self.chores.push_back(Chore::Expire { now: self.now });
        }
        self.answer(batch, work.published, work.chores);
        self.report(&settled);
    }

    /// Tells what became of pairs, to who asked for it.
    fn report(&mut self, settled: &[(u64, u32, PairState)]) {
        let (Some(reporter), Some(store)) = (&mut self.reporter, &self.store) else { return };
        if settled.is_empty() {
            return;
        }
        let concerned: HashSet<u32> = settled.iter().map(|(_, number, _)| *number).collect();
        let named = self.state.numbers.iter().filter(|(_, number)| concerned.contains(number));
        let names: HashMap<u32, &RecipientId> = named.map(|(name, number)| (*number, name)).collect();
        let at = self.now;
        let read = store.read(&mut |tables| {
            for (position, number, state) in settled {
                let Some(name) = names.get(number) else { continue };
                let Some(key) = tables.get(Table::IdOrder, &keys::position(*position))? else { continue };
                let (publisher, id) = keys::id_parts(&key)?;
                let (publisher, id, recipient) = (publisher.into(), id.to_vec(), Arc::clone(name));
                reporter(&Settled { publisher, id, position: *position, recipient, state: *state, at });
            }
            Ok(())
        });
        // Nobody waits for a report; what the disk said is known to the next order.
        let _ = self.told(read);
    }

    /// Answers all of a committed batch, in order. I1: nobody hears of a record before this.
    fn answer(&mut self, batch: Vec<Command>, published: Vec<Published>, chores: Vec<(u32, u64)>) {
        let mut published = published.into_iter();
        let mut chores = chores.into_iter();
        let mut questions = Vec::new();
        for command in batch {
            match command {
                Command::Publish { reply, .. } => {
                    let (outcome, committed) = published.next().expect("one outcome a publish");
                    if let Some(committed) = committed {
                        (self.sink)(&committed);
                    }
                    fail::hit(fail::BEFORE_REPLY);
                    reply(outcome);
                    fail::hit(fail::AFTER_REPLY);
                }
                Command::Note { reply, .. } | Command::Register { reply, .. } => reply(Ok(())),
                Command::Revoke { now, reply, .. } => match chores.next().expect("one a revocation") {
                    (u32::MAX, _) => reply(Ok(())),
                    (number, through) => {
                        self.chores.push_back(Chore::Revoke { number, through, now, reply: Some(reply) });
                    }
                },
                Command::Ask(question) => questions.push(question),
                Command::ReportTo(reporter) => self.reporter = Some(reporter),
                Command::Ack { .. } | Command::Expire { .. } | Command::Close => {}
            }
        }
        for question in questions {
            self.ask(question);
        }
    }

    fn ask(&mut self, question: Question) {
        let Some(store) = &self.store else { return question.decline(self.repair.unavailable()) };
        match question {
            Question::Recipients { reply } => reply(Ok(recipients(&self.state))),
            Question::Pending { recipient, from, limit, reply } => {
                let Some(number) = self.state.numbers.get(&recipient) else { return reply(Ok(Vec::new())) };
                let (mut records, mut damaged) = (Vec::new(), 0);
                let read = store.read(&mut |tables| {
                    records = query::pending(tables, *number, from, limit, ANSWER_BYTES_MAX, &mut damaged)?;
                    Ok(())
                });
                self.shared.health().damaged += damaged;
                reply(self.told(read).map(|()| records));
            }
            Question::Waiting { recipient, reply } => {
                let head = self.state.position;
                let mut waiting = Waiting { head, positions: Vec::new() };
                let Some(number) = self.state.numbers.get(&recipient) else { return reply(Ok(waiting)) };
                let depth = self.state.depths.get(number).map_or(0, |depth| *depth as usize);
                let read = store.read(&mut |tables| {
                    waiting.positions = query::waiting(tables, *number)?;
                    // A row that cannot be found any more would be a message that nobody hears of.
                    match waiting.positions.len() {
                        found if found == depth => Ok(()),
                        found => Err(StoreError::damaged(format!("{found} of {depth} that wait are found"))),
                    }
                });
                reply(self.told(read).map(|()| waiting));
            }
            Question::Records { positions, reply } => {
                let mut records = Vec::new();
                let read = store.read(&mut |tables| {
                    records = query::records(tables, &positions, ANSWER_BYTES_MAX)?;
                    Ok(())
                });
                reply(self.told(read).map(|()| records));
            }
            Question::Status { publisher, id, reply } => {
                let mut status = None;
                let read = store.read(&mut |tables| {
                    status = query::status(tables, &publisher, &id)?;
                    Ok(())
                });
                reply(self.told(read).map(|()| status));
            }
        }
    }

    /// A read that failed: a damaged record is that record's alone, a failed disk is everybody's.
    fn told(&mut self, read: Result<(), StoreError>) -> Answer<()> {
        let Err(error) = read else { return Ok(()) };
        if let StoreErrorKind::Damaged { position } = error.kind {
            self.shared.health().damaged += 1;
            return Err(Unavailable::Damaged { position });
        }
        self.failed(&error, None, Vec::new());
        Err(self.repair.unavailable())
    }

    /// Answers a batch that is not on disk. Acks are kept: they may be forgotten, but need not be (I9).
    fn refuse(&mut self, batch: Vec<Command>) {
        let why = self.repair.unavailable();
        for command in batch {
            match command {
                Command::Publish { reply, .. } => {
                    self.shared.health().not_durable += 1;
                    reply(Outcome::NotDurable { reason: why.to_string() });
                }
                Command::Ack { recipient, positions, now } => self.carry(Ack { recipient, positions, now }),
                other => other.decline(why.clone(), Reason::Closed),
            }
        }
    }

    fn carry(&mut self, ack: Ack) {
        let carried: usize = self.carried.iter().map(|ack| ack.positions.len()).sum();
        if carried + ack.positions.len() > self.settings.carried_acks_max {
            self.shared.health().acks_forgotten += ack.positions.len() as u64;
        } else {
            self.carried.push_back(ack);
        }
    }
}

fn recipients(state: &State) -> Vec<(RecipientId, u32)> {
    let depth = |number: &u32| state.depths.get(number).copied().unwrap_or(0);
    let mut all: Vec<_> =
        state.numbers.iter().map(|(name, number)| (Arc::clone(name), depth(number))).collect();
    all.sort_unstable();
    all
}

/// One order of a batch, in its transaction.
fn carry_out(
    command: &Command,
    batch: &mut Batch<'_, '_>,
    work: &mut Work,
    full: Option<&str>,
) -> Result<(), StoreError> {
    match command {
        Command::Publish { draft, .. } => {
            let published = match full {
                Some(reason) => (Outcome::NotDurable { reason: reason.to_owned() }, None),
                None => batch.publish(draft)?,
            };
            work.published.push(published);
        }
        Command::Ack { recipient, positions, now } => {
            work.acks_strange += batch.ack(recipient, positions, *now)?;
        }
        Command::Expire { now } => {
            let expires = batch.expire(*now)?;
            fail::hit(fail::PRUNE);
            work.more |= batch.prune(*now)? || expires;
        }
        Command::Register { recipient, .. } => _ = batch.staged.register(recipient),
        Command::Note { recipient, note, .. } => {
            batch.staged.register(recipient);
            batch.tables.put(Table::Notes, recipient.as_bytes(), note)?;
        }
        Command::Revoke { recipient, forget, .. } => {
            let number = batch.staged.number(recipient).unwrap_or(u32::MAX);
            if *forget {
                batch.staged.forget(recipient);
                batch.tables.remove(Table::Notes, recipient.as_bytes())?;
            }
            work.chores.push((number, batch.staged.position()));
        }
        Command::Ask(_) | Command::ReportTo(_) | Command::Close => {}
    }
    Ok(())
}

/// The records of a batch whose commit failed, should they turn out to be on disk.
pub(crate) fn late(mut committed: Committed) -> Committed {
    committed.late = true;
    committed
}
