//! Answers without a body: whoever has made them, nothing follows their heads, and no filter trips over them.

use bytes::Bytes;
use http::{Method, Request};

use crate::fakes::{Act, Fake};
use crate::peers::Secure;
use crate::rig::{Rig, local, topology};

const CHANGED: &str =
    "transform: { response: { body: { json: [{ set: served, json: 'true' }] } } }";

/// G13: nothing is no JSON that cannot be changed: it passes as it is, whatever its head says of it.
#[tokio::test]
async fn empty_answers_pass_changes_of_bodies() {
    for (head, status) in [
        ("204 No Content\r\n\r\n", "204"),
        ("204 No Content\r\nContent-Type: application/json\r\n\r\n", "204"),
        ("200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n", "200"),
        (
            "201 Created\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "201",
        ),
        (
            "200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "200",
        ),
    ] {
        for filter in [CHANGED, "compress: { min: 0B }"] {
            local(async {
                let text = format!("HTTP/1.1 {head}");
                let fake = Fake::new(Act::Keep(Box::leak(text.into_boxed_str()))).await;
                let services = format!("  user: {{ endpoints: [{}] }}", fake.address);
                let rig = Rig::new(&topology(
                    &services,
                    &format!("    routes: [{{ path: /*, to: user, {filter} }}]"),
                ));
                let answer = rig.get("/", "Accept-Encoding: gzip\r\n").await;
                assert!(
                    answer.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{filter} {head}: {answer}"
                );
                if !head.contains("chunked") {
                    assert!(answer.ends_with("\r\n\r\n"), "{filter} {head}: {answer}");
                    assert!(!answer.contains("content-encoding"), "{filter} {head}: {answer}");
                }
            })
            .await;
        }
    }
}

/// G1 (RFC 9110 §6.4.1, §9.3.2): over HTTP/2 too, no byte follows the head of an answer to HEAD, of 204, 205 and 304.
#[tokio::test]
async fn nothing_follows_a_head_alone() {
    local(async {
        let filter =
            Fake::new(Act::Answer("{\"answer\":{\"status\":204,\"body\":\"none\"}}")).await;
        let reset = Fake::new(Act::Answer("{\"answer\":{\"status\":205,\"body\":\"none\"}}")).await;
        let same = Fake::new(Act::Answer("{\"answer\":{\"status\":304,\"body\":\"none\"}}")).await;
        let user = Fake::new(Act::Answer("{}")).await;
        let routes = format!(
            "    routes:
      - {{ path: /text, answer: {{ body: hello }} }}
      - {{ path: /sum, aggregate: {{ calls: {{ a: {{ to: user, path: / }} }} }} }}
      - {{ path: /none, to: user, external: {{ url: \"http://{}/\" }} }}
      - {{ path: /reset, to: user, external: {{ url: \"http://{}/\" }} }}
      - {{ path: /same, to: user, external: {{ url: \"http://{}/\" }} }}",
            filter.address, reset.address, same.address
        );
        let secure = Secure::new(&format!("  user: {{ endpoints: [{}] }}", user.address), &routes);
        let mut client = secure.client().await;
        for (method, path, status, length) in [
            (Method::GET, "/text", 200, Some("5")),
            (Method::HEAD, "/text", 200, Some("5")),
            (Method::HEAD, "/sum", 200, Some("8")),
            (Method::HEAD, "/nobody", 404, Some("")),
            (Method::GET, "/none", 204, None),
            (Method::GET, "/reset", 205, None),
            (Method::GET, "/same", 304, None),
            (Method::HEAD, "/none", 204, None),
        ] {
            let request =
                Request::builder().method(&method).uri(format!("https://api.example{path}"));
            let request = request.body(()).expect("a request");
            client = client.ready().await.expect("ready");
            let (answer, _) = client.send_request(request, true).expect("sent");
            let mut answer = answer.await.expect("an answer");
            assert_eq!(answer.status(), status, "{method} {path}");
            let told = answer
                .headers()
                .get("content-length")
                .map(|value| value.to_str().expect("text").to_owned());
            match length {
                Some("") => assert!(told.is_some_and(|bytes| bytes != "0"), "{method} {path}"),
                length => assert_eq!(told.as_deref(), length, "{method} {path}"),
            }
            let first = answer.body_mut().data().await.map(|data| data.expect("whole"));
            if method == Method::GET && status == 200 {
                assert_eq!(first, Some(Bytes::from_static(b"hello")));
            } else {
                // Not even an empty frame behind the head.
                assert_eq!(first, None, "{method} {path}");
            }
        }
    })
    .await;
}
