//! How often: token buckets, one for all clients or one per client, as the generic cell rate
//! algorithm (ITU-T I.371 annex A): a bucket is the one time at which it will be full again. Not
//! for how many at a time. Called for each new flow and, where packets are bounded, each datagram.
//!
//! Invariant: memory is fixed when the limit is made; a flood of sources takes no more of it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use std::hash::BuildHasher;

use topology::units::Rate;

/// Whom a limit per source is about: an IPv4 address, or the /64 of an IPv6 address, all of which
/// one subscriber has (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first half of an IPv6 address.
    V6([u8; 8]),
}

impl Source {
    /// Whom the address belongs to; IPv4 written as IPv6 is IPv4.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// So many per so long, as many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds that one takes.
    each: u64,
    /// Nanoseconds that a full bucket stands for.
    whole: u64,
}

impl Pace {
    /// The pace of a rate.
    pub fn new(rate: Rate) -> Self {
        let whole = nanoseconds(rate.per).max(1);
        Self { each: (whole / u64::from(rate.count.get())).max(1), whole }
    }

    /// When the bucket will be full after one more now; `None`: it is empty.
    fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let after = full_at.max(now).saturating_add(self.each);
        (after.saturating_sub(now) <= self.whole).then_some(after)
    }
}

/// A bucket that all workers share.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one, if there is one. `now` is counted from any fixed moment.
    pub fn take(&self, pace: Pace, now: Duration) -> bool {
        let now = nanoseconds(now);
        let more = |full_at| pace.take(full_at, now);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A bucket per source, for at most [`Buckets::PLACES`] sources that are not full at a time. With
/// more of them the fullest of a few is forgotten, and its source begins anew with a full one: a
/// flood of addresses can loosen the bound, never tighten it.
#[derive(Debug)]
pub struct Buckets {
    places: Box<[Place]>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    source: Source,
    full_at: u64,
}

impl Buckets {
    /// Sources that can be told apart: 192 KiB.
    pub const PLACES: usize = 8192;

    /// All full.
    pub fn new() -> Self {
        let nobody = Place { source: Source::V4([0; 4]), full_at: 0 };
        let places = vec![nobody; Self::PLACES].into_boxed_slice();
        Self { places, hasher: RandomState::default() }
    }

    /// Takes one from the source's bucket, if there is one.
    pub fn take(&mut self, source: Source, pace: Pace, now: Duration) -> bool {
        let now = nanoseconds(now);
        let set = self.hasher.hash_one(source) as usize % (Self::PLACES / WAYS) * WAYS;
        let Some(set) = self.places.get_mut(set..set + WAYS) else { return true };
        let own = set.iter().position(|place| place.source == source && place.full_at > now);
        // A full bucket is as good as none, so its place is free; else the fullest goes.
        let fullest = || (0..WAYS).min_by_key(|&way| set.get(way).map(|place| place.full_at));
        let Some(way) = own.or_else(fullest) else { return true };
        let Some(place) = set.get_mut(way) else { return true };
        let full_at = if own.is_some() { place.full_at } else { now };
        let Some(after) = pace.take(full_at, now) else { return false };
        *place = Place { source, full_at: after };
        true
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self::new()
    }
}

/// Places that one source may have: a cache line or two.
const WAYS: usize = 8;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
