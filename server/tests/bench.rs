//! `tickcast bench` against a real server: what was published is what arrives, in each format. Counts are
//! asserted, never times.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use common::TestServer;
use serde_json::Value;

/// Runs the program and returns its exit code with what it printed.
fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tickcast")).arg("bench").args(arguments).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn count(found: &Value, name: &str) -> u64 {
    found[name].as_u64().unwrap_or_else(|| panic!("{name} in {found}"))
}

/// Stands between the load test and the server at `server`, and passes on what each of them says once `up` or
/// `down` has seen it.
fn between(
    server: SocketAddr,
    up: impl Fn(&mut [u8]) + Send + Sync + 'static,
    down: impl Fn(&mut [u8]) + Send + Sync + 'static,
) -> SocketAddr {
    fn pass(mut from: TcpStream, mut to: TcpStream, see: &dyn Fn(&mut [u8])) {
        let mut bytes = vec![0; 65_536];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            see(&mut bytes[..read]);
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address");
    let see = Arc::new((up, down));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(server).expect("connects");
            let both = (client.try_clone().expect("a clone"), upstream.try_clone().expect("a clone"));
            let (said, heard) = (Arc::clone(&see), Arc::clone(&see));
            thread::spawn(move || pass(both.0, both.1, &said.0));
            thread::spawn(move || pass(upstream, client, &heard.1));
        }
    });
    address
}

#[test]
fn one_sequence_that_is_wrong_fails_the_check() {
    let server = TestServer::start(&[]);
    // The tenth trade that is seen at the start of one gets the number of the next one.
    let seen = AtomicU32::new(0);
    let raise = move |bytes: &mut [u8]| {
        const TRADE: [u8; 6] = [0x54, 0x43, 2, 5, 102, 0];
        let start = bytes.windows(24).position(|window| window.starts_with(&TRADE));
        if let Some(at) = start.filter(|_| seen.fetch_add(1, Ordering::Relaxed) == 9) {
            bytes[at + 16] += 1;
        }
    };
    let through = format!("ws://{}/ws", between(server.address(), |_| {}, raise));
    let run = ["--subs", "3", "--rate", "200", "--for", "400ms", "--warm-up", "0s", "--check", "--json"];
    // Sequences below 127: raising one is raising its lowest byte.
    let (code, stdout, stderr) = bench(&[&["--url", &through], &run[..]].concat());
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("an account is off: 1 unaccounted, 1 misordered"), "{stderr}");
    let found: Value = serde_json::from_str(&stdout).expect("JSON");
    let found = &found["repetitions"][0];
    assert_eq!(
        count(found, "lost"),
        0,
        "by their numbers all messages arrived: only the account shows the lie"
    );
    assert_eq!(count(&found["account"], "unaccounted"), 1);
    // The same server, asked directly, is honest.
    let (code, _, stderr) = bench(&[&["--url", &server.url()], &run[..]].concat());
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn every_message_reaches_binary_clients_and_dashboards() {
    let server = TestServer::start(&[]);
    let url = server.url();
    let (code, stdout, stderr) = bench(&[
        "--url",
        &url,
        "--format",
        "binary=15",
        "--format",
        "d1-snake=5",
        "--topics",
        "4",
        "--topics-each",
        "2",
        "--rate",
        "800",
        "--for",
        "500ms",
        "--warm-up",
        "100ms",
        "--repeat",
        "2",
        "--json",
        "--fail-if",
        "lost>0",
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let run: Value = serde_json::from_str(&stdout).expect("JSON");
    let repetitions = run["repetitions"].as_array().expect("repetitions");
    assert_eq!(repetitions.len(), 2);
    for found in repetitions {
        assert_eq!(found["target"], "tickcast");
        assert_eq!(count(found, "published"), 400);
        // 20 subscribers with two of four topics each: ten for each topic.
        assert_eq!(count(found, "expected"), 4_000);
        assert_eq!(count(found, "delivered"), 4_000);
        for nothing in
            ["lost", "duplicated", "gaps_told", "conflated_told", "publishes_refused", "disconnected"]
        {
            assert_eq!(count(found, nothing), 0, "{nothing}");
        }
        assert_eq!(count(&found["by_format"][0], "delivered"), 3_000);
        assert_eq!(count(&found["by_format"][1], "delivered"), 1_000);
        assert_eq!(found["as_felt"]["count"], 4_000);
        assert!(found["server"]["cpu_s"].as_f64().is_some(), "the server of this test was found and watched");
    }
}

#[test]
fn a_pair_measures_the_bare_loop_in_the_same_run() {
    let server = TestServer::start(&[]);
    let url = server.url();
    let (code, stdout, stderr) = bench(&[
        "pair",
        "--url",
        &url,
        "--profile",
        "sat1k",
        "--subs",
        "10",
        "--in-flight",
        "4",
        "--for",
        "300ms",
        "--warm-up",
        "100ms",
        "--json",
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let run: Value = serde_json::from_str(&stdout).expect("JSON");
    let targets: Vec<&str> = run["repetitions"]
        .as_array()
        .expect("repetitions")
        .iter()
        .filter_map(|r| r["target"].as_str())
        .collect();
    assert_eq!(targets, ["tickcast", "ceiling-coalesced"]);
    for found in run["repetitions"].as_array().expect("repetitions") {
        assert!(count(found, "published") > 0);
        assert_eq!(count(found, "delivered"), count(found, "expected"));
    }
    let compared = run["comparisons"].as_array().expect("comparisons");
    assert!(compared.iter().any(|row| row["metric"] == "deliveries_per_s"), "{compared:?}");
}

#[test]
fn alerts_beside_ticks_are_told_apart_and_every_event_is_accounted_for() {
    // Started by the load test, with a journal: what it delivers is on disk.
    let program = env!("CARGO_BIN_EXE_tickcast");
    let (code, stdout, stderr) = bench(&[
        "--spawn",
        program,
        "--profile",
        "alerts",
        "--subs",
        "10",
        "--in-flight",
        "8",
        "--for",
        "300ms",
        "--warm-up",
        "100ms",
        "--repeat",
        "2",
        "--check",
        "--json",
        "--fail-if",
        "alert_lost>0",
        "--fail-if",
        "alert_p99>60s",
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("every account is whole"), "{stderr}");
    let run: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(run["profile"]["alert_every_ns"], 10_000_000);
    for found in run["repetitions"].as_array().expect("repetitions") {
        assert!(count(found, "published") > 0);
        assert_eq!(count(found, "publishes_refused"), 0);
        let alerts = &found["alerts"];
        assert_eq!((count(alerts, "published"), count(alerts, "delivered")), (30, 300));
        assert_eq!((count(alerts, "lost"), count(alerts, "duplicated")), (0, 0));
        assert_eq!(alerts["as_felt"]["count"], 300);
        assert_eq!(alerts["last_subscriber"]["count"], 30);
        assert_eq!(found["as_felt"]["count"], found["delivered"], "ticks apart from alerts");
        let account = &found["account"];
        assert_eq!((count(account, "unaccounted"), count(account, "misordered")), (0, 0));
        let parts = ["received", "conflated", "gapped", "filtered"].map(|part| count(account, part));
        assert_eq!(parts.iter().sum::<u64>(), count(account, "published"));
        assert!(count(account, "received") > count(found, "delivered") + count(alerts, "delivered"));
    }
    // The same beside the bare loop, and for people.
    let (code, stdout, stderr) = bench(&[
        "pair",
        "--spawn",
        program,
        "--profile",
        "alerts",
        "--subs",
        "10",
        "--in-flight",
        "8",
        "--for",
        "300ms",
        "--warm-up",
        "0s",
        "--check",
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    for part in ["alerts, p99 as felt", "ceiling-coalesced", "unaccounted 0   misordered 0"] {
        assert!(stdout.contains(part), "`{part}` is missing in\n{stdout}");
    }
}

#[test]
fn what_a_server_merged_and_told_of_is_accounted_for() {
    // Nobody hears of the server between the first megabyte of a burst and the twenty-fifth: more than sockets
    // and outbox hold, so that quotes of the one symbol are merged.
    const HELD: std::ops::Range<usize> = 1 << 20..25 << 20;
    let server = TestServer::start(&[("outbox.events", "16")]);
    let said = Arc::new((Mutex::new(0), Condvar::new()));
    let saying = Arc::clone(&said);
    let up = move |bytes: &mut [u8]| {
        *saying.0.lock().expect("a lock") += bytes.len();
        saying.1.notify_all();
    };
    let down = move |_: &mut [u8]| {
        let held = said.1.wait_while(said.0.lock().expect("a lock"), |bytes| HELD.contains(bytes));
        drop(held.expect("a lock"));
    };
    let url = format!("ws://{}/ws", between(server.address(), up, down));
    let (code, stdout, stderr) = bench(&[
        "--url",
        &url,
        "--subs",
        "2",
        "--type",
        "market-data",
        "--size",
        "15000",
        "--burst",
        "2000",
        "--every",
        "1s",
        "--for",
        "1s",
        "--warm-up",
        "0s",
        "--check",
        "--json",
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let run: Value = serde_json::from_str(&stdout).expect("JSON");
    let found = &run["repetitions"][0];
    let account = &found["account"];
    assert_eq!(count(account, "published"), count(found, "expected"));
    assert_eq!(count(account, "conflated"), count(found, "conflated_told"));
    assert!(count(account, "conflated") > 0, "the burst was too small to show anything: {account}");
    assert_eq!((count(account, "unaccounted"), count(account, "misordered")), (0, 0));
}

#[test]
fn what_cannot_be_measured_is_said_with_its_exit_code() {
    let (code, _, stderr) = bench(&["--url", "ws://127.0.0.1:1/ws", "--subs", "1"]);
    assert_eq!(code, Some(4), "{stderr}");
    let (code, _, stderr) = bench(&["--topics", "7", "--topics-each", "2"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("multiple"), "{stderr}");
    let (code, _, stderr) = bench(&["--fail-if", "speed>2"]);
    assert_eq!(code, Some(2), "{stderr}");
}

#[test]
fn a_condition_that_holds_fails_the_run() {
    let server = TestServer::start(&[]);
    let url = server.url();
    let (code, stdout, stderr) =
        bench(&["--url", &url, "--subs", "2", "--for", "200ms", "--warm-up", "0s", "--fail-if", "p99>0ns"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stdout.contains("tickcast"), "{stdout}");
}
