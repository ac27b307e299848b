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
    let (_, watchers) = watch::channel(Watcher::start("a<b", &topology, roster));
    Desk { watchers, guard: Guard::new("secret".into(), USUAL) }
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

/// T6: an instance that nobody answers for is dead in the first look. That frozen and killed processes are dead
/// within two seconds: `tests/it/watch.rs`.
#[tokio::test]
async fn a_missing_instance_is_dead() {
    let desk = desk();
    let mut looks = desk.watcher().looks();
    looks.changed().await.expect("a look");
    let look = desk.watcher().look();
    assert_eq!(look.instances[0].state, crate::watch::look::State::Dead);
    assert!(!look.instances[0].why.is_empty());
}

/// T9: after a change of the file whoever looks is told of the new one, and the page has its picture.
#[tokio::test]
async fn a_changed_file_is_shown() {
    let mut desk = desk();
    let (change, watchers) = watch::channel(desk.watcher());
    desk.watchers = watchers;
    let mut told = ask(&desk, "GET", "/events", "").await.into_body();
    let text = FILE
        .replace("nlb-1", "nlb-one")
        .replace("game:", "match:")
        .replace("to: game", "to: match");
    let topology = topology::parse("<stack>", &text, Path::new(".")).expect("valid");
    let roster = Roster::of(&topology, None).expect("no token");
    let mut stacks = Vec::new();
    let mut roster = Some(roster);
    while stacks.len() < 2 {
        let frame = told.frame().await.expect("goes on").expect("never fails");
        let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text");
        if text.starts_with("event: stack") {
            stacks.push(text);
        }
        if let Some(roster) = roster.take() {
            change.send_modify(|watcher| *watcher = watcher.changed(&topology, roster));
        }
    }
    assert!(stacks[0].contains("nlb-1") && !stacks[0].contains("match"), "{stacks:?}");
    assert!(stacks[1].contains("nlb-one") && stacks[1].contains("match"), "{stacks:?}");
    let page = ask(&desk, "GET", "/", "").await.into_body().collect().await.expect("whole");
    assert!(String::from_utf8_lossy(&page.to_bytes()).contains("match"));
    assert_eq!(desk.watcher().look().instances[0].name, "nlb-one");
}

#[test]
fn queries_are_decoded() {
    assert_eq!(decoded("a%20b%3A7%zz%2"), "a b:7%zz%2");
}
