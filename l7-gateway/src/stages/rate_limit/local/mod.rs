//! Counters in this process: a table that never grows beyond its bounds. Not for the arithmetic
//! (`budget`) nor for counters that instances share (`redis`). Called by the stage when no limit store
//! is configured, or while it is away and each instance spends its share.
//!
//! Invariant: a request is charged by all of its limits or by none.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use topology::gateway::LimitId;

use self::cells::Cells;
use self::windows::{Window, Windows};
use super::budget::{Budget, Standing, Verdict};

pub mod cells;
pub mod windows;

/// Whose budget is charged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A client's network: the address itself, of IPv6 its /64. Made by [`Subject::address`].
    Address(IpAddr),
    /// A verified user, told apart by issuer where there are several.
    User(Arc<str>),
    /// The consumer of an API key.
    Consumer(Arc<str>),
    /// A device that a verified token names, told apart by issuer where there are several.
    Device(Arc<str>),
    /// A route by its name.
    Route(Arc<str>),
    /// Everybody.
    All,
    /// All of these together.
    Each(Vec<Self>),
}

impl Subject {
    /// The subject of a client's address. An IPv6 client owns a whole /64, so that is what is
    /// counted; an IPv4 address written as IPv6 counts as what it is.
    pub fn address(client: IpAddr) -> Self {
        Self::Address(match client.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        })
    }
}

/// One limit to charge for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Which limit; part of the counter's key.
    pub limit: LimitId,
    /// Whose counter.
    pub subject: Subject,
}

/// How large a table may grow.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most keys of limits whose counter is a number: 16 bytes each.
    pub keys: usize,
    /// Most keys of sliding windows.
    pub windows: usize,
    /// Most bytes of admission times that sliding windows keep.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { keys: 2_000_000, windows: 200_000, bytes: 64 << 20 }
    }
}

/// What stands for a key: 112 bits of two secret hashes of it, so that no client can make two keys
/// meet, and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hash {
    /// The limit, from 1, above 48 bits of hash.
    tag: u64,
    /// Where to look.
    place: u64,
}

impl Hash {
    /// Index of the limit that a tag is of.
    fn limit(tag: u64) -> usize {
        ((tag >> 48) as usize).wrapping_sub(1)
    }
}

/// The counters of one process.
#[derive(Debug)]
pub struct Table {
    budgets: Vec<Budget>,
    cells: Cells,
    windows: Windows,
    hashers: [RandomState; 2],
    /// One moment on both clocks: the table's own goes on evenly from there.
    began: (u64, Instant),
}

impl Table {
    /// An empty table for limits with these budgets, in the order of their ids.
    pub fn new(bounds: Bounds, budgets: Vec<Budget>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            cells: Cells::new(budgets.clone(), bounds.keys),
            windows: Windows::new(bounds.windows, bounds.bytes),
            hashers: [RandomState::new(), RandomState::new()],
            began: (u64::try_from(since.as_micros()).unwrap_or(0), Instant::now()),
            budgets,
        }
    }

    /// Microseconds since 1970, on a clock that never goes back.
    pub fn now(&self) -> u64 {
        let (wall, began) = self.began;
        wall + u64::try_from(began.elapsed().as_micros()).unwrap_or(0)
    }

    /// Charges all limits of one request, or none of them. `now` is in microseconds since 1970, of a
    /// clock that never goes back. One standing per charge, in their order.
    pub fn charge(&self, charges: &[Charge], now: u64) -> Vec<Standing> {
        let mut taken: Vec<Taken> = charges.iter().map(|charge| self.take(charge, now)).collect();
        if taken.iter().any(|one| one.standing.verdict == Verdict::Refuse) {
            for one in taken.iter_mut().filter(|one| one.standing.verdict == Verdict::Admit) {
                one.standing = self.refund(one).unwrap_or(one.standing);
            }
        }
        taken.into_iter().map(|one| one.standing).collect()
    }

    /// A unit of a limit of requests under way is given back.
    pub fn leave(&self, charge: &Charge) {
        let Some(budget) = self.budgets.get(charge.limit.0) else { return };
        // A key that was pushed out has nothing left to be given back.
        let _left = self.cells.revise(self.hash(charge), |counter| budget.refund(counter, 0));
    }

    fn take(&self, charge: &Charge, now: u64) -> Taken {
        let key = self.hash(charge);
        // An id of another table refuses: nothing is known of it.
        let nothing = Budget::FixedWindow { count: 0, per: 1 };
        let budget = *self.budgets.get(charge.limit.0).unwrap_or(&nothing);
        let (standing, at) = match budget {
            Budget::SlidingWindow { count, per } => {
                self.windows.charge(key, Window { count, per }, now)
            }
            _ => (self.cells.update(key, now, |counter| budget.charge(counter, now)), now),
        };
        Taken { key, budget, standing, at }
    }

    fn refund(&self, taken: &Taken) -> Option<Standing> {
        match taken.budget {
            Budget::SlidingWindow { .. } => self.windows.refund(taken.key, taken.at),
            budget => self.cells.revise(taken.key, |counter| budget.refund(counter, taken.at)),
        }
    }

    fn hash(&self, charge: &Charge) -> Hash {
        let [one, other] = &self.hashers;
        let limit = charge.limit.0 as u64 + 1;
        let tag = limit << 48 | one.hash_one(&charge.subject) >> 16;
        Hash { tag, place: other.hash_one((limit, &charge.subject)) }
    }
}

/// A charge that was made.
#[derive(Debug)]
struct Taken {
    key: Hash,
    budget: Budget,
    standing: Standing,
    /// When.
    at: u64,
}

#[cfg(test)]
mod tests;
