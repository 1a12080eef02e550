//! What dashboards were subscribed to, kept while they are away.
//!
//! Many subscribe when their page is built and never again: the connection breaks, comes back, and the page
//! stands still. Who names itself in the address, `?client_id=NAME`, has its subscriptions back with the
//! connection, and what was published meanwhile. Nothing else on the wire of these dialects stays the same, and
//! an address stands for many people.
//!
//! Where it goes on is known from pings: who answers one has received all that was sent before it. What was
//! published behind that comes again, so a message may come twice and none is left out, as far back as history
//! goes. With a journal, subscriptions outlive the process.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use tickcast_journal::Unavailable;

use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Longest name of a client, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// What a client is charged besides its name and its subscriptions, and a subscription besides its text: maps,
/// sets and their places.
const OVERHEAD_BYTES: usize = 128;
/// Most connections of one name that are remembered as away, 16 B each.
const AWAY_MAX: usize = 8;
/// Under this limit clients are forgotten.
const LIMIT: &str = "json.sticky_bytes";

/// One subscription, in the words of the dialect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Its type.
    pub subscription_type: String,
    /// Its instrument by number.
    pub instrument_id: Option<u64>,
    /// Its instrument by name.
    pub symbol: Option<String>,
}

/// What is known of a client that comes back.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What it was subscribed to.
    pub subscriptions: Vec<Asked>,
    /// It spells field names in camel case, if it was heard.
    pub is_camel: Option<bool>,
    /// All that was published before this time it has received, in ns UTC.
    pub received: u64,
}

/// Every client with a name: those that are here, and those that were until a short while ago.
#[derive(Debug)]
pub struct Sticky {
    /// How long a client may be away, in ns. Zero: nothing is kept.
    grace: u64,
    /// Most bytes of all of them.
    bytes_max: usize,
    metrics: Arc<Metrics>,
    clock: Clock,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    by_name: HashMap<Arc<str>, Client>,
    /// Those without a connection, by when the last one left.
    absent: BTreeSet<(u64, Arc<str>)>,
    bytes: usize,
    /// Forgotten here, and not yet on disk.
    gone: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct Client {
    /// By the key under which the client knows them.
    subscriptions: BTreeMap<String, Asked>,
    is_camel: Option<bool>,
    /// Connections that have the name now. Two at once are a page that is open twice, or one of them is dead and
    /// nobody knows yet.
    here: Vec<Presence>,
    /// Those that left and did not come back yet, as far as anybody can tell.
    away: Vec<Absence>,
    /// Connections that there have been.
    arrivals: u64,
    /// Arrivals in the place of a connection of which nobody knew yet that it had gone.
    early: usize,
    /// When the last connection left.
    left_at: u64,
    /// Other than what was last handed to the journal.
    is_changed: bool,
    /// The journal has not answered yet.
    is_saving: bool,
    /// The journal has, or may have, a note of it.
    is_on_disk: bool,
}

/// A connection that has the name now.
#[derive(Debug)]
struct Presence {
    /// Which arrival it was.
    number: u64,
    /// What was published before this time it has received, in ns UTC.
    received: u64,
    /// How many arrivals there had been when it answered last; zero when it never did.
    alive_at: u64,
}

/// A connection that has left.
#[derive(Debug)]
struct Absence {
    received: u64,
    left_at: u64,
}

/// How many clients are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// With a name, here or away.
    pub clients: usize,
    /// Of those, the ones whose newest subscriptions are not on disk yet.
    pub unsaved: usize,
}

/// A connection that has a name. Dropping it starts the time that the name is kept.
#[derive(Debug)]
pub struct Stay {
    sticky: Arc<Sticky>,
    name: Arc<str>,
    /// Which of the name's connections it is; nothing when there was no room to remember it.
    number: Option<u64>,
    /// The client said that it leaves.
    for_good: bool,
}

/// What is kept on disk.
#[derive(Serialize, Deserialize)]
struct Note {
    is_camel: Option<bool>,
    /// Type, number and name: a row without names, of which the journal takes three times as many.
    subscriptions: Vec<(String, Option<u64>, Option<String>)>,
}

impl Asked {
    fn bytes(&self, key: &str) -> usize {
        OVERHEAD_BYTES
            + key.len()
            + self.subscription_type.len()
            + self.symbol.as_ref().map_or(0, String::len)
    }
}

impl Client {
    fn bytes(&self, name: &str) -> usize {
        let subscriptions: usize = self.subscriptions.iter().map(|(key, asked)| asked.bytes(key)).sum();
        OVERHEAD_BYTES + name.len() + subscriptions
    }

    /// A connection comes. It goes on where the one does that is furthest behind: nobody knows which of them it
    /// was, and what one page of a name has received another has not.
    fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        let received = self.received();
        self.here.push(Presence { number: self.arrivals, received, alive_at: 0 });
        self.arrivals
    }

    fn received(&self) -> u64 {
        let here = self.here.iter().map(|presence| presence.received);
        here.chain(self.away.iter().map(|absence| absence.received)).min().unwrap_or(0)
    }

    /// A connection has received what was published before `time`. With its first such word it has taken the
    /// place of one that left: of the one that was furthest ahead, so that another still finds its own.
    fn has_received(&mut self, number: u64, time: u64) {
        let arrivals = self.arrivals;
        let Some(presence) = self.here.iter_mut().find(|presence| presence.number == number) else { return };
        let is_first = std::mem::replace(&mut presence.alive_at, arrivals) == 0;
        presence.received = presence.received.max(time);
        if is_first && number > 1 && !self.forget_furthest() {
            self.early += 1;
        }
    }

    /// A connection leaves, to come back unless it is `for_good`.
    fn depart(&mut self, number: u64, for_good: bool, now: u64) {
        let Some(at) = self.here.iter().position(|presence| presence.number == number) else { return };
        let Presence { received, alive_at, .. } = self.here.swap_remove(at);
        self.left_at = now;
        if for_good {
            return;
        }
        // Who has never answered has the place of one that is away, as before.
        let is_owed = alive_at == 0 && self.away.iter().any(|absence| absence.received <= received);
        // Who has not answered since another came has perhaps come back as that one already.
        let is_back = !is_owed && alive_at < self.arrivals && self.early > 0;
        self.early -= usize::from(is_back);
        if is_owed || is_back {
            return;
        }
        self.away.push(Absence { received, left_at: now });
        if self.away.len() > AWAY_MAX {
            self.forget_furthest();
        }
    }

    /// Forgets who is away and was furthest ahead; says whether anybody was.
    fn forget_furthest(&mut self) -> bool {
        let furthest = (0..self.away.len()).max_by_key(|at| self.away[*at].received);
        furthest.map(|at| self.away.swap_remove(at)).is_some()
    }

    fn note(&self) -> Vec<u8> {
        let row =
            |asked: &Asked| (asked.subscription_type.clone(), asked.instrument_id, asked.symbol.clone());
        let subscriptions = self.subscriptions.values().map(row).collect();
        let note = Note { is_camel: self.is_camel, subscriptions };
        serde_json::to_vec(&note).expect("strings and numbers")
    }
}

impl Clients {
    fn remove(&mut self, name: &Arc<str>) {
        if let Some(client) = self.by_name.remove(name) {
            self.absent.remove(&(client.left_at, Arc::clone(name)));
            self.bytes -= client.bytes(name);
            if client.is_on_disk {
                self.gone.push(Arc::clone(name));
            }
        }
    }

    /// Forgets who left before `time`.
    fn forget_before(&mut self, time: u64) {
        while let Some((left_at, name)) = self.absent.first()
            && *left_at < time
        {
            let name = Arc::clone(name);
            self.remove(&name);
        }
    }

    /// Makes room for `more` bytes by forgetting who has been away longest. Says no when that is not enough.
    fn make_room(&mut self, more: usize, bytes_max: usize, metrics: &Metrics) -> bool {
        while self.bytes + more > bytes_max {
            metrics.limit_hit(LIMIT);
            let Some((_, longest)) = self.absent.first() else { return false };
            let longest = Arc::clone(longest);
            self.remove(&longest);
        }
        true
    }
}

impl Sticky {
    /// Remembers clients for `grace` ns after they left, of at most `bytes_max` bytes together.
    #[must_use]
    pub fn new(grace: u64, bytes_max: usize, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { grace, bytes_max, metrics, clock, clients: Mutex::default() }
    }

    /// Takes in what a journal kept. Those clients leave now: the server was away, not they.
    pub fn restore(&self, alerts: &Alerts) {
        let now = self.clock.now();
        let mut clients = self.clients();
        for (name, note) in alerts.remembered() {
            let name: Arc<str> = name.into();
            if self.grace == 0 {
                clients.gone.push(name);
                continue;
            }
            let Ok(note) = serde_json::from_slice::<Note>(&note) else {
                tracing::warn!(client = %name, "what the journal kept of a client is unreadable and forgotten");
                clients.gone.push(name);
                continue;
            };
            let asked = |(subscription_type, instrument_id, symbol)| {
                let asked = Asked { subscription_type, instrument_id, symbol };
                (asked.key(), asked)
            };
            let client = Client {
                subscriptions: note.subscriptions.into_iter().map(asked).collect(),
                is_camel: note.is_camel,
                left_at: now,
                is_on_disk: true,
                // One that has received nothing of this run.
                away: vec![Absence { received: 0, left_at: now }],
                arrivals: 1,
                ..Client::default()
            };
            let bytes = client.bytes(&name);
            if clients.make_room(bytes, self.bytes_max, &self.metrics) {
                clients.bytes += bytes;
                clients.absent.insert((now, Arc::clone(&name)));
                clients.by_name.insert(name, client);
            } else {
                clients.gone.push(name);
            }
        }
    }

    /// A connection has a name from now on. Nothing when no names are kept. What was published before `next`, in ns
    /// UTC, is nothing that a client has missed which was not here before.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: &str, next: u64) -> Option<Stay> {
        if self.grace == 0 {
            return None;
        }
        let now = self.clock.now();
        let mut clients = self.clients();
        let name: Arc<str> = name.into();
        clients.forget_before(now.saturating_sub(self.grace));
        let Clients { by_name, absent, .. } = &mut *clients;
        let number = if let Some(client) = by_name.get_mut(&name) {
            absent.remove(&(client.left_at, Arc::clone(&name)));
            client.away.retain(|absence| now.saturating_sub(absence.left_at) <= self.grace);
            Some(client.arrive())
        } else {
            // What was published before it came is nothing it has missed.
            let here = vec![Presence { number: 1, received: next, alive_at: 0 }];
            let client = Client { here, arrivals: 1, ..Client::default() };
            let bytes = client.bytes(&name);
            clients.make_room(bytes, self.bytes_max, &self.metrics).then(|| {
                clients.bytes += bytes;
                clients.by_name.insert(Arc::clone(&name), client);
                1
            })
        };
        drop(clients);
        Some(Stay { sticky: Arc::clone(self), name, number, for_good: false })
    }

    /// Forgets who has been away for too long, and brings to disk what is other there. To be called every second
    /// or so.
    pub fn tick(self: &Arc<Self>, alerts: Option<&Alerts>) {
        self.bring_to_disk(alerts, false);
    }

    /// The same for the last time, before the journal is closed.
    pub fn finish(self: &Arc<Self>, alerts: &Alerts) {
        self.bring_to_disk(Some(alerts), true);
    }

    fn bring_to_disk(self: &Arc<Self>, alerts: Option<&Alerts>, is_last: bool) {
        let now = self.clock.now();
        let mut clients = self.clients();
        clients.forget_before(now.saturating_sub(self.grace));
        let mut gone = std::mem::take(&mut clients.gone);
        let Some(alerts) = alerts else { return };
        // Who is back gets another note in the place of the old one.
        gone.retain(|name| match clients.by_name.get_mut(name) {
            Some(client) => {
                (client.is_changed, client.is_on_disk) = (true, true);
                false
            }
            None => true,
        });
        let mut notes = Vec::new();
        for (name, client) in &mut clients.by_name {
            // One at a time: should it fail, an older note must not be tried again behind a newer one.
            if client.is_changed && (is_last || !client.is_saving) {
                (client.is_changed, client.is_saving, client.is_on_disk) = (false, true, true);
                notes.push((Arc::clone(name), client.note()));
            }
        }
        drop(clients);
        for name in gone {
            let (sticky, of) = (Arc::downgrade(self), Arc::clone(&name));
            let forgotten = Box::new(move |forgotten: Result<(), Unavailable>| {
                if let (Err(_), Some(sticky)) = (forgotten, sticky.upgrade()) {
                    sticky.clients().gone.push(of);
                }
            });
            alerts.remember(&name, None, now, forgotten);
        }
        for (name, note) in notes {
            let (sticky, of) = (Arc::downgrade(self), Arc::clone(&name));
            let kept = Box::new(move |kept: Result<(), Unavailable>| {
                if let Err(Unavailable::TooLarge { limit }) = kept {
                    // To be told once: it is no better the next time.
                    tracing::warn!(client = %of, limit, "subscriptions of a client are too many bytes for the journal and do not outlive the server");
                    return saved(&sticky, &of, true);
                }
                saved(&sticky, &of, kept.is_ok());
            });
            alerts.remember(&name, Some(note), now, kept);
        }
    }

    /// How many clients are known.
    #[must_use]
    pub fn count(&self) -> Count {
        let clients = self.clients();
        let is_unsaved = |client: &&Client| client.is_changed || client.is_saving;
        Count { clients: clients.by_name.len(), unsaved: clients.by_name.values().filter(is_unsaved).count() }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A note is on disk, or it is tried again with the next tick.
fn saved(sticky: &Weak<Sticky>, name: &Arc<str>, is_on_disk: bool) {
    if let Some(sticky) = sticky.upgrade()
        && let Some(client) = sticky.clients().by_name.get_mut(name)
    {
        client.is_saving = false;
        client.is_changed |= !is_on_disk;
    }
}

impl Stay {
    /// The client's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it had before this connection.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let clients = self.sticky.clients();
        let Some(client) = clients.by_name.get(&self.name) else { return Memory::default() };
        Memory {
            subscriptions: client.subscriptions.values().cloned().collect(),
            is_camel: client.is_camel,
            received: client.received(),
        }
    }

    /// The client is subscribed to this from now on, and knows it as `key`.
    pub fn add(&self, key: &str, asked: &Asked) {
        let mut clients = self.sticky.clients();
        let is_new = |client: &Client| !client.subscriptions.contains_key(key);
        if !clients.by_name.get(&self.name).is_some_and(is_new) {
            return;
        }
        let bytes = asked.bytes(key);
        if !clients.make_room(bytes, self.sticky.bytes_max, &self.sticky.metrics) {
            return;
        }
        // A connection that there was no room to count does not keep the name from being forgotten just now.
        if let Some(client) = clients.by_name.get_mut(&self.name) {
            client.subscriptions.insert(key.to_owned(), asked.clone());
            client.is_changed = true;
            clients.bytes += bytes;
        }
    }

    /// The client does not want this any more.
    pub fn remove(&self, key: &str) {
        let mut clients = self.sticky.clients();
        let Some(client) = clients.by_name.get_mut(&self.name) else { return };
        if let Some(asked) = client.subscriptions.remove(key) {
            client.is_changed = true;
            clients.bytes -= asked.bytes(key);
        }
    }

    /// How the client spells field names.
    pub fn spells(&self, is_camel: bool) {
        if let Some(client) = self.sticky.clients().by_name.get_mut(&self.name)
            && client.is_camel != Some(is_camel)
        {
            client.is_camel = Some(is_camel);
            client.is_changed = true;
        }
    }

    /// The client has all that was published before `time`: a publish time, and not one of the clock.
    pub fn has_received(&self, time: u64) {
        let Some(number) = self.number else { return };
        if let Some(client) = self.sticky.clients().by_name.get_mut(&self.name) {
            client.has_received(number, time);
        }
    }

    /// The client has said that it leaves: it is forgotten, unless it has another connection.
    pub fn leave_for_good(&mut self) {
        self.for_good = true;
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let now = self.sticky.clock.now();
        let mut clients = self.sticky.clients();
        let Some(number) = self.number else { return };
        let Some(client) = clients.by_name.get_mut(&self.name) else { return };
        client.depart(number, self.for_good, now);
        if !client.here.is_empty() {
            return;
        }
        let (left_at, is_forgotten) = (client.left_at, self.for_good || client.subscriptions.is_empty());
        clients.absent.insert((left_at, Arc::clone(&self.name)));
        if is_forgotten {
            clients.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const GRACE: u64 = 100;

    struct Bench {
        sticky: Arc<Sticky>,
        now: Arc<AtomicU64>,
    }

    impl Bench {
        fn new(bytes_max: usize) -> Self {
            let now = Arc::new(AtomicU64::new(1_000));
            let read = now.clone();
            let clock = Clock::new(move || read.load(Ordering::Relaxed));
            Self { sticky: Arc::new(Sticky::new(GRACE, bytes_max, Arc::default(), clock)), now }
        }

        fn pass(&self, time: u64) {
            self.now.fetch_add(time, Ordering::Relaxed);
        }

        fn enter(&self, name: &str) -> Stay {
            self.sticky.enter(name, 1_000).expect("names are kept")
        }

        fn count(&self, name: &str) -> usize {
            let clients = self.sticky.clients();
            let absent = clients.by_name.iter().filter(|(_, client)| client.here.is_empty());
            let absent = absent.map(|(name, client)| (client.left_at, Arc::clone(name)));
            assert_eq!(clients.absent, absent.collect(), "who is away is known by when it left");
            let sum: usize = clients.by_name.iter().map(|(name, client)| client.bytes(name)).sum();
            assert_eq!(clients.bytes, sum, "every byte is charged once");
            assert!(clients.bytes <= self.sticky.bytes_max);
            clients.by_name.get(name).map_or(0, |client| client.subscriptions.len())
        }
    }

    fn asked(symbol: &str) -> Asked {
        Asked { subscription_type: "alerts".into(), instrument_id: None, symbol: Some(symbol.into()) }
    }

    #[test]
    fn subscriptions_are_kept_for_as_long_as_is_said() {
        let bench = Bench::new(10_000);
        let stay = bench.enter("a");
        stay.add("A", &asked("A"));
        stay.add("A", &asked("A"));
        stay.add("B", &asked("B"));
        stay.remove("A");
        stay.remove("A");
        assert_eq!(bench.count("a"), 1);
        bench.pass(10 * GRACE);
        bench.sticky.tick(None);
        assert_eq!(bench.count("a"), 1, "it is here");
        drop(stay);
        bench.pass(GRACE);
        bench.sticky.tick(None);
        assert_eq!(bench.enter("a").memory().subscriptions, [asked("B")]);
        bench.pass(GRACE + 1);
        // Whether or not somebody has looked since.
        assert!(bench.enter("a").memory().subscriptions.is_empty());
        bench.sticky.tick(None);
        assert_eq!(bench.count("a"), 0);
        assert_eq!(bench.sticky.clients().bytes, 0, "who had nothing is not kept");
    }

    #[test]
    fn what_was_received_is_the_newest_that_is_known() {
        let bench = Bench::new(10_000);
        let stay = bench.enter("a");
        assert_eq!(stay.memory().received, 1_000, "what came before it is not owed");
        stay.has_received(1_005);
        stay.has_received(1_003);
        stay.add("A", &asked("A"));
        drop(stay);
        bench.pass(GRACE);
        assert_eq!(bench.enter("a").memory().received, 1_005);
    }

    #[test]
    fn a_name_with_two_connections_is_kept_until_the_last_has_left() {
        let bench = Bench::new(10_000);
        let (mut one, two) = (bench.enter("a"), bench.enter("a"));
        one.add("A", &asked("A"));
        one.leave_for_good();
        drop(one);
        bench.pass(10 * GRACE);
        bench.sticky.tick(None);
        assert_eq!(two.memory().subscriptions.len(), 1);
        let mut three = bench.enter("a");
        drop(two);
        three.leave_for_good();
        drop(three);
        assert_eq!(bench.count("a"), 0);
    }

    #[test]
    fn who_is_here_is_never_forgotten_for_another() {
        let each = OVERHEAD_BYTES + 1 + asked("A").bytes("A");
        let bench = Bench::new(2 * each);
        let (old, here) = (bench.enter("o"), bench.enter("h"));
        old.add("A", &asked("A"));
        here.add("A", &asked("A"));
        drop(old);
        let new = bench.enter("n");
        assert_eq!((bench.count("o"), bench.count("h")), (0, 1));
        new.add("A", &asked("A"));
        assert_eq!((bench.count("n"), bench.count("h")), (1, 1));
        // Nobody is away: there is no room, and nothing breaks.
        let late = bench.enter("l");
        late.add("A", &asked("A"));
        new.add("B", &asked("B"));
        assert_eq!((bench.count("l"), bench.count("n"), bench.count("h")), (0, 1, 1));
        drop(new);
        let again = bench.enter("l");
        again.add("A", &asked("A"));
        drop(late);
        bench.pass(10 * GRACE);
        bench.sticky.tick(None);
        assert_eq!(bench.count("l"), 1, "the connection that found no room does not count");
    }

    #[test]
    fn who_is_forgotten_for_its_own_subscription_is_charged_nothing() {
        let each = OVERHEAD_BYTES + 1 + asked("A").bytes("A");
        let bench = Bench::new(2 * each);
        let (here, more) = (bench.enter("h"), bench.enter("m"));
        here.add("A", &asked("A"));
        more.add("A", &asked("A"));
        // There was no room for it; then another connection of its name found some, and left.
        let late = bench.enter("l");
        drop(more);
        let counted = bench.enter("l");
        counted.add("A", &asked("A"));
        drop(counted);
        late.add("B", &asked("B"));
        assert_eq!((bench.count("l"), bench.count("h")), (0, 1));
    }

    #[test]
    fn each_page_of_a_name_goes_on_where_it_was_or_before() {
        let bench = Bench::new(10_000);
        let one = bench.enter("a");
        one.add("A", &asked("A"));
        let other = bench.enter("a");
        one.has_received(1_010);
        other.has_received(1_010);
        // One is cut and comes back; meanwhile the other goes on.
        drop(other);
        one.has_received(1_020);
        let other = bench.enter("a");
        assert_eq!(other.memory().received, 1_010);
        other.has_received(1_030);
        assert_eq!(bench.enter("a").memory().received, 1_020, "nobody is owed more than who is here");
        // Both are cut: whoever comes first.
        one.has_received(1_020);
        other.has_received(1_030);
        drop((one, other));
        let first = bench.enter("a");
        assert_eq!(first.memory().received, 1_020);
        first.has_received(1_040);
        let second = bench.enter("a");
        assert_eq!(second.memory().received, 1_020);
        second.has_received(1_040);
        drop((first, second));
        assert_eq!(bench.enter("a").memory().received, 1_040);
    }

    #[test]
    fn who_is_back_before_anybody_knew_that_it_was_gone_is_not_owed_the_same_for_ever() {
        let bench = Bench::new(10_000);
        let dead = bench.enter("a");
        dead.add("A", &asked("A"));
        dead.has_received(1_010);
        let back = bench.enter("a");
        assert_eq!(back.memory().received, 1_010);
        back.has_received(1_020);
        drop(dead);
        back.has_received(1_030);
        drop(back);
        let again = bench.enter("a");
        assert_eq!(again.memory().received, 1_030);
        // Cut before it has answered: what it was to get is still owed, once.
        drop(again);
        let again = bench.enter("a");
        assert_eq!(again.memory().received, 1_030);
        again.has_received(1_040);
        drop(again);
        assert_eq!(bench.enter("a").memory().received, 1_040);
    }
}
