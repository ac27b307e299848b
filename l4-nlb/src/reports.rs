//! What is shown and told of a running instance once a second: gauges, and what clients were turned
//! away for. Not for what happens per flow: `meters` counts that. Called by `control`.
//!
//! Invariant: however many clients are turned away, a listener's log has one line per reason in ten
//! seconds.

use std::collections::HashMap;
use std::time::Duration;

use common::observe::Observer;
use common::service::{Condition, Endpoint, Service};
use tokio::time::Instant;
use topology::units::ListenerName;

use crate::events::{ClientsRefused, FlowsEvicted};
use crate::gate::Refusal;
use crate::snapshot::{Lane, Snapshot};

/// What was told of each listener, by reason, and when.
#[derive(Debug, Default)]
pub(crate) struct Reports(HashMap<(ListenerName, &'static str), (u64, Option<Instant>)>);

impl Reports {
    /// Moves the gauges, and tells what is due.
    pub(crate) fn show(&mut self, snapshot: &Snapshot, observer: &Observer) {
        let now = Instant::now();
        for lane in &snapshot.lanes {
            lane.meters.show_flows(lane.gate.flows());
            self.tell(lane, observer, now);
        }
        for (service, _) in snapshot.services() {
            for endpoint in &service.endpoints {
                show_endpoint(service, endpoint, observer, now);
            }
        }
    }

    fn tell(&mut self, lane: &Lane, observer: &Observer, now: Instant) {
        let (name, meters) = (&lane.rules.name, &lane.meters);
        let listener = name.as_str();
        if let Some(count) = self.due((name, "evicted"), meters.evicted_total(), now) {
            observer.emit(FlowsEvicted { listener, count });
        }
        for refusal in Refusal::ALL {
            let reason = refusal.reason();
            if let Some(count) = self.due((name, reason), meters.refused_total(refusal), now) {
                observer.emit(ClientsRefused { listener, reason, count });
            }
        }
    }

    /// How many to report now, if any.
    fn due(
        &mut self,
        (listener, reason): (&ListenerName, &'static str),
        total: u64,
        now: Instant,
    ) -> Option<u64> {
        let (told, when) = self.0.entry((listener.clone(), reason)).or_default();
        let rested = when.is_none_or(|when| now.saturating_duration_since(when) >= PAUSE);
        let count = total.saturating_sub(*told);
        if count == 0 || !rested {
            return None;
        }
        (*told, *when) = (total, Some(now));
        Some(count)
    }
}

fn show_endpoint(service: &Service, endpoint: &Endpoint, observer: &Observer, now: Instant) {
    let (own, its) = (("service", service.name.as_str()), ("endpoint", endpoint.name.as_str()));
    let help = "Connections and flows of this instance with the endpoint.";
    let active = observer.metrics.gauge("aqueduct_endpoint_active", help, &[own, its]);
    active.set(f64::from(endpoint.state.active()));
    let condition = endpoint.state.condition(service.slow_start, now);
    for word in Condition::ALL {
        let labels = [own, its, ("condition", word.as_str())];
        let help = "1 for the condition that the endpoint is in, 0 for the others.";
        let gauge = observer.metrics.gauge("aqueduct_endpoint_state", help, &labels);
        gauge.set(f64::from(u8::from(word == condition)));
    }
}

/// Between two reports of one reason.
const PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// N3, O5: a flood is told of at once, then once in ten seconds, each reason by itself.
    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_in_bursts() {
        let (mut reports, now, second) =
            (Reports::default(), Instant::now(), Duration::from_secs(1));
        let game = &ListenerName::new("game");
        assert_eq!(reports.due((game, "full"), 0, now), None);
        assert_eq!(reports.due((game, "full"), 5, now), Some(5));
        assert_eq!(reports.due((game, "full"), 900, now + second * 9), None);
        assert_eq!(reports.due((game, "denied"), 1, now + second * 9), Some(1));
        assert_eq!(reports.due((game, "full"), 905, now + PAUSE), Some(900));
        assert_eq!(reports.due((game, "full"), 905, now + PAUSE * 2), None);
    }
}
