//! The table: all or none, whatever the algorithms.

use proptest::prelude::*;

use super::*;

const WINDOW: Budget = Budget::SlidingWindow { count: 2, per: 1_000_000 };
const BUCKET: Budget = Budget::TokenBucket { fill: 1, cost: 1_000_000, capacity: 5_000_000 };
const FIXED: Budget = Budget::FixedWindow { count: 4, per: 1_000_000 };
const LEAKY: Budget = Budget::LeakyBucket { fill: 1, cost: 1_000_000, capacity: 3_000_000 };

fn table() -> Table {
    Table::new(Bounds::default(), vec![WINDOW, BUCKET, FIXED, LEAKY])
}

fn charge(limit: usize, user: &str) -> Charge {
    Charge { limit: LimitId(limit), subject: Subject::User(user.into()) }
}

/// G10: a request that one limit refuses is charged by none.
#[test]
fn all_or_none() {
    let table = table();
    let all = [charge(0, "7"), charge(1, "7"), charge(2, "7"), charge(3, "7")];
    for _ in 0..2 {
        assert!(table.charge(&all, 1).iter().all(|s| s.verdict == Verdict::Admit));
    }
    for _ in 0..9 {
        let standings = table.charge(&all, 2);
        let left: Vec<_> = standings.iter().map(|s| (s.verdict, s.remaining)).collect();
        let (yes, no) = (Verdict::Admit, Verdict::Refuse);
        assert_eq!(left, [(no, 0), (yes, 3), (yes, 2), (yes, 1)]);
        assert_eq!(standings[3].wait, 0, "nobody waits who is refused");
    }
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

/// G10: each combination has its own counter.
#[test]
fn combinations() {
    let table = table();
    let both = |user: &str, route: &str| Charge {
        limit: LimitId(0),
        subject: Subject::Each(vec![Subject::User(user.into()), Subject::Route(route.into())]),
    };
    for (user, route) in [("1", "a"), ("1", "b"), ("2", "a"), ("1", "a")] {
        assert_eq!(table.charge(&[both(user, route)], 1)[0].verdict, Verdict::Admit);
    }
    assert_eq!(table.charge(&[both("1", "a")], 1)[0].verdict, Verdict::Refuse);
    assert_eq!(table.charge(&[both("1", "b")], 1)[0].verdict, Verdict::Admit);
}

proptest! {
    /// G10: the table decides as one counter per key would, whatever the order of keys.
    #[test]
    fn as_one_counter_per_key(
        steps in proptest::collection::vec((0..9_usize, 0..400_000_u64), 1..200),
    ) {
        let table = table();
        let mut naive = std::collections::HashMap::new();
        let mut now = 1_800_000_000_000_000;
        for (key, gap) in steps {
            now += gap;
            let (limit, budget) = [(1, BUCKET), (2, FIXED), (3, LEAKY)][key % 3];
            let counter = naive.entry(key).or_insert_with(|| budget.fresh(now));
            let (after, expected) = budget.charge(*counter, now);
            *counter = after;
            prop_assert_eq!(table.charge(&[charge(limit, &key.to_string())], now), [expected]);
        }
    }
}
