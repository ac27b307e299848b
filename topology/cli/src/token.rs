//! `aqueduct token`: a token signed with the keys of a stack's demo issuer, for pasting into curl.
//! Not an issuer: the keys are those that `demo issuer` made. Called by `main`.
//!
//! Invariant: prints the token alone, so that `$(aqueduct token …)` works.

pub(crate) mod signer;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

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
    /// A further claim, a number where it is one; may be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    /// The stack whose keys sign
    #[arg(long, value_name = "NAME", default_value = BUILT_IN_NAME)]
    stack: String,
    /// The folder of the stack [default: where `up` keeps one of that name]
    #[arg(long, value_name = "DIR", conflicts_with = "stack")]
    state: Option<PathBuf>,
}

/// Prints the token.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = Folder::named(args.state.as_deref(), &args.stack)?;
    let signer =
        Signer::open(&folder.keys(&args.grant.issuer), &args.grant)?.claiming(&args.claims);
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

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let number = value.parse::<i64>().map(Value::from);
    Ok((name.to_owned(), number.unwrap_or_else(|_| value.into())))
}

const EXAMPLES: &str = "\
Examples:
  aqueduct token --user 98765 --scope user:read
  aqueduct token --scope 'user:read pay' --alg RS256 --no-kid
  aqueduct token --stack netflix --claim device=tv-1
  curl -H \"Authorization: Bearer $(aqueduct token --expired)\" …";

#[cfg(test)]
#[path = "token/tests.rs"]
mod tests;
