//! `aqueduct watch`: the running instances of a file on a live page, wherever they run. Starts none of
//! them; `up` does, and shows the same page. Called by `main`.
//!
//! Invariant: what is asked of instances once a second is read, never changed, unless an operator with
//! the page's token wishes it.

pub(crate) mod answer;
pub(crate) mod history;
pub(crate) mod look;
mod meters;
pub(crate) mod page;
pub(crate) mod roster;
pub(crate) mod watcher;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use common::secret::Secret;
use topology::units::SecretRef;

use self::page::Page;
use self::roster::Roster;
use self::watcher::Watcher;
use crate::file;

/// Shows the running instances of a topology file on a live page
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The topology file, or the name of a ready stack
    file: PathBuf,
    /// Where the page is served; off loopback it needs --page-token [default: 127.0.0.1:9180, or
    /// another port where that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// What admin listeners ask for: file:PATH or env:NAME [default: the file's `admin-token`]
    #[arg(long, value_name = "SECRET")]
    token: Option<String>,
    /// What the page asks for before it drains or enables: file:PATH or env:NAME [default: made anew
    /// and printed]
    #[arg(long, value_name = "SECRET")]
    page_token: Option<String>,
    /// Prints one look as JSON and ends
    #[arg(long)]
    once: bool,
}

/// Serves the page until the process is ended.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(topology) = file::load(&args.file)? else { return Ok(ExitCode::from(2)) };
    let token = args.token.as_deref().map(secret).transpose()?;
    let page_token = args.page_token.as_deref().map(secret).transpose()?;
    let page_token = page_token.as_ref().map(words).transpose()?;
    if page_token.is_none() && args.listen.is_some_and(|at| !at.ip().is_loopback()) {
        bail!("others reach that address: say what the page asks them for, --page-token env:NAME");
    }
    let roster = Roster::of(&topology, token)?;
    if roster.instances.iter().all(|one| one.admin.is_none()) {
        bail!("{}: no instance has an admin address (`admin:`) to ask", args.file.display());
    }
    let name = args.file.file_stem().map_or("stack".into(), |stem| stem.to_string_lossy());
    let watcher = Watcher::start(&name, &topology, roster);
    let mut looks = watcher.looks();
    if args.once {
        // Rates need two looks.
        for _ in 0..2 {
            looks.changed().await?;
        }
        writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(&*watcher.look())?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let at = args.listen.unwrap_or(page::USUAL);
    let (_, seen) = tokio::sync::watch::channel(watcher.clone());
    let page = Page::open(seen, args.listen, page_token);
    let page = page.await.with_context(|| format!("cannot serve the page at {at}"))?;
    looks.changed().await?;
    let (ready, rest) = watcher.look().ready();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {ready} of {} instances ready", args.file.display(), ready + rest)?;
    writeln!(out, "# the live page, to read\n{}", page.address())?;
    writeln!(out, "# the same, to drain and enable endpoints\n{}", page.key())?;
    drop(out);
    tokio::signal::ctrl_c().await?;
    Ok(ExitCode::SUCCESS)
}

fn secret(text: &str) -> anyhow::Result<Secret> {
    let reference = match text.split_once(':') {
        Some(("file", path)) => SecretRef::File(path.into()),
        Some(("env", name)) => SecretRef::Env(name.to_owned()),
        _ => bail!("write file:PATH or env:NAME, not the secret itself"),
    };
    Ok(common::secret::read(&reference)?)
}

/// The same as text, which a header and an address may hold.
fn words(secret: &Secret) -> anyhow::Result<String> {
    let text = secret.as_str()?.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) {
        bail!("--page-token: letters, digits and -._~ only, at least one");
    }
    Ok(text.to_owned())
}

const EXAMPLES: &str = "\
Examples:
  aqueduct watch stack.yaml                             http://127.0.0.1:9180/
  aqueduct watch stack.yaml --token env:ADMIN_TOKEN     instances elsewhere that ask for a token
  aqueduct watch stack.yaml --listen 0.0.0.0:9180 --page-token file:page.token
  aqueduct watch stack.yaml --once | jq '.instances[] | {name, state, rate}'

`up` serves the same page. The page reads; with the token of the second address that is printed it also
drains and enables endpoints. Exit code: 0 ended by you, 1 could not start, 2 the file has problems.";
