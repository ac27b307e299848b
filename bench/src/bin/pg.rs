//! `pg`: `pgpool` beside `PgBouncer`. Not a test. Run by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use bench::pg::cases::{Case, Terms};
use bench::pg::compare::{self, Plan};
use bench::pg::party::Kind;
use clap::Parser;

/// Compares pgpool with `PgBouncer` on this machine, judged by the poolers' time on a processor.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// The cases to run, with commas between them; default all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Case>,
    /// The parties, with commas between them; default all that are installed.
    #[arg(long, value_delimiter = ',')]
    parties: Vec<Kind>,
    /// Turns, each one run of every party.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of a run in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo build --profile dist -p pgpool -p bench
  target/dist/pg                                      everything
  target/dist/pg --only simple64,prepared --rounds 5  some of it, more exact
  BENCH_PGBOUNCER=/opt/pgbouncer target/dist/pg       beside another build
  BENCH_PGBOUNCER_NEW=/opt/1.25/pgbouncer target/dist/pg   beside a newer one, too

It needs PostgreSQL, PgBouncer and strace: apt-get install -y postgresql pgbouncer strace";

fn main() -> Result<()> {
    let args = Args::parse();
    let terms = Terms { rounds: args.rounds, seconds: args.seconds };
    compare::run(&Plan { only: args.only, parties: args.parties, terms, json: args.json })
}
