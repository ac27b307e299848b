//! HTTPS with a token, from the edge to the service and back.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use tests::clients::http::{Answer, Connection};
use tests::fakes::issuer::Issuer;
use tests::fakes::redis::Redis;
use tests::fakes::upstream::Upstream;
use tests::tier::{AVATAR, Draft, Stack};

const PROFILE: &str = "/api/user/profile";

/// The tiers that an HTTPS request passes.
const HTTPS_PATH: [&str; 4] = ["ilb-1", "gw-1", "gw-2", "nlb-1"];

/// The documented stack with counting services in the place of the demo's.
struct Scene {
    stack: Stack,
    issuer: Issuer,
    users: [Upstream; 2],
    payment: Upstream,
    redis: Redis,
}

impl Scene {
    async fn new(draft: Draft) -> Self {
        let mut stack = draft.stack();
        let at = |port| stack.address.at(port);
        let redis = Redis::start(at(6379));
        let issuer = Issuer::start(at(7900)).await;
        let users =
            [Upstream::start(at(7011), "user-1").await, Upstream::start(at(7012), "user-2").await];
        let payment = Upstream::start(at(7031), "payment-1").await;
        stack.start_all(&HTTPS_PATH).await;
        Self { stack, issuer, users, payment, redis }
    }

    async fn documented() -> Self {
        Self::new(Draft::documented()).await
    }

    async fn connect(&self) -> Connection {
        connect(&self.stack).await
    }

    /// One GET of the profile over a connection of its own.
    async fn ask(&self, authorization: &str) -> Answer {
        self.connect().await.get(PROFILE, &[("authorization", authorization)]).await.unwrap()
    }

    fn bearer(&self, user: u64) -> String {
        bearer(&self.issuer.token(user, "user:read"))
    }

    /// Requests that reached a user server.
    fn reached(&self) -> usize {
        self.users.iter().map(Upstream::count).sum()
    }
}

async fn connect(stack: &Stack) -> Connection {
    Connection::tls(stack.address.at(8443), &stack.trust).await.unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// G5: an expired and a forged token are 401 with a reason, and no service is touched.
#[tokio::test]
async fn bad_tokens_never_reach_a_service() {
    let scene = Scene::documented().await;
    let expired = bearer(&scene.issuer.expired(98765, "user:read"));
    let forged = bearer(&Issuer::forged(98765, "user:read"));
    for token in [expired.as_str(), forged.as_str(), "Bearer x.y.z", "Basic dTpw"] {
        let answer = scene.ask(token).await;
        assert_eq!(answer.status, 401, "{token}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{token}");
    }
    let said = scene.ask(&expired).await.header("www-authenticate").to_owned();
    assert!(said.contains("invalid_token") && said.contains("expired"), "{said}");
    assert_eq!(scene.reached(), 0);
    assert_eq!(scene.ask(&scene.bearer(98765)).await.status, 200);
    assert_eq!(scene.reached(), 1);
}

/// G6: identity that a client claims never reaches a service, in any spelling; the token's does,
/// and the token itself does not.
#[tokio::test]
async fn a_claimed_identity_never_reaches_a_service() {
    let scene = Scene::documented().await;
    let token = scene.bearer(98765);
    let mut connection = scene.connect().await;
    for name in ["X-User-Id", "x-user-id", "X-USER-ID", "x_user_id", "X-User_Id"] {
        let fields = [("authorization", token.as_str()), (name, "1")];
        // A gateway may refuse an odd spelling; it must not pass it on.
        connection.get(PROFILE, &fields).await.unwrap();
    }
    let answer = scene.ask(&token).await;
    assert_eq!(answer.status, 200);
    let seen: Vec<_> = scene.users.iter().flat_map(Upstream::seen).collect();
    assert!(!seen.is_empty());
    for request in &seen {
        let users: Vec<_> = request.headers.get_all("x-user-id").iter().collect();
        assert_eq!(users, ["98765"], "{:?}", request.headers);
        assert!(!request.headers.contains_key("x_user_id"), "{:?}", request.headers);
        assert!(!request.headers.contains_key("x-user_id"), "{:?}", request.headers);
        assert!(!request.headers.contains_key("authorization"), "{:?}", request.headers);
    }
}

/// G10: of 120 requests of one user within the time of a budget, spread over both gateways, exactly 100 pass;
/// the rest get 429 with `Retry-After` and never reach a service.
#[tokio::test]
async fn two_gateways_share_one_budget_exactly() {
    let scene = Scene::new(Draft::documented().edit("rate: 100/min", "rate: 100/h")).await;
    let token = scene.bearer(98765);
    // The edge's two workers take turns each: of three connections two reach both gateways.
    let mut connections = [scene.connect().await, scene.connect().await, scene.connect().await];
    let mut statuses = Vec::new();
    for i in 0..120 {
        let fields = [("authorization", token.as_str())];
        let answer = connections[i % 3].get(PROFILE, &fields).await.unwrap();
        if answer.status == 429 {
            let wait: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=3600).contains(&wait), "{wait}");
        }
        statuses.push(answer.status);
    }
    let passed = statuses.iter().filter(|status| **status == 200).count();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!((passed, refused), (100, 20), "{statuses:?}");
    assert_eq!(scene.reached(), 100);
    let records = scene.stack.await_records(120).await;
    let both: BTreeSet<_> = records.iter().filter_map(|r| r["gateway_instance"].as_str()).collect();
    assert_eq!(both, BTreeSet::from(["gw-1", "gw-2"]));
    assert_eq!(scene.ask(&scene.bearer(7)).await.status, 200, "another user has another budget");
}

/// G1, G10: requests that end in 401 count against the address's limit, which is charged first.
#[tokio::test]
async fn refused_tokens_count_against_the_address() {
    let draft = Draft::documented().edit("rate: 1000/min", "rate: 5/min");
    let scene = Scene::new(draft).await;
    let forged = bearer(&Issuer::forged(1, "user:read"));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(scene.ask(&forged).await.status);
    }
    let valid = scene.ask(&scene.bearer(98765)).await;
    assert_eq!((statuses, valid.status), (vec![401; 5], 429));
    assert_eq!(scene.reached(), 0);
}

/// G1, G11: a path without a route is 404, with a token and without one; a method that the path
/// has no route for is 405 with `Allow`, a missing scope 403.
#[tokio::test]
async fn refusals_have_their_own_status() {
    let scene = Scene::documented().await;
    let token = scene.bearer(98765);
    let mut connection = scene.connect().await;
    let with = [("authorization", token.as_str())];
    assert_eq!(connection.get("/nowhere", &with).await.unwrap().status, 404);
    assert_eq!(connection.get("/nowhere", &[]).await.unwrap().status, 404);
    assert_eq!(connection.get(PROFILE, &[]).await.unwrap().status, 401);
    let payer = bearer(&scene.issuer.token(98765, "pay"));
    let get = connection.get("/api/checkout/cart", &[("authorization", &payer)]).await.unwrap();
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
    let post = tests::clients::http::request("POST", "/api/checkout/cart", &with).unwrap();
    assert_eq!(connection.send(post).await.unwrap().status, 403);
    assert_eq!((scene.reached(), scene.payment.count()), (0, 0));
}

/// G18, N5, N8: a user server that is killed costs no client an error on GET.
#[tokio::test]
async fn a_killed_server_costs_no_error_on_get() {
    let scene = Scene::new(Draft::documented().edit("rate: 100/min", "rate: 10000/min")).await;
    let token = scene.bearer(98765);
    let fields = [("authorization", token.as_str())];
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(scene.connect().await);
    }
    let mut statuses = Vec::new();
    for connection in &mut connections {
        statuses.push(connection.get(PROFILE, &fields).await.unwrap().status);
    }
    let Scene { stack: _stack, users: [first, second], .. } = scene;
    let before = second.count();
    assert!(first.count() > 0 && before > 0, "both servers work before one is killed");
    first.kill().await;
    for _ in 0..20 {
        for connection in &mut connections {
            statuses.push(connection.get(PROFILE, &fields).await.unwrap().status);
        }
    }
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(second.count() - before, 160);
}

/// G10: without Redis each of the two gateways has half of a user's budget to itself.
#[tokio::test]
async fn without_redis_each_gateway_has_its_share() {
    let scene = Scene::new(Draft::documented().edit("rate: 100/min", "rate: 100/h")).await;
    scene.redis.program.signal(Signal::SIGKILL);
    let token = scene.bearer(98765);
    let mut connections = [scene.connect().await, scene.connect().await, scene.connect().await];
    for i in 0..180 {
        let fields = [("authorization", token.as_str())];
        connections[i % 3].get(PROFILE, &fields).await.unwrap();
    }
    let records = scene.stack.await_records(180).await;
    for gateway in ["gw-1", "gw-2"] {
        let own: Vec<_> = records.iter().filter(|r| r["gateway_instance"] == gateway).collect();
        let passed = own.iter().filter(|r| r["status"] == 200).count();
        assert_eq!(passed, own.len().min(50), "{gateway} of {}", own.len());
    }
}

/// G5: keys that were fetched serve while the issuer is away.
#[tokio::test]
async fn an_issuer_that_is_away_costs_no_valid_request() {
    let scene = Scene::documented().await;
    let (valid, forged) = (scene.bearer(98765), bearer(&Issuer::forged(98765, "user:read")));
    let Scene { stack, issuer, .. } = scene;
    issuer.jwks.kill().await;
    for (token, status) in [(&valid, 200), (&forged, 401), (&valid, 200)] {
        let fields = [("authorization", token.as_str())];
        let answer = connect(&stack).await.get(PROFILE, &fields).await.unwrap();
        assert_eq!(answer.status, status);
    }
}

/// G22: the documented `/static/avatar.jpg`, through the edge, for everybody: with validators, in part, as
/// a head; and no service is asked.
#[tokio::test]
async fn a_static_file_is_served_beside_the_api() {
    let scene = Scene::documented().await;
    let mut connection = scene.connect().await;
    let path = "/static/avatar.jpg";
    let whole = connection.get(path, &[]).await.unwrap();
    assert_eq!((whole.status, whole.header("content-type")), (200, "image/jpeg"));
    assert_eq!(whole.body, AVATAR);
    let (tag, modified) = (whole.header("etag"), whole.header("last-modified"));
    for condition in [("if-none-match", tag), ("if-modified-since", modified)] {
        let same = connection.get(path, &[condition]).await.unwrap();
        assert_eq!((same.status, same.header("etag"), same.body.len()), (304, tag, 0));
    }
    let part = connection.get(path, &[("range", "bytes=2-11"), ("if-range", tag)]).await.unwrap();
    let range = format!("bytes 2-11/{}", AVATAR.len());
    assert_eq!((part.status, part.header("content-range")), (206, range.as_str()));
    assert_eq!(part.body, AVATAR[2..12]);
    let head = tests::clients::http::request("HEAD", path, &[]).unwrap();
    let head = connection.send(head).await.unwrap();
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), {
        (200, whole.header("content-length"), tag)
    });
    assert!(head.body.is_empty());
    assert_eq!(connection.get("/static/none", &[]).await.unwrap().status, 404);
    assert_eq!(scene.reached(), 0);
    let records = scene.stack.await_records(6).await;
    assert!(records.iter().all(|record| record["route"] == "/static/*"), "{records:?}");
}
