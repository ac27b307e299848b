//! The table: all or none, bounded, and hard to push out of.

use proptest::prelude::*;

use super::*;

fn window(count: u64) -> Budget {
    Budget::SlidingWindow { count, per: 1_000_000 }
}

fn charge(limit: usize, user: &str, budget: Budget) -> Charge {
    Charge { limit: LimitId(limit), subject: Subject::User(user.into()), budget }
}

/// G10: a request that one limit refuses is charged by none.
#[test]
fn all_or_none() {
    let table = Table::new(Bounds::default());
    let both = [charge(0, "7", window(5)), charge(1, "7", window(2))];
    for _ in 0..2 {
        assert!(table.charge(&both, 1).iter().all(|s| s.verdict == Verdict::Admit));
    }
    for _ in 0..9 {
        let standings = table.charge(&both, 2);
        assert_eq!(standings[0], Standing { verdict: Verdict::Admit, remaining: 3, next: 999_999 });
        assert_eq!(standings[1].verdict, Verdict::Refuse);
    }
    assert_eq!(table.charge(&both[..1], 2)[0].remaining, 2);
}

/// G10: IPv6 by /64, IPv4 by address, in either spelling.
#[test]
fn addresses() {
    let subject = |text: &str| Subject::address(text.parse().unwrap());
    assert_eq!(subject("2001:db8::1"), subject("2001:db8:0:0:ffff::9"));
    assert_ne!(subject("2001:db8::1"), subject("2001:db8:0:1::1"));
    assert_ne!(subject("192.0.2.1"), subject("192.0.2.2"));
    assert_eq!(subject("192.0.2.1"), subject("::ffff:192.0.2.1"));
    let Subject::Address(net) = subject("2001:db8::1") else { unreachable!() };
    assert_eq!(net.to_string(), "2001:db8::");
}

/// G10: a flood of new keys never grows the table beyond its bounds, and pushes out no key that is
/// at its limit.
#[test]
fn a_flood_of_keys() {
    let table = Table::new(Bounds { keys: 1600, bytes: 1 << 20 });
    let heavy = [charge(0, "heavy", window(50))];
    for _ in 0..50 {
        table.charge(&heavy, 1);
    }
    for n in 0..50_000 {
        table.charge(&[charge(0, &format!("new-{n}"), window(50))], 2);
        assert!(table.len() <= 1600);
    }
    assert_eq!(table.charge(&heavy, 3)[0].verdict, Verdict::Refuse);
}

/// Admission times are bounded as well.
#[test]
fn a_flood_of_times() {
    let bounds = Bounds { keys: 16_000, bytes: 160_000 };
    let table = Table::new(bounds);
    for n in 0..60_000 {
        table.charge(&[charge(0, &format!("{}", n % 100), window(1000))], 2);
    }
    let held: usize = table.shards.iter().map(|shard| lock(shard).bytes).sum();
    // Each shard may exceed its part by the counter just charged.
    assert!(held <= bounds.bytes + SHARDS * 8 * 1024, "{held}");
}

/// Keys that are used no more go as new ones come.
#[test]
fn idle_keys_go() {
    let table = Table::new(Bounds::default());
    for n in 0..20_000_u64 {
        // One new key per 10 ms; each is idle again after a second.
        table.charge(&[charge(0, &n.to_string(), window(5))], n * 10_000);
    }
    assert!(table.len() < 2_000 && !table.is_empty(), "{}", table.len());
}

proptest! {
    /// G10: the table decides as one counter per key would, whatever the order of keys.
    #[test]
    fn as_one_counter_per_key(
        count in 1..5_u64,
        steps in proptest::collection::vec((0..4_usize, 0..400_000_u64), 1..200),
    ) {
        let table = Table::new(Bounds::default());
        let budgets = [window(count), Budget::TokenBucket { fill: 1, cost: 300_000, capacity: 600_000 }];
        let mut naive: HashMap<usize, Counter> = HashMap::new();
        let mut now = 0;
        for (key, gap) in steps {
            now += gap;
            let budget = budgets[key % 2];
            let expected =
                budget.charge(naive.entry(key).or_insert_with(|| budget.fresh(now)), now);
            prop_assert_eq!(table.charge(&[charge(key % 2, &key.to_string(), budget)], now), [expected]);
        }
    }

    #[test]
    fn the_index_stays_true(keys in proptest::collection::vec((0..60_u32, 0..3_u64), 1..300)) {
        let mut shard = Shard::new(Bounds { keys: 20, bytes: 2000 });
        let mut now = 0;
        for (key, gap) in keys {
            now += gap * 500_000;
            shard.charge(&charge(0, &key.to_string(), window(9)), now);
            prop_assert_eq!(shard.index.len(), shard.entries.len());
            for (at, entry) in shard.entries.iter().enumerate() {
                prop_assert_eq!(shard.index.get(&entry.key), Some(&at));
            }
            let held: usize = shard.entries.iter().map(|entry| entry.counter.heap()).sum();
            prop_assert_eq!(held, shard.bytes);
            prop_assert!(shard.entries.len() <= 20);
        }
    }
}
