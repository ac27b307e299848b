//! Identity from the outside: who gets through, who is told what, what reaches the service.

use std::time::SystemTime;

use serde_json::{Value, json};
use tempfile::TempDir;
use topology::Topology;

use crate::fakes::{Act, Fake};
use crate::forge::Signer;
use crate::rig::{Rig, local, topology};

/// Riders and drivers, each with a key file, and routes that name them.
pub(crate) struct Issuers {
    pub(crate) riders: Signer,
    pub(crate) drivers: Signer,
    folder: TempDir,
}

impl Issuers {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (riders, drivers) = (Signer::es256(), Signer::rsa());
        for (name, signer) in [("riders.pem", &riders), ("drivers.pem", &drivers)] {
            std::fs::write(folder.path().join(name), signer.pem()).expect("written");
        }
        Self { riders, drivers, folder }
    }

    /// The sections `issuers:` and, with the routes given, `routes:`.
    pub(crate) fn gateway(&self, routes: &str) -> String {
        let key = |name: &str| self.folder.path().join(name).display().to_string();
        let (riders, drivers) = (key("riders.pem"), key("drivers.pem"));
        format!(
            "    issuers:
      riders: {{ issuer: \"https://riders.example\", audience: api, key: \"file:{riders}\", algorithms: [ES256], user: userId }}
      drivers: {{ issuer: \"https://drivers.example\", audience: api, key: \"file:{drivers}\", algorithms: [RS256] }}
{routes}"
        )
    }

    fn topology(&self, fake: &Fake) -> Topology {
        topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            &self.gateway(
                "    routes:
      - { path: /ride/*, to: user, auth: riders }
      - { path: /pay/*, to: user, auth: riders, scopes: [pay, user:read] }
      - { path: /drive/*, to: user, auth: drivers }
      - { path: /both/*, to: user, auth: [riders, drivers] }
      - { path: /open/*, to: user, auth: none }",
            ),
        )
    }
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A rider's claims, with these in place of theirs.
pub(crate) fn rider(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://riders.example", "aud": "api", "exp": now() + 300, "userId": 98765,
        "scope": "user:read",
    });
    if let (Some(claims), Value::Object(changes)) = (claims.as_object_mut(), changes) {
        claims.extend(changes);
    }
    claims
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// G6: a verified user reaches the service as `X-User-Id`; the token does not, nor what the client
/// claimed to be.
#[tokio::test]
async fn a_verified_user_reaches_the_service() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = Rig::new(&issuers.topology(&fake));
        let token = issuers.riders.token("ES256", None, &rider(json!({})));
        for _ in 0..2 {
            let lines = format!("{}X-User-Id: 1\r\n", bearer(&token));
            let answer = rig.get("/ride/1", &lines).await;
            assert_eq!(status(&answer), "200", "{answer}");
            let sent = fake.seen.last().to_ascii_lowercase();
            assert_eq!(sent.matches("x-user-id: 98765\r\n").count(), 1, "{sent}");
            assert_eq!(sent.matches("x-user-id").count(), 1, "{sent}");
            assert!(!sent.contains("authorization") && !sent.contains("bearer"), "{sent}");
        }
    })
    .await;
}

/// G6: who somebody is does not come behind a body either, however it is written.
#[tokio::test]
async fn a_user_in_trailers_reaches_nobody() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = Rig::new(&issuers.topology(&fake));
        let token = bearer(&issuers.riders.token("ES256", None, &rider(json!({}))));
        let names = ["X-User-Id", "x_user_id", "X-USER.ID", "X-Scopes", "X-Consumer", "Authorization"];
        for name in names {
            let request = format!(
                "POST /ride/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{token}Trailer: {name}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{name}: forged\r\n\r\n"
            );
            let answer = rig.raw(&request).await;
            assert_eq!(status(&answer), "200", "{name}: {answer}");
            let sent = fake.seen.last();
            assert!(!sent.contains("forged"), "{sent}");
            assert_eq!(sent.to_ascii_lowercase().matches("x-user-id: 98765\r\n").count(), 1);
        }
    })
    .await;
}

/// G5: expired, forged, missing or odd: 401 that says why, and the service is never touched.
#[tokio::test]
async fn refused_tokens_never_touch_the_service() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = Rig::new(&issuers.topology(&fake));
        let sign = |changes| issuers.riders.token("ES256", None, &rider(changes));
        let good = sign(json!({}));
        let forged = Signer::es256().token("ES256", None, &rider(json!({})));
        let public = Signer::Secret(issuers.riders.pem().into_bytes());
        let table = [
            (String::new(), "Bearer"),
            (bearer(&sign(json!({"exp": now() - 100}))), "Bearer error=\"invalid_token\", error_description=\"the token expired 10"),
            (bearer(&forged), "Bearer error=\"invalid_token\", error_description=\"the token's signature is not valid\""),
            (bearer(&public.token("HS256", None, &rider(json!({})))), "Bearer error=\"invalid_token\", error_description=\"the token's algorithm is not accepted\""),
            (bearer(&sign(json!({"aud": "web"}))), "Bearer error=\"invalid_token\", error_description=\"the token is meant for another audience\""),
            (bearer(&sign(json!({"iss": "https://evil.example"}))), "Bearer error=\"invalid_token\", error_description=\"the token's issuer is not accepted here\""),
            (bearer(&"x".repeat(9000)), "Bearer error=\"invalid_token\", error_description=\"the token is longer than 8 KiB\""),
            (bearer(&good).repeat(2), "Bearer error=\"invalid_request\""),
            ("Authorization: Basic eDp5\r\n".to_owned(), "Bearer error=\"invalid_request\""),
        ];
        for (lines, challenge) in table {
            let answer = rig.get("/ride/1", &lines).await;
            assert_eq!(status(&answer), "401", "{answer}");
            assert!(answer.contains(&format!("www-authenticate: {challenge}")), "{answer}");
            assert!(!answer.contains(&good), "{answer}");
        }
        assert_eq!(fake.seen.count(), 0);
    })
    .await;
}

/// G5: several issuers, each believed on its own routes alone.
#[tokio::test]
async fn each_issuer_on_its_own_routes() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = Rig::new(&issuers.topology(&fake));
        let rider = issuers.riders.token("ES256", None, &rider(json!({})));
        let claims = json!({"iss": "https://drivers.example", "aud": ["api"], "exp": now() + 9, "sub": "d7"});
        let driver = issuers.drivers.token("RS256", Some("any"), &claims);
        for (path, token, expected) in [
            ("/ride/1", &rider, "200"),
            ("/drive/1", &rider, "401"),
            ("/both/1", &rider, "200"),
            ("/ride/1", &driver, "401"),
            ("/drive/1", &driver, "200"),
            ("/both/1", &driver, "200"),
            ("/ride/1", &rider, "200"),
        ] {
            let answer = rig.get(path, &bearer(token)).await;
            assert_eq!(status(&answer), expected, "{path}: {answer}");
        }
        assert!(fake.seen.count() == 5);
    })
    .await;
}

/// G9: every scope of the route is needed; who lacks one is told which there are.
#[tokio::test]
async fn scopes_of_a_route() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = Rig::new(&issuers.topology(&fake));
        for (scopes, expected) in [
            (json!("user:read"), "403"),
            (json!("pay"), "403"),
            (json!("user:reader pay"), "403"),
            (json!("pay user:read more"), "200"),
            (json!(["user:read", "pay"]), "200"),
        ] {
            let token = issuers.riders.token("ES256", None, &rider(json!({"scope": scopes})));
            let answer = rig.get("/pay/1", &bearer(&token)).await;
            assert_eq!(status(&answer), expected, "{scopes}: {answer}");
            let told = "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"pay user:read\"\r\n";
            assert_eq!(answer.contains(told), expected == "403", "{answer}");
        }
        assert_eq!(fake.seen.count(), 2);
    })
    .await;
}

/// G9: rules of a route look at the method, roles and claims; a route without any is closed where the file
/// says so.
#[tokio::test]
async fn rules_of_a_route() {
    local(async {
        let (issuers, fake) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            &issuers.gateway(
                "    defaults: { auth: riders, access: deny }
    routes:
      - path: /orders/*
        to: user
        allow:
          - { methods: [GET], scopes: [orders:read] }
          - { methods: [POST], roles: [clerk], when: \"tenant == 'acme' and level >= 3\" }
      - { path: /forgotten/*, to: user }
      - { path: /mine/*, to: user, access: allow }
      - { path: /drivers/*, to: user, auth: drivers }
      - { path: /open/*, to: user, auth: none }",
            ),
        ));
        let clerk = json!({"roles": ["clerk"], "tenant": "acme", "level": 3, "scope": "orders:read"});
        let other = json!({"roles": "clerk", "tenant": "other", "level": 3});
        for (claims, request, expected, told) in [
            (&clerk, "GET /orders/1", "200", ""),
            (&clerk, "POST /orders/1", "200", ""),
            (&clerk, "DELETE /orders/1", "403", "no rule allows this"),
            (&other, "GET /orders/1", "403", "error=\"insufficient_scope\", scope=\"orders:read\""),
            (&other, "POST /orders/1", "403", "no rule allows this"),
            (&clerk, "GET /forgotten/1", "403", "nobody may do this"),
            (&clerk, "GET /mine/1", "200", ""),
            (&clerk, "GET /open/1", "200", ""),
        ] {
            // Twice: the second time the token is known.
            for _ in 0..2 {
                let token = bearer(&issuers.riders.token("ES256", None, &rider(claims.clone())));
                let head = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{token}\r\n");
                let answer = rig.raw(&head).await;
                assert_eq!(status(&answer), expected, "{claims} {request}: {answer}");
                assert!(answer.contains(told), "{answer}");
            }
        }
        assert_eq!(fake.seen.count(), 8);
    })
    .await;
}

/// G20: without authentication a token passes untouched and the service decides.
#[tokio::test]
async fn a_token_passes_untouched_where_nobody_asks() {
    local(async {
        let act = Act::Raw(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Own\r\nContent-Length: 0\r\n\r\n",
        );
        let (issuers, fake) = (Issuers::new(), Fake::new(act).await);
        let rig = Rig::new(&issuers.topology(&fake));
        let answer = rig.get("/open/1", "Authorization: Bearer whatever it is\r\n").await;
        assert_eq!(status(&answer), "401");
        assert!(answer.contains("www-authenticate: Own\r\n"), "{answer}");
        let sent = fake.seen.last().to_ascii_lowercase();
        assert!(sent.contains("authorization: bearer whatever it is\r\n"), "{sent}");
    })
    .await;
}

/// G5: an issuer whose keys have not been had yet: 503 on its routes, nothing elsewhere.
#[tokio::test]
async fn keys_not_yet_there() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    issuers:
      riders: { issuer: \"https://riders.example\", audience: api, jwks: \"http://127.0.0.1:9/jwks\", algorithms: [ES256], user: userId }
    routes:
      - { path: /ride/*, to: user, auth: riders }
      - { path: /open/*, to: user, auth: none }",
        ));
        let token = Signer::es256().token("ES256", None, &rider(json!({})));
        let answer = rig.get("/ride/1", &bearer(&token)).await;
        assert_eq!(status(&answer), "503", "{answer}");
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        assert_eq!(status(&rig.get("/open/1", "").await), "200");
    })
    .await;
}
