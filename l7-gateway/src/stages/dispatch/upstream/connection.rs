//! One connection to an endpoint, whatever protocol it speaks: a request in, an answer's head and body
//! out. Not for keeping or choosing connections (`upstream`). Called by it and by `attempt`.
//!
//! Invariant: no other module of the stage knows which library speaks; who is given a request back
//! knows that not one byte of it was written.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;

use super::super::service::Secured;
use super::http1::{Http1, Http1Body};
use super::stream::Stream;
use crate::body::{BodyFault, RequestBody, Upgrade};

/// A connection.
#[derive(Debug)]
pub enum Connection {
    /// HTTP/1.1: one request at a time.
    Http1(Http1),
}

/// No answer came.
#[derive(Debug)]
pub struct Unanswered {
    /// The request, if nothing of it was written.
    pub unsent: Option<Request<RequestBody>>,
}

impl Connection {
    /// A new one.
    ///
    /// # Errors
    /// Nobody listens, or the handshake failed.
    pub async fn open(address: SocketAddr, tls: Option<&Secured>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = match tls {
            None => Stream::Plain(stream),
            // Boxed: a handshake is large, and most services have none.
            Some(tls) => Stream::Tls(Box::new(Box::pin(tls.secure(stream, address)).await?)),
        };
        Ok(Self::Http1(Http1::new(stream)))
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_closed(),
        }
    }

    /// Whether it takes a request now.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_ready(),
        }
    }

    /// Sends a request and waits for the head of its answer. Dropping the future takes the request
    /// back as far as the protocol can: over HTTP/1.1 the connection ends.
    ///
    /// # Errors
    /// The connection broke, or what came was no answer.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        match self {
            Self::Http1(wire) => wire.send(request).await.map(of_http1),
        }
    }
}

fn of_http1(response: Response<Http1Body>) -> Response<UpstreamBody> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    response.map(|body| match switched {
        true => UpstreamBody::Upgrade(Upgrade::Http1(body)),
        false => UpstreamBody::Http1(body),
    })
}

/// What follows the head of an answer.
#[derive(Debug)]
pub enum UpstreamBody {
    /// A body over HTTP/1.1.
    Http1(Http1Body),
    /// Another protocol, after a 101.
    Upgrade(Upgrade),
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
            Self::Upgrade(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Upgrade(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Upgrade(_) => SizeHint::with_exact(0),
        }
    }
}
