//! Stage 2: one strict, normal form of the request, and the policy that its route carries. Not for
//! choosing the service: that is `route`. Called by `pipeline`.
//!
//! Invariant: what leaves here has one canonical path, one host, and no header that only we may set.

use std::rc::Rc;

use thiserror::Error;
use topology::gateway::RoutePolicy;

use crate::exchange::{Exchange, Normalised, Received, ResponseHead, Stage};
use crate::halt::{Halt, Kind};
use crate::pipeline::Filter;
use crate::trace::Trace;

/// Why a request has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NormaliseError {
    /// Longer than `max_uri_bytes`.
    #[error("the path is too long")]
    TargetTooLong,
    /// `Content-Length` over `max_body_bytes`.
    #[error("the body is too large")]
    BodyTooLarge,
    /// No route and no default policy.
    #[error("nothing is at this path")]
    NoRoute,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Normalise;

impl Filter for Normalise {
    const STAGE: Stage = Stage::Normalise;
    type In = Received;
    type Out = Normalised;
    type Plan = Option<Rc<RoutePolicy>>;

    fn plan(&self, _x: &Exchange, _input: &Received, _trace: &mut impl Trace) -> Self::Plan {
        None
    }

    async fn request(&self, _x: &mut Exchange, _input: Received) -> Result<Normalised, Halt> {
        Err(Kind::NoRoute.into())
    }

    fn response(&self, _x: &Exchange, _head: &mut ResponseHead) {}
}
