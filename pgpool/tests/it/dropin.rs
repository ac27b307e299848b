//! `pgpool` in PgBouncer's place: Debian's own file, psql, pgbench, signals, log. Not for what is inside:
//! the binary is started as operators do. Real PostgreSQL and, beside it, Debian's PgBouncer.
//!
//! Invariant: nothing here waits for a time: a state is asked for until it is there, or a process ended.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::pooler::certificates;
use crate::postgres::{PASSWORD, Postgres, ROOT_PASSWORD, free_port, give_away, unprivileged};

/// PgBouncer's configuration in a folder of its own.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
}

impl Place {
    /// Debian's file with local lines after it, as an operator writes them.
    pub(crate) async fn new(server: &Postgres, more: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("dropin").tempdir().expect("folder");
        let port = free_port();
        let place = Self { folder, port };
        give_away(place.folder.path());
        let users = format!(
            "\"app\" \"{}\"\n\"legacy\" \"{}\"\n\"other\" \"{PASSWORD}\"\n\"root\" \"{ROOT_PASSWORD}\"\n",
            server.verifier("app").await,
            server.verifier("legacy").await,
        );
        place.write("userlist.txt", &users);
        let at = place.folder.path().display();
        let ini = format!(
            "%include /etc/pgbouncer/pgbouncer.ini
[databases]
shop = host=127.0.0.1 port={server}
boss = host=127.0.0.1 port={server} dbname=shop user=legacy password='{PASSWORD}'
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {at}
auth_file = {at}/userlist.txt
logfile = {at}/log
pidfile = {at}/pid
admin_users = root
pool_mode = transaction
{more}
",
            server = server.port,
            more = more.replace("@", &at.to_string()),
        );
        place.write("pgbouncer.ini", &ini);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
        give_away(&self.path(name));
    }

    /// Starts a pooler and waits until it listens.
    pub(crate) fn start(&self, program: &str) -> Running {
        self.run(unprivileged(Path::new(program)).arg(self.path("pgbouncer.ini")))
    }

    /// The same, as the command has it.
    pub(crate) fn run(&self, command: &mut Command) -> Running {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let (stderr, mut seen) = (child.stderr.take().expect("piped"), String::new());
        let mut lines = BufReader::new(stderr).lines();
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("it has ended:\n{seen}"));
            let line = line.expect("text");
            seen.extend([line.as_str(), "\n"]);
            if line.contains("process up") {
                break;
            }
        }
        // The rest is in the log file; its pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        Running(child)
    }

    pub(crate) fn psql(&self, host: &Path, user: &str, password: &str, database: &str) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["-X", "-A", "-t", "-p", &self.port.to_string(), "-U", user, "-d", database])
            .arg("-h")
            .arg(host)
            .env("PGPASSWORD", password);
        command
    }

    pub(crate) fn ask(&self, user: &str, database: &str, sql: &str) -> Output {
        let password = if user == "root" { ROOT_PASSWORD } else { PASSWORD };
        let mut command = self.psql(Path::new("127.0.0.1"), user, password, database);
        command.args(["-c", sql]).output().expect("psql runs")
    }

    pub(crate) fn told(&self, user: &str, database: &str, sql: &str) -> String {
        let output = self.ask(user, database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Asks the admin database until the answer is as wanted.
    pub(crate) fn until(&self, sql: &str, wanted: impl Fn(&str) -> bool) {
        while !wanted(&self.told("root", "pgbouncer", sql)) {
            std::thread::yield_now();
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("a log")
    }
}

/// A pooler that runs; killed if it is still there at the end.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).expect("a number")), signal).expect("sent");
    }

    pub(crate) fn ended(mut self) -> bool {
        self.0.wait().expect("it ends").success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

pub(crate) const PGPOOL: &str = env!("CARGO_BIN_EXE_pgpool");

/// What a pooler answers to psql and pgbench, by network and by socket.
fn answers(place: &Place) -> Vec<(String, bool, String)> {
    let mut all = Vec::new();
    let mut note = |what: String, output: Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        all.push((what, output.status.success(), text));
    };
    let who = "select current_user, session_user, current_database()";
    let sockets = place.folder.path();
    for host in [Path::new("127.0.0.1"), sockets] {
        for user in ["app", "other", "legacy"] {
            for database in ["shop", "boss", "postgres"] {
                let mut psql = place.psql(host, user, PASSWORD, database);
                let output = psql.args(["-c", who]).output().expect("psql runs");
                note(format!("{} {user} {database}", host.display()), output);
            }
        }
        for (user, password, database) in
            [("app", "wrong", "shop"), ("nobody", PASSWORD, "shop"), ("app", PASSWORD, "pgbouncer")]
        {
            let mut psql = place.psql(host, user, password, database);
            note(
                format!("{user} {password} {database}"),
                psql.args(["-c", who]).output().expect("psql"),
            );
        }
        // Whoever runs it needs no password by socket.
        let mut psql = unprivileged(Path::new("psql"));
        psql.args(["-X", "-A", "-t", "-w", "-U", "pgbouncer", "-d", "pgbouncer", "-p"]);
        psql.arg(place.port.to_string()).arg("-h").arg(host).args(["-c", "show version"]);
        let output = psql.output().expect("psql runs");
        note(format!("owner {}", host.display()), Output { stdout: Vec::new(), ..output });
    }
    for protocol in ["simple", "extended"] {
        let mut bench = Command::new("pgbench");
        bench.args(["-n", "-c", "8", "-t", "20", "-M", protocol, "-h", "127.0.0.1", "-U", "other"]);
        bench.args(["-p", &place.port.to_string(), "-f"]).arg(place.path("script")).arg("shop");
        let output = bench.env("PGPASSWORD", PASSWORD).output().expect("pgbench runs");
        let done = String::from_utf8_lossy(&output.stdout).contains("processed: 160/160");
        let stdout = format!("{done}").into_bytes();
        note(format!("pgbench {protocol}"), Output { stdout, ..output });
    }
    all
}

/// T3, P2, P4: Debian's file with local lines, started by PgBouncer and by pgpool: the same answers, by
/// network and by unix socket, to users with a verifier, an md5 hash and a password, in databases with a
/// login of their own and in those that `*` stands for.
#[tokio::test]
async fn the_same_file_the_same_answers() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    place.write("script", "select 1;\nbegin;\nselect 2;\ncommit;\n");
    let both = ["/usr/sbin/pgbouncer", PGPOOL].map(|program| {
        let running = place.start(program);
        let socket = place.path(&format!(".s.PGSQL.{}", place.port));
        let file = std::fs::metadata(&socket).expect("a socket");
        assert!(file.file_type().is_socket());
        let answers = answers(&place);
        running.signal(Signal::SIGTERM);
        let ended = running.ended();
        // PgBouncer 1.18 ends with 1 and leaves its files to whoever comes next: to us.
        if program == PGPOOL {
            assert!(ended && !place.path("pid").exists() && !socket.exists(), "we leave nothing");
        }
        answers
    });
    let [theirs, ours] = both;
    assert_eq!(theirs.len(), ours.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
    assert!(ours.iter().filter(|(_, done, _)| *done).count() >= 20, "{ours:?}");
}

/// O2, O3: PgBouncer's signals and log: HUP reads the file again, USR1 pauses, USR2 resumes, INT lets a
/// transaction end.
#[tokio::test]
async fn signals_and_log_are_those_of_pgbouncer() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let running = place.start(PGPOOL);
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    assert!(
        !place
            .psql(Path::new("127.0.0.1"), "app", "wrong", "shop")
            .output()
            .expect("psql")
            .status
            .success()
    );

    running.signal(Signal::SIGUSR1);
    place.until("show state", |told| told.contains("paused|yes"));
    // Said again it changes nothing.
    let told = |what: &str| {
        while !place.log().contains(what) {
            std::thread::yield_now();
        }
    };
    running.signal(Signal::SIGUSR1);
    told("but already paused/suspended");
    let mut psql = place.psql(Path::new("127.0.0.1"), "app", PASSWORD, "shop");
    let waits = psql.args(["-c", "select 7"]).stdout(Stdio::piped()).spawn().expect("psql runs");
    place.until("show clients", |told| {
        told.contains("|app|shop|none|waiting|") || told.contains("|waiting|")
    });
    running.signal(Signal::SIGUSR2);
    let output = waits.wait_with_output().expect("psql ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "7");
    running.signal(Signal::SIGUSR2);
    told("but not paused/suspended");

    let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("the file");
    place.write("pgbouncer.ini", &format!("{ini}\nquery_timeout = 77\n"));
    std::fs::rename(place.path("log"), place.path("log.1")).expect("moved");
    running.signal(Signal::SIGHUP);
    place
        .until("show config", |told| told.lines().any(|line| line.starts_with("query_timeout|77")));
    assert_eq!(place.told("app", "shop", "select 1"), "1");

    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(place.port).user("app").password(PASSWORD).dbname("shop");
    let client = crate::pooler::connect(&config).await.expect("it gets in");
    client.batch_execute("begin; create table kept (a int)").await.expect("begun");
    running.signal(Signal::SIGINT);
    while place.ask("app", "shop", "select 1").status.success() {}
    client.batch_execute("commit").await.expect("what was begun ends");
    assert!(running.ended());
    let kept = "select count(*) from pg_class where relname = 'kept'";
    let count: i64 = server.root().await.query_one(kept, &[]).await.expect("answer").get(0);
    assert_eq!(count, 1);

    let before = std::fs::read_to_string(place.path("log.1")).expect("the log");
    for line in [
        ": shop/app@127.0.0.1:",
        " login attempt: db=shop user=app tls=no replication=none",
        " new connection to server (from 127.0.0.1:",
        " closing because: client close request (age=",
        " pooler error: password authentication failed",
        "UTC [",
    ] {
        assert!(before.contains(line), "{line}: {before}");
    }
    let (asked, _) = before.split_once("pooler error: password auth").expect("it was refused");
    assert_eq!(asked.matches("login attempt: db=shop").count(), 2, "before it was: {before}");
    // All of one client has its number in front.
    let (_, refused) = asked.rsplit_once(" WARNING C-").expect("a client's");
    let (number, _) = refused.split_once(':').expect("a number");
    assert!(number.starts_with("0x") && number != "0x0", "{before}");
    let whole = format!(" C-{number}: shop/app@127.0.0.1:");
    for line in ["login attempt: db=shop", "closing because: password", "pooler error: password"] {
        let its = |text: &str| text.contains(&whole) && text.contains(line);
        assert_eq!(before.lines().filter(|text| its(text)).count(), 1, "{line}: {before}");
    }
    assert!(place.log().contains("login attempt"), "the log was opened anew");
    assert!(!format!("{before}{}", place.log()).contains(PASSWORD));
}

/// O3, O5, P7: `-d` ends when it serves, a second one is refused, `-R` takes over from it by its unix socket,
/// clients and all, or begins beside it where there is none; nobody is refused meanwhile, TERM ends it; what
/// cannot be translated is told with file and line.
#[tokio::test]
async fn in_the_background_and_replaced() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let run = |arguments: &[&str]| {
        let mut command = unprivileged(Path::new(PGPOOL));
        command.args(arguments).arg(place.path("pgbouncer.ini")).output().expect("it runs")
    };
    let pid = || -> i32 {
        std::fs::read_to_string(place.path("pid")).expect("a pid").trim().parse().expect("a number")
    };
    let output = run(&["-d"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    let first = pid();
    let refused = run(&["-q"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("runs already"));
    assert_eq!(place.told("app", "shop", "select 2"), "2");
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(place.port).user("app").password(PASSWORD).dbname("shop");
    let client = crate::pooler::connect(&config).await.expect("it gets in");
    client.batch_execute("set lock_timeout = 5").await.expect("set");
    let statement =
        client.prepare("select current_setting('lock_timeout')").await.expect("prepared");
    let refused = place.ask("root", "pgbouncer", "takeover");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("by unix socket"), "{refused:?}");
    assert!(run(&["-d", "-R"]).status.success());
    let second = pid();
    let ends = |process: i32| {
        while kill(Pid::from_raw(process), None).is_ok() {
            std::thread::yield_now();
        }
    };
    assert_ne!(first, second);
    ends(first);
    let row = client.query_one(&statement, &[]).await.expect("it goes on");
    assert_eq!(row.get::<_, String>(0), "5ms");
    assert_eq!(place.told("app", "shop", "select 3"), "3");
    let socket = place.path(&format!(".s.PGSQL.{}", place.port));
    assert!(socket.exists() && pid() == second, "the first one's end took nothing with it");

    let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("the file");
    let alone = "unix_socket_dir =\nso_reuseport = 1\n";
    place.write("pgbouncer.ini", &format!("{ini}{alone}"));
    kill(Pid::from_raw(second), Signal::SIGQUIT).expect("sent");
    ends(second);
    assert!(run(&["-d"]).status.success());
    let third = pid();
    assert!(run(&["-d", "-R"]).status.success());
    let fourth = pid();
    assert_ne!(third, fourth);
    ends(third);
    assert_eq!(place.told("app", "shop", "select 4"), "4");
    kill(Pid::from_raw(fourth), Signal::SIGTERM).expect("sent");
    while place.path("pid").exists() {
        std::thread::yield_now();
    }

    let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("the file");
    let lines = ini.lines().count();
    place.write("pgbouncer.ini", &format!("{ini}auth_type = pam\n"));
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains(&format!("pgbouncer.ini:{}: auth_type pam", lines + 1)), "{told}");
}

/// P4: rules by kind, database, user, address and method, certificates and the system's users: who gets in
/// under PgBouncer gets in here, and nobody else.
#[tokio::test]
async fn the_same_rules_the_same_answers() {
    let server = Postgres::start().await;
    let more = "auth_type = hba\nauth_hba_file = @/hba\nclient_tls_sslmode = allow\n\
                client_tls_key_file = @/key.pem\nclient_tls_cert_file = @/chain.pem\n\
                client_tls_ca_file = @/ca.pem";
    let place = Place::new(&server, more).await;
    for name in certificates(place.folder.path()) {
        give_away(&place.path(name));
    }
    place.write(
        "hba",
        "local   all   root                  peer
local   all   postgres              peer
local   shop  all                   scram-sha-256
hostssl shop  app   127.0.0.1/32    cert
hostssl shop  other 127.0.0.1/32    md5
host    shop  other 127.0.0.1/32    reject
host    shop  legacy 127.0.0.0 255.0.0.0 md5
host    pgbouncer root 127.0.0.1/32 md5
host    shop  app   10.0.0.0/8      trust
",
    );
    let own = format!(
        "sslcert={} sslkey={}",
        place.path("app.pem").display(),
        place.path("app.key").display()
    );
    let both = ["/usr/sbin/pgbouncer", PGPOOL].map(|program| {
        let running = place.start(program);
        let mut all = Vec::new();
        for (user, database, how) in [
            ("app", "shop", "sslmode=require"),
            ("app", "shop", &format!("sslmode=require {own}")),
            ("other", "shop", &format!("sslmode=require {own}")),
            ("app", "boss", &format!("sslmode=require {own}")),
            ("app", "shop", "sslmode=disable"),
            ("other", "shop", "sslmode=require"),
            ("other", "shop", "sslmode=disable"),
            ("legacy", "shop", "sslmode=disable"),
            ("legacy", "boss", "sslmode=disable"),
            ("other", "shop", "unix"),
            ("root", "shop", "unix"),
            ("app", "boss", "unix"),
        ] {
            let host = match how {
                "unix" => place.folder.path().display().to_string(),
                _ => "127.0.0.1".to_owned(),
            };
            let how = if how == "unix" { "" } else { how };
            let target =
                format!("host={host} port={} user={user} dbname={database} {how}", place.port);
            let mut psql = Command::new("psql");
            psql.args(["-X", "-A", "-t", "-d", &target, "-c", "select current_user"]);
            let output = psql.env("PGPASSWORD", PASSWORD).output().expect("psql runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            all.push((user, database, how.to_owned(), output.status.success(), text));
        }
        running.signal(Signal::SIGTERM);
        assert!(running.ended() || program != PGPOOL);
        all
    });
    let [theirs, ours] = both;
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
    let inside = ours.iter().filter(|(.., inside, _)| *inside).count();
    assert!((4..8).contains(&inside), "{ours:?}");
}

/// P4: `server_tls_*` reach a server that insists on TLS, and hold it to the authority and the name.
#[tokio::test]
async fn tls_to_servers_is_that_of_the_file() {
    let server = Postgres::start().await;
    let made = tempfile::Builder::new().prefix("made").tempdir().expect("folder");
    give_away(made.path());
    let texts = certificates(made.path()).map(|name| {
        give_away(&made.path().join(name));
        std::fs::read_to_string(made.path().join(name)).expect("written")
    });
    let [authority, chain, key, ..] = &texts;
    let hba = "host all root all scram-sha-256\nhostssl all all all scram-sha-256\n";
    server.encrypt(chain, key, authority, hba).await;
    let ca = format!("server_tls_ca_file = {}", made.path().join("ca.pem").display());
    for (mode, inside) in
        [("disable", false), ("require", true), ("verify-ca", true), ("verify-full", false)]
    {
        let place = Place::new(&server, &format!("server_tls_sslmode = {mode}\n{ca}")).await;
        let running = place.start(PGPOOL);
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let output = place.ask("other", "shop", sql);
        let fault = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), inside, "{mode}: {fault}");
        assert!(!inside || output.stdout == b"t\n", "{mode}: in clear");
        running.signal(Signal::SIGTERM);
        assert!(running.ended());
    }
}

/// P7: two processes behind one port, as PgBouncer's manual has them: whichever a cancel request meets, it hits
/// the query that it means; `SHOW PEERS` names both.
#[tokio::test]
async fn cancels_reach_the_right_process() {
    let server = Postgres::start().await;
    let first = Place::new(&server, "").await;
    let second = Place::new(&server, "").await;
    let port = first.port;
    let folders = [&first, &second].map(|place| place.folder.path().display().to_string());
    for (id, place) in [(1, &first), (2, &second)] {
        let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("its file");
        let ini = ini.replace(
            &format!("listen_port = {}", place.port),
            &format!(
                "listen_port = {port}\nso_reuseport = 1\npeer_id = {id}\ndefault_pool_size = 30"
            ),
        );
        let [one, two] = &folders;
        let peers = format!(
            "[peers]\n1 = host={one} port={port}\n2 = host={two} port={port} pool_size=9\n"
        );
        place.write("pgbouncer.ini", &(ini + &peers));
    }
    let running = [first.start(PGPOOL), second.start(PGPOOL)];
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("app").password(PASSWORD).dbname("shop");
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(crate::pooler::connect(&config).await.expect("a client"));
    }
    let work = clients.iter().map(|client| async {
        let slow = client.batch_execute("select pg_sleep(600)");
        let token = client.cancel_token();
        let cancels = async {
            // One that comes before the query runs hits nothing.
            loop {
                token.cancel_query(tokio_postgres::NoTls).await.expect("taken");
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = slow => outcome.expect_err("cancelled"),
            () = cancels => unreachable!("it goes on for ever"),
        }
    });
    for fault in futures_util::future::join_all(work).await {
        assert_eq!(crate::pooler::code(&fault), "57014", "{fault:?}");
    }
    // By the kernel's hash all clients may have met one process, but hardly.
    let counts = [&first, &second].map(|place| {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-p", &port.to_string(), "-U", "root", "-d", "pgbouncer"]);
        psql.arg("-h").arg(place.folder.path()).env("PGPASSWORD", ROOT_PASSWORD);
        let shown = psql.args(["-c", "show peers"]).output().expect("psql runs");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert_eq!(shown.trim(), format!("1|{}|{port}|30\n2|{}|{port}|9", folders[0], folders[1]));
        place.log().matches("login attempt").count()
    });
    assert!(counts.iter().sum::<usize>() >= 12, "{counts:?}");
    drop(running);
}

/// T3, P4: roles that the user list does not have, by `auth_query`: who gets in, and as whom, is the same.
#[tokio::test]
async fn the_same_lookup_the_same_answers() {
    let server = Postgres::start().await;
    crate::lookup::asker(&server).await;
    let more = "auth_user = asker\nauth_query = select * from looked($1)";
    let place = Place::new(&server, more).await;
    let users = format!("\"asker\" \"{PASSWORD}\"\n\"root\" \"{ROOT_PASSWORD}\"\n");
    place.write("userlist.txt", &users);
    let logins = [
        ("app", PASSWORD, "shop"),
        ("legacy", PASSWORD, "shop"),
        ("app", PASSWORD, "boss"),
        ("asker", PASSWORD, "shop"),
        ("app", "wrong", "shop"),
        ("legacy", "wrong", "shop"),
        ("open", "", "shop"),
        ("nobody", PASSWORD, "shop"),
        ("' or true --", PASSWORD, "shop"),
    ];
    let both = ["/usr/sbin/pgbouncer", PGPOOL].map(|program| {
        let running = place.start(program);
        let answers = logins.map(|(user, password, database)| {
            let mut psql = place.psql(Path::new("127.0.0.1"), user, password, database);
            let output = psql.args(["-c", "select current_user"]).output().expect("psql runs");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        });
        running.signal(Signal::SIGTERM);
        let _ended = running.ended();
        answers
    });
    assert_eq!(both[0], ["app", "legacy", "legacy", "asker", "", "", "", "", ""]);
    assert_eq!(both[0], both[1]);
}

/// P6, O3: whoever runs the process is let in by its unix socket as `pgbouncer` without a password, whatever the user
/// list and the rules say of that name and however many clients there are; so `-R` takes over all the same.
#[tokio::test]
async fn its_owner_is_let_in_whatever_is_said() {
    let server = Postgres::start().await;
    let more = "max_client_conn = 1\nauth_type = hba\nauth_hba_file = @/hba";
    let place = Place::new(&server, more).await;
    let users = std::fs::read_to_string(place.path("userlist.txt")).expect("the list");
    place.write("userlist.txt", &format!("{users}\"pgbouncer\" \"another\"\n"));
    place.write("hba", "local all all reject\nhost all all 127.0.0.1/32 scram-sha-256\n");
    let first = place.start(PGPOOL);
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(place.port).user("app").password(PASSWORD).dbname("shop");
    let client = crate::pooler::connect(&config).await.expect("it gets in");
    let mut psql = unprivileged(Path::new("psql"));
    psql.args(["-X", "-A", "-t", "-w", "-U", "pgbouncer", "-d", "pgbouncer", "-c", "show version"]);
    psql.arg("-p").arg(place.port.to_string()).arg("-h").arg(place.folder.path());
    let output = psql.output().expect("psql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut next = unprivileged(Path::new(PGPOOL));
    let output = next.args(["-d", "-R"]).arg(place.path("pgbouncer.ini")).output();
    assert!(output.expect("it runs").status.success());
    assert!(tokio::task::spawn_blocking(move || first.ended()).await.expect("no panic"));
    client.batch_execute("select 1").await.expect("it has moved");
    let process = std::fs::read_to_string(place.path("pid")).expect("a pid");
    let process = Pid::from_raw(process.trim().parse().expect("a number"));
    kill(process, Signal::SIGTERM).expect("sent");
    while place.path("pid").exists() {
        std::thread::yield_now();
    }
}
