//! Accepting connections: bound, counted, and never spinning when descriptors run out.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task;
use tokio::time::{Instant, timeout};

use super::http::Front;

/// Pending connections the kernel holds for us.
const BACKLOG: i32 = 4_096;
/// First pause when accepting fails; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a connection may speak HTTP, keep-alive included, until it is asked to come again.
const HTTP_LIFE_MAX: Duration = Duration::from_secs(60);
/// Connections over the limit that are being told so; more are closed without a word.
const TURNED_AWAY_MAX: usize = 256;
/// Least time between two log lines about accepting.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer to a connection over the limit may take to leave.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_millis(200);

/// A place among a bounded number; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes a place, unless all `max` are taken.
    #[must_use]
    pub fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let count = |count: usize| (count < max).then_some(count + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, count).ok()?;
        Some(Self(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Binds `address`; port 0 takes a free one.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last server's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until `stop` says so. Runs on the front thread, which must be a local runtime.
pub async fn accept(listener: TcpListener, front: Rc<Front>, mut stop: watch::Receiver<bool>) {
    let mut pause = PAUSE_FIRST;
    let mut logged_at: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = PAUSE_FIRST;
                serve(stream, &front);
            }
            Err(error) => {
                // Out of descriptors, or a connection that died in the queue: wait, then go on.
                front.metrics.counters.handshake_failures.add("accept");
                if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                    logged_at = Some(Instant::now());
                    tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "cannot accept");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn serve(stream: TcpStream, front: &Rc<Front>) {
    let Some(connection) = Place::take(&front.connections, front.connections_max) else {
        front.metrics.limit_hit("limits.connections");
        front.metrics.counters.handshake_failures.add("connection_limit");
        turn_away(stream, "limits.connections", front);
        return;
    };
    let Some(handshake) = Place::take(&front.handshakes, front.config.limits.handshakes) else {
        front.metrics.limit_hit("limits.handshakes");
        front.metrics.counters.handshake_failures.add("handshake_limit");
        turn_away(stream, "limits.handshakes", front);
        return;
    };
    let _ = stream.set_nodelay(true);
    let front = front.clone();
    task::spawn_local(async move {
        let limits = &front.config.limits;
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.handshake_timeout)
            .max_buf_size(limits.header_bytes)
            // The setting is enforced by the service, which can count it; this is the parser's memory.
            .max_headers(limits.headers * 2);
        let connection = Rc::new(connection);
        let has_asked = Rc::new(Cell::new(false));
        let service = {
            let (front, has_asked) = (front.clone(), has_asked.clone());
            hyper::service::service_fn(move |request| {
                has_asked.set(true);
                let (front, place) = (front.clone(), connection.clone());
                async move { Ok::<_, std::convert::Infallible>(front.handle(request, place).await) }
            })
        };
        let serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(serving);
        // hyper waits for ever on a peer that does not read its answers; nobody may hold a place that long.
        let served = match timeout(HTTP_LIFE_MAX, serving.as_mut()).await {
            Ok(served) => served,
            Err(_) => {
                serving.as_mut().graceful_shutdown();
                match timeout(limits.message_timeout, serving).await {
                    Ok(served) => served,
                    Err(_) => return front.metrics.limit_hit("limits.message_timeout"),
                }
            }
        };
        drop(handshake);
        if let Err(error) = served {
            if error.is_timeout() {
                if has_asked.get() {
                    // A connection kept for a next request that did not come: the usual end of one.
                    return;
                }
                front.metrics.limit_hit("limits.handshake_timeout");
                front.metrics.counters.handshake_failures.add("timeout");
            } else if error.is_parse_too_large() {
                front.metrics.limit_hit("limits.header_bytes");
                front.metrics.counters.handshake_failures.add("header_bytes");
            } else if error.is_parse() {
                front.metrics.counters.handshake_failures.add("malformed");
            }
        }
    });
}

/// Answers 503 without reading anything.
fn turn_away(mut stream: TcpStream, limit: &'static str, front: &Front) {
    let Some(place) = Place::take(&front.turned_away, TURNED_AWAY_MAX) else { return };
    task::spawn_local(async move {
        let _place = place;
        let body = format!(
            "{{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"CONNECTION_LIMIT\",\
             \"detail\":\"the limit {limit} is reached; come back later\"}}"
        );
        let head = format!(
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
             content-type: application/problem+json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = head + &body;
        let _ = timeout(TURN_AWAY_TIMEOUT, async {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            // Closing with unread input would reset the connection and destroy the answer.
            let mut unread = [0; 1024];
            while tokio::io::AsyncReadExt::read(&mut stream, &mut unread).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    });
}
