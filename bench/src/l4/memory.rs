//! Memory: resident kilobytes per idle connection pair, per reader that has stalled, per UDP flow;
//! and the curves: what a datagram costs with more flows and with more endpoints. Not for speed.
//!
//! Invariant: each figure is the growth of a freshly started and once used party.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Sheet;
use super::clock::pause;
use super::party::{Kind, Party, Wanted};
use super::rig::{Datagrams, Rig};
use super::speed::{PLAIN, in_turns};
use super::tcp_client::Outcome;
use crate::figures::{Better, Column as _};

/// Flows that parties with a descriptor for each can hold within 20 000.
const FLOWS: Datagrams = Datagrams {
    rate: 20_000,
    echo: true,
    clients: 1000,
    ports: 10,
    first_port: 20_000,
    millis: 1000,
    track: false,
};

/// Memory per connection and per flow. Parties are started anew for each.
pub fn memory(rig: &mut Rig, kinds: &[Kind], rounds: u32, sheet: &mut Sheet) {
    for round in 0..rounds.min(3) {
        for &kind in kinds.iter().filter(|kind| kind.is_process()) {
            crate::progress(&format!("memory: round {}, {}", round + 1, kind.name()));
            let mut note = |name: &str, unit, found: Result<f64>| match found {
                Ok(value) => sheet.note((name, unit, Better::Low), kind, round, value),
                Err(fault) => sheet.notes.push(format!("{name}: {}: {fault:#}", kind.name())),
            };
            let idle = held(rig, kind, "idle", 4000, Duration::from_millis(500));
            note("memory per idle TCP pair", "KiB", idle);
            let stalled = held(rig, kind, "stalled", 200, Duration::from_millis(1500));
            note("memory per stalled reader", "KiB", stalled);
            if kind.has_udp() {
                note("memory per UDP flow, of 10 000", "bytes", flows(rig, kind, 10));
            }
            if kind == Kind::L4Nlb {
                note("memory per UDP flow, of 50 000", "bytes", flows(rig, kind, 50));
            }
        }
    }
}

fn fresh(rig: &Rig, kind: Kind) -> Result<Party> {
    let party = rig.start(kind, &Wanted::endpoints(rig.place(kind), 4))?;
    // Code and buffers that the first connections touch are not the price of one more.
    rig.tcp(&party, "short", 8, 500, 200)?;
    Ok(party)
}

fn held(rig: &Rig, kind: Kind, load: &str, count: u32, settle: Duration) -> Result<f64> {
    let party = fresh(rig, kind)?;
    let before = party.rss_kib();
    let mut peer = rig.begin_tcp(&party, load, count, 0, 0)?;
    let outcome: Outcome = peer.told()?;
    ensure!(outcome.done > 0, "no connection stands");
    pause(settle);
    let growth = party.rss_kib().saturating_sub(before);
    peer.end()?;
    Ok(growth as f64 / outcome.done as f64)
}

fn flows(rig: &mut Rig, kind: Kind, ports: u16) -> Result<f64> {
    let party = fresh(rig, kind)?;
    rig.udp(&party, Datagrams { rate: 5000, millis: 200, ..PLAIN })?;
    let before = party.rss_kib();
    let plan =
        Datagrams { ports, millis: 100 * u64::from(ports) + 500, first_port: 24_000, ..FLOWS };
    let run = rig.udp(&party, plan)?;
    ensure!(run.loss(true) < 0.2, "{:.0} % lost", run.loss(true) * 100.0);
    let growth = party.rss_kib().saturating_sub(before);
    Ok(growth as f64 * 1024.0 / (1000.0 * f64::from(ports)))
}

/// What a datagram costs with 10, 1000 and 50 000 flows.
pub fn by_flows(rig: &mut Rig, parties: &[Party], rounds: u32, millis: u64, sheet: &mut Sheet) {
    in_turns(rig, parties, rounds.min(3), sheet, "udp-flows", &mut |rig, party, round, sheet| {
        for (number, (clients, ports)) in [(10, 1), (1000, 1), (1000, 50)].into_iter().enumerate() {
            let first_port = 20_000 + 100 * number as u16;
            let base = Datagrams { clients, ports, first_port, echo: true, ..PLAIN };
            let name = format!("{} flows", clients * u32::from(ports));
            let point = Point { name: &name, base, millis };
            point.measure(rig, party, round, sheet)?;
        }
        Ok(())
    });
}

/// What a datagram costs with 3, 30 and 300 endpoints.
pub fn by_endpoints(rig: &mut Rig, kinds: &[Kind], rounds: u32, millis: u64, sheet: &mut Sheet) {
    for count in [3, 30, 300] {
        let parties = super::compare::started(rig, kinds.iter().copied(), count, sheet);
        let name = format!("{count} endpoints");
        let part = format!("udp-endpoints, {count}");
        in_turns(rig, &parties, rounds.min(3), sheet, &part, &mut |rig, party, round, sheet| {
            let base = Datagrams { clients: 1000, echo: true, ..PLAIN };
            Point { name: &name, base, millis }.measure(rig, party, round, sheet)
        });
    }
}

/// A point of a curve.
struct Point<'a> {
    name: &'a str,
    base: Datagrams,
    millis: u64,
}

impl Point<'_> {
    /// Every flow is there before it is measured.
    fn measure(self, rig: &mut Rig, party: &Party, round: u32, sheet: &mut Sheet) -> Result<()> {
        let Self { name, base, millis } = self;
        let flows = u64::from(base.clients) * u64::from(base.ports);
        let warm = 200 + flows * 1000 / 40_000;
        rig.udp(party, Datagrams { rate: 40_000, millis: warm, ..base })?;
        let run = rig.udp(party, Datagrams { rate: 40_000, millis, ..base })?;
        let mut low = |what: &str, unit, value| {
            let name = format!("udp echo at 40 kpps, {name}: {what}");
            sheet.note((&name, unit, Better::Low), party.kind, round, value);
        };
        low("lost", "%", run.loss(true) * 100.0);
        // The price of a datagram that arrives is no price when many do not.
        if run.loss(true) < 0.02 {
            let each = 1e6 / run.delivered(true).max(1) as f64;
            low("CPU of the machine", "µs each", run.cost.machine * each);
            low("CPU of the run's processes", "µs each", run.cost.run * each);
        }
        Ok(())
    }
}
