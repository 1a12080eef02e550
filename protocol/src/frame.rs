//! Frames: a fixed 40-byte header, then an rkyv payload. Encoded once, read in place.
//!
//! A WebSocket message holds one or more whole frames. SPEC 3 has the header byte by byte.

use bytes::{Bytes, BytesMut};

use crate::codec;
use crate::error::DecodeError;
use crate::message::{Message, View};

/// First two bytes of every frame, as a little-endian number: `TC` in ASCII.
pub const MAGIC: u16 = 0x4354;
/// The protocol major of this crate. JSON is 1.
pub const PROTOCOL_MAJOR: u8 = 2;
/// Bytes of the header.
pub const HEADER_LEN: usize = 40;
/// Largest payload that may ever be announced, in bytes. Peers agree on less.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The WebSocket subprotocol of this format.
pub const SUBPROTOCOL: &str = "tickcast.v2";

/// Flag bit: the event's class is critical.
pub const FLAG_CRITICAL: u16 = 1;
/// Lowest bit of the four that name the payload's [`codec`].
pub const CODEC_SHIFT: u32 = 8;
const CODEC_MASK: u16 = 0xF << CODEC_SHIFT;

/// What precedes a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The message's type.
    pub type_id: u16,
    /// Version of the type's schema; informational, since layouts only grow at the end.
    pub schema_version: u16,
    /// [`FLAG_CRITICAL`] and the codec.
    pub flags: u16,
    /// Bytes of the root record, at the end of the payload.
    pub root_len: u16,
    /// The stream, or zero in control frames and from publishers.
    pub stream: u32,
    /// The event's sequence on its stream, or zero.
    pub sequence: u64,
    /// When the server accepted it, in ns since the Unix epoch, or zero.
    pub publish_time: u64,
    /// Bytes of the payload in this frame.
    pub payload_len: u32,
    /// Bytes of the payload once decoded.
    pub raw_len: u32,
}

impl Header {
    /// The payload's codec.
    #[must_use]
    pub const fn codec(&self) -> u8 {
        ((self.flags & CODEC_MASK) >> CODEC_SHIFT) as u8
    }

    /// The same header with another codec, 0 to 15.
    #[must_use]
    pub const fn with_codec(mut self, codec: u8) -> Self {
        self.flags = self.flags & !CODEC_MASK | (codec as u16) << CODEC_SHIFT & CODEC_MASK;
        self
    }

    /// The header of the same frame before its payload was compressed.
    #[must_use]
    pub const fn decompressed(mut self) -> Self {
        self.payload_len = self.raw_len;
        self.with_codec(codec::NONE)
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = PROTOCOL_MAJOR;
        bytes[3] = (HEADER_LEN / 8) as u8;
        bytes[4..6].copy_from_slice(&self.type_id.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.schema_version.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.root_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.stream.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.publish_time.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes
    }

    /// Reads a header and says how long it is: newer peers may send longer ones, whose tail is skipped.
    ///
    /// # Errors
    /// [`DecodeError`], before anything is allocated.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let truncated = |needed| DecodeError::Truncated { needed, available: bytes.len() };
        if bytes.len() < HEADER_LEN {
            return Err(truncated(HEADER_LEN));
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u16_at(0) != MAGIC {
            return Err(DecodeError::Magic(u16_at(0)));
        }
        if bytes[2] != PROTOCOL_MAJOR {
            return Err(DecodeError::Protocol(bytes[2]));
        }
        let header_len = usize::from(bytes[3]) * 8;
        if header_len < HEADER_LEN {
            return Err(DecodeError::HeaderField {
                field: "header_len",
                value: u64::from(bytes[3]),
                allowed: "5 or more, in units of 8 bytes",
            });
        }
        if bytes.len() < header_len {
            return Err(truncated(header_len));
        }
        let header = Self {
            type_id: u16_at(4),
            schema_version: u16_at(6),
            flags: u16_at(8),
            root_len: u16_at(10),
            stream: u32_at(12),
            sequence: u64_at(16),
            publish_time: u64_at(24),
            payload_len: u32_at(32),
            raw_len: u32_at(36),
        };
        Ok((header, header_len))
    }
}

/// One frame, in place.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload, as sent.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the first frame off `bytes` and returns it with what follows.
    ///
    /// # Errors
    /// [`DecodeError`]; `limit` bounds the frame's payload in bytes.
    pub fn split_first(bytes: &'a [u8], limit: usize) -> Result<(Self, &'a [u8]), DecodeError> {
        let (header, header_len) = Header::parse(bytes)?;
        let payload_len = header.payload_len as usize;
        let raw_len = header.raw_len as usize;
        let limit = limit.min(PAYLOAD_BYTES_MAX);
        if payload_len.max(raw_len) > limit {
            return Err(DecodeError::TooLarge { size: payload_len.max(raw_len), limit });
        }
        if !matches!(header.codec(), codec::NONE | codec::LZ4) {
            return Err(DecodeError::UnknownCodec(header.codec()));
        }
        if header.codec() == codec::NONE && raw_len != payload_len {
            return Err(DecodeError::HeaderField {
                field: "raw_len",
                value: raw_len as u64,
                allowed: "payload_len when the payload is not compressed",
            });
        }
        let end = header_len + payload_len;
        if bytes.len() < end {
            return Err(DecodeError::Truncated { needed: end, available: bytes.len() });
        }
        Ok((Self { header, payload: &bytes[header_len..end] }, &bytes[end..]))
    }

    /// True when the payload must be decompressed before it can be read.
    #[must_use]
    pub const fn is_compressed(&self) -> bool {
        self.header.codec() != codec::NONE
    }

    /// Header and payload as they were before a codec was applied; see [`codec::decompress`].
    ///
    /// # Errors
    /// [`DecodeError`], when the payload is broken.
    pub fn decompress(&self, buffer: &mut BytesMut) -> Result<(Header, Bytes), DecodeError> {
        codec::decompress(&self.header, self.payload, buffer)
    }

    /// The message in place, its structure and contents checked.
    ///
    /// # Errors
    /// [`DecodeError`], naming the field when there is one. A compressed payload is not read in place:
    /// [`decompress`](Self::decompress) it first, or refuse it.
    pub fn view(&self) -> Result<View<'a>, DecodeError> {
        if self.is_compressed() {
            return Err(DecodeError::Compressed(self.header.codec()));
        }
        let view = View::access(self.header.type_id, self.payload, self.header.root_len)?;
        view.check()?;
        Ok(view)
    }
}

/// Every frame of a WebSocket message, in order; ends after the first error.
#[derive(Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
    limit: usize,
}

impl<'a> Frames<'a> {
    /// The frames of `bytes`, each payload at most `limit` bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8], limit: usize) -> Self {
        Self { rest: bytes, limit }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match Frame::split_first(self.rest, self.limit) {
            Ok((frame, rest)) => {
                self.rest = rest;
                Some(Ok(frame))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// A message as header and payload, stream and sequence still zero: what a publisher or a control
/// message sends.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    append(message, &mut out);
    out
}

/// Appends a message as one frame; several frames may share a WebSocket message.
pub fn append(message: &Message, out: &mut Vec<u8>) {
    let (payload, header) = payload(message);
    out.reserve(HEADER_LEN + payload.len());
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&payload);
}

/// A message's payload and a header with stream, sequence and time still zero.
#[must_use]
pub fn payload(message: &Message) -> (Vec<u8>, Header) {
    let (payload, root_len) = message.encode_payload(Vec::with_capacity(192));
    let info = message.info();
    let length = payload.len() as u32;
    let header = Header {
        type_id: info.id,
        schema_version: info.version,
        root_len,
        payload_len: length,
        raw_len: length,
        ..Header::default()
    };
    (payload, header)
}

/// Longest head of a WebSocket frame that a server sends.
pub const WS_HEAD_MAX: usize = 10;

/// The head of an unmasked, final WebSocket frame (RFC 6455, 5.2) and its length.
#[must_use]
pub fn websocket_head(opcode: u8, payload_len: usize) -> ([u8; WS_HEAD_MAX], usize) {
    let mut head = [0; WS_HEAD_MAX];
    head[0] = 0x80 | opcode;
    let used = match payload_len {
        0..=125 => {
            head[1] = payload_len as u8;
            2
        }
        126..=0xFFFF => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    (head, used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use proptest::prelude::*;

    #[test]
    fn every_type_survives_the_wire() {
        for info in registry::types() {
            for full in [false, true] {
                let message = Message::sample(info, full);
                let bytes = encode(&message);
                let (frame, rest) = Frame::split_first(&bytes, PAYLOAD_BYTES_MAX).unwrap();
                assert!(rest.is_empty());
                assert_eq!(frame.view().unwrap().to_owned(), message, "{}", info.name);
            }
        }
    }

    #[test]
    fn a_longer_root_of_a_newer_peer_reads_as_its_prefix() {
        // What an appended field does: the root grows at its end, so its start moves back.
        let message = Message::sample(registry::by_name("alert").unwrap(), true);
        let (mut payload, header) = payload(&message);
        payload.extend_from_slice(&[7; 9]);
        let view = View::access(header.type_id, &payload, header.root_len + 9).unwrap();
        assert_eq!(view.to_owned(), message);
    }

    #[test]
    fn broken_headers_name_the_field() {
        let good = encode(&Message::sample(registry::by_name("signal").unwrap(), true));
        let cases: &[(usize, u8, &str)] = &[
            (0, 0, "magic"),
            (2, 9, "protocol"),
            (3, 4, "header_len"),
            (5, 255, "type_id"),
            (9, 2, "flags.codec"),
            (11, 255, "root_len"),
            (35, 255, "payload_len"),
            (36, 255, "raw_len"),
        ];
        for (at, value, field) in cases {
            let mut bad = good.clone();
            bad[*at] = *value;
            let error = Frame::split_first(&bad, PAYLOAD_BYTES_MAX).and_then(|(frame, _)| frame.view()).err();
            assert_eq!(error.as_ref().map(DecodeError::field), Some(*field), "{error:?}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for info in registry::types() {
            let bytes = encode(&Message::sample(info, true));
            for len in 0..bytes.len() {
                assert!(Frame::split_first(&bytes[..len], PAYLOAD_BYTES_MAX).is_err(), "{} {len}", info.name);
            }
        }
    }

    #[test]
    fn no_single_byte_change_panics() {
        for info in registry::types() {
            let good = encode(&Message::sample(info, true));
            for at in 0..good.len() {
                for flip in [0x01, 0x80, 0xFF] {
                    let mut bad = good.clone();
                    bad[at] ^= flip;
                    if let Ok((frame, _)) = Frame::split_first(&bad, PAYLOAD_BYTES_MAX) {
                        let _ = frame.view().map(|view| view.to_owned());
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), type_id in 90u16..130) {
            let _ = Frame::split_first(&bytes, PAYLOAD_BYTES_MAX).map(|(frame, _)| frame.view().is_ok());
            let _ = View::access(type_id, &bytes, bytes.len() as u16).map(|view| view.check().is_ok());
        }
    }
}
