//! The core against a scripted server, on a clock that the test owns.

use bytes::Bytes;
use proptest::prelude::*;
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::Frames;
use tickcast_protocol::message::{
    Acknowledge, Begin, Bind, Binding, Bracket, ClassName, Durability, End, Error, Head, Heartbeat, Notice,
    NoticeKind, Policy, Pong, PublishStatus, Published, Reason, Start, SubscriptionStatus, Welcome,
};
use tickcast_protocol::{ErrorCode, TopicFilter, codec, registry};

use super::*;

mod durable;
mod states;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const TOPIC: &str = "market_data.BTC";

/// A core, what its server says, and a clock.
struct Script {
    core: Core,
    now: u64,
}

fn options() -> CoreOptions {
    CoreOptions { role: Role::BOTH, name: "test".into(), seed: 7, ..CoreOptions::default() }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).unwrap()
}

fn tick() -> Message {
    Message::sample(registry::by_name("market_data").unwrap(), false)
}

fn binding(stream: u32, topic: &str, next_sequence: u64) -> Binding {
    Binding { stream, topic: topic.into(), class: ClassName::LATEST, next_sequence }
}

fn notice(kind: NoticeKind, stream: u32, from: u64, through: u64) -> Notice {
    Notice {
        kind,
        subscription: 1,
        stream,
        from,
        through,
        conflated: 0,
        gapped: 0,
        filtered: 0,
        reason: Reason::NONE,
        reconnect_in_ms: 0,
    }
}

fn data_frame(stream: u32, sequence: u64) -> Vec<u8> {
    let (payload, mut header) = frame::payload(&tick());
    (header.stream, header.sequence, header.publish_time) = (stream, sequence, 1);
    [&header.to_bytes()[..], &payload].concat()
}

fn refusal(request: u64, code: ErrorCode, retryable: bool) -> Error {
    Error {
        request,
        code: code.number(),
        message: "no".into(),
        field: String::new(),
        retryable,
        retry_after_ms: 0,
    }
}

impl Script {
    fn new() -> Self {
        let mut script = Self { core: Core::new(options()), now: 1_000 * SECOND };
        script.core.connect(script.now);
        assert_eq!(script.core.poll_link(), Some(Link::Dial));
        script
    }

    /// Connected and welcomed.
    fn open() -> Self {
        let mut script = Self::new();
        script.accept(1, 1);
        script.events();
        script
    }

    /// With one live subscription of one stream, whose next event is 1.
    fn live() -> (Self, SubscriptionKey) {
        let mut script = Self::open();
        let key = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
        let request = script.request();
        script.acknowledge(request, 1, 1);
        script.bind(1, vec![binding(5, TOPIC, 1)]);
        script.events();
        (script, key)
    }

    fn accept(&mut self, boot_id: u64, epoch: u64) {
        self.core.connected(self.now);
        let hello = self.heard();
        assert!(matches!(&hello[..], [Message::Hello(hello)] if hello.name == "test"), "{hello:?}");
        self.say(&[Welcome {
            boot_id,
            epoch,
            connection: 1,
            server: "script".into(),
            heartbeat_ms: 1_000,
            frame_bytes_max: 4_096,
            subscriptions_max: 10,
            server_time: Timestamp(0),
            codecs: 0,
        }
        .into()]);
    }

    fn say(&mut self, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| frame::append(message, &mut bytes));
        self.core.received(bytes, self.now);
    }

    fn data(&mut self, stream: u32, sequences: std::ops::RangeInclusive<u64>) {
        let bytes: Vec<u8> = sequences.flat_map(|sequence| data_frame(stream, sequence)).collect();
        self.core.received(bytes, self.now);
    }

    fn heard(&mut self) -> Vec<Message> {
        let mut heard = Vec::new();
        while let Some(bytes) = self.core.poll_transmit(self.now) {
            for frame in Frames::new(&bytes, frame::PAYLOAD_BYTES_MAX) {
                heard.push(frame.unwrap().view().unwrap().to_owned());
            }
        }
        heard
    }

    /// The number of the one subscribe or resume that was said.
    fn request(&mut self) -> u64 {
        match &self.heard()[..] {
            [Message::Subscribe(subscribe)] => subscribe.request,
            [Message::Resume(resume)] => resume.request,
            other => panic!("not one request: {other:?}"),
        }
    }

    fn acknowledge(&mut self, request: u64, subscription: u32, epoch: u64) {
        let status = SubscriptionStatus::SUBSCRIBED;
        self.say(&[Acknowledge { request, subscription, status, epoch, streams: 1 }.into()]);
    }

    fn bind(&mut self, subscription: u32, bindings: Vec<Binding>) {
        self.say(&[Bind { subscription, bindings }.into()]);
    }

    fn beat(&mut self, heads: &[(u32, u64)]) {
        let heads =
            heads.iter().map(|(stream, sequence)| Head { stream: *stream, sequence: *sequence, through: 0 });
        self.say(&[Heartbeat { server_time: Timestamp(0), heads: heads.collect() }.into()]);
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        self.core.tick(self.now);
    }

    /// Lets time pass until the core dials, and says how long it waited.
    fn until_dial(&mut self) -> u64 {
        let start = self.now;
        loop {
            match self.core.poll_link() {
                Some(Link::Dial) => return self.now - start,
                Some(Link::HangUp(_)) => {}
                None => {
                    self.now = self.core.poll_timeout().expect("it will try again").max(self.now);
                    self.core.tick(self.now);
                }
            }
        }
    }

    fn close(&mut self, code: u16) {
        self.core.closed(Close::new(code, ""), self.now);
    }

    fn events(&mut self) -> Vec<ClientEvent> {
        std::iter::from_fn(|| self.core.poll_event()).collect()
    }

    fn gaps(&mut self) -> Vec<Gap> {
        let gaps = self.events().into_iter().filter_map(|event| match event {
            ClientEvent::Gap(gap) => Some(gap),
            _ => None,
        });
        gaps.collect()
    }

    fn sequences(&mut self) -> Vec<u64> {
        let data = self.events().into_iter().filter_map(|event| match event {
            ClientEvent::Data(data) => Some(data.sequence()),
            _ => None,
        });
        data.collect()
    }

    /// The words of every staleness event: `stale BTC`, `fresh *`.
    fn staleness(&mut self) -> Vec<String> {
        let name = |topic: &Option<tickcast_protocol::Topic>| {
            topic.as_ref().map_or("*".to_owned(), |topic| topic.key().to_owned())
        };
        let words = self.events().into_iter().filter_map(|event| match event {
            ClientEvent::Stale { topic, .. } => Some(format!("stale {}", name(&topic))),
            ClientEvent::Fresh { topic, .. } => Some(format!("fresh {}", name(&topic))),
            _ => None,
        });
        words.collect()
    }
}

// ---------------------------------------------------------------------------------------------
// Subscriptions and accounts

#[test]
fn a_subscription_goes_from_asked_to_live_and_its_events_arrive() {
    let mut script = Script::new();
    let key = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    script.accept(1, 1);
    let request = script.request();
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Subscribing);
    script.acknowledge(request, 9, 1);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Live);
    script.bind(9, vec![binding(5, TOPIC, 41)]);
    script.events();
    script.data(5, 41..=43);
    let events = script.events();
    let [ClientEvent::Data(first), _, _] = &events[..] else { panic!("{events:?}") };
    assert_eq!((first.subscription, first.topic.as_str(), first.sequence()), (key, TOPIC, 41));
    assert_eq!((first.class, first.origin), (tickcast_protocol::Class::Latest, Origin::Live));
    assert_eq!(first.message().unwrap(), tick());
    let account = script.core.account(key, TOPIC);
    assert_eq!((account.published, account.received, account.balances()), (3, 3, true));
}

#[test]
fn a_told_gap_is_explained_and_the_account_balances() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=2);
    let loss =
        Notice { conflated: 3, gapped: 1, reason: Reason::OUTBOX_FULL, ..notice(NoticeKind::LOSS, 5, 3, 6) };
    script.say(&[loss.into()]);
    script.data(5, 7..=7);
    let gaps = script.gaps();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].from, gaps[0].through, gaps[0].gapped, gaps[0].conflated), (3, 6, 1, 3));
    assert_eq!(gaps[0].reason, GapReason::OutboxFull);
    assert_eq!(gaps[0].to_string(), "market_data.BTC seq 3 to 6: 1 lost, 3 conflated (outbox_full)");
    let expected = Account { published: 7, received: 3, conflated: 3, gapped: 1, filtered: 0 };
    assert_eq!(script.core.account(key, TOPIC), expected);
    assert!(expected.balances());
    assert_eq!(script.core.stats().unexplained, 0);
}

#[test]
fn a_jump_without_a_notice_is_reported_as_unexplained() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=1);
    script.data(5, 4..=4);
    let gaps = script.gaps();
    assert_eq!((gaps[0].from, gaps[0].through, gaps[0].gapped), (2, 3, 2));
    assert_eq!(gaps[0].reason, GapReason::Unexplained);
    assert_eq!(script.core.stats().unexplained, 2);
    assert!(script.core.account(key, TOPIC).balances());
}

#[test]
fn heads_show_what_is_still_on_its_way() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=2);
    script.beat(&[(5, 4)]);
    assert_eq!(script.core.account(key, TOPIC).pending(), 2);
    script.data(5, 3..=4);
    assert!(script.core.account(key, TOPIC).balances());
}

#[test]
fn filtered_events_are_counted_without_a_gap() {
    let (mut script, key) = Script::live();
    script.say(&[Notice { filtered: 4, ..notice(NoticeKind::COUNTS, 5, 1, 4) }.into()]);
    script.data(5, 5..=5);
    assert_eq!(script.gaps(), []);
    assert_eq!(script.core.account(key, TOPIC).filtered, 4);
    assert!(script.core.account(key, TOPIC).balances());
    // Sums over a subscription concern no stream.
    script.say(&[Notice { conflated: 9, ..notice(NoticeKind::COUNTS, 0, 0, 0) }.into()]);
    assert_eq!(script.core.stats().ignored, 0);
}

#[test]
fn an_upstream_gap_is_told_with_or_without_sequences_of_its_own() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=1);
    let gap = Notice { gapped: 3, reason: Reason::UPSTREAM, ..notice(NoticeKind::UPSTREAM_GAP, 5, 0, 1) };
    script.say(&[gap.clone().into()]);
    script.data(5, 2..=2);
    script.say(&[Notice { from: 3, through: 5, ..gap }.into()]);
    script.data(5, 6..=6);
    let gaps = script.gaps();
    assert_eq!(gaps.len(), 2);
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::Upstream && gap.gapped == 3), "{gaps:?}");
    let account = script.core.account(key, TOPIC);
    assert_eq!((account.published, account.received, account.gapped), (6, 3, 3));
    assert_eq!((script.core.stats().upstream_gaps, script.core.stats().unexplained), (6, 0));
}

#[test]
fn a_snapshot_is_delivered_and_not_counted() {
    let mut script = Script::open();
    let options = SubscribeOptions { start: Start::SNAPSHOT, ..SubscribeOptions::default() };
    let key = script.core.subscribe(filter("market_data.*"), options);
    let heard = script.heard();
    assert!(matches!(&heard[..], [Message::Subscribe(asked)] if asked.start == Start::SNAPSHOT));
    let Message::Subscribe(asked) = &heard[0] else { unreachable!() };
    script.acknowledge(asked.request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 11)]);
    script.say(&[Begin { subscription: 1, bracket: Bracket::SNAPSHOT, events: 1 }.into()]);
    script.data(5, 10..=10);
    script.say(&[End { subscription: 1, bracket: Bracket::SNAPSHOT }.into()]);
    script.data(5, 11..=11);
    let origins: Vec<_> = script
        .events()
        .into_iter()
        .filter_map(|event| match event {
            ClientEvent::Data(data) => Some((data.sequence(), data.origin)),
            _ => None,
        })
        .collect();
    assert_eq!(origins, [(10, Origin::Snapshot), (11, Origin::Live)]);
    let account = script.core.account(key, TOPIC);
    assert_eq!((account.published, account.received), (1, 1));
}

#[test]
fn an_event_of_two_subscriptions_counts_for_both() {
    let (mut script, first) = Script::live();
    script.data(5, 1..=3);
    let second = script.core.subscribe(filter(TOPIC), SubscribeOptions::default());
    let request = script.request();
    script.acknowledge(request, 2, 1);
    // The bind overtakes event 4, which waits in the outbox.
    script.bind(2, vec![binding(5, TOPIC, 5)]);
    script.data(5, 4..=6);
    // One notice, in the name of one of them: what is lost of the flow is lost for both.
    script.say(&[Notice { gapped: 2, ..notice(NoticeKind::LOSS, 5, 7, 8) }.into()]);
    script.data(5, 9..=9);
    let account = |script: &Script, key| script.core.account(key, TOPIC);
    assert_eq!((account(&script, first).received, account(&script, first).gapped), (7, 2));
    assert_eq!((account(&script, second).received, account(&script, second).gapped), (3, 2));
    assert!(account(&script, first).balances() && account(&script, second).balances());
    assert_eq!((script.core.stats().unexplained, script.core.stats().repeats), (0, 0));
}

#[test]
fn two_subscriptions_that_are_one_to_the_server_end_with_the_last() {
    let (mut script, first) = Script::live();
    let second = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    let request = script.request();
    script.acknowledge(request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 1)]);
    script.data(5, 1..=1);
    assert_eq!(script.core.account(first, TOPIC).received + script.core.account(second, TOPIC).received, 2);
    script.core.unsubscribe(first);
    assert_eq!(script.heard(), []);
    script.core.unsubscribe(second);
    assert!(matches!(&script.heard()[..], [Message::Unsubscribe(asked)] if asked.subscription == 1));
    assert_eq!(script.core.totals().received, 2);
    assert!(script.core.totals().balances());
}

#[test]
fn an_unsubscribe_before_the_answer_is_said_after_it() {
    let mut script = Script::open();
    let key = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    let request = script.request();
    script.core.unsubscribe(key);
    script.acknowledge(request, 3, 1);
    assert!(matches!(&script.heard()[..], [Message::Unsubscribe(asked)] if asked.subscription == 3));
}

#[test]
fn a_refused_subscription_says_why_and_is_given_up() {
    let mut script = Script::open();
    let key = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    let request = script.request();
    script.say(&[refusal(request, ErrorCode::Forbidden, false).into()]);
    let events = script.events();
    let error = events.iter().find_map(|event| match event {
        ClientEvent::ServerError(error) => Some(error.clone()),
        _ => None,
    });
    assert_eq!(error.unwrap().subscription, Some(key));
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Unsubscribed);
}

#[test]
fn a_busy_server_is_asked_again() {
    let mut script = Script::open();
    script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    let request = script.request();
    script.say(&[refusal(request, ErrorCode::Unavailable, true).into()]);
    assert_eq!(script.heard(), []);
    script.pass(999 * MS);
    assert_eq!(script.heard(), []);
    script.pass(MS);
    assert!(matches!(&script.heard()[..], [Message::Subscribe(_)]));
}

#[test]
fn a_policy_is_changed_in_place_and_kept() {
    let (mut script, key) = Script::live();
    script.core.configure(key, Delivery { policy: Policy::CONFLATE, ..Delivery::default() });
    assert!(matches!(&script.heard()[..], [Message::Configure(asked)] if asked.policy == Policy::CONFLATE));
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    assert!(matches!(&script.heard()[..], [Message::Resume(asked)] if asked.policy == Policy::CONFLATE));
}

#[test]
fn streams_that_nobody_announced_and_streams_of_a_newer_server_are_counted() {
    let (mut script, _) = Script::live();
    script.data(77, 1..=2);
    let violations = script.events().len();
    assert_eq!((violations, script.core.stats().unbound), (1, 2));
    script.bind(1, vec![binding(6, "hologram.BTC", 1)]);
    script.data(6, 1..=2);
    assert!(matches!(&script.events()[..], [ClientEvent::Violation(Violation::Foreign { stream: 6, .. })]));
    assert_eq!(script.core.stats().skipped, 2);
}

#[test]
fn streams_are_bounded_and_forgotten_ones_make_room() {
    let mut script = Script::new();
    script.core = Core::new(CoreOptions { streams_max: 2, ..options() });
    script.core.connect(script.now);
    script.core.poll_link();
    script.accept(1, 1);
    let key = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    let request = script.request();
    script.acknowledge(request, 1, 1);
    let bind = |stream: u32| binding(stream, &format!("market_data.S{stream}"), 1);
    script.bind(1, vec![bind(1), bind(2), bind(3)]);
    assert!(
        script
            .events()
            .iter()
            .any(|event| { matches!(event, ClientEvent::Violation(Violation::TooManyStreams(2))) })
    );
    script.core.unsubscribe(key);
    script.heard();
    script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    let request = script.request();
    script.acknowledge(request, 2, 1);
    script.bind(2, vec![bind(4)]);
    script.events();
    script.data(4, 1..=1);
    assert_eq!(script.sequences(), [1]);
}

// ---------------------------------------------------------------------------------------------
// Coming back

#[test]
fn streams_born_while_away_are_asked_for_from_their_beginning() {
    let mut script = Script::open();
    script.core.subscribe(filter("alert.*"), SubscribeOptions::default());
    let request = script.request();
    // Nothing matches yet, so there is no position to keep.
    script.acknowledge(request, 1, 1);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    assert!(matches!(&script.heard()[..], [Message::Resume(resume)] if resume.positions.is_empty()));
    // Of another epoch nothing is known: it begins anew.
    script.close(1006);
    script.until_dial();
    script.accept(2, 2);
    assert!(matches!(&script.heard()[..], [Message::Subscribe(_)]));
}

#[test]
fn the_same_epoch_is_resumed_and_the_replay_heals_the_gap() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=4);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let heard = script.heard();
    let [Message::Resume(resume)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((resume.epoch, resume.filter.as_str()), (1, "market_data.*"));
    assert_eq!((resume.positions[0].topic.as_str(), resume.positions[0].sequence), (TOPIC, 4));
    script.acknowledge(resume.request, 3, 1);
    script.bind(3, vec![binding(5, TOPIC, 5)]);
    script.say(&[Begin { subscription: 3, bracket: Bracket::REPLAY, events: 2 }.into()]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Recovering);
    script.data(5, 5..=6);
    script.say(&[End { subscription: 3, bracket: Bracket::REPLAY }.into()]);
    script.data(5, 7..=7);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Live);
    let gaps = script.gaps();
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0].healed && !gaps[0].is_loss());
    assert_eq!((gaps[0].from, gaps[0].through, gaps[0].reason), (5, 6, GapReason::Reconnect));
    let expected = Account { published: 7, received: 7, ..Account::default() };
    assert_eq!(script.core.account(key, TOPIC), expected);
}

#[test]
fn what_history_no_longer_has_is_a_told_gap() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=4);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let request = script.request();
    script.acknowledge(request, 3, 1);
    script.bind(3, vec![binding(5, TOPIC, 5)]);
    script.say(&[
        Begin { subscription: 3, bracket: Bracket::REPLAY, events: 1 }.into(),
        Notice {
            subscription: 3,
            gapped: 5,
            reason: Reason::HISTORY_GONE,
            ..notice(NoticeKind::LOSS, 5, 5, 9)
        }
        .into(),
    ]);
    script.data(5, 10..=10);
    script.say(&[End { subscription: 3, bracket: Bracket::REPLAY }.into()]);
    let gaps = script.gaps();
    assert_eq!((gaps[0].from, gaps[0].through, gaps[0].healed), (5, 9, false));
    assert_eq!((gaps[1].from, gaps[1].through, gaps[1].healed), (10, 10, true));
    let account = script.core.account(key, TOPIC);
    assert_eq!((account.received, account.gapped, account.balances()), (5, 5, true));
}

#[test]
fn a_bind_further_on_than_we_were_is_a_gap() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=4);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let request = script.request();
    script.acknowledge(request, 3, 1);
    // Also one that was born while we were away.
    script.bind(3, vec![binding(5, TOPIC, 8), binding(6, "market_data.ETH", 3)]);
    let gaps = script.gaps();
    assert_eq!(gaps.len(), 2);
    assert_eq!((gaps[0].from, gaps[0].through, gaps[0].gapped), (5, 7, 3));
    assert_eq!((gaps[1].from, gaps[1].through, gaps[1].gapped), (1, 2, 2));
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::HistoryGone));
    assert!(script.core.account(key, TOPIC).balances());
    script.data(5, 8..=8);
    assert_eq!(script.core.stats().unexplained, 0);
}

#[test]
fn events_that_a_resume_repeats_are_dropped() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=4);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let request = script.request();
    script.acknowledge(request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 1)]);
    script.events();
    script.say(&[Begin { subscription: 1, bracket: Bracket::REPLAY, events: 6 }.into()]);
    script.data(5, 1..=6);
    script.say(&[End { subscription: 1, bracket: Bracket::REPLAY }.into()]);
    assert_eq!(script.sequences(), [5, 6]);
    assert_eq!(script.core.stats().repeats, 4);
    assert!(script.core.account(key, TOPIC).balances());
}

#[test]
fn subscriptions_of_one_stream_come_back_together() {
    let (mut script, first) = Script::live();
    let second = script.core.subscribe(filter(TOPIC), SubscribeOptions::default());
    let request = script.request();
    script.acknowledge(request, 2, 1);
    script.bind(2, vec![binding(5, TOPIC, 1)]);
    script.data(5, 1..=4);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let heard = script.heard();
    let [Message::Resume(one), Message::Resume(two)] = &heard[..] else { panic!("{heard:?}") };
    let (one, two) = (one.request, two.request);
    // The server replays the stream once, for the first; to the second it flows already.
    script.acknowledge(one, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 5)]);
    script.say(&[Begin { subscription: 1, bracket: Bracket::REPLAY, events: 2 }.into()]);
    script.data(5, 5..=5);
    script.acknowledge(two, 2, 1);
    script.bind(2, vec![binding(5, TOPIC, 7)]);
    script.data(5, 6..=6);
    script.say(&[End { subscription: 1, bracket: Bracket::REPLAY }.into()]);
    script.data(5, 7..=7);
    assert!(script.gaps().iter().all(|gap| gap.healed));
    for key in [first, second] {
        let account = script.core.account(key, TOPIC);
        assert_eq!((account.received, account.balances()), (7, true), "{account:?}");
    }
    assert_eq!(script.core.stats().unexplained, 0);
}

#[test]
fn another_epoch_is_a_gap_and_a_new_account() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=4);
    script.beat(&[(5, 6)]);
    script.close(1006);
    script.until_dial();
    script.accept(2, 2);
    let gaps = script.gaps();
    assert_eq!((gaps[0].from, gaps[0].through, gaps[0].gapped), (5, 0, 2));
    assert!(gaps[0].is_loss() && gaps[0].reason == GapReason::EpochChanged);
    let heard = script.heard();
    let [Message::Subscribe(asked)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(asked.start, Start::SNAPSHOT);
    script.acknowledge(asked.request, 1, 2);
    // Ids of another run mean other streams.
    script.bind(1, vec![binding(9, TOPIC, 1)]);
    script.data(5, 1..=1);
    assert_eq!(script.core.stats().unbound, 1);
    script.data(9, 1..=2);
    assert_eq!(script.core.account(key, TOPIC).received, 2);
    let totals = script.core.totals();
    assert_eq!((totals.published, totals.received, totals.gapped), (8, 6, 2));
    assert!(totals.balances());
}

#[test]
fn a_refused_resume_becomes_a_subscribe() {
    let (mut script, _) = Script::live();
    script.data(5, 1..=4);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let request = script.request();
    script.say(&[refusal(request, ErrorCode::ResumeFailed, false).into()]);
    let heard = script.heard();
    assert!(matches!(&heard[..], [Message::Subscribe(asked)] if asked.start == Start::SNAPSHOT), "{heard:?}");
    let Message::Subscribe(asked) = &heard[0] else { unreachable!() };
    script.acknowledge(asked.request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 2)]);
    let gaps = script.gaps();
    assert_eq!((gaps.len(), gaps[0].reason), (1, GapReason::EpochChanged));
    script.data(5, 2..=2);
    assert_eq!(script.sequences(), [2]);
    assert!(script.core.totals().balances());
}

#[test]
fn a_replay_from_further_back_than_we_were_counts_nothing_twice() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=3);
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let request = script.request();
    script.events();
    // As if the position had found no place in the frame: from the beginning, of which some is gone.
    script.acknowledge(request, 1, 1);
    script.bind(1, vec![binding(5, TOPIC, 1)]);
    let gone = Notice { gapped: 5, reason: Reason::HISTORY_GONE, ..notice(NoticeKind::LOSS, 5, 1, 5) };
    script.say(&[Begin { subscription: 1, bracket: Bracket::REPLAY, events: 2 }.into(), gone.into()]);
    script.data(5, 6..=7);
    script.say(&[End { subscription: 1, bracket: Bracket::REPLAY }.into()]);
    let account = script.core.account(key, TOPIC);
    assert_eq!((account.received, account.gapped, account.published), (5, 2, 7));
    assert_eq!(script.core.stats().unexplained, 0);
}

#[test]
fn positions_fit_into_the_servers_frame() {
    let (mut script, _) = Script::live();
    let topic = |stream: u32| format!("market_data.{}{stream}", "x".repeat(80));
    script.bind(1, (10..200).map(|stream| binding(stream, &topic(stream), 1)).collect());
    script.close(4004);
    script.until_dial();
    script.accept(1, 1);
    assert!(matches!(&script.heard()[..], [Message::Subscribe(_)]), "a failed resume is not repeated");
    script.close(1006);
    script.until_dial();
    script.core.connected(script.now);
    script.heard();
    script.close(1006);
    script.until_dial();
    let (mut script, _) = Script::live();
    script.bind(1, (10..200).map(|stream| binding(stream, &topic(stream), 1)).collect());
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    let bytes = script.core.poll_transmit(script.now).unwrap();
    assert!((3_000..=4_096).contains(&bytes.len()), "{}", bytes.len());
}

#[test]
fn the_first_retry_is_immediate_and_the_next_are_jittered() {
    let mut script = Script::new();
    script.close(1006);
    assert_eq!(script.until_dial(), 0);
    let mut waits = Vec::new();
    for _ in 0..40 {
        script.close(1006);
        waits.push(script.until_dial());
    }
    assert!(waits[0] <= SECOND / 2 && waits.iter().all(|wait| *wait <= 20 * SECOND), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > 10 * SECOND));
    assert_eq!(script.core.state(), ClientState::Connecting { attempt: 42 });
}

#[test]
fn only_a_stable_connection_starts_the_backoff_anew() {
    let mut script = Script::new();
    script.close(1006);
    script.until_dial();
    script.accept(1, 1);
    script.now += 9 * SECOND;
    script.close(1006);
    script.events();
    assert_eq!(script.core.state(), ClientState::Connecting { attempt: 3 });
    script.until_dial();
    script.accept(1, 1);
    script.now += 10 * SECOND;
    script.close(1006);
    assert_eq!((script.core.state(), script.until_dial()), (ClientState::Connecting { attempt: 2 }, 0));
}

#[test]
fn close_codes_say_whether_to_come_back() {
    for (code, returns) in
        [(1000, false), (1001, true), (1006, true), (1011, true), (1012, true), (4003, true), (4099, true)]
            .into_iter()
            .chain([(4500, false), (4501, false), (4999, false), (1005, true)])
    {
        let (mut script, key) = Script::live();
        script.close(code);
        let changes: Vec<_> = script
            .events()
            .into_iter()
            .filter_map(|event| match event {
                ClientEvent::State(change) => Some(change),
                _ => None,
            })
            .collect();
        assert_eq!(changes.len(), 1, "{code}");
        assert_eq!(
            (changes[0].will_retry, changes[0].next_attempt_at.is_some()),
            (returns, returns),
            "{code}"
        );
        assert_eq!(changes[0].close.as_ref().unwrap().code, code);
        let wanted = if returns { SubscriptionState::Subscribing } else { SubscriptionState::Unsubscribed };
        assert_eq!(script.core.subscription_state(key), wanted);
        assert_eq!(script.core.poll_link() == Some(Link::Dial), returns, "{code}");
        assert_eq!(script.core.state() == ClientState::Disconnected, !returns);
    }
}

#[test]
fn a_draining_server_says_when_to_come_back() {
    let (mut script, _) = Script::live();
    let draining =
        Notice { subscription: 0, reconnect_in_ms: 3_000, ..notice(NoticeKind::DRAINING, 0, 0, 0) };
    script.say(&[draining.into()]);
    assert_eq!(script.core.state(), ClientState::Draining);
    script.data(5, 1..=1);
    assert_eq!(script.sequences(), [1]);
    script.now += SECOND;
    script.close(1012);
    assert_eq!(script.until_dial(), 2 * SECOND);
    // But a pool that drains on every connection is not asked again without pause: no connection in
    // between was stable.
    script.accept(1, 1);
    let at_once = Notice { subscription: 0, reconnect_in_ms: 0, ..notice(NoticeKind::DRAINING, 0, 0, 0) };
    script.say(&[at_once.into()]);
    script.close(1012);
    assert!((1..=SECOND / 2).contains(&script.until_dial()));
}

#[test]
fn the_application_may_choose_the_moment() {
    let (mut script, _) = Script::live();
    for _ in 0..3 {
        script.core.reconnect(script.now);
        assert!(matches!(script.core.poll_link(), Some(Link::HangUp(_))));
        assert_eq!((script.core.poll_link(), script.core.poll_link()), (Some(Link::Dial), None));
        script.accept(1, 1);
    }
    script.core.reconnect(script.now);
    assert!(matches!(script.core.poll_link(), Some(Link::HangUp(_))));
    assert_eq!(script.core.poll_link(), Some(Link::Dial));
    script.close(1006);
    script.until_dial();
    script.close(1006);
    assert_eq!(script.core.poll_link(), None);
    script.core.reconnect(script.now);
    assert_eq!(script.core.poll_link(), Some(Link::Dial));
}

#[test]
fn a_server_that_does_not_welcome_is_left() {
    let mut script = Script::new();
    script.core.connected(script.now);
    script.pass(5 * SECOND);
    assert!(matches!(script.core.poll_link(), Some(Link::HangUp(close)) if close.code == 4008));
    assert_eq!(script.core.poll_link(), Some(Link::Dial));
}

#[test]
fn a_closed_client_stays_closed() {
    let (mut script, _) = Script::live();
    script.core.publish(&tick(), script.now).unwrap();
    script.core.close(script.now);
    assert!(matches!(script.core.poll_link(), Some(Link::HangUp(close)) if close.code == 1000));
    assert_eq!((script.core.poll_link(), script.core.poll_timeout()), (None, None));
    assert_eq!(script.core.publish(&tick(), script.now), Err(PublishError::Closed));
    assert_eq!(script.core.queued(), 0);
}

// ---------------------------------------------------------------------------------------------
// Silence

#[test]
fn a_quiet_market_is_idle_not_stale() {
    let (mut script, key) = Script::live();
    for sequence in 1..=20 {
        script.now += 10 * MS;
        script.data(5, sequence..=sequence);
    }
    for _ in 0..60 {
        script.pass(SECOND);
        script.beat(&[(5, 20)]);
    }
    assert_eq!(script.staleness(), Vec::<String>::new());
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Live);
}

#[test]
fn events_that_exist_and_do_not_come_make_a_stream_stale() {
    let (mut script, key) = Script::live();
    script.bind(1, vec![binding(6, "market_data.ETH", 1)]);
    for sequence in 1..=20 {
        script.now += 10 * MS;
        script.data(5, sequence..=sequence);
    }
    for _ in 0..2 {
        script.pass(SECOND);
        script.beat(&[(5, 21), (6, 0)]);
    }
    assert_eq!(script.staleness(), Vec::<String>::new());
    script.pass(SECOND);
    assert_eq!(script.staleness(), ["stale BTC"]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Live, "the other one is well");
    script.data(5, 21..=21);
    assert_eq!(script.staleness(), ["fresh BTC"]);
}

#[test]
fn a_notice_ends_a_silence_too() {
    let (mut script, key) = Script::live();
    script.beat(&[(5, 2)]);
    for _ in 0..3 {
        script.pass(SECOND);
        script.beat(&[(5, 2)]);
    }
    assert_eq!(script.staleness(), ["stale BTC"]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Stale);
    script.say(&[Notice { gapped: 2, ..notice(NoticeKind::LOSS, 5, 1, 2) }.into()]);
    assert_eq!(script.staleness(), ["fresh BTC"]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Live);
}

#[test]
fn the_users_bound_makes_a_mute_stream_stale() {
    let mut script = Script::open();
    let options =
        SubscribeOptions { stale_after: Some(Duration::from_secs(5)), ..SubscribeOptions::default() };
    let key = script.core.subscribe(filter("market_data.*"), options);
    let request = script.request();
    script.acknowledge(request, 1, 1);
    for _ in 0..5 {
        script.pass(SECOND);
        script.beat(&[]);
    }
    assert_eq!(script.staleness(), ["stale *"], "not even a stream");
    script.bind(1, vec![binding(5, TOPIC, 1)]);
    assert_eq!(script.staleness(), ["fresh *"]);
    for _ in 0..5 {
        script.pass(SECOND);
        script.beat(&[(5, 0)]);
    }
    assert_eq!(script.staleness(), ["stale BTC"]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Stale);
    script.data(5, 1..=1);
    assert_eq!(script.staleness(), ["fresh BTC"]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Live);
}

#[test]
fn a_silent_server_makes_everything_stale_and_is_then_left() {
    let (mut script, key) = Script::live();
    script.pass(2_499 * MS);
    assert_eq!(script.staleness(), Vec::<String>::new());
    script.pass(MS);
    assert_eq!(script.staleness(), ["stale *"]);
    assert_eq!(script.core.subscription_state(key), SubscriptionState::Stale);
    script.beat(&[]);
    assert_eq!(script.staleness(), ["fresh *"]);
    script.pass(4 * SECOND);
    assert!(matches!(script.core.poll_link(), Some(Link::HangUp(close)) if close.code == 4002));
    assert_eq!(script.core.poll_link(), Some(Link::Dial));
}

#[test]
fn a_reader_that_pauses_does_not_blame_the_server() {
    let (mut script, key) = Script::live();
    for sequence in 1..=20 {
        script.now += 100 * MS;
        script.data(5, sequence..=sequence);
    }
    script.core.reading(false, script.now);
    script.pass(60 * SECOND);
    script.core.reading(true, script.now);
    script.pass(0);
    assert_eq!(script.staleness(), Vec::<String>::new());
    assert_eq!(
        (script.core.poll_link(), script.core.subscription_state(key)),
        (None, SubscriptionState::Live)
    );
}

// ---------------------------------------------------------------------------------------------
// Publishing

#[test]
fn a_publish_with_a_reply_is_answered_once() {
    let mut script = Script::open();
    let options = PublishOptions { id: "a-1".into(), ..PublishOptions::default() };
    let request = script.core.publish_acked(&tick(), options, script.now).unwrap();
    let message = script.core.poll_transmit(script.now).unwrap();
    let types: Vec<_> = Frames::new(&message, 9_999).map(|frame| frame.unwrap().header.type_id).collect();
    assert_eq!(types, [7, 100], "publish and its data, in one message");
    let reply = Published {
        request,
        status: PublishStatus::ACCEPTED,
        topic: TOPIC.into(),
        sequence: 12,
        durability: Durability::MEMORY,
        code: 0,
        field: String::new(),
        message: String::new(),
        position: 0,
        queued: 0,
        full: Vec::new(),
    };
    script.say(&[reply.clone().into(), reply.into()]);
    let events = script.events();
    let [ClientEvent::Published { request: answered, outcome: Outcome::Accepted { sequence: 12, .. } }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((*answered, script.core.unanswered()), (request, 0));
    script.pass(60 * MS);
    assert_eq!(script.events().len(), 0);
}

#[test]
fn an_unanswered_publish_is_unknown_and_an_unsent_one_expires() {
    let mut script = Script::open();
    let sent = script.core.publish_acked(&tick(), PublishOptions::default(), script.now).unwrap();
    script.heard();
    script.close(1006);
    let unsent = script.core.publish_acked(&tick(), PublishOptions::default(), script.now).unwrap();
    script.core.publish(&tick(), script.now).unwrap();
    script.pass(2 * SECOND);
    let outcomes: Vec<_> = script
        .events()
        .into_iter()
        .filter_map(|event| match event {
            ClientEvent::Published { request, outcome } => Some((request, outcome)),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [(sent, Outcome::Unknown), (unsent, Outcome::Expired)]);
    assert_eq!((script.core.stats().expired, script.core.queued(), script.core.unanswered()), (2, 0, 0));
    let mut script = Script::open();
    script.core.publish_acked(&tick(), PublishOptions::default(), script.now).unwrap();
    script.heard();
    for _ in 0..10 {
        script.pass(SECOND);
        script.beat(&[]);
    }
    assert!(matches!(&script.events()[..], [ClientEvent::Published { outcome: Outcome::Unknown, .. }]));
}

#[test]
fn the_queue_is_bounded_and_small_publishes_share_a_message() {
    let mut script = Script::new();
    for _ in 0..8_192 {
        script.core.publish(&tick(), script.now).unwrap();
    }
    assert_eq!(script.core.publish(&tick(), script.now), Err(PublishError::Full));
    assert_eq!(script.core.stats().queue_full, 1);
    script.accept(1, 1);
    let message = script.core.poll_transmit(script.now).unwrap();
    assert!((3_000..=4_096).contains(&message.len()), "{}", message.len());
    assert!(script.core.queued() < 8_192 - 10);
}

#[test]
fn what_a_server_would_refuse_is_refused_here_by_field() {
    let mut script = Script::open();
    let Message::MarketData(good) = tick() else { unreachable!() };
    let keyless = tickcast_protocol::message::MarketData { symbol: "B C".into(), ..good.clone() };
    let error = script.core.publish(&keyless.into(), script.now).unwrap_err();
    assert!(error.to_string().contains("symbol"), "{error}");
    let empty = tickcast_protocol::message::MarketData { price: None, bid: None, ask: None, ..good.clone() };
    assert!(matches!(script.core.publish(&empty.into(), script.now), Err(PublishError::Invalid(_))));
    let long = tickcast_protocol::message::MarketData { venue: Some("x".repeat(5_000)), ..good };
    assert!(matches!(script.core.publish(&long.into(), script.now), Err(PublishError::TooLarge { .. })));
    let ping = Ping { client_time: Timestamp(0), sequence: 0 };
    assert_eq!(script.core.publish(&ping.into(), script.now), Err(PublishError::NotData("ping")));
    let mut subscriber = Core::new(CoreOptions::default());
    subscriber.connect(0);
    assert_eq!(subscriber.publish(&tick(), 0), Err(PublishError::NotPublisher));
    assert_eq!(script.core.queued(), 0);
}

#[test]
fn a_skip_keeps_its_place_among_the_publishes() {
    let mut script = Script::open();
    script.core.publish(&tick(), script.now).unwrap();
    script.core.skip(TOPIC, 3, script.now).unwrap();
    script.core.publish(&tick(), script.now).unwrap();
    let names: Vec<_> = script.heard().iter().map(|message| message.info().name).collect();
    assert_eq!(names, ["market_data", "skip", "market_data"]);
}

#[test]
fn a_refused_publish_is_told() {
    let mut script = Script::open();
    script.say(&[refusal(0, ErrorCode::InvalidField, false).into()]);
    let events = script.events();
    assert!(matches!(&events[..], [ClientEvent::ServerError(error)] if error.subscription.is_none()));
    assert_eq!(script.core.stats().refused, 1);
}

// ---------------------------------------------------------------------------------------------
// Clocks and broken servers

#[test]
fn a_pong_tells_the_round_trip_and_the_servers_clock() {
    let mut script = Script::open();
    script.core.ping(script.now);
    script.core.ping(script.now);
    let heard = script.heard();
    let [Message::Ping(ping)] = &heard[..] else { panic!("{heard:?}") };
    let (client_time, sequence) = (ping.client_time, ping.sequence);
    let server_time = Timestamp(client_time.0 + 50);
    script.now += 20;
    script.say(&[Pong { client_time, server_time, sequence }.into()]);
    assert!(matches!(script.events()[..], [ClientEvent::Pong { rtt_ns: 20, offset_ns: 40 }]));
    script.say(&[Pong { client_time, server_time, sequence }.into()]);
    assert_eq!(script.events().len(), 0);
}

#[test]
fn a_malformed_frame_is_reported_and_the_connection_left() {
    let (mut script, _) = Script::live();
    script.core.received(Bytes::from_static(b"{\"type\":\"hello\"}"), script.now);
    assert!(matches!(script.core.poll_link(), Some(Link::HangUp(close)) if close.code == 1002));
    assert!(
        script.events().iter().any(|event| matches!(event, ClientEvent::Violation(Violation::Malformed(_))))
    );
    assert_eq!(script.core.stats().malformed, 1);
}

/// A large event of stream 5, as a server sends it to who reads LZ4; and the same uncompressed.
fn compressed(sequence: u64) -> (Vec<u8>, Vec<u8>) {
    let Message::Notification(mut message) =
        Message::sample(registry::by_name("notification").unwrap(), true)
    else {
        panic!("notification")
    };
    message.message = "the same words again, ".repeat(60);
    let (payload, header) = frame::payload(&message.into());
    let plain = frame::Header { stream: 5, sequence, publish_time: 1, ..header };
    let mut block = Vec::new();
    assert!(codec::compress(&payload, &mut block));
    let header = frame::Header { payload_len: block.len() as u32, ..plain.with_codec(codec::LZ4) };
    let join = |header: frame::Header, payload: &[u8]| [&header.to_bytes()[..], payload].concat();
    (join(header, &block), join(plain, &payload))
}

#[test]
fn a_compressed_event_is_what_it_was_before() {
    let (mut script, _) = Script::live();
    let (mut bytes, mut plain) = (data_frame(5, 1), Vec::new());
    for sequence in 2..=4 {
        let (packed, same) = compressed(sequence);
        bytes.extend(packed);
        plain.push(same);
    }
    script.core.received(bytes, script.now);
    let data: Vec<_> = script
        .events()
        .into_iter()
        .filter_map(|event| if let ClientEvent::Data(data) = event { Some(data) } else { None })
        .collect();
    assert_eq!(data.iter().map(Data::sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (data, plain) in data[1..].iter().zip(&plain) {
        assert_eq!([&data.header.to_bytes()[..], &data.payload].concat(), *plain);
        assert!(matches!(data.message(), Ok(Message::Notification(_))));
    }
    let stats = script.core.stats();
    assert_eq!((stats.data_frames, stats.compressed, stats.malformed), (4, 3, 0));
    assert!(stats.compressed_saved_bytes > 3 * 1_000, "{stats:?}");
    let totals = script.core.totals();
    assert_eq!((totals.received, totals.settled()), (4, 4));
}

#[test]
fn a_broken_block_is_reported_and_the_connection_left() {
    let (mut script, _) = Script::live();
    let (mut bytes, _) = compressed(1);
    // One byte more than the block makes.
    let raw_len = u32::from_le_bytes(bytes[36..40].try_into().unwrap());
    bytes[36..40].copy_from_slice(&(raw_len + 1).to_le_bytes());
    script.core.received(bytes, script.now);
    assert!(matches!(script.core.poll_link(), Some(Link::HangUp(close)) if close.code == 1002));
    let events = script.events();
    assert!(events.iter().any(|event| matches!(event, ClientEvent::Violation(Violation::Malformed(_)))));
    assert!(!events.iter().any(|event| matches!(event, ClientEvent::Data(_))));
    assert_eq!(script.core.stats().malformed, 1);
}

#[test]
fn lz4_is_offered_unless_switched_off() {
    for (lz4, codecs) in [(true, 1), (false, 0)] {
        let mut core = Core::new(CoreOptions { lz4, ..options() });
        core.connect(SECOND);
        core.connected(SECOND);
        let hello = core.poll_transmit(SECOND).expect("hello");
        let (frame, _) = frame::Frame::split_first(&hello, 9_999).unwrap();
        let Message::Hello(hello) = frame.view().unwrap().to_owned() else { panic!("hello") };
        assert_eq!(hello.codecs, codecs);
    }
}

#[test]
fn a_control_frame_of_a_newer_server_is_skipped() {
    let (mut script, _) = Script::live();
    let mut bytes = frame::encode(&Ping { client_time: Timestamp(0), sequence: 0 }.into());
    bytes[4..6].copy_from_slice(&77u16.to_le_bytes());
    bytes.extend_from_slice(&data_frame(5, 1));
    script.core.received(bytes, script.now);
    assert_eq!(script.sequences(), [1]);
    assert_eq!(script.core.stats().ignored, 1);
}

/// Everything a server can say, with numbers that are often small enough to mean something.
fn anything() -> impl Strategy<Value = Message> {
    let number = prop_oneof![0u64..8, any::<u64>()];
    let small = || prop_oneof![0u32..4, any::<u32>()];
    let numbers = proptest::collection::vec(number, 6);
    (0u8..9, 0u8..6, small(), small(), numbers).prop_map(|(what, kind, subscription, stream, n)| match what {
        0 => Acknowledge {
            request: n[0],
            subscription,
            status: SubscriptionStatus(kind),
            epoch: n[1].min(3),
            streams: stream,
        }
        .into(),
        1 => Bind {
            subscription,
            bindings: vec![Binding { class: ClassName(kind), ..binding(stream, TOPIC, n[0]) }],
        }
        .into(),
        2 => Notice {
            subscription,
            from: n[0],
            through: n[1],
            conflated: n[2],
            gapped: n[3],
            filtered: n[4],
            reason: Reason(kind),
            ..notice(NoticeKind(kind), stream, 0, 0)
        }
        .into(),
        3 => Begin { subscription, bracket: Bracket(kind), events: stream }.into(),
        4 => End { subscription, bracket: Bracket(kind) }.into(),
        5 => Heartbeat {
            server_time: Timestamp(0),
            heads: vec![Head { stream, sequence: n[0], through: n[1] }],
        }
        .into(),
        6 => Error {
            code: kind.into(),
            retry_after_ms: stream,
            ..refusal(n[0], ErrorCode::Internal, kind > 2)
        }
        .into(),
        7 => {
            Pong { client_time: Timestamp(n[0] as i64), server_time: Timestamp(n[1] as i64), sequence: n[2] }
                .into()
        }
        _ => Welcome {
            boot_id: n[0],
            epoch: n[1],
            connection: 0,
            server: String::new(),
            heartbeat_ms: stream,
            frame_bytes_max: subscription,
            subscriptions_max: 0,
            server_time: Timestamp(0),
            codecs: 0,
        }
        .into(),
    })
}

proptest! {
    #[test]
    fn any_bytes_are_answered(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..8)) {
        let (mut script, _) = Script::live();
        for message in messages {
            script.core.received(message, script.now);
            script.pass(MS);
        }
    }

    #[test]
    fn a_broken_frame_is_answered(at in 0usize..400, flip in 1u8..=255, cut in 0usize..400) {
        let (mut script, _) = Script::live();
        let mut bytes = frame::encode(&notice(NoticeKind::LOSS, 5, 1, 2).into());
        bytes.extend(data_frame(5, 3));
        frame::append(&Bind { subscription: 1, bindings: vec![binding(6, "bar.1m.X", 1)] }.into(), &mut bytes);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        bytes.truncate(cut.max(1));
        script.core.received(bytes, script.now);
    }

    /// Whatever a server says: nothing panics, and no account settles more than was published.
    #[test]
    fn no_server_upsets_the_accounts(steps in proptest::collection::vec((0u8..12, anything(), 0u64..12), 1..60)) {
        let (mut script, _) = Script::live();
        script.core.subscribe(filter("**"), SubscribeOptions { stale_after: Some(Duration::from_secs(1)), ..SubscribeOptions::default() });
        for (what, message, number) in steps {
            match what {
                0..=6 => script.say(&[message]),
                7 | 8 => script.data((number % 4) as u32 + 3, number..=number + 1),
                9 => script.pass(number * 300 * MS),
                10 => drop(script.core.publish_acked(&tick(), PublishOptions::default(), script.now)),
                _ => {
                    script.close(if number > 10 { 4004 } else { 1006 });
                    script.core.connect(script.now);
                    while script.core.poll_link() != Some(Link::Dial) {
                        script.now += SECOND;
                        script.core.tick(script.now);
                    }
                    script.core.connected(script.now);
                    script.heard();
                    let welcome = Welcome {
                        boot_id: 1 + number / 4,
                        epoch: 1 + number / 8,
                        connection: 1,
                        server: String::new(),
                        heartbeat_ms: 1_000,
                        frame_bytes_max: 4_096,
                        subscriptions_max: 1,
                        server_time: Timestamp(0),
                        codecs: 0,
                    };
                    script.say(&[welcome.into()]);
                }
            }
            script.heard();
            script.events();
            while script.core.poll_link().is_some() {}
            let totals = script.core.totals();
            prop_assert!(totals.settled() <= totals.published, "{totals:?}");
        }
    }
}

#[test]
fn a_snapshot_is_asked_for_again_and_changes_no_account() {
    let (mut script, key) = Script::live();
    script.data(5, 1..=3);
    script.events();
    assert!(script.core.snapshot_again(key));
    assert!(script.core.snapshot_again(key), "one answer is enough");
    let said = script.heard();
    let [Message::Subscribe(subscribe)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((subscribe.filter.as_str(), subscribe.start), ("market_data.*", Start::SNAPSHOT));
    let before = script.core.account(key, TOPIC);
    script.acknowledge(subscribe.request, 1, 1);
    // What was on its way comes before the snapshot, which is bound from the head.
    script.bind(1, vec![binding(5, TOPIC, 5)]);
    script.data(5, 4..=4);
    script.say(&[Begin { subscription: 1, bracket: Bracket::SNAPSHOT, events: 2 }.into()]);
    script.data(5, 3..=4);
    script.say(&[End { subscription: 1, bracket: Bracket::SNAPSHOT }.into()]);
    script.data(5, 5..=5);
    let events = script.events();
    let origins: Vec<(u64, Origin)> = events
        .iter()
        .filter_map(|event| match event {
            ClientEvent::Data(data) => Some((data.sequence(), data.origin)),
            _ => None,
        })
        .collect();
    use Origin::{Live, Snapshot};
    assert_eq!(origins, [(4, Live), (3, Snapshot), (4, Snapshot), (5, Live)]);
    assert!(!events.iter().any(|event| matches!(event, ClientEvent::Gap(_) | ClientEvent::Violation(_))));
    let after = script.core.account(key, TOPIC);
    assert_eq!((after.received, after.gapped), (before.received + 2, 0));
    assert!(script.core.snapshot_again(key), "the answer is here: it may be asked for again");
    let request = script.request();
    script.say(&[refusal(request, ErrorCode::Unavailable, true).into()]);
    assert!(script.events().iter().any(|event| matches!(
        event,
        ClientEvent::ServerError(error) if error.subscription == Some(key)
    )));
    assert!(script.core.snapshot_again(key), "nor does a refusal end it");
}

#[test]
fn a_snapshot_that_nobody_waits_for_any_more_ends_its_subscription() {
    let (mut script, key) = Script::live();
    assert!(script.core.snapshot_again(key));
    let request = script.request();
    script.core.unsubscribe(key);
    assert!(!script.core.snapshot_again(key));
    let said = script.heard();
    assert!(matches!(&said[..], [Message::Unsubscribe(_)]), "{said:?}");
    // The server took the subscribe for a new one.
    script.acknowledge(request, 2, 1);
    let said = script.heard();
    assert!(matches!(&said[..], [Message::Unsubscribe(end)] if end.subscription == 2), "{said:?}");
    let mut script = Script::new();
    let key = script.core.subscribe(filter("market_data.*"), SubscribeOptions::default());
    assert!(!script.core.snapshot_again(key), "there is no connection");
}
