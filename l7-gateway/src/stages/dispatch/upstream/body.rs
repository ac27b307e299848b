//! The body of a service's answer, with the connection that it comes over. Not for the other bodies:
//! those are in `crate::body`. Made by `dispatch`.
//!
//! Invariant: a connection is given back only after its answer was read to the end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Lease;
use super::connection::UpstreamBody;
use crate::body::BodyFault;

/// A service's answer body; gives its connection back at its end.
#[derive(Debug)]
pub struct ServiceBody {
    incoming: UpstreamBody,
    lease: Option<Lease>,
}

impl ServiceBody {
    /// The body that comes over a lent connection.
    pub fn new(incoming: UpstreamBody, lease: Lease) -> Self {
        Self { incoming, lease: Some(lease) }
    }
}

impl Body for ServiceBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            // A broken connection is dropped, never kept.
            self.lease = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ServiceBody {
    fn drop(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}
