//! How an instance tells an operator what happens: logs, metrics, events, the admin listener. Not
//! for the access record, which the gateway writes itself.
//!
//! Invariant: recorders are values; nothing registers itself anywhere.

pub mod admin;
pub mod event;
pub mod latency;
pub mod log;
pub mod metrics;
pub mod recent;

pub use event::{Event, Observer};
pub use latency::Latency;
pub use metrics::Metrics;
pub use recent::Recent;
