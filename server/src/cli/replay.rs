//! `tickcast replay`: recorded files to a server, as a publisher from outside that says it replays.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tickcast_client::{Client, ClientEvent, ClientOptions, ClientState, Events, PublishError, ServerError};
use tickcast_protocol::ErrorCode;
use tickcast_protocol::message::{Role, SourceStatus};

use super::{EXIT_CONNECT, EXIT_FAILURE, EXIT_INTERRUPTED, block_on};
use crate::clock;
use crate::feeds::{Pace, Place, Played, Speed, Tape};

/// How long the server may take to read what is queued at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to answer after that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Publishes queued before we wait for the socket.
const QUEUE_MAX: usize = 1_024;
/// Pause while the queue is full.
const PAUSE: Duration = Duration::from_micros(500);
/// Rows between two looks at what the server said.
const ROWS_PER_LOOK: u64 = 256;
/// Gaps that could not be told, and messages that could not be sent, that are named; the rest is counted.
const NAMED_MAX: u64 = 10;

/// Publish recorded files to a server
#[derive(Args, Debug)]
pub(super) struct Replay {
    /// Recordings of `tickcast record`, played one after the other; or CSV files, merged by time, with a
    /// header: ts_event_ns, symbol and price and size (trades) or bid and ask (quotes)
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
    /// 1 is as recorded, 10 or 10x ten times as fast, max as fast as the server reads
    #[arg(long, default_value = "1")]
    speed: Speed,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    gaps: u64,
    untold: u64,
    unsendable: u64,
    /// Views of books that the server makes itself, and takes from nobody.
    views: u64,
}

impl Replay {
    pub(super) fn run(self) -> u8 {
        block_on(self.replay())
    }

    async fn replay(self) -> u8 {
        let mut tape = match Tape::open(&self.files) {
            Ok(tape) => tape,
            Err(error) => {
                eprintln!("error: {error}");
                return EXIT_FAILURE;
            }
        };
        let mut options = ClientOptions::new(&self.to);
        options.core.role = Role::PUBLISHER;
        options.core.is_replay = true;
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
        let mut tally = Tally::default();
        let publishing = publish(&mut tape, &client, &mut events, self.speed, &bar, &mut tally);
        let outcome = tokio::select! {
            outcome = publishing => outcome,
            _ = tokio::signal::ctrl_c() => Err((EXIT_INTERRUPTED, "interrupted".to_owned())),
        };
        // Nothing more will come of these streams, for whatever reason. Where the client is closed, nobody hears.
        let _ = client.vouch(SourceStatus::CLOSED, &[], Duration::ZERO);
        let unsent = client.flush(FLUSH_TIMEOUT).await;
        hear_out(&client, &mut events, &bar, &mut tally).await;
        let refused = client.stats().refused;
        bar.finish_and_clear();
        client.close(FLUSH_TIMEOUT).await;
        let (published, Tally { gaps, mut untold, unsendable, views }) = (bar.position(), tally);
        let refused = refused.saturating_sub(views);
        if views > 0 {
            eprintln!("{views} views of order books left out: the server makes them itself");
        }
        if let Tape::Recordings(recordings) = &tape {
            let heard = recordings.heard();
            untold += heard.unknown_gaps;
            heard.torn.iter().for_each(|what| eprintln!("warning: {what}"));
            if heard.snapshots > 0 {
                eprintln!("{} last values were no news when they were recorded: left out", heard.snapshots);
            }
            eprintln!("{gaps} gaps told, {untold} could not be told");
        }
        eprintln!(
            "{published} rows published in {:.2} s, {unsent} not sent, {refused} refused",
            began.elapsed().as_secs_f64()
        );
        match outcome {
            Err((code, error)) => {
                eprintln!("error: {error}");
                code
            }
            Ok(()) if unsent > 0 || refused > 0 || unsendable > 0 => EXIT_FAILURE,
            Ok(()) => 0,
        }
    }
}

async fn publish(
    tape: &mut Tape,
    client: &Client,
    events: &mut Events,
    speed: Speed,
    bar: &ProgressBar,
    tally: &mut Tally,
) -> Result<(), (u8, String)> {
    let mut pace = Pace::new(speed);
    for (number, step) in (0u64..).zip(tape) {
        let step = step.map_err(|error| (EXIT_FAILURE, error.to_string()))?;
        if let Some(time) = step.time {
            let wait = pace.due(time, clock::unix_nanos() as i64) - clock::unix_nanos() as i64;
            if wait > 0 {
                tokio::time::sleep(Duration::from_nanos(wait.unsigned_abs())).await;
            }
        }
        match &step.what {
            Played::Row(message) => {
                queue(client, || client.publish(message)).await.map_err(|error| place(step.place, &error))?;
                bar.inc(1);
            }
            Played::Event(event) => match queue(client, || client.publish_frame(&event.frame())).await {
                Ok(()) => bar.inc(1),
                // One message that this server does not take is no reason to keep the others from it.
                Err(error @ PublishError::TooLarge { .. }) => {
                    tally.unsendable += 1;
                    say_some(bar, tally.unsendable, || format!("{}: {error}", event.topic));
                }
                Err(error) => return Err(place(step.place, &error)),
            },
            Played::Gap(gap) if gap.can_be_told() => {
                for count in gap.portions() {
                    queue(client, || client.skip(gap.topic.as_str(), count))
                        .await
                        .map_err(|error| place(step.place, &error))?;
                }
                tally.gaps += 1;
            }
            Played::Gap(gap) => {
                tally.untold += 1;
                say_some(bar, tally.untold, || {
                    let (topic, class) = (&gap.topic, gap.class.name());
                    format!("{topic}: a gap of {} in class {class} cannot be told", gap.count)
                });
            }
        }
        if number % ROWS_PER_LOOK == 0 {
            // Give the socket a turn, and tell what the server refused.
            tokio::task::yield_now().await;
            while let Some(event) = events.try_next() {
                say_refused(&event, bar, tally);
            }
        }
    }
    Ok(())
}

/// Waits until the server has answered what was sent, as far as it answers in order.
async fn hear_out(client: &Client, events: &mut Events, bar: &ProgressBar, tally: &mut Tally) {
    if client.state() != ClientState::Connected {
        return;
    }
    client.ping();
    let answered = async {
        while let Some(event) = events.next().await {
            say_refused(&event, bar, tally);
            if matches!(event, ClientEvent::Pong { .. }) || client.state() != ClientState::Connected {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
}

fn say_refused(event: &ClientEvent, bar: &ProgressBar, tally: &mut Tally) {
    match event {
        ClientEvent::ServerError(error) if is_made_there(error) => tally.views += 1,
        ClientEvent::ServerError(error) => bar.suspend(|| eprintln!("refused: {error}")),
        _ => {}
    }
}

/// The one reason for which a server refuses a message by its depth as forbidden.
fn is_made_there(error: &ServerError) -> bool {
    error.error_code() == Some(ErrorCode::Forbidden) && error.field == "depth"
}

/// Queues something once there is room.
async fn queue(
    client: &Client,
    mut act: impl FnMut() -> Result<(), PublishError>,
) -> Result<(), PublishError> {
    while client.queued() >= QUEUE_MAX {
        tokio::time::sleep(PAUSE).await;
    }
    loop {
        match act() {
            Err(PublishError::Full) => tokio::time::sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}

fn place(place: Place, error: &PublishError) -> (u8, String) {
    (EXIT_FAILURE, format!("{place}: {error}"))
}

fn say_some(bar: &ProgressBar, number: u64, what: impl FnOnce() -> String) {
    if number <= NAMED_MAX {
        bar.suspend(|| eprintln!("{}", what()));
    }
}
