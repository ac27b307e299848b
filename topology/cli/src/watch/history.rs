//! Five minutes of every instance, for sparklines. Filled by the watcher, read by whoever begins to
//! look.
//!
//! Invariant: memory is fixed by the number of instances.

use std::collections::VecDeque;

use serde::Serialize;

use super::look::Seen;

/// Samples that are kept of an instance, one a second.
pub(crate) const KEPT: usize = 300;

/// The samples of one instance, oldest first; what was not known is null.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Track {
    pub(crate) rate: VecDeque<Option<f32>>,
    pub(crate) failing: VecDeque<Option<f32>>,
    /// Milliseconds.
    pub(crate) p99: VecDeque<Option<f32>>,
}

impl Track {
    /// Adds one second.
    #[expect(clippy::cast_possible_truncation, reason = "drawn a few pixels high")]
    pub(crate) fn add(&mut self, seen: &Seen) {
        let p99 = seen.p99.map(|us| us as f32 / 1e3);
        let failing = seen.failing.map(|rate| rate as f32);
        let all = [
            (&mut self.rate, seen.rate.map(|rate| rate as f32)),
            (&mut self.failing, failing),
            (&mut self.p99, p99),
        ];
        for (kept, value) in all {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T6: five minutes, however long it runs.
    #[test]
    fn five_minutes_are_kept() {
        let mut track = Track::default();
        for n in 0..1000 {
            track.add(&Seen { rate: Some(f64::from(n)), ..Seen::default() });
        }
        assert_eq!((track.rate.len(), track.p99.len()), (KEPT, KEPT));
        assert_eq!(track.rate.front(), Some(&Some(700.0)));
    }
}
