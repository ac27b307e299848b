//! `aqueduct`, the tool beside the three tiers, on one machine. Not needed in production: every tier runs alone.
//!
//! Invariant: exit code 0 is success, 2 a topology file with problems, 1 everything else.

#![forbid(unsafe_code)]

mod canary;
mod check;
mod commands;
mod docs;
mod explain;
mod fetch;
mod file;
mod graph;
mod import;
mod init;
mod key;
mod login;
mod openapi;
mod replay;
mod revoke;
mod stacks;
mod token;
mod up;
mod watch;
mod whole;

use std::io::Write;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    commands::run().await.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr().lock(), "aqueduct: {error:#}"));
        ExitCode::FAILURE
    })
}
