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
