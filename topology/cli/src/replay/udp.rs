//! `aqueduct replay udp`: players that talk to game servers. Sockets and timing only: accounts are
//! `conversation`'s, sums `report`'s. Called by `replay::run`.
//!
//! Invariant: each player has a socket of its own, and on loopback an address of its own.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::conversation::Conversation;
use super::live::{self, Live};
use super::pace::{Pace, Schedule};
use super::report::udp::UdpReport;
use super::report::{self, Times};
use super::{Common, game, lanes, target};

pub(super) const EXAMPLES: &str = "\
Examples (beside a running `aqueduct up`):
  aqueduct replay udp --target 127.0.0.1:7777 --players 50 --rate 128 --seconds 5
  aqueduct replay udp --target 127.0.0.1:7777 --players 500 --rate 30 --seconds 60 \\
      --json game.json --slo loss=0.1%,p99=20ms,affinity=0";

/// Options of `aqueduct replay udp`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Where the game listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7777")]
    target: String,
    /// Players; to a loopback target each has an own address (127.64.0.0/10).
    #[arg(long, default_value = "50", value_name = "N")]
    players: NonZeroU32,
    /// Packets per second of each player.
    #[arg(long, default_value = "128", value_parser = rate, value_name = "PER-SECOND")]
    rate: f64,
    /// How long.
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "S")]
    seconds: Duration,
    /// Bytes of a packet.
    #[arg(long, default_value_t = 80, value_parser = size, value_name = "BYTES")]
    size: usize,
    /// How long to wait for the last answers.
    #[arg(long, default_value = "1", value_parser = seconds, value_name = "S")]
    wait: Duration,
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

fn size(text: &str) -> Result<usize, String> {
    let lawful = game::SMALLEST..=game::LARGEST;
    match text.parse() {
        Ok(size) if lawful.contains(&size) => Ok(size),
        _ => Err(format!("write bytes, {} to {}", game::SMALLEST, game::LARGEST)),
    }
}

/// Plays, reports, judges.
pub(super) async fn run(args: Args) -> Result<ExitCode> {
    let report = measure(&args).await?;
    report::finish(&report, &args.common)
}

/// Plays and sums up.
async fn measure(args: &Args) -> Result<UdpReport> {
    let target = target::resolve(&args.target).await?;
    target::permit(target, args.common.yes_i_own_it)?;
    let players = args.players.get();
    let lanes = lanes::count(args.common.threads, u64::from(players.div_ceil(32)));
    let live = Arc::new(Live::default());
    let packets = Schedule::even(args.rate * f64::from(players), args.seconds).total();
    let watcher = tokio::spawn(live::watch(live.clone(), packets, "packets"));
    let plan = Plan {
        target,
        rate: args.rate,
        span: args.seconds,
        size: args.size,
        wait: args.wait,
        origin: Instant::now(),
        live,
    };
    let results = lanes::run(lanes, move |lane| {
        play(plan.clone(), share(players, lanes as u32, lane as u32))
    })
    .await;
    watcher.abort();
    Ok(sum(target, results?))
}

fn sum(target: SocketAddr, results: Vec<Lane>) -> UdpReport {
    let (mut rtt, mut lateness) = (Times::new(), Times::new());
    let (mut players, mut send_errors, mut seconds) = (Vec::new(), 0, 0f64);
    for lane in results {
        rtt.merge(&lane.rtt);
        lateness.merge(&lane.lateness);
        players.extend(lane.players);
        send_errors += lane.send_errors;
        seconds = seconds.max(lane.span.as_secs_f64());
    }
    let report = UdpReport::new(&players, &rtt, &lateness);
    UdpReport { target: target.to_string(), seconds, send_errors, ..report }
}

/// The players of a lane: as even a share as can be.
fn share(players: u32, lanes: u32, lane: u32) -> std::ops::Range<u32> {
    let edge = |lane: u32| (u64::from(players) * u64::from(lane) / u64::from(lanes)) as u32;
    edge(lane)..edge(lane + 1)
}

#[derive(Clone)]
struct Plan {
    target: SocketAddr,
    rate: f64,
    span: Duration,
    size: usize,
    wait: Duration,
    origin: Instant,
    live: Arc<Live>,
}

/// What one lane found.
struct Lane {
    players: Vec<Conversation>,
    rtt: Times,
    lateness: Times,
    send_errors: u64,
    span: Duration,
}

/// A player while it plays; sender and listener run on one thread.
struct Player {
    number: u32,
    socket: UdpSocket,
    account: RefCell<Conversation>,
}

/// What the listeners of a lane share.
struct Ears {
    rtt: RefCell<Times>,
    /// Where each datagram is read; one for all, as nobody holds it while waiting.
    datagram: RefCell<Vec<u8>>,
    outstanding: Cell<u64>,
    all_in: Notify,
    origin: Instant,
    live: Arc<Live>,
}

async fn play(plan: Plan, numbers: std::ops::Range<u32>) -> Result<Lane> {
    let mut players = Vec::new();
    for number in numbers {
        let socket = join(plan.target, number).await?;
        players.push(Rc::new(Player { number, socket, account: RefCell::default() }));
    }
    let ears = Rc::new(Ears {
        rtt: RefCell::new(Times::new()),
        datagram: RefCell::new(vec![0; game::LARGEST]),
        outstanding: Cell::new(0),
        all_in: Notify::new(),
        origin: plan.origin,
        live: plan.live.clone(),
    });
    let listeners: Vec<AbortHandle> = players
        .iter()
        .map(|p| tokio::task::spawn_local(listen(p.clone(), ears.clone())).abort_handle())
        .collect();
    let start = Instant::now();
    let (lateness, send_errors) = talk(&plan, &players, &ears).await;
    let span = start.elapsed();
    let _ = tokio::time::timeout(plan.wait, all_answered(&ears)).await;
    listeners.iter().for_each(AbortHandle::abort);
    Ok(Lane {
        players: players.iter().map(|p| p.account.take()).collect(),
        rtt: ears.rtt.replace(Times::new()),
        lateness,
        send_errors,
        span,
    })
}

async fn join(to: SocketAddr, number: u32) -> Result<UdpSocket> {
    let from = target::client_address(to.ip(), number);
    let socket = UdpSocket::bind((from, 0)).await.with_context(|| {
        format!("player {number} gets no socket on {from}; fewer players, or raise `ulimit -n`")
    })?;
    socket.connect(to).await.with_context(|| format!("{to} cannot be reached"))?;
    Ok(socket)
}

/// Sends everything on schedule; how late sends were, and how many the kernel refused.
async fn talk(plan: &Plan, players: &[Rc<Player>], ears: &Ears) -> (Times, u64) {
    let schedule = Schedule::even(plan.rate * players.len() as f64, plan.span);
    let mut pace = Pace::new(Instant::now(), schedule);
    let mut packet = vec![0; plan.size];
    let (mut lateness, mut errors) = (Times::new(), 0);
    while let Some(batch) = pace.take(BATCH).await {
        for i in batch {
            let Some(player) = players.get((i % players.len() as u64) as usize) else { continue };
            lateness.record(pace.due(i).map(|due| due.elapsed()).unwrap_or_default());
            errors += u64::from(say(player, &mut packet, ears).await.is_err());
        }
        if plan.live.stopped() {
            break;
        }
        tokio::task::yield_now().await;
    }
    (lateness, errors)
}

/// Sends of one batch, before the listeners get their turn.
const BATCH: u64 = 32;

/// Sends the player's next packet. A refused one counts as sent: nobody will answer it.
async fn say(player: &Player, packet: &mut [u8], ears: &Ears) -> std::io::Result<()> {
    let sequence = player.account.borrow().sent;
    let sent = ears.origin.elapsed().as_nanos() as u64;
    game::write(game::Header { player: player.number, sequence, sent }, packet);
    player.account.borrow_mut().sent += 1;
    Live::count(&ears.live.sent);
    let done = player.socket.send(packet).await;
    match done {
        Ok(_) => ears.outstanding.set(ears.outstanding.get() + 1),
        Err(_) => Live::count(&ears.live.failed),
    }
    done.map(drop)
}

/// Takes answers until aborted.
async fn listen(player: Rc<Player>, ears: Rc<Ears>) {
    while player.socket.readable().await.is_ok() {
        let mut datagram = ears.datagram.borrow_mut();
        loop {
            match player.socket.try_recv(&mut datagram) {
                Ok(length) => hear(&player, &ears, datagram.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier send; the next answer may come all the same.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }
}

fn hear(player: &Player, ears: &Ears, datagram: &[u8]) {
    let now = ears.origin.elapsed().as_nanos() as u64;
    let mut account = player.account.borrow_mut();
    let Some(answer) = game::read(datagram) else {
        account.foreign += 1;
        return;
    };
    let Some(round_trip) = account.observe(player.number, &answer, now) else { return };
    ears.rtt.borrow_mut().record(Duration::from_nanos(round_trip));
    Live::count(&ears.live.answered);
    ears.outstanding.set(ears.outstanding.get().saturating_sub(1));
    if ears.outstanding.get() == 0 {
        ears.all_in.notify_one();
    }
}

async fn all_answered(ears: &Ears) {
    while ears.outstanding.get() > 0 {
        ears.all_in.notified().await;
    }
}

#[cfg(test)]
mod tests;
