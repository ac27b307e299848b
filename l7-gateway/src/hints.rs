//! Interim answers of services (RFC 9110 §15.2) on their way to the client, such as early hints
//! (RFC 8297). Not for the final answer, nor for `100 Continue`, which is ours to say. Told by whoever
//! speaks to a service; heard by `engine/http1`.
//!
//! Invariant: a hint never stands for an answer: what was passed changes nothing about retries, and
//! none comes behind the final head.

use std::cell::RefCell;
use std::fmt;
use std::rc::{Rc, Weak};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::hops::{Internal, hop_by_hop};

/// A client's connection that interim answers can be written to.
pub trait Hearer: fmt::Debug {
    /// One for this exchange, counted from the connection's first; left out where it cannot be said.
    fn hear(&mut self, exchange: u64, status: StatusCode, fields: &HeaderMap);
}

/// The way of hints to one exchange's client. Does not keep its connection.
#[derive(Clone, Debug)]
pub struct Hints {
    client: Weak<RefCell<dyn Hearer>>,
    exchange: u64,
    /// What clients are not told; nothing passes before that is known.
    internal: Option<Rc<Internal>>,
}

impl Hints {
    /// To this client, for this exchange of it.
    pub fn new(client: Weak<RefCell<dyn Hearer>>, exchange: u64) -> Self {
        Self { client, exchange, internal: None }
    }

    /// Without these.
    pub fn without(self, internal: &Rc<Internal>) -> Self {
        Self { internal: Some(Rc::clone(internal)), ..self }
    }
}

/// The interim answers to one request to a service.
#[derive(Debug)]
pub struct Interim {
    hints: Option<Hints>,
    seen: u32,
}

/// More interim answers than anybody means well with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endless;

/// Interim answers to one request.
pub const MOST: u32 = 16;
/// Names and values of a hint in bytes; larger ones are not passed.
const LARGEST: usize = 16 * 1024;

impl Interim {
    /// None has come yet.
    pub fn new(hints: Option<Hints>) -> Self {
        Self { hints, seen: 0 }
    }

    /// One has come; it is passed if it is a client's to know.
    ///
    /// # Errors
    /// It is one too many: the service is to be cut off.
    pub fn came(&mut self, status: StatusCode, mut fields: HeaderMap) -> Result<(), Endless> {
        self.seen += 1;
        if self.seen > MOST {
            return Err(Endless);
        }
        let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        let small = fields.iter().map(size).sum::<usize>() <= LARGEST;
        // Those two are of one connection alone.
        let ours = matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS);
        if let Some(hints) = self.hints.as_ref().filter(|_| small && !ours)
            && let Hints { client, exchange, internal: Some(internal) } = hints
            && let Some(client) = client.upgrade()
        {
            hop_by_hop(&mut fields);
            // Whatever else a service says here, it says again in its final answer (RFC 8297).
            internal.remove(&mut fields);
            client.borrow_mut().hear(*exchange, status, &fields);
        }
        Ok(())
    }
}
