//! The atomics of the ring and of the wake flag: std's, or loom's under test.
//!
//! The name of the switch is our own, `tickcast_loom`, because a plain `--cfg loom` also reaches tokio
//! and hyper, which then lose their sockets. The epoch's atomics have a switch of their own, and the
//! models are worthless without it: the slots would be atomics that loom cannot see. So the one is
//! refused without the other.
#![forbid(unsafe_code)]
// `crossbeam_loom` belongs to another crate, so the workspace does not declare it.
#![allow(unexpected_cfgs)]

#[cfg(all(tickcast_loom, not(crossbeam_loom)))]
compile_error!("`--cfg tickcast_loom` needs `--cfg crossbeam_loom`: else loom does not see the slots");

#[cfg(tickcast_loom)]
pub(crate) use loom::sync::{Arc, atomic};
#[cfg(not(tickcast_loom))]
pub(crate) use std::sync::{Arc, atomic};
