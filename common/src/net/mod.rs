//! Sockets: binding, accepting, copying both ways, batches of datagrams, the PROXY protocol. Not for
//! TLS and not for choosing endpoints. Called by the tiers' listeners and data paths.
//!
//! Invariant: what a peer sends is bounded before it is stored, and `sys` alone calls libc.

pub mod accept;
pub mod batch;
pub mod bind;
pub mod descriptors;
pub mod proxy_protocol;
pub mod relay;
mod splice;
pub mod steer;
pub mod sys;
pub mod tcp;
