//! A pgpool in this process in front of a PostgreSQL. Not for the worker alone, which `fake` drives
//! in memory. Used by the tests.
//!
//! Invariant: it listens on a port that the system chose and ends with its value.

use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::lifecycle::Lifecycle;
use pgpool::upgrade::taking;
use pgpool::{Before, Options, Past, Running};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

use crate::postgres::{PASSWORD, Postgres, ROOT_PASSWORD};

/// A running pooler.
pub(crate) struct Pooler {
    /// Where clients connect.
    pub(crate) port: u16,
    /// Its phases.
    pub(crate) lifecycle: Lifecycle,
    /// For its end.
    pub(crate) running: Option<Running>,
    folder: Arc<TempDir>,
}

/// What a test changes about the pooler.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// `mode:` of the database.
    pub(crate) mode: &'a str,
    /// `pool-size:` of it.
    pub(crate) size: u32,
    /// Lines of `settings:`, `name: value` joined by commas.
    pub(crate) settings: &'a str,
    /// More keys of the database.
    pub(crate) more: &'a str,
    /// More lines of the group.
    pub(crate) group: &'a str,
    /// PEM of a certificate and its key.
    pub(crate) tls: Option<(String, String)>,
    /// Where it keeps what must be known after a restart.
    pub(crate) state: Option<&'a Path>,
}

impl Pooler {
    /// In front of `shop` with users of every kind: `app` (verifier), `other` (password), `legacy`
    /// (md5), `open` (trust), `root` (console).
    pub(crate) async fn start(server: &Postgres, setup: Setup<'_>) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("folder"));
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        write("app", &server.verifier("app").await);
        write("legacy", &server.verifier("legacy").await);
        write("other", PASSWORD);
        write("root", ROOT_PASSWORD);
        let mode = if setup.mode.is_empty() { "transaction" } else { setup.mode };
        let size = setup.size.max(1);
        let tls = match &setup.tls {
            Some((chain, key)) => {
                write("chain.pem", chain);
                write("key.pem", key);
                "\n    tls: { certificates: [{ chain: file:chain.pem, key: file:key.pem }] }"
            }
            None => "",
        };
        let file = folder.path().join("stack.yaml");
        let text = format!(
            "aqueduct: 1
pools:
  data:
    instances: {{ pool-1: {{ listen: 127.0.0.1:0, admin: 127.0.0.1:0 }} }}
    databases:
      shop: {{ primary: 127.0.0.1:{port}, mode: {mode}, pool-size: {size}{more} }}
      nowhere: {{ primary: 127.0.0.1:1 }}
    users:
      app: {{ secret: file:app }}
      other: {{ secret: file:other }}
      legacy: {{ secret: file:legacy }}
      open: {{}}
      root: {{ secret: file:root, console: admin }}
    settings: {{ {settings} }}{tls}{group}
",
            port = server.port,
            more = setup.more,
            group = setup.group,
            settings = setup.settings,
        );
        std::fs::write(&file, text).expect("written");
        let topology = topology::load(&file).unwrap_or_else(|fault| panic!("{fault}"));
        let mut options = Options::new("pool-1");
        options.workers = NonZeroUsize::new(2);
        let lifecycle = options.lifecycle.clone();
        let past = Past {
            before: Before::Nobody,
            state: setup.state.map(Path::to_owned),
            passed: Vec::new(),
        };
        let running = pgpool::start_after(Arc::new(topology), "pool-1", options, past).await;
        let running = running.unwrap_or_else(|fault| panic!("{fault}"));
        let port = running.listeners[0].1.port();
        Self { port, lifecycle, running: Some(running), folder }
    }

    /// Ends it and waits until it has.
    pub(crate) async fn end(mut self) {
        self.lifecycle.stop();
        let running = self.running.take().expect("it runs");
        running.finished().await.expect("no panic");
    }

    /// Hands over to another instance, by the file as it is now; this one drains.
    pub(crate) async fn hand_over(&self) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let running = self.running.as_ref().expect("it runs");
        running.handle().yield_to(ours, std::process::id());
        let estate = tokio::task::spawn_blocking(move || taking::from(theirs));
        let before = Before::Estate(estate.await.expect("no panic").expect("offered"));
        let file = self.folder.path().join("stack.yaml");
        let topology = topology::load(&file).unwrap_or_else(|fault| panic!("{fault}"));
        let mut options = Options::new("pool-1");
        options.workers = NonZeroUsize::new(3);
        let lifecycle = options.lifecycle.clone();
        let running = pgpool::start_after(Arc::new(topology), "pool-1", options, before).await;
        let running = running.unwrap_or_else(|fault| panic!("{fault}"));
        let port = running.listeners[0].1.port();
        Self { port, lifecycle, running: Some(running), folder: Arc::clone(&self.folder) }
    }

    /// Its file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("stack.yaml")
    }

    /// Changes its file; nobody reads it yet.
    pub(crate) fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder.path().join("stack.yaml");
        let text = std::fs::read_to_string(&file).expect("the file");
        // A reload must never see half of it.
        let next = self.folder.path().join("next.yaml");
        std::fs::write(&next, change(text)).expect("written");
        std::fs::rename(next, file).expect("renamed");
    }

    /// Goes by its changed file.
    pub(crate) async fn reload(&self) -> Result<(), String> {
        self.running.as_ref().expect("it runs").handle().reload().await
    }

    /// How to reach it.
    pub(crate) fn config(&self, user: &str, password: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname(database);
        config
    }

    /// A client of `shop`.
    pub(crate) async fn client(&self, user: &str) -> Client {
        let config = self.config(user, PASSWORD, "shop");
        connect(&config).await.unwrap_or_else(|fault| panic!("{user}: {fault:?}"))
    }

    /// A client of the admin database.
    pub(crate) async fn console(&self) -> Client {
        let config = self.config("root", ROOT_PASSWORD, "pgbouncer");
        connect(&config).await.unwrap_or_else(|fault| panic!("{fault:?}"))
    }
}

/// Writes an authority, `ca.pem`, and what it has signed: a server's `chain.pem` and `key.pem`, and
/// `app.pem` with `app.key`, which names `app`.
pub(crate) fn certificates(folder: &Path) -> [&'static str; 5] {
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("written");
    };
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    write("ca.pem", &authority.pem());
    for (name, file) in [("localhost", ["chain.pem", "key.pem"]), ("app", ["app.pem", "app.key"])] {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, name);
        let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
        write(file[0], &leaf.pem());
        write(file[1], &key.serialize_pem());
    }
    // psql wants its key for itself.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(folder.join("app.key"), private).expect("private");
    ["ca.pem", "chain.pem", "key.pem", "app.pem", "app.key"]
}

/// Connects and lets the connection run.
pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The SQLSTATE of an error, or its text.
pub(crate) fn code(fault: &tokio_postgres::Error) -> String {
    fault.code().map_or_else(|| format!("{fault:?}"), |code| code.code().to_owned())
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.lifecycle.stop();
    }
}
