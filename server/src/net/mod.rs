//! Sockets: accept, upgrade, read, write. No product rule lives here; [`crate::session`] decides.

pub mod codec;
pub mod connection;
pub mod http;
pub mod link;
pub mod listener;
pub mod origin;
pub mod shards;
pub mod upgrade;
#[allow(unsafe_code, reason = "the kernel is handed pointers")]
pub mod uring;
pub mod websocket;
