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

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Longest name of a client, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// What a client is charged besides its name and its subscriptions, and a subscription besides its text: maps,
/// sets and their places.
const OVERHEAD_BYTES: usize = 128;
/// Under this limit clients are forgotten.
const LIMIT: &str = "json.sticky_bytes";

/// One subscription, in the words of the dialect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
    bytes: usize,
    /// Forgotten here, and not yet on disk.
    gone: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct Client {
    /// By the key under which the client knows them.
    subscriptions: BTreeMap<String, Asked>,
    is_camel: Option<bool>,
    received: u64,
    /// Connections that have the name now. Two at once are a page that is open twice, or one of them is dead and
    /// nobody knows yet.
    connections: usize,
    /// When the last of them left.
    left_at: u64,
    /// Other than what was last handed to the journal.
    is_changed: bool,
    /// The journal has not answered yet.
    is_saving: bool,
    /// The journal has, or may have, a note of it.
    is_on_disk: bool,
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
    /// There was room to remember it.
    is_counted: bool,
    /// The client said that it leaves.
    for_good: bool,
}

/// What is kept on disk.
#[derive(Serialize, Deserialize)]
struct Note {
    is_camel: Option<bool>,
    subscriptions: BTreeMap<String, Asked>,
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

    fn note(&self) -> Vec<u8> {
        let note = Note { is_camel: self.is_camel, subscriptions: self.subscriptions.clone() };
        serde_json::to_vec(&note).expect("strings and numbers")
    }
}

impl Clients {
    fn remove(&mut self, name: &Arc<str>) {
        if let Some(client) = self.by_name.remove(name) {
            self.bytes -= client.bytes(name);
            if client.is_on_disk {
                self.gone.push(Arc::clone(name));
            }
        }
    }

    /// Makes room for `more` bytes by forgetting who has been away longest. Says no when that is not enough.
    fn make_room(&mut self, more: usize, bytes_max: usize, metrics: &Metrics) -> bool {
        while self.bytes + more > bytes_max {
            let away = self.by_name.iter().filter(|(_, client)| client.connections == 0);
            let longest = away.min_by_key(|(_, client)| client.left_at).map(|(name, _)| Arc::clone(name));
            metrics.limit_hit(LIMIT);
            let Some(name) = longest else { return false };
            self.remove(&name);
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
            let client = Client {
                subscriptions: note.subscriptions,
                is_camel: note.is_camel,
                left_at: now,
                is_on_disk: true,
                ..Client::default()
            };
            let bytes = client.bytes(&name);
            if clients.make_room(bytes, self.bytes_max, &self.metrics) {
                clients.bytes += bytes;
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
        let mut is_counted = true;
        if clients.by_name.get(&name).is_some_and(|client| self.is_over(client, now)) {
            clients.remove(&name);
        }
        if let Some(client) = clients.by_name.get_mut(&name) {
            client.connections += 1;
        } else {
            let client = Client { received: next, connections: 1, ..Client::default() };
            let bytes = client.bytes(&name);
            is_counted = clients.make_room(bytes, self.bytes_max, &self.metrics);
            if is_counted {
                clients.bytes += bytes;
                clients.by_name.insert(Arc::clone(&name), client);
            }
        }
        drop(clients);
        Some(Stay { sticky: Arc::clone(self), name, is_counted, for_good: false })
    }

    /// Forgets who has been away for too long, and brings to disk what is other there. To be called every second
    /// or so.
    pub fn tick(self: &Arc<Self>, alerts: Option<&Alerts>) {
        let now = self.clock.now();
        let mut clients = self.clients();
        let over = |(name, client): (&Arc<str>, &Client)| self.is_over(client, now).then(|| Arc::clone(name));
        let over: Vec<Arc<str>> = clients.by_name.iter().filter_map(over).collect();
        for name in over {
            clients.remove(&name);
        }
        let gone = std::mem::take(&mut clients.gone);
        let Some(alerts) = alerts else { return };
        let mut notes = Vec::new();
        for (name, client) in &mut clients.by_name {
            // One at a time: an older note must not be the last.
            if client.is_changed && !client.is_saving {
                (client.is_changed, client.is_saving, client.is_on_disk) = (false, true, true);
                notes.push((Arc::clone(name), client.note()));
            }
        }
        drop(clients);
        for name in gone {
            // Back since then, it has a note of its own.
            if !notes.iter().any(|(of, _)| *of == name) {
                alerts.remember(&name, None, now, Box::new(drop));
            }
        }
        for (name, note) in notes {
            let (sticky, of) = (Arc::downgrade(self), Arc::clone(&name));
            let kept = Box::new(move |kept: Result<(), _>| saved(&sticky, &of, kept.is_ok()));
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

    fn is_over(&self, client: &Client, now: u64) -> bool {
        client.connections == 0 && now.saturating_sub(client.left_at) > self.grace
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
            received: client.received,
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
        if let Some(client) = self.sticky.clients().by_name.get_mut(&self.name) {
            client.received = client.received.max(time);
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
        let Some(client) = clients.by_name.get_mut(&self.name).filter(|_| self.is_counted) else { return };
        client.connections = client.connections.saturating_sub(1);
        client.left_at = now;
        if client.connections == 0 && (self.for_good || client.subscriptions.is_empty()) {
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
}
