//! What operators of PgBouncer rely on without a word in its file: files that are away, ports that are shared,
//! sockets and logs that somebody else holds. Not for queries. The binary is started as they do.
//!
//! Invariant: nothing here waits for a time: a state is asked for until it is there, or a process ended.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::dropin::{PGPOOL, Place};
use crate::postgres::{Postgres, unprivileged};

/// O2, P2: `so_reuseport = 1` lets a second process listen on the same port.
#[tokio::test]
async fn two_processes_share_a_port() {
    let server = Postgres::start().await;
    let first = Place::new(&server, "so_reuseport = 1").await;
    let _first = first.start(PGPOOL);
    let more = format!("so_reuseport = 1\nlisten_port = {}", first.port);
    let second = Place::new(&server, &more).await;
    let running = second.start(PGPOOL);
    assert!(second.log().contains(&format!("listening on 127.0.0.1:{}", first.port)));
    assert_eq!(first.told("app", "shop", "select 1"), "1");
    drop(running);
    assert_eq!(first.told("app", "shop", "select 2"), "2");
}

/// P2: without its user list a pooler starts, says so, and knows nobody; with it, they are known.
#[tokio::test]
async fn a_user_list_may_come_later() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "").await;
    let users = std::fs::read_to_string(place.path("userlist.txt")).expect("written");
    std::fs::remove_file(place.path("userlist.txt")).expect("gone");
    let running = place.start(PGPOOL);
    assert!(place.log().contains("could not open auth_file"), "{}", place.log());
    assert!(!place.ask("app", "shop", "select 1").status.success());
    place.write("userlist.txt", &users);
    running.signal(Signal::SIGHUP);
    while !place.ask("app", "shop", "select 1").status.success() {
        std::thread::yield_now();
    }
    // Away again: whoever was known stays so.
    std::fs::remove_file(place.path("userlist.txt")).expect("gone");
    place.told("root", "pgbouncer", "reload");
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    assert!(place.log().contains("its users stay as they were"), "{}", place.log());
}

/// P4: without its rules a pooler starts, says so and lets nobody in, as PgBouncer does; with them, whom they mean; and
/// when a RELOAD finds them gone, nobody again.
#[tokio::test]
async fn rules_may_come_later() {
    let server = Postgres::start().await;
    let place = Place::new(&server, "auth_type = hba\nauth_hba_file = @/hba").await;
    for program in ["/usr/sbin/pgbouncer", PGPOOL] {
        let _first = std::fs::remove_file(place.path("log"));
        let running = place.start(program);
        let missing = format!("could not open hba config file {}", place.path("hba").display());
        assert!(place.log().contains(&missing), "{}", place.log());
        let gets_in = || place.ask("app", "shop", "select 1").status.success();
        assert!(!gets_in(), "{program}");
        place.write("hba", "host all all 127.0.0.1/32 scram-sha-256\n");
        running.signal(Signal::SIGHUP);
        while !gets_in() {
            std::thread::yield_now();
        }
        std::fs::remove_file(place.path("hba")).expect("gone");
        running.signal(Signal::SIGHUP);
        while gets_in() {
            std::thread::yield_now();
        }
        running.signal(Signal::SIGTERM);
        assert!(running.ended() || program != PGPOOL);
    }
}

/// P4: without a map a pooler starts, and rules that need it lead to nobody; without a name for its rules nobody gets in
/// but its owner.
#[tokio::test]
async fn maps_may_be_away() {
    let server = Postgres::start().await;
    let more = "auth_type = hba\nauth_hba_file = @/hba\nauth_ident_file = @/ident";
    let place = Place::new(&server, more).await;
    place.write("hba", "local all all peer map=os\nhost all all 127.0.0.1/32 scram-sha-256\n");
    let running = place.start(PGPOOL);
    assert!(place.log().contains("could not open ident config file"), "{}", place.log());
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    let by_socket = |user: &str, database: &str| {
        let mut psql = unprivileged(Path::new("psql"));
        psql.args(["-X", "-w", "-U", user, "-d", database, "-c", "show version", "-p"]);
        psql.arg(place.port.to_string()).arg("-h").arg(place.folder.path());
        psql.output().expect("psql runs").status.success()
    };
    assert!(!by_socket("app", "shop"));
    let ini = std::fs::read_to_string(place.path("pgbouncer.ini")).expect("its file");
    place.write("pgbouncer.ini", &format!("{ini}auth_hba_file =\n"));
    running.signal(Signal::SIGHUP);
    while place.ask("app", "shop", "select 1").status.success() {
        std::thread::yield_now();
    }
    assert!(by_socket("pgbouncer", "pgbouncer") && !by_socket("app", "shop"));
}

/// P4: rules that PgBouncer reads, or warns about and goes on.
#[tokio::test]
async fn rules_of_pgbouncer() {
    let server = Postgres::start().await;
    let more = "auth_type = hba\nauth_hba_file = @/hba";
    let place = Place::new(&server, more).await;
    place.write("dbs", "shop\n");
    let rules = "host @dbs app all scram-sha-256 map=x\nhost all other localhost md5\n\
                 host \"pgbouncer\",all root all md5\nhost all other,app all trust\n";
    place.write("hba", rules);
    let _running = place.start(PGPOOL);
    let told = place.log();
    assert!(told.contains("hba: line 2: ") && told.contains("is rejected"), "{told}");
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    assert!(!place.ask("other", "shop", "select 1").status.success());
    assert!(place.told("root", "pgbouncer", "show version").starts_with("PgBouncer"));
}

/// P4: `password` without TLS asks for another proof, as `auth_type = plain` does; who has no secret gives none.
#[tokio::test]
async fn a_rule_of_passwords_without_tls() {
    let server = Postgres::start().await;
    let more = "auth_type = hba\nauth_hba_file = @/hba";
    let place = Place::new(&server, more).await;
    place.write("hba", "host all all 127.0.0.1/32 password\n");
    let _running = place.start(PGPOOL);
    assert_eq!(place.told("app", "shop", "select 1"), "1");
    assert!(place.told("root", "pgbouncer", "show version").starts_with("PgBouncer"));
    assert!(!place.ask("nobody", "shop", "select 1").status.success());
    assert!(place.log().contains("a proof is asked for"), "{}", place.log());
}
