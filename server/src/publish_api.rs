//! `POST /api/v1/publish`: one message, an array, or NDJSON in native JSON; an answer for each.
#![forbid(unsafe_code)]

use hyper::StatusCode;
use serde::Serialize;
use tickcast_compat::native::native_decode;
use tickcast_compat::parse::{self, Limits as JsonLimits};
use tickcast_protocol::ErrorCode;
use tickcast_protocol::field::Input;

use crate::config::Limits;
use crate::ingest::{Accepted, Ingest, Refusal, Source, Wishes};
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

/// Publishes every message of `body` and answers for each, as JSON: an object for a single message, an
/// array otherwise.
///
/// # Errors
/// When the body cannot be taken apart; nothing was published then.
pub fn publish(
    ingest: &Ingest,
    metrics: &Metrics,
    limits: &Limits,
    form: Form,
    body: &[u8],
) -> Result<String, RequestError> {
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
        reply(index, Err(refusal))
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
    let one = |index: usize, input: &Input<'_>| -> Reply {
        let outcome = publish_one(ingest, input);
        reply(index, outcome)
    };
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
            let replies: Vec<_> = replies.collect();
            Ok(to_json(&replies))
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
                    let replies: Vec<_> =
                        items.iter().enumerate().map(|(index, item)| one(index, item)).collect();
                    Ok(to_json(&replies))
                }
                single => Ok(to_json(&one(0, single))),
            }
        }
    }
}

fn count_depth(metrics: &Metrics, error: &parse::JsonError) {
    if matches!(error.reason, parse::JsonReason::Depth { .. }) {
        metrics.limit_hit("limits.json_depth");
    }
}

fn publish_one(ingest: &Ingest, input: &Input<'_>) -> Result<(Accepted, Option<String>), Refusal> {
    let native = native_decode(input, ingest.now() as i64)
        .map_err(|error| Refusal::new(error.code, error.field, error.message))
        .inspect_err(|refusal| ingest.count_refusal(refusal))?;
    let wishes = Wishes { topic: native.topic.as_str(), ..Wishes::default() };
    let accepted = ingest.publish_message(Source::Http, &native.message, wishes)?;
    Ok((accepted, native.id))
}

fn reply(index: usize, outcome: Result<(Accepted, Option<String>), Refusal>) -> Reply {
    match outcome {
        Ok((accepted, id)) => Reply::Accepted {
            index,
            status: "accepted",
            topic: accepted.topic.as_str().to_owned(),
            sequence: accepted.receipt.sequence.0,
            durability: accepted.durability.name(),
            id,
        },
        Err(refusal) => Reply::Refused {
            index,
            status: if refusal.code == ErrorCode::NotDurable { "not_durable" } else { "refused" },
            code: refusal.code.name(),
            field: refusal.field,
            message: refusal.message,
        },
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
