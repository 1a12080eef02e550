//! What the tests over real sockets share: a server on a free port, a WebSocket client that can break
//! every rule, and small readers for what comes back. Everything waits with a deadline, nothing sleeps
//! for a fixed time.
#![allow(dead_code, unreachable_pub, reason = "each test file includes this one and uses its own part")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tickcast::clock::Clock;
use tickcast::config::{Config, Host, Settings};
use tickcast::feeds::run::FeedSpec;
use tickcast::ingest::{Source, Wishes};
use tickcast::server::{self, Running};
use tickcast_protocol::frame::{self, Frame, Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Hello, Message, Policy, Role, Start, Subscribe};
use tickcast_protocol::registry;

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Opcodes of RFC 6455.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A server in this process.
pub struct TestServer {
    pub running: Running,
}

/// The built-in defaults with these keys changed, on a free port, and without a journal unless asked for.
pub fn config(settings: &[(&str, &str)]) -> Config {
    let flags = [("server.listen", "127.0.0.1:0"), ("alerts.min_durability", "memory")];
    let flags = flags.iter().chain(settings);
    let flags = flags.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Settings::default().flags(flags.collect::<Vec<_>>()).check().expect("the test's settings are sound")
}

impl TestServer {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::with_feeds(settings, Vec::new())
    }

    pub fn with_feeds(settings: &[(&str, &str)], feeds: Vec<FeedSpec>) -> Self {
        let host = Host { cores: 2, descriptors: 10_000 };
        Self { running: server::start(config(settings), host, feeds).expect("the server starts") }
    }

    /// The same by a clock of the test's own.
    pub fn with_clock(settings: &[(&str, &str)], clock: Clock) -> Self {
        let host = Host { cores: 2, descriptors: 10_000 };
        let running = server::start_with_clock(config(settings), host, Vec::new(), clock);
        Self { running: running.expect("the server starts") }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address())
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        http(
            self.address(),
            &format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address()),
        )
    }

    pub fn post(&self, path: &str, content_type: &str, body: &str) -> (u16, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            self.address(),
            body.len()
        );
        http(self.address(), &(head + body))
    }

    /// The value of a series in a scrape, named in full with its labels; zero when it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.running.status().scrape();
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    pub fn limit_hits(&self, key: &str) -> f64 {
        self.metric(&format!("tickcast_limit_hits_total{{limit=\"{key}\"}}"))
    }

    /// Waits until `reached` says yes.
    pub fn wait_until(&self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !reached(self) {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::yield_now();
        }
    }

    pub fn publish(&self, message: &Message) {
        let ingest = self.running.ingest();
        ingest
            .publish_message(Source::Own, message, Wishes::default(), || Box::new(drop))
            .unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
    }
}

/// Sends raw bytes and reads the whole answer: status and body.
pub fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let (status, _, body) = http_full(address, request);
    (status, body)
}

/// Sends raw bytes and reads the whole answer: status, head and body.
pub fn http_full(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).expect("connects");
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may answer and close before it has read everything.
    let _ = tcp.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (status, head.to_owned(), body.to_owned())
}

/// A message as the socket brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Arrived {
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.opcode, TEXT, "{self:?}");
        serde_json::from_slice(&self.payload).expect("JSON")
    }

    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// A blocking WebSocket client that sends what it is told, however wrong.
pub struct Raw {
    pub tcp: TcpStream,
    /// Whether pings are answered while messages are read; a silent peer does not.
    pub answers_pings: bool,
    buffer: Vec<u8>,
}

impl Raw {
    /// Upgrades; an answer other than 101 is the error.
    pub fn connect(
        address: SocketAddr,
        path: &str,
        subprotocol: Option<&str>,
    ) -> Result<Self, (u16, String)> {
        let offer = subprotocol.map_or(String::new(), |offer| format!("sec-websocket-protocol: {offer}\r\n"));
        Self::connect_with(address, path, &offer)
    }

    pub fn connect_with(address: SocketAddr, path: &str, headers: &str) -> Result<Self, (u16, String)> {
        Self::upgrade(TcpStream::connect(address).expect("connects"), address, path, headers)
    }

    /// The same on a socket that is connected already.
    pub fn upgrade(
        mut tcp: TcpStream,
        address: SocketAddr,
        path: &str,
        headers: &str,
    ) -> Result<Self, (u16, String)> {
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        tcp.write_all(request.as_bytes()).expect("writes");
        let mut raw = Self { tcp, answers_pings: false, buffer: Vec::new() };
        let head_end = loop {
            if let Some(at) = raw.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if raw.fill().unwrap_or(0) == 0 {
                break raw.buffer.len();
            }
        };
        let head = String::from_utf8_lossy(&raw.buffer[..head_end]).into_owned();
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        raw.buffer.drain(..head_end);
        if status == 101 {
            return Ok(raw);
        }
        // The connection may be kept alive: the length says where the answer ends.
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        while raw.buffer.len() < length.unwrap_or(usize::MAX) && raw.fill().unwrap_or(0) > 0 {}
        Err((status, head + &String::from_utf8_lossy(&raw.buffer)))
    }

    /// A binary client that has said hello and was welcomed.
    pub fn binary(address: SocketAddr, role: Role) -> Self {
        Self::binary_that_reads(0, address, role)
    }

    /// The same, which offers these codecs.
    pub fn binary_that_reads(codecs: u8, address: SocketAddr, role: Role) -> Self {
        let mut raw = Self::connect(address, "/ws", Some("tickcast.v2")).expect("upgrades");
        raw.say(&Message::Hello(Hello { role, name: "test".into(), client: "test".into(), codecs }));
        let welcome = raw.message();
        assert!(matches!(welcome, Message::Welcome(_)), "{welcome:?}");
        raw
    }

    /// A binary subscriber whose kernel takes hardly anything before it is read.
    pub fn binary_with_little_room(address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        // Before the connect, or the window is larger already.
        socket.set_recv_buffer_size(4 * 1024).expect("a receive buffer");
        socket.connect(&address.into()).expect("connects");
        let offer = "sec-websocket-protocol: tickcast.v2\r\n";
        let mut raw = Self::upgrade(socket.into(), address, "/ws", offer).expect("upgrades");
        raw.say(&Message::Hello(Hello {
            role: Role::SUBSCRIBER,
            name: "slow".into(),
            client: "test".into(),
            codecs: 0,
        }));
        let welcome = raw.message();
        assert!(matches!(welcome, Message::Welcome(_)), "{welcome:?}");
        raw
    }

    /// A D1 client that was greeted.
    pub fn d1(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address, "/ws/realtime", None).expect("upgrades");
        let greeting = raw.next().json();
        assert_eq!(greeting["message_type"], "connection_status", "{greeting}");
        raw
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = loop {
            match self.tcp.read(&mut chunk) {
                // The kernel does not take up a read with a timeout again, such as after the end of the ring
                // that was made on this thread to see whether there is io_uring.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                count => break count?,
            }
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).expect("writes");
    }

    /// A whole masked frame.
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.send_bytes(&masked(0x80 | opcode, payload));
    }

    pub fn send_text(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
    }

    pub fn say(&mut self, message: &Message) {
        self.send(BINARY, &frame::encode(message));
    }

    pub fn subscribe(&mut self, request: u64, filter: &str, start: Start) {
        self.say(&Message::Subscribe(Subscribe {
            request,
            filter: filter.into(),
            start,
            policy: Policy::DEFAULT,
            predicate: String::new(),
            max_hz: 0.0,
        }));
    }

    /// The next message, pings and pongs left out; `None` when the server hung up.
    pub fn try_next(&mut self) -> Option<Arrived> {
        loop {
            if let Some(arrived) = self.take() {
                if matches!(arrived.opcode, PING | PONG) {
                    if arrived.opcode == PING && self.answers_pings {
                        self.send(PONG, &arrived.payload);
                    }
                    continue;
                }
                return Some(arrived);
            }
            match self.fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came within {PATIENCE:?}: {error}"),
            }
        }
    }

    pub fn next(&mut self) -> Arrived {
        self.try_next().expect("the server is still there")
    }

    /// The next control message of a binary connection, data frames left out.
    pub fn message(&mut self) -> Message {
        loop {
            let arrived = self.next();
            assert_eq!(arrived.opcode, BINARY, "{arrived:?} {}", String::from_utf8_lossy(&arrived.payload));
            for frame in Frames::new(&arrived.payload, PAYLOAD_BYTES_MAX) {
                let frame = frame.expect("a sound frame");
                if frame.header.type_id < registry::DATA_FIRST {
                    return frame.view().expect("a sound payload").to_owned();
                }
            }
        }
    }

    /// The next data frame of a binary connection: its header as it came, and the message.
    pub fn data(&mut self) -> (tickcast_protocol::Header, Message) {
        loop {
            let arrived = self.next();
            assert_eq!(arrived.opcode, BINARY, "{arrived:?}");
            let (frame, _) = Frame::split_first(&arrived.payload, PAYLOAD_BYTES_MAX).expect("a sound frame");
            if frame.header.type_id >= registry::DATA_FIRST {
                let (header, payload) = frame.decompress(&mut BytesMut::new()).expect("a sound block");
                let whole = Frame { header, payload: &payload };
                return (frame.header, whole.view().expect("a sound payload").to_owned());
            }
        }
    }

    /// Reads up to the close frame and returns its code; `None` when the server hung up without one.
    pub fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.try_next() {
                None => return None,
                Some(arrived) if arrived.opcode == CLOSE => return Some(arrived.close_code()),
                Some(_) => {}
            }
        }
    }

    /// The first whole frame of the buffer. Servers send unmasked, unfragmented frames.
    fn take(&mut self) -> Option<Arrived> {
        let [first, second, rest @ ..] = self.buffer.as_slice() else { return None };
        assert_eq!(first & 0x70, 0, "a reserved bit is set");
        assert_eq!(first & 0x80, 0x80, "a server does not fragment");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (length, head) = match second & 0x7F {
            126 if rest.len() >= 2 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 4),
            127 if rest.len() >= 8 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, 10),
            126 | 127 => return None,
            short => (usize::from(short), 2),
        };
        if self.buffer.len() < head + length {
            return None;
        }
        let arrived = Arrived { opcode: first & 0x0F, payload: self.buffer[head..head + length].to_vec() };
        self.buffer.drain(..head + length);
        Some(arrived)
    }
}

/// A masked frame with this first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

/// A sample of a data type, every optional part filled.
pub fn sample(name: &str) -> Message {
    Message::sample(registry::by_name(name).expect("a registered type"), true)
}

/// A tick.
pub fn tick(symbol: &str, price: &str) -> Message {
    let Message::MarketData(mut tick) = sample("market_data") else { panic!("market_data") };
    tick.symbol = symbol.into();
    tick.price = Some(price.parse().expect("a decimal"));
    Message::MarketData(tick)
}
