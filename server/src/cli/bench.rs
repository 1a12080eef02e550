//! `tickcast bench`: the load test as a verb of the one program.
#![forbid(unsafe_code)]

use tickcast_loadtest::cli;

/// Measure a server under load, open loop, and compare it with the bare loop
#[derive(clap::Args, Debug)]
pub(super) struct BenchVerb {
    #[command(flatten)]
    bench: cli::Bench,
}

impl BenchVerb {
    pub(super) fn run(self) -> u8 {
        // The load test starts this program again for the bare loop.
        self.bench.run(&["bench"])
    }
}
