//! What /proc tells of a process and of the machine.
#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::results::{Machine, Versions};

/// A process that is watched.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Its id.
    pub pid: u32,
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Of that, anonymous.
    pub anonymous: u64,
    /// Largest ever resident.
    pub peak: u64,
}

impl Process {
    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    /// CPU time of all of its threads in nanoseconds, as the scheduler counts it.
    #[must_use]
    pub fn cpu_ns(self) -> Option<u64> {
        let mut sum = 0;
        for task in fs::read_dir(self.path("task")).ok()? {
            // A thread may end while it is looked at.
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
            sum += text.split(' ').next()?.parse::<u64>().ok()?;
        }
        Some(sum)
    }

    /// CPU time in the kernel, in nanoseconds, as fine as the kernel's ticks.
    #[must_use]
    pub fn system_ns(self) -> Option<u64> {
        let text = fs::read_to_string(self.path("stat")).ok()?;
        // The name in brackets may hold anything; fields are counted behind it.
        let fields = text.rsplit_once(')')?.1;
        let ticks: u64 = fields.split_whitespace().nth(12)?.parse().ok()?;
        Some(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second())
    }

    /// Its memory.
    #[must_use]
    pub fn memory(self) -> Option<Memory> {
        let text = fs::read_to_string(self.path("status")).ok()?;
        Some(Memory {
            rss: kib(&text, "VmRSS:")?,
            anonymous: kib(&text, "RssAnon:")?,
            peak: kib(&text, "VmHWM:")?,
        })
    }

    /// Proportional set size.
    #[must_use]
    pub fn pss(self) -> Option<u64> {
        kib(&fs::read_to_string(self.path("smaps_rollup")).ok()?, "Pss:")
    }

    /// Context switches of all of its threads.
    #[must_use]
    pub fn switches(self) -> Option<u64> {
        let mut sum = 0;
        for task in fs::read_dir(self.path("task")).ok()? {
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("status")) else { continue };
            let each = text.lines().filter_map(|line| line.split_once("ctxt_switches:"));
            sum += each.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
        }
        Some(sum)
    }

    /// The process that listens at `address`, if this user may see it.
    #[must_use]
    pub fn listening_at(address: SocketAddr) -> Option<Self> {
        let inode = listening_inode(&fs::read_to_string("/proc/net/tcp").ok()?, address.port())?;
        let wanted = format!("socket:[{inode}]");
        for process in fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
            for descriptor in descriptors.flatten() {
                if fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
                    return Some(Self { pid });
                }
            }
        }
        None
    }
}

/// A line of kibibytes, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// The inode of the socket that listens on `port`, from the text of /proc/net/tcp.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTENING: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.split_once(':')?;
        let is_it = u16::from_str_radix(hex, 16) == Ok(port) && fields.get(3) == Some(&LISTENING);
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

/// Raises the soft limit of open descriptors to the hard one and says what it is now.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => soft,
    }
}

/// Pins the calling thread, and whatever it starts from now on, to one core.
///
/// # Errors
/// What the kernel says, for example when there is no such core.
pub fn pin(core: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Cores online.
#[must_use]
pub fn cores() -> usize {
    fs::read_to_string("/proc/cpuinfo")
        .map_or(1, |text| text.lines().filter(|line| line.starts_with("processor")).count().max(1))
}

/// Facts of this machine.
#[must_use]
pub fn machine(descriptors_max: u64) -> Machine {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let cpu = read("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        cpu_model: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
        cores: cores() as u64,
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        descriptors_max,
        memory_bytes: read("/proc/meminfo").and_then(|text| kib(&text, "MemTotal:")).unwrap_or(0),
        host: read("/proc/sys/kernel/hostname").unwrap_or_default(),
        load_average: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
        generator_core: None,
        server_core: None,
    }
}

/// This program's version, and the commit of the directory it is run in.
#[must_use]
pub fn versions() -> Versions {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map(|commit| {
        let is_clean = git(&["status", "--porcelain", "-uno"]).is_some_and(|changes| changes.is_empty());
        if is_clean { commit } else { format!("{commit}-dirty") }
    });
    Versions { loadtest: env!("CARGO_PKG_VERSION").to_owned(), commit, server: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn this_process_can_be_watched() {
        let process = Process { pid: std::process::id() };
        let before = process.cpu_ns().unwrap();
        let memory = process.memory().unwrap();
        assert!(memory.rss > 0 && memory.peak >= memory.rss && memory.anonymous <= memory.rss);
        assert!(process.cpu_ns().unwrap() >= before);
        assert!(process.system_ns().is_some() && process.switches().is_some());
    }

    #[test]
    fn the_process_behind_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = Process::listening_at(listener.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, std::process::id());
    }

    #[test]
    fn a_line_of_kibibytes_is_read_in_bytes() {
        assert_eq!(kib("Name:\tx\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12_288));
        assert_eq!(kib("VmRSS: many\n", "VmRSS:"), None);
    }
}
