//! What services and clients get to see of each other's headers.

use http::Request;

use crate::fakes::{Act, Fake};
use crate::peers::Secure;
use crate::rig::{Rig, local, one, topology};

/// G6: identity headers of clients never reach a service, in any spelling.
#[tokio::test]
async fn identity_headers_never_reach_the_service() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&one(fake.address));
        let spellings = [
            "X-User-Id",
            "x-user-id",
            "X-USER-ID",
            "x_user_id",
            "X_User_Id",
            "X-User_Id",
            "X_User-Id",
            "X.User.Id",
            "X-User.Id",
            "x~user~id",
            "X'User'Id",
            "x|user|id",
            "X-Scopes",
            "X_Scopes",
            "X-Consumer-Name",
            "X-Real-IP",
            "X_Real_Ip",
            "X-Forwarded-Extra",
            "Forwarded",
            "X-Original-URL",
            "X-HTTP-Method-Override",
            "tracestate",
        ];
        for name in spellings {
            let answer = rig.get("/", &format!("{name}: spoofed\r\nX-Mine: stays\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
            let sent = fake.seen.last();
            assert!(!sent.contains("spoofed"), "{name}: {sent}");
            assert!(sent.contains("x-mine: stays"), "{name}: {sent}");
        }
    })
    .await;
}

/// G13: our own headers are there, whatever the client said.
#[tokio::test]
async fn our_headers_are_attached_last() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&one(fake.address));
        let lines = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n\
                     traceparent: 00-11111111111111111111111111111111-2222222222222222-01\r\n";
        let answer = rig.get("/", lines).await;
        let sent = fake.seen.last();
        for line in [
            "x-forwarded-for: 192.0.2.7\r\n",
            "x-forwarded-proto: http\r\n",
            "x-forwarded-host: a\r\n",
            "host: a\r\n",
        ] {
            assert!(sent.contains(line), "{line}: {sent}");
        }
        assert!(!sent.contains("1111111111111111") && !sent.contains("mine"), "{sent}");
        let id = sent
            .split("x-request-id: ")
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .expect("an id");
        assert!(answer.contains(&format!("x-request-id: {id}\r\n")), "{answer}");
        assert_eq!(sent.matches("traceparent: 00-").count(), 1);
    })
    .await;
}

/// G6: `Connection` cannot be used to strip what we add, nor to keep what must go.
#[tokio::test]
async fn the_hop_by_hop_trick_removes_none_of_ours() {
    local(async {
        let fake = Fake::new(Act::Answer("x")).await;
        let rig = Rig::new(&one(fake.address));
        for name in ["X-Forwarded-For", "x_user_id", "X-Request-Id", "traceparent", "Host", "Content-Length"] {
            let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, {name}\r\n\r\n");
            let answer = rig.raw(&request).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
        }
        assert_eq!(fake.seen.count(), 0);
        let lines = "Keep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: secret\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n";
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n{lines}\r\n");
        rig.raw(&request).await;
        let sent = fake.seen.last().to_ascii_lowercase();
        for gone in ["x-hop", "keep-alive", "te:", "proxy-authorization", "upgrade", "http2-settings", "connection:"] {
            assert!(!sent.contains(gone), "{gone}: {sent}");
        }
    })
    .await;
}

/// G13: what names a server inside stays inside; a route's own headers are set on every answer.
#[tokio::test]
async fn internal_headers_of_services_are_stripped() {
    local(async {
        let text = "HTTP/1.1 200 OK\r\nServer: user/1\r\nX-Internal-Server: user-1\r\nX-Powered-By: x\r\n\
                    Connection: X-Hop\r\nX-Hop: 1\r\nX-Public: yes\r\nContent-Length: 2\r\n\r\nok";
        let fake = Fake::new(Act::Keep(text)).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    routes:\n      - { path: /*, to: user, methods: [GET], response-headers: { X-Frame-Options: DENY } }",
        ));
        let answer = rig.get("/", "").await.to_ascii_lowercase();
        for gone in ["user/1", "x-internal-server", "x-powered-by", "x-hop"] {
            assert!(!answer.contains(gone), "{gone}: {answer}");
        }
        assert!(answer.contains("x-public: yes") && answer.contains("x-frame-options: deny"), "{answer}");
        let refused = rig.raw("PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.to_ascii_lowercase();
        assert!(refused.starts_with("http/1.1 405 "), "{refused}");
        assert!(refused.contains("allow: get\r\n") && refused.contains("x-frame-options: deny"), "{refused}");
    })
    .await;
}

/// G20: without authentication the token is the service's to judge.
#[tokio::test]
async fn a_token_passes_a_route_that_asks_nobody() {
    local(async {
        let fake =
            Fake::new(Act::Raw("HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nmine")).await;
        let rig = Rig::new(&one(fake.address));
        let answer = rig.get("/", "Authorization: Bearer abc\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("mine"), "{answer}");
        assert!(fake.seen.last().contains("authorization: Bearer abc\r\n"));
    })
    .await;
}

/// G13, G23: browsers are told to be careful of answers of no route too, in the words of `defaults`.
#[tokio::test]
async fn answers_of_no_route_are_careful() {
    local(async {
        let services = "  user: { endpoints: [127.0.0.1:9] }";
        let lines = "    defaults: { security-headers: api }\n    routes:\n      - { path: /a, to: user, security-headers: none }";
        let rig = Rig::new(&topology(services, lines));
        let (long, large) = ("x".repeat(9000), "y".repeat(70_000));
        for (status, ask) in [
            ("404", "GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned()),
            ("400", "GET /none HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
            ("400", "GET /no%zz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned()),
            ("414", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
            ("431", format!("GET / HTTP/1.1\r\nHost: a\r\nX-Y: {large}\r\n\r\n")),
        ] {
            let answer = rig.raw(&ask).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
            assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{status}: {answer}");
            assert!(!answer.contains("strict-transport-security"), "{status}: {answer}");
        }
        let own = rig.get("/a", "").await;
        assert!(!own.contains("nosniff"), "a route has the last word: {own}");
        let secure = Secure::new(services, lines);
        let mut client = secure.client().await;
        for (host, status) in [("api.example", 404), ("other.example", 421)] {
            let ask = Request::get(format!("https://{host}/none")).body(()).expect("a request");
            let (answer, _) = client.send_request(ask, true).expect("open");
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000", "{host}");
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{host}");
        }
    })
    .await;
}
