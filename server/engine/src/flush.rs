//! From runs and outboxes to sockets: one write per dirty connection, all it has.
//!
//! Per delivery there is no lock, no allocation, no clock and no atomic: a peer that keeps up costs one
//! [`WriteRequest`] for the bytes of its group. Requests of all groups are collected and handed over
//! together, so that [`PeerIo`] may give them to the kernel in one call.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::sync::Arc;

use tickcast_protocol::{CloseCode, Message, StreamId};

use crate::event::{Format, Render};
use crate::index::{GroupId, Index};
use crate::ledger::Loss;
use crate::outbox::{Committed, Losses, Source};
use crate::peer::{Peer, PeerId, Queue};
use crate::run::Run;
use crate::shard::Shard;
use crate::stats::ShardStats;
use crate::store::{EventRef, Store};

/// Most writes to one peer in one flush, about 64 KiB each; a peer with more waiting goes on next time.
const WRITES_MAX: usize = 8;

/// Most requests that are handed over together.
pub const WRITE_REQUESTS_MAX: usize = 512;
/// Bytes laid out at which requests are handed over, however few.
const BATCH_BYTES: usize = 256 * 1024;

/// What a socket made of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It took this many bytes; fewer than there were means that it is full.
    Bytes(usize),
    /// It is full. The caller waits until it is writable, then calls [`Shard::flush_peer`].
    WouldBlock,
    /// It is dead. The caller detaches the peer.
    Gone,
}

/// The sockets, as a shard sees them.
pub trait PeerIo {
    /// Writes as much as `peer`'s socket takes at once, without waiting. After a partial write, or none,
    /// the shard leaves the peer alone until [`Shard::flush_peer`].
    fn write(&mut self, peer: PeerId, bufs: &[IoSlice<'_>]) -> Written;

    /// Writes to many peers, each as [`write`](Self::write) would, and appends what became of each to
    /// `written`, in their order. At most [`WRITE_REQUESTS_MAX`], and none of them of the same peer.
    fn write_each(&mut self, requests: &[WriteRequest], buffer: &[u8], written: &mut Vec<Written>) {
        written.extend(
            requests.iter().map(|request| self.write(request.peer, &[IoSlice::new(request.bytes(buffer))])),
        );
    }
}

/// Bytes of a shared buffer for one peer.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest {
    /// Who gets them.
    pub peer: PeerId,
    start: u32,
    end: u32,
}

impl WriteRequest {
    /// Its bytes in the buffer that came with it.
    #[must_use]
    pub fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.start as usize..self.end as usize]
    }
}

/// Runs on their way to peers that keep up: what is handed over together, and whose it is. Empty between
/// flushes; the lists keep their room.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The runs' bytes, one after the other.
    buffer: Vec<u8>,
    runs: Vec<Leaving>,
    requests: Vec<WriteRequest>,
    /// For each request the member and which of the runs it gets.
    members: Vec<(u32, u32)>,
    written: Vec<Written>,
}

/// A run that leaves.
#[derive(Debug)]
struct Leaving {
    group: GroupId,
    format: Format,
    run: Run,
    /// Members that took it whole.
    whole: u64,
}

/// How a peer stands after [`Shard::flush_peer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits for it.
    Idle,
    /// Its socket is full, and more waits.
    Blocked,
    /// Its socket is dead, or the id is stale.
    Gone,
    /// All that could be written was, and it must be closed with this code.
    Close(CloseCode),
}

impl Shard {
    /// Writes the turn's runs, and what else waits for peers whose sockets are not known to be full.
    pub fn flush(&mut self, io: &mut impl PeerIo) {
        let mut groups = std::mem::take(&mut self.dirty_groups);
        let mut batch = std::mem::take(&mut self.batch);
        for group in groups.drain(..) {
            self.flush_run(group, &mut batch, io);
            if batch.buffer.len() >= BATCH_BYTES {
                self.finish_runs(&mut batch, io);
            }
        }
        self.finish_runs(&mut batch, io);
        self.batch = batch;
        self.dirty_groups = groups;

        let mut dirty = std::mem::take(&mut self.dirty_peers);
        for index in dirty.drain(..) {
            // The place may be another peer's by now; then there is nothing to lose by looking.
            let Some(peer) = self.peers.get_mut(index) else { continue };
            peer.dirty = false;
            if !peer.has_output() {
                peer.tidy();
            } else if !peer.blocked {
                self.write_outbox(index, io);
            }
        }
        // What did not fit in this flush was marked dirty again, on the new list.
        dirty.append(&mut self.dirty_peers);
        self.dirty_peers = dirty;
        self.stats.queued.set(self.queued);
    }

    /// Writes what waits for one peer, after its socket has become writable again.
    pub fn flush_peer(&mut self, peer: PeerId, io: &mut impl PeerIo) -> Flushed {
        let Some(index) = self.peers.find(peer) else { return Flushed::Gone };
        let found = self.peers.member(index);
        found.blocked = false;
        while self.peers.member(index).has_output() && !self.peers.member(index).blocked {
            self.write_outbox(index, io);
        }
        self.stats.queued.set(self.queued);
        let found = self.peers.member(index);
        match found.closing {
            _ if found.gone => Flushed::Gone,
            // Also when its socket is full: who does not read is not waited for.
            Some(code) => Flushed::Close(code),
            None if found.blocked => Flushed::Blocked,
            None => Flushed::Idle,
        }
    }

    /// Turns runs that nobody flushed into references in outboxes.
    pub(crate) fn spill_runs(&mut self) {
        while let Some(group) = self.dirty_groups.last() {
            self.spill_run(*group);
        }
    }

    /// The same for one group: before its members change.
    pub(crate) fn spill_run(&mut self, group: GroupId) {
        if self.index.group(group).run.is_empty() {
            return;
        }
        let at = self.dirty_groups.iter().rposition(|other| *other == group).expect("a run is dirty");
        self.dirty_groups.swap_remove(at);
        let mut run = std::mem::take(&mut self.index.group_mut(group).run);
        for at in 0..self.index.group(group).members.len() {
            let member = self.index.group(group).members[at];
            self.queue_run(member, &run, 0);
        }
        run.release(&mut self.store);
        self.index.group_mut(group).run = run;
    }

    /// Writes a group's run to every member whose socket is not full, and queues it for the rest. Who keeps
    /// up is written to with the batch.
    fn flush_run(&mut self, id: GroupId, batch: &mut Batch, io: &mut impl PeerIo) {
        let group = self.index.group_mut(id);
        let (run, members) = (std::mem::take(&mut group.run), std::mem::take(&mut group.members));
        let format = group.key.format;
        let (start, at) = (batch.buffer.len(), batch.runs.len() as u32);
        batch.runs.push(Leaving { group: id, format, run, whole: 0 });
        for member in &members {
            let run = &batch.runs[at as usize].run;
            let peer = self.peers.member(*member);
            if peer.is_over() || peer.blocked {
                self.queue_run(*member, run, 0);
                continue;
            }
            let is_clear = peer.is_clear();
            if batch.buffer.len() == start {
                let Self { render, stats, store, .. } = self;
                run.lay_out(&mut batch.buffer, store, |out, event| {
                    let bytes = event.framed(format, &**render, stats);
                    out.extend_from_slice(bytes.expect("rendered when it was added"));
                });
            }
            if is_clear {
                let (start, end) = (start as u32, batch.buffer.len() as u32);
                batch.requests.push(WriteRequest { peer: self.peers.id(*member), start, end });
                batch.members.push((*member, at));
                if batch.requests.len() == WRITE_REQUESTS_MAX {
                    self.hand_over(batch, io);
                }
            } else {
                self.write_run(*member, run, &batch.buffer[start..], io);
            }
        }
        self.index.group_mut(id).members = members;
    }

    /// Hands the requests over, and notes what became of each.
    fn hand_over(&mut self, batch: &mut Batch, io: &mut impl PeerIo) {
        let Batch { buffer, runs, requests, members, written } = batch;
        io.write_each(requests, buffer, written);
        debug_assert_eq!(written.len(), requests.len(), "every request is answered");
        for ((member, at), (request, written)) in members.drain(..).zip(requests.iter().zip(&*written)) {
            let leaving = &mut runs[at as usize];
            let bytes = request.bytes(buffer);
            if *written == Written::Bytes(bytes.len()) {
                self.peers.member(member).delivered += leaving.run.frames().len() as u64;
                leaving.whole += 1;
            } else {
                self.stats.writes.add(1);
                self.settle_run(member, &leaving.run, bytes, 0, *written);
            }
        }
        requests.clear();
        written.clear();
    }

    /// Hands over what is left, counts, and gives the runs back to their groups.
    fn finish_runs(&mut self, batch: &mut Batch, io: &mut impl PeerIo) {
        if !batch.requests.is_empty() {
            self.hand_over(batch, io);
        }
        for Leaving { group, format, mut run, whole } in batch.runs.drain(..) {
            self.stats.writes.add(whole);
            self.stats.sent_bytes.add(whole * run.len() as u64);
            self.count_deliveries(format, whole * run.frames().len() as u64);
            run.release(&mut self.store);
            self.index.group_mut(group).run = run;
        }
        batch.buffer.clear();
    }

    /// Writes a run, whose `bytes` these are, in one call with what waits before it; queues it when that is
    /// more than one write, or when some of it is not for this peer.
    fn write_run(&mut self, index: u32, run: &Run, bytes: &[u8], io: &mut impl PeerIo) {
        self.pay_states(index);
        let id = self.peers.id(index);
        let peer = self.peers.member(index);
        if peer.queue.as_ref().is_some_and(|queue| !queue.skips.is_empty()) {
            self.queue_run(index, run, 0);
            return;
        }
        // Even without bytes: a format may have no word for a notice, which is then done with.
        let gathered = peer.has_output();
        if gathered && !self.gather(index) {
            self.queue_run(index, run, 0);
            return;
        }
        let before = if gathered { self.write_buffer.len() } else { 0 };
        let bufs = [IoSlice::new(&self.write_buffer[..before]), IoSlice::new(bytes)];
        let written = io.write(id, if before == 0 { &bufs[1..] } else { &bufs });
        self.stats.writes.add(1);
        self.settle_run(index, run, bytes, if gathered { before } else { 0 }, written);
        if gathered && self.peers.member(index).gone {
            return;
        }
        self.peers.member(index).tidy();
    }

    /// Notes what became of a write of a run, with `before` bytes of the gathered ones in front.
    fn settle_run(&mut self, index: u32, run: &Run, run_bytes: &[u8], before: usize, written: Written) {
        let bytes = self.accepted(index, written);
        if self.peers.member(index).has_output() {
            self.commit(index, bytes.min(before));
        }
        if self.peers.member(index).gone {
            return;
        }
        let of_run = bytes.saturating_sub(before);
        let whole = run.frames_within(of_run);
        let begun = if whole < run.frames().len() {
            self.keep_rest(index, run, run_bytes, whole, of_run)
        } else {
            whole
        };
        let peer = self.peers.member(index);
        peer.delivered += begun as u64;
        let format = peer.format;
        self.count_deliveries(format, begun as u64);
        if begun < run.frames().len() || before + run_bytes.len() > bytes {
            self.block(index);
            self.queue_run(index, run, begun);
        }
    }

    fn count_deliveries(&self, format: Format, deliveries: u64) {
        self.stats.deliveries.add(deliveries);
        if format.is_binary() {
            self.stats.deliveries_binary.add(deliveries);
        }
    }

    /// After a partial write: copies the rest of the frame that was cut. Says how many frames were begun.
    fn keep_rest(&mut self, index: u32, run: &Run, bytes: &[u8], whole: usize, written: usize) -> usize {
        let start = if whole == 0 { 0 } else { run.frames()[whole - 1].end };
        if written == start {
            return whole;
        }
        let cut = &run.frames()[whole];
        let rest = &bytes[written..cut.end];
        let event = self.store.get(&cut.event);
        let (of, tells) = (Some((event.stream(), event.sequence().0)), run.losses(whole).next().is_some());
        self.peers.member(index).queue().outbox.keep_rest(rest, of, tells);
        whole + 1
    }

    /// Queues the frames of a run from `from` on as references, and what is told before them.
    fn queue_run(&mut self, index: u32, run: &Run, from: usize) {
        self.queue_frames(index, run, from, true);
    }

    /// The same with what a group holds, for one member that leaves it: the group's sums do not count it.
    pub(crate) fn queue_own(&mut self, index: u32, run: &Run) {
        self.queue_frames(index, run, 0, false);
    }

    fn queue_frames(&mut self, index: u32, run: &Run, from: usize, shared: bool) {
        let Self { peers, store, index: streams, limits, tally, stats, .. } = self;
        let peer = peers.member(index);
        if peer.is_over() {
            return;
        }
        peer.queue.get_or_insert_default();
        let waiting = peer.waiting();
        let mut too_slow = false;
        // Counted by the group's sums, but from before this peer counts.
        let mut disowned: Vec<(StreamId, u64)> = Vec::new();
        for (at, frame) in run.frames().iter().enumerate().skip(from) {
            let (stream, class, sequence) = {
                let event = store.get(&frame.event);
                (event.stream(), event.class(), event.sequence().0)
            };
            let queue = peer.queue();
            let after = queue.skips.iter().find(|(of, _)| *of == stream).map(|(_, after)| *after);
            for loss in run.losses(at) {
                match queue.news(stream, *loss) {
                    Some(news) => {
                        queue.ledger.enter(stream, news);
                        if !shared && news.conflated > 0 {
                            tally.push((
                                stream,
                                Loss { through: news.from + news.conflated - 1, filtered: 0, ..news },
                            ));
                        }
                    }
                    None if shared && loss.conflated > 0 => disowned.push((stream, loss.conflated)),
                    None => {}
                }
            }
            if after.is_some_and(|after| sequence <= after) {
                continue;
            }
            let policy = peer.route(stream, streams).policy;
            let event = store.share(&frame.event);
            // Compressed or not: a reference keeps the whole event.
            let size = (frame.size as usize).max(store.get(&event).binary().len());
            let Queue { outbox, ledger, .. } = peer.queue();
            stats.queued_total.add(1);
            if let Some(bound) = outbox.bound_reached(class, size, limits) {
                stats.outbox_full(bound);
            }
            if outbox.push(event, size, policy, limits, store, &mut Losses { ledger, tally }).is_err() {
                too_slow = true;
                break;
            }
        }
        for (stream, conflated) in disowned {
            peer.disown(stream, conflated, streams);
        }
        if let Some(group) = peer.group {
            let held = streams.group(group);
            peer.queue().skips.retain(|(stream, _)| held.is_holding(*stream));
        }
        self.queued = self.queued + peer.waiting() - waiting;
        let mut tally = std::mem::take(&mut self.tally);
        for (stream, loss) in tally.drain(..) {
            self.count_loss(index, stream, &loss);
        }
        self.tally = tally;
        if too_slow {
            self.close(index, CloseCode::SlowConsumer);
        }
        self.mark_dirty(index);
    }

    /// Writes what waits for a peer; a few times, as long as the socket takes everything.
    fn write_outbox(&mut self, index: u32, io: &mut impl PeerIo) {
        for _ in 0..WRITES_MAX {
            self.pay_states(index);
            if !self.peers.member(index).has_output() {
                self.peers.member(index).tidy();
                return;
            }
            self.gather(index);
            let bytes = if self.write_buffer.is_empty() {
                0
            } else {
                let written = io.write(self.peers.id(index), &[IoSlice::new(&self.write_buffer)]);
                self.stats.writes.add(1);
                self.accepted(index, written)
            };
            self.commit(index, bytes);
            if self.peers.member(index).gone {
                return;
            }
            if bytes < self.write_buffer.len() {
                self.block(index);
                return;
            }
        }
        if self.peers.member(index).has_output() {
            self.mark_dirty(index);
        } else {
            self.peers.member(index).tidy();
        }
    }

    /// Puts a peer's next bytes together in `write_buffer`; true when that is all it has.
    fn gather(&mut self, index: u32) -> bool {
        let Self { peers, store, index: streams, render, stats, write_buffer, write_marks, .. } = self;
        let peer = peers.get(index).expect("attached");
        let queue = peer.queue.as_ref().expect("something waits");
        let words = Words { peer, store, streams, render, stats };
        queue.outbox.gather(&queue.ledger, &words, write_buffer, write_marks)
    }

    fn commit(&mut self, index: u32, bytes: usize) {
        let Self { peers, store, write_buffer, write_marks, stats, .. } = self;
        let peer = peers.member(index);
        if peer.gone {
            return;
        }
        let waiting = peer.waiting();
        let Queue { outbox, ledger, .. } = peer.queue();
        let Committed { deliveries, critical } =
            outbox.commit(bytes, write_buffer, write_marks, ledger, store);
        self.queued = self.queued + peer.waiting() - waiting;
        peer.delivered += deliveries;
        stats.deliveries.add(deliveries);
        stats.deliveries_critical.add(critical);
        if peer.format.is_binary() {
            stats.deliveries_binary.add(deliveries);
        }
    }

    /// How many bytes a socket took; a dead one is noted.
    fn accepted(&mut self, index: u32, written: Written) -> usize {
        match written {
            Written::Bytes(bytes) => {
                self.stats.sent_bytes.add(bytes as u64);
                bytes
            }
            Written::WouldBlock => 0,
            Written::Gone => {
                let peer = self.peers.member(index);
                self.queued -= peer.waiting();
                if let Some(mut queue) = peer.queue.take() {
                    queue.outbox.clear_events(&mut self.store);
                }
                peer.gone = true;
                0
            }
        }
    }

    fn block(&mut self, index: u32) {
        self.stats.writes_short.add(1);
        self.peers.member(index).blocked = true;
    }
}

/// Turns a peer's entries into bytes.
struct Words<'a> {
    peer: &'a Peer,
    store: &'a Store,
    streams: &'a Index,
    render: &'a Arc<dyn Render>,
    stats: &'a ShardStats,
}

impl Source for Words<'_> {
    fn event(&self, event: &EventRef, out: &mut Vec<u8>) {
        let bytes = self.store.get(event).framed(self.peer.format, &**self.render, self.stats);
        out.extend_from_slice(bytes.map_or(&[], |bytes| &bytes[..]));
    }

    fn notice(&self, stream: StreamId, loss: &Loss, out: &mut Vec<u8>) {
        let subscription = self.peer.find_route(stream, self.streams).subscription;
        let topic = self.streams.stream(stream).map(|stream| &stream.topic);
        let message = Message::Notice(loss.notice(subscription, stream));
        if let Some(bytes) = self.render.control(&message, topic, self.peer.format) {
            out.extend_from_slice(&bytes);
        }
    }
}
