//! `aqueduct import`: a `pgbouncer.ini` with what it includes and its user list becomes a topology file
//! with a folder of secrets; what could not be translated is said. Called by `main`.
//!
//! Invariant: nothing that exists is overwritten, and a secret is readable by its owner alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use topology::pgbouncer;

/// Translates a pgbouncer.ini into a topology file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// PgBouncer's configuration
    ini: PathBuf,
    /// The topology file to write; secrets go into the folder `secrets` beside it
    #[arg(long, short, default_value = "pgpool.yaml")]
    output: PathBuf,
}

const EXAMPLES: &str = "Example:\n  aqueduct import /etc/pgbouncer/pgbouncer.ini -o pool.yaml\n  \
                        pgpool --topology pool.yaml";

/// Writes the file and its secrets, and tells what is left to do.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let texts = pgbouncer::read(&args.ini)?;
    let imported = pgbouncer::import(&texts.ini, texts.users.as_deref());
    let folder = args.output.parent().unwrap_or(Path::new("")).join("secrets");
    if args.output.exists() || (folder.exists() && !imported.secrets.is_empty()) {
        let (file, folder) = (args.output.display(), folder.display());
        bail!("{file} or {folder} exists: name another file with --output, or move it away");
    }
    if !imported.secrets.is_empty() {
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
    }
    for (n, (_, secret)) in (1..).zip(&imported.secrets) {
        let path = folder.join(format!("{n}"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path)?.write_all(secret.as_bytes())?;
    }
    fs::write(&args.output, &imported.text)?;
    let mut out = std::io::stdout().lock();
    let mut notes: Vec<_> = imported.notes.iter().chain(&imported.about_process).collect();
    notes.sort_by_key(|note| note.line);
    for note in notes {
        writeln!(out, "{}: {}", texts.place(note.line), note.what)?;
    }
    writeln!(out, "{} is written; look at it, then: aqueduct check {0}", args.output.display())?;
    Ok(ExitCode::SUCCESS)
}
