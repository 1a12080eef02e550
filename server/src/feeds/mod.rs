//! Where messages come from when no publisher is connected: the demo market and recorded files.
//!
//! These parts decide and do not act: [`market`] says what happens and when it is due, [`csv`] and
//! [`recording`] read files, [`tape`] plays either, [`pace`] says when a step is due. The loops around them
//! ([`run`]) own the clock, and hand messages over through [`Publish`].
//!
//! ```text
//! Market::step(now) ─ Action ─┐
//!                             ├─> Publish (in process, or a client's connection)
//! Tape ─ Step ─ Pace::due ────┘
//! ```
#![forbid(unsafe_code)]

pub mod csv;
pub mod market;
pub mod pace;
pub mod recording;
pub mod run;
pub mod tape;

use tickcast_protocol::{Message, Topic};

pub use self::csv::{Merged, OpenError, Reader, Row, RowError};
pub use self::market::{Action, Disturbance, Market, MarketConfig, Step};
pub use self::pace::{Pace, Speed, SpeedError};
pub use self::recording::{PastEvent, PastGap, Recording};
pub use self::tape::{Heard, Place, Played, Step as TapeStep, Tape, TapeError};

/// Where a feed's messages go.
pub trait Publish {
    /// Hands one message over.
    ///
    /// # Errors
    /// Why it was not taken, for people. The feed goes on: the next message may be.
    fn publish(&mut self, message: &Message) -> Result<(), String>;

    /// Hands an event over that was recorded, with its payload as it was received.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    fn publish_event(&mut self, event: &PastEvent) -> Result<(), String>;

    /// Says that the source itself lost `count` events of `topic`, so that subscribers are told.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    fn skip(&mut self, topic: &Topic, count: u64) -> Result<(), String>;

    /// Events handed over and not yet taken by whoever delivers them. A feed without a clock of its own
    /// waits while this is high, so that it does not lap its readers.
    fn lag(&self) -> u64;
}
