//! Requests held against an OpenAPI description, from the outside.

use http::Request;

use crate::fakes::{Act, Fake};
use crate::peers::Secure;
use crate::rig::{Rig, local, topology};

const DESCRIPTION: &str = r##"{
  "openapi": "3.1.0",
  "paths": {
    "/api/orders": { "post": { "requestBody": { "required": true, "content": { "application/json": { "schema": {
      "type": "object", "required": ["items"], "properties": { "items": { "type": "array", "items": {
        "type": "object", "properties": { "price": { "type": "number", "minimum": 0 } } } } } } } } } } },
    "/api/orders/{id}": { "get": { "parameters": [
      { "name": "id", "in": "path", "required": true, "schema": { "type": "integer" } },
      { "name": "full", "in": "query", "schema": { "type": "boolean" } } ] } }
  }
}"##;

fn post(body: &str, more: &str) -> String {
    let length = body.len();
    format!(
        "POST /api/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n{more}\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// G23: what is not as described is refused with its place and never reaches the service; what is passes byte for
/// byte.
#[tokio::test]
async fn requests_are_held_against_their_description() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("orders.json");
        std::fs::write(&file, DESCRIPTION).expect("written");
        let fake = Fake::new(Act::Answer("done")).await;
        let rig = Rig::new(&topology(
            &format!("  order: {{ endpoints: [{}] }}", fake.address),
            &format!(
                "    routes:\n      - {{ path: /api/*, to: order, validate: {{ openapi: {}, max: 200B }} }}\n      - {{ path: /free/*, to: order }}",
                file.display()
            ),
        ));
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        for (request, status, part) in [
            (post("{\"items\":[{\"price\":-1}]}", ""), "400", "\"detail\":\"the body at /items/0/price: "),
            (post("{}", ""), "400", "\"code\":\"invalid_request\""),
            (post("{\"items\":[],\"items\":[]}", ""), "400", "stands twice"),
            (post("", ""), "400", "the body is missing"),
            (post(&format!("{{\"items\":[{}]}}", "1,".repeat(200)), ""), "413", "body_too_large"),
            (post("{\"items\":[]}", "Content-Encoding: gzip\r\n"), "422", "request_not_transformed"),
            (post("{\"items\":[]}", "Content-Encoding: rot13\r\n"), "415", "unsupported_type"),
            (post("{}", "Content-Type: text/plain\r\n"), "400", "the body has no one type"),
            (post("{}", "").replace("application/json", "text/plain"), "415", "unsupported_type"),
            (
                post("0\r\n\r\n", "Transfer-Encoding: chunked\r\n").replace("Content-Length: 5\r\n", ""),
                "400",
                "the body is missing",
            ),
            (get("/api/orders/x"), "400", "the path parameter `id`: "),
            (get("/api/orders/1?full=maybe"), "400", "the query parameter `full`: "),
            (get("/api/orders"), "405", "allow: POST\r\n"),
            (get("/api/nothing"), "404", "no_route"),
        ] {
            let answer = rig.raw(&request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.contains(part), "{part}: {answer}");
            assert_eq!(fake.seen.count(), 0, "{request}");
        }
        let chunked = post("2\r\n{\"\r\n9\r\nitems\":[]\r\n1\r\n}\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n");
        let chunked: String = chunked.split_inclusive("\r\n").filter(|line| !line.starts_with("Content-Length")).collect();
        assert!(rig.raw(&chunked).await.ends_with("done"));
        let body = "{ \"items\" : [ {\"price\": 1.50} ], \"more\": true }";
        assert!(rig.raw(&post(body, "")).await.ends_with("done"));
        assert!(fake.seen.last().ends_with(body), "{}", fake.seen.last());
        assert!(rig.raw(&get("/api/orders/7?full=true")).await.ends_with("done"));
        assert!(rig.raw(&get("/free/anything")).await.ends_with("done"));
    })
    .await;
}

/// G23: who says that it calls in gRPC is held against the description like anybody else.
#[tokio::test]
async fn a_clients_type_switches_nothing_off() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("orders.json");
        std::fs::write(&file, DESCRIPTION).expect("written");
        let fake = Fake::new(Act::Answer("done")).await;
        let secure = Secure::new(
            &format!("  order: {{ endpoints: [{}] }}", fake.address),
            &format!(
                "    routes:\n      - {{ path: /api/*, to: order, validate: \"{}\" }}",
                file.display()
            ),
        );
        let mut client = secure.client().await;
        for path in ["/api/orders", "/api/nothing"] {
            let ask = Request::post(format!("https://api.example{path}"))
                .header("content-type", "application/grpc")
                .body(())
                .expect("a request");
            let (answer, mut to) = client.send_request(ask, false).expect("open");
            to.send_data(bytes::Bytes::from_static(b"{}"), true).expect("open");
            let answer = answer.await.expect("an answer");
            assert!(answer.headers().contains_key("grpc-status"), "{path}: {answer:?}");
        }
        assert_eq!(fake.seen.count(), 0);
    })
    .await;
}
