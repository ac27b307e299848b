//! Buckets against what they promise.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

fn pace(count: u32, milliseconds: u64) -> Pace {
    let count = NonZeroU32::new(count).unwrap();
    Pace::new(Rate { count, per: Duration::from_millis(milliseconds) })
}

fn source(number: u32) -> Source {
    Source::V4(number.to_be_bytes())
}

/// N9: an IPv6 subscriber is one source, whatever address of the /64 is used.
#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
    let of = |text: &str| Source::of(text.parse().unwrap());
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
}

proptest! {
    /// N9: in any stretch of time no more pass than the rate gives in it, and one burst.
    #[test]
    fn never_more_than_the_rate(
        count in 1_u32..50,
        per in 1_u64..2000,
        gaps in prop::collection::vec(0_u64..300, 1..300),
    ) {
        let (pace, bucket) = (pace(count, per), Bucket::default());
        let mut now = 0;
        let mut passed = Vec::new();
        for gap in gaps {
            now += gap;
            if bucket.take(pace, Duration::from_millis(now)) {
                passed.push(now);
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (last, to) in passed.iter().enumerate().skip(first) {
                // A time between is rounded up: the rate's share of it, and a burst.
                let most = (to - from) * u64::from(count) / per + 1 + u64::from(count);
                prop_assert!((last - first) as u64 <= most);
            }
        }
    }

    /// N9: who keeps to the rate is never refused, whatever the others do.
    #[test]
    fn others_do_not_spend_what_is_mine(
        count in 1_u32..50,
        others in prop::collection::vec((1_u32..400, 0_u64..20), 1..400),
    ) {
        let pace = pace(count, 1000);
        let (mut buckets, mut now, mut next) = (Buckets::new(), 0, 0);
        for (other, gap) in others {
            now += gap;
            buckets.take(source(other), pace, Duration::from_millis(now));
            if now >= next {
                next = now + 1000_u64.div_ceil(u64::from(count));
                prop_assert!(buckets.take(source(0), pace, Duration::from_millis(now)));
            }
        }
    }

    /// N9: a source of its own has a bucket as one shared by all would be.
    #[test]
    fn per_source_as_one_bucket(count in 1_u32..20, gaps in prop::collection::vec(0_u64..200, 1..200)) {
        let pace = pace(count, 1000);
        let (mut buckets, bucket, mut now) = (Buckets::new(), Bucket::default(), 0);
        for gap in gaps {
            now += gap;
            let time = Duration::from_millis(now);
            prop_assert_eq!(buckets.take(source(7), pace, time), bucket.take(pace, time));
        }
    }
}

/// N9: a flood of a million sources takes no more memory, and each of them is let in at its rate.
#[test]
fn a_flood_of_sources_is_bounded_and_not_punished() {
    let (mut buckets, pace) = (Buckets::new(), pace(1, 1000));
    let places = buckets.places.len();
    for number in 0..1_000_000 {
        assert!(buckets.take(source(number), pace, Duration::ZERO));
    }
    assert_eq!(buckets.places.len(), places);
    assert_eq!(size_of::<Place>() * Buckets::PLACES, 192 << 10);
}
