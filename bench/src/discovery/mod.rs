//! Ten thousand endpoints in a registry, of which ten change per second: what that costs a gateway and a balancer, and
//! how soon an endpoint that has left is asked no more. Nobody is compared: both are held against numbers.
//!
//! Invariant: a figure of a tier is taken while it has all endpoints, and says so or there is none.

pub mod etcd;
pub mod run;
pub mod tier;
pub mod traffic;

use crate::figures::Column;

/// The one column: what is measured is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ours;

impl Column for Ours {
    const DIRECT: Self = Self;
    const OURS: Self = Self;

    fn name(self) -> &'static str {
        "aqueduct"
    }
}

/// The figures of a run.
pub type Sheet = crate::figures::Sheet<Ours>;
/// A goal for one of them.
pub type Goal = crate::goals::Goal<Ours>;
