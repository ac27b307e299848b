//! `aqueduct init`: a commented file to begin with. Not for the demo's state: that is `up`. Called by
//! `main`.
//!
//! Invariant: nothing that is there is overwritten, and every starter passes `check`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::stacks::{self, ALL};

/// Writes a commented starter file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// edge, gateway, pool, stack, or the name of a ready stack (`aqueduct up --list`)
    #[arg(default_value = "stack")]
    what: String,
    /// Where to write it; `-` is standard output
    #[arg(long, short, value_name = "PATH", default_value = "topology.yaml")]
    output: PathBuf,
}

/// Writes the file.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(text) = text(&args.what) else {
        let (what, ready) = (&args.what, stacks::list());
        bail!(
            "{what} is none of edge, gateway, pool, stack, nor of the ready stacks:\n{}",
            ready.trim_end()
        );
    };
    let path = args.output.display();
    if args.output.as_os_str() == "-" {
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    new(&args.output, text)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "wrote {path}; next: aqueduct check {path}")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is not there yet.
fn new(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut file = match File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{shown} is there already; name another one with --output")
        }
        Err(error) => return Err(error).context(shown.to_string()),
    };
    file.write_all(text.as_bytes()).with_context(|| shown.to_string())
}

fn text(what: &str) -> Option<&'static str> {
    Some(match what {
        "edge" => include_str!("init/edge.yaml"),
        "gateway" => include_str!("init/gateway.yaml"),
        "pool" => include_str!("init/pool.yaml"),
        "stack" => include_str!("../../stacks/instagram-valorant.yaml"),
        name => ALL.iter().find(|stack| stack.name == name)?.text,
    })
}

const EXAMPLES: &str = "\
Examples:
  aqueduct init gateway                writes topology.yaml
  aqueduct init pool -o pool.yaml
  aqueduct init canary -o canary.yaml  a ready stack, to change it
  aqueduct init edge -o - | less";

#[cfg(test)]
mod tests {
    use super::*;

    /// T4: a starter has neither problems nor warnings.
    #[test]
    fn a_starter_file_is_clean() {
        for what in ["edge", "gateway", "pool", "stack"] {
            let text = text(what).expect("a starter");
            let parsed = topology::parse("topology.yaml", text, Path::new("/etc/aqueduct"));
            let warnings = parsed.map(|topology| topology.warnings);
            assert_eq!(warnings.expect("no problems"), Vec::new(), "{what}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("topology.yaml");
        let args = Args { what: "pool".to_owned(), output: output.clone() };
        assert!(run(&args).is_ok());
        std::fs::write(&output, "mine").expect("written");
        assert!(run(&args).expect_err("refused").to_string().contains("is there already"));
        assert_eq!(std::fs::read_to_string(&output).expect("read"), "mine");
    }
}
