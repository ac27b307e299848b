//! `aqueduct revoke`: ends tokens and API keys before their time, on every gateway that has the
//! `denylist` of this Redis. Called by `main`.
//!
//! Invariant: a token or key that is read is not printed.

use std::io::BufRead as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use l7_gateway::redis_server::RedisServer;
use l7_gateway::stages::authn::api_key::Digest;
use l7_gateway::stages::authn::denylist::{Entry, revoke};
use topology::units::Time;

use crate::login::Login;

/// Ends tokens and API keys before their time
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// As `redis` of `denylist` in the topology file says
    #[arg(long, value_name = "URL")]
    redis: String,
    #[command(flatten)]
    login: Login,
    /// The `iss` claim of the tokens
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["key", "key_sha256"])]
    iss: Option<String>,
    #[command(flatten)]
    what: What,
    /// Ends what was issued before this time, in seconds since the epoch [default: now]
    #[arg(long, value_name = "SECONDS")]
    before: Option<u64>,
    /// How long it is remembered: as long as such tokens live
    #[arg(long, value_name = "TIME", default_value = "30d")]
    remember: Time,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One token, by its `jti`
    #[arg(long, value_name = "TEXT")]
    jti: Option<String>,
    /// A user's tokens
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// All tokens of the issuer
    #[arg(long)]
    all: bool,
    /// An API key, read from standard input
    #[arg(long)]
    key: bool,
    /// An API key, by its SHA-256 digest
    #[arg(long, value_name = "HEX")]
    key_sha256: Option<String>,
}

/// Does it.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let entry = entry(&args)?;
    let Time(remember) = args.remember;
    let server = RedisServer::new(&args.redis, &args.login.redis())?;
    revoke(&server, &entry, remember).await.context("nothing was revoked")?;
    Ok(ExitCode::SUCCESS)
}

fn entry(args: &Args) -> anyhow::Result<Entry> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let before = args.before.unwrap_or(now);
    let iss = args.iss.clone();
    Ok(match (&args.what, iss) {
        (What { key: true, .. }, _) => {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            Entry::Key { sha256: Digest::of(line.trim().as_bytes()).to_string() }
        }
        (What { key_sha256: Some(text), .. }, _) => {
            let digest: Digest = text.parse()?;
            Entry::Key { sha256: digest.to_string() }
        }
        (What { jti: Some(jti), .. }, Some(iss)) => Entry::Token { iss, jti: jti.clone() },
        (What { user: Some(user), .. }, Some(iss)) => {
            Entry::User { iss, user: user.clone(), before }
        }
        (What { all: true, .. }, Some(iss)) => Entry::Issuer { iss, before },
        // Clap asks for both.
        _ => bail!("say what to revoke"),
    })
}

const EXAMPLES: &str = "\
Examples:
  aqueduct revoke --redis redis://127.0.0.1:6379 --iss https://id.example --jti 8c1f
  aqueduct revoke --redis redis://127.0.0.1:6379 --iss https://id.example --user 98765
  aqueduct revoke --redis redis://127.0.0.1:6379 --key < key.txt";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// G8: what may be said, and what must be.
    #[test]
    fn what_is_revoked() {
        let read = |words: &str| {
            let words = format!("revoke --redis redis://127.0.0.1:1 {words}");
            let line = Line::try_parse_from(words.split(' '))?;
            Ok::<_, clap::Error>(entry(&line.args).expect("an entry"))
        };
        let iss = || "https://id".to_owned();
        let token = Entry::Token { iss: iss(), jti: "a".into() };
        assert_eq!(read("--iss https://id --jti a").unwrap(), token);
        let user = Entry::User { iss: iss(), user: "7".into(), before: 5 };
        assert_eq!(read("--iss https://id --user 7 --before 5").unwrap(), user);
        let all = Entry::Issuer { iss: iss(), before: 5 };
        assert_eq!(read("--iss https://id --all --before 5").unwrap(), all);
        let digest = "0f".repeat(32);
        let key = Entry::Key { sha256: digest.clone() };
        assert_eq!(read(&format!("--key-sha256 {digest}")).unwrap(), key);
        for bad in ["--jti a", "--iss https://id", "--iss https://id --jti a --user 7"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
