//! A client with a durable identity: critical messages come until the application acknowledged them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tickcast_protocol::message::{Ack, Deliver, Identified, Identify, Span, View};
use tickcast_protocol::{BootId, CloseCode, DecodeError, ErrorCode, Frame, Header, Message, Topic};

use super::event::{ClientEvent, Close, ServerError};
use super::{Core, Request};

/// Positions of acknowledged messages that are remembered, so that one which was on its way again is not told
/// twice. More than a server has in flight to one connection.
const SETTLED_MAX: usize = 4_096;
/// Most stretches of positions in one acknowledgement.
const SPANS_MAX: usize = 256;

/// Who the client is, across connections and restarts.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The durable identity, 1 to 64 bytes of `[A-Za-z0-9._:/@-]`.
    pub name: String,
    /// What proves it, up to 64 bytes. The first connection that names the identity says what that is; to be
    /// kept as a secret, before that connection is made.
    pub token: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A critical message for this client's identity. It comes again, on this connection or a later one, until
/// [`Core::acknowledge`] names it.
#[derive(Clone, Debug)]
pub struct Critical {
    /// Its place among all critical messages of the server: grows with each new one.
    pub position: u64,
    /// How often the server sent it to this identity. From 2 on an earlier run of the application may have had
    /// it.
    pub attempt: u32,
    /// Its topic.
    pub topic: Topic,
    /// Its number on its topic.
    pub sequence: u64,
    /// Who published it.
    pub publisher: String,
    /// The publisher's id of it.
    pub id: String,
    /// When it was accepted, in ns since the Unix epoch.
    pub accepted_at: i64,
    /// When it is of no use any more, or zero.
    pub expires_at: i64,
    /// Its header.
    pub header: Header,
    /// Its payload, not yet checked.
    pub payload: Bytes,
    /// When it was received, on the clock of the caller.
    pub received_at: u64,
}

impl Critical {
    /// The message in place, checked.
    ///
    /// # Errors
    /// [`DecodeError`], when the payload is malformed or the type unknown.
    pub fn view(&self) -> Result<View<'_>, DecodeError> {
        Frame { header: self.header, payload: &self.payload }.view()
    }

    /// The message as an owned copy.
    ///
    /// # Errors
    /// As for [`Critical::view`].
    pub fn message(&self) -> Result<Message, DecodeError> {
        self.view().map(View::to_owned)
    }
}

/// The core's part of it.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// The identity, once the server knows it on this connection.
    pub(super) is_known: bool,
    /// The word before a data frame, until that comes.
    pub(super) word: Option<Deliver>,
    /// Told to the application and not acknowledged by it, with when they were accepted: a server that lost its
    /// journal, or another one, gives positions anew.
    told: BTreeMap<u64, i64>,
    /// Acknowledged by the application, the newest [`SETTLED_MAX`].
    settled: BTreeMap<u64, i64>,
    /// Acknowledged and not yet sent.
    due: BTreeSet<u64>,
    /// The last ones that were sent, to this run of the server: at most [`SPANS_MAX`].
    said: BTreeSet<u64>,
    /// The run of the server that is meant.
    boot_id: Option<BootId>,
}

impl Core {
    /// The application has handled critical messages: they will not come again. What is said without a
    /// connection is sent with the next one.
    pub fn acknowledge(&mut self, positions: impl IntoIterator<Item = u64>) {
        for position in positions {
            if let Some(accepted_at) = self.durable.told.remove(&position) {
                self.durable.due.insert(position);
                self.durable.settled.insert(position, accepted_at);
                if self.durable.settled.len() > SETTLED_MAX {
                    self.durable.settled.pop_first();
                }
            }
        }
    }

    /// Critical messages that were told and not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.durable.told.len()
    }

    /// Acknowledgements that wait to be said, on this connection or, where there is none now, on the next.
    #[must_use]
    pub fn acknowledgements_due(&self) -> usize {
        self.durable.due.len()
    }

    /// True when nothing has to be waited for before subscribing.
    pub(super) fn has_identity(&self) -> bool {
        self.durable.is_known || self.options.identity.is_none()
    }

    /// Asks for the identity, if there is to be one; true then.
    pub(super) fn identify(&mut self) -> bool {
        self.durable.is_known = false;
        self.durable.word = None;
        let Some(Identity { name, token }) = self.options.identity.clone() else { return false };
        let request = self.next_request(Request::Identify);
        self.send(&Identify { request, identity: name, token }.into());
        true
    }

    pub(super) fn on_identified(&mut self, identified: Identified) {
        if self.requests.remove(&identified.request) != Some(Request::Identify) {
            self.stats.ignored += 1;
            return;
        }
        let Identified { identity, token, durability, window, .. } = identified;
        let boot_id = self.server.as_ref().map(|server| server.boot_id);
        if self.durable.boot_id == boot_id {
            // What was said last may have arrived behind this connection, and does not count then. Of what came
            // before, the server has heard: it sends no further ahead.
            self.durable.due.extend(self.durable.said.iter().rev().take(window as usize));
        } else {
            // A server that lost its journal gives positions anew. What still waits comes again, and is known by
            // when it was accepted.
            self.durable.due.clear();
            self.durable.said.clear();
        }
        self.durable.boot_id = boot_id;
        if let Some(known) = &mut self.options.identity {
            known.token.clone_from(&token);
        }
        self.durable.is_known = true;
        self.events.push_back(ClientEvent::Identified { identity, token, durability });
        self.ask_for_all();
    }

    /// The identity was refused: without it the promise does not hold, so there is no connection without it.
    pub(super) fn on_identify_refused(&mut self, code: u16, said: ServerError, now: u64) {
        self.events.push_back(ClientEvent::ServerError(said));
        let close = Close::new(CloseCode::Forbidden.number(), "the identity was refused");
        if code == ErrorCode::Unavailable.number() {
            let close = Close::new(CloseCode::TryAgainLater.number(), "the identity cannot be had now");
            self.hang_up(close, now);
        } else {
            self.give_up(close, now);
        }
    }

    /// A data frame behind its word.
    pub(super) fn on_critical(
        &mut self,
        word: Deliver,
        frame: &Frame<'_>,
        message: &Bytes,
        now: u64,
    ) -> Result<(), DecodeError> {
        self.stats.critical += 1;
        let is_known = |known: &BTreeMap<u64, i64>| known.get(&word.position) == Some(&word.accepted_at.0);
        if is_known(&self.durable.settled) {
            // It was on its way before our acknowledgement, or that was lost.
            self.stats.repeats += 1;
            self.durable.due.insert(word.position);
            return Ok(());
        }
        if is_known(&self.durable.told) {
            // The application has it, and has not said so yet.
            self.stats.repeats += 1;
            return Ok(());
        }
        let Deliver { position, attempt, topic, sequence, publisher, id, accepted_at, expires_at } = word;
        let topic = Topic::parse(&topic).map_err(|_| DecodeError::Payload { type_name: "deliver" })?;
        let (header, payload) = if frame.is_compressed() {
            frame.decompress(&mut self.decompressed)?
        } else {
            (frame.header, message.slice_ref(frame.payload))
        };
        self.durable.told.insert(position, accepted_at.0);
        self.durable.settled.remove(&position);
        self.durable.due.remove(&position);
        self.events.push_back(ClientEvent::Critical(Box::new(Critical {
            position,
            attempt,
            topic,
            sequence,
            publisher,
            id,
            accepted_at: accepted_at.0,
            expires_at: expires_at.0,
            header,
            payload,
            received_at: now,
        })));
        Ok(())
    }

    /// An acknowledgement of what is due, if anything is.
    pub(super) fn next_ack(&mut self) -> Option<Vec<u8>> {
        if !self.durable.is_known || self.durable.due.is_empty() {
            return None;
        }
        let mut spans: Vec<Span> = Vec::new();
        while let Some(position) = self.durable.due.first().copied() {
            let is_full = spans.len() == SPANS_MAX;
            match spans.last_mut() {
                Some(last) if last.through + 1 == position => last.through = position,
                _ if is_full => break,
                _ => spans.push(Span { from: position, through: position }),
            }
            self.durable.due.pop_first();
            self.durable.said.insert(position);
            if self.durable.said.len() > SPANS_MAX {
                self.durable.said.pop_first();
            }
        }
        Some(tickcast_protocol::frame::encode(&Ack { through: 0, spans }.into()))
    }

    /// The connection ended: what was told stays told, and is acknowledged on the next one.
    pub(super) fn forget_identity(&mut self) {
        self.durable.is_known = false;
        self.durable.word = None;
        // What was acknowledged and may not have arrived is said again when it comes again.
    }
}
