//! The admin listener of every instance: health, metrics, the configuration in force, endpoints,
//! drain, log level. Not for traffic. HTTP/1.1 on the control runtime; loopback unless a token is
//! set.
//!
//! Invariant: reading never changes anything, and without the token nothing but health answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Metrics;
use super::log::LogLevel;
use crate::lifecycle::{Lifecycle, Phase, Shutdown};
use crate::secret::Secret;

/// More at once is no operator.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a tier shows of itself.
pub trait Inspect: Send + Sync {
    /// The configuration in force, secrets left out.
    fn config(&self) -> serde_json::Value;
    /// Why the instance cannot serve yet; empty: it can.
    fn unready(&self) -> Vec<String>;
    /// The few numbers of a live view.
    fn summary(&self) -> Summary;
    /// How long work took since the start: counts, each with the time in µs that it stands for.
    fn latency(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }
    /// A sample of the requests that ended last, at most so many, the newest last; more are kept for
    /// a while once it was asked for. `None`: the tier has none.
    fn requests(&self, most: usize) -> Option<Vec<serde_json::Value>> {
        let _ = most;
        None
    }
    /// Whom limits refused most. `None`: the tier has no such limits.
    fn limited(&self) -> Option<serde_json::Value> {
        None
    }
    /// Who calls which version of an interface. `None`: the tier knows none.
    fn callers(&self) -> Option<serde_json::Value> {
        None
    }
    /// Rate, errors and quantiles of each part of the traffic. `None`: the tier counts all of it as one.
    fn traffic(&self) -> Option<serde_json::Value> {
        None
    }
    /// Series beside those of the process, in Prometheus' text format; made for each scrape.
    fn series(&self) -> BoxFuture<'static, String> {
        Box::pin(std::future::ready(String::new()))
    }
    /// Services with their endpoints, their health and their load.
    fn endpoints(&self) -> serde_json::Value;
    /// The registries in which the instance is entered. `None`: the tier never is.
    fn registrations(&self) -> Option<serde_json::Value> {
        None
    }
    /// The flows that carried most bytes, at most so many. `None`: the tier has none, or is ending.
    fn flows(&self, most: usize) -> BoxFuture<'static, Option<serde_json::Value>> {
        let _ = most;
        Box::pin(std::future::ready(None))
    }
    /// Forgets kept answers; how many they were. `None`: the tier or the file keeps none.
    fn purge(&self, what: Purge<'_>) -> Option<usize> {
        let _ = what;
        None
    }
    /// Changes how an endpoint is used, until the process ends. `None`: there is no such endpoint,
    /// or the tier has none to change.
    fn adjust(&self, service: &str, endpoint: &str, wish: Adjust) -> Option<()> {
        let _ = (service, endpoint, wish);
        None
    }
}

/// Which kept answers an operator wants forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge<'a> {
    /// All variants of one URI.
    Uri(&'a str),
    /// All whose URI begins so.
    Prefix(&'a str),
    /// All.
    All,
}

impl<'a> Purge<'a> {
    /// From the query: `uri=…` or `prefix=…` to its end, as it stands, or `all`.
    fn read(query: &'a str) -> Option<Self> {
        match query.split_once('=') {
            None if query == "all" => Some(Self::All),
            Some(("uri", uri)) if uri.contains("://") => Some(Self::Uri(uri)),
            Some(("prefix", uri)) if uri.contains("://") => Some(Self::Prefix(uri)),
            _ => None,
        }
    }
}

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjust {
    /// Nothing new; what it has may finish.
    Drain,
    /// As the file has it again: neither drained nor of another weight.
    Enable,
    /// This share, whatever the file says; 0: nothing new.
    Weight(u16),
}

impl Adjust {
    /// From the last part of the path and the query.
    fn read(verb: &str, query: Option<&str>) -> Option<Self> {
        match verb {
            "drain" => Some(Self::Drain),
            "enable" => Some(Self::Enable),
            "weight" => {
                let value = query?.strip_prefix("value=")?.parse().ok()?;
                (value <= 1000).then_some(Self::Weight(value))
            }
            _ => None,
        }
    }
}

/// What [`Summary::work_total`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// HTTP requests.
    Requests,
    /// Datagrams from clients.
    Packets,
    /// SQL queries.
    Queries,
    /// TCP connections.
    Connections,
}

/// One line of a live view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What the work is.
    pub unit: Unit,
    /// Open now: connections, flows or clients.
    pub connections: u64,
    /// Done since the start.
    pub work_total: u64,
    /// Failed by our fault or a server's, since the start.
    pub errors_total: u64,
    /// Median time of one piece of work, in µs.
    pub p50_us: Option<u64>,
    /// 99th percentile, in µs.
    pub p99_us: Option<u64>,
}

/// The admin listener of one instance.
#[derive(Clone)]
pub struct Admin {
    /// What `POST /drain` moves.
    pub lifecycle: Lifecycle,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// The tier's own answers.
    pub inspect: Arc<dyn Inspect>,
    /// Asked for as `Authorization: Bearer …`, except for health; `None`: nothing is asked, which
    /// the topology file allows on loopback alone.
    pub token: Option<Secret>,
    /// What `POST /log` changes; `None` where the process has no log of its own (tests).
    pub log_level: Option<LogLevel>,
}

impl Admin {
    /// Serves until the instance has stopped; it outlives the drain, so that the drain can be
    /// watched. At most 64 connections at a time. Cancelling closes them all.
    pub async fn serve(self, listener: TcpListener, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let connections = tokio::task::JoinSet::new();
        tokio::select! {
            () = shutdown.stopped() => {}
            () = self.accept(listener, slots, connections) => {}
        }
    }

    async fn accept(
        self,
        listener: TcpListener,
        slots: Arc<Semaphore>,
        mut connections: tokio::task::JoinSet<()>,
    ) {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = self.clone();
                    connections.spawn(async move {
                        admin.connection(stream).await;
                        drop(slot);
                    });
                }
                // Out of descriptors, or a peer that left: neither is worth a busy loop.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        let answer = service_fn(move |request: Request<Incoming>| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.reply(&request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(fault) = served {
            tracing::debug!(%fault, "admin connection ended");
        }
    }

    async fn reply<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/flows") if self.admits(request) => {
                self.flows(request.uri().query()).await
            }
            (&Method::GET, "/metrics") if self.admits(request) => {
                let own = self.inspect.series().await;
                shown("text/plain; version=0.0.4", self.metrics.render() + &own)
            }
            _ => self.answer(request),
        }
    }

    /// `/flows` or `/flows?most=N`.
    async fn flows(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let Some(most) = most(query) else {
            return text(
                StatusCode::BAD_REQUEST,
                "write GET /flows?most=N with N from 1 to 1000\n",
            );
        };
        match self.inspect.flows(most).await {
            Some(flows) => json(&flows),
            None => text(StatusCode::NOT_FOUND, "this instance shows no flows\n"),
        }
    }

    /// Pure but for `POST`: one request, one answer.
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/livez") => text(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => self.readiness(),
            _ if !self.admits(request) => refusal(),
            (&Method::GET, "/metrics") => shown("text/plain; version=0.0.4", self.metrics.render()),
            (&Method::GET, "/config") => json(&self.inspect.config()),
            (&Method::GET, "/summary") => self.summary(),
            (&Method::GET, "/requests") => self.requests(request.uri().query()),
            (&Method::GET, "/limited") => match self.inspect.limited() {
                Some(limited) => json(&limited),
                None => text(StatusCode::NOT_FOUND, "this instance has no limits\n"),
            },
            (&Method::GET, "/callers") => match self.inspect.callers() {
                Some(callers) => json(&callers),
                None => text(StatusCode::NOT_FOUND, "this instance knows no versions\n"),
            },
            (&Method::GET, "/traffic") => match self.inspect.traffic() {
                Some(traffic) => json(&traffic),
                None => text(StatusCode::NOT_FOUND, "this instance counts its traffic as one\n"),
            },
            (&Method::GET, "/registrations") => match self.inspect.registrations() {
                Some(registrations) => json(&registrations),
                None => text(StatusCode::NOT_FOUND, "this instance is in no registry\n"),
            },
            (&Method::GET, "/endpoints") => json(&self.inspect.endpoints()),
            (&Method::POST, "/drain") => self.drain(),
            (&Method::POST, "/log") => self.set_log_level(request.uri().query()),
            (&Method::POST, "/cache/purge") => self.purge(request.uri().query()),
            (&Method::POST, path) if path.starts_with("/endpoints/") => {
                self.adjust(path, request.uri().query())
            }
            (
                _,
                "/" | "/metrics" | "/config" | "/summary" | "/traffic" | "/endpoints" | "/flows"
                | "/requests" | "/limited" | "/callers" | "/registrations" | "/drain" | "/log"
                | "/cache/purge",
            ) => text(StatusCode::METHOD_NOT_ALLOWED, HELP),
            _ => text(StatusCode::NOT_FOUND, HELP),
        }
    }

    /// The few numbers, and what quantiles of any span of time are made of.
    fn summary(&self) -> Response<Full<Bytes>> {
        #[derive(Serialize)]
        struct Shown {
            #[serde(flatten)]
            summary: Summary,
            latency_us: Vec<(u64, u64)>,
        }
        json(&Shown { summary: self.inspect.summary(), latency_us: self.inspect.latency() })
    }

    /// `/requests` or `/requests?most=N`.
    fn requests(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let Some(most) = most(query) else {
            return text(
                StatusCode::BAD_REQUEST,
                "write GET /requests?most=N with N from 1 to 1000\n",
            );
        };
        match self.inspect.requests(most) {
            Some(requests) => json(&requests),
            None => text(StatusCode::NOT_FOUND, "this instance shows no requests\n"),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let mut reasons = self.inspect.unready();
        if self.lifecycle.phase() != Phase::Running || self.lifecycle.is_leaving() {
            reasons.push("draining".to_owned());
        }
        if reasons.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", reasons.join("\n")))
    }

    fn drain(&self) -> Response<Full<Bytes>> {
        self.lifecycle.drain();
        text(StatusCode::ACCEPTED, "draining\n")
    }

    /// `/endpoints/SERVICE/ENDPOINT/drain`, `enable` or `weight?value=N`.
    fn adjust(&self, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let rest = path.trim_start_matches("/endpoints/");
        let parts =
            rest.rsplit_once('/').and_then(|(rest, verb)| Some((rest.split_once('/')?, verb)));
        let wish = parts.and_then(|(names, verb)| Some((names, Adjust::read(verb, query)?)));
        let Some(((service, endpoint), wish)) = wish else {
            return text(StatusCode::BAD_REQUEST, ADJUST);
        };
        match self.inspect.adjust(service, endpoint, wish) {
            Some(()) => text(StatusCode::OK, "ok\n"),
            None => text(StatusCode::NOT_FOUND, "no such endpoint: see GET /endpoints\n"),
        }
    }

    fn purge(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let Some(what) = query.and_then(Purge::read) else {
            return text(StatusCode::BAD_REQUEST, PURGE);
        };
        match self.inspect.purge(what) {
            Some(count) => text(StatusCode::OK, &format!("forgotten: {count}\n")),
            None => text(StatusCode::NOT_FOUND, "this instance keeps no answers\n"),
        }
    }

    fn set_log_level(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let filter = query.and_then(|query| query.strip_prefix("level="));
        match (filter, &self.log_level) {
            (Some(filter), Some(level)) => match level.set(filter) {
                Ok(()) => text(StatusCode::OK, "ok\n"),
                Err(fault) => text(StatusCode::BAD_REQUEST, &format!("{fault}\n")),
            },
            _ => text(StatusCode::BAD_REQUEST, "write POST /log?level=info\n"),
        }
    }

    fn admits<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = &self.token else { return true };
        let Ok(token) = token.as_str() else { return false };
        let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |v| v.as_bytes());
        given.strip_prefix(b"Bearer ").is_some_and(|given| given.ct_eq(token.as_bytes()).into())
    }
}

/// `most=N`, else 20; `None`: it is no number, or none from 1 to 1000.
fn most(query: Option<&str>) -> Option<usize> {
    let most = match query {
        None => Some(20),
        Some(query) => query.strip_prefix("most=").and_then(|most| most.parse().ok()),
    };
    most.filter(|most| (1..=1000).contains(most))
}

const HELP: &str = "GET /livez /readyz /metrics /config /summary /traffic /endpoints /flows /requests \
                    /limited /callers /registrations; \
                    POST /drain, POST /log?level=info, POST /endpoints/SERVICE/ENDPOINT/drain, \
                    POST /cache/purge?all\n";

const PURGE: &str = "write POST /cache/purge?uri=https://HOST/PATH?QUERY, ?prefix=https://HOST/PATH \
                     or ?all\n";

const ADJUST: &str = "write POST /endpoints/SERVICE/ENDPOINT/drain, /enable or /weight?value=N \
                      with N from 0 to 1000\n";

fn refusal() -> Response<Full<Bytes>> {
    let mut reply = text(StatusCode::UNAUTHORIZED, "send Authorization: Bearer ADMIN-TOKEN\n");
    reply
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    reply
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut reply = shown("text/plain; charset=utf-8", body.to_owned());
    *reply.status_mut() = status;
    reply
}

fn json<T: Serialize>(value: &T) -> Response<Full<Bytes>> {
    let body = serde_json::to_string(value).expect("invariant: admin values are plain JSON");
    shown("application/json", body)
}

fn shown(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::from(body));
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

#[cfg(test)]
mod tests;
