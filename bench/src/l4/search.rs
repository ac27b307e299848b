//! Finds the highest rate that still passes, over several rounds. Not for running it.
//!
//! Rates are steps of 4 %. The first search halves the whole range; the following ones begin where
//! the last one ended and walk.
//!
//! Invariant: a search ends after at most 2 × log₂(steps) trials, whatever the answers are.

/// The lowest rate that is tried.
const LOWEST: f64 = 5_000.0;
const STEP: f64 = 1.04;
/// Up to 2.4 million a second.
const STEPS: usize = 157;

/// The rate of a step.
pub fn rate(step: usize) -> u64 {
    (LOWEST * STEP.powi(step as i32)) as u64
}

/// Where the last search ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    last: Option<usize>,
}

impl Search {
    /// The highest rate at which `passes` says so; 0 when the lowest does not.
    ///
    /// # Errors
    /// Those of `passes`.
    pub fn run<E>(&mut self, mut passes: impl FnMut(u64) -> Result<bool, E>) -> Result<u64, E> {
        // Passing below `low`, failing from `high` on.
        let (mut low, mut high) = (0, STEPS);
        if let Some(last) = self.last {
            let mut stride = 2;
            let mut at = last;
            if passes(rate(at))? {
                low = at + 1;
                while low < high {
                    at = (at + stride).min(STEPS - 1);
                    if at < low {
                        break;
                    }
                    if !passes(rate(at))? {
                        high = at;
                        break;
                    }
                    low = at + 1;
                    stride *= 2;
                }
            } else {
                high = at;
                while low < high {
                    at = at.saturating_sub(stride);
                    if passes(rate(at))? {
                        low = at + 1;
                        break;
                    }
                    high = at;
                    stride *= 2;
                }
            }
        }
        while low < high {
            let middle = low.midpoint(high);
            if passes(rate(middle))? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // Where nothing passed, the next search begins at the lowest.
        self.last = Some(low.saturating_sub(1));
        Ok(low.checked_sub(1).map_or(0, rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_passing_rate_is_found_in_few_trials() {
        for limit in [0, 5_000, 77_000, 244_000, 9_000_000] {
            let mut search = Search::default();
            for round in 0..3 {
                let mut trials = 0;
                let found = search
                    .run(|rate| {
                        trials += 1;
                        Ok::<_, ()>(rate <= limit)
                    })
                    .unwrap();
                assert!(
                    found <= limit
                        && (limit < 5_000
                            || found as f64 > limit as f64 / 1.05
                            || found == rate(STEPS - 1)),
                    "{found} for {limit}"
                );
                assert!(trials <= if round == 0 { 9 } else { 5 }, "{trials} trials for {limit}");
            }
        }
    }
}
