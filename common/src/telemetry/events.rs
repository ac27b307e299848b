//! What an operator must hear of a collector, whatever the tier.
//!
//! Invariant: once when it goes away, once when it is back.

use tracing::Level;

use super::post::PostError;
use crate::observe::{Event, Observer};

/// A collector takes no spans.
#[derive(Debug)]
pub struct CollectorAway<'a> {
    /// Where it should be.
    pub address: &'a str,
    /// What is wrong.
    pub fault: &'a PostError,
}

/// It takes them again.
#[derive(Debug)]
pub struct CollectorBack;

impl Event for CollectorAway<'_> {
    fn emit(&self, to: &Observer) {
        let (instance, address, fault) = (&*to.instance, self.address, self.fault);
        tracing::event!(Level::WARN, instance, address, %fault, "spans are lost: the collector takes none");
    }
}

impl Event for CollectorBack {
    fn emit(&self, to: &Observer) {
        tracing::event!(Level::INFO, instance = %to.instance, "the collector takes spans again");
    }
}
