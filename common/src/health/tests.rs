//! Tests of active checks: rise and fall on a paused clock, and each probe on loopback.

use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use topology::model::Probe as Asked;

use super::*;

fn check(probe: Asked) -> HealthCheck {
    let second = Duration::from_secs(1);
    HealthCheck { probe, interval: second, timeout: second, rise: 2, fall: 3 }
}

/// Answers as it is told, and counts.
struct Told(Mutex<(bool, u32)>);

impl Probe for Told {
    async fn ask(&self, _: SocketAddr) -> Result<Answer, Fault> {
        let mut told = self.0.lock().unwrap();
        told.1 += 1;
        if told.0 { Ok(Answer::Ready) } else { Err(Fault::Status(503)) }
    }
}

/// Checks all endpoints of a service by a probe of the test's, until it is aborted.
async fn watch(service: Arc<Service>, probe: Arc<impl Probe>, observer: Observer) {
    let mut tasks = JoinSet::new();
    for endpoint in &service.endpoints {
        let watcher = Watcher::new(&service, endpoint, &check(Asked::Tcp), &observer);
        tasks.spawn(watcher.run(probe.clone()));
    }
    tasks.join_all().await;
}

/// N8: three bad answers take an endpoint out, two good ones bring it back, at the interval's pace.
#[tokio::test(start_paused = true)]
async fn rise_and_fall() {
    let service = Service::new(&crate::service::tests::service(&[1]));
    let told = Arc::new(Told(Mutex::new((false, 0))));
    let observer = Observer::new("nlb-1");
    let task = tokio::spawn(watch(service.clone(), told.clone(), observer.clone()));
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
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
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

/// N8: a server that is full says so, by 429 or by its answer; it is well all the same.
#[tokio::test]
async fn a_full_server_is_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _head = stream.read(&mut [0; 1000]).await.unwrap();
        stream.write_all(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n").await
    };
    let asked = Asked::Http { path: "/healthz".into() };
    let (asked, answered) = tokio::join!(asked.ask(address), answer);
    answered.unwrap();
    assert_eq!(asked.unwrap(), Answer::Full);

    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let answer = async {
        let (_, peer) = server.recv_from(&mut [0; 16]).await.unwrap();
        server.send_to(b"full: 100 of 100 players", peer).await.unwrap();
    };
    let ping = Asked::Udp { request: b"ping".to_vec() };
    let (asked, ()) = tokio::join!(ping.ask(address), answer);
    assert_eq!(asked.unwrap(), Answer::Full);
}

/// N8: the TLS check wants a handshake and asks for the name; whose certificate it is does not
/// matter.
#[tokio::test]
async fn tls_wants_a_handshake() {
    let signed = rcgen::generate_simple_self_signed(vec!["elsewhere.example".into()]).unwrap();
    let key =
        rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    for name in [Some("game.example"), None] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Asked::Tls { name: name.map(str::to_owned) };
        let shaken = async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            assert_eq!(stream.get_ref().1.server_name(), name);
        };
        let (asked, ()) = tokio::join!(asked.ask(address), shaken);
        assert_eq!(asked.unwrap(), Answer::Ready);
        let plain = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 no TLS here\r\n").await.unwrap();
        };
        let (asked, ()) = tokio::join!(Asked::Tls { name: None }.ask(address), plain);
        assert!(matches!(asked, Err(Fault::Tls(_))), "{asked:?}");
    }
}

/// A gRPC server that answers one call with this message and this status.
async fn grpc(message: &'static [u8], status: &'static str) -> (Result<Answer, Fault>, Vec<u8>) {
    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Frame, Incoming};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = hyper::service::service_fn(move |request: ::http::Request<Incoming>| {
            let told = told.clone();
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes().to_vec();
                told.send(asked).await.unwrap();
                let mut trailers = ::http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let data = Frame::data(Bytes::from_static(message));
                let frames = [Ok::<_, Fault>(data), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(futures_util::stream::iter(frames));
                Ok::<_, Fault>(::http::Response::new(body))
            }
        });
        let stream = hyper_util::rt::TokioIo::new(stream);
        let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let _gone = server.serve_connection(stream, answer).await;
    });
    let asked = Asked::Grpc { service: "game".into() }.ask(address).await;
    server.abort();
    (asked, heard.recv().await.unwrap())
}

/// N8: the gRPC check asks about the service and wants SERVING with status 0.
#[tokio::test]
async fn grpc_wants_serving() {
    let (asked, request) = grpc(&[0, 0, 0, 0, 2, 8, 1], "0").await;
    assert_eq!(asked.unwrap(), Answer::Ready);
    assert_eq!(request, b"\0\0\0\0\x06\x0a\x04game");
    for (message, status) in [
        (&[0, 0, 0, 0, 2, 8, 2][..], "0"),
        (&[0, 0, 0, 0, 0], "0"),
        (&[0, 0, 0, 0, 2, 8, 1], "12"),
        (&[], "5"),
        (&[1, 2], "0"),
    ] {
        let (asked, _) = grpc(message, status).await;
        assert!(matches!(asked, Err(Fault::Grpc(_))), "{message:?} {status}: {asked:?}");
    }
}

/// N8, T9: an endpoint that stays goes on being asked; one that goes is asked no more.
#[tokio::test(start_paused = true)]
async fn checks_follow_changes() {
    let observer = Observer::new("nlb-1");
    let first = Service::new(&crate::service::tests::service(&[1, 2]));
    let check = check(Asked::Tcp);
    let mut checks = Checks::default();
    checks.update([(&first, &check)], &observer);
    let kept = checks.running[1].task.id();
    let second = first.update(&crate::service::tests::service(&[3, 2]));
    checks.update([(&second, &check)], &observer);
    assert_eq!((checks.running.len(), checks.running[1].task.id()), (2, kept));
    let other = HealthCheck { fall: 9, ..check };
    checks.update([(&second, &other)], &observer);
    assert_ne!(checks.running[1].task.id(), kept, "asked by other rules");
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
