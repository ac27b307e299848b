//! The promises of both algorithms, against every sequence of arrivals.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use topology::gateway::LimitBy;
use topology::units::Rate;

use super::*;

fn limit(algorithm: LimitAlgorithm, count: u32, per: Duration, burst: u32) -> Limit {
    Limit {
        name: LimitName::new("user"),
        by: LimitBy::User,
        rate: Rate { count: NonZeroU32::new(count).unwrap(), per },
        burst: NonZeroU32::new(burst).unwrap(),
        algorithm,
        place: Place { line: 3, column: 7 },
    }
}

fn admitted(budget: &Budget, arrivals: &[u64]) -> Vec<u64> {
    let mut counter = budget.fresh(arrivals.first().copied().unwrap_or(0));
    let admits = |at: &&u64| budget.charge(&mut counter, **at).verdict == Verdict::Admit;
    arrivals.iter().filter(admits).copied().collect()
}

/// Arrival times that often fall together, or exactly on an edge.
fn arrivals(edge: u64) -> impl Strategy<Value = Vec<u64>> {
    let gap = prop_oneof![Just(0), Just(1), Just(edge), 0..edge, Just(edge - 1), Just(edge + 1)];
    proptest::collection::vec(gap, 1..120).prop_map(|gaps| {
        let mut now = 1_800_000_000_000_000;
        gaps.iter()
            .map(|gap| {
                now += gap;
                now
            })
            .collect()
    })
}

proptest! {
    /// G10: a sliding window never admits more than its count in any window.
    #[test]
    fn no_window_has_more(count in 1..20_u64, times in arrivals(1000)) {
        let budget = Budget::SlidingWindow { count, per: 1000 };
        let admitted = admitted(&budget, &times);
        for (at, first) in admitted.iter().enumerate() {
            let inside = admitted[at..].iter().take_while(|t| **t < first + 1000).count();
            prop_assert!(inside as u64 <= count);
        }
    }

    /// G10: and it refuses only when the window that ends now is full.
    #[test]
    fn a_window_is_used_up(count in 1..20_usize, times in arrivals(1000)) {
        let budget = Budget::SlidingWindow { count: count as u64, per: 1000 };
        let mut naive: Vec<u64> = Vec::new();
        for now in &times {
            if naive.iter().filter(|t| **t + 1000 > *now).count() < count {
                naive.push(*now);
            }
        }
        prop_assert_eq!(admitted(&budget, &times), naive);
    }

    /// G10: a token bucket never admits more than burst + rate × t in any time t.
    #[test]
    fn no_time_has_more(
        count in 1..50_u32,
        per in 1..5000_u64,
        burst in 1..20_u32,
        times in arrivals(700),
    ) {
        let model = limit(LimitAlgorithm::TokenBucket, count, Duration::from_micros(per), burst);
        let admitted = admitted(&Budget::new(&model).unwrap(), &times);
        for (i, first) in admitted.iter().enumerate() {
            for (n, last) in admitted[i..].iter().enumerate() {
                let refilled = u128::from(last - first) * u128::from(count) / u128::from(per);
                prop_assert!((n + 1) as u128 <= u128::from(burst) + refilled);
            }
        }
    }

    /// G10: and it refuses only when the exact level is below one unit.
    #[test]
    fn a_bucket_is_used_up(
        count in 1..50_u32,
        per in 1..5000_u64,
        burst in 1..20_u32,
        times in arrivals(700),
    ) {
        let model = limit(LimitAlgorithm::TokenBucket, count, Duration::from_micros(per), burst);
        let (count, per) = (u128::from(count), u128::from(per));
        let full = u128::from(burst) * per;
        let (mut level, mut last, mut naive) = (full, times[0], Vec::new());
        for now in &times {
            level = full.min(level + u128::from(now - last) * count);
            last = *now;
            if level >= per {
                level -= per;
                naive.push(*now);
            }
        }
        prop_assert_eq!(admitted(&Budget::new(&model).unwrap(), &times), naive);
    }

    /// G10: `Retry-After` is when the next one passes: not a microsecond earlier, and then surely.
    #[test]
    fn next_is_the_moment(
        window in any::<bool>(),
        count in 1..9_u32,
        per in 1..5000_u64,
        burst in 1..9_u32,
        times in arrivals(700),
    ) {
        let algorithm =
            if window { LimitAlgorithm::SlidingWindow } else { LimitAlgorithm::TokenBucket };
        let budget = Budget::new(&limit(algorithm, count, Duration::from_micros(per), burst)).unwrap();
        let mut counter = budget.fresh(times[0]);
        for now in times {
            let standing = budget.charge(&mut counter, now);
            if standing.verdict == Verdict::Refuse {
                let at = |time| budget.charge(&mut counter.clone(), time).verdict;
                prop_assert!(standing.next > 0);
                prop_assert_eq!(at(now + standing.next - 1), Verdict::Refuse);
                prop_assert_eq!(at(now + standing.next), Verdict::Admit);
            }
        }
    }

    /// A clock that goes back gives nothing away and blocks nobody for longer than a window.
    #[test]
    fn a_clock_that_steps(window in any::<bool>(), steps in proptest::collection::vec(-5000..5000_i64, 1..60)) {
        let budget = if window {
            Budget::SlidingWindow { count: 3, per: 1000 }
        } else {
            Budget::TokenBucket { fill: 3, cost: 1000, capacity: 3000 }
        };
        let mut now = 1_000_000_u64;
        let mut counter = budget.fresh(now);
        for step in steps {
            now = now.saturating_add_signed(step);
            let before = budget.remaining(&counter);
            let standing = budget.charge(&mut counter, now);
            prop_assert!(step > 0 || standing.remaining <= before);
            prop_assert!(standing.next <= 1000);
        }
    }

    /// A refund leaves what a request that never came would have left.
    #[test]
    fn a_refund_is_complete(window in any::<bool>(), times in arrivals(700)) {
        let budget = if window {
            Budget::SlidingWindow { count: 3, per: 1000 }
        } else {
            Budget::TokenBucket { fill: 3, cost: 1000, capacity: 3000 }
        };
        let mut counter = budget.fresh(times[0]);
        for (n, now) in times.into_iter().enumerate() {
            let mut without = counter.clone();
            budget.settle(&mut without, now);
            let standing = budget.charge(&mut counter, now);
            if standing.verdict == Verdict::Admit && n % 2 == 0 {
                budget.refund(&mut counter, now);
                prop_assert_eq!(&counter, &without);
            }
        }
    }
}

/// G10: rate and burst are two numbers; shares are rounded down, and never nothing.
#[test]
fn shares() {
    let minute = Duration::from_secs(60);
    let bucket = limit(LimitAlgorithm::TokenBucket, 100, minute, 10);
    let whole = Budget::TokenBucket { fill: 1, cost: 600_000, capacity: 6_000_000 };
    assert_eq!(Budget::new(&bucket), Ok(whole));
    let third = Budget::TokenBucket { fill: 1, cost: 1_800_000, capacity: 5_400_000 };
    assert_eq!(Budget::share(&bucket, 3), Ok(third));
    let window = limit(LimitAlgorithm::SlidingWindow, 100, minute, 100);
    let third = Budget::SlidingWindow { count: 33, per: 60_000_000 };
    assert_eq!(Budget::share(&window, 3), Ok(third));
    assert_eq!(Budget::share(&window, 1000).unwrap().most(), 1);
    assert_eq!(Budget::share(&bucket, 1000).unwrap().most(), 1);
}

/// What cannot be counted exactly is said at start, with its place.
#[test]
fn limits_of_limits() {
    let hour = Duration::from_secs(3600);
    let window = limit(LimitAlgorithm::SlidingWindow, 10_001, hour, 1);
    let fault = Budget::new(&window).unwrap_err();
    assert_eq!((fault.place().line, fault.place().column), (3, 7));
    assert!(fault.to_string().contains("token-bucket"), "{fault}");
    let slow = limit(LimitAlgorithm::TokenBucket, 1, hour * 24, u32::MAX);
    assert!(matches!(Budget::new(&slow), Err(BudgetError::BurstTooLarge { .. })));
    for (count, per) in
        [(50_000, Duration::from_secs(1)), (1_000_000, hour), (1_000_000, hour * 24)]
    {
        assert!(Budget::new(&limit(LimitAlgorithm::TokenBucket, count, per, count)).is_ok());
    }
}

/// A counter whose limit was changed to the other algorithm starts afresh.
#[test]
fn another_algorithm() {
    let window = Budget::SlidingWindow { count: 2, per: 1000 };
    let bucket = Budget::TokenBucket { fill: 1, cost: 1, capacity: 5 };
    let mut counter = window.fresh(0);
    window.charge(&mut counter, 10);
    assert_eq!(bucket.charge(&mut counter, 10).remaining, 4);
    assert_eq!(window.charge(&mut counter, 10).remaining, 1);
}
