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
mod tests {
    use super::*;

    fn step(player: u32, sequence: u64, size: usize) -> Vec<u8> {
        let mut datagram = b"AQ1".to_vec();
        datagram.extend_from_slice(&player.to_be_bytes());
        datagram.extend_from_slice(&sequence.to_be_bytes());
        datagram.extend_from_slice(&7_u64.to_be_bytes());
        datagram.resize(datagram.len().max(size), 0);
        datagram
    }

    /// T10: a move comes back with the server's name and the client's own numbers.
    #[test]
    fn a_move_is_echoed_with_the_name_and_remembered() {
        let from = "127.0.0.1:9".parse().expect("valid");
        let (mut game, mut out) = (Game::new("game-1"), Vec::new());
        let datagram = step(42, 5, 100);
        game.reply(&datagram, from, &mut out);
        assert_eq!(&out[..3], b"AQ2");
        assert_eq!(&out[3..23], &datagram[3..23]);
        assert_eq!(out[23], 6);
        assert_eq!(&out[24..30], b"game-1");
        assert_eq!(out.len(), 100);
        game.reply(&step(42, 3, 0), from, &mut out);
        assert_eq!(out.len(), 30);
        assert_eq!(game.players[&42], Player { from, newest: 5, datagrams: 2 });
    }

    #[test]
    fn its_counts_can_be_asked_for() {
        let from = "127.0.0.1:9".parse().expect("valid");
        let (mut game, mut out) = (Game::new("game-1"), Vec::new());
        for player in [1, 2, 2] {
            game.reply(&step(player, 1, 0), from, &mut out);
        }
        game.reply(b"AQ?", from, &mut out);
        assert_eq!(out, b"AQ! 2 3 game-1");
    }

    #[test]
    fn anything_else_is_echoed_behind_the_name_and_ping_is_answered() {
        let from = "127.0.0.1:9".parse().expect("valid");
        let (mut game, mut out) = (Game::new("g"), Vec::new());
        for (sent, expected) in
            [(&b"ping"[..], &b"pong g"[..]), (b"AQ1short", b"g:AQ1short"), (b"", b"g:")]
        {
            game.reply(sent, from, &mut out);
            assert_eq!(out, expected);
        }
        assert!(game.players.is_empty());
    }

    #[tokio::test]
    async fn replies_come_from_the_address_that_was_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let at = server.local_addr().expect("bound");
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let mut game = Game::new("game-2");
        client.send_to(b"ping", at).await.expect("sent");
        let mut reply = [0; 64];
        let (length, from) = tokio::select! {
            () = game.play(&server) => unreachable!("play never ends"),
            received = client.recv_from(&mut reply) => received.expect("a reply"),
        };
        assert_eq!((&reply[..length], from), (&b"pong game-2"[..], at));
    }
}
