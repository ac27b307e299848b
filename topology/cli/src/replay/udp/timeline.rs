//! Which player sends what, and when: made for a number of players, or from a capture. Pure. Used by
//! `udp`'s lanes.
//!
//! Invariant: times never go back, and depend on nothing that happens during the replay.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::replay::capture::{Capture, Datagram};

/// The traffic of all players.
#[derive(Clone, Debug)]
pub(super) enum Traffic {
    Made(Rhythm),
    Kept(Arc<Cast>),
}

/// How made players play.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    pub(super) players: u32,
    /// Packets per second of each.
    pub(super) rate: f64,
    pub(super) span: Duration,
    /// Bytes of a packet.
    pub(super) sizes: RangeInclusive<usize>,
    /// A packet leaves up to so much after its even time.
    pub(super) jitter: Duration,
}

/// The players of a capture.
#[derive(Debug)]
pub(super) struct Cast {
    datagrams: Vec<Datagram>,
    /// Player by datagram.
    player: Vec<u32>,
    sources: u32,
    clones: u32,
}

impl Cast {
    /// Each source of datagrams to `port` becomes a player (`clones` players, who play the same a
    /// little later); the rest is left out.
    pub(super) fn new(capture: Capture, port: u16, clones: u32, speed: f64) -> Self {
        let mut known: HashMap<SocketAddr, u32> = HashMap::new();
        let wanted = capture.datagrams.into_iter().filter(|d| d.to.port() == port);
        let (player, mut datagrams): (Vec<u32>, Vec<Datagram>) = wanted
            .map(|datagram| {
                let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
                (*known.entry(datagram.from).or_insert(next), datagram)
            })
            .unzip();
        let first = datagrams.first().map(|d| d.at).unwrap_or_default();
        for datagram in &mut datagrams {
            datagram.at = datagram.at.saturating_sub(first).min(LONGEST).div_f64(speed);
        }
        let sources = u32::try_from(known.len()).unwrap_or(u32::MAX);
        Self { datagrams, player, sources, clones }
    }

    fn span(&self) -> Duration {
        self.datagrams.last().map(|d| d.at).unwrap_or_default()
    }

    /// How much later the clones of a player play: evenly over its mean pause.
    fn shift(&self) -> Duration {
        let each = self.datagrams.len() as u64 * u64::from(self.clones);
        let pauses = u32::try_from(each / u64::from(self.sources.max(1))).unwrap_or(u32::MAX);
        self.span() / pauses.max(1)
    }
}

/// A recording is no longer; what is later comes then.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// The port that most different sources sent to; the busiest of equals.
pub(super) fn busiest_port(capture: &Capture) -> Option<u16> {
    let mut ports: HashMap<u16, (std::collections::HashSet<SocketAddr>, u64)> = HashMap::new();
    for datagram in &capture.datagrams {
        let (sources, count) = ports.entry(datagram.to.port()).or_default();
        sources.insert(datagram.from);
        *count += 1;
    }
    ports.into_iter().max_by_key(|(port, (s, n))| (s.len(), *n, Reverse(*port))).map(|(p, _)| p)
}

impl Traffic {
    /// How many players there are.
    pub(super) fn players(&self) -> u32 {
        match self {
            Self::Made(rhythm) => rhythm.players,
            Self::Kept(cast) => cast.sources.saturating_mul(cast.clones),
        }
    }

    /// How many packets there are.
    pub(super) fn packets(&self) -> u64 {
        match self {
            Self::Made(rhythm) => rhythm.each() * u64::from(rhythm.players),
            Self::Kept(cast) => cast.datagrams.len() as u64 * u64::from(cast.clones),
        }
    }

    /// About how long it takes.
    pub(super) fn span(&self) -> Duration {
        match self {
            Self::Made(rhythm) => rhythm.span,
            Self::Kept(cast) => cast.span(),
        }
    }

    /// What these players do; they are counted from 0 in it.
    pub(super) fn of(&self, players: &Range<u32>) -> Timeline {
        match self {
            Self::Made(rhythm) => Timeline::Made(Made::new(rhythm, players)),
            Self::Kept(cast) => Timeline::Kept(Kept::new(cast, players)),
        }
    }
}

impl Rhythm {
    /// Packets of each player.
    fn each(&self) -> u64 {
        (self.rate * self.span.as_secs_f64()).round() as u64
    }
}

/// A packet that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Due {
    pub(super) at: Duration,
    /// Of this lane, from 0.
    pub(super) player: usize,
    /// How long it is.
    pub(super) length: usize,
    /// Which datagram of the capture.
    pub(super) datagram: Option<usize>,
}

/// The packets of one lane in order.
pub(super) enum Timeline {
    Made(Made),
    Kept(Kept),
}

impl Timeline {
    /// When the next is due.
    pub(super) fn peek(&self) -> Option<Duration> {
        match self {
            Self::Made(made) => made.next.peek().map(|Reverse((at, ..))| Duration::from_nanos(*at)),
            Self::Kept(kept) => kept.order.get(kept.next).map(|due| due.at),
        }
    }

    /// Takes the next when it is due by `now`.
    pub(super) fn take(&mut self, now: Duration) -> Option<Due> {
        self.peek().filter(|at| *at <= now)?;
        match self {
            Self::Made(made) => made.take(),
            Self::Kept(kept) => {
                kept.next += 1;
                kept.order.get(kept.next - 1).copied()
            }
        }
    }

    /// The bytes of a datagram of the capture.
    pub(super) fn bytes(&self, datagram: usize) -> &[u8] {
        match self {
            Self::Made(_) => &[],
            Self::Kept(kept) => kept.cast.datagrams.get(datagram).map_or(&[], |d| &d.payload),
        }
    }
}

pub(super) struct Made {
    /// When, who, and which of the player's packets.
    next: BinaryHeap<Reverse<(u64, u32, u64)>>,
    rhythm: Rhythm,
    first: u32,
    random: SmallRng,
}

impl Made {
    fn new(rhythm: &Rhythm, players: &Range<u32>) -> Self {
        let random = SmallRng::seed_from_u64(u64::from(players.start));
        let mut made =
            Self { next: BinaryHeap::new(), rhythm: rhythm.clone(), first: players.start, random };
        for player in 0..players.len() as u32 {
            made.plan(player, 0, 0);
        }
        made
    }

    /// Players are spread evenly over the time between two packets.
    fn plan(&mut self, player: u32, packet: u64, not_before: u64) {
        if packet >= self.rhythm.each() {
            return;
        }
        let phase = f64::from(self.first + player) / f64::from(self.rhythm.players.max(1));
        let even = ((packet as f64 + phase) / self.rhythm.rate * 1e9) as u64;
        let jitter = u64::try_from(self.rhythm.jitter.as_nanos()).unwrap_or(u64::MAX);
        let late = if jitter == 0 { 0 } else { self.random.random_range(0..=jitter) };
        let at = even.saturating_add(late).max(not_before);
        self.next.push(Reverse((at, player, packet)));
    }

    fn take(&mut self) -> Option<Due> {
        let Reverse((at, player, packet)) = self.next.pop()?;
        self.plan(player, packet + 1, at);
        let sizes = self.rhythm.sizes.clone();
        let length = if sizes.start() == sizes.end() {
            *sizes.start()
        } else {
            self.random.random_range(sizes)
        };
        let at = Duration::from_nanos(at);
        Some(Due { at, player: player as usize, length, datagram: None })
    }
}

pub(super) struct Kept {
    cast: Arc<Cast>,
    order: Vec<Due>,
    next: usize,
}

impl Kept {
    fn new(cast: &Arc<Cast>, players: &Range<u32>) -> Self {
        let shift = cast.shift();
        let mut order = Vec::new();
        for (datagram, (kept, source)) in cast.datagrams.iter().zip(&cast.player).enumerate() {
            let own = source * cast.clones..(source + 1) * cast.clones;
            for number in own.start.max(players.start)..own.end.min(players.end) {
                order.push(Due {
                    at: kept.at + shift * (number - own.start),
                    player: (number - players.start) as usize,
                    length: kept.length,
                    datagram: Some(datagram),
                });
            }
        }
        order.sort_by_key(|due| due.at);
        Self { cast: Arc::clone(cast), order, next: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(mut timeline: Timeline) -> Vec<Due> {
        std::iter::from_fn(|| timeline.take(Duration::MAX)).collect()
    }

    fn rhythm(players: u32, rate: f64, jitter: u64) -> Rhythm {
        Rhythm {
            players,
            rate,
            span: Duration::from_secs(1),
            sizes: 80..=220,
            jitter: Duration::from_millis(jitter),
        }
    }

    fn seen(at: u64, from: &str, to: &str) -> Datagram {
        Datagram {
            at: Duration::from_millis(at),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            payload: vec![1, 2, 3],
            length: 5,
        }
    }

    /// R1: each source is a player, answers are left out, clones play the same a little later, and
    /// twice the speed takes half the time.
    #[test]
    fn a_capture_becomes_players() {
        let (a, b, game) = ("10.0.0.1:5", "10.0.0.1:6", "10.9.9.9:7777");
        let datagrams = vec![
            seen(1_000, a, game),
            seen(1_100, game, a),
            seen(1_200, b, game),
            seen(1_400, a, game),
        ];
        let capture = Capture { datagrams, ..Capture::default() };
        assert_eq!(busiest_port(&capture), Some(7777));
        let traffic = Traffic::Kept(Arc::new(Cast::new(capture, 7777, 2, 2.0)));
        assert_eq!((traffic.players(), traffic.packets()), (4, 6));
        assert_eq!(traffic.span(), Duration::from_millis(200));
        let found: Vec<_> =
            all(traffic.of(&(0..4))).iter().map(|d| (d.at.as_millis(), d.player)).collect();
        assert_eq!(found, [(0, 0), (66, 1), (100, 2), (166, 3), (200, 0), (266, 1)]);
        let lane = all(traffic.of(&(2..4)));
        assert_eq!(lane.iter().map(|d| d.player).collect::<Vec<_>>(), [0, 1]);
        assert!(lane.iter().all(|d| d.length == 5 && d.datagram == Some(1)));
    }

    proptest! {
        /// R1: every made player sends its number of packets, in order of time, of lawful sizes.
        #[test]
        fn made_players_are_complete(players in 1u32..20, rate in 1f64..50.0, jitter in 0u64..200, lanes in 1u32..4) {
            let rhythm = rhythm(players, rate, jitter);
            let traffic = Traffic::Made(rhythm.clone());
            let mut sent = 0;
            for lane in 0..lanes {
                let range = players * lane / lanes..players * (lane + 1) / lanes;
                let lane = all(traffic.of(&range));
                prop_assert!(lane.windows(2).all(|pair| pair[0].at <= pair[1].at));
                prop_assert!(lane.iter().all(|d| rhythm.sizes.contains(&d.length) && d.player < range.len()));
                sent += lane.len() as u64;
            }
            prop_assert_eq!(sent, traffic.packets());
        }
    }
}
