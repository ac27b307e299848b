//! `l7-auth`: what identity, limits and records cost in `l7-gateway`, beside Envoy and a bare nginx. Not
//! a test. Run by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.
#![forbid(unsafe_code)]

use anyhow::Result;
use bench::l7::auth::Case;
use bench::l7::client::Client;
use bench::l7::compare::{self, Plan};
use clap::{Parser, Subcommand};

/// Measures what identity, limits and records cost on this machine, which needs two processors.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    own: Option<Own>,
    /// The cases to run, with commas between them; default all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Case>,
    #[command(flatten)]
    plan: Plan,
}

#[derive(Subcommand)]
enum Own {
    /// A client; run by this program itself.
    #[command(hide = true)]
    Client {
        #[command(subcommand)]
        what: Client,
    },
}

const EXAMPLES: &str = "\
Examples:
  cargo build --profile dist -p l7-gateway -p bench -p aqueduct
  target/dist/l7-auth                                    everything
  target/dist/l7-auth --only tokens,new-tokens --rounds 5
  target/dist/l7-auth --only revocation --parties l7-gateway
  nice -n -10 target/dist/l7-auth --json bench/results/l7-auth.json

Rivals that are not installed are named with the command that installs them, and left out.";

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Own::Client { what }) = args.own {
        return what.run();
    }
    compare::run(&args.plan, &args.only)
}
