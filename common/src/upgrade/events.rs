//! What an operator must hear of a hand-over, whatever the tier.
//!
//! Invariant: every hand-over counts once, where the admin listener is afterwards.

use std::fmt::Display;

use tracing::Level;

use crate::observe::{Event, Observer};

/// This process serves with what another one had.
#[derive(Debug)]
pub struct TakenOver;

/// A new process serves; this one lets its connections finish.
#[derive(Debug)]
pub struct HandedOver {
    /// Its number.
    pub process: u32,
}

/// No new process took over; this one goes on.
pub struct UpgradeFailed<'a> {
    /// Why.
    pub cause: &'a dyn Display,
}

const UPGRADES: &str = "aqueduct_upgrades_total";
const UPGRADES_HELP: &str = "Hand-overs to a new process, by outcome.";

impl Event for TakenOver {
    fn emit(&self, to: &Observer) {
        // Counted where the admin listener is now.
        to.metrics.counter(UPGRADES, UPGRADES_HELP, &[("outcome", "done")]).increment(1);
        tracing::event!(Level::INFO, instance = &*to.instance, "taken over");
    }
}

impl Event for HandedOver {
    fn emit(&self, to: &Observer) {
        let (instance, process) = (&*to.instance, self.process);
        tracing::event!(Level::INFO, instance, process, "handed over");
    }
}

impl Event for UpgradeFailed<'_> {
    fn emit(&self, to: &Observer) {
        to.metrics.counter(UPGRADES, UPGRADES_HELP, &[("outcome", "failed")]).increment(1);
        let (instance, cause) = (&*to.instance, self.cause);
        tracing::event!(Level::ERROR, instance, %cause, "upgrade failed, going on");
    }
}
