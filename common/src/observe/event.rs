//! Events: one struct per happening, with its log line and its metric side by side in the tier's
//! `events.rs`. Not for what happens per request: those are counters kept in the snapshot.
//!
//! Invariant: an event knows nothing but its own facts and the observer that it is given to.

use std::sync::Arc;

use super::Metrics;

/// One instance's ear: its name and its recorder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Observer {
    /// The instance's name, first field of every log line.
    pub instance: Arc<str>,
    /// Where counters live.
    pub metrics: Metrics,
}

/// Something that an operator should hear of.
pub trait Event {
    /// Writes the log line and moves the metric.
    fn emit(&self, to: &Observer);
}

impl Observer {
    /// An ear for the instance of this name, with an empty recorder.
    pub fn new(instance: &str) -> Self {
        Self { instance: Arc::from(instance), metrics: Metrics::new() }
    }

    /// Lets an event speak.
    #[expect(clippy::needless_pass_by_value, reason = "an event is told once, then gone")]
    pub fn emit(&self, event: impl Event) {
        event.emit(self);
    }
}
