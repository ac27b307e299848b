//! A new connection to an endpoint, and what requests over it come to, whatever protocol is spoken. Not
//! for speaking (`http1`, `http2`), nor for keeping or choosing connections (`upstream`). Called by it
//! and by `attempt`.
//!
//! Invariant: outside of `upstream` nobody knows which protocol is spoken; who is given a request back
//! knows that not one byte of it was written.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::uri::Scheme;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use topology::gateway::UpstreamProtocol;

use super::super::service::Upstream;
use super::http1::{Http1, Http1Body};
use super::http2::{Http2, Http2Body};
use super::stream::Stream;
use crate::body::{BodyFault, RequestBody};
use crate::hints::Hints;

/// A new connection.
#[derive(Debug)]
pub enum Opened {
    /// For one request at a time: HTTP/1.1.
    Alone(Http1),
    /// For many: HTTP/2.
    Shared(Rc<Http2>),
}

/// What may be spoken on a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What the topology file says of the service.
    Usual,
    /// HTTP/1.1: for a protocol change, which HTTP/2 has not (RFC 9113 §8.6).
    Http1,
}

/// A request on its way to a service.
#[derive(Debug)]
pub struct Outgoing {
    /// Line and headers, shared by all attempts: they differ in their bodies alone.
    pub head: Rc<Parts>,
    /// The body, streamed.
    pub body: RequestBody,
    /// Where interim answers go; `None`: nobody hears them.
    pub hints: Option<Hints>,
}

/// No answer came.
#[derive(Debug)]
pub struct Unanswered {
    /// The request, if the service has seen nothing of it.
    pub unsent: Option<Outgoing>,
    /// The service said that it never looked at it.
    pub refused: bool,
}

impl Unanswered {
    /// Something was sent, and no answer came.
    pub fn lost() -> Self {
        Self { unsent: None, refused: false }
    }
}

impl Opened {
    /// A new one.
    ///
    /// # Errors
    /// Nobody listens, or a handshake failed.
    pub async fn new(address: SocketAddr, upstream: &Upstream, offer: Offer) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let protocol = match offer {
            Offer::Usual => upstream.model.protocol,
            Offer::Http1 => UpstreamProtocol::Http1,
        };
        let (stream, scheme) = match &upstream.tls {
            None => (Stream::Plain(stream), Scheme::HTTP),
            // Boxed: a handshake is large, and most services have none.
            Some(tls) => {
                let stream = Box::pin(tls.secure(stream, address, offer)).await?;
                (Stream::Tls(Box::new(stream)), Scheme::HTTPS)
            }
        };
        if http2(&stream, protocol)? {
            Ok(Self::Shared(Http2::begin(stream, scheme).await?))
        } else {
            Ok(Self::Alone(Http1::new(stream)))
        }
    }
}

/// Whether a new connection speaks HTTP/2.
fn http2(stream: &Stream, protocol: UpstreamProtocol) -> io::Result<bool> {
    let Stream::Tls(tls) = stream else { return Ok(protocol == UpstreamProtocol::Http2) };
    match (tls.get_ref().1.alpn_protocol(), protocol) {
        (Some(b"h2"), _) => Ok(true),
        // RFC 9113 §3.2: without ALPN there is no HTTP/2.
        (_, UpstreamProtocol::Http2) => Err(io::ErrorKind::Unsupported.into()),
        _ => Ok(false),
    }
}

/// The body of an answer over HTTP/1.1, or what a 101 leads to.
pub fn of_http1(response: Response<Http1Body>) -> Response<UpstreamBody> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    response.map(|body| match switched {
        true => UpstreamBody::Upgrade(body),
        false => UpstreamBody::Http1(body),
    })
}

/// What follows the head of an answer.
#[derive(Debug)]
pub enum UpstreamBody {
    /// A body over HTTP/1.1.
    Http1(Http1Body),
    /// A body over HTTP/2.
    Http2(Http2Body),
    /// Another protocol, after a 101.
    Upgrade(Http1Body),
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
            Self::Upgrade(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Upgrade(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Upgrade(_) => SizeHint::with_exact(0),
        }
    }
}
