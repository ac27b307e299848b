//! Stage 5: is there budget left? Not for the per-address limits' moment: stage 2 charges them
//! through [`address::charge`]. Called by `pipeline`.
//!
//! Invariant: a request that is refused here never reaches a service.

use std::rc::Rc;
use std::sync::Arc;

use topology::gateway::Group;

use crate::exchange::{Admitted, Exchange, Granted, ResponseHead, Stage};
use crate::halt::Halt;
use crate::pipeline::Filter;
use crate::trace::Trace;

pub mod address;

/// Counters of one process, shared by all workers.
#[derive(Debug)]
pub struct Limits;

impl Limits {
    /// For the limits of a group.
    pub fn new(_group: &Group) -> Arc<Self> {
        Arc::new(Self)
    }
}

/// What charges limits on one worker: the shared counters and this worker's connection to the store.
#[derive(Debug)]
pub struct Limiter {
    _limits: Arc<Limits>,
}

impl Limiter {
    /// For one worker; must be called on its runtime.
    pub fn new(limits: Arc<Limits>) -> Rc<Self> {
        Rc::new(Self { _limits: limits })
    }
}

/// The stage, one per worker.
#[derive(Debug)]
pub struct RateLimit {
    _limiter: Rc<Limiter>,
}

impl RateLimit {
    /// For one worker.
    pub fn new(limiter: Rc<Limiter>) -> Self {
        Self { _limiter: limiter }
    }
}

impl Filter for RateLimit {
    const STAGE: Stage = Stage::RateLimit;
    type In = Granted;
    type Out = Admitted;
    type Plan = ();

    fn plan(&self, _x: &Exchange, _input: &Granted, _trace: &mut impl Trace) {}

    async fn request(&self, _x: &mut Exchange, input: Granted) -> Result<Admitted, Halt> {
        let Granted { request, policy: _, grant } = input;
        Ok(Admitted { request, grant })
    }

    fn response(&self, _x: &Exchange, _head: &mut ResponseHead) {}
}
