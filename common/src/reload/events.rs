//! What an operator must hear of a changed file, whatever the tier. What it changed is each tier's own
//! event.
//!
//! Invariant: every file that was read counts once.

use tracing::Level;

use crate::observe::{Event, Observer};

/// A changed file was refused; what ran before goes on.
#[derive(Debug)]
pub struct ReloadRefused<'a> {
    /// Why, with the place in the file.
    pub cause: &'a str,
}

impl Event for ReloadRefused<'_> {
    fn emit(&self, to: &Observer) {
        count(to, "refused");
        let (instance, cause) = (&*to.instance, self.cause);
        tracing::event!(Level::ERROR, instance, cause, "reload refused");
    }
}

/// Counts a file that is in force, and names the keys of it that are not yet. For the tiers' own
/// events.
pub fn applied(to: &Observer, waiting: &[&str]) {
    count(to, "applied");
    if !waiting.is_empty() {
        let (instance, keys) = (&*to.instance, waiting.join(", "));
        tracing::event!(Level::WARN, instance, %keys, "these keys change with a restart only");
    }
}

fn count(to: &Observer, outcome: &'static str) {
    let help = "Changed files that were read, by outcome.";
    to.metrics.counter("aqueduct_reloads_total", help, &[("outcome", outcome)]).increment(1);
}
