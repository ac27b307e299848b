//! The stories of the ready topologies whose servers are found in a registry: `netflix` and `orders`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::shipped::{Shipped, gateways, server};
use tests::tier::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// T8 (`netflix`), D2, D3, G10, G17: gateways find servers in the registry and choose among them by themselves; a device has a
/// budget over both gateways; names of inside stay inside.
#[tokio::test]
async fn devices_are_limited_and_servers_found() {
    let scene = Shipped::edited("netflix", |draft| draft.edit("30/min", "30/h")).await;
    let tv = scene.bearer(7900, &json!({ "userId": 5, "claims": { "device": "tv-1" } })).await;
    let phone =
        scene.bearer(7900, &json!({ "userId": 5, "claims": { "device": "phone-1" } })).await;
    let mut passed = 0;
    let mut seen = BTreeSet::new();
    for number in 0..36 {
        let path = ["/api/recommendations", "/api/playback", "/api/search"][number % 3];
        let answer = scene.ask("GET", path, &[("authorization", &tv)]).await;
        assert_eq!(answer.header("x-internal-server"), "");
        if answer.status == 429 {
            continue;
        }
        passed += 1;
        seen.insert(server(&answer));
        let asked = answer.json()["headers"].clone();
        assert_eq!((&asked["x-user-id"], &asked["authorization"]), (&json!("5"), &json!(null)));
    }
    assert_eq!(passed, 30, "the device's budget, over two gateways");
    for service in ["recommendation-servers-", "playback-servers-", "search-servers-"] {
        let found = seen.iter().filter(|name| name.starts_with(service)).count();
        assert!(found >= 2, "{service}: {seen:?}");
    }
    let other = scene.ask("GET", "/api/search", &[("authorization", &phone)]).await;
    assert_eq!(other.status, 200, "the same account's other device has its own");
    assert_eq!(scene.ask("GET", "/api/search", &[]).await.status, 401);
    let records = scene.stack.await_records(38).await;
    assert_eq!(gateways(&records).len(), 2);
}

/// T8 (`netflix`), D3: a server that leaves the registry while requests go on gets none any more, and no request is lost: not
/// before, not while, not after it is gone.
#[tokio::test]
async fn a_server_leaves_under_load() {
    let mut scene = Shipped::edited("netflix", |draft| draft.edit("30/min", "100000/min")).await;
    let token = scene.bearer(7900, &json!({ "claims": { "device": "tv-1" } })).await;
    let leaving = scene.take("search-servers-1");
    let mut connection = scene.connect().await;
    let mut ask = async || {
        let answer = connection.get("/api/search", &[("authorization", &token)]).await.unwrap();
        server(&answer)
    };
    until("both servers to answer", async || (ask().await == "search-servers-1").then_some(()))
        .await;
    leaving.signal(Signal::SIGTERM);
    // It serves until everybody knows that it goes, then its port is closed.
    let at = scene.stack.address.at(7031);
    until("it to be gone", async || {
        for _ in 0..10 {
            assert!(ask().await.starts_with("search-servers-"));
        }
        TcpStream::connect(at).await.is_err().then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(ask().await, "search-servers-2");
    }
}

/// T8 (`orders`), G1, G5, G6, G9, G10, G13, G19, D2: GET /orders/42 in its ten steps, each by the trace that it leaves: TLS (1), the
/// token (2), its scope (3), the budget in Redis (4), the route (5), two servers found (6), headers changed (7), a server asked over a
/// kept connection (8), the answer changed (9), and a record (10) of which the service knows the trace.
#[tokio::test]
async fn an_order_is_traced_in_ten_steps() {
    let scene = Shipped::edited("orders", |draft| {
        // The same paths without a database behind them, and a budget whose key does not go while it is looked for.
        draft
            .edit("rate: 100/s", "rate: 100/h")
            .edit("run: demo orders --register orders", "run: demo echo --register orders")
            .edit("uses: [eureka, data/app]", "uses: [eureka]")
    })
    .await;
    let token = scene.bearer(7900, &json!({ "userId": 99, "scope": "orders:read" })).await;
    let fields = [
        ("authorization", token.as_str()),
        ("origin", "https://app.example"),
        ("user-agent", "Shop/1.0 (iPhone; Mobile)"),
    ];
    // 1: over TLS, as every connection of the scene is.
    let mut connection = scene.connect().await;
    let answer = connection.get("/orders/42", &fields).await.unwrap();
    let first = server(&answer);
    // 7: what the service was told, and what not.
    let asked = answer.json();
    let told = |name: &str| asked["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(asked["path"], "/orders/42");
    assert_eq!((told("x-user-id").as_str(), told("authorization").as_str()), ("99", ""));
    let (version_and_trace, request_id) = (told("traceparent"), told("x-request-id"));
    let trace = version_and_trace.split('-').nth(1).unwrap_or_default().to_owned();
    assert!(trace.len() == 32 && !request_id.is_empty(), "{asked}");
    // 9: what the client was told, and what not.
    assert_eq!(answer.header("cache-control"), "private, max-age=60");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!((answer.header("server"), answer.header("x-internal-server")), ("", ""));
    // 4: one of a hundred is spent, under a key that names the user.
    let keys = redis_keys(scene.stack.address.at(6379)).await;
    assert_eq!(keys, ["ratelimit:app:user:user:99"]);
    // 6, 8: the other server that the registry knows is next.
    let second = server(&connection.get("/orders/42", &fields).await.unwrap());
    let found: BTreeSet<_> = [first, second].into();
    let both = ["order-servers-1", "order-servers-2"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(both));
    // 2, 3: who shows nothing, or may not, never comes that far.
    assert_eq!(scene.ask("GET", "/orders/42", &[]).await.status, 401);
    let other = scene.bearer(7900, &json!({ "userId": 98, "scope": "orders:write" })).await;
    let refused = scene.ask("GET", "/orders/42", &[("authorization", &other)]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.header("www-authenticate").contains("insufficient_scope"), "{refused:?}");
    assert_eq!(redis_keys(scene.stack.address.at(6379)).await, keys, "the refused spend nothing");
    assert_eq!(scene.count(7051).await + scene.count(7052).await, 2);
    // 5, 10: the record tells of route, service, user and trace, and how long each step took.
    let records = scene.stack.await_records(4).await;
    let record = records.iter().find(|record| record["trace_id"] == trace.as_str()).unwrap();
    assert_eq!(record["request_id"], request_id.as_str());
    assert_eq!((&record["userId"], &record["status"]), (&json!(99), &json!(200)), "{record}");
    assert_eq!(
        (&record["endpoint"], &record["service"]),
        (&json!("GET /orders/42"), &json!("orders"))
    );
    let stages: BTreeSet<&str> =
        record["stages_us"].as_object().unwrap().keys().map(String::as_str).collect();
    for stage in STAGES {
        assert!(stages.contains(stage), "{stage} is missing in {record}");
    }
}

/// The steps as a record names them; TLS stands in the record of a connection's first request.
const STAGES: [&str; 10] = [
    "tls",
    "normalise",
    "authn",
    "authz",
    "rate_limit",
    "route",
    "request_transform",
    "dispatch",
    "response_transform",
    "emit",
];

/// All keys of counters.
async fn redis_keys(at: SocketAddr) -> Vec<String> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream
        .write_all(b"*2\r\n$4\r\nKEYS\r\n$11\r\nratelimit:*\r\n*1\r\n$4\r\nQUIT\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.lines().filter(|line| line.starts_with("ratelimit:")).map(str::to_owned).collect()
}
