//! Speed: how much goes through, what it costs and how long it takes, for datagrams and for
//! connections. Not for memory or behaviour.
//!
//! Invariant: within a round every party is asked the same, one after the other, and the order
//! turns from round to round.

use anyhow::Result;

use super::Sheet;
use super::party::{Kind, Party};
use super::rig::{Datagrams, Rig};
use super::search::Search;
use crate::figures::{Better, Column as _};

const MOST_LOSS: f64 = 0.001;

/// 64 clients with a flow each, 64 bytes a datagram.
pub const PLAIN: Datagrams = Datagrams {
    rate: 0,
    echo: false,
    clients: 64,
    ports: 1,
    first_port: 20_000,
    millis: 1000,
    track: false,
};

/// Measures one part, one party, one round.
pub type Measure<'a> = &'a mut dyn FnMut(&mut Rig, &Party, u32, &mut Sheet) -> Result<()>;

/// Runs `measure` for all parties in turns. A party that fails is left out from then on, and that
/// is noted.
pub fn in_turns(
    rig: &mut Rig,
    parties: &[Party],
    rounds: u32,
    sheet: &mut Sheet,
    part: &str,
    measure: Measure<'_>,
) {
    let mut failed: Vec<Kind> = Vec::new();
    for round in 0..rounds {
        let turned = parties.iter().cycle().skip(round as usize).take(parties.len());
        for party in turned {
            if failed.contains(&party.kind) {
                continue;
            }
            crate::progress(&format!(
                "{part}: round {} of {rounds}, {}",
                round + 1,
                party.kind.name()
            ));
            if let Err(fault) = measure(rig, party, round, sheet) {
                failed.push(party.kind);
                sheet.notes.push(format!("{part}: {}: {fault:#}", party.kind.name()));
            }
        }
    }
}

/// The highest rates with less than 0.1 % lost, and what is delivered when more comes than goes.
pub fn udp_rate(rig: &mut Rig, parties: &[Party], rounds: u32, millis: u64, sheet: &mut Sheet) {
    let mut searches = vec![Search::default(); 2 * Kind::ALL.len()];
    let millis = millis * 6 / 10;
    in_turns(rig, parties, rounds, sheet, "udp-rate", &mut |rig, party, round, sheet| {
        for echo in [false, true] {
            let way = if echo { "udp echo" } else { "udp one way" };
            let plan = Datagrams { echo, millis, ..PLAIN };
            let search = &mut searches[2 * party.kind as usize + usize::from(echo)];
            let highest = search.run(|rate| passes(rig, party, Datagrams { rate, ..plan }))?;
            let name = format!("{way}: highest rate, loss < 0.1 %");
            sheet.note((&name, "pps", Better::High), party.kind, round, highest as f64);
            let run = rig.udp(party, plan)?;
            let delivered = run.delivered(echo) as f64 / run.outcome.seconds;
            let name = format!("{way}: delivered under overload");
            sheet.note((&name, "pps", Better::High), party.kind, round, delivered);
        }
        Ok(())
    });
}

/// Two trials: a machine that looks away for 3 ms loses more than 0.1 % for whoever is at work.
fn passes(rig: &mut Rig, party: &Party, plan: Datagrams) -> Result<bool> {
    for _ in 0..2 {
        let run = rig.udp(party, plan)?;
        let asked = plan.rate as f64 * plan.millis as f64 / 1e3;
        if (run.outcome.sent as f64) < asked * 0.97 {
            return Ok(false);
        }
        if run.loss(plan.echo) < MOST_LOSS {
            return Ok(true);
        }
        // No hiccup is that long.
        if run.loss(plan.echo) > 0.1 {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Processor time and latency at fixed rates.
pub fn udp_load(rig: &mut Rig, parties: &[Party], rounds: u32, millis: u64, sheet: &mut Sheet) {
    in_turns(rig, parties, rounds, sheet, "udp-load", &mut |rig, party, round, sheet| {
        for (echo, rate) in [(false, 50_000), (false, 100_000), (true, 50_000), (true, 100_000)] {
            let run = rig.udp(party, Datagrams { rate, echo, millis, ..PLAIN })?;
            let way = if echo { "echo" } else { "one way" };
            let name = |what: &str| format!("udp {way} at {} kpps: {what}", rate / 1000);
            let each = 1e6 / run.delivered(echo).max(1) as f64;
            let mut low = |what: &str, unit, value| {
                sheet.note((&name(what), unit, Better::Low), party.kind, round, value);
            };
            low("CPU of the machine", "µs each", run.cost.machine * each);
            low("CPU of the run's processes", "µs each", run.cost.run * each);
            if party.kind.is_process() {
                low("CPU of the process", "µs each", run.cost.party * each);
            }
            low("lost", "%", run.loss(echo) * 100.0);
            if echo {
                low("p50", "µs", run.outcome.p50_us);
                low("p99", "µs", run.outcome.p99_us);
                low("answers to the wrong flow", "", run.outcome.wrong as f64);
            }
        }
        Ok(())
    });
}

/// Short connections.
pub fn tcp_conn(rig: &mut Rig, parties: &[Party], rounds: u32, millis: u64, sheet: &mut Sheet) {
    in_turns(rig, parties, rounds, sheet, "tcp-conn", &mut |rig, party, round, sheet| {
        let (outcome, cost) = rig.tcp(party, "short", 8, 0, millis)?;
        let done = outcome.done as f64;
        let rate = ("tcp connect, 64 B echo, reset", "per s", Better::High);
        sheet.note(rate, party.kind, round, done / outcome.seconds);
        let mut low = |what: &str, unit, value| {
            let name = format!("tcp connect, 64 B echo, reset: {what}");
            sheet.note((&name, unit, Better::Low), party.kind, round, value);
        };
        low("p99", "µs", outcome.p99_us);
        low("failed", "", outcome.failed as f64);
        low("CPU of the machine", "µs each", cost.machine * 1e6 / done);
        low("CPU of the run's processes", "µs each", cost.run * 1e6 / done);
        Ok(())
    });
}

/// Large transfers both ways.
pub fn tcp_bulk(rig: &mut Rig, parties: &[Party], rounds: u32, millis: u64, sheet: &mut Sheet) {
    in_turns(rig, parties, rounds, sheet, "tcp-bulk", &mut |rig, party, round, sheet| {
        for (load, way) in [("download", "to the client"), ("upload", "to the server")] {
            let (outcome, cost) = rig.tcp(party, load, 2, 0, millis)?;
            let gbit = outcome.done as f64 * 8.0 / 1e9;
            let name = format!("tcp bulk {way}, 2 streams");
            let speed = gbit / outcome.seconds;
            sheet.note((&name, "Gbit/s", Better::High), party.kind, round, speed);
            for (what, cost) in [("the machine", cost.machine), ("the run's processes", cost.run)] {
                let name = format!("{name}: CPU of {what}");
                let low = (name.as_str(), "s per Gbit", Better::Low);
                sheet.note(low, party.kind, round, cost / gbit);
            }
        }
        Ok(())
    });
}

/// Small messages at a fixed pace.
pub fn tcp_ping(rig: &mut Rig, parties: &[Party], rounds: u32, millis: u64, sheet: &mut Sheet) {
    in_turns(rig, parties, rounds, sheet, "tcp-ping", &mut |rig, party, round, sheet| {
        let (outcome, cost) = rig.tcp(party, "ping-pong", 64, 20_000, millis)?;
        let mut low = |what: &str, unit, value| {
            let name = format!("tcp 64 B there and back at 20 k/s: {what}");
            sheet.note((&name, unit, Better::Low), party.kind, round, value);
        };
        low("p50", "µs", outcome.p50_us);
        low("p99", "µs", outcome.p99_us);
        low("failed", "", outcome.failed as f64);
        let each = 1e6 / outcome.done.max(1) as f64;
        low("CPU of the machine", "µs each", cost.machine * each);
        low("CPU of the run's processes", "µs each", cost.run * each);
        Ok(())
    });
}
