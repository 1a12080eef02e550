//! The program `tickcast`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Per-thread heaps with cheap frees from other threads: what the ring's reclamation does all day.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tickcast::cli::run(std::env::args_os())
}
