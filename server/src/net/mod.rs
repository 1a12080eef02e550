//! Sockets: accept, upgrade, read, write. No product rule lives here; [`crate::session`] decides.
#![forbid(unsafe_code)]

pub mod codec;
pub mod connection;
pub mod http;
pub mod link;
pub mod listener;
pub mod origin;
pub mod shards;
pub mod upgrade;
pub mod websocket;
