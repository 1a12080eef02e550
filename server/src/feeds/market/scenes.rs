//! Everything the demo tells besides ticks: one message of each other type, in turn.
//!
//! [`CYCLE`] is the order of the turn. A type of the registry that is in no scene fails the test
//! `every_type_of_the_registry_is_seen_within_ten_seconds`.
#![forbid(unsafe_code)]

use fastrand::Rng;
use tickcast_protocol::field::{Entry, Json, Map, Scalar, Timestamp};
use tickcast_protocol::message::{
    Alert, AlgorithmDecision, AnalyticsUpdate, BreachAlert, Decision, Direction, EngineState, EngineStatus,
    Event, Extension, Health, Notification, OptionType, OptionsFlow, PerformanceUpdate, PortfolioRiskMetric,
    PricePrediction, RiskAlert, RiskMetrics, RiskType, Sentiment, SessionState, SessionStatus, Severity,
    Signal, StrategyPerformance, StreamHealth, SystemAlert, SystemHealth, TechnicalIndicators, Trend,
};
use tickcast_protocol::{Decimal, Message};

use super::book::{Book, MINUTE_NS, decimal};
use super::desk::{Desk, dollars};
use super::{DESK, ENGINE, PORTFOLIO, SESSION, UPSTREAM, USER};

const SECOND_NS: i64 = 1_000_000_000;
/// What the desk may lose in a session, in cents.
const LOSS_LIMIT_CENTS: i64 = 2_500_000;
const STRATEGIES: [(&str, &str); 3] =
    [("momentum-1", "Momentum"), ("reversion-2", "Mean reversion"), ("pairs-3", "Pairs")];

/// One kind of message besides ticks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scene {
    Order,
    Mark,
    Portfolio,
    OpenBar,
    OptionsFlow,
    Alert,
    Analytics,
    Indicators,
    Prediction,
    RiskMetrics,
    PortfolioRisk,
    Signal,
    Decision,
    Performance,
    Strategy,
    RiskAlert,
    Breach,
    Session,
    Notification,
    SystemAlert,
    SystemHealth,
    Engine,
    Event,
    StreamHealth,
    Sentiment,
    Heat,
}

/// The turn. An order has ten messages, so about one is done in each turn.
#[rustfmt::skip]
pub(super) const CYCLE: [Scene; 35] = {
    use Scene::*;
    [
        Session, Engine, Order, SystemHealth, StreamHealth, Order, OpenBar, Analytics, Order, Indicators,
        Signal, Order, Alert, Prediction, Order, RiskMetrics, RiskAlert, Order, PortfolioRisk, Decision,
        Order, OptionsFlow, Notification, Order, Performance, Strategy, Order, Mark, Sentiment, Order,
        Breach, SystemAlert, Event, Heat, Portfolio,
    ]
};

/// What a scene may look at.
pub(super) struct World<'a> {
    pub(super) books: &'a [Book],
    /// An instrument that is not mute.
    pub(super) book: &'a Book,
    pub(super) rng: &'a mut Rng,
    pub(super) desk: &'a mut Desk,
    pub(super) ts: i64,
    /// Messages a second, for the engine's figures.
    pub(super) rate: u32,
}

/// What the scenes remember.
#[derive(Clone, Debug)]
pub(super) struct Scenes {
    start: i64,
    played: usize,
    /// How much of its limits the desk uses, in 1/10,000.
    stress: i64,
    gaps: u64,
    last_gap: Option<i64>,
}

impl Scenes {
    pub(super) fn new(start: i64) -> Self {
        Self { start, played: 0, stress: 7_000, gaps: 0, last_gap: None }
    }

    /// The upstream lost something: its health says so for a moment.
    pub(super) fn upstream_gap(&mut self, ts: i64) {
        self.gaps += 1;
        self.last_gap = Some(ts);
    }

    /// The next message of the turn.
    pub(super) fn next(&mut self, world: World<'_>) -> Message {
        let World { books, book, rng, desk, ts, rate } = world;
        let scene = CYCLE[self.played % CYCLE.len()];
        let turn = (self.played / CYCLE.len()) as u64;
        self.played += 1;
        let now = Timestamp(ts);
        let elapsed_s = (ts - self.start) as f64 / 1e9;
        let symbol = book.instrument.name.clone();
        let instrument_id = Some(book.instrument.id);
        let (strategy_id, strategy_name) = STRATEGIES[turn as usize % STRATEGIES.len()];
        match scene {
            Scene::Order => desk.next(books, ts, rng),
            Scene::Mark => desk.mark(books, ts),
            Scene::Portfolio => desk.snapshot(books, ts),
            Scene::OpenBar => book.open_bar(),
            Scene::OptionsFlow => options_flow(with_options(books, turn).unwrap_or(book), turn, rng, ts),
            Scene::Alert => alert(book, turn, rng, ts),
            Scene::Analytics => {
                let (fast, slow, step) = book.averages();
                let trend = if book.momentum() >= 0.0 { "up" } else { "down" };
                AnalyticsUpdate {
                    symbol,
                    analysis_type: "trend".to_owned(),
                    results: map([
                        ("trend", Scalar::Text(trend.to_owned())),
                        ("strength", Scalar::Float((book.momentum().abs() * 2e3).min(1.0))),
                        ("average_fast", Scalar::Float(fast)),
                        ("average_slow", Scalar::Float(slow)),
                        ("channel", Scalar::Floats(vec![slow - 2.0 * step, slow + 2.0 * step])),
                    ]),
                    calculated_at: now,
                    next_update: Some(Timestamp(ts + MINUTE_NS)),
                    confidence_score: Some(between(rng, 0.6, 0.95)),
                    data_quality_score: Some(1.0),
                    instrument_id,
                }
                .into()
            }
            Scene::Indicators => {
                let (fast, slow, step) = book.averages();
                TechnicalIndicators {
                    symbol,
                    timeframe: "1m".to_owned(),
                    indicators: map([
                        ("rsi", Scalar::Float(book.rsi())),
                        ("macd", Scalar::Float(fast - slow)),
                        ("sma_20", Scalar::Float(slow)),
                        ("bollinger_upper", Scalar::Float(slow + 2.0 * step)),
                        ("bollinger_lower", Scalar::Float(slow - 2.0 * step)),
                    ]),
                    calculated_at: now,
                    indicator_quality: Some(map([("rsi", Scalar::Float(1.0)), ("macd", Scalar::Float(0.9))])),
                    instrument_id,
                }
                .into()
            }
            Scene::Prediction => {
                let (tick, last) = (book.instrument.tick, book.last());
                let width = 5 + (last as f64 * book.volatility() * 4.0) as i64;
                let middle = last + rng.i64(-width..=width);
                PricePrediction {
                    symbol,
                    model_name: "demo-walk".to_owned(),
                    horizon_minutes: [5, 15, 60][turn as usize % 3],
                    predicted_price: tick.times(middle),
                    lower: tick.times(middle - width),
                    upper: tick.times(middle + width),
                    calculated_at: now,
                    accuracy: Some(between(rng, 0.5, 0.6)),
                    instrument_id,
                }
                .into()
            }
            Scene::RiskMetrics => {
                let daily = 0.01 + book.volatility() * 20.0;
                RiskMetrics {
                    symbol,
                    var_1d: 1.645 * daily,
                    var_5d: 1.645 * daily * 2.236,
                    volatility: daily * 15.87,
                    calculated_at: now,
                    beta: Some(between(rng, 0.6, 1.6)),
                    sharpe_ratio: Some(between(rng, -0.5, 2.0)),
                    max_drawdown: Some(between(rng, 0.02, 0.2)),
                    instrument_id,
                }
                .into()
            }
            Scene::PortfolioRisk => {
                let metrics = [("var_95", 0.02), ("beta", 1.0), ("concentration", 0.3)];
                let (metric, average) = metrics[turn as usize % metrics.len()];
                let value = between(rng, 0.7 * average, 1.3 * average);
                PortfolioRiskMetric {
                    portfolio_id: PORTFOLIO.to_owned(),
                    metric_type: metric.to_owned(),
                    value,
                    ts: now,
                    percentile: Some(between(rng, 0.2, 0.9)),
                    historical_avg: Some(average),
                    trend: Some(if value > average { Trend::INCREASING } else { Trend::DECREASING }),
                    confidence_level: Some(0.95),
                    calculation_method: Some("historical simulation".to_owned()),
                    lookback_period: Some("250d".to_owned()),
                }
                .into()
            }
            Scene::Signal => Signal {
                symbol,
                decision: match book.momentum() {
                    up if up > 2e-5 => Decision::BUY,
                    down if down < -2e-5 => Decision::SELL,
                    _ => Decision::HOLD,
                },
                price: book.price(),
                confidence: (0.5 + book.momentum().abs() * 2e3).min(0.99),
                ts: now,
                quantity: Some(book.instrument.lot.times(rng.i64(1..=book.instrument.size_max))),
                strategy_id: Some(strategy_id.to_owned()),
            }
            .into(),
            Scene::Decision => {
                let (decision, reasoning) = match (turn % 10, book.rsi()) {
                    (9, _) => (Decision::CLOSE_POSITION, "the position's holding time is over"),
                    (_, weak) if weak < 45.0 => {
                        (Decision::BUY, "relative strength is low, the price should come back")
                    }
                    (_, strong) if strong > 55.0 => {
                        (Decision::SELL, "relative strength is high, take the profit")
                    }
                    _ => (Decision::HOLD, "no side is stronger than the other"),
                };
                AlgorithmDecision {
                    session_id: SESSION.to_owned(),
                    algorithm_id: strategy_id.to_owned(),
                    decision,
                    reasoning: format!("{reasoning} (RSI {:.1})", book.rsi()),
                    confidence: between(rng, 0.5, 0.95),
                    symbol,
                    price: book.price(),
                    volume: book.volume(),
                    ts: now,
                }
                .into()
            }
            Scene::Performance => {
                let pnl = desk.pnl(books);
                let trades = desk.trades();
                let winning = trades * 11 / 20;
                PerformanceUpdate {
                    portfolio_id: PORTFOLIO.to_owned(),
                    pnl: dollars(pnl),
                    returns: pnl as f64 / desk.exposure(books).max(1) as f64,
                    ts: now,
                    strategy_id: Some(strategy_id.to_owned()),
                    sharpe_ratio: Some(between(rng, 0.8, 1.6)),
                    max_drawdown: Some(0.042),
                    win_rate: (trades > 0).then(|| winning as f64 / trades as f64),
                    profit_factor: Some(between(rng, 1.0, 1.5)),
                    total_trades: Some(trades),
                    winning_trades: Some(winning),
                    losing_trades: Some(trades - winning),
                    currency: Some("USD".to_owned()),
                }
                .into()
            }
            Scene::Strategy => StrategyPerformance {
                strategy_id: strategy_id.to_owned(),
                strategy_name: strategy_name.to_owned(),
                total_return: between(rng, -0.02, 0.12),
                sharpe_ratio: between(rng, 0.4, 2.0),
                max_drawdown: between(rng, 0.01, 0.1),
                trade_count: desk.trades() / 3,
                ts: now,
                win_rate: Some(between(rng, 0.45, 0.6)),
                profit_factor: Some(between(rng, 0.9, 1.6)),
                calmar_ratio: Some(between(rng, 0.5, 2.5)),
                sortino_ratio: Some(between(rng, 0.5, 2.5)),
                alpha: Some(between(rng, -0.01, 0.03)),
                beta: Some(between(rng, 0.7, 1.2)),
            }
            .into(),
            Scene::RiskAlert => self.risk_alert(turn, rng, ts),
            Scene::Breach => {
                // In cents: five million dollars.
                let limit = 500_000_000;
                let over = rng.i64(500_000..75_000_000);
                BreachAlert {
                    portfolio_id: PORTFOLIO.to_owned(),
                    breach_type: "limit".to_owned(),
                    severity: if over > 50_000_000 { Severity::CRITICAL } else { Severity::HIGH },
                    limit_type: ["gross_exposure", "concentration"][turn as usize % 2].to_owned(),
                    current_value: dollars(limit + over),
                    limit_value: dollars(limit),
                    ts: now,
                    breach_ratio: Some(over as f64 / limit as f64),
                    breach_duration_s: Some(between(rng, 0.1, 30.0)),
                    auto_action: (over > 50_000_000).then(|| "new orders are held back".to_owned()),
                }
                .into()
            }
            Scene::Session => {
                let pnl = desk.pnl(books);
                // Two first messages start it; every 20 turns it pauses for one.
                let (status, transition) = match turn {
                    0 => (SessionState::STARTED, true),
                    1 => (SessionState::ACTIVE, true),
                    _ if turn % 20 == 10 => (SessionState::PAUSED, true),
                    _ => (SessionState::ACTIVE, turn % 20 == 11),
                };
                SessionStatus {
                    session_id: SESSION.to_owned(),
                    user_id: USER.to_owned(),
                    status,
                    transition,
                    current_pnl: dollars(pnl),
                    total_trades: desk.trades(),
                    loss_limit_utilization: ((-pnl).max(0) as f64 / LOSS_LIMIT_CENTS as f64).min(1.0),
                    time_elapsed_s: elapsed_s,
                    performance_score: 50.0
                        + (pnl as f64 / LOSS_LIMIT_CENTS as f64 * 50.0).clamp(-50.0, 50.0),
                    ts: now,
                    currency: Some("USD".to_owned()),
                }
                .into()
            }
            Scene::Notification => {
                let (category, severity, title, message) = match turn % 4 {
                    0 => ("system", Severity::INFO, "Demo market is open", "All symbols are trading."),
                    1 => (
                        "milestone",
                        Severity::LOW,
                        "Another order is done",
                        "The desk's portfolio was updated.",
                    ),
                    2 => (
                        "maintenance",
                        Severity::MEDIUM,
                        "Maintenance tonight",
                        "Reports pause at 22:00 UTC.",
                    ),
                    _ => ("system", Severity::HIGH, "Desk is near its limit", "Look at risk_alert.desk-7."),
                };
                let personal = category == "milestone";
                Notification {
                    audience: if personal { USER } else { "all" }.to_owned(),
                    title: title.to_owned(),
                    message: message.to_owned(),
                    severity,
                    ts: now,
                    notification_id: Some(format!("n-{turn}")),
                    category: Some(category.to_owned()),
                    user_id: personal.then(|| USER.to_owned()),
                }
                .into()
            }
            Scene::SystemAlert => {
                let lag_ms = between(rng, 20.0, 400.0);
                SystemAlert {
                    component: "market-gateway".to_owned(),
                    alert_type: "latency".to_owned(),
                    severity: match lag_ms {
                        slow if slow > 350.0 => Severity::CRITICAL,
                        slow if slow > 200.0 => Severity::MEDIUM,
                        _ => Severity::LOW,
                    },
                    description: format!("quotes are {lag_ms:.0} ms behind their venue"),
                    ts: now,
                    metric: Some("quote_lag_ms".to_owned()),
                    current_value: Some(lag_ms),
                    threshold: Some(200.0),
                }
                .into()
            }
            Scene::SystemHealth => {
                let cpu = between(rng, 0.1, 0.95);
                SystemHealth {
                    component: ENGINE.to_owned(),
                    status: if cpu > 0.9 { Health::DEGRADED } else { Health::HEALTHY },
                    ts: now,
                    cpu_usage: Some(cpu),
                    memory_usage: Some(between(rng, 0.4, 0.5)),
                    disk_usage: Some(0.31),
                    active_connections: Some(rng.u64(3..9)),
                    error_rate: Some(between(rng, 0.0, 0.002)),
                    throughput: Some(f64::from(rate)),
                    uptime_s: Some(elapsed_s),
                    version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                }
                .into()
            }
            Scene::Engine => EngineStatus {
                engine_id: ENGINE.to_owned(),
                state: if turn == 0 { EngineState::STARTING } else { EngineState::RUNNING },
                transition: turn < 2,
                uptime_s: elapsed_s,
                ts: now,
                cpu_usage: Some(between(rng, 0.1, 0.6)),
                memory_usage: Some(between(rng, 0.2, 0.3)),
                active_strategies: Some(STRATEGIES.len() as u32),
                orders_processed: Some(desk.orders()),
                trades_executed: Some(desk.trades()),
                error_count: Some(0),
            }
            .into(),
            Scene::Event => Event {
                event_type: ["news", "halt_lifted", "rebalance"][turn as usize % 3].to_owned(),
                event_id: format!("e-{turn}"),
                source: "demo".to_owned(),
                ts: now,
                title: Some(format!("{symbol} in the news")),
                description: Some("Made up, like everything in this market.".to_owned()),
                tags: vec!["demo".to_owned(), book.instrument.asset_class.to_owned()],
                details: Some(map([
                    ("symbol", Scalar::Text(symbol)),
                    ("turn", Scalar::Integer(turn as i64)),
                ])),
                user_id: None,
                session_id: Some(SESSION.to_owned()),
            }
            .into(),
            Scene::StreamHealth => StreamHealth {
                stream: UPSTREAM.to_owned(),
                is_healthy: true,
                error_count: u64::from(self.last_gap.is_some_and(|gap| ts - gap < 5 * SECOND_NS)),
                recovery_attempts: self.gaps,
                started_at: Timestamp(self.start),
                last_update: Some(now),
            }
            .into(),
            Scene::Sentiment => {
                let score = between(rng, -1.0, 1.0);
                Sentiment {
                    symbol,
                    overall_score: score,
                    overall_level: match score {
                        low if low < -0.3 => "bearish",
                        high if high > 0.3 => "bullish",
                        _ => "neutral",
                    }
                    .to_owned(),
                    confidence: between(rng, 0.4, 0.9),
                    total_mentions: rng.u64(40..4_000),
                    ts: now,
                    providers: Some(map([
                        ("news", Scalar::Float((score + 0.1).min(1.0))),
                        ("social", Scalar::Float((score - 0.1).max(-1.0))),
                    ])),
                }
                .into()
            }
            Scene::Heat => {
                let first = &books[0];
                Extension {
                    name: "heat".to_owned(),
                    key: first.instrument.name.clone(),
                    ts: now,
                    critical: false,
                    json: Some(Json(format!(
                        r#"{{"symbol":"{}","heat":{:.4},"price":"{}"}}"#,
                        first.instrument.name,
                        (first.rsi() / 100.0).clamp(0.0, 1.0),
                        first.price(),
                    ))),
                    bytes: None,
                    symbol: Some(first.instrument.name.clone()),
                    user_id: None,
                    session_id: None,
                    portfolio_id: None,
                }
                .into()
            }
        }
    }

    /// The desk comes and goes near its limits; the severity says how near.
    fn risk_alert(&mut self, turn: u64, rng: &mut Rng, ts: i64) -> Message {
        self.stress = (self.stress + rng.i64(-1_200..=1_300)).clamp(6_000, 11_000);
        let severity = match self.stress {
            ..7_000 => Severity::LOW,
            7_000..8_500 => Severity::MEDIUM,
            8_500..10_000 => Severity::HIGH,
            10_000..10_700 => Severity::CRITICAL,
            _ => Severity::EMERGENCY,
        };
        let broken = self.stress >= 10_000;
        let kinds = [RiskType::LOSS_LIMIT, RiskType::VOLATILITY, RiskType::CORRELATION, RiskType::TIME_LIMIT];
        RiskAlert {
            scope: DESK.to_owned(),
            risk_type: kinds[turn as usize % kinds.len()],
            severity,
            message: format!("{DESK} uses {} % of its limit", decimal(self.stress, -2)),
            current_value: decimal(self.stress, -4),
            threshold: decimal(8_500, -4),
            ts: Timestamp(ts),
            metric: Some("limit_utilization".to_owned()),
            limit_value: Some(decimal(10_000, -4)),
            recommended_action: Some(if broken { "reduce positions" } else { "watch" }.to_owned()),
            auto_action_taken: broken.then(|| "new orders are held back".to_owned()),
            portfolio_id: Some(PORTFOLIO.to_owned()),
            session_id: Some(SESSION.to_owned()),
        }
        .into()
    }
}

fn alert(book: &Book, turn: u64, rng: &mut Rng, ts: i64) -> Message {
    let symbol = book.instrument.name.clone();
    let (target, now) = (book.last() - rng.i64(0..20), book.last());
    let target: Decimal = book.instrument.tick.times(target);
    let current = book.instrument.tick.times(now);
    let severity = [Severity::INFO, Severity::LOW, Severity::MEDIUM, Severity::HIGH, Severity::CRITICAL];
    Alert {
        alert_id: turn + 1,
        rule_id: u64::from(book.instrument.id),
        rule_name: format!("{symbol} breakout"),
        condition: "above".to_owned(),
        target_value: target,
        current_value: current,
        severity: severity[turn as usize % severity.len()],
        message: format!("{symbol} is at {current}, at or above {target}"),
        rule_condition: format!("price >= {target}"),
        ts: Timestamp(ts),
        evaluation_time_ms: Some(rng.u32(1..9)),
        instrument_id: Some(book.instrument.id),
        symbol,
    }
    .into()
}

/// A stock or fund, a different one each turn.
fn with_options(books: &[Book], turn: u64) -> Option<&Book> {
    let has_options = |book: &&Book| matches!(book.instrument.asset_class, "equity" | "etf");
    let count = books.iter().filter(has_options).count().max(1);
    books.iter().filter(has_options).nth(turn as usize % count)
}

fn options_flow(book: &Book, turn: u64, rng: &mut Rng, ts: i64) -> Message {
    let call = rng.bool();
    let contracts = rng.i64(10..2_000);
    // About two percent of the price, for contracts of a hundred.
    let premium = (book.price().to_f64() * 2.0 * contracts as f64) as i64;
    // Strikes lie 20 ticks apart, up to 5 steps from the price.
    let strike = (book.last() / 20 + rng.i64(-5..=5)) * 20;
    Message::OptionsFlow(OptionsFlow {
        symbol: book.instrument.name.clone(),
        ts: Timestamp(ts),
        strike: book.instrument.tick.times(strike),
        expiry: date(ts + (7 + (turn % 4) as i64 * 7) * 24 * 60 * MINUTE_NS),
        option_type: if call { OptionType::CALL } else { OptionType::PUT },
        volume: Decimal::from(contracts as i32),
        premium: dollars(premium * 100),
        currency: Some("USD".to_owned()),
        direction: if call { Direction::BULLISH } else { Direction::BEARISH },
        unusual: contracts > 1_000,
        sweep: turn.is_multiple_of(3),
        block: contracts > 1_500,
    })
}

/// The UTC date as YYYY-MM-DD.
fn date(ts: i64) -> String {
    let mut text = Timestamp(ts).to_string();
    text.truncate(10);
    text
}

fn map<const N: usize>(entries: [(&str, Scalar); N]) -> Map {
    Map(entries.map(|(key, value)| Entry { key: key.to_owned(), value }).into())
}

/// A ratio with four decimals.
fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    ((low + rng.f64() * (high - low)) * 1e4).round() / 1e4
}
