//! As much of WebSocket (RFC 6455) as both ends of a load test need, read and written in place.
//!
//! The generator masks with a key of zeros: the bytes it sends are then the bytes it prepared, and the server
//! still has to unmask them. A key that cannot be guessed protects proxies, and here there are none.
#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

/// Text message.
pub const TEXT: u8 = 1;
/// Binary message.
pub const BINARY: u8 = 2;
/// Close.
pub const CLOSE: u8 = 8;
/// Ping.
pub const PING: u8 = 9;
/// Pong.
pub const PONG: u8 = 10;

/// Longest head and body of an HTTP message that is read.
pub const HTTP_BYTES_MAX: usize = 8 * 1024;

/// What stands before the payload of a WebSocket frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Kind of frame.
    pub opcode: u8,
    /// Whether it is the last of its message.
    pub fin: bool,
    /// Bytes of the head, mask included.
    pub len: usize,
    /// Bytes that follow it.
    pub payload: usize,
    /// The mask, when there is one.
    pub mask: Option<[u8; 4]>,
}

/// The head at the start of `bytes`, or `None` while it is not all there.
#[inline]
#[must_use]
pub fn head(bytes: &[u8]) -> Option<Head> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (payload, mut len) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let mut mask = None;
    if second & 0x80 != 0 {
        mask = Some(*bytes.get(len..)?.first_chunk()?);
        len += 4;
    }
    Some(Head { opcode: first & 0x0F, fin: first & 0x80 != 0, len, payload, mask })
}

/// Appends the head of a client's frame, masked with zeros.
pub fn client_head(opcode: u8, payload: usize, out: &mut Vec<u8>) {
    let (mut head, len) = tickcast_protocol::frame::websocket_head(opcode, payload);
    head[1] |= 0x80;
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(&[0; 4]);
}

/// Appends a client's whole message.
pub fn client_message(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    client_head(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a server's whole message.
pub fn server_message(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let (head, len) = tickcast_protocol::frame::websocket_head(opcode, payload.len());
    out.extend_from_slice(&head[..len]);
    out.extend_from_slice(payload);
}

/// Undoes a mask in place; a mask of zeros costs nothing.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    if mask != [0; 4] {
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
    }
}

/// The client's half of the handshake.
#[must_use]
pub fn request(host: &str, path: &str, subprotocol: Option<&str>) -> Vec<u8> {
    let offer = subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bG9hZHRlc3QtZ2VuZXJhdA==\r\n{offer}\r\n"
    )
    .into_bytes()
}

/// The server's half.
pub fn response(key: &str, subprotocol: Option<&str>, out: &mut Vec<u8>) {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut accept = [0; 28];
    // Twenty bytes are always 28 characters.
    let _ = BASE64_STANDARD.encode_slice(hash.finalize(), &mut accept);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    );
    if let Some(name) = subprotocol {
        out.extend_from_slice(b"Sec-WebSocket-Protocol: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Sec-WebSocket-Accept: ");
    out.extend_from_slice(&accept);
    out.extend_from_slice(b"\r\n\r\n");
}

/// Where the head of an HTTP message ends, the empty line included.
#[must_use]
pub fn http_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a header, whatever the case of its name.
#[must_use]
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_in_each_of_its_lengths_and_not_before_it_is_whole() {
        for payload in [0, 1, 125, 126, 65_535, 65_536] {
            let mut bytes = Vec::new();
            client_head(BINARY, payload, &mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(head(&bytes[..cut]), None);
            }
            let len = bytes.len();
            assert_eq!(
                head(&bytes),
                Some(Head { opcode: BINARY, fin: true, len, payload, mask: Some([0; 4]) })
            );
        }
    }

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        let mut out = Vec::new();
        response("dGhlIHNhbXBsZSBub25jZQ==", Some("tickcast.v2"), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(header(&text, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(header(&text, "Sec-WebSocket-Protocol"), Some("tickcast.v2"));
        assert_eq!(http_end(text.as_bytes()), Some(text.len()));
    }

    #[test]
    fn a_mask_is_undone() {
        let mut payload = *b"Hello";
        unmask(&mut payload, [1, 2, 3, 4]);
        assert_ne!(&payload, b"Hello");
        unmask(&mut payload, [1, 2, 3, 4]);
        assert_eq!(&payload, b"Hello");
    }
}
