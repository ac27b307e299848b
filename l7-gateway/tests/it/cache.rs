//! The response cache from the outside: who is given what, and how often the service is asked.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use common::observe::admin::{Inspect as _, Purge};
use l7_gateway::inspect::Inspection;
use l7_gateway::server::Connections;
use tokio::io::AsyncWriteExt as _;
use tokio::task::yield_now;

use crate::authn::{Issuers, now};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

/// A service that answers with each of these in turn, the last one for good.
async fn service(answers: &[&'static str]) -> Fake {
    let (answers, next) = (answers.to_vec(), Cell::new(0));
    Fake::script(move |_, _| {
        let at = next.replace(next.get() + 1);
        Act::Keep(answers[at.min(answers.len() - 1)])
    })
    .await
}

/// A gateway whose routes keep answers under these terms.
fn rig(fake: &Fake, cache: &str, more: &str) -> Rig {
    let route = format!("{more}    routes:\n      - {{ path: /*, to: user, cache: {cache} }}");
    Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), &route))
}

/// Time passes while nothing is under way.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

const FRESH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Type: text/plain\r\n\r\nhello";
const OTHER: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\n\r\nother";

/// The number behind these words; the clock goes on while a slow machine asks.
fn number(answer: &str, before: &str) -> i64 {
    let rest = answer.split(before).nth(1).expect("it is said");
    let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}

/// G22: a fresh answer is given again without asking: whole, in part, as a head, or as 304, with its
/// age; other URIs, hosts and routes without a cache have their own.
#[tokio::test]
async fn a_fresh_answer_is_given_again() {
    local(async {
        let fake = service(&[FRESH]).await;
        let rig = rig(&fake, "true", "");
        let answer = rig.get("/a", "").await;
        assert!(answer.contains("cache-status: aqueduct; fwd=miss; stored\r\n"), "{answer}");
        pass(20).await;
        let answer = rig.get("/a", "").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nhello"),
            "{answer}"
        );
        assert!((20..=30).contains(&number(&answer, "\r\nage: ")), "{answer}");
        assert!(answer.contains("content-length: 5\r\n"), "{answer}");
        assert!((30..=40).contains(&number(&answer, "aqueduct; hit; ttl=")), "{answer}");
        assert!(answer.contains("date: ") && answer.contains("etag: \"a\"\r\n"), "{answer}");
        let head = rig.raw("HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(head.contains("content-length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let same = rig.get("/a", "If-None-Match: \"a\"\r\n").await;
        assert!(same.starts_with("HTTP/1.1 304 ") && same.ends_with("\r\n\r\n"), "{same}");
        let part = rig.get("/a", "Range: bytes=1-2\r\n").await;
        assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\nel"), "{part}");
        let none = rig.get("/a", "Range: bytes=9-\r\n").await;
        assert!(none.starts_with("HTTP/1.1 416 "), "{none}");
        assert_eq!(fake.seen.count(), 1);
        rig.get("/a?x", "").await;
        rig.raw("GET /a HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").await;
        rig.raw("GET /a HTTP/1.1\r\nHost: a:81\r\nConnection: close\r\n\r\n").await;
        assert_eq!(fake.seen.count(), 4);
        let text = rig.observer.metrics.render();
        assert!(text.contains("aqueduct_http_cache_requests_total{outcome=\"miss\"} 4"), "{text}");
        assert!(text.contains("aqueduct_http_cache_entries 4"), "{text}");
        let plain = Rig::new(&crate::rig::one(fake.address));
        plain.get("/a", "").await;
        let answer = plain.get("/a", "").await;
        assert!(fake.seen.count() == 6 && !answer.contains("cache-status"), "{answer}");
    })
    .await;
}

/// G22: a stale answer is given again once its service has said that it still holds; the service sees
/// our conditions alone.
#[tokio::test]
async fn a_stale_answer_is_confirmed() {
    local(async {
        let again = "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=100\r\nX-New: 1\r\n\r\n";
        let fake = service(&[FRESH, again, OTHER]).await;
        let rig = rig(&fake, "true", "");
        rig.get("/a", "If-None-Match: \"mine\"\r\n").await;
        assert!(!fake.seen.last().contains("if-none-match"), "{}", fake.seen.last());
        pass(61).await;
        let answer = rig.get("/a", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n").await;
        let sent = fake.seen.last();
        assert!(sent.contains("if-none-match: \"a\"\r\n"), "{sent}");
        assert!(!sent.contains("if-modified-since"), "{sent}");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
        assert!(answer.contains("x-new: 1\r\n") && answer.contains("max-age=100"), "{answer}");
        assert!(answer.contains("aqueduct; fwd=stale; fwd-status=304"), "{answer}");
        pass(90).await;
        assert!(rig.get("/a", "").await.ends_with("hello"));
        assert_eq!(fake.seen.count(), 2);
        let asked = rig.get("/a", "Cache-Control: no-cache\r\n").await;
        assert!(asked.ends_with("other") && fake.seen.count() == 3, "{asked}");
        assert!(rig.get("/a", "").await.ends_with("other"));
        assert_eq!(fake.seen.count(), 3);
        let known = rig.get("/a", "Cache-Control: only-if-cached\r\n").await;
        assert!(known.ends_with("other"), "{known}");
        let unknown = rig.get("/b", "Cache-Control: only-if-cached\r\n").await;
        assert!(unknown.starts_with("HTTP/1.1 504 ") && unknown.contains("not_kept"), "{unknown}");
        assert_eq!(fake.seen.count(), 3);
    })
    .await;
}

/// G22: a 304 that names another answer than the kept one confirms nothing (RFC 9111 §4.3.4): the
/// service is asked again for all of it.
#[tokio::test]
async fn a_304_of_something_else_is_not_believed() {
    local(async {
        let wrong = "HTTP/1.1 304 Not Modified\r\nETag: \"b\"\r\n\r\n";
        let weak = "HTTP/1.1 304 Not Modified\r\nETag: W/\"a\"\r\n\r\n";
        let fake = service(&[FRESH, weak, wrong, OTHER]).await;
        let rig = rig(&fake, "true", "");
        for (body, asked) in [("hello", 1), ("hello", 2), ("other", 4)] {
            let answer = rig.get("/a", "").await;
            assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
            assert_eq!(fake.seen.count(), asked);
            pass(61).await;
        }
        assert!(!fake.seen.last().to_ascii_lowercase().contains("if-none-match"));
    })
    .await;
}

/// G22: what breaks off is never kept, however it is framed; an end that cannot be told from a break
/// is none.
#[tokio::test]
async fn what_breaks_off_is_never_kept() {
    local(async {
        let cut = [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nCache-Control: max-age=60\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n5\r\nhello\r\n",
        ];
        for text in cut {
            let fake = Fake::new(Act::Raw(text)).await;
            let mut rig = rig(&fake, "true", "");
            for _ in 0..2 {
                let answer = rig.get("/a", "").await;
                assert!(answer.contains("hello") && !answer.ends_with("0\r\n\r\n"), "{answer}");
                assert!(!answer.contains("; hit"), "{answer}");
            }
            assert_eq!(fake.seen.count(), 2);
            assert!(rig.records().iter().all(|record| record["complete"] == false));
        }
        let open = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\nhello";
        let fake = Fake::new(Act::Raw(open)).await;
        let rig = rig(&fake, "true", "");
        for _ in 0..2 {
            assert!(rig.get("/a", "").await.contains("hello"));
        }
        assert_eq!(fake.seen.count(), 2);
    })
    .await;
}

/// G22: a chunked answer is kept whole; one that is too large passes whole and is not kept.
#[tokio::test]
async fn bodies_are_kept_up_to_their_bound() {
    local(async {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        let fake = service(&[chunked]).await;
        let kept = rig(&fake, "true", "");
        assert!(kept.get("/a", "").await.contains("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"));
        assert!(kept.get("/a", "").await.ends_with("\r\n\r\nhello"));
        assert_eq!(fake.seen.count(), 1);
        let bounded = rig(&fake, "true", "    cache: { size: 1MiB, max-body: 4B }\n");
        for _ in 0..2 {
            let answer = bounded.get("/a", "").await;
            assert!(answer.ends_with("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), "{answer}");
        }
        assert_eq!(fake.seen.count(), 3);
    })
    .await;
}

/// G22: two users never see each other's answers: not with tokens that the gateway verifies, not with
/// ones that it passes on, not with cookies; unless route and service say so.
#[tokio::test]
async fn no_answer_to_one_user_reaches_another() {
    local(async {
        let fake = service(&[FRESH, OTHER, FRESH]).await;
        let issuers = Issuers::new();
        let token = |user: u64| {
            let claims = serde_json::json!({
                "iss": "https://riders.example", "aud": "api", "userId": user, "exp": now() + 60,
            });
            format!("Authorization: Bearer {}\r\n", issuers.riders.token("ES256", None, &claims))
        };
        let routes = "    routes:
      - { path: /own/*, to: user, auth: riders, cache: true }
      - { path: /all/*, to: user, auth: riders, cache: { shared: true } }
      - { path: /passed/*, to: user, cache: true }
      - { path: /open/*, to: user, cache: { shared: true } }";
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &issuers.gateway(routes)));
        let mut asked = 0;
        let mut asks = async |path: &str, lines: &str, times: usize| {
            let answer = rig.get(path, lines).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(fake.seen.count() - asked, times, "{path} {lines}: {answer}");
            asked = fake.seen.count();
        };
        for user in [1, 2, 1] {
            asks("/own/a", &token(user), 1).await;
        }
        asks("/all/a", &token(1), 1).await;
        asks("/all/a", &token(2), 0).await;
        assert!(rig.get("/all/a", "").await.starts_with("HTTP/1.1 401 "));
        for user in [1, 2, 1] {
            asks("/passed/a", &token(user), 1).await;
            asks("/open/a", &token(user), 1).await;
        }
        asks("/passed/b", "", 1).await;
        asks("/passed/b", "", 0).await;
        for session in ["Cookie: s=1\r\n", "Cookie: s=2\r\n"] {
            asks("/passed/b", session, 1).await;
        }
        // The answer to a session did not take the place of everybody's.
        asks("/passed/b", "", 0).await;
    })
    .await;
}

/// G22: an answer that says `public` is everybody's, also where tokens or cookies pass through, if the
/// route says `shared`.
#[tokio::test]
async fn public_answers_are_everybodys_where_the_route_says_so() {
    local(async {
        let public = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: public, max-age=60\r\n\r\nhello";
        let fake = service(&[public]).await;
        let shared = rig(&fake, "{ shared: true }", "");
        for who in ["Authorization: Bearer 1\r\n", "Authorization: Bearer 2\r\n", "Cookie: a=1\r\n"] {
            assert!(shared.get("/a", who).await.ends_with("hello"));
        }
        assert_eq!(fake.seen.count(), 1);
        let own = rig(&fake, "true", "");
        for who in ["Authorization: Bearer 1\r\n", "Authorization: Bearer 2\r\n"] {
            let answer = own.get("/a", who).await;
            assert!(answer.contains("cache-status: aqueduct; fwd=bypass\r\n"), "{answer}");
        }
        assert_eq!(fake.seen.count(), 3);
        assert!(!fake.seen.last().contains("if-none-match"));
    })
    .await;
}

/// G22: `Vary` and `Set-Cookie` count; a change by an unsafe method takes what was kept along.
#[tokio::test]
async fn variants_cookies_and_changes_count() {
    local(async {
        let varies = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\nVary: Accept-Language\r\n\r\nhello";
        let fake = service(&[varies]).await;
        let kept = rig(&fake, "true", "");
        for (language, count) in [("de", 1), ("fr", 2), ("de", 2), ("fr", 2)] {
            kept.get("/a", &format!("Accept-Language: {language}\r\n")).await;
            assert_eq!(fake.seen.count(), count, "{language}");
        }
        let post = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        kept.raw(post).await;
        for (language, count) in [("de", 4), ("fr", 5), ("de", 5)] {
            kept.get("/a", &format!("Accept-Language: {language}\r\n")).await;
            assert_eq!(fake.seen.count(), count, "{language}");
        }
        let cookie = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: public, max-age=60\r\nSet-Cookie: a=b\r\n\r\nhello";
        let fake = service(&[cookie]).await;
        let kept = rig(&fake, "true", "");
        for count in 1..3 {
            assert!(kept.get("/a", "").await.contains("set-cookie: a=b"));
            assert_eq!(fake.seen.count(), count);
        }
    })
    .await;
}

/// G22: many who ask at once ask the service once; also when the first of them goes away.
#[tokio::test]
async fn many_at_once_ask_once() {
    local(async {
        let fake = service(&[FRESH]).await;
        let kept = rig(&fake, "true", "");
        let answers = futures_util::future::join_all((0..50).map(|_| kept.get("/a", ""))).await;
        assert!(answers.iter().all(|answer| answer.ends_with("hello")));
        assert_eq!(fake.seen.count(), 1);
        let fake = Fake::script(|connection, _| match connection {
            1 => Act::Silent,
            _ => Act::Keep(FRESH),
        });
        let fake = fake.await;
        let kept = rig(&fake, "true", "");
        let (mut first, task) = kept.connect();
        first.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        while fake.seen.count() == 0 {
            yield_now().await;
        }
        let waiting = async {
            let others = futures_util::future::join_all((0..5).map(|_| kept.get("/a", ""))).await;
            assert!(others.iter().all(|answer| answer.ends_with("hello")));
        };
        let leaves = async {
            for _ in 0..20 {
                yield_now().await;
            }
            assert_eq!(fake.seen.count(), 1);
            drop(first);
            task.await.expect("no panic");
        };
        tokio::join!(waiting, leaves);
    })
    .await;
}

/// G22: a stale answer stands in for an error, and is given while a fresh one is fetched, where the
/// service allows it (RFC 5861).
#[tokio::test]
async fn stale_answers_bridge_errors_and_fetches() {
    local(async {
        let first = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60, stale-if-error=100\r\n\r\nhello";
        let error = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndown";
        let fake = service(&[first, error]).await;
        let kept = rig(&fake, "true", "");
        kept.get("/a", "").await;
        pass(100).await;
        let answer = kept.get("/a", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
        assert!((-50..=-40).contains(&number(&answer, "hit; ttl=")), "{answer}");
        assert_eq!(fake.seen.count(), 2);
        pass(61).await;
        assert!(kept.get("/a", "").await.starts_with("HTTP/1.1 503 "));
        let first = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60, stale-while-revalidate=100\r\n\r\nhello";
        let fake = service(&[first, OTHER]).await;
        let kept = rig(&fake, "true", "");
        kept.get("/a", "").await;
        pass(90).await;
        let answer = kept.get("/a", "").await;
        assert!((-40..=-30).contains(&number(&answer, "hit; ttl=")), "{answer}");
        assert!(answer.ends_with("hello"), "{answer}");
        // However long it takes to come, only the fetch behind that answer brings another one.
        while !kept.get("/a", "").await.ends_with("other") {
            yield_now().await;
        }
        assert_eq!(fake.seen.count(), 2);
    })
    .await;
}

/// G22: whoever makes us fetch anew, a HEAD or a part, all of the answer is fetched and kept.
#[tokio::test]
async fn a_head_fetches_all_for_those_who_come_after() {
    local(async {
        let first = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60, stale-while-revalidate=100\r\n\r\nhello";
        for (method, lines) in [("HEAD", ""), ("GET", "Range: bytes=0-1\r\n")] {
            let fake = service(&[first, OTHER]).await;
            let kept = rig(&fake, "true", "");
            kept.get("/a", "").await;
            pass(90).await;
            kept.raw(&format!(
                "{method} /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n"
            ))
            .await;
            while !kept.get("/a", "").await.ends_with("other") {
                yield_now().await;
            }
            let asked = fake.seen.last().to_ascii_lowercase();
            assert!(asked.starts_with("get /a ") && !asked.contains("range"), "{asked}");
        }
    })
    .await;
}

/// G22, O1: an operator has answers forgotten: those of one URI, of all below another, or all; what is not
/// meant is kept.
#[tokio::test]
async fn an_operator_has_answers_forgotten() {
    local(async {
        let fake = service(&[FRESH]).await;
        let rig = rig(&fake, "true", "");
        let connections = Connections::new(10, &rig.observer);
        let admin = Inspection::new(&rig.published, &Arc::default(), &connections, &rig.observer);
        let paths = ["/a", "/a?x=1&y=2", "/b/1", "/b/2", "/c"];
        // How many of them the service is asked for.
        let asked = async || {
            let before = fake.seen.count();
            for path in paths {
                rig.get(path, "").await;
            }
            fake.seen.count() - before
        };
        assert_eq!((asked().await, asked().await), (5, 0));
        assert_eq!(admin.purge(Purge::Uri("http://a/a?x=1&y=2")), Some(1));
        assert_eq!(asked().await, 1);
        assert_eq!(admin.purge(Purge::Prefix("http://a/b/")), Some(2));
        assert_eq!(asked().await, 2);
        assert_eq!(admin.purge(Purge::Uri("http://other/a")), Some(0));
        assert_eq!(asked().await, 0);
        assert_eq!(admin.purge(Purge::All), Some(5));
        let text = rig.observer.metrics.render();
        assert!(text.contains("aqueduct_http_cache_entries 0"), "{text}");
        assert_eq!(asked().await, 5);
        let none = Rig::new(&crate::rig::one(fake.address));
        let admin = Inspection::new(&none.published, &Arc::default(), &connections, &rig.observer);
        assert_eq!(admin.purge(Purge::All), None);
    })
    .await;
}
