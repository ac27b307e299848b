//! Stage 3: who is it? Not for what they may do: that is `authz`. Called by `pipeline`.
//!
//! Invariant: `Identity` is made here alone, after a signature was verified.

use std::sync::Arc;

use topology::gateway::Issuer;

pub use self::identity::Identity;
use crate::exchange::{Caller, Exchange, Identified, Normalised, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

mod identity;

/// Key sets of all issuers, shared by all workers.
#[derive(Debug)]
pub struct Keys;

impl Keys {
    /// For these issuers; fetches nothing yet.
    pub fn new(_issuers: &[Issuer]) -> Arc<Self> {
        Arc::new(Self)
    }

    /// Why tokens cannot be verified yet; empty: they can.
    pub fn waiting(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct Authn {
    _keys: Arc<Keys>,
}

impl Authn {
    /// For one worker.
    pub fn new(keys: Arc<Keys>) -> Self {
        Self { _keys: keys }
    }
}

impl Filter for Authn {
    const STAGE: Stage = Stage::Authn;
    type In = Normalised;
    type Out = Identified;
    type Plan = ();

    fn plan(&self, _x: &Exchange, _input: &Normalised, _trace: &mut impl Trace) {}

    async fn request(&self, _x: &mut Exchange, input: Normalised) -> Result<Identified, Halt> {
        let Normalised { request, policy } = input;
        Ok(Identified { request, policy, caller: Caller::Anonymous })
    }
}
