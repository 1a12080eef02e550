//! The Tickcast program as a library, so that tests and tools can start it in process.
//!
//! Modules in reading order: [`config`] says how to run; [`server`] assembles the parts; [`net`] owns the
//! sockets; [`session`] decides what a peer may say; [`ingest`] is the one door for what is published;
//! [`feeds`] are publishers of our own, and [`books`] publish the best levels of what others publish;
//! [`states`] finds out which streams have gone quiet; [`metrics`], [`status`] and [`health`] tell how it goes.
//! `ARCHITECTURE.md` beside this crate walks a message through them.
#![deny(unsafe_code)]

pub mod alerts;
pub mod auth;
pub mod books;
pub mod cli;
pub mod clock;
pub mod config;
pub mod feeds;
pub mod health;
pub mod ingest;
pub mod instruments;
pub mod metrics;
pub mod net;
pub mod publish_api;
pub mod server;
pub mod session;
pub mod states;
pub mod status;
