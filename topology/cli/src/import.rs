//! `aqueduct import`: a `pgbouncer.ini` with what it includes and its user list becomes a topology file
//! with a folder of secrets, an OpenAPI 3 description one with routes; what could not be translated is said.
//! Called by `main`.
//!
//! Invariant: nothing that exists is overwritten, and a secret is readable by its owner alone.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use topology::openapi::{self, Wishes};
use topology::pgbouncer;

/// Translates a pgbouncer.ini or an OpenAPI 3 description into a topology file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// PgBouncer's configuration, or an OpenAPI description (.yaml, .yml or .json)
    source: PathBuf,
    /// The topology file to write; secrets go into the folder `secrets` beside it [default: pgpool.yaml or
    /// gateway.yaml]
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// With OpenAPI: the name of the service that does the work
    #[arg(long, default_value = "service")]
    service: String,
    /// With OpenAPI: what stands before every path [default: the path of the first server]
    #[arg(long)]
    prefix: Option<String>,
    /// With OpenAPI: requests are held against the description, as it stands there (`validate`)
    #[arg(long)]
    validate: bool,
}

const EXAMPLES: &str = "Example:\n  aqueduct import /etc/pgbouncer/pgbouncer.ini -o pool.yaml\n  \
                        pgpool --topology pool.yaml\n  \
                        aqueduct import petstore.json --service pets --validate -o gateway.yaml";

/// Writes the file and its secrets, and tells what is left to do.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let kind = args.source.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    if ["yaml", "yml", "json"].contains(&kind) { described(args) } else { pooled(args) }
}

/// From an OpenAPI description.
fn described(args: &Args) -> anyhow::Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("gateway.yaml"));
    let text = fs::read_to_string(&args.source)
        .with_context(|| format!("cannot read {}", args.source.display()))?;
    let source = fs::canonicalize(&args.source)?.display().to_string();
    let (service, prefix) = (args.service.clone(), args.prefix.clone());
    let wishes = Wishes { service, prefix, validate: args.validate.then_some(source) };
    let imported =
        openapi::import(&text, &wishes).with_context(|| args.source.display().to_string())?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&output)
        .with_context(|| format!("{}: name another file with --output", output.display()))?;
    file.write_all(imported.text.as_bytes())?;
    let mut out = std::io::stdout().lock();
    for note in &imported.notes {
        writeln!(out, "{}: {note}", args.source.display())?;
    }
    writeln!(out, "{} is written; look at it, then: aqueduct check {0}", output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// From PgBouncer's configuration.
fn pooled(args: &Args) -> anyhow::Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("pgpool.yaml"));
    let texts = pgbouncer::read(&args.source)?;
    let imported = pgbouncer::import(&texts.ini, texts.users.as_deref());
    let folder = output.parent().unwrap_or(Path::new("")).join("secrets");
    if output.exists() || (folder.exists() && !imported.secrets.is_empty()) {
        let (file, folder) = (output.display(), folder.display());
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
    fs::write(&output, &imported.text)?;
    let mut out = std::io::stdout().lock();
    let mut notes: Vec<_> = imported.notes.iter().chain(&imported.about_process).collect();
    notes.sort_by_key(|note| note.line);
    for doubt in &texts.doubts {
        writeln!(out, "{doubt}")?;
    }
    for note in notes {
        writeln!(out, "{}: {}", texts.place(note.line), note.what)?;
    }
    writeln!(out, "{} is written; look at it, then: aqueduct check {0}", output.display())?;
    Ok(ExitCode::SUCCESS)
}
