//! How many cancel requests may wait for another process to say whether their keys are right: in all, and from one
//! address, so that a flood of them takes neither descriptors nor patience from anybody else. Not for requests whose key
//! was found right here: they need no place. Asked by `cancel`.
//!
//! Invariant: a place is given back when its request has ended, however it ended.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many from one address are always let in where there is room.
const FEW: u32 = 16;
/// What of an IPv6 address names its owner: anybody has a whole /64 to come from (RFC 4291, section 2.5.1).
const NETWORK: u128 = !0 << 64;
/// Between two times that it is told.
const QUIET: Duration = Duration::from_secs(60);

/// Requests on their way; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    all: u32,
    /// By what [`owner`] says; `None`: processes of this host.
    by_source: HashMap<Option<IpAddr>, u32>,
    told: Option<Instant>,
}

/// A request that is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowded {
    /// An operator is to be told.
    Tell,
    /// It was told lately.
    Quiet,
}

impl Crowd {
    /// Lets a request in where `most` clients may be: as many at a time, of which one address (of IPv6 one /64)
    /// has a quarter.
    ///
    /// # Errors
    /// There are too many.
    pub fn enter(&self, source: Option<IpAddr>, most: u32) -> Result<Place, Crowded> {
        let source = source.map(owner);
        let mut inner = self.lock();
        let share = (most / 4).max(FEW);
        let own = inner.by_source.get(&source).copied().unwrap_or_default();
        if own >= share || inner.all >= most.max(FEW) {
            let now = Instant::now();
            let lately = inner.told.is_some_and(|told| now.duration_since(told) < QUIET);
            if lately {
                return Err(Crowded::Quiet);
            }
            inner.told = Some(now);
            return Err(Crowded::Tell);
        }
        inner.all += 1;
        inner.by_source.insert(source, own + 1);
        Ok(Place { crowd: self.clone(), source })
    }

    /// How many there are.
    pub fn now(&self) -> u32 {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses that are one sender's are one: IPv4 also as a socket of IPv6 has it, IPv6 by its network.
fn owner(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(at) => Ipv6Addr::from_bits(at.to_bits() & NETWORK).into(),
        at @ IpAddr::V4(_) => at,
    }
}

/// A request that was let in; given back when dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Crowd,
    source: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.crowd.lock();
        inner.all = inner.all.saturating_sub(1);
        if let Some(own) = inner.by_source.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                inner.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P7, O5: one address gets a quarter of the room, all together no more than all of it, and a place that is
    /// given back is free; it is told once a minute.
    #[tokio::test(start_paused = true)]
    async fn a_flood_of_cancels_is_bounded() {
        let crowd = Crowd::default();
        let from = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let mut first: Vec<_> = (0..25).map(|_| crowd.enter(from(1), 100)).collect();
        assert!(first.iter().all(Result::is_ok));
        assert_eq!(crowd.enter(from(1), 100).err(), Some(Crowded::Tell));
        assert_eq!(crowd.enter(from(1), 100).err(), Some(Crowded::Quiet));
        let others: Vec<_> = (2..5).flat_map(|last| (0..25).map(move |_| from(last))).collect();
        let others: Vec<_> = others.into_iter().map(|one| crowd.enter(one, 100)).collect();
        assert!(others.iter().all(Result::is_ok), "nobody else is concerned");
        assert_eq!(crowd.enter(None, 100).err(), Some(Crowded::Quiet), "all are too many");
        first.pop();
        assert!(crowd.enter(from(1), 100).is_ok(), "one has ended");
        drop((first, others));
        assert_eq!(crowd.now(), 0);
        assert!(crowd.lock().by_source.is_empty(), "nothing is kept of who has gone");
        tokio::time::advance(QUIET).await;
        let few: Vec<_> = (0..FEW).map(|_| crowd.enter(None, 1)).collect();
        assert!(few.iter().all(Result::is_ok));
        assert_eq!(crowd.enter(None, 1).err(), Some(Crowded::Tell));
    }

    /// P7, O5: who changes its address within its /64, or comes as IPv4 in IPv6's clothes, is still one sender.
    #[tokio::test(start_paused = true)]
    async fn a_sender_with_many_addresses_is_one() {
        let ip = |text: String| Some(text.parse::<IpAddr>().expect("an address"));
        let crowd = Crowd::default();
        let own = |host: u32| ip(format!("2001:db8:0:1::{host:x}"));
        let all: Vec<_> = (0..25).map(|host| crowd.enter(own(host), 100)).collect();
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(crowd.enter(own(99), 100).err(), Some(Crowded::Tell));
        let next = crowd.enter(ip("2001:db8:0:2::1".into()), 100);
        assert!(next.is_ok(), "a neighbour");
        let plain: Vec<_> = (0..25).map(|_| crowd.enter(ip("10.0.0.1".into()), 100)).collect();
        assert!(plain.iter().all(Result::is_ok));
        assert_eq!(crowd.enter(ip("::ffff:10.0.0.1".into()), 100).err(), Some(Crowded::Quiet));
        assert!(crowd.enter(ip("::ffff:10.0.0.2".into()), 100).is_ok(), "somebody else");
        drop((all, next, plain));
        assert!(crowd.lock().by_source.is_empty(), "nothing is kept of who has gone");
    }
}
