//! `aqueduct replay https`: requests at a fixed rate or at recorded times, whatever the answers do
//! (open model). Timing and sums only: what is sent is `script`'s, how is `wire`'s. Called by
//! `replay::run`.
//!
//! Invariant: latency counts from the scheduled time, so waiting for a connection is part of it.

mod recording;
mod script;
mod wire;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::script::Script;
use self::wire::{Fault, Wire};
use super::live::{self, Live};
use super::pace::{Pace, Schedule};
use super::report::https::{HttpsReport, Outcome, Tally};
use super::udp::{rate, seconds};
use super::{Common, lanes, report, target};
use crate::token::signer::Grant;
use crate::up::folder::Folder;
use crate::up::source::BUILT_IN_NAME;

pub(super) const EXAMPLES: &str = "\
Examples (beside a running `aqueduct up`):
  aqueduct replay https --rate 200 --seconds 10
  aqueduct replay https --url https://127.0.0.1:8443/api/feed/home --rate 500 --json feed.json
  aqueduct replay https --url https://api.example:8443/ --resolve api.example:127.0.0.1 \\
      --file access.ndjson --slo p99=20ms,errors=0%";

/// Options of `aqueduct replay https`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// What is asked; with --file its host and port alone count.
    #[arg(long, value_name = "URL", value_parser = script::url,
          default_value = "https://127.0.0.1:8443/api/user/profile")]
    url: http::Uri,
    /// Requests per second [default: 100, or with --file the recorded times].
    #[arg(long, value_parser = rate, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// How long; with --file the recording's length unless --rate is given.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    seconds: Duration,
    /// Method of the requests.
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// A header of every request, `name: value`; may be repeated.
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = script::header)]
    header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Recorded requests: a .har file, or NDJSON (the gateway's access log will do).
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Sign tokens with es256.pem or rs256.pem of this folder [default: the stack's issuer's].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["token", "anonymous"])]
    token_keys: Option<PathBuf>,
    /// Send this token.
    #[arg(long, value_name = "JWT", conflicts_with = "anonymous")]
    token: Option<String>,
    /// Send no token.
    #[arg(long)]
    anonymous: bool,
    /// Users that the requests come from, in turn, each with an own token.
    #[arg(long, default_value = "1000", value_name = "N")]
    users: NonZeroU64,
    /// Number of the first user; the demo's database has 1000 to 1999.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    first_user: u64,
    /// Scopes of the tokens, separated by spaces.
    #[arg(long, value_name = "SCOPES", default_value = "user:read pay")]
    scope: String,
    #[command(flatten)]
    grant: Grant,
    /// Authority that signed the server's certificate, PEM [default: the stack's].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The folder of a stack that `up` started [default: that of the built-in stack].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Connect for this host name to this address, `api.example:127.0.0.1`.
    #[arg(long, value_name = "HOST:ADDRESS", value_parser = script::resolve)]
    resolve: Option<(String, std::net::IpAddr)>,
    /// Most connections at a time; opened as needed and kept. To a loopback target each comes from
    /// an address of its own, as different clients do.
    #[arg(long, default_value = "64", value_name = "N")]
    connections: NonZeroUsize,
    /// A request without a whole answer after this is an error.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

/// Replays, reports, judges.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let report = measure(args).await?;
    report::finish(&report, &args.common)
}

/// Replays and sums up.
async fn measure(args: &Args) -> Result<HttpsReport> {
    let address = address(args).await?;
    target::permit(address, args.common.yes_i_own_it)?;
    let (script, schedule) = script::plan(args)?;
    let lanes = lanes::count(args.common.threads, args.connections.get() as u64);
    let live = Arc::new(Live::default());
    let total = schedule.total();
    let watcher = tokio::spawn(live::watch(live.clone(), total, "requests"));
    let plan = Plan {
        settings: wire::Settings::new(&args.url, address, &args.authority()?)?,
        script: Arc::new(script),
        schedule,
        connections: args.connections.get().div_ceil(lanes),
        timeout: args.timeout,
        lanes: lanes as u64,
        start: Instant::now(),
        live,
    };
    let results = lanes::run(lanes, move |lane| send(plan.clone(), lane as u64)).await;
    watcher.abort();
    let mut sum = Tally::new();
    for lane in results? {
        sum.merge(&lane);
    }
    Ok(HttpsReport::new(args.url.to_string(), &sum))
}

impl Args {
    fn folder(&self) -> Result<Folder> {
        Folder::named(self.state.as_deref(), BUILT_IN_NAME)
    }

    /// The authority's file: what the user said, else the stack's.
    fn authority(&self) -> Result<PathBuf> {
        self.ca.clone().map_or_else(|| Ok(self.folder()?.path("ca.pem")), Ok)
    }

    /// The issuer's folder: what the user said, else the stack's.
    fn keys(&self) -> Result<PathBuf> {
        self.token_keys.clone().map_or_else(|| Ok(self.folder()?.path("keys")), Ok)
    }
}

/// Where to connect: what `--resolve` says, else the address of the URL's host.
async fn address(args: &Args) -> Result<SocketAddr> {
    let (host, port) = script::host_and_port(&args.url);
    match &args.resolve {
        Some((name, ip)) if name.eq_ignore_ascii_case(host) => Ok(SocketAddr::new(*ip, port)),
        _ => target::resolve(&format!("{host}:{port}")).await,
    }
}

#[derive(Clone)]
struct Plan {
    settings: wire::Settings,
    script: Arc<Script>,
    schedule: Schedule,
    connections: usize,
    timeout: Duration,
    lanes: u64,
    start: Instant,
    live: Arc<Live>,
}

/// Sends each `lanes`th request of the schedule, beginning with number `lane`.
async fn send(plan: Plan, lane: u64) -> Result<Tally> {
    let clients = (lane..).step_by(plan.lanes as usize);
    let wire = Rc::new(Wire::new(plan.settings.clone(), plan.connections, clients));
    let tally = Rc::new(RefCell::new(Tally::new()));
    let schedule = plan.schedule.every(plan.lanes, lane);
    let mut pace = Pace::new(plan.start, schedule);
    let mut running = JoinSet::new();
    while let Some(batch) = pace.take(BATCH).await {
        for i in batch {
            let Some(due) = pace.due(i) else { continue };
            tally.borrow_mut().lateness.record(due.elapsed());
            Live::count(&plan.live.sent);
            let number = i * plan.lanes + lane;
            if running.len() >= MOST_IN_FLIGHT {
                note(&plan, &tally, due, number, Err(Fault::Overload));
                continue;
            }
            running.spawn_local(one(plan.clone(), wire.clone(), tally.clone(), number, due));
        }
        while running.try_join_next().is_some() {}
        if plan.live.stopped() {
            break;
        }
        tokio::task::yield_now().await;
    }
    while running.join_next().await.is_some() {}
    let mut tally = tally.replace(Tally::new());
    tally.connections = wire.opened();
    tally.span = plan.start.elapsed();
    Ok(tally)
}

/// Requests started at once, before answers get their turn.
const BATCH: u64 = 32;
/// A lane gives up on new requests while so many wait: the target is gone, not slow.
const MOST_IN_FLIGHT: usize = 100_000;

/// One request from its due time to its last byte.
async fn one(plan: Plan, wire: Rc<Wire>, tally: Rc<RefCell<Tally>>, number: u64, due: Instant) {
    let request = plan.script.request(number);
    let answer = tokio::time::timeout_at(due + plan.timeout, wire.exchange(request)).await;
    note(&plan, &tally, due, number, answer.unwrap_or(Err(Fault::Timeout)));
}

fn note(
    plan: &Plan,
    tally: &RefCell<Tally>,
    due: Instant,
    number: u64,
    answer: Result<wire::Answer, Fault>,
) {
    Live::count(if answer.is_ok() { &plan.live.answered } else { &plan.live.failed });
    let outcome = match answer {
        Ok(answer) => Outcome::Answered { status: answer.status, bytes: answer.bytes },
        Err(fault) => Outcome::Failed(fault.name()),
    };
    tally.borrow_mut().record(due.elapsed(), outcome, plan.script.recorded_status(number));
}

#[cfg(test)]
mod tests;
