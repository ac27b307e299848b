//! `filters`: what filters cost in `l7-gateway`, counted and timed, and JSON to gRPC beside Envoy. Not a test. Run
//! by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.
#![forbid(unsafe_code)]

use std::io::Write as _;

use anyhow::Result;
use bench::l7::client::Client;
use bench::l7::compare::{self, Plan};
use bench::l7::filters::{Case, inside, slow};
use clap::{Parser, Subcommand};

/// Measures what filters cost on this machine, which needs two processors.
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

/// What this program runs itself.
#[derive(Subcommand)]
enum Own {
    /// A client.
    #[command(hide = true)]
    Client {
        #[command(subcommand)]
        what: Client,
    },
    /// A gateway whose instructions are counted.
    #[command(hide = true)]
    Inside(inside::Plan),
    /// A service that takes its time.
    #[command(hide = true)]
    Slow(slow::Plan),
}

const EXAMPLES: &str = "\
Examples:
  cargo build --profile dist -p l7-gateway -p demo -p bench
  target/dist/filters                                    everything
  target/dist/filters --only instructions --rounds 1     without a rival
  target/dist/filters --only transcode --parties l7-gateway,envoy --rounds 5
  nice -n -10 target/dist/filters --json bench/results/filters.json

Instructions are counted by valgrind (apt-get install -y valgrind). Rivals that are not installed are named with the
command that installs them, and left out.";

fn main() -> Result<()> {
    let args = Args::parse();
    match args.own {
        None => compare::run(&args.plan, &args.only),
        Some(Own::Client { what }) => what.run(),
        Some(Own::Slow(plan)) => plan.run(),
        Some(Own::Inside(plan)) => {
            let outcome = serde_json::to_string(&plan.run()?)?;
            Ok(writeln!(std::io::stdout().lock(), "{outcome}")?)
        }
    }
}
