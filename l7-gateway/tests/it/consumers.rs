//! Consumers by their keys and by claims of tokens: what holds for one holds however it shows who it is.

use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use serde_json::{Value, json};

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const ACME: &str = "aqk_acme-acme-acme-acme";
const ZETA: &str = "aqk_zeta-zeta-zeta-zeta";

const LINES: &str = "    identity-headers: [consumer]
    limits: { each: { by: consumer, rate: 3/h } }
    consumers:
      acme: { claimed-as: [acme, app-7], transform: { request: { headers: { set: { x-of: '${consumer}' } } } } }
      '42': { transform: { request: { headers: { set: { x-of: number } } } } }
    routes:
      - { path: /both, to: user, auth: [riders, drivers, partners], version: v1 }
      - { path: /said, to: user, auth: riders, transform: { request: { headers: { set: { x-said: '${consumer|none}' } } } } }
      - { path: /may, to: user, auth: riders, allow: [{ when: \"@consumer == 'acme'\" }] }
      - { path: /few, to: user, auth: [riders, partners], limits: [each] }
";

fn rig(issuers: &Issuers, folder: &tempfile::TempDir, fake: &Fake) -> Rig {
    let path = folder.path().join("keys.ndjson");
    for (key, consumer) in [(ACME, "acme"), (ZETA, "zeta")] {
        let record = Record { consumer: consumer.into(), ..Record::default() };
        file::append(&path, &Digest::of(key.as_bytes()), &record).expect("written");
    }
    let keys = format!(
        "    api-keys: {{ partners: {{ from: \"file:{}\", header: X-API-Key }} }}\n{LINES}",
        path.display()
    );
    let lines = issuers.gateway(&keys).replace("user: userId", "user: userId, consumer: client_id");
    Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), &lines))
}

fn sent<'s>(sent: &'s str, name: &str) -> Option<&'s str> {
    sent.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// G2, G5, G7: a token names a consumer where its issuer has a claim for that and the file knows the consumer; of a token
/// and a key that come together the token counts, whomever it names.
#[tokio::test]
async fn tokens_name_consumers_that_the_file_knows() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let mut rig = rig(&issuers, &folder, &fake);
        let token = |claims: Value| bearer(&issuers.riders.token("ES256", None, &rider(claims)));
        let named = |name: Value| token(json!({ "client_id": name }));
        let key = |key: &str| format!("X-API-Key: {key}\r\n");
        let driver = json!({
            "iss": "https://drivers.example", "aud": "api", "exp": crate::authn::now() + 300,
            "sub": "7", "client_id": "acme",
        });
        let cases = [
            (named(json!("acme")), Some("acme"), Some("acme"), true),
            (named(json!("app-7")), Some("acme"), Some("acme"), true),
            (named(json!(42)), Some("42"), Some("number"), true),
            (named(json!("nobody")), None, None, true),
            (named(json!("ACME")), None, None, true),
            (named(json!(["acme"])), None, None, true),
            (named(json!({ "acme": true })), None, None, true),
            (named(json!("zeta")), None, None, true),
            (token(json!({})), None, None, true),
            (bearer(&issuers.drivers.token("RS256", None, &driver)), None, None, true),
            (format!("{}{}", named(json!("nobody")), key(ACME)), None, None, true),
            (format!("{}{}", named(json!("acme")), key(ZETA)), Some("acme"), Some("acme"), true),
            (key(ACME), Some("acme"), Some("acme"), false),
            (key(ZETA), Some("zeta"), None, false),
        ];
        for (lines, consumer, changed, user) in &cases {
            let answer =
                rig.get("/both", &format!("{lines}X-Of: client\r\nX-Consumer: client\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{lines}: {answer}");
            let last = fake.seen.last();
            assert_eq!(sent(&last, "x-consumer"), *consumer, "{lines}: {last}");
            assert_eq!(sent(&last, "x-of"), changed.or(Some("client")), "{lines}: {last}");
            assert_eq!(sent(&last, "x-user-id").is_some(), *user, "{lines}: {last}");
        }
        rig.get("/said", &named(json!("app-7"))).await;
        assert_eq!(sent(&fake.seen.last(), "x-said"), Some("acme"));
        let shown = rig.published.load().usage.show();
        let count = |name: &str| {
            let row = shown.as_array().into_iter().flatten().find(|row| row["consumer"] == name);
            row.map(|row| row["total"].clone())
        };
        let counts = ["acme", "42", "zeta", "users"].map(count);
        assert_eq!(counts, [4, 1, 1, 8].map(|total| Some(json!(total))), "{shown}");
        let records = rig.records();
        for (record, (lines, consumer, ..)) in records.iter().zip(&cases) {
            assert_eq!(record["consumer"].as_str(), *consumer, "{lines}: {record}");
        }
    })
    .await;
}

/// G9, G10: rules and limits see the same consumer behind its keys and its tokens.
#[tokio::test]
async fn limits_and_rules_know_one_consumer_in_all_its_forms() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &folder, &fake);
        let named = |name: &str| {
            bearer(&issuers.riders.token("ES256", None, &rider(json!({ "client_id": name }))))
        };
        let key = format!("X-API-Key: {ACME}\r\n");
        for (path, lines, status) in [
            ("/few", named("acme"), "200"),
            ("/few", key.clone(), "200"),
            ("/few", named("app-7"), "200"),
            ("/few", key, "429"),
            ("/few", named("acme"), "429"),
            ("/few", named("42"), "200"),
            // Whom the file does not know is nobody's consumer, and not charged as one.
            ("/few", named("nobody"), "200"),
            ("/few", named("nobody"), "200"),
            ("/few", named("nobody"), "200"),
            ("/few", named("nobody"), "200"),
            ("/may", named("app-7"), "200"),
            ("/may", named("nobody"), "403"),
        ] {
            let answer = rig.get(path, &lines).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {lines}: {answer}");
        }
    })
    .await;
}

/// G5, G7: an issuer names the consumers that the file gives it, and nobody else's.
#[tokio::test]
async fn an_issuer_names_no_other_ones_consumers() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let lines = issuers.gateway(
            "    identity-headers: [consumer]
    consumers:
      acme: { claimed-as: { riders: [acme, app-7] } }
      zeta: { claimed-as: { drivers: app-7 } }
      keys: { claimed-as: {} }
    routes:
      - { path: /both, to: user, auth: [riders, drivers] }",
        );
        let lines = lines
            .replace("user: userId", "user: userId, consumer: client_id")
            .replace("algorithms: [RS256]", "algorithms: [RS256], consumer: azp");
        let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
        let rig = Rig::new(&topology(&services, &lines));
        let ridden = |name: &str| {
            bearer(&issuers.riders.token("ES256", None, &rider(json!({ "client_id": name }))))
        };
        let driven = |name: &str| {
            let claims = json!({
                "iss": "https://drivers.example", "aud": "api", "exp": crate::authn::now() + 300,
                "sub": "7", "azp": name, "client_id": "acme",
            });
            bearer(&issuers.drivers.token("RS256", None, &claims))
        };
        for (lines, consumer) in [
            (ridden("acme"), Some("acme")),
            (ridden("app-7"), Some("acme")),
            (ridden("zeta"), None),
            (ridden("keys"), None),
            (driven("app-7"), Some("zeta")),
            (driven("acme"), None),
            (driven("zeta"), None),
            (driven("keys"), None),
        ] {
            let answer = rig.get("/both", &lines).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{lines}: {answer}");
            let last = fake.seen.last();
            assert_eq!(sent(&last, "x-consumer"), consumer, "{lines}: {last}");
        }
    })
    .await;
}
