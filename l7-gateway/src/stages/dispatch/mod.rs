//! Stage 8: ask the service, elsewhere again where that is safe. Called by `pipeline`.
//!
//! Invariant: a request that may have had an effect is sent once.

use thiserror::Error;

use crate::body::BodyFault;
use crate::exchange::{Answered, Exchange, Prepared, Stage};
use crate::halt::{Halt, Kind};
use crate::pipeline::Filter;
use crate::trace::Trace;

pub mod upstream;

/// Why no answer came from the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DispatchError {
    /// The client's own body failed.
    #[error(transparent)]
    Body(BodyFault),
    /// No head within the route's timeout.
    #[error("no answer in time")]
    Timeout,
    /// No connection.
    #[error("no endpoint could be connected to")]
    Unreachable,
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke before an answer")]
    Broken,
}

/// The stage.
#[derive(Debug)]
pub struct Dispatch;

impl Filter for Dispatch {
    const STAGE: Stage = Stage::Dispatch;
    type In = Prepared;
    type Out = Answered;
    type Plan = ();

    fn plan(&self, _x: &Exchange, _input: &Prepared, _trace: &mut impl Trace) {}

    async fn request(&self, _x: &mut Exchange, _input: Prepared) -> Result<Answered, Halt> {
        Err(Kind::UpstreamUnavailable.into())
    }
}
