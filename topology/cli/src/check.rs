//! `aqueduct check`: every problem of a topology file at once, and whether the certificates that it
//! names fit their keys. Starts nothing. Called by `main`.
//!
//! Invariant: exit code 0 fine, 2 problems, 1 could not run.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use common::tls::store;
use topology::problem::{LoadError, Problem, Severity, Shown};
use topology::{SecretRef, Tls, Topology};

/// Checks a topology file without starting anything
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topology file
    file: PathBuf,
    /// Warnings count as problems
    #[arg(long)]
    strict: bool,
}

/// Prints what is wrong.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let topology = match topology::load(&args.file) {
        Ok(topology) => topology,
        Err(LoadError::Problems(problems)) => {
            writeln!(out, "{problems}")?;
            return Ok(ExitCode::from(2));
        }
        Err(error @ LoadError::Io { .. }) => anyhow::bail!("{error}"),
    };
    let mut found = topology.warnings.clone();
    found.extend(certificates(&topology));
    found.sort_by_key(|problem| problem.at);
    for problem in &found {
        writeln!(out, "{}", Shown { problem, source: &topology.source })?;
    }
    let errors = found.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = found.len() - errors;
    writeln!(out, "{}: {}", args.file.display(), verdict(errors, warnings))?;
    let bad = errors > 0 || (args.strict && warnings > 0);
    Ok(if bad { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn verdict(errors: usize, warnings: usize) -> String {
    let count = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    match (errors, warnings) {
        (0, 0) => "fine".to_owned(),
        (0, _) => format!("fine, {}", count(warnings, "warning")),
        (_, 0) => count(errors, "problem"),
        _ => format!("{}, {}", count(errors, "problem"), count(warnings, "warning")),
    }
}

/// What is wrong with certificates that can be looked at here; one that is not there yet is no
/// fault of the file, since it may be meant for another host.
fn certificates(topology: &Topology) -> Vec<Problem> {
    let gateways = topology.gateways.iter().filter_map(|group| group.tls.as_ref());
    let pools = topology.pools.iter().filter_map(|group| group.tls.as_ref());
    let mut problems = Vec::new();
    for certificate in gateways.chain(pools).flat_map(|tls: &Tls| &tls.certificates) {
        let here = |reference: &SecretRef| match reference {
            SecretRef::File(path) => path.exists(),
            SecretRef::Env(name) => std::env::var_os(name).is_some(),
        };
        if !here(&certificate.chain.value) || !here(&certificate.key.value) {
            continue;
        }
        if let Err(error) = store::load(certificate) {
            problems.push(Problem {
                at: error.place(),
                width: 1,
                path: String::new(),
                what: error.to_string(),
                allowed: None,
                hint: None,
                severity: Severity::Error,
            });
        }
    }
    problems
}

const EXAMPLES: &str = "\
Examples:
  aqueduct check topology.yaml
  aqueduct check --strict topology.yaml      in CI: warnings count too

Exit code: 0 fine, 2 problems, 1 it could not run.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_counts() {
        assert_eq!(verdict(0, 0), "fine");
        assert_eq!(verdict(0, 2), "fine, 2 warnings");
        assert_eq!(verdict(1, 0), "1 problem");
        assert_eq!(verdict(2, 1), "2 problems, 1 warning");
    }
}
