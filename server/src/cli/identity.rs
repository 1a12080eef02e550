//! The identity of `tickcast sub --identity`: its token in a file that only its owner can read.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use tickcast_client::{Identity, new_token};

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
    /// The identity with its token, if one was asked for.
    ///
    /// # Errors
    /// When the token cannot be read or kept, in words.
    pub(super) fn load(&self) -> Result<Option<Identity>, String> {
        let Some(name) = &self.identity else { return Ok(None) };
        // A name may have slashes, a file may not.
        let file =
            self.token_file.clone().unwrap_or_else(|| format!("{}.token", name.replace('/', "_")).into());
        let token = match fs::read_to_string(&file) {
            Ok(token) => token.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&file).map_err(|error| format!("cannot keep a token in {}: {error}", file.display()))?
            }
            Err(error) => return Err(format!("cannot read the token in {}: {error}", file.display())),
        };
        Ok(Some(Identity { name: name.clone(), token }))
    }
}

/// A new token, on disk before any server hears of it: without it the identity would be lost.
fn make(file: &Path) -> io::Result<String> {
    let token = new_token();
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    made.write_all(format!("{token}\n").as_bytes())?;
    made.sync_all()?;
    Ok(token)
}
