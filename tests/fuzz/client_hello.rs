//! TLS ClientHellos, from whoever connects to a listener with TLS routes: no bytes make the reader
//! panic, it never asks for more than its cap, and what it reads does not depend on what follows. Not
//! for routing. Run by `make fuzz`.
//!
//! Invariant: a name that was read is one that a pattern can match: short, lower case, no final dot.
#![no_main]

use l4_nlb::tcp::hello::{LONGEST, Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let hello = match parse(bytes) {
        Ok(Parsed::Hello(hello)) => hello,
        Ok(Parsed::Incomplete(wanted)) => {
            return assert!(wanted > bytes.len() && wanted <= LONGEST);
        }
        Err(_) => return,
    };
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"\x16\x03\x03\0\x01x");
    assert_eq!(parse(&more), Ok(Parsed::Hello(hello.clone())));
    if let Some(name) = &hello.name {
        assert!(!name.is_empty() && name.len() <= 253);
        assert!(!name.ends_with('.') && !name.contains(".."));
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
});
