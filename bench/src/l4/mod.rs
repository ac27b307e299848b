//! `l4-nlb` beside its rivals: clients, balancer and servers in three network namespaces, the
//! direct path as the limit. Not for the gateway: `crate::gateway` has that.
//!
//! Invariant: every figure of a row comes from the same run, in turns.

pub mod behaviour;
pub mod clock;
pub mod compare;
pub mod figures;
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

use std::io::{IsTerminal as _, Write as _};

/// Says what goes on, on one line of the terminal that is written over, or nothing when nobody
/// watches.
pub fn progress(what: &str) {
    let mut error = std::io::stderr().lock();
    if error.is_terminal() {
        let _ = write!(error, "\r\x1b[2K{what}");
        let _ = error.flush();
    }
}
