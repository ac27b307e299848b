//! What becomes of live flows: while the party is reloaded a hundred times, when an endpoint dies, and
//! while a million forged clients come. Not for speed.
//!
//! Invariant: a party is started anew for each, so that none pays for what came before.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Sheet;
use super::clock::{now, pause};
use super::party::{Kind, Party, Wanted};
use super::rig::{Datagrams, Peer, Rig};
use super::speed::PLAIN;
use super::udp_client::{Flow, Outcome};
use super::wire::ALIVE;
use crate::figures::{Better, Column as _};

/// Live flows: one of each client.
const LIVE: Datagrams = Datagrams { echo: true, clients: 1000, track: true, ..PLAIN };

/// Players that come when the flood has been there for a while.
const NEW: Datagrams = Datagrams { rate: 1000, clients: 100, first_port: 19_000, ..LIVE };

/// A million clients, each once.
const FLOOD: Datagrams = Datagrams {
    rate: 100_000,
    clients: 4000,
    ports: 250,
    first_port: 30_000,
    millis: 10_000,
    ..PLAIN
};

const RELOADS: u32 = 100;

/// The endpoint that dies has a server of its own, so that it can die alone.
const DOOMED_PORT: &str = "7802";

/// How an endpoint dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Its program ends: the kernel says that nobody is there.
    Killed,
    /// Its program hangs: nobody says anything.
    Frozen,
}

/// All, for every party that can.
pub fn behaviour(rig: &mut Rig, kinds: &[Kind], rounds: u32, sheet: &mut Sheet) {
    for round in 0..rounds.min(3) {
        for &kind in kinds.iter().filter(|kind| kind.is_process()) {
            crate::progress(&format!("behaviour: round {}, {}", round + 1, kind.name()));
            for (what, done) in [
                ("reloads", reloads(rig, kind, round, sheet)),
                ("death", death(rig, kind, Death::Killed, round, sheet)),
                ("death", death(rig, kind, Death::Frozen, round, sheet)),
                ("flood", flood(rig, kind, round, sheet)),
            ] {
                if let Err(fault) = done {
                    sheet.notes.push(format!("{what}: {}: {fault:#}", kind.name()));
                }
            }
        }
    }
}

/// Datagrams at 50 kpps for ten seconds: quiet, with reloads that change a timeout, and with reloads by
/// which another listener comes and goes.
fn reloads(rig: &mut Rig, kind: Kind, round: u32, sheet: &mut Sheet) -> Result<()> {
    if !matches!(kind, Kind::L4Nlb | Kind::Nginx | Kind::Envoy) {
        bail!("how it is reloaded is not known here");
    }
    let mut wanted = Wanted::endpoints(rig.place(kind), 4);
    let plan = Datagrams { rate: 50_000, millis: 10_000, ..LIVE };
    let quiet = rig.start(kind, &wanted).and_then(|party| Ok(rig.udp(&party, plan)?.outcome))?;
    for listener in [false, true] {
        let party = rig.start(kind, &wanted)?;
        let mut peer = rig.begin_udp(&party, plan, rig.number())?;
        let mut late = 0;
        for number in 1..=RELOADS {
            let odd = number % 2 == 1;
            if listener {
                wanted.other_listener = odd;
            } else {
                wanted.udp_idle = Duration::from_secs(120 + u64::from(odd));
            }
            party.reload(&wanted)?;
            pause(Duration::from_millis(95));
            late += u32::from(party.has_other_listener() != wanted.other_listener);
        }
        let busy: Outcome = peer.told()?;
        peer.end()?;
        let what = if listener { " of another listener" } else { "" };
        let mut low = |name: &str, unit, value| {
            let name = format!("udp echo at 50 kpps, 100 reloads{what} in 10 s: {name}");
            sheet.note((&name, unit, Better::Low), kind, round, value);
        };
        low("lost", "%", lost(&busy));
        low("answers to the wrong flow", "", busy.wrong as f64);
        low("flows that changed endpoint", "", moved(busy.flows.values()));
        // nginx tries again for a while where its old workers still have the port: so many of its
        // reloads did not happen, and lost nothing.
        if listener {
            low("changes not there after 95 ms", "", late.into());
        }
    }
    let name = "udp echo at 50 kpps, 100 reloads in 10 s: lost without reloads";
    sheet.note((name, "%", Better::Low), kind, round, lost(&quiet));
    Ok(())
}

/// One of ten endpoints dies while a thousand clients send 50 kpps. nginx finds it by its traffic, as
/// it has no checks; ours asks every second besides.
fn death(rig: &Rig, kind: Kind, how: Death, round: u32, sheet: &mut Sheet) -> Result<()> {
    if !matches!(kind, Kind::L4Nlb | Kind::Nginx) {
        bail!("it is not told here how to find dead endpoints");
    }
    let doomed = rig.place(kind).endpoint(9);
    let mut wanted = Wanted::endpoints(rig.place(kind), 9);
    wanted.endpoints.push(format!("{doomed}:{DOOMED_PORT}"));
    wanted.service_keys = format!("    health: {{ udp: \"{ALIVE}\" }}\n");
    let only = doomed.to_string();
    let arguments = ["server", "--port", DOOMED_PORT, "--only", &only];
    let mut server = Peer::start(&rig.network.server(), &arguments)?;
    let party = rig.start(kind, &wanted)?;
    let plan = Datagrams { rate: 50_000, millis: 13_000, ..LIVE };
    let mut peer = rig.begin_udp(&party, plan, rig.number())?;
    pause(Duration::from_secs(3));
    let died = now();
    match how {
        Death::Killed => server.kill()?,
        Death::Frozen => server.freeze()?,
    }
    let outcome: Outcome = peer.told()?;
    peer.end()?;
    let died = died.saturating_sub(outcome.start) as f64 / 1e6;
    let is_doomed = |home: Option<&(Ipv4Addr, f64)>| home.is_some_and(|(home, _)| *home == doomed);
    let (orphans, others): (Vec<&Flow>, Vec<&Flow>) =
        outcome.flows.values().partition(|flow| is_doomed(flow.homes.first()));
    ensure!(!orphans.is_empty(), "nobody was at the endpoint that died");
    // Until a living one answers; what the dead one had sent may still arrive.
    let wait = |flow: &&Flow| {
        let mut again = flow.homes.iter().filter(|(home, at)| *home != doomed && *at > died);
        again.next().map(|(_, at)| at - died)
    };
    let waits: Vec<f64> = orphans.iter().filter_map(wait).collect();
    let mut low = |name: &str, unit, value| {
        let name = format!("udp echo at 50 kpps, 1 of 10 endpoints {how:?}: {name}").to_lowercase();
        sheet.note((&name, unit, Better::Low), kind, round, value);
    };
    low("flows of the living ones that moved", "", moved(others.into_iter()));
    let without = 100.0 * (orphans.len() - waits.len()) as f64 / orphans.len() as f64;
    low("its clients left without answer", "%", without);
    if waits.len() == orphans.len() {
        low("until all its clients are answered", "ms", waits.into_iter().fold(0.0, f64::max));
    }
    low("lost in 13 s", "%", lost(&outcome));
    Ok(())
}

/// A thousand live flows while the flood comes, and then a hundred new ones.
fn flood(rig: &mut Rig, kind: Kind, round: u32, sheet: &mut Sheet) -> Result<()> {
    if !kind.has_udp() {
        bail!("it has no UDP");
    }
    let party = rig.start(kind, &Wanted::endpoints(rig.place(kind), 4))?;
    let plan = Datagrams { rate: 2000, millis: 14_000, ..LIVE };
    let mut live = rig.begin_udp(&party, plan, rig.number())?;
    pause(Duration::from_secs(2));
    let before = party.rss_kib();
    let mut flood = rig.begin_udp(&party, FLOOD, rig.number())?;
    pause(Duration::from_secs(5));
    let new = rig.udp(&party, Datagrams { millis: 3000, ..NEW })?.outcome;
    let forged: Outcome = flood.told()?;
    flood.end()?;
    let growth = party.rss_kib().saturating_sub(before);
    let live_ones: Outcome = live.told()?;
    live.end()?;
    let mut note = |name: &str, unit, better, value| {
        let name = format!("udp, a million forged clients in 10 s: {name}");
        sheet.note((&name, unit, better), kind, round, value);
    };
    note("forged datagrams", "", Better::High, forged.sent as f64);
    note("lost of 1000 live flows", "%", Better::Low, lost(&live_ones));
    note("live flows that changed endpoint", "", Better::Low, moved(live_ones.flows.values()));
    note("of 100 new players served", "", Better::High, new.flows.len() as f64);
    note("memory grown", "MiB", Better::Low, growth as f64 / 1024.0);
    Ok(())
}

fn lost(outcome: &Outcome) -> f64 {
    let sent = outcome.sent.max(1);
    100.0 * sent.saturating_sub(outcome.received) as f64 / sent as f64
}

fn moved<'a>(flows: impl Iterator<Item = &'a Flow>) -> f64 {
    flows.filter(|flow| flow.homes.len() > 1).count() as f64
}

impl Party {
    /// Has it go by another configuration.
    fn reload(&self, wanted: &Wanted) -> Result<()> {
        self.configure(wanted)?;
        // Envoy watches its files.
        if self.kind != Kind::Envoy {
            self.signal(nix::sys::signal::Signal::SIGHUP)?;
        }
        Ok(())
    }
}
