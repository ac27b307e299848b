//! Most datagrams of one client, for one worker of one UDP listener. Not shared: the kernel gives all
//! datagrams of a source to one worker. Called for each datagram.
//!
//! Invariant: no lock and no allocation per datagram.

use std::net::IpAddr;

use tokio::time::Instant;
use topology::l4::Listener;

use super::rate::{Buckets, Pace, Source};

/// The limit of a worker.
#[derive(Debug)]
pub struct Packets {
    bound: Option<(Pace, Buckets)>,
    start: Instant,
}

impl Packets {
    /// As the listener has it; without `packets-per-source` everything passes.
    pub fn new(rules: &Listener, now: Instant) -> Self {
        let bound = rules.packets_per_source.map(|rate| (Pace::new(rate), Buckets::new()));
        Self { bound, start: now }
    }

    /// Takes over a changed rate; what was counted goes on.
    pub fn change(&mut self, rules: &Listener) {
        let buckets = self.bound.take().map(|(_, buckets)| buckets);
        self.bound =
            rules.packets_per_source.map(|rate| (Pace::new(rate), buckets.unwrap_or_default()));
    }

    /// Whether one more datagram of this client may pass now.
    pub fn admit(&mut self, client: IpAddr, now: Instant) -> bool {
        let Some((pace, buckets)) = &mut self.bound else { return true };
        buckets.take(Source::of(client), *pace, now.saturating_duration_since(self.start))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use topology::units::Rate;

    use super::*;
    use crate::testing::listener;

    /// N9: a client has its packets per second, others are not hurt, and a change keeps the count.
    #[tokio::test(start_paused = true)]
    async fn packets_per_source_are_bounded() {
        let mut rules = listener("udp", &[1]);
        let (now, a, b) = (Instant::now(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut packets = Packets::new(&rules, now);
        assert!((0..1000).all(|_| packets.admit(a, now)), "no bound");
        let count = NonZeroU32::new(3).unwrap();
        rules.packets_per_source = Some(Rate { count, per: Duration::from_secs(1) });
        packets.change(&rules);
        assert_eq!((0..9).filter(|_| packets.admit(a, now)).count(), 3);
        assert!(packets.admit(b, now));
        packets.change(&rules);
        assert!(!packets.admit(a, now));
        assert!(packets.admit(a, now + Duration::from_millis(400)));
    }
}
