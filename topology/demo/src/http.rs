//! The HTTP/1.1 server under every demo service and the issuer: accepts, counts, answers
//! `/healthz` and `/count` itself, hands the rest to the program. Not for what is answered.
//! Called by `web::run` and `issuer::run`; `grpc::run` accepts with it.
//!
//! Invariant: `/healthz` answers 200 as long as the program runs, whatever lies behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answer::Answer;

/// A program that answers requests.
pub(crate) trait Program: Send + Sync + 'static {
    /// Answers one request; `/healthz` and `/count` never come here.
    fn answer(&self, request: Request<Bytes>) -> impl Future<Output = Answer> + Send;
}

/// Serves until `stop` completes, then finishes what runs (at most [`DRAIN`]).
pub(crate) async fn serve<P: Program>(
    listener: TcpListener,
    name: &str,
    program: P,
    stop: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let server = Arc::new(Server::new(name, program)?);
    accept(listener, stop, |stream, draining| connection(stream, Arc::clone(&server), draining))
        .await
}

/// Accepts until `stop` completes, then waits for its connections (at most [`DRAIN`]); each is told by its
/// `watch` that it should finish.
pub(crate) async fn accept<C: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    stop: impl Future<Output = anyhow::Result<()>>,
    connection: impl Fn(TcpStream, watch::Receiver<()>) -> C,
) -> anyhow::Result<()> {
    let (draining, watched) = watch::channel(());
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            asked = &mut stop => { asked?; break }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, watched.clone()));
                }
                // Out of descriptors: pause instead of spinning on the same error.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    drop(watched);
    draining.send_replace(());
    drop(
        tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} })
            .await,
    );
    Ok(())
}

struct Server<P> {
    name: String,
    header: HeaderValue,
    program: P,
    requests: AtomicU64,
}

impl<P: Program> Server<P> {
    fn new(name: &str, program: P) -> anyhow::Result<Self> {
        let header = HeaderValue::from_str(name)?;
        Ok(Self { name: name.to_owned(), header, program, requests: AtomicU64::new(0) })
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = match request.uri().path() {
            "/healthz" => Answer::ok(json!({ "status": "ok" })),
            "/count" => Answer::ok(json!({ "requests": self.requests.load(Ordering::Relaxed) })),
            _ => {
                self.requests.fetch_add(1, Ordering::Relaxed);
                match whole(request).await {
                    Ok(request) => self.program.answer(request).await,
                    Err(refusal) => refusal,
                }
            }
        };
        let (status, body) = answer.render(&self.name);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-internal-server", self.header.clone());
        if status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// One connection, until its peer closes it or the program drains.
async fn connection<P: Program>(
    stream: TcpStream,
    server: Arc<Server<P>>,
    mut draining: watch::Receiver<()>,
) {
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, std::convert::Infallible>(server.respond(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = draining.changed() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

/// The request with its whole body, at most [`BODY_LIMIT`] bytes within [`BODY_TIME`].
async fn whole(request: Request<Incoming>) -> Result<Request<Bytes>, Answer> {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body.to_bytes())),
        Ok(Err(_)) => Err(Answer::refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body",
            "the body is over 64 KiB or was cut off",
        )),
        Err(_) => {
            Err(Answer::refuse(StatusCode::REQUEST_TIMEOUT, "body", "the body took over 10 s"))
        }
    }
}

/// How long a stopping program waits for its connections.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a connection may be idle; longer than what a gateway keeps one for.
const IDLE: Duration = Duration::from_secs(90);
const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "http/tests.rs"]
mod tests;
