//! What was published in one turn, framed for sockets, one message behind the other.
#![forbid(unsafe_code)]

use std::ops::Range;

use tickcast_protocol::frame::websocket_head;

use crate::websocket;

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its topic.
    pub(super) topic: u32,
    /// Itself, as a range of items.
    pub(super) range: Range<usize>,
    binary_end: usize,
    json_end: usize,
}

/// The messages of a turn.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    binary: Vec<u8>,
    json: Vec<u8>,
    json_template: Vec<u8>,
    json_number: Range<usize>,
}

/// Room for the digits of a number.
const DIGITS: usize = 20;

impl Batch {
    /// A batch whose JSON messages have `json_bytes` bytes each, head included, or as few as they can.
    pub(super) fn new(json_bytes: usize) -> Self {
        let before = br#"{"message_type":"market_data","version":"1.0","timestamp":"2026-01-01T00:00:00.000Z","data":{"instrument_id":1,"symbol":"LOAD0001","price":67012.50,"volume":"#;
        let after = br#","pad":""#;
        let end = br#""}}"#;
        let least = before.len() + DIGITS + after.len() + end.len();
        let text = json_bytes.saturating_sub(if json_bytes > 129 { 4 } else { 2 }).max(least);
        let mut json_template = before.to_vec();
        json_template.resize(before.len() + DIGITS, b' ');
        json_template.extend_from_slice(after);
        json_template.resize(text - end.len(), b'x');
        json_template.extend_from_slice(end);
        let mut framed = Vec::new();
        websocket::server_message(websocket::TEXT, &json_template, &mut framed);
        let head = framed.len() - json_template.len();
        let number = head + before.len()..head + before.len() + DIGITS;
        Self { json_template: framed, json_number: number, ..Self::default() }
    }

    /// Appends a message: its frame, and its number when JSON is wanted.
    pub(super) fn push(&mut self, topic: u32, frame: &[u8], number: Option<u64>) {
        let (head, len) = websocket_head(websocket::BINARY, frame.len());
        self.binary.extend_from_slice(&head[..len]);
        self.binary.extend_from_slice(frame);
        if let Some(mut number) = number {
            let start = self.json.len();
            self.json.extend_from_slice(&self.json_template);
            let digits = &mut self.json[start..][self.json_number.clone()];
            for digit in digits.iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
                if number == 0 {
                    break;
                }
            }
        }
        let at = self.items.len();
        let (binary_end, json_end) = (self.binary.len(), self.json.len());
        self.items.push(Item { topic, range: at..at + 1, binary_end, json_end });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The topic of all of them, when there is but one.
    pub(super) fn only_topic(&self) -> Option<u32> {
        let topic = self.items.first()?.topic;
        self.items.iter().all(|item| item.topic == topic).then_some(topic)
    }

    /// The bytes of items `range` in one of the two forms.
    pub(super) fn bytes(&self, as_json: bool, range: Range<usize>) -> &[u8] {
        let end = |item: &Item| if as_json { item.json_end } else { item.binary_end };
        let start = range.start.checked_sub(1).map_or(0, |before| end(&self.items[before]));
        let all = if as_json { &self.json } else { &self.binary };
        &all[start..range.end.checked_sub(1).map_or(0, |last| end(&self.items[last]))]
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.binary.clear();
        self.json.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_messages_have_the_size_asked_for_and_are_json() {
        for size in [300, 1_024] {
            let mut batch = Batch::new(size);
            batch.push(0, b"frame", Some(40));
            batch.push(0, b"other", Some(12_345));
            assert_eq!(batch.bytes(true, 0..2).len(), 2 * size);
            let text = &batch.bytes(true, 1..2)[4..];
            let value: serde_json::Value = serde_json::from_slice(text).unwrap();
            assert_eq!(value["data"]["volume"], 12_345);
        }
    }

    #[test]
    fn a_range_has_the_bytes_of_its_messages() {
        let mut batch = Batch::new(0);
        batch.push(3, b"one", None);
        batch.push(3, b"three", None);
        assert_eq!(batch.bytes(false, 0..1), b"\x82\x03one");
        assert_eq!(batch.bytes(false, 1..2), b"\x82\x05three");
        assert_eq!(batch.only_topic(), Some(3));
        batch.push(4, b"four", None);
        assert_eq!(batch.only_topic(), None);
    }
}
