//! The report of `aqueduct replay https`, and the tally that each lane keeps for it. Not for
//! measuring. Called by `https`.
//!
//! Invariant: every request that was due is in exactly one of `statuses` and `errors`.

mod page;
mod route;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub(crate) use self::route::RouteLine;
use self::route::RouteTally;
use super::super::https::recording::Expected;
use super::super::series::{Course, Series};
use super::super::slo::Figures;
use super::html::Page;
use super::{LATE, Quantiles, Report, Times, generator, line, percent, printable};

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// A whole answer; the digest of its body where bodies are compared.
    Answered { status: u16, bytes: u64, digest: Option<[u8; 32]> },
    /// None; the class of the error.
    Failed(&'static str),
}

/// One request's end.
pub(crate) struct Ended<'a> {
    /// When it was due.
    pub(crate) at: Duration,
    /// Since then.
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
    pub(crate) route: &'a str,
    pub(crate) expected: Expected,
}

/// What one lane counted.
#[derive(Debug)]
pub(crate) struct Tally {
    latency: Times,
    pub(crate) lateness: Times,
    pub(crate) series: Series,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<&'static str, u64>,
    /// Recorded status, new status (`None`: an error), how often.
    differences: BTreeMap<(u16, Option<u16>), u64>,
    routes: BTreeMap<String, RouteTally>,
    compared: u64,
    bytes: u64,
    pub(crate) connections: u64,
    pub(crate) span: Duration,
}

/// More routes are told as one.
const MOST_ROUTES: usize = 200;
/// What they are called.
const OTHERS: &str = "others";

impl Tally {
    /// For a replay that takes about `span`.
    pub(crate) fn new(span: Duration) -> Self {
        Self {
            latency: Times::new(),
            lateness: Times::new(),
            series: Series::new(span),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            differences: BTreeMap::new(),
            routes: BTreeMap::new(),
            compared: 0,
            bytes: 0,
            connections: 0,
            span: Duration::ZERO,
        }
    }

    /// Takes one request's end.
    pub(crate) fn record(&mut self, ended: &Ended<'_>) {
        self.series.sent(ended.at);
        let status = match ended.outcome {
            Outcome::Answered { status, bytes, .. } => {
                self.latency.record(ended.latency);
                *self.statuses.entry(status).or_default() += 1;
                self.bytes += bytes;
                self.series.answered(ended.at, ended.latency, name(status).as_bytes());
                Some(status)
            }
            Outcome::Failed(class) => {
                *self.errors.entry(class).or_default() += 1;
                None
            }
        };
        self.route(ended.route).record(ended);
        if let Some(recorded) = ended.expected.status {
            self.compared += 1;
            if status != Some(recorded) {
                *self.differences.entry((recorded, status)).or_default() += 1;
            }
        }
    }

    fn route(&mut self, name: &str) -> &mut RouteTally {
        let room = self.routes.len() < MOST_ROUTES || self.routes.contains_key(name);
        let name = if room { name } else { OTHERS };
        if !self.routes.contains_key(name) {
            self.routes.insert(name.to_owned(), RouteTally::default());
        }
        self.routes.get_mut(name).expect("invariant: it was inserted")
    }

    /// Adds another lane's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.lateness.merge(&other.lateness);
        self.series.merge(&other.series);
        add(&mut self.statuses, &other.statuses);
        add(&mut self.errors, &other.errors);
        add(&mut self.differences, &other.differences);
        for (name, tally) in &other.routes {
            self.route(name).merge(tally);
        }
        self.compared += other.compared;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.span = self.span.max(other.span);
    }
}

/// How the plot calls an answer.
fn name(status: u16) -> &'static str {
    match status {
        200 => "200",
        100..=299 => "2xx",
        300..=399 => "3xx",
        401 => "401",
        403 => "403",
        404 => "404",
        429 => "429",
        400..=499 => "4xx",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => "5xx",
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
    pub(crate) routes: Vec<RouteLine>,
    /// Places where the recording is broken.
    pub(crate) broken: Vec<String>,
    pub(crate) lateness_ms: Quantiles,
    pub(crate) late_percent: f64,
    /// Latency by quantile, for the plot: quantile, milliseconds.
    pub(crate) percentiles: Vec<(f64, f64)>,
    pub(crate) course: Course,
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
        let mut routes: Vec<_> = tally.routes.iter().map(|(name, t)| t.line(name)).collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.requests));
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
            routes,
            broken: Vec::new(),
            lateness_ms: tally.lateness.quantiles(),
            late_percent: tally.lateness.share_above(LATE),
            percentiles: tally.latency.curve(),
            course: tally.series.course(),
        }
    }

    fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Errors and answers of 500 and above.
    fn failures(&self) -> u64 {
        let refused = self.statuses.iter().filter(|(status, _)| **status >= 500);
        refused.map(|(_, n)| n).sum::<u64>() + self.errors.values().sum::<u64>()
    }

    /// Routes that answer otherwise than recorded, those with most first.
    fn routes_text(&self, out: &mut String) {
        let changed = self.routes.iter().filter(|route| route.changed() > 0);
        for route in changed.take(10) {
            let counts = [
                (route.statuses_changed, "statuses"),
                (route.sizes_changed, "sizes"),
                (route.bodies_changed, "bodies"),
            ];
            let told: Vec<_> =
                counts.iter().filter(|c| c.0 > 0).map(|c| format!("{} {}", c.0, c.1)).collect();
            let name = printable(&route.route);
            line(out, "", format_args!("{name}: {} of {}", told.join(", "), route.requests));
        }
        for fault in self.broken.iter().take(10) {
            line(out, "broken", printable(fault));
        }
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
    const KIND: &'static str = "https";

    fn page(&self) -> Page {
        page::page(self)
    }

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
        self.routes_text(&mut out);
        line(&mut out, "generator", generator(&self.lateness_ms, self.late_percent));
        out
    }

    fn figures(&self) -> Figures {
        let mut figures = self.latency_ms.figures();
        if self.answered() == 0 {
            figures.clear();
        }
        figures.insert("errors", percent(self.failures(), self.requests));
        figures.insert("late", self.late_percent);
        figures
    }
}
