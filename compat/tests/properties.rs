//! Properties: any text is answered, and what can be said survives being said.

mod common;

use common::{Book, NOW, d1_event, text, with_view};
use proptest::prelude::*;
use tickcast_compat::d1::{self, Case, ClientMessage};
use tickcast_compat::native::{native_decode, native_encode};
use tickcast_compat::{Limits, Stamp, parse};
use tickcast_protocol::field::{Entry, Map, Scalar, Timestamp};
use tickcast_protocol::message::{AnalyticsUpdate, Class, MarketData};
use tickcast_protocol::{Decimal, Message, Topic};

/// Asks every decoder. What one accepts must pass the server's own check and make the same topic.
fn answer(text: &str) {
    let limits = Limits::default();
    let sound = |message: &Message, topic: &Topic| {
        with_view(message, |view| {
            let mut key = String::new();
            view.write_key(&mut key).unwrap();
            assert_eq!((view.info().name, key.as_str()), (topic.type_name(), topic.key()), "{text}");
        });
    };
    if let Ok(Ok(read)) = parse(text, &limits).map(|input| native_decode(&input, NOW)) {
        sound(&read.message, &read.topic);
    }
    if let Ok(published) = d1::decode_published(text, &limits, &Book, NOW) {
        sound(&published.message, &published.topic);
    }
    let _ = d1::decode(text, &limits);
    let _ = d1::decode_server(text, &limits);
}

/// JSON-shaped texts with the words that decoders look for.
fn jsonish() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("type"),
        Just("message_type"),
        Just("messageType"),
        Just("data"),
        Just("ts"),
        Just("topic"),
        Just("symbol"),
        Just("price"),
        Just("market_data"),
        Just("alert"),
        Just("price_prediction"),
        Just("confidence_interval"),
        Just("subscribe"),
        Just("subscriptionType"),
        Just("ping"),
        Just("timestamp"),
        Just("version"),
        Just("change_percent"),
        Just("results"),
    ]
    .prop_map(|word| format!("\"{word}\""));
    let leaf = prop_oneof![
        word.clone(),
        "-?[0-9]{1,20}(\\.[0-9]{1,20})?(e-?[0-9]{1,3})?",
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just(r#""2026-01-31T12:00:00Z""#.to_owned()),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec((word.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn decimal() -> impl Strategy<Value = Decimal> {
    (-999_999_999_999_999_999i64..=999_999_999_999_999_999, -64i8..=0)
        .prop_map(|(mantissa, exponent)| Decimal::new(mantissa, exponent).unwrap())
}

fn milliseconds() -> impl Strategy<Value = Timestamp> {
    (-9_000_000_000_000i64..9_000_000_000_000).prop_map(|ms| Timestamp(ms * 1_000_000))
}

prop_compose! {
    fn tick()(
        symbol in "[A-Z]{1,8}(\\.[A-Z]{1,2})?",
        ts in milliseconds(),
        price in decimal(),
        volume in decimal(),
        bid in proptest::option::of(decimal()),
        ask in proptest::option::of(decimal()),
        open in proptest::option::of(decimal()),
        instrument_id in any::<u32>(),
    ) -> MarketData {
        MarketData {
            symbol, ts, price: Some(price), volume: Some(volume), bid, ask, bid_size: bid, ask_size: ask, open,
            high: open, low: open, prev_close: None, change: None, change_ratio: None, venue: None,
            asset_class: None, instrument_id: Some(instrument_id),
        }
    }
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        Just(Scalar::Null),
        any::<bool>().prop_map(Scalar::Bool),
        any::<i64>().prop_map(Scalar::Integer),
        (-1e300..1e300).prop_map(Scalar::Float),
        "\\PC{0,20}".prop_map(Scalar::Text),
        proptest::collection::vec(-1e9..1e9, 1..5).prop_map(Scalar::Floats),
        Just(Scalar::Json(r#"{"a_b":[1, 2.50]}"#.to_owned())),
    ]
}

prop_compose! {
    fn analytics()(
        keys in proptest::collection::btree_set("\\PC{0,12}", 0..8),
        values in proptest::collection::vec(scalar(), 8),
        calculated_at in milliseconds(),
        next_update in proptest::option::of(milliseconds()),
        score in proptest::option::of(0.0..1.0),
        kind in "\\PC{0,20}",
    ) -> AnalyticsUpdate {
        let entries = keys.into_iter().zip(values).map(|(key, value)| Entry { key, value });
        AnalyticsUpdate {
            symbol: "EURUSD".into(), analysis_type: kind, results: Map(entries.collect()), calculated_at, next_update,
            confidence_score: score, data_quality_score: None, instrument_id: Some(7),
        }
    }
}

fn there_and_back(message: &Message) -> Result<(), TestCaseError> {
    let line = with_view(message, |view| {
        let mut out = Vec::new();
        let stamp = Stamp { topic: "", sequence: 1, publish_time: 0, class: Class::Latest };
        native_encode(&stamp, view, &mut out);
        text(out)
    });
    let data = line.split_once(r#""data":"#).unwrap().1.strip_suffix('}').unwrap();
    let native = format!(r#"{{"type":"{}","data":{data}}}"#, message.info().name);
    let read = native_decode(&parse(&native, &Limits::default()).unwrap(), NOW).unwrap();
    prop_assert_eq!(&read.message, message);
    for case in Case::ALL {
        let sent = d1_event(message, case).unwrap();
        let published = d1::decode_published(&sent, &Limits::default(), &Book, NOW).unwrap();
        prop_assert_eq!(&published.message, message, "{}", sent);
        prop_assert_eq!(&published.topic, &read.topic);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,300}") {
        answer(&text);
    }

    #[test]
    fn anything_like_a_message_is_answered(text in jsonish()) {
        answer(&text);
    }

    #[test]
    fn a_message_cut_or_changed_is_answered(message in tick(), at in any::<prop::sample::Index>(), with in "\\PC") {
        let sent = d1_event(&message.into(), Case::Camel).unwrap();
        let place = at.index(sent.len());
        prop_assume!(sent.is_char_boundary(place));
        answer(&sent[..place]);
        answer(&format!("{}{with}{}", &sent[..place], &sent[place..]));
    }

    #[test]
    fn ticks_are_exact_there_and_back(message in tick()) {
        there_and_back(&message.into())?;
    }

    #[test]
    fn analyses_are_the_same_there_and_back(message in analytics()) {
        there_and_back(&message.into())?;
    }

    #[test]
    fn decimals_of_any_notation_keep_mantissa_and_exponent(
        mantissa in 0i64..1_000_000_000, places in 0usize..9, exponent in -40i32..=40, upper in any::<bool>(), padded in any::<bool>(),
    ) {
        let digits = format!("{mantissa:0>width$}", width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        let whole = whole.trim_start_matches('0');
        let whole = if whole.is_empty() { "0" } else { whole };
        let point = if places > 0 { "." } else { "" };
        let e = if upper { 'E' } else { 'e' };
        let sign = if exponent < 0 { "-" } else if padded { "+" } else { "" };
        let zero = if padded { "0" } else { "" };
        let number = format!("{whole}{point}{fraction}{e}{sign}{zero}{}", exponent.abs());
        let text = format!(r#"{{"type":"market_data","data":{{"symbol":"B","price":{number}}}}}"#);
        let read = native_decode(&parse(&text, &Limits::default()).unwrap(), NOW).unwrap();
        let Message::MarketData(tick) = read.message else { panic!("a tick") };
        let price = tick.price.unwrap();
        prop_assert_eq!((price.mantissa(), i32::from(price.exponent())), (mantissa, exponent - places as i32));
    }

    #[test]
    fn subscriptions_come_back(
        kind in "\\PC{0,32}", instrument_id in proptest::option::of(any::<u64>()),
        symbol in proptest::option::of("\\PC{0,32}"), request_id in proptest::option::of("\\PC{0,32}"), camel in any::<bool>(),
    ) {
        let case = Case::ALL[usize::from(camel)];
        let message = ClientMessage::Unsubscribe {
            subscription_type: kind, instrument_id, symbol, parameters: None, request_id,
        };
        let sent = text(d1::client_message(&message, case, NOW));
        prop_assert_eq!(d1::decode(&sent, &Limits::default()), Ok((message, Some(case))));
    }

    #[test]
    fn any_subscription_is_answered(kind in "\\PC{0,32}", symbol in proptest::option::of("\\PC{0,140}")) {
        let _ = d1::topics_of(&kind, symbol.as_deref());
        let id = d1::stable_id(&kind);
        prop_assert!((1..=i32::MAX as u32).contains(&id));
    }

    #[test]
    fn the_middle_of_a_quote_is_exact(bid in decimal(), ask in decimal()) {
        let quote = MarketData {
            price: None, bid: Some(bid), ask: Some(ask), ..match Message::sample(tickcast_protocol::registry::by_id(100).unwrap(), false) {
                Message::MarketData(tick) => tick,
                _ => unreachable!("100 is market_data"),
            }
        };
        let sent = d1_event(&quote.into(), Case::Snake).unwrap();
        let value: serde_json::Value = serde_json::from_str(&sent).unwrap();
        let (bid, ask) = (bid.to_f64(), ask.to_f64());
        let middle = value["data"]["price"].as_f64().unwrap();
        let scale = bid.abs().max(ask.abs());
        prop_assert!((middle - (bid / 2.0 + ask / 2.0)).abs() <= scale * 1e-15, "{}", sent);
    }
}
