//! The program around the library; `tickcast bench` is the same.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tickcast_loadtest::cli::Bench;

/// Measure a server under load, open loop, and compare it with the bare loop
#[derive(Parser, Debug)]
#[command(name = "loadtest", version, max_term_width = 100)]
struct Program {
    #[command(flatten)]
    bench: Bench,
}

fn main() -> ExitCode {
    match Program::try_parse() {
        Ok(program) => ExitCode::from(program.bench.run(&[])),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}
