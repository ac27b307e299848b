//! What an instance has one of, all its workers together: counters of a live view, cancel requests on their way, and
//! places for consoles where all others are taken. Not for what a pool counts: that is `pool`. Shared by the workers.
//!
//! Invariant: nothing here waits.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use common::observe::{Latency, Recent};
use tokio::time::Instant;

use crate::cancel::crowd::Crowd;
use crate::snapshot::{Count, Held};

/// What an instance counts, all workers together.
pub struct Tally {
    /// When the instance began.
    pub started: Instant,
    /// Queries answered.
    pub queries: AtomicU64,
    /// Errors of our own and servers that were lost.
    pub errors: AtomicU64,
    /// Of all queries.
    pub latency: Latency,
    /// Records of queries that name their trace; apart from what is counted all the time.
    pub recent: Arc<Recent>,
    /// Cancel requests on their way.
    pub crowd: Crowd,
    /// Consoles beyond `max_client_conn`: by network, and of this host.
    consoles: [Arc<Count>; 2],
}

/// Records of queries that are kept while somebody looks.
const MOST_RECENT: usize = 1000;
/// Consoles beyond `max_client_conn`, each way.
const MOST_CONSOLES: u32 = 8;

impl Tally {
    /// A place for a console where clients have taken all others; whoever takes those of the network leaves those of
    /// this host.
    pub fn spare(&self, source: Option<IpAddr>) -> Option<Held> {
        let [network, host] = &self.consoles;
        Held::enter(if source.is_some() { network } else { host })
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            queries: Default::default(),
            errors: Default::default(),
            latency: Default::default(),
            recent: Arc::new(Recent::new(MOST_RECENT, Duration::ZERO)),
            crowd: Crowd::default(),
            consoles: [MOST_CONSOLES; 2].map(Count::new),
        }
    }
}
