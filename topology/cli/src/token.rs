//! `aqueduct token`: a token signed with the keys of a stack's demo issuer, for pasting into curl.
//! Not an issuer: the keys are those that `demo issuer` made. Called by `main`.
//!
//! Invariant: prints the token alone, so that `$(aqueduct token …)` works.

pub(crate) mod signer;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::signer::{Grant, Signer};
use crate::up::folder::Folder;
use crate::up::source::BUILT_IN_NAME;

/// Signs a token with the keys of a stack that `up` started
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The user's number: claim `userId`
    #[arg(long, value_name = "NUMBER", default_value_t = 98765)]
    user: i64,
    /// Scopes, separated by spaces
    #[arg(long, value_name = "SCOPES", default_value = "user:read")]
    scope: String,
    /// A token that ended an hour ago
    #[arg(long)]
    expired: bool,
    /// How long it is valid, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    lifetime: u32,
    #[command(flatten)]
    grant: Grant,
    /// Leave the key's name out of the header
    #[arg(long)]
    no_kid: bool,
    /// The folder of the stack [default: that of the built-in stack]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Prints the token.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = Folder::named(args.state.as_deref(), BUILT_IN_NAME)?;
    let signer = Signer::open(&folder.path("keys"), &args.grant)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = sign(args, signer, now)?;
    writeln!(std::io::stdout().lock(), "{token}")?;
    Ok(ExitCode::SUCCESS)
}

fn sign(args: &Args, signer: Signer, now: Duration) -> anyhow::Result<String> {
    let signer = if args.no_kid { signer.without_kid() } else { signer };
    let lifetime = Duration::from_secs(args.lifetime.into());
    let hour = Duration::from_secs(3600);
    let issued = if args.expired { now.saturating_sub(lifetime + hour) } else { now };
    signer.sign(&args.user.to_string(), &args.scope, issued, lifetime)
}

const EXAMPLES: &str = "\
Examples:
  aqueduct token --user 98765 --scope user:read
  aqueduct token --scope 'user:read pay' --alg RS256 --no-kid
  curl -H \"Authorization: Bearer $(aqueduct token --expired)\" …";

#[cfg(test)]
#[path = "token/tests.rs"]
mod tests;
