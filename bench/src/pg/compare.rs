//! A whole run: parties found, cases in turn, figures and verdicts written down. Not for what a case
//! measures.
//!
//! Invariant: what was measured outlives an end before the last case.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Sheet;
use super::cases::{Case, Rig, Terms};
use super::party::Kind;
use super::server::Server;
use crate::figures::{Column as _, table};
use crate::report::Report;
use crate::{goals, progress};

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cases; empty: all.
    pub only: Vec<Case>,
    /// The parties; empty: all.
    pub parties: Vec<Kind>,
    /// How each is run.
    pub terms: Terms,
    /// Where to write the figures.
    pub json: Option<PathBuf>,
}

/// Runs the plan.
///
/// # Errors
/// When nobody is there to be measured, or PostgreSQL cannot be started.
#[expect(clippy::print_stdout, reason = "the program's output")]
pub fn run(plan: &Plan) -> Result<()> {
    let wanted = if plan.parties.is_empty() { Kind::ALL.to_vec() } else { plan.parties.clone() };
    let (kinds, missing): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|kind| kind.program().is_some());
    let absent = |kind: &Kind| format!("{} is not there: {}", kind.name(), kind.installed_by());
    let notes: Vec<_> = missing.iter().map(absent).collect();
    for note in &notes {
        println!("note: {note}");
    }
    ensure!(!kinds.is_empty(), "nobody to measure: {}", notes.join("; "));
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let folder = tempfile::tempdir()?;
    let versions = kinds.iter().filter_map(|kind| Some((kind.name(), kind.version()?)));
    let mut report = Report::begin((plan.terms.rounds, plan.terms.seconds), versions.collect())?;
    report.notes = notes;
    let home = folder.path().join("postgres");
    std::fs::create_dir(&home)?;
    // Its parent is ours alone.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open)?;
    let server = Server::start(&home)?;
    let rig = Rig { folder: folder.path(), server, kinds, terms: plan.terms };
    let cases = if plan.only.is_empty() { Case::value_variants() } else { &plan.only };
    for case in cases {
        let mut sheet = Sheet::default();
        case.measure(&rig, &mut sheet);
        let rows = sheet.rows();
        let verdicts: Vec<_> = case.goals().iter().filter_map(|it| it.verdict(&rows)).collect();
        progress("");
        println!("{}\n{}", table(&rows, &rig.kinds), goals::table(&verdicts));
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
