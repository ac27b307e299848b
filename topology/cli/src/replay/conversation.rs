//! What one player learns from the answers: loss, order, duplicates, jitter, and which servers it
//! met. Pure: times come in as numbers. Not for sums over players: that is `report`. Used by `udp`.
//!
//! Invariant: memory is bounded by what was sent and by [`MOST_SERVERS`], whatever comes back.

use hdrhistogram::Histogram;

use super::game::Answer;

/// Names remembered per player; the demo has three, a hostile server invents any number.
const MOST_SERVERS: usize = 16;

/// One player's account.
#[derive(Clone, Debug, Default)]
pub(super) struct Conversation {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    /// Answers to nothing that this player sent.
    pub(super) foreign: u64,
    /// Servers in the order met, with the answers of each.
    pub(super) servers: Vec<(String, u64)>,
    /// How often an answer came from another server than the one before.
    pub(super) switches: u64,
    last_server: usize,
    highest: Option<u64>,
    seen: Vec<u64>,
    transit: Option<i128>,
    jitter: f64,
    round_trips: Option<Histogram<u32>>,
}

impl Conversation {
    /// Takes an answer that came at `now` (same clock as the header's); the round trip in
    /// nanoseconds when it is the first answer to something sent.
    pub(super) fn observe(&mut self, player: u32, answer: &Answer<'_>, now: u64) -> Option<u64> {
        let header = answer.header;
        if header.player != player || header.sequence >= self.sent || header.sent > now {
            self.foreign += 1;
            return None;
        }
        if !self.mark(header.sequence) {
            self.duplicates += 1;
            return None;
        }
        self.received += 1;
        self.order(header.sequence);
        self.meet(answer.server);
        let round_trip = now - header.sent;
        self.vary(i128::from(round_trip));
        self.time(round_trip);
        Some(round_trip)
    }

    /// Takes an answer that says nothing (`--raw`): the first of each datagram sent, as far as
    /// numbers tell.
    pub(super) fn count(&mut self) {
        let column =
            if self.received < self.sent { &mut self.received } else { &mut self.duplicates };
        *column += 1;
    }

    /// A quantile of the round trips in nanoseconds, to one digit; `None`: none was measured.
    pub(super) fn round_trip(&self, quantile: f64) -> Option<u64> {
        self.round_trips.as_ref().map(|times| times.value_at_quantile(quantile))
    }

    /// Mean deviation of the transit time in nanoseconds (RFC 3550 §6.4.1), here of round trips.
    pub(super) fn jitter(&self) -> f64 {
        self.jitter
    }

    /// Whether the player met more than one server.
    pub(super) fn strayed(&self) -> bool {
        self.servers.len() > 1
    }

    /// Notes the sequence number; false when it was there before.
    fn mark(&mut self, sequence: u64) -> bool {
        let word = (sequence / 64) as usize;
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        self.seen.get_mut(word).is_some_and(|word| {
            let fresh = *word & bit == 0;
            *word |= bit;
            fresh
        })
    }

    fn order(&mut self, sequence: u64) {
        if self.highest.is_some_and(|highest| sequence < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(sequence));
    }

    fn meet(&mut self, server: &[u8]) {
        let known = self.servers.iter().position(|(name, _)| name.as_bytes() == server);
        let index = known.unwrap_or_else(|| self.introduce(server));
        if let Some((_, answers)) = self.servers.get_mut(index) {
            *answers += 1;
        }
        if self.received > 1 && index != self.last_server {
            self.switches += 1;
        }
        self.last_server = index;
    }

    /// The index of a new server, or of the last one when there are too many.
    fn introduce(&mut self, server: &[u8]) -> usize {
        if self.servers.len() < MOST_SERVERS {
            self.servers.push((String::from_utf8_lossy(server).into_owned(), 0));
        }
        self.servers.len() - 1
    }

    /// Kept coarsely: a thousand players cost about 2 MB.
    fn time(&mut self, round_trip: u64) {
        let fresh = || {
            Histogram::new_with_bounds(1_000, 60_000_000_000, 1)
                .expect("invariant: 1 µs to 1 min at one digit are lawful bounds")
        };
        self.round_trips.get_or_insert_with(fresh).saturating_record(round_trip);
    }

    fn vary(&mut self, transit: i128) {
        if let Some(before) = self.transit.replace(transit) {
            // RFC 3550 §6.4.1: J(i) = J(i-1) + (|D(i-1,i)| - J(i-1)) / 16.
            self.jitter += ((transit - before).unsigned_abs() as f64 - self.jitter) / 16.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::game::Header;
    use super::*;
    use proptest::prelude::*;

    fn answer(sequence: u64, sent: u64, server: &str) -> Answer<'_> {
        Answer { header: Header { player: 7, sequence, sent }, server: server.as_bytes() }
    }

    fn player(sent: u64) -> Conversation {
        Conversation { sent, ..Conversation::default() }
    }

    /// R1: jitter is RFC 3550's, computed here by hand.
    #[test]
    fn jitter_is_the_rfcs() {
        let mut p = player(4);
        for (i, round_trip) in [1600, 3200, 1600].into_iter().enumerate() {
            p.observe(7, &answer(i as u64, 0, "a"), round_trip);
        }
        assert_eq!(p.jitter(), 100.0 + (1600.0 - 100.0) / 16.0);
    }

    /// R1: a player that meets a second server is an affinity violation, and each change counts.
    #[test]
    fn a_second_server_is_noticed() {
        let mut p = player(4);
        for (i, server) in ["a", "a", "b", "a"].into_iter().enumerate() {
            p.observe(7, &answer(i as u64, 0, server), 1);
        }
        assert!(p.strayed());
        assert_eq!((p.switches, p.servers), (2, vec![("a".into(), 3), ("b".into(), 1)]));
    }

    #[test]
    fn strangers_and_the_future_are_foreign() {
        let mut p = player(1);
        assert_eq!(p.observe(8, &answer(0, 0, "a"), 1), None);
        assert_eq!(p.observe(7, &answer(1, 0, "a"), 1), None);
        assert_eq!(p.observe(7, &answer(0, 2, "a"), 1), None);
        assert_eq!((p.foreign, p.received), (3, 0));
    }

    proptest! {
        /// R1: every answer lands in exactly one column, and the columns agree with an oracle.
        #[test]
        fn columns_add_up(sequences in proptest::collection::vec(0u64..200, 0..300)) {
            let mut p = player(150);
            for s in &sequences {
                p.observe(7, &answer(*s, 0, "a"), 5);
            }
            let valid: Vec<_> = sequences.iter().filter(|s| **s < 150).collect();
            let distinct: std::collections::BTreeSet<_> = valid.iter().collect();
            prop_assert_eq!(p.received as usize, distinct.len());
            prop_assert_eq!(p.duplicates as usize, valid.len() - distinct.len());
            prop_assert_eq!(p.foreign as usize, sequences.len() - valid.len());
            prop_assert!(!p.strayed());
        }

        #[test]
        fn memory_is_bounded(names in proptest::collection::vec("[a-z]{1,5}", 0..100)) {
            let mut p = player(u64::MAX);
            for (i, name) in names.iter().enumerate() {
                p.observe(7, &answer(i as u64, 0, name), 5);
            }
            prop_assert!(p.servers.len() <= MOST_SERVERS);
            prop_assert_eq!(p.servers.iter().map(|(_, n)| n).sum::<u64>(), p.received);
        }
    }
}
