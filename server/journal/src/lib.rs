//! The durable half of the critical class: what was accepted is on disk, and stays pending for each
//! recipient until it is acked, expired, revoked, or superseded by a newer one of its collapse key.
//!
//! Knows no socket, no runtime and no clock; times are arguments, in ns UTC. Position is a place in the
//! journal, over all topics; sequence is the number on a topic.
//!
//! Invariants, by their names in the code, the tests and ADR 6: I1 nothing is accepted before it is on disk; I2
//! positions and sequences have no holes and are never used again; I3 one record per publisher and id; I4 every
//! accepted pair is pending or in one terminal state, with evidence on disk; I6 first deliveries in order,
//! redeliveries flagged; I8 an ack counts only from the owner's present connection, for what it was handed; I9
//! an ack may be forgotten in a crash and is never invented; I10 memory and queues are bounded; I11 one
//! connection owns a recipient's deliveries at a time; I12 after an error of the disk nothing is accepted
//! until the file was opened and compared. (I5 is the SDK's, I7 the session's.)
//!
//! Modules in reading order: [`types`] go in and out of the [`journal`], under [`settings`]; `writer` makes
//! a transaction of what was gathered, `apply` does each command's part of it on the tables of `keys` and
//! `record`, and `state` is what it knows by heart; `repair` is for when the disk fails, [`health`] tells;
//! `query` answers. [`store`] is what a disk must do, [`redb_store`] does it, in a [`directory`]. [`delivery`]
//! is the sessions' side: what is handed out to whom, and when again. [`fail`] is for tests.
#![forbid(unsafe_code)]

mod apply;
mod command;
pub mod delivery;
pub mod directory;
pub mod fail;
pub mod health;
pub mod journal;
mod keys;
mod query;
mod record;
pub mod redb_store;
mod repair;
pub mod settings;
mod state;
pub mod store;
pub mod types;
mod writer;

pub use delivery::{Ack, AckError, Delivery, Generation, Send};
pub use health::{Health, Trouble};
pub use journal::{Answer, Journal, Recovered, Reply, Sink};
pub use settings::Settings;
pub use types::{
    Committed, Draft, Outcome, PairState, Reason, RecipientId, Record, Refusal, RefusalReason, Settled,
    Status, Unavailable, Waiting,
};
