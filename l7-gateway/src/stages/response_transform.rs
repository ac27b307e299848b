//! Stage 9: what the client may see of an answer. Called by `pipeline`.
//!
//! Invariant: no header that names a server inside leaves.

use crate::exchange::{Answered, Exchange, Stage, Transformed};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

/// The stage.
#[derive(Debug)]
pub struct ResponseTransform;

impl Filter for ResponseTransform {
    const STAGE: Stage = Stage::ResponseTransform;
    type In = Answered;
    type Out = Transformed;
    type Plan = ();

    fn plan(&self, _x: &Exchange, _input: &Answered, _trace: &mut impl Trace) {}

    async fn request(&self, _x: &mut Exchange, input: Answered) -> Result<Transformed, Halt> {
        Ok(Transformed(input))
    }
}
