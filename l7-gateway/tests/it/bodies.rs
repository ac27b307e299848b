//! Bodies: streamed, bounded, and never short without an error.

use std::io::ErrorKind;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::fakes::{Act, Fake};
use crate::rig::{Rig, local, one, topology, until};

/// G4: a service that dies in its body is visible: no length is made up, no last chunk is sent.
#[tokio::test]
async fn a_truncated_body_is_an_error_for_the_client() {
    local(async {
        let short = Fake::new(Act::Raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")).await;
        let mut rig = Rig::new(&one(short.address));
        let answer = rig.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("hello"), "{answer}");
        let records = rig.records();
        assert_eq!((&records[0]["complete"], &records[0]["bytes_out"]), (&false.into(), &5.into()));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let fake = Fake::new(Act::Raw(chunks)).await;
        let answer = Rig::new(&one(fake.address)).raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.contains("5\r\nhello\r\n"), "{answer}");
        assert!(!answer.contains("\r\n0\r\n"), "{answer}");
    })
    .await;
}

/// G4, G23: a body without a length ends with its connection (RFC 9112 §6.3): one that broke ends by a
/// reset, for a plain end would make it look whole. So does one that the gateway's own end cuts.
#[tokio::test]
async fn a_body_without_a_length_breaks_by_a_reset() {
    local(async {
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        for act in [Act::Raw(chunks), Act::Keep(chunks)] {
            let fake = Fake::new(act).await;
            let rig = Rig::new(&one(fake.address));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let mut client = TcpStream::connect(address).await.expect("connected");
            let (theirs, from) = listener.accept().await.expect("accepted");
            let (worker, shutdown) = (Rc::clone(&rig.worker), rig.lifecycle.shutdown());
            let _task = spawn_local(async move { worker.serve(theirs, from, shutdown).await });
            client.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.expect("taken");
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                client.read_buf(&mut answer).await.expect("the first piece");
            }
            rig.lifecycle.stop();
            let end = client.read_buf(&mut answer).await.expect_err("no plain end");
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        }
    })
    .await;
}

/// G4: an answer's first bytes are passed on before its last ones exist.
#[tokio::test]
async fn answers_stream() {
    local(async {
        let first = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n3\r\none\r\n";
        let fake = Fake::new(Act::Keep(first)).await;
        let rig = Rig::new(&one(fake.address));
        let (mut stream, _task) = rig.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("taken");
        let answer = until(&mut stream, "one").await;
        assert!(answer.contains("text/event-stream"), "{answer}");
    })
    .await;
}

/// G23: a body over the limit is 413, announced or not; the service never sees it whole.
#[tokio::test]
async fn bodies_are_bounded() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    front: { max-body: 8B }\n    routes:\n      - { path: /*, to: user }",
        ));
        let post = |lines: &str, body: &str| {
            format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n\r\n{body}")
        };
        let answer = rig.raw(&post("Content-Length: 8", "12345678")).await;
        assert!(answer.ends_with("ok"), "{answer}");
        let answer = rig.raw(&post("Content-Length: 9", "123456789")).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let chunked = "5\r\n12345\r\n5\r\n12345\r\n0\r\n\r\n";
        let answer = rig.raw(&post("Transfer-Encoding: chunked", chunked)).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(fake.seen.count(), 1);
    })
    .await;
}

/// G23: a body that stops coming is 408.
#[tokio::test]
async fn a_body_that_stops_is_408() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    front: { body-idle-timeout: 30ms }\n    routes:\n      - { path: /*, to: user }",
        ));
        let (mut stream, _task) = rig.connect();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123")
            .await
            .expect("taken");
        let answer = until(&mut stream, "body_timeout").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    })
    .await;
}

/// G23: a malformed chunk ends the connection without an answer that could be taken for the next.
#[tokio::test]
async fn a_malformed_chunk_ends_the_connection() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&one(fake.address));
        let (mut stream, task) = rig.connect();
        let text = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(text.as_bytes()).await.expect("taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an end");
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"), "{answer:?}");
        task.await.expect("no panic");
        assert_eq!(fake.seen.count(), 0);
    })
    .await;
}

/// G4: HEAD has the length and no body; the connection serves on.
#[tokio::test]
async fn head_has_no_body() {
    local(async {
        let fake = Fake::new(Act::Keep("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")).await;
        let mut rig = Rig::new(&one(fake.address));
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = rig
            .raw(&format!("{head}HEAD /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
            .await;
        assert_eq!(answer.matches("content-length: 5\r\n").count(), 2, "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(fake.seen.connections.get(), 1);
        assert!(rig.records().iter().all(|record| record["complete"] == true));
    })
    .await;
}

/// G23: a body that drips below 240 bytes a second is 408, though its bytes keep coming.
#[tokio::test(start_paused = true)]
async fn a_dripping_body_is_408() {
    local(async {
        let fake = Fake::new(Act::Answer("ok")).await;
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{}] }}", fake.address),
            "    upstreams: { user: { connect-timeout: 60s } }\n    routes:\n      - { path: /*, to: user, timeout: 600s }",
        ));
        let (stream, _task) = rig.connect();
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::task::spawn_local(async move {
            let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n";
            let _ = writer.write_all(head).await;
            while writer.write_all(b"y").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_secs(3)).await;
            }
        });
        let begun = tokio::time::Instant::now();
        let mut answer = vec![0; 13];
        reader.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer, b"HTTP/1.1 408 ");
        assert!((30..40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    })
    .await;
}

/// G23: a service that reads slowly is not the client's fault: a body that is always there when it
/// is asked for is never too slow.
#[tokio::test(start_paused = true)]
async fn a_slow_service_is_not_the_clients_fault() {
    local(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let rig = Rig::new(&topology(
            &format!("  user: {{ endpoints: [{address}] }}"),
            "    front: { body-idle-timeout: 2s }\n    routes:\n      - { path: /*, to: user, timeout: 6000s }",
        ));
        const LENGTH: usize = 4 << 20;
        let service = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let (mut bytes, mut count) = (vec![0; 256 * 1024], 0);
            while count < LENGTH {
                tokio::time::sleep(std::time::Duration::from_secs(60)).await;
                count += stream.read(&mut bytes).await.expect("alive");
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("taken");
        });
        let (stream, _task) = rig.connect();
        let (mut reader, mut writer) = tokio::io::split(stream);
        tokio::task::spawn_local(async move {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
            writer.write_all(head.as_bytes()).await.expect("taken");
            writer.write_all(&vec![b'y'; LENGTH]).await.expect("taken");
        });
        let mut answer = vec![0; 13];
        reader.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 204 ");
        service.await.expect("no panic");
    })
    .await;
}

/// G4: an answer that begins before the request has ended holds nobody up, even if the client reads it
/// only after it has sent everything.
#[tokio::test(start_paused = true)]
async fn an_early_answer_does_not_hold_up_the_request() {
    const UP: usize = 2 << 20;
    const DOWN: usize = 16 << 20;
    local(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let rig = Rig::new(&one(listener.local_addr().expect("an address")));
        let service = tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let (mut reader, mut writer) = stream.into_split();
            let answer = tokio::task::spawn_local(async move {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {DOWN}\r\n\r\n");
                writer.write_all(head.as_bytes()).await.expect("taken");
                writer.write_all(&vec![b'd'; DOWN]).await.expect("taken");
                writer
            });
            let (mut bytes, mut count) = (vec![0; 64 * 1024], 0);
            while count < UP {
                count += reader.read(&mut bytes).await.expect("alive");
            }
            drop(answer.await);
        });
        let (mut stream, _task) = rig.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {UP}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("taken");
        stream.write_all(&vec![b'u'; UP]).await.expect("all of it is taken before any is read");
        let (mut bytes, mut count) = (vec![0; 64 * 1024], 0);
        while count < DOWN {
            match stream.read(&mut bytes).await.expect("alive") {
                0 => panic!("{count} of {DOWN}"),
                read => count += read,
            }
        }
        service.await.expect("no panic");
    })
    .await;
}
