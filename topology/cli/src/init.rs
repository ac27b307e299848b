//! `aqueduct init`: a commented file to begin with. Not for the demo's state: that is `up`. Called by
//! `main`.
//!
//! Invariant: nothing that is there is overwritten, and every starter passes `check`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

/// Writes a commented starter file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to begin with
    #[arg(value_enum, default_value = "stack")]
    what: Starter,
    /// Where to write it; `-` is standard output
    #[arg(long, short, value_name = "PATH", default_value = "topology.yaml")]
    output: PathBuf,
}

/// What to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Starter {
    /// A balancer for TCP and UDP
    Edge,
    /// A gateway with TLS, tokens, limits and a route
    Gateway,
    /// A pooler for PostgreSQL
    Pool,
    /// All of it, as `aqueduct up` runs it
    Stack,
}

/// Writes the file.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = text(args.what);
    let path = args.output.display();
    if args.output.as_os_str() == "-" {
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut file = match File::create_new(&args.output) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{path} is there already; name another one with --output")
        }
        Err(error) => return Err(error).context(path.to_string()),
    };
    file.write_all(text.as_bytes()).with_context(|| path.to_string())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "wrote {path}; next: aqueduct check {path}")?;
    Ok(ExitCode::SUCCESS)
}

fn text(what: Starter) -> &'static str {
    match what {
        Starter::Edge => include_str!("init/edge.yaml"),
        Starter::Gateway => include_str!("init/gateway.yaml"),
        Starter::Pool => include_str!("init/pool.yaml"),
        Starter::Stack => include_str!("../../stacks/instagram-valorant.yaml"),
    }
}

const EXAMPLES: &str = "\
Examples:
  aqueduct init gateway                writes topology.yaml
  aqueduct init pool -o pool.yaml
  aqueduct init edge -o - | less";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::ValueEnum;

    use super::*;

    /// T4: a starter has neither problems nor warnings.
    #[test]
    fn a_starter_file_is_clean() {
        for what in Starter::value_variants() {
            let parsed = topology::parse("topology.yaml", text(*what), Path::new("/etc/aqueduct"));
            let warnings = parsed.map(|topology| topology.warnings);
            assert_eq!(warnings.expect("no problems"), Vec::new(), "{what:?}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("topology.yaml");
        let args = Args { what: Starter::Pool, output: output.clone() };
        assert!(run(&args).is_ok());
        std::fs::write(&output, "mine").expect("written");
        assert!(run(&args).expect_err("refused").to_string().contains("is there already"));
        assert_eq!(std::fs::read_to_string(&output).expect("read"), "mine");
    }
}
