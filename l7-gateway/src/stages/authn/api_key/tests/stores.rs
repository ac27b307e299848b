//! Real stores, and what a directory remembers of them.

use std::time::Duration;

use common::lifecycle::Lifecycle;
use common::observe::Observer;
use tokio::time::{Instant, advance, pause, resume};
use topology::gateway::{ApiKeys, KeySource, Login, PostgresTls};
use topology::units::{ApiKeysName, At, Place};

use super::super::directory::{Away, Directory};
use super::super::store::{Store, StoreError, TABLE};
use super::super::*;
use crate::servers::{Postgres, Redis};

const KEY: &[u8] = b"a key of more than sixteen bytes";

fn record(consumer: &str) -> Record {
    Record {
        consumer: consumer.into(),
        plan: Some("gold".into()),
        scopes: vec!["orders:read".into(), "pay".into()],
        expires: Some(4_000_000_000),
    }
}

async fn keeps_keys(store: &Store) {
    let digest = Digest::of(KEY);
    assert_eq!(store.find(&digest).await.unwrap(), None);
    store.put(&digest, &record("acme")).await.unwrap();
    assert_eq!(store.find(&digest).await.unwrap(), Some(record("acme")));
    let bare = Record { consumer: "bare".into(), ..Record::default() };
    store.put(&Digest::of(b"bare"), &bare).await.unwrap();
    assert_eq!(store.find(&Digest::of(b"bare")).await.unwrap(), Some(bare));
    assert_eq!(store.find(&Digest::of(b"other")).await.unwrap(), None);
    assert!(store.remove(&digest).await.unwrap());
    assert!(!store.remove(&digest).await.unwrap());
    assert_eq!(store.find(&digest).await.unwrap(), None);
}

/// G7: keys stand in Redis and in a table of PostgreSQL.
#[tokio::test]
async fn redis_and_postgresql_hold_keys() {
    let server = Redis::start();
    let store = Store::redis(&server.address(), &Login::default()).unwrap();
    keeps_keys(&store).await;
    let client = ::redis::Client::open(server.address()).unwrap();
    let mut line = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("apikey:{}", Digest::of(b"odd"));
    let () = ::redis::cmd("SET").arg(&key).arg("{").query_async(&mut line).await.unwrap();
    assert!(matches!(store.find(&Digest::of(b"odd")).await, Err(StoreError::Odd)));
    drop(server);
    assert!(matches!(store.find(&Digest::of(KEY)).await, Err(StoreError::Redis(_))));

    let server = Postgres::start();
    let config: tokio_postgres::Config = server.address().parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(TABLE).await.unwrap();
    let store =
        Store::postgres(&server.address(), &Login::default(), PostgresTls::Disable).unwrap();
    keeps_keys(&store).await;
    drop(server);
    driver.abort();
    assert!(matches!(store.find(&Digest::of(KEY)).await, Err(StoreError::Postgres(_))));
}

fn source(address: String) -> ApiKeys {
    ApiKeys {
        name: ApiKeysName::new("partners"),
        header: Some("x-api-key".into()),
        query: None,
        from: KeySource::Redis(At { value: address, place: Place::default() }, Login::default()),
        keep: Duration::from_secs(30),
        place: Place::default(),
    }
}

/// G7: many at once are one question; an answer is believed for `keep`, a wrong key's too; a known key
/// survives its store for an hour and an unknown one has no answer.
#[tokio::test]
async fn a_directory_asks_once_and_remembers() {
    let server = Redis::start();
    let store = Store::redis(&server.address(), &Login::default()).unwrap();
    store.put(&Digest::of(KEY), &record("acme")).await.unwrap();
    let directory = Directory::new(&source(server.address()), &[]).unwrap();
    let life = Lifecycle::new();
    let keeper = Arc::clone(&directory).keep(Observer::new("gw-1"), life.shutdown());
    let keeper = tokio::spawn(keeper);
    let all =
        futures_util::future::join_all((0..50).map(|_| directory.find(Digest::of(KEY)))).await;
    assert!(all.iter().all(|found| &*found.as_ref().unwrap().as_ref().unwrap().consumer == "acme"));
    let wrong = futures_util::future::join_all(
        (0..50).map(|_| directory.find(Digest::of(b"a wrong guess"))),
    )
    .await;
    assert!(wrong.iter().all(|found| *found == Ok(None)));
    assert_eq!(server.calls("get").await, 2);
    directory.find(Digest::of(KEY)).await.unwrap();
    assert_eq!(server.calls("get").await, 2);
    // Revoked: it ends with what is believed.
    assert!(store.remove(&Digest::of(KEY)).await.unwrap());
    pass(Duration::from_secs(20)).await;
    assert!(directory.find(Digest::of(KEY)).await.unwrap().is_some());
    pass(Duration::from_secs(10)).await;
    assert_eq!(directory.find(Digest::of(KEY)).await, Ok(None));
    assert_eq!(server.calls("get").await, 3);
    // Away: who was known stays known.
    store.put(&Digest::of(KEY), &record("acme")).await.unwrap();
    pass(Duration::from_secs(30)).await;
    assert!(directory.find(Digest::of(KEY)).await.unwrap().is_some());
    drop(server);
    pass(Duration::from_secs(3500)).await;
    assert!(directory.find(Digest::of(KEY)).await.unwrap().is_some());
    assert_eq!(directory.find(Digest::of(b"another key, never seen")).await, Err(Away));
    pass(Duration::from_secs(101)).await;
    assert_eq!(directory.find(Digest::of(KEY)).await, Err(Away));
    keeper.abort();
}

/// G7, O3: a reload keeps what was heard from a store while the file says the same of it, wherever in the file;
/// not under other terms, nor of another store.
#[tokio::test]
async fn a_reload_keeps_what_was_heard() {
    let before = source("redis://127.0.0.1:1".into());
    let known = [Directory::new(&before, &[]).unwrap()];
    let kept = |model: &ApiKeys| {
        let after = Directory::new(model, &known).unwrap();
        Arc::ptr_eq(&known[0], &after)
    };
    let elsewhere = Place { line: 9, column: 3 };
    let moved = KeySource::Redis(
        At { value: "redis://127.0.0.1:1".into(), place: elsewhere },
        Login::default(),
    );
    assert!(kept(&ApiKeys { from: moved, place: elsewhere, ..before.clone() }));
    assert!(!kept(&ApiKeys { keep: Duration::from_secs(5), ..before.clone() }));
    assert!(!kept(&source("redis://127.0.0.1:2".into())));
    let asked = |user: &str| {
        let login = Login { user: Some(user.into()), ..Login::default() };
        let at = At { value: "redis://127.0.0.1:1".into(), place: Place::default() };
        ApiKeys { from: KeySource::Redis(at, login), ..before.clone() }
    };
    assert!(!kept(&asked("gateway")));
}

/// Time passes; what is real goes on by the real clock.
async fn pass(time: Duration) {
    pause();
    let before = Instant::now();
    advance(time).await;
    assert!(before.elapsed() >= time);
    resume();
}
