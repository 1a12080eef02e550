//! The command line of `loadtest` and of `tickcast bench`, which are one program.
//!
//! Exit codes: 0 ok, 1 failure while running, 2 usage, 3 a condition of --fail-if or an account that --check
//! found off, 4 cannot connect.
#![forbid(unsafe_code)]

mod overrides;
mod session;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::ceiling::{Ceiling, Mode, Options};
use crate::procfs;
use crate::report::condition::Condition;
use crate::report::{EXIT_CONDITION, account, compare, html, png, summary};
use crate::results::{Run, SCHEMA};
pub use overrides::PlanFlags;
pub use session::Targets;

/// Something went wrong while running.
pub const EXIT_FAILURE: u8 = 1;
/// Flags that make no sense together.
pub const EXIT_USAGE: u8 = 2;
/// The server cannot be reached, or refuses the load.
pub const EXIT_CONNECT: u8 = 4;

const EXAMPLES: &str = "Examples:
  bench --profile fan1k --spawn target/release/tickcast     start a server, measure it, end it
  bench --profile sat1k --url ws://127.0.0.1:8000/ws        measure a server that runs
  bench pair --profile sat1k --repeat 9 --spawn target/release/tickcast
                                                            the server and the bare loop, alternating
  bench ceiling --listen 127.0.0.1:9000                     the bare loop, to be measured like a server
  bench --profile alerts --check --spawn target/release/tickcast
                                                            alerts beside saturated ticks, every event accounted for
  bench --subs 200 --rate 2k --for 10s --report before.html --fail-if 'p99>2ms'
  bench compare before.json after.json";

/// Measure a server under load, open loop, and compare it with the bare loop
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Bench {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: Measure,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Measure a server and the bare loop in turns, and say how far from the limit the server is
    Pair(Box<Pair>),
    /// Run the bare loop: after the handshake it only hands framed bytes to the kernel
    Ceiling(CeilingFlags),
    /// Set two results side by side
    Compare(Compare),
}

#[derive(Args, Debug)]
struct Measure {
    #[command(flatten)]
    plan: PlanFlags,
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    output: Output,
    /// Raise the rate until this no longer holds, such as 'p99<5ms', and say where that was
    #[arg(long, value_name = "CONDITION")]
    find_limit: Option<String>,
}

#[derive(Args, Debug)]
struct Pair {
    #[command(flatten)]
    plan: PlanFlags,
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    output: Output,
    /// Mode of the bare loop; may be repeated
    #[arg(long, value_enum, default_value = "coalesced", value_name = "MODE")]
    ceiling: Vec<Mode>,
}

#[derive(Args, Debug)]
struct Output {
    /// What this run is called [default: the profile's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Measure so many times, each kept
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "N")]
    repeat: u32,
    /// Write the results as JSON to standard output instead of the summary
    #[arg(long)]
    json: bool,
    /// Write the results as JSON to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write an HTML report to this file; JSON and two PNG plots go beside it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Exit with 3 when this holds, such as 'p99>2ms' or 'lost>0'; may be repeated
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<String>,
}

#[derive(Args, Debug)]
struct CeilingFlags {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// How messages are handed to the kernel
    #[arg(long, value_enum, default_value = "coalesced")]
    mode: Mode,
    /// Bytes of a message for JSON subscribers, WebSocket head included
    #[arg(long, default_value_t = 190, value_name = "BYTES")]
    json_bytes: usize,
    /// Core to pin it to
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// End when standard input does
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

#[derive(Args, Debug)]
struct Compare {
    /// Results of the first run
    before: PathBuf,
    /// Results of the second
    after: PathBuf,
    /// Write an HTML page with both to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Bench {
    /// Runs it and returns the exit code. `verbs` are the arguments that lead to it in the running program:
    /// none for `loadtest`, `bench` for `tickcast`.
    #[must_use]
    pub fn run(self, verbs: &[&str]) -> u8 {
        let done = match self.verb {
            None => self.run.run(verbs),
            Some(Verb::Pair(pair)) => pair.run(verbs),
            Some(Verb::Ceiling(flags)) => flags.run(),
            Some(Verb::Compare(compare)) => compare.run(),
        };
        done.unwrap_or_else(|failure| {
            eprintln!("error: {:#}", failure.error);
            failure.code
        })
    }
}

/// Why it ended.
pub(crate) struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    fn usage(text: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, error: anyhow::Error::msg(text.into()) }
    }

    fn connect(error: anyhow::Error) -> Self {
        Self { code: EXIT_CONNECT, error }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: EXIT_FAILURE, error }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: EXIT_FAILURE, error: error.into() }
    }
}

impl Measure {
    fn run(self, verbs: &[&str]) -> Result<u8, Failure> {
        let conditions = conditions(&self.output.fail_if)?;
        let limit = self.find_limit.as_deref().map(condition).transpose()?;
        let mut session = session::Session::new(&self.plan, &self.targets, verbs)?;
        let mut run = session.empty_run(self.output.name.clone());
        match limit {
            Some(limit) => session.find_limit(&mut run, &limit)?,
            None => session.repeat(&mut run, self.output.repeat)?,
        }
        self.output.write(&run, &conditions)
    }
}

impl Pair {
    fn run(self, verbs: &[&str]) -> Result<u8, Failure> {
        let conditions = conditions(&self.output.fail_if)?;
        let mut session = session::Session::new(&self.plan, &self.targets, verbs)?;
        let mut run = session.empty_run(self.output.name.clone());
        session.pair(&mut run, self.output.repeat, &self.ceiling)?;
        self.output.write(&run, &conditions)
    }
}

fn condition(text: &str) -> Result<Condition, Failure> {
    Condition::parse(text).map_err(|error| Failure::usage(error.to_string()))
}

fn conditions(texts: &[String]) -> Result<Vec<Condition>, Failure> {
    texts.iter().map(|text| condition(text)).collect()
}

impl Output {
    fn write(&self, run: &Run, conditions: &[Condition]) -> Result<u8, Failure> {
        let json = || serde_json::to_string_pretty(run).map_err(anyhow::Error::from);
        if self.json {
            writeln!(std::io::stdout(), "{}", json()?)?;
        } else {
            write!(std::io::stdout(), "{}", summary::text(run))?;
        }
        if let Some(path) = &self.out {
            write_file(path, json()?.as_bytes())?;
        }
        if let Some(path) = &self.report {
            write_file(path, html::page(run).as_bytes())?;
            write_file(&path.with_extension("json"), json()?.as_bytes())?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            for (what, image) in [("latency", png::latency(run)), ("throughput", png::throughput(run))] {
                match image {
                    Ok(image) => write_file(&path.with_file_name(format!("{stem}-{what}.png")), &image)?,
                    Err(error) => eprintln!("no {what} plot: {error}"),
                }
            }
        }
        let mut code = 0;
        for condition in conditions {
            let outcome = condition.judge(run);
            eprintln!("{}", outcome.sentence);
            if outcome.fails {
                code = EXIT_CONDITION;
            }
        }
        if run.profile.accounts {
            let outcome = account::judge(run);
            eprintln!("--check: {}", outcome.sentence);
            if outcome.fails {
                code = EXIT_CONDITION;
            }
        }
        Ok(code)
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error| anyhow::Error::new(error).context(format!("cannot write {}", path.display()));
    Ok(fs::write(path, bytes).map_err(failed)?)
}

impl CeilingFlags {
    fn run(self) -> Result<u8, Failure> {
        let _ = procfs::raise_descriptor_limit();
        if let Some(core) = self.core {
            procfs::pin(core)?;
        }
        let options = Options {
            listen: self.listen,
            mode: self.mode,
            json_bytes: self.json_bytes,
            talk: !self.until_stdin_ends,
        };
        let ceiling = Ceiling::bind(options)?;
        eprintln!("{} on ws://{}/ws; counters at /stats", self.mode.target(), ceiling.address()?);
        let stdin = std::io::stdin();
        ceiling.run(self.until_stdin_ends.then_some(&stdin))?;
        Ok(0)
    }
}

impl Compare {
    fn run(self) -> Result<u8, Failure> {
        let read = |path: &Path| -> Result<Run, Failure> {
            let failed = || format!("cannot read {}", path.display());
            let text =
                fs::read_to_string(path).map_err(|error| anyhow::Error::new(error).context(failed()))?;
            let run: Run =
                serde_json::from_str(&text).map_err(|error| anyhow::Error::new(error).context(failed()))?;
            if run.schema > SCHEMA {
                let text = format!("{} has schema {}, newer than {SCHEMA}", path.display(), run.schema);
                return Err(Failure::usage(text));
            }
            Ok(run)
        };
        let (before, after) = (read(&self.before)?, read(&self.after)?);
        write!(std::io::stdout(), "{}", compare::compare(&before, &after).text())?;
        if let Some(path) = &self.report {
            write_file(path, html::comparison_page(&before, &after).as_bytes())?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn the_flags_are_sound_and_the_examples_parse() {
        Program::command().debug_assert();
        let examples = EXAMPLES.replace("\\\n", " ");
        let lines = examples.lines().filter_map(|line| line.trim().strip_prefix("bench "));
        for line in lines {
            let told = line.split("   ").next().unwrap_or(line);
            let words = told.split_whitespace().map(|word| word.trim_matches('\''));
            if let Err(error) = Program::try_parse_from(["bench"].into_iter().chain(words)) {
                panic!("{told}: {error}");
            }
        }
    }
}
