//! A histogram of durations that many threads fill without a lock: fixed log-linear buckets from
//! 1 µs to 67 s, 8 to the octave, so that a quantile is off by at most 12.5 %. Not for exact
//! figures: replay and bench keep HDR histograms.
//!
//! Invariant: recording is two atomic additions; memory is fixed.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets to the octave, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;
const OCTAVES: usize = 24;
const BUCKETS: usize = OCTAVES * SUB as usize;

/// Bounds of the Prometheus histogram, in µs; a scraper gets few buckets, a quantile all of them.
const SHOWN_MICROS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];

/// A histogram of durations.
#[derive(Debug)]
pub struct Latency {
    counts: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum_micros: AtomicU64::new(0) }
    }
}

impl Latency {
    /// Counts one duration; longer than 67 s counts as 67 s.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(index_of(micros)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(micros.min(upper(BUCKETS - 1)), Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The buckets that are not empty: the largest duration of each, in µs, and how many it holds.
    /// Differences of two of these are what came in between.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
        counts.filter(|(_, count)| *count > 0).map(|(n, count)| (upper(n), count)).collect()
    }

    /// The duration that the share `quantile` (0 to 1) of all stays below, rounded up to its
    /// bucket; `None` while nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let total: u64 = counts.iter().sum();
        // Lossy only beyond 2^52 observations.
        let rank = (quantile.clamp(0.0, 1.0) * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.filter(|_| total > 0).map(|bucket| Duration::from_micros(upper(bucket)))
    }

    /// Appends the series of one histogram in Prometheus text form; `labels` is `a="b",` or empty.
    pub(crate) fn render(&self, name: &str, labels: &str, out: &mut String) {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        for bound in SHOWN_MICROS {
            let below: u64 = counts.iter().take(index_of(bound) + 1).sum();
            let seconds = bound as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{seconds}\"}} {below}");
        }
        let total: u64 = counts.iter().sum();
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        let bare = labels.trim_end_matches(',');
        let _ = writeln!(out, "{name}_bucket{{{labels}le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{{bare}}} {sum}\n{name}_count{{{bare}}} {total}");
    }
}

/// The bucket of a value: below 8 one bucket each, above 8 buckets per power of two.
fn index_of(micros: u64) -> usize {
    let index = if micros < SUB {
        micros
    } else {
        let octave = u64::from(micros.ilog2() - SUB_BITS);
        (octave + 1) * SUB + ((micros >> octave) - SUB)
    };
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let octave = bucket / SUB - 1;
    ((bucket % SUB + SUB + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A value lies in its bucket, and the bucket is at most an eighth wide.
        #[test]
        fn buckets_hold_their_values(micros in 0_u64..60_000_000) {
            let bucket = index_of(micros);
            prop_assert!(micros <= upper(bucket));
            prop_assert!(bucket == 0 || micros > upper(bucket - 1));
            prop_assert!(upper(bucket) - micros <= micros / SUB);
        }

        /// O2: a quantile is never below the exact one and off by at most an eighth.
        #[test]
        fn quantiles_are_close(mut micros in prop::collection::vec(1_u64..60_000_000, 1..200), q in 0.0_f64..=1.0) {
            let latency = Latency::default();
            for value in &micros {
                latency.record(Duration::from_micros(*value));
            }
            micros.sort_unstable();
            let rank = (q * micros.len() as f64).ceil().max(1.0) as usize;
            let exact = micros[rank - 1];
            prop_assert_eq!(latency.counts().iter().map(|(_, n)| n).sum::<u64>(), micros.len() as u64);
            let shown = latency.quantile(q).expect("counted").as_micros() as u64;
            prop_assert!(shown >= exact && shown <= exact + exact / SUB);
        }
    }

    #[test]
    fn nothing_counted_has_no_quantile_and_a_long_one_is_kept() {
        let latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        latency.record(Duration::from_secs(1 << 40));
        assert_eq!(latency.count(), 1);
        assert!(latency.quantile(0.5).expect("counted") > Duration::from_secs(60));
    }
}
