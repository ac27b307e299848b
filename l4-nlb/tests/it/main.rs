//! The balancer in process against fakes on loopback: sockets, threads and signals as in
//! production, ports chosen by the system. Not for rules of one function: those are beside it.
//!
//! Invariant: nothing waits for wall time; what is awaited is an answer, an end, or a count.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fakes;
mod flood;
mod instance;
mod name_server;
mod process;
#[cfg(feature = "verify")]
mod real;
mod reload;
mod tcp;
#[cfg(feature = "verify")]
mod transparent;
mod udp;
mod upgrade;
