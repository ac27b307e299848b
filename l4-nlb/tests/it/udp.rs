//! UDP through a running instance.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use common::net::proxy_protocol::{self, Addresses};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use topology::Balance;
use topology::l4::ProxyVersion;

use crate::fakes::{Game, addresses};
use crate::instance::Balancer;

/// A player at an address of its own.
struct Player(UdpSocket);

impl Player {
    async fn at(address: Ipv4Addr, balancer: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).await.unwrap();
        socket.connect(balancer).await.unwrap();
        Self(socket)
    }

    /// One question; the number of the server that answered. The socket is connected, so only
    /// an answer from the balancer's own address and port is heard.
    async fn ask(&self) -> Option<u8> {
        self.0.send(&[255, 1, 2, 3]).await.ok()?;
        let mut bytes = [0; 16];
        let heard = timeout(Duration::from_secs(20), self.0.recv(&mut bytes)).await.ok()?.ok()?;
        assert_eq!(&bytes[1..heard], &[1, 2, 3]);
        Some(bytes[0])
    }

    /// Asks until somebody answers: right after a death some datagrams are lost.
    async fn insist(&self) -> u8 {
        for _ in 0..200 {
            if let Some(number) = self.ask_soon().await {
                return number;
            }
        }
        panic!("nobody answers");
    }

    async fn ask_soon(&self) -> Option<u8> {
        self.0.send(&[255, 1, 2, 3]).await.ok()?;
        let mut bytes = [0; 16];
        timeout(Duration::from_millis(100), self.0.recv(&mut bytes)).await.ok()?.ok()?;
        Some(bytes[0])
    }
}

fn player_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 20, number, 7)
}

/// N2, N4: 60 client addresses over 3 servers: each address always reaches the same one, from any
/// port, and all servers have players.
#[tokio::test]
async fn a_player_reaches_the_same_server_from_any_port() {
    let games = Game::start_many(3).await;
    let balancer = Balancer::start("udp", &addresses(&games), |_| ()).await;
    let mut servers = HashMap::new();
    for round in 0..3 {
        for number in 0..60 {
            let player = Player::at(player_address(number), balancer.address()).await;
            let server = player.ask().await.unwrap();
            assert_eq!(*servers.entry(number).or_insert(server), server, "round {round}");
        }
    }
    let used: HashSet<u8> = servers.into_values().collect();
    assert_eq!(used.len(), 3);
    for direction in ["up", "down"] {
        let labels = format!("{{listener=\"l\",direction=\"{direction}\"}}");
        balancer.until(&format!("aqueduct_l4_datagrams_total{labels}"), 180).await;
    }
    balancer.stop().await;
}

/// N2: instances of a group agree without talking to each other.
#[tokio::test]
async fn instances_agree() {
    let games = Game::start_many(3).await;
    let one = Balancer::start("udp", &addresses(&games), |_| ()).await;
    let mut reversed = addresses(&games);
    reversed.reverse();
    let two = Balancer::start("udp", &reversed, |_| ()).await;
    for number in 0..40 {
        let a = Player::at(player_address(number), one.address()).await.ask().await;
        let b = Player::at(player_address(number), two.address()).await.ask().await;
        assert_eq!(a, b);
    }
    one.stop().await;
    two.stop().await;
}

/// N2, N3, N4: when a server dies (its port answers with ICMP) exactly its players move; when it
/// comes back, known flows stay where they are.
#[tokio::test]
async fn only_the_players_of_a_dead_server_move() {
    let mut games = Game::start_many(3).await;
    let balancer = Balancer::start("udp", &addresses(&games), |_| ()).await;
    let mut players = Vec::new();
    for number in 0..60 {
        let player = Player::at(player_address(number), balancer.address()).await;
        let server = player.ask().await.unwrap();
        players.push((player, server));
    }
    let its = players.iter().filter(|(_, server)| *server == 1).count();
    let address = games.remove(1).die().await;
    let mut moved = 0;
    let mut now_at = Vec::new();
    for (player, before) in &players {
        let server = player.insist().await;
        assert_ne!(server, 1);
        moved += usize::from(server != *before);
        assert!(server == *before || *before == 1, "a stranger to the death moved");
        now_at.push(server);
    }
    assert_eq!(moved, its);
    balancer.until("aqueduct_l4_moved_total{listener=\"l\"}", its as u64).await;

    let _revived = Game::revive(1, address).await;
    for ((player, _), before) in players.iter().zip(now_at) {
        assert_eq!(player.ask().await, Some(before));
    }
    balancer.stop().await;
}

/// N3: flows stay where they are when a server is added; new clients find it.
#[tokio::test]
async fn known_flows_stay_when_a_server_is_added() {
    let mut games = Game::start_many(2).await;
    let balancer = Balancer::start("udp", &addresses(&games), |_| ()).await;
    let mut players = Vec::new();
    for number in 0..40 {
        let player = Player::at(player_address(number), balancer.address()).await;
        let server = player.ask().await.unwrap();
        players.push((player, server));
    }
    games.push(Game::start(2).await);
    balancer.endpoints(&addresses(&games)).await;
    for (player, before) in &players {
        assert_eq!(player.ask().await, Some(*before));
    }
    let mut new = HashSet::new();
    for number in 100..160 {
        let player = Player::at(player_address(number), balancer.address()).await;
        new.insert(player.ask().await.unwrap());
    }
    assert!(new.contains(&2));

    // And one that is taken out loses its flows to the others, while the rest stay.
    balancer.endpoints(&addresses(&games[1..])).await;
    for (player, before) in &players {
        let server = player.ask().await.unwrap();
        assert!(server == *before || *before == 0);
        assert_ne!(server, 0);
    }
    balancer.stop().await;
}

/// N4: datagrams of every size pass unchanged both ways, empty ones too.
#[tokio::test]
async fn datagrams_of_every_size_pass() {
    let games = Game::start_many(1).await;
    let balancer = Balancer::start("udp", &addresses(&games), |_| ()).await;
    let player = Player::at([127, 0, 0, 1].into(), balancer.address()).await;
    let mut heard = vec![0; 65_536];
    for size in [0_usize, 1, 1200, 1472, 1473, 9000, 16_385, 65_507] {
        let sent: Vec<u8> = (0..size).map(|i| i as u8).collect();
        player.0.send(&sent).await.unwrap();
        let length = timeout(Duration::from_secs(5), player.0.recv(&mut heard)).await;
        assert_eq!(length.expect("an answer").unwrap(), size);
        assert_eq!(heard[..size].get(1..), sent.get(1..));
    }
    balancer.stop().await;
}

/// N4: a listener on all addresses answers from the one that the client sent to.
#[tokio::test]
async fn answers_come_from_the_address_that_was_asked() {
    let games = Game::start_many(2).await;
    let any = Ipv4Addr::UNSPECIFIED.into();
    let balancer = Balancer::start_on("udp", &addresses(&games), any, |_| ()).await;
    let port = balancer.address().port();
    let client = UdpSocket::bind("127.0.0.9:0").await.unwrap();
    for local in ["127.0.0.1", "127.4.5.6", "127.0.0.1"] {
        let to = SocketAddr::new(local.parse().unwrap(), port);
        client.send_to(b"xyz", to).await.unwrap();
        let mut bytes = [0; 16];
        let (_, from) = timeout(Duration::from_secs(5), client.recv_from(&mut bytes))
            .await
            .expect("an answer")
            .unwrap();
        assert_eq!(from, to);
    }
    balancer.stop().await;
}

/// N1: IPv6 on the client side, IPv4 behind.
#[tokio::test]
async fn ipv6_clients_reach_ipv4_servers() {
    let games = Game::start_many(2).await;
    let local = std::net::Ipv6Addr::LOCALHOST.into();
    let balancer = Balancer::start_on("udp", &addresses(&games), local, |_| ()).await;
    let client = UdpSocket::bind("[::1]:0").await.unwrap();
    client.connect(balancer.address()).await.unwrap();
    assert!(Player(client).ask().await.is_some());
    balancer.stop().await;
}

/// N4: a datagram from a stranger to an upstream socket reaches no client.
#[tokio::test]
async fn strangers_do_not_reach_clients() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let balancer = Balancer::start("udp", &[server.local_addr().unwrap()], |_| ()).await;
    let player = Player::at([127, 0, 0, 1].into(), balancer.address()).await;
    player.0.send(b"hello").await.unwrap();
    let mut bytes = [0; 16];
    let (_, upstream) = server.recv_from(&mut bytes).await.unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], upstream.port()));
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"forged", to).await.unwrap();
    server.send_to(b"true", upstream).await.unwrap();
    let length = player.0.recv(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..length], b"true", "the forged one came first and was dropped");
    balancer.until("aqueduct_l4_strangers_total{listener=\"l\"}", 1).await;
    balancer.stop().await;
}

/// N3: a full table gives up flows that were never answered before those that were.
#[tokio::test]
async fn a_full_table_keeps_confirmed_flows() {
    let games = Game::start_many(1).await;
    let balancer = Balancer::start("udp", &addresses(&games), |listener| {
        listener.max_flows = NonZeroU32::new(30).unwrap();
        listener.balance = Balance::FiveTuple;
    })
    .await;
    let mut players = Vec::new();
    for number in 0..10 {
        let player = Player::at(player_address(number), balancer.address()).await;
        player.ask().await.unwrap();
        player.ask().await.unwrap();
        players.push(player);
    }
    // One question each: none of these goes on after the answer.
    for _ in 0..200 {
        let guest = Player::at([127, 9, 9, 9].into(), balancer.address()).await;
        guest.ask().await.unwrap();
    }
    let before = balancer.metric("aqueduct_l4_evicted_total{listener=\"l\"}");
    // A guest whose port an earlier one had joins that one's flow, so not quite 180.
    assert!(before >= 150, "{before}");
    for player in &players {
        player.ask().await.unwrap();
    }
    let after = balancer.metric("aqueduct_l4_evicted_total{listener=\"l\"}");
    assert_eq!(after, before, "every player's flow was still there");
    balancer.stop().await;
}

/// N9: one address has at most its share of flows; others are not hurt.
#[tokio::test]
async fn one_source_has_its_bound() {
    let games = Game::start_many(1).await;
    let balancer = Balancer::start("udp", &addresses(&games), |listener| {
        listener.max_flows_per_source = NonZeroU32::new(2);
    })
    .await;
    let mut greedy = Vec::new();
    for _ in 0..3 {
        greedy.push(Player::at([127, 1, 1, 1].into(), balancer.address()).await);
    }
    assert!(greedy[0].ask().await.is_some() && greedy[1].ask().await.is_some());
    greedy[2].0.send(b"x").await.unwrap();
    let other = Player::at([127, 1, 1, 2].into(), balancer.address()).await;
    assert!(other.ask().await.is_some());
    balancer.until("aqueduct_l4_refused_total{listener=\"l\",reason=\"source\"}", 1).await;
    balancer.stop().await;
}

/// N8: a drain takes no new flow, and ends when the known ones are quiet.
#[tokio::test]
async fn a_drain_lets_known_flows_finish() {
    let games = Game::start_many(1).await;
    let balancer = Balancer::start("udp", &addresses(&games), |_| ()).await;
    let known = Player::at([127, 0, 0, 1].into(), balancer.address()).await;
    assert!(known.ask().await.is_some());
    balancer.options.lifecycle.drain();
    let refused = "aqueduct_l4_refused_total{listener=\"l\",reason=\"draining\"}";
    for port in 0..=u16::MAX {
        // Each one is new: the first may still come before the workers have heard of the drain.
        let new = Player::at([127, 0, 2, port as u8].into(), balancer.address()).await;
        let _closed = new.0.send(b"x").await;
        tokio::task::yield_now().await;
        if balancer.metric(refused) > 0 {
            break;
        }
    }
    assert!(known.ask().await.is_some());
    balancer.running.finished().await.unwrap();
}

/// An endpoint's side: what it heard and from whom.
async fn heard(server: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 2048];
    let patience = Duration::from_secs(5);
    let (length, peer) = timeout(patience, server.recv_from(&mut bytes)).await.unwrap().unwrap();
    bytes.truncate(length);
    (bytes, peer)
}

/// N6: every datagram carries the client's address to the endpoint; answers pass as they are.
#[tokio::test]
async fn a_header_names_the_client_of_each_datagram() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = [server.local_addr().unwrap()];
    let balancer = Balancer::start("udp", &endpoint, |listener| {
        listener.proxy_protocol = Some(ProxyVersion::V2);
    })
    .await;
    let player = Player::at(player_address(1), balancer.address()).await;
    for word in [&b"one"[..], b"", b"three"] {
        player.0.send(word).await.unwrap();
        let (bytes, upstream) = heard(&server).await;
        let header = proxy_protocol::parse_datagram(&bytes).unwrap();
        let addresses = header.addresses.unwrap();
        assert_eq!(addresses.source, player.0.local_addr().unwrap());
        assert_eq!(addresses.destination, balancer.address());
        assert_eq!(&bytes[header.length..], word);
        server.send_to(b"answer", upstream).await.unwrap();
        let mut answer = [0; 16];
        let length = player.0.recv(&mut answer).await.unwrap();
        assert_eq!(&answer[..length], b"answer");
    }
    balancer.stop().await;
}

/// N6, N9: a trusted peer's header is believed and required; nobody else's is; who is denied is
/// whom the header names.
#[tokio::test]
async fn only_a_trusted_peers_header_is_believed() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = [server.local_addr().unwrap()];
    let balancer = Balancer::start("udp", &endpoint, |listener| {
        listener.accept_proxy_from = vec!["127.77.0.0/16".parse().unwrap()];
        listener.deny = vec!["203.0.113.66/32".parse().unwrap()];
    })
    .await;
    let framed = |source: &str| {
        let (source, destination) = (source.parse().unwrap(), balancer.address());
        let mut bytes = Vec::new();
        proxy_protocol::v2_datagram(Addresses { source, destination }, &mut bytes);
        bytes.extend_from_slice(b"payload");
        bytes
    };
    let trusted = Player::at([127, 77, 0, 1].into(), balancer.address()).await;
    let stranger = Player::at([127, 78, 0, 1].into(), balancer.address()).await;
    trusted.0.send(b"no header").await.unwrap();
    trusted.0.send(&framed("203.0.113.66:9")[..20]).await.unwrap();
    balancer.until("aqueduct_l4_refused_total{listener=\"l\",reason=\"proxy-header\"}", 2).await;
    trusted.0.send(&framed("203.0.113.66:9")).await.unwrap();
    balancer.until("aqueduct_l4_refused_total{listener=\"l\",reason=\"denied\"}", 1).await;
    trusted.0.send(&framed("203.0.113.7:9")).await.unwrap();
    let (bytes, upstream) = heard(&server).await;
    assert_eq!(bytes, b"payload");
    server.send_to(b"back", upstream).await.unwrap();
    let mut answer = [0; 16];
    assert_eq!(trusted.0.recv(&mut answer).await.unwrap(), 4);
    let forged = framed("203.0.113.7:9");
    stranger.0.send(&forged).await.unwrap();
    assert_eq!(heard(&server).await.0, forged, "to a stranger's datagram it is payload");
    balancer.stop().await;
}

/// N9: new flows and datagrams of one client are bounded per second, other clients are not hurt.
#[tokio::test]
async fn one_client_has_its_pace() {
    let games = Game::start_many(1).await;
    let few = |count| {
        let per = Duration::from_secs(3600);
        Some(topology::units::Rate { count: NonZeroU32::new(count).unwrap(), per })
    };
    let balancer = Balancer::start("udp", &addresses(&games), |listener| {
        listener.new_flows_per_source = few(2);
        listener.packets_per_source = few(5);
    })
    .await;
    let greedy = player_address(1);
    let (one, two) = (
        Player::at(greedy, balancer.address()).await,
        Player::at(greedy, balancer.address()).await,
    );
    assert!(one.ask().await.is_some() && two.ask().await.is_some());
    let three = Player::at(greedy, balancer.address()).await;
    three.0.send(b"x").await.unwrap();
    balancer.until("aqueduct_l4_refused_total{listener=\"l\",reason=\"source-rate\"}", 1).await;
    assert!(one.ask().await.is_some() && two.ask().await.is_some(), "five in all");
    one.0.send(b"x").await.unwrap();
    balancer.until("aqueduct_l4_refused_total{listener=\"l\",reason=\"packets\"}", 1).await;
    let other = Player::at(player_address(2), balancer.address()).await;
    assert!(other.ask().await.is_some());
    balancer.stop().await;
}
