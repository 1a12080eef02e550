//! `POST /api/v1/publish`: one message, an array, or NDJSON in native JSON; an answer for each.
#![forbid(unsafe_code)]

use hyper::StatusCode;
use serde::Serialize;
use tickcast_compat::native::native_decode;
use tickcast_compat::parse::{self, Limits as JsonLimits};
use tickcast_protocol::field::Input;
use tickcast_protocol::{ErrorCode, frame};
use tokio::sync::oneshot;

use crate::config::Limits;
use crate::ingest::{Accepted, Ingest, Later, Published, Refusal, Source, Wishes};
use crate::metrics::Metrics;

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One message or an array.
    Json,
    /// One message a line.
    Lines,
}

impl Form {
    /// The form a content type stands for.
    #[must_use]
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.to_ascii_lowercase().as_str() {
            "application/json" => Some(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Self::Lines),
            _ => None,
        }
    }
}

/// A request of which nothing was published.
#[derive(Debug)]
pub struct RequestError {
    /// Status of the response.
    pub status: StatusCode,
    /// What kind of fault.
    pub code: ErrorCode,
    /// The field at fault, or empty.
    pub field: String,
    /// What is wrong, and how to put it right.
    pub message: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Reply {
    Accepted {
        index: usize,
        status: &'static str,
        topic: String,
        sequence: u64,
        durability: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(flatten)]
        kept: Option<KeptReply>,
    },
    Refused {
        index: usize,
        status: &'static str,
        code: &'static str,
        #[serde(skip_serializing_if = "String::is_empty")]
        field: String,
        message: String,
    },
}

/// What the journal says of a critical message.
#[derive(Serialize)]
struct KeptReply {
    position: u64,
    queued: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    full: Vec<FullReply>,
}

#[derive(Serialize)]
struct FullReply {
    identity: String,
    waiting: u32,
    oldest_age_ms: u64,
}

/// The answers to a request's messages, those that wait for the disk among them.
pub struct Replies {
    slots: Vec<Slot>,
    /// The body was one message, and not a list.
    is_single: bool,
}

enum Slot {
    Ready(Reply),
    Later { index: usize, id: Option<String>, outcome: oneshot::Receiver<Result<Accepted, Refusal>> },
}

impl Replies {
    /// Waits for the disk where need be. JSON: an object for a single message, an array otherwise.
    pub async fn written(self) -> String {
        let mut replies = Vec::with_capacity(self.slots.len());
        for slot in self.slots {
            replies.push(match slot {
                Slot::Ready(reply) => reply,
                Slot::Later { index, id, outcome } => {
                    // The journal answers as long as there is one.
                    let unknown =
                        "the server stopped before it could say: publish it again under the same id";
                    let lost = || Err(Refusal::new(ErrorCode::Unavailable, "", unknown));
                    reply(index, outcome.await.unwrap_or_else(|_| lost()).map(|accepted| (accepted, id)))
                }
            });
        }
        match replies.as_slice() {
            [single] if self.is_single => to_json(single),
            all => to_json(&all),
        }
    }
}

/// Publishes every message of `body`; the answers, one for each, are had from [`Replies::written`].
///
/// # Errors
/// When the body cannot be taken apart; nothing was published then.
pub fn publish(
    ingest: &Ingest,
    metrics: &Metrics,
    limits: &Limits,
    form: Form,
    body: &[u8],
) -> Result<Replies, RequestError> {
    let text = std::str::from_utf8(body).map_err(|error| RequestError {
        status: StatusCode::BAD_REQUEST,
        code: ErrorCode::BadRequest,
        field: String::new(),
        message: format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to()),
    })?;
    // The array around the messages and the envelope are two levels of their own.
    let depth = limits.json_depth + 2;
    // Bounded by the body's bytes: a value takes at least two of them.
    let json_limits =
        JsonLimits { bytes: limits.publish_request_bytes, depth, values: limits.publish_request_bytes };
    let refuse = |index, refusal: Refusal| {
        metrics.counters.refused.add(refusal.code.name());
        Slot::Ready(reply(index, Err(refusal)))
    };
    let bounded = |count| {
        if count <= limits.publish_request_messages {
            return Ok(());
        }
        metrics.limit_hit("limits.publish_request_messages");
        let message = format!(
            "{count} messages; the limit is limits.publish_request_messages = {}; send them in parts",
            limits.publish_request_messages
        );
        let (status, code) = (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::MessageTooLarge);
        Err(RequestError { status, code, field: String::new(), message })
    };
    let one = |index: usize, input: &Input<'_>| publish_one(ingest, index, input);
    match form {
        Form::Lines => {
            let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            bounded(lines().count())?;
            let replies = lines().map(|(_, line)| line).enumerate().map(|(index, line)| {
                if line.len() > limits.publisher_bytes {
                    metrics.limit_hit("limits.publisher_bytes");
                    let message = format!(
                        "the message has {} bytes; the limit is limits.publisher_bytes = {}",
                        line.len(),
                        limits.publisher_bytes
                    );
                    return refuse(index, Refusal::new(ErrorCode::MessageTooLarge, "", message));
                }
                match parse::parse(line, &json_limits) {
                    Ok(input) => one(index, &input),
                    Err(error) => {
                        count_depth(metrics, &error);
                        refuse(index, Refusal::new(ErrorCode::BadRequest, "", error.to_string()))
                    }
                }
            });
            Ok(Replies { slots: replies.collect(), is_single: false })
        }
        Form::Json => {
            let input = parse::parse(text, &json_limits).map_err(|error| {
                count_depth(metrics, &error);
                RequestError {
                    status: StatusCode::BAD_REQUEST,
                    code: ErrorCode::BadRequest,
                    field: String::new(),
                    message: error.to_string(),
                }
            })?;
            match &input {
                Input::Array(_, items) => {
                    bounded(items.len())?;
                    let slots = items.iter().enumerate().map(|(index, item)| one(index, item)).collect();
                    Ok(Replies { slots, is_single: false })
                }
                single => Ok(Replies { slots: vec![one(0, single)], is_single: true }),
            }
        }
    }
}

fn count_depth(metrics: &Metrics, error: &parse::JsonError) {
    if matches!(error.reason, parse::JsonReason::Depth { .. }) {
        metrics.limit_hit("limits.json_depth");
    }
}

fn publish_one(ingest: &Ingest, index: usize, input: &Input<'_>) -> Slot {
    let native = native_decode(input, ingest.now() as i64)
        .map_err(|error| Refusal::new(error.code, error.field, error.message))
        .inspect_err(|refusal| ingest.count_refusal(refusal));
    let native = match native {
        Ok(native) => native,
        Err(refusal) => return Slot::Ready(reply(index, Err(refusal))),
    };
    // A time that we filled in is not what the publisher said: sent again, the message is the same.
    let said = native.id.as_ref().and_then(|_| native_decode(input, 0).ok());
    let said = said.map_or_else(Vec::new, |said| frame::encode(&said.message));
    let wishes = Wishes {
        said: &said,
        topic: native.topic.as_str(),
        durability: native.durability,
        publisher: native.publisher.as_deref().unwrap_or_default(),
        id: native.id.as_deref().unwrap_or_default(),
        expires_at: native.expires_at.unwrap_or(0),
        collapse_key: native.collapse_key.as_deref().unwrap_or_default(),
    };
    let mut outcome = None;
    let later = || -> Later {
        let (sender, receiver) = oneshot::channel();
        outcome = Some(receiver);
        // Nobody listens any more when the request was given up.
        Box::new(move |what| drop(sender.send(what)))
    };
    let published = ingest.publish_message(Source::Http, &native.message, wishes, later);
    match (published, outcome) {
        (Ok(Published::Later), Some(outcome)) => Slot::Later { index, id: native.id, outcome },
        (Ok(Published::Now(accepted)), _) => Slot::Ready(reply(index, Ok((accepted, native.id)))),
        (Ok(Published::Later), None) => unreachable!("what is told later has somebody to tell"),
        (Err(refusal), _) => Slot::Ready(reply(index, Err(refusal))),
    }
}

fn reply(index: usize, outcome: Result<(Accepted, Option<String>), Refusal>) -> Reply {
    match outcome {
        Ok((accepted, id)) => Reply::Accepted {
            index,
            status: if accepted.kept.as_ref().is_some_and(|kept| kept.is_duplicate) {
                "duplicate"
            } else {
                "accepted"
            },
            topic: accepted.topic.as_str().to_owned(),
            sequence: accepted.sequence,
            durability: accepted.durability.name(),
            id,
            kept: accepted.kept.map(|kept| KeptReply {
                position: kept.position,
                queued: kept.queued,
                full: kept
                    .full
                    .into_iter()
                    .map(|full| FullReply {
                        identity: full.identity,
                        waiting: full.waiting,
                        oldest_age_ms: full.oldest_age_ms,
                    })
                    .collect(),
            }),
        },
        Err(refusal) => Reply::Refused {
            index,
            status: match refusal.code {
                ErrorCode::NotDurable => "not_durable",
                ErrorCode::Conflict => "conflict",
                _ => "refused",
            },
            code: refusal.code.name(),
            field: refusal.field,
            message: refusal.message,
        },
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
