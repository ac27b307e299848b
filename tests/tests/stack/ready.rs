//! The stories of the ready topologies that need no registry: each as it is shipped, with its demo services as processes.
//! What a story's parts do in every case is tested beside them; here it is seen that the file tells it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tests::clients::http::{Answer, Connection, request};
use tests::shipped::{Shipped, gateways, server};
use tests::tier::{AVATAR, until};

/// Which servers answer so many requests over one connection.
async fn servers(scene: &Shipped, count: usize, path: &str) -> BTreeMap<String, usize> {
    let mut connection = scene.connect().await;
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let answer = connection.get(path, &[]).await.unwrap();
        assert_eq!(answer.header("x-internal-server"), "", "inside names stay inside");
        *seen.entry(server(&answer)).or_default() += 1;
    }
    seen
}

/// `NAME-1` to `NAME-N`, with as many answers each.
fn even(name: &str, count: usize, each: usize) -> BTreeMap<String, usize> {
    (1..=count).map(|number| (format!("{name}-{number}"), each)).collect()
}

/// What the echoing service saw of a header.
fn saw(answer: &Answer, header: &str) -> Option<String> {
    answer.json()["headers"][header].as_str().map(str::to_owned)
}

/// T8 (`single-service`), G17, G18: behind TLS the servers take turns, and one that is killed costs no request.
#[tokio::test]
async fn a_single_service_needs_no_more() {
    let mut scene = Shipped::start("single-service").await;
    assert_eq!(servers(&scene, 6, "/any/path").await, even("app", 2, 3));
    drop(scene.take("app-1"));
    assert_eq!(servers(&scene, 12, "/").await, BTreeMap::from([("app-2".to_owned(), 12)]));
}

/// T8 (`paths`), G11, G22: the path chooses the pool and all of its servers work, 3, 2 and 4 of them; files come from asset
/// servers behind the same address; one pool's end is nothing to the others.
#[tokio::test]
async fn paths_lead_to_pools_of_their_own_size() {
    let mut scene = Shipped::start("paths").await;
    let recommendations = "/api/recommendations";
    assert_eq!(servers(&scene, 9, recommendations).await, even("recommendation", 3, 3));
    assert_eq!(servers(&scene, 8, "/api/user/profile").await, even("user", 4, 2));
    let mut paid = BTreeSet::new();
    let mut connection = scene.connect().await;
    for _ in 0..4 {
        let ask = request("POST", "/api/checkout", &[]).unwrap();
        paid.insert(server(&connection.send(ask).await.unwrap()));
    }
    assert_eq!(paid, BTreeSet::from(["payment-1".to_owned(), "payment-2".to_owned()]));
    let refused = scene.ask("GET", "/api/checkout", &[]).await;
    assert_eq!((refused.status, refused.header("allow")), (405, "POST"));
    for _ in 0..2 {
        let avatar = scene.ask("GET", "/static/avatar.jpg", &[]).await;
        assert_eq!((avatar.status, &*avatar.body), (200, AVATAR));
    }
    for number in 1..=3 {
        drop(scene.take(&format!("recommendation-{number}")));
    }
    let without = scene.ask("GET", recommendations, &[]).await.status;
    assert!((502..=504).contains(&without), "{without}");
    assert_eq!(servers(&scene, 4, "/api/user/profile").await, even("user", 4, 1));
    until("records of both avatars", async || {
        let records = scene.stack.records();
        let assets = records.iter().filter(|record| record["service"] == "assets");
        (assets.count() == 2).then_some(())
    })
    .await;
}

const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 \
                     (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1";
const DESKTOP: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                       Chrome/131.0.0.0 Safari/537.36";

/// A path, fields, and the server that answers.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// T8 (`variants`), G11: kind of client, country, version and the cookie of an experiment each choose the server.
#[tokio::test]
async fn requests_choose_their_variant() {
    let scene = Shipped::start("variants").await;
    let table: [Row; 12] = [
        ("/", &[("user-agent", PHONE)], "mobile-1"),
        ("/", &[("user-agent", DESKTOP)], "desktop-1"),
        ("/", &[], "desktop-1"),
        ("/", &[("x-country-code", "IN")], "india-1"),
        ("/", &[("x-country-code", "US")], "desktop-1"),
        ("/catalogue", &[("accept", "application/vnd.api+json;version=2")], "catalogue-v2-1"),
        ("/catalogue", &[("accept", "application/vnd.v2+json")], "catalogue-v2-1"),
        ("/catalogue", &[("accept", "application/vnd.api+json;version=1")], "catalogue-v1-1"),
        ("/catalogue", &[("accept", "application/json")], "catalogue-v1-1"),
        ("/checkout", &[("cookie", "a=b; experiment=new_checkout")], "new-1"),
        ("/checkout", &[("cookie", "experiment=another")], "old-1"),
        ("/checkout", &[], "old-1"),
    ];
    for (path, fields, expected) in table {
        assert_eq!(server(&scene.ask("GET", path, fields).await), expected, "{path} {fields:?}");
    }
}

/// T8 (`variants`), G12: a visitor takes part in eight experiments at once, always with the same variants; what it has in one
/// says nothing about what it has in another, and what it claims itself is not believed.
#[tokio::test]
async fn eight_experiments_divide_visitors_independently() {
    const EVEN: [&str; 6] = ["artwork", "autoplay", "rows", "search", "signup", "top-ten"];
    let scene = Shipped::start("variants").await;
    let mut connection = scene.connect().await;
    let mut pairs: BTreeMap<(&str, &str), BTreeSet<(String, String)>> = BTreeMap::new();
    for visitor in 0..60 {
        let cookie = format!("visitor=v{visitor}");
        let mut told = Vec::new();
        for _ in 0..2 {
            let fields = [("cookie", cookie.as_str()), ("x-experiment-artwork", "mine")];
            let answer = connection.get("/home", &fields).await.unwrap();
            let of = |name: &str| saw(&answer, &format!("x-experiment-{name}"));
            let even = EVEN.map(|name| (name, of(name).unwrap_or_default()));
            assert!(["faces", "scenes"].contains(&even[0].1.as_str()), "{even:?}");
            told.push((even, of("ranking"), of("subtitles")));
        }
        assert_eq!(told[0], told[1], "{cookie}");
        let even = &told[0].0;
        for (at, (one, first)) in even.iter().enumerate() {
            for (other, second) in &even[at + 1..] {
                pairs.entry((one, other)).or_default().insert((first.clone(), second.clone()));
            }
        }
    }
    assert!(pairs.len() == 15 && pairs.values().all(|met| met.len() == 4), "{pairs:?}");
}

/// T8 (`l7-only`), G20: the token passes untouched and nothing is attached; the service verifies it, and its own 401 comes back
/// to whoever shows an expired one or a claim.
#[tokio::test]
async fn a_plain_balancer_leaves_tokens_to_services() {
    let scene = Shipped::start("l7-only").await;
    let token = scene.bearer(7900, &json!({ "userId": 98765 })).await;
    let profile = "/api/v1/user/profile";
    let answer = scene.ask("GET", profile, &[("authorization", &token)]).await;
    assert_eq!((answer.status, &answer.json()["user"]), (200, &json!(98765)), "{answer:?}");
    assert_eq!(saw(&answer, "authorization"), Some(token));
    assert_eq!(saw(&answer, "x-user-id"), None);
    let expired = scene.bearer(7900, &json!({ "expired": true })).await;
    for fields in [[("authorization", expired.as_str())], [("x-user-id", "98765")]] {
        let refused = scene.ask("GET", profile, &fields).await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
        let body = refused.json();
        assert!(body["server"].as_str().unwrap().starts_with("user-"), "the service's own: {body}");
    }
    assert_eq!(scene.count(7011).await + scene.count(7012).await, 3, "all three reached a service");
}

/// T8 (`l7-only`), G17: least connections: while one server is busy with a request, all others go to the other one.
#[tokio::test]
async fn a_busy_server_gets_nothing_more() {
    let scene = Shipped::start("l7-only").await;
    let token = scene.bearer(7900, &json!({})).await;
    let field = [("authorization", token.as_str())];
    // Longer than this test takes: what arrives there stays there.
    scene.behave(7011, "delay=60000").await;
    let busy = async {
        let mut connection = scene.connect().await;
        loop {
            connection.get("/api/v1/user/1", &field).await.unwrap();
        }
    };
    let others = async {
        until("a request to be held", async || (scene.count(7011).await == 1).then_some(())).await;
        let mut connection = scene.connect().await;
        for _ in 0..20 {
            let answer = connection.get("/api/v1/user/2", &field).await.unwrap();
            assert_eq!(server(&answer), "user-2");
        }
    };
    tokio::select! {
        () = busy => unreachable!("it asks for ever"),
        () = others => {}
    }
    assert_eq!(scene.count(7011).await, 1);
}

/// T8 (`dashboard`), G16: one request, three services, each asked for the token's user; the slow one is left out, one that
/// fails is what it was last, and without the profile there is no page.
#[tokio::test]
async fn a_page_is_put_together() {
    let scene = Shipped::edited("dashboard", |draft| {
        // The same paths without a database behind them.
        ["profile", "orders", "notifications"]
            .into_iter()
            .fold(draft, |draft, name| {
                draft.edit(&format!("run: demo {name}, uses: [data/app]"), "run: demo echo")
            })
            // Who is not slow on purpose has all the time that a busy machine needs.
            .edit("timeout: 300ms", "timeout: 3s")
            .edit("{ to: orders,", "{ timeout: 10s, to: orders,")
            .edit("{ to: profile,", "{ timeout: 10s, to: profile,")
    })
    .await;
    let token = scene.bearer(7900, &json!({ "userId": 99 })).await;
    // Over one connection: what was last good is each worker's own.
    let mut connection = scene.connect().await;
    let fields = [("authorization", token.as_str())];
    let mut page = async || connection.get("/dashboard", &fields).await.expect("an answer");
    let whole = page().await;
    let asked = |page: &Answer| -> BTreeMap<String, Value> {
        let page: BTreeMap<String, Value> = serde_json::from_slice(&page.body).unwrap();
        page.into_iter().map(|(name, told)| (name, told["path"].clone())).collect()
    };
    let (profile, orders) = (json!("/profile/99"), json!("/orders?user=99"));
    let paths =
        [("profile", &profile), ("orders", &orders)].map(|(name, at)| (name.into(), at.clone()));
    let most = BTreeMap::from(paths);
    let mut all = most.clone();
    all.insert("notifications".to_owned(), json!("/notifications/99"));
    assert_eq!((whole.status, asked(&whole)), (200, all));
    assert_eq!(whole.json()["orders"]["headers"]["x-user-id"], "99");
    assert_eq!(whole.json()["orders"]["headers"]["authorization"], Value::Null);

    scene.behave(7061, "delay=60000").await;
    let without = page().await;
    assert_eq!((without.status, asked(&without)), (200, most.clone()), "the slow one is left out");
    assert_eq!(without.header("x-partial-failure"), "notifications");

    scene.behave(7051, "fail=100").await;
    let kept = page().await;
    assert_eq!((kept.status, asked(&kept)), (200, most), "orders as they were last");

    scene.behave(7041, "fail=100").await;
    assert_eq!(page().await.status, 502);
    assert_eq!(scene.ask("GET", "/dashboard", &[]).await.status, 401);
}

/// T8 (`amazon`), G11, G22: one domain; path and method choose among four services and files, on both gateways.
#[tokio::test]
async fn a_shop_is_one_domain() {
    let scene = Shipped::start("amazon").await;
    // The edge's two workers take turns each: of three connections two reach both gateways.
    for _ in 0..3 {
        let mut connection = scene.connect().await;
        for (method, path, service) in [
            ("GET", "/products", "catalog"),
            ("GET", "/products/7", "catalog"),
            ("POST", "/cart", "cart"),
            ("POST", "/checkout", "payment"),
            ("GET", "/reviews", "review"),
        ] {
            let answer = connection.send(request(method, path, &[]).unwrap()).await.unwrap();
            let server = server(&answer);
            assert!(server.starts_with(service), "{method} {path}: {server}");
            assert_eq!(answer.json()["method"], method);
        }
        let avatar = connection.get("/static/avatar.jpg", &[]).await.unwrap();
        assert_eq!((avatar.status, &*avatar.body), (200, AVATAR));
        assert_eq!(avatar.header("cache-control"), "public, max-age=86400");
        let wrong = connection.get("/cart", &[]).await.unwrap();
        assert_eq!((wrong.status, wrong.header("allow")), (405, "POST"));
    }
    let records = scene.stack.await_records(21).await;
    assert_eq!(gateways(&records), BTreeSet::from(["gw-1".to_owned(), "gw-2".to_owned()]));
}

/// Who of the visitors is led to the new version.
async fn led_to_new(connection: &mut Connection) -> BTreeSet<u32> {
    let mut led = BTreeSet::new();
    for visitor in 0..200 {
        let cookie = format!("visitor=v{visitor}");
        let answer = connection.get("/checkout", &[("cookie", &cookie)]).await.unwrap();
        let is_new = server(&answer).starts_with("payment-v2");
        let handed = answer.header("set-cookie").starts_with("canary=true;");
        assert_eq!(handed, is_new, "who is in is told so: {answer:?}");
        led.extend(is_new.then_some(visitor));
    }
    led
}

/// T8 (`canary`), G12: on a connection that stays, the part grows from 5 to 100 of a hundred, whoever is in stays in, either
/// side's requests are counted, and 0 leads everybody back at once, those too who bear the cookie.
#[tokio::test]
async fn a_canary_grows_and_goes_back_at_once() {
    let mut scene = Shipped::start("canary").await;
    let mut connection = scene.connect().await;
    let (mut before, mut part) = (BTreeSet::new(), "part: 5%".to_owned());
    for (step, least, most) in
        [(5, 2, 20), (10, 8, 34), (25, 32, 68), (50, 75, 125), (100, 200, 200)]
    {
        let next = format!("part: {step}%");
        scene.stack.change(&part, &next).await;
        part = next;
        let now = led_to_new(&mut connection).await;
        assert!((least..=most).contains(&now.len()), "{} of 200 at {step} %", now.len());
        assert!(before.is_subset(&now), "nobody is led back as the part grows");
        before = now;
    }
    let bearer = [("cookie", "visitor=v1; canary=true")];
    scene.stack.change(&part, "part: 5%").await;
    assert_eq!(server(&connection.get("/checkout", &bearer).await.unwrap()), "payment-v2-1");
    scene.stack.change("part: 5%", "part: 0%").await;
    assert!(server(&connection.get("/checkout", &bearer).await.unwrap()).starts_with("payment-"));
    let back = server(&connection.get("/checkout", &bearer).await.unwrap());
    assert!(["payment-1", "payment-2"].contains(&back.as_str()), "{back}");
    assert_eq!(led_to_new(&mut connection).await, BTreeSet::new());
    let metrics =
        tests::clients::http::plain(scene.stack.address.at(9111), "/metrics").await.unwrap();
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let counted = |variant: &str| {
        metrics.lines().any(|line| {
            line.starts_with("aqueduct_http_variant_requests_total{")
                && line.contains(&format!("variant=\"{variant}\""))
        })
    };
    assert!(counted("payment") && counted("payment-v2"), "{metrics}");
}

/// T8 (`ten-gateways`), G10: of 130 requests of one user, spread over ten gateways, exactly 100 pass; another user has a budget
/// of its own.
#[tokio::test]
async fn ten_gateways_share_one_budget() {
    // However slowly this goes, no window begins anew.
    let scene = Shipped::edited("ten-gateways", |draft| draft.edit("100/min", "100/h")).await;
    let token = scene.bearer(7900, &json!({ "userId": 1 })).await;
    let mut connections = Vec::new();
    // The edge's two workers take turns each: of twenty connections one of them has ten at least.
    for _ in 0..20 {
        connections.push(scene.connect().await);
    }
    let mut statuses = BTreeMap::new();
    for at in 0..130 {
        let field = [("authorization", token.as_str())];
        let answer = connections[at % 20].get("/", &field).await.unwrap();
        *statuses.entry(answer.status).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 100), (429, 30)]));
    assert_eq!(scene.count(7011).await, 100, "what is refused reaches nobody");
    let other = scene.bearer(7900, &json!({ "userId": 2 })).await;
    assert_eq!(scene.ask("GET", "/", &[("authorization", &other)]).await.status, 200);
    let records = scene.stack.await_records(131).await;
    assert_eq!(gateways(&records).len(), 10);
}

const RIDER: (u16, u16) = (7900, 8443);
const DRIVER: (u16, u16) = (7901, 8444);

/// T8 (`uber`), G5, G10: riders and drivers have issuers, keys and forms of token of their own, which the other gateway refuses;
/// both reach what they share; a rider that has spent its budget takes nothing from a driver's updates.
#[tokio::test]
async fn riders_and_drivers_do_not_meet() {
    let scene = Shipped::start("uber").await;
    let rider = scene.bearer(RIDER.0, &json!({ "userId": 7 })).await;
    let driver = scene.bearer(DRIVER.0, &json!({ "userId": 8, "alg": "RS256" })).await;
    let own = [
        (RIDER, &rider, "POST", "/api/ride/request", "dispatch"),
        (RIDER, &rider, "GET", "/api/ride/track", "location"),
        (RIDER, &rider, "POST", "/api/payment", "payment"),
        (DRIVER, &driver, "POST", "/api/trip/accept", "dispatch"),
        (DRIVER, &driver, "POST", "/api/location/update", "location"),
        (DRIVER, &driver, "GET", "/api/earnings", "earnings"),
    ];
    for ((_, port), token, method, path, service) in own {
        let mut connection = scene.connect_to(port).await;
        let ask = |token: &str| request(method, path, &[("authorization", token)]).unwrap();
        let answer = connection.send(ask(token)).await.unwrap();
        assert!(server(&answer).starts_with(service), "{path}");
        let user = if port == RIDER.1 { "7" } else { "8" };
        assert_eq!(saw(&answer, "x-user-id").as_deref(), Some(user), "{path}");
        let others = if port == RIDER.1 { &driver } else { &rider };
        assert_eq!(connection.send(ask(others)).await.unwrap().status, 401, "{path}");
    }
    // Another signature by the right issuer is no driver's either.
    let form = scene.bearer(DRIVER.0, &json!({ "userId": 8, "alg": "ES256" })).await;
    let mut drivers = scene.connect_to(DRIVER.1).await;
    let field = [("authorization", form.as_str())];
    assert_eq!(drivers.get("/api/earnings", &field).await.unwrap().status, 401);

    let mut riders = scene.connect_to(RIDER.1).await;
    let surge = until("a rider's budget to end", async || {
        let field = [("authorization", rider.as_str())];
        let answer = riders.get("/api/ride/track", &field).await.unwrap();
        (answer.status == 429).then_some(answer)
    });
    assert_ne!(surge.await.header("retry-after"), "");
    for _ in 0..15 {
        let update =
            request("POST", "/api/location/update", &[("authorization", &driver)]).unwrap();
        assert!(server(&drivers.send(update).await.unwrap()).starts_with("location"));
    }
}
