//! The report of `aqueduct replay https`, and the tally that each lane keeps for it. Not for
//! measuring. Called by `https`.
//!
//! Invariant: every request that was due is in exactly one of `statuses` and `errors`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::slo::Figures;
use super::{LATE, Quantiles, Report, Times, generator, line, percent, printable};

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// A whole answer.
    Answered { status: u16, bytes: u64 },
    /// None; the class of the error.
    Failed(&'static str),
}

/// What one lane counted.
#[derive(Debug)]
pub(crate) struct Tally {
    latency: Times,
    pub(crate) lateness: Times,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    /// Recorded status, new status (`None`: an error), how often.
    differences: BTreeMap<(u16, Option<u16>), u64>,
    compared: u64,
    bytes: u64,
    pub(crate) connections: u64,
    pub(crate) span: Duration,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            latency: Times::new(),
            lateness: Times::new(),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            differences: BTreeMap::new(),
            compared: 0,
            bytes: 0,
            connections: 0,
            span: Duration::ZERO,
        }
    }

    /// Takes one request's end, `latency` after its scheduled time; `recorded`: the status that a
    /// recording has for it.
    pub(crate) fn record(&mut self, latency: Duration, outcome: Outcome, recorded: Option<u16>) {
        let status = match outcome {
            Outcome::Answered { status, bytes } => {
                self.latency.record(latency);
                *self.statuses.entry(status).or_default() += 1;
                self.bytes += bytes;
                Some(status)
            }
            Outcome::Failed(class) => {
                *self.errors.entry(class).or_default() += 1;
                None
            }
        };
        if let Some(recorded) = recorded {
            self.compared += 1;
            if status != Some(recorded) {
                *self.differences.entry((recorded, status)).or_default() += 1;
            }
        }
    }

    /// Adds another lane's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.lateness.merge(&other.lateness);
        add(&mut self.statuses, &other.statuses);
        add(&mut self.errors, &other.errors);
        add(&mut self.differences, &other.differences);
        self.compared += other.compared;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.span = self.span.max(other.span);
    }
}

fn add<K: Ord + Copy>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(*key).or_default() += count;
    }
}

/// Sums over all lanes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HttpsReport {
    pub(crate) url: String,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) rate: f64,
    /// From the scheduled time to the last byte, whole answers alone.
    pub(crate) latency_ms: Quantiles,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer, by class.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    pub(crate) errors_percent: f64,
    pub(crate) body_bytes: u64,
    pub(crate) connections: u64,
    /// Requests whose recorded status is known.
    pub(crate) compared: u64,
    /// Those that ended otherwise than recorded.
    pub(crate) differences: Vec<Difference>,
    pub(crate) lateness_ms: Quantiles,
    pub(crate) late_percent: f64,
}

/// Requests that ended otherwise than recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Difference {
    pub(crate) recorded: u16,
    /// `None`: no whole answer.
    pub(crate) now: Option<u16>,
    pub(crate) requests: u64,
}

impl HttpsReport {
    pub(crate) fn new(url: String, tally: &Tally) -> Self {
        let failed: u64 = tally.errors.values().sum();
        let requests = failed + tally.statuses.values().sum::<u64>();
        let seconds = tally.span.as_secs_f64();
        let difference = |(key, requests): (&(u16, Option<u16>), &u64)| Difference {
            recorded: key.0,
            now: key.1,
            requests: *requests,
        };
        Self {
            url,
            seconds,
            requests,
            rate: requests as f64 / seconds.max(1e-9),
            latency_ms: tally.latency.quantiles(),
            statuses: tally.statuses.clone(),
            errors: tally.errors.clone(),
            errors_percent: percent(failed, requests),
            body_bytes: tally.bytes,
            connections: tally.connections,
            compared: tally.compared,
            differences: tally.differences.iter().map(difference).collect(),
            lateness_ms: tally.lateness.quantiles(),
            late_percent: tally.lateness.share_above(LATE),
        }
    }

    fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    fn differences_text(&self, out: &mut String) {
        if self.compared == 0 {
            return;
        }
        let changed: u64 = self.differences.iter().map(|d| d.requests).sum();
        line(out, "recording", format_args!("{} of {} differ", changed, self.compared));
        for Difference { recorded, now, requests } in &self.differences {
            let now = now.map_or("an error".to_owned(), |status| status.to_string());
            line(out, "", format_args!("{recorded} became {now}: {requests}"));
        }
    }
}

impl Report for HttpsReport {
    fn text(&self) -> String {
        let mut out = String::from("\n");
        let sent = format!("{} to {}, {:.1}/s", self.requests, printable(&self.url), self.rate);
        line(&mut out, "requests", sent);
        line(&mut out, "latency", self.latency_ms.text(self.answered()));
        for (status, count) in &self.statuses {
            let share = percent(*count, self.requests);
            line(&mut out, "status", format_args!("{status} {count} ({share:.1}%)"));
        }
        for (class, count) in &self.errors {
            line(&mut out, "error", format_args!("{class} {count}"));
        }
        let body = format!("{} connections, {} body bytes", self.connections, self.body_bytes);
        line(&mut out, "transport", body);
        self.differences_text(&mut out);
        line(&mut out, "generator", generator(&self.lateness_ms, self.late_percent));
        out
    }

    fn figures(&self) -> Figures {
        let mut figures = self.latency_ms.figures();
        if self.answered() == 0 {
            figures.clear();
        }
        let server_errors: u64 =
            self.statuses.iter().filter(|(status, _)| **status >= 500).map(|(_, n)| n).sum();
        let failed: u64 = self.errors.values().sum();
        figures.insert("errors", percent(failed + server_errors, self.requests));
        figures.insert("late", self.late_percent);
        figures
    }
}
