//! Side by side with rivals: each figure is a ratio from one run, in turns, with its spread. Not a
//! test: nothing here fails because a machine is slow. Called by the programs in `bin/`.
//!
//! Invariant: only processes that were started here are measured and ended.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod l4;
pub mod process;
pub mod wrk;
