//! What a store said lately, bounded. Not for how long it is believed: whoever asks looks at the time.
//! Called by `directory`.
//!
//! Invariant: never more than its bound; what is used stays longer than what is not.

use std::collections::HashMap;
use std::hash::Hash;

/// Two generations: what is used moves to the young one; when that is full, the old one goes.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, V, foldhash::fast::RandomState>,
    old: HashMap<K, V, foldhash::fast::RandomState>,
    most: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Recent<K, V> {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), most: most / 2 }
    }

    /// What is known of it.
    pub fn find(&mut self, key: &K) -> Option<V> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.insert(*key, known.clone());
        Some(known)
    }

    /// Remembers it.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets it.
    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
