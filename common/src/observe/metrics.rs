//! A recorder that is given, never global: handles are registered once, when a snapshot is made,
//! and moved without a look-up. Not for labels that a client can choose: labels come from names of
//! the topology file.
//!
//! Invariant: the number of series is fixed by the configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::Latency;

const METADATA: Metadata<'static> = Metadata::new("aqueduct", Level::INFO, None);

/// Label names and values of one series.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Counters, gauges and latencies of one instance. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    latencies: Families<Latency>,
    tallies: Families<AtomicU64>,
}

type Families<T> = Arc<Mutex<BTreeMap<&'static str, Family<T>>>>;

/// The series of one name.
struct Family<T> {
    help: &'static str,
    series: BTreeMap<String, Arc<T>>,
}

/// The series of this name and these labels; the same ones give the same series.
fn series<T: Default>(
    families: &Families<T>,
    name: &'static str,
    help: &'static str,
    labels: Labels<'_>,
) -> Arc<T> {
    let mut families = families.lock().unwrap_or_else(PoisonError::into_inner);
    let family = families.entry(name).or_insert(Family { help, series: BTreeMap::new() });
    Arc::clone(family.series.entry(text_of(labels)).or_default())
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// An empty recorder.
    pub fn new() -> Self {
        let recorder = Arc::new(PrometheusBuilder::new().build_recorder());
        Self { recorder, latencies: Arc::default(), tallies: Arc::default() }
    }

    /// A number that only grows; the same name and labels give the same series.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Counter {
        self.recorder.describe_counter(name.into(), None, help.into());
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Gauge {
        self.recorder.describe_gauge(name.into(), None, help.into());
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A histogram of durations, in seconds when shown.
    pub fn latency(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> Arc<Latency> {
        series(&self.latencies, name, help, labels)
    }

    /// A counter that can be read again, for what an operator is shown beside the metrics.
    pub fn tally(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> Arc<AtomicU64> {
        series(&self.tallies, name, help, labels)
    }

    /// All series in Prometheus text form.
    pub fn render(&self) -> String {
        let mut out = self.recorder.handle().render();
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in latencies.iter() {
            out.push_str(&format!("# HELP {name} {}\n# TYPE {name} histogram\n", family.help));
            for (labels, latency) in &family.series {
                latency.render(name, labels, &mut out);
            }
            out.push('\n');
        }
        drop(latencies);
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, family) in tallies.iter() {
            out.push_str(&format!("# HELP {name} {}\n# TYPE {name} counter\n", family.help));
            for (labels, tally) in &family.series {
                let (labels, value) = (labels.trim_end_matches(','), tally.load(Ordering::Relaxed));
                out.push_str(&format!("{name}{{{labels}}} {value}\n"));
            }
            out.push('\n');
        }
        out
    }
}

fn key(name: &'static str, labels: Labels<'_>) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

/// `a="b",` for each label, escaped as the text format asks.
fn text_of(labels: Labels<'_>) -> String {
    let escaped =
        |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    labels.iter().map(|(name, value)| format!("{name}=\"{}\",", escaped(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// O2: what is registered is shown with its labels, and twice the same is one series.
    #[test]
    fn series_are_shown() {
        let metrics = Metrics::new();
        metrics.counter("aqueduct_test_total", "Tests.", &[("route", "a")]).increment(2);
        metrics.counter("aqueduct_test_total", "Tests.", &[("route", "a")]).increment(3);
        metrics.gauge("aqueduct_test_now", "Now.", &[]).set(7.0);
        let tally = metrics.tally("aqueduct_test_tally", "Sums.", &[("route", "b")]);
        tally.fetch_add(9, Ordering::Relaxed);
        let latency = metrics.latency("aqueduct_test_seconds", "Time.", &[("route", "a\"b")]);
        latency.record(Duration::from_millis(3));
        let shown = metrics.render();
        for line in [
            "aqueduct_test_total{route=\"a\"} 5",
            "aqueduct_test_now 7",
            "# TYPE aqueduct_test_tally counter",
            "aqueduct_test_tally{route=\"b\"} 9",
            "# TYPE aqueduct_test_seconds histogram",
            "aqueduct_test_seconds_bucket{route=\"a\\\"b\",le=\"0.005\"} 1",
            "aqueduct_test_seconds_bucket{route=\"a\\\"b\",le=\"0.0025\"} 0",
            "aqueduct_test_seconds_count{route=\"a\\\"b\"} 1",
        ] {
            assert!(shown.contains(line), "{line} is missing in\n{shown}");
        }
    }
}
