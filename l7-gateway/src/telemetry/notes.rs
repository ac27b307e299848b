//! What a sampled exchange notes of the attempts that it makes: each becomes a span, and each service is
//! told its own. Not for exchanges that are not sampled: those have none. Filled by `dispatch`.
//!
//! Invariant: every attempt that was begun is noted, also one that was abandoned.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use tokio::time::Instant;
use topology::EndpointName;

use crate::ids::TraceParent;

/// The attempts of one exchange.
#[derive(Debug)]
pub struct Notes {
    began: Instant,
    own: TraceParent,
    attempts: RefCell<Vec<Attempt>>,
}

/// One request to an endpoint, until the head of its answer.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its span.
    pub span: TraceParent,
    /// Whom it went to.
    pub endpoint: EndpointName,
    /// Where.
    pub address: SocketAddr,
    /// Since the exchange began.
    pub began: Duration,
    /// Since the exchange began.
    pub ended: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer of this status.
    Status(u16),
    /// None, for this reason.
    Failed(&'static str),
    /// Nobody waited for it any more.
    Abandoned,
}

impl Notes {
    /// For an exchange that has begun.
    pub fn new(began: Instant, own: TraceParent) -> Rc<Self> {
        Rc::new(Self { began, own, attempts: RefCell::default() })
    }

    /// An attempt begins; its service is told its span.
    pub fn begin(
        self: &Rc<Self>,
        endpoint: (&EndpointName, SocketAddr),
        headers: &mut HeaderMap,
    ) -> Noting {
        let mut attempts = self.attempts.borrow_mut();
        let index = attempts.len();
        // Random as the exchange's own, and another one for each.
        let span = self.own.next_span(index as u64 + 1);
        headers.insert(TRACE_PARENT, span.header());
        let began = self.began.elapsed();
        let outcome = Outcome::Abandoned;
        let (endpoint, address) = (endpoint.0.clone(), endpoint.1);
        attempts.push(Attempt { span, endpoint, address, began, ended: began, outcome });
        Noting { notes: Rc::clone(self), index, outcome }
    }

    /// Those that were made.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.take()
    }
}

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// An attempt that is under way.
#[derive(Debug)]
pub struct Noting {
    notes: Rc<Notes>,
    index: usize,
    outcome: Outcome,
}

impl Noting {
    /// It has ended.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        if let Some(attempt) = self.notes.attempts.borrow_mut().get_mut(self.index) {
            attempt.ended = self.notes.began.elapsed();
            attempt.outcome = self.outcome;
        }
    }
}
