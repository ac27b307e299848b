//! Whether a failed request may be sent again: pure rules and a budget. Not for sending. Called by
//! `dispatch`.
//!
//! Invariant: a request that a service may have acted upon is never sent again, and retries never
//! become the load that keeps a sick service down.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;

/// How far a failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// No connection, or not one byte was written.
    Nothing,
    /// Something was written; the service may have acted.
    Service,
}

/// Whether a request may be sent twice: its method is safe, or idempotent and asked for in the file.
pub fn repeatable(method: &Method, asked: &[String]) -> bool {
    method.is_safe() || (method.is_idempotent() && asked.iter().any(|name| name == method.as_str()))
}

/// Whether sending again cannot do harm.
pub fn harmless(method: &Method, asked: &[String], reached: Reached) -> bool {
    // RFC 9110 §9.2.2: a proxy must not repeat requests with methods that are not idempotent.
    reached == Reached::Nothing || repeatable(method, asked)
}

/// At most a fifth of the requests, and a small floor so that a quiet service can be retried.
#[derive(Debug)]
pub struct Budget {
    /// In thousandths of a retry.
    balance: u64,
    refilled: Instant,
}

impl Budget {
    /// Full to the floor.
    pub fn new(now: Instant) -> Self {
        Self { balance: FLOOR_PER_SECOND * RETRY, refilled: now }
    }

    /// A request was sent for the first time.
    pub fn deposit(&mut self) {
        self.balance = (self.balance + DEPOSIT).min(CEILING);
    }

    /// Takes one retry out, if there is one.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.refilled).min(Duration::from_secs(1));
        let refill =
            u64::try_from(since.as_micros()).unwrap_or(0) * FLOOR_PER_SECOND * RETRY / 1_000_000;
        if refill > 0 {
            self.refilled = now;
            self.balance = self.balance.max((self.balance + refill).min(FLOOR_PER_SECOND * RETRY));
        }
        let enough = self.balance >= RETRY;
        if enough {
            self.balance -= RETRY;
        }
        enough
    }
}

const RETRY: u64 = 1000;
/// 20 %.
const DEPOSIT: u64 = 200;
/// Retries per second that need no deposit.
const FLOOR_PER_SECOND: u64 = 10;
/// A long quiet time does not save up for a storm.
const CEILING: u64 = 100 * RETRY;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// G18: only what cannot do harm is sent again.
    #[test]
    fn unsafe_requests_are_sent_again_only_if_nothing_was_written() {
        assert!(harmless(&Method::GET, &[], Reached::Service));
        assert!(harmless(&Method::POST, &[], Reached::Nothing));
        assert!(!harmless(&Method::POST, &[], Reached::Service));
        assert!(!harmless(&Method::DELETE, &[], Reached::Service));
        let asked = ["DELETE".to_owned(), "POST".to_owned()];
        assert!(harmless(&Method::DELETE, &asked, Reached::Service));
        assert!(!harmless(&Method::POST, &asked, Reached::Service), "whoever asks");
    }

    proptest! {
        /// G18: retries stay within 20 % of the requests plus the floor.
        #[test]
        fn the_budget_holds(steps in prop::collection::vec((any::<bool>(), 0_u64..50), 0..400)) {
            let start = Instant::now();
            let (mut budget, mut now) = (Budget::new(start), start);
            let (mut requests, mut retries) = (0, 0);
            for (retry, millis) in steps {
                now += Duration::from_millis(millis);
                if retry {
                    retries += u64::from(budget.withdraw(now));
                } else {
                    requests += 1;
                    budget.deposit();
                }
            }
            let floor = FLOOR_PER_SECOND * (1 + (now - start).as_secs() + 1);
            prop_assert!(retries <= requests / 5 + floor, "{retries} of {requests}");
        }
    }
}
