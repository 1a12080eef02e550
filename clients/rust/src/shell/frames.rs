//! WebSocket framing of a client, over a buffer: no socket, no await.
//!
//! The read side of fastwebsockets loses bytes when its future is dropped, and a client that waits for its
//! user, its clock and its socket at once drops futures all the time. So reading here is a plain buffered
//! read, which keeps what it has read, and this parser over the buffer; server frames are not masked, so a
//! message leaves it without a copy. Writing uses fastwebsockets' frames and their masks.

use bytes::{Buf, Bytes, BytesMut};
use fastwebsockets::{Frame, Payload};
use tickcast_protocol::CloseCode;

use crate::core::Close;

/// Longest payload of a ping, pong or close.
const CONTROL_BYTES_MAX: usize = 125;
/// Close code that stands for "none was sent"; never on the wire.
const NO_CODE: u16 = 1005;

/// What a server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A whole binary message.
    Message(Bytes),
    /// To be answered with the same bytes.
    Ping(Bytes),
    Pong,
    Close(Close),
}

/// Bytes read, and the start of a message whose fragments are still coming.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) buffer: BytesMut,
    fragments: Option<BytesMut>,
    message_bytes_max: usize,
}

impl Inbound {
    pub(crate) fn new(buffer: BytesMut, message_bytes_max: usize) -> Self {
        Self { buffer, fragments: None, message_bytes_max }
    }

    /// The next whole thing in the buffer.
    ///
    /// # Errors
    /// The close to answer with; the connection is of no more use.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Close> {
        loop {
            let Some((head, head_len, payload_len)) = self.head()? else { return Ok(None) };
            if self.buffer.len() < head_len + payload_len {
                self.buffer.reserve(head_len + payload_len - self.buffer.len());
                return Ok(None);
            }
            self.buffer.advance(head_len);
            let payload = self.buffer.split_to(payload_len);
            let (last, opcode) = (head & 0x80 != 0, head & 0x0F);
            match (opcode, last) {
                (0x9, true) => return Ok(Some(Incoming::Ping(payload.freeze()))),
                (0xA, true) => return Ok(Some(Incoming::Pong)),
                (0x8, true) => return Ok(Some(Incoming::Close(read_close(&payload)))),
                (0x2, true) if self.fragments.is_none() => {
                    return Ok(Some(Incoming::Message(payload.freeze())));
                }
                (0x2, false) if self.fragments.is_none() => self.fragments = Some(payload),
                (0x0, last) => {
                    let Some(mut message) = self.fragments.take() else {
                        return Err(broken("a continuation of nothing"));
                    };
                    if message.len() + payload.len() > self.message_bytes_max {
                        return Err(too_big());
                    }
                    message.extend_from_slice(&payload);
                    if last {
                        return Ok(Some(Incoming::Message(message.freeze())));
                    }
                    self.fragments = Some(message);
                }
                (0x1, _) => {
                    return Err(Close::new(CloseCode::UnsupportedData.number(), "text on a binary protocol"));
                }
                _ => return Err(broken("an unknown or misplaced frame")),
            }
        }
    }

    /// First byte, head length and payload length of the frame that begins the buffer.
    fn head(&self) -> Result<Option<(u8, usize, usize)>, Close> {
        let [first, second, ref rest @ ..] = self.buffer[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(broken("reserved bits are set"));
        }
        if second & 0x80 != 0 {
            return Err(broken("a server's frame is masked"));
        }
        let (head_len, payload_len) = match second & 0x7F {
            126 => match rest.first_chunk() {
                Some(bytes) => (4, u64::from(u16::from_be_bytes(*bytes))),
                None => return Ok(None),
            },
            127 => match rest.first_chunk() {
                Some(bytes) => (10, u64::from_be_bytes(*bytes)),
                None => return Ok(None),
            },
            short => (2, u64::from(short)),
        };
        let payload_len = usize::try_from(payload_len).ok().filter(|len| *len <= self.message_bytes_max);
        let payload_len = payload_len.ok_or_else(too_big)?;
        if first & 0x08 != 0 && (payload_len > CONTROL_BYTES_MAX || first & 0x80 == 0) {
            return Err(broken("a control frame is too long or fragmented"));
        }
        Ok(Some((first, head_len, payload_len)))
    }
}

fn broken(reason: &str) -> Close {
    Close::new(CloseCode::ProtocolError.number(), reason)
}

fn too_big() -> Close {
    Close::new(CloseCode::MessageTooBig.number(), "message exceeds `message_bytes_max`")
}

fn read_close(payload: &[u8]) -> Close {
    match payload {
        [high, low, reason @ ..] => {
            Close::new(u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason))
        }
        _ => Close::new(NO_CODE, ""),
    }
}

/// Appends a binary message, masked as a client must.
pub(crate) fn append_message(message: Vec<u8>, out: &mut Vec<u8>) {
    append(Frame::binary(Payload::Owned(message)), out);
}

/// Appends the answer to a ping.
pub(crate) fn append_pong(payload: &[u8], out: &mut Vec<u8>) {
    append(Frame::pong(Payload::Owned(payload.to_vec())), out);
}

/// Appends a close.
pub(crate) fn append_close(close: &Close, out: &mut Vec<u8>) {
    // 1005 and 1006 say that there was no code: they are never sent.
    let code = if matches!(close.code, NO_CODE | crate::core::ABNORMAL) { 1000 } else { close.code };
    let end = (0..=close.reason.len().min(CONTROL_BYTES_MAX - 2))
        .rev()
        .find(|end| close.reason.is_char_boundary(*end))
        .unwrap_or(0);
    append(Frame::close(code, &close.reason.as_bytes()[..end]), out);
}

fn append(mut frame: Frame<'_>, out: &mut Vec<u8>) {
    frame.mask();
    let mut head = [0; 16];
    let head_len = frame.fmt_head(&mut head);
    out.extend_from_slice(&head[..head_len]);
    out.extend_from_slice(&frame.payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tickcast_protocol::frame::websocket_head;

    const BINARY: u8 = 0x2;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let (mut head, len) = websocket_head(first & 0x0F, payload.len());
        head[0] = first;
        [&head[..len], payload].concat()
    }

    fn inbound(bytes: &[u8]) -> Inbound {
        Inbound::new(BytesMut::from(bytes), 100_000)
    }

    #[test]
    fn messages_come_whole_however_they_were_cut() {
        let long = vec![7u8; 70_000];
        let bytes = [
            server_frame(0x80 | BINARY, b"one"),
            server_frame(BINARY, b"tw"),
            server_frame(0x89, b"ping"),
            server_frame(0x80, b"o"),
            server_frame(0x80 | BINARY, &long),
            server_frame(0x88, &[0x03, 0xF4, b'b', b'y', b'e']),
        ]
        .concat();
        let expected = vec![
            Incoming::Message(Bytes::from_static(b"one")),
            Incoming::Ping(Bytes::from_static(b"ping")),
            Incoming::Message(Bytes::from_static(b"two")),
            Incoming::Message(Bytes::from(long)),
            Incoming::Close(Close::new(1012u16, "bye")),
        ];
        for step in [1, 3, 1_000, bytes.len()] {
            let (mut inbound, mut seen) = (inbound(b""), Vec::new());
            for chunk in bytes.chunks(step) {
                inbound.buffer.extend_from_slice(chunk);
                while let Some(incoming) = inbound.next().unwrap() {
                    seen.push(incoming);
                }
            }
            assert_eq!(seen, expected, "in steps of {step}");
        }
    }

    #[test]
    fn a_broken_server_is_told_so() {
        for (bytes, code) in [
            (server_frame(0xC0 | BINARY, b"x"), 1002),
            (vec![0x82, 0x81, 0, 0, 0, 0, b'x'], 1002),
            (server_frame(0x80, b"x"), 1002),
            (server_frame(0x83, b"x"), 1002),
            (server_frame(0x09, b"x"), 1002),
            (server_frame(0x89, &[0; 126]), 1002),
            (server_frame(0x81, b"{}"), 1003),
            (vec![0x82, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0], 1009),
            ([server_frame(BINARY, &[0; 60_000]), server_frame(0x80, &[0; 60_000])].concat(), 1009),
        ] {
            assert_eq!(inbound(&bytes).next().map_err(|close| close.code), Err(code), "{:?}", &bytes[..2]);
        }
    }

    #[test]
    fn what_we_send_is_masked_and_whole() {
        let mut out = Vec::new();
        append_message(b"payload".to_vec(), &mut out);
        assert_eq!((out[0], out[1]), (0x82, 0x80 | 7));
        let unmasked: Vec<_> = out[6..].iter().zip(out[2..6].iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(unmasked, b"payload");
        out.clear();
        append_close(&Close::new(1006u16, "é".repeat(100)), &mut out);
        assert_eq!(out[1], 0x80 | 124);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut inbound = inbound(&bytes);
            while let Ok(Some(_)) = inbound.next() {}
        }
    }
}
