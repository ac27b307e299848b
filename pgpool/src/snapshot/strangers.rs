//! What names are asked with that nobody has: what could be asked of one that somebody has. Not for asking: that is
//! `client::auth`. Kept by the snapshot.
//!
//! Invariant: a name is asked with the same salt, and with as many iterations, from login to login, as long as those who
//! are known stay the same.

use std::collections::BTreeMap;

use super::users::{Credential, ITERATIONS};

/// How many verifiers of known roles have how many iterations. Were all strangers asked with the same number, whoever has
/// another one would be told from them: theirs are spread over names as those of the known over the known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Iterations(BTreeMap<u32, u64>);

impl Iterations {
    /// Those of these.
    pub(super) fn of<'a>(credentials: impl Iterator<Item = &'a Credential>) -> Self {
        let mut all = Self::default();
        credentials.for_each(|credential| all.add(credential));
        all
    }

    /// One more.
    pub(super) fn add(&mut self, credential: &Credential) {
        if let Some(iterations) = iterations(credential) {
            *self.0.entry(iterations).or_default() += 1;
        }
    }

    /// One of them less.
    pub(super) fn take_away(&mut self, credential: &Credential) {
        let count = iterations(credential).and_then(|iterations| self.0.get_mut(&iterations));
        count.into_iter().for_each(|count| *count = count.saturating_sub(1));
    }

    /// Those of both.
    pub(super) fn with(mut self, others: &Self) -> Self {
        others.0.iter().for_each(|(iterations, count)| {
            *self.0.entry(*iterations).or_default() += count;
        });
        self
    }

    /// The number for who has drawn this lot, of all that there are.
    pub(super) fn drawn(&self, lot: u64) -> u32 {
        let all: u64 = self.0.values().sum();
        // Few change theirs when one role comes or goes, as they would not by a remainder.
        let mut at = (u128::from(lot) * u128::from(all)) >> 64;
        for (iterations, count) in &self.0 {
            match at.checked_sub(u128::from(*count)) {
                Some(rest) => at = rest,
                None => return *iterations,
            }
        }
        ITERATIONS
    }
}

fn iterations(credential: &Credential) -> Option<u32> {
    match credential {
        Credential::Scram(verifier) | Credential::Password(_, verifier) => {
            Some(verifier.iterations)
        }
        Credential::Trust | Credential::Md5(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scram::Verifier;

    /// P4: strangers are asked as often with a number of iterations as known roles are; where nobody is known, with
    /// PostgreSQL's.
    #[test]
    fn strangers_are_like_the_known() {
        let verifier = |count| Verifier::of_chance(b"", &[0; 32], [0; 32], |_| count);
        let one = |count| Credential::Scram(verifier(count));
        assert_eq!(Iterations::default().drawn(u64::MAX), 4096);
        let known = [one(10_000), one(10_000), one(4096), Credential::Trust, one(10_000)];
        let all = Iterations::of(known.iter());
        let drawn = |all: &Iterations| {
            let lots = (0..1000).map(|lot| all.drawn(lot * (u64::MAX / 1000)));
            lots.filter(|iterations| *iterations == 4096).count()
        };
        assert_eq!(drawn(&all), 251);
        let more = Iterations::of([one(4096), one(4096)].iter());
        assert_eq!(drawn(&all.clone().with(&more)), 501);
        assert_eq!(drawn(&Iterations::of([one(600_000)].iter())), 0);
        assert_eq!(all.drawn(u64::MAX), 10_000);
        let mut fewer = all.clone();
        fewer.take_away(&one(4096));
        assert_eq!(drawn(&fewer), 0);
    }
}
