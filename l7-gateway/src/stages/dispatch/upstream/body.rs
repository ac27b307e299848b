//! The body of a service's answer, with the connection that it comes over. Not for the other bodies:
//! those are in `crate::body`. Made by `dispatch`.
//!
//! Invariant: a connection is given back only after its answer was read to the end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Lease;
use super::connection::UpstreamBody;
use crate::body::BodyFault;

/// A service's answer body; gives its connection back at its end.
#[derive(Debug)]
pub struct ServiceBody {
    incoming: UpstreamBody,
    lease: Option<Lease>,
    pace: Pace,
}

impl ServiceBody {
    /// The body that comes over a lent connection.
    pub fn new(incoming: UpstreamBody, lease: Lease, pace: Pace) -> Self {
        Self { incoming, lease: Some(lease), pace }
    }

    /// Whether the protocol itself tells its end from a break, whatever its headers say.
    pub fn is_framed(&self) -> bool {
        matches!(self.incoming, UpstreamBody::Http2(_))
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
        let polled = self.pace.poll(polled, cx);
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

/// How long a body may pause, and when it must have ended.
#[derive(Debug)]
pub struct Pace {
    idle: Duration,
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Pace {
    /// `end`: when it must be there whole.
    pub fn new(idle: Duration, end: Option<Instant>) -> Self {
        Self { idle, end, timer: None, waiting: false }
    }

    /// What was polled, or that it took too long. No timer is made for a body that never pauses, and
    /// none runs while its reader does not ask for more.
    fn poll<T>(
        &mut self,
        polled: Poll<Option<Result<T, BodyFault>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, BodyFault>>> {
        if polled.is_ready() {
            self.waiting = false;
            return match self.end {
                Some(end)
                    if matches!(&polled, Poll::Ready(Some(Ok(_)))) && Instant::now() >= end =>
                {
                    Poll::Ready(Some(Err(BodyFault::Late)))
                }
                _ => polled,
            };
        }
        if !self.waiting {
            self.waiting = true;
            let until = Instant::now() + self.idle;
            let until = self.end.map_or(until, |end| end.min(until));
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(until),
                None => self.timer = Some(Box::pin(sleep_until(until))),
            }
        }
        let fired = self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if fired {
            let late = self.end.is_some_and(|end| Instant::now() >= end);
            let fault = if late { BodyFault::Late } else { BodyFault::Idle };
            return Poll::Ready(Some(Err(fault)));
        }
        Poll::Pending
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
