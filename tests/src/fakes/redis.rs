//! A real Redis server without persistence. Used by the tests.
//!
//! Invariant: empty at its start.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::program::Program;

/// A running server.
#[derive(Debug)]
pub struct Redis {
    /// The program.
    pub program: Program,
    _folder: TempDir,
}

impl Redis {
    /// Listens on `at`.
    ///
    /// # Panics
    /// When Redis is not installed or does not start.
    pub fn start(at: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder for Redis");
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let dir = folder.path().display().to_string();
        let args = ["--bind", &ip, "--port", &port, "--save", "", "--dir", &dir].map(String::from);
        let program = Program::start("redis-server", &args, None, "Ready to accept connections");
        Self { program, _folder: folder }
    }
}
