//! What limits tell a client: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers)
//! and the seconds of `Retry-After`. Not for deciding. Called by `mod` and `address`.
//!
//! Invariant: what everybody shares (`by: all`, `by: route`) is told only to those it refuses, so
//! that nobody can watch the load of others.

use std::fmt::Write;

use http::{HeaderName, HeaderValue};
use topology::gateway::{Allowance, Limit, LimitBy};
use topology::units::{Calendar, Quota};

use super::budget::{Standing, Verdict};
use crate::exchange::{Exchange, ResponseHead};

/// What a client may spend in how long.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How it stands.
pub const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// The parts of a limit's headers that never change.
#[derive(Debug)]
pub struct Told {
    /// Whether it is one caller's own, and not shared by many.
    own: bool,
    /// The limit's name as a structured field's string.
    name: Box<str>,
    policy: HeaderValue,
}

impl Told {
    /// For one limit.
    pub fn new(limit: &Limit) -> Self {
        let mut name = String::from("\"");
        for letter in limit.name.as_str().chars() {
            // RFC 9651 §3.3.3: visible ASCII, with `"` and `\` escaped.
            match letter {
                '"' | '\\' => name.extend(['\\', letter]),
                ' '..='~' => name.push(letter),
                _ => name.push('_'),
            }
        }
        name.push('"');
        let policy = match limit.allows {
            Allowance::Rate { rate, .. } => {
                let window = seconds(u64::try_from(rate.per.as_micros()).unwrap_or(u64::MAX));
                format!("{name};q={};w={window}", rate.count)
            }
            Allowance::Quota(Quota { count, per: Calendar::Day }) => {
                format!("{name};q={count};w=86400")
            }
            // Its length is another one each time.
            Allowance::Quota(Quota { count, per: Calendar::Month }) => format!("{name};q={count}"),
            Allowance::Concurrent(most) => format!("{name};q={most};qu=\"concurrent-requests\""),
        };
        let own = limit.by.iter().any(|by| !matches!(by, LimitBy::Route | LimitBy::All));
        Self { own, name: name.into(), policy: value(&policy) }
    }

    /// Adds its headers to what every answer of the exchange will carry.
    pub fn add(&self, standing: &Standing, x: &mut Exchange) {
        if !self.own && standing.verdict == Verdict::Admit {
            return;
        }
        let mut left = String::with_capacity(self.name.len() + 24);
        left.push_str(&self.name);
        // Writing to a string cannot fail.
        let _ = write!(left, ";r={};t={}", standing.remaining, seconds(standing.next));
        x.limit_headers.push((POLICY, self.policy.clone()));
        x.limit_headers.push((LEFT, value(&left)));
    }
}

/// Writes what was told into an answer, in place of what a service may have written there.
pub fn write(x: &Exchange, head: &mut ResponseHead) {
    if x.limit_headers.is_empty() {
        return;
    }
    head.headers.remove(POLICY);
    head.headers.remove(LEFT);
    for (name, value) in &x.limit_headers {
        head.headers.append(name, value.clone());
    }
}

/// Microseconds as whole seconds, rounded up.
pub fn seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("invariant: visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::time::Duration;
    use topology::gateway::LimitAlgorithm;
    use topology::units::{LimitName, Place, Rate};

    /// G10: the standard headers.
    #[test]
    fn a_policy_is_told_as_the_draft_says() {
        let hundred = NonZeroU32::new(100).unwrap();
        let rate = Rate { count: hundred, per: Duration::from_secs(60) };
        let algorithm = LimitAlgorithm::SlidingWindow;
        let limit = |allows| Limit {
            name: LimitName::new("us\"er"),
            by: vec![LimitBy::User],
            plans: Vec::new(),
            allows,
            place: Place::default(),
        };
        let windowed = limit(Allowance::Rate { rate, burst: hundred, algorithm });
        assert_eq!(Told::new(&windowed).policy, r#""us\"er";q=100;w=60"#);
        let held = limit(Allowance::Concurrent(hundred));
        assert_eq!(Told::new(&held).policy, r#""us\"er";q=100;qu="concurrent-requests""#);
        assert_eq!((seconds(0), seconds(1), seconds(1_000_000), seconds(1_000_001)), (0, 1, 1, 2));
    }
}
