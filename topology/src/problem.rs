//! What is wrong with a topology file, and where. Not for what fails while running.
//!
//! Invariant: a problem says what, where and what to do instead.

use crate::units::Place;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub at: Place,
    /// The path of keys, `gateways.app.routes[2].weight`.
    pub path: String,
    /// What is wrong.
    pub what: String,
}
