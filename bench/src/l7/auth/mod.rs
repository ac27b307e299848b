//! What identity, limits and records cost, case by case, and what ours shall reach. Not for how a run is
//! written down (`compare`).
//!
//! Invariant: parties of a case verify the same tokens against the same keys.

mod instances;
mod issuer;
pub(super) mod parts;
mod shared;
mod tokens;

use anyhow::Result;
use clap::ValueEnum;

use super::cases::{Measured, Terms};
use super::rig::Rig;
use super::{Goal, Sheet};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// One token, two limits and a record; nginx does none of it.
    Tokens,
    /// The same, and no token twice.
    NewTokens,
    /// What all that costs over the same proxy without it.
    Cost,
    /// From `aqueduct revoke` to the first refusal, on two instances.
    Revocation,
    /// Drivers' waiting while riders surge.
    Surge,
    /// Limits in Redis: commands and time per request.
    Redis,
    /// Memory of a million limit keys.
    Keys,
}

impl Measured for Case {
    fn measure(self, rig: &Rig, terms: Terms, sheet: &mut Sheet) {
        let measured: Result<()> = match self {
            Self::Tokens => tokens::kept(rig, terms, sheet),
            Self::NewTokens => tokens::new(rig, terms, sheet),
            Self::Cost => tokens::cost(rig, terms, sheet),
            Self::Revocation => instances::revocation(rig, terms, sheet),
            Self::Surge => instances::surge(rig, terms, sheet),
            Self::Redis => shared::redis(rig, terms, sheet),
            Self::Keys => shared::keys(rig, sheet),
        };
        if let Err(fault) = measured {
            sheet.notes.push(format!("{self:?}: {fault:#}"));
        }
    }

    fn goals(self) -> Vec<Goal> {
        match self {
            Self::Tokens | Self::NewTokens | Self::Cost => tokens::goals(self),
            Self::Revocation | Self::Surge => instances::goals(self),
            Self::Redis | Self::Keys => shared::goals(self),
        }
    }
}
