//! Answers that the file itself gives, what it says of a route's end, and several answers as one.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, pass, topology, until};

/// A gateway with these routes to a service `user`.
fn rig(address: SocketAddr, lines: &str) -> Rig {
    let more = "      - { path: /*, to: user }";
    Rig::new(&topology(&format!("  user: {{ endpoints: [{address}] }}"), &format!("{lines}{more}")))
}

/// G13: redirects keep path and query, and nothing that a client says chooses the host.
#[tokio::test]
async fn clients_are_sent_elsewhere() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = rig(
            fake.address,
            "    routes:
      - { path: /old/*, redirect: { to: '/new/${path.rest}' } }
      - { path: /secure/*, redirect: { to: 'https://${request.host}${request.path}', status: 301, query: false } }
      - { path: '/u/{id}', redirect: { to: 'https://users.example/${path.id}?from=${request.header.x-a|none}', status: 302 } }
",
        );
        for (path, lines, expected) in [
            ("/old/a/b?x=1", "", "308 Permanent Redirect\r\nlocation: /new/a/b?x=1"),
            ("/old//evil.example/", "", "308 Permanent Redirect\r\nlocation: /new/evil.example/"),
            ("/secure/a?b=c", "", "301 Moved Permanently\r\nlocation: https://a/secure/a"),
            ("/u/%C3%A9?b=c", "X-A: ?&/#\r\n", "302 Found\r\nlocation: https://users.example/%C3%A9?from=%3F%26%2F%23&b=c"),
        ] {
            let answer = rig.get(path, lines).await;
            let text = answer.to_lowercase();
            assert!(text.starts_with("http/1.1 "), "{answer}");
            let (status, location) = expected.split_once("\r\n").expect("two lines");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{path}: {answer}");
            assert!(answer.contains(&format!("{location}\r\n")), "{path}: {answer}");
        }
        assert_eq!(fake.seen.count(), 0);
    })
    .await;
}

/// G13: no path that a client chooses becomes the name of a host.
#[tokio::test]
async fn nobody_is_sent_to_another_host() {
    local(async {
        let routes = "    routes:
      - { path: '~/go(?<rest>/.*)', redirect: { to: '/${path.rest}' } }
      - { path: /whole/*, redirect: { to: '/${request.path}', query: false } }";
        let rig = Rig::new(&topology("  user: { endpoints: [127.0.0.1:9] }", routes));
        for (path, location) in [
            ("/go/evil.example", "/evil.example"),
            ("/go/evil.example/?a=b", "/evil.example/?a=b"),
            ("/whole/x?a=b", "/whole/x"),
        ] {
            let answer = rig.get(path, "").await;
            assert!(answer.contains(&format!("\r\nlocation: {location}\r\n")), "{path}: {answer}");
        }
    })
    .await;
}

/// G13: a text of the file, a closed route, and careful headers where a service says nothing.
#[tokio::test]
async fn texts_closed_routes_and_careful_headers() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nReferrer-Policy: origin\r\n\r\n";
        let fake = Fake::new(Act::Keep(answer)).await;
        let rig = rig(
            fake.address,
            "    defaults: { maintenance: { retry-after: 2m, detail: 'back at noon' } }
    routes:
      - { path: /robots.txt, answer: { body: 'User-agent: *', status: 203 }, maintenance: false }
      - { path: /open, to: user, maintenance: false, security-headers: api, max-body: 2B }
",
        );
        let answer = rig.get("/robots.txt", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 203 ") && answer.ends_with("\r\n\r\nUser-agent: *"),
            "{answer}"
        );
        assert!(answer.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer}");
        let answer = rig.get("/closed", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 120\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\"maintenance\"") && answer.contains("back at noon"), "{answer}");
        let answer = rig.get("/open", "").await;
        for line in [
            "x-content-type-options: nosniff\r\n",
            "referrer-policy: origin\r\n",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        assert!(!answer.contains("strict-transport-security"), "plain HTTP: {answer}");
        let post =
            "POST /open HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
        let answer = rig.raw(post).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(fake.seen.count(), 1);
    })
    .await;
}

/// G14: a route that ends says so on every answer, its end too, and its callers are counted.
#[tokio::test]
async fn a_route_says_when_it_ends() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = rig(
            fake.address,
            "    routes:
      - { name: v1, path: /v1/*, to: user, deprecated: 2023-06-30, sunset: 2999-12-31, successor: /v2/, deprecation-link: 'https://dev.example/v1' }
      - { name: v0, path: /v0/*, to: user, sunset: 2020-02-29 }
",
        );
        let answer = rig.get("/v1/x", "").await;
        for line in [
            "deprecation: @1688083200\r\n",
            "sunset: Wed, 01 Jan 3000 00:00:00 GMT\r\n",
            "link: <https://dev.example/v1>; rel=\"deprecation\"; type=\"text/html\"\r\n",
            "link: <https://dev.example/v1>; rel=\"sunset\"; type=\"text/html\"\r\n",
            "link: </v2/>; rel=\"successor-version\"\r\n",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        let answer = rig.get("/v0/x", "").await;
        assert!(answer.starts_with("HTTP/1.1 410 "), "{answer}");
        assert!(answer.contains("sunset: Sun, 01 Mar 2020 00:00:00 GMT\r\n"), "{answer}");
        let answer = rig.get("/other", "").await;
        assert!(!answer.contains("sunset") && !answer.contains("deprecation"), "{answer}");
        let text = rig.observer.metrics.render();
        for route in ["v1", "v0"] {
            let counted = format!(
                "aqueduct_http_version_requests_total{{route=\"{route}\",version=\"\",consumer=\"none\"}} 1"
            );
            assert!(text.contains(&counted), "{text}");
        }
        assert!(!text.contains("route=\"/*\",version"), "{text}");
    })
    .await;
}

/// G14: a route goes on through its last day, and is gone with the first moment of the next, on a connection that was there
/// before, too.
#[tokio::test]
async fn a_route_ends_at_midnight() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = rig(
            fake.address,
            "    routes:
      - { name: v1, path: /v1/*, to: user, sunset: 2027-02-28, successor: /v2/ }
",
        );
        // 2027-02-28 23:59:30 UTC.
        rig.worker.pretend(SystemTime::UNIX_EPOCH + Duration::from_secs(1_803_859_170));
        let (mut stream, _task) = rig.connect();
        let ask = b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(ask).await.expect("taken");
        let answer = until(&mut stream, "\r\n\r\nx").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("sunset: Mon, 01 Mar 2027 00:00:00 GMT\r\n"), "{answer}");
        pass(Duration::from_secs(30)).await;
        stream.write_all(ask).await.expect("taken");
        let answer = until(&mut stream, "}").await;
        assert!(answer.starts_with("HTTP/1.1 410 "), "{answer}");
        for line in [
            "date: Mon, 01 Mar 2027 00:00:",
            "link: </v2/>; rel=\"successor-version\"\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        assert!(rig.get("/v2/x", "").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(fake.seen.count(), 2);
    })
    .await;
}

/// Services that each do one thing, and an aggregate of them with these further words for each call.
async fn dashboard(acts: [Act; 3], calls: [&str; 3], more: &str) -> (Vec<Fake>, Rig) {
    let mut fakes = Vec::new();
    for act in acts {
        fakes.push(Fake::new(act).await);
    }
    let named = ["profile", "orders", "notes"];
    let services: Vec<String> = named
        .iter()
        .zip(&fakes)
        .map(|(name, fake)| format!("  {name}: {{ endpoints: [{}] }}", fake.address))
        .collect();
    let calls: Vec<String> = named
        .iter()
        .zip(calls)
        .map(|(name, more)| format!("            {name}: {{ to: {name}, {more} }}"))
        .collect();
    let route = format!(
        "    routes:\n      - path: '/dashboard/{{user}}'\n        aggregate:\n          calls:\n{}\n{more}",
        calls.join("\n")
    );
    (fakes, Rig::new(&topology(&services.join("\n"), &route)))
}

/// G16: all are asked at once, for what the path says, and their answers stand side by side as they came.
#[tokio::test]
async fn several_answers_become_one() {
    local(async {
        let acts = [Act::Answer("{\"id\":1e2}"), Act::Answer(" [1,\n2] "), Act::Answer("\"none\"")];
        let calls = ["path: '/profile/${path.user}'", "path: /orders, query: { user: '${path.user}' }", "path: /notes"];
        let (fakes, mut rig) = dashboard(acts, calls, "").await;
        let lines = "Range: bytes=0-1\r\nIf-None-Match: x\r\nAccept-Encoding: gzip\r\nX-Mine: 1\r\n";
        let answer = rig.get("/dashboard/9%2B9", lines).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-type: application/json\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n{\"profile\":{\"id\":1e2},\"orders\":[1,\n2],\"notes\":\"none\"}"), "{answer}");
        assert!(!answer.contains("x-partial-failure"), "{answer}");
        let sent: Vec<String> = fakes.iter().map(|fake| fake.seen.last()).collect();
        assert!(sent[0].starts_with("GET /profile/9%2B9 HTTP/1.1\r\n"), "{}", sent[0]);
        assert!(sent[1].starts_with("GET /orders?user=9%2B9 HTTP/1.1\r\n"), "{}", sent[1]);
        for sent in &sent {
            assert!(sent.contains("x-mine: 1\r\n") && sent.contains("x-request-id: "), "{sent}");
            assert!(!sent.contains("range") && !sent.contains("if-none"), "{sent}");
        }
        assert!(rig.get("/dashboard", "").await.starts_with("HTTP/1.1 404 "));
        let posted = rig.raw("POST /dashboard/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
        assert_eq!(rig.records()[0]["status"], 200);
    })
    .await;
}

/// G16, G4: HEAD says how long the whole would be; who asks for a tunnel is answered as if he had not.
#[tokio::test]
async fn the_whole_has_a_length_and_is_no_tunnel() {
    local(async {
        let acts = [Act::Answer("{}"), Act::Answer("[]"), Act::Answer("1")];
        let (fakes, rig) = dashboard(acts, ["path: /", "path: /", "path: /"], "").await;
        let whole = rig.get("/dashboard/1", "").await;
        let (_, body) = whole.split_once("\r\n\r\n").expect("a body");
        let ask = "HEAD /dashboard/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let head = rig.raw(ask).await;
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head} {body}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let ask = "GET /dashboard/1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = rig.raw(ask).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(body), "{answer}");
        for fake in &fakes {
            let sent = fake.seen.last().to_lowercase();
            assert!(!sent.contains("upgrade"), "{sent}");
        }
    })
    .await;
}

/// G16: who is late is left out at its time, and the whole takes as long as the slowest, not as all together.
#[tokio::test(start_paused = true)]
async fn the_slowest_call_is_the_time_of_all() {
    local(async {
        let acts = [Act::Answer("{}"), Act::Silent, Act::Silent];
        let calls = [
            "path: /",
            "path: /, timeout: 300ms, on-failure: omit",
            "path: /, timeout: 500ms, default: '[]'",
        ];
        let (_fakes, rig) = dashboard(acts, calls, "").await;
        let began = Instant::now();
        let answer = rig.get("/dashboard/1", "").await;
        let took = began.elapsed();
        assert!(answer.ends_with("{\"profile\":{},\"notes\":[]}"), "{answer}");
        assert!(answer.contains("x-partial-failure: orders, notes\r\n"), "{answer}");
        assert!(
            took >= Duration::from_millis(500) && took < Duration::from_millis(600),
            "{took:?}"
        );
    })
    .await;
}

/// G16: a call that is needed fails the whole, in its own way.
#[tokio::test(start_paused = true)]
async fn a_needed_call_fails_the_whole() {
    local(async {
        for (act, status) in [
            (Act::Silent, "504"),
            (Act::Hang, "502"),
            (Act::Answer("no json"), "502"),
            (Act::Answer(""), "502"),
            (Act::Keep("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"), "502"),
            (Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{"), "504"),
        ] {
            let acts = [act, Act::Answer("1"), Act::Answer("2")];
            let (_fakes, rig) = dashboard(acts, ["path: /"; 3], "").await;
            let answer = rig.get("/dashboard/1", "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{act:?}: {answer}");
            assert!(answer.contains("the call `profile` failed"), "{answer}");
        }
    })
    .await;
}

/// G16: a call may need another's answer; where that has nothing for it, it fails in its own way.
#[tokio::test]
async fn a_call_may_wait_for_another() {
    local(async {
        let acts = [
            Act::Answer("{\"cart\":{\"items\":[{\"id\":\"a b?\"}]}}"),
            Act::Answer("1"),
            Act::Answer("2"),
        ];
        let calls = [
            "path: /",
            "path: '/order/${call.profile.cart.items.0.id}'",
            "path: '/note/${call.profile.nothing}', on-failure: omit",
        ];
        let (fakes, rig) = dashboard(acts, calls, "          merge: by-name\n").await;
        let answer = rig.get("/dashboard/1", "").await;
        assert!(answer.ends_with("\"orders\":1}"), "{answer}");
        let sent = fakes[1].seen.last();
        assert!(sent.starts_with("GET /order/a%20b%3F HTTP/1.1\r\n"), "{sent}");
        assert_eq!(fakes[2].seen.count(), 0);
    })
    .await;
}

/// G16: members side by side; of two of one name the later call's.
#[tokio::test]
async fn members_stand_side_by_side() {
    local(async {
        let acts =
            [Act::Answer("{\"a\":1,\"b\":2}"), Act::Answer("{\"b\":3}"), Act::Answer("{\"c\":4}")];
        let (_fakes, rig) = dashboard(acts, ["path: /"; 3], "          merge: flat\n").await;
        let answer = rig.get("/dashboard/1", "").await;
        assert!(answer.ends_with("{\"a\":1,\"b\":3,\"c\":4}"), "{answer}");
    })
    .await;
}

/// G16: what a caller was last told stands in, for the same request alone.
#[tokio::test]
async fn the_last_good_answer_stands_in() {
    local(async {
        let fails = Rc::new(Cell::new(false));
        let told = Rc::clone(&fails);
        let act = move |_, _| if told.get() { Act::Hang } else { Act::Answer("\"mine\"") };
        let fake = Fake::script(act).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let route = "    routes:\n      - { path: /d/*, aggregate: { calls: { a: { to: user, path: '/${path.rest}', on-failure: last-good } } } }";
        let rig = Rig::new(&topology(&services, route));
        let first = rig.get("/d/1", "").await;
        assert!(first.ends_with("\r\n\r\n{\"a\":\"mine\"}") && !first.contains("x-partial"), "{first}");
        fails.set(true);
        let again = rig.get("/d/1", "").await;
        assert!(again.ends_with("\r\n\r\n{\"a\":\"mine\"}"), "{again}");
        assert!(again.contains("x-partial-failure: a\r\n"), "{again}");
        let other = rig.get("/d/2", "").await;
        assert!(other.ends_with("\r\n\r\n{}"), "{other}");
    })
    .await;
}

/// G13, G16: what a token says of its caller is known where a redirect or a call asks for it, and nowhere else.
#[tokio::test]
async fn claims_fill_redirects_and_calls() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("1")).await);
        let routes = "    routes:
      - { path: /home, auth: riders, redirect: { to: '/t/${claim.shop.id}' } }
      - { path: /sum, auth: riders, aggregate: { calls: { a: { to: user, path: '/${claim.team}', query: { l: '${claim.level|none}' } } } } }";
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &issuers.gateway(routes)));
        let claims = rider(json!({ "shop": { "id": "a/b" }, "team": "red", "level": 3 }));
        let token = bearer(&issuers.riders.token("ES256", None, &claims));
        let answer = rig.get("/home", &token).await;
        assert!(answer.contains("location: /t/a%2Fb\r\n"), "{answer}");
        let answer = rig.get("/sum", &token).await;
        assert!(answer.ends_with("{\"a\":1}"), "{answer}");
        assert!(fake.seen.last().starts_with("GET /red?l=3 HTTP/1.1\r\n"), "{}", fake.seen.last());
    })
    .await;
}

/// G16: what stands in was told to the same caller of the same thing: nobody is told what another was, whoever it is
/// that knows them apart, nor what a service says that nobody may keep.
#[tokio::test]
async fn nobody_is_told_what_another_was() {
    const MINE: &str = "Authorization: Bearer one\r\nX-Shop: 7\r\n";
    for (told, path, lines, stands_in) in [
        ("Vary: X-Other", "/d/1?user=1", MINE, true),
        ("Vary: X-Shop", "/d/1?user=1", MINE, true),
        ("X-A: 1", "/d/1?user=2", MINE, false),
        ("X-A: 1", "/d/1?user=1", "Authorization: Bearer two\r\nX-Shop: 7\r\n", false),
        ("X-A: 1", "/d/1?user=1", "Authorization: Bearer one\r\nCookie: a=b\r\n", false),
        ("Vary: X-Shop", "/d/1?user=1", "Authorization: Bearer one\r\nX-Shop: 8\r\n", false),
        // A service need not say what it goes by, nor does this gateway know where its keys stand.
        ("X-A: 1", "/d/1?user=1", "Authorization: Bearer one\r\nX-Shop: 8\r\n", false),
        (
            "X-A: 1",
            "/d/1?user=1",
            "Authorization: Bearer one\r\nX-Shop: 7\r\nX-Api-Key: k\r\n",
            false,
        ),
        ("X-A: 1", "/d/1?user=1", "X-Shop: 7\r\nAuthorization: Bearer one\r\n", true),
        (
            "X-A: 1",
            "/d/1?user=1",
            "traceparent: 00-11111111111111111111111111111111-2222222222222222-01\r\nAuthorization: Bearer one\r\nX-Shop: 7\r\n",
            true,
        ),
        ("Vary: *", "/d/1?user=1", MINE, false),
        ("Cache-Control: private, no-store", "/d/1?user=1", MINE, false),
    ] {
        local(async {
            let good = format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n{told}\r\n\r\n\"mine\"");
            let good = Act::Raw(Box::leak(good.into_boxed_str()));
            let fake = Fake::script(move |n, _| if n == 1 { good } else { Act::Hang }).await;
            let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
            let route = "    routes:\n      - { path: /d/*, aggregate: { calls: { a: { to: user, path: '/a', query: { user: '${request.query.user}' }, on-failure: last-good } } } }";
            let rig = Rig::new(&topology(&services, route));
            let first = rig.get("/d/1?user=1", MINE).await;
            assert!(first.ends_with("{\"a\":\"mine\"}"), "{first}");
            let other = rig.get(path, lines).await;
            let wanted = if stands_in { "{\"a\":\"mine\"}" } else { "{}" };
            assert!(other.ends_with(&format!("\r\n\r\n{wanted}")), "{told} {path} {lines}: {other}");
        })
        .await;
    }
}
