//! Publishing: bounded, never blocking, and honest about what became of a message.

use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{Durability, Publish, PublishStatus, Published, Role, Skip};
use tickcast_protocol::registry::{self, DATA_FIRST};
use tickcast_protocol::{DecodeError, FieldError, Frame, Header, Message, frame};

use super::event::{ClientEvent, Outcome, ServerError};
use super::fresh::nanos;
use super::{ClientState, Core, Request};

/// More about a publish that asks for a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishOptions {
    /// Topic expected, or empty when it follows from the key fields.
    pub topic: String,
    /// The publisher's id of the message, or empty; at most 64 bytes. With an id, publishing again after
    /// [`Outcome::Unknown`] is safe.
    pub id: String,
    /// The least durability that will do.
    pub durability: Durability,
    /// When a critical message is of no use any more; zero for never.
    pub expires_at: Timestamp,
    /// A critical message takes the place of an older one of its topic and this key that still waits for its
    /// recipients. Empty for none; at most 64 bytes.
    pub collapse_key: String,
}

impl Default for PublishOptions {
    fn default() -> Self {
        let (topic, id, collapse_key) = (String::new(), String::new(), String::new());
        Self { topic, id, durability: Durability::MEMORY, expires_at: Timestamp(0), collapse_key }
    }
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The queue is full, or too many replies are due. Nothing was queued.
    #[error("the publish queue is full; `publish_queue_max` and `replies_max` bound it")]
    Full,
    /// The message would be refused by every server; the error names the field.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
    /// Larger than the server takes.
    #[error("frame of {size} bytes exceeds the server's limit of {limit}")]
    TooLarge {
        /// Bytes of the frame.
        size: usize,
        /// Bytes the server takes.
        limit: usize,
    },
    /// Control messages are not published.
    #[error("`{0}` is a control message and cannot be published")]
    NotData(&'static str),
    /// The client said hello as a subscriber.
    #[error("this client is a subscriber; connect with the role publisher or both")]
    NotPublisher,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl Core {
    /// Queues a message and forgets it. Without a connection it waits, up to its time to live.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn publish(&mut self, message: &Message, now: u64) -> Result<(), PublishError> {
        let bytes = self.frame_of(message)?;
        self.room()?;
        self.outgoing.publish(bytes, 0, now);
        Ok(())
    }

    /// Queues a frame that was received once, with its payload as it came, and forgets it. Only the server checks
    /// the payload, which may be of a type that this version does not know.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn publish_frame(&mut self, frame: &Frame<'_>, now: u64) -> Result<(), PublishError> {
        self.may_publish()?;
        let type_id = frame.header.type_id;
        if type_id < DATA_FIRST {
            return Err(PublishError::NotData(registry::by_id(type_id).map_or("unknown", |info| info.name)));
        }
        if frame.is_compressed() {
            return Err(DecodeError::Compressed(frame.header.codec()).into());
        }
        self.check_size(frame::HEADER_LEN + frame.payload.len())?;
        self.room()?;
        // What the server fills in is zero from a publisher.
        let header = Header { stream: 0, sequence: 0, publish_time: 0, ..frame.header };
        let mut bytes = Vec::with_capacity(frame::HEADER_LEN + frame.payload.len());
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(frame.payload);
        self.outgoing.publish(bytes, 0, now);
        Ok(())
    }

    /// Queues a message and asks for a reply, which comes as [`ClientEvent::Published`] with the request
    /// returned here, sooner or later and exactly once.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then and nothing will come.
    pub fn publish_acked(
        &mut self,
        message: &Message,
        options: PublishOptions,
        now: u64,
    ) -> Result<u64, PublishError> {
        let data = self.frame_of(message)?;
        self.room()?;
        if self.replies_due >= self.options.replies_max {
            self.stats.queue_full += 1;
            return Err(PublishError::Full);
        }
        let PublishOptions { topic, id, durability, expires_at, collapse_key } = options;
        // Taken only once the frame is known to fit.
        let request = self.last_request + 1;
        let publish = Publish { request, topic, id, durability, expires_at, collapse_key };
        let mut bytes = frame::encode(&publish.into());
        bytes.extend_from_slice(&data);
        self.check_size(bytes.len())?;
        let request = self.next_request(Request::Publish);
        self.outgoing.publish(bytes, request, now);
        self.replies_due += 1;
        Ok(request)
    }

    /// Tells that our own source skipped `count` events of a topic, in order with the publishes around it.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was queued then.
    pub fn skip(&mut self, topic: &str, count: u64, now: u64) -> Result<(), PublishError> {
        self.may_publish()?;
        self.room()?;
        let skip = Skip { topic: topic.to_owned(), count };
        self.outgoing.publish(frame::encode(&skip.into()), 0, now);
        Ok(())
    }

    pub(super) fn may_publish(&self) -> Result<(), PublishError> {
        if self.options.role == Role::SUBSCRIBER {
            return Err(PublishError::NotPublisher);
        }
        if self.told_state == ClientState::Disconnected {
            return Err(PublishError::Closed);
        }
        Ok(())
    }

    pub(super) fn room(&mut self) -> Result<(), PublishError> {
        if self.outgoing.is_full() {
            self.stats.queue_full += 1;
            return Err(PublishError::Full);
        }
        Ok(())
    }

    /// The message's frame, after the checks that every server makes.
    fn frame_of(&self, message: &Message) -> Result<Vec<u8>, PublishError> {
        self.may_publish()?;
        let info = message.info();
        if info.id < DATA_FIRST {
            return Err(PublishError::NotData(info.name));
        }
        let bytes = frame::encode(message);
        self.check_size(bytes.len())?;
        let (frame, _) = Frame::split_first(&bytes, frame::PAYLOAD_BYTES_MAX)?;
        let mut key = String::new();
        frame.view()?.write_key(&mut key).map_err(|error: FieldError| DecodeError::from(error))?;
        Ok(bytes)
    }

    fn frame_bytes_max(&self) -> usize {
        self.server.as_ref().map_or(frame::PAYLOAD_BYTES_MAX, |server| server.frame_bytes_max as usize)
    }

    fn check_size(&self, size: usize) -> Result<(), PublishError> {
        let limit = self.frame_bytes_max();
        if size > limit { Err(PublishError::TooLarge { size, limit }) } else { Ok(()) }
    }

    pub(super) fn next_publishes(&mut self, now: u64) -> Option<Vec<u8>> {
        // What expired while the socket was full is not sent late.
        self.expire(now);
        let mut requests = Vec::new();
        let (bytes, count) = self.outgoing.next_publishes(self.frame_bytes_max(), &mut requests)?;
        self.stats.published += count;
        let deadline = now.saturating_add(nanos(self.options.reply_timeout));
        self.reply_deadlines.extend(requests.into_iter().map(|request| (deadline, request)));
        Some(bytes)
    }

    /// Drops publishes that waited too long to be sent, and gives up replies that are overdue.
    pub(super) fn expire(&mut self, now: u64) {
        while let Some(request) = self.outgoing.expired(now) {
            self.stats.expired += 1;
            self.answer_unsent(request, Outcome::Expired);
        }
        while let Some((deadline, request)) = self.reply_deadlines.front().copied() {
            // Answered ones are dropped on the way, so that the queue is no longer than what is due.
            if deadline > now && self.requests.contains_key(&request) {
                break;
            }
            self.reply_deadlines.pop_front();
            self.answer(request, Outcome::Unknown);
        }
    }

    pub(super) fn on_published(&mut self, reply: Published) {
        let refused = || {
            Outcome::Refused(ServerError {
                subscription: None,
                code: reply.code,
                message: reply.message.clone(),
                field: reply.field.clone(),
                retryable: false,
                retry_after_ms: 0,
            })
        };
        let outcome = match reply.status {
            PublishStatus::ACCEPTED | PublishStatus::DUPLICATE => Outcome::Accepted {
                topic: reply.topic.clone(),
                sequence: reply.sequence,
                durability: reply.durability,
                duplicate: reply.status == PublishStatus::DUPLICATE,
                position: reply.position,
                queued: reply.queued,
                full: reply.full,
            },
            _ => refused(),
        };
        if matches!(outcome, Outcome::Refused(_)) {
            self.stats.refused += 1;
        }
        self.answer(reply.request, outcome);
    }

    /// The connection ended: what was sent and not answered may or may not have arrived.
    pub(super) fn give_up_replies(&mut self) {
        while let Some((_, request)) = self.reply_deadlines.pop_front() {
            self.answer(request, Outcome::Unknown);
        }
    }

    pub(super) fn answer_unsent(&mut self, request: u64, outcome: Outcome) {
        if request != 0 {
            self.answer(request, outcome);
        }
    }

    pub(super) fn answer(&mut self, request: u64, outcome: Outcome) {
        if self.requests.get(&request) == Some(&Request::Publish) {
            self.requests.remove(&request);
            self.replies_due = self.replies_due.saturating_sub(1);
            self.events.push_back(ClientEvent::Published { request, outcome });
        }
    }
}
