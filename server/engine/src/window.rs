//! Where a delivery group stands on one stream: how far it was told, and what waits for its rate.
//!
//! ```text
//!   told          through │ held: newest of each key, in order   │ head
//!   ──────────────────────┼──[A]────[B]──|────────[A']───────────┼───────▶ sequence
//!                         │        a cut: where somebody joined   └ neither held nor replaced: filtered
//! ```
//!
//! A window is kept only for groups with a filter or a rate. It holds no more than one event a key, and
//! counts what those replaced by ranges, so what it tells adds up to the last event. A stream keeps its
//! order, so what is held of it is sent together: a rate is one clock per stream, and each key comes at
//! most once per interval.
//!
//! Nothing of it is any one member's: whoever joins while something is held counts from the cut.
#![forbid(unsafe_code)]

use crate::ledger::Loss;
use crate::store::EventRef;

/// One group on one stream.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// The last sequence that was sent to the group or told it. What follows, as far as it is not held,
    /// did not pass.
    pub(crate) through: u64,
    /// Only of streams that were ever rated.
    pub(crate) held: Option<Box<Held>>,
}

/// What waits for its time.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// When something was last sent.
    pub(crate) sent: Option<u64>,
    /// When what waits is due; no meaning when nothing does.
    pub(crate) due: u64,
    /// The earliest alarm that is set for it.
    pub(crate) alarm: Option<u64>,
    items: Vec<Item>,
}

/// A part of the past, up to an event or a cut.
#[derive(Debug)]
pub(crate) struct Item {
    /// The sequence it ends with: that of its event.
    pub(crate) through: u64,
    /// Events in it that a newer one replaced.
    pub(crate) conflated: u64,
    /// The event with its key and size, or `None` for a cut.
    pub(crate) event: Option<(EventRef, u64, u32)>,
}

impl Window {
    /// True while an event waits for its time.
    pub(crate) fn is_holding(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.items.is_empty())
    }

    /// What is held, oldest first.
    pub(crate) fn items(&self) -> &[Item] {
        self.held.as_ref().map_or(&[], |held| &held.items)
    }

    /// What is told before the item at `at`, or before its event.
    pub(crate) fn loss_before(&self, at: usize) -> Option<Loss> {
        let items = self.items();
        let from = if at == 0 { self.through } else { items[at - 1].through } + 1;
        let item = &items[at];
        let through = if item.event.is_some() { item.through - 1 } else { item.through };
        (from <= through).then(|| Loss::skipped(from, through, item.conflated))
    }
}

impl Held {
    /// Holds an event, the newest of its stream; gives back the one of its key that it replaces.
    pub(crate) fn hold(
        &mut self,
        event: EventRef,
        sequence: u64,
        key: u64,
        size: u32,
    ) -> Option<(EventRef, u32)> {
        let same = |item: &Item| item.event.as_ref().is_some_and(|(_, of, _)| *of == key);
        let at = self.items.iter().position(same);
        self.items.push(Item { through: sequence, conflated: 0, event: Some((event, key, size)) });
        let at = at?;
        let replaced = self.items.remove(at);
        let (event, _, size) = replaced.event.expect("found by its key");
        // Its range is part of the next one, which begins where it began; never beyond a cut.
        self.items[at].conflated += replaced.conflated + 1;
        Some((event, size))
    }

    /// Keeps what was before apart from what comes: somebody joins at `head` and counts from there. Also behind
    /// an event at `head` itself, which may be replaced by one that comes.
    pub(crate) fn cut(&mut self, head: u64) {
        let needs = |last: &Item| last.event.is_some() || last.through < head;
        if self.items.last().is_some_and(needs) {
            self.items.push(Item { through: head, conflated: 0, event: None });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes what is held, oldest first.
    pub(crate) fn take(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event;
    use crate::store::Store;
    use tickcast_protocol::Class;

    struct Bench {
        store: Store,
        window: Window,
    }

    impl Bench {
        fn new(through: u64) -> Self {
            let window = Window { through, held: Some(Box::default()) };
            Self { store: Store::default(), window }
        }

        fn hold(&mut self, sequence: u64, key: u64) {
            let event = self.store.insert(event(1, sequence, key, Class::Latest, b""));
            let held = self.window.held.as_mut().unwrap();
            if let Some((replaced, 10)) = held.hold(event, sequence, key, 10) {
                self.store.release(replaced);
            }
        }

        /// Each item as `from..=through conflated filtered`, then its event.
        fn told(&mut self) -> String {
            let mut text = String::new();
            for at in 0..self.window.items().len() {
                if let Some(loss) = self.window.loss_before(at) {
                    text += &format!("n{}-{}c{}f{};", loss.from, loss.through, loss.conflated, loss.filtered);
                }
                if self.window.items()[at].event.is_some() {
                    text += &format!("e{};", self.window.items()[at].through);
                }
            }
            for item in self.window.held.as_mut().unwrap().take() {
                if let Some((event, ..)) = item.event {
                    self.store.release(event);
                }
            }
            assert_eq!(self.store.len(), 0);
            text
        }
    }

    #[test]
    fn newest_of_each_key_is_held_in_order() {
        let mut bench = Bench::new(4);
        for (sequence, key) in [(5, 1), (6, 2), (8, 1), (9, 1), (12, 2)] {
            bench.hold(sequence, key);
        }
        assert_eq!(bench.told(), "n5-8c3f1;e9;n10-11c0f2;e12;");
        assert!(!bench.window.is_holding());
    }

    #[test]
    fn range_never_reaches_beyond_a_cut() {
        let mut bench = Bench::new(0);
        bench.hold(2, 1);
        bench.hold(3, 2);
        bench.window.held.as_mut().unwrap().cut(5);
        bench.window.held.as_mut().unwrap().cut(5);
        bench.hold(7, 2);
        bench.hold(8, 1);
        // Both replaced events lie before the cut, and so does what is told of them.
        assert_eq!(bench.told(), "n1-5c2f3;n6-6c0f1;e7;e8;");
    }

    #[test]
    fn event_right_before_a_cut_is_replaced_on_its_own_side() {
        let mut bench = Bench::new(0);
        bench.hold(1, 1);
        bench.hold(2, 1);
        bench.window.held.as_mut().unwrap().cut(2);
        bench.hold(3, 1);
        bench.hold(4, 1);
        // Who joined behind 2 is told of 3 alone.
        assert_eq!(bench.told(), "n1-2c2f0;n3-3c1f0;e4;");
    }

    #[test]
    fn nothing_is_cut_where_nothing_is_held() {
        let mut bench = Bench::new(3);
        bench.window.held.as_mut().unwrap().cut(9);
        assert!(!bench.window.is_holding());
        bench.hold(10, 1);
        assert_eq!(bench.told(), "n4-9c0f6;e10;");
    }
}
