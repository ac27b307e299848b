//! LISTEN of many clients over one server connection: who hears what, and what becomes of it when that connection
//! is lost, the pool is paused, or a client does not read. Real PostgreSQL.
//!
//! Invariant: a test waits for what it is told, never for time.

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Message, Raw, bare, bind, execute, parse, query, tags, text};

/// It has to be asked for.
const SHARED: &str = "shared_listen: true";

/// Channel and payload of a notification.
fn heard(message: &Message) -> (String, String) {
    assert_eq!(message.0, b'A', "{}", text(std::slice::from_ref(message)));
    let mut parts = message.1[4..].split(|byte| *byte == 0);
    let mut next = || String::from_utf8_lossy(parts.next().expect("a text")).into_owned();
    (next(), next())
}

async fn told(raw: &mut Raw) -> (String, String) {
    let message = raw.message().await.expect("it lives");
    heard(&message)
}

fn pair(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

async fn does(raw: &mut Raw, sql: &str, expected: &str) {
    let (seen, _) = raw.ask(&query(sql)).await;
    assert_eq!(seen, expected, "{sql}");
}

/// So many connections of `open` have PostgreSQL, and so many of these listen.
async fn connections(root: &tokio_postgres::Client) -> (i64, i64) {
    let sql = "select count(*), count(*) filter (where application_name = 'pgpool listen')
               from pg_stat_activity where usename = 'open'";
    let row = root.query_one(sql, &[]).await.expect("row");
    (row.get(0), row.get(1))
}

/// P3: twenty clients listen over a pool of one server: one more connection hears for all of them. Each hears its
/// own channels, in order, and what is said after its LISTEN was answered; nobody hears another database's.
#[tokio::test]
async fn one_connection_listens_for_all() {
    let server = Postgres::start().await;
    let more = format!(
        " }}\n      other: {{ primary: 127.0.0.1:{}, server-name: postgres, pool-size: 1",
        server.port
    );
    let pooler =
        Pooler::start(&server, Setup { more: &more, settings: SHARED, ..Setup::default() }).await;
    let mut all = Vec::new();
    for n in 0..20 {
        let mut raw = Raw::login(pooler.port).await;
        does(&mut raw, "listen everybody", "CZ").await;
        does(&mut raw, &format!("LISTEN \"Own {n}\";"), "CZ").await;
        all.push(raw);
    }
    let mut foreign = Raw::login_with(pooler.port, &[("database", "other")]).await;
    does(&mut foreign, "listen everybody", "CZ").await;
    let root = server.root().await;
    assert_eq!(connections(&root).await, (4, 2), "two pools of one, and an ear for each");
    // One of them speaks, and hears itself.
    let (seen, _) = all[7].ask(&query("notify everybody, 'one'; notify \"Own 3\", 'two'")).await;
    assert_eq!(seen.replace('A', ""), "CCZ");
    if !seen.contains('A') {
        assert_eq!(told(&mut all[7]).await, pair("everybody", "one"));
    }
    for (n, raw) in all.iter_mut().enumerate().filter(|(n, _)| *n != 7) {
        assert_eq!(told(raw).await, pair("everybody", "one"), "{n}");
    }
    assert_eq!(told(&mut all[3]).await, pair("Own 3", "two"));
    // A client that stops hears no more; the others go on.
    does(&mut all[3], "unlisten everybody", "CZ").await;
    root.batch_execute("notify everybody, 'three'; notify \"Own 3\", 'four'").await.expect("said");
    assert_eq!(told(&mut all[3]).await, pair("Own 3", "four"));
    assert_eq!(told(&mut all[4]).await, pair("everybody", "three"));
    does(&mut all[3], "UNLISTEN *", "CZ").await;
    root.batch_execute("notify \"Own 3\", 'five'; notify everybody, 'six'").await.expect("said");
    assert_eq!(told(&mut all[4]).await, pair("everybody", "six"));
    does(&mut all[3], "select 1", "TDCZ").await;
    // What was said in one database was never heard in another.
    let other = server.connect("root", crate::postgres::ROOT_PASSWORD, "postgres").await;
    other.batch_execute("notify everybody, 'else'").await.expect("said");
    assert_eq!(told(&mut foreign).await, pair("everybody", "else"));
}

/// P3: LISTEN inside a transaction ties its client to a server, by whichever protocol, and nothing is heard twice; UNLISTEN in any form ends what was heard in any form.
#[tokio::test]
async fn every_form_of_listen_is_heard_once() {
    let server = Postgres::start().await;
    let pooler =
        Pooler::start(&server, Setup { size: 2, settings: SHARED, ..Setup::default() }).await;
    let root = server.root().await;
    let say = async |sql: &str| root.batch_execute(sql).await.expect("said");
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen a", "CZ").await;
    does(&mut raw, "begin", "CZ").await;
    say("notify a, 'inside'").await;
    does(&mut raw, "listen a", "CZ").await;
    does(&mut raw, "listen b", "CZ").await;
    // What came meanwhile waits for the end of the transaction.
    does(&mut raw, "commit", "CZ").await;
    assert_eq!(told(&mut raw).await, pair("a", "inside"));
    say("notify a, 'once'").await;
    assert_eq!(told(&mut raw).await, pair("a", "once"));
    say("notify b, 'tied'").await;
    assert_eq!(told(&mut raw).await, pair("b", "tied"));
    let extended =
        |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0), bare(b'S')].concat();
    let (seen, _) = raw.ask(&extended("listen c")).await;
    assert_eq!(seen, "12CZ");
    say("notify c, 'extended'").await;
    assert_eq!(told(&mut raw).await, pair("c", "extended"));
    let (seen, _) = raw.ask(&extended("unlisten a")).await;
    assert_eq!(seen, "12CZ");
    say("notify a, 'no'; notify b, 'yes'").await;
    assert_eq!(told(&mut raw).await, pair("b", "yes"));
    does(&mut raw, "discard all", "CZ").await;
    drop(raw);

    // Drivers clean a session by several statements at once; a rollback undoes an UNLISTEN.
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen a", "CZ").await;
    does(&mut raw, "begin; unlisten a; rollback", "CCCZ").await;
    say("notify a, 'still'").await;
    assert_eq!(told(&mut raw).await, pair("a", "still"));
    does(&mut raw, "close all; unlisten *; reset all", "CCCZ").await;
    does(&mut raw, "listen d", "CZ").await;
    say("notify a, 'no'; notify d, 'yes'").await;
    assert_eq!(told(&mut raw).await, pair("d", "yes"));
    does(&mut raw, "discard all", "CZ").await;
    does(&mut raw, "listen e", "CZ").await;
    say("notify d, 'no'; notify e, 'yes'").await;
    assert_eq!(told(&mut raw).await, pair("e", "yes"));

    // Among other statements an UNLISTEN ends what it names, and nothing else.
    does(&mut raw, "listen f", "CZ").await;
    does(&mut raw, "unlisten e; listen g", "CCZ").await;
    say("notify e, 'no'; notify f, 'shared'").await;
    assert_eq!(told(&mut raw).await, pair("f", "shared"));
    does(&mut raw, "unlisten * /* all */", "CZ").await;
    say("notify f, 'no'; notify g, 'no'").await;
    does(&mut raw, "listen h", "CZ").await;
    say("notify h, 'yes'").await;
    assert_eq!(told(&mut raw).await, pair("h", "yes"));
    drop(raw);

    // Where it is not asked for, a client that listens keeps its server.
    pooler.rewrite(|text| text.replace(SHARED, ""));
    pooler.reload().await.expect("reloaded");
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen own", "CZ").await;
    raw.send(&query("select count(*) from pg_listening_channels()")).await;
    let messages = raw.until_ready(1).await;
    assert_eq!(crate::raw::columns(&messages[1].1), ["1"]);
}

async fn warned(raw: &mut Raw, words: &str) {
    let (tag, body) = raw.message().await.expect("it lives");
    assert_eq!(tag, b'N');
    let fields = pgpool_wire::backend::Fields::new(&body);
    assert_eq!(fields.code().map(|code| code.to_string()).as_deref(), Some("01000"));
    assert!(String::from_utf8_lossy(&body).contains(words), "{words}");
}

/// P7, O5: the connection that listens is lost, or the pool paused: it is made anew, everybody who may have missed
/// something is told, and the log counts it.
#[tokio::test]
async fn a_lost_listener_comes_back_and_says_so() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { settings: SHARED, ..Setup::default() }).await;
    let root = server.root().await;
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen news", "CZ").await;
    does(&mut raw, "listen olds", "CZ").await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where application_name = 'pgpool listen'";
    root.batch_execute(kill).await.expect("ended");
    warned(&mut raw, "missed from now on").await;
    warned(&mut raw, "made anew").await;
    root.batch_execute("notify olds, 'back'").await.expect("said");
    assert_eq!(told(&mut raw).await, pair("olds", "back"), "it is told once, and hears again");

    let console = pooler.console().await;
    console.batch_execute("pause shop").await.expect("paused");
    assert_eq!(connections(&root).await, (0, 0), "a paused pool has no connection at all");
    warned(&mut raw, "missed from now on").await;
    console.batch_execute("resume shop").await.expect("resumed");
    warned(&mut raw, "made anew").await;
    root.batch_execute("notify news, 'again'").await.expect("said");
    assert_eq!(told(&mut raw).await, pair("news", "again"));
    // SUSPEND leaves it where it is; what is said meanwhile is heard.
    console.batch_execute("suspend").await.expect("suspended");
    root.batch_execute("notify news, 'meanwhile'").await.expect("said");
    assert_eq!(told(&mut raw).await, pair("news", "meanwhile"));
    console.batch_execute("resume").await.expect("resumed");
    console.batch_execute("pause").await.expect("paused");
    warned(&mut raw, "missed from now on").await;
    console.batch_execute("resume").await.expect("resumed");
    warned(&mut raw, "made anew").await;
    // Who leaves takes its channels along; the connection goes when nobody has needed it for a while.
    drop(raw);
    let channels = "select query from pg_stat_activity where application_name = 'pgpool listen'";
    loop {
        let last = root.query_opt(channels, &[]).await.expect("rows");
        if last.is_none_or(|row| row.get::<_, String>(0).starts_with("UNLISTEN")) {
            break;
        }
    }
}

/// O5, P2: channels are bounded per client, and what waits for a client that does not read; a limit that leaves no
/// room for a connection that listens leaves things as they were.
#[tokio::test]
async fn listeners_are_bounded() {
    let server = Postgres::start().await;
    let settings = "shared_listen: true, max_listen_channels: 2, max_user_connections: 1";
    let pooler = Pooler::start(&server, Setup { settings, ..Setup::default() }).await;
    let root = server.root().await;
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen a", "CZ").await;
    assert_eq!(connections(&root).await, (1, 0), "it keeps the only server");
    drop(raw);

    pooler.rewrite(|text| text.replace("max_user_connections: 1", "max_user_connections: 2"));
    pooler.reload().await.expect("reloaded");
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen a", "CZ").await;
    does(&mut raw, "listen b", "CZ").await;
    does(&mut raw, "listen a", "CZ").await;
    let (seen, bytes) = raw.ask(&query("listen c")).await;
    assert_eq!(seen, "EZ");
    assert!(String::from_utf8_lossy(&bytes).contains("53400"));
    does(&mut raw, "unlisten a", "CZ").await;
    does(&mut raw, "listen c", "CZ").await;

    // Another one reads; this one does not.
    let mut reader = Raw::login(pooler.port).await;
    does(&mut reader, "listen c", "CZ").await;
    for _ in 0..20 {
        let many = "select pg_notify('c', repeat('x', 7000) || n) from generate_series(1, 200) n";
        root.batch_execute(many).await.expect("said");
        for n in 1..=200 {
            let (_, payload) = told(&mut reader).await;
            assert!(payload.ends_with(&format!("x{n}")), "{n}");
        }
    }
    let console = pooler.console().await;
    loop {
        let clients = console.simple_query("show clients").await.expect("clients");
        let open = clients.iter().filter(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("user") == Some("open"),
            _ => false,
        });
        if open.count() == 1 {
            break;
        }
    }
    // It has read half of a message: nothing is said inside of it.
    let rest = tags(&raw.until_ready(1).await);
    assert!(rest.chars().all(|tag| tag == 'A'), "{rest}");
    assert!(!String::from_utf8_lossy(raw.left_over()).contains("53400"));
    does(&mut reader, "select 1", "TDCZ").await;
}

/// P2, P7: ears of several pools leave one place of a limit that they share to those who work; one that is lost
/// while the limit is full comes back, as its place was kept.
#[tokio::test]
async fn ears_leave_room_to_work() {
    let server = Postgres::start().await;
    let more = format!(
        " }}\n      other: {{ primary: 127.0.0.1:{}, server-name: postgres, pool-size: 1",
        server.port
    );
    let settings = "shared_listen: true, max_user_connections: 2";
    let pooler = Pooler::start(&server, Setup { settings, more: &more, ..Setup::default() }).await;
    let root = server.root().await;
    let mut first = Raw::login(pooler.port).await;
    does(&mut first, "listen a", "CZ").await;
    let mut second = Raw::login_with(pooler.port, &[("database", "other")]).await;
    // There is no second ear: it takes the place of one that works, and gives it back.
    does(&mut second, "listen a", "CZ").await;
    assert_eq!(connections(&root).await, (2, 1));
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where application_name = 'pgpool listen'";
    root.batch_execute(kill).await.expect("ended");
    warned(&mut first, "missed from now on").await;
    warned(&mut first, "made anew").await;
    does(&mut second, "discard all", "CZ").await;
    does(&mut first, "select 1", "TDCZ").await;
}

/// P7, O5: thousands of channels are listened on anew, and what was said before an UNLISTEN is not heard after it.
#[tokio::test]
async fn many_channels_come_back() {
    let server = Postgres::start().await;
    let settings = "shared_listen: true, max_listen_channels: 0";
    let pooler = Pooler::start(&server, Setup { settings, ..Setup::default() }).await;
    let root = server.root().await;
    let mut raw = Raw::login(pooler.port).await;
    let all: Vec<u8> = (0..2000).flat_map(|n| query(&format!("listen channel_{n}"))).collect();
    raw.send(&all).await;
    assert_eq!(tags(&raw.until_ready(2000).await), "CZ".repeat(2000));
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                where application_name = 'pgpool listen'";
    root.batch_execute(kill).await.expect("ended");
    warned(&mut raw, "missed from now on").await;
    warned(&mut raw, "made anew").await;
    root.batch_execute("notify channel_1999, 'back'").await.expect("said");
    assert_eq!(told(&mut raw).await, pair("channel_1999", "back"));
}

/// P3, O5: notifications come in the encoding of the connection that listens: a client that has changed its own
/// since is ended rather than told something else.
#[tokio::test]
async fn another_encoding_ends_a_listener() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { settings: SHARED, ..Setup::default() }).await;
    let root = server.root().await;
    let mut raw = Raw::login(pooler.port).await;
    does(&mut raw, "listen a", "CZ").await;
    let (seen, _) = raw.ask(&query("set client_encoding = 'LATIN1'")).await;
    assert!(seen.ends_with("CZ") || seen.ends_with("CSZ"), "{seen}");
    root.batch_execute("notify a, 'plain'; notify a, 'größer'").await.expect("said");
    let (mut last, mut heard) = (raw.message().await.expect("told"), 0);
    while last.0 == b'A' {
        heard += 1;
        last = raw.message().await.expect("told");
    }
    assert!(last.0 == b'E' && heard <= 1);
    assert!(String::from_utf8_lossy(&last.1).contains("client_encoding"));
}

/// P3: channels with any letters, which are folded only without quotes; one without a name is refused as PostgreSQL
/// does, and what is no channel alone is not taken for one.
#[tokio::test]
async fn channels_of_any_letters() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { settings: SHARED, ..Setup::default() }).await;
    let mut raw = Raw::login(pooler.port).await;
    for sql in ["listen \"\"", "unlisten \"\""] {
        let (seen, body) = raw.ask(&query(sql)).await;
        assert_eq!(seen, "EZ", "{sql}");
        assert!(String::from_utf8_lossy(&body).contains("42601"), "{sql}");
    }
    let root = server.root().await;
    let names = ["Größe", "ключ", "鍵 \"x\"", "a.b;c", "🔑"];
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        does(&mut raw, &format!("listen {quoted}"), "CZ").await;
        root.batch_execute(&format!("notify {quoted}, 'told'")).await.expect("said");
        assert_eq!(told(&mut raw).await, pair(name, "told"));
        does(&mut raw, &format!("unlisten {quoted}"), "CZ").await;
        root.batch_execute(&format!("notify {quoted}, 'late'")).await.expect("said");
        does(&mut raw, "select 1", "TDCZ").await;
    }
    does(&mut raw, "listen Lower", "CZ").await;
    root.batch_execute("notify \"Lower\", 'other'; notify lower, 'own'").await.expect("said");
    assert_eq!(told(&mut raw).await, pair("lower", "own"));
}
