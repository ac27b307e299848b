//! A whole run: parties found, cases in turn, figures and verdicts written down. Not for what a case
//! measures.
//!
//! Invariant: what was measured outlives an end before the last case.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::Sheet;
use super::cases::{Measured, Terms};
use super::party::Kind;
use super::rig::Rig;
use crate::figures::{Column as _, table};
use crate::report::Report;
use crate::{goals, progress};

/// How a run is done.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// The parties, with commas between them; default all that are installed.
    #[arg(long, value_delimiter = ',')]
    parties: Vec<Kind>,
    /// Turns, each one run of every party.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of a run in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// One pinned worker alone, not also two that run anywhere.
    #[arg(long)]
    pinned: bool,
    /// Where to write the figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the plan with these cases, or with all where none is named.
///
/// # Errors
/// When nobody is there to be measured, or the service cannot be started.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub fn run<C: Measured>(plan: &Plan, only: &[C]) -> Result<()> {
    let terms = Terms { rounds: plan.rounds, seconds: plan.seconds, free: !plan.pinned };
    let wanted = if plan.parties.is_empty() { Kind::ALL.to_vec() } else { plan.parties.clone() };
    let (kinds, missing): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|kind| kind.program().is_some());
    let absent = |kind: &Kind| format!("{} is not there: {}", kind.name(), kind.installed_by());
    let notes: Vec<_> = missing.iter().map(absent).collect();
    for note in &notes {
        println!("note: {note}");
    }
    ensure!(!kinds.is_empty(), "nobody to measure: {}", notes.join("; "));
    let folder = tempfile::tempdir()?;
    let rig = Rig::build(folder.path(), kinds.clone())?;
    let versions = kinds.iter().filter_map(|kind| Some((kind.name(), kind.version()?)));
    let mut report = Report::begin((plan.rounds, plan.seconds), versions.collect())?;
    report.notes = notes;
    let cases = if only.is_empty() { C::value_variants() } else { only };
    for &case in cases {
        let mut sheet = Sheet::default();
        case.measure(&rig, terms, &mut sheet);
        let rows = sheet.rows();
        let verdicts: Vec<_> = case.goals().iter().filter_map(|it| it.verdict(&rows)).collect();
        progress("");
        println!("{}\n{}", table(&rows, &kinds), goals::table(&verdicts));
        for note in &sheet.notes {
            println!("note: {note}");
        }
        report.figures.extend(rows);
        report.goals.extend(verdicts);
        report.notes.extend(sheet.notes);
        if let Some(path) = &plan.json {
            report.write(path)?;
        }
    }
    Ok(())
}
