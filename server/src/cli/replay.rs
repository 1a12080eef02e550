//! `tickcast replay`: recorded files to a server, as a publisher from outside.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tickcast_client::{Client, ClientEvent, ClientOptions, PublishError};
use tickcast_protocol::message::Role;

use super::{EXIT_CONNECT, EXIT_FAILURE, EXIT_INTERRUPTED, block_on};
use crate::clock;
use crate::feeds::{Merged, Pace, Speed};

/// How long the server may take to read what is queued at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// Publishes queued before we wait for the socket.
const QUEUE_MAX: usize = 1_024;
/// Pause while the queue is full.
const PAUSE: Duration = Duration::from_micros(500);
/// Rows between two looks at what the server said.
const ROWS_PER_LOOK: u64 = 256;

/// Publish recorded files to a server
#[derive(Args, Debug)]
pub(super) struct Replay {
    /// CSV files with a header: ts_event_ns, symbol and price and size (trades) or bid and ask (quotes)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Address of the server
    #[arg(
        long,
        alias = "url",
        env = "TICKCAST_URL",
        default_value = "ws://127.0.0.1:8000/ws",
        value_name = "URL"
    )]
    to: String,
    /// 1 is as recorded, 10 ten times as fast, max as fast as the server reads
    #[arg(long, default_value = "1")]
    speed: Speed,
}

impl Replay {
    pub(super) fn run(self) -> u8 {
        block_on(self.replay())
    }

    async fn replay(self) -> u8 {
        let rows = match Merged::open(&self.files) {
            Ok(rows) => rows,
            Err(error) => {
                eprintln!("error: {error}");
                return EXIT_FAILURE;
            }
        };
        let mut options = ClientOptions::new(&self.to);
        options.core.role = Role::PUBLISHER;
        // A replay is in no hurry: rows wait for the server rather than being given up.
        options.core.publish_ttl = None;
        let (client, mut events) = match Client::connect(options).await {
            Ok(connected) => connected,
            Err(error) => {
                eprintln!("error: cannot connect to {}: {error}", self.to);
                return EXIT_CONNECT;
            }
        };
        let began = Instant::now();
        // Hidden by itself when nobody is looking.
        let style = ProgressStyle::with_template("{spinner} {pos} rows  {per_sec}  {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        let publishing = publish(rows, &client, &mut events, self.speed, &bar);
        let outcome = tokio::select! {
            outcome = publishing => outcome,
            _ = tokio::signal::ctrl_c() => Err((EXIT_INTERRUPTED, "interrupted".to_owned())),
        };
        let unsent = client.flush(FLUSH_TIMEOUT).await;
        let refused = client.stats().refused;
        bar.finish_and_clear();
        client.close(FLUSH_TIMEOUT).await;
        let published = bar.position();
        eprintln!(
            "{published} rows published in {:.2} s, {unsent} not sent, {refused} refused",
            began.elapsed().as_secs_f64()
        );
        match outcome {
            Err((code, error)) => {
                eprintln!("error: {error}");
                code
            }
            Ok(()) if unsent + usize::try_from(refused).unwrap_or(usize::MAX) > 0 => EXIT_FAILURE,
            Ok(()) => 0,
        }
    }
}

async fn publish(
    rows: Merged<std::fs::File>,
    client: &Client,
    events: &mut tickcast_client::Events,
    speed: Speed,
    bar: &ProgressBar,
) -> Result<(), (u8, String)> {
    let mut pace = Pace::new(speed);
    for (number, row) in (0u64..).zip(rows) {
        let row = row.map_err(|error| (EXIT_FAILURE, error.to_string()))?;
        let wait = pace.due(row.ts, clock::unix_nanos() as i64) - clock::unix_nanos() as i64;
        if wait > 0 {
            tokio::time::sleep(Duration::from_nanos(wait.unsigned_abs())).await;
        }
        while client.queued() >= QUEUE_MAX {
            tokio::time::sleep(PAUSE).await;
        }
        loop {
            match client.publish(&row.message) {
                Ok(()) => break,
                Err(PublishError::Full) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err((EXIT_FAILURE, format!("row {}: {error}", row.line))),
            }
        }
        bar.inc(1);
        if number % ROWS_PER_LOOK == 0 {
            // Give the socket a turn, and tell what the server refused.
            tokio::task::yield_now().await;
            while let Some(event) = events.try_next() {
                if let ClientEvent::ServerError(error) = event {
                    bar.suspend(|| eprintln!("refused: {error}"));
                }
            }
        }
    }
    Ok(())
}
