//! The one loop by which an instance is kept in a registry. Not for what a registry is told and how.
//! One task per registry, started by `Registrar`.
//!
//! Invariant: while an entry may be there the instance does not begin to drain, and never for longer than
//! leaving and lingering may take.

use std::pin::pin;
use std::time::Duration;

use common::lifecycle::Member;
use common::rng::Rng;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::Fault;
use crate::register::events::{Left, Registered, RegistrationFailed, told};
use crate::register::{Health, Registry, Target, Who};

/// Keeps what is wanted in the registry until the instance ends.
pub(super) async fn hold<R: Registry>(
    mut wanted: watch::Receiver<Option<Target<R::Settings>>>,
    who: Who,
) {
    let mut former: Option<(Held<R>, Member)> = None;
    loop {
        let target = wanted.borrow_and_update().clone();
        let mut entered = None;
        // A drain waits for the former entry, too.
        let member = who.lifecycle.member();
        if let Some((mut held, _member)) = former.take() {
            let replaced = |next: &Target<R::Settings>| R::replaces(next, &held.target);
            if target.as_ref().is_some_and(replaced) {
                entered = held.entered;
            } else {
                held.leave().await;
            }
        }
        let Some(target) = target else {
            drop(member);
            who.board.forget(R::KIND);
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut held = Held::<R>::new(target, &who, entered);
        match held.keep(&mut wanted).await {
            End::Changed => former = Some((held, member)),
            End::Leaving => {
                let linger = held.target.entry.linger;
                if held.leave().await {
                    // Others hear of it, and go on until then.
                    sleep(linger).await;
                }
                drop(member);
                return;
            }
            End::Over => return,
        }
    }
}

/// Why an entry is not kept any longer.
enum End {
    /// Another one is wanted, or none.
    Changed,
    /// The instance is about to drain.
    Leaving,
    /// It has ended, or another process goes on with the entry.
    Over,
}

/// One entry.
struct Held<R: Registry> {
    target: Target<R::Settings>,
    registry: R,
    who: Who,
    rng: Rng,
    backoff: Duration,
    /// What the registry was told last.
    told: Option<Health>,
    /// It may be entered.
    begun: bool,
    /// What operators were told last.
    fault: Option<String>,
    /// When the registry said last that it holds the entry, or the one that this one replaces.
    entered: Option<Instant>,
}

impl<R: Registry> Held<R> {
    fn new(target: Target<R::Settings>, who: &Who, entered: Option<Instant>) -> Self {
        who.board.begin(R::KIND, target.settings.to_string(), target.entry.address);
        Self {
            registry: R::new(&target),
            target,
            who: who.clone(),
            rng: Rng::from_os(),
            backoff: FIRST_PAUSE,
            told: None,
            begun: false,
            fault: None,
            entered,
        }
    }

    async fn keep(&mut self, wanted: &mut watch::Receiver<Option<Target<R::Settings>>>) -> End {
        loop {
            let health = self.who.health();
            self.begun = true;
            let outcome = {
                let mut telling = pin!(self.registry.tell(health));
                tokio::select! {
                    biased;
                    end = end(wanted, &self.who) => {
                        // What is under way could arrive after what is said next.
                        let _late = timeout(LAST_WORD, telling).await;
                        return end;
                    }
                    outcome = &mut telling => outcome,
                }
            };
            let pause = match &outcome {
                Ok(()) => self.succeeded(health),
                Err(fault) => self.failed(fault),
            };
            tokio::select! {
                biased;
                end = end(wanted, &self.who) => return end,
                () = sleep(pause) => {}
                // A registry that is away is not asked more often for that.
                () = self.who.other_than(health), if outcome.is_ok() => {}
            }
        }
    }

    /// The pause until the next sign of life.
    fn succeeded(&mut self, health: Health) -> Duration {
        self.backoff = FIRST_PAUSE;
        told(&self.who.observer, R::KIND, "ok");
        let now = Instant::now();
        self.who.board.change(R::KIND, |row| {
            (row.told, row.succeeded) = (Some(health), Some(now));
        });
        let failed = self.fault.take().is_some();
        if failed || self.told != Some(health) {
            let ready = health == Health::Ready;
            let (registry, address) = (R::KIND, self.target.entry.address);
            self.who.observer.emit(Registered { registry, address, ready });
        }
        (self.told, self.entered) = (Some(health), Some(now));
        // Earlier by up to a fifth, so that instances do not come in step.
        let pause = R::ttl(&self.target.settings) / 3;
        self.rng.jitter(pause - pause / 10, 10)
    }

    /// The pause until it is tried again.
    fn failed(&mut self, fault: &Fault) -> Duration {
        told(&self.who.observer, R::KIND, "failed");
        let cause = fault.to_string();
        self.who.board.change(R::KIND, |row| row.fault = Some((Instant::now(), cause.clone())));
        if self.fault.as_ref() != Some(&cause) {
            self.who.observer.emit(RegistrationFailed { registry: R::KIND, cause: &cause });
        }
        self.fault = Some(cause);
        let pause = self.backoff;
        self.backoff = (pause * 2).min(LONGEST_PAUSE);
        // Far apart, so that a registry that comes back is not met by everybody at once.
        self.rng.jitter(pause, 50)
    }

    /// Takes the entry back; whether somebody may have read it.
    async fn leave(&mut self) -> bool {
        if !self.begun {
            return false;
        }
        // Who has not heard of us for so long has no entry; but a last word costs little.
        let ttl = R::ttl(&self.target.settings);
        let away = self.entered.is_none_or(|at| self.fault.is_some() && at.elapsed() > ttl);
        let left = timeout(FAREWELL, leave(&mut self.registry)).await;
        let left = left.unwrap_or(Err(Fault::Late(FAREWELL)));
        let cause = left.err().map(|fault| fault.to_string());
        self.who.board.change(R::KIND, |row| {
            row.told = None;
            row.fault = cause.clone().map(|cause| (Instant::now(), cause)).or(row.fault.take());
        });
        self.who.observer.emit(Left { registry: R::KIND, fault: cause.as_deref() });
        !away
    }
}

/// Takes an entry back; who does not know it has none.
pub(super) async fn leave(registry: &mut impl Registry) -> Result<(), Fault> {
    match registry.leave().await {
        Err(Fault::Status(StatusCode::NOT_FOUND)) => Ok(()),
        left => left,
    }
}

/// Waits until the entry is not to be kept any longer. Cancel safe.
async fn end<T>(wanted: &mut watch::Receiver<T>, who: &Who) -> End {
    let shutdown = who.lifecycle.shutdown();
    tokio::select! {
        biased;
        // First: a process that has handed over is told to drain as well, and the entry is its heir's.
        () = shutdown.draining() => End::Over,
        () = who.lifecycle.leaving() => End::Leaving,
        changed = wanted.changed() => match changed {
            Ok(()) => End::Changed,
            Err(_gone) => End::Over,
        },
    }
}

impl Who {
    fn health(&self) -> Health {
        if (self.ready)() { Health::Ready } else { Health::Unready }
    }

    /// Waits until the instance's health is another one. Cancel safe.
    async fn other_than(&self, known: Health) {
        while self.health() == known {
            sleep(LOOK).await;
        }
    }
}

/// Between two looks at the instance's readiness: registries know of it within a second.
const LOOK: Duration = Duration::from_millis(200);

/// After the first failure, and after many.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A registry has so long to take an entry back.
const FAREWELL: Duration = Duration::from_secs(2);

/// And so long before that to answer what it was told last.
const LAST_WORD: Duration = Duration::from_secs(1);
