//! `tickcast serve`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::EXIT_FAILURE;
use crate::config::{Config, Host, LogFormat, MinDurability, Sources};
use crate::feeds::run::FeedSpec;
use crate::feeds::{MarketConfig, Speed};
use crate::server;

/// What is other in the demo, unless it is set: a silent stream is noticed within seconds, and books have views.
const DEMO_SETTINGS: [(&str, &str); 2] = [("health.stale_after", "5s"), ("books.views", "10")];
/// The whole stop takes at most this long; past it the process ends by itself.
const STOP_MAX: Duration = Duration::from_millis(9_800);

/// Run the server
#[derive(Args, Debug)]
pub(super) struct Serve {
    /// Settings file
    #[arg(short, long, env = "TICKCAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(short, long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Set any key, such as limits.connections=500; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Run a made-up market: 24 symbols, every type of message, one mute symbol and one gap a minute
    #[arg(long)]
    demo: bool,
    /// Publish recorded files: CSV, merged by time, or recordings of `tickcast record`, one after the other
    #[arg(long, value_name = "FILE", num_args = 1..)]
    replay: Vec<PathBuf>,
    /// Speed of the replay: 1 is as recorded, 10 or 10x ten times as fast, max as fast as shards follow
    #[arg(long, default_value = "1", requires = "replay")]
    speed: Speed,
    /// Wait for this many subscriptions before the replay starts
    #[arg(long, value_name = "COUNT", default_value_t = 0, requires = "replay")]
    wait_for: u64,
}

impl Serve {
    pub(super) fn run(self) -> u8 {
        let began = Instant::now();
        let config = match self.load() {
            Ok(config) => config,
            Err(code) => return code,
        };
        start_logging(&config);
        let host = Host { cores: cores(), descriptors: raise_descriptor_limit() };
        let mut feeds = Vec::new();
        if self.demo {
            feeds.push(FeedSpec::Demo(MarketConfig {
                symbols: config.demo.symbols,
                seed: config.demo.seed,
                messages_per_second: u32::try_from(config.demo.rate).unwrap_or(u32::MAX),
            }));
        }
        if !self.replay.is_empty() {
            feeds.push(FeedSpec::Replay { files: self.replay, speed: self.speed, wait_for: self.wait_for });
        }
        tracing::info!(budget = %config.budget(host), "memory budget");
        if config.alerts.min_durability == MinDurability::Memory {
            tracing::warn!(
                "critical messages are kept in memory: they do not survive the end of this process"
            );
        }
        let listen = config.server.listen;
        let demo = self.demo.then(|| {
            format!(
                "demo market: {} symbols, ~{} msg/s, seed {}",
                config.demo.symbols, config.demo.rate, config.demo.seed
            )
        });
        let running = match server::start(config, host, feeds) {
            Ok(running) => running,
            Err(error) => {
                eprintln!("error: cannot serve on {listen}: {error}");
                return EXIT_FAILURE;
            }
        };
        greet(running.address(), demo.as_deref(), began.elapsed());
        wait_for_signal();
        tracing::info!("stopping: telling clients, flushing what is queued");
        // A stop that hangs is worse than one that is cut short.
        std::thread::spawn(|| {
            std::thread::sleep(STOP_MAX);
            eprintln!("error: the stop took longer than {} s and was cut short", STOP_MAX.as_secs_f32());
            process::exit(EXIT_FAILURE.into());
        });
        running.stop();
        tracing::info!("stopped");
        0
    }

    fn load(&self) -> Result<Config, u8> {
        let mut flags = Vec::new();
        for pair in &self.set {
            let Some((key, value)) = pair.split_once('=') else {
                eprintln!(
                    "error: --set takes KEY=VALUE, for example --set limits.connections=500; got `{pair}`"
                );
                return Err(2);
            };
            flags.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        if let Some(listen) = &self.listen {
            flags.push(("server.listen".to_owned(), listen.clone()));
        }
        let load = |flags| {
            Config::load(Sources { file: self.config.clone(), env: std::env::vars_os(), flags }).map_err(
                |errors| {
                    eprintln!("{errors}");
                    errors.exit_code()
                },
            )
        };
        let config = load(flags.clone())?;
        if !self.demo {
            return Ok(config);
        }
        let unset = |key: &str| config.origin(key) == Some(&crate::config::Origin::Default);
        let demo = DEMO_SETTINGS.iter().filter(|(key, _)| unset(key));
        flags.extend(demo.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        load(flags)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Raises the soft limit of open descriptors to the hard one and says what it is now.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let Some(hard) = limit.maximum else { return soft };
    limit.current = Some(hard);
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the descriptor limit could not be raised");
            soft
        }
    }
}

fn start_logging(config: &Config) {
    let filter =
        EnvFilter::try_from_env("TICKCAST_LOG").unwrap_or_else(|_| EnvFilter::new(config.log.level.name()));
    let as_json = match config.log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second server in one process keeps the first one's log.
    let _ = if as_json { builder.json().try_init() } else { builder.try_init() };
}

fn greet(address: std::net::SocketAddr, demo: Option<&str>, took: Duration) {
    let feed = demo.map_or(String::new(), |demo| format!(", {demo}"));
    eprintln!("tickcast {}  (pid {}{feed})\n", env!("CARGO_PKG_VERSION"), process::id());
    eprintln!("  websocket   ws://{address}/ws             binary: tickcast.v2, else JSON v1.0");
    eprintln!("  dashboards  ws://{address}/ws/realtime    JSON v1.0, unchanged");
    eprintln!("  publish     POST http://{address}/api/v1/publish");
    eprintln!("  status      http://{address}/websocket/status   /metrics   /healthz   /readyz\n");
    eprintln!("  auth is OFF because we listen on loopback only.");
    eprintln!("  try next:   tickcast sub 'market_data.*'");
    eprintln!("ready in {} ms", took.as_millis());
}

/// Blocks until SIGTERM or Ctrl-C.
fn wait_for_signal() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    });
}
