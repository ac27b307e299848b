//! Programs of the operator's that see requests and answers on their way, resolved. Not for asking them: the gateway
//! does. Read by stages 7 and 9.
//!
//! Invariant: none beyond the model's.

use std::time::Duration;

use crate::gateway::Unplaced;
use crate::identity::UnansweredIs;
use crate::units::At;

/// Somebody who is told of each request, and may change it or answer in its service's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// `http(s)://HOST[:PORT]/PATH`.
    pub url: At<String>,
    /// How long an answer may take (default 200 ms).
    pub timeout: Duration,
    /// What happens where there is none.
    pub when_away: UnansweredIs,
    /// Headers that it is told, lower case; `None`: all but those that prove who somebody is.
    pub headers: Option<Vec<String>>,
    /// Most bytes of a request's body that it is told and may change; `None`: it is told none.
    pub body: Option<u64>,
    /// Whether it is told of answers too (default false).
    pub answers: bool,
    /// The same as `body` of an answer.
    pub answer_body: Option<u64>,
}

impl Unplaced for External {
    fn unplaced(&self) -> Self {
        Self { url: self.url.unplaced(), ..self.clone() }
    }
}
