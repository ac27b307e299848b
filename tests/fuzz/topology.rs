//! Topology files, as an operator or a tool may write them: no text makes the reader panic or run
//! away. Not for what a file means. Run by `make fuzz`.
//!
//! Invariant: every text is either a topology or a list of problems that is not empty.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = topology::parse("fuzz.yaml", text, Path::new("/")) {
        assert!(!problems.to_string().is_empty());
    }
});
