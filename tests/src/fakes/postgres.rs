//! A real PostgreSQL in a temporary folder: primary and streaming replica, with the demo's tables.
//! Used by the tests.
//!
//! Invariant: role `app` owns database `app` and logs in by SCRAM alone; `postgres` needs no
//! password and is for the tests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::clients::sql;
use crate::program::{Program, run};

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ended at once, before its folder goes.
    pub program: Program,
    _folder: TempDir,
}

/// The password of role `app`.
pub const PASSWORD: &str = "aqua-virgo";

/// Who runs it when the test is root: PostgreSQL refuses to.
const USER: Option<&str> = Some("postgres");

impl Postgres {
    /// A primary with the demo's tables and rows.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not start.
    pub async fn primary(at: SocketAddr) -> Self {
        let folder = owned_folder();
        let data = data(&folder);
        let initdb = format!("-D {data} -U postgres -A trust -E UTF8 --locale=C -N");
        run(program("initdb"), &words(&initdb), USER);
        std::fs::write(folder.path().join("data/pg_hba.conf"), RULES).expect("pg_hba.conf");
        let server = Self::launch(folder, at);
        server.fill().await;
        server
    }

    /// A streaming replica of this primary.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn replica(&self, at: SocketAddr) -> Self {
        let folder = owned_folder();
        let (ip, port, data) = (self.address.ip(), self.address.port(), data(&folder));
        let copy = format!("-D {data} -h {ip} -p {port} -U postgres -R -X stream -c fast -N");
        run(program("pg_basebackup"), &words(&copy), USER);
        Self::launch(folder, at)
    }

    fn launch(folder: TempDir, at: SocketAddr) -> Self {
        let mut args = words(&format!("-D {} -p {}", data(&folder), at.port()));
        let address = format!("listen_addresses={}", at.ip());
        for setting in [address.as_str()].into_iter().chain(SETTINGS) {
            args.extend(["-c".to_owned(), setting.to_owned()]);
        }
        let ready = "ready to accept";
        let program = Program::start(program("postgres"), &args, USER, ready);
        Self { address: at, program: program.ended_by(Signal::SIGQUIT), _folder: folder }
    }

    /// A login of the tests, past every pool.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn superuser(&self, database: &str) -> Client {
        let client = sql::connect(self.address, "postgres", "", database).await;
        client.expect("a login as postgres")
    }

    async fn fill(&self) {
        let admin = self.superuser("postgres").await;
        let role = format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'");
        for statement in [role.as_str(), "CREATE DATABASE app OWNER app"] {
            admin.batch_execute(statement).await.expect("the role and its database");
        }
        let owner = self.superuser("app").await;
        let tables =
            format!("SET ROLE app;\n{}", include_str!("../../../topology/demo/schema.sql"));
        owner.batch_execute(&tables).await.expect("the demo's tables");
    }

    /// What `pg_authid` keeps of the password of `app`: a SCRAM verifier.
    ///
    /// # Panics
    /// When the server is away.
    pub async fn verifier(&self) -> String {
        let admin = self.superuser("postgres").await;
        let row = admin.query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'", &[]);
        row.await.expect("the role's row").get(0)
    }
}

const RULES: &str = "\
host all postgres 127.0.0.0/8 trust
host replication postgres 127.0.0.0/8 trust
host all all 127.0.0.0/8 scram-sha-256
";

const SETTINGS: [&str; 8] = [
    "unix_socket_directories=",
    "fsync=off",
    "shared_buffers=16MB",
    "max_connections=60",
    "wal_level=replica",
    "hot_standby=on",
    "password_encryption=scram-sha-256",
    "logging_collector=off",
];

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn data(folder: &TempDir) -> String {
    folder.path().join("data").display().to_string()
}

/// A folder that the server's user may write.
fn owned_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for PostgreSQL");
    let user = USER.filter(|_| nix::unistd::geteuid().is_root());
    if let Some(user) = user.and_then(|name| nix::unistd::User::from_name(name).ok()?) {
        let (user, group) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        std::os::unix::fs::chown(folder.path(), user, group).expect("a folder given away");
    }
    folder
}

/// A program of PostgreSQL: of `PG_BIN`, else of the newest version that Debian installed.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.sort();
    let folder = std::env::var_os("PG_BIN").map(PathBuf::from).or(found.pop());
    let folder = folder.unwrap_or_else(|| Path::new("/usr/bin").to_owned());
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: apt-get install -y postgresql", path.display());
    path
}
