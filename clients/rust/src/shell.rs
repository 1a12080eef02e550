//! The client over tokio: one task a connection, handles that never block, channels that push back.
//!
//! A [`Subscription`] has a channel of its own; [`Client::watch`] sends its events to the client's
//! [`Events`] instead, together with what concerns the connection. Either way a full channel stops the
//! reading of the whole connection, and the server's policy decides what a slow reader misses: give a slow
//! consumer a client of its own.

mod books;
mod dial;
mod driver;
mod frames;
mod publisher;
#[cfg(test)]
mod tests;
mod url;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tickcast_protocol::message::{SourceStatus, StreamState};
use tickcast_protocol::topic::TopicError;
use tickcast_protocol::{Class, Frame, Message, Topic, TopicFilter};
use tokio::sync::{mpsc, oneshot};

use crate::core::{
    Account, ClientEvent, ClientState, Close, Core, CoreOptions, Delivery, Outcome, PublishError,
    PublishOptions, ServerError, ServerInfo, Stats, SubscribeOptions, SubscriptionKey, SubscriptionState,
};
pub use books::BookSubscription;
pub use dial::DialError;
use driver::{Driver, Settings, Shared};
pub use publisher::Publisher;
pub use url::{Url, UrlError};

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where: `ws://host:port/path`.
    pub url: String,
    /// Role, name, backoff, seed and bounds of the core.
    pub core: CoreOptions,
    /// How long one attempt may take, from the name's resolution to the WebSocket.
    pub connect_timeout: Duration,
    /// How long [`Client::subscribe`] waits for the server's answer.
    pub subscribe_timeout: Duration,
    /// Events that wait in each channel to the user, about 200 bytes each and the buffers they share; past
    /// it the socket is not read.
    pub events_max: usize,
    /// Bytes read at once; the events of one read share one buffer.
    pub read_buffer_bytes: usize,
    /// Largest WebSocket message accepted; past it the connection is closed with 1009.
    pub message_bytes_max: usize,
}

impl ClientOptions {
    /// The defaults, with a random seed.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            core: CoreOptions { seed: fastrand::u64(..), ..CoreOptions::default() },
            connect_timeout: Duration::from_secs(5),
            subscribe_timeout: Duration::from_secs(10),
            events_max: 1_024,
            read_buffer_bytes: 16 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No WebSocket could be had.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server closed before it welcomed us.
    #[error("{0}")]
    Closed(Close),
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The filter is none.
    #[error(transparent)]
    Filter(#[from] TopicError),
    /// The server refused it.
    #[error("{0}")]
    Refused(ServerError),
    /// No answer in time.
    #[error("no answer to the subscribe within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The client is closed, or was while this waited.
    #[error("the client is closed")]
    Closed,
}

/// A handle to a connection and everything on it. Cheap to clone; the connection ends with the last one.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
    subscribe_timeout: Duration,
    events_max: usize,
}

/// Ends the connection when the last handle goes.
#[derive(Debug)]
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.lock().core.close(self.0.clock.now());
        self.0.wake.notify_one();
    }
}

/// What happens to a client and to the subscriptions it watches. May be dropped when of no interest.
#[derive(Debug)]
pub struct Events {
    channel: mpsc::Receiver<ClientEvent>,
}

impl Events {
    /// The next event; `None` once the client is closed for good and everything was told. Loses nothing
    /// when dropped.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        self.channel.recv().await
    }

    /// Waits for at least one event, then takes up to `limit` at once. Zero at the end.
    pub async fn next_batch(&mut self, events: &mut Vec<ClientEvent>, limit: usize) -> usize {
        self.channel.recv_many(events, limit).await
    }

    /// The next event, if there is one already.
    pub fn try_next(&mut self) -> Option<ClientEvent> {
        self.channel.try_recv().ok()
    }
}

/// One subscription and its events. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    key: SubscriptionKey,
    channel: mpsc::Receiver<ClientEvent>,
}

impl Subscription {
    /// The next event: data, gaps, staleness, states, brackets. `None` once the client is closed for good.
    /// Loses nothing when dropped.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        self.channel.recv().await
    }

    /// Waits for at least one event, then takes up to `limit` at once. Zero at the end.
    pub async fn next_batch(&mut self, events: &mut Vec<ClientEvent>, limit: usize) -> usize {
        self.channel.recv_many(events, limit).await
    }

    /// Its number, which its events carry.
    #[must_use]
    pub const fn key(&self) -> SubscriptionKey {
        self.key
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> SubscriptionState {
        self.client.subscription_state(self.key)
    }

    /// Changes policy, predicate and rate in place. Position and account stay.
    pub fn configure(&self, delivery: Delivery) {
        self.client.configure(self.key, delivery);
    }

    /// How its streams are, as the server said last.
    #[must_use]
    pub fn stream_states(&self) -> Vec<(Topic, Class, StreamState)> {
        self.client.stream_states(self.key)
    }

    /// Its account on every stream.
    #[must_use]
    pub fn accounts(&self) -> Vec<(Topic, Class, Account)> {
        self.client.accounts(self.key)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.unsubscribe(self.key);
    }
}

impl Client {
    /// Connects and waits for the server's welcome. The first attempt must succeed; from then on the
    /// client comes back by itself.
    ///
    /// # Errors
    /// [`ConnectError`], of the first attempt.
    pub async fn connect(options: ClientOptions) -> Result<(Self, Events), ConnectError> {
        let (client, events, opened) = Self::spawn(options)?;
        match opened.await {
            Ok(Ok(())) => Ok((client, events)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Closed(Close::new(crate::core::ABNORMAL, "the client's task ended"))),
        }
    }

    /// Starts trying and does not wait: for a program that may start before its server. Must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// The URL's.
    pub fn start(options: ClientOptions) -> Result<(Self, Events), UrlError> {
        let (client, events, _) = Self::spawn(options)?;
        Ok((client, events))
    }

    #[allow(clippy::type_complexity, reason = "private; the three parts of one new client")]
    fn spawn(
        options: ClientOptions,
    ) -> Result<(Self, Events, oneshot::Receiver<Result<(), ConnectError>>), UrlError> {
        let url = Url::parse(&options.url)?;
        let (opened, seen) = oneshot::channel();
        let mut core = options.core;
        if let Some(identity) = core.identity.as_mut().filter(|identity| identity.token.is_empty()) {
            // One that the server makes would be lost with a connection that breaks before its answer.
            identity.token = new_token();
        }
        let mut core = Core::new(core);
        core.connect(0);
        let (shared, idle) = Shared::new(core, opened);
        let events_max = options.events_max.max(1);
        let (sender, channel) = mpsc::channel(events_max);
        let settings = Settings {
            url,
            connect_timeout: options.connect_timeout,
            read_buffer_bytes: options.read_buffer_bytes.max(512),
            message_bytes_max: options.message_bytes_max,
        };
        tokio::spawn(Driver::new(shared.clone(), idle, sender, settings).run());
        let _guard = Arc::new(Guard(shared.clone()));
        let client = Self { shared, _guard, subscribe_timeout: options.subscribe_timeout, events_max };
        Ok((client, Events { channel }, seen))
    }

    /// Subscribes, and waits for the server to take it. The subscription outlives connections.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing is subscribed then.
    pub async fn subscribe(
        &self,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let filter = TopicFilter::parse(filter)?;
        let (sender, channel) = mpsc::channel(self.events_max);
        let (acknowledged, answer) = oneshot::channel();
        let key = self.with_open_core(|inner| {
            let key = inner.core.subscribe(filter, options);
            inner.routes.insert(key, sender);
            inner.acknowledged.insert(key, acknowledged);
            key
        })?;
        // From here on dropping it, for whatever reason, unsubscribes.
        let subscription = Subscription { client: self.clone(), key, channel };
        match tokio::time::timeout(self.subscribe_timeout, answer).await {
            Ok(Ok(Ok(()))) => Ok(subscription),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(SubscribeError::Closed),
            Err(_) => Err(SubscribeError::Timeout(self.subscribe_timeout)),
        }
    }

    /// Subscribes without waiting; its events, the answer among them, come on [`Events`].
    ///
    /// # Errors
    /// The filter's, or that the client is closed.
    pub fn watch(&self, filter: &str, options: SubscribeOptions) -> Result<SubscriptionKey, SubscribeError> {
        let filter = TopicFilter::parse(filter)?;
        self.with_open_core(|inner| {
            let key = inner.core.subscribe(filter, options);
            inner.watched.insert(key);
            key
        })
    }

    fn with_open_core<T>(&self, act: impl FnOnce(&mut driver::Inner) -> T) -> Result<T, SubscribeError> {
        let mut inner = self.shared.lock();
        if inner.core.state() == ClientState::Disconnected {
            return Err(SubscribeError::Closed);
        }
        let outcome = act(&mut inner);
        drop(inner);
        self.shared.wake.notify_one();
        Ok(outcome)
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, key: SubscriptionKey) {
        let mut inner = self.shared.lock();
        inner.core.unsubscribe(key);
        inner.routes.remove(&key);
        inner.watched.remove(&key);
        inner.acknowledged.remove(&key);
        drop(inner);
        self.shared.wake.notify_one();
    }

    /// Asks for the snapshot of a live subscription again. See [`Core::snapshot_again`].
    pub fn snapshot_again(&self, key: SubscriptionKey) -> bool {
        self.act(|core, _| core.snapshot_again(key))
    }

    /// Changes policy, predicate and rate of a subscription in place. Position and account stay.
    pub fn configure(&self, key: SubscriptionKey, delivery: Delivery) {
        self.act(|core, _| core.configure(key, delivery));
    }

    /// Publishes and forgets: never blocks. A refusal comes as [`ClientEvent::ServerError`] and is counted
    /// in [`Stats::refused`]. The role must be publisher or both.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn publish(&self, message: &Message) -> Result<(), PublishError> {
        self.act(|core, now| core.publish(message, now))
    }

    /// Publishes a frame that was received once, and forgets it. See [`Core::publish_frame`].
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn publish_frame(&self, frame: &Frame<'_>) -> Result<(), PublishError> {
        self.act(|core, now| core.publish_frame(frame, now))
    }

    /// Publishes and waits for what becomes of it, at most the time to live and the reply timeout.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub async fn publish_acked(
        &self,
        message: &Message,
        options: PublishOptions,
    ) -> Result<Outcome, PublishError> {
        let (waiter, reply) = oneshot::channel();
        {
            let mut inner = self.shared.lock();
            let request = inner.core.publish_acked(message, options, self.shared.clock.now())?;
            inner.replies.insert(request, waiter);
        }
        self.shared.wake.notify_one();
        Ok(reply.await.unwrap_or(Outcome::Closed))
    }

    /// Tells subscribers of a topic that our own source skipped `count` events.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn skip(&self, topic: &str, count: u64) -> Result<(), PublishError> {
        self.act(|core, now| core.skip(topic, count, now))
    }

    /// Says that critical messages were handled: they do not come again. See [`Core::acknowledge`].
    pub fn acknowledge(&self, positions: impl IntoIterator<Item = u64>) {
        self.act(|core, _| core.acknowledge(positions));
    }

    /// Says how the source of our streams is: of those of `topics`, or of all we were the last to publish to
    /// when there are none. `interval`, when it is not zero, is the longest time between two of their events
    /// while all is well. Whoever is alive says so at least once an interval.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn vouch(
        &self,
        status: SourceStatus,
        topics: &[&str],
        interval: Duration,
    ) -> Result<(), PublishError> {
        let interval_ms = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        self.act(|core, now| core.vouch(status, topics, interval_ms, now))
    }

    /// How the streams of a subscription are, as the server said last.
    #[must_use]
    pub fn stream_states(&self, key: SubscriptionKey) -> Vec<(Topic, Class, StreamState)> {
        let inner = self.shared.lock();
        inner.core.stream_states(key).map(|(topic, class, state)| (topic.clone(), class, state)).collect()
    }

    /// Asks for the server's clock; the answer comes as [`ClientEvent::Pong`].
    pub fn ping(&self) {
        self.act(Core::ping);
    }

    /// Makes a new connection at once, at a moment of the application's choosing.
    pub fn reconnect(&self) {
        self.act(Core::reconnect);
    }

    /// Waits until everything queued was handed to the socket, at most `limit`. Returns the publishes that
    /// still wait.
    pub async fn flush(&self, limit: Duration) -> usize {
        let mut idle = self.shared.idle.clone();
        let flushed = async {
            loop {
                idle.mark_unchanged();
                {
                    let inner = self.shared.lock();
                    let done = inner.is_idle();
                    if done || inner.core.state() == ClientState::Disconnected {
                        return;
                    }
                }
                // What is queued makes the next turn say "not idle" first: that change cannot be missed.
                self.shared.wake.notify_one();
                if idle.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, flushed).await;
        self.shared.lock().core.queued()
    }

    /// Flushes for at most `limit`, then closes with 1000 and waits for the goodbye. Returns the publishes
    /// that were not sent.
    pub async fn close(self, limit: Duration) -> usize {
        let unsent = self.flush(limit).await;
        self.act(Core::close);
        let mut idle = self.shared.idle.clone();
        while idle.changed().await.is_ok() {}
        unsent
    }

    /// The client's state.
    #[must_use]
    pub fn state(&self) -> ClientState {
        self.shared.lock().core.state()
    }

    /// The state of a subscription.
    #[must_use]
    pub fn subscription_state(&self, key: SubscriptionKey) -> SubscriptionState {
        self.shared.lock().core.subscription_state(key)
    }

    /// Who the server said it was at the last welcome.
    #[must_use]
    pub fn server(&self) -> Option<ServerInfo> {
        self.shared.lock().core.server().cloned()
    }

    /// What the core counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().core.stats()
    }

    /// The accounts of a subscription, stream by stream.
    #[must_use]
    pub fn accounts(&self, key: SubscriptionKey) -> Vec<(Topic, Class, Account)> {
        let inner = self.shared.lock();
        inner.core.accounts(key).map(|(topic, class, account)| (topic.clone(), class, account)).collect()
    }

    /// All accounts together, those of the past included.
    #[must_use]
    pub fn totals(&self) -> Account {
        self.shared.lock().core.totals()
    }

    /// Publishes that wait to be sent.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.lock().core.queued()
    }

    /// Events about the connection that were dropped because nobody read [`Events`]. Data is never among
    /// them.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        self.shared.lock().events_dropped
    }

    /// Unix time in ns, on the clock that events are stamped with.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.shared.clock.now()
    }

    fn act<T>(&self, act: impl FnOnce(&mut Core, u64) -> T) -> T {
        let outcome = act(&mut self.shared.lock().core, self.shared.clock.now());
        self.shared.wake.notify_one();
        outcome
    }
}

/// What proves a new identity: 128 bits that nobody can guess, in hexadecimal.
///
/// # Panics
/// When the system gives no random bytes.
#[must_use]
pub fn new_token() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
