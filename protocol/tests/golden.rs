//! Golden files: every type's bytes, full and minimal.
//!
//! The bytes are the wire: a difference is a break of the protocol unless a field was appended. Readers
//! in other languages decode the same files (`spec_reader.py` is the first of them).

mod support;

use support::{golden, stamped, verify};
use tickcast_protocol::frame::{Frame, PAYLOAD_BYTES_MAX};
use tickcast_protocol::{Message, registry};

#[test]
fn every_type_has_its_bytes() {
    let mut files = Vec::new();
    for info in registry::types() {
        for (kind, full) in [("full", true), ("min", false)] {
            let message = Message::sample(info, full);
            let bytes = stamped(&message);
            let (frame, rest) = Frame::split_first(&bytes, PAYLOAD_BYTES_MAX).expect("a whole frame");
            assert!(rest.is_empty());
            let view = frame.view().expect("a sound payload");
            assert_eq!(view.to_owned(), message, "{}", info.name);
            if info.is_data() {
                view.write_key(&mut String::new()).expect("samples have keys");
            }
            files.push((format!("{}.{kind}.bin", info.name), bytes));
        }
    }
    verify(&golden(), &files);
}
