//! What is measured, case by case, and what ours shall reach in each. Not for how a run is written
//! down.
//!
//! Invariant: within a case every party has the same load and the same number of servers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::load::Load;
use super::party::{Kind, Running, Wanted};
use super::server::Server;
use super::{Goal, Sheet, clients, failover};
use crate::figures::{Better, Column as _};
use crate::goals::Want;
use crate::l4::clock::pause;
use crate::process::Program;
use crate::{progress, strace};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Simple queries of 16 clients: fewer than servers.
    Simple16,
    /// Of 64: more than servers.
    Simple64,
    /// Of 500.
    Simple500,
    /// The extended protocol, 64 clients.
    Extended,
    /// Prepared statements, 64 clients, each with a server.
    Prepared,
    /// Prepared statements of 64 clients over 20 servers, which 1.18 cannot.
    Shared,
    /// Simple queries of 500 clients over two threads of ours.
    Workers,
    /// How even 500 clients are served.
    Tail,
    /// System calls per query.
    Syscalls,
    /// A connection for each query.
    Logins,
    /// Memory of 5000 idle clients.
    Idle,
    /// Time without writes when the primary is lost.
    Failover,
}

/// How a case is run.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Turns, each one run of every party.
    pub rounds: u32,
    /// Length of a run.
    pub seconds: u32,
}

/// What all cases share.
#[derive(Debug)]
pub struct Rig<'a> {
    /// For files.
    pub folder: &'a Path,
    /// Behind all.
    pub server: Server,
    /// The parties of this run.
    pub kinds: Vec<Kind>,
    /// How each case is run.
    pub terms: Terms,
}

const IDLE: u32 = 5000;
const LOGIN: &str = "login: CPU";
const MEMORY: &str = "memory of 5000 idle clients: each";
const TAIL: &str = "500 clients: p99 / p50";

impl Case {
    /// Measures it.
    pub fn measure(self, rig: &Rig<'_>, sheet: &mut Sheet) {
        match self {
            Self::Simple16
            | Self::Simple64
            | Self::Simple500
            | Self::Extended
            | Self::Shared
            | Self::Workers => {
                self.speed(rig, Wanted { workers: self.workers(), ..Wanted::usual() }, sheet);
            }
            // A session keeps its server.
            Self::Prepared => {
                let wanted = Wanted { servers: 64, prepared: true, ..Wanted::usual() };
                self.speed(rig, wanted, sheet);
            }
            Self::Tail => tail(rig, sheet),
            Self::Syscalls => syscalls(rig, sheet),
            Self::Logins => logins(rig, sheet),
            Self::Idle => idle(rig, sheet),
            Self::Failover => failover::measure(rig, sheet),
        }
    }

    /// What ours shall reach.
    pub fn goals(self) -> Vec<Goal> {
        let beside = |figure: &str, want: fn(Kind, f64) -> Want<Kind>, bound| {
            [Kind::Bouncer, Kind::Newer].map(|rival| Goal::new(figure, want(rival, bound))).to_vec()
        };
        let cpu = |bound| beside(&format!("{}: CPU", self.name()), Want::AtMostOf, bound);
        match self {
            Self::Simple16 => cpu(1.0),
            Self::Simple64 | Self::Simple500 => cpu(0.92),
            Self::Extended => cpu(0.85),
            Self::Prepared | Self::Shared => cpu(0.8),
            Self::Workers => beside(&format!("{}: rate", self.name()), Want::AtLeastOf, 1.15),
            Self::Tail => vec![Goal::new(TAIL, Want::AtMost(2.0))],
            Self::Syscalls => {
                CALLS.iter().map(|(name, ..)| Goal::new(name, Want::AtMost(4.3))).collect()
            }
            Self::Logins => beside(LOGIN, Want::AtMostOf, 1.2),
            Self::Idle => vec![Goal::new(MEMORY, Want::AtMost(2.0))],
            Self::Failover => vec![Goal::new(failover::NAME, Want::AtMost(1.0))],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple16 => "simple, 16 clients",
            Self::Simple64 => "simple, 64 clients",
            Self::Simple500 => "simple, 500 clients",
            Self::Extended => "extended, 64 clients",
            Self::Prepared => "prepared, 64 clients, 64 servers",
            Self::Shared => "prepared, 64 clients, 20 servers",
            Self::Workers => "simple, 500 clients, two threads of ours",
            Self::Tail => TAIL,
            Self::Syscalls => "system calls",
            Self::Logins => LOGIN,
            Self::Idle => MEMORY,
            Self::Failover => failover::NAME,
        }
    }

    fn workers(self) -> u32 {
        if self == Self::Workers { 2 } else { 1 }
    }

    fn load<'a>(self, rig: &'a Rig<'_>, pgbench: &'a Path) -> Load<'a> {
        let (protocol, clients) = match self {
            Self::Simple16 | Self::Logins => ("simple", 16),
            Self::Simple64 | Self::Idle | Self::Syscalls | Self::Failover => ("simple", 64),
            Self::Simple500 | Self::Workers | Self::Tail => ("simple", 500),
            Self::Extended => ("extended", 64),
            Self::Prepared | Self::Shared => ("prepared", 64),
        };
        let connects = self == Self::Logins;
        Load { pgbench, protocol, clients, connects, seconds: rig.terms.seconds }
    }

    /// Queries per second, and what each hundred thousand cost the party.
    fn speed(self, rig: &Rig<'_>, wanted: Wanted, sheet: &mut Sheet) {
        let (rate, cpu) = (format!("{}: rate", self.name()), format!("{}: CPU", self.name()));
        let pgbench = rig.server.pgbench();
        let load = self.load(rig, &pgbench);
        // So many servers of PostgreSQL's own would be measured.
        let able = |kind| match kind {
            Kind::Direct => load.clients <= 64,
            Kind::Bouncer => self != Self::Shared,
            Kind::Pool | Kind::Newer => true,
        };
        let parties = rig.start(self.name(), wanted, able, sheet);
        rig.in_turns(self.name(), &parties, sheet, &mut |party, round, sheet| {
            let before = party.cpu();
            let run = load.run(party)?;
            sheet.note((&rate, "1/s", Better::High), party.kind, round, run.per_second);
            if let (Some(before), Some(after)) = (before, party.cpu()) {
                let each = (after - before).as_secs_f64() / run.queries;
                sheet.note((&cpu, "s/100k", Better::Low), party.kind, round, each * 1e5);
            }
            Ok(())
        });
    }
}

impl Rig<'_> {
    /// Those of the run's parties that are wanted and able; who does not start is noted.
    fn start(
        &self,
        what: &str,
        wanted: Wanted,
        able: impl Fn(Kind) -> bool,
        sheet: &mut Sheet,
    ) -> Vec<Running> {
        let mut parties = Vec::new();
        for &kind in self.kinds.iter().filter(|kind| able(**kind)) {
            match kind.start(&self.folder.join(kind.name()), wanted) {
                Ok(party) => parties.push(party),
                Err(fault) => sheet.notes.push(format!("{what}: {}: {fault:#}", kind.name())),
            }
        }
        parties
    }

    /// Every party once a round, each round begun by another; who fails is noted.
    fn in_turns(&self, what: &str, parties: &[Running], sheet: &mut Sheet, turn: Turn<'_>) {
        for round in 0..self.terms.rounds {
            let first = round as usize % parties.len().max(1);
            let (later, sooner) = parties.split_at(first);
            for party in sooner.iter().chain(later) {
                let name = party.kind.name();
                progress(&format!("{what}: round {} of {}, {name}", round + 1, self.terms.rounds));
                if let Err(fault) = turn(party, round, sheet) {
                    sheet.notes.push(format!("{what}: {name}: {fault:#}"));
                }
            }
        }
    }
}

fn poolers(kind: Kind) -> bool {
    kind != Kind::Direct
}

/// One turn of a party.
type Turn<'a> = &'a mut dyn FnMut(&Running, u32, &mut Sheet) -> Result<()>;

fn tail(rig: &Rig<'_>, sheet: &mut Sheet) {
    let pgbench = rig.server.pgbench();
    let load = Case::Tail.load(rig, &pgbench);
    let parties = rig.start(TAIL, Wanted::usual(), poolers, sheet);
    rig.in_turns(TAIL, &parties, sheet, &mut |party, round, sheet| {
        let (p50, p99) = load.times(party, rig.folder)?;
        sheet.note((TAIL, "", Better::Low), party.kind, round, p99 / p50);
        sheet.note(("500 clients: p99", "ms", Better::Low), party.kind, round, p99 / 1e3);
        Ok(())
    });
}

const CALLS: [(&str, &str, u32); 4] = [
    ("simple, 16 clients: system calls per query", "simple", 16),
    ("simple, 64 clients: system calls per query", "simple", 64),
    ("simple, 500 clients: system calls per query", "simple", 500),
    ("extended, 64 clients: system calls per query", "extended", 64),
];

fn syscalls(rig: &Rig<'_>, sheet: &mut Sheet) {
    let pgbench = rig.server.pgbench();
    for (name, protocol, clients) in CALLS {
        let load = Load { protocol, clients, ..Case::Syscalls.load(rig, &pgbench) };
        let parties = rig.start(name, Wanted::usual(), poolers, sheet);
        rig.in_turns(name, &parties, sheet, &mut |party, round, sheet| {
            let pids = party.program.as_ref().map(Program::pids).unwrap_or_default();
            let (calls, run) = strace::during(&pids, || load.run(party))?;
            sheet.note((name, "", Better::Low), party.kind, round, calls / run.queries);
            Ok(())
        });
    }
}

fn logins(rig: &Rig<'_>, sheet: &mut Sheet) {
    let pgbench = rig.server.pgbench();
    let load = Case::Logins.load(rig, &pgbench);
    let parties = rig.start(LOGIN, Wanted::usual(), poolers, sheet);
    rig.in_turns(LOGIN, &parties, sheet, &mut |party, round, sheet| {
        let before = party.cpu();
        let run = load.run(party)?;
        let (before, after) = (before.context("no process")?, party.cpu().context("no process")?);
        let each = (after - before).as_secs_f64() / run.queries;
        sheet.note((LOGIN, "ms", Better::Low), party.kind, round, each * 1e3);
        Ok(())
    });
}

fn idle(rig: &Rig<'_>, sheet: &mut Sheet) {
    for round in 0..rig.terms.rounds {
        // Anew each round: what a party keeps of closed connections would hide new ones.
        for party in rig.start(MEMORY, Wanted::usual(), poolers, sheet) {
            progress(&format!("{MEMORY}: round {}, {}", round + 1, party.kind.name()));
            match each(&party) {
                Ok(each) => sheet.note((MEMORY, "KiB", Better::Low), party.kind, round, each),
                Err(fault) => {
                    sheet.notes.push(format!("{MEMORY}: {}: {fault:#}", party.kind.name()));
                }
            }
        }
    }
}

fn each(party: &Running) -> Result<f64> {
    let rss = || party.program.as_ref().map(Program::rss_kib).unwrap_or_default() as f64;
    // What the first clients need once.
    drop(clients::idle(party, 20)?);
    let before = rss();
    let held = clients::idle(party, IDLE)?;
    pause(Duration::from_millis(500));
    let after = rss();
    drop(held);
    Ok((after - before) / f64::from(IDLE))
}
