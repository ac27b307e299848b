//! What can be asked of `aqueduct`, a command each. Not for doing any of it: each command has a module. Called by
//! `main`.
//!
//! Invariant: as `main` says of exit codes.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    canary, check, docs, explain, graph, import, init, key, openapi, replay, revoke, token, up,
    watch,
};

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

/// Carries out what the command line asks for.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().what {
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
    }
}
