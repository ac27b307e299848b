//! Answers put together where some of them do not fit: too much together, without members, with a status of their own.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::AsyncWriteExt as _;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology, until};

/// Services `a`, `b` and `c`, and an aggregate of them with these further words for each call.
async fn composed(acts: [Act; 3], calls: [&str; 3], more: &str) -> (Vec<Fake>, Rig) {
    let (mut fakes, mut services, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for ((act, more), name) in acts.into_iter().zip(calls).zip(["a", "b", "c"]) {
        let fake = Fake::new(act).await;
        services.push(format!("  {name}: {{ endpoints: [{}] }}", fake.address));
        lines.push(format!("            {name}: {{ to: {name}, path: / {more} }}"));
        fakes.push(fake);
    }
    let route = format!(
        "    routes:\n      - path: /sum\n        aggregate:\n          calls:\n{}\n{more}",
        lines.join("\n")
    );
    (fakes, Rig::new(&topology(&services.join("\n"), &route)))
}

const LONG: &str = "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";

/// G16: all answers together are bounded; one that is not needed and finds no room becomes what stands in for it.
#[tokio::test]
async fn answers_share_one_bound() {
    local(async {
        let most = "          max: 160B\n";
        // `b` waits for `a`, which has taken its share.
        let waits = ", query: { a: '${call.a.0}' }";
        let acts = [Act::Answer("[1,2]"), Act::Answer(LONG), Act::Answer("3")];
        let (_fakes, rig) = composed(acts, ["", waits, ""], most).await;
        let answer = rig.get("/sum", "").await;
        assert!(answer.ends_with(&format!("{{\"a\":[1,2],\"b\":{LONG},\"c\":3}}")), "{answer}");
        let large = "[1,\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"]";
        for (needed, end) in [
            (", on-failure: omit", "\"c\":3}"),
            (", default: 'null'", "\"b\":null,\"c\":3}"),
            ("", "\"detail\":\"the call `b` failed\""),
        ] {
            let acts = [Act::Answer(large), Act::Answer(LONG), Act::Answer("3")];
            let calls = ["", &format!("{waits}{needed}"), ""];
            let (_fakes, rig) = composed(acts, calls, most).await;
            let answer = rig.get("/sum", "").await;
            assert!(answer.contains(end) && !answer.contains(LONG), "{needed}: {answer}");
            let status = if needed.is_empty() { "502" } else { "200" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{needed}: {answer}");
            assert_eq!(answer.contains("x-partial-failure: b\r\n"), !needed.is_empty(), "{answer}");
        }
    })
    .await;
}

/// G16: what cannot stand side by side with others is a failure of its call alone.
#[tokio::test]
async fn an_answer_without_members_fails_its_call_alone() {
    local(async {
        for odd in ["[1]", "7", "{\"x\":1,\"x\":2}", "{\"x\":1", "null"] {
            for (needed, end) in [
                (", on-failure: omit", "{\"a\":1,\"c\":3}"),
                (", default: '{\"b\":0}'", "{\"a\":1,\"b\":0,\"c\":3}"),
                ("", "the call `b` failed\""),
            ] {
                let acts = [Act::Answer("{\"a\":1}"), Act::Answer(odd), Act::Answer(" {\"c\":3}")];
                let (_fakes, rig) =
                    composed(acts, ["", needed, ""], "          merge: flat\n").await;
                let answer = rig.get("/sum", "").await;
                let there = answer.ends_with(end) || (needed.is_empty() && answer.contains(end));
                assert!(there, "{odd} {needed}: {answer}");
            }
        }
    })
    .await;
}

/// G16: a template says what stands where; what an answer lacks is left out, and numbers stay as they came.
#[tokio::test]
async fn a_template_says_what_stands_where() {
    local(async {
        let acts = [
            Act::Answer("{\"name\":\"x\",\"id\":1e2,\"ssn\":\"secret\",\"twice\":{\"y\":1,\"y\":2}}"),
            Act::Answer("[{\"id\":12345678901234567890},{\"id\":2}]"),
            Act::Hang,
        ];
        let template = "          template: { user.name: a.name, user.id: a.id, first: b.0.id, orders: b, none: a.nobody.here, \
                        odd: a.twice.y, late: c, deep.er.still: b.1 }\n";
        let (_fakes, rig) = composed(acts, ["", "", ", on-failure: omit"], template).await;
        let answer = rig.get("/sum", "").await;
        let wanted = "{\"user\":{\"name\":\"x\",\"id\":1e2},\"first\":12345678901234567890,\
                      \"orders\":[{\"id\":12345678901234567890},{\"id\":2}],\"deep\":{\"er\":{\"still\":{\"id\":2}}}}";
        assert!(answer.ends_with(wanted), "{answer}");
        assert!(answer.contains("x-partial-failure: c\r\n"), "{answer}");
    })
    .await;
    local(async {
        // One answer many times is not more than all may be together.
        let acts = [Act::Answer(LONG), Act::Answer("1"), Act::Answer("1")];
        let more = "          template: { a: a, b: a, c: a }\n          max: 200B\n";
        let (_fakes, rig) = composed(acts, ["", "", ""], more).await;
        let answer = rig.get("/sum", "").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    })
    .await;
}

const MISSING: Act = Act::Keep("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}");

/// G16: a call that is not made because another failed says nothing of its own: the other one's status is told.
#[tokio::test]
async fn calls_that_were_never_made_are_not_the_worst() {
    const OF_A: &str = ", query: { a: '${call.a.0}' }";
    const OF_B: &str = ", query: { b: '${call.b.0}' }";
    for (calls, status, end) in [
        (["", OF_A, ""], "404", "{\"c\":3}"),
        (["", OF_A, OF_B], "404", "{}"),
        // Nobody else says what became of what is needed here.
        ([", on-failure: omit", OF_A, ""], "502", "{\"c\":3}"),
        ([", on-failure: omit", OF_A, OF_B], "502", "{}"),
    ] {
        local(async {
            let acts = [MISSING, Act::Answer("[2]"), Act::Answer("3")];
            let (fakes, rig) = composed(acts, calls, "          status: worst-required\n").await;
            let answer = rig.get("/sum", "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{calls:?}: {answer}");
            assert!(answer.ends_with(end), "{calls:?}: {answer}");
            assert_eq!(fakes[1].seen.count(), 0);
        })
        .await;
    }
}

/// G16, G18: what is late is 504 and what is full is 503 with its time, as of a route of its own.
#[tokio::test(start_paused = true)]
async fn calls_fail_as_requests_do() {
    for (upstream, held, status, again, why) in [
        ("max-requests: 1", true, "503", true, "overloaded"),
        ("first-byte-timeout: 50ms, max-attempts: 1", false, "504", false, "upstream_timeout"),
        ("try-timeout: 50ms, max-attempts: 1", false, "504", false, "upstream_timeout"),
    ] {
        for rule in ["ok", "worst-required"] {
            local(async {
                let begun = Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
                let fake = Fake::script(move |_, _| if held { begun } else { Act::Silent }).await;
                let mut rig = Rig::new(&topology(
                    &format!("  user: {{ endpoints: [{}] }}", fake.address),
                    &format!(
                        "    upstreams: {{ user: {{ {upstream} }} }}\n    routes:\n      - {{ path: /hold, to: user }}\n      \
                         - {{ path: /sum, aggregate: {{ status: {rule}, calls: {{ a: {{ to: user, path: / }} }} }} }}"
                    ),
                ));
                let (mut stream, task) = rig.connect();
                if held {
                    stream.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
                    until(&mut stream, "ha").await;
                }
                let answer = rig.get("/sum", "").await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{upstream} {rule}: {answer}");
                assert_eq!(answer.contains("retry-after: 1\r\n"), again, "{upstream} {rule}: {answer}");
                let told = rig.observer.metrics.render();
                let line = format!("{{route=\"/sum\",call=\"a\",reason=\"{why}\"}} 1\n");
                assert!(told.contains(&format!("aqueduct_http_aggregate_call_failures_total{line}")), "{told}");
                drop(stream);
                task.await.expect("an end");
                let records = rig.records();
                let own = records.iter().find(|record| record["route"] == "/sum").expect("a record");
                assert_eq!(own["failed_calls"], format!("a: {why}"), "{upstream} {rule}");
            })
            .await;
        }
    }
}

/// G16, G19: who looks sees which calls failed and why, although the whole came.
#[tokio::test]
async fn operators_see_what_is_missing() {
    local(async {
        let acts = [MISSING, Act::Answer("no json"), Act::Answer("3")];
        let calls = [", on-failure: omit", ", default: '[]'", ""];
        let (_fakes, mut rig) = composed(acts, calls, "").await;
        for _ in 0..2 {
            assert!(rig.get("/sum", "").await.ends_with("{\"b\":[],\"c\":3}"));
        }
        let told = rig.observer.metrics.render();
        for (call, why) in [("a", "status"), ("b", "no_json")] {
            let line = format!("{{route=\"/sum\",call=\"{call}\",reason=\"{why}\"}} 2\n");
            assert!(
                told.contains(&format!("aqueduct_http_aggregate_call_failures_total{line}")),
                "{told}"
            );
        }
        let record = &rig.records()[0];
        let said = record["failed_calls"].as_str().expect("a text");
        let mut said: Vec<&str> = said.split(", ").collect();
        said.sort_unstable();
        assert_eq!(said, ["a: 404", "b: no_json"], "{record}");
        assert_eq!(record["status"], 200);
    })
    .await;
    local(async {
        let acts = [Act::Answer("1"), MISSING, Act::Answer("3")];
        let waits = ", query: { b: '${call.b.0}' }";
        let (_fakes, mut rig) = composed(acts, [waits, "", waits], "").await;
        assert!(rig.get("/sum", "").await.starts_with("HTTP/1.1 502 "));
        assert_eq!(rig.records()[0]["failed_calls"], "b: 404");
    })
    .await;
}

/// G16: `worst-required` tells what came with the greatest status of the needed calls; others do not count.
#[tokio::test]
async fn the_worst_needed_status_is_told() {
    const BUSY: Act = Act::Keep("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}");
    const MOVED: Act = Act::Keep("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n");
    for (acts, optional, status, end) in [
        (
            [Act::Answer("1"), Act::Answer("2"), Act::Answer("3")],
            "",
            "200",
            "{\"a\":1,\"b\":2,\"c\":3}",
        ),
        ([MISSING, Act::Answer("2"), Act::Answer("3")], "", "404", "{\"b\":2,\"c\":3}"),
        ([MISSING, BUSY, Act::Answer("3")], "", "429", "{\"c\":3}"),
        ([MISSING, Act::Hang, Act::Answer("3")], "", "502", "{\"c\":3}"),
        ([Act::Answer("1"), MOVED, Act::Answer("3")], "", "502", "{\"a\":1,\"c\":3}"),
        (
            [Act::Answer("1"), Act::Answer("2"), BUSY],
            ", on-failure: omit",
            "200",
            "{\"a\":1,\"b\":2}",
        ),
    ] {
        local(async {
            let more = "          status: worst-required\n";
            let (_fakes, rig) = composed(acts, ["", "", optional], more).await;
            let answer = rig.get("/sum", "").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{acts:?}: {answer}");
            assert!(answer.ends_with(end), "{acts:?}: {answer}");
        })
        .await;
    }
}

/// G13, G16: what is changed of a route's answers is changed of an aggregate's, too.
#[tokio::test]
async fn aggregates_are_changed_as_services_are() {
    local(async {
        let fails = Rc::new(Cell::new(false));
        let told = Rc::clone(&fails);
        let good = Act::Answer("{\"ssn\":1,\"id\":2}");
        let fake = Fake::script(move |_, _| if told.get() { Act::Hang } else { good }).await;
        let route = "    routes:
      - path: /sum
        aggregate: { calls: { profile: { to: user, path: / } } }
        transform: { response: { status: { 200: 203, 502: 500 }, body: { json: [{ remove: profile.ssn }] } } }";
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, route));
        let answer = rig.get("/sum", "").await;
        assert!(answer.starts_with("HTTP/1.1 203 ") && answer.ends_with("{\"profile\":{\"id\":2}}"), "{answer}");
        let head = rig.raw("HEAD /sum HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 203 ") && head.ends_with("\r\n\r\n"), "{head}");
        fails.set(true);
        let answer = rig.get("/sum", "").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "an error of ours stays: {answer}");
    })
    .await;
}

/// G16, G2: each call passes what the file changes of its service, as a request of a route of its own would; other calls do
/// not, and what cannot be changed fails its call alone.
#[tokio::test]
async fn calls_pass_what_their_service_changes() {
    const UPSTREAMS: &str = "    upstreams:
      user:
        transform:
          request:
            path: '/base${request.path}'
            host: ${service}.internal
            query: { set: { via: '${route}' }, remove: b }
            headers: { set: { x-tenant: '${request.header.x-shop|none}' }, rename: { x-a: x-b } }
          response:
            status: { 404: 200 }
            body: { json: [{ remove: ssn }, { set: of, to: '${request.path}' }] }
    routes:
      - path: /sum
        aggregate:
          calls:
            user: { to: user, path: '/of/${service}', query: { a: '1 2', b: x }, on-failure: omit }
            other: { to: other, path: /, query: { of: '${call.user.of|none}' } }
";
    for (told, whole, next) in [
        (
            "{\"name\":\"x\",\"ssn\":\"1234\"}",
            "{\"user\":{\"name\":\"x\",\"of\":\"/of/user\"},\"other\":1}",
            "%2Fof%2Fuser",
        ),
        ("{\"name\":\"x\",\"ssn\":1234,\"ssn\"", "{\"other\":1}", "none"),
    ] {
        local(async {
            let answer = format!(
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{told}",
                told.len()
            );
            let user = Fake::new(Act::Keep(Box::leak(answer.into_boxed_str()))).await;
            let other = Fake::new(Act::Answer("1")).await;
            let services = format!(
                "  user: {{ endpoints: [{}] }}\n  other: {{ endpoints: [{}] }}",
                user.address, other.address
            );
            let rig = Rig::new(&topology(&services, UPSTREAMS));
            let answer = rig.get("/sum", "X-Shop: s1\r\nX-A: 7\r\n").await;
            assert!(answer.ends_with(whole), "{answer}");
            let partial = answer.contains("x-partial-failure: user\r\n");
            assert_eq!(partial, next == "none", "{answer}");
            let sent = user.seen.last();
            assert!(sent.starts_with("GET /base/of/user?a=1+2&via=%2Fsum HTTP/1.1\r\n"), "{sent}");
            for line in ["host: user.internal", "x-tenant: s1", "x-b: 7", "x-forwarded-host: a"] {
                assert!(sent.contains(&format!("{line}\r\n")), "{line}: {sent}");
            }
            let sent = other.seen.last();
            assert!(sent.starts_with(&format!("GET /?of={next} HTTP/1.1\r\n")), "{sent}");
            assert!(sent.contains("host: a\r\n") && sent.contains("x-a: 7\r\n"), "{sent}");
            assert!(!sent.contains("x-tenant"), "{sent}");
        })
        .await;
    }
}

/// G16: what a caller was last told is known to every worker, and after a reload that changes neither the calls nor who
/// the callers are; after any other it is nobody's.
#[tokio::test]
async fn all_workers_know_the_last_good_answer_across_reloads() {
    const FIRST: &str = "      - { path: /first, to: other }\n";
    const OTHERS: &str = "    issuers: { x: { issuer: 'https://x.example', audience: a, jwks: 'https://x.example/k', algorithms: [ES256] } }\n";
    let file = |address, before: &str, first: &str, path: &str| {
        let services = format!(
            "  other: {{ endpoints: [127.0.0.1:9] }}\n  user: {{ endpoints: [{address}] }}"
        );
        let route = format!(
            "{before}    routes:\n{first}      - {{ path: /d, auth: none, aggregate: {{ calls: {{ a: {{ to: user, path: {path}, on-failure: last-good }} }} }} }}"
        );
        topology(&services, &route)
    };
    for (before, first, path, stays) in [
        ("", "", "/a", true),
        ("", FIRST, "/a", true),
        ("    # Further down.\n", FIRST, "/a", true),
        ("", "", "/b", false),
        (OTHERS, "", "/a", false),
        (
            "    defaults: { transform: { request: { headers: { set: { x-tenant: b } } } } }\n",
            "",
            "/a",
            false,
        ),
    ] {
        local(async {
            let fails = Rc::new(Cell::new(false));
            let told = Rc::clone(&fails);
            let act = move |_, _| if told.get() { Act::Hang } else { Act::Answer("\"mine\"") };
            let fake = Fake::script(act).await;
            let mut rig = Rig::new(&file(fake.address, "", "", "/a"));
            let answer = rig.get("/d", "").await;
            assert!(answer.ends_with("{\"a\":\"mine\"}"), "{answer}");
            fails.set(true);
            // Another worker of the process, and then the same one under another file.
            rig.another_worker();
            let answer = rig.get("/d", "").await;
            assert!(answer.ends_with("{\"a\":\"mine\"}"), "{answer}");
            rig.reload(&file(fake.address, before, first, path));
            let answer = rig.get("/d", "").await;
            let wanted = if stays { "{\"a\":\"mine\"}" } else { "{}" };
            assert!(
                answer.ends_with(&format!("\r\n\r\n{wanted}")),
                "{before} {first} {path}: {answer}"
            );
        })
        .await;
    }
}
