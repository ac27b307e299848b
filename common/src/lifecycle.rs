//! The phases of an instance's life and the signals that change them. Not for what a phase means
//! to a tier: each listener and connection waits for the phase that concerns it.
//!
//! Invariant: phases only go forward, Running → Draining → Stopped; and who is to leave somewhere before the
//! instance drains has left, or given up.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::timeout;

/// Where an instance stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepting and serving.
    Running,
    /// Accepting nothing new; what runs may finish.
    Draining,
    /// Everything ends now.
    Stopped,
}

/// The owner's handle on the phase; cheap to clone, usable from every thread.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    farewell: watch::Sender<Farewell>,
}

/// What comes before a drain.
#[derive(Clone, Copy, Debug, Default)]
struct Farewell {
    /// A drain is wanted.
    asked: bool,
    /// Who leaves somewhere first.
    members: usize,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// A running instance.
    pub fn new() -> Self {
        let farewell = watch::Sender::new(Farewell::default());
        Self { phase: watch::Sender::new(Phase::Running), farewell }
    }

    /// What listeners and connections hold.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown { phase: self.phase.subscribe() }
    }

    /// Stops taking new work, as soon as all members have left. Has no effect after [`Lifecycle::stop`].
    pub fn drain(&self) {
        let mut alone = false;
        // After a hand-over nobody has to leave.
        let begun = self.phase() > Phase::Running;
        self.farewell.send_modify(|farewell| {
            farewell.asked |= !begun;
            alone = farewell.members == 0;
        });
        if alone {
            self.advance(Phase::Draining);
        }
    }

    /// Stops taking new work at once: another process takes it, and members leave nothing.
    pub fn hand_over(&self) {
        self.advance(Phase::Draining);
    }

    /// Keeps the instance from draining until it is dropped: somebody who tells others first that it goes.
    pub fn member(&self) -> Member {
        self.farewell.send_if_modified(|farewell| {
            farewell.members += 1;
            false
        });
        Member(self.clone())
    }

    /// Whether a drain is wanted.
    pub fn is_leaving(&self) -> bool {
        self.farewell.borrow().asked
    }

    /// Waits until a drain is wanted. Cancel safe.
    pub async fn leaving(&self) {
        let mut farewell = self.farewell.subscribe();
        // The sender is this one.
        let _asked = farewell.wait_for(|farewell| farewell.asked).await;
    }

    /// Ends everything.
    pub fn stop(&self) {
        self.advance(Phase::Stopped);
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }
}

/// One who leaves somewhere before the instance drains.
#[derive(Debug)]
pub struct Member(Lifecycle);

impl Drop for Member {
    fn drop(&mut self) {
        let mut last = false;
        self.0.farewell.send_if_modified(|farewell| {
            farewell.members = farewell.members.saturating_sub(1);
            last = farewell.asked && farewell.members == 0;
            false
        });
        if last {
            self.0.advance(Phase::Draining);
        }
    }
}

/// What work holds to learn that its instance is ending.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: watch::Receiver<Phase>,
}

impl Shutdown {
    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the instance drains or stops. Cancel safe. An owner that is gone counts as
    /// stopped.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until the instance stops. Cancel safe.
    pub async fn stopped(&self) {
        self.reached(Phase::Stopped).await;
    }

    async fn reached(&self, at_least: Phase) {
        let mut phase = self.phase.clone();
        // Unconstrained: a poll that the runtime puts off would not be woken later.
        let mut reached = pin!(unconstrained(phase.wait_for(|phase| *phase >= at_least)));
        let mut sleeper: Option<Waker> = None;
        poll_fn(|cx| {
            // Connections poll this with every request. Who sleeps on it already and would have been
            // woken need not look again.
            let asleep = sleeper.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
            if asleep && matches!(self.phase.has_changed(), Ok(false)) {
                return Poll::Pending;
            }
            if !asleep {
                sleeper = Some(cx.waker().clone());
            }
            // An error means that the owner is gone, which ends the wait as well.
            reached.as_mut().poll(cx).map(|_| ())
        })
        .await;
    }
}

/// What a signal asks for beside an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// HUP: read the file again.
    Reload,
    /// USR1: open log files anew.
    Reopen,
    /// USR2: hand over to a new process.
    Upgrade,
}

/// Turns signals into phases until the instance has stopped: TERM and INT drain, a second one or
/// the deadline `drain` stops; HUP, USR1 and USR2 are told to `wish`. Meant for `main`, before anything
/// else: from this call on no signal ends the process by itself, and those that come before the
/// future runs are kept for it. Needs a tokio runtime.
///
/// # Errors
/// When a signal cannot be listened to.
pub fn signals(
    lifecycle: Lifecycle,
    drain: Duration,
    wish: impl Fn(Wish) + 'static,
) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    Ok(async move {
        let shutdown = lifecycle.shutdown();
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => wish(Wish::Reload),
                _ = reopen.recv() => wish(Wish::Reopen),
                _ = upgrade.recv() => wish(Wish::Upgrade),
                () = shutdown.draining() => break,
                // By the admin listener: what leaving takes is a part of the drain.
                () = lifecycle.leaving() => break,
            }
        }
        lifecycle.drain();
        let second = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = shutdown.stopped() => {}
            }
        };
        // Both outcomes end the drain: the second signal, or the deadline.
        let _ = timeout(drain, second).await;
        lifecycle.stop();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_phase_never_goes_back() {
        let lifecycle = Lifecycle::new();
        let shutdown = lifecycle.shutdown();
        lifecycle.stop();
        lifecycle.drain();
        assert_eq!(shutdown.phase(), Phase::Stopped);
        shutdown.draining().await;
        shutdown.stopped().await;
    }

    /// O4: the instance drains when the last of those who leave first is gone; at once where it hands over.
    #[tokio::test]
    async fn members_leave_before_a_drain() {
        let lifecycle = Lifecycle::new();
        let (first, second) = (lifecycle.member(), lifecycle.member());
        drop(lifecycle.member());
        assert!(!lifecycle.is_leaving());
        lifecycle.drain();
        lifecycle.leaving().await;
        drop(first);
        assert_eq!(lifecycle.phase(), Phase::Running);
        drop(second);
        assert_eq!(lifecycle.phase(), Phase::Draining);
        let lifecycle = Lifecycle::new();
        let _stays = lifecycle.member();
        lifecycle.hand_over();
        assert!(lifecycle.phase() == Phase::Draining && !lifecycle.is_leaving());
    }

    #[tokio::test]
    async fn who_waits_is_woken_whoever_polls() {
        let lifecycle = Lifecycle::new();
        let shutdown = lifecycle.shutdown();
        let mut waiting = Box::pin(async move {
            shutdown.draining().await;
            shutdown.stopped().await;
        });
        for _ in 0..2 {
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        // Another task goes on with it.
        let task = tokio::spawn(waiting);
        tokio::task::yield_now().await;
        lifecycle.drain();
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        lifecycle.stop();
        task.await.expect("no panic");
    }

    /// A task that has spent its time is polled, but what it polls is put off.
    #[tokio::test]
    async fn who_has_no_time_left_is_woken_too() {
        let lifecycle = Lifecycle::new();
        let shutdown = lifecycle.shutdown();
        let task = tokio::spawn(async move {
            let mut waiting = pin!(shutdown.draining());
            poll_fn(|cx| {
                while tokio::task::coop::poll_proceed(cx)
                    .map(|left| left.made_progress())
                    .is_ready()
                {}
                waiting.as_mut().poll(cx)
            })
            .await;
        });
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
        lifecycle.drain();
        task.await.expect("no panic");
    }

    #[tokio::test]
    async fn work_whose_owner_is_gone_ends() {
        let lifecycle = Lifecycle::new();
        let shutdown = lifecycle.shutdown();
        drop(lifecycle);
        shutdown.stopped().await;
    }
}
