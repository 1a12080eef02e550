//! The most memory the settings allow, as a sum with one named line for each holder.

use std::fmt;

use super::keys::{Config, SHARDS_MAX};
use super::units::display_size;

/// Descriptors kept from connections: listeners, logs, the journal, the runtimes' own.
pub const DESCRIPTOR_RESERVE: u64 = 64;

/// Scratch memory of a shard: what it reads into, and what it lays out for a turn's writes. A shard
/// keeps within it.
pub const SHARD_SCRATCH_BYTES: u64 = 4 * 1024 * 1024;

/// A kept book: two sides of 1,024 levels of 32 B, in lists that have room for twice as many when a delta has
/// added that many, and what was last shown of them.
const BOOK_BYTES: u64 = 136 * 1024;

/// A reference to an event, with its place in a queue.
const REFERENCE_BYTES: u64 = 16;

/// What the machine gives. Measured by the program, after it raised the soft descriptor limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Cores the process may use.
    pub cores: usize,
    /// Descriptors the process may open.
    pub descriptors: u64,
}

impl Config {
    /// The number of shards to run: as set, or one a core, 64 at most.
    #[must_use]
    pub fn shards(&self, host: Host) -> usize {
        match self.server.shards {
            0 => host.cores.clamp(1, SHARDS_MAX as usize),
            shards => shards,
        }
    }

    /// The connections that may be open at once: as set, or fewer when the process may open fewer
    /// descriptors.
    #[must_use]
    pub fn connections_max(&self, host: Host) -> usize {
        let descriptors = host.descriptors.saturating_sub(DESCRIPTOR_RESERVE);
        self.limits.connections.min(usize::try_from(descriptors).unwrap_or(usize::MAX))
    }

    /// The most memory these settings allow on this machine.
    #[must_use]
    pub fn budget(&self, host: Host) -> Budget {
        let limits = &self.limits;
        let connections = self.connections_max(host) as u64;
        let requests = limits.handshakes as u64;
        let shards = self.shards(host) as u64;
        let events = (self.history.events as u64).min(self.history.bytes as u64);
        let line = |name, holder, count, each| BudgetLine { name, holder, count, each };
        let mut budget = Budget {
            lines: vec![
                line("ring", "slots", self.ring.slots as u64, limits.publisher_bytes as u64),
                line("outboxes", "connections", connections, self.outbox.bytes as u64),
                line("partial messages", "connections", connections, limits.publisher_bytes as u64),
                line("handshakes", "in flight", requests, limits.header_bytes as u64),
                line("publish requests", "in flight", requests, limits.publish_request_bytes as u64),
                line("sticky clients", "memory", 1, self.json.sticky_bytes as u64),
                line("scratch", "shards", shards, SHARD_SCRATCH_BYTES),
            ],
            history: BudgetLine {
                name: "history",
                holder: "streams",
                count: limits.streams as u64,
                each: self.history.bytes as u64 + events * shards * REFERENCE_BYTES,
            },
        };
        if !self.books.views.is_empty() {
            budget.lines.push(line("order books", "books", self.books.count as u64, BOOK_BYTES));
        }
        budget
    }
}

/// The most memory the settings allow. Nothing of it is allocated ahead except the ring's slots; the
/// sum is reached when every holder is full of the largest messages, none of them shared.
///
/// Events are counted in their binary form; each JSON form that somebody listens to, and the compressed
/// form of large ones, adds its own. The kernel's socket buffers and the program itself are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// What is bounded by settings alone.
    pub lines: Vec<BudgetLine>,
    /// Grows with the streams that are published to, and is not in the sum for that.
    pub history: BudgetLine,
}

/// One holder of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLine {
    /// What is held.
    pub name: &'static str,
    /// What holds it, in the plural.
    pub holder: &'static str,
    /// The most holders there can be.
    pub count: u64,
    /// The most bytes each can hold.
    pub each: u64,
}

impl BudgetLine {
    /// The most bytes all of them can hold.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.each)
    }
}

impl Budget {
    /// The sum of the lines, in bytes, without history.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lines.iter().fold(0, |sum, line| sum.saturating_add(line.bytes()))
    }
}

/// A line for each holder, for the start-up log.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory, at the very most {}", rounded(self.bytes()))?;
        for line in &self.lines {
            let BudgetLine { name, holder, count, each } = line;
            let (total, each) = (rounded(line.bytes()), display_size(*each));
            writeln!(f, "  {name:<17}{total:>10}  {count} {holder} of {each}")?;
        }
        let BudgetLine { name, holder, count, each } = self.history;
        let each = rounded(each);
        write!(f, "  {name:<17}{each:>10}  a stream published to, {count} {holder} at most; not in the sum")
    }
}

/// A size for people, to a tenth.
fn rounded(bytes: u64) -> String {
    let (name, factor) = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|(_, factor)| bytes >= *factor)
        .unwrap_or(("B", 1));
    let tenths = u128::from(bytes) * 10 / u128::from(factor);
    match tenths % 10 {
        0 => format!("{} {name}", tenths / 10),
        tenth => format!("{}.{tenth} {name}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const HOST: Host = Host { cores: 2, descriptors: 20_000 };

    fn config(flags: &[(&str, &str)]) -> Config {
        let flags = flags.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        Settings::default().flags(flags).check().unwrap()
    }

    #[test]
    fn the_budget_is_the_sum_of_its_lines() {
        let budget = Config::default().budget(HOST);
        let lines: Vec<_> = budget.lines.iter().map(|line| (line.name, line.bytes())).collect();
        assert_eq!(
            lines,
            [
                ("ring", 16_384 * 65_536),
                ("outboxes", 10_000 * 262_144),
                ("partial messages", 10_000 * 65_536),
                ("handshakes", 1024 * 16_384),
                ("publish requests", 1024 * 1_048_576),
                ("sticky clients", 16 * 1_048_576),
                ("scratch", 2 * SHARD_SCRATCH_BYTES),
            ]
        );
        assert_eq!(budget.bytes(), lines.iter().map(|(_, bytes)| *bytes).sum::<u64>());
        assert_eq!(budget.history.each, 262_144 + 256 * 2 * REFERENCE_BYTES);
    }

    #[test]
    fn the_budget_is_written_a_line_for_each_holder() {
        assert_eq!(
            Config::default().budget(HOST).to_string(),
            "memory, at the very most 5 GiB
  ring                  1 GiB  16384 slots of 64KiB
  outboxes            2.4 GiB  10000 connections of 256KiB
  partial messages    625 MiB  10000 connections of 64KiB
  handshakes           16 MiB  1024 in flight of 16KiB
  publish requests      1 GiB  1024 in flight of 1MiB
  sticky clients       16 MiB  1 memory of 16MiB
  scratch               8 MiB  2 shards of 4MiB
  history             264 KiB  a stream published to, 1000000 streams at most; not in the sum"
        );
    }

    #[test]
    fn books_are_in_the_budget_where_views_are_made() {
        let budget = config(&[("books.views", "10"), ("books.count", "7")]).budget(HOST);
        let line = budget.lines.last().unwrap();
        assert_eq!((line.name, line.count, line.bytes()), ("order books", 7, 7 * BOOK_BYTES));
    }

    #[test]
    fn the_largest_settings_have_a_budget() {
        let config = config(&[
            ("limits.connections", "1000000"),
            ("limits.handshakes", "65536"),
            ("limits.header_bytes", "64KiB"),
            ("limits.publisher_bytes", "1MiB"),
            ("limits.publish_request_bytes", "64MiB"),
            ("limits.streams", "16000000"),
            ("ring.slots", "1048576"),
            ("history.events", "65536"),
            ("history.bytes", "64MiB"),
            ("outbox.bytes", "64MiB"),
            ("server.shards", "64"),
        ]);
        let budget = config.budget(Host { cores: 64, descriptors: u64::MAX });
        assert!(budget.bytes() < u64::MAX, "{budget}");
        assert!(budget.history.bytes() < u64::MAX, "{budget}");
    }

    #[test]
    fn connections_leave_a_reserve_of_descriptors() {
        let connections = |descriptors| Config::default().connections_max(Host { cores: 1, descriptors });
        assert_eq!(connections(20_000), 10_000);
        assert_eq!(connections(1024), 960);
        assert_eq!(connections(64), 0);
        assert_eq!(connections(0), 0);
    }

    #[test]
    fn shards_follow_the_cores_unless_set() {
        let shards = |config: &Config, cores| config.shards(Host { cores, descriptors: 1024 });
        assert_eq!(shards(&Config::default(), 8), 8);
        assert_eq!(shards(&Config::default(), 0), 1);
        assert_eq!(shards(&Config::default(), 200), 64);
        assert_eq!(shards(&config(&[("server.shards", "3")]), 8), 3);
    }
}
