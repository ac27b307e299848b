//! Stage 7: what the service will be sent. Called by `pipeline`.
//!
//! Invariant: our own headers are attached last.

use crate::exchange::{Exchange, Prepared, Routed, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

/// The stage.
#[derive(Debug)]
pub struct RequestTransform;

impl Filter for RequestTransform {
    const STAGE: Stage = Stage::RequestTransform;
    type In = Routed;
    type Out = Prepared;
    type Plan = ();

    fn plan(&self, _x: &Exchange, _input: &Routed, _trace: &mut impl Trace) {}

    async fn request(&self, _x: &mut Exchange, input: Routed) -> Result<Prepared, Halt> {
        let (head, ()) = http::Request::new(()).into_parts();
        let Routed { request, grant, route } = input;
        Ok(Prepared { head, body: request.body, upgrade: request.upgrade, grant, route })
    }
}
