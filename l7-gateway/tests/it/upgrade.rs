//! WebSocket: raw only after the service has answered 101.

use tokio::io::AsyncWriteExt as _;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, one, until};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// G4: after a 101 bytes flow both ways, those that came early included.
#[tokio::test]
async fn a_websocket_is_relayed_after_101() {
    local(async {
        let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let fake = Fake::new(Act::Keep(accept)).await;
        let mut rig = Rig::new(&one(fake.address));
        let (mut stream, task) = rig.connect();
        stream.write_all(format!("{ASK}early").as_bytes()).await.expect("taken");
        let answer = until(&mut stream, "early").await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        stream.write_all(b"\x81\x05later").await.expect("taken");
        until(&mut stream, "later").await;
        drop(stream);
        task.await.expect("no panic");
        let sent = fake.seen.last();
        assert!(sent.contains("upgrade: websocket\r\n") && sent.contains("connection: upgrade\r\n"), "{sent}");
        assert_eq!(rig.records()[0]["status"], 101);
    })
    .await;
}

/// G23: an upgrade that the service does not take stays HTTP; what was pipelined behind it is a
/// request of its own, judged like any other.
#[tokio::test]
async fn a_refused_upgrade_stays_http() {
    local(async {
        let fake = Fake::new(Act::Answer("no")).await;
        let rig = Rig::new(&one(fake.address));
        let bad =
            "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = rig.raw(&format!("{ASK}{bad}")).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 400 "),
            "{answer}"
        );
        assert_eq!(fake.seen.count(), 1);
    })
    .await;
}

/// G23: other protocols are not passed on.
#[tokio::test]
async fn other_upgrades_are_ignored() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&one(fake.address));
        let text = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                    HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = rig.raw(text).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
        assert!(!fake.seen.requests.borrow()[0].1.to_ascii_lowercase().contains("h2c"));
    })
    .await;
}
