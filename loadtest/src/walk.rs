//! Takes apart what a subscriber read, in place: WebSocket messages, the frames in them, the number of each.
//!
//! Nothing is decoded that is not asked for, nothing is copied, nothing allocates. What is not data (answers,
//! notices, pings) goes to [`Sink::control`] as it stands.
#![forbid(unsafe_code)]

use tickcast_protocol::frame::{HEADER_LEN, MAGIC};

use crate::template::Mark;
use crate::websocket;

/// Types below are control messages.
pub const FIRST_DATA_TYPE: u16 = 100;

/// What a walk finds.
pub trait Sink {
    /// A data frame, by its header: before [`Sink::data`] or [`Sink::alert`], and for types that are neither.
    fn header(&mut self, header: &[u8; HEADER_LEN]);
    /// A message of the load, by its number.
    fn data(&mut self, number: u64);
    /// An alert beside the load, by its number.
    fn alert(&mut self, number: u64);
    /// Anything else: the opcode of its WebSocket frame and one Tickcast frame, text or payload.
    fn control(&mut self, opcode: u8, bytes: &[u8]);
}

/// What a walk looks for.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// Where the number of a message is.
    pub message: Mark,
    /// The same for an alert, where there are any.
    pub alert: Option<Mark>,
}

impl Marks {
    /// For a load without alerts.
    #[must_use]
    pub const fn of(message: Mark) -> Self {
        Self { message, alert: None }
    }
}

/// Bytes that no server of ours sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub &'static str);

/// Walks the whole messages at the start of `bytes` and returns how many bytes they are.
///
/// `hint` remembers for a connection where the number stood in its last JSON message.
///
/// # Errors
/// What cannot be read.
#[inline]
pub fn messages(bytes: &[u8], marks: &Marks, hint: &mut u32, sink: &mut impl Sink) -> Result<usize, Fault> {
    let mut at = 0;
    while let Some(head) = websocket::head(&bytes[at..]) {
        let Some(payload) = bytes.get(at + head.len..at + head.len + head.payload) else { break };
        if !head.fin || head.mask.is_some() {
            return Err(Fault("a masked or fragmented WebSocket frame from a server"));
        }
        match head.opcode {
            websocket::BINARY => frames(payload, marks, sink)?,
            websocket::TEXT => match json_number(payload, marks.message.json, hint) {
                Some(number) => sink.data(number),
                None => sink.control(websocket::TEXT, payload),
            },
            opcode => sink.control(opcode, payload),
        }
        at += head.len + head.payload;
    }
    Ok(at)
}

#[inline]
fn frames(mut rest: &[u8], marks: &Marks, sink: &mut impl Sink) -> Result<(), Fault> {
    while !rest.is_empty() {
        let Some(header) = rest.first_chunk::<HEADER_LEN>() else {
            return Err(Fault("a frame shorter than its header"));
        };
        if u16::from_le_bytes([header[0], header[1]]) != MAGIC {
            return Err(Fault("a frame without its magic number"));
        }
        let payload = u32::from_le_bytes([header[32], header[33], header[34], header[35]]) as usize;
        let len = usize::from(header[3]) * 8 + payload;
        let Some((frame, after)) = rest.split_at_checked(len) else {
            return Err(Fault("a frame longer than its WebSocket message"));
        };
        let type_id = u16::from_le_bytes([header[4], header[5]]);
        let short = Fault("a data frame shorter than was published");
        if type_id < FIRST_DATA_TYPE {
            sink.control(websocket::BINARY, frame);
        } else {
            sink.header(header);
            if type_id == marks.message.type_id {
                sink.data(marks.message.number(frame).ok_or(short)?);
            } else if let Some(alert) = marks.alert.filter(|alert| alert.type_id == type_id) {
                sink.alert(alert.number(frame).ok_or(short)?);
            }
        }
        rest = after;
    }
    Ok(())
}

/// The whole number behind `marker`.
#[inline]
fn json_number(text: &[u8], marker: &[u8], hint: &mut u32) -> Option<u64> {
    let stands_at = |at: usize| text.get(at..).is_some_and(|rest| rest.starts_with(marker));
    if !stands_at(*hint as usize) {
        *hint = text.windows(marker.len()).position(|window| window == marker)? as u32;
    }
    let mut number = 0_u64;
    let mut digits = 0;
    for &byte in &text[*hint as usize + marker.len()..] {
        match byte {
            b' ' if digits == 0 => {}
            b'0'..=b'9' => {
                number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                digits += 1;
            }
            _ => break,
        }
    }
    (digits > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{Kind, Template};
    use tickcast_protocol::frame;
    use tickcast_protocol::message::{Message, Ping};

    #[derive(Default)]
    struct Seen {
        numbers: Vec<u64>,
        alerts: Vec<u64>,
        headers: usize,
        control: Vec<u8>,
    }

    impl Sink for Seen {
        fn header(&mut self, _: &[u8; HEADER_LEN]) {
            self.headers += 1;
        }
        fn data(&mut self, number: u64) {
            self.numbers.push(number);
        }
        fn alert(&mut self, number: u64) {
            self.alerts.push(number);
        }
        fn control(&mut self, opcode: u8, _: &[u8]) {
            self.control.push(opcode);
        }
    }

    fn frame_of(template: &Template, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        template.append(number, 1, &mut out);
        out.split_off(websocket::head(&out).unwrap().len)
    }

    #[test]
    fn several_frames_in_a_message_and_several_messages_in_a_read_are_all_found() {
        let template = Template::new(Kind::PublicTrade, "LOAD0001", 128).unwrap();
        let ping = frame::encode(&Message::Ping(Ping {
            client_time: tickcast_protocol::field::Timestamp(1),
            sequence: 1,
        }));
        let mut bytes = Vec::new();
        let both = [frame_of(&template, 7), ping, frame_of(&template, 8)].concat();
        websocket::server_message(websocket::BINARY, &both, &mut bytes);
        websocket::server_message(websocket::PING, b"", &mut bytes);
        websocket::server_message(websocket::BINARY, &frame_of(&template, 9), &mut bytes);
        for cut in 0..=bytes.len() {
            let mut seen = Seen::default();
            let used = messages(&bytes[..cut], &Marks::of(template.mark()), &mut 0, &mut seen).unwrap();
            messages(&bytes[used..], &Marks::of(template.mark()), &mut 0, &mut seen).unwrap();
            assert_eq!(seen.numbers, [7, 8, 9], "cut at {cut}");
            assert_eq!(seen.control, [websocket::BINARY, websocket::PING]);
        }
    }

    #[test]
    fn alerts_are_told_apart_and_every_data_frame_shows_its_header() {
        let of = |kind| Template::new(kind, "LOAD0001", 256).unwrap();
        let (trade, alert, other) = (of(Kind::PublicTrade), of(Kind::RiskAlert), of(Kind::MarketData));
        let frames = [frame_of(&trade, 7), frame_of(&alert, 1), frame_of(&other, 3), frame_of(&trade, 8)];
        let mut bytes = Vec::new();
        websocket::server_message(websocket::BINARY, &frames.concat(), &mut bytes);
        for (marks, alerts) in [
            (Marks::of(trade.mark()), vec![]),
            (Marks { message: trade.mark(), alert: Some(alert.mark()) }, vec![1]),
        ] {
            let mut seen = Seen::default();
            assert_eq!(messages(&bytes, &marks, &mut 0, &mut seen), Ok(bytes.len()));
            assert_eq!((seen.numbers, seen.alerts, seen.headers), (vec![7, 8], alerts, 4));
        }
    }

    #[test]
    fn the_number_in_json_is_found_wherever_it_moved() {
        let template = Template::new(Kind::PublicTrade, "LOAD0001", 128).unwrap();
        let mut hint = 0;
        for (text, number) in [
            (r#"{"data":{"symbol":"A","volume":12,"x":1}}"#, Some(12)),
            (r#"{"data":{"symbol":"A","volume":345,"x":1}}"#, Some(345)),
            (r#"{"data":{"symbol":"LONGER","volume":   6}}"#, Some(6)),
            (r#"{"data":{"subscription":"market_data"}}"#, None),
        ] {
            assert_eq!(json_number(text.as_bytes(), template.mark().json, &mut hint), number, "{text}");
        }
    }

    #[test]
    fn bytes_of_no_server_are_a_fault_and_no_panic() {
        let template = Template::new(Kind::PublicTrade, "LOAD0001", 128).unwrap();
        let mut good = Vec::new();
        websocket::server_message(websocket::BINARY, &frame_of(&template, 7), &mut good);
        for at in 0..good.len() {
            for flip in [0x01, 0x40, 0x80, 0xFF] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let _ = messages(&bad, &Marks::of(template.mark()), &mut 0, &mut Seen::default());
            }
        }
        good[4] ^= 1;
        assert!(messages(&good, &Marks::of(template.mark()), &mut 0, &mut Seen::default()).is_err());
    }
}
