//! Tokens already verified by this worker, so that the next request with the same token costs a
//! comparison instead of a signature check. Not for deciding: whoever asks looks at the expiry
//! again. Called by `mod`.
//!
//! Invariant: only tokens that were verified are kept, they are compared whole, and an entry is
//! worth nothing once its issuer's keys have changed. It ends with the snapshot it was made from.

use std::collections::HashMap;
use std::rc::Rc;

use topology::gateway::IssuerId;

use super::Identity;

/// Most tokens kept by one worker.
pub const MOST_TOKENS: usize = 16 << 10;

/// Most bytes of tokens kept by one worker.
pub const MOST_BYTES: usize = 16 << 20;

/// Two generations: what is used moves to the young one; when that is full, the old one goes.
#[derive(Debug)]
pub struct Cache {
    young: Generation,
    old: Generation,
    most: (usize, usize),
}

#[derive(Clone, Debug)]
struct Entry {
    identity: Rc<Identity>,
    keys: u64,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Box<[u8]>, Entry, foldhash::fast::RandomState>,
    bytes: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(MOST_TOKENS, MOST_BYTES)
    }
}

impl Cache {
    /// Keeps at most so many tokens of at most so many bytes together.
    pub fn new(tokens: usize, bytes: usize) -> Self {
        let most = (tokens / 2, bytes / 2);
        Self { young: Generation::default(), old: Generation::default(), most }
    }

    /// What this token said when it was verified, if its issuer's keys are still the same.
    /// `keys` answers the generation in use of an issuer.
    pub fn find(
        &mut self,
        token: &[u8],
        keys: impl Fn(IssuerId) -> Option<u64>,
    ) -> Option<Rc<Identity>> {
        let known = match self.young.entries.get(token) {
            Some(entry) => entry,
            None => {
                let (token, entry) = self.old.entries.remove_entry(token)?;
                self.old.bytes -= token.len();
                self.keep(token, entry)?
            }
        };
        let current = known.identity.issuer().and_then(keys);
        (current == Some(known.keys)).then(|| Rc::clone(&known.identity))
    }

    /// Remembers a verified token.
    pub fn insert(&mut self, token: &[u8], identity: Rc<Identity>, keys: u64) {
        self.keep(token.into(), Entry { identity, keys });
    }

    /// Tokens kept.
    pub fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn keep(&mut self, token: Box<[u8]>, entry: Entry) -> Option<&Entry> {
        let (tokens, bytes) = self.most;
        if self.young.entries.len() >= tokens || self.young.bytes + token.len() > bytes {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += token.len();
        let slot = self.young.entries.entry(token);
        if let std::collections::hash_map::Entry::Occupied(old) = &slot {
            self.young.bytes -= old.key().len();
        }
        Some(slot.insert_entry(entry).into_mut())
    }
}

#[cfg(test)]
mod tests;
