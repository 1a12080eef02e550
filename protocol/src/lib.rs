//! Tickcast's wire language: frames, messages, topics, codes. No I/O, no async, no server.
//!
//! Modules in reading order: a [`frame`] carries a [`message`] about a [`topic`], a large one made smaller
//! by a [`codec`]; its [`sequence`] orders it; [`decimal`] keeps its numbers exact; [`error`] says what went wrong.
//! A [`book`] is what snapshots and deltas of an order book add up to. A [`predicate`] is a condition on an event's attributes, asked for with a topic filter.
//! [`registry`] answers questions about every type from the one table in [`message`].
//! `SPEC.md` beside this crate describes the same bytes for writers of other clients.
#![forbid(unsafe_code)]

pub mod book;
pub mod codec;
pub mod decimal;
pub mod error;
pub mod field;
pub mod frame;
pub mod message;
pub mod predicate;
pub mod registry;
pub mod sequence;
pub mod spec;
mod table;
pub mod topic;

pub use book::{Book, BookError};
pub use decimal::Decimal;
pub use error::{CloseCode, DecodeError, ErrorCode, FieldError};
pub use frame::{Frame, Header};
pub use message::{Class, Message};
pub use predicate::{Predicate, PredicateError};
pub use sequence::{BootId, Epoch, Sequence, StreamId, SubscriptionId};
pub use topic::{Topic, TopicFilter};
