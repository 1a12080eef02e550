//! The D1 session: greeting first, then subscriptions by legacy name; every answer has all four keys of
//! the envelope, because the real client rejects a message that lacks one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fastwebsockets::OpCode;
use tickcast_compat::d1::{
    self, AckStatus, Case, ClientMessage, ConnectionStatus, D1Error, ErrorReport, ErrorSeverity, Instruments,
    Pong, SubscriptionAck,
};
use tickcast_compat::parse::{JsonReason, Limits, parse};
use tickcast_engine::{Delivery, Format, Start, Subscribe};
use tickcast_protocol::{ErrorCode, SubscriptionId, TopicFilter};

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
    /// Subscriptions in the engine, of all keys.
    held: usize,
}

/// What one legacy subscription is made of.
#[derive(Debug)]
enum Held {
    /// Subscriptions in the engine.
    Live(Vec<SubscriptionId>),
    /// The instrument's number is not known yet: tried again until somebody publishes it.
    Waiting { subscription_type: String, instrument_id: u64 },
}

/// A subscription request, in either direction.
struct Request {
    subscription_type: String,
    instrument_id: Option<u64>,
    symbol: Option<String>,
    request_id: Option<String>,
}

impl D1Session {
    /// A session that has not greeted yet.
    #[must_use]
    pub fn new(terms: Rc<Terms>, connection: u64, case: JsonCase, directory: Arc<Directory>) -> Self {
        Self {
            client_id: format!("client-{:x}-{connection}", terms.boot_id),
            strikes: Strikes::default(),
            connected_at: 0,
            last_heard: 0,
            case: if case == JsonCase::Camel { Case::Camel } else { Case::Snake },
            follow_case: case == JsonCase::Auto,
            directory,
            subscriptions: BTreeMap::new(),
            held: 0,
            terms,
        }
    }

    /// Greets: the dashboard stays dead until it knows its client id.
    pub fn open(&mut self, desk: &mut dyn Desk) {
        self.connected_at = desk.now() as i64;
        self.last_heard = self.connected_at;
        self.say_status(desk);
    }

    /// The sign of life: about this client, with what it is subscribed to.
    pub fn heartbeat(&mut self, desk: &mut dyn Desk) {
        self.say_status(desk);
    }

    /// True while a subscription waits for its instrument to be seen.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.subscriptions.values().any(|held| matches!(held, Held::Waiting { .. }))
    }

    /// Tries the subscriptions that wait for their instrument.
    pub fn retry(&mut self, desk: &mut dyn Desk) {
        let mut found = Vec::new();
        for (key, held) in &self.subscriptions {
            let Held::Waiting { subscription_type, instrument_id } = held else { continue };
            if let Some(symbol) = self.directory.symbol_of(*instrument_id) {
                found.push((key.clone(), subscription_type.clone(), symbol));
            }
        }
        for (key, subscription_type, symbol) in found {
            // It no longer waits, so it must not count twice against the limit.
            self.subscriptions.remove(&key);
            // What made the number known was published before we could subscribe, and is due too.
            let subscribed = d1::topics_of(&subscription_type, Some(&symbol))
                .and_then(|filters| self.subscribe_all(filters, Start::Snapshot, desk));
            match subscribed {
                Ok(ids) => drop(self.subscriptions.insert(key, Held::Live(ids))),
                Err(error) => {
                    desk.count_error(error_code(error.code));
                    self.say_error(&error.report(), desk);
                }
            }
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
        if std::mem::take(&mut self.follow_case) && case != self.case {
            self.case = case;
            desk.set_format(if case == Case::Camel { Format::D1Camel } else { Format::D1Snake });
        }
    }

    fn handle(&mut self, message: ClientMessage, desk: &mut dyn Desk) {
        match message {
            ClientMessage::Subscribe { subscription_type, instrument_id, symbol, request_id, .. } => {
                let request = Request { subscription_type, instrument_id, symbol, request_id };
                self.subscribe(request, desk);
            }
            ClientMessage::Unsubscribe { subscription_type, instrument_id, symbol, request_id, .. } => {
                let request = Request { subscription_type, instrument_id, symbol, request_id };
                self.unsubscribe(request, desk);
            }
            ClientMessage::Ping { client_time, sequence, .. } => {
                let now = desk.now() as i64;
                let pong = Pong::to(client_time.as_deref(), sequence, now);
                say(&d1::pong(&pong, self.case, now), desk);
            }
        }
    }

    fn subscribe(&mut self, request: Request, desk: &mut dyn Desk) {
        let key = self.key_of(&request);
        if self.subscriptions.contains_key(&key) {
            return self.acknowledge(request, AckStatus::Subscribed, None, desk);
        }
        let symbol = match (&request.symbol, request.instrument_id) {
            (Some(symbol), _) => Some(Arc::from(symbol.as_str())),
            (None, Some(id)) => match self.directory.symbol_of(id) {
                Some(symbol) => Some(symbol),
                None => return self.wait_for(request, key, id, desk),
            },
            (None, None) => None,
        };
        let subscribed = d1::topics_of(&request.subscription_type, symbol.as_deref())
            .and_then(|filters| self.subscribe_all(filters, Start::Live, desk));
        match subscribed {
            Ok(ids) => {
                self.subscriptions.insert(key, Held::Live(ids));
                self.acknowledge(request, AckStatus::Subscribed, None, desk);
            }
            Err(error) => self.refuse(request, error, desk),
        }
    }

    /// Nobody has published this number yet. The subscription stands, and begins when somebody does.
    fn wait_for(&mut self, request: Request, key: String, instrument_id: u64, desk: &mut dyn Desk) {
        // The type is checked now, with a symbol that any type could have.
        let checked =
            d1::topics_of(&request.subscription_type, Some("X")).and_then(|_| self.check_room(1, desk));
        if let Err(error) = checked {
            return self.refuse(request, error, desk);
        }
        let subscription_type = request.subscription_type.clone();
        self.subscriptions.insert(key, Held::Waiting { subscription_type, instrument_id });
        let text = format!("waiting for instrument {instrument_id}, which nobody has published yet");
        self.acknowledge(request, AckStatus::Subscribed, Some(text), desk);
    }

    fn check_room(&self, more: usize, desk: &dyn Desk) -> Result<(), D1Error> {
        let waiting = self.subscriptions.values().filter(|held| matches!(held, Held::Waiting { .. })).count();
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
        Err(D1Error {
            code: ErrorCode::SubscriptionLimit.name(),
            message,
            request_id: None,
            field: String::new(),
        })
    }

    fn subscribe_all(
        &mut self,
        filters: Vec<TopicFilter>,
        start: Start,
        desk: &mut dyn Desk,
    ) -> Result<Vec<SubscriptionId>, D1Error> {
        self.check_room(filters.len(), desk)?;
        let mut ids = Vec::with_capacity(filters.len());
        for filter in filters {
            if let Err(denied) = desk.may_subscribe(&filter) {
                return Err(D1Error {
                    code: ErrorCode::Forbidden.name(),
                    message: denied.message.to_owned(),
                    request_id: None,
                    field: String::new(),
                });
            }
            let request = Subscribe { filter, start: start.clone(), delivery: Delivery::default() };
            match desk.subscribe(request, &mut |_| None) {
                Ok(subscribed) => {
                    self.held += usize::from(!subscribed.already);
                    ids.push(subscribed.subscription);
                }
                Err(error) => {
                    return Err(D1Error {
                        code: ErrorCode::Unavailable.name(),
                        message: error.to_string(),
                        request_id: None,
                        field: String::new(),
                    });
                }
            }
        }
        Ok(ids)
    }

    fn unsubscribe(&mut self, request: Request, desk: &mut dyn Desk) {
        let key = self.key_of(&request);
        match self.subscriptions.remove(&key) {
            Some(Held::Live(ids)) => {
                for id in ids {
                    // Two legacy names may mean one subscription (`alert`, `alerts`): it ends with the last.
                    let still_used = self.subscriptions.values().any(|held| match held {
                        Held::Live(others) => others.contains(&id),
                        Held::Waiting { .. } => false,
                    });
                    if !still_used && desk.unsubscribe(id, &mut |_| None) {
                        self.held = self.held.saturating_sub(1);
                    }
                }
                self.acknowledge(request, AckStatus::Unsubscribed, None, desk);
            }
            Some(Held::Waiting { .. }) => self.acknowledge(request, AckStatus::Unsubscribed, None, desk),
            None => {
                // Real clients do this (C-16): tell, and do not hold it against them.
                let text = format!("there is no subscription {key}");
                self.acknowledge(request, AckStatus::Failed, Some(text), desk);
            }
        }
    }

    fn key_of(&self, request: &Request) -> String {
        match (&request.symbol, request.instrument_id) {
            (Some(symbol), None) => format!("{}_{symbol}", request.subscription_type),
            _ => d1::subscription_key(&request.subscription_type, request.instrument_id),
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
            subscription_type: request.subscription_type,
            instrument_id: request.instrument_id,
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
            subscriptions: self.subscriptions.keys().cloned().collect(),
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
