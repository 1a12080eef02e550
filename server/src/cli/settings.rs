//! `tickcast config init | check | show`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{Config, Sources, template};

/// Write, check or show settings
#[derive(Args, Debug)]
pub(super) struct ConfigVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print a settings file with every key, its default and its environment name
    Init,
    /// Check a settings file together with the environment
    Check {
        /// The settings file
        #[arg(env = "TICKCAST_CONFIG")]
        file: Option<PathBuf>,
    },
    /// Print what holds
    Show {
        /// The settings file
        #[arg(env = "TICKCAST_CONFIG")]
        file: Option<PathBuf>,
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

impl ConfigVerb {
    pub(super) fn run(self) -> u8 {
        let load = |file| Config::load(Sources { file, env: std::env::vars_os(), flags: Vec::new() });
        let loaded = match self.verb {
            Verb::Init => {
                print!("{}", template());
                return 0;
            }
            Verb::Check { file } => load(file).map(|_| eprintln!("settings are sound")),
            Verb::Show { file, origin } => load(file).map(|config| print!("{}", config.show(origin))),
        };
        match loaded {
            Ok(()) => 0,
            Err(errors) => {
                eprintln!("{errors}");
                errors.exit_code()
            }
        }
    }
}
