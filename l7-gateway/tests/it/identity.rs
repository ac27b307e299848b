//! What services are told of who calls, and how they can tell that a gateway said it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use l7_gateway::stages::authn::api_key::{Digest, Record, file};
use serde_json::{Value, json};

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const KEY: &str = "aqk_acme-acme-acme-acme";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn rig(issuers: &Issuers, folder: &tempfile::TempDir, fake: &Fake) -> Rig {
    let path = |name: &str| folder.path().join(name);
    let record = Record {
        consumer: "acme".into(),
        plan: Some("gold".into()),
        scopes: vec!["read".into(), "write".into()],
        ..Record::default()
    };
    file::append(&path("keys"), &Digest::of(KEY.as_bytes()), &record).expect("written");
    std::fs::write(path("secret"), format!("{SECRET}\nanother, which verifiers still know\n"))
        .expect("written");
    Rig::new(&topology(
        &format!("  user: {{ endpoints: [{}] }}", fake.address),
        &issuers.gateway(&format!(
            "    api-keys: {{ partners: {{ from: \"file:{}\" }} }}
    identity-headers: [scopes, roles, issuer, consumer, plan, \"claim:Tenant\", \"claim:level\", \"claim:odd\"]
    signed-identity: {{ key: \"file:{}\", lifetime: 20s }}
    routes:
      - {{ path: /all/*, to: user, auth: [riders, partners] }}
      - {{ path: /open/*, to: user, auth: none }}",
            path("keys").display(),
            path("secret").display()
        )),
    ))
}

/// The value of a header as the service had it.
fn header<'t>(sent: &'t str, name: &str) -> Option<&'t str> {
    let lines = sent.lines().filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(own, _)| own.eq_ignore_ascii_case(name));
    let value = values.next().map(|(_, value)| value);
    assert!(values.next().is_none(), "{name} twice: {sent}");
    value
}

/// What a service reads from a proof with a library of its own.
fn proved(sent: &str, secret: &str) -> Option<Value> {
    let token = header(sent, "x-aqueduct-identity").expect("a proof");
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_audience(&["user"]);
    rules.set_issuer(&["aqueduct/app"]);
    decode::<Value>(token, &DecodingKey::from_secret(secret.as_bytes()), &rules)
        .ok()
        .map(|read| read.claims)
}

/// G6: scopes, roles, consumer, plan and claims reach services where the file asks for it, whatever a
/// client said of itself; and a service can tell that a gateway spoke.
#[tokio::test]
async fn services_are_told_who_calls() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = rig(&issuers, &folder, &fake);
        let forged = "X-Consumer: evil\r\nx_consumer_plan: evil\r\nX-User-Claim-Tenant: evil\r\nX-Scopes: evil\r\n\
                      X-Client-Principal: evil\r\nX-Aqueduct-Identity: evil\r\nX-User-Roles: evil\r\n";
        let claims = json!({
            "roles": ["clerk", "admin"], "Tenant": "acme", "level": 3, "odd": "line\r\nfeed", "scope": "user:read pay",
        });
        for _ in 0..2 {
            let token = bearer(&issuers.riders.token("ES256", None, &rider(claims.clone())));
            rig.get("/all/1", &format!("{forged}{token}")).await;
            let sent = fake.seen.last();
            for (name, value) in [
                ("x-user-id", Some("98765")),
                ("x-scopes", Some("user:read pay")),
                ("x-user-roles", Some("clerk admin")),
                ("x-user-issuer", Some("riders")),
                ("x-user-claim-tenant", Some("acme")),
                ("x-user-claim-level", Some("3")),
                ("x-user-claim-odd", None),
                ("x-consumer", None),
                ("x-consumer-plan", None),
                ("x-client-principal", None),
            ] {
                assert_eq!(header(&sent, name), value, "{name}: {sent}");
            }
            assert!(!sent.contains("evil"), "{sent}");
            let proof = proved(&sent, SECRET).expect("a proof that verifies");
            assert_eq!((&proof["sub"], &proof["kind"]), (&"98765".into(), &"user".into()));
            assert_eq!(proof["scope"], "user:read pay");
            assert_eq!(proof["rid"].as_str(), header(&sent, "x-request-id"));
            let lifetime = proof["exp"].as_u64().zip(proof["iat"].as_u64()).map(|(end, begin)| end - begin);
            assert_eq!(lifetime, Some(20));
            assert_eq!(proved(&sent, &SECRET.replace('0', "1")), None);
            let token = header(&sent, "x-aqueduct-identity").expect("a proof");
            let id = decode_header(token).expect("a header").kid.expect("a key's name");
            assert_eq!(id, Digest::of(SECRET.as_bytes()).to_string()[..16]);
        }
        rig.get("/all/1", &format!("{forged}X-API-Key: {KEY}\r\n")).await;
        let sent = fake.seen.last();
        assert_eq!(header(&sent, "x-consumer"), Some("acme"));
        assert_eq!(header(&sent, "x-consumer-plan"), Some("gold"));
        assert_eq!(header(&sent, "x-scopes"), Some("read write"));
        assert_eq!(header(&sent, "x-user-id"), None);
        assert_eq!(proved(&sent, SECRET).expect("a proof")["kind"], "consumer");
        rig.get("/open/1", forged).await;
        let sent = fake.seen.last();
        assert!(!sent.contains("evil"), "{sent}");
        assert_eq!(proved(&sent, SECRET).expect("a proof").get("sub"), None);
        let parts = header(&sent, "x-aqueduct-identity").expect("a proof").split('.').nth(1);
        assert!(URL_SAFE_NO_PAD.decode(parts.expect("claims")).is_ok());
    })
    .await;
}

/// G2: what holds for a consumer holds for its requests and their answers, between the listener's and the route's, and for
/// nobody else's.
#[tokio::test]
async fn a_consumer_has_changes_of_its_own() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let fake = Fake::new(Act::Answer("x")).await;
        let keys = folder.path().join("keys");
        for (key, name) in [(KEY, "acme"), ("aqk_other-other-other-other", "other")] {
            let record = Record { consumer: name.into(), ..Record::default() };
            file::append(&keys, &Digest::of(key.as_bytes()), &record).expect("written");
        }
        let lines = format!(
            "    api-keys: {{ partners: {{ from: \"file:{}\" }} }}
    defaults:
      transform: {{ request: {{ headers: {{ set: {{ x-order: listener }} }} }}, response: {{ headers: {{ add: {{ x-back: listener }} }} }} }}
    consumers:
      acme:
        transform:
          request: {{ query: {{ set: {{ tenant: '${{consumer}}' }} }}, headers: {{ add: {{ x-order: consumer }} }} }}
          response: {{ headers: {{ add: {{ x-back: consumer }} }} }}
    routes:
      - path: /*
        to: user
        auth: partners
        transform: {{ request: {{ headers: {{ add: {{ x-order: route }} }} }}, response: {{ headers: {{ add: {{ x-back: route }} }} }} }}",
            keys.display()
        );
        let rig = Rig::new(&topology(&format!("  user: {{ endpoints: [{}] }}", fake.address), &lines));
        let all = |text: &str, name: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
            lines.collect()
        };
        for (key, query, there, back) in [
            (KEY, "?tenant=acme", &["listener", "consumer", "route"][..], &["route", "consumer", "listener"][..]),
            ("aqk_other-other-other-other", "", &["listener", "route"], &["route", "listener"]),
        ] {
            let answer = rig.get("/a", &format!("X-API-Key: {key}\r\n")).await;
            let sent = fake.seen.last();
            assert!(sent.starts_with(&format!("GET /a{query} HTTP/1.1\r\n")), "{sent}");
            assert_eq!(all(&sent, "x-order"), there, "{sent}");
            assert_eq!(all(&answer, "x-back"), back, "{answer}");
        }
        // Whoever is not let in is nobody's consumer.
        let answer = rig.get("/a", "").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert_eq!(all(&answer, "x-back"), ["route", "listener"], "{answer}");
    })
    .await;
}
