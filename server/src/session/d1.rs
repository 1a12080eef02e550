//! The D1 session: greeting first, then subscriptions by legacy name; every answer has all four keys of
//! the envelope, because the real client rejects a message that lacks one.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use fastwebsockets::OpCode;
use tickcast_compat::d1::{
    self, AckStatus, Case, ClientMessage, ConnectionStatus, D1Error, ErrorReport, ErrorSeverity, Instruments,
    Pong, SubscriptionAck,
};
use tickcast_compat::parse::{JsonReason, Limits, parse};
use tickcast_engine::{Delivery, Format, Start, Subscribe, SubscribeError};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::History;
use tickcast_protocol::{ErrorCode, SubscriptionId, TopicFilter};

use super::sticky::{Asked, Stay};
use super::{Desk, Strikes, Terms};
use crate::config::JsonCase;
use crate::instruments::Directory;
use crate::net::websocket::{self, CloseReason};

/// The state of a D1 connection.
#[derive(Debug)]
pub struct D1Session {
    terms: Rc<Terms>,
    strikes: Strikes,
    client_id: String,
    connected_at: i64,
    last_heard: i64,
    case: Case,
    /// Follow the spelling of the client's first message.
    follow_case: bool,
    directory: Arc<Directory>,
    /// By the key under which the client knows them.
    subscriptions: BTreeMap<String, Held>,
    /// What there is already of subscriptions that have no room for the past of all of their topics.
    begun: BTreeMap<String, Vec<SubscriptionId>>,
    /// Subscriptions in the engine, of all keys.
    held: usize,
    /// What is remembered of the client, if it has a name.
    stay: Option<Stay>,
    /// Subscriptions of an earlier connection that are not there again yet.
    returning: VecDeque<Asked>,
    /// What they start with: what was published since.
    since: u64,
    /// Pings that went out.
    pings: u32,
    /// The number of the ping that waits to be answered, and the time up to which everything that was published
    /// had been written before it.
    pinged: Option<(u32, u64)>,
}

/// What one legacy subscription is made of.
#[derive(Debug)]
enum Held {
    /// Subscriptions in the engine.
    Live(Vec<SubscriptionId>),
    /// The instrument's number is not known yet: tried again until somebody publishes it, and due from this time
    /// on.
    Waiting(Asked, u64),
}

/// A subscription request, in either direction.
struct Request {
    asked: Asked,
    request_id: Option<String>,
}

/// Why there is no subscription.
enum Refused {
    /// Too much of the past waits to be written: it is tried again.
    Busy,
    /// As the client is told.
    Error(D1Error),
}

impl D1Session {
    /// A session that has not greeted yet.
    #[must_use]
    pub fn new(
        terms: Rc<Terms>,
        connection: u64,
        case: JsonCase,
        directory: Arc<Directory>,
        stay: Option<Stay>,
    ) -> Self {
        Self {
            client_id: match &stay {
                Some(stay) => stay.name().to_owned(),
                None => format!("client-{:x}-{connection}", terms.boot_id),
            },
            strikes: Strikes::default(),
            connected_at: 0,
            last_heard: 0,
            case: if case == JsonCase::Camel { Case::Camel } else { Case::Snake },
            follow_case: case == JsonCase::Auto,
            directory,
            subscriptions: BTreeMap::new(),
            begun: BTreeMap::new(),
            held: 0,
            stay,
            returning: VecDeque::new(),
            since: 0,
            pings: 0,
            pinged: None,
            terms,
        }
    }

    /// Greets: the dashboard stays dead until it knows its client id. One that comes back has its subscriptions
    /// again, and is told so in the greeting.
    pub fn open(&mut self, desk: &mut dyn Desk) {
        self.connected_at = desk.now() as i64;
        self.last_heard = self.connected_at;
        if let Some(stay) = &self.stay {
            let memory = stay.memory();
            if let Some(is_camel) = memory.is_camel {
                self.follow(Some(if is_camel { Case::Camel } else { Case::Snake }), desk);
            }
            let begun = desk.begun();
            self.since = memory.received.max(begun);
            self.returning = memory.subscriptions.into();
            let outlived = !self.returning.is_empty() && memory.received < begun;
            self.say_status(desk);
            self.restore(desk);
            if outlived {
                let begun = Timestamp(begun as i64);
                let history = History { subscription: 0, begun, short: Vec::new() };
                say(&d1::history(&history, "", self.case, desk.now() as i64), desk);
            }
            return;
        }
        self.say_status(desk);
    }

    /// The sign of life: about this client, with what it is subscribed to.
    pub fn heartbeat(&mut self, desk: &mut dyn Desk) {
        self.say_status(desk);
    }

    /// A ping goes out, with this number; `is_idle` when all that was published up to `distributed` has been
    /// written.
    pub fn ping(&mut self, is_idle: bool, distributed: u64) -> u32 {
        self.pings = self.pings.wrapping_add(1);
        // A pong may answer several pings: of those that are out, the first counts. What is owed to subscriptions
        // that are not there again yet was not written at all.
        if self.stay.is_some() && self.pinged.is_none() && is_idle && self.returning.is_empty() {
            self.pinged = Some((self.pings, distributed));
        }
        self.pings
    }

    /// The client has received the ping of this number, and whatever was written before it. A pong with anything
    /// else is a sign of life that nobody asked for, and may have been under way before the ping was.
    pub fn pong(&mut self, payload: &[u8]) {
        let Ok(number) = <[u8; 4]>::try_from(payload).map(u32::from_be_bytes) else { return };
        let answered = |(first, _): &mut (u32, u64)| (*first..=self.pings).contains(&number);
        if let (Some(stay), Some((_, distributed))) = (&self.stay, self.pinged.take_if(answered)) {
            stay.has_received(distributed + 1);
        }
    }

    /// The client closes. With 1000 or 1001 the page has ended or goes elsewhere, and says what it wants when it
    /// is there again; whatever else is said, the connection is what failed.
    pub fn leave(&mut self, code: Option<u16>) {
        // At once, or who comes back while this socket waits for its end would find what it had.
        if let (Some(mut stay), Some(1000 | 1001)) = (self.stay.take(), code) {
            stay.leave_for_good();
        }
    }

    /// True while a subscription waits, for its instrument to be seen or for room.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.returning.is_empty()
            || self.subscriptions.values().any(|held| matches!(held, Held::Waiting(..)))
    }

    /// Tries the subscriptions that wait.
    pub fn retry(&mut self, desk: &mut dyn Desk) {
        self.restore(desk);
        let mut found = Vec::new();
        for (key, held) in &self.subscriptions {
            let Held::Waiting(asked, since) = held else { continue };
            if let Some(symbol) = asked.instrument_id.and_then(|id| self.directory.symbol_of(id)) {
                found.push((key.clone(), asked.clone(), *since, symbol));
            }
        }
        for (key, asked, since, symbol) in found {
            // It no longer waits, so it must not count twice against the limit.
            self.subscriptions.remove(&key);
            // What made the number known was published before we could subscribe, and is due too.
            match self.subscribe_all(&key, &asked, Some(&symbol), &Start::Missed(since), desk) {
                Ok(ids) => drop(self.subscriptions.insert(key, Held::Live(ids))),
                Err(Refused::Busy) => drop(self.subscriptions.insert(key, Held::Waiting(asked, since))),
                Err(Refused::Error(error)) => {
                    self.forget(&key);
                    desk.count_error(error_code(error.code));
                    self.say_error(&error.report(), desk);
                }
            }
        }
    }

    /// Subscribes a client that has come back to what it had, as far as there is room for the past of it.
    fn restore(&mut self, desk: &mut dyn Desk) {
        while let Some(asked) = self.returning.pop_front() {
            let key = asked.key();
            if self.subscriptions.contains_key(&key) {
                continue;
            }
            match self.begin(&asked, &key, true, desk) {
                Ok(_) => {}
                Err(Refused::Busy) => return self.returning.push_front(asked),
                Err(Refused::Error(error)) => {
                    self.forget(&key);
                    desk.count_error(error_code(error.code));
                    self.say_error(&error.report(), desk);
                }
            }
        }
    }

    fn forget(&self, key: &str) {
        if let Some(stay) = &self.stay {
            stay.remove(key);
        }
    }

    /// Handles one text message.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn message(&mut self, text: &str, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        self.last_heard = desk.now() as i64;
        let limits =
            Limits { bytes: self.terms.publisher_bytes, depth: self.terms.json_depth, ..Limits::default() };
        match d1::decode(text, &limits) {
            Ok((message, case)) => {
                self.follow(case, desk);
                self.handle(message, desk);
                Ok(())
            }
            Err(error) => {
                // Only a refused text is looked at twice.
                if parse(text, &limits).is_err_and(|error| matches!(error.reason, JsonReason::Depth { .. })) {
                    desk.count_limit("limits.json_depth");
                }
                desk.count_error(error_code(error.code));
                self.say_error(&error.report(), desk);
                self.strikes.strike(&self.terms)
            }
        }
    }

    /// A binary message on a JSON connection.
    ///
    /// # Errors
    /// When it was one strike too many.
    pub fn wrong_kind(&mut self, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        let text = "this connection speaks JSON text; offer subprotocol tickcast.v2 for binary frames";
        self.error(ErrorCode::BadRequest, text, 0, desk);
        self.strikes.strike(&self.terms)
    }

    /// Tells the client of an error that is not about one of its messages.
    pub fn error(&self, code: ErrorCode, message: &str, retry_after_ms: u32, desk: &mut dyn Desk) {
        desk.count_error(code);
        let name = if code == ErrorCode::BadRequest { d1::INVALID_MESSAGE } else { code.name() };
        let report = ErrorReport {
            code: name.to_owned(),
            message: message.to_owned(),
            severity: ErrorSeverity::Error,
            retry_after: (retry_after_ms > 0).then(|| u64::from(retry_after_ms.div_ceil(1_000))),
            ..ErrorReport::default()
        };
        self.say_error(&report, desk);
    }

    fn follow(&mut self, case: Option<Case>, desk: &mut dyn Desk) {
        let Some(case) = case else { return };
        if !std::mem::take(&mut self.follow_case) {
            return;
        }
        if let Some(stay) = &self.stay {
            stay.spells(case == Case::Camel);
        }
        if case != self.case {
            self.case = case;
            desk.set_format(if case == Case::Camel { Format::D1Camel } else { Format::D1Snake });
        }
    }

    fn handle(&mut self, message: ClientMessage, desk: &mut dyn Desk) {
        match message {
            ClientMessage::Subscribe { subscription_type, instrument_id, symbol, request_id, .. } => {
                let asked = Asked { subscription_type, instrument_id, symbol };
                self.subscribe(Request { asked, request_id }, desk);
            }
            ClientMessage::Unsubscribe { subscription_type, instrument_id, symbol, request_id, .. } => {
                let asked = Asked { subscription_type, instrument_id, symbol };
                self.unsubscribe(Request { asked, request_id }, desk);
            }
            ClientMessage::Ping { client_time, sequence, .. } => {
                let now = desk.now() as i64;
                let pong = Pong::to(client_time.as_deref(), sequence, now);
                say(&d1::pong(&pong, self.case, now), desk);
            }
        }
    }

    fn subscribe(&mut self, request: Request, desk: &mut dyn Desk) {
        let key = request.asked.key();
        if self.subscriptions.contains_key(&key) {
            return self.acknowledge(request, AckStatus::Subscribed, None, desk);
        }
        // What the client asks for is there before it is restored, and with the past that is owed to it. So is
        // what is new while others return: it may be theirs by another name, or a part of it.
        let returning = self.returning.iter().position(|asked| asked.key() == key);
        match self.begin(&request.asked, &key, !self.returning.is_empty(), desk) {
            Ok(text) => {
                returning.and_then(|at| self.returning.remove(at));
                if let Some(stay) = &self.stay {
                    stay.add(&key, &request.asked);
                }
                self.acknowledge(request, AckStatus::Subscribed, text, desk);
            }
            // It stays among those that return.
            Err(Refused::Busy) if returning.is_some() => {
                self.acknowledge(request, AckStatus::Subscribed, None, desk);
            }
            Err(Refused::Busy) => {
                if let Some(begun) = self.begun.remove(&key) {
                    self.release(begun, desk);
                }
                let error = unavailable(&SubscribeError::Busy);
                self.refuse(request, error, desk);
            }
            Err(Refused::Error(error)) => self.refuse(request, error, desk),
        }
    }

    /// Begins a subscription, with what the client has missed if it is `returning`. Nobody may have published its
    /// number yet: then it stands, and begins when somebody does, which the text says.
    fn begin(
        &mut self,
        asked: &Asked,
        key: &str,
        returning: bool,
        desk: &mut dyn Desk,
    ) -> Result<Option<String>, Refused> {
        let symbol = match (&asked.symbol, asked.instrument_id) {
            (Some(symbol), _) => Some(Arc::from(symbol.as_str())),
            (None, Some(id)) => match self.directory.symbol_of(id) {
                Some(symbol) => Some(symbol),
                None => {
                    // The type is checked now, with a symbol that any type could have.
                    d1::topics_of(&asked.subscription_type, Some("X")).map_err(Refused::Error)?;
                    self.check_room(1, desk)?;
                    let since = if returning { self.since } else { desk.distributed() + 1 };
                    self.subscriptions.insert(key.to_owned(), Held::Waiting(asked.clone(), since));
                    let text = format!("waiting for instrument {id}, which nobody has published yet");
                    return Ok(Some(text));
                }
            },
            (None, None) => None,
        };
        let since = self.since;
        let start = if returning { Start::Missed(since) } else { Start::Live };
        let ids = self.subscribe_all(key, asked, symbol.as_deref(), &start, desk)?;
        self.subscriptions.insert(key.to_owned(), Held::Live(ids));
        Ok(None)
    }

    fn check_room(&self, more: usize, desk: &dyn Desk) -> Result<(), Refused> {
        let waiting = self.subscriptions.values().filter(|held| matches!(held, Held::Waiting(..))).count();
        // Several names may stand for one subscription of the engine: names are bounded as well.
        let used = (self.held + waiting).max(self.subscriptions.len());
        if used + more <= self.terms.subscriptions_max {
            return Ok(());
        }
        desk.count_limit("limits.subscriptions");
        let message = format!(
            "{used} subscriptions are in use and {} is the limit, set by limits.subscriptions",
            self.terms.subscriptions_max
        );
        Err(Refused::Error(D1Error {
            code: ErrorCode::SubscriptionLimit.name(),
            message,
            request_id: None,
            field: String::new(),
        }))
    }

    /// Subscribes to every topic that the name stands for, or to none: those that there was room for are kept
    /// while the others are waited for. To begin them anew each time would send the beginning of their past
    /// over and over.
    fn subscribe_all(
        &mut self,
        key: &str,
        asked: &Asked,
        symbol: Option<&str>,
        start: &Start,
        desk: &mut dyn Desk,
    ) -> Result<Vec<SubscriptionId>, Refused> {
        let filters = d1::topics_of(&asked.subscription_type, symbol).map_err(Refused::Error)?;
        let mut ids = self.begun.remove(key).unwrap_or_default();
        let outcome = self.subscribe_rest(filters.into_iter().skip(ids.len()), &mut ids, start, desk);
        match outcome {
            Ok(()) => Ok(ids),
            Err(Refused::Busy) => {
                self.begun.insert(key.to_owned(), ids);
                Err(Refused::Busy)
            }
            Err(refused) => {
                self.release(ids, desk);
                Err(refused)
            }
        }
    }

    fn subscribe_rest(
        &mut self,
        filters: impl ExactSizeIterator<Item = TopicFilter> + Clone,
        ids: &mut Vec<SubscriptionId>,
        start: &Start,
        desk: &mut dyn Desk,
    ) -> Result<(), Refused> {
        self.check_room(filters.len(), desk)?;
        if let Some(denied) = filters.clone().find_map(|filter| desk.may_subscribe(&filter).err()) {
            return Err(Refused::Error(D1Error {
                code: ErrorCode::Forbidden.name(),
                message: denied.message.to_owned(),
                request_id: None,
                field: String::new(),
            }));
        }
        for filter in filters {
            let request = Subscribe { filter, start: start.clone(), delivery: Delivery::default() };
            let subscribed = desk.subscribe(request, &mut |_| None).map_err(|error| match error {
                // A peer that is about to be closed gives nothing up: its next connection has it.
                SubscribeError::Busy | SubscribeError::UnknownPeer => Refused::Busy,
                error => Refused::Error(unavailable(&error)),
            })?;
            self.held += usize::from(!subscribed.already);
            ids.push(subscribed.subscription);
        }
        Ok(())
    }

    /// Ends what no other name stands for: two of them may mean one subscription (`alert`, `alerts`), which ends
    /// with the last.
    fn release(&mut self, ids: Vec<SubscriptionId>, desk: &mut dyn Desk) {
        for id in ids {
            let live = self.subscriptions.values().filter_map(|held| match held {
                Held::Live(others) => Some(others),
                Held::Waiting(..) => None,
            });
            let is_used = live.chain(self.begun.values()).any(|others| others.contains(&id));
            if !is_used && desk.unsubscribe(id, &mut |_| None) {
                self.held = self.held.saturating_sub(1);
            }
        }
    }

    fn unsubscribe(&mut self, request: Request, desk: &mut dyn Desk) {
        let key = request.asked.key();
        let before = self.returning.len();
        self.returning.retain(|asked| asked.key() != key);
        let was_returning = self.returning.len() < before;
        self.forget(&key);
        if let Some(begun) = self.begun.remove(&key) {
            self.release(begun, desk);
        }
        match self.subscriptions.remove(&key) {
            Some(Held::Live(ids)) => {
                self.release(ids, desk);
                self.acknowledge(request, AckStatus::Unsubscribed, None, desk);
            }
            Some(Held::Waiting(..)) => self.acknowledge(request, AckStatus::Unsubscribed, None, desk),
            None if was_returning => self.acknowledge(request, AckStatus::Unsubscribed, None, desk),
            None => {
                // Real clients do this (C-16): tell, and do not hold it against them.
                let text = format!("there is no subscription {key}");
                self.acknowledge(request, AckStatus::Failed, Some(text), desk);
            }
        }
    }

    fn refuse(&mut self, request: Request, mut error: D1Error, desk: &mut dyn Desk) {
        error.request_id = error.request_id.or_else(|| request.request_id.clone());
        desk.count_error(error_code(error.code));
        self.acknowledge(request, AckStatus::Failed, Some(error.message.clone()), desk);
        self.say_error(&error.report(), desk);
    }

    fn acknowledge(&self, request: Request, status: AckStatus, message: Option<String>, desk: &mut dyn Desk) {
        let now = desk.now() as i64;
        // The real server makes one up when the client sent none.
        let request_id = request.request_id.or_else(|| Some(format!("req_{}", now / 1_000_000_000)));
        let ack = SubscriptionAck {
            subscription_type: request.asked.subscription_type,
            instrument_id: request.asked.instrument_id,
            status,
            message,
            request_id,
        };
        say(&d1::subscription_ack(&ack, self.case, now), desk);
    }

    fn say_status(&self, desk: &mut dyn Desk) {
        let status = ConnectionStatus {
            client_id: self.client_id.clone(),
            connected_at: self.connected_at,
            subscriptions: self
                .subscriptions
                .keys()
                .cloned()
                .chain(self.returning.iter().map(Asked::key))
                .collect(),
            last_heartbeat: self.last_heard,
            ..ConnectionStatus::default()
        };
        let now = desk.now() as i64;
        say(&d1::connection_status(&status, self.case, now), desk);
    }

    fn say_error(&self, report: &ErrorReport, desk: &mut dyn Desk) {
        let now = desk.now() as i64;
        say(&d1::error(report, self.case, now), desk);
    }
}

impl Asked {
    /// Under what the client knows it.
    pub(super) fn key(&self) -> String {
        match (&self.symbol, self.instrument_id) {
            (Some(symbol), None) => format!("{}_{symbol}", self.subscription_type),
            _ => d1::subscription_key(&self.subscription_type, self.instrument_id),
        }
    }
}

fn unavailable(error: &SubscribeError) -> D1Error {
    D1Error {
        code: ErrorCode::Unavailable.name(),
        message: error.to_string(),
        request_id: None,
        field: String::new(),
    }
}

fn say(text: &[u8], desk: &mut dyn Desk) {
    desk.say(websocket::message(OpCode::Text, text));
}

/// The code under which a dialect's error is counted.
fn error_code(code: &str) -> ErrorCode {
    match code {
        d1::MESSAGE_TOO_LARGE => ErrorCode::MessageTooLarge,
        d1::UNKNOWN_MESSAGE_TYPE | d1::NO_HANDLER => ErrorCode::UnknownType,
        d1::VERSION_UNSUPPORTED => ErrorCode::SchemaMismatch,
        d1::UNKNOWN_STREAM => ErrorCode::UnknownStream,
        d1::UNSUPPORTED_FORMAT => ErrorCode::UnsupportedFormat,
        d1::INVALID_FILTER => ErrorCode::InvalidFilter,
        "FORBIDDEN" => ErrorCode::Forbidden,
        "SUBSCRIPTION_LIMIT" => ErrorCode::SubscriptionLimit,
        "UNAVAILABLE" => ErrorCode::Unavailable,
        _ => ErrorCode::BadRequest,
    }
}
