//! Which web pages may talk to us. Programs send no Origin; like pages, they must know whom they call.
//!
//! A page's browser states its Origin and the Host it thinks it talks to. Both must be loopback, our
//! own address, or configured: checking only that they are equal would let a name that is pointed at
//! 127.0.0.1 after the page was loaded (DNS rebinding) pass.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

/// Who may come from a browser.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    /// Exact origins such as `https://desk.example.com`.
    pub allowed: Vec<String>,
    /// The address we listen on.
    pub listen: SocketAddr,
}

impl OriginPolicy {
    /// True when a request with these headers may be served.
    #[must_use]
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        // A page that reads its own origin's addresses sends no Origin, so the Host alone must do there.
        let Some(host) = only(headers, &HOST) else { return false };
        let mut allowed_hosts = self.allowed.iter().filter_map(|allowed| authority(allowed));
        if !self.is_own(host) && !allowed_hosts.any(|allowed| allowed == host) {
            return false;
        }
        if !headers.contains_key(ORIGIN) {
            return true;
        }
        let Some(origin) = only(headers, &ORIGIN) else { return false };
        authority(origin).is_some_and(|origin| self.is_own(origin))
            || self.allowed.iter().any(|allowed| allowed == origin)
    }

    /// True for loopback names and addresses, and for the address we listen on.
    fn is_own(&self, authority: &str) -> bool {
        let name = host_name(authority);
        match name.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == self.listen.ip(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// The value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Host and port of an origin; none for `null` and anything else that is not `scheme://host`.
fn authority(origin: &str) -> Option<&str> {
    let (scheme, authority) = origin.split_once("://")?;
    (matches!(scheme, "http" | "https") && !authority.contains('/')).then_some(authority)
}

/// The host without port and without the brackets of an IPv6 address.
fn host_name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(name, _)| name);
    }
    authority.rsplit_once(':').map_or(authority, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_from_elsewhere_are_turned_away() {
        let policy = OriginPolicy {
            allowed: vec!["https://desk.example.com".to_owned()],
            listen: "127.0.0.1:8000".parse().unwrap(),
        };
        let cases = [
            (None, "localhost:8000", true),
            (None, "127.0.0.1", true),
            (None, "desk.example.com", true),
            // A rebound name, read by the page it was given to: no Origin, and a Host that is not ours.
            (None, "evil.com:8000", false),
            (Some("http://localhost:3000"), "localhost:8000", true),
            (Some("http://127.0.0.1:8000"), "127.0.0.1:8000", true),
            (Some("http://[::1]:8000"), "[::1]:8000", true),
            (Some("https://desk.example.com"), "desk.example.com", true),
            (Some("https://desk.example.com"), "127.0.0.1:8000", true),
            (Some("https://desk.example.com.evil.com"), "127.0.0.1:8000", false),
            (Some("http://desk.example.com"), "127.0.0.1:8000", false),
            (Some("http://evil.com"), "127.0.0.1:8000", false),
            // A name that now points at us: Origin and Host agree, and neither is ours.
            (Some("http://evil.com:8000"), "evil.com:8000", false),
            (Some("http://localhost.evil.com"), "localhost:8000", false),
            (Some("null"), "localhost:8000", false),
            (Some("file://"), "localhost:8000", false),
        ];
        for (origin, host, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(policy.admits(&headers), expected, "{origin:?} {host}");
        }
    }

    #[test]
    fn two_origins_are_none() {
        let policy = OriginPolicy { allowed: vec![], listen: "127.0.0.1:8000".parse().unwrap() };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "localhost".parse().unwrap());
        headers.append(ORIGIN, "http://localhost".parse().unwrap());
        headers.append(ORIGIN, "http://evil.com".parse().unwrap());
        assert!(!policy.admits(&headers));
    }
}
