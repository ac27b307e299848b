//! One thread's players: sends what is due in batches, hears answers between them. Not for what is
//! due (`timeline`) nor for sums over lanes. Called by `udp`.
//!
//! Invariant: sending never waits for an answer.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use common::net::batch::{self, Batch, Outgoing};
use common::net::bind;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::timeline::{Due, Timeline, Traffic};
use crate::replay::conversation::Conversation;
use crate::replay::live::Live;
use crate::replay::pace::Alarm;
use crate::replay::report::Times;
use crate::replay::series::Series;
use crate::replay::{game, target};

/// What all lanes have in common.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) target: SocketAddr,
    pub(super) traffic: Traffic,
    pub(super) raw: bool,
    pub(super) wait: Duration,
    pub(super) start: Instant,
    pub(super) live: Arc<Live>,
    pub(super) sockets: Shelf,
}

/// What one lane found.
pub(super) struct Lane {
    pub(super) players: Vec<Conversation>,
    pub(super) rtt: Times,
    pub(super) lateness: Times,
    pub(super) series: Series,
    pub(super) send_errors: u64,
    pub(super) span: Duration,
}

/// The sockets of one lane's players, opened before any lane starts.
pub(super) struct Sockets {
    players: Range<u32>,
    /// One for all when players have addresses of their own, else one each.
    sockets: Vec<std::net::UdpSocket>,
    shared: bool,
}

impl Sockets {
    /// On IPv4 loopback one socket sends from any address, so that one call sends for many players.
    ///
    /// # Errors
    /// No descriptor or port is left.
    pub(super) fn open(target: SocketAddr, players: Range<u32>) -> Result<Self> {
        let from = target::client_address(target.ip(), 0);
        let shared = from.is_loopback();
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let open = |number: u32| {
            bind::udp(any, bind::Reuse::No).with_context(|| {
                format!("player {number} gets no socket; fewer players, or raise `ulimit -n`")
            })
        };
        let sockets = if shared {
            vec![open(players.start)?]
        } else {
            players.clone().map(open).collect::<Result<_>>()?
        };
        Ok(Self { players, sockets, shared })
    }
}

/// Where each lane takes its sockets from.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Mutex<Vec<Option<Sockets>>>>);

impl Shelf {
    pub(super) fn new(lanes: Vec<Sockets>) -> Self {
        Self(Arc::new(Mutex::new(lanes.into_iter().map(Some).collect())))
    }

    fn take(&self, lane: usize) -> Option<Sockets> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get_mut(lane)?.take()
    }
}

/// A lane while it plays; everything is on one thread.
struct Room {
    plan: Plan,
    players: Range<u32>,
    sockets: Vec<UdpSocket>,
    shared: bool,
    accounts: RefCell<Vec<Conversation>>,
    rtt: RefCell<Times>,
    series: RefCell<Series>,
    /// Where datagrams are received; one for all, as nobody holds it while waiting.
    heard: RefCell<Batch>,
    outstanding: Cell<u64>,
    all_in: Notify,
}

/// Plays a lane to its end.
pub(super) async fn play(plan: Plan, lane: usize) -> Result<Lane> {
    let own = plan.sockets.take(lane).context("a lane without sockets")?;
    let mut timeline = plan.traffic.of(&own.players);
    let span = plan.traffic.span();
    let sockets = own.sockets.into_iter().map(UdpSocket::from_std).collect::<Result<_, _>>()?;
    let room = Rc::new(Room {
        accounts: RefCell::new(vec![Conversation::default(); own.players.len()]),
        players: own.players,
        shared: own.shared,
        sockets,
        rtt: RefCell::new(Times::new()),
        series: RefCell::new(Series::new(span)),
        heard: RefCell::new(Batch::new()),
        outstanding: Cell::new(0),
        all_in: Notify::new(),
        plan,
    });
    let listeners: Vec<AbortHandle> = (0..room.sockets.len())
        .map(|socket| tokio::task::spawn_local(room.clone().listen(socket)).abort_handle())
        .collect();
    let (lateness, send_errors) = room.talk(&mut timeline).await?;
    let span = room.plan.start.elapsed();
    let _ = tokio::time::timeout(room.plan.wait, room.all_answered()).await;
    listeners.iter().for_each(AbortHandle::abort);
    Ok(Lane {
        players: room.accounts.take(),
        rtt: room.rtt.replace(Times::new()),
        series: room.series.replace(Series::new(Duration::ZERO)),
        lateness,
        send_errors,
        span,
    })
}

impl Room {
    /// Sends everything on schedule; how late sends were, and how many the kernel refused.
    async fn talk(&self, timeline: &mut Timeline) -> Result<(Times, u64)> {
        let alarm = Alarm::new().context("no timer")?;
        let (mut lateness, mut errors) = (Times::new(), 0);
        let mut packets: Vec<Vec<u8>> = vec![Vec::new(); Batch::CAPACITY];
        let mut due: Vec<Due> = Vec::with_capacity(Batch::CAPACITY);
        while let Some(first) = timeline.peek() {
            alarm.until(self.plan.start + first).await?;
            let now = self.plan.start.elapsed();
            due.clear();
            while due.len() < Batch::CAPACITY
                && let Some(next) = timeline.take(now)
            {
                lateness.record(now.saturating_sub(next.at));
                due.push(next);
            }
            for (due, packet) in due.iter().zip(&mut packets) {
                self.write(due, timeline, now, packet);
            }
            errors += self.send(&due, &packets).await?;
            if self.plan.live.stopped() {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok((lateness, errors))
    }

    /// Makes the packet. From now on it counts as sent: a refused one nobody will answer.
    fn write(&self, due: &Due, timeline: &Timeline, now: Duration, packet: &mut Vec<u8>) {
        let kept = due.datagram.map(|datagram| timeline.bytes(datagram)).unwrap_or_default();
        packet.clear();
        packet.extend_from_slice(kept);
        let smallest = if self.plan.raw { 0 } else { game::SMALLEST };
        packet.resize(due.length.clamp(smallest, game::LARGEST), 0);
        let mut accounts = self.accounts.borrow_mut();
        let Some(account) = accounts.get_mut(due.player) else { return };
        if !self.plan.raw {
            let player = self.players.start + due.player as u32;
            let header = game::Header { player, sequence: account.sent, sent: nanoseconds(now) };
            game::write(header, packet);
        }
        account.sent += 1;
        self.series.borrow_mut().sent(now);
    }

    /// Sends the batch; how many packets the kernel refused.
    async fn send(&self, due: &[Due], packets: &[Vec<u8>]) -> Result<u64> {
        let to = self.plan.target;
        let mut errors = 0;
        if self.shared {
            let from = |player: usize| {
                Some(target::client_address(to.ip(), self.players.start + player as u32))
            };
            let outgoing: Vec<Outgoing<'_>> = due
                .iter()
                .zip(packets)
                .map(|(due, bytes)| Outgoing { bytes, to, from: from(due.player) })
                .collect();
            if let Some(socket) = self.sockets.first() {
                errors = post(socket, &outgoing).await?;
            }
        } else {
            for (due, bytes) in due.iter().zip(packets) {
                let Some(socket) = self.sockets.get(due.player) else { continue };
                errors += post(socket, &[Outgoing { bytes, to, from: None }]).await?;
            }
        }
        let left = (due.len() as u64).saturating_sub(errors);
        self.outstanding.set(self.outstanding.get() + left);
        Live::add(&self.plan.live.sent, due.len() as u64);
        Live::add(&self.plan.live.failed, errors);
        Ok(errors)
    }

    /// Takes answers until aborted.
    async fn listen(self: Rc<Self>, index: usize) {
        let Some(socket) = self.sockets.get(index) else { return };
        while socket.readable().await.is_ok() {
            while self.take_batch(index, socket) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Hears what waits; false when nothing does.
    fn take_batch(&self, index: usize, socket: &UdpSocket) -> bool {
        let mut heard = self.heard.borrow_mut();
        heard.clear();
        match socket.try_io(Interest::READABLE, || heard.receive(socket)) {
            Ok(_) => self.hear_all(index, &heard),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            // An ICMP error of an earlier send; the next answer may come all the same.
            Err(_) => {}
        }
        true
    }

    fn hear_all(&self, index: usize, heard: &Batch) {
        let now = nanoseconds(self.plan.start.elapsed());
        for (arrival, bytes) in heard.iter() {
            let player = match arrival.local {
                Some(IpAddr::V4(local)) if self.shared => {
                    target::client_number(local).checked_sub(self.players.start)
                }
                _ if self.shared => None,
                _ => u32::try_from(index).ok(),
            };
            let player = player.filter(|_| arrival.peer == self.plan.target);
            self.hear(player.and_then(|p| usize::try_from(p).ok()), bytes, now);
        }
    }

    fn hear(&self, player: Option<usize>, datagram: &[u8], now: u64) {
        let mut accounts = self.accounts.borrow_mut();
        let Some((player, account)) = player.and_then(|p| Some((p, accounts.get_mut(p)?))) else {
            if let Some(first) = accounts.first_mut() {
                first.foreign += 1;
            }
            return;
        };
        if self.plan.raw {
            account.count();
            self.series.borrow_mut().counted(Duration::from_nanos(now));
        } else {
            let Some(answer) = game::read(datagram) else {
                account.foreign += 1;
                return;
            };
            let number = self.players.start + player as u32;
            let Some(round_trip) = account.observe(number, &answer, now) else { return };
            let round_trip = Duration::from_nanos(round_trip);
            self.rtt.borrow_mut().record(round_trip);
            let sent = Duration::from_nanos(answer.header.sent);
            self.series.borrow_mut().answered(sent, round_trip, answer.server);
        }
        Live::add(&self.plan.live.answered, 1);
        self.outstanding.set(self.outstanding.get().saturating_sub(1));
        if self.outstanding.get() == 0 {
            self.all_in.notify_one();
        }
    }

    async fn all_answered(&self) {
        while self.outstanding.get() > 0 {
            self.all_in.notified().await;
        }
    }
}

/// Sends all of it; how many packets the kernel refused.
async fn post(socket: &UdpSocket, packets: &[Outgoing<'_>]) -> Result<u64> {
    let (mut rest, mut errors) = (packets, 0);
    while !rest.is_empty() {
        match socket.try_io(Interest::WRITABLE, || batch::send(socket, rest)) {
            Ok(taken) => rest = rest.get(taken.max(1)..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await?,
            Err(_) => {
                errors += 1;
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }
    Ok(errors)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
