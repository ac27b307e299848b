//! Tests of what only the kernel can answer: the error queue, the nested epoll, IPv6 local
//! addresses.

use std::net::UdpSocket;

use super::super::bind::{Reuse, udp, udp_upstream};
use super::*;

/// A port where nobody is.
fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// N4: an ICMP error names the endpoint that it is about, on a socket that serves several.
#[tokio::test]
async fn unreachable_endpoints_are_named() {
    let living = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (upstream, dead) = (udp_upstream(true).unwrap(), closed());
    let poller = Poller::new().unwrap();
    poller.add(&upstream, 7).unwrap();
    assert_eq!(take_unreachable(&upstream).unwrap(), None);
    upstream.send_to(b"x", living.local_addr().unwrap()).unwrap();
    upstream.send_to(b"x", dead).unwrap();
    let _guard = poller.readable().await.unwrap();
    let mut ready = Vec::new();
    assert_eq!(poller.ready(&mut ready).unwrap(), 1);
    assert_eq!(ready, [Ready { token: 7, error: true }]);
    let errno = libc::ECONNREFUSED;
    assert_eq!(take_unreachable(&upstream).unwrap(), Some(Unreachable { to: dead, errno }));
    assert_eq!(take_unreachable(&upstream).unwrap(), None);
}

/// N4: the nested epoll wakes its waiter for each new datagram after it was drained and cleared.
#[tokio::test]
async fn a_drained_poller_wakes_again() {
    let upstream = udp_upstream(true).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], upstream.local_addr().unwrap().port()));
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let poller = Poller::new().unwrap();
    poller.add(&upstream, 1).unwrap();
    let mut batch = Batch::new();
    for round in 1..=5 {
        sender.send_to(b"x", to).unwrap();
        let mut guard = poller.readable().await.unwrap();
        let mut ready = Vec::new();
        assert_eq!(poller.ready(&mut ready).unwrap(), 1);
        assert_eq!(batch.receive(&upstream).unwrap(), 1, "{round}");
        guard.clear_ready();
    }
}

/// N4: IPv6 datagrams carry their local address both ways.
#[test]
fn ipv6_local_addresses() {
    let server = udp("[::]:0".parse().unwrap(), Reuse::No).unwrap();
    let to = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), server.local_addr().unwrap().port());
    let client = udp("[::1]:0".parse().unwrap(), Reuse::No).unwrap();
    let own = client.local_addr().unwrap();
    super::super::batch::send(&client, &[Outgoing { bytes: b"x", to, from: None }]).unwrap();
    let mut batch = Batch::new();
    while batch.receive(&server).is_err() {
        std::thread::yield_now();
    }
    assert!(batch.iter().all(|(a, _)| a.peer == own && a.local == Some(to.ip())));
    let answer = Outgoing { bytes: b"y", to: own, from: Some(to.ip()) };
    super::super::batch::send(&server, &[answer]).unwrap();
    batch.clear();
    while batch.receive(&client).is_err() {
        std::thread::yield_now();
    }
    assert!(batch.iter().all(|(a, bytes)| a.peer == to && bytes == b"y"));
}
