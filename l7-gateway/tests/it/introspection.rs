//! Opaque tokens: what the issuer is asked, and what becomes of its answers.

use futures_util::future::join_all;

use crate::authn::{Issuers, bearer, now, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

fn rig(issuers: &Issuers, folder: &tempfile::TempDir, service: &Fake, office: &Fake) -> Rig {
    std::fs::write(folder.path().join("secret"), "s e:cret\n").expect("written");
    let (secret, address) = (folder.path().join("secret"), office.address);
    let file = format!(
        "    issuers:
      opaque:
        issuer: \"https://opaque.example\"
        audience: api
        introspection: {{ url: \"http://{address}/introspect\", client: gate way, secret: \"file:{}\", timeout: 1m }}
        user: username
",
        secret.display()
    );
    let others = issuers.gateway(
        "    routes:
      - { path: /opaque/*, to: user, auth: opaque, scopes: [read] }
      - { path: /both/*, to: user, auth: [riders, opaque] }",
    );
    let others = others.replacen("    issuers:\n", "", 1);
    Rig::new(&topology(
        &format!("  user: {{ endpoints: [{}] }}", service.address),
        &format!("{file}{others}"),
    ))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// An answer of the issuer, which tests leave lying around.
fn says(json: &str) -> Act {
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
    Act::Keep(Box::leak(text.into_boxed_str()))
}

/// G5: the issuer is asked once for many requests, with our name and not in the URL; what it says of scopes
/// counts; signed tokens of others are not shown to it.
#[tokio::test]
async fn an_opaque_token_is_its_issuers_to_judge() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (issuers, service) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let office =
            Fake::new(says(r#"{"active":true,"username":"livia","scope":"read","aud":"api"}"#))
                .await;
        let rig = rig(&issuers, &folder, &service, &office);
        let lines = bearer("opaque/token+1=");
        let all = join_all((0..20).map(|_| rig.get("/opaque/1", &lines))).await;
        assert!(all.iter().all(|answer| status(answer) == "200"), "{all:?}");
        assert_eq!(office.seen.count(), 1);
        let heard = office.seen.last();
        assert!(heard.starts_with("POST /introspect HTTP/1.1\r\n"), "{heard}");
        // `gate way` and `s e:cret`, escaped as in forms.
        assert!(heard.contains("Basic Z2F0ZSt3YXk6cytlJTNBY3JldA=="), "{heard}");
        assert!(
            heard.ends_with("\r\n\r\ntoken=opaque%2Ftoken%2B1%3D&token_type_hint=access_token"),
            "{heard}"
        );
        let sent = service.seen.last().to_ascii_lowercase();
        assert!(sent.contains("x-user-id: livia\r\n") && !sent.contains("opaque/token"), "{sent}");
        let token = bearer(&issuers.riders.token("ES256", None, &rider(serde_json::json!({}))));
        assert_eq!(status(&rig.get("/both/1", &token).await), "200");
        assert_eq!(office.seen.count(), 1);
        assert_eq!(status(&rig.get("/both/1", &lines).await), "200");
        assert_eq!(office.seen.count(), 1);
    })
    .await;
}

/// G5: not active, for others, over, or no sensible answer: 401 or 503, and what was refused is not asked
/// about again at once.
#[tokio::test]
async fn refused_opaque_tokens() {
    local(async {
        let (issuers, service) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let over = format!(r#"{{"active":true,"username":"l","exp":{}}}"#, now() - 100);
        let error = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n";
        for (act, expected, asked) in [
            (says(r#"{"active":false}"#), "401", 1),
            (says(r#"{"active":"true","username":"l"}"#), "401", 1),
            (says(r#"{"username":"l"}"#), "401", 1),
            (says(r#"{"active":true,"username":"l","aud":"other"}"#), "401", 1),
            (says(r#"{"active":true,"username":"l","iss":"https://evil.example"}"#), "401", 1),
            (says(r#"{"active":true}"#), "401", 1),
            (says(&over), "401", 1),
            (says(r#"{"active":true,"username":"l"}"#), "403", 1),
            (says("[]"), "503", 2),
            (says(r#"{"active":false,"active":true,"username":"l"}"#), "503", 2),
            (Act::Keep(error), "503", 2),
            (Act::Hang, "503", 2),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let office = Fake::new(act).await;
            let rig = rig(&issuers, &folder, &service, &office);
            for _ in 0..2 {
                let answer = rig.get("/opaque/1", &bearer("opaque")).await;
                assert_eq!(status(&answer), expected, "{act:?}: {answer}");
            }
            assert_eq!(office.seen.count(), asked, "{act:?}");
        }
        assert_eq!(service.seen.count(), 0);
    })
    .await;
}
