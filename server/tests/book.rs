//! Order books over sockets: what a client shows is what the publisher has, whatever was lost on the way.

mod common;

use std::future::Future;

use common::{PATIENCE, TestServer};
use tickcast_client::{
    BookEvent, BookSubscription, Broken, Client, ClientEvent, ClientOptions, SubscribeOptions,
};
use tickcast_protocol::book::{Book, CHECKSUM_LEVELS};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::message::{BookKind, Level, OrderBook};
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
}

impl<'a> Publisher<'a> {
    fn new(server: &'a TestServer) -> Self {
        let random = fastrand::Rng::with_seed(7);
        let mut publisher = Self { server, book: Book::new(), views: Vec::new(), random };
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

    fn publish(&mut self, message: OrderBook) {
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
