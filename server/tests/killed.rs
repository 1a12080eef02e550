//! The server is killed under a thousand clients: all are back with their subscriptions, told that the history
//! began anew, and the alerts of those with an identity are complete. Dashboards that subscribe once and never
//! again go on too, if they have a name.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{PATIENCE, Raw, http, tick};
use tempfile::TempDir;
use tickcast_client::{
    Backoff, Client, ClientEvent, ClientOptions, ClientState, Events, GapReason, Identity, Outcome,
    PublishOptions, SubscribeOptions,
};
use tickcast_protocol::message::{Durability, Message, Role};

const CLIENTS: usize = 1_000;
/// Of those, the ones with an identity.
const IDENTITIES: usize = 50;
/// Dashboards of a name each.
const PAGES: usize = 100;
/// Before the kill, and again after it.
const ALERTS: usize = 20;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: nothing is drained, nobody is told.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(port: u16, directory: &Path) -> Server {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tickcast"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--set", "log.level=error"])
        .env("TICKCAST_JOURNAL__DIRECTORY", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(
        lines.by_ref().any(|line| line.expect("text").starts_with("ready in")),
        "it says that it is ready"
    );
    std::thread::spawn(move || lines.for_each(drop));
    Server(child)
}

fn options(url: &str, number: usize) -> ClientOptions {
    let mut options = ClientOptions::new(url);
    // As clients are by default, only less patient: a test has no half minute.
    options.core.backoff = Backoff { longest: Duration::from_secs(1), ..Backoff::default() };
    options.core.seed = number as u64;
    if number < IDENTITIES {
        options.core.identity =
            Some(Identity { name: format!("desk-{number}"), token: format!("secret-{number}") });
    }
    options
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    connections: usize,
    ticks_before: usize,
    told_of_new_history: bool,
    alerts: Vec<String>,
    ended: bool,
}

impl Seen {
    /// True when it has seen the end: the last tick, and the last alert if it has an identity.
    fn is_complete(&self, has_identity: bool) -> bool {
        self.ended && (!has_identity || self.alerts.last().is_some_and(|id| id == "last"))
    }

    fn note(&mut self, event: ClientEvent, client: &Client) {
        match event {
            ClientEvent::State(change) if change.to == ClientState::Connected => self.connections += 1,
            ClientEvent::Data(data) => match data.topic.as_str() {
                "market_data.END" => self.ended = true,
                _ => self.ticks_before += usize::from(self.connections == 1),
            },
            ClientEvent::Gap(gap) => self.told_of_new_history |= gap.reason == GapReason::EpochChanged,
            ClientEvent::Critical(critical) => {
                self.alerts.push(critical.id.clone());
                client.acknowledge([critical.position]);
            }
            _ => {}
        }
    }
}

async fn follow(
    client: Client,
    mut events: Events,
    has_identity: bool,
    ready: tokio::sync::mpsc::Sender<()>,
) -> Seen {
    let mut seen = Seen::default();
    let mut told = false;
    while !seen.is_complete(has_identity) {
        let event = tokio::time::timeout(PATIENCE * 3, events.next()).await.expect("something comes");
        seen.note(event.expect("the client lives"), &client);
        if seen.ticks_before > 0 && !std::mem::replace(&mut told, true) {
            ready.send(()).await.expect("somebody waits");
        }
    }
    seen
}

async fn alert(publisher: &Client, id: String) -> String {
    let Message::RiskAlert(mut alert) = common::sample("risk_alert") else { panic!("risk_alert") };
    alert.message.clone_from(&id);
    loop {
        let options =
            PublishOptions { id: id.clone(), durability: Durability::DISK, ..PublishOptions::default() };
        match publisher
            .publish_acked(&Message::RiskAlert(alert.clone()), options)
            .await
            .expect("a sound alert")
        {
            Outcome::Accepted { .. } => return id,
            Outcome::Refused(error) => panic!("{error}"),
            // The server went away: the same id makes it safe to say again.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[test]
fn a_thousand_clients_of_a_killed_server_are_back_and_alerts_are_complete() {
    let directory = TempDir::new().expect("a directory");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let url = format!("ws://127.0.0.1:{port}/ws");
    let server = serve(port, directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let accepted = runtime.block_on(async {
        let (ready, mut is_ready) = tokio::sync::mpsc::channel(CLIENTS);
        let mut followers = Vec::new();
        for number in 0..CLIENTS {
            let (client, events) = Client::connect(options(&url, number)).await.expect("connects");
            client.watch("market_data.**", SubscribeOptions::default()).expect("a sound filter");
            let has_identity = number < IDENTITIES;
            if has_identity {
                client.watch("risk_alert.**", SubscribeOptions::default()).expect("a sound filter");
            }
            followers.push(tokio::spawn(follow(client, events, has_identity, ready.clone())));
        }
        let mut publisher_options = options(&url, CLIENTS);
        publisher_options.core.role = Role::PUBLISHER;
        let (publisher, _events) = Client::connect(publisher_options).await.expect("connects");
        let mut accepted = BTreeSet::new();

        // Everybody has got something, and some alerts, before the kill.
        let mut waiting = CLIENTS;
        while waiting > 0 {
            publisher.publish(&tick("A", "1.5")).expect("there is room");
            tokio::time::sleep(Duration::from_millis(100)).await;
            while is_ready.try_recv().is_ok() {
                waiting -= 1;
            }
        }
        for number in 0..ALERTS {
            accepted.insert(alert(&publisher, format!("before-{number}")).await);
        }
        drop(server);
        let server = serve(port, directory.path());
        for number in 0..ALERTS {
            accepted.insert(alert(&publisher, format!("after-{number}")).await);
        }
        accepted.insert(alert(&publisher, "last".to_owned()).await);

        // The end is said until all have heard it: a subscriber is back when it gets something.
        let end = tick("END", "1");
        while !followers.iter().all(tokio::task::JoinHandle::is_finished) {
            publisher.publish(&end).expect("there is room");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (number, follower) in followers.into_iter().enumerate() {
            let seen = follower.await.expect("a follower ends by itself");
            assert!(seen.connections >= 2, "client {number} came back");
            assert!(
                seen.told_of_new_history,
                "client {number} was told that its stream's history began anew"
            );
            if number < IDENTITIES {
                let alerts: BTreeSet<_> = seen.alerts.iter().cloned().collect();
                assert_eq!(alerts.len(), seen.alerts.len(), "client {number} was told each alert once");
                assert_eq!(alerts, accepted, "client {number} has every alert that was accepted");
            }
        }
        drop(server);
        accepted.len()
    });
    println!("{CLIENTS} clients back, {accepted} alerts with each of {IDENTITIES} identities");
}

/// What a dashboard is greeted with, and itself.
fn page(port: u16, number: usize) -> (serde_json::Value, Raw) {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut raw =
        Raw::connect(address, &format!("/ws/realtime?client_id=page-{number}"), None).expect("upgrades");
    (raw.next().json()["data"]["subscriptions"].take(), raw)
}

#[test]
fn a_hundred_dashboards_of_a_killed_server_go_on_without_subscribing_again() {
    let directory = TempDir::new().expect("a directory");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let get = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        http(([127, 0, 0, 1], port).into(), &request).1
    };
    let server = serve(port, directory.path());
    let subscribed = |number| {
        let (before, mut raw) = page(port, number);
        assert_eq!(before, serde_json::json!([]));
        for name in ["market_data", "alerts"] {
            raw.send_text(&format!(r#"{{"type":"subscribe","data":{{"subscription_type":"{name}"}}}}"#));
            assert_eq!(raw.next().json()["data"]["status"], "subscribed");
        }
        raw
    };
    let pages: Vec<Raw> = (0..PAGES).map(subscribed).collect();
    let is_saved = |scrape: &str| {
        scrape.lines().any(|line| line == format!("tickcast_sticky_clients {PAGES}"))
            && scrape.lines().any(|line| line == "tickcast_sticky_unsaved 0")
    };
    let began = std::time::Instant::now();
    while !is_saved(&get("/metrics")) {
        assert!(began.elapsed() < PATIENCE, "not on disk: {}", get("/metrics"));
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((server, pages));

    let _server = serve(port, directory.path());
    let mut pages: Vec<Raw> = (0..PAGES)
        .map(|number| {
            let (subscriptions, raw) = page(port, number);
            assert_eq!(subscriptions, serde_json::json!(["alerts", "market_data"]), "page {number}");
            raw
        })
        .collect();
    let mut publisher = Raw::binary(([127, 0, 0, 1], port).into(), Role::PUBLISHER);
    publisher.say(&tick("A", "1.5"));
    for (number, raw) in pages.iter_mut().enumerate() {
        let told = raw.next().json();
        assert_eq!(
            told["data"]["error_code"], "DATA_GAP",
            "page {number}: what the kill took is said: {told}"
        );
        let tick = raw.next().json();
        assert_eq!(tick["data"]["symbol"], "A", "page {number}: {tick}");
    }
}
