//! Tests of active checks: rise and fall on a paused clock, and each probe on loopback.

use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use topology::model::Probe as Asked;

use super::*;
use crate::lifecycle::Lifecycle;

fn check(probe: Asked) -> HealthCheck {
    let second = Duration::from_secs(1);
    HealthCheck { probe, interval: second, timeout: second, rise: 2, fall: 3 }
}

/// Answers as it is told, and counts.
struct Told(Mutex<(bool, u32)>);

impl Probe for Told {
    async fn ask(&self, _: SocketAddr) -> Result<(), Fault> {
        let mut told = self.0.lock().unwrap();
        told.1 += 1;
        if told.0 { Ok(()) } else { Err(Fault::Status(503)) }
    }
}

/// N8: three bad answers take an endpoint out, two good ones bring it back, at the interval's pace.
#[tokio::test(start_paused = true)]
async fn rise_and_fall() {
    let service = Service::new(&crate::service::tests::service(&[1]));
    let told = Arc::new(Told(Mutex::new((false, 0))));
    let lifecycle = Lifecycle::new();
    let observer = Observer::new("nlb-1");
    let task = watch_by(
        service.clone(),
        check(Asked::Tcp),
        told.clone(),
        observer.clone(),
        lifecycle.shutdown(),
    );
    let task = tokio::spawn(task);
    let state = &service.endpoints[0].state;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(state.healthy(), "two of three");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(!state.healthy());
    assert!(
        observer
            .metrics
            .render()
            .contains("aqueduct_endpoint_up{service=\"s\",endpoint=\"127.0.0.1:1\"} 0")
    );
    told.0.lock().unwrap().0 = true;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(state.healthy());
    let asked = told.0.lock().unwrap().1;
    assert!((5..=6).contains(&asked), "{asked}");
    lifecycle.stop();
    task.await.unwrap();
}

/// N8: the HTTP check takes 2xx alone, and ends although the server keeps the connection.
#[tokio::test]
async fn http_wants_2xx() {
    for (answer, good) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot all of it", true),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", false),
        ("SSH-2.0-OpenSSH_9\r\n", false),
        ("", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1000];
            let n = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if !answer.contains("ok") {
                stream.shutdown().await.unwrap();
            }
            let _rest = stream.read(&mut [0; 10]).await;
            String::from_utf8(head[..n].to_vec()).unwrap()
        });
        let asked = Asked::Http { path: "/healthz?deep=1".into() }.ask(address).await;
        assert_eq!(asked.is_ok(), good, "{answer:?}: {asked:?}");
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    }
}

/// N8
#[tokio::test]
async fn tcp_and_udp_want_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(Asked::Tcp.ask(address).await.is_ok());
    drop(listener);
    assert!(Asked::Tcp.ask(address).await.is_err());

    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let ping = Asked::Udp { request: b"ping".to_vec() };
    let answer = async {
        let mut bytes = [0; 16];
        let (n, peer) = server.recv_from(&mut bytes).await.unwrap();
        assert_eq!(&bytes[..n], b"ping");
        server.send_to(b"pong game-1", peer).await.unwrap();
    };
    let (asked, ()) = tokio::join!(ping.ask(address), answer);
    assert!(asked.is_ok());
    drop(server);
    assert!(ping.ask(address).await.is_err(), "a closed port is unreachable");
}

proptest! {
    /// N8: the state changes only after a full row of answers against it.
    #[test]
    fn rows_alone_change_the_state(answers in prop::collection::vec(any::<bool>(), 0..60), rise in 1_u8..5, fall in 1_u8..5) {
        let check = HealthCheck { rise, fall, ..check(Asked::Tcp) };
        let (mut tally, mut healthy, mut row) = (Tally::default(), true, 0);
        for good in answers {
            row = if good == healthy { 0 } else { row + 1 };
            let expected = row == if healthy { fall } else { rise };
            let change = tally.count(good, healthy, &check);
            prop_assert_eq!(change.is_some(), expected);
            if expected {
                healthy = !healthy;
                row = 0;
            }
        }
    }
}
