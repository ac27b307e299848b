//! A whole run: parties found and started, parts in turn, figures written down. Not for what a
//! part measures.
//!
//! Invariant: whatever ends the run, also Ctrl-C, no process and no namespace stays behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use super::figures::{Row, Sheet, table};
use super::namespaces::Network;
use super::party::{Kind, Party, Wanted};
use super::rig::Rig;
use super::server::println_now;
use super::{progress, speed};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Datagrams: the highest rate with less than 0.1 % lost, and what overload leaves.
    UdpRate,
    /// Datagrams: processor time and latency at 50 and 100 kpps.
    UdpLoad,
    /// Connections a second.
    TcpConn,
    /// Large transfers both ways.
    TcpBulk,
    /// Small messages: latency.
    TcpPing,
}

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The parts; empty: all.
    pub only: Vec<Part>,
    /// The parties; empty: all.
    pub parties: Vec<Kind>,
    /// Turns.
    pub rounds: u32,
    /// Length of a run.
    pub millis: u64,
    /// Where to write the figures.
    pub json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    date: String,
    kernel: String,
    cores: usize,
    rounds: u32,
    seconds: f64,
    versions: BTreeMap<&'static str, String>,
    figures: Vec<Row>,
    notes: Vec<String>,
}

/// Runs the plan.
///
/// # Errors
/// Without root, or when the network cannot be built.
pub fn run(plan: &Plan) -> Result<()> {
    let wanted = if plan.parties.is_empty() { Kind::ALL.to_vec() } else { plan.parties.clone() };
    let (kinds, missing): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|kind| kind.program().is_some());
    let mut sheet = Sheet::default();
    for kind in missing {
        sheet.notes.push(format!("{} is not there: {}", kind.name(), kind.installed_by()));
    }
    ensure!(!kinds.is_empty(), "nobody to measure: {}", sheet.notes.join("; "));
    let folder = tempfile::tempdir()?;
    watch_signals()?;
    let mut rig = Rig::build(folder.path().to_owned())?;
    let parts = if plan.only.is_empty() { Part::value_variants() } else { &plan.only };
    for part in parts {
        measure(*part, &mut rig, &kinds, plan, &mut sheet)?;
    }
    drop(rig);
    tell(plan, &kinds, sheet)
}

/// The line that a generator ends with. It waits for the end of its input, so that whoever started
/// it can look at what it used.
///
/// # Errors
/// When nobody reads.
pub fn answer(outcome: &impl Serialize) -> Result<()> {
    println_now(&serde_json::to_string(outcome)?)?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn measure(
    part: Part,
    rig: &mut Rig,
    kinds: &[Kind],
    plan: &Plan,
    sheet: &mut Sheet,
) -> Result<()> {
    let udp = matches!(part, Part::UdpRate | Part::UdpLoad);
    rig.network.offload(!udp)?;
    let kinds = kinds.iter().copied().filter(|kind| !udp || kind.has_udp());
    let parties = started(rig, kinds, sheet);
    let (rounds, millis) = (plan.rounds, plan.millis);
    let run = match part {
        Part::UdpRate => speed::udp_rate,
        Part::UdpLoad => speed::udp_load,
        Part::TcpConn => speed::tcp_conn,
        Part::TcpBulk => speed::tcp_bulk,
        Part::TcpPing => speed::tcp_ping,
    };
    run(rig, &parties, rounds, millis, sheet);
    Ok(())
}

/// All of them at work, each in its own namespace; who does not start is noted.
fn started(rig: &Rig, kinds: impl Iterator<Item = Kind>, sheet: &mut Sheet) -> Vec<Party> {
    let mut parties = Vec::new();
    for kind in kinds {
        progress(&format!("starting {}", kind.name()));
        match rig.start(kind, &Wanted::endpoints(rig.place(kind), 4)) {
            Ok(party) => parties.push(party),
            Err(fault) => sheet.notes.push(format!("{fault:#}")),
        }
    }
    parties
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn tell(plan: &Plan, kinds: &[Kind], sheet: Sheet) -> Result<()> {
    progress("");
    let figures = sheet.rows();
    println!("{}", table(&figures, kinds));
    println!("In brackets: of direct, or over direct. Medians of {} rounds.", plan.rounds);
    for note in &sheet.notes {
        println!("note: {note}");
    }
    let Some(path) = &plan.json else { return Ok(()) };
    let versions = kinds.iter().filter_map(|kind| Some((kind.name(), kind.version()?)));
    let report = Report {
        date: said("date", &["-u", "+%Y-%m-%d %H:%M"]),
        kernel: said("uname", &["-r"]),
        cores: std::thread::available_parallelism()?.get(),
        rounds: plan.rounds,
        seconds: plan.millis as f64 / 1e3,
        versions: versions.collect(),
        figures,
        notes: sheet.notes,
    };
    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}

/// Ctrl-C and `kill` remove the namespaces and end the run.
fn watch_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Threads inherit it, started programs do not (std resets it).
    signals.thread_block()?;
    let signals = Arc::new(signals);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            Network::remove_own();
            std::process::exit(130);
        }
    });
    Ok(())
}
