//! What a D1 subscription names: topics, and the key under which clients know it.
#![forbid(unsafe_code)]

use tickcast_protocol::error::FieldReason;
use tickcast_protocol::{TopicFilter, registry};

use super::{D1Error, INVALID_FILTER, UNKNOWN_STREAM, UNSUPPORTED_FORMAT, schema};
use crate::parse::quoted;

/// What D1 clients subscribe to, and the types of ours that each means. Clients say `alerts` where the
/// message is `alert`, and `analytics` where it is `analytics_update` (C-07); both are understood.
pub const SUBSCRIPTION_TYPES: &[(&str, &[&str])] = &[
    ("analytics", &["analytics_update"]),
    ("analytics_update", &["analytics_update"]),
    // The same analyses for clients that have signed in; who may have them is not decided here.
    ("authenticated_analytics", &["analytics_update"]),
    ("technical_indicators", &["technical_indicators"]),
    ("price_prediction", &["price_prediction"]),
    ("risk_metrics", &["risk_metrics"]),
    // The tape comes as price and volume.
    ("market_data", &["market_data", "public_trade"]),
    ("alerts", &["alert"]),
    ("alert", &["alert"]),
];

/// The topics a subscription names: one instrument's, or without one all of the type (C-07).
///
/// # Errors
/// [`UNKNOWN_STREAM`] with the nearest name; [`UNSUPPORTED_FORMAT`] for our types that D1 cannot carry;
/// [`INVALID_FILTER`] for a symbol that no topic can have.
pub fn topics_of(subscription_type: &str, instrument: Option<&str>) -> Result<Vec<TopicFilter>, D1Error> {
    let named = SUBSCRIPTION_TYPES.iter().find(|(name, _)| *name == subscription_type);
    let types: Vec<&str> = match (named, registry::by_name(subscription_type)) {
        (Some((_, types)), _) => types.to_vec(),
        (None, Some(info)) if schema::carries(info.id) => vec![info.name],
        (None, Some(info)) => return Err(cannot_carry(info.name)),
        (None, None) => return Err(unknown(subscription_type)),
    };
    let key = instrument.unwrap_or("**");
    if instrument.is_some_and(|symbol| symbol.contains('*')) {
        return Err(bad_symbol(key));
    }
    let filter = |name| TopicFilter::parse(&format!("{name}.{key}")).map_err(|_| bad_symbol(key));
    types.into_iter().map(filter).collect()
}

/// How clients know a subscription: `market_data_5`, or `market_data` for all instruments.
#[must_use]
pub fn subscription_key(subscription_type: &str, instrument_id: Option<u64>) -> String {
    match instrument_id {
        Some(id) => format!("{subscription_type}_{id}"),
        None => subscription_type.to_owned(),
    }
}

fn bad_symbol(symbol: &str) -> D1Error {
    let symbol = quoted(symbol);
    D1Error::new(INVALID_FILTER, "symbol", format!("symbol `{symbol}`: {}", FieldReason::Key))
}

fn cannot_carry(name: &str) -> D1Error {
    let carried: Vec<&str> = SUBSCRIPTION_TYPES.iter().map(|(name, _)| *name).collect();
    let message = format!("`{name}` cannot be sent in this dialect; it carries {}", carried.join(", "));
    D1Error::new(UNSUPPORTED_FORMAT, "subscription_type", message)
}

fn unknown(name: &str) -> D1Error {
    // The real client cuts its own keys at the first `_` (C-16), so a beginning is the likeliest mistake.
    let beginning = |name: &str| {
        let names = SUBSCRIPTION_TYPES.iter().map(|(candidate, _)| *candidate);
        (name.len() > 2).then(|| names.into_iter().find(|candidate| candidate.starts_with(name))).flatten()
    };
    let near = beginning(name).or_else(|| registry::nearest_name(&quoted(name)));
    let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let message = format!("nothing is called `{}`{hint}", quoted(name));
    D1Error::new(UNKNOWN_STREAM, "subscription_type", message)
}
