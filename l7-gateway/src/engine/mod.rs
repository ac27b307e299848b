//! What turns bytes of a downstream connection into exchanges and back. Not for policy: the pipeline
//! has it. Called by `connection`, which picks an engine by ALPN; an own HTTP/1.1 codec takes the
//! same seam later.
//!
//! Invariant: an engine gives every fault it finds to the pipeline, so that it is answered, logged
//! and counted like any other request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use common::lifecycle::Shutdown;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::BodyFault;
use crate::connection::Line;
use crate::stages::emit::EmitBody;

pub mod frames;
pub mod framing;
pub mod guard;
pub mod http1;
pub mod http2;
pub mod stall;
pub mod watch;

/// What an engine found wrong with a request before it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Bytes that are no HTTP/1.1 head (RFC 9112 §2.2: CRLF alone ends a line).
    #[error("the request line or a header line is malformed")]
    Syntax,
    /// Method that a gateway must not forward.
    #[error("CONNECT and TRACE are refused")]
    Method,
    /// HTTP/0.9, 2.0 in clear and the like.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// RFC 9112 §6.3: both lengths, two lengths, a list or a number that is none.
    #[error("the length of the body is ambiguous")]
    Length,
    /// RFC 9112 §6.1: anything but a single `chunked`, or in HTTP/1.0.
    #[error("the transfer coding is refused")]
    TransferCoding,
    /// RFC 9112 §7.1: a chunk's size line, its end, or trailers.
    #[error("a chunk is malformed")]
    Chunk,
    /// RFC 9112 §3.2: none, two, or one that is no host.
    #[error("exactly one valid Host is needed")]
    Host,
    /// The target has a byte that no form of target allows.
    #[error("the request target is malformed")]
    Target,
    /// Longer than `max_uri_bytes`.
    #[error("the request target is too long")]
    TargetTooLong,
    /// Longer than `max_head_bytes`.
    #[error("line and headers are too large")]
    HeadTooLarge,
    /// More than `max_headers`.
    #[error("there are too many headers")]
    TooManyHeaders,
    /// Not complete within `header_timeout`.
    #[error("line and headers did not come in time")]
    HeadTimeout,
}

/// One way to speak HTTP on a downstream connection.
pub trait Engine {
    /// Serves a connection to its end: the client's, a fault's, or the instance's drain (exchanges
    /// that were begun are finished) and stop (they are not). Dropping the future ends everything
    /// at once.
    fn serve<IO>(&self, io: IO, line: Rc<Line>, shutdown: Shutdown) -> impl Future<Output = ()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static;
}

/// An answer's body on an engine, with what must know that it is out.
#[derive(Debug)]
pub struct OutBody<M> {
    body: Option<EmitBody>,
    /// Dropped with the body.
    _mark: M,
}

impl<M: Unpin> Body for OutBody<M> {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The exchange is to end without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the exchange ends without an answer")]
pub struct NoAnswer;
