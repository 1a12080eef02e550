//! Judges how streams are, by what is known of their events and what their sources say.
//!
//! ```text
//!            event ──────────────────────────────► live ◄──────────────┐ event
//!   live ── interval over, source vouches ──► idle                     │
//!   live, idle ── interval over, no word ───► suspect ── long ──► stale
//!   any ── source gone, upstream gap ───────► suspect       said ──► closed
//! ```
//!
//! Sans-io: time comes in, findings go out. A stream that has an interval is looked at once in it, so what a
//! sweep costs follows the events there were, not the streams there are. A stream costs 32 bytes here, and
//! 4 more where it is listed as due.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tickcast_engine::{Engine, Finding, Pulse, Status};
use tickcast_protocol::message::{IntervalOrigin, SourceStatus, StateReason, StreamState};
use tickcast_protocol::{Class, StreamId, Topic, TopicFilter, registry};

use super::owners::{Owners, SourceId};
use crate::health::Cadence;

/// A suspect stream is stale after so many further intervals.
const STALE_INTERVALS: u64 = 5;
/// Due times are kept in ticks of 4 ms.
const TICK_SHIFT: u32 = 22;
/// Most streams that one sweep looks at; the next one goes on.
pub const LOOKS_MAX: usize = 65_536;
/// First pause between two looks at a stream whose rhythm is not known yet; it doubles up to a minute.
const LEARN_NS: u64 = 1_000_000_000;
const LEARN_DOUBLINGS_MAX: u8 = 6;
/// Bounds of the time between two sweeps, in ns: a twentieth of the shortest interval within them.
const PERIOD_NS: std::ops::RangeInclusive<u64> = 5_000_000..=100_000_000;

/// What is expected of streams.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Longest time between two events of the streams of a filter, in ns; the first that matches counts.
    pub intervals: Vec<(TopicFilter, u64)>,
    /// A suspect stream is stale after this time in ns, or after five further intervals if that is less.
    pub stale_after_ns: u64,
    /// Whether intervals are learned where none is set.
    pub learn: bool,
}

/// What the monitor is told besides time.
#[derive(Debug)]
pub enum Word {
    /// A source that can vouch is there.
    Came {
        /// Which.
        source: SourceId,
        /// When it vouched last for all of its streams, in ns since the Unix epoch.
        vouched: Arc<AtomicU64>,
    },
    /// A replay took a stream, or one was taken from a replay.
    Took {
        /// Which.
        source: SourceId,
        /// What it took.
        stream: StreamId,
    },
    /// A source says something of streams.
    Said {
        /// What.
        status: SourceStatus,
        /// Of which.
        streams: Vec<StreamId>,
        /// Longest time between two events from now on, in ms; zero leaves it as it is.
        interval_ms: u32,
        /// When, in ns since the Unix epoch.
        at: u64,
    },
    /// A source is gone.
    Gone {
        /// Which.
        source: SourceId,
        /// Streams it was the last to publish to, and perhaps others.
        streams: Vec<StreamId>,
    },
}

/// What is kept of one stream.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// The tick it is listed under; zero when it is not.
    due: u64,
    /// When somebody vouched for it by name.
    vouched: u64,
    /// The interval that was set, or zero.
    set_ms: u32,
    /// The settings say so, and nobody else can.
    is_ruled: bool,
    learns: bool,
    doublings: u8,
}

/// Judges every stream of an engine.
pub struct StateMonitor {
    engine: Engine,
    owners: Arc<Owners>,
    rules: Rules,
    /// Of stream id `i + 1`.
    watches: Vec<Watch>,
    due: BTreeMap<u64, Vec<StreamId>>,
    /// When each source that is there vouched last.
    sources: HashMap<SourceId, Arc<AtomicU64>>,
    shortest_ns: u64,
    /// What this sweep has found already, and is not told yet.
    pending: HashMap<StreamId, Status>,
}

impl StateMonitor {
    /// A monitor of the streams of `engine`, whose sources are found in `owners`.
    #[must_use]
    pub fn new(engine: Engine, owners: Arc<Owners>, rules: Rules) -> Self {
        Self {
            engine,
            owners,
            rules,
            watches: Vec::new(),
            due: BTreeMap::new(),
            sources: HashMap::new(),
            shortest_ns: u64::MAX,
            pending: HashMap::new(),
        }
    }

    /// How long to wait for the next sweep, in ns: so that nothing is told later than a tenth of its interval.
    #[must_use]
    pub fn period_ns(&self) -> u64 {
        (self.shortest_ns / 20).clamp(*PERIOD_NS.start(), *PERIOD_NS.end())
    }

    /// What has to be told at `now`, in ns since the Unix epoch, after what was said since the last time.
    /// Findings that turn out void when they are told are found again, if they are true by then.
    pub fn changes(&mut self, words: Vec<Word>, now: u64) -> Vec<Finding> {
        let mut found = Vec::new();
        self.pending.clear();
        let born = self.meet_newborn();
        words.into_iter().for_each(|word| self.hear(word, now, &mut found));
        // By what was said of them.
        self.judge_all(&born, now, &mut found);
        let noted = self.engine.noted();
        self.judge_all(&noted, now, &mut found);
        let mut looks = 0;
        while looks < LOOKS_MAX
            && let Some(entry) = self.due.first_entry().filter(|entry| *entry.key() <= now >> TICK_SHIFT)
        {
            let tick = *entry.key();
            let mut streams = entry.remove();
            // As many may be due at once as were born at once.
            if let Some(rest) = streams.len().checked_sub(LOOKS_MAX - looks).filter(|rest| *rest > 0) {
                let rest = streams.split_off(streams.len() - rest);
                self.due.insert(tick, rest);
            }
            // Of one that was listed anew since, only the newest counts.
            streams.retain(|stream| self.watches[place(*stream)].due == tick);
            looks += streams.len().max(1);
            self.judge_all(&streams, now, &mut found);
        }
        found
    }

    /// True when more is due at `now` than one sweep looks at.
    #[must_use]
    pub fn has_more(&self, now: u64) -> bool {
        self.due.first_key_value().is_some_and(|(tick, _)| *tick <= now >> TICK_SHIFT)
    }

    /// Streams that are listed as due; for tests and bounds.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.due.values().map(Vec::len).sum()
    }

    fn meet_newborn(&mut self) -> Vec<StreamId> {
        let known = self.watches.len() as u32;
        let born: Vec<StreamId> = (known + 1..=self.engine.stream_count() as u32).map(StreamId).collect();
        let Self { engine, rules, watches, .. } = self;
        engine.look_at(&born, |_, topic, class, _| watches.push(watch(rules, topic, class)));
        born
    }

    fn hear(&mut self, word: Word, now: u64, found: &mut Vec<Finding>) {
        match word {
            Word::Came { source, vouched } => {
                self.sources.insert(source, vouched);
            }
            Word::Took { source, stream } => {
                let is_replay = source.is_replay();
                self.find(&[stream], now, found, |pulse| match (is_replay, pulse.status.state) {
                    (true, StreamState::REPLAY) => None,
                    (true, _) => Some((StreamState::REPLAY, StateReason::SAID)),
                    (false, StreamState::REPLAY) => Some((StreamState::LIVE, StateReason::EVENT)),
                    (false, _) => None,
                });
            }
            Word::Said { status, streams, interval_ms, at } => {
                let known: Vec<StreamId> =
                    streams.into_iter().filter(|stream| place(*stream) < self.watches.len()).collect();
                for stream in &known {
                    let watch = &mut self.watches[place(*stream)];
                    if interval_ms > 0 && !watch.is_ruled {
                        watch.set_ms = interval_ms;
                    }
                    if status == SourceStatus::ALIVE {
                        watch.vouched = watch.vouched.max(at);
                    }
                }
                let said = match status {
                    SourceStatus::CLOSED => Some((StreamState::CLOSED, StateReason::SAID)),
                    SourceStatus::LOST => Some((StreamState::SUSPECT, StateReason::SAID)),
                    _ => None,
                };
                match said {
                    Some(said) => self.find(&known, now, found, |pulse| {
                        (said.0 == StreamState::CLOSED || is_well(pulse)).then_some(said)
                    }),
                    None => self.judge_all(&known, now, found),
                }
            }
            Word::Gone { source, mut streams } => {
                self.sources.remove(&source);
                streams.sort_unstable();
                streams.dedup();
                streams.retain(|stream| self.owners.of(*stream) == source);
                let gone = (StreamState::SUSPECT, StateReason::SOURCE_GONE);
                self.find(&streams, now, found, |pulse| is_well(pulse).then_some(gone));
            }
        }
    }

    /// Enters what is found of `streams` without waiting for their time.
    fn find(
        &mut self,
        streams: &[StreamId],
        now: u64,
        found: &mut Vec<Finding>,
        judge: impl Fn(&Pulse) -> Option<(StreamState, StateReason)>,
    ) {
        let engine = self.engine.clone();
        engine.look_at(streams, |stream, _, _, mut pulse| {
            let Some(watch) = self.watches.get(place(stream)).copied() else { return };
            pulse.status = self.pending.get(&stream).copied().unwrap_or(pulse.status);
            let (interval, origin) = interval(&watch, &pulse);
            if let Some((state, reason)) = judge(&pulse) {
                let finding = finding(stream, &pulse, state, reason, (interval, origin), now);
                self.pending.insert(stream, finding.status);
                found.push(finding);
            }
            let stale_at = now.saturating_add(stale_after(&self.rules, interval));
            self.list(stream, next_look(&watch, interval, now).min(stale_at), now);
        });
    }

    fn judge_all(&mut self, streams: &[StreamId], now: u64, found: &mut Vec<Finding>) {
        let engine = self.engine.clone();
        engine.look_at(streams, |stream, _, _, mut pulse| {
            if place(stream) < self.watches.len() {
                pulse.status = self.pending.get(&stream).copied().unwrap_or(pulse.status);
                self.judge(stream, &pulse, now, found);
            }
        });
    }

    /// Judges one stream and lists it for when it must be looked at again.
    fn judge(&mut self, stream: StreamId, pulse: &Pulse, now: u64, found: &mut Vec<Finding>) {
        let watch = self.watches[place(stream)];
        let expected = interval(&watch, pulse);
        let (interval, _) = expected;
        if interval > 0 {
            self.shortest_ns = self.shortest_ns.min(interval);
        }
        let Status { state, reason, since, .. } = pulse.status;
        if matches!(state, StreamState::REPLAY | StreamState::CLOSED) {
            // An event, or whoever takes it over, brings it back.
            self.watches[place(stream)].due = 0;
            return;
        }
        let owner = self.sources.get(&self.owners.of(stream));
        let vouched = owner.map_or(0, |vouched| vouched.load(Ordering::Relaxed)).max(watch.vouched);
        let last_word = pulse.last_event.max(vouched);
        let is_quiet =
            interval > 0 && pulse.last_event > 0 && now >= pulse.last_event.saturating_add(interval);
        let is_unheard = is_quiet && now >= last_word.saturating_add(interval);
        let change = match state {
            StreamState::SUSPECT | StreamState::STALE if reason == StateReason::QUIET && !is_unheard => {
                // Somebody vouches after all, or the interval is another one.
                Some(match is_quiet {
                    true => (StreamState::IDLE, StateReason::VOUCHED, vouched),
                    false => (StreamState::LIVE, StateReason::SAID, now),
                })
            }
            StreamState::SUSPECT => {
                let stale_at = since.saturating_add(stale_after(&self.rules, interval));
                (now >= stale_at).then_some((StreamState::STALE, reason, stale_at))
            }
            StreamState::STALE => None,
            _ if pulse.skipped == pulse.head && pulse.head > 0 => {
                Some((StreamState::SUSPECT, StateReason::UPSTREAM, now))
            }
            _ if is_unheard => {
                Some((StreamState::SUSPECT, StateReason::QUIET, last_word.saturating_add(interval)))
            }
            StreamState::LIVE if is_quiet => {
                Some((StreamState::IDLE, StateReason::VOUCHED, pulse.last_event.saturating_add(interval)))
            }
            _ => None,
        };
        if let Some((state, reason, at)) = change {
            let finding = finding(stream, pulse, state, reason, expected, at);
            self.pending.insert(stream, finding.status);
            found.push(finding);
        }
        let (state, since) = change.map_or((state, since), |(state, _, at)| (state, at));
        let next = match state {
            StreamState::LIVE if interval > 0 && !is_quiet => pulse.last_event.saturating_add(interval),
            StreamState::IDLE => last_word.saturating_add(interval),
            StreamState::SUSPECT => {
                let stale_at = since.saturating_add(stale_after(&self.rules, interval));
                next_look(&watch, interval, now).min(stale_at)
            }
            _ => next_look(&watch, interval, now),
        };
        if interval == 0 && watch.learns {
            let watch = &mut self.watches[place(stream)];
            watch.doublings = (watch.doublings + 1).min(LEARN_DOUBLINGS_MAX);
        }
        self.list(stream, next, now);
    }

    /// Lists a stream for a look at `at`; one that asks for the end of time is not listed.
    fn list(&mut self, stream: StreamId, at: u64, now: u64) {
        let watch = &mut self.watches[place(stream)];
        if at == u64::MAX {
            watch.due = 0;
            return;
        }
        let tick = ((at >> TICK_SHIFT) + 1).max((now >> TICK_SHIFT) + 1);
        if watch.due != tick {
            watch.due = tick;
            self.due.entry(tick).or_default().push(stream);
        }
    }
}

/// What a new stream begins with.
fn watch(rules: &Rules, topic: &Topic, class: Class) -> Watch {
    let ruled = rules.intervals.iter().find(|(filter, _)| filter.matches(topic)).map(|(_, ns)| *ns);
    let info = registry::by_name(topic.type_name());
    // A quiet alert is no stale one, and what is told when it changes has no rhythm.
    let is_periodic =
        class == Class::Latest && info.is_some_and(|info| Cadence::of(info) == Cadence::Periodic);
    Watch {
        set_ms: ruled.map_or(0, |ns| to_ms(ns).max(1)),
        is_ruled: ruled.is_some(),
        learns: rules.learn && is_periodic && ruled.is_none(),
        ..Watch::default()
    }
}

/// The interval in ns, zero for none, and where it comes from.
fn interval(watch: &Watch, pulse: &Pulse) -> (u64, IntervalOrigin) {
    match (watch.set_ms, pulse.learned.filter(|_| watch.learns)) {
        (0, None) => (0, IntervalOrigin::NONE),
        (0, Some(learned)) => (learned, IntervalOrigin::LEARNED),
        (set, _) => (u64::from(set) * 1_000_000, IntervalOrigin::SET),
    }
}

fn stale_after(rules: &Rules, interval: u64) -> u64 {
    if interval == 0 {
        return rules.stale_after_ns;
    }
    interval.saturating_mul(STALE_INTERVALS).min(rules.stale_after_ns)
}

/// When to look again at a stream of which nothing more exact is known.
fn next_look(watch: &Watch, interval: u64, now: u64) -> u64 {
    match (interval, watch.learns) {
        (0, true) => now.saturating_add(LEARN_NS << watch.doublings),
        (0, false) => u64::MAX,
        (interval, _) => now.saturating_add(interval),
    }
}

/// True where what is known of the stream was taken for all there is.
fn is_well(pulse: &Pulse) -> bool {
    matches!(pulse.status.state, StreamState::LIVE | StreamState::IDLE)
}

fn finding(
    stream: StreamId,
    pulse: &Pulse,
    state: StreamState,
    reason: StateReason,
    (interval, origin): (u64, IntervalOrigin),
    since: u64,
) -> Finding {
    let interval_ms = to_ms(interval);
    let status = Status { state, reason, origin, interval_ms, since, last_sequence: pulse.head };
    Finding { stream, head: pulse.head, status }
}

fn to_ms(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX)
}

fn place(stream: StreamId) -> usize {
    (stream.0 as usize).wrapping_sub(1)
}
