//! `aqueduct token`: a token signed with the keys of a stack's demo issuer, for pasting into curl.
//! Not an issuer: the keys are those that `demo issuer` made. Called by `main`.
//!
//! Invariant: prints the token alone, so that `$(aqueduct token …)` works.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

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
    /// Claim `iss`
    #[arg(long, value_name = "URL", default_value = "https://id.example")]
    issuer: String,
    /// Claim `aud`
    #[arg(long, value_name = "NAME", default_value = "api")]
    audience: String,
    /// Which key signs
    #[arg(long, value_enum, ignore_case = true, default_value_t = Alg::Es256)]
    alg: Alg,
    /// Leave the key's name out of the header
    #[arg(long)]
    no_kid: bool,
    /// The folder of the stack [default: that of the built-in stack]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// The issuer's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Alg {
    /// ECDSA on P-256
    #[value(name = "ES256")]
    Es256,
    /// RSA, PKCS#1 v1.5
    #[value(name = "RS256")]
    Rs256,
}

/// Prints the token.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = Folder::named(args.state.as_deref(), BUILT_IN_NAME)?;
    let (file, kid) = match args.alg {
        Alg::Es256 => ("keys/es256.pem", "es256-1"),
        Alg::Rs256 => ("keys/rs256.pem", "rs256-1"),
    };
    let path = folder.path(file);
    let pem = std::fs::read(&path).with_context(|| {
        format!(
            "no key at {}: start `aqueduct up` once, or name the folder of your stack with --state",
            path.display()
        )
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = sign(args, &pem, kid, now).with_context(|| path.display().to_string())?;
    writeln!(std::io::stdout().lock(), "{token}")?;
    Ok(ExitCode::SUCCESS)
}

fn sign(args: &Args, pem: &[u8], kid: &str, now: Duration) -> anyhow::Result<String> {
    let (algorithm, key) = match args.alg {
        Alg::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(pem)?),
        Alg::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)?),
    };
    let mut header = Header::new(algorithm);
    header.kid = (!args.no_kid).then(|| kid.to_owned());
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| anyhow!("the system has no random numbers"))?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(encode(&header, &claims(args, &id, now), &key)?)
}

fn claims(args: &Args, id: &str, now: Duration) -> Value {
    let lifetime = Duration::from_secs(args.lifetime.into());
    let hour = Duration::from_secs(3600);
    let issued = if args.expired { now.saturating_sub(lifetime + hour) } else { now };
    json!({
        "iss": args.issuer,
        "aud": args.audience,
        "iat": issued.as_secs(),
        "nbf": issued.as_secs(),
        "exp": (issued + lifetime).as_secs(),
        "jti": id,
        "sub": args.user.to_string(),
        "userId": args.user,
        "scope": args.scope,
    })
}

const EXAMPLES: &str = "\
Examples:
  aqueduct token --user 98765 --scope user:read
  aqueduct token --scope 'user:read pay' --alg RS256 --no-kid
  curl -H \"Authorization: Bearer $(aqueduct token --expired)\" …";

#[cfg(test)]
#[path = "token/tests.rs"]
mod tests;
