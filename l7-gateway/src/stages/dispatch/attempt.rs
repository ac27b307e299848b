//! One attempt: a connection, the request, the answer's head. Not for deciding whether there is
//! another. Called by `dispatch`.
//!
//! Invariant: a failure says how far it got, and gives the request back if nothing was written.

use std::rc::Rc;

use http::{Request, Response};
use tokio::time::{Instant, timeout_at};

use super::retry::Reached;
use super::upstream::connection::UpstreamBody;
use super::upstream::{Lease, Pool, Reuse};
use crate::body::RequestBody;

/// Where and how an attempt goes.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// Index into the service's endpoints.
    pub endpoint: usize,
    /// Whether a kept connection will do.
    pub reuse: Reuse,
    /// When the answer's head must be there.
    pub deadline: Instant,
}

/// Why an attempt failed.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub why: Why,
    /// The request, if nothing of it was written.
    pub unsent: Option<Request<RequestBody>>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No endpoint may be asked now.
    Nobody,
    /// No connection.
    Connect,
    /// The connection had ended before the request was written.
    Stale,
    /// It broke after something was written.
    Broken,
    /// No head in time.
    Timeout,
}

impl Why {
    /// In an operator's words.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Nobody => "no endpoint",
            Self::Connect => "no connection",
            Self::Stale => "a kept connection had ended",
            Self::Broken => "the connection broke before an answer",
            Self::Timeout => "no answer in time",
        }
    }
}

impl Failure {
    /// How far it got.
    pub fn reached(&self) -> Reached {
        if self.unsent.is_some() { Reached::Nothing } else { Reached::Service }
    }
}

/// Sends the request and waits for the answer's head. Dropping the future closes the connection.
pub async fn attempt(
    pool: &Rc<Pool>,
    aim: Aim,
    request: Request<RequestBody>,
) -> Result<(Response<UpstreamBody>, Lease), Failure> {
    let lease = match timeout_at(aim.deadline, pool.checkout(aim.endpoint, aim.reuse)).await {
        Ok(Ok(lease)) => lease,
        Ok(Err(_)) => return Err(Failure { why: Why::Connect, unsent: Some(request) }),
        Err(_) => return Err(Failure { why: Why::Timeout, unsent: Some(request) }),
    };
    send(lease, aim.deadline, request).await
}

async fn send(
    mut lease: Lease,
    deadline: Instant,
    request: Request<RequestBody>,
) -> Result<(Response<UpstreamBody>, Lease), Failure> {
    let reused = lease.reused();
    match timeout_at(deadline, lease.send(request)).await {
        Ok(Ok(response)) => Ok((response, lease)),
        Ok(Err(unanswered)) => {
            let unsent = unanswered.unsent;
            let why = if unsent.is_some() && reused { Why::Stale } else { Why::Broken };
            Err(Failure { why, unsent })
        }
        Err(_) => Err(Failure { why: Why::Timeout, unsent: None }),
    }
}
