//! TCP through a running instance.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::net::proxy_protocol;
use l4_nlb::{Options, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use topology::Balance;
use topology::l4::{ListenAt, ProxyVersion, TlsMatch};

use crate::instance::{Balancer, topology};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port where nobody listens, held so that nobody else takes it.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A server that sends its number to everybody and closes.
async fn numbered(number: u8) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _left = stream.write_all(&[number]).await;
        }
    });
    address
}

async fn ask(client: Ipv4Addr, to: SocketAddr) -> io::Result<u8> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    socket.connect(to).await?.read_u8().await
}

fn is_reset(outcome: &io::Result<usize>) -> bool {
    matches!(outcome, Err(fault) if fault.kind() == io::ErrorKind::ConnectionReset)
}

/// Waits for the reset of a stream from which all has been read.
async fn is_reset_seen(stream: &TcpStream) -> bool {
    stream.ready(tokio::io::Interest::ERROR).await.unwrap();
    stream.take_error().unwrap().is_some()
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// N1, N2: round robin by default, the client's address where asked for.
#[tokio::test]
async fn connections_are_spread_as_the_file_says() {
    let servers = [numbered(0).await, numbered(1).await, numbered(2).await];
    let turns = Balancer::start("tcp", &servers, |_| ()).await;
    let mut seen = [0; 3];
    for _ in 0..30 {
        seen[ask([127, 0, 0, 1].into(), turns.address()).await.unwrap() as usize] += 1;
    }
    assert_eq!(seen, [10, 10, 10], "workers share the turns");
    turns.stop().await;

    let hashed = Balancer::start("tcp", &servers, |l| l.balance = Balance::ClientAddress).await;
    let mut known = HashMap::new();
    for client in (0..40_u8).chain(0..40) {
        let server = ask([127, 30, client, 1].into(), hashed.address()).await.unwrap();
        assert_eq!(*known.entry(client).or_insert(server), server);
    }
    hashed.stop().await;
}

/// N5: a client that has finished sending gets 10 MiB back, and a server that has finished sending
/// gets 10 MiB.
#[tokio::test]
async fn half_close_is_carried_both_ways() {
    let (server, address) = listener().await;
    let balancer = Balancer::start("tcp", &[address], |_| ()).await;
    let big: Vec<u8> = (0..10_u32 << 20).map(|i| (i >> 3) as u8).collect();

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(upstream.read(&mut [0; 8]).await.unwrap(), 0);
    let mut got = Vec::new();
    let (sent, received) = tokio::join!(
        async {
            upstream.write_all(&big).await.unwrap();
            upstream.shutdown().await
        },
        client.read_to_end(&mut got)
    );
    assert!(sent.is_ok() && received.unwrap() == big.len() && got == big);

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    upstream.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    let mut got = Vec::new();
    let (sent, received) = tokio::join!(
        async {
            client.write_all(&big).await.unwrap();
            client.shutdown().await
        },
        upstream.read_to_end(&mut got)
    );
    assert!(sent.is_ok() && received.unwrap() == big.len() && got == big);
    let down = "aqueduct_l4_bytes_total{listener=\"l\",direction=\"down\"}";
    balancer.until(down, big.len() as u64).await;
    balancer.stop().await;
}

/// N5: a reset on one side is a reset on the other, also after a half-close.
#[tokio::test]
async fn resets_are_carried_as_resets() {
    let (server, address) = listener().await;
    let balancer = Balancer::start("tcp", &[address], |_| ()).await;

    let client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    reset(client);
    assert!(is_reset(&upstream.read(&mut [0; 8]).await));

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (upstream, _) = server.accept().await.unwrap();
    reset(upstream);
    assert!(is_reset(&client.read(&mut [0; 8]).await));

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(upstream.read(&mut [0; 8]).await.unwrap(), 0);
    reset(upstream);
    assert!(is_reset(&client.read(&mut [0; 8]).await));

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(upstream.read(&mut [0; 8]).await.unwrap(), 0);
    reset(client);
    assert!(is_reset_seen(&upstream).await, "a client that had finished sending");

    let client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    upstream.shutdown().await.unwrap();
    let mut end = [0; 8];
    client.readable().await.unwrap();
    assert_eq!(client.try_read(&mut end).unwrap(), 0);
    reset(upstream);
    assert!(is_reset_seen(&client).await, "an endpoint that had finished sending");
    balancer.stop().await;
}

/// N5, N8: endpoints that refuse are passed over without the client noticing; none left is a reset.
#[tokio::test]
async fn refusing_endpoints_are_passed_over() {
    let (first, second) = (refusing(), refusing());
    let servers = [first.1, numbered(7).await, second.1];
    let balancer = Balancer::start("tcp", &servers, |_| ()).await;
    for _ in 0..20 {
        assert_eq!(ask([127, 0, 0, 1].into(), balancer.address()).await.unwrap(), 7);
    }
    let ejected = "aqueduct_endpoint_ejections_total{service=\"s\",endpoint=\"";
    // On a slow machine its second may be over while we ask.
    assert!(balancer.metric(&format!("{ejected}{}\"}}", first.1)) >= 1);
    balancer.stop().await;

    let balancer = Balancer::start("tcp", &[first.1], |_| ()).await;
    // The reset may be there before connect has returned.
    let outcome = match TcpStream::connect(balancer.address()).await {
        Ok(mut client) => client.read(&mut [0; 8]).await,
        Err(fault) => Err(fault),
    };
    assert!(is_reset(&outcome), "{outcome:?}");
    balancer.stop().await;
}

/// N5: two of four endpoints refuse: no connection is lost, hashed or in turn.
#[tokio::test]
async fn two_dead_of_four_cost_no_connection() {
    let (first, second) = (refusing(), refusing());
    let servers = [first.1, numbered(7).await, second.1, numbered(8).await];
    for balance in [Balance::ClientAddress, Balance::FiveTuple, Balance::LeastConnections] {
        let balancer = Balancer::start("tcp", &servers, |l| l.balance = balance).await;
        for client in 0..40 {
            let answer = ask([127, 50, client, 1].into(), balancer.address()).await;
            assert!(matches!(answer, Ok(7 | 8)), "{balance:?} {answer:?}");
        }
        balancer.stop().await;
    }
}

/// N12: a protocol whose server speaks first (MySQL's greeting) and one whose client does (RTMP's C0
/// and C1) pass a plain listener: nothing is waited for and nothing is added.
#[tokio::test]
async fn whoever_speaks_first_is_heard() {
    let (server, address) = listener().await;
    let balancer = Balancer::start("tcp", &[address], |_| ()).await;

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut mysql, _) = server.accept().await.unwrap();
    // A packet of protocol 10: three bytes of length, a sequence number, then the version's text.
    let greeting = b"\x0d\0\0\x00\x0a11.8.3-fake\0";
    mysql.write_all(greeting).await.unwrap();
    let mut got = [0; 17];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, greeting);
    for (query, answer) in
        [(&b"\x09\0\0\x00\x03select 1"[..], &b"\x01\0\0\x01\x01"[..]), (b"\x01\0\0\0\x01", b"")]
    {
        client.write_all(query).await.unwrap();
        let mut asked = vec![0; query.len()];
        mysql.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, query);
        mysql.write_all(answer).await.unwrap();
        let mut answered = vec![0; answer.len()];
        client.read_exact(&mut answered).await.unwrap();
        assert_eq!(answered, answer);
    }
    // COM_QUIT has no answer: the server closes.
    drop(mysql);
    assert_eq!(client.read(&mut got).await.unwrap(), 0);

    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut rtmp, _) = server.accept().await.unwrap();
    let hello: Vec<u8> = std::iter::once(3).chain((0..1536_u32).map(|i| i as u8)).collect();
    client.write_all(&hello).await.unwrap();
    let mut got = vec![0; hello.len()];
    rtmp.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    rtmp.write_all(&hello).await.unwrap();
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, hello);
    balancer.stop().await;
}

/// The ClientHello of rustls.
fn client_hello(name: &'static str, protocols: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let name = name.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// N7, N6: connections go where their ClientHello says; the endpoint gets a PROXY header with the
/// name and an id, then the hello to the byte; what fits no service is reset and counted.
#[tokio::test]
async fn tls_clients_are_routed_by_name_and_protocol() {
    let (shop, shop_at) = listener().await;
    let (mail, mail_at) = listener().await;
    let balancer = Balancer::start("tcp", &[shop_at], |listener| {
        listener.proxy_protocol = Some(ProxyVersion::V2);
        let mut for_mail = listener.targets[0].clone();
        for_mail.to.name = topology::ServiceName::new("mail");
        for_mail.to.endpoints[0].address = mail_at;
        let matching = |names: &[&str], alpn: &[&str]| {
            Some(TlsMatch {
                names: names.iter().map(|name| name.parse().unwrap()).collect(),
                alpn: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
                place: topology::Place::default(),
            })
        };
        listener.targets[0].when = matching(&["shop.example", "*.shop.example"], &[]);
        for_mail.when = matching(&[], &["imap"]);
        listener.targets.push(for_mail);
    })
    .await;
    let mut ids = Vec::new();
    for (name, protocols, to) in [
        ("shop.example", &["h2", "http/1.1"][..], &shop),
        ("WWW.Shop.example", &["imap"], &shop),
        ("elsewhere.example", &["imap"], &mail),
    ] {
        let hello = client_hello(name, protocols);
        let mut client = TcpStream::connect(balancer.address()).await.unwrap();
        client.set_nodelay(true).unwrap();
        for part in hello.chunks(100) {
            client.write_all(part).await.unwrap();
        }
        let (mut upstream, _) = to.accept().await.unwrap();
        let header = proxy_protocol::read(&mut upstream).await.unwrap();
        assert_eq!(header.addresses.unwrap().source, client.local_addr().unwrap());
        let authority = header.field(proxy_protocol::AUTHORITY).unwrap();
        assert_eq!(authority, name.to_ascii_lowercase().as_bytes());
        ids.push(header.field(proxy_protocol::UNIQUE_ID).unwrap().to_vec());
        let mut got = vec![0; hello.len()];
        upstream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, hello);
        upstream.write_all(b"!").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "ids differ");
    for first in [client_hello("elsewhere.example", &[]), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut client = TcpStream::connect(balancer.address()).await.unwrap();
        let _reset_already = client.write_all(&first).await;
        assert!(is_reset(&client.read(&mut [0; 8]).await));
    }
    balancer.until("aqueduct_l4_refused_total{listener=\"l\",reason=\"sni\"}", 2).await;
    balancer.stop().await;
}

/// N8: at the drain's deadline what is left is reset, not closed: no answer that was cut short looks
/// whole.
#[tokio::test]
async fn the_deadline_resets_what_is_left() {
    let (server, address) = listener().await;
    let balancer = Balancer::start("tcp", &[address], |_| ()).await;
    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    upstream.write_all(b"half of an").await.unwrap();
    let mut got = [0; 10];
    client.read_exact(&mut got).await.unwrap();
    balancer.options.lifecycle.drain();
    balancer.options.lifecycle.stop();
    assert!(is_reset(&client.read(&mut [0; 8]).await));
    assert!(is_reset(&upstream.read(&mut [0; 8]).await));
    balancer.running.finished().await.unwrap();
}

/// N6: the endpoint reads the client's address from a version 2 header, then the client's bytes.
#[tokio::test]
async fn the_proxy_header_names_the_client() {
    let (server, address) = listener().await;
    let balancer =
        Balancer::start("tcp", &[address], |l| l.proxy_protocol = Some(ProxyVersion::V2)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.40.0.5:0".parse().unwrap()).unwrap();
    let mut client = socket.connect(balancer.address()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    let header = proxy_protocol::read(&mut upstream).await.unwrap().addresses.unwrap();
    assert_eq!(header.source, client.local_addr().unwrap());
    assert_eq!(header.destination, balancer.address());
    let mut bytes = [0; 5];
    upstream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
    balancer.stop().await;
}

/// N6: a transparent listener's endpoint sees the client's address: where the kernel lets us, else
/// the instance does not start and says what is missing.
#[tokio::test]
async fn a_transparent_listener_shows_the_client() {
    let (server, address) = listener().await;
    if common::net::tcp::may_impersonate().is_err() {
        let mut topology = topology("tcp", &[address]);
        topology.nlbs[0].listeners[0].transparent = true;
        let fault = l4_nlb::start(Arc::new(topology), "nlb-1", Options::new("nlb-1")).await;
        let Err(fault @ StartError::Transparent { .. }) = fault else { panic!("{fault:?}") };
        assert!(fault.to_string().contains("CAP_NET_ADMIN"), "{fault}");
        return;
    }
    let balancer = Balancer::start("tcp", &[address], |l| l.transparent = true).await;
    for client in 1..4 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 60, 0, client], 0))).unwrap();
        let mut client = socket.connect(balancer.address()).await.unwrap();
        let (mut upstream, peer) = server.accept().await.unwrap();
        // On loopback the client's own socket holds its port; elsewhere the port is the client's too.
        assert_eq!(peer.ip(), client.local_addr().unwrap().ip());
        client.write_all(b"x").await.unwrap();
        assert_eq!(upstream.read_u8().await.unwrap(), b'x');
        upstream.write_all(b"y").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'y');
    }
    balancer.stop().await;
}

/// N3: an established connection stays where it is when the endpoints change.
#[tokio::test]
async fn established_connections_stay_over_changes() {
    let (server, address) = listener().await;
    let balancer = Balancer::start("tcp", &[address], |_| ()).await;
    let mut client = TcpStream::connect(balancer.address()).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    let other = numbered(9).await;
    balancer.endpoints(&[other]).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(upstream.read_u8().await.unwrap(), b'x');
    assert_eq!(ask([127, 0, 0, 1].into(), balancer.address()).await.unwrap(), 9);
    balancer.stop().await;
}

/// N8: a drain refuses new connections and lets the old one finish; then the instance ends.
#[tokio::test]
async fn a_drain_lets_a_connection_finish() {
    let (server, address) = listener().await;
    let balancer = Balancer::start("tcp", &[address], |_| ()).await;
    let to = balancer.address();
    let mut client = TcpStream::connect(to).await.unwrap();
    let (mut upstream, _) = server.accept().await.unwrap();
    // Connections that were shaken hands with before the socket closed are served: and closed.
    tokio::spawn(async move { while server.accept().await.is_ok() {} });
    balancer.options.lifecycle.drain();
    while TcpStream::connect(to).await.is_ok() {
        tokio::task::yield_now().await;
    }
    client.write_all(b"still here").await.unwrap();
    let mut bytes = [0; 10];
    upstream.read_exact(&mut bytes).await.unwrap();
    upstream.write_all(b"goodbye").await.unwrap();
    drop(upstream);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"goodbye");
    drop(client);
    balancer.running.finished().await.unwrap();
}

/// O3: a busy port is told with its place in the file and what to do, and nothing is left behind.
#[tokio::test]
async fn a_busy_port_is_told_with_its_place() {
    let (_holder, address) = listener().await;
    let mut topology = topology("tcp", &[address]);
    topology.nlbs[0].listeners[0].at.value = ListenAt::Address(address);
    let fault = l4_nlb::start(Arc::new(topology.clone()), "nlb-1", Options::new("nlb-1")).await;
    let Err(fault @ StartError::Bind { .. }) = fault else { panic!("{fault:?}") };
    let text = fault.to_string();
    assert!(text.starts_with("test.yaml:8:17 listener l: 127.0.0.1:"), "{text}");
    assert!(text.contains("is in use — stop what listens there"), "{text}");
    let unknown = l4_nlb::start(Arc::new(topology), "nlb-9", Options::new("nlb-9")).await;
    assert!(matches!(unknown, Err(StartError::Instance { .. })));
}

/// O1, O5: the admin listener shows readiness, flows, endpoints and counters.
#[tokio::test]
async fn the_admin_listener_answers() {
    let server = numbered(1).await;
    let mut topology = topology("tcp", &[server]);
    let group = &mut topology.nlbs[0];
    group.listeners[0].at.value = ListenAt::Instance(0);
    let place = topology::Place::default();
    group.instances[0].admin = Some(topology::At { value: "127.0.0.1:0".parse().unwrap(), place });
    let options = Options::new("nlb-1");
    let running = l4_nlb::start(Arc::new(topology), "nlb-1", options.clone()).await.unwrap();
    ask([127, 0, 0, 1].into(), running.listeners[0].1).await.unwrap();
    let admin = running.admin.unwrap();
    for (path, wanted) in [
        ("/livez", "ok"),
        ("/readyz", "ready"),
        ("/summary", "\"unit\":\"connections\""),
        ("/summary", "\"work_total\":1"),
        ("/metrics", "aqueduct_l4_connections_total{listener=\"l\"} 1"),
        ("/endpoints", "\"selectable\":true"),
        ("/config", "\"tier\":\"l4-nlb\""),
    ] {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(wanted), "{path}: {answer}");
    }
    options.lifecycle.stop();
    running.finished().await.unwrap();
}
