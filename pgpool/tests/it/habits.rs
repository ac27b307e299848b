//! What PgBouncer's users are used to beyond what its file's text says: systemd's word, dropped startup
//! parameters, `auth_type`, a reset at each release. Not for starting as such: that is `dropin`.
//!
//! Invariant: nothing here waits for a time: a message is waited for, or a process ended.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgpool_wire::startup::{V3_0, put_startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::dropin::{PGPOOL, Place};
use crate::pooler::{Pooler, Setup};
use crate::postgres::{PASSWORD, Postgres, give_away, unprivileged};
use crate::raw::Raw;

/// O3, T3: Debian's unit is `Type=notify`: systemd is told which process serves, once it does: in the foreground,
/// after a reload, in the background and when `-R` has taken over.
#[tokio::test]
async fn systemd_is_told() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let socket = UnixDatagram::bind(place.path("notify")).expect("bound");
    // A word that never comes fails the test, not the whole run.
    socket.set_read_timeout(Some(std::time::Duration::from_secs(120))).expect("a socket option");
    give_away(&place.path("notify"));
    let told = || {
        let mut bytes = [0; 4096];
        let length = loop {
            match socket.recv(&mut bytes) {
                // A process of this test has ended.
                Err(fault) if fault.kind() == std::io::ErrorKind::Interrupted => {}
                heard => break heard.expect("a word"),
            }
        };
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let serves = |pid: &str| {
        let told = told();
        let mut lines: Vec<_> = told.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [format!("MAINPID={pid}").as_str(), "READY=1"]);
    };
    let command = |arguments: &[&str]| {
        let mut command = unprivileged(Path::new(PGPOOL));
        command.env("NOTIFY_SOCKET", place.path("notify")).args(arguments);
        command.arg(place.path("pgbouncer.ini")).stderr(Stdio::null());
        command
    };
    let mut child = command(&[]).spawn().expect("it starts");
    let pid = child.id().to_string();
    serves(&pid);
    let signal = |pid: &str, signal: Signal| {
        kill(Pid::from_raw(pid.parse().expect("a number")), signal).expect("sent");
    };
    signal(&pid, Signal::SIGHUP);
    let reloading = told();
    assert!(reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="));
    serves(&pid);
    signal(&pid, Signal::SIGTERM);
    assert_eq!(told().trim(), "STOPPING=1");
    assert!(child.wait().expect("it ends").success());

    let pid = || std::fs::read_to_string(place.path("pid")).expect("a pid").trim().to_owned();
    assert!(command(&["-d"]).status().expect("it runs").success());
    let first = pid();
    serves(&first);
    assert!(command(&["-d", "-R"]).status().expect("it runs").success());
    let second = pid();
    assert_ne!(first, second);
    serves(&second);
    signal(&second, Signal::SIGTERM);
    while place.path("pid").exists() {
        std::thread::yield_now();
    }
}

/// T3, P3: startup parameters that `ignore_startup_parameters` names are dropped, also within `options`, and
/// never a reason to refuse; the others are set.
#[tokio::test]
async fn startup_parameters_are_dropped() {
    let server = Postgres::start().await;
    let settings = "ignore_startup_parameters: \"Search_Path, odd name, geqo\"";
    let pooler = Pooler::start(&server, Setup { settings, ..Setup::default() }).await;
    let more = [
        ("search_path", "nowhere"),
        ("odd name", "1"),
        ("options", "-c geqo=off -c search_path=nowhere -c work_mem=77kB"),
    ];
    let mut raw = Raw::login_with(pooler.port, &more).await;
    let sql = "select current_setting('search_path'), current_setting('geqo'), current_setting('work_mem')";
    let mut query = Vec::new();
    pgpool_wire::frontend::put_query(&mut query, sql.as_bytes());
    let (_, answer) = raw.ask(&query).await;
    let row = String::from_utf8_lossy(&answer).into_owned();
    for value in ["\"$user\", public", "on", "77kB"] {
        assert!(row.contains(value), "{value}: {row}");
    }
}

/// How a user is asked to prove itself: the code of the first authentication request.
async fn asked(port: u16, user: &str) -> u32 {
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    let mut socket = socket.expect("open");
    let mut hello = Vec::new();
    put_startup(&mut hello, V3_0, &[("user", user), ("database", "shop")]);
    socket.write_all(&hello).await.expect("sent");
    let mut front = [0; 9];
    socket.read_exact(&mut front).await.expect("an answer");
    assert_eq!(front[0], b'R');
    u32::from_be_bytes([front[5], front[6], front[7], front[8]])
}

/// P4, T3: `auth_type` says how users prove themselves: with `scram-sha-256` an md5 hash lets nobody in; with
/// `md5` who has a password is asked for an md5 answer, and by SCRAM only who has a verifier, as under
/// PgBouncer.
#[tokio::test]
async fn auth_type_is_applied() {
    const MD5: u32 = 5;
    const SASL: u32 = 10;
    let server = Postgres::start().await;
    for (kind, methods, inside) in [
        ("md5", [SASL, MD5, MD5], [true, true, true]),
        ("scram-sha-256", [SASL, SASL, SASL], [true, false, true]),
    ] {
        let place = Place::new(&server, &format!("auth_type = {kind}")).await;
        for program in ["/usr/sbin/pgbouncer", PGPOOL] {
            let running = place.start(program);
            for (at, user) in ["app", "legacy", "other"].into_iter().enumerate() {
                assert_eq!(asked(place.port, user).await, methods[at], "{program} {kind} {user}");
                let mut psql = place.psql(Path::new("127.0.0.1"), user, PASSWORD, "shop");
                let output = psql.args(["-c", "select 1"]).output().expect("psql runs");
                assert_eq!(output.status.success(), inside[at], "{program} {kind} {user}");
            }
            running.signal(Signal::SIGTERM);
            let _ended = running.ended();
        }
    }
}

/// P3, T3: with `server_reset_query_always` nothing that a function did inside is left to the next client of the
/// server: settings, locks, temporary tables.
#[tokio::test]
async fn a_reset_at_each_release() {
    let server = Postgres::start().await;
    for mode in ["transaction", "statement"] {
        let settings = "server_reset_query_always: true";
        let setup = Setup { mode, settings, ..Setup::default() };
        let pooler = Pooler::start(&server, setup).await;
        let (first, second) = (pooler.client("app").await, pooler.client("app").await);
        let made = "create or replace function hidden() returns int language plpgsql as $$ begin \
                    perform set_config('work_mem', '77kB', false); perform pg_advisory_lock(5); \
                    create temp table left_over (a int); return pg_backend_pid(); end $$";
        first.simple_query(made).await.expect("made");
        let seen = "select current_setting('work_mem') || ' ' || (select count(*) from pg_locks \
                    where locktype = 'advisory' and pid = pg_backend_pid()) || ' ' || \
                    coalesce(to_regclass('left_over')::text, 'none'), pg_backend_pid()::text";
        let look = async |client: &tokio_postgres::Client| {
            let answer = client.simple_query(seen).await.expect("an answer");
            answer
                .iter()
                .find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => {
                        Some([0, 1].map(|at| row.get(at).expect("a value").to_owned()))
                    }
                    _ => None,
                })
                .expect("a row")
        };
        let before = look(&second).await;
        first.simple_query("select hidden()").await.expect("run");
        assert_eq!(look(&second).await, before, "{mode}: the same server, as new");
    }
}

/// O2, T9: what the log tells follows the file: RELOAD turns lines of clients that come on and off.
#[tokio::test]
async fn a_reload_changes_what_is_logged() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "log_connections = 0\nstats_period = 9000").await;
    let running = place.start(PGPOOL);
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    assert!(!place.log().contains("login attempt"), "{}", place.log());
    let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("the file");
    let more = "log_connections = 1\nstats_period = 1\n";
    place.write("pgbouncer.ini", &format!("{ini}{more}"));
    let _told = place.told("root", "pgbouncer", "reload");
    while !place.log().contains(": shop/app@127.0.0.1:") {
        assert_eq!(place.told("app", "shop", "select 1"), "1");
    }
    while !place.log().contains(" stats: ") {
        std::thread::yield_now();
    }
    running.signal(Signal::SIGTERM);
    assert!(running.ended());
}

/// O2: causes have PgBouncer's words, which operators search for.
#[tokio::test]
async fn causes_have_pgbouncers_words() {
    let server = Postgres::start().await;
    let more = "client_idle_timeout = 0.2\nquery_wait_timeout = 0.2\ndefault_pool_size = 1";
    let place = Place::new(&server, more).await;
    let running = place.start(PGPOOL);
    assert!(!place.ask("app", "pgbouncer", "show version").status.success());
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(place.port).user("app").password(PASSWORD).dbname("shop");
    let holds = crate::pooler::connect(&config).await.expect("it gets in");
    holds.batch_execute("begin").await.expect("begun");
    let waits = crate::pooler::connect(&config).await.expect("it gets in");
    waits.batch_execute("select 1").await.expect_err("it waits too long");
    holds.batch_execute("commit").await.expect("ended");
    while !holds.is_closed() {
        tokio::task::yield_now().await;
    }
    for word in ["query_wait_timeout", "client_idle_timeout"] {
        let log = place.log();
        assert!(log.contains(&format!(" closing because: {word} (age=")), "{word}: {log}");
        assert!(log.contains(&format!(" pooler error: {word}\n")), "{word}: {log}");
    }
    running.signal(Signal::SIGTERM);
    assert!(running.ended());
}

/// P2: shells allow fewer descriptors than a pooler has clients: it takes as many as it may.
#[tokio::test]
async fn descriptors_are_as_many_as_there_may_be() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let mut shell = unprivileged(Path::new("sh"));
    let line = "ulimit -Sn 64; exec \"$@\"";
    shell.args(["-c", line, "sh", PGPOOL]).arg(place.path("pgbouncer.ini"));
    let running = place.run(&mut shell);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.0.id()));
    let limits = limits.expect("it runs");
    let files =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line");
    let mut words = files.split_whitespace();
    let (soft, hard) = (words.next(), words.next());
    assert!(soft == hard && hard != Some("64"), "{files}");
    running.signal(Signal::SIGINT);
    assert!(running.ended());
}
