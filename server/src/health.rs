//! Health of streams: who has gone quiet or fails, judged when asked.
//!
//! A group is all streams of one data type, or a feed of our own given at construction. A group that was
//! never heard of is not listed. It is unwell after [`Limits::errors`] errors in a row; a periodic one
//! also after [`Limits::stale_after_ns`] without an update. Types of class latest are periodic; ordered
//! and critical ones are events, whose silence is no fault (a quiet market has no signals), and so is
//! `stream_health`, which is told when it changes. For the life of an events' source give its feed a
//! group of its own.
//!
//! Nothing runs by itself: no timer, no clock. Times are nanoseconds since the Unix epoch, by argument.
//!
//! ```text
//! publish path, many threads ── record_update ──> one line of atomics a group <── snapshot, changes
//!                               record_error
//! ```
//!
//! All atomics are relaxed: each is a fact of its own, and nothing else is published through them. An
//! update and an error at the same instant may be taken in either order, and of two updates at the same
//! instant the earlier time may stay. Memory is fixed at construction: 256 bytes a group, and the text of
//! its last error.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::StreamHealth;
use tickcast_protocol::registry::{self, TypeInfo};
use tickcast_protocol::{Class, Message};

/// Longest text kept of an error, in bytes; what is longer is cut.
pub const ERROR_BYTES_MAX: usize = 256;

/// Time of what has not happened; what happens in the first nanosecond of 1970 is taken for the second.
const NEVER: u64 = 0;
/// Place of types without a group: control messages and numbers nobody has.
const NO_PLACE: u16 = u16::MAX;

/// When a group is unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Errors in a row.
    pub errors: u64,
    /// Time without an update, for periodic groups, in nanoseconds.
    pub stale_after_ns: u64,
}

impl Default for Limits {
    /// Ten errors, five minutes.
    fn default() -> Self {
        Self { errors: 10, stale_after_ns: 300_000_000_000 }
    }
}

/// What a group's silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// Updates keep coming while all is well.
    Periodic,
    /// Updates come when something happens.
    Events,
}

impl Cadence {
    /// The cadence of a type, from its class.
    #[must_use]
    pub fn of(info: &TypeInfo) -> Self {
        if info.class == Class::Latest && info.id != StreamHealth::INFO.id {
            Self::Periodic
        } else {
            Self::Events
        }
    }
}

/// What is watched as one. A group the monitor does not have is well and nothing is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The data type with this id.
    Type(u16),
    /// The feed at this place of the list given at construction.
    Feed(u16),
}

impl From<u16> for Group {
    /// The data type with this id.
    fn from(type_id: u16) -> Self {
        Self::Type(type_id)
    }
}

/// Why a group is unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Errors in a row.
    Errors(u64),
    /// No update for so long, in nanoseconds.
    Silent(u64),
}

/// How one group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHealth {
    /// Name of the type or feed.
    pub name: &'static str,
    /// True while it is well.
    pub is_healthy: bool,
    /// Why it is not.
    pub cause: Option<Cause>,
    /// Errors since the last update.
    pub error_count: u64,
    /// Times it was tried to bring the group back, see [`HealthMonitor::record_attempt`].
    pub recovery_attempts: u64,
    /// When it was heard of first.
    pub started_at: u64,
    /// When it was updated last.
    pub last_update: Option<u64>,
}

impl GroupHealth {
    /// The same as a message to publish.
    #[must_use]
    pub fn message(&self) -> Message {
        let time = |ns: u64| Timestamp(i64::try_from(ns).unwrap_or(i64::MAX));
        Message::StreamHealth(StreamHealth {
            stream: self.name.to_owned(),
            is_healthy: self.is_healthy,
            error_count: self.error_count,
            recovery_attempts: self.recovery_attempts,
            started_at: time(self.started_at),
            last_update: self.last_update.map(time),
        })
    }
}

/// Watches every group.
#[derive(Debug)]
pub struct HealthMonitor {
    limits: Limits,
    /// Types in the order of the registry, then feeds.
    groups: Box<[State]>,
    /// Type id to place in `groups`.
    places: Box<[u16]>,
    types: usize,
}

/// One group, on cache lines of its own: its writers do not slow down those of another.
#[derive(Debug)]
#[repr(align(128))]
struct State {
    /// Written once, by whoever hears of the group first.
    started_at: AtomicU64,
    /// Written by updates that are later.
    last_update: AtomicU64,
    /// Errors in a row: grown by errors, zeroed by updates.
    errors: AtomicU64,
    attempts: AtomicU64,
    /// Set by an attempt, cleared by the update that ends the trouble.
    attempted: AtomicBool,
    /// What `changes` told last: [`UNTOLD`], [`WELL`] or [`UNWELL`].
    told: AtomicU8,
    cadence: Cadence,
    name: &'static str,
    /// Never waited for by a publisher: an error that finds it taken goes without its text.
    last_error: Mutex<Option<Box<str>>>,
}

const UNTOLD: u8 = 0;
const WELL: u8 = 1;
const UNWELL: u8 = 2;

impl HealthMonitor {
    /// A monitor of every data type and of `feeds`.
    #[must_use]
    pub fn new(limits: Limits, feeds: &[(&'static str, Cadence)]) -> Self {
        let data = || registry::types().iter().filter(|info| info.is_data());
        let ids = data().map(|info| usize::from(info.id));
        let mut places = vec![NO_PLACE; ids.max().map_or(0, |last| last + 1)];
        for (place, info) in (0..).zip(data()) {
            places[usize::from(info.id)] = place;
        }
        let types = data().map(|info| State::new(info.name, Cadence::of(info)));
        let feeds = feeds.iter().map(|(name, cadence)| State::new(name, *cadence));
        let groups = types.chain(feeds).collect();
        Self { limits, groups, places: places.into(), types: data().count() }
    }

    /// Hears of a group that has to be well from now on, even if nothing ever comes. Of others the monitor
    /// hears by their first update or error.
    pub fn register(&self, group: impl Into<Group>, now: u64) {
        if let Some(state) = self.state(group.into()) {
            state.start(now);
        }
    }

    /// Something came: ends a row of errors. A few loads and one store in the usual case; never waits.
    pub fn record_update(&self, group: impl Into<Group>, now: u64) {
        let Some(state) = self.state(group.into()) else { return };
        state.start(now);
        let errors = if state.errors.load(Relaxed) == 0 { 0 } else { state.errors.swap(0, Relaxed) };
        let before = state.last_update.load(Relaxed);
        let ends_silence = if self.is_stale(state, before, now) {
            // Of several threads only one is the one that ended it.
            state.last_update.compare_exchange(before, now, Relaxed, Relaxed).is_ok()
        } else {
            if now > before {
                state.last_update.store(now, Relaxed);
            }
            false
        };
        let ends_trouble = ends_silence || errors >= self.limits.errors;
        if ends_trouble && !state.attempted.swap(false, Relaxed) {
            state.attempts.fetch_add(1, Relaxed);
        }
    }

    /// Something failed. `why` is kept for people until the next error.
    pub fn record_error(&self, group: impl Into<Group>, now: u64, why: &str) {
        let Some(state) = self.state(group.into()) else { return };
        state.start(now);
        state.errors.fetch_add(1, Relaxed);
        if let Ok(mut last_error) = state.last_error.try_lock() {
            let cut = why.floor_char_boundary(ERROR_BYTES_MAX);
            *last_error = Some(why[..cut].into());
        }
    }

    /// Somebody tries to bring the group back, by connecting anew for example. The update that ends the
    /// trouble counts as an attempt only when nobody said that they tried.
    pub fn record_attempt(&self, group: impl Into<Group>) {
        if let Some(state) = self.state(group.into()) {
            state.attempts.fetch_add(1, Relaxed);
            state.attempted.store(true, Relaxed);
        }
    }

    /// True when the group is well at `now`, or was never heard of.
    #[must_use]
    pub fn check(&self, group: impl Into<Group>, now: u64) -> bool {
        self.state(group.into()).is_none_or(|state| self.cause(state, now).is_none())
    }

    /// The text of the last error, cut to [`ERROR_BYTES_MAX`].
    #[must_use]
    pub fn last_error(&self, group: impl Into<Group>) -> Option<String> {
        let text = self.state(group.into())?.last_error.lock();
        // A thread that died holding it left a whole text behind.
        text.unwrap_or_else(PoisonError::into_inner).as_deref().map(str::to_owned)
    }

    /// Every group that was heard of: types in the order of the registry, then feeds.
    #[must_use]
    pub fn snapshot(&self, now: u64) -> Vec<GroupHealth> {
        self.started().map(|state| self.health(state, now)).collect()
    }

    /// Groups that became well, unwell or known since this was asked last. Each change is told once,
    /// however many ask; what happened and was undone in between is not a change.
    pub fn changes(&self, now: u64) -> impl Iterator<Item = GroupHealth> {
        self.started().filter_map(move |state| {
            let health = self.health(state, now);
            let tell = if health.is_healthy { WELL } else { UNWELL };
            (state.told.swap(tell, Relaxed) != tell).then_some(health)
        })
    }

    fn state(&self, group: Group) -> Option<&State> {
        let place = match group {
            Group::Type(id) => usize::from(*self.places.get(usize::from(id))?),
            Group::Feed(place) => self.types + usize::from(place),
        };
        self.groups.get(place)
    }

    fn started(&self) -> impl Iterator<Item = &State> {
        self.groups.iter().filter(|state| state.started_at.load(Relaxed) != NEVER)
    }

    fn health(&self, state: &State, now: u64) -> GroupHealth {
        let cause = self.cause(state, now);
        let last_update = state.last_update.load(Relaxed);
        GroupHealth {
            name: state.name,
            is_healthy: cause.is_none(),
            cause,
            error_count: state.errors.load(Relaxed),
            recovery_attempts: state.attempts.load(Relaxed),
            started_at: state.started_at.load(Relaxed),
            last_update: (last_update != NEVER).then_some(last_update),
        }
    }

    fn cause(&self, state: &State, now: u64) -> Option<Cause> {
        let errors = state.errors.load(Relaxed);
        if errors >= self.limits.errors {
            return Some(Cause::Errors(errors));
        }
        let last_update = state.last_update.load(Relaxed);
        self.is_stale(state, last_update, now).then(|| Cause::Silent(state.silence(last_update, now)))
    }

    fn is_stale(&self, state: &State, last_update: u64, now: u64) -> bool {
        let is_started = state.started_at.load(Relaxed) != NEVER;
        is_started
            && state.cadence == Cadence::Periodic
            && state.silence(last_update, now) >= self.limits.stale_after_ns
    }
}

impl State {
    fn new(name: &'static str, cadence: Cadence) -> Self {
        Self {
            started_at: AtomicU64::new(NEVER),
            last_update: AtomicU64::new(NEVER),
            errors: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            attempted: AtomicBool::new(false),
            told: AtomicU8::new(UNTOLD),
            cadence,
            name,
            last_error: Mutex::new(None),
        }
    }

    fn start(&self, now: u64) {
        if self.started_at.load(Relaxed) == NEVER {
            // Whoever is first; the others' times are the same moment.
            let _ = self.started_at.compare_exchange(NEVER, now.max(NEVER + 1), Relaxed, Relaxed);
        }
    }

    /// Time since the last update, or since the start when there was none.
    fn silence(&self, last_update: u64, now: u64) -> u64 {
        now.saturating_sub(last_update.max(self.started_at.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_800_000_000 * SECOND;
    const DEMO: Group = Group::Feed(0);
    const BACKPLANE: Group = Group::Feed(1);

    fn monitor() -> HealthMonitor {
        HealthMonitor::new(Limits::default(), &[("demo", Cadence::Periodic), ("backplane", Cadence::Events)])
    }

    fn after(seconds: u64) -> u64 {
        START + seconds * SECOND
    }

    fn type_id(name: &str) -> u16 {
        registry::by_name(name).unwrap().id
    }

    /// What changed, as name and cause.
    fn changes(monitor: &HealthMonitor, now: u64) -> Vec<(&'static str, Option<Cause>)> {
        monitor.changes(now).map(|health| (health.name, health.cause)).collect()
    }

    #[test]
    fn every_data_type_has_a_group_and_nothing_else_has() {
        let monitor = monitor();
        for info in registry::types() {
            monitor.register(info.id, START);
        }
        for stranger in [Group::Type(999), Group::Type(u16::MAX), Group::Feed(2), Group::Feed(u16::MAX)] {
            monitor.record_update(stranger, START);
            monitor.record_error(stranger, START, "no");
            monitor.record_attempt(stranger);
            assert!(monitor.check(stranger, after(86_400)) && monitor.last_error(stranger).is_none());
        }
        let names: Vec<_> = monitor.snapshot(START).iter().map(|health| health.name).collect();
        let data = registry::types().iter().filter(|info| info.is_data());
        assert_eq!(names, data.map(|info| info.name).collect::<Vec<_>>());
    }

    #[test]
    fn groups_nobody_heard_of_are_not_listed() {
        let monitor = monitor();
        assert!(monitor.snapshot(START).is_empty() && changes(&monitor, START).is_empty());
        assert!(monitor.check(type_id("market_data"), u64::MAX));
        // Not even at the beginning of time.
        monitor.record_update(type_id("market_data"), 0);
        assert_eq!(monitor.snapshot(1).len(), 1);
    }

    #[test]
    fn events_are_told_from_ticks_by_the_table() {
        for (name, cadence) in [
            ("market_data", Cadence::Periodic),
            ("portfolio_snapshot", Cadence::Periodic),
            ("system_health", Cadence::Periodic),
            ("public_trade", Cadence::Events),
            ("signal", Cadence::Events),
            ("alert", Cadence::Events),
            ("order_update", Cadence::Events),
            ("trade_executed", Cadence::Events),
            ("risk_alert", Cadence::Events),
            ("notification", Cadence::Events),
            ("event", Cadence::Events),
            ("options_flow", Cadence::Events),
            // Its updates are changes: judged by silence it would report on itself for ever.
            ("stream_health", Cadence::Events),
        ] {
            assert_eq!(Cadence::of(registry::by_name(name).unwrap()), cadence, "{name}");
        }
    }

    #[test]
    fn ten_errors_in_a_row_are_unwell_and_one_update_heals() {
        let monitor = monitor();
        let signals = type_id("signal");
        monitor.record_update(signals, START);
        assert_eq!(changes(&monitor, START), [("signal", None)]);
        for count in 1..=9 {
            monitor.record_error(signals, after(count), "provider timed out");
        }
        assert!(monitor.check(signals, after(9)));
        assert!(changes(&monitor, after(9)).is_empty());
        monitor.record_error(signals, after(10), "provider refused");
        assert!(!monitor.check(signals, after(10)));
        assert_eq!(monitor.last_error(signals).as_deref(), Some("provider refused"));
        assert_eq!(changes(&monitor, after(10)), [("signal", Some(Cause::Errors(10)))]);
        monitor.record_error(signals, after(11), "provider refused");
        assert!(changes(&monitor, after(11)).is_empty(), "it was told");
        monitor.record_update(signals, after(12));
        assert!(monitor.check(signals, after(12)));
        let health = monitor.changes(after(12)).next().unwrap();
        let expected = GroupHealth {
            name: "signal",
            is_healthy: true,
            cause: None,
            error_count: 0,
            recovery_attempts: 1,
            started_at: START,
            last_update: Some(after(12)),
        };
        assert_eq!(health, expected);
        assert_eq!(monitor.snapshot(after(12)), [expected]);
        let Message::StreamHealth(message) = health.message() else { panic!("{:?}", health.message()) };
        assert_eq!((message.stream.as_str(), message.is_healthy), ("signal", true));
        assert_eq!(message.last_update, Some(Timestamp(after(12) as i64)));
    }

    #[test]
    fn nine_errors_and_an_update_are_no_trouble() {
        let monitor = monitor();
        let signals = type_id("signal");
        for round in 0..20 {
            for _ in 0..9 {
                monitor.record_error(signals, after(round), "again");
            }
            assert!(monitor.check(signals, after(round)));
            monitor.record_update(signals, after(round));
        }
        assert_eq!(monitor.snapshot(after(20))[0].recovery_attempts, 0);
    }

    #[test]
    fn five_minutes_of_silence_are_unwell_for_ticks() {
        let monitor = monitor();
        let ticks = type_id("market_data");
        monitor.record_update(ticks, START);
        assert_eq!(changes(&monitor, after(299)), [("market_data", None)]);
        assert!(monitor.check(ticks, after(300) - 1));
        // Nobody recorded anything in between: it is judged when asked.
        assert!(!monitor.check(ticks, after(300)));
        assert!(!monitor.snapshot(after(300))[0].is_healthy);
        let silent = Some(Cause::Silent(300 * SECOND));
        assert_eq!(changes(&monitor, after(300)), [("market_data", silent)]);
        monitor.record_update(ticks, after(400));
        assert_eq!(changes(&monitor, after(400)), [("market_data", None)]);
        assert_eq!(monitor.snapshot(after(400))[0].recovery_attempts, 1);
    }

    #[test]
    fn a_quiet_market_has_no_signals_and_that_is_well() {
        let monitor = monitor();
        for name in ["signal", "trade_executed", "alert", "stream_health"] {
            monitor.record_update(type_id(name), START);
        }
        monitor.register(BACKPLANE, START);
        assert_eq!(changes(&monitor, START).len(), 5);
        assert!(changes(&monitor, after(86_400)).is_empty());
        assert!(monitor.snapshot(after(86_400)).iter().all(|health| health.is_healthy));
        // Nor is the first update after a long time a recovery.
        monitor.record_update(type_id("signal"), after(86_400));
        assert!(monitor.snapshot(after(86_400)).iter().all(|health| health.recovery_attempts == 0));
    }

    #[test]
    fn a_feed_that_is_registered_and_never_comes_is_unwell() {
        let monitor = monitor();
        monitor.register(DEMO, START);
        monitor.register(DEMO, after(299));
        assert!(monitor.check(DEMO, after(299)));
        assert!(!monitor.check(DEMO, after(300)));
        let health = monitor.snapshot(after(300)).remove(0);
        assert_eq!((health.last_update, health.started_at), (None, START));
    }

    #[test]
    fn attempts_are_those_somebody_made_or_else_the_recovery_itself() {
        let monitor = monitor();
        monitor.record_update(DEMO, START);
        for attempt in 0..3 {
            monitor.record_error(DEMO, after(400 + attempt), "connection refused");
            monitor.record_attempt(DEMO);
        }
        let attempts = |now| monitor.snapshot(now)[0].recovery_attempts;
        assert_eq!(attempts(after(403)), 3);
        monitor.record_update(DEMO, after(403));
        assert_eq!(attempts(after(403)), 3, "the update that came of them is not one more");
        monitor.record_update(DEMO, after(900));
        assert_eq!(attempts(after(900)), 4, "this one came by itself");
    }

    #[test]
    fn times_that_go_back_do_no_harm() {
        let monitor = monitor();
        let ticks = type_id("market_data");
        monitor.record_update(ticks, after(100));
        monitor.record_update(ticks, START);
        assert_eq!(monitor.snapshot(after(100))[0].last_update, Some(after(100)));
        assert!(monitor.check(ticks, 0));
        assert!(!monitor.check(ticks, u64::MAX));
    }

    #[test]
    fn errors_keep_a_bounded_text() {
        let monitor = monitor();
        monitor.record_error(DEMO, START, &"é".repeat(1_000));
        let text = monitor.last_error(DEMO).unwrap();
        assert!(text.len() <= ERROR_BYTES_MAX && text.len() > ERROR_BYTES_MAX - 2);
        assert_eq!(monitor.last_error(BACKPLANE), None);
    }

    #[test]
    fn limits_are_settings() {
        let monitor = HealthMonitor::new(Limits { errors: 1, stale_after_ns: 5 * SECOND }, &[]);
        let ticks = type_id("market_data");
        monitor.record_update(ticks, START);
        assert!(monitor.check(ticks, after(5) - 1));
        assert!(!monitor.check(ticks, after(5)));
        monitor.record_update(ticks, after(5));
        monitor.record_error(ticks, after(5), "one is enough");
        assert!(!monitor.check(ticks, after(5)));
    }

    #[test]
    fn many_threads_lose_no_error_and_tell_each_change_once() {
        let monitor = monitor();
        let (ticks, alerts) = (type_id("market_data"), type_id("alert"));
        monitor.record_update(ticks, START);
        monitor.record_update(alerts, START);
        assert_eq!(changes(&monitor, START).len(), 2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..1_000 {
                        monitor.record_update(ticks, after(1_000) + step);
                        monitor.record_error(alerts, after(1_000) + step, "no");
                    }
                });
            }
        });
        let told: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| changes(&monitor, after(1_000)).len())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(told, 1, "the alerts' trouble; the ticks' silence began and ended unseen");
        let snapshot = monitor.snapshot(after(1_000));
        let health = |name: &str| snapshot.iter().find(|health| health.name == name).unwrap();
        assert_eq!(health("market_data").recovery_attempts, 1, "all at once ended the same silence");
        assert_eq!(health("alert").error_count, 4_000);
    }
}
