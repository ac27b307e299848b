//! Real Redis and PostgreSQL, each on a socket in a folder of its own. Used by the tests of stages and by
//! the integration tests.
//!
//! Invariant: a server ends with its handle, and listens on no port unless it is told one.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A Redis.
pub(crate) struct Redis {
    child: Child,
    folder: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"))
    }

    /// One whose ACL user `gateway` has this password, and whose default user has nothing.
    pub(crate) fn start_asking(password: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let rules = ["on", &format!(">{password}"), "~*", "&*", "+@all"].join(" ");
        std::fs::write(
            folder.path().join("redis.conf"),
            format!("user default off\nuser gateway {rules}\n"),
        )
        .expect("it is written");
        Self::start_in(folder)
    }

    /// In a folder where another has been: at the same address, empty.
    pub(crate) fn start_in(folder: TempDir) -> Self {
        let socket = folder.path().join("redis.sock");
        let child = on_a_port(folder.path(), 0, &["--unixsocket", &socket.display().to_string()]);
        Self { child, folder }
    }

    pub(crate) fn address(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Ends it and keeps its folder.
    pub(crate) fn stop(mut self) -> TempDir {
        end(&mut self.child);
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"))
    }

    /// Stops it in the middle, as a machine that hangs: it answers nothing and refuses nothing.
    pub(crate) fn freeze(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &id]).status().expect("kill").success());
        let state = || std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it is there");
        // The signal is on its way until then.
        while !state().contains(") T ") {
            std::thread::yield_now();
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-CONT", &id]).status().expect("kill").success());
    }

    /// How often a command was run, as the server counts.
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let client = redis::Client::open(self.address()).expect("an address");
        let mut line = client.get_multiplexed_async_connection().await.expect("a connection");
        let text: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut line).await.expect("an answer");
        let start = format!("cmdstat_{command}:calls=");
        let calls = text.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next());
        calls.map_or(0, |text| text.parse().expect("a number"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A Redis that keeps nothing and listens on this port of the loopback (0: on none), by the settings in its
/// folder, if any.
pub(crate) fn on_a_port(folder: &Path, port: u16, words: &[&str]) -> Child {
    let mut command = Command::new("redis-server");
    let settings = folder.join("redis.conf");
    if settings.exists() {
        command.arg(settings);
    }
    let mut child = command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
        .args(["--appendonly", "no", "--dir"])
        .arg(folder)
        .args(words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-server is installed (`make` does it)");
    ready(child.stdout.take().expect("its output"), "eady to accept connections");
    child
}

/// A PostgreSQL.
pub(crate) struct Postgres {
    child: Child,
    folder: TempDir,
}

impl Postgres {
    /// That believes whoever comes.
    pub(crate) fn start() -> Self {
        Self::start_with(&["-A", "trust"], tempfile::tempdir().expect("a folder"))
    }

    /// Whose only user has this password.
    pub(crate) fn start_asking(password: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        std::fs::write(&file, password).expect("it is written");
        let file = format!("--pwfile={}", file.display());
        Self::start_with(&["-A", "scram-sha-256", &file], folder)
    }

    fn start_with(login: &[&str], folder: TempDir) -> Self {
        let given = Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status();
        assert!(given.expect("chown").success() || !root());
        let data = folder.path().join("data");
        let made = program("initdb")
            .args(["-U", "postgres", "-N"])
            .args(login)
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(made.expect("initdb").success());
        let sockets = format!("unix_socket_directories={}", folder.path().display());
        let mut child = program("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", &sockets])
            .stderr(Stdio::piped())
            .spawn()
            .expect("postgres starts");
        ready(child.stderr.take().expect("its output"), "ready to accept connections");
        Self { child, folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.5432")
    }

    pub(crate) fn address(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its children end with it only when it is asked (SIGQUIT: at once).
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-QUIT", &pid]).status();
        let _ = self.child.wait();
    }
}

fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A program of PostgreSQL, which does not run as root.
fn program(name: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin")).max();
    let path = newest.unwrap_or_else(|| Path::new("/usr/bin").to_owned()).join(name);
    let mut command = Command::new(if root() { Path::new("setpriv") } else { &path });
    if root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]).arg(path);
    }
    command
}

fn ready(output: impl std::io::Read + Send + 'static, wanted: &str) {
    let mut lines = BufReader::new(output).lines();
    assert!(lines.any(|line| line.expect("text").contains(wanted)), "it starts");
    // What it says later must neither block nor end it.
    std::thread::spawn(move || lines.for_each(drop));
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
