//! One attempt: a connection, the request, the answer's head. Not for deciding whether there is
//! another. Called by `dispatch`.
//!
//! Invariant: a failure says how far it got, and gives the request back if nothing was written.

use std::rc::Rc;
use std::time::Duration;

use http::{Response, header};
use tokio::time::Instant;
use topology::gateway::Times;

use super::alarm::Alarms;
use super::retry::Reached;
use super::upstream::connection::{Offer, Outgoing, Unanswered, UpstreamBody};
use super::upstream::{Lease, Pool, Reuse};
use crate::body::BodyProgress;

/// Where and how an attempt goes.
#[derive(Clone, Copy, Debug)]
pub struct Aim<'a> {
    /// Index into the service's endpoints.
    pub endpoint: usize,
    /// Whether a kept connection will do.
    pub reuse: Reuse,
    /// When it begins.
    pub now: Instant,
    /// When the answer's head must be there.
    pub deadline: Instant,
    /// When the whole exchange must have ended.
    pub end: Option<Instant>,
    /// How long each thing may take.
    pub times: &'a Times,
    /// It is a gRPC call.
    pub streams: bool,
}

/// Why an attempt failed.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub why: Why,
    /// The request, if nothing of it was written.
    pub unsent: Option<Outgoing>,
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
    /// The service refused it unseen.
    Refused,
    /// It broke after something was written.
    Broken,
    /// No head in the time of this attempt; another one may have more.
    Late,
    /// No head in time.
    Timeout,
}

impl Why {
    /// In an operator's words.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Nobody => "no endpoint",
            Self::Connect => "no connection",
            Self::Refused => "the service refused a request unseen",
            Self::Stale => "a kept connection had ended",
            Self::Broken => "the connection broke before an answer",
            Self::Late | Self::Timeout => "no answer in time",
        }
    }
}

impl Failure {
    /// How far it got.
    pub fn reached(&self) -> Reached {
        let unseen = self.unsent.is_some() || self.why == Why::Refused;
        if unseen { Reached::Nothing } else { Reached::Service }
    }
}

/// Sends the request and waits for the answer's head. Dropping the future closes the connection.
pub async fn attempt(
    pool: &Rc<Pool>,
    aim: Aim<'_>,
    request: Outgoing,
) -> Result<(Response<UpstreamBody>, Lease), Failure> {
    let patience = Patience::new(&aim, request.body.progress());
    let change = request.head.headers.contains_key(header::UPGRADE);
    let offer = if change { Offer::Http1 } else { Offer::Usual };
    let checkout = pool.checkout(&aim, offer);
    let lease = match pool.alarms.limit(patience.until(), checkout).await {
        Some(Ok(lease)) => lease,
        Some(Err(_)) => return Err(Failure { why: Why::Connect, unsent: Some(request) }),
        None => return Err(Failure { why: patience.why(), unsent: Some(request) }),
    };
    send(&pool.alarms, lease, patience, request).await
}

async fn send(
    alarms: &Alarms,
    mut lease: Lease,
    mut patience: Patience,
    request: Outgoing,
) -> Result<(Response<UpstreamBody>, Lease), Failure> {
    let reused = lease.reused();
    patience.sending();
    let answered = {
        let mut answer = std::pin::pin!(lease.send(request));
        loop {
            match alarms.limit(patience.until(), &mut answer).await {
                Some(answered) => break answered,
                None if patience.goes_on() => {}
                None => return Err(Failure { why: patience.why(), unsent: None }),
            }
        }
    };
    match answered {
        Ok(response) => Ok((response, lease)),
        Err(Unanswered { unsent, refused }) => {
            let why = match &unsent {
                _ if refused => Why::Refused,
                Some(_) if reused => Why::Stale,
                _ => Why::Broken,
            };
            Err(Failure { why, unsent })
        }
    }
}

/// How long an answer's head is waited for. While the client is sending its body no time passes, for
/// that is not the service's.
#[derive(Debug)]
struct Patience {
    body: Rc<BodyProgress>,
    /// Of the body, when it was looked at last.
    bytes: u64,
    looked: Instant,
    deadline: Instant,
    end: Option<Instant>,
    attempt: Option<Instant>,
    first_byte: Option<Duration>,
    /// The client may be silent for as long as it likes.
    streams: bool,
    /// When the first byte must be there: known once the body was sent.
    first: Option<Instant>,
}

impl Patience {
    fn new(aim: &Aim<'_>, body: Rc<BodyProgress>) -> Self {
        let now = aim.now;
        Self {
            bytes: body.bytes(),
            body,
            looked: now,
            deadline: aim.deadline,
            end: aim.end,
            attempt: aim.times.attempt.map(|time| now + time),
            first_byte: aim.times.first_byte,
            streams: aim.streams,
            first: None,
        }
    }

    /// The request goes out now.
    fn sending(&mut self) {
        self.first = self.first_byte.map(|time| Instant::now() + time);
    }

    fn until(&self) -> Instant {
        let nearest = [self.attempt, self.first, self.end].into_iter().flatten().min();
        nearest.map_or(self.deadline, |nearest| nearest.min(self.deadline))
    }

    /// The time is over: whether there is more of it, because the client was sending meanwhile.
    fn goes_on(&mut self) -> bool {
        let (now, bytes) = (Instant::now(), self.body.bytes());
        if self.end.is_some_and(|end| now >= end) {
            return false;
        }
        let first_alone = now < self.deadline && self.attempt.is_none_or(|attempt| now < attempt);
        let waits = first_alone || self.streams;
        if bytes == self.bytes && (self.body.ended() || !waits) {
            return false;
        }
        // Either it sent something, or it is thinking, which `RequestBody` has a limit for.
        let passed = now.saturating_duration_since(self.looked);
        (self.bytes, self.looked) = (bytes, now);
        self.deadline += passed;
        self.attempt = self.attempt.map(|attempt| attempt + passed);
        self.first = self.first_byte.map(|time| now + time);
        true
    }

    fn why(&self) -> Why {
        let now = Instant::now();
        let over = now >= self.deadline || self.end.is_some_and(|end| now >= end);
        if over { Why::Timeout } else { Why::Late }
    }
}
