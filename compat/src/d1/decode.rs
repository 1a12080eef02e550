//! D1 text to what a client says, and to what a server says to one client.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use tickcast_protocol::error::{FieldError, FieldReason};
use tickcast_protocol::field::{Field, Input, Timestamp};

use super::{
    AckStatus, Case, ClientMessage, ConnectionStatus, D1Error, ErrorReport, ErrorSeverity, INVALID_MESSAGE,
    NAME_BYTES_MAX, NO_HANDLER, Pong, Quality, REQUEST_ID_BYTES_MAX, ServerMessage, SubscriptionAck,
    UNKNOWN_MESSAGE_TYPE, VERSION, VERSION_UNSUPPORTED, schema,
};
use crate::case::is_spelling_of;
use crate::draft::is_null;
use crate::parse::{Limits, parse, quoted};

const FROM_SERVER: &[&str] = &["connection_status", "subscription_ack", "pong", "error"];
const FROM_CLIENT: &[&str] = &["subscribe", "unsubscribe", "ping"];

/// Reads what a client says: subscribe (flat, nested, in either case), unsubscribe or ping. Also tells the
/// casing of its envelope, `None` when it wrote `type`, as clients older than v1.0 do.
///
/// # Errors
/// [`D1Error`]: the connection lives, and the client is told.
pub fn decode(text: &str, limits: &Limits) -> Result<(ClientMessage, Option<Case>), D1Error> {
    let input = parse(text, limits)?;
    let envelope = Envelope::open(&input)?;
    let message = envelope.client_message().map_err(|error| envelope.blame(error))?;
    Ok((message, envelope.case))
}

/// Reads what a server says to one client; events are [`super::decode_published`]'s.
///
/// # Errors
/// [`D1Error`], with the first field at fault.
pub fn decode_server(text: &str, limits: &Limits) -> Result<(ServerMessage, Option<Case>), D1Error> {
    let input = parse(text, limits)?;
    let envelope = Envelope::open(&input)?;
    let message = envelope.server_message().map_err(|error| envelope.blame(error))?;
    Ok((message, envelope.case))
}

/// The type that a text claims to be, for an error.
pub(super) fn unknown_type(envelope: &Envelope<'_>, known: &[&str]) -> D1Error {
    let kind = quoted(&envelope.kind);
    let is_ours = FROM_SERVER.iter().chain(FROM_CLIENT).any(|name| *name == kind)
        || schema::shape_named(&kind).is_some();
    let known = known.join(", ");
    let field = envelope.kind_key.clone();
    if is_ours {
        return D1Error::new(NO_HANDLER, field, format!("`{kind}` is not taken here; {known} are"));
    }
    D1Error::new(UNKNOWN_MESSAGE_TYPE, field, format!("unknown message type `{kind}`; known are {known}"))
}

/// A message taken apart: fields are looked for in `data`, then beside it.
pub(super) struct Envelope<'a> {
    /// The message's type.
    pub(super) kind: Cow<'a, str>,
    /// How the sender spelled the key of the type.
    kind_key: String,
    /// The casing of that key.
    pub(super) case: Option<Case>,
    members: &'a [Member<'a>],
    data: Option<&'a [Member<'a>]>,
}

type Member<'a> = (Cow<'a, str>, Input<'a>);

/// A field as the sender wrote it.
pub(super) struct Found<'a> {
    /// Its value.
    pub(super) input: &'a Input<'a>,
    key: &'a str,
    nested: bool,
}

impl Found<'_> {
    /// Its path in the sender's spelling.
    pub(super) fn path(&self) -> String {
        if self.nested { format!("data.{}", self.key) } else { self.key.to_owned() }
    }
}

impl<'a> Envelope<'a> {
    /// Reads the type, checks the version, and finds `data`.
    pub(super) fn open(input: &'a Input<'a>) -> Result<Self, D1Error> {
        let Input::Object(_, members) = input else {
            return Err(D1Error::new(INVALID_MESSAGE, "", "a message must be an object"));
        };
        let mut envelope =
            Self { kind: Cow::Borrowed(""), kind_key: String::new(), case: None, members, data: None };
        envelope.read_header().map_err(|error| envelope.blame(error))?;
        Ok(envelope)
    }

    fn read_header(&mut self) -> Result<(), D1Error> {
        let data = one_spelling(self.members, "data", false)?;
        self.data = match data.map(|data| data.input) {
            None => None,
            Some(Input::Object(_, members)) => Some(members),
            Some(_) => return Err(self.wrong("data", FieldReason::Kind { expected: "an object" })),
        };
        let kind = match one_spelling(self.members, "message_type", false)? {
            Some(kind) => {
                self.case = Some(if kind.key == "message_type" { Case::Snake } else { Case::Camel });
                kind
            }
            None => one_spelling(self.members, "type", false)?
                .ok_or_else(|| self.wrong("message_type", FieldReason::Missing))?,
        };
        self.kind_key = kind.path();
        self.kind = match kind.input {
            Input::Text(text) => text.clone(),
            _ => return Err(self.wrong(&kind.path(), FieldReason::Kind { expected: "a string" })),
        };
        self.check_version()
    }

    /// Any minor of our major will do, and so does none at all (C-40).
    fn check_version(&self) -> Result<(), D1Error> {
        let Some(version) = one_spelling(self.members, "version", false)? else { return Ok(()) };
        let text = match version.input {
            Input::Text(text) => text.as_ref(),
            Input::Number(text) => text,
            _ => return Err(self.wrong("version", FieldReason::Kind { expected: "a string" })),
        };
        if text.split_once('.').map_or(text, |(major, _)| major) == "1" {
            return Ok(());
        }
        let message = format!("version `{}` is not spoken here; supported: [\"{VERSION}\"]", quoted(text));
        Err(D1Error::new(VERSION_UNSUPPORTED, "version", message))
    }

    fn client_message(&self) -> Result<ClientMessage, D1Error> {
        let request_id = self.request_id()?;
        match &*self.kind {
            "ping" => Ok(ClientMessage::Ping {
                client_time: self.text("client_time", NAME_BYTES_MAX)?,
                sequence: self.value("sequence")?,
                request_id,
            }),
            kind @ ("subscribe" | "unsubscribe") => {
                let subscription_type =
                    self.required("subscription_type", |name| self.text(name, NAME_BYTES_MAX))?;
                let instrument_id = self.value("instrument_id")?;
                let symbol = self.text("symbol", NAME_BYTES_MAX)?;
                let parameters = self.parameters()?;
                Ok(if kind == "subscribe" {
                    ClientMessage::Subscribe {
                        subscription_type,
                        instrument_id,
                        symbol,
                        parameters,
                        request_id,
                    }
                } else {
                    ClientMessage::Unsubscribe {
                        subscription_type,
                        instrument_id,
                        symbol,
                        parameters,
                        request_id,
                    }
                })
            }
            _ => Err(unknown_type(self, FROM_CLIENT)),
        }
    }

    fn server_message(&self) -> Result<ServerMessage, D1Error> {
        let text = |name: &str| self.text(name, usize::MAX);
        Ok(match &*self.kind {
            "connection_status" => ServerMessage::ConnectionStatus(ConnectionStatus {
                client_id: self.required("client_id", text)?,
                connected_at: self.required("connected_at", |name| self.time(name))?,
                subscriptions: self.value("subscriptions")?.unwrap_or_default(),
                last_heartbeat: self.required("last_heartbeat", |name| self.time(name))?,
                quality: self.name("connection_quality", Quality::ALL, Quality::name)?.unwrap_or_default(),
                message_count: self.value("message_count")?.unwrap_or_default(),
            }),
            "subscription_ack" => ServerMessage::SubscriptionAck(SubscriptionAck {
                subscription_type: self.required("subscription_type", text)?,
                instrument_id: self.value("instrument_id")?,
                status: self.required("status", |name| self.name(name, AckStatus::ALL, AckStatus::name))?,
                message: text("message")?,
                request_id: self.request_id()?,
            }),
            "pong" => ServerMessage::Pong(Pong {
                client_time: text("client_time")?,
                server_time: self.required("server_time", |name| self.time(name))?,
                sequence: self.value("sequence")?,
                latency_ms: self.value("latency_ms")?,
            }),
            "error" => ServerMessage::Error(ErrorReport {
                code: self.required("error_code", text)?,
                message: self.required("error_message", text)?,
                request_id: self.request_id()?,
                severity: self.name("severity", ErrorSeverity::ALL, ErrorSeverity::name)?.unwrap_or_default(),
                retry_after: self.value("retry_after")?,
            }),
            _ => return Err(unknown_type(self, FROM_SERVER)),
        })
    }

    /// The field called `snake` in either spelling, in `data` or beside it; `null` is the same as not there.
    pub(super) fn find(&self, snake: &str) -> Result<Option<Found<'a>>, D1Error> {
        match self.find_in_data(snake)? {
            None => self.find_beside(snake),
            found => Ok(found),
        }
    }

    /// The field called `snake` in `data` and nowhere else.
    pub(super) fn find_in_data(&self, snake: &str) -> Result<Option<Found<'a>>, D1Error> {
        self.data.map_or(Ok(None), |data| one_spelling(data, snake, true))
    }

    /// The field called `snake` beside `data`.
    pub(super) fn find_beside(&self, snake: &str) -> Result<Option<Found<'a>>, D1Error> {
        one_spelling(self.members, snake, false)
    }

    /// Where the sender would have written the field called `snake`.
    pub(super) fn path_of(&self, snake: &str) -> String {
        let name = self.case.unwrap_or_default().spell(snake);
        if self.data.is_some() { format!("data.{name}") } else { name }
    }

    /// True when the message has its fields in `data`.
    pub(super) const fn has_data(&self) -> bool {
        self.data.is_some()
    }

    /// Adds the request's id, as far as it can be read, to an error.
    pub(super) fn blame(&self, error: D1Error) -> D1Error {
        D1Error { request_id: self.request_id().ok().flatten(), ..error }
    }

    /// An error at a path that is the envelope's or was made by [`Self::path_of`].
    pub(super) fn wrong(&self, path: &str, reason: FieldReason) -> D1Error {
        let path =
            if path == "message_type" { self.case.unwrap_or_default().spell(path) } else { path.to_owned() };
        D1Error::invalid(&FieldError::new(path, reason))
    }

    fn required<T>(
        &self,
        snake: &str,
        read: impl FnOnce(&str) -> Result<Option<T>, D1Error>,
    ) -> Result<T, D1Error> {
        read(snake)?.ok_or_else(|| self.wrong(&self.path_of(snake), FieldReason::Missing))
    }

    fn value<T: Field>(&self, snake: &str) -> Result<Option<T>, D1Error> {
        let Some(found) = self.find(snake)? else { return Ok(None) };
        T::build(Some(found.input)).map(Some).map_err(|error| D1Error::invalid(&error.within(&found.path())))
    }

    fn text(&self, snake: &str, limit: usize) -> Result<Option<String>, D1Error> {
        let Some(found) = self.find(snake)? else { return Ok(None) };
        match found.input {
            Input::Text(text) if text.len() <= limit => Ok(Some(text.clone().into_owned())),
            Input::Text(text) => {
                let (length, unit) = (text.len(), "bytes");
                Err(self.wrong(&found.path(), FieldReason::TooLong { length, limit, unit }))
            }
            _ => Err(self.wrong(&found.path(), FieldReason::Kind { expected: "a string" })),
        }
    }

    /// Clients send text; a number is taken as its text.
    fn request_id(&self) -> Result<Option<String>, D1Error> {
        match self.find("request_id")? {
            Some(Found { input: Input::Number(text), .. }) if text.len() <= REQUEST_ID_BYTES_MAX => {
                Ok(Some((*text).to_owned()))
            }
            _ => self.text("request_id", REQUEST_ID_BYTES_MAX),
        }
    }

    fn parameters(&self) -> Result<Option<String>, D1Error> {
        let Some(found) = self.find("parameters")? else { return Ok(None) };
        match found.input {
            Input::Object(raw, _) => Ok(Some((*raw).to_owned())),
            _ => Err(self.wrong(&found.path(), FieldReason::Kind { expected: "an object" })),
        }
    }

    fn time(&self, snake: &str) -> Result<Option<i64>, D1Error> {
        Ok(self.value::<Timestamp>(snake)?.map(|time| time.0))
    }

    fn name<T: Copy>(
        &self,
        snake: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<Option<T>, D1Error> {
        let Some(text) = self.text(snake, NAME_BYTES_MAX)? else { return Ok(None) };
        if let Some(found) = all.iter().copied().find(|candidate| name(*candidate) == text) {
            return Ok(Some(found));
        }
        let names: Vec<&str> = all.iter().map(|candidate| name(*candidate)).collect();
        let path = self.find(snake)?.map_or_else(String::new, |found| found.path());
        let message = format!("field `{path}`: must be one of {}", names.join(", "));
        Err(D1Error::new(INVALID_MESSAGE, path, message))
    }
}

/// The member called `snake` in one of its spellings. Both at once contradict each other.
fn one_spelling<'a>(
    members: &'a [Member<'a>],
    snake: &str,
    nested: bool,
) -> Result<Option<Found<'a>>, D1Error> {
    let mut spelled = members
        .iter()
        .filter(|(key, input)| is_spelling_of(key, snake) && !is_null(input))
        .map(|(key, input)| Found { input, key, nested });
    let first = spelled.next();
    match spelled.next() {
        None => Ok(first),
        Some(second) => {
            let path = second.path();
            let message = format!("field `{path}`: is there in both spellings");
            Err(D1Error::new(INVALID_MESSAGE, path, message))
        }
    }
}
