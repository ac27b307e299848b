//! Servers that the file names: where a name leads, how long that is believed, and what becomes of connections
//! when it changes. In memory, on a paused clock.
//!
//! Invariant: no test waits for wall time, and none asks the system.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgpool::admin::report::Report;
use pgpool::admin::show;
use tokio::time::{Instant, sleep};

use crate::fake::{Bench, local};

/// Where connections went so far.
fn peers(bench: &Bench) -> Vec<String> {
    bench.fake.peers.lock().expect("whole").clone()
}

/// `SHOW what` as text.
fn shown(bench: &Bench, what: &str) -> String {
    let report = Report::of(&bench.worker);
    let table = show::table(what, &report, &bench.worker.snapshot()).expect("a table");
    let mut out = Vec::new();
    table.put_rows(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// P2, D1: the addresses of a name are used in turn, looked up once for all, and again every `dns_max_ttl`
/// while there are connections; without any they are forgotten.
#[tokio::test(start_paused = true)]
async fn addresses_of_a_name_are_used_in_turn() {
    local(async {
        let (bench, book) = Bench::named(3, "", "dns_max_ttl: 10s, server_idle_timeout: 45s");
        book.lead(&[1, 2]);
        assert!(
            bench
                .worker
                .snapshot()
                .names
                .rows((&*bench.worker.settings()).into(), Instant::now())
                .is_empty()
        );
        let mut all = [bench.client().await, bench.client().await, bench.client().await];
        for client in &mut all {
            assert_eq!(client.ask("begin").await, "CZ");
        }
        assert_eq!(peers(&bench), ["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.1:5432"]);
        assert_eq!(book.asked.load(Ordering::SeqCst), 1, "one question for all");
        let hosts = shown(&bench, "DNS_HOSTS");
        assert!(hosts.contains("db.internal") && hosts.contains("10.0.0.1,10.0.0.2"), "{hosts}");
        assert!(shown(&bench, "LISTS").contains("dns_names\0\0\0\u{1}1"), "one name");
        for client in &mut all {
            assert_eq!(client.ask("commit").await, "CZ");
        }
        sleep(Duration::from_millis(10_200)).await;
        assert_eq!(book.asked.load(Ordering::SeqCst), 2, "looked at again when due");
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 3, "nothing has changed");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 0);
        let asked = book.asked.load(Ordering::SeqCst);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(book.asked.load(Ordering::SeqCst), asked, "nobody rests on it");
        assert!(!shown(&bench, "DNS_HOSTS").contains("db.internal"), "it is forgotten");
    })
    .await;
}

/// P2, D1: when a name leads elsewhere, idle servers at addresses that are gone are closed at once, used ones when
/// they come back, and new ones go to the new address.
#[tokio::test(start_paused = true)]
async fn a_name_that_leads_elsewhere_is_followed() {
    local(async {
        let (bench, book) = Bench::named(3, "", "dns_max_ttl: 10s");
        book.lead(&[1]);
        let (mut busy, mut idle) = (bench.client().await, bench.client().await);
        assert_eq!(busy.ask("begin").await, "CZ");
        assert_eq!(idle.ask("select").await, "CZ");
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 2);
        book.lead(&[2]);
        sleep(Duration::from_millis(9_500)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 2, "it is believed that long");
        sleep(Duration::from_millis(800)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 1, "the idle one is closed");
        assert_eq!(busy.ask("select").await, "CZ", "a transaction goes on");
        assert_eq!(busy.ask("commit").await, "CZ");
        sleep(Duration::from_millis(300)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 0, "it has come back");
        assert_eq!(idle.ask("select").await, "CZ");
        assert_eq!(peers(&bench).last().map(String::as_str), Some("10.0.0.2:5432"));
    })
    .await;
}

/// P2: a resolver that is down closes nothing, and what was known stays in use; a name that was never found is
/// asked for once per `dns_nxdomain_ttl`.
#[tokio::test(start_paused = true)]
async fn a_lookup_that_fails_closes_nothing() {
    local(async {
        let (bench, book) = Bench::named(2, "", "dns_nxdomain_ttl: 4s, query_wait_timeout: 1s");
        let mut lost = bench.arrive(&[]);
        assert_eq!(lost.answer().await, "57P03$");
        assert_eq!(bench.arrive(&[]).answer().await, "57P03$");
        assert_eq!(book.asked.load(Ordering::SeqCst), 1, "the answer holds");
        book.lead(&[1]);
        sleep(Duration::from_secs(5)).await;
        let mut client = bench.client().await;
        assert_eq!(client.ask("begin").await, "CZ");
        book.lead(&[]);
        sleep(Duration::from_secs(40)).await;
        assert!(book.asked.load(Ordering::SeqCst) > 5, "asked again and again");
        assert_eq!(client.ask("commit").await, "CZ");
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 1);
        assert_eq!(client.ask("begin").await, "CZ");
        assert_eq!(bench.client().await.ask("select").await, "CZ");
        assert_eq!(peers(&bench), ["10.0.0.1:5432", "10.0.0.1:5432"]);
    })
    .await;
}

/// P2: a resolver that never answers keeps nobody from addresses that are known, and is asked once meanwhile; who
/// needs the first answer waits no longer than for a server.
#[tokio::test(start_paused = true)]
async fn a_lookup_that_hangs_holds_nobody_up() {
    local(async {
        let settings = "dns_max_ttl: 10s, query_wait_timeout: 40s, server_connect_timeout: 5s";
        let (bench, book) = Bench::named(4, "", settings);
        book.lead(&[1]);
        let mut all = vec![bench.client().await];
        assert_eq!(all[0].ask("begin").await, "CZ");
        book.silent.store(true, Ordering::SeqCst);
        sleep(Duration::from_secs(30)).await;
        for _ in 0..3 {
            let mut client = bench.client().await;
            let begun = Instant::now();
            assert_eq!(client.ask("begin").await, "CZ");
            assert_eq!(begun.elapsed(), Duration::ZERO, "it has waited for nobody");
            all.push(client);
        }
        assert_eq!(peers(&bench), ["10.0.0.1:5432"; 4]);
        assert_eq!(book.asked.load(Ordering::SeqCst), 2, "one question at a time");
        let (bench, book) = Bench::named(1, "", settings);
        book.silent.store(true, Ordering::SeqCst);
        assert_eq!(bench.arrive(&[]).answer().await, "57P03$");
    })
    .await;
}

/// P2: an address that lets nobody connect has its name looked up again before `dns_max_ttl` is over.
#[tokio::test(start_paused = true)]
async fn a_dead_address_is_doubted() {
    local(async {
        let (bench, book) = Bench::named(1, "", "dns_max_ttl: 1h, server_login_retry: 1s");
        book.lead(&[1]);
        let mut client = bench.client().await;
        assert_eq!(client.ask("select").await, "CZ");
        sleep(Duration::from_secs(2)).await;
        bench.fake.down.store(true, Ordering::SeqCst);
        bench.tell(&pgpool::admin::verbs::Command::Reconnect(None, 1));
        book.lead(&[2]);
        client.send("select").await;
        sleep(Duration::from_millis(50)).await;
        bench.fake.down.store(false, Ordering::SeqCst);
        client.answer().await;
        let mut again = bench.client().await;
        assert_eq!(again.ask("select").await, "CZ");
        assert_eq!(peers(&bench).last().map(String::as_str), Some("10.0.0.2:5432"));
    })
    .await;
}

/// P2: a database that `*` stands for is forgotten, with its pools, when it has had no client and no server for
/// `autodb_idle_timeout`, not before; who names it again is served.
#[tokio::test(start_paused = true)]
async fn databases_that_nobody_uses_are_forgotten() {
    local(async {
        let settings = "autodb_idle_timeout: 100s, server_idle_timeout: 10s";
        let bench = Bench::any(1, settings);
        let count = || (bench.worker.pools().len(), bench.worker.snapshot().all_databases().len());
        let mut client = bench.client().await;
        assert_eq!(client.ask("select").await, "CZ");
        sleep(Duration::from_secs(200)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 0, "its server had nothing to do");
        assert_eq!(count(), (1, 1), "it has a client");
        drop(client);
        sleep(Duration::from_secs(99)).await;
        assert_eq!(count(), (1, 1));
        sleep(Duration::from_secs(2)).await;
        assert_eq!(count(), (0, 0));
        assert_eq!(bench.client().await.ask("select").await, "CZ");
        assert_eq!(count(), (1, 1));
        let kept = Bench::any(1, "autodb_idle_timeout: 0s, server_idle_timeout: 10s");
        assert_eq!(kept.client().await.ask("select").await, "CZ");
        let named = Bench::new(1, settings);
        assert_eq!(named.client().await.ask("select").await, "CZ");
        sleep(Duration::from_secs(10_000)).await;
        assert_eq!((kept.worker.pools().len(), named.worker.pools().len()), (1, 1));
    })
    .await;
}

/// P2, P5: of several equal servers each has its turn, or one is stayed with; one that lets nobody connect is passed
/// over without anybody noticing.
#[tokio::test(start_paused = true)]
async fn equal_servers_have_their_turn() {
    local(async {
        for (order, expected) in [
            ("round-robin", ["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.3:5432"]),
            ("disable", ["10.0.0.1:5432", "10.0.0.1:5432", "10.0.0.1:5432"]),
        ] {
            let more = format!(
                "pool-size: 6, load-balance-hosts: {order}, also-at: [\"10.0.0.2:5432\", \"10.0.0.3:5432\"]"
            );
            let bench = Bench::spread(&more, "");
            let databases = shown(&bench, "DATABASES");
            assert!(databases.contains(order) && databases.contains("10.0.0.1,10.0.0.2,10.0.0.3"));
            let mut all = Vec::new();
            for _ in 0..3 {
                let mut client = bench.client().await;
                assert_eq!(client.ask("begin").await, "CZ");
                all.push(client);
            }
            assert_eq!(peers(&bench), expected, "{order}");
            bench.fake.dead.lock().expect("whole").push("10.0.0.1:5432".to_owned());
            for _ in 0..3 {
                let mut client = bench.client().await;
                assert_eq!(client.ask("begin").await, "CZ");
                all.push(client);
            }
            let last = peers(&bench);
            let tried = last.iter().skip(3).filter(|at| *at == "10.0.0.1:5432").count();
            assert!(tried <= 1 || order == "round-robin", "{last:?}");
            assert_eq!(bench.fake.open.load(Ordering::SeqCst), 6, "{order}");
        }
    })
    .await;
}

/// P2, P5, P7: of several equal servers one from which nothing comes costs one `server_connect_timeout`, not the
/// pool: the next is tried, and it comes last until `server_login_retry` is over.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_passed_over() {
    local(async {
        for (order, expected, last) in [
            ("round-robin", ["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.3:5432"], "10.0.0.1:5432"),
            ("disable", ["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.2:5432"], "10.0.0.2:5432"),
        ] {
            let more = format!(
                "pool-size: 6, load-balance-hosts: {order}, also-at: [\"10.0.0.2:5432\", \"10.0.0.3:5432\"]"
            );
            let settings = "server_connect_timeout: 5s, server_login_retry: 60s";
            let bench = Bench::spread(&more, settings);
            bench.fake.lost.lock().expect("whole").push("10.0.0.1:5432".to_owned());
            let begun = Instant::now();
            let mut all = Vec::new();
            for _ in 0..4 {
                let mut client = bench.client().await;
                assert_eq!(client.ask("begin").await, "CZ", "{order}");
                all.push(client);
            }
            assert_eq!(begun.elapsed().as_secs(), 5, "{order}: for the first alone");
            assert_eq!(peers(&bench)[..3], expected, "{order}");
            let tried = |at: &str| peers(&bench).iter().filter(|one| *one == at).count();
            assert_eq!(tried("10.0.0.1:5432"), 1, "{order}");
            bench.fake.lost.lock().expect("whole").clear();
            sleep(Duration::from_secs(61)).await;
            let mut client = bench.client().await;
            assert_eq!(client.ask("begin").await, "CZ");
            assert_eq!(peers(&bench).last().map(String::as_str), Some(last), "{order}");
        }
    })
    .await;
}
