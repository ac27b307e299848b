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
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::super::service::Secured;
use crate::body::{BodyFault, RequestBody, Upgrade};

/// A connection.
#[derive(Debug)]
pub enum Connection {
    /// HTTP/1.1: one request at a time.
    Http1(http1::SendRequest<RequestBody>),
}

/// No answer came.
#[derive(Debug)]
pub struct Unanswered {
    /// The request, if nothing of it was written.
    pub unsent: Option<Request<RequestBody>>,
}

/// Most bytes of line and headers of an answer.
const MAX_ANSWER_HEAD: usize = 128 * 1024;

impl Connection {
    /// A new one.
    ///
    /// # Errors
    /// Nobody listens, or the handshake failed.
    pub async fn open(address: SocketAddr, tls: Option<&Secured>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match tls {
            None => Self::http1(stream).await,
            // Boxed: a handshake is large, and most services have none.
            Some(tls) => Self::http1(Box::pin(tls.secure(stream, address)).await?).await,
        }
    }

    async fn http1<IO>(io: IO) -> io::Result<Self>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_ANSWER_HEAD);
        let (send, task) = builder.handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            // Its end is seen by the sender, which says more.
            let _seen = task.with_upgrades().await;
        });
        Ok(Self::Http1(send))
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(send) => send.is_closed(),
        }
    }

    /// Whether it takes a request now.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Http1(send) => send.is_ready(),
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
            Self::Http1(send) => match send.try_send_request(request).await {
                Ok(response) => Ok(of_http1(response)),
                Err(mut error) => Err(Unanswered { unsent: error.take_message() }),
            },
        }
    }
}

fn of_http1(mut response: Response<Incoming>) -> Response<UpstreamBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = Upgrade::Hyper(hyper::upgrade::on(&mut response));
        return response.map(|_| UpstreamBody::Upgrade(upgrade));
    }
    response.map(UpstreamBody::Http1)
}

/// What follows the head of an answer.
#[derive(Debug)]
pub enum UpstreamBody {
    /// A body over HTTP/1.1.
    Http1(Incoming),
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
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(|_| BodyFault::Broken),
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
