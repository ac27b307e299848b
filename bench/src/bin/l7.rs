//! `l7`: `l7-gateway` beside nginx, HAProxy, Envoy and Caddy. Not a test. Run by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.
#![forbid(unsafe_code)]

use anyhow::Result;
use bench::l7::cases::Case;
use bench::l7::client::Client;
use bench::l7::compare::{self, Plan};
use clap::{Parser, Subcommand};

/// Compares l7-gateway with its rivals on this machine, which needs two processors.
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
  cargo build --profile dist -p l7-gateway -p bench
  target/dist/l7                                         everything
  target/dist/l7 --only http,http2 --pinned              the speed of small answers
  target/dist/l7 --only https --parties l7-gateway,nginx --rounds 5
  nice -n -10 target/dist/l7 --json bench/results/l7.json    on a machine that others use too

Rivals that are not installed are named with the command that installs them, and left out.";

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Own::Client { what }) = args.own {
        return what.run();
    }
    compare::run(&args.plan, &args.only)
}
