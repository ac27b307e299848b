//! `replay`: how fast `aqueduct replay` sends, and how exactly, against bare sinks. Not a test. Run by
//! `make bench`.
//!
//! Invariant: a rate counts only when the generator kept its own schedule at it.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bench::replay::{Kind, Machine, Run, https_sink, machine, run, udp_sink};
use clap::Parser;
use serde_json::{Value, json};

/// Measures `aqueduct replay` on this machine: datagrams and HTTPS requests per second, and the error of
/// its timing at half of that.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// Length of a run in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// A rate counts if it is kept in one of so many runs: a machine's neighbours are not always at work.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo build --profile dist -p aqueduct -p bench
  target/dist/replay
  target/dist/replay --seconds 10 --json bench/results/replay.json

Goals: 150000 packets/s, 30000 requests/s, timing error p99 below 1 ms at half load.";

/// Late by more than this part of the sends, beyond what the machine itself misses: the rate is not kept.
const MOST_LATE_PERCENT: f64 = 1.0;
/// The first rate, and by how much the next one is more.
const STEPS: [(Kind, f64, f64); 3] = [
    (Kind::Udp, 100_000.0, 50_000.0),
    (Kind::Https, 10_000.0, 5_000.0),
    (Kind::Http2, 10_000.0, 5_000.0),
];

#[expect(clippy::print_stdout, reason = "the program's output")]
fn main() -> Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let mut figures = serde_json::Map::new();
    let floor = machine(args.seconds);
    let Machine { late_percent, error_p99_ms } = floor;
    println!(
        "machine  late {late_percent:.2}%  timing error p99 {error_p99_ms:.3} ms  (a thread that only watches the clock)"
    );
    figures.insert(
        "machine".to_owned(),
        json!({ "late_percent": late_percent, "timing_error_p99_ms": error_p99_ms }),
    );
    for (kind, first, step) in STEPS {
        let (name, sink) = match kind {
            Kind::Udp => ("udp", udp_sink()?),
            Kind::Https => ("https", https_sink(folder.path())?),
            Kind::Http2 => ("http2", https_sink(folder.path())?),
        };
        let (mut best, mut rate): (Option<Run>, f64) = (None, first);
        loop {
            let mut kept = None;
            for _ in 0..args.rounds.max(1) {
                let found = run(kind, sink, rate, args.seconds, folder.path())?;
                println!("{name:<6} {}", shown(&found));
                let most_late = MOST_LATE_PERCENT + floor.late_percent;
                kept = Some(found).filter(|f| f.late_percent <= most_late && f.rate >= rate * 0.98);
                if kept.is_some() {
                    break;
                }
            }
            if kept.is_none() {
                break;
            }
            best = kept;
            rate += step;
        }
        let best = best.with_context(|| format!("{name}: not even {first} per second was kept"))?;
        let halves: Result<Vec<Run>> = (0..args.rounds.max(1))
            .map(|_| run(kind, sink, best.rate / 2.0, args.seconds, folder.path()))
            .collect();
        let half = halves?.into_iter().min_by(|a, b| a.error_p99_ms.total_cmp(&b.error_p99_ms));
        let half = half.context("no run")?;
        println!("{name:<6} {}  (half)", shown(&half));
        figures.insert(name.to_owned(), told(&best, &half));
    }
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_string_pretty(&Value::Object(figures))? + "\n")?;
    }
    Ok(())
}

fn shown(run: &Run) -> String {
    let Run { rate, late_percent, error_p99_ms, p99_ms } = run;
    let answers = p99_ms.map_or(String::new(), |ms| format!("  answers p99 {ms:.3} ms"));
    format!(
        "{rate:>9.0}/s  late {late_percent:.2}%  timing error p99 {error_p99_ms:.3} ms{answers}"
    )
}

fn told(best: &Run, half: &Run) -> Value {
    json!({
        "per_second": best.rate.round(),
        "late_percent": best.late_percent,
        "half_load_timing_error_p99_ms": half.error_p99_ms,
        "half_load_answers_p99_ms": half.p99_ms,
    })
}
