//! What a dashboard that comes back asks of its shard, and what it keeps when that has no room.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tickcast::alerts::Alerts;
use tickcast::auth::Denied;
use tickcast::clock::Clock;
use tickcast::config::JsonCase;
use tickcast::ingest::{Published, Refusal, Wishes};
use tickcast::instruments::Directory;
use tickcast::session::sticky::{Asked, Stay, Sticky};
use tickcast::session::{Acknowledge, D1Session, Desk, Postbox, Terms};
use tickcast_engine::{Condition, Delivery, Format, Start, Subscribe, SubscribeError, Subscribed};
use tickcast_protocol::frame::Frame;
use tickcast_protocol::message::SourceStatus;
use tickcast_protocol::{Epoch, ErrorCode, Predicate, SubscriptionId, Topic, TopicFilter};

const RECEIVED: u64 = 1_000;

/// A shard that says no as it is told to, and keeps what it was asked.
#[derive(Default)]
struct FakeDesk {
    refusals: VecDeque<Option<SubscribeError>>,
    asked: Vec<(String, Start)>,
    ended: Vec<u32>,
}

impl Desk for FakeDesk {
    fn subscribe(&mut self, request: Subscribe, _: Acknowledge<'_>) -> Result<Subscribed, SubscribeError> {
        self.asked.push((request.filter.as_str().to_owned(), request.start));
        if let Some(Some(refused)) = self.refusals.pop_front() {
            return Err(refused);
        }
        let subscription = SubscriptionId(self.asked.len() as u32);
        Ok(Subscribed { subscription, epoch: Epoch(1), streams: 0, already: false })
    }

    fn unsubscribe(&mut self, subscription: SubscriptionId, _: Acknowledge<'_>) -> bool {
        self.ended.push(subscription.0);
        true
    }

    fn configure(&mut self, _: SubscriptionId, _: &Delivery, _: Acknowledge<'_>) -> bool {
        false
    }

    fn condition(&self, predicate: Predicate) -> Condition {
        Condition::new(predicate, &RandomState::new())
    }

    fn set_format(&mut self, _: Format) {}

    fn publish(&mut self, _: &Frame<'_>, _: Wishes<'_>, _: Option<u64>) -> Result<Published, Refusal> {
        panic!("dashboards do not publish")
    }

    fn alerts(&self) -> Option<Arc<Alerts>> {
        None
    }

    fn postbox(&self) -> Postbox {
        Postbox::new(drop)
    }

    fn leave_out_critical(&mut self) {}

    fn has_room(&mut self) -> bool {
        true
    }

    fn has_acknowledged(&mut self, _: usize) {}

    fn vouch(&mut self, _: SourceStatus, _: &[Topic], _: u32) -> Result<(), Refusal> {
        Ok(())
    }

    fn begun(&self) -> u64 {
        1
    }

    fn distributed(&self) -> u64 {
        2 * RECEIVED
    }

    fn skip(&mut self, _: &str, _: u64) -> Result<(), Refusal> {
        panic!("dashboards do not skip")
    }

    fn may_publish(&self) -> Result<(), Denied> {
        Ok(())
    }

    fn may_subscribe(&self, _: &TopicFilter) -> Result<(), Denied> {
        Ok(())
    }

    fn accept_publisher(&mut self) {}

    fn say(&mut self, _: Bytes) {}

    fn count_error(&self, _: ErrorCode) {}

    fn count_limit(&self, _: &'static str) {}

    fn now(&self) -> u64 {
        3 * RECEIVED
    }
}

/// A client that was subscribed to these, and is back.
fn back(subscriptions: &[&str]) -> (Arc<Sticky>, D1Session) {
    let sticky = Arc::new(Sticky::new(u64::MAX, 10_000, Arc::default(), Clock::new(|| 0)));
    let before = enter(&sticky);
    for name in subscriptions {
        let asked = Asked { subscription_type: (*name).to_owned(), instrument_id: None, symbol: None };
        before.add(name, &asked);
    }
    let terms = Rc::new(Terms {
        boot_id: 1,
        heartbeat_ms: 0,
        subscriptions_max: 4,
        inbound_bytes: 4_096,
        publisher_bytes: 65_536,
        strikes_max: 20,
        json_depth: 8,
        codecs: 0,
    });
    let session =
        D1Session::new(terms, 1, JsonCase::Snake, Arc::<Directory>::default(), Some(enter(&sticky)));
    (sticky, session)
}

fn enter(sticky: &Arc<Sticky>) -> Stay {
    sticky.enter("desk-7", RECEIVED).expect("names are kept")
}

fn kept(sticky: &Arc<Sticky>) -> Vec<String> {
    enter(sticky).memory().subscriptions.into_iter().map(|asked| asked.subscription_type).collect()
}

#[test]
fn a_peer_that_is_closed_on_the_way_gives_nothing_up() {
    let (sticky, mut session) = back(&["alerts", "market_data"]);
    let refusals = [None, Some(SubscribeError::UnknownPeer), Some(SubscribeError::UnknownPeer)];
    let mut desk = FakeDesk { refusals: refusals.into(), ..FakeDesk::default() };
    session.open(&mut desk);
    assert_eq!(kept(&sticky), ["alerts", "market_data"]);
}

#[test]
fn what_has_begun_is_not_begun_again_when_there_is_no_room_for_the_rest() {
    let (sticky, mut session) = back(&["market_data"]);
    let refusals = [None, Some(SubscribeError::Busy), Some(SubscribeError::Busy)];
    let mut desk = FakeDesk { refusals: refusals.into(), ..FakeDesk::default() };
    session.open(&mut desk);
    session.retry(&mut desk);
    session.retry(&mut desk);
    assert!(!session.is_waiting());
    let (prices, tape) = (
        ("market_data.**".to_owned(), Start::Missed(RECEIVED)),
        ("public_trade.**".to_owned(), Start::Missed(RECEIVED)),
    );
    assert_eq!(desk.asked, [prices, tape.clone(), tape.clone(), tape]);
    assert!(desk.ended.is_empty());
    assert_eq!(kept(&sticky), ["market_data"]);
}

#[test]
fn what_has_begun_ends_when_the_client_gives_it_up_meanwhile() {
    let (sticky, mut session) = back(&["market_data"]);
    let mut desk = FakeDesk { refusals: [None, Some(SubscribeError::Busy)].into(), ..FakeDesk::default() };
    session.open(&mut desk);
    let text = r#"{"type": "unsubscribe", "data": {"subscription_type": "market_data"}}"#;
    session.message(text, &mut desk).expect("sound");
    assert_eq!(desk.ended, [1]);
    assert!(!session.is_waiting() && kept(&sticky).is_empty());
}

#[test]
fn what_is_asked_for_while_others_return_begins_where_they_do() {
    let (_sticky, mut session) = back(&["alerts"]);
    let mut desk = FakeDesk { refusals: [Some(SubscribeError::Busy)].into(), ..FakeDesk::default() };
    session.open(&mut desk);
    // Another name of the same: were it live, what was missed would be taken for received.
    let text = r#"{"type": "subscribe", "data": {"subscription_type": "alert"}}"#;
    session.message(text, &mut desk).expect("sound");
    let since = ("alert.**".to_owned(), Start::Missed(RECEIVED));
    assert_eq!(desk.asked, [since.clone(), since]);
}

#[test]
fn a_ping_says_nothing_of_subscriptions_that_are_not_there_again_yet() {
    let (sticky, mut session) = back(&["alerts"]);
    let mut desk = FakeDesk { refusals: [Some(SubscribeError::Busy)].into(), ..FakeDesk::default() };
    session.open(&mut desk);
    let answered = |session: &mut D1Session| {
        let number = session.ping(true, 2 * RECEIVED);
        session.pong(&number.to_be_bytes());
    };
    answered(&mut session);
    assert_eq!(sticky.enter("desk-7", 0).expect("names are kept").memory().received, RECEIVED);
    session.retry(&mut desk);
    assert!(!session.is_waiting());
    answered(&mut session);
    drop(session);
    assert_eq!(sticky.enter("desk-7", 0).expect("names are kept").memory().received, 2 * RECEIVED + 1);
}
