//! Inbound WebSocket frames, sans-io: every rule of RFC 6455 that a server must check, from the first
//! bytes of a frame and before anything is allocated for it.
//!
//! fastwebsockets brings the types, the unmasking and the close codes; the header check is ours because
//! its reader is not cancel-safe, holds 8 KiB a connection and leaves several checks to the caller
//! (`adr/0003-socket-shape.md`).
#![forbid(unsafe_code)]

use bytes::Bytes;
use fastwebsockets::{CloseCode as WsCloseCode, Frame, OpCode, Payload};
use tickcast_protocol::{CloseCode, frame};

/// Bytes of the longest head of a masked frame.
const HEAD_MAX: usize = 14;
/// Longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// A whole message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A text message, valid UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong, with the payload of the ping that it answers, if it answers one.
    Pong(&'a [u8]),
    /// The peer closes; its code, if it gave one.
    Close(Option<u16>),
}

/// Why a connection ends: a code for the peer, a reason for the log, and the limit hit if one was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// What the peer is told.
    pub code: CloseCode,
    /// In words.
    pub text: &'static str,
    /// The key of the settings whose limit was hit.
    pub limit: Option<&'static str>,
}

impl CloseReason {
    /// A reason without a limit.
    #[must_use]
    pub const fn new(code: CloseCode, text: &'static str) -> Self {
        Self { code, text, limit: None }
    }

    /// A limit that was hit.
    #[must_use]
    pub const fn limit(code: CloseCode, text: &'static str, limit: &'static str) -> Self {
        Self { code, text, limit: Some(limit) }
    }

    const fn protocol(text: &'static str) -> Self {
        Self::new(CloseCode::ProtocolError, text)
    }

    /// The close frame: code, its name and the reason, at most 123 bytes of text.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        let mut text = format!("{}: {}", self.code.name(), self.text);
        while text.len() > CONTROL_BYTES_MAX - 2 {
            text.pop();
        }
        let mut payload = self.code.number().to_be_bytes().to_vec();
        payload.extend_from_slice(text.as_bytes());
        message(OpCode::Close, &payload)
    }
}

/// A whole unmasked WebSocket message.
#[must_use]
pub fn message(opcode: OpCode, payload: &[u8]) -> Bytes {
    let (head, head_len) = frame::websocket_head(opcode as u8, payload.len());
    let mut bytes = Vec::with_capacity(head_len + payload.len());
    bytes.extend_from_slice(&head[..head_len]);
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// What has been received of the message in progress. Holds nothing between messages.
#[derive(Debug)]
pub struct Inbound {
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    /// A message whose last fragment has not come.
    fragmented: Option<Box<Fragmented>>,
    bytes_max: usize,
    bytes_key: &'static str,
    fragments_max: usize,
}

/// The fragments so far. Boxed, because most connections never send one.
#[derive(Debug)]
struct Fragmented {
    /// Opcode of the first.
    opcode: OpCode,
    /// Their payload, unmasked.
    message: Vec<u8>,
    /// How many, empty ones included.
    count: usize,
    /// How much of `message` is known to be UTF-8.
    text_checked: usize,
}

/// One frame's head.
struct Head {
    fin: bool,
    opcode: OpCode,
    mask: [u8; 4],
    start: usize,
    end: usize,
}

impl Inbound {
    /// Accepts messages of at most `bytes_max` bytes, a limit set by the key `bytes_key`.
    #[must_use]
    pub fn new(bytes_max: usize, bytes_key: &'static str, fragments_max: usize) -> Self {
        Self { partial: Vec::new(), fragmented: None, bytes_max, bytes_key, fragments_max }
    }

    /// Changes the limit, for the messages after this one.
    pub fn set_bytes_max(&mut self, bytes_max: usize, bytes_key: &'static str) {
        self.bytes_max = bytes_max;
        self.bytes_key = bytes_key;
    }

    /// True while a message has begun and not ended.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        !self.partial.is_empty() || self.fragmented.is_some()
    }

    /// Takes bytes as they came from the socket and hands on every whole message among them. `handle`
    /// sees them in order; an `Err` from it, or a broken rule, ends the connection.
    ///
    /// # Errors
    /// Why the connection must end.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        mut handle: impl FnMut(&mut Self, Received<'_>) -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        if self.partial.is_empty() {
            let used = self.consume(input, &mut handle)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(input);
        let used = self.consume(&mut joined, &mut handle)?;
        joined.drain(..used);
        // A buffer that is empty again is given back: idle connections hold nothing.
        if !joined.is_empty() {
            self.partial = joined;
        }
        Ok(())
    }

    fn consume(
        &mut self,
        bytes: &mut [u8],
        handle: &mut impl FnMut(&mut Self, Received<'_>) -> Result<(), CloseReason>,
    ) -> Result<usize, CloseReason> {
        let mut used = 0;
        while let Some(head) = self.head(&bytes[used..])? {
            let Head { fin, opcode, mask, start, end } = head;
            if bytes.len() - used < end {
                break;
            }
            let payload = &mut bytes[used + start..used + end];
            let mut ws_frame = Frame::new(fin, opcode, Some(mask), Payload::BorrowedMut(payload));
            ws_frame.unmask();
            let Payload::BorrowedMut(payload) = ws_frame.payload else { unreachable!("made so above") };
            used += end;
            self.frame(fin, opcode, payload, handle)?;
        }
        Ok(used)
    }

    /// Checks a frame's head; `None` when there is not yet enough of it.
    fn head(&self, bytes: &[u8]) -> Result<Option<Head>, CloseReason> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(CloseReason::protocol("a reserved bit is set"));
        }
        let fin = first & 0x80 != 0;
        let opcode =
            OpCode::try_from(first & 0x0F).map_err(|_| CloseReason::protocol("an unknown opcode"))?;
        if second & 0x80 == 0 {
            return Err(CloseReason::protocol("a frame from a client must be masked"));
        }
        let (length, length_bytes) = match second & 0x7F {
            126 if rest.len() >= 2 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 if rest.len() >= 8 => (u64::from_be_bytes(rest[..8].try_into().expect("eight bytes")), 8),
            126 | 127 => return Ok(None),
            short => (u64::from(short), 0),
        };
        if fastwebsockets_is_control(opcode) {
            if !fin || length > CONTROL_BYTES_MAX as u64 {
                return Err(CloseReason::protocol("a control frame is whole and at most 125 bytes"));
            }
        } else {
            let so_far = self.fragmented.as_deref();
            if (opcode == OpCode::Continuation) != so_far.is_some() {
                return Err(CloseReason::protocol("fragments of two messages are mixed"));
            }
            if length > (self.bytes_max - so_far.map_or(0, |so_far| so_far.message.len())) as u64 {
                return Err(CloseReason::limit(
                    CloseCode::MessageTooBig,
                    "a message larger than this connection may send",
                    self.bytes_key,
                ));
            }
            if so_far.map_or(0, |so_far| so_far.count) >= self.fragments_max {
                return Err(CloseReason::limit(
                    CloseCode::PolicyViolation,
                    "a message in too many fragments",
                    "limits.fragments",
                ));
            }
        }
        let mask_at = 2 + length_bytes;
        let start = mask_at + 4;
        debug_assert!(start <= HEAD_MAX);
        let Some(mask) = bytes.get(mask_at..start) else { return Ok(None) };
        let mask = mask.try_into().expect("four bytes");
        Ok(Some(Head { fin, opcode, mask, start, end: start + length as usize }))
    }

    fn frame(
        &mut self,
        fin: bool,
        opcode: OpCode,
        payload: &[u8],
        handle: &mut impl FnMut(&mut Self, Received<'_>) -> Result<(), CloseReason>,
    ) -> Result<(), CloseReason> {
        match opcode {
            OpCode::Ping => return handle(self, Received::Ping(payload)),
            OpCode::Pong => return handle(self, Received::Pong(payload)),
            OpCode::Close => {
                let code = close_code(payload)?;
                return handle(self, Received::Close(code));
            }
            OpCode::Text | OpCode::Binary if fin => {
                // The usual case: a whole message in one frame, handed on in place.
                return if opcode == OpCode::Text {
                    let text = std::str::from_utf8(payload).map_err(|_| INVALID_TEXT)?;
                    handle(self, Received::Text(text))
                } else {
                    handle(self, Received::Binary(payload))
                };
            }
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {}
        }
        // The head was checked: only the first fragment finds none before it.
        let so_far = self.fragmented.get_or_insert_with(|| {
            Box::new(Fragmented { opcode, message: Vec::new(), count: 0, text_checked: 0 })
        });
        so_far.count += 1;
        so_far.message.extend_from_slice(payload);
        if so_far.opcode == OpCode::Text {
            so_far.check_text(fin)?;
        }
        if !fin {
            return Ok(());
        }
        let Some(whole) = self.fragmented.take() else { unreachable!("just used") };
        if whole.opcode == OpCode::Text {
            let text = std::str::from_utf8(&whole.message).map_err(|_| INVALID_TEXT)?;
            handle(self, Received::Text(text))
        } else {
            handle(self, Received::Binary(&whole.message))
        }
    }
}

impl Fragmented {
    /// Fails at the first bad byte, even in the middle of a fragmented message.
    fn check_text(&mut self, last: bool) -> Result<(), CloseReason> {
        match std::str::from_utf8(&self.message[self.text_checked..]) {
            Ok(_) => self.text_checked = self.message.len(),
            Err(error) if !last && error.error_len().is_none() => self.text_checked += error.valid_up_to(),
            Err(_) => return Err(INVALID_TEXT),
        }
        Ok(())
    }
}

const INVALID_TEXT: CloseReason = CloseReason::new(CloseCode::InvalidText, "text that is not UTF-8");

fn fastwebsockets_is_control(opcode: OpCode) -> bool {
    matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong)
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, CloseReason> {
    match payload {
        [] => Ok(None),
        [_] => Err(CloseReason::protocol("a close code has two bytes")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !WsCloseCode::from(code).is_allowed() {
                return Err(CloseReason::protocol("a close code that may not be sent"));
            }
            std::str::from_utf8(reason).map_err(|_| INVALID_TEXT)?;
            Ok(Some(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 300;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut bytes = vec![first];
        match payload.len() {
            0..=125 => bytes.push(0x80 | payload.len() as u8),
            length => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        bytes
    }

    fn inbound() -> Inbound {
        Inbound::new(LIMIT, "limits.inbound_bytes", 4)
    }

    /// Feeds `bytes` in pieces of `step` and returns what came out, or the close code.
    fn feed(bytes: &[u8], step: usize) -> Result<Vec<String>, u16> {
        let mut inbound = inbound();
        let mut out = Vec::new();
        for piece in bytes.to_vec().chunks_mut(step) {
            inbound
                .feed(piece, |_, received| {
                    out.push(format!("{received:?}"));
                    Ok(())
                })
                .map_err(|reason| reason.code.number())?;
        }
        assert!(!inbound.is_midway() || out.len() < 9, "bounded");
        Ok(out)
    }

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let mut bytes = masked(0x81, b"hello");
        bytes.extend(masked(0x02, b"ab"));
        bytes.extend(masked(0x89, b"ping"));
        bytes.extend(masked(0x80, b"cd"));
        bytes.extend(masked(0x82, &[7; 200]));
        bytes.extend(masked(0x88, &1000u16.to_be_bytes()));
        let whole = feed(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[0], "Text(\"hello\")");
        assert_eq!(whole[2], "Binary([97, 98, 99, 100])");
        assert_eq!(whole[4], "Close(Some(1000))");
        for step in 1..bytes.len() {
            assert_eq!(feed(&bytes, step).unwrap(), whole, "pieces of {step}");
        }
    }

    #[test]
    fn broken_rules_close_with_their_code() {
        let unmasked = vec![0x81, 0x01, b'a'];
        let huge = vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0];
        let mut mixed = masked(0x01, b"a");
        mixed.extend(masked(0x81, b"b"));
        let mut fragments = masked(0x02, b"");
        (0..4).for_each(|_| fragments.extend(masked(0x00, b"")));
        let mut total = masked(0x02, &[0; 200]);
        total.extend(masked(0x80, &[0; 101]));
        let mut split_text = masked(0x01, &[0xE2, 0x82]);
        split_text.extend(masked(0x00, &[0x41]));
        let cases: Vec<(&str, Vec<u8>, u16)> = vec![
            ("unmasked", unmasked, 1002),
            ("reserved bit", masked(0xC1, b"a"), 1002),
            ("reserved opcode", masked(0x83, b"a"), 1002),
            ("lone continuation", masked(0x80, b"a"), 1002),
            ("mixed fragments", mixed, 1002),
            ("fragmented ping", masked(0x09, b"a"), 1002),
            ("long ping", masked(0x89, &[0; 126]), 1002),
            ("long close", masked(0x88, &[0; 126]), 1002),
            ("one-byte close", masked(0x88, &[3]), 1002),
            ("close 1005", masked(0x88, &1005u16.to_be_bytes()), 1002),
            ("close 999", masked(0x88, &999u16.to_be_bytes()), 1002),
            ("close with bad text", masked(0x88, &[3, 232, 0xFF]), 1007),
            ("bad text", masked(0x81, &[0xFF]), 1007),
            ("bad text in a fragment", split_text, 1007),
            ("too large by its header alone", huge, 1009),
            ("too large", masked(0x82, &[0; LIMIT + 1]), 1009),
            ("too large in sum", total, 1009),
            ("too many empty fragments", fragments, 1008),
        ];
        for (name, bytes, code) in cases {
            for step in [1, 3, bytes.len()] {
                assert_eq!(feed(&bytes, step), Err(code), "{name} in pieces of {step}");
            }
        }
    }

    #[test]
    fn nothing_is_held_between_messages() {
        let mut inbound = inbound();
        let mut bytes = masked(0x82, &[1; 250]);
        let (first, second) = bytes.split_at_mut(100);
        inbound.feed(first, |_, _| Ok(())).unwrap();
        assert!(inbound.is_midway());
        inbound.feed(second, |_, _| Ok(())).unwrap();
        assert!(!inbound.is_midway());
        assert!(inbound.partial.capacity() == 0 && inbound.fragmented.is_none());
    }

    #[test]
    fn close_reasons_fit_a_control_frame() {
        let reason = CloseReason::new(
            CloseCode::PolicyViolation,
            "a very long reason that goes on and on and on and on and on and on and on and on and on and on and on and on and on",
        );
        let bytes = reason.frame();
        assert!(bytes.len() <= 127 && bytes[0] == 0x88 && usize::from(bytes[1]) == bytes.len() - 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..600), step in 1usize..50) {
            let _ = feed(&bytes, step);
        }
    }
}
