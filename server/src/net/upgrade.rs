//! The WebSocket handshake: every rule checked before the 101, and the format chosen.
//!
//! fastwebsockets' own check looks at key and version only, so the others are here (RFC 6455, 4.2.1).
#![forbid(unsafe_code)]

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, StatusCode, Uri, Version};
use percent_encoding::percent_decode_str;

use crate::session::sticky::CLIENT_ID_BYTES_MAX;

/// Most subprotocols of an offer that are looked at.
const OFFERS_MAX: usize = 8;

/// What an upgraded connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Frames.
    Binary,
    /// The first JSON dialect.
    D1,
}

impl Speaks {
    /// The name in status and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::D1 => "d1",
        }
    }
}

/// A handshake that is refused: status, stable reason for the counter, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Status of the response.
    pub status: StatusCode,
    /// Label of the counter.
    pub reason: &'static str,
    /// In words.
    pub detail: &'static str,
}

const fn refused(status: StatusCode, reason: &'static str, detail: &'static str) -> Refused {
    Refused { status, reason, detail }
}

/// Checks a handshake and says what the connection will speak and which subprotocol to answer with.
///
/// # Errors
/// The rule that is broken.
pub fn check<B>(request: &Request<B>, by_path: Speaks) -> Result<(Speaks, Option<&'static str>), Refused> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "method", "a WebSocket handshake is a GET"));
    }
    if request.version() != Version::HTTP_11 {
        let detail = "a WebSocket handshake needs HTTP/1.1";
        return Err(refused(StatusCode::BAD_REQUEST, "http_version", detail));
    }
    if !lists(headers, &UPGRADE, "websocket") || !lists(headers, &CONNECTION, "upgrade") {
        let detail = "this is a WebSocket endpoint: send `Connection: Upgrade` and `Upgrade: websocket`";
        return Err(refused(StatusCode::UPGRADE_REQUIRED, "not_an_upgrade", detail));
    }
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if has_body {
        return Err(refused(StatusCode::BAD_REQUEST, "body", "a WebSocket handshake has no body"));
    }
    if single(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refused(
            StatusCode::UPGRADE_REQUIRED,
            "version",
            "the WebSocket version spoken here is 13",
        ));
    }
    let key_is_sound = single(headers, &SEC_WEBSOCKET_KEY).is_some_and(|key| {
        let body = key.strip_suffix("==").unwrap_or("");
        body.len() == 22
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    });
    if !key_is_sound {
        let detail = "Sec-WebSocket-Key must be there once: 16 bytes in base64";
        return Err(refused(StatusCode::BAD_REQUEST, "key", detail));
    }
    choose(headers, by_path)
}

/// The first offered subprotocol that is spoken here; without an offer, what the path speaks.
fn choose(headers: &HeaderMap, by_path: Speaks) -> Result<(Speaks, Option<&'static str>), Refused> {
    let mut offers = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .take(OFFERS_MAX)
        .peekable();
    if offers.peek().is_none() {
        return Ok((by_path, None));
    }
    for offer in offers {
        match offer {
            "tickcast.v2" => return Ok((Speaks::Binary, Some("tickcast.v2"))),
            "tickcast.v1.json" => return Ok((by_path, Some("tickcast.v1.json"))),
            "tickcast.v1.json.d1" => return Ok((Speaks::D1, Some("tickcast.v1.json.d1"))),
            _ => {}
        }
    }
    Err(refused(
        StatusCode::BAD_REQUEST,
        "subprotocol",
        "none of the offered subprotocols is spoken here: offer tickcast.v2, tickcast.v1.json, tickcast.v1.json.d1 or none",
    ))
}

/// What a client calls itself in its address, `?client_id=NAME`.
///
/// # Errors
/// When that is no name.
pub fn client_id(uri: &Uri) -> Result<Option<Box<str>>, Refused> {
    let mut names =
        uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("client_id="));
    let Some(name) = names.next() else { return Ok(None) };
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    match percent_decode_str(name).decode_utf8() {
        Ok(name)
            if (1..=CLIENT_ID_BYTES_MAX).contains(&name.len())
                && name.bytes().all(is_part)
                && names.next().is_none() =>
        {
            Ok(Some(name.into()))
        }
        _ => Err(refused(
            StatusCode::BAD_REQUEST,
            "client_id",
            "client_id must be there once at most: 1 to 64 characters of A-Z a-z 0-9 . _ : / @ -",
        )),
    }
}

/// The value of a header that must be there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &hyper::header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

/// True when a comma-separated header has `token`.
fn lists(headers: &HeaderMap, name: &hyper::header::HeaderName, token: &str) -> bool {
    let has = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    headers.get_all(name).iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> Request<()> {
        Request::builder()
            .uri("/ws")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap()
    }

    fn with(name: &'static str, value: &str) -> Request<()> {
        let mut request = handshake();
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    }

    #[test]
    fn sound_handshakes_get_their_format() {
        let cases: &[(Option<&str>, Speaks, Option<&str>)] = &[
            (None, Speaks::D1, None),
            (Some("tickcast.v2"), Speaks::Binary, Some("tickcast.v2")),
            (Some("foo, tickcast.v2"), Speaks::Binary, Some("tickcast.v2")),
            (Some("tickcast.v1.json, tickcast.v2"), Speaks::D1, Some("tickcast.v1.json")),
            (Some("tickcast.v1.json.d1"), Speaks::D1, Some("tickcast.v1.json.d1")),
        ];
        for (offer, speaks, answer) in cases {
            let request = offer.map_or_else(handshake, |offer| with("sec-websocket-protocol", offer));
            assert_eq!(check(&request, Speaks::D1), Ok((*speaks, *answer)), "{offer:?}");
        }
    }

    #[test]
    fn a_client_may_name_itself_in_its_address() {
        let named = |uri: &str| client_id(&uri.parse().unwrap());
        assert_eq!(named("/ws").unwrap(), None);
        assert_eq!(named("/ws?x=1&client_id=desk-7&token=t").unwrap().as_deref(), Some("desk-7"));
        assert_eq!(named("/ws?client_id=a%40b.c%3A1").unwrap().as_deref(), Some("a@b.c:1"));
        let long = format!("/ws?client_id={}", "x".repeat(65));
        for broken in [
            "/ws?client_id=",
            "/ws?client_id=a&client_id=b",
            "/ws?client_id=a%20b",
            "/ws?client_id=%ff",
            &long,
        ] {
            assert_eq!(named(broken).unwrap_err().reason, "client_id", "{broken}");
        }
    }

    #[test]
    fn broken_handshakes_name_the_rule() {
        let mut post = handshake();
        *post.method_mut() = Method::POST;
        let mut old = handshake();
        *old.version_mut() = Version::HTTP_10;
        let mut plain = handshake();
        plain.headers_mut().remove("upgrade");
        let mut two_keys = handshake();
        two_keys.headers_mut().append("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        let mut no_version = handshake();
        no_version.headers_mut().remove("sec-websocket-version");
        let spaces = " ".repeat(65_000);
        let cases = [
            (post, 405, "method"),
            (old, 400, "http_version"),
            (plain, 426, "not_an_upgrade"),
            (with("connection", "close"), 426, "not_an_upgrade"),
            (with("sec-websocket-version", "12"), 426, "version"),
            (no_version, 426, "version"),
            (with("sec-websocket-key", "x"), 400, "key"),
            (with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=a"), 400, "key"),
            (two_keys, 400, "key"),
            (with("content-length", "5"), 400, "body"),
            (with("transfer-encoding", "chunked"), 400, "body"),
            (with("sec-websocket-protocol", "soap"), 400, "subprotocol"),
            (with("sec-websocket-protocol", &format!("a{spaces}b")), 400, "subprotocol"),
            (with("sec-websocket-protocol", "a,a,a,a,a,a,a,a,tickcast.v2"), 400, "subprotocol"),
        ];
        for (request, status, reason) in cases {
            let error = check(&request, Speaks::D1).unwrap_err();
            assert_eq!((error.status.as_u16(), error.reason), (status, reason));
        }
    }
}
