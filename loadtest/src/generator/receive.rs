//! What one read of a subscriber brings: deliveries entered in the ledger, everything else noted for the loop.
#![forbid(unsafe_code)]

use serde_json::Value;
use tickcast_protocol::Frame;
use tickcast_protocol::frame::PAYLOAD_BYTES_MAX;
use tickcast_protocol::message::{Message, NoticeKind};

use crate::ledger::{FORGOTTEN, Ledger};
use crate::plan::Plan;
use crate::walk::Sink;
use crate::websocket;

/// What the server said about deliveries it did not make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) gaps: u64,
    pub(super) conflated: u64,
    pub(super) filtered: u64,
    /// Deliveries that came again or out of order.
    pub(super) duplicated: u64,
    /// Numbers that nobody published: another load on the same topics.
    pub(super) strange: u64,
}

/// What a peer was told beside its deliveries.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Subscriptions acknowledged.
    pub(super) acknowledged: u32,
    /// What the server calls itself, from its welcome.
    pub(super) welcome: Option<String>,
    /// Body of a ping to answer.
    pub(super) ping: Option<Vec<u8>>,
    /// An error, in the server's words.
    pub(super) error: Option<String>,
    /// The server ends the connection.
    pub(super) closing: bool,
}

impl Heard {
    pub(super) const fn is_empty(&self) -> bool {
        self.acknowledged == 0
            && self.welcome.is_none()
            && self.ping.is_none()
            && self.error.is_none()
            && !self.closing
    }
}

/// The sink of one read.
pub(super) struct Receive<'a> {
    pub(super) plan: &'a Plan,
    pub(super) ledger: &'a mut Ledger,
    pub(super) told: &'a mut Told,
    /// Number of the subscriber.
    pub(super) subscriber: usize,
    /// Next sequence of each of its topics.
    pub(super) next: &'a mut [u32],
    pub(super) format: usize,
    pub(super) now: u64,
    pub(super) heard: Heard,
}

impl Sink for Receive<'_> {
    #[inline]
    fn data(&mut self, number: u64) {
        let Some(delivery) = self.ledger.look_up(number) else {
            self.told.strange += 1;
            return;
        };
        if delivery.topic != FORGOTTEN {
            let slot = self.plan.slot_of(self.subscriber, delivery.topic as usize);
            let Some(next) = self.next.get_mut(slot) else { return };
            if delivery.sequence != *next {
                if delivery.sequence < *next {
                    self.told.duplicated += 1;
                    return;
                }
                if delivery.measured {
                    self.ledger.missing(u64::from(delivery.sequence - *next));
                }
            }
            *next = delivery.sequence + 1;
        }
        self.ledger.deliver(number, self.format, self.now);
    }

    #[cold]
    fn control(&mut self, opcode: u8, bytes: &[u8]) {
        match opcode {
            websocket::BINARY => self.frame(bytes),
            websocket::TEXT => self.text(bytes),
            websocket::PING => self.heard.ping = Some(bytes.to_vec()),
            websocket::CLOSE => {
                self.heard.closing = true;
                let reason = bytes.get(2..).map(String::from_utf8_lossy).unwrap_or_default();
                let code = bytes.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
                self.heard.error.get_or_insert_with(|| format!("closed with {code} {reason}"));
            }
            _ => {}
        }
    }
}

impl Receive<'_> {
    fn frame(&mut self, bytes: &[u8]) {
        let Ok((frame, _)) = Frame::split_first(bytes, PAYLOAD_BYTES_MAX) else { return };
        let Ok(view) = frame.view() else { return };
        match view.to_owned() {
            Message::Acknowledge(_) => self.heard.acknowledged += 1,
            Message::Welcome(welcome) => self.heard.welcome = Some(welcome.server),
            Message::Notice(notice) if notice.kind == NoticeKind::LOSS => {
                self.told.gaps += notice.gapped;
                self.told.conflated += notice.conflated;
                self.told.filtered += notice.filtered;
            }
            Message::Error(error) => {
                self.heard.error.get_or_insert_with(|| format!("error {}: {}", error.code, error.message));
            }
            _ => {}
        }
    }

    /// A dashboard's control message, in either spelling.
    fn text(&mut self, bytes: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
        let data = &value["data"];
        let either = |snake: &str, camel: &str| -> Value {
            let found = data.get(snake).or_else(|| data.get(camel));
            found.cloned().unwrap_or_default()
        };
        match value["message_type"].as_str().or(value["messageType"].as_str()) {
            Some("subscription_ack") if data["status"] == "subscribed" => self.heard.acknowledged += 1,
            Some("error") => {
                let code = either("error_code", "errorCode");
                if matches!(code.as_str(), Some("STALE_UPSTREAM" | "STREAM_LIVE")) {
                    // How a stream is, such as when its publisher has left: nobody lost anything.
                } else if code == "DATA_GAP" {
                    self.told.gaps += data["gapped"].as_u64().unwrap_or(0);
                    self.told.conflated += data["conflated"].as_u64().unwrap_or(0);
                } else {
                    let text = either("error_message", "errorMessage");
                    let text = text.as_str().unwrap_or("an error without words").to_owned();
                    self.heard.error.get_or_insert(text);
                }
            }
            _ => {}
        }
    }
}
