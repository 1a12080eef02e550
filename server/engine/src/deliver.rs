//! From one event, gap or alarm to the runs of the groups it concerns.
//!
//! ```text
//!   event ─► index ─► group ─┬─ plain ───────────────────────► run
//!                            ├─ passed a filter ─► told before ► run
//!                            └─ too early for its rate ─► held ─ alarm ─► run
//! ```
//!
//! Everything here is per group and event, never per member; only a gap goes to every member's ledger.
//! A group that an event does not concern is not looked at: what it was not sent becomes a range that is
//! told before the next event it gets, or with a heartbeat.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use tickcast_protocol::{Message, StreamId, SubscriptionId};

use crate::event::Event;
use crate::group::Group;
use crate::index::GroupId;
use crate::ledger::Loss;
use crate::run::TURN_FRAMES_MAX;
use crate::shard::Shard;
use crate::store::EventRef;
use crate::window::{Held, Item};

/// When something held is due: time, group, stream. The group may be another's by then, or have sent it.
pub(crate) type Alarm = Reverse<(u64, GroupId, StreamId)>;

impl Shard {
    /// Hands one event to the groups it concerns, and to its history.
    pub(crate) fn deliver(&mut self, event: Arc<Event>) {
        let (stream, sequence) = (event.stream(), event.sequence().0);
        let mut touched = std::mem::take(&mut self.touched);
        self.index.look_up(&event, &mut touched);
        #[cfg(all(test, not(tickcast_loom)))]
        self.mistake(&mut touched, stream, sequence);
        let event = self.store.insert(event);
        for group in touched.drain(..) {
            self.hand(group, &event, stream, sequence);
        }
        self.touched = touched;
        let known = self.index.stream_mut(stream).expect("ensured");
        known.head = sequence;
        known.history.push(event, self.history_limits, &mut self.store);
    }

    /// Gives an event that passed to its group: to the run, or to what waits.
    fn hand(&mut self, id: GroupId, event: &EventRef, stream: StreamId, sequence: u64) {
        let Self { store, index, render, stats, limits, now, .. } = self;
        let (group, known) = index.group_and_stream(id, stream);
        let touch = group.touched();
        if let Some(side) = &mut group.side {
            side.sums_among(&known.filters).for_each(|sums| sums.passed += 1);
        }
        let Some(bytes) = store.get(event).framed(group.key.format, &**render, stats) else {
            stats.uncarried.add(1);
            return;
        };
        let size = bytes.len();
        let shared = store.share(event);
        let Some(side) = group.side.as_mut().filter(|_| !touch.plain) else {
            return self.run(id, shared, size, stream);
        };
        let window = side.windows.entry(stream).or_default();
        if touch.interval > 0 {
            let held: &mut Held = window.held.get_or_insert_default();
            // A clock that went back must not silence anybody.
            let due = held.sent.filter(|sent| sent <= now).map_or(0, |sent| sent + touch.interval);
            if due > *now {
                let key = store.get(&shared).conflation_key();
                side.held_events += 1;
                side.held_bytes += size;
                let first = held.is_empty();
                held.due = if first { due } else { held.due.min(due) };
                stats.held.add(1);
                if let Some((replaced, size)) = held.hold(shared, sequence, key, size as u32) {
                    side.held_events -= 1;
                    side.held_bytes -= size as usize;
                    store.release(replaced);
                    stats.held_replaced.add(1);
                }
                if side.held_events > limits.events || side.held_bytes > limits.bytes {
                    // Sent before its time rather than lost: the bound is of memory, not of what is due.
                    stats.held_early.add(1);
                    self.send_held(id, stream);
                } else if held.alarm.is_none_or(|alarm| alarm > held.due) {
                    held.alarm = Some(held.due);
                    let alarm = Reverse((held.due, id, stream));
                    self.alarms.push(alarm);
                }
                return;
            }
        }
        self.send_held(id, stream);
        let now = self.now;
        let (group, _) = self.index.group_and_stream(id, stream);
        let window = window_of(group, stream);
        let missing =
            (window.through + 1 < sequence).then(|| Loss::skipped(window.through + 1, sequence - 1, 0));
        window.through = sequence;
        if let Some(held) = &mut window.held {
            held.sent = Some(now);
        }
        if let Some(missing) = missing {
            self.tell(id, stream, missing);
        }
        self.run(id, shared, size, stream);
    }

    /// Sends what a group holds of a stream, whether or not it is due.
    pub(crate) fn send_held(&mut self, id: GroupId, stream: StreamId) {
        let now = self.now;
        let (group, _) = self.index.group_and_stream(id, stream);
        if !group.is_holding(stream) {
            return;
        }
        let window = window_of(group, stream);
        let before: Vec<Option<Loss>> = (0..window.items().len()).map(|at| window.loss_before(at)).collect();
        let held = window.held.as_mut().expect("it holds something");
        held.sent = Some(now);
        let mut items = held.take();
        // Behind the last event there is nothing but a cut, before which nothing was replaced.
        while items.pop_if(|item| item.event.is_none()).is_some() {}
        window.through = items.last().map_or(window.through, |item| item.through);
        for (Item { event, .. }, loss) in items.into_iter().zip(before) {
            if let Some(loss) = loss {
                self.tell(id, stream, loss);
            }
            let Some((event, _, size)) = event else { continue };
            let side = self.index.group_mut(id).side.as_mut().expect("it has a window");
            side.held_events -= 1;
            side.held_bytes -= size as usize;
            self.run(id, event, size as usize, stream);
        }
    }

    /// Puts what the whole group is told about a stream before the next event of its run.
    fn tell(&mut self, id: GroupId, stream: StreamId, loss: Loss) {
        let (group, known) = self.index.group_and_stream(id, stream);
        if let Some(side) = &mut group.side {
            side.conflated += loss.conflated;
            side.sums_among(&known.filters).for_each(|sums| sums.conflated += loss.conflated);
        }
        self.stats.rated.add(loss.conflated);
        #[cfg(all(test, not(tickcast_loom)))]
        if loss.from > 1
            && group.key.format.is_binary()
            && self.fault.take_if(|fault| *fault == crate::shard::Fault::Silence).is_some()
        {
            self.wronged = Some((id, stream, loss.through));
            return;
        }
        let message = Message::Notice(loss.notice(SubscriptionId(0), stream));
        let bytes = self.render.control(&message, Some(&known.topic), group.key.format);
        group.run.tell(loss, bytes.unwrap_or_else(Bytes::new));
    }

    #[cfg(all(test, not(tickcast_loom)))]
    fn mistake(&mut self, touched: &mut Vec<GroupId>, stream: StreamId, sequence: u64) {
        let filtered = touched.iter().position(|id| {
            let group = self.index.group(*id);
            group.side.is_some() && group.key.format.is_binary() && !group.touched().plain
        });
        if let Some(at) = filtered
            && self.fault.take_if(|fault| *fault == crate::shard::Fault::Filter).is_some()
        {
            self.wronged = Some((touched.remove(at), stream, sequence));
        }
    }

    /// Appends an event to a group's run; takes the reference over.
    fn run(&mut self, id: GroupId, event: EventRef, size: usize, stream: StreamId) {
        let (group, known) = self.index.group_and_stream(id, stream);
        known.ran_in = self.turns;
        if group.run.is_empty() {
            self.dirty_groups.push(id);
        }
        group.run.push(event, size);
        self.run_frames += 1;
        self.run_full |= group.run.is_full() || self.run_frames >= TURN_FRAMES_MAX;
    }

    /// Sends what is due, until a run is full. True when more is.
    pub(crate) fn send_due(&mut self) -> bool {
        while let Some(Reverse((time, id, stream))) = self.alarms.peek().copied() {
            if time > self.now {
                return false;
            }
            if self.run_full {
                return true;
            }
            self.alarms.pop();
            let now = self.now;
            let group = self.index.find_group_mut(id);
            let side = group.and_then(|group| group.side.as_mut());
            let window = side.and_then(|side| side.windows.get_mut(&stream));
            let Some(held) = window.and_then(|window| window.held.as_mut()) else { continue };
            if held.alarm.is_some_and(|alarm| alarm <= time) {
                held.alarm = None;
            }
            if held.is_empty() {
                continue;
            }
            if held.due > now {
                if held.alarm.is_none() {
                    held.alarm = Some(held.due);
                    self.alarms.push(Reverse((held.due, id, stream)));
                }
                continue;
            }
            self.send_held(id, stream);
        }
        false
    }

    /// When something is due that waits for its rate, on the clock that [`turn`](Self::turn) is given: the
    /// shard must have a turn by then.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.alarms.peek().map(|Reverse((time, ..))| *time)
    }

    /// Enters a gap in the ledger of every subscriber. False when what they were sent before must be on
    /// its way first.
    pub(crate) fn tell_gap(&mut self, id: StreamId, loss: Loss) -> bool {
        if self.index.stream(id).is_none() {
            return true;
        }
        let groups = self.index.groups_of(id);
        for group in &groups {
            self.send_held(*group, id);
        }
        // Only an event of the same stream must be on its way first: stopping for any other would cost a
        // write to every member for each stream that has a gap, which is when a shard is behind already.
        let runs = self.index.stream(id).is_some_and(|stream| stream.ran_in == self.turns);
        if runs && groups.iter().any(|group| !self.index.group(*group).run.is_empty()) {
            return false;
        }
        for group in groups {
            let missing = self.advance(group, id, &loss);
            for at in 0..self.index.group(group).members.len() {
                let index = self.index.group(group).members[at];
                if self.peers.member(index).is_over() {
                    continue;
                }
                if let Some(missing) = missing {
                    self.enter(index, id, missing);
                }
                self.peers.member(index).queue().ledger.enter(id, loss);
                self.count_loss(index, id, &loss);
                self.mark_dirty(index);
            }
        }
        let stream = self.index.stream_mut(id).expect("just seen");
        debug_assert_eq!(stream.head + 1, loss.from, "a gap begins where the stream stands");
        stream.head = loss.through;
        stream.history.gap(loss, self.history_limits, &mut self.store);
        true
    }

    /// Moves a group's window behind a gap; returns what did not pass before it, if it is to be told.
    fn advance(&mut self, group: GroupId, id: StreamId, loss: &Loss) -> Option<Loss> {
        if self.index.group(group).side.is_none() || self.index.is_plain(group, id) {
            return None;
        }
        let side = self.index.group_mut(group).side.as_mut().expect("just seen");
        let window = side.windows.entry(id).or_default();
        let before = std::mem::replace(&mut window.through, loss.through);
        (before + 1 < loss.from).then(|| Loss::skipped(before + 1, loss.from - 1, 0))
    }

    /// Enters what a group is told in one member's ledger, as far as it is news.
    pub(crate) fn enter(&mut self, index: u32, stream: StreamId, loss: Loss) {
        let queue = self.peers.member(index).queue();
        if let Some(news) = queue.news(stream, loss) {
            queue.ledger.enter(stream, news);
        }
    }
}

fn window_of(group: &mut Group, stream: StreamId) -> &mut crate::window::Window {
    let side = group.side.as_mut().expect("only groups with filters or rates have windows");
    side.windows.get_mut(&stream).expect("entered before")
}
