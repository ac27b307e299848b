//! What the file changes of requests and answers on their way.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

/// A gateway with these lines below `gateways: app:`, before its routes; one service `user`.
fn rig(fake: &Fake, lines: &str) -> Rig {
    Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), lines))
}

const ALL: &str = "    defaults:
      transform:
        request: { headers: { set: { x-order: listener, x-tenant: '${request.header.x-shop|none}' }, remove: X-Debug } }
        response: { headers: { set: { x-order: listener, x-asked: '${request.path}' } } }
    upstreams:
      user:
        transform:
          request: { path: '/base${request.path}', headers: { add: { x-order: service } } }
          response: { headers: { set: { x-order: service }, rename: { x-old: x-new }, remove: [x-secret] } }
    routes:
      - path: /api/v1/users/{id}
        to: user
        transform:
          request:
            path: /users/${path.id}
            host: users.internal
            query: { remove: [debug], rename: { q: query }, set: { id: '${path.id}' }, add: { via: a b } }
            headers: { add: { x-order: route }, rename: { x-a: x-b } }
          response: { status: { 404: 410 }, headers: { set: { x-order: route } } }
      - { path: /files/*, to: user, transform: { request: { path: '/store/${path.rest}' } } }
      - { path: '~/v(?<version>[0-9]+)/.*', to: user, transform: { request: { path: '/${path.version}/${request.query.name}' } } }
      - { path: /plain, to: user, auth: none }
";

/// G13, G2: paths, hosts, parameters and headers are changed; the listener's change comes first, the
/// service's last, and the other way round on the way back.
#[tokio::test]
async fn requests_and_answers_are_changed_in_order() {
    local(async {
        let answer =
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nX-Old: 1\r\nX-Secret: 2\r\n\r\n";
        let fake = Fake::new(Act::Keep(answer)).await;
        let rig = rig(&fake, ALL);
        let lines = "X-Debug: 1\r\nX-A: kept\r\nX-B: gone\r\nX-Shop: shop-7\r\nX-Order: client\r\n";
        let answer = rig.get("/api/v1/users/a%2Bb?debug=1&q=1%202&x=%41", lines).await;
        let sent = fake.seen.last();
        assert!(
            sent.starts_with(
                "GET /base/users/a%2Bb?query=1%202&x=%41&id=a%2Bb&via=a%20b HTTP/1.1\r\n"
            ),
            "{sent}"
        );
        for line in [
            "host: users.internal\r\n",
            "x-b: kept\r\n",
            "x-tenant: shop-7\r\n",
            "x-forwarded-host: a\r\n",
        ] {
            assert!(sent.contains(line), "{line}: {sent}");
        }
        let order: Vec<&str> =
            sent.lines().filter_map(|line| line.strip_prefix("x-order: ")).collect();
        assert_eq!(order, ["listener", "route", "service"]);
        assert!(!sent.contains("x-debug") && !sent.contains("x-a:"), "{sent}");
        assert!(answer.starts_with("HTTP/1.1 410 Gone\r\n"), "{answer}");
        for line in ["x-order: listener\r\n", "x-new: 1\r\n", "x-asked: /api/v1/users/a%2Bb\r\n"] {
            assert!(answer.contains(line), "{line}: {answer}");
        }
        assert!(!answer.contains("x-secret") && !answer.contains("x-old"), "{answer}");
        for (path, expected) in [
            ("/files/a/b.txt", "/base/store/a/b.txt"),
            ("/files", "/base/store/"),
            ("/v2/x?name=%C3%A9%2Fx%3Fy", ""),
            ("/v12/x?name=%C3%A9%3Fy", "/base/12/%C3%A9%3Fy"),
        ] {
            let answer = rig.get(path, "").await;
            let sent = fake.seen.last();
            if expected.is_empty() {
                assert!(answer.starts_with("HTTP/1.1 422 "), "{path}: {answer}");
                assert!(answer.contains("request_not_transformed"), "{answer}");
            } else {
                assert!(sent.starts_with(&format!("GET {expected}")), "{path}: {sent}");
            }
        }
    })
    .await;
}

/// G13: a service is told who the file says that the gateway is to it; a client's own token goes no further, under
/// another name neither.
#[tokio::test]
async fn a_token_of_the_file_stays() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let filter = Fake::new(Act::Answer("{\"headers\":{\"set\":{\"authorization\":\"Basic outside\"}}}")).await;
        let routes = format!("    routes:
      - {{ path: /set, to: user, auth: riders, transform: {{ request: {{ headers: {{ set: {{ authorization: Basic own }} }} }} }} }}
      - {{ path: /renamed, to: user, auth: riders, transform: {{ request: {{ headers: {{ rename: {{ authorization: x-token }} }} }} }} }}
      - {{ path: /asked, to: user, auth: riders, external: {{ url: \"http://{}/\" }} }}
      - {{ path: /plain, to: user, auth: riders }}", filter.address);
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &issuers.gateway(&routes)));
        let token = bearer(&issuers.riders.token("ES256", None, &rider(json!({}))));
        for (path, own) in [
            ("/set", Some("authorization: Basic own\r\n")),
            ("/renamed", None),
            ("/asked", Some("authorization: Basic outside\r\n")),
            ("/plain", None),
        ] {
            let answer = rig.get(path, &token).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            let sent = fake.seen.last();
            assert!(!sent.contains("Bearer") && !sent.contains("x-token"), "{path}: {sent}");
            assert_eq!(sent.matches("authorization").count(), usize::from(own.is_some()), "{sent}");
            assert!(own.is_none_or(|line| sent.contains(line)), "{path}: {sent}");
        }
    })
    .await;
}

/// G13: no value of a client leaves its segment, and a path that lacks one is refused before the service.
#[tokio::test]
async fn what_is_filled_in_stays_in_its_place() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let mut rig = rig(&fake, ALL);
        for name in ["..", ".", "a%2F..%2Fadmin", "%2e%2e", "", "a%5Cb", "..%3Bx"] {
            let answer = rig.get(&format!("/v1/x?name={name}"), "").await;
            assert!(answer.starts_with("HTTP/1.1 422 "), "{name}: {answer}");
        }
        let answer = rig.get("/v1/x", "").await;
        assert!(
            answer.contains("no path can be made of `/${path.version}/${request.query.name}` (`transform` of the route)"),
            "{answer}"
        );
        assert_eq!(fake.seen.count(), 0);
        let answer = rig.get("/v1/x?name=a%0d%0aEvil:%201%20HTTP/1.1", "").await;
        assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
        rig.get("/plain", "X-Shop: a\u{e9}\r\n").await;
        let sent = fake.seen.last();
        assert!(sent.contains("x-tenant: none\r\n"), "{sent}");
        let records = rig.records();
        let reason = "request: no path can be made of `/${path.version}/${request.query.name}` (`transform` of the route)";
        assert_eq!((&records[0]["status"], &records[0]["reason"]), (&422.into(), &reason.into()));
        assert_eq!(records.last().and_then(|last| last.get("reason")), None);
    })
    .await;
}

/// G2: our own answers pass the listener's and the route's change too, but not its statuses.
#[tokio::test]
async fn our_own_answers_are_changed_too() {
    local(async {
        let fake = Fake::new(Act::Hang).await;
        let rig = rig(&fake, ALL);
        let answer = rig.get("/nobody", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 404 ") && answer.contains("x-order: listener\r\n"),
            "{answer}"
        );
        let answer = rig.get("/api/v1/users/7", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("x-order: listener\r\n"),
            "{answer}"
        );
        assert!(answer.contains("x-asked: /api/v1/users/7\r\n"), "{answer}");
    })
    .await;
}

const EARLY: &str = r#"    defaults:
      transform: { response: { headers: { set: { x-asked: '${request.method} ${request.path}', x-shop: '${request.header.x-shop}', x-q: '${request.query|none}', x-key: '${request.header.x-api-key|none}', x-host: '${request.host}' } } } }
    api-keys: { partners: { from: "file:/dev/null", header: X-Api-Key, query: key } }
    routes:
      - path: /mine/{id}
        to: user
        auth: riders
        scopes: [pay]
        transform: { response: { headers: { set: { x-id: '${path.id}', x-who: '${user}', x-service: '${service|nobody}' } } } }
      - { path: /key, to: user, auth: partners }
      - { path: /old/*, redirect: { to: '/new/${path.rest}' }, transform: { response: { headers: { add: { x-went: '${route} ${path.rest}' } } } } }
"#;

/// G13: headers of answers that end before their changes were looked for are filled with what is known by then, and never
/// with credentials.
#[tokio::test]
async fn early_answers_say_what_is_known_by_then() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&fake, &issuers.gateway(EARLY));
        let token = bearer(&issuers.riders.token("ES256", None, &rider(json!({}))));
        let poor = format!("X-Shop: s1\r\n{token}");
        for (path, lines, status, has, lacks) in [
            (
                "/mine/7?a=1",
                "X-Shop: s1\r\n",
                401,
                &[
                    "x-asked: GET /mine/7\r\n",
                    "x-shop: s1\r\n",
                    "x-q: a=1\r\n",
                    "x-id: 7\r\n",
                    "x-service: nobody\r\n",
                    "x-host: a\r\n",
                ][..],
                "x-who",
            ),
            (
                "/mine/7",
                &*poor,
                403,
                &["x-who: 98765\r\n", "x-id: 7\r\n", "x-q: none\r\n"],
                "x-nothing",
            ),
            (
                "/key?key=secret&b=2",
                "X-Api-Key: secret\r\n",
                401,
                &["x-q: b=2\r\n", "x-key: none\r\n"],
                "secret",
            ),
            ("/key?key=secret", "", 401, &["x-q: none\r\n"], "x-shop"),
            ("/old/a/b", "", 308, &["x-went: /old/* a/b\r\n"], "x-id"),
            (
                "/nowhere?c",
                "X-Shop: s2\r\n",
                404,
                &["x-asked: GET /nowhere\r\n", "x-shop: s2\r\n", "x-q: c\r\n", "x-host: a\r\n"],
                "x-id",
            ),
            ("/a/../..", "X-Shop: s2\r\n", 400, &["x-asked: GET /a/../..\r\n"], "x-shop"),
        ] {
            let answer = rig.get(path, lines).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
            for line in has {
                assert!(answer.contains(line), "{path} {line}: {answer}");
            }
            assert!(!answer.contains(lacks), "{path} {lacks}: {answer}");
        }
        assert_eq!(fake.seen.count(), 0);
    })
    .await;
}

const BODIES: &str = "    routes:
      - path: /orders
        to: user
        transform:
          request:
            body:
              max: 64B
              json: [{ set: meta.ip, to: '${client.address}' }, { remove: admin }, { rename: name, to: title }, { move: a.b, to: c }]
          response:
            body: { max: 64B, json: [{ remove: 'items[].cost' }, { set: served, json: 'true' }] }
";

async fn post(rig: &Rig, kind: &str, body: &str) -> String {
    let (length, (mut stream, _task)) = (body.len(), rig.connect());
    let text = format!(
        "POST /orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.expect("taken");
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// G13: fields of JSON are set, removed, renamed and moved, both ways; lengths and validators follow.
#[tokio::test]
async fn json_bodies_are_changed() {
    local(async {
        let body = "{\"items\":[{\"id\":1,\"cost\":2.50}],\"n\":10000000000000000000000}";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.shop+json; charset=utf-8\r\nETag: \"1\"\r\nContent-Digest: x\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let fake = Fake::new(Act::Keep(Box::leak(answer.into_boxed_str()))).await;
        let rig = rig(&fake, BODIES);
        let answer = post(&rig, "application/json", "{\"name\":\"x\",\"admin\":true,\"a\":{\"b\":[1]}}").await;
        let sent = fake.seen.last();
        let expected = "{\"title\":\"x\",\"a\":{},\"meta\":{\"ip\":\"192.0.2.7\"},\"c\":[1]}";
        assert!(sent.ends_with(expected), "{sent}");
        assert!(sent.contains(&format!("content-length: {}\r\n", expected.len())), "{sent}");
        assert!(sent.contains("accept-encoding: identity\r\n"), "{sent}");
        let expected = "{\"items\":[{\"id\":1}],\"n\":10000000000000000000000,\"served\":true}";
        assert!(answer.ends_with(expected), "{answer}");
        assert!(answer.contains(&format!("content-length: {}\r\n", expected.len())), "{answer}");
        assert!(answer.contains("etag: W/\"1\"\r\n") && !answer.contains("digest"), "{answer}");
    })
    .await;
}

/// G13: what cannot be changed is refused whole: no service sees half of a request, no client half of an
/// answer.
#[tokio::test]
async fn bodies_that_cannot_be_changed_are_refused() {
    local(async {
        let fake = Fake::new(Act::Answer("plain text")).await;
        let rig = rig(&fake, BODIES);
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(64));
        for (kind, body, status) in [
            ("text/plain", "hello", "422"),
            ("application/json", "{\"a\":", "422"),
            ("application/json", "{\"meta\":1}", "422"),
            ("application/json", "{\"admin\":1,\"admin\":2}", "422"),
            ("application/json", "\u{feff}{}", "422"),
            ("application/json", large.as_str(), "413"),
        ] {
            let answer = post(&rig, kind, body).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{body}: {answer}");
        }
        assert_eq!(fake.seen.count(), 0);
        let told = rig.observer.metrics.render();
        for (reason, count) in [("json", 5), ("too_large", 1)] {
            let line = format!("side=\"request\",reason=\"{reason}\"}} {count}\n");
            assert!(told.contains(&line), "{reason}: {told}");
        }
        let answer = post(&rig, "application/json", "{}").await;
        assert!(answer.ends_with("plain text"), "what is no JSON passes as it is: {answer}");
        let answer = post(&rig, "application/json", "").await;
        assert!(answer.ends_with("plain text"), "no body is none to change: {answer}");
    })
    .await;
    for (lines, body) in [
        ("Content-Type: application/json\r\n", "{\"items\":[{\"cost\":1,\"cost\":2}]}"),
        ("Content-Type: application/json\r\n", "{"),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "{}"),
        ("Content-Type: application/json\r\nContent-Encoding: compress\r\n", "{}"),
        ("Content-Type: text/plain\r\nContent-Type: application/json\r\n", "{}"),
        ("Content-Type: text/plain, application/json\r\n", "{}"),
        (
            "Content-Type: application/json\r\n",
            "{\"long\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}",
        ),
    ] {
        local(async {
            let text =
                format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len());
            let fake = Fake::new(Act::Keep(Box::leak(text.into_boxed_str()))).await;
            let mut rig = rig(&fake, BODIES);
            let answer = rig.get("/orders", "").await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{body}: {answer}");
            assert!(answer.contains("answer_not_transformed"), "{answer}");
            assert!(!answer.contains("transform`"), "clients need not know: {answer}");
            let reason = rig.records()[0]["reason"].as_str().map(str::to_owned);
            let reason = reason.unwrap_or_default();
            assert!(reason.starts_with("answer: "), "{body}: {reason}");
            assert!(reason.ends_with("(`transform` of the route)"), "{body}: {reason}");
            let told = rig.observer.metrics.render();
            let counted = "aqueduct_http_transform_failures_total{route=\"";
            let own = told.lines().filter(|line| line.starts_with(counted));
            let own: Vec<&str> = own.collect();
            let [own] = own[..] else { panic!("one: {told}") };
            assert!(own.contains("side=\"answer\"") && own.ends_with("} 1"), "{own}");
        })
        .await;
    }
}

/// G13: answers are compressed for who takes it, once, and whoever keeps them is told.
#[tokio::test]
async fn answers_are_compressed_for_who_takes_it() {
    let long = "x".repeat(2000);
    for (lines, wishes, form) in [
        ("Content-Type: text/html\r\nETag: \"1\"\r\n", "gzip", "gzip"),
        ("Content-Type: application/hal+json\r\n", "br;q=0.5, zstd", "zstd"),
        ("Content-Type: TEXT/plain; charset=utf-8\r\n", "gzip, br", "br"),
        ("Content-Type: text/html\r\n", "identity", ""),
        ("Content-Type: text/html\r\n", "", ""),
        ("Content-Type: image/png\r\n", "gzip", "none"),
        ("Content-Type: text/html\r\nCache-Control: no-transform\r\n", "gzip", "none"),
        ("Content-Type: text/html\r\nCache-Control: max-age=1, No-Transform\r\n", "gzip", "none"),
        ("Content-Type: text/html\r\nContent-Encoding: br\r\n", "gzip", "none"),
    ] {
        local(async {
            let text = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2000\r\n\r\n{long}");
            let fake = Fake::new(Act::Keep(Box::leak(text.into_boxed_str()))).await;
            let rig = rig(
                &fake,
                "    defaults: { compress: true }\n    routes: [{ path: /*, to: user }]\n",
            );
            let answer = rig.get("/", &format!("Accept-Encoding: {wishes}\r\n")).await;
            let varies = answer.contains("vary: Accept-Encoding\r\n");
            assert_eq!(varies, form != "none", "{lines} {wishes}: {answer}");
            if ["", "none"].contains(&form) {
                assert!(answer.ends_with(&long), "{lines} {wishes}: {answer}");
            } else {
                assert!(answer.contains(&format!("content-encoding: {form}\r\n")), "{answer}");
                assert!(!answer.contains("content-length") && answer.len() < 1000, "{answer}");
                assert!(!answer.contains("etag: \"1\""), "{answer}");
            }
        })
        .await;
    }
}

/// G13: what an answer says of a body that does not follow, it says of the body that would: caches find the same
/// validator with HEAD and 304 as with the body, and no other length.
#[tokio::test]
async fn validators_are_those_of_what_is_sent() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"1\"\r\nVary: accept-encoding\r\n\
        Content-Length: 2000\r\n\r\n";
    const SAME: &str = "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nVary: accept-encoding\r\n\r\n";
    for (filter, lines) in [
        ("transform: { response: { body: { json: [{ remove: cost }] } } }", ""),
        ("compress: true", "Accept-Encoding: gzip\r\n"),
    ] {
        local(async {
            let fake = Fake::script(|_, n| Act::Keep(if n == 1 { HEAD } else { SAME })).await;
            let routes = format!("    routes: [{{ path: /*, to: user, {filter} }}]\n");
            let rig = rig(&fake, &routes);
            let head = format!("HEAD / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let get = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-None-Match: W/\"1\"\r\n{lines}\r\n"
            );
            let answers = rig.raw(&format!("{head}{get}")).await;
            assert_eq!(answers.matches("etag: W/\"1\"\r\n").count(), 2, "{filter}: {answers}");
            assert!(!answers.contains("content-length: 2000"), "{filter}: {answers}");
            assert_eq!(answers.matches("vary: ").count(), 2, "{filter}: {answers}");
        })
        .await;
    }
}

/// G13: HEAD is told what GET would be; what is a part, has no body, or has a form already, stays as it is.
#[tokio::test]
async fn only_what_is_whole_gets_another_form() {
    const BYTES: &str = "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=a\r\nETag: \"1\"\r\n\
        Content-Length: 10\r\n\r\n0123456789";
    const PART: &str = "HTTP/1.1 206 Partial Content\r\nContent-Type: text/html\r\nContent-Range: bytes 0-9/99\r\n\
        ETag: \"1\"\r\nContent-Length: 10\r\n\r\n0123456789";
    const WHOLE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"1\"\r\nContent-Length: 10\r\n\r\n0123456789";
    const HEAD: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"1\"\r\nContent-Length: 10\r\n\r\n";
    const NONE: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n";
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\nContent-Type: text/html\r\nETag: \"1\"\r\n\r\n";
    const RESET: &str = "HTTP/1.1 205 Reset Content\r\nContent-Type: text/html\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n";
    for (method, said, more, changed) in [
        ("GET", WHOLE, "", true),
        ("HEAD", HEAD, "", true),
        ("GET", BYTES, "", false),
        ("GET", PART, "", false),
        ("HEAD", NONE, "", false),
        ("GET", NONE, "", false),
        ("GET", EMPTY, "", false),
        ("HEAD", EMPTY, "", false),
        ("HEAD", RESET, "", false),
        ("GET", WHOLE, ", response-headers: { content-encoding: br }", false),
    ] {
        local(async {
            let fake = Fake::new(Act::Keep(said)).await;
            let compress = "compress: { min: 0B, types: [text/, multipart/] }";
            let rig = rig(&fake, &format!("    routes: [{{ path: /*, to: user, {compress}{more} }}]\n"));
            let ask = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n");
            let answer = rig.raw(&ask).await;
            let told = format!("{method} {said}: {answer}");
            assert_eq!(answer.contains("content-encoding: gzip\r\n"), changed, "{told}");
            assert_eq!(answer.contains("etag: W/\"1\"\r\n"), changed, "{told}");
            assert_eq!(answer.contains("etag: \"1\"\r\n"), !changed, "{told}");
            if changed {
                assert!(!answer.contains("content-length"), "{told}");
            } else if method == "GET" && !said.ends_with("\r\n\r\n") {
                assert!(answer.ends_with("\r\n\r\n0123456789"), "{told}");
            }
        })
        .await;
    }
}

/// G13: what has come of a stream is sent on before more comes.
#[tokio::test]
async fn events_are_not_held_back() {
    local(async {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = format!("{head}9\r\ndata: 1\n\n\r\n");
        let fake = Fake::new(Act::Keep(Box::leak(text.into_boxed_str()))).await;
        let rig = rig(&fake, "    routes: [{ path: /*, to: user, compress: { min: 0B } }]\n");
        let (mut stream, _task) = rig.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n").await.expect("taken");
        let mut all = Vec::new();
        while !all.windows(4).any(|four| four == b"\0\0\xff\xff") {
            let read = tokio::io::AsyncReadExt::read_buf(&mut stream, &mut all).await.expect("alive");
            assert!(read > 0, "a piece that is flushed ends with an empty block");
        }
    })
    .await;
}
