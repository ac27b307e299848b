//! What caches are told of answers: what they depend on, and that errors of ours are for nobody to keep.

use std::cell::Cell;
use std::rc::Rc;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

fn rig(fake: &Fake, lines: &str) -> Rig {
    Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), lines))
}

/// Names in all `Vary` of an answer, in order.
fn vary(answer: &str) -> Vec<String> {
    let lines = answer.lines().filter_map(|line| line.strip_prefix("vary: "));
    let mut names: Vec<String> =
        lines.flat_map(|line| line.split(", ")).map(str::to_ascii_lowercase).collect();
    names.sort();
    names
}

/// G13: whatever services, filters and the file say of `Vary`, what this gateway chooses by stays told, once.
#[tokio::test]
async fn what_answers_depend_on_is_not_lost() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\nVary: origin\r\n\r\nx";
        let fake = Fake::new(Act::Keep(answer)).await;
        let says = "{\"headers\":{\"set\":{\"vary\":\"X-Own\"}}}";
        let filter = Fake::new(Act::Answer(says)).await;
        let cors = "cors: { origins: [\"https://app.example\"] }";
        let rig = rig(&fake, &format!(
            "    routes:
      - {{ path: /set, to: user, {cors}, response-headers: {{ vary: X-Own }} }}
      - {{ path: /changed, to: user, {cors}, transform: {{ response: {{ headers: {{ set: {{ vary: X-Own }} }} }} }} }}
      - {{ path: /renamed, to: user, {cors}, transform: {{ response: {{ headers: {{ rename: {{ vary: x-vary }} }} }} }} }}
      - {{ path: /removed, to: user, {cors}, compress: true, transform: {{ response: {{ headers: {{ remove: [vary] }} }} }} }}
      - {{ path: /forms, to: user, compress: true, response-headers: {{ vary: X-Own }} }}
      - {{ path: /asked, to: user, {cors}, external: {{ url: \"http://{}/\", answers: true }} }}
      - {{ path: /all, to: user, {cors}, response-headers: {{ vary: '*' }} }}
      - {{ path: /open, to: user, cors: {{ origins: '*' }}, response-headers: {{ vary: X-Own }} }}",
            filter.address
        ));
        for (path, wanted) in [
            ("/set", &["origin", "x-own"][..]),
            ("/changed", &["origin", "x-own"]),
            ("/renamed", &["origin"]),
            ("/removed", &["accept-encoding", "origin"]),
            ("/forms", &["accept-encoding", "x-own"]),
            ("/asked", &["origin", "x-own"]),
            ("/all", &["*"]),
            ("/open", &["x-own"]),
        ] {
            let answer = rig.get(path, "Origin: https://app.example\r\n").await;
            assert_eq!(vary(&answer), wanted, "{path}: {answer}");
        }
    })
    .await;
}

/// G11, G13: where headers choose the route, answers say which, those of the routes that were passed over too.
#[tokio::test]
async fn headers_that_choose_a_route_are_told() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = rig(
            &fake,
            "    routes:
      - { path: /api/*, to: user, accept-version: 2, name: two }
      - { path: /api/*, to: user, name: one }
      - { path: /api/beta, to: user, headers: { X-Beta: '1' }, cookies: { group: '*' }, name: beta }
      - { path: /page, to: user, client: mobile, name: small }
      - { path: /page, to: user, name: large }
      - { path: /query, to: user, query: { q: '*' }, name: query }
      - { path: /*, to: user, name: rest }",
        );
        for (path, lines, wanted) in [
            ("/api/x", "", &["accept"][..]),
            ("/api/x", "Accept: application/json;version=2\r\n", &["accept"]),
            ("/api/beta", "", &["accept", "cookie", "x-beta"]),
            ("/api/beta", "X-Beta: 1\r\nCookie: group=a\r\n", &["cookie", "x-beta"]),
            ("/page", "", &["user-agent"]),
            ("/query?q=1", "", &[]),
            ("/other", "", &[]),
        ] {
            let answer = rig.get(path, lines).await;
            assert_eq!(vary(&answer), wanted, "{path} {lines}: {answer}");
        }
    })
    .await;
}

/// G13: what the file tells caches it tells them of answers to keep; errors of ours are kept by nobody.
#[tokio::test]
async fn errors_are_not_kept() {
    local(async {
        let asked = Rc::new(Cell::new(0));
        let fake = Fake::script(move |_, _| match asked.replace(asked.get() + 1) + 1 {
            1 => Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-cache\r\n\r\n"),
            2 => Act::Keep("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nCache-Control: max-age=5\r\n\r\n"),
            3 => Act::Keep("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n"),
            _ => Act::Hang,
        })
        .await;
        let rig = rig(&fake, "    defaults: { transform: { response: { headers: { add: { cache-control: public } } } } }
    limits: { few: { rate: 4/h, by: route } }
    routes:
      - path: /a
        to: user
        limits: [few]
        methods: [GET]
        response-headers: { Cache-Control: 'public, max-age=60', Expires: 'Thu, 01 Jan 2099 00:00:00 GMT', x-own: '1' }
      - { path: /c, to: user, methods: [GET], transform: { response: { headers: { set: { cache-control: public, expires: never } } } } }");
        for (status, wanted) in [
            ("200", &["public, max-age=60"][..]),
            ("404", &["max-age=5", "public"]),
            ("302", &["public, max-age=60"]),
            ("502", &["no-store"]),
            ("429", &["no-store"]),
        ] {
            let answer = rig.get("/a", "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
            let said: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("cache-control: ")).collect();
            assert_eq!(said, wanted, "{status}: {answer}");
            assert_eq!(answer.contains("expires: "), ["200", "302"].contains(&status), "{answer}");
            assert!(answer.contains("x-own: 1\r\n"), "{answer}");
        }
        for answer in [rig.get("/c", "").await, rig.raw("PUT /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await, rig.get("/none", "").await] {
            assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
            assert_eq!(answer.matches("cache-control").count(), 1, "{answer}");
            assert!(!answer.contains("expires"), "{answer}");
        }
    })
    .await;
}

/// G13: an answer of no change is told as the whole was: weaker where that was of our making, and untouched else.
#[tokio::test]
async fn what_has_not_changed_keeps_its_validator() {
    local(async {
        let same = "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n";
        let fake = Fake::new(Act::Keep(same)).await;
        for filter in
            ["compress: true", "transform: { response: { body: { json: [{ remove: cost }] } } }"]
        {
            let rig = rig(&fake, &format!("    routes: [{{ path: /*, to: user, {filter} }}]"));
            for (known, tag) in [
                ("\"1\"", "\"1\""),
                ("W/\"1\"", "W/\"1\""),
                ("\"0\", W/\"1\"", "W/\"1\""),
                ("W/\"2\", \"1\"", "\"1\""),
            ] {
                let answer = rig
                    .get(
                        "/picture",
                        &format!("Accept-Encoding: gzip\r\nIf-None-Match: {known}\r\n"),
                    )
                    .await;
                assert!(
                    answer.contains(&format!("\r\netag: {tag}\r\n")),
                    "{filter} {known}: {answer}"
                );
                let forms = filter.starts_with("compress") && tag.starts_with("W/");
                assert_eq!(
                    vary(&answer),
                    if forms { vec!["accept-encoding"] } else { vec![] },
                    "{filter} {known}: {answer}"
                );
            }
        }
    })
    .await;
}

/// G13: which headers of services clients do not see is the operator's to say.
#[tokio::test]
async fn headers_of_services_are_kept_inside() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: own\r\nX-Powered-By: own\r\nX-Node: 7\r\nX-Shard: 1\r\nX-Shard: 2\r\n\r\n";
        let fake = Fake::new(Act::Keep(answer)).await;
        for (line, hidden) in [
            ("", &["server", "x-powered-by"][..]),
            ("    internal-headers: [X-Node, x-shard]\n", &["server", "x-powered-by", "x-node", "x-shard"]),
            ("    internal-headers: x-node\n", &["server", "x-powered-by", "x-node"]),
            ("    internal-headers: none\n", &[]),
        ] {
            let rig = rig(&fake, &format!("{line}    routes: [{{ path: /*, to: user }}]"));
            let answer = rig.get("/", "").await;
            for name in ["server", "x-powered-by", "x-node", "x-shard"] {
                assert_eq!(answer.contains(&format!("\r\n{name}: ")), !hidden.contains(&name), "{line} {name}: {answer}");
            }
        }
    })
    .await;
}
