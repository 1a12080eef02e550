//! House rules that the crate borders cannot hold: who may import what inside the program.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Every source file under `folder`, by its path from the root, with its text.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has sources");
    let named = found.into_iter().map(|path| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        (name, fs::read_to_string(&path).expect("readable"))
    });
    named.collect()
}

/// Lines of code, without comments and doc text.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

fn nobody_says(folder: &str, words: &[&str], except: &[&str]) {
    for (name, text) in files(folder) {
        if except.iter().any(|allowed| name.ends_with(allowed)) {
            continue;
        }
        for word in words {
            let line = code(&text).find(|line| line.contains(word));
            assert!(line.is_none(), "{name} must not say `{word}`: {}", line.unwrap_or_default());
        }
    }
}

#[test]
fn the_engine_knows_no_runtime_no_json_and_no_clock() {
    let words = ["tokio", "serde", "Instant::now", "SystemTime", "metrics::"];
    nobody_says("server/engine/src", &words, &["engine/src/ring.rs"]);
}

#[test]
fn the_journal_knows_no_runtime_no_json_no_socket_and_no_time_of_day() {
    let words = ["tokio", "serde", "std::net", "SystemTime", "metrics::"];
    nobody_says("server/journal/src", &words, &[]);
}

#[test]
fn the_protocol_and_compat_know_no_socket() {
    let words = ["tokio", "hyper", "std::net", "TcpStream", "Instant::now", "SystemTime"];
    nobody_says("protocol/src", &words, &[]);
    nobody_says("compat/src", &words, &[]);
}

#[test]
fn only_the_codec_renders_dialects_and_only_sessions_read_them() {
    let allowed = [
        "net/codec.rs",
        "session/d1.rs",
        "publish_api.rs",
        "instruments.rs",
        "cli/publish.rs",
        "cli/subscribe.rs",
    ];
    nobody_says("server/src", &["tickcast_compat"], &allowed);
}

#[test]
fn only_the_command_line_uses_the_client() {
    let except = [
        "cli/identity.rs",
        "cli/mod.rs",
        "cli/publish.rs",
        "cli/record.rs",
        "cli/replay.rs",
        "cli/subscribe.rs",
    ];
    nobody_says("server/src", &["tickcast_client"], &except);
    nobody_says("server/src", &["tickcast_loadtest"], &["cli/bench.rs"]);
}

#[test]
fn the_load_test_links_nothing_of_the_server() {
    nobody_says("loadtest/src", &["tickcast_engine", "tickcast_compat", "tickcast_client", "tokio"], &[]);
}

#[test]
fn settings_and_metrics_are_leaves() {
    let words = ["crate::net", "crate::session", "crate::ingest", "crate::server", "crate::feeds"];
    nobody_says("server/src/config", &words, &[]);
    for (name, text) in files("server/src") {
        if name.ends_with("src/metrics.rs") {
            assert!(
                !code(&text).any(|line| words.iter().any(|word| line.contains(word))),
                "{name} is a leaf"
            );
        }
    }
}

#[test]
fn unsafe_code_lives_in_two_files() {
    for folder in [
        "protocol/src",
        "compat/src",
        "server/src",
        "server/engine/src",
        "server/journal/src",
        "clients/rust/src",
        "loadtest/src",
    ] {
        for (name, text) in files(folder) {
            let has_unsafe =
                code(&text).any(|line| line.contains("unsafe {") || line.contains("unsafe impl"));
            let may =
                ["engine/src/ring.rs", "server/src/net/uring.rs"].iter().any(|file| name.ends_with(file));
            assert!(!has_unsafe || may, "{name} has unsafe code");
        }
    }
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("dbg", "!("),
    ];
    for folder in ["protocol", "compat", "server", "clients/rust", "benches", "loadtest"] {
        for (name, text) in files(folder) {
            for mark in marks {
                assert!(!text.contains(mark), "{name} has a {mark}");
            }
        }
    }
}
