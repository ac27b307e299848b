//! Game players: each has an address of its own and remembers which server answered. Used by the
//! tests.
//!
//! Invariant: a player counts only answers to what it sent.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// One player.
#[derive(Debug)]
pub struct Player {
    number: u32,
    socket: UdpSocket,
    sent: u64,
    answered: BTreeSet<u64>,
    /// The server of each answer, in order of arrival.
    pub servers: Vec<String>,
}

impl Player {
    /// Joins from 127.200.0.0/16; `number` makes the address.
    ///
    /// # Panics
    /// When there is no socket.
    pub async fn join(number: u16, game: SocketAddr) -> Self {
        let [high, low] = number.to_be_bytes();
        let from = IpAddr::from(Ipv4Addr::new(127, 200, high, low));
        let socket = UdpSocket::bind((from, 0)).await.expect("a player's socket");
        socket.connect(game).await.expect("a way to the game");
        Self {
            number: number.into(),
            socket,
            sent: 0,
            answered: BTreeSet::new(),
            servers: Vec::new(),
        }
    }

    /// Sends the next packet.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub async fn send(&mut self) {
        let mut packet = b"AQ1".to_vec();
        packet.extend(self.number.to_be_bytes());
        packet.extend(self.sent.to_be_bytes());
        packet.extend([0; 65]);
        self.socket.send(&packet).await.expect("a packet that leaves");
        self.sent += 1;
    }

    /// Takes answers until at most `most` are missing, but not beyond `deadline`.
    pub async fn listen(&mut self, most: u64, deadline: Instant) {
        let mut answer = [0; 2048];
        let heard = async {
            while self.lost() > most {
                let Ok(length) = self.socket.recv(&mut answer).await else { continue };
                self.hear(&answer[..length]);
            }
        };
        // What is missing at the deadline is lost, which the caller sees.
        let _ = timeout_at(deadline, heard).await;
    }

    /// Sends one packet after the other until one is answered; the server that did.
    ///
    /// # Panics
    /// When none is within 20 s.
    pub async fn ask(&mut self) -> String {
        let first = self.sent;
        for _ in 0..200 {
            self.send().await;
            let until = Instant::now() + Duration::from_millis(100);
            let mut answer = [0; 2048];
            while let Ok(heard) = timeout_at(until, self.socket.recv(&mut answer)).await {
                let Ok(length) = heard else { continue };
                // What answers an earlier packet says who was there then.
                if self.hear(&answer[..length]).is_some_and(|sequence| sequence >= first) {
                    return self.servers.last().cloned().unwrap_or_default();
                }
            }
        }
        unreachable!("player {} gets no answer", self.number)
    }

    /// Packets without an answer so far.
    pub fn lost(&self) -> u64 {
        self.sent - self.answered.len() as u64
    }

    /// The servers met so far.
    pub fn met(&self) -> BTreeSet<&str> {
        self.servers.iter().map(String::as_str).collect()
    }

    /// Which packet it answers for the first time.
    fn hear(&mut self, answer: &[u8]) -> Option<u64> {
        let Some((b"AQ2", rest)) = answer.split_first_chunk() else { return None };
        let (player, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (length, name) = rest.get(8..)?.split_first()?;
        let sequence = u64::from_be_bytes(*sequence);
        let mine = u32::from_be_bytes(*player) == self.number && sequence < self.sent;
        if mine && self.answered.insert(sequence) {
            let name = name.get(..usize::from(*length)).unwrap_or_default();
            self.servers.push(String::from_utf8_lossy(name).into_owned());
            return Some(sequence);
        }
        None
    }
}
