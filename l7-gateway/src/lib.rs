//! Tier 2 of Aqueduct: TLS, identity, limits, routing and observability for HTTP. A library with a
//! thin binary, so that tests start it in process.
//!
//! Invariant: one request runs through ten stages in one order, which `pipeline` alone knows.

#![forbid(unsafe_code)]

pub mod access_log;
pub mod body;
pub mod engine;
pub mod exchange;
pub mod halt;
pub mod ids;
pub mod pipeline;
pub mod stages;
pub mod trace;
