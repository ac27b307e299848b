//! `l4-nlb` beside its rivals: clients, balancer and servers in three network namespaces, the
//! direct path as the limit. Not for the gateway: `crate::gateway` has that.
//!
//! Invariant: every figure of a row comes from the same run, in turns.

pub mod behaviour;
pub mod clock;
pub mod compare;
pub mod memory;
pub mod namespaces;
pub mod party;
mod poll;
pub mod rig;
pub mod search;
pub mod server;
pub mod speed;
pub mod tcp_client;
pub mod udp_client;
pub mod wire;

/// The figures of a run.
pub type Sheet = crate::figures::Sheet<party::Kind>;
