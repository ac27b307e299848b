//! The command line of `replay`.

use clap::{CommandFactory, Parser};

use super::Args;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn a_bad_bound_is_refused_with_what_is_known() {
    let line = ["replay", "udp", "--target", "127.0.0.1:1", "--slo", "p98=3ms"];
    let error = Args::try_parse_from(line).unwrap_err().to_string();
    assert!(error.contains("p99.9"), "{error}");
}
