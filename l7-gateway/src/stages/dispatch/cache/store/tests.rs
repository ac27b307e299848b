//! The store by itself: bounds, tickets, variants.

use http::HeaderValue;
use http::header::{ACCEPT, VARY};

use super::super::judge::Open;
use super::*;

const MIB: u64 = 1 << 20;

fn store(size: u64) -> Arc<Store> {
    Store::new(&CacheStore { size, max_body: size / 8 }, &Metrics::new())
}

fn key(uri: &str) -> Key {
    Key { uri: uri.into(), scope: Scope { generation: 1, to: 0, told: 0 } }
}

fn terms() -> Terms {
    Terms {
        age: Duration::ZERO,
        lifetime: Duration::from_secs(60),
        always_ask: false,
        never_stale: false,
        while_revalidate: Duration::ZERO,
        if_error: Duration::ZERO,
        open: Open::ToAll,
    }
}

fn accept(value: &'static str) -> HeaderMap {
    [(ACCEPT, HeaderValue::from_static(value))].into_iter().collect()
}

fn entry(store: &Store, key: &Key, request: &HeaderMap, body: usize) -> Arc<Entry> {
    let headers = [(VARY, HeaderValue::from_static("accept"))].into_iter().collect();
    let head = (StatusCode::OK, headers);
    let mut entry = Entry::new(store.number(), key, request, head, (terms(), Instant::now()));
    entry.body = vec![7; body].into();
    Arc::new(entry)
}

fn ticket(store: &Arc<Store>, key: &Key) -> Ticket {
    match store.turn(key, Instant::now()) {
        Turn::Own(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn put(store: &Arc<Store>, key: &Key, request: &HeaderMap, body: usize) -> bool {
    let entry = entry(store, key, request, body);
    ticket(store, key).put(entry)
}

/// G22: never more than its size, whatever comes; what is asked for stays longer.
#[test]
fn the_store_stays_within_its_size() {
    let store = store(8 * MIB);
    let wanted = key("http://a/wanted");
    assert!(put(&store, &wanted, &accept("x"), 1000));
    for number in 0..2000 {
        assert!(put(&store, &key(&format!("http://a/{number}")), &accept("x"), 20_000));
        assert!(store.find(&wanted, &accept("x")).is_some(), "{number}");
        assert!(store.holds().0 <= 8 * MIB);
    }
    assert!(store.holds().1 > 300, "{:?}", store.holds());
    let large = entry(&store, &wanted, &accept("y"), 2 << 20);
    assert!(!ticket(&store, &wanted).put(large));
    for round in 0..2000 {
        assert!(put(&store, &wanted, &accept("x"), round % 50));
        store.forget(&wanted.uri);
        assert!(put(&store, &wanted, &accept("x"), 10));
    }
    for shard in &store.shards {
        let shard = shard.lock().expect("whole");
        assert!(shard.order.len() <= 2 * shard.entries + 65, "{}", shard.order.len());
        assert!(shard.slots.len() <= shard.entries);
    }
}

/// G22: what was fetched before a change does not come in after it.
#[test]
fn a_change_voids_what_is_being_fetched() {
    let (store, key) = (store(8 * MIB), key("http://a/b"));
    let early = ticket(&store, &key);
    let Turn::Wait(told) = store.turn(&key, Instant::now()) else { panic!("nobody fetches") };
    store.forget(&key.uri);
    assert!(told.has_changed().is_err(), "who waits is told");
    assert!(!early.put(entry(&store, &key, &accept("x"), 1)));
    let late = ticket(&store, &key);
    drop(early);
    assert!(late.put(entry(&store, &key, &accept("x"), 2)));
    drop(late);
    assert_eq!(store.find(&key, &accept("x")).expect("kept").body.len(), 2);
    store.forget(&key.uri);
    assert!(store.find(&key, &accept("x")).is_none());
    assert_eq!(store.holds(), (0, 0));
}

/// G22: answers are told apart by what `Vary` names, by route and by service; their number is bounded.
#[test]
fn variants_are_told_apart_and_bounded() {
    let (store, key) = (store(8 * MIB), key("http://a/b"));
    for (request, size) in [("x", 1), ("y", 2), ("x", 3)] {
        assert!(put(&store, &key, &accept(request), size));
    }
    let size = |request: &HeaderMap| store.find(&key, request).map(|entry| entry.body.len());
    assert_eq!((size(&accept("x")), size(&accept("y"))), (Some(3), Some(2)));
    assert_eq!((size(&accept("z")), size(&HeaderMap::new())), (None, None));
    for scope in [Scope { generation: 2, to: 0, told: 0 }, Scope { generation: 1, to: 1, told: 0 }]
    {
        assert!(store.find(&Key { scope, ..key.clone() }, &accept("x")).is_none());
    }
    for number in 0..100 {
        let request = [(ACCEPT, HeaderValue::from(number))].into_iter().collect();
        assert!(put(&store, &key, &request, 1));
    }
    assert_eq!(store.holds().1, MOST_VARIANTS);
}

/// G22: one fetches, others wait; nobody waits for what cannot be kept, and no more is read at once
/// than would fit.
#[test]
fn one_fetches_and_others_wait() {
    let (store, key) = (store(8 * MIB), key("http://a/b"));
    let first = ticket(&store, &key);
    assert!(matches!(store.turn(&key, Instant::now()), Turn::Wait(_)));
    first.give_up(Instant::now());
    let second = ticket(&store, &key);
    assert!(matches!(store.turn(&key, Instant::now()), Turn::Alone));
    let later = Instant::now() + HOPELESS;
    assert!(matches!(store.turn(&key, later), Turn::Wait(_)));
    drop(second);
    let others: Vec<Ticket> =
        (0..8).map(|number| ticket(&store, &self::key(&format!("http://a/{number}")))).collect();
    assert!(matches!(store.turn(&key, Instant::now()), Turn::Alone));
    drop(others);
    assert!(matches!(store.turn(&key, Instant::now()), Turn::Own(_)));
    assert!(store.shards.iter().all(|s| s.lock().expect("whole").slots.is_empty()));
}

/// G22: room that is read ahead of clients is bounded in number, also once the answers are in the store
/// and their clients have not read them yet; then answers pass by.
#[test]
fn reading_ahead_is_bounded() {
    let store = store(8 * MIB);
    let mut held = Vec::new();
    for number in 0..8 {
        let mut ticket = ticket(&store, &key(&format!("http://a/{number}")));
        held.push(ticket.room());
    }
    let other = key("http://a/other");
    assert!(matches!(store.turn(&other, Instant::now()), Turn::Alone));
    held.pop();
    drop(ticket(&store, &other));
}
