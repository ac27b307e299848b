//! Exact windows: against every sequence of arrivals, bounded, and hard to push out of.

use proptest::prelude::*;

use super::*;

fn key(name: usize) -> Hash {
    Hash { tag: 1 << 48 | name as u64, place: name as u64 }
}

fn admitted(window: Window, arrivals: &[u64]) -> Vec<u64> {
    let windows = Windows::new(16, 1 << 20);
    let admits = |now: &&u64| windows.charge(key(1), window, **now).0.verdict == Verdict::Admit;
    arrivals.iter().filter(admits).copied().collect()
}

fn arrivals() -> impl Strategy<Value = Vec<u64>> {
    let gap = prop_oneof![Just(0), Just(1), Just(1000), 0..1000_u64, Just(999), Just(1001)];
    proptest::collection::vec(gap, 1..120).prop_map(|gaps| {
        let add = |now: &mut u64, gap| {
            *now += gap;
            Some(*now)
        };
        gaps.into_iter().scan(1_800_000_000_000_000, add).collect()
    })
}

proptest! {
    /// G10: a sliding window never admits more than its count in any window.
    #[test]
    fn no_window_has_more(count in 1..20_u64, times in arrivals()) {
        let admitted = admitted(Window { count, per: 1000 }, &times);
        for (at, first) in admitted.iter().enumerate() {
            let inside = admitted[at..].iter().take_while(|t| **t < first + 1000).count();
            prop_assert!(inside as u64 <= count);
        }
    }

    /// G10: and it refuses only when the window that ends now is full.
    #[test]
    fn a_window_is_used_up(count in 1..20_usize, times in arrivals()) {
        let mut naive: Vec<u64> = Vec::new();
        for now in &times {
            if naive.iter().filter(|t| **t + 1000 > *now).count() < count {
                naive.push(*now);
            }
        }
        prop_assert_eq!(admitted(Window { count: count as u64, per: 1000 }, &times), naive);
    }

    /// G10: `Retry-After` is when the next one passes.
    #[test]
    fn next_is_the_moment(count in 1..9_u64, times in arrivals()) {
        let (windows, window) = (Windows::new(16, 1 << 20), Window { count, per: 1000 });
        let mut taken = Vec::new();
        for now in times {
            let (standing, at) = windows.charge(key(1), window, now);
            match standing.verdict {
                Verdict::Admit => taken.push(at),
                Verdict::Refuse => {
                    let oldest = taken[taken.len() - count as usize];
                    prop_assert_eq!(now + standing.next, oldest + 1000);
                }
            }
        }
    }

    #[test]
    fn the_index_stays_true(keys in proptest::collection::vec((0..60_usize, 0..3_u64), 1..300)) {
        let mut shard = Shard::new(20, 2000);
        let mut now = 0;
        for (name, gap) in keys {
            now += gap * 500_000;
            shard.charge(key(name), Window { count: 9, per: 1_000_000 }, now);
            prop_assert_eq!(shard.index.len(), shard.entries.len());
            for (at, entry) in shard.entries.iter().enumerate() {
                prop_assert_eq!(shard.index.get(&entry.key), Some(&at));
            }
            let held: usize = shard.entries.iter().map(Entry::heap).sum();
            prop_assert_eq!(held, shard.bytes);
            prop_assert!(shard.entries.len() <= 20);
        }
    }
}

/// G10: a flood of new keys never grows the table beyond its bounds, and pushes out no key that is
/// at its limit.
#[test]
fn a_flood_of_keys() {
    let windows = Windows::new(1600, 1 << 20);
    let window = Window { count: 50, per: 1_000_000 };
    for _ in 0..50 {
        windows.charge(key(0), window, 1);
    }
    for n in 1..50_000 {
        windows.charge(key(n), window, 2);
        assert!(windows.len() <= 1600);
    }
    assert_eq!(windows.charge(key(0), window, 3).0.verdict, Verdict::Refuse);
}

/// Admission times are bounded as well.
#[test]
fn a_flood_of_times() {
    let windows = Windows::new(16_000, 160_000);
    for n in 0..60_000 {
        windows.charge(key(n % 100), Window { count: 1000, per: 1_000_000 }, 2);
    }
    let held: usize = windows.shards.iter().map(|shard| lock(shard).bytes).sum();
    // Each shard may exceed its part by the counter just charged.
    assert!(held <= 160_000 + SHARDS * 8 * 1024, "{held}");
}

/// Keys that are used no more go as new ones come.
#[test]
fn idle_keys_go() {
    let windows = Windows::new(200_000, 1 << 20);
    for n in 0..20_000 {
        // One new key per 10 ms; each is idle again after a second.
        windows.charge(key(n), Window { count: 5, per: 1_000_000 }, n as u64 * 10_000);
    }
    assert!((1..2_000).contains(&windows.len()), "{}", windows.len());
}
