//! The outside view of a server that fans out: load, measurement, comparison, report.
#![forbid(unsafe_code)]

pub mod account;
pub mod ceiling;
pub mod cli;
pub mod clock;
pub mod format;
pub mod generator;
pub mod ledger;
pub mod plan;
pub mod procfs;
pub mod report;
pub mod results;
pub mod run;
pub mod spawn;
pub mod template;
pub mod walk;
pub mod websocket;
