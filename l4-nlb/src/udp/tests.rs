//! Tests of the plane seam, without threads.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;

use common::balance::HashKey;
use common::lifecycle::Lifecycle;
use common::net::bind::{Reuse, udp};
use common::net::proxy_protocol::{Addresses, v2_datagram};
use common::snapshot::Published;

use super::*;
use crate::snapshot::Snapshot;
use crate::testing::listener;

/// What runs a plane knows nothing of how it moves datagrams.
async fn run(plane: impl Plane, shutdown: Shutdown) {
    plane.forward(shutdown).await;
}

/// A plane without sockets.
struct Still(Rc<Cell<bool>>);

impl Plane for Still {
    async fn forward(self, shutdown: Shutdown) {
        shutdown.draining().await;
        self.0.set(true);
    }
}

fn source(endpoint: u16, most: u32) -> LaneSource {
    source_behind(endpoint, most, Vec::new())
}

/// The same behind these proxies.
fn source_behind(endpoint: u16, most: u32, proxies: Vec<ipnet::IpNet>) -> LaneSource {
    let mut rules = listener("udp", &[endpoint]);
    rules.accept_proxy_from = proxies;
    rules.max_flows = NonZeroU32::new(most).unwrap();
    let group = crate::testing::group(vec![rules]);
    let metrics = Observer::new("nlb-1").metrics;
    let snapshot = Snapshot::build(
        &group,
        (HashKey::from_names(["edge"]), None, &topology::units::InstanceName::new("nlb-1")),
        &metrics,
        None,
    );
    LaneSource::new(Arc::new(Published::of(snapshot.lanes[0].clone())))
}

/// N4, N10: planes are run through one trait; the user-space one forwards, and ends when drained.
#[tokio::test(flavor = "local")]
async fn planes_run_behind_one_trait() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(socket.local_addr().unwrap()).await.unwrap();
    let lifecycle = Lifecycle::new();
    let source = source(server.local_addr().unwrap().port(), 1);
    let lane = source.lane();
    let plane = UserSpace::new(source, socket, Budget::of(4), Observer::new("nlb-1")).unwrap();
    let space = tokio::task::spawn_local(run(plane, lifecycle.shutdown()));
    let ended = Rc::new(Cell::new(false));
    let still = tokio::task::spawn_local(run(Still(ended.clone()), lifecycle.shutdown()));

    client.send(b"to the server").await.unwrap();
    let mut bytes = [0; 64];
    let (length, upstream) = server.recv_from(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..length], b"to the server");
    server.send_to(b"to the client", upstream).await.unwrap();
    let length = client.recv(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..length], b"to the client");
    assert_eq!(lane.gate.flows(), 1);

    lifecycle.drain();
    still.await.unwrap();
    assert!(ended.get());
    space.await.unwrap();
    assert_eq!((lane.gate.flows(), lane.service.endpoints[0].state.active()), (0, 0));
    assert_eq!(lane.service.endpoints[0].state.flows(), (1, 0), "one was given, none failed");
}

/// N4: a datagram that claims to come from the listener itself does not loop.
#[tokio::test(flavor = "local")]
async fn own_datagrams_do_not_loop() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let socket = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
    let own = socket.local_addr().unwrap();
    let spoof = socket.try_clone().unwrap();
    let lifecycle = Lifecycle::new();
    let source = source(server.local_addr().unwrap().port(), 1);
    let lane = source.lane();
    let plane = UserSpace::new(source, socket, Budget::of(4), Observer::new("nlb-1")).unwrap();
    let space = tokio::task::spawn_local(run(plane, lifecycle.shutdown()));
    spoof.send_to(b"from itself", own).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"true", own).await.unwrap();
    let mut bytes = [0; 64];
    let (length, _) = server.recv_from(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..length], b"true");
    assert_eq!(lane.gate.flows(), 1);
    lifecycle.stop();
    space.await.unwrap();
}

/// What has arrived; the kernel may take a moment.
fn arrived(socket: &std::net::UdpSocket, batch: &mut Batch) {
    batch.clear();
    while batch.receive(socket).is_err() {
        std::thread::yield_now();
    }
}

/// A server that is asked directly.
fn server() -> std::net::UdpSocket {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    server
}

/// N3, N9: when sockets, not flows, are what is used up, quiet flows that were never answered make
/// room for a new client; a flow that was heard a moment ago does not, as an answer may be on its way.
#[tokio::test(flavor = "local")]
async fn used_up_sockets_do_not_lock_clients_out() {
    let server = server();
    let socket = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
    let at = socket.local_addr().unwrap();
    let source = source(server.local_addr().unwrap().port(), 100);
    let lane = source.lane();
    let mut worker = Worker::new(source, at, Budget::of(1), Observer::new("nlb-1")).unwrap();
    let [forged, player] = [0; 2].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let (start, mut batch, mut bytes) = (Instant::now(), Batch::new(), [0; 8]);
    let mut send = |client: &std::net::UdpSocket, text: &[u8], after: u64| {
        client.send_to(text, at).unwrap();
        arrived(&socket, &mut batch);
        worker.pass_up(&batch, start + Duration::from_millis(after));
    };
    send(&forged, b"f1", 0);
    send(&player, b"p1", 500);
    send(&player, b"p2", 1200);
    send(&forged, b"f2", 1300);
    send(&player, b"p3", 1400);
    for expected in [b"f1", b"p2", b"p3"] {
        let length = server.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], expected);
    }
    assert_eq!((lane.gate.flows(), lane.meters.evicted_total()), (1, 1));
}

/// N6: a proxy that uses its socket for another client begins another flow: nobody gets the answers
/// that were meant for its last client.
#[tokio::test(flavor = "local")]
async fn a_proxys_next_client_has_a_flow_of_its_own() {
    let server = server();
    let socket = udp("127.0.0.1:0".parse().unwrap(), Reuse::No).unwrap();
    let at = socket.local_addr().unwrap();
    let port = server.local_addr().unwrap().port();
    let source = source_behind(port, 100, vec!["127.0.0.0/8".parse().unwrap()]);
    let lane = source.lane();
    let mut worker = Worker::new(source, at, Budget::of(4), Observer::new("nlb-1")).unwrap();
    let proxy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (mut batch, mut bytes) = (Batch::new(), [0; 8]);
    let mut send = |client: &str| {
        let addresses = Addresses { source: client.parse().unwrap(), destination: at };
        let mut datagram = Vec::new();
        v2_datagram(addresses, &mut datagram);
        datagram.push(b'?');
        proxy.send_to(&datagram, at).unwrap();
        arrived(&socket, &mut batch);
        worker.pass_up(&batch, Instant::now());
        let (length, from) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"?");
        from
    };
    let first = send("192.0.2.1:1000");
    assert_eq!(send("192.0.2.1:1000"), first);
    assert_ne!(send("192.0.2.2:1000"), first);
    assert_eq!(lane.gate.flows(), 1);
}
