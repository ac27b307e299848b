//! What `aqueduct explain` says is what the running tiers do: on policy, route and hashed endpoints
//! exactly, elsewhere the endpoint taken is among the candidates printed.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use tests::clients::game::Player;
use tests::clients::http::{self, Connection, request};
use tests::clients::sql;
use tests::fakes::game::Game;
use tests::fakes::issuer::Issuer;
use tests::fakes::postgres::{PASSWORD, Postgres};
use tests::fakes::redis::Redis;
use tests::fakes::upstream::Upstream;
use tests::program::sibling;
use tests::tier::{Draft, Stack};

/// Answers to these questions about the stack's file, one by one.
pub(crate) async fn explain(stack: &Stack, questions: &[String]) -> Vec<Value> {
    let (file, batch) = (stack.file(), stack.folder.path().join("questions"));
    std::fs::write(&batch, questions.join("\n")).unwrap();
    let run = move |file: PathBuf, batch: PathBuf| {
        let mut command = Command::new(sibling("aqueduct"));
        command.arg("explain").arg(file).args(["--format", "json", "--batch"]).arg(batch);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(move || run(file, batch)).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), questions.len());
    answers.into_iter().map(|answer| answer["facts"].clone()).collect()
}

/// Whether an address with this port is among the candidates.
pub(crate) fn among(facts: &Value, port: u16) -> bool {
    let end = format!(":{port}");
    let candidates = facts["candidates"].as_array();
    candidates.is_some_and(|all| all.iter().any(|one| one.as_str().unwrap().ends_with(&end)))
}

const SERVERS: [(u16, &str); 7] = [
    (7011, "user-1"),
    (7012, "user-2"),
    (7013, "user-v2-1"),
    (7014, "user-v2-2"),
    (7021, "feed-1"),
    (7022, "feed-2"),
    (7031, "payment-1"),
];

const PATHS: [&str; 12] = [
    "/api/user/profile",
    "/api/user/a/b?c=d",
    "/api/v1/user/7",
    "/api/v2/user/7",
    "/api/%66eed/home",
    "/api/search",
    "/api/search/deeper",
    "/api/checkout/cart",
    "/static/avatar.jpg",
    "/static/none",
    "/nowhere",
    "/api/user/%2e%2e/x",
];

/// T5: of 700 random requests, each has the route, the status and the service that were foretold, and
/// its server was among the candidates.
#[tokio::test]
async fn requests_go_where_explain_says() {
    let draft = Draft::documented()
        .edit("rate: 1000/min", "rate: 10000/min")
        .edit("rate: 100/min", "rate: 10000/min")
        .edit("rate: 10/s,     burst: 10", "rate: 10000/s");
    let mut stack = draft.stack();
    let _redis = Redis::start(stack.address.at(6379));
    let issuer = Issuer::start(stack.address.at(7900)).await;
    let mut servers = Vec::new();
    for (port, name) in SERVERS {
        servers.push(Upstream::start(stack.address.at(port), name).await);
    }
    stack.start_all(&["ilb-1", "gw-1", "gw-2", "nlb-1"]).await;
    let mut rng = StdRng::seed_from_u64(7);
    let tokens = [
        None,
        Some(issuer.token(98765, "user:read pay")),
        Some(issuer.token(7, "user:read")),
        Some(issuer.token(8, "")),
        Some(issuer.expired(9, "user:read")),
        Some("x.y.z".to_owned()),
    ];
    let (ip, edge) = (stack.address.ip(), stack.address.at(8443));
    let (mut questions, mut answers) = (Vec::new(), Vec::new());
    let mut connection = Connection::tls(edge, &stack.trust).await.unwrap();
    for _ in 0..700 {
        let path = PATHS.choose(&mut rng).unwrap();
        let method = ["GET", "GET", "POST", "DELETE"].choose(&mut rng).unwrap();
        let token = tokens.choose(&mut rng).unwrap();
        let claimed = rng.random_bool(0.3);
        let authorization = token.as_ref().map(|token| format!("Bearer {token}"));
        let mut fields: Vec<_> =
            authorization.iter().map(|a| ("authorization", a.as_str())).collect();
        fields.extend(claimed.then_some(("x-user-id", "1")));
        let words = fields.iter().map(|(name, value)| format!(" --header '{name}: {value}'"));
        let words: String = words.collect();
        questions
            .push(format!("https://api.example:8443{path} --method {method} --from {ip}{words}"));
        let sent = request(method, path, &fields).unwrap();
        answers.push(match connection.send(sent).await {
            Ok(answer) => answer,
            Err(_) => {
                // A refusal may be the last answer on its connection.
                connection = Connection::tls(edge, &stack.trust).await.unwrap();
                let again = request(method, path, &fields).unwrap();
                connection.send(again).await.unwrap()
            }
        });
    }
    let records = stack.await_records(700).await;
    let foretold = explain(&stack, &questions).await;
    for ((question, answer), facts) in questions.iter().zip(&answers).zip(&foretold) {
        let id = answer.header("x-request-id");
        let record = records.iter().find(|record| record["request_id"] == id);
        let record = record.unwrap_or_else(|| unreachable!("{question} has no record {id}"));
        let said = format!("{question}\n{facts}\n{record}");
        if let Some(status) = facts["status"].as_u64() {
            assert_eq!(answer.status, u16::try_from(status).unwrap(), "{said}");
        } else {
            assert!([200, 404, 405].contains(&answer.status), "{} {said}", answer.status);
        }
        let route = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert_eq!(route(&facts["route"]), route(&record["route"]), "{said}");
        // What a service, or its folder, has not is found out by asking.
        let own = record["halted"] == "dispatch" && facts["halted"].is_null();
        assert!(own || facts["halted"] == record["halted"], "{said}");
        if facts["halted"].is_null() {
            assert_eq!(route(&facts["service"]), route(&record["service"]), "{said}");
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let Some(name) = body["server"].as_str() {
            let (port, _) = SERVERS.iter().find(|(_, known)| *known == name).unwrap();
            assert!(among(facts, *port), "{name}: {said}");
        }
        let gateways = facts["gateways"].as_array();
        if let Some(gateways) = gateways {
            assert!(gateways.contains(&record["gateway_instance"]), "{said}");
        }
    }
}

/// T5, N2: each of 240 players has the very server that was foretold.
#[tokio::test]
async fn players_have_the_server_that_explain_says() {
    const NAMES: [(u16, &str); 3] = [(7801, "game-1"), (7802, "game-2"), (7803, "game-3")];
    let mut stack = Draft::documented().stack();
    let mut games = Vec::new();
    for (port, name) in NAMES {
        games.push(Game::start(stack.address.at(port), name).await);
    }
    stack.start("nlb-1").await;
    let (mut questions, mut met) = (Vec::new(), Vec::new());
    for number in 0..240u16 {
        let mut player = Player::join(number, stack.address.at(7777)).await;
        met.push(player.ask().await);
        let [high, low] = number.to_be_bytes();
        questions.push(format!("--udp 127.200.{high}.{low}:{}", 40_000 + number));
    }
    let foretold = explain(&stack, &questions).await;
    for ((question, name), facts) in questions.iter().zip(&met).zip(&foretold) {
        let (port, _) = NAMES.iter().find(|(_, known)| known == name).unwrap();
        let endpoint = facts["endpoint"].as_str().unwrap_or_default();
        assert!(endpoint.ends_with(&format!(":{port}")), "{question} met {name}: {facts}");
    }
}

/// T5, P5: each of 60 statements runs where it was foretold, on the primary or on a replica.
#[tokio::test]
async fn statements_run_where_explain_says() {
    let draft = Draft::documented();
    let primary = Postgres::primary(draft.address.at(5433)).await;
    draft.secret("app.scram", &primary.verifier().await);
    let mut stack = draft.stack();
    let _replica = primary.replica(stack.address.at(5434));
    stack.start("pool-1").await;
    let login = async |database: &str| {
        sql::connect(stack.address.at(6432), "app", PASSWORD, database).await.unwrap()
    };
    let reader = login("app_ro").await;
    let recovers = async |client: &tokio_postgres::Client, text: &str| {
        let rows = client.simple_query(text).await.unwrap();
        let rows = rows.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        rows.as_deref() == Some("t")
    };
    tests::tier::until("a fit replica", async || {
        recovers(&reader, "SELECT pg_is_in_recovery()").await.then_some(())
    })
    .await;
    let mut rng = StdRng::seed_from_u64(9);
    let (mut questions, mut ran) = (Vec::new(), Vec::new());
    let comments = ["", "/* pgpool: replica */ ", "/* pgpool: role=primary */ ", "/* other */ "];
    for _ in 0..60 {
        let database = ["app", "app_ro"].choose(&mut rng).unwrap();
        let comment = comments.choose(&mut rng).unwrap();
        let more = ["", " FROM users LIMIT 1"].choose(&mut rng).unwrap();
        let text = format!("{comment}SELECT pg_is_in_recovery(){more}");
        let client = login(database).await;
        // Without rows nothing is said.
        let text = text.replace(" FROM users LIMIT 1", " FROM (VALUES (1)) v");
        ran.push(recovers(&client, &text).await);
        questions.push(format!("--database {database} --user app --sql \"{text}\""));
    }
    let foretold = explain(&stack, &questions).await;
    for ((question, recovers), facts) in questions.iter().zip(&ran).zip(&foretold) {
        let role = if *recovers { "replica" } else { "primary" };
        assert_eq!(facts["role"], role, "{question}: {facts}");
        assert!(among(facts, if *recovers { 5434 } else { 5433 }), "{question}: {facts}");
    }
    assert!(ran.iter().any(|one| *one) && !ran.iter().all(|one| *one));
}

/// Statements of every kind that a choice between servers looks at; none needs a table.
const STATEMENTS: [&str; 12] = [
    "SELECT 1",
    "SELECT * FROM (VALUES (1), (2)) v",
    "SELECT lower('A')",
    "SELECT pg_backend_pid()",
    "SELECT 1 FOR UPDATE",
    "BEGIN",
    "BEGIN READ ONLY",
    "START TRANSACTION READ ONLY; SELECT 1; COMMIT",
    "SET statement_timeout = 0",
    "CREATE TEMPORARY TABLE t (a int)",
    "SELECT 1; SELECT 2",
    "SHOW search_path",
];

/// The databases of the test, by which of their reads go to replicas; all are one on the servers.
const READS: [&str; 4] = ["alias", "asked", "read-only", "automatic"];

/// T5, P5: each of 160 statements was carried out by the pool, by one of the servers and for the reason that were
/// foretold, whichever reads the file sends to replicas: the running pooler's own records say so. Where a reason
/// hangs on what the server's catalogue says of functions, it is one of the two that were told.
#[tokio::test]
async fn statements_have_the_pool_and_the_reason_that_explain_says() {
    let draft = Draft::documented();
    let (primary, ip) = (Postgres::primary(draft.address.at(5433)).await, draft.address.ip());
    draft.secret("app.scram", &primary.verifier().await);
    let more = READS.map(|reads| {
        let servers = format!("primary: \"{ip}:5433\", replicas: [\"{ip}:5434\"]");
        format!("\n      \"{reads}\": {{ {servers}, server-name: app, mode: transaction, reads: {reads} }}")
    });
    let databases = format!("    databases:{}\n      app:", more.concat());
    let mut stack = draft.edit("    databases:\n      app:", &databases).stack();
    let _replica = primary.replica(stack.address.at(5434));
    stack.start("pool-1").await;
    let (at, admin) = (stack.address.at(6432), stack.address.at(9121));
    for reads in READS {
        let fit = sql::connect(at, "app", PASSWORD, &format!("{reads}_ro")).await.unwrap();
        tests::tier::until("a fit replica", async || {
            let rows = fit.simple_query("SELECT pg_is_in_recovery()").await.ok()?;
            rows.iter().any(|row| matches!(row, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))).then_some(())
        })
        .await;
    }
    let mut rng = StdRng::seed_from_u64(11);
    let comments =
        ["", "", "/* pgpool: replica */ ", "/* pgpool: role=primary */ ", "/* other */ "];
    let (mut questions, mut records) = (Vec::new(), Vec::new());
    for number in 1..=160u32 {
        let reads = READS.choose(&mut rng).unwrap();
        let alias = if rng.random_bool(0.2) { "_ro" } else { "" };
        let (comment, text) =
            (comments.choose(&mut rng).unwrap(), STATEMENTS.choose(&mut rng).unwrap());
        let text = format!("{comment}{text}");
        let client = sql::connect(at, "app", PASSWORD, &format!("{reads}{alias}")).await.unwrap();
        // Records are kept while somebody looks.
        let look = async || http::plain(admin, "/requests?most=1000").await.ok();
        look().await.expect("an admin listener");
        let trace = format!("{number:032x}");
        // A replica may refuse what it was told to do.
        let _ = client
            .simple_query(&format!("{text} /*traceparent='00-{trace}-{number:016x}-00'*/"))
            .await;
        let record = tests::tier::until("the record of the statement", async || {
            let records = look().await?.json();
            records.as_array()?.iter().find(|record| record["trace_id"] == *trace).cloned()
        });
        records.push(record.await);
        questions.push(format!("--database {reads}{alias} --user app --sql \"{text}\""));
    }
    let mut reasons = std::collections::BTreeSet::new();
    for ((question, record), facts) in
        questions.iter().zip(&records).zip(&explain(&stack, &questions).await)
    {
        let said = format!("{question}\n{facts}\n{record}");
        let open = facts["way_at_best"].is_string() && record["way"] == facts["way_at_best"];
        assert!(open || record["way"] == facts["way"], "{said}");
        let pool = if open { &facts["pool_at_best"] } else { &facts["pool"] };
        assert_eq!(&record["pool"], pool, "{said}");
        let server = record["server"].as_str().unwrap_or_default();
        assert!(facts["candidates"].as_array().unwrap().iter().any(|one| one == server), "{said}");
        reasons.insert(record["way"].as_str().unwrap_or("none").to_owned());
    }
    let all = ["asked", "harmless", "none", "primary", "read-only", "trial"];
    assert_eq!(reasons.iter().map(String::as_str).collect::<Vec<_>>(), all);
}
