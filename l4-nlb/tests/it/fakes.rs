//! Endpoints that say who they are. Not for anything a real game server or web server does more.
//!
//! Invariant: each runs on the test's runtime and ends with its handle.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A game server: answers every datagram with its number and the datagram.
pub(crate) struct Game {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Game {
    pub(crate) async fn start(number: u8) -> Self {
        Self::serve(number, UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    /// Comes back at the address of one that died.
    pub(crate) async fn revive(number: u8, address: SocketAddr) -> Self {
        Self::serve(number, UdpSocket::bind(address).await.unwrap())
    }

    fn serve(number: u8, socket: UdpSocket) -> Self {
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut bytes = vec![0; 65_536];
            while let Ok((length, peer)) = socket.recv_from(&mut bytes).await {
                // The number takes the place of the first byte, so that the size stays.
                if let Some(first) = bytes[..length].first_mut() {
                    *first = number;
                }
                let _full = socket.send_to(&bytes[..length], peer).await;
            }
        });
        Self { address, task }
    }

    pub(crate) async fn start_many(count: u8) -> Vec<Self> {
        let mut games = Vec::new();
        for number in 0..count {
            games.push(Self::start(number).await);
        }
        games
    }

    /// Closes its socket: from now on the kernel answers that nobody is there.
    pub(crate) async fn die(self) -> SocketAddr {
        self.task.abort();
        let _aborted = self.task.await;
        self.address
    }
}

pub(crate) fn addresses(games: &[Game]) -> Vec<SocketAddr> {
    games.iter().map(|game| game.address).collect()
}
