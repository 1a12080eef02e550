//! The identity of `tickcast sub --identity`: its token in a file that only its owner can read.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use tickcast_client::Identity;

/// Who we are across connections.
#[derive(Args, Debug)]
pub(super) struct IdentityArgs {
    /// A durable identity: critical messages wait for it until they were printed here
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Where the identity's token is kept; made the first time [default: NAME.token]
    #[arg(long, value_name = "FILE", requires = "identity")]
    token_file: Option<PathBuf>,
}

impl IdentityArgs {
    fn file(&self, name: &str) -> PathBuf {
        // A name may have slashes, a file may not.
        let plain = |name: &str| name.replace('/', "_");
        self.token_file.clone().unwrap_or_else(|| PathBuf::from(format!("{}.token", plain(name))))
    }

    /// The identity with its token, if one was asked for.
    pub(super) fn load(&self) -> Result<Option<Identity>, String> {
        let Some(name) = &self.identity else { return Ok(None) };
        let file = self.file(name);
        let token = match fs::read_to_string(&file) {
            Ok(token) => token.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("cannot read the token in {}: {error}", file.display())),
        };
        Ok(Some(Identity { name: name.clone(), token }))
    }

    /// Keeps the token that the server gave.
    pub(super) fn keep(&self, token: &str) -> Result<(), String> {
        let Some(name) = &self.identity else { return Ok(()) };
        let file = self.file(name);
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file);
        written.and_then(|mut open| open.write_all(format!("{token}\n").as_bytes())).map_err(|error| {
            format!("cannot keep the token in {}: {error}; without it the identity is lost", file.display())
        })
    }
}
