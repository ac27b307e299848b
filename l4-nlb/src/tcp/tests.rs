//! Tests of the TCP worker on in-memory streams and a paused clock: limits, headers, retries,
//! idle time, stop.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Context;

use common::balance::HashKey;
use common::lifecycle::Lifecycle;
use common::net::proxy_protocol;
use common::net::relay::Wire;
use common::snapshot::Published;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::timeout;
use topology::Balance;
use topology::l4::{Group, Listener, ProxyVersion};
use topology::units::GroupName;

use super::*;
use crate::snapshot::Snapshot;
use crate::testing::listener;

/// One end of an in-memory connection that remembers whether it was reset.
#[derive(Debug)]
struct Pipe(DuplexStream, Arc<Mutex<bool>>);

impl Pipe {
    fn pair() -> (DuplexStream, Self) {
        let (far, near) = duplex(4096);
        (far, Self(near, Arc::default()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Wire for Pipe {
    fn abort(&mut self) {
        *self.1.lock().unwrap() = true;
    }
}

impl Socket for Pipe {
    type Through<'a> = &'a mut Pipe;
    type Failure<'a> = std::future::Pending<io::Error>;
    fn parts(&mut self) -> (&mut Pipe, std::future::Pending<io::Error>) {
        (self, std::future::pending())
    }
    fn set_vigilance(&self, _: Duration) {}
}

/// Endpoints: those in `dead` refuse, those in `mute` never answer, the others hand their far end
/// to the test.
#[derive(Default)]
struct Fake {
    dead: Vec<u16>,
    mute: Vec<u16>,
    asked: Mutex<Vec<u16>>,
    open: Mutex<Vec<DuplexStream>>,
}

impl Connect for Fake {
    type Wire = Pipe;
    async fn connect(&self, address: SocketAddr, _: Option<SocketAddr>) -> io::Result<Pipe> {
        self.asked.lock().unwrap().push(address.port());
        if self.mute.contains(&address.port()) {
            std::future::pending::<()>().await;
        }
        if self.dead.contains(&address.port()) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (far, near) = Pipe::pair();
        self.open.lock().unwrap().push(far);
        Ok(near)
    }
}

fn worker(rules: Listener) -> (Worker, Arc<Lane>) {
    let group = Group {
        name: GroupName::new("edge"),
        instances: Vec::new(),
        listeners: vec![rules],
        hash_key: None,
        drain: Duration::from_secs(30),
        place: topology::Place::default(),
    };
    let observer = Observer::new("nlb-1");
    let snapshot = Snapshot::build(
        &group,
        (HashKey::from_names(["edge"]), None, &topology::units::InstanceName::new("nlb-1")),
        &observer.metrics,
        None,
    );
    let source = LaneSource::new(Arc::new(Published::of(snapshot.lanes[0].clone())));
    let lane = source.lane();
    (Worker::new(source, observer), lane)
}

fn ends(client: &str) -> Ends {
    Ends { peer: client.parse().unwrap(), local: "127.0.0.1:8443".parse().unwrap() }
}

/// Sends `sent`, closes, and returns what the endpoint got.
async fn exchange(worker: &Worker, fake: &Fake, sent: &[u8]) -> (Outcome, Vec<u8>) {
    let (mut client, downstream) = Pipe::pair();
    client.write_all(sent).await.unwrap();
    client.shutdown().await.unwrap();
    let lifecycle = Lifecycle::new();
    let shutdown = lifecycle.shutdown();
    let serve = worker.serve(downstream, ends("10.0.0.9:5555"), fake, &shutdown);
    let endpoint = async {
        while fake.open.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut far = fake.open.lock().unwrap().remove(0);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        got
    };
    let (outcome, got) =
        tokio::join!(serve, tokio::time::timeout(Duration::from_secs(60), endpoint));
    (outcome, got.unwrap_or_default())
}

/// N5, N8, T6: one that refuses and one that is silent are passed over before any byte is sent; what each was
/// given and did not take is counted.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_refused_connection_is_tried_elsewhere() {
    let (worker, lane) = worker(listener("tcp", &[1, 2, 3]));
    let fake = Fake { dead: vec![1], mute: vec![2], ..Fake::default() };
    for _ in 0..9 {
        let (outcome, got) = exchange(&worker, &fake, b"hello").await;
        assert!(matches!(outcome, Outcome::Served(End::Closed)), "{outcome:?}");
        assert_eq!(got, b"hello");
    }
    let asked = fake.asked.lock().unwrap().clone();
    let tried = |port| asked.iter().filter(|&&p| p == port).count();
    assert_eq!(tried(3), 9);
    assert!(tried(1) < 5 && tried(2) < 5, "three failures in a row eject: {asked:?}");
    assert_eq!(lane.gate.flows(), 0);
    assert!(lane.service.endpoints.iter().all(|e| e.state.active() == 0));
    let counted: Vec<_> = lane.service.endpoints.iter().map(|e| e.state.flows()).collect();
    let all = [(1, 1), (2, 1), (3, 0)]
        .map(|(port, fails)| (tried(port) as u64, fails * tried(port) as u64));
    assert_eq!(counted, all);
}

/// N5: when nobody takes it the client is reset, and counted.
#[tokio::test(flavor = "local", start_paused = true)]
async fn nobody_there_resets_the_client() {
    let (worker, lane) = worker(listener("tcp", &[1, 2]));
    let fake = Fake { dead: vec![1, 2], ..Fake::default() };
    let (_client, downstream) = Pipe::pair();
    let reset = downstream.1.clone();
    let shutdown = Lifecycle::new();
    let outcome = worker.serve(downstream, ends("10.0.0.9:1"), &fake, &shutdown.shutdown()).await;
    assert!(matches!(outcome, Outcome::Refused(Refusal::Endpoint)));
    assert!(*reset.lock().unwrap());
    assert_eq!((lane.meters.errors_total(), lane.gate.flows()), (1, 0));
}

/// N6: the header comes first and carries the client's address and the one it asked for.
#[tokio::test(flavor = "local", start_paused = true)]
async fn the_endpoint_is_told_the_client() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let mut rules = listener("tcp", &[1]);
        rules.proxy_protocol = Some(version);
        let (worker, _) = worker(rules);
        let (_, got) = exchange(&worker, &Fake::default(), b"hello").await;
        let Ok(proxy_protocol::Parsed::Header(header)) = proxy_protocol::parse(&got) else {
            panic!("no header")
        };
        let addresses = header.addresses.unwrap();
        assert_eq!(addresses.source, "10.0.0.9:5555".parse().unwrap());
        assert_eq!(addresses.destination, "127.0.0.1:8443".parse().unwrap());
        assert_eq!(&got[header.length..], b"hello");
    }
}

/// N6: a trusted peer's header is required, believed, and what the rules go by; nobody else's is
/// looked at.
#[tokio::test(flavor = "local", start_paused = true)]
async fn headers_of_trusted_peers_alone_are_read() {
    let mut rules = listener("tcp", &[1]);
    rules.accept_proxy_from = vec!["10.0.0.0/24".parse().unwrap()];
    rules.deny = vec!["203.0.113.0/24".parse().unwrap()];
    rules.proxy_protocol = Some(ProxyVersion::V1);
    let (own, _) = worker(rules.clone());
    let fake = Fake::default();
    let line = b"PROXY TCP4 198.51.100.7 192.0.2.1 4444 443\r\n";
    let (_, got) = exchange(&own, &fake, &[line, b"hello".as_slice()].concat()).await;
    assert_eq!(got, [line, b"hello".as_slice()].concat(), "the client's line is passed on");
    let denied = b"PROXY TCP4 203.0.113.7 192.0.2.1 4444 443\r\nhello";
    let (outcome, _) = exchange(&own, &fake, denied).await;
    assert!(matches!(outcome, Outcome::Refused(Refusal::Denied)), "{outcome:?}");
    let (outcome, _) = exchange(&own, &fake, b"hello without a header").await;
    assert!(matches!(outcome, Outcome::Refused(Refusal::Header)), "{outcome:?}");

    rules.accept_proxy_from.clear();
    rules.proxy_protocol = None;
    let (stranger, _) = worker(rules);
    let (_, got) = exchange(&stranger, &fake, denied).await;
    assert_eq!(got, denied, "an untrusted peer's line is only bytes");
}

/// N3, N9: idle connections end; the listener's bound holds meanwhile.
#[tokio::test(flavor = "local", start_paused = true)]
async fn idle_and_full() {
    let mut rules = listener("tcp", &[1]);
    rules.max_flows = std::num::NonZeroU32::MIN;
    rules.balance = Balance::LeastConnections;
    let (worker, lane) = worker(rules);
    let fake = Fake::default();
    let lifecycle = Lifecycle::new();
    let shutdown = lifecycle.shutdown();
    let (_client, downstream) = Pipe::pair();
    let first = worker.serve(downstream, ends("10.0.0.1:1"), &fake, &shutdown);
    let second = async {
        tokio::time::sleep(Duration::from_secs(349)).await;
        let (_client, downstream) = Pipe::pair();
        assert_eq!((lane.gate.flows(), lane.service.endpoints[0].state.active()), (1, 1));
        worker.serve(downstream, ends("10.0.0.2:2"), &fake, &shutdown).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(matches!(first, Outcome::Served(End::Idle)), "{first:?}");
    assert!(matches!(second, Outcome::Refused(Refusal::Full)), "{second:?}");
}

/// N8: draining leaves a connection alone, stopping ends it.
#[tokio::test(flavor = "local", start_paused = true)]
async fn stopping_ends_connections() {
    let (worker, _) = worker(listener("tcp", &[1]));
    let (fake, lifecycle) = (Fake::default(), Lifecycle::new());
    let shutdown = lifecycle.shutdown();
    let (_client, downstream) = Pipe::pair();
    let serve = worker.serve(downstream, ends("10.0.0.1:1"), &fake, &shutdown);
    let mut serve = std::pin::pin!(serve);
    lifecycle.drain();
    assert!(timeout(Duration::from_secs(60), &mut serve).await.is_err());
    lifecycle.stop();
    assert!(matches!(serve.await, Outcome::Stopped));
}

/// N5: what a connection costs between two polls is its task: it must stay small.
#[tokio::test(flavor = "local")]
async fn a_connection_is_small() {
    let (worker, _) = worker(listener("tcp", &[1]));
    let bound = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(bound.local_addr().unwrap()).await.unwrap();
    let entry = worker.roster.enter();
    let task = worker.carry(&mut stream, ends("10.0.0.1:1"), &ToEndpoint, &entry);
    let (task, flow) = (size_of_val(&task), Roster::cost());
    let mut other = tokio::net::TcpStream::connect(bound.local_addr().unwrap()).await.unwrap();
    let lane = worker.source.lane();
    let begin = worker.begin(&mut other, ends("10.0.0.1:1"), &ToEndpoint, (&lane, &entry));
    let begin = size_of_val(&begin);
    assert!(task <= 850 && begin <= 1032 && flow <= 256, "{task} {begin} {flow}");
}
