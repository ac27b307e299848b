//! The game server: answers every player's datagram with its own name, so that a client sees which
//! server it reached; `ping` is answered by `pong NAME`, `AQ?` by `AQ! PLAYERS DATAGRAMS NAME`. Not
//! a game. Run by `main`.
//!
//! Invariant: one datagram in, at most one out, never longer than the larger of the request and
//! the protocol's own head with the name.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::options::GameArgs;
use crate::shutdown::{asked, say};

/// Answers until TERM or INT.
pub(crate) async fn run(args: GameArgs) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(args.listen)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {} (UDP): {error}", args.listen))?;
    say(&format!("{} listens on {} (UDP)", args.name, socket.local_addr()?));
    let mut game = Game::new(&args.name);
    tokio::select! {
        () = game.play(&socket) => {}
        asked = asked() => asked?,
    }
    say(&format!("{}: {} players, {} datagrams", args.name, game.players.len(), game.datagrams));
    Ok(())
}

/// The players of this server.
struct Game {
    name: Vec<u8>,
    players: HashMap<u32, Player>,
    datagrams: u64,
}

/// What is known of one player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Player {
    /// Where the newest datagram came from.
    from: SocketAddr,
    /// The highest sequence number seen.
    newest: u64,
    /// Datagrams so far.
    datagrams: u64,
}

impl Game {
    fn new(name: &str) -> Self {
        Self { name: name.as_bytes().to_vec(), players: HashMap::new(), datagrams: 0 }
    }

    /// Receives and answers for ever; cancel safe between datagrams.
    async fn play(&mut self, socket: &UdpSocket) {
        let mut request = vec![0; 65_536];
        let mut reply = Vec::with_capacity(65_536);
        loop {
            match socket.recv_from(&mut request).await {
                Ok((length, from)) => {
                    let datagram = request.get(..length).unwrap_or_default();
                    self.reply(datagram, from, &mut reply);
                    // A full send buffer loses the reply, as the network would.
                    drop(socket.try_send_to(&reply, from));
                }
                // An ICMP error of an earlier reply; bounded in case it is anything lasting.
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Writes the answer to one datagram.
    fn reply(&mut self, datagram: &[u8], from: SocketAddr, out: &mut Vec<u8>) {
        out.clear();
        if datagram == b"ping" {
            out.extend_from_slice(b"pong ");
            out.extend_from_slice(&self.name);
            return;
        }
        if datagram == b"AQ?" {
            let counts = format!("AQ! {} {} ", self.players.len(), self.datagrams);
            out.extend_from_slice(counts.as_bytes());
            out.extend_from_slice(&self.name);
            return;
        }
        self.datagrams += 1;
        match Move::parse(datagram) {
            Some(step) => {
                self.note(step, from);
                out.extend_from_slice(b"AQ2");
                out.extend_from_slice(datagram.get(3..Move::HEAD).unwrap_or_default());
                out.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
                out.extend_from_slice(&self.name);
                out.resize(out.len().max(datagram.len()), 0);
            }
            None => {
                out.extend_from_slice(&self.name);
                out.push(b':');
                out.extend_from_slice(datagram);
            }
        }
    }

    fn note(&mut self, step: Move, from: SocketAddr) {
        if self.players.len() >= MOST_PLAYERS && !self.players.contains_key(&step.player) {
            return;
        }
        let new = Player { from, newest: step.sequence, datagrams: 0 };
        let player = self.players.entry(step.player).or_insert(new);
        player.from = from;
        player.newest = player.newest.max(step.sequence);
        player.datagrams += 1;
    }
}

/// The head of a player's datagram: `AQ1`, player, sequence, client's nanoseconds, big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Move {
    player: u32,
    sequence: u64,
}

impl Move {
    const HEAD: usize = 23;

    fn parse(datagram: &[u8]) -> Option<Self> {
        let rest = datagram.strip_prefix(b"AQ1")?;
        let (player, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        rest.first_chunk::<8>()?;
        Some(Self { player: u32::from_be_bytes(*player), sequence: u64::from_be_bytes(*sequence) })
    }
}

const MOST_PLAYERS: usize = 100_000;

#[cfg(test)]
#[path = "game/tests.rs"]
mod tests;
