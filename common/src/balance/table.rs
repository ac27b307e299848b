//! A table from hashes to endpoints, and its predecessor for a while after a change. Not for filling
//! it (`maglev`, `rendezvous`) and not for remembering flows. Called by `Balancer::select`.
//!
//! Invariant: the slots depend on names, weights and key alone, never on the order of endpoints or
//! on which of them live. A client whose endpoint lives is never moved by the death of another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::{Choice, HashKey};
use crate::service::{Endpoint, Service};

/// The lookup table of one service: 128 KiB, built in milliseconds.
pub struct Table {
    slots: Box<[u16]>,
    key: HashKey,
    recent: Recent,
    former: Option<Former>,
}

/// The table before a change, in the numbers of the endpoints now.
struct Former {
    slots: Box<[u16]>,
    /// Slots that clients were active in.
    active: Box<[u64]>,
    until: Instant,
}

impl Table {
    /// Slots: a prime; large enough that Maglev's shares are even to a fraction of a percent.
    pub const SLOTS: usize = 65_537;

    /// How long after a change the former table is looked at: as long as a UDP flow may be quiet.
    pub const GRACE: Duration = Duration::from_secs(120);

    /// Over all endpoints of the service (at most 65 534), dead ones included; `fill` decides whose
    /// each slot is.
    pub(super) fn new(
        service: &Service,
        key: HashKey,
        fill: impl FnOnce(&[(u16, &Endpoint)], HashKey) -> Box<[u16]>,
    ) -> Self {
        let endpoints = service.endpoints.iter().enumerate().take(usize::from(NOBODY));
        let mut endpoints: Vec<(u16, &Endpoint)> =
            endpoints.map(|(index, endpoint)| (index as u16, &**endpoint)).collect();
        // Whoever an operator gave no weight gets no slot, unless nobody has any.
        if endpoints.iter().any(|(_, endpoint)| endpoint.weight() > 0) {
            endpoints.retain(|(_, endpoint)| endpoint.weight() > 0);
        }
        endpoints.sort_by(|(_, a), (_, b)| a.name.as_str().cmp(b.name.as_str()));
        Self { slots: fill(&endpoints, key), key, recent: Recent::new(), former: None }
    }

    /// Looks at `before` for a while: an unknown client of a slot that was active lately follows the
    /// slot's former owner while that one lives and is still there.
    pub(super) fn succeed(
        &mut self,
        before: &Self,
        (old, new): (&Service, &Service),
        now: Instant,
    ) {
        if before.slots == self.slots && same_order(old, new) {
            // Nothing has moved: what was waited for is waited for further.
            self.recent = before.recent.copy();
            self.former = before.former.as_ref().map(|former| Former {
                slots: former.slots.clone(),
                active: former.active.clone(),
                until: former.until,
            });
            return;
        }
        let place = |endpoint: &Endpoint| {
            let same = |e: &std::sync::Arc<Endpoint>| {
                e.name == endpoint.name && e.address == endpoint.address
            };
            new.endpoints.iter().position(same).map_or(NOBODY, |index| index as u16)
        };
        let places: Vec<u16> = old.endpoints.iter().map(|e| place(e)).collect();
        let renumber = |&index: &u16| places.get(usize::from(index)).copied().unwrap_or(NOBODY);
        self.former = Some(Former {
            slots: before.slots.iter().map(renumber).collect(),
            active: before.recent.active(now),
            until: now + Self::GRACE,
        });
    }

    /// The owner of the hash's slot when all endpoints live.
    pub fn owner(&self, hash: u64) -> Option<usize> {
        self.slots.get(slot(hash)).map(|&index| usize::from(index))
    }

    /// Slots per endpoint, for reporting the measured share.
    pub fn shares(&self) -> Vec<usize> {
        let mut shares = Vec::new();
        for &index in &self.slots {
            let index = usize::from(index);
            if shares.len() <= index {
                shares.resize(index + 1, 0);
            }
            if let Some(share) = shares.get_mut(index) {
                *share += 1;
            }
        }
        shares
    }

    /// The owner, or, where it is not allowed, the owner of a further slot that the same hash leads
    /// to: so a dead endpoint's clients spread over the others by weight, and nobody else moves.
    pub(super) fn select(&self, choice: &Choice<'_>, hash: u64) -> Option<usize> {
        self.recent.mark(slot(hash), choice.now);
        if let Some(index) = self.former_owner(hash, choice) {
            return Some(index);
        }
        let mut hash = hash;
        for _ in 0..PROBES {
            let index = self.owner(hash)?;
            if choice.allows(index) {
                return Some(index);
            }
            hash = self.key.hash(&hash.to_be_bytes());
        }
        // Nearly all are dead: the next slot of a living one, or any endpoint without a slot.
        let (before, after) = self.slots.split_at_checked(slot(hash))?;
        let slots = after.iter().chain(before).map(|&index| usize::from(index));
        let mut last = usize::MAX;
        let mut changed = slots.filter(|&index| std::mem::replace(&mut last, index) != index);
        changed.find(|&index| choice.allows(index)).or_else(|| choice.from(0).next())
    }

    fn former_owner(&self, hash: u64, choice: &Choice<'_>) -> Option<usize> {
        let former = self.former.as_ref().filter(|former| choice.now < former.until)?;
        let slot = slot(hash);
        let active =
            former.active.get(slot / 64).is_some_and(|word| (word >> (slot % 64)) & 1 == 1);
        let index = usize::from(*former.slots.get(slot)?);
        (active && choice.allows(index)).then_some(index)
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("shares", &self.shares()).finish_non_exhaustive()
    }
}

/// The same endpoints under the same numbers.
fn same_order(old: &Service, new: &Service) -> bool {
    old.endpoints.len() == new.endpoints.len()
        && old
            .endpoints
            .iter()
            .zip(&new.endpoints)
            .all(|(a, b)| a.name == b.name && a.address == b.address)
}

/// Which slots were asked for lately: in this interval or the one before. 16 KiB.
struct Recent {
    born: Instant,
    interval: AtomicU64,
    bits: [Box<[AtomicU64]>; 2],
}

impl Recent {
    fn new() -> Self {
        let bits = || (0..Table::SLOTS.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { born: Instant::now(), interval: AtomicU64::new(0), bits: [bits(), bits()] }
    }

    /// Marks a slot: a load in the common case.
    fn mark(&self, slot: usize, now: Instant) {
        let half = self.turn(now);
        let Some(word) = half.get(slot / 64) else { return };
        let bit = 1 << (slot % 64);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// The half that is written now; whoever begins an interval clears it.
    fn turn(&self, now: Instant) -> &[AtomicU64] {
        let interval = now.saturating_duration_since(self.born).as_secs() / Table::GRACE.as_secs();
        let [even, odd] = &self.bits;
        let half = if interval.is_multiple_of(2) { even } else { odd };
        let known = self.interval.load(Ordering::Relaxed);
        let begins = known < interval
            && self
                .interval
                .compare_exchange(known, interval, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if begins {
            half.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        half
    }

    /// All slots that are marked.
    fn active(&self, now: Instant) -> Box<[u64]> {
        self.turn(now);
        let [even, odd] = &self.bits;
        let both = even.iter().zip(odd);
        both.map(|(a, b)| a.load(Ordering::Relaxed) | b.load(Ordering::Relaxed)).collect()
    }

    fn copy(&self) -> Self {
        let copy = |bits: &[AtomicU64]| {
            bits.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect()
        };
        let [even, odd] = &self.bits;
        let interval = AtomicU64::new(self.interval.load(Ordering::Relaxed));
        Self { born: self.born, interval, bits: [copy(even), copy(odd)] }
    }
}

/// Which slot a hash falls in.
fn slot(hash: u64) -> usize {
    (hash % Table::SLOTS as u64) as usize
}

/// No endpoint has this number.
pub(super) const NOBODY: u16 = u16::MAX;

/// Further slots tried at random before the table is walked.
const PROBES: usize = 24;
