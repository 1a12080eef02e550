//! What dashboards were subscribed to, kept while they are away.
//!
//! Many subscribe when their page is built and never again: the connection breaks, comes back, and the page
//! stands still. Who names itself in the address, `?client_id=NAME`, has its subscriptions back with the
//! connection, and what was published meanwhile. Nothing else on the wire of these dialects stays the same, and
//! an address stands for many people.
//!
//! Where it goes on is known from pings: who answers one has received all that was sent before it. What was
//! published since then comes again, so a message may come twice and none is left out, as far back as history
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
    /// Other than on disk.
    is_changed: bool,
    is_on_disk: bool,
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

    /// A connection has a name from now on. Nothing when no names are kept.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: &str) -> Option<Stay> {
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
            // What was published before it came is nothing it has missed.
            let client = Client { received: now, connections: 1, ..Client::default() };
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
            if std::mem::take(&mut client.is_changed) {
                client.is_on_disk = true;
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
            let kept = Box::new(move |kept: Result<(), _>| {
                if kept.is_err() {
                    retry(&sticky, &of);
                }
            });
            alerts.remember(&name, Some(note), now, kept);
        }
    }

    fn is_over(&self, client: &Client, now: u64) -> bool {
        client.connections == 0 && now.saturating_sub(client.left_at) > self.grace
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A note did not come to disk: it is tried again with the next tick.
fn retry(sticky: &Weak<Sticky>, name: &Arc<str>) {
    if let Some(sticky) = sticky.upgrade()
        && let Some(client) = sticky.clients().by_name.get_mut(name)
    {
        client.is_changed = true;
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
        clients.bytes += bytes;
        if let Some(client) = clients.by_name.get_mut(&self.name) {
            client.subscriptions.insert(key.to_owned(), asked.clone());
            client.is_changed = true;
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

    /// The client has all that was published before `time`, in ns UTC.
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
