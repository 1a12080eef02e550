//! What can go wrong on the wire, in codes that are stable for ever.

use std::fmt;

use crate::decimal::DecimalError;

/// A frame that cannot be read. The reader's peer is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the header, or than the header's lengths promise.
    #[error("frame is truncated: {needed} bytes needed, {available} there")]
    Truncated {
        /// Bytes the frame needs.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The first two bytes are not the magic.
    #[error("not a Tickcast frame: magic is {0:#06x}")]
    Magic(u16),
    /// A protocol major this reader does not speak.
    #[error("protocol {0} is not spoken here, {major} is", major = crate::frame::PROTOCOL_MAJOR)]
    Protocol(u8),
    /// A header field outside its bounds.
    #[error("header field `{field}` is {value}, allowed is {allowed}")]
    HeaderField {
        /// Name of the field, as in SPEC.
        field: &'static str,
        /// What was sent.
        value: u64,
        /// What may be sent.
        allowed: &'static str,
    },
    /// No message has this type id.
    #[error("unknown message type id {0}")]
    UnknownType(u16),
    /// A payload codec this reader does not know.
    #[error("unknown codec {0}")]
    UnknownCodec(u8),
    /// A compressed payload where only plain ones are read: compression is from server to client.
    #[error(
        "field `flags.codec` is {0}; whoever reads this takes codec 0 only, so send the payload uncompressed"
    )]
    Compressed(u8),
    /// A compressed payload that is cut, points outside of itself, or does not make what was announced.
    #[error("payload does not decompress to {raw_len} bytes, as `raw_len` says, by codec {codec}")]
    Block {
        /// The codec it claims.
        codec: u8,
        /// Bytes it should have made.
        raw_len: usize,
    },
    /// Larger than the reader accepts.
    #[error("frame of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Bytes announced.
        size: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// The payload's structure is broken: an offset out of range, an invalid tag, bad UTF-8.
    #[error("payload of `{type_name}` is malformed")]
    Payload {
        /// Type the payload claims to be.
        type_name: &'static str,
    },
    /// The structure is sound but a field holds what it must not.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl DecodeError {
    /// The code a peer is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. }
            | Self::Magic(_)
            | Self::HeaderField { .. }
            | Self::Block { .. }
            | Self::Payload { .. } => ErrorCode::BadRequest,
            Self::Protocol(_) => ErrorCode::SchemaMismatch,
            Self::UnknownType(_) => ErrorCode::UnknownType,
            Self::UnknownCodec(_) | Self::Compressed(_) => ErrorCode::UnsupportedFormat,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::Field(_) => ErrorCode::InvalidField,
        }
    }

    /// The field at fault, as a path, or empty when it is the frame as a whole.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::HeaderField { field, .. } => field,
            Self::Magic(_) => "magic",
            Self::Protocol(_) => "protocol",
            Self::UnknownType(_) => "type_id",
            Self::UnknownCodec(_) | Self::Compressed(_) => "flags.codec",
            Self::Field(error) => &error.path,
            Self::Truncated { .. } | Self::TooLarge { .. } => "payload_len",
            Self::Block { .. } | Self::Payload { .. } => "payload",
        }
    }
}

/// A field that holds what it must not, with its path such as `data.price`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{path}`: {reason}")]
pub struct FieldError {
    /// Path from the message's root: names and indexes joined by dots.
    pub path: String,
    /// What is wrong with it.
    pub reason: FieldReason,
}

impl FieldError {
    /// An error at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, reason: FieldReason) -> Self {
        Self { path: path.into(), reason }
    }

    /// The same error, one level further from the root.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.path = if self.path.is_empty() { parent.to_owned() } else { format!("{parent}.{}", self.path) };
        self
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldReason {
    /// Required and not there.
    #[error("is required")]
    Missing,
    /// Another kind of value than the field's.
    #[error("must be {expected}")]
    Kind {
        /// What the field holds.
        expected: &'static str,
    },
    /// A number outside the field's bounds.
    #[error("must be {expected}")]
    Range {
        /// The bounds, in words.
        expected: &'static str,
    },
    /// A number outside the bounds of its type's row in the table.
    #[error("must be {min} to {max}")]
    Bounds {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Not an exact decimal.
    #[error("{0}")]
    Decimal(#[from] DecimalError),
    /// Not a time.
    #[error("must be an RFC 3339 time such as 2026-01-31T12:00:00Z")]
    Time,
    /// Not one of the names the field knows.
    #[error("must be one of {}", .0.join(", "))]
    Name(&'static [&'static str]),
    /// A key field with a character a topic cannot carry.
    #[error("must be a key: 1 to 112 characters of A-Z a-z 0-9 . _ : / @ -")]
    Key,
    /// Longer than a field may be.
    #[error("has {length} {unit}, the limit is {limit}")]
    TooLong {
        /// Length found.
        length: usize,
        /// Most allowed.
        limit: usize,
        /// What was counted.
        unit: &'static str,
    },
    /// Differs from what the topic says.
    #[error("is `{found}` but the topic says `{expected}`")]
    Mismatch {
        /// What the field holds.
        found: String,
        /// What the topic holds.
        expected: String,
    },
    /// At least one field of a group is needed.
    #[error("at least one of {} is required", .0.join(", "))]
    AnyOf(&'static [&'static str]),
    /// A key that is there twice.
    #[error("is there twice")]
    Duplicate,
    /// Not a field of this type.
    #[error("is not a field of this type")]
    Unknown,
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$variant_doc:meta])* $variant:ident = $value:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant = $value,)* }

        impl $name {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> $repr {
                self as $repr
            }

            /// The code with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: $repr) -> Option<Self> {
                match number { $($value => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes! {
    /// Codes of error messages: the connection lives.
    ErrorCode: u16 {
        /// The message cannot be understood.
        BadRequest = 1, "BAD_REQUEST";
        /// No message has this type.
        UnknownType = 2, "UNKNOWN_TYPE";
        /// No stream has this name.
        UnknownStream = 3, "UNKNOWN_STREAM";
        /// A topic filter or predicate is not valid.
        InvalidFilter = 4, "INVALID_FILTER";
        /// A field holds what it must not; the error names it.
        InvalidField = 5, "INVALID_FIELD";
        /// Credentials are needed.
        Unauthenticated = 6, "UNAUTHENTICATED";
        /// Not allowed for this principal.
        Forbidden = 7, "FORBIDDEN";
        /// No such subscription on this connection.
        NotSubscribed = 8, "NOT_SUBSCRIBED";
        /// Too many subscriptions on this connection.
        SubscriptionLimit = 9, "SUBSCRIPTION_LIMIT";
        /// Too many connections.
        ConnectionLimit = 10, "CONNECTION_LIMIT";
        /// Too many messages in too short a time.
        RateLimited = 11, "RATE_LIMITED";
        /// Larger than accepted.
        MessageTooLarge = 12, "MESSAGE_TOO_LARGE";
        /// The peer's format cannot carry this type.
        UnsupportedFormat = 13, "UNSUPPORTED_FORMAT";
        /// Another protocol or schema version.
        SchemaMismatch = 14, "SCHEMA_MISMATCH";
        /// A resume cannot be met; the error says what is the oldest to be had.
        ResumeFailed = 15, "RESUME_FAILED";
        /// The subscriber reads too slowly.
        SlowConsumer = 16, "SLOW_CONSUMER";
        /// The source has gone quiet.
        StaleUpstream = 17, "STALE_UPSTREAM";
        /// Cannot be done at present.
        Unavailable = 18, "UNAVAILABLE";
        /// Our fault.
        Internal = 19, "INTERNAL";
        /// Durability asked for cannot be had.
        NotDurable = 20, "NOT_DURABLE";
        /// A bound on streams is reached.
        StreamLimit = 21, "STREAM_LIMIT";
        /// Not allowed in the present state, such as a subscribe before hello.
        InvalidState = 22, "INVALID_STATE";
        /// Another message was published under the same id.
        Conflict = 23, "CONFLICT";
        /// Too much waits for every recipient of a critical message.
        QueueFull = 24, "QUEUE_FULL";
    }
}

codes! {
    /// WebSocket close codes. 4000 to 4499: come back with backoff; 4500 to 4999: do not.
    CloseCode: u16 {
        /// The peer is done.
        Normal = 1000, "normal";
        /// The peer or server is going away.
        GoingAway = 1001, "going_away";
        /// A WebSocket protocol violation.
        ProtocolError = 1002, "protocol_error";
        /// A kind of data that is not spoken here.
        UnsupportedData = 1003, "unsupported_data";
        /// Text that is not UTF-8.
        InvalidText = 1007, "invalid_text";
        /// A policy was broken.
        PolicyViolation = 1008, "policy_violation";
        /// A message larger than accepted.
        MessageTooBig = 1009, "message_too_big";
        /// Our fault.
        InternalError = 1011, "internal_error";
        /// The server restarts: come back.
        ServiceRestart = 1012, "service_restart";
        /// Overloaded: come back later.
        TryAgainLater = 1013, "try_again_later";
        /// No answer to pings in time.
        HeartbeatTimeout = 4002, "heartbeat_timeout";
        /// The outbox of critical messages is full.
        SlowConsumer = 4003, "slow_consumer";
        /// The resume cannot be met.
        ResumeFailed = 4004, "resume_failed";
        /// Too many messages in too short a time.
        RateLimited = 4006, "rate_limited";
        /// No hello in time.
        HelloTimeout = 4008, "hello_timeout";
        /// Too many malformed messages.
        BadRequest = 4500, "bad_request";
        /// Bad credentials.
        Unauthenticated = 4501, "unauthenticated";
        /// Not allowed.
        Forbidden = 4503, "forbidden";
        /// Another connection has the identity.
        Replaced = 4509, "replaced";
        /// A protocol version that is not spoken here.
        SchemaMismatch = 4510, "schema_mismatch";
        /// Too many connections.
        ConnectionLimit = 4529, "connection_limit";
    }
}

impl CloseCode {
    /// Whether a client closed with `code` should come back. Codes nobody knows follow their range.
    #[must_use]
    pub const fn retries(code: u16) -> bool {
        !matches!(code, 1000 | 4500..=4999)
    }
}
