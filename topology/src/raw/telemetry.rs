//! A group's `telemetry:` as typed.
//!
//! Invariant: none beyond `raw`'s.

use ipnet::IpNet;

use crate::raw::Typed;
use crate::raw::schema::section;
use crate::telemetry::Sample;

section! {
    /// Traces: whose are continued, and which are sampled.
    Telemetry {
        /// How many of the traces that begin here are sampled: services are told so by the flag of
        /// `traceparent`. Default: 1%.
        may "sample" sample: Typed<Sample>,
        /// Networks of clients whose `traceparent` and `tracestate` are continued, their choice of what is
        /// sampled included. Default: none; every request begins a trace.
        may "trust-trace-from" trust_trace_from: Vec<Typed<IpNet>>,
    }
}
