//! How a `plan` says why it decided: silent on the data path, recorded for `aqueduct explain`. Not
//! for logs or spans. Called by every stage's `plan`.
//!
//! Invariant: a silent trace never builds the text.

use crate::exchange::Stage;

/// Takes the reasons of a plan.
pub trait Trace {
    /// Notes a reason; `text` is only made when somebody listens.
    fn note(&mut self, stage: Stage, text: impl FnOnce() -> String);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Trace for Silent {
    fn note(&mut self, _stage: Stage, _text: impl FnOnce() -> String) {}
}

/// Keeps every reason in order.
#[derive(Clone, Debug, Default)]
pub struct Recording(pub Vec<(Stage, String)>);

impl Trace for Recording {
    fn note(&mut self, stage: Stage, text: impl FnOnce() -> String) {
        self.0.push((stage, text()));
    }
}
