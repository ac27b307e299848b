//! Filters at all places where the file may name them: which of them an exchange passes, and in which order.

use std::fmt::Write as _;
use std::path::Path;

use l7_gateway::stages::authn::api_key::{Digest, Record, file};

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const KEY: &str = "X-API-Key: aqk_acme-acme-acme-acme\r\n";

/// A source of API keys with those of the consumers `acme` and `else`, as the file names it.
fn keys(folder: &Path) -> String {
    let path = folder.join("keys.ndjson");
    for (consumer, key) in
        [("acme", "aqk_acme-acme-acme-acme"), ("else", "aqk_else-else-else-else")]
    {
        let record = Record { consumer: consumer.into(), ..Record::default() };
        file::append(&path, &Digest::of(key.as_bytes()), &record).expect("written");
    }
    let path = path.display();
    format!("    api-keys: {{ partners: {{ from: \"file:{path}\", header: X-API-Key }} }}\n")
}

/// A group with these words at listener, consumer, route and service; an empty one is none.
fn group(keys: &str, words: [&str; 4]) -> String {
    let [listener, consumer, route, service] = words;
    let mut lines = keys.to_owned();
    for (head, word, tail) in [
        ("    defaults: { ", listener, " }\n"),
        ("    consumers: { acme: { ", consumer, " } }\n"),
        ("    upstreams: { user: { ", service, " } }\n"),
    ] {
        if !word.is_empty() {
            lines += &[head, word, tail].concat();
        }
    }
    let route = if route.is_empty() { String::new() } else { format!(", {route}") };
    writeln!(lines, "    routes:\n      - {{ path: /*, to: user, auth: partners{route} }}")
        .expect("a text");
    lines
}

const JSON: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n{\"a\":1";

/// G2, G13: of what is said of compressing the most special place counts: the consumer's, then the route's, the
/// service's, the listener's; all ways in which each says yes, no or nothing.
#[tokio::test]
async fn the_most_special_place_compresses() {
    const WORDS: [&str; 3] = ["", "compress: false", "compress: { min: 0B }"];
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = keys(folder.path());
        let fake = Fake::new(Act::Keep(JSON)).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        for case in 0..81_usize {
            let says = [case % 3, case / 3 % 3, case / 9 % 3, case / 27];
            let rig = Rig::new(&topology(&services, &group(&keys, says.map(|word| WORDS[word]))));
            let [listener, consumer, route, service] = says;
            for (key, order) in [
                (KEY, [consumer, route, service, listener]),
                (&KEY.replace("acme", "else"), [0, route, service, listener]),
            ] {
                let answer = rig.get("/", &format!("{key}Accept-Encoding: gzip\r\n")).await;
                let first = order.into_iter().find(|word| *word != 0);
                let there = answer.contains("content-encoding: gzip\r\n");
                assert_eq!(there, first == Some(2), "{says:?} {key}: {answer}");
                assert_eq!(answer.contains("Accept-Encoding"), there, "{says:?} {key}: {answer}");
            }
        }
    })
    .await;
}

/// G2, G13: cross-origin rules are the route's, else its service's, else the listener's, for preflights and what follows
/// them alike; all ways in which each has some, refuses them or says nothing.
#[tokio::test]
async fn cross_origin_rules_are_the_nearest_ones() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = keys(folder.path());
        let fake = Fake::new(Act::Keep(JSON)).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        for case in 0..27_usize {
            let says = [case % 3, case / 3 % 3, case / 9];
            let word = |place: usize| match says[place] {
                0 => String::new(),
                1 => "cors: none".to_owned(),
                _ => format!("cors: {{ origins: [\"https://{place}.example\"] }}"),
            };
            let (listener, route, service) = (word(0), word(1), word(2));
            let words = [listener.as_str(), "", route.as_str(), service.as_str()];
            let rig = Rig::new(&topology(&services, &group(&keys, words)));
            let first = [1, 2, 0].into_iter().find(|place| says[*place] != 0);
            for place in 0..3 {
                let origin = format!("Origin: https://{place}.example\r\n");
                let expected = first == Some(place) && says[place] == 2;
                let allowed = format!("access-control-allow-origin: https://{place}.example\r\n");
                let preflight = format!(
                    "OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccess-Control-Request-Method: GET\r\n{origin}\r\n"
                );
                let preflight = rig.raw(&preflight).await;
                assert_eq!(preflight.contains(&allowed), expected, "{says:?} {place}: {preflight}");
                let answer = rig.get("/", &format!("{KEY}{origin}")).await;
                assert_eq!(answer.contains(&allowed), expected, "{says:?} {place}: {answer}");
            }
        }
    })
    .await;
}

/// G2, G23: a request is held against the descriptions of the listener (where its route has none of its own), the
/// consumer and the route, in this order and as it came, and against the service's as it was changed; all ways in which
/// each of the four is there or not and the request fits it or not.
#[tokio::test]
async fn descriptions_of_all_places_add_up() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = keys(folder.path());
        for place in 0..4 {
            let text = format!(
                "openapi: 3.0.3\ninfo: {{ title: a, version: '1' }}\npaths:\n  /:\n    get: {{ parameters: [{{ name: p{place}, in: query, \
                 required: true, schema: {{ type: integer }} }}], responses: {{ '200': {{ description: a }} }} }}\n"
            );
            std::fs::write(folder.path().join(format!("{place}.yaml")), text).expect("written");
        }
        let fake = Fake::new(Act::Keep(JSON)).await;
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        // What the service is to be sent, a change of the file sends it.
        let changed = "transform: { request: { query: { rename: { p9: p3 } } } }";
        for there in 0..16_usize {
            let word = |place: usize| match there & 1 << place {
                0 => String::new(),
                _ => format!("validate: {}", folder.path().join(format!("{place}.yaml")).display()),
            };
            let route = [word(2), changed.to_owned()].into_iter().filter(|word| !word.is_empty());
            let route = route.collect::<Vec<_>>().join(", ");
            let (listener, consumer, service) = (word(0), word(1), word(3));
            let words = [listener.as_str(), consumer.as_str(), route.as_str(), service.as_str()];
            let rig = Rig::new(&topology(&services, &group(&keys, words)));
            let held = |place: usize| there & 1 << place != 0 && (place != 0 || there & 4 == 0);
            for fits in 0..16_usize {
                let names = [(0, "p0=1"), (1, "p1=1"), (2, "p2=1"), (3, "p9=1")];
                let given = names.into_iter().filter(|(place, _)| fits & 1 << place != 0);
                let query: Vec<&str> = given.map(|(_, pair)| pair).collect();
                let before = fake.seen.count();
                let answer = rig.get(&format!("/?{}", query.join("&")), KEY).await;
                let first = (0..4).find(|place| held(*place) && fits & 1 << place == 0);
                let told = format!("{there:04b} {fits:04b}: {answer}");
                match first {
                    None => assert!(answer.starts_with("HTTP/1.1 200 "), "{told}"),
                    Some(place) => {
                        assert!(answer.starts_with("HTTP/1.1 400 "), "{told}");
                        assert!(answer.contains(&format!("p{place}")), "{told}");
                    }
                }
                assert_eq!(fake.seen.count() - before, usize::from(first.is_none()), "{told}");
            }
        }
        // A route that wants none says so.
        let listener = format!("validate: {}", folder.path().join("0.yaml").display());
        let words = [listener.as_str(), "", "validate: none", ""];
        let rig = Rig::new(&topology(&services, &group(&keys, words)));
        assert!(rig.get("/", KEY).await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}
