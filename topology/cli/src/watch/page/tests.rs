//! The page without a browser: what is served, and how.

use std::path::Path;

use super::*;
use crate::watch::roster::Roster;

const FILE: &str = "\
aqueduct: 1
services: { game: { endpoints: [127.0.0.1:7801] } }
nlbs:
  edge:
    instances: { nlb-1: { address: 127.0.0.1, admin: 127.0.0.1:1 } }
    listeners: { game: { udp: \"*:7777\", to: game } }
";

fn desk() -> Desk {
    let topology = topology::parse("<stack>", FILE, Path::new(".")).expect("valid");
    let roster = Roster::of(&topology, None).expect("no token");
    let watcher = Watcher::start("a<b", &topology, roster);
    let guard = Guard::new("secret".into(), USUAL);
    Desk { watcher, guard, html: Bytes::from_static(HTML.as_bytes()) }
}

async fn ask(desk: &Desk, method: &str, path: &str, token: &str) -> Reply {
    let request = Request::builder().method(method).uri(path).header("host", "localhost:9180");
    let request = request.header("authorization", format!("Bearer {token}"));
    desk.answer(&request.body(()).expect("a request")).await
}

/// T6: every file of the page is there with the headers that keep foreign code out, and all of it
/// together is small.
#[tokio::test]
async fn the_page_is_whole_and_safe() {
    let desk = desk();
    for path in ["/", "/page.css", "/page.js", "/dom.js", "/words.js", "/picture.js", "/tables.js"]
    {
        let reply = ask(&desk, "GET", path, "").await;
        assert_eq!(reply.status(), 200, "{path}");
        let policy = reply.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(ask(&desk, "GET", "/mod.rs", "").await.status(), 404);
    assert_eq!(ask(&desk, "POST", "/events", "").await.status(), 405);
    let size: usize = SCRIPTS.iter().map(|(_, text)| text.len()).sum();
    assert!(size + HTML.len() + CSS.len() < 150_000);
    for (name, text) in SCRIPTS.into_iter().chain([("page.html", HTML), ("page.css", CSS)]) {
        assert!(text.lines().count() <= 600, "{name} is long");
        let own = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains("http:") && !own.contains("https:"), "{name} asks elsewhere");
    }
}

/// T6: without the token nothing is changed; with it, only what an instance has named.
#[tokio::test]
async fn a_wish_needs_the_token_and_a_known_endpoint() {
    let desk = desk();
    let path = "/wish?instance=nlb-1&service=game&endpoint=..%2F..%2Fdrain&wish=drain";
    assert_eq!(ask(&desk, "POST", path, "guess").await.status(), 401);
    assert_eq!(ask(&desk, "POST", path, "secret").await.status(), 404);
    assert_eq!(ask(&desk, "POST", "/wish?instance=nlb-1", "secret").await.status(), 400);
}

/// T6: an instance that nobody answers for is dead within two seconds.
#[tokio::test]
async fn a_missing_instance_is_dead() {
    let desk = desk();
    let mut looks = desk.watcher.looks();
    looks.changed().await.expect("a look");
    let look = desk.watcher.look();
    assert_eq!(look.instances[0].state, crate::watch::look::State::Dead);
    assert!(!look.instances[0].why.is_empty());
}

#[test]
fn queries_are_decoded() {
    assert_eq!(decoded("a%20b%3A7%zz%2"), "a b:7%zz%2");
}
