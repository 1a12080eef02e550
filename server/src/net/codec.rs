//! The only caller of compat on the way out: events and notices in each JSON dialect, made once an event
//! and shared by every socket that speaks it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::OpCode;
use tickcast_compat::Stamp;
use tickcast_compat::d1::{self, Case};
use tickcast_engine::event::binary_message;
use tickcast_engine::{Event, Format, Render};
use tickcast_protocol::frame::websocket_head;
use tickcast_protocol::{Message, Topic};

use super::websocket;
use crate::clock::Clock;
use crate::instruments::Directory;

/// Renders for the engine.
pub struct Codec {
    directory: Arc<Directory>,
    clock: Clock,
}

impl Codec {
    /// A codec that numbers instruments by `directory` and dates notices by `clock`.
    #[must_use]
    pub fn new(directory: Arc<Directory>, clock: Clock) -> Self {
        Self { directory, clock }
    }
}

fn case_of(format: Format) -> Case {
    if format == Format::D1Camel { Case::Camel } else { Case::Snake }
}

/// The longest head, left free in front of a rendering so that the message need not be copied twice.
const HEAD_ROOM: usize = 10;

impl Render for Codec {
    fn event(&self, event: &Event, format: Format) -> Option<Bytes> {
        let stamp = Stamp {
            topic: event.topic().as_str(),
            sequence: event.sequence().0,
            publish_time: event.publish_time(),
            class: event.class(),
        };
        let mut out = Vec::with_capacity(512);
        out.resize(HEAD_ROOM, 0);
        if !d1::event(&stamp, event.view(), &*self.directory, case_of(format), &mut out) {
            return None;
        }
        let (head, head_len) = websocket_head(OpCode::Text as u8, out.len() - HEAD_ROOM);
        let start = HEAD_ROOM - head_len;
        out[start..HEAD_ROOM].copy_from_slice(&head[..head_len]);
        Some(Bytes::from(out).slice(start..))
    }

    fn control(&self, message: &Message, topic: Option<&Topic>, format: Format) -> Option<Bytes> {
        control(message, topic, format, self.clock.now())
    }
}

/// What one subscriber is told, in its format; `None` when the format has no word for it.
#[must_use]
pub fn control(message: &Message, topic: Option<&Topic>, format: Format, now: u64) -> Option<Bytes> {
    if format.is_binary() {
        return Some(binary_message(message));
    }
    let (topic, case) = (topic.map_or("", Topic::as_str), case_of(format));
    let text = match message {
        Message::Notice(notice) => d1::notice(notice, topic, case, now as i64)?,
        Message::History(history) => d1::history(history, topic, case, now as i64),
        // One at a time: each is about a topic.
        Message::StreamStates(told) => d1::stream_state(told.states.first()?, topic, case, now as i64)?,
        _ => return None,
    };
    Some(websocket::message(OpCode::Text, &text))
}
