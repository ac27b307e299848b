//! The HTTP/1.1 server under every demo service and the issuer: accepts, counts, answers
//! `/healthz`, `/count` and `/behave` itself, hands the rest to the program. Not for what is answered.
//! Called by `web::run` and `issuer::run`; `grpc::run` accepts with it.
//!
//! Invariant: `/healthz` answers 200 as long as the program runs, whatever lies behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::answer::Answer;
use crate::web::parameter;

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
    manners: Manners,
}

/// How a server is told to be slow or to fail.
#[derive(Debug, Default)]
struct Manners {
    /// Milliseconds before each answer.
    delay: AtomicU64,
    /// How many answers of a hundred are 500.
    fail: AtomicU64,
}

impl Manners {
    /// Waits; a fault in the place of the answer to this request, evenly spread.
    async fn before(&self, number: u64) -> Option<Answer> {
        let (delay, fail) = (self.delay.load(Ordering::Relaxed), self.fail.load(Ordering::Relaxed));
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        let so_far = |requests: u64| requests * fail.min(100) / 100;
        let fails = so_far(number + 1) > so_far(number);
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        fails.then(|| Answer::refuse(status, "told_to", "this server was told to fail"))
    }
}

impl<P: Program> Server<P> {
    fn new(name: &str, program: P) -> anyhow::Result<Self> {
        let header = HeaderValue::from_str(name)?;
        Ok(Self {
            name: name.to_owned(),
            header,
            program,
            requests: AtomicU64::new(0),
            manners: Manners::default(),
        })
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = match request.uri().path() {
            "/healthz" => Answer::ok(json!({ "status": "ok" })),
            "/behave" if request.method() == Method::POST => self.behave(request.uri()),
            "/count" => Answer::ok(json!({ "requests": self.requests.load(Ordering::Relaxed) })),
            _ => {
                let number = self.requests.fetch_add(1, Ordering::Relaxed);
                if let Some(fault) = self.manners.before(number).await {
                    return self.whole(fault);
                }
                match whole(request).await {
                    Ok(request) => self.program.answer(request).await,
                    Err(refusal) => refusal,
                }
            }
        };
        self.whole(answer)
    }

    /// `/behave?delay=MS&fail=PERCENT`: how it answers from now on, as one that is ill would.
    fn behave(&self, uri: &Uri) -> Answer {
        let number = |name| parameter(uri, name).map(|text| text.parse::<u64>());
        let (Ok(delay), Ok(fail)) = (number("delay").transpose(), number("fail").transpose())
        else {
            return Answer::bad_request("write POST /behave?delay=MILLISECONDS&fail=PERCENT");
        };
        self.manners.delay.store(delay.unwrap_or(0), Ordering::Relaxed);
        self.manners.fail.store(fail.unwrap_or(0), Ordering::Relaxed);
        Answer::ok(json!({ "delay": delay.unwrap_or(0), "fail": fail.unwrap_or(0) }))
    }

    fn whole(&self, answer: Answer) -> Response<Full<Bytes>> {
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
