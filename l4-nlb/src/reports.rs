//! What is shown and told of a running instance once a second: gauges, and what clients were turned
//! away for. Not for what happens per flow: `meters` counts that. Called by `control`.
//!
//! Invariant: however many clients are turned away, a listener's log has one line per reason in ten
//! seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::observe::Observer;
use common::service::{Condition, Endpoint, EndpointState, Service};
use metrics::Gauge;
use tokio::time::Instant;
use topology::units::ListenerName;

use crate::events::{ClientsRefused, FlowsEvicted};
use crate::gate::Refusal;
use crate::snapshot::{Lane, Snapshot};

/// What was told and shown so far.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// Of each listener, by reason, and when.
    told: HashMap<(ListenerName, &'static str), (u64, Option<Instant>)>,
    /// By the place of their states in memory.
    endpoints: HashMap<usize, Shown>,
    round: u64,
}

impl Reports {
    /// Moves the gauges, and tells what is due.
    pub(crate) fn show(&mut self, snapshot: &Snapshot, observer: &Observer) {
        let now = Instant::now();
        for lane in &snapshot.lanes {
            lane.meters.show_flows(lane.gate.flows());
            self.tell(lane, observer, now);
        }
        // There may be ten thousand: each is looked up once, and told when it changes.
        self.round += 1;
        for (service, _) in snapshot.services() {
            for endpoint in &service.endpoints {
                let state = &endpoint.state;
                let shown = self.endpoints.entry(Arc::as_ptr(state).addr());
                let shown = shown.or_insert_with(|| Shown::new(service, endpoint, observer));
                shown.show(Some((state.active(), state.condition(service.slow_start, now))));
                shown.round = self.round;
            }
        }
        self.endpoints.retain(|_, shown| {
            let stays = shown.round == self.round;
            if !stays {
                shown.show(None);
            }
            stays
        });
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
        let (told, when) = self.told.entry((listener.clone(), reason)).or_default();
        let rested = when.is_none_or(|when| now.saturating_duration_since(when) >= PAUSE);
        let count = total.saturating_sub(*told);
        if count == 0 || !rested {
            return None;
        }
        (*told, *when) = (total, Some(now));
        Some(count)
    }
}

/// The gauges of one endpoint, found once, and what they show.
#[derive(Debug)]
struct Shown {
    active: Gauge,
    conditions: [Gauge; Condition::ALL.len()],
    told: Option<(u32, Condition)>,
    /// When it was there last.
    round: u64,
    /// So that no other endpoint can have its address in memory.
    _state: Arc<EndpointState>,
}

impl Shown {
    fn new(service: &Service, endpoint: &Endpoint, observer: &Observer) -> Self {
        let (own, its) = (("service", service.name.as_str()), ("endpoint", endpoint.name.as_str()));
        let help = "Connections and flows of this instance with the endpoint.";
        let active = observer.metrics.gauge("aqueduct_endpoint_active", help, &[own, its]);
        let conditions = Condition::ALL.map(|word| {
            let labels = [own, its, ("condition", word.as_str())];
            let help = "1 for the condition that the endpoint is in, 0 for the others.";
            observer.metrics.gauge("aqueduct_endpoint_state", help, &labels)
        });
        Self { active, conditions, told: None, round: 0, _state: endpoint.state.clone() }
    }

    /// `None`: it is no endpoint any more.
    fn show(&mut self, now: Option<(u32, Condition)>) {
        if now.is_some() && self.told == now {
            return;
        }
        self.active.set(f64::from(now.map_or(0, |(active, _)| active)));
        for (word, gauge) in Condition::ALL.into_iter().zip(&self.conditions) {
            gauge.set(f64::from(u8::from(now.is_some_and(|(_, condition)| word == condition))));
        }
        self.told = now;
    }
}

/// Between two reports of one reason.
const PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use common::balance::HashKey;
    use topology::units::InstanceName;

    use super::*;
    use crate::testing::{group, listener, service};

    /// O1: gauges follow their endpoints; one that is no endpoint any more is in no condition.
    #[tokio::test(start_paused = true)]
    async fn gauges_follow_their_endpoints() {
        let (mut reports, observer, name) =
            (Reports::default(), Observer::new("nlb-1"), InstanceName::new("nlb-1"));
        let own = (HashKey::from_names(["edge"]), None, &name);
        let group = group(vec![listener("tcp", &[1, 2])]);
        let before = Snapshot::build(&group, own, &observer.metrics, None);
        let states = |endpoint: &str, condition: &str| {
            let text = observer.metrics.render();
            let (its, word) =
                (format!("endpoint=\"{endpoint}\""), format!("condition=\"{condition}\""));
            let mut lines = text.lines().filter(|line| line.starts_with("aqueduct_endpoint_state"));
            let line = lines.find(|line| line.contains(&its) && line.contains(&word));
            line.and_then(|line| line.split_whitespace().last()?.parse::<f64>().ok())
        };
        reports.show(&before, &observer);
        assert_eq!((states("e1", "up"), states("e2", "up")), (Some(1.0), Some(1.0)));
        before.lanes[0].service.endpoints[0].state.drain();
        let stays = service(&[1]).endpoints;
        let after = before.following(|_| Some(&stays), own, &observer.metrics).expect("news");
        reports.show(&after, &observer);
        assert_eq!((states("e1", "up"), states("e1", "draining")), (Some(0.0), Some(1.0)));
        assert_eq!(states("e2", "up"), Some(0.0));
        assert_eq!(reports.endpoints.len(), 1);
    }

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
