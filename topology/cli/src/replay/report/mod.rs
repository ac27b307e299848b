//! What a replay found: text for people, JSON for machines, the verdict on `--slo`. Not for
//! measuring. Used by `udp` and `https`.
//!
//! Invariant: text and JSON come from the same values.

pub(super) mod baseline;
pub(super) mod html;
pub(super) mod https;
mod plot;
pub(super) mod udp;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use self::baseline::{Baseline, Change};
use self::html::{Page, Table, Verdict};
use super::Common;
use super::slo::Figures;

/// The end of a replay.
pub(super) trait Report: Serialize {
    /// Which kind of replay.
    const KIND: &'static str;
    /// For the HTML report.
    fn page(&self) -> Page;
    /// Some lines for a person, each ended.
    fn text(&self) -> String;
    /// What `--slo` may bound.
    fn figures(&self) -> Figures;
}

/// The report that `--baseline` names.
///
/// # Errors
/// It cannot be read, or is of another kind.
pub(super) fn baseline<R: Report>(common: &Common) -> Result<Option<Baseline>> {
    common.baseline.as_deref().map(|path| Baseline::read(path, R::KIND)).transpose()
}

/// Prints the report, writes its JSON and HTML, and judges it.
///
/// # Errors
/// A file or standard output cannot be written.
pub(super) fn finish<R: Report>(
    report: &R,
    common: &Common,
    baseline: Option<&Baseline>,
) -> Result<ExitCode> {
    let figures = report.figures();
    if let Some(path) = &common.json {
        write_file(path, &(json(report, &figures)? + "\n"))?;
    }
    let changes = baseline.map(|baseline| baseline.changes(&figures)).unwrap_or_default();
    let broken = common.slo.as_ref().map(|slo| slo.broken(&figures)).unwrap_or_default();
    if let Some(path) = &common.html {
        write_file(path, &page(report, &figures, common, &changes))?;
    }
    let mut text = report.text();
    for change in &changes {
        let told = format!("{} {} ({})", change.name, change.values(), change.relative());
        line(&mut text, "since then", told);
    }
    for broken in &broken {
        line(&mut text, "SLO broken", broken);
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_file(path: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{}: cannot write", path.display()))
}

/// The report, its kind, when it was made, and the figures that `--slo` and `--baseline` know.
fn json<R: Report>(report: &R, figures: &Figures) -> Result<String> {
    let mut value = serde_json::to_value(report)?;
    if let Some(object) = value.as_object_mut() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        object.insert("kind".into(), R::KIND.into());
        object.insert("finished_unix_s".into(), now.as_secs().into());
        object.insert("figures".into(), serde_json::to_value(figures)?);
    }
    Ok(serde_json::to_string_pretty(&value)?)
}

fn page<R: Report>(report: &R, figures: &Figures, common: &Common, changes: &[Change]) -> String {
    let mut page = report.page();
    let _ = write!(page.lead, ", {}", httpdate::fmt_http_date(SystemTime::now()));
    let row = |change: &Change| vec![change.name.clone(), change.values(), change.relative()];
    let rows = changes.iter().map(row).collect();
    let heading = "Since the baseline".to_owned();
    page.tables.insert(0, Table { heading, head: vec!["figure", "then → now", "change"], rows });
    let judged = common.slo.as_ref().map(|slo| slo.judged(figures)).unwrap_or_default();
    let verdicts: Vec<_> = judged.into_iter().map(|(kept, text)| Verdict { kept, text }).collect();
    html::write(&page, &verdicts)
}

/// A histogram of times: 100 ns to 10 min, three digits.
#[derive(Clone, Debug)]
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Self {
        let bounds = Histogram::new_with_bounds(100, 600_000_000_000, 3);
        Self(bounds.expect("invariant: 100 ns to 10 min at three digits are lawful bounds"))
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("invariant: all histograms have the same bounds");
    }

    /// Share of recorded times above `bound`, percent.
    pub(super) fn share_above(&self, bound: Duration) -> f64 {
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let below = self.0.count_between(0, bound);
        percent(self.0.len().saturating_sub(below), self.0.len())
    }

    /// For a plot: quantiles ever closer to 1, as far as there are times behind them.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let count = self.0.len();
        let tails = (1..7)
            .flat_map(|nines| [1.0, 0.7, 0.5, 0.3, 0.2, 0.14].map(|f| f * 10_f64.powi(-nines)));
        let tails = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2].into_iter().chain(tails);
        tails
            .filter(|tail| tail * count as f64 >= 1.0)
            .map(|tail| (1.0 - tail, self.0.value_at_quantile(1.0 - tail) as f64 / 1e6))
            .collect()
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let at = |q| self.0.value_at_quantile(q) as f64 / 1e6;
        Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.0.max() as f64 / 1e6,
            mean: self.0.mean() / 1e6,
        }
    }
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    #[serde(rename = "p99.9")]
    pub(super) p99_9: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
}

impl Quantiles {
    /// One line: `p50 0.21  p99 …  ms`, made of so many times.
    fn text(&self, times: u64) -> String {
        if times == 0 {
            return "no answer".to_owned();
        }
        format!(
            "p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3} ms",
            self.p50, self.p90, self.p99, self.p99_9, self.max
        )
    }

    fn figures(&self) -> Figures {
        Figures::from([
            ("p50", self.p50),
            ("p99", self.p99),
            ("p99.9", self.p99_9),
            ("max", self.max),
        ])
    }
}

/// `part` of `whole` in percent; none of nothing is 0.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// A line of the text report: a label and what it says.
fn line(out: &mut String, label: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{label:<12} {value}");
}

/// Text from outside without control characters, so that it cannot steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// Text on how well the generator kept its own schedule.
fn generator(lateness: &Quantiles, late_percent: f64) -> String {
    let verdict = if lateness.p99 > LATE.as_secs_f64() * 1e3 {
        "; the generator itself was late: use fewer players, a lower rate or another machine"
    } else {
        ""
    };
    format!("{late_percent:.2}% sent over {} ms late{verdict}", LATE.as_millis())
}

/// A send that starts this long after its time is counted as late.
pub(super) const LATE: Duration = Duration::from_millis(3);
