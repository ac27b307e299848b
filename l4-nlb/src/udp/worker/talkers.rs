//! The worker's flows that carried most. Not for counting: `pass_up` and `answer` do that. Called when
//! an operator asks; it looks at every flow once.

use tokio::time::Instant;

use super::Worker;
use crate::talkers::{Talker, largest};
use crate::udp::flow::FlowId;

impl Worker {
    /// At most so many, the largest first.
    pub(in crate::udp) fn talkers(&self, most: usize, now: Instant) -> Vec<Talker> {
        let bytes =
            |&id: &FlowId| self.flows.peek(id).map_or(0, |flow| flow.up.saturating_add(flow.down));
        let ids = self.flows.all().map(|(id, ..)| id).collect();
        let now = self.tick(now);
        let talker = |id| {
            let (client, flow) = (self.flows.client(id)?, self.flows.peek(id)?);
            let member = self.roster.member(flow.seat.as_ref()?.member)?;
            Some(Talker {
                client: client.peer,
                endpoint: member.endpoint.name.to_string(),
                up: flow.up,
                down: flow.down,
                age: now.time_since(flow.began),
                quiet: now.time_since(self.flows.heard(id)?),
                id: None,
            })
        };
        largest(ids, most, bytes).into_iter().filter_map(talker).collect()
    }
}
