//! Connections to services. Called by `dispatch`.
//!
//! Invariant: a connection is reused only after its answer was read to the end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::body::BodyFault;

/// A service's answer body.
#[derive(Debug)]
pub struct ServiceBody {
    incoming: Incoming,
}

impl Body for ServiceBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(|_| BodyFault::Broken)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
