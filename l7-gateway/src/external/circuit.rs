//! Whoever fails again and again is left alone for a while, which hurts neither them nor who waits. Called by `mod`.
//!
//! Invariant: while it is open one question goes out at each end of a pause, and no other.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row until it opens.
const MOST: u32 = 5;
/// The first pause; each further one is twice as long, up to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// The circuit to one peer, on one worker.
#[derive(Debug, Default)]
pub struct Circuit {
    /// In a row.
    failures: Cell<u32>,
    /// Since it was last answered.
    openings: Cell<u32>,
    until: Cell<Option<Instant>>,
    /// Somebody was told that it fails.
    told: Cell<bool>,
}

/// As what a question goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As one of many.
    Usual,
    /// To find out whether it answers again.
    Probe,
}

impl Circuit {
    /// Whether a question may go out.
    pub fn admits(&self, now: Instant) -> Option<Turn> {
        match self.until.get() {
            None => Some(Turn::Usual),
            Some(until) if now < until => None,
            Some(_) => {
                // This one finds out; the others wait for what it finds.
                self.until.set(Some(now + self.pause()));
                Some(Turn::Probe)
            }
        }
    }

    /// It was answered well; whether somebody was told that it fails.
    pub fn close(&self) -> bool {
        self.answered();
        self.told.replace(false)
    }

    /// It was answered, by something that is of no use; whether that is new. Who answers needs not be left alone.
    pub fn odd(&self) -> bool {
        self.answered();
        !self.told.replace(true)
    }

    /// It was not answered; whether that is new.
    pub fn fail(&self, turn: Turn, now: Instant) -> bool {
        // Those that were under way when it opened say nothing new.
        if turn == Turn::Usual && self.until.get().is_some() {
            return false;
        }
        self.failures.set(self.failures.get().saturating_add(1));
        if turn == Turn::Probe || self.failures.get() >= MOST {
            self.openings.set(self.openings.get().saturating_add(1));
            self.until.set(Some(now + self.pause()));
        }
        !self.told.replace(true)
    }

    fn answered(&self) {
        self.until.set(None);
        self.failures.set(0);
        self.openings.set(0);
    }

    fn pause(&self) -> Duration {
        let doubled = self.openings.get().saturating_sub(1).min(5);
        (FIRST * (1 << doubled)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G2: five failures open it, one question goes out at the end of each pause, and an answer closes it.
    #[test]
    fn a_circuit_opens_and_closes() {
        let (circuit, mut now) = (Circuit::default(), Instant::now());
        for n in 0..5 {
            assert_eq!(circuit.admits(now), Some(Turn::Usual), "{n}");
            assert_eq!(circuit.fail(Turn::Usual, now), n == 0);
        }
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let before = now + Duration::from_secs(pause) - Duration::from_millis(1);
            assert_eq!(circuit.admits(before), None);
            now += Duration::from_secs(pause);
            assert_eq!(circuit.admits(now), Some(Turn::Probe), "after {pause} s");
            assert_eq!(circuit.admits(now), None, "one alone, after {pause} s");
            assert!(!circuit.fail(Turn::Probe, now));
        }
        now += LONGEST;
        assert!(circuit.admits(now).is_some() && circuit.close());
        assert_eq!([circuit.admits(now), circuit.admits(now)], [Some(Turn::Usual); 2]);
        assert!(!circuit.close());
    }

    /// G2: fifty questions that fail together open it once: for the first pause and no longer.
    #[test]
    fn failures_at_one_time_open_a_circuit_once() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        let turns: Vec<Turn> = (0..50).filter_map(|_| circuit.admits(now)).collect();
        assert_eq!(turns, [Turn::Usual; 50]);
        let told = turns.into_iter().filter(|turn| circuit.fail(*turn, now)).count();
        assert_eq!(told, 1);
        let late = Duration::from_millis(999);
        assert_eq!(circuit.admits(now + late), None);
        assert!(!circuit.fail(Turn::Usual, now + late), "it was under way all the time");
        assert_eq!(circuit.admits(now + FIRST), Some(Turn::Probe));
        assert!(circuit.close());
    }

    /// G2: whoever answers nonsense is told of once, and asked on.
    #[test]
    fn odd_answers_open_nothing() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        let told = (0..10).filter(|_| circuit.odd()).count();
        assert_eq!((told, circuit.admits(now)), (1, Some(Turn::Usual)));
        assert!(circuit.close() && circuit.odd());
    }
}
