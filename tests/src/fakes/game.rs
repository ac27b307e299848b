//! A game server that answers every player with its name. Used by the tests.
//!
//! Invariant: dropped, its port is closed, as that of a killed process.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A running server.
#[derive(Debug)]
pub struct Game {
    task: JoinHandle<()>,
}

impl Game {
    /// Answers on `at` under `name`.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn start(at: SocketAddr, name: &str) -> Self {
        let socket = UdpSocket::bind(at).await.expect("the game's port");
        Self { task: tokio::spawn(answer(socket, name.into())) }
    }

    /// Ends it as SIGKILL would: its port is closed when this returns.
    pub async fn kill(mut self) {
        self.task.abort();
        // The task ends as cancelled, which is what was asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Game {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(socket: UdpSocket, name: Arc<str>) {
    let mut datagram = [0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
        let answer = reply(&datagram[..length], &name);
        // The player may be gone.
        let _ = socket.send_to(&answer, from).await;
    }
}

fn reply(datagram: &[u8], name: &str) -> Vec<u8> {
    let header = datagram.strip_prefix(b"AQ1").and_then(|rest| rest.get(..20));
    let Some(header) = header else { return format!("pong {name}").into_bytes() };
    let length = u8::try_from(name.len()).expect("a short name");
    let mut answer = [b"AQ2", header, &[length], name.as_bytes()].concat();
    answer.resize(answer.len().max(datagram.len()), 0);
    answer
}
