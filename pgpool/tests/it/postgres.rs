//! A real PostgreSQL in a temporary folder: initdb, start, stop. Not for more than one server per
//! value. Used by every test that needs true answers.
//!
//! Invariant: it ends with the value, whatever happened in the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// The superuser's password.
pub(crate) const ROOT_PASSWORD: &str = "root's";
/// The password of `app`, `other` and `legacy`.
pub(crate) const PASSWORD: &str = "correct horse";

/// A running server.
pub(crate) struct Postgres {
    folder: TempDir,
    bin: PathBuf,
    /// Its TCP port on 127.0.0.0/8.
    pub(crate) port: u16,
}

impl Postgres {
    /// A server with the roles `app`, `other` (SCRAM), `legacy` (md5) and `open` (trust), and a
    /// database `shop`.
    pub(crate) async fn start() -> Self {
        let bin = find_bin();
        let folder = folder();
        let port = free_port();
        let server = Self { folder, bin, port };
        server.init();
        server.seed().await;
        server
    }

    fn init(&self) {
        let data = self.data();
        let password = self.folder.path().join("password");
        std::fs::write(&password, ROOT_PASSWORD).expect("written");
        give_away(&password);
        let path = |p: &Path| p.to_str().expect("UTF-8").to_owned();
        self.run(
            "initdb",
            &[
                "-D",
                &path(&data),
                "-U",
                "root",
                "--no-sync",
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--locale=C",
                "--pwfile",
                &path(&password),
            ],
        );
        let hba = "local all open trust\nlocal all all scram-sha-256\nhost all +legacy all md5\nhost replication root all scram-sha-256\nhost replication open all trust\nhost all open all trust\nhost all all all scram-sha-256\n";
        std::fs::write(data.join("pg_hba.conf"), hba).expect("written");
        give_away(&data.join("pg_hba.conf"));
        self.launch("");
    }

    /// Starts what is in the folder, with more options.
    pub(crate) fn launch(&self, more: &str) {
        let path = |p: &Path| p.to_str().expect("UTF-8").to_owned();
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1,127.0.0.2 -c unix_socket_directories={} \
             -c fsync=off -c max_connections=60 {more}",
            self.port,
            path(self.folder.path())
        );
        let log = path(&self.folder.path().join("log"));
        let data = path(&self.data());
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-o", &options, "start"]);
    }

    /// A streaming replica of it.
    pub(crate) fn replica(&self) -> Self {
        let (folder, port) = (folder(), free_port());
        let replica = Self { folder, bin: self.bin.clone(), port };
        let source = format!(
            "host=127.0.0.1 port={} user=root password='{}'",
            self.port,
            ROOT_PASSWORD.replace('\'', "\\'")
        );
        let data = replica.data();
        let data = data.to_str().expect("UTF-8");
        let arguments =
            ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D", data, "-d", &source];
        replica.run("pg_basebackup", &arguments);
        replica.launch("");
        replica
    }

    /// Turns TLS on, with a certificate and authorities for clients', and lets in whom `hba` says.
    pub(crate) async fn encrypt(&self, chain: &str, key: &str, ca: &str, hba: &str) {
        use std::os::unix::fs::PermissionsExt;
        for (name, text) in
            [("server.crt", chain), ("server.key", key), ("ca.crt", ca), ("pg_hba.conf", hba)]
        {
            let path = self.data().join(name);
            std::fs::write(&path, text).expect("written");
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("private");
            give_away(&path);
        }
        let root = self.root().await;
        for sql in [
            "alter system set ssl_ca_file = 'ca.crt'",
            "alter system set ssl = on",
            "select pg_reload_conf()",
        ] {
            root.batch_execute(sql).await.expect("settings");
        }
        // The postmaster reads its files in its own time.
        loop {
            let root = self.root().await;
            let ssl: String = root.query_one("show ssl", &[]).await.expect("row").get(0);
            if ssl == "on" {
                return;
            }
        }
    }

    /// Makes a replica the primary.
    pub(crate) fn promote(&self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", data.to_str().expect("UTF-8"), "-w", "promote"]);
    }

    /// Ends it and all its children with SIGKILL, at once.
    pub(crate) fn kill(&self) {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("it runs");
        let pid = file.lines().next().expect("its process").to_owned();
        let signal = |name: &str, pids: &[String]| {
            let status = Command::new("kill").arg(name).args(pids).status();
            assert!(status.expect("kill runs").success(), "{name} {pids:?}");
        };
        signal("-STOP", std::slice::from_ref(&pid));
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let mut all = vec![pid];
        all.extend(children.split_whitespace().map(str::to_owned));
        let _ = Command::new("kill").arg("-KILL").args(&all).status();
        // Nobody may wait for the process: its number seems to be in use.
        let lock = self.folder.path().join(format!(".s.PGSQL.{}.lock", self.port));
        for file in [self.data().join("postmaster.pid"), lock] {
            std::fs::remove_file(file).expect("removed");
        }
    }

    async fn seed(&self) {
        let root = self.connect("root", ROOT_PASSWORD, "postgres").await;
        let roles = format!(
            "create role app login password '{PASSWORD}'; create role other login password '{PASSWORD}';
             create role open login; set password_encryption = md5;
             create role legacy login password '{PASSWORD}'"
        );
        root.batch_execute(&roles).await.expect("roles");
        root.batch_execute("create database shop").await.expect("database");
        let shop = self.connect("root", ROOT_PASSWORD, "shop").await;
        shop.batch_execute("grant all on schema public to public; create table t (a int, b text)")
            .await
            .expect("schema");
        shop.batch_execute("grant all on t to public").await.expect("schema");
    }

    /// A connection that does not go through the pooler.
    pub(crate) async fn connect(&self, user: &str, password: &str, database: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname(database);
        let (client, connection) = config.connect(NoTls).await.expect("PostgreSQL lets us in");
        tokio::spawn(connection);
        client
    }

    /// A superuser's connection to `shop`.
    pub(crate) async fn root(&self) -> Client {
        self.connect("root", ROOT_PASSWORD, "shop").await
    }

    /// What the server stores for a role's password.
    pub(crate) async fn verifier(&self, role: &str) -> String {
        let root = self.root().await;
        let sql = "select rolpassword from pg_authid where rolname = $1";
        root.query_one(sql, &[&role]).await.expect("role").get(0)
    }

    /// The folder of its socket.
    pub(crate) fn sockets(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = unprivileged(&self.bin.join(program));
        let output = command.args(arguments).current_dir(self.folder.path()).output();
        let output = output.expect("the program runs");
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {text}\n{log}");
        output
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut command = unprivileged(&self.bin.join("pg_ctl"));
        let data = self.data();
        let _ = command.args(["-m", "immediate", "-W", "stop", "-D"]).arg(data).output();
    }
}

/// A folder that the server may own.
fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("pgpool-it").tempdir().expect("folder");
    give_away(folder.path());
    folder
}

/// One that nobody has, and that nothing else is given meanwhile: the ports that the kernel gives away by itself begin at
/// 32768 (ip(7), `ip_local_port_range`).
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Relaxed).wrapping_add(std::process::id().wrapping_mul(61));
        let port = 10_000 + u16::try_from(number % 22_000).expect("invariant: small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// `PG_BIN`, or the newest of Debian's.
pub(crate) fn find_bin() -> PathBuf {
    if let Some(bin) = std::env::var_os("PG_BIN") {
        return bin.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    let newest = bins.filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is needed: apt-get install postgresql, or set PG_BIN")
}

/// PostgreSQL refuses to run as root.
pub(crate) fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

pub(crate) fn give_away(path: &Path) {
    if is_root() {
        let status = Command::new("chown").arg("postgres:postgres").arg(path).status();
        assert!(status.expect("chown runs").success());
    }
}

pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id runs");
    output.stdout.starts_with(b"0\n")
}
