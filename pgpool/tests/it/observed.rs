//! What operators hear of single queries: spans in the trace that a comment names, slow queries, waits.
//! Real PostgreSQL and a collector of our own.
//!
//! Invariant: a test waits for what a collector or the pooler says, never for time.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Raw, bare, bind, columns, execute, parse, query};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-01";
const UNSAMPLED: &str = "00-33333333333333333333333333333333-2222222222222222-00";

/// One message to a collector: so many spans and of which tier.
async fn spans(listener: &TcpListener) -> Vec<Span> {
    let (mut socket, _) = listener.accept().await.expect("the exporter comes");
    let mut bytes = Vec::new();
    let body = loop {
        assert!(socket.read_buf(&mut bytes).await.expect("read") > 0, "a whole message");
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").trim().parse().expect("a number");
        if bytes.len() >= end + 4 + length {
            break bytes.split_off(end + 4);
        }
    };
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    socket.write_all(answer).await.expect("answered");
    let message = ExportTraceServiceRequest::decode(&body[..]).expect("protobuf");
    let all = message.resource_spans.into_iter();
    all.flat_map(|one| one.scope_spans).flat_map(|scope| scope.spans).collect()
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key == key);
    let value = found.and_then(|one| one.value.as_ref()).and_then(|any| any.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The metrics of a pooler.
async fn metrics(pooler: &Pooler) -> String {
    ask(pooler, "/metrics").await
}

/// What the admin listener of a pooler answers.
async fn ask(pooler: &Pooler, path: &str) -> String {
    let admin =
        pooler.running.as_ref().and_then(|running| running.admin).expect("an admin listener");
    let mut socket = TcpStream::connect(admin).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("read");
    text
}

fn number(metrics: &str, start: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(start));
    line.unwrap_or_else(|| panic!("{start}: {metrics}")).trim().parse().expect("a number")
}

/// P8: the trace that an application names in a comment goes on in the pooler's spans, by every form of
/// the protocol; servers never see it in a prepared text, so that one text stays one statement; a slow
/// query is counted, and waits of clients are told apart from those of servers.
#[tokio::test]
async fn one_trace_spans_application_and_database() {
    let server = Postgres::start().await;
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let group = format!(
        "\n    telemetry: {{ otlp: \"http://{}\", slow-query: 0s }}",
        collector.local_addr().expect("bound")
    );
    let pooler = Pooler::start(&server, Setup { size: 1, group: &group, ..Setup::default() }).await;
    let mut raw = Raw::login(pooler.port).await;
    // Two texts that differ by their traces alone.
    for (name, trace) in [("one", PARENT), ("two", OTHER), ("three", UNSAMPLED)] {
        let text = format!("select $1::text, 'secret' /*app='x',traceparent='{trace}'*/");
        let bytes = [parse(name, &text), bind("", name, &["7"]), execute("", 0), bare(b'S')];
        let (tags, _) = raw.ask(&bytes.concat()).await;
        assert_eq!(tags, "12DCZ");
    }
    raw.send(&query("select statement from pg_prepared_statements")).await;
    let known = raw.until_ready(1).await;
    let rows = known.iter().filter(|(tag, _)| *tag == b'D');
    let rows: Vec<_> = rows.map(|(_, body)| columns(body)[0].clone()).collect();
    assert_eq!(rows, ["select $1::text, 'secret' "]);
    // By a simple query, which fails, and by an unnamed statement; what the error points to stays there.
    let front = format!("/*traceparent='{PARENT}'*/");
    raw.ask(&query(&format!("{front} select 1/0"))).await;
    let unnamed = [parse("", &format!("{front} select nothing")), bare(b'S')].concat();
    raw.send(&unnamed).await;
    let messages = raw.until_ready(1).await;
    let fields = pgpool_wire::backend::Fields::new(&messages[0].1);
    let place = fields.field(b'P').map(|text| String::from_utf8_lossy(text).into_owned());
    assert_eq!(place, Some((front.len() + " select ".len() + 1).to_string()));

    let mut all = Vec::new();
    while all.len() < 4 {
        all.extend(spans(&collector).await);
    }
    let said: Vec<_> = all
        .iter()
        .map(|span| {
            let parent = format!("{}-{}", hex(&span.trace_id), hex(&span.parent_span_id));
            let ok = span.status.is_none();
            (parent, span.name.clone(), attribute(span, "db.query.text"), ok)
        })
        .collect();
    let [one, two] = [&PARENT[3..52], &OTHER[3..52]];
    let prepared = "select $?::text, ?".to_owned();
    let expected = [
        (one.to_owned(), "SELECT shop".to_owned(), prepared.clone(), true),
        (two.to_owned(), "SELECT shop".to_owned(), prepared, true),
        (one.to_owned(), "SELECT shop".to_owned(), "select ?/?".to_owned(), false),
        (one.to_owned(), "SELECT shop".to_owned(), "select nothing".to_owned(), false),
    ];
    assert_eq!(said, expected);
    for span in &all {
        assert!(!span.span_id.is_empty() && hex(&span.span_id) != one[33..], "a span of its own");
        assert_eq!(attribute(span, "db.namespace"), "shop");
        assert_eq!(attribute(span, "server.port"), server.port.to_string());
        let parts = ["aqueduct.wait_us", "aqueduct.server_us"].map(|key| attribute(span, key));
        let whole: u64 = parts.iter().map(|text| text.parse::<u64>().expect("a number")).sum();
        let told = (span.end_time_unix_nano - span.start_time_unix_nano) / 1000;
        assert!(told.abs_diff(whole) <= 1, "{told} µs instead of {whole}");
    }

    let shown = metrics(&pooler).await;
    let slow = "aqueduct_pg_slow_queries_total{database=\"shop\",user=\"open\"}";
    assert!(number(&shown, slow) >= 6.0);
}

/// P8: how long clients wait for servers is a histogram of its own beside that of queries, by database and
/// user; and who keeps whom waiting inside transactions is counted.
#[tokio::test]
async fn waits_are_told_apart_from_queries() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let mut raw = Raw::login(pooler.port).await;
    raw.ask(&query("begin")).await;
    let mut waiting = Raw::login(pooler.port).await;
    waiting.send(&query("select 1")).await;
    let console = pooler.console().await;
    loop {
        let rows = console.simple_query("show pools").await.expect("pools");
        let waits = rows.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("cl_waiting") == Some("1"),
            _ => false,
        });
        if waits {
            break;
        }
    }
    raw.ask(&query("commit")).await;
    waiting.until_ready(1).await;
    let shown = metrics(&pooler).await;
    let labels = "{database=\"shop\",user=\"open\"}";
    assert!(number(&shown, &format!("aqueduct_pg_wait_seconds_count{labels}")) >= 1.0);
    // The last answer may be there before it was counted.
    assert!(number(&shown, &format!("aqueduct_pg_query_seconds_count{labels}")) >= 2.0);
    assert!(!shown.contains("aqueduct_pg_slow_queries_total"), "nobody asked");
    let held = "aqueduct_pg_transaction_seconds_total{database=\"shop\",user=\"open\",waits_for=";
    number(&shown, &format!("{held}\"client\"}}"));
    number(&shown, &format!("{held}\"server\"}}"));
}

/// P8, O1: who looks at a pooler is shown the queries that name their trace, by every form of the protocol, without
/// their constants; nobody else's, and none of before.
#[tokio::test]
async fn recent_queries_are_shown_to_who_looks() {
    let server = Postgres::start().await;
    let pooler = Pooler::start(&server, Setup { size: 1, ..Setup::default() }).await;
    let look = async || -> Vec<serde_json::Value> {
        let text = ask(&pooler, "/requests?most=100").await;
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        serde_json::from_str(body).unwrap_or_else(|fault| panic!("{fault}: {text}"))
    };
    let mut raw = Raw::login(pooler.port).await;
    let traced = |sql: &str, trace: &str| format!("{sql} /*traceparent='{trace}'*/");
    raw.ask(&query(&traced("select 'before'", PARENT))).await;
    assert_eq!(look().await, Vec::<serde_json::Value>::new(), "nobody had looked");
    raw.ask(&query(&traced("select 'secret', 7", PARENT))).await;
    raw.ask(&query("select 'nobody asks'")).await;
    let text = traced("select $1::text", UNSAMPLED);
    let bytes = [parse("one", &text), bind("", "one", &["7"]), execute("", 0), bare(b'S')];
    raw.ask(&bytes.concat()).await;
    // Prepared before: it has no comment.
    raw.ask(&[bind("", "one", &["8"]), execute("", 0), bare(b'S')].concat()).await;
    raw.ask(&query(&traced("select 1/0", OTHER))).await;
    // The last one is kept when its answer has gone out.
    let mut shown = look().await;
    while shown.len() < 3 {
        shown = look().await;
    }
    let text = |at: usize, key: &str| shown[at][key].as_str().unwrap_or_default().to_owned();
    let statements: Vec<_> = (0..shown.len()).map(|at| text(at, "statement")).collect();
    assert_eq!(statements, ["select ?, ?", "select $?::text", "select ?/?"]);
    for (at, trace) in [PARENT, UNSAMPLED, OTHER].into_iter().enumerate() {
        assert_eq!(text(at, "trace_id"), trace[3..35]);
        assert_eq!(text(at, "parent_span_id"), trace[36..52]);
        assert_eq!(text(at, "span_id").len(), 16);
        assert_eq!((text(at, "database"), text(at, "user")), ("shop".into(), "open".into()));
        assert_eq!(text(at, "pooler_instance"), "pool-1");
        let stamp = text(at, "timestamp");
        assert!(stamp.len() == 27 && stamp.contains('T') && stamp.ends_with('Z'), "{stamp}");
        let time = |key: &str| shown[at][key].as_u64().expect("a number");
        assert!(time("wait_us") <= time("latency_us"));
        assert_eq!(shown[at]["failed"], at == 2);
    }
}

/// O2, O5: a handshake that fails is counted as a login that was refused; who says nothing until
/// `client_login_timeout` is over is told so and counted; who only knocks is not.
#[tokio::test]
async fn openings_that_come_to_nothing_are_told() {
    let server = Postgres::start().await;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let pem = (made.cert.pem(), made.signing_key.serialize_pem());
    let settings = "client_login_timeout: 1s";
    let setup = Setup { tls: Some(pem), settings, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let open = async || TcpStream::connect(("127.0.0.1", pooler.port)).await.expect("open");
    let refused = async |count: f64| loop {
        let shown = metrics(&pooler).await;
        let name = "aqueduct_pg_logins_refused_total";
        let line = shown.lines().find(|line| line.starts_with(name));
        let now = line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0);
        assert!(now <= count, "{shown}");
        if now == count {
            break;
        }
    };
    drop(open().await);
    let mut socket = open().await;
    socket.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]).await.expect("sent");
    let mut answer = [0];
    socket.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"S");
    socket.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await.expect("sent");
    refused(1.0).await;
    // From the first byte on, and for somebody else.
    let mut socket = open().await;
    socket.write_all(b"\x16\x03\x01\x00\x02no").await.expect("sent");
    refused(2.0).await;
    let mut silent = open().await;
    let mut told = Vec::new();
    silent.read_to_end(&mut told).await.expect("told");
    assert!(told.starts_with(b"E") && told.windows(5).any(|code| code == b"57014"), "{told:?}");
    refused(3.0).await;
}
