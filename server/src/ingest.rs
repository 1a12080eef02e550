//! The one door for everything that is published: binary frames, HTTP, feeds and replay.
//!
//! Validation, topic, class and routing facts happen here, on the publisher's thread; the engine then
//! numbers the event and puts it on the ring. The payload is forwarded as it came.
#![forbid(unsafe_code)]

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tickcast_engine::{Condition, Engine, Incoming, PublishError, Receipt};
use tickcast_protocol::frame::{FLAG_CRITICAL, Frame};
use tickcast_protocol::message::{Class, Durability, Message, PartialBook, View};
use tickcast_protocol::{DecodeError, ErrorCode, FieldError, Header, Predicate, StreamId, Topic, frame};

use crate::alerts::{Alerts, Keep, Kept};
use crate::auth::{Authorizer, Principal};
use crate::clock::Clock;
use crate::health::HealthMonitor;
use crate::instruments::Directory;
use crate::metrics::Metrics;
use crate::states::States;

/// Who published. Its number is its place in [`crate::metrics::SOURCES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A binary connection.
    Socket,
    /// `POST /api/v1/publish`.
    Http,
    /// A feed of the program itself.
    Feed,
    /// The program about itself.
    Own,
    /// The program, from the order books of others.
    Views,
}

/// A publish that was not accepted; nothing of it is ever delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of fault.
    pub code: ErrorCode,
    /// The field at fault, or empty.
    pub field: String,
    /// What is wrong, and how to put it right.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: ErrorCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, field: field.into(), message: message.into() }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::new(error.code(), error.field().to_owned(), error.to_string())
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        DecodeError::from(error).into()
    }
}

/// A publish that was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Where it went.
    pub topic: Topic,
    /// Its stream, unless it is not on it yet.
    pub stream: Option<StreamId>,
    /// Its number there.
    pub sequence: u64,
    /// What it survives.
    pub durability: Durability,
    /// A critical message that the journal has.
    pub kept: Option<Box<Kept>>,
}

/// What a publisher wants besides delivery.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// The topic it expects, or empty.
    pub topic: &'a str,
    /// The least durability that will do.
    pub durability: Durability,
    /// Who publishes: ids are unique per publisher. Empty is a name as well.
    pub publisher: &'a str,
    /// The publisher's id of the message, or empty.
    pub id: &'a str,
    /// When a critical message is of no use any more, in ns UTC; zero for never.
    pub expires_at: i64,
    /// What a critical message replaces of its topic, or empty.
    pub collapse_key: &'a str,
    /// What the publisher said, where that is not the payload: what a message that comes again is known by. Empty
    /// for the payload.
    pub said: &'a [u8],
}

/// Called once with what became of a critical message, on the journal's thread.
pub type Later = Box<dyn FnOnce(Result<Accepted, Refusal>) + Send>;

/// What became of a publish, as far as it is known at once.
#[derive(Debug)]
pub enum Published {
    /// It was accepted.
    Now(Accepted),
    /// It is on its way to the disk; [`Later`] will be told.
    Later,
}

/// The name of who gives none.
pub const NOBODY: &str = "anonymous";

/// The door. Cheap to share.
pub struct Ingest {
    engine: Engine,
    closed: AtomicBool,
    parts: IngestParts,
}

/// What the door is given besides the engine.
pub struct IngestParts {
    /// Learns the numbers of instruments.
    pub directory: Arc<Directory>,
    /// Hears of every update.
    pub health: Arc<HealthMonitor>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Decides who may publish what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Keeps critical messages; without it they are as lasting as the process.
    pub alerts: Option<Arc<Alerts>>,
    /// Keyed per process: nobody can prepare keys that collide.
    pub hasher: RandomState,
    /// Stamps.
    pub clock: Clock,
    /// Hears who publishes what.
    pub states: Arc<States>,
    /// Depths of the views of order books that are made here.
    pub views: Vec<u64>,
    /// Largest payload, in bytes.
    pub payload_bytes_max: usize,
}

impl Ingest {
    /// A door to `engine`.
    #[must_use]
    pub fn new(engine: Engine, parts: IngestParts) -> Self {
        Self { engine, closed: AtomicBool::new(false), parts }
    }

    /// Takes nothing more: what is accepted from here on could not be delivered.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn check_open(&self) -> Result<(), Refusal> {
        if self.closed.load(Ordering::Acquire) {
            let message = "the server is shutting down: publish to another, or again in a moment";
            return Err(Refusal::new(ErrorCode::Unavailable, "", message));
        }
        Ok(())
    }

    /// What an accepted message of a class survives.
    #[must_use]
    pub fn durability(&self, class: Class) -> Durability {
        match &self.parts.alerts {
            Some(alerts) if class == Class::Critical => alerts.durability(),
            _ => Durability::MEMORY,
        }
    }

    /// What keeps critical messages, if anything does.
    #[must_use]
    pub fn alerts(&self) -> Option<&Arc<Alerts>> {
        self.parts.alerts.as_ref()
    }

    /// Nanoseconds since the Unix epoch, by the clock that stamps.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.parts.clock.now()
    }

    /// Whether a peer may do things; asked by whoever has the peer.
    #[must_use]
    pub fn authorizer(&self) -> &dyn Authorizer {
        &*self.parts.authorizer
    }

    /// A predicate made ready for the events that come through this door.
    #[must_use]
    pub fn condition(&self, predicate: Predicate) -> Condition {
        Condition::new(predicate, &self.parts.hasher)
    }

    /// Where sources are said to be there, and what they say of their streams.
    #[must_use]
    pub fn states(&self) -> &Arc<States> {
        &self.parts.states
    }

    /// The engine behind the door.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Publishes a frame as a publisher sent it: stream, sequence and time must be zero, and the payload
    /// not compressed, since it is forwarded as it came to peers that read plain ones.
    ///
    /// `later` makes what is told when that is not known at once.
    ///
    /// # Errors
    /// The field at fault; the refusal is counted.
    pub fn publish_frame(
        &self,
        source: Source,
        frame: &Frame<'_>,
        wishes: Wishes<'_>,
        later: impl FnOnce() -> Later,
    ) -> Result<Published, Refusal> {
        let header = &frame.header;
        if frame.is_compressed() {
            return Err(self.refuse(DecodeError::Compressed(header.codec()).into()));
        }
        for (field, value) in [
            ("stream", u64::from(header.stream)),
            ("sequence", header.sequence),
            ("publish_time", header.publish_time),
        ] {
            if value != 0 {
                let message =
                    format!("field `{field}` is {value}; a publisher sends zero, the server fills it in");
                return Err(self.refuse(Refusal::new(ErrorCode::InvalidField, field, message)));
            }
        }
        self.publish(source, header, frame.payload, wishes, later).map_err(|refusal| self.refuse(refusal))
    }

    /// Publishes a message of our own making or one translated from JSON.
    ///
    /// # Errors
    /// The field at fault; the refusal is counted.
    pub fn publish_message(
        &self,
        source: Source,
        message: &Message,
        wishes: Wishes<'_>,
        later: impl FnOnce() -> Later,
    ) -> Result<Published, Refusal> {
        let (payload, header) = frame::payload(message);
        self.publish(source, &header, &payload, wishes, later).map_err(|refusal| {
            // What others publish wrongly says nothing about the health of a stream; our own feeds do.
            if source == Source::Feed {
                self.parts.health.record_error(header.type_id, self.parts.clock.now(), &refusal.message);
            }
            self.refuse(refusal)
        })
    }

    fn publish(
        &self,
        source: Source,
        header: &Header,
        payload: &[u8],
        wishes: Wishes<'_>,
        later: impl FnOnce() -> Later,
    ) -> Result<Published, Refusal> {
        if payload.len() > self.parts.payload_bytes_max {
            self.parts.metrics.limit_hit("limits.publisher_bytes");
            return Err(
                DecodeError::TooLarge { size: payload.len(), limit: self.parts.payload_bytes_max }.into()
            );
        }
        let view = View::access(header.type_id, payload, header.root_len)?;
        let info = view.info();
        if !info.is_data() {
            let message = format!("`{}` is a control message and cannot be published", info.name);
            return Err(Refusal::new(ErrorCode::UnknownType, "type_id", message));
        }
        if let Err(denied) = self.parts.authorizer.may_publish(&Principal::Anonymous, info) {
            return Err(Refusal::new(ErrorCode::Forbidden, "type_id", denied.message));
        }
        view.check()?;
        let mut key = String::new();
        view.write_key(&mut key)?;
        let topic = Topic::of(info, &key)
            .map_err(|error| Refusal::new(ErrorCode::InvalidField, info.key.join("."), error.to_string()))?;
        if info.id == PartialBook::INFO.id && source != Source::Views {
            self.check_view(&topic)?;
        }
        if !wishes.topic.is_empty() && wishes.topic != topic.as_str() {
            let message =
                format!("field `topic` is `{}` but the key fields say `{topic}`", clip(wishes.topic));
            return Err(Refusal::new(ErrorCode::InvalidField, "topic", message));
        }
        let mut facts = view.facts(&self.parts.hasher);
        if header.flags & FLAG_CRITICAL != 0 {
            // A publisher may raise a message to critical, never lower it.
            facts.class = Class::Critical;
        }
        let given = self.durability(facts.class);
        if wishes.durability > given {
            let message = format!(
                "durability `{}` cannot be had: messages of class `{}` are kept with durability `{}` here",
                wishes.durability.name(),
                facts.class.name(),
                given.name()
            );
            return Err(Refusal::new(ErrorCode::NotDurable, "durability", message));
        }
        self.check_open()?;
        self.parts.directory.learn(view);
        let now = self.parts.clock.now();
        if let Some(alerts) = self.parts.alerts.as_ref().filter(|_| facts.class == Class::Critical) {
            let publisher = if wishes.publisher.is_empty() { NOBODY } else { wishes.publisher };
            let Wishes { id, expires_at, collapse_key, said, .. } = wishes;
            let (topic, facts) = (&topic, &facts);
            let keep =
                Keep { publisher, id, topic, header, payload, facts, expires_at, collapse_key, said, now };
            let (metrics, health, later) = (self.parts.metrics.clone(), self.parts.health.clone(), later());
            let (type_id, topic) = (info.id, topic.clone());
            let answer = move |outcome: Result<Kept, Refusal>| {
                later(match outcome {
                    Ok(kept) => {
                        if !kept.is_duplicate {
                            metrics.counters.received.add(type_id);
                            metrics.counters.sources.add(source as usize);
                            health.record_update(type_id, now);
                        }
                        if !kept.full.is_empty() {
                            metrics.limit_hit("alerts.waiting");
                        }
                        let sequence = kept.sequence;
                        Ok(Accepted {
                            topic,
                            stream: None,
                            sequence,
                            durability: given,
                            kept: Some(Box::new(kept)),
                        })
                    }
                    Err(refusal) => {
                        if refusal.code == ErrorCode::QueueFull {
                            metrics.limit_hit("alerts.waiting");
                        }
                        metrics.counters.refused.add(refusal.code.name());
                        Err(refusal)
                    }
                });
            };
            alerts.publish(&keep, Box::new(answer));
            return Ok(Published::Later);
        }
        let incoming = Incoming {
            info,
            topic: &topic,
            facts,
            schema_version: header.schema_version,
            root_len: header.root_len,
            payload,
        };
        match self.engine.publish(incoming, now) {
            Ok(receipt) => {
                self.parts.metrics.counters.received.add(info.id);
                self.parts.metrics.counters.sources.add(source as usize);
                self.parts.health.record_update(info.id, now);
                if matches!(source, Source::Http | Source::Own) {
                    self.parts.states.published_by_nobody(receipt.stream);
                }
                let (stream, sequence) = (Some(receipt.stream), receipt.sequence.0);
                Ok(Published::Now(Accepted { topic, stream, sequence, durability: given, kept: None }))
            }
            Err(error) => Err(self.engine_refusal(&error)),
        }
    }

    /// Announces that a publisher's own source skipped `count` events of `topic`.
    ///
    /// # Errors
    /// When the topic is none, or the count is not from 1 to 2^32.
    pub fn skip(&self, topic: &str, count: u64) -> Result<Receipt, Refusal> {
        let topic = Topic::parse(topic)
            .map_err(|error| Refusal::new(ErrorCode::InvalidField, "topic", error.to_string()))
            .map_err(|refusal| self.refuse(refusal))?;
        if count == 0 || count > u64::from(u32::MAX) {
            let message = format!("field `count` is {count}, allowed is 1 to {}", u32::MAX);
            return Err(self.refuse(Refusal::new(ErrorCode::InvalidField, "count", message)));
        }
        self.check_open().map_err(|refusal| self.refuse(refusal))?;
        self.check_view(&topic).map_err(|refusal| self.refuse(refusal))?;
        let class =
            tickcast_protocol::registry::by_name(topic.type_name()).map_or(Class::Ordered, |info| info.class);
        if class == Class::Critical && self.parts.alerts.is_some() {
            let message =
                "critical messages are numbered when they are on disk: a gap in them cannot be announced";
            return Err(self.refuse(Refusal::new(ErrorCode::Forbidden, "topic", message)));
        }
        self.engine
            .skip(&topic, class, count, self.parts.clock.now())
            .map_err(|error| self.engine_refusal(&error))
            .map_err(|refusal| self.refuse(refusal))
    }

    /// True for a view of an order book that is made here: nobody else publishes to it.
    #[must_use]
    pub fn makes(&self, topic: &Topic) -> bool {
        topic.type_name() == PartialBook::INFO.name
            && topic
                .key()
                .split_once('.')
                .and_then(|(depth, _)| depth.parse().ok())
                .is_some_and(|depth: u64| self.parts.views.contains(&depth))
    }

    fn check_view(&self, topic: &Topic) -> Result<(), Refusal> {
        if !self.makes(topic) {
            return Ok(());
        }
        let message = format!(
            "`{topic}` is made by the server from the order book (books.views): publish the book, or take the depth out of books.views"
        );
        Err(Refusal::new(ErrorCode::Forbidden, "depth", message))
    }

    fn engine_refusal(&self, error: &PublishError) -> Refusal {
        match error {
            PublishError::StreamLimit { .. } => {
                self.parts.metrics.limit_hit("limits.streams");
                Refusal::new(ErrorCode::StreamLimit, "topic", error.to_string())
            }
            _ => Refusal::new(ErrorCode::Unavailable, "", error.to_string()),
        }
    }

    /// Publishes something about ourselves: a change of health, what became of a message.
    pub fn announce(&self, message: &Message) {
        if self.check_open().is_err() {
            return;
        }
        let unheard = || -> Later { Box::new(drop) };
        if let Err(refusal) = self.publish_message(Source::Own, message, Wishes::default(), unheard) {
            tracing::warn!(error = refusal.message, r#type = message.info().name, "could not be announced");
        }
    }

    /// Counts a refusal that happened before the door.
    pub fn count_refusal(&self, refusal: &Refusal) {
        self.parts.metrics.counters.refused.add(refusal.code.name());
    }

    fn refuse(&self, refusal: Refusal) -> Refusal {
        self.count_refusal(&refusal);
        refusal
    }
}

/// A peer's text, short enough to be quoted.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}
