//! What only time brings about: timeouts, back-off, idle servers. In memory, on a paused clock.
//!
//! Invariant: no test waits for wall time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::fake::{Bench, Newest, local};

/// P2: who waits too long for a server is told, in the time that is configured and not before.
#[tokio::test(start_paused = true)]
async fn query_wait_timeout() {
    local(async {
        let bench = Bench::new(1, "query_wait_timeout: 3s");
        let (mut one, mut two) = (bench.client().await, bench.client().await);
        one.send("hang").await;
        assert_eq!(one_moment(&mut one).await, None, "no answer");
        let begun = Instant::now();
        assert_eq!(two.ask("select").await, "53300$");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3300), "{took:?}");
    })
    .await;
}

async fn one_moment(client: &mut crate::fake::Talk) -> Option<String> {
    tokio::time::timeout(Duration::from_millis(10), client.answer()).await.ok()
}

/// P4, P2: a login that takes too long is told so, in the time that is configured and not before; its place is
/// free then.
#[tokio::test(start_paused = true)]
async fn client_login_timeout() {
    local(async {
        let bench = Bench::new(1, "client_login_timeout: 4s, max_client_conn: 1");
        bench.fake.stuck.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        assert_eq!(bench.arrive(&[]).answer().await, "57014$");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_millis(4300), "{took:?}");
        bench.fake.stuck.store(false, Ordering::SeqCst);
        tokio::task::yield_now().await;
        assert_eq!(bench.worker.snapshot().clients.now(), 0);
    })
    .await;
}

/// P2: the queue is fair: first come, first served, and never more servers than the pool has.
#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    local(async {
        let bench = Bench::new(2, "");
        let mut clients = Vec::new();
        for _ in 0..30 {
            clients.push(bench.client().await);
        }
        let work = clients.iter_mut().map(|client| async move {
            for _ in 0..20 {
                assert_eq!(client.ask("select").await, "CZ");
            }
        });
        futures_util::future::join_all(work).await;
        assert!(bench.fake.most.load(Ordering::SeqCst) <= 2);
        assert_eq!(bench.fake.logins.load(Ordering::SeqCst), 2);
    })
    .await;
}

/// P7: a query over its time is cancelled, its client told, and the next client served.
#[tokio::test(start_paused = true)]
async fn query_timeout() {
    local(async {
        let bench = Bench::new(1, "query_timeout: 2s");
        let mut slow = bench.client().await;
        let mut next = bench.client().await;
        assert_eq!(slow.ask("hang").await, "57014$");
        assert_eq!(next.ask("select").await, "CZ");
        // This one never answers: the request is repeated until it is given up.
        let cancels = bench.fake.cancels.load(Ordering::SeqCst);
        assert!((2..=21).contains(&cancels), "{cancels}");
    })
    .await;
}

/// P7: a cancel request that comes while the server is made the client's own means the client's query:
/// it waits for the end of ours.
#[tokio::test(start_paused = true)]
async fn a_cancel_spares_our_own_queries() {
    local(async {
        let bench = Bench::new(1, "");
        bench.fake.slow.store(true, Ordering::SeqCst);
        let mut client = bench.arrive(&[("timezone", "Europe/Rome")]);
        client.answer().await;
        client.send("hang").await;
        bench.fake.came.notified().await;
        bench.cancel(1);
        settled().await;
        assert_eq!(bench.fake.cancels.load(Ordering::SeqCst), 0);
        bench.fake.go.notify_one();
        settled().await;
        assert_eq!(bench.fake.cancels.load(Ordering::SeqCst), 1);
    })
    .await;
}

/// P7: what a client asks while its cancel request still travels waits: the request means what was asked
/// before.
#[tokio::test(start_paused = true)]
async fn a_cancel_spares_what_is_asked_after_it() {
    local(async {
        let bench = Bench::new(1, "cancel_wait_timeout: 10s");
        let mut client = bench.client().await;
        assert_eq!(client.ask("begin").await, "CZ");
        bench.fake.slow.store(true, Ordering::SeqCst);
        client.send("select set_config()").await;
        bench.fake.came.notified().await;
        bench.fake.stuck.store(true, Ordering::SeqCst);
        bench.cancel(1);
        settled().await;
        bench.fake.go.notify_one();
        assert_eq!(client.answer().await, "CZ");
        client.send("select").await;
        let soon = tokio::time::timeout(Duration::from_secs(9), client.answer());
        assert!(soon.await.is_err(), "the request could still hit it");
        assert_eq!(client.answer().await, "CZ");
    })
    .await;
}

/// P3: a notification that comes right behind the answer to LISTEN is told behind it, though its client does
/// nothing more.
#[tokio::test(start_paused = true)]
async fn what_is_heard_at_once_is_told_at_once() {
    local(async {
        let bench = Bench::new(2, "shared_listen: true");
        let mut client = bench.client().await;
        assert_eq!(client.ask("listen jobs").await, "CZ");
        assert_eq!(client.tag().await, Some('A'));
        assert_eq!(client.tag().await, None);
    })
    .await;
}

/// P1, P7: a server that lets nobody in to replicate is tried with growing pauses, whoever asks.
#[tokio::test(start_paused = true)]
async fn refused_streams_meet_pauses() {
    local(async {
        let bench = Bench::new(2, "server_login_retry: 15s");
        bench.fake.down.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        let mut took = Vec::new();
        for _ in 0..4 {
            let mut client = bench.arrive(&[("replication", "true")]);
            assert!(client.answer().await.ends_with('$'));
            took.push(begun.elapsed().as_millis());
        }
        let pauses: Vec<_> = took.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses[0] >= 100 && pauses[1] >= 200 && pauses[2] >= 400, "{pauses:?}");
        bench.fake.down.store(false, Ordering::SeqCst);
        assert_eq!(bench.client().await.ask("select").await, "CZ", "queries wait for none of it");
    })
    .await;
}

/// Everybody has done what can be done without time passing.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// P1, P7: servers are asked for protocol 3.2; one that does not know it is spoken to in 3.0, at once from
/// then on, and one that does gets its long key back in a cancel request.
#[tokio::test(start_paused = true)]
async fn servers_speak_the_newest_protocol_that_they_know() {
    use pgpool_wire::startup::{V3_0, V3_2};
    let table = [
        (Newest::Negotiates, vec![V3_2, V3_2], 4),
        (Newest::Refuses, vec![V3_2, V3_0, V3_0], 4),
        (Newest::Speaks, vec![V3_2, V3_2], 32),
    ];
    for (newest, asked, key) in table {
        local(async {
            let bench = Bench::new(1, "query_timeout: 2s");
            *bench.fake.newest.lock().expect("whole") = newest;
            assert_eq!(bench.client().await.ask("hang").await, "57014$");
            assert_eq!(bench.client().await.ask("select").await, "CZ");
            assert_eq!(bench.fake.secret.lock().expect("whole").len(), key);
            assert_eq!(*bench.fake.asked.lock().expect("whole"), asked);
        })
        .await;
    }
}

/// P2: a client that is idle in a transaction for too long loses it, and the server lives on.
#[tokio::test(start_paused = true)]
async fn idle_transaction_timeout() {
    local(async {
        let bench = Bench::new(1, "idle_transaction_timeout: 2s");
        let mut idle = bench.client().await;
        let mut next = bench.client().await;
        assert_eq!(idle.ask("begin").await, "CZ");
        assert_eq!(next.ask("select").await, "CZ");
        assert_eq!(idle.answer().await, "25P03$");
        assert_eq!(bench.fake.logins.load(Ordering::SeqCst), 1);
    })
    .await;
}

/// O5: a server that is down is tried with growing pauses, not in a storm; whoever waits is told.
#[tokio::test(start_paused = true)]
async fn a_dead_server_meets_no_storm() {
    local(async {
        let bench = Bench::new(5, "server_idle_timeout: 1s");
        let mut client = bench.client().await;
        bench.fake.down.store(true, Ordering::SeqCst);
        // The idle server is closed after a second; then there is none.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 0);
        assert_eq!(client.ask("select").await, "57P03$");
        bench.fake.down.store(false, Ordering::SeqCst);
        let mut next = bench.client().await;
        assert_eq!(next.ask("select").await, "CZ");
    })
    .await;
}

/// O3: on a drain an idle client is told, one in a transaction may end it first.
#[tokio::test(start_paused = true)]
async fn drain() {
    local(async {
        let bench = Bench::new(1, "");
        let mut idle = bench.client().await;
        let mut busy = bench.client().await;
        assert_eq!(busy.ask("begin").await, "CZ");
        bench.lifecycle.drain();
        assert_eq!(idle.answer().await, "57P01$");
        assert_eq!(busy.ask("commit").await, "CZ");
        assert_eq!(busy.answer().await, "57P01$");
    })
    .await;
}

/// P2: `min_pool_size` servers are there before anybody needs them, and stay.
#[tokio::test(start_paused = true)]
async fn min_pool_size() {
    local(async {
        let bench = Bench::new(5, "min_pool_size: 3, server_idle_timeout: 1s");
        let mut client = bench.client().await;
        assert_eq!(client.ask("select").await, "CZ");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 3);
        assert_eq!(bench.fake.most.load(Ordering::SeqCst), 3);
    })
    .await;
}

/// P2: the reserve opens when somebody has waited `reserve_pool_timeout`, not before, and is closed
/// when nobody waits any more.
#[tokio::test(start_paused = true)]
async fn reserve_pool() {
    local(async {
        let bench = Bench::new(1, "reserve_pool_size: 1, reserve_pool_timeout: 3s");
        let (mut one, mut two) = (bench.client().await, bench.client().await);
        assert_eq!(one.ask("begin").await, "CZ");
        let begun = Instant::now();
        assert_eq!(two.ask("select").await, "CZ");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3300), "{took:?}");
        assert_eq!(one.ask("commit").await, "CZ");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.fake.most.load(Ordering::SeqCst), 2);
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 1);
    })
    .await;
}

/// P2: a database's and a user's connections are bounded whatever the pool's size is.
#[tokio::test(start_paused = true)]
async fn connections_of_a_database_and_of_a_user() {
    for limit in ["max_db_connections: 2", "max_user_connections: 2"] {
        local(async {
            let bench = Bench::new(9, limit);
            let mut clients = Vec::new();
            for _ in 0..12 {
                clients.push(bench.client().await);
            }
            let work = clients.iter_mut().map(|client| async move {
                for sql in ["begin", "select", "commit", "select"] {
                    assert_eq!(client.ask(sql).await, "CZ");
                }
            });
            futures_util::future::join_all(work).await;
            assert_eq!(bench.fake.most.load(Ordering::SeqCst), 2, "{limit}");
        })
        .await;
    }
}

/// P2: a server that is too old is closed when it is free, and never inside a transaction.
#[tokio::test(start_paused = true)]
async fn server_lifetime() {
    local(async {
        let bench = Bench::new(1, "server_lifetime: 5s");
        let mut client = bench.client().await;
        assert_eq!(client.ask("begin").await, "CZ");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(client.ask("commit").await, "CZ");
        assert_eq!(bench.fake.logins.load(Ordering::SeqCst), 1);
        assert_eq!(client.ask("select").await, "CZ");
        assert_eq!(bench.fake.logins.load(Ordering::SeqCst), 2);
        assert_eq!(bench.fake.most.load(Ordering::SeqCst), 1, "one goes before another comes");
    })
    .await;
}

/// P2: a client that says nothing for too long is told and closed.
#[tokio::test(start_paused = true)]
async fn client_idle_timeout() {
    local(async {
        let bench = Bench::new(1, "client_idle_timeout: 4s");
        let mut client = bench.client().await;
        assert_eq!(client.ask("select").await, "CZ");
        let begun = Instant::now();
        assert_eq!(client.answer().await, "57P05$");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_millis(4300), "{took:?}");
    })
    .await;
}

/// P2, O5: a server that takes connections and answers none is given up in time.
#[tokio::test(start_paused = true)]
async fn server_connect_timeout() {
    local(async {
        let bench = Bench::new(1, "server_connect_timeout: 6s, server_lifetime: 1s");
        let mut client = bench.client().await;
        bench.fake.stuck.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let begun = Instant::now();
        assert_eq!(client.ask("select").await, "N57P03$");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(6) && took < Duration::from_secs(7), "{took:?}");
    })
    .await;
}

/// P2: a transaction over its time ends with its client, however busy it is; each has its own time, and a
/// user's own holds in place of that of all.
#[tokio::test(start_paused = true)]
async fn transaction_timeout() {
    for (user, settings) in [
        ("", "transaction_timeout: 5s"),
        ("transaction-timeout: 5s", "transaction_timeout: 1s"),
        ("transaction-timeout: 5s, query-timeout: 9s", ""),
    ] {
        local(async {
            let bench = Bench::with(1, user, settings);
            let (mut busy, mut next) = (bench.client().await, bench.client().await);
            for _ in 0..3 {
                assert_eq!(busy.ask("begin").await, "CZ");
                tokio::time::sleep(Duration::from_secs(3)).await;
                assert_eq!(busy.ask("commit").await, "CZ");
            }
            let begun = Instant::now();
            assert_eq!(busy.ask("begin").await, "CZ");
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(busy.ask("select").await, "CZ");
            }
            assert_eq!(busy.ask("hang").await, "25P04$");
            let took = begun.elapsed();
            let most = Duration::from_millis(5300);
            assert!(took >= Duration::from_secs(5) && took < most, "{user} {settings}: {took:?}");
            assert_eq!(next.ask("select").await, "CZ");
        })
        .await;
    }
}

/// P2: a user's times hold in place of those of all, zero included.
#[tokio::test(start_paused = true)]
async fn a_user_has_times_of_its_own() {
    local(async {
        let user = "query-timeout: 2s, idle-transaction-timeout: 3s, client-idle-timeout: 0s";
        let settings = "query_timeout: 1m, idle_transaction_timeout: 1m, client_idle_timeout: 4s";
        let bench = Bench::with(2, user, settings);
        let (mut slow, mut idle) = (bench.client().await, bench.client().await);
        let mut quiet = bench.client().await;
        let begun = Instant::now();
        assert_eq!(slow.ask("hang").await, "57014$");
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert_eq!(idle.ask("begin").await, "CZ");
        assert_eq!(idle.answer().await, "25P03$");
        assert!(begun.elapsed() < Duration::from_secs(7));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(quiet.ask("select").await, "CZ");
    })
    .await;
}

/// P2: who waits for a server is told once, after `query_wait_notify`, and served all the same.
#[tokio::test(start_paused = true)]
async fn query_wait_notify() {
    local(async {
        let bench = Bench::new(1, "query_wait_notify: 3s");
        let (mut one, mut two) = (bench.client().await, bench.client().await);
        assert_eq!(one.ask("begin").await, "CZ");
        two.send("select").await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(one.ask("commit").await, "CZ");
        // An N with its SQLSTATE is shown by its type.
        assert_eq!(two.answer().await, "NCZ");
        assert_eq!(two.ask("select").await, "CZ");
    })
    .await;
}

/// P2: a server that has rested is asked whether it lives and closed if not, before a client meets it; and
/// being asked is not being used.
#[tokio::test(start_paused = true)]
async fn server_check_query() {
    local(async {
        let settings = "server_check_query: hang, server_check_delay: 5s";
        let bench = Bench::new(1, settings);
        let mut client = bench.client().await;
        assert_eq!(client.ask("select").await, "CZ");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 1);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 0, "it gave no answer");
        assert_eq!(client.ask("select").await, "CZ");
        let bench = Bench::new(1, "server_check_delay: 2s, server_idle_timeout: 7s");
        let mut client = bench.client().await;
        assert_eq!(client.ask("select").await, "CZ");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(bench.fake.logins.load(Ordering::SeqCst), 1);
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 1, "it answered");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.fake.open.load(Ordering::SeqCst), 0, "nobody has used it");
    })
    .await;
}

/// P2: the pause between two tries of a server that is down grows no longer than `server_login_retry`.
#[tokio::test(start_paused = true)]
async fn server_login_retry() {
    local(async {
        let bench = Bench::new(1, "server_login_retry: 1s, server_idle_timeout: 1s");
        let mut client = bench.client().await;
        bench.fake.down.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(3)).await;
        for _ in 0..8 {
            client = match client.ask("select").await.as_str() {
                "57P03$" => bench.client().await,
                other => panic!("{other}"),
            };
        }
        bench.fake.down.store(false, Ordering::SeqCst);
        let begun = Instant::now();
        assert_eq!(client.ask("select").await, "CZ");
        assert!(begun.elapsed() <= Duration::from_millis(1100), "{:?}", begun.elapsed());
    })
    .await;
}

/// P2: with `server_fast_close` a client in session mode does not keep a server that is to go, but may end its
/// transaction; without, it keeps it until it leaves.
#[tokio::test(start_paused = true)]
async fn server_fast_close() {
    for (settings, closes) in [("server_fast_close: true", true), ("", false)] {
        local(async {
            let bench = Bench::with(1, "mode: session", settings);
            let mut client = bench.client().await;
            assert_eq!(client.ask("begin").await, "CZ");
            bench.worker.pools().iter().for_each(|pool| pool.reconnect());
            assert_eq!(client.ask("select").await, "CZ");
            assert_eq!(client.ask("commit").await, "CZ");
            if closes {
                assert_eq!(client.answer().await, "57P01$");
            } else {
                assert_eq!(one_moment(&mut client).await, None);
                assert_eq!(client.ask("select").await, "CZ");
            }
        })
        .await;
    }
}

/// P3, P2: no more than `max_pinned` servers are tied to their clients; who would tie one more is told, the others
/// are served, and a place is free when its client leaves.
#[tokio::test(start_paused = true)]
async fn max_pinned() {
    local(async {
        let bench = Bench::new(3, "max_pinned: 1");
        let sql = "create temp table own ()";
        let (mut one, mut two) = (bench.client().await, bench.client().await);
        let mut other = bench.client().await;
        assert_eq!(one.ask(sql).await, "CZ");
        assert_eq!(one.ask(sql).await, "CZ", "it has its place");
        assert_eq!(two.ask(sql).await, "53400$");
        assert_eq!(other.ask("select").await, "CZ");
        drop(one);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(other.ask(sql).await, "CZ");
    })
    .await;
}

/// P7: a client that has read half of a message is ended without a word: it would take it for the other half.
#[tokio::test(start_paused = true)]
async fn nothing_is_said_inside_a_message() {
    local(async {
        let bench = Bench::new(1, "client_idle_timeout: 2s");
        let mut client = bench.client().await;
        for _ in 0..5000 {
            client.send("select").await;
        }
        // It does not read; the flush of what it was answered has been given up, a goodbye would wait.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        let rest = client.rest().await;
        assert!(rest.len() > 1 << 15);
        assert!(!rest.windows(5).any(|bytes| bytes == b"FATAL"));
    })
    .await;
}
