//! Descriptions that requests are held against, resolved. Not for reading them: the gateway does. Read by stage 7.
//!
//! Invariant: none beyond the model's.

use std::path::PathBuf;

use crate::answers::Attached;
use crate::units::Place;

/// What requests must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contract {
    /// An OpenAPI 3 description.
    pub file: PathBuf,
    /// What stands before its paths; `None`: what its first server says.
    pub prefix: Option<String>,
    /// Most bytes of a body that is read (default 1 MiB).
    pub most: u64,
    /// Whose it is: a route may have the listener's.
    pub by: Attached,
    /// Where its key stands.
    pub place: Place,
}
