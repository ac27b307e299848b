//! `aqueduct replay udp`: players, made or out of a capture, whose packets leave on an absolute
//! schedule. Options and sums only: `timeline` says what is due, `lane` sends and listens, `strike`
//! kills. Called by `replay::run`.
//!
//! Invariant: each player has a source of its own: an address on loopback, a port elsewhere.

mod lane;
mod strike;
mod timeline;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use self::lane::{Lane, Plan, Sockets};
use self::strike::{Blow, Strike};
use self::timeline::{Cast, Rhythm, Traffic};
use super::live::{self, Live};
use super::report::udp::{Recording, UdpReport};
use super::report::{self, Times};
use super::series::Series;
use super::{Broken, Common, capture, game, lanes, target};

pub(super) const EXAMPLES: &str = "\
Examples (beside a running `aqueduct up`):
  aqueduct replay udp --players 50 --rate 128 --seconds 5
  aqueduct replay udp --players 500 --rate 30 --seconds 60 --size 80..220 --jitter 3 \\
      --html game.html --json game.json --slo loss=0.1%,p99=20ms,affinity=0
  aqueduct replay udp evening.pcapng --speed 2 --clone 10
  aqueduct replay udp --seconds 30 --kill game-2@10s --html failover.html
  aqueduct replay udp --baseline game.json             what changed since then

Exit code: 0 done and every --slo kept, 1 one was broken or the replay failed.";

/// Options of `aqueduct replay udp`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// A capture (pcap or pcapng) whose senders are the players; without one they are made.
    #[arg(value_name = "CAPTURE")]
    capture: Option<PathBuf>,
    /// Where the game listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7777")]
    target: String,
    /// Players; to a loopback target each has an own address (127.64.0.0/10).
    #[arg(long, default_value = "50", value_name = "N", conflicts_with = "capture")]
    players: NonZeroU32,
    /// Packets per second of each player.
    #[arg(long, default_value = "128", value_parser = rate, value_name = "PER-SECOND",
          conflicts_with = "capture")]
    rate: f64,
    /// How long [default: 10, and at least 5 more than the last --kill].
    #[arg(long, value_parser = seconds, value_name = "S", conflicts_with = "capture")]
    seconds: Option<Duration>,
    /// Bytes of a packet, a number or a range to draw from: 80..220.
    #[arg(long, default_value = "80", value_parser = sizes, value_name = "BYTES",
          conflicts_with = "capture")]
    size: RangeInclusive<usize>,
    /// Packets leave up to so many milliseconds after their even time [without a number: 2].
    #[arg(long, value_parser = milliseconds, value_name = "MS", num_args = 0..=1,
          default_value = "0", default_missing_value = "2", conflicts_with = "capture")]
    jitter: Duration,
    /// Play the capture so many times as fast.
    #[arg(long, default_value = "1", value_parser = speed, value_name = "FACTOR",
          requires = "capture")]
    speed: f64,
    /// Each player of the capture plays so many times side by side, a little apart.
    #[arg(long = "clone", default_value = "1", value_name = "N", requires = "capture")]
    clones: NonZeroU32,
    /// The port that players send to in the capture [default: the target's, else the busiest].
    #[arg(long, value_name = "PORT", requires = "capture")]
    port: Option<u16>,
    /// What to do with a broken capture: use what can be read, or refuse it.
    #[arg(long, value_enum, default_value_t, requires = "capture")]
    broken: Broken,
    /// Send the capture's bytes untouched; then answers are only counted. Otherwise the first 23
    /// bytes carry the player's number and the time.
    #[arg(long, requires = "capture")]
    raw: bool,
    /// How long to wait for the last answers.
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "S")]
    wait: Duration,
    /// Have the stack of a running `aqueduct up` kill one of its parts, by name or address:
    /// game-2@10s. May be repeated.
    #[arg(long, value_name = "ENDPOINT@S", value_parser = strike::blow)]
    kill: Vec<Blow>,
    /// The folder of that stack [default: that of the built-in stack].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// A rate above zero that a timer can follow.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("write packets or requests per second, 0.001 to 10000000".into()),
    }
}

/// A time span up to a week.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=604_800.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, 0 to 604800".into()),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=60_000.0).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1e3)),
        _ => Err("write milliseconds, 0 to 60000".into()),
    }
}

/// How many times as fast.
pub(super) fn speed(text: &str) -> Result<f64, String> {
    match text.trim_end_matches(['x', '×']).parse::<f64>() {
        Ok(factor) if (0.001..=1000.0).contains(&factor) => Ok(factor),
        _ => Err("write how many times as fast, 0.001 to 1000".into()),
    }
}

fn sizes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let lawful = game::SMALLEST..=game::LARGEST;
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    match (from.parse::<usize>(), to.trim_start_matches('=').parse::<usize>()) {
        (Ok(from), Ok(to)) if from <= to && lawful.contains(&from) && lawful.contains(&to) => {
            Ok(from..=to)
        }
        _ => Err(format!(
            "write bytes, {} to {}, or a range like 80..220",
            game::SMALLEST,
            game::LARGEST
        )),
    }
}

/// Plays, reports, judges.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let baseline = report::baseline::<UdpReport>(&args.common)?;
    let report = measure(args).await?;
    report::finish(&report, &args.common, baseline.as_ref())
}

/// Plays and sums up.
async fn measure(args: &Args) -> Result<UdpReport> {
    let target = target::resolve(&args.target).await?;
    target::permit(target, args.common.yes_i_own_it)?;
    let (traffic, recording) = traffic(args, target.port())?;
    let players = traffic.players();
    strike::within(&args.kill, traffic.span())?;
    let strike = Strike::prepare(&args.kill, args.state.as_deref()).await?;
    let lanes = lanes::count(args.common.threads, u64::from(players.div_ceil(32)));
    let sockets = (0..lanes)
        .map(|lane| Sockets::open(target, share(players, lanes as u32, lane as u32)))
        .collect::<Result<Vec<_>>>()?;
    let live = Arc::new(Live::default());
    let watcher = tokio::spawn(live::watch(live.clone(), traffic.packets(), "packets"));
    let start = Instant::now() + HEAD_START;
    let strike = tokio::spawn(strike.run(start, live.clone()));
    let plan = Plan {
        target,
        traffic,
        raw: args.raw,
        wait: args.wait,
        start,
        live: live.clone(),
        sockets: lane::Shelf::new(sockets),
    };
    let span = plan.traffic.span();
    let results = lanes::run(lanes, move |lane| lane::play(plan.clone(), lane)).await;
    watcher.abort();
    strike.abort();
    let mut report = sum(target, span, results?);
    report.course.marks = live.marks();
    report.recording = recording;
    report.raw = args.raw;
    Ok(report)
}

/// Lanes begin together, once all of them stand ready.
const HEAD_START: Duration = Duration::from_millis(30);

/// What is played: made, or a capture.
fn traffic(args: &Args, port: u16) -> Result<(Traffic, Option<Recording>)> {
    let Some(path) = &args.capture else {
        let rhythm = Rhythm {
            players: args.players.get(),
            rate: args.rate,
            span: args.seconds.unwrap_or_else(|| strike::length(&args.kill)),
            sizes: args.size.clone(),
            jitter: args.jitter,
        };
        return Ok((Traffic::Made(rhythm), None));
    };
    let name = path.display();
    let file = std::fs::read(path).with_context(|| format!("{name}: cannot read"))?;
    let found = match capture::read(&file) {
        Ok(found) => found,
        Err(fault) => bail!("{name}: {fault}"),
    };
    if let (Some(fault), Broken::Refuse) = (found.faults.first(), args.broken) {
        bail!("{name}: {fault}; --broken skip uses the rest");
    }
    let to_target = || found.datagrams.iter().any(|d| d.to.port() == port).then_some(port);
    let port = args.port.or_else(to_target).or_else(|| timeline::busiest_port(&found));
    let Some(port) = port else { bail!("{name}: no UDP datagram in it") };
    let mut recording = Recording {
        file: name.to_string(),
        port,
        datagrams: found.datagrams.len() as u64,
        other: found.other,
        fragments: found.fragments,
        cut: found.cut,
        faults: found.faults.iter().map(ToString::to_string).collect(),
        speed: args.speed,
        played: 0,
    };
    let cast = Cast::new(found, port, args.clones.get(), args.speed);
    let traffic = Traffic::Kept(Arc::new(cast));
    ensure!(traffic.packets() > 0, "{name}: no UDP datagram to port {port} in it");
    recording.played = traffic.packets();
    Ok((traffic, Some(recording)))
}

fn sum(target: SocketAddr, span: Duration, results: Vec<Lane>) -> UdpReport {
    let (mut rtt, mut lateness) = (Times::new(), Times::new());
    let (mut players, mut send_errors, mut seconds) = (Vec::new(), 0, 0f64);
    let mut series = Series::new(span);
    for lane in results {
        rtt.merge(&lane.rtt);
        lateness.merge(&lane.lateness);
        series.merge(&lane.series);
        players.extend(lane.players);
        send_errors += lane.send_errors;
        seconds = seconds.max(lane.span.as_secs_f64());
    }
    let report = UdpReport::new(&players, &rtt, &lateness);
    let course = series.course();
    UdpReport { target: target.to_string(), seconds, send_errors, course, ..report }
}

/// The players of a lane: as even a share as can be.
fn share(players: u32, lanes: u32, lane: u32) -> std::ops::Range<u32> {
    let edge = |lane: u32| (u64::from(players) * u64::from(lane) / u64::from(lanes)) as u32;
    edge(lane)..edge(lane + 1)
}

#[cfg(test)]
mod tests;
