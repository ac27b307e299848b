//! Why calls of aggregates fail: the status that comes of it, and what operators are told, in the access record and as
//! a counter. Called by `aggregate`.
//!
//! Invariant: words are of a short list and names are of the file: nothing that clients ask or services answer makes
//! another series.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;

use common::observe::Observer;
use http::{HeaderValue, StatusCode, header};
use metrics::Counter;
use topology::answers::{Aggregate, AggregateId, Call};

use crate::body::BodyFault;
use crate::halt::{Halt, Kind, Reply};

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fails {
    /// It took longer than it may.
    Late,
    /// It was answered otherwise than with 200 to 299; when it may be asked again.
    Told(StatusCode, Option<HeaderValue>),
    /// Nobody answered: what a client is told that asks for nothing else.
    Unanswered(Reply),
    /// Its answer broke off.
    Broken,
    /// Its answer finds no room beside the others.
    TooLarge,
    /// Its answer is no JSON that can be put beside others.
    Unfit,
    /// It was not made: something is missing that it asks for.
    Unmade,
}

impl Fails {
    /// What its client would be told of it: a service's own error, or that there is no answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Told(status, _) if status.as_u16() >= 400 => *status,
            other => other.kind().row().status,
        }
    }

    /// When a client may come again, if that was said.
    pub(super) fn again(&self) -> Option<HeaderValue> {
        match self {
            Self::Told(_, again) => again.clone(),
            Self::Unanswered(reply) => reply.said(&header::RETRY_AFTER).cloned(),
            _ => None,
        }
    }

    /// Whether it says nothing of what was asked for, and an older answer may stand in: RFC 5861 §4 has that for 500, 502,
    /// 503 and 504. A service that is asked too often or waited too long is no other.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Told(status, _) => matches!(status.as_u16(), 408 | 429 | 500..),
            _ => true,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Late => Kind::UpstreamTimeout,
            Self::Unanswered(reply) => reply.kind(),
            _ => Kind::UpstreamFailed,
        }
    }

    /// Why, in one word.
    fn word(&self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Told(..) => "status",
            Self::Unanswered(reply) => reply.kind().row().code,
            Self::Broken => "broken",
            Self::TooLarge => "too_large",
            Self::Unfit => "no_json",
            Self::Unmade => "not_made",
        }
    }

    /// The whole fails with it.
    pub(super) fn whole(self, call: &Call) -> Halt {
        let kind = self.kind();
        let reply = match self {
            Self::Unanswered(reply) => reply,
            _ => Reply::new(kind),
        };
        reply.detail(format!("the call `{}` failed", call.name)).into()
    }
}

impl From<Halt> for Fails {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Reply(reply) => Self::Unanswered(reply),
            Halt::Given(_) | Halt::Disconnect => Self::Broken,
        }
    }
}

impl From<BodyFault> for Fails {
    fn from(fault: BodyFault) -> Self {
        match fault {
            // The service's own bounds on its answer.
            BodyFault::Idle | BodyFault::Late => {
                Self::Unanswered(Reply::new(Kind::UpstreamTimeout))
            }
            BodyFault::TooLarge | BodyFault::Malformed | BodyFault::Broken => Self::Broken,
        }
    }
}

/// The worst of what the needed calls were answered with.
#[derive(Debug, Default)]
pub(super) struct Worst(Option<(StatusCode, Option<HeaderValue>)>);

impl Worst {
    /// This is one of them.
    pub(super) fn add(&mut self, fails: &Fails) {
        let status = fails.status();
        if self.0.as_ref().is_none_or(|(known, _)| *known < status) {
            self.0 = Some((status, fails.again()));
        }
    }

    /// The status, and when to come again.
    pub(super) fn told(self) -> Option<(StatusCode, Option<HeaderValue>)> {
        self.0
    }
}

/// Which calls of one aggregate failed, as its record says it.
#[derive(Debug, Default)]
pub(super) struct Failed(String);

impl Failed {
    /// As a record has it; `None`: none did.
    pub(super) fn text(self) -> Option<Box<str>> {
        (!self.0.is_empty()).then(|| self.0.into())
    }
}

/// Counters of failed calls, on one worker: made with the first failure of each.
#[derive(Debug, Default)]
pub(super) struct Counts(RefCell<HashMap<(AggregateId, usize, &'static str), Counter>>);

impl Counts {
    /// Notes that a call failed, for the record and for the counter.
    pub(super) fn note(
        &self,
        (id, index, model): (AggregateId, usize, &Aggregate),
        (fails, route): (&Fails, &str),
        failed: &mut Failed,
        observer: &Observer,
    ) {
        let Some(call) = model.calls.get(index) else { return };
        let (word, text) = (fails.word(), &mut failed.0);
        if !text.is_empty() {
            text.push_str(", ");
        }
        let _ = match fails {
            Fails::Told(status, _) => write!(text, "{}: {}", call.name, status.as_u16()),
            _ => write!(text, "{}: {word}", call.name),
        };
        let counter = || {
            let help = "Calls of aggregates that failed, by route, call and reason";
            let labels = [("route", route), ("call", call.name.as_str()), ("reason", word)];
            observer.metrics.counter("aqueduct_http_aggregate_call_failures_total", help, &labels)
        };
        self.0.borrow_mut().entry((id, index, word)).or_insert_with(counter).increment(1);
    }
}
