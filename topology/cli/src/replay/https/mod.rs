//! `aqueduct replay https`: requests at a fixed rate or at recorded times, whatever the answers do
//! (open model). Timing and sums only: what is sent is `script`'s, how is `wire`'s. Called by
//! `replay::run`.
//!
//! Invariant: latency counts from the scheduled time, so waiting for a connection is part of it.

pub(super) mod recording;
mod script;
mod wire;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::script::{Program, Script};
use self::wire::{Fault, Wire};
use super::live::{self, Live};
use super::pace::{Pace, Schedule};
use super::report::https::{Ended, HttpsReport, Outcome, Tally};
use super::udp::{rate, seconds, speed};
use super::{Broken, Common, lanes, report, target};
use crate::token::signer::Grant;
use crate::up::folder::Folder;
use crate::up::source::BUILT_IN_NAME;

pub(super) const EXAMPLES: &str = "\
Examples (beside a running `aqueduct up`):
  aqueduct replay https --rate 200 --seconds 10
  aqueduct replay https --url https://127.0.0.1:8443/api/feed/home --rate 500 --html feed.html
  aqueduct replay https monday.ndjson --speed 4 --slo p99=20ms,errors=0.01%
  aqueduct replay https browser.har --map-host shop.example=api.example:8443 --compare-bodies
  aqueduct replay https access.log --broken skip --http 2 --json new.json --baseline old.json
  aqueduct replay https targets.txt --rate 100 --var shop=7

What FILE may be: what the gateway records (`record:`), its access log, a browser's HAR, the
combined log of a web server, or targets: METHOD URL, header lines, @BODYFILE, an empty line.
Exit code: 0 done and every --slo kept, 1 one was broken or the replay failed.";

/// Options of `aqueduct replay https`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Recorded requests: HAR, NDJSON, a combined log, or a list of targets.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// What is asked; with FILE its host and port alone count.
    #[arg(long, value_name = "URL", value_parser = script::url,
          default_value = "https://127.0.0.1:8443/api/user/profile")]
    url: http::Uri,
    /// Requests per second [default: the recorded times, or 100].
    #[arg(long, value_parser = rate, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// How long, unless the recorded times are kept.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    seconds: Duration,
    /// Method of the requests.
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// A header of every request, `name: value`; may be repeated.
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = script::header)]
    header: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Keep the recorded times, but so many times as fast.
    #[arg(long, default_value = "1", value_parser = speed, value_name = "FACTOR",
          requires = "file", conflicts_with = "rate")]
    speed: f64,
    /// What to do with a broken recording: use what can be read, or refuse it.
    #[arg(long, value_enum, default_value_t, requires = "file")]
    broken: Broken,
    /// Ask for NEW where the recording asked for OLD [default: for the URL's host]; may be repeated.
    #[arg(long, value_name = "OLD=NEW", value_parser = script::pair, requires = "file")]
    map_host: Vec<(String, String)>,
    /// Put VALUE in the place of {{NAME}} in paths, headers and bodies; {{user}} is the recorded
    /// user. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = script::pair, requires = "file")]
    var: Vec<(String, String)>,
    /// Compare bodies with the recording, too, where it knows them.
    #[arg(long, requires = "file")]
    compare_bodies: bool,
    /// Which HTTP.
    #[arg(long, value_enum, default_value = "1.1", value_name = "VERSION")]
    http: Http,
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
    /// Most connections at a time; opened as needed, with --rate one for 100 requests per second
    /// before the clock begins, and kept. To a loopback target each comes from
    /// an address of its own, as different clients do.
    #[arg(long, default_value = "64", value_name = "N")]
    connections: NonZeroUsize,
    /// A request without a whole answer after this is an error.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Http {
    /// One request at a time on a connection.
    #[value(name = "1.1")]
    One,
    /// Many at a time on few connections.
    #[value(name = "2")]
    Two,
}

/// Replays, reports, judges.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let baseline = report::baseline::<HttpsReport>(&args.common)?;
    let report = measure(args).await?;
    report::finish(&report, &args.common, baseline.as_ref())
}

/// Replays and sums up.
async fn measure(args: &Args) -> Result<HttpsReport> {
    let address = address(args).await?;
    target::permit(address, args.common.yes_i_own_it)?;
    let Program { script, schedule, broken } = script::plan(args)?;
    let lanes = lanes::count(args.common.threads, args.connections.get() as u64);
    // Recorded clients come when they came.
    let warm = if script.has_sessions() { 0.0 } else { args.rate.unwrap_or(0.0) / RATE_OF_ONE };
    let warm = args.connections.get().min(warm as usize);
    let live = Arc::new(Live::default());
    let total = schedule.total();
    let span = schedule.span();
    let watcher = tokio::spawn(live::watch(live.clone(), total, "requests"));
    let plan = Plan {
        settings: wire::Settings::new(args, address, &args.authority()?)?,
        script: Arc::new(script),
        schedule,
        connections: args.connections.get().div_ceil(lanes),
        timeout: args.timeout,
        lanes: lanes as u64,
        opened: warm.div_ceil(lanes),
        begin: Arc::new(Begin { all: Barrier::new(lanes), at: OnceLock::new() }),
        live,
    };
    let results = lanes::run(lanes, move |lane| send(plan.clone(), lane as u64)).await;
    watcher.abort();
    let mut sum = Tally::new(span);
    for lane in results? {
        sum.merge(&lane);
    }
    Ok(HttpsReport { broken, ..HttpsReport::new(args.url.to_string(), &sum) })
}

impl Args {
    /// What `--map-host` says of a recorded host.
    fn mapped(&self, host: &str) -> Option<&str> {
        let fits = |(old, _): &&(String, String)| old.eq_ignore_ascii_case(host);
        self.map_host.iter().find(fits).map(|(_, new)| new.as_str())
    }

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
    /// Connections that are there when the clock begins.
    opened: usize,
    begin: Arc<Begin>,
    live: Arc<Live>,
}

/// When the clock of all lanes begins.
struct Begin {
    all: Barrier,
    at: OnceLock<Instant>,
}

impl Begin {
    /// Waits for the other lanes; the same moment for all.
    async fn wait(&self) -> Instant {
        self.all.wait().await;
        *self.at.get_or_init(Instant::now)
    }
}

/// Sends each `lanes`th request of the schedule, beginning with number `lane`.
async fn send(plan: Plan, lane: u64) -> Result<Tally> {
    let clients = (lane..).step_by(plan.lanes as usize);
    let wire = Rc::new(Wire::new(plan.settings.clone(), plan.connections, clients));
    let tally = Rc::new(RefCell::new(Tally::new(plan.schedule.span())));
    let schedule = plan.schedule.every(plan.lanes, lane);
    // Handshakes that fall into the schedule would make what is due meanwhile late.
    let _slow = tokio::time::timeout(plan.timeout, wire.open(plan.opened)).await;
    let start = plan.begin.wait().await;
    let mut pace = Pace::new(start, schedule).precise()?;
    let mut running = JoinSet::new();
    while let Some(batch) = pace.take(BATCH).await {
        for i in batch {
            let Some(due) = pace.due(i) else { continue };
            tally.borrow_mut().lateness.record(due.elapsed());
            Live::count(&plan.live.sent);
            let (number, at) = (i * plan.lanes + lane, due.saturating_duration_since(start));
            let one = One { number, due, at, tally: tally.clone() };
            if running.len() >= MOST_IN_FLIGHT {
                one.note(&plan, Err(Fault::Overload));
                continue;
            }
            running.spawn_local(one.run(plan.clone(), wire.clone()));
        }
        while running.try_join_next().is_some() {}
        if plan.live.stopped() {
            break;
        }
        tokio::task::yield_now().await;
    }
    while running.join_next().await.is_some() {}
    let mut tally = tally.replace(Tally::new(Duration::ZERO));
    tally.connections = wire.opened();
    tally.span = start.elapsed();
    Ok(tally)
}

/// Requests started at once, before answers get their turn.
const BATCH: u64 = 32;
/// Connections are opened before the clock begins, one for so many requests per second.
const RATE_OF_ONE: f64 = 100.0;
/// A lane gives up on new requests while so many wait: the target is gone, not slow.
const MOST_IN_FLIGHT: usize = 100_000;

/// One request from its due time to its last byte.
struct One {
    number: u64,
    due: Instant,
    /// The same from the beginning.
    at: Duration,
    tally: Rc<RefCell<Tally>>,
}

impl One {
    async fn run(self, plan: Plan, wire: Rc<Wire>) {
        let request = plan.script.request(self.number);
        let exchange = wire.exchange(request, plan.script.session(self.number));
        let answer = tokio::time::timeout_at(self.due + plan.timeout, exchange).await;
        self.note(&plan, answer.unwrap_or(Err(Fault::Timeout)));
    }

    fn note(&self, plan: &Plan, answer: Result<wire::Answer, Fault>) {
        Live::count(if answer.is_ok() { &plan.live.answered } else { &plan.live.failed });
        let outcome = match answer {
            Ok(wire::Answer { status, bytes, digest }) => {
                Outcome::Answered { status, bytes, digest }
            }
            Err(fault) => Outcome::Failed(fault.name()),
        };
        self.tally.borrow_mut().record(&Ended {
            at: self.at,
            latency: self.due.elapsed(),
            outcome,
            route: plan.script.route(self.number),
            expected: plan.script.expected(self.number),
        });
    }
}

#[cfg(test)]
mod tests;
