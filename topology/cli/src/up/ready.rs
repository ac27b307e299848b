//! Asking a part whether it is ready: one question per kind, bounded in time. Not for waiting and
//! not for what follows: that is `fleet`. Also asked by the live view for parts without an admin
//! listener.
//!
//! Invariant: a question changes nothing and ends within [`LIMIT`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use topology::l4::Protocol;

use crate::fetch;
use crate::up::plan::{Does, Part};
use crate::up::postgres::Postgres;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// `GET /readyz` of the admin listener.
    Admin(SocketAddr),
    /// `GET /healthz`.
    Health(SocketAddr),
    /// Whether a connection is accepted.
    Connect(SocketAddr),
    /// Whether a UDP port is taken, for what has neither an admin nor a TCP listener.
    Taken(SocketAddr),
    /// The game server's `ping`.
    Ping(SocketAddr),
    /// Redis's `PING`.
    Redis(SocketAddr),
    /// Whether the server of this name says that it accepts queries, then `SELECT 1`.
    Sql(Box<Postgres>, String, u16),
}

impl Question {
    /// The one that fits a part.
    pub(crate) fn of(part: &Part, postgres: Option<&Postgres>) -> Self {
        let address = part.address();
        match (&part.does, part.admin, postgres) {
            (Does::Tier(_), Some(admin), _) => Self::Admin(admin),
            (Does::Primary(_) | Does::Replica { .. }, _, Some(postgres)) => {
                Self::Sql(Box::new(postgres.clone()), part.name.clone(), address.port())
            }
            (Does::Redis, ..) => Self::Redis(address),
            (Does::Demo { .. }, ..) if is_udp(part) => Self::Ping(address),
            // They speak HTTP/2 or RTMP alone.
            (Does::Demo { words, .. }, ..)
                if words.first().is_some_and(|word| word == "grpc" || word == "rtmp") =>
            {
                Self::Connect(address)
            }
            (Does::Demo { .. } | Does::Issuer { .. }, ..) => Self::Health(address),
            _ => match part.listens.iter().find(|listen| listen.protocol == Protocol::Tcp) {
                Some(listen) => Self::Connect(listen.address),
                None => Self::Taken(address),
            },
        }
    }

    /// Asks once; the error says what is missing.
    pub(crate) async fn ask(&self) -> anyhow::Result<()> {
        match tokio::time::timeout(LIMIT, self.answer()).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer within {} s", LIMIT.as_secs()),
        }
    }

    async fn answer(&self) -> anyhow::Result<()> {
        match self {
            Self::Admin(at) => ok(*at, "/readyz").await?,
            Self::Health(at) => ok(*at, "/healthz").await?,
            Self::Connect(at) => drop(TcpStream::connect(at).await?),
            Self::Taken(at) => match UdpSocket::bind(at).await {
                Ok(_) => bail!("nothing listens on {at} (UDP)"),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error.into()),
            },
            Self::Ping(at) => ping(*at).await?,
            Self::Redis(at) => redis(*at).await?,
            Self::Sql(postgres, name, port) => {
                postgres.accepts(name)?;
                postgres.sql(*port, "postgres", "SELECT 1").await?;
            }
        }
        Ok(())
    }
}

fn is_udp(part: &Part) -> bool {
    part.listens.first().is_some_and(|listen| listen.protocol == Protocol::Udp)
}

async fn ok(at: SocketAddr, path: &str) -> anyhow::Result<()> {
    let (status, body) = fetch::get(at, path).await?;
    if status != 200 {
        let text = String::from_utf8_lossy(&body);
        bail!("{path} answers {status}: {}", text.trim().chars().take(400).collect::<String>());
    }
    Ok(())
}

async fn ping(at: SocketAddr) -> anyhow::Result<()> {
    let reply = datagram(at, b"ping").await?;
    if !reply.starts_with(b"pong") {
        bail!("ping was answered with something else than pong");
    }
    Ok(())
}

/// Players and datagrams of a demo game server.
pub(crate) async fn game(at: SocketAddr) -> anyhow::Result<(u64, u64)> {
    let reply = String::from_utf8(datagram(at, b"AQ?").await?)?;
    let mut words = reply.strip_prefix("AQ! ").context("no counts")?.split(' ');
    let mut number = || words.next().and_then(|word| word.parse().ok()).context("no number");
    Ok((number()?, number()?))
}

/// The answer to one datagram, at most 128 bytes of it.
async fn datagram(at: SocketAddr, question: &[u8]) -> anyhow::Result<Vec<u8>> {
    let any = match at {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    socket.send(question).await?;
    let mut reply = vec![0; 128];
    let length = socket.recv(&mut reply).await?;
    reply.truncate(length);
    Ok(reply)
}

/// `PING` in RESP: `+PONG`, or an error that at least a Redis gives.
pub(crate) async fn redis(at: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.context("the connection was closed")?;
    match &reply {
        b"+PONG" => Ok(()),
        b"-NOAU" => bail!("this Redis asks for a password"),
        b"-LOAD" => bail!("this Redis still loads its data"),
        _ => bail!("what answers at {at} is no Redis"),
    }
}

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_udp_port_alone_is_ready_when_it_is_taken() {
        let held = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let question = Question::Taken(held.local_addr().expect("bound"));
        assert!(question.ask().await.is_ok());
        drop(held);
        assert!(question.ask().await.is_err());
    }

    /// O5: what answers on the limit store's port is known by what it says.
    #[tokio::test]
    async fn something_else_is_no_redis() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        for (said, known) in [("+PONG\r\n", true), ("HTTP/1.1 400", false), ("-NOAUTH", false)] {
            let answered = tokio::join!(redis(at), async {
                let (mut stream, _) = listener.accept().await.expect("asked");
                stream.write_all(said.as_bytes()).await.expect("said");
            });
            assert_eq!(answered.0.is_ok(), known, "{said}");
        }
    }
}
