//! Servers that a run starts for itself, on a core of their own, and ends when it is done.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::procfs::{self, Process};
use crate::run::Target;

/// Time for a server to say where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for it to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Last lines that are shown when it does not start.
const LINES_KEPT: usize = 12;

/// A program to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// What it is called in results.
    pub label: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// A directory that it writes to, removed when it has ended.
    pub scratch: Option<PathBuf>,
}

/// A server that was started.
#[derive(Debug)]
pub struct Server {
    child: Child,
    scratch: Option<PathBuf>,
    /// How it is measured.
    pub target: Target,
}

impl Server {
    /// Starts it and waits until it says where it listens, in a line with `ws://ADDRESS/`.
    ///
    /// # Errors
    /// What it said instead.
    pub fn start(command: &Program) -> anyhow::Result<Self> {
        let shown = command.program.display();
        // A child inherits the cores of the thread that starts it.
        let own = sched_getaffinity(None)?;
        if let Some(core) = command.core {
            procfs::pin(core).with_context(|| format!("cannot pin the server to core {core}"))?;
        }
        let spawned = Command::new(&command.program)
            .args(&command.arguments)
            // Its end tells the server that this process is gone.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        sched_setaffinity(None, &own)?;
        let mut child = spawned.with_context(|| format!("cannot start {shown}"))?;
        let stderr = child.stderr.take().context("the server has no stderr")?;
        let (said, heard) = mpsc::channel();
        // Read on, so that a talkative server never waits for its pipe.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        let mut lines = VecDeque::new();
        let until = Instant::now() + START_TIMEOUT;
        while let Ok(line) = heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(address) = address_in(&line) {
                let process = Some(Process { pid: child.id() });
                let scratch = command.scratch.clone();
                return Ok(Self {
                    child,
                    scratch,
                    target: Target { address, process, label: command.label.clone() },
                });
            }
            lines.push_back(line);
            if lines.len() > LINES_KEPT {
                lines.pop_front();
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        anyhow::bail!("{shown} did not say where it listens; it said:\n{}", Vec::from(lines).join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(scratch) = &self.scratch {
            let _ = std::fs::remove_dir_all(scratch);
        }
    }
}

/// The address in `ws://ADDRESS/`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("ws://")?;
    rest.split(['/', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_greeting() {
        let line = "  websocket   ws://127.0.0.1:41234/ws             binary: tickcast.v2";
        assert_eq!(address_in(line), Some("127.0.0.1:41234".parse().unwrap()));
        assert_eq!(address_in("starting"), None);
    }

    #[test]
    fn a_program_that_is_no_server_is_shown_with_what_it_said() {
        let command = Program {
            label: "none".into(),
            program: "/bin/sh".into(),
            arguments: ["-c", "echo nothing to serve >&2"].map(OsString::from).to_vec(),
            core: None,
            scratch: None,
        };
        let error = Server::start(&command).unwrap_err().to_string();
        assert!(error.contains("nothing to serve"), "{error}");
    }
}
