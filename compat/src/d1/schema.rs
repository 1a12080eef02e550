//! The data types of D1, field by field: what each is called there, here, and how one becomes the other.
//! Both directions read this table.
#![forbid(unsafe_code)]

use tickcast_protocol::message::{
    Alert, AnalyticsUpdate, MarketData, PricePrediction, PublicTrade, RiskMetrics, Severity,
    TechnicalIndicators,
};
use tickcast_protocol::registry::TypeInfo;

/// One type of the registry as D1 shows it.
pub(super) struct Shape {
    /// Our type.
    pub(super) info: &'static TypeInfo,
    /// Its `message_type`.
    pub(super) message_type: &'static str,
    /// Its fields, in the order they are written.
    pub(super) rows: &'static [Row],
}

/// One field: its D1 name in snake case, ours, and the rule between them.
pub(super) struct Row(pub(super) &'static str, pub(super) &'static str, pub(super) Rule);

/// How a field becomes D1 and back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// As it is; left out when absent.
    Same,
    /// As it is; `0` when absent, since D1 requires it.
    OrZero,
    /// A time in milliseconds.
    Time,
    /// A ratio here, a percentage there: the `f64` product with 100, and the quotient back.
    Percent,
    /// Our six levels are three there; see [`severity`].
    Severity,
    /// The message's own number, else the directory's.
    Instrument,
    /// The last price; a quote without one shows its exact middle, or the one side it has.
    Price,
    /// Two of our fields, `lower` and `upper`, in an object there.
    Interval,
    /// As it is; this text when a publisher leaves it out.
    Default(&'static str),
}

use Rule::{Default, Instrument, Interval, OrZero, Percent, Price, Same, Severity as Level, Time};

/// Every type that D1 carries. The first with a `message_type` is what a publisher's message becomes.
pub(super) static SHAPES: [Shape; 7] = [
    Shape {
        info: &MarketData::INFO,
        message_type: "market_data",
        rows: &[
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("price", "price", Price),
            Row("volume", "volume", OrZero),
            Row("timestamp", "ts", Time),
            Row("change_percent", "change_ratio", Percent),
            Row("bid", "bid", Same),
            Row("ask", "ask", Same),
            Row("bid_size", "bid_size", Same),
            Row("ask_size", "ask_size", Same),
            Row("open_price", "open", Same),
            Row("high_price", "high", Same),
            Row("low_price", "low", Same),
        ],
    },
    // The tape has no type of its own there: a trade is a price and a volume.
    Shape {
        info: &PublicTrade::INFO,
        message_type: "market_data",
        rows: &[
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("price", "price", Same),
            Row("volume", "size", Same),
            Row("timestamp", "ts", Time),
        ],
    },
    Shape {
        info: &Alert::INFO,
        message_type: "alert",
        rows: &[
            Row("alert_id", "alert_id", Same),
            Row("rule_id", "rule_id", Same),
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("rule_name", "rule_name", Same),
            Row("condition", "condition", Same),
            Row("target_value", "target_value", Same),
            Row("current_value", "current_value", Same),
            Row("severity", "severity", Level),
            Row("message", "message", Same),
            Row("evaluation_time_ms", "evaluation_time_ms", Same),
            Row("rule_condition", "rule_condition", Same),
        ],
    },
    Shape {
        info: &AnalyticsUpdate::INFO,
        message_type: "analytics_update",
        rows: &[
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("analysis_type", "analysis_type", Same),
            Row("results", "results", Same),
            Row("calculation_time", "calculated_at", Time),
            Row("next_update", "next_update", Time),
            Row("confidence_score", "confidence_score", Same),
            Row("data_quality_score", "data_quality_score", Same),
        ],
    },
    Shape {
        info: &TechnicalIndicators::INFO,
        message_type: "technical_indicators",
        rows: &[
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("indicators", "indicators", Same),
            Row("calculated_at", "calculated_at", Time),
            Row("timeframe", "timeframe", Default("1min")),
            Row("indicator_quality", "indicator_quality", Same),
        ],
    },
    Shape {
        info: &PricePrediction::INFO,
        message_type: "price_prediction",
        rows: &[
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("predicted_price", "predicted_price", Same),
            Row("confidence_interval", "lower", Interval),
            Row("prediction_horizon_minutes", "horizon_minutes", Same),
            Row("model_name", "model_name", Same),
            Row("prediction_accuracy", "accuracy", Same),
            Row("calculated_at", "calculated_at", Time),
        ],
    },
    Shape {
        info: &RiskMetrics::INFO,
        message_type: "risk_metrics",
        rows: &[
            Row("instrument_id", "instrument_id", Instrument),
            Row("symbol", "symbol", Same),
            Row("var_1d", "var_1d", Same),
            Row("var_5d", "var_5d", Same),
            Row("volatility", "volatility", Same),
            Row("beta", "beta", Same),
            Row("sharpe_ratio", "sharpe_ratio", Same),
            Row("max_drawdown", "max_drawdown", Same),
            Row("calculated_at", "calculated_at", Time),
        ],
    },
];

/// The ends of a [`Rule::Interval`], called the same on both sides.
pub(super) const INTERVAL: [&str; 2] = ["lower", "upper"];

/// How D1 shows the type with this id.
pub(super) fn shape_of(type_id: u16) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.info.id == type_id)
}

/// What a publisher's `message_type` becomes.
pub(super) fn shape_named(message_type: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.message_type == message_type)
}

/// True when D1 can carry events of the type with this id.
#[must_use]
pub fn carries(type_id: u16) -> bool {
    shape_of(type_id).is_some()
}

/// D1 has three levels: info and low are `low`, medium is `medium`, high, critical and emergency are
/// `high`. A level nobody knows yet is `high`: better a loud alert than a quiet one.
pub(super) const fn severity(number: u8) -> &'static str {
    match Severity(number) {
        Severity::INFO | Severity::LOW => "low",
        Severity::MEDIUM => "medium",
        _ => "high",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_field_of_its_type() {
        for shape in &SHAPES {
            for Row(wire, field, rule) in shape.rows {
                assert!(
                    shape.info.record.position(field).is_some(),
                    "{} {wire}: {field}",
                    shape.message_type
                );
                if *rule == Interval {
                    assert!(INTERVAL.iter().all(|end| shape.info.record.position(end).is_some()));
                }
            }
        }
    }

    #[test]
    fn c23_severities_map_down_and_none_is_dropped() {
        let expected = ["low", "low", "medium", "high", "high", "high", "high"];
        for (number, expected) in expected.into_iter().enumerate() {
            assert_eq!(severity(number as u8), expected, "{number}");
        }
    }
}
