//! The table of numbers: bounded, hard to push out of, and exact under threads.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::stages::rate_limit::budget::Verdict;

fn key(name: u64) -> Hash {
    // Spread as a hash would be.
    let mixed = name.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Hash {
        tag: 1 << 48 | mixed >> 16,
        place: mixed.rotate_left(29).wrapping_mul(0xff51_afd7_ed55_8ccd),
    }
}

/// 50 at once, one more per second.
const SLOW: Budget = Budget::TokenBucket { fill: 1, cost: 1_000_000, capacity: 50_000_000 };

fn admits(cells: &Cells, name: u64, now: u64) -> bool {
    let charge = |counter| SLOW.charge(counter, now);
    cells.update(key(name), now, charge).verdict == Verdict::Admit
}

/// G10: a flood of new keys never grows the table beyond its bounds, and pushes out no key that is at
/// its limit.
#[test]
fn a_flood_of_keys() {
    let cells = Cells::new(vec![SLOW], 1600);
    assert!((0..50).all(|_| admits(&cells, 0, 1)) && !admits(&cells, 0, 1));
    for name in 1..50_000 {
        admits(&cells, name, 2);
    }
    assert!(cells.sizes.iter().sum::<usize>() <= 2048 && cells.len(2) <= 2048);
    assert!(!admits(&cells, 0, 3), "still at its limit");
}

/// G10: a million keys are counted, each by itself, in less than 64 MiB.
#[test]
fn a_million_keys() {
    let cells = Cells::new(vec![SLOW], 2_000_000);
    let million = 1_000_000;
    (0..million).for_each(|name| assert!(admits(&cells, name, 1)));
    let held = |name: &u64| cells.find(key(*name)).is_some();
    let forgotten = (0..million).step_by(7).filter(|name| !held(name)).count();
    assert_eq!(forgotten, 0, "none was pushed out");
    assert!(cells.sizes.iter().sum::<usize>() * size_of::<Cell>() < 64 << 20);
}

/// Keys that are used no more give their places to new ones: the table stays small.
#[test]
fn idle_keys_go() {
    let cells = Cells::new(vec![SLOW], 2_000_000);
    // One new key per 10 ms; each is idle again after a second.
    (0..100_000).for_each(|name| assert!(admits(&cells, name, name * 10_000)));
    assert!(cells.generations[1].get().is_none(), "the first generation is enough");
}

/// G10: threads that charge the same new keys at the same time admit exactly what the budget says.
#[test]
fn threads_share_one_budget() {
    let cells = Cells::new(vec![SLOW], 100_000);
    let admitted: Vec<AtomicU64> = (0..1000).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for name in (0..1000).chain(0..1000) {
                    for _ in 0..10 {
                        let one = u64::from(admits(&cells, name, 7));
                        admitted[name as usize].fetch_add(one, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(admitted.iter().all(|count| count.load(Ordering::Relaxed) == 50));
}

/// A counter that is given back after it was pushed out changes nobody's.
#[test]
fn what_is_gone_is_not_revised() {
    let cells = Cells::new(vec![SLOW], 4);
    assert!(admits(&cells, 1, 1));
    assert_eq!(cells.revise(key(2), |counter| (counter + 1, ())), None);
    assert_eq!(
        cells.revise(key(1), |counter| SLOW.refund(counter, 1)).map(|s| s.remaining),
        Some(50)
    );
}
