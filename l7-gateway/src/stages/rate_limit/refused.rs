//! Whom limits refused most, for an operator. Not for deciding: `local` and the store do. Told by the
//! limiter, read by `inspect`.
//!
//! Invariant: memory is bounded whatever clients send, and no request waits here.

use std::sync::{Mutex, PoisonError};

use topology::gateway::LimitId;

/// Keys remembered; as many as this who are refused most are surely among them.
const MOST: usize = 64;

/// The keys refused most: counts of Metwally's stream summary, which are never too low.
#[derive(Debug, Default)]
pub struct Refused {
    known: Mutex<Vec<Row>>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which limit.
    pub limit: LimitId,
    /// Whose counter.
    pub key: String,
    /// How often, at most.
    pub count: u64,
}

impl Refused {
    /// A request was refused; where another worker is here this moment it goes uncounted.
    pub fn note(&self, limit: LimitId, key: String) {
        let Ok(mut known) = self.known.try_lock() else { return };
        if let Some(row) = known.iter_mut().find(|row| row.limit == limit && row.key == key) {
            row.count += 1;
        } else if known.len() < MOST {
            known.push(Row { limit, key, count: 1 });
        } else if let Some(least) = known.iter_mut().min_by_key(|row| row.count) {
            *least = Row { limit, key, count: least.count + 1 };
        }
    }

    /// All that are known, most refused first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// O1: who is refused most stays known among many who are refused once.
    #[test]
    fn the_most_refused_are_known() {
        let refused = Refused::default();
        for n in 0..1000 {
            refused.note(LimitId(0), format!("address:{n}"));
            refused.note(LimitId(1), "user:7".into());
        }
        let rows = refused.rows();
        assert_eq!(rows.len(), MOST);
        let first = Row { limit: LimitId(1), key: "user:7".into(), count: 1000 };
        assert_eq!(rows.first(), Some(&first));
    }
}
