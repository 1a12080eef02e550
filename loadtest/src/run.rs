//! One repetition: connect, warm up, measure, drain, and put what was found together.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::ceiling::Counts;
use crate::clock::{Clock, thread_cpu};
use crate::generator::{Alerts, Generator};
use crate::ledger::latency;
use crate::plan::{Pace, Plan, Shape};
use crate::procfs::{Memory, Process};
use crate::results::{
    Alerts as AlertResults, Connects, FormatResult, Generator as GeneratorFacts, Repetition, Sends,
    ServerUse, SlowReaders,
};

/// Silence after which what has not arrived is not waited for.
const QUIET_NS: u64 = 2_000_000_000;
/// Time for a server to come to rest after the last connect.
const SETTLE: Duration = Duration::from_millis(300);
/// The same where memory at rest is the figure.
const SETTLE_IDLE: Duration = Duration::from_secs(2);
/// A generator busier than this is the limit.
const CPU_SHARE_MAX: f64 = 0.95;
/// A generator later than this share of the median latency is the limit.
const LAG_SHARE_MAX: f64 = 0.10;

/// Who is measured.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process, when it runs on this machine and may be seen.
    pub process: Option<Process>,
    /// What it is called where it does not say so itself.
    pub label: String,
}

/// What a repetition found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The figures.
    pub repetition: Repetition,
    /// What the server calls itself, when it says.
    pub server: Option<String>,
}

/// How far a repetition has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// Connections that are live.
    Connected(usize),
    /// Share of the time measured, and deliveries so far.
    Measured(f64, u64),
}

/// A sample of the server's use at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    cpu: u64,
    system: u64,
    switches: u64,
    memory: Memory,
}

fn sample(process: Option<Process>) -> Option<Sample> {
    let process = process?;
    Some(Sample {
        cpu: process.cpu_ns()?,
        system: process.system_ns().unwrap_or(0),
        switches: process.switches().unwrap_or(0),
        memory: process.memory()?,
    })
}

/// Measures `plan` once.
///
/// # Errors
/// A server that cannot be reached or refuses the load.
pub fn repetition(plan: &Plan, target: &Target, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Found> {
    if plan.slow == 0 {
        return Run::new(plan, target)?.measure(progress);
    }
    // What slow readers cost the others shows only against the same run without them.
    let alone = Plan { slow: 0, ..plan.clone() };
    let without = Run::new(&alone, target)?.measure(progress)?;
    let mut with = Run::new(plan, target)?.measure(progress)?;
    let p99 = |found: &Found| found.repetition.as_felt.as_ref().map(|latency| latency.p99_ns);
    let (slow, fast) = (p99(&with), p99(&without));
    if let Some(readers) = &mut with.repetition.slow {
        readers.p99_without_ns = fast;
        readers.p99_ratio = slow.zip(fast).map(|(slow, fast)| slow as f64 / fast.max(1) as f64);
    }
    // A fault in the run without them is a fault as well.
    if let (Some(account), Some(other)) = (&mut with.repetition.account, &without.repetition.account) {
        account.add(other);
    }
    Ok(with)
}

struct Run<'a> {
    plan: &'a Plan,
    target: &'a Target,
    clock: Clock,
    generator: Generator<'a>,
    started_at: String,
    before: Option<Sample>,
    connected: Option<Sample>,
    peak_rss: u64,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, target: &'a Target) -> anyhow::Result<Self> {
        let clock = Clock::start();
        // Timers of this thread are exact; the default slack is as long as a fast delivery.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        Ok(Self {
            plan,
            target,
            clock,
            generator: Generator::new(plan, target.address, clock)?,
            started_at: jiff::Timestamp::now().to_string(),
            before: sample(target.process),
            connected: None,
            peak_rss: 0,
        })
    }

    fn measure(mut self, progress: &mut dyn FnMut(Progress)) -> anyhow::Result<Found> {
        if self.plan.shape == Shape::Connect {
            return Ok(Found { repetition: self.knock(progress), server: None });
        }
        let began = self.clock.now();
        self.generator.connect_all(|live| progress(Progress::Connected(live)))?;
        let connects = self.connects(self.clock.now() - began);
        let idle = self.plan.shape == Shape::Idle;
        self.rest(if idle { SETTLE_IDLE } else { SETTLE });
        self.connected = sample(self.target.process);
        if !idle && !self.plan.warm_up.is_zero() {
            self.generator.schedule(self.plan.warm_up.as_nanos() as u64, false);
            self.drain(|_| {});
            self.generator.ledger.give_up();
            if let Some(alerts) = &mut self.generator.alerts {
                alerts.ledger.give_up();
            }
        }
        self.measured(connects, progress)
    }

    /// Lets time pass without anything due.
    fn rest(&mut self, time: Duration) {
        let end = self.clock.now() + time.as_nanos() as u64;
        while self.clock.now() < end {
            self.generator.turn(end);
        }
    }

    /// Turns until all that is scheduled was sent and has arrived, or nothing more comes.
    fn drain(&mut self, mut each_turn: impl FnMut(&mut Generator<'_>)) {
        let (mut moved, mut seen) = (self.clock.now(), self.generator.reads);
        loop {
            self.generator.turn(self.clock.now() + 20_000_000);
            each_turn(&mut self.generator);
            let now = self.clock.now();
            if self.generator.reads != seen || !self.generator.is_published() {
                (seen, moved) = (self.generator.reads, now);
            }
            let arrived = self.generator.is_published() && self.generator.in_flight() == 0;
            if arrived || now - moved > QUIET_NS {
                return;
            }
        }
    }

    fn measured(
        mut self,
        mut connects: Connects,
        progress: &mut dyn FnMut(Progress),
    ) -> anyhow::Result<Found> {
        let length = self.plan.measure.as_nanos() as u64;
        let sends_before = self.counts();
        self.generator.wire_bytes.iter_mut().for_each(|bytes| *bytes = 0);
        self.generator.reads = 0;
        let told_before = self.generator.told();
        let gone_before = self.generator.disconnected;
        let server_before = sample(self.target.process);
        let start = self.clock.now();
        self.generator.ledger.measure_from_here(start);
        if let Some(alerts) = &mut self.generator.alerts {
            alerts.ledger.measure_from_here(start);
            alerts.duplicated = 0;
        }
        if self.plan.shape == Shape::Churn {
            self.generator.begin_arrivals(false);
        }
        let own_cpu = thread_cpu();
        self.generator.polled_ns = 0;
        self.generator.schedule(length, true);
        let mut own_share = None;
        let (mut second, mut cpu_seen) = (0, server_before.map_or(0, |sample| sample.cpu));
        let (clock, process, plan) = (self.clock, self.target.process, self.plan);
        let mut peak = self.peak_rss;
        let mut each_turn = |generator: &mut Generator<'_>| {
            let now = clock.now();
            if own_share.is_none() && generator.is_published() && now >= start + length {
                own_share = Some(share(generator, own_cpu, now - start));
                generator.end_arrivals();
            }
            while now >= start + (second + 1) * 1_000_000_000 && (second + 1) * 1_000_000_000 <= length {
                let server = process.and_then(|process| Some((process.cpu_ns()?, process.memory()?.rss)));
                let used = server.map(|(cpu, rss)| (cpu - std::mem::replace(&mut cpu_seen, cpu), rss));
                peak = peak.max(server.map_or(0, |(_, rss)| rss));
                generator.ledger.end_second(second, used);
                second += 1;
                progress(Progress::Measured(
                    (now - start) as f64 / length as f64,
                    generator.ledger.delivered,
                ));
            }
        };
        if plan.pace == Pace::Still {
            let end = start + length;
            while self.clock.now() < end {
                self.generator.turn(end);
                each_turn(&mut self.generator);
            }
        }
        self.drain(&mut each_turn);
        let own_share =
            own_share.unwrap_or_else(|| share(&self.generator, own_cpu, self.clock.now() - start));
        let ended = self.clock.now();
        let server_after = sample(self.target.process);
        let sends_after = self.counts();
        self.peak_rss = peak;
        let ledger = &mut self.generator.ledger;
        // What came after the last whole second belongs to one more.
        ledger.end_second(second, None);
        let alerts = self.generator.alerts.as_mut().map(alert_results);
        let ledger = &self.generator.ledger;
        let elapsed = match plan.pace {
            Pace::Still => ended - start,
            Pace::Window(_) => ledger.last_arrival - start,
            _ => length.max(ledger.last_arrival - start),
        };
        if plan.shape == Shape::Churn {
            connects = self.connects(ended - start);
        }
        let generator = &self.generator;
        let told = generator.told();
        let told =
            (told.0 - told_before.0, told.1 - told_before.1, told.2 - told_before.2, told.3 - told_before.3);
        let ledger = &generator.ledger;
        let (last_felt, last_service) = ledger.last();
        let mut found = Repetition {
            target: self.target_name(),
            number: 1,
            started_at: std::mem::take(&mut self.started_at),
            elapsed_ns: elapsed,
            offered_per_s: plan.offered(),
            achieved_per_s: ledger.published as f64 * 1e9 / elapsed.max(1) as f64,
            published: ledger.published,
            expected: ledger.expected,
            delivered: ledger.delivered,
            lost: ledger.expected.saturating_sub(ledger.delivered + told.0 + told.1 + told.2),
            duplicated: told.3,
            gaps_told: told.0,
            conflated_told: told.1,
            filtered_told: told.2,
            deliveries_per_s: ledger.delivered as f64 * 1e9 / elapsed.max(1) as f64,
            wire_bytes: generator.wire_bytes.iter().sum(),
            by_format: self.by_format(),
            publishes_refused: generator.refused,
            disconnected: generator.disconnected - gone_before,
            as_felt: ledger.felt(None),
            service_only: ledger.service(),
            last_subscriber: last_felt,
            last_subscriber_service: last_service,
            seconds: ledger
                .seconds()
                .iter()
                .filter(|second| second.at_s * 1_000_000_000 < length || second.delivered > 0)
                .cloned()
                .collect(),
            generator: GeneratorFacts { cpu_share: own_share, reads: generator.reads, ..Default::default() },
            server: None,
            sends: sends_before.zip(sends_after).map(|(before, after)| sends(before, after)),
            connects: Some(connects),
            slow: None,
            alerts,
            account: generator.settled(),
        };
        (found.generator.schedule_lag_p99_ns, found.generator.schedule_lag_max_ns) = ledger.lag_p99_and_max();
        judge(&mut found);
        found.server = server_before
            .zip(server_after)
            .map(|(before, after)| self.server_use(before, after, ended - start, found.deliveries()));
        if plan.slow > 0 {
            let growth = self.connected.zip(server_after).map(|(connected, after)| {
                after.memory.anonymous.saturating_sub(connected.memory.anonymous) as f64 / plan.slow as f64
            });
            found.slow = Some(SlowReaders {
                count: plan.slow as u64,
                bytes_each: growth,
                source: "rss".to_owned(),
                disconnected: self.generator.slow_readers_gone(),
                ..SlowReaders::default()
            });
        }
        if found.delivered == 0 && found.expected > 0 {
            let why = self.generator.trouble.as_deref().unwrap_or("and the server did not say why");
            anyhow::bail!("none of {} messages arrived: {why}", found.published);
        }
        Ok(Found { repetition: found, server: self.generator.server_name.take() })
    }

    /// Connections that come and go without saying a word.
    fn knock(&mut self, progress: &mut dyn FnMut(Progress)) -> Repetition {
        let (length, warm_up) = (self.plan.measure.as_nanos() as u64, self.plan.warm_up);
        self.generator.begin_arrivals(true);
        self.rest(warm_up);
        self.generator.arrived.count = 0;
        self.generator.arrived.failed = 0;
        self.generator.arrived.time.reset();
        let before = sample(self.target.process);
        let (start, own_cpu) = (self.clock.now(), thread_cpu());
        let mut said = start;
        while self.clock.now() < start + length {
            self.generator.turn(start + length);
            let now = self.clock.now();
            if now - said > 200_000_000 {
                said = now;
                progress(Progress::Measured(
                    (now - start) as f64 / length as f64,
                    self.generator.arrived.count,
                ));
            }
        }
        let elapsed = self.clock.now() - start;
        let own_share = share(&self.generator, own_cpu, elapsed);
        let after = sample(self.target.process);
        let connects = self.connects(elapsed);
        self.generator.end_arrivals();
        let mut found = Repetition {
            target: self.target_name(),
            number: 1,
            started_at: std::mem::take(&mut self.started_at),
            elapsed_ns: elapsed,
            generator: GeneratorFacts { cpu_share: own_share, ..Default::default() },
            server: before
                .zip(after)
                .map(|(before, after)| self.server_use(before, after, elapsed, connects.upgrades)),
            connects: Some(connects),
            ..Repetition::default()
        };
        judge(&mut found);
        found
    }

    fn target_name(&self) -> String {
        match self.generator.server_name.as_deref().and_then(|name| name.split('/').next()) {
            Some(name) if name == "tickcast" || name.starts_with("ceiling-") => name.to_owned(),
            _ => self.target.label.clone(),
        }
    }

    fn connects(&self, elapsed: u64) -> Connects {
        let arrived = &self.generator.arrived;
        Connects {
            upgrades: arrived.count,
            failed: arrived.failed,
            upgrades_per_s: arrived.count as f64 * 1e9 / elapsed.max(1) as f64,
            time: latency(&arrived.time),
        }
    }

    fn by_format(&self) -> Vec<FormatResult> {
        let ledger = &self.generator.ledger;
        let formats = self.plan.formats.iter().enumerate();
        formats
            .map(|(number, (format, _))| {
                let (delivered, bytes) = (ledger.delivered_in(number), self.generator.wire_bytes[number]);
                let alerts = self.generator.alerts.as_ref();
                let all = delivered + alerts.map_or(0, |alerts| alerts.ledger.delivered_in(number));
                FormatResult {
                    format: format.info().name.to_owned(),
                    delivered,
                    wire_bytes: bytes,
                    bytes_per_delivery: bytes as f64 / all.max(1) as f64,
                    as_felt: ledger.felt(Some(number)),
                }
            })
            .collect()
    }

    fn server_use(&self, before: Sample, after: Sample, elapsed: u64, deliveries: u64) -> ServerUse {
        let cpu = after.cpu.saturating_sub(before.cpu);
        let connections = (self.plan.readers() + self.plan.slow) as f64;
        let grown = self.before.zip(self.connected).map(|(empty, full)| {
            // Not what is mapped from files: the first connections touch the program's code.
            let (full, empty) = (full.memory.anonymous, empty.memory.anonymous);
            full.saturating_sub(empty) as f64 / 1_024.0 / connections.max(1.0)
        });
        ServerUse {
            pid: self.target.process.map_or(0, |process| process.pid),
            cpu_s: cpu as f64 / 1e9,
            cpu_system_s: after.system.saturating_sub(before.system) as f64 / 1e9,
            cpu_share: cpu as f64 / elapsed.max(1) as f64,
            cpu_per_delivery_ns: (deliveries > 0).then(|| cpu as f64 / deliveries as f64),
            rss_before_bytes: self.before.map_or(0, |sample| sample.memory.rss),
            rss_connected_bytes: self.connected.map_or(0, |sample| sample.memory.rss),
            rss_after_bytes: after.memory.rss,
            rss_peak_bytes: self.peak_rss.max(after.memory.rss),
            rss_anon_bytes: after.memory.anonymous,
            pss_bytes: self.target.process.and_then(Process::pss),
            // Slow readers are measured in a server that has had others before.
            kib_per_connection: grown.filter(|_| self.plan.shape != Shape::Connect && self.plan.slow == 0),
            idle_cpu_per_connection_ns: (self.plan.shape == Shape::Idle)
                .then(|| cpu as f64 * 1e9 / elapsed.max(1) as f64 / connections.max(1.0)),
            context_switches: Some(after.switches.saturating_sub(before.switches)),
        }
    }

    /// What a ceiling counted so far; other servers are not asked.
    fn counts(&self) -> Option<Counts> {
        let name = self.target_name();
        name.starts_with("ceiling-").then(|| stats(self.target.address)).flatten()
    }
}

/// Share of a core that the generator needed since its CPU time was `cpu_before`.
fn share(generator: &Generator<'_>, cpu_before: u64, elapsed: u64) -> f64 {
    (thread_cpu() - cpu_before).saturating_sub(generator.polled_ns) as f64 / elapsed.max(1) as f64
}

fn sends(before: Counts, after: Counts) -> Sends {
    let (sends, messages) = (after.sends - before.sends, after.messages - before.messages);
    let bytes = after.bytes - before.bytes;
    Sends {
        sends,
        messages,
        bytes,
        messages_per_send: messages as f64 / sends.max(1) as f64,
        bytes_per_send: bytes as f64 / sends.max(1) as f64,
    }
}

/// Asks a ceiling for its counters.
fn stats(address: SocketAddr) -> Option<Counts> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    socket.write_all(b"GET /stats HTTP/1.1\r\nHost: loadtest\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// What became of the alerts. Their seconds are not told apart.
fn alert_results(alerts: &mut Alerts) -> AlertResults {
    let ledger = &mut alerts.ledger;
    ledger.end_second(0, None);
    let (last_subscriber, last_subscriber_service) = ledger.last();
    let (schedule_lag_p99_ns, schedule_lag_max_ns) = ledger.lag_p99_and_max();
    AlertResults {
        published: ledger.published,
        expected: ledger.expected,
        delivered: ledger.delivered,
        lost: ledger.expected.saturating_sub(ledger.delivered),
        duplicated: alerts.duplicated,
        as_felt: ledger.felt(None),
        service_only: ledger.service(),
        last_subscriber,
        last_subscriber_service,
        schedule_lag_p99_ns,
        schedule_lag_max_ns,
    }
}

/// Says whether the figures speak of the generator.
fn judge(found: &mut Repetition) {
    let p50 = found.as_felt.as_ref().map_or(0, |latency| latency.p50_ns);
    let generator = &mut found.generator;
    let lag = generator.schedule_lag_p99_ns;
    let mut reasons = Vec::new();
    if found.offered_per_s.is_some() && lag as f64 > LAG_SHARE_MAX * p50 as f64 {
        reasons.push(format!(
            "its schedule lag p99 of {:.3} ms is more than a tenth of the median latency, {:.3} ms",
            lag as f64 / 1e6,
            p50 as f64 / 1e6
        ));
    }
    if let Some(alerts) = &found.alerts {
        let (lag, p50) = (alerts.schedule_lag_p99_ns, alerts.as_felt.as_ref().map_or(0, |felt| felt.p50_ns));
        if lag as f64 > LAG_SHARE_MAX * p50 as f64 {
            reasons.push(format!(
                "its schedule lag p99 of {:.3} ms with alerts is more than a tenth of their median latency, {:.3} ms",
                lag as f64 / 1e6,
                p50 as f64 / 1e6
            ));
        }
    }
    if generator.cpu_share > CPU_SHARE_MAX {
        reasons.push(format!("its thread used {:.0} % of a core", generator.cpu_share * 100.0));
    }
    generator.generator_limited = !reasons.is_empty();
    generator.reason = reasons.join(", and ");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Latency;

    fn found(lag: u64, share: f64) -> Repetition {
        Repetition {
            offered_per_s: Some(100.0),
            as_felt: Some(Latency { p50_ns: 1_000_000, ..Latency::default() }),
            generator: GeneratorFacts {
                schedule_lag_p99_ns: lag,
                cpu_share: share,
                ..GeneratorFacts::default()
            },
            ..Repetition::default()
        }
    }

    #[test]
    fn a_generator_that_is_late_or_busy_is_the_limit_and_says_why() {
        for (lag, share, words) in [(99_000, 0.9, ""), (101_000, 0.9, "schedule lag"), (0, 0.97, "97 %")] {
            let mut found = found(lag, share);
            judge(&mut found);
            assert_eq!(found.generator.generator_limited, !words.is_empty());
            assert!(found.generator.reason.contains(words), "{}", found.generator.reason);
        }
    }

    #[test]
    fn late_alerts_are_the_generators_doing_whatever_the_messages_are() {
        for (lag, is_limited) in [(9_000, false), (11_000, true)] {
            let felt = Some(Latency { p50_ns: 100_000, ..Latency::default() });
            let alerts = AlertResults { schedule_lag_p99_ns: lag, as_felt: felt, ..AlertResults::default() };
            let mut found = Repetition { offered_per_s: None, alerts: Some(alerts), ..found(0, 0.5) };
            judge(&mut found);
            assert_eq!(found.generator.generator_limited, is_limited);
            assert_eq!(found.generator.reason.contains("with alerts"), is_limited);
        }
    }

    #[test]
    fn in_a_closed_loop_nothing_is_late() {
        let mut found = Repetition { offered_per_s: None, ..found(500_000, 0.5) };
        judge(&mut found);
        assert!(!found.generator.generator_limited);
    }
}
