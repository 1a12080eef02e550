//! The events one shard holds, counted without atomics.
//!
//! An event's `Arc` is shared by all shards, and a thousand outboxes that clone it would pull its cache
//! line from core to core. So a shard clones it once, and its runs, outboxes and histories refer to the
//! shard's own slot, which counts plainly. (`Rc` would say the same, but a shard is made on one thread
//! and runs on another.)
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::event::Event;

/// One counted reference. It is not `Clone` and has no `Drop`: [`Store::share`] makes another, and every
/// one must be given back to [`Store::release`]. The simulator checks that none is left over.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reference that is dropped keeps its event for ever"]
pub(crate) struct EventRef(u32);

#[derive(Debug, Default)]
pub(crate) struct Store {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    event: Option<Arc<Event>>,
    count: u32,
}

impl Store {
    /// Takes an event in, with one reference to it.
    pub(crate) fn insert(&mut self, event: Arc<Event>) -> EventRef {
        let slot = Slot { event: Some(event), count: 1 };
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                EventRef(index)
            }
            None => {
                self.slots.push(slot);
                EventRef(self.slots.len() as u32 - 1)
            }
        }
    }

    /// Another reference to the same event.
    pub(crate) fn share(&mut self, event: &EventRef) -> EventRef {
        self.slots[event.0 as usize].count += 1;
        EventRef(event.0)
    }

    /// Gives a reference back; the last one lets go of the event.
    pub(crate) fn release(&mut self, event: EventRef) {
        let slot = &mut self.slots[event.0 as usize];
        slot.count -= 1;
        if slot.count == 0 {
            slot.event = None;
            self.free.push(event.0);
        }
    }

    pub(crate) fn get(&self, event: &EventRef) -> &Arc<Event> {
        self.slots[event.0 as usize].event.as_ref().expect("a reference keeps its event")
    }

    /// Events held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event;
    use tickcast_protocol::Class;

    #[test]
    fn event_lives_as_long_as_its_last_reference() {
        let mut store = Store::default();
        let published = event(1, 1, 1, Class::Latest, b"x");
        let first = store.insert(Arc::clone(&published));
        let second = store.share(&first);
        store.release(first);
        assert_eq!(store.get(&second).sequence().0, 1);
        assert_eq!(Arc::strong_count(&published), 2, "one clone per shard");
        store.release(second);
        assert_eq!((store.len(), Arc::strong_count(&published)), (0, 1));
        let reused = store.insert(published);
        assert_eq!(store.slots.len(), 1);
        store.release(reused);
    }
}
