//! `discovery`: what endpoints that come and go in a registry cost a gateway and a balancer, and how soon they hold.
//! Not a test. Run by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use bench::discovery::run::{self, Plan};
use bench::discovery::tier::Tier;
use clap::Parser;

/// Measures a gateway and a balancer with 10 000 endpoints of 100 services in etcd, of which ten change per second.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// The tiers, with commas between them; default both.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Tier>,
    /// Turns, each with programs started anew.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each state is measured, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo build --profile dist -p l7-gateway -p l4-nlb -p bench
  target/dist/discovery                                  everything
  target/dist/discovery --only l4-nlb --rounds 5         one tier, more exact

It needs etcd: apt-get install -y etcd-server";

fn main() -> Result<()> {
    let args = Args::parse();
    let Args { only, rounds, seconds, json } = args;
    run::run(&Plan { only, rounds, seconds, json })
}
