//! A run from its first to its last repetition: targets started and ended, progress shown, results gathered.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Failure, PlanFlags};
use crate::ceiling::Mode;
use crate::plan::{Pace, Plan};
use crate::procfs::{self, Process};
use crate::report::compare::pairings;
use crate::report::condition::Condition;
use crate::report::quantity::Quantity;
use crate::results::{Comparison, Repetition, Run, SCHEMA};
use crate::run::{self, Found, Progress, Target};
use crate::spawn::{Program, Server};

/// Rates tried at most while the limit is looked for.
const STEPS_MAX: u32 = 24;
/// A rate of which less is achieved was not kept up with.
const KEPT_UP: f64 = 0.95;
/// A generator busier than this cannot say more.
const BUSY: f64 = 0.95;
/// The limit is known when two rates are this near.
const NEAR: f64 = 1.05;

/// What is measured, and where it runs
#[derive(Args, Debug, Clone)]
pub struct Targets {
    /// Address of a server that runs
    #[arg(short, long, env = "TICKCAST_URL", default_value = "ws://127.0.0.1:8000/ws", value_name = "URL")]
    pub url: String,
    /// Start this program as `PROGRAM serve`, for each repetition anew, and end it afterwards
    #[arg(long, value_name = "PROGRAM")]
    pub spawn: Option<PathBuf>,
    /// A further argument for it, such as --server-arg=--set --server-arg=ring.slots=65536
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub server_arg: Vec<OsString>,
    /// Process to watch [default: the one that listens at the address]
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Core of a server that is started here [default: 0]
    #[arg(long, value_name = "CORE")]
    pub server_core: Option<usize>,
    /// Core of the generator [default: the last one]
    #[arg(long, value_name = "CORE")]
    pub generator_core: Option<usize>,
}

/// Everything that stays the same over the repetitions of a run.
pub(super) struct Session<'a> {
    plan: Plan,
    overrides: Vec<String>,
    targets: &'a Targets,
    verbs: Vec<OsString>,
    server_core: Option<usize>,
    generator_core: Option<usize>,
    descriptors_max: u64,
    bar: ProgressBar,
}

impl<'a> Session<'a> {
    pub(super) fn new(flags: &PlanFlags, targets: &'a Targets, verbs: &[&str]) -> Result<Self, Failure> {
        let (plan, overrides) = flags.plan().map_err(Failure::usage)?;
        let descriptors_max = procfs::raise_descriptor_limit();
        if plan.connections() as u64 + 32 > descriptors_max {
            return Err(Failure::usage(format!(
                "{} connections do not fit the limit of {descriptors_max} descriptors: raise ulimit -n or lower --subs",
                plan.connections()
            )));
        }
        let cores = procfs::cores();
        // On a single core pinning would only tie the two together.
        let server_core = targets.server_core.or((cores > 1).then_some(0));
        let generator_core = targets.generator_core.or((cores > 1).then_some(cores - 1));
        if let Some(core) = generator_core {
            procfs::pin(core).map_err(|error| {
                Failure::usage(format!("cannot pin the generator to core {core}: {error}"))
            })?;
        }
        let bar = ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {msg}") {
            bar.set_style(style.progress_chars("█▉ "));
        }
        Ok(Self {
            plan,
            overrides,
            targets,
            verbs: verbs.iter().map(OsString::from).collect(),
            server_core,
            generator_core,
            descriptors_max,
            bar,
        })
    }

    /// What is known before anything was measured.
    pub(super) fn empty_run(&self, name: Option<String>) -> Run {
        let mut machine = procfs::machine(self.descriptors_max);
        machine.generator_core = self.generator_core.map(|core| core as u64);
        machine.server_core =
            self.server_core.filter(|_| self.targets.spawn.is_some()).map(|core| core as u64);
        Run {
            schema: SCHEMA,
            name: name.unwrap_or_else(|| self.plan.name.to_owned()),
            profile: self.plan.facts(self.overrides.clone()),
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            started_at: jiff::Timestamp::now().to_string(),
            machine,
            versions: procfs::versions(),
            ..Run::default()
        }
    }

    /// Measures the one target so many times.
    pub(super) fn repeat(&mut self, run: &mut Run, times: u32) -> Result<(), Failure> {
        for number in 1..=times {
            let found = self.measure_server(&self.plan, number, times)?;
            run.versions.server = found.server.or(run.versions.server.take());
            run.repetitions.push(found.repetition);
        }
        self.bar.finish_and_clear();
        Ok(())
    }

    /// Measures the server and each ceiling in turns, the first of them changing with every repetition.
    pub(super) fn pair(&mut self, run: &mut Run, times: u32, modes: &[Mode]) -> Result<(), Failure> {
        let json_bytes = Cell::new(0);
        for number in 1..=times {
            // The size of JSON messages is learnt from the server, so it is the first one once.
            let server_first = number % 2 == 1;
            let server = |run: &mut Run| -> Result<(), Failure> {
                let found = self.measure_server(&self.plan, number, times)?;
                json_bytes.set(json_bytes_of(&found.repetition).unwrap_or(json_bytes.get()));
                run.versions.server = found.server.or(run.versions.server.take());
                run.repetitions.push(found.repetition);
                Ok(())
            };
            if server_first {
                server(run)?;
            }
            for mode in modes {
                let found = self.measure_ceiling(*mode, json_bytes.get(), number, times)?;
                run.repetitions.push(found.repetition);
            }
            if !server_first {
                server(run)?;
            }
        }
        self.bar.finish_and_clear();
        run.comparisons = comparisons(run);
        Ok(())
    }

    /// Raises the rate until the condition no longer holds, then closes in on the last one that did.
    pub(super) fn find_limit(&mut self, run: &mut Run, condition: &Condition) -> Result<(), Failure> {
        let Pace::Rate(first) = self.plan.pace else {
            return Err(Failure::usage("--find-limit needs a profile with a rate, or --rate"));
        };
        let (mut good, mut bad) = (None, None);
        let mut rate = first;
        for number in 1..=STEPS_MAX {
            let plan = Plan { pace: Pace::Rate(rate), ..self.plan.clone() };
            let found = self.measure_server(&plan, number, STEPS_MAX)?.repetition;
            let (achieved, limited) = (found.achieved_per_s, found.generator.cpu_share > BUSY);
            let one = Run { repetitions: vec![found], ..run.clone() };
            let holds = condition.holds(&one).ok_or_else(|| {
                Failure::usage("the condition of --find-limit names what this profile does not measure")
            })?;
            run.repetitions.extend(one.repetitions);
            if limited {
                run.notes.push(format!("at {rate:.0} messages a second the generator was the limit"));
            }
            let kept_up = achieved > KEPT_UP * rate;
            *(if holds && kept_up && !limited { &mut good } else { &mut bad }) = Some(rate);
            rate = match (good, bad) {
                (Some(good), None) => good * 2.0,
                (None, Some(bad)) if bad < 1.0 => break,
                (None, _) => rate / 2.0,
                (Some(good), Some(bad)) if bad / good < NEAR => break,
                (Some(good), Some(bad)) => f64::midpoint(good, bad),
            };
        }
        self.bar.finish_and_clear();
        run.notes.push(match good {
            Some(rate) => format!("the condition held up to {rate:.0} messages a second"),
            None => "the condition held at no rate that was tried".to_owned(),
        });
        Ok(())
    }

    fn measure_server(&self, plan: &Plan, number: u32, times: u32) -> Result<Found, Failure> {
        match &self.targets.spawn {
            Some(program) => {
                let server = Server::start(&self.tickcast(program)).map_err(Failure::connect)?;
                self.measure(plan, &server.target, number, times)
            }
            None => {
                let address = address(&self.targets.url)?;
                let given = self.targets.server_pid.map(|pid| Process { pid });
                let process = given.or_else(|| Process::listening_at(address));
                let target = Target { address, process, label: self.targets.url.clone() };
                self.measure(plan, &target, number, times)
            }
        }
    }

    fn measure_ceiling(
        &self,
        mode: Mode,
        json_bytes: usize,
        number: u32,
        times: u32,
    ) -> Result<Found, Failure> {
        let server = Server::start(&self.ceiling(mode, json_bytes)?).map_err(Failure::connect)?;
        self.measure(&self.plan, &server.target, number, times)
    }

    fn measure(&self, plan: &Plan, target: &Target, number: u32, times: u32) -> Result<Found, Failure> {
        self.bar.set_prefix(format!("{} {number}/{times}", target.label));
        let mut show = |progress| match progress {
            Progress::Connected(live) => {
                self.bar.set_position(0);
                self.bar.set_message(format!("{live} connected"));
            }
            Progress::Measured(share, count) => {
                self.bar.set_position((share * 1_000.0) as u64);
                self.bar.set_message(format!("{count} delivered"));
            }
        };
        let mut found = run::repetition(plan, target, &mut show).map_err(Failure::connect)?;
        found.repetition.number = u64::from(number);
        // The kernel is given a moment to forget ten thousand sockets.
        std::thread::sleep(Duration::from_millis(50));
        Ok(found)
    }

    fn tickcast(&self, program: &std::path::Path) -> Program {
        let mut arguments: Vec<OsString> = ["serve", "--listen", "127.0.0.1:0"].map(OsString::from).to_vec();
        let connections = (self.plan.connections() + 64).max(1_024);
        let mut set = |pair: String| arguments.extend(["--set".into(), OsString::from(pair)]);
        set(format!("limits.connections={connections}"));
        set("log.level=warn".to_owned());
        if self.plan.formats.iter().any(|(format, _)| format.is_json()) {
            set("json.case=auto".to_owned());
        }
        // A journal of its own: that of another run, or of a server that serves, is none of our business.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let (own, number) = (std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let scratch = std::env::temp_dir().join(format!("tickcast-loadtest-{own}-{number}"));
        set(format!("journal.directory={}", scratch.display()));
        arguments.extend(self.targets.server_arg.iter().cloned());
        Program {
            label: "tickcast".to_owned(),
            program: program.to_owned(),
            arguments,
            core: self.server_core,
            scratch: Some(scratch),
        }
    }

    fn ceiling(&self, mode: Mode, json_bytes: usize) -> Result<Program, Failure> {
        let mode_name = if mode == Mode::Single { "single" } else { "coalesced" };
        let own = ["ceiling", "--listen", "127.0.0.1:0", "--until-stdin-ends", "--mode", mode_name];
        let mut arguments = self.verbs.clone();
        arguments.extend(own.map(OsString::from));
        arguments.extend(["--json-bytes".into(), OsString::from(json_bytes.to_string())]);
        Ok(Program {
            label: mode.target().to_owned(),
            program: std::env::current_exe()?,
            arguments,
            core: self.server_core,
            scratch: None,
        })
    }
}

/// Mean bytes of a delivery to JSON subscribers, so that the ceiling sends as much.
fn json_bytes_of(found: &Repetition) -> Option<usize> {
    let json = found.by_format.iter().filter(|format| format.format != "binary" && format.delivered > 0);
    let (bytes, count) =
        json.fold((0, 0), |(bytes, count), format| (bytes + format.wire_bytes, count + format.delivered));
    (count > 0).then(|| (bytes as f64 / count as f64).round() as usize)
}

/// The pairings as results carry them.
fn comparisons(run: &Run) -> Vec<Comparison> {
    let mut all = Vec::new();
    for pairing in pairings(run) {
        for row in &pairing.rows {
            let Some(paired) = row.ratio else { continue };
            all.push(Comparison {
                metric: row.figure.name.to_owned(),
                unit: unit(row.figure.quantity).to_owned(),
                target: pairing.target.to_owned(),
                baseline: pairing.baseline.to_owned(),
                of_target: row.of_target,
                of_baseline: row.of_baseline,
                ratio_of_medians: row.of_target.median / row.of_baseline.median,
                paired,
            });
        }
    }
    all
}

/// The base unit in which figures of a quantity are kept.
const fn unit(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Time => "ns",
        Quantity::Rate => "/s",
        Quantity::Bytes => "B",
        Quantity::ByteRate => "B/s",
        Quantity::Count | Quantity::Share | Quantity::Plain => "",
    }
}

/// The address in `ws://HOST:PORT/path`.
fn address(url: &str) -> Result<SocketAddr, Failure> {
    let wrong = || Failure::usage(format!("`{url}` is no address of a server: write ws://HOST:PORT/ws"));
    let rest = url.strip_prefix("ws://").ok_or_else(wrong)?;
    let host = rest.split('/').next().unwrap_or(rest);
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut found = host.to_socket_addrs().map_err(|error| Failure::connect(error.into()))?;
    found.next().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::FormatResult;

    #[test]
    fn the_address_of_a_url_is_found() {
        let found = |url| address(url).ok().map(|address| address.to_string());
        assert_eq!(found("ws://127.0.0.1:8000/ws").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(found("http://127.0.0.1:8000/ws"), None);
    }

    #[test]
    fn the_ceiling_is_told_how_large_json_messages_are() {
        let format = |format: &str, delivered, wire_bytes| FormatResult {
            format: format.to_owned(),
            delivered,
            wire_bytes,
            ..FormatResult::default()
        };
        let found = Repetition {
            by_format: vec![format("binary", 10, 1_320), format("d1-snake", 10, 2_004)],
            ..Repetition::default()
        };
        assert_eq!(json_bytes_of(&found), Some(200));
        assert_eq!(json_bytes_of(&Repetition::default()), None);
    }
}
