//! `aqueduct graph`: draws who connects to whom, as text for other tools (Mermaid, Graphviz) or as a
//! picture (SVG), and what a change of the file adds and removes. Reads the file alone and starts
//! nothing; what runs is `up`'s view. Called by `main`.
//!
//! Invariant: the same file gives the same bytes, so that pictures can be kept under version control.

mod diff;
mod dot;
mod layout;
mod mermaid;
pub(crate) mod svg;
mod values;
pub(crate) mod wiring;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use topology::Topology;

use self::wiring::Wiring;
use crate::file::load;

/// Draws the wiring of a topology file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topology file, or the name of a ready stack
    file: PathBuf,
    /// What to write [default: by the name of --output, else mermaid]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where to write it [default: standard output]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Marks what FILE adds to this older file, and what it removes
    #[arg(long, value_name = "OLD")]
    diff: Option<PathBuf>,
}

/// How the wiring is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text that wikis and code hosts draw
    Mermaid,
    /// Text for Graphviz
    Dot,
    /// A picture that needs nothing else
    Svg,
}

/// Prints the picture.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(new) = load(&args.file)? else { return Ok(ExitCode::from(2)) };
    let mut wiring = Wiring::whole(&new);
    if let Some(old) = &args.diff {
        let Some(old) = load(old)? else { return Ok(ExitCode::from(2)) };
        wiring = diff::marked(Wiring::whole(&old), wiring);
    }
    let wiring = wiring.cut();
    let format = args.format.unwrap_or_else(|| meant(args.output.as_deref()));
    let text = match format {
        Format::Mermaid => mermaid::text(&wiring),
        Format::Dot => dot::text(&wiring),
        Format::Svg => svg::text(&wiring),
    };
    match &args.output {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("{}", path.display()))?;
        }
        None => std::io::stdout().lock().write_all(text.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What a change of the file adds and removes, one line each, and the values that it changes.
pub(crate) fn words(old: &Topology, new: &Topology) -> Vec<String> {
    let mut words = diff::words(&diff::marked(Wiring::whole(old), Wiring::whole(new)));
    words.extend(values::words(&old.source, &new.source));
    words
}

/// The format that a file's name promises.
fn meant(output: Option<&Path>) -> Format {
    match output.and_then(Path::extension).and_then(|end| end.to_str()) {
        Some("svg") => Format::Svg,
        Some("dot" | "gv") => Format::Dot,
        _ => Format::Mermaid,
    }
}

const EXAMPLES: &str = "\
Examples:
  aqueduct graph stack.yaml                        Mermaid, to paste into a page
  aqueduct graph stack.yaml -o stack.svg           a picture
  aqueduct graph --format dot stack.yaml | dot -Tpng -o stack.png
  git show HEAD:stack.yaml > old.yaml && aqueduct graph stack.yaml --diff old.yaml -o change.svg

Exit code: 0 drawn, 2 the file has problems, 1 it could not run.";
