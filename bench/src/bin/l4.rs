//! `l4`: `l4-nlb` beside nginx, HAProxy, Envoy, sozu and nftables. Not a test. Run by `make bench`.
//!
//! Invariant: figures of different runs are never mixed.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use bench::l4::compare::{self, Part, Plan};
use bench::l4::party::Kind;
use bench::l4::{namespaces, server, tcp_client, udp_client};
use clap::{Parser, Subcommand};

/// Compares l4-nlb with its rivals on this machine, in network namespaces. Needs root.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    own: Option<Own>,
    /// The parts to run, with commas between them; default all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The parties, with commas between them; default all that are installed.
    #[arg(long, value_delimiter = ',')]
    parties: Vec<Kind>,
    /// Turns, each one run of every party.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Length of a run in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Own {
    /// Removes namespaces of runs that were killed.
    Clean,
    /// The servers; run by this program itself.
    #[command(hide = true)]
    Server {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        only: Option<std::net::Ipv4Addr>,
    },
    /// Sends datagrams; run by this program itself.
    #[command(hide = true)]
    UdpClient(udp_client::Plan),
    /// Makes connections; run by this program itself.
    #[command(hide = true)]
    TcpClient(tcp_client::Plan),
}

const EXAMPLES: &str = "\
Examples:
  cargo build --profile dist -p l4-nlb -p bench
  target/dist/l4                                         everything: about 25 minutes
  target/dist/l4 --only udp-rate,udp-load --rounds 3     the speed of datagrams
  target/dist/l4 --only tcp-conn --parties direct,l4-nlb,haproxy
  target/dist/l4 --only behaviour --rounds 1             reloads, deaths and a flood
  target/dist/l4 --json bench/results/l4.json
  target/dist/l4 clean                                   after a run that was killed

Rivals that are not installed are named with the command that installs them, and left out.";

#[expect(clippy::print_stdout, reason = "the program's output")]
fn main() -> Result<()> {
    let args = Args::parse();
    match args.own {
        Some(Own::Clean) => {
            println!("{} namespaces removed", namespaces::remove_left_over()?);
            Ok(())
        }
        Some(Own::Server { port, only }) => server::serve(port, only),
        Some(Own::UdpClient(plan)) => compare::answer(&udp_client::run(&plan)?),
        Some(Own::TcpClient(plan)) => {
            let held = plan.load.holds();
            let outcome = tcp_client::run(&plan)?;
            if held { Ok(()) } else { compare::answer(&outcome) }
        }
        None => compare::run(&Plan {
            only: args.only,
            parties: args.parties,
            rounds: args.rounds,
            millis: (args.seconds * 1000.0) as u64,
            json: args.json,
        }),
    }
}
