//! Hand-overs between real processes while traffic runs.

use std::net::SocketAddr;

use nix::sys::signal::Signal;
use tokio::net::{TcpStream, UdpSocket};

use crate::name_server::name_server;
use crate::process::Program;
use crate::reload::{ask, call, echo, free};

/// A game server that answers with its number and the port that the question came from.
async fn game(number: u8) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes).await {
            let [high, low] = peer.port().to_be_bytes();
            let _full = socket.send_to(&[number, high, low], peer).await;
        }
    });
    address
}

struct Addresses {
    udp: SocketAddr,
    tcp: SocketAddr,
    games: Vec<SocketAddr>,
    web: SocketAddr,
}

impl Addresses {
    async fn new() -> Self {
        let games = vec![game(0).await, game(1).await, game(2).await];
        Self { udp: free().await, tcp: free().await, games, web: echo().await }
    }

    fn file(&self, more: &str) -> String {
        let games: Vec<String> = self.games.iter().map(ToString::to_string).collect();
        format!(
            "services:\n  game: {{ endpoints: [{}] }}\n  web: {{ endpoints: [{}] }}\nnlbs:\n  edge:\n    \
             instances: {{ nlb-1: {{ address: 127.0.0.1 }} }}\n    listeners:\n      game: {{ udp: \"{}\", \
             to: game }}\n      web: {{ tcp: \"{}\", to: web }}\n{more}",
            games.join(", "),
            self.web,
            self.udp,
            self.tcp
        )
    }
}

struct Player(UdpSocket);

impl Player {
    async fn at(number: u8, balancer: SocketAddr) -> Self {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 40, number, 1], 0))).await.unwrap();
        socket.connect(balancer).await.unwrap();
        Self(socket)
    }

    /// Which server answers, and from which port it was asked. A lost datagram fails the test.
    async fn ask(&self) -> [u8; 3] {
        self.0.send(b"where").await.unwrap();
        let mut bytes = [0; 3];
        let patience = std::time::Duration::from_secs(20);
        let heard = tokio::time::timeout(patience, self.0.recv(&mut bytes)).await;
        assert_eq!(heard.expect("not lost").unwrap(), 3);
        bytes
    }
}

/// N11, N3: ten upgrades under traffic: no datagram and no connection is lost, no flow changes its
/// endpoint or the port it is seen from, old connections finish in the process that has them.
#[tokio::test]
async fn ten_upgrades_lose_nothing() {
    let addresses = Addresses::new().await;
    let mut program = Program::start(&addresses.file(""), 2).await;
    let mut players = Vec::new();
    for number in 0..20 {
        let player = Player::at(number, addresses.udp).await;
        let seen = player.ask().await;
        players.push((player, seen));
    }
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(addresses.tcp).await.unwrap();
        ask(&mut stream).await;
        streams.push(stream);
        let before = program.process;
        let traffic = async {
            for _ in 0..20 {
                for (player, seen) in &players {
                    assert_eq!(player.ask().await, *seen);
                }
                ask(&mut TcpStream::connect(addresses.tcp).await.unwrap()).await;
            }
        };
        let ((), ()) = tokio::join!(program.upgrade(), traffic);
        assert_ne!(program.process, before);
        for (player, seen) in &players {
            assert_eq!(player.ask().await, *seen);
        }
        for stream in &mut streams {
            ask(stream).await;
        }
    }
    drop(streams);
    drop(players);
    program.end().await;
}

/// N11, O5: a new program that does not start leaves the old one serving; so does one whose file is
/// broken, and the file's messages say why.
#[tokio::test]
async fn a_failed_upgrade_changes_nothing() {
    let addresses = Addresses::new().await;
    let mut program = Program::start(&addresses.file(""), 1).await;
    let player = Player::at(1, addresses.udp).await;
    let seen = player.ask().await;
    program.write("nlbs: [");
    program.signal(Signal::SIGUSR2);
    program.hear("upgrade failed, going on").await;
    assert_eq!(player.ask().await, seen);
    ask(&mut TcpStream::connect(addresses.tcp).await.unwrap()).await;
    // And the next one, with a good file, is done.
    program.write(&addresses.file(""));
    program.upgrade().await;
    assert_eq!(player.ask().await, seen);
    program.end().await;
}

/// N11, T9: a new process that reads a changed file serves what is new in it, and the flows that the
/// two have in common.
#[tokio::test]
async fn an_upgrade_may_change_the_file() {
    let addresses = Addresses::new().await;
    let mut program = Program::start(&addresses.file(""), 2).await;
    let player = Player::at(1, addresses.udp).await;
    let seen = player.ask().await;
    let more = free().await;
    program.write(&addresses.file(&format!("      more: {{ tcp: \"{more}\", to: web }}\n")));
    program.upgrade().await;
    assert_eq!(player.ask().await, seen);
    ask(&mut TcpStream::connect(more).await.unwrap()).await;
    program.end().await;
}

/// T9, O3: SIGHUP applies a changed file; a broken one is refused with its own messages while the
/// old configuration serves on. SIGUSR1, for log files, ends nothing.
#[tokio::test]
async fn hup_reloads_or_refuses() {
    let addresses = Addresses::new().await;
    let mut program = Program::start(&addresses.file(""), 1).await;
    let mut old = TcpStream::connect(addresses.tcp).await.unwrap();
    ask(&mut old).await;
    program.write("services: { a: { endpoints: [nowhere] } }\n");
    program.signal(Signal::SIGUSR1);
    program.signal(Signal::SIGHUP);
    let refused = program.hear("reload refused").await.to_string();
    assert!(refused.contains("edge.yaml:1:30"), "{refused}");
    ask(&mut TcpStream::connect(addresses.tcp).await.unwrap()).await;
    let more = free().await;
    program.write(&addresses.file(&format!("      more: {{ tcp: \"{more}\", to: web }}\n")));
    program.signal(Signal::SIGHUP);
    program.hear("reloaded").await;
    ask(&mut TcpStream::connect(more).await.unwrap()).await;
    ask(&mut old).await;
    drop(old);
    program.end().await;
}

/// N11, D1, O1: endpoints that DNS has named stay known over an upgrade even when DNS no longer
/// answers, with the flows to them; so does what an operator has set.
#[tokio::test]
async fn found_endpoints_and_wishes_survive_an_upgrade() {
    let (endpoint, listener, admin) = (game(7).await, free().await, free().await);
    let (resolver, names) = name_server().await;
    names.send_replace(Some(endpoint.port()));
    let mut program = Program::start(
        &format!(
            "services:\n  game: {{ discover: {{ srv: _game._udp.example, resolver: \"{resolver}\", \
             refresh-floor: 1h }} }}\nnlbs:\n  edge:\n    instances: {{ nlb-1: {{ address: 127.0.0.1, admin: \
             \"{admin}\" }} }}\n    listeners: {{ game: {{ udp: \"{listener}\", to: game }} }}\n"
        ),
        2,
    )
    .await;
    while !call(admin, "GET", "/endpoints").await.contains(&endpoint.to_string()) {
        tokio::task::yield_now().await;
    }
    let player = Player::at(1, listener).await;
    let seen = player.ask().await;
    let shown = call(admin, "GET", "/endpoints").await;
    let name = shown.split("\"name\":\"").nth(1).unwrap().split('"').next().unwrap();
    let wished = call(admin, "POST", &format!("/endpoints/game/{name}/drain")).await;
    assert!(wished.starts_with("HTTP/1.1 200"), "{wished}");
    names.send_replace(None);
    program.upgrade().await;
    assert_eq!(player.ask().await, seen);
    let shown = call(admin, "GET", "/endpoints").await;
    assert!(shown.contains("\"condition\":\"draining\""), "{shown}");
    program.end().await;
}
