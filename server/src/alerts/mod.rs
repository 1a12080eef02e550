//! Critical messages that outlive connections and the process: from a publish to the journal, from there to
//! whoever wants it, until each identity has acknowledged it.
//!
//! ```text
//!   ingest ── publish ──► journal ── on disk ──► engine      live subscribers, over the ring
//!                            │           └─────► mailboxes   identities, each at its own pace
//!                            └── reply ────────► publisher
//! ```
//!
//! A critical message is published to the engine by the journal's thread alone, once it is on disk, so the
//! engine numbers it as the journal did. The journal keeps and counts ([`tickcast_journal`]); here is who wants
//! what ([`identity`]) and what is handed to whom ([`mailbox`]).
#![forbid(unsafe_code)]

pub mod identity;
pub mod mailbox;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tickcast_engine::{Engine, Incoming};
use tickcast_journal::directory::Directory;
use tickcast_journal::store::Opener;
use tickcast_journal::{
    Ack, AckError, Committed, Draft, Generation, Health, Journal, Outcome, PairState, Reason, RecipientId,
    RefusalReason, Settings, Settled, Status, Unavailable,
};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{self, FLAG_CRITICAL, Frame, HEADER_LEN};
use tickcast_protocol::message::{
    self, Class, DeliveryOutcome, DeliveryReport, Durability, FullRecipient, Message, View,
};
use tickcast_protocol::registry::Facts;
use tickcast_protocol::{ErrorCode, Header, Predicate, Topic, TopicFilter};

use self::identity::{Identities, Identity, Wish};
use self::mailbox::{HELD_MAX, Letter, Nudge};
use crate::ingest::Refusal;
use crate::metrics::Metrics;

/// What the names begin with under which the journal keeps notes on clients. No identity may be called so.
const CLIENT_PREFIX: &str = "?client_id=";

/// How long a part of what waits is not asked for again, when it could not be had, in ns.
const FETCH_RETRY: i64 = 1_000_000_000;

/// Called once with what became of something, on the journal's thread.
pub type Answer<T> = Box<dyn FnOnce(Result<T, Refusal>) + Send>;

/// A critical message to be kept.
pub struct Keep<'a> {
    /// Who publishes.
    pub publisher: &'a str,
    /// The publisher's id, or empty: then it is not recognised when it comes again.
    pub id: &'a str,
    /// Where it goes.
    pub topic: &'a Topic,
    /// Type, schema version and root length.
    pub header: &'a Header,
    /// As it came.
    pub payload: &'a [u8],
    /// What it is about.
    pub facts: &'a Facts,
    /// When it is of no use any more, in ns UTC; zero for never.
    pub expires_at: i64,
    /// What it replaces of its topic, or empty.
    pub collapse_key: &'a str,
    /// What the publisher said, where that is not the payload, or empty.
    pub said: &'a [u8],
    /// Now, in ns UTC.
    pub now: u64,
}

/// A critical message that was kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Its number on its topic.
    pub sequence: u64,
    /// Its place among all that were kept.
    pub position: u64,
    /// Identities for whom it waits.
    pub queued: u32,
    /// Identities for whom it does not: too much waits for them.
    pub full: Vec<FullRecipient>,
    /// It was kept before, under the same id.
    pub is_duplicate: bool,
}

/// A connection that speaks for an identity. Dropping it gives the identity free.
pub struct Ticket {
    identity: Arc<Identity>,
    generation: Generation,
    /// What proves the identity next time.
    pub token: String,
}

/// How many identities there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most identities.
    pub identities: usize,
}

/// Called once with what the journal knows, on its thread.
pub type Asked<T> = Box<dyn FnOnce(Result<T, Unavailable>) + Send>;

/// Called with what became of a message for one recipient, on the journal's thread.
pub type Report = Box<dyn FnMut(&Settled) + Send>;

/// See the module.
pub struct Alerts {
    journal: Journal,
    identities: Arc<Identities>,
    hasher: RandomState,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Taken for writing where subscriptions change, for reading where a message finds its audience: whose
    /// subscription was brought to the journal before a message is in its audience.
    order: RwLock<()>,
    /// Notes on clients as they were found, until somebody takes them.
    remembered: Mutex<Vec<(String, Vec<u8>)>>,
    /// Ids for messages that came without, unique in this run.
    run: String,
    unnamed: AtomicU64,
}

impl Alerts {
    /// Opens the journal, and tells the engine how far its topics have come. `hasher` is the one that
    /// attributes are hashed with.
    ///
    /// # Errors
    /// When the journal cannot be opened, in words for the operator.
    pub fn open(
        settings: Settings,
        limits: Limits,
        metrics: Arc<Metrics>,
        engine: &Engine,
        hasher: &RandomState,
    ) -> Result<Self, String> {
        let directory = Directory::lock(&settings).map_err(|error| error.to_string())?;
        Self::open_with(settings, Box::new(directory), limits, metrics, engine, hasher)
    }

    /// As [`Alerts::open`], with a store of another kind.
    ///
    /// # Errors
    /// As [`Alerts::open`].
    pub fn open_with(
        settings: Settings,
        opener: Box<dyn Opener>,
        limits: Limits,
        metrics: Arc<Metrics>,
        engine: &Engine,
        hasher: &RandomState,
    ) -> Result<Self, String> {
        let identities = Arc::new(Identities::default());
        let mut sink = Sink {
            engine: engine.clone(),
            identities: identities.clone(),
            hasher: hasher.clone(),
            heads: HashMap::new(),
        };
        let sink = Box::new(move |committed: &Committed| sink.commit(committed));
        let (journal, recovered) =
            Journal::open_with(settings, opener, sink).map_err(|error| error.to_string())?;
        for (topic, head) in &recovered.topics {
            found_topic(engine, topic, *head);
        }
        let mut remembered = Vec::new();
        for (name, note) in recovered.notes {
            if let Some(client) = name.strip_prefix(CLIENT_PREFIX) {
                remembered.push((client.to_owned(), note));
                continue;
            }
            match Identity::restore(name.clone(), &note, recovered.position, hasher) {
                Ok(identity) => drop(identities.add(Arc::new(identity), usize::MAX)),
                Err(error) => {
                    return Err(format!("the journal's note on identity `{name}` is unreadable: {error}"));
                }
            }
        }
        let run = identity::hex(&random());
        Ok(Self {
            journal,
            identities,
            hasher: hasher.clone(),
            limits,
            metrics,
            order: RwLock::new(()),
            remembered: Mutex::new(remembered),
            run,
            unnamed: AtomicU64::new(0),
        })
    }

    /// Has what becomes of messages told from now on.
    pub fn report_to(&self, report: Report) {
        self.journal.report_to(report);
    }

    /// What a message that was kept survives.
    #[must_use]
    pub fn durability(&self) -> Durability {
        Durability::DISK
    }

    /// How the journal is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.journal.health()
    }

    /// How many identities there are.
    #[must_use]
    pub fn identity_count(&self) -> usize {
        self.identities.count()
    }

    /// Keeps a message, has it delivered, and says what became of it once it is on disk.
    pub fn publish(&self, keep: &Keep<'_>, answer: Answer<Kept>) {
        let mut frame = BytesMut::with_capacity(HEADER_LEN + keep.payload.len());
        let header = Header {
            flags: FLAG_CRITICAL,
            stream: 0,
            sequence: 0,
            publish_time: 0,
            payload_len: keep.payload.len() as u32,
            raw_len: keep.payload.len() as u32,
            ..*keep.header
        };
        frame.put_slice(&header.to_bytes());
        frame.put_slice(keep.payload);
        let mut hash = Sha256::new();
        let said = if keep.said.is_empty() { &frame[..] } else { keep.said };
        for part in [keep.topic.as_str().as_bytes(), keep.collapse_key.as_bytes(), said] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(keep.expires_at.to_le_bytes());
        let id = match keep.id {
            "" => format!("{}-{}", self.run, self.unnamed.fetch_add(1, Ordering::Relaxed)).into_bytes(),
            id => id.as_bytes().to_vec(),
        };
        let _order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let draft = Draft {
            publisher: keep.publisher.into(),
            id,
            hash: hash.finalize().into(),
            topic: keep.topic.as_str().into(),
            frame: frame.freeze(),
            accepted_at: keep.now as i64,
            expires_at: (keep.expires_at != 0).then_some(keep.expires_at),
            collapse_key: (!keep.collapse_key.is_empty()).then(|| keep.collapse_key.into()),
            audience: self.identities.audience(keep.topic, &keep.facts.attributes),
        };
        self.journal.publish(draft, Box::new(move |outcome| answer(understood(outcome))));
    }

    /// Gives a connection an identity, which a first one founds. `token` proves it, or is empty the first time.
    /// `nudge` is called when there is something for the connection, or when another takes its place.
    pub fn identify(self: &Arc<Self>, name: &str, token: &str, nudge: Nudge, answer: Answer<Ticket>) {
        if !identity::is_name(name) {
            let text = format!("field `identity` is not {}", identity::NAME_RULE);
            return answer(Err(Refusal::new(ErrorCode::InvalidField, "identity", text)));
        }
        if token.len() > identity::NAME_BYTES_MAX {
            let text =
                format!("field `token` has {} bytes, the limit is {}", token.len(), identity::NAME_BYTES_MAX);
            return answer(Err(Refusal::new(ErrorCode::InvalidField, "token", text)));
        }
        if let Some(known) = self.identities.find(name) {
            return answer(enter(known, token, nudge));
        }
        // A token of the peer's own, should the journal have been lost with the identity.
        let token = if token.is_empty() { identity::hex(&random()) } else { token.to_owned() };
        let identity = Arc::new(Identity::new(name, &token));
        match self.identities.add(Arc::clone(&identity), self.limits.identities) {
            Ok(()) => {}
            Err(Some(known)) => return answer(enter(known, &token, nudge)),
            Err(None) => {
                self.metrics.limit_hit("alerts.identities");
                let text =
                    format!("there are {} identities, which is alerts.identities", self.limits.identities);
                return answer(Err(Refusal::new(ErrorCode::Unavailable, "identity", text)));
            }
        }
        let (identities, founded) = (Arc::clone(&self.identities), Arc::clone(&identity));
        let kept = Box::new(move |kept: Result<(), Unavailable>| match kept {
            // Unless it was forgotten meanwhile.
            Ok(()) if identities.has(&founded) => {
                founded.is_kept.store(true, Ordering::Release);
                answer(enter(founded, &token, nudge));
            }
            Ok(()) => answer(Err(forgotten())),
            Err(error) => {
                identities.remove(&founded);
                answer(Err(unavailable(&error)));
            }
        });
        self.journal.note(identity.name().clone(), identity.note_now(), kept);
    }

    /// Keeps a subscription of an identity: from the answer on, what it matches waits for the identity.
    pub fn wish(
        &self,
        ticket: &Ticket,
        filter: TopicFilter,
        predicate: Option<Predicate>,
        answer: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    ) {
        let identity = &ticket.identity;
        let _order = self.order.write().unwrap_or_else(PoisonError::into_inner);
        if !self.may_change(ticket) {
            return answer(Err(forgotten()));
        }
        let wish = Wish::new(filter.clone(), predicate.clone(), &self.hasher);
        let (count, bytes) = identity.wish_sizes();
        if count >= identity::WISHES_MAX || bytes + wish.bytes() > identity::WISHES_BYTES_MAX {
            let text = format!(
                "identity `{}` has {count} subscriptions of {bytes} bytes; {} of {} bytes together is the limit",
                identity.name(),
                identity::WISHES_MAX,
                identity::WISHES_BYTES_MAX
            );
            return answer(Err(Refusal::new(ErrorCode::SubscriptionLimit, "filter", text)));
        }
        let note = identity.add(wish);
        self.identities.file(identity, &filter);
        let (identities, of) = (Arc::clone(&self.identities), Arc::clone(identity));
        let kept = Box::new(move |kept: Result<(), Unavailable>| {
            of.settle(&filter, predicate.as_ref(), kept.is_ok());
            if kept.is_err() {
                identities.unfile(&of, &filter);
            }
            answer(kept.map_err(|error| unavailable(&error)));
        });
        self.journal.note(identity.name().clone(), note, kept);
    }

    /// Ends a subscription of an identity. What waits already goes on waiting.
    pub fn unwish(&self, ticket: &Ticket, filter: &TopicFilter, predicate: Option<&Predicate>) {
        let _order = self.order.write().unwrap_or_else(PoisonError::into_inner);
        if !self.may_change(ticket) {
            return;
        }
        let note = ticket.identity.remove(filter, predicate);
        self.identities.unfile(&ticket.identity, filter);
        // Written late or not at all, the identity gets more than it wants, and not less.
        self.journal.note(ticket.identity.name().clone(), note, Box::new(drop));
    }

    /// I11: only the identity's present connection says what it wants, and only while the identity exists.
    fn may_change(&self, ticket: &Ticket) -> bool {
        ticket.is_valid() && self.identities.has(&ticket.identity)
    }

    /// The next message for an identity's connection, as one WebSocket message.
    pub fn next(&self, ticket: &Ticket, now: u64) -> Option<Bytes> {
        let letter = ticket.identity.mailbox().next(now as i64, ticket.generation)?;
        Some(framed(&letter))
    }

    /// Asks the journal for what is not at hand; the connection is nudged when it is.
    pub fn fetch(&self, ticket: &Ticket, now: u64) {
        let Some(from) = ticket.identity.mailbox().wants(now as i64) else { return };
        let identity = Arc::clone(&ticket.identity);
        let fetched = Box::new(move |part: Result<Vec<tickcast_journal::Record>, Unavailable>| {
            if let Err(error) = &part {
                tracing::warn!(identity = %identity.name(), %error, "what waits for an identity cannot be read now");
            }
            identity.mailbox().fetched(from, part.ok(), now as i64 + FETCH_RETRY);
        });
        self.journal.pending(ticket.identity.name().clone(), from, HELD_MAX, fetched);
    }

    /// Notes what an identity says it has, and says how many messages that settled.
    ///
    /// # Errors
    /// When it is not the identity's connection any more, or names what it was not given.
    pub fn ack(&self, ticket: &Ticket, ack: &Ack, now: u64) -> Result<usize, AckError> {
        let acked = ticket.identity.mailbox().ack(ticket.generation, ack)?;
        let count = acked.len();
        if count > 0 {
            self.journal.ack(ticket.identity.name().clone(), acked, now as i64);
        }
        Ok(count)
    }

    /// What became of a message.
    pub fn status(&self, publisher: &str, id: &str, answer: Asked<Option<Status>>) {
        self.journal.status(publisher.into(), id.as_bytes().to_vec(), answer);
    }

    /// Every identity with what waits for it, by name.
    pub fn waiting(&self, answer: Asked<Vec<(RecipientId, u32)>>) {
        self.journal.recipients(Box::new(move |all: Result<Vec<(RecipientId, u32)>, _>| {
            answer(all.map(|mut all| {
                all.retain(|(name, _)| !name.starts_with(CLIENT_PREFIX));
                all
            }));
        }));
    }

    /// Keeps something with the name of a client that has no identity, or forgets the client. Nothing waits for
    /// it; what was kept last is [`remembered`](Self::remembered) by the next run.
    pub fn remember(&self, client: &str, note: Option<Vec<u8>>, now: u64, answer: Asked<()>) {
        let name: RecipientId = format!("{CLIENT_PREFIX}{client}").into();
        match note {
            Some(note) => self.journal.note(name, note, answer),
            None => self.journal.forget(name, now as i64, answer),
        }
    }

    /// What the journal kept with the names of clients when it was opened. Given out once.
    pub fn remembered(&self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut *self.remembered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets an identity and all that waits for it; its connection is closed. Says whether there was one.
    pub fn forget(self: &Arc<Self>, name: &str, now: u64, answer: Asked<bool>) {
        let Some(identity) = self.identities.find(name) else { return answer(Ok(false)) };
        let _order = self.order.write().unwrap_or_else(PoisonError::into_inner);
        let identities = Arc::clone(&self.identities);
        let forgotten = Box::new(move |forgotten: Result<(), Unavailable>| {
            if forgotten.is_ok() {
                identity.is_kept.store(false, Ordering::Release);
                identities.remove(&identity);
                // Nobody has it from now on, whoever had it is told.
                let mut mailbox = identity.mailbox();
                let _ = mailbox.attach(Box::new(|| {}));
                mailbox.revoke();
            }
            answer(forgotten.map(|()| true));
        });
        self.journal.forget(name.into(), now as i64, forgotten);
    }

    /// Ends what is due. To be called every second or so.
    pub fn tick(&self, now: u64) {
        self.journal.expire(now as i64);
    }

    /// Commits what was accepted, and ends. Blocks until it has.
    pub fn close(&self) {
        self.journal.close();
    }
}

impl Ticket {
    /// The identity's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.identity.name()
    }

    /// False once another connection has the identity.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.identity.mailbox().owns(self.generation)
    }

    /// True when the identity has this subscription already.
    #[must_use]
    pub fn has(&self, filter: &TopicFilter, predicate: Option<&Predicate>) -> bool {
        self.identity.wishes_for(filter, predicate)
    }

    /// When time alone asks for something, in ns UTC.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        self.identity.mailbox().due()
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        f.debug_struct("Ticket").field("identity", &self.identity.name()).finish_non_exhaustive()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.identity.mailbox().detach(self.generation);
    }
}

/// The report of what became of a message for one recipient, on the topic `delivery_report.PUBLISHER`; none for
/// a publisher whose name no topic can carry.
#[must_use]
pub fn delivery_report(settled: &Settled) -> Option<Message> {
    let outcome = match settled.state {
        PairState::Pending => return None,
        PairState::Acked => DeliveryOutcome::ACKED,
        PairState::Expired => DeliveryOutcome::EXPIRED,
        PairState::Revoked => DeliveryOutcome::REVOKED,
        PairState::Superseded => DeliveryOutcome::SUPERSEDED,
    };
    identity::is_name(&settled.publisher).then(|| {
        Message::DeliveryReport(DeliveryReport {
            publisher: settled.publisher.to_string(),
            id: String::from_utf8_lossy(&settled.id).into_owned(),
            position: settled.position,
            recipient: settled.recipient.to_string(),
            outcome,
            ts: Timestamp(settled.at),
        })
    })
}

/// Gives an identity that exists to a connection that can prove it.
fn enter(identity: Arc<Identity>, token: &str, nudge: Nudge) -> Result<Ticket, Refusal> {
    if !identity.is_proved_by(token) {
        let text = format!(
            "field `token` does not prove identity `{}`: send the one that `identified` told the first time, or take another identity",
            identity.name()
        );
        return Err(Refusal::new(ErrorCode::Forbidden, "token", text));
    }
    if !identity.is_kept.load(Ordering::Acquire) {
        let text = "another connection founds this identity just now: ask again";
        return Err(Refusal::new(ErrorCode::Unavailable, "identity", text));
    }
    let generation = identity.mailbox().attach(nudge);
    let ticket = Ticket { identity, generation, token: token.to_owned() };
    // It may have been forgotten since it was found; then this connection has to go as the others.
    if ticket.identity.is_kept.load(Ordering::Acquire) { Ok(ticket) } else { Err(forgotten()) }
}

fn forgotten() -> Refusal {
    let text = "the identity was forgotten, or another connection has it: identify again";
    Refusal::new(ErrorCode::Unavailable, "identity", text)
}

/// What the journal's thread does with each message that is on disk.
struct Sink {
    engine: Engine,
    identities: Arc<Identities>,
    hasher: RandomState,
    /// The newest sequence that the engine has of a topic.
    heads: HashMap<Arc<str>, u64>,
}

impl Sink {
    fn commit(&mut self, committed: &Committed) {
        let record = Arc::new(committed.record.clone());
        if let Err(error) = self.publish(&record) {
            // Identities get it all the same; live subscribers see the hole with the topic's next message.
            tracing::error!(topic = %record.topic, sequence = record.sequence, error, "a critical message was kept and cannot be sent live");
        }
        // First what goes, so that there is room in the window for what comes.
        for (name, position) in &committed.superseded {
            if let Some(identity) = self.identities.find(name) {
                identity.mailbox().settle(*position);
            }
        }
        for name in &committed.queued {
            if let Some(identity) = self.identities.find(name) {
                identity.mailbox().offer(&record);
            }
        }
    }

    fn publish(&mut self, record: &tickcast_journal::Record) -> Result<(), String> {
        let (frame, _) =
            Frame::split_first(&record.frame, record.frame.len()).map_err(|error| error.to_string())?;
        let view = View::access(frame.header.type_id, frame.payload, frame.header.root_len)
            .map_err(|error| error.to_string())?;
        let topic = Topic::parse(&record.topic).map_err(|error| error.to_string())?;
        let mut facts = view.facts(&self.hasher);
        facts.class = Class::Critical;
        let now = record.accepted_at as u64;
        let head = self.heads.entry(record.topic.clone()).or_insert(record.sequence - 1);
        if *head + 1 < record.sequence {
            let missing = record.sequence - 1 - *head;
            self.engine.skip(&topic, Class::Critical, missing, now).map_err(|error| error.to_string())?;
            *head += missing;
        }
        let incoming = Incoming {
            info: view.info(),
            topic: &topic,
            facts,
            schema_version: frame.header.schema_version,
            root_len: frame.header.root_len,
            payload: frame.payload,
        };
        let receipt = self.engine.publish(incoming, now).map_err(|error| error.to_string())?;
        debug_assert_eq!(receipt.sequence.0, record.sequence, "the engine numbers as the journal did");
        *head = record.sequence;
        Ok(())
    }
}

/// Lets the engine go on where the journal stands on a topic. Nobody has subscribed yet, so nobody is told.
fn found_topic(engine: &Engine, topic: &str, head: u64) {
    let Ok(topic) = Topic::parse(topic) else { return };
    let mut missing = head;
    while missing > 0 {
        let count = missing.min(tickcast_engine::SKIP_EVENTS_MAX);
        if let Err(error) = engine.found(&topic, Class::Critical, count) {
            return tracing::error!(%topic, %error, "a topic of the journal cannot be served live");
        }
        missing -= count;
    }
}

/// Both frames of a delivery in one WebSocket message.
fn framed(letter: &Letter) -> Bytes {
    let record = &letter.record;
    let word = frame::encode(&Message::Deliver(message::Deliver {
        position: record.position,
        attempt: letter.attempt,
        topic: record.topic.to_string(),
        sequence: record.sequence,
        publisher: record.publisher.to_string(),
        id: String::from_utf8_lossy(&record.id).into_owned(),
        accepted_at: Timestamp(record.accepted_at),
        expires_at: Timestamp(record.expires_at.unwrap_or(0)),
    }));
    let (head, head_len) = frame::websocket_head(2, word.len() + record.frame.len());
    let mut bytes = BytesMut::with_capacity(head_len + word.len() + record.frame.len());
    bytes.put_slice(&head[..head_len]);
    bytes.put_slice(&word);
    let at = bytes.len();
    bytes.put_slice(&record.frame);
    if let Ok((mut header, _)) = Header::parse(&record.frame) {
        header.sequence = record.sequence;
        header.publish_time = record.accepted_at as u64;
        bytes[at..at + HEADER_LEN].copy_from_slice(&header.to_bytes());
    }
    bytes.freeze()
}

fn understood(outcome: Outcome) -> Result<Kept, Refusal> {
    let full = |refused: &[tickcast_journal::Refusal]| {
        let full = refused.iter().filter_map(|refusal| match refusal.why {
            RefusalReason::QueueFull { depth, oldest_age } => Some(FullRecipient {
                identity: refusal.recipient.to_string(),
                waiting: depth,
                oldest_age_ms: u64::try_from(oldest_age / 1_000_000).unwrap_or(0),
            }),
            // It was forgotten while the message was on its way.
            RefusalReason::Unknown => None,
        });
        full.collect::<Vec<_>>()
    };
    match outcome {
        Outcome::Accepted { position, sequence, queued, refused } => {
            Ok(Kept { sequence, position, queued, full: full(&refused), is_duplicate: false })
        }
        Outcome::Duplicate { position, sequence } => {
            Ok(Kept { sequence, position, is_duplicate: true, ..Kept::default() })
        }
        Outcome::Conflict { position } => {
            let text = format!(
                "another message was published under this id, at position {position}: an id belongs to one message"
            );
            Err(Refusal::new(ErrorCode::Conflict, "id", text))
        }
        Outcome::Refused { reason, recipients } => Err(match reason {
            Reason::QueueFull => {
                let names: Vec<_> =
                    full(&recipients).into_iter().take(10).map(|full| full.identity).collect();
                let text = format!(
                    "too much waits for every recipient ({}, …): have them acknowledge, or forget them",
                    names.join(", ")
                );
                Refusal::new(ErrorCode::QueueFull, "", text)
            }
            Reason::NobodyKnown => Refusal::new(
                ErrorCode::Unavailable,
                "",
                "its recipients were forgotten meanwhile: publish it again",
            ),
            Reason::Expired => {
                Refusal::new(ErrorCode::InvalidField, "expires_at", "field `expires_at` lies in the past")
            }
            Reason::Invalid(field) => {
                let text = format!("field `{field}` is empty or too long");
                Refusal::new(ErrorCode::InvalidField, field, text)
            }
            Reason::Busy => Refusal::new(
                ErrorCode::Unavailable,
                "",
                "the journal has too much to do: publish again in a moment",
            ),
            Reason::Closed => Refusal::new(ErrorCode::Unavailable, "", "the server is shutting down"),
        }),
        Outcome::NotDurable { reason } => {
            let text = format!(
                "the message could not be brought to disk ({reason}): publish it again under the same id"
            );
            Err(Refusal::new(ErrorCode::NotDurable, "", text))
        }
    }
}

fn unavailable(error: &Unavailable) -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "", error.to_string())
}

/// 128 bits that nobody can guess.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    bytes
}

impl std::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alerts").field("identities", &self.identities.count()).finish_non_exhaustive()
    }
}
