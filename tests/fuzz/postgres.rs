//! PostgreSQL's messages from clients and from servers. The first byte chooses whose. Run by
//! `make fuzz`.
//!
//! Invariant: that of `pgpool_wire`: no bytes make it panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgpool_wire::fuzz;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => fuzz::fuzz_opening(rest),
        1 => fuzz::fuzz_frontend(rest),
        2 => fuzz::fuzz_backend(rest),
        _ => fuzz::fuzz_sasl(rest),
    }
});
