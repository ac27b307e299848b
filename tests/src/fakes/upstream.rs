//! An HTTP service that counts and remembers what reaches it. Used by the tests.
//!
//! Invariant: what it remembers is what it was sent, before any answer left.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// A running service.
#[derive(Debug)]
pub struct Upstream {
    task: JoinHandle<()>,
    service: Arc<Service>,
}

/// A request that it saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

#[derive(Debug)]
struct Service {
    name: String,
    answer: Value,
    seen: Mutex<Vec<Seen>>,
    /// Answers to `…/held` wait here.
    gate: Semaphore,
}

impl Upstream {
    /// Answers on `at` with 200 and `{"server": NAME}`; a path that ends in `/held` waits for
    /// [`Upstream::release`].
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn start(at: SocketAddr, name: &str) -> Self {
        Self::answering(at, name, json!({ "server": name })).await
    }

    /// As [`Upstream::start`], with this answer.
    pub async fn answering(at: SocketAddr, name: &str, answer: Value) -> Self {
        let listener = TcpListener::bind(at).await.expect("the service's port");
        let service = Arc::new(Service {
            name: name.to_owned(),
            answer,
            seen: Mutex::default(),
            gate: Semaphore::new(0),
        });
        Self { task: tokio::spawn(accept(listener, service.clone())), service }
    }

    /// What reached it, health checks left out.
    ///
    /// # Panics
    /// When a request of it panicked.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.service.seen.lock().expect("no panic while held");
        seen.iter().filter(|seen| seen.target != "/healthz").cloned().collect()
    }

    /// How many did.
    pub fn count(&self) -> usize {
        self.seen().len()
    }

    /// Lets so many held requests go.
    pub fn release(&self, count: usize) {
        self.service.gate.add_permits(count);
    }

    /// Ends it as SIGKILL would: port and connections are closed when this returns.
    pub async fn kill(mut self) {
        self.task.abort();
        // The task ends as cancelled, which is what was asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let service = service.clone();
        connections.spawn(async move {
            let serve = service_fn(|request| answer(service.clone(), request));
            // The peer may leave in the middle; nothing follows from it here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let target = head.uri.to_string();
    let held = head.uri.path().ends_with("/held");
    let seen = Seen { method: head.method.to_string(), target, headers: head.headers, body };
    service.seen.lock().expect("no panic while held").push(seen);
    if held && let Ok(permit) = service.gate.acquire().await {
        permit.forget();
    }
    let answer = Full::from(service.answer.to_string());
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("x-internal-server", &service.name)
        .body(answer);
    Ok(response.expect("a lawful answer"))
}
