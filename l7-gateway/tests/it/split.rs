//! Parts of a route's requests that lead elsewhere.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

/// A gateway whose route `/*` leads `part` % elsewhere.
fn rig([stable, canary]: [&Fake; 2], part: u8, more: &str) -> Rig {
    Rig::new(&topology(
        &format!(
            "  stable: {{ endpoints: [{}] }}\n  canary: {{ endpoints: [{}] }}",
            stable.address, canary.address
        ),
        &format!(
            "    routes:\n      - {{ path: /*, to: stable, split: [{{ to: canary, part: {part}% }}]{more} }}"
        ),
    ))
}

/// Which service answers this client.
async fn side(rig: &Rig, client: u32, lines: &str) -> bool {
    let from = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + client), 4000));
    let (mut stream, _task) = rig.connect_from(from);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.ends_with("canary")
}

/// G12: each client is always on the same side; whoever was in the canary's 5 % is in its 10 %; with
/// 0 % nobody is, at once.
#[tokio::test]
async fn a_growing_part_keeps_who_is_in_it() {
    local(async {
        let fakes =
            [Fake::new(Act::Answer("stable")).await, Fake::new(Act::Answer("canary")).await];
        let [five, ten, none] = [5, 10, 0].map(|part| rig([&fakes[0], &fakes[1]], part, ""));
        let mut counts = [0_u32; 2];
        for client in 0..1000 {
            let (in_five, in_ten) = (side(&five, client, "").await, side(&ten, client, "").await);
            assert!(in_ten || !in_five, "client {client} fell out");
            assert!(!side(&none, client, "").await);
            assert_eq!(side(&ten, client, "").await, in_ten, "the same side again");
            counts[0] += u32::from(in_five);
            counts[1] += u32::from(in_ten);
        }
        // Four standard deviations of 1000 draws; the hash is fixed, so this does not vary.
        assert!((22..=78).contains(&counts[0]) && (62..=138).contains(&counts[1]), "{counts:?}");
    })
    .await;
}

/// G12: with `sticky: cookie:NAME` it is the cookie that decides, wherever the client comes from; a
/// route that wants a cookie takes its bearers whole.
#[tokio::test]
async fn cookies_decide() {
    local(async {
        let fakes =
            [Fake::new(Act::Answer("stable")).await, Fake::new(Act::Answer("canary")).await];
        let rig = rig(
            [&fakes[0], &fakes[1]],
            50,
            ", sticky: cookie:group }\n      - { path: /*, cookies: { canary: \"true\" }, to: canary",
        );
        let mut sides = HashMap::new();
        for group in 0..40 {
            for client in 0..3 {
                let lines = format!("Cookie: a=b; group={group}\r\n");
                let found = side(&rig, client, &lines).await;
                assert_eq!(*sides.entry(group).or_insert(found), found, "group {group}");
            }
        }
        let canaries = sides.values().filter(|canary| **canary).count();
        assert!((8..=32).contains(&canaries), "{canaries} of 40");
        for client in 0..10 {
            assert!(side(&rig, client, "Cookie: canary=true\r\n").await);
        }
    })
    .await;
}

/// G12, G6: a mirror gets a copy of every safe request, without credentials, and never one with a
/// body; that it is silent delays nobody.
#[tokio::test]
async fn mirrors_get_copies_of_safe_requests() {
    local(async {
        let (main, shadow) = (Fake::new(Act::Answer("main")).await, Fake::new(Act::Silent).await);
        let rig = Rig::new(&topology(
            &format!(
                "  main: {{ endpoints: [{}] }}\n  shadow: {{ endpoints: [{}] }}",
                main.address, shadow.address
            ),
            "    routes:\n      - { path: /*, to: main, mirror: { to: shadow, part: 100% } }",
        ));
        for number in 1..=5 {
            let lines = "Authorization: Bearer x\r\nX-Number: 7\r\n";
            let answer = rig.get("/a?b=c", lines).await;
            assert!(answer.ends_with("main"), "{answer}");
            assert!(main.seen.last().contains("authorization: Bearer x"), "plain L7 mode");
            let post =
                "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
            assert!(rig.raw(post).await.ends_with("main"));
            while shadow.seen.count() < number {
                tokio::task::yield_now().await;
            }
            let copy = shadow.seen.last();
            assert!(
                copy.starts_with("GET /a?b=c HTTP/1.1\r\n") && copy.contains("x-number: 7"),
                "{copy}"
            );
            assert!(!copy.contains("authorization"), "{copy}");
        }
        assert_eq!(shadow.seen.count(), 5);
    })
    .await;
}

/// The whole answer for a client.
async fn answer(rig: &Rig, client: u32, lines: &str) -> String {
    let from = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + client), 4000));
    let (mut stream, _task) = rig.connect_from(from);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an end");
    answer
}

/// G12: who is chosen for the canary is handed its cookie, and nobody else; who bears it is in, who bears
/// it with another value is out, and neither is handed one; requests are counted by side.
#[tokio::test]
async fn canaries_are_handed_out() {
    local(async {
        let fakes =
            [Fake::new(Act::Answer("stable")).await, Fake::new(Act::Answer("canary")).await];
        let text = format!(
            "  stable: {{ endpoints: [{}] }}\n  canary: {{ endpoints: [{}] }}",
            fakes[0].address, fakes[1].address
        );
        let rig = Rig::new(&topology(
            &text,
            "    routes:\n      - path: /*\n        to: stable\n        \
             split: [{ to: canary, part: 30%, cookie: canary=true, cookie-age: 1d }]",
        ));
        let handed = "set-cookie: canary=true; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax\r\n";
        let mut canaries = 0;
        for client in 0..40 {
            let first = answer(&rig, client, "").await;
            let canary = first.ends_with("canary");
            assert_eq!(first.contains(handed), canary, "{first}");
            assert_eq!(first.contains("set-cookie"), canary, "{first}");
            canaries += u32::from(canary);
            let bearer = answer(&rig, client, "Cookie: a=b; canary=true\r\n").await;
            assert!(bearer.ends_with("canary") && !bearer.contains("set-cookie"), "{bearer}");
            let out = answer(&rig, client, "Cookie: canary=false\r\n").await;
            assert!(out.ends_with("stable") && !out.contains("set-cookie"), "{out}");
        }
        assert!((2..=25).contains(&canaries), "{canaries} of 40");
        let text = rig.observer.metrics.render();
        let counted = format!(
            "aqueduct_http_variant_requests_total{{kind=\"route\",name=\"/*\",variant=\"canary\"}} {}",
            canaries + 40
        );
        assert!(text.contains(&counted), "{counted} in {text}");
    })
    .await;
}

/// G12: services learn the variants of a request, whatever the client says; a cookie keeps them; requests
/// and errors are counted by variant, and no cookie keeps anybody where it fails.
#[tokio::test]
async fn experiments_reach_services() {
    local(async {
        let fake = Fake::new(Act::Answer("hello")).await;
        let broken =
            Fake::new(Act::Keep("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")).await;
        let rig = Rig::new(&topology(
            &format!(
                "  main: {{ endpoints: [{}] }}\n  broken: {{ endpoints: [{}] }}",
                fake.address, broken.address
            ),
            "    experiments:
      color: { variants: { green: 100%, blue: 0% }, cookie: exp-color }
      small: { variants: { a: 0% }, by: address }
    routes:
      - { path: /*, to: main, experiments: [color, small] }
      - { path: /*, headers: { x-broken: \"1\" }, to: broken, experiments: [color] }",
        ));
        let spoofed = "X-Experiment-Color: evil\r\nX-Experiment-Small: a\r\nx-experiment_color: evil\r\n";
        let first = answer(&rig, 1, spoofed).await;
        assert!(first.contains("set-cookie: exp-color=green; Path=/; Max-Age=2592000;"), "{first}");
        let seen = fake.seen.last();
        assert_eq!(seen.matches("experiment").count(), 1, "{seen}");
        assert!(seen.contains("x-experiment-color: green\r\n"), "{seen}");
        let again = answer(&rig, 1, "Cookie: exp-color=blue\r\n").await;
        assert!(!again.contains("set-cookie"), "{again}");
        assert!(fake.seen.last().contains("x-experiment-color: blue\r\n"));
        let failed = answer(&rig, 1, "X-Broken: 1\r\n").await;
        assert!(failed.starts_with("HTTP/1.1 500") && !failed.contains("set-cookie"), "{failed}");
        let text = rig.observer.metrics.render();
        for (metric, variant, count) in [("requests", "green", 2), ("errors", "green", 1), ("requests", "blue", 1)] {
            let counted = format!(
                "aqueduct_http_variant_{metric}_total{{kind=\"experiment\",name=\"color\",variant=\"{variant}\"}} {count}"
            );
            assert!(text.contains(&counted), "{counted} in {text}");
        }
    })
    .await;
}
