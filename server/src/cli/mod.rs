//! The command line: one verb a file, examples in the help, data to stdout and talk to stderr.
//!
//! Exit codes: 0 ok, 1 failure while running, 2 usage or settings, 3 a condition of `bench --fail-if` or
//! an account that `bench --check` found off, 4 cannot connect, 78 a bind that is refused for safety, 130 interrupted
//! (`record` ends with 0 then: that is how one is ended).
#![forbid(unsafe_code)]

mod bench;
mod identity;
mod publish;
mod record;
mod replay;
mod serve;
mod settings;
mod subscribe;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Something went wrong while running.
pub const EXIT_FAILURE: u8 = 1;
/// The server cannot be reached.
pub const EXIT_CONNECT: u8 = 4;
/// Ended by Ctrl-C.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Real-time market data, alerts and risk to every screen and algorithm.
#[derive(Parser, Debug)]
#[command(name = "tickcast", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  tickcast serve --demo                              a server with a made-up market
  tickcast sub 'market_data.*'                       a line for each message
  tickcast sub 'risk_alert.**' --json | jq .data     NDJSON
  tickcast pub market_data.BTC-USD '{\"bid\":1,\"ask\":2}'
  tickcast record 'market_data.*' --out ticks.tcr --for 10m
  tickcast replay ticks.tcr --speed 10x
  tickcast replay trades.csv --to ws://127.0.0.1:8000/ws --speed 10
  tickcast bench --profile fan1k --url ws://127.0.0.1:8000/ws
  tickcast config init > tickcast.toml";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run the server
    Serve(serve::Serve),
    /// Follow topics: a line for each message
    Sub(subscribe::Sub),
    /// Publish one message, or NDJSON from standard input
    Pub(publish::Pub),
    /// Record what is published to a file, for `tickcast replay`
    Record(record::Record),
    /// Publish recorded files to a server
    Replay(replay::Replay),
    /// Measure a server under load, and how far from the machine's limit it is
    Bench(Box<bench::BenchVerb>),
    /// Write, check or show settings
    Config(settings::ConfigVerb),
}

/// Where the server is.
#[derive(Args, Debug, Clone)]
pub struct Connect {
    /// Address of the server
    #[arg(short, long, env = "TICKCAST_URL", default_value = "ws://127.0.0.1:8000/ws", value_name = "URL")]
    pub url: String,
}

/// Runs the program with these arguments.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    ExitCode::from(match cli.verb {
        Verb::Serve(serve) => serve.run(),
        Verb::Sub(sub) => sub.run(),
        Verb::Pub(publish) => publish.run(),
        Verb::Record(record) => record.run(),
        Verb::Replay(replay) => replay.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Config(config) => config.run(),
    })
}

/// Runs a client verb on a runtime of its own.
fn block_on(verb: impl Future<Output = u8>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return EXIT_FAILURE;
        }
    };
    runtime.block_on(verb)
}
