//! Tests of the balancers: shares, panic threshold, and what Maglev promises.

use std::collections::HashSet;

use proptest::prelude::*;
use topology::{Balance, EndpointName, Weight};

use super::*;
use crate::service::Health;

const KEY: &str = "a key for tests";

fn key() -> HashKey {
    HashKey::from_secret(KEY.as_bytes())
}

/// A service whose endpoints have these names and weights.
fn service(endpoints: &[(String, u16)]) -> std::sync::Arc<Service> {
    Service::new(&model(endpoints))
}

fn model(endpoints: &[(String, u16)]) -> topology::Service {
    let endpoint = |(name, weight): &(String, u16)| topology::Endpoint {
        name: EndpointName::new(name),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        weight: Weight(*weight),
        zone: None,
        place: topology::Place::default(),
    };
    topology::Service {
        name: topology::ServiceName::new("s"),
        endpoints: endpoints.iter().map(endpoint).collect(),
        discover: None,
        panic_threshold: topology::units::Percent(0),
        slow_start: None,
        health: None,
        run: None,
        uses: Vec::new(),
        place: topology::Place::default(),
    }
}

fn maglev(service: &Service, key: HashKey) -> Table {
    Table::new(service, key, super::maglev::fill)
}

fn equal(count: usize) -> Vec<(String, u16)> {
    (0..count).map(|i| (format!("10.0.0.{i}:7000"), 1)).collect()
}

fn shares(balancer: &Balancer, service: &Service, draws: u64) -> Vec<u64> {
    let mut shares = vec![0; service.endpoints.len()];
    for hash in 0..draws {
        shares[balancer.select(service, key().hash(&hash.to_be_bytes()), &[]).unwrap()] += 1;
    }
    shares
}

/// N2: turns follow the weights exactly, and mix evenly.
#[tokio::test(start_paused = true)]
async fn round_robin_keeps_exact_shares() {
    let service = service(&[("a".into(), 5), ("b".into(), 1), ("c".into(), 2)]);
    let balancer = Balancer::new(Balance::RoundRobin, &service, key());
    assert_eq!(shares(&balancer, &service, 800), [500, 100, 200]);
    service.endpoints[0].state.set_healthy(Health::Down);
    let left = shares(&balancer, &service, 900);
    assert_eq!((left[0], left[1], left[2]), (0, 300, 600), "a dead one's share is spread");
}

/// N2
#[tokio::test(start_paused = true)]
async fn least_connections_takes_the_least_loaded_for_its_weight() {
    let service = service(&[("a".into(), 1), ("b".into(), 1), ("c".into(), 4)]);
    let balancer = Balancer::new(Balance::LeastConnections, &service, key());
    let mut guards = Vec::new();
    for _ in 0..60 {
        let index = balancer.select(&service, 0, &[]).unwrap();
        guards.push(service.endpoints[index].state.enter());
    }
    let active: Vec<u32> = service.endpoints.iter().map(|e| e.state.active()).collect();
    assert_eq!(active, [10, 10, 40]);
}

/// N2: the two draws differ, so the loaded one of two is never taken.
#[tokio::test(start_paused = true)]
async fn two_choices_avoids_the_loaded_one() {
    let service = service(&equal(2));
    let balancer = Balancer::new(Balance::TwoChoices, &service, key());
    let _busy = service.endpoints[1].state.enter();
    assert_eq!(shares(&balancer, &service, 100), [100, 0]);
}

/// N8: when nothing is selectable everything is; what was tried is not tried again.
#[tokio::test(start_paused = true)]
async fn no_living_endpoint_means_all_of_them() {
    for balance in [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::TwoChoices,
        Balance::ClientAddress,
    ] {
        let service = service(&equal(3));
        let balancer = Balancer::new(balance, &service, key());
        service.endpoints[1].state.set_healthy(Health::Down);
        assert_eq!(balancer.select(&service, 1, &[0, 2]), None, "{balance:?}");
        service.endpoints.iter().for_each(|e| e.state.set_healthy(Health::Down));
        let seen: HashSet<_> = (0..200_u64)
            .filter_map(|h| balancer.select(&service, key().hash(&h.to_be_bytes()), &[]))
            .collect();
        assert_eq!(seen.len(), 3, "{balance:?}");
        assert_eq!(balancer.select(&service, 1, &[0, 1, 2]), None);
    }
}

/// N2: a table computed here equals the one computed on any other machine.
#[test]
fn maglev_test_vectors() {
    let key = HashKey::from_secret(b"0123456789abcdef");
    let table = maglev(&service(&equal(3)), key);
    let owners: Vec<usize> =
        (0..16_u8).filter_map(|i| table.owner(key.client([203, 0, i, 7].into()))).collect();
    assert_eq!(table.shares(), VECTOR_SHARES);
    assert_eq!(owners, VECTOR_OWNERS);
    assert_eq!(key.client([203, 0, 113, 7].into()), VECTOR_HASH);
    let mapped = "::ffff:203.0.113.7".parse().unwrap();
    assert_eq!(key.client(mapped), VECTOR_HASH);
}

const VECTOR_SHARES: [usize; 3] = [21_846, 21_846, 21_845];
const VECTOR_OWNERS: [usize; 16] = [0, 0, 2, 0, 0, 2, 1, 0, 2, 0, 2, 2, 2, 1, 2, 1];
const VECTOR_HASH: u64 = 2_354_151_356_862_758_572;

/// N2: shares follow the weights within 1 %.
#[test]
fn maglev_shares_follow_the_weights() {
    let shares =
        maglev(&service(&[("a".into(), 1), ("b".into(), 2), ("c".into(), 7)]), key()).shares();
    for (share, weight) in shares.iter().zip([1.0, 2.0, 7.0]) {
        let wanted = Table::SLOTS as f64 * weight / 10.0;
        assert!((*share as f64 - wanted).abs() < wanted * 0.01, "{shares:?}");
    }
}

/// N2, O5: when an endpoint dies exactly its own clients move, and they spread.
#[tokio::test(start_paused = true)]
async fn a_death_moves_its_clients_alone() {
    let service = service(&equal(5));
    let balancer = Balancer::new(Balance::ClientAddress, &service, key());
    let hash = |i: u32| key().client(std::net::Ipv4Addr::from(0x7f00_0000 | i).into());
    let before: Vec<_> = (0..10_000).map(|i| balancer.select(&service, hash(i), &[])).collect();
    service.endpoints[2].state.set_healthy(Health::Down);
    let mut orphans = vec![0_u32; 5];
    for (i, old) in before.iter().enumerate() {
        let new = balancer.select(&service, hash(i as u32), &[]).unwrap();
        if *old == Some(2) {
            orphans[new] += 1;
        } else {
            assert_eq!(Some(new), *old);
        }
    }
    assert!(orphans[2] == 0 && orphans.iter().filter(|&&n| n > 380).count() == 4, "{orphans:?}");
}

/// N2: one of a thousand alive is still found, by every hash.
#[tokio::test(start_paused = true)]
async fn the_last_living_endpoint_is_found() {
    let names: Vec<_> = (0..1000).map(|i| (format!("e{i}"), 1)).collect();
    let service = service(&names);
    let balancer = Balancer::new(Balance::ClientAddress, &service, key());
    service.endpoints.iter().skip(1).for_each(|e| e.state.set_healthy(Health::Down));
    assert!((0..100_u64).all(|h| balancer.select(&service, h << 40, &[]) == Some(0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// N2: the table does not depend on the order in the file.
    #[test]
    fn maglev_ignores_order(names in prop::collection::btree_set("[a-z]{1,8}", 2..8), turn in 0_usize..8) {
        let mut order: Vec<_> = names.into_iter().zip([1, 3, 1, 2].into_iter().cycle()).collect();
        let first = service(&order);
        let turn = turn % order.len();
        order.rotate_left(turn);
        let second = service(&order);
        let (a, b) = (maglev(&first, key()), maglev(&second, key()));
        for hash in 0..Table::SLOTS as u64 {
            let name = |s: &Service, m: &Table| s.endpoints[m.owner(hash).unwrap()].name.clone();
            prop_assert_eq!(name(&first, &a), name(&second, &b));
        }
    }
}

/// Slots of survivors that move when endpoint `gone` of `count` is taken out of the file.
fn moved_without(count: usize, gone: usize, seed: usize) -> usize {
    let names: Vec<_> = (0..count).map(|i| (format!("{seed}-{i}"), 1)).collect();
    let mut fewer = names.clone();
    fewer.remove(gone);
    let (before, after) = (service(&names), service(&fewer));
    let (a, b) = (maglev(&before, key()), maglev(&after, key()));
    let moved = (0..Table::SLOTS as u64).filter(|&hash| {
        let old = a.owner(hash).unwrap();
        old != gone && before.endpoints[old].name != after.endpoints[b.owner(hash).unwrap()].name
    });
    moved.count()
}

/// N2: taking one of N out of the configuration moves its share and, in the mean of many
/// configurations, at most 0.6 % more. Single ones lie around that mean.
#[test]
fn maglev_removal_moves_little() {
    for count in [3, 10] {
        let rounds = 20;
        let moved: usize = (0..rounds).map(|seed| moved_without(count, seed % count, seed)).sum();
        let share = moved as f64 / (rounds * Table::SLOTS) as f64;
        assert!(share <= 0.006, "{count} endpoints: {share:.4} of all slots");
    }
}

fn rendezvous(service: &Service, key: HashKey) -> Table {
    Table::new(service, key, super::rendezvous::fill)
}

/// N2: taking an endpoint out of a rendezvous table, or adding one, moves nobody else; weights hold.
#[test]
fn rendezvous_moves_nobody_else() {
    let all: Vec<_> = (0..8).map(|i| (format!("e{i}"), [1, 2, 5][i % 3])).collect();
    let fewer: Vec<_> = all.iter().filter(|(name, _)| name != "e3").cloned().collect();
    let (before, after) = (service(&all), service(&fewer));
    let (a, b) = (rendezvous(&before, key()), rendezvous(&after, key()));
    for hash in 0..Table::SLOTS as u64 {
        let (old, new) = (a.owner(hash).unwrap(), b.owner(hash).unwrap());
        assert!(old == 3 || before.endpoints[old].name == after.endpoints[new].name);
    }
    let sum: u16 = all.iter().map(|(_, weight)| weight).sum();
    for (share, (_, weight)) in a.shares().iter().zip(&all) {
        let wanted = Table::SLOTS as f64 * f64::from(*weight) / f64::from(sum);
        assert!((*share as f64 - wanted).abs() < wanted * 0.1, "{share} {wanted}");
    }
}

/// N2: a rendezvous table computed here equals the one computed on any other machine.
#[test]
fn rendezvous_test_vectors() {
    let key = HashKey::from_secret(b"0123456789abcdef");
    let table = rendezvous(&service(&[("a".into(), 1), ("b".into(), 2), ("c".into(), 3)]), key);
    let owners: Vec<usize> =
        (0..16_u8).filter_map(|i| table.owner(key.client([203, 0, i, 7].into()))).collect();
    assert_eq!((table.shares(), owners), (RENDEZVOUS_SHARES.to_vec(), RENDEZVOUS_OWNERS.to_vec()));
}

const RENDEZVOUS_SHARES: [usize; 3] = [10_805, 21_946, 32_786];
const RENDEZVOUS_OWNERS: [usize; 16] = [2, 2, 2, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 2, 0];

/// A service with these endpoints, some of them in zone `near`.
fn in_zones(near: usize, far: usize) -> std::sync::Arc<Service> {
    let mut model = model(&equal(near + far));
    let zones = std::iter::repeat_n("near", near).chain(std::iter::repeat_n("far", far));
    for (endpoint, zone) in model.endpoints.iter_mut().zip(zones) {
        endpoint.zone = Some(topology::units::ZoneName::new(zone));
    }
    Service::new(&model)
}

/// N8: the own zone comes first; as much spills over as is missing there.
#[tokio::test(start_paused = true)]
async fn the_own_zone_comes_first_and_spills_over() {
    let service = in_zones(4, 4);
    // The zone is counted anew every few milliseconds.
    let counted = || tokio::time::advance(std::time::Duration::from_millis(20));
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::TwoChoices] {
        let zone = Some(topology::units::ZoneName::new("near"));
        let balancer = Balancer::new(balance, &service, key()).near(zone);
        let near = |shares: &[u64]| shares[..4].iter().sum::<u64>();
        assert_eq!(near(&shares(&balancer, &service, 400)), 400, "{balance:?}");
        service.endpoints[0].state.set_healthy(Health::Down);
        counted().await;
        assert_eq!(near(&shares(&balancer, &service, 400)), 400, "three of four are enough");
        service.endpoints[1].state.set_healthy(Health::Down);
        service.endpoints[2].state.set_healthy(Health::Down);
        counted().await;
        let kept = near(&shares(&balancer, &service, 4000));
        // One of four is there: 25 of 70, and six standard deviations either way.
        assert!((1247..1610).contains(&kept), "{balance:?}: {kept}");
        assert_eq!(balancer.select(&service, 0, &[3]).map(|i| i >= 4), Some(true));
        service.endpoints.iter().for_each(|e| e.state.set_healthy(Health::Up));
    }
}

/// N8: an endpoint that came back gets a growing share, and its whole one after the ramp; where the
/// balance hashes nothing starts slowly.
#[tokio::test(start_paused = true)]
async fn an_endpoint_starts_slowly() {
    let mut model = model(&equal(2));
    model.slow_start = Some(std::time::Duration::from_secs(30));
    let service = Service::new(&model);
    let state = &service.endpoints[1].state;
    let balancer = Balancer::new(Balance::RoundRobin, &service, key());
    assert_eq!(shares(&balancer, &service, 100), [50, 50], "nothing starts slowly together");
    state.set_healthy(Health::Down);
    state.set_healthy(Health::Up);
    let part = |balancer: &Balancer| shares(balancer, &service, 3000)[1];
    let at_once = part(&balancer);
    assert!((200..400).contains(&at_once), "a tenth of its turns: {at_once}");
    assert_eq!(state.condition(service.slow_start, Instant::now()).as_str(), "starting");
    tokio::time::advance(std::time::Duration::from_secs(15)).await;
    let half = part(&balancer);
    assert!((850..1150).contains(&half), "{half}");
    tokio::time::advance(std::time::Duration::from_secs(15)).await;
    assert_eq!(shares(&balancer, &service, 100), [50, 50]);
    assert_eq!(state.condition(service.slow_start, Instant::now()).as_str(), "up");
}

/// N8: with too few selectable endpoints all are used, and no longer when enough are back.
#[tokio::test(start_paused = true)]
async fn the_panic_threshold_is_a_part_of_all() {
    let mut model = model(&equal(4));
    model.panic_threshold = topology::units::Percent(50);
    let service = Service::new(&model);
    let (state, now) = (|index: usize| &service.endpoints[index].state, Instant::now());
    state(0).set_healthy(Health::Down);
    state(1).set_full(crate::service::Full::Yes);
    assert!(!service.panicking(now), "half are there");
    state(2).drain();
    assert!(service.panicking(now));
    state(0).set_healthy(Health::Up);
    assert!(!service.panicking(now));
}

/// N8: full, draining and weightless endpoints take nothing new and stay alive for what they have.
#[tokio::test(start_paused = true)]
async fn nothing_new_for_those_who_want_none() {
    let service = service(&equal(4));
    let state = |index: usize| &service.endpoints[index].state;
    state(0).set_full(crate::service::Full::Yes);
    state(1).drain();
    state(2).set_weight(Some(0));
    let now = Instant::now();
    let conditions: Vec<_> = (0..4).map(|i| state(i).condition(None, now).as_str()).collect();
    assert_eq!(conditions, ["full", "draining", "draining", "up"]);
    assert!((0..4).all(|i| state(i).alive(now)));
    for balance in [Balance::RoundRobin, Balance::TwoChoices, Balance::ClientAddress] {
        let balancer = Balancer::new(balance, &service, key());
        assert_eq!(shares(&balancer, &service, 300), [0, 0, 0, 300], "{balance:?}");
    }
}

/// N2, N3: for a while after a change a client of an active slot follows its living former endpoint;
/// after the grace, or where nobody was active, the new table alone counts.
#[tokio::test(start_paused = true)]
async fn the_former_table_is_followed_for_a_while() {
    let (old, new) = (service(&equal(3)), service(&equal(4)));
    let hash = |i: u32| key().client(std::net::Ipv4Addr::from(0x0a00_0000 | i).into());
    let before = Balancer::new(Balance::ClientAddress, &old, key());
    let active: Vec<_> = (0..2000).map(|i| before.select(&old, hash(i), &[]).unwrap()).collect();
    let fresh = || Balancer::new(Balance::ClientAddress, &new, key());
    let after = fresh().after(&before, (&old, &new), Instant::now());
    let cold = fresh();
    for (i, &owner) in active.iter().enumerate() {
        let i = i as u32;
        assert_eq!(after.select(&new, hash(i), &[]), Some(owner));
        let dead = &new.endpoints[owner].state;
        dead.set_healthy(Health::Down);
        assert_ne!(after.select(&new, hash(i), &[]), Some(owner), "a dead one is not followed");
        dead.set_healthy(Health::Up);
    }
    let strangers = (10_000..12_000)
        .filter(|&i| after.select(&new, hash(i), &[]) == cold.select(&new, hash(i), &[]));
    assert!(strangers.count() > 1900, "slots that nobody used go by the new table");
    tokio::time::advance(Table::GRACE).await;
    for i in 0..2000 {
        assert_eq!(after.select(&new, hash(i), &[]), cold.select(&new, hash(i), &[]));
    }
}
