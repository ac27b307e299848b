//! The server under the demo services, over real sockets on a free port.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

struct Echo;

impl Program for Echo {
    async fn answer(&self, request: Request<Bytes>) -> Answer {
        match request.uri().path() {
            "/401" => Answer::refuse(StatusCode::UNAUTHORIZED, "unauthorized", "no"),
            path => Answer::ok(json!({ "path": path, "bytes": request.body().len() })),
        }
    }
}

/// Sends `requests` on one connection, stops the server, and returns all that came back.
async fn talk(requests: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let at = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, "echo-1", Echo, async {
        drop(stopped.await);
        Ok(())
    }));
    let mut stream = TcpStream::connect(at).await.expect("connected");
    stream.write_all(requests.as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("read to the end");
    drop(stop);
    server.await.expect("no panic").expect("served");
    text
}

/// T10: every answer names the server, and the counter leaves health and itself out.
#[tokio::test]
async fn requests_are_counted_and_named() {
    let text = talk(
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         GET /401 HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /count HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(text.matches("x-internal-server: echo-1\r\n").count(), 4, "{text}");
    assert_eq!(text.matches("\"server\":\"echo-1\"").count(), 4, "{text}");
    assert!(text.contains("\"bytes\":3"), "{text}");
    assert!(text.contains("www-authenticate: Bearer\r\n"), "{text}");
    assert!(text.contains("\"requests\":2"), "{text}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let text = talk(&format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n{}",
        "x".repeat(70_000)
    ))
    .await;
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
}
