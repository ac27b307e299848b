//! API keys from the outside: where they may stand, what becomes of them, who is refused how.

use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use serde_json::json;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const ACME: &str = "aqk_acme-acme-acme-acme";
const OLD: &str = "aqk_old-old-old-old-old";
const BARE: &str = "aqk_bare-bare-bare-bare";

fn rig(issuers: &Issuers, folder: &tempfile::TempDir, fake: &Fake) -> Rig {
    let path = folder.path().join("keys.ndjson");
    let all = [
        (
            ACME,
            Record { consumer: "acme".into(), scopes: vec!["read".into()], ..Record::default() },
        ),
        (OLD, Record { consumer: "old".into(), expires: Some(1_000_000_000), ..Record::default() }),
        (BARE, Record { consumer: "98765".into(), ..Record::default() }),
    ];
    for (key, record) in all {
        file::append(&path, &Digest::of(key.as_bytes()), &record).expect("written");
    }
    let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
    Rig::new(&topology(
        &services,
        &issuers.gateway(&format!(
            "    api-keys:
      partners: {{ from: \"file:{}\", header: X-API-Key, query: api_key }}
    limits:
      user: {{ by: user, rate: 3/h }}
    routes:
      - {{ path: /keys/*, to: user, auth: partners }}
      - {{ path: /read/*, to: user, auth: partners, scopes: [read] }}
      - {{ path: /both/*, to: user, auth: [riders, partners] }}
      - {{ path: /few/*, to: user, auth: [riders, partners], limits: [user] }}
      - {{ path: /ride/*, to: user, auth: riders }}
      - {{ path: /open/*, to: user, auth: none }}",
            path.display()
        )),
    ))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// G7: a key in a header or in the query is its consumer's, and goes no further than this; nor into the
/// record.
#[tokio::test]
async fn a_key_is_its_consumers_and_stays_here() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let mut rig = rig(&issuers, &folder, &fake);
        let token = issuers.riders.token("ES256", None, &rider(json!({})));
        let header = format!("X-API-Key: {ACME}\r\n");
        for (path, lines, first) in [
            ("/keys/1", header.clone(), "GET /keys/1 "),
            ("/keys/1?a=1", format!("{header}Authorization: Basic eDp5\r\n"), "GET /keys/1?a=1 "),
            (&format!("/keys/1?api_key={ACME}"), String::new(), "GET /keys/1 "),
            (&format!("/keys/1?x=%20&api%5Fkey={ACME}&y"), String::new(), "GET /keys/1?x=%20&y "),
            (&format!("/keys/1?api_key={ACME}"), header.clone(), "GET /keys/1 "),
            (&format!("/both/1?api_key={ACME}"), bearer(&token), "GET /both/1 "),
            ("/ride/1", format!("{header}{}", bearer(&token)), "GET /ride/1 "),
        ] {
            let answer = rig.get(path, &lines).await;
            assert_eq!(status(&answer), "200", "{path}: {answer}");
            let sent = fake.seen.last();
            assert!(sent.starts_with(first), "{sent}");
            let lower = sent.to_ascii_lowercase();
            assert!(!lower.contains("api") && !lower.contains("authorization"), "{sent}");
            assert!(!sent.contains(ACME) && !answer.contains(ACME), "{sent} {answer}");
            // A consumer is no user, even if it has a user's name.
            assert_eq!(lower.contains("x-user-id"), lines.contains("Bearer"), "{sent}");
        }
        let records = rig.records();
        assert_eq!(records[0]["consumer"], "acme");
        assert_eq!(records[0]["userId"], serde_json::Value::Null);
        assert_eq!(
            (&records[5]["userId"], &records[5]["consumer"]),
            (&98765.into(), &serde_json::Value::Null)
        );
        assert!(records.iter().all(|record| !record.to_string().contains(ACME)));
    })
    .await;
}

/// G7: no key, a wrong one, an old one, two: 401 that says which; without a scope 403.
#[tokio::test]
async fn refused_keys_never_touch_the_service() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &folder, &fake);
        let key = |key: &str| format!("X-API-Key: {key}\r\n");
        let invalid = "ApiKey error=\"invalid_key\", error_description=\"the API key is not valid\"";
        let several = "ApiKey error=\"invalid_request\", error_description=\"there is more than one API key\"";
        let odd = "Bearer error=\"invalid_request\"";
        let table = [
            ("/keys/1", String::new(), "401", "ApiKey\r\n"),
            ("/both/1", String::new(), "401", "Bearer, ApiKey\r\n"),
            ("/keys/1", key("aqk_nobodys-nobodys-nobodys"), "401", invalid),
            ("/keys/1", key(&ACME[..20]), "401", invalid),
            ("/keys/1", key("short"), "401", invalid),
            ("/keys/1", key(&"x".repeat(9000)), "401", invalid),
            ("/keys/1", key(OLD), "401", "ApiKey error=\"invalid_key\", error_description=\"the API key has expired\""),
            ("/keys/1", key(ACME) + &key(BARE), "401", several),
            ("/keys/1?api_key=a", key(ACME), "401", several),
            ("/both/1", key(ACME) + "Authorization: Basic eDp5\r\n", "401", odd),
            ("/both/1", key(ACME) + "Authorization: Bearer a.b.c\r\n", "401", "Bearer error=\"invalid_token\""),
            ("/read/1", key(BARE), "403", "Bearer error=\"insufficient_scope\", scope=\"read\""),
            ("/ride/1", key(ACME), "401", "Bearer\r\n"),
        ];
        for (path, lines, expected, challenge) in table {
            let answer = rig.get(path, &lines).await;
            assert_eq!(status(&answer), expected, "{path} {lines}: {answer}");
            assert!(answer.contains(&format!("www-authenticate: {challenge}")), "{lines}: {answer}");
            assert!(!answer.contains("aqk_"), "{answer}");
        }
        assert_eq!(fake.seen.count(), 0);
        assert_eq!(status(&rig.get("/read/1", &key(ACME)).await), "200");
    })
    .await;
}

/// G7, G10: a consumer's budget is not that of a user who has the same name.
#[tokio::test]
async fn consumers_and_users_are_told_apart() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &folder, &fake);
        let token = bearer(&issuers.riders.token("ES256", None, &rider(json!({}))));
        for lines in [format!("X-API-Key: {BARE}\r\n"), token] {
            for expected in ["200", "200", "200", "429"] {
                assert_eq!(status(&rig.get("/few/1", &lines).await), expected);
            }
        }
    })
    .await;
}

/// G20: a route that asks nobody lets a key pass, for the service to judge.
#[tokio::test]
async fn a_key_passes_where_nobody_asks() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &folder, &fake);
        let answer = rig.get("/open/1?api_key=k", &format!("X-API-Key: {ACME}\r\n")).await;
        assert_eq!(status(&answer), "200");
        let sent = fake.seen.last();
        assert!(sent.contains(ACME) && sent.starts_with("GET /open/1?api_key=k "), "{sent}");
    })
    .await;
}
