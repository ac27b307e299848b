//! Stage 4: may this caller ask this? Not for who the caller is: that is `authn`. Called by
//! `pipeline`.
//!
//! Invariant: `Grant` is made here alone, after every scope of the policy was found.

use crate::exchange::{Caller, Exchange, Granted, Identified, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

/// Proof that the caller may ask this; an upstream call demands one.
#[derive(Clone, Debug)]
pub struct Grant {
    caller: Caller,
}

impl Grant {
    /// Whom it was given to.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// The stage.
#[derive(Debug, Default)]
pub struct Authz;

impl Filter for Authz {
    const STAGE: Stage = Stage::Authz;
    type In = Identified;
    type Out = Granted;
    type Plan = ();

    fn plan(&self, _x: &Exchange, _input: &Identified, _trace: &mut impl Trace) {}

    async fn request(&self, _x: &mut Exchange, input: Identified) -> Result<Granted, Halt> {
        let Identified { request, policy, caller } = input;
        Ok(Granted { request, policy, grant: Grant { caller } })
    }
}
