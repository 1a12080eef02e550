//! The binary session: hello first, then subscriptions and publishing in frames.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use fastwebsockets::OpCode;
use tickcast_engine::{Delivery, Format, Start, Subscribe, SubscribeError, Subscribed};
use tickcast_protocol::codec::LZ4_BIT;
use tickcast_protocol::field::{Timestamp, Value};
use tickcast_protocol::frame::{Frame, Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    self, Acknowledge, Class, Durability, Message, Policy, PublishStatus, Role, SourceStatus,
    SubscriptionStatus, View,
};
use tickcast_protocol::{
    DecodeError, Epoch, ErrorCode, Predicate, Sequence, SubscriptionId, Topic, TopicFilter, frame,
};

use super::durable::{Standing, Waiting};
use super::{Desk, NAME_BYTES_MAX, Post, Strikes, Terms};
use crate::ingest::{Accepted, Published, Refusal, Wishes};
use crate::net::websocket::{self, CloseReason};

/// Events a second that a subscription may be bounded to.
pub const MAX_HZ: std::ops::RangeInclusive<f64> = 0.01..=1_000.0;

/// Intervals that a publisher may set, in ms.
pub const VOUCH_INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=86_400_000;

/// A protocol message as a whole WebSocket message.
#[must_use]
pub fn framed(message: &Message) -> Bytes {
    websocket::message(OpCode::Binary, &frame::encode(message))
}

/// What a subscription is for.
type Asked = (TopicFilter, Option<Predicate>);

/// The state of a binary connection.
#[derive(Debug)]
pub struct BinarySession {
    terms: Rc<Terms>,
    /// This connection's number.
    connection: u64,
    strikes: Strikes,
    /// `None` until hello.
    role: Option<Role>,
    /// What it calls itself, if it publishes.
    #[allow(clippy::box_collection, reason = "a pointer is all that a subscriber pays")]
    name: Option<Box<String>>,
    epoch: Epoch,
    standing: Standing,
    /// Those of the engine, ascending by id: what is there already takes no room.
    subscriptions: Vec<(SubscriptionId, Asked)>,
}

/// A `publish` frame, waiting for the data frame it is about.
struct Pending {
    request: u64,
    topic: String,
    id: String,
    durability: Durability,
    expires_at: i64,
    collapse_key: String,
    /// It was refused already: its data frame is dropped with it.
    refused: bool,
}

/// How a subscription wants its events, as a peer says it.
struct Wanted {
    policy: Policy,
    predicate: String,
    max_hz: f64,
}

/// A request that was refused: what to tell, and whether it counts as malformed.
pub(super) struct Rejection {
    request: u64,
    code: ErrorCode,
    field: String,
    message: String,
    strike: bool,
}

impl Rejection {
    pub(super) fn new(request: u64, code: ErrorCode, field: &str, message: impl Into<String>) -> Self {
        Self { request, code, field: field.to_owned(), message: message.into(), strike: false }
    }
}

impl From<DecodeError> for Rejection {
    fn from(error: DecodeError) -> Self {
        Self {
            request: 0,
            code: error.code(),
            field: error.field().to_owned(),
            message: error.to_string(),
            strike: true,
        }
    }
}

impl BinarySession {
    /// A session that waits for hello.
    #[must_use]
    pub fn new(terms: Rc<Terms>, connection: u64, epoch: Epoch) -> Self {
        Self {
            terms,
            connection,
            strikes: Strikes::default(),
            role: None,
            name: None,
            epoch,
            standing: Standing::Anonymous,
            subscriptions: Vec::new(),
        }
    }

    /// True after hello.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.role.is_some()
    }

    /// Handles every frame of one WebSocket message. A broken frame ends the message, not the connection.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn message(&mut self, bytes: &[u8], desk: &mut dyn Desk) -> Result<(), CloseReason> {
        let mut pending = None;
        if bytes.is_empty() {
            let rejection: Rejection =
                DecodeError::Truncated { needed: frame::HEADER_LEN, available: 0 }.into();
            return self.reject(rejection, desk);
        }
        for next in Frames::new(bytes, PAYLOAD_BYTES_MAX) {
            let outcome =
                next.map_err(Rejection::from).and_then(|frame| self.frame(&frame, &mut pending, desk));
            if let Err(rejection) = outcome {
                self.reject(rejection, desk)?;
            }
        }
        if let Some(Pending { request, refused: false, .. }) = pending {
            self.reject(without_data(request), desk)?;
        }
        Ok(())
    }

    /// A text message on a binary connection.
    ///
    /// # Errors
    /// When it was one strike too many.
    pub fn wrong_kind(&mut self, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        let message = "this connection speaks binary frames (subprotocol tickcast.v2), not text";
        let rejection = Rejection { strike: true, ..Rejection::new(0, ErrorCode::BadRequest, "", message) };
        self.reject(rejection, desk)
    }

    /// Tells the peer of an error.
    pub fn error(
        &self,
        request: u64,
        code: ErrorCode,
        field: &str,
        message: &str,
        retry_after_ms: u32,
        desk: &mut dyn Desk,
    ) {
        desk.count_error(code);
        desk.say(framed(&Message::Error(message::Error {
            request,
            code: code.number(),
            message: message.to_owned(),
            field: field.to_owned(),
            retryable: matches!(code, ErrorCode::RateLimited | ErrorCode::Unavailable),
            retry_after_ms,
        })));
    }

    fn reject(&mut self, rejection: Rejection, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        let Rejection { request, code, field, message, strike } = rejection;
        self.error(request, code, &field, &message, 0, desk);
        if strike { self.strikes.strike(&self.terms) } else { Ok(()) }
    }

    fn frame(
        &mut self,
        frame: &Frame<'_>,
        pending: &mut Option<Pending>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        if frame.header.type_id >= tickcast_protocol::registry::DATA_FIRST {
            return self.data(frame, pending.take(), desk);
        }
        if let Some(Pending { request, refused: false, .. }) = pending.take() {
            // What follows is no data frame; it is served all the same.
            let Rejection { request, code, field, message, .. } = without_data(request);
            self.error(request, code, &field, &message, 0, desk);
        }
        let message = frame.view()?;
        match (self.role, message) {
            (None, View::Hello(hello)) => {
                for (field, text) in [("name", hello.name.as_str()), ("client", hello.client.as_str())] {
                    if text.len() > NAME_BYTES_MAX {
                        let text = format!(
                            "field `{field}` has {} bytes, the limit is {NAME_BYTES_MAX}",
                            text.len()
                        );
                        return Err(Rejection::new(0, ErrorCode::InvalidField, field, text));
                    }
                }
                self.hello(Role(hello.role.0), hello.codecs, desk)?;
                let publishes = self.role != Some(Role::SUBSCRIBER);
                self.name = publishes.then(|| Box::new(hello.name.as_str().to_owned()));
                Ok(())
            }
            (None, message) => {
                Err(Rejection::new(request_of(message), ErrorCode::InvalidState, "", "say hello first"))
            }
            (Some(_), View::Hello(_)) => {
                Err(Rejection::new(0, ErrorCode::InvalidState, "", "hello was said already"))
            }
            (Some(_), View::Publish(publish)) => {
                let (request, durability) = (publish.request.to_native(), Durability(publish.durability.0));
                let texts = [("id", publish.id.as_str()), ("collapse_key", publish.collapse_key.as_str())];
                let too_long = texts.into_iter().find(|(_, text)| text.len() > NAME_BYTES_MAX);
                let fault = if let Some((field, text)) = too_long {
                    let text =
                        format!("field `{field}` has {} bytes, the limit is {NAME_BYTES_MAX}", text.len());
                    Some((field, text))
                } else if Durability::NAMES.name_of(durability.0).is_none() {
                    let allowed = "0 memory, 1 os, 2 disk, 3 quorum";
                    Some((
                        "durability",
                        format!("field `durability` is {}, allowed is {allowed}", durability.0),
                    ))
                } else {
                    None
                };
                *pending = Some(Pending {
                    request,
                    topic: publish.topic.as_str().to_owned(),
                    id: publish.id.as_str().to_owned(),
                    durability,
                    expires_at: publish.expires_at.0.to_native(),
                    collapse_key: publish.collapse_key.as_str().to_owned(),
                    refused: fault.is_some(),
                });
                match fault {
                    Some((field, text)) => Err(Rejection::new(request, ErrorCode::InvalidField, field, text)),
                    None => Ok(()),
                }
            }
            (Some(_), message) => self.request(message.to_owned(), desk),
        }
    }

    fn hello(&mut self, role: Role, offered: u8, desk: &mut dyn Desk) -> Result<(), Rejection> {
        if Role::NAMES.name_of(role.0).is_none() {
            let text = format!("field `role` is {}, allowed is 1 subscriber, 2 publisher, 3 both", role.0);
            return Err(Rejection::new(0, ErrorCode::InvalidField, "role", text));
        }
        let publishes = role != Role::SUBSCRIBER;
        if publishes {
            desk.may_publish()
                .map_err(|denied| Rejection::new(0, ErrorCode::Forbidden, "role", denied.message))?;
            desk.accept_publisher();
        }
        self.role = Some(role);
        let codecs = offered & self.terms.codecs;
        if codecs & LZ4_BIT != 0 {
            desk.set_format(Format::BinaryLz4);
        }
        let limit = if publishes { self.terms.publisher_bytes } else { self.terms.inbound_bytes };
        desk.say(framed(&Message::Welcome(message::Welcome {
            boot_id: self.terms.boot_id,
            epoch: self.epoch.0,
            connection: self.connection,
            server: concat!("tickcast/", env!("CARGO_PKG_VERSION")).to_owned(),
            heartbeat_ms: self.terms.heartbeat_ms,
            frame_bytes_max: limit as u32,
            subscriptions_max: self.terms.subscriptions_max as u32,
            server_time: Timestamp(desk.now() as i64),
            codecs,
        })));
        Ok(())
    }

    fn data(
        &mut self,
        frame: &Frame<'_>,
        pending: Option<Pending>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        if pending.as_ref().is_some_and(|pending| pending.refused) {
            return Ok(());
        }
        match self.role {
            None => return Err(Rejection::new(0, ErrorCode::InvalidState, "", "say hello first")),
            Some(Role::SUBSCRIBER) => {
                let request = pending.map_or(0, |pending| pending.request);
                let text = "this peer said hello as subscriber; say hello as publisher or both to publish";
                return Err(Rejection::new(request, ErrorCode::Forbidden, "role", text));
            }
            Some(_) => {}
        }
        let publisher = self.name.as_ref().map_or("", |name| name.as_str());
        let (request, wishes) = match &pending {
            Some(pending) => {
                let Pending { request, topic, id, durability, expires_at, collapse_key, .. } = pending;
                let (durability, expires_at) = (*durability, *expires_at);
                (
                    Some(*request),
                    Wishes { topic, durability, publisher, id, expires_at, collapse_key, said: &[] },
                )
            }
            None => (None, Wishes { publisher, ..Wishes::default() }),
        };
        match desk.publish(frame, wishes, request) {
            Ok(Published::Now(accepted)) => self.published(request, Ok(accepted), desk),
            Ok(Published::Later) => Ok(()),
            Err(refusal) => self.published(request, Err(refusal), desk),
        }
    }

    /// Tells the publisher what became of a message.
    fn published(
        &self,
        request: Option<u64>,
        outcome: Result<Accepted, Refusal>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        let Some(request) = request else {
            return outcome.map(drop).map_err(|refusal| {
                let strike = refusal.code == ErrorCode::BadRequest || refusal.code == ErrorCode::UnknownType;
                Rejection { strike, ..Rejection::new(0, refusal.code, &refusal.field, refusal.message) }
            });
        };
        let reply = match outcome {
            Ok(Accepted { topic, sequence, durability, kept, .. }) => {
                let kept = kept.map_or_else(Default::default, |kept| *kept);
                message::Published {
                    request,
                    status: if kept.is_duplicate {
                        PublishStatus::DUPLICATE
                    } else {
                        PublishStatus::ACCEPTED
                    },
                    topic: topic.as_str().to_owned(),
                    sequence,
                    durability,
                    code: 0,
                    field: String::new(),
                    message: String::new(),
                    position: kept.position,
                    queued: kept.queued,
                    full: kept.full,
                }
            }
            Err(refusal) => message::Published {
                request,
                status: match refusal.code {
                    ErrorCode::NotDurable => PublishStatus::NOT_DURABLE,
                    ErrorCode::Conflict => PublishStatus::CONFLICT,
                    _ => PublishStatus::REFUSED,
                },
                topic: String::new(),
                sequence: 0,
                durability: Durability::MEMORY,
                code: refusal.code.number(),
                field: refusal.field,
                message: refusal.message,
                position: 0,
                queued: 0,
                full: Vec::new(),
            },
        };
        desk.say(framed(&Message::Published(reply)));
        Ok(())
    }

    /// Something from another thread.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn post(&mut self, post: Post, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        let outcome = match post {
            Post::Nudge => Ok(()),
            Post::Published { request, outcome } => self.published(request, outcome, desk),
            Post::Identified { request, outcome } => self.standing.answered(request, outcome, desk),
            Post::Wished { request, outcome } => self.wished(request, outcome, desk),
        };
        if let Err(rejection) = outcome {
            self.reject(rejection, desk)?;
        }
        self.send(desk)
    }

    /// Goes on with a subscription that waited for the disk.
    fn wished(
        &mut self,
        request: u64,
        outcome: Result<(), Refusal>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        let Some(Waiting { subscribe, predicate, .. }) =
            self.standing.known().and_then(|known| known.kept(request))
        else {
            return Ok(());
        };
        outcome.map_err(|refusal| Rejection::new(request, refusal.code, &refusal.field, refusal.message))?;
        self.subscribe_live(request, subscribe, predicate, desk)
    }

    /// Sends what waits for the peer's identity, as far as there is room.
    ///
    /// # Errors
    /// When another connection has the identity now.
    pub fn send(&mut self, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        self.standing.known().map_or(Ok(()), |known| known.send(desk))
    }

    /// True once the peer has an identity.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        matches!(self.standing, Standing::Known(_))
    }

    /// When time alone asks for a [`BinarySession::send`], in ns UTC.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        match &self.standing {
            Standing::Known(known) => known.ticket.due(),
            Standing::Anonymous | Standing::Asked => None,
        }
    }

    fn request(&mut self, message: Message, desk: &mut dyn Desk) -> Result<(), Rejection> {
        match message {
            Message::Subscribe(subscribe) => {
                let start = match subscribe.start {
                    message::Start::LIVE => Start::Live,
                    message::Start::SNAPSHOT => Start::Snapshot,
                    other => {
                        let text = format!("field `start` is {}, allowed is 0 live, 1 snapshot", other.0);
                        return Err(Rejection::new(
                            subscribe.request,
                            ErrorCode::InvalidField,
                            "start",
                            text,
                        ));
                    }
                };
                let message::Subscribe { request, filter, policy, predicate, max_hz, .. } = subscribe;
                self.subscribe(request, &filter, start, &Wanted { policy, predicate, max_hz }, desk)
            }
            Message::Resume(resume) => {
                let mut positions = Vec::with_capacity(resume.positions.len());
                for (index, position) in resume.positions.iter().enumerate() {
                    let field = format!("positions.{index}");
                    let topic = Topic::parse(&position.topic).map_err(|error| {
                        Rejection::new(
                            resume.request,
                            ErrorCode::InvalidField,
                            &format!("{field}.topic"),
                            error.to_string(),
                        )
                    })?;
                    let class = Class::from_number(position.class.0).ok_or_else(|| {
                        let text = "allowed is 1 latest, 2 ordered, 3 critical";
                        Rejection::new(
                            resume.request,
                            ErrorCode::InvalidField,
                            &format!("{field}.class"),
                            text,
                        )
                    })?;
                    positions.push((topic, class, Sequence(position.sequence)));
                }
                let start = Start::Resume { epoch: Epoch(resume.epoch), positions };
                let message::Resume { request, filter, policy, predicate, max_hz, .. } = resume;
                self.subscribe(request, &filter, start, &Wanted { policy, predicate, max_hz }, desk)
            }
            Message::Since(since) => {
                let message::Since { request, filter, time, policy, predicate, max_hz } = since;
                let start = Start::Since(u64::try_from(time.0).unwrap_or(0));
                self.subscribe(request, &filter, start, &Wanted { policy, predicate, max_hz }, desk)
            }
            Message::Unsubscribe(unsubscribe) => {
                let id = SubscriptionId(unsubscribe.subscription);
                let mut ack = acknowledgement(unsubscribe.request, SubscriptionStatus::UNSUBSCRIBED);
                if desk.unsubscribe(id, &mut ack) {
                    if let Ok(at) = self.subscriptions.binary_search_by_key(&id, |(known, _)| *known) {
                        let (_, (filter, predicate)) = self.subscriptions.remove(at);
                        if let Some(known) = self.standing.known() {
                            known.alerts.unwish(&known.ticket, &filter, predicate.as_ref());
                        }
                    }
                    return Ok(());
                }
                Err(not_subscribed(unsubscribe.request, unsubscribe.subscription))
            }
            Message::Configure(configure) => {
                let message::Configure { request, subscription, policy, predicate, max_hz } = configure;
                let (delivery, predicate) = Wanted { policy, predicate, max_hz }.checked(request, desk)?;
                let id = SubscriptionId(subscription);
                let at = self.subscriptions.binary_search_by_key(&id, |(known, _)| *known);
                let changes = |at: usize| self.subscriptions[at].1.1 != predicate;
                if matches!(self.standing, Standing::Known(_)) && at.is_ok_and(changes) {
                    // What is kept for the identity would no longer be what it asked for.
                    let text = "a subscription of an identity keeps its predicate: subscribe with the new one, then unsubscribe this one";
                    return Err(Rejection::new(request, ErrorCode::InvalidState, "predicate", text));
                }
                let mut ack = acknowledgement(request, SubscriptionStatus::UPDATED);
                if desk.configure(id, &delivery, &mut ack) {
                    if let Ok(at) = self.subscriptions.binary_search_by_key(&id, |(known, _)| *known) {
                        self.subscriptions[at].1.1 = predicate;
                    }
                    return Ok(());
                }
                Err(not_subscribed(request, subscription))
            }
            Message::Ping(ping) => {
                desk.say(framed(&Message::Pong(message::Pong {
                    client_time: ping.client_time,
                    server_time: Timestamp(desk.now() as i64),
                    sequence: ping.sequence,
                })));
                Ok(())
            }
            Message::Skip(skip) => {
                if self.role == Some(Role::SUBSCRIBER) {
                    let text = "this peer said hello as subscriber; only publishers announce gaps";
                    return Err(Rejection::new(0, ErrorCode::Forbidden, "role", text));
                }
                let refused =
                    |refusal: Refusal| Rejection::new(0, refusal.code, &refusal.field, refusal.message);
                desk.skip(&skip.topic, skip.count).map_err(refused)
            }
            Message::Identify(identify) => {
                if self.role == Some(Role::PUBLISHER) {
                    let text = "this peer said hello as publisher; an identity is for who subscribes";
                    return Err(Rejection::new(identify.request, ErrorCode::Forbidden, "role", text));
                }
                self.standing.identify(&identify, self.subscriptions.len(), desk)
            }
            Message::Ack(ack) => match self.standing.known() {
                Some(known) => known.ack(&ack, desk),
                None => {
                    let text = "only a peer that identified itself has something to acknowledge";
                    Err(Rejection::new(0, ErrorCode::InvalidState, "", text))
                }
            },
            Message::Vouch(vouch) => self.vouch(&vouch, desk),
            // Answers to pings of ours need no answer.
            Message::Pong(_) => Ok(()),
            other => {
                let text = format!("`{}` is what a server says; a client does not", other.info().name);
                let rejection = Rejection::new(0, ErrorCode::BadRequest, "type_id", text);
                Err(Rejection { strike: true, ..rejection })
            }
        }
    }

    /// A publisher says how the source of its streams is.
    fn vouch(&self, vouch: &message::Vouch, desk: &mut dyn Desk) -> Result<(), Rejection> {
        let request = vouch.request;
        if self.role == Some(Role::SUBSCRIBER) {
            let text = "this peer said hello as subscriber; only publishers vouch for streams";
            return Err(Rejection::new(request, ErrorCode::Forbidden, "role", text));
        }
        if SourceStatus::NAMES.name_of(vouch.status.0).is_none() {
            let text = format!(
                "field `status` is {}, allowed is 1 alive, 2 lost, 3 closed, 4 replay",
                vouch.status.0
            );
            return Err(Rejection::new(request, ErrorCode::InvalidField, "status", text));
        }
        if vouch.status == SourceStatus::REPLAY && !vouch.topics.is_empty() {
            let text = "a replay is all that a connection publishes; leave `topics` empty";
            return Err(Rejection::new(request, ErrorCode::InvalidField, "topics", text));
        }
        if vouch.interval_ms != 0 && !VOUCH_INTERVAL_MS.contains(&vouch.interval_ms) {
            let (least, most) = (VOUCH_INTERVAL_MS.start(), VOUCH_INTERVAL_MS.end());
            let text = format!(
                "field `interval_ms` is {}, allowed is {least} to {most}, or 0 to leave it",
                vouch.interval_ms
            );
            return Err(Rejection::new(request, ErrorCode::InvalidField, "interval_ms", text));
        }
        let mut topics = Vec::with_capacity(vouch.topics.len());
        for (at, topic) in vouch.topics.iter().enumerate() {
            let topic = Topic::parse(topic).map_err(|error| {
                let field = format!("topics.{at}");
                Rejection::new(request, ErrorCode::InvalidField, &field, error.to_string())
            })?;
            topics.push(topic);
        }
        desk.vouch(vouch.status, &topics, vouch.interval_ms)
            .map_err(|refusal| Rejection::new(request, refusal.code, &refusal.field, refusal.message))
    }

    fn subscribe(
        &mut self,
        request: u64,
        filter: &str,
        start: Start,
        wanted: &Wanted,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        if self.role == Some(Role::PUBLISHER) {
            let text = "this peer said hello as publisher; say hello as subscriber or both to subscribe";
            return Err(Rejection::new(request, ErrorCode::Forbidden, "role", text));
        }
        let (delivery, predicate) = wanted.checked(request, desk)?;
        let filter = TopicFilter::parse(filter).map_err(|error| {
            Rejection::new(request, ErrorCode::InvalidFilter, "filter", error.to_string())
        })?;
        let used = self.subscriptions.len();
        let asked = (filter, predicate);
        if used >= self.terms.subscriptions_max
            && !self.subscriptions.iter().any(|(_, known)| *known == asked)
        {
            desk.count_limit("limits.subscriptions");
            let text = format!(
                "{used} subscriptions are in use and {} is the limit, set by limits.subscriptions",
                self.terms.subscriptions_max
            );
            return Err(Rejection::new(request, ErrorCode::SubscriptionLimit, "filter", text));
        }
        desk.may_subscribe(&asked.0)
            .map_err(|denied| Rejection::new(request, ErrorCode::Forbidden, "filter", denied.message))?;
        let (filter, predicate) = asked;
        let subscribe = Subscribe { filter, start, delivery };
        let mut waiting = Some(Waiting { request, subscribe, predicate });
        match &mut self.standing {
            Standing::Anonymous => {}
            Standing::Asked => {
                let text = "identify is not answered yet; subscribe after that";
                return Err(Rejection::new(request, ErrorCode::InvalidState, "", text));
            }
            Standing::Known(known) => known.keep(&mut waiting, desk)?,
        }
        match waiting {
            Some(Waiting { subscribe, predicate, .. }) => {
                self.subscribe_live(request, subscribe, predicate, desk)
            }
            None => Ok(()),
        }
    }

    fn subscribe_live(
        &mut self,
        request: u64,
        subscribe: Subscribe,
        predicate: Option<Predicate>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        let asked = (subscribe.filter.clone(), predicate);
        let mut ack = acknowledgement(request, SubscriptionStatus::SUBSCRIBED);
        match desk.subscribe(subscribe, &mut ack) {
            Ok(subscribed) => {
                // Subscribing twice is success, and still one subscription.
                let id = subscribed.subscription;
                if let Err(at) = self.subscriptions.binary_search_by_key(&id, |(known, _)| *known) {
                    // Most peers have one, and there are many peers.
                    self.subscriptions.reserve_exact(usize::from(self.subscriptions.is_empty()));
                    self.subscriptions.insert(at, (id, asked));
                }
                Ok(())
            }
            Err(error) => {
                let code = match &error {
                    SubscribeError::ResumeFailed { .. } => {
                        // What can be had, before the error that says that this cannot.
                        let begun = Timestamp(desk.begun() as i64);
                        let history = message::History { subscription: 0, begun, short: Vec::new() };
                        desk.say(framed(&Message::History(history)));
                        ErrorCode::ResumeFailed
                    }
                    _ => ErrorCode::Unavailable,
                };
                Err(Rejection::new(request, code, "", error.to_string()))
            }
        }
    }
}

/// The request a message makes, or zero when it makes none.
fn request_of(message: View<'_>) -> u64 {
    match message.field("request") {
        Value::Unsigned(request) => request,
        _ => 0,
    }
}

fn without_data(request: u64) -> Rejection {
    let text = "`publish` must be followed by a data frame in the same WebSocket message";
    Rejection::new(request, ErrorCode::BadRequest, "", text)
}

impl Wanted {
    /// What the engine makes of it, and the predicate.
    fn checked(&self, request: u64, desk: &dyn Desk) -> Result<(Delivery, Option<Predicate>), Rejection> {
        known_policy(request, self.policy)?;
        let predicate =
            match self.predicate.as_str() {
                "" => None,
                text => Some(Predicate::parse(text).map_err(|error| {
                    Rejection::new(request, error.code(), error.field(), error.to_string())
                })?),
            };
        let interval = match self.max_hz {
            0.0 => 0,
            hz if MAX_HZ.contains(&hz) => (1e9 / hz).round() as u64,
            other => {
                let (least, most) = (MAX_HZ.start(), MAX_HZ.end());
                let text =
                    format!("field `max_hz` is {other}, allowed is {least} to {most}, or 0 for no bound");
                return Err(Rejection::new(request, ErrorCode::InvalidField, "max_hz", text));
            }
        };
        let condition = predicate.clone().map(|predicate| desk.condition(predicate));
        Ok((Delivery { policy: self.policy, condition, interval }, predicate))
    }
}

fn known_policy(request: u64, policy: Policy) -> Result<(), Rejection> {
    if Policy::NAMES.name_of(policy.0).is_some() {
        return Ok(());
    }
    let text = format!(
        "field `policy` is {}, allowed is 0 default, 1 conflate, 2 drop_oldest, 3 disconnect",
        policy.0
    );
    Err(Rejection::new(request, ErrorCode::InvalidField, "policy", text))
}

fn not_subscribed(request: u64, subscription: u32) -> Rejection {
    let text = format!("this connection has no subscription {subscription}");
    Rejection::new(request, ErrorCode::NotSubscribed, "subscription", text)
}

fn acknowledgement(request: u64, status: SubscriptionStatus) -> impl FnMut(&Subscribed) -> Option<Bytes> {
    move |subscribed| {
        Some(framed(&Message::Acknowledge(Acknowledge {
            request,
            subscription: subscribed.subscription.0,
            status,
            epoch: subscribed.epoch.0,
            streams: subscribed.streams,
        })))
    }
}
