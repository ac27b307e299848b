//! A read that a replica is tried with before the primary: its answer is kept back until it is known to be one.
//! Not for choosing what is tried: that is `route`. Part of the relay.
//!
//! Invariant: nothing is told of an answer that may be given by another server.

use super::answer::Seen;

/// A read that a replica is tried with: its answer is kept back until it is known to be one.
#[derive(Debug, Default)]
pub struct Trial {
    /// The client's messages.
    pub input: Vec<u8>,
    held: Vec<u8>,
    /// It cannot do it.
    pub(super) failed: bool,
}

impl Trial {
    /// Of these messages.
    pub fn new(input: Vec<u8>) -> Box<Self> {
        Box::new(Self { input, ..Self::default() })
    }
}

/// PostgreSQL collects as much before it sends anything: keeping it back costs no time.
const MOST_HELD: usize = 8 << 10;

/// What becomes of an answer while a replica is tried.
pub(super) enum Held {
    /// There is no trial (any more): it goes on.
    Nothing,
    /// It is kept.
    All,
    /// All that was kept goes on.
    Before(Vec<u8>),
}

/// Keeps an answer, or lets it go.
pub(super) fn hold_back(trial: &mut Option<Box<Trial>>, bytes: &[u8], seen: Option<&Seen>) -> Held {
    let Some(tried) = trial else { return Held::Nothing };
    tried.failed |= seen.is_some_and(|seen| seen.elsewhere);
    if tried.failed {
        // Nobody will hear of it.
        return Held::All;
    }
    tried.held.extend_from_slice(bytes);
    let ended = seen.is_none_or(|seen| seen.ready > 0);
    if !(ended || tried.held.len() >= MOST_HELD) {
        return Held::All;
    }
    let all = std::mem::take(&mut tried.held);
    *trial = None;
    Held::Before(all)
}
