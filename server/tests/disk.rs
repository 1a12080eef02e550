//! The journal's disk takes no more, and later does again: alerts are refused as not durable meanwhile, ticks go on,
//! and nothing that was accepted is lost.

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::{PATIENCE, Raw, http, tick};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tickcast_protocol::message::{Ack, Identify, Message, Role, Start};

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(journal: &TempDir) -> Self {
        // A file that may not grow is an error for whoever ignores the signal that comes with it.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" serve --listen 127.0.0.1:0 --set log.level=error"])
            .arg(env!("CARGO_BIN_EXE_tickcast"))
            .env("TICKCAST_JOURNAL__DIRECTORY", journal.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut address = None;
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        for line in lines.by_ref() {
            let line = line.expect("text");
            if let Some(at) = line.find("ws://") {
                address =
                    address.or_else(|| line[at + 5..].split('/').next().and_then(|found| found.parse().ok()));
            }
            if line.starts_with("ready in") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("it says where it listens") }
    }

    /// Most bytes a file of the server may have.
    fn limit_files(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        // As high as it was, where it is lifted.
        let maximum = getrlimit(Resource::Fsize).maximum;
        let current = bytes.or(maximum);
        prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum }).expect("a limit");
    }

    fn get(&self, path: &str) -> String {
        let address = self.address;
        http(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).1
    }

    /// Publishes an alert of some size, and says what became of it.
    fn alert(&self, id: &str) -> Value {
        let message = json!({
            "type": "risk_alert", "topic": "risk_alert.desk", "id": id,
            "data": {
                "risk_type": "other", "severity": "high", "message": "x".repeat(8_000),
                "current_value": "1", "threshold": "1",
            },
        });
        let (address, body) = (self.address, message.to_string());
        let head = format!(
            "POST /api/v1/publish HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        serde_json::from_str(&http(address, &(head + &body)).1).expect("JSON")
    }
}

#[test]
fn a_disk_that_takes_no_more_refuses_alerts_stops_no_tick_and_is_used_again_by_itself() {
    let journal = TempDir::new().expect("a directory");
    let server = Server::start(&journal);
    let mut desk = Raw::binary(server.address, Role::SUBSCRIBER);
    desk.say(&Message::Identify(Identify { request: 1, identity: "desk".into(), token: "secret".into() }));
    assert!(matches!(desk.message(), Message::Identified(_)));
    desk.subscribe(2, "risk_alert.**", Start::LIVE);
    assert!(matches!(desk.message(), Message::Acknowledge(_)));
    let mut screen = Raw::binary(server.address, Role::SUBSCRIBER);
    screen.subscribe(1, "market_data.*", Start::LIVE);
    assert!(matches!(screen.message(), Message::Acknowledge(_)));
    let mut feed = Raw::binary(server.address, Role::PUBLISHER);

    let mut accepted = vec!["first".to_owned()];
    assert_eq!(server.alert("first")["status"], "accepted");
    server.limit_files(Some(4096));
    let began = Instant::now();
    let refused = loop {
        let id = format!("alert-{}", accepted.len());
        let reply = server.alert(&id);
        match reply["status"].as_str() {
            Some("accepted") => accepted.push(id),
            _ => break reply,
        }
        assert!(began.elapsed() < PATIENCE, "the file could grow");
    };
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&json!("not_durable"), &json!("NOT_DURABLE")),
        "{refused}"
    );
    let ready: Value = serde_json::from_str(&server.get("/readyz")).expect("JSON");
    let checks = ready["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["name"] == "journal").expect("one of the journal");
    assert_eq!((&ready["ready"], &check["ok"]), (&json!(true), &json!(false)), "{ready}");
    assert!(server.get("/metrics").contains("tickcast_journal_up 0"));
    // Ticks are none of the journal's business.
    feed.say(&tick("A", "1.5"));
    assert!(matches!(screen.data().1, Message::MarketData(_)));

    server.limit_files(None);
    let began = Instant::now();
    loop {
        let reply = server.alert("last");
        match reply["status"].as_str() {
            Some("accepted" | "duplicate") => break,
            Some("not_durable") => assert!(began.elapsed() < PATIENCE, "it does not recover: {reply}"),
            other => panic!("{other:?} {reply}"),
        }
        std::thread::yield_now();
    }
    assert!(server.get("/metrics").contains("tickcast_journal_up 1"));
    let mut got = Vec::new();
    while got.last().is_none_or(|id| id != "last") {
        if let Message::Deliver(word) = desk.message() {
            got.push(word.id);
            desk.say(&Message::Ack(Ack { through: word.position, spans: Vec::new() }));
        }
    }
    // What was refused may have been kept after all (the disk had not said), and came once then.
    let again: Vec<_> = got.iter().filter(|id| accepted.contains(id)).cloned().collect();
    assert_eq!(again, accepted, "everything that was accepted, once and in order");
}
