//! One connection of the bare server: the handshake, and the few words it understands.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};
use serde_json::{Value, json};
use tickcast_protocol::Frame;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{self, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{
    Acknowledge, Bind, Binding, ClassName, Message, Pong, SubscriptionStatus, Welcome,
};

use super::{Ceiling, Counts, PENDING_BYTES_MAX};
use crate::template::{Kind, Mark, Template};
use crate::walk::FIRST_DATA_TYPE;
use crate::websocket;

/// A connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// An incomplete request or message.
    pub(super) rest: Vec<u8>,
    /// What waits for the socket, from `out_at`.
    pub(super) out: Vec<u8>,
    pub(super) out_at: usize,
    /// Messages that were appended since the last send.
    pub(super) out_messages: u64,
    pub(super) topics: Vec<u32>,
    pub(super) is_json: bool,
    /// The socket was full; the kernel tells when it is not.
    pub(super) blocked: bool,
    is_open: bool,
}

impl Peer {
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            rest: Vec::new(),
            out: Vec::new(),
            out_at: 0,
            out_messages: 0,
            topics: Vec::new(),
            is_json: false,
            blocked: false,
            is_open: false,
        }
    }

    /// Keeps whole messages for a full socket, or drops them.
    pub(super) fn keep(&mut self, bytes: &[u8], messages: u64, counts: &mut Counts) {
        if self.out.len() - self.out_at + bytes.len() > PENDING_BYTES_MAX {
            counts.dropped += messages;
            return;
        }
        // The sent part is given back before the buffer would grow past its bound.
        if self.out.len() + bytes.len() > PENDING_BYTES_MAX {
            self.out.drain(..std::mem::take(&mut self.out_at));
        }
        self.out.extend_from_slice(bytes);
        self.out_messages += messages;
    }
}

impl Ceiling {
    /// Handles the whole requests or messages at the start of `bytes`; `None` ends the connection.
    pub(super) fn handle(&mut self, number: u32, bytes: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        if !self.peers[number as usize].as_ref()?.is_open {
            let end = match websocket::http_end(bytes) {
                Some(end) => end,
                None if bytes.len() > websocket::HTTP_BYTES_MAX => return None,
                None => return Some(0),
            };
            self.upgrade(number, std::str::from_utf8(&bytes[..end]).ok()?)?;
            at = end;
        }
        while let Some(head) = websocket::head(&bytes[at..]) {
            let range = at + head.len..at + head.len + head.payload;
            let Some(payload) = bytes.get_mut(range.clone()) else { break };
            websocket::unmask(payload, head.mask?);
            match head.opcode {
                websocket::BINARY => self.frames(number, &mut bytes[range.clone()])?,
                websocket::TEXT => self.text(number, &bytes[range.clone()])?,
                websocket::CLOSE => return None,
                _ => {}
            }
            at = range.end;
        }
        Some(at)
    }

    fn upgrade(&mut self, number: u32, request: &str) -> Option<()> {
        let peer = self.peers[number as usize].as_mut()?;
        let mut answer = Vec::with_capacity(256);
        let Some(key) = websocket::header(request, "sec-websocket-key") else {
            if request.starts_with("GET /stats ") {
                let body = serde_json::to_string(&self.counts).ok()?;
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = send(&peer.socket, (head + &body).as_bytes(), SendFlags::NOSIGNAL);
            }
            return None;
        };
        let subprotocol = websocket::header(request, "sec-websocket-protocol");
        let chosen = subprotocol.and_then(|offers| offers.split(',').next()).map(str::trim);
        peer.is_json = chosen != Some(frame::SUBPROTOCOL);
        peer.is_open = true;
        websocket::response(key, chosen, &mut answer);
        self.counts.upgrades += 1;
        say(peer, &answer)
    }

    fn frames(&mut self, number: u32, mut bytes: &mut [u8]) -> Option<()> {
        while !bytes.is_empty() {
            let (first, rest) = Frame::split_first(bytes, PAYLOAD_BYTES_MAX).ok()?;
            let len = bytes.len() - rest.len();
            if first.header.type_id >= FIRST_DATA_TYPE {
                self.publish(&mut bytes[..len])?;
            } else {
                let message = first.view().ok()?.to_owned();
                self.control(number, message)?;
            }
            bytes = &mut bytes[len..];
        }
        Some(())
    }

    /// Stamps a frame and adds it to the turn's batch.
    fn publish(&mut self, frame: &mut [u8]) -> Option<()> {
        let (first, _) = Frame::split_first(frame, PAYLOAD_BYTES_MAX).ok()?;
        let view = first.view().ok()?;
        view.write_key(&mut self.key).ok()?;
        self.name.clear();
        self.name.push_str(view.info().name);
        self.name.push('.');
        self.name.push_str(&self.key);
        let type_id = first.header.type_id;
        let number = match self.by_name.get(self.name.as_str()) {
            Some(topic) => *topic,
            None => {
                let name = self.name.clone();
                self.intern(&name)
            }
        };
        let topic = &mut self.topics[number as usize];
        topic.sequence += 1;
        frame[12..16].copy_from_slice(&(number + 1).to_le_bytes());
        frame[16..24].copy_from_slice(&topic.sequence.to_le_bytes());
        frame[24..32].copy_from_slice(&self.clock.unix(self.turn_began).to_le_bytes());
        let for_json = (topic.json_subscribers > 0).then_some(&self.marks);
        let mark = for_json.and_then(|marks| marks.iter().find(|mark| mark.type_id == type_id));
        self.batch.push(number, frame, mark.and_then(|mark| mark.number(frame)));
        self.counts.published += 1;
        Some(())
    }

    fn control(&mut self, number: u32, message: Message) -> Option<()> {
        let answer = match message {
            Message::Hello(_) => Message::Welcome(Welcome {
                boot_id: 1,
                epoch: 1,
                connection: u64::from(number),
                server: format!("{}/{}", self.options.mode.target(), env!("CARGO_PKG_VERSION")),
                heartbeat_ms: u32::MAX,
                frame_bytes_max: 64 * 1024,
                subscriptions_max: u32::MAX,
                server_time: Timestamp(self.clock.unix(self.clock.now()) as i64),
                codecs: 0,
            }),
            Message::Ping(ping) => Message::Pong(Pong {
                client_time: ping.client_time,
                server_time: ping.client_time,
                sequence: ping.sequence,
            }),
            Message::Subscribe(subscribe) => {
                return self.subscribe(number, subscribe.request, &subscribe.filter);
            }
            _ => return Some(()),
        };
        let peer = self.peers[number as usize].as_mut()?;
        let mut out = Vec::new();
        websocket::server_message(websocket::BINARY, &frame::encode(&answer), &mut out);
        say(peer, &out)
    }

    fn subscribe(&mut self, number: u32, request: u64, name: &str) -> Option<()> {
        let topic = self.intern(name);
        self.follow(number, topic)?;
        let acknowledge = Message::Acknowledge(Acknowledge {
            request,
            subscription: topic,
            status: SubscriptionStatus::SUBSCRIBED,
            epoch: 1,
            streams: 1,
        });
        let bind = Message::Bind(Bind {
            subscription: topic,
            bindings: vec![Binding {
                stream: topic + 1,
                topic: name.to_owned(),
                class: ClassName::ORDERED,
                next_sequence: self.topics[topic as usize].sequence + 1,
            }],
        });
        let mut frames = frame::encode(&acknowledge);
        frame::append(&bind, &mut frames);
        let mut out = Vec::new();
        websocket::server_message(websocket::BINARY, &frames, &mut out);
        say(self.peers[number as usize].as_mut()?, &out)
    }

    fn follow(&mut self, number: u32, topic: u32) -> Option<()> {
        let peer = self.peers[number as usize].as_mut()?;
        if !peer.topics.contains(&topic) {
            peer.topics.push(topic);
            let topic = &mut self.topics[topic as usize];
            topic.subscribers.push(number);
            topic.json_subscribers += usize::from(peer.is_json);
        }
        Some(())
    }

    /// A dashboard's subscription, in either spelling.
    fn text(&mut self, number: u32, text: &[u8]) -> Option<()> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let data = &value["data"];
        let either =
            |snake: &str, camel: &str| data[snake].as_str().or(data[camel].as_str()).map(str::to_owned);
        let Some(wanted) = either("subscription_type", "subscriptionType") else { return Some(()) };
        let symbol = data["symbol"].as_str()?.to_owned();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.d1_name() == wanted) {
            let topic = self.intern(&format!("{}.{symbol}", kind.name()));
            self.follow(number, topic)?;
        }
        let answer = json!({"message_type": "subscription_ack", "version": "1.0", "timestamp": "",
            "data": {"subscription_type": wanted, "status": "subscribed"}});
        let mut out = Vec::new();
        websocket::server_message(websocket::TEXT, answer.to_string().as_bytes(), &mut out);
        say(self.peers[number as usize].as_mut()?, &out)
    }
}

/// Where the numbers of each kind of message are.
pub(super) fn marks() -> Vec<Mark> {
    Kind::ALL.iter().filter_map(|kind| Some(Template::new(*kind, "LOAD0000", 1_024).ok()?.mark())).collect()
}

/// Sends an answer at once; `None`, which ends the connection, when the socket has no room for so little.
fn say(peer: &mut Peer, bytes: &[u8]) -> Option<()> {
    if !peer.out.is_empty() {
        peer.out.extend_from_slice(bytes);
        return Some(());
    }
    (send(&peer.socket, bytes, SendFlags::NOSIGNAL) == Ok(bytes.len())).then_some(())
}
