//! `tickcast sub`: a line for each message, or a table of how the streams do.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use tickcast_client::{
    Client, ClientEvent, ClientOptions, ClientState, Critical, Data, GapReason, Kept, SubscribeOptions, text,
};
use tickcast_compat::Stamp;
use tickcast_compat::native::native_encode;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Policy, Start, StreamState, View};
use tickcast_protocol::predicate::PredicateError;
use tickcast_protocol::{Class, DecodeError, Predicate};
use tokio::time::{Instant, interval, sleep_until};

use super::identity::IdentityArgs;
use super::{Connect, EXIT_CONNECT, EXIT_FAILURE, EXIT_INTERRUPTED, block_on};
use crate::clock;
use crate::config::parse_duration;
use crate::session::binary::MAX_HZ;

/// Rows of the table that `--stats` prints.
const ROWS_MAX: usize = 30;
/// How far away `--for` may be when it is not given: about thirty years.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
/// Events taken at once before what they print is written.
const BATCH: usize = 256;

/// Follow topics: a line for each message
#[derive(Args, Debug)]
pub(super) struct Sub {
    /// Topic or pattern, such as market_data.BTC-USD, market_data.*, risk_alert.** or **
    pattern: String,
    /// Only events that pass this condition, such as 'price>100 and venue=binance'
    #[arg(long, value_name = "PREDICATE", value_parser = parse_predicate)]
    filter: Option<Predicate>,
    /// Only these symbols, separated by commas; together with --filter, both must hold
    #[arg(long, value_name = "SYMBOLS", value_delimiter = ',')]
    symbols: Vec<String>,
    /// At most this many events a second of each key, 0.01 to 1000
    #[arg(long, value_name = "HZ", value_parser = parse_rate)]
    max_hz: Option<f64>,
    /// What the server does when we read too slowly
    #[arg(long, value_name = "POLICY", value_parser = parse_policy, default_value = "default")]
    policy: Policy,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Print native JSON, a line for each message
    #[arg(long)]
    json: bool,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Stop after this time, such as 10s or 5m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Print no messages but a table of rate, age, gaps and staleness, renewed each second
    #[arg(long)]
    stats: bool,
    /// Begin with the last value of each key
    #[arg(long, conflicts_with = "since")]
    snapshot: bool,
    /// Begin with what was published since: a time ago, such as 5m, or a time, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<FromTime>,
}

/// Where in the past to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FromTime {
    /// So long ago.
    Ago(Duration),
    /// At this time, in ns since the Unix epoch.
    At(u64),
}

impl FromTime {
    fn unix_nanos(self) -> u64 {
        match self {
            Self::Ago(time) => {
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                clock::unix_nanos().saturating_sub(nanos)
            }
            Self::At(time) => time,
        }
    }
}

/// What was seen of one topic.
#[derive(Default)]
struct Row {
    received: u64,
    since_last: u64,
    sequence: u64,
    age_ns: i64,
    gapped: u64,
    conflated: u64,
    stale: bool,
    /// As the server says.
    state: StreamState,
}

/// What was seen of everything.
struct Seen {
    began: Instant,
    received: u64,
    gapped: u64,
    conflated: u64,
    ages: Vec<i64>,
    rows: BTreeMap<String, Row>,
}

/// Ages kept for the summary's percentiles; more are sampled no further.
const AGES_MAX: usize = 100_000;

impl Sub {
    pub(super) fn run(self) -> u8 {
        block_on(self.follow())
    }

    async fn follow(self) -> u8 {
        let mut options = ClientOptions::new(&self.connect.url);
        options.core.identity = match self.identity.load() {
            Ok(identity) => identity,
            Err(error) => {
                eprintln!("error: {error}");
                return EXIT_FAILURE;
            }
        };
        let (client, mut events) = match Client::connect(options).await {
            Ok(connected) => connected,
            Err(error) => {
                eprintln!("error: cannot connect to {}: {error}", self.connect.url);
                eprintln!("is the server running? start one with: tickcast serve --demo");
                return EXIT_CONNECT;
            }
        };
        let start = if self.snapshot { Start::SNAPSHOT } else { Start::LIVE };
        let predicate = match self.predicate() {
            Ok(predicate) => predicate,
            Err(error) => {
                eprintln!("error: --symbols with --filter: {error}");
                return EXIT_FAILURE;
            }
        };
        let (policy, max_hz) = (self.policy, self.max_hz.unwrap_or(0.0));
        let since = self.since.map(FromTime::unix_nanos);
        let options =
            SubscribeOptions { start, since, policy, predicate, max_hz, ..SubscribeOptions::default() };
        let mut subscription = match client.subscribe(&self.pattern, options).await {
            Ok(subscription) => subscription,
            Err(error) => {
                eprintln!("error: cannot subscribe to `{}`: {error}", self.pattern);
                return EXIT_FAILURE;
            }
        };
        eprintln!("connected to {}", self.connect.url);
        let mut seen = Seen {
            began: Instant::now(),
            received: 0,
            gapped: 0,
            conflated: 0,
            ages: Vec::new(),
            rows: BTreeMap::new(),
        };
        let end = sleep_until(seen.began + self.duration.unwrap_or(FOR_EVER));
        tokio::pin!(end);
        let mut each_second = interval(Duration::from_secs(1));
        let mut batch = Vec::with_capacity(BATCH);
        let mut lost = false;
        let code = loop {
            tokio::select! {
                count = subscription.next_batch(&mut batch, BATCH) => {
                    if count == 0 {
                        eprintln!("error: the subscription ended");
                        break EXIT_FAILURE;
                    }
                    match self.show(&mut batch, &mut seen) {
                        Ok(true) => break 0,
                        Ok(false) => {}
                        // Whoever read us has had enough, as `head` does.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break 0,
                        Err(error) => {
                            eprintln!("error: cannot print: {error}");
                            break EXIT_FAILURE;
                        }
                    }
                }
                event = events.next() => match event {
                    Some(ClientEvent::State(change)) => {
                        // The first connection was announced above; what is news is losing it, and coming back.
                        lost |= change.close.is_some();
                        if lost {
                            let close = change.close.map_or(String::new(), |close| format!(" ({close})"));
                            eprintln!("{}{close}", change.to.name());
                        }
                        lost &= change.to != ClientState::Connected;
                        if change.to == ClientState::Disconnected && !change.will_retry {
                            break EXIT_CONNECT;
                        }
                    }
                    Some(ClientEvent::ServerError(error)) => eprintln!("error: {error}"),
                    Some(ClientEvent::Critical(critical)) => {
                        match self.show_critical(&critical, &mut seen) {
                            Ok(enough) => {
                                // What was printed need not come again.
                                client.acknowledge([critical.position]);
                                if enough {
                                    break 0;
                                }
                            }
                            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break 0,
                            Err(error) => {
                                eprintln!("error: cannot print: {error}");
                                break EXIT_FAILURE;
                            }
                        }
                    }
                    Some(ClientEvent::Draining { reconnect_in_ms }) => {
                        eprintln!("the server restarts; coming back in {reconnect_in_ms} ms");
                    }
                    Some(_) => {}
                    None => break EXIT_FAILURE,
                },
                _ = each_second.tick(), if self.stats => seen.print_table(),
                () = end.as_mut() => break 0,
                _ = tokio::signal::ctrl_c() => break EXIT_INTERRUPTED,
            }
        };
        let filtered = subscription.accounts().iter().map(|(.., account)| account.filtered).sum();
        seen.print_summary(filtered);
        client.close(Duration::from_millis(500)).await;
        code
    }

    /// The condition that --filter and --symbols make together.
    fn predicate(&self) -> Result<Option<Predicate>, PredicateError> {
        if self.symbols.is_empty() {
            return Ok(self.filter.clone());
        }
        let quoted: Vec<String> = self.symbols.iter().map(|symbol| quote(symbol)).collect();
        let symbols = format!("symbol in ({})", quoted.join(", "));
        let both = self.filter.as_ref().map(|filter| format!("({filter}) and {symbols}"));
        Predicate::parse(&both.unwrap_or(symbols)).map(Some)
    }

    /// Prints a critical message; true when enough was printed.
    fn show_critical(&self, critical: &Critical, seen: &mut Seen) -> io::Result<bool> {
        seen.received += 1;
        let mut out = io::stdout().lock();
        if self.json {
            let mut line = Vec::new();
            let stamp = Stamp {
                topic: critical.topic.as_str(),
                sequence: critical.sequence,
                publish_time: u64::try_from(critical.accepted_at).unwrap_or(0),
                class: Class::Critical,
            };
            write_json(&stamp, critical.view(), &mut line);
            out.write_all(&line)?;
        } else {
            writeln!(out, "{}", text::critical_line(critical))?;
        }
        out.flush()?;
        Ok(self.count.is_some_and(|count| seen.received >= count))
    }

    /// Prints a batch; true when enough was printed.
    fn show(&self, batch: &mut Vec<ClientEvent>, seen: &mut Seen) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        let mut line = Vec::new();
        for event in batch.drain(..) {
            match event {
                ClientEvent::Data(data) => {
                    seen.note(&data);
                    if self.stats {
                        // The table is printed by the clock.
                    } else if self.json {
                        line.clear();
                        json_line(&data, &mut line);
                        out.write_all(&line)?;
                    } else {
                        writeln!(out, "{}", text::one_line(&data))?;
                    }
                    if self.count.is_some_and(|count| seen.received >= count) {
                        out.flush()?;
                        return Ok(true);
                    }
                }
                ClientEvent::Gap(gap) => {
                    seen.gapped += gap.gapped;
                    seen.conflated += gap.conflated;
                    let row = seen.rows.entry(gap.topic.to_string()).or_default();
                    row.gapped += gap.gapped;
                    row.conflated += gap.conflated;
                    // What was asked for is no news.
                    if !self.stats && gap.reason != GapReason::Rate {
                        eprintln!("gap: {gap}");
                    }
                }
                ClientEvent::Stream(change) => {
                    let state = change.status.state;
                    if !self.stats {
                        eprintln!("{}: {change}", state.name());
                    }
                    seen.rows.entry(change.topic.to_string()).or_default().state = state;
                }
                ClientEvent::HistoryShort { begun, short, .. } => print_short(begun, &short),
                ClientEvent::Stale { topic, age_ns, .. } => {
                    let topic = topic.map_or_else(|| self.pattern.clone(), |topic| topic.to_string());
                    if !self.stats {
                        eprintln!("stale: {topic} for {:.1} s", age_ns as f64 / 1e9);
                    }
                    seen.rows.entry(topic).or_default().stale = true;
                }
                ClientEvent::Fresh { topic, .. } => {
                    let topic = topic.map_or_else(|| self.pattern.clone(), |topic| topic.to_string());
                    if !self.stats {
                        eprintln!("fresh: {topic}");
                    }
                    seen.rows.entry(topic).or_default().stale = false;
                }
                _ => {}
            }
        }
        out.flush()?;
        Ok(false)
    }
}

/// How far back history goes, when that is not as far as was asked for.
fn print_short(begun: u64, short: &[Kept]) {
    let time = |ns: u64| Timestamp(i64::try_from(ns).unwrap_or(i64::MAX));
    if short.is_empty() {
        eprintln!("history: nothing is kept from before {}", time(begun));
    }
    for kept in short.iter().take(ROWS_MAX) {
        let Kept { topic, oldest, oldest_time, .. } = kept;
        if *oldest_time == 0 {
            eprintln!("history: {topic} is not kept");
        } else {
            eprintln!("history: {topic} is kept from seq {oldest} on, at {}", time(*oldest_time));
        }
    }
    if let Some(more) = short.len().checked_sub(ROWS_MAX).filter(|more| *more > 0) {
        eprintln!("history: … and {more} more streams");
    }
}

/// A text as a predicate quotes it.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn parse_predicate(text: &str) -> Result<Predicate, String> {
    Predicate::parse(text).map_err(|error| error.to_string())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let hz: f64 = text.parse().map_err(|_| "a number is wanted, such as 10 or 0.5".to_owned())?;
    if MAX_HZ.contains(&hz) {
        Ok(hz)
    } else {
        Err(format!("{} to {} is allowed", MAX_HZ.start(), MAX_HZ.end()))
    }
}

fn parse_since(text: &str) -> Result<FromTime, String> {
    if let Some(time) = Timestamp::parse(text).filter(|_| text.contains(['-', ':'])) {
        return u64::try_from(time.0).map(FromTime::At).map_err(|_| "a time since 1970 is wanted".to_owned());
    }
    parse_duration(text)
        .map(FromTime::Ago)
        .map_err(|error| format!("{error}; or a time such as 2026-01-31T12:00:00Z"))
}

fn parse_policy(text: &str) -> Result<Policy, String> {
    let known = Policy::NAMES.members.iter().find(|(_, name)| *name == text);
    known
        .map(|(number, _)| Policy(*number))
        .ok_or_else(|| format!("{} is allowed", Policy::NAMES.names.join(", ")))
}

/// One message as native JSON, with a line break.
fn json_line(data: &Data, out: &mut Vec<u8>) {
    let stamp = Stamp {
        topic: data.topic.as_str(),
        sequence: data.sequence(),
        publish_time: data.publish_time(),
        class: data.class,
    };
    write_json(&stamp, data.view(), out);
}

fn write_json(stamp: &Stamp<'_>, view: Result<View<'_>, DecodeError>, out: &mut Vec<u8>) {
    match view {
        Ok(view) => native_encode(stamp, view, out),
        Err(error) => {
            let unread = serde_json::json!({"topic": stamp.topic, "error": error.to_string()});
            out.extend_from_slice(unread.to_string().as_bytes());
        }
    }
    out.push(b'\n');
}

impl Seen {
    fn note(&mut self, data: &Data) {
        self.received += 1;
        let age_ns = data.age_ns().max(0);
        if self.ages.len() < AGES_MAX {
            self.ages.push(age_ns);
        }
        let row = match self.rows.get_mut(data.topic.as_str()) {
            Some(row) => row,
            None => self.rows.entry(data.topic.to_string()).or_default(),
        };
        row.received += 1;
        row.since_last += 1;
        row.sequence = data.sequence();
        row.age_ns = age_ns;
        row.stale = false;
    }

    fn print_table(&mut self) {
        let mut table = String::new();
        if io::stdout().is_terminal() {
            // Clear the screen and go to its top.
            table.push_str("\x1b[2J\x1b[H");
        }
        let _ = writeln!(
            table,
            "{:<32} {:>9} {:>7} {:>10} {:>9} {:>8} {:>10}  state",
            "topic", "received", "1/s", "sequence", "age ms", "gapped", "conflated"
        );
        let more = self.rows.len().saturating_sub(ROWS_MAX);
        for (topic, row) in self.rows.iter_mut().take(ROWS_MAX) {
            let _ = writeln!(
                table,
                "{topic:<32} {:>9} {:>7} {:>10} {:>9.3} {:>8} {:>10}  {}",
                row.received,
                row.since_last,
                row.sequence,
                row.age_ns as f64 / 1e6,
                row.gapped,
                row.conflated,
                match row.state {
                    // An entry of our own counts as live.
                    StreamState(0) | StreamState::LIVE if row.stale => "stale",
                    StreamState(0) => "live",
                    state => state.name(),
                },
            );
        }
        self.rows.values_mut().for_each(|row| row.since_last = 0);
        if more > 0 {
            let _ = writeln!(table, "… and {more} more");
        }
        // A table nobody reads is no reason to stop.
        let _ = io::stdout().write_all(table.as_bytes());
    }

    fn print_summary(&mut self, filtered: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.ages.sort_unstable();
        let percentile = |share: f64| {
            let at = (self.ages.len() as f64 * share) as usize;
            self.ages.get(at.min(self.ages.len().saturating_sub(1))).map_or(0.0, |ns| *ns as f64 / 1e6)
        };
        eprintln!(
            "{} messages in {seconds:.1} s ({:.0}/s) · {} lost · {} conflated · {filtered} filtered · age p50 {:.2} ms p99 {:.2} ms",
            self.received,
            self.received as f64 / seconds.max(0.001),
            self.gapped,
            self.conflated,
            percentile(0.50),
            percentile(0.99),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_ago_or_a_time() {
        assert_eq!(parse_since("5m"), Ok(FromTime::Ago(Duration::from_secs(300))));
        let at = FromTime::At(1_769_860_800_000_000_000);
        assert_eq!(parse_since("2026-01-31T12:00:00Z"), Ok(at));
        assert_eq!(at.unix_nanos(), 1_769_860_800_000_000_000);
        for wrong in ["5", "yesterday", "", "1900-01-01T00:00:00Z"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }
}
