//! The program `l4-nlb`. Not for anything but the command line, signals and the exit code.
//!
//! Invariant: exit 0 after a clean end, 1 when it could not run, 2 when the topology file is at
//! fault.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use common::cli::{self, Launch, TierArgs};
use common::lifecycle::{Wish, signals};
use l4_nlb::upgrade;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use topology::Topology;

/// Spreads TCP connections and UDP flows over the endpoints of services, as the topology file says.
#[derive(Parser)]
#[command(name = "l4-nlb", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    tier: TierArgs,
}

const EXAMPLES: &str = "\
Examples:
  l4-nlb --topology stack.yaml --instance nlb-1
  l4-nlb --topology edge.yaml                     (a file with one instance needs no name)
  curl -s localhost:9101/endpoints                (the instance's admin address)

SIGHUP reads the file again: it is in force at once and whole, or refused with what is wrong.
SIGUSR2 starts the program anew and hands sockets and UDP flows over to it.
SIGTERM drains: nothing new is taken, connections and flows may finish within the group's `drain`
time; a second one ends at once. See `aqueduct check FILE` for what is wrong with a file.";

fn main() -> ExitCode {
    let args = Cli::parse().tier;
    let run = cli::launch(&args, instances).and_then(|launch| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(|fault| cli::refuse(1, &fault))?;
        runtime.block_on(run(launch, &args.topology))
    });
    run.err().unwrap_or(ExitCode::SUCCESS)
}

async fn run(launch: Launch, file: &Path) -> Result<(), ExitCode> {
    let Launch { topology, instance, options } = launch;
    let drain = topology.nlb(&instance).map(|(group, _)| group.drain).unwrap_or_default();
    let lifecycle = options.lifecycle.clone();
    let (wishes, mut wished) = mpsc::unbounded_channel();
    let signals = signals(lifecycle, drain, move |wish| {
        // Nobody listens any more: the instance has ended.
        let _ended = wishes.send(wish);
    });
    let signals = signals.map_err(|fault| cli::refuse(1, &fault))?;
    let estate = upgrade::taking::inherited().map_err(|fault| cli::refuse(1, &fault))?;
    let running = l4_nlb::start_from(topology, &instance, options, estate).await;
    let running = running.map_err(|fault| cli::refuse(1, &fault))?;
    // Without systemd there is nobody to tell.
    let own = std::process::id();
    let _told = sd_notify::notify(&[NotifyState::MainPid(own), NotifyState::Ready]);
    let handle = running.handle();
    let changes = async {
        while let Some(wish) = wished.recv().await {
            match wish {
                Wish::Reload => handle.reload(file).await,
                Wish::Upgrade => handle.upgrade().await,
                Wish::Reopen => {} // it writes no file
            }
        }
    };
    let (ended, (), ()) = tokio::join!(running.finished(), signals, changes);
    ended.map_err(|fault| cli::refuse(1, &fault))
}

fn instances(topology: &Topology) -> Vec<String> {
    let all = topology.nlbs.iter().flat_map(|group| &group.instances);
    all.map(|instance| instance.name.to_string()).collect()
}
