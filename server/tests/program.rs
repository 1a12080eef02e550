//! The program from outside: what a newcomer and an operator see.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, Raw, TEXT};
use tempfile::TempDir;
use tickcast_protocol::message::{Message, NoticeKind, Role, Start};

/// The program, running; killed when the test ends before it does.
struct Program {
    child: Child,
    address: SocketAddr,
    _journal: TempDir,
}

impl Program {
    fn serve(arguments: &[&str]) -> Self {
        let journal = TempDir::new().expect("a directory");
        let mut child = tickcast(&["serve", "--listen", "127.0.0.1:0"])
            .env("TICKCAST_JOURNAL__DIRECTORY", journal.path())
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line = line.expect("text");
            if let Some(at) = line.find("ws://") {
                let rest = &line[at + 5..];
                address = address.or_else(|| rest.split('/').next().and_then(|found| found.parse().ok()));
            }
            if line.starts_with("ready in") {
                break;
            }
        }
        // Somebody must go on reading, or a full pipe would stop the program.
        std::thread::spawn(move || for _ in lines {});
        Self { child, address: address.expect("the program says where it listens"), _journal: journal }
    }

    fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// The exit code, within the time the README promises.
    fn wait(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the stop takes at most ten seconds");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tickcast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tickcast"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn status(address: SocketAddr) -> String {
    let request = format!("GET /websocket/status HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    common::http(address, &request).1
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        tickcast(arguments).stderr(Stdio::piped()).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[test]
fn a_newcomer_sees_ticks_move() {
    let program = Program::serve(&["--demo"]);
    let (code, lines, talk) = run(&["sub", "market_data.*", "--url", &program.url(), "--count", "20"]);
    assert_eq!(code, 0, "{talk}");
    assert_eq!(lines.lines().count(), 20);
    let symbols: std::collections::BTreeSet<_> =
        lines.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(symbols.len() >= 3, "{symbols:?}");
    assert!(talk.contains("20 messages"), "the summary goes to stderr: {talk}");

    let (code, lines, _) = run(&["sub", "**", "--url", &program.url(), "--for", "2s", "--json"]);
    assert_eq!(code, 0);
    for line in lines.lines() {
        let message: serde_json::Value = serde_json::from_str(line).expect("a line is one JSON value");
        assert!(message["topic"].as_str().is_some_and(|topic| topic.contains('.')), "{line}");
    }
    let (code, table, _) = run(&["sub", "market_data.*", "--url", &program.url(), "--for", "2s", "--stats"]);
    assert_eq!(code, 0);
    assert!(table.contains("topic") && table.contains("market_data."), "{table}");
}

#[test]
fn a_stop_tells_every_client_and_exits_cleanly() {
    for signal in ["-TERM", "-INT"] {
        let mut program = Program::serve(&["--demo"]);
        let mut binary = Raw::binary(program.address, Role::SUBSCRIBER);
        binary.subscribe(1, "**", Start::LIVE);
        let mut dashboard = Raw::d1(program.address);
        program.signal(signal);
        let notice = loop {
            if let Message::Notice(notice) = binary.message() {
                break notice;
            }
        };
        assert_eq!(notice.kind, NoticeKind::DRAINING);
        assert_eq!(binary.close_code(), Some(1012));
        let told = dashboard.next();
        assert_eq!(told.opcode, TEXT);
        assert_eq!(told.json()["data"]["error_code"], "SERVER_DRAINING");
        assert_eq!(dashboard.close_code(), Some(1012));
        drop((binary, dashboard));
        assert_eq!(program.wait(), Some(0), "{signal}");
    }
}

#[test]
fn a_stalled_client_does_not_hold_up_a_stop() {
    let mut program =
        Program::serve(&["--demo", "--set", "demo.rate=20000", "--set", "server.drain_timeout=500ms"]);
    let mut stalled = Raw::binary(program.address, Role::SUBSCRIBER);
    stalled.subscribe(1, "**", Start::LIVE);
    // It never reads: the socket is full, and more waits, when the stop comes.
    let began = Instant::now();
    while status(program.address).contains("\"queued\":0") {
        assert!(began.elapsed() < PATIENCE);
    }
    program.signal("-TERM");
    assert_eq!(program.wait(), Some(0));
}

#[test]
fn what_is_published_is_what_a_subscriber_prints() {
    let program = Program::serve(&[]);
    let follower = tickcast(&["sub", "public_trade.X", "--url", &program.url(), "--json", "--count", "2"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let began = Instant::now();
    while !status(program.address).contains("\"subscriptions\":1") {
        assert!(began.elapsed() < PATIENCE);
    }
    let (code, reply, _) =
        run(&["pub", "public_trade.X", r#"{"price":2e-06,"size":1.50}"#, "--url", &program.url()]);
    assert_eq!(code, 0);
    assert_eq!(reply.trim(), "accepted public_trade.X sequence 1 durability memory");
    let mut lines = tickcast(&["pub", "-", "--url", &program.url()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = lines.stdin.take().expect("piped");
    stdin.write_all(b"{\"type\":\"nope\",\"data\":{}}\n").unwrap();
    stdin
        .write_all(b"{\"type\":\"public_trade\",\"data\":{\"symbol\":\"X\",\"price\":3,\"size\":4}}\n")
        .unwrap();
    drop(stdin);
    let output = lines.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1), "one line was refused");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("line 1: unknown type `nope`"), "{talk}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("sequence 2"));
    let printed = String::from_utf8(follower.wait_with_output().expect("ends").stdout).unwrap();
    let prices: Vec<_> = printed
        .lines()
        .map(|line| {
            line.split("\"price\":").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("").to_owned()
        })
        .collect();
    assert_eq!(prices, ["0.000002", "3"], "{printed}");
}

#[test]
fn a_replay_names_file_line_and_column_of_what_it_cannot_read() {
    let program = Program::serve(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trades.csv");
    fs::write(
        &path,
        "ts_event_ns,symbol,price,size\n1610064000278000000,BTC,1.5,2\n1610064000278000001,BTC,x,2\n",
    )
    .unwrap();
    let path = path.display().to_string();
    let (code, _, talk) = run(&["replay", &path, "--to", &program.url(), "--speed", "max"]);
    assert_eq!(code, 1);
    assert!(talk.contains("trades.csv") && talk.contains('3') && talk.contains("price"), "{talk}");
    let (code, _, talk) = run(&["replay", "/no/such.csv", "--to", &program.url()]);
    assert_eq!(code, 1, "{talk}");
    assert!(talk.contains("/no/such.csv"), "{talk}");
}

#[test]
fn settings_are_written_checked_and_refused_with_the_fix() {
    let (code, template, _) = run(&["config", "init"]);
    assert_eq!(code, 0);
    assert!(template.contains("TICKCAST_SERVER__LISTEN"), "{template}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tickcast.toml");
    fs::write(&path, &template).unwrap();
    let file = path.display().to_string();
    assert_eq!(run(&["config", "check", &file]).0, 0, "what init writes is sound");
    fs::write(&path, "[server]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let (code, _, talk) = run(&["config", "check", &file]);
    assert_eq!(code, 2);
    assert!(talk.contains("server.lisen") && talk.contains("server.listen"), "{talk}");
    let (code, _, talk) = run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, 78, "{talk}");
    let (code, _, talk) = run(&["serve", "--set", "limits.connections=0"]);
    assert_eq!(code, 2);
    assert!(talk.contains("limits.connections"), "{talk}");
}

#[test]
fn a_server_that_is_not_there_is_said_to_be_not_there() {
    let (code, _, talk) = run(&["sub", "market_data.*", "--url", "ws://127.0.0.1:1/ws"]);
    assert_eq!(code, 4);
    assert!(talk.contains("127.0.0.1:1") && talk.contains("serve --demo"), "{talk}");
    let (code, _, talk) = run(&["sub", "market_dta.*", "--url", "ws://127.0.0.1:1/ws"]);
    assert_eq!(code, 4, "{talk}");
}
