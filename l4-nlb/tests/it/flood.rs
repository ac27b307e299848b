//! A flood of forged clients against players who play.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;

use common::net::batch::{self, Outgoing};
use tokio::net::UdpSocket;

use crate::fakes::{Game, addresses};
use crate::instance::Balancer;

async fn player(address: Ipv4Addr, balancer: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).await.unwrap();
    socket.connect(balancer).await.unwrap();
    socket
}

/// One answer; asked again where the flood has pushed the question out of the kernel's queue, which
/// no balancer in user space can mend.
async fn insist(socket: &UdpSocket) -> u8 {
    for _ in 0..200 {
        socket.send(&[255, 1]).await.unwrap();
        let mut bytes = [0; 4];
        let patience = std::time::Duration::from_millis(100);
        if let Ok(heard) = tokio::time::timeout(patience, socket.recv(&mut bytes)).await {
            heard.unwrap();
            return bytes[0];
        }
    }
    panic!("nobody answers");
}

/// N3, N9: 200 000 forged clients push no confirmed flow out of a full table and leave room for
/// new players at once; no player meets another server. What memory they take is measured in a process
/// of its own: `make bench`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmed_flows_outlive_a_flood() {
    const CAP: u32 = 2000;
    let games = Game::start_many(3).await;
    let balancer = Balancer::start("udp", &addresses(&games), |listener| {
        listener.max_flows = NonZeroU32::new(CAP).unwrap();
    })
    .await;
    let to = balancer.address();
    let mut players = Vec::new();
    for number in 0..200_u8 {
        let socket = player(Ipv4Addr::new(127, 50, number, 1), to).await;
        let server = insist(&socket).await;
        // The second question confirms the flow.
        assert_eq!(insist(&socket).await, server);
        players.push((socket, server));
    }
    let moved = "aqueduct_l4_moved_total{listener=\"l\"}";
    let flood = tokio::task::spawn_blocking(move || {
        let forged = common::net::bind::udp(
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            common::net::bind::Reuse::No,
        )
        .unwrap();
        for client in 0..200_000_u32 {
            let from = Some(Ipv4Addr::from(0x7f80_0000 | client).into());
            // What does not fit into the queue is lost: that is what a flood does.
            let _lost = batch::send(&forged, &[Outgoing { bytes: b"x", to, from }]);
        }
    });
    for (socket, server) in &players {
        assert_eq!(insist(socket).await, *server, "during the flood");
    }
    flood.await.unwrap();
    for number in 0..100_u8 {
        insist(&player(Ipv4Addr::new(127, 51, number, 1), to).await).await;
    }
    for (socket, server) in &players {
        assert_eq!(insist(socket).await, *server, "after the flood");
    }
    let evicted = balancer.metric("aqueduct_l4_evicted_total{listener=\"l\"}");
    assert!(evicted > u64::from(CAP), "{evicted}");
    assert_eq!(balancer.metric(moved), 0);
    balancer.stop().await;
}
