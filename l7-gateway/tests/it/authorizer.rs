//! Somebody else who is asked whether requests may go on: yes, no, nothing, too late, nonsense.

use serde_json::json;

use crate::authn::{Issuers, bearer, rider};
use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, topology};

const YES: Act = Act::Keep("HTTP/1.1 204 No Content\r\n\r\n");
const NO: Act = Act::Keep("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever");

fn rig(issuers: &Issuers, service: &Fake, judge: &Fake, timeout: &str) -> Rig {
    let address = judge.address;
    Rig::new(&topology(
        &format!("  user: {{ endpoints: [{}] }}", service.address),
        &issuers.gateway(&format!(
            "    defaults:
      auth: riders
      authorize: {{ url: \"http://{address}/check?v=1\", headers: [Cookie, X-Tenant], timeout: {timeout} }}
    routes:
      - {{ path: /asked/*, to: user }}
      - {{ path: /scoped/*, to: user, scopes: [admin] }}
      - {{ path: /lenient/*, to: user, authorize: {{ url: \"http://{address}/check?v=1\", when-away: allow, timeout: {timeout} }} }}
      - {{ path: /unasked/*, to: user, authorize: none }}"
        )),
    ))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// G9: who is asked hears what is asked and by whom, and no credential; its word counts, on one
/// connection, after the rules of the file.
#[tokio::test]
async fn another_is_asked() {
    local(async {
        let (issuers, service) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let judge = Fake::script(|_, request| if request % 2 == 1 { YES } else { NO }).await;
        let rig = rig(&issuers, &service, &judge, "1m");
        let token = bearer(&issuers.riders.token("ES256", None, &rider(json!({}))));
        let lines =
            format!("{token}Cookie: a=1\r\nX-Tenant: acme\r\nX-Other: secret\r\nX-User-Id: 1\r\n");
        for expected in ["200", "403", "200"] {
            let answer = rig.get("/asked/1?x=2", &lines).await;
            assert_eq!(status(&answer), expected, "{answer}");
            assert!(!answer.contains("never"), "{answer}");
        }
        assert_eq!((judge.seen.connections.get(), judge.seen.count()), (1, 3));
        let heard = judge.seen.last().to_ascii_lowercase();
        assert!(heard.starts_with("get /check?v=1 http/1.1\r\n"), "{heard}");
        for line in [
            "x-forwarded-method: get",
            "x-forwarded-uri: /asked/1?x=2",
            "x-forwarded-host: a",
            "x-forwarded-proto: http",
            "x-forwarded-for: 192.0.2.7",
            "x-user-id: 98765",
            "x-scopes: user:read",
            "cookie: a=1",
            "x-tenant: acme",
            "x-request-id: ",
            "traceparent: ",
        ] {
            assert_eq!(heard.matches(&format!("\r\n{line}")).count(), 1, "{line}: {heard}");
        }
        assert!(!heard.contains("authorization") && !heard.contains("secret"), "{heard}");
        assert_eq!(status(&rig.get("/scoped/1", &token).await), "403");
        assert_eq!(status(&rig.get("/unasked/1", &token).await), "200");
        assert_eq!(status(&rig.get("/asked/1", "").await), "401");
        assert_eq!(judge.seen.count(), 3, "nobody is asked in vain");
        assert_eq!(service.seen.count(), 3);
    })
    .await;
}

/// G9: no answer, one too late, or nonsense: what the file says happens, and it is told once.
#[tokio::test]
async fn nobody_answers() {
    local(async {
        let (issuers, service) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let odd = Act::Raw("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
        for act in [Act::Silent, Act::Hang, Act::Raw("nonsense\r\n\r\n"), odd] {
            let judge = Fake::new(act).await;
            // Long enough for an answer that comes at once, where the act is one.
            let timeout = if act == Act::Silent { "20ms" } else { "1m" };
            let rig = rig(&issuers, &service, &judge, timeout);
            let token = bearer(&issuers.riders.token("ES256", None, &rider(json!({}))));
            for _ in 0..2 {
                let answer = rig.get("/asked/1", &token).await;
                assert_eq!(status(&answer), "503", "{act:?}: {answer}");
                assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
                assert_eq!(status(&rig.get("/lenient/1", &token).await), "200", "{act:?}");
            }
            let told = rig.observer.metrics.render();
            let count =
                told.lines().find(|line| line.starts_with("aqueduct_http_authorizer_away_total"));
            assert!(count.is_some_and(|line| line.ends_with(" 1")), "{count:?}");
        }
        assert_eq!(service.seen.count(), 8);
    })
    .await;
}

/// G9: of what is answered the service hears what the file names, and of those names nothing of the
/// client's, also when nobody answers.
#[tokio::test]
async fn its_answer_is_passed_on_by_name() {
    local(async {
        let (issuers, service) = (Issuers::new(), Fake::new(Act::Answer("x")).await);
        let said = "HTTP/1.1 200 OK\r\nX-Tenant: acme\r\nX-Tenant: acme-2\r\nX-Secret: 1\r\nContent-Length: 0\r\n\r\n";
        let broken = "HTTP/1.1 500 No\r\nX-Tenant: evil\r\nContent-Length: 0\r\n\r\n";
        let judge = Fake::script(move |_, request| Act::Keep(if request == 1 { said } else { broken })).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", service.address),
            &issuers.gateway(&format!(
                "    routes:
      - {{ path: /*, to: user, authorize: {{ url: \"http://{}/\", when-away: allow, timeout: 1m, answer-headers: [X-Tenant, X-Level] }} }}",
                judge.address
            )),
        ));
        let mut heard = Vec::new();
        for _ in 0..2 {
            let lines = "X-Tenant: mine\r\nx-LEVEL: 9\r\nX-Other: 1\r\n";
            assert_eq!(status(&rig.get("/a", lines).await), "200");
            heard.push(service.seen.last().to_ascii_lowercase());
        }
        assert!(heard[0].contains("x-tenant: acme\r\n") && heard[0].contains("x-tenant: acme-2\r\n"));
        for heard in heard {
            for never in ["mine", "x-level", "x-secret", "evil"] {
                assert!(!heard.contains(never), "{never}: {heard}");
            }
            assert!(heard.contains("x-other: 1"), "{heard}");
        }
    })
    .await;
}
