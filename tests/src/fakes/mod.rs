//! Stand-ins for every system outside of the tiers: some real programs, some in this process. Not
//! for clients. Used by the tests.
//!
//! Invariant: each is ready when its constructor returns, and gone when it is dropped.

pub mod demo;
pub mod game;
pub mod half;
pub mod issuer;
pub mod postgres;
pub mod redis;
pub mod upstream;
