//! A gRPC call that goes on in both directions: messages in, messages out, the status at its end. Not for
//! what they say. Called by its parent.
//!
//! Invariant: a message is bounded, in size before it is read; and nothing is lost by a reader that gives up
//! waiting.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use common::fetch::{HttpFetch, Lines};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use prost::Message;
use tokio::sync::mpsc;

use crate::fault::{Fault, short};

/// What we say, as we say it.
pub(super) struct Said(mpsc::Receiver<Bytes>);

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|said| said.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A call that goes on. Dropping it ends it.
pub(super) struct Stream {
    says: mpsc::Sender<Bytes>,
    answer: Answering,
    /// What was read and is no whole message yet.
    rest: BytesMut,
    /// Why no more can be read, until somebody is told.
    fault: Option<Fault>,
}

/// How far its answer is.
enum Answering {
    /// Servers answer with the head when they have something to say.
    Head(Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>),
    Body(Incoming),
    /// It has ended as it should.
    Over,
}

impl Stream {
    /// Begins a call; nobody is waited for. `more`: headers beside gRPC's own.
    pub(super) fn begin(
        whom: &HttpFetch,
        lines: &mut Lines<Said>,
        method: &str,
        more: HeaderMap,
    ) -> Result<Self, Fault> {
        let (says, said) = mpsc::channel(UNSAID);
        let scheme = whom.uri().scheme_str().unwrap_or("http");
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{scheme}://{}{method}", whom.authority()))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, concat!("aqueduct/", env!("CARGO_PKG_VERSION")))
            .body(Said(said));
        let mut request = request.map_err(|fault| Fault::Nonsense(fault.to_string()))?;
        request.headers_mut().extend(more);
        let head = Box::pin(lines.sender.send_request(request));
        Ok(Self { says, answer: Answering::Head(head), rest: BytesMut::new(), fault: None })
    }

    /// Says something. It waits for one that does not listen: bound it.
    pub(super) async fn say(&mut self, message: &impl Message) -> Result<(), Fault> {
        let mut bytes = BytesMut::new();
        // Not compressed, then the length (gRPC over HTTP/2, Length-Prefixed-Message).
        bytes.put_u8(0);
        let length = u32::try_from(message.encoded_len()).map_err(|_| Fault::TooLarge(LONGEST))?;
        bytes.put_u32(length);
        message.encode(&mut bytes).map_err(|fault| Fault::Nonsense(fault.to_string()))?;
        self.says.send(bytes.freeze()).await.map_err(|_ended| Fault::Broken)
    }

    /// The next message; `None`: the call has ended well. Cancel safe.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(length) = self.fill().await? else { return Ok(None) };
        let mut message = self.rest.split_to(HEAD + length).freeze();
        Ok(Some(message.split_off(HEAD)))
    }

    /// The next message, which stays the next one; `None`: there is none, and [`message`](Self::message) says
    /// why. Cancel safe.
    pub(super) async fn peek(&mut self) -> Option<Bytes> {
        match self.fill().await {
            Ok(length) => {
                let whole = self.rest.get(HEAD..HEAD + length?)?;
                Some(Bytes::copy_from_slice(whole))
            }
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }

    /// Reads until a message is whole, and says how long it is; `None`: the call has ended well.
    async fn fill(&mut self) -> Result<Option<usize>, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        loop {
            if let Some(length) = whole(&self.rest)? {
                return Ok(Some(length));
            }
            match &mut self.answer {
                Answering::Head(head) => {
                    let response = head.await;
                    self.answer = Answering::Over;
                    self.answer = begun(response.map_err(|_broken| Fault::Broken)?)?;
                }
                Answering::Body(body) => {
                    let frame = body.frame().await.ok_or(Fault::Broken)?;
                    let frame = frame.map_err(|_broken| Fault::Broken)?;
                    match frame.into_data() {
                        Ok(data) => self.rest.extend_from_slice(&data),
                        Err(frame) => {
                            let trailers = frame.into_trailers().map_err(|_| Fault::Broken)?;
                            status(&trailers)?.ok_or(Fault::Broken)?;
                            self.answer = Answering::Over;
                        }
                    }
                }
                Answering::Over if self.rest.is_empty() => return Ok(None),
                Answering::Over => return Err(Fault::Broken),
            }
        }
    }
}

/// What follows an answer's head.
fn begun(response: Response<Incoming>) -> Result<Answering, Fault> {
    if response.status() != StatusCode::OK {
        return Err(Fault::Status(response.status()));
    }
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    // With a codec's name or parameters behind it; gRPC-Web (`application/grpc-web`) frames its end otherwise.
    if !rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';'))) {
        return Err(Fault::Nonsense("it speaks no gRPC".to_owned()));
    }
    // Without a message the status stands in the head.
    match status(response.headers())? {
        Some(()) => Ok(Answering::Over),
        None => Ok(Answering::Body(response.into_body())),
    }
}

/// How long the message is that stands here, if it is whole.
fn whole(rest: &[u8]) -> Result<Option<usize>, Fault> {
    let Some((&[compressed, a, b, c, d], rest)) = rest.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    if compressed != 0 {
        return Err(Fault::Nonsense("a message is compressed, which nobody asked for".to_owned()));
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(Fault::TooLarge(LONGEST));
    }
    Ok((rest.len() >= length).then_some(length))
}

/// Whether these say how the call ended, and that it ended well.
fn status(headers: &HeaderMap) -> Result<Option<()>, Fault> {
    let Some(status) = headers.get("grpc-status") else { return Ok(None) };
    let code = status.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    let text = headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or_default();
    let name = code.and_then(|code| CODES.get(code)).copied().unwrap_or("an unknown status");
    if code == Some(0) { Ok(Some(())) } else { Err(Fault::Call { name, text: short(text) }) }
}

/// By number (grpc/doc/statuscodes.md).
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Before a message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Messages of ours on their way.
const UNSAID: usize = 4;

/// Of a message; what clients of gRPC take unless they are told otherwise.
pub(super) const LONGEST: usize = 4 << 20;
