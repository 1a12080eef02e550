//! D1 to the byte: every type in both cases, the frames of the real client, and the contradictions of the
//! original dialect (C-xx) with how they were resolved.

mod common;

use common::{Book, NOW, d1_event, native, text, with_view};
use tickcast_compat::Limits;
use tickcast_compat::d1::{
    self, AckStatus, Case, ClientMessage, ConnectionStatus, D1Error, ErrorReport, ErrorSeverity, Pong,
    Quality, ServerMessage, SubscriptionAck,
};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{
    History, IntervalOrigin, Kept, Notice, NoticeKind, Reason, StateReason, StreamState, StreamStatus,
};
use tickcast_protocol::{Message, registry};

const TIME: &str = "2026-09-21T14:13:20.000Z";

/// Type, native data, `data` in snake case, `data` in camel case.
const EVENTS: &[(&str, &str, &str, &str)] = &[
    (
        "market_data",
        r#"{"symbol":"BTCUSDT","ts":"2026-01-31T12:00:00.1234567Z","price":39433.30,"volume":0.00031099999999999997,
            "bid":39432.99,"ask":39433.62,"bid_size":1.5,"ask_size":2e-06,"open":39000,"high":40000.0,"low":38999.5,
            "prev_close":39100,"change":333.3,"change_ratio":0.0085,"venue":"binance","instrument_id":12}"#,
        r#""instrument_id":12,"symbol":"BTCUSDT","price":39433.30,"volume":0.00031099999999999997,"timestamp":"2026-01-31T12:00:00.123Z","change_percent":0.8500000000000001,"bid":39432.99,"ask":39433.62,"bid_size":1.5,"ask_size":0.000002,"open_price":39000,"high_price":40000.0,"low_price":38999.5"#,
        r#""instrumentId":12,"symbol":"BTCUSDT","price":39433.30,"volume":0.00031099999999999997,"timestamp":"2026-01-31T12:00:00.123Z","changePercent":0.8500000000000001,"bid":39432.99,"ask":39433.62,"bidSize":1.5,"askSize":0.000002,"openPrice":39000,"highPrice":40000.0,"lowPrice":38999.5"#,
    ),
    (
        "market_data",
        r#"{"symbol":"EURUSD","ts":"2026-01-31T12:00:00Z","bid":1.121200,"ask":1.121720}"#,
        r#""instrument_id":7,"symbol":"EURUSD","price":1.121460,"volume":0,"timestamp":"2026-01-31T12:00:00.000Z","bid":1.121200,"ask":1.121720"#,
        r#""instrumentId":7,"symbol":"EURUSD","price":1.121460,"volume":0,"timestamp":"2026-01-31T12:00:00.000Z","bid":1.121200,"ask":1.121720"#,
    ),
    (
        "market_data",
        r#"{"symbol":"EURUSD","ts":"2026-01-31T12:00:00Z","ask":1.10}"#,
        r#""instrument_id":7,"symbol":"EURUSD","price":1.10,"volume":0,"timestamp":"2026-01-31T12:00:00.000Z","ask":1.10"#,
        r#""instrumentId":7,"symbol":"EURUSD","price":1.10,"volume":0,"timestamp":"2026-01-31T12:00:00.000Z","ask":1.10"#,
    ),
    (
        "market_data",
        r#"{"symbol":"EURUSD","ts":"2026-01-31T12:00:00Z","bid":999999999999999999,"ask":0.0001}"#,
        r#""instrument_id":7,"symbol":"EURUSD","price":499999999999999999.50005,"volume":0,"timestamp":"2026-01-31T12:00:00.000Z","bid":999999999999999999,"ask":0.0001"#,
        r#""instrumentId":7,"symbol":"EURUSD","price":499999999999999999.50005,"volume":0,"timestamp":"2026-01-31T12:00:00.000Z","bid":999999999999999999,"ask":0.0001"#,
    ),
    (
        "public_trade",
        r#"{"symbol":"BTCUSDT","ts":"2026-01-31T12:00:00Z","price":39433.30,"size":0.5,"side":"buy","trade_id":"t1","venue":"x"}"#,
        r#""instrument_id":5,"symbol":"BTCUSDT","price":39433.30,"volume":0.5,"timestamp":"2026-01-31T12:00:00.000Z""#,
        r#""instrumentId":5,"symbol":"BTCUSDT","price":39433.30,"volume":0.5,"timestamp":"2026-01-31T12:00:00.000Z""#,
    ),
    (
        "alert",
        r#"{"symbol":"BTCUSDT","alert_id":9,"rule_id":3,"rule_name":"High \"€\"","condition":"above","target_value":40000,
            "current_value":40000.5,"severity":"emergency","message":"line\nbreak","rule_condition":"price > 40000",
            "ts":"2026-01-31T12:00:00Z","evaluation_time_ms":12}"#,
        r#""alert_id":9,"rule_id":3,"instrument_id":5,"symbol":"BTCUSDT","rule_name":"High \"€\"","condition":"above","target_value":40000,"current_value":40000.5,"severity":"high","message":"line\nbreak","evaluation_time_ms":12,"rule_condition":"price > 40000""#,
        r#""alertId":9,"ruleId":3,"instrumentId":5,"symbol":"BTCUSDT","ruleName":"High \"€\"","condition":"above","targetValue":40000,"currentValue":40000.5,"severity":"high","message":"line\nbreak","evaluationTimeMs":12,"ruleCondition":"price > 40000""#,
    ),
    (
        "analytics_update",
        r#"{"symbol":"EURUSD","analysis_type":"market_analysis","calculated_at":"2026-01-31T12:00:00Z","next_update":"2026-01-31T12:01:00.5Z",
            "results":{"trend":"bullish","bollinger_upper":1.5,"nested_map":{"deep_key": [1, 2.50]},"none":null,"list":[1.50,2e0]},
            "confidence_score":0.9,"data_quality_score":1}"#,
        r#""instrument_id":7,"symbol":"EURUSD","analysis_type":"market_analysis","results":{"trend":"bullish","bollinger_upper":1.5,"nested_map":{"deep_key": [1, 2.50]},"none":null,"list":[1.5,2.0]},"calculation_time":"2026-01-31T12:00:00.000Z","next_update":"2026-01-31T12:01:00.500Z","confidence_score":0.9,"data_quality_score":1.0"#,
        r#""instrumentId":7,"symbol":"EURUSD","analysisType":"market_analysis","results":{"trend":"bullish","bollinger_upper":1.5,"nested_map":{"deep_key": [1, 2.50]},"none":null,"list":[1.5,2.0]},"calculationTime":"2026-01-31T12:00:00.000Z","nextUpdate":"2026-01-31T12:01:00.500Z","confidenceScore":0.9,"dataQualityScore":1.0"#,
    ),
    (
        "technical_indicators",
        r#"{"symbol":"EURUSD","timeframe":"5min","calculated_at":"2026-01-31T12:00:00Z","indicators":{"rsi":65.25,"macd_signal":-0.1},
            "indicator_quality":{"rsi":0.5,"macd_signal":1.0}}"#,
        r#""instrument_id":7,"symbol":"EURUSD","indicators":{"rsi":65.25,"macd_signal":-0.1},"calculated_at":"2026-01-31T12:00:00.000Z","timeframe":"5min","indicator_quality":{"rsi":0.5,"macd_signal":1.0}"#,
        r#""instrumentId":7,"symbol":"EURUSD","indicators":{"rsi":65.25,"macd_signal":-0.1},"calculatedAt":"2026-01-31T12:00:00.000Z","timeframe":"5min","indicatorQuality":{"rsi":0.5,"macd_signal":1.0}"#,
    ),
    (
        "price_prediction",
        r#"{"symbol":"EURUSD","model_name":"lstm","horizon_minutes":60,"predicted_price":1.130,"lower":1.1,"upper":1.2,
            "calculated_at":"2026-01-31T12:00:00Z","accuracy":0.75}"#,
        r#""instrument_id":7,"symbol":"EURUSD","predicted_price":1.130,"confidence_interval":{"lower":1.1,"upper":1.2},"prediction_horizon_minutes":60,"model_name":"lstm","prediction_accuracy":0.75,"calculated_at":"2026-01-31T12:00:00.000Z""#,
        r#""instrumentId":7,"symbol":"EURUSD","predictedPrice":1.130,"confidenceInterval":{"lower":1.1,"upper":1.2},"predictionHorizonMinutes":60,"modelName":"lstm","predictionAccuracy":0.75,"calculatedAt":"2026-01-31T12:00:00.000Z""#,
    ),
    (
        "risk_metrics",
        r#"{"symbol":"EURUSD","var_1d":0.012,"var_5d":0.027,"volatility":0.2,"calculated_at":"2026-01-31T12:00:00Z","sharpe_ratio":1.5,"max_drawdown":0.1}"#,
        r#""instrument_id":7,"symbol":"EURUSD","var_1d":0.012,"var_5d":0.027,"volatility":0.2,"sharpe_ratio":1.5,"max_drawdown":0.1,"calculated_at":"2026-01-31T12:00:00.000Z""#,
        r#""instrumentId":7,"symbol":"EURUSD","var1d":0.012,"var5d":0.027,"volatility":0.2,"sharpeRatio":1.5,"maxDrawdown":0.1,"calculatedAt":"2026-01-31T12:00:00.000Z""#,
    ),
];

fn in_envelope(kind: &str, data: &str, case: Case) -> String {
    let key = if case == Case::Snake { "message_type" } else { "messageType" };
    format!(r#"{{"{key}":"{kind}","version":"1.0","timestamp":"{TIME}","data":{{{data}}}}}"#)
}

#[test]
fn events_are_exact_in_both_cases() {
    for (name, data, snake, camel) in EVENTS {
        let message = native(name, data).message;
        let kind = if *name == "public_trade" { "market_data" } else { name };
        for (case, expected) in [(Case::Snake, snake), (Case::Camel, camel)] {
            assert_eq!(
                d1_event(&message, case).unwrap(),
                in_envelope(kind, expected, case),
                "{name} {case:?}"
            );
        }
    }
}

#[test]
fn events_come_back_as_they_went() {
    for (name, data, ..) in EVENTS {
        for case in Case::ALL {
            let sent = d1_event(&native(name, data).message, case).unwrap();
            let Ok(published) = d1::decode_published(&sent, &Limits::default(), &Book, NOW) else {
                // The long middle of the widest quote has more digits than a decimal.
                assert!(sent.contains("499999999999999999.50005"), "{sent}");
                continue;
            };
            assert_eq!(published.case, Some(case));
            assert_eq!(d1_event(&published.message, case).unwrap(), sent);
        }
    }
}

#[test]
fn what_d1_can_say_survives_both_directions() {
    for (name, data) in [
        (
            "market_data",
            r#"{"symbol":"BTCUSDT","ts":"2026-01-31T12:00:00.123Z","price":39433.30,"volume":2e-06,"bid":1.10,"ask":1.1,
                "bid_size":0.0,"ask_size":5,"open":1,"high":2,"low":0.5,"change_ratio":0.25,"instrument_id":5}"#,
        ),
        (
            "alert",
            r#"{"symbol":"EURUSD","alert_id":18446744073709551615,"rule_id":3,"rule_name":"r","condition":"above","target_value":1.10,
                "current_value":1.2,"severity":"medium","message":"m","rule_condition":"x > 1","ts":"2026-09-21T14:13:20Z",
                "evaluation_time_ms":4,"instrument_id":7}"#,
        ),
        (
            "analytics_update",
            r#"{"symbol":"EURUSD","analysis_type":"t","calculated_at":"2026-01-31T12:00:00Z","next_update":"2026-01-31T12:00:01Z",
                "results":{"a_b":1,"c":[1.5],"d":{"e_f":[{}]},"g":null,"h":true,"i":"x"},"confidence_score":0.1,
                "data_quality_score":0.2,"instrument_id":7}"#,
        ),
        (
            "technical_indicators",
            r#"{"symbol":"EURUSD","timeframe":"1h","calculated_at":"2026-01-31T12:00:00Z","indicators":{"rsi_14":1.5},
                "indicator_quality":{"rsi_14":1},"instrument_id":7}"#,
        ),
        (
            "price_prediction",
            r#"{"symbol":"EURUSD","model_name":"m","horizon_minutes":5,"predicted_price":1.0,"lower":0.90,"upper":1.1,
                "calculated_at":"2026-01-31T12:00:00Z","accuracy":0.5,"instrument_id":7}"#,
        ),
        (
            "risk_metrics",
            r#"{"symbol":"EURUSD","var_1d":0.1,"var_5d":0.2,"volatility":0.3,"calculated_at":"2026-01-31T12:00:00Z","beta":1.1,
                "sharpe_ratio":2.0,"max_drawdown":0.5,"instrument_id":7}"#,
        ),
    ] {
        let sent = native(name, data);
        for case in Case::ALL {
            let text = d1_event(&sent.message, case).unwrap();
            let published = d1::decode_published(&text, &Limits::default(), &Book, 0).unwrap();
            assert_eq!(
                (published.message, published.topic),
                (sent.message.clone(), sent.topic.clone()),
                "{text}"
            );
        }
    }
}

#[test]
fn every_sample_that_d1_carries_is_valid_and_stable() {
    for info in registry::types() {
        for full in [false, true] {
            let message = Message::sample(info, full);
            let Some(sent) = d1_event(&message, Case::Camel) else {
                assert!(!d1::carries(info.id));
                continue;
            };
            assert!(d1::carries(info.id));
            let value: serde_json::Value = serde_json::from_str(&sent).unwrap();
            for key in ["messageType", "version", "timestamp", "data"] {
                assert!(value.get(key).is_some(), "{key} in {sent}");
            }
            let back = d1::decode_published(&sent, &Limits::default(), &Book, NOW).expect(&sent);
            assert_eq!(d1_event(&back.message, Case::Camel).unwrap(), sent);
        }
    }
    let carried: Vec<u16> =
        registry::types().iter().map(|info| info.id).filter(|id| d1::carries(*id)).collect();
    assert_eq!(carried, [100, 102, 104, 105, 106, 107, 108]);
}

// ---------------------------------------------------------------------------------------------
// What the server says to one client

fn servers() -> Vec<(ServerMessage, &'static str, &'static str, &'static str)> {
    vec![
        (
            ServerMessage::ConnectionStatus(ConnectionStatus {
                client_id: "c-1".into(),
                connected_at: 1_790_000_000_000_000_000,
                subscriptions: vec!["market_data_5".into(), "alerts".into()],
                last_heartbeat: 1_790_000_001_250_000_000,
                quality: Quality::Degraded,
                message_count: 12,
            }),
            "connection_status",
            r#""client_id":"c-1","connected_at":"2026-09-21T14:13:20.000Z","subscriptions":["market_data_5","alerts"],"last_heartbeat":"2026-09-21T14:13:21.250Z","connection_quality":"degraded","message_count":12"#,
            r#""clientId":"c-1","connectedAt":"2026-09-21T14:13:20.000Z","subscriptions":["market_data_5","alerts"],"lastHeartbeat":"2026-09-21T14:13:21.250Z","connectionQuality":"degraded","messageCount":12"#,
        ),
        (
            ServerMessage::SubscriptionAck(SubscriptionAck {
                subscription_type: "market_data".into(),
                instrument_id: Some(5),
                status: AckStatus::Unsubscribed,
                message: Some("bye".into()),
                request_id: Some("req_1".into()),
            }),
            "subscription_ack",
            r#""subscription_type":"market_data","instrument_id":5,"status":"unsubscribed","message":"bye","request_id":"req_1""#,
            r#""subscriptionType":"market_data","instrumentId":5,"status":"unsubscribed","message":"bye","requestId":"req_1""#,
        ),
        (
            ServerMessage::SubscriptionAck(SubscriptionAck {
                subscription_type: "technical".into(),
                status: AckStatus::Failed,
                ..SubscriptionAck::default()
            }),
            "subscription_ack",
            r#""subscription_type":"technical","status":"failed""#,
            r#""subscriptionType":"technical","status":"failed""#,
        ),
        (
            ServerMessage::Pong(Pong {
                client_time: Some("2026-09-21T14:13:19.500Z".into()),
                server_time: 1_790_000_000_000_000_000,
                sequence: Some(1_790_000_000_000),
                latency_ms: Some(500.25),
            }),
            "pong",
            r#""client_time":"2026-09-21T14:13:19.500Z","server_time":"2026-09-21T14:13:20.000Z","sequence":1790000000000,"latency_ms":500.25"#,
            r#""clientTime":"2026-09-21T14:13:19.500Z","serverTime":"2026-09-21T14:13:20.000Z","sequence":1790000000000,"latencyMs":500.25"#,
        ),
        (
            ServerMessage::Error(ErrorReport {
                code: d1::INVALID_MESSAGE.into(),
                message: "field `data.price`: is required".into(),
                request_id: Some("r".into()),
                severity: ErrorSeverity::Critical,
                retry_after: Some(3),
            }),
            "error",
            r#""error_code":"INVALID_MESSAGE","error_message":"field `data.price`: is required","request_id":"r","timestamp":"2026-09-21T14:13:20.000Z","severity":"critical","retry_after":3"#,
            r#""errorCode":"INVALID_MESSAGE","errorMessage":"field `data.price`: is required","requestId":"r","timestamp":"2026-09-21T14:13:20.000Z","severity":"critical","retryAfter":3"#,
        ),
    ]
}

#[test]
fn server_messages_are_exact_in_both_cases_and_come_back() {
    for (message, kind, snake, camel) in servers() {
        for (case, data) in [(Case::Snake, snake), (Case::Camel, camel)] {
            let sent = text(match &message {
                ServerMessage::ConnectionStatus(status) => d1::connection_status(status, case, NOW),
                ServerMessage::SubscriptionAck(ack) => d1::subscription_ack(ack, case, NOW),
                ServerMessage::Pong(pong) => d1::pong(pong, case, NOW),
                ServerMessage::Error(report) => d1::error(report, case, NOW),
            });
            assert_eq!(sent, in_envelope(kind, data, case));
            assert_eq!(
                d1::decode_server(&sent, &Limits::default()).unwrap(),
                (message.clone(), Some(case)),
                "{sent}"
            );
        }
    }
}

#[test]
fn notices_are_errors_of_severity_warning() {
    let notice = Notice {
        kind: NoticeKind::LOSS,
        subscription: 1,
        stream: 2,
        from: 10,
        through: 19,
        conflated: 7,
        gapped: 3,
        filtered: 0,
        reason: Reason::OUTBOX_FULL,
        reconnect_in_ms: 1_001,
    };
    let say = |notice: &Notice, case| d1::notice(notice, "market_data.BTCUSDT", case, NOW).map(text);
    assert_eq!(
        say(&notice, Case::Snake).unwrap(),
        in_envelope(
            "error",
            r#""error_code":"DATA_GAP","error_message":"10 events of market_data.BTCUSDT up to 19 were skipped","timestamp":"2026-09-21T14:13:20.000Z","severity":"warning","topic":"market_data.BTCUSDT","from":10,"through":19,"conflated":7,"gapped":3,"reason":"outbox_full""#,
            Case::Snake
        )
    );
    let upstream = Notice { kind: NoticeKind::UPSTREAM_GAP, reason: Reason::UPSTREAM, ..notice.clone() };
    assert!(say(&upstream, Case::Camel).unwrap().contains(r#""errorCode":"DATA_GAP""#));
    let draining = Notice { kind: NoticeKind::DRAINING, ..notice.clone() };
    assert_eq!(
        say(&draining, Case::Camel).unwrap(),
        in_envelope(
            "error",
            r#""errorCode":"SERVER_DRAINING","errorMessage":"the server restarts; come back in 2 s","timestamp":"2026-09-21T14:13:20.000Z","severity":"warning","retryAfter":2"#,
            Case::Camel
        )
    );
    assert_eq!(say(&Notice { kind: NoticeKind::COUNTS, ..notice.clone() }, Case::Snake), None);
    assert_eq!(say(&Notice { kind: NoticeKind(200), ..notice }, Case::Snake), None);
}

#[test]
fn a_past_that_is_too_short_is_a_gap() {
    let kept = |oldest| Kept { stream: 2, oldest, oldest_time: Timestamp(NOW) };
    let say = |short| {
        let history = History { subscription: 1, begun: Timestamp(NOW), short };
        text(d1::history(&history, "alert.BTCUSDT", Case::Snake, NOW))
    };
    let in_error = |message: &str, more: &str| {
        let data = format!(
            r#""error_code":"DATA_GAP","error_message":"{message}","timestamp":"2026-09-21T14:13:20.000Z","severity":"warning",{more}"reason":"history_gone""#
        );
        in_envelope("error", &data, Case::Snake)
    };
    assert_eq!(say(vec![]), in_error("what was published before the server began is not kept", ""));
    let one = "what was published on alert.BTCUSDT before 7 is not kept any more";
    let about = |topics| format!(r#""topic":"alert.BTCUSDT","oldest":7,"topics":{topics},"#);
    assert_eq!(say(vec![kept(7)]), in_error(one, &about(1)));
    let three = format!("{one}, nor all of 2 other topics");
    assert_eq!(say(vec![kept(7), kept(1), kept(2)]), in_error(&three, &about(3)));
}

#[test]
fn trouble_with_a_stream_and_its_end_are_errors_of_severity_warning() {
    let status = StreamStatus {
        stream: 2,
        state: StreamState::SUSPECT,
        reason: StateReason::QUIET,
        origin: IntervalOrigin::SET,
        interval_ms: 2_000,
        since: Timestamp(NOW),
        last_sequence: 19,
    };
    let say = |state, reason, case| {
        let status = StreamStatus { state, reason, ..status.clone() };
        d1::stream_state(&status, "market_data.BTCUSDT", case, NOW).map(text)
    };
    assert_eq!(
        say(StreamState::SUSPECT, StateReason::QUIET, Case::Camel).unwrap(),
        in_envelope(
            "error",
            r#""errorCode":"STALE_UPSTREAM","errorMessage":"market_data.BTCUSDT is suspect: nothing came in time","timestamp":"2026-09-21T14:13:20.000Z","severity":"warning","topic":"market_data.BTCUSDT","state":"suspect","reason":"quiet","since":"2026-09-21T14:13:20.000Z","lastSequence":19,"intervalMs":2000"#,
            Case::Camel
        )
    );
    let gone = say(StreamState::STALE, StateReason::SOURCE_GONE, Case::Snake).unwrap();
    assert!(gone.contains("market_data.BTCUSDT is stale: its source is gone"), "{gone}");
    let live = say(StreamState::LIVE, StateReason::EVENT, Case::Snake).unwrap();
    assert!(live.contains(r#""error_code":"STREAM_LIVE""#), "{live}");
    for state in [StreamState::IDLE, StreamState::REPLAY, StreamState(200)] {
        assert_eq!(say(state, StateReason::SAID, Case::Snake), None);
    }
}

// ---------------------------------------------------------------------------------------------
// What clients say

fn read(text: &str) -> Result<(ClientMessage, Option<Case>), D1Error> {
    d1::decode(text, &Limits::default())
}

fn subscribe(kind: &str, id: Option<u64>, request: Option<&str>) -> ClientMessage {
    ClientMessage::Subscribe {
        subscription_type: kind.into(),
        instrument_id: id,
        symbol: None,
        parameters: None,
        request_id: request.map(str::to_owned),
    }
}

#[test]
fn subscribes_of_all_shapes_are_understood() {
    let flat = r#"{"message_type":"subscribe","subscription_type":"analytics","instrument_id":1,"request_id":"sub_1_0.5"}"#;
    let snake = r#"{"message_type":"subscribe","version":"1.0","timestamp":"2025-09-01T10:00:00.000Z",
        "data":{"subscription_type":"analytics","instrument_id":1,"parameters":null,"request_id":"sub_1_0.5"}}"#;
    let camel = r#"{"messageType":"subscribe","version":"1.0","timestamp":"2025-09-01T10:00:00.000Z",
        "data":{"subscriptionType":"analytics","instrumentId":1,"requestId":"sub_1_0.5"}}"#;
    for (text, case) in [(flat, Case::Snake), (snake, Case::Snake), (camel, Case::Camel)] {
        let expected = subscribe("analytics", Some(1), Some("sub_1_0.5"));
        assert_eq!(read(text), Ok((expected, Some(case))), "{text}");
    }
    let with_parameters = r#"{"messageType":"subscribe","data":{"subscriptionType":"market_data","symbol":"BTCUSDT","parameters":{"max_hz": 5}}}"#;
    let Ok((ClientMessage::Subscribe { parameters, symbol, .. }, _)) = read(with_parameters) else {
        panic!("a subscribe")
    };
    assert_eq!((parameters.as_deref(), symbol.as_deref()), (Some(r#"{"max_hz": 5}"#), Some("BTCUSDT")));
}

#[test]
fn frames_of_the_real_client_are_understood() {
    let watch = r#"{"messageType":"subscribe","version":"1.0","timestamp":"2025-09-01T12:00:00.000Z","data":{"subscriptionType":"market_data","instrumentId":3,"requestId":"req_1756728000000_x1"}}"#;
    assert_eq!(
        read(watch),
        Ok((subscribe("market_data", Some(3), Some("req_1756728000000_x1")), Some(Case::Camel)))
    );
    let ping = r#"{"messageType":"ping","version":"1.0","timestamp":"2025-09-01T12:00:30.000Z","data":{"clientTime":"2025-09-01T12:00:30.000Z","sequence":1756728030000}}"#;
    let (message, case) = read(ping).unwrap();
    let ClientMessage::Ping { client_time, sequence, .. } = &message else { panic!("a ping") };
    assert_eq!(
        (client_time.as_deref(), *sequence),
        (Some("2025-09-01T12:00:30.000Z"), Some(1_756_728_030_000))
    );
    let answer = Pong::to(client_time.as_deref(), *sequence, 1_756_728_030_012_345_678);
    assert_eq!(
        text(d1::pong(&answer, case.unwrap(), 1_756_728_030_012_345_678)),
        r#"{"messageType":"pong","version":"1.0","timestamp":"2025-09-01T12:00:30.012Z","data":{"clientTime":"2025-09-01T12:00:30.000Z","serverTime":"2025-09-01T12:00:30.012Z","sequence":1756728030000,"latencyMs":12.345}}"#
    );
    // Before v1.0 the type's key was `type`, and a ping had no data.
    let old = r#"{"type":"ping","timestamp":"2025-09-01T12:00:30.000Z"}"#;
    let expected = ClientMessage::Ping { client_time: None, sequence: None, request_id: None };
    assert_eq!(read(old), Ok((expected, None)));
}

#[test]
fn client_messages_come_back_as_they_went() {
    let request = |subscribes| {
        let (subscription_type, instrument_id) = ("market_data".to_owned(), Some(u64::MAX));
        let (symbol, parameters) = (Some("BTCUSDT".to_owned()), Some(r#"{"a_b":[1,2.50]}"#.to_owned()));
        let request_id = Some("r \"1\"".to_owned());
        if subscribes {
            ClientMessage::Subscribe { subscription_type, instrument_id, symbol, parameters, request_id }
        } else {
            ClientMessage::Unsubscribe { subscription_type, instrument_id, symbol, parameters, request_id }
        }
    };
    let ping = ClientMessage::Ping {
        client_time: Some("yesterday".into()),
        sequence: Some(-1),
        request_id: Some("r".into()),
    };
    for (message, kind, snake, camel) in [
        (
            request(true),
            "subscribe",
            r#""subscription_type":"market_data","instrument_id":18446744073709551615,"symbol":"BTCUSDT","parameters":{"a_b":[1,2.50]},"request_id":"r \"1\"""#,
            r#""subscriptionType":"market_data","instrumentId":18446744073709551615,"symbol":"BTCUSDT","parameters":{"a_b":[1,2.50]},"requestId":"r \"1\"""#,
        ),
        (
            request(false),
            "unsubscribe",
            r#""subscription_type":"market_data","instrument_id":18446744073709551615,"symbol":"BTCUSDT","parameters":{"a_b":[1,2.50]},"request_id":"r \"1\"""#,
            r#""subscriptionType":"market_data","instrumentId":18446744073709551615,"symbol":"BTCUSDT","parameters":{"a_b":[1,2.50]},"requestId":"r \"1\"""#,
        ),
        (
            ping,
            "ping",
            r#""client_time":"yesterday","sequence":-1,"request_id":"r""#,
            r#""clientTime":"yesterday","sequence":-1,"requestId":"r""#,
        ),
    ] {
        for (case, data) in [(Case::Snake, snake), (Case::Camel, camel)] {
            let sent = text(d1::client_message(&message, case, NOW));
            assert_eq!(sent, in_envelope(kind, data, case));
            assert_eq!(read(&sent), Ok((message.clone(), Some(case))));
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Subscriptions

fn topics(kind: &str, symbol: Option<&str>) -> Result<Vec<String>, (&'static str, String)> {
    d1::topics_of(kind, symbol)
        .map(|filters| filters.iter().map(ToString::to_string).collect())
        .map_err(|error| (error.code, error.message))
}

#[test]
fn subscriptions_name_topics() {
    for (kind, symbol, expected) in [
        ("analytics", Some("BTC"), &["analytics_update.BTC"][..]),
        ("analytics_update", None, &["analytics_update.**"]),
        ("authenticated_analytics", Some("BTC"), &["analytics_update.BTC"]),
        ("technical_indicators", Some("BTC"), &["technical_indicators.BTC"]),
        ("price_prediction", None, &["price_prediction.**"]),
        ("risk_metrics", Some("BRK.B"), &["risk_metrics.BRK.B"]),
        ("market_data", Some("BTC"), &["market_data.BTC", "public_trade.BTC"]),
        ("market_data", None, &["market_data.**", "public_trade.**"]),
        ("public_trade", Some("BTC"), &["public_trade.BTC"]),
        ("alerts", Some("BTC"), &["alert.BTC"]),
        ("alert", None, &["alert.**"]),
    ] {
        assert_eq!(topics(kind, symbol).unwrap(), expected, "{kind}");
    }
    assert_eq!(d1::subscription_key("market_data", Some(5)), "market_data_5");
    assert_eq!(d1::subscription_key("alerts", None), "alerts");
}

#[test]
fn subscriptions_that_cannot_be_are_refused_with_a_way_out() {
    for (kind, symbol, code, words) in [
        ("technical", None, d1::UNKNOWN_STREAM, "did you mean `technical_indicators`?"),
        ("price", None, d1::UNKNOWN_STREAM, "did you mean `price_prediction`?"),
        ("risk", None, d1::UNKNOWN_STREAM, "did you mean `risk_metrics`?"),
        ("market", None, d1::UNKNOWN_STREAM, "did you mean `market_data`?"),
        ("market_dta", None, d1::UNKNOWN_STREAM, "did you mean `market_data`?"),
        ("", None, d1::UNKNOWN_STREAM, "nothing is called ``"),
        ("zzzzzzzzzz", None, d1::UNKNOWN_STREAM, "nothing is called `zzzzzzzzzz`"),
        ("order_update", None, d1::UNSUPPORTED_FORMAT, "it carries analytics, analytics_update,"),
        ("subscribe", None, d1::UNKNOWN_STREAM, "nothing is called `subscribe`"),
        ("market_data", Some("*"), d1::INVALID_FILTER, "symbol `*`"),
        ("market_data", Some("B*"), d1::INVALID_FILTER, "symbol `B*`"),
        ("market_data", Some(""), d1::INVALID_FILTER, "symbol ``"),
        ("market_data", Some("a b"), d1::INVALID_FILTER, "symbol `a b`"),
    ] {
        let (found, message) = topics(kind, symbol).unwrap_err();
        assert_eq!(found, code, "{kind}");
        assert!(message.contains(words), "{kind}: {message}");
    }
}

// ---------------------------------------------------------------------------------------------
// The contradictions, by their numbers

#[test]
fn c02_either_case_per_field_on_input() {
    let mixed = r#"{"message_type":"subscribe","data":{"subscriptionType":"alerts","instrument_id":2,"requestId":"r"}}"#;
    assert_eq!(read(mixed), Ok((subscribe("alerts", Some(2), Some("r")), Some(Case::Snake))));
    let beside = r#"{"messageType":"subscribe","request_id":"r","data":{"subscription_type":"alerts"}}"#;
    assert_eq!(read(beside), Ok((subscribe("alerts", None, Some("r")), Some(Case::Camel))));
    let both = r#"{"messageType":"subscribe","data":{"subscriptionType":"alerts","instrument_id":2,"instrumentId":3}}"#;
    let error = read(both).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (d1::INVALID_MESSAGE, "data.instrumentId"));
    let published = r#"{"message_type":"risk_metrics","data":{"symbol":"X","var1d":0.1,"var_5d":0.2,"volatility":0.3,"calculatedAt":"2026-01-31T12:00:00Z"}}"#;
    assert!(d1::decode_published(published, &Limits::default(), &Book, NOW).is_ok());
}

#[test]
fn c03_digit_keys() {
    let risk = native("risk_metrics", r#"{"symbol":"X","var_1d":0.1,"var_5d":0.2,"volatility":0.3}"#).message;
    let camel = d1_event(&risk, Case::Camel).unwrap();
    assert!(camel.contains(r#""var1d":0.1,"var5d":0.2"#) && !camel.contains("var_"), "{camel}");
    let snake = d1_event(&risk, Case::Snake).unwrap();
    assert!(snake.contains(r#""var_1d":0.1,"var_5d":0.2"#), "{snake}");
    for text in [camel, snake] {
        let back = d1::decode_published(&text, &Limits::default(), &Book, NOW).unwrap();
        assert_eq!(d1_event(&back.message, Case::Snake), d1_event(&risk, Case::Snake));
    }
}

#[test]
fn c04_keys_of_free_form_maps_are_not_touched() {
    let data = r#"{"symbol":"X","timeframe":"1m","calculated_at":"2026-01-31T12:00:00Z",
        "indicators":{"bollinger_upper":1.5,"macdSignal":{"fast_ema":1,"var_1d":[{"a_b":2}]}},"indicator_quality":{"bollinger_upper":0.5}}"#;
    let message = native("technical_indicators", data).message;
    for case in Case::ALL {
        let text = d1_event(&message, case).unwrap();
        assert!(
            text.contains(r#"{"bollinger_upper":1.5,"macdSignal":{"fast_ema":1,"var_1d":[{"a_b":2}]}}"#),
            "{text}"
        );
        assert!(text.contains(r#"{"bollinger_upper":0.5}"#), "{text}");
        let back = d1::decode_published(&text, &Limits::default(), &Book, NOW).unwrap();
        assert_eq!(d1_event(&back.message, case).unwrap(), text);
    }
}

#[test]
fn c05_servers_and_clients_have_their_own_types() {
    let from_server = r#"{"messageType":"connection_status","data":{}}"#;
    assert_eq!(read(from_server).unwrap_err().code, d1::NO_HANDLER);
    assert_eq!(read(r#"{"messageType":"market_data","data":{}}"#).unwrap_err().code, d1::NO_HANDLER);
    let ping = r#"{"messageType":"ping","data":{}}"#;
    assert_eq!(d1::decode_server(ping, &Limits::default()).unwrap_err().code, d1::NO_HANDLER);
    let error = d1::decode_published(ping, &Limits::default(), &Book, NOW).unwrap_err();
    assert_eq!(error.code, d1::NO_HANDLER);
    assert_eq!(read(r#"{"messageType":"nonsense"}"#).unwrap_err().code, d1::UNKNOWN_MESSAGE_TYPE);
}

#[test]
fn c07_a_subscription_without_an_id_covers_the_type() {
    let topic = native("market_data", r#"{"symbol":"BRK.B","price":1}"#).topic;
    let filters = d1::topics_of("market_data", None).unwrap();
    assert!(filters.iter().any(|filter| filter.matches(&topic)));
    let filters = d1::topics_of("market_data", Some("BRK.B")).unwrap();
    assert!(filters.iter().any(|filter| filter.matches(&topic)));
    assert_eq!(topics("alerts", None), topics("alert", None));
    assert_eq!(topics("analytics", None), topics("analytics_update", None));
}

#[test]
fn c08_indicators_have_a_subscription_of_their_own() {
    let topic = native("technical_indicators", r#"{"symbol":"X","timeframe":"1m","indicators":{}}"#).topic;
    let filters = d1::topics_of("technical_indicators", Some("X")).unwrap();
    assert!(filters.iter().any(|filter| filter.matches(&topic)));
}

#[test]
fn c10_times_are_utc_with_one_zone_and_milliseconds() {
    for (written, shown) in [
        ("2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.123Z"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31T12:00:00.5", "2026-01-31T12:00:00.500Z"),
        ("2026-01-31T14:00:00+02:00", "2026-01-31T12:00:00.000Z"),
        ("2026-01-31 12:00:00Z", "2026-01-31T12:00:00.000Z"),
    ] {
        let text = format!(
            r#"{{"message_type":"market_data","data":{{"symbol":"X","price":1,"volume":0,"timestamp":"{written}"}}}}"#
        );
        let published = d1::decode_published(&text, &Limits::default(), &Book, NOW).unwrap();
        let out = d1_event(&published.message, Case::Snake).unwrap();
        assert!(out.contains(&format!(r#""timestamp":"{shown}""#)), "{written}: {out}");
    }
}

#[test]
fn c11_latency_is_computed_or_null() {
    let ping = |client_time: Option<&str>| Pong::to(client_time, None, 1_790_000_000_000_000_000).latency_ms;
    assert_eq!(ping(Some("2026-09-21T14:13:19.750Z")), Some(250.0));
    assert_eq!(ping(Some("2026-09-21T14:13:19.750")), Some(250.0), "without a zone it is UTC");
    assert_eq!(ping(Some("2026-09-21T14:13:20.001Z")), None, "the clocks disagree");
    assert_eq!(ping(Some("soon")), None);
    assert_eq!(ping(None), None);
    let pong = text(d1::pong(&Pong::to(Some("soon"), None, 0), Case::Snake, 0));
    assert!(pong.ends_with(
        r#""data":{"client_time":"soon","server_time":"1970-01-01T00:00:00.000Z","latency_ms":null}}"#
    ));
}

#[test]
fn c16_unsubscribes_of_the_real_hook_are_understood_and_name_nothing() {
    let text = r#"{"messageType":"unsubscribe","version":"1.0","timestamp":"2025-09-01T12:00:00.000Z","data":{"subscriptionType":"technical","instrumentId":null,"requestId":"r"}}"#;
    let (message, _) = read(text).unwrap();
    let ClientMessage::Unsubscribe { subscription_type, instrument_id, .. } = message else {
        panic!("unsubscribe")
    };
    assert_eq!((subscription_type.as_str(), instrument_id), ("technical", None));
    assert_eq!(topics(&subscription_type, None).unwrap_err().0, d1::UNKNOWN_STREAM);
}

#[test]
fn c24_names_that_mean_two_things_keep_the_meaning_of_this_dialect() {
    // `risk_metrics` is an instrument's, `market_data` is a tick: a portfolio's figure and a bar do not fit.
    for other in ["portfolio_risk_metric", "bar", "risk_alert"] {
        assert_eq!(topics(other, None).unwrap_err().0, d1::UNSUPPORTED_FORMAT, "{other}");
    }
}

#[test]
fn c25_every_event_has_an_instrument_id() {
    for info in registry::types().iter().filter(|info| d1::carries(info.id)) {
        let sent = d1_event(&Message::sample(info, false), Case::Snake).unwrap();
        let value: serde_json::Value = serde_json::from_str(&sent).unwrap();
        assert!(value["data"]["instrument_id"].as_u64().is_some_and(|id| id > 0), "{sent}");
    }
}

#[test]
fn c42_the_cleanup_of_the_real_hook_ends_one_subscription_and_names_four_that_never_were() {
    let unsubscribe = |kind: &str, id: &str| {
        format!(
            r#"{{"messageType":"unsubscribe","version":"1.0","timestamp":"{TIME}","data":{{"subscriptionType":"{kind}","instrumentId":{id}}}}}"#
        )
    };
    for (kind, id, known) in [
        ("analytics", "5", true),
        ("technical", "null", false),
        ("price", "null", false),
        ("risk", "null", false),
        ("market", "null", false),
    ] {
        let (message, case) = read(&unsubscribe(kind, id)).unwrap();
        let ClientMessage::Unsubscribe { subscription_type, .. } = message else { panic!("unsubscribe") };
        assert_eq!((topics(&subscription_type, None).is_ok(), case), (known, Some(Case::Camel)));
    }
}

#[test]
fn c40_a_version_is_always_sent_and_never_required() {
    for version in [
        "",
        r#""version":null,"#,
        r#""version":"1.0","#,
        r#""version":"1.7","#,
        r#""version":"1","#,
        r#""version":1.0,"#,
    ] {
        let text = format!(r#"{{{version}"message_type":"ping"}}"#);
        assert!(read(&text).is_ok(), "{text}");
    }
    for version in [r#""2.0""#, r#""10.0""#, r#""""#, r#""v1""#, "2", "0.9"] {
        let error =
            read(&format!(r#"{{"version":{version},"message_type":"ping","request_id":"r"}}"#)).unwrap_err();
        assert_eq!((error.code, error.field.as_str()), (d1::VERSION_UNSUPPORTED, "version"));
        assert!(error.message.contains(r#"supported: ["1.0"]"#), "{error}");
        assert_eq!(error.request_id.as_deref(), Some("r"));
    }
}

#[test]
fn an_alert_is_as_old_as_its_envelope() {
    let text = |timestamp: &str| {
        format!(
            r#"{{"message_type":"alert",{timestamp}"data":{{"alert_id":1,"rule_id":2,"instrument_id":5,"rule_name":"r","condition":"c","target_value":1,"current_value":2,"severity":"critical","message":"m","rule_condition":"x"}}}}"#
        )
    };
    for (timestamp, expected) in
        [(r#""timestamp":"2026-01-31T12:00:00","#, 1_769_860_800_000_000_000), ("", NOW)]
    {
        let published =
            d1::decode_published(&text(timestamp), &Limits::default(), &Book, NOW).expect("an alert");
        let Message::Alert(alert) = &published.message else { panic!("an alert") };
        assert_eq!(
            (alert.ts.0, alert.symbol.as_str(), alert.severity.name()),
            (expected, "BTCUSDT", "critical")
        );
        assert_eq!(published.topic.as_str(), "alert.BTCUSDT");
    }
}

#[test]
fn ids_from_symbols_are_stable() {
    // FNV-1a of 32 bits: "" is the offset basis, "a" a published test value; the highest bit is cleared.
    assert_eq!(d1::stable_id(""), 0x811C_9DC5 & 0x7FFF_FFFF);
    assert_eq!(d1::stable_id("a"), 0xE40C_292C & 0x7FFF_FFFF);
    assert_eq!(d1::stable_id("foobar"), 0xBF9C_F968 & 0x7FFF_FFFF);
    with_view(&native("market_data", r#"{"symbol":"NEW","price":1}"#).message, |view| {
        let mut out = Vec::new();
        d1::event(&common::stamp("market_data.NEW", &view.to_owned()), view, &Book, Case::Snake, &mut out);
        assert!(text(out).contains(&format!(r#""instrument_id":{}"#, d1::stable_id("NEW"))));
    });
}
