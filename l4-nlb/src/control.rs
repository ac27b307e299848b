//! What runs beside the data path, on the control runtime: health checks, gauges, reports of
//! evictions. Not for traffic. Started by `lib` once per instance.
//!
//! Invariant: it ends when the instance has stopped.

use std::sync::Arc;
use std::time::Duration;

use common::health;
use common::lifecycle::Shutdown;
use common::observe::Observer;
use common::snapshot::Published;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::events::{Draining, FlowsEvicted};
use crate::snapshot::Snapshot;

/// The control side of an instance.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) published: Arc<Published<Snapshot>>,
    pub(crate) observer: Observer,
    pub(crate) shutdown: Shutdown,
}

impl Control {
    /// Until the instance has stopped. `changed` tells of each newly published snapshot.
    pub(crate) async fn run(self, mut changed: watch::Receiver<u64>) {
        let mut checks = self.checks();
        let mut tick = interval(SECOND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut reports = Reports::default();
        let (draining, stopped) = (self.shutdown.draining(), self.shutdown.stopped());
        let (mut draining, mut stopped) = (std::pin::pin!(draining), std::pin::pin!(stopped));
        let mut told = false;
        loop {
            tokio::select! {
                // In order: a drain that ends at once is told all the same.
                biased;
                () = &mut draining, if !told => {
                    told = true;
                    self.observer.emit(Draining { flows: flows(&self.published.load()) });
                }
                () = &mut stopped => break,
                Ok(()) = changed.changed() => checks = self.checks(),
                _ = tick.tick() => self.show(&mut reports),
            }
        }
        drop(checks);
        self.show(&mut reports);
    }

    /// One watcher per service that has a check. Dropping the set ends them.
    fn checks(&self) -> JoinSet<()> {
        let mut checks = JoinSet::new();
        for (service, model) in self.published.load().services() {
            if let Some(check) = model.health.clone() {
                let (service, observer) = (service.clone(), self.observer.clone());
                checks.spawn(health::watch(service, check, observer, self.shutdown.clone()));
            }
        }
        checks
    }

    /// Moves the gauges and reports evictions.
    fn show(&self, reports: &mut Reports) {
        let snapshot = self.published.load();
        for (at, lane) in snapshot.lanes.iter().enumerate() {
            lane.meters.show_flows(lane.gate.flows());
            if let Some(count) = reports.due(at, lane.meters.evicted_total(), Instant::now()) {
                let listener = lane.rules.name.as_str();
                self.observer.emit(FlowsEvicted { listener, count });
            }
        }
        for (service, _) in snapshot.services() {
            for endpoint in &service.endpoints {
                let labels =
                    [("service", service.name.as_str()), ("endpoint", endpoint.name.as_str())];
                let gauge = self.observer.metrics.gauge(
                    "aqueduct_endpoint_active",
                    "Connections and flows of this instance with the endpoint.",
                    &labels,
                );
                gauge.set(f64::from(endpoint.state.active()));
            }
        }
    }
}

/// Flows of all listeners.
pub(crate) fn flows(snapshot: &Snapshot) -> u64 {
    snapshot.lanes.iter().map(|lane| u64::from(lane.gate.flows())).sum()
}

/// What was told of each listener's evictions, and when.
#[derive(Debug, Default)]
struct Reports(Vec<(u64, Option<Instant>)>);

impl Reports {
    /// How many to report now, if any.
    fn due(&mut self, at: usize, total: u64, now: Instant) -> Option<u64> {
        if self.0.len() <= at {
            self.0.resize(at + 1, (0, None));
        }
        let (told, when) = self.0.get_mut(at)?;
        let rested = when.is_none_or(|when| now.saturating_duration_since(when) >= PAUSE);
        let count = total.saturating_sub(*told);
        if count == 0 || !rested {
            return None;
        }
        (*told, *when) = (total, Some(now));
        Some(count)
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Between two reports of evictions.
const PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// N3: a flood is told of at once, then once in ten seconds.
    #[tokio::test(start_paused = true)]
    async fn evictions_are_told_in_bursts() {
        let (mut reports, now) = (Reports::default(), Instant::now());
        assert_eq!(reports.due(1, 0, now), None);
        assert_eq!(reports.due(1, 5, now), Some(5));
        assert_eq!(reports.due(1, 900, now + SECOND * 9), None);
        assert_eq!(reports.due(1, 905, now + PAUSE), Some(900));
        assert_eq!(reports.due(1, 905, now + PAUSE * 2), None);
    }
}
