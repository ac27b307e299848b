//! `aqueduct import`: a `pgbouncer.ini` with what it includes and its user list becomes a topology file
//! with a folder of secrets; what could not be translated is said. Called by `main`.
//!
//! Invariant: nothing that exists is overwritten, and a secret is readable by its owner alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use topology::pgbouncer;

/// Files that include files that include files.
const DEEPEST: usize = 10;

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
    let mut ini = String::new();
    include(&args.ini, 0, &mut ini)?;
    let users = match pgbouncer::user_list(&ini) {
        Some(path) => {
            let path = beside(&args.ini, Path::new(&path));
            Some(fs::read_to_string(&path).with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let imported = pgbouncer::import(&ini, users.as_deref());
    let folder = beside(&args.output, Path::new("secrets"));
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
    for note in &imported.notes {
        match note.line {
            0 => writeln!(out, "{}: {}", args.ini.display(), note.what)?,
            line => writeln!(out, "{}:{line}: {}", args.ini.display(), note.what)?,
        }
    }
    writeln!(out, "{} is written; look at it, then: aqueduct check {0}", args.output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The text of a file with what it includes in its place.
fn include(file: &Path, depth: usize, into: &mut String) -> anyhow::Result<()> {
    if depth > DEEPEST {
        bail!("{}: files include each other", file.display());
    }
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    for line in text.lines() {
        if let Some(other) = pgbouncer::included(line) {
            include(&beside(file, Path::new(other)), depth + 1, into)?;
        } else {
            into.push_str(line);
            into.push('\n');
        }
    }
    Ok(())
}

/// A path that a file names, from that file's folder.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}
