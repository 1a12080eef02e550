//! What the demo promises, seen from outside.

use std::collections::{BTreeMap, HashMap};
use std::hash::RandomState;

use tickcast_protocol::frame;
use tickcast_protocol::message::{
    Bar, ExecutionStatus, OrderStatus, PositionSide, PublicTrade, Severity, Side, View,
};
use tickcast_protocol::registry::{self, Facts};
use tickcast_protocol::{Class, Decimal};

use super::*;

/// 2025-03-04T05:06:07.89Z: neither a minute's nor a second's start.
const START: i64 = 1_741_064_767_890_000_000;

fn market(config: MarketConfig) -> Market {
    Market::new(config, START)
}

/// Plays until `seconds` after the start, ten steps a second.
fn play(market: &mut Market, seconds: i64) -> Vec<Action> {
    let mut actions = Vec::new();
    for tenth in 0..seconds * 10 {
        let step = market.step(START + tenth * SECOND_NS / 10);
        assert_eq!(step.left_out, 0);
        actions.extend(step.actions);
    }
    actions
}

fn messages(actions: Vec<Action>) -> impl Iterator<Item = Message> {
    actions.into_iter().filter_map(|action| match action {
        Action::Publish(message) => Some(message),
        Action::Skip { .. } => None,
    })
}

fn with_view<T>(message: &Message, use_it: impl FnOnce(View<'_>) -> T) -> T {
    let (payload, header) = frame::payload(message);
    use_it(View::access(header.type_id, &payload, header.root_len).unwrap())
}

fn topic_and_facts(message: &Message) -> (String, Facts) {
    with_view(message, |view| {
        view.check().unwrap_or_else(|error| panic!("{}: {error}", message.info().name));
        let mut key = String::new();
        view.write_key(&mut key).unwrap_or_else(|error| panic!("{}: {error}", message.info().name));
        (format!("{}.{key}", message.info().name), view.facts(&RandomState::new()))
    })
}

fn ts(message: &Message) -> i64 {
    with_view(message, |view| {
        let field = if matches!(view.field("ts"), tickcast_protocol::field::Value::Time(_)) {
            "ts"
        } else {
            "calculated_at"
        };
        match view.field(field) {
            tickcast_protocol::field::Value::Time(ts) => ts,
            // Its time is `last_update`.
            _ => match message {
                Message::StreamHealth(health) => health.last_update.unwrap().0,
                other => panic!("{} has no time", other.info().name),
            },
        }
    })
}

#[test]
fn every_type_of_the_registry_is_seen_within_ten_seconds() {
    for messages_per_second in [20, 500, 5_000] {
        let mut market = market(MarketConfig { messages_per_second, ..MarketConfig::default() });
        let mut seen: HashMap<u16, u64> = HashMap::new();
        for message in messages(play(&mut market, 10)) {
            *seen.entry(message.info().id).or_default() += 1;
        }
        // What became of an alert is the server's to tell.
        let made_by_the_server = ["delivery_report", "partial_book"];
        let is_ours = |info: &&registry::TypeInfo| info.is_data() && !made_by_the_server.contains(&info.name);
        for info in registry::types().iter().filter(is_ours) {
            assert!(seen.contains_key(&info.id), "{} is not in the demo", info.name);
        }
        let ticks = seen[&MarketData::INFO.id];
        assert!(seen.iter().all(|(id, count)| *id == MarketData::INFO.id || *count < ticks));
    }
}

#[test]
fn no_type_is_silent_for_long() {
    let mut market = market(MarketConfig::default());
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for message in messages(play(&mut market, 180)) {
        let info = message.info();
        // The start of a bar is not when it is told.
        let ts = if matches!(message, Message::Bar(_)) { continue } else { ts(&message) };
        let before = last.insert(info.name, ts).unwrap_or(START);
        // Health after five seconds of silence is judged for class latest only.
        let most = if info.class == Class::Latest { 4 } else { 13 };
        assert!(ts - before < most * SECOND_NS, "{} {}", info.name, ts - before);
    }
}

#[test]
fn every_message_is_one_the_server_accepts() {
    let mut market = market(MarketConfig::default());
    let mut topics = BTreeMap::new();
    let mut classes = BTreeMap::new();
    for message in messages(play(&mut market, 130)) {
        let (topic, facts) = topic_and_facts(&message);
        Topic::parse(&topic).unwrap();
        assert!(frame::payload(&message).0.len() < 2_048, "{topic}");
        *topics.entry(topic).or_insert(0u64) += 1;
        *classes.entry((message.info().name, facts.class.name())).or_insert(0u64) += 1;
    }
    for topic in [
        "market_data.BTC-USD",
        "public_trade.AAPL",
        "bar.1m.EURUSD",
        "risk_alert.desk-7",
        "session_status.demo-1",
        "system_health.engine-1",
        "extension.heat.BTC-USD",
        "order_update.42",
        "trade_executed.42",
        "position_update.demo",
        "portfolio_snapshot.demo",
        "notification.all",
        "notification.42",
    ] {
        assert!(topics.contains_key(topic), "{topic}");
    }
    // Rules that raise a class are seen at work.
    for raised in [("bar", "ordered"), ("session_status", "critical"), ("engine_status", "ordered")] {
        assert!(classes.contains_key(&raised), "{raised:?}");
    }
    assert!(topics.len() < 400, "{}", topics.len());
}

#[test]
fn the_same_seed_gives_the_same_market() {
    let config = MarketConfig::default();
    let (mut one, mut same) = (market(config), market(config));
    let mut other = market(MarketConfig { seed: 8, ..config });
    let actions = play(&mut one, 70);
    // However often it is asked.
    let mut again = Vec::new();
    while same.next_due() <= START + 70 * SECOND_NS - SECOND_NS / 10 {
        again.extend(same.step(same.next_due()).actions);
    }
    assert_eq!(actions, again);
    assert_ne!(actions, play(&mut other, 70));
}

#[test]
fn the_rate_is_kept() {
    for rate in [1, 3, 500, 7_777] {
        let mut market = market(MarketConfig { messages_per_second: rate, ..MarketConfig::default() });
        assert_eq!(messages(play(&mut market, 61)).count() as i64, i64::from(rate) * 61 - due_late(rate));
    }
}

/// Messages of the last tenth of a second, which `play` does not reach: it ends at its beginning.
fn due_late(rate: u32) -> i64 {
    (0..i64::from(rate)).filter(|slot| slot * SECOND_NS / i64::from(rate) > SECOND_NS / 10 * 9).count() as i64
}

#[test]
fn times_are_when_it_was_due_and_never_go_back() {
    let mut market = market(MarketConfig::default());
    assert_eq!(market.step(START - 1), Step::default());
    let mut before = START;
    for message in messages(play(&mut market, 20)) {
        if !matches!(message, Message::Bar(_)) {
            assert!(ts(&message) >= before);
            before = ts(&message);
        }
    }
    assert!(before > START + 19 * SECOND_NS);
}

#[test]
fn quotes_trades_and_bars_agree() {
    let mut market = market(MarketConfig::default());
    let mut last: HashMap<String, Decimal> = HashMap::new();
    let mut tape: HashMap<(String, i64), Vec<PublicTrade>> = HashMap::new();
    let mut closed: Vec<Bar> = Vec::new();
    let up = |low: Decimal, high: Decimal| assert!(low.compare(high).is_lt(), "{low} {high}");
    let not_up = |low: Decimal, high: Decimal| assert!(low.compare(high).is_le(), "{low} {high}");
    for message in messages(play(&mut market, 200)) {
        match message {
            Message::MarketData(tick) => {
                let price = tick.price.unwrap();
                up(Decimal::from(0), tick.bid.unwrap());
                up(tick.bid.unwrap(), price);
                up(price, tick.ask.unwrap());
                not_up(tick.low.unwrap(), price);
                not_up(price, tick.high.unwrap());
                not_up(tick.low.unwrap(), tick.open.unwrap());
                not_up(tick.open.unwrap(), tick.high.unwrap());
                let change = tick.change.unwrap();
                assert_eq!(price.mantissa() - tick.prev_close.unwrap().mantissa(), change.mantissa());
                if let Some(trade) = last.get(&tick.symbol) {
                    assert_eq!(*trade, price, "the last price is the last trade's");
                }
            }
            Message::PublicTrade(trade) => {
                last.insert(trade.symbol.clone(), trade.price);
                let minute = trade.ts.0.div_euclid(MINUTE_NS) * MINUTE_NS;
                tape.entry((trade.symbol.clone(), minute)).or_default().push(trade);
            }
            Message::Bar(bar) => {
                for price in [bar.open, bar.close] {
                    not_up(bar.low, price);
                    not_up(price, bar.high);
                }
                if bar.closed {
                    closed.push(bar);
                }
            }
            _ => {}
        }
    }
    assert_eq!(closed.len(), 3 * 24, "a closed bar for each symbol and minute");
    for bar in closed {
        let trades = tape.remove(&(bar.symbol.clone(), bar.ts.0)).unwrap_or_default();
        let volume: i64 = trades.iter().map(|trade| trade.size.mantissa()).sum();
        assert_eq!(bar.volume.mantissa(), volume, "{}", bar.symbol);
        let Some(first) = trades.first() else { continue };
        assert_eq!((bar.open, bar.close), (first.price, trades[trades.len() - 1].price));
        let highest = trades.iter().map(|trade| trade.price.mantissa()).max();
        let lowest = trades.iter().map(|trade| trade.price.mantissa()).min();
        assert_eq!((Some(bar.high.mantissa()), Some(bar.low.mantissa())), (highest, lowest));
    }
}

#[test]
fn order_books_can_be_followed_and_agree_with_the_quotes() {
    let mut market = market(MarketConfig::default());
    let mut books: HashMap<String, tickcast_protocol::Book> = HashMap::new();
    let mut quotes: HashMap<String, MarketData> = HashMap::new();
    let (mut snapshots, mut deltas, mut compared) = (0, 0, 0);
    for message in messages(play(&mut market, 60)) {
        match message {
            Message::OrderBook(message) => {
                assert!(message.checksum.is_some());
                let is_snapshot = message.kind == tickcast_protocol::message::BookKind::SNAPSHOT;
                *(if is_snapshot { &mut snapshots } else { &mut deltas }) += 1;
                // Mostly small: a delta with every level in it would be a snapshot.
                assert!(is_snapshot || message.bids.len() <= 2 * ladder::LEVELS as usize);
                let book = books.entry(message.symbol.clone()).or_default();
                book.apply(&message).unwrap_or_else(|error| panic!("{}: {error}", message.symbol));
                let top = book.top(usize::MAX);
                assert_eq!((top.bids.len(), top.asks.len()), (10, 10));
                let Some(quote) = quotes.get(&message.symbol) else { continue };
                // The quote may have moved with a trade since it was told.
                compared += u32::from(
                    top.bids[0].price.compare(quote.bid.unwrap()).is_le()
                        && top.asks[0].price.compare(quote.ask.unwrap()).is_ge(),
                );
            }
            Message::MarketData(tick) => drop(quotes.insert(tick.symbol.clone(), tick)),
            _ => {}
        }
    }
    assert_eq!(books.len(), LADDERS);
    assert!(snapshots * ladder::SNAPSHOT_EVERY >= deltas && deltas > 20 * snapshots, "{snapshots} {deltas}");
    assert!(u64::from(compared) > deltas / 2, "{compared} of {deltas}");
}

#[test]
fn each_minute_one_symbol_goes_mute_and_nobody_says_so() {
    let mut market = market(MarketConfig::default());
    let names: Vec<String> = market.symbols().map(str::to_owned).collect();
    assert_eq!(names.len(), 24);
    let mut ticks: HashMap<String, Vec<i64>> = HashMap::new();
    for message in messages(play(&mut market, 180)) {
        match &message {
            Message::MarketData(tick) => ticks.entry(tick.symbol.clone()).or_default().push(tick.ts.0),
            Message::PublicTrade(trade) => ticks.entry(trade.symbol.clone()).or_default().push(trade.ts.0),
            Message::StreamHealth(health) => assert!(health.is_healthy),
            _ => {}
        }
    }
    let silences = |name: &str| {
        let times = &ticks[name];
        times
            .windows(2)
            .map(|pair| (pair[0], pair[1]))
            .filter(|(a, b)| b - a > 5 * SECOND_NS)
            .collect::<Vec<_>>()
    };
    let mut expected = HashMap::<&str, usize>::new();
    for minute in 0..3 {
        let disturbance = market.disturbance(minute);
        let name = &names[disturbance.mute.unwrap()];
        assert_eq!(disturbance.mute_until - disturbance.mute_from, 8 * SECOND_NS);
        assert!(silences(name).iter().any(|(from, to)| {
            *from < disturbance.mute_from + 1 && *to >= disturbance.mute_until && to - from < 12 * SECOND_NS
        }));
        *expected.entry(name).or_default() += 1;
    }
    for name in &names {
        assert_eq!(silences(name).len(), expected.get(name.as_str()).copied().unwrap_or(0), "{name}");
    }
}

#[test]
fn each_minute_one_gap_is_said() {
    let mut market = market(MarketConfig::default());
    let names: Vec<String> = market.symbols().map(str::to_owned).collect();
    let mut skips = Vec::new();
    for action in play(&mut market, 180) {
        if let Action::Skip { topic, count } = action {
            skips.push((topic.as_str().to_owned(), count));
        }
    }
    let expected: Vec<_> = (0..3).map(|minute| market.disturbance(minute)).collect();
    assert!(
        expected.iter().all(|minute| Some(minute.gap) != minute.mute && (3..=9).contains(&minute.gap_count))
    );
    let expected: Vec<_> = expected
        .iter()
        .map(|minute| (format!("market_data.{}", names[minute.gap]), minute.gap_count))
        .collect();
    assert_eq!(skips, expected);
}

#[test]
fn an_order_is_followed_through_to_the_portfolio() {
    let mut market = market(MarketConfig::default());
    let mut held: HashMap<String, i64> = HashMap::new();
    let mut flow = Vec::new();
    let mut statuses = BTreeMap::new();
    let signed = |side: Side, quantity: Decimal| match side {
        Side::BUY => quantity.mantissa(),
        _ => -quantity.mantissa(),
    };
    let mut traded = None;
    for message in messages(play(&mut market, 240)) {
        match message {
            Message::OrderUpdate(order) => {
                let sum = order.filled_quantity.mantissa() + order.remaining_quantity.mantissa();
                assert_eq!(sum, order.quantity.mantissa());
                *statuses.entry(order.status).or_insert(0) += 1;
                flow.push("order");
            }
            Message::TradeExecuted(trade) => {
                let done = trade.remaining_quantity.unwrap().mantissa() == 0;
                assert_eq!(trade.status == ExecutionStatus::FILL, done);
                traded = Some((trade.symbol.clone(), signed(trade.side, trade.quantity)));
                flow.push("trade");
            }
            Message::PositionUpdate(position) => {
                let quantity = position.quantity.mantissa();
                assert_eq!(position.side == PositionSide::SHORT, quantity < 0);
                assert_eq!(position.side == PositionSide::FLAT, quantity == 0);
                if let Some((symbol, change)) = traded.take_if(|(symbol, _)| *symbol == position.symbol) {
                    if let Some(before) = held.get(&symbol) {
                        assert_eq!(before + change, quantity, "{symbol}");
                    }
                    flow.push("position");
                }
                held.insert(position.symbol, quantity);
            }
            Message::PortfolioSnapshot(portfolio) => {
                assert_eq!(portfolio.positions.len(), portfolio.position_count as usize);
                let sum: i64 =
                    portfolio.positions.iter().map(|holding| holding.unrealized_pnl.mantissa()).sum();
                assert_eq!(sum, portfolio.total_pnl.mantissa());
                flow.push("portfolio");
            }
            Message::ExecutionAnalytics(_) => flow.push("analytics"),
            _ => {}
        }
    }
    flow.retain(|step| *step != "portfolio");
    let whole = ["order", "order", "order", "trade", "position", "order", "trade", "position", "analytics"];
    assert_eq!(flow[..whole.len()], whole);
    for status in [
        OrderStatus::PENDING,
        OrderStatus::OPEN,
        OrderStatus::PARTIAL,
        OrderStatus::FILLED,
        OrderStatus::CANCELLED,
        OrderStatus::REJECTED,
    ] {
        assert!(statuses.contains_key(&status), "{}", status.name());
    }
}

#[test]
fn alerts_come_in_all_severities() {
    let mut market = market(MarketConfig::default());
    let mut severities = BTreeMap::new();
    for message in messages(play(&mut market, 300)) {
        match message {
            Message::Alert(alert) => {
                assert!(alert.target_value.compare(alert.current_value).is_le());
                *severities.entry(alert.severity).or_insert(0) += 1;
            }
            Message::RiskAlert(alert) => {
                let broken = alert.current_value.compare(alert.limit_value.unwrap()).is_ge();
                assert_eq!(alert.severity >= Severity::CRITICAL, broken);
                *severities.entry(alert.severity).or_insert(0) += 1;
            }
            Message::BreachAlert(breach) => assert!(breach.current_value.compare(breach.limit_value).is_gt()),
            _ => {}
        }
    }
    assert_eq!(severities.len(), 6, "{severities:?}");
}

#[test]
fn a_late_caller_gets_a_bounded_step_and_is_told_what_was_left_out() {
    let mut market = market(MarketConfig { messages_per_second: 10_000, ..MarketConfig::default() });
    // Half a second late: everything is made up for, in steps of bounded size.
    let now = START + SECOND_NS / 2;
    let first = market.step(now);
    assert!((STEP_ACTIONS_MAX..=STEP_ACTIONS_MAX + 1).contains(&first.actions.len()));
    assert_eq!(first.left_out, 0);
    assert!(market.next_due() <= now);
    assert_eq!(market.step(now).actions.len(), 5_001 - STEP_ACTIONS_MAX);
    assert_eq!(market.step(now), Step::default());
    // A day late: one second is made up for.
    let now = START + 86_400 * SECOND_NS;
    let mut made = 0;
    let mut left_out = 0;
    while market.next_due() <= now {
        let step = market.step(now);
        made += messages(step.actions).count() as u64;
        left_out += step.left_out;
    }
    assert_eq!(made, 10_001);
    // Every slot is accounted for: with both ends, and the bars of the minute before the delay.
    assert_eq!(made + left_out, 10_000 * 86_400 + 1 - 5_001);
    assert!(market.next_due() > now);
}

#[test]
fn any_size_of_market_works() {
    for (symbols, messages_per_second) in [(0, 0), (1, 50), (2, 50), (100, 2_000), (usize::MAX, 100)] {
        let mut market = market(MarketConfig { symbols, seed: 1, messages_per_second });
        let mut count = 0;
        let mut left_out = 0;
        for second in 0..=130 {
            let step = market.step(START + second * SECOND_NS);
            left_out += step.left_out;
            for message in messages(step.actions) {
                topic_and_facts(&message);
                count += 1;
            }
        }
        assert_eq!(count, u64::from(messages_per_second.max(1)) * 130 + 1);
        // Ten thousand bars do not fit a minute of a hundred messages a second, and that is said.
        assert_eq!(left_out > 0, symbols == usize::MAX, "{symbols}");
    }
}

#[test]
fn ends_of_time_do_not_panic() {
    for start in [i64::MIN, i64::MAX - 1, 0] {
        let mut market = Market::new(MarketConfig::default(), start);
        for now in [i64::MIN, 0, start, i64::MAX, i64::MAX] {
            market.step(now);
        }
    }
}

#[test]
fn a_new_day_starts_with_the_close_of_the_day_before() {
    let midnight = (START / (1_440 * MINUTE_NS) + 1) * 1_440 * MINUTE_NS;
    let start = midnight - 5 * SECOND_NS;
    let mut market = Market::new(MarketConfig::default(), start);
    let mut close = HashMap::new();
    let mut checked = 0;
    for tenth in 0..100 {
        for message in messages(market.step(start + tenth * SECOND_NS / 10).actions) {
            match message {
                Message::MarketData(tick) if tick.ts.0 >= midnight => {
                    if let Some(price) = close.get(&tick.symbol) {
                        assert_eq!(tick.prev_close, Some(*price));
                        checked += 1;
                    }
                }
                Message::PublicTrade(trade) if trade.ts.0 < midnight => {
                    close.insert(trade.symbol, trade.price);
                }
                _ => {}
            }
        }
    }
    assert!(checked > 100);
}
