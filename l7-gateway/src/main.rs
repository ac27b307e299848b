//! The binary of tier 2: reads the command line and the topology file, starts the instance, waits
//! for its end. Not for serving: that is the library.
//!
//! Invariant: exit code 0 after a clean drain, 1 when it could not run, 2 when the file is at fault.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::cli::{self, TierArgs};
use common::lifecycle::{self, Wish};
use tokio::sync::mpsc;

/// L7 gateway: TLS, identity, limits, routing and observability for HTTP.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    #[command(flatten)]
    tier: TierArgs,
}

const EXAMPLES: &str = "Examples:
  l7-gateway --topology shop.yaml --instance gw-1
  l7-gateway --topology shop.yaml            where the file has one gateway instance
  kill -HUP PID                              reads the file again
  kill -USR1 PID                             opens the access log anew, after logrotate moved it
  kill -TERM PID                             drains, a second one ends at once
  curl http://127.0.0.1:9111/readyz          asks the admin listener";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let launched = cli::launch(&args.tier, |topology| {
        let instances = topology.gateways.iter().flat_map(|group| &group.instances);
        instances.map(|instance| instance.name.as_str().to_owned()).collect()
    });
    let launch = match launched {
        Ok(launch) => launch,
        Err(code) => return code,
    };
    let lifecycle = launch.options.lifecycle.clone();
    let drain = launch.topology.gateway(&launch.instance).map(|(group, _)| group.drain);
    let (wishes, mut wished) = mpsc::unbounded_channel();
    let signals = lifecycle::signals(lifecycle.clone(), drain.unwrap_or_default(), move |wish| {
        // Nobody listens any more: the instance has ended.
        let _ended = wishes.send(wish);
    });
    let signals = match signals {
        Ok(signals) => signals,
        Err(fault) => return cli::refuse(1, &fault),
    };
    let started = l7_gateway::start(Arc::clone(&launch.topology), &launch.instance, launch.options);
    let running = match started.await {
        Ok(running) => running,
        Err(fault) => return cli::refuse(1, &fault),
    };
    // Without a service manager there is nobody to tell.
    let _untold = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let handle = running.handle();
    let changes = async {
        while let Some(wish) = wished.recv().await {
            match wish {
                Wish::Reload => handle.reload(&args.tier.topology).await,
                Wish::Reopen => handle.reopen_log(),
                Wish::Upgrade => {}
            }
        }
    };
    let finished = async {
        let ended = running.finished().await;
        // Drained before the deadline: nothing is left to wait for.
        lifecycle.stop();
        ended
    };
    let ((), (), ended) = tokio::join!(signals, changes, finished);
    ended.map_or_else(|fault| cli::refuse(1, &fault), |()| ExitCode::SUCCESS)
}
