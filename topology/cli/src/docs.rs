//! What the tool writes about itself and the file: JSON schema, shell completions, man pages. Not
//! prose. Called by `main`.
//!
//! Invariant: everything is generated from what the programs really read.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

/// Prints a completion script
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  aqueduct completions bash > /etc/bash_completion.d/aqueduct")]
pub(crate) struct CompletionArgs {
    /// For which shell
    shell: Shell,
}

/// Writes man pages
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  aqueduct man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Into which folder
    folder: PathBuf,
}

/// Prints the JSON schema of the topology file.
pub(crate) fn schema() -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout().lock(), "{}", topology::schema().trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the script for a shell.
pub(crate) fn completions(args: &CompletionArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "aqueduct", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `aqueduct.1` and one page per subcommand.
pub(crate) fn man(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    let shown = args.folder.display();
    std::fs::create_dir_all(&args.folder).with_context(|| format!("cannot make {shown}"))?;
    clap_mangen::generate_to(command, &args.folder)
        .with_context(|| format!("cannot write man pages into {shown}"))?;
    Ok(ExitCode::SUCCESS)
}

/// What `aqueduct --help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  aqueduct up                                      the documented stack, from nothing to ready
  aqueduct init gateway                            a commented file to begin with
  aqueduct check topology.yaml                     every problem at once, with its place
  aqueduct explain topology.yaml --get URL         where a request would go, and why
  aqueduct graph topology.yaml -o topology.svg     a picture of who connects to whom
  aqueduct watch topology.yaml                     the running instances on a live page
  aqueduct token --user 98765 --scope user:read    a token for curl
  aqueduct replay udp --players 50                 game traffic, with a report";
