//! Every HTTP endpoint of the front thread, upgrades included.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task;
use tokio::time::timeout;

use super::listener::Place;
use super::origin::OriginPolicy;
use super::shards::{Adopted, Shards};
use super::upgrade::{self, Speaks};
use crate::auth::Principal;
use crate::config::Config;
use crate::ingest::{Ingest, NOBODY};
use crate::metrics::Metrics;
use crate::publish_api;
use crate::status::Status;

/// Questions to the journal under way at once; others wait. Its thread answers them between commits, and a list of
/// all identities takes as long as many publishes.
const QUESTIONS_MAX: usize = 4;
/// How long an accepted handshake may take to hand its socket over.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

type Answer = Response<Full<Bytes>>;

/// What the front thread needs to serve requests.
pub struct Front {
    /// The settings.
    pub config: Arc<Config>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The door for publishes.
    pub ingest: Arc<Ingest>,
    /// Where upgraded sockets go.
    pub shards: Arc<Shards>,
    /// What the status endpoints say.
    pub status: Arc<Status>,
    /// Which pages may come.
    pub origins: OriginPolicy,
    /// Connections open, handshakes included.
    pub connections: Arc<AtomicUsize>,
    /// Most of them.
    pub connections_max: usize,
    /// Handshakes and requests in flight.
    pub handshakes: Arc<AtomicUsize>,
    /// Connections over the limit that are being told so.
    pub turned_away: Arc<AtomicUsize>,
    /// Set while draining: not ready, no new upgrades.
    pub draining: Arc<AtomicBool>,
    /// The last connection's number.
    pub connection_ids: AtomicU64,
    /// See [`Front::questions`].
    pub questions: Semaphore,
}

impl Front {
    /// Turns of requests that ask the journal something.
    #[must_use]
    pub fn questions() -> Semaphore {
        Semaphore::new(QUESTIONS_MAX)
    }

    /// Answers one request; never fails, so that the connection always gets a response.
    pub async fn handle(self: Rc<Self>, request: Request<Incoming>, place: Rc<Place>) -> Answer {
        let answer = self.route(request, place).await;
        self.metrics.counters.http.add(status_label(answer.status()));
        answer
    }

    async fn route(self: &Rc<Self>, request: Request<Incoming>, place: Rc<Place>) -> Answer {
        let headers = request.headers();
        if headers.len() > self.config.limits.headers {
            self.metrics.limit_hit("limits.headers");
            let detail = format!(
                "{} headers; the limit is limits.headers = {}",
                headers.len(),
                self.config.limits.headers
            );
            return problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "BAD_REQUEST", "", &detail);
        }
        if !self.origins.admits(headers) {
            self.metrics.counters.handshake_failures.add("origin");
            let detail = "this Host or web origin is not known here: call the server by a loopback name, or add the origin to server.allowed_origins";
            return problem(StatusCode::FORBIDDEN, "FORBIDDEN", "", detail);
        }
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/ws" | "/ws/realtime" => self.websocket(request, place).await,
            "/api/v1/publish" => self.publish(request).await,
            "/api/v1/identities" if request.method() == Method::GET => self.identities().await,
            _ if path.starts_with(IDENTITIES) && request.method() == Method::DELETE => {
                self.forget(request.uri()).await
            }
            _ if path.starts_with(ALERTS) && request.method() == Method::GET => {
                self.alert(request.uri()).await
            }
            _ if request.method() != Method::GET && request.method() != Method::HEAD => {
                let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", "", "use GET");
                answer.headers_mut().insert("allow", HeaderValue::from_static("GET, HEAD"));
                answer
            }
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" if self.config.metrics.enabled => {
                let mut answer = text(StatusCode::OK, &self.status.scrape());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            "/version" => json(StatusCode::OK, self.status.version()),
            "/websocket/status" => json(StatusCode::OK, self.status.websocket_status()),
            "/" => text(StatusCode::OK, WELCOME),
            _ => {
                let detail = "known paths: /ws /ws/realtime /api/v1/publish /api/v1/alerts/ID /api/v1/identities /websocket/status /healthz /readyz /metrics /version";
                problem(StatusCode::NOT_FOUND, "NOT_FOUND", "", detail)
            }
        }
    }

    /// What became of a critical message: `/api/v1/alerts/{id}?publisher=NAME`.
    async fn alert(&self, uri: &Uri) -> Answer {
        let Some(alerts) = self.ingest.alerts() else { return no_journal() };
        let text = |encoded: &str| percent_decode_str(encoded).decode_utf8().map(Cow::into_owned);
        let id = text(uri.path().strip_prefix(ALERTS).unwrap_or_default());
        let asked =
            uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("publisher="));
        let publisher = text(asked.unwrap_or(NOBODY));
        let (Ok(id), Ok(publisher)) = (id, publisher) else {
            return problem(
                StatusCode::BAD_REQUEST,
                "INVALID_FIELD",
                "id",
                "id and publisher are UTF-8, percent-encoded",
            );
        };
        let _turn = self.questions.acquire().await;
        let (sender, answer) = oneshot::channel();
        // Nobody listens any more when the request was given up.
        alerts.status(&publisher, &id, Box::new(move |status| drop(sender.send(status))));
        match answer.await {
            Ok(Ok(Some(status))) => {
                let body = serde_json::json!({
                    "id": id,
                    "publisher": publisher,
                    "position": status.position,
                    "sequence": status.sequence,
                    "recipients": {
                        "pending": status.pending,
                        "acked": status.acked,
                        "expired": status.expired,
                        "revoked": status.revoked,
                        "superseded": status.superseded,
                    },
                    "removed": status.removed,
                });
                json(StatusCode::OK, body.to_string())
            }
            Ok(Ok(None)) => {
                let detail = format!("no critical message of publisher `{publisher}` with this id is known");
                problem(StatusCode::NOT_FOUND, "NOT_FOUND", "id", &detail)
            }
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(_) => unavailable("the server is shutting down; ask again shortly"),
        }
    }

    /// Every identity, with how much waits for it.
    async fn identities(&self) -> Answer {
        let Some(alerts) = self.ingest.alerts() else { return no_journal() };
        let _turn = self.questions.acquire().await;
        let (sender, answer) = oneshot::channel();
        alerts.waiting(Box::new(move |waiting| drop(sender.send(waiting))));
        match answer.await {
            Ok(Ok(all)) => {
                let all = all
                    .iter()
                    .map(|(name, waiting)| serde_json::json!({"identity": &**name, "waiting": waiting}));
                json(StatusCode::OK, serde_json::Value::from_iter(all).to_string())
            }
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(_) => unavailable("the server is shutting down; ask again shortly"),
        }
    }

    /// Forgets an identity and what waits for it.
    async fn forget(&self, uri: &Uri) -> Answer {
        let Some(alerts) = self.ingest.alerts() else { return no_journal() };
        if let Err(denied) = self.ingest.authorizer().may_connect_as_publisher(&Principal::Anonymous) {
            return problem(StatusCode::FORBIDDEN, "FORBIDDEN", "", denied.message);
        }
        let name = uri.path().strip_prefix(IDENTITIES).unwrap_or_default();
        let Ok(name) = percent_decode_str(name).decode_utf8() else {
            return problem(
                StatusCode::BAD_REQUEST,
                "INVALID_FIELD",
                "identity",
                "an identity is UTF-8, percent-encoded",
            );
        };
        let _turn = self.questions.acquire().await;
        let (sender, answer) = oneshot::channel();
        alerts.forget(&name, self.ingest.now(), Box::new(move |forgotten| drop(sender.send(forgotten))));
        match answer.await {
            Ok(Ok(true)) => json(StatusCode::OK, serde_json::json!({"forgotten": name}).to_string()),
            Ok(Ok(false)) => {
                problem(StatusCode::NOT_FOUND, "NOT_FOUND", "identity", "no identity has this name")
            }
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(_) => unavailable("the server is shutting down; ask again shortly"),
        }
    }

    fn ready(&self) -> Answer {
        let draining = self.draining.load(Ordering::Acquire);
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        json(status, self.status.readiness(draining))
    }

    async fn websocket(self: &Rc<Self>, mut request: Request<Incoming>, place: Rc<Place>) -> Answer {
        // Plain /ws speaks the dialect of `json.ws_dialect`, of which there is one so far.
        let checked = upgrade::check(&request, Speaks::D1).and_then(|(speaks, subprotocol)| {
            // Binary peers identify themselves by a message.
            let client_id = if speaks == Speaks::Binary { None } else { upgrade::client_id(request.uri())? };
            Ok((speaks, subprotocol, client_id))
        });
        let (speaks, subprotocol, client_id) = match checked {
            Ok(chosen) => chosen,
            Err(refused) => {
                self.metrics.counters.handshake_failures.add(refused.reason);
                let (code, field) = match refused.reason {
                    "subprotocol" => ("UNSUPPORTED_FORMAT", ""),
                    "client_id" => ("INVALID_FIELD", "client_id"),
                    _ => ("BAD_REQUEST", ""),
                };
                let mut answer = problem(refused.status, code, field, refused.detail);
                if refused.status == StatusCode::METHOD_NOT_ALLOWED {
                    answer.headers_mut().insert("allow", HeaderValue::from_static("GET"));
                }
                if refused.status == StatusCode::UPGRADE_REQUIRED {
                    answer.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
                    answer.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
                }
                return answer;
            }
        };
        if self.draining.load(Ordering::Acquire) {
            self.metrics.counters.handshake_failures.add("draining");
            return unavailable("the server is shutting down; come back shortly");
        }
        // Ours first: fastwebsockets takes the same extension away, and only the first taker gets the socket.
        let on_upgrade = hyper::upgrade::on(&mut request);
        let Ok((response, _)) = fastwebsockets::upgrade::upgrade(&mut request) else {
            self.metrics.counters.handshake_failures.add("key");
            return problem(StatusCode::BAD_REQUEST, "BAD_REQUEST", "", "not a WebSocket handshake");
        };
        let mut response = response.map(|_| Full::default());
        if let Some(subprotocol) = subprotocol {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        let front = self.clone();
        task::spawn_local(async move {
            if timeout(UPGRADE_TIMEOUT, front.hand_over(on_upgrade, speaks, client_id, place)).await.is_err()
            {
                front.metrics.counters.handshake_failures.add("timeout");
            }
        });
        response
    }

    /// Takes the socket back from hyper and gives it, with what was read past the handshake, to a shard.
    async fn hand_over(
        &self,
        on_upgrade: OnUpgrade,
        speaks: Speaks,
        client_id: Option<Box<str>>,
        place: Rc<Place>,
    ) {
        let upgraded = match on_upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::debug!(%error, "the handshake was not completed");
                return self.metrics.counters.handshake_failures.add("incomplete");
            }
        };
        let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<TcpStream>>() else {
            tracing::error!("an upgraded connection is not the socket it was made from");
            return;
        };
        let Ok(stream) = io.into_inner().into_std() else { return };
        // The service that shares the place is gone with the HTTP connection; until then the clone here
        // keeps the count right.
        let place = Rc::try_unwrap(place).ok();
        self.metrics.counters.opened.add(speaks.name());
        self.shards.adopt(Adopted {
            stream,
            leftover: read_buf.to_vec(),
            speaks,
            client_id,
            connection: self.connection_ids.fetch_add(1, Ordering::Relaxed) + 1,
            place,
        });
    }

    async fn publish(self: &Rc<Self>, request: Request<Incoming>) -> Answer {
        if request.method() != Method::POST {
            let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", "", "use POST");
            answer.headers_mut().insert("allow", HeaderValue::from_static("POST"));
            return answer;
        }
        if let Err(denied) = self.ingest.authorizer().may_connect_as_publisher(&Principal::Anonymous) {
            return problem(StatusCode::FORBIDDEN, "FORBIDDEN", "", denied.message);
        }
        let Some(form) = publish_api::Form::of(content_type(request.headers())) else {
            let detail =
                "send application/json (one message or an array) or application/x-ndjson (one a line)";
            return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_FORMAT", "content-type", detail);
        };
        let limits = &self.config.limits;
        let body = Limited::new(request.into_body(), limits.publish_request_bytes);
        let body = match timeout(limits.message_timeout, body.collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                self.metrics.limit_hit("limits.publish_request_bytes");
                let detail = format!(
                    "the body is larger than limits.publish_request_bytes = {}; send it in parts",
                    limits.publish_request_bytes
                );
                return problem(StatusCode::PAYLOAD_TOO_LARGE, "MESSAGE_TOO_LARGE", "", &detail);
            }
            Ok(Err(_)) => return problem(StatusCode::BAD_REQUEST, "BAD_REQUEST", "", "the body ended early"),
            Err(_) => {
                self.metrics.limit_hit("limits.message_timeout");
                let detail = "the body did not arrive within limits.message_timeout";
                return problem(StatusCode::REQUEST_TIMEOUT, "BAD_REQUEST", "", detail);
            }
        };
        match publish_api::publish(&self.ingest, &self.metrics, limits, form, &body) {
            Ok(replies) => json(StatusCode::OK, replies.written().await),
            Err(problem_found) => problem(
                problem_found.status,
                problem_found.code.name(),
                &problem_found.field,
                &problem_found.message,
            ),
        }
    }
}

/// Where an identity is forgotten.
const IDENTITIES: &str = "/api/v1/identities/";
/// Where critical messages are asked after.
const ALERTS: &str = "/api/v1/alerts/";

const WELCOME: &str = "Tickcast\n\n\
  /ws                 WebSocket: binary with subprotocol tickcast.v2, else JSON v1.0\n\
  /ws/realtime        WebSocket: JSON v1.0 (dialect D1)\n\
  /api/v1/publish     POST one message, an array, or NDJSON\n\
  /api/v1/alerts/ID   what became of a critical message\n\
  /api/v1/identities  for whom critical messages wait; DELETE .../NAME forgets one\n\
  /websocket/status   connections and stream health\n\
  /healthz /readyz    alive, ready\n\
  /metrics            Prometheus\n\
  /version            versions\n";

fn no_journal() -> Answer {
    let detail = "this server keeps no critical messages (alerts.min_durability is \"memory\")";
    problem(StatusCode::NOT_FOUND, "NOT_DURABLE", "", detail)
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        101 => "101",
        200 => "200",
        400 => "400",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        415 => "415",
        426 => "426",
        431 => "431",
        503 => "503",
        _ => "other",
    }
}

fn text(status: StatusCode, body: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", body.to_owned())
}

fn json(status: StatusCode, body: String) -> Answer {
    answer(status, "application/json", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

/// An error as `application/problem+json` (RFC 9457).
fn problem(status: StatusCode, code: &str, field: &str, detail: &str) -> Answer {
    let mut body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    if !field.is_empty() {
        body["field"] = field.into();
    }
    answer(status, "application/problem+json", body.to_string())
}

fn unavailable(detail: &str) -> Answer {
    let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "", detail);
    answer.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
    answer
}
