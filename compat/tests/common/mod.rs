//! What the tests share: a directory of two instruments, and messages made from native JSON.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use tickcast_compat::d1::{self, Case, Instruments, stable_id};
use tickcast_compat::native::{NativeMessage, Stamp, native_decode};
use tickcast_compat::{Limits, parse};
use tickcast_protocol::message::View;
use tickcast_protocol::{Message, frame};

/// 2026-09-21T14:13:20.000123456Z
pub(crate) const NOW: i64 = 1_790_000_000_000_123_456;

/// Knows BTCUSDT as 5 and EURUSD as 7.
pub(crate) struct Book;

impl Instruments for Book {
    fn id_of(&self, symbol: &str) -> u32 {
        match symbol {
            "BTCUSDT" => 5,
            "EURUSD" => 7,
            other => stable_id(other),
        }
    }
    fn symbol_of(&self, id: u64) -> Option<Arc<str>> {
        match id {
            5 => Some("BTCUSDT".into()),
            7 => Some("EURUSD".into()),
            _ => None,
        }
    }
}

/// The message that `data` of type `name` is.
pub(crate) fn native(name: &str, data: &str) -> NativeMessage {
    let text = format!(r#"{{"type":"{name}","data":{data}}}"#);
    native_decode(&parse(&text, &Limits::default()).unwrap(), NOW).unwrap()
}

/// Hands the message's view to `read`.
pub(crate) fn with_view<T>(message: &Message, read: impl FnOnce(View<'_>) -> T) -> T {
    let (payload, header) = frame::payload(message);
    let view = View::access(header.type_id, &payload, header.root_len).unwrap();
    view.check().unwrap();
    read(view)
}

/// The stamp of a first event at [`NOW`].
pub(crate) fn stamp<'a>(topic: &'a str, message: &Message) -> Stamp<'a> {
    Stamp { topic, sequence: 1, publish_time: NOW as u64, class: message.info().class }
}

/// The event as D1, or `None` when D1 cannot carry it.
pub(crate) fn d1_event(message: &Message, case: Case) -> Option<String> {
    let mut out = Vec::new();
    let carried = with_view(message, |view| d1::event(&stamp("", message), view, &Book, case, &mut out));
    assert_eq!(carried, !out.is_empty());
    carried.then(|| String::from_utf8(out).unwrap())
}

pub(crate) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
