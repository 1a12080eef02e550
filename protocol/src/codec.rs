//! Payloads made smaller for the wire, and whole again: the codec in the header's flags.
//!
//! A codec works on one payload by itself: no dictionary, no state between frames, so a frame is
//! compressed once for all who read it and any of them may begin anywhere. What comes in is hostile:
//! its size is checked before room is made for it, and a block makes exactly `raw_len` bytes or none.
//! SPEC 3.A has the block byte by byte.
#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};
use lz4_flex::block;

use crate::error::DecodeError;
use crate::frame::{Header, PAYLOAD_BYTES_MAX};

/// Codec 0: the payload as it is.
pub const NONE: u8 = 0;
/// Codec 1: an LZ4 block.
pub const LZ4: u8 = 1;
/// LZ4 in `hello.codecs` and `welcome.codecs`, where bit `n - 1` stands for codec `n`.
pub const LZ4_BIT: u8 = 1 << (LZ4 - 1);

/// A payload is sent compressed only if that saves at least one part in this many of it: for less, no
/// reader should have to decompress.
const SAVED_PART_MIN: usize = 16;

/// Appends `raw` as an LZ4 block to `out` and returns true; or returns false, `out` as it was, when that
/// would not save a sixteenth.
pub fn compress(raw: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.resize(start + block::get_maximum_output_size(raw.len()), 0);
    let most = raw.len() - raw.len().div_ceil(SAVED_PART_MIN);
    let length = block::compress_into(raw, &mut out[start..]).ok().filter(|length| *length <= most);
    out.truncate(start + length.unwrap_or(0));
    length.is_some()
}

/// The header and payload that `payload` stood for before it was compressed. The payload lies in room
/// taken from `buffer`, which is used again once nobody holds what was made in it before.
///
/// # Errors
/// [`DecodeError`]: the codec is unknown, the announced size too large, or the block broken.
pub fn decompress(
    header: &Header,
    payload: &[u8],
    buffer: &mut BytesMut,
) -> Result<(Header, Bytes), DecodeError> {
    let raw_len = header.raw_len as usize;
    if raw_len > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge { size: raw_len, limit: PAYLOAD_BYTES_MAX });
    }
    buffer.clear();
    match header.codec() {
        NONE => buffer.extend_from_slice(payload),
        LZ4 => {
            buffer.resize(raw_len, 0);
            let made = block::decompress_into(payload, buffer).ok();
            if made != Some(raw_len) {
                return Err(DecodeError::Block { codec: LZ4, raw_len });
            }
        }
        unknown => return Err(DecodeError::UnknownCodec(unknown)),
    }
    Ok((header.decompressed(), buffer.split().freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(codec: u8, block: &[u8], raw_len: usize) -> Header {
        let header = Header { raw_len: raw_len as u32, payload_len: block.len() as u32, ..Header::default() };
        header.with_codec(codec)
    }

    fn lz4(block: &[u8], raw_len: usize) -> Result<Bytes, DecodeError> {
        let mut buffer = BytesMut::new();
        decompress(&header(LZ4, block, raw_len), block, &mut buffer).map(|(_, payload)| payload)
    }

    fn broken(raw_len: usize) -> Result<Bytes, DecodeError> {
        Err(DecodeError::Block { codec: LZ4, raw_len })
    }

    #[test]
    fn header_is_that_of_the_payload_again() {
        let raw = [7; 600];
        let mut block = vec![1, 2, 3];
        assert!(compress(&raw, &mut block));
        assert_eq!(&block[..3], [1, 2, 3], "what was there stays");
        let block = &block[3..];
        let sent = Header { flags: crate::frame::FLAG_CRITICAL, root_len: 9, ..header(LZ4, block, 600) };
        let (got, payload) = decompress(&sent.with_codec(LZ4), block, &mut BytesMut::new()).unwrap();
        assert_eq!(payload, &raw[..]);
        assert_eq!(
            got,
            Header {
                flags: crate::frame::FLAG_CRITICAL,
                root_len: 9,
                payload_len: 600,
                raw_len: 600,
                ..Header::default()
            }
        );
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..2_000).map(|_| random()).collect();
        for raw in [&noise[..], &noise[..13], &noise[..1], &[]] {
            let mut out = vec![9];
            assert!(!compress(raw, &mut out), "{} bytes", raw.len());
            assert_eq!(out, [9]);
        }
        // Thirty bytes that come again, at the end of noise: saved, but not enough.
        let little = [&noise[..1_000], &noise[..30]].concat();
        assert!(!compress(&little, &mut Vec::new()));
        let enough = [&noise[..1_000], &noise[..100]].concat();
        assert!(compress(&enough, &mut Vec::new()));
    }

    #[test]
    fn a_broken_block_makes_nothing() {
        // Literals `abcd`, then eight bytes from four back, then literals `e`.
        let block = [0x44, b'a', b'b', b'c', b'd', 4, 0, 0x10, b'e'];
        assert_eq!(lz4(&block, 13).unwrap(), &b"abcdabcdabcde"[..]);
        assert_eq!(lz4(&block, 12), broken(12));
        assert_eq!(lz4(&block, 14), broken(14));
        for end in 0..block.len() - 1 {
            assert_eq!(lz4(&block[..end], 13), broken(13), "cut at {end}");
        }
        let mut bad = block;
        bad[5] = 0;
        assert_eq!(lz4(&bad, 13), broken(13), "offset 0");
        bad[5] = 5;
        assert_eq!(lz4(&bad, 13), broken(13), "an offset before the payload");
        // A length of 2 GiB in 8 MiB of 0xFF would be the sum; nothing is made for it.
        assert_eq!(lz4(&[0xFF; 40], 100), broken(100));
    }

    #[test]
    fn size_and_codec_are_checked_before_room_is_made() {
        let mut buffer = BytesMut::new();
        let over = PAYLOAD_BYTES_MAX + 1;
        let error = decompress(&header(LZ4, &[0], over), &[0], &mut buffer).unwrap_err();
        assert_eq!(error, DecodeError::TooLarge { size: over, limit: PAYLOAD_BYTES_MAX });
        for codec in 2..16 {
            let error = decompress(&header(codec, &[0], 5), &[0], &mut buffer).unwrap_err();
            assert_eq!(error, DecodeError::UnknownCodec(codec));
        }
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn buffer_is_used_again_once_nobody_holds_what_was_in_it() {
        let mut block = Vec::new();
        assert!(compress(&[7; 600], &mut block));
        let mut buffer = BytesMut::with_capacity(1_024);
        let mut places = Vec::new();
        for _ in 0..10 {
            let (_, payload) = decompress(&header(LZ4, &block, 600), &block, &mut buffer).unwrap();
            places.push(payload.as_ptr());
        }
        places.dedup();
        assert_eq!(places.len(), 1, "one buffer, ten payloads");
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(
            seed in proptest::collection::vec(any::<u8>(), 1..300),
            repeats in 1usize..40,
            noise in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let raw = [seed.repeat(repeats), noise].concat();
            let mut block = Vec::new();
            if compress(&raw, &mut block) {
                prop_assert!(block.len() + raw.len() / SAVED_PART_MIN <= raw.len());
                prop_assert_eq!(lz4(&block, raw.len()).unwrap(), raw);
            }
        }

        #[test]
        fn any_block_makes_what_was_announced_or_nothing(
            block in proptest::collection::vec(any::<u8>(), 0..400),
            raw_len in 0usize..2_000,
        ) {
            let mut buffer = BytesMut::new();
            if let Ok((_, payload)) = decompress(&header(LZ4, &block, raw_len), &block, &mut buffer) {
                prop_assert_eq!(payload.len(), raw_len);
            }
            prop_assert!(buffer.capacity() <= raw_len.next_power_of_two().max(64), "{}", buffer.capacity());
        }

        #[test]
        fn a_changed_block_does_no_harm(
            seed in proptest::collection::vec(any::<u8>(), 4..40),
            changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        ) {
            let raw = seed.repeat(40);
            let mut block = Vec::new();
            prop_assume!(compress(&raw, &mut block));
            for (at, byte) in changes {
                let length = block.len();
                block[usize::from(at) % length] = byte;
            }
            if let Ok(payload) = lz4(&block, raw.len()) {
                prop_assert_eq!(payload.len(), raw.len());
            }
        }
    }
}
