//! The outside view of a server that fans out: load, measurement, comparison, report.
#![forbid(unsafe_code)]

pub mod report;
pub mod results;
