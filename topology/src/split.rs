//! Traffic that is divided: parts of a route's requests, and experiments (spec G12). Not for dividing
//! it: stage 6 of the gateway does.
//!
//! Invariant: parts of one route, and variants of one experiment, are at most a hundred of a hundred.

use std::time::Duration;

use crate::units::Percent;
use crate::upstream::UpstreamId;

/// A part of a route's requests that leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it leads.
    pub to: UpstreamId,
    /// How many of a hundred.
    pub part: Percent,
    /// Who bears it is in the part; who is chosen is handed it.
    pub cookie: Option<HandOut>,
}

/// Where copies of a route's requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where it leads.
    pub to: UpstreamId,
    /// How many of a hundred.
    pub part: Percent,
}

/// A cookie that the gateway hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOut {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// How long the client keeps it (default 30 days).
    pub max_age: Duration,
}

/// Who stays on one side of a split, or with one variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sticky {
    /// The verified user; its address while nobody is verified.
    User,
    /// The client's address.
    Address,
    /// The value of this cookie; the address of who has none.
    Cookie(String),
}

/// Users divided among variants, independently of every other experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// Its name: lower-case letters, digits and `-`.
    pub name: String,
    /// Names of variants, and how many of a hundred each gets; who is left takes no part.
    pub variants: Vec<(String, Percent)>,
    /// Who stays with one variant.
    pub by: Sticky,
    /// Keeps clients with their variant when parts move: name and age of a cookie.
    pub cookie: Option<(String, Duration)>,
}

/// Index into [`crate::gateway::Group::experiments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExperimentId(pub usize);
