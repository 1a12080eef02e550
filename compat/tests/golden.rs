//! The JSON twins of golden files: every type of the registry, full and minimal, as native JSON.
//!
//! A twin says what the frame of the same name holds, so that every reader can be checked against both. The
//! bytes are made here again; the protocol's own test compares them with the `.bin` files.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::path::{Path, PathBuf};

use tickcast_compat::native::twin_encode;
use tickcast_protocol::message::View;
use tickcast_protocol::{Class, Header, Message, frame, registry};

const BLESS: &str = "TICKCAST_BLESS=1 cargo test -p tickcast-compat --test golden";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/golden")
}

/// The twin of a sample as a subscriber gets it: data stamped, control not.
fn twin(message: &Message) -> String {
    let (payload, mut header) = frame::payload(message);
    let view = View::access(header.type_id, &payload, header.root_len).expect("our own payload");
    if message.info().is_data() {
        header = Header { stream: 7, sequence: 42, publish_time: 1_790_000_000_000_000_001, ..header };
        if view.facts(&BuildHasherDefault::<DefaultHasher>::default()).class == Class::Critical {
            header.flags |= frame::FLAG_CRITICAL;
        }
    }
    let mut out = Vec::new();
    twin_encode(&header, view, &mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn samples() -> impl Iterator<Item = (String, Message)> {
    registry::types().iter().flat_map(|info| {
        [("full", true), ("min", false)]
            .map(|(kind, full)| (format!("{}.{kind}.json", info.name), Message::sample(info, full)))
    })
}

#[test]
fn every_type_has_its_twin() {
    let bless = std::env::var_os("TICKCAST_BLESS").is_some();
    let mut wanted = BTreeSet::new();
    for (name, message) in samples() {
        let (path, expected) = (golden().join(&name), twin(&message));
        if fs::read_to_string(&path).ok().as_deref() != Some(&expected) {
            assert!(bless, "{name} is not what it should be. If JSON is meant to change, run `{BLESS}`.");
            fs::create_dir_all(golden()).expect("the golden directory can be made");
            fs::write(&path, expected).expect("golden files can be written");
        }
        wanted.insert(name);
    }
    for entry in fs::read_dir(golden()).expect("the golden directory can be read") {
        let name = entry.expect("its entries too").file_name().into_string().expect("names are ASCII");
        assert!(!name.ends_with(".json") || wanted.contains(&name), "{name} belongs to no type: remove it");
    }
}

#[test]
fn the_frames_say_what_their_twins_say() {
    for (name, message) in samples() {
        // The protocol's test fails when the bytes are missing.
        let Ok(bytes) = fs::read(golden().join(name.replace(".json", ".bin"))) else { continue };
        let (frame, _) = frame::Frame::split_first(&bytes, frame::PAYLOAD_BYTES_MAX).expect("a whole frame");
        let mut out = Vec::new();
        twin_encode(&frame.header, frame.view().expect("a sound payload"), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), twin(&message), "{name}");
    }
}

#[test]
fn twins_are_json_for_other_readers_too() {
    for (name, message) in samples() {
        let twin = twin(&message);
        let value: serde_json::Value = serde_json::from_str(&twin).expect(&name);
        assert_eq!(twin.matches('\n').count(), 1, "{name}");
        assert_eq!(value["type"], message.info().name);
        assert_eq!(value["header"]["type_id"], message.info().id);
        assert!(value["data"].is_object());
    }
}
