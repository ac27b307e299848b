//! A pooler's client as it comes from another process. Run by `make fuzz`.
//!
//! Invariant: whatever the bytes are, who is let through keeps the bounds of a client that logs in, and
//! arrives again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgpool::upgrade::parcel::read;

fuzz_target!(|bytes: &[u8]| {
    let Some(parcel) = read(bytes) else { return };
    assert!(parcel.is_lawful());
    let text = serde_json::to_vec(&parcel).expect("a parcel has a text");
    assert_eq!(read(&text), Some(parcel));
});
