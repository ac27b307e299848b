//! PROXY headers of both versions, from whoever connects: no bytes make the parser panic, and what
//! it takes for a header is one, whole. Not for who is believed. Run by `make fuzz`.
//!
//! Invariant: a header that was read is written and read again as the same.
#![no_main]

use std::net::IpAddr;

use common::net::proxy_protocol::{Addresses, Parsed, parse, v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let header = match parse(bytes) {
        Ok(Parsed::Header(header)) => header,
        Ok(Parsed::Incomplete(wanted)) => return assert!(wanted > bytes.len()),
        Err(_) => return,
    };
    assert!(header.length <= bytes.len());
    let cut = parse(&bytes[..header.length - 1]);
    assert!(!matches!(cut, Ok(Parsed::Header(_))), "a header has one end");
    // A UNKNOWN or LOCAL header may carry anything; only what names a client is passed on.
    let Some(addresses) = header.addresses else { return };
    let mut again = Vec::new();
    v2(Some(addresses), &header.tlvs, &mut again);
    let Ok(Parsed::Header(second)) = parse(&again) else { panic!("cannot read {again:?}") };
    assert_eq!(second.addresses.map(plain), Some(plain(addresses)));
    assert_eq!(second.tlvs, header.tlvs);
});

/// IPv4 written as IPv6 is the same address.
fn plain(both: Addresses) -> [(IpAddr, u16); 2] {
    [both.source, both.destination].map(|at| (at.ip().to_canonical(), at.port()))
}
