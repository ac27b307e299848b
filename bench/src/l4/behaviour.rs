//! What becomes of live flows: while the party is reloaded a hundred times, and while a million forged
//! clients come. Not for speed.
//!
//! Invariant: a party is started anew for each, so that none pays for what came before.

use std::time::Duration;

use anyhow::{Result, bail};

use super::clock::pause;
use super::figures::{Better, Sheet};
use super::party::{Kind, Party, Wanted};
use super::rig::{Datagrams, Rig};
use super::speed::PLAIN;
use super::udp_client::Outcome;

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

/// Both, for every party that can.
pub fn behaviour(rig: &mut Rig, kinds: &[Kind], rounds: u32, sheet: &mut Sheet) {
    for round in 0..rounds.min(3) {
        for &kind in kinds.iter().filter(|kind| kind.is_process()) {
            super::progress(&format!("behaviour: round {}, {}", round + 1, kind.name()));
            for (what, done) in [
                ("reloads", reloads(rig, kind, round, sheet)),
                ("flood", flood(rig, kind, round, sheet)),
            ] {
                if let Err(fault) = done {
                    sheet.notes.push(format!("{what}: {}: {fault:#}", kind.name()));
                }
            }
        }
    }
}

/// Datagrams at 50 kpps for ten seconds, quiet and with reloads that change a timeout.
fn reloads(rig: &mut Rig, kind: Kind, round: u32, sheet: &mut Sheet) -> Result<()> {
    if !matches!(kind, Kind::L4Nlb | Kind::Nginx | Kind::Envoy) {
        bail!("how it is reloaded is not known here");
    }
    let mut wanted = Wanted::endpoints(rig.place(kind), 4);
    let party = rig.start(kind, &wanted)?;
    let plan = Datagrams { rate: 50_000, millis: 10_000, ..LIVE };
    let quiet = rig.udp(&party, plan)?.outcome;
    let run = rig.number();
    let mut peer = rig.begin_udp(&party, plan, run)?;
    for number in 0..RELOADS {
        wanted.udp_idle = Duration::from_secs(120 + u64::from(number % 2));
        party.reload(&wanted)?;
        pause(Duration::from_millis(95));
    }
    let busy: Outcome = peer.told()?;
    peer.end()?;
    let mut low = |name: &str, unit, value| {
        let name = format!("udp echo at 50 kpps, 100 reloads in 10 s: {name}");
        sheet.note((&name, unit, Better::Low), kind, round, value);
    };
    low("lost without reloads", "%", lost(&quiet));
    low("lost", "%", lost(&busy));
    low("answers to the wrong flow", "", busy.wrong as f64);
    low("flows that changed endpoint", "", moved(&busy));
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
    note("live flows that changed endpoint", "", Better::Low, moved(&live_ones));
    note("of 100 new players served", "", Better::High, new.flows.len() as f64);
    note("memory grown", "MiB", Better::Low, growth as f64 / 1024.0);
    Ok(())
}

fn lost(outcome: &Outcome) -> f64 {
    let sent = outcome.sent.max(1);
    100.0 * sent.saturating_sub(outcome.received) as f64 / sent as f64
}

fn moved(outcome: &Outcome) -> f64 {
    outcome.flows.values().filter(|flow| flow.homes.len() > 1).count() as f64
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
