//! The demo's services as real processes. Used by the tests.
//!
//! Invariant: each listens when [`start`] returns.

use std::net::SocketAddr;

use crate::program::{Program, sibling};

/// Starts `demo WHAT` under this name; `uses` are its `--use NAME=URL`.
///
/// # Panics
/// When the binary has not been built or does not start.
pub fn start(what: &str, at: SocketAddr, name: &str, uses: &[String]) -> Program {
    let at = at.to_string();
    let mut words = [what, "--listen", &at, "--name", name].map(str::to_owned).to_vec();
    for dependency in uses {
        words.extend(["--use".to_owned(), dependency.clone()]);
    }
    Program::start(sibling("demo"), &words, None, "listens on")
}
