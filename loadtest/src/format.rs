//! What a subscriber can speak: one row a format. A further dialect is one more row.
#![forbid(unsafe_code)]

use clap::ValueEnum;
use serde_json::json;
use tickcast_protocol::frame;
use tickcast_protocol::message::{Hello, Message, Policy, Role, Start, Subscribe};

use crate::template::Kind;
use crate::websocket;

/// A format of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Format {
    /// Frames, subprotocol tickcast.v2
    Binary,
    /// The first JSON dialect, names in snake case
    D1Snake,
    /// The first JSON dialect, names in camel case
    D1Camel,
}

/// How a format is reached.
#[derive(Debug, Clone, Copy)]
pub struct FormatInfo {
    /// In results and on the command line.
    pub name: &'static str,
    /// Path of the endpoint.
    pub path: &'static str,
    /// What is offered in the handshake.
    pub subprotocol: &'static str,
}

impl Format {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Binary, Self::D1Snake, Self::D1Camel];

    /// Its row.
    #[must_use]
    pub const fn info(self) -> FormatInfo {
        match self {
            Self::Binary => FormatInfo { name: "binary", path: "/ws", subprotocol: "tickcast.v2" },
            Self::D1Snake => {
                FormatInfo { name: "d1-snake", path: "/ws/realtime", subprotocol: "tickcast.v1.json.d1" }
            }
            Self::D1Camel => {
                FormatInfo { name: "d1-camel", path: "/ws/realtime", subprotocol: "tickcast.v1.json.d1" }
            }
        }
    }

    /// Whether its messages are JSON text.
    #[must_use]
    pub const fn is_json(self) -> bool {
        !matches!(self, Self::Binary)
    }

    /// What a subscriber says after the upgrade to get `topics`, each acknowledged once.
    pub fn greet<'a>(self, topics: impl Iterator<Item = (Kind, &'a str)>, out: &mut Vec<u8>) {
        match self {
            Self::Binary => {
                hello(Role::SUBSCRIBER, out);
                for (request, (kind, symbol)) in (1..).zip(topics) {
                    let subscribe = Message::Subscribe(Subscribe {
                        request,
                        filter: format!("{}.{symbol}", kind.name()),
                        start: Start::LIVE,
                        policy: Policy::DEFAULT,
                        predicate: String::new(),
                        max_hz: 0.0,
                    });
                    websocket::client_message(websocket::BINARY, &frame::encode(&subscribe), out);
                }
            }
            Self::D1Snake | Self::D1Camel => {
                for (request, (kind, symbol)) in (1..).zip(topics) {
                    let request_id = format!("load-{request}");
                    let text = if self == Self::D1Camel {
                        json!({"messageType": "subscribe", "version": "1.0", "data":
                            {"subscriptionType": kind.d1_name(), "symbol": symbol, "requestId": request_id}})
                    } else {
                        json!({"message_type": "subscribe", "version": "1.0", "data":
                            {"subscription_type": kind.d1_name(), "symbol": symbol, "request_id": request_id}})
                    };
                    websocket::client_message(websocket::TEXT, text.to_string().as_bytes(), out);
                }
            }
        }
    }
}

/// The first words of a binary peer.
pub fn hello(role: Role, out: &mut Vec<u8>) {
    let hello = Message::Hello(Hello {
        role,
        name: "loadtest".to_owned(),
        client: concat!("tickcast-loadtest/", env!("CARGO_PKG_VERSION")).to_owned(),
        // Frames as they were published: what is measured is their way.
        codecs: 0,
    });
    websocket::client_message(websocket::BINARY, &frame::encode(&hello), out);
}
