//! What is the same for every source: it is asked again and again, pauses grow while it fails, and its
//! answers become sets. Not for how any of them is asked. Started by `watch`, one task per service.
//!
//! Invariant: only a good answer changes the set; one that empties it must be repeated for a while
//! first.

use std::time::Duration;

use common::observe::Observer;
use common::rng::Rng;
use tokio::time::{Instant, sleep};
use topology::model::Discover;
use topology::{At, Place, ServiceName};

use crate::Publisher;
use crate::events::{self, EmptyDoubted, EndpointsFound, EntriesLeftOut, LookupFailed};
use crate::fault::{Fault, short};
use crate::instance::{Instance, MOST, settle};

/// Whoever names endpoints.
pub(crate) trait Source: Send + 'static {
    /// All that it names. The first time and after [`forget`](Self::forget) it answers at once; one that
    /// tells changes by itself waits for the next change from then on. It bounds its own time.
    fn ask(&mut self) -> impl Future<Output = Result<Answer, Fault>> + Send;

    /// The last answer is doubted: the next one is to be whole and fresh.
    fn forget(&mut self) {}

    /// Ends a pause between two questions early. Cancel safe.
    fn nudged(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// What a source says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) instances: Vec<Instance>,
    /// It is not asked again sooner.
    pub(crate) holds: Duration,
    /// Why a part of it is of no use.
    pub(crate) nonsense: Option<String>,
}

/// Makes sets of a source's answers.
pub(crate) struct Keeper {
    service: ServiceName,
    place: Place,
    version: Option<String>,
    empty_after: Duration,
    /// The pause after the first failure.
    pause: Duration,
    publisher: Publisher,
    observer: Observer,
    rng: Rng,
    backoff: Duration,
    /// Since when it answers.
    good: Option<Instant>,
    /// What was told last of faults and of nonsense, until it is over.
    told: [Option<String>; 2],
    /// Since when it has said that there are none, and how often.
    empty: Option<(Instant, u32)>,
}

/// When a source is asked next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    After(Duration),
    /// And afresh.
    Afresh(Duration),
}

impl Keeper {
    pub(crate) fn new(
        service: &ServiceName,
        discover: &At<Discover>,
        publisher: Publisher,
        observer: &Observer,
    ) -> Self {
        let pause = discover.value.floor;
        Self {
            service: service.clone(),
            place: discover.place,
            version: discover.value.version.clone(),
            empty_after: discover.value.empty_after,
            pause,
            publisher,
            observer: observer.clone(),
            rng: Rng::from_os(),
            backoff: pause,
            good: None,
            told: [None, None],
            empty: None,
        }
    }

    /// Asks until it is aborted.
    pub(crate) async fn run(mut self, mut source: impl Source) {
        loop {
            let next = match source.ask().await {
                Ok(answer) => self.answered(answer),
                Err(fault) => Next::After(self.failed(&fault)),
            };
            let pause = match next {
                Next::After(pause) => pause,
                Next::Afresh(pause) => {
                    source.forget();
                    pause
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = source.nudged() => {}
            }
        }
    }

    fn answered(&mut self, answer: Answer) -> Next {
        match answer.nonsense {
            Some(cause) if answer.instances.is_empty() => {
                return Next::After(self.failed(&Fault::Nonsense(cause)));
            }
            nonsense => self.left_out(nonsense),
        }
        let settled = settle(answer.instances, self.version.as_deref(), self.place);
        let service = self.service.as_str();
        events::asked(&self.observer, service, "ok");
        self.good.get_or_insert_with(Instant::now);
        let [faults, _] = &mut self.told;
        *faults = None;
        if settled.over > 0 {
            let cause = format!("more than {MOST} endpoints");
            self.publisher.status.failed(&cause);
        }
        // Later by up to a tenth, so that instances do not ask in step.
        let pause = answer.holds.max(LEAST);
        let pause = pause + self.rng.jitter(pause / 20, 100);
        if settled.endpoints.is_empty() && self.publisher.has_endpoints() {
            if !self.believes_empty() {
                let again = (self.empty_after / 8).clamp(LEAST, AGAIN);
                return Next::Afresh(again.max(pause));
            }
            self.publisher.clear();
            self.publisher.status.answered(0, settled.draining, 0);
            self.observer.emit(EndpointsFound { service: self.service.as_str(), count: 0 });
            return Next::After(pause);
        }
        self.empty = None;
        let count = settled.endpoints.len();
        if count == 0 && !self.publisher.status.is_known() {
            self.publisher.confirm();
        }
        self.publisher.status.answered(count, settled.draining, settled.over);
        if self.publisher.publish(&settled.endpoints) {
            self.observer.emit(EndpointsFound { service: self.service.as_str(), count });
        }
        Next::After(pause)
    }

    /// Whether it has said for long enough that there are none.
    fn believes_empty(&mut self) -> bool {
        let now = Instant::now();
        let (since, times) = self.empty.get_or_insert((now, 0));
        *times += 1;
        let believed = *times >= 3 && now - *since >= self.empty_after;
        if believed {
            self.empty = None;
        } else {
            if *times == 1 {
                let (service, believed_after) = (self.service.as_str(), self.empty_after);
                self.observer.emit(EmptyDoubted { service, believed_after });
            }
            self.publisher.status.doubted();
        }
        believed
    }

    fn left_out(&mut self, nonsense: Option<String>) {
        let nonsense = nonsense.map(|cause| short(&cause));
        let [_, told] = &mut self.told;
        if let Some(cause) = &nonsense {
            self.publisher.status.failed(cause);
            if told.as_ref() != Some(cause) {
                self.observer.emit(EntriesLeftOut { service: self.service.as_str(), cause });
            }
        }
        *told = nonsense;
    }

    /// The pause until it is asked again.
    fn failed(&mut self, fault: &Fault) -> Duration {
        events::asked(&self.observer, self.service.as_str(), "failed");
        let cause = fault.to_string();
        self.publisher.status.failed(&cause);
        // Who cannot be reached confirms nothing.
        self.empty = None;
        let [told, _] = &mut self.told;
        if told.as_ref() != Some(&cause) {
            self.observer.emit(LookupFailed { service: self.service.as_str(), cause: &cause });
        }
        *told = Some(cause);
        // A good answer between two faults is no peace yet: a list may be had, and its watch never.
        if self.good.take().is_some_and(|since| since.elapsed() >= self.backoff) {
            self.backoff = self.pause;
        }
        let pause = self.backoff;
        self.backoff = (pause * 2).min(LONGEST_PAUSE.max(self.pause));
        // Far apart, so that a registry that comes back is not met by everybody at once.
        self.rng.jitter(pause, 50)
    }
}

/// Between two questions, whatever a source wants.
const LEAST: Duration = Duration::from_millis(1);

/// Between questions that are to confirm an empty answer, at most.
const AGAIN: Duration = Duration::from_secs(1);

/// Between questions that fail.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
