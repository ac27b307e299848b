//! pgpool against a real PostgreSQL (started in a folder of its own) and against a fake one in
//! memory with a paused clock. Not for the wire format alone, which `pgpool-wire` tests. One
//! binary, so that the helpers are built once.
//!
//! Invariant: every test has servers, ports and files of its own; nothing waits for wall time.

#![expect(clippy::panic, reason = "helpers of tests; clippy exempts only the tests themselves")]

mod activation;
mod admin;
mod console;
mod dropin;
mod edges;
mod encrypted;
mod fake;
mod faults;
mod flood;
mod follow;
mod habits;
mod hostile;
mod identity;
mod kept;
mod leak;
mod left;
mod likeness;
mod listen;
mod login;
mod lookup;
mod manage;
mod named;
mod observed;
mod oracle;
mod owing;
mod pooler;
mod postgres;
mod prelude;
mod rare;
mod raw;
mod readiness;
#[cfg(feature = "verify")]
mod real;
mod reload;
mod replicas;
mod replication;
mod reset;
mod shards;
mod sharing;
mod team;
mod time;
mod upgrade;
mod wishes;
