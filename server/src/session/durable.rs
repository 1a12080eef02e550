//! A binary peer with a durable identity: critical messages wait for it until it acknowledges them, and come
//! from its mailbox instead of the ring.
//!
//! ```text
//!   identify ──► asked ── on disk ──► known ── next ──► deliver + data frame ── ack ──► journal
//! ```
//!
//! A subscription of a known peer is acknowledged when it is on disk: from then on nothing that it matches can be
//! accepted without waiting for the identity.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tickcast_engine::Subscribe;
use tickcast_journal::{Ack, AckError, delivery};
use tickcast_protocol::message::{self, Identified, Message};
use tickcast_protocol::{CloseCode, ErrorCode, Predicate};

use super::Desk;
use super::binary::{Rejection, framed};
use crate::alerts::{Alerts, Ticket};
use crate::ingest::Refusal;
use crate::net::websocket::CloseReason;

/// Subscriptions of a connection that may wait for the disk at once.
const WAITING_MAX: usize = 64;

/// What a binary session knows of its peer's identity.
#[derive(Debug, Default)]
pub(super) enum Standing {
    /// It gave none.
    #[default]
    Anonymous,
    /// It asked for one, and the disk or the proof is waited for.
    Asked,
    /// It has one. Boxed, so that others do not pay for its size.
    Known(Box<Known>),
}

/// A peer with an identity.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) alerts: Arc<Alerts>,
    pub(super) ticket: Ticket,
    /// Subscriptions on their way to the disk.
    waiting: Vec<Waiting>,
}

/// A subscription that waits for the disk.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: u64,
    pub(super) subscribe: Subscribe,
    pub(super) predicate: Option<Predicate>,
}

impl Standing {
    pub(super) fn known(&mut self) -> Option<&mut Known> {
        match self {
            Self::Known(known) => Some(known),
            Self::Anonymous | Self::Asked => None,
        }
    }

    /// Asks for an identity; the answer comes by [`Standing::answered`].
    pub(super) fn identify(
        &mut self,
        identify: &message::Identify,
        subscriptions: usize,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        let message::Identify { request, identity, token } = identify;
        let wrong = |text: &str| Err(Rejection::new(*request, ErrorCode::InvalidState, "", text));
        match self {
            Self::Anonymous if subscriptions > 0 => return wrong("identify before the first subscription"),
            Self::Anonymous => {}
            Self::Asked | Self::Known(_) => return wrong("this connection identified itself already"),
        }
        let Some(alerts) = desk.alerts() else {
            let text = "this server keeps no critical messages (alerts.min_durability is \"memory\"): subscribe without an identity";
            return Err(Rejection::new(*request, ErrorCode::NotDurable, "", text));
        };
        *self = Self::Asked;
        let (postbox, request) = (desk.postbox(), *request);
        let nudge = {
            let postbox = postbox.clone();
            Box::new(move || postbox.nudge())
        };
        alerts.identify(
            identity,
            token,
            nudge,
            Box::new(move |outcome| postbox.identified(request, outcome)),
        );
        Ok(())
    }

    /// Takes the answer to [`Standing::identify`].
    pub(super) fn answered(
        &mut self,
        request: u64,
        outcome: Result<Ticket, Refusal>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        let (ticket, alerts) = match (outcome, desk.alerts()) {
            (Ok(ticket), Some(alerts)) => (ticket, alerts),
            (Ok(_), None) => unreachable!("the answer came from there"),
            (Err(refusal), _) => {
                *self = Self::Anonymous;
                return Err(Rejection::new(request, refusal.code, &refusal.field, refusal.message));
            }
        };
        desk.leave_out_critical();
        desk.say(framed(&Message::Identified(Identified {
            request,
            identity: ticket.name().to_owned(),
            token: ticket.token.clone(),
            durability: alerts.durability(),
            window: delivery::WINDOW as u32,
            ack_timeout_ms: (delivery::ACK_TIMEOUT / 1_000_000) as u32,
        })));
        *self = Self::Known(Box::new(Known { alerts, ticket, waiting: Vec::new() }));
        Ok(())
    }
}

impl Known {
    /// Keeps a subscription first, if it is not kept yet. True when it waits for that.
    pub(super) fn keep(
        &mut self,
        waiting: &mut Option<Waiting>,
        desk: &mut dyn Desk,
    ) -> Result<(), Rejection> {
        let Some(Waiting { request, subscribe, predicate }) = waiting.as_ref() else { return Ok(()) };
        if self.ticket.has(&subscribe.filter, predicate.as_ref()) {
            return Ok(());
        }
        if self.waiting.len() >= WAITING_MAX {
            let text = "too many subscriptions wait for the disk; ask again when some are acknowledged";
            return Err(Rejection::new(*request, ErrorCode::Unavailable, "", text));
        }
        let (postbox, request) = (desk.postbox(), *request);
        let kept = Box::new(move |outcome| postbox.wished(request, outcome));
        self.alerts.wish(&self.ticket, subscribe.filter.clone(), predicate.clone(), kept);
        self.waiting.extend(waiting.take());
        Ok(())
    }

    /// The subscription that waited for the disk, and what came of it.
    pub(super) fn kept(&mut self, request: u64) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.request == request)?;
        Some(self.waiting.remove(at))
    }

    /// Takes an acknowledgement.
    pub(super) fn ack(&mut self, ack: &message::Ack, desk: &mut dyn Desk) -> Result<(), Rejection> {
        let now = desk.now();
        let through = (ack.through > 0).then_some(Ack::Through(ack.through));
        let spans = ack.spans.iter().map(|span| span.from..=span.through).collect::<Vec<_>>();
        let spans = (!spans.is_empty()).then_some(Ack::Ranges(spans));
        for (field, ack) in [("through", through), ("spans", spans)] {
            let Some(ack) = ack else { continue };
            match self.alerts.ack(&self.ticket, &ack, now) {
                Ok(count) => desk.has_acknowledged(count),
                // The close that follows says so.
                Err(AckError::Fenced) => return Ok(()),
                Err(AckError::PastHead(position)) => {
                    let text = format!(
                        "field `{field}` names position {position}, which was given to no message yet"
                    );
                    return Err(Rejection::new(0, ErrorCode::InvalidField, field, text));
                }
                Err(AckError::NotHandedOut(position)) => {
                    let text = format!(
                        "field `{field}` names position {position}, which was not sent to this identity yet"
                    );
                    return Err(Rejection::new(0, ErrorCode::InvalidField, field, text));
                }
            }
        }
        Ok(())
    }

    /// Sends what there is room for.
    ///
    /// # Errors
    /// When another connection has the identity now.
    pub(super) fn send(&mut self, desk: &mut dyn Desk) -> Result<(), CloseReason> {
        if !self.ticket.is_valid() {
            let text = "another connection identified itself as this one";
            return Err(CloseReason::new(CloseCode::Replaced, text));
        }
        let now = desk.now();
        while desk.has_room() {
            let Some(letter) = self.alerts.next(&self.ticket, now) else { break };
            desk.say(letter);
        }
        self.alerts.fetch(&self.ticket, now);
        Ok(())
    }
}
