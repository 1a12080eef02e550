//! A connection for publishing.

use std::time::Duration;

use tickcast_protocol::Message;
use tickcast_protocol::message::{Role, SourceStatus};

use super::{Client, ClientOptions, ConnectError, Events};
use crate::core::{Outcome, PublishError, PublishOptions, Stats};

/// A client that says hello as a publisher.
///
/// ```no_run
/// # async fn example(tick: tickcast_protocol::Message) -> Result<(), Box<dyn std::error::Error>> {
/// use tickcast_client::{ClientOptions, Publisher};
///
/// let publisher = Publisher::connect(ClientOptions::new("ws://127.0.0.1:8000/ws")).await?;
/// publisher.publish(&tick)?; // never blocks; Err(Full) when the bounded queue is full
/// println!("{:?}", publisher.publish_acked(&tick).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    events: Option<Events>,
}

impl Publisher {
    /// Connects and waits for the server's welcome.
    ///
    /// # Errors
    /// [`ConnectError`], of the first attempt.
    pub async fn connect(mut options: ClientOptions) -> Result<Self, ConnectError> {
        options.core.role = Role::PUBLISHER;
        let (client, events) = Client::connect(options).await?;
        Ok(Self { client, events: Some(events) })
    }

    /// What happens to the connection, refusals among it; the first time it is asked for. Unread ones are
    /// dropped and counted once their channel is full.
    pub fn events(&mut self) -> Option<Events> {
        self.events.take()
    }

    /// The client behind it.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Publishes and forgets: never blocks.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn publish(&self, message: &Message) -> Result<(), PublishError> {
        self.client.publish(message)
    }

    /// Publishes and waits for what becomes of it.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub async fn publish_acked(&self, message: &Message) -> Result<Outcome, PublishError> {
        self.client.publish_acked(message, PublishOptions::default()).await
    }

    /// The same, with an id, a topic or a durability.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub async fn publish_with(
        &self,
        message: &Message,
        options: PublishOptions,
    ) -> Result<Outcome, PublishError> {
        self.client.publish_acked(message, options).await
    }

    /// Tells subscribers of a topic that our own source skipped `count` events.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn skip(&self, topic: &str, count: u64) -> Result<(), PublishError> {
        self.client.skip(topic, count)
    }

    /// Says how the source of our streams is; see [`Client::vouch`].
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn vouch(
        &self,
        status: SourceStatus,
        topics: &[&str],
        interval: Duration,
    ) -> Result<(), PublishError> {
        self.client.vouch(status, topics, interval)
    }

    /// What was sent, expired, refused.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.client.stats()
    }

    /// Flushes for at most `limit` and closes. Returns the publishes that were not sent.
    pub async fn close(self, limit: Duration) -> usize {
        self.client.close(limit).await
    }
}
