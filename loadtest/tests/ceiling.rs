//! The generator against the bare server, both in this process: counts must agree, times are not looked at.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tickcast_loadtest::ceiling::{Ceiling, Counts, Mode, Options};
use tickcast_loadtest::format::Format;
use tickcast_loadtest::plan::{Pace, Plan};
use tickcast_loadtest::results::Repetition;
use tickcast_loadtest::run::{self, Target};
use tickcast_loadtest::template::Kind;

/// A ceiling on a thread of its own.
struct Running {
    address: SocketAddr,
    stop: UnixStream,
    thread: JoinHandle<Counts>,
}

impl Running {
    fn start(mode: Mode) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let ceiling = Ceiling::bind(Options { listen, mode, json_bytes: 300, talk: false }).unwrap();
        let address = ceiling.address().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || ceiling.run(Some(&stopped)).unwrap());
        Self { address, stop, thread }
    }

    fn measure(&self, plan: &Plan) -> Repetition {
        plan.check().unwrap();
        let target = Target { address: self.address, process: None, label: "bare".to_owned() };
        run::repetition(plan, &target, &mut |_| {}).unwrap().repetition
    }

    fn stop(self) -> Counts {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

fn plan(pace: Pace) -> Plan {
    Plan {
        pace,
        formats: vec![(Format::Binary, 20)],
        measure: Duration::from_millis(300),
        warm_up: Duration::from_millis(100),
        ..Plan::named("custom").unwrap()
    }
}

fn assert_complete(found: &Repetition) {
    assert!(found.published > 0);
    assert_eq!(found.delivered, found.expected);
    assert_eq!((found.lost, found.duplicated, found.gaps_told, found.disconnected), (0, 0, 0, 0));
    let felt = found.as_felt.as_ref().unwrap();
    assert_eq!(felt.count, found.delivered);
    assert_eq!(felt.buckets.iter().map(|(_, count)| count).sum::<u64>(), found.delivered);
    assert_eq!(found.last_subscriber.as_ref().unwrap().count, found.published);
    assert_eq!(found.seconds.iter().map(|second| second.delivered).sum::<u64>(), found.delivered);
}

#[test]
fn an_open_loop_arrives_whole_in_both_modes() {
    for mode in [Mode::Single, Mode::Coalesced] {
        let ceiling = Running::start(mode);
        let found = ceiling.measure(&plan(Pace::Rate(1_000.0)));
        assert_complete(&found);
        assert_eq!(found.published, 300);
        assert_eq!(found.expected, 300 * 20);
        assert_eq!(found.target, mode.target());
        // 128 bytes and the head of a WebSocket frame of that length.
        assert_eq!(found.wire_bytes, found.delivered * 132);
        let counts = ceiling.stop();
        assert_eq!((counts.messages, counts.dropped), (400 * 20, 0));
    }
}

#[test]
fn a_single_send_has_one_message_and_a_coalesced_one_all_of_a_burst() {
    let burst = plan(Pace::Bursts(50, Duration::from_millis(100)));
    let ceiling = Running::start(Mode::Single);
    let found = ceiling.measure(&burst);
    assert_complete(&found);
    let sends = found.sends.unwrap();
    assert_eq!((sends.sends, sends.messages), (found.delivered, found.delivered));
    ceiling.stop();

    let ceiling = Running::start(Mode::Coalesced);
    let found = ceiling.measure(&burst);
    assert_complete(&found);
    let sends = found.sends.unwrap();
    assert_eq!(sends.messages, found.delivered);
    assert!(sends.messages_per_send > 1.0, "{sends:?}");
    ceiling.stop();
}

#[test]
fn a_closed_loop_never_has_more_in_flight_than_its_window() {
    let ceiling = Running::start(Mode::Coalesced);
    let found = ceiling.measure(&plan(Pace::Window(8)));
    assert_complete(&found);
    assert_eq!(found.offered_per_s, None);
    assert!(found.sends.unwrap().messages_per_send <= 8.0);
    ceiling.stop();
}

#[test]
fn alerts_beside_a_closed_loop_all_arrive_and_every_account_is_whole() {
    for mode in [Mode::Single, Mode::Coalesced] {
        let ceiling = Running::start(mode);
        let every = Some(Duration::from_millis(10));
        let plan = Plan { alert_every: every, accounts: true, ..plan(Pace::Window(8)) };
        // The second run finds streams that have sequences already.
        for _ in 0..2 {
            let found = ceiling.measure(&plan);
            assert_complete(&found);
            let alerts = found.alerts.as_ref().unwrap();
            assert_eq!((alerts.published, alerts.expected, alerts.delivered), (30, 600, 600));
            assert_eq!((alerts.lost, alerts.duplicated), (0, 0));
            assert_eq!(alerts.as_felt.as_ref().unwrap().count, 600);
            assert_eq!(alerts.last_subscriber.as_ref().unwrap().count, 30);
            let account = found.account.unwrap();
            assert!(account.is_whole(), "{account:?}");
            // Those of the warm-up as well.
            assert!(account.received > found.deliveries());
        }
        ceiling.stop();
    }
}

#[test]
fn an_open_loop_that_ends_early_still_publishes_its_last_alerts() {
    let ceiling = Running::start(Mode::Coalesced);
    let every = Some(Duration::from_millis(7));
    let found = ceiling.measure(&Plan { alert_every: every, ..plan(Pace::Rate(10.0)) });
    assert_complete(&found);
    // Messages at 0, 100 and 200 of 300 ms; alerts up to 294 ms.
    assert_eq!((found.published, found.alerts.unwrap().delivered), (3, 43 * 20));
    assert_eq!(found.account, None);
    ceiling.stop();
}

#[test]
fn every_topic_of_every_subscriber_is_accounted_for() {
    let ceiling = Running::start(Mode::Coalesced);
    let sparse = Plan { topics: 50, per_subscriber: 10, accounts: true, ..plan(Pace::Rate(5_000.0)) };
    let found = ceiling.measure(&sparse);
    assert_complete(&found);
    let account = found.account.unwrap();
    assert!(account.is_whole(), "{account:?}");
    assert_eq!(account.published, 4 * 2_000, "warm-up and measurement, four subscribers a topic");
    ceiling.stop();
}

#[test]
fn many_topics_reach_each_of_their_subscribers_once() {
    for mode in [Mode::Single, Mode::Coalesced] {
        let ceiling = Running::start(mode);
        let sparse = Plan { topics: 50, per_subscriber: 10, publishers: 3, ..plan(Pace::Rate(5_000.0)) };
        let found = ceiling.measure(&sparse);
        assert_complete(&found);
        // 20 subscribers with ten of fifty topics each: four for each topic.
        assert_eq!(found.expected, found.published * 4);
        ceiling.stop();
    }
}

#[test]
fn dashboards_are_sent_text_of_the_size_asked_for() {
    let ceiling = Running::start(Mode::Coalesced);
    let formats = vec![(Format::Binary, 5), (Format::D1Snake, 5), (Format::D1Camel, 5)];
    let found = ceiling.measure(&Plan { formats, ..plan(Pace::Rate(500.0)) });
    assert_complete(&found);
    assert_eq!(found.by_format.len(), 3);
    for format in &found.by_format {
        let bytes = if format.format == "binary" { 132.0 } else { 300.0 };
        assert_eq!(format.bytes_per_delivery, bytes, "{}", format.format);
        assert_eq!(format.delivered, found.published * 5);
    }
    ceiling.stop();
}

#[test]
fn those_who_never_read_cost_the_others_nothing() {
    let ceiling = Running::start(Mode::Coalesced);
    let slow = Plan { slow: 3, frame_bytes: 4_096, kind: Kind::AnalyticsUpdate, ..plan(Pace::Rate(2_000.0)) };
    let found = ceiling.measure(&slow);
    assert_complete(&found);
    let readers = found.slow.unwrap();
    assert_eq!((readers.count, readers.disconnected), (3, 0));
    assert!(readers.p99_ratio.is_some());
    assert!(ceiling.stop().dropped > 0);
}

#[test]
fn connections_that_come_and_go_are_counted() {
    let ceiling = Running::start(Mode::Coalesced);
    let knock = Plan {
        connects: 8,
        measure: Duration::from_millis(200),
        warm_up: Duration::ZERO,
        ..Plan::named("connect").unwrap()
    };
    let connects = ceiling.measure(&knock).connects.unwrap();
    assert!(connects.upgrades > 8);
    assert_eq!(connects.failed, 0);
    assert_eq!(connects.time.unwrap().count, connects.upgrades);

    let churn = Plan { shape: Plan::named("churn").unwrap().shape, connects: 100, ..plan(Pace::Rate(500.0)) };
    let found = ceiling.measure(&churn);
    assert_complete(&found);
    let connects = found.connects.unwrap();
    assert!(connects.upgrades >= 25, "{connects:?}");
    assert_eq!(connects.failed, 0);
    assert!(ceiling.stop().upgrades >= connects.upgrades);
}

#[test]
fn idle_connections_are_held_and_dropped() {
    let ceiling = Running::start(Mode::Single);
    let idle = Plan {
        formats: vec![(Format::Binary, 50)],
        measure: Duration::from_millis(100),
        ..Plan::named("idle").unwrap()
    };
    let found = ceiling.measure(&idle);
    assert_eq!(found.connects.unwrap().upgrades, 50);
    assert_eq!((found.published, found.delivered, found.disconnected), (0, 0, 0));
    ceiling.stop();
}

#[test]
fn a_server_that_is_not_there_is_said_so() {
    let target = Target { address: ([127, 0, 0, 1], 1).into(), process: None, label: "nobody".to_owned() };
    let error = run::repetition(&plan(Pace::Rate(100.0)), &target, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("connection 1 of 21 failed"), "{error}");
}
