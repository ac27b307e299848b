//! What whole-stack tests stand on: a private loopback address per test, tiers started in this
//! process from a topology text, fakes of every system outside, clients. Not for assertions: those
//! are the tests'. Used by `tests/stack` alone.
//!
//! Invariant: nothing is shared between two tests, and nothing outlives one.
#![forbid(unsafe_code)]

pub mod address;
pub mod clients;
pub mod fakes;
pub mod pki;
pub mod program;
pub mod shipped;
pub mod tier;
