//! A whole run: parties found and started, parts in turn, figures written down. Not for what a
//! part measures.
//!
//! Invariant: whatever ends the run, also Ctrl-C, no process and no namespace stays behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Sheet;
use super::namespaces::Network;
use super::party::{Kind, Party, Wanted};
use super::rig::Rig;
use super::server::println_now;
use super::{behaviour, memory, speed};
use crate::figures::{Column as _, Row, table};
use crate::progress;

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
    /// Memory per connection and per flow.
    Memory,
    /// What a datagram costs with 10, 1000 and 50 000 flows.
    UdpFlows,
    /// What a datagram costs with 3, 30 and 300 endpoints.
    UdpEndpoints,
    /// What becomes of live flows under reloads, when an endpoint dies, and under a flood.
    Behaviour,
}

impl Part {
    /// Datagrams alone, measured without offload.
    fn is_udp(self) -> bool {
        matches!(
            self,
            Self::UdpRate | Self::UdpLoad | Self::UdpFlows | Self::UdpEndpoints | Self::Behaviour
        )
    }
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
struct Report<'a> {
    date: String,
    kernel: String,
    cores: usize,
    rounds: u32,
    seconds: f64,
    versions: BTreeMap<&'static str, String>,
    figures: &'a [Row],
    notes: &'a [String],
}

/// Runs the plan.
///
/// # Errors
/// Without root, or when the network cannot be built.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub fn run(plan: &Plan) -> Result<()> {
    let wanted = if plan.parties.is_empty() { Kind::ALL.to_vec() } else { plan.parties.clone() };
    let (kinds, missing): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|kind| kind.program().is_some());
    let mut sheet = Sheet::default();
    for kind in missing {
        sheet.notes.push(format!("{} is not there: {}", kind.name(), kind.installed_by()));
    }
    for note in &sheet.notes {
        println!("note: {note}");
    }
    ensure!(!kinds.is_empty(), "nobody to measure: {}", sheet.notes.join("; "));
    let folder = tempfile::tempdir()?;
    watch_signals()?;
    let mut rig = Rig::build(folder.path().to_owned())?;
    let parts = if plan.only.is_empty() { Part::value_variants() } else { &plan.only };
    let (mut figures, mut notes) = (Vec::new(), sheet.notes);
    for part in parts {
        let mut sheet = Sheet::default();
        measure(*part, &mut rig, &kinds, plan, &mut sheet)?;
        let rows = sheet.rows();
        show(*part, &rows, &sheet.notes, &kinds);
        figures.extend(rows);
        notes.extend(sheet.notes);
        // After each part: what was measured outlives an end before the last.
        write(plan, &kinds, &figures, &notes)?;
    }
    drop(rig);
    Ok(())
}

/// The lines that a generator ends with: the outcome, and the seconds of processor it has used.
///
/// # Errors
/// When nobody reads.
pub fn answer(outcome: &impl Serialize) -> Result<()> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| time.num_microseconds() as f64 / 1e6;
    println_now(&serde_json::to_string(outcome)?)?;
    println_now(&(seconds(used.user_time()) + seconds(used.system_time())).to_string())?;
    Ok(())
}

fn measure(
    part: Part,
    rig: &mut Rig,
    kinds: &[Kind],
    plan: &Plan,
    sheet: &mut Sheet,
) -> Result<()> {
    rig.network.offload(!part.is_udp())?;
    let able = |kind: &Kind| !part.is_udp() || kind.has_udp();
    let kinds: Vec<_> = kinds.iter().copied().filter(able).collect();
    let (rounds, millis) = (plan.rounds, plan.millis);
    let run = match part {
        Part::Memory => {
            memory::memory(rig, &kinds, rounds, sheet);
            return Ok(());
        }
        Part::Behaviour => {
            behaviour::behaviour(rig, &kinds, rounds, sheet);
            return Ok(());
        }
        Part::UdpEndpoints => {
            memory::by_endpoints(rig, &kinds, rounds, millis, sheet);
            return Ok(());
        }
        Part::UdpFlows => memory::by_flows,
        Part::UdpRate => speed::udp_rate,
        Part::UdpLoad => speed::udp_load,
        Part::TcpConn => speed::tcp_conn,
        Part::TcpBulk => speed::tcp_bulk,
        Part::TcpPing => speed::tcp_ping,
    };
    let parties = started(rig, kinds.into_iter(), 4, sheet);
    run(rig, &parties, rounds, millis, sheet);
    Ok(())
}

/// All of them at work, each in its own namespace; who does not start is noted.
pub(super) fn started(
    rig: &Rig,
    kinds: impl Iterator<Item = Kind>,
    endpoints: u16,
    sheet: &mut Sheet,
) -> Vec<Party> {
    let mut parties = Vec::new();
    for kind in kinds {
        progress(&format!("starting {}", kind.name()));
        match rig.start(kind, &Wanted::endpoints(rig.place(kind), endpoints)) {
            Ok(party) => parties.push(party),
            Err(fault) => sheet.notes.push(format!("{fault:#}")),
        }
    }
    parties
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn show(part: Part, rows: &[Row], notes: &[String], kinds: &[Kind]) {
    progress("");
    let name = part.to_possible_value().map(|value| value.get_name().to_owned());
    println!("{} (in brackets: of direct, or over direct)", name.unwrap_or_default());
    println!("{}", table(rows, kinds));
    for note in notes {
        println!("note: {note}");
    }
}

fn write(plan: &Plan, kinds: &[Kind], figures: &[Row], notes: &[String]) -> Result<()> {
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
        notes,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    // Handled, not blocked: a program inherits what is blocked, and would never hear of a reload.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    drop(inside);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        Network::remove_own();
        std::process::exit(130);
    });
    Ok(())
}
