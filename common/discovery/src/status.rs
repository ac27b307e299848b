//! What operators see of a source: when it answered last, how old its set is, what was wrong last. Told
//! by `keep`, shown by the tiers' admin listeners.
//!
//! Invariant: no secret is in it: faults name addresses and causes only.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// How one source stands.
#[derive(Debug)]
pub struct Status {
    source: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answered: Option<Instant>,
    changed: Option<Instant>,
    fault: Option<(Instant, String)>,
    endpoints: usize,
    draining: usize,
    over: usize,
    /// It says that there are none, and is not believed yet.
    doubted: bool,
}

impl Status {
    /// Of a source that has not been asked.
    pub(crate) fn new(source: String) -> Self {
        Self { source, state: Mutex::default() }
    }

    /// It answered: so many are in the set, and as many are not, because they leave or are too many.
    pub(crate) fn answered(&self, endpoints: usize, draining: usize, over: usize) {
        self.change(|state| {
            state.answered = Some(Instant::now());
            (state.endpoints, state.draining, state.over) = (endpoints, draining, over);
            state.doubted = false;
        });
    }

    /// It answered, and is not believed.
    pub(crate) fn doubted(&self) {
        self.change(|state| {
            state.answered = Some(Instant::now());
            state.doubted = true;
        });
    }

    /// Another set is in force.
    pub(crate) fn changed(&self) {
        self.change(|state| state.changed = Some(Instant::now()));
    }

    /// It did not answer, or a part of its answer is of no use.
    pub(crate) fn failed(&self, cause: &str) {
        self.change(|state| state.fault = Some((Instant::now(), cause.to_owned())));
    }

    /// Whether it has answered at least once.
    pub(crate) fn is_known(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).answered.is_some()
    }

    /// Who is asked.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// As JSON.
    pub fn show(&self) -> Value {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let ago = |at: Instant| millis(now.saturating_duration_since(at));
        json!({
            "source": self.source,
            "last_success_ago_ms": state.answered.map(ago),
            "set_age_ms": state.changed.map(ago),
            "endpoints": state.endpoints,
            "draining": state.draining,
            "left_out": state.over,
            "empty_answer_doubted": state.doubted,
            "last_error": state.fault.as_ref().map(|(_, cause)| cause),
            "last_error_ago_ms": state.fault.as_ref().map(|(at, _)| ago(*at)),
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
