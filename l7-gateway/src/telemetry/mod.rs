//! What a gateway tells a collector: spans of exchanges and of their attempts, and records. Not for
//! sending, which all tiers share (`common::telemetry`), nor for deciding whose trace goes on
//! (`trace_context`). Filled by the sink.
//!
//! Invariant: a worker never waits for a collector.

pub mod notes;
pub mod span;

pub use common::telemetry::{Exporter, Exporting, Outbox, Wants};
pub use notes::Notes;
