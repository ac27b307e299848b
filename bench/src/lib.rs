//! Side by side with rivals: each figure is a ratio from one run, in turns, with its spread. Not a
//! test: nothing here fails because a machine is slow. Called by the programs in `bin/`.
//!
//! Invariant: only processes that were started here are measured and ended.
#![forbid(unsafe_code)]

pub mod discovery;
pub mod figures;
pub mod goals;
pub mod l4;
pub mod l7;
pub mod pg;
pub mod process;
pub mod replay;
pub mod report;
pub mod strace;

use std::io::{IsTerminal as _, Write as _};

/// Says what goes on, on one line of the terminal that is written over, or nothing when nobody
/// watches.
pub fn progress(what: &str) {
    let mut error = std::io::stderr().lock();
    if error.is_terminal() {
        let _ = write!(error, "\r\x1b[2K{what}");
        let _ = error.flush();
    }
}
