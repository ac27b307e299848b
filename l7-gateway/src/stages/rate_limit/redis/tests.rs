//! The script in a real Redis, against the table of this process as its oracle.

use std::process::Child;

use common::observe::Observer;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;
use topology::gateway::{LimitId, LimitStore, Login};
use topology::units::{At, Place};

use super::super::budget::Verdict;
use super::super::local::{Bounds, Charge, Subject, Table};
use super::*;
use crate::servers::{Redis, on_a_port};

fn store(server: &Redis) -> Store {
    store_of(&[server.address()], Duration::from_secs(2))
}

fn store_at(folder: &TempDir) -> Store {
    let address = format!("redis+unix://{}", folder.path().join("redis.sock").display());
    store_of(&[address], Duration::from_secs(2))
}

fn store_of(addresses: &[String], timeout: Duration) -> Store {
    let at = |value: &String| At { value: value.clone(), place: Place::default() };
    let redis = addresses.iter().map(at).collect();
    let login = Login::default();
    let model = LimitStore { redis, login, when_away: WhenAway::LocalShare, timeout };
    Store::new(&model).unwrap()
}

/// What a store says of all of them.
async fn whole(
    store: &Store,
    line: &mut Connection,
    charges: &[(String, Budget)],
    now: Option<u64>,
) -> Vec<Standing> {
    let Decision { standings, fault } = store.charge(line, charges, now).await;
    assert!(fault.is_none(), "{fault:?}");
    standings.into_iter().flatten().collect()
}

fn bare(line: &mut Connection) -> &mut ::redis::aio::MultiplexedConnection {
    let Connection::One(line) = line else { panic!("one server") };
    line
}

fn window(count: u64, per: u64) -> Budget {
    Budget::SlidingWindow { count, per }
}

fn keyed(key: &str, budget: Budget) -> (String, Budget) {
    (key.to_owned(), budget)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

const START: u64 = 1_800_000_000_000_000;

/// G10: Redis and the process give the same verdict, the same rest and the same wait for the same
/// requests at the same times.
#[test]
fn the_script_decides_as_the_table_does() {
    let (server, runtime) = (Redis::start(), runtime());
    let store = store(&server);
    let connection = runtime.block_on(store.connect()).unwrap();
    let budgets = [
        window(3, 1000),
        window(7, 5000),
        Budget::TokenBucket { fill: 1, cost: 300, capacity: 900 },
        Budget::TokenBucket { fill: 7, cost: 1000, capacity: 5000 },
        Budget::TokenBucket { fill: 3, cost: 86_400_000_011, capacity: 86_400_000_011 * 9 },
        Budget::FixedWindow { count: 4, per: 5000 },
        Budget::LeakyBucket { fill: 7, cost: 3000, capacity: 12_000 },
        Budget::Month { count: 5 },
    ];
    let gap = prop_oneof![Just(0), Just(1), 0..400_u64, Just(999), Just(1000), 0..20_000_u64];
    let step = (gap, proptest::sample::subsequence(vec![0, 1, 2, 3, 4, 5, 6, 7], 1..=5));
    let steps = proptest::collection::vec(step, 1..60);
    let case = std::cell::Cell::new(0);
    let config =
        ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let decided = TestRunner::new(config).run(&steps, |steps| {
        case.set(case.get() + 1);
        let mut connection = connection.clone();
        let (table, mut now) = (Table::new(Bounds::default(), budgets.to_vec()), START);
        for (gap, limits) in steps {
            now += gap;
            let here = limits.iter().map(|&n| Charge { limit: LimitId(n), subject: Subject::All });
            let there: Vec<_> =
                limits.iter().map(|&n| keyed(&format!("{}:{n}", case.get()), budgets[n])).collect();
            let expected = table.charge(&here.collect::<Vec<_>>(), now);
            let found = runtime.block_on(whole(&store, &mut connection, &there, Some(now)));
            prop_assert_eq!(found, expected, "at {} of {:?}", now - START, limits);
        }
        Ok(())
    });
    decided.unwrap();
}

/// G10: Redis and the process see a month end at the same microsecond.
#[tokio::test]
async fn both_know_the_calendar() {
    let server = Redis::start();
    let store = store(&server);
    let mut line = store.connect().await.unwrap();
    let budget = Budget::Month { count: 2 };
    let day = 86_400_000_000_u64;
    // The first of several months, in days since 1970: after 31, 28, 29 and 30 days, and of a year.
    for first in [20_819, 20_850, 20_878, 21_244, 20_940, 47_541] {
        let table = Table::new(Bounds::default(), vec![budget]);
        let key = format!("m{first}");
        for now in [-5_i64, -4, -3, 0, 1, 2].map(|off| (first * day).wrapping_add_signed(off)) {
            let charge = Charge { limit: LimitId(0), subject: Subject::All };
            let here = table.charge(&[charge], now);
            let there = whole(&store, &mut line, &[keyed(&key, budget)], Some(now)).await;
            assert_eq!(here, there, "{now}");
        }
    }
}

/// G10: of 120 requests within a minute, spread over two gateways with two connections each,
/// exactly 100 pass.
#[tokio::test]
async fn gateways_share_one_budget_exactly() {
    let server = Redis::start();
    let (one, two) = (store(&server), store(&server));
    let mut lines = [
        (&one, one.connect().await.unwrap()),
        (&one, one.connect().await.unwrap()),
        (&two, two.connect().await.unwrap()),
        (&two, two.connect().await.unwrap()),
    ];
    let charges = [keyed("ratelimit:app:user:user:99", window(100, 60_000_000))];
    let all = lines.iter_mut().map(|(store, line)| {
        let charges = &charges;
        async move {
            let mut admitted = 0;
            for _ in 0..30 {
                let standing = whole(store, line, charges, None).await[0];
                admitted += usize::from(standing.verdict == Verdict::Admit);
            }
            admitted
        }
    });
    let admitted = futures_util::future::join_all(all).await;
    assert_eq!(admitted.iter().sum::<usize>(), 100, "{admitted:?}");
}

/// G10: one refusal and no limit of the request is charged.
#[tokio::test]
async fn all_or_none() {
    let server = Redis::start();
    let store = store(&server);
    let mut line = store.connect().await.unwrap();
    let bucket = Budget::TokenBucket { fill: 1, cost: 1000, capacity: 5000 };
    let both = [keyed("a", bucket), keyed("b", window(2, 1000))];
    for n in 0..6 {
        let standings = whole(&store, &mut line, &both, Some(START)).await;
        let expected = if n < 2 { (4 - n, Verdict::Admit) } else { (3, Verdict::Refuse) };
        assert_eq!((standings[0].remaining, standings[1].verdict), expected);
        assert_eq!(standings[0].verdict, Verdict::Admit);
    }
}

/// Counters go by themselves once they say nothing any more.
#[tokio::test]
async fn counters_expire() {
    let server = Redis::start();
    let store = store(&server);
    let mut line = store.connect().await.unwrap();
    let bucket = Budget::TokenBucket { fill: 1, cost: 60_000_000, capacity: 6_000_000_000 };
    let both = [keyed("bucket", bucket), keyed("window", window(100, 60_000_000))];
    whole(&store, &mut line, &both, None).await;
    for (key, most) in [("bucket", 60_002), ("window", 60_002)] {
        let left: i64 = ::redis::cmd("PTTL").arg(key).query_async(bare(&mut line)).await.unwrap();
        assert!((1..=most).contains(&left), "{key}: {left}");
    }
}

/// A Redis that has lost the script gets it again; a counter of another kind starts afresh.
#[tokio::test]
async fn what_redis_may_have_forgotten() {
    let server = Redis::start();
    let store = store(&server);
    let mut line = store.connect().await.unwrap();
    let () = ::redis::cmd("SCRIPT").arg("FLUSH").query_async(bare(&mut line)).await.unwrap();
    let bucket = Budget::TokenBucket { fill: 1, cost: 1000, capacity: 5000 };
    let left = async |line: &mut Connection, budget| {
        whole(&store, line, &[keyed("k", budget)], Some(START)).await[0].remaining
    };
    assert_eq!(left(&mut line, bucket).await, 4);
    assert_eq!(left(&mut line, window(9, 1000)).await, 8);
    assert_eq!(left(&mut line, bucket).await, 4);
    let faster = Budget::TokenBucket { fill: 1, cost: 500, capacity: 2500 };
    assert_eq!(left(&mut line, faster).await, 3, "whole units are kept when the rate changes");
    let () =
        ::redis::cmd("SET").arg("k").arg("nonsense").query_async(bare(&mut line)).await.unwrap();
    assert_eq!(left(&mut line, bucket).await, 4);
}

/// Redis's clock is stepped back by an hour: nobody gains, nobody waits longer than a window.
#[tokio::test]
async fn a_clock_that_steps_back() {
    let server = Redis::start();
    let store = store(&server);
    let mut line = store.connect().await.unwrap();
    let bucket = Budget::TokenBucket { fill: 1, cost: 1000, capacity: 2000 };
    let hour = 3_600_000_000;
    let fixed = Budget::FixedWindow { count: 2, per: 1000 };
    for (key, budget) in [("w", window(2, 1000)), ("b", bucket), ("f", fixed)] {
        let mut at =
            async |now| whole(&store, &mut line, &[keyed(key, budget)], Some(now)).await[0];
        at(START).await;
        at(START).await;
        let refused = at(START - hour).await;
        assert_eq!((refused.verdict, refused.next), (Verdict::Refuse, 1000), "{key}");
        assert_eq!(at(START - hour + 1000).await.verdict, Verdict::Admit, "{key}");
    }
}

/// G10: a Redis that is away, comes, freezes and comes back: a link never waits for what is known
/// to be away.
#[tokio::test]
async fn a_link_survives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(store_at(&folder));
    let link = Link::new(Arc::clone(&store), Observer::new("gw-1"));
    let charges = [keyed("k", window(1000, 60_000_000))];
    assert!(matches!(link.charge(&charges).await, Err(StoreError::Away)));
    let server = Redis::start_in(folder);
    comes_back(&link, &charges).await;

    server.freeze();
    let impatient = Link {
        store: Arc::new(store_of(&[server.address()], Duration::from_millis(5))),
        ..link.clone()
    };
    assert!(matches!(impatient.charge(&charges).await, Err(StoreError::Timeout)));
    assert!(matches!(impatient.charge(&charges).await, Err(StoreError::Away)));
    server.thaw();
    comes_back(&link, &charges).await;

    let folder = server.stop();
    let fault = link.charge(&charges).await.expect_err("nobody is there");
    assert!(matches!(fault, StoreError::Failed(_)), "{fault}");
    assert!(matches!(link.charge(&charges).await, Err(StoreError::Away)));
    let _server = Redis::start_in(folder);
    comes_back(&link, &charges).await;
}

/// G10: a worker that has just started counts in Redis from its first request on.
#[tokio::test]
async fn the_first_decision_waits_for_the_connection() {
    let server = Redis::start();
    let link = Link::new(Arc::new(store(&server)), Observer::new("gw-1"));
    let charges = [keyed("k", window(9, 60_000_000))];
    assert_eq!(link.charge(&charges).await.expect("it waits")[0].map(|s| s.remaining), Some(8));
}

async fn comes_back(link: &Link, charges: &[(String, Budget)]) {
    let again = async {
        while link.charge(charges).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("the link comes back");
}

/// A wrong address is said without the password in it.
#[test]
fn a_wrong_address() {
    let value = "nonsense://user:s3cret@host".to_owned();
    let model = LimitStore {
        redis: vec![At { value, place: Place::default() }],
        login: Login::default(),
        when_away: WhenAway::FailOpen,
        timeout: Duration::from_millis(20),
    };
    let fault = Store::new(&model).expect_err("not Redis").to_string();
    assert_eq!(fault, "this is no address of Redis");
}

/// Three nodes of a cluster, on ports below those that the kernel gives to sockets by itself (ip(7),
/// `ip_local_port_range`), so that no other test has one of them a moment later.
struct Cluster {
    nodes: Vec<Child>,
    ports: Vec<u16>,
    _folder: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let first = std::process::id() % 20_000;
        let mut ports = (first..).map(|n| 10_000 + u16::try_from(n % 22_000).unwrap());
        let mut free = || {
            ports.find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok()).unwrap()
        };
        let held: Vec<_> = (0..6).map(|_| free()).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        let start = |at: usize| {
            let own = folder.path().join(at.to_string());
            std::fs::create_dir(&own).unwrap();
            let bus = ports[at + 3].to_string();
            let words = "--cluster-enabled yes --cluster-require-full-coverage no \
                         --cluster-node-timeout 15000 --cluster-port";
            let words: Vec<&str> = words.split_whitespace().chain([bus.as_str()]).collect();
            on_a_port(&own, ports[at], &words)
        };
        let nodes = (0..3).map(start).collect();
        Self { nodes, ports, _folder: folder }
    }

    fn addresses(&self) -> Vec<String> {
        self.ports[..3].iter().map(|port| format!("redis://127.0.0.1:{port}")).collect()
    }

    /// The nodes meet, each with a third of the slots.
    async fn form(&self) {
        let mut lines = Vec::new();
        for address in self.addresses() {
            let client = ::redis::Client::open(address).unwrap();
            lines.push(client.get_multiplexed_async_connection().await.unwrap());
        }
        for (at, (first, last)) in [(0, 5460), (5461, 10922), (10923, 16383)].iter().enumerate() {
            let mut cmd = ::redis::cmd("CLUSTER");
            let () = cmd
                .arg("ADDSLOTSRANGE")
                .arg(*first)
                .arg(*last)
                .query_async(&mut lines[at])
                .await
                .unwrap();
            let mut meet = ::redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(self.ports[at]).arg(self.ports[at + 3]);
            let () = meet.query_async(&mut lines[0]).await.unwrap();
        }
        for line in &mut lines {
            let all = async |line: &mut ::redis::aio::MultiplexedConnection| {
                let info: String =
                    ::redis::cmd("CLUSTER").arg("INFO").query_async(line).await.unwrap();
                // Where not all slots have to be served, a state of `ok` says nothing of them.
                ["cluster_state:ok", "cluster_known_nodes:3", "cluster_slots_ok:16384"]
                    .iter()
                    .all(|wanted| info.contains(wanted))
            };
            while !all(line).await {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// G10: on a cluster each limit is counted exactly where its key lives, all limits of a request at
/// once. When a node dies the others count on, and of its keys the store says nothing, within its
/// timeout.
#[tokio::test]
async fn a_cluster_that_loses_a_node() {
    let mut cluster = Cluster::start();
    cluster.form().await;
    let store = store_of(&cluster.addresses(), Duration::from_secs(2));
    let mut line = store.connect().await.unwrap();
    // Many keys: some on each node.
    let charges: Vec<_> = (0..12)
        .map(|n| keyed(&format!("ratelimit:app:user:user:{n}"), window(3, 60_000_000)))
        .collect();
    for left in [2, 1, 0] {
        let standings = whole(&store, &mut line, &charges, None).await;
        assert!(standings.iter().all(|s| (s.verdict, s.remaining) == (Verdict::Admit, left)));
    }
    let refused = whole(&store, &mut line, &charges, None).await;
    assert!(refused.iter().all(|s| s.verdict == Verdict::Refuse));

    let link = Link::new(
        Arc::new(store_of(&cluster.addresses(), Duration::from_secs(2))),
        Observer::new("gw-1"),
    );
    assert!(link.charge(&charges).await.unwrap().iter().all(Option::is_some));
    cluster.nodes[1].kill().unwrap();
    cluster.nodes[1].wait().unwrap();
    for _ in 0..3 {
        let said = link.charge(&charges).await.expect("two of three nodes answer");
        let there: Vec<Standing> = said.iter().flatten().copied().collect();
        assert!((4..12).contains(&there.len()), "{said:?}");
        assert!(there.iter().all(|standing| standing.verdict == Verdict::Refuse));
    }
}
