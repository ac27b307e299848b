//! `aqueduct openapi`: what clients can call through a gateway, as an OpenAPI 3.1 description. Called by `main`.
//!
//! Invariant: it says nothing that the topology file does not.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use l7_gateway::transcode::Interface;
use topology::gateway::Route;
use topology::openapi::{self, Surface};

use crate::file;

/// Writes a gateway's routes as an OpenAPI 3.1 description
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topology file, or the name of a ready stack
    file: PathBuf,
    /// The gateway group [default: the only one]
    #[arg(long)]
    group: Option<String>,
}

/// What the descriptions of a route that transcodes or validates offer, where they can be read here.
fn surface(route: &Route) -> Option<Surface> {
    if let Some(model) = &route.transcode {
        return Some(Interface::new(model).ok()?.surface());
    }
    let contract = route.contract.as_ref()?;
    let text = std::fs::read_to_string(&contract.file).ok()?;
    Surface::described(&text, contract.prefix.as_deref()).ok()
}

const EXAMPLES: &str = "Example:\n  aqueduct openapi stack.yaml --group app > app.json";

/// Prints the description.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(topology) = file::load(&args.file)? else { return Ok(ExitCode::from(2)) };
    let names = || topology.gateways.iter().map(|group| group.name.as_str()).collect::<Vec<_>>();
    let group = match (&args.group, topology.gateways.as_slice()) {
        (Some(name), all) => all.iter().find(|group| group.name.as_str() == name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let group = group.with_context(|| format!("name one with --group: {}", names().join(", ")))?;
    writeln!(std::io::stdout().lock(), "{:#}", openapi::export(group, &surface))?;
    let mut notes = std::io::stderr().lock();
    for note in openapi::omitted(group) {
        writeln!(notes, "{note}")?;
    }
    Ok(ExitCode::SUCCESS)
}
