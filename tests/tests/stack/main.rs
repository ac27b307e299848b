//! Whole-stack tests: the documented topology with its tiers in this one process, real PostgreSQL
//! and Redis beside it, and what clients see. Not for one tier alone: that is `TIER/tests/it`.
//! Each test has an address and systems of its own, so all of them run at once.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admin;
mod agreement;
mod calls;
mod drain;
mod explain;
mod faults;
mod found;
mod http;
#[cfg(feature = "verify")]
mod live;
mod mesh;
mod ready;
mod registered;
mod replay;
mod services;
mod sidecar;
mod sql;
mod udp;
