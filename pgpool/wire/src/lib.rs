//! PostgreSQL's wire protocol as far as a pooler must understand it: where messages begin and end,
//! and what is in the few that it has to look into. Not for I/O, not for a clock, not for deciding
//! anything: bytes in, values out. Called by `pgpool` on both of its sides and by tests.
//!
//! Invariant: no function here panics or allocates more than its input on any bytes, and none reads
//! past a declared length.
#![forbid(unsafe_code)]

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod fuzz;
mod read;
pub mod sasl;
pub mod sqlstate;
pub mod startup;

pub use frame::{Found, Frame, FrameError, Head};
pub use sqlstate::SqlState;

/// A message whose layout contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message} message: {fault}")]
pub struct Malformed {
    /// Which kind of message.
    pub message: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong inside a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The body ends before its last field.
    #[error("it ends too early")]
    Short,
    /// Bytes are left after its last field.
    #[error("it is longer than its fields")]
    Long,
    /// A text is not closed by a zero byte.
    #[error("a text in it has no end")]
    Unterminated,
    /// A text that must be UTF-8 is not.
    #[error("a text in it is not UTF-8")]
    Encoding,
    /// A field has a value that does not exist.
    #[error("a field in it has an unknown value")]
    Value,
}
