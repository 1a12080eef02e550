//! How a peer leaves, and what may change about it before it has subscribed.
#![forbid(unsafe_code)]

use bytes::Bytes;
use tickcast_protocol::CloseCode;

use crate::event::Format;
use crate::peer::PeerId;
use crate::shard::Shard;

impl Shard {
    /// Ends a peer: events that wait are dropped. The rest of a frame that is half written and the control
    /// messages that wait already (replies, binds) go out first; `farewell` follows them and is the last
    /// thing written. The caller flushes until [`is_idle`](Self::is_idle),
    /// then detaches. A stale id is ignored.
    pub fn hang_up(&mut self, peer: PeerId, code: CloseCode, farewell: Bytes) {
        let Some(index) = self.peers.find(peer) else { return };
        self.close(index, code);
        let found = self.peers.member(index);
        // Reserved even when the control lane is full: it is the last message.
        found.queue().outbox.push_control(farewell);
        found.blocked = false;
        self.mark_dirty(index);
    }

    /// True when nothing waits to be written to the peer, or the peer has left.
    #[must_use]
    pub fn is_idle(&self, peer: PeerId) -> bool {
        let found = self.peers.find(peer).and_then(|index| self.peers.get(index));
        found.is_none_or(|found| !found.has_output())
    }

    /// True when the peer is to be closed.
    #[must_use]
    pub fn is_closing(&self, peer: PeerId) -> bool {
        let found = self.peers.find(peer).and_then(|index| self.peers.get(index));
        found.is_some_and(|found| found.closing.is_some())
    }

    /// What the peer reads, or `None` when it has left.
    #[must_use]
    pub fn format_of(&self, peer: PeerId) -> Option<Format> {
        self.peers.find(peer).and_then(|index| self.peers.get(index)).map(|found| found.format)
    }

    /// Changes what the peer reads. Says no once it has subscribed: its group reads one format.
    pub fn set_format(&mut self, peer: PeerId, format: Format) -> bool {
        let Some(index) = self.peers.find(peer) else { return false };
        let found = self.peers.member(index);
        let may = found.group.is_none() && found.subscriptions.is_empty();
        if may {
            found.format = format;
        }
        may
    }

    /// True while control messages wait for the peer, other than binds.
    #[must_use]
    pub fn has_control(&self, peer: PeerId) -> bool {
        let found = self.peers.find(peer).and_then(|index| self.peers.get(index));
        found.is_some_and(|found| found.queue.as_ref().is_some_and(|queue| queue.outbox.has_control()))
    }

    /// Leaves streams of the class critical out of everything the peer subscribes to: it gets those in another
    /// way. Says no once it has subscribed.
    pub fn leave_out_critical(&mut self, peer: PeerId) -> bool {
        let Some(index) = self.peers.find(peer) else { return false };
        let found = self.peers.member(index);
        found.without_critical |= found.subscriptions.is_empty();
        found.without_critical
    }
}
