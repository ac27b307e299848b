//! What the shards of a pool do together, on workers that run one after the other on one thread: who asks whom, what
//! counts once. In memory, on a paused clock; what threads do at the same time is in `shards`.
//!
//! Invariant: time only passes where nobody has anything to do, so that what takes none was not waited for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgpool::admin::verbs::{Command, Statement, parse};
use tokio::time::Instant;

use crate::fake::{Bench, Talk, local};

fn command(sql: &str) -> Command {
    match parse(sql) {
        Ok(Statement::Tell(command, _)) => command,
        other => panic!("{sql}: {other:?}"),
    }
}

/// Clients of one worker, each in a transaction.
async fn working(bench: &Bench, count: usize) -> Vec<Talk> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut client = bench.client().await;
        assert_eq!(client.ask("begin").await, "CZ");
        all.push(client);
    }
    all
}

/// So many servers rest at a worker.
async fn rest(bench: &Bench, count: usize) {
    for client in &mut working(bench, count).await {
        assert_eq!(client.ask("commit").await, "CZ");
    }
}

/// P2: a shard whose neighbour had a server when it was asked, and has none now, asks the next one at once; one that
/// goes on after a PAUSE asks as well.
#[tokio::test(start_paused = true)]
async fn who_has_none_to_spare_is_not_waited_for() {
    local(async {
        let team = Bench::team(3, 2, "");
        let (mut asks, mut taker) = (team[0].client().await, team[2].client().await);
        // Both at a time, so that none is lent.
        let mut both = [team[1].client().await, team[2].client().await];
        for client in &mut both {
            assert_eq!(client.ask("begin").await, "CZ");
        }
        for client in &mut both {
            assert_eq!(client.ask("commit").await, "CZ");
        }
        let begun = Instant::now();
        // The last of those that have one is asked; its own client is quicker.
        asks.send("select").await;
        taker.send("begin").await;
        assert_eq!((asks.answer().await.as_str(), taker.answer().await.as_str()), ("CZ", "CZ"));
        assert!(begun.elapsed().is_zero(), "{:?}", begun.elapsed());
        assert_eq!(team[0].fake.logins.load(Ordering::SeqCst), 2);

        assert_eq!(taker.ask("commit").await, "CZ");
        team.iter().for_each(|bench| bench.tell(&command("PAUSE shop")));
        both[0].send("select").await;
        assert_eq!(both[0].tag().await, None, "it is paused");
        let begun = Instant::now();
        for at in [0, 2, 1] {
            team[at].tell(&command("RESUME shop"));
            tokio::task::yield_now().await;
        }
        assert_eq!(both[0].answer().await, "CZ");
        assert!(begun.elapsed().is_zero(), "{:?}", begun.elapsed());
    })
    .await;
}

/// P2: a burst of clients on all workers is no greater burst of logins than on one; all are served in the end.
#[tokio::test(start_paused = true)]
async fn logins_at_once_count_for_all_shards() {
    local(async {
        let team = Bench::team(3, 20, "server_connect_timeout: 5s");
        let mut clients = Vec::new();
        for bench in team.iter().cycle().take(18) {
            clients.push(bench.client().await);
        }
        let fake = &team[0].fake;
        let before = fake.dialled.load(Ordering::SeqCst);
        fake.stuck.store(true, Ordering::SeqCst);
        for client in &mut clients {
            client.send("begin").await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.dialled.load(Ordering::SeqCst) - before, 4);
        fake.stuck.store(false, Ordering::SeqCst);
        for client in &mut clients {
            // It may be told that it waits.
            assert!(client.answer().await.ends_with("CZ"));
        }
        assert_eq!(fake.open.load(Ordering::SeqCst), 18);
    })
    .await;
}

/// P2: of what rests too long as many servers stay as the least, all shards and those that work counted; a pool that
/// is short of them has no more than the least for all shards together.
#[tokio::test(start_paused = true)]
async fn the_least_counts_for_all_shards() {
    local(async {
        let team = Bench::team(2, 4, "min_pool_size: 3, server_idle_timeout: 5s");
        let fake = &team[0].fake;
        let work = working(&team[0], 3).await;
        rest(&team[1], 1).await;
        assert_eq!(fake.open.load(Ordering::SeqCst), 4);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(fake.open.load(Ordering::SeqCst), 3, "one was more than the least");
        for mut client in work {
            assert_eq!(client.ask("commit").await, "CZ");
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(fake.open.load(Ordering::SeqCst), 3);
        assert_eq!(fake.logins.load(Ordering::SeqCst), 4, "none was closed that had to come again");

        let fresh = Bench::team(2, 4, "min_pool_size: 3");
        let _clients = [fresh[0].client().await, fresh[1].client().await];
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fresh[0].fake.open.load(Ordering::SeqCst), 3);
        assert_eq!(fresh[0].fake.most.load(Ordering::SeqCst), 3);
    })
    .await;
}

/// P2: the reserve is one for all shards, opened for whichever of them waits, and closed afterwards.
#[tokio::test(start_paused = true)]
async fn the_reserve_is_one_for_all_shards() {
    local(async {
        let settings = "reserve_pool_size: 1, reserve_pool_timeout: 2s";
        let team = Bench::team(2, 1, settings);
        let fake = &team[0].fake;
        let mut first = working(&team[0], 1).await.remove(0);
        let (mut second, mut third) = (team[1].client().await, team[0].client().await);
        let begun = Instant::now();
        second.send("begin").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        third.send("select").await;
        assert_eq!(second.answer().await, "CZ");
        let took = begun.elapsed();
        let (least, most) = (Duration::from_secs(2), Duration::from_millis(2300));
        assert!(took >= least && took < most, "{took:?}");
        assert_eq!(third.tag().await, None, "there is one, and it is taken");
        assert_eq!(second.ask("commit").await, "CZ");
        assert_eq!(third.answer().await, "CZ", "it goes where it is waited for");
        assert_eq!(first.ask("commit").await, "CZ");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.open.load(Ordering::SeqCst), 1, "nobody needs it any more");
        assert_eq!(fake.most.load(Ordering::SeqCst), 2);
    })
    .await;
}

/// P1, P2: for a client that replicates one idle server of another shard makes room, however long that takes to go.
#[tokio::test(start_paused = true)]
async fn one_idle_server_makes_room_for_one() {
    local(async {
        let team = Bench::team(2, 4, "");
        let fake = &team[0].fake;
        rest(&team[1], 4).await;
        assert_eq!(fake.open.load(Ordering::SeqCst), 4);
        fake.lingers.store(true, Ordering::SeqCst);
        let mut stream = team[0].arrive(&[("replication", "true")]);
        assert!(stream.answer().await.ends_with('Z'));
        assert_eq!(fake.open.load(Ordering::SeqCst), 4, "three that rest, and its own");
        assert_eq!(fake.logins.load(Ordering::SeqCst), 5);
    })
    .await;
}

/// P6: RECONNECT makes each server anew once, however late one of the workers hears of it.
#[tokio::test(start_paused = true)]
async fn reconnect_costs_one_connection_each() {
    local(async {
        let team = Bench::team(2, 2, "");
        let logins = || team[0].fake.logins.load(Ordering::SeqCst);
        let mut both = [team[0].client().await, team[1].client().await];
        for client in &mut both {
            assert_eq!(client.ask("begin").await, "CZ");
        }
        for client in &mut both {
            assert_eq!(client.ask("commit").await, "CZ");
        }
        assert_eq!(logins(), 2);
        let reconnect = command("RECONNECT shop");
        team[0].tell(&reconnect);
        // Held, so that the other cannot borrow it.
        assert_eq!(both[0].ask("begin").await, "CZ");
        team[1].tell(&reconnect);
        assert_eq!(both[0].ask("commit").await, "CZ");
        assert_eq!(both[0].ask("begin").await, "CZ");
        assert_eq!(logins(), 3, "it is new already");
        assert_eq!(both[1].ask("select").await, "CZ");
        assert_eq!(logins(), 4);
        let again = command("RECONNECT shop");
        team.iter().for_each(|bench| bench.tell(&again));
        assert_eq!(both[1].ask("select").await, "CZ");
        assert_eq!(logins(), 5, "said again, it counts again");
    })
    .await;
}
