//! A client, the real program and an endpoint in three network namespaces, as on three machines: the
//! endpoint sees the client's own address. Needs root and `ip`; `make verify` has them.
//!
//! Invariant: the namespaces go with the test, whatever it does.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::process::Program;

/// Namespaces of a client, a balancer and an endpoint, in a row.
struct Network(String);

impl Network {
    fn new() -> Self {
        let network = Self(format!("aqt{}", std::process::id()));
        let Self(name) = &network;
        for part in ["c", "b", "s"] {
            run(&format!("ip netns add {name}{part}"));
            run(&format!("ip -n {name}{part} link set lo up"));
        }
        for (part, end, net) in [("c", "clients", "10.61.1"), ("s", "servers", "10.61.2")] {
            run(&format!(
                "ip link add {end} netns {name}b type veth peer name near netns {name}{part}"
            ));
            for (at, link, host) in [("b", end, 1), (part, "near", 2)] {
                run(&format!("ip -n {name}{at} address add {net}.{host}/24 dev {link}"));
                run(&format!("ip -n {name}{at} link set dev {link} up"));
            }
            run(&format!("ip -n {name}{part} route add default via {net}.1"));
            run(&format!("ip netns exec {name}b sysctl -qw net.ipv4.conf.{end}.rp_filter=0"));
        }
        run(&format!("ip netns exec {name}b sysctl -qw net.ipv4.conf.all.rp_filter=0"));
        // What endpoints answer to clients is for this host: docs/operations.md.
        run(&format!("ip -n {name}b rule add iif servers lookup 100"));
        run(&format!("ip -n {name}b route add local 10.61.1.0/24 dev lo table 100"));
        network
    }

    /// Runs this on a thread in one of the namespaces; sockets that it makes stay there.
    fn inside<T: Send>(&self, part: &str, work: impl FnOnce() -> T + Send) -> T {
        let space = std::fs::File::open(format!("/run/netns/{}{part}", self.0)).unwrap();
        let network = Some(LinkNameSpaceType::Network);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), network).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    fn udp(&self, part: &str, address: &str) -> UdpSocket {
        let socket = self.inside(part, || std::net::UdpSocket::bind(address).unwrap());
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for part in ["c", "b", "s"] {
            run(&format!("ip netns delete {}{part}", self.0));
        }
    }
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let done = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(done.success(), "{line}");
}

const PATIENCE: Duration = Duration::from_secs(20);

/// N6: with `transparent` an endpoint sees each client's address and port, by UDP and by TCP, its
/// answers come back through the balancer, and that holds over an upgrade.
#[tokio::test]
async fn endpoints_see_clients_themselves() {
    let network = Network::new();
    let server = network.udp("s", "10.61.2.2:9000");
    let web = network.inside("s", || std::net::TcpListener::bind("10.61.2.2:9000").unwrap());
    web.set_nonblocking(true).unwrap();
    let web = TcpListener::from_std(web).unwrap();
    let file = "services:\n  s: { endpoints: [\"10.61.2.2:9000\"] }\nnlbs:\n  edge:\n    instances: { nlb-1: { address: \
                10.61.1.1 } }\n    listeners:\n      game: { udp: \"*:7777\", to: s, transparent: true }\n      web: { tcp: \
                \"*:443\", to: s, transparent: true }\n";
    let mut command = tokio::process::Command::new("ip");
    command.args(["netns", "exec", &format!("{}b", network.0), env!("CARGO_BIN_EXE_l4-nlb")]);
    let mut program = Program::start_by(command, file, 2).await;
    let players = [network.udp("c", "10.61.1.2:5000"), network.udp("c", "10.61.1.2:5001")];
    for round in 0..2 {
        for player in &players {
            player.send_to(b"who", "10.61.1.1:7777").await.unwrap();
            let mut bytes = [0; 16];
            let heard = timeout(PATIENCE, server.recv_from(&mut bytes)).await.expect("not lost");
            assert_eq!(heard.unwrap().1, player.local_addr().unwrap());
            server.send_to(b"you", player.local_addr().unwrap()).await.unwrap();
            let heard = timeout(PATIENCE, player.recv_from(&mut bytes)).await.expect("not lost");
            assert_eq!(heard.unwrap(), (3, "10.61.1.1:7777".parse::<SocketAddr>().unwrap()));
        }
        if round == 0 {
            program.upgrade().await;
        }
    }
    let client = network.inside("c", || std::net::TcpStream::connect("10.61.1.1:443").unwrap());
    client.set_nonblocking(true).unwrap();
    let mut client = TcpStream::from_std(client).unwrap();
    let (mut there, peer) = timeout(PATIENCE, web.accept()).await.expect("it comes").unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    client.write_all(b"a").await.unwrap();
    let heard = there.read_u8().await.unwrap();
    there.write_u8(heard + 1).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'b');
    drop((client, there));
    program.end().await;
}
