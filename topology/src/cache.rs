//! The response cache of a gateway group, resolved. Not for what may be kept: that is stage 8, by
//! RFC 9111. Read by it.
//!
//! Invariant: none beyond the model's.

use std::time::Duration;

/// What one instance keeps of answers (spec G22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheStore {
    /// Most bytes of all of them together (default 64 MiB).
    pub size: u64,
    /// Most bytes of one body (default 1 MiB).
    pub max_body: u64,
}

/// That a route's answers are kept as far as the service allows it, and what is allowed beyond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachePolicy {
    /// Whether answers to callers who were identified are kept, and given to others.
    pub shared: bool,
    /// How long an answer is fresh whose service does not say; `None`: it is not kept.
    pub fresh: Option<Duration>,
    /// How long a stale answer is still given while a fresh one is fetched, where the service does not
    /// say.
    pub stale_while_revalidate: Duration,
    /// How long a stale answer is given in place of an error, where the service does not say.
    pub stale_if_error: Duration,
}
