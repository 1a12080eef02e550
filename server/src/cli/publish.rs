//! `tickcast pub`: one message, or NDJSON from standard input; each is acknowledged.
#![forbid(unsafe_code)]

use std::io::{self, BufRead};
use std::time::Duration;

use clap::Args;
use tickcast_client::{Client, ClientOptions, Outcome, PublishError, PublishOptions};
use tickcast_compat::native::{NativeMessage, native_decode};
use tickcast_compat::parse::{Limits, parse};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::Role;
use tokio::sync::mpsc;

use super::{Connect, EXIT_CONNECT, EXIT_FAILURE, block_on};
use crate::clock;

/// Lines read ahead of the one that is being published.
const LINES_AHEAD: usize = 64;
/// How long the last replies may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Publish one message, or NDJSON from standard input
#[derive(Args, Debug)]
pub(super) struct Pub {
    /// Topic, such as market_data.BTC-USD; or - for native JSON messages from standard input, one a line
    topic: String,
    /// The message's data, such as '{"bid":1,"ask":2}'
    data: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Pub {
    pub(super) fn run(self) -> u8 {
        block_on(self.publish())
    }

    async fn publish(self) -> u8 {
        let (sender, mut lines) = mpsc::channel(LINES_AHEAD);
        match (self.topic.as_str(), &self.data) {
            ("-", None) => {
                // Reading blocks, and the connection's pings must be answered meanwhile.
                std::thread::spawn(move || {
                    io::stdin().lock().lines().all(|line| sender.blocking_send(line).is_ok())
                });
            }
            ("-", Some(_)) | (_, None) => {
                eprintln!(
                    "error: give a topic and its data, or `-` alone to read NDJSON from standard input"
                );
                return 2;
            }
            (topic, Some(data)) => {
                let Some((type_name, _)) = topic.split_once('.') else {
                    eprintln!("error: a topic is `type.key`, for example market_data.BTC-USD; got `{topic}`");
                    return 2;
                };
                let topic = serde_json::Value::from(topic);
                let type_name = serde_json::Value::from(type_name);
                let line = format!("{{\"type\":{type_name},\"topic\":{topic},\"data\":{data}}}");
                // There is room: it is the only one.
                let _ = sender.try_send(Ok(line));
                drop(sender);
            }
        }
        let mut options = ClientOptions::new(&self.connect.url);
        options.core.role = Role::PUBLISHER;
        let (client, _events) = match Client::connect(options).await {
            Ok(connected) => connected,
            Err(error) => {
                eprintln!("error: cannot connect to {}: {error}", self.connect.url);
                return EXIT_CONNECT;
            }
        };
        let mut code = 0;
        let mut number = 0u64;
        while let Some(line) = lines.recv().await {
            number += 1;
            let line = match line {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => line,
                Err(error) => {
                    eprintln!("error: line {number}: {error}");
                    code = EXIT_FAILURE;
                    break;
                }
            };
            if let Err(error) = publish_line(&client, &line).await {
                eprintln!("error: line {number}: {error}");
                code = EXIT_FAILURE;
            }
        }
        client.close(FLUSH_TIMEOUT).await;
        code
    }
}

async fn publish_line(client: &Client, line: &str) -> Result<(), String> {
    let input = parse(line, &Limits::default()).map_err(|error| error.to_string())?;
    let native = native_decode(&input, clock::unix_nanos() as i64);
    let native = native.map_err(|error| error.to_string())?;
    let NativeMessage { message, topic, id, durability, expires_at, collapse_key, .. } = native;
    let options = PublishOptions {
        topic: topic.to_string(),
        id: id.unwrap_or_default(),
        durability,
        expires_at: Timestamp(expires_at.unwrap_or(0)),
        collapse_key: collapse_key.unwrap_or_default(),
    };
    match client.publish_acked(&message, options).await {
        Ok(Outcome::Accepted { topic, sequence, durability, .. }) => {
            println!("accepted {topic} sequence {sequence} durability {}", durability.name());
            Ok(())
        }
        Ok(Outcome::Refused(error)) => Err(error.to_string()),
        Ok(other) => Err(format!("no reply: {other:?}")),
        Err(PublishError::Full) => Err("the publish queue is full".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
