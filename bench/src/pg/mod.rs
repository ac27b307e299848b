//! `pgpool` beside `PgBouncer`: the same PostgreSQL behind each, `pgbench` before each, in turns. Not
//! for the other tiers.
//!
//! Invariant: every figure of a row comes from the same run, in turns.

pub mod cases;
pub mod clients;
pub mod compare;
pub mod failover;
pub mod load;
pub mod party;
pub mod server;

/// The figures of a run.
pub type Sheet = crate::figures::Sheet<party::Kind>;
/// A goal for one of them.
pub type Goal = crate::goals::Goal<party::Kind>;
