//! Sockets that a service manager opens (sd_listen_fds(3)): taken in place of those of the file, by processes that are
//! started anew and by those that take over. Not for systemd itself: a shell passes descriptors as it does.
//!
//! Invariant: the test has the sockets open all the time, as a service manager has.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::dropin::{PGPOOL, Place, Running};
use crate::pooler::{Pooler, Setup};
use crate::postgres::{PASSWORD, Postgres, ROOT_PASSWORD, give_away, unprivileged};

use crate::upgrade::{ASKED, Program};

/// A service and its two sockets.
struct Unit {
    place: Place,
    tcp: TcpListener,
    /// With the port of the file in its name.
    unix: UnixListener,
    path: PathBuf,
}

impl Unit {
    async fn new(server: &Postgres, more: &str) -> Self {
        let place = Place::new(server, more).await;
        let path = place.path(&format!(".s.PGSQL.{}", place.port));
        let unix = UnixListener::bind(&path).expect("bound");
        give_away(&path);
        // Of both families, as systemd opens `ListenStream=PORT`.
        let tcp = TcpListener::bind("[::]:0").expect("bound");
        Self { place, tcp, unix, path }
    }

    fn command(&self, arguments: &[&str], second: impl AsFd) -> Command {
        let mut command =
            passing(unprivileged(Path::new("sh")), [other(&self.tcp), other(&second)]);
        command.args(arguments).arg(self.place.path("pgbouncer.ini"));
        command
    }

    fn start(&self) -> Running {
        Running(self.command(&["-q"], &self.unix).spawn().expect("it starts"))
    }

    /// By TCP where the socket listens, by the unix socket, and where only the file says so.
    fn ask(&self, way: &str, sql: &str) -> Command {
        let own = self.tcp.local_addr().expect("an address").port();
        let folder = self.place.folder.path().display().to_string();
        let (host, port) = match way {
            "unix" => (folder.as_str(), self.place.port),
            "file" => ("127.0.0.2", self.place.port),
            _ => ("127.0.0.1", own),
        };
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-U", "app", "-d", "shop", "-h", host, "-c", sql]);
        psql.arg("-p").arg(port.to_string()).env("PGPASSWORD", PASSWORD);
        psql
    }

    fn told(&self, way: &str, sql: &str) -> String {
        answer(&self.ask(way, sql).output().expect("psql runs"))
    }

    fn pid(&self) -> Pid {
        let pid = std::fs::read_to_string(self.place.path("pid")).expect("a pid");
        Pid::from_raw(pid.trim().parse().expect("a number"))
    }
}

/// The program with descriptors from 3 on, as service managers start one, by a shell.
fn passing(mut shell: Command, [first, second]: [OwnedFd; 2]) -> Command {
    let script = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\" 3<&0 4<&1 </dev/null >/dev/null";
    shell.args(["-c", script, "sh", PGPOOL]);
    shell.stdin(Stdio::from(first)).stdout(Stdio::from(second));
    shell
}

fn other(socket: &impl AsFd) -> OwnedFd {
    socket.as_fd().try_clone_to_owned().expect("a descriptor")
}

fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// For either family as it is: as an IPv6 address a client by IPv4 would fit none.
const RULES: &str = "local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n";

/// O3, T3, P4: sockets that systemd has opened are the only ones, whatever `listen_addr` says, and also where the file
/// has no address; a socket of both families has clients by IPv4 as such; clients wait in them for the next
/// process, and their files stay.
#[tokio::test]
async fn sockets_of_systemd_are_taken() {
    let server = Postgres::start().await;
    let more = "listen_addr = 127.0.0.2\nauth_type = hba\nauth_hba_file = @/hba";
    let unit = Unit::new(&server, more).await;
    let place = &unit.place;
    place.write("hba", RULES);
    let first = unit.start();
    // It waits in the socket until the process serves.
    assert_eq!(unit.told("tcp", "select 1"), "1");
    assert_eq!(unit.told("unix", "select 2"), "2");
    assert!(!unit.ask("file", "select 3").output().expect("psql runs").status.success());
    let (log, path) = (place.log(), unit.path.display());
    let own = unit.tcp.local_addr().expect("an address");
    for line in [
        format!("listening on {own}\n"),
        format!("listening on unix:{path}\n"),
        format!("from service manager: 127.0.0.2:{} of the file is not opened", place.port),
    ] {
        assert!(log.contains(&line), "{line}: {log}");
    }
    assert_eq!(log.matches("of the file is not opened").count(), 1, "{log}");
    let mut console = unit.ask("tcp", "show clients");
    console.args(["-U", "root", "-d", "pgbouncer"]).env("PGPASSWORD", ROOT_PASSWORD);
    let shown = answer(&console.output().expect("psql runs"));
    assert!(shown.contains("|127.0.0.1|") && !shown.contains("::ffff:"), "{shown}");
    first.signal(Signal::SIGTERM);
    assert!(first.ended() && unit.path.exists(), "the file is systemd's");

    let waits = unit.ask("tcp", "select 6").stdout(Stdio::piped()).spawn().expect("psql runs");
    let text = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("the file");
    place.write("pgbouncer.ini", &format!("{text}\nlisten_addr =\nunix_socket_dir =\n"));
    let last = unit.start();
    assert_eq!(answer(&waits.wait_with_output().expect("psql ends")), "6");
    last.signal(Signal::SIGTERM);
    assert!(last.ended() && unit.path.exists());
}

/// P7, O3: `-R` takes sockets over that systemd has opened for the process before, and so does the next one: whoever
/// is connected goes on, and whoever comes is served by the same sockets.
#[tokio::test]
async fn sockets_of_systemd_are_handed_over() {
    let server = Postgres::start().await;
    let unit = Unit::new(&server, "").await;
    let place = &unit.place;
    let first = unit.start();
    let mut config = tokio_postgres::Config::new();
    let port = unit.tcp.local_addr().expect("an address").port();
    config.host("127.0.0.1").port(port).user("app").password(PASSWORD).dbname("shop");
    let client = crate::pooler::connect(&config).await.expect("it gets in");
    client.batch_execute("set lock_timeout = 5").await.expect("set");
    let ends = |process: Pid| {
        while kill(process, None).is_ok() {
            std::thread::yield_now();
        }
    };
    let mut first = Some(first);
    for _ in 0..2 {
        let before = unit.pid();
        let mut next = unprivileged(Path::new(PGPOOL));
        next.args(["-d", "-R"]).arg(place.path("pgbouncer.ini"));
        assert!(next.status().expect("it runs").success());
        assert_ne!(before, unit.pid());
        match first.take() {
            Some(first) => assert!(first.ended()),
            None => ends(before),
        }
        let row = client.query_one("show lock_timeout", &[]).await;
        let row = row.unwrap_or_else(|fault| panic!("{fault:?}: {}", place.log()));
        assert_eq!(row.get::<_, String>(0), "5ms");
        assert_eq!(unit.told("tcp", "select 4"), "4");
        assert_eq!(unit.told("unix", "select 5"), "5");
        assert!(!unit.ask("file", "select 3").output().expect("psql runs").status.success());
    }
    let last = unit.pid();
    kill(last, Signal::SIGTERM).expect("sent");
    ends(last);
    assert!(unit.path.exists(), "it is systemd's");
}

/// P7, O3: in the topology form too: they take the place of `listen`, and USR2 hands them over, again and again.
#[tokio::test]
async fn usr2_hands_passed_sockets_over() {
    let server = Postgres::start().await;
    let mut written = Pooler::start(&server, Setup::default()).await;
    let sockets = ["127.0.0.1:0"; 2].map(|at| TcpListener::bind(at).expect("bound"));
    let mut command = passing(Command::new("sh"), [other(&sockets[0]), other(&sockets[1])]);
    command.args(ASKED).arg(written.file());
    let mut program = Program::of(command.into());
    let told = program.hear("noted", "what").await;
    assert!(told.starts_with("sockets passed from service manager: 127.0.0.1:0 "), "{told}");
    for socket in &sockets {
        let address = socket.local_addr().expect("an address").to_string();
        assert_eq!(program.hear("listening", "address").await, address);
    }
    written.port = sockets[0].local_addr().expect("an address").port();
    let client = written.client("open").await;
    client.batch_execute("set lock_timeout = 77").await.expect("set");
    for _ in 0..2 {
        program.signal(Signal::SIGUSR2);
        let process = program.hear("handed over", "process").await;
        program.process = process.parse().expect("a number");
        let row = client.query_one("show lock_timeout", &[]).await.expect("it goes on");
        assert_eq!(row.get::<_, String>(0), "77ms");
        for socket in &sockets {
            written.port = socket.local_addr().expect("an address").port();
            written.client("open").await.batch_execute("select 1").await.expect("served");
        }
    }
}

/// O5: what cannot be accepted on is refused by its number, a process in the background gets no sockets, and
/// without any and without an address nothing starts.
#[tokio::test]
async fn what_is_no_listener_is_refused() {
    let server = Postgres::start().await;
    let unit = Unit::new(&server, "").await;
    let refused = |mut command: Command, why: &str| {
        let output = command.stderr(Stdio::piped()).spawn().expect("it runs");
        let output = output.wait_with_output().expect("it ends");
        let fault = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && fault.contains(why), "{why}: {fault}");
    };
    let nothing = File::open("/dev/null").expect("there is one");
    refused(unit.command(&["-q"], nothing), "socket passed from service manager (fd 4)");
    refused(unit.command(&["-d"], &unit.unix), "-d: ");
    let text = std::fs::read_to_string(unit.place.path("pgbouncer.ini")).expect("the file");
    let nowhere = format!("{text}\nlisten_addr =\nunix_socket_dir =\n");
    unit.place.write("pgbouncer.ini", &nowhere);
    let mut command = unprivileged(Path::new(PGPOOL));
    command.arg("-q").arg(unit.place.path("pgbouncer.ini"));
    refused(command, "nowhere to listen on");
    assert!(!unit.place.path("pid").exists());
}
