//! What lies between a file and the parser: line ends made one, and a bound on how long a line is.
#![forbid(unsafe_code)]

use std::io::{self, Read};

/// Gives the parser lines that all end in one LF (CRLF becomes LF, a missing last one is added), and
/// stops it inside a line that is too long.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: io::Chain<io::Cursor<Vec<u8>>, R>,
    /// A CR that was read and may be half of a line's end.
    held: bool,
    last: u8,
    ended: bool,
    given: u64,
    allowed: u64,
    /// Set when reading was stopped for it.
    pub(super) too_long: bool,
}

impl<R> Lines<R> {
    pub(super) fn new(input: io::Chain<io::Cursor<Vec<u8>>, R>) -> Self {
        let (held, ended, too_long) = (false, false, false);
        Self { input, held, last: b'\n', ended, given: 0, allowed: 0, too_long }
    }

    /// The parser has used all it was given whenever it asks for more, so asking past this position
    /// means that the record that began one longest line before it has not ended.
    pub(super) fn allow_until(&mut self, position: u64) {
        self.allowed = position;
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given >= self.allowed {
            self.too_long = true;
            return Err(io::Error::other("line too long"));
        }
        // Room for a held CR and one more byte; the parser's buffer is thousands.
        if out.len() < 2 || self.ended {
            return Ok(0);
        }
        loop {
            let kept = usize::from(self.held);
            out[..kept].fill(b'\r');
            let read = match self.input.read(&mut out[kept..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                self.ended = true;
                // A held CR ended the last line.
                let given = usize::from(self.last != b'\n' || self.held);
                out[..given].fill(b'\n');
                self.given += given as u64;
                return Ok(given);
            }
            let filled = kept + read;
            self.held = out[filled - 1] == b'\r';
            let usable = filled - usize::from(self.held);
            let mut given = 0;
            for at in 0..usable {
                let is_half = out[at] == b'\r' && at + 1 < usable && out[at + 1] == b'\n';
                if !is_half {
                    out[given] = out[at];
                    given += 1;
                }
            }
            if given > 0 {
                self.last = out[given - 1];
                self.given += given as u64;
                return Ok(given);
            }
        }
    }
}
