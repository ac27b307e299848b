//! Clients that vanish, servers that die, queries that are cancelled. Not for refusals at login.
//! Real PostgreSQL.
//!
//! Invariant: whoever comes next sees nothing of it.

use pgpool_wire::backend::Fields;
use pgpool_wire::frontend;
use tokio::io::AsyncWriteExt;
use tokio_postgres::NoTls;

use crate::pooler::{Pooler, Setup, code};
use crate::postgres::Postgres;
use crate::raw::Raw;

/// Everything that leaves something half done, in one go.
fn script() -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"mine", b"select 'stranger', $1::text\0\0\x01\0\0\0\x19");
    frontend::put_bind_head(&mut out, b"", b"mine", 4 + 4 + 8 + 2);
    out.extend_from_slice(b"\0\0\0\x01\0\0\0\x08stranger\0\0");
    out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
    frontend::put_empty(&mut out, b'S');
    frontend::put_query(
        &mut out,
        b"begin; set work_mem = '66kB'; insert into t values (1, 'stranger')",
    );
    frontend::put_query(&mut out, b"select 'stranger', pg_sleep(0.01)");
    frontend::put_query(&mut out, b"copy t from stdin");
    frontend::put_empty(&mut out, b'c');
    frontend::put_parse(&mut out, b"", b"select 'stranger'\0\0\0");
    out
}

/// P7, P3: a client that vanishes at any byte of a pipeline leaves nothing to the next one on the
/// only server.
#[tokio::test]
async fn a_client_may_vanish_at_any_byte() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let script = script();
    let mut next = Raw::login(pooler.port).await;
    for cut in 0..=script.len() {
        let mut doomed = Raw::login(pooler.port).await;
        doomed.socket.write_all(&script[..cut]).await.expect("sent");
        drop(doomed);
        let mut probe = Vec::new();
        let sql = format!(
            "select 'marker {cut}', current_setting('work_mem'), \
             pg_current_xact_id_if_assigned() is null, (select count(*) from t where b = 'stranger')"
        );
        frontend::put_query(&mut probe, sql.as_bytes());
        let (tags, bytes) = next.ask(&probe).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(tags, "TDCZ", "cut at {cut}: {text}");
        assert!(text.contains(&format!("marker {cut}")), "cut at {cut}: {text}");
        assert!(!text.contains("stranger"), "cut at {cut}: {text}");
        assert!(text.contains("4MB"), "cut at {cut}: {text}");
        assert!(
            bytes.ends_with(b"t\0\0\0\x010C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"),
            "cut at {cut}: {text}"
        );
    }
}

/// P7, P3: the same with a COPY's data on its way to the server, and with an unnamed statement of the
/// stranger's that a survivor binds who never parsed any.
#[tokio::test]
async fn what_a_stranger_sent_reaches_nobody_else() {
    use crate::raw::{bare, bind, data, execute, parse, query};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let lines: Vec<u8> = (0..4).flat_map(|n| data(&format!("{n}\tstranger\n"))).collect();
    let extended = [
        parse("", "copy t from stdin"),
        bind("", "", &[]),
        execute("", 0),
        lines.clone(),
        bare(b'c'),
        bare(b'H'),
    ];
    let simple = [query("begin; copy t from stdin"), lines, bare(b'f')];
    let unnamed = [
        parse("", "select 'stranger'"),
        bare(b'S'),
        query("set app.who = 'stranger'"),
        parse("", "select 'stranger'"),
        bare(b'S'),
        bind("", "", &[]),
        bare(b'H'),
    ];
    let mut next = Raw::login(pooler.port).await;
    for script in [extended.concat(), simple.concat(), unnamed.concat()] {
        for cut in 0..=script.len() {
            let mut doomed = Raw::login(pooler.port).await;
            doomed.send(&script[..cut]).await;
            let answers = script[0] == b'Q' && cut > 30 && cut % 3 == 0;
            if answers || cut == script.len() {
                // The server has begun.
                let _ = doomed.message().await;
            }
            drop(doomed);
            let bound = [bind("", "", &[]), execute("", 0), bare(b'S')].concat();
            let (tags, bytes) = next.ask(&bound).await;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(tags == "EZ" && text.contains("C26000"), "cut at {cut}: {tags} {text}");
            let probe = query(
                "select (select count(*) from t), current_setting('app.who', true) is not distinct \
                 from 'stranger', pg_current_xact_id_if_assigned() is null",
            );
            next.send(&probe).await;
            let messages = next.until_ready(1).await;
            let row = messages.iter().find(|(tag, _)| *tag == b'D').expect("a row");
            assert_eq!(crate::raw::columns(&row.1), ["0", "f", "t"], "cut at {cut}");
            assert_eq!(messages.last().map(|(_, body)| &body[..]), Some(&b"I"[..]));
        }
    }
}

/// P7: a client that is lost in the middle of a query, of its rows or of a COPY costs no server: it is
/// cancelled, read to its end and rolled back.
#[tokio::test]
async fn a_server_outlives_its_lost_clients() {
    use crate::raw::{bare, bind, columns, data, execute, parse, query};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut next = Raw::login(pooler.port).await;
    let pid = query("select pg_backend_pid(), current_setting('work_mem')");
    next.send(&pid).await;
    let first = next.until_ready(1).await;
    let many = "select repeat('stranger', 1000) from generate_series(1, 5000)";
    // Not all of these have begun when the cancel request comes.
    let asleep = vec![(query("begin; select pg_sleep(100)"), "C"); 12];
    let others = [
        ([parse("", many), bind("", "", &[]), execute("", 0), bare(b'H')].concat(), "1"),
        ([query("begin"), query("set work_mem = '66kB'"), query(many)].concat(), "C"),
        ([query("copy t from stdin"), data("1\tx\n")].concat(), "G"),
        ([parse("s", "selekt"), bind("", "s", &[]), bare(b'H')].concat(), "E"),
    ];
    for (said, heard) in asleep.into_iter().chain(others) {
        let mut doomed = Raw::login(pooler.port).await;
        doomed.send(&said).await;
        if !said.ends_with(b"pg_sleep(100)\0") {
            let message = doomed.message().await.expect("an answer");
            assert_eq!(message.0 as char, heard.chars().next().expect("one"));
        }
        drop(doomed);
        next.send(&pid).await;
        let again = next.until_ready(1).await;
        assert_eq!(columns(&again[1].1), columns(&first[1].1), "after {heard}");
    }
}

/// P7, P3: the same with rows and COPY data on their way, and a survivor whose unnamed statement was
/// parsed before and is bound after.
#[tokio::test]
async fn answers_on_their_way_reach_nobody_else() {
    use crate::raw::{bare, bind, execute, parse, query};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let script = [
        parse("", "select 'stranger', repeat('stranger', 9000) from generate_series(1, 9)"),
        bind("", "", &[]),
        execute("", 3),
        execute("", 0),
        bare(b'S'),
        query("copy (select 'stranger' from generate_series(1, 30000)) to stdout"),
        query("begin; declare stranger cursor for select 1; listen stranger"),
        parse("mine", "select 'stranger'"),
        bind("", "mine", &[]),
        execute("", 0),
        bare(b'H'),
    ]
    .concat();
    let mut next = Raw::login(pooler.port).await;
    for cut in 0..=script.len() {
        let parsed = [parse("", &format!("select 'marker {cut}'")), bare(b'S')].concat();
        assert_eq!(next.ask(&parsed).await.0, "1Z");
        let mut doomed = Raw::login(pooler.port).await;
        doomed.send(&script[..cut]).await;
        if cut % 3 == 0 && cut > 200 {
            // It has begun to read.
            let _ = doomed.message().await;
        }
        drop(doomed);
        let (tags, bytes) =
            next.ask(&[bind("", "", &[]), execute("", 0), bare(b'S')].concat()).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(tags, "2DCZ", "cut at {cut}: {text}");
        assert!(text.contains(&format!("marker {cut}")), "cut at {cut}: {text}");
    }
}

/// O5: after the login, what is no lawful message ends its client at once, with a reason; the server
/// and the next client are well.
#[tokio::test]
async fn malformed_messages_end_their_client() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut next = Raw::login(pooler.port).await;
    // A Query behind a Parse that declares less, and inside one that declares more, than it is.
    let behind = b"P\0\0\0\x0c\0select 1\0\0\0Q\0\0\0\x0dselect 2\0";
    let inside = b"P\0\0\0\x1e\0select 1\0\0\0Q\0\0\0\x0dselect 2\0";
    let table: [&[u8]; 37] = [
        b"Q\0\0\0\0",
        b"Q\0\0\0\x03",
        b"Q\xff\xff\xff\xff",
        b"Q\x7f\xff\xff\xff",
        b"Q\x40\0\0\x04",
        b"Q\0\0\0\x05x",
        b"Q\0\0\0\x08a\0b\0",
        b"Q\0\0\0\x04",
        b"P\0\0\0\x04",
        b"P\0\0\0\x06\0\0",
        b"P\0\0\0\x08\0\0\0\x01",
        b"P\0\0\0\x08\0\0\xff\xff",
        b"P\0\0\0\x09\0\0\0\0x",
        b"P\0\0\0\x07abc",
        behind,
        inside,
        b"B\0\0\0\x04",
        b"B\0\0\0\x06a\0",
        b"B\0\0\0\x07abc",
        b"D\0\0\0\x04",
        b"D\0\0\0\x06X\0",
        b"D\0\0\0\x06Sa",
        b"D\0\0\0\x08S\0a\0",
        b"C\0\0\0\x05S",
        b"C\0\0\0\x06Q\0",
        b"E\0\0\0\x04",
        b"E\0\0\0\x05\0",
        b"E\0\0\0\x0a\0\0\0\0\0\0",
        b"E\x7f\0\0\0\0",
        b"S\x3f\0\0\0",
        b"H\x3f\0\0\0",
        b"X\x3f\0\0\0",
        b"p\0\0\0\x05\0",
        b"R\0\0\0\x08\0\0\0\0",
        b"Z\0\0\0\x05I",
        b"\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03",
    ];
    for message in table {
        for front in [&b""[..], b"Q\0\0\0\x0abegin\0", b"S\0\0\0\x04"] {
            let mut client = Raw::login(pooler.port).await;
            client.send(&[front, message].concat()).await;
            // No timeout is configured: what is not ended at once is never ended.
            let mut last = None;
            while let Some(message) = client.message().await {
                last = Some(message);
            }
            let (tag, body) = last.unwrap_or_default();
            let text = String::from_utf8_lossy(&body).into_owned();
            assert!(tag == b'E' && text.contains("FATAL"), "{message:?}: {text}");
            assert!(text.contains("C08P01"), "{message:?}: {text}");
            assert_eq!(next.ask(&crate::raw::query("select 1")).await.0, "TDCZ", "{message:?}");
        }
    }
}

/// P7: a cancel request ends the query that it names and no other, and a wrong key nothing.
#[tokio::test]
async fn cancel_hits_its_query_only() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 3, ..Setup::default() }).await;
    let (one, two) = (pooler.client("app").await, pooler.client("app").await);
    let (long, other) = ("select pg_sleep(100)", "select pg_sleep(1), 'done'");
    let token = one.cancel_token();
    let cancel = async {
        // Only a running query can be cancelled: wait until PostgreSQL shows it.
        let root = server.root().await;
        let running = "select count(*) from pg_stat_activity where query = $1 and state = 'active'";
        while root.query_one(running, &[&long]).await.expect("row").get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        token.cancel_query(NoTls).await.expect("sent");
    };
    let (cancelled, unharmed, ()) =
        tokio::join!(one.simple_query(long), two.query_one(other, &[]), cancel);
    assert_eq!(code(&cancelled.expect_err("cancelled")), "57014");
    assert_eq!(unharmed.expect("not cancelled").get::<_, String>(1), "done");
    // Nothing is running: nothing happens, to this client or to whoever has its server now.
    token.cancel_query(NoTls).await.expect("sent");
    one.query_one("select 1", &[]).await.expect("goes on");
    two.query_one("select 1", &[]).await.expect("goes on");
}

/// The one error that a client still hears, and after which its connection is over: SQLSTATE and severity.
async fn last_words(client: &mut Raw) -> (String, String) {
    let mut all = Vec::new();
    while let Some(message) = client.message().await {
        all.push(message);
    }
    // What its query had answered by then comes before.
    let errors: Vec<_> = all.iter().filter(|(tag, _)| *tag == b'E').collect();
    assert_eq!(errors.len(), 1, "{}", crate::raw::text(&all));
    assert!(crate::raw::tags(&all).ends_with('E'), "{}", crate::raw::text(&all));
    let said = Fields::new(&errors[0].1);
    let severity = said.field(b'V').map(|text| String::from_utf8_lossy(text).into_owned());
    let code = said.code().map(|code| code.to_string());
    (code.unwrap_or_default(), severity.unwrap_or_default())
}

/// P7: a server that dies inside a transaction costs its client one error, the server's own, and the connection,
/// whether it waits, asks or has failed; nobody else notices.
#[tokio::test]
async fn a_dead_server_is_one_error() {
    use crate::raw::{bind, columns, execute, parse, query};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let other = pooler.client("app").await;
    let root = server.root().await;
    let asked = query("select pg_sleep(100)");
    let bound = [parse("", "select pg_sleep(100)"), bind("", "", &[]), execute("", 0)].concat();
    let bound = [bound, crate::raw::bare(b'S')].concat();
    let nothing = Vec::new();
    for (before, during, after) in [
        (query("select 1"), &nothing, &nothing),
        (query("selekt"), &nothing, &nothing),
        (query("select 1"), &asked, &nothing),
        (query("select 1"), &bound, &nothing),
        (query("select 1"), &nothing, &asked),
        (query("select 1"), &nothing, &bound),
    ] {
        let mut victim = Raw::login(pooler.port).await;
        victim.send(&query("begin; select pg_backend_pid()")).await;
        let begun = victim.until_ready(1).await;
        let row = begun.iter().find(|(tag, _)| *tag == b'D').expect("a row");
        let pid: i32 = columns(&row.1)[0].parse().expect("a number");
        victim.ask(&before).await;
        victim.send(during).await;
        let state = "select state from pg_stat_activity where pid = $1";
        while !during.is_empty() {
            let row = root.query_one(state, &[&pid]).await.expect("it is there");
            if row.get::<_, String>(0) == "active" {
                break;
            }
        }
        root.execute("select pg_terminate_backend($1, 60000)", &[&pid]).await.expect("ended");
        victim.send(after).await;
        let words = last_words(&mut victim).await;
        assert_eq!(
            words,
            ("57P01".to_owned(), "FATAL".to_owned()),
            "{before:?} {during:?} {after:?}"
        );
        for _ in 0..10 {
            other.query_one("select 1", &[]).await.expect("the others go on");
        }
    }
    // All idle servers die at once: nobody notices.
    let all = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'";
    root.execute(all, &[]).await.expect("killed");
    other.query_one("select 1", &[]).await.expect("the others go on");
    let next = pooler.client("app").await;
    next.query_one("select 1", &[]).await.expect("a new server");
}

/// P7: a server that is gone without a word inside a transaction is one error as well, the pooler's own; who comes
/// when it is back is served.
#[tokio::test]
async fn a_server_gone_without_a_word_is_one_error() {
    use crate::raw::query;
    let server = Postgres::start().await;
    let settings = "server_login_retry: 100ms";
    let pooler = Pooler::start(&server, Setup { settings, size: 2, ..Setup::default() }).await;
    let mut waits = Raw::login(pooler.port).await;
    let mut asks = Raw::login(pooler.port).await;
    for client in [&mut waits, &mut asks] {
        assert_eq!(client.ask(&query("begin")).await.0, "CZ");
    }
    asks.send(&query("select pg_sleep(100)")).await;
    server.kill();
    for client in [&mut waits, &mut asks] {
        assert_eq!(last_words(client).await, ("08006".to_owned(), "FATAL".to_owned()));
    }
    server.launch("");
    let config = pooler.config("open", "", "shop");
    let next = loop {
        match crate::pooler::connect(&config).await {
            Ok(next) => break next,
            Err(fault) => assert_eq!(code(&fault), "57P03", "{fault:?}"),
        }
    };
    next.query_one("select 1", &[]).await.expect("served");
}

/// P7: a client that leaves inside a transaction is rolled back and its server lives on.
#[tokio::test]
async fn a_lost_client_is_rolled_back() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let next = pooler.client("app").await;
    let pid: i32 = next.query_one("select pg_backend_pid()", &[]).await.expect("pid").get(0);
    let lost = pooler.client("app").await;
    lost.batch_execute("begin; insert into t values (7, 'lost')").await.expect("inserted");
    drop(lost);
    let row = next.query_one("select count(*), pg_backend_pid() from t where a = 7", &[]).await;
    let row = row.expect("row");
    assert_eq!(row.get::<_, i64>(0), 0);
    assert_eq!(row.get::<_, i32>(1), pid, "the server was kept");
}

/// O3: a drain tells idle clients goodbye, lets a transaction end, and finishes.
#[tokio::test]
async fn drain() {
    let server = Postgres::start().await;
    let mut pooler = Pooler::start(&server, Setup { size: 2, ..Setup::default() }).await;
    let idle = pooler.client("app").await;
    let mut busy = pooler.client("app").await;
    let transaction = busy.transaction().await.expect("begin");
    transaction.batch_execute("insert into t values (8, 'kept')").await.expect("inserted");
    pooler.lifecycle.drain();
    while !idle.is_closed() {
        tokio::task::yield_now().await;
    }
    transaction.commit().await.expect("a transaction may end");
    let running = pooler.running.take().expect("invariant: taken once");
    running.finished().await.expect("no panic");
    let row = server.root().await.query_one("select count(*) from t where a = 8", &[]).await;
    assert_eq!(row.expect("row").get::<_, i64>(0), 1);
}

/// P7, O5: a request that was forwarded goes no further, even if its process believes that a peer is at its own
/// address; and a key of a peer that nobody knows costs nothing.
#[tokio::test]
async fn a_cancel_is_forwarded_once() {
    use pgpool_wire::startup::{CancelKey, put_cancel};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup::default()).await;
    drop(pooler);
    let port = crate::postgres::free_port();
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("stack.yaml");
    let text = format!(
        "aqueduct: 1
pools:
  data:
    instances: {{ pool-1: {{ listen: 127.0.0.1:{port}, peer-id: 1 }} }}
    databases: {{ shop: {{ primary: 127.0.0.1:{} }} }}
    users: {{ open: {{}} }}
    peers: {{ \"2\": {{ at: 127.0.0.1:{port}, pool-size: 1 }} }}
",
        server.port
    );
    std::fs::write(&file, text).expect("written");
    let topology = topology::load(&file).unwrap_or_else(|fault| panic!("{fault}"));
    let options = pgpool::Options::new("pool-1");
    let lifecycle = options.lifecycle.clone();
    let running = pgpool::start(std::sync::Arc::new(topology), "pool-1", options).await;
    let running = running.unwrap_or_else(|fault| panic!("{fault}"));
    for peer in [2u32, 3] {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("open");
        let mut out = Vec::new();
        put_cancel(&mut out, &CancelKey { pid: peer << 25 | 1, secret: vec![7; 4] });
        socket.write_all(&out).await.expect("sent");
        // It ends when the peer, which is itself, has ended it: a loop would never.
        assert_eq!(socket.read(&mut [0]).await.expect("an end"), 0, "{peer}");
    }
    lifecycle.stop();
    running.finished().await.expect("it ends");
}
