//! `tickcast bench` against a real server: what was published is what arrives, in each format. Counts are
//! asserted, never times.

mod common;

use std::process::Command;

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
    let server = TestServer::start(&[]);
    let url = server.url();
    let (code, stdout, stderr) = bench(&[
        "--url",
        &url,
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
        "--url",
        &url,
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
    // A second of quotes for ten keys in one burst, through outboxes that hold four: most are conflated.
    let server = TestServer::start(&["outbox.events=16"]);
    let url = server.url();
    let (code, stdout, stderr) = bench(&[
        "--url",
        &url,
        "--subs",
        "4",
        "--type",
        "market-data",
        "--size",
        "4096",
        "--burst",
        "2000",
        "--every",
        "200ms",
        "--for",
        "400ms",
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
    assert!(count(account, "conflated") > 0, "the bursts were too small to show anything: {account}");
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
