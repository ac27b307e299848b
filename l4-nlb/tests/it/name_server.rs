//! A DNS server in the test's own process. Not a resolver: it knows what it was told. Used by the tests of
//! this folder, and by the tool's.
//!
//! Invariant: it answers SRV and A questions alone, and every name the same.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::watch;

/// A name server and what it says: the port that every name's SRV record has, or that there is none.
pub(crate) async fn name_server() -> (SocketAddr, watch::Sender<Option<u16>>) {
    let dns = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = dns.local_addr().expect("bound");
    let (change, answer) = watch::channel(None);
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((length, peer)) = dns.recv_from(&mut bytes).await {
            let reply = srv_answer(&bytes[..length], *answer.borrow());
            dns.send_to(&reply, peer).await.expect("sent");
        }
    });
    (address, change)
}

/// The answer to a question of one name: an SRV record of that name with this port, whose host is the
/// name itself, at 127.0.0.1 (RFC 1035 §4.1, RFC 2782).
fn srv_answer(question: &[u8], port: Option<u16>) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|&byte| byte == 0).expect("a name ends") + 5;
    let kind = question[end - 3];
    let mut reply = question[..end].to_vec();
    // Recursion is available; no such name while there is no port.
    reply[2..12].copy_from_slice(&[
        0x81,
        if port.is_some() { 0x80 } else { 0x83 },
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ]);
    let data = match (port, kind) {
        (Some(port), 33) => {
            let name = &question[12..end - 4];
            [&[0, 1, 0, 1][..], &port.to_be_bytes(), name].concat()
        }
        (Some(_), 1) => vec![127, 0, 0, 1],
        _ => return reply,
    };
    reply[7] = 1;
    reply.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
    reply.extend_from_slice(&data);
    reply
}
