//! `compare`: our tiers beside their rivals in one run, as ratios, written to `bench/results`. Not
//! a test. Run by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.

use std::path::PathBuf;

use anyhow::Result;
use bench::gateway::{Figures, Plan, compare};
use clap::Parser;

/// Compares the gateway with nginx on this machine.
#[derive(Parser)]
#[command(after_help = "Example: compare --rounds 5 --seconds 4 --json bench/results/gateway.json")]
struct Args {
    /// Turns, each one run of either party.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of a run in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Kept connections.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn main() -> Result<()> {
    let args = Args::parse();
    let plan = Plan { rounds: args.rounds, seconds: args.seconds, connections: args.connections };
    let figures = compare(plan)?;
    println!("{}", table(&figures));
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")?;
    }
    Ok(())
}

fn table(figures: &[Figures]) -> String {
    let mut out =
        "party        req/s    CPU µs (spread)         p50 ms  p99 ms  RSS idle/end MiB\n"
            .to_owned();
    for one in figures {
        let [low, high] = one.cpu_us_spread;
        out += &format!(
            "{:<11} {:>7.0}   {:>5.1} ({low:.1} to {high:.1})   {:>8.2}  {:>6.2}  {:.1} / {:.1}\n",
            one.party,
            one.per_second,
            one.cpu_us,
            one.p50_ms,
            one.p99_ms,
            one.rss_idle_mib,
            one.rss_mib
        );
    }
    if let [ours, rival] = figures {
        out += &format!(
            "\n{} / {}: {:.2} × the requests per second, {:.2} × the CPU per request\n",
            ours.party,
            rival.party,
            ours.per_second / rival.per_second,
            ours.cpu_us / rival.cpu_us
        );
    }
    out
}
