//! The check `udp: TEXT`: a datagram is answered by a datagram. Called by `health`.
//!
//! Invariant: only an answer from the endpoint's own address counts (the socket is connected).

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::{Answer, Fault};

pub(super) async fn ask(address: SocketAddr, request: &[u8]) -> Result<Answer, Fault> {
    let any: SocketAddr = if address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(request).await?;
    // Beyond its beginning it does not matter what it says; the rest is cut off by the kernel.
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).await?;
    let full = answer.get(..length).is_some_and(|answer| answer.starts_with(b"full"));
    Ok(if full { Answer::Full } else { Answer::Ready })
}
