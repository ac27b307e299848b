//! What filters cost: the instructions of a request on routes without and with them, what putting answers together
//! adds, and calls of gRPC made of JSON beside Envoy's. Not for how a run is written down (`compare`).
//!
//! Invariant: instructions are counted, not timed; a busy machine changes none of them.

mod count;
pub mod inside;
mod several;
pub mod slow;
mod transcode;

use anyhow::Result;
use clap::ValueEnum;

use super::cases::{Measured, Terms};
use super::rig::Rig;
use super::{Goal, Sheet};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Instructions of a request without and with filters.
    Instructions,
    /// Three calls put together, over the slowest of them.
    Aggregate,
    /// A message of 1 KiB in JSON before gRPC.
    Transcode,
}

impl Measured for Case {
    fn measure(self, rig: &Rig, terms: Terms, sheet: &mut Sheet) {
        let measured: Result<()> = match self {
            Self::Instructions => count::instructions(rig, terms, sheet),
            Self::Aggregate => several::aggregate(rig, terms, sheet),
            Self::Transcode => transcode::transcode(rig, terms, sheet),
        };
        if let Err(fault) = measured {
            sheet.notes.push(format!("{self:?}: {fault:#}"));
        }
    }

    fn goals(self) -> Vec<Goal> {
        match self {
            Self::Instructions => count::goals(),
            Self::Aggregate => several::goals(),
            Self::Transcode => transcode::goals(),
        }
    }
}
