//! What waits to be sent: control messages first, then publishes in order, bounded and with an age limit.

use std::collections::VecDeque;

/// Most control messages that wait. Only a peer that asks faster than we can answer reaches it, and what
/// is then left out is the answer.
const CONTROL_MESSAGES_MAX: usize = 4_096;
/// Most bytes that publishes are gathered into, a WebSocket message.
const BATCH_BYTES_MAX: usize = 16 * 1024;

/// One publish: its frame, after the `publish` frame when a reply is wanted.
#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    at: u64,
    /// The request a reply will name, or zero.
    request: u64,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    control: VecDeque<Vec<u8>>,
    publishes: VecDeque<Queued>,
    publishes_max: usize,
    ttl: Option<u64>,
}

impl Outgoing {
    pub(crate) fn new(publishes_max: usize, ttl: Option<u64>) -> Self {
        Self { control: VecDeque::new(), publishes: VecDeque::new(), publishes_max, ttl }
    }

    /// Queues a control message; false when too many wait.
    pub(crate) fn control(&mut self, message: Vec<u8>) -> bool {
        let room = self.control.len() < CONTROL_MESSAGES_MAX;
        if room {
            self.control.push_back(message);
        }
        room
    }

    pub(crate) fn is_full(&self) -> bool {
        self.publishes.len() >= self.publishes_max
    }

    pub(crate) fn len(&self) -> usize {
        self.publishes.len()
    }

    /// Queues a publish. The caller has asked [`Outgoing::is_full`].
    pub(crate) fn publish(&mut self, bytes: Vec<u8>, request: u64, now: u64) {
        self.publishes.push_back(Queued { bytes, at: now, request });
    }

    /// The connection ended: what was asked of it is asked anew on the next one.
    pub(crate) fn clear_control(&mut self) {
        self.control.clear();
    }

    /// When the oldest publish expires.
    pub(crate) fn expires_at(&self) -> Option<u64> {
        let oldest = self.publishes.front()?;
        self.ttl.map(|ttl| oldest.at.saturating_add(ttl))
    }

    /// Takes one publish that waited too long and returns its request.
    pub(crate) fn expired(&mut self, now: u64) -> Option<u64> {
        if self.expires_at()? > now {
            return None;
        }
        self.publishes.pop_front().map(|queued| queued.request)
    }

    /// Takes any publish and returns its request: nothing will be sent any more.
    pub(crate) fn discard(&mut self) -> Option<u64> {
        self.publishes.pop_front().map(|queued| queued.request)
    }

    pub(crate) fn next_control(&mut self) -> Option<Vec<u8>> {
        self.control.pop_front()
    }

    /// The next WebSocket message of publishes, with the requests in it that wait for replies and how
    /// many publishes it holds. Gathers small ones up to `limit` bytes: one message costs the server less
    /// than twenty.
    pub(crate) fn next_publishes(&mut self, limit: usize, requests: &mut Vec<u64>) -> Option<(Vec<u8>, u64)> {
        let first = self.publishes.pop_front()?;
        let mut bytes = first.bytes;
        let mut count = 1;
        requests.extend((first.request != 0).then_some(first.request));
        while let Some(next) = self.publishes.front() {
            if bytes.len() + next.bytes.len() > limit.min(BATCH_BYTES_MAX) {
                break;
            }
            bytes.extend_from_slice(&next.bytes);
            requests.extend((next.request != 0).then_some(next.request));
            count += 1;
            self.publishes.pop_front();
        }
        Some((bytes, count))
    }
}
