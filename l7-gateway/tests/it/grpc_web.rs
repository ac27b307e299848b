//! Calls of browsers: the same over HTTP/1.1 and HTTP/2, as bytes and as text.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;

use crate::peers::{Fake2, Secure, Seen, rest};
use crate::rig::{Rig, local, topology};
use crate::transcode::{Script, play, well};

/// A message of one byte.
const MESSAGE: &str = "\0\0\0\0\u{1}x";

async fn service(script: Script) -> Fake2 {
    Fake2::new(100, move |asked| Box::pin(play(script.clone(), asked))).await
}

fn lines(fake: &Fake2) -> (String, String) {
    (
        format!("  cart: {{ endpoints: [{}] }}", fake.address),
        "    upstreams: { cart: { protocol: http2 } }
    issuers:
      app: { issuer: \"https://id.example\", audience: api, jwks: \"http://127.0.0.1:9/jwks.json\", algorithms: [ES256] }
    routes:
      - { path: /shop.v1.Cart/*, to: cart, auth: none, grpc-web: true, cors: { origins: [\"https://app.example\"] } }
      - { path: /secret/*, to: cart, auth: app, grpc-web: true, cors: { origins: [\"https://app.example\"], expose: [X-Own] } }
      - { path: /plain/*, to: cart, auth: none }
      - { path: /small/*, to: cart, auth: none, grpc-web: true, max-body: 8B }
"
        .to_owned(),
    )
}

fn call(path: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: https://app.example\r\n\
         Content-Type: {kind}\r\nX-Grpc-Web: 1\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// The answer over HTTP/1.1, and what the service was asked.
async fn asked(script: Script, request: &str) -> (String, Rc<Seen>) {
    let fake = service(script).await;
    let (services, gateway) = lines(&fake);
    let rig = Rig::new(&topology(&services, &gateway));
    (rig.raw(request).await, Rc::clone(&fake.seen))
}

const WATCH: &str = "/shop.v1.Cart/Watch";

fn watch() -> Script {
    let end = vec![("grpc-status", "0"), ("x-internal-server", "a"), ("x-own", "kept")];
    Script { end: Some(end), ..well(vec![b"\x08\x2a", b"\x08\x2b"]) }
}

/// G15: a browser's call is one to the service, and its trailers are the last message.
#[tokio::test]
async fn a_browser_calls_over_http1() {
    local(async {
        let (answer, seen) =
            asked(watch(), &call(WATCH, "application/grpc-web+proto", MESSAGE)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for part in [
            "content-type: application/grpc-web+proto\r\n",
            "access-control-expose-headers: grpc-status, grpc-message, grpc-status-details-bin\r\n",
            // In the pieces in which they came.
            "\0\u{2}\u{8}\u{2a}",
            "\0\u{2}\u{8}\u{2b}",
            // 0x80 is no text.
            "\u{fffd}\0\0\0\u{1d}grpc-status: 0\r\nx-own: kept\r\n",
        ] {
            assert!(answer.contains(part), "{part:?}: {answer:?}");
        }
        for (name, value) in [("content-type", "application/grpc+proto"), ("te", "trailers")] {
            assert_eq!(seen.header(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(seen.header("x-grpc-web"), None);
    })
    .await;
}

/// G15: a call in base64 is answered in base64, piece by piece; what is no base64 is refused.
#[tokio::test]
async fn a_browser_calls_in_text() {
    local(async {
        let kind = "application/grpc-web-text";
        let (answer, seen) = asked(watch(), &call(WATCH, kind, &STANDARD.encode(MESSAGE))).await;
        assert!(answer.contains("content-type: application/grpc-web-text\r\n"), "{answer}");
        let trailers = [&b"\x80\0\0\0\x1d"[..], b"grpc-status: 0\r\nx-own: kept\r\n"].concat();
        assert!(answer.contains(&STANDARD.encode(trailers)), "{answer}");
        assert_eq!(seen.header("content-type").as_deref(), Some("application/grpc"));
        let (answer, seen) = asked(watch(), &call(WATCH, kind, "no base64!")).await;
        assert!(answer.contains("grpc-status: 2\r\n"), "{answer}");
        assert_eq!(seen.count(), 0);
    })
    .await;
}

/// G15: however a call fails, a browser is told a code: the service's, or the gateway's.
#[tokio::test]
async fn failures_have_codes_for_browsers() {
    local(async {
        let ask = call(WATCH, "application/grpc-web", MESSAGE);
        let failed = Script {
            messages: Vec::new(),
            end: Some(vec![("grpc-status", "5"), ("grpc-message", "no%20item")]),
            kind: "application/grpc",
        };
        let (answer, _) = asked(failed, &ask).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("grpc-status: 5\r\ngrpc-message: no%20item\r\n"), "{answer}");
        let cut = Script { end: None, ..watch() };
        let (answer, _) = asked(cut, &ask).await;
        assert!(answer.contains("grpc-status: 14\r\n"), "{answer}");
        let page = Script { kind: "text/html", ..watch() };
        let (answer, _) = asked(page, &ask).await;
        assert!(answer.contains("grpc-status: 2\r\n"), "{answer}");
        assert!(answer.contains("content-type: application/grpc-web\r\n"), "{answer}");
        let secret = call("/secret/x", "application/grpc-web", MESSAGE);
        let (answer, seen) = asked(watch(), &secret).await;
        assert!(answer.contains("grpc-status: 16\r\n"), "{answer}");
        assert!(
            answer.contains("access-control-expose-headers: x-own, grpc-status,"),
            "scripts may read it: {answer}"
        );
        assert_eq!(seen.count(), 0);
        let mut small =
            call("/small/x", "application/grpc-web", "c\r\n\0\0\0\0\u{7}1234567\r\n0\r\n\r\n");
        small = small.replace("Content-Length: 22", "Transfer-Encoding: chunked");
        let (answer, _) = asked(watch(), &small).await;
        assert!(answer.contains("grpc-status: 8\r\n"), "bounds hold for chunks: {answer}");
        let plain = call("/plain/x", "application/grpc-web", MESSAGE);
        let (_, seen) = asked(watch(), &plain).await;
        assert_eq!(seen.header("content-type").as_deref(), Some("application/grpc-web"));
    })
    .await;
}

/// G15: a break inside of a message is told by a body without an end: what says how the call ended would be read as
/// the bytes that are missing.
#[tokio::test]
async fn nothing_of_ours_completes_a_message() {
    local(async {
        for trailers in [false, true] {
            let fake = Fake2::new(100, move |mut asked| {
                Box::pin(async move {
                    let head = http::Response::builder().header("content-type", "application/grpc");
                    let head = head.body(()).expect("an answer");
                    let mut to = asked.respond.send_response(head, false).expect("open");
                    let cut = [&[0, 0, 0, 0, 100][..], &[b'm'; 60]].concat();
                    to.send_data(cut.into(), !trailers).expect("open");
                    if trailers {
                        let mut end = http::HeaderMap::new();
                        end.insert("grpc-status", "0".parse().expect("a value"));
                        to.send_trailers(end).expect("open");
                    }
                })
            })
            .await;
            let (services, gateway) = lines(&fake);
            let mut rig = Rig::new(&topology(&services, &gateway));
            let answer = rig.raw(&call(WATCH, "application/grpc-web", MESSAGE)).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("mmm"), "{answer:?}");
            assert!(
                !answer.contains("grpc-status:") && !answer.ends_with("0\r\n\r\n"),
                "{answer:?}"
            );
            let record = &rig.records()[0];
            assert_eq!((&record["complete"], &record["grpc_status"]), (&false.into(), &14.into()));
        }
    })
    .await;
}

/// G15: a preflight of such a route allows what browsers say in calls.
#[tokio::test]
async fn preflights_allow_calls() {
    local(async {
        let ask = format!(
            "OPTIONS {WATCH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: https://app.example\r\n\
             Access-Control-Request-Method: POST\r\n\r\n"
        );
        let (answer, _) = asked(watch(), &ask).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        for part in [
            "access-control-allow-methods: GET, HEAD, POST\r\n",
            "authorization, content-type, grpc-timeout, x-grpc-web, x-user-agent\r\n",
        ] {
            assert!(answer.contains(part), "{part}: {answer}");
        }
    })
    .await;
}

/// G15: the same over HTTP/2, recorded as a call with its code.
#[tokio::test]
async fn a_browser_calls_over_http2() {
    local(async {
        let fake = service(watch()).await;
        let (services, gateway) = lines(&fake);
        let mut secure = Secure::new(&services, &gateway);
        let mut client = secure.client().await;
        let ask = Request::post(format!("https://api.example{WATCH}"))
            .header("content-type", "application/grpc-web+proto")
            .body(())
            .expect("a request");
        let (head, mut to) = client.send_request(ask, false).expect("open");
        to.send_data(Bytes::from_static(MESSAGE.as_bytes()), true).expect("open");
        let head = head.await.expect("an answer");
        assert_eq!(head.headers()["content-type"], "application/grpc-web+proto");
        let mut body = head.into_body();
        let (all, trailers) = rest(&mut body).await.expect("an end");
        assert!(trailers.is_none(), "they are in the body");
        let end = [&b"\x80\0\0\0\x1d"[..], b"grpc-status: 0\r\nx-own: kept\r\n"].concat();
        assert!(all.ends_with(&end), "{all:?}");
        drop((client, body));
        let records = secure.rig.records();
        assert_eq!(
            (&records[0]["grpc_status"], &records[0]["complete"]),
            (&0.into(), &true.into())
        );
    })
    .await;
}
