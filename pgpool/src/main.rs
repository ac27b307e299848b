//! The binary `pgpool`: command line, topology file, signals. Not for pooling: that is the library.
//! Called by people, by systemd and by `aqueduct up`.
//!
//! Invariant: exit 0 after a drain, 1 when it cannot run, 2 when the topology file is at fault.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::cli::{self, TierArgs};
use common::lifecycle::{self, Wish};
use pgpool::sockets::passed;
use pgpool::{Before, Past, dropin, upgrade};

/// Pools PostgreSQL connections: many clients, few server connections.
///
/// Examples:
///   pgpool --topology stack.yaml --instance pool-1
///   pgpool -d /etc/pgbouncer/pgbouncer.ini
///   psql -h 127.0.0.1 -p 6432 -U admin pgbouncer -c 'SHOW POOLS'
///
/// SIGHUP reads the topology file again: it is in force at once and whole, or refused with what is wrong.
/// SIGUSR2 starts the program anew and hands over to it: listeners at once, clients as they need nothing.
/// SIGTERM drains: clients may finish their transactions within the group's `drain` time; a second one
/// ends at once. A pgbouncer.ini instead of a topology file: signals are PgBouncer's.
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Args {
    #[command(flatten)]
    tier: TierArgs,
    /// Folder for the newest timelines seen: no former primary gets writes after a restart.
    #[arg(long, value_name = "FOLDER", env = "STATE_DIRECTORY")]
    state: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if dropin::is_asked(&arguments, std::env::var_os("AQUEDUCT_TOPOLOGY").as_ref()) {
        return dropin::run();
    }
    let args = Args::parse();
    let instances = |topology: &topology::Topology| {
        let all = topology.pools.iter().flat_map(|group| &group.instances);
        all.map(|instance| instance.name.to_string()).collect()
    };
    let run = cli::launch(&args.tier, instances).and_then(|launch| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|fault| cli::refuse(1, &fault))?;
        runtime.block_on(run(launch, args.state))
    });
    run.err().unwrap_or(ExitCode::SUCCESS)
}

async fn run(launch: cli::Launch, state: Option<PathBuf>) -> Result<(), ExitCode> {
    let cli::Launch { topology, instance, options } = launch;
    let drain = topology.pool(&instance).map(|(group, _)| group.drain).unwrap_or_default();
    let (wishes, mut wished) = tokio::sync::mpsc::unbounded_channel();
    let wish = move |wish| wishes.send(wish).unwrap_or_default(); // to nobody once it has ended
    let signals = lifecycle::signals(options.lifecycle.clone(), drain, wish);
    let signals = signals.map_err(|fault| cli::refuse(1, &fault))?;
    let estate = upgrade::taking::inherited().map_err(|fault| cli::refuse(1, &fault))?;
    let passed = passed::inherited().map_err(|fault| cli::refuse(1, &fault))?;
    let past = Past { before: estate.map_or(Before::Nobody, Before::Estate), state, passed };
    let running = pgpool::start_after(topology, &instance, options, past).await;
    let running = running.map_err(|fault| cli::refuse(1, &fault))?;
    let handle = running.handle();
    let told = handle.announce();
    let changes = async {
        while let Some(wish) = wished.recv().await {
            match wish {
                Wish::Reload => drop(handle.reload().await), // what was wrong has been logged
                Wish::Upgrade => handle.upgrade().await,
                Wish::Reopen => {} // it writes no file
            }
        }
    };
    let (finished, (), (), ()) = tokio::join!(running.finished(), signals, changes, told);
    finished.map_err(|fault| cli::refuse(1, &fault))
}
