//! One shard: its peers, its index, its history; and a turn, which takes events from the ring to runs.
//!
//! ```text
//!   ring ─► inbox ─► turn ─► history
//!                     │
//!                     └────► run of each group ─► flush ─► socket
//!                                                   └────► outbox ─► socket, when it can
//! ```
//!
//! A turn works per delivery group, not per subscriber: one lookup, one reference, one length. What is
//! the same for all members is written once (`flush.rs`). What differs (notices, binds) is queued per
//! peer and is rare; where it must come between two events, the turn ends early and the flush comes
//! first. What an event does to groups is in `deliver.rs`, subscribing in `subscribe.rs`, announcing
//! streams in `bind.rs`, telling how they are in `states.rs`.
//!
//! Everything here runs on one thread and waits for nothing. The server calls [`Shard::turn`], then
//! [`Shard::flush`], until nothing remains, then sleeps by [`Shard::prepare_to_sleep`], at most until
//! [`Shard::next_due`].
#![forbid(unsafe_code)]

use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tickcast_protocol::message::{Notice, NoticeKind, Reason, StreamState};
use tickcast_protocol::{CloseCode, Epoch, Message, StreamId};

use crate::deliver::Alarm;

use crate::engine::{EngineConfig, Waker};
use crate::event::{Event, Format, Item, Note, Render, Skip};
use crate::flush::Batch;
use crate::history::HistoryLimits;
use crate::index::{GroupId, Index};
use crate::ledger::{Cause, Loss};
use crate::outbox::{Mark, OutboxLimits};
use crate::peer::{PeerId, PeerStatus, Peers};
use crate::records::Records;
use crate::ring::Reader;
use crate::stats::ShardStats;
use crate::store::Store;
use crate::wake::WakeFlag;

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Events (and gaps) distributed.
    pub drained: usize,
    /// Events the ring overwrote before this turn could read them.
    pub lapped: u64,
    /// True when there is more: flush, then turn again.
    pub remaining: bool,
    /// When the oldest and the newest of the turn's events were published, in ns since the Unix epoch.
    pub published: Option<(u64, u64)>,
}

/// A control message that found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The peer has left.
    UnknownPeer,
    /// The reserved place is full: the peer does not read. Close it.
    Full,
}

/// One thread's part of the fan-out.
pub struct Shard {
    pub(crate) epoch: Epoch,
    /// When the epoch's history began, in ns since the Unix epoch.
    pub(crate) begun: u64,
    reader: Reader<Item>,
    flag: Arc<WakeFlag<Waker>>,
    pub(crate) records: Arc<Records>,
    pub(crate) render: Arc<dyn Render>,
    pub(crate) stats: Arc<ShardStats>,
    pub(crate) limits: OutboxLimits,
    pub(crate) history_limits: HistoryLimits,
    turn_events: usize,
    /// The publish time of the newest thing that was distributed: what was published by then has been, and what
    /// is published later has a later one. In ns since the Unix epoch.
    distributed: u64,
    /// The time of the present turn, in ns on the caller's clock.
    pub(crate) now: u64,
    pub(crate) store: Store,
    pub(crate) index: Index,
    pub(crate) peers: Peers,
    /// Read from the ring, not yet distributed. Longer than a turn only during a repair.
    inbox: VecDeque<Work>,
    /// Times the runs were begun anew.
    pub(crate) turns: u64,
    /// A run of this turn is full, or all of them together.
    pub(crate) run_full: bool,
    /// References in the runs of this turn.
    pub(crate) run_frames: usize,
    /// When what is held is due.
    pub(crate) alarms: BinaryHeap<Alarm>,
    /// Groups with a run.
    pub(crate) dirty_groups: Vec<GroupId>,
    /// Peers with something to write besides a run.
    pub(crate) dirty_peers: Vec<u32>,
    closing: VecDeque<(PeerId, CloseCode)>,
    /// Events in all outboxes.
    pub(crate) queued: u64,
    // Buffers that every flush uses again.
    pub(crate) batch: Batch,
    pub(crate) write_buffer: Vec<u8>,
    pub(crate) write_marks: Vec<Mark>,
    pub(crate) tally: Vec<(StreamId, Loss)>,
    pub(crate) touched: Vec<GroupId>,
    /// A mistake to be made once, to see that it is noticed.
    #[cfg(all(test, not(tickcast_loom)))]
    pub(crate) fault: Option<Fault>,
    /// The group it was made to, the stream, and the last sequence concerned.
    #[cfg(all(test, not(tickcast_loom)))]
    pub(crate) wronged: Option<(GroupId, StreamId, u64)>,
}

/// What a mistake would look like.
#[cfg(all(test, not(tickcast_loom)))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An event that passes a filter is taken for one that does not.
    Filter,
    /// What a filter left out is not told.
    Silence,
}

/// One thing to distribute.
#[derive(Debug)]
enum Work {
    Event(Arc<Event>),
    Skip(Skip),
    Gap(StreamId, Loss),
    States(Arc<[Note]>),
    /// The ring was lapped; it goes on at this position.
    Repair(u64),
}

/// How one thing went.
enum Step {
    Done,
    /// Something must be done first, and was put in front.
    Again,
    /// The runs must be written first.
    Stop(Work),
}

impl Shard {
    pub(crate) fn new(
        config: &EngineConfig,
        epoch: Epoch,
        reader: Reader<Item>,
        records: Arc<Records>,
        render: Arc<dyn Render>,
        flag: Arc<WakeFlag<Waker>>,
        stats: Arc<ShardStats>,
    ) -> Self {
        Self {
            epoch,
            begun: config.begun,
            reader,
            flag,
            records,
            render,
            stats,
            limits: OutboxLimits {
                events: config.outbox_events,
                bytes: config.outbox_bytes,
                critical_events: config.critical_events,
                critical_bytes: config.critical_bytes,
            },
            history_limits: HistoryLimits { events: config.history_events, bytes: config.history_bytes },
            turn_events: config.turn_events,
            distributed: config.begun.saturating_sub(1),
            now: 0,
            store: Store::default(),
            index: Index::default(),
            peers: Peers::default(),
            inbox: VecDeque::new(),
            turns: 0,
            run_full: false,
            run_frames: 0,
            alarms: BinaryHeap::new(),
            dirty_groups: Vec::new(),
            dirty_peers: Vec::new(),
            closing: VecDeque::new(),
            queued: 0,
            batch: Batch::default(),
            write_buffer: Vec::new(),
            write_marks: Vec::new(),
            tally: Vec::new(),
            touched: Vec::new(),
            #[cfg(all(test, not(tickcast_loom)))]
            fault: None,
            #[cfg(all(test, not(tickcast_loom)))]
            wronged: None,
        }
    }

    /// Takes a new peer, which reads `format`.
    pub fn attach(&mut self, format: Format) -> PeerId {
        let peer = self.peers.insert(format);
        self.stats.peers.set(self.peers.len() as u64);
        peer
    }

    /// Lets a peer go, with all that waits for it. A stale id is ignored.
    pub fn detach(&mut self, peer: PeerId) {
        let Some(index) = self.peers.find(peer) else { return };
        if let Some(group) = self.peers.member(index).group {
            self.spill_run(group);
            self.leave_group(index, group);
        }
        let Some(mut peer) = self.peers.remove(index) else { return };
        self.queued -= peer.waiting();
        if let Some(queue) = &mut peer.queue {
            queue.outbox.clear_events(&mut self.store);
        }
        peer.subscriptions.iter().for_each(|ended| self.index.release(ended.interest));
        let ended = peer.subscriptions.len() as u64;
        self.stats.subscriptions.set(self.stats.subscriptions.get() - ended);
        self.stats.queued.set(self.queued);
        self.stats.peers.set(self.peers.len() as u64);
        self.stats.groups.set(self.index.groups_len() as u64);
        self.stats.conditions.set(self.index.conditions.len() as u64);
    }

    /// Queues a control message, head included, in its reserved place, and writes it at the next flush.
    ///
    /// # Errors
    /// [`SendError::Full`] past [`crate::CONTROL_MESSAGES_MAX`] or [`crate::CONTROL_BYTES_MAX`].
    pub fn send(&mut self, peer: PeerId, bytes: Bytes) -> Result<(), SendError> {
        let index = self.peers.find(peer).ok_or(SendError::UnknownPeer)?;
        let outbox = &mut self.peers.member(index).queue().outbox;
        if outbox.control_is_full(bytes.len()) {
            self.stats.control_refused.add(1);
            return Err(SendError::Full);
        }
        outbox.push_control(bytes);
        self.mark_dirty(index);
        Ok(())
    }

    /// Sends what is due, and distributes up to `turn_events` events to runs, histories and outboxes. Flush
    /// afterwards: runs that were not flushed before the next turn go to outboxes, which costs more. `now`
    /// is in ns on any clock that goes forward; of no meaning while [`keeps_time`](Self::keeps_time) says no.
    pub fn turn(&mut self, now: u64) -> Turn {
        self.spill_runs();
        self.turns += 1;
        self.run_full = false;
        self.run_frames = 0;
        self.now = now;
        let more_due = self.send_due();
        let lapped = if self.inbox.is_empty() { self.read() } else { 0 };
        let mut drained = 0;
        let mut published: Option<(u64, u64)> = None;
        while drained < self.turn_events && !self.run_full {
            let Some(work) = self.inbox.pop_front() else { break };
            let time = match &work {
                Work::Event(event) => {
                    // Publish times never run backwards, so the last one is the newest.
                    let time = event.publish_time();
                    published = Some((published.map_or(time, |(oldest, _)| oldest), time));
                    time
                }
                Work::Skip(skip) => skip.publish_time,
                Work::Gap(..) | Work::States(_) | Work::Repair(_) => 0,
            };
            match self.work(work) {
                Step::Done => {
                    drained += 1;
                    self.distributed = self.distributed.max(time);
                }
                Step::Again => {}
                Step::Stop(work) => {
                    self.inbox.push_front(work);
                    break;
                }
            }
        }
        self.stats.events.add(drained as u64);
        self.stats.position.set(self.reader.position().saturating_sub(self.inbox.len() as u64));
        Turn { drained, lapped, remaining: more_due || self.has_input(), published }
    }

    /// True while some subscription has a rate, so that turns must be told the time.
    #[must_use]
    pub fn keeps_time(&self) -> bool {
        self.index.rated() > 0
    }

    /// The next peer that must be closed, and why; each is named once. Nothing but control messages is
    /// written to it any more, so a close frame can still be sent.
    pub fn next_closing(&mut self) -> Option<(PeerId, CloseCode)> {
        loop {
            let (peer, code) = self.closing.pop_front()?;
            if self.peers.find(peer).is_some() {
                return Some((peer, code));
            }
        }
    }

    /// Says whether the shard may block until its notifier is called. Publishers see it as asleep from
    /// here on, so a shard woken by something else calls [`stay_awake`](Self::stay_awake).
    #[must_use = "a shard that blocks although there is work waits for the next event"]
    pub fn prepare_to_sleep(&self) -> bool {
        self.flag.prepare_to_sleep(|| self.has_work())
    }

    /// To be called when a socket or timer ended the shard's sleep.
    pub fn stay_awake(&self) {
        self.flag.stay_awake();
    }

    /// True when a turn or a flush would do something.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.has_input()
            || !self.dirty_groups.is_empty()
            || !self.dirty_peers.is_empty()
            || !self.closing.is_empty()
    }

    /// How one peer is doing, or `None` when it has left.
    #[must_use]
    pub fn peer_status(&self, peer: PeerId) -> Option<PeerStatus> {
        self.peers.get(self.peers.find(peer)?).map(|peer| peer.status(&self.index))
    }

    /// The shard's counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<ShardStats> {
        &self.stats
    }

    /// The life of the history that sequences belong to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When that history began, in ns since the Unix epoch.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Everything that was published up to this time has been distributed, to runs, histories and outboxes, or
    /// was told as lost; what is published from now on has a later one. In ns since the Unix epoch.
    #[must_use]
    pub fn distributed(&self) -> u64 {
        self.distributed
    }

    /// Distributes everything up to where the ring ends now. Runs go to outboxes.
    pub(crate) fn catch_up(&mut self) {
        let target = self.reader.position() + self.reader.lag();
        while !self.inbox.is_empty() || self.reader.position() < target {
            self.turn(self.now);
        }
        self.spill_runs();
        self.turns += 1;
    }

    pub(crate) fn mark_dirty(&mut self, index: u32) {
        let peer = self.peers.member(index);
        if !peer.dirty && !peer.blocked && !peer.gone {
            peer.dirty = true;
            self.dirty_peers.push(index);
        }
    }

    /// Gives a peer up: what waits is dropped, it is told why, and the caller is told to close it.
    pub(crate) fn close(&mut self, index: u32, code: CloseCode) {
        let id = self.peers.id(index);
        let Self { peers, store, render, .. } = self;
        let peer = peers.member(index);
        if peer.is_over() {
            return;
        }
        peer.closing = Some(code);
        self.queued -= peer.waiting();
        let format = peer.format;
        let queue = peer.queue();
        queue.outbox.clear_events(store);
        queue.ledger.clear();
        queue.skips.clear();
        queue.owed.clear();
        self.closing.push_back((id, code));
        if code == CloseCode::SlowConsumer {
            self.stats.closed_slow.add(1);
            let message = Message::Notice(Notice {
                kind: NoticeKind::CLOSING,
                subscription: 0,
                stream: 0,
                from: 0,
                through: 0,
                conflated: 0,
                gapped: 0,
                filtered: 0,
                reason: Reason::OUTBOX_FULL,
                reconnect_in_ms: 0,
            });
            // Reserved even when the control lane is full: only a close frame follows.
            if let Some(bytes) = render.control(&message, None, format) {
                queue.outbox.push_control(bytes);
            }
        }
    }

    /// True when there is something to distribute.
    fn has_input(&self) -> bool {
        !self.inbox.is_empty() || self.reader.lag() > 0
    }

    /// Fills the inbox from the ring; returns how many events were overwritten.
    fn read(&mut self) -> u64 {
        let inbox = &mut self.inbox;
        while inbox.len() < self.turn_events {
            let batch = self.reader.read_batch(self.turn_events - inbox.len(), |_, item| {
                // The only clone of the event on this shard.
                inbox.push_back(match item {
                    Item::Event(event) => Work::Event(Arc::clone(event)),
                    Item::Skip(skip) => Work::Skip(skip.clone()),
                    Item::States(notes) => Work::States(Arc::clone(notes)),
                });
            });
            if let Some(lap) = batch.lapped {
                inbox.push_back(Work::Repair(lap.to));
                self.stats.laps.add(1);
                self.stats.lapped.add(lap.events());
                return lap.events();
            }
            if !batch.remaining {
                break;
            }
        }
        0
    }

    fn work(&mut self, work: Work) -> Step {
        match work {
            Work::Event(event) => {
                let (stream, sequence) = (event.stream(), event.sequence().0);
                self.ensure_stream(stream, event.topic(), event.class());
                if let Some(head) = self.jump(stream, sequence) {
                    self.inbox.push_front(Work::Event(event));
                    self.fill(stream, head, sequence - 1);
                    return Step::Again;
                }
                self.deliver(event);
                Step::Done
            }
            Work::Skip(skip) => {
                let (stream, from) = (skip.stream, skip.from);
                self.ensure_stream(stream, &skip.topic, skip.class);
                if let Some(head) = self.jump(stream, from) {
                    self.inbox.push_front(Work::Skip(skip));
                    self.fill(stream, head, from - 1);
                    return Step::Again;
                }
                // Who was faster than the first turn was told that the stream begins at one.
                if skip.earlier && self.index.groups_of(stream).is_empty() {
                    self.index.stream_mut(stream).expect("just ensured").head = skip.through;
                    return Step::Done;
                }
                self.gap(stream, Loss::gap(from, skip.through, Cause::Upstream))
            }
            Work::Gap(stream, loss) => self.gap(stream, loss),
            Work::States(notes) => {
                if self.tell_states(&notes) {
                    Step::Done
                } else {
                    Step::Stop(Work::States(notes))
                }
            }
            Work::Repair(position) => {
                self.repair(position);
                Step::Again
            }
        }
    }

    fn gap(&mut self, stream: StreamId, loss: Loss) -> Step {
        if self.tell_gap(stream, loss) { Step::Done } else { Step::Stop(Work::Gap(stream, loss)) }
    }

    /// Raises the counters that a loss of one peer concerns.
    pub(crate) fn count_loss(&mut self, index: u32, stream: StreamId, loss: &Loss) {
        let Self { peers, index: streams, stats, .. } = self;
        peers.member(index).count(stream, loss, streams);
        stats.conflated.add(loss.conflated);
        if loss.cause != Cause::Upstream {
            stats.gapped.add(loss.gapped());
        }
    }

    /// When a stream goes on at `sequence` although it stands further back, says where.
    fn jump(&self, id: StreamId, sequence: u64) -> Option<u64> {
        let head = self.index.stream(id).map_or(0, |stream| stream.head);
        debug_assert!(sequence > head, "stream {id} stands at {head} and goes on at {sequence}");
        (sequence > head + 1).then_some(head)
    }

    /// Puts the lost range `head + 1..=through` of a stream in front of the inbox: last values that the
    /// shared records still have, as events; the rest as gaps.
    fn fill(&mut self, stream: StreamId, head: u64, through: u64) {
        let found = self.records.get(stream).map(|record| record.last_between(head + 1, through));
        let mut work = Vec::new();
        let mut next = head + 1;
        for event in found.unwrap_or_default() {
            let sequence = event.sequence().0;
            if sequence > next {
                work.push(Work::Gap(stream, Loss::gap(next, sequence - 1, Cause::Lapped)));
            }
            work.push(Work::Event(event));
            self.stats.repaired.add(1);
            next = sequence + 1;
        }
        if next <= through {
            work.push(Work::Gap(stream, Loss::gap(next, through, Cause::Lapped)));
        }
        for work in work.into_iter().rev() {
            self.inbox.push_front(work);
        }
    }

    /// After a lap: streams whose newest event lies before `position` show no jump, for nothing of them
    /// follows in the ring. Their losses are found in the shared records. All others will jump.
    fn repair(&mut self, position: u64) {
        for record in self.records.all() {
            let (head, newest) = record.head();
            let known = self.index.stream(record.stream).map_or(0, |stream| stream.head);
            if newest < position && head > known {
                self.ensure_stream(record.stream, &record.topic, record.class);
                self.fill(record.stream, known, head);
            }
            // What was told in between is among what was overwritten.
            let known = self.status(record.stream).map_or(StreamState::LIVE, |known| known.state);
            if let Some(status) = record.status_before(position).filter(|status| status.state != known) {
                self.inbox.push_back(Work::States([Note { stream: record.stream, status }].into()));
            }
        }
    }

    #[cfg(all(test, not(tickcast_loom)))]
    pub(crate) fn drop_histories(&mut self, streams: u32) {
        for id in 1..=streams {
            if let Some(stream) = self.index.stream_mut(StreamId(id)) {
                stream.history.release(&mut self.store);
            }
        }
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("reader", &self.reader)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}
