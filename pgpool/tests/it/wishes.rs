//! LISTEN as drivers say it: what PostgreSQL answers directly, and what a client of a shared listener is answered. Not for
//! who hears what, which is `listen`. Real PostgreSQL.
//!
//! Invariant: direct and pooled are asked the same bytes, in the same order.

use crate::oracle::comparable;
use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Message, Raw, bare, bind, execute, parse, query, subject, text};

const SHARED: &str = "shared_listen: true";

/// Who says it or what it is, and bytes that end with one ReadyForQuery.
type Said = (&'static str, Vec<u8>);

/// What drivers say.
fn drivers() -> Vec<Said> {
    let sync = || bare(b'S');
    let describe = |name: &str| subject(b'D', b'P', name);
    let prepare =
        |name: &str, sql: &str| [parse(name, sql), subject(b'D', b'S', name), bare(b'S')].concat();
    let run = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    let whole = |sql: &str, rows| {
        [parse("", sql), bind("", "", &[]), describe(""), execute("", rows), sync()].concat()
    };
    vec![
        ("JDBC", whole("LISTEN jobs", 0)),
        ("JDBC, one row", whole("listen \"Own jobs\";", 1)),
        ("Npgsql, again", whole("LISTEN jobs", 0)),
        ("asyncpg prepares", prepare("__asyncpg_stmt_1__", "LISTEN \"more\"")),
        ("asyncpg runs", run("__asyncpg_stmt_1__")),
        ("asyncpg runs again", run("__asyncpg_stmt_1__")),
        ("asyncpg without names prepares", prepare("", "LISTEN unnamed")),
        ("asyncpg without names runs", run("")),
        ("tokio-postgres prepares", prepare("s0", "listen s0")),
        ("tokio-postgres runs", run("s0")),
        ("tokio-postgres closes", [subject(b'C', b'S', "s0"), sync()].concat()),
        ("the name is free", prepare("s0", "select 7")),
        ("and means another", run("s0")),
        (
            "all at once",
            [
                parse("s1", "listen s1"),
                subject(b'D', b'S', "s1"),
                bind("p1", "s1", &[]),
                describe("p1"),
                execute("p1", 0),
                subject(b'C', b'P', "p1"),
                subject(b'C', b'S', "s1"),
                bare(b'H'),
                sync(),
            ]
            .concat(),
        ),
        ("it is closed", run("s1")),
        (
            "it stays",
            [parse("s2", "unlisten s1"), bind("", "s2", &[]), execute("", 0), sync()].concat(),
        ),
        ("and runs", run("s2")),
        (
            "the name is taken",
            [parse("s2", "unlisten s1"), bind("", "s2", &[]), execute("", 0), sync()].concat(),
        ),
        ("UNLISTEN", whole("UNLISTEN jobs", 0)),
        ("UNLISTEN *", whole("UNLISTEN *", 0)),
        ("an unnamed statement", prepare("", "select 8")),
        ("a simple query", query("listen jobs")),
        ("has destroyed it", run("")),
        ("another", prepare("", "select 9")),
        ("a simple UNLISTEN", query("unlisten jobs")),
        ("has destroyed it as well", run("")),
        ("the portal is gone", [execute("p1", 0), sync()].concat()),
    ]
}

/// What PostgreSQL refuses, or what does more.
fn others() -> Vec<Said> {
    let begin = || parse("", "listen jobs");
    let end = || [execute("", 0), bare(b'S')].concat();
    vec![
        ("a parameter", [begin(), bind("", "", &["x"]), end()].concat()),
        ("no such statement", [bind("", "none", &[]), end()].concat()),
        ("no such portal", [begin(), bind("p", "", &[]), end()].concat()),
        ("it is not run", [begin(), bind("", "", &[]), bare(b'S')].concat()),
        ("run twice", [begin(), bind("", "", &[]), execute("", 0), end()].concat()),
        ("another after it", [begin(), bind("", "", &[]), execute("", 0), begin(), end()].concat()),
        ("two statements", [parse("", "listen a; listen b"), bind("", "", &[]), end()].concat()),
        ("a qualified name", [parse("", "listen a.b"), bind("", "", &[]), end()].concat()),
        ("no name", query("listen \"\"")),
        ("all", query("listen *")),
    ]
}

async fn ask(raw: &mut Raw, bytes: &[u8]) -> Vec<Message> {
    raw.send(bytes).await;
    raw.until_ready(1).await
}

/// P1, P3: by the extended protocol as by simple queries, whatever driver says it: PostgreSQL's own answers, and the
/// client keeps no server.
#[tokio::test]
async fn listen_by_messages_ties_nobody() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { settings: SHARED, ..Setup::default() }).await;
    let mut direct = Raw::login(server.port).await;
    let (mut raw, mut other) = (Raw::login(pooler.port).await, Raw::login(pooler.port).await);
    for (what, bytes) in drivers() {
        let (expected, heard) = (ask(&mut direct, &bytes).await, ask(&mut raw, &bytes).await);
        let same = comparable(&heard, true) == comparable(&expected, true);
        assert!(same, "{what}: {}\nnot {}", text(&heard), text(&expected));
        // There is one server, and it is free.
        let seen = other.ask(&query("select 1")).await.0;
        assert_eq!(seen, "TDCZ", "{what}");
    }
    let (expected, _) = direct.ask(&query("listen \"select\"")).await;
    assert_eq!(raw.ask(&query("listen \"select\"")).await.0, expected);

    // Cut anywhere, and one after the other in one packet.
    let listen = |name: &str| {
        let sql = format!("listen {name}");
        [parse("", &sql), bind("", "", &[]), execute("", 0), bare(b'S')].concat()
    };
    let bytes = listen("cut");
    for end in 1..bytes.len() {
        raw.send(&bytes[..end]).await;
        assert_eq!(other.ask(&query("select 1")).await.0, "TDCZ", "{end}");
        assert_eq!(raw.ask(&bytes[end..]).await.0, "12CZ", "{end}");
    }
    raw.send(&[listen("one"), listen("two"), query("select 1")].concat()).await;
    assert_eq!(crate::raw::tags(&raw.until_ready(3).await), "12CZ12CZTDCZ");
    server.root().await.batch_execute("notify cut; notify jobs; notify two").await.expect("said");
    for name in ["cut", "two"] {
        let (tag, body) = raw.message().await.expect("heard");
        assert_eq!((tag, &body[4..]), (b'A', format!("{name}\0\0").as_bytes()));
    }
}

/// P1: whatever word a channel is called by, reserved or not, in either protocol, PostgreSQL's word counts; so it does
/// for messages that are no plain LISTEN.
#[tokio::test]
async fn what_is_no_channel_is_refused_by_postgresql() {
    let server = Postgres::start().await;
    let settings = "shared_listen: true, max_listen_channels: 0";
    let pooler = Pooler::start(&server, Setup { settings, size: 2, ..Setup::default() }).await;
    let root = server.root().await;
    let words = root.query("select word from pg_get_keywords()", &[]).await.expect("words");
    let (mut direct, mut raw) = (Raw::login(server.port).await, Raw::login(pooler.port).await);
    for row in &words {
        let word: String = row.get(0);
        for verb in ["listen", "unlisten", "LISTEN"] {
            let sql = format!("{verb} {word}");
            let (expected, heard) =
                (ask(&mut direct, &query(&sql)).await, ask(&mut raw, &query(&sql)).await);
            assert!(heard == expected, "{sql}: {}\nnot {}", text(&heard), text(&expected));
            let bytes = [parse("", &sql), bind("", "", &[]), execute("", 0), bare(b'S')].concat();
            let (expected, heard) = (ask(&mut direct, &bytes).await, ask(&mut raw, &bytes).await);
            assert!(heard == expected, "{sql}: {}\nnot {}", text(&heard), text(&expected));
        }
    }
    let busy = "select count(*) from pg_listening_channels()";
    let (_, row) = ask(&mut raw, &query(busy)).await.swap_remove(1);
    assert_eq!(crate::raw::columns(&row), ["0"], "no word has tied it");
    let mut odd = Raw::login(pooler.port).await;
    for (what, bytes) in others() {
        let expected = ask(&mut direct, &bytes).await;
        let heard = ask(&mut odd, &bytes).await;
        let same = comparable(&heard, true) == comparable(&expected, true);
        assert!(same, "{what}: {}\nnot {}", text(&heard), text(&expected));
    }
}
