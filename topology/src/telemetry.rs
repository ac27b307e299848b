//! Traces of a gateway group: which are sampled, whom to believe about those that began elsewhere, and
//! where spans go; and what poolers tell of queries.
//!
//! Invariant: the collector's address has neither a user nor a query.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::units::{At, UnitError};

/// What a group says of its traces.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Telemetry {
    /// How many of the traces that begin here are sampled (default 1 %).
    pub sample: Sample,
    /// Clients whose `traceparent` and `tracestate` are believed; from all others a trace begins here.
    pub trust_trace_from: Vec<IpNet>,
    /// The collector of spans; `None`: they are not made.
    pub otlp: Option<At<String>>,
    /// Access records go there as well.
    pub records: bool,
}

/// What a group of poolers tells of single queries.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PoolTelemetry {
    /// A query that takes so long is logged; `None`: none is.
    pub slow_query: Option<Duration>,
    /// The collector of spans; `None`: they are not made.
    pub otlp: Option<At<String>>,
}

impl PoolTelemetry {
    /// Whether anybody wants to hear of single queries.
    pub fn is_wanted(&self) -> bool {
        self.slow_query.is_some() || self.otlp.is_some()
    }
}

/// How many of all traces, as written: `1%`, `0.01%`; in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample(u32);

const ALL: u32 = 1_000_000;

/// Files of what passes, for `aqueduct replay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Where each instance has files of its own.
    pub folder: PathBuf,
    /// Which clients (default 100 %).
    pub sample: Sample,
    /// Bytes of a file (default 64 MiB).
    pub size: u64,
    /// Files that are kept of each (default 4).
    pub files: NonZeroUsize,
    /// The digest of each answer's body, too (default: not); of a gateway alone.
    pub digests: bool,
}

impl Sample {
    /// All of them.
    pub const EVERY: Self = Self(ALL);

    /// Whether a trace is one of them, by the random part of its id (the last 56 bits): everybody who
    /// samples as much chooses the same ones.
    pub fn takes(self, trace: u128) -> bool {
        let random = trace & ((1 << 56) - 1);
        random * u128::from(ALL) < u128::from(self.0) << 56
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self(ALL / 100)
    }
}

impl FromStr for Sample {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::new(format!("`{text}` is no part of all traces"), SAMPLE);
        let Some(number) = text.strip_suffix('%') else {
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            let percent = format!("{text}%");
            let meant = digits(text) && percent.parse::<Self>().is_ok();
            return Err(if meant { wrong().meant(percent) } else { wrong() });
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let lawful = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
        };
        if !lawful(whole, 3) || !lawful(part, 4) {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let part: u32 = format!("{part:0<4}").parse().map_err(|_| wrong())?;
        let millionths = whole * (ALL / 100) + part;
        (millionths <= ALL).then_some(Self(millionths)).ok_or_else(wrong)
    }
}

/// What may be written for a part of all traces.
pub(crate) const SAMPLE: &str = "0% to 100%, with at most four decimals: 1%, 0.01%";

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / (ALL / 100), self.0 % (ALL / 100));
        if part == 0 {
            return write!(f, "{whole}%");
        }
        let part = format!("{part:04}");
        write!(f, "{whole}.{}%", part.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O2: shares of all traces are read strictly and shown as they were meant.
    #[test]
    fn shares_of_traces_are_read_and_shown() {
        for (text, millionths) in
            [("0%", 0), ("1%", 10_000), ("0.01%", 100), ("12.5%", 125_000), ("100%", ALL)]
        {
            let read: Sample = text.parse().expect(text);
            assert_eq!((read.0, read.to_string()), (millionths, text.to_owned()));
        }
        for text in ["", "1", "%", "101%", "100.1%", "1.%", ".5%", "1.00001%", "-1%", "1e1%", "+1%"]
        {
            assert!(text.parse::<Sample>().is_err(), "{text}");
        }
        assert_eq!(
            "5".parse::<Sample>().expect_err("no sign").hint.as_deref(),
            Some("did you mean `5%`?")
        );
    }

    /// O2: as many traces are chosen as were asked for, whatever their ids begin with.
    #[test]
    fn a_share_takes_its_part_of_all_traces() {
        let quarter: Sample = "25%".parse().expect("a part");
        let chosen = |sample: Sample| {
            let ids = (0..1000_u128).map(|n| (n << 100) | ((n << 56) / 1000));
            ids.filter(|id| sample.takes(*id)).count()
        };
        assert_eq!(chosen(quarter), 250);
        assert_eq!(chosen("0%".parse().expect("none")), 0);
        assert_eq!(chosen("100%".parse().expect("all")), 1000);
        assert!(Sample(ALL).takes(u128::MAX));
    }
}
