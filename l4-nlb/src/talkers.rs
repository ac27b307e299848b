//! The flows that carried most, for an operator who asks who they are. Not for limits: `gate`. Asked
//! of `control`, which asks the workers.
//!
//! Invariant: no more are told than were asked for; of UDP, no more leave a worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use topology::l4::Protocol;

use crate::snapshot::Lane;
use crate::tcp::roster::Seen;
use crate::udp::handover::Ask;

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talker {
    /// The client.
    pub client: SocketAddr,
    /// Its endpoint's name.
    pub endpoint: String,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
    /// Since it began.
    pub age: Duration,
    /// Since anything was heard of it.
    pub quiet: Duration,
    /// The id in the PROXY header and in the log (TCP).
    pub id: Option<String>,
}

impl Talker {
    fn bytes(&self) -> u64 {
        self.up.saturating_add(self.down)
    }
}

impl From<Seen> for Talker {
    fn from(seen: Seen) -> Self {
        let Seen { id, client, endpoint, up, down, age, quiet, .. } = seen;
        let (id, endpoint) = (Some(id), endpoint.name.to_string());
        Self { client, endpoint, up, down, age, quiet, id }
    }
}

/// The `most` largest by `bytes`, the largest first.
pub(crate) fn largest<T>(mut all: Vec<T>, most: usize, bytes: impl Fn(&T) -> u64) -> Vec<T> {
    if all.len() > most {
        all.select_nth_unstable_by_key(most, |one| std::cmp::Reverse(bytes(one)));
        all.truncate(most);
    }
    all.sort_by_key(|one| std::cmp::Reverse(bytes(one)));
    all
}

/// A listener, and where its workers are asked.
pub(crate) type Asked = (Arc<Lane>, Vec<mpsc::Sender<Ask>>);

/// The flows of all listeners that carried most.
pub(crate) async fn collect(listeners: Vec<Asked>, most: usize) -> Value {
    let mut all = Vec::new();
    for (lane, workers) in listeners {
        let mut own: Vec<Talker> = Vec::new();
        if lane.rules.protocol == Protocol::Tcp {
            own.extend(lane.connections.connections().into_iter().map(Talker::from));
        } else {
            for worker in workers {
                let (reply, answer) = oneshot::channel();
                // A worker that has ended has no flows.
                let _ended = worker.send(Ask::Talkers { most, reply }).await;
                own.extend(answer.await.unwrap_or_default());
            }
        }
        let own = largest(own, most, Talker::bytes);
        all.extend(own.into_iter().map(|talker| (lane.clone(), talker)));
    }
    let all = largest(all, most, |(_, talker)| talker.bytes());
    all.iter().map(|(lane, talker)| show(lane, talker)).collect()
}

fn show(lane: &Lane, talker: &Talker) -> Value {
    json!({
        "listener": lane.rules.name.as_str(),
        "client": talker.client.to_string(),
        "endpoint": talker.endpoint,
        "bytes_up": talker.up,
        "bytes_down": talker.down,
        "age_ms": talker.age.as_millis() as u64,
        "quiet_ms": talker.quiet.as_millis() as u64,
        "id": talker.id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O1: the largest come first, and no more than were asked for.
    #[test]
    fn the_largest_come_first() {
        let all = || vec![3_u64, 9, 1, 9, 4];
        assert_eq!(largest(all(), 3, |&bytes| bytes), [9, 9, 4]);
        assert_eq!(largest(all(), 9, |&bytes| bytes), [9, 9, 4, 3, 1]);
        assert_eq!(largest(all(), 0, |&bytes| bytes), [0_u64; 0]);
    }
}
