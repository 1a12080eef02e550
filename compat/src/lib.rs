//! JSON to and from the protocol: the native form and the dialects of dashboards that exist today.
//! Pure functions: no sockets, no clock (time is an argument), no knowledge of subscribers.
//!
//! Modules in reading order: [`mod@parse`] makes hostile text an [`Input`](tickcast_protocol::field::Input);
//! [`native`] is the JSON that mirrors the message table; [`d1`] is the v1.0 dialect.
//! [`filters`] makes a predicate of what later dialects' dashboards send to narrow a subscription.
#![forbid(unsafe_code)]

mod case;
pub mod d1;
mod draft;
pub mod filters;
pub mod native;
pub mod parse;
mod write;

pub use native::Stamp;
pub use parse::{JsonError, Limits, parse};
