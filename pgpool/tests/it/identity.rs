//! `pgpool` started by root with `user`, as PgBouncer may be: what root alone may read is read, and the process is that
//! user's. Only root can show it: for anybody else there is nothing to do here.
//!
//! Invariant: what the process was, the kernel says (proc(5)), not its log.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::dropin::{PGPOOL, Place};
use crate::pooler::certificates;
use crate::postgres::{PASSWORD, Postgres, ROOT_PASSWORD, is_root};

/// For root alone, or for everybody.
fn close(path: &Path, mode: u32) {
    chown(path, Some(0), Some(0)).expect("root's");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
}

/// As a user over TLS; the answer, or what psql says.
fn ask(place: &Place, (user, database): (&str, &str), sql: &str) -> Result<String, String> {
    let target = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user={user} dbname={database} sslmode=verify-full \
         sslrootcert={}",
        place.port,
        place.path("ca.pem").display()
    );
    let password = if user == "root" { ROOT_PASSWORD } else { PASSWORD };
    let mut psql = Command::new("psql");
    psql.args(["-X", "-A", "-t", "-d", &target, "-c", sql]).env("PGPASSWORD", password);
    let output = psql.output().expect("psql runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Says RELOAD; whether it was done.
fn reload(place: &Place) -> bool {
    ask(place, ("root", "pgbouncer"), "reload").is_ok()
}

/// The ids of a process: real, effective, saved and of files.
fn ids(process: i32, kind: &str) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).expect("a line");
    line.split_whitespace().map(|id| id.parse().expect("a number")).collect()
}

fn pid(place: &Place) -> i32 {
    let pid = std::fs::read_to_string(place.path("pid")).expect("a pid");
    pid.trim().parse().expect("a number")
}

const FILES: [&str; 4] = ["pgbouncer.ini", "userlist.txt", "hba", "key.pem"];

async fn place(server: &Postgres) -> Place {
    let more = "user = postgres\nclient_tls_sslmode = allow\nclient_tls_key_file = @/key.pem\n\
                client_tls_cert_file = @/chain.pem\nclient_tls_ca_file = @/ca.pem\n\
                auth_type = hba\nauth_hba_file = @/hba";
    let place = Place::new(server, more).await;
    let _names = certificates(place.folder.path());
    place.write("hba", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
    FILES.iter().for_each(|name| close(&place.path(name), 0o600));
    place
}

/// O3, T3: started by root with `user`, it has read what root alone may read, and is nothing but that user from then
/// on, also where `-R` takes over; its log, pid file and socket are that user's.
#[tokio::test]
async fn files_of_root_alone_are_read() {
    if !is_root() {
        return;
    }
    let server = Postgres::start().await;
    let place = place(&server).await;
    let user = User::from_name("postgres").expect("looked up").expect("it is there");
    let (own, group) = (user.uid.as_raw(), user.gid.as_raw());
    let start = |arguments: &[&str]| {
        let mut command = Command::new(PGPOOL);
        let output = command.args(arguments).arg(place.path("pgbouncer.ini")).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    start(&["-d"]);
    let mut config = tokio_postgres::Config::new();
    config.host_path(place.folder.path()).port(place.port).user("other").dbname("shop");
    let client = crate::pooler::connect(&config).await.expect("it gets in");
    let first = pid(&place);
    for round in ["started", "taken over"] {
        let process = pid(&place);
        assert_eq!(ids(process, "Uid:"), [own; 4], "{round}");
        assert_eq!((ids(process, "Gid:"), ids(process, "Groups:")), (vec![group; 4], vec![group]));
        assert_eq!(ask(&place, ("app", "shop"), "select 7").as_deref(), Ok("7"), "{round}");
        for name in ["log", "pid"] {
            let file = std::fs::metadata(place.path(name)).expect("a file");
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&file), own, "{round}: {name}");
        }
        client.batch_execute("select 1").await.expect("it goes on");
        if process == first {
            start(&["-d", "-R"]);
            while kill(Pid::from_raw(first), None).is_ok() {
                std::thread::yield_now();
            }
        }
    }
    kill(Pid::from_raw(pid(&place)), Signal::SIGTERM).expect("sent");
    while place.path("pid").exists() {
        std::thread::yield_now();
    }
}

/// T9, O5: RELOAD reads as the user: without the ini it is refused, and all goes on; without a key, or a list of users
/// or rules, what was read at start stays, with its certificate, and the rest of the file holds.
#[tokio::test]
async fn a_reload_does_without_what_is_roots() {
    if !is_root() {
        return;
    }
    let server = Postgres::start().await;
    let place = place(&server).await;
    let mut command = Command::new(PGPOOL);
    let running = place.run(command.arg(place.path("pgbouncer.ini")));
    assert!(!reload(&place), "the ini is root's");
    assert_eq!(ask(&place, ("app", "shop"), "select 1").as_deref(), Ok("1"));

    let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("the file");
    place.write("pgbouncer.ini", &format!("{ini}\nquery_timeout = 77\n"));
    // The certificate alone may be read, and it is another one by now.
    let old = std::fs::read_to_string(place.path("ca.pem")).expect("an authority");
    let _names = certificates(place.folder.path());
    std::fs::write(place.path("ca.pem"), old).expect("written");
    close(&place.path("key.pem"), 0o600);
    for _ in 0..2 {
        assert!(reload(&place), "{}", place.log());
    }
    let shown = ask(&place, ("root", "pgbouncer"), "show config").expect("the old certificate");
    assert!(shown.lines().any(|line| line.starts_with("query_timeout|77")), "{shown}");
    assert_eq!(ask(&place, ("app", "shop"), "select 2").as_deref(), Ok("2"));
    for name in ["key.pem", "hba"] {
        let note = format!("/{name} as this user: it stays as it was read at start");
        assert_eq!(place.log().matches(&note).count(), 2, "{name}: {}", place.log());
    }
    assert!(place.log().contains("its users stay as they were"));
    ask(&place, ("root", "pgbouncer"), "set query_timeout = 78").expect("set");

    // What may be read again counts.
    place.write("hba", "hostssl pgbouncer all 127.0.0.1/32 scram-sha-256\n");
    assert!(reload(&place));
    ask(&place, ("app", "shop"), "select 3").expect_err("no rule is for it");
    running.signal(Signal::SIGTERM);
    assert!(running.ended());
}
