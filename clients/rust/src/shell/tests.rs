//! The shell against a scripted server on a loopback socket, port 0. Every wait is bounded.

use std::future::Future;
use std::time::Duration;

use fastwebsockets::{Frame as WsFrame, OpCode, Payload, Role, WebSocket};
use tickcast_protocol::field::Timestamp;
use tickcast_protocol::frame::{self, Frames};
use tickcast_protocol::message::{
    Acknowledge, Bind, Binding, ClassName, PublishStatus, Published, SubscriptionStatus, Welcome,
};
use tickcast_protocol::{Message, registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::core::{Backoff, GapReason};

const TOPIC: &str = "market_data.BTC";

/// Fails loudly instead of hanging.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("within ten seconds")
}

fn tick() -> Message {
    Message::sample(registry::by_name("market_data").unwrap(), false)
}

fn data_frame(sequence: u64) -> Vec<u8> {
    let (payload, mut header) = frame::payload(&tick());
    (header.stream, header.sequence, header.publish_time) = (5, sequence, 1);
    [&header.to_bytes()[..], &payload].concat()
}

struct Server {
    listener: TcpListener,
}

/// The server's end of one connection.
struct Peer {
    socket: WebSocket<TcpStream>,
}

impl Server {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new(format!("ws://{}/ws", self.listener.local_addr().unwrap()));
        options.core.backoff = Backoff {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(50),
            ..Backoff::default()
        };
        options
    }

    /// Takes a connection and its request, and gives this answer.
    async fn answer(&self, answer: &str) -> (TcpStream, String) {
        let (mut stream, _) = soon(self.listener.accept()).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            soon(stream.read_exact(&mut byte)).await.unwrap();
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        (stream, String::from_utf8(request).unwrap())
    }

    async fn upgrade(&self) -> Peer {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-protocol: tickcast.v2\r\n\r\n";
        let (stream, request) = self.answer(answer).await;
        let request = request.to_ascii_lowercase();
        assert!(request.starts_with("get /ws http/1.1\r\n"), "{request}");
        for line in ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-protocol: tickcast.v2"]
        {
            assert!(request.contains(line), "{request}");
        }
        let mut socket = WebSocket::after_handshake(stream, Role::Server);
        socket.set_auto_close(false);
        Peer { socket }
    }

    /// Upgraded and welcomed.
    async fn accept(&self) -> Peer {
        let mut peer = self.upgrade().await;
        assert!(matches!(peer.heard().await[..], [Message::Hello(_)]));
        let welcome = Welcome {
            boot_id: 1,
            epoch: 1,
            connection: 1,
            server: "script".into(),
            heartbeat_ms: 0,
            frame_bytes_max: 65_536,
            subscriptions_max: 10,
            server_time: Timestamp(0),
            codecs: 0,
        };
        peer.say(&[welcome.into()]).await;
        peer
    }
}

impl Peer {
    async fn write(&mut self, frame: WsFrame<'_>) {
        soon(self.socket.write_frame(frame)).await.unwrap();
    }

    async fn binary(&mut self, bytes: Vec<u8>) {
        self.write(WsFrame::binary(Payload::Owned(bytes))).await;
    }

    async fn say(&mut self, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| frame::append(message, &mut bytes));
        self.binary(bytes).await;
    }

    /// The messages of the next WebSocket message.
    async fn heard(&mut self) -> Vec<Message> {
        let frame = soon(self.socket.read_frame()).await.unwrap();
        assert_eq!(frame.opcode, OpCode::Binary);
        Frames::new(&frame.payload, 65_536).map(|frame| frame.unwrap().view().unwrap().to_owned()).collect()
    }

    /// The code of the close that comes next.
    async fn closed(&mut self) -> u16 {
        let frame = soon(self.socket.read_frame()).await.unwrap();
        assert_eq!(frame.opcode, OpCode::Close);
        u16::from_be_bytes([frame.payload[0], frame.payload[1]])
    }

    /// Answers the subscribe or resume that comes next; the stream goes on at `next_sequence`.
    async fn subscribe(&mut self, next_sequence: u64) -> Message {
        let asked = self.heard().await.remove(0);
        let request = match &asked {
            Message::Subscribe(subscribe) => subscribe.request,
            Message::Resume(resume) => resume.request,
            other => panic!("{other:?}"),
        };
        let status = SubscriptionStatus::SUBSCRIBED;
        let class = ClassName::LATEST;
        let binding = Binding { stream: 5, topic: TOPIC.into(), class, next_sequence };
        self.say(&[
            Acknowledge { request, subscription: 1, status, epoch: 1, streams: 1 }.into(),
            Bind { subscription: 1, bindings: vec![binding] }.into(),
        ])
        .await;
        asked
    }
}

/// The sequence of the next data of a subscription, whatever comes before it.
async fn next_data(subscription: &mut Subscription) -> u64 {
    loop {
        if let ClientEvent::Data(data) = soon(subscription.next()).await.expect("more") {
            return data.sequence();
        }
    }
}

#[tokio::test]
async fn a_subscription_lives_through_a_lost_connection() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        assert!(matches!(peer.subscribe(1).await, Message::Subscribe(_)));
        peer.binary([data_frame(1), data_frame(2)].concat()).await;
        peer.write(WsFrame::close(1012, b"service_restart")).await;
        assert_eq!(peer.closed().await, 1012);
        drop(peer);
        let mut peer = server.accept().await;
        let Message::Resume(resume) = peer.subscribe(3).await else { panic!("not resumed") };
        assert_eq!(resume.positions[0].sequence, 2);
        peer.binary(data_frame(3)).await;
        peer.binary(data_frame(6)).await;
        peer.heard().await
    };
    let client = async {
        let (client, mut events) = Client::connect(server.options()).await.unwrap();
        assert_eq!(
            (client.state(), client.server().unwrap().server),
            (ClientState::Connected, "script".into())
        );
        let mut ticks = client.subscribe("market_data.*", SubscribeOptions::default()).await.unwrap();
        for sequence in [1, 2, 3] {
            assert_eq!(next_data(&mut ticks).await, sequence);
        }
        let ClientEvent::Gap(gap) = soon(ticks.next()).await.unwrap() else { panic!("no gap") };
        assert_eq!((gap.from, gap.through, gap.reason), (4, 5, GapReason::Unexplained));
        assert_eq!(next_data(&mut ticks).await, 6);
        assert_eq!(ticks.state(), SubscriptionState::Live);
        let accounts = ticks.accounts();
        assert_eq!((accounts[0].0.as_str(), accounts[0].2.received, accounts[0].2.gapped), (TOPIC, 4, 2));
        let mut closes = Vec::new();
        while let Some(event) = events.try_next() {
            if let ClientEvent::State(change) = event {
                closes.extend(change.close.map(|close| (close.code, close.reason)));
            }
        }
        assert_eq!(closes, [(1012, "service_restart".to_owned())]);
        drop(ticks);
        (client, events)
    };
    let (heard, (client, mut events)) = tokio::join!(script, client);
    assert!(matches!(&heard[..], [Message::Unsubscribe(_)]), "a dropped subscription is ended: {heard:?}");
    drop(client);
    while soon(events.next()).await.is_some() {}
}

#[tokio::test]
async fn a_watched_subscription_is_told_in_batches_with_the_clients_events() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        peer.subscribe(1).await;
        for sequence in 1..=500 {
            peer.binary(data_frame(sequence)).await;
        }
        peer.closed().await
    };
    let client = async {
        let (client, mut events) = Client::connect(server.options()).await.unwrap();
        let key = client.watch("market_data.*", SubscribeOptions::default()).unwrap();
        let (mut seen, mut batch) = (0, Vec::new());
        while seen < 500 {
            assert!(soon(events.next_batch(&mut batch, 64)).await <= 64);
            for event in batch.drain(..) {
                if let ClientEvent::Data(data) = event {
                    seen += 1;
                    assert_eq!((data.subscription, data.sequence()), (key, seen));
                }
            }
        }
        assert!(client.totals().balances());
        assert_eq!(client.close(Duration::from_secs(1)).await, 0);
    };
    assert_eq!(tokio::join!(script, client).0, 1000);
}

#[tokio::test]
async fn a_slow_reader_stops_the_reading_of_the_socket_and_loses_nothing() {
    let server = Server::new().await;
    let (stuck, go_on) = oneshot::channel();
    let script = async {
        let mut peer = server.accept().await;
        peer.subscribe(1).await;
        // Until nothing more fits anywhere between the two.
        let mut sequence = 0;
        loop {
            let message: Vec<u8> = (0..100).flat_map(|offset| data_frame(sequence + 1 + offset)).collect();
            sequence += 100;
            let message = WsFrame::binary(Payload::Owned(message));
            let write = peer.socket.write_frame(message);
            tokio::pin!(write);
            if tokio::time::timeout(Duration::from_millis(300), &mut write).await.is_err() {
                stuck.send(sequence).unwrap();
                soon(write).await.unwrap();
                break;
            }
        }
        peer
    };
    let client = async {
        let mut options = server.options();
        options.events_max = 8;
        let (client, _) = Client::connect(options).await.unwrap();
        let mut ticks = client.subscribe("market_data.*", SubscribeOptions::default()).await.unwrap();
        let last = soon(go_on).await.unwrap();
        for sequence in 1..=last {
            assert_eq!(next_data(&mut ticks).await, sequence);
        }
        assert_eq!(client.stats().unexplained, 0);
        ticks
    };
    tokio::join!(script, client);
}

#[tokio::test]
async fn a_publisher_gets_replies_and_flushes_before_it_goes() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        let heard = peer.heard().await;
        let [Message::Publish(publish), Message::MarketData(_)] = &heard[..] else { panic!("{heard:?}") };
        let reply = Published {
            request: publish.request,
            status: PublishStatus::ACCEPTED,
            topic: TOPIC.into(),
            sequence: 9,
            durability: publish.durability,
            code: 0,
            field: String::new(),
            message: String::new(),
            position: 0,
            queued: 0,
            full: Vec::new(),
        };
        peer.say(&[reply.into()]).await;
        let mut ticks = 0;
        loop {
            let frame = soon(peer.socket.read_frame()).await.unwrap();
            if frame.opcode == OpCode::Close {
                return ticks;
            }
            ticks += Frames::new(&frame.payload, 65_536).count();
        }
    };
    let client = async {
        let publisher = Publisher::connect(server.options()).await.unwrap();
        let outcome = soon(publisher.publish_acked(&tick())).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted { sequence: 9, .. }), "{outcome:?}");
        for _ in 0..5_000 {
            publisher.publish(&tick()).unwrap();
        }
        publisher.skip(TOPIC, 2).unwrap();
        soon(publisher.close(Duration::from_secs(5))).await
    };
    assert_eq!(tokio::join!(script, client), (5_001, 0));
}

#[tokio::test]
async fn a_publish_whose_connection_ends_is_unknown_not_lost_in_silence() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        peer.heard().await;
        drop(peer);
        server.accept().await
    };
    let client = async {
        let publisher = Publisher::connect(server.options()).await.unwrap();
        (soon(publisher.publish_acked(&tick())).await, publisher)
    };
    let (_peer, (outcome, _publisher)) = tokio::join!(script, client);
    assert_eq!(outcome, Ok(Outcome::Unknown));
}

#[tokio::test]
async fn pings_are_answered_and_fragments_joined() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        peer.subscribe(1).await;
        peer.write(WsFrame::new(true, OpCode::Ping, None, Payload::Borrowed(b"hi"))).await;
        let data = data_frame(1);
        peer.write(WsFrame::new(false, OpCode::Binary, None, Payload::Borrowed(&data[..30]))).await;
        peer.write(WsFrame::new(true, OpCode::Continuation, None, Payload::Borrowed(&data[30..]))).await;
        let pong = soon(peer.socket.read_frame()).await.unwrap();
        assert_eq!((pong.opcode, &pong.payload[..]), (OpCode::Pong, &b"hi"[..]));
        peer
    };
    let client = async {
        let (client, _) = Client::connect(server.options()).await.unwrap();
        let mut ticks = client.subscribe("market_data.*", SubscribeOptions::default()).await.unwrap();
        assert_eq!(next_data(&mut ticks).await, 1);
        ticks
    };
    tokio::join!(script, client);
}

#[tokio::test]
async fn a_first_attempt_that_fails_says_why() {
    let server = Server::new().await;
    let body = "HTTP/1.1 400 Bad Request\r\ncontent-length: 20\r\n\r\nno such\nsubprotocol\x1b";
    let (_, error) = tokio::join!(server.answer(body), Client::connect(server.options()));
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("/ws answered 400: no such subprotocol"), "{error}");

    let plain = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let (_, error) = tokio::join!(server.answer(plain), Client::connect(server.options()));
    assert!(matches!(error, Err(ConnectError::Dial(DialError::Subprotocol { .. }))));

    let (_, error) = tokio::join!(server.answer("SSH-2.0-x\r\n"), Client::connect(server.options()));
    assert!(matches!(error, Err(ConnectError::Dial(DialError::Http { .. }))));

    let forbidding = async {
        let mut peer = server.upgrade().await;
        peer.heard().await;
        peer.write(WsFrame::close(4503, b"forbidden: not you")).await;
        peer
    };
    let (_peer, error) = tokio::join!(forbidding, Client::connect(server.options()));
    let error = error.unwrap_err();
    assert!(matches!(&error, ConnectError::Closed(close) if close.code == 4503), "{error}");
    assert_eq!(error.to_string(), "closed with 4503: forbidden: not you");

    // Accepted by the kernel and never answered.
    let mut options = server.options();
    options.connect_timeout = Duration::from_millis(50);
    let error = soon(Client::connect(options)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::Timeout { .. })));

    let options = server.options();
    drop(server);
    let error = soon(Client::connect(options)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial(DialError::Socket { .. })));
    let error = Client::connect(ClientOptions::new("wss://localhost/ws")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Url(UrlError::Tls)));
}

#[tokio::test]
async fn a_client_may_start_before_its_server() {
    let reserved = Server::new().await;
    let (options, address) = (reserved.options(), reserved.listener.local_addr().unwrap());
    drop(reserved);
    let (client, mut events) = Client::start(options).unwrap();
    let key = client.watch("market_data.*", SubscribeOptions::default()).unwrap();
    // At least one attempt has failed.
    while !matches!(soon(events.next()).await, Some(ClientEvent::State(change)) if change.close.is_some()) {}
    let server = Server { listener: TcpListener::bind(address).await.unwrap() };
    let mut peer = server.accept().await;
    peer.subscribe(1).await;
    while !matches!(soon(events.next()).await, Some(ClientEvent::Bound { subscription, .. }) if subscription == key)
    {
    }
}

#[tokio::test]
async fn after_a_close_that_says_stop_everyone_learns_it() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        peer.subscribe(1).await;
        peer.write(WsFrame::close(4501, b"unauthenticated")).await;
        peer.closed().await
    };
    let client = async {
        let (client, mut events) = Client::connect(server.options()).await.unwrap();
        let mut ticks = client.subscribe("market_data.*", SubscribeOptions::default()).await.unwrap();
        while soon(ticks.next()).await.is_some() {}
        let mut last = None;
        while let Some(event) = soon(events.next()).await {
            if let ClientEvent::State(change) = event {
                last = Some((change.to, change.will_retry));
            }
        }
        assert_eq!(last, Some((ClientState::Disconnected, false)));
        let again = client.subscribe("market_data.*", SubscribeOptions::default()).await;
        assert_eq!(again.unwrap_err(), SubscribeError::Closed);
    };
    tokio::join!(script, client);
}

#[tokio::test]
async fn an_unanswered_subscribe_is_given_up() {
    let server = Server::new().await;
    let script = async {
        let mut peer = server.accept().await;
        assert!(matches!(peer.heard().await[..], [Message::Subscribe(_)]));
        peer
    };
    let client = async {
        let mut options = server.options();
        options.subscribe_timeout = Duration::from_millis(100);
        let (client, events) = Client::connect(options).await.unwrap();
        let error = client.subscribe("market_data.*", SubscribeOptions::default()).await.unwrap_err();
        assert_eq!(error, SubscribeError::Timeout(Duration::from_millis(100)));
        assert!(matches!(
            client.subscribe("market_dat.*", SubscribeOptions::default()).await,
            Err(SubscribeError::Filter(_))
        ));
        events
    };
    tokio::join!(script, client);
}
