//! Changes of the file while traffic runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use l4_nlb::{Change, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use topology::Topology;

use crate::fakes::{Game, addresses};
use crate::instance::Balancer;
use crate::name_server::name_server;

/// Listeners by name, protocol and address, all to one service.
fn file(listeners: &[(&str, &str, SocketAddr)], endpoints: &[SocketAddr]) -> Topology {
    let line = |(name, protocol, at): &(&str, &str, SocketAddr)| {
        format!("      {name}: {{ {protocol}: \"{at}\", to: s }}\n")
    };
    let endpoints: Vec<String> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    let text = format!(
        "services:\n  s: {{ endpoints: [{}] }}\nnlbs:\n  edge:\n    instances: {{ nlb-1: {{ address: \
         127.0.0.1 }} }}\n    listeners:\n{}",
        endpoints.join(", "),
        listeners.iter().map(line).collect::<String>()
    );
    topology::parse("test.yaml", &text, Path::new(".")).unwrap()
}

/// An address that nobody has, and that no flow of another test is given meanwhile: the ports that
/// the kernel gives away by itself begin at 32768 (ip(7), `ip_local_port_range`).
pub(crate) async fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Relaxed).wrapping_add(std::process::id().wrapping_mul(61));
        let port = 10_000 + u16::try_from(number % 22_000).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(at).await.is_ok() && UdpSocket::bind(at).await.is_ok() {
            return at;
        }
    }
}

/// An endpoint that sends back what it gets.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

pub(crate) async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"word").await.unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"word");
}

/// T9, N1: listeners come and go while an old connection of each goes on; the sockets of those that
/// stay are not touched.
#[tokio::test]
async fn listeners_come_and_go() {
    let endpoint = [echo().await];
    let (first, second) = (free().await, free().await);
    let balancer = Balancer::start_with(file(&[("one", "tcp", first)], &endpoint)).await;
    let mut old = TcpStream::connect(first).await.unwrap();
    ask(&mut old).await;

    let handle = balancer.running.handle();
    let both = file(&[("two", "tcp", second), ("one", "tcp", first)], &endpoint);
    let change = handle.publish(Arc::new(both)).await.unwrap();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = Change { added: names(&["two"]), kept: names(&["one"]), ..Change::default() };
    assert_eq!(change, expected);
    let mut new = TcpStream::connect(second).await.unwrap();
    ask(&mut new).await;
    ask(&mut old).await;

    let last = file(&[("two", "tcp", second)], &endpoint);
    let change = handle.publish(Arc::new(last)).await.unwrap();
    assert_eq!((change.removed, change.kept), (names(&["one"]), names(&["two"])));
    ask(&mut old).await;
    ask(&mut new).await;
    // The workers let the old sockets go soon; connections that they still took are served.
    while let Ok(mut stream) = TcpStream::connect(first).await {
        let mut word = *b"word";
        if stream.write_all(&word).await.is_err() || stream.read_exact(&mut word).await.is_err() {
            // It came between the last look and the end; other workers' sockets may be open still.
            continue;
        }
        tokio::task::yield_now().await;
    }
    ask(&mut old).await;
    // And its address is free again.
    let back = file(&[("three", "tcp", first), ("two", "tcp", second)], &endpoint);
    let change = handle.publish(Arc::new(back)).await.unwrap();
    assert_eq!(change.added, names(&["three"]));
    ask(&mut TcpStream::connect(first).await.unwrap()).await;
    balancer.stop().await;
}

/// T9: an address that was given up a moment ago can be had again at once, though its old sockets may
/// still be closing.
#[tokio::test]
async fn a_closed_address_opens_again_at_once() {
    let endpoint = [echo().await];
    let (first, second) = (free().await, free().await);
    let (one, both) = (
        file(&[("one", "tcp", first)], &endpoint),
        file(&[("one", "tcp", first), ("two", "tcp", second)], &endpoint),
    );
    let (one, both) = (Arc::new(one), Arc::new(both));
    let balancer = Balancer::start_with((*both).clone()).await;
    let handle = balancer.running.handle();
    for _ in 0..50 {
        handle.publish(Arc::clone(&one)).await.unwrap();
        handle.publish(Arc::clone(&both)).await.unwrap();
    }
    ask(&mut TcpStream::connect(second).await.unwrap()).await;
    balancer.stop().await;
}

/// T9, O5: a change that cannot be made changes nothing, and says where.
#[tokio::test]
async fn a_change_that_fails_changes_nothing() {
    let endpoint = [echo().await];
    let (first, free) = (free().await, free().await);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy = taken.local_addr().unwrap();
    let balancer = Balancer::start_with(file(&[("one", "tcp", first)], &endpoint)).await;
    let wanted = [("new", "tcp", free), ("busy", "tcp", busy)];
    let fault = balancer.running.handle().publish(Arc::new(file(&wanted, &endpoint))).await;
    let fault = fault.unwrap_err();
    assert!(matches!(fault, StartError::Bind { .. }), "{fault}");
    assert!(fault.to_string().starts_with("test.yaml:8:20 listener busy: "), "{fault}");
    ask(&mut TcpStream::connect(first).await.unwrap()).await;
    assert!(TcpStream::connect(free).await.is_err(), "not bound for good");
    balancer.stop().await;
}

/// T9: a hundred changes under traffic lose no datagram and no connection, and move no flow.
#[tokio::test]
async fn a_hundred_reloads_lose_nothing() {
    let games = Game::start_many(3).await;
    let web = echo().await;
    let (udp, tcp) = (free().await, free().await);
    let mut endpoints = addresses(&games);
    let both = move |endpoints: &[SocketAddr]| {
        let mut topology = file(&[("game", "udp", udp), ("web", "tcp", tcp)], endpoints);
        let mut echo = file(&[("web", "tcp", tcp)], &[web]).nlbs[0].listeners[0].targets.clone();
        echo[0].to.name = topology::ServiceName::new("web");
        topology.nlbs[0].listeners[1].targets = echo;
        topology
    };
    let balancer = Balancer::start_with(both(&endpoints)).await;
    let mut players = Vec::new();
    for number in 0..30 {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 30, number, 1], 0))).await.unwrap();
        socket.connect(udp).await.unwrap();
        let server = answer(&socket).await;
        players.push((socket, server));
    }
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    let extra = Game::start(9).await;
    for round in 0..100 {
        // A server more, a server less, and the list the other way round.
        if round % 2 == 0 {
            endpoints.push(extra.address);
        } else {
            endpoints.pop().unwrap();
        }
        let mut listed = endpoints.clone();
        if round % 3 == 0 {
            listed.reverse();
        }
        let handle = balancer.running.handle();
        let change = tokio::spawn(async move { handle.publish(Arc::new(both(&listed))).await });
        for (socket, server) in &players {
            assert_eq!(answer(socket).await, *server, "round {round}");
        }
        ask(&mut stream).await;
        ask(&mut TcpStream::connect(tcp).await.unwrap()).await;
        change.await.unwrap().unwrap();
    }
    assert_eq!(balancer.metric("aqueduct_l4_moved_total{listener=\"game\"}"), 0);
    assert_eq!(balancer.metric("aqueduct_reloads_total{outcome=\"applied\"}"), 100);
    balancer.stop().await;
}

/// The number of the server that answers.
async fn answer(socket: &UdpSocket) -> u8 {
    socket.send(&[255, 1]).await.unwrap();
    let mut bytes = [0; 4];
    let patience = std::time::Duration::from_secs(20);
    let heard = tokio::time::timeout(patience, socket.recv(&mut bytes)).await;
    let length = heard.expect("not lost").unwrap();
    assert_eq!(length, 2);
    bytes[0]
}

/// D1, N1: a listener whose service is found by DNS starts without endpoints, refuses meanwhile, and
/// serves once the name resolves; a changed answer moves new connections and keeps old ones.
#[tokio::test]
async fn a_service_is_found_by_name() {
    let (first, second) = (echo().await, echo().await);
    let (resolver, change) = name_server().await;
    let at = free().await;
    let text = format!(
        "services:\n  s: {{ discover: {{ srv: _web._tcp.example, resolver: \"{resolver}\", refresh-floor: 1ms }} }}\nnlbs:\n  \
         edge:\n    instances: {{ nlb-1: {{ address: 127.0.0.1 }} }}\n    listeners:\n      web: {{ tcp: \"{at}\", to: s }}\n"
    );
    let topology = topology::parse("test.yaml", &text, Path::new(".")).unwrap();
    let balancer = Balancer::start_with(topology).await;
    // The reset may be there before the connection is.
    if let Ok(mut refused) = TcpStream::connect(at).await {
        assert!(refused.read_u8().await.is_err());
    }
    change.send_replace(Some(first.port()));
    let found = |address: SocketAddr| format!("\"address\":\"{address}\"");
    balancer.until_shown(&found(first)).await;
    let mut old = TcpStream::connect(at).await.unwrap();
    ask(&mut old).await;
    change.send_replace(Some(second.port()));
    balancer.until_shown(&found(second)).await;
    ask(&mut TcpStream::connect(at).await.unwrap()).await;
    ask(&mut old).await;
    balancer.stop().await;
}

/// D3: an endpoint that leaves a list gets no new flow from any worker; flows of one that stays go on there, and so
/// does everything of another service.
#[tokio::test]
async fn who_has_left_a_list_is_asked_by_no_worker() {
    let games = Game::start_many(2).await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("s.yaml");
    let name = |games: &[Game]| {
        let named: Vec<String> = addresses(games).iter().map(|at| format!("\"{at}\"")).collect();
        let fresh = list.with_extension("new");
        std::fs::write(&fresh, format!("endpoints: [{}]", named.join(", "))).unwrap();
        std::fs::rename(&fresh, &list).unwrap();
    };
    name(&games);
    let (found, fixed) = (free().await, free().await);
    let [first, second] = [0, 1].map(|at| addresses(&games)[at]);
    let text = format!(
        "services:\n  s: {{ discover: {{ file: \"{}\" }} }}\n  t: {{ endpoints: [\"{first}\", \"{second}\"] }}\nnlbs:\n  \
         edge:\n    instances: {{ nlb-1: {{ address: 127.0.0.1 }} }}\n    listeners:\n      found: {{ udp: \"{found}\", to: s }}\n      \
         fixed: {{ udp: \"{fixed}\", to: t }}\n",
        list.display()
    );
    let balancer =
        Balancer::start_with(topology::parse("test.yaml", &text, Path::new(".")).unwrap()).await;
    // In so many tables.
    let until = async |count: usize| {
        let address = format!("\"address\":\"{first}\"");
        while balancer.running.endpoints().to_string().matches(&address).count() != count {
            tokio::task::yield_now().await;
        }
    };
    let player = async |number: u8, to: SocketAddr| {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 33, number, 1], 0))).await.unwrap();
        socket.connect(to).await.unwrap();
        let server = answer(&socket).await;
        (socket, server)
    };
    until(2).await;
    let mut players = Vec::new();
    for number in 0..20 {
        players.push((player(number, found).await, found));
        players.push((player(number, fixed).await, fixed));
    }
    name(&games[1..]);
    until(1).await;
    for number in 20..60 {
        assert_eq!(player(number, found).await.1, 1, "nothing new for one that has left");
    }
    for ((socket, server), to) in &players {
        if *server == 1 || *to == fixed {
            assert_eq!(answer(socket).await, *server, "what stays is not touched");
        }
    }
    balancer.stop().await;
}

/// O1, N8: an operator drains, weighs and enables an endpoint over the admin listener; what it has is
/// not touched, a hashed listener's table follows, and a reload keeps the wish.
#[tokio::test]
async fn an_operator_adjusts_endpoints() {
    let games = Game::start_many(2).await;
    let (udp, admin) = (free().await, free().await);
    let mut topology = file(&[("game", "udp", udp)], &addresses(&games));
    topology.nlbs[0].instances[0].admin =
        Some(topology::At { value: admin, place: topology::Place::default() });
    let balancer = Balancer::start_with(topology.clone()).await;
    let mut players = Vec::new();
    for number in 0..20 {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 31, number, 1], 0))).await.unwrap();
        socket.connect(udp).await.unwrap();
        let server = answer(&socket).await;
        players.push((socket, server));
    }
    let path = format!("/endpoints/s/{}", games[0].address);
    assert!(call(admin, "POST", &format!("{path}/drain")).await.starts_with("HTTP/1.1 200"));
    balancer.until_shown("\"condition\":\"draining\"").await;
    balancer.running.handle().publish(Arc::new(topology)).await.unwrap();
    let new = |number: u8| async move {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 32, number, 1], 0))).await.unwrap();
        socket.connect(udp).await.unwrap();
        answer(&socket).await
    };
    for number in 0..20 {
        assert_eq!(new(number).await, 1, "nothing new for a draining one");
        assert_eq!(answer(&players[usize::from(number)].0).await, players[usize::from(number)].1);
    }
    assert!(call(admin, "POST", &format!("{path}/enable")).await.starts_with("HTTP/1.1 200"));
    assert!(
        call(admin, "POST", &format!("{path}/weight?value=1000")).await.starts_with("HTTP/1.1 200")
    );
    balancer.until_shown("\"weight\":1000").await;
    while !call(admin, "GET", "/config").await.contains("0.99") {
        tokio::task::yield_now().await;
    }
    let mut first = 0;
    for number in 40..60 {
        first += usize::from(new(number).await == 0);
    }
    assert!(first >= 18, "{first} of 20 at a thousand to one");
    for (what, status) in [
        ("POST /endpoints/s/nobody/drain", "404"),
        ("POST /endpoints/s/x/explode", "400"),
        ("POST /endpoints/s/x/weight?value=70000", "400"),
        ("GET /endpoints/s/x/drain", "404"),
    ] {
        let (method, path) = what.split_once(' ').unwrap();
        let reply = call(admin, method, path).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {reply}");
    }
    balancer.stop().await;
}

/// O1: an operator sees which flows carried most, of UDP and TCP, and how much each way.
#[tokio::test]
async fn an_operator_sees_who_talks_most() {
    let games = Game::start_many(2).await;
    let (udp, admin) = (free().await, free().await);
    let mut topology = file(&[("game", "udp", udp)], &addresses(&games));
    topology.nlbs[0].instances[0].admin =
        Some(topology::At { value: admin, place: topology::Place::default() });
    let balancer = Balancer::start_with(topology).await;
    let mut loudest = None;
    for questions in 1..=5 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(udp).await.unwrap();
        for _ in 0..questions {
            answer(&socket).await;
        }
        loudest = Some(socket.local_addr().unwrap());
    }
    let reply = call(admin, "GET", "/flows?most=2").await;
    let flows: serde_json::Value =
        serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(flows.as_array().unwrap().len(), 2, "{flows}");
    assert_eq!(flows[0]["client"], loudest.unwrap().to_string());
    assert_eq!((&flows[0]["bytes_up"], &flows[1]["bytes_up"]), (&10.into(), &8.into()), "{flows}");
    assert_eq!(flows[0]["bytes_down"], 10);
    assert!(call(admin, "GET", "/flows?most=0").await.starts_with("HTTP/1.1 400"));
    balancer.stop().await;
}

/// One HTTP exchange, whole.
pub(crate) async fn call(admin: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}
