//! Recordings of requests as strangers hand them to a replay: HAR, lines of JSON, a web server's log, a list of
//! targets. Reading ends, what is broken has a place in the file, and what is used can be sent. Run by
//! `make fuzz`.
//!
//! Invariant: no secret of a recording is among what is sent again.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;

#[path = "../../topology/cli/src/replay/https/recording/mod.rs"]
#[allow(dead_code, reason = "the tool uses more of it")]
mod recording;

fuzz_target!(|file: &[u8]| {
    // Files that a list names are as hostile as the list.
    let body = |name: &str| match name.len() % 2 {
        0 => Ok(name.into()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let Ok(found) = recording::decode(file, &body) else { return };
    assert!(found.requests.is_sorted_by_key(|request| request.at));
    assert!(found.requests.first().is_none_or(|first| first.at == Duration::ZERO));
    for request in &found.requests {
        assert!(request.target.scheme().is_none() && request.target.authority().is_none());
        for secret in ["authorization", "proxy-authorization", "cookie", "host", "content-length"] {
            assert!(!request.headers.contains_key(secret));
        }
        assert!(request.expected.status.is_none_or(|status| (100..=599).contains(&status)));
    }
    let lines = 1 + file.iter().filter(|byte| **byte == b'\n').count();
    let mut last = None;
    for fault in &found.faults {
        let (place, _) = fault.split_once(": ").expect("a place");
        let (what, number) = place.split_once(' ').expect("a number");
        let number: usize = number.parse().expect("a number");
        match what {
            "line" => assert!((1..=lines).contains(&number)),
            _ => assert_eq!(what, "entry"),
        }
        assert!(last < Some(number), "one place, one fault, in the file's order");
        last = Some(number);
    }
});
