//! The documented stack with everything real: demo services as processes, PostgreSQL, Redis.

use tests::clients::http::{Answer, Connection, request};
use tests::fakes::demo;
use tests::fakes::issuer::Issuer;
use tests::fakes::postgres::{PASSWORD, Postgres};
use tests::fakes::redis::Redis;
use tests::program::Program;
use tests::tier::{Draft, Stack};

const PROFILE: &str = "/api/user/profile";

struct Scene {
    stack: Stack,
    issuer: Issuer,
    database: Postgres,
    _redis: Redis,
    _services: Vec<Program>,
}

/// Service, port and name of each demo server of the file that speaks HTTP.
const SERVERS: [(&str, u16, &str); 7] = [
    ("user", 7011, "user-1"),
    ("user", 7012, "user-2"),
    ("user", 7013, "user-v2-1"),
    ("user", 7014, "user-v2-2"),
    ("feed", 7021, "feed-1"),
    ("feed", 7022, "feed-2"),
    ("payment", 7031, "payment-1"),
];

impl Scene {
    async fn new() -> Self {
        let draft = Draft::documented();
        let database = Postgres::primary(draft.address.at(5433)).await;
        draft.secret("app.scram", &database.verifier().await);
        let mut stack = draft.stack();
        let redis = Redis::start(stack.address.at(6379));
        let issuer = Issuer::start(stack.address.at(7900)).await;
        let (pool, users) = (stack.address.at(6432), stack.address.at(7010));
        let uses = [
            format!("data/app=postgres://app:{PASSWORD}@{pool}/app"),
            format!("internal/user=http://{users}"),
        ];
        let start = |(what, port, name): (&str, _, &str)| {
            demo::start(what, stack.address.at(port), name, &uses)
        };
        let calls = [(7041, "echo-1"), (7042, "echo-2")];
        let calls = calls.map(|(port, name)| demo::grpc(stack.address.at(port), name));
        let services = SERVERS.map(start).into_iter().chain(calls).collect();
        stack.start_all(&["pool-1", "ilb-1", "gw-1", "gw-2", "nlb-1"]).await;
        Self { stack, issuer, database, _redis: redis, _services: services }
    }

    /// One request of user 98765 with these scopes.
    async fn ask(&self, method: &str, path: &str, scope: &str) -> Answer {
        let token = format!("Bearer {}", self.issuer.token(98765, scope));
        let request = request(method, path, &[("authorization", &token)]).unwrap();
        let edge = self.stack.address.at(8443);
        let mut connection = Connection::tls(edge, &self.stack.trust).await.unwrap();
        connection.send(request).await.unwrap()
    }
}

/// T1, T10, G1, G5, G6, G19, N6, P1: HTTPS with a token passes the edge, a gateway and the
/// internal balancer to a real user service, whose SQL passes the pool to a real PostgreSQL: the
/// answer is the profile row of user 98765, and the access record has every field.
#[tokio::test]
async fn the_happy_path_returns_the_profile_row() {
    let scene = Scene::new().await;
    let answer = scene.ask("GET", PROFILE, "user:read").await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let profile = answer.json();
    assert_eq!((&profile["id"], &profile["name"]), (&98765.into(), &"livia".into()), "{profile}");
    assert_eq!(answer.header("x-internal-server"), "");
    let records = scene.stack.await_records(1).await;
    check_record(&records[0]);
}

/// Every field of G19, with the value that this request must have.
fn check_record(record: &serde_json::Value) {
    let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| record[name].as_u64();
    let timestamp = text("timestamp");
    assert!(timestamp.ends_with('Z') && timestamp.len() >= 20, "{record}");
    assert_eq!(record["userId"], 98765, "{record}");
    assert_eq!(record["status"], 200, "{record}");
    assert_eq!(text("endpoint"), format!("GET {PROFILE}"));
    assert_eq!(text("service"), "user");
    assert!(["gw-1", "gw-2"].contains(&text("gateway_instance").as_str()), "{record}");
    let (millis, micros) = (number("latency_ms").unwrap(), number("latency_us").unwrap());
    assert_eq!(millis, micros / 1000, "{record}");
    assert!(!text("request_id").is_empty() && text("trace_id").len() == 32, "{record}");
    assert!(number("bytes_out").unwrap() > 0 && number("bytes_in").is_some(), "{record}");
    assert!(record["stages_us"].as_object().is_some_and(|stages| !stages.is_empty()), "{record}");
}

/// T1, T10, G11: every documented path leads to its own service: both versions of the user API,
/// the feed (which asks the user service through the internal listener), search and checkout,
/// whose order is in the database.
#[tokio::test]
async fn every_documented_path_leads_to_its_service() {
    let scene = Scene::new().await;
    for (path, servers) in [
        ("/api/v1/user/profile", "user-"),
        ("/api/v2/user/profile", "user-v2-"),
        (PROFILE, "user-"),
    ] {
        let answer = scene.ask("GET", path, "user:read").await;
        assert_eq!((answer.status, &answer.json()["id"]), (200, &98765.into()), "{path}");
        let server = answer.json()["server"].as_str().unwrap().to_owned();
        assert!(server.starts_with(servers), "{path}: {server}");
        assert_eq!(server.contains("v2"), path.contains("v2"), "{path}: {server}");
    }
    let feed = scene.ask("GET", "/api/feed/home", "").await.json();
    let names: Vec<_> =
        feed["posts"].as_array().unwrap().iter().map(|p| &p["author"]["name"]).collect();
    assert!(names.contains(&&"agrippa".into()) && names.iter().all(|n| n.is_string()), "{feed}");
    let found = scene.ask("GET", "/api/search?q=arches", "").await;
    assert_eq!((found.status, found.json()["posts"].as_array().unwrap().is_empty()), (200, false));

    let paid = scene.ask("POST", "/api/checkout/cart", "pay").await;
    assert_eq!(paid.status, 201, "{:?}", paid.body);
    let order = paid.json()["order"].as_i64().unwrap();
    let row = "SELECT o.user_id, p.amount FROM orders o JOIN payments p ON p.order_id = o.id \
               WHERE o.id = $1";
    let row = scene.database.superuser("app").await.query_one(row, &[&order]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 98765);
}

/// G15: HTTP and JSON with a token call the demo's gRPC service through edge and gateway, whose calls go to both of its
/// servers; several answers come as lines, an error with its code, and nothing without a token.
#[tokio::test]
async fn json_calls_the_grpc_service() {
    let scene = Scene::new().await;
    let mut servers = std::collections::BTreeSet::new();
    // Which one a worker begins with is chance.
    while servers.len() < 2 {
        let answer = scene.ask("GET", "/v1/echo/salve%20%C3%B6", "").await;
        let said = answer.json();
        assert_eq!((answer.status, &said["text"]), (200, &"salve ö".into()), "{said}");
        servers.insert(said["server"].as_str().unwrap().to_owned());
    }
    assert_eq!(Vec::from_iter(servers), ["echo-1", "echo-2"]);

    let answer = scene.ask("GET", "/v1/echo/ave/times/3", "").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let numbers = text.lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap()
    });
    assert_eq!(Vec::from_iter(numbers), [1, 2, 3]);

    let answer = scene.ask("GET", "/v1/echo/vae?fail=5", "").await;
    assert_eq!((answer.status, &answer.json()["message"]), (404, &"vae".into()));

    let edge = scene.stack.address.at(8443);
    let mut connection = Connection::tls(edge, &scene.stack.trust).await.unwrap();
    let bare = request("GET", "/v1/echo/salve", &[]).unwrap();
    assert_eq!(connection.send(bare).await.unwrap().status, 401);
}
