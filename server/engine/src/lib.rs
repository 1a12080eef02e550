//! Fan-out: every event in once, and from one ring to every subscriber. No socket, no clock, no JSON.
//!
//! ```text
//!  publishers                          one shard per core, each on its own thread
//!  ──────────                          ┌──────────────────────────────────────────────────────┐
//!  Engine::publish ─► Ring ─► Reader ─►│ turn: Index ─► Run of each group ─► flush ─► PeerIo  │
//!    number, stamp,   slots            │         │                             │              │
//!    store, wake      cursor           │         └─► History                   └─► Outbox     │
//!                                      └──────────────────────────────────────────────────────┘
//! ```
//!
//! The promise, for every subscription, from the sequence its bind names, on each stream:
//! `received + conflated + gapped + filtered + queued = published`; and what a peer did not receive it is
//! told, before the next event of that stream or when its outbox is empty. `sim.rs` checks it.
//!
//! Modules in reading order: an [`event`] gets its number from the `sequencer` in the [`engine`]'s ingest
//! section, which notes it in the `records` and puts it on the [`ring`]; a sleeping [`shard`] is woken
//! by [`wake`]. The shard's `index` names delivery groups, asking each `condition` once an event; `deliver`
//! puts the event in the `run` of each `group`, or in its `window` to wait for a rate; [`flush`] writes runs, and what a [`peer`] cannot take at once waits in its `outbox`, whose losses are
//! entered in the `ledger`. `history` is what [`subscribe`] starts from; `regroup` moves a peer between
//! groups; `bind` announces stream ids; `beat` tells heads and sums; `states` tells how a stream is, as somebody outside finds its [`status`]; `leave` ends a peer; a [`tap`] hears the events of one type without being a shard; `store` counts who holds what; [`stats`] counts the rest.

mod beat;
mod bind;
mod condition;
mod deliver;
pub mod engine;
pub mod event;
pub mod flush;
mod group;
mod history;
mod index;
mod leave;
mod ledger;
mod outbox;
pub mod peer;
mod records;
mod regroup;
pub mod ring;
mod run;
mod sequencer;
pub mod shard;
#[cfg(all(test, not(tickcast_loom)))]
mod sim;
mod slots;
mod states;
pub mod stats;
pub mod status;
mod store;
pub mod subscribe;
mod sync;
pub mod tap;
pub mod wake;
mod window;

pub use bind::{BIND_BYTES_MAX, BINDINGS_MAX};
pub use condition::Condition;
pub use engine::{Engine, EngineConfig, PublishError, Receipt, SKIP_EVENTS_MAX};
pub use event::{Event, Format, Incoming, Render, binary_message};
pub use flush::{Flushed, PeerIo, WRITE_REQUESTS_MAX, WriteRequest, Written};
pub use outbox::{CONTROL_BYTES_MAX, CONTROL_MESSAGES_MAX};
pub use peer::{PeerId, PeerStatus};
pub use records::StreamSummary;
pub use shard::{SendError, Shard, Turn};
pub use stats::{ShardCounts, ShardStats};
pub use status::{Finding, Pulse, StateCounts, Status};
pub use subscribe::{Delivery, Start, Subscribe, SubscribeError, Subscribed};
pub use tap::{Heard, Taken, Tap};
pub use wake::Notify;
