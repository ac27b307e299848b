//! What is measured, case by case, and what ours shall reach in each. Not for how a run is written
//! down.
//!
//! Invariant: within a case every party has the same load and the same duty.

mod bodies;
mod floods;
mod idle;
mod reloads;
mod routes;
pub(super) mod speed;
mod syscalls;

use anyhow::Result;
use clap::ValueEnum;

use super::rig::{Rig, Running};
use super::{Goal, Sheet};
use crate::figures::Column as _;
use crate::progress;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// HTTP/1.1 over 64 kept connections.
    Http,
    /// The same over TLS.
    Https,
    /// Full TLS 1.3 handshakes with one request each.
    Handshakes,
    /// HTTP/2 over TLS, 8 connections with 16 streams each.
    Http2,
    /// Latency at 1000 requests a second.
    Pace,
    /// Bodies of 1 MiB.
    Bodies,
    /// Memory while a body of 1 GiB streams.
    Stream,
    /// Memory of 5000 idle connections.
    Idle,
    /// Hostile HTTP/2 connections.
    Floods,
    /// Tables of 10 to 5000 routes.
    Routes,
    /// A hundred reloads in a minute under load.
    Reloads,
    /// System calls per request.
    Syscalls,
}

/// How a case is run.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Turns, each one run of every party.
    pub rounds: u32,
    /// Length of a run.
    pub seconds: u32,
    /// Also with two workers that are not pinned.
    pub free: bool,
}

/// A list of cases.
pub trait Measured: ValueEnum + Copy {
    /// Measures it.
    fn measure(self, rig: &Rig, terms: Terms, sheet: &mut Sheet);

    /// What ours shall reach.
    fn goals(self) -> Vec<Goal>;
}

impl Measured for Case {
    fn measure(self, rig: &Rig, terms: Terms, sheet: &mut Sheet) {
        match self {
            Self::Http => speed::http(rig, terms, sheet),
            Self::Https => speed::https(rig, terms, sheet),
            Self::Http2 => speed::http2(rig, terms, sheet),
            Self::Handshakes => speed::handshakes(rig, terms, sheet),
            Self::Pace => speed::pace(rig, terms, sheet),
            Self::Bodies => bodies::bodies(rig, terms, sheet),
            Self::Stream => bodies::streams(rig, terms, sheet),
            Self::Idle => idle::idle(rig, terms, sheet),
            Self::Floods => floods::floods(rig, terms, sheet),
            Self::Routes => routes::routes(rig, terms, sheet),
            Self::Reloads => reloads::reloads(rig, terms, sheet),
            Self::Syscalls => syscalls::syscalls(rig, terms, sheet),
        }
    }

    fn goals(self) -> Vec<Goal> {
        match self {
            Self::Http | Self::Https | Self::Handshakes | Self::Http2 | Self::Pace => {
                speed::goals(self)
            }
            Self::Bodies | Self::Stream => bodies::goals(self),
            Self::Idle => idle::goals(),
            Self::Floods => floods::goals(),
            Self::Routes => routes::goals(),
            Self::Reloads => reloads::goals(),
            Self::Syscalls => Vec::new(),
        }
    }
}

/// One turn of a party.
pub(super) type Turn<'a> = &'a mut dyn FnMut(&Running, u32, &mut Sheet) -> Result<()>;

/// Every party once a round, each round begun by another; who fails is noted.
pub(super) fn in_turns(
    what: &str,
    parties: &[Running],
    rounds: u32,
    sheet: &mut Sheet,
    turn: Turn<'_>,
) {
    for round in 0..rounds {
        let first = round as usize % parties.len().max(1);
        let (later, sooner) = parties.split_at(first);
        for party in sooner.iter().chain(later) {
            let name = party.kind.name();
            progress(&format!("{what}: round {} of {rounds}, {name}", round + 1));
            if let Err(fault) = turn(party, round, sheet) {
                sheet.notes.push(format!("{what}: {name}: {fault:#}"));
            }
        }
    }
}
