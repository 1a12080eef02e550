//! What one read of a subscriber brings: deliveries entered in the ledger, everything else noted for the loop.
#![forbid(unsafe_code)]

use serde_json::Value;
use tickcast_protocol::Frame;
use tickcast_protocol::frame::{HEADER_LEN, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Message, Notice, NoticeKind};

use super::alerts::Alerts;
use crate::account::{self, Accounts};
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
pub(super) struct Receive<'a, 'p> {
    pub(super) plan: &'a Plan,
    pub(super) ledger: &'a mut Ledger,
    pub(super) told: &'a mut Told,
    /// Number of the subscriber.
    pub(super) subscriber: usize,
    /// Next sequence of each of its topics.
    pub(super) next: &'a mut [u32],
    pub(super) format: usize,
    pub(super) now: u64,
    pub(super) alerts: Option<&'a mut Alerts>,
    pub(super) accounts: Option<&'a mut Accounts<'p>>,
    pub(super) heard: Heard,
}

impl Sink for Receive<'_, '_> {
    #[inline]
    fn header(&mut self, header: &[u8; HEADER_LEN]) {
        if let Some(accounts) = &mut self.accounts {
            let stream = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
            let mut sequence = [0; 8];
            sequence.copy_from_slice(&header[16..24]);
            accounts.frame(self.subscriber, stream, u64::from_le_bytes(sequence));
        }
    }

    #[inline]
    fn alert(&mut self, number: u64) {
        let Some(alerts) = &mut self.alerts else { return };
        if !alerts.deliver(number, self.subscriber, self.format, self.now) {
            self.told.strange += 1;
        }
    }

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

impl Receive<'_, '_> {
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
                self.account(&notice);
            }
            Message::Notice(notice) if notice.kind == NoticeKind::UPSTREAM_GAP => self.account(&notice),
            Message::Bind(bind) => {
                if let Some(accounts) = &mut self.accounts {
                    for binding in &bind.bindings {
                        let (stream, next) = (binding.stream, binding.next_sequence);
                        accounts.bind(self.subscriber, stream, &binding.topic, next);
                    }
                }
            }
            Message::Heartbeat(heartbeat) => {
                if let Some(accounts) = &mut self.accounts {
                    for head in &heartbeat.heads {
                        accounts.head(self.subscriber, head.stream, head.through);
                    }
                }
            }
            Message::Error(error) => {
                self.heard.error.get_or_insert_with(|| format!("error {}: {}", error.code, error.message));
            }
            _ => {}
        }
    }

    fn account(&mut self, notice: &Notice) {
        if let Some(accounts) = &mut self.accounts {
            let told = account::Told {
                stream: notice.stream,
                from: notice.from,
                through: notice.through,
                conflated: notice.conflated,
                gapped: notice.gapped,
                filtered: notice.filtered,
            };
            accounts.notice(self.subscriber, told);
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

#[cfg(test)]
mod tests {
    use tickcast_protocol::frame;
    use tickcast_protocol::message::{Bind, Binding, ClassName, Reason};

    use super::*;
    use crate::format::Format;
    use crate::results::Account;
    use crate::template::{Kind, Template};
    use crate::walk::{self, Marks};

    const STREAM: u32 = 3;

    fn plan() -> Plan {
        Plan { formats: vec![(Format::Binary, 1)], accounts: true, ..Plan::named("sat1k").unwrap() }
    }

    fn bind() -> Vec<u8> {
        let binding = Binding {
            stream: STREAM,
            topic: "public_trade.LOAD0000".to_owned(),
            class: ClassName::ORDERED,
            next_sequence: 1,
        };
        frame::encode(&Message::Bind(Bind { subscription: 1, bindings: vec![binding] }))
    }

    fn lost(from: u64, through: u64) -> Vec<u8> {
        frame::encode(&Message::Notice(Notice {
            kind: NoticeKind::LOSS,
            subscription: 1,
            stream: STREAM,
            from,
            through,
            conflated: 0,
            gapped: through - from + 1,
            filtered: 0,
            reason: Reason::OUTBOX_FULL,
            reconnect_in_ms: 0,
        }))
    }

    /// Message `number` of the load, as a server sends it with `sequence`.
    fn trade(number: u64, sequence: u64) -> Vec<u8> {
        let template = Template::new(Kind::PublicTrade, "LOAD0000", 128).unwrap();
        let mut out = Vec::new();
        template.append(number, 1, &mut out);
        let mut frame = out.split_off(websocket::head(&out).unwrap().len);
        frame[12..16].copy_from_slice(&STREAM.to_le_bytes());
        frame[16..24].copy_from_slice(&sequence.to_le_bytes());
        frame
    }

    /// The account of a subscriber that reads `frames`, of the five messages that were published.
    fn account(frames: &[Vec<u8>]) -> (Account, Told) {
        let plan = plan();
        let mut ledger = Ledger::new(16, 1, false);
        for sequence in 1..=5 {
            assert_eq!(ledger.publish(0, sequence, 1, 0, 0), u64::from(sequence));
        }
        let (mut told, mut accounts, mut next) = (Told::default(), Accounts::new(&plan), [1]);
        let mut receive = Receive {
            plan: &plan,
            ledger: &mut ledger,
            told: &mut told,
            subscriber: 0,
            next: &mut next,
            format: 0,
            now: 1,
            alerts: None,
            accounts: Some(&mut accounts),
            heard: Heard::default(),
        };
        let mut bytes = Vec::new();
        websocket::server_message(websocket::BINARY, &frames.concat(), &mut bytes);
        let mark = Template::new(Kind::PublicTrade, "LOAD0000", 128).unwrap().mark();
        assert_eq!(walk::messages(&bytes, &Marks::of(mark), &mut 0, &mut receive), Ok(bytes.len()));
        (accounts.settle(&[5, 0]), told)
    }

    #[test]
    fn frames_and_a_notice_make_a_whole_account() {
        let (account, told) = account(&[bind(), trade(1, 1), lost(2, 4), trade(5, 5)]);
        assert!(account.is_whole(), "{account:?}");
        assert_eq!((account.received, account.gapped, told.gaps), (2, 3, 3));
    }

    #[test]
    fn frames_that_lie_about_their_sequence_are_caught() {
        let honest: Vec<Vec<u8>> = (1..=5).map(|at| trade(at, at)).collect();
        let whole = |frames: &[Vec<u8>]| account(&[&[bind()], frames].concat()).0;
        assert!(whole(&honest).is_whole());
        for (what, sequences) in
            [("a hole", [1, 2, 3, 4, 6]), ("a repeat", [1, 2, 2, 4, 5]), ("a reorder", [1, 3, 2, 4, 5])]
        {
            // By the numbers of the load they all came, in order.
            let frames: Vec<Vec<u8>> =
                (1..=5).zip(sequences).map(|(at, sequence)| trade(at, sequence)).collect();
            let account = whole(&frames);
            assert!(account.unaccounted + account.misordered > 0, "{what}: {account:?}");
        }
        let (unbound, _) = account(&honest);
        assert_eq!((unbound.misordered, unbound.unaccounted), (5, 5));
    }

    #[test]
    fn a_notice_that_leaves_one_out_is_caught() {
        let (account, told) = account(&[bind(), trade(1, 1), lost(2, 3), trade(5, 5)]);
        assert_eq!((account.unaccounted, account.misordered, told.gaps), (1, 0, 2));
    }
}
