//! `ws://host:port/path`, and a helpful word about everything else.

use std::fmt;

/// Port of `ws://` without one.
const PORT: u16 = 80;
/// Path of a server's WebSocket endpoint, when the URL names none.
const PATH: &str = "/ws";

/// A WebSocket URL. Parsed once, valid ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no [`Url`] we can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme than `ws`.
    #[error("`{0}` is not ws://host:port/path, for example ws://127.0.0.1:8000/ws")]
    Scheme(String),
    /// TLS.
    #[error(
        "wss:// is not spoken by this client yet; connect to a ws:// address or through a local TLS proxy"
    )]
    Tls,
    /// No host, or one with characters a host cannot have.
    #[error("`{0}` has no valid host")]
    Host(String),
    /// A port that is none.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// Credentials in the URL, where logs and proxies see them.
    #[error("a URL must not carry credentials")]
    Credentials,
    /// A path with characters a request cannot have.
    #[error("`{0}` is not a path")]
    Path(String),
}

impl Url {
    /// Parses `ws://host[:port][/path]`. Without a path it is `/ws`.
    ///
    /// # Errors
    /// [`UrlError`], in words for people.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::Scheme(text.to_owned()))?;
        match scheme.to_ascii_lowercase().as_str() {
            "ws" => {}
            "wss" => return Err(UrlError::Tls),
            _ => return Err(UrlError::Scheme(text.to_owned())),
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = split_port(authority)?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(UrlError::Host(text.to_owned()));
        }
        let path = path.split_once('#').map_or(path, |(path, _)| path);
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError::Path(path.to_owned()));
        }
        let path = match path {
            "" | "/" => PATH.to_owned(),
            query if query.starts_with('?') => format!("{PATH}{query}"),
            path => path.to_owned(),
        };
        Ok(Self { host: host.to_owned(), port, path })
    }

    /// The host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as requested.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and port, as in the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn split_port(authority: &str) -> Result<(&str, u16), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| UrlError::Host(authority.to_owned()))?;
            match after {
                "" => (host, None),
                _ => match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None => return Err(UrlError::Host(authority.to_owned())),
                },
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => PORT,
        Some(text) => {
            let port = text.parse().ok().filter(|port| *port != 0);
            port.ok_or_else(|| UrlError::Port(text.to_owned()))?
        }
    };
    Ok((host, port))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.authority(), self.path)
    }
}

impl std::str::FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_completed() {
        for (text, full) in [
            ("ws://127.0.0.1:8000/ws", "ws://127.0.0.1:8000/ws"),
            ("ws://127.0.0.1:8000", "ws://127.0.0.1:8000/ws"),
            ("WS://feeds.example/", "ws://feeds.example:80/ws"),
            ("ws://[::1]:9/d4?x=1#part", "ws://[::1]:9/d4?x=1"),
            ("ws://h?token", "ws://h:80/ws?token"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for (text, words) in [
            ("127.0.0.1:8000", "ws://host:port/path"),
            ("http://127.0.0.1:8000", "ws://host:port/path"),
            ("wss://h/ws", "TLS proxy"),
            ("ws://", "host"),
            ("ws://:80/", "host"),
            ("ws://[::1/", "host"),
            ("ws://[::1]x/", "host"),
            ("ws://h:0/", "port"),
            ("ws://h:65536/", "port"),
            ("ws://h:/", "port"),
            ("ws://me:secret@h/", "credentials"),
            ("ws://h/a b", "path"),
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(ws://)?\\PC{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.to_string()), Ok(url));
            }
        }
    }
}
