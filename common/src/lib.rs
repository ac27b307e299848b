//! Building blocks that at least two tiers use: sockets, TLS, balancing, health, lifecycle,
//! observation. Not for anything that only one tier needs, and not for any tier's rules: `common`
//! knows no tier. Called by the tiers, by `discovery` and by the tool.
//!
//! Invariant: nothing here is global. What is shared is created by a tier and handed in, so that
//! several tiers run in one process.

pub mod balance;
pub mod calendar;
pub mod cli;
pub mod escape;
pub mod fetch;
pub mod health;
pub mod lifecycle;
pub mod net;
pub mod observe;
pub mod reload;
pub mod rng;
pub mod secret;
pub mod service;
pub mod snapshot;
pub mod spool;
pub mod telemetry;
pub mod tls;
pub mod trace_parent;
pub mod upgrade;
pub mod workers;
