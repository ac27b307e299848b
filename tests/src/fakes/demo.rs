//! The demo's services as real processes. Used by the tests.
//!
//! Invariant: each listens when [`start`] returns.

use std::net::SocketAddr;
use std::path::Path;

use crate::program::{Program, sibling};

/// Starts `demo WHAT` under this name; `uses` are its `--use NAME=URL`.
///
/// # Panics
/// When the binary has not been built or does not start.
pub fn start(what: &str, at: SocketAddr, name: &str, uses: &[String]) -> Program {
    let uses = uses.iter().flat_map(|dependency| ["--use".to_owned(), dependency.clone()]);
    run(what, at, name, uses)
}

/// Starts `demo issuer`, which needs nothing behind it; its keys are in `folder`.
///
/// # Panics
/// As [`start`].
pub fn issuer(at: SocketAddr, name: &str, folder: &Path) -> Program {
    run("issuer", at, name, ["--keys".to_owned(), folder.display().to_string()])
}

/// Starts `demo` with these words of a topology file's `run:`.
///
/// # Panics
/// As [`start`].
pub fn words(words: &[String], at: SocketAddr, name: &str, uses: &[String]) -> Program {
    let (what, more) = words.split_first().expect("a demo program");
    let uses = uses.iter().flat_map(|dependency| ["--use".to_owned(), dependency.clone()]);
    run(what, at, name, more.iter().cloned().chain(uses))
}

/// Starts `demo grpc`.
///
/// # Panics
/// As [`start`].
pub fn grpc(at: SocketAddr, name: &str) -> Program {
    run("grpc", at, name, [])
}

fn run(what: &str, at: SocketAddr, name: &str, more: impl IntoIterator<Item = String>) -> Program {
    let at = at.to_string();
    let mut words = [what, "--listen", &at, "--name", name].map(str::to_owned).to_vec();
    words.extend(more);
    Program::start(sibling("demo"), &words, None, "listens on")
}
