//! The binary `pgpool`: command line, topology file, signals. Not for pooling: that is the library.
//! Called by people, by systemd and by `aqueduct up`.
//!
//! Invariant: exit 0 after a drain, 1 when it cannot run, 2 when the topology file is at fault.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::cli::{self, TierArgs};
use common::lifecycle::{self, Wish};
use pgpool::dropin;

/// Pools PostgreSQL connections: many clients, few server connections.
///
/// Examples:
///   pgpool --topology stack.yaml --instance pool-1
///   pgpool -d /etc/pgbouncer/pgbouncer.ini
///   psql -h 127.0.0.1 -p 6432 -U admin pgbouncer -c 'SHOW POOLS'
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Args {
    #[command(flatten)]
    tier: TierArgs,
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
    let launch = match cli::launch(&args.tier, instances) {
        Ok(launch) => launch,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return cli::refuse(1, &fault),
    };
    runtime.block_on(run(launch))
}

async fn run(launch: cli::Launch) -> ExitCode {
    let drain = launch.topology.pool(&launch.instance).map(|(group, _)| group.drain);
    let lifecycle = launch.options.lifecycle.clone();
    let (wishes, mut wished) = tokio::sync::mpsc::unbounded_channel();
    let signals = lifecycle::signals(lifecycle, drain.unwrap_or_default(), move |wish| {
        // Nobody listens any more: the instance has ended.
        let _ended = wishes.send(wish);
    });
    let signals = match signals {
        Ok(signals) => signals,
        Err(fault) => return cli::refuse(1, &fault),
    };
    let started = pgpool::start(Arc::clone(&launch.topology), &launch.instance, launch.options);
    let running = match started.await {
        Ok(running) => running,
        Err(fault) => return cli::refuse(1, &fault),
    };
    let handle = running.handle();
    let changes = async {
        while let Some(wish) = wished.recv().await {
            if wish == Wish::Reload {
                // What was wrong has been logged.
                let _refused = handle.reload().await;
            }
        }
    };
    let (finished, (), ()) = tokio::join!(running.finished(), signals, changes);
    finished.map_or_else(|fault| cli::refuse(1, &fault), |()| ExitCode::SUCCESS)
}
