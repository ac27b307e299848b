//! Makes listening sockets with the options that every tier wants. Not for connecting. Called once
//! per listener at start; the sockets are handed to the workers, one each.
//!
//! Invariant: the sockets of a group share one address, and nobody else had it before.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{steer, sys};

/// Whether sockets of this user may share the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Nobody else may have it.
    No,
    /// `SO_REUSEPORT`: the kernel spreads connections or datagrams over the sockets by their
    /// addresses. Any process of the same user may join in, so take the address by
    /// [`tcp_group`] or [`udp_group`], which look first.
    Port,
}

/// A non-blocking TCP listener. IPv6 listeners take IPv6 alone.
pub fn tcp(address: SocketAddr, reuse: Reuse) -> io::Result<TcpListener> {
    let socket = tcp_socket(address, reuse)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking UDP socket with large kernel buffers. Bound to a wildcard address it reports the
/// local address of each datagram.
pub fn udp(address: SocketAddr, reuse: Reuse) -> io::Result<UdpSocket> {
    let socket = udp_socket(address, reuse)?;
    receive_buffer(&socket, UDP_BUFFER)?;
    SockRef::from(&socket).set_send_buffer_size(UDP_BUFFER)?;
    if address.ip().is_unspecified() {
        sys::report_local_address(&socket, address.is_ipv4())?;
    }
    Ok(socket.into())
}

/// A non-blocking UDP socket towards endpoints, at a port of the kernel's choice; it learns of ICMP
/// errors by [`sys::take_unreachable`].
pub fn udp_upstream(ipv4: bool) -> io::Result<UdpSocket> {
    let any = if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = udp_socket(SocketAddr::new(any, 0), Reuse::No)?;
    receive_buffer(&socket, UPSTREAM_BUFFER)?;
    sys::report_unreachable(&socket, ipv4)?;
    Ok(socket.into())
}

/// A socket towards endpoints that has the address and port of a client (`IP_TRANSPARENT`, ip(7)).
/// What they answer must be routed to this host.
///
/// # Errors
/// Without CAP_NET_ADMIN, or when a socket of this host has the address.
pub fn udp_as(client: SocketAddr) -> io::Result<UdpSocket> {
    let ipv4 = client.ip().to_canonical().is_ipv4();
    let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    let client = foreign(&socket, client)?;
    prepare(&socket, client, Reuse::No)?;
    receive_buffer(&socket, UPSTREAM_BUFFER)?;
    sys::report_unreachable(&socket, ipv4)?;
    Ok(socket.into())
}

/// Lets the socket bind to an address that is not this host's: this one.
pub(super) fn foreign(socket: &Socket, address: SocketAddr) -> io::Result<SocketAddr> {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    if address.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    Ok(address)
}

/// One TCP listener per worker on one address; port 0 is chosen once. `AddrInUse` when anybody
/// listens there already.
pub fn tcp_group(address: SocketAddr, count: NonZeroUsize) -> io::Result<Vec<TcpListener>> {
    let probe = tcp_socket(address, Reuse::No)?;
    let address = local(&probe)?;
    drop(probe);
    (0..count.get()).map(|_| tcp(address, Reuse::Port)).collect()
}

/// One UDP socket per worker on one address; port 0 is chosen once. `AddrInUse` when anybody is
/// bound there already. Which socket gets a datagram depends on its source address alone
/// (`steer`); where the kernel refuses that, on addresses and ports.
pub fn udp_group(address: SocketAddr, count: NonZeroUsize) -> io::Result<Vec<UdpSocket>> {
    let probe = udp_socket(address, Reuse::No)?;
    let address = local(&probe)?;
    drop(probe);
    let group: Vec<UdpSocket> =
        (0..count.get()).map(|_| udp(address, Reuse::Port)).collect::<io::Result<_>>()?;
    if let (Some(first), Ok(several @ 2..)) = (group.first(), u32::try_from(group.len())) {
        let program =
            steer::program(address.is_ipv4(), SmallRng::from_os_rng().next_u32(), several);
        // Without it limits per client count per worker.
        let _refused = sys::steer(first, &program);
    }
    Ok(group)
}

fn tcp_socket(address: SocketAddr, reuse: Reuse) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Past connections in TIME_WAIT must not keep a listener from starting again.
    socket.set_reuse_address(true)?;
    prepare(&socket, address, reuse)?;
    Ok(socket)
}

fn udp_socket(address: SocketAddr, reuse: Reuse) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address, reuse)?;
    // An older kernel hands datagrams on one by one.
    let _alone = sys::merge_received(&socket);
    Ok(socket)
}

/// Beyond the kernel's limit (net.core.rmem_max) only with CAP_NET_ADMIN; else as much as it gives.
fn receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    match sockopt::set_socket_recv_buffer_size_force(socket, bytes) {
        Ok(()) => Ok(()),
        Err(_) => socket.set_recv_buffer_size(bytes),
    }
}

fn prepare(socket: &Socket, address: SocketAddr, reuse: Reuse) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(reuse == Reuse::Port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Connections that the kernel may hold until we accept them.
const BACKLOG: i32 = 4096;

/// Bytes that a UDP socket may hold each way.
const UDP_BUFFER: usize = 4 << 20;

/// The same towards endpoints, of which there may be thousands. It is used while this process is
/// held up.
const UPSTREAM_BUFFER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    /// N1: workers share a port, strangers do not get in.
    #[test]
    fn a_group_shares_one_port_and_a_second_group_is_refused() {
        let tcp = tcp_group(ANY, TWO).unwrap();
        let address = tcp[0].local_addr().unwrap();
        assert_eq!(address, tcp[1].local_addr().unwrap());
        assert_eq!(tcp_group(address, TWO).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let udp = udp_group(ANY, TWO).unwrap();
        let address = udp[0].local_addr().unwrap();
        assert_eq!(address, udp[1].local_addr().unwrap());
        assert_eq!(udp_group(address, TWO).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
