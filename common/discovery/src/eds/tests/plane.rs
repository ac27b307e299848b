//! A control plane, as much of it as endpoints need: ADS over gRPC in its state-of-the-world form, with nonces,
//! versions, tokens and streams that end. Not for product code.
//!
//! Invariant: a stream has one answer under way; what is said to another answer than the last is stale, and
//! changes nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request as HttpRequest, Response as HttpResponse, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use crate::eds::messages::{ASSIGNMENT, Assignment, Packed, Request, Response, WRAPPED, Wrapped};

/// What a control plane knows. Cheap to clone.
#[derive(Clone)]
pub(super) struct Plane {
    state: watch::Sender<State>,
    asked: Arc<Mutex<Vec<Asked>>>,
    opened: Arc<AtomicUsize>,
}

/// What it was told on a stream.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) stream: usize,
    pub(super) request: Request,
    /// It is said to another answer than the last.
    pub(super) stale: bool,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) version: u64,
    /// Assignments by their name.
    pub(super) resources: BTreeMap<String, Bytes>,
    /// What it asks for, if anything.
    pub(super) token: Option<&'static str>,
    /// It answers with all that it has, whatever it is asked for.
    pub(super) tells_all: bool,
    /// What was refused is said again at once.
    pub(super) insists: bool,
    /// It puts resources into envelopes.
    pub(super) wraps: bool,
    /// Ends all streams when it changes.
    pub(super) ends: u32,
    /// With this status; `None`: well.
    pub(super) status: Option<&'static str>,
    /// Instead of any answer.
    pub(super) instead: Option<Instead>,
}

/// What a control plane should not do.
#[derive(Clone)]
pub(super) enum Instead {
    /// It says nothing at all.
    Silence,
    /// It is a site, whose pages have this type.
    Site(&'static str),
    /// The stream begins with these bytes.
    Bytes(Bytes),
    /// The stream ends with this status.
    Status(&'static str, &'static str),
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// With its head, as gRPC has it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("short"));
    bytes.put_slice(message);
    bytes.freeze()
}

fn packed(type_url: &str, value: Bytes) -> Packed {
    Packed { type_url: type_url.to_owned(), value }
}

/// An answer that names these assignments.
pub(super) fn answer(version: u64, nonce: &str, resources: &[Bytes], wraps: bool) -> Response {
    let pack = |value: &Bytes| {
        let own = packed(ASSIGNMENT, value.clone());
        let name = || Assignment::decode(value.clone()).unwrap_or_default().cluster_name;
        let wrapped = || Wrapped { resource: Some(own.clone()), name: name() }.encode_to_vec();
        let outer = if wraps { packed(WRAPPED, wrapped().into()) } else { own.clone() };
        Bytes::from(outer.encode_to_vec())
    };
    Response {
        version_info: version.to_string(),
        resources: resources.iter().map(pack).collect(),
        type_url: ASSIGNMENT.to_owned(),
        nonce: nonce.to_owned(),
    }
}

impl State {
    /// What is said to who asks for these names; `None`: nothing.
    fn say(&self, names: &[String], nonce: &str) -> Option<Bytes> {
        let wanted = |name: &String| self.tells_all || names.contains(name);
        let known = self.resources.iter().filter(|(name, _)| wanted(name));
        let known: Vec<Bytes> = known.map(|(_, value)| value.clone()).collect();
        let answer = answer(self.version, nonce, &known, self.wraps);
        (self.tells_all || !known.is_empty()).then(|| framed(&answer.encode_to_vec()))
    }
}

impl Plane {
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(State::default()),
            asked: Arc::default(),
            opened: Arc::default(),
        }
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Assigns these to the service, in the next version.
    pub(super) fn assign(&self, service: &str, assignment: Bytes) {
        self.set(|state| {
            state.version += 1;
            state.resources.insert(service.to_owned(), assignment);
        });
    }

    /// The version that it tells, as a text.
    #[cfg(feature = "verify")]
    pub(super) fn version(&self) -> String {
        self.state.borrow().version.to_string()
    }

    /// What it was told so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("whole").clone()
    }

    /// Waits until it was told so often.
    pub(super) async fn hears(&self, times: usize) -> Vec<Asked> {
        self.hears_that(|asked| asked.len() >= times).await
    }

    /// Waits until this is so of what it was told.
    pub(super) async fn hears_that(&self, wanted: impl Fn(&[Asked]) -> bool) -> Vec<Asked> {
        loop {
            let asked = self.asked();
            if wanted(&asked) {
                return asked;
            }
            tokio::task::yield_now().await;
        }
    }

    /// How many streams there have been.
    pub(super) fn streams(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) async fn answer(
        self,
        request: HttpRequest<Incoming>,
    ) -> Result<HttpResponse<Body>, Infallible> {
        let state = self.state.borrow().clone();
        let shown = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let wanted = state.token.map(|token| format!("Bearer {token}"));
        if wanted.is_some_and(|wanted| shown != Some(wanted.as_bytes())) {
            return Ok(ended("16", "no such token"));
        }
        if request.uri().path() != crate::eds::METHOD {
            return Ok(ended("12", "no such method"));
        }
        match state.instead {
            Some(Instead::Site(kind)) => {
                let body = Full::new(Bytes::from_static(b"<html>Welcome</html>"));
                let response = HttpResponse::builder().header(header::CONTENT_TYPE, kind);
                return Ok(response.body(body.boxed_unsync()).expect("a response"));
            }
            Some(Instead::Status(code, text)) => return Ok(ended(code, text)),
            Some(Instead::Silence) => return std::future::pending().await,
            Some(Instead::Bytes(_)) | None => {}
        }
        let (says, mut said) = mpsc::channel(4);
        if let Some(Instead::Bytes(bytes)) = state.instead {
            says.send(Frame::data(bytes)).await.expect("room");
        }
        tokio::spawn(self.converse(request.into_body(), says));
        let frames = stream::poll_fn(move |context| {
            said.poll_recv(context).map(|frame| frame.map(Ok::<_, Infallible>))
        });
        let response = HttpResponse::builder().header(header::CONTENT_TYPE, "application/grpc");
        Ok(response.body(StreamBody::new(frames).boxed_unsync()).expect("a response"))
    }

    /// One stream, from its first question to its end.
    async fn converse(self, mut body: Incoming, says: mpsc::Sender<Frame<Bytes>>) {
        let stream = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let mut state = self.state.subscribe();
        let ends = state.borrow().ends;
        let mut rest = BytesMut::new();
        let mut names: Option<Vec<String>> = None;
        // The last answer, whether something was said to it, and which version it told.
        let (mut nonce, mut free, mut told) = (0_u64, false, None);
        loop {
            let now = state.borrow_and_update().clone();
            if now.ends != ends {
                let trailers = HeaderMap::from_iter([(
                    header::HeaderName::from_static("grpc-status"),
                    HeaderValue::from_static(now.status.unwrap_or("0")),
                )]);
                let _gone = says.send(Frame::trailers(trailers)).await;
                return;
            }
            let next = format!("n{}", nonce + 1);
            let fresh = free && told != Some(now.version) && now.instead.is_none();
            let news = names.as_ref().filter(|_| fresh).and_then(|names| now.say(names, &next));
            if let Some(news) = news {
                (nonce, free, told) = (nonce + 1, false, Some(now.version));
                if says.send(Frame::data(news)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                frame = body.frame() => {
                    let Some(Ok(frame)) = frame else { return };
                    rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
                }
            }
            while let Some(request) = taken(&mut rest) {
                let answered = format!("n{nonce}");
                let to = &request.response_nonce;
                let stale = !to.is_empty() && *to != answered;
                if !stale && request.type_url == ASSIGNMENT {
                    if names.is_none() {
                        // Who says what it has is told what is newer.
                        told = request.version_info.parse().ok();
                    }
                    if request.error_detail.is_some() && self.state.borrow().insists {
                        told = None;
                    }
                    names = Some(request.resource_names.clone());
                    free = true;
                }
                self.asked.lock().expect("whole").push(Asked { stream, request, stale });
            }
        }
    }
}

/// Takes a message off, if it is whole.
fn taken(rest: &mut BytesMut) -> Option<Request> {
    let length = u32::from_be_bytes(rest.get(1..5)?.try_into().expect("four"));
    let length = usize::try_from(length).expect("short");
    assert_eq!(rest[0], 0, "it is not compressed");
    rest.get(5..5 + length)?;
    let message = rest.split_to(5 + length);
    Some(Request::decode(&message[5..]).expect("a request"))
}

/// A stream that ends before it begins.
fn ended(code: &'static str, text: &'static str) -> HttpResponse<Body> {
    let response = HttpResponse::builder()
        .header(header::CONTENT_TYPE, "application/grpc")
        .header("grpc-status", code)
        .header("grpc-message", text);
    response.body(Empty::new().boxed_unsync()).expect("a response")
}
