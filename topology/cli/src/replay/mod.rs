//! `aqueduct replay`: traffic as real clients make it, sent on an absolute schedule, and a verdict
//! on what came back. Not for benchmarks of one part (that is `bench`) and not for attacks: public
//! targets are refused. Called by `main.rs`.
//!
//! Invariant: the schedule never waits for an answer, so a slow target cannot hide its slowness.

mod capture;
mod conversation;
mod game;
mod https;
mod lanes;
mod live;
mod pace;
mod report;
mod series;
mod slo;
mod target;
mod udp;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::slo::Slo;

/// Sends recorded or made traffic and reports what came back.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Game players, each with an address of its own: loss, round trips, jitter, affinity.
    #[command(after_help = udp::EXAMPLES)]
    Udp(Box<udp::Args>),
    /// HTTPS requests at a fixed rate (open model) with signed tokens: latency, statuses, errors.
    #[command(after_help = https::EXAMPLES)]
    Https(Box<https::Args>),
}

/// What both kinds of replay take.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Threads that send [default: as many as the machine has cores].
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as one HTML page, plots included, to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show what changed since this report (the JSON of an earlier replay).
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Exit with 1 when one of these is broken, for example loss=0.1%,p99=20ms.
    #[arg(long, value_name = "NAME=MOST,…")]
    slo: Option<Slo>,
    /// Send to a public address too; only to what is yours.
    #[arg(long)]
    yes_i_own_it: bool,
}

/// What is done with a recording that cannot be read as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Broken {
    /// Use what can be read; the rest is told with its place.
    Skip,
    /// Send nothing.
    #[default]
    Refuse,
}

/// Runs one replay to its end (or to Ctrl-C, which reports what there is).
///
/// Exit code 0: done, every `--slo` kept; 1: one was broken.
///
/// # Errors
/// The target is not lawful, the generator could not start, or the report could not be written.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.kind {
        Kind::Udp(args) => udp::run(&args).await,
        Kind::Https(args) => https::run(&args).await,
    }
}

#[cfg(test)]
mod tests;
