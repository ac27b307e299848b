//! The check `udp: TEXT`: a datagram is answered by a datagram. Called by `health`.
//!
//! Invariant: only an answer from the endpoint's own address counts (the socket is connected).

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::Fault;

pub(super) async fn ask(address: SocketAddr, request: &[u8]) -> Result<(), Fault> {
    let any: SocketAddr = if address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(request).await?;
    // What it says does not matter, and what does not fit is cut off by the kernel.
    socket.recv(&mut [0; 64]).await?;
    Ok(())
}
