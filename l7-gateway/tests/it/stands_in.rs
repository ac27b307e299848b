//! What stands in for calls of aggregates (`on-failure: last-good`): for whom, with what in it, and until when.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::json;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const AGGREGATE: &str =
    "aggregate: { calls: { a: { to: user, path: /a, on-failure: last-good } } }";

/// A service that does what it is told to at that time.
async fn acting(first: Act) -> (Fake, Rc<Cell<Act>>) {
    let act = Rc::new(Cell::new(first));
    let told = Rc::clone(&act);
    (Fake::script(move |_, _| told.get()).await, act)
}

fn services(fake: &Fake) -> String {
    format!("  user: {{ endpoints: [{}] }}", fake.address)
}

/// G16: what one application was told on behalf of a user is not told another one.
#[tokio::test]
async fn applications_of_one_user_are_told_apart() {
    local(async {
        let issuers = Issuers::new();
        for told in ["", "    identity-headers: [consumer]\n"] {
            let (fake, act) = acting(Act::Answer("\"mine\"")).await;
            let lines = format!(
                "{told}    consumers: {{ acme: {{}}, zeta: {{}} }}\n    routes:\n      - {{ path: /d, auth: riders, {AGGREGATE} }}"
            );
            let lines = issuers.gateway(&lines);
            let lines = lines.replace("user: userId", "user: userId, consumer: client_id");
            let rig = Rig::new(&topology(&services(&fake), &lines));
            let named = |name: &str| {
                bearer(&issuers.riders.token("ES256", None, &rider(json!({ "client_id": name }))))
            };
            let first = rig.get("/d", &named("acme")).await;
            assert!(first.ends_with("{\"a\":\"mine\"}"), "{first}");
            act.set(Act::Hang);
            let other = rig.get("/d", &named("zeta")).await;
            assert!(other.ends_with("\r\n\r\n{}"), "{other}");
            let same = rig.get("/d", &named("acme")).await;
            assert!(same.ends_with("{\"a\":\"mine\"}"), "{same}");
        }
    })
    .await;
}

/// G16: a token that may do less is not told what one was told that may do more.
#[tokio::test]
async fn what_a_token_may_do_tells_callers_apart() {
    local(async {
        let issuers = Issuers::new();
        let (fake, act) = acting(Act::Answer("\"mine\"")).await;
        let lines = issuers
            .gateway(&format!("    routes:\n      - {{ path: /d, auth: riders, {AGGREGATE} }}"));
        let rig = Rig::new(&topology(&services(&fake), &lines));
        let may = |scope: &str| {
            bearer(&issuers.riders.token("ES256", None, &rider(json!({ "scope": scope }))))
        };
        rig.get("/d", &may("user:read pay")).await;
        act.set(Act::Hang);
        let less = rig.get("/d", &may("user:read")).await;
        assert!(less.ends_with("\r\n\r\n{}"), "{less}");
        let same = rig.get("/d", &may("user:read pay")).await;
        assert!(same.ends_with("{\"a\":\"mine\"}"), "{same}");
    })
    .await;
}

/// G13, G16: what a service's change fills into an answer is the caller's for whom it was filled.
#[tokio::test]
async fn what_is_filled_in_is_the_callers_own() {
    local(async {
        let (fake, act) = acting(Act::Keep(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        ))
        .await;
        let lines = format!(
            "    upstreams: {{ user: {{ transform: {{ request: {{ headers: {{ remove: [x-who] }} }}, response: {{ body: {{ json: [{{ set: who, to: '${{request.header.x-who}}' }}] }} }} }} }} }}\n    routes:\n      - {{ path: /d, {AGGREGATE} }}"
        );
        let rig = Rig::new(&topology(&services(&fake), &lines));
        let mine = "{\"a\":{\"who\":\"one\"}}";
        let first = rig.get("/d", "X-Who: one\r\n").await;
        assert!(first.ends_with(mine), "{first}");
        assert!(!fake.seen.last().contains("x-who"), "{}", fake.seen.last());
        act.set(Act::Hang);
        let other = rig.get("/d", "X-Who: two\r\n").await;
        assert!(other.ends_with("\r\n\r\n{}"), "{other}");
        let same = rig.get("/d", "X-Who: one\r\n").await;
        assert!(same.ends_with(mine), "{same}");
    })
    .await;
}

/// G16: who is refused, or told that there is nothing any more, is told so, and what was there before is forgotten; what
/// says nothing of the thing itself is no such word (RFC 5861 §4).
#[tokio::test]
async fn a_services_word_ends_what_stood_in() {
    for (status, stands_in) in [
        (302, false),
        (400, false),
        (401, false),
        (403, false),
        (404, false),
        (410, false),
        (408, true),
        (429, true),
        (500, true),
        (502, true),
        (503, true),
        (504, true),
    ] {
        local(async {
            let (fake, act) = acting(Act::Answer("\"mine\"")).await;
            let lines = format!("    routes:\n      - {{ path: /d, {AGGREGATE} }}");
            let rig = Rig::new(&topology(&services(&fake), &lines));
            rig.get("/d", "").await;
            let told = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
            let told = Act::Keep(Box::leak(told.into_boxed_str()));
            for next in [told, Act::Hang] {
                act.set(next);
                let answer = rig.get("/d", "").await;
                let wanted = if stands_in { "{\"a\":\"mine\"}" } else { "{}" };
                assert!(
                    answer.ends_with(&format!("\r\n\r\n{wanted}")),
                    "{status} {next:?}: {answer}"
                );
                assert!(answer.contains("x-partial-failure: a\r\n"), "{status}: {answer}");
            }
        })
        .await;
    }
}
