//! The promises of each algorithm whose counter is a number, against every sequence of arrivals, an
//! exact model, and `governor`.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use topology::gateway::LimitBy;
use topology::units::Rate;

use super::*;

fn limit(algorithm: LimitAlgorithm, count: u32, per: Duration, burst: u32) -> Limit {
    Limit {
        name: LimitName::new("user"),
        by: vec![LimitBy::User],
        plans: Vec::new(),
        allows: Allowance::Rate {
            rate: Rate { count: NonZeroU32::new(count).unwrap(), per },
            burst: NonZeroU32::new(burst).unwrap(),
            algorithm,
        },
        place: Place { line: 3, column: 7 },
    }
}

fn bucket(count: u32, per: u64, burst: u32) -> Budget {
    let model = limit(LimitAlgorithm::TokenBucket, count, Duration::from_micros(per), burst);
    Budget::new(&model).unwrap()
}

fn leaky(count: u32, per: u64, line: u32) -> Budget {
    let model = limit(LimitAlgorithm::LeakyBucket, count, Duration::from_micros(per), line);
    Budget::new(&model).unwrap()
}

/// How each arrival stands.
fn standings(budget: &Budget, arrivals: &[u64]) -> Vec<Standing> {
    let mut counter = budget.fresh(arrivals.first().copied().unwrap_or(0));
    let mut charge = |now: &u64| {
        let (after, standing) = budget.charge(counter, *now);
        counter = after;
        standing
    };
    arrivals.iter().map(&mut charge).collect()
}

fn admitted(budget: &Budget, arrivals: &[u64]) -> Vec<u64> {
    let standings = standings(budget, arrivals);
    let admits = standings.iter().map(|standing| standing.verdict == Verdict::Admit);
    arrivals.iter().zip(admits).filter(|(_, admits)| *admits).map(|(now, _)| *now).collect()
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
    /// G10: a token bucket never admits more than burst + rate × t in any time t.
    #[test]
    fn no_time_has_more(
        count in 1..50_u32,
        per in 1..5000_u64,
        burst in 1..20_u32,
        times in arrivals(700),
    ) {
        let admitted = admitted(&bucket(count, per, burst), &times);
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
        let budget = bucket(count, per, burst);
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
        prop_assert_eq!(admitted(&budget, &times), naive);
    }

    /// G10: a library of the field decides the same.
    #[test]
    fn as_governor_decides(every in 1..5000_u32, burst in 1..20_u32, times in arrivals(700)) {
        use governor::clock::FakeRelativeClock;
        use governor::{Quota, RateLimiter};

        let quota = Quota::with_period(Duration::from_micros(every.into())).unwrap();
        let quota = quota.allow_burst(NonZeroU32::new(burst).unwrap());
        let clock = FakeRelativeClock::default();
        let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
        let mut last = times[0];
        for (now, standing) in times.iter().zip(standings(&bucket(1, every.into(), burst), &times)) {
            clock.advance(Duration::from_micros(now - last));
            last = *now;
            let expected = if oracle.check().is_ok() { Verdict::Admit } else { Verdict::Refuse };
            prop_assert_eq!(standing.verdict, expected);
        }
    }

    /// G10: a leaky bucket drains evenly from a bounded line: nobody goes on sooner than an interval
    /// after the one before, and none of those who wait is more than its line behind.
    #[test]
    fn a_leaky_bucket_drains_evenly(
        count in 1..50_u32,
        per in 1..5000_u64,
        line in 1..20_u32,
        times in arrivals(700),
    ) {
        let standings = standings(&leaky(count, per, line), &times);
        let (mut free, count, per) = (0_u128, u128::from(count), u128::from(per));
        let mut last: Option<u64> = None;
        for (now, standing) in times.iter().zip(standings) {
            // In parts of a microsecond, so that the model is exact.
            let at = u128::from(*now) * count;
            let waits = free.saturating_sub(at);
            let admits = waits <= u128::from(line) * per;
            prop_assert_eq!(standing.verdict == Verdict::Admit, admits);
            if admits {
                free = free.max(at) + per;
                prop_assert_eq!(u128::from(standing.wait), waits.div_ceil(count));
                let goes = now + standing.wait;
                if let Some(last) = last {
                    prop_assert!(u128::from(goes - last) >= per / count);
                }
                last = Some(goes);
            } else {
                prop_assert_eq!(standing.wait, 0);
            }
        }
    }

    /// G10: a fixed window admits its count in each of its windows and not one more, and so at most
    /// twice its count around an edge.
    #[test]
    fn a_fixed_window_is_exact(count in 1..20_u64, times in arrivals(1000)) {
        let budget = Budget::FixedWindow { count, per: 1000 };
        let mut used = std::collections::HashMap::<u64, u64>::new();
        let mut naive = Vec::new();
        for now in &times {
            let used = used.entry(now / 1000).or_default();
            if *used < count {
                *used += 1;
                naive.push(*now);
            }
        }
        prop_assert_eq!(&admitted(&budget, &times), &naive);
        for (at, first) in naive.iter().enumerate() {
            let inside = naive[at..].iter().take_while(|t| **t < first + 1000).count();
            prop_assert!(inside as u64 <= 2 * count);
        }
    }

    /// G10: a month is told as it is, whatever came before.
    #[test]
    fn every_month_ends_with_its_last_microsecond(days in 0..200_000_u64, micros in 0..DAY) {
        let now = days * DAY + micros;
        let ((this, ends), (next, later)) = (month(now), month(month(now).1));
        prop_assert!(now < ends && ends - now <= 31 * DAY);
        prop_assert_eq!(month(ends - 1), (this, ends));
        prop_assert_eq!(next, this + 1);
        prop_assert!((28 * DAY..=31 * DAY).contains(&(later - ends)));
    }

    /// G10: `Retry-After` is when the next one passes: not a microsecond earlier, and then surely.
    #[test]
    fn next_is_the_moment(
        kind in 0..3,
        count in 1..9_u32,
        per in 1..5000_u64,
        burst in 1..9_u32,
        times in arrivals(700),
    ) {
        let budget = match kind {
            0 => bucket(count, per, burst),
            1 => leaky(count, per, burst),
            _ => Budget::FixedWindow { count: count.into(), per },
        };
        let mut counter = budget.fresh(times[0]);
        for now in times {
            let (after, standing) = budget.charge(counter, now);
            counter = after;
            if standing.verdict == Verdict::Refuse {
                let at = |time| budget.charge(counter, time).1.verdict;
                prop_assert!(standing.next > 0);
                prop_assert_eq!(at(now + standing.next - 1), Verdict::Refuse);
                prop_assert_eq!(at(now + standing.next), Verdict::Admit);
            }
        }
    }

    /// A refund leaves what a request that never came would have left.
    #[test]
    fn a_refund_is_complete(fixed in any::<bool>(), times in arrivals(700)) {
        let budget = match fixed {
            true => Budget::FixedWindow { count: 3, per: 1000 },
            false => Budget::TokenBucket { fill: 3, cost: 1000, capacity: 3000 },
        };
        let mut counter = budget.fresh(times[0]);
        for (n, now) in times.into_iter().enumerate() {
            let (after, standing) = budget.charge(counter, now);
            if standing.verdict == Verdict::Admit && n % 2 == 0 {
                let (after, refunded) = budget.refund(after, now);
                prop_assert_eq!(refunded, budget.standing(counter, now));
                counter = after;
            } else {
                counter = after;
            }
        }
    }

    /// A worker whose clock is a little behind another's meets what that one left: it gains nothing.
    #[test]
    fn clocks_of_two_workers(
        fixed in any::<bool>(),
        steps in proptest::collection::vec((0..700_u64, 0..50_u64), 1..60),
    ) {
        let budget = match fixed {
            true => Budget::FixedWindow { count: 3, per: 1000 },
            false => Budget::TokenBucket { fill: 3, cost: 1000, capacity: 3000 },
        };
        let mut now = 1_800_000_000_000_000;
        let mut counter = budget.fresh(now);
        for (gap, behind) in steps {
            now += gap;
            counter = budget.charge(counter, now).0;
            let there = budget.remaining(counter, now);
            prop_assert!(budget.charge(counter, now - behind).1.remaining <= there);
            counter = budget.charge(counter, now - behind).0;
            prop_assert!(budget.remaining(counter, now) <= there);
        }
    }

    /// A counter that nobody has met for years is a fresh one, also where its number has wrapped.
    #[test]
    fn long_ago(count in 1..1_000_000_u32, years in 1..200_u64) {
        let budget = bucket(count, 1_000_003, count.min(1000));
        let then = 1_800_000_000_000_000_u64;
        let mut counter = budget.fresh(then);
        for _ in 0..2000 {
            counter = budget.charge(counter, then).0;
        }
        let now = then + years * 31_556_952_000_000;
        prop_assert_eq!(budget.remaining(counter, now), budget.most());
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
    let leaky = limit(LimitAlgorithm::LeakyBucket, 100, minute, 10);
    let third = Budget::LeakyBucket { fill: 1, cost: 1_800_000, capacity: 7_200_000 };
    assert_eq!(Budget::share(&leaky, 3), Ok(third));
    assert_eq!(Budget::share(&leaky, 1000).unwrap().most(), 1, "it lets one go on, and none wait");
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

/// G10: the first day of all has a month too.
#[test]
fn the_first_month_of_all() {
    assert_eq!(month(0), (1970 * 12, 31 * DAY));
}

/// G10: a quota begins anew on the first of each month, also after a short one.
#[test]
fn a_quota_begins_anew_each_month() {
    let per = Calendar::Month;
    let allows = Allowance::Quota(Quota { count: NonZeroU32::new(2).unwrap(), per });
    let month =
        Limit { allows, ..limit(LimitAlgorithm::FixedWindow, 1, Duration::from_secs(1), 1) };
    let budget = Budget::new(&month).unwrap();
    // The first of January, February and March 2027, and of March 2028, in days since 1970.
    for first in [20_819, 20_850, 20_878, 21_244] {
        let edge = first * DAY;
        let told = standings(&budget, &[edge - 5, edge - 4, edge - 3, edge, edge + 1]);
        let verdicts: Vec<_> = told.iter().map(|standing| standing.verdict).collect();
        use Verdict::{Admit, Refuse};
        assert_eq!(verdicts, [Admit, Admit, Refuse, Admit, Admit]);
        assert_eq!(told[2].next, 3);
    }
    let day = Allowance::Quota(Quota { count: NonZeroU32::new(6).unwrap(), per: Calendar::Day });
    let shared = Budget::share(&Limit { allows: day, ..month }, 3).unwrap();
    assert_eq!(shared, Budget::FixedWindow { count: 2, per: DAY });
}
