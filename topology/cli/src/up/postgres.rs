//! PostgreSQL on this machine: finding its programs, making a primary and its streaming replicas in
//! the folder of the stack, applying roles and the demo's schema. Not for running the servers
//! (`spawn`) and nothing for production. Called by `launch`.
//!
//! Invariant: a data folder appears under its own name only when it is whole.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use crate::up::folder::Folder;
use crate::up::plan::Primary;
use crate::up::spawn::{Account, Launch, find_program};

/// Tables and rows of the demo services.
const SCHEMA: &str = include_str!("../../../demo/schema.sql");

/// An installed PostgreSQL and where it works.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    programs: PathBuf,
    psql: PathBuf,
    root: PathBuf,
    /// PostgreSQL refuses to run as root.
    account: Option<Account>,
}

impl Postgres {
    /// Finds the programs: `PG_BIN`, then `pg_config`, then where Debian and others put them.
    pub(crate) fn find(folder: &Folder) -> anyhow::Result<Self> {
        let programs = programs()?;
        let psql = [programs.join("psql")].into_iter().find(|file| file.is_file());
        let psql = psql.or_else(|| find_program("psql"));
        let psql = psql.with_context(|| format!("psql is missing. {INSTALL}"))?;
        Ok(Self { programs, psql, root: folder.path("pg"), account: unprivileged() })
    }

    /// Whether the data folder of a server is there.
    pub(crate) fn is_made(&self, name: &str) -> bool {
        self.root.join(name).join("PG_VERSION").exists()
    }

    /// Makes the folders and the file of who may log in.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        self.check_path()?;
        let own = |path: &Path, mode| -> anyhow::Result<()> {
            std::fs::create_dir_all(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            self.give(path)
        };
        own(&self.root, 0o700)?;
        own(&self.sockets(), 0o700)?;
        let access = self.root.join("pg_hba.conf");
        std::fs::write(&access, ACCESS).with_context(|| format!("{}", access.display()))?;
        self.give(&access)
    }

    /// Makes the data folder of a primary; nothing when it is there.
    pub(crate) async fn make_primary(&self, name: &str) -> anyhow::Result<()> {
        let data = self.root.join(name);
        if self.is_made(name) {
            return self.check_version(&data);
        }
        let fresh = self.fresh(name)?;
        let made = self.program("initdb").with(["--pgdata"]).with([&fresh]);
        let made = made.with(["--username=postgres", "--auth=trust", "--encoding=UTF8"]);
        made.with(["--locale=C.UTF-8", "--no-sync", "--no-instructions"]).run(MAKING).await?;
        std::fs::rename(&fresh, &data)?;
        // A replica of another primary is of no use to this one.
        self.forget_replicas()
    }

    /// Copies a running primary into the data folder of a replica; nothing when it is there. It is
    /// copied anew after the machine was started again, since a replica does not wait for the disk.
    pub(crate) async fn make_replica(&self, name: &str, primary: u16) -> anyhow::Result<()> {
        let data = self.root.join(name);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let copied_in = data.join("boot_id");
        let same = std::fs::read_to_string(&copied_in).is_ok_and(|copied_in| copied_in == boot);
        if same && self.is_made(name) {
            return self.check_version(&data);
        }
        let fresh = self.fresh(name)?;
        let copy = self.program("pg_basebackup").with(["--pgdata"]).with([&fresh]);
        let copy = copy.with(["--host"]).with([self.sockets()]);
        let copy = copy.with([format!("--port={primary}"), "--username=postgres".into()]);
        let copy = copy.with(["--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
        copy.run(MAKING).await?;
        std::fs::write(fresh.join("boot_id"), boot)?;
        std::fs::write(fresh.join("standby.signal"), "")?;
        self.give(&fresh.join("standby.signal"))?;
        std::fs::rename(&fresh, &data)?;
        Ok(())
    }

    /// How a server is started; INT is PostgreSQL's fast shutdown.
    pub(crate) fn server(&self, name: &str, at: SocketAddr, primary: Option<SocketAddr>) -> Launch {
        let sockets = self.sockets().display().to_string();
        let access = self.root.join("pg_hba.conf").display().to_string();
        let mut settings = vec![
            format!("listen_addresses={}", at.ip()),
            format!("port={}", at.port()),
            format!("unix_socket_directories={sockets}"),
            "unix_socket_permissions=0700".to_owned(),
            format!("hba_file={access}"),
            "password_encryption=scram-sha-256".to_owned(),
            "wal_level=replica".to_owned(),
            "wal_keep_size=256MB".to_owned(),
            "hot_standby_feedback=on".to_owned(),
            "wal_retrieve_retry_interval=200ms".to_owned(),
            "log_line_prefix=%m [%p] %u@%d ".to_owned(),
        ];
        if let Some(primary) = primary {
            let port = primary.port();
            settings.push(format!("primary_conninfo=host={sockets} port={port} user=postgres"));
            // A copy that can be made again; saves seconds at its first start.
            settings.push("fsync=off".to_owned());
        }
        let mut launch = self.program("postgres").with(["-D"]).with([self.root.join(name)]);
        for setting in settings {
            launch = launch.with(["-c".to_owned(), setting]);
        }
        launch.ask = Signal::SIGINT;
        launch
    }

    /// Roles with their secrets, databases, the demo's schema; running it again changes nothing.
    pub(crate) async fn fill(
        &self,
        port: u16,
        wanted: &Primary,
        secrets: &[(String, Option<String>)],
    ) -> anyhow::Result<()> {
        let mut text = String::new();
        for (role, secret) in secrets {
            let (name, quoted) = (identifier(role), literal(role));
            text.push_str(&format!(
                "SELECT 'CREATE ROLE {0} LOGIN' WHERE NOT EXISTS \
                 (SELECT FROM pg_roles WHERE rolname = {quoted}) \\gexec\n",
                name.replace('\'', "''")
            ));
            let password = secret.as_deref().map_or_else(|| "NULL".to_owned(), literal);
            text.push_str(&format!("ALTER ROLE {name} LOGIN PASSWORD {password};\n"));
        }
        let owner = secrets.first().map(|(role, _)| identifier(role));
        for database in &wanted.databases {
            let owned = owner.as_ref().map(|role| format!(" OWNER {role}")).unwrap_or_default();
            text.push_str(&format!(
                "SELECT 'CREATE DATABASE {0}{1}' WHERE NOT EXISTS \
                 (SELECT FROM pg_database WHERE datname = {2}) \\gexec\n",
                identifier(database).replace('\'', "''"),
                owned.replace('\'', "''"),
                literal(database)
            ));
        }
        self.script(port, "postgres", "postgres", "roles.sql", &text).await?;
        let owner = secrets.first().map_or("postgres", |(role, _)| role.as_str());
        for database in &wanted.databases {
            self.script(port, database, owner, "schema.sql", SCHEMA).await?;
        }
        Ok(())
    }

    /// Whether a server says in its pid file that it accepts queries: cheaper than asking it, and
    /// it does not log a refusal each time.
    pub(crate) fn accepts(&self, name: &str) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.root.join(name).join("postmaster.pid"))?;
        match text.lines().nth(7).map(str::trim) {
            Some("ready") => Ok(()),
            other => bail!("PostgreSQL is {}", other.unwrap_or("starting")),
        }
    }

    /// One statement as PostgreSQL's own user, over the private socket.
    pub(crate) async fn sql(
        &self,
        port: u16,
        database: &str,
        text: &str,
    ) -> anyhow::Result<String> {
        self.psql(port, database, "postgres").with(["-c", text]).run(ASKING).await
    }

    /// A script in one go; it is kept in a file of PostgreSQL's own folder while it runs, never on
    /// a command line, where others could read the secrets in it.
    async fn script(
        &self,
        port: u16,
        database: &str,
        role: &str,
        name: &str,
        text: &str,
    ) -> anyhow::Result<()> {
        let path = self.root.join(name);
        crate::up::folder::write_private(&path, text.as_bytes())?;
        self.give(&path)?;
        let ran = self.psql(port, database, role).with(["-f"]).with([&path]).run(MAKING).await;
        std::fs::remove_file(&path)?;
        ran.map(drop)
    }

    fn psql(&self, port: u16, database: &str, role: &str) -> Launch {
        let mut launch = Launch::new(&self.psql);
        launch.user.clone_from(&self.account);
        launch.variables.push(("PGOPTIONS".into(), "-c client_min_messages=warning".into()));
        launch
            .with(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-o", "/dev/null"])
            .with(["-v", "ON_ERROR_STOP=1", "--no-password", "-h"])
            .with([self.sockets()])
            .with([format!("--port={port}"), format!("--username={role}")])
            .with([format!("--dbname={database}")])
    }

    fn program(&self, name: &str) -> Launch {
        let mut launch = Launch::new(self.programs.join(name));
        launch.user.clone_from(&self.account);
        launch.variables.push(("LC_ALL".into(), "C.UTF-8".into()));
        launch
    }

    fn sockets(&self) -> PathBuf {
        self.root.join("run")
    }

    /// An empty place beside the data folder's own.
    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let fresh = self.root.join(format!("{name}.new"));
        remove(&fresh)?;
        remove(&self.root.join(name))?;
        Ok(fresh)
    }

    fn forget_replicas(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.join("standby.signal").exists() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(account) = &self.account {
            chown(path, Some(account.uid), Some(account.gid))
                .with_context(|| format!("cannot give {} to {}", path.display(), account.name))?;
        }
        Ok(())
    }

    /// The account must be able to walk to the folder, and a socket's path has at most 107 bytes.
    fn check_path(&self) -> anyhow::Result<()> {
        let socket = self.sockets().join(".s.PGSQL.65535");
        if socket.as_os_str().len() > 107 {
            bail!(
                "{} is too long for PostgreSQL's socket: choose a shorter folder with --state",
                self.root.display()
            );
        }
        let Some(account) = &self.account else { return Ok(()) };
        for folder in self.root.ancestors().skip(1) {
            let mode = folder.metadata().map_or(0o755, |data| data.permissions().mode());
            if mode & 0o001 == 0 {
                bail!(
                    "PostgreSQL runs as {}, who may not enter {}: choose a folder with --state \
                     that everybody may enter",
                    account.name,
                    folder.display()
                );
            }
        }
        Ok(())
    }

    fn check_version(&self, data: &Path) -> anyhow::Result<()> {
        let made_by = std::fs::read_to_string(data.join("PG_VERSION"))?;
        let shared =
            std::process::Command::new(self.programs.join("postgres")).arg("-V").output()?;
        let installed = String::from_utf8_lossy(&shared.stdout).into_owned();
        let major = |text: &str| -> String {
            text.chars()
                .skip_while(|c| !c.is_ascii_digit())
                .take_while(char::is_ascii_digit)
                .collect()
        };
        if major(&made_by) != major(&installed) {
            bail!(
                "{} was made by PostgreSQL {}, but {} is {}: set PG_BIN to the older one's \
                 programs, or remove {} to begin anew",
                data.display(),
                made_by.trim(),
                self.programs.display(),
                installed.trim(),
                self.root.display()
            );
        }
        Ok(())
    }
}

/// The folder with `postgres` and `initdb`.
fn programs() -> anyhow::Result<PathBuf> {
    let whole = |folder: &PathBuf| {
        ["postgres", "initdb", "pg_basebackup"].iter().all(|name| folder.join(name).is_file())
    };
    if let Some(named) = std::env::var_os("PG_BIN").map(PathBuf::from) {
        if whole(&named) {
            return Ok(named);
        }
        bail!("PG_BIN is {}, where postgres, initdb and pg_basebackup are not", named.display());
    }
    let configured = find_program("pg_config")
        .and_then(|program| std::process::Command::new(program).arg("--bindir").output().ok())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let mut installed: Vec<(u32, PathBuf)> = Vec::new();
    for base in ["/usr/lib/postgresql", "/usr/local/pgsql", "/usr/pgsql"] {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            installed.push((version, entry.path().join("bin")));
        }
    }
    installed.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let found =
        configured.into_iter().chain(installed.into_iter().map(|(_, path)| path)).find(whole);
    found.with_context(|| format!("PostgreSQL is not on this machine. {INSTALL}"))
}

/// For root: the user `postgres` where there is one, else `nobody`.
pub(crate) fn unprivileged() -> Option<Account> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| nix::unistd::User::from_name(name).ok().flatten())?;
    Some(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The socket lies in a folder that only PostgreSQL's user may enter; the network asks for SCRAM.
const ACCESS: &str = "\
local all all trust
local replication all trust
host all all 127.0.0.0/8 scram-sha-256
host all all ::1/128 scram-sha-256
";
const INSTALL: &str = "Install it with `apt-get install -y postgresql` (or your system's like), or \
     set PG_BIN to the folder of its programs";
const MAKING: Duration = Duration::from_secs(120);
const ASKING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_secrets_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("o'hara"), "'o''hara'");
    }
}
