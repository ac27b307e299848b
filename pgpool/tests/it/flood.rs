//! Floods of cancel requests by real sockets: what guesses keys, and what opens and never asks. Not for how many of one
//! sender are let in, which `pgpool::cancel::crowd` tests. Real PostgreSQL.
//!
//! Invariant: the flood goes on until all that is looked at has been seen.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use common::rng::Rng;
use pgpool_wire::startup::{CancelKey, put_cancel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};

use crate::pooler::{Pooler, Setup};
use crate::postgres::Postgres;
use crate::raw::{Raw, columns, query, tags, text};

/// Clients that the pooler may have.
const MOST: usize = 40;
/// Connections that say half of a request and stay.
const SILENT: usize = 150;
/// Who sends one request after the other.
const SENDERS: usize = 24;

/// A connection from an address of the attacker's.
async fn attacker(last: u8, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("bound");
    socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.expect("connected")
}

/// Guesses secrets of these clients until it is over.
async fn guess(port: u16, seed: u64, keys: Rc<[CancelKey]>, over: Rc<Cell<bool>>) -> u64 {
    let (rng, mut sent) = (Rng::seeded(seed), 0);
    while !over.get() {
        let mut key = keys[rng.below(keys.len())].clone();
        // One bit is wrong, or all is.
        match rng.below(3) {
            0 => key.secret[0] ^= 1,
            1 => key.secret.fill(7),
            _ => key.pid ^= 1 << 20,
        }
        let mut out = Vec::new();
        put_cancel(&mut out, &key);
        let mut socket = attacker(9 + (seed % 3) as u8, port).await;
        // Refused or taken: it is closed, and nothing is said.
        let _ = socket.write_all(&out).await;
        assert_eq!(socket.read(&mut [0; 16]).await.unwrap_or(0), 0, "an answer");
        sent += 1;
    }
    sent
}

/// Asks again and again; nobody cancels it.
async fn work(mut client: Raw, mark: usize, over: Rc<Cell<bool>>) -> u64 {
    let mut done = 0;
    while !over.get() {
        client.send(&query(&format!("select '{mark}-{done}', pg_sleep(0.002)"))).await;
        let messages = client.until_ready(1).await;
        assert_eq!(tags(&messages), "TDCZ", "{}", text(&messages));
        assert_eq!(columns(&messages[1].1)[0], format!("{mark}-{done}"));
        done += 1;
    }
    done
}

/// P7, O5: while thousands of requests guess keys, and connections that never ask hold every place that clients may
/// have, a client's own request ends its query, nobody else's is touched, and what the pooler holds is bounded.
#[tokio::test]
async fn a_flood_of_cancels_spares_everybody() {
    let server = Postgres::start().await;
    let settings = format!("max_client_conn: {MOST}, client_login_timeout: 1h");
    let setup = Setup { size: 3, settings: &settings, ..Setup::default() };
    let pooler = Pooler::start(&server, setup).await;
    let mut owner = Raw::login(pooler.port).await;
    let [one, two] = [Raw::login(pooler.port).await, Raw::login(pooler.port).await];
    let keys: Rc<[CancelKey]> = [&owner, &one, &two].map(|client| client.key.clone()).into();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        let mut socket = attacker(12, pooler.port).await;
        // The length and the code of a request, and nothing more.
        socket.write_all(&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e]).await.expect("sent");
        silent.push(socket);
    }
    LocalSet::new()
        .run_until(async {
            let over = Rc::new(Cell::new(false));
            let (mut floods, mut works) = (JoinSet::new(), JoinSet::new());
            for seed in 0..SENDERS as u64 {
                floods.spawn_local(guess(pooler.port, seed, Rc::clone(&keys), Rc::clone(&over)));
            }
            for (mark, client) in [one, two].into_iter().enumerate() {
                works.spawn_local(work(client, mark, Rc::clone(&over)));
            }
            for _ in 0..20 {
                let ended = Cell::new(false);
                owner.send(&query("select pg_sleep(100)")).await;
                let key = owner.key.clone();
                let asks = async {
                    // Before the query has a server it means nothing.
                    while !ended.get() {
                        Raw::cancel(pooler.port, &key).await;
                    }
                };
                let hears = async {
                    let messages = owner.until_ready(1).await;
                    ended.set(true);
                    messages
                };
                let ((), messages) = tokio::join!(asks, hears);
                assert!(text(&messages).contains("C57014"), "{}", text(&messages));
            }
            over.set(true);
            let sent: u64 = floods.join_all().await.into_iter().sum();
            let done = works.join_all().await;
            assert!(sent > 0 && done.iter().all(|done| *done > 0), "{sent} {done:?}");
        })
        .await;
    // Who found no place is not waited for long; who has one gives it back.
    let mut leaves = JoinSet::new();
    for mut socket in silent {
        // It may be told why.
        leaves.spawn(async move { socket.read_to_end(&mut Vec::new()).await });
    }
    for _ in 0..SILENT - (MOST - 3) {
        let _ended = leaves.join_next().await.expect("one more").expect("no panic");
    }
    drop(leaves);
    let config = pooler.config("app", crate::postgres::PASSWORD, "shop");
    while crate::pooler::connect(&config).await.is_err() {}
    pooler.end().await;
}

/// P7, O5: requests with keys of another process, which does not say whether they are right, hold all places that there
/// are for those: one more is refused, and a client's own request, which needs none, ends its query.
#[tokio::test]
async fn requests_of_nobody_refuse_no_owner() {
    let server = Postgres::start().await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let other = silent.local_addr().expect("bound").port();
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("stack.yaml");
    let stack = format!(
        "aqueduct: 1
pools:
  data:
    instances: {{ pool-1: {{ listen: 127.0.0.1:0, peer-id: 1 }} }}
    databases: {{ shop: {{ primary: 127.0.0.1:{} }} }}
    users: {{ open: {{}} }}
    peers: {{ \"2\": {{ at: 127.0.0.1:{other}, pool-size: 100 }} }}
    settings: {{ max_client_conn: 16, cancel_wait_timeout: 1h }}
",
        server.port
    );
    std::fs::write(&file, stack).expect("written");
    let topology = topology::load(&file).unwrap_or_else(|fault| panic!("{fault}"));
    let options = pgpool::Options::new("pool-1");
    let lifecycle = options.lifecycle.clone();
    let running = pgpool::start(std::sync::Arc::new(topology), "pool-1", options).await;
    let running = running.unwrap_or_else(|fault| panic!("{fault}"));
    let port = running.listeners[0].1.port();
    let mut owner = Raw::login(port).await;
    let mut request = Vec::new();
    put_cancel(&mut request, &CancelKey { pid: 2 << 25 | 1, secret: vec![7; 4] });
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut socket = attacker(9, port).await;
        socket.write_all(&request).await.expect("sent");
        held.push((socket, silent.accept().await.expect("passed on")));
    }
    let mut one_more = attacker(10, port).await;
    one_more.write_all(&request).await.expect("sent");
    assert_eq!(one_more.read(&mut [0]).await.expect("closed"), 0);
    owner.send(&query("select pg_sleep(10)")).await;
    let (key, ended) = (owner.key.clone(), Cell::new(false));
    let asks = async {
        while !ended.get() {
            Raw::cancel(port, &key).await;
        }
    };
    let hears = async {
        let messages = owner.until_ready(1).await;
        ended.set(true);
        messages
    };
    let ((), messages) = tokio::join!(asks, hears);
    assert!(text(&messages).contains("C57014"), "{}", text(&messages));
    drop((owner, held));
    lifecycle.stop();
    running.finished().await.expect("it ends");
}
