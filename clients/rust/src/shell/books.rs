//! Order books over a connection: a subscription whose books are kept, verified and brought back.

use std::time::Duration;

use tickcast_protocol::book::Top;
use tickcast_protocol::message::Start;

use super::{Client, SubscribeError, Subscription};
use crate::book::{BookEvent, Books};
use crate::core::SubscribeOptions;

/// A subscription to order books. Dropping it unsubscribes.
#[derive(Debug)]
pub struct BookSubscription {
    subscription: Subscription,
    books: Books,
}

impl Client {
    /// Subscribes to order books, and keeps the best `depth` levels of each in view. What is wrong is never
    /// shown, and asked for again by itself.
    ///
    /// # Errors
    /// As for [`Client::subscribe`].
    pub async fn books(
        &self,
        filter: &str,
        depth: usize,
        options: SubscribeOptions,
    ) -> Result<BookSubscription, SubscribeError> {
        let options = SubscribeOptions { start: Start::SNAPSHOT, since: None, ..options };
        let subscription = self.subscribe(filter, options).await?;
        Ok(BookSubscription { subscription, books: Books::new(depth) })
    }
}

impl BookSubscription {
    /// What happened next. The books are then as after this event. `None` once the client is closed for good.
    /// Loses nothing when dropped. Books are only brought back while somebody waits here.
    pub async fn next(&mut self) -> Option<BookEvent> {
        loop {
            if let Some(event) = self.books.poll_event() {
                return Some(event);
            }
            let now = self.subscription.client.now();
            if self.books.poll_resync(now) {
                self.subscription.client.snapshot_again(self.subscription.key);
            }
            let received = match self.books.poll_timeout() {
                None => self.subscription.next().await,
                Some(at) => {
                    let pause = Duration::from_nanos(at.saturating_sub(now));
                    match tokio::time::timeout(pause, self.subscription.next()).await {
                        Ok(received) => received,
                        Err(_) => continue,
                    }
                }
            };
            self.books.on_event(received?, self.subscription.client.now());
        }
    }

    /// The best levels of a book, or `None` while it is not known to be right.
    #[must_use]
    pub fn view(&self, topic: &str) -> Option<Top<'_>> {
        self.books.view(topic)
    }

    /// All books.
    #[must_use]
    pub const fn books(&self) -> &Books {
        &self.books
    }

    /// The subscription they come from: its state, its account.
    #[must_use]
    pub const fn subscription(&self) -> &Subscription {
        &self.subscription
    }
}
