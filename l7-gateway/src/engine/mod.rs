//! What turns bytes of a downstream connection into exchanges and back. Not for policy: the pipeline
//! has it. Called by `connection`, which picks an engine by ALPN.
//!
//! Invariant: an engine gives every fault it finds to the pipeline, so that it is answered, logged
//! and counted like any other request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use common::lifecycle::Shutdown;
use common::net::relay::Wire;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use crate::body::BodyFault;
use crate::connection::Line;
use crate::stages::emit::EmitBody;

pub mod frames;
pub mod http1;
pub mod http2;
pub mod stall;
mod tunnel;
pub mod watch;
mod websocket;

/// One way to speak HTTP on a downstream connection.
pub trait Engine {
    /// Serves a connection to its end: the client's, a fault's, or the instance's drain (exchanges
    /// that were begun are finished) and stop (they are not). Dropping the future ends everything
    /// at once.
    fn serve<IO>(&self, io: IO, line: Rc<Line>, shutdown: Shutdown) -> impl Future<Output = ()>
    where
        IO: Wire + 'static;
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
