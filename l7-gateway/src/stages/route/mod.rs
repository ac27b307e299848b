//! Stage 6: the route, once everybody has agreed to the request. Called by `pipeline`.
//!
//! Invariant: a route whose sunset has passed is never taken.

use http::HeaderValue;
use thiserror::Error;

use crate::exchange::{Admitted, Exchange, Routed, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

/// Why there is no route.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Nothing matches.
    #[error("no route matches host and path")]
    NoRoute,
    /// The path exists for other methods.
    #[error("the path exists for other methods")]
    Method {
        /// Value of `Allow`.
        allow: HeaderValue,
    },
    /// Its day has passed.
    #[error("the route was withdrawn")]
    Sunset,
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Route;

impl Filter for Route {
    const STAGE: Stage = Stage::Route;
    type In = Admitted;
    type Out = Routed;
    type Plan = Result<crate::exchange::RouteId, RouteError>;

    fn plan(&self, x: &Exchange, _input: &Admitted, _trace: &mut impl Trace) -> Self::Plan {
        x.candidate.route().ok_or(RouteError::NoRoute)
    }

    async fn request(&self, x: &mut Exchange, input: Admitted) -> Result<Routed, Halt> {
        let route = self.plan(x, &input, &mut crate::trace::Silent)?;
        Ok(Routed { request: input.request, grant: input.grant, route })
    }
}
