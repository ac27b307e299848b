//! Hand-overs from process to process: clients that are idle notice nothing, the others finish where they
//! are. Two instances in this process and a socket between them, or the real program; real PostgreSQL.
//!
//! Invariant: what a test asks after a hand-over is answered by the new instance, as the old one has ended
//! or says whom it still has.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgpool::upgrade::taking;
use pgpool_wire::startup::{V3_0, put_startup};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio_postgres::{Client, NoTls, Statement};

use crate::pooler::{Pooler, Setup, code, connect};
use crate::postgres::{PASSWORD, Postgres};
use crate::raw::{Raw, bare, bind, columns, execute, parse, query, tags};

/// A client with a prepared statement and a setting of its own.
struct Guest {
    client: Client,
    statement: Statement,
    number: i32,
}

impl Guest {
    async fn new(pooler: &Pooler, user: &str, number: i32) -> Self {
        let client = pooler.client(user).await;
        let set = format!("set application_name = 'guest {number}'; set lock_timeout = {number}");
        client.batch_execute("set work_mem = '2MB'").await.expect("set");
        for sql in set.split("; ") {
            client.batch_execute(sql).await.expect("set");
        }
        let sql = "select $1::int4 * 2, current_setting('application_name'), \
                   current_setting('lock_timeout'), current_user::text";
        let statement = client.prepare(sql).await.expect("prepared");
        Self { client, statement, number }
    }

    /// Everything is as it was.
    async fn check(&self, user: &str) {
        let row = self.client.query_one(&self.statement, &[&self.number]).await;
        let row = row.unwrap_or_else(|fault| panic!("{}: {fault:?}", self.number));
        assert_eq!(row.get::<_, i32>(0), self.number * 2);
        assert_eq!(row.get::<_, String>(1), format!("guest {}", self.number));
        assert_eq!(row.get::<_, String>(2), format!("{}ms", self.number));
        assert_eq!(row.get::<_, String>(3), user);
    }
}

/// Until so many are there: those that move are on their way when the old process has ended.
async fn until_clients(pooler: &Pooler, count: usize) {
    let handle = pooler.running.as_ref().expect("it runs").handle();
    while handle.report().await.counts.clients != count {
        tokio::task::yield_now().await;
    }
}

/// P7, O3: idle clients of every kind of login go on in the new process with their statements, settings,
/// role and cancel keys, and the old process ends: it has nobody any more.
#[tokio::test]
async fn idle_clients_move_and_notice_nothing() {
    idle_clients_move("").await;
}

/// P7, O3: the same of pools that are spread over two workers, into a process with three.
#[tokio::test]
async fn idle_clients_of_all_shards_move() {
    idle_clients_move(", pool-shards: 2").await;
}

async fn idle_clients_move(more: &str) {
    let server = Postgres::start().await;
    let mut old = Pooler::start(&server, Setup { size: 2, more, ..Setup::default() }).await;
    let users = ["app", "other", "legacy", "open"];
    let mut guests = Vec::new();
    for number in 1..=24 {
        let user = users[number as usize % users.len()];
        guests.push((Guest::new(&old, user, number).await, user));
    }
    let mut raw = Raw::login(old.port).await;
    let (seen, _) = raw.ask(&[parse("", "select 'unnamed'"), bare(b'S')].concat()).await;
    assert_eq!(seen, "1Z");
    let new = old.hand_over().await;
    old.running.take().expect("it ran").finished().await.expect("all have moved");
    until_clients(&new, guests.len() + 1).await;
    for (guest, user) in &guests {
        guest.check(user).await;
    }
    raw.send(&[bind("", "", &[]), execute("", 0), bare(b'S')].concat()).await;
    let answer = raw.until_ready(1).await;
    assert_eq!(tags(&answer), "2DCZ", "an unnamed statement is bound after the move");
    assert_eq!(columns(&answer[1].1), ["unnamed"]);
    for (guest, _) in guests.iter().take(4) {
        cancel(&guest.client).await;
    }
    // And whoever comes now is served as ever, under numbers that nobody has.
    let late = Guest::new(&new, "app", 99).await;
    late.check("app").await;
    cancel(&late.client).await;
    guests[0].0.client.batch_execute("begin; rollback").await.expect("served");
}

/// Its key still ends its query.
async fn cancel(client: &Client) {
    let token = client.cancel_token();
    // Its settings are made on the server before.
    client.batch_execute("begin").await.expect("begun");
    let over = std::cell::Cell::new(false);
    let cancels = async {
        // One that comes before the query runs hits nothing.
        while !over.get() {
            token.cancel_query(NoTls).await.expect("taken");
            tokio::task::yield_now().await;
        }
    };
    let slow = async {
        let fault = client.batch_execute("select pg_sleep(600)").await.expect_err("cancelled");
        over.set(true);
        assert_eq!(code(&fault), "57014");
    };
    tokio::join!(slow, cancels);
    client.batch_execute("rollback").await.expect("it goes on");
}

/// P7: who has begun something finishes it in the old process, even if it is cancelled by way of the new
/// one, and moves then.
#[tokio::test]
async fn busy_clients_finish_and_move_then() {
    let server = Postgres::start().await;
    let mut old = Pooler::start(&server, Setup { size: 4, ..Setup::default() }).await;
    let guests = [Guest::new(&old, "app", 1).await, Guest::new(&old, "open", 2).await];
    for guest in &guests {
        guest
            .client
            .batch_execute("begin; insert into t values (1, 'begun')")
            .await
            .expect("begun");
    }
    let mut slow = Raw::login(old.port).await;
    slow.send(&query("select pg_sleep(600)")).await;
    // One message in two parts: what has come of it is in the old process.
    let mut half = Raw::login(old.port).await;
    let (front, back) = (query("select 'whole'"), 9);
    half.send(&front[..back]).await;
    let new = old.hand_over().await;
    guests[0].check("app").await;
    guests[0]
        .client
        .batch_execute("insert into t values (2, 'begun'); commit")
        .await
        .expect("finished");
    guests[1].client.batch_execute("rollback").await.expect("finished");
    half.send(&front[back..]).await;
    let answer = half.until_ready(1).await;
    assert_eq!(columns(&answer[1].1), ["whole"]);
    // The new process has the port, and knows nothing of this query.
    let key = slow.key.clone();
    let cancels = async {
        loop {
            Raw::cancel(new.port, &key).await;
        }
    };
    tokio::select! {
        answer = slow.until_ready(1) => assert!(tags(&answer).ends_with("EZ"), "{}", tags(&answer)),
        () = cancels => unreachable!("it goes on for ever"),
    }
    old.running.take().expect("it ran").finished().await.expect("nobody is left");
    until_clients(&new, 4).await;
    guests[0].check("app").await;
    guests[1].check("open").await;
    let (seen, bytes) = slow.ask(&query("select sum(a)::text from t where b = 'begun'")).await;
    assert!(
        seen == "TDCZ" && String::from_utf8_lossy(&bytes).contains("\u{1}3"),
        "{seen} {bytes:?}"
    );
}

/// P7: a client by TLS cannot move: it finishes what it has begun, is told that the process ends, and finds
/// the new one when it comes again. So does one whose session lives on its server, and one that listens.
#[tokio::test]
async fn clients_that_cannot_move_drain() {
    let server = Postgres::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut old =
        Pooler::start(&server, Setup { size: 4, tls: Some(pem), ..Setup::default() }).await;
    let target = format!("host=127.0.0.1 port={} dbname=shop user=app sslmode=require", old.port);
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["-X", "-A", "-t", "-d", &target]).env("PGPASSWORD", PASSWORD);
    psql.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    psql.stderr(std::process::Stdio::piped());
    let mut psql = psql.spawn().expect("psql runs");
    let mut input = psql.stdin.take().expect("piped");
    let mut output = BufReader::new(psql.stdout.take().expect("piped"));
    input.write_all(b"begin;\nselect 'begun';\n").await.expect("said");
    let mut line = String::new();
    while line.trim() != "begun" {
        line.clear();
        output.read_line(&mut line).await.expect("heard");
    }
    let pinned = old.client("other").await;
    pinned.batch_execute("create temporary table own (a int)").await.expect("pinned");
    let listens = old.client("open").await;
    listens.batch_execute("listen news").await.expect("listens");
    let new = old.hand_over().await;
    for (client, sql) in [(&pinned, "select count(*) from own"), (&listens, "select 1")] {
        let fault = loop {
            if let Err(fault) = client.batch_execute(sql).await {
                break fault;
            }
        };
        assert!(fault.is_closed() || code(&fault) == "57P01", "{fault:?}");
    }
    input.write_all(b"select 'still';\ncommit;\n").await.expect("said");
    while line.trim() != "COMMIT" {
        line.clear();
        assert_ne!(output.read_line(&mut line).await.expect("heard"), 0, "it was cut off");
    }
    old.running.take().expect("it ran").finished().await.expect("nobody is left");
    drop(input);
    let mut told = String::new();
    output.read_to_string(&mut told).await.expect("heard");
    psql.wait().await.expect("it ends");
    until_clients(&new, 0).await;
    let again = connect(&new.config("other", PASSWORD, "shop")).await.expect("the new one serves");
    again.batch_execute("select 1").await.expect("served");
}

/// P7, O5: a new process that ends, is of another version, or says what nobody understands leaves the old one
/// serving everything, and the next hand-over is done.
#[tokio::test]
async fn a_failed_hand_over_changes_nothing() {
    let server = Postgres::start().await;
    let mut old = Pooler::start(&server, Setup::default()).await;
    let guest = Guest::new(&old, "app", 7).await;
    let handle = old.running.as_ref().expect("it runs").handle();
    let answers: [&[u8]; 4] = [
        b"",
        b"\0\0\0\x09\0\0\0\0\"Serving\"",
        b"\0\0\0\x02\0\0\0\0{}",
        b"\xff\xff\xff\xff\0\0\0\0",
    ];
    for answer in answers {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        handle.yield_to(ours, 1);
        let ended = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let mut theirs = theirs;
            theirs.read_exact(&mut [0; 8]).expect("it says something");
            theirs.write_all(answer).expect("said");
            theirs.shutdown(std::net::Shutdown::Write).expect("ended");
            // Until it has given up.
            theirs.read_to_end(&mut Vec::new())
        });
        let _reset = ended.await.expect("no panic");
        guest.check("app").await;
        Guest::new(&old, "open", 8).await.check("open").await;
    }
    // One that has heard all and cannot start.
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    handle.yield_to(ours, 1);
    let estate = tokio::task::spawn_blocking(move || taking::from(theirs)).await.expect("no panic");
    drop(estate.expect("offered"));
    guest.check("app").await;
    // A pause would be forgotten.
    old.console().await.batch_execute("pause").await.expect("paused");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    handle.yield_to(ours, 1);
    let estate = tokio::task::spawn_blocking(move || taking::from(theirs)).await.expect("no panic");
    assert!(estate.is_err());
    old.console().await.batch_execute("resume").await.expect("resumed");
    guest.check("app").await;
    let new = old.hand_over().await;
    old.running.take().expect("it ran").finished().await.expect("all have moved");
    guest.check("app").await;
    Guest::new(&new, "open", 9).await.check("open").await;
}

/// What a new process says, or is told, once it has heard the offers; blocking.
fn say(mut to: &UnixStream, word: &str) {
    use std::io::Write;
    let length = u32::try_from(word.len()).expect("short").to_be_bytes();
    to.write_all(&[&length[..], &[0; 4], word.as_bytes()].concat()).expect("said");
}

fn hear(mut from: &UnixStream) -> String {
    use std::io::Read;
    let mut head = [0; 8];
    from.read_exact(&mut head).expect("it says something");
    let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes"));
    let mut word = vec![0; length as usize];
    from.read_exact(&mut word).expect("all of it");
    String::from_utf8(word).expect("text")
}

/// A new process that has heard what an old one offers.
async fn offered(old: &Pooler) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    old.running.as_ref().expect("it runs").handle().yield_to(ours, 1);
    let hears = tokio::task::spawn_blocking(move || {
        drop(taking::from(theirs.try_clone().expect("a descriptor")).expect("offered"));
        theirs
    });
    hears.await.expect("no panic")
}

/// P7: a pause that somebody asks for while the new process begins is not forgotten: nothing is handed over.
#[tokio::test]
async fn a_pause_meanwhile_stops_the_hand_over() {
    let server = Postgres::start().await;
    let old = Pooler::start(&server, Setup::default()).await;
    let guest = Guest::new(&old, "app", 7).await;
    let new = offered(&old).await;
    old.console().await.batch_execute("pause").await.expect("paused");
    let heard = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        say(&new, "\"Armed\"");
        let mut heard = Vec::new();
        (&new).read_to_end(&mut heard).expect("it is told that nothing comes of it");
        heard
    });
    assert!(heard.await.expect("no panic").is_empty());
    old.console().await.batch_execute("resume").await.expect("resumed");
    guest.check("app").await;
}

/// P7, O5: a new process that says what nobody understands once it serves is heard no more, and no client
/// hangs: who cannot move is told that the process ends, and it ends.
#[tokio::test]
async fn a_broken_way_leaves_nobody_hanging() {
    let server = Postgres::start().await;
    let mut old = Pooler::start(&server, Setup { size: 4, ..Setup::default() }).await;
    let idle = old.client("open").await;
    let busy = old.client("app").await;
    busy.batch_execute("begin; insert into t values (1, 'kept')").await.expect("begun");
    let new = offered(&old).await;
    let ends = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        say(&new, "\"Armed\"");
        assert_eq!(hear(&new), "\"Given\"");
        say(&new, "\"Serving\"");
        say(&new, "{}");
        // The clients that come are lost with the way, and closed.
        let mut passed = Vec::new();
        (&new).read_to_end(&mut passed).expect("the old process ends the way");
    });
    ends.await.expect("no panic");
    busy.batch_execute("commit").await.expect("it finishes");
    for client in [&idle, &busy] {
        let fault = loop {
            if let Err(fault) = client.batch_execute("select 1").await {
                break fault;
            }
        };
        assert!(fault.is_closed() || code(&fault) == "57P01", "{fault:?}");
    }
    old.running.take().expect("it ran").finished().await.expect("nobody is left");
}

/// P7: who is about to log in while a process hands over does so there, and moves then.
#[tokio::test]
async fn a_login_that_has_begun_is_finished() {
    let server = Postgres::start().await;
    let mut old = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let guest = Guest::new(&old, "app", 7).await;
    let mut late = TcpStream::connect(("127.0.0.1", old.port)).await.expect("open");
    // An answer shows that it was accepted.
    late.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.expect("asked for TLS");
    assert_eq!(late.read_u8().await.expect("answered"), b'N');
    let new = old.hand_over().await;
    until_clients(&new, 1).await;
    // Longer than the old process looks for clients.
    guest.client.batch_execute("select pg_sleep(0.5)").await.expect("served");
    let mut hello = Vec::new();
    put_startup(&mut hello, V3_0, &[("user", "open"), ("database", "shop")]);
    late.write_all(&hello).await.expect("sent");
    old.running.take().expect("it ran").finished().await.expect("all have moved");
    until_clients(&new, 2).await;
    late.write_all(&query("select 'served'")).await.expect("sent");
    let (mut answer, served) = (Vec::new(), b"served\0".len() - 1);
    while !answer.windows(served).any(|bytes| bytes == b"served") {
        assert_ne!(late.read_buf(&mut answer).await.expect("answered"), 0, "it was cut off");
    }
}

/// P7: a process hands nothing over while the one before drains, and does when that has ended.
#[tokio::test]
async fn one_hand_over_at_a_time() {
    let server = Postgres::start().await;
    let mut first = Pooler::start(&server, Setup { size: 4, ..Setup::default() }).await;
    let guest = Guest::new(&first, "app", 7).await;
    guest.client.batch_execute("begin").await.expect("begun");
    let mut second = first.hand_over().await;
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    second.running.as_ref().expect("it runs").handle().yield_to(ours, 1);
    let estate = tokio::task::spawn_blocking(move || taking::from(theirs)).await.expect("no panic");
    assert!(estate.is_err());
    guest.client.batch_execute("rollback").await.expect("finished");
    first.running.take().expect("it ran").finished().await.expect("nobody is left");
    let third = second.hand_over().await;
    second.running.take().expect("it ran").finished().await.expect("nobody is left");
    until_clients(&third, 1).await;
    guest.check("app").await;
}

/// P7, O3: ten hand-overs in a row under traffic: not one query fails, and clients keep what is theirs.
#[tokio::test]
async fn ten_hand_overs_lose_nothing() {
    let server = Postgres::start().await;
    let mut pooler = Pooler::start(&server, Setup { size: 3, ..Setup::default() }).await;
    let mut guests = Vec::new();
    for number in 1..=20 {
        guests.push(Guest::new(&pooler, "app", number).await);
    }
    for round in 0..10 {
        let (port, more) = (pooler.port, pooler.config("open", "", "shop"));
        let traffic = async {
            for _ in 0..5 {
                for guest in &guests {
                    guest.check("app").await;
                }
                let late =
                    connect(&more).await.unwrap_or_else(|fault| panic!("{round}: {fault:?}"));
                late.batch_execute("begin; select 1; commit").await.expect("served");
            }
        };
        let (next, ()) = tokio::join!(pooler.hand_over(), traffic);
        assert_eq!(next.port, port);
        let mut old = std::mem::replace(&mut pooler, next);
        old.running.take().expect("it ran").finished().await.expect("it ends");
    }
    for guest in &guests {
        guest.check("app").await;
    }
    cancel(&guests[0].client).await;
}

/// The real program, and the processes that follow it by hand-overs; heard by their log.
pub(crate) struct Program {
    log: Lines<BufReader<pipe::Receiver>>,
    /// Of the one that serves.
    pub(crate) process: i32,
    children: Vec<tokio::process::Child>,
}

/// How the program is asked to run a file.
pub(crate) const ASKED: [&str; 5] = ["--log-format", "json", "--workers", "2", "--topology"];

impl Program {
    fn start(file: &Path) -> Self {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgpool"));
        command.args(ASKED).arg(file);
        Self::of(command)
    }

    pub(crate) fn of(mut command: tokio::process::Command) -> Self {
        let (write, read) = pipe::pipe().expect("a pipe");
        let write = write.into_blocking_fd().expect("a descriptor");
        let child =
            command.kill_on_drop(true).stderr(Stdio::from(write)).spawn().expect("it starts");
        let process = child.id().expect("it runs") as i32;
        Self { log: BufReader::new(read).lines(), process, children: vec![child] }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process), signal).expect("sent");
    }

    /// A field of the next line with this message.
    pub(crate) async fn hear(&mut self, message: &str, field: &str) -> String {
        while let Some(line) = self.log.next_line().await.expect("heard") {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"] == message {
                return line[field].to_string().trim_matches('"').to_owned();
            }
            assert_ne!(line["level"], "ERROR", "instead of `{message}`: {line}");
        }
        panic!("the log ended before `{message}`");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = kill(Pid::from_raw(self.process), Signal::SIGKILL);
    }
}

/// P7, O3: USR2 starts the program anew and hands over: clients by TCP and by unix socket go on, the socket's
/// file stays, the old process ends well; a broken file stops it, and says so.
#[tokio::test]
async fn usr2_hands_over_to_a_new_program() {
    let server = Postgres::start().await;
    let mut written = Pooler::start(&server, Setup::default()).await;
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join(".s.PGSQL.6432");
    let at = format!("listen: [127.0.0.1:0, \"unix:{}:6432\"]", folder.path().display());
    written.rewrite(|text| text.replace("listen: 127.0.0.1:0", &at));
    let mut program = Program::start(&written.file());
    let address = program.hear("listening", "address").await;
    written.port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    program.hear("listening", "address").await;
    let mut local = tokio_postgres::Config::new();
    local.host_path(folder.path()).port(6432).user("open").dbname("shop");
    let local = connect(&local).await.expect("by socket");
    local.batch_execute("set lock_timeout = 77").await.expect("set");
    let guest = Guest::new(&written, "app", 3).await;
    for _ in 0..2 {
        program.signal(Signal::SIGUSR2);
        let process = program.hear("handed over", "process").await;
        program.process = process.parse().expect("a number");
        guest.check("app").await;
        let row = local.query_one("show lock_timeout", &[]).await.expect("it goes on");
        assert_eq!(row.get::<_, String>(0), "77ms");
        if let Some(mut first) = program.children.pop() {
            assert!(first.wait().await.expect("it ends").success());
        }
        assert!(socket.exists(), "the old one took the socket away");
    }
    written.rewrite(|text| format!("pools: [{text}"));
    program.signal(Signal::SIGUSR2);
    program.hear("upgrade failed, going on", "cause").await;
    guest.check("app").await;
    cancel(&guest.client).await;
    program.signal(Signal::SIGTERM);
    while program.log.next_line().await.expect("heard").is_some() {}
    assert!(!socket.exists(), "nothing is left");
}
