//! Timers for requests under way, armed already. Not for pauses within a body: `upstream`. Called by
//! `attempt`.
//!
//! Invariant: it rings only when what is waited for is overdue. One that is armed for an earlier moment
//! is left alone and moved on when it fires, so that most requests do not touch the runtime's clock.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Those that nobody waits for now.
#[derive(Debug, Default)]
pub struct Alarms(RefCell<Vec<Pin<Box<Sleep>>>>);

/// As many are kept.
const MOST: usize = 128;

impl Alarms {
    /// What comes of a future by then; `None`: nothing.
    pub async fn limit<F: Future>(&self, until: Instant, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut alarm = Alarm { alarms: self, timer: None };
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => alarm.poll(cx, until).map(|()| None),
        })
        .await
    }
}

/// One that somebody waits for.
struct Alarm<'a> {
    alarms: &'a Alarms,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let known = || self.alarms.0.borrow_mut().pop();
        let timer = self
            .timer
            .get_or_insert_with(|| known().unwrap_or_else(|| Box::pin(sleep_until(until))));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        let mut kept = self.alarms.0.borrow_mut();
        if let Some(timer) = self.timer.take().filter(|_| kept.len() < MOST) {
            kept.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// G18: whatever a timer was armed for before, a limit is met to the moment.
    #[tokio::test(start_paused = true)]
    async fn a_used_timer_rings_in_time() {
        let alarms = Alarms::default();
        let begun = Instant::now();
        for seconds in [30, 5, 60, 1] {
            let until = Instant::now() + Duration::from_secs(seconds);
            let limited = alarms.limit(until, tokio::task::yield_now()).await;
            assert!(limited.is_some() && begun.elapsed() == Duration::ZERO);
        }
        assert_eq!(alarms.0.borrow().len(), 1, "one timer serves them all");
        let mut passed = Duration::ZERO;
        for seconds in [3, 70, 2, 2] {
            passed += Duration::from_secs(seconds);
            let limited = alarms.limit(begun + passed, std::future::pending::<()>()).await;
            assert_eq!((limited, begun.elapsed()), (None, passed));
        }
    }
}
