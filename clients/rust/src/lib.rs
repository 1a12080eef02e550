//! Tickcast for Rust: subscribe and publish over the binary protocol, and never miss anything in silence.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tickcast_client::{Client, ClientEvent, ClientOptions, SubscribeOptions, text};
//!
//! let (client, _events) = Client::connect(ClientOptions::new("ws://127.0.0.1:8000/ws")).await?;
//! let mut ticks = client.subscribe("market_data.*", SubscribeOptions::default()).await?;
//! while let Some(event) = ticks.next().await {
//!     match event {
//!         ClientEvent::Data(data) => println!("{}", text::one_line(&data)),
//!         ClientEvent::Gap(gap) => println!("gap: {gap}"),
//!         ClientEvent::Stale { topic, age_ns, .. } => println!("stale: {topic:?} for {age_ns} ns"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Modules in reading order: [`core`] decides everything and does no I/O; [`shell`] gives it a socket, a
//! clock and a task; [`book`] keeps order books that are right or not shown; [`text`] prints events for people.
#![forbid(unsafe_code)]

pub mod book;
pub mod core;
pub mod shell;
pub mod text;

pub use crate::book::{BookEvent, Books, Broken};
pub use crate::core::{
    Account, Backoff, ClientEvent, ClientState, Close, Core, CoreOptions, Critical, Data, Delivery, Gap,
    GapReason, Identity, Kept, Link, Origin, Outcome, PublishError, PublishOptions, ServerError, ServerInfo,
    StateChange, Stats, StreamChange, SubscribeOptions, SubscriptionKey, SubscriptionState, Violation,
};
pub use crate::shell::{
    BookSubscription, Client, ClientOptions, ConnectError, DialError, Events, Publisher, SubscribeError,
    Subscription, Url, UrlError,
};
pub use tickcast_protocol as protocol;
