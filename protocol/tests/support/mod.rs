//! What the tests of golden files share: where they are, how they are compared and how frames are made.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs;
use std::path::{Path, PathBuf};

use tickcast_protocol::Message;
use tickcast_protocol::frame::{self, Frame, Header, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::Class;

/// When every golden event was accepted.
const PUBLISH_TIME: u64 = 1_790_000_000_000_000_001;

/// The directory of golden files.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares files with what they should hold, or writes them when blessing. A file with the same
/// extension that nobody asked for is an error: it would go on testing readers against the past.
pub(crate) fn verify(directory: &Path, expected: &[(String, Vec<u8>)]) {
    let test = env!("CARGO_CRATE_NAME");
    let bless = std::env::var_os("TICKCAST_BLESS").is_some();
    fs::create_dir_all(directory).expect("the golden directory can be made");
    let wanted: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    for entry in fs::read_dir(directory).expect("the golden directory can be read") {
        let name = entry.expect("its entries too").file_name().into_string().expect("names are ASCII");
        if name.ends_with(".bin") && !wanted.contains(name.as_str()) {
            panic!("{name} belongs to no type or case: remove it");
        }
    }
    for (name, bytes) in expected {
        let path = directory.join(name);
        if fs::read(&path).is_ok_and(|found| found == *bytes) {
            continue;
        }
        assert!(
            bless,
            "{name} is not what it should be. If the wire is meant to change, run \
             `TICKCAST_BLESS=1 cargo test -p tickcast-protocol --test {test}`."
        );
        fs::write(&path, bytes).expect("golden files can be written");
    }
}

/// A message as a subscriber gets it: data stamped, control not.
pub(crate) fn stamped(message: &Message) -> Vec<u8> {
    let (payload, mut header) = frame::payload(message);
    if message.info().is_data() {
        header = Header { stream: 7, sequence: 42, publish_time: PUBLISH_TIME, ..header };
        let unstamped = frame::encode(message);
        let (plain, _) = Frame::split_first(&unstamped, PAYLOAD_BYTES_MAX).expect("our own frame");
        let facts = plain.view().expect("our own payload").facts(&RandomState::new());
        if facts.class == Class::Critical {
            header.flags |= frame::FLAG_CRITICAL;
        }
    }
    [header.to_bytes().as_slice(), &payload].concat()
}
