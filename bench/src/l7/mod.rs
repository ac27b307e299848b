//! `l7-gateway` beside its rivals: the same service behind each, the same load before each, in
//! turns. Not for the balancer: `crate::l4` has that.
//!
//! Invariant: every figure of a row comes from the same run, in turns.

pub mod auth;
pub mod cases;
pub mod client;
pub mod compare;
pub mod filters;
pub mod load;
pub mod party;
pub mod rig;

/// The figures of a run.
pub type Sheet = crate::figures::Sheet<party::Kind>;
/// A goal for one of them.
pub type Goal = crate::goals::Goal<party::Kind>;
