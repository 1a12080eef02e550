//! Order books over sockets: what a client shows is what the publisher has, whatever was lost on the way.

mod common;

use std::future::Future;

use common::{PATIENCE, Raw, TestServer};
use tickcast_client::{
    BookEvent, BookSubscription, Broken, Client, ClientEvent, ClientOptions, SubscribeOptions, Subscription,
};
use tickcast_protocol::book::{Book, CHECKSUM_LEVELS};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{
    BookKind, Level, OrderBook, PartialBook, Role, Start, StateReason, StreamState, StreamStatus,
};
use tickcast_protocol::{Decimal, Message};

const TOPIC: &str = "order_book.BTC-USD";
/// Levels that the clients look at.
const VIEW: usize = CHECKSUM_LEVELS;

/// Both sides of a view.
type Sides = [Vec<Level>; 2];

/// Publishes a book that walks, and remembers what was to be seen after each message.
struct Publisher<'a> {
    server: &'a TestServer,
    book: Book,
    /// By sequence, from 1.
    views: Vec<Sides>,
    random: fastrand::Rng,
    /// Makes messages as large as one likes.
    venue: Option<String>,
}

impl<'a> Publisher<'a> {
    fn new(server: &'a TestServer) -> Self {
        let random = fastrand::Rng::with_seed(7);
        let mut publisher = Self { server, book: Book::new(), views: Vec::new(), random, venue: None };
        publisher.snapshot();
        publisher
    }

    fn snapshot(&mut self) {
        let whole = self.book.snapshot("BTC-USD", Timestamp(0));
        self.publish(whole);
    }

    /// A message that changes so many levels of each side.
    fn delta(&mut self, levels: i32) {
        let mut side = |sign: i32| -> Vec<Level> {
            let price = |away: i32| Decimal::from(100_000 + sign * away);
            let mut change = |away: i32| Level {
                price: price(away),
                // A few are removed, and come back.
                quantity: Decimal::from(self.random.i32(-3..1_000).max(0)),
            };
            let first = change(1 + levels % 3);
            std::iter::once(first).chain((2..=levels).map(&mut change)).collect()
        };
        let (bids, asks) = (side(-1), side(1));
        let kind = BookKind::DELTA;
        let delta = OrderBook { kind, bids, asks, ..Book::new().snapshot("BTC-USD", Timestamp(0)) };
        self.publish(delta);
    }

    /// A message that gives the best bid another quantity than it ever had.
    fn best(&mut self, number: i32) {
        let bids = vec![Level { price: Decimal::from(99_999), quantity: Decimal::from(5_000 + number) }];
        let kind = BookKind::DELTA;
        let delta = OrderBook { kind, bids, ..Book::new().snapshot("BTC-USD", Timestamp(0)) };
        self.publish(delta);
    }

    fn publish(&mut self, message: OrderBook) {
        let message = OrderBook { venue: self.venue.clone(), ..message };
        let sealed = self.book.seal(message).expect("a walk that does not cross");
        self.views.push(sides(self.book.top(VIEW)));
        self.server.publish(&Message::from(sealed));
    }

    fn sequence(&self) -> u64 {
        self.views.len() as u64
    }

    /// What a client shows after an event must be what was to be seen after the sequence it has reached.
    fn check(&self, books: &BookSubscription) {
        let Some(sequence) = books.books().sequence(TOPIC) else {
            assert!(books.view(TOPIC).is_none(), "what is broken is not shown");
            return;
        };
        let shown = sides(books.view(TOPIC).expect("it has a sequence"));
        assert_eq!(shown, self.views[sequence as usize - 1], "at {sequence}");
    }
}

fn sides(top: tickcast_protocol::book::Top<'_>) -> Sides {
    [top.bids.to_vec(), top.asks.to_vec()]
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

async fn connect(server: &TestServer, events_max: usize) -> Client {
    let options = ClientOptions { events_max, ..ClientOptions::new(server.url()) };
    Client::connect(options).await.expect("connects").0
}

async fn subscribe(client: &Client) -> BookSubscription {
    client.books("order_book.*", VIEW, SubscribeOptions::default()).await.expect("subscribes")
}

/// The next event, checked.
async fn next_of_all(books: &mut BookSubscription, publisher: &Publisher<'_>) -> BookEvent {
    let event = tokio::time::timeout(PATIENCE, books.next()).await.expect("in time").expect("an event");
    publisher.check(books);
    event
}

/// The next event about the book itself, checked.
async fn next(books: &mut BookSubscription, publisher: &Publisher<'_>) -> BookEvent {
    loop {
        let event = next_of_all(books, publisher).await;
        if !matches!(event, BookEvent::Other(_)) {
            return event;
        }
    }
}

/// Reads up to the publisher's newest message; returns why the book was broken meanwhile, each time.
async fn catch_up(books: &mut BookSubscription, publisher: &Publisher<'_>) -> Vec<Broken> {
    let mut broken = Vec::new();
    while books.books().sequence(TOPIC) != Some(publisher.sequence()) {
        if let BookEvent::Broken { reason, .. } = next(books, publisher).await {
            broken.push(reason);
        }
    }
    broken
}

#[test]
fn a_newcomer_has_the_book_at_once_and_follows_it() {
    let server = TestServer::start(&[]);
    let mut publisher = Publisher::new(&server);
    (0..50).for_each(|_| publisher.delta(5));
    run(async {
        let client = connect(&server, 1_024).await;
        let mut books = subscribe(&client).await;
        assert!(matches!(next(&mut books, &publisher).await, BookEvent::Fresh { .. }));
        assert_eq!(books.books().sequence(TOPIC), Some(51), "with all that followed the snapshot");
        (0..50).for_each(|_| publisher.delta(5));
        assert_eq!(catch_up(&mut books, &publisher).await, []);
        assert_eq!(books.books().book(TOPIC), Some(&publisher.book), "all levels, not only those in view");
    });
}

#[test]
fn a_reader_that_lost_deltas_is_never_wrong_and_recovers_by_itself() {
    let server = TestServer::start(&[("outbox.events", "64"), ("outbox.bytes", "64KiB")]);
    let mut publisher = Publisher::new(&server);
    run(async {
        // On this one thread, the client does nothing while the publisher works: nobody reads the socket.
        let client = connect(&server, 4).await;
        let mut books = subscribe(&client).await;
        assert!(matches!(next(&mut books, &publisher).await, BookEvent::Fresh { .. }));
        let mut rounds = 0;
        while server.metric("tickcast_shard_gapped_total") == 0.0 {
            rounds += 1;
            assert!(rounds < 2_000, "the kernels cannot hold all that");
            publisher.snapshot();
            (0..20).for_each(|_| publisher.delta(150));
        }
        // More than the outbox holds, so that what it ends with is of no use without a snapshot, which the
        // history has.
        publisher.snapshot();
        (0..100).for_each(|_| publisher.delta(3));
        // A shard that is behind would have room for the snapshot once the client reads.
        server.wait_until("all is distributed", |server| server.metric("tickcast_shard_lag") == 0.0);
        let (mut broken, mut snapshots) = (Vec::new(), 0);
        while books.books().sequence(TOPIC) != Some(publisher.sequence()) {
            match next_of_all(&mut books, &publisher).await {
                BookEvent::Broken { reason, .. } => broken.push(reason),
                BookEvent::Other(event) => {
                    snapshots += u32::from(matches!(*event, ClientEvent::Begin { .. }))
                }
                _ => {}
            }
        }
        assert!(snapshots > 0, "it asked for a snapshot, and got it");
        let is_missing = |reason: &Broken| matches!(reason, Broken::Missing { reason: Some(_), .. });
        assert!(!broken.is_empty() && broken.iter().all(is_missing), "{broken:?}");
        assert_eq!(books.books().book(TOPIC), Some(&publisher.book));
        assert_eq!(books.books().poll_timeout(), None, "nothing is left to ask for");

        // From here on it reads, and loses nothing.
        publisher.delta(3);
        assert_eq!(catch_up(&mut books, &publisher).await, []);
        let stats = client.stats();
        assert_eq!((stats.unexplained, stats.miscounted, stats.unbound, stats.closes), (0, 0, 0, 0));
        assert!(client.totals().balances(), "{:?}", client.totals());
        let account = client.totals();
        assert!(account.gapped > 0 && account.published + 1 >= publisher.sequence(), "{account:?}");
    });
}

#[test]
fn a_wrong_delta_is_not_shown_and_the_next_snapshot_brings_the_book_back() {
    let server = TestServer::start(&[]);
    let mut publisher = Publisher::new(&server);
    publisher.delta(5);
    run(async {
        let client = connect(&server, 1_024).await;
        let mut books = subscribe(&client).await;
        assert_eq!(catch_up(&mut books, &publisher).await, []);
        // The publisher's own mistake: another book than the one it says.
        let mut wrong = publisher.book.snapshot("BTC-USD", Timestamp(0));
        (wrong.kind, wrong.bids) =
            (BookKind::DELTA, vec![Level { price: 99_999.into(), quantity: 7_777.into() }]);
        publisher.views.push(Sides::default());
        server.publish(&Message::from(wrong));
        let BookEvent::Broken { reason: Broken::Wrong(_), .. } = next(&mut books, &publisher).await else {
            panic!("the checksum says so")
        };
        assert!(books.view(TOPIC).is_none());
        publisher.delta(5);
        publisher.snapshot();
        // What the history has is as wrong, should the answer come before the snapshot.
        let broken = catch_up(&mut books, &publisher).await;
        assert!(broken.iter().all(|reason| matches!(reason, Broken::Wrong(_))), "{broken:?}");
        assert_eq!(books.books().book(TOPIC), Some(&publisher.book));
    });
}

#[test]
fn a_book_is_not_shown_without_a_connection_and_goes_on_with_the_next() {
    let server = TestServer::start(&[]);
    let mut publisher = Publisher::new(&server);
    run(async {
        let client = connect(&server, 1_024).await;
        let mut books = subscribe(&client).await;
        assert_eq!(catch_up(&mut books, &publisher).await, []);
        client.reconnect();
        (0..40).for_each(|_| publisher.delta(5));
        // Deltas of before may come first.
        let reason = loop {
            if let BookEvent::Broken { reason, .. } = next(&mut books, &publisher).await {
                break reason;
            }
        };
        assert_eq!(reason, Broken::Disconnected);
        assert!(books.view(TOPIC).is_none());
        assert_eq!(catch_up(&mut books, &publisher).await, []);
        assert_eq!(client.stats().connections, 2);
    });
}

// ---------------------------------------------------------------------------------------------
// Views that the server makes

const VIEW_TOPIC: &str = "partial_book.10.BTC-USD";

/// A server that makes views of ten levels.
fn with_views(settings: &[(&str, &str)]) -> TestServer {
    TestServer::start(&[&[("books.views", "10")], settings].concat())
}

async fn follow(client: &Client) -> Subscription {
    let options = SubscribeOptions { start: Start::SNAPSHOT, ..SubscribeOptions::default() };
    client.subscribe(VIEW_TOPIC, options).await.expect("subscribes")
}

/// The next view, or how the stream is from now on.
async fn next_view(events: &mut Subscription) -> Result<PartialBook, StreamStatus> {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
        match event {
            ClientEvent::Data(data) => {
                let Message::PartialBook(view) = data.view().expect("sound").to_owned() else {
                    panic!("a view")
                };
                return Ok(view);
            }
            ClientEvent::Stream(change) => {
                assert_eq!(change.topic.as_str(), VIEW_TOPIC);
                return Err(change.status);
            }
            _ => {}
        }
    }
}

/// The stream is live again with a view of the newest message, which nothing comes before: in either order, for
/// states may overtake events.
async fn comes_back(events: &mut Subscription, publisher: &Publisher<'_>) {
    let both = [next_view(events).await, next_view(events).await];
    let views: Vec<&PartialBook> = both.iter().filter_map(|one| one.as_ref().ok()).collect();
    let states: Vec<StreamState> = both.iter().filter_map(|one| Some(one.as_ref().err()?.state)).collect();
    assert_eq!((views.len(), &states[..]), (1, &[StreamState::LIVE][..]), "{both:?}");
    assert_eq!(views[0].book_sequence, publisher.sequence());
    publisher.check_view(views[0]);
}

impl Publisher<'_> {
    fn check_view(&self, view: &PartialBook) {
        let expected = &self.views[view.book_sequence as usize - 1];
        assert_eq!([&view.bids, &view.asks], [&expected[0], &expected[1]], "at {}", view.book_sequence);
        let top = tickcast_protocol::book::Top { bids: &view.bids, asks: &view.asks };
        assert_eq!((view.depth, view.checksum), (10, Some(top.checksum())));
    }

    /// Reads views, each of which is checked, up to one that shows the book as it is.
    async fn reach(&self, events: &mut Subscription) {
        loop {
            let view = next_view(events).await.expect("the book is sound");
            self.check_view(&view);
            if Some(&[view.bids, view.asks]) == self.views.last() {
                return;
            }
        }
    }
}

#[test]
fn a_view_is_the_top_of_the_publishers_book() {
    let server = with_views(&[]);
    let mut publisher = Publisher::new(&server);
    (0..50).for_each(|_| publisher.delta(12));
    run(async {
        let client = connect(&server, 1_024).await;
        let mut events = follow(&client).await;
        publisher.reach(&mut events).await;
        for _ in 0..50 {
            (0..4).for_each(|_| publisher.delta(12));
            // Something that is in view for sure, and was not before.
            publisher.best(publisher.sequence() as i32);
            publisher.reach(&mut events).await;
        }
        // Nobody who follows the book itself sees anything of that.
        publisher.snapshot();
        let mut books = subscribe(&client).await;
        publisher.delta(3);
        assert_eq!(catch_up(&mut books, &publisher).await, []);
        assert_eq!(books.books().book(TOPIC), Some(&publisher.book));
        let stats = client.stats();
        assert_eq!((stats.unexplained, stats.miscounted), (0, 0));
    });
    server.wait_until("all is applied", |server| {
        server.metric("tickcast_books_applied_total") == publisher.sequence() as f64
    });
    assert_eq!(server.metric("tickcast_books"), 1.0);
    assert_eq!(server.metric("tickcast_books_broken_total"), 0.0);
}

#[test]
fn a_slow_reader_of_views_gets_the_newest() {
    let server = with_views(&[("outbox.events", "16")]);
    let mut publisher = Publisher::new(&server);
    let mut slow = Raw::binary_with_little_room(server.address());
    slow.subscribe(1, VIEW_TOPIC, Start::SNAPSHOT);
    publisher.venue = Some("v".repeat(8_000));
    while server.metric("tickcast_shard_conflated_total") == 0.0 {
        assert!(publisher.sequence() < 500_000, "the kernels cannot hold all that");
        let number = publisher.sequence() as i32;
        publisher.best(number);
    }
    publisher.best(-1);
    let mut last = 0;
    while last < publisher.sequence() {
        let (_, Message::PartialBook(view)) = slow.data() else { panic!("a view") };
        publisher.check_view(&view);
        assert!(view.book_sequence > last, "each is newer");
        last = view.book_sequence;
    }
    assert_eq!(server.metric("tickcast_shard_gapped_total"), 0.0);
}

#[test]
fn views_are_stale_after_a_hole_and_come_back_with_the_next_snapshot() {
    let server = with_views(&[]);
    let mut publisher = Publisher::new(&server);
    publisher.delta(5);
    run(async {
        let client = connect(&server, 1_024).await;
        let mut events = follow(&client).await;
        publisher.reach(&mut events).await;
        server.running.ingest().skip(TOPIC, 3).expect("a skip");
        (0..3).for_each(|_| publisher.views.push(Sides::default()));
        let status = next_view(&mut events).await.expect_err("nothing is known of the book");
        assert_eq!((status.state, status.reason), (StreamState::STALE, StateReason::UPSTREAM));
        publisher.best(1);
        publisher.best(2);
        publisher.snapshot();
        comes_back(&mut events, &publisher).await;
        // The publisher's own mistake, as its checksum says.
        let mut wrong = publisher.book.snapshot("BTC-USD", Timestamp(0));
        (wrong.kind, wrong.checksum) = (BookKind::DELTA, Some(7));
        publisher.views.push(Sides::default());
        server.publish(&Message::from(wrong));
        let status = next_view(&mut events).await.expect_err("the checksum says so");
        assert_eq!(status.state, StreamState::STALE);
        publisher.snapshot();
        comes_back(&mut events, &publisher).await;
    });
}

#[test]
fn views_are_suspect_when_nobody_speaks_for_the_book_any_more() {
    let server = with_views(&[]);
    run(async {
        let client = connect(&server, 1_024).await;
        let mut events = follow(&client).await;
        let mut raw = Raw::binary(server.address(), Role::PUBLISHER);
        let book = Book::new();
        raw.say(&Message::from(OrderBook {
            kind: BookKind::SNAPSHOT,
            ..book.snapshot("BTC-USD", Timestamp(0))
        }));
        assert_eq!(next_view(&mut events).await.map(|view| view.book_sequence), Ok(1));
        drop(raw);
        let status = next_view(&mut events).await.expect_err("its publisher is gone");
        assert_eq!((status.state, status.reason), (StreamState::SUSPECT, StateReason::SOURCE_GONE));
    });
}

#[test]
fn nobody_else_publishes_a_view_that_the_server_makes() {
    let native = |topic: &str| {
        format!(
            r#"{{"type":"partial_book","topic":"{topic}","data":{{"book_sequence":5,"bids":[{{"price":1,"quantity":2}}]}}}}"#
        )
    };
    let server = with_views(&[]);
    let (_, reply) = server.post("/api/v1/publish", "application/json", &native(VIEW_TOPIC));
    assert!(reply.contains("FORBIDDEN") && reply.contains("books.views"), "{reply}");
    let (_, reply) = server.post("/api/v1/publish", "application/json", &native("partial_book.7.BTC-USD"));
    assert!(reply.contains(r#""status":"accepted","topic":"partial_book.7.BTC-USD""#), "{reply}");
    for wrong in ["partial_book.07.BTC-USD", "partial_book.0.BTC-USD", "partial_book.x.BTC-USD"] {
        let (_, reply) = server.post("/api/v1/publish", "application/json", &native(wrong));
        assert!(reply.contains("INVALID_FIELD"), "{wrong}: {reply}");
    }
    let refused = server.running.ingest().skip(VIEW_TOPIC, 1).expect_err("its numbers are the server's");
    assert_eq!(refused.code, tickcast_protocol::ErrorCode::Forbidden);
}

#[test]
fn without_the_setting_there_are_no_views_and_nobody_makes_any() {
    let server = TestServer::start(&[]);
    let publisher = Publisher::new(&server);
    let streams = server.running.ingest().engine().streams();
    let is_there = |topic: &str| streams.iter().any(|stream| stream.topic.as_str().starts_with(topic));
    assert!(is_there(TOPIC) && !is_there("partial_book"), "{streams:?}");
    assert!(!server.running.status().scrape().contains("tickcast_books"));
    assert_eq!(publisher.sequence(), 1);
}
