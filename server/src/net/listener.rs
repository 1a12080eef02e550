//! Accepting connections: bound, counted, and never spinning when descriptors run out.
#![forbid(unsafe_code)]

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
use tokio::time::timeout;

use super::http::Front;

/// Pending connections the kernel holds for us.
const BACKLOG: i32 = 4_096;
/// First pause when accepting fails; it doubles up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
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
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "cannot accept");
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
        turn_away(stream, "limits.connections");
        return;
    };
    let Some(handshake) = Place::take(&front.handshakes, front.config.limits.handshakes) else {
        front.metrics.limit_hit("limits.handshakes");
        front.metrics.counters.handshake_failures.add("handshake_limit");
        turn_away(stream, "limits.handshakes");
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
            .max_headers(limits.headers * 2)
            .half_close(false);
        let connection = Rc::new(connection);
        let service = {
            let front = front.clone();
            hyper::service::service_fn(move |request| {
                let (front, place) = (front.clone(), connection.clone());
                async move { Ok::<_, std::convert::Infallible>(front.handle(request, place).await) }
            })
        };
        let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        drop(handshake);
        if let Err(error) = served {
            if error.is_timeout() {
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
fn turn_away(mut stream: TcpStream, limit: &'static str) {
    task::spawn_local(async move {
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
