//! `aqueduct`, the tool beside the three tiers, on one machine. Not needed in production: every tier runs alone.
//!
//! Invariant: exit code 0 is success, 2 a topology file with problems, 1 everything else.

#![forbid(unsafe_code)]

mod canary;
mod check;
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

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Layered load balancing for TCP, UDP, HTTP and PostgreSQL, wired by one topology file.
#[derive(Debug, Parser)]
#[command(name = "aqueduct", version, after_help = docs::EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Up(up::Args),
    Watch(watch::Args),
    Init(init::Args),
    Check(check::Args),
    Explain(Box<explain::Args>),
    Graph(graph::Args),
    Canary(canary::Args),
    Import(import::Args),
    Openapi(openapi::Args),
    Token(token::Args),
    Key(key::Args),
    Revoke(revoke::Args),
    Replay(replay::Args),
    /// Prints the JSON schema of the topology file
    Schema,
    Completions(docs::CompletionArgs),
    Man(docs::ManArgs),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Cli::parse().what {
        What::Up(args) => up::run(args).await,
        What::Watch(args) => watch::run(args).await,
        What::Init(args) => init::run(&args),
        What::Check(args) => check::run(&args).await,
        What::Explain(args) => explain::run(*args).await,
        What::Graph(args) => graph::run(&args),
        What::Canary(args) => canary::run(args).await,
        What::Import(args) => import::run(&args),
        What::Openapi(args) => openapi::run(&args),
        What::Token(args) => token::run(&args),
        What::Key(args) => key::run(args).await,
        What::Revoke(args) => revoke::run(args).await,
        What::Replay(args) => replay::run(args).await,
        What::Schema => docs::schema(),
        What::Completions(args) => docs::completions(&args, Cli::command()),
        What::Man(args) => docs::man(&args, Cli::command()),
    };
    outcome.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr().lock(), "aqueduct: {error:#}"));
        ExitCode::FAILURE
    })
}
