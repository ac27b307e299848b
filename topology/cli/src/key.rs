//! `aqueduct key`: makes and revokes API keys, wherever a gateway has them written down. Not for using
//! them. Called by `main`.
//!
//! Invariant: a key is printed once, when it is made, and written nowhere: its digest is.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use l7_gateway::stages::authn::api_key::store::Store;
use l7_gateway::stages::authn::api_key::{self, Digest, Entry, Record, file};
use topology::units::Time;

use crate::login::Login;

/// Makes and revokes API keys
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Makes a key and prints it, this once
    New(New),
    /// Ends a key, read from standard input
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct New {
    /// Whose it is
    #[arg(long, value_name = "NAME")]
    consumer: String,
    /// What the consumer pays for
    #[arg(long, value_name = "NAME")]
    plan: Option<String>,
    /// What it may do; several with a space in between
    #[arg(long, value_name = "SCOPES", default_value = "")]
    scope: String,
    /// How long it is valid, `90d` [default: until it is revoked]
    #[arg(long, value_name = "TIME")]
    lifetime: Option<Time>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// Its SHA-256 digest, where the key itself is not at hand
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    #[command(flatten)]
    at: At,
}

/// As `from` of `api-keys` in the topology file says.
#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    login: Login,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A file of keys
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// `redis://HOST:PORT[/DB]`, or `rediss://` over TLS; its password is in `REDISCLI_AUTH`
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// `postgres://USER@HOST:PORT/DATABASE`; its password is in `PGPASSWORD`
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

/// Does it.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::New(args) => {
            let (key, record) = new(&args)?;
            write(&args.at, &Digest::of(key.as_bytes()), &record).await?;
            writeln!(std::io::stdout().lock(), "{key}")?;
        }
        What::Revoke(args) => {
            let digest = match &args.sha256 {
                Some(text) => text.parse()?,
                None => {
                    let mut line = String::new();
                    std::io::stdin().lock().read_line(&mut line)?;
                    Digest::of(line.trim().as_bytes())
                }
            };
            if !remove(&args.at, &digest).await? {
                bail!("no key with the digest {digest} is there");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn new(args: &New) -> anyhow::Result<(String, Record)> {
    let expires = args.lifetime.map(|Time(lifetime)| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (now + lifetime).as_secs()
    });
    let record = Record {
        consumer: args.consumer.clone(),
        plan: args.plan.clone(),
        scopes: args.scope.split_whitespace().map(str::to_owned).collect(),
        expires,
    };
    Entry::new(&record)?;
    Ok((api_key::make()?, record))
}

async fn write(at: &At, digest: &Digest, record: &Record) -> anyhow::Result<()> {
    match &at.source.file {
        Some(path) => file::append(path, digest, record)?,
        None => store(at)?.put(digest, record).await.context("the key was not written")?,
    }
    Ok(())
}

async fn remove(at: &At, digest: &Digest) -> anyhow::Result<bool> {
    Ok(match &at.source.file {
        Some(path) => file::remove(path, digest)?,
        None => store(at)?.remove(digest).await.context("the key was not revoked")?,
    })
}

fn store(at: &At) -> anyhow::Result<Store> {
    match (&at.source.redis, &at.source.postgres) {
        (Some(address), _) => Ok(Store::redis(address, &at.login.redis())?),
        (_, Some(address)) => {
            let (login, tls) = at.login.postgres();
            Ok(Store::postgres(address, &login, tls)?)
        }
        // Clap asks for one of them.
        _ => bail!("name a file, a Redis or a PostgreSQL"),
    }
}

const EXAMPLES: &str = "\
Examples:
  aqueduct key new --consumer acme --plan gold --file keys.ndjson
  aqueduct key new --consumer acme --scope orders:read --lifetime 90d --redis redis://127.0.0.1:6379
  aqueduct key revoke --file keys.ndjson < key.txt
  aqueduct key revoke --sha256 ba78… --postgres postgres://gw@127.0.0.1:6432/app";

#[cfg(test)]
mod tests {
    use super::*;

    /// G7: a key that was made is in the file as its digest alone, and gone once it is revoked.
    #[tokio::test]
    async fn keys_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.ndjson");
        let source = || Source { file: Some(path.clone()), redis: None, postgres: None };
        let at = || At { source: source(), login: Login::default() };
        let args = New {
            consumer: "acme".into(),
            plan: Some("gold".into()),
            scope: "read  write".into(),
            lifetime: Some(Time(Duration::from_secs(60))),
            at: at(),
        };
        let (key, record) = new(&args).unwrap();
        let digest = Digest::of(key.as_bytes());
        write(&args.at, &digest, &record).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key) && text.contains(&digest.to_string()), "{text}");
        let read = file::read(&path).unwrap();
        assert_eq!(read[&digest].scopes.len(), 2);
        assert_eq!(read[&digest].plan.as_deref(), Some("gold"));
        assert!(remove(&at(), &digest).await.unwrap() && !remove(&at(), &digest).await.unwrap());
        assert!(new(&New { consumer: "a b".into(), ..args }).is_err());
    }
}
