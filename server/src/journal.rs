//! Where critical messages are kept until everyone has them. In memory so far, and every reply says so.
#![forbid(unsafe_code)]

use tickcast_protocol::message::Durability;

/// Keeps critical messages, and says what that is worth. Appending comes with the first journal that has a
/// disk; until then the ring and the outboxes are all there is.
pub trait Journal: Send + Sync {
    /// What a message that was kept survives.
    fn durability(&self) -> Durability;
}

/// Keeps nothing beyond the ring and the outboxes: a message survives as long as the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryJournal;

impl Journal for MemoryJournal {
    fn durability(&self) -> Durability {
        Durability::MEMORY
    }
}

/// True when `wanted` cannot be had from a journal that gives `given`.
#[must_use]
pub fn falls_short(given: Durability, wanted: Durability) -> bool {
    wanted > given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_falls_short_of_everything_stricter() {
        let given = MemoryJournal.durability();
        assert!(!falls_short(given, Durability::MEMORY));
        for wanted in [Durability::OS, Durability::DISK, Durability::QUORUM] {
            assert!(falls_short(given, wanted));
        }
    }
}
