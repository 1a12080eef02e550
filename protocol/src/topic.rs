//! Topics name streams; topic filters name sets of them. Parsed once, valid ever after.
//!
//! A topic is `type.key`: its first segment is always the type's name, the key is what the publisher
//! calls the thing. Segments are separated by dots.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::registry;

/// Longest key in bytes; bounds what a name may cost in every index that holds it.
pub const KEY_BYTES_MAX: usize = 112;
/// Longest topic or filter in bytes, the type's name included.
pub const TOPIC_BYTES_MAX: usize = 160;

/// Why a text is not a topic or filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No dot, or nothing on one side of it.
    #[error("a topic is `type.key`, for example `market_data.BTCUSDT`")]
    Shape,
    /// The first segment is no type of the registry.
    #[error("unknown type `{name}`{}", suggestion.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownType {
        /// What was written.
        name: String,
        /// The nearest name of the registry, if one is near.
        suggestion: Option<&'static str>,
    },
    /// The key is empty, too long, or has a character outside `[A-Za-z0-9._:/@-]`.
    #[error("a key is 1 to {KEY_BYTES_MAX} characters of A-Z a-z 0-9 . _ : / @ - with no empty segment")]
    Key,
    /// `**` elsewhere than at the end, or `*` as part of a segment.
    #[error("`*` stands for one whole segment and `**` only at the end, for the rest")]
    Wildcard,
}

/// True when `key` may follow a type's name in a topic.
#[must_use]
pub fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte))
        && key.split('.').all(|segment| !segment.is_empty())
}

/// A valid topic. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Parses `type.key`.
    ///
    /// # Errors
    /// [`TopicError`], when the type is unknown or the key is not one.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let (name, key) = text.split_once('.').ok_or(TopicError::Shape)?;
        registry::by_name(name).ok_or_else(|| unknown_type(name))?;
        if is_key(key) { Ok(Self(text.into())) } else { Err(TopicError::Key) }
    }

    /// Joins a registered type's name and a key.
    ///
    /// # Errors
    /// [`TopicError::Key`] when `key` is not one.
    pub fn of(info: &registry::TypeInfo, key: &str) -> Result<Self, TopicError> {
        if is_key(key) { Ok(Self(format!("{}.{key}", info.name).into())) } else { Err(TopicError::Key) }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type's name, the first segment.
    #[must_use]
    pub fn type_name(&self) -> &str {
        self.0.split_once('.').map_or(&*self.0, |(name, _)| name)
    }

    /// What follows the type's name.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, key)| key)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A topic, or a pattern: `*` stands for one segment, `**` for the rest; the type is literal or `**`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicFilter {
    text: Arc<str>,
    exact: bool,
}

impl TopicFilter {
    /// Parses a filter: `market_data.BTCUSDT`, `market_data.*`, `bar.1m.*`, `risk_alert.**`, `**`.
    ///
    /// # Errors
    /// [`TopicError`], naming what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text == "**" {
            return Ok(Self { text: text.into(), exact: false });
        }
        let (name, key) = text.split_once('.').ok_or_else(|| match registry::by_name(text) {
            Some(_) => TopicError::Shape,
            None if text.is_empty() => TopicError::Shape,
            None => unknown_type(text),
        })?;
        registry::by_name(name).ok_or_else(|| unknown_type(name))?;
        if !key.contains('*') {
            return Topic::parse(text).map(Self::from);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(TopicError::Key);
        }
        let count = key.split('.').count();
        for (position, segment) in key.split('.').enumerate() {
            match segment {
                "*" => {}
                "**" if position + 1 == count => {}
                _ if segment.contains('*') => return Err(TopicError::Wildcard),
                _ if !is_key(segment) => return Err(TopicError::Key),
                _ => {}
            }
        }
        Ok(Self { text: text.into(), exact: false })
    }

    /// The filter as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The topic, when the filter names exactly one.
    #[must_use]
    pub fn as_topic(&self) -> Option<Topic> {
        self.exact.then(|| Topic(self.text.clone()))
    }

    /// The one type the filter can match, or `None` for `**`.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.text.split_once('.').map(|(name, _)| name)
    }

    /// True when `topic` is one the filter names.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        if self.exact {
            return self.text == topic.0;
        }
        let mut names = topic.0.split('.');
        for segment in self.text.split('.') {
            match (segment, names.next()) {
                ("**", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(name)) if wanted == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl From<Topic> for TopicFilter {
    fn from(topic: Topic) -> Self {
        Self { text: topic.0, exact: true }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn unknown_type(name: &str) -> TopicError {
    let name: String = name.chars().take(64).collect();
    TopicError::UnknownType { suggestion: registry::nearest_name(&name), name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn topics_start_with_a_registered_type() {
        let topic = Topic::parse("bar.1m.BTCUSDT").unwrap();
        assert_eq!((topic.type_name(), topic.key()), ("bar", "1m.BTCUSDT"));
        assert_eq!(Topic::parse("market_data"), Err(TopicError::Shape));
        assert_eq!(
            Topic::parse("market_dat.BTC").unwrap_err().to_string(),
            "unknown type `market_dat`; did you mean `market_data`?"
        );
        for key in ["", ".a", "a.", "a..b", "a b", "a*", "é", "a\n", &"k".repeat(113)] {
            assert_eq!(Topic::parse(&format!("market_data.{key}")), Err(TopicError::Key), "{key:?}");
        }
        assert!(Topic::parse(&format!("market_data.{}", "k".repeat(112))).is_ok());
        assert!(Topic::parse("market_data.BTC/USD@binance:spot-1_x").is_ok());
    }

    #[test]
    fn filters_match_by_segment() {
        let cases: &[(&str, &str, bool)] = &[
            ("market_data.BTC", "market_data.BTC", true),
            ("market_data.BTC", "market_data.ETH", false),
            ("market_data.*", "market_data.BTC", true),
            ("market_data.*", "market_data.BTC.X", false),
            ("market_data.*", "public_trade.BTC", false),
            ("market_data.**", "market_data.BTC.X", true),
            ("bar.*.BTC", "bar.1m.BTC", true),
            ("bar.*.BTC", "bar.1m.ETH", false),
            ("bar.1m.*", "bar.1m.ETH", true),
            ("bar.1m.**", "bar.1m", false),
            ("**", "bar.1m.ETH", true),
        ];
        for (filter, topic, expected) in cases {
            let Ok(topic) = Topic::parse(topic) else { continue };
            assert_eq!(TopicFilter::parse(filter).unwrap().matches(&topic), *expected, "{filter} {topic}");
        }
    }

    #[test]
    fn bad_filters_say_what_is_wrong() {
        assert_eq!(TopicFilter::parse("market_data"), Err(TopicError::Shape));
        assert_eq!(TopicFilter::parse(""), Err(TopicError::Shape));
        assert_eq!(TopicFilter::parse("market_data.B*"), Err(TopicError::Wildcard));
        assert_eq!(TopicFilter::parse("market_data.**.x"), Err(TopicError::Wildcard));
        assert!(matches!(TopicFilter::parse("*.BTC"), Err(TopicError::UnknownType { .. })));
        assert!(matches!(TopicFilter::parse("ticks"), Err(TopicError::UnknownType { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,200}") {
            let _ = Topic::parse(&text);
            let _ = TopicFilter::parse(&text);
        }

        #[test]
        fn a_topic_is_a_filter_for_itself(key in "[A-Za-z0-9_:/@-]{1,20}(\\.[a-z0-9]{1,5}){0,3}") {
            let topic = Topic::parse(&format!("market_data.{key}")).unwrap();
            let filter = TopicFilter::parse(topic.as_str()).unwrap();
            prop_assert!(filter.matches(&topic));
            prop_assert_eq!(filter.as_topic(), Some(topic));
        }
    }
}
