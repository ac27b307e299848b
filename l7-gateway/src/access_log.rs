//! The access record and its way to the log: formatted once, into a bounded ring per worker, written
//! by one thread. Not for events that operators must hear: those are in `events`. Filled by the
//! stages through `Exchange`, written when the record is dropped, so also when a client has gone.
//!
//! Invariant: a worker never waits for the log; what does not fit is dropped and counted.

/// What one line will say.
#[derive(Debug, Default)]
pub struct Record {
    /// The verified user.
    pub user: Option<http::HeaderValue>,
}
