//! When each unit of work is due: an absolute schedule, so that a late one makes no later one late.
//! Not for the sending itself. Used by `udp` and `https`.
//!
//! Invariant: unit `i` is due at a time that depends on `i` alone, never on what came before.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use common::net::sys::Poller;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::time::Instant;

/// Due times of a whole replay, or of every `step`th unit of it.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    times: Arc<Times>,
    first: u64,
    step: u64,
}

#[derive(Debug)]
enum Times {
    Even { rate: f64, total: u64 },
    Recorded(Vec<Duration>),
}

impl Schedule {
    /// Evenly: `rate` per second (above zero) for `span`.
    pub(super) fn even(rate: f64, span: Duration) -> Self {
        Self::of(Times::Even { rate, total: (rate * span.as_secs_f64()).round() as u64 })
    }

    /// At these offsets, in order.
    pub(super) fn recorded(offsets: Vec<Duration>) -> Self {
        Self::of(Times::Recorded(offsets))
    }

    fn of(times: Times) -> Self {
        Self { times: Arc::new(times), first: 0, step: 1 }
    }

    /// Of this whole schedule the units `first`, `first + step`, `first + 2 step` …
    pub(super) fn every(&self, step: u64, first: u64) -> Self {
        Self { times: self.times.clone(), first, step }
    }

    /// How many units there are.
    pub(super) fn total(&self) -> u64 {
        let whole = match &*self.times {
            Times::Even { total, .. } => *total,
            Times::Recorded(offsets) => offsets.len() as u64,
        };
        whole.saturating_sub(self.first).div_ceil(self.step)
    }

    /// When the last is due.
    pub(super) fn span(&self) -> Duration {
        self.offset(self.total().saturating_sub(1)).unwrap_or_default()
    }

    /// When unit `i` is due, from the start; `None` after the last.
    pub(super) fn offset(&self, i: u64) -> Option<Duration> {
        let i = i.checked_mul(self.step)?.checked_add(self.first)?;
        match &*self.times {
            Times::Even { rate, total } => {
                (i < *total).then(|| Duration::from_secs_f64(i as f64 / rate))
            }
            Times::Recorded(offsets) => offsets.get(usize::try_from(i).ok()?).copied(),
        }
    }
}

/// Wakes to tens of microseconds (timerfd), where a runtime's own timers know whole milliseconds.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    rings: Poller,
}

impl Alarm {
    /// One that is not set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> std::io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let rings = Poller::new()?;
        rings.add(&timer, 0)?;
        Ok(Self { timer, rings })
    }

    /// Waits; at once when that time has passed. Cancel safe.
    ///
    /// # Errors
    /// The system refuses the timer.
    pub(super) async fn until(&self, due: Instant) -> std::io::Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let once = Expiration::OneShot(TimeSpec::from_duration(left));
            self.timer.set(once, TimerSetTimeFlags::empty())?;
            // Setting the timer took back what it told before, so nothing is left to drain.
            self.rings.readable().await?.clear_ready();
        }
    }
}

/// Walks a schedule in real time.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    schedule: Schedule,
    next: u64,
    alarm: Option<Alarm>,
}

impl Pace {
    /// Unit 0 is due at `start` plus its offset.
    pub(super) fn new(start: Instant, schedule: Schedule) -> Self {
        Self { start, schedule, next: 0, alarm: None }
    }

    /// Wakes by an [`Alarm`].
    ///
    /// # Errors
    /// No descriptor is left for it.
    pub(super) fn precise(self) -> std::io::Result<Self> {
        Ok(Self { alarm: Some(Alarm::new()?), ..self })
    }

    /// When unit `i` is due.
    pub(super) fn due(&self, i: u64) -> Option<Instant> {
        self.schedule.offset(i).map(|offset| self.start + offset)
    }

    /// Waits for the next unit and takes it with all others that are due by then, at most `most`;
    /// `None` after the last. Cancel safe: nothing is taken before it returns.
    pub(super) async fn take(&mut self, most: u64) -> Option<Range<u64>> {
        let first = self.next;
        let due = self.due(first)?;
        match &self.alarm {
            // An alarm that the system refuses makes sends late, which is told.
            Some(alarm) => drop(alarm.until(due).await),
            None => tokio::time::sleep_until(due).await,
        }
        let now = Instant::now();
        let mut end = first + 1;
        while end - first < most && self.due(end).is_some_and(|due| due <= now) {
            end += 1;
        }
        self.next = end;
        Some(first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_delays_nothing_but_what_fell_into_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start, Schedule::even(100.0, Duration::from_secs(1)));
        assert_eq!(pace.take(64).await, Some(0..1));
        tokio::time::sleep(Duration::from_millis(35)).await;
        assert_eq!(pace.take(64).await, Some(1..4));
        assert_eq!(pace.take(64).await, Some(4..5));
        assert_eq!(start.elapsed(), Duration::from_millis(40));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_bounded_and_the_end_is_the_end() {
        let mut pace = Pace::new(Instant::now(), Schedule::even(1000.0, Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut taken = 0;
        while let Some(batch) = pace.take(64).await {
            assert!(batch.end - batch.start <= 64);
            taken += batch.end - batch.start;
        }
        assert_eq!(taken, 1000);
    }

    #[test]
    fn a_recording_keeps_its_own_times() {
        let offsets = vec![Duration::ZERO, Duration::from_millis(7), Duration::from_millis(7)];
        let schedule = Schedule::recorded(offsets);
        assert_eq!(schedule.total(), 3);
        assert_eq!(schedule.offset(2), Some(Duration::from_millis(7)));
        assert_eq!(schedule.offset(3), None);
    }

    proptest! {
        #[test]
        fn even_times_never_drift_and_never_go_back(rate in 0.1f64..100_000.0, i in 0u64..1_000_000) {
            let schedule = Schedule::even(rate, Duration::from_secs(20_000_000));
            let (a, b) = (schedule.offset(i).unwrap(), schedule.offset(i + 1).unwrap());
            prop_assert!(a <= b);
            prop_assert!((a.as_secs_f64() - i as f64 / rate).abs() < 1e-6);
        }

        #[test]
        fn shares_make_up_the_whole(total in 0u64..50, step in 1u64..7) {
            let whole = Schedule::even(1.0, Duration::from_secs(total));
            let mut all: Vec<_> = (0..step)
                .map(|first| whole.every(step, first))
                .flat_map(|part| (0..part.total()).map(move |i| part.offset(i).unwrap()))
                .collect();
            all.sort();
            prop_assert_eq!(all, (0..total).map(Duration::from_secs).collect::<Vec<_>>());
        }
    }
}
