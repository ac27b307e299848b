//! Captures as strangers hand them to a replay: reading ends, faults have places in the file, and no datagram
//! is longer than a datagram can be. Run by `make fuzz`.
//!
//! Invariant: whatever the bytes, nothing is invented: payloads are parts of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../topology/cli/src/replay/capture/mod.rs"]
#[allow(dead_code, reason = "the tool uses more of it")]
mod capture;

fuzz_target!(|file: &[u8]| {
    let Ok(found) = capture::read(file) else { return };
    let length: usize = found.datagrams.iter().map(|datagram| datagram.payload.len()).sum();
    assert!(length <= file.len());
    for datagram in &found.datagrams {
        assert!(datagram.payload.len() <= datagram.length && datagram.length <= 1 << 18);
    }
    assert!(found.datagrams.is_sorted_by_key(|datagram| datagram.at));
    assert!(found.faults.iter().all(|fault| fault.offset <= file.len()));
});
