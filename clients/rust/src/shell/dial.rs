//! From a URL to an open WebSocket.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tickcast_protocol::CloseCode;
use tickcast_protocol::frame::SUBPROTOCOL;
use tokio::net::TcpStream;

use super::url::Url;
use crate::core::{ABNORMAL, Close};

/// Most of a refusal's body that is read, in bytes, and shown, in characters.
const REFUSAL_BYTES_MAX: usize = 4 * 1024;
const REFUSAL_CHARS_MAX: usize = 300;

/// Why no WebSocket could be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The address could not be reached.
    #[error("cannot connect to {address}: {source}")]
    Socket {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("no connection to {address} within {} ms", .limit.as_millis())]
    Timeout {
        /// Host and port.
        address: String,
        /// What `connect_timeout` allows.
        limit: Duration,
    },
    /// The peer answered, but not with a WebSocket.
    #[error("{url} answered {status}{}{body}", if .body.is_empty() { "" } else { ": " })]
    Refused {
        /// Where.
        url: Url,
        /// HTTP status.
        status: u16,
        /// Start of the answer's text.
        body: String,
    },
    /// The peer opened a WebSocket but does not speak our subprotocol.
    #[error("{url} does not speak {SUBPROTOCOL}; is it a Tickcast server?")]
    Subprotocol {
        /// Where.
        url: Url,
    },
    /// The peer does not speak HTTP, or went away while doing so.
    #[error("{url} broke off the handshake: {reason}")]
    Http {
        /// Where.
        url: Url,
        /// In words.
        reason: String,
    },
}

impl DialError {
    /// The close that stands for it: its code says whether to come back.
    pub(crate) fn close(&self) -> Close {
        let code = match self {
            Self::Refused { status: 401, .. } => CloseCode::Unauthenticated.number(),
            Self::Refused { status: 403, .. } => CloseCode::Forbidden.number(),
            // Too early, too many, timed out: later may do.
            Self::Refused { status: 408 | 425 | 429, .. } => ABNORMAL,
            Self::Refused { status: 400..=499, .. } => CloseCode::BadRequest.number(),
            Self::Subprotocol { .. } => CloseCode::SchemaMismatch.number(),
            _ => ABNORMAL,
        };
        Close::new(code, self.to_string())
    }
}

/// An open WebSocket: the socket itself, and what was read past the handshake.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) socket: TcpStream,
    pub(crate) leftover: BytesMut,
}

/// Connects within `limit`.
pub(crate) async fn dial(url: Url, limit: Duration) -> Result<Dialled, DialError> {
    let address = url.authority();
    match tokio::time::timeout(limit, open(&url)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::Timeout { address, limit }),
    }
}

async fn open(url: &Url) -> Result<Dialled, DialError> {
    let failed = |source| DialError::Socket { address: url.authority(), source };
    let broken = |error: hyper::Error| DialError::Http { url: url.clone(), reason: error.to_string() };
    let socket = TcpStream::connect((url.host(), url.port())).await.map_err(failed)?;
    // Requests are small and waited for.
    socket.set_nodelay(true).map_err(failed)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
    // Ends with the upgrade; its error is also the request's.
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .method(Method::GET)
        .uri(url.path())
        .header(HOST, url.authority())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, fastwebsockets::handshake::generate_key())
        .header(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|error| DialError::Http { url: url.clone(), reason: error.to_string() })?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = match Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await {
            Ok(body) => printable(&body.to_bytes()),
            Err(_) => String::new(),
        };
        return Err(DialError::Refused { url: url.clone(), status: status.as_u16(), body });
    }
    // The subprotocol, and then the welcome, prove more about the peer than the accept key would.
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    if chosen.is_none_or(|chosen| chosen.as_bytes() != SUBPROTOCOL.as_bytes()) {
        return Err(DialError::Subprotocol { url: url.clone() });
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => Ok(Dialled { socket: parts.io.into_inner(), leftover: BytesMut::from(parts.read_buf) }),
        Err(_) => Err(DialError::Http { url: url.clone(), reason: "the socket was replaced".to_owned() }),
    }
}

fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|letter| !letter.is_control()).take(REFUSAL_CHARS_MAX).collect()
}
