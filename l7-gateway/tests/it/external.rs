//! External filters: what they are told, what becomes of messages, in which order, and what happens without them.

use std::fmt::Write as _;
use std::net::SocketAddr;

use l7_gateway::halt::Kind;
use l7_gateway::snapshot::Snapshot;
use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use topology::Topology;

use crate::fakes::{Act, Fake};
use crate::refusals;
use crate::rig::{Rig, local, topology};

const GO_ON: &str = "{\"headers\":{\"set\":{\"x-seen\":\"yes\"},\"remove\":[\"x-drop\"]}}";
const REFUSE: &str =
    "{\"answer\":{\"status\":418,\"headers\":{\"x-why\":\"tea\"},\"body\":\"no coffee\"}}";

/// A gateway whose route names a filter with these further words.
pub(crate) fn gateway(service: &Fake, filter: &Fake, more: &str) -> Rig {
    let url = format!("http://{}/filter", filter.address);
    // A slow machine is no fault of the filter's.
    let patient = if more.contains("timeout") { "" } else { ", timeout: 5s" };
    Rig::new(&topology(
        &format!("  user: {{ endpoints: [{}] }}", service.address),
        &format!(
            "    routes:\n      - {{ name: shop, path: /*, to: user, external: {{ url: \"{url}\"{more}{patient} }} }}"
        ),
    ))
}

/// What a filter was told last.
pub(crate) fn told(filter: &Fake) -> serde_json::Value {
    let last = filter.seen.last();
    let (head, body) = last.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /filter HTTP/1.1\r\n"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

/// G2: a filter is told of a request, without what proves who somebody is, and changes its headers.
#[tokio::test]
async fn a_filter_changes_headers() {
    local(async {
        let (service, filter) =
            (Fake::new(Act::Answer("x")).await, Fake::new(Act::Answer(GO_ON)).await);
        let rig = gateway(&service, &filter, "");
        let lines =
            "X-Drop: 1\r\nX-Two: a\r\nX-Two: b\r\nAuthorization: Bearer t\r\nCookie: c=1\r\n";
        let answer = rig.get("/a%20b?q=1", lines).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("x-seen"), "{answer}");
        let sent = service.seen.last();
        assert!(sent.contains("x-seen: yes\r\n") && !sent.contains("x-drop"), "{sent}");
        assert!(sent.contains("authorization: Bearer t\r\n"), "it stays: {sent}");
        let told = told(&filter);
        for (pointer, value) in [
            ("/phase", "request"),
            ("/route", "shop"),
            ("/method", "GET"),
            ("/path", "/a%20b"),
            ("/query", "q=1"),
            ("/client", "192.0.2.7"),
            ("/headers/x-two/1", "b"),
        ] {
            assert_eq!(
                told.pointer(pointer).and_then(|v| v.as_str()),
                Some(value),
                "{pointer}: {told}"
            );
        }
        assert!(
            told.pointer("/headers/authorization").is_none()
                && told.pointer("/headers/cookie").is_none()
        );
        assert!(told.get("body").is_none());
    })
    .await;
}

/// G2: a filter answers in the service's place; a body is told whole, up to its bound, and goes on as it came.
#[tokio::test]
async fn a_filter_answers_and_reads_bodies() {
    local(async {
        let post = |body: &str| {
            let length = body.len();
            format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let (service, filter) = (Fake::new(Act::Answer("x")).await, Fake::new(Act::Answer(REFUSE)).await);
        let answer = gateway(&service, &filter, "").get("/", "").await;
        assert!(answer.starts_with("HTTP/1.1 418 ") && answer.ends_with("no coffee"), "{answer}");
        assert!(answer.contains("x-why: tea\r\n") && answer.contains("x-request-id: "), "{answer}");
        assert_eq!(service.seen.count(), 0);

        let filter = Fake::new(Act::Answer("{}")).await;
        let rig = gateway(&service, &filter, ", body: 300B");
        assert!(rig.raw(&post("hello \u{e9}")).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(told(&filter)["body"], "hello \u{e9}");
        assert!(service.seen.last().ends_with("\r\n\r\nhello \u{e9}"));
        let answer = rig.raw(&post(&"x".repeat(301))).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!((filter.seen.count(), service.seen.count()), (1, 1));
    })
    .await;
}

pub(crate) fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// G2: a filter that is told a body may give another in its place, with several values of a header.
#[tokio::test]
async fn a_filter_changes_bodies() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nfirst";
        let service = Fake::new(Act::Keep(answer)).await;
        let says = |_, n| {
            Act::Answer(match n {
                1 => {
                    "{\"headers\":{\"set\":{\"x-a\":[\"1\",\"2\"]}},\"body\":\"another \u{e9}\"}"
                }
                _ => {
                    "{\"headers\":{\"add\":{\"set-cookie\":[\"a=1\",\"b=2\"]}},\"body_base64\":\"c2Vjb25k\"}"
                }
            })
        };
        let filter = Fake::script(says).await;
        let rig = gateway(&service, &filter, ", body: 300B, answer-body: 300B");
        let answer = rig.raw(&post("one")).await;
        let sent = service.seen.last();
        for part in ["x-a: 1\r\nx-a: 2\r\n", "content-length: 10\r\n", "accept-encoding: identity\r\n", "\r\n\r\nanother \u{e9}"] {
            assert!(sent.contains(part), "{part}: {sent}");
        }
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nsecond"), "{answer}");
        for part in
            ["set-cookie: a=1\r\nset-cookie: b=2\r\n", "content-length: 6\r\n", "etag: W/\"a\"\r\n"]
        {
            assert!(answer.contains(part), "{part}: {answer}");
        }
        let told = told(&filter);
        assert_eq!((&told["phase"], &told["body"]), (&"answer".into(), &"first".into()));
    })
    .await;
}

/// G2: bodies are changed whole, within their bounds and by who was told them, or not at all.
#[tokio::test]
async fn no_body_is_half_changed() {
    const OTHER: &str = "{\"body\":\"0123456789\"}";
    const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: 1\n\n";
    local(async {
        let plain = Act::Answer("fine");
        let broken = Act::Keep("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n");
        let cut = Act::Raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfine");
        let coded =
            Act::Raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nfine");
        let go_on = Act::Answer("{}");
        let other = Act::Answer(OTHER);
        for (words, of_request, service, filter, status, end) in [
            // Nobody told it a body.
            ("", true, plain, other, "503", "}"),
            (", answers: true", false, plain, other, "502", "}"),
            // Larger than it may be.
            (", body: 9B", true, plain, other, "503", "}"),
            (", answer-body: 9B", false, plain, other, "502", "}"),
            (", answer-body: 3B", false, plain, go_on, "502", "}"),
            (", answer-body: 9B", false, cut, go_on, "502", "}"),
            (", answer-body: 9B", false, coded, go_on, "502", "}"),
            // It is there, whatever it says.
            (", body: 9B, when-away: allow", true, plain, other, "503", "}"),
            (", answer-body: 9B, when-away: allow", false, plain, other, "502", "}"),
            // As it was.
            (", body: 9B, when-away: allow", true, plain, broken, "200", "fine"),
            (", answer-body: 10B", false, plain, go_on, "200", "fine"),
            (", answer-body: 10B", false, Act::Raw(STREAM), go_on, "200", "data: 1\n\n"),
            // As it is now.
            (", answer-body: 10B", false, plain, other, "200", "0123456789"),
        ] {
            let service = Fake::new(service).await;
            let says = move |_, n| if of_request || n > 1 { filter } else { go_on };
            let filter = Fake::script(says).await;
            let rig = gateway(&service, &filter, words);
            let answer = rig.raw(&post("12345")).await;
            let case = format!("{words}: {answer}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{case}");
            assert!(answer.ends_with(end), "{case}");
            let asked = usize::from(!of_request || status == "200");
            assert_eq!(service.seen.count(), asked, "{case}");
        }
    })
    .await;
}

/// G2: a filter that fails refuses, or is passed by where the file says so; after five times without an answer nobody
/// waits for it, while one that answers oddly, as one client's requests may make it, is asked on.
#[tokio::test]
async fn a_filter_that_fails_refuses_and_is_left_alone() {
    local(async {
        let service = Fake::new(Act::Answer("x")).await;
        let broken = Act::Keep("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n");
        let large = Act::Answer(Box::leak("x".repeat(65 << 10).into_boxed_str()));
        let lacks_rights = Act::Answer("{\"headers\":{\"set\":{\"host\":\"b\"}}}");
        for (act, why) in [
            (broken, "500"),
            (large, "too large"),
            (Act::Hang, "it ends"),
            (lacks_rights, "`host`"),
        ] {
            let filter = Fake::new(act).await;
            let rig = gateway(&service, &filter, "");
            for _ in 0..10 {
                let answer = rig.get("/", "").await;
                assert!(answer.starts_with("HTTP/1.1 503 "), "{why}: {answer}");
                assert!(
                    answer.contains("filter_unavailable") && answer.contains("retry-after: 1\r\n")
                );
            }
            assert_eq!((filter.seen.count(), service.seen.count()), (10, 0), "{why}");
            let metrics = rig.observer.metrics.render();
            assert!(metrics.contains("aqueduct_http_external_away_total{"), "{metrics}");
        }
        let filter = Fake::new(broken).await;
        let rig = gateway(&service, &filter, ", when-away: allow");
        for _ in 0..10 {
            assert!(rig.get("/", "").await.starts_with("HTTP/1.1 200 "));
        }
        assert_eq!((filter.seen.count(), service.seen.count()), (10, 10));
        let filter = Fake::new(Act::Silent).await;
        let rig = gateway(&service, &filter, ", timeout: 1ms");
        for _ in 0..10 {
            assert!(rig.get("/", "").await.starts_with("HTTP/1.1 503 "));
        }
        assert!(filter.seen.count() <= 5, "{}", filter.seen.count());
    })
    .await;
}

/// A source of API keys with one of consumer `acme`, as the file names it.
fn keys(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("keys.ndjson");
    let acme = Record { consumer: "acme".into(), ..Record::default() };
    file::append(&path, &Digest::of(b"aqk_acme-acme-acme-acme"), &acme).expect("written");
    let path = path.display();
    format!("    api-keys: {{ partners: {{ from: \"file:{path}\", header: X-API-Key }} }}\n")
}

/// A group whose filters are at these of the four places.
fn at_places(keys: &str, filters: &[(usize, SocketAddr)]) -> String {
    let filter = |place: usize| {
        let (_, at) = filters.iter().find(|(known, _)| *known == place)?;
        Some(format!("external: {{ url: \"http://{at}/filter\", answers: true, timeout: 5s }}"))
    };
    let mut lines = keys.to_owned();
    if let Some(filter) = filter(0) {
        writeln!(lines, "    defaults: {{ {filter} }}").expect("a text");
    }
    if let Some(filter) = filter(1) {
        writeln!(lines, "    consumers: {{ acme: {{ {filter} }} }}").expect("a text");
    }
    if let Some(filter) = filter(3) {
        writeln!(lines, "    upstreams: {{ user: {{ {filter} }} }}").expect("a text");
    }
    let own = filter(2).map_or(String::new(), |filter| format!(", {filter}"));
    let routes = "    routes:\n      - { path: /*, to: user, auth: partners";
    writeln!(lines, "{routes}{own} }}").expect("a text");
    lines
}

/// G2: filters of listener, consumer, route and service are asked in this order about requests, and in the opposite one
/// about answers; whoever was not asked about the request is not asked about the answer. All ways in which each of four
/// is there or not and one, or none, answers by itself.
#[tokio::test]
async fn answers_are_seen_by_those_who_saw_the_request() {
    const SET: [&str; 4] = [
        "{\"headers\":{\"set\":{\"x-last\":\"listener\"}}}",
        "{\"headers\":{\"set\":{\"x-last\":\"consumer\"}}}",
        "{\"headers\":{\"set\":{\"x-last\":\"route\"}}}",
        "{\"headers\":{\"set\":{\"x-last\":\"service\"}}}",
    ];
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = keys(&folder);
        for there in 0..16_usize {
            let places: Vec<usize> = (0..4).filter(|place| there & (1 << place) != 0).collect();
            for ends in places.iter().copied().map(Some).chain([None]) {
                let service = Fake::new(Act::Answer("x")).await;
                let mut filters = Vec::new();
                for place in &places {
                    let (own, first) = (SET[*place], ends == Some(*place));
                    // The first question is about the request.
                    let act = move |connection, n| match (connection, n) {
                        (1, 1) if first => Act::Answer(REFUSE),
                        _ => Act::Answer(own),
                    };
                    filters.push((*place, Fake::script(act).await));
                }
                let filters_at: Vec<_> =
                    filters.iter().map(|(place, fake)| (*place, fake.address)).collect();
                let lines = at_places(&keys, &filters_at);
                let services = format!("  user: {{ endpoints: [{}] }}", service.address);
                let rig = Rig::new(&topology(&services, &lines));
                let answer = rig.get("/", "X-API-Key: aqk_acme-acme-acme-acme\r\n").await;
                let told = format!("{places:?} {ends:?}: {answer}");
                let asked: Vec<usize> = places
                    .iter()
                    .copied()
                    .take_while(|place| ends.is_none_or(|end| *place <= end))
                    .collect();
                for (place, fake) in &filters {
                    let times = if asked.contains(place) { 2 } else { 0 };
                    assert_eq!(fake.seen.count(), times, "{place} {told}");
                }
                assert_eq!(service.seen.count(), usize::from(ends.is_none()), "{told}");
                let names = ["listener", "consumer", "route", "service"];
                if let Some(first) = asked.first() {
                    let last = format!("x-last: {}\r\n", names[*first]);
                    assert!(answer.contains(&last), "{told}");
                }
                if let (Some(last), None) = (asked.last(), ends) {
                    let last = format!("x-last: {}\r\n", names[*last]);
                    assert!(service.seen.last().contains(&last), "{told}");
                }
                let status = if ends.is_some() { "HTTP/1.1 418 " } else { "HTTP/1.1 200 " };
                assert!(answer.starts_with(status), "{told}");
            }
        }
    })
    .await;
}

/// G2: a filter that is away when the answer is there: the request was carried out, so nobody is told to repeat it.
#[tokio::test]
async fn a_request_that_was_carried_out_is_not_to_be_repeated() {
    local(async {
        let service = Fake::new(Act::Answer("x")).await;
        let broken = Act::Keep("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n");
        let act = move |_, n| if n == 1 { Act::Answer("{}") } else { broken };
        let filter = Fake::script(act).await;
        let mut rig = gateway(&service, &filter, ", answers: true");
        let answer = refusals::parsed(&rig.get("/", "").await);
        refusals::judge(Kind::AnswerUnfiltered, &answer, &rig.records());
        assert_eq!(answer.headers().get("retry-after"), None);
        assert_eq!((service.seen.count(), filter.seen.count()), (1, 2));
    })
    .await;
}

/// G2: places that name one address ask one filter: over its connections, with one circuit; so it stays when the file
/// changes elsewhere.
#[tokio::test]
async fn an_address_is_one_filter() {
    local(async {
        let service = Fake::new(Act::Answer("x")).await;
        let file = |filter: &str, more: &str| {
            topology(
                &format!("  user: {{ endpoints: [{}] }}", service.address),
                &format!(
                    "    defaults: {{ external: {{ url: \"{filter}\", timeout: 5s }} }}\n    routes:\n      \
                     - {{ path: /*, to: user, external: {{ url: \"{filter}\", timeout: 4s }} }}\n{more}"
                ),
            )
        };
        let reload = |rig: &Rig, file: &Topology| {
            let (group, instance) = file.gateway("gw").expect("the instance");
            let before = rig.published.load_full();
            let next = Snapshot::build(group, &instance.name, &rig.observer, Some(&*before));
            rig.published.publish(next.expect("it builds"));
        };
        let filter = Fake::new(Act::Answer("{}")).await;
        let url = format!("http://{}/filter", filter.address);
        let rig = Rig::new(&file(&url, ""));
        assert!(rig.get("/", "").await.starts_with("HTTP/1.1 200 "));
        reload(&rig, &file(&url, "      - { path: /other, to: user }"));
        assert!(rig.get("/", "").await.starts_with("HTTP/1.1 200 "));
        assert_eq!((filter.seen.count(), filter.seen.connections.get()), (4, 1));

        let rig = Rig::new(&file("http://127.0.0.1:9/filter", ""));
        for more in ["", "      - { path: /other, to: user }"] {
            reload(&rig, &file("http://127.0.0.1:9/filter", more));
            for _ in 0..3 {
                assert!(rig.get("/", "").await.starts_with("HTTP/1.1 503 "));
            }
        }
        let told = rig.observer.metrics.render();
        let away = told.lines().find(|line| line.starts_with("aqueduct_http_external_away_total{"));
        assert!(away.is_some_and(|line| line.ends_with(" 1")), "told once: {told}");
    })
    .await;
}

/// G2: what stages tell a client stands in the answer that a filter puts in the place of another, and in the one that
/// stands for its silence; the filters that are left see it.
#[tokio::test]
async fn a_replaced_answer_says_what_stages_say() {
    const SEEN: &str = "{\"headers\":{\"set\":{\"x-last\":\"listener\"}}}";
    local(async {
        let broken = Act::Keep("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n");
        for (last, status) in [(Act::Answer(REFUSE), "418"), (broken, "502")] {
            let service = Fake::new(Act::Answer("x")).await;
            let first = Fake::new(Act::Answer(SEEN)).await;
            let act = move |_, n| if n == 1 { Act::Answer("{}") } else { last };
            let second = Fake::script(act).await;
            let rig = Rig::new(&topology(
                &format!("  user: {{ endpoints: [{}] }}", service.address),
                &format!(
                    "    defaults: {{ external: {{ url: \"http://{}/\", answers: true, timeout: 5s }} }}
    routes:
      - {{ path: /*, to: user, deprecated: 2020-01-01, cors: {{ origins: [\"https://app.example\"] }}, external: {{ url: \"http://{}/\", answers: true, timeout: 5s }} }}",
                    first.address, second.address
                ),
            ));
            let answer = rig.get("/", "Origin: https://app.example\r\n").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            for part in [
                "access-control-allow-origin: https://app.example\r\n",
                "vary: Origin\r\n",
                "deprecation: @1577836800\r\n",
                "x-last: listener\r\n",
            ] {
                assert!(answer.contains(part), "{status} {part}: {answer}");
            }
            assert_eq!((first.seen.count(), second.seen.count()), (2, 2), "{status}");
        }
    })
    .await;
}
