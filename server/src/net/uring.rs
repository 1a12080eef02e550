//! Many sends in one system call, by io_uring: the one place of the program that hands the kernel pointers.
//!
//! A send(2) for each of a thousand sockets enters the kernel a thousand times. Here the sends are written
//! into a ring that is shared with the kernel, and one call has them all done before it returns: nothing is
//! in flight between two calls of [`Ring::send_each`], so nothing outlives the bytes it points to.
//! Whether that is worth having is measured in `adr/0005-io-uring.md`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};
use rustix::net::SendFlags;

/// Most sends of one call.
pub const SENDS_MAX: usize = 512;

/// What the kernel would answer a send that was never handed to it with, had it come to it.
const NOT_SENT: i32 = i32::MIN;

/// One send: these bytes to that socket.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// The socket.
    pub socket: BorrowedFd<'a>,
    /// The bytes; of more than 4 GiB the first 4 GiB - 1.
    pub bytes: &'a [u8],
}

/// A ring shared with the kernel. It serves the thread that made it, and no other.
pub struct Ring {
    /// None once the kernel refused a call: what it did not take then must never reach it.
    ring: Option<IoUring>,
    results: Vec<i32>,
}

impl Ring {
    /// Asks the kernel for a ring.
    ///
    /// # Errors
    /// When the kernel is older than 6.0, was built without io_uring, or forbids it to this process
    /// (`kernel.io_uring_disabled`, a container's filter of system calls).
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            // Completions are only looked for in the call that waits for them: no interrupt is needed.
            .setup_coop_taskrun()
            .setup_single_issuer()
            .build(SENDS_MAX as u32)?;
        Ok(Self { ring: Some(ring), results: Vec::with_capacity(SENDS_MAX) })
    }

    /// Does every send as send(2) would with `MSG_DONTWAIT`, and gives to `done`, in their order, how many
    /// bytes went or what the error was. At most [`SENDS_MAX`] sends; the rest is not looked at.
    ///
    /// # Errors
    /// When the kernel refuses the call. `done` was then called for the sends it had taken, which are the
    /// first ones; the others were not sent, and every later call fails.
    pub fn send_each<'a>(
        &mut self,
        sends: impl Iterator<Item = Send<'a>>,
        mut done: impl FnMut(io::Result<usize>),
    ) -> io::Result<()> {
        self.results.clear();
        let mut ring = self.ring.take().ok_or(io::ErrorKind::Unsupported)?;
        prepare(&mut ring, sends, &mut self.results);
        let end = run(&mut ring, &mut self.results);
        if end.is_ok() {
            self.ring = Some(ring);
        }
        for result in self.results.iter().copied().take_while(|result| *result != NOT_SENT) {
            done(usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg())));
        }
        end
    }
}

/// Writes the sends into the ring, without telling the kernel, and a place for the result of each.
fn prepare<'a>(ring: &mut IoUring, sends: impl Iterator<Item = Send<'a>>, results: &mut Vec<i32>) {
    let flags = (SendFlags::DONTWAIT | SendFlags::NOSIGNAL).bits() as i32;
    let mut queue = ring.submission();
    for Send { socket, bytes } in sends.take(SENDS_MAX) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), length)
            .flags(flags)
            .build()
            .user_data(results.len() as u64);
        // SAFETY: the kernel reads socket and bytes from when it takes the entry until the entry's completion
        // is there. Both are borrowed for as long as `send_each` runs. That either has `run` see the
        // completion of every entry, or drops the ring with those that the kernel never took; the ring is out
        // of `self` meanwhile, so that a panic of the iterator drops it as well.
        if unsafe { queue.push(&send) }.is_err() {
            break;
        }
        results.push(NOT_SENT);
    }
}

/// Has everything in the ring done, and notes the results.
fn run(ring: &mut IoUring, results: &mut [i32]) -> io::Result<()> {
    let (mut taken, mut finished) = (0, 0);
    let mut refused = None;
    // Whatever happens, the kernel must be done with what it took.
    while finished < if refused.is_some() { taken } else { results.len() } {
        match ring.submit_and_wait(results.len() - finished) {
            Ok(now) => taken += now,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => refused = Some(error),
        }
        for completion in ring.completion() {
            finished += 1;
            if let Some(result) = results.get_mut(completion.user_data() as usize) {
                *result = completion.result();
            }
        }
    }
    refused.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn send_all(ring: &mut Ring, sends: &[Send<'_>]) -> Vec<io::Result<usize>> {
        let mut results = Vec::new();
        ring.send_each(sends.iter().copied(), |result| results.push(result))
            .expect("the kernel takes the call");
        results
    }

    #[test]
    fn each_socket_gets_its_own_bytes_and_each_send_its_own_result() {
        let mut ring = Ring::new().expect("the kernel of the test machine has io_uring");
        let mut pairs: Vec<_> = (0..SENDS_MAX).map(|_| UnixStream::pair().expect("a pair")).collect();
        for round in 0..3_u8 {
            let bytes: Vec<_> = (0..SENDS_MAX).map(|at| vec![round ^ at as u8; at % 100 + 1]).collect();
            let sends: Vec<_> = pairs
                .iter()
                .zip(&bytes)
                .map(|((near, _), bytes)| Send { socket: near.as_fd(), bytes })
                .collect();
            let results = send_all(&mut ring, &sends);
            assert_eq!(results.len(), SENDS_MAX);
            for (at, result) in results.into_iter().enumerate() {
                assert_eq!(result.expect("there is room"), bytes[at].len());
            }
            for ((_, far), sent) in pairs.iter_mut().zip(&bytes) {
                let mut got = vec![0; sent.len()];
                far.read_exact(&mut got).expect("what was sent is there");
                assert_eq!(&got, sent);
            }
        }
    }

    #[test]
    fn a_full_a_dead_and_a_small_socket_answer_as_send_does() {
        let mut ring = Ring::new().expect("the kernel of the test machine has io_uring");
        let [full, dead, small, well] = [(); 4].map(|()| UnixStream::pair().expect("a pair"));
        full.0.set_nonblocking(true).expect("a setting");
        let much = vec![7; 1 << 20];
        while rustix::net::send(&full.0, &much, SendFlags::DONTWAIT).is_ok() {}
        drop(dead.1);
        let send = |socket, bytes| Send { socket, bytes };
        let results = send_all(
            &mut ring,
            &[
                send(full.0.as_fd(), b"late"),
                send(dead.0.as_fd(), b"nobody"),
                send(small.0.as_fd(), &much),
                send(well.0.as_fd(), b"well"),
            ],
        );
        assert_eq!(results[0].as_ref().expect_err("it is full").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(results[1].as_ref().expect_err("it is closed").kind(), io::ErrorKind::BrokenPipe);
        let part = *results[2].as_ref().expect("some of it fits");
        assert!((1..much.len()).contains(&part), "{part} bytes of {} fitted", much.len());
        assert_eq!(*results[3].as_ref().expect("there is room"), 4);
    }

    #[test]
    fn after_a_refusal_nothing_reaches_the_kernel() {
        let mut ring = Ring { ring: None, results: Vec::new() };
        let (near, _far) = UnixStream::pair().expect("a pair");
        let send = Send { socket: near.as_fd(), bytes: b"?" };
        ring.send_each([send].into_iter(), |_| panic!("nothing was done")).expect_err("there is no ring");
    }
}
