//! The live page: its files, what it is told once a second, and what an operator may do there. Not for
//! what is told: `watcher`. Served by `watch` and `up`.
//!
//! Invariant: the page fetches nothing but from here, and runs nothing but its own three files.

mod guard;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use self::guard::{Guard, Refusal};
use super::watcher::Watcher;
use crate::graph::svg;
use crate::graph::svg::escaped;

/// Where the page is unless one says otherwise.
pub(crate) const USUAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// A page that is served.
#[derive(Debug)]
pub(crate) struct Page {
    at: SocketAddr,
    token: String,
}

/// What answers.
#[derive(Clone)]
struct Desk {
    /// Another one after each change of the file.
    watchers: watch::Receiver<Watcher>,
    guard: Guard,
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// More at once is no team.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A reader that is slower misses looks, and gets the next whole.
const AHEAD: usize = 2;
/// A reader that takes nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(15);

impl Page {
    /// Serves it from now on, until the process ends. Where the usual address is taken and nobody
    /// asked for it, on any other port of this machine.
    pub(crate) async fn open(
        watchers: watch::Receiver<Watcher>,
        at: Option<SocketAddr>,
        token: Option<String>,
    ) -> anyhow::Result<Self> {
        let listener = match at {
            Some(at) => TcpListener::bind(at).await?,
            None => match TcpListener::bind(USUAL).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind((USUAL.ip(), 0)).await?,
            },
        };
        let at = listener.local_addr()?;
        let token = token.map_or_else(Guard::fresh_token, Ok)?;
        let guard = Guard::new(token.clone(), at);
        tokio::spawn(accept(listener, Desk { watchers, guard }));
        Ok(Self { at, token })
    }

    /// For whom may read.
    pub(crate) fn address(&self) -> String {
        format!("http://{}/", self.at)
    }

    /// For whom may also drain and enable.
    pub(crate) fn key(&self) -> String {
        format!("http://{}/#token={}", self.at, self.token)
    }
}

async fn accept(listener: TcpListener, desk: Desk) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    desk.connection(stream).await;
                    drop(slot);
                });
            }
            // Out of descriptors, or a peer that left: neither is worth a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Desk {
    async fn connection(self, stream: TcpStream) {
        let answer = service_fn(move |request: Request<Incoming>| {
            let desk = self.clone();
            async move { Ok::<_, Infallible>(desk.answer(&request).await) }
        });
        // How a connection to a browser ends is nobody's concern.
        let _ended = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(64)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
    }

    async fn answer<B>(&self, request: &Request<B>) -> Reply {
        let mut reply = match self.reply(request).await {
            Ok(reply) => reply,
            Err(Refusal(status, told)) => text(status, told),
        };
        for (name, value) in SAFE {
            reply.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        reply
    }

    async fn reply<B>(&self, request: &Request<B>) -> Result<Reply, Refusal> {
        let headers = request.headers();
        Guard::visit(headers)?;
        Ok(match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => shown("text/html; charset=utf-8", html(&self.watcher())),
            (&Method::GET, "/page.css") => shown("text/css", Bytes::from_static(CSS.as_bytes())),
            (&Method::GET, path) if script(path).is_some() => {
                shown("text/javascript", Bytes::from_static(script(path).unwrap_or_default()))
            }
            (&Method::GET, "/look") => {
                self.guard.read(headers)?;
                shown("application/json", encoded(&*self.watcher().look()))
            }
            (&Method::GET, "/events") => {
                self.guard.read(headers)?;
                self.events()
            }
            (&Method::POST, "/wish") => {
                self.guard.write(headers)?;
                self.wish(request.uri().query()).await
            }
            (_, "/" | "/page.css" | "/look" | "/events" | "/wish") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "GET this, POST /wish\n")
            }
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        })
    }

    /// What is watched now.
    fn watcher(&self) -> Watcher {
        self.watchers.borrow().clone()
    }

    /// The stack, its last five minutes, then every look; all again when the file has changed.
    fn events(&self) -> Reply {
        let (tell, told) = mpsc::channel(AHEAD);
        let mut watchers = self.watchers.clone();
        tokio::spawn(async move {
            loop {
                let watcher = watchers.borrow_and_update().clone();
                let telling = tell_all(&watcher, &tell);
                tokio::select! {
                    () = telling => return,
                    () = replaced(&mut watchers) => {}
                }
            }
        });
        let mut reply = Response::new(Told(told).boxed_unsync());
        let kind = HeaderValue::from_static("text/event-stream");
        reply.headers_mut().insert(header::CONTENT_TYPE, kind);
        reply
    }

    /// `/wish?instance=I&service=S&endpoint=E&wish=drain`, or `enable`.
    async fn wish(&self, query: Option<&str>) -> Reply {
        let said = |name: &str| {
            let mut pairs = query.unwrap_or_default().split('&').filter_map(|p| p.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
        };
        let names = (said("instance"), said("service"), said("endpoint"), said("wish"));
        let (Some(instance), Some(service), Some(endpoint), Some(wish)) = names else {
            return text(StatusCode::BAD_REQUEST, "say instance, service, endpoint and wish\n");
        };
        let look = self.watcher().look();
        let fits =
            |one: &&super::look::EndpointSeen| one.service == service && one.name == endpoint;
        // Only what the instance itself has named goes into a path.
        let known = look.find(&instance).and_then(|seen| seen.endpoints.iter().find(fits));
        let Some(known) = known else {
            return text(StatusCode::NOT_FOUND, "that instance has no such endpoint\n");
        };
        if !matches!(wish.as_str(), "drain" | "enable") {
            return text(StatusCode::BAD_REQUEST, "wish is drain or enable\n");
        }
        let path = format!("/endpoints/{}/{}/{wish}", known.service, known.name);
        match self.watcher().wish(&instance, &path).await {
            Ok((status, said)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                // Its 401 is about its token, not the page's.
                let status = if status == 401 { StatusCode::BAD_GATEWAY } else { status };
                text(status, &format!("{instance}: {said}\n"))
            }
            Err(error) => text(StatusCode::BAD_GATEWAY, &format!("{instance}: {error:#}\n")),
        }
    }
}

/// Tells one reader of one version of the file, until it has gone.
async fn tell_all(watcher: &Watcher, tell: &mpsc::Sender<Bytes>) {
    let mut looks = watcher.looks();
    let first = [
        event("stack", &stack(watcher)),
        event("tracks", &watcher.tracks()),
        event("records", &watcher.records()),
        event("look", &*watcher.look()),
    ];
    for part in first {
        if tell.send(part).await.is_err() {
            return;
        }
    }
    while looks.changed().await.is_ok() {
        let look = looks.borrow_and_update().clone();
        let sent = timeout(PATIENCE, tell.send(event("look", &*look))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// Waits for the next version of the file; for ever, where none can come.
async fn replaced(watchers: &mut watch::Receiver<Watcher>) {
    if watchers.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The page itself, with the picture in it.
fn html(watcher: &Watcher) -> Bytes {
    let named = HTML.replace("<!-- name -->", &escaped(watcher.name()));
    named.replace("<!-- picture -->", &svg::fragment(watcher.wiring())).into()
}

/// What does not change while the file does not.
fn stack(watcher: &Watcher) -> serde_json::Value {
    let wiring = watcher.wiring();
    let boxes = wiring.boxes.iter().map(|one| {
        json!({
            "id": one.id,
            "title": one.title,
            "what": one.what,
            "rows": one.rows.iter().map(|row| json!({ "id": row.id, "text": row.text })).collect::<Vec<_>>(),
        })
    });
    let lines = wiring
        .lines
        .iter()
        .map(|line| json!({ "from": line.from.of, "row": line.from.row, "to": line.to.of }));
    json!({
        "name": watcher.name(),
        "instances": watcher.roster().instances,
        "boxes": boxes.collect::<Vec<_>>(),
        "lines": lines.collect::<Vec<_>>(),
    })
}

/// Looks on their way to one reader.
struct Told(mpsc::Receiver<Bytes>);

impl Body for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|told| told.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// One server-sent event; JSON has no newline.
fn event<T: Serialize>(name: &str, value: &T) -> Bytes {
    let mut out = format!("event: {name}\ndata: ").into_bytes();
    out.extend_from_slice(&encoded(value));
    out.extend_from_slice(b"\n\n");
    out.into()
}

fn encoded<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("invariant: what is seen is plain JSON").into()
}

/// Undoes percent encoding; what is none stays.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn script(path: &str) -> Option<&'static [u8]> {
    let name = path.strip_prefix('/')?;
    SCRIPTS.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_bytes())
}

fn text(status: StatusCode, body: &str) -> Reply {
    let mut reply = shown("text/plain; charset=utf-8", Bytes::from(body.to_owned()));
    *reply.status_mut() = status;
    reply
}

fn shown(kind: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body).boxed_unsync());
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// On every answer.
const SAFE: [(header::HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const SCRIPTS: [(&str, &str); 6] = [
    ("page.js", include_str!("page.js")),
    ("dom.js", include_str!("dom.js")),
    ("words.js", include_str!("words.js")),
    ("picture.js", include_str!("picture.js")),
    ("tables.js", include_str!("tables.js")),
    ("requests.js", include_str!("requests.js")),
];

#[cfg(test)]
mod tests;
